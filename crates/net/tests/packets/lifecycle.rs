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
    assert_ne!(connect(Ipv4Addr::new(198, 18, 77, 99), 80).1, Outcome::Connected);
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
    assert!(echo_fails(&mut open));
}

fn echo_fails(stream: &mut std::net::TcpStream) -> bool {
    !echo(stream)
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
fn picture() -> String {
    let script = format!(
        "ip netns list | sort; ip -br link | sort; ip route; nft list tables
         for space in $(ip netns list | cut -d' ' -f1 | grep '^{PREFIX}-' | sort); do
           ip -n $space -br link | sed 's/@[^ ]*//' | sort; ip -n $space -br address show lo
           ip -n $space route; ip -n $space neighbour show nud permanent | sort
           ip netns exec $space nft -y -s list ruleset
         done"
    );
    let text = shell(&script);
    // Order of declaration differs after an adoption; content must not.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn destroy_leaves_nothing() {
    let view = || {
        shell(
            "ip netns list; ip -br link; ip route; nft list tables; cat /proc/sys/net/ipv4/ip_forward",
        )
    };
    let Some(mut world) = World::new() else { return };
    let config = world.config.clone();
    Network::destroy_all(config.clone()).unwrap();
    let before = view();
    world.restart();
    world.plan.vpcs.push(vpc(OTHER_VPC));
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    let interface = world.interface(VPC, 10, &[WEB]);
    world.public(VPC, 10);
    world.apply();
    let _held = world.network.open_tap(VPC, &interface.id).unwrap();
    let _door = world.network.listen_metadata(VPC).unwrap();
    assert_ne!(before, view());
    Network::destroy_all(config).unwrap();
    assert_eq!(before, view());
}
