//! Content of a snapshot as an export: what a volume that fills from it reads until it has filled.
//!
//! The export may be larger than the content; the rest is zeros. A block that is missing, damaged or
//! encrypted with another key fails the reads that touch it (EIO) and no others. An object store that
//! does not answer fails none at once: whoever reads waits, as a guest waits for a slow disk, until
//! it answers again or [`PATIENCE`] is over. Who reads blocks one after the other finds the next ones in memory: each stream of reads has up to [`AHEAD`]
//! blocks read ahead of it.

use super::server::{Export, Extent, Piece};
use crate::blob;
use crate::read::Reader;
use crate::store::{Blobs, Config};
use crate::sync::lock;
use base::key::DataKey;
use base::volume::{BLOCK_BYTES, Content};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Most blocks read ahead of one stream.
const AHEAD: u64 = 4;
/// How long a read waits for an object store that does not answer.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// From one try to the next; the store itself has tried for some seconds.
const PAUSE: Duration = Duration::from_millis(500);
/// Streams that are told apart.
const STREAMS: usize = 8;

/// What the storage process of one volume is told: one line of JSON.
#[derive(Clone, Serialize, Deserialize)]
pub struct StorageOptions {
    /// Where the blobs are.
    pub blobs: Config,
    /// What is served.
    pub content: Content,
    /// Its data key in the clear, 32 bytes in base64.
    pub data_key: Option<String>,
    /// Where to listen. What stands there is replaced.
    pub socket: PathBuf,
    /// The user who may connect, by number.
    pub owner: u32,
    /// Size of the export, bytes; not less than the content's.
    pub size: u64,
}

impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageOptions")
            .field("content", &self.content)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl StorageOptions {
    /// The text of a data key in these options.
    pub fn encode_key(key: &DataKey) -> String {
        BASE64_STANDARD.encode(key.0)
    }

    /// Opens what is served.
    ///
    /// # Errors
    /// The blob store or the content's root cannot be read, the key is not its key, or the export is
    /// smaller than the content.
    pub fn source(&self) -> io::Result<Source> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let key = match &self.data_key {
            None => None,
            Some(text) => {
                let bytes = BASE64_STANDARD.decode(text).ok();
                let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                Some(DataKey(key.ok_or_else(|| invalid("the data key is not 32 bytes in base64"))?))
            }
        };
        let blobs = Blobs::open_read_only(&self.blobs)?;
        let reader = Reader::open(&blobs, &self.content, key.as_ref())?;
        if self.size < reader.size_bytes() {
            return Err(invalid("the export is smaller than the content"));
        }
        Source::new(reader, self.size)
    }

    /// Listens on the socket, for the owner alone.
    ///
    /// # Errors
    /// The socket cannot be made or given to the owner.
    pub fn listen(&self) -> io::Result<UnixListener> {
        // Through a descriptor of its directory: the path of a socket is at most 107 bytes long.
        let directory = self.socket.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new(".")))?;
        let here = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the socket has no name");
        let socket = here.join(self.socket.file_name().ok_or_else(invalid)?);
        // Made under another name: whoever finds the socket may connect and is served.
        let new = socket.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(&new, Some(self.owner), None)?;
        std::fs::rename(&new, &socket)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// Content, followed by zeros.
#[derive(Debug)]
pub struct Source {
    reader: Arc<Reader>,
    size: u64,
    streams: Mutex<Vec<Stream>>,
    ahead: SyncSender<u64>,
}

impl Source {
    /// Serves `reader` as `size` bytes.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(reader: Reader, size: u64) -> io::Result<Self> {
        let reader = Arc::new(reader);
        let (ahead, wanted) = sync_channel(AHEAD as usize);
        let wanted = Arc::new(Mutex::new(wanted));
        for _ in 0..AHEAD {
            let (reader, wanted) = (Arc::clone(&reader), Arc::clone(&wanted));
            std::thread::Builder::new()
                .name("read-ahead".into())
                .spawn(move || read_ahead(&reader, &wanted))?;
        }
        Ok(Source { reader, size, streams: Mutex::default(), ahead })
    }

    /// Puts the pieces of a range together, block by block, until `block` has none.
    fn pieces<E>(
        &self,
        offset: u64,
        length: u32,
        block: impl Fn(u64) -> Result<Option<Arc<Vec<u8>>>, E>,
    ) -> Result<Vec<Piece>, E> {
        let end = offset + u64::from(length);
        let content = end.min(self.reader.size_bytes());
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < content {
            let begin = (at % BLOCK_BYTES as u64) as usize;
            let length = ((content - at) as usize).min(BLOCK_BYTES - begin);
            let piece = match block(at / BLOCK_BYTES as u64)? {
                Some(block) => {
                    Piece::Data(Bytes::from_owner(Block(block)).slice(begin..begin + length))
                }
                None => Piece::Zeros(length as u32),
            };
            match (pieces.last_mut(), piece) {
                (Some(Piece::Zeros(before)), Piece::Zeros(more)) => *before += more,
                (_, piece) => pieces.push(piece),
            }
            at += length as u64;
        }
        if at < end {
            pieces.push(Piece::Zeros((end - at) as u32));
        }
        Ok(pieces)
    }

    /// Has what follows a range read ahead if it belongs to a stream.
    fn follow(&self, offset: u64, length: u32) {
        let last = (offset + u64::from(length.max(1)) - 1) / BLOCK_BYTES as u64;
        let end = self.reader.size_bytes() / BLOCK_BYTES as u64;
        for block in follow(&mut lock(&self.streams), offset / BLOCK_BYTES as u64, last) {
            // When all readers are busy there is nothing to gain.
            if block >= end || self.ahead.try_send(block).is_err() {
                break;
            }
        }
    }
}

/// Reads until an object store that is away has answered.
fn patiently<T>(read: impl Fn() -> blob::Result<T>) -> blob::Result<T> {
    let begun = Instant::now();
    loop {
        match read() {
            Err(blob::Error::Remote(why)) if begun.elapsed() < PATIENCE => {
                tracing::warn!(why, "a read waits for the object store");
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// A block as the owner of bytes.
struct Block(Arc<Vec<u8>>);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn read_ahead(reader: &Reader, wanted: &Mutex<Receiver<u64>>) {
    loop {
        let Ok(index) = lock(wanted).recv() else { return };
        // An error is told to who asks for the block.
        let _ = reader.block(index);
    }
}

impl Export for Source {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_now(&self, offset: u64, length: u32) -> Option<Vec<Piece>> {
        let pieces = self.pieces(offset, length, |index| self.reader.block_now(index).ok_or(()));
        let pieces = pieces.ok()?;
        self.follow(offset, length);
        Some(pieces)
    }

    fn read(&self, offset: u64, length: u32) -> io::Result<Vec<Piece>> {
        self.follow(offset, length);
        Ok(self.pieces(offset, length, |index| patiently(|| self.reader.block(index)))?)
    }

    fn extents(&self, offset: u64, length: u32) -> io::Result<Vec<Extent>> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let end = offset + u64::from(length);
        let last = end.div_ceil(BLOCK);
        let (first, most) = (offset / BLOCK, (last - offset / BLOCK) as usize);
        let indexes = patiently(|| self.reader.indexes(first, most))?;
        let mut extents = Vec::new();
        let mut at = offset;
        let mut until = |to: u64, zeros| {
            let to = to.min(end);
            if to > at {
                extents.push(Extent { length: (to - at) as u32, zeros });
                at = to;
            }
        };
        for index in indexes.into_iter().take_while(|index| *index < last) {
            until(index * BLOCK, true);
            until((index + 1) * BLOCK, false);
        }
        until(end, true);
        Ok(extents)
    }
}

/// Reads of blocks one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stream {
    /// The block read last.
    last: u64,
    /// Up to which block was read ahead, exclusively.
    ahead: u64,
    /// How many steps it has made.
    steps: u64,
}

/// Notes that the blocks `first..=last` are read; gives what is to be read ahead. Requests of a
/// stream may overtake each other a little. The stream used last stands last.
fn follow(streams: &mut Vec<Stream>, first: u64, last: u64) -> std::ops::Range<u64> {
    let near = |stream: &Stream| {
        first <= stream.last.max(stream.ahead).saturating_add(AHEAD)
            && first + 2 * AHEAD > stream.last
    };
    let Some(place) = streams.iter().rposition(near) else {
        if streams.len() == STREAMS {
            streams.remove(0);
        }
        streams.push(Stream { last, ahead: last + 1, steps: last - first });
        return 0..0;
    };
    let mut stream = streams.remove(place);
    if last > stream.last {
        let gapless = first <= stream.last + 1;
        stream.steps += if gapless { last - stream.last } else { 1 };
        stream.last = last;
    }
    let from = stream.ahead.max(stream.last + 1);
    let to = (stream.last + 1 + stream.steps.min(AHEAD)).max(from);
    stream.ahead = to;
    streams.push(stream);
    from..to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::Id;
    use crate::upload::Upload;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_stream_is_followed_and_scattered_reads_are_not() {
        let mut streams = Vec::new();
        assert_eq!(follow(&mut streams, 10, 10), 0..0);
        assert_eq!(follow(&mut streams, 10, 10), 11..11, "the same block again");
        assert_eq!(follow(&mut streams, 11, 11), 12..13);
        assert_eq!(follow(&mut streams, 500, 500), 0..0);
        assert_eq!(follow(&mut streams, 12, 12), 13..15, "another reader disturbs nothing");
        assert_eq!(follow(&mut streams, 13, 13), 15..17);
        assert_eq!(follow(&mut streams, 14, 14), 17..19);
        assert_eq!(follow(&mut streams, 15, 15), 19..20);
        assert_eq!(follow(&mut streams, 16, 16), 20..21);
        assert_eq!(follow(&mut streams, 14, 14), 21..21, "overtaken");
        for block in [1000, 3000, 2000, 9000, 8000, 7000, 6000, 5000, 4000, 1000] {
            assert_eq!(follow(&mut streams, block, block), 0..0);
            assert!(streams.len() <= STREAMS);
        }
    }

    proptest! {
        #[test]
        fn never_far_ahead_and_never_twice(reads in proptest::collection::vec((0_u64..64, 0_u64..5), 1..60)) {
            let mut streams = Vec::new();
            for (first, more) in reads {
                let wanted = follow(&mut streams, first, first + more);
                prop_assert!(wanted.end - wanted.start <= 2 * AHEAD);
                let last = streams.last().unwrap();
                prop_assert!(wanted.is_empty() || wanted.end == last.ahead);
                prop_assert!(last.ahead <= last.last + 1 + AHEAD || wanted.is_empty());
            }
        }
    }

    /// Content of 1 GiB with blocks at these indexes, each filled with its index modulo 251, plus one.
    fn content(directory: &Path, indexes: &[u64], key: Option<&DataKey>) -> (Config, Content) {
        let config = Config::Local { directory: directory.to_path_buf() };
        let blobs = Blobs::open(&config).unwrap();
        let upload = Upload::begin(&blobs, None, 1, key).unwrap();
        for index in indexes {
            upload.put(*index, &vec![(*index % 251) as u8 + 1; BLOCK_BYTES]).unwrap();
        }
        (config, upload.finish().unwrap().content(None))
    }

    fn options(directory: &Path, indexes: &[u64], key: Option<&DataKey>) -> StorageOptions {
        let (blobs, content) = content(&directory.join("blobs"), indexes, key);
        let data_key = key.map(StorageOptions::encode_key);
        let socket = directory.join("source.sock");
        let owner = std::fs::metadata(directory).unwrap().uid();
        StorageOptions { blobs, content, data_key, socket, owner, size: 2 << 30 }
    }

    #[test]
    fn a_read_waits_while_the_object_store_is_away() {
        use crate::faulty::{Fault, Faulty, Operation};
        let directory = tempfile::tempdir().unwrap();
        let (config, content) = content(&directory.path().join("blobs"), &[0, 1], None);
        let Config::Local { directory } = &config else { unreachable!() };
        let local = crate::local::Local::open_read_only(directory).unwrap();
        let store = Arc::new(Faulty::new(Arc::new(local)));
        let blobs = Blobs::new(Arc::clone(&store) as Arc<dyn crate::BlobStore>);
        let reader = Reader::open(&blobs, &content, None).unwrap();
        let source = Source::new(reader, 1 << 30).unwrap();
        store.fail(Operation::Get, 0, Fault::Remote);
        std::thread::scope(|scope| {
            let read = scope.spawn(|| flat(&source.read(0, 4096).unwrap()));
            while store.met() == 0 {
                std::thread::yield_now();
            }
            assert!(!read.is_finished());
            store.heal();
            assert_eq!(read.join().unwrap(), [1; 4096]);
        });
        store.fail(Operation::Get, 0, Fault::Disk);
        assert!(source.read(BLOCK_BYTES as u64, 4096).is_err(), "a disk's error is told at once");
    }

    fn flat(pieces: &[Piece]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Zeros(length) => bytes.resize(bytes.len() + *length as usize, 0),
                Piece::Data(data) => bytes.extend_from_slice(data),
            }
        }
        bytes
    }

    #[test]
    fn content_is_served_with_zeros_behind_it() {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let directory = tempfile::tempdir().unwrap();
        let key = DataKey([7; 32]);
        let options = options(directory.path(), &[0, 1, 4, 2047], Some(&key));
        let text = serde_json::to_string(&options).unwrap();
        let options: StorageOptions = serde_json::from_str(&text).unwrap();
        assert!(!format!("{options:?}").contains(options.data_key.as_ref().unwrap()));
        let source = options.source().unwrap();
        assert_eq!(source.size(), 2 << 30);
        assert_eq!(source.read_now(0, 1), None, "nothing is in memory");
        assert_eq!(source.read_now(5 << 29, 512), Some(vec![Piece::Zeros(512)]), "behind it");
        let pieces = source.read(BLOCK - 1, 2 * BLOCK as u32).unwrap();
        assert_eq!(pieces.len(), 3);
        let bytes = flat(&pieces);
        let runs: Vec<_> = bytes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        assert_eq!(runs, [(1, 1), (2, BLOCK_BYTES), (0, BLOCK_BYTES - 1)]);
        assert_eq!(source.read_now(BLOCK - 1, 2 * BLOCK as u32), Some(pieces));
        let end = flat(&source.read((1 << 30) - 2, 4).unwrap());
        assert_eq!(end, [40, 40, 0, 0]);
        let extents = source.extents(BLOCK / 2, u32::MAX >> 1).unwrap();
        let lengths: Vec<_> =
            extents.iter().map(|one| (u64::from(one.length), one.zeros)).collect();
        let begin = BLOCK / 2;
        let rest = u64::from(u32::MAX >> 1);
        let wanted = [
            (2 * BLOCK - begin, false),
            (2 * BLOCK, true),
            (BLOCK, false),
            (2042 * BLOCK, true),
            (BLOCK, false),
            (rest + begin - 2048 * BLOCK, true),
        ];
        let mut merged: Vec<(u64, bool)> = Vec::new();
        for (length, zeros) in lengths {
            match merged.last_mut() {
                Some(last) if last.1 == zeros => last.0 += length,
                _ => merged.push((length, zeros)),
            }
        }
        assert_eq!(merged, wanted);
    }

    #[test]
    fn a_damaged_block_is_an_error_and_never_data() {
        let directory = tempfile::tempdir().unwrap();
        let options = options(directory.path(), &[3, 5], None);
        let damaged = Id::of(&vec![4; BLOCK_BYTES]).to_string();
        let mut found = Vec::new();
        let mut places = vec![directory.path().join("blobs")];
        while let Some(place) = places.pop() {
            for entry in std::fs::read_dir(place).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    places.push(path);
                } else if path.to_string_lossy().replace('/', "").contains(&damaged[4..]) {
                    found.push(path);
                }
            }
        }
        let mut bytes = std::fs::read(&found[0]).unwrap();
        bytes[1000] ^= 1;
        std::fs::set_permissions(&found[0], Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&found[0], bytes).unwrap();
        let source = options.source().unwrap();
        let block = BLOCK_BYTES as u64;
        for _ in 0..2 {
            let error = source.read(3 * block, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        assert_eq!(flat(&source.read(5 * block, 1).unwrap()), [6]);
    }

    #[test]
    fn what_is_asked_for_must_make_sense() {
        let directory = tempfile::tempdir().unwrap();
        let key = DataKey([7; 32]);
        let good = options(directory.path(), &[1], Some(&key));
        let small = StorageOptions { size: 1 << 29, ..good.clone() };
        let keyless = StorageOptions { data_key: None, ..good.clone() };
        let short = StorageOptions { data_key: Some("AAAA".into()), ..good.clone() };
        for wrong in [small, keyless, short] {
            assert!(wrong.source().is_err(), "{wrong:?}");
        }
        assert!(good.source().is_ok());
    }

    #[test]
    fn the_socket_is_for_its_owner_and_replaces_a_stale_one() {
        let directory = tempfile::tempdir().unwrap();
        let options = options(directory.path(), &[], None);
        let long = directory.path().join("long".repeat(40));
        std::fs::create_dir(&long).unwrap();
        StorageOptions { socket: long.join("socket"), ..options.clone() }.listen().unwrap();
        assert!(long.join("socket").exists());
        drop(options.listen().unwrap());
        assert!(std::os::unix::net::UnixStream::connect(&options.socket).is_err(), "stale");
        let _listener = options.listen().unwrap();
        let found = std::fs::metadata(&options.socket).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, options.owner));
        std::os::unix::net::UnixStream::connect(&options.socket).unwrap();
    }
}
