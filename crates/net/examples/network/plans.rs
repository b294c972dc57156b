//! VPCs of several sizes.

use anyhow::Result;
use base::network::{
    AclRule, Holder, Interface, NetworkAcl, Peer, Protocol, Route, RouteTable, Rule, SecurityGroup,
    Subnet, Target, Vpc,
};

/// How much there is in a VPC beside the two machines that talk.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    interfaces: u16,
    groups: u16,
    rules: u16,
}

impl Sizes {
    pub const SMALL: Sizes = Sizes { interfaces: 0, groups: 1, rules: 2 };
    pub const LARGE: Sizes = Sizes { interfaces: 198, groups: 500, rules: 60 };
    pub const HUGE: Sizes = Sizes { interfaces: 9_998, groups: 500, rules: 60 };
}

/// The port that machines talk by.
pub const PORT: u16 = 80;

pub fn tcp(port: u16, cidr: &str) -> Result<Rule> {
    let protocol = Protocol::Tcp { from: port, to: port };
    Ok(Rule { protocol, peer: Peer::Cidr(cidr.parse()?) })
}

pub fn interface(id: &str, address: &str, subnet: &str, groups: Vec<String>) -> Interface {
    let parts: Vec<u8> = address.split('.').filter_map(|part| part.parse().ok()).collect();
    let hex: Vec<String> = parts.iter().map(|part| format!("{part:02x}")).collect();
    Interface {
        id: id.into(),
        holder: Holder::Machine(id.replace("eni-", "i-")),
        secondary: Vec::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        node: None,
        subnet_id: subnet.into(),
        mac: format!("0a:00:{}", hex.join(":")),
        private_ip: std::net::Ipv4Addr::from(<[u8; 4]>::try_from(parts).unwrap_or([0; 4])),
        public_ip: None,
        hostname: format!("ip-{}.ec2.internal", address.replace('.', "-")),
        groups,
        source_dest_check: true,
    }
}

/// Two machines, `.0.10` and `.16.10`, in two subnets with an ACL that denies something; the others
/// in a third. Every interface has five groups where there are so many, every group rules of its
/// own, a sixth of which name other groups.
pub fn vpc(id: &str, block: &str, sizes: Sizes) -> Result<Vpc> {
    let Sizes { interfaces, groups, rules } = sizes;
    let rule = |group: u16, number: u16| -> Result<Rule> {
        match number {
            0 => tcp(PORT, "0.0.0.0/0"),
            1 => tcp(22, "0.0.0.0/0"),
            _ if number % 6 == 5 => Ok(Rule {
                protocol: Protocol::Tcp { from: 1000 + number, to: 1000 + number },
                peer: Peer::Group(format!("sg-{}", (group + number) % groups)),
            }),
            _ => tcp(1000 + number, &format!("10.{}.{number}.0/24", group % 250)),
        }
    };
    let all = Rule { protocol: Protocol::All, peer: Peer::Cidr("0.0.0.0/0".parse()?) };
    let drawn = (0..groups).map(|group| {
        let ingress = (0..rules).map(|number| rule(group, number)).collect::<Result<_>>()?;
        Ok(SecurityGroup { id: format!("sg-{group}"), ingress, egress: vec![all.clone()] })
    });
    let drawn = drawn.collect::<Result<Vec<_>>>()?;
    let own = |number: u16| -> Vec<String> {
        let count = groups.min(5);
        (0..count).map(|step| format!("sg-{}", (number * 5 / 2 + step * 7) % groups)).collect()
    };
    let mut list = vec![
        interface("eni-1", &format!("{block}.0.10"), "subnet-1", own(0)),
        interface("eni-2", &format!("{block}.16.10"), "subnet-2", own(0)),
    ];
    list.extend((0..interfaces).map(|number| {
        let (high, low) = (number / 200, 10 + number % 200);
        let address = format!("{block}.{}.{low}", 128 + high);
        interface(&format!("eni-1{number:05}"), &address, "subnet-4", own(number))
    }));
    let subnet = |id: &str, cidr: &str, acl: &str| -> Result<Subnet> {
        Ok(Subnet {
            route_table: "rtb-1".into(),
            network_acl: acl.into(),
            ..Subnet::new(id, format!("{block}.{cidr}").parse()?)
        })
    };
    let out = Route { destination: "0.0.0.0/0".parse()?, target: Target::InternetGateway };
    let allow =
        AclRule { number: 100, allow: true, protocol: Protocol::All, cidr: "0.0.0.0/0".parse()? };
    let deny = AclRule { number: 90, allow: false, cidr: "10.66.0.0/16".parse()?, ..allow.clone() };
    let acl = |id: &str, rules: &[AclRule]| NetworkAcl {
        id: id.into(),
        ingress: rules.to_vec(),
        egress: rules.to_vec(),
    };
    Ok(Vpc {
        id: id.into(),
        region: "us-east-1".into(),
        cidrs: vec![format!("{block}.0.0/16").parse()?],
        internet_gateway: true,
        subnets: vec![
            subnet("subnet-1", "0.0/20", "acl-2")?,
            subnet("subnet-2", "16.0/20", "acl-2")?,
            subnet("subnet-3", "32.0/20", "acl-1")?,
            subnet("subnet-4", "128.0/17", "acl-1")?,
        ],
        route_tables: vec![RouteTable { id: "rtb-1".into(), routes: vec![out] }],
        network_acls: vec![
            acl("acl-1", std::slice::from_ref(&allow)),
            acl("acl-2", &[deny, allow]),
        ],
        interfaces: list,
        groups: drawn,
        ..Vpc::default()
    })
}
