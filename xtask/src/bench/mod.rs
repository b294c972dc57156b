//! `cargo xtask bench [ROW…]`: each promise of speed and size as a ratio to a named peer, in one
//! run on one machine.
//!
//! Peer and gureum are loaded in turn, in short slices, several rounds; a row's number is the median
//! of the rounds' ratios, so that what disturbs the machine disturbs both. All get the same requests;
//! gureum verifies their signatures and answers a write after the fsync, the peers do neither.
//! A whole run rewrites docs/performance.md; a run of some rows only prints.

mod load;
mod machine;
mod report;
mod server;

use crate::setup;
use anyhow::{Context, Result, bail};
use report::{Bar, Row};
use server::{Server, Tools};
use std::time::Duration;

const ROUNDS: usize = 7;
const SLICE: Duration = Duration::from_millis(700);
/// For moto, whose answers take seconds: long enough for some of them.
const LONG_SLICE: Duration = Duration::from_secs(8);

/// The rows, in the order of the table: key, what, bar.
const ROWS: &[(&str, &str, Bar)] = &[
    ("describe-0", "DescribeInstances, no instances", Bar::AtLeast(10.0)),
    ("describe-100", "DescribeInstances, 100 instances", Bar::AtLeast(2.0)),
    ("describe-100-moto", "the same, against moto", Bar::AtLeast(100.0)),
    ("describe-1000", "DescribeInstances, 1,000 instances", Bar::AtLeast(1.5)),
    ("describe-1000-moto", "the same, against moto", Bar::AtLeast(100.0)),
    ("describe-one", "DescribeInstances, one id among 1,000", Bar::AtLeast(13.0)),
    ("instance-types", "DescribeInstanceTypes of one type", Bar::AtLeast(16.0)),
    ("caller-identity", "GetCallerIdentity", Bar::AtLeast(18.0)),
    ("run-8", "RunInstances (sim), durable, 8 connections", Bar::AtLeast(1.0)),
    ("run-64", "RunInstances (sim), durable, 64 connections", Bar::AtLeast(3.0)),
    ("tags-8", "CreateTags, durable, 8 connections", Bar::AtLeast(0.8)),
    ("tags-64", "CreateTags, durable, 64 connections", Bar::AtLeast(4.0)),
    ("start", "serve to first answer, 1,000 instances on redb", Bar::AtMost(100.0, "ms")),
    ("memory-empty", "resident memory, empty region", Bar::AtMost(25.0, "MiB")),
    ("memory-1000", "resident memory, 1,000 simulated instances", Bar::AtMost(60.0, "MiB")),
    ("first-imds", "run-instances to first IMDS request, to bare QEMU", Bar::AtMost(1.15, "times")),
    ("memory-vm", "resident memory added per running VM", Bar::AtMost(1.0, "MiB")),
    ("throughput", "TCP through our rules, to the same path without", Bar::AtLeast(0.9)),
];

struct Bench {
    tools: Tools,
    wanted: Vec<String>,
    rows: Vec<Row>,
}

/// Runs the rows whose key contains one of the arguments, or all of them.
///
/// # Errors
/// Something does not build, install, start or answer.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let unknown = |a: &&String| !ROWS.iter().any(|(key, ..)| key.contains(a.as_str()));
    if let Some(argument) = arguments.iter().find(unknown) {
        let keys: Vec<_> = ROWS.iter().map(|(key, ..)| *key).collect();
        bail!("no row is called {argument}; there are {}", keys.join(", "));
    }
    let gureum = setup::build("release")?;
    let peers = setup::venv(&setup::target().join("bench-venv"), &server::PACKAGES)?;
    let work = setup::target().join("bench");
    let tools = Tools { gureum: Some(gureum), peers, work };
    let mut bench = Bench { tools, wanted: arguments.to_vec(), rows: Vec::new() };
    bench.reads_and_tags()?;
    bench.launches()?;
    bench.start_and_memory()?;
    bench.machines();

    let order = |row: &Row| ROWS.iter().position(|(key, ..)| *key == row.key);
    bench.rows.sort_by_key(order);
    println!("\n{}", report::table(&bench.rows));
    if arguments.is_empty() {
        report::write(&setup::root().join("docs/performance.md"), &bench.tools, &bench.rows)?;
    }
    Ok(())
}

impl Bench {
    fn wants(&self, key: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|w| key.contains(w.as_str()))
    }

    fn wants_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.wants(key))
    }

    fn add(&mut self, key: &'static str, fill: impl FnOnce(&mut Row)) {
        let Some((key, what, bar)) = ROWS.iter().find(|(k, ..)| *k == key) else { return };
        let mut row = Row { key, what, bar: *bar, ..Row::default() };
        fill(&mut row);
        println!("{}", report::line(&row));
        self.rows.push(row);
    }

    /// The rows that read, at no, 100 and 1,000 instances, and CreateTags.
    fn reads_and_tags(&mut self) -> Result<()> {
        let empty = ["describe-0", "instance-types", "caller-identity"];
        let hundred = ["describe-100", "describe-100-moto"];
        let thousand = ["describe-1000", "describe-1000-moto", "describe-one", "tags-8", "tags-64"];
        if !self.wants_any(&[&empty[..], &hundred, &thousand].concat()) {
            return Ok(());
        }
        let ours = self.tools.gureum(&self.tools.fresh_data("reads")?)?;
        let peer = self.tools.ministack()?;
        let has_moto = self.wants_any(&["describe-100-moto", "describe-1000-moto"]);
        let moto = has_moto.then(|| self.tools.moto()).transpose()?;

        self.against(&peer, &ours, "describe-0", 8, |s| Ok(vec![s.ec2("DescribeInstances")]))?;
        self.against(&peer, &ours, "instance-types", 8, |s| {
            Ok(vec![s.ec2("DescribeInstanceTypes&InstanceType.1=t3.micro")])
        })?;
        self.against(&peer, &ours, "caller-identity", 8, |s| {
            Ok(vec![s.request("sts", "Action=GetCallerIdentity&Version=2011-06-15")])
        })?;
        for (count, keys) in [(100, &hundred[..]), (1000, &thousand)] {
            if !self.wants_any(keys) {
                continue;
            }
            for server in [Some(&peer), Some(&ours), moto.as_ref()].into_iter().flatten() {
                server.grow_to(count).with_context(|| format!("{count} instances"))?;
            }
            let all = |s: &Server| Ok(vec![s.ec2("DescribeInstances")]);
            self.against(&peer, &ours, keys[0], 8, all)?;
            if let Some(moto) = &moto {
                self.against_slow(moto, &ours, keys[1], all)?;
            }
        }
        self.against(&peer, &ours, "describe-one", 8, |s| {
            let one = |id: &String| s.ec2(&format!("DescribeInstances&InstanceId.1={id}"));
            Ok(s.instances()?.iter().map(one).collect())
        })?;
        for (key, connections) in [("tags-8", 8), ("tags-64", 64)] {
            self.against(&peer, &ours, key, connections, tags)?;
        }
        Ok(())
    }

    /// RunInstances, each round on servers that have just been started.
    fn launches(&mut self) -> Result<()> {
        let keys = [("run-8", 8), ("run-64", 64)];
        let mut slices = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            if !self.wants_any(&keys.map(|(key, _)| key)) {
                return Ok(());
            }
            let ours = self.tools.gureum(&self.tools.fresh_data("launches")?)?;
            let peer = self.tools.ministack()?;
            warm_up(&peer, &ours, |s| Ok(s.launches()))?;
            for (slices, (key, connections)) in slices.iter_mut().zip(keys) {
                if self.wants(key) {
                    slices.push(pair(&peer, &ours, connections, round, |s| Ok(s.launches()))?);
                }
            }
        }
        for (slices, (key, _)) in slices.iter().zip(keys) {
            if !slices.is_empty() {
                self.add(key, |row| row.set_rates("ministack", slices));
            }
        }
        Ok(())
    }

    fn start_and_memory(&mut self) -> Result<()> {
        if self.wants("memory-empty") {
            let ours = self.tools.gureum(&self.tools.fresh_data("empty")?)?;
            let value = ours.resident_mib()?;
            self.add("memory-empty", |row| row.set_value(value));
        }
        if !self.wants_any(&["memory-1000", "start"]) {
            return Ok(());
        }
        let data = self.tools.fresh_data("thousand")?;
        let ours = self.tools.gureum(&data)?;
        ours.grow_to(1000)?;
        // Of the process that did the work, which is the larger one.
        let value = ours.resident_mib()?;
        drop(ours);
        if self.wants("memory-1000") {
            self.add("memory-1000", |row| row.set_value(value));
        }
        if self.wants("start") {
            let start = |_| Ok(self.tools.gureum(&data)?.first_answer.as_secs_f64() * 1000.0);
            let times = (0..ROUNDS).map(start).collect::<Result<Vec<_>>>()?;
            self.add("start", |row| row.set_value(report::median(&times)));
        }
        Ok(())
    }

    /// The rows that need virtual machines or namespaces. They are skipped where these are not.
    fn machines(&mut self) {
        self.machine_row("first-imds", machine::first_imds);
        self.machine_row("memory-vm", machine::memory_per_machine);
        self.machine_row("throughput", machine::throughput);
    }

    fn machine_row(&mut self, key: &'static str, measure: impl Fn(&Tools) -> Result<f64>) {
        if self.wants(key) {
            let result = measure(&self.tools);
            self.add(key, |row| match result {
                Ok(value) => row.set_value(value),
                Err(error) => row.skipped = Some(format!("{error:#}")),
            });
        }
    }

    /// A row of several rounds against a fast peer.
    fn against(
        &mut self,
        peer: &Server,
        ours: &Server,
        key: &'static str,
        connections: usize,
        requests: impl Fn(&Server) -> Result<Vec<Vec<u8>>>,
    ) -> Result<()> {
        if !self.wants(key) {
            return Ok(());
        }
        warm_up(peer, ours, &requests)?;
        let slice = |round| pair(peer, ours, connections, round, &requests);
        let slices = (0..ROUNDS).map(slice).collect::<Result<Vec<_>>>()?;
        self.add(key, |row| row.set_rates(peer.name, &slices));
        Ok(())
    }

    /// A row of one long slice of a slow peer between two of ours.
    fn against_slow(
        &mut self,
        peer: &Server,
        ours: &Server,
        key: &'static str,
        requests: impl Fn(&Server) -> Result<Vec<Vec<u8>>>,
    ) -> Result<()> {
        if !self.wants(key) {
            return Ok(());
        }
        let before = slice(ours, 8, SLICE, &requests(ours)?)?;
        let theirs = slice(peer, 8, LONG_SLICE, &requests(peer)?)?;
        let after = slice(ours, 8, SLICE, &requests(ours)?)?;
        self.add(key, |row| row.set_rates(peer.name, &[(theirs, before), (theirs, after)]));
        Ok(())
    }
}

/// What a server does at its first requests only (the peers import modules) is not measured.
fn warm_up(
    peer: &Server,
    ours: &Server,
    requests: impl Fn(&Server) -> Result<Vec<Vec<u8>>>,
) -> Result<()> {
    for server in [peer, ours] {
        slice(server, 8, Duration::from_millis(100), &requests(server)?)?;
    }
    Ok(())
}

/// Rates of the peer and of ours in one round; who goes first alternates.
fn pair(
    peer: &Server,
    ours: &Server,
    connections: usize,
    round: usize,
    requests: impl Fn(&Server) -> Result<Vec<Vec<u8>>>,
) -> Result<(f64, f64)> {
    let rate = |server: &Server| slice(server, connections, SLICE, &requests(server)?);
    if round.is_multiple_of(2) {
        let theirs = rate(peer)?;
        Ok((theirs, rate(ours)?))
    } else {
        let rate_of_ours = rate(ours)?;
        Ok((rate(peer)?, rate_of_ours))
    }
}

fn slice(
    server: &Server,
    connections: usize,
    duration: Duration,
    requests: &[Vec<u8>],
) -> Result<f64> {
    let outcome = load::run(server.address, connections, requests, duration)
        .with_context(|| format!("load on {}", server.name))?;
    // A few failures would flatter nobody; many would measure the wrong thing.
    if outcome.failed * 100 > outcome.completed {
        let complaint = outcome.complaint.unwrap_or_default();
        let (failed, good) = (outcome.failed, outcome.completed);
        bail!("{}: {failed} answers are errors, {good} are not: {complaint}", server.name);
    }
    Ok(outcome.rate())
}

/// A tag on each instance in turn, each time with another value: every request changes something.
fn tags(server: &Server) -> Result<Vec<Vec<u8>>> {
    let ids = server.instances()?;
    let one = |value: usize, id: &String| {
        let tag = format!("Tag.1.Key=Name&Tag.1.Value=bench-{value}");
        server.ec2(&format!("CreateTags&ResourceId.1={id}&{tag}"))
    };
    Ok((0..8).flat_map(|value| ids.iter().map(move |id| one(value, id))).collect())
}
