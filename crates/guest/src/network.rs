//! The network step of a boot: an address by DHCP, then from IMDS who this machine is.
//!
//! What belongs to an instance (host keys, the login key) is made when the instance id differs from
//! the one on the disk, so that a disk that became an AMI makes a new machine of its copies. What can
//! change (name, address) is written at every boot.

use crate::dhcp::{self, Lease};
use crate::disks;
use crate::imds::{self, Client};
use crate::init::say;
use crate::sys::{self, PacketSocket};
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What is known of the instance that this disk last was.
pub(crate) const STATE: &str = "/var/lib/gureum";
/// Raw user data of this boot; not there if there is none.
pub(crate) const USER_DATA: &str = "/run/gureum/user-data";
/// The instance id of this boot, if IMDS told it.
pub(crate) const INSTANCE_ID: &str = "/run/gureum/instance-id";

const PRIMARY: &str = "eth0";
const PATIENCE: Duration = Duration::from_secs(60);
const HOME: &str = "/home/ec2-user";
const LOGIN_ID: u32 = 1000;
const HOST_KEYS: [(&str, &str); 2] = [
    ("ed25519", "/etc/dropbear/dropbear_ed25519_host_key"),
    ("ecdsa", "/etc/dropbear/dropbear_ecdsa_host_key"),
];

/// The step; its result is an exit code, which nobody needs: what failed is on the console, and the
/// boot goes on.
pub(crate) fn run() -> i32 {
    let _ = sys::interface_up("lo");
    let lease = match interfaces().first() {
        None => {
            say("there is no network interface");
            None
        }
        Some(_) => configure(PRIMARY, true),
    };
    for interface in interfaces().iter().filter(|interface| *interface != PRIMARY) {
        configure(interface, false);
    }
    let _ = fs::create_dir_all("/run/gureum");
    let mut name = lease.as_ref().and_then(name_of_lease);
    if lease.is_some() {
        match Client::connect(PATIENCE).and_then(|client| {
            say("IMDS answers");
            if let Some(told) =
                client.text("meta-data/local-hostname")?.filter(|text| is_name(text))
            {
                name = Some(told);
            }
            set_name(name.as_deref(), lease.as_ref());
            identify(&client)?;
            disks::link_all(&client)
        }) {
            Ok(()) => return 0,
            Err(error) => say(&error.to_string()),
        }
    }
    set_name(name.as_deref(), lease.as_ref());
    if let Err(error) = make_host_keys(false) {
        say(&format!("cannot make host keys: {error}"));
    }
    1
}

/// The command of the SSH server, in the foreground, without passwords and without root.
pub(crate) fn sshd() -> Command {
    let mut command = Command::new("/usr/sbin/dropbear");
    command.args(["-F", "-s", "-w", "-p", "22"]);
    for (_, file) in HOST_KEYS {
        command.args(["-r", file]);
    }
    command
}

/// Confirms the address at half of its lease, as long as the machine runs. The region never takes an
/// address away, so a server that does not answer is no reason to stop using it.
pub(crate) fn renew() -> i32 {
    let Ok(text) = fs::read_to_string("/run/gureum/lease-seconds") else { return 0 };
    let Ok(mut seconds) = text.trim().parse::<u64>() else { return 0 };
    loop {
        std::thread::sleep(Duration::from_secs((seconds / 2).clamp(60, 1 << 30)));
        if let Some(lease) = configure(PRIMARY, true) {
            seconds = lease.duration.as_secs();
        }
    }
}

/// Ethernet interfaces, primary first.
fn interfaces() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("eth"))
        .collect();
    names.sort();
    names
}

/// Gets and sets an interface's address; only the primary one's router becomes the default route.
fn configure(interface: &str, primary: bool) -> Option<Lease> {
    match lease(interface, primary) {
        Ok(lease) => Some(lease),
        Err(error) => {
            say(&format!("no address for {interface}: {error}"));
            None
        }
    }
}

fn lease(interface: &str, primary: bool) -> io::Result<Lease> {
    // Nobody else has an address that the region gave: IPv6 need not ask around for a second.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/dad_transmits"), "0");
    sys::interface_up(interface)?;
    let (index, hardware) = sys::interface_identity(interface)?;
    let socket = PacketSocket::open(index)?;
    let clock = sys::uptime();
    // Distinct for every machine and try; it need not be secret.
    let transaction = u32::from_be_bytes([hardware[2], hardware[3], hardware[4], hardware[5]])
        ^ clock.subsec_nanos();
    let patience = if primary { PATIENCE } else { Duration::from_secs(5) };
    let lease = dhcp::acquire(&socket, hardware, transaction, patience)?;
    if let Some(mtu) = lease.mtu {
        let _ = sys::set_interface_mtu(interface, mtu);
    }
    sys::set_interface_address(interface, lease.address, lease.mask)?;
    if primary {
        if let Some(router) = lease.router {
            sys::add_default_route(router)?;
        }
        let _ = fs::create_dir_all("/run/gureum");
        fs::write("/run/gureum/lease-seconds", lease.duration.as_secs().to_string())?;
        write_if_changed("/etc/resolv.conf", &resolver_file(&lease))?;
    }
    say(&format!("{interface} has {}", lease.address));
    Ok(lease)
}

fn resolver_file(lease: &Lease) -> String {
    let mut text = String::new();
    if let Some(domain) = &lease.domain {
        text += &format!("search {domain}\n");
    }
    for resolver in &lease.resolvers {
        text += &format!("nameserver {resolver}\n");
    }
    text
}

/// The full name that DHCP gave, if it gave one.
fn name_of_lease(lease: &Lease) -> Option<String> {
    let hostname = lease.hostname.as_ref()?;
    Some(match &lease.domain {
        Some(domain) if !hostname.contains('.') => format!("{hostname}.{domain}"),
        _ => hostname.clone(),
    })
}

/// Whether a text can stand in /etc/hosts as a name.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

fn set_name(name: Option<&str>, lease: Option<&Lease>) {
    let full = name.unwrap_or("localhost.localdomain");
    let short = full.split('.').next().unwrap_or(full);
    let _ = sys::set_hostname(short);
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    if let (Some(lease), Some(full)) = (lease, name) {
        hosts += &format!("{} {full} {short}\n", lease.address);
    }
    for (path, text) in [("/etc/hostname", format!("{short}\n")), ("/etc/hosts", hosts)] {
        if let Err(error) = write_if_changed(path, &text) {
            say(&format!("cannot write {path}: {error}"));
        }
    }
}

/// Spares the disk: a file that says the same already is left alone.
fn write_if_changed(path: &str, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    fs::write(path, text)
}

/// Learns which instance this is, keeps user data for its step, and makes what belongs to a new
/// instance.
fn identify(client: &Client) -> Result<(), imds::Error> {
    let id = client.text("meta-data/instance-id")?.unwrap_or_default();
    match client.get("user-data") {
        Ok(user_data) => fs::write(USER_DATA, user_data)?,
        Err(imds::Error::Status(404)) => {}
        Err(error) => return Err(error),
    }
    if !id.is_empty() && is_name(&id) {
        fs::write(INSTANCE_ID, &id)?;
    }
    let known = PathBuf::from(STATE).join("instance-id");
    let new = !fs::read_to_string(&known).is_ok_and(|old| old.trim() == id);
    if new {
        for key in public_keys(client)? {
            authorize(&key)?;
        }
    }
    make_host_keys(new)?;
    if new {
        fs::create_dir_all(STATE)?;
        fs::write(&known, format!("{id}\n"))?;
    }
    Ok(())
}

fn public_keys(client: &Client) -> Result<Vec<String>, imds::Error> {
    let list = client.text("meta-data/public-keys/")?.unwrap_or_default();
    let mut keys = Vec::new();
    for index in list.lines().filter_map(|line| line.split_once('=')).map(|(index, _)| index) {
        keys.extend(client.text(&format!("meta-data/public-keys/{index}/openssh-key"))?);
    }
    Ok(keys)
}

/// Lets the owner of `key` log in, beside whom the disk lets in already.
fn authorize(key: &str) -> io::Result<()> {
    let directory = Path::new(HOME).join(".ssh");
    let file = directory.join("authorized_keys");
    let mut keys = fs::read_to_string(&file).unwrap_or_default();
    if keys.lines().any(|line| line == key) {
        return Ok(());
    }
    if !keys.is_empty() && !keys.ends_with('\n') {
        keys.push('\n');
    }
    keys += key;
    keys.push('\n');
    fs::create_dir_all(&directory)?;
    fs::write(&file, keys)?;
    for (path, mode) in [(&directory, 0o700), (&file, 0o600)] {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        chown(path, Some(LOGIN_ID), Some(LOGIN_ID))?;
    }
    Ok(())
}

/// Makes the host keys that are missing, or all of them for a new instance, and shows them on the
/// console between the markers that people's scripts look for in get-console-output.
fn make_host_keys(new: bool) -> io::Result<()> {
    let shown = PathBuf::from(STATE).join("host-keys");
    // An empty file is a key whose writing a power cut interrupted.
    let complete =
        HOST_KEYS.iter().all(|(_, file)| fs::metadata(file).is_ok_and(|key| key.len() > 0));
    if new || !complete {
        fs::create_dir_all(STATE)?;
        fs::create_dir_all("/etc/dropbear")?;
        // Both at once: each takes a moment without hardware virtualisation.
        let mut makers = Vec::new();
        for (kind, file) in HOST_KEYS {
            let _ = fs::remove_file(file);
            let maker = Command::new("/usr/bin/dropbearkey")
                .args(["-t", kind, "-f", file])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            makers.push((kind, maker));
        }
        let mut keys = Vec::new();
        for (kind, maker) in makers {
            let output = maker.wait_with_output()?;
            keys.extend(described(kind, &String::from_utf8_lossy(&output.stdout)));
        }
        fs::write(&shown, console_block(&keys))?;
        // Whoever saw these keys must see them again, whatever happens to the power.
        sys::sync();
    }
    io::stdout().write_all(&fs::read(&shown)?)
}

/// A host key: its fingerprint line and its public line.
type HostKey = (String, String);

/// Reads what dropbearkey printed.
fn described(kind: &str, output: &str) -> Option<HostKey> {
    let public = output.lines().find(|line| line.contains(" AAAA"))?;
    let fingerprint = output.lines().find_map(|line| line.strip_prefix("Fingerprint: "))?;
    let owner = public.split(' ').nth(2).unwrap_or("root");
    let kind = kind.to_uppercase();
    Some((format!("256 {fingerprint} {owner} ({kind})"), public.to_owned()))
}

fn console_block(keys: &[HostKey]) -> String {
    let mut block = "-----BEGIN SSH HOST KEY FINGERPRINTS-----\n".to_owned();
    keys.iter().for_each(|(fingerprint, _)| block += &format!("{fingerprint}\n"));
    block += "-----END SSH HOST KEY FINGERPRINTS-----\n-----BEGIN SSH HOST KEY KEYS-----\n";
    keys.iter().for_each(|(_, public)| block += &format!("{public}\n"));
    block += "-----END SSH HOST KEY KEYS-----\n";
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn lease() -> Lease {
        Lease {
            address: Ipv4Addr::new(172, 31, 5, 7),
            mask: Ipv4Addr::new(255, 255, 240, 0),
            router: None,
            resolvers: vec![Ipv4Addr::new(172, 31, 0, 2)],
            domain: Some("ec2.internal".into()),
            hostname: Some("ip-172-31-5-7".into()),
            mtu: None,
            server: Ipv4Addr::new(172, 31, 0, 1),
            duration: Duration::from_secs(3600),
        }
    }

    #[test]
    fn the_full_name_has_one_domain() {
        assert_eq!(name_of_lease(&lease()).unwrap(), "ip-172-31-5-7.ec2.internal");
        let full = Lease { hostname: Some("a.b.c".into()), ..lease() };
        assert_eq!(name_of_lease(&full).unwrap(), "a.b.c");
        assert_eq!(name_of_lease(&Lease { hostname: None, ..lease() }), None);
    }

    #[test]
    fn resolvers_are_written() {
        assert_eq!(resolver_file(&lease()), "search ec2.internal\nnameserver 172.31.0.2\n");
    }

    #[test]
    fn names_that_would_break_a_file_are_refused() {
        assert!(is_name("ip-172-31-5-7.ec2.internal"));
        for name in ["", "a b", "a\nb", "../x", &"a".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn host_keys_are_described_as_on_ec2() {
        let output = "Generating 256 bit ed25519 key, this may take a while...\n\
                      Public key portion is:\nssh-ed25519 AAAAC3Nz root@ip-172-31-5-7\n\
                      Fingerprint: SHA256:abc\n";
        let key = described("ed25519", output).unwrap();
        assert_eq!(key.0, "256 SHA256:abc root@ip-172-31-5-7 (ED25519)");
        let block = console_block(&[key]);
        assert!(block.starts_with("-----BEGIN SSH HOST KEY FINGERPRINTS-----\n256 SHA256:abc"));
        assert!(block.contains("KEYS-----\nssh-ed25519 AAAAC3Nz root@ip-172-31-5-7\n-----END"));
        assert_eq!(described("rsa", "no key"), None);
    }
}
