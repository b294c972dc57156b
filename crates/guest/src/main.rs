//! The one program of our own that runs inside a machine: a static binary without threads, async or
//! name service, small because every boot reads it.
//!
//! It is several programs, told apart by how it is called:
//!
//! ```text
//! kernel ─► /init in the initrd        [initrd]  load modules, mount the root disk, switch to it
//!              │ (debian-12: systemd goes on from here)
//!              ▼ micro
//!           /sbin/init                 [init]    mount, fork the steps below, reap, restart sshd,
//!              │                                 power button and signals ─► orderly shutdown
//!              ├─ network  [network]   DHCP ─► IMDS: instance id, name, key ─► host keys, disk links
//!              ├─ IPv6     [dhcp6]     router advertisement ─► DHCPv6 address
//!              ├─ dropbear             as soon as network is done
//!              ├─ user data [user_data] once per instance id
//!              ├─ disks    [disks]     links the names of disks that come and go
//!              └─ renew    [network]   DHCP renewal
//! ec2-metadata, hostname, sudo, … [applets] commands for people and scripts
//! ```
//!
//! It deliberately does not: run `#cloud-config` (that is what the debian-12 image is for), start a
//! getty, manage services other than SSH, or use udev.

mod applets;
mod dhcp;
mod dhcp6;
mod disks;
mod imds;
mod init;
mod initrd;
mod input;
mod network;
mod sys;
mod user_data;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let called_as = arguments.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
    // A set-user-id copy is sudo whatever name it is called by; nothing else may run with its powers.
    if sys::effective_user_id() != sys::user_id() {
        return applets::sudo(&arguments[1..]);
    }
    if sys::process_id() == 1 {
        if std::path::Path::new(initrd::MODULE_LIST).exists() { initrd::run() } else { init::run() }
    }
    match called_as {
        "ec2-metadata" => applets::ec2_metadata(&arguments[1..]),
        "hostname" => applets::hostname(&arguments[1..]),
        "shutdown" => applets::shutdown(&arguments[1..]),
        "sudo" => applets::sudo(&arguments[1..]),
        _ => {
            eprintln!(
                "gureum-guest {}: init of gureum's micro image; call it as init, ec2-metadata, \
                 hostname, shutdown or sudo",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::from(2)
        }
    }
}
