//! QEMU's command line: pure text, no IO.
//!
//! The machine is a q35 without what no cloud guest uses. Measured with Debian's 6.1 cloud kernel
//! under TCG, from start to the initrd's first line and off again: 1.85 s; with SATA, SMBus, HPET,
//! the VMware port and the keyboard controller 2.1 s; i440fx 2.1 s; microvm 1.85 s, but microvm has
//! no SMBIOS, by which guests know that they are on EC2.

use super::nics::{NIC_BUS, card, netdev};
use crate::volume::host::{Chain, DISK_BUS, secret_id};
use aws_lc_rs::digest;
use base::machine::Spec;
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::fd::RawFd;

/// How the guest's processors run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Kvm,
    /// QEMU's binary translator.
    Tcg,
}

/// Everything on the command line that the [`Spec`] does not say.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) engine: Engine,
    /// See [`engine_arguments`].
    pub(crate) kvm: Option<RawFd>,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    /// Open directory-independent kernel, initrd and their command line.
    pub(crate) kernel: Option<Kernel<'a>>,
    /// For each volume of the spec, what QEMU opens; the root comes first.
    pub(crate) disks: &'a [Disk],
    /// For each interface of the spec, its tap.
    pub(crate) taps: Vec<RawFd>,
    /// Listening unix sockets of the monitor and of the block layer's.
    pub(crate) monitor: RawFd,
    pub(crate) block_monitor: RawFd,
}

/// A volume.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) chain: Chain,
    /// The file with its passphrase, if it has one.
    pub(crate) passphrase: Option<RawFd>,
}

/// Direct kernel boot.
#[derive(Debug)]
pub(crate) struct Kernel<'a> {
    pub(crate) kernel: RawFd,
    pub(crate) initrd: RawFd,
    pub(crate) command_line: &'a str,
}

/// Arguments that hold for every QEMU that we start, whatever it is for.
pub(crate) const SANDBOX: [&str; 5] = [
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-sandbox=on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// The machine type of every guest, which the KVM proof must try too.
pub(crate) const MACHINE: &str = "q35,hpet=off,i8042=off,sata=off,smbus=off,usb=off,vmport=off";

/// The arguments of an engine: accelerator and processor model. `kvm` is an open /dev/kvm, for a
/// QEMU whose user may not open it.
pub(crate) fn engine_arguments(engine: Engine, kvm: Option<RawFd>) -> Vec<String> {
    let (accelerator, processor) = match (engine, kvm) {
        (Engine::Kvm, None) => ("kvm", "host"),
        (Engine::Kvm, Some(_)) => ("kvm,device=/dev/fdset/0", "host"),
        // The translation cache is bounded: by default it may take a gigabyte of the host. 5-level
        // paging only makes every translated page walk longer.
        (Engine::Tcg, _) => ("tcg,thread=multi,tb-size=256", "max,la57=off"),
    };
    let mut arguments: Vec<String> =
        ["-accel", accelerator, "-cpu", processor].map(str::to_owned).into();
    if let (Engine::Kvm, Some(kvm)) = (engine, kvm) {
        arguments.extend(["-add-fd".to_owned(), format!("fd={kvm},set=0")]);
    }
    arguments
}

/// The SMBIOS UUID of an instance: starts with `ec2`, as guests expect, and is the same for ever.
pub(crate) fn uuid(instance_id: &str) -> String {
    let hash = digest::digest(&digest::SHA256, instance_id.as_bytes());
    let mut hex = String::from("ec2");
    for byte in &hash.as_ref()[..15] {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// A machine's directory, relative to the data directory.
pub(crate) fn machine_path(instance_id: &str) -> String {
    format!("machines/{instance_id}")
}

/// The file of a disk of the instance store, relative to the data directory.
pub(crate) fn local_disk_path(instance_id: &str, name: &str) -> String {
    format!("{}/local-{name}.raw", machine_path(instance_id))
}

/// Commas end a value in QEMU's option syntax; doubled they are one.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// The whole line, without the program's name.
pub(crate) fn arguments(line: &Line<'_>) -> Vec<OsString> {
    let mut all = Arguments(Vec::new());
    let id = &line.spec.id;
    all.add("-name", format!("guest={}", escape(id)));
    for argument in SANDBOX {
        match argument.split_once('=') {
            Some((option, value)) => all.add(option, value),
            None => all.0.push(argument.into()),
        }
    }
    all.add("-machine", MACHINE);
    all.0.extend(engine_arguments(line.engine, line.kvm).into_iter().map(OsString::from));
    all.add("-smp", line.vcpus.to_string());
    all.add("-m", format!("{}M", line.memory_mib));
    all.add("-rtc", "base=utc,driftfix=slew");
    add_identity(&mut all, line.spec);
    // A guest that powered off leaves QEMU paused, so that whoever watches, now or after a restart
    // of the daemon, can tell a power-off from a death.
    all.add("-action", "shutdown=pause,reboot=reset");
    all.add("-chardev", format!("socket,id=monitor,fd={},server=on,wait=off", line.monitor));
    all.add("-mon", "chardev=monitor,mode=control");
    all.add("-chardev", format!("socket,id=block,fd={},server=on,wait=off", line.block_monitor));
    all.add("-mon", "chardev=block,mode=control");
    let console = escape(&format!("{}/console.log", machine_path(id)));
    all.add("-chardev", format!("file,id=console,path={console},append=on"));
    all.add("-serial", "chardev:console");
    all.add("-object", "rng-builtin,id=random");
    all.add("-device", "virtio-rng-pci,rng=random");
    add_disks(&mut all, line);
    add_cards(&mut all, line);
    if let Some(kernel) = &line.kernel {
        all.add("-kernel", format!("/dev/fd/{}", kernel.kernel));
        all.add("-initrd", format!("/dev/fd/{}", kernel.initrd));
        all.add("-append", kernel.command_line);
    }
    all.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

fn add_identity(all: &mut Arguments, spec: &Spec) {
    let uuid = uuid(&spec.id);
    let kind = spec.metadata.leaves.get("meta-data/instance-type").map_or("gureum", String::as_str);
    all.add("-uuid", uuid.as_str());
    all.add("-smbios", "type=0,vendor=Amazon EC2,version=1.0");
    let kind = escape(kind);
    all.add(
        "-smbios",
        format!("type=1,manufacturer=Amazon EC2,product={kind},serial={uuid},uuid={uuid}"),
    );
    all.add("-smbios", format!("type=2,manufacturer=Amazon EC2,asset={}", escape(&spec.id)));
    all.add("-smbios", "type=3,manufacturer=Amazon EC2,asset=Amazon EC2");
}

/// The root lies on the root bus, which is scanned first, so that it is the first disk that a guest
/// finds. Other volumes lie behind a bridge, where they can be unplugged: q35's root bus takes no hot
/// plug. The bridge, of 31 places, costs a guest no measurable time to boot; eight PCIe root ports
/// cost 0.2 s. Guests see hot plug by ACPI, which Debian's cloud kernel has built in; it has no SHPC.
fn add_disks(all: &mut Arguments, line: &Line<'_>) {
    all.add("-device", format!("pcie-pci-bridge,id={DISK_BUS}"));
    for (index, Disk { chain, passphrase }) in line.disks.iter().enumerate() {
        if let Some(file) = passphrase {
            let id = secret_id(&chain.volume);
            all.add("-object", format!("secret,id={id},file=/dev/fd/{file}"));
        }
        all.add("-object", chain.throttle_group().to_string());
        all.add("-blockdev", chain.nodes().to_string());
        let is_root = index == 0;
        let bus = if is_root { "pcie.0" } else { DISK_BUS };
        let mut device = Chain::device(&chain.volume, bus);
        if is_root {
            device["bootindex"] = 1.into();
        }
        all.add("-device", device.to_string());
    }
    if !line.spec.local_disks.is_empty() {
        all.add("-device", "pcie-pci-bridge,id=local");
    }
    for disk in &line.spec.local_disks {
        let node = json!({
            "driver": "raw",
            "node-name": disk.name,
            "discard": "unmap",
            "file": {
                "driver": "file",
                "filename": local_disk_path(&line.spec.id, &disk.name),
                "discard": "unmap",
            },
        });
        all.add("-blockdev", node.to_string());
        let device = json!({
            "driver": "virtio-blk-pci",
            "drive": disk.name,
            "serial": disk.name,
            "bus": "local",
        });
        all.add("-device", device.to_string());
    }
}

/// The primary card lies on the root bus, the others behind a bridge of their own, where they can be
/// unplugged. The bridge comes last, so that the places of what was there before it stay the same.
fn add_cards(all: &mut Arguments, line: &Line<'_>) {
    for (index, (interface, tap)) in line.spec.interfaces.iter().zip(&line.taps).enumerate() {
        if index == 1 {
            add_card_bus(all);
        }
        let id = escape(&netdev(&interface.id));
        all.add("-netdev", format!("tap,id={id},fd={tap},vhost=off"));
        let bus = (index > 0).then_some(NIC_BUS);
        all.add("-device", card(interface, bus).to_string());
    }
    if line.spec.interfaces.len() < 2 {
        add_card_bus(all);
    }
}

fn add_card_bus(all: &mut Arguments) {
    all.add("-device", format!("pcie-pci-bridge,id={NIC_BUS}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::host::{Layer, Passphrase, Throttle};
    use base::machine::{Interface, LocalDisk, Metadata, Volume, Wanted};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn spec() -> Spec {
        let mut metadata = Metadata::default();
        metadata.leaves.insert("meta-data/instance-type".to_owned(), "t3.micro".to_owned());
        let volume = |id: &str| Volume { id: id.to_owned(), device_name: "/dev/xvda".to_owned() };
        Spec {
            id: "i-0123456789abcdef0".to_owned(),
            region: "us-east-1".to_owned(),
            wanted: Wanted::Running { start: 1, reboots: 0 },
            image: "micro".to_owned(),
            vcpus: 2,
            memory_mib: 1024,
            volumes: vec![volume("vol-0123456789abcdef0"), volume("vol-0123456789abcdef1")],
            forced_off: Vec::new(),
            forced_off_interfaces: Vec::new(),
            local_disks: vec![LocalDisk {
                name: "ephemeral0".to_owned(),
                device_name: "/dev/sdb".to_owned(),
                size_gb: 50,
            }],
            interfaces: vec![Interface {
                id: "eni-1".to_owned(),
                mac: "0a:00:00:00:00:01".to_owned(),
                vpc_id: "vpc-1".to_owned(),
                private_ip: Ipv4Addr::new(172, 31, 0, 4),
            }],
            metadata,
        }
    }

    fn disk(volume: &str, passphrase: Option<RawFd>) -> Disk {
        let chain = Chain {
            volume: volume.to_owned(),
            layers: vec![Layer { number: 3, file: format!("volumes/{volume}/3.qcow2") }],
            source: None,
            passphrase: passphrase.map(|_| Passphrase("hidden".to_owned())),
            throttle: Throttle::default(),
        };
        Disk { chain, passphrase }
    }

    fn text(spec: &Spec) -> String {
        let disks = [disk("vol-0123456789abcdef0", Some(12)), disk("vol-0123456789abcdef1", None)];
        let line = Line {
            spec,
            engine: Engine::Tcg,
            kvm: None,
            vcpus: 2,
            memory_mib: 512,
            kernel: Some(Kernel { kernel: 10, initrd: 11, command_line: "console=ttyS0 a,b" }),
            disks: &disks,
            taps: vec![13],
            monitor: 14,
            block_monitor: 15,
        };
        let arguments = arguments(&line);
        let words: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        words.join("\n")
    }

    #[test]
    fn the_line_says_what_is_promised() {
        let line = text(&spec());
        for part in [
            "-sandbox\non,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-nodefaults\n-no-user-config\n-display\nnone",
            "-m\n512M",
            "manufacturer=Amazon EC2,product=t3.micro,serial=ec2",
            "\"serial\":\"vol0123456789abcdef0\"",
            "secret,id=key-vol0123456789abcdef0,file=/dev/fd/12",
            "\"filename\":\"volumes/vol-0123456789abcdef1/3.qcow2\"",
            "\"filename\":\"machines/i-0123456789abcdef0/local-ephemeral0.raw\"",
            "\"serial\":\"ephemeral0\"",
            "tap,id=net-eni-1,fd=13,vhost=off",
            "\"mac\":\"0a:00:00:00:00:01\"",
            "-append\nconsole=ttyS0 a,b",
            "path=machines/i-0123456789abcdef0/console.log,append=on",
        ] {
            assert!(line.contains(part), "{part} is missing in\n{line}");
        }
        assert!(!line.contains("hidden"), "{line}");
        let on = |volume: &str, bus: &str| {
            let device = line.lines().find(|l| l.contains("virtio-blk") && l.contains(volume));
            device.is_some_and(|device| device.contains(&format!("\"bus\":\"{bus}\"")))
        };
        assert!(on("vol0123456789abcdef0", "pcie.0") && on("vol0123456789abcdef1", DISK_BUS));
    }

    #[test]
    fn kvm_is_opened_by_whoever_may() {
        let own = engine_arguments(Engine::Kvm, None).join(" ");
        assert_eq!(own, "-accel kvm -cpu host");
        let passed = engine_arguments(Engine::Kvm, Some(9)).join(" ");
        assert_eq!(passed, "-accel kvm,device=/dev/fdset/0 -cpu host -add-fd fd=9,set=0");
    }

    #[test]
    fn uuids_are_ec2s_stable_and_distinct() {
        let first = uuid("i-0123456789abcdef0");
        assert!(first.starts_with("ec2") && first.len() == 36, "{first}");
        assert_eq!(first, uuid("i-0123456789abcdef0"));
        assert_ne!(first, uuid("i-0123456789abcdef1"));
    }

    proptest! {
        /// An instance type cannot smuggle in another option.
        #[test]
        fn values_cannot_escape(kind in "[a-z,=.]{1,20}") {
            let mut spec = spec();
            spec.metadata.leaves.insert("meta-data/instance-type".to_owned(), kind.clone());
            let line = text(&spec);
            let expected = format!("product={},serial=", kind.replace(',', ",,"));
            prop_assert!(line.contains(&expected), "{}", line);
        }
    }
}
