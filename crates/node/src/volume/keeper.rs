//! A qemu-storage-daemon of ours: the block layer for a volume when no QEMU is to be its owner.
//!
//! - for a Multi-Attach volume: it has the layers and exports them over NBD; adopted like QEMU;
//! - for a while, for a volume that no machine has: filling, merging, growing;
//! - for an upload or an export: frozen layers, read-only.
//!
//! It runs as the user that the layers belong to, since a QEMU may have written anything into them.

use super::directory::Directory;
use super::host::{Chain, Host};
use crate::qemu::process::{Identity, Process};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// How long it may take to answer at first, and to end.
const HANDSHAKE: Duration = Duration::from_secs(10);
const QUIT: Duration = Duration::from_secs(5);

/// On the command line of what does not outlive the daemon.
const PASSING: &str = "null,id=gureum-passing";

/// The name of the export.
pub(crate) const EXPORT: &str = "volume";

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It owns a Multi-Attach volume.
    Owner,
    /// Work on a volume that no machine has.
    Work,
    /// Reading frozen layers.
    Reader,
}

impl Purpose {
    /// Name of its sockets and its log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Purpose::Owner => "keeper",
            Purpose::Work => "work",
            Purpose::Reader => "reader",
        }
    }
}

/// The running process.
#[derive(Debug)]
pub(crate) struct Keeper {
    process: Process,
    purpose: Purpose,
    pub(crate) host: Host,
}

impl Keeper {
    /// Starts one for the volume in `directory`, without any node yet. Several of one purpose and
    /// volume cannot be.
    ///
    /// # Errors
    /// Text for people.
    pub(crate) async fn start(
        data_dir: &Path,
        directory: &Directory,
        purpose: Purpose,
        user: u32,
    ) -> Result<Keeper, String> {
        let explain = |error: io::Error| format!("qemu-storage-daemon: {error}");
        let name = purpose.name();
        let monitor = listen(directory.path(), name, user).map_err(explain)?;
        let export = listen(directory.path(), &export_name(purpose), user).map_err(explain)?;
        let arguments = [
            "--chardev".to_owned(),
            format!("socket,id=monitor,fd={},server=on,wait=off", monitor.as_raw_fd()),
            "--monitor".to_owned(),
            "chardev=monitor".to_owned(),
            "--nbd-server".to_owned(),
            format!("addr.type=fd,addr.str={},max-connections=0", export.as_raw_fd()),
            "--chardev".to_owned(),
            mark(purpose, directory),
        ];
        let here = File::open(data_dir).map_err(explain)?;
        let log = directory.log(name).map_err(explain)?;
        let launch = crate::qemu::process::Launch {
            program: Path::new("qemu-storage-daemon"),
            arguments: arguments.into_iter().map(OsString::from).collect(),
            directory: &here,
            user: rustix::process::geteuid().is_root().then_some(user),
            group: None,
            inherit: vec![monitor, export],
            input: None,
            output: log,
        };
        let process = Process::spawn(launch).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "qemu-storage-daemon is missing: install qemu-utils".to_owned()
            }
            _ => explain(error),
        })?;
        let mut new = New(Some(process));
        let connected = tokio::select! {
            how = new.ended() => Err(format!("{how}: {}", directory.last_words(name))),
            connected = timeout(HANDSHAKE, connect(directory.path(), name)) => {
                connected.unwrap_or_else(|_| Err("qemu-storage-daemon does not answer".to_owned()))
            }
        };
        let gone = || "qemu-storage-daemon has ended".to_owned();
        match connected {
            Ok(host) => Ok(Keeper { process: new.0.take().ok_or_else(gone)?, purpose, host }),
            Err(message) => {
                new.kill();
                new.ended().await;
                Err(message)
            }
        }
    }

    /// The one of a daemon before; `None` if it has ended.
    pub(crate) async fn adopt(directory: &Directory, identity: &Identity) -> Option<Keeper> {
        let process = Process::adopt(identity).ok()??;
        let connected = timeout(HANDSHAKE, connect(directory.path(), Purpose::Owner.name())).await;
        match connected {
            Ok(Ok(host)) => Some(Keeper { process, purpose: Purpose::Owner, host }),
            _ => {
                tracing::error!(
                    pid = identity.pid,
                    "a storage daemon that does not answer is ended"
                );
                process.kill();
                None
            }
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.process.identity.clone()
    }

    /// Adds the layers and exports them.
    ///
    /// # Errors
    /// What the process says.
    pub(crate) async fn share(&self, chain: &Chain) -> Result<(), String> {
        self.host.add_chain(chain).await.map_err(|error| error.to_string())?;
        let export = json!({
            "type": "nbd",
            "id": "volume",
            "node-name": node(&chain.volume),
            "name": EXPORT,
            "writable": true,
        });
        let added = self.host.execute("block-export-add", export).await;
        added.map(drop).map_err(|error| error.to_string())
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> String {
        self.process.ended().await
    }

    /// Ends it in an orderly way, or else with force.
    pub(crate) async fn quit(mut self) {
        // Its answer may be lost in its end.
        let _ = timeout(QUIT, self.host.execute("quit", json!({}))).await;
        if timeout(QUIT, self.process.ended()).await.is_err() {
            self.process.kill();
            self.process.ended().await;
        }
    }
}

/// Adds layers read-only beside the process that has them, and exports them.
///
/// # Errors
/// What the process says.
pub(crate) async fn share_frozen(host: &Host, chain: &Chain) -> Result<(), String> {
    let run = async |command: &str, arguments: Value| {
        let done = host.execute(command, arguments).await;
        done.map(drop).map_err(|error| error.to_string())
    };
    if let Some(passphrase) = &chain.passphrase {
        let secret = json!({ "qom-type": "secret", "id": "key", "data": passphrase.0 });
        run("object-add", secret).await?;
    }
    let mut below = Value::Null;
    if let Some(source) = &chain.source {
        let node = json!({
            "driver": "nbd",
            "node-name": "source",
            "read-only": true,
            "server": { "type": "unix", "path": source.socket },
            "export": source.export,
            "reconnect-delay": 60,
        });
        run("blockdev-add", node).await?;
        below = json!("source");
    }
    for layer in &chain.layers {
        let name = format!("layer{}", layer.number);
        // The owner's lock is not asked: it has the layer open, and writes to it no more.
        let mut node = json!({
            "driver": "qcow2",
            "node-name": name,
            "read-only": true,
            "force-share": true,
            "backing": below,
            "file": {
                "driver": "file",
                "filename": layer.file,
                "read-only": true,
            },
        });
        if chain.passphrase.is_some() {
            node["encrypt"] = json!({ "format": "luks", "key-secret": "key" });
        }
        run("blockdev-add", node).await?;
        below = json!(name);
    }
    let export = json!({
        "type": "nbd",
        "id": "volume",
        "node-name": below,
        "name": EXPORT,
        "writable": false,
        "allocation-depth": true,
    });
    run("block-export-add", export).await
}

/// A process that nobody knows of yet: it ends if whoever starts it is broken off.
struct New(Option<Process>);

impl New {
    fn kill(&self) {
        if let Some(process) = &self.0 {
            process.kill();
        }
    }

    async fn ended(&mut self) -> String {
        match &mut self.0 {
            Some(process) => process.ended().await,
            None => String::new(),
        }
    }
}

impl Drop for New {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.purpose != Purpose::Owner {
            self.process.kill();
        }
    }
}

/// The filter node of a volume, as [`super::host`] names it.
fn node(volume: &str) -> String {
    volume.replace('-', "")
}

fn export_name(purpose: Purpose) -> String {
    format!("{}-nbd", purpose.name())
}

/// The export's socket, relative to the volume's directory.
pub(crate) fn export_socket(purpose: Purpose) -> String {
    format!("{}.sock", export_name(purpose))
}

fn mark(purpose: Purpose, directory: &Directory) -> String {
    match purpose {
        Purpose::Owner => format!("null,id={}", directory.id()),
        Purpose::Work | Purpose::Reader => PASSING.to_owned(),
    }
}

/// Through a descriptor of the directory, since a socket's path may have 107 bytes only. Valid as
/// long as the descriptor is open.
pub(crate) fn short(here: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", here.as_raw_fd()))
}

async fn connect(directory: &Path, name: &str) -> Result<Host, String> {
    let here = File::open(directory).map_err(|error| error.to_string())?;
    let socket = short(&here, &format!("{name}.sock"));
    Host::connect(&socket).await.map_err(|error| error.to_string())
}

/// We make the socket rather than the process, so that it needs no right to write into the
/// directory.
fn listen(directory: &Path, name: &str, user: u32) -> io::Result<OwnedFd> {
    let here = File::open(directory)?;
    let path = short(&here, &format!("{name}.sock"));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(user), Some(user))?;
    }
    Ok(listener.into())
}

/// Lets several users connect to the export of a volume's owner, and nobody else.
///
/// # Errors
/// The file system has no access control lists.
pub(crate) fn admit(directory: &Directory, users: &[u32]) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let socket = directory.path().join(export_socket(Purpose::Owner));
    let list = access_list(users);
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::setxattr(socket, "system.posix_acl_access", &list, flags)?)
}

/// `struct posix_acl_xattr_header` and entries (linux/posix_acl_xattr.h): the owner and `users` may
/// read and write.
fn access_list(users: &[u32]) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let (owner, user, group, mask, other): (u16, u16, u16, u16, u16) = (1, 2, 4, 16, 32);
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    let mut entries = vec![(owner, 6_u16, NOBODY)];
    entries.extend(users.into_iter().map(|id| (user, 6, id)));
    entries.extend([(group, 0, NOBODY), (mask, 6, NOBODY), (other, 0, NOBODY)]);
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// Kills the processes in `data_dir` that a daemon before left and that nothing refers to: passing
/// storage daemons, and owners and servers that are not among `kept`. Blocks until they have ended,
/// since they hold locks.
pub(crate) fn kill_strays(data_dir: &Path, kept: &[i32]) {
    let Ok(data_dir) = data_dir.canonicalize() else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let is_stray = || {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let marked = arguments.split(|byte| *byte == 0).any(is_ours);
            let there = fs::read_link(format!("/proc/{pid}/cwd")).ok()? == data_dir;
            Some(marked && there)
        };
        if kept.contains(&pid) || pid == std::process::id().cast_signed() {
            continue;
        }
        if is_stray() != Some(true) {
            continue;
        }
        let Some(id) = Pid::from_raw(pid) else { continue };
        let Ok(pidfd) = pidfd_open(id, PidfdFlags::empty()) else { continue };
        // Looked at again, now that the pidfd pins whoever has the number.
        if is_stray() != Some(true) {
            continue;
        }
        tracing::info!(pid, "ending a storage process that a daemon left behind");
        // Fails only if it has ended.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        for _ in 0..500 {
            if has_ended(pid) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Not until its directory cannot be read: a process that is ending gives its memory back before its
/// files.
fn has_ended(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let state = stat.rfind(')').and_then(|end| stat[end + 1..].trim_start().chars().next());
    matches!(state, Some('Z' | 'X'))
}

/// Whether an argument marks a storage process: of ours that pass, of a volume's owner, or one that
/// serves a source.
fn is_ours(argument: &[u8]) -> bool {
    argument == PASSING.as_bytes()
        || argument.starts_with(b"null,id=vol-")
        || argument == super::source::MARK.as_bytes()
}
