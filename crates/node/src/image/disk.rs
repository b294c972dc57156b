//! A disk whose whole is one ext4 file system, made from a directory without mounting anything.

use super::{Error, io_error, tools};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Writes `tree` into a new sparse raw disk of `gib` GiB.
///
/// Everything that ext4 would otherwise do after the first mount (inode tables, for one) is done here
/// once, since it would be done, and stored, again in every machine.
pub(super) fn make(tree: &Path, disk: &Path, gib: u32) -> Result<(), Error> {
    File::create(disk)
        .and_then(|file| file.set_len(u64::from(gib) << 30))
        .map_err(io_error("create", disk))?;
    tools::run(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", "root"])
            // A smaller journal has no room for the transaction that grows the file system.
            .args(["-J", "size=64"])
            // The file is new and sparse, so the journal is zero without being written.
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=1"])
            .arg("-d")
            .arg(tree)
            .arg(disk),
    )?;
    Ok(())
}
