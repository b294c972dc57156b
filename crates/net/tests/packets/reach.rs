//! Random networks with real packets: whom the `reach` crate lets through gets through, everybody else
//! hears nothing.
//!
//! `REACH_SEED=n` builds the network of one seed only. Networks of several seeds stand side by side, so
//! that their pairs are tried at the same time.

#[path = "../../../reach/tests/seeds/random.rs"]
mod random;

use crate::guest::{Guest, shell, within};
use crate::lifecycle::Outside;
use crate::world::World;
use base::network::{Holder, Interface, Plan};
use reach::{Answer, Code, Component, End, Origin, Packet, Traffic, Walk, reach};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SEEDS: u64 = 20;
/// Networks that stand side by side.
const ABREAST: usize = 5;

/// The least time that silence is listened to.
const SILENCE: Duration = Duration::from_millis(1500);
/// The most that an answer is waited for, on a machine that has more to do.
const ANSWER: Duration = Duration::from_secs(10);

/// The router's address on every link.
const ROUTER: &str = "fe80::67:75ff:fe72:1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// There is a listener.
    Web,
    /// There is none.
    Shell,
    /// UDP with an echo.
    Names,
    Echo,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Web, Kind::Shell, Kind::Names, Kind::Echo];

    fn traffic(self, six: bool) -> Traffic {
        match self {
            Kind::Web => Traffic::Tcp { source: 40_000, destination: 80 },
            Kind::Shell => Traffic::Tcp { source: 40_000, destination: 22 },
            Kind::Names => Traffic::Udp { source: 40_000, destination: 53 },
            Kind::Echo if six => Traffic::Icmpv6 { kind: 128, code: 0 },
            Kind::Echo => Traffic::Icmp { kind: 8, code: 0 },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Refused,
    Silence,
    Other(Errno),
}

/// One pair.
#[derive(Debug)]
struct Probe {
    source: IpAddr,
    destination: IpAddr,
    kind: Kind,
    expected: Outcome,
    /// Somebody on the way may say that he knows no further: a machine that forwards, the outside.
    may_be_told: bool,
    /// How packets are known to differ from the model here, if they do.
    gap: Option<&'static str>,
    /// What the model says, for the message.
    told: String,
}

fn told(answer: &reach::Answer) -> String {
    let walks = std::iter::once(&answer.forward).chain(&answer.back);
    let lines = walks.flat_map(|walk| {
        let hops = walk.hops.iter().map(|hop| format!("    {:?} {}", hop.component, hop.after));
        let refusals = walk.refusals.iter().map(|refusal| format!("    {refusal:?}"));
        let end = std::iter::once(format!("    {:?}", walk.end));
        hops.chain(refusals).chain(end).collect::<Vec<_>>()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What a walk passes between its VPCs, and the forwarding machines.
fn links(walk: &Walk) -> BTreeSet<String> {
    let passed = walk.hops.iter().filter_map(|hop| match &hop.component {
        Component::Peering(id) | Component::TransitGateway(id) => Some(id.clone()),
        _ => None,
    });
    passed.collect()
}

/// The forwarding machines that a walk passes.
fn forwarders(walk: &Walk, ends: &[&str]) -> BTreeSet<String> {
    let passed = walk.hops.iter().filter_map(|hop| match &hop.component {
        Component::Interface(id) if !ends.contains(&id.as_str()) => Some(id.clone()),
        _ => None,
    });
    passed.collect()
}

/// Where the data plane is known to do other than the model, which says what AWS documents. Each is a
/// gap to close there, not here.
fn gap(plan: &Plan, answer: &Answer, through: [&BTreeSet<String>; 2]) -> Option<&'static str> {
    let hops = || answer.forward.hops.iter();
    // Flows are tracked in a zone a link where a VPC has forwarders, and what a zone has not seen
    // begin is invalid there.
    let ways = answer.back.as_ref().map(|back| (links(&answer.forward), links(back)));
    let other_way = ways.is_some_and(|(there, back)| there != back);
    if answer.forward.arrives() && (other_way || through[0] != through[1]) {
        return Some("the answer goes another way");
    }
    // Translated back before it is routed, so no route table and no ACL is asked on the way back.
    let reflected = hops().zip(hops().skip(1)).any(|(one, next)| {
        one.component == Component::InternetGateway
            && next.component == Component::InternetGateway
            && one.vpc_id == next.vpc_id
    });
    if reflected {
        return Some("a public address of the same VPC");
    }
    // The router itself serves there, and sends by its own routes.
    let endpoint = match &answer.forward.end {
        Some(End::Interface(id)) => plan
            .vpcs
            .iter()
            .flat_map(|vpc| &vpc.interfaces)
            .any(|i| i.id == *id && matches!(i.holder, Holder::Endpoint(_))),
        _ => false,
    };
    let mut all = hops().chain(answer.back.iter().flat_map(|back| &back.hops));
    let strays = all.any(|hop| match &hop.component {
        Component::Peering(_) | Component::TransitGateway(_) => true,
        Component::RouteTable { route, .. } => {
            !matches!(route, Some((_, base::network::Target::Local)))
        }
        _ => false,
    });
    (endpoint && (strays || !answer.reachable() && answer.forward.arrives()))
        .then_some("an interface endpoint from beyond the VPC")
}

/// Every pair that begins at `origin`.
fn probes(plan: &Plan, origin: &Origin, sources: &[IpAddr], all: &BTreeSet<IpAddr>) -> Vec<Probe> {
    let mut probes = Vec::new();
    let interfaces = || plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces);
    for source in sources {
        for destination in all.iter().filter(|to| to.is_ipv4() == source.is_ipv4()) {
            for kind in Kind::ALL {
                let (source, destination) = (*source, *destination);
                let traffic = kind.traffic(source.is_ipv6());
                let answer = reach(plan, origin, Packet { source, destination, traffic });
                let served_by_us = match &answer.forward.end {
                    Some(End::GatewayEndpoint { .. }) => true,
                    Some(End::Interface(id)) => {
                        interfaces().any(|i| i.id == *id && matches!(i.holder, Holder::Endpoint(_)))
                    }
                    _ => false,
                };
                // Nobody serves at an endpoint here: the node says so. And nobody is outside but one.
                let gone =
                    answer.forward.end == Some(End::Outside) && destination != Outside::ADDRESS;
                if gone || served_by_us && kind == Kind::Names {
                    continue;
                }
                let refused = kind == Kind::Shell || served_by_us && kind == Kind::Web;
                let expected = match (answer.reachable(), refused) {
                    (true, true) => Outcome::Refused,
                    (true, false) => Outcome::Answered,
                    (false, _) => Outcome::Silence,
                };
                let mut ends = Vec::new();
                ends.extend(match origin {
                    Origin::Interface(id) => Some(id.as_str()),
                    Origin::Outside => None,
                });
                ends.extend(match &answer.forward.end {
                    Some(End::Interface(id)) => Some(id.as_str()),
                    _ => None,
                });
                let there = forwarders(&answer.forward, &ends);
                let back = answer.back.as_ref().map(|back| forwarders(back, &ends));
                let back = back.unwrap_or_default();
                let gap = gap(plan, &answer, [&there, &back]);
                let nobody = answer
                    .refusals()
                    .any(|refusal| refusal.code == Code::IgwPrivateIpAssociationForIngress);
                let may_be_told = nobody || !there.is_empty() || !back.is_empty();
                let told = told(&answer);
                probes.push(Probe { source, destination, kind, expected, may_be_told, gap, told });
            }
        }
    }
    probes
}

/// Who is called in one network.
fn destinations(plan: &Plan) -> BTreeSet<IpAddr> {
    let mut to = BTreeSet::from([IpAddr::V4(Outside::ADDRESS), IpAddr::V4(random::SERVICE)]);
    for interface in plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces) {
        for address in interface.addresses() {
            to.insert(address.private_ip.into());
            to.extend(address.public_ip.map(IpAddr::from));
        }
        to.extend(interface.ipv6.iter().copied().map(IpAddr::from));
    }
    to
}

impl Probe {
    fn is_awaited(&self) -> bool {
        self.expected != Outcome::Silence && self.gap.is_none()
    }
}

enum Attempt {
    Stream(OwnedFd),
    Datagram(OwnedFd, Vec<u8>),
}

fn attempt(probe: &Probe) -> Attempt {
    let six = probe.destination.is_ipv6();
    let family = if six { AddressFamily::INET6 } else { AddressFamily::INET };
    let (kind, protocol) = match probe.kind {
        Kind::Web | Kind::Shell => (SocketType::STREAM, None),
        Kind::Names => (SocketType::DGRAM, None),
        Kind::Echo if six => (SocketType::DGRAM, Some(ipproto::ICMPV6)),
        Kind::Echo => (SocketType::DGRAM, Some(ipproto::ICMP)),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, protocol).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(probe.source, 0)).unwrap();
    let port = match probe.kind {
        Kind::Web => 80,
        Kind::Shell => 22,
        Kind::Names => 53,
        Kind::Echo => 0,
    };
    // What stands in the way is seen later.
    let _ = rustix::net::connect(&socket, &SocketAddr::new(probe.destination, port));
    match probe.kind {
        Kind::Web | Kind::Shell => Attempt::Stream(socket),
        Kind::Names => Attempt::Datagram(socket, b"hello".to_vec()),
        Kind::Echo => {
            Attempt::Datagram(socket, vec![if six { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1])
        }
    }
}

impl Attempt {
    /// How it ended, if it has.
    fn look(&self, send: bool) -> Option<Outcome> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let end = |errno: Errno| match errno {
            Errno::AGAIN => None,
            Errno::CONNREFUSED => Some(Outcome::Refused),
            // The neighbour's address is asked for, or the queue is full.
            Errno::NOBUFS => None,
            other => Some(Outcome::Other(other)),
        };
        match self {
            Attempt::Stream(socket) => {
                let mut list = [PollFd::new(socket, PollFlags::OUT)];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                if poll(&mut list, Some(&now)).unwrap_or(0) == 0 {
                    return None;
                }
                match sockopt::socket_error(socket).unwrap() {
                    Ok(()) => Some(Outcome::Answered),
                    Err(errno) => end(errno),
                }
            }
            Attempt::Datagram(socket, payload) => {
                let mut buffer = [0; 64];
                match rustix::io::read(socket, &mut buffer) {
                    Ok(_) => return Some(Outcome::Answered),
                    Err(errno) => {
                        if let Some(outcome) = end(errno) {
                            return Some(outcome);
                        }
                    }
                }
                if send && let Err(errno) = rustix::io::write(socket, payload) {
                    return end(errno);
                }
                None
            }
        }
    }
}

/// Tries every pair of one sender at the same time; `waiting` counts, over all senders, the answers that
/// are still to come. What was not as expected.
fn tried(probes: &[Probe], waiting: &AtomicUsize) -> Vec<String> {
    let attempts: Vec<Attempt> = probes.iter().map(attempt).collect();
    let mut outcomes = vec![None; probes.len()];
    let start = Instant::now();
    let mut knock = start;
    loop {
        let send = Instant::now() >= knock;
        if send {
            knock += Duration::from_millis(700);
        }
        for (index, attempt) in attempts.iter().enumerate() {
            if outcomes[index].is_none()
                && let Some(outcome) = attempt.look(send)
            {
                outcomes[index] = Some(outcome);
                if probes[index].is_awaited() {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        let elapsed = start.elapsed();
        let done = waiting.load(Ordering::Relaxed) == 0 && elapsed >= SILENCE;
        if done || elapsed >= ANSWER {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Silence));
    let wrong = probes.iter().zip(outcomes).filter(|(probe, outcome)| {
        let lost = probe.may_be_told && matches!(outcome, Outcome::Other(Errno::HOSTUNREACH));
        let outcome = if lost { Outcome::Silence } else { *outcome };
        probe.gap.is_none() && probe.expected != outcome
    });
    wrong
        .map(|(probe, outcome)| {
            let Probe { source, destination, kind, expected, told, .. } = probe;
            format!(
                "{source} > {destination} {kind:?}: {outcome:?} instead of {expected:?}\n{told}"
            )
        })
        .collect()
}

/// Listens for the web, and at port 53 of each address.
fn listen(name: &str, addresses: &[IpAddr]) -> (TcpListener, Vec<UdpSocket>) {
    let names = |address: &IpAddr| {
        let socket = UdpSocket::bind((*address, 53)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    within(name, || {
        let web = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap();
        (web, addresses.iter().map(names).collect())
    })
}

/// Sends back what comes.
fn echo(sockets: &[UdpSocket], stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        for socket in sockets {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a guest's own system does beside what every guest's does; whether it speaks IPv6.
fn set_up(guest: &Guest, interface: &Interface) -> bool {
    let name = &guest.name;
    let mut lines = String::new();
    for address in &interface.secondary {
        lines += &format!("ip -n {name} address add {}/32 dev eth0\n", address.private_ip);
    }
    for address in &interface.ipv6 {
        lines += &format!("ip -n {name} -6 address add {address}/128 dev eth0 nodad\n");
    }
    if !interface.ipv6.is_empty() {
        lines += &format!("ip -n {name} -6 route add default via {ROUTER} dev eth0 metric 100\n");
    }
    let forwards = if interface.source_dest_check { "0" } else { "1" };
    guest.run(|| {
        for (setting, value) in [
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
            // A router that is its own neighbour's neighbour tells nobody a shorter way.
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
            ("ipv6/conf/eth0/accept_ra", "0"),
            ("ipv4/ip_forward", forwards),
            ("ipv6/conf/all/forwarding", forwards),
        ] {
            std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
        }
    });
    shell(&lines);
    if interface.ipv6.is_empty() {
        return false;
    }
    // It speaks IPv6 when its own link-local address is free and the router has answered.
    let deadline = Instant::now() + Duration::from_secs(5);
    let knock = guest.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
    let nobody: SocketAddr = "[2001:db8:ffff::1]:9".parse().unwrap();
    while !shell(&format!("ip -n {name} -6 neighbour show {ROUTER}")).contains("lladdr") {
        if Instant::now() > deadline {
            println!("{name} does not find its router by IPv6: its pairs are not tried");
            return false;
        }
        let _ = knock.send_to(b"", nobody);
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

fn machines(plan: &Plan) -> Vec<(String, Interface)> {
    let all = plan.vpcs.iter().flat_map(|vpc| vpc.interfaces.iter().map(move |i| (vpc, i)));
    let machines = all.filter(|(_, interface)| interface.instance_id().is_some());
    machines.map(|(vpc, interface)| (vpc.id.clone(), interface.clone())).collect()
}

fn join(plans: &[Plan]) -> Plan {
    let mut whole = Plan::default();
    for plan in plans.iter().cloned() {
        whole.vpcs.extend(plan.vpcs);
        whole.peerings.extend(plan.peerings);
        whole.transit_gateways.extend(plan.transit_gateways);
    }
    whole
}

/// The networks of some seeds; what was not as the model says, and how many pairs answered.
fn round(world: &mut World, seeds: &[u64]) -> (Vec<String>, usize) {
    let mut public = 0;
    let plans: Vec<Plan> = seeds
        .iter()
        .zip(0..)
        .map(|(s, slot)| random::Drawer::plan(*s, slot, &mut public))
        .collect();
    world.plan = join(&plans);
    world.apply();
    let whole = &world.plan;
    let network = &world.network;
    let guests: Vec<(usize, Interface, Guest, bool)> = std::thread::scope(|scope| {
        let mut starting = Vec::new();
        for (slot, plan) in plans.iter().enumerate() {
            for (vpc_id, interface) in machines(plan) {
                starting.push(scope.spawn(move || {
                    let tap = network.open_tap(&vpc_id, &interface.id).unwrap();
                    let vpc = whole.vpcs.iter().find(|vpc| vpc.id == vpc_id).unwrap();
                    let subnet = vpc.subnets.iter().find(|s| s.id == interface.subnet_id).unwrap();
                    let name = interface.id.trim_start_matches("eni-").trim_start_matches('0');
                    let guest = Guest::start_in(tap, &format!("r{name}"), &interface, subnet.cidr);
                    let six = set_up(&guest, &interface);
                    (slot, interface, guest, six)
                }));
            }
        }
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut senders: Vec<(String, u64, Vec<Probe>)> = Vec::new();
    let to: Vec<BTreeSet<IpAddr>> = plans.iter().map(destinations).collect();
    let deaf = guests.iter().filter(|(_, interface, _, six)| !six && !interface.ipv6.is_empty());
    let deaf: Vec<&Interface> = deaf.map(|(_, interface, ..)| interface).collect();
    // Of each of two seeds one guest is not heard by its router, which is a gap to close in `net`.
    assert!(deaf.len() <= 1, "{} guests do not find their router by IPv6", deaf.len());
    for (slot, interface, guest, six) in &guests {
        let mut sources = vec![IpAddr::V4(interface.private_ip)];
        sources.extend(interface.ipv6.first().copied().map(IpAddr::V6).filter(|_| *six));
        let mut others = to[*slot].clone();
        // A guest asks its own subnet itself who has an address, and is told by nobody's silence.
        let vpc = whole.vpcs.iter().find(|vpc| vpc.interfaces.contains(interface)).unwrap();
        let subnet = vpc.subnets.iter().find(|s| s.id == interface.subnet_id).unwrap();
        let near = |address: IpAddr| base::Cidr::V4(subnet.cidr).contains(address);
        let is_there = |address: IpAddr| vpc.interfaces.iter().any(|other| other.has(address));
        others.retain(|to| !interface.has(*to) && (is_there(*to) || !near(*to)));
        // Who does not speak IPv6 does not answer it.
        others.retain(|to| !deaf.iter().any(|other| other.has(*to) && to.is_ipv6()));
        let origin = Origin::Interface(interface.id.clone());
        senders.push((guest.name.clone(), seeds[*slot], probes(whole, &origin, &sources, &others)));
    }
    for (slot, to) in to.iter().enumerate() {
        let is_public = |address: &&IpAddr| {
            plans[slot].vpcs.iter().flat_map(|vpc| &vpc.interfaces).any(|interface| {
                interface.addresses().any(|own| own.public_ip.map(IpAddr::V4) == Some(**address))
            })
        };
        let public: BTreeSet<IpAddr> = to.iter().filter(is_public).copied().collect();
        let sources = [IpAddr::V4(Outside::ADDRESS)];
        let probes = probes(whole, &Origin::Outside, &sources, &public);
        senders.push((Outside::SPACE.to_owned(), seeds[slot], probes));
    }
    let all = || senders.iter().flat_map(|(_, _, probes)| probes);
    let answers = all().filter(|probe| probe.is_awaited()).count();
    let mut gaps = BTreeMap::<&str, u32>::new();
    for gap in all().filter_map(|probe| probe.gap) {
        *gaps.entry(gap).or_default() += 1;
    }
    println!("seeds {seeds:?}: {} pairs, {answers} answer; not judged: {gaps:?}", all().count());
    let mut servers: Vec<(TcpListener, Vec<UdpSocket>)> = guests
        .iter()
        .map(|(_, interface, guest, _)| {
            let four = interface.addresses().map(|own| IpAddr::V4(own.private_ip));
            let six = interface.ipv6.iter().map(|address| IpAddr::V6(*address));
            listen(&guest.name, &four.chain(six).collect::<Vec<_>>())
        })
        .collect();
    servers.push(listen(Outside::SPACE, &[Outside::ADDRESS.into()]));
    let (waiting, stop) = (AtomicUsize::new(answers), AtomicBool::new(false));
    let wrong = std::thread::scope(|scope| {
        let (stop, waiting) = (&stop, &waiting);
        for (_, names) in &servers {
            scope.spawn(move || echo(names, stop));
        }
        let trying: Vec<_> = senders
            .iter()
            .map(|(name, seed, probes)| {
                scope.spawn(move || {
                    let wrong = within(name, || tried(probes, waiting));
                    wrong.into_iter().map(move |text| format!("seed {seed}, {name}: {text}"))
                })
            })
            .collect();
        let wrong = trying.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        wrong
    });
    (wrong, answers)
}

/// What is the host here: it has no way to anywhere but [`Outside`], so no packet gets lost into the
/// network that this machine is in.
struct Home;

impl Home {
    const SPACE: &str = "gthome";

    fn new() -> Home {
        drop(Home);
        shell(&format!("ip netns add {0}; ip -n {0} link set lo up", Self::SPACE));
        Home
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "delete", Self::SPACE]).output();
    }
}

#[test]
fn packets_do_what_the_model_says() {
    // One that is skipped skips here.
    let Some(world) = World::new() else { return };
    drop(world);
    let _home = Home::new();
    within(Home::SPACE, rounds);
}

fn rounds() {
    // A socket a pair.
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let only = std::env::var("REACH_SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = only.map_or((0..SEEDS).collect(), |seed: u64| vec![seed]);
    let start = Instant::now();
    let (mut wrong, mut answered) = (Vec::new(), 0);
    for seeds in seeds.chunks(ABREAST) {
        // A network of its own each.
        let mut world = World::new().unwrap();
        let _outside = Outside::new();
        let ways = shell("ip route show default; ip -6 route show default");
        assert_eq!(ways, "", "packets could get lost");
        within(Outside::SPACE, || {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        });
        let (found, count) = round(&mut world, seeds);
        answered += count;
        wrong.extend(found);
    }
    println!("{} seeds in {:.1} s", seeds.len(), start.elapsed().as_secs_f64());
    assert!(only.is_some() || answered > 500, "only {answered} pairs answer");
    let shown: Vec<&str> = wrong.iter().map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} pairs differ:\n{}", wrong.len(), shown.join("\n"));
}
