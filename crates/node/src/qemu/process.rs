//! One QEMU process: started so that it outlives us, recognised again by the next daemon, watched
//! through a pidfd.
//!
//! All of the crate's `unsafe` is here: what runs between fork and exec, a pidfd's registration and
//! the question to it how its process ended.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What makes a process unmistakable: no two processes of one boot share both numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat` (proc(5)).
    pub(crate) started: u64,
    pub(crate) boot_id: String,
}

/// What to run and as whom.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    /// Working directory, entered while still privileged: the paths on the command line are
    /// relative to it, so the directories above need not be open to the unprivileged user.
    pub(crate) directory: &'a File,
    /// User and group; `None` keeps ours.
    pub(crate) user: Option<u32>,
    /// Supplementary group, the one of /dev/kvm.
    pub(crate) group: Option<u32>,
    /// Descriptors that the process inherits under the same numbers.
    pub(crate) inherit: Vec<OwnedFd>,
    /// Standard input; `None` is empty.
    pub(crate) input: Option<File>,
    /// Standard output and error.
    pub(crate) output: File,
}

/// A running QEMU, or its remains.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
    /// Present if we are its parent and so learn how it ended.
    child: Option<Child>,
}

/// This boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The start time in a `/proc/<pid>/stat` line; `None` for a zombie or what is not such a line.
fn start_time(stat: &str) -> Option<u64> {
    // The command may contain anything, also parentheses; it ends at the last one.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn started(pid: i32) -> Option<u64> {
    start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl Process {
    /// Starts the process in a session of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The program is missing or the user could not be changed.
    pub(crate) fn spawn(launch: Launch<'_>) -> io::Result<Process> {
        let mut command = Command::new(launch.program);
        command.args(&launch.arguments).env_clear();
        command.stdin(launch.input.map_or_else(Stdio::null, Stdio::from));
        command.stdout(launch.output.try_clone()?).stderr(launch.output);
        let directory = launch.directory.as_raw_fd();
        let descriptors: Vec<RawFd> = launch.inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let (user, group) = (launch.user, launch.group);
        // SAFETY: between fork and exec the closure only makes system calls on numbers that were
        // computed before; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || prepare(directory, &descriptors, user, group));
        }
        let mut child = command.spawn()?;
        drop(launch.inherit);
        match Self::watch(&child) {
            Ok((identity, pidfd)) => Ok(Process { identity, pidfd, child: Some(child) }),
            Err(error) => {
                // Fails only if it has ended.
                let _ = child.kill();
                child.wait()?;
                Err(error)
            }
        }
    }

    fn watch(child: &Child) -> io::Result<(Identity, AsyncFd<OwnedFd>)> {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // The child was not waited for, so its pid cannot have gone to another.
        let identity = Identity { pid, started: started(pid).unwrap_or(0), boot_id: boot_id()? };
        Ok((identity, open(pid)?))
    }

    /// The running process that `identity` names; `None` if it has ended.
    ///
    /// # Errors
    /// The kernel refused a pidfd for another reason than that.
    pub(crate) fn adopt(identity: &Identity) -> io::Result<Option<Process>> {
        if boot_id()? != identity.boot_id || started(identity.pid) != Some(identity.started) {
            return Ok(None);
        }
        let pidfd = match open(identity.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            opened => opened?,
        };
        // Looked at again, now that the pidfd pins whoever has the number.
        if started(identity.pid) != Some(identity.started) {
            return Ok(None);
        }
        Ok(Some(Process { identity: identity.clone(), pidfd, child: None }))
    }

    /// Kills it with SIGKILL, if it still runs.
    pub(crate) fn kill(&self) {
        // Fails only if it has ended.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Waits until it has ended and says how. Cancellation safe.
    pub(crate) async fn ended(&mut self) -> String {
        // A pidfd becomes readable once, when the process ends, and stays so.
        if let Err(error) = self.pidfd.ready(Interest::READABLE).await {
            tracing::error!(%error, pid = self.identity.pid, "watching a process failed");
        }
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => describe(status),
            Some(Err(error)) => format!("the QEMU process ended; how is unknown ({error})"),
            None => match self.adopted_status() {
                Some(status) => describe(status),
                None => "the QEMU process ended; how is unknown, since another daemon started it"
                    .to_owned(),
            },
        }
    }

    /// How a process ended that is not our child: its parent, init, learns it, and we may look.
    fn adopted_status(&self) -> Option<ExitStatus> {
        // Until init has reaped it, it is in field 52 of its stat line (proc(5)).
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.identity.pid));
        if let Some(status) = stat.ok().as_deref().and_then(zombie_status) {
            return Some(status);
        }
        // Afterwards the pidfd remembers it, from Linux 6.15 on.
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the kernel writes at most the 64 bytes that the request's number states into
        // `info`, which is as large, and whose every bit pattern is valid.
        let result = unsafe { libc::ioctl(self.pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        (result == 0 && info.mask & PIDFD_INFO_EXIT != 0)
            .then(|| ExitStatus::from_raw(info.exit_code))
    }
}

/// `struct pidfd_info` (linux/pidfd.h), first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// Process, thread group and parent; then real, effective, saved and file system ids.
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xff, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
const PIDFD_INFO_EXIT: u64 = 1 << 3;
const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// The wait status in the stat line of a zombie.
fn zombie_status(stat: &str) -> Option<ExitStatus> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    fields.nth(48)?.parse().ok().map(ExitStatus::from_raw)
}

fn open(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an `OwnedFd` is open and the same for its whole life, which the `AsyncFd` owns.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? })
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("the QEMU process was killed by signal {signal}"),
        (None, Some(code)) => format!("the QEMU process exited with status {code}"),
        (None, None) => "the QEMU process ended".to_owned(),
    }
}

/// Runs in the child between fork and exec.
fn prepare(
    directory: RawFd,
    inherit: &[RawFd],
    user: Option<u32>,
    group: Option<u32>,
) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    let groups: &[libc::gid_t] = group.as_slice();
    // No core, with a guest's memory and its volumes' keys in it, on the disk: 1 is what also keeps
    // it from a program that takes cores by a pipe (fs/coredump.c).
    let no_core = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: plain system calls; `groups` and `no_core` outlive theirs, and the length is passed.
    unsafe {
        check(libc::setsid())?;
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core))?;
        check(libc::fchdir(directory))?;
        for descriptor in inherit {
            check(libc::fcntl(*descriptor, libc::F_SETFD, 0))?;
        }
        if let Some(user) = user {
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setgid(user))?;
            check(libc::setuid(user))?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}

/// Kills every process that runs in `directory` and has `mark` in its arguments: what a daemon
/// started and did not live to record. Blocks until they have ended, since they hold locks on disks.
pub(crate) fn kill_unrecorded(directory: &Path, mark: &str) {
    let Ok(directory) = directory.canonicalize() else { return };
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let is_ours = || {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let marked =
                arguments.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes());
            let there = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()? == directory;
            Some(marked && there)
        };
        if is_ours() != Some(true) {
            continue;
        }
        let Some(id) = Pid::from_raw(pid) else { continue };
        let Ok(pidfd) = pidfd_open(id, PidfdFlags::empty()) else { continue };
        // Looked at again, now that the pidfd pins whoever has the number.
        if is_ours() == Some(true) {
            tracing::warn!(pid, mark, "killing a QEMU whose start was not recorded");
            let began = started(pid);
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            // Not until `is_ours` fails: a process that is ending gives its memory back before its
            // files.
            for _ in 0..500 {
                if started(pid).is_none() || started(pid) != began {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stat_lines() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200";
        assert_eq!(start_time(line), Some(98_765));
        assert_eq!(start_time(&line.replace(" S ", " Z ")), None, "a zombie has ended");
        assert_eq!(start_time("42 (a"), None);
        assert_eq!(start_time(""), None);
        let tail = " 1".repeat(27);
        let zombie = format!("{}{tail} 9", line.replace(" S ", " Z "));
        let status = zombie_status(&zombie).expect("it has ended");
        assert_eq!(status.signal(), Some(9), "{zombie}");
        assert_eq!(zombie_status(line), None);
    }

    proptest! {
        #[test]
        fn no_stat_line_panics(line in ".{0,100}") {
            let _ = (start_time(&line), zombie_status(&line));
        }
    }

    fn sleeper(seconds: &str) -> Process {
        let directory = File::open("/").unwrap();
        let launch = Launch {
            program: Path::new("/bin/sleep"),
            arguments: vec![seconds.into()],
            directory: &directory,
            user: None,
            group: None,
            inherit: Vec::new(),
            input: None,
            output: File::create("/dev/null").unwrap(),
        };
        Process::spawn(launch).unwrap()
    }

    async fn end(process: &mut Process) -> String {
        tokio::time::timeout(Duration::from_secs(10), process.ended()).await.expect("it ends")
    }

    #[tokio::test]
    async fn none_leaves_a_core() {
        let mut process = sleeper("60");
        let limits = format!("/proc/{}/limits", process.identity.pid);
        let limits = std::fs::read_to_string(limits).unwrap();
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let words: Vec<&str> = cores.split_whitespace().collect();
        assert_eq!(words[4..6], ["1", "1"], "{cores}");
        process.kill();
        end(&mut process).await;
    }

    #[tokio::test]
    async fn ends_are_told_apart() {
        let mut killed = sleeper("1000");
        killed.kill();
        assert!(end(&mut killed).await.ends_with("killed by signal 9"));
        assert!(end(&mut sleeper("0")).await.ends_with("status 0"));
        assert!(end(&mut sleeper("nonsense")).await.ends_with("status 1"));
    }

    #[tokio::test]
    async fn only_the_very_process_is_adopted() {
        let mut process = sleeper("1000");
        let identity = process.identity.clone();
        let mut adopted = Process::adopt(&identity).unwrap().expect("it runs");
        let later = Identity { started: identity.started + 1, ..identity.clone() };
        assert!(Process::adopt(&later).unwrap().is_none());
        let other_boot = Identity { boot_id: "x".to_owned(), ..identity.clone() };
        assert!(Process::adopt(&other_boot).unwrap().is_none());
        adopted.kill();
        assert!(end(&mut adopted).await.ends_with("signal 9"), "told by the zombie");
        end(&mut process).await;
        let told = end(&mut adopted).await;
        assert!(told.ends_with("signal 9") || told.contains("unknown"), "{told}");
        assert!(Process::adopt(&identity).unwrap().is_none());
    }

    #[tokio::test]
    async fn the_unrecorded_are_killed() {
        let directory = tempfile::tempdir().unwrap();
        let here = File::open(directory.path()).unwrap();
        // `sleep` adds its arguments up, so the mark is a number that nobody else uses.
        let mark = format!("{}", 1_000_000_000 + u64::from(std::process::id()));
        let launch = Launch {
            program: Path::new("/bin/sleep"),
            arguments: vec![mark.clone().into()],
            directory: &here,
            user: None,
            group: None,
            inherit: Vec::new(),
            input: None,
            output: File::create("/dev/null").unwrap(),
        };
        let mut process = Process::spawn(launch).unwrap();
        kill_unrecorded(Path::new("/usr"), &mark);
        assert!(Process::adopt(&process.identity).unwrap().is_some(), "another directory's");
        kill_unrecorded(directory.path(), &mark);
        assert!(end(&mut process).await.ends_with("signal 9"));
    }
}
