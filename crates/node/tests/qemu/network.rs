//! A machine on the real data plane: an address by DHCP, its metadata over HTTP, an answer to ARP.

use crate::support::{ID, Node, RUN, image, is_running, privileged, spec, until, until_state};
use base::machine::{self, Driver as _, State, Wanted};
use base::network::{Holder, Interface, Peer, Plan, Protocol, Rule, SecurityGroup, Subnet, Vpc};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

const VPC: &str = "vpc-0badc0ffee0000001";
const INTERFACE: &str = "eni-0badc0ffee0000001";
const MAC: &str = "0a:ba:dc:0f:fe:01";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 5, 7);

fn plan() -> Plan {
    let everywhere = Peer::Cidr("0.0.0.0/0".parse().unwrap());
    let interface = Interface {
        id: INTERFACE.to_owned(),
        holder: Holder::Machine(ID.to_owned()),
        secondary: Vec::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        node: None,
        subnet_id: "subnet-0badc0ffee0000001".to_owned(),
        mac: MAC.to_owned(),
        private_ip: ADDRESS,
        public_ip: None,
        hostname: "ip-172-31-5-7.ec2.internal".to_owned(),
        groups: vec!["sg-0badc0ffee0000001".to_owned()],
        source_dest_check: true,
    };
    let group = SecurityGroup {
        id: "sg-0badc0ffee0000001".to_owned(),
        ingress: Vec::new(),
        egress: vec![Rule { protocol: Protocol::All, peer: everywhere }],
    };
    let vpc = Vpc {
        id: VPC.to_owned(),
        region: "us-east-1".to_owned(),
        cidrs: vec!["172.31.0.0/16".parse().unwrap()],
        subnets: vec![Subnet::new("subnet-0badc0ffee0000001", "172.31.0.0/20".parse().unwrap())],
        interfaces: vec![interface],
        groups: vec![group],
        ..Vpc::default()
    };
    Plan { vpcs: vec![vpc], ..Plan::default() }
}

fn machine(wanted: Wanted) -> machine::Spec {
    let mut spec = spec("net", wanted);
    spec.interfaces = vec![machine::Interface {
        id: INTERFACE.to_owned(),
        mac: MAC.to_owned(),
        vpc_id: VPC.to_owned(),
        private_ip: ADDRESS,
    }];
    spec.metadata.enabled = true;
    spec.metadata.hop_limit = 1;
    spec.metadata.user_data = Some(b"hello".to_vec());
    for (path, text) in [("instance-id", ID), ("public-keys/0/openssh-key", "ssh-rsa AAAA me")] {
        spec.metadata.leaves.insert(format!("meta-data/{path}"), text.to_owned());
    }
    spec
}

/// Takes the network away, however the test ends.
struct Cleanup(net::Config);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let cleaned = net::Network::destroy_all(self.0.clone());
        if !std::thread::panicking() {
            cleaned.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_on_the_network() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "net", "gureum.net");
    let mut config = net::Config::new(node.root.path().join("net"));
    config.name_prefix = "gnode".to_owned();
    config.public_pool = "198.51.100.0/24".parse().unwrap();
    let cleanup = Cleanup(config.clone());
    let network = Arc::new(net::Network::start(config).unwrap());
    let driver = node.start_on(Some(network));
    node.make_both().await;
    // The machine waits for the plan that has its interface.
    driver.apply(machine(RUN));
    driver.apply_network(plan());
    until_state(&driver, is_running).await;
    let limit = Duration::from_secs(90);
    until("the network", limit, || node.console().contains("MARKER net").then_some(())).await;
    let console = node.console();
    assert!(console.contains("MARKER dhcp=172.31.5.7 router=172.31.0.1"), "{console}");
    assert!(console.contains(&format!("MARKER id={ID} user=hello")), "{console}");
    assert!(console.contains("MARKER listing=instance-id,public-keys/"), "{console}");
    assert!(console.contains("MARKER token HTTP/1.0 200 OK"), "{console}");
    let reachable = |state: &State| matches!(state, State::Running { reachable: Some(true), .. });
    until_state(&driver, reachable).await;

    // The next daemon takes over the guest's network and metadata.
    drop(driver);
    node.driver = None;
    let network = Arc::new(net::Network::start(cleanup.0.clone()).unwrap());
    let driver = node.start_on(Some(network));
    driver.apply_network(plan());
    driver.apply(machine(RUN));
    until_state(&driver, reachable).await;

    // Stopped and started, it has its tap again.
    driver.apply(machine(Wanted::Stopped { force: true }));
    until_state(&driver, |state| matches!(state, State::Exited { .. })).await;
    driver.apply(machine(Wanted::Running { start: 2, reboots: 0 }));
    until_state(&driver, is_running).await;
    let booted = || node.console().matches("MARKER net").count() == 2;
    until("the network again", limit, || booted().then_some(())).await;
    let console = node.console();
    assert_eq!(console.matches(&format!("MARKER id={ID}")).count(), 2, "{console}");
    driver.apply(machine(Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
    drop(driver);
    drop(node);
    drop(cleanup);
}
