//! How long changes of a plan take, on a VPC with 100 interfaces in 20 groups.
//!
//!     cargo run -p net --example apply        (as root)

use anyhow::Result;
use base::network::{Holder, Interface, Peer, Plan, Protocol, Rule, SecurityGroup, Subnet, Vpc};
use net::{Config, Network};
use std::net::Ipv4Addr;
use std::time::Instant;

const INTERFACES: u8 = 100;
const GROUPS: u8 = 20;

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join("gureum-net-apply");
    let mut config = Config::new(directory.clone());
    config.name_prefix = "gapply".into();
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
    let mut plan = Plan { vpcs: vec![vpc()?], ..Plan::default() };
    let timed = |what: &str, network: &Network, plan: &Plan| -> Result<()> {
        let start = Instant::now();
        network.apply(plan)?;
        println!("{what:<40} {:7.1} ms", start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    };
    timed("100 interfaces, 20 groups, from nothing", &network, &plan)?;
    timed("nothing changed", &network, &plan)?;
    let port = Protocol::Tcp { from: 443, to: 443 };
    plan.vpcs[0].groups[0].ingress.push(Rule { protocol: port, peer: anywhere()? });
    timed("a rule more", &network, &plan)?;
    plan.vpcs[0].groups[0].ingress.pop();
    timed("a rule less", &network, &plan)?;
    plan.vpcs[0].interfaces[0].groups.push("sg-3".into());
    timed("a group more for an interface", &network, &plan)?;
    let gone = plan.vpcs[0].interfaces.pop();
    timed("an interface less", &network, &plan)?;
    plan.vpcs[0].interfaces.extend(gone);
    timed("an interface more", &network, &plan)?;
    drop(network);
    let network = Network::start(config.clone())?;
    timed("the next daemon adopts", &network, &plan)?;
    timed("everything goes", &network, &Plan::default())
}

fn anywhere() -> Result<Peer> {
    Ok(Peer::Cidr("0.0.0.0/0".parse()?))
}

fn vpc() -> Result<Vpc> {
    let rule = |protocol, peer| Rule { protocol, peer };
    let groups = (0..GROUPS).map(|number| {
        let port = 8000 + u16::from(number);
        Ok(SecurityGroup {
            id: format!("sg-{number}"),
            ingress: vec![
                rule(Protocol::Tcp { from: 22, to: 22 }, anywhere()?),
                rule(Protocol::Tcp { from: port, to: port }, Peer::Cidr("10.0.0.0/8".parse()?)),
                rule(Protocol::All, Peer::Group(format!("sg-{}", (number + 1) % GROUPS))),
            ],
            egress: vec![rule(Protocol::All, anywhere()?)],
        })
    });
    let interfaces = (0..INTERFACES).map(|number| Interface {
        id: format!("eni-{number}"),
        holder: Holder::Machine(format!("i-{number}")),
        secondary: Vec::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        node: None,
        subnet_id: "subnet-1".into(),
        mac: format!("0a:00:00:00:00:{number:02x}"),
        private_ip: Ipv4Addr::new(172, 31, 1, number),
        public_ip: Some(Ipv4Addr::new(100, 127, 79, number)),
        hostname: format!("ip-172-31-1-{number}.ec2.internal"),
        groups: vec![format!("sg-{}", number % GROUPS), format!("sg-{}", (number + 7) % GROUPS)],
        source_dest_check: true,
    });
    Ok(Vpc {
        id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec!["172.31.0.0/16".parse()?],
        subnets: vec![Subnet::new("subnet-1", "172.31.0.0/20".parse()?)],
        interfaces: interfaces.collect(),
        groups: groups.collect::<Result<_>>()?,
        ..Vpc::default()
    })
}
