//! The `micro` image: Debian's kernel, busybox, bash and dropbear under our own init. Small enough to
//! be built in seconds, quick enough to boot in seconds without hardware virtualisation.

use super::{Boot, Build, Error, Manifest, disk, initrd, io_error, kernel, packages, tools};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

/// What is unpacked, libraries included; nothing is configured, so nothing else is needed.
const PACKAGES: [&str; 17] = [
    "busybox-static",
    "bash",
    "dropbear-bin",
    // For volumes; busybox makes ext2 only and grows nothing.
    "e2fsprogs",
    "openssh-sftp-server",
    "libblkid1",
    "libc6",
    "libcom-err2",
    "libcrypt1",
    "libext2fs2",
    "libgmp10",
    "libss2",
    "libtinfo6",
    "libtomcrypt1",
    "libtommath1",
    "libuuid1",
    "zlib1g",
];

/// Commands of busybox that would be in the way: our init has them, or they manage packages that are
/// not there, or they need to be set-user-id.
const NOT_LINKED: [&str; 9] =
    ["busybox", "dpkg", "dpkg-deb", "hostname", "init", "linuxrc", "rpm", "su", "udhcpc"];

/// Parts of packages that nobody reads in a machine this small.
const NOT_KEPT: [&str; 8] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/lintian",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/audit",
];

/// Each of these saves time under emulation, where a boot is a second and a half of work. A byte on
/// the serial port costs as much as hundreds of instructions (`quiet`); the kernel's algorithms were
/// tested where it was built (`cryptomgr.notests`); patching locks out of the kernel for a single
/// processor throws away translated code (`noreplace-smp`); the mitigations protect a machine's
/// programs from each other, and this image runs one user's.
const COMMAND_LINE: &str = "console=ttyS0 quiet root=/dev/vda panic=1 mitigations=off \
                            cryptomgr.notests noreplace-smp";

pub(super) fn build(build: Build, progress: &mut dyn FnMut(&str)) -> Result<Manifest, Error> {
    let guest = initrd::guest()?;
    let cache = build.cache()?;
    let kernel = kernel::get(&cache, progress)?;
    let tree = build.path("tree");
    lay_out(&tree)?;
    for file in packages::get(&PACKAGES, &cache, progress)? {
        packages::unpack(&file, &tree)?;
    }
    for path in NOT_KEPT {
        super::remove_tree(&tree.join(path))?;
    }
    progress("writing the disk");
    install_guest(&guest, &tree)?;
    link_busybox(&tree)?;
    write_files(&tree)?;
    for program in [["/usr/bin/dropbear", "-V"], ["/bin/bash", "--version"], ["/sbin/mke2fs", "-V"]]
    {
        tools::run(Command::new("chroot").arg(&tree).args(program))?;
    }
    let (kernel_name, initrd_name) = (build.file_name("kernel", ""), build.file_name("initrd", ""));
    let disk_name = build.file_name("disk", ".raw");
    super::link_or_copy(&kernel.image, &build.path(&kernel_name))?;
    initrd::make(&kernel, &build.path(&initrd_name))?;
    disk::make(&tree, &build.path(&disk_name), super::SIZE_GIB)?;
    let manifest = Manifest {
        v: 1,
        key: build.key.clone(),
        name: format!("gureum-micro-{}-x86_64", env!("CARGO_PKG_VERSION")),
        also_named: Vec::new(),
        description: format!(
            "gureum micro: Linux {}, busybox and dropbear; runs a #! user-data script, no cloud-init",
            kernel.release
        ),
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
        login_user: Some("ec2-user".into()),
        imds_v2: true,
        created: build.created,
    };
    build.publish(manifest)
}

/// The directories, with /bin, /sbin, /lib and /lib64 as links before packages fill them.
fn lay_out(tree: &Path) -> Result<(), Error> {
    for (directory, mode) in [
        ("", 0o755),
        ("dev", 0o755),
        ("etc/dropbear", 0o700),
        ("home", 0o755),
        ("home/ec2-user", 0o700),
        ("mnt", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("usr/bin", 0o755),
        ("usr/lib", 0o755),
        ("usr/lib64", 0o755),
        ("usr/local/bin", 0o755),
        ("var/lib", 0o755),
        ("var/log", 0o755),
        ("var/spool/cron/crontabs", 0o700),
        ("var/tmp", 0o1777),
        ("var/www/html", 0o755),
    ] {
        let path = tree.join(directory);
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(io_error("create", &path))?;
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/sbin", "bin"),
        ("usr/lib/sftp-server", "openssh/sftp-server"),
        ("var/run", "/run"),
        ("etc/mtab", "/proc/self/mounts"),
    ] {
        make_link(target, &tree.join(link))?;
    }
    Ok(())
}

fn make_link(target: &str, link: &Path) -> Result<(), Error> {
    symlink(target, link).map_err(io_error("create", link))
}

/// Our binary as init, under the names of its commands, and once more as a set-user-id sudo.
fn install_guest(guest: &Path, tree: &Path) -> Result<(), Error> {
    for (name, mode) in [("init", 0o755), ("sudo", 0o4755)] {
        let path = tree.join("usr/bin").join(name);
        fs::copy(guest, &path)
            .and_then(|_| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(io_error("create", &path))?;
    }
    for name in ["ec2-metadata", "hostname", "shutdown"] {
        make_link("init", &tree.join("usr/bin").join(name))?;
    }
    Ok(())
}

fn link_busybox(tree: &Path) -> Result<(), Error> {
    let list = tools::run(Command::new(tree.join("usr/bin/busybox")).arg("--list"))?;
    for name in String::from_utf8_lossy(&list).lines() {
        let link = tree.join("usr/bin").join(name);
        if !NOT_LINKED.contains(&name) && !name.contains('/') && !link.exists() {
            make_link("busybox", &link)?;
        }
    }
    Ok(())
}

fn write_files(tree: &Path) -> Result<(), Error> {
    let version = env!("CARGO_PKG_VERSION");
    let release = format!(
        "NAME=\"gureum micro\"\nID=gureum-micro\nID_LIKE=debian\nVERSION_ID={version}\n\
         PRETTY_NAME=\"gureum micro {version}\"\n"
    );
    for (path, mode, text) in [
        ("etc/passwd", 0o644, PASSWD),
        ("etc/group", 0o644, GROUP),
        ("etc/shadow", 0o640, SHADOW),
        ("etc/shells", 0o644, "/bin/sh\n/bin/bash\n"),
        ("etc/profile", 0o644, PROFILE),
        ("etc/motd", 0o644, MOTD),
        (
            "etc/nsswitch.conf",
            0o644,
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        ),
        ("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
        ("etc/hostname", 0o644, "localhost\n"),
        ("etc/fstab", 0o644, "/dev/vda / ext4 defaults,noatime 0 1\n"),
        ("etc/os-release", 0o644, &release),
    ] {
        let path = tree.join(path);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(io_error("write", &path))?;
    }
    let home = tree.join("home/ec2-user");
    chown(&home, Some(1000), Some(1000)).map_err(io_error("give away", &home))
}

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
ec2-user:x:1000:1000:EC2 user:/home/ec2-user:/bin/sh
";
const GROUP: &str = "\
root:x:0:
daemon:x:1:
tty:x:5:
wheel:x:10:ec2-user
www-data:x:33:
nogroup:x:65534:
ec2-user:x:1000:
";
/// No password opens any account.
const SHADOW: &str = "\
root:*:20000:0:99999:7:::
daemon:*:20000:0:99999:7:::
nobody:*:20000:0:99999:7:::
ec2-user:*:20000:0:99999:7:::
";
const PROFILE: &str = "\
export PATH=/usr/local/bin:/usr/bin:/bin
export PAGER=less EDITOR=vi
if [ \"$(id -u)\" = 0 ]; then mark='#'; else mark='$'; fi
PS1=\"[\\u@\\h \\W]$mark \"
";
const MOTD: &str = "
gureum micro: busybox, bash, dropbear. `ec2-metadata` reads IMDS, `sudo` needs no password,
`busybox httpd -p 80 -h /var/www/html` (as root) serves pages. There is no package manager.

";
