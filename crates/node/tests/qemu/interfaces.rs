//! Network interfaces of machines that run: plugged, unplugged, taken away, moved to another machine
//! and known to the next daemon.

use crate::support::{
    ID, Node, RUN, attached, has_ended, image, is_running, privileged, spec, until, until_state,
    volume,
};
use base::machine::{self, Driver as _, InterfaceState, Spec, State, Wanted};
use base::network::{Holder, Interface, Plan, SecurityGroup, Subnet, Vpc};
use node::qemu::Driver;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const VPC: &str = "vpc-0badc0ffee0000002";
const SUBNET: &str = "subnet-0badc0ffee0000002";
const GROUP: &str = "sg-0badc0ffee0000002";
const OTHER_ID: &str = "i-0123456789abcdef1";
const OTHER_ROOT: &str = "vol-0123456789abcdef4";

const LIMIT: Duration = Duration::from_secs(150);

/// Interface number `number`: its id, MAC and address follow from that.
fn id(number: u8) -> String {
    format!("eni-0badc0ffee00001{number:02x}")
}

fn mac(number: u8) -> String {
    format!("0a:ba:dc:0f:ff:{number:02x}")
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 6, 10 + number)
}

/// The interfaces of the node, each with its machine.
fn plan(interfaces: &[(u8, &str)]) -> Plan {
    let interface = |(number, machine): &(u8, &str)| Interface {
        id: id(*number),
        holder: Holder::Machine((*machine).to_owned()),
        subnet_id: SUBNET.to_owned(),
        mac: mac(*number),
        private_ip: address(*number),
        public_ip: None,
        secondary: Vec::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        hostname: format!("ip-172-31-6-{}.ec2.internal", 10 + number),
        groups: vec![GROUP.to_owned()],
        source_dest_check: true,
        node: None,
    };
    let vpc = Vpc {
        id: VPC.to_owned(),
        region: "us-east-1".to_owned(),
        cidrs: vec!["172.31.0.0/16".parse().unwrap()],
        subnets: vec![Subnet::new(SUBNET, "172.31.0.0/20".parse().unwrap())],
        interfaces: interfaces.iter().map(interface).collect(),
        groups: vec![SecurityGroup { id: GROUP.to_owned(), ingress: vec![], egress: vec![] }],
        ..Vpc::default()
    };
    Plan { vpcs: vec![vpc], ..Plan::default() }
}

fn with(mut spec: Spec, interfaces: &[u8]) -> Spec {
    let interface = |number: &u8| machine::Interface {
        id: id(*number),
        mac: mac(*number),
        vpc_id: VPC.to_owned(),
        private_ip: address(*number),
    };
    spec.interfaces = interfaces.iter().map(interface).collect();
    spec
}

fn one(interfaces: &[u8]) -> Spec {
    with(spec("test", RUN), interfaces)
}

fn other(interfaces: &[u8]) -> Spec {
    let mut spec = with(spec("test", RUN), interfaces);
    spec.id = OTHER_ID.to_owned();
    spec.volumes = vec![attached(OTHER_ROOT)];
    spec
}

async fn until_interface(driver: &Driver, machine: &str, number: u8, state: InterfaceState) {
    let is_so = || (driver.interface_state(machine, &id(number)) == state).then_some(());
    until(&format!("interface {number} of {machine} {state:?}"), LIMIT, is_so).await;
}

/// Waits until a guest has said something so often.
async fn until_said(node: &Node, machine: &str, text: &str, times: usize) {
    let said = || node.console_of(machine).matches(text).count() >= times;
    until(&format!("{times} times {text:?}"), LIMIT, || said().then_some(())).await;
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
async fn interfaces_come_and_go_and_move() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let mut config = net::Config::new(node.root.path().join("net"));
    config.name_prefix = "gnics".to_owned();
    config.public_pool = "198.51.100.0/24".parse().unwrap();
    let cleanup = Cleanup(config.clone());
    let network = Arc::new(net::Network::start(config).unwrap());
    let driver = node.start_on(Some(network));
    node.make_both().await;
    node.make(&[volume(OTHER_ROOT)]).await;
    driver.apply_network(plan(&[(0, ID), (3, OTHER_ID)]));
    driver.apply(one(&[0]));
    driver.apply(other(&[3]));
    until_said(&node, ID, "MARKER up", 1).await;
    until_said(&node, OTHER_ID, "MARKER up", 1).await;
    until_said(&node, ID, &format!("MARKER card {}", mac(0)), 1).await;

    // Wanted before the kernel has it.
    driver.apply(one(&[0, 1]));
    driver.apply_network(plan(&[(0, ID), (1, ID), (3, OTHER_ID)]));
    until_interface(&driver, ID, 1, InterfaceState::In).await;
    until_said(&node, ID, &format!("MARKER card {}", mac(1)), 1).await;

    // The next daemon knows of it, and takes it out.
    let pid = node.pid();
    drop(driver);
    node.driver = None;
    let network = Arc::new(net::Network::start(cleanup.0.clone()).unwrap());
    let driver = node.start_on(Some(network));
    assert_eq!(driver.interface_state(ID, &id(1)), InterfaceState::Unsettled);
    driver.apply_network(plan(&[(0, ID), (1, ID), (3, OTHER_ID)]));
    driver.apply(one(&[0, 1]));
    driver.apply(other(&[3]));
    until_interface(&driver, ID, 1, InterfaceState::In).await;
    assert_eq!(node.pid(), pid);

    // To the other machine, as fast as the guests let go and take up.
    let began = Instant::now();
    driver.apply(one(&[0]));
    until_interface(&driver, ID, 1, InterfaceState::Out).await;
    let out = began.elapsed();
    driver.apply_network(plan(&[(0, ID), (1, OTHER_ID), (3, OTHER_ID)]));
    driver.apply(other(&[3, 1]));
    until_interface(&driver, OTHER_ID, 1, InterfaceState::In).await;
    eprintln!("moved in {:?}, {out:?} of it to let go", began.elapsed());
    until_said(&node, ID, &format!("MARKER no card {}", mac(1)), 1).await;
    until_said(&node, OTHER_ID, &format!("MARKER card {}", mac(1)), 1).await;

    let mut ended = other(&[]);
    ended.wanted = Wanted::Terminated;
    driver.apply(ended);
    let gone = || (driver.state(OTHER_ID) == State::Gone).then_some(());
    until("the end of the other", LIMIT, gone).await;
    assert_eq!(driver.interface_state(OTHER_ID, &id(1)), InterfaceState::Out);

    // There from the start, and taken away from a guest that cannot let go yet.
    driver.apply_network(plan(&[(0, ID), (1, ID)]));
    driver.apply(with(spec("test", Wanted::Stopped { force: true }), &[0]));
    until_state(&driver, has_ended).await;
    let second = Wanted::Running { start: 2, reboots: 0 };
    driver.apply(with(spec("test", second), &[0, 1]));
    until_state(&driver, is_running).await;
    assert_eq!(driver.interface_state(ID, &id(1)), InterfaceState::In);
    let mut forced = with(spec("test", second), &[0]);
    forced.forced_off_interfaces = vec![id(1)];
    driver.apply(forced);
    let began = Instant::now();
    until_interface(&driver, ID, 1, InterfaceState::Out).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    until_said(&node, ID, "MARKER up", 2).await;
    driver.apply(with(spec("test", Wanted::Terminated), &[]));
    until_state(&driver, |state| *state == State::Gone).await;
    drop(driver);
    drop(node);
    drop(cleanup);
}
