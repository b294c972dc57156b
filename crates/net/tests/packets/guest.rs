//! Guests: a kernel's network stack, or the test itself, behind a tap.

use crate::system;
use base::Ipv4Cidr;
use base::network::Interface;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Length of the `virtio_net_hdr` in front of every frame.
pub const HEADER: usize = 10;

/// How long a packet that is dropped is waited for.
pub const PATIENCE: Duration = Duration::from_millis(700);

/// How a connection attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Connected,
    Refused,
    TimedOut,
    Other(String),
}

/// A namespace whose `eth0` is wired to a VPC's tap by a thread that copies frames.
pub struct Guest {
    pub name: String,
    pub address: Ipv4Addr,
    stop: Arc<AtomicBool>,
    wire: Option<JoinHandle<()>>,
}

pub fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` on a thread in the namespace.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            system::enter(&file).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Guest {
    /// A guest with the interface's hardware and IP address, as it would have them from DHCP.
    pub fn start(tap: OwnedFd, name: &str, interface: &Interface) -> Guest {
        Guest::start_in(tap, name, interface, "172.31.0.0/20".parse().unwrap())
    }

    /// The same in another subnet than most.
    pub fn start_in(tap: OwnedFd, name: &str, interface: &Interface, subnet: Ipv4Cidr) -> Guest {
        let (router, length) = (subnet.nth(1).unwrap(), subnet.length());
        let name = format!("gtguest{name}");
        let address = interface.private_ip;
        let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        shell(&format!("ip netns add {name}"));
        let inside = within(&name, || system::open_tap("eth0", false).unwrap());
        let mac = &interface.mac;
        shell(&format!(
            "ip -n {name} link set lo up; ip -n {name} link set eth0 address {mac} up;
             ip -n {name} address add {address}/{length} dev eth0;
             ip -n {name} route add default via {router}"
        ));
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let wire = std::thread::spawn(move || copy(tap, inside, &flag));
        let guest = Guest { name, address, stop, wire: Some(wire) };
        guest.wait_for_router(router);
        guest
    }

    /// A link that came up a moment ago drops what it is to send until the kernel's next look at
    /// its carrier, up to a second later.
    fn wait_for_router(&self, router: Ipv4Addr) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let knock = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        while !shell(&format!("ip -n {} neighbour show {router}", self.name)).contains("lladdr") {
            assert!(Instant::now() < deadline, "{} does not find its router", self.name);
            let _ = knock.send_to(b"", (router, 9));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.name, work)
    }

    pub fn listen(&self, port: u16) -> Server {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        Server::start(listener)
    }

    pub fn connect(&self, address: Ipv4Addr, port: u16) -> Outcome {
        self.run(|| connect(address, port).1)
    }

    pub fn stream(&self, address: Ipv4Addr, port: u16) -> TcpStream {
        self.run(|| connect(address, port).0.expect("no connection"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(wire) = self.wire.take() {
            let _ = wire.join();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// One attempt to connect, from the caller's namespace.
pub fn connect(address: Ipv4Addr, port: u16) -> (Option<TcpStream>, Outcome) {
    let address = SocketAddrV4::new(address, port).into();
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            (Some(stream), Outcome::Connected)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => (None, Outcome::Refused),
        Err(error) if error.kind() == ErrorKind::TimedOut => (None, Outcome::TimedOut),
        Err(error) => (None, Outcome::Other(error.to_string())),
    }
}

/// Sends a line and says whether it came back.
pub fn echo(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Answers every connection with `PEER_ADDRESS\n` and then echoes what it gets.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(listener: TcpListener) -> Server {
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if !readable(&listener, Duration::from_millis(50)) {
                    continue;
                }
                let Ok((mut stream, _)) = listener.accept() else { continue };
                stream.set_nonblocking(false).unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 5];
                    while stream.read_exact(&mut buffer).is_ok() {
                        let text = stream.peer_addr().unwrap().ip().to_string();
                        let answer =
                            if &buffer == b"whoam" { text.into_bytes() } else { buffer.to_vec() };
                        if stream.write_all(&answer).is_err() || &buffer == b"whoam" {
                            break;
                        }
                    }
                });
            }
        });
        Server { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The source address that the server sees.
pub fn seen_as(mut stream: TcpStream) -> String {
    stream.write_all(b"whoam").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

pub fn readable(descriptor: &impl AsFd, wait: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut list = [PollFd::new(descriptor, PollFlags::IN)];
    let wait = rustix::event::Timespec {
        tv_sec: wait.as_secs().try_into().unwrap(),
        tv_nsec: wait.subsec_nanos().into(),
    };
    poll(&mut list, Some(&wait)).unwrap_or(0) > 0
}

fn copy(one: OwnedFd, other: OwnedFd, stop: &AtomicBool) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut buffer = vec![0; 70_000];
    let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        let mut list = [PollFd::new(&one, PollFlags::IN), PollFd::new(&other, PollFlags::IN)];
        let _ = poll(&mut list, Some(&wait));
        for (from, to) in [(&one, &other), (&other, &one)] {
            while let Ok(length) = rustix::io::read(from, &mut buffer) {
                let _ = rustix::io::write(to, &buffer[..length]);
            }
        }
    }
}

/// The hardware address of every router.
pub const ROUTER: [u8; 6] = [2, 0x67, 0x75, 0x72, 0, 1];

/// A guest that the test plays itself, frame by frame.
pub struct Raw {
    tap: OwnedFd,
    pub mac: [u8; 6],
    pub address: Ipv4Addr,
}

impl Raw {
    pub fn new(tap: OwnedFd, interface: &Interface) -> Raw {
        let parts: Vec<u8> =
            interface.mac.split(':').map(|p| u8::from_str_radix(p, 16).unwrap()).collect();
        let raw = Raw { tap, mac: parts.try_into().unwrap(), address: interface.private_ip };
        let router = Ipv4Addr::new(172, 31, 0, 1);
        let up = (0..10).any(|_| raw.ask(router, raw.mac, raw.address) == Some(ROUTER));
        assert!(up, "the router does not answer");
        raw
    }

    pub fn send(&self, frame: &[u8]) {
        let packet = [&[0; HEADER], frame].concat();
        assert_eq!(rustix::io::write(&self.tap, &packet).unwrap(), packet.len());
    }

    /// The first frame that `wanted` likes, or `None` after [`PATIENCE`].
    pub fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 70_000];
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if !readable(&self.tap, left) {
                break;
            }
            let Ok(length) = rustix::io::read(&self.tap, &mut buffer) else { continue };
            if length > HEADER && wanted(&buffer[HEADER..length]) {
                return Some(buffer[HEADER..length].to_vec());
            }
        }
        None
    }

    /// How many of the frames that are here now are wanted.
    pub fn drain(&self, wanted: impl Fn(&[u8]) -> bool) -> u32 {
        let mut buffer = vec![0; 70_000];
        let mut count = 0;
        while let Ok(length) = rustix::io::read(&self.tap, &mut buffer) {
            count += u32::from(length > HEADER && wanted(&buffer[HEADER..length]));
        }
        count
    }

    /// Asks who has `target`, in the name of `sender`.
    pub fn ask(&self, target: Ipv4Addr, mac: [u8; 6], sender: Ipv4Addr) -> Option<[u8; 6]> {
        let mut frame = ethernet([0xff; 6], mac, 0x0806);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(mac);
        frame.extend(sender.octets());
        frame.extend([0; 6]);
        frame.extend(target.octets());
        self.send(&frame);
        let answer = self.receive(|frame| {
            frame.len() >= 42
                && frame[12..14] == [8, 6]
                && frame[20..22] == [0, 2]
                && frame[28..32] == target.octets()
        })?;
        answer[22..28].try_into().ok()
    }
}

pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()].concat()
}

/// An IPv4 packet with a correct header checksum.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

/// A UDP datagram without a checksum, which IPv4 allows.
pub fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut data: Vec<u8> = [from, to, length, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
    data.extend(payload);
    data
}

/// The first segment of a TCP connection.
pub fn syn(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut segment: Vec<u8> = [ports.0, ports.1].iter().flat_map(|n| n.to_be_bytes()).collect();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, 20], &segment].concat();
    segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    segment
}

/// An ICMP message without data.
pub fn icmp(kind: u8, code: u8) -> Vec<u8> {
    let mut data = vec![kind, code, 0, 0, 0, 7, 0, 1];
    let sum = checksum(&data);
    data[2..4].copy_from_slice(&sum.to_be_bytes());
    data
}

pub fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 =
        data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
