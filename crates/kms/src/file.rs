//! The file of one master key: written whole or not at all, and for its owner alone.

use base::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use zeroize::{Zeroize as _, Zeroizing};

/// A master key as it is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct MasterKey {
    pub(crate) v: u16,
    pub(crate) id: String,
    pub(crate) arn: String,
    /// With their `alias/`.
    pub(crate) aliases: Vec<String>,
    pub(crate) enabled: bool,
    pub(crate) created: Timestamp,
    /// 32 bytes, base64.
    pub(crate) material: String,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("arn", &self.arn).finish_non_exhaustive()
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.material.zeroize();
    }
}

/// Makes a directory and those above it, each durable and closed to others.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Takes away what others may do with a directory that was there before.
pub(crate) fn close_to_others(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Writes a key durably: after a crash the file is the old one or the new one.
pub(crate) fn write(path: &Path, key: &MasterKey) -> io::Result<()> {
    // Not `.json`: what a crash leaves is no key.
    let new = path.with_extension("new");
    let text = Zeroizing::new(serde_json::to_vec(key)?);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a key.
pub(crate) fn read(path: &Path) -> io::Result<MasterKey> {
    let text = Zeroizing::new(fs::read(path)?);
    let key: MasterKey = serde_json::from_slice(&text).map_err(|error| {
        // Not serde_json's text: it may quote what it could not read.
        let place = format!("it is no key (line {}, column {})", error.line(), error.column());
        io::Error::new(io::ErrorKind::InvalidData, place)
    })?;
    if key.v != 1 {
        let message = format!("it has version {}, which this gureum does not know", key.v);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(key)
}

/// Every key in a directory; none when there is no such directory.
pub(crate) fn read_all(directory: &Path) -> io::Result<Vec<MasterKey>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            keys.push(read(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?);
        }
    }
    Ok(keys)
}
