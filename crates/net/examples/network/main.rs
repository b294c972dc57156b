//! What the data plane costs, each as one number against a peer made in the same run.
//!
//!     cargo run --release -p net --example network -- ROW        (as root)
//!
//! | row           | number                                                                        |
//! | ---           | ---                                                                           |
//! | `throughput`  | TCP through groups and ACLs, to the same path without rules                   |
//! | `connections` | connections a second, to the same                                             |
//! | `groups`      | the smaller of both with 500 groups and 30,000 rules, to one group            |
//! | `change`      | ms from the call that changes one rule of 30,000 until a packet obeys         |
//! | `nat`         | TCP by 1:1 translation from outside, to plain routing                         |
//! | `nat-gateway` | TCP by a NAT gateway, to a masquerade by hand with as many hops               |
//! | `plan`        | ms to compile the plan of a VPC of 10,000 interfaces and compare it           |
//!
//! Guests hang on veth pairs that have the names of the taps: a tap is fed by a process, which would
//! hide the cost of the rules. The flows are of those that EC2 does not track, so every packet of
//! them asks the rules anew: the slowest case. Everything is in one namespace of its own. Rounds
//! alternate, so that a noisy neighbour meets both; the number is the median of their ratios.

#![allow(unreachable_pub, missing_debug_implementations, missing_docs)]

mod bench;
mod plans;

use anyhow::{Context, Result, bail};
use base::network::{Plan, Target};
use bench::{Bench, HOME, Measure, connections, median, ratio, shell, throughput};
use net::{Compiled, names};
use plans::{Sizes, interface, vpc};
use std::net::Ipv4Addr;
use std::time::Instant;

const ONE: &str = "vpc-1";
const OTHER: &str = "vpc-2";

fn main() -> Result<()> {
    let row = std::env::args().nth(1).context("which row? see the head of this example")?;
    if row == "plan" {
        return plan();
    }
    if let Some(code) = bench::without_disturbance(&row)? {
        std::process::exit(code);
    }
    let mut bench = Bench::new()?;
    match row.as_str() {
        "throughput" => rules(&mut bench, throughput, "MB/s"),
        "connections" => rules(&mut bench, connections, "/s"),
        "groups" => groups(&mut bench),
        "change" => change(&mut bench),
        "nat" => nat(&mut bench),
        "nat-gateway" => nat_gateway(&mut bench),
        _ => bail!("no row {row:?}"),
    }
}

/// The same VPC twice; the other one loses its rules.
fn rules(bench: &mut Bench, measure: Measure, unit: &str) -> Result<()> {
    let vpcs = [vpc(ONE, "172.31", Sizes::SMALL)?, vpc(OTHER, "172.30", Sizes::SMALL)?];
    bench.apply(&Plan { vpcs: vpcs.into(), ..Plan::default() })?;
    let one = bench.pair(ONE, "172.31.0.10", "172.31.16.10")?;
    let other = bench.pair(OTHER, "172.30.0.10", "172.30.16.10")?;
    let space = bench.space(OTHER);
    shell(&format!("ip netns exec {space} nft flush ruleset"))?;
    let ratio = ratio(&one, &other, measure, ("through the rules", "without them", unit))?;
    println!("ratio {ratio:.3}");
    Ok(())
}

fn groups(bench: &mut Bench) -> Result<()> {
    let vpcs = [vpc(ONE, "172.31", Sizes::LARGE)?, vpc(OTHER, "172.30", Sizes::SMALL)?];
    bench.apply(&Plan { vpcs: vpcs.into(), ..Plan::default() })?;
    let one = bench.pair(ONE, "172.31.0.10", "172.31.16.10")?;
    let other = bench.pair(OTHER, "172.30.0.10", "172.30.16.10")?;
    let names = ("500 groups, 30,000 rules", "one group");
    let by_bytes = ratio(&one, &other, throughput, (names.0, names.1, "MB/s"))?;
    let by_calls = ratio(&one, &other, connections, (names.0, names.1, "/s"))?;
    println!("throughput {by_bytes:.3}, connections {by_calls:.3}");
    println!("ratio {:.3}", by_bytes.min(by_calls));
    Ok(())
}

fn change(bench: &mut Bench) -> Result<()> {
    let mut plan = Plan { vpcs: vec![vpc(ONE, "172.31", Sizes::LARGE)?], ..Plan::default() };
    bench.apply(&plan)?;
    let pair = bench.pair(ONE, "172.31.0.10", "172.31.16.10")?;
    let group = plan.vpcs[0].groups.iter().position(|group| group.id == "sg-0");
    let group = group.context("no group")?;
    let mut times = Vec::new();
    for round in 0..11 {
        // A port that no rule has allowed yet.
        let port = 20_000 + round;
        let rule = plans::tcp(port, "172.31.0.0/16")?;
        anyhow::ensure!(!pair.answers(port, true)?, "it was allowed before");
        plan.vpcs[0].groups[group].ingress.push(rule);
        let start = Instant::now();
        bench.network.apply(&plan)?;
        anyhow::ensure!(pair.answers(port, false)?, "the change has no effect");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("one rule more, ms {:.1}", median(times));
    Ok(())
}

/// From a neighbour of the host: to a public address, and to the same machine's own with nothing in
/// between but routes.
fn nat(bench: &mut Bench) -> Result<()> {
    let mut vpcs = [vpc(ONE, "172.31", Sizes::SMALL)?, vpc(OTHER, "172.30", Sizes::SMALL)?];
    let public = Ipv4Addr::new(100, 127, 78, 10);
    vpcs[0].interfaces[0].public_ip = Some(public);
    bench.apply(&Plan { vpcs: vpcs.into(), ..Plan::default() })?;
    let outside = bench.outside("100.127.76.1", "100.127.76.2")?;
    let one = bench.guest(ONE, "172.31.0.10")?.called(&outside, public);
    let own = Ipv4Addr::new(172, 30, 0, 10);
    let other = bench.guest(OTHER, "172.30.0.10")?.called(&outside, own);
    let (space, link) = (bench.space(OTHER), names::host_link(bench::PREFIX, OTHER));
    let (host, uplink) = (names::HOST_ADDRESS, names::UPLINK_ADDRESS);
    shell(&format!(
        "ip netns exec {space} nft flush ruleset
         ip -n {space} route add 100.127.76.0/24 via {host} dev uplink onlink
         ip -n {HOME} route add {own}/32 via {uplink} dev {link} onlink"
    ))?;
    let ratio = ratio(&one, &other, throughput, ("by 1:1 translation", "by routes", "MB/s"))?;
    println!("ratio {ratio:.3}");
    Ok(())
}

fn nat_gateway(bench: &mut Bench) -> Result<()> {
    let mut one = vpc(ONE, "172.31", Sizes::SMALL)?;
    let gateway = interface("eni-77", "172.31.32.50", "subnet-3", Vec::new());
    let to_server = base::network::Route {
        destination: "172.31.16.0/20".parse()?,
        target: Target::Interface(gateway.id.clone()),
    };
    one.interfaces.push(base::network::Interface {
        holder: base::network::Holder::NatGateway("nat-1".into()),
        source_dest_check: false,
        ..gateway
    });
    // Not for the gateway itself.
    let of_gateway = one.route_tables[0].clone();
    one.route_tables.push(base::network::RouteTable { id: "rtb-2".into(), ..of_gateway });
    one.subnets[2].route_table = "rtb-2".into();
    one.route_tables[0].routes.push(to_server);
    bench.apply(&Plan { vpcs: vec![one], ..Plan::default() })?;
    let path = bench.pair(ONE, "172.31.0.10", "172.31.16.10")?;
    let by_hand = bench.by_hand()?;
    let names = ("by the NAT gateway", "by a masquerade by hand", "MB/s");
    let ratio = ratio(&path, &by_hand, throughput, names)?;
    println!("ratio {ratio:.3}");
    Ok(())
}

/// One interface and one rule more: how long until it is known what that means.
fn plan() -> Result<()> {
    let mut plan = Plan { vpcs: vec![vpc(ONE, "172.31", Sizes::HUGE)?], ..Plan::default() };
    let mut before = Compiled::new(&plan, "bench", &Compiled::default());
    let mut times = Vec::new();
    for round in 0..11_u16 {
        let address = format!("172.31.200.{}", 10 + round);
        let groups = vec!["sg-0".to_owned()];
        let more = interface(&format!("eni-9{round:04}"), &address, "subnet-4", groups);
        plan.vpcs[0].interfaces.push(more);
        plan.vpcs[0].groups[1].ingress.push(plans::tcp(30_000 + round, "10.0.0.0/8")?);
        let start = Instant::now();
        let compiled = Compiled::new(&plan, "bench", &before);
        let lines = compiled.difference(&before);
        times.push(start.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(0 < lines && lines < 500, "{lines} lines for an interface");
        before = compiled;
    }
    println!("10,000 interfaces, one and a rule more, ms {:.1}", median(times));
    Ok(())
}
