//! The `debian-12` image: systemd, cloud-init with its EC2 data source, OpenSSH; and the tree of files
//! that it shares with `al2-compat`.
//!
//! mmdebstrap makes the tree, which is kept in the cache and copied for each image. Neither a kernel
//! package nor an initramfs is installed in it: the machine is started with the kernel that the
//! manifest names, whose modules are copied beside it.

use super::{Boot, Build, Error, Manifest, disk, initrd, io_error, kernel, tools};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PACKAGES: [&str; 21] = [
    "bash-completion",
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "ifupdown",
    "iproute2",
    "iputils-ping",
    // cloud-init asks for an address with dhclient before the network is configured.
    "isc-dhcp-client",
    "kmod",
    "less",
    "libpam-systemd",
    "netbase",
    "openssh-server",
    "procps",
    "sudo",
    "systemd-sysv",
    "udev",
    "vim-tiny",
    "wget",
];

/// Packages that `al2-compat` carries without installing them, so that the course's script needs no
/// network.
pub(super) const CARRIED: [&str; 1] = ["apache2"];

/// Where the tree has the files of [`CARRIED`] and of what they need.
pub(super) const CARRIED_IN: &str = "var/lib/gureum-packages";

/// How long a tree in the cache counts as fresh.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// Quiet: systemd's lines on an emulated serial port cost a second. cloud-init's output is there.
pub(super) const COMMAND_LINE: &str = "console=ttyS0 quiet root=/dev/vda net.ifnames=0 panic=1 \
                                       mitigations=off cryptomgr.notests noreplace-smp";

/// Units that only make a machine of hours slower: periodic work, and what watches hardware that a
/// virtual machine has not.
const MASKED: [&str; 12] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "cloud-init-hotplugd.socket",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty@tty1.service",
    "systemd-binfmt.service",
    "systemd-pstore.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "modprobe@drm.service",
];

pub(super) fn build(build: Build, progress: &mut dyn FnMut(&str)) -> Result<Manifest, Error> {
    let tree = start(&build, progress)?;
    let day = build.day();
    finish(build, &tree, progress, "admin", |manifest| {
        manifest.name = format!("debian-12-amd64-{day}-gureum");
        manifest.description =
            "Debian 12 with cloud-init, built by gureum from Debian's packages".to_owned();
        manifest.owner_id = Some("136693071363".to_owned());
    })
}

/// A tree of the build's own to change.
pub(super) fn start(build: &Build, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    initrd::guest()?;
    let common = tree(&build.cache()?, progress)?;
    progress("copying the files");
    let own = build.path("tree");
    tools::run(Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(common).arg(&own))?;
    Ok(own)
}

/// The last steps, and the manifest with what `describe` adds.
pub(super) fn finish(
    build: Build,
    tree: &Path,
    progress: &mut dyn FnMut(&str),
    login_user: &str,
    describe: impl FnOnce(&mut Manifest),
) -> Result<Manifest, Error> {
    let kernel = kernel::get(&build.cache()?, progress)?;
    super::remove_tree(&tree.join(CARRIED_IN))?;
    configure(tree, login_user)?;
    let modules = tree.join("lib/modules");
    fs::create_dir_all(&modules).map_err(io_error("create", &modules))?;
    tools::run(
        Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(&kernel.modules).arg(&modules),
    )?;
    tools::run(Command::new("chroot").arg(tree).args(["/sbin/depmod", "-a"]).arg(&kernel.release))?;
    progress("writing the disk");
    let (kernel_name, initrd_name) = (build.file_name("kernel", ""), build.file_name("initrd", ""));
    let disk_name = build.file_name("disk", ".raw");
    super::link_or_copy(&kernel.image, &build.path(&kernel_name))?;
    initrd::make(&kernel, &build.path(&initrd_name))?;
    disk::make(tree, &build.path(&disk_name), super::SIZE_GIB)?;
    let mut manifest = Manifest {
        v: 1,
        key: build.key.clone(),
        name: String::new(),
        also_named: Vec::new(),
        description: String::new(),
        architecture: "x86_64".into(),
        root_device_name: "/dev/xvda".into(),
        size_gib: super::SIZE_GIB,
        disk: disk_name,
        disk_format: "raw".into(),
        boot: Boot::Kernel {
            kernel: kernel_name,
            initrd: initrd_name,
            command_line: COMMAND_LINE.into(),
        },
        owner_id: None,
        owner_alias: None,
        login_user: Some(login_user.to_owned()),
        imds_v2: true,
        created: build.created,
    };
    describe(&mut manifest);
    build.publish(manifest)
}

/// The files of Debian's packages, from the cache if they were fetched lately and by this recipe.
fn tree(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    let tree = cache.join("debian-12-tree");
    let stamp = cache.join("debian-12-tree.recipe");
    let recipe = format!("2 {} + {}\n", PACKAGES.join(" "), CARRIED.join(" "));
    let fresh = fs::metadata(&stamp)
        .and_then(|data| data.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH));
    if fresh && tree.is_dir() && fs::read_to_string(&stamp).is_ok_and(|old| old == recipe) {
        return Ok(tree);
    }
    progress("fetching and installing Debian 12 (a minute or two)");
    let draft = cache.join("debian-12-tree.new");
    super::remove_tree(&draft)?;
    let carry = format!(
        "set -e; chroot \"$1\" apt-get install -y --no-install-recommends --download-only {}; \
         mkdir -p \"$1/{CARRIED_IN}\"; mv \"$1\"/var/cache/apt/archives/*.deb \"$1/{CARRIED_IN}/\"",
        CARRIED.join(" ")
    );
    // In a mount namespace of its own: if it is killed, nothing of this machine stays mounted in a
    // directory that the next build deletes.
    tools::run(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "mmdebstrap", "--mode=root"])
            .args(["--variant=minbase", "--components=main", "--dpkgopt=force-unsafe-io"])
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--dpkgopt=path-exclude=/usr/share/man/*")
            .arg("--dpkgopt=path-exclude=/usr/share/info/*")
            .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
            .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
            .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright")
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(format!("--customize-hook={carry}"))
            .arg("bookworm")
            .arg(&draft)
            .arg("deb http://deb.debian.org/debian bookworm main")
            .arg("deb http://deb.debian.org/debian bookworm-updates main")
            .arg("deb http://deb.debian.org/debian-security bookworm-security main"),
    )
    .map_err(|error| match error {
        // unshare, which every Debian has, cannot find it.
        Error::Program { ref output, .. } if output.contains("failed to execute mmdebstrap") => {
            Error::MissingProgram { program: "mmdebstrap".to_owned(), package: "mmdebstrap" }
        }
        other => other,
    })?;
    super::remove_tree(&tree)?;
    fs::rename(&draft, &tree).map_err(io_error("create", &tree))?;
    fs::write(&stamp, recipe).map_err(io_error("write", &stamp))?;
    Ok(tree)
}

/// Makes the tree a cloud image.
fn configure(tree: &Path, login_user: &str) -> Result<(), Error> {
    for unit in MASKED {
        let link = tree.join("etc/systemd/system").join(unit);
        std::os::unix::fs::symlink("/dev/null", &link).map_err(io_error("create", &link))?;
    }
    // Each machine makes its own.
    for entry in fs::read_dir(tree.join("etc/ssh")).map_err(io_error("read", tree))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    for (path, text) in [
        ("etc/machine-id", ""),
        ("etc/hostname", "localhost\n"),
        ("etc/resolv.conf", ""),
        ("etc/fstab", "/dev/vda / ext4 defaults,noatime 0 1\n"),
        ("etc/network/interfaces", "source /etc/network/interfaces.d/*\n"),
        ("etc/cloud/cloud.cfg.d/90_gureum.cfg", &cloud_config(login_user)),
        ("etc/udev/rules.d/70-gureum-disks.rules", DISK_RULES),
        ("etc/systemd/system/gureum-disk-name@.service", DISK_SERVICE),
    ] {
        write(tree, path, text, 0o644)?;
    }
    write(tree, DISK_SCRIPT_PATH, DISK_SCRIPT, 0o755)
}

/// Links `/dev/sdf` and `/dev/xvdf` to the disk that was attached under that name. udev itself may
/// not use the network, so a disk that comes has a service started, which asks IMDS, keeps the
/// answer where the rule finds it and shows udev the disk again.
const DISK_RULES: &str = r#"# Written by gureum image build.
SUBSYSTEM!="block", GOTO="gureum_end"
KERNEL!="vd*", GOTO="gureum_end"
ACTION=="remove", GOTO="gureum_end"
ENV{DEVTYPE}=="disk", ATTR{serial}=="?*", TAG+="systemd", ENV{SYSTEMD_WANTS}+="gureum-disk-name@$kernel.service"
ENV{DEVTYPE}=="disk", IMPORT{file}="/run/gureum/disks/$attr{diskseq}"
ENV{DEVTYPE}=="partition", IMPORT{parent}="GUREUM_LETTERS"
ENV{DEVTYPE}=="disk", ENV{GUREUM_LETTERS}=="?*", SYMLINK+="sd$env{GUREUM_LETTERS} xvd$env{GUREUM_LETTERS}"
ENV{DEVTYPE}=="partition", ENV{GUREUM_LETTERS}=="?*", SYMLINK+="sd$env{GUREUM_LETTERS}%n xvd$env{GUREUM_LETTERS}%n"
LABEL="gureum_end"
"#;

/// Done before cloud-init looks for disks to mount and runs what people wrote.
const DISK_SERVICE: &str = "# Written by gureum image build.
[Unit]
Description=Name that the disk %i was attached under
After=network-online.target
Before=cloud-config.service

[Service]
Type=oneshot
ExecStart=/usr/local/lib/gureum/disk-name %i
";

const DISK_SCRIPT_PATH: &str = "usr/local/lib/gureum/disk-name";

const DISK_SCRIPT: &str = r#"#!/bin/sh
# Asks IMDS under which name the disk $1 was attached, for udev to link it so.
serial=$(cat "/sys/block/$1/serial" 2>/dev/null) || exit 0
sequence=$(cat "/sys/block/$1/diskseq")
imds=http://169.254.169.254/latest
ask() { curl -sf -m 5 --retry 5 --retry-delay 1 --retry-connrefused "$@"; }
token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token") || exit 1
case $serial in
    vol*) path=gureum/volumes/$serial ;;
    *) path=block-device-mapping/$serial ;;
esac
name=$(ask -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$path") || exit 1
# A root called sda1 is a whole disk here.
letters=$(echo "${name#/dev/}" | sed -nE 's/^(sd|xvd)([a-z]+)[0-9]*$/\2/p')
[ -n "$letters" ] || exit 0
mkdir -p /run/gureum/disks
echo "GUREUM_LETTERS=$letters" > "/run/gureum/disks/$sequence.new"
mv "/run/gureum/disks/$sequence.new" "/run/gureum/disks/$sequence"
exec udevadm trigger --action=change "/sys/block/$1" $(find "/sys/block/$1/" -maxdepth 1 -name "$1*")
"#;

/// Writes a file with its mode into a tree.
pub(super) fn write(tree: &Path, path: &str, text: &str, mode: u32) -> Result<(), Error> {
    let path = tree.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
        .map_err(io_error("write", &path))
}

/// cloud-init's settings: one data source; the modules that do something on this image, since each
/// costs start-up time; no RSA host key, which takes many seconds without hardware virtualisation.
fn cloud_config(login_user: &str) -> String {
    format!(
        "\
# Written by gureum image build.
datasource_list: [Ec2]
datasource:
  Ec2:
    strict_id: false
    timeout: 10
    max_wait: 120
apt:
  preserve_sources_list: true
disable_root: true
manage_etc_hosts: true
preserve_hostname: false
# The initrd grows the root file system.
growpart:
  mode: \"off\"
resize_rootfs: false
ssh_deletekeys: true
ssh_genkeytypes: [ed25519, ecdsa]
ssh_pwauth: false
system_info:
  default_user:
    name: {login_user}
    lock_passwd: true
    gecos: {login_user}
    groups: [adm, sudo]
    sudo: [\"ALL=(ALL) NOPASSWD:ALL\"]
    shell: /bin/bash
cloud_init_modules:
  - seed_random
  - bootcmd
  - write-files
  - disk_setup
  - mounts
  - set_hostname
  - update_hostname
  - update_etc_hosts
  - ca-certs
  - users-groups
  - ssh
cloud_config_modules:
  - set-passwords
  - apt-configure
  - timezone
  - runcmd
cloud_final_modules:
  - package-update-upgrade-install
  - write-files-deferred
  - scripts-vendor
  - scripts-per-once
  - scripts-per-boot
  - scripts-per-instance
  - scripts-user
  - ssh-authkey-fingerprints
  - keys-to-console
  - phone-home
  - final-message
  - power-state-change
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_user_and_one_source() {
        let text = cloud_config("admin");
        assert!(text.contains("    name: admin\n") && text.contains("datasource_list: [Ec2]\n"));
        assert!(!text.contains('\t'), "YAML has no tabs");
    }

    #[test]
    fn the_script_for_disks_is_a_script() {
        let output = Command::new("sh").args(["-n", "-c", DISK_SCRIPT]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
