//! The few things the journal asks of a file system, so that tests can give it a disk that fails
//! or loses power.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One directory of files.
pub(crate) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The files and their lengths, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Reads a file from its beginning.
    fn read(&self, name: &str) -> io::Result<Box<dyn Read>>;

    /// Opens a file for writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a file of `bytes` zeros, all written (not only reserved) and durable. A file that is
    /// there is replaced; on an error none is left.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; whether that is durable does not matter.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A file open for writing.
pub(crate) trait DiskFile: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all that was written would survive the loss of power.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens the directory; makes it, readable by the owner alone, if it is missing.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        if let Some(parent) = path.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?; // It may be new, and its name has to last.
        }
        Ok(Directory(path))
    }

    /// Makes the names in it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// Opens a file of the store, readable by the owner alone.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl Disk for Directory {
    fn path(&self) -> &Path {
        &self.0
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(self.0.join(name))?))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.0.join(name);
        let fill = || {
            let file = private_file(&path)?;
            file.set_len(0)?;
            let zeros = vec![0; 1 << 18];
            let mut position = 0;
            while position < bytes {
                let length = bytes.saturating_sub(position).min(1 << 18);
                let zeros = &zeros[..usize::try_from(length).unwrap_or(0)];
                file.write_all_at(zeros, position)?;
                position += length;
            }
            file.sync_all()?;
            self.sync()?;
            Ok(file)
        };
        let made: io::Result<File> = fill();
        if made.is_err() {
            let _ = fs::remove_file(&path); // Its blocks are what the disk lacks.
        }
        Ok(Box::new(made?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }
}

impl DiskFile for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
