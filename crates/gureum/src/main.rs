//! gureum: an EC2 region that you own.
//!
//! This crate is configuration and wiring: it reads the command line, opens the store, chooses the
//! driver and joins the services into one dispatcher. It holds no behaviour of EC2.

#![forbid(unsafe_code)]

mod blob_store;
mod coverage;
mod credentials;
mod down;
mod fsck;
mod garbage;
mod images;
mod serve;
mod storage;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A launch allocates on one thread what another frees; the C library's allocator spends a quarter
/// of its time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An EC2 region that you own.
#[derive(Parser, Debug)]
#[command(name = "gureum", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve a region.
    Serve(Serve),
    /// Say what this machine can do and what to install, one line each.
    Doctor(DataDirectory),
    /// Print the exports that point AWS tools at the region.
    Env(Env),
    /// Print the certificate by which users verify instance identity documents, PEM.
    Certificate(DataDirectory),
    /// Build, import and list machine images.
    #[command(subcommand)]
    Image(Image),
    /// Check that all disks and snapshots are whole and nothing is leaked; the daemon must not run.
    Fsck(Fsck),
    /// Serve content to one volume that fills from it; the daemon starts this.
    #[command(hide = true)]
    Storage,
    /// Stop the daemon and every machine, and remove namespaces, taps, routes and nft tables.
    Down(Down),
}

#[derive(Args, Debug)]
struct DataDirectory {
    /// Where the region keeps its state [default: /var/lib/gureum as root, else
    /// $XDG_DATA_HOME/gureum].
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl DataDirectory {
    fn path(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_directory)
    }
}

fn default_data_directory() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
        return "/var/lib/gureum".into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    std::env::var_os("XDG_DATA_HOME")
        .map_or_else(|| home.join(".local/share"), PathBuf::from)
        .join("gureum")
}

#[derive(Args, Debug)]
struct NetworkPrefix {
    /// What the names of namespaces, links and tables begin with; two regions on one machine need
    /// two.
    #[arg(long, default_value = "gureum")]
    network_prefix: String,
}

#[derive(Args, Debug)]
struct Down {
    #[command(flatten)]
    data: DataDirectory,
    #[command(flatten)]
    network: NetworkPrefix,
}

#[derive(Args, Debug)]
struct Fsck {
    #[command(flatten)]
    data: DataDirectory,
    /// Read every block and check every layer; otherwise only that they are there.
    #[arg(long)]
    deep: bool,
    /// Remove what is leaked.
    #[arg(long)]
    repair: bool,
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    data: DataDirectory,
    /// What runs the instances.
    #[arg(long, value_enum, default_value = "auto")]
    driver: Driver,
    /// Address of the one port for all services.
    #[arg(long, default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// Whether signatures are verified; open takes any key as the account's root (loopback only).
    #[arg(long, value_enum, default_value = "sigv4")]
    auth: Auth,
    /// The account's id, 12 digits.
    #[arg(long, default_value = "123456789012", value_parser = account_id)]
    account_id: String,
    /// How many seconds the region's clock runs in one of the wall's.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    time_scale: u32,
    /// Throttle requests with AWS's token buckets.
    #[arg(long, value_enum, default_value = "off")]
    throttle: Switch,
    /// Hold every volume to the speed of its type; off lets it be as fast as the host.
    #[arg(long, value_enum, default_value = "on")]
    volume_throttle: Switch,
    /// How long a simulated launch takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    sim_launch_time: u64,
    /// Where public addresses come from.
    #[arg(long, default_value = "198.18.0.0/16")]
    public_pool: base::Ipv4Cidr,
    #[command(flatten)]
    network: NetworkPrefix,
    /// Most memory that a virtual machine gets, MiB; the API shows the type's nominal size.
    #[arg(long)]
    vm_memory_max: Option<u64>,
    /// How the processors of virtual machines run.
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: Accelerator,
    /// A file that says where the blocks of snapshots are kept (JSON, see docs/guide/volumes.md);
    /// remembered for the next start [default: blobs/ in the data directory].
    #[arg(long, value_name = "FILE")]
    blob_store: Option<PathBuf>,
}

fn account_id(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("an account id has 12 digits".into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// qemu where this machine can, else sim.
    Auto,
    /// Virtual machines; needs root and QEMU.
    Qemu,
    /// The simulated region: no privilege, no machines.
    Sim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    /// Verify every request.
    Sigv4,
    /// Take any key.
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accelerator {
    /// KVM where it is proven to run a guest, else TCG.
    Auto,
    Kvm,
    Tcg,
}

#[derive(Args, Debug)]
struct Env {
    #[command(flatten)]
    data: DataDirectory,
    /// The address that the region listens on.
    #[arg(long, default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// The region to name in AWS_DEFAULT_REGION.
    #[arg(long, default_value = "us-east-1")]
    region: String,
}

#[derive(Subcommand, Debug)]
enum Image {
    /// Build an image from Debian's packages: micro, debian-12 or al2-compat.
    Build {
        /// Its name.
        name: String,
        /// Do nothing when it is already built.
        #[arg(long)]
        if_missing: bool,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Register a qcow2 or raw disk; it is booted by firmware.
    Import {
        /// The disk image.
        file: PathBuf,
        /// The AMI's name [default: the file's].
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// List the images.
    List {
        #[command(flatten)]
        data: DataDirectory,
    },
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("GUREUM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A reader of the log may be gone; the process goes on.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    let result = match CommandLine::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Doctor(data) => doctor(&data),
        Command::Env(options) => credentials::print_environment(&options),
        Command::Certificate(data) => certificate(&data),
        Command::Image(command) => images::run(&command),
        Command::Fsck(options) => fsck::run(&options),
        Command::Storage => storage::run(),
        Command::Down(options) => down::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gureum: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn certificate(data: &DataDirectory) -> Result<()> {
    let data = data.path();
    // A mistaken directory must not get a key of its own.
    if !data.join("identity").is_dir() {
        bail!(
            "{} has no key of instance identities: start the region once (gureum serve --driver \
             qemu)",
            data.display()
        );
    }
    print!("{}", node::qemu::identity_certificate(&data)?);
    Ok(())
}

fn doctor(data: &DataDirectory) -> Result<()> {
    let checks = node::doctor::check(&data.path());
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &checks {
        println!("{:<4} {:<width$}  {}", check.ok.label(), check.name, check.line());
    }
    Ok(())
}
