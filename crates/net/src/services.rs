//! The servers of every VPC: DHCP, DNS and time, on one thread; for IPv6, the router's
//! advertisements as well.
//!
//! Their sockets are made inside the namespaces and stay there; the thread that serves them stands
//! outside, where the host's resolvers can be reached. What they say is a [`View`], replaced as a
//! whole by every apply. Sockets for IPv6 are there before the VPC has any: they listen where
//! nothing arrives.

use crate::advertisement;
use crate::dns::{self, Elsewhere, Verdict};
use crate::resolver::{self, Transport};
use crate::view::{self, View};
use crate::{Error, arp, dhcp, dhcp6, names, system};
use base::network::Vpc;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::BTreeSet;
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket,
};
use std::os::fd::{AsFd, OwnedFd};
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
/// How often guests hear of their router without asking; it is good for ten times as long.
const ADVERTISE: Duration = Duration::from_secs(180);
/// How long a port may still be held by a predecessor that is going away.
const HANDOVER: Duration = Duration::from_secs(2);

/// The thread.
#[derive(Debug)]
pub(crate) struct Services {
    runtime: Option<Runtime>,
    resolvers: Arc<[SocketAddr]>,
    elsewhere: watch::Sender<Arc<Elsewhere>>,
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

/// Sockets made inside of a namespace.
#[derive(Debug)]
pub(crate) struct Sockets {
    dhcp: UdpSocket,
    time: Vec<UdpSocket>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    /// Not there if the kernel has no IPv6.
    six: Option<SocketsOfSix>,
}

#[derive(Debug)]
struct SocketsOfSix {
    dhcp: UdpSocket,
    /// A raw socket, which reads and writes ICMPv6 as others do datagrams.
    router: UdpSocket,
}

impl Sockets {
    /// Binds in the namespace in which the caller's thread stands; its addresses are there already.
    pub(crate) fn bind(vpc: &Vpc) -> Result<Sockets, Error> {
        let dhcp = udp(Ipv4Addr::UNSPECIFIED.into(), dhcp::SERVER_PORT)?;
        let prepare = || {
            system::report_links(dhcp.as_fd())?;
            dhcp.set_broadcast(true)
        };
        prepare().map_err(Error::io("prepare the DHCP socket"))?;
        let has_six = std::path::Path::new("/proc/sys/net/ipv6").exists();
        let six = || -> Result<SocketsOfSix, Error> {
            let router = system::icmpv6_socket(advertisement::SOLICITATION)
                .map_err(Error::io("open a socket for ICMPv6"))?;
            let dhcp = udp(Ipv6Addr::UNSPECIFIED.into(), dhcp6::SERVER_PORT)?;
            Ok(SocketsOfSix { dhcp, router: router.into() })
        };
        let mut sockets = Sockets {
            dhcp,
            time: vec![udp(names::TIME.into(), 123)?],
            udp: Vec::new(),
            tcp: Vec::new(),
            six: has_six.then(six).transpose()?,
        };
        let mut resolvers: Vec<IpAddr> = view::resolver_addresses(vpc).map(IpAddr::V4).collect();
        if has_six {
            sockets.time.push(udp(view::TIME.into(), 123)?);
            resolvers.push(view::RESOLVER.into());
        }
        for address in resolvers {
            sockets.udp.push(udp(address, 53)?);
            let listen = || -> io::Result<TcpListener> {
                let listener = bound(SocketType::STREAM, address, 53)?;
                rustix::net::listen(&listener, 128)?;
                Ok(listener.into())
            };
            let action = format!("listen on {address}:53");
            sockets.tcp.push(patiently(listen).map_err(Error::io(action))?);
        }
        Ok(sockets)
    }
}

fn udp(address: IpAddr, port: u16) -> Result<UdpSocket, Error> {
    let bind = || bound(SocketType::DGRAM, address, port).map(UdpSocket::from);
    patiently(bind).map_err(Error::io(format!("bind {}", SocketAddr::new(address, port))))
}

/// A socket of one family at an address that the namespace need not have yet.
fn bound(kind: SocketType, address: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
    Ok(socket)
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

    /// What all VPCs know of public names.
    pub(crate) fn publish(&self, elsewhere: Elsewhere) {
        self.elsewhere.send_replace(Arc::new(elsewhere));
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
        for socket in sockets.time {
            let time = tokio::net::UdpSocket::from_std(socket)?;
            tasks.push(tokio::spawn(serve_time(time)).abort_handle());
        }
        if let Some(six) = sockets.six {
            let dhcp = tokio::net::UdpSocket::from_std(six.dhcp)?;
            tasks.push(tokio::spawn(serve_dhcp6(dhcp, context.clone())).abort_handle());
            let router = tokio::net::UdpSocket::from_std(six.router)?;
            tasks.push(tokio::spawn(advertise(router, context.clone())).abort_handle());
        }
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
    elsewhere: watch::Receiver<Arc<Elsewhere>>,
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

/// Hears clients on the links of the view, whatever the view becomes.
async fn serve_dhcp6(socket: tokio::net::UdpSocket, mut context: Context) {
    let mut buffer = vec![0; 1500];
    let mut heard = BTreeSet::new();
    loop {
        let view = context.view.borrow_and_update().clone();
        // A link that comes back under its old number has been left by the kernel.
        heard.retain(|link| view.leases6.contains_key(link));
        for link in view.leases6.keys().copied() {
            if !heard.contains(&link) {
                match socket.join_multicast_v6(&dhcp6::SERVERS, link) {
                    Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                        tracing::debug!(%error, link, "cannot hear DHCPv6");
                    }
                    _ => drop(heard.insert(link)),
                }
            }
        }
        let (length, from) = tokio::select! {
            changed = context.view.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, SocketAddr::V6(from))) => (length, from),
                _ => continue,
            },
        };
        // The kernel says with a link-local address on which link it is.
        let Some(lease) = view.leases6.get(&from.scope_id()) else { continue };
        let Some(answer) = dhcp6::answer(&buffer[..length], lease) else { continue };
        tracing::debug!(address = %lease.address, %from, "DHCPv6");
        let to = SocketAddrV6::new(*from.ip(), dhcp6::CLIENT_PORT, 0, from.scope_id());
        if let Err(error) = socket.send_to(&answer, to).await {
            tracing::debug!(%error, %to, "cannot answer DHCPv6");
        }
    }
}

/// Tells guests of their router: when they ask, when they are new, and now and then.
async fn advertise(socket: tokio::net::UdpSocket, mut context: Context) {
    let router = arp::octets(names::ROUTER_MAC);
    let mut buffer = vec![0; 1500];
    let mut told: BTreeSet<u32> = BTreeSet::new();
    let mut ticks = tokio::time::interval(ADVERTISE);
    loop {
        let view = context.view.borrow_and_update().clone();
        let message = advertisement::advertisement(router, view.mtu);
        let new: Vec<u32> =
            view.leases6.keys().copied().filter(|link| !told.contains(link)).collect();
        told.retain(|link| view.leases6.contains_key(link));
        for link in new {
            // Nobody may be there yet, who will ask then.
            let to = SocketAddrV6::new(advertisement::NODES, 0, 0, link);
            let _ = socket.send_to(&message, to).await;
            told.insert(link);
        }
        tokio::select! {
            changed = context.view.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = ticks.tick() => told.clear(),
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, SocketAddr::V6(from))) = received else { continue };
                let link = from.scope_id();
                let known = view.leases6.contains_key(&link);
                if known && advertisement::is_solicitation(&buffer[..length]) {
                    let to = SocketAddrV6::new(*from.ip(), 0, 0, link);
                    let _ = socket.send_to(&message, to).await;
                }
            }
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
            Verdict::Answer(answer) => {
                let answer = dns::fitting(query, answer);
                let _ = socket.send_to(&answer, from).await;
            }
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
