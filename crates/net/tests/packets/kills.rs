//! kill -9 of the daemon between any two steps: the next one finishes what it began.
//!
//! The daemon is this program again, told to apply a plan with tools in front of `ip`, `nft` and
//! `bridge` that count their calls and kill the caller at the one that is asked for.

use crate::guest::echo;
use crate::lifecycle::picture;
use crate::world::{OTHER_VPC, VPC, World, all, anywhere, peering, table, tcp, vpc, vpc_of};
use base::network::{
    AttachedResource, Plan, Target, TransitGateway, TransitGatewayAttachment, TransitGatewayRoute,
    TransitGatewayRouteTable,
};
use net::{Config, Network};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const WEB: &str = "sg-0000000000000000a";
const THIRD: &str = "vpc-0000000000000000c";

/// One call in so many is killed: all of them would take minutes.
const STEP: usize = 4;

/// Not a test by itself: what is killed.
#[test]
#[ignore = "is run, and killed, by another test"]
fn the_daemon() {
    let Some(directory) = env::var_os("GUREUM_NET_DAEMON") else { return };
    let directory = Path::new(&directory);
    let plan: Plan = serde_json::from_slice(&fs::read(directory.join("plan")).unwrap()).unwrap();
    let mut config = Config::new(env::var_os("GUREUM_NET_STATE").unwrap().into());
    config.name_prefix = crate::world::PREFIX.into();
    config.public_pool = "100.127.77.0/24".parse().unwrap();
    config.upstream_dns = Vec::new();
    Network::start(config).unwrap().apply(&plan).unwrap();
}

fn tools(directory: &Path) {
    for tool in ["ip", "nft", "bridge"] {
        let script = format!(
            "#!/bin/sh\n\
             cd {}\n\
             count=$(($(cat count) + 1)); echo $count > count\n\
             if [ $count = $(cat fatal) ]; then kill -9 $PPID; exit 1; fi\n\
             exec /usr/sbin/{tool} \"$@\"\n",
            directory.display()
        );
        let file = directory.join(tool);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Applies the plan in a process that dies at its `fatal`th call; whether it got that far.
fn die(world: &World, directory: &Path, fatal: usize) -> bool {
    fs::write(directory.join("plan"), serde_json::to_vec(&world.plan).unwrap()).unwrap();
    fs::write(directory.join("count"), "0").unwrap();
    fs::write(directory.join("fatal"), fatal.to_string()).unwrap();
    let path = format!("{}:{}", directory.display(), env::var("PATH").unwrap());
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "kills::the_daemon", "--ignored", "--nocapture"])
        .env("PATH", path)
        .env("GUREUM_NET_DAEMON", directory)
        .env("GUREUM_NET_STATE", &world.config.state_dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || output.status.signal() == Some(9), "{text}");
    output.status.signal() == Some(9)
}

#[test]
fn a_change_that_is_killed_anywhere_is_finished() {
    let Some(mut world) = World::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    tools(directory.path());
    // Nothing changes here, and a connection stays.
    let mut still = vpc(THIRD);
    still.subnets[0].cidr = "172.31.0.0/20".parse().unwrap();
    world.plan.vpcs.push(still);
    world.group(WEB, &[tcp(80, anywhere())], &[all(anywhere())]);
    let (client, server) = (world.guest(THIRD, 20, &[WEB]), world.guest(THIRD, 21, &[WEB]));
    let _web = server.listen(80);
    let mut open = client.stream(server.address, 80);
    world.interface(VPC, 10, &[WEB]);
    world.interface(VPC, 11, &[WEB]);
    world.public(VPC, 10);
    world.apply();
    let little = (world.plan.clone(), picture());
    grow(&mut world);
    world.apply();
    let much = (world.plan.clone(), picture());
    for (from, to) in [(&little, &much), (&much, &little)] {
        for fatal in (1..).step_by(STEP) {
            world.plan = from.0.clone();
            world.restart();
            same(&from.1, &format!("before call {fatal}"));
            // The one before ends first: the next one binds its ports.
            world.network = Network::start(world.config.clone()).unwrap();
            world.plan = to.0.clone();
            let killed = die(&world, directory.path(), fatal);
            assert!(echo(&mut open), "call {fatal} broke what did not change");
            world.restart();
            same(&to.1, &format!("killed at call {fatal}"));
            assert!(echo(&mut open));
            if !killed {
                assert!(fatal > 10, "only {fatal} calls");
                break;
            }
        }
    }
}

/// Whether the kernel holds what it should; only what differs is told.
fn same(wanted: &str, when: &str) {
    let found = picture();
    let without = |one: &str, other: &str| {
        let mut rest: Vec<&str> = other.lines().collect();
        let mut lines = one.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.retain(|line| match rest.iter().position(|other| other == line) {
            Some(place) => {
                rest.remove(place);
                false
            }
            None => true,
        });
        lines.join("\n")
    };
    let (missing, surplus) = (without(wanted, &found), without(&found, wanted));
    assert!(wanted == found, "{when}\nmissing:\n{missing}\nsurplus:\n{surplus}");
}

/// Everything that there is: another VPC, a peering connection, gateways, other groups.
fn grow(world: &mut World) {
    let tgw = || Target::TransitGateway("tgw-1".into());
    let block = "10.1.0.0/16";
    let other = vpc_of(
        OTHER_VPC,
        block,
        &[("subnet-1", "10.1.0.0/24", "rtb-1"), ("subnet-2", "10.1.1.0/24", "rtb-2")],
        &[table("rtb-1", &[("172.31.0.0/16", tgw())]), table("rtb-2", &[])],
    );
    world.plan.vpcs.push(other);
    let nat = world.nat_gateway(OTHER_VPC, "10.1.0.50", Some(50));
    world.place(OTHER_VPC, "10.1.1.10", &[WEB]);
    let routes = [("0.0.0.0/0", Target::Interface(nat.id))];
    world.vpc(OTHER_VPC).route_tables[1] = table("rtb-2", &routes);
    world.plan.peerings.push(peering("pcx-1", VPC, OTHER_VPC));
    let vpc = world.vpc(VPC);
    vpc.ipv6_cidrs = vec!["fd77::/56".parse().unwrap()];
    vpc.subnets[0].ipv6_cidr = Some("fd77::/64".parse().unwrap());
    vpc.interfaces[0].ipv6 = vec!["fd77::10".parse().unwrap()];
    vpc.interfaces.pop();
    vpc.route_tables[0] = table("rtb-1", &[(block, Target::Peering("pcx-1".into()))]);
    let attachment = |number: u8, vpc: &str| TransitGatewayAttachment {
        id: format!("tgw-attach-{number}"),
        resource: AttachedResource::Vpc { vpc_id: vpc.into(), route_table: "rtb-1".into() },
        route_table: Some("tgw-rtb-1".into()),
    };
    world.plan.transit_gateways.push(TransitGateway {
        id: "tgw-1".into(),
        attachments: vec![attachment(1, VPC), attachment(2, OTHER_VPC)],
        route_tables: vec![TransitGatewayRouteTable {
            id: "tgw-rtb-1".into(),
            routes: vec![TransitGatewayRoute {
                destination: "172.31.0.0/16".parse().unwrap(),
                attachment: Some("tgw-attach-1".into()),
            }],
        }],
    });
    for vpc in world.plan.vpcs.iter_mut().filter(|vpc| vpc.id != THIRD) {
        vpc.groups.retain(|group| group.id != WEB);
        vpc.groups.push(base::network::SecurityGroup {
            id: WEB.into(),
            ingress: vec![tcp(443, anywhere())],
            egress: vec![all(anywhere())],
        });
    }
}
