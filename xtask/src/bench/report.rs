//! The table, on the terminal and in docs/performance.md.

use super::server::{PACKAGES, Tools};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// What a row promises.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bar {
    /// This many times the peer's rate.
    AtLeast(f64),
    /// A size or a time, and its unit.
    AtMost(f64, &'static str),
}

/// What a slice of load measured of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Good answers a second.
    pub a_second: f64,
    /// Processor time an answer, in seconds: says what a change does even on a busy machine.
    pub processor: f64,
}

/// The rates of a peer and of gureum, medians of the slices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    peer: &'static str,
    theirs: Rate,
    ours: Rate,
}

/// A row of the table, as far as it was measured.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub key: &'static str,
    pub what: &'static str,
    pub bar: Bar,
    /// Where rates were measured.
    pub rates: Option<Rates>,
    /// The ratio, size or time.
    pub value: Option<f64>,
    /// Why it was not measured.
    pub skipped: Option<String>,
}

impl Default for Row {
    fn default() -> Self {
        let bar = Bar::AtLeast(1.0);
        Row { key: "", what: "", bar, rates: None, value: None, skipped: None }
    }
}

impl Row {
    /// From pairs of the peer's rate and ours.
    pub(super) fn set_rates(&mut self, peer: &'static str, slices: &[(Rate, Rate)]) {
        let middle =
            |value: fn(&(Rate, Rate)) -> f64| median(&slices.iter().map(value).collect::<Vec<_>>());
        self.value = Some(middle(|(theirs, ours)| ours.a_second / theirs.a_second));
        let theirs =
            Rate { a_second: middle(|(t, _)| t.a_second), processor: middle(|(t, _)| t.processor) };
        let ours =
            Rate { a_second: middle(|(_, o)| o.a_second), processor: middle(|(_, o)| o.processor) };
        self.rates = Some(Rates { peer, theirs, ours });
    }

    pub(super) fn set_value(&mut self, value: f64) {
        self.value = Some(value);
    }

    /// Whether it meets its bar; `None` if it was skipped.
    pub(super) fn is_met(&self) -> Option<bool> {
        self.value.map(|value| match self.bar {
            Bar::AtLeast(bar) => value >= bar,
            Bar::AtMost(bar, _) => value <= bar,
        })
    }
}

/// The middle value; the mean of the two middle ones if there are two.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// One line for the terminal, as soon as a row is measured.
pub(super) fn line(row: &Row) -> String {
    let verdict = match row.is_met() {
        None => "skipped",
        Some(true) => "ok",
        Some(false) => "MISSED",
    };
    format!("{verdict:>8}  {}: {} (bar {}){}", row.what, measured(row), bar(row), rates(row))
}

fn rates(row: &Row) -> String {
    row.rates.map_or_else(String::new, |Rates { peer, theirs, ours }| {
        format!(
            ", {} against {peer}'s {} a second; {} and {} µs of processor time each",
            number(ours.a_second),
            number(theirs.a_second),
            number(ours.processor * 1e6),
            number(theirs.processor * 1e6),
        )
    })
}

fn measured(row: &Row) -> String {
    match (row.value, row.bar, &row.skipped) {
        (Some(value), Bar::AtLeast(_), _) => format!("{value:.2} times"),
        (Some(value), Bar::AtMost(_, unit), _) => format!("{value:.2} {unit}"),
        (None, _, reason) => format!("not measured: {}", reason.as_deref().unwrap_or("unknown")),
    }
}

fn bar(row: &Row) -> String {
    match row.bar {
        Bar::AtLeast(bar) => format!("≥ {bar} times"),
        Bar::AtMost(bar, unit) => format!("≤ {bar} {unit}"),
    }
}

/// A rate with three significant digits or more.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The table in Markdown.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = "| what | peer, requests/s | gureum, requests/s | measured | bar | |\n\
                    | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for row in rows {
        let (theirs, ours) = row.rates.map_or_else(Default::default, |rates| {
            let theirs = format!("{} {}", rates.peer, number(rates.theirs.a_second));
            (theirs, number(rates.ours.a_second))
        });
        let verdict = match row.is_met() {
            None => "skipped",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        let (what, measured, bar) = (row.what, measured(row), bar(row));
        let _ = writeln!(text, "| {what} | {theirs} | {ours} | {measured} | {bar} | {verdict} |");
    }
    text
}

/// Rewrites the page about performance.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(path: &Path, tools: &Tools, rows: &[Row]) -> Result<()> {
    let mut text = String::from(
        "# Performance\n\nWritten by `cargo xtask bench`; edit `xtask/src/bench`, not this page.\n\n",
    );
    let _ = writeln!(text, "Measured on {} on {}.\n", today(), machine(tools)?);
    text.push_str(&table(rows));
    text.push_str(HOW);
    let missed: Vec<_> = rows.iter().filter(|row| row.is_met() == Some(false)).collect();
    let skipped: Vec<_> = rows.iter().filter(|row| row.is_met().is_none()).collect();
    text.push_str("\n## What does not meet its bar\n\n");
    if missed.is_empty() {
        text.push_str("Nothing that was measured.\n");
    }
    for row in missed {
        let _ = writeln!(text, "- {}: {}, bar {}.", row.what, measured(row), bar(row));
    }
    for row in skipped {
        let _ = writeln!(text, "- {}: {}.", row.what, measured(row));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}

const HOW: &str = "
## How it is measured

`cargo xtask bench` builds gureum in release, installs the peers from PyPI and starts all of them on
this machine, load generator included. `cargo xtask bench run-` measures only the rows whose key has
`run-` in it.

- The load generator is one thread that polls keep-alive connections (8 unless the row says 64),
  sends requests that were signed beforehand and reads every answer to its end. Only status 200
  counts.
- Peer and gureum are loaded in turn in slices of 0.7 s, seven rounds, who goes first alternating;
  a row is the median of the rounds' ratios, the rates are medians too. Against moto, whose answers
  take seconds, it is one slice of 8 s between two of ours.
- Everyone gets the same requests. gureum verifies each signature (SigV4), and answers a write after
  the fsync of its transaction; the peers check no signature and keep everything in memory.
- gureum keeps the answers to reads until the state changes (16 MiB of them), so a poller's question
  costs a look-up. The rows “each question new” spell every request differently (other letters
  percent-encoded), so that none is answered by a kept answer: they measure the work itself.
- Launches: each round begins with fresh servers, and the requests name the six zones in turn.
  CreateTags: 1,000 instances in turn, each time with another value.
- Start: from the start of the process to its answer to a DescribeInstances, median of seven.
  Memory: VmRSS of the process that has just made the instances.
";

fn today() -> String {
    base::Timestamp::wall().format("%Y-%m-%d")
}

/// The machine, its disk's fsync and the peers' versions, in a sentence.
fn machine(tools: &Tools) -> Result<String> {
    let processors = std::thread::available_parallelism()?;
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: f64 = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(f64::NAN);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!(
        "a machine with {processors} processors ({}), {:.0} GiB of memory, Linux {}, whose disk takes \
         {:.2} ms for an fsync of 4 KiB (median); peers: {}",
        model.map_or("unknown", |(_, name)| name),
        kib / 1024.0 / 1024.0,
        kernel.trim(),
        fsync_millis(&tools.work)?,
        versions(tools)?,
    ))
}

/// What a durable write must cost here at least.
fn fsync_millis(directory: &Path) -> Result<f64> {
    let path = directory.join("fsync");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(&[0; 4096])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    fs::remove_file(&path)?;
    Ok(median(&times))
}

fn versions(tools: &Tools) -> Result<String> {
    let output = Command::new(tools.peers.join("python"))
        .args(["-m", "pip", "--disable-pip-version-check", "list", "--format", "freeze"])
        .output()?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = PACKAGES.map(|p| p.split(['[', '=']).next().unwrap_or(p));
    let found = list.lines().filter_map(|line| line.split_once("=="));
    let found = found.filter(|(name, _)| names.contains(name));
    Ok(found.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_ratios() {
        let mut row = Row { what: "X", bar: Bar::AtLeast(2.0), ..Row::default() };
        assert_eq!(row.is_met(), None);
        let rate = |a_second| Rate { a_second, processor: 0.001 };
        let slices = [(100.0, 200.0), (10.0, 40.0), (1000.0, 1000.0)];
        row.set_rates("peer", &slices.map(|(theirs, ours)| (rate(theirs), rate(ours))));
        assert_eq!((row.value, row.is_met()), (Some(2.0), Some(true)));
        assert_eq!(
            line(&row),
            "      ok  X: 2.00 times (bar ≥ 2 times), 200 against peer's 100 a second; \
             1,000 and 1,000 µs of processor time each"
        );
        row.set_rates("peer", &[(rate(0.7), rate(1.0)), (rate(1.0), rate(1.0))]);
        assert_eq!(row.is_met(), Some(false));
        assert!(table(&[row]).contains("**missed**"));
        assert_eq!(number(1_234_567.0), "1,234,567");
    }
}
