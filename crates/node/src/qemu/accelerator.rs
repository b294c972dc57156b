//! Whether KVM really runs guests here, proven rather than assumed.
//!
//! Opening /dev/kvm proves nothing, and neither does running firmware: under some nestings SeaBIOS
//! runs and Linux hangs. So the proof is an image's own kernel, booted without a root disk: it must
//! say its version, reach the panic that follows and make QEMU end, before a deadline. The verdict
//! holds for this boot of the host, this kernel and this QEMU, and is kept in the data directory.

use super::command::{self, Engine};
use super::process::{self, Launch, Process};
use base::image::{Boot, Manifest};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

/// How long the kernel may take. TCG, which is slower than any working KVM, takes 2 s.
const DEADLINE: Duration = Duration::from_secs(8);

/// Which accelerator machines get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM where it is proven to work, else TCG.
    #[default]
    Auto,
    /// KVM, proven or not.
    Kvm,
    /// QEMU's binary translator.
    Tcg,
}

/// A cached proof or disproof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Host kernel, boot and QEMU for which it holds.
    pub key: String,
    /// Whether a kernel booted.
    pub proven: bool,
    /// What was seen.
    pub detail: String,
}

/// The verdict that holds now, if one was reached.
pub fn cached(data_dir: &Path, qemu: &Path) -> Option<Verdict> {
    let verdict: Verdict = serde_json::from_slice(&fs::read(path(data_dir)).ok()?).ok()?;
    (verdict.key == key(qemu).ok()?).then_some(verdict)
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("kvm.json")
}

/// Changes whenever the verdict could. QEMU is known by its file, which is cheaper than asking it.
fn key(qemu: &Path) -> io::Result<String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let binary = fs::metadata(find_program(qemu)?)?;
    let qemu = format!("{}.{}", binary.len(), binary.mtime());
    Ok(format!("{release} {} {qemu}", process::boot_id()?))
}

/// The file that running `program` would run.
pub(crate) fn find_program(program: &Path) -> io::Result<PathBuf> {
    if program.components().count() > 1 {
        return program.canonicalize();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|path| path.join(program)).find(|p| p.is_file());
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Decides once for a node.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) wanted: Accelerator,
    pub(crate) data_dir: PathBuf,
    pub(crate) images_dir: PathBuf,
    pub(crate) qemu: PathBuf,
    /// User of the proof's QEMU, as of every machine's.
    pub(crate) user: Option<u32>,
    pub(crate) decided: Mutex<Option<Engine>>,
}

/// How an unprivileged QEMU comes by /dev/kvm.
#[derive(Debug)]
pub(crate) enum Device {
    /// It opens it itself, as a member of this group or as anybody.
    Group(Option<u32>),
    /// We open it; QEMU takes an open device from version 8.2 on.
    Open(File),
}

/// Decides that by the device's permissions.
pub(crate) fn kvm_device() -> io::Result<Device> {
    let path = "/dev/kvm";
    let device = fs::metadata(path).map_err(|error| context(error, path))?;
    if device.mode() & 0o006 == 0o006 {
        return Ok(Device::Group(None));
    }
    if device.mode() & 0o060 == 0o060 && device.gid() != 0 {
        return Ok(Device::Group(Some(device.gid())));
    }
    let opened = File::options().read(true).write(true).open(path);
    Ok(Device::Open(opened.map_err(|error| context(error, path))?))
}

impl Judge {
    /// The engine for machines. The first call may take as long as the proof.
    pub(crate) async fn engine(&self) -> Engine {
        match self.wanted {
            Accelerator::Kvm => return Engine::Kvm,
            Accelerator::Tcg => return Engine::Tcg,
            Accelerator::Auto => {}
        }
        let mut decided = self.decided.lock().await;
        if let Some(engine) = *decided {
            return engine;
        }
        let verdict = match cached(&self.data_dir, &self.qemu) {
            Some(verdict) => verdict,
            None => {
                let Some(kernel) = any_kernel(&self.images_dir) else {
                    tracing::info!(
                        "no image has a kernel to prove KVM with; using TCG until one has"
                    );
                    return Engine::Tcg;
                };
                let (proven, detail) = match self.prove(&kernel).await {
                    Ok(()) => (true, format!("{} booted", kernel.display())),
                    Err(error) => (false, error.to_string()),
                };
                let verdict = Verdict { key: key(&self.qemu).unwrap_or_default(), proven, detail };
                self.store(&verdict);
                verdict
            }
        };
        tracing::info!(
            proven = verdict.proven,
            detail = verdict.detail,
            "KVM was put to the proof"
        );
        let engine = if verdict.proven { Engine::Kvm } else { Engine::Tcg };
        *decided = Some(engine);
        engine
    }

    fn store(&self, verdict: &Verdict) {
        let written = serde_json::to_vec(verdict)
            .map_err(io::Error::from)
            .and_then(|bytes| crate::secret::write(&path(&self.data_dir), &bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "the verdict on KVM could not be kept; it will be tried again");
        }
    }

    async fn prove(&self, kernel: &Path) -> io::Result<()> {
        let device = kvm_device()?;
        let log = self.data_dir.join("kvm-proof.log");
        let output = File::create(&log)?;
        let kernel = super::boot::open_public(kernel)?;
        let kernel_path = format!("/dev/fd/{}", kernel.as_raw_fd());
        let (mut inherit, mut group, mut kvm) = (vec![kernel.into()], None, None);
        match device {
            Device::Group(id) => group = id,
            Device::Open(file) => {
                kvm = Some(file.as_raw_fd());
                inherit.push(file.into());
            }
        }
        let engine = command::engine_arguments(Engine::Kvm, kvm);
        let mut arguments: Vec<&str> = Vec::new();
        for argument in command::SANDBOX {
            match argument.split_once('=') {
                Some((option, value)) => arguments.extend([option, value]),
                None => arguments.push(argument),
            }
        }
        arguments.extend(["-machine", command::MACHINE, "-m", "256M", "-no-reboot"]);
        arguments.extend(engine.iter().map(String::as_str));
        arguments.extend(["-serial", "stdio", "-kernel", &kernel_path]);
        arguments.extend(["-append", "console=ttyS0 panic=-1"]);
        let directory = File::open(&self.data_dir)?;
        let mut process = Process::spawn(Launch {
            program: &self.qemu,
            arguments: arguments.into_iter().map(Into::into).collect(),
            directory: &directory,
            user: self.user,
            group,
            inherit,
            input: None,
            output,
        })?;
        let ended = tokio::time::timeout(DEADLINE, process.ended()).await;
        if ended.is_err() {
            process.kill();
            process.ended().await;
        }
        let said = fs::read(&log).unwrap_or_default();
        // Kept only as long as it takes to read it.
        let _ = fs::remove_file(&log);
        judge(&String::from_utf8_lossy(&said), ended.ok().as_deref()).map_err(io::Error::other)
    }
}

fn context(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Judges what the kernel said and how QEMU ended (`None`: it did not).
fn judge(console: &str, ended: Option<&str>) -> Result<(), String> {
    let booted = console.contains("Linux version") && console.contains("Kernel panic");
    match (booted, ended) {
        (true, Some(how)) if how.ends_with("status 0") => Ok(()),
        (_, None) => Err(format!("a kernel under KVM did not come to its end in {DEADLINE:?}")),
        (_, Some(how)) => {
            let words = console.lines().rev().map(str::trim).find(|line| !line.is_empty());
            let words: String = words.unwrap_or_default().chars().take(200).collect();
            Err(format!("a kernel under KVM did not boot: {how}: {words}"))
        }
    }
}

/// A kernel of some image, to prove KVM with.
fn any_kernel(images_dir: &Path) -> Option<PathBuf> {
    let directories = fs::read_dir(images_dir).ok()?.flatten().map(|entry| entry.path());
    directories.into_iter().find_map(|directory| {
        let manifest = fs::read(directory.join("manifest.json")).ok()?;
        let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
        match manifest.boot {
            Boot::Kernel { kernel, .. } => Some(directory.join(kernel)).filter(|k| k.is_file()),
            Boot::Firmware => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_boot_is_a_proof() {
        let booted = "[0.0] Linux version 6.1\n[1.2] Kernel panic - not syncing: VFS";
        assert_eq!(judge(booted, Some("the QEMU process exited with status 0")), Ok(()));
        assert!(judge(booted, None).is_err(), "it hangs after the panic");
        assert!(judge(booted, Some("killed by signal 6")).is_err());
        assert!(judge("Probing EDD (edd=off to disable)... ok", None).is_err());
        assert!(judge("", Some("the QEMU process exited with status 0")).is_err());
        let refused = judge("x\nCould not access KVM\n\n", Some("exited with status 1"));
        assert!(refused.unwrap_err().ends_with("status 1: Could not access KVM"));
    }

    #[test]
    fn a_verdict_holds_for_its_host_only() {
        let data = tempfile::tempdir().unwrap();
        let qemu = Path::new("/bin/sh");
        assert_eq!(cached(data.path(), qemu), None);
        let mut verdict =
            Verdict { key: key(qemu).unwrap(), proven: true, detail: "seen".to_owned() };
        fs::write(path(data.path()), serde_json::to_vec(&verdict).unwrap()).unwrap();
        assert_eq!(cached(data.path(), qemu), Some(verdict.clone()));
        assert_eq!(cached(data.path(), Path::new("/bin/ls")), None, "another QEMU");
        verdict.key.push('x');
        fs::write(path(data.path()), serde_json::to_vec(&verdict).unwrap()).unwrap();
        assert_eq!(cached(data.path(), qemu), None);
    }
}
