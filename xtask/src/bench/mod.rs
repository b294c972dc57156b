//! `cargo xtask bench [--binary PATH] [ROW…]`: each promise of speed and size as a ratio to a named peer, in one
//! run on one machine.
//!
//! Peer and gureum are loaded in turn, in short slices, several rounds; a row's number is the median
//! of the rounds' ratios, so that what disturbs the machine disturbs both. All get the same requests;
//! gureum verifies their signatures and answers a write after the fsync, the peers do neither.
//! A whole run rewrites docs/performance.md; a run of some rows only prints.

mod disk;
mod load;
mod machine;
mod report;
mod server;

use crate::setup;
use anyhow::{Context, Result, bail};
use report::{Bar, Rate, Row};
use server::{Question, Server, Tools};
use std::time::Duration;

const ROUNDS: usize = 7;
const SLICE: Duration = Duration::from_millis(700);
/// For moto, whose answers take seconds: long enough for some of them.
const LONG_SLICE: Duration = Duration::from_secs(8);

/// gureum keeps the answers to reads until the state changes. In these rows every request is spelt
/// differently, so that none of them is answered by a kept one.
const NEW: &str = "the same, each question new";

/// How many spellings a slice needs at most.
const SPELLINGS: usize = 1 << 15;

/// The rows, in the order of the table: key, what, bar.
const ROWS: &[(&str, &str, Bar)] = &[
    ("describe-0", "DescribeInstances, no instances", Bar::AtLeast(10.0)),
    ("describe-0-new", NEW, Bar::AtLeast(10.0)),
    ("describe-100", "DescribeInstances, 100 instances", Bar::AtLeast(2.0)),
    ("describe-100-new", NEW, Bar::AtLeast(2.0)),
    ("describe-100-moto", "DescribeInstances, 100 instances, against moto", Bar::AtLeast(100.0)),
    ("describe-1000", "DescribeInstances, 1,000 instances", Bar::AtLeast(1.5)),
    ("describe-1000-new", NEW, Bar::AtLeast(1.5)),
    ("describe-1000-moto", "DescribeInstances, 1,000 instances, against moto", Bar::AtLeast(100.0)),
    ("describe-one", "DescribeInstances, one id among 1,000", Bar::AtLeast(13.0)),
    ("describe-one-new", NEW, Bar::AtLeast(13.0)),
    ("instance-types", "DescribeInstanceTypes of one type", Bar::AtLeast(16.0)),
    ("instance-types-new", NEW, Bar::AtLeast(16.0)),
    ("caller-identity", "GetCallerIdentity", Bar::AtLeast(18.0)),
    ("caller-identity-new", NEW, Bar::AtLeast(18.0)),
    ("run-8", "RunInstances (sim), durable, 8 connections", Bar::AtLeast(1.0)),
    ("run-64", "RunInstances (sim), durable, 64 connections", Bar::AtLeast(3.0)),
    ("tags-8", "CreateTags, durable, 8 connections", Bar::AtLeast(0.8)),
    ("tags-64", "CreateTags, durable, 64 connections", Bar::AtLeast(4.0)),
    ("start", "serve to first answer, 1,000 instances on redb", Bar::AtMost(100.0, "ms")),
    ("memory-empty", "resident memory, empty region", Bar::AtMost(25.0, "MiB")),
    ("memory-1000", "resident memory, 1,000 simulated instances", Bar::AtMost(60.0, "MiB")),
    ("first-imds", "run-instances to first IMDS request, to bare QEMU", Bar::AtMost(1.15, "times")),
    ("memory-vm", "resident memory added per running VM, its disk filled", Bar::AtMost(1.0, "MiB")),
    ("network-throughput", "TCP through groups and ACLs, to the routed path", Bar::AtLeast(0.9)),
    ("network-connections", "connections through groups and ACLs, to the same", Bar::AtLeast(0.9)),
    ("network-groups", "both with 500 groups and 30,000 rules, to 1 group", Bar::AtLeast(0.95)),
    ("network-change", "one rule of 30,000 changed, until it is obeyed", Bar::AtMost(100.0, "ms")),
    ("network-nat", "TCP by 1:1 translation, to plain routing", Bar::AtLeast(0.95)),
    ("network-nat-gateway", "TCP by a NAT gateway, to a masquerade by hand", Bar::AtLeast(0.95)),
    ("network-plan", "plan of a VPC of 10,000 interfaces, compiled", Bar::AtMost(200.0, "ms")),
    ("disk-random-read", "volume, random 4 KiB reads, to a bare qcow2", Bar::AtLeast(0.95)),
    ("disk-random-write", "volume, random 4 KiB writes, to a bare qcow2", Bar::AtLeast(0.95)),
    ("disk-sequential-read", "volume, sequential 1 MiB reads, to a bare qcow2", Bar::AtLeast(0.95)),
    (
        "disk-sequential-write",
        "volume, sequential 1 MiB writes, to a bare qcow2",
        Bar::AtLeast(0.95),
    ),
    ("filling-random-read", "volume that still fills, random 4 KiB reads", Bar::AtLeast(0.9)),
    ("filling-random-write", "volume that still fills, random 4 KiB writes", Bar::AtLeast(0.9)),
    (
        "filling-sequential-read",
        "volume that still fills, sequential 1 MiB reads",
        Bar::AtLeast(0.9),
    ),
    (
        "filling-sequential-write",
        "volume that still fills, sequential 1 MiB writes",
        Bar::AtLeast(0.9),
    ),
    ("pause", "a guest's durable write waits for CreateSnapshot", Bar::AtMost(100.0, "ms")),
    ("pause-size", "the call on 64 GiB to that on 1 GiB", Bar::AtMost(1.5, "times")),
    (
        "second-snapshot",
        "bytes of a second snapshot to bytes that changed",
        Bar::AtMost(1.1, "times"),
    ),
    ("first-read", "volume from 10 GiB snapshot: call to guest's read", Bar::AtMost(3.0, "s")),
    ("first-read-size", "that of 10 GiB to that of 1 GiB", Bar::AtMost(1.5, "times")),
    ("enforced-iops", "IOPS over 30 s, off what is configured", Bar::AtMost(5.0, "%")),
    ("enforced-throughput", "throughput over 30 s, off what is configured", Bar::AtMost(5.0, "%")),
];

/// The first of the rows that bench/disks.py measures; the rest follow it.
const FIRST_DISK: &str = "disk-random-read";

/// What to ask a server.
type Ask = fn(&Server) -> Result<Vec<Question>>;
/// The keys of a row of reads, asked alike and spelt anew, and what they ask.
type Reads = ([&'static str; 2], Ask);

struct Bench {
    tools: Tools,
    wanted: Vec<String>,
    rows: Vec<Row>,
}

/// Runs the rows whose key contains one of the arguments, or all of them, on a release that it
/// builds, or on the binary that is named.
///
/// # Errors
/// Something does not build, install, start or answer.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (binary, wanted) = match arguments {
        [option, path, wanted @ ..] if option == "--binary" => (Some(path), wanted),
        _ => (None, arguments),
    };
    let unknown = |a: &&String| !ROWS.iter().any(|(key, ..)| key.contains(a.as_str()));
    if let Some(argument) = wanted.iter().find(unknown) {
        let keys: Vec<_> = ROWS.iter().map(|(key, ..)| *key).collect();
        bail!("no row is called {argument}; there are {}", keys.join(", "));
    }
    let gureum = match binary {
        Some(path) => std::fs::canonicalize(path).with_context(|| path.clone())?,
        None => setup::build("release")?,
    };
    let peers = setup::venv(&setup::target().join("bench-venv"), &server::PACKAGES)?;
    let work = setup::target().join("bench");
    let tools = Tools { gureum: Some(gureum), peers, work };
    let mut bench = Bench { tools, wanted: wanted.to_vec(), rows: Vec::new() };
    bench.reads_and_tags()?;
    bench.launches()?;
    bench.start_and_memory()?;
    bench.machines();

    let order = |row: &Row| ROWS.iter().position(|(key, ..)| *key == row.key);
    bench.rows.sort_by_key(order);
    println!("\n{}", report::table(&bench.rows));
    if wanted.is_empty() {
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

    /// Whether a row is wanted whose key contains one of `parts`.
    fn wants_like(&self, parts: &[&str]) -> bool {
        ROWS.iter().any(|(key, ..)| parts.iter().any(|p| key.contains(p)) && self.wants(key))
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
        let before = ["describe-0", "instance-types", "caller-identity"];
        let hundred = ["describe-100"];
        let thousand = ["describe-1000", "describe-one", "tags-"];
        if !self.wants_like(&[&before[..], &hundred, &thousand].concat()) {
            return Ok(());
        }
        let ours = self.tools.gureum(&self.tools.fresh_data("reads")?)?;
        let peer = self.tools.ministack()?;
        let moto = self.wants_like(&["-moto"]).then(|| self.tools.moto()).transpose()?;
        let grow = |count| -> Result<()> {
            let servers = [Some(&peer), Some(&ours), moto.as_ref()];
            let mut servers = servers.into_iter().flatten();
            servers.try_for_each(|s| s.grow_to(count)).with_context(|| format!("{count} instances"))
        };
        let describe: Ask = |_| Ok(vec![Question::ec2("DescribeInstances", "")]);
        let kind: Ask =
            |_| Ok(vec![Question::ec2("DescribeInstanceTypes", "&InstanceType.1=t3.micro")]);
        let identity: Ask = |_| Ok(vec![Question::sts("GetCallerIdentity")]);
        let one_id: Ask = |server| {
            let one = |id| Question::ec2("DescribeInstances", &format!("&InstanceId.1={id}"));
            Ok(server.instances()?.into_iter().map(one).collect())
        };

        let rows: [Reads; 3] = [
            (["describe-0", "describe-0-new"], describe),
            (["instance-types", "instance-types-new"], kind),
            (["caller-identity", "caller-identity-new"], identity),
        ];
        self.reads(&peer, &ours, &rows)?;
        if self.wants_like(&hundred) {
            grow(100)?;
            self.reads(&peer, &ours, &[(["describe-100", "describe-100-new"], describe)])?;
            self.against_slow(moto.as_ref(), &ours, "describe-100-moto", describe)?;
        }
        if self.wants_like(&thousand) {
            grow(1000)?;
            let rows: [Reads; 2] = [
                (["describe-1000", "describe-1000-new"], describe),
                (["describe-one", "describe-one-new"], one_id),
            ];
            self.reads(&peer, &ours, &rows)?;
            self.against_slow(moto.as_ref(), &ours, "describe-1000-moto", describe)?;
            self.against(&peer, &ours, "tags-8", 8, tags)?;
            self.against(&peer, &ours, "tags-64", 64, tags)?;
        }
        Ok(())
    }

    /// For each, a row that asks the same questions over and over, and one that spells each anew.
    /// The latter come last: they fill what gureum keeps.
    fn reads(&mut self, peer: &Server, ours: &Server, rows: &[Reads]) -> Result<()> {
        for ([same, _], questions) in rows {
            self.against(peer, ours, same, 8, |server, _| {
                Ok(questions(server)?.iter().map(|q| server.request(q, 0)).collect())
            })?;
        }
        for ([_, new], questions) in rows {
            self.against(peer, ours, new, 8, |server, round| {
                let questions = questions(server)?;
                let spellings = round * SPELLINGS..(round + 1) * SPELLINGS;
                let spelt = spellings.zip(questions.iter().cycle());
                Ok(spelt.map(|(spelling, question)| server.request(question, spelling)).collect())
            })?;
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
            warm_up(&peer, &ours, |s, _| Ok(s.launches()))?;
            for (slices, (key, connections)) in slices.iter_mut().zip(keys) {
                if self.wants(key) {
                    slices.push(pair(&peer, &ours, connections, round, |s, _| Ok(s.launches()))?);
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
        let network =
            ROWS.iter().filter_map(|(key, ..)| Some((*key, key.strip_prefix("network-")?)));
        for (key, row) in network {
            self.machine_row(key, |_| machine::network(row));
        }
        self.disks();
    }

    /// The rows about disks, measured in one run of a region.
    fn disks(&mut self) {
        let disks = ROWS.iter().map(|(key, ..)| *key).skip_while(|key| *key != FIRST_DISK);
        let keys: Vec<&'static str> = disks.filter(|key| self.wants(key)).collect();
        if keys.is_empty() {
            return;
        }
        let mut values = Vec::new();
        let result = disk::measure(&self.tools, &keys, |key, value| {
            values.push((key.to_owned(), value));
        });
        for key in keys {
            let value = values.iter().find(|(measured, _)| measured == key);
            self.add(key, |row| match (value, &result) {
                (Some((_, value)), _) => row.set_value(*value),
                (None, Err(error)) => row.skipped = Some(format!("{error:#}")),
                (None, Ok(())) => row.skipped = Some("it was not measured".to_owned()),
            });
        }
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
        requests: impl Fn(&Server, usize) -> Result<Vec<Vec<u8>>>,
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
        peer: Option<&Server>,
        ours: &Server,
        key: &'static str,
        questions: impl Fn(&Server) -> Result<Vec<Question>>,
    ) -> Result<()> {
        let Some(peer) = peer.filter(|_| self.wants(key)) else { return Ok(()) };
        let rate = |server: &Server, duration| {
            let requests: Vec<_> =
                questions(server)?.iter().map(|q| server.request(q, 0)).collect();
            slice(server, 8, duration, &requests)
        };
        let before = rate(ours, SLICE)?;
        let theirs = rate(peer, LONG_SLICE)?;
        let after = rate(ours, SLICE)?;
        self.add(key, |row| row.set_rates(peer.name, &[(theirs, before), (theirs, after)]));
        Ok(())
    }
}

/// What a server does at its first requests only (the peers import modules) is not measured.
fn warm_up(
    peer: &Server,
    ours: &Server,
    requests: impl Fn(&Server, usize) -> Result<Vec<Vec<u8>>>,
) -> Result<()> {
    for server in [peer, ours] {
        let _ = slice(server, 8, Duration::from_millis(100), &requests(server, ROUNDS)?)?;
    }
    Ok(())
}

/// Rates of the peer and of ours in one round; who goes first alternates.
fn pair(
    peer: &Server,
    ours: &Server,
    connections: usize,
    round: usize,
    requests: impl Fn(&Server, usize) -> Result<Vec<Vec<u8>>>,
) -> Result<(Rate, Rate)> {
    let rate = |server: &Server| slice(server, connections, SLICE, &requests(server, round)?);
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
) -> Result<Rate> {
    let before = server.processor_seconds()?;
    let outcome = load::run(server.address, connections, requests, duration)
        .with_context(|| format!("load on {}", server.name))?;
    // A few failures would flatter nobody; many would measure the wrong thing.
    if outcome.failed * 100 > outcome.completed {
        let complaint = outcome.complaint.unwrap_or_default();
        let (failed, good) = (outcome.failed, outcome.completed);
        bail!("{}: {failed} answers are errors, {good} are not: {complaint}", server.name);
    }
    let used = server.processor_seconds()? - before;
    let answers = (outcome.completed + outcome.failed).max(1);
    Ok(Rate { a_second: outcome.rate(), processor: used / answers as f64 })
}

/// A tag on each instance in turn, each time with another value: every request changes something.
fn tags(server: &Server, _: usize) -> Result<Vec<Vec<u8>>> {
    let ids = server.instances()?;
    let one = |value: usize, id: &String| {
        let tag = format!("&ResourceId.1={id}&Tag.1.Key=Name&Tag.1.Value=bench-{value}");
        server.request(&Question::ec2("CreateTags", &tag), 0)
    };
    Ok((0..8).flat_map(|value| ids.iter().map(move |id| one(value, id))).collect())
}
