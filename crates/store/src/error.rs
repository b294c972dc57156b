//! What can go wrong in a store. Every error is cheap to clone, since one failed write to the disk
//! answers every transaction of its batch.

use crate::{LeaseId, Revision};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_OPS`](crate::MAX_OPS) compares, or operations in one branch.
    #[error("a transaction of {count} {what}; at most {} are allowed", crate::MAX_OPS)]
    TooManyOps {
        /// `compares` or `operations`.
        what: &'static str,
        /// How many there were.
        count: usize,
    },
    /// The keys and values of one transaction exceed [`MAX_TXN_BYTES`](crate::MAX_TXN_BYTES).
    #[error("a transaction of {bytes} bytes; at most {} are allowed", crate::MAX_TXN_BYTES)]
    TooLarge {
        /// The sum of the lengths of its keys and values.
        bytes: usize,
    },
    /// A put, a delete or a compare without a key.
    #[error("the key is empty")]
    EmptyKey,
    /// A key is put twice, or put and deleted, in one branch of a transaction.
    #[error("the key {key:?} is written twice in one transaction")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The lease never existed, was revoked or has expired.
    #[error("lease {0} does not exist or has expired")]
    LeaseNotFound(LeaseId),
    /// The change log does not reach back that far. The caller lists again, from a new snapshot.
    #[error("changes before revision {oldest} are forgotten; list again from a snapshot")]
    Compacted {
        /// The oldest revision from which a watch can start.
        oldest: Revision,
    },
    /// A compaction was asked for a revision that does not exist yet.
    #[error("revision {asked} is in the future; the store is at {current}")]
    FutureRevision {
        /// What was asked.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The value of a key is not the JSON of the type asked for.
    #[error("the record at {key:?} cannot be read")]
    Decode {
        /// Its key.
        key: String,
        /// What the parser says.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A record cannot be written as JSON.
    #[error("the record for {key:?} cannot be written as JSON")]
    Encode {
        /// Its key.
        key: String,
        /// What the writer says.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The disk is full, or a quota is reached. Nothing was written; the same request can be made
    /// again when there is space.
    #[error("the disk that holds {} is full; nothing was written", .path.display())]
    StorageFull {
        /// The store's directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another input/output error. Whether the write survives a restart is unknown, as after a
    /// lost connection; a snapshot of this process does not show it.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process; stop it, or choose another data directory", .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The files were written by a newer version of this program.
    #[error("{} has format {found}; this program reads up to format {supported}: use a newer one", .path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest one we read.
        supported: u64,
    },
    /// The files contradict themselves: acknowledged writes may be missing. The store does not open.
    #[error("{} is damaged: {what}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The store was closed while the request waited.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// An input/output error with what was being done; a full disk is told apart.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::StorageFull { path, source: Arc::new(source) }
            }
            _ => Error::Io { doing, path, source: Arc::new(source) },
        }
    }

    /// Whether the disk is full and the same request may succeed later.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Error::StorageFull { .. })
    }
}
