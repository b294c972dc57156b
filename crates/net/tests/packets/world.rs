//! A network of its own for one test: names, pool, plan, guests; and nothing left after it.

use crate::guest::Guest;
use base::Ipv4Cidr;
use base::network::{
    AclRule, Holder, Interface, NetworkAcl, Peer, Peering, PeeringSide, Plan, Protocol, Route,
    RouteTable, Rule, SecurityGroup, Subnet, Target, Vpc,
};
use net::{Config, Network};
use std::fs::File;
use std::net::Ipv4Addr;

/// The prefix of every test: tests take turns.
pub const PREFIX: &str = "gutest";
pub const VPC: &str = "vpc-0000000000000000a";
pub const OTHER_VPC: &str = "vpc-0000000000000000b";

pub struct World {
    pub network: Network,
    pub plan: Plan,
    pub config: Config,
    _directory: tempfile::TempDir,
    _turn: File,
}

impl World {
    /// A network with one empty VPC 172.31.0.0/16; `None` where tests may not touch the kernel.
    pub fn new() -> Option<World> {
        if std::env::var_os("GUREUM_PRIVILEGED_TESTS").is_none_or(|value| value != "1") {
            eprintln!("skipped: set GUREUM_PRIVILEGED_TESTS=1 and run as root");
            return None;
        }
        let turn = File::create("/tmp/gureum-net-tests.lock").unwrap();
        rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path().to_owned());
        config.name_prefix = PREFIX.into();
        config.public_pool = "100.127.77.0/24".parse().unwrap();
        config.upstream_dns = Vec::new();
        Network::destroy_all(config.clone()).unwrap();
        let network = Network::start(config.clone()).unwrap();
        let plan = Plan { vpcs: vec![vpc(VPC)], ..Plan::default() };
        let world = World { network, plan, config, _directory: directory, _turn: turn };
        world.apply();
        Some(world)
    }

    pub fn apply(&self) {
        self.network.apply(&self.plan).unwrap();
    }

    /// A daemon's death and the start of the next one.
    pub fn restart(&mut self) {
        // The old one ends before the new one binds.
        self.network = Network::start(self.config.clone()).unwrap();
        self.apply();
    }

    pub fn group(&mut self, id: &str, ingress: &[Rule], egress: &[Rule]) {
        for vpc in &mut self.plan.vpcs {
            vpc.groups.retain(|group| group.id != id);
            vpc.groups.push(SecurityGroup {
                id: id.into(),
                ingress: ingress.to_vec(),
                egress: egress.to_vec(),
            });
        }
    }

    /// Adds an interface 172.31.0.`number` to a VPC, without a guest.
    pub fn interface(&mut self, vpc_id: &str, number: u8, groups: &[&str]) -> Interface {
        let interface = Interface {
            id: format!("eni-{number:017x}"),
            holder: Holder::Machine(format!("i-{number:017x}")),
            secondary: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            node: None,
            subnet_id: "subnet-1".into(),
            mac: format!("0a:00:00:00:00:{number:02x}"),
            private_ip: Ipv4Addr::new(172, 31, 0, number),
            public_ip: None,
            hostname: format!("ip-172-31-0-{number}.ec2.internal"),
            groups: groups.iter().map(|id| (*id).into()).collect(),
            source_dest_check: true,
        };
        self.vpc(vpc_id).interfaces.push(interface.clone());
        interface
    }

    pub fn vpc(&mut self, id: &str) -> &mut Vpc {
        self.plan.vpcs.iter_mut().find(|vpc| vpc.id == id).unwrap()
    }

    pub fn public(&mut self, vpc_id: &str, number: u8) -> Ipv4Addr {
        let address = Ipv4Addr::new(100, 127, 77, number);
        let interfaces = &mut self.vpc(vpc_id).interfaces;
        let private = Ipv4Addr::new(172, 31, 0, number);
        interfaces.iter_mut().find(|i| i.private_ip == private).unwrap().public_ip = Some(address);
        address
    }

    /// Adds an interface at an address of any subnet, without a guest. Its id ends in the address.
    pub fn place(&mut self, vpc_id: &str, address: &str, groups: &[&str]) -> Interface {
        let template = self.interface(vpc_id, 0, groups);
        let address: Ipv4Addr = address.parse().unwrap();
        let digits = u32::from(address);
        let vpc = self.vpc(vpc_id);
        vpc.interfaces.pop();
        let subnet = vpc.subnets.iter().find(|subnet| subnet.cidr.contains(address)).unwrap();
        let letter = &vpc_id[vpc_id.len() - 1..];
        let interface = Interface {
            id: format!("eni-{letter}{digits:016x}"),
            holder: Holder::Machine(format!("i-{letter}{digits:016x}")),
            subnet_id: subnet.id.clone(),
            mac: format!(
                "0a:0{letter}:{:02x}:{:02x}:{:02x}:{:02x}",
                digits >> 24,
                digits >> 16 & 255,
                digits >> 8 & 255,
                digits & 255
            ),
            private_ip: address,
            ..template
        };
        vpc.interfaces.push(interface.clone());
        interface
    }

    /// The same as a NAT gateway.
    pub fn nat_gateway(&mut self, vpc_id: &str, address: &str, public: Option<u8>) -> Interface {
        let id = self.place(vpc_id, address, &[]).id;
        let interface = self.vpc(vpc_id).interfaces.last_mut().unwrap();
        interface.holder = Holder::NatGateway(id.replace("eni-", "nat-"));
        interface.source_dest_check = false;
        interface.public_ip = public.map(|number| Ipv4Addr::new(100, 127, 77, number));
        interface.clone()
    }

    /// A running guest behind an interface of the applied plan.
    pub fn run(&mut self, vpc_id: &str, interface: &Interface) -> Guest {
        let tap = self.network.open_tap(vpc_id, &interface.id).unwrap();
        let vpc = self.vpc(vpc_id);
        let subnet = vpc.subnets.iter().find(|subnet| subnet.id == interface.subnet_id).unwrap();
        let name = format!("{}{:x}", &vpc_id[vpc_id.len() - 1..], u32::from(interface.private_ip));
        Guest::start_in(tap, &name, interface, subnet.cidr)
    }

    /// Adds an interface and, after applying, a running guest behind it.
    pub fn guest(&mut self, vpc_id: &str, number: u8, groups: &[&str]) -> Guest {
        let interface = self.interface(vpc_id, number, groups);
        self.apply();
        let tap = self.network.open_tap(vpc_id, &interface.id).unwrap();
        Guest::start(tap, &format!("{}{number}", &vpc_id[vpc_id.len() - 1..]), &interface)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let result = Network::destroy_all(self.config.clone());
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

pub fn vpc(id: &str) -> Vpc {
    Vpc {
        id: id.into(),
        region: "us-east-1".into(),
        cidrs: vec!["172.31.0.0/16".parse().unwrap()],
        internet_gateway: true,
        subnets: vec![subnet("subnet-1", "172.31.0.0/20", "rtb-1")],
        route_tables: vec![table("rtb-1", &[("0.0.0.0/0", Target::InternetGateway)])],
        network_acls: vec![open_acl()],
        ..Vpc::default()
    }
}

/// A subnet whose ACL lets everything pass.
pub fn subnet(id: &str, cidr: &str, route_table: &str) -> Subnet {
    Subnet {
        route_table: route_table.into(),
        network_acl: "acl-1".into(),
        ..Subnet::new(id, cidr.parse().unwrap())
    }
}

pub fn table(id: &str, routes: &[(&str, Target)]) -> RouteTable {
    let routes = routes.iter().map(|(destination, target)| Route {
        destination: destination.parse().unwrap(),
        target: target.clone(),
    });
    RouteTable { id: id.into(), routes: routes.collect() }
}

/// The default ACL of a VPC.
pub fn open_acl() -> NetworkAcl {
    let rules = [("0.0.0.0/0", 100), ("::/0", 101)].map(|(cidr, number)| AclRule {
        number,
        allow: true,
        protocol: Protocol::All,
        cidr: cidr.parse().unwrap(),
    });
    NetworkAcl { id: "acl-1".into(), ingress: rules.to_vec(), egress: rules.to_vec() }
}

/// A VPC with an internet gateway and subnets: id, block, route table.
pub fn vpc_of(id: &str, block: &str, subnets: &[(&str, &str, &str)], tables: &[RouteTable]) -> Vpc {
    Vpc {
        cidrs: vec![block.parse().unwrap()],
        subnets: subnets.iter().map(|(id, cidr, table)| subnet(id, cidr, table)).collect(),
        route_tables: tables.to_vec(),
        ..vpc(id)
    }
}

pub fn peering(id: &str, one: &str, other: &str) -> Peering {
    let side = |vpc: &str| PeeringSide { vpc_id: vpc.into(), resolved_by_other: false };
    Peering { id: id.into(), sides: [side(one), side(other)] }
}

pub fn anywhere() -> Peer {
    Peer::Cidr(Ipv4Cidr::containing(Ipv4Addr::UNSPECIFIED, 0).into())
}

pub fn prefix(text: &str) -> Peer {
    Peer::Cidr(text.parse().unwrap())
}

pub fn all(peer: Peer) -> Rule {
    Rule { protocol: Protocol::All, peer }
}

pub fn tcp(port: u16, peer: Peer) -> Rule {
    Rule { protocol: Protocol::Tcp { from: port, to: port }, peer }
}

pub fn udp(port: u16, peer: Peer) -> Rule {
    Rule { protocol: Protocol::Udp { from: port, to: port }, peer }
}
