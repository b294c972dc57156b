//! IPv6 by route tables, peering connections, and to and from the world.

use crate::guest::{Guest, PATIENCE, Server, shell, within};
use crate::lifecycle::Outside;
use crate::world::{VPC, World, all, open_acl, peering, prefix, table, vpc_of};
use base::network::{Interface, Target, Vpc};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ANY: &str = "sg-00000000000000any";
const B: &str = "vpc-0000000000000000b";

/// The router's link-local address, from its hardware address.
const ROUTER: &str = "fe80::67:75ff:fe72:1";

fn with_six(id: &str, number: u8, routes: &[(&str, Target)]) -> Vpc {
    let block = format!("10.{number}.0.0/16");
    let subnet = format!("10.{number}.0.0/24");
    let mut vpc = vpc_of(id, &block, &[("subnet-1", &subnet, "rtb-1")], &[table("rtb-1", routes)]);
    vpc.ipv6_cidrs = vec![format!("fd77:{number}::/56").parse().unwrap()];
    vpc.subnets[0].ipv6_cidr = Some(format!("fd77:{number}::/64").parse().unwrap());
    vpc.network_acls = vec![open_acl()];
    vpc
}

fn place(world: &mut World, vpc: &str, address: &str, six: &str) -> Interface {
    world.place(vpc, address, &[ANY]);
    let interface = world.vpc(vpc).interfaces.last_mut().unwrap();
    interface.ipv6 = vec![six.parse().unwrap()];
    interface.clone()
}

fn run(world: &mut World, vpc: &str, interface: &Interface) -> Guest {
    let guest = world.run(vpc, interface);
    let (name, own) = (&guest.name, interface.ipv6[0]);
    shell(&format!(
        "ip -n {name} -6 address add {own}/128 dev eth0 nodad
         ip -n {name} -6 route replace default via {ROUTER} dev eth0"
    ));
    guest
}

fn call(to: Ipv6Addr, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"whoam").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// As who a guest is seen there. Its router's address comes with its carrier, a moment later.
fn seen(guest: &Guest, to: Ipv6Addr, port: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(text) = guest.run(|| call(to, port)) {
            return text;
        }
        assert!(Instant::now() < deadline, "{} does not reach {to}", guest.name);
    }
}

fn listen(guest: &Guest, port: u16) -> Server {
    Server::start(guest.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()))
}

#[test]
fn peers_gateways_and_the_world() {
    let out = |target| ("::/0", target);
    let pcx = || Target::Peering("pcx-1".into());
    let Some(mut world) = World::new() else { return };
    world.plan.vpcs = vec![
        with_six(VPC, 1, &[out(Target::InternetGateway), ("fd77:2::/56", pcx())]),
        with_six(B, 2, &[out(Target::EgressOnlyInternetGateway), ("fd77:1::/56", pcx())]),
    ];
    world.vpc(B).internet_gateway = false;
    world.group(ANY, &[all(prefix("::/0"))], &[all(prefix("::/0"))]);
    world.plan.peerings = vec![peering("pcx-1", VPC, B)];
    let one = place(&mut world, VPC, "10.1.0.10", "fd77:1::10");
    let two = place(&mut world, B, "10.2.0.10", "fd77:2::10");
    world.vpc(VPC).interfaces[0].ipv6_prefixes = vec!["fd77:1:0:0:77::/80".parse().unwrap()];
    world.apply();
    let (here, there) = (run(&mut world, VPC, &one), run(&mut world, B, &two));
    let (one, two) = (one.ipv6[0], two.ipv6[0]);
    let _servers = [listen(&here, 80), listen(&there, 80)];
    assert_eq!(seen(&here, two, 80), one.to_string());
    assert_eq!(seen(&there, one, 80), two.to_string());
    // A delegated prefix is behind the guest.
    let inside: Ipv6Addr = "fd77:1::77:0:0:5".parse().unwrap();
    shell(&format!("ip -n {} -6 address add {inside}/128 dev lo", here.name));
    assert_eq!(seen(&there, inside, 80), two.to_string());
    // The host is the world; the world beyond it sees the host.
    let _outside = Outside::new();
    shell(&format!(
        "ip -6 address add fd99::1/64 dev gtout nodad
         ip -n {space} -6 address add fd99::2/64 dev eth0 nodad
         ip -n {space} -6 route add default via fd99::1",
        space = Outside::SPACE
    ));
    let listener =
        within(Outside::SPACE, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 443)).unwrap());
    let _outer = Server::start(listener);
    let outer: Ipv6Addr = "fd99::2".parse().unwrap();
    assert_eq!(seen(&here, outer, 443), "fd99::1");
    assert_eq!(seen(&there, outer, 443), "fd99::1");
    assert!(within(Outside::SPACE, || call(one, 80)).is_some(), "an internet gateway lets in");
    assert_eq!(within(Outside::SPACE, || call(two, 80)), None, "egress only");
    // Routes go.
    world.vpc(VPC).route_tables = vec![table("rtb-1", &[])];
    world.apply();
    assert_eq!(here.run(|| call(two, 80)), None);
    assert_eq!(here.run(|| call(outer, 443)), None);
    // The block goes, and the addresses with it.
    world.plan.peerings.clear();
    let vpc = world.vpc(B);
    vpc.ipv6_cidrs.clear();
    vpc.subnets[0].ipv6_cidr = None;
    vpc.interfaces[0].ipv6.clear();
    vpc.route_tables = vec![table("rtb-1", &[])];
    world.apply();
    assert_eq!(there.run(|| call(outer, 443)), None);
    assert!(!shell("ip -6 route").contains("fd77:2::"));
}
