use super::*;
use base::network::{Address, Holder, Interface, Vpc};
use std::sync::atomic::{AtomicI64, Ordering};

pub(crate) fn interface(id: &str, address: &str) -> Interface {
    Interface {
        id: id.to_owned(),
        holder: Holder::Machine("i-1".to_owned()),
        subnet_id: "subnet-1".to_owned(),
        mac: "0a:00:00:00:00:01".to_owned(),
        private_ip: address.parse().unwrap(),
        public_ip: None,
        secondary: Vec::<Address>::new(),
        prefixes: Vec::new(),
        ipv6: Vec::new(),
        ipv6_prefixes: Vec::new(),
        hostname: String::new(),
        groups: Vec::new(),
        source_dest_check: true,
        node: None,
    }
}

fn plan(interfaces: &[&str], logged: &[&str]) -> Plan {
    let vpc = Vpc {
        id: "vpc-1".to_owned(),
        region: "us-east-1".to_owned(),
        interfaces: interfaces.iter().map(|id| interface(id, "10.0.0.5")).collect(),
        ..Vpc::default()
    };
    let log = FlowLog {
        id: "fl-1".to_owned(),
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        interfaces: logged.iter().map(|&id| id.to_owned()).collect(),
        accepted: true,
        rejected: false,
        interval: 60,
        fields: ["srcport", "packets", "bytes", "start", "end", "log-status"]
            .map(str::to_owned)
            .to_vec(),
    };
    Plan { vpcs: vec![vpc], flow_logs: vec![log], ..Plan::default() }
}

fn key(interface: &str, port: u16, accepted: bool) -> Key {
    Key {
        interface_id: interface.to_owned(),
        egress: true,
        accepted,
        protocol: 6,
        source: "10.0.0.5".parse().unwrap(),
        destination: "10.0.0.6".parse().unwrap(),
        source_port: port,
        destination_port: 80,
    }
}

/// The kernel's counters, the region's clock and a daemon that can be killed.
struct World {
    data: tempfile::TempDir,
    clock: Arc<AtomicI64>,
    kernel: Arc<Mutex<Result<Reading, String>>>,
    logs: Inner,
}

impl World {
    fn new() -> World {
        let data = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(1_000_000));
        let reading = Reading { epoch: "one".to_owned(), ..Reading::default() };
        let kernel = Arc::new(Mutex::new(Ok(reading)));
        let logs = World::open(&data, &clock, &kernel);
        World { data, clock, kernel, logs }
    }

    fn open(
        data: &tempfile::TempDir,
        clock: &Arc<AtomicI64>,
        kernel: &Arc<Mutex<Result<Reading, String>>>,
    ) -> Inner {
        let kernel = Arc::clone(kernel);
        let source = move |_: &str| kernel.lock().unwrap().clone();
        Inner::open(data.path(), Clock::Manual(Arc::clone(clock)), Box::new(source)).unwrap()
    }

    fn restart(&mut self, plan: &Plan) {
        self.logs = World::open(&self.data, &self.clock, &self.kernel);
        self.apply(plan);
    }

    fn apply(&self, plan: &Plan) {
        self.logs.prepare(plan);
        self.logs.locked().plan = plan.clone();
    }

    fn count(&self, key: Key, packets: u64) {
        let mut kernel = self.kernel.lock().unwrap();
        let count = kernel.as_mut().unwrap().flows.entry(key).or_default();
        count.packets += packets;
        count.bytes += packets * 100;
    }

    fn at(&self, seconds: i64) -> bool {
        self.clock.store(seconds * 1000, Ordering::SeqCst);
        self.logs.write_due(&mut self.logs.locked())
    }

    fn path(&self, interface: &str) -> PathBuf {
        let log = self.data.path().join("flow-logs/123456789012/us-east-1/fl-1/1970-01-01");
        log.join(format!("{interface}.log"))
    }

    fn lines(&self, interface: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(interface)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn every_interval_has_its_flows_once() {
    let world = World::new();
    let plan = plan(&["eni-1", "eni-2"], &["eni-1"]);
    // What was counted before the log was made is not in it.
    world.count(key("eni-1", 1, true), 7);
    world.logs.locked().plan = Plan { flow_logs: Vec::new(), ..plan.clone() };
    world.apply(&plan);
    world.count(key("eni-1", 1, true), 3);
    world.count(key("eni-1", 2, true), 1);
    world.count(key("eni-1", 3, false), 9);
    world.count(key("eni-2", 4, true), 9);
    assert!(world.at(1_010));
    assert_eq!(world.lines("eni-1"), Vec::<String>::new(), "the interval is not over");
    world.at(1_020);
    assert_eq!(world.lines("eni-1"), ["1 3 300 1000 1020 OK", "2 1 100 1000 1020 OK"]);
    world.at(1_079);
    world.at(1_081);
    assert_eq!(world.lines("eni-1")[2..], ["- - - 1020 1081 NODATA"]);
    world.count(key("eni-1", 2, true), 5);
    world.at(1_150);
    assert_eq!(world.lines("eni-1")[3..], ["2 5 500 1081 1150 OK"]);
    assert!(!world.path("eni-2").exists());
}

#[test]
fn a_restart_counts_nothing_twice_and_loses_nothing() {
    let mut world = World::new();
    let plan = plan(&["eni-1"], &["eni-1"]);
    world.apply(&plan);
    world.count(key("eni-1", 1, true), 3);
    world.at(1_020);
    let first = "1 3 300 1000 1020 OK";
    // Killed before the lines were appended, or halfway, or after.
    for length in [0, 5, first.len() as u64 + 1] {
        OpenOptions::new().write(true).open(world.path("eni-1")).unwrap().set_len(length).unwrap();
        world.restart(&plan);
        assert_eq!(world.lines("eni-1"), [first]);
    }
    world.count(key("eni-1", 1, true), 2);
    world.restart(&plan);
    world.at(1_085);
    assert_eq!(world.lines("eni-1")[1..], ["1 2 200 1020 1085 OK"]);
    // The host was rebooted: the kernel counts from zero.
    let reading = Reading { epoch: "two".to_owned(), ..Reading::default() };
    *world.kernel.lock().unwrap() = Ok(reading);
    world.count(key("eni-1", 1, true), 8);
    world.restart(&plan);
    world.at(1_145);
    assert_eq!(world.lines("eni-1")[2..], ["1 8 800 1085 1145 OK"]);
}

#[test]
fn interfaces_come_and_go() {
    let world = World::new();
    world.apply(&plan(&["eni-1", "eni-2"], &["eni-1"]));
    world.count(key("eni-1", 1, true), 1);
    world.count(key("eni-2", 2, true), 4);
    world.clock.store(1_005_000, Ordering::SeqCst);
    world.apply(&plan(&["eni-1", "eni-2"], &["eni-1", "eni-2"]));
    world.count(key("eni-2", 2, true), 2);
    world.clock.store(1_007_000, Ordering::SeqCst);
    world.apply(&plan(&["eni-2"], &["eni-2"]));
    assert_eq!(world.lines("eni-1"), ["1 1 100 1000 1007 OK"]);
    assert_eq!(world.lines("eni-2"), ["2 2 200 1000 1007 OK"]);
    world.at(1_080);
    assert_eq!(world.lines("eni-1").len(), 1);
    assert_eq!(world.lines("eni-2")[1..], ["- - - 1007 1080 NODATA"]);
    // With its log goes its state.
    world.apply(&Plan { flow_logs: Vec::new(), ..plan(&["eni-2"], &[]) });
    assert_eq!(fs::read_dir(world.data.path().join("flow-logs/.state")).unwrap().count(), 0);
}

#[test]
fn counters_that_cannot_be_read_are_read_later() {
    let world = World::new();
    world.apply(&plan(&["eni-1"], &["eni-1"]));
    world.count(key("eni-1", 1, true), 1);
    let reading = std::mem::replace(&mut *world.kernel.lock().unwrap(), Err("no".to_owned()));
    assert!(!world.at(1_020));
    *world.kernel.lock().unwrap() = reading;
    assert!(world.at(1_090));
    assert_eq!(world.lines("eni-1"), ["1 1 100 1000 1090 OK"]);
    world.kernel.lock().unwrap().as_mut().unwrap().full = true;
    world.at(1_140);
    assert_eq!(world.lines("eni-1")[1..], ["- - - 1090 1140 SKIPDATA"]);
}

#[test]
fn lines_that_could_not_be_written_are_written_later() {
    let world = World::new();
    world.apply(&plan(&["eni-1"], &["eni-1"]));
    world.count(key("eni-1", 1, true), 1);
    // A file where a directory must be.
    let obstacle = world.data.path().join("flow-logs/123456789012");
    fs::write(&obstacle, "").unwrap();
    assert!(!world.at(1_020));
    world.count(key("eni-1", 1, true), 2);
    assert!(!world.at(1_085));
    fs::remove_file(&obstacle).unwrap();
    assert!(world.at(1_090));
    let lines = ["1 1 100 1000 1020 OK", "1 2 200 1020 1090 OK"];
    assert_eq!(world.lines("eni-1"), lines);
}

#[test]
fn the_thread_writes_by_the_clock() {
    let data = tempfile::tempdir().unwrap();
    let wall = Timestamp::wall();
    // An interval takes a tenth of a second.
    let clock = Clock::Scaled { wall, region: wall, scale: 600 };
    let logs = FlowLogs::start(data.path(), clock, |_| Ok(Reading::default())).unwrap();
    let plan = plan(&["eni-1"], &["eni-1"]);
    logs.prepare(&plan);
    logs.follow(&plan);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let files = data.path().join("flow-logs/123456789012/us-east-1/fl-1");
    while !files.exists() {
        assert!(std::time::Instant::now() < deadline, "nothing was written");
        std::thread::yield_now();
    }
}
