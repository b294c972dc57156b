//! TCP between two guests through a VPC's rules, against the same path without them, in one run.
//!
//!     cargo run -p net --example throughput        (as root)
//!
//! The guests hang on veth pairs that have the names of the taps: a tap is fed by a process, which
//! would hide the cost of the rules. The flow is one that EC2 does not track, so every packet of it
//! asks the rules anew: the slowest case. Rounds alternate, so that a noisy neighbour meets both.

use anyhow::{Context, Result, ensure};
use base::network::{Holder, Interface, Peer, Plan, Protocol, Rule, SecurityGroup, Subnet, Vpc};
use net::{Config, Network, names};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[path = "../src/system.rs"]
#[allow(dead_code)]
mod system;

const PREFIX: &str = "gbench";
const VPC: &str = "vpc-1";
const GUESTS: [&str; 2] = ["gbenchone", "gbenchtwo"];
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(400);
const PORT: u16 = 80;

fn main() -> Result<()> {
    if let Some(code) = without_disturbance()? {
        std::process::exit(code);
    }
    let directory = std::env::temp_dir().join("gureum-net-throughput");
    let mut config = Config::new(directory.clone());
    config.name_prefix = PREFIX.into();
    config.public_pool = "100.127.78.0/24".parse()?;
    clean(&config)?;
    let result = measure(&config);
    clean(&config)?;
    // Only ours is in it.
    let _ = std::fs::remove_dir(&directory);
    let rounds = result?;
    let with = median(rounds.iter().map(|(with, _)| *with).collect());
    let without = median(rounds.iter().map(|(_, without)| *without).collect());
    let ratio = median(rounds.iter().map(|(with, without)| with / without).collect());
    println!("through the rules   {with:8.0} MB/s");
    println!("without them        {without:8.0} MB/s");
    println!("ratio               {ratio:8.3}   (bar 0.9: {})", verdict(ratio));
    Ok(())
}

/// Runs this program again as a real-time task where `chrt` is installed: on a busy machine the other
/// programs are a larger difference than the rules.
fn without_disturbance() -> Result<Option<i32>> {
    const MARK: &str = "GUREUM_THROUGHPUT_REAL_TIME";
    if std::env::var_os(MARK).is_some() {
        return Ok(None);
    }
    let program = std::env::current_exe()?;
    let status = Command::new("chrt").args(["-f", "5"]).arg(program).env(MARK, "1").status();
    Ok(status.ok().and_then(|status| status.code()))
}

fn verdict(ratio: f64) -> &'static str {
    if ratio >= 0.9 { "met" } else { "missed" }
}

fn clean(config: &Config) -> Result<()> {
    for guest in GUESTS {
        // It may not be there.
        let _ = Command::new("ip").args(["netns", "delete", guest]).output();
    }
    Ok(Network::destroy_all(config.clone())?)
}

fn interface(number: u8) -> Interface {
    Interface {
        id: format!("eni-{number}"),
        holder: Holder::Machine(format!("i-{number}")),
        secondary: Vec::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        node: None,
        subnet_id: "subnet-1".into(),
        mac: format!("0a:00:00:00:00:{number:02x}"),
        private_ip: Ipv4Addr::new(172, 31, 0, number),
        public_ip: None,
        hostname: format!("ip-172-31-0-{number}.ec2.internal"),
        groups: vec!["sg-1".into()],
        source_dest_check: true,
    }
}

/// Megabytes per second with and without the rules, round by round.
fn measure(config: &Config) -> Result<Vec<(f64, f64)>> {
    let network = Network::start(config.clone())?;
    let anywhere = Peer::Cidr("0.0.0.0/0".parse()?);
    let rule = |protocol| Rule { protocol, peer: anywhere.clone() };
    let interfaces = vec![interface(10), interface(11)];
    network.apply(&Plan {
        vpcs: vec![Vpc {
            id: VPC.into(),
            region: "us-east-1".into(),
            cidrs: vec!["172.31.0.0/16".parse()?],
            subnets: vec![Subnet::new("subnet-1", "172.31.0.0/20".parse()?)],
            interfaces: interfaces.clone(),
            groups: vec![SecurityGroup {
                id: "sg-1".into(),
                ingress: vec![
                    rule(Protocol::Tcp { from: 22, to: 22 }),
                    rule(Protocol::Tcp { from: PORT, to: PORT }),
                ],
                egress: vec![rule(Protocol::All)],
            }],
            ..Vpc::default()
        }],
        ..Plan::default()
    })?;
    let space = names::namespace(PREFIX, VPC);
    for (guest, interface) in GUESTS.iter().zip(&interfaces) {
        let (tap, mac, address) = (names::tap(&interface.id), &interface.mac, interface.private_ip);
        let router = names::ROUTER_MAC;
        shell(&format!(
            "ip netns add {guest}
             ip -n {space} link delete {tap}
             ip -n {space} link add {tap} address {router} type veth peer name eth0 address {mac} netns {guest}
             ip -n {space} link set {tap} up
             ip -n {space} route replace {address} dev {tap} scope link
             ip -n {space} neighbour replace {address} lladdr {mac} dev {tap} nud permanent
             ip -n {guest} link set eth0 up
             ip -n {guest} address add {address}/20 dev eth0
             ip -n {guest} neighbour replace 172.31.0.1 lladdr {router} dev eth0 nud permanent
             ip -n {guest} route replace 172.31.0.0/20 via 172.31.0.1 dev eth0 onlink"
        ))?;
    }
    let rules = shell(&format!("ip netns exec {space} nft list ruleset"))?;
    ensure!(rules.contains("egress_by_tap"), "the rules are not there");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &rules)?;
    let put = format!("ip netns exec {space} nft -f {}", file.path().display());
    let take = format!("ip netns exec {space} nft flush ruleset");
    shell(&take)?;
    round(interfaces[1].private_ip)?;
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        // By turns who goes first.
        let (mut with, mut without) = (0.0, 0.0);
        for rules in [number % 2 == 0, number % 2 != 0] {
            if rules {
                shell(&put)?;
                with = round(interfaces[1].private_ip)?;
                shell(&take)?;
            } else {
                without = round(interfaces[1].private_ip)?;
            }
        }
        rounds.push((with, without));
    }
    Ok(rounds)
}

fn median(mut list: Vec<f64>) -> f64 {
    list.sort_unstable_by(f64::total_cmp);
    list[list.len() / 2]
}

/// Megabytes per second of one flow.
fn round(server: Ipv4Addr) -> Result<f64> {
    let listener = within(GUESTS[1], move || TcpListener::bind((server, PORT)))??;
    let receiver = thread::spawn(move || -> Result<f64> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 1 << 18];
        let (start, mut bytes) = (Instant::now(), 0_u64);
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                length => bytes += u64::try_from(length)?,
            }
        }
        #[allow(clippy::cast_precision_loss)]
        Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
    });
    let mut stream = within(GUESTS[0], move || TcpStream::connect((server, PORT)))??;
    let data = vec![0; 1 << 18];
    let start = Instant::now();
    while start.elapsed() < ROUND {
        stream.write_all(&data)?;
    }
    drop(stream);
    receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?
}

fn within<T: Send + 'static>(space: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let file = std::fs::File::open(format!("/run/netns/{space}"))?;
    let thread = thread::spawn(move || {
        system::enter(&file)?;
        Ok(work())
    });
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

fn shell(script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-ec", script]).output().context("run sh")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}
