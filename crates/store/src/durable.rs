//! The redb backend: a journal makes each batch durable, and what the journal says goes into a
//! redb database in the background. docs/design/0001-journal-before-redb.md says why.
//!
//! ```text
//! batch ──> journal segment, fdatasync ──> acknowledged
//!                │ segment full
//!                ▼
//!           checkpointer: the last version of each key that changed ──> one redb commit
//!                │
//!                ▼
//!           segment used again
//! ```
//!
//! Opening reads redb, then does what the journal says after the checkpoint. The checkpointer
//! never delays a write; what it could not do (a full disk) stays in the journal and is done later.
//!
//! ```text
//! DIR/lock            held while the store is open
//! DIR/state.redb      the checkpoint: tables record, lease, meta
//! DIR/journal/        segments and spares
//! ```

use crate::disk::{Directory, Disk, private_file};
use crate::encoding::{Reader, put_version};
use crate::engine::{Durable, Engine};
use crate::journal::{Journal, Opened, Sealed, Spares};
use crate::state::{State, Step};
use crate::{Error, LeaseId, Options};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FORMAT: u64 = 1;
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("record");
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("lease");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// redb's page cache. All reads but the first come from our own memory.
const REDB_CACHE: usize = 4 << 20;

/// The checkpointer rests so many times as long as it worked, to leave the processors to requests…
const REST_FACTOR: u32 = 2;

/// …unless more than this waits in the journal.
const HURRY_BYTES: u64 = 512 << 20;

/// How long after a failed checkpoint it is tried again.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(1);

/// How long a lock may be held by who is about to let it go.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Opens the store in the directory `path`.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Engine, Error> {
    let journal_path = path.join("journal");
    let make = |path: &Path| {
        Directory::open(path.to_owned()).map_err(|e| Error::io("make the directory", path, e))
    };
    let root = make(path)?;
    let journal = make(&journal_path)?;
    let lock = lock(path)?;
    let checkpoint = Checkpoint::open(path.join("state.redb"))?;
    root.sync().map_err(|e| Error::io("sync the directory", path, e))?;
    open_on(checkpoint, Arc::new(journal), lock, options)
}

/// One process at a time. The lock goes with the process, however it ends; but for a moment also
/// with a child that it was about to start, so we are patient.
fn lock(path: &Path) -> Result<File, Error> {
    let name = path.join("lock");
    let file = private_file(&name).map_err(|e| Error::io("open", &name, e))?;
    patiently(|| match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &name, e)),
    })?;
    Ok(file)
}

/// Tries until it is something else than [`Error::Locked`], or [`LOCK_PATIENCE`] is over.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(Error::Locked { .. }) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

fn open_on(
    mut checkpoint: Checkpoint,
    disk: Arc<dyn Disk>,
    lock: File,
    options: &Options,
) -> Result<Engine, Error> {
    let (mut state, sequence) = checkpoint.load()?;
    let Opened { journal, sealed, changed } =
        Journal::open(disk, options.segment_bytes, sequence, &mut state)?;

    let (send, receive) = mpsc::channel();
    let spares = journal.spares();
    let checkpointer = std::thread::Builder::new()
        .name("store-checkpoint".into())
        .spawn(move || Checkpointer::new(checkpoint, spares).run(&receive))
        .map_err(|e| Error::io("start the checkpoint thread of", "the store", e))?;
    let mut durable = Journaled {
        work: Some(send),
        checkpointer: Some(checkpointer),
        durable: state.clone(),
        journal,
        changed,
        _lock: lock,
    };
    if !sealed.is_empty() {
        durable.hand_over(sealed, durable.journal.last_sequence());
    }
    Engine::start(state, durable, options)
}

/// Writes batches to the journal and hands full segments to the checkpointer.
struct Journaled {
    journal: Journal,
    /// What the journal adds up to.
    durable: State,
    /// The keys that changed since the last segment was handed over; with repetitions.
    changed: Vec<Arc<str>>,
    work: Option<Sender<Work>>,
    checkpointer: Option<JoinHandle<()>>,
    /// The last field: dropped when all else is closed.
    _lock: File,
}

/// For the checkpointer.
struct Work {
    state: State,
    /// The last sequence in `state`.
    sequence: u64,
    changed: Vec<Arc<str>>,
    sealed: Vec<Sealed>,
}

impl Journaled {
    /// Segments that get no more records, and `sequence`, up to which `durable` is.
    fn hand_over(&mut self, sealed: Vec<Sealed>, sequence: u64) {
        let work = Work {
            state: self.durable.clone(),
            sequence,
            changed: std::mem::take(&mut self.changed),
            sealed,
        };
        // It ends only with us, or by a panic; then the journal grows, and nothing is lost.
        let _ = self.work.as_ref().map(|w| w.send(work));
    }
}

impl Durable for Journaled {
    fn write(&mut self, batch: &[Step], after: &State) -> Result<(), Error> {
        let before = self.journal.last_sequence();
        let (sealed, written) = self.journal.append(batch);
        if let Some(sealed) = sealed {
            self.hand_over(vec![sealed], before);
        }
        written?;
        self.durable = after.clone();
        for step in batch {
            if let Step::Commit(commit) = step {
                self.changed.extend(commit.events.iter().map(|e| Arc::clone(&e.key)));
            }
        }
        Ok(())
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.checkpointer.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's checkpoint thread panicked");
        }
    }
}

/// The redb database.
struct Checkpoint {
    path: PathBuf,
    /// `None` after an error, until it is opened again: redb refuses to go on after one.
    database: Option<Database>,
}

impl Checkpoint {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let mut checkpoint = Checkpoint { path, database: None };
        checkpoint.database()?;
        Ok(checkpoint)
    }

    fn database(&mut self) -> Result<&Database, Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => patiently(|| {
                let file =
                    private_file(&self.path).map_err(|e| Error::io("open", &self.path, e))?;
                let mut builder = Database::builder();
                builder.set_cache_size(REDB_CACHE);
                builder.create_file(file).map_err(|e| self.error("open", e))
            })?,
        };
        Ok(self.database.insert(database))
    }

    fn error(&self, doing: &'static str, error: impl Into<redb::Error>) -> Error {
        match error.into() {
            redb::Error::Io(source) => Error::io(doing, &self.path, source),
            redb::Error::DatabaseAlreadyOpen => Error::Locked { path: self.path.clone() },
            redb::Error::Corrupted(what) => Error::Corrupt { path: self.path.clone(), what },
            other => Error::io(doing, &self.path, io::Error::other(other)),
        }
    }

    /// The state in it, and the last sequence of the journal that it includes.
    fn load(&mut self) -> Result<(State, u64), Error> {
        self.database()?;
        let database = self.database.as_ref().ok_or(Error::Closed)?;
        // The inner error is a format that we do not know.
        let read = || -> Result<Result<(State, u64), u64>, redb::Error> {
            let txn = database.begin_read()?;
            let meta = match txn.open_table(META) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Ok(Default::default())),
                other => other?,
            };
            let number = |name| -> Result<u64, redb::Error> {
                Ok(meta.get(name)?.map_or(0, |number| number.value()))
            };
            let format = number("format")?;
            if format > FORMAT {
                return Ok(Err(format));
            }
            let mut state = State::default();
            for lease in txn.open_table(LEASES)?.iter()? {
                let (id, ttl) = lease?;
                state.insert_lease(LeaseId(id.value()), ttl.value());
            }
            for record in txn.open_table(RECORDS)?.iter()? {
                let (key, value) = record?;
                let entry = Reader(value.value()).version(key.value().into());
                let entry = entry.ok_or_else(|| {
                    redb::Error::Corrupted(format!("the record {:?} cannot be read", key.value()))
                })?;
                state.put(entry);
            }
            state.snapshot.revision = number("revision")?;
            state.last_lease = number("last_lease")?;
            Ok(Ok((state, number("sequence")?)))
        };
        let loaded = read().map_err(|e| self.error("read", e))?;
        loaded.map_err(|found| Error::NewerFormat {
            path: self.path.clone(),
            found,
            supported: FORMAT,
        })
    }

    /// Writes what `state` says of the keys `changed`, all leases and numbers, in one commit.
    fn write(&mut self, state: &State, sequence: u64, changed: &[Arc<str>]) -> Result<(), Error> {
        let database = self.database()?;
        let write = || -> Result<(), redb::Error> {
            let mut txn = database.begin_write()?;
            // Checkpoints are rare: the slower commit that needs no repair after a crash.
            txn.set_quick_repair(true);
            {
                let mut records = txn.open_table(RECORDS)?;
                let mut bytes = Vec::new();
                for key in changed {
                    match state.snapshot.entries.get(key) {
                        Some(entry) => {
                            bytes.clear();
                            put_version(&mut bytes, entry);
                            records.insert(&**key, bytes.as_slice())?;
                        }
                        None => drop(records.remove(&**key)?),
                    }
                }
                let mut leases = txn.open_table(LEASES)?;
                leases.retain(|id, _| state.leases.contains_key(&LeaseId(id)))?;
                for (id, lease) in &state.leases {
                    leases.insert(id.0, lease.ttl_seconds)?;
                }
                let mut meta = txn.open_table(META)?;
                meta.insert("format", FORMAT)?;
                meta.insert("revision", state.snapshot.revision)?;
                meta.insert("last_lease", state.last_lease)?;
                meta.insert("sequence", sequence)?;
            }
            txn.commit()?;
            Ok(())
        };
        let written = write().map_err(|e| self.error("write the checkpoint", e));
        if written.is_err() {
            self.database = None;
        }
        written
    }
}

/// The background thread: journal segments to redb, in order.
struct Checkpointer {
    checkpoint: Checkpoint,
    spares: Arc<Spares>,
    waiting: Option<Work>,
}

impl Checkpointer {
    fn new(checkpoint: Checkpoint, spares: Arc<Spares>) -> Self {
        Checkpointer { checkpoint, spares, waiting: None }
    }

    fn run(mut self, queue: &Receiver<Work>) {
        let mut rest_until = Instant::now();
        loop {
            if let Err(error) = self.spares.prepare() {
                tracing::warn!(error = %error, "no spare journal segment");
            }
            // With nothing to do, until there is; else until the rest is over.
            let received = match &self.waiting {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => queue.recv_timeout(rest_until.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(work) => self.merge(work),
                Err(RecvTimeoutError::Timeout) => {}
                // What waits is in the journal, and is done after the next start.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(work) = queue.try_recv() {
                self.merge(work);
            }
            let hurry = self.waiting_bytes() > HURRY_BYTES;
            if !hurry && Instant::now() < rest_until {
                continue;
            }
            let begun = Instant::now();
            let rest = match self.work() {
                Ok(()) => begun.elapsed() * REST_FACTOR,
                Err(error) => {
                    tracing::warn!(error = %error, "the checkpoint failed and is tried again");
                    CHECKPOINT_RETRY
                }
            };
            rest_until = Instant::now() + rest;
        }
    }

    fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().flat_map(|work| &work.sealed).map(|s| s.bytes).sum()
    }

    fn merge(&mut self, mut new: Work) {
        if let Some(old) = self.waiting.take() {
            let mut sealed = old.sealed;
            sealed.append(&mut new.sealed);
            new.sealed = sealed;
            new.changed.extend(old.changed);
        }
        self.waiting = Some(new);
    }

    fn work(&mut self) -> Result<(), Error> {
        let Some(work) = &mut self.waiting else { return Ok(()) };
        work.changed.sort_unstable();
        work.changed.dedup();
        self.checkpoint.write(&work.state, work.sequence, &work.changed)?;
        let work = self.waiting.take();
        for sealed in work.iter().flat_map(|work| &work.sealed) {
            if let Err(error) = self.spares.recycle(sealed) {
                // It is skipped at the next start, and recycled then.
                tracing::warn!(error = %error, "a journal segment stays behind");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "durable_tests.rs"]
mod tests;
