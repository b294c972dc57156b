//! What the node keeps of a volume on disk, below its data directory:
//!
//! ```text
//! volumes/vol-…/record.json   what is known: written whole, fsynced, renamed
//!               empty.qcow2   an empty layer; each new layer is a copy of it
//!               0.qcow2 …     layers, the highest is written to
//!               *.sock, *.log of the processes that serve the volume
//! volumes/vol-….new           being made
//! volumes/vol-….gone          being removed
//! ```
//!
//! A layer is a copy, so all layers of a volume share one LUKS master key, as all sectors of any disk
//! do; those of two volumes never do.
//!
//! Files belong to the user whose process has the volume. What such a process may have written is
//! never opened with more rights than it had.

use super::limits::Balance;
use crate::qemu::process::Identity;
use base::key::WrappedKey;
use base::volume::{Content, Spec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// User of volumes that no machine has.
pub(crate) const IDLE_USER: u32 = 1_899_999_998;

/// Bytes of a GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// `record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Format; 1.
    pub(crate) v: u16,
    /// Size of the active layer, GiB.
    pub(crate) size_gib: u32,
    pub(crate) key: Option<WrappedKey>,
    pub(crate) source: Option<Content>,
    /// Layer 0 holds all of the source; true without a source.
    pub(crate) filled: bool,
    /// Several machines may have it: a storage daemon owns it while one does.
    pub(crate) multi_attach: bool,
    /// Lowest first; the last is the active one.
    pub(crate) layers: Vec<Layer>,
    /// Number of the next layer.
    pub(crate) next: u32,
    /// A cut that may or may not have happened.
    pub(crate) cutting: Option<Cutting>,
    /// A merge that may or may not have happened.
    pub(crate) merging: Option<Merging>,
    /// Snapshots that are cut, until the spec drops them.
    pub(crate) snapshots: BTreeMap<String, Taken>,
    /// Machines that may have it open.
    pub(crate) holders: BTreeMap<String, Holder>,
    /// The latest reboot of a machine that had it, as [`base::volume::Snapshot::during_reboot`].
    pub(crate) reboots: Option<(String, u32)>,
    /// The process that serves the source.
    pub(crate) server: Option<Identity>,
    /// The storage daemon that owns a Multi-Attach volume.
    pub(crate) keeper: Option<Identity>,
    /// Credits for bursts.
    #[serde(default)]
    pub(crate) balance: Option<Balance>,
}

/// One qcow2 file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) number: u32,
    /// What a guest would read with this as the highest layer, if it is in the blob store.
    pub(crate) content: Option<Content>,
}

/// A machine that was given the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// User of its QEMU.
    pub(crate) user: u32,
    /// Its guest can see the disk.
    pub(crate) held: bool,
}

/// See [`Record::cutting`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cutting {
    /// The layer that becomes the active one.
    pub(crate) new: u32,
    /// The snapshots that the layer below it becomes.
    pub(crate) snapshots: Vec<String>,
}

/// See [`Record::merging`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Merging {
    /// The layer that goes.
    pub(crate) top: u32,
    /// The layer below it that takes its data.
    pub(crate) base: u32,
}

/// A snapshot that is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// The highest layer of it; 0 and of no meaning once there is a result.
    pub(crate) layer: u32,
    /// Size of the volume then, GiB.
    pub(crate) size_gib: u32,
    pub(crate) result: Option<Outcome>,
}

/// How an upload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Completed { content: Content, new_bytes: u64, full_bytes: u64 },
    Failed { message: String },
}

impl Record {
    /// The record of a volume that is about to be made.
    pub(crate) fn new(spec: &Spec) -> Self {
        let layer = |number, content| Layer { number, content };
        let layers = match &spec.source {
            // The lowest is only ever filled, so that filling and writing have nothing to do with
            // each other: a layer that is being filled could not be frozen.
            Some(source) => vec![layer(0, Some(source.clone())), layer(1, None)],
            None => vec![layer(0, None)],
        };
        Record {
            v: 1,
            size_gib: spec.size_gib,
            key: spec.key.clone(),
            source: spec.source.clone(),
            filled: spec.source.is_none(),
            multi_attach: spec.multi_attach,
            next: u32::try_from(layers.len()).unwrap_or(2),
            layers,
            cutting: None,
            merging: None,
            snapshots: BTreeMap::new(),
            holders: BTreeMap::new(),
            reboots: None,
            server: None,
            keeper: None,
            balance: None,
        }
    }

    /// Number of the active layer.
    pub(crate) fn active(&self) -> u32 {
        self.layers.last().map_or(0, |layer| layer.number)
    }

    /// Size of the active layer, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.size_gib) * GIB
    }

    /// The user whose processes may open the layers.
    pub(crate) fn user(&self) -> u32 {
        match self.multi_attach {
            true => IDLE_USER,
            false => self.holders.values().next().map_or(IDLE_USER, |holder| holder.user),
        }
    }

    /// The layer that [`Cutting`] made has become the active one.
    pub(crate) fn finish_cut(&mut self) {
        let Some(cutting) = self.cutting.take() else { return };
        let taken = Taken { layer: self.active(), size_gib: self.size_gib, result: None };
        for id in cutting.snapshots {
            self.snapshots.insert(id, taken.clone());
        }
        self.layers.push(Layer { number: cutting.new, content: None });
    }

    /// The data of [`Merging::top`] is in its base.
    pub(crate) fn finish_merge(&mut self) {
        let Some(merging) = self.merging.take() else { return };
        let top = self.layers.iter().position(|layer| layer.number == merging.top);
        if let Some(top) = top {
            let merged = self.layers.remove(top);
            if let Some(base) = top.checked_sub(1) {
                self.layers[base].content = merged.content;
            }
        }
    }

    /// The lowest pair of layers of which the upper can go into the lower.
    pub(crate) fn mergeable(&self) -> Option<Merging> {
        if self.cutting.is_some() || self.snapshots.values().any(|taken| taken.result.is_none()) {
            return None;
        }
        let from = usize::from(!self.filled);
        let frozen = self.layers.get(from..self.layers.len().checked_sub(1)?)?;
        let [base, top, ..] = frozen else { return None };
        Some(Merging { top: top.number, base: base.number })
    }
}

/// One volume's directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    id: String,
    volumes: PathBuf,
    path: PathBuf,
}

/// A volume's directory, relative to the data directory.
pub(crate) fn relative(id: &str) -> String {
    format!("volumes/{id}")
}

/// A layer's file, relative to the data directory.
pub(crate) fn layer_file(id: &str, number: u32) -> String {
    format!("volumes/{id}/{number}.qcow2")
}

impl Directory {
    pub(crate) fn new(data_dir: &Path, id: &str) -> Self {
        let volumes = data_dir.join("volumes");
        Directory { id: id.to_owned(), path: volumes.join(id), volumes }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn sibling(&self, ending: &str) -> PathBuf {
        self.volumes.join(format!("{}.{ending}", self.id))
    }

    /// Makes the volume: all of it or nothing.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn create(&self, record: &Record, passphrase: Option<&str>) -> io::Result<()> {
        // A volume of a version that kept it in one file: an empty one must not take its place.
        if self.sibling("qcow2").exists() {
            let file = self.sibling("qcow2");
            return Err(io::Error::other(format!(
                "{} was made by an earlier version, which this one cannot open",
                file.display()
            )));
        }
        let new = self.sibling("new");
        remove_all(&new)?;
        fs::create_dir(&new)?;
        // Others may pass through, since QEMU opens its layers here; they may not look around.
        fs::set_permissions(&new, Permissions::from_mode(0o711))?;
        let made = (|| {
            let mut empty = File::create_new(new.join("empty.qcow2"))?;
            empty.set_permissions(Permissions::from_mode(0o600))?;
            empty.write_all(&super::empty::image(record.bytes(), passphrase)?)?;
            // Every layer to come is a copy of it.
            empty.sync_all()?;
            for layer in &record.layers {
                copy_layer(&new, layer.number, IDLE_USER)?;
            }
            crate::secret::write(&new.join("record.json"), &serde_json::to_vec(record)?)
        })();
        if let Err(error) = made {
            // What stays is removed at the next start.
            let _ = fs::remove_dir_all(&new);
            return Err(error);
        }
        fs::rename(&new, &self.path)?;
        sync(&self.volumes)
    }

    /// The record; `None` without one.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(crate) fn read(&self) -> io::Result<Option<Record>> {
        let bytes = match fs::read(self.path.join("record.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let record: Record = serde_json::from_slice(&bytes)?;
        match record.v {
            1 => Ok(Some(record)),
            v => Err(io::Error::other(format!("record.json has the unknown version {v}"))),
        }
    }

    /// Writes the record durably.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        crate::secret::write(&self.path.join("record.json"), &serde_json::to_vec(record)?)
    }

    /// Makes an empty layer; durably once the record is written that refers to it.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn add_layer(&self, number: u32, user: u32) -> io::Result<()> {
        copy_layer(&self.path, number, user)
    }

    /// Makes new layers as large as the volume has become.
    ///
    /// # Errors
    /// What qemu-img says.
    pub(crate) fn resize_empty(
        &self,
        bytes: u64,
        passphrase: Option<&str>,
        qemu_img: &Path,
    ) -> io::Result<()> {
        resize(qemu_img, &self.path.join("empty.qcow2"), bytes, passphrase)
    }

    /// Size of the layer's data, bytes on disk.
    pub(crate) fn layer_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number}.qcow2"))
    }

    /// Brings what was written to a layer onto the disk, so that what follows has less to do.
    pub(crate) fn sync_layer(&self, number: u32) {
        // Only makes the cut shorter, which brings everything onto the disk itself.
        let _ = File::open(self.layer_path(number)).and_then(|file| file.sync_data());
    }

    /// Removes a layer's file.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn remove_layer(&self, number: u32) -> io::Result<()> {
        remove_file(&self.layer_path(number))
    }

    /// Gives the layers to a user.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn give(&self, record: &Record, user: u32) -> io::Result<()> {
        for layer in &record.layers {
            let file = File::open(self.layer_path(layer.number))?;
            check_alone(&file)?;
            give(&file, user)?;
        }
        Ok(())
    }

    /// Removes layers that nothing refers to: of a cut or a merge that a crash interrupted.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn tidy(&self, record: &Record) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".qcow2.new") {
                fs::remove_file(self.path.join(&name))?;
            }
            let Some(number) = name.strip_suffix(".qcow2").and_then(|n| n.parse::<u32>().ok())
            else {
                continue;
            };
            let known = record.layers.iter().any(|layer| layer.number == number)
                || record.cutting.as_ref().is_some_and(|cutting| cutting.new == number);
            if !known {
                fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes the volume.
    ///
    /// # Errors
    /// What the file system says; what is left is removed by the next call or start.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let gone = self.sibling("gone");
        remove_all(&gone)?;
        match fs::rename(&self.path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        sync(&self.volumes)?;
        remove_all(&gone)
    }

    /// The end of what a process of the volume said.
    pub(crate) fn last_words(&self, name: &str) -> String {
        let bytes = fs::read(self.path.join(format!("{name}.log"))).unwrap_or_default();
        let start = bytes.len().saturating_sub(1024);
        String::from_utf8_lossy(&bytes[start..]).trim().replace('\n', "; ")
    }

    /// An empty file for what a process of the volume says.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn log(&self, name: &str) -> io::Result<File> {
        let path = self.path.join(format!("{name}.log"));
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    }
}

/// Volumes that have a directory, and none of what was being made or removed.
///
/// # Errors
/// What the file system says.
pub(crate) fn volumes(data_dir: &Path) -> io::Result<Vec<String>> {
    let path = data_dir.join("volumes");
    let mut found = Vec::new();
    for entry in fs::read_dir(&path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((id, "new" | "gone")) = name.split_once('.')
            && base::id::is_valid("vol", id)
        {
            remove_all(&path.join(&name))?;
        } else if base::id::is_valid("vol", &name) {
            found.push(name);
        }
    }
    Ok(found)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Gives a file to a user, if we may.
pub(crate) fn give(file: &File, user: u32) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(file, Some(user), Some(user))?;
    }
    Ok(())
}

/// Refuses a layer whose header says that its data is in another file: whoever had it may have
/// written that, and the next process that opens it as another user would follow it
/// (docs/interop/qcow2.txt, incompatible features, bit 2).
fn check_alone(layer: &File) -> io::Result<()> {
    let mut header = [0; 80];
    layer.read_exact_at(&mut header, 0)?;
    let is_known = header.starts_with(b"QFI\xfb\0\0\0\x03");
    match is_known && header[79] & 4 == 0 {
        true => Ok(()),
        false => Err(io::Error::other("a layer's header is not as it was made")),
    }
}

fn copy_layer(directory: &Path, number: u32, user: u32) -> io::Result<()> {
    let new = directory.join(format!("{number}.qcow2.new"));
    let mut input = File::open(directory.join("empty.qcow2"))?;
    let mut output =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    io::copy(&mut input, &mut output)?;
    give(&output, user)?;
    output.sync_all()?;
    // The record that is written next makes the directory durable.
    fs::rename(&new, directory.join(format!("{number}.qcow2")))
}

fn resize(qemu_img: &Path, file: &Path, bytes: u64, passphrase: Option<&str>) -> io::Result<()> {
    let mut options = format!("driver=qcow2,file.filename={}", escape(file)?);
    if passphrase.is_some() {
        options.push_str(",encrypt.key-secret=key");
    }
    let mut command = Command::new(qemu_img);
    command.args(["resize", "-q"]);
    with_secret(&mut command, passphrase);
    command.arg("--image-opts").arg(options).arg(bytes.to_string());
    run(command, passphrase)
}

/// The passphrase comes by standard input.
pub(crate) fn with_secret(command: &mut Command, passphrase: Option<&str>) {
    if passphrase.is_some() {
        command.args(["--object", "secret,id=key,file=/dev/stdin"]);
    }
}

/// A path within QEMU's option syntax.
fn escape(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(text.replace(',', ",,"))
}

/// Runs a program to its end.
///
/// # Errors
/// It could not be started, or failed: with its words.
pub(crate) fn run(mut command: Command, input: Option<&str>) -> io::Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("{program} is missing: install qemu-utils"))
        }
        _ => error,
    })?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A program that ended without reading it says why itself.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let kind = match words.contains("No space left") {
        true => io::ErrorKind::StorageFull,
        false => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, format!("{program}: {words}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_volume_of_an_earlier_version_is_not_replaced_by_an_empty_one() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("volumes")).unwrap();
        let directory = Directory::new(data.path(), "vol-0123456789abcdef0");
        fs::write(directory.sibling("qcow2"), b"QFI").unwrap();
        let error = directory.create(&record(true), None).unwrap_err();
        assert!(error.to_string().contains("earlier version"), "{error}");
        assert!(!directory.path().exists());
    }

    fn record(filled: bool) -> Record {
        let source = Content { root: "0".repeat(64), size_gib: 1, key: None };
        let spec = Spec {
            id: "vol-0123456789abcdef0".to_owned(),
            region: String::new(),
            wanted: base::volume::Wanted::Present,
            size_gib: 1,
            source: (!filled).then_some(source),
            key: None,
            limits: base::volume::Limits::default(),
            initialization_rate: None,
            filled_first: false,
            multi_attach: false,
            snapshots: Vec::new(),
        };
        Record::new(&spec)
    }

    /// What happens to a record, and what a guest that reads through the layers would see: the
    /// layers that a write went to, merged or not.
    #[derive(Clone, Debug)]
    enum Step {
        Cut,
        Crash,
        Upload,
        Drop,
        Merge,
        Fill,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Cut),
            Just(Step::Crash),
            Just(Step::Upload),
            Just(Step::Drop),
            Just(Step::Merge),
            Just(Step::Fill),
        ]
    }

    #[test]
    fn a_layer_that_refers_to_another_file_is_given_to_nobody() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("volumes")).unwrap();
        let directory = Directory::new(data.path(), "vol-0123456789abcdef0");
        let record = record(true);
        directory.create(&record, None).unwrap();
        directory.give(&record, IDLE_USER - 1).unwrap();
        let layer = OpenOptions::new().write(true).open(directory.layer_path(0)).unwrap();
        layer.write_all_at(&[4], 79).unwrap();
        let refused = directory.give(&record, IDLE_USER).unwrap_err();
        assert!(refused.to_string().contains("header"), "{refused}");
    }

    proptest! {
        /// Layers stay in order, a layer that a snapshot still needs is never merged away or into,
        /// the one that fills is neither, and content stands at the layer that it was read from.
        #[test]
        fn layers_are_kept_as_long_as_they_are_needed(
            filled: bool,
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut record = record(filled);
            let mut number = 0;
            for step in steps {
                match step {
                    Step::Cut | Step::Crash => {
                        let (active, new) = (record.active(), record.next);
                        record.next += 1;
                        number += 1;
                        let snapshots = vec![format!("snap-{number}")];
                        record.cutting = Some(Cutting { new, snapshots });
                        prop_assert_eq!(record.mergeable(), None, "while it is open");
                        if matches!(step, Step::Crash) {
                            record.cutting = None;
                            continue;
                        }
                        record.finish_cut();
                        prop_assert_eq!(record.active(), new);
                        prop_assert_eq!(record.snapshots[&format!("snap-{number}")].layer, active);
                    }
                    Step::Upload => {
                        let pending = record.snapshots.iter_mut().find(|(_, t)| t.result.is_none());
                        let Some((id, taken)) = pending else { continue };
                        let root = id.clone();
                        let content = Content { root, size_gib: 1, key: None };
                        let layer = taken.layer;
                        let kept = record.layers.iter_mut().find(|l| l.number == layer);
                        prop_assert!(kept.is_some(), "the layer of {id} is gone");
                        kept.unwrap().content = Some(content.clone());
                        taken.result =
                            Some(Outcome::Completed { content, new_bytes: 0, full_bytes: 0 });
                    }
                    Step::Drop => {
                        record.snapshots.pop_first();
                    }
                    Step::Merge => {
                        let Some(merging) = record.mergeable() else { continue };
                        prop_assert!(record.snapshots.values().all(|t| t.result.is_some()));
                        prop_assert!(merging.top != record.active());
                        prop_assert!(record.filled || merging.base != 0);
                        let at = |number| record.layers.iter().position(|l| l.number == number);
                        prop_assert_eq!(at(merging.top), at(merging.base).map(|base| base + 1));
                        let top = at(merging.top).and_then(|at| record.layers[at].content.clone());
                        record.merging = Some(merging);
                        record.finish_merge();
                        let base = record.layers.iter().find(|l| l.number == merging.base);
                        prop_assert_eq!(&base.unwrap().content, &top);
                    }
                    Step::Fill => record.filled = true,
                }
                let numbers: Vec<u32> = record.layers.iter().map(|l| l.number).collect();
                prop_assert!(numbers.is_sorted() && !numbers.is_empty());
                let text = serde_json::to_vec(&record).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<Record>(&text).unwrap(), &record);
            }
            // At rest there are two layers at most, three while the volume fills.
            record.filled = true;
            record.snapshots.clear();
            while let Some(merging) = record.mergeable() {
                record.merging = Some(merging);
                record.finish_merge();
            }
            prop_assert!(record.layers.len() <= 2);
        }
    }

    #[test]
    fn a_volume_is_made_whole_or_not_at_all() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("volumes")).unwrap();
        let directory = Directory::new(data.path(), "vol-0123456789abcdef0");
        let record = record(false);
        // What a crash left.
        fs::create_dir(data.path().join("volumes/vol-0123456789abcdef0.new")).unwrap();
        fs::create_dir(data.path().join("volumes/vol-0123456789abcdef1.gone")).unwrap();
        directory.create(&record, Some("secret")).unwrap();
        assert_eq!(directory.read().unwrap().as_ref(), Some(&record));
        assert_eq!(volumes(data.path()).unwrap(), ["vol-0123456789abcdef0"]);
        assert_eq!(fs::read_dir(data.path().join("volumes")).unwrap().count(), 1);
        // A layer of a cut that was not recorded, and half of one.
        directory.add_layer(7, IDLE_USER).unwrap();
        fs::write(directory.path().join("8.qcow2.new"), "half").unwrap();
        directory.tidy(&record).unwrap();
        for (number, there) in [(0, true), (1, true), (7, false)] {
            assert_eq!(directory.layer_path(number).exists(), there, "{number}");
        }
        assert!(!directory.path().join("8.qcow2.new").exists());
        directory.remove().unwrap();
        directory.remove().unwrap();
        assert_eq!(directory.read().unwrap(), None);
        assert_eq!(fs::read_dir(data.path().join("volumes")).unwrap().count(), 0);
    }
}
