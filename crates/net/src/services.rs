//! The servers of every VPC: DHCP, DNS and time, on one thread.
//!
//! Their sockets are made inside the namespaces and stay there; the thread that serves them stands
//! outside, where the host's resolvers can be reached. What they say is a [`View`], replaced as a
//! whole by every apply.

use crate::dhcp::{self, Lease};
use crate::dns::{self, Verdict, Zone};
use crate::resolver::{self, Transport};
use crate::{Error, names, system};
use base::Ipv4Cidr;
use base::network::Vpc;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::Interest;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

/// Questions of one VPC that may be on their way at once; more are not answered.
const QUESTIONS: usize = 256;
/// How long a TCP connection of the resolver may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Largest UDP question that makes sense.
const DATAGRAM: usize = 4096;
/// How long a port may still be held by a predecessor that is going away.
const HANDOVER: Duration = Duration::from_secs(2);

/// The thread.
#[derive(Debug)]
pub(crate) struct Services {
    runtime: Option<Runtime>,
    resolvers: Arc<[SocketAddr]>,
    elsewhere: watch::Sender<Arc<BTreeSet<Ipv4Addr>>>,
}

/// The servers of one VPC; dropping it closes them.
#[derive(Debug)]
pub(crate) struct Door {
    /// Which namespace they are in; another one of the same name needs another door.
    pub space: u64,
    view: watch::Sender<Arc<View>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What the servers of a VPC know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// By index of the tap.
    leases: BTreeMap<u32, Lease>,
    zone: Zone,
}

impl View {
    pub(crate) fn new(vpc: &Vpc, pool: Ipv4Cidr, links: &BTreeMap<String, u32>) -> View {
        let leases = vpc.interfaces.iter().filter_map(|interface| {
            let link = links.get(&names::tap(&interface.id))?;
            let subnet = vpc.subnets.iter().find(|subnet| subnet.id == interface.subnet_id)?;
            let mut mac = [0; 6];
            for (byte, text) in mac.iter_mut().zip(interface.mac.split(':')) {
                *byte = u8::from_str_radix(text, 16).ok()?;
            }
            let host = interface.hostname.split('.').next().unwrap_or_default();
            let lease = Lease {
                mac,
                address: interface.private_ip,
                netmask: subnet.cidr.netmask(),
                router: names::router(&subnet.cidr)?,
                resolver: names::resolver(vpc)?,
                host: host.to_owned(),
                domain: dns::private_domain(&vpc.region),
                mtu: 1500,
            };
            Some((*link, lease))
        });
        View { leases: leases.collect(), zone: Zone::new(vpc, pool) }
    }
}

/// Sockets made inside of a namespace.
#[derive(Debug)]
pub(crate) struct Sockets {
    dhcp: UdpSocket,
    time: UdpSocket,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Binds in the namespace in which the caller's thread stands; its addresses are there already.
    pub(crate) fn bind(vpc: &Vpc) -> Result<Sockets, Error> {
        let dhcp = udp(Ipv4Addr::UNSPECIFIED, dhcp::SERVER_PORT)?;
        let prepare = || {
            system::report_links(dhcp.as_fd())?;
            dhcp.set_broadcast(true)
        };
        prepare().map_err(Error::io("prepare the DHCP socket"))?;
        let mut sockets =
            Sockets { dhcp, time: udp(names::TIME, 123)?, udp: Vec::new(), tcp: Vec::new() };
        for address in names::resolver(vpc).into_iter().chain([names::RESOLVER]) {
            sockets.udp.push(udp(address, 53)?);
            let listen = || {
                let listener = TcpListener::bind((address, 53))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            let action = format!("listen on {address}:53");
            sockets.tcp.push(patiently(listen).map_err(Error::io(action))?);
        }
        Ok(sockets)
    }
}

fn udp(address: Ipv4Addr, port: u16) -> Result<UdpSocket, Error> {
    let bind = || {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    patiently(bind).map_err(Error::io(format!("bind {address}:{port}")))
}

fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + HANDOVER;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

impl Services {
    pub(crate) fn start(resolvers: &[SocketAddr]) -> Result<Services, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vpc-services")
            .enable_all()
            .build()
            .map_err(Error::io("start the thread for DHCP and DNS"))?;
        let (elsewhere, _) = watch::channel(Arc::default());
        Ok(Services { runtime: Some(runtime), resolvers: resolvers.into(), elsewhere })
    }

    /// The public addresses of all VPCs.
    pub(crate) fn publish(&self, addresses: BTreeSet<Ipv4Addr>) {
        self.elsewhere.send_replace(Arc::new(addresses));
    }

    /// Starts the servers of a VPC.
    pub(crate) fn open(&self, space: u64, sockets: Sockets, view: View) -> io::Result<Door> {
        let (sender, view) = watch::channel(Arc::new(view));
        let mut tasks = Vec::new();
        let Some(runtime) = &self.runtime else {
            return Ok(Door { space, view: sender, tasks });
        };
        let _context = runtime.enter();
        let context = Context {
            view,
            elsewhere: self.elsewhere.subscribe(),
            resolvers: self.resolvers.clone(),
            room: Arc::new(Semaphore::new(QUESTIONS)),
        };
        let dhcp = tokio::net::UdpSocket::from_std(sockets.dhcp)?;
        tasks.push(tokio::spawn(serve_dhcp(dhcp, context.clone())).abort_handle());
        let time = tokio::net::UdpSocket::from_std(sockets.time)?;
        tasks.push(tokio::spawn(serve_time(time)).abort_handle());
        for socket in sockets.udp {
            let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
            tasks.push(tokio::spawn(serve_udp(socket, context.clone())).abort_handle());
        }
        for listener in sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.push(tokio::spawn(serve_tcp(listener, context.clone())).abort_handle());
        }
        Ok(Door { space, view: sender, tasks })
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // In the background: the last handle may go inside of somebody's asynchronous task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Door {
    pub(crate) fn show(&self, view: View) {
        self.view.send_replace(Arc::new(view));
    }
}

#[derive(Clone, Debug)]
struct Context {
    view: watch::Receiver<Arc<View>>,
    elsewhere: watch::Receiver<Arc<BTreeSet<Ipv4Addr>>>,
    resolvers: Arc<[SocketAddr]>,
    room: Arc<Semaphore>,
}

impl Context {
    fn judge(&self, query: &[u8]) -> Verdict {
        let view = self.view.borrow().clone();
        let elsewhere = self.elsewhere.borrow().clone();
        view.zone.judge(query, &elsewhere)
    }
}

async fn serve_dhcp(socket: tokio::net::UdpSocket, context: Context) {
    let mut buffer = vec![0; 1500];
    loop {
        let receive = || system::receive(socket.as_fd(), &mut buffer);
        let received = match socket.async_io(Interest::READABLE, receive).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "cannot receive DHCP");
                continue;
            }
        };
        let view = context.view.borrow().clone();
        let Some(lease) = view.leases.get(&received.link) else { continue };
        let Some(answer) = dhcp::answer(&buffer[..received.length], lease) else { continue };
        tracing::debug!(address = %lease.address, from = %received.source, "DHCP");
        let to = SocketAddrV4::new(answer.to, dhcp::CLIENT_PORT);
        let sent = system::send(socket.as_fd(), &answer.bytes, received.link, lease.router, to);
        if let Err(error) = sent {
            tracing::warn!(%error, %to, "cannot answer DHCP");
        }
    }
}

async fn serve_udp(socket: Arc<tokio::net::UdpSocket>, context: Context) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let query = &buffer[..length];
        match context.judge(query) {
            Verdict::Ignore => {}
            Verdict::Answer(answer) => drop(socket.send_to(&answer, from).await),
            Verdict::Forward => {
                // A guest that asks faster than the world answers is not answered.
                let Ok(permit) = context.room.clone().try_acquire_owned() else { continue };
                let (query, socket) = (query.to_vec(), socket.clone());
                let resolvers = context.resolvers.clone();
                tokio::spawn(async move {
                    if let Some(answer) = resolver::ask(&query, Transport::Udp, &resolvers).await {
                        // A guest that went away needs no answer.
                        let _ = socket.send_to(&answer, from).await;
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, context: Context) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: let others give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = context.room.clone().try_acquire_owned() else { continue };
        let context = context.clone();
        tokio::spawn(async move {
            let _permit = permit;
            while let Ok(Ok(query)) =
                tokio::time::timeout(IDLE, resolver::read_message(&mut stream)).await
            {
                let answer = match context.judge(&query) {
                    Verdict::Ignore => None,
                    Verdict::Answer(answer) => Some(answer),
                    Verdict::Forward => {
                        resolver::ask(&query, Transport::Tcp, &context.resolvers).await
                    }
                };
                let Some(answer) = answer else { break };
                let write = resolver::write_message(&mut stream, &answer);
                if !matches!(tokio::time::timeout(IDLE, write).await, Ok(Ok(()))) {
                    break;
                }
            }
        });
    }
}

/// Answers SNTP (RFC 4330) with the host's clock, as the link-local time service does.
async fn serve_time(socket: tokio::net::UdpSocket) {
    let mut buffer = [0; 128];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if let Some(answer) = time(&buffer[..length], now) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

fn time(query: &[u8], now: Duration) -> Option<[u8; 48]> {
    /// From 1900, where NTP begins, to 1970; seconds.
    const EPOCH: u64 = 2_208_988_800;
    let head = *query.first()?;
    // A client (mode 3) of any version.
    if query.len() < 48 || head & 7 != 3 {
        return None;
    }
    // The seconds wrap in 2036, as they should.
    let seconds = (now.as_secs() + EPOCH) & u64::from(u32::MAX);
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    let stamp = (seconds << 32 | fraction).to_be_bytes();
    let mut answer = [0; 48];
    answer[0] = head & 0x38 | 4;
    // Stratum 3, the poll interval of the client, a precision of about a microsecond.
    answer[1..4].copy_from_slice(&[3, query[2], 0xec]);
    // Who told us: the host's clock, named as itself.
    answer[12..16].copy_from_slice(&names::TIME.octets());
    answer[16..24].copy_from_slice(&stamp);
    answer[24..32].copy_from_slice(&query[40..48]);
    answer[32..40].copy_from_slice(&stamp);
    answer[40..48].copy_from_slice(&stamp);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_to_clients() {
        let mut query = [0; 48];
        query[0] = 0x23;
        query[40..].copy_from_slice(b"whenisit");
        let answer = time(&query, Duration::new(1, 500_000_000)).unwrap();
        assert_eq!(answer[0], 0x24);
        assert_eq!(&answer[24..32], b"whenisit");
        assert_eq!(answer[40..48], [0x83, 0xaa, 0x7e, 0x81, 0x80, 0, 0, 0]);
        assert_eq!(time(&query[..47], Duration::ZERO), None);
        query[0] = 0x24;
        assert_eq!(time(&query, Duration::ZERO), None);
    }
}
