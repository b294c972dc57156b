//! The rows that need what only some machines have: root, namespaces, QEMU, the micro image.
//!
//! Bare QEMU is what gureum's own QEMU is, word for word from its command line, but for the three
//! things that need gureum: a new overlay on the same disk, a user-mode network that leads
//! 169.254.169.254 to us, and no monitor.

use super::report::median;
use super::server::{self, Server, Tools};
use crate::setup;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// How long a guest may take to boot, on a busy machine without KVM.
const BOOT: Duration = Duration::from_secs(120);
const FILL: Duration = Duration::from_secs(600);
/// Names of our own, so that a region that runs here already is left alone.
const ARGUMENTS: [&str; 8] = [
    "--driver",
    "qemu",
    "--network-prefix",
    "bench",
    "--public-pool",
    "198.19.0.0/16",
    "--vm-memory-max",
    "256",
];

/// Seconds from RunInstances to the guest's first IMDS request, as a ratio to bare QEMU.
pub(super) fn first_imds(tools: &Tools) -> Result<f64> {
    let region = Region::start(tools)?;
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (id, ours) = region.launch()?;
        let words = region.command_line(&id)?;
        region.terminate(&id)?;
        let bare = Bare::new(&region, words)?.run()?;
        println!("          first IMDS request: gureum {ours:.2?}, bare QEMU {bare:.2?}");
        ratios.push(ours.as_secs_f64() / bare.as_secs_f64());
    }
    Ok(median(&ratios))
}

/// MiB of resident memory that gureum adds for each running machine, beside QEMU's own. The first
/// machine is not counted: with it comes what a VPC needs. Nor is the process that serves a volume
/// its image while it fills, some minutes at most.
pub(super) fn memory_per_machine(tools: &Tools) -> Result<f64> {
    const MORE: u32 = 3;
    let region = Region::start(tools)?;
    region.launch()?;
    region.fill()?;
    let before = region.resident_mib()?;
    for _ in 0..MORE {
        region.launch()?;
    }
    region.fill()?;
    Ok((region.resident_mib()? - before).max(0.0) / f64::from(MORE))
}

/// A row of the network, between namespaces; `plan` is the control plane's part and the node's.
pub(super) fn network(row: &str) -> Result<f64> {
    if !setup::is_root() {
        bail!("namespaces need root");
    }
    let example = ["run", "-q", "--release", "-p", "net", "--example", "network", "--", row];
    let node = last_number(Command::new("cargo").args(example))?;
    if row != "plan" {
        return Ok(node);
    }
    let test =
        ["test", "-q", "--release", "-p", "ec2", "--lib", "the_time_that_a_large_plan_takes"];
    let arguments = ["--", "--ignored", "--nocapture"];
    Ok(node + last_number(Command::new("cargo").args(test).args(arguments))?)
}

/// The number at the end of the last line that ends in one.
fn last_number(command: &mut Command) -> Result<f64> {
    let output = command.current_dir(setup::root()).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = error.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
        bail!("the measurement failed: {last}");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.lines().rev().find_map(|l| l.split_whitespace().next_back()?.parse().ok());
    number.with_context(|| format!("no number in {text:?}"))
}

/// A region with real machines; it is taken down when this is dropped.
struct Region {
    server: Option<Server>,
    gureum: PathBuf,
    data: PathBuf,
}

impl Region {
    fn start(tools: &Tools) -> Result<Region> {
        if !setup::is_root() {
            bail!("virtual machines in namespaces need root");
        }
        for program in ["qemu-system-x86_64", "qemu-img", "nft", "ip"] {
            if !setup::present(program) {
                bail!("{program} is not installed (cargo xtask demo installs it)");
            }
        }
        let gureum = tools.gureum.clone().context("gureum is not built")?;
        let data = tools.work.join("machines");
        fs::create_dir_all(&data)?;
        let mut region = Region { server: None, gureum, data };
        // What an earlier run, killed, may have left.
        region.down();
        let build = ["image", "build", "micro", "--if-missing", "--data-dir"];
        setup::quiet(Command::new(&region.gureum).args(build).arg(&region.data))
            .context("the micro image cannot be built")?;
        let log = "warn,node::imds=debug";
        region.server = Some(tools.gureum_with(&region.data, &ARGUMENTS, log)?);
        Ok(region)
    }

    fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("the region is down")
    }

    /// Launches a machine and waits for its first IMDS request; how long that took from the answer
    /// to RunInstances.
    fn launch(&self) -> Result<(String, Duration)> {
        let server = self.server()?;
        let rest =
            format!("&ImageId={}&MinCount=1&MaxCount=1&InstanceType=t3.micro", server.image());
        let text = server.ask("ec2", &format!("Action=RunInstances&Version=2016-11-15{rest}"))?;
        let begun = Instant::now();
        let id = server::all(&text, "instanceId").first().context("no instance id")?.to_string();
        loop {
            let log = server.logged()?;
            if log.lines().any(|l| l.contains("metadata request") && l.contains(&id)) {
                return Ok((id, begun.elapsed()));
            }
            if begun.elapsed() > BOOT {
                let last = log.lines().last().unwrap_or_default().to_owned();
                bail!("{id} asked nothing of IMDS within {} s; log: {last}", BOOT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn terminate(&self, id: &str) -> Result<()> {
        let server = self.server()?;
        let request = |action| format!("Action={action}&Version=2016-11-15&InstanceId.1={id}");
        server.ask("ec2", &request("TerminateInstances"))?;
        let begun = Instant::now();
        while qemu_of(id)?.is_some() {
            if begun.elapsed() > BOOT {
                bail!("{id} does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The words of the QEMU that runs an instance.
    fn command_line(&self, id: &str) -> Result<Vec<String>> {
        let (_, words) = qemu_of(id)?.with_context(|| format!("no QEMU runs {id}"))?;
        Ok(words)
    }

    /// Waits until no volume is served its source any more.
    fn fill(&self) -> Result<()> {
        let daemon = self.server()?.pid();
        let begun = Instant::now();
        let serves = |process: &Process| {
            process.parent == daemon && process.words.get(1).is_some_and(|word| word == "storage")
        };
        while processes()?.iter().any(serves) {
            if begun.elapsed() > FILL {
                bail!("the volumes have not filled after {} s", FILL.as_secs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Resident memory of the daemon and of every process it started, but QEMU.
    fn resident_mib(&self) -> Result<f64> {
        // The answers to the guests' last questions are given, and their buffers gone.
        std::thread::sleep(Duration::from_secs(1));
        let daemon = self.server()?.pid();
        let mut sum = 0.0;
        for process in processes()? {
            let ours = process.pid == daemon || process.parent == daemon;
            if ours && !process.words.first().is_some_and(|w| w.contains("qemu-system")) {
                sum += server::resident_mib(process.pid).unwrap_or(0.0);
            }
        }
        Ok(sum)
    }

    fn down(&self) {
        let down = ["down", "--network-prefix", "bench", "--data-dir"];
        if let Err(error) = setup::quiet(Command::new(&self.gureum).args(down).arg(&self.data)) {
            eprintln!("gureum down: {error:#}");
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.down();
        self.server = None;
    }
}

/// A process with its command line.
struct Process {
    pid: u32,
    parent: u32,
    words: Vec<String>,
}

fn processes() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Ok(pid) = name.parse() else { continue };
        // A process may end while we look.
        let Ok(line) = fs::read(path.join("cmdline")) else { continue };
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok());
        let words = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
        found.push(Process { pid, parent: parent.unwrap_or(0), words: words.collect() });
    }
    Ok(found)
}

/// The QEMU of an instance: its process and its command line.
fn qemu_of(id: &str) -> Result<Option<(u32, Vec<String>)>> {
    let name = format!("guest={id}");
    let found = processes()?.into_iter().find(|process| process.words.contains(&name));
    Ok(found.map(|process| (process.pid, process.words)))
}

/// A QEMU of our own; it ends when this is dropped.
struct Bare {
    words: Vec<String>,
    listener: TcpListener,
    directory: PathBuf,
    child: Option<Child>,
}

impl Bare {
    fn new(region: &Region, words: Vec<String>) -> Result<Bare> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let directory = region.data.join("bare");
        fs::create_dir_all(&directory)?;
        let image = fs::canonicalize(region.data.join("images/micro"))?;
        let manifest = fs::read(image.join("manifest.json"))?;
        let manifest: base::image::Manifest = serde_json::from_slice(&manifest)?;
        let base::image::Boot::Kernel { kernel, initrd, .. } = &manifest.boot else {
            bail!("the micro image has no kernel of its own");
        };
        let overlay = directory.join("disk.qcow2");
        let _ = fs::remove_file(&overlay);
        let disk = image.join(&manifest.disk);
        setup::quiet(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", &manifest.disk_format, "-b"])
                .arg(&disk)
                .arg(&overlay)
                .arg(format!("{}G", manifest.size_gib)),
        )?;
        let path = |path: &Path| path.display().to_string();
        let network = format!(
            "user,id=net0,net=169.254.169.0/24,host=169.254.169.2,dhcpstart=169.254.169.15,\
             guestfwd=tcp:169.254.169.254:80-tcp:127.0.0.1:{port}"
        );
        let mut bare = Vec::new();
        let mut rest = words.into_iter().filter(|word| !word.is_empty());
        bare.extend(rest.next());
        while let Some(option) = rest.next() {
            let is_flag = matches!(option.as_str(), "-nodefaults" | "-no-user-config");
            let value = if is_flag { None } else { rest.next() };
            let replaced = match (option.as_str(), value.as_deref()) {
                ("-add-fd" | "-mon", _) => continue,
                ("-chardev", Some(v)) if v.contains("id=monitor") => continue,
                ("-chardev", Some(v)) if v.contains("id=console") => {
                    Some(format!("file,id=console,path={}", path(&directory.join("console"))))
                }
                ("-netdev", _) => Some(network.clone()),
                ("-kernel", _) => Some(path(&image.join(kernel))),
                ("-initrd", _) => Some(path(&image.join(initrd))),
                ("-object", Some(v)) if v.contains("throttle-group") => continue,
                ("-blockdev", Some(v)) => {
                    let node: serde_json::Value = serde_json::from_str(v)?;
                    // The overlay names its backing file itself.
                    let plain = serde_json::json!({
                        "driver": "qcow2",
                        "node-name": node["node-name"],
                        "file": { "driver": "file", "filename": path(&overlay) },
                    });
                    Some(plain.to_string())
                }
                _ => value,
            };
            bare.push(option);
            bare.extend(replaced);
        }
        Ok(Bare { words: bare, listener, directory, child: None })
    }

    /// Boots it; how long until it first spoke to 169.254.169.254.
    fn run(mut self) -> Result<Duration> {
        let (program, arguments) = self.words.split_first().context("an empty command line")?;
        let log = fs::File::create(self.directory.join("qemu.log"))?;
        let begun = Instant::now();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        self.child = Some(child);
        self.listener.set_nonblocking(true)?;
        let (mut stream, _) = loop {
            match self.listener.accept() {
                Ok(accepted) => break accepted,
                Err(_) if begun.elapsed() < BOOT => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => bail!("bare QEMU did not connect: {}", self.complaint()),
            }
        };
        // QEMU connects when it starts; the first bytes are the guest's.
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(BOOT))?;
        match stream.read(&mut [0; 64]) {
            Ok(count) if count > 0 => Ok(begun.elapsed()),
            other => bail!("the bare guest asked nothing ({other:?}): {}", self.complaint()),
        }
    }

    fn complaint(&self) -> String {
        let read = |name| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let (log, console) = (read("qemu.log"), read("console"));
        let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
        format!("{} {}", last(&log), last(&console))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
