//! What the node keeps of a machine on disk, below its data directory:
//!
//! ```text
//! machines/<id>/record.json   what was done last: written whole, fsynced, renamed
//!               console.log   serial output; its old part is punched out
//!               qemu.log      QEMU's own words since the last launch
//!               qmp.sock      monitor
//!               block.sock    monitor of the disks
//!               local-….raw   instance store, while the machine runs
//!               kernel, initrd  links to what it boots by
//! consoles/<id>.<millis>.log  consoles of terminated machines, for an hour of the region's clock
//! ```

use super::process::Identity;
use base::machine::{Console, ExitCause, LocalDisk};
use base::{Clock, Timestamp};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How much of a console is readable (EC2 keeps the most recent 64 KB).
const CONSOLE_KEPT: u64 = 64 << 10;

/// A console that takes more room than this loses its old part.
const CONSOLE_LARGEST: u64 = 1 << 20;

/// How long consoles of terminated machines are kept, in milliseconds of the region's clock.
const CONSOLE_AFTERLIFE: i64 = 3_600_000;

/// `record.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Format; 1.
    pub(crate) v: u16,
    /// User that QEMU runs as.
    pub(crate) user: u32,
    /// Secret behind the machine's metadata tokens, base64.
    pub(crate) token_key: String,
    /// The last start that was tried.
    pub(crate) start: u32,
    /// Reboots done since launch.
    pub(crate) reboots: u32,
    /// What it boots by, in its directory; `None` before its first launch.
    #[serde(default)]
    pub(crate) boot: Option<base::image::Boot>,
    /// What became of it.
    pub(crate) stage: Stage,
}

/// How far the last start went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Nothing was started yet, or what was started was not recorded.
    Launching,
    /// QEMU was started.
    Up(Identity),
    /// It ended.
    Exited(ExitCause),
    /// It did not come up.
    Failed(String),
}

/// One machine's directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    graveyard: PathBuf,
    id: String,
}

impl Directory {
    pub(crate) fn new(data_dir: &Path, id: &str) -> Self {
        let path = data_dir.join(super::command::machine_path(id));
        Directory { path, graveyard: data_dir.join("consoles"), id: id.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory and an empty console that `user` may append to.
    pub(crate) fn create(&self, user: u32) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        // Others may pass through, since QEMU opens its console here; they may not look around.
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o711))?;
        let console =
            OpenOptions::new().append(true).create(true).mode(0o600).open(self.console_path())?;
        give(&console, user)
    }

    fn console_path(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// QEMU's standard output, emptied.
    pub(crate) fn log(&self) -> io::Result<File> {
        let path = self.path.join("qemu.log");
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    /// Makes the instance store anew, empty.
    pub(crate) fn make_local_disks(&self, disks: &[LocalDisk], user: u32) -> io::Result<()> {
        self.remove_local_disks()?;
        for disk in disks {
            let path = self.path.join(format!("local-{}.raw", disk.name));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            // Sectors of 512 bytes fit into 10^9.
            file.set_len(u64::from(disk.size_gb) * 1_000_000_000)?;
            give(&file, user)?;
        }
        Ok(())
    }

    /// Removes the instance store.
    pub(crate) fn remove_local_disks(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("local-") && name.ends_with(".raw") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The end of what QEMU said.
    pub(crate) fn last_words(&self) -> String {
        let Ok(bytes) = tail(&self.path.join("qemu.log"), 2048) else { return String::new() };
        String::from_utf8_lossy(&bytes).trim().replace('\n', "; ")
    }

    /// The record; `None` if there is none that can be read.
    pub(crate) fn read(&self) -> Option<Record> {
        let bytes = fs::read(self.path.join("record.json")).ok()?;
        serde_json::from_slice(&bytes)
            .map_err(|error| tracing::error!(id = self.id, %error, "unreadable machine record"))
            .ok()
            .filter(|record: &Record| record.v == 1)
    }

    /// Writes the record durably.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        crate::secret::write(&self.path.join("record.json"), &serde_json::to_vec(record)?)
    }

    /// The console of the machine, or of the terminated machine of that id.
    pub(crate) fn console(&self, clock: &Clock) -> io::Result<Option<Console>> {
        let path = self.console_path();
        if let Some(console) = read_console(&path, clock)? {
            return Ok(Some(console));
        }
        let mut buried: Vec<_> = graves(&self.graveyard)?.collect();
        buried.retain(|grave| grave.id == self.id);
        let latest = buried.into_iter().max_by_key(|grave| grave.buried);
        latest.map_or(Ok(None), |grave| read_console(&grave.path, clock))
    }

    /// Gives the room of the console's old part back. The file keeps its length, so that QEMU,
    /// which appends to it meanwhile, loses nothing.
    pub(crate) fn trim_console(&self) -> io::Result<()> {
        let file = match OpenOptions::new().write(true).open(self.console_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let metadata = file.metadata()?;
        if metadata.blocks() * 512 <= CONSOLE_LARGEST {
            return Ok(());
        }
        let old = metadata.len().saturating_sub(CONSOLE_KEPT);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&file, flags, 0, old)?)
    }

    /// Keeps the console for its afterlife and removes the directory.
    pub(crate) fn bury(&self, now: Timestamp) -> io::Result<()> {
        let console = self.console_path();
        if fs::metadata(&console).is_ok_and(|metadata| metadata.len() > 0) {
            fs::create_dir_all(&self.graveyard)?;
            fs::set_permissions(&self.graveyard, fs::Permissions::from_mode(0o700))?;
            fs::rename(&console, self.graveyard.join(format!("{}.{}.log", self.id, now.0)))?;
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Bounds the consoles of `ids` and forgets old ones. A failure is only logged: the next round
/// tries again.
pub(crate) fn tidy(data_dir: &Path, ids: &[String], now: Timestamp) {
    for id in ids {
        if let Err(error) = Directory::new(data_dir, id).trim_console() {
            tracing::warn!(id, %error, "a console could not be trimmed");
        }
    }
    if let Err(error) = purge_consoles(data_dir, now) {
        tracing::warn!(%error, "old consoles could not be deleted");
    }
}

/// Deletes the consoles whose hour is over.
fn purge_consoles(data_dir: &Path, now: Timestamp) -> io::Result<()> {
    for grave in graves(&data_dir.join("consoles"))? {
        if now.millis_since(grave.buried) > CONSOLE_AFTERLIFE {
            fs::remove_file(grave.path)?;
        }
    }
    Ok(())
}

/// A terminated machine's console.
struct Grave {
    id: String,
    buried: Timestamp,
    path: PathBuf,
}

fn graves(directory: &Path) -> io::Result<impl Iterator<Item = Grave>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries?),
    };
    Ok(entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (id, buried) = name.strip_suffix(".log")?.rsplit_once('.')?;
        let buried = Timestamp(buried.parse().ok()?);
        Some(Grave { id: id.to_owned(), buried, path: entry.path() })
    }))
}

fn read_console(path: &Path, clock: &Clock) -> io::Result<Option<Console>> {
    let bytes = match tail(path, CONSOLE_KEPT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let wall = fs::metadata(path)?.modified()?.duration_since(std::time::UNIX_EPOCH);
    let wall = wall.ok().and_then(|age| i64::try_from(age.as_millis()).ok()).unwrap_or(0);
    Ok(Some(Console { bytes, modified: region_time(clock, Timestamp(wall)) }))
}

/// What the region's clock showed when the wall clock showed `at`.
fn region_time(clock: &Clock, at: Timestamp) -> Timestamp {
    match clock {
        Clock::Scaled { wall, region, scale } => {
            region.plus_millis(at.millis_since(*wall).saturating_mul(i64::from(*scale)))
        }
        Clock::Manual(_) => clock.now(),
    }
}

/// The last `count` bytes of a file.
fn tail(path: &Path, count: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(count)))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes `user` the owner of a file, where we may: without root QEMU runs as ourselves.
pub(crate) fn give(file: &File, user: u32) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(user), Some(user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn record(stage: Stage) -> Record {
        Record {
            v: 1,
            user: 7,
            token_key: "a2V5".to_owned(),
            start: 3,
            reboots: 2,
            boot: None,
            stage,
        }
    }

    #[test]
    fn records_round_trip_and_rubbish_is_none() {
        let data = tempfile::tempdir().unwrap();
        let directory = Directory::new(data.path(), "i-1");
        assert!(directory.read().is_none());
        fs::create_dir_all(directory.path()).unwrap();
        let identity = Identity { pid: 5, started: 6, boot_id: "b".to_owned() };
        for stage in [
            Stage::Launching,
            Stage::Up(identity),
            Stage::Exited(ExitCause::Died("x".to_owned())),
            Stage::Failed("y".to_owned()),
        ] {
            directory.write(&record(stage.clone())).unwrap();
            assert_eq!(directory.read(), Some(record(stage)));
        }
        fs::write(directory.path().join("record.json"), b"{\"v\":1,").unwrap();
        assert!(directory.read().is_none());
    }

    #[test]
    fn a_stored_record_of_version_1_is_read() {
        let stored = r#"{"v":1,"user":1900000000,"token_key":"AA==","start":1,"reboots":0,
            "stage":{"up":{"pid":10,"started":20,"boot_id":"x"}}}"#;
        let record: Record = serde_json::from_str(stored).unwrap();
        assert_eq!(record.user, 1_900_000_000);
        let exited = r#"{"v":1,"user":1,"token_key":"","start":1,"reboots":0,
            "stage":{"exited":"guest_shutdown"}}"#;
        let record: Record = serde_json::from_str(exited).unwrap();
        assert_eq!(record.stage, Stage::Exited(ExitCause::GuestShutdown));
    }

    #[test]
    fn consoles_are_bounded_and_outlive_their_machine_by_an_hour() {
        let data = tempfile::tempdir().unwrap();
        let directory = Directory::new(data.path(), "i-1");
        fs::create_dir_all(directory.path()).unwrap();
        let clock = Clock::wall();
        assert_eq!(directory.console(&clock).unwrap(), None);
        directory.trim_console().unwrap();
        let mut text = vec![b'a'; 3 << 20];
        text.extend_from_slice(b"the end");
        fs::write(directory.console_path(), &text).unwrap();
        let last = &text[text.len() - (64 << 10)..];
        let console = directory.console(&clock).unwrap().unwrap();
        assert_eq!(console.bytes, last);
        assert!(Timestamp::wall().millis_since(console.modified).abs() < 60_000);
        directory.trim_console().unwrap();
        let metadata = fs::metadata(directory.console_path()).unwrap();
        assert!(metadata.blocks() * 512 <= 128 << 10, "{} blocks", metadata.blocks());
        assert_eq!(metadata.len(), text.len() as u64, "whoever appends must not be moved");
        assert_eq!(directory.console(&clock).unwrap().unwrap().bytes, last);

        directory.bury(Timestamp(1_000)).unwrap();
        assert!(!directory.path().exists());
        assert_eq!(directory.console(&clock).unwrap().unwrap().bytes, last);
        purge_consoles(data.path(), Timestamp(3_601_000)).unwrap();
        assert!(directory.console(&clock).unwrap().is_some(), "its hour is not over");
        purge_consoles(data.path(), Timestamp(3_601_001)).unwrap();
        assert_eq!(directory.console(&clock).unwrap(), None);
        directory.bury(Timestamp(1_000)).unwrap();
    }

    #[test]
    fn an_instance_store_is_empty_at_each_start_and_gone_afterwards() {
        let data = tempfile::tempdir().unwrap();
        let directory = Directory::new(data.path(), "i-1");
        directory.remove_local_disks().unwrap();
        let user = rustix::process::geteuid().as_raw();
        directory.create(user).unwrap();
        let disk = |name: &str| LocalDisk {
            name: name.to_owned(),
            device_name: "/dev/sdb".to_owned(),
            size_gb: 50,
        };
        directory.make_local_disks(&[disk("ephemeral0"), disk("ephemeral1")], user).unwrap();
        let path = directory.path().join("local-ephemeral0.raw");
        OpenOptions::new().write(true).open(&path).unwrap().write_all(b"old").unwrap();
        directory.make_local_disks(&[disk("ephemeral0")], user).unwrap();
        let mut start = [1; 3];
        File::open(&path).unwrap().read_exact(&mut start).unwrap();
        assert_eq!(start, [0; 3]);
        assert_eq!(fs::metadata(&path).unwrap().len(), 50_000_000_000);
        directory.remove_local_disks().unwrap();
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "the console stays: {names:?}");
    }

    #[test]
    fn file_times_become_region_times() {
        let clock = Clock::Scaled { wall: Timestamp(1_000), region: Timestamp(5_000), scale: 60 };
        assert_eq!(region_time(&clock, Timestamp(2_000)), Timestamp(65_000));
    }
}
