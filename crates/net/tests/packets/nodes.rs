//! One VPC over several nodes. Each node is a namespace with its own network, behind one router.

use crate::guest::{Guest, Outcome, Server, echo, seen_as, shell, within};
use crate::world::{VPC, World, all, anywhere, prefix, subnet, table, tcp, vpc_of};
use base::network::{Fabric, Interface, Plan, Target};
use net::{Config, Network};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

const ANY: &str = "sg-00000000000000any";
const MTU: u16 = 1500;

struct Node {
    name: String,
    address: Ipv4Addr,
    config: Config,
    network: Network,
}

struct Nodes {
    list: Vec<Node>,
    world: World,
    _directory: tempfile::TempDir,
}

const SWITCH: &str = "gtswitch";

fn remove() {
    let script = format!(
        "for space in {SWITCH} gtnode0 gtnode1 gtnode2; do ip netns delete $space 2>/dev/null || true; done"
    );
    shell(&script);
}

impl Nodes {
    fn new(count: u8) -> Option<Nodes> {
        let world = World::new()?;
        remove();
        shell(&format!(
            "ip netns add {SWITCH}; ip -n {SWITCH} link set lo up
             ip netns exec {SWITCH} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'"
        ));
        let directory = tempfile::tempdir().unwrap();
        let list = (0..count).map(|number| {
            let name = format!("gtnode{number}");
            shell(&format!(
                "ip netns add {name}; ip -n {name} link set lo up
                 ip -n {SWITCH} link add node{number} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {name}
                 ip -n {SWITCH} address add 10.99.{number}.1/24 dev node{number}
                 ip -n {SWITCH} link set node{number} up
                 ip -n {name} address add 10.99.{number}.2/24 dev eth0
                 ip -n {name} link set eth0 up
                 ip -n {name} route add default via 10.99.{number}.1"
            ));
            let mut config = world.config.clone();
            config.name_prefix = format!("gtn{number}");
            config.state_dir = directory.path().join(&name);
            config.home = Some(name.clone());
            Network::destroy_all(config.clone()).unwrap();
            let network = Network::start(config.clone()).unwrap();
            Node { name, address: Ipv4Addr::new(10, 99, number, 2), config, network }
        });
        let list = list.collect();
        Some(Nodes { list, world, _directory: directory })
    }

    /// The plan as a node has it. Where an interface is follows from its `node`.
    fn plan(&self, here: &Node) -> Plan {
        let mut plan = self.world.plan.clone();
        for interface in plan.vpcs.iter_mut().flat_map(|vpc| &mut vpc.interfaces) {
            interface.node = interface.node.take().filter(|node| *node != here.name);
        }
        let others = self.list.iter().filter(|node| node.name != here.name);
        plan.fabric = Some(Fabric {
            address: here.address,
            mtu: MTU,
            nodes: others.map(|node| (node.name.clone(), node.address)).collect(),
        });
        plan
    }

    fn apply(&self) {
        for node in &self.list {
            node.network.apply(&self.plan(node)).unwrap();
        }
    }

    fn place(&mut self, node: usize, address: &str) -> Interface {
        self.world.place(VPC, address, &[ANY]);
        let interface = self.world.vpc(VPC).interfaces.last_mut().unwrap();
        interface.node = Some(self.list[node].name.clone());
        interface.clone()
    }

    fn run(&mut self, interface: &Interface) -> Guest {
        let node = self.list.iter().find(|node| Some(&node.name) == interface.node.as_ref());
        let tap = node.unwrap().network.open_tap(VPC, &interface.id).unwrap();
        let vpc = self.world.vpc(VPC);
        let subnet = vpc.subnets.iter().find(|subnet| subnet.id == interface.subnet_id).unwrap();
        let name = format!("n{:x}", u32::from(interface.private_ip));
        let guest = Guest::start_in(tap, &name, interface, subnet.cidr);
        // As DHCP tells it.
        shell(&format!("ip -n {} link set eth0 mtu {}", guest.name, MTU - 50));
        guest
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &self.list {
            let result = Network::destroy_all(node.config.clone());
            if !std::thread::panicking() {
                result.unwrap();
            }
        }
        remove();
    }
}

fn internet() -> (&'static str, Target) {
    ("0.0.0.0/0", Target::InternetGateway)
}

#[test]
fn one_vpc_over_three_nodes() {
    let Some(mut nodes) = Nodes::new(3) else { return };
    let mut vpc = vpc_of(
        VPC,
        "10.0.0.0/16",
        &[("subnet-1", "10.0.0.0/24", "rtb-1"), ("subnet-2", "10.0.1.0/24", "rtb-2")],
        &[table("rtb-1", &[internet()]), table("rtb-2", &[])],
    );
    vpc.vni = 4242;
    vpc.subnets.push(subnet("subnet-3", "10.0.2.0/24", "rtb-2"));
    nodes.world.plan.vpcs = vec![vpc];
    nodes.world.group(ANY, &[all(anywhere())], &[all(anywhere())]);
    let interfaces = [
        nodes.place(0, "10.0.0.10"),
        nodes.place(1, "10.0.0.11"),
        nodes.place(2, "10.0.1.12"),
        nodes.place(0, "10.0.1.13"),
    ];
    nodes.apply();
    let guests = interfaces.each_ref().map(|interface| nodes.run(interface));
    let _servers: Vec<Server> = guests.iter().map(|guest| guest.listen(80)).collect();
    for from in &guests {
        for to in guests.iter().filter(|to| to.address != from.address) {
            assert_eq!(seen_as(from.stream(to.address, 80)), from.address.to_string());
        }
    }
    // Larger than one packet, and every packet as large as it may be.
    let mut stream = guests[0].stream(guests[2].address, 80);
    let data: Vec<u8> = (0..200_000_u32).map(|n| n.to_be_bytes()[3]).collect();
    let mut back = vec![0; data.len()];
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&data).unwrap());
        stream.read_exact(&mut back).unwrap();
    });
    assert!(back == data);
    let names: Vec<String> =
        nodes.list.iter().map(|node| format!("{}-{VPC}", node.config.name_prefix)).collect();
    assert!(shell(&format!("ip -n {} link show type vxlan", names[0])).contains("mtu 1450"));
    // Groups are asked on both sides, by address.
    nodes.world.group(ANY, &[tcp(80, prefix("10.0.0.11/32"))], &[all(anywhere())]);
    nodes.apply();
    assert_eq!(guests[1].connect(guests[2].address, 80), Outcome::Connected);
    assert_eq!(guests[0].connect(guests[2].address, 80), Outcome::TimedOut);
    nodes.world.group(ANY, &[all(anywhere())], &[all(anywhere())]);
    nodes.apply();
    // A node that dies and starts again finds its links.
    let mut open = guests[0].stream(guests[1].address, 80);
    assert!(echo(&mut open));
    let index = |name: &str| shell(&format!("ip -n {name} -br link show type vxlan"));
    let before = index(&names[0]);
    nodes.list[0].network = Network::start(nodes.list[0].config.clone()).unwrap();
    nodes.apply();
    assert!(echo(&mut open));
    assert_eq!(before, index(&names[0]));
    // An interface moves to another node, with its address.
    let [one, two, three, four] = guests;
    drop(two);
    nodes.world.vpc(VPC).interfaces[1].node = Some(nodes.list[2].name.clone());
    nodes.apply();
    let moved = nodes.world.vpc(VPC).interfaces[1].clone();
    let moved = nodes.run(&moved);
    let _server = moved.listen(80);
    for from in [&one, &three, &four] {
        assert_eq!(from.connect(moved.address, 80), Outcome::Connected);
    }
    assert!(!echo(&mut open));
}

#[test]
fn routers_and_nat_gateways_of_other_nodes() {
    let Some(mut nodes) = Nodes::new(2) else { return };
    let mut vpc = vpc_of(
        VPC,
        "10.0.0.0/16",
        &[
            ("subnet-1", "10.0.0.0/24", "rtb-1"),
            ("subnet-2", "10.0.1.0/24", "rtb-2"),
            ("subnet-3", "10.0.2.0/24", "rtb-3"),
        ],
        &[table("rtb-1", &[internet()]), table("rtb-3", &[])],
    );
    vpc.vni = 7;
    nodes.world.plan.vpcs = vec![vpc];
    nodes.world.group(ANY, &[all(anywhere())], &[all(anywhere())]);
    let client = nodes.place(1, "10.0.1.10");
    let router = nodes.place(0, "10.0.2.20");
    nodes.world.vpc(VPC).interfaces[1].source_dest_check = false;
    let nat = nodes.world.nat_gateway(VPC, "10.0.0.50", Some(50));
    nodes.world.vpc(VPC).interfaces[2].node = Some(nodes.list[0].name.clone());
    let to = |id: &str| Target::Interface(id.into());
    let routes = [("0.0.0.0/0", to(&nat.id)), ("192.168.7.0/24", to(&router.id))];
    nodes.world.vpc(VPC).route_tables.push(table("rtb-2", &routes));
    nodes.apply();
    let (client, router) = (nodes.run(&client), nodes.run(&router));
    // What the first node knows is the outside.
    let outside = Ipv4Addr::new(198, 51, 100, 9);
    let home = nodes.list[0].name.clone();
    shell(&format!("ip -n {home} address add {outside}/32 dev lo"));
    let listener = within(&home, || TcpListener::bind((outside, 443)).unwrap());
    let _outer = Server::start(listener);
    assert_eq!(seen_as(client.stream(outside, 443)), "100.127.77.50");
    shell(&format!("ip -n {} address add 192.168.7.1/32 dev lo", router.name));
    let _behind = router.listen(80);
    let behind = Ipv4Addr::new(192, 168, 7, 1);
    assert_eq!(seen_as(client.stream(behind, 80)), client.address.to_string());
    // Who checks its destinations passes nothing on, there as here.
    nodes.world.vpc(VPC).interfaces[1].source_dest_check = true;
    nodes.apply();
    assert_eq!(client.connect(behind, 80), Outcome::TimedOut);
    assert_eq!(client.connect(outside, 443), Outcome::Connected);
}
