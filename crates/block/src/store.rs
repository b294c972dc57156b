//! A blob store with the pins of its uploads: what the rest of the crate works on.

use crate::blob::{Blob, BlobStore, Error, Id, Result};
use crate::local::Local;
use crate::pins::{Pinned, Pins};
use crate::s3::{S3, S3Config};
use crate::sync::lock;
use base::volume::Content;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Where blobs are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Config {
    /// A directory of this machine.
    Local {
        /// Made when it is not there.
        directory: PathBuf,
    },
    /// A bucket behind an S3-compatible endpoint.
    S3(S3Config),
}

/// A store and the pins on it. Clones share both. The daemon has one, opened to write.
#[derive(Clone, Debug)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn BlobStore>,
    pins: Arc<Pins>,
    /// Passes of the collection, one at a time.
    pass: Mutex<()>,
    /// By the start of the name: two threads do not write the same blob at once.
    writing: Vec<Mutex<()>>,
}

/// So many that two different blobs seldom wait for each other.
const WRITING: usize = 1024;

impl Blobs {
    /// Opens the store for the one process that writes.
    ///
    /// # Errors
    /// It cannot be made or reached, or the configuration is refused.
    pub fn open(config: &Config) -> Result<Self> {
        Ok(Blobs::new(match config {
            Config::Local { directory } => Arc::new(Local::open(directory)?),
            Config::S3(config) => Arc::new(S3::open(config)?),
        }))
    }

    /// Opens the store for a process that only reads: puts and deletes answer an error.
    ///
    /// # Errors
    /// It is not there, or the configuration is refused.
    pub fn open_read_only(config: &Config) -> Result<Self> {
        Ok(Blobs::new(match config {
            Config::Local { directory } => Arc::new(Local::open_read_only(directory)?),
            Config::S3(config) => Arc::new(S3::open_read_only(config)?),
        }))
    }

    /// As [`Blobs::open`] for a store that was opened before, which must not answer at the moment:
    /// what needs it fails, and can be tried again, until it does.
    ///
    /// # Errors
    /// A directory that cannot be made, or a configuration that makes no sense.
    pub fn open_again(config: &Config) -> Result<Self> {
        match config {
            Config::Local { .. } => Blobs::open(config),
            Config::S3(config) => Ok(Blobs::new(Arc::new(S3::open_again(config)?))),
        }
    }

    /// Over any store.
    pub fn new(store: Arc<dyn BlobStore>) -> Self {
        Blobs(Arc::new(Inner {
            store,
            pins: Arc::new(Pins::new()),
            pass: Mutex::default(),
            writing: (0..WRITING).map(|_| Mutex::default()).collect(),
        }))
    }

    /// The store itself. What is put here is not pinned.
    pub fn store(&self) -> &dyn BlobStore {
        &*self.0.store
    }

    /// Keeps content from being collected while it is read, until the result is dropped. A record
    /// (or another hold) must name it when this is called.
    ///
    /// # Errors
    /// [`Error::NotFound`] if its root is not there, [`Error::Invalid`] if that is no name of a blob.
    pub fn hold(&self, content: &Content) -> Result<Pinned> {
        let root = root_of(content)?;
        let pinned = self.pinned();
        pinned.root(root);
        // A pass could not walk a pinned root that is not there, and would end.
        // A store that cannot be asked at the moment may well have it.
        match self.0.store.exists(root) {
            Ok(false) => Err(Error::NotFound(root)),
            Ok(true) | Err(_) => Ok(pinned),
        }
    }

    /// Whether the store answers when it is asked for this content; an error is an answer too, unless
    /// it is that of an object store that is away.
    pub fn answers(&self, content: &Content) -> bool {
        let Ok(root) = root_of(content) else { return true };
        !matches!(self.0.store.exists(root), Err(Error::Remote(_)))
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// As [`BlobStore::get`].
    pub fn get(&self, id: Id) -> Result<Vec<u8>> {
        self.0.store.get(id)
    }

    /// Nothing is pinned yet.
    pub(crate) fn pinned(&self) -> Pinned {
        Pinned::new(Arc::clone(&self.0.pins))
    }

    /// Pins, then puts. Gives the name, and whether the store did not have it.
    pub(crate) fn put(&self, pinned: &Pinned, bytes: &[u8]) -> Result<(Id, bool)> {
        let blob = Blob::of(bytes);
        // Before the store looks whether it has the blob: from here on nobody deletes it.
        pinned.blob(blob.id());
        let start = usize::from(blob.id().0[0]) << 8 | usize::from(blob.id().0[1]);
        let _alone = lock(&self.0.writing[start % WRITING]);
        Ok((blob.id(), self.0.store.put(&blob)?))
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.0.pins
    }

    pub(crate) fn pass(&self) -> &Mutex<()> {
        &self.0.pass
    }
}

/// The root of content as the name of a blob.
///
/// # Errors
/// [`Error::Invalid`] if it is none.
pub fn root_of(content: &Content) -> Result<Id> {
    content.root.parse().map_err(|error| Error::Invalid(format!("{}: {error}", content.root)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::{Fault, Faulty, Operation};
    use crate::upload;

    #[test]
    fn a_store_that_is_away_may_have_what_is_held_and_does_not_answer() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Faulty::new(Arc::new(Local::open(directory.path()).unwrap())));
        let blobs = Blobs::new(Arc::clone(&store) as Arc<dyn BlobStore>);
        let content = upload::empty(&blobs, 1, None).unwrap().content(None);
        assert!(blobs.answers(&content) && blobs.hold(&content).is_ok());
        store.fail(Operation::Get, 0, Fault::Remote);
        assert!(!blobs.answers(&content));
        let held = blobs.hold(&content).unwrap();
        store.heal();
        crate::collect::collect(&blobs, || Ok(crate::Roots::default())).unwrap();
        assert!(blobs.get(root_of(&content).unwrap()).is_ok(), "held all the same");
        drop(held);
        crate::collect::collect(&blobs, || Ok(crate::Roots::default())).unwrap();
        assert!(blobs.answers(&content), "that it is not there is an answer");
        assert!(matches!(blobs.hold(&content), Err(Error::NotFound(_))));
    }
}
