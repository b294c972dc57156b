//! Blobs as files of one directory.
//!
//! ```text
//! <directory>/tmp/…                     being written; removed when the store is opened
//! <directory>/ba/ba7816bf8f01cf…        a blob, in one of 256 directories
//! ```
//!
//! A blob is written to a temporary file, which is synced, renamed and then its directory synced:
//! a file under a blob's name has been whole once. Syncs of many threads overlap, and threads
//! that wait for the same directory share one.
//!
//! A blob that is there already is compared with what is to be written, and replaced if it differs:
//! a put of the same content heals what the disk damaged.
//!
//! One process writes (the daemon); others open the store read-only, which touches nothing.

use crate::blob::{Blob, BlobStore, Error, Id, MOST_BYTES, Result, check_length, verified};
use crate::sync::Syncer;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Local {
    directory: PathBuf,
    writable: bool,
    /// For names of temporary files.
    written: AtomicU64,
    /// By the first byte of the name.
    synced: Vec<Syncer>,
}

impl Local {
    /// Opens or makes the store and removes what an earlier process left half-written.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(directory: &Path) -> Result<Self> {
        let store = Local::new(directory, true);
        let made = || -> io::Result<()> {
            fs::create_dir_all(directory)?;
            // QEMU runs as other users below the same data directory, and blocks of unencrypted
            // content lie here as they are.
            if let Err(error) = fs::set_permissions(directory, Permissions::from_mode(0o700)) {
                tracing::warn!(?directory, %error, "others may look into the blob store");
            }
            for first in 0..=255_u8 {
                make_directory(&directory.join(format!("{first:02x}")))?;
            }
            let temporary = directory.join("tmp");
            make_directory(&temporary)?;
            for entry in fs::read_dir(&temporary)? {
                fs::remove_file(entry?.path())?;
            }
            sync_directory(directory)?;
            if let Some(parent) = directory.parent().filter(|p| !p.as_os_str().is_empty()) {
                sync_directory(parent)?;
            }
            Ok(())
        };
        made().map_err(Error::of_disk)?;
        Ok(store)
    }

    /// Opens the store to read only: for a process beside the one that writes.
    ///
    /// # Errors
    /// The directory is not there.
    pub fn open_read_only(directory: &Path) -> Result<Self> {
        fs::read_dir(directory)?;
        Ok(Local::new(directory, false))
    }

    fn new(directory: &Path, writable: bool) -> Self {
        Local {
            directory: directory.to_owned(),
            writable,
            written: AtomicU64::new(0),
            synced: (0..256).map(|_| Syncer::unknown()).collect(),
        }
    }

    fn fan(&self, id: Id) -> PathBuf {
        self.directory.join(format!("{:02x}", id.0[0]))
    }

    fn path(&self, id: Id) -> PathBuf {
        let mut path = self.fan(id);
        path.push(id.to_string());
        path
    }

    fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "opened to read only")))
    }

    fn write(&self, blob: &Blob<'_>) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join("tmp").join(format!("{}.{number}", blob.id()));
        let result = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            file.write_all(blob.bytes())?;
            file.sync_data()?;
            let path = self.path(blob.id());
            fs::rename(&temporary, &path).or_else(|error| match error.kind() {
                // Whatever made it, a blob is a file.
                io::ErrorKind::IsADirectory => {
                    fs::remove_dir(&path)?;
                    fs::rename(&temporary, &path)
                }
                _ => Err(error),
            })
        })();
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The whole file; `None` if there is none. A file longer than any blob is cut short, so that it
/// is damaged to whoever hashes it.
fn read(path: &Path, expected: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = match expected {
        0 => usize::try_from(file.metadata()?.len()).unwrap_or(MOST_BYTES),
        expected => expected,
    };
    // One byte more than expected: the read that finds the end needs no second buffer.
    let mut bytes = Vec::with_capacity(length.min(MOST_BYTES) + 1);
    file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

impl BlobStore for Local {
    fn put(&self, blob: &Blob<'_>) -> Result<bool> {
        self.check_writable()?;
        check_length(blob)?;
        let id = blob.id();
        let synced = &self.synced[usize::from(id.0[0])];
        // A file that cannot be read is as good as damaged: it is replaced.
        let there = match read(&self.path(id), blob.bytes().len()) {
            Ok(Some(bytes)) if bytes == blob.bytes() => true,
            Ok(None) => false,
            Ok(Some(_)) | Err(_) => {
                tracing::error!(blob = %id, "a blob was damaged: it is written again");
                false
            }
        };
        if !there {
            self.write(blob).map_err(Error::of_disk)?;
            synced.changed();
        }
        // Also for a blob that was there: whoever renamed it may not have synced it yet.
        synced.wait(|| sync_directory(&self.fan(id))).map_err(Error::of_disk)?;
        Ok(!there)
    }

    fn get(&self, id: Id) -> Result<Vec<u8>> {
        let bytes = read(&self.path(id), 0)?.ok_or(Error::NotFound(id))?;
        verified(id, bytes)
    }

    fn stored(&self, id: Id) -> Result<Option<u64>> {
        match fs::metadata(self.path(id)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Io(error)),
        }
    }

    fn list(&self, visit: &mut dyn FnMut(Id, u64) -> ControlFlow<()>) -> Result<()> {
        for first in 0..=255_u8 {
            let entries = match fs::read_dir(self.directory.join(format!("{first:02x}"))) {
                // Read-only, before the writer made it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let Some(id) = name.to_str().and_then(|name| name.parse::<Id>().ok()) else {
                    tracing::warn!(file = ?entry.path(), "a file among the blobs is none");
                    continue;
                };
                let bytes = match entry.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    metadata => metadata?.len(),
                };
                if id.0[0] == first && visit(id, bytes).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.check_writable()?;
        let path = self.path(id);
        let removed = fs::remove_file(&path).or_else(|error| match error.kind() {
            io::ErrorKind::IsADirectory => fs::remove_dir(&path),
            _ => Err(error),
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_look_into_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blobs");
        // Also one that another version made.
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Local::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
