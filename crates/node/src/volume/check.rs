//! Are the volumes on disk whole, and is there nothing else? For `gureum fsck`, while no daemon
//! runs. Machines may run: what they have open is left alone.

use super::directory::Directory;
use base::key::{DataKey, WrappedKey};
use base::volume::Content;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::fs::MemfdFlags;
use serde::Deserialize;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something in the directory of volumes.
#[derive(Debug)]
pub enum Entry {
    /// A volume.
    Volume(Volume),
    /// What was being made or removed when the daemon ended, or what nobody knows.
    Leftover(PathBuf),
}

/// A volume's directory.
#[derive(Debug)]
pub struct Volume {
    /// `vol-…`.
    pub id: String,
    /// Its directory.
    pub path: PathBuf,
    /// The key of its layers.
    pub key: Option<WrappedKey>,
    /// Content that its record names, and that it may still need.
    pub contents: Vec<Content>,
    /// Its layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// What is wrong: a record that cannot be read, layers that are not there.
    pub problems: Vec<String>,
    /// Layers that its record does not name; the next start of the daemon removes them.
    pub stray: Vec<PathBuf>,
}

/// What a layer's check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Whole,
    /// So many clusters that nothing refers to: a QEMU that was killed leaves them.
    Lost(u64),
    /// A process has it open.
    InUse,
    /// It is damaged.
    Damaged(String),
}

/// What there is below `<data>/volumes`; `None` if there is no such directory.
///
/// # Errors
/// A directory cannot be read.
pub fn entries(data_dir: &Path) -> io::Result<Option<Vec<Entry>>> {
    let volumes = match fs::read_dir(data_dir.join("volumes")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        volumes => volumes?,
    };
    let mut entries = Vec::new();
    for entry in volumes {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(if base::id::is_valid("vol", &name) {
            Entry::Volume(volume(data_dir, &name)?)
        } else {
            Entry::Leftover(entry.path())
        });
    }
    Ok(Some(entries))
}

fn volume(data_dir: &Path, id: &str) -> io::Result<Volume> {
    let directory = Directory::new(data_dir, id);
    let mut volume = Volume {
        id: id.to_owned(),
        path: directory.path().to_owned(),
        key: None,
        contents: Vec::new(),
        layers: Vec::new(),
        problems: Vec::new(),
        stray: Vec::new(),
    };
    let record = match directory.read() {
        Ok(Some(record)) => record,
        Ok(None) => {
            volume.problems.push("its record.json is missing".to_owned());
            return Ok(volume);
        }
        Err(error) => {
            volume.problems.push(format!("its record.json cannot be read: {error}"));
            return Ok(volume);
        }
    };
    for layer in &record.layers {
        let path = directory.layer_path(layer.number);
        if path.is_file() {
            volume.layers.push(path);
        } else {
            volume.problems.push(format!("its layer {} is missing", layer.number));
        }
    }
    // A cut that was interrupted may have made the layer that it names.
    let cutting = record.cutting.as_ref().map(|cutting| directory.layer_path(cutting.new));
    for entry in fs::read_dir(directory.path())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_layer =
            name.strip_suffix(".qcow2").is_some_and(|number| number.parse::<u32>().is_ok());
        let known = volume.layers.contains(&path) || cutting.as_ref() == Some(&path);
        if is_layer && !known || name.ends_with(".qcow2.new") {
            volume.stray.push(path);
        }
    }
    if !record.filled {
        volume.contents.extend(record.source);
    }
    volume.key = record.key;
    Ok(volume)
}

impl Volume {
    /// Checks each layer with qemu-img, with the rights of the process that has written it.
    ///
    /// # Errors
    /// qemu-img cannot be started.
    pub fn check_layers(
        &self,
        key: Option<&DataKey>,
        repair: bool,
    ) -> io::Result<Vec<(PathBuf, Verdict)>> {
        let check = |layer: &PathBuf| Ok((layer.clone(), check_layer(layer, key, repair)?));
        self.layers.iter().map(check).collect()
    }
}

/// What `qemu-img check --output=json` says.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    leaks: u64,
    #[serde(default)]
    check_errors: u64,
}

fn check_layer(layer: &Path, key: Option<&DataKey>, repair: bool) -> io::Result<Verdict> {
    let file = File::open(layer)?;
    let found = file.metadata()?;
    // As its owner, who may not reach it by its path: through a descriptor that the child has too.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
    // No other file is opened, whatever its header says.
    let mut image = json!({
        "driver": "qcow2",
        "backing": null,
        "file": { "driver": "file", "filename": format!("/proc/self/fd/{}", file.as_raw_fd()) },
    });
    let mut command = Command::new("qemu-img");
    command.args(["check", "--output=json"]);
    if repair {
        command.args(["-r", "leaks"]);
    }
    let mut input = Stdio::null();
    if let Some(key) = key {
        image["encrypt"] = json!({ "format": "luks", "key-secret": "key" });
        command.args(["--object", "secret,id=key,file=/dev/stdin"]);
        let mut memory = File::from(rustix::fs::memfd_create("key", MemfdFlags::CLOEXEC)?);
        memory.write_all(BASE64.encode(key.0).as_bytes())?;
        memory.rewind()?;
        input = memory.into();
    }
    command.arg(format!("json:{image}")).stdin(input);
    if rustix::process::geteuid().is_root() && found.uid() != 0 {
        command.uid(found.uid()).gid(found.gid());
    }
    let output = command.output()?;
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if words.contains("Failed to get") && words.contains("lock") {
        return Ok(Verdict::InUse);
    }
    Ok(match serde_json::from_slice::<Report>(&output.stdout) {
        Ok(Report { corruptions: 0, check_errors: 0, leaks: 0 }) if output.status.success() => {
            Verdict::Whole
        }
        Ok(Report { corruptions: 0, check_errors: 0, leaks }) if leaks > 0 => Verdict::Lost(leaks),
        Ok(report) => Verdict::Damaged(format!(
            "{} corruptions, {} errors {words}",
            report.corruptions, report.check_errors
        )),
        Err(_) => Verdict::Damaged(words),
    })
}

/// Processes that have something below `path` open, as far as we may see.
#[must_use]
pub fn users_of(path: &Path) -> Vec<u32> {
    let mut users = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(id) = process.file_name().to_string_lossy().parse() else { continue };
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file.starts_with(path)) {
            users.push(id);
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::super::directory::Record;
    use super::*;
    use base::volume::{Limits, Spec, Wanted};

    fn spec(id: &str) -> Spec {
        Spec {
            id: id.to_owned(),
            region: "us-east-1".to_owned(),
            wanted: Wanted::Present,
            size_gib: 1,
            source: Some(Content { root: "ab".repeat(32), size_gib: 1, key: None }),
            key: None,
            limits: Limits::default(),
            initialization_rate: None,
            filled_first: false,
            multi_attach: false,
            snapshots: Vec::new(),
        }
    }

    fn qemu_img_is_here() -> bool {
        let here = Command::new("qemu-img").arg("--version").output().is_ok();
        if !here {
            eprintln!("skipped: qemu-img is not installed (Debian: qemu-utils)");
        }
        here
    }

    #[test]
    fn what_is_on_disk_is_compared_with_its_record() {
        if !qemu_img_is_here() {
            return;
        }
        let data = tempfile::tempdir().unwrap();
        assert!(entries(data.path()).unwrap().is_none());
        let volumes = data.path().join("volumes");
        fs::create_dir(&volumes).unwrap();
        let id = "vol-0123456789abcdef0";
        let directory = Directory::new(data.path(), id);
        let key = DataKey([7; 32]);
        let passphrase = BASE64.encode(key.0);
        let record = Record::new(&spec(id));
        directory.create(&record, Some(&passphrase)).unwrap();
        fs::create_dir(volumes.join("vol-0123456789abcdef1.new")).unwrap();
        let only = || {
            let mut found = entries(data.path()).unwrap().unwrap();
            found.retain(|entry| matches!(entry, Entry::Volume(_)));
            match found.pop() {
                Some(Entry::Volume(volume)) => volume,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(entries(data.path()).unwrap().unwrap().len(), 2);
        let volume = only();
        assert_eq!((volume.layers.len(), volume.problems.len(), volume.stray.len()), (2, 0, 0));
        assert_eq!(volume.contents, [spec(id).source.unwrap()]);
        let verdicts = |volume: &Volume, key| -> Vec<Verdict> {
            let checked = volume.check_layers(key, false).unwrap();
            checked.into_iter().map(|(_, verdict)| verdict).collect()
        };
        assert_eq!(verdicts(&volume, Some(&key)), [Verdict::Whole, Verdict::Whole]);
        let wrong = verdicts(&volume, Some(&DataKey([8; 32])));
        assert!(matches!(wrong[0], Verdict::Damaged(_)), "{wrong:?}");

        // Its header destroyed, a layer that nobody names, and one that is gone.
        let mut bytes = fs::read(&volume.layers[0]).unwrap();
        bytes[..4].fill(0);
        fs::write(&volume.layers[0], bytes).unwrap();
        assert!(matches!(verdicts(&volume, Some(&key))[0], Verdict::Damaged(_)));
        fs::rename(&volume.layers[1], volume.path.join("7.qcow2")).unwrap();
        let volume = only();
        assert_eq!(volume.problems, ["its layer 1 is missing"]);
        assert_eq!(volume.stray, [volume.path.join("7.qcow2")]);
        fs::write(volume.path.join("record.json"), "{").unwrap();
        assert_eq!(only().problems.len(), 1);
    }

    #[test]
    fn who_has_a_file_open_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        assert_eq!(users_of(&path), [0; 0]);
        let _file = File::create(path.join("file")).unwrap();
        assert_eq!(users_of(&path), [std::process::id()]);
    }
}
