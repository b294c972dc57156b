//! What the project's own commands install: Debian packages, and Python tools in a venv.
//!
//! Everything is non-interactive and idempotent; what is there is left alone.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What real machines need beside Rust. `command` (or a file, if it starts with `/`) shows that
/// the package is there.
const MACHINE_PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/dropbear", "dropbear-bin"),
    ("ssh", "openssh-client"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("lz4", "lz4"),
];

/// Whether a program is on the PATH, or a file exists.
pub(crate) fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(program).is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Runs a command, showing its output only when it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Installs the packages that real machines need.
///
/// # Errors
/// Something is missing and this is not root, or apt failed.
pub(crate) fn machine_packages() -> Result<()> {
    packages(MACHINE_PACKAGES)
}

/// Installs packages, each with a command that shows that it is there.
///
/// # Errors
/// As [`machine_packages`].
pub(crate) fn packages(wanted: &[(&'static str, &'static str)]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !present(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "these packages are missing: {0}\ninstall them (apt-get install {0}) or run this as root",
            missing.join(" ")
        );
    }
    println!("installing {}", missing.join(" "));
    quiet(apt().arg("update"))?;
    // QEMU must come from where the installed qemu-utils is from: Debian refuses a mixture.
    let (qemu, other): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|package| package.starts_with("qemu-"));
    if !other.is_empty() {
        quiet(apt().args(["install", "-y", "--no-install-recommends"]).args(other))?;
    }
    if !qemu.is_empty() {
        let mut install = apt();
        install.args(["install", "-y", "--no-install-recommends"]);
        if let Some(release) = backports_of_installed_qemu()? {
            install.args(["-t", &release]);
        }
        quiet(install.args(qemu))?;
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}

/// `bookworm-backports` when the installed qemu-utils is a backport; adds the source if needed.
fn backports_of_installed_qemu() -> Result<Option<String>> {
    let installed = Command::new("dpkg-query")
        .args(["-W", "-f", "${Version}", "qemu-utils"])
        .output()
        .context("dpkg-query")?;
    let version = String::from_utf8_lossy(&installed.stdout).into_owned();
    if !version.contains("~bpo") {
        return Ok(None);
    }
    let codename = std::fs::read_to_string("/etc/os-release")?
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME=").map(str::to_owned))
        .context("no VERSION_CODENAME in /etc/os-release")?;
    let release = format!("{codename}-backports");
    let policy = Command::new("apt-cache").arg("policy").output()?;
    if !String::from_utf8_lossy(&policy.stdout).contains(&release) {
        std::fs::write(
            format!("/etc/apt/sources.list.d/{release}.list"),
            format!("deb http://deb.debian.org/debian {release} main\n"),
        )?;
        quiet(apt().arg("update"))?;
    }
    Ok(Some(release))
}

/// A venv under `directory` that has these PyPI packages; gives its `bin` directory.
///
/// # Errors
/// Python or PyPI is not there.
pub(crate) fn venv(directory: &Path, packages: &[&str]) -> Result<PathBuf> {
    let bin = directory.join("bin");
    let wanted = packages.join("\n");
    let stamp = directory.join("packages.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(bin);
    }
    println!("installing {} in {}", packages.join(" "), directory.display());
    if quiet(Command::new("python3").args(["-m", "venv"]).arg(directory)).is_err() {
        if !is_root() {
            bail!("python3 -m venv does not work: install python3-venv");
        }
        quiet(apt().args(["install", "-y", "python3-venv"]))?;
        quiet(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
    }
    quiet(
        Command::new(bin.join("python"))
            .args(["-m", "pip", "install", "-q", "--disable-pip-version-check"])
            .args(packages),
    )?;
    std::fs::write(stamp, wanted)?;
    Ok(bin)
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let status = Command::new("cargo").args(arguments).current_dir(root()).status()?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// Builds the guest's binary; gives its path. It runs in machines without a C library, so it is
/// linked statically.
///
/// # Errors
/// The build failed.
pub(crate) fn guest() -> Result<PathBuf> {
    let small =
        "target-feature=+crt-static relocation-model=static opt-level=s panic=abort strip=symbols";
    let mut arguments = vec!["rustc", "-q", "-p", "guest", "--release", "--"];
    arguments.extend(small.split(' ').flat_map(|option| ["-C", option]));
    cargo(&arguments)?;
    Ok(target().join("release/gureum-guest"))
}

/// Builds the gureum binary, with the guest's beside it; gives the path of the former.
///
/// # Errors
/// The build failed.
pub(crate) fn build(profile: &str) -> Result<PathBuf> {
    let guest = guest()?;
    cargo(&["build", "-q", "-p", "gureum", "--profile", profile])?;
    let directory = target().join(if profile == "dev" { "debug" } else { profile });
    let beside = directory.join("gureum-guest");
    if beside != guest {
        // A file that runs cannot be written, but it can be replaced.
        let _ = std::fs::remove_file(&beside);
        std::fs::copy(&guest, &beside).context("copying the guest's binary")?;
    }
    Ok(directory.join("gureum"))
}
