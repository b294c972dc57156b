//! What a large VPC costs: compiling 10,000 interfaces, and one rule changed among 30,000.
//!
//!     cargo run -p net --example scale        (as root for the second part)

use anyhow::Result;
use base::network::{
    AclRule, Holder, Interface, NetworkAcl, Peer, Plan, Protocol, Route, RouteTable, Rule,
    SecurityGroup, Subnet, Target, Vpc,
};
use net::ruleset::Before;
use net::surroundings::Surroundings;
use net::{Config, Network, rules};
use std::net::Ipv4Addr;
use std::time::Instant;

const RULES: u16 = 60;

fn main() -> Result<()> {
    let mut vpc = vpc(10_000, 500)?;
    let plan = Plan { vpcs: vec![vpc.clone()], ..Plan::default() };
    let around = Surroundings::of(&plan, &vpc);
    let old = rules::compile(&vpc, &around);
    vpc.groups[7].ingress.pop();
    let start = Instant::now();
    let new = rules::compile(&vpc, &around);
    let compiled = start.elapsed();
    let batch = new.batch(Before::Known(&old));
    println!(
        "10,000 interfaces: compiled in {:.1} ms, with the difference {:.1} ms ({} lines)",
        compiled.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3,
        batch.lines().count()
    );
    let directory = std::env::temp_dir().join("gureum-net-scale");
    let mut config = Config::new(directory.clone());
    config.name_prefix = "gscale".into();
    config.public_pool = "100.127.79.0/24".parse()?;
    Network::destroy_all(config.clone())?;
    let result = measure(&config);
    Network::destroy_all(config)?;
    // Only ours is in it.
    let _ = std::fs::remove_dir(&directory);
    result
}

fn measure(config: &Config) -> Result<()> {
    let network = Network::start(config.clone())?;
    let mut plan = Plan { vpcs: vec![vpc(200, 500)?], ..Plan::default() };
    let timed = |what: &str, network: &Network, plan: &Plan| -> Result<()> {
        let start = Instant::now();
        network.apply(plan)?;
        println!("{what:<40} {:7.1} ms", start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    };
    timed("200 interfaces, 30,000 rules", &network, &plan)?;
    timed("nothing changed", &network, &plan)?;
    for round in 0..3 {
        let gone = plan.vpcs[0].groups[round].ingress.pop();
        timed("a rule less", &network, &plan)?;
        plan.vpcs[0].groups[round].ingress.extend(gone);
        timed("a rule more", &network, &plan)?;
    }
    plan.vpcs[0].interfaces[0].groups[0] = "sg-499".into();
    timed("another group for an interface", &network, &plan)?;
    let deny = AclRule { number: 1, allow: false, ..open_acl()?.ingress[0].clone() };
    plan.vpcs[0].network_acls[0]
        .ingress
        .insert(0, AclRule { cidr: "10.9.0.0/16".parse()?, ..deny });
    timed("a rule more in the ACL", &network, &plan)?;
    let gone = plan.vpcs[0].interfaces.pop();
    timed("an interface less", &network, &plan)?;
    plan.vpcs[0].interfaces.extend(gone);
    timed("an interface more", &network, &plan)?;
    drop(network);
    let network = Network::start(config.clone())?;
    timed("the next daemon adopts", &network, &plan)
}

fn open_acl() -> Result<NetworkAcl> {
    let rule =
        AclRule { number: 100, allow: true, protocol: Protocol::All, cidr: "0.0.0.0/0".parse()? };
    Ok(NetworkAcl { id: "acl-1".into(), ingress: vec![rule.clone()], egress: vec![rule] })
}

/// Groups of 60 different rules; every interface has five of them.
fn vpc(interfaces: u16, groups: u16) -> Result<Vpc> {
    let rule = |group: u16, number: u16| -> Result<Rule> {
        let port = 1000 + number;
        let peer = if number % 6 == 5 {
            Peer::Group(format!("sg-{}", (group + number) % groups))
        } else {
            Peer::Cidr(format!("10.{}.{number}.0/24", group % 250).parse()?)
        };
        Ok(Rule { protocol: Protocol::Tcp { from: port, to: port }, peer })
    };
    let groups = (0..groups).map(|group| {
        let ingress = (0..RULES).map(|number| rule(group, number)).collect::<Result<_>>()?;
        let everything = Rule { protocol: Protocol::All, peer: Peer::Cidr("0.0.0.0/0".parse()?) };
        Ok(SecurityGroup { id: format!("sg-{group}"), ingress, egress: vec![everything] })
    });
    let groups = groups.collect::<Result<Vec<_>>>()?;
    let count = groups.len();
    let interfaces = (0..interfaces).map(|number| {
        let [high, low] = number.to_be_bytes();
        let own = (0..5).map(|step| (usize::from(number) * 5 / 2 + step * 7) % count);
        Interface {
            id: format!("eni-{number}"),
            holder: Holder::Machine(format!("i-{number}")),
            secondary: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            node: None,
            subnet_id: "subnet-1".into(),
            mac: format!("0a:00:00:00:{high:02x}:{low:02x}"),
            private_ip: Ipv4Addr::new(172, 31, 64 + high, low),
            public_ip: None,
            hostname: format!("ip-172-31-{}-{low}.ec2.internal", 64 + high),
            groups: own.map(|group| format!("sg-{group}")).collect(),
            source_dest_check: true,
        }
    });
    let subnet = Subnet {
        route_table: "rtb-1".into(),
        network_acl: "acl-1".into(),
        ..Subnet::new("subnet-1", "172.31.64.0/18".parse()?)
    };
    let out = Route { destination: "0.0.0.0/0".parse()?, target: Target::InternetGateway };
    Ok(Vpc {
        id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec!["172.31.0.0/16".parse()?],
        internet_gateway: true,
        subnets: vec![subnet],
        route_tables: vec![RouteTable { id: "rtb-1".into(), routes: vec![out] }],
        network_acls: vec![open_acl()?],
        interfaces: interfaces.collect(),
        groups,
        ..Vpc::default()
    })
}
