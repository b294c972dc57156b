use super::{Records, compile, run, work_key};
use crate::record::{
    Instance, InstanceState, Interface, InterfaceAttachment, MetadataOptions, RulePeer,
    SecurityGroup, SecurityGroupRule, Subnet, Tags, Vpc, key,
};
use crate::testing::{ACCOUNT, Region};
use base::network::{Peer, Plan, Protocol, Rule};
use base::{Ipv4Cidr, Timestamp};
use std::fmt::Write as _;
use std::sync::Arc;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/plans/network.txt");

const NOW: Timestamp = Timestamp(1_795_255_223_000);

fn instance(id: &str, state: InstanceState) -> Instance {
    Instance {
        v: 1,
        id: id.to_owned(),
        reservation_id: "r-1".to_owned(),
        launch_index: 0,
        image_id: "ami-1".to_owned(),
        image_key: "micro".to_owned(),
        architecture: "x86_64".to_owned(),
        instance_type: "t3.micro".to_owned(),
        key_name: None,
        public_key: None,
        availability_zone: "us-east-1a".to_owned(),
        subnet_id: "subnet-1".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        private_ip: [172, 31, 5, 7].into(),
        wants_public_ip: true,
        public_ip: None,
        interface_id: "eni-1".to_owned(),
        more_interfaces: Vec::new(),
        name_options: Default::default(),
        volumes: Vec::new(),
        ephemeral: Vec::new(),
        root_device_name: "/dev/xvda".to_owned(),
        user_data: None,
        state,
        start: 1,
        reboots: 0,
        force_stop: false,
        launched: NOW,
        created: NOW,
        state_changed: NOW,
        state_reason: None,
        transition_reason: String::new(),
        reachable: None,
        terminate_on_shutdown: false,
        disable_api_termination: false,
        disable_api_stop: false,
        ebs_optimized: false,
        monitoring: false,
        source_dest_check: true,
        metadata_options: MetadataOptions {
            tokens_required: false,
            hop_limit: 1,
            enabled: true,
            tags: false,
        },
        client_token: None,
        cpu_credits: None,
        tags: Tags::new(),
        kept: Default::default(),
    }
}

fn state(name: &str) -> InstanceState {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).unwrap()
}

fn vpc(id: &str, cidr: &str) -> Vpc {
    Vpc {
        v: 1,
        id: id.to_owned(),
        cidr: cidr.parse().unwrap(),
        is_default: false,
        dns_support: true,
        dns_hostnames: true,
        dhcp_options_id: "dopt-1".to_owned(),
        cidr_association_id: "vpc-cidr-assoc-1".to_owned(),
        address_usage_metrics: false,
        secondary_cidrs: Vec::new(),
        ipv6_cidrs: Vec::new(),
        default_group_id: "sg-default".to_owned(),
        main_route_table_id: format!("rtb-{}", &id[4..]),
        default_network_acl_id: format!("acl-{}", &id[4..]),
        internet_gateway_id: None,
        tags: Tags::new(),
    }
}

fn subnet(id: &str, vpc_id: &str, cidr: &str) -> Subnet {
    Subnet {
        v: 1,
        id: id.to_owned(),
        vpc_id: vpc_id.to_owned(),
        cidr: cidr.parse().unwrap(),
        availability_zone: "us-east-1a".to_owned(),
        default_for_az: false,
        map_public_ip_on_launch: true,
        ipv6_cidr: None,
        assign_ipv6_address_on_creation: false,
        name_options: Default::default(),
        route_table_id: None,
        network_acl_id: format!("acl-{}", &vpc_id[4..]),
        reservations: Vec::new(),
        tags: Tags::new(),
    }
}

/// `interface ID INSTANCE VPC SUBNET PRIVATE PUBLIC GROUPS [unchecked]`
fn interface(words: &[&str]) -> Interface {
    let number = words[1].trim_start_matches("eni-");
    Interface {
        v: 1,
        id: words[1].to_owned(),
        subnet_id: words[4].to_owned(),
        vpc_id: words[3].to_owned(),
        availability_zone: "us-east-1a".to_owned(),
        description: String::new(),
        mac: format!("0a:00:00:00:00:0{number}"),
        private_ip: words[5].parse().unwrap(),
        public_ip: words[6].parse().ok(),
        elastic: None,
        secondary: Vec::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        primary_ipv6: false,
        kind: Default::default(),
        groups: words[7].split(',').map(str::to_owned).collect(),
        source_dest_check: words.get(8) != Some(&"unchecked"),
        attachment: (words[2] != "-").then(|| InterfaceAttachment {
            id: format!("eni-attach-{number}"),
            instance_id: words[2].to_owned(),
            device_index: 0,
            delete_on_termination: true,
            attached: NOW,
            state: Default::default(),
            forced: false,
        }),
        detached: None,
        tags: Tags::new(),
    }
}

/// `in|out PROTOCOL FROM TO PEER`
fn rule(words: &[&str]) -> SecurityGroupRule {
    let peer = match words[4] {
        group if group.starts_with("sg-") => RulePeer::Group(group.to_owned()),
        ipv6 if ipv6.contains(':') => RulePeer::Ipv6(ipv6.parse().unwrap()),
        ipv4 => RulePeer::Ipv4(ipv4.parse::<Ipv4Cidr>().unwrap()),
    };
    SecurityGroupRule {
        id: "sgr-1".to_owned(),
        egress: words[0] == "out",
        protocol: words[1].to_owned(),
        from_port: words[2].parse().ok(),
        to_port: words[3].parse().ok(),
        peer,
        description: None,
        tags: Tags::new(),
    }
}

fn read(script: &str) -> Vec<Records> {
    let mut regions: Vec<Records> = Vec::new();
    let mut groups: Vec<SecurityGroup> = Vec::new();
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|first| !first.starts_with('#')) else { continue };
        if *first == "region" {
            regions.push(Records { region: words[1].to_owned(), ..Records::default() });
            continue;
        }
        let here = regions.last_mut().expect("a region comes first");
        match *first {
            "vpc" => here.vpcs.push(Arc::new(vpc(words[1], words[2]))),
            "subnet" => here.subnets.push(Arc::new(subnet(words[1], words[2], words[3]))),
            "instance" => here.instances.push(Arc::new(instance(words[1], state(words[2])))),
            "interface" => here.interfaces.push(Arc::new(interface(&words))),
            "group" => groups.push(SecurityGroup {
                v: 1,
                id: words[1].to_owned(),
                name: words[1].to_owned(),
                description: String::new(),
                vpc_id: words[2].to_owned(),
                rules: Vec::new(),
                tags: Tags::new(),
            }),
            "in" | "out" => groups.last_mut().expect("a group").rules.push(rule(&words)),
            other => panic!("unknown word {other}"),
        }
    }
    for group in groups {
        let region = regions
            .iter_mut()
            .find(|region| region.vpcs.iter().any(|vpc| vpc.id == group.vpc_id))
            .expect("the group's VPC");
        region.groups.push(Arc::new(group));
    }
    regions
}

fn write(plan: &Plan) -> String {
    let mut out = String::new();
    for vpc in &plan.vpcs {
        let cidrs: Vec<String> = vpc.cidrs.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "vpc {} {} {}", vpc.region, vpc.id, cidrs.join(" "));
        for subnet in &vpc.subnets {
            let _ = writeln!(out, "  subnet {} {}", subnet.id, subnet.cidr);
        }
        for i in &vpc.interfaces {
            let _ = writeln!(
                out,
                "  interface {} of {} in {} {} {} public {} groups {}{}",
                i.id,
                i.instance_id().unwrap_or("-"),
                i.subnet_id,
                i.mac,
                i.hostname,
                i.public_ip.map_or("-".to_owned(), |address| address.to_string()),
                i.groups.join(","),
                if i.source_dest_check { "" } else { " unchecked" },
            );
            assert!(i.hostname.contains(&i.private_ip.to_string().replace('.', "-")));
        }
        for group in &vpc.groups {
            let _ = writeln!(out, "  group {}", group.id);
            for (direction, rules) in [("in", &group.ingress), ("out", &group.egress)] {
                for rule in rules {
                    let _ = writeln!(out, "    {direction} {}", describe(rule));
                }
            }
        }
    }
    out
}

fn describe(rule: &Rule) -> String {
    let peer = match &rule.peer {
        Peer::Cidr(cidr) => cidr.to_string(),
        Peer::Group(id) => format!("members of {id}"),
        Peer::PrefixList(id) => format!("entries of {id}"),
    };
    let any = |number: Option<u8>| number.map_or("any".to_owned(), |number| number.to_string());
    let protocol = match rule.protocol {
        Protocol::All => "everything".to_owned(),
        Protocol::Tcp { from, to } => format!("tcp {from}-{to}"),
        Protocol::Udp { from, to } => format!("udp {from}-{to}"),
        Protocol::Icmp { kind, code } => format!("icmp type {} code {}", any(kind), any(code)),
        Protocol::Icmpv6 { kind, code } => format!("icmpv6 type {} code {}", any(kind), any(code)),
        Protocol::Number(number) => format!("protocol {number}"),
    };
    format!("{protocol} {peer}")
}

#[test]
fn the_plan_of_the_script_is_as_written() {
    let script = std::fs::read_to_string(SCRIPT).unwrap();
    let (records, expected) = script.split_once("\n---\n").expect("a line of dashes");
    let plan = write(&compile(&read(records), &[], None));
    if std::env::var_os("GUREUM_ACCEPT").is_some() {
        std::fs::write(SCRIPT, format!("{records}\n---\n{plan}")).unwrap();
        return;
    }
    assert_eq!(plan, expected, "see {SCRIPT}");
}

#[test]
fn records_of_the_network_wake_the_node_and_others_do_not() {
    for (record, wakes) in [
        ("/us-east-1/security-group/123456789012/sg-1", true),
        ("/eu-west-1/network-interface/123456789012/eni-1", true),
        ("/us-east-1/instance/123456789012/i-1", true),
        ("/us-east-1/key-pair/123456789012/mine", false),
        ("/public-address/203.0.113.5", false),
        ("/", false),
    ] {
        assert_eq!(work_key(record).is_some(), wakes, "{record}");
    }
}

#[test]
fn the_reconciler_plans_every_region_when_there_are_packets() {
    let region = Region::new();
    region.run(|call| run(call, super::NODE)).unwrap();
    assert_eq!(region.driver.network(), None, "the simulation has none");
    region.driver.with_network();
    for (name, number) in [("eu-west-1", 1), ("us-east-1", 2)] {
        region
            .run(|call| {
                let key = |kind, id: &str| key::of(name, kind, ACCOUNT, id);
                call.put(&key(key::VPC, "vpc-1"), vpc("vpc-1", "172.31.0.0/16"));
                let id = format!("i-{number}");
                call.put(&key(key::INSTANCE, &id), instance(&id, InstanceState::Running));
                let (eni, address) = (format!("eni-{number}"), format!("172.31.0.{number}"));
                let words = ["interface", &eni, &id, "vpc-1", "subnet-1", &address, "-", "sg-1"];
                call.put(&key(key::INTERFACE, &eni), interface(&words));
                call.put("/public-address/203.0.113.9", eni);
                Ok(())
            })
            .unwrap();
    }
    region.run(|call| run(call, super::NODE)).unwrap();
    let plan = region.driver.network().unwrap();
    let places: Vec<(&str, &str)> = plan
        .vpcs
        .iter()
        .map(|vpc| (vpc.region.as_str(), vpc.interfaces[0].hostname.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            ("eu-west-1", "ip-172-31-0-1.eu-west-1.compute.internal"),
            ("us-east-1", "ip-172-31-0-2.ec2.internal"),
        ]
    );
}

/// What `cargo xtask bench` prints: milliseconds for the plan of a VPC of 10,000 interfaces.
#[test]
#[ignore = "a measurement"]
fn the_time_that_a_large_plan_takes() {
    let mut records = Records { region: "us-east-1".to_owned(), ..Records::default() };
    records.vpcs.push(Arc::new(vpc("vpc-1", "10.0.0.0/8")));
    for number in 0..200 {
        let (id, cidr) = (format!("subnet-{number}"), format!("10.{number}.0.0/24"));
        records.subnets.push(Arc::new(subnet(&id, "vpc-1", &cidr)));
    }
    for number in 0..500 {
        let port = |n: usize| (n * 2).to_string();
        let rules = (0..60).map(|n| rule(&["in", "tcp", &port(n), &port(n), "10.0.0.0/8"]));
        records.groups.push(Arc::new(SecurityGroup {
            v: 1,
            id: format!("sg-{number}"),
            name: format!("sg-{number}"),
            description: String::new(),
            vpc_id: "vpc-1".to_owned(),
            rules: rules.collect(),
            tags: Tags::new(),
        }));
    }
    for number in 0..10_000 {
        let (subnet, host) = (number % 200, number / 200 + 10);
        let instance_id = format!("i-{number}");
        records.instances.push(Arc::new(instance(&instance_id, InstanceState::Running)));
        let (id, address) = (format!("eni-{number}"), format!("10.{subnet}.0.{host}"));
        let subnet = format!("subnet-{subnet}");
        let group = format!("sg-{}", number % 500);
        let words = ["interface", &id, &instance_id, "vpc-1", &subnet, &address, "-", &group];
        records.interfaces.push(Arc::new(interface(&words)));
    }
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let begun = std::time::Instant::now();
            let plan = compile(std::slice::from_ref(&records), &[], None);
            assert_eq!(plan.vpcs[0].interfaces.len(), 10_000);
            begun.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("plan of 10,000 interfaces, milliseconds: {:.1}", times[times.len() / 2]);
}
