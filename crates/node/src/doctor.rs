//! What this machine can do, and what to install so that it can do more. One [`Check`] a line.
//!
//! Each check looks and changes nothing; judging what was seen is pure and tested apart.

use crate::qemu;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it stands.
    pub ok: Level,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty if nothing is to be done.
    pub advice: String,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Real machines run, but slower or with something missing.
    Warn,
    /// Real machines cannot run; `--driver sim` can.
    Missing,
}

impl Level {
    /// `ok`, `warn` or `miss`.
    pub fn label(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Missing => "miss",
        }
    }
}

impl Check {
    fn new(name: &'static str, ok: Level, detail: impl Into<String>, advice: &str) -> Self {
        let advice = if ok == Level::Ok { "" } else { advice };
        Check { name, ok, detail: detail.into(), advice: advice.to_owned() }
    }

    /// What was seen and what to do, in one line.
    pub fn line(&self) -> String {
        match self.advice.as_str() {
            "" => self.detail.clone(),
            advice => format!("{}: {advice}", self.detail),
        }
    }
}

/// Looks at everything. `data_dir` need not exist.
pub fn check(data_dir: &Path) -> Vec<Check> {
    vec![
        privilege(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        emulator(&version("qemu-system-x86_64"), &version("qemu-img")),
        tool("qemu-nbd", "qemu-utils (snapshots need it)", Level::Missing),
        tool("qemu-storage-daemon", "qemu-utils (volumes need it)", Level::Missing),
        kvm(data_dir),
        tool("nft", "nftables", Level::Missing),
        tool("ip", "iproute2", Level::Missing),
        device("tun device", "/dev/net/tun", "modprobe tun"),
        device("namespaces", "/proc/self/ns/net", "use a kernel with CONFIG_NET_NS"),
        tool("mmdebstrap", "mmdebstrap (image build needs it)", Level::Warn),
        tool("mke2fs", "e2fsprogs (image build needs it)", Level::Warn),
        busybox(),
        tool("dropbear", "dropbear-bin (image build micro needs it)", Level::Warn),
        memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        disk(data_dir),
    ]
}

/// A program's file, in PATH or where administrators' programs are.
fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut paths: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    paths.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    paths.into_iter().map(|path| path.join(program)).find(|path| path.is_file())
}

/// The first line that a program says of its version.
fn version(program: &str) -> Option<String> {
    let output =
        Command::new(find(program)?).arg("--version").stdin(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// The number in QEMU's words: `QEMU emulator version 10.0.2 (Debian …)`.
fn number(version: &str) -> Option<&str> {
    version.split_ascii_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

fn privilege(status: &str) -> Check {
    /// Bits of `CapEff` (capabilities(7)): chown, setgid, setuid, net admin, net raw, sys admin.
    const NEEDED: u64 = 1 | 1 << 6 | 1 << 7 | 1 << 12 | 1 << 13 | 1 << 21;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = field("CapEff:").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let name = "privilege";
    let advice = "run as root, or use --driver sim";
    match effective {
        Some(effective) if effective & NEEDED == NEEDED => Check::new(name, Level::Ok, "root", ""),
        Some(_) => Check::new(name, Level::Missing, "not root", advice),
        None => Check::new(name, Level::Missing, "unknown", advice),
    }
}

fn emulator(system: &Option<String>, image: &Option<String>) -> Check {
    let name = "qemu";
    let install = "apt-get install qemu-system-x86 qemu-utils";
    let (system, image) = match (system, image) {
        (Some(system), Some(image)) => (system, image),
        (None, _) => {
            return Check::new(name, Level::Missing, "no qemu-system-x86_64", install);
        }
        (_, None) => return Check::new(name, Level::Missing, "no qemu-img", install),
    };
    let (system, image) = (number(system).unwrap_or(system), number(image).unwrap_or(image));
    if system == image {
        return Check::new(name, Level::Ok, format!("version {system}"), "");
    }
    Check::new(
        name,
        Level::Warn,
        format!("qemu-system-x86_64 is {system}, qemu-img {image}"),
        "install both from one release (apt-get install -t bookworm-backports …)",
    )
}

fn kvm(data_dir: &Path) -> Check {
    let name = "kvm";
    let advice = "machines run under TCG, several times slower";
    if let Some(verdict) = qemu::cached_verdict(data_dir, Path::new("qemu-system-x86_64")) {
        let level = if verdict.proven { Level::Ok } else { Level::Warn };
        return Check::new(name, level, format!("tried: {}", verdict.detail), advice);
    }
    match fs::File::open("/dev/kvm") {
        Ok(_) => Check::new(
            name,
            Level::Ok,
            "/dev/kvm opens; whether it runs machines is tried when the daemon first starts",
            "",
        ),
        Err(error) => Check::new(name, Level::Warn, format!("/dev/kvm: {error}"), advice),
    }
}

fn tool(program: &'static str, package: &str, level: Level) -> Check {
    match find(program) {
        Some(path) => Check::new(program, Level::Ok, path.display().to_string(), ""),
        None => Check::new(program, level, "not installed", &format!("apt-get install {package}")),
    }
}

fn device(name: &'static str, path: &str, advice: &str) -> Check {
    if Path::new(path).exists() {
        return Check::new(name, Level::Ok, path, "");
    }
    Check::new(name, Level::Missing, format!("no {path}"), advice)
}

fn busybox() -> Check {
    let name = "busybox";
    let advice = "apt-get install busybox-static (image build micro needs it)";
    let Some(path) = find(name) else {
        return Check::new(name, Level::Warn, "not installed", advice);
    };
    // A program that needs no loader does not name one.
    let is_static = fs::read(&path).is_ok_and(|elf| {
        let head = &elf[..elf.len().min(4096)];
        !head.windows(8).any(|window| window == b"ld-linux")
    });
    if is_static {
        return Check::new(name, Level::Ok, path.display().to_string(), "");
    }
    Check::new(name, Level::Warn, format!("{} is not static", path.display()), advice)
}

fn memory(meminfo: &str) -> Check {
    const WANTED_MIB: u64 = 1024;
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let Some(mib) = kib.map(|kib| kib / 1024) else {
        return Check::new("memory", Level::Warn, "unknown", "look yourself");
    };
    let level = if mib >= WANTED_MIB { Level::Ok } else { Level::Warn };
    Check::new("memory", level, format!("{mib} MiB available"), "cap machines by --vm-memory-max")
}

fn disk(data_dir: &Path) -> Check {
    const WANTED_GIB: u64 = 4;
    let existing = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let gib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 30;
            let level = if gib >= WANTED_GIB { Level::Ok } else { Level::Warn };
            let detail = format!("{gib} GiB free in {}", existing.display());
            Check::new(
                "disk",
                level,
                detail,
                "images and volumes need room: use another --data-dir",
            )
        }
        Err(error) => {
            let detail = format!("{}: {error}", existing.display());
            Check::new("disk", Level::Warn, detail, "use another --data-dir")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges() {
        let status = |capabilities: &str| format!("Name:\tx\nCapEff:\t{capabilities}\n");
        assert_eq!(privilege(&status("000001ffffffffff")).ok, Level::Ok);
        assert_eq!(privilege(&status("0000000000000000")).ok, Level::Missing);
        assert_eq!(privilege("").ok, Level::Missing);
    }

    #[test]
    fn versions_must_match() {
        let system = |v: &str| Some(format!("QEMU emulator version {v} (Debian 1:{v}+ds)"));
        let image = |v: &str| Some(format!("qemu-img version {v} (Debian 1:{v}+ds)"));
        assert_eq!(emulator(&system("10.0.2"), &image("10.0.2")).ok, Level::Ok);
        let mixed = emulator(&system("7.2.0"), &image("10.0.2"));
        assert_eq!(mixed.ok, Level::Warn);
        assert!(mixed.line().contains("7.2.0") && mixed.line().contains("backports"));
        assert_eq!(emulator(&None, &image("10.0.2")).ok, Level::Missing);
        assert_eq!(emulator(&system("10.0.2"), &None).ok, Level::Missing);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(memory("MemTotal: 1 kB\nMemAvailable:   2097152 kB\n").ok, Level::Ok);
        assert_eq!(memory("MemAvailable:   1024 kB\n").ok, Level::Warn);
        assert_eq!(memory("").ok, Level::Warn);
    }

    #[test]
    fn a_report_has_a_line_for_everything() {
        let report = check(Path::new("/nonexistent/data"));
        assert!(report.len() >= 12);
        for check in report {
            assert!(!check.line().is_empty() && !check.line().contains('\n'), "{check:?}");
            assert_eq!(check.ok == Level::Ok, check.advice.is_empty(), "{check:?}");
        }
    }
}
