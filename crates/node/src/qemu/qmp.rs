//! A client of QEMU's machine protocol: one JSON object a line over a unix socket.
//!
//! A reader task sorts what arrives into answers and events. Commands go one at a time, as the
//! one task that owns the machine sends them. Only events that the state machine acts on are kept,
//! so a guest cannot fill our memory with the others. What cannot be parsed is logged and skipped.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Longest line taken; QEMU's own limit for commands is 64 MiB. Of its answers to ours the statistics
/// of 28 disks are the longest.
const LONGEST_LINE: u64 = 8 << 20;

/// How long QEMU may take to answer a command.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        description: String,
    },
    /// The connection ended, or never spoke the protocol.
    #[error("the connection to QEMU's monitor ended")]
    Closed,
    /// No answer in time.
    #[error("QEMU did not answer {0} in time")]
    Silent(String),
    /// Sending failed.
    #[error("sending to QEMU's monitor failed")]
    Io(#[source] io::Error),
}

/// What the state machine is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The machine is off, or QEMU is about to end. `guest` says who wanted it.
    Shutdown {
        /// The guest itself, rather than QMP or a signal.
        guest: bool,
        /// QEMU's reason, such as `guest-shutdown`, `host-qmp-quit`, `host-signal`.
        reason: String,
    },
    /// The machine was reset and runs on.
    Reset,
    /// The machine is paused because a disk is full.
    NoSpace {
        /// Block node or device.
        device: String,
    },
    /// A guest's request failed, and the guest was told.
    IoError {
        /// Block node.
        node: String,
        /// Rather than another error of the host's disk.
        no_space: bool,
        /// Rather than a read.
        write: bool,
    },
    /// The guest has let go of a device.
    DeviceDeleted {
        /// Its id.
        device: String,
    },
    /// A block job has ended and waits to be dismissed.
    JobEnded {
        /// Its id.
        job: String,
    },
}

/// A line from QEMU.
#[derive(Debug, PartialEq)]
enum Message {
    Greeting,
    Return { id: u64, value: Value },
    Refusal { id: u64, description: String },
    Event(Event),
    OtherEvent,
}

/// Reads one line; `None` if it is no message of the protocol.
fn parse(line: &[u8]) -> Option<Message> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let id = value.get("id").and_then(Value::as_u64);
    if value.get("QMP").is_some() {
        return Some(Message::Greeting);
    }
    if let Some(event) = value.get("event") {
        let known = parse_event(event.as_str()?, value.get("data").unwrap_or(&Value::Null));
        return Some(known.map_or(Message::OtherEvent, Message::Event));
    }
    if let Some(result) = value.get("return") {
        return Some(Message::Return { id: id?, value: result.clone() });
    }
    let description = value.get("error")?.get("desc")?.as_str()?.to_owned();
    Some(Message::Refusal { id: id?, description })
}

fn parse_event(name: &str, data: &Value) -> Option<Event> {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match name {
        "SHUTDOWN" => {
            let guest = data.get("guest").and_then(Value::as_bool).unwrap_or(false);
            Some(Event::Shutdown { guest, reason: text("reason") })
        }
        "RESET" => Some(Event::Reset),
        "BLOCK_IO_ERROR" => {
            let (node, device) = (text("node-name"), text("device"));
            let node = if node.is_empty() { device } else { node };
            let no_space = data.get("nospace").and_then(Value::as_bool) == Some(true);
            let write = text("operation") == "write";
            Some(match no_space && text("action") == "stop" {
                true => Event::NoSpace { device: node },
                false => Event::IoError { node, no_space, write },
            })
        }
        // Of what the device consists of is told too, without an id.
        "DEVICE_DELETED" if data.get("device").is_some() => {
            Some(Event::DeviceDeleted { device: text("device") })
        }
        "JOB_STATUS_CHANGE" if text("status") == "concluded" => {
            Some(Event::JobEnded { job: text("id") })
        }
        _ => None,
    }
}

/// A connection that has passed the protocol's handshake.
#[derive(Debug)]
pub(crate) struct Client {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<(u64, Result<Value, String>)>,
    events: mpsc::UnboundedReceiver<Event>,
    last_id: u64,
    answer_time: Duration,
}

impl Client {
    /// Shakes hands over `stream`.
    ///
    /// # Errors
    /// The other end is not a QEMU monitor, or is not free.
    pub(crate) async fn new(stream: UnixStream) -> Result<Self, Error> {
        Self::new_with(stream, ANSWER_TIME).await
    }

    /// [`Client::new`] with another time for each answer.
    ///
    /// # Errors
    /// As for [`Client::new`].
    pub(crate) async fn new_with(stream: UnixStream, answer_time: Duration) -> Result<Self, Error> {
        let (reader, writer) = stream.into_split();
        let (answer_sender, answers) = mpsc::channel(4);
        let (event_sender, events) = mpsc::unbounded_channel();
        tokio::spawn(read(reader, answer_sender, event_sender));
        let mut client = Client { writer, answers, events, last_id: 0, answer_time };
        client.execute("qmp_capabilities", json!({})).await?;
        Ok(client)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, Error> {
        self.last_id += 1;
        let line = line(command, &arguments, self.last_id);
        self.writer.write_all(line.as_bytes()).await.map_err(Error::Io)?;
        self.answer(command).await
    }

    /// The answer to the command that was sent last.
    async fn answer(&mut self, command: &str) -> Result<Value, Error> {
        let id = self.last_id;
        let answer = async {
            loop {
                match self.answers.recv().await {
                    // An older id answers a command that was given up.
                    Some((answered, _)) if answered != id => {}
                    Some((_, Ok(value))) => return Ok(value),
                    Some((_, Err(description))) => {
                        return Err(Error::Refused { command: command.to_owned(), description });
                    }
                    None => return Err(Error::Closed),
                }
            }
        };
        let answer = tokio::time::timeout(self.answer_time, answer).await;
        answer.unwrap_or_else(|_| Err(Error::Silent(command.to_owned())))
    }

    /// [`Client::execute`] with an open file beside it.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn pass(
        &mut self,
        command: &str,
        arguments: Value,
        file: BorrowedFd<'_>,
    ) -> Result<Value, Error> {
        self.last_id += 1;
        let line = line(command, &arguments, self.last_id);
        let stream: &UnixStream = self.writer.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            let files = [file];
            beside.push(SendAncillaryMessage::ScmRights(&files));
            let bytes = [IoSlice::new(line.as_bytes())];
            Ok(sendmsg(stream, &bytes, &mut beside, SendFlags::NOSIGNAL)?)
        });
        let sent = sent.await.map_err(Error::Io)?;
        let rest = line.as_bytes().get(sent..).unwrap_or_default();
        self.writer.write_all(rest).await.map_err(Error::Io)?;
        self.answer(command).await
    }

    /// The next event; `None` when the connection has ended. Cancellation safe.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

fn line(command: &str, arguments: &Value, id: u64) -> String {
    let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
    line.push('\n');
    line
}

async fn read(
    reader: OwnedReadHalf,
    answers: mpsc::Sender<(u64, Result<Value, String>)>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut reader = BufReader::with_capacity(2048, reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let delivered = match parse(&line) {
            Some(Message::Greeting | Message::OtherEvent) => true,
            Some(Message::Event(event)) => events.send(event).is_ok(),
            Some(Message::Return { id, value }) => answers.send((id, Ok(value))).await.is_ok(),
            Some(Message::Refusal { id, description }) => {
                answers.send((id, Err(description))).await.is_ok()
            }
            None => {
                tracing::debug!(bytes = line.len(), "skipped a line that is not QMP");
                true
            }
        };
        if !delivered {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        assert_eq!(parse(br#"{"QMP":{"version":{}}}"#), Some(Message::Greeting));
        assert_eq!(
            parse(br#"{"return":{"a":1},"id":7}"#),
            Some(Message::Return { id: 7, value: json!({"a": 1}) })
        );
        assert_eq!(
            parse(br#"{"error":{"class":"X","desc":"no"},"id":8}"#),
            Some(Message::Refusal { id: 8, description: "no".to_owned() })
        );
        let off = br#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"},"timestamp":{}}"#;
        assert_eq!(
            parse(off),
            Some(Message::Event(Event::Shutdown {
                guest: true,
                reason: "guest-shutdown".to_owned()
            }))
        );
        let full = br#"{"event":"BLOCK_IO_ERROR","data":{"device":"","node-name":"vol0","nospace":true,"action":"stop"}}"#;
        assert_eq!(parse(full), Some(Message::Event(Event::NoSpace { device: "vol0".to_owned() })));
        let failed = br#"{"event":"BLOCK_IO_ERROR","data":{"device":"","node-name":"n","nospace":false,"operation":"write","action":"report"}}"#;
        let node = "n".to_owned();
        assert_eq!(
            parse(failed),
            Some(Message::Event(Event::IoError { node, no_space: false, write: true }))
        );
        let part = br#"{"event":"DEVICE_DELETED","data":{"path":"/machine/peripheral/x/y"}}"#;
        assert_eq!(parse(part), Some(Message::OtherEvent));
        let job = br#"{"event":"JOB_STATUS_CHANGE","data":{"status":"concluded","id":"j"}}"#;
        let ended = Event::JobEnded { job: "j".to_owned() };
        assert_eq!(parse(job), Some(Message::Event(ended)));
        for bad in [&b""[..], b"{", b"[]", b"{}", b"1", br#"{"return":{}}"#, br#"{"event":3}"#] {
            assert_eq!(parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_object_panics(key in "QMP|event|return|error|id|data", text in ".{0,20}", number: u64) {
            for value in [json!(text), json!(number), json!({"desc": text}), json!([number])] {
                let _ = parse(json!({ key.as_str(): value, "id": number }).to_string().as_bytes());
            }
        }
    }

    #[tokio::test]
    async fn a_conversation() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qemu = tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(b"{\"QMP\":{}}\r\nnot json\n").await.unwrap();
            for answer in [
                "{\"return\":{},\"id\":1}\n".to_owned(),
                "{\"event\":\"RESET\"}\n{\"return\":{},\"id\":1}\n{\"return\":5,\"id\":2}\n"
                    .to_owned(),
                "{\"error\":{\"desc\":\"never\"},\"id\":3}\n".to_owned(),
            ] {
                lines.next_line().await.unwrap().unwrap();
                writer.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut client = Client::new(ours).await.unwrap();
        assert_eq!(client.execute("query-x", json!({})).await.unwrap(), json!(5));
        assert!(matches!(
            client.execute("bad", json!({})).await,
            Err(Error::Refused { description, .. }) if description == "never"
        ));
        assert_eq!(client.event().await, Some(Event::Reset));
        qemu.await.unwrap();
        assert_eq!(client.event().await, None);
        assert!(client.execute("late", json!({})).await.is_err());
    }
}
