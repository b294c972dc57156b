//! Random plans: everything that a network can be drawn of, a few of each, from a seed.

use base::network::*;
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use fastrand::Rng;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the public addresses are from.
pub const POOL: [u8; 3] = [100, 127, 77];
/// The cloud's own services, behind gateway endpoints.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(POOL[0], POOL[1], POOL[2], 1);

/// Draws one plan.
pub struct Drawer {
    rng: Rng,
    count: u32,
    /// Which of several plans that stand side by side.
    slot: u16,
    public: u8,
    plan: Plan,
}

fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Cidr {
    Ipv4Cidr::containing(Ipv4Addr::new(a, b, c, d), length)
}

impl Drawer {
    /// The plan of a seed. Its ids and its public and IPv6 addresses depend on the slot, so that plans
    /// in different slots can be one; `public` counts the addresses of the pool.
    pub fn plan(seed: u64, slot: u16, public: &mut u8) -> Plan {
        let mut drawer = Drawer {
            rng: Rng::with_seed(seed),
            count: u32::from(slot) * 1000,
            slot,
            public: *public,
            plan: Plan::default(),
        };
        drawer.draw();
        *public = drawer.public;
        drawer.plan
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn id(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}-{:017x}", self.count)
    }

    fn public(&mut self) -> Ipv4Addr {
        self.public += 1;
        // The pool's first addresses are the host's.
        Ipv4Addr::new(POOL[0], POOL[1], POOL[2], 16 + self.public)
    }

    fn draw(&mut self) {
        // The third one has the addresses of the first.
        let blocks = [0, 1, if self.chance(50) { 0 } else { 2 }];
        for (index, block) in blocks.into_iter().enumerate() {
            let vpc = self.vpc(u8::try_from(index).unwrap(), block);
            self.plan.vpcs.push(vpc);
        }
        for (one, other) in [(0, 1), (1, 2)] {
            if self.chance(60) {
                let id = self.id("pcx");
                let side =
                    |vpc: &Vpc| PeeringSide { vpc_id: vpc.id.clone(), resolved_by_other: false };
                let sides = [side(&self.plan.vpcs[one]), side(&self.plan.vpcs[other])];
                self.plan.peerings.push(Peering { id, sides });
            }
        }
        if self.chance(70) {
            self.transit_gateway();
        }
        for index in 0..self.plan.vpcs.len() {
            self.groups(index);
            self.network_acls(index);
            self.route_tables(index);
        }
        if let Some(gateway) = self.plan.transit_gateways.first_mut() {
            // The attachments' route tables are known now.
            for attachment in &mut gateway.attachments {
                if let AttachedResource::Vpc { vpc_id, route_table } = &mut attachment.resource {
                    let vpc = self.plan.vpcs.iter().find(|vpc| vpc.id == *vpc_id).unwrap();
                    *route_table = vpc.route_tables.last().unwrap().id.clone();
                }
            }
        }
    }

    fn vpc(&mut self, index: u8, block: u8) -> Vpc {
        let six = self.chance(60);
        let group_ids: Vec<String> = (0..3).map(|_| self.id("sg")).collect();
        let mut vpc = Vpc {
            id: self.id("vpc"),
            region: "us-east-1".into(),
            cidrs: vec![v4(10, block, 0, 0, 16)],
            ipv6_cidrs: Vec::new(),
            vni: u32::from(index) + 1,
            internet_gateway: self.chance(75),
            ..Vpc::default()
        };
        let block_of_vpc = 3 * self.slot + u16::from(index);
        let six_block =
            |subnet: u16| Ipv6Addr::new(0x2001, 0xdb8, block_of_vpc, subnet, 0, 0, 0, 0);
        if six {
            vpc.ipv6_cidrs.push(Ipv6Cidr::containing(six_block(0), 56));
        }
        for number in 0..2_u8 {
            let mut subnet = Subnet::new(self.id("subnet"), v4(10, block, number, 0, 24));
            if six && self.chance(80) {
                subnet.ipv6_cidr = Some(Ipv6Cidr::containing(six_block(u16::from(number)), 64));
            }
            let machines = self.rng.u8(1..=2);
            for host in 0..machines {
                let holder = Holder::Machine(self.id("i"));
                let interface = self.interface(&subnet, holder, 10 + host, &group_ids);
                vpc.interfaces.push(interface);
            }
            if self.chance(55) {
                let holder = Holder::NatGateway(self.id("nat"));
                let mut interface = self.interface(&subnet, holder, 200, &[]);
                interface.source_dest_check = false;
                interface.ipv6.clear();
                interface.public_ip = self.chance(80).then(|| self.public());
                vpc.interfaces.push(interface);
            }
            if self.chance(15) {
                let holder = Holder::Endpoint(self.id("vpce"));
                let mut interface = self.interface(&subnet, holder, 100, &group_ids);
                interface.ipv6.clear();
                interface.public_ip = None;
                interface.source_dest_check = true;
                vpc.interfaces.push(interface);
            }
            vpc.subnets.push(subnet);
        }
        if self.chance(40) {
            let id = self.id("vpce");
            vpc.gateway_endpoints.push(GatewayEndpoint { id, addresses: vec![SERVICE] });
        }
        let id = self.id("pl");
        let cidrs =
            vec![v4(10, block, 1, 0, 24).into(), v4(POOL[0], POOL[1], POOL[2], 128, 25).into()];
        vpc.prefix_lists.push(PrefixList { id, cidrs });
        let empty = |id: String| SecurityGroup { id, ingress: Vec::new(), egress: Vec::new() };
        vpc.groups = group_ids.into_iter().map(empty).collect();
        vpc
    }

    fn interface(
        &mut self,
        subnet: &Subnet,
        holder: Holder,
        host: u8,
        group_ids: &[String],
    ) -> Interface {
        let id = self.id("eni");
        let private_ip = subnet.cidr.nth(u64::from(host)).unwrap();
        let mut groups = Vec::new();
        for group in group_ids {
            if self.chance(40) {
                groups.push(group.clone());
            }
        }
        if groups.is_empty() {
            groups.extend(group_ids.first().cloned());
        }
        let octets = private_ip.octets();
        let six = subnet.ipv6_cidr.and_then(|cidr| cidr.nth(u128::from(host)));
        Interface {
            id,
            mac: format!("0a:00:00:{:02x}:{:02x}:{:02x}", octets[1], octets[2], octets[3]),
            hostname: format!("ip-{}.ec2.internal", private_ip.to_string().replace('.', "-")),
            holder,
            subnet_id: subnet.id.clone(),
            private_ip,
            public_ip: self.chance(50).then(|| self.public()),
            secondary: if self.chance(15) {
                let private_ip = subnet.cidr.nth(u64::from(host) + 40).unwrap();
                let public_ip = self.chance(50).then(|| self.public());
                vec![Address { private_ip, public_ip }]
            } else {
                Vec::new()
            },
            prefixes: Vec::new(),
            ipv6: six.into_iter().filter(|_| self.chance(80)).collect(),
            ipv6_prefixes: Vec::new(),
            groups,
            source_dest_check: self.chance(70),
            node: None,
        }
    }

    fn protocol(&mut self) -> Protocol {
        match self.rng.u8(0..12) {
            0..=3 => Protocol::All,
            4 | 5 => Protocol::Tcp { from: 80, to: 80 },
            6 => Protocol::Tcp { from: 0, to: u16::MAX },
            7 => Protocol::Udp { from: 53, to: 54 },
            8 => Protocol::Icmp { kind: Some(8), code: None },
            9 => Protocol::Icmpv6 { kind: None, code: None },
            10 => Protocol::Number(6),
            _ => Protocol::Number(17),
        }
    }

    fn cidr(&mut self, index: usize) -> Cidr {
        let anywhere = [v4(0, 0, 0, 0, 0).into(), "::/0".parse().unwrap()];
        let vpc = &self.plan.vpcs[index];
        let other = &self.plan.vpcs[(index + 1) % self.plan.vpcs.len()];
        let own = vpc.cidrs[0].into();
        let near: Cidr = vpc.subnets[0].cidr.into();
        let next: Cidr = other.cidrs[0].into();
        match self.rng.u8(0..10) {
            0..=2 => anywhere[0],
            3 | 4 => anywhere[1],
            5 => own,
            6 => near,
            7 => v4(POOL[0], POOL[1], POOL[2], 0, 25).into(),
            8 => v4(10, 0, 0, 0, 8).into(),
            _ => next,
        }
    }

    fn groups(&mut self, index: usize) {
        let ids: Vec<String> =
            self.plan.vpcs[index].groups.iter().map(|group| group.id.clone()).collect();
        let list = self.plan.vpcs[index].prefix_lists[0].id.clone();
        // A group of a peered VPC, by the addresses of its members.
        let vpc_id = self.plan.vpcs[index].id.clone();
        let peer = self.plan.peerings.iter().find_map(|peering| {
            let there = peering.sides.iter().any(|side| side.vpc_id == vpc_id);
            let side = peering.sides.iter().find(|side| side.vpc_id != vpc_id)?;
            there.then(|| side.vpc_id.clone())
        });
        let abroad = peer.map(|peer| {
            let vpc = self.plan.vpcs.iter().find(|vpc| vpc.id == peer).unwrap();
            let id = vpc.groups[0].id.clone();
            let members = vpc.interfaces.iter().filter(|i| i.groups.contains(&id)).flat_map(|i| {
                let four = i.addresses().map(|a| IpAddr::V4(a.private_ip)).collect::<Vec<_>>();
                four.into_iter().chain(i.ipv6.iter().map(|a| IpAddr::V6(*a)))
            });
            PeerGroup { members: members.collect(), id }
        });
        for id in &ids {
            let mut rules = |few: u8| -> Vec<Rule> {
                let count = self.rng.u8(0..=few);
                (0..count)
                    .map(|_| {
                        let protocol = self.protocol();
                        let peer = match (self.rng.u8(0..10), &abroad) {
                            (0 | 1, _) => Peer::Group(self.rng.choice(&ids).unwrap().clone()),
                            (2, Some(group)) => Peer::Group(group.id.clone()),
                            (3, _) => Peer::PrefixList(list.clone()),
                            _ => Peer::Cidr(self.cidr(index)),
                        };
                        Rule { protocol, peer }
                    })
                    .collect()
            };
            let (ingress, mut egress) = (rules(4), rules(2));
            if self.chance(60) {
                let everywhere = ["0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap());
                let all = |cidr| Rule { protocol: Protocol::All, peer: Peer::Cidr(cidr) };
                egress.extend(everywhere.map(all));
            }
            let groups = &mut self.plan.vpcs[index].groups;
            let group = groups.iter_mut().find(|group| group.id == *id).unwrap();
            (group.ingress, group.egress) = (ingress, egress);
        }
        self.plan.vpcs[index].peer_groups.extend(abroad);
    }

    fn network_acls(&mut self, index: usize) {
        for subnet in 0..self.plan.vpcs[index].subnets.len() {
            let mut acl = NetworkAcl { id: self.id("acl"), ..NetworkAcl::default() };
            let odd = self.chance(45);
            for direction in [true, false] {
                let mut rules = Vec::new();
                for number in 1..=self.rng.u16(0..4) {
                    if odd {
                        let (protocol, cidr) = (self.protocol(), self.cidr(index));
                        // The ephemeral ports, which answers need.
                        let protocol = if self.chance(30) {
                            Protocol::Tcp { from: 1024, to: u16::MAX }
                        } else {
                            protocol
                        };
                        let allow = self.chance(65);
                        rules.push(AclRule { number: number * 10, allow, protocol, cidr });
                    }
                }
                if !odd || self.chance(60) {
                    for (number, text) in [(100, "0.0.0.0/0"), (101, "::/0")] {
                        let cidr = text.parse().unwrap();
                        rules.push(AclRule { number, allow: true, protocol: Protocol::All, cidr });
                    }
                }
                if direction { acl.ingress = rules } else { acl.egress = rules }
            }
            let vpc = &mut self.plan.vpcs[index];
            vpc.subnets[subnet].network_acl.clone_from(&acl.id);
            vpc.network_acls.push(acl);
        }
    }

    /// Something in the VPC that packets can be sent to.
    fn target(&mut self, index: usize, six: bool) -> Option<Target> {
        let vpc = &self.plan.vpcs[index];
        let forwarders: Vec<&Interface> = vpc
            .interfaces
            .iter()
            .filter(|i| !i.source_dest_check && (!six || i.instance_id().is_some()))
            .collect();
        let forwarder = self.rng.choice(&forwarders).map(|i| Target::Interface(i.id.clone()));
        let (gateway, connected) = (vpc.internet_gateway, self.peering(index));
        let attached = self.plan.transit_gateways.first().map(|gateway| gateway.id.clone());
        match self.rng.u8(0..10) {
            0..=2 if gateway => Some(Target::InternetGateway),
            3 if six && gateway => Some(Target::EgressOnlyInternetGateway),
            0..=4 => forwarder.or_else(|| attached.map(Target::TransitGateway)),
            5 | 6 => attached.map(Target::TransitGateway),
            7 => connected.map(Target::Peering),
            8 => forwarder,
            _ => Some(Target::Blackhole),
        }
    }

    fn peering(&self, index: usize) -> Option<String> {
        let id = &self.plan.vpcs[index].id;
        let mut peerings = self.plan.peerings.iter();
        let peering = peerings.find(|p| p.sides.iter().any(|side| side.vpc_id == *id))?;
        Some(peering.id.clone())
    }

    fn route_tables(&mut self, index: usize) {
        for subnet in 0..self.plan.vpcs[index].subnets.len() {
            let mut routes = std::collections::BTreeMap::new();
            for (text, six) in [("0.0.0.0/0", false), ("::/0", true)] {
                if self.chance(85)
                    && let Some(target) = self.target(index, six)
                {
                    routes.insert(text.parse().unwrap(), target);
                }
            }
            for other in 0..self.plan.vpcs.len() {
                let vpc = &self.plan.vpcs[other];
                let blocks = [
                    vpc.cidrs.first().map(|c| Cidr::V4(*c)),
                    vpc.ipv6_cidrs.first().map(|c| Cidr::V6(*c)),
                ];
                let own = other == index;
                for block in blocks.into_iter().flatten() {
                    let overlap =
                        !own && self.plan.vpcs[index].cidrs.iter().any(|c| Cidr::V4(*c) == block);
                    if own || overlap || !self.chance(75) {
                        continue;
                    }
                    let between = self.plan.peerings.iter().find(|peering| {
                        [index, other].iter().all(|at| {
                            let id = &self.plan.vpcs[*at].id;
                            peering.sides.iter().any(|side| side.vpc_id == *id)
                        })
                    });
                    let between = between.map(|peering| Target::Peering(peering.id.clone()));
                    let transit = self.plan.transit_gateways.first();
                    let transit = transit.map(|t| Target::TransitGateway(t.id.clone()));
                    let target = if self.chance(60) { between.or(transit) } else { transit };
                    if let Some(target) = target {
                        routes.insert(block, target);
                    }
                }
            }
            // A machine in the way to another subnet.
            if self.chance(15) {
                let vpc = &self.plan.vpcs[index];
                let forwarder = vpc
                    .interfaces
                    .iter()
                    .find(|i| i.instance_id().is_some() && !i.source_dest_check);
                let forwarder = forwarder.map(|i| Target::Interface(i.id.clone()));
                let block = Cidr::V4(vpc.subnets[1 - subnet].cidr);
                routes.extend(forwarder.map(|target| (block, target)));
            }
            if let Some(endpoint) = self.plan.vpcs[index].gateway_endpoints.first() {
                let target = Target::GatewayEndpoint(endpoint.id.clone());
                routes.insert(Ipv4Cidr::containing(SERVICE, 32).into(), target);
            }
            let id = self.id("rtb");
            let routes = routes.into_iter();
            let routes =
                routes.map(|(destination, target)| Route { destination, target }).collect();
            let vpc = &mut self.plan.vpcs[index];
            vpc.subnets[subnet].route_table.clone_from(&id);
            vpc.route_tables.push(RouteTable { id, routes });
        }
    }

    fn transit_gateway(&mut self) {
        let id = self.id("tgw");
        let tables = [self.id("tgw-rtb"), self.id("tgw-rtb")];
        let mut attachments = Vec::new();
        for index in 0..self.plan.vpcs.len() {
            let route_table = match self.rng.u8(0..8) {
                0 => None,
                1 | 2 => Some(tables[1].clone()),
                _ => Some(tables[0].clone()),
            };
            attachments.push(TransitGatewayAttachment {
                id: self.id("tgw-attach"),
                resource: AttachedResource::Vpc {
                    vpc_id: self.plan.vpcs[index].id.clone(),
                    route_table: String::new(),
                },
                route_table,
            });
        }
        let mut route_tables = Vec::new();
        for table in tables {
            let mut routes = std::collections::BTreeMap::new();
            for (vpc, attachment) in self.plan.vpcs.iter().zip(&attachments) {
                let blocks = vpc.cidrs.iter().map(|c| Cidr::V4(*c));
                for block in blocks.chain(vpc.ipv6_cidrs.iter().map(|c| Cidr::V6(*c))) {
                    if self.rng.u32(0..100) < 80 {
                        routes.insert(block, Some(attachment.id.clone()));
                    }
                }
            }
            if self.rng.u32(0..100) < 40 {
                let egress = self.rng.choice(&attachments).map(|a| a.id.clone());
                routes.insert("0.0.0.0/0".parse().unwrap(), egress);
            }
            if self.rng.u32(0..100) < 20 {
                routes.insert(v4(10, 1, 1, 0, 24).into(), None);
            }
            let routes = routes
                .into_iter()
                .map(|(destination, attachment)| TransitGatewayRoute { destination, attachment });
            route_tables.push(TransitGatewayRouteTable { id: table, routes: routes.collect() });
        }
        self.plan.transit_gateways.push(TransitGateway { id, attachments, route_tables });
    }
}
