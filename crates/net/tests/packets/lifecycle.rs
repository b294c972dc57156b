//! Public addresses, adoption and removal.

use crate::guest::{Outcome, connect, echo, seen_as, shell};
use crate::world::{OTHER_VPC, PREFIX, VPC, World, all, anywhere, prefix, tcp, vpc};
use net::Network;
use std::net::Ipv4Addr;

const WEB: &str = "sg-0000000000000000a";

#[test]
fn public_addresses_in_out_and_around() {
    let Some(mut world) = World::new() else { return };
    world.plan.vpcs.push(vpc(OTHER_VPC));
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let _web = server.listen(80);
    let near = world.guest(VPC, 11, &[WEB]);
    let hidden = world.guest(VPC, 12, &[WEB]);
    let far = world.guest(OTHER_VPC, 13, &[WEB]);
    let address = world.public(VPC, 10);
    let near_address = world.public(VPC, 11);
    let far_address = world.public(OTHER_VPC, 13);
    world.apply();

    // From the host.
    let (stream, outcome) = connect(address, 80);
    assert_eq!(outcome, Outcome::Connected);
    let source = seen_as(stream.unwrap());
    assert!(!source.starts_with("172.31."), "{source}");
    assert_eq!(connect(address, 81).1, Outcome::TimedOut);
    // Around: the receiver sees public addresses, also from inside and from itself.
    assert_eq!(seen_as(near.stream(address, 80)), near_address.to_string());
    assert_eq!(seen_as(server.stream(address, 80)), address.to_string());
    assert_eq!(seen_as(far.stream(address, 80)), far_address.to_string());
    assert_eq!(seen_as(near.stream(server.address, 80)), near.address.to_string());
    // No public address, no way out.
    assert_eq!(hidden.connect(address, 80), Outcome::TimedOut);
    // An address of the pool that nobody has.
    assert_ne!(connect(Ipv4Addr::new(100, 127, 77, 99), 80).1, Outcome::Connected);
    // The group sees the client's own address, after translation.
    world.group(WEB, &[tcp(80, prefix(&format!("{far_address}/32")))], &[all(anywhere())]);
    world.apply();
    assert_eq!(far.connect(address, 80), Outcome::Connected);
    assert_eq!(near.connect(address, 80), Outcome::TimedOut);
    assert_eq!(connect(address, 80).1, Outcome::TimedOut);
    // The address moves to another machine.
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    world.vpc(VPC).interfaces[0].public_ip = None;
    world.vpc(VPC).interfaces[2].public_ip = Some(address);
    world.apply();
    assert_eq!(connect(address, 80).1, Outcome::Refused);
    assert_eq!(server.connect(far_address, 80), Outcome::TimedOut);
}

/// A machine of the outside world, one hop from the host.
pub struct Outside;

impl Outside {
    pub const SPACE: &str = "gtoutside";
    pub const HOST: &str = "100.127.76.1";
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 127, 76, 2);

    pub fn new() -> Outside {
        drop(Outside);
        let (space, host, address) = (Self::SPACE, Self::HOST, Self::ADDRESS);
        shell(&format!(
            "ip netns add {space}
             ip link add gtout type veth peer name eth0 netns {space}
             ip address add {host}/24 dev gtout
             ip link set gtout up
             ip -n {space} address add {address}/24 dev eth0
             ip -n {space} link set eth0 up
             ip -n {space} route add 100.127.77.0/24 via {host}"
        ));
        Outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let script = format!("ip link delete gtout; ip netns delete {}", Self::SPACE);
        let _ = std::process::Command::new("sh").args(["-c", &script]).output();
    }
}

#[test]
fn the_outside_world() {
    let Some(mut world) = World::new() else { return };
    let _outside = Outside::new();
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    let guest = world.guest(VPC, 10, &[WEB]);
    let hidden = world.guest(VPC, 11, &[WEB]);
    let address = world.public(VPC, 10);
    world.apply();
    let _web = guest.listen(80);
    let _outer = crate::guest::Server::start(crate::guest::within(Outside::SPACE, || {
        std::net::TcpListener::bind((Outside::ADDRESS, 443)).unwrap()
    }));
    // Out: in the host's name. In: as who one is.
    assert_eq!(seen_as(guest.stream(Outside::ADDRESS, 443)), Outside::HOST);
    let inward = crate::guest::within(Outside::SPACE, || connect(address, 80).0.unwrap());
    assert_eq!(seen_as(inward), Outside::ADDRESS.to_string());
    assert_eq!(hidden.connect(Outside::ADDRESS, 443), Outcome::TimedOut);
    // Private addresses are not reached from outside, even by who knows the way.
    shell(&format!("ip -n {} route add 172.31.0.0/16 via {}", Outside::SPACE, Outside::HOST));
    let link = shell("ip -br link").lines().find_map(|line| {
        line.starts_with(&format!("{PREFIX}-")).then(|| line.split('@').next().unwrap().to_owned())
    });
    let link = link.unwrap();
    shell(&format!("ip route add 172.31.0.0/16 via 169.254.255.2 dev {link} onlink"));
    let direct = crate::guest::within(Outside::SPACE, || connect(guest.address, 80).1);
    assert_ne!(direct, Outcome::Connected);
    assert_ne!(connect(guest.address, 80).1, Outcome::Connected);
}

/// A laptop without a network: the host has no address of its own.
#[test]
fn a_host_without_an_address() {
    let Some(world) = World::new() else { return };
    drop(world);
    let bare = "gtbare";
    let _ = std::process::Command::new("ip").args(["netns", "delete", bare]).output();
    shell(&format!("ip netns add {bare}; ip -n {bare} link set lo up"));
    crate::guest::within(bare, || {
        let mut world = World::new().unwrap();
        world.group(WEB, &[all(anywhere())], &[all(anywhere())]);
        let guest = world.guest(VPC, 10, &[WEB]);
        let address = world.public(VPC, 10);
        world.apply();
        let _web = guest.listen(80);
        assert_eq!(seen_as(connect(address, 80).0.unwrap()), "169.254.255.1");
        let host = Ipv4Addr::new(169, 254, 255, 1);
        let _door = std::net::TcpListener::bind((host, 8080)).unwrap();
        assert_eq!(guest.connect(host, 8080), Outcome::TimedOut, "the host is not called");
    });
    shell(&format!("ip netns delete {bare}"));
}

#[test]
fn a_namespace_that_somebody_removed_comes_back() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[all(anywhere())], &[all(anywhere())]);
    world.interface(VPC, 10, &[WEB]);
    world.public(VPC, 10);
    world.apply();
    let before = picture();
    shell(&format!("ip netns delete {PREFIX}-{VPC}"));
    world.apply();
    assert_eq!(before, picture());
    let guest = world.guest(VPC, 11, &[WEB]);
    assert_eq!(guest.connect(Ipv4Addr::new(169, 254, 169, 253), 53), Outcome::Connected);
}

#[test]
fn the_next_daemon_adopts() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[tcp(80, prefix("172.31.0.0/16"))], &[all(anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 11, &[WEB]);
    let public = world.public(VPC, 10);
    let _web = server.listen(80);
    world.apply();
    let mut open = client.stream(server.address, 80);
    assert!(echo(&mut open));
    let before = picture();
    world.restart();
    assert_eq!(before, picture());
    assert!(echo(&mut open));
    assert_eq!(client.connect(server.address, 80), Outcome::Connected);
    assert_eq!(client.connect(server.address, 22), Outcome::TimedOut);
    // What the dead daemon left and nobody wants goes.
    world.vpc(VPC).interfaces.retain(|i| i.private_ip != client.address);
    world.vpc(VPC).interfaces[0].public_ip = None;
    world.restart();
    assert!(!picture().contains(&client.address.to_string()));
    assert!(!shell("ip route").contains(&public.to_string()));
    assert!(!echo(&mut open));
}

#[test]
fn applying_again_changes_nothing() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    world.interface(VPC, 10, &[WEB]);
    world.public(VPC, 10);
    world.apply();
    let before = picture();
    world.apply();
    assert_eq!(before, picture());
    // There and back again.
    world.interface(VPC, 11, &[WEB]);
    world.plan.vpcs.push(vpc(OTHER_VPC));
    world.apply();
    assert_ne!(before, picture());
    world.vpc(VPC).interfaces.pop();
    world.plan.vpcs.pop();
    world.apply();
    assert_eq!(before, picture());
}

/// Everything in the kernel that apply may have made; counters and handles left out.
pub fn picture() -> String {
    let inside = format!(
        "for space in $(ip netns list | cut -d' ' -f1 | grep '^{PREFIX}-' | sort); do
           ip -n $space -br link | sed 's/@[^ ]*//' | awk '{{print $1, $3}}' | sort; ip -n $space -br address show lo
           ip -n $space route show table all | sed '/proto kernel/d'
           ip -n $space -6 route show table all | sed '/proto kernel/d'
           ip -n $space rule; ip -n $space -6 rule
           ip -n $space neighbour show nud permanent | sort
           ip netns exec $space nft -y -s list ruleset
         done"
    );
    let text = host() + &shell(&inside);
    // Order of declaration differs after an adoption; content must not.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What of ours the host has. Other tests may run on this machine: what is theirs comes and goes.
fn host() -> String {
    shell(&format!(
        "(ip netns list | cut -d' ' -f1; ip -br link | sed 's/@[^ ]*//'; ip route; nft list tables) |
         grep -e {PREFIX} -e 100.127.77. || true"
    ))
}

#[test]
fn destroy_leaves_nothing() {
    let Some(mut world) = World::new() else { return };
    let config = world.config.clone();
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    Network::destroy_all(config.clone()).unwrap();
    assert_eq!(host(), "");
    let before = forwarding();
    world.restart();
    world.plan.vpcs.push(vpc(OTHER_VPC));
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    let interface = world.interface(VPC, 10, &[WEB]);
    world.public(VPC, 10);
    world.apply();
    let _held = world.network.open_tap(VPC, &interface.id).unwrap();
    let _door = world.network.listen_metadata(VPC).unwrap();
    assert_eq!(forwarding(), "1\n");
    let there = host();
    for part in ["gutest-vpc-", "gutest-0000000a", "gutest-host", "100.127.77.10", "unreachable"] {
        assert!(there.contains(part), "{part} in {there}");
    }
    Network::destroy_all(config.clone()).unwrap();
    assert_eq!(host(), "");
    assert!(std::fs::read_dir(&config.state_dir).unwrap().next().is_none());
    if !shell("nft list tables ip").contains("-host") {
        assert_eq!(forwarding(), before);
    }
    // Even if the notes are gone.
    world.restart();
    std::fs::remove_file(config.state_dir.join("network.json")).unwrap();
    Network::destroy_all(config).unwrap();
    assert_eq!(host(), "");
}
