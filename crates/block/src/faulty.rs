//! A store that fails when it is told to, for tests of whoever works on one.

use crate::blob::{Blob, BlobStore, Error, Id, Result};
use crate::sync::lock;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`BlobStore::put`].
    Put,
    /// [`BlobStore::get`] and [`BlobStore::stored`].
    Get,
    /// [`BlobStore::list`].
    List,
    /// [`BlobStore::delete`].
    Delete,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`Error::Full`].
    Full,
    /// [`Error::Io`] with EIO: a read or write error of the disk.
    Disk,
    /// [`Error::Remote`].
    Remote,
    /// It succeeds, this much later.
    Slow(Duration),
}

/// Over another store.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn BlobStore>,
    faults: Mutex<Vec<(Operation, u64, Fault)>>,
    met: AtomicU64,
}

impl Faulty {
    /// Without faults.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Faulty { inner, faults: Mutex::default(), met: AtomicU64::new(0) }
    }

    /// From its call number `after` on (0 is the next), the operation fails until
    /// [`Faulty::heal`].
    pub fn fail(&self, operation: Operation, after: u64, fault: Fault) {
        lock(&self.faults).push((operation, after, fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        lock(&self.faults).clear();
    }

    /// How many calls have met a fault.
    pub fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }

    fn meet(&self, operation: Operation) -> Result<()> {
        let mut met = None;
        for (of, after, fault) in lock(&self.faults).iter_mut() {
            if *of == operation {
                match after.checked_sub(1) {
                    Some(left) => *after = left,
                    None => met = Some(*fault),
                }
            }
        }
        self.met.fetch_add(u64::from(met.is_some()), Ordering::Relaxed);
        match met {
            None => Ok(()),
            Some(Fault::Full) => Err(Error::Full),
            Some(Fault::Disk) => Err(Error::Io(io::Error::from_raw_os_error(5))),
            Some(Fault::Remote) => Err(Error::Remote("it does not answer".to_owned())),
            Some(Fault::Slow(time)) => {
                std::thread::sleep(time);
                Ok(())
            }
        }
    }
}

impl BlobStore for Faulty {
    fn put(&self, blob: &Blob<'_>) -> Result<bool> {
        self.meet(Operation::Put)?;
        self.inner.put(blob)
    }

    fn get(&self, id: Id) -> Result<Vec<u8>> {
        self.meet(Operation::Get)?;
        self.inner.get(id)
    }

    fn stored(&self, id: Id) -> Result<Option<u64>> {
        self.meet(Operation::Get)?;
        self.inner.stored(id)
    }

    fn list(&self, visit: &mut dyn FnMut(Id, u64) -> ControlFlow<()>) -> Result<()> {
        self.meet(Operation::List)?;
        self.inner.list(visit)
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.meet(Operation::Delete)?;
        self.inner.delete(id)
    }
}
