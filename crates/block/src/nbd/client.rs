//! Reads an export that another process serves, many requests at once.
//!
//! One task reads the server's replies and gives each to whoever waits for it; requests are written
//! by their callers. A request whose caller has gone is still received and thrown away. When the
//! connection breaks, every request that waits, and every later one, fails with the same reason.

use super::Error;
use super::protocol::{
    self, CHUNK_BYTES, Chunk, ContextRequest, Descriptor, Info, InfoRequest, MAX_DESCRIPTORS,
    MAX_REQUEST, MAX_STRING, Malformed, ReplyHead, Request, SIMPLE_REPLY_BYTES, chunk, command,
    option, reply, transmission,
};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Most requests in flight.
const IN_FLIGHT: usize = 16;

/// One connection to an NBD server. All methods may be called at the same time.
#[derive(Debug)]
pub struct Client {
    size: u64,
    read_only: bool,
    largest: u32,
    contexts: Vec<(u32, String)>,
    places: Arc<Semaphore>,
    requests: mpsc::UnboundedSender<Request>,
    shared: Arc<Mutex<Shared>>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

/// Some bytes that are alike in one metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where they begin, bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// [`protocol::STATE_HOLE`] and [`protocol::STATE_ZERO`] of [`protocol::BASE_ALLOCATION`]; the
    /// layer, from 1 on, of [`protocol::ALLOCATION_DEPTH`].
    pub flags: u32,
}

/// What the receiving task and the callers share.
#[derive(Debug, Default)]
struct Shared {
    next_cookie: u64,
    waiting: HashMap<u64, Waiting>,
    /// Why the connection is no more.
    broken: Option<String>,
}

/// A request that has no whole reply yet.
#[derive(Debug)]
struct Waiting {
    reply: Reply,
    failed: Option<Error>,
    answer: oneshot::Sender<Result<Reply, Error>>,
    /// Held until the reply has come, even when nobody waits any more.
    _place: OwnedSemaphorePermit,
}

/// A reply as far as it has come.
#[derive(Debug)]
enum Reply {
    Read(Assembly),
    Status { length: u32, contexts: Vec<(u32, Vec<Descriptor>)> },
}

/// The pieces of a read, which come in any order.
#[derive(Debug)]
struct Assembly {
    offset: u64,
    data: Vec<u8>,
    /// Ranges of `data` that have come, in order, none touching another.
    covered: Vec<(usize, usize)>,
}

impl Assembly {
    fn new(offset: u64, length: u32) -> Self {
        Assembly { offset, data: vec![0; length as usize], covered: Vec::new() }
    }

    /// Where a piece belongs. It is counted as come.
    fn place(&mut self, offset: u64, length: u64) -> Result<&mut [u8], Malformed> {
        let outside = Malformed("a chunk lies outside of what was asked for");
        let begin = offset.checked_sub(self.offset).ok_or(outside.clone())?;
        let end = begin.checked_add(length).ok_or(outside.clone())?;
        if length == 0 || end > self.data.len() as u64 {
            return Err(outside);
        }
        let (begin, end) = (begin as usize, end as usize);
        let after = self.covered.partition_point(|range| range.1 < begin);
        // The range that touches or follows this one, and the next.
        let overlaps = |range: &(usize, usize)| range.0 < end && begin < range.1;
        if self.covered[after..].iter().take(2).any(overlaps) {
            return Err(Malformed("two chunks overlap"));
        }
        let joins_before = self.covered.get(after).is_some_and(|range| range.1 == begin);
        let next = after + usize::from(joins_before);
        let joins_after = self.covered.get(next).is_some_and(|range| range.0 == end);
        match (joins_before, joins_after) {
            (true, true) => {
                self.covered[after].1 = self.covered[next].1;
                self.covered.remove(next);
            }
            (true, false) => self.covered[after].1 = end,
            (false, true) => self.covered[next].0 = begin,
            (false, false) => self.covered.insert(after, (begin, end)),
        }
        Ok(&mut self.data[begin..end])
    }

    fn is_whole(&self) -> bool {
        self.covered == [(0, self.data.len())]
    }
}

impl Client {
    /// Connects to the export `name` (empty: the default one) and selects metadata `contexts`.
    ///
    /// # Errors
    /// Nobody listens, or the server has no such export, no structured replies or not all of the
    /// contexts.
    pub async fn connect(socket: &Path, name: &str, contexts: &[&str]) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).await?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let agreed = handshake(&mut reader, &mut writer, name, contexts).await?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        // Not bounded here: there are never more than the places in flight.
        let (requests, to_send) = mpsc::unbounded_channel();
        let sender = tokio::spawn(send(writer, to_send));
        let receiver = tokio::spawn(receive(reader, Arc::clone(&shared)));
        Ok(Client {
            size: agreed.size,
            read_only: agreed.flags & transmission::READ_ONLY != 0,
            largest: agreed.largest,
            contexts: agreed.contexts,
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            requests,
            shared,
            sender,
            receiver,
        })
    }

    /// Size of the export, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the server refuses writes.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The largest read that the server takes, bytes.
    pub fn largest_read(&self) -> u32 {
        self.largest
    }

    /// Reads `length` bytes at `offset`. Waits while too many requests are in flight.
    ///
    /// # Errors
    /// See [`Error`]; what is answered with an error is read not at all.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
        self.check(offset, length.into(), self.largest)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let reply = Reply::Read(Assembly::new(offset, length));
        match self.ask(command::READ, offset, length, reply).await? {
            Reply::Read(assembly) => Ok(assembly.data),
            Reply::Status { .. } => Err(Malformed("a read is answered by a status").into()),
        }
    }

    /// What the metadata context `context` says of the `length` bytes at `offset`, in order and
    /// without gaps; bytes with equal flags that touch are one. Asks the server as often as it needs.
    ///
    /// # Errors
    /// See [`Error`]. The context was not selected.
    pub async fn status(
        &self,
        context: &str,
        offset: u64,
        length: u64,
    ) -> Result<Vec<Status>, Error> {
        self.check(offset, length, u64::MAX)?;
        let id = self.contexts.iter().find(|(_, name)| name == context).map(|(id, _)| *id);
        let id = id.ok_or_else(|| Error::Refused {
            what: "a metadata context",
            message: format!("{context} was not selected"),
        })?;
        let end = offset + length;
        let mut at = offset;
        let mut found: Vec<Status> = Vec::new();
        while at < end {
            // A multiple of every block size, so that the next question is aligned too.
            let asked = (end - at).min(1 << 31) as u32;
            let reply = Reply::Status { length: asked, contexts: Vec::new() };
            let reply = self.ask(command::BLOCK_STATUS, at, asked, reply).await?;
            let Reply::Status { contexts, .. } = reply else {
                return Err(Malformed("a status is answered by data").into());
            };
            let of_context = contexts.into_iter().find(|(known, _)| *known == id);
            let (_, descriptors) =
                of_context.ok_or(Malformed("a selected context is not answered"))?;
            for Descriptor { length, flags } in descriptors {
                // The last may reach beyond what was asked for.
                let length = u64::from(length).min(end - at);
                match found.last_mut() {
                    _ if length == 0 => break,
                    Some(last) if last.flags == flags => last.length += length,
                    _ => found.push(Status { offset: at, length, flags }),
                }
                at += length;
            }
        }
        Ok(found)
    }

    /// Takes leave. Requests in flight fail.
    pub async fn close(self) {
        let leave =
            Request { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, length: 0 };
        // A server that is gone needs no leave.
        if self.requests.send(leave).is_ok() {
            self.requests.closed().await;
        }
    }

    fn check(&self, offset: u64, length: u64, most: impl Into<u64>) -> Result<(), Error> {
        let within = offset.checked_add(length).is_some_and(|end| end <= self.size);
        if within && length <= most.into() {
            Ok(())
        } else {
            Err(Error::OutOfRange { offset, length, size: self.size })
        }
    }

    async fn ask(
        &self,
        command: u16,
        offset: u64,
        length: u32,
        reply: Reply,
    ) -> Result<Reply, Error> {
        let broken = || closed("the NBD connection is closed");
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| broken())?;
        let (answer, answered) = oneshot::channel();
        {
            let mut shared = lock(&self.shared);
            if let Some(reason) = &shared.broken {
                return Err(closed(reason));
            }
            shared.next_cookie += 1;
            let cookie = shared.next_cookie;
            shared.waiting.insert(cookie, Waiting { reply, failed: None, answer, _place: place });
            // By another task: a caller who goes away must not leave half a request behind.
            let request = Request { flags: 0, command, cookie, offset, length };
            self.requests.send(request).map_err(|_| broken())?;
        }
        answered.await.unwrap_or_else(|_| Err(broken()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.sender.abort();
        self.receiver.abort();
    }
}

fn closed(reason: &str) -> Error {
    Error::Io(io::Error::new(io::ErrorKind::ConnectionAborted, reason.to_owned()))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the handshake found out.
#[derive(Debug)]
struct Agreed {
    size: u64,
    flags: u16,
    largest: u32,
    contexts: Vec<(u32, String)>,
}

/// The client's half of the handshake.
async fn handshake(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    name: &str,
    contexts: &[&str],
) -> Result<Agreed, Error> {
    let mut greeting = [0; 18];
    reader.read_exact(&mut greeting).await?;
    let flags = protocol::decode_greeting(&greeting)?;
    if flags & protocol::FIXED_NEWSTYLE == 0 {
        return Err(Malformed("the server does not speak fixed newstyle").into());
    }
    let flags = flags & (protocol::FIXED_NEWSTYLE | protocol::NO_ZEROES);
    writer.write_all(&u32::from(flags).to_be_bytes()).await?;

    let mut ask = async |number: u32, what, data: &[u8]| {
        let mut bytes = Vec::new();
        protocol::encode_option(number, data, &mut bytes);
        writer.write_all(&bytes).await?;
        option_replies(reader, number, what).await
    };
    ask(option::STRUCTURED_REPLY, "structured replies", &[]).await?;
    let mut selected = Vec::new();
    if !contexts.is_empty() {
        let request = ContextRequest { name, queries: contexts.to_vec() }.encode();
        for (kind, data) in ask(option::SET_META_CONTEXT, "metadata contexts", &request).await? {
            if kind == reply::META_CONTEXT {
                let (id, name) = protocol::decode_context(&data)?;
                selected.push((id, name.to_owned()));
            }
        }
        for context in contexts {
            if !selected.iter().any(|(_, name)| name == context) {
                let message = format!("it has no {context}");
                return Err(Error::Refused { what: "a metadata context", message });
            }
        }
    }
    let request = InfoRequest { name, wanted: vec![protocol::info::BLOCK_SIZE] }.encode();
    let mut export = None;
    let mut largest = MAX_REQUEST;
    for (kind, data) in ask(option::GO, "the export", &request).await? {
        if kind != reply::INFO {
            continue;
        }
        match protocol::decode_info(&data)? {
            Info::Export { size, flags } => export = Some((size, flags)),
            Info::BlockSize { largest: most, .. } => largest = most.min(MAX_REQUEST),
            Info::Other => {}
        }
    }
    let (size, flags) = export.ok_or(Malformed("the server does not tell the export's size"))?;
    Ok(Agreed { size, flags, largest, contexts: selected })
}

/// All replies to one option but the last, which acknowledges.
async fn option_replies(
    reader: &mut (impl AsyncRead + Unpin),
    option: u32,
    what: &'static str,
) -> Result<Vec<(u32, Vec<u8>)>, Error> {
    const MOST: usize = 64;
    let mut replies = Vec::new();
    loop {
        let mut head = [0; 20];
        reader.read_exact(&mut head).await?;
        let (of, kind, length) = protocol::decode_option_reply(&head)?;
        if of != option {
            return Err(Malformed("a reply is to another option").into());
        }
        let mut data = vec![0; length as usize];
        reader.read_exact(&mut data).await?;
        if kind & reply::ERROR != 0 {
            let words = String::from_utf8_lossy(&data);
            let message = if words.is_empty() { format!("reply {kind:#x}") } else { words.into() };
            return Err(Error::Refused { what, message });
        }
        if kind == reply::ACK {
            return Ok(replies);
        }
        if replies.len() == MOST {
            return Err(Malformed("the server does not stop to reply to an option").into());
        }
        replies.push((kind, data));
    }
}

/// Sends requests until one takes leave or the connection breaks; the receiver tells why.
async fn send(mut writer: OwnedWriteHalf, mut requests: mpsc::UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        let sent = writer.write_all(&request.encode()).await;
        if sent.is_err() || request.command == command::DISCONNECT {
            break;
        }
    }
}

/// Receives replies until the connection ends, then fails what still waits.
async fn receive(mut reader: BufReader<OwnedReadHalf>, shared: Arc<Mutex<Shared>>) {
    let reason = match replies(&mut reader, &shared).await {
        Ok(never) => match never {},
        Err(error) => error.to_string(),
    };
    let mut shared = lock(&shared);
    for (_, waiting) in shared.waiting.drain() {
        let _ = waiting.answer.send(Err(closed(&reason)));
    }
    shared.broken = Some(reason);
}

/// A value that cannot be.
#[derive(Debug)]
enum Never {}

async fn replies(
    reader: &mut (impl AsyncRead + Unpin),
    shared: &Mutex<Shared>,
) -> Result<Never, Error> {
    let unknown = Malformed("a reply is to no request");
    loop {
        let mut head = [0; SIMPLE_REPLY_BYTES];
        reader.read_exact(&mut head).await?;
        match protocol::decode_reply_head(&head)? {
            ReplyHead::Simple { error: 0, .. } => {
                // Neither a read nor a status may succeed without data.
                return Err(Malformed("a simple reply where a structured one was agreed").into());
            }
            ReplyHead::Simple { error, cookie } => {
                let waiting = lock(shared).waiting.remove(&cookie).ok_or(unknown.clone())?;
                let failed = Error::Failed { code: error, message: String::new() };
                let _ = waiting.answer.send(Err(failed));
            }
            ReplyHead::Chunk(mut head) => {
                const _: () = assert!(CHUNK_BYTES == SIMPLE_REPLY_BYTES + 4);
                head.length = reader.read_u32().await?;
                // Taken out, so that nothing is locked while its payload comes.
                let taken = lock(shared).waiting.remove(&head.cookie);
                let mut waiting = taken.ok_or(unknown.clone())?;
                let received = payload(reader, &head, &mut waiting).await;
                if let Err(error) = received {
                    let _ = waiting.answer.send(Err(closed(&error.to_string())));
                    return Err(error);
                }
                if head.flags & chunk::FLAG_DONE == 0 {
                    lock(shared).waiting.insert(head.cookie, waiting);
                    continue;
                }
                let Waiting { reply, failed, answer, .. } = waiting;
                let whole = match &reply {
                    Reply::Read(assembly) => assembly.is_whole(),
                    Reply::Status { contexts, .. } => !contexts.is_empty(),
                };
                let result = match failed {
                    Some(error) => Err(error),
                    None if whole => Ok(reply),
                    None => return Err(Malformed("a reply ends before it is whole").into()),
                };
                let _ = answer.send(result);
            }
        }
    }
}

/// Reads a chunk's payload into the reply that it belongs to.
async fn payload(
    reader: &mut (impl AsyncRead + Unpin),
    head: &Chunk,
    waiting: &mut Waiting,
) -> Result<(), Error> {
    let length = head.length;
    let unfit = Malformed("a chunk does not fit its request");
    match (head.kind, &mut waiting.reply) {
        (chunk::NONE, _) if length == 0 && head.flags & chunk::FLAG_DONE != 0 => {}
        (chunk::OFFSET_DATA, Reply::Read(assembly)) => {
            let data = length.checked_sub(8).ok_or(unfit)?;
            let offset = reader.read_u64().await?;
            reader.read_exact(assembly.place(offset, data.into())?).await?;
        }
        (chunk::OFFSET_HOLE, Reply::Read(assembly)) if length == 12 => {
            let (offset, hole) = (reader.read_u64().await?, reader.read_u32().await?);
            // It is zeros already.
            assembly.place(offset, hole.into())?;
        }
        (chunk::BLOCK_STATUS, Reply::Status { length: asked, contexts }) => {
            if length as usize > 4 + MAX_DESCRIPTORS * 8 {
                return Err(Malformed("a block status is too long").into());
            }
            let mut data = vec![0; length as usize];
            reader.read_exact(&mut data).await?;
            let (context, descriptors) = protocol::decode_block_status(&data)?;
            let twice = contexts.iter().any(|(known, _)| *known == context);
            let before_last = &descriptors[..descriptors.len() - 1];
            let told: u64 = before_last.iter().map(|one| u64::from(one.length)).sum();
            if twice || told >= u64::from(*asked) || contexts.len() == 16 {
                return Err(unfit.into());
            }
            contexts.push((context, descriptors));
        }
        (kind, _) if kind & chunk::ERROR_BIT != 0 => {
            if length as usize > MAX_STRING + 64 {
                return Err(Malformed("an error is too long").into());
            }
            let mut data = vec![0; length as usize];
            reader.read_exact(&mut data).await?;
            let (code, message) = protocol::decode_error(&data)?;
            waiting.failed.get_or_insert(Error::Failed { code, message });
        }
        _ => return Err(unfit.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_whole_once(
            cuts in proptest::collection::btree_set(1_usize..100, 0..12), seed: u64,
        ) {
            let mut pieces = Vec::new();
            let mut begin = 0;
            for end in cuts.into_iter().chain([100]) {
                pieces.push((begin, end));
                begin = end;
            }
            let mut rng = fastrand::Rng::with_seed(seed);
            rng.shuffle(&mut pieces);
            let mut assembly = Assembly::new(1000, 100);
            for (done, &(begin, end)) in pieces.iter().enumerate() {
                prop_assert!(!assembly.is_whole());
                let place = assembly.place(1000 + begin as u64, (end - begin) as u64).unwrap();
                place.fill(done as u8 + 1);
                let again = rng.usize(begin..end) as u64;
                prop_assert!(assembly.place(1000 + again, 1).is_err(), "covered twice");
            }
            prop_assert!(assembly.is_whole());
            for (done, &(begin, end)) in pieces.iter().enumerate() {
                prop_assert!(assembly.data[begin..end].iter().all(|byte| *byte == done as u8 + 1));
            }
        }

        #[test]
        fn no_piece_lies_outside(offset: u64, length: u64) {
            let mut assembly = Assembly::new(1000, 100);
            let inside = offset >= 1000 && length > 0
                && offset.checked_add(length).is_some_and(|end| end <= 1100);
            prop_assert_eq!(assembly.place(offset, length).is_ok(), inside);
        }

        #[test]
        fn no_server_makes_the_client_panic(
            tail in proptest::collection::vec(0_u8..20, 0..200), honest: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut bytes = protocol::encode_greeting(3).to_vec();
            if honest {
                for option in [option::STRUCTURED_REPLY, option::GO] {
                    protocol::encode_option_reply(option, reply::ACK, &[], &mut bytes);
                }
            }
            bytes.extend_from_slice(&tail);
            let agreed = runtime.block_on(handshake(&mut &bytes[..], &mut Vec::new(), "", &[]));
            prop_assert!(agreed.is_err());
        }

        #[test]
        fn no_reply_makes_the_receiver_panic_or_fills_what_was_not_asked(
            chunks in proptest::collection::vec(
                (0_u16..2, prop_oneof![0_u16..7, Just(chunk::ERROR)], 1_u64..4,
                 proptest::collection::vec(0_u8..4, 0..40)),
                0..6),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut bytes = Vec::new();
            for (flags, kind, cookie, payload) in chunks {
                Chunk { flags, kind, cookie, length: payload.len() as u32 }.encode(&mut bytes);
                bytes.extend_from_slice(&payload);
            }
            let places = Arc::new(Semaphore::new(2));
            let shared = Mutex::new(Shared::default());
            let mut answers = Vec::new();
            for cookie in 1..3 {
                let (answer, answered) = oneshot::channel();
                let place = Arc::clone(&places).try_acquire_owned().unwrap();
                let reply = if cookie == 1 {
                    Reply::Read(Assembly::new(0, 16))
                } else {
                    Reply::Status { length: 16, contexts: Vec::new() }
                };
                let waiting = Waiting { reply, failed: None, answer, _place: place };
                lock(&shared).waiting.insert(cookie, waiting);
                answers.push(answered);
            }
            let ended = runtime.block_on(replies(&mut &bytes[..], &shared));
            prop_assert!(ended.is_err());
            for mut answer in answers {
                if let Ok(Ok(Reply::Read(assembly))) = answer.try_recv() {
                    prop_assert!(assembly.is_whole());
                }
            }
        }
    }
}
