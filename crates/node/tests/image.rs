//! Builds the micro image and boots it by itself, without network, as far as its init goes: modules,
//! root disk, console, sshd, the power button. The way through DHCP and IMDS is in tests/machines.
//!
//! Needs root, QEMU, the guest binary, and Debian's packages (from the network or a cache); without
//! one of them the test says that it skips.

use base::image::{Boot, Manifest};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A QEMU that ends with the test.
struct Machine {
    process: Child,
    directory: PathBuf,
}

impl Machine {
    fn start(image: &Path, manifest: &Manifest, directory: &Path) -> Machine {
        let Boot::Kernel { kernel, initrd, command_line } = &manifest.boot else {
            panic!("micro boots its own kernel")
        };
        let disk = image.join(&manifest.disk);
        let process = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"])
            .args(["-accel", "tcg", "-cpu", "max", "-m", "256M", "-snapshot", "-no-reboot"])
            .arg("-kernel")
            .arg(image.join(kernel))
            .arg("-initrd")
            .arg(image.join(initrd))
            .args(["-append", command_line])
            .arg("-drive")
            .arg(format!("if=virtio,format=raw,file={}", disk.display()))
            .arg("-serial")
            .arg(format!("file:{}", directory.join("console").display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", directory.join("qmp").display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        Machine { process, directory: directory.to_owned() }
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Machine) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "no {what}; the console says:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press_power_button(&self) {
        let mut stream = UnixStream::connect(self.directory.join("qmp")).expect("the monitor");
        let lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(stream, "{{\"execute\":\"{command}\"}}").expect("the monitor reads");
        }
        let answered = lines.filter(|line| line.as_ref().is_ok_and(|l| l.contains("\"return\"")));
        assert_eq!(answered.take(2).count(), 2, "the monitor answers both");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The guest binary: where the environment says, or where `cargo xtask guest` leaves it.
fn guest() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/gureum-guest");
    std::env::var_os("GUREUM_GUEST_INIT").map(PathBuf::from).or(Some(built)).filter(|p| p.is_file())
}

#[test]
fn micro_is_built_boots_and_obeys_the_power_button() {
    if std::env::var("GUREUM_PRIVILEGED_TESTS").is_ok_and(|value| value == "1") {
        let Some(guest) = guest() else {
            eprintln!("skipped: no guest binary; cargo xtask guest builds it");
            return;
        };
        // SAFETY: the only test of this program, and it has started no thread yet.
        unsafe { std::env::set_var("GUREUM_GUEST_INIT", guest) };
    } else {
        eprintln!("skipped: needs root and QEMU; set GUREUM_PRIVILEGED_TESTS=1");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let images = directory.path().join("images");
    let manifest = match node::image::build("micro", &images, &mut |text| eprintln!("{text}")) {
        Ok(manifest) => manifest,
        Err(
            error @ (node::image::Error::Package { .. }
            | node::image::Error::MissingProgram { .. }
            | node::image::Error::NotRoot),
        ) => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(node::image::load(&images, "micro").expect("it is there"), manifest);
    assert!(!images.join(".building-micro").exists());

    let mut machine = Machine::start(&images.join("micro"), &manifest, directory.path());
    machine.wait("host key", |machine| machine.console().contains("END SSH HOST KEY KEYS"));
    machine.press_power_button();
    machine.wait("power-off", |machine| matches!(machine.process.try_wait(), Ok(Some(_))));
    let console = machine.console();
    for text in ["there is no network interface", "ssh-ed25519 AAAA", "powering off"] {
        assert!(console.contains(text), "{text:?} is not in\n{console}");
    }
    assert!(!console.contains("cannot"), "{console}");
}
