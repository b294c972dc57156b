//! Serves one read-only export on a unix socket.
//!
//! Each connection is one task that reads requests. What the export has in memory is answered by
//! that task, several answers in one system call when several requests have come; what it has to
//! fetch is read on a blocking thread and answered when it is there, so that one slow read holds up
//! no other. A connection has a budget for what it reads at once; when it is spent, no request is
//! taken from the socket until an answer has been sent, so a client that does not read its answers
//! stops only itself. What breaks the protocol loses its connection.

use super::Error;
use super::protocol::{
    self, BASE_ALLOCATION, Chunk, Descriptor, Handshake, MAX_REQUEST, Malformed, Next,
    REQUEST_BYTES, Request, STATE_HOLE, STATE_ZERO, chunk, command, errno,
};
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// Most connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for its handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// What a connection may be reading at once, in units of [`BUDGET_UNIT`]: 64 MiB, 1024 requests.
const BUDGET_UNITS: u32 = 1024;
const BUDGET_UNIT: u32 = 64 << 10;
/// Most answers that are sent together.
const BATCH: usize = 32;
/// Zeros for clients that know no holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is served. Its content never changes.
pub trait Export: Send + Sync + 'static {
    /// Bytes.
    fn size(&self) -> u64;

    /// The `length` bytes at `offset`, in order, if they can be had without waiting.
    fn read_now(&self, offset: u64, length: u32) -> Option<Vec<Piece>> {
        let _ = (offset, length);
        None
    }

    /// The `length` bytes at `offset`, in order. May block. The range lies within the export.
    ///
    /// # Errors
    /// They cannot be read, or are not what they should be. The client sees EIO.
    fn read(&self, offset: u64, length: u32) -> io::Result<Vec<Piece>>;

    /// What is known of the `length` bytes at `offset` without reading them, in order. May block, and
    /// may stop early, but tells of one byte at least.
    ///
    /// # Errors
    /// It cannot be found out. The client sees EIO.
    fn extents(&self, offset: u64, length: u32) -> io::Result<Vec<Extent>>;
}

/// Bytes of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many zeros.
    Zeros(u32),
    /// These.
    Data(Bytes),
}

impl Piece {
    fn length(&self) -> u32 {
        match self {
            Piece::Zeros(length) => *length,
            Piece::Data(data) => data.len() as u32,
        }
    }
}

/// Bytes that are all zeros, or that are not known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u32,
    /// They are nowhere stored and read as zeros.
    pub zeros: bool,
}

/// Serves `export` to all who connect, until it is dropped.
pub async fn serve(listener: UnixListener, export: Arc<dyn Export>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let export = Arc::clone(&export);
                connections.spawn(async move {
                    let _place = place;
                    match connection(stream, export).await {
                        Ok(()) => {}
                        // A client that is killed says nothing.
                        Err(Error::Io(error)) => tracing::debug!(%error, "an NBD client is gone"),
                        Err(error) => tracing::warn!("{error}"),
                    }
                });
            }
            Err(error) => {
                // No descriptors left, most likely: those who have a connection go on.
                tracing::warn!(%error, "an NBD client is not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One client from its greeting to its end.
async fn connection(stream: UnixStream, export: Arc<dyn Export>) -> Result<(), Error> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(16 << 10, reader);
    let size = export.size();
    let handshake =
        tokio::time::timeout(HANDSHAKE_PATIENCE, handshake(&mut reader, &mut writer, size));
    let agreed = match handshake.await {
        Ok(agreed) => agreed?,
        Err(_) => return Err(Malformed("the client does not finish its handshake").into()),
    };
    match agreed {
        Some(agreed) => {
            let answers = Arc::new(Answers { writer: Mutex::new(writer), agreed });
            requests(reader, answers, export).await
        }
        None => Ok(()),
    }
}

/// The server's half of the handshake; `None` if the client ended it.
async fn handshake(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    size: u64,
) -> Result<Option<Handshake>, Error> {
    let flags = protocol::FIXED_NEWSTYLE | protocol::NO_ZEROES;
    writer.write_all(&protocol::encode_greeting(flags)).await?;
    let mut handshake = Handshake::new(size, reader.read_u32().await?)?;
    loop {
        let mut head = [0; 16];
        reader.read_exact(&mut head).await?;
        let (option, length) = protocol::decode_option(&head)?;
        let mut data = vec![0; length as usize];
        reader.read_exact(&mut data).await?;
        let mut answer = Vec::new();
        let next = handshake.answer(option, &data, &mut answer);
        writer.write_all(&answer).await?;
        match next {
            Next::Option => {}
            Next::Transmission => return Ok(Some(handshake)),
            Next::Close => return Ok(None),
        }
    }
}

/// Takes requests until the client leaves.
async fn requests(
    mut reader: BufReader<OwnedReadHalf>,
    answers: Arc<Answers>,
    export: Arc<dyn Export>,
) -> Result<(), Error> {
    let budget = Arc::new(Semaphore::new(BUDGET_UNITS as usize));
    // Dropped with the connection: what nobody waits for any more is not sent.
    let mut reads = tokio::task::JoinSet::new();
    let mut ready = Batch::default();
    loop {
        if reader.buffer().len() < REQUEST_BYTES || ready.answers >= BATCH {
            answers.send(&mut ready).await?;
        }
        let mut head = [0; REQUEST_BYTES];
        match reader.read_exact(&mut head).await {
            // A client may leave without a word between two requests.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let request = Request::decode(&head)?;
        let error = match plan(&request, export.size(), &answers.agreed) {
            Plan::Leave => return finish(reads, &answers, ready).await,
            Plan::Malformed(error) => return Err(error.into()),
            Plan::Nothing => {
                answers.nothing(&request, &mut ready);
                continue;
            }
            Plan::Refuse { error, skip } => {
                if skip > 0 {
                    answers.send(&mut ready).await?;
                    let skipped = (&mut reader).take(skip.into());
                    tokio::io::copy_buf(&mut BufReader::new(skipped), &mut tokio::io::sink())
                        .await?;
                }
                error
            }
            Plan::Read => {
                if let Some(pieces) = export.read_now(request.offset, request.length) {
                    answers.data(&request, pieces, &mut ready);
                    continue;
                }
                0
            }
            Plan::Status => 0,
        };
        if error != 0 {
            answers.error(&request, error, "", &mut ready);
            continue;
        }
        answers.send(&mut ready).await?;
        let place = spend(&budget, &request).await;
        let (export, answers) = (Arc::clone(&export), Arc::clone(&answers));
        reads.spawn(async move {
            let _place = place;
            slow(&request, export, &answers).await
        });
        while let Some(done) = reads.try_join_next() {
            done.unwrap_or(Ok(()))?;
        }
    }
}

/// A share of the connection's budget for one request.
async fn spend(budget: &Arc<Semaphore>, request: &Request) -> Option<OwnedSemaphorePermit> {
    let length = if request.command == command::READ { request.length } else { 0 };
    let units = length.div_ceil(BUDGET_UNIT).clamp(1, BUDGET_UNITS);
    Arc::clone(budget).acquire_many_owned(units).await.ok()
}

/// Answers what has to be waited for.
async fn slow(request: &Request, export: Arc<dyn Export>, answers: &Answers) -> io::Result<()> {
    let Request { offset, length, .. } = *request;
    let mut batch = Batch::default();
    if request.command == command::READ {
        let read = blocking(move || export.read(offset, length)).await;
        match read {
            Ok(pieces)
                if pieces.iter().map(|piece| u64::from(piece.length())).sum::<u64>()
                    == u64::from(length) =>
            {
                answers.data(request, pieces, &mut batch);
            }
            Ok(_) => answers.error(request, errno::EIO, "not all of it was read", &mut batch),
            Err(error) => {
                tracing::error!(offset, length, "a read fails: {error}");
                answers.error(request, errno::EIO, &error.to_string(), &mut batch);
            }
        }
    } else {
        match blocking(move || export.extents(offset, length)).await {
            Ok(extents) => answers.status(request, &extents, &mut batch),
            Err(error) => {
                tracing::error!(offset, length, "extents are not known: {error}");
                answers.error(request, errno::EIO, &error.to_string(), &mut batch);
            }
        }
    }
    answers.send(&mut batch).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // A panic in there is a bug; its request fails, and the process serves on.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Sends what is being read, then ends the connection.
async fn finish(
    mut reads: tokio::task::JoinSet<io::Result<()>>,
    answers: &Answers,
    mut ready: Batch,
) -> Result<(), Error> {
    answers.send(&mut ready).await?;
    while let Some(done) = reads.join_next().await {
        done.unwrap_or(Ok(()))?;
    }
    Ok(())
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Read,
    Status,
    /// It has succeeded.
    Nothing,
    Refuse {
        error: u32,
        /// Bytes of data that follow the request.
        skip: u32,
    },
    Leave,
    Malformed(Malformed),
}

/// Judges a request. Pure.
fn plan(request: &Request, size: u64, agreed: &Handshake) -> Plan {
    let refuse = |error| Plan::Refuse { error, skip: 0 };
    let within = request.offset.checked_add(request.length.into()).is_some_and(|end| end <= size);
    match request.command {
        command::DISCONNECT => Plan::Leave,
        command::WRITE if request.length > MAX_REQUEST => {
            Plan::Malformed(Malformed("a write is too long"))
        }
        command::WRITE => Plan::Refuse { error: errno::EPERM, skip: request.length },
        command::TRIM | command::WRITE_ZEROES => refuse(errno::EPERM),
        command::READ if request.flags != 0 || !within || request.length > MAX_REQUEST => {
            refuse(errno::EINVAL)
        }
        command::READ if request.length == 0 => Plan::Nothing,
        command::READ => Plan::Read,
        command::FLUSH if request.flags == 0 => Plan::Nothing,
        command::BLOCK_STATUS
            if !agreed.allocation
                || request.flags & !command::FLAG_REQ_ONE != 0
                || !within
                || request.length == 0 =>
        {
            refuse(errno::EINVAL)
        }
        command::BLOCK_STATUS => Plan::Status,
        _ => refuse(errno::EINVAL),
    }
}

/// Answers that have not been sent: heads in one buffer, data where they are.
#[derive(Debug, Default)]
struct Batch {
    heads: Vec<u8>,
    /// In order: the end of a part of `heads`, and what follows it.
    parts: Vec<(usize, Option<Piece>)>,
    answers: usize,
}

impl Batch {
    fn follow(&mut self, piece: Option<Piece>) {
        self.parts.push((self.heads.len(), piece));
    }
}

/// Where a connection's answers go, and how they are written.
#[derive(Debug)]
struct Answers {
    writer: Mutex<OwnedWriteHalf>,
    agreed: Handshake,
}

impl Answers {
    fn head(&self, request: &Request, kind: u16, last: bool, length: u32, batch: &mut Batch) {
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        Chunk { flags, kind, cookie: request.cookie, length }.encode(&mut batch.heads);
    }

    fn nothing(&self, request: &Request, batch: &mut Batch) {
        if self.agreed.structured {
            self.head(request, chunk::NONE, true, 0, batch);
        } else {
            protocol::encode_simple_reply(0, request.cookie, &mut batch.heads);
        }
        batch.follow(None);
        batch.answers += 1;
    }

    fn error(&self, request: &Request, error: u32, message: &str, batch: &mut Batch) {
        if self.agreed.structured {
            let payload = protocol::encode_error(error, message);
            self.head(request, chunk::ERROR, true, payload.len() as u32, batch);
            batch.heads.extend_from_slice(&payload);
        } else {
            protocol::encode_simple_reply(error, request.cookie, &mut batch.heads);
        }
        batch.follow(None);
        batch.answers += 1;
    }

    fn data(&self, request: &Request, pieces: Vec<Piece>, batch: &mut Batch) {
        if !self.agreed.structured {
            protocol::encode_simple_reply(0, request.cookie, &mut batch.heads);
            batch.follow(None);
        }
        let mut offset = request.offset;
        let count = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            let length = piece.length();
            if !self.agreed.structured {
                batch.follow(Some(piece));
                continue;
            }
            let last = index + 1 == count;
            match piece {
                Piece::Zeros(_) => {
                    self.head(request, chunk::OFFSET_HOLE, last, 12, batch);
                    batch.heads.extend_from_slice(&offset.to_be_bytes());
                    batch.heads.extend_from_slice(&length.to_be_bytes());
                    batch.follow(None);
                }
                Piece::Data(_) => {
                    self.head(request, chunk::OFFSET_DATA, last, 8 + length, batch);
                    batch.heads.extend_from_slice(&offset.to_be_bytes());
                    batch.follow(Some(piece));
                }
            }
            offset += u64::from(length);
        }
        batch.answers += 1;
    }

    fn status(&self, request: &Request, extents: &[Extent], batch: &mut Batch) {
        let mut descriptors: Vec<Descriptor> = Vec::new();
        let mut rest = request.length;
        for extent in extents {
            let length = extent.length.min(rest);
            let flags = if extent.zeros { STATE_HOLE | STATE_ZERO } else { 0 };
            match descriptors.last_mut() {
                _ if length == 0 => break,
                Some(last) if last.flags == flags => last.length += length,
                _ => descriptors.push(Descriptor { length, flags }),
            }
            rest -= length;
        }
        if descriptors.is_empty() {
            return self.error(request, errno::EIO, "nothing is known", batch);
        }
        descriptors.truncate(match request.flags & command::FLAG_REQ_ONE {
            0 => protocol::MAX_DESCRIPTORS,
            _ => 1,
        });
        let payload = protocol::encode_block_status(protocol::ALLOCATION_ID, &descriptors);
        tracing::trace!(context = BASE_ALLOCATION, descriptors = descriptors.len());
        self.head(request, chunk::BLOCK_STATUS, true, payload.len() as u32, batch);
        batch.heads.extend_from_slice(&payload);
        batch.follow(None);
        batch.answers += 1;
    }

    /// Sends a batch whole, and empties it.
    async fn send(&self, batch: &mut Batch) -> io::Result<()> {
        if batch.parts.is_empty() {
            return Ok(());
        }
        let mut slices = Vec::with_capacity(batch.parts.len() * 2);
        let mut begin = 0;
        for (end, piece) in &batch.parts {
            if *end > begin {
                slices.push(IoSlice::new(&batch.heads[begin..*end]));
                begin = *end;
            }
            match piece {
                Some(Piece::Data(data)) => slices.push(IoSlice::new(data)),
                Some(Piece::Zeros(length)) => {
                    let mut left = *length as usize;
                    while left > 0 {
                        let part = left.min(ZEROS.len());
                        slices.push(IoSlice::new(&ZEROS[..part]));
                        left -= part;
                    }
                }
                None => {}
            }
        }
        let mut writer = self.writer.lock().await;
        let mut unsent = slices.as_mut_slice();
        while !unsent.is_empty() {
            let sent = writer.write_vectored(unsent).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut unsent, sent);
        }
        *batch = Batch::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 20;

    fn judged(command: u16, flags: u16, offset: u64, length: u32) -> Plan {
        let mut agreed = Handshake::new(SIZE, 0).unwrap();
        agreed.allocation = true;
        plan(&Request { flags, command, cookie: 1, offset, length }, SIZE, &agreed)
    }

    #[test]
    fn requests_are_judged_by_their_kind_and_place() {
        let refused = |error, skip| Plan::Refuse { error, skip };
        assert_eq!(judged(command::READ, 0, SIZE - 1, 1), Plan::Read);
        assert_eq!(judged(command::READ, 0, SIZE, 1), refused(errno::EINVAL, 0));
        assert_eq!(judged(command::READ, 0, u64::MAX, 1), refused(errno::EINVAL, 0));
        assert_eq!(judged(command::READ, 1, 0, 1), refused(errno::EINVAL, 0));
        assert_eq!(judged(command::READ, 0, SIZE, 0), Plan::Nothing);
        assert_eq!(judged(command::WRITE, 0, 0, 512), refused(errno::EPERM, 512));
        assert!(matches!(judged(command::WRITE, 0, 0, u32::MAX), Plan::Malformed(_)));
        assert_eq!(judged(command::TRIM, 0, 0, 512), refused(errno::EPERM, 0));
        assert_eq!(judged(command::FLUSH, 0, 0, 0), Plan::Nothing);
        assert_eq!(judged(command::DISCONNECT, 0, 0, 0), Plan::Leave);
        assert_eq!(judged(command::BLOCK_STATUS, command::FLAG_REQ_ONE, 0, 9), Plan::Status);
        assert_eq!(judged(command::BLOCK_STATUS, 0, 0, 0), refused(errno::EINVAL, 0));
        assert_eq!(judged(99, 0, 0, 0), refused(errno::EINVAL, 0));
        let agreed = Handshake::new(SIZE, 0).unwrap();
        let request =
            Request { flags: 0, command: command::BLOCK_STATUS, cookie: 1, offset: 0, length: 1 };
        assert_eq!(plan(&request, SIZE, &agreed), refused(errno::EINVAL, 0), "no context");
    }

    proptest! {
        #[test]
        fn nothing_outside_the_export_is_read(
            command in 0_u16..9, flags in 0_u16..16, offset: u64, length: u32,
        ) {
            let judged = judged(command, flags, offset, length);
            if matches!(judged, Plan::Read | Plan::Status) {
                prop_assert!(offset.checked_add(length.into()).is_some_and(|end| end <= SIZE));
                prop_assert!(length > 0);
            }
        }
    }
}
