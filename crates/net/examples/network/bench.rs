//! Namespaces that talk, and how fast they do.

use crate::plans::PORT;
use anyhow::{Context, Result, ensure};
use base::network::{Plan, Vpc};
use net::{Config, Network, names};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[path = "../../src/system.rs"]
#[allow(dead_code)]
mod system;

pub const PREFIX: &str = "gbench";
/// The node's own namespace.
pub const HOME: &str = "gbhome";
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(400);

pub struct Bench {
    pub network: Network,
    config: Config,
    plan: Plan,
    spaces: Vec<String>,
}

/// From one namespace to an address that another one has.
#[derive(Clone, Debug)]
pub struct Path {
    client: String,
    server: String,
    address: Ipv4Addr,
}

/// What there is to measure of a path.
pub type Measure = fn(&Path) -> Result<f64>;

impl Bench {
    pub fn new() -> Result<Bench> {
        let mut config = Config::new(std::env::temp_dir().join("gureum-net-bench"));
        config.name_prefix = PREFIX.into();
        config.public_pool = "100.127.78.0/24".parse()?;
        config.upstream_dns = Vec::new();
        shell(&format!("ip netns delete {HOME} 2>/dev/null || true; ip netns add {HOME}"))?;
        shell(&format!("ip -n {HOME} link set lo up"))?;
        config.home = Some(HOME.into());
        Network::destroy_all(config.clone())?;
        let network = Network::start(config.clone())?;
        Ok(Bench { network, config, plan: Plan::default(), spaces: vec![HOME.into()] })
    }

    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.plan = plan.clone();
        Ok(self.network.apply(plan)?)
    }

    pub fn space(&self, vpc: &str) -> String {
        names::namespace(PREFIX, vpc)
    }

    fn add(&mut self, name: &str) -> Result<String> {
        let name = format!("gb{name}");
        shell(&format!(
            "ip netns delete {name} 2>/dev/null || true
             ip netns add {name}; ip -n {name} link set lo up"
        ))?;
        self.spaces.push(name.clone());
        Ok(name)
    }

    /// A machine on a veth pair in place of its tap.
    pub fn guest(&mut self, vpc_id: &str, address: &str) -> Result<Path> {
        let guest = self.add(&address.replace('.', "-"))?;
        let address: Ipv4Addr = address.parse()?;
        let vpc = self.plan.vpcs.iter().find(|vpc| vpc.id == vpc_id).context("no VPC")?;
        let own = |vpc: &Vpc| vpc.interfaces.iter().find(|i| i.private_ip == address).cloned();
        let interface = own(vpc).context("no interface")?;
        let (tap, mac, space) = (names::tap(&interface.id), &interface.mac, self.space(vpc_id));
        let router = names::ROUTER_MAC;
        shell(&format!(
            "ip -n {space} link delete {tap}
             ip -n {space} link add {tap} address {router} type veth peer name eth0 address {mac} netns {guest}
             ip -n {space} link set {tap} up
             ip -n {space} route replace {address} dev {tap}
             ip -n {space} neighbour replace {address} lladdr {mac} dev {tap} nud permanent
             ip -n {guest} link set eth0 up
             ip -n {guest} address add {address}/32 dev eth0
             ip -n {guest} neighbour replace 169.254.1.1 lladdr {router} dev eth0 nud permanent
             ip -n {guest} route add default via 169.254.1.1 dev eth0 onlink"
        ))?;
        Ok(Path { client: guest.clone(), server: guest, address })
    }

    pub fn pair(&mut self, vpc: &str, client: &str, server: &str) -> Result<Path> {
        let client = self.guest(vpc, client)?;
        Ok(self.guest(vpc, server)?.called(&client.client, server.parse()?))
    }

    /// A neighbour of the node.
    pub fn outside(&mut self, home: &str, address: &str) -> Result<String> {
        let name = self.add("outside")?;
        shell(&format!(
            "ip -n {HOME} link add outside type veth peer name eth0 netns {name}
             ip -n {HOME} address add {home}/24 dev outside
             ip -n {HOME} link set outside up
             ip -n {name} address add {address}/24 dev eth0
             ip -n {name} link set eth0 up
             ip -n {name} route add default via {home}"
        ))?;
        Ok(name)
    }

    /// Client, router, a masquerade, the same router, server.
    pub fn by_hand(&mut self) -> Result<Path> {
        let client = self.add("client")?;
        let server = self.add("server")?;
        let router = self.add("router")?;
        let masquerade = self.add("masq")?;
        let link = |space: &str, name: &str, number: u8| {
            format!(
                "ip -n {router} link add {name} type veth peer name eth0 netns {space}
                 ip -n {router} address add 10.55.{number}.1/24 dev {name}
                 ip -n {router} link set {name} up
                 ip -n {space} address add 10.55.{number}.2/24 dev eth0
                 ip -n {space} link set eth0 up
                 ip -n {space} route add default via 10.55.{number}.1\n"
            )
        };
        let off = "for file in all default; do echo 0 > /proc/sys/net/ipv4/conf/$file/send_redirects; echo 0 > /proc/sys/net/ipv4/conf/$file/rp_filter; done; echo 1 > /proc/sys/net/ipv4/ip_forward";
        shell(&format!(
            "ip netns exec {router} sh -c '{off}'
             ip netns exec {masquerade} sh -c '{off}'
             {}{}{}
             ip -n {router} route add default via 10.55.3.2 table 7
             ip -n {router} rule add iif client lookup 7
             ip netns exec {masquerade} nft 'add table ip nat
               add chain ip nat leave {{ type nat hook postrouting priority 100; }}
               add rule ip nat leave masquerade'",
            link(&client, "client", 1),
            link(&server, "server", 2),
            link(&masquerade, "masq", 3)
        ))?;
        Ok(Path { client, server, address: Ipv4Addr::new(10, 55, 2, 2) })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = Network::destroy_all(self.config.clone());
        for space in self.spaces.iter().rev() {
            let _ = Command::new("ip").args(["netns", "delete", space]).output();
        }
        // Only ours is in it.
        let _ = std::fs::remove_dir(&self.config.state_dir);
    }
}

impl Path {
    /// The same server, from another place and by another address.
    pub fn called(self, client: &str, address: Ipv4Addr) -> Path {
        Path { client: client.to_owned(), address, ..self }
    }

    /// Whether the server's machine says anything at all to a call; what nobody listens to is
    /// refused.
    pub fn answers(&self, port: u16, quickly: bool) -> Result<bool> {
        let address = SocketAddr::from((self.address, port));
        let patience = Duration::from_millis(if quickly { 50 } else { 2000 });
        let result = within(&self.client, move || TcpStream::connect_timeout(&address, patience))?;
        let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        Ok(result.map_or_else(refused, |_| true))
    }
}

/// Megabytes per second of one flow.
pub fn throughput(path: &Path) -> Result<f64> {
    let listener = within(&path.server, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
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
    let address = SocketAddr::from((path.address, PORT));
    let patience = Duration::from_secs(5);
    let mut stream = within(&path.client, move || TcpStream::connect_timeout(&address, patience))??;
    let data = vec![0; 1 << 18];
    let start = Instant::now();
    while start.elapsed() < ROUND {
        stream.write_all(&data)?;
    }
    drop(stream);
    receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?
}

/// Connections per second, one after the other.
pub fn connections(path: &Path) -> Result<f64> {
    let listener = within(&path.server, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let server = thread::spawn(move || -> Result<()> {
        // The last one says something.
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            if stream.read(&mut byte).is_ok_and(|length| length == 1) {
                break;
            }
        }
        Ok(())
    });
    let address = SocketAddr::from((path.address, PORT));
    let patience = Duration::from_secs(5);
    let rate = within(&path.client, move || -> Result<f64> {
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < ROUND {
            let stream = TcpStream::connect_timeout(&address, patience)?;
            // No port waits for late segments: there are not so many ports.
            let linger = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            linger?;
            count += 1;
        }
        let rate = f64::from(count) / start.elapsed().as_secs_f64();
        TcpStream::connect_timeout(&address, patience)?.write_all(b"!")?;
        Ok(rate)
    })??;
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(rate)
}

/// The median of the ratios of rounds that alternate.
pub fn ratio(
    one: &Path,
    other: &Path,
    measure: Measure,
    (name, other_name, unit): (&str, &str, &str),
) -> Result<f64> {
    measure(one).with_context(|| format!("{name} does not work"))?;
    measure(other).with_context(|| format!("{other_name} does not work"))?;
    let (mut first, mut second, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        // By turns who goes first.
        let (with, without) = if number % 2 == 0 {
            let with = measure(one)?;
            (with, measure(other)?)
        } else {
            let without = measure(other)?;
            (measure(one)?, without)
        };
        ratios.push(with / without);
        first.push(with);
        second.push(without);
    }
    println!("{name:<28} {:9.0} {unit}", median(first));
    println!("{other_name:<28} {:9.0} {unit}", median(second));
    Ok(median(ratios))
}

pub fn median(mut list: Vec<f64>) -> f64 {
    list.sort_unstable_by(f64::total_cmp);
    list[list.len() / 2]
}

/// Runs this program again as a real-time task where `chrt` is installed: on a busy machine the
/// other programs are a larger difference than the rules.
pub fn without_disturbance(row: &str) -> Result<Option<i32>> {
    const MARK: &str = "GUREUM_NETWORK_REAL_TIME";
    if std::env::var_os(MARK).is_some() {
        return Ok(None);
    }
    let program = std::env::current_exe()?;
    let status =
        Command::new("chrt").args(["-f", "5"]).arg(program).arg(row).env(MARK, "1").status();
    Ok(status.ok().and_then(|status| status.code()))
}

fn within<T: Send + 'static>(space: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let file = File::open(format!("/run/netns/{space}"))?;
    let thread = thread::spawn(move || {
        system::enter(&file)?;
        Ok(work())
    });
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

pub fn shell(script: &str) -> Result<String> {
    let output = Command::new("sh").args(["-ec", script]).output().context("run sh")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}
