//! Brings machines up, and what else touches a machine without its state machine.

use super::Shared;
use super::accelerator::{self, Device};
use super::boot;
use super::command::{self, Disk, Kernel, Line};
use super::directory::{Directory, Stage};
use super::machine::{PRESS_AGAIN, QUIT};
use super::process::{Launch, Process};
use super::qmp::{Client, Event};
use crate::volume::host::{Chain, Host, Passphrase};
use base::image::Boot;
use base::machine::{ExitCause, Spec};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Names of the sockets in a machine's directory.
const MONITOR: &str = "qmp.sock";
const BLOCK_MONITOR: &str = "block.sock";

/// Through a descriptor of the directory, since a socket's path may have 107 bytes only.
fn socket_path(here: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", here.as_raw_fd()).into()
}

/// Connects to the block layer of a machine's QEMU.
pub(crate) async fn connect_disks(directory: &Directory) -> Result<Host, String> {
    let here = File::open(directory.path()).map_err(|error| error.to_string())?;
    let connected = Host::connect(&socket_path(&here, BLOCK_MONITOR)).await;
    connected.map_err(|error| error.to_string())
}

/// Connects to a machine's monitor and asks whether the guest has powered off.
pub(crate) async fn connect(directory: &Directory) -> Result<(Client, bool), String> {
    let here = File::open(directory.path()).map_err(|error| error.to_string())?;
    let path = socket_path(&here, MONITOR);
    let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
    let mut monitor = Client::new(stream).await.map_err(|error| error.to_string())?;
    let status = monitor.execute("query-status", json!({})).await;
    let status = status.map_err(|error| error.to_string())?;
    Ok((monitor, status["status"] == "shutdown"))
}

/// Opens what QEMU inherits and starts it.
pub(crate) fn start(
    shared: &Shared,
    spec: &Spec,
    directory: &Directory,
    engine: command::Engine,
    boots: &Boot,
    chains: Vec<Chain>,
    user: u32,
) -> Result<Process, String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let mut inherit: Vec<OwnedFd> = Vec::new();
    let mut pass = |descriptor: OwnedFd| {
        let number = descriptor.as_raw_fd();
        inherit.push(descriptor);
        number
    };
    let here = directory.path();
    let kernel = match boots {
        Boot::Firmware => None,
        Boot::Kernel { kernel, initrd, command_line } => Some(Kernel {
            kernel: pass(boot::open_public(&here.join(kernel)).map_err(failed(kernel))?.into()),
            initrd: pass(boot::open_public(&here.join(initrd)).map_err(failed(initrd))?.into()),
            command_line,
        }),
    };
    let mut disks = Vec::new();
    for chain in chains {
        let secret = chain.passphrase.as_ref().map(memory_file).transpose();
        let passphrase = secret.map_err(failed("a volume's key"))?.map(&mut pass);
        disks.push(Disk { chain, passphrase });
    }
    let mut taps = Vec::new();
    for interface in &spec.interfaces {
        let network = shared.network.as_ref().ok_or("this node has no network")?;
        taps.push(pass(network.fabric.open_tap(&interface.vpc_id, &interface.id)?));
    }
    let monitor = pass(listen(directory, MONITOR).map_err(failed("the monitor's socket"))?);
    let block_monitor = listen(directory, BLOCK_MONITOR);
    let block_monitor = pass(block_monitor.map_err(failed("the disks' monitor's socket"))?);
    let (mut group, mut kvm) = (None, None);
    if engine == command::Engine::Kvm {
        match accelerator::kvm_device().map_err(|error| error.to_string())? {
            Device::Group(id) => group = id,
            Device::Open(file) => kvm = Some(pass(file.into())),
        }
    }
    let memory = shared.vm_memory_max.map_or(spec.memory_mib, |max| max.min(spec.memory_mib));
    let line = Line {
        spec,
        engine,
        kvm,
        vcpus: spec.vcpus.clamp(1, shared.host_cpus),
        memory_mib: memory.max(64),
        kernel,
        disks: &disks,
        taps,
        monitor,
        block_monitor,
    };
    let arguments = command::arguments(&line);
    let data = File::open(&shared.data_dir).map_err(failed("the data directory"))?;
    let privileged = rustix::process::geteuid().is_root();
    let launch = Launch {
        program: &shared.qemu,
        arguments,
        directory: &data,
        user: privileged.then_some(user),
        group,
        inherit,
        input: None,
        output: directory.log().map_err(failed("qemu.log"))?,
    };
    Process::spawn(launch).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{} is missing: install qemu-system-x86", shared.qemu.display())
        }
        io::ErrorKind::PermissionDenied => {
            format!("QEMU could not be started as user {user}: {error}; run gureum as root")
        }
        _ => format!("QEMU could not be started: {error}"),
    })
}

/// A file that is nowhere on disk and that QEMU's user may open again through its descriptor, as it
/// may do with a file of any mode that lies in memory.
fn memory_file(passphrase: &Passphrase) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("passphrase", MemfdFlags::CLOEXEC)?);
    file.write_all(passphrase.0.as_bytes())?;
    Ok(file.into())
}

/// The listening socket of a monitor. We make it rather than QEMU, so that it can be connected
/// to at once and QEMU needs no right to write into the directory.
fn listen(directory: &Directory, name: &str) -> io::Result<OwnedFd> {
    let here = File::open(directory.path())?;
    let path = socket_path(&here, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

/// Ends the machine in `directory`, if it runs, giving its guest `grace` to power off. For
/// `gureum down`, which runs no driver.
pub(crate) async fn stop(directory: Directory, grace: Duration) {
    let Some(mut record) = directory.read() else { return };
    let Stage::Up(identity) = &record.stage else { return };
    if let Ok(Some(mut process)) = Process::adopt(identity) {
        if let Ok(Ok((mut monitor, powered_off))) = timeout(QUIT, connect(&directory)).await {
            let off = async {
                if powered_off {
                    return;
                }
                loop {
                    // A refusal shows by the guest not powering off.
                    let _ = monitor.execute("system_powerdown", json!({})).await;
                    let event = timeout(PRESS_AGAIN, monitor.event()).await;
                    if matches!(event, Ok(None | Some(Event::Shutdown { .. }))) {
                        return;
                    }
                }
            };
            // Without an answer in time it is ended all the same.
            let _ = timeout(grace, off).await;
            let _ = timeout(QUIT, monitor.execute("quit", json!({}))).await;
        }
        if timeout(QUIT, process.ended()).await.is_err() {
            process.kill();
            process.ended().await;
        }
    }
    record.stage = Stage::Exited(ExitCause::Requested);
    if let Err(error) = directory.write(&record) {
        tracing::error!(%error, "a machine's record could not be written");
    }
}
