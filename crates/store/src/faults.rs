//! A disk for tests, in memory: it can fail, lie about nothing, and lose power.
//!
//! Each file has what is durable, what a reader sees, and the writes since the last sync. When the
//! power goes, each sector of each such write is there or not, as the dice fall. After a failed
//! sync they are seen until then and never become durable, whatever later syncs say: that is what
//! Linux does with pages that could not be written.

use crate::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

#[derive(Clone, Default, Debug)]
struct Content {
    durable: Vec<u8>,
    seen: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl Content {
    fn new(durable: Vec<u8>) -> Self {
        Content { seen: durable.clone(), durable, pending: Vec::new() }
    }
}

fn place(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// What happens to the next operations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// No more files.
    Full,
    /// Writes arrive, and then the sync fails.
    Sync,
    /// Half of a write arrives, and then an error.
    Write,
}

#[derive(Clone, Default, Debug)]
struct Inner {
    /// By name, the place in `contents`; an open file stays the same under a new name.
    names: BTreeMap<String, usize>,
    contents: Vec<Content>,
    fault: Fault,
}

impl Inner {
    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

/// The disk. A clone is the same disk.
#[derive(Clone, Default, Debug)]
pub(crate) struct FaultyDisk(Arc<Mutex<Inner>>);

struct Handle {
    disk: FaultyDisk,
    content: usize,
}

impl FaultyDisk {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.with(|inner| inner.fault = fault);
    }

    /// Another disk that is like this one but for a change.
    fn changed(&self, change: impl FnOnce(&mut Inner)) -> FaultyDisk {
        let mut inner = self.with(|inner| inner.clone());
        inner.fault = Fault::None;
        change(&mut inner);
        FaultyDisk(Arc::new(Mutex::new(inner)))
    }

    /// The power fails: another disk, with what is left.
    pub(crate) fn after_power_loss(&self, random: &mut fastrand::Rng) -> FaultyDisk {
        self.changed(|inner| {
            for content in &mut inner.contents {
                for (offset, bytes) in std::mem::take(&mut content.pending) {
                    let mut position = 0;
                    while position < bytes.len() {
                        let end = ((offset + position) / SECTOR + 1) * SECTOR - offset;
                        let end = end.min(bytes.len());
                        if random.bool() {
                            let sector = &bytes[position..end];
                            place(&mut content.durable, offset + position, sector);
                        }
                        position = end;
                    }
                }
                content.seen = content.durable.clone();
            }
        })
    }

    /// Another disk, in which one file's content went through `change`.
    pub(crate) fn with_changed(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> FaultyDisk {
        self.changed(|inner| {
            let place = inner.find(name).unwrap();
            let mut content = std::mem::take(&mut inner.contents[place].seen);
            change(&mut content);
            inner.contents[place] = Content::new(content);
        })
    }

    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        self.with(|inner| inner.contents[inner.find(name).unwrap()].seen.clone())
    }
}

impl Disk for FaultyDisk {
    fn path(&self) -> &Path {
        Path::new("/faulty")
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.with(|inner| {
            let length = |place: usize| inner.contents[place].seen.len() as u64;
            Ok(inner.names.iter().map(|(name, place)| (name.clone(), length(*place))).collect())
        })
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.with(|inner| {
            let content = inner.contents[inner.find(name)?].seen.clone();
            Ok(Box::new(Cursor::new(content)) as Box<dyn Read>)
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let content = self.with(|inner| inner.find(name))?;
        Ok(Box::new(Handle { disk: self.clone(), content }))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.with(|inner| {
            if inner.fault == Fault::Full {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            inner.names.insert(name.to_owned(), inner.contents.len());
            inner.contents.push(Content::new(vec![0; usize::try_from(bytes).unwrap()]));
            Ok(())
        })?;
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|inner| {
            let place = inner.find(from)?;
            inner.names.remove(from);
            inner.names.insert(to.to_owned(), place);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|inner| inner.names.remove(name))
            .map(|_| ())
            .ok_or(io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for Handle {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.with(|inner| {
            let arrives = if inner.fault == Fault::Write { bytes.len() / 2 } else { bytes.len() };
            let offset = usize::try_from(offset).unwrap();
            let content = &mut inner.contents[self.content];
            place(&mut content.seen, offset, &bytes[..arrives]);
            content.pending.push((offset, bytes[..arrives].to_vec()));
            match inner.fault {
                Fault::Write => Err(io::Error::other("injected: the write failed")),
                _ => Ok(()),
            }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.with(|inner| {
            let content = &mut inner.contents[self.content];
            let pending = std::mem::take(&mut content.pending);
            if inner.fault == Fault::Sync {
                return Err(io::Error::other("injected: the sync failed"));
            }
            for (offset, bytes) in pending {
                place(&mut content.durable, offset, &bytes);
            }
            Ok(())
        })
    }
}
