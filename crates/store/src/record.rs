//! One version of one key, and the immutable map of them all at one revision.

use crate::{Error, LeaseId, Revision};
use imbl::OrdMap;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

/// A typed record kept beside its JSON.
pub type Decoded = Arc<dyn Any + Send + Sync>;

/// One version of one key. Cloning is a reference count.
#[derive(Clone)]
pub struct KeyValue(Arc<Version>);

pub(crate) struct Version {
    pub(crate) key: Arc<str>,
    pub(crate) value: Box<[u8]>,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) decoded: OnceLock<Decoded>,
}

impl KeyValue {
    pub(crate) fn new(version: Version) -> Self {
        KeyValue(Arc::new(version))
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    pub(crate) fn shared_key(&self) -> &Arc<str> {
        &self.0.key
    }

    /// The value as it was put: the record's JSON.
    pub fn value(&self) -> &[u8] {
        &self.0.value
    }

    /// The revision at which the key came into being, after its last deletion.
    pub fn create_revision(&self) -> Revision {
        self.0.create_revision
    }

    /// The revision that wrote this version.
    pub fn mod_revision(&self) -> Revision {
        self.0.mod_revision
    }

    /// How many times the key was put since it came into being; 1 for the first.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The lease with which the key goes.
    pub fn lease(&self) -> Option<LeaseId> {
        self.0.lease
    }

    /// The value decoded from JSON, once per version and shared by all who read it. If the version
    /// was put by [`Op::put_record`](crate::Op::put_record), it is that very record.
    pub fn decode<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, Error> {
        if let Some(known) = self.0.decoded.get()
            && let Ok(record) = Arc::clone(known).downcast::<T>()
        {
            return Ok(record);
        }
        let record: Arc<T> = serde_json::from_slice::<T>(&self.0.value)
            .map(Arc::new)
            .map_err(|e| Error::Decode { key: self.key().to_owned(), source: Arc::new(e) })?;
        // Asked for as two types, the first one stays: rare, and only slower.
        let _ = self.0.decoded.set(record.clone());
        Ok(record)
    }
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.0, &*other.0);
        a.mod_revision == b.mod_revision
            && a.create_revision == b.create_revision
            && a.version == b.version
            && a.lease == b.lease
            && a.key == b.key
            && a.value == b.value
    }
}

impl Eq for KeyValue {}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.0.key)
            .field("value", &String::from_utf8_lossy(&self.0.value))
            .field("create_revision", &self.0.create_revision)
            .field("mod_revision", &self.0.mod_revision)
            .field("version", &self.0.version)
            .field("lease", &self.0.lease)
            .finish()
    }
}

pub(crate) type Entries = OrdMap<Arc<str>, KeyValue>;

/// Everything at one revision. Immutable, cloned in constant time, and never in anyone's way: the
/// writer goes on while it is held. It shows only what is durable.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) entries: Entries,
}

impl Snapshot {
    /// The revision it shows; 0 for a store that was never written.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The key's version, if it exists.
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.entries.get(key).cloned()
    }

    /// Whether the key exists.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The keys that start with `prefix`, in the order of their bytes. The empty prefix is all.
    pub fn scan<'a>(&'a self, prefix: &str) -> impl Iterator<Item = KeyValue> + use<'a> {
        scan(&self.entries, prefix, Bound::Included(prefix)).cloned()
    }

    /// Those of [`scan`](Self::scan) that come after `after_key`, which need not exist: the next
    /// page.
    pub fn scan_from<'a>(
        &'a self,
        prefix: &str,
        after_key: &str,
    ) -> impl Iterator<Item = KeyValue> + use<'a> {
        let start =
            if after_key < prefix { Bound::Included(prefix) } else { Bound::Excluded(after_key) };
        scan(&self.entries, prefix, start).cloned()
    }

    /// How many keys start with `prefix`. Takes time in proportion to that number.
    pub fn count(&self, prefix: &str) -> usize {
        if prefix.is_empty() {
            return self.entries.len();
        }
        scan(&self.entries, prefix, Bound::Included(prefix)).count()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("keys", &self.entries.len())
            .finish()
    }
}

/// The keys share a prefix, so they are neighbours: no end of the range needs to be computed, and
/// prefixes that end in the highest character are no special case.
pub(crate) fn scan<'a>(
    entries: &'a Entries,
    prefix: &str,
    start: Bound<&str>,
) -> impl Iterator<Item = &'a KeyValue> + use<'a> {
    let prefix: Box<str> = prefix.into();
    entries
        .range::<_, str>((start, Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(&*prefix))
        .map(|(_, entry)| entry)
}
