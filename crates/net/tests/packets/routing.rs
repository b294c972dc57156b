//! Route tables, NAT gateways, peering connections, transit gateways: packets go where the tables
//! lead them, and nowhere else.

use crate::guest::{Guest, Outcome, Server, connect, echo, seen_as, shell, within};
use crate::lifecycle::{Outside, picture};
use crate::world::{PREFIX, VPC, World, all, anywhere, peering, prefix, table, tcp, vpc_of};
use base::network::{
    AttachedResource, GatewayEndpoint, Holder, Target, TransitGateway, TransitGatewayAttachment,
    TransitGatewayRoute, TransitGatewayRouteTable, Vpc,
};
use std::net::{Ipv4Addr, TcpListener};

const ANY: &str = "sg-00000000000000any";
const B: &str = "vpc-0000000000000000b";
const C: &str = "vpc-0000000000000000c";

fn internet() -> (&'static str, Target) {
    ("0.0.0.0/0", Target::InternetGateway)
}

fn interface(id: &str) -> Target {
    Target::Interface(id.into())
}

/// The network of the textbooks: public, private and database subnets.
fn three_tiers() -> Vpc {
    vpc_of(
        VPC,
        "10.0.0.0/16",
        &[
            ("subnet-1", "10.0.0.0/24", "rtb-1"),
            ("subnet-2", "10.0.1.0/24", "rtb-2"),
            ("subnet-3", "10.0.2.0/24", "rtb-3"),
        ],
        &[table("rtb-1", &[internet()]), table("rtb-2", &[]), table("rtb-3", &[])],
    )
}

fn world(vpcs: Vec<Vpc>) -> Option<World> {
    let mut world = World::new()?;
    world.plan.vpcs = vpcs;
    world.group(ANY, &[all(anywhere())], &[all(anywhere())]);
    Some(world)
}

/// Routes of a drawn table, replaced.
fn draw(world: &mut World, vpc: &str, id: &str, routes: &[(&str, Target)]) {
    let tables = &mut world.vpc(vpc).route_tables;
    tables.retain(|table| table.id != id);
    tables.push(table(id, routes));
}

fn outer_server() -> Server {
    Server::start(within(Outside::SPACE, || TcpListener::bind((Outside::ADDRESS, 443)).unwrap()))
}

#[test]
fn three_tiers_nat_gateway_and_peering() {
    let other = |id: &str, block: &str, subnet: &str| {
        let tables = [table("rtb-1", &[internet()])];
        vpc_of(id, block, &[("subnet-1", subnet, "rtb-1")], &tables)
    };
    let vpcs = vec![
        three_tiers(),
        other(B, "10.1.0.0/16", "10.1.0.0/24"),
        other(C, "10.2.0.0/16", "10.2.0.0/24"),
    ];
    let Some(mut world) = world(vpcs) else { return };
    let _outside = Outside::new();
    let _outer = outer_server();
    let web = world.place(VPC, "10.0.0.10", &[ANY]);
    let app = world.place(VPC, "10.0.1.10", &[ANY]);
    let data = world.place(VPC, "10.0.2.10", &[ANY]);
    let nat = world.nat_gateway(VPC, "10.0.0.50", Some(50));
    let far = world.place(B, "10.1.0.10", &[ANY]);
    let farther = world.place(C, "10.2.0.10", &[ANY]);
    world.vpc(C).interfaces[0].public_ip = Some(Ipv4Addr::new(100, 127, 77, 60));
    world.apply();
    let [web, app, data] = [web, app, data].map(|interface| world.run(VPC, &interface));
    let (far, farther) = (world.run(B, &far), world.run(C, &farther));
    let _servers: Vec<Server> =
        [&web, &app, &data, &far, &farther].map(|guest| guest.listen(80)).into();
    let public = Ipv4Addr::new(100, 127, 77, 60);

    // Everybody in the VPC; nobody without a route beyond it.
    for (from, to) in [(&web, &app), (&app, &data), (&data, &web)] {
        assert_eq!(from.connect(to.address, 80), Outcome::Connected);
    }
    assert_eq!(app.connect(Outside::ADDRESS, 443), Outcome::TimedOut);
    assert_eq!(web.connect(far.address, 80), Outcome::TimedOut);

    // By the NAT gateway, under its address; not from outside to it.
    draw(&mut world, VPC, "rtb-2", &[("0.0.0.0/0", interface(&nat.id))]);
    world.apply();
    assert_eq!(seen_as(app.stream(Outside::ADDRESS, 443)), Outside::HOST);
    assert_eq!(seen_as(app.stream(public, 80)), "100.127.77.50");
    assert_eq!(data.connect(Outside::ADDRESS, 443), Outcome::TimedOut);
    assert_eq!(connect(Ipv4Addr::new(100, 127, 77, 50), 80).1, Outcome::TimedOut);
    assert_eq!(web.connect(nat.private_ip, 80), Outcome::TimedOut);

    // Peering: where both sides have routes, and no further.
    world.plan.peerings = vec![peering("pcx-1", VPC, B), peering("pcx-2", B, C)];
    let pcx = |id: &str| Target::Peering(id.into());
    draw(
        &mut world,
        VPC,
        "rtb-1",
        &[internet(), ("10.1.0.0/16", pcx("pcx-1")), ("10.2.0.0/16", pcx("pcx-1"))],
    );
    world.apply();
    assert_eq!(web.connect(far.address, 80), Outcome::TimedOut, "there is no way back");
    let back = [("10.0.0.0/16", pcx("pcx-1")), ("10.2.0.0/16", pcx("pcx-2"))];
    draw(&mut world, B, "rtb-1", &back);
    let back = [internet(), ("10.0.0.0/16", pcx("pcx-2")), ("10.1.0.0/16", pcx("pcx-2"))];
    draw(&mut world, C, "rtb-1", &back);
    world.apply();
    assert_eq!(seen_as(web.stream(far.address, 80)), web.address.to_string());
    assert_eq!(seen_as(far.stream(farther.address, 80)), far.address.to_string());
    assert_eq!(far.connect(web.address, 80), Outcome::Connected);
    assert_eq!(web.connect(farther.address, 80), Outcome::TimedOut, "peering is not transitive");
    assert_eq!(farther.connect(web.address, 80), Outcome::TimedOut);
    assert_eq!(data.connect(far.address, 80), Outcome::TimedOut, "no route");
    // Nor does it lead through the other's gateways.
    draw(
        &mut world,
        B,
        "rtb-1",
        &[
            ("10.0.0.0/16", pcx("pcx-1")),
            ("0.0.0.0/0", pcx("pcx-1")),
            ("10.2.0.0/16", pcx("pcx-2")),
        ],
    );
    world.apply();
    assert_eq!(far.connect(Outside::ADDRESS, 443), Outcome::TimedOut);
    assert_eq!(far.connect(web.address, 80), Outcome::Connected);

    // A group may name the other VPC's addresses; and the connection goes.
    let mut open = web.stream(far.address, 80);
    assert!(echo(&mut open));
    world.group(ANY, &[tcp(80, prefix("10.0.0.10/32"))], &[all(anywhere())]);
    world.apply();
    assert_eq!(web.connect(far.address, 80), Outcome::Connected);
    assert_eq!(farther.connect(far.address, 80), Outcome::TimedOut);
    world.plan.peerings.clear();
    world.apply();
    assert_eq!(web.connect(far.address, 80), Outcome::TimedOut);
    assert!(!picture().contains("pcx"), "{}", picture());
}

#[test]
fn a_machine_as_router() {
    let Some(mut world) = world(vec![three_tiers()]) else { return };
    let one = world.place(VPC, "10.0.0.10", &[ANY]);
    let two = world.place(VPC, "10.0.1.10", &[ANY]);
    let box_ = world.place(VPC, "10.0.2.20", &[ANY]);
    // Prefixes inside of the VPC's block lead through the machine, both ways.
    draw(&mut world, VPC, "rtb-1", &[("10.0.1.0/24", interface(&box_.id))]);
    draw(
        &mut world,
        VPC,
        "rtb-2",
        &[("10.0.0.0/24", interface(&box_.id)), ("192.168.7.0/24", interface(&box_.id))],
    );
    world.apply();
    let (one, two) = (world.run(VPC, &one), world.run(VPC, &two));
    let router = world.run(VPC, &box_);
    let _server = two.listen(80);
    shell(&format!("ip netns exec {} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'", router.name));
    assert_eq!(
        one.connect(two.address, 80),
        Outcome::TimedOut,
        "the router's destinations are checked"
    );
    world.vpc(VPC).interfaces[2].source_dest_check = false;
    world.apply();
    assert_eq!(seen_as(one.stream(two.address, 80)), one.address.to_string());
    let passed = |router: &Guest| -> u64 {
        let text = shell(&format!("ip -n {} -j -s link show eth0", router.name));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    };
    let before = passed(&router);
    let mut stream = one.stream(two.address, 80);
    assert!((0..20).all(|_| echo(&mut stream)));
    assert!(passed(&router) >= before + 40, "it went another way");
    // Addresses that are nobody's in the VPC, behind the router.
    shell(&format!("ip -n {} address add 192.168.7.1/32 dev lo", router.name));
    let _behind = router.listen(8080);
    assert_eq!(two.connect(Ipv4Addr::new(192, 168, 7, 1), 8080), Outcome::Connected);
    assert_eq!(one.connect(Ipv4Addr::new(192, 168, 7, 1), 8080), Outcome::TimedOut);
    // The router sends on what its groups allow; without it nothing passes.
    shell(&format!("ip netns exec {} sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'", router.name));
    assert_eq!(one.connect(two.address, 80), Outcome::TimedOut);
    // Within a subnet nobody asks the route table.
    let near = world.place(VPC, "10.0.1.11", &[ANY]);
    world.apply();
    let near = world.run(VPC, &near);
    assert_eq!(near.connect(two.address, 80), Outcome::Connected);
}

#[test]
fn longest_prefix_blackholes_and_nothing() {
    let mut vpc = three_tiers();
    vpc.cidrs.push("10.9.0.0/16".parse().unwrap());
    let Some(mut world) = world(vec![vpc]) else { return };
    let _outside = Outside::new();
    let _outer = outer_server();
    let web = world.place(VPC, "10.0.0.10", &[ANY]);
    world.vpc(VPC).interfaces[0].public_ip = Some(Ipv4Addr::new(100, 127, 77, 10));
    world.apply();
    let web = world.run(VPC, &web);
    let reach = |world: &mut World, routes: &[(&str, Target)]| {
        draw(world, VPC, "rtb-1", routes);
        world.apply();
        web.connect(Outside::ADDRESS, 443)
    };
    assert_eq!(reach(&mut world, &[internet()]), Outcome::Connected);
    assert_eq!(reach(&mut world, &[]), Outcome::TimedOut);
    let hole = ("100.127.76.0/24", Target::Blackhole);
    assert_eq!(reach(&mut world, &[internet(), hole.clone()]), Outcome::TimedOut);
    let longer = ("100.127.76.2/32", Target::InternetGateway);
    assert_eq!(reach(&mut world, &[internet(), hole, longer]), Outcome::Connected);
    let dead = ("100.127.76.0/24", interface("eni-0"));
    assert_eq!(reach(&mut world, &[internet(), dead]), Outcome::TimedOut);
    world.vpc(VPC).internet_gateway = false;
    assert_eq!(reach(&mut world, &[internet()]), Outcome::TimedOut, "detached");
    assert_ne!(connect(Ipv4Addr::new(100, 127, 77, 10), 80).1, Outcome::Connected);
    world.vpc(VPC).internet_gateway = true;
    assert_eq!(reach(&mut world, &[internet()]), Outcome::Connected);
    // A subnet without a table.
    world.vpc(VPC).subnets[0].route_table = "rtb-9".into();
    world.apply();
    assert_eq!(web.connect(Outside::ADDRESS, 443), Outcome::TimedOut);
}

fn attachment(number: u8, resource: AttachedResource, table: &str) -> TransitGatewayAttachment {
    TransitGatewayAttachment {
        id: format!("tgw-attach-{number}"),
        resource,
        route_table: Some(table.into()),
    }
}

fn of_vpc(id: &str, table: &str) -> AttachedResource {
    AttachedResource::Vpc { vpc_id: id.into(), route_table: table.into() }
}

fn transit_table(id: &str, routes: &[(&str, Option<u8>)]) -> TransitGatewayRouteTable {
    let routes = routes.iter().map(|(destination, number)| TransitGatewayRoute {
        destination: destination.parse().unwrap(),
        attachment: number.map(|number| format!("tgw-attach-{number}")),
    });
    TransitGatewayRouteTable { id: id.into(), routes: routes.collect() }
}

/// Two spokes that do not see each other, and the VPC by which they leave.
#[test]
fn transit_gateway_with_centralised_egress() {
    let tgw = |destination| (destination, Target::TransitGateway("tgw-1".into()));
    let spoke = |id: &str, block: &str, subnet: &str| {
        let tables = [table("rtb-1", &[("0.0.0.0/0", Target::TransitGateway("tgw-1".into()))])];
        vpc_of(id, block, &[("subnet-1", subnet, "rtb-1")], &tables)
    };
    let vpcs = vec![
        three_tiers(),
        spoke(B, "10.1.0.0/16", "10.1.0.0/24"),
        spoke(C, "10.2.0.0/16", "10.2.0.0/24"),
    ];
    let Some(mut world) = world(vpcs) else { return };
    let _outside = Outside::new();
    let _outer = outer_server();
    let nat = world.nat_gateway(VPC, "10.0.0.50", Some(50));
    let shared = world.place(VPC, "10.0.2.10", &[ANY]);
    let (one, two) = (world.place(B, "10.1.0.10", &[ANY]), world.place(C, "10.2.0.10", &[ANY]));
    // The NAT gateway's answers go back by the transit gateway; what comes from it leaves by NAT.
    draw(&mut world, VPC, "rtb-1", &[internet(), tgw("10.0.0.0/8")]);
    draw(&mut world, VPC, "rtb-2", &[("0.0.0.0/0", interface(&nat.id))]);
    draw(&mut world, VPC, "rtb-3", &[tgw("10.0.0.0/8")]);
    let spokes = [("0.0.0.0/0", Some(1)), ("10.2.0.0/16", None), ("10.1.0.0/16", None)];
    let hub = [("10.1.0.0/16", Some(2)), ("10.2.0.0/16", Some(3))];
    world.plan.transit_gateways = vec![TransitGateway {
        id: "tgw-1".into(),
        attachments: vec![
            attachment(1, of_vpc(VPC, "rtb-2"), "tgw-rtb-hub"),
            attachment(2, of_vpc(B, "rtb-1"), "tgw-rtb-spokes"),
            attachment(3, of_vpc(C, "rtb-1"), "tgw-rtb-spokes"),
        ],
        route_tables: vec![
            transit_table("tgw-rtb-spokes", &spokes),
            transit_table("tgw-rtb-hub", &hub),
        ],
    }];
    world.apply();
    let shared = world.run(VPC, &shared);
    let (one, two) = (world.run(B, &one), world.run(C, &two));
    let _servers = [&shared, &one, &two].map(|guest| guest.listen(80));
    assert_eq!(seen_as(one.stream(shared.address, 80)), one.address.to_string());
    assert_eq!(seen_as(shared.stream(two.address, 80)), shared.address.to_string());
    assert_eq!(one.connect(two.address, 80), Outcome::TimedOut, "a blackhole");
    assert_eq!(seen_as(one.stream(Outside::ADDRESS, 443)), Outside::HOST);
    assert_eq!(seen_as(two.stream(Outside::ADDRESS, 443)), Outside::HOST);
    // Propagated routes for the spokes.
    let gateway = &mut world.plan.transit_gateways[0];
    gateway.route_tables[0] = transit_table(
        "tgw-rtb-spokes",
        &[("0.0.0.0/0", Some(1)), ("10.1.0.0/16", Some(2)), ("10.2.0.0/16", Some(3))],
    );
    world.apply();
    assert_eq!(one.connect(two.address, 80), Outcome::Connected);
    // An attachment that no table is associated with.
    world.plan.transit_gateways[0].attachments[1].route_table = None;
    world.apply();
    assert_eq!(one.connect(two.address, 80), Outcome::TimedOut);
    world.plan.transit_gateways[0].attachments[1].route_table = Some("tgw-rtb-spokes".into());
    // Peered with a second one, to which the first spoke moves.
    let peer = |id: &str| AttachedResource::Peering { transit_gateway_id: id.into() };
    let gateway = &mut world.plan.transit_gateways[0];
    gateway.attachments[1] = attachment(9, peer("tgw-2"), "tgw-rtb-hub");
    gateway.route_tables = vec![
        transit_table("tgw-rtb-spokes", &[("10.1.0.0/16", Some(9))]),
        transit_table("tgw-rtb-hub", &[("10.2.0.0/16", Some(3))]),
    ];
    world.plan.transit_gateways.push(TransitGateway {
        id: "tgw-2".into(),
        attachments: vec![
            attachment(2, of_vpc(B, "rtb-1"), "tgw-rtb-all"),
            attachment(9, peer("tgw-1"), "tgw-rtb-all"),
        ],
        route_tables: vec![transit_table(
            "tgw-rtb-all",
            &[("10.1.0.0/16", Some(2)), ("10.2.0.0/16", Some(9))],
        )],
    });
    draw(&mut world, B, "rtb-1", &[("10.0.0.0/8", Target::TransitGateway("tgw-2".into()))]);
    world.apply();
    assert_eq!(seen_as(one.stream(two.address, 80)), one.address.to_string());
    assert_eq!(seen_as(two.stream(one.address, 80)), two.address.to_string());
    assert_eq!(one.connect(shared.address, 80), Outcome::TimedOut, "no route in the second");
    // Everything is found again.
    let before = picture();
    world.restart();
    assert_eq!(before, picture());
    world.plan.transit_gateways.clear();
    world.apply();
    assert_eq!(two.connect(one.address, 80), Outcome::TimedOut);
    assert!(!shell("ip netns list").contains("tgw"));
}

#[test]
fn private_nat_gateway_over_overlapping_blocks() {
    // Two VPCs with the same block meet by addresses that only one of them has twice.
    let pcx = || Target::Peering("pcx-1".into());
    let mut a = three_tiers();
    a.cidrs.push("100.64.1.0/24".parse().unwrap());
    a.subnets.push(crate::world::subnet("subnet-4", "100.64.1.0/24", "rtb-4"));
    let mut b = three_tiers();
    b.id = B.into();
    b.cidrs.push("100.64.2.0/24".parse().unwrap());
    b.subnets.push(crate::world::subnet("subnet-4", "100.64.2.0/24", "rtb-4"));
    let Some(mut world) = world(vec![a, b]) else { return };
    let client = world.place(VPC, "10.0.0.10", &[ANY]);
    let server = world.place(B, "100.64.2.10", &[ANY]);
    let twin = world.place(B, "10.0.0.10", &[ANY]);
    let nat = world.nat_gateway(VPC, "100.64.1.50", None);
    world.plan.peerings = vec![peering("pcx-1", VPC, B)];
    draw(&mut world, VPC, "rtb-1", &[("100.64.2.0/24", interface(&nat.id))]);
    draw(&mut world, VPC, "rtb-4", &[("100.64.2.0/24", pcx())]);
    draw(&mut world, B, "rtb-4", &[("100.64.1.0/24", pcx())]);
    world.apply();
    let client = world.run(VPC, &client);
    let (server, twin) = (world.run(B, &server), world.run(B, &twin));
    let _servers = [&server, &twin].map(|guest| guest.listen(80));
    assert_eq!(seen_as(client.stream(server.address, 80)), "100.64.1.50");
    assert_eq!(seen_as(twin.stream(server.address, 80)), "10.0.0.10");
    assert_eq!(client.connect(client.address, 80), Outcome::Refused, "that is itself");
    // Several addresses share the flows.
    let secondary =
        base::network::Address { private_ip: Ipv4Addr::new(100, 64, 1, 51), public_ip: None };
    let gateway = world.vpc(VPC).interfaces.iter_mut().find(|i| i.id == nat.id).unwrap();
    gateway.secondary.push(secondary);
    world.apply();
    let mut seen: Vec<String> =
        (0..8).map(|_| seen_as(client.stream(server.address, 80))).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["100.64.1.50", "100.64.1.51"]);
}

#[test]
fn endpoints_are_served_in_the_vpc() {
    let Some(mut world) = world(vec![three_tiers()]) else { return };
    let (one, two) = (world.place(VPC, "10.0.0.10", &[ANY]), world.place(VPC, "10.0.1.10", &[ANY]));
    let service = Ipv4Addr::new(198, 51, 100, 7);
    let endpoint = world.place(VPC, "10.0.2.77", &[ANY]);
    let vpc = world.vpc(VPC);
    vpc.interfaces[2].holder = Holder::Endpoint("vpce-2".into());
    vpc.gateway_endpoints = vec![GatewayEndpoint { id: "vpce-1".into(), addresses: vec![service] }];
    let to_service = ("198.51.100.0/24", Target::GatewayEndpoint("vpce-1".into()));
    draw(&mut world, VPC, "rtb-2", &[to_service]);
    world.apply();
    let (one, two) = (world.run(VPC, &one), world.run(VPC, &two));
    assert!(world.network.open_tap(VPC, &endpoint.id).is_err());
    assert!(world.network.listen_service(VPC, one.address.into(), 443).is_err());
    let listen = |address| world.network.listen_service(VPC, address, 443).unwrap();
    let _gateway = Server::start(listen(service.into()));
    let _interface = Server::start(listen(endpoint.private_ip.into()));
    assert_eq!(seen_as(two.stream(service, 443)), two.address.to_string());
    assert_eq!(one.connect(service, 443), Outcome::TimedOut, "no route");
    for guest in [&one, &two] {
        assert_eq!(seen_as(guest.stream(endpoint.private_ip, 443)), guest.address.to_string());
        assert_eq!(guest.connect(Ipv4Addr::new(169, 254, 169, 253), 53), Outcome::Connected);
    }
    // Its groups are asked.
    world.vpc(VPC).interfaces[2].groups.clear();
    world.apply();
    assert_eq!(one.connect(endpoint.private_ip, 443), Outcome::TimedOut);
}

#[test]
fn exactly_55_000_flows_of_a_nat_gateway() {
    use std::collections::BTreeSet;
    use std::net::UdpSocket;
    let Some(mut world) = world(vec![three_tiers()]) else { return };
    let (client, server) =
        (world.place(VPC, "10.0.1.10", &[ANY]), world.place(VPC, "10.0.2.10", &[ANY]));
    let nat = world.nat_gateway(VPC, "10.0.0.50", None);
    draw(&mut world, VPC, "rtb-2", &[("10.0.2.0/24", interface(&nat.id))]);
    world.apply();
    let (client, server) = (world.run(VPC, &client), world.run(VPC, &server));
    let (socket, address) =
        (server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)).unwrap()), server.address);
    socket.set_read_timeout(Some(crate::guest::PATIENCE)).unwrap();
    let mut buffer = [0; 8];
    let mut ports = BTreeSet::new();
    // Every port above the well-known ones: more flows than there may be.
    client.run(|| {
        for port in 1024..=65_535_u16 {
            let one = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            // Over the queue of a link is no flow: sent until it arrives, if its port is to have one.
            let expected = port < 1024 + 55_000;
            let arrived = (0..if expected { 200 } else { 1 }).any(|_| {
                one.send_to(b"hello", (address, 7)).unwrap();
                let wait = std::time::Duration::from_millis(if expected { 50 } else { 0 });
                if !crate::guest::readable(&socket, wait) {
                    return false;
                }
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from.ip(), nat.private_ip);
                ports.insert(from.port());
                true
            });
            assert!(arrived || !expected, "{port} of {}", ports.len());
        }
    });
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        ports.insert(from.port());
    }
    assert_eq!(ports.len(), 55_000);
    let space = format!("{PREFIX}-{}", nat.id.replace("eni-", "nat-"));
    let count =
        shell(&format!("ip netns exec {space} cat /proc/sys/net/netfilter/nf_conntrack_count"));
    assert_eq!(count.trim(), "55000");
}
