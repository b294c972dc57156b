//! What an upload of the EBS direct APIs has put so far: an append-only file that outlives a crash.
//!
//! ```text
//! "GBUL" 0x02 0 0 0 | records × (index: u64, name: 32 bytes, checksum: 32 bytes, check: 8 bytes)
//! ```
//!
//! A name of zeros is a block of zeros. The checksum is the SHA-256 of the block in the clear, which
//! for an encrypted block its name is not. The check is the start of the SHA-256 of what stands before
//! it: a record that was cut off or never reached the disk ends the log. A record is durable
//! before its put is answered; puts that wait at the same time share one fsync. Opening a log to
//! write makes a new file of what is whole, so nothing is ever appended behind a torn end.

use crate::blob::{Error, Id, Result};
use crate::sync::{Syncer, lock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const MAGIC: [u8; 8] = *b"GBUL\x02\0\0\0";
const RECORD: usize = 80;
/// Where its check begins.
const CHECK: usize = RECORD - 8;
const NONE: Id = Id([0; 32]);

/// The logs of one directory.
#[derive(Debug)]
pub(crate) struct Logs {
    directory: PathBuf,
    open: Mutex<HashMap<String, Arc<Log>>>,
}

/// A log that this process writes.
#[derive(Debug)]
pub(crate) struct Log {
    state: Mutex<State>,
    syncer: Syncer,
}

#[derive(Debug)]
struct State {
    file: File,
    blocks: Blocks,
    /// Every blob that the file names, also those that a later record replaced: after a crash the
    /// later one may not be there.
    named: HashSet<Id>,
    /// The file may not hold what was written; or it was dropped.
    closed: bool,
}

/// A block that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its blob; `None` for zeros.
    pub(crate) id: Option<Id>,
    /// SHA-256 of the block in the clear.
    pub(crate) checksum: Id,
}

/// The last block of each index.
pub(crate) type Blocks = BTreeMap<u64, Block>;

fn record(index: u64, block: Block) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&index.to_le_bytes());
    record[8..40].copy_from_slice(&block.id.unwrap_or(NONE).0);
    record[40..CHECK].copy_from_slice(&block.checksum.0);
    let check = Id::of(&record[..CHECK]);
    record[CHECK..].copy_from_slice(&check.0[..8]);
    record
}

/// The whole records of a log, up to the first that is not.
fn parse(bytes: &[u8]) -> Result<Vec<(u64, Block)>, &'static str> {
    let Some(bytes) = bytes.strip_prefix(&MAGIC) else {
        if MAGIC.starts_with(bytes) {
            // Not even its beginning is there: nothing was put.
            return Ok(Vec::new());
        }
        return Err("it does not begin as a log of this version");
    };
    let mut records = Vec::new();
    for bytes in bytes.chunks_exact(RECORD) {
        let (mut index, mut id, mut checksum) = ([0; 8], [0; 32], [0; 32]);
        index.copy_from_slice(&bytes[..8]);
        id.copy_from_slice(&bytes[8..40]);
        checksum.copy_from_slice(&bytes[40..CHECK]);
        let id = Some(Id(id)).filter(|id| *id != NONE);
        let (index, block) = (u64::from_le_bytes(index), Block { id, checksum: Id(checksum) });
        if bytes != record(index, block) {
            break;
        }
        records.push((index, block));
    }
    Ok(records)
}

impl Logs {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::of_disk)?;
        // Checksums of what is encrypted elsewhere.
        fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(Error::of_disk)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Logs { directory: directory.to_owned(), open: Mutex::default() })
    }

    /// Ids come from records; still, nothing must lead out of the directory.
    fn path(&self, id: &str) -> Result<PathBuf> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.is_empty() || id.len() > 64 || !id.bytes().all(good) {
            return Err(Error::Invalid(format!("{id:?} is no id of an upload")));
        }
        Ok(self.directory.join(id))
    }

    fn read(&self, id: &str) -> Result<Vec<(u64, Block)>> {
        let bytes = match fs::read(self.path(id)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes?,
        };
        parse(&bytes).map_err(|why| {
            Error::Io(io::Error::new(io::ErrorKind::InvalidData, format!("upload {id}: {why}")))
        })
    }

    /// The log to append to; made if there is none.
    pub(crate) fn log(&self, id: &str) -> Result<Arc<Log>> {
        let mut open = lock(&self.open);
        if let Some(log) = open.get(id) {
            return Ok(Arc::clone(log));
        }
        let blocks: Blocks = self.read(id)?.into_iter().collect();
        let path = self.path(id)?;
        let temporary = self.directory.join(format!(".{id}"));
        let file = (|| {
            let mut bytes = MAGIC.to_vec();
            for (index, block) in &blocks {
                bytes.extend_from_slice(&record(*index, *block));
            }
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(file)
        })()
        .map_err(Error::of_disk)?;
        let named = blocks.values().filter_map(|block| block.id).collect();
        let state = State { file, blocks, named, closed: false };
        let log = Arc::new(Log { state: Mutex::new(state), syncer: Syncer::default() });
        open.insert(id.to_owned(), Arc::clone(&log));
        Ok(log)
    }

    /// Appends; durable when this returns.
    pub(crate) fn append(&self, id: &str, index: u64, block: Block) -> Result<()> {
        let log = self.log(id)?;
        let result = log.append(index, block);
        if result.is_err() {
            // What the file holds is unsure: whoever comes next makes a new one of what can be read.
            lock(&log.state).closed = true;
            let mut open = lock(&self.open);
            if open.get(id).is_some_and(|other| Arc::ptr_eq(other, &log)) {
                open.remove(id);
            }
        }
        result
    }

    /// What the upload holds.
    pub(crate) fn blocks(&self, id: &str) -> Result<Blocks> {
        let log = lock(&self.open).get(id).cloned();
        match log {
            Some(log) => Ok(lock(&log.state).blocks.clone()),
            None => Ok(self.read(id)?.into_iter().collect()),
        }
    }

    /// Every blob that any log names.
    pub(crate) fn named(&self) -> Result<Vec<Id>> {
        let mut named = Vec::new();
        // With the lock: a log that is being opened is read before or after, never between.
        let open = lock(&self.open);
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            match open.get(id) {
                Some(log) => named.extend(lock(&log.state).named.iter().copied()),
                None => named.extend(self.read(id)?.into_iter().filter_map(|(_, block)| block.id)),
            }
        }
        Ok(named)
    }

    /// Removes the log if there is one.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id)?;
        let mut open = lock(&self.open);
        if let Some(log) = open.remove(id) {
            lock(&log.state).closed = true;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        File::open(&self.directory)?.sync_all().map_err(Error::of_disk)
    }
}

impl Log {
    fn append(&self, index: u64, block: Block) -> Result<()> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::Invalid("the upload has ended".to_owned()));
        }
        // Named before it is written: the collection may look at any time.
        state.named.extend(block.id);
        let written = state.file.write_all(&record(index, block));
        // Half a record may be there: nothing may follow it.
        state.closed |= written.is_err();
        written.map_err(Error::of_disk)?;
        state.blocks.insert(index, block);
        self.syncer.changed();
        let file = state.file.try_clone()?;
        drop(state);
        let sync = || {
            // The system tells a lost write once: after it no later sync is to be trusted.
            if lock(&self.state).closed {
                return Err(io::Error::other("the upload has ended"));
            }
            file.sync_data().inspect_err(|_| lock(&self.state).closed = true)
        };
        self.syncer.wait(sync).map_err(Error::of_disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(byte: u8) -> Id {
        Id([byte; 32])
    }

    fn block(byte: u8) -> Block {
        Block { id: Some(id(byte)), checksum: id(byte + 100) }
    }

    fn zeros() -> Block {
        Block { id: None, checksum: id(100) }
    }

    #[test]
    fn nobody_else_may_read_checksums() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("uploads");
        Logs::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_log_is_read_again_and_the_last_record_of_an_index_counts() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path()).unwrap();
        logs.append("snap-1", 7, block(1)).unwrap();
        logs.append("snap-1", 7, block(2)).unwrap();
        logs.append("snap-1", 9, zeros()).unwrap();
        let expected = Blocks::from([(7, block(2)), (9, zeros())]);
        assert_eq!(logs.blocks("snap-1").unwrap(), expected);
        let sorted = |mut named: Vec<Id>| {
            named.sort_unstable();
            named
        };
        assert_eq!(sorted(logs.named().unwrap()), [id(1), id(2)], "a crash may bring 1 back");
        let again = Logs::open(directory.path()).unwrap();
        assert_eq!(again.blocks("snap-1").unwrap(), expected);
        assert_eq!(sorted(again.named().unwrap()), [id(1), id(2)]);
        again.append("snap-1", 1, block(3)).unwrap();
        assert_eq!(sorted(again.named().unwrap()), [id(2), id(3)], "1 is gone for good");
        again.remove("snap-1").unwrap();
        again.remove("snap-1").unwrap();
        assert_eq!(again.named().unwrap(), []);
        assert_eq!(again.blocks("snap-1").unwrap(), Blocks::new());
    }

    #[test]
    fn a_log_without_its_beginning_is_empty_and_another_files_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path()).unwrap();
        for length in 0..MAGIC.len() {
            fs::write(directory.path().join("snap-1"), &MAGIC[..length]).unwrap();
            assert_eq!(logs.named().unwrap(), []);
        }
        logs.append("snap-1", 1, block(1)).unwrap();
        assert_eq!(logs.named().unwrap(), [id(1)]);
        fs::write(directory.path().join("snap-2"), b"GBUL\x01\0\0\0").unwrap();
        assert!(logs.named().is_err(), "what it names is not known: nothing may be freed");
    }

    #[test]
    fn ids_lead_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path()).unwrap();
        for bad in ["", "..", "a/b", ".a", "a\0"] {
            assert!(matches!(logs.append(bad, 0, zeros()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn after_a_full_disk_the_log_is_made_anew_of_what_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path()).unwrap();
        logs.append("snap-1", 1, block(1)).unwrap();
        let log = logs.log("snap-1").unwrap();
        lock(&log.state).file = File::options().write(true).open("/dev/full").unwrap();
        assert!(matches!(logs.append("snap-1", 2, block(2)), Err(Error::Full)));
        assert!(log.append(3, zeros()).is_err(), "whoever still has it adds nothing to it");
        logs.append("snap-1", 4, block(4)).unwrap();
        let expected = Blocks::from([(1, block(1)), (4, block(4))]);
        assert_eq!(logs.blocks("snap-1").unwrap(), expected);
        assert_eq!(Logs::open(directory.path()).unwrap().blocks("snap-1").unwrap(), expected);
    }

    proptest! {
        /// Whatever a crash leaves of the end: what is whole before it is read.
        #[test]
        fn a_torn_end_is_ignored(
            records in prop::collection::vec(
                (any::<u64>(), any::<Option<[u8; 32]>>(), any::<[u8; 32]>()),
                1..10,
            ),
            cut in any::<prop::sample::Index>(),
            junk in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let records: Vec<_> = records
                .into_iter()
                .map(|(index, id, checksum)| {
                    let id = id.map(Id).filter(|id| *id != NONE);
                    (index, Block { id, checksum: Id(checksum) })
                })
                .collect();
            let mut bytes = MAGIC.to_vec();
            for (index, block) in &records {
                bytes.extend_from_slice(&record(*index, *block));
            }
            let cut = cut.index(records.len() * RECORD + 1);
            bytes.truncate(MAGIC.len() + cut);
            bytes.extend_from_slice(&junk);
            let read = parse(&bytes).unwrap();
            prop_assert_eq!(&read[..], &records[..cut / RECORD]);
        }
    }

    #[test]
    fn many_threads_append_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let logs = &logs;
                scope.spawn(move || {
                    for index in 0..10 {
                        logs.append("snap-2", thread * 10 + index, block(1)).unwrap();
                    }
                });
            }
        });
        let again = Logs::open(directory.path()).unwrap();
        assert_eq!(again.blocks("snap-2").unwrap().len(), 40);
    }
}
