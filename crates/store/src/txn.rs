//! A transaction: compares, and what to do if they all hold or if one does not.

use crate::record::{Decoded, KeyValue, Snapshot};
use crate::{Error, LeaseId, Revision};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The most compares, and the most operations in either branch, of one transaction. A request that
/// names a thousand instances is one transaction; etcd has to be run with `--max-txn-ops` this
/// high (its default is 128), so that what works on one backend works on all.
pub const MAX_OPS: usize = 8_192;

/// The most bytes, keys and values together, of one transaction; etcd's `--max-request-bytes`
/// (its default is 1.5 MiB).
pub const MAX_TXN_BYTES: usize = 16 << 20;

/// A condition on one key or prefix. All conditions of a transaction are judged at the same instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision; 0: the key does not exist.
    ModRevision {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key came into being at this revision; 0: the key does not exist.
    CreateRevision {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key was put so many times since it came into being; 0: the key does not exist.
    Version {
        /// The key.
        key: String,
        /// The number of puts.
        is: u64,
    },
    /// The key exists and has this value.
    Value {
        /// The key.
        key: String,
        /// The value.
        is: Vec<u8>,
    },
    /// No key that starts with the prefix was put after this revision, etcd's compare of a range.
    /// A deletion does not count. It looks at every key there.
    NothingNewer {
        /// The prefix; not empty.
        prefix: String,
        /// The revision.
        than: Revision,
    },
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<String>) -> Self {
        Compare::ModRevision { key: key.into(), is: 0 }
    }

    /// The key still has this version.
    pub fn unchanged(entry: &KeyValue) -> Self {
        Compare::ModRevision { key: entry.key().to_owned(), is: entry.mod_revision() }
    }

    /// The key or prefix it is about.
    pub fn key(&self) -> &str {
        match self {
            Compare::ModRevision { key, .. }
            | Compare::CreateRevision { key, .. }
            | Compare::Version { key, .. }
            | Compare::Value { key, .. }
            | Compare::NothingNewer { prefix: key, .. } => key,
        }
    }

    /// Whether it holds in `snapshot`.
    pub fn holds(&self, snapshot: &Snapshot) -> bool {
        let entry = snapshot.entries.get(self.key());
        match self {
            Compare::ModRevision { is, .. } => entry.map_or(0, KeyValue::mod_revision) == *is,
            Compare::CreateRevision { is, .. } => entry.map_or(0, KeyValue::create_revision) == *is,
            Compare::Version { is, .. } => entry.map_or(0, KeyValue::version) == *is,
            Compare::Value { is, .. } => entry.is_some_and(|e| e.value() == is.as_slice()),
            Compare::NothingNewer { prefix, than } => {
                snapshot.scan(prefix).all(|entry| entry.mod_revision() <= *than)
            }
        }
    }
}

/// One change.
#[derive(Clone)]
pub enum Op {
    /// Writes a version of the key.
    Put {
        /// The key; not empty.
        key: String,
        /// The record's JSON.
        value: Vec<u8>,
        /// The lease with which the key goes; without one it stays. It must exist.
        lease: Option<LeaseId>,
        /// The record that `value` is the JSON of, to spare the readers from parsing it.
        decoded: Option<Decoded>,
    },
    /// Removes the key; not an error if it does not exist.
    Delete {
        /// The key; not empty.
        key: String,
    },
    /// Removes every key that starts with the prefix; the empty prefix is all.
    DeletePrefix {
        /// The prefix.
        prefix: String,
    },
}

impl Op {
    /// Writes `record` as JSON.
    pub fn put(key: impl Into<String>, record: &impl Serialize) -> Result<Self, Error> {
        let key = key.into();
        let value = to_json(&key, record)?;
        Ok(Op::Put { key, value, lease: None, decoded: None })
    }

    /// Writes `record` as JSON and keeps the record, so that
    /// [`KeyValue::decode`] of the same type parses nothing.
    pub fn put_record<T: Serialize + Send + Sync + 'static>(
        key: impl Into<String>,
        record: Arc<T>,
    ) -> Result<Self, Error> {
        let key = key.into();
        let value = to_json(&key, &*record)?;
        Ok(Op::Put { key, value, lease: None, decoded: Some(record) })
    }

    /// Writes bytes as they are.
    pub fn put_bytes(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Op::Put { key: key.into(), value: value.into(), lease: None, decoded: None }
    }

    /// Removes one key.
    pub fn delete(key: impl Into<String>) -> Self {
        Op::Delete { key: key.into() }
    }

    /// Removes every key that starts with the prefix.
    pub fn delete_prefix(prefix: impl Into<String>) -> Self {
        Op::DeletePrefix { prefix: prefix.into() }
    }

    /// Ties a put to a lease; without meaning for a deletion.
    #[must_use]
    pub fn with_lease(mut self, id: LeaseId) -> Self {
        if let Op::Put { lease, .. } = &mut self {
            *lease = Some(id);
        }
        self
    }
}

fn to_json(key: &str, record: &impl Serialize) -> Result<Vec<u8>, Error> {
    // Most records are smaller: none of them grows its buffer step by step.
    let mut value = Vec::with_capacity(2_048);
    match serde_json::to_writer(&mut value, record) {
        Ok(()) => Ok(value),
        Err(error) => Err(Error::Encode { key: key.to_owned(), source: Arc::new(error) }),
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Put { key, value, lease, .. } => f
                .debug_struct("Put")
                .field("key", key)
                .field("value", &String::from_utf8_lossy(value))
                .field("lease", lease)
                .finish(),
            Op::Delete { key } => f.debug_struct("Delete").field("key", key).finish(),
            Op::DeletePrefix { prefix } => {
                f.debug_struct("DeletePrefix").field("prefix", prefix).finish()
            }
        }
    }
}

/// If all `compares` hold, all of `success` happens, else all of `failure`; in one instant and at
/// one revision. A key may be put once in a branch, and not be put and deleted in the same one.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The conditions; none always holds.
    pub compares: Vec<Compare>,
    /// What happens if all hold.
    pub success: Vec<Op>,
    /// What happens if one does not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// An unconditional transaction.
    pub fn write(ops: Vec<Op>) -> Self {
        Txn { compares: Vec::new(), success: ops, failure: Vec::new() }
    }

    /// A transaction that happens only if the compares hold.
    pub fn when(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        Txn { compares, success: ops, failure: Vec::new() }
    }

    /// Checks the limits; what needs the state (leases) is checked when it runs.
    /// Returns the size in bytes.
    pub(crate) fn validate(&self) -> Result<usize, Error> {
        let count = self.compares.len();
        if count > MAX_OPS {
            return Err(Error::TooManyOps { what: "compares", count });
        }
        if self.compares.iter().any(|c| c.key().is_empty()) {
            return Err(Error::EmptyKey);
        }
        let mut bytes = 0;
        for compare in &self.compares {
            bytes += compare.key().len();
            if let Compare::Value { is, .. } = compare {
                bytes += is.len();
            }
        }
        for branch in [&self.success, &self.failure] {
            bytes += validate_branch(branch)?;
        }
        if bytes > MAX_TXN_BYTES {
            return Err(Error::TooLarge { bytes });
        }
        Ok(bytes)
    }
}

/// The size of the branch in bytes.
fn validate_branch(ops: &[Op]) -> Result<usize, Error> {
    if ops.len() > MAX_OPS {
        return Err(Error::TooManyOps { what: "operations", count: ops.len() });
    }
    let mut bytes = 0;
    let mut put = BTreeSet::new();
    for op in ops {
        bytes += match op {
            Op::Put { key, .. } | Op::Delete { key } if key.is_empty() => {
                return Err(Error::EmptyKey);
            }
            Op::Put { key, value, .. } => {
                if !put.insert(key.as_str()) {
                    return Err(Error::DuplicateKey { key: key.clone() });
                }
                key.len() + value.len()
            }
            Op::Delete { key } => key.len(),
            Op::DeletePrefix { prefix } => prefix.len(),
        };
    }
    for op in ops {
        let clash = match op {
            Op::Put { .. } => None,
            Op::Delete { key } => put.get(key.as_str()),
            Op::DeletePrefix { prefix } => {
                let first = put.range(prefix.as_str()..).next();
                first.filter(|key| key.starts_with(prefix.as_str()))
            }
        };
        if let Some(key) = clash {
            return Err(Error::DuplicateKey { key: (*key).to_owned() });
        }
    }
    Ok(bytes)
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the compares held, so that `success` happened and not `failure`.
    pub succeeded: bool,
    /// The revision after it: its own if it changed anything.
    pub revision: Revision,
}
