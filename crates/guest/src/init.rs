//! PID 1 of the micro image.
//!
//! One thread, one loop: it waits for signals and for the power button, reaps what ended and starts
//! what comes next. Everything that may block is in a child.
//!
//! ```text
//!  boot ─► network child ─ends─► sshd (restarted when it ends), user data, renewal, disk names
//!    any ── power button, SIGUSR2, SIGTERM, SIGUSR1, SIGINT ─► stop everything ─► off, reset, halt
//! ```
//!
//! The signals are those that busybox' poweroff, reboot and halt send to init.

use crate::input::Buttons;
use crate::{dhcp6, disks, network, sys, user_data};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long processes have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long a broken sshd is left alone before it is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Writes a line with the time since the kernel started to standard output, which is the console.
pub(crate) fn say(text: &str) {
    let time = sys::uptime();
    let line = format!("[{:5}.{:06}] gureum: {text}\n", time.as_secs(), time.subsec_micros());
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// How the system ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerOff,
    Reboot,
    Halt,
}

impl End {
    /// What a signal to init asks for.
    fn of_signal(signal: i32) -> Option<Self> {
        match signal {
            libc::SIGUSR2 => Some(Self::PowerOff),
            libc::SIGTERM | libc::SIGINT => Some(Self::Reboot),
            libc::SIGUSR1 => Some(Self::Halt),
            _ => None,
        }
    }
}

/// The children that init knows by name.
#[derive(Debug, Default)]
struct Children {
    network: Option<i32>,
    sshd: Option<i32>,
    restart_sshd: Option<Instant>,
}

/// Does not return.
pub(crate) fn run() -> ! {
    mount_all();
    sys::catch_ctrl_alt_del();
    let wanted = [libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT];
    let mut signals = match sys::signal_descriptor(&wanted) {
        Ok(signals) => signals,
        Err(error) => {
            say(&format!("cannot wait for signals: {error}"));
            finish(End::PowerOff)
        }
    };
    // Before interfaces come up, since it listens to what routers say then.
    start("IPv6", dhcp6::run);
    let mut children = Children { network: start("network", network::run), ..Children::default() };
    let mut buttons = Buttons::open();
    let end = loop {
        let mut descriptors = vec![signals.as_raw_fd()];
        descriptors.extend(buttons.descriptors());
        let timeout =
            children.restart_sshd.map(|time| time.saturating_duration_since(Instant::now()));
        let _ = sys::wait_readable(&descriptors, timeout);
        if buttons.pressed() {
            say("the power button was pressed");
            break End::PowerOff;
        }
        let mut block = [0; sys::SIGNAL_BLOCK];
        if matches!(signals.read(&mut block), Ok(size) if size == block.len())
            && let Some(end) = sys::signal_number(&block).and_then(End::of_signal)
        {
            break end;
        }
        while let Ok(Some(ended)) = sys::reap() {
            children.ended(&ended);
        }
        children.restart();
    };
    say(match end {
        End::PowerOff => "powering off",
        End::Reboot => "rebooting",
        End::Halt => "halting",
    });
    stop_processes();
    unmount_all();
    finish(end)
}

impl Children {
    fn ended(&mut self, ended: &sys::Ended) {
        if self.network == Some(ended.child) {
            self.network = None;
            // Whatever the network step could not do, people must be able to log in and look.
            self.restart_sshd = Some(Instant::now());
            start("user data", user_data::run);
            start("address renewal", network::renew);
            start("disk names", disks::watch);
        } else if self.sshd == Some(ended.child) {
            say(&format!("sshd ended with status {}; starting it again", ended.code));
            self.sshd = None;
            self.restart_sshd = Some(Instant::now() + RESTART_PAUSE);
        }
    }

    fn restart(&mut self) {
        if self.restart_sshd.is_some_and(|time| time <= Instant::now()) {
            self.restart_sshd = None;
            self.sshd = start("sshd", || exec(network::sshd()));
            if self.sshd.is_none() {
                self.restart_sshd = Some(Instant::now() + RESTART_PAUSE);
            }
        }
    }
}

/// Runs a step in a child.
fn start(name: &str, step: fn() -> i32) -> Option<i32> {
    match sys::fork(|| {
        sys::new_session();
        step()
    }) {
        Ok(child) => Some(child),
        Err(error) => {
            say(&format!("cannot start the {name} step: {error}"));
            None
        }
    }
}

/// Becomes a program. It must not be spawned from here: std hands down the signal mask, and a server
/// whose SIGCHLD is blocked never learns that a session ended.
fn exec(mut command: Command) -> i32 {
    let error = command.exec();
    say(&format!("cannot start {}: {error}", command.get_program().to_string_lossy()));
    127
}

fn mount_all() {
    let strict = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    for (kind, target, flags, data) in [
        ("devtmpfs", "/dev", libc::MS_NOSUID, "mode=0755"),
        ("proc", "/proc", strict, ""),
        ("sysfs", "/sys", strict, ""),
        ("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755"),
        ("tmpfs", "/tmp", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
        ("devpts", "/dev/pts", libc::MS_NOSUID | libc::MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
    ] {
        let _ = fs::create_dir_all(target);
        // EBUSY: the initrd mounted it.
        if let Err(error) = sys::mount(kind, target, kind, flags, data)
            && error.raw_os_error() != Some(libc::EBUSY)
        {
            say(&format!("cannot mount {target}: {error}"));
        }
    }
    if let Err(error) = sys::mount("", "/", "", libc::MS_REMOUNT | libc::MS_NOATIME, "") {
        say(&format!("the root file system stays read-only: {error}"));
    }
    if let Ok(console) = File::options().read(true).write(true).open("/dev/console") {
        let _ = sys::use_as_standard_streams(&console);
    }
    // SAFETY: this process has one thread.
    unsafe {
        std::env::set_var("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        std::env::set_var("HOME", "/root");
        std::env::set_var("TERM", "linux");
    }
}

/// SIGTERM to everything, SIGKILL to what is left after [`GRACE`].
fn stop_processes() {
    let _ = sys::kill(-1, libc::SIGTERM);
    let _ = sys::kill(-1, libc::SIGCONT);
    let end = Instant::now() + GRACE;
    loop {
        match sys::reap() {
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => break,
            Err(_) => return,
        }
    }
    let _ = sys::kill(-1, libc::SIGKILL);
    while !matches!(sys::reap(), Err(_) | Ok(None)) {}
}

/// Unmounts what people mounted, and makes the root read-only, so that the next boot finds clean
/// file systems.
fn unmount_all() {
    sys::sync();
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for target in disk_mounts(&mounts).into_iter().rev() {
        if let Err(error) = sys::unmount(target) {
            say(&format!("{target} stays mounted: {error}"));
        }
    }
    if let Err(error) = sys::mount("", "/", "", libc::MS_REMOUNT | libc::MS_RDONLY, "") {
        say(&format!("the root file system stays writable: {error}"));
    }
    sys::sync();
}

/// Where disks other than the root are mounted, in order of mounting.
fn disk_mounts(mounts: &str) -> Vec<&str> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (source, target) = (words.next()?, words.next()?);
            (source.starts_with("/dev/") && target != "/").then_some(target)
        })
        .collect()
}

fn finish(end: End) -> ! {
    let error = sys::reboot(match end {
        End::PowerOff => libc::RB_POWER_OFF,
        End::Reboot => libc::RB_AUTOBOOT,
        End::Halt => libc::RB_HALT_SYSTEM,
    });
    say(&format!("the kernel refuses: {error}"));
    // An init that ends panics the kernel, which resets the machine.
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_busybox_sends() {
        assert_eq!(End::of_signal(libc::SIGUSR2), Some(End::PowerOff));
        assert_eq!(End::of_signal(libc::SIGTERM), Some(End::Reboot));
        assert_eq!(End::of_signal(libc::SIGUSR1), Some(End::Halt));
        assert_eq!(End::of_signal(libc::SIGCHLD), None);
    }

    #[test]
    fn only_disks_beside_the_root_are_unmounted() {
        let mounts = "proc /proc proc rw 0 0\n/dev/vda / ext4 rw 0 0\n/dev/vdb /data ext4 rw 0 0\n";
        assert_eq!(disk_mounts(mounts), ["/data"]);
    }
}
