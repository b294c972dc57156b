//! Flow logs: what the interfaces of a node carried, written to files as lines of text.
//!
//! ```text
//!  <data>/flow-logs/<account>/<region>/fl-…/2026-11-21/eni-….log
//!                  /.state/fl-….json          the last reading, and the lines that follow from it
//! ```
//!
//! The kernel counts and never starts anew ([`net::flow`]); each log remembers its last reading and
//! writes the difference when an interval of the region's clock is over. A packet is written once,
//! whatever happens to the daemon: the new reading and the lines that follow from it are put into
//! the state file in one step, before the lines are appended; who finds a state file makes the log
//! files as long as they were and appends its lines again.
//!
//! ```text
//!  read ─► state file: reading, lines, lengths ─► append ─► … next interval
//!              │ killed                    │ killed
//!              └──────── start ────────────┘ cut to length, append
//! ```
//!
//! An interface that joins a log begins with what was counted before ([`FlowLogs::prepare`], called
//! before a plan is applied), so that it writes nothing of the past and misses nothing to come. A
//! log that loses an interface writes its interval early.
//!
//! Not here: counting, delivery to CloudWatch Logs or S3.

mod line;

use base::network::{Flow, FlowLog, Plan};
use base::{Clock, Timestamp};
use line::{Place, Subject};
use net::flow::{Count, Key, Reading};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How soon after each other the counters are read, however fast the region's clock is.
const BREATH: Duration = Duration::from_millis(200);
/// How long to wait when counters could not be read or lines not be written.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait; the region's clock may be moved.
const LONGEST: Duration = Duration::from_secs(60);

/// Reads the counters of a VPC.
type Source = dyn Fn(&str) -> Result<Reading, String> + Send + Sync;

/// The flow logs of a node; a handle of the thread that writes them.
pub(crate) struct FlowLogs {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    clock: Clock,
    source: Box<Source>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// As it was applied last.
    plan: Plan,
    logs: BTreeMap<String, Log>,
    ended: bool,
}

/// A log's memory, which is also its state file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Log {
    v: u16,
    /// Where the current interval begins.
    from: Timestamp,
    interfaces: BTreeSet<String>,
    /// By VPC: what the base belongs to.
    epochs: BTreeMap<String, String>,
    /// The last reading.
    #[serde(with = "pairs")]
    base: BTreeMap<Key, Count>,
    /// What was to be appended to which file of which length.
    pending: Vec<Pending>,
    /// It was not, since the disk is full or the like.
    #[serde(skip)]
    unfinished: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pending {
    path: PathBuf,
    length: u64,
    text: String,
}

/// A map whose keys are no texts, as JSON.
mod pairs {
    use super::{BTreeMap, Count, Key};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<Key, Count>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Key, Count>, D::Error> {
        Ok(Vec::<(Key, Count)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Readings of one round, by VPC.
type Readings = BTreeMap<String, Result<Reading, String>>;

impl FlowLogs {
    /// Finishes what another process began and starts the thread.
    pub(crate) fn start(
        data: &Path,
        clock: Clock,
        source: impl Fn(&str) -> Result<Reading, String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let inner = Arc::new(Inner::open(data, clock, Box::new(source))?);
        let worker = Arc::clone(&inner);
        std::thread::Builder::new().name("flow-logs".to_owned()).spawn(move || worker.work())?;
        Ok(FlowLogs { inner })
    }

    /// To be called before `plan` is applied: interfaces that leave a log are written for the last
    /// time, those that join one are read for the first time.
    pub(crate) fn prepare(&self, plan: &Plan) {
        self.inner.prepare(plan);
    }

    /// To be called when `plan` was applied.
    pub(crate) fn follow(&self, plan: &Plan) {
        self.inner.locked().plan = plan.clone();
        self.inner.changed.notify_all();
    }
}

impl Drop for FlowLogs {
    fn drop(&mut self) {
        self.inner.locked().ended = true;
        self.inner.changed.notify_all();
    }
}

impl Inner {
    fn open(data: &Path, clock: Clock, source: Box<Source>) -> io::Result<Inner> {
        let directory = data.join("flow-logs");
        let mut logs = BTreeMap::new();
        let entries = match fs::read_dir(directory.join(".state")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries?),
        };
        for entry in entries.into_iter().flatten() {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let Some(id) = id.filter(|_| path.extension().is_some_and(|end| end == "json")) else {
                continue;
            };
            match serde_json::from_slice::<Log>(&fs::read(&path)?) {
                Ok(log) => {
                    log.pending.iter().try_for_each(append)?;
                    logs.insert(id.to_owned(), log);
                }
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "a flow log begins anew");
                }
            }
        }
        let state = Mutex::new(State { logs, ..State::default() });
        Ok(Inner { directory, clock, source, state, changed: Condvar::new() })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn work(&self) {
        let mut state = self.locked();
        while !state.ended {
            let fine = self.write_due(&mut state);
            let soonest = state.plan.flow_logs.iter().filter_map(|log| {
                Some(self.clock.wall_millis_until(state.logs.get(&log.id)?.due(log)))
            });
            let least = if fine { BREATH } else { RETRY };
            let wait = soonest.min().map_or(LONGEST, Duration::from_millis);
            let wait = wait.clamp(least, LONGEST);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    /// Writes every interval that is over; false if one has to be tried again.
    fn write_due(&self, state: &mut State) -> bool {
        let now = self.clock.now();
        let mut readings = Readings::new();
        let State { plan, logs, .. } = state;
        let mut fine = true;
        for spec in &plan.flow_logs {
            let Some(log) = logs.get_mut(&spec.id).filter(|log| log.due(spec) <= now) else {
                continue;
            };
            if let Err(error) = self.write(plan, spec, log, now, &mut readings) {
                tracing::warn!(error, id = spec.id, "a flow log is late");
                fine = false;
            }
        }
        fine
    }

    fn prepare(&self, plan: &Plan) {
        let now = self.clock.now();
        let mut state = self.locked();
        let State { plan: old, logs, .. } = &mut *state;
        let wanted: BTreeMap<&str, &FlowLog> =
            plan.flow_logs.iter().map(|spec| (spec.id.as_str(), spec)).collect();
        let mut readings = Readings::new();
        for spec in &old.flow_logs {
            let Some(log) = logs.get_mut(&spec.id) else { continue };
            let stays = |id: &String| {
                wanted.get(spec.id.as_str()).is_some_and(|wanted| wanted.interfaces.contains(id))
            };
            if log.interfaces.iter().all(stays) {
                continue;
            }
            if let Err(error) = self.write(old, spec, log, now, &mut readings) {
                tracing::warn!(error, id = spec.id, "the last flows of an interface are lost");
            }
        }
        logs.retain(|id, log| {
            let Some(spec) = wanted.get(id.as_str()) else {
                let _ = fs::remove_file(self.state_file(id));
                return false;
            };
            log.interfaces.retain(|id| spec.interfaces.contains(id));
            log.base.retain(|key, _| spec.interfaces.contains(&key.interface_id));
            true
        });
        for spec in &plan.flow_logs {
            let log = logs.entry(spec.id.clone()).or_insert_with(|| Log {
                v: 1,
                from: now,
                ..Log::default()
            });
            let new: BTreeSet<&String> =
                spec.interfaces.iter().filter(|id| !log.interfaces.contains(*id)).collect();
            if new.is_empty() {
                continue;
            }
            for (vpc, reading) in self.read(old, &new, &mut readings) {
                // A VPC that is not there yet has counted nothing.
                let Ok(reading) = reading else { continue };
                log.epochs.entry(vpc).or_insert(reading.epoch);
                let known = reading.flows.into_iter();
                log.base.extend(known.filter(|(key, _)| new.contains(&key.interface_id)));
            }
            log.interfaces.extend(new.into_iter().cloned());
            if let Err(error) = self.save(&spec.id, log) {
                tracing::warn!(%error, id = spec.id, "a flow log cannot remember");
            }
        }
    }

    /// The counters of the VPCs in which `interfaces` are.
    fn read(
        &self,
        plan: &Plan,
        interfaces: &BTreeSet<&String>,
        readings: &mut Readings,
    ) -> Readings {
        let vpcs = plan.vpcs.iter().filter(|vpc| {
            vpc.interfaces.iter().any(|interface| interfaces.contains(&interface.id))
        });
        vpcs.map(|vpc| {
            let reading = readings.entry(vpc.id.clone()).or_insert_with(|| (self.source)(&vpc.id));
            (vpc.id.clone(), reading.clone())
        })
        .collect()
    }

    /// Ends the interval of a log at `now`.
    fn write(
        &self,
        plan: &Plan,
        spec: &FlowLog,
        log: &mut Log,
        now: Timestamp,
        readings: &mut Readings,
    ) -> Result<(), String> {
        log.finish().map_err(|error| error.to_string())?;
        let interfaces: BTreeSet<&String> = log.interfaces.iter().collect();
        let mut next =
            Log { v: 1, from: now, interfaces: log.interfaces.clone(), ..Log::default() };
        let places: BTreeMap<&String, Option<Place<'_>>> =
            interfaces.iter().map(|&id| (id, Place::find(plan, id))).collect();
        let mut texts: BTreeMap<&String, String> = BTreeMap::new();
        let mut full = BTreeSet::new();
        for (vpc, reading) in self.read(plan, &interfaces, readings) {
            let reading = reading?;
            let same = log.epochs.get(&vpc) == Some(&reading.epoch);
            next.epochs.insert(vpc.clone(), reading.epoch);
            for (key, count) in reading.flows {
                let Some((&id, &place)) = places.get_key_value(&key.interface_id) else { continue };
                let before = log.base.get(&key).filter(|_| same).copied().unwrap_or_default();
                let wanted = if key.accepted { spec.accepted } else { spec.rejected };
                let flow = difference(&key, before, count, log.from, now);
                if let Some(flow) = flow.filter(|_| wanted) {
                    let text = texts.entry(id).or_default();
                    text.push_str(&line::line(spec, id, place, Subject::Flow(&flow)));
                    text.push('\n');
                }
                next.base.insert(key, count);
            }
            full.extend(reading.full.then_some(vpc));
        }
        let date = log.from.format("%Y-%m-%d");
        let files = self.directory.join(&spec.account).join(&spec.region).join(&spec.id);
        for (id, place) in places {
            let mut text = texts.remove(id).unwrap_or_default();
            let skipped = place.is_some_and(|place| full.contains(place.vpc_id()));
            let special = if skipped {
                Some(Subject::Skipped(log.from, now))
            } else {
                text.is_empty().then_some(Subject::Silence(log.from, now))
            };
            if let Some(special) = special {
                text.push_str(&line::line(spec, id, place, special));
                text.push('\n');
            }
            let path = files.join(&date).join(format!("{id}.log"));
            let length = fs::metadata(&path).map_or(0, |file| file.len());
            next.pending.push(Pending { path, length, text });
        }
        self.save(&spec.id, &next).map_err(|error| error.to_string())?;
        let before = std::mem::replace(log, next);
        log.unfinished = true;
        log.finish().map_err(|error| error.to_string())?;
        sync_finished(&before.pending, &log.pending);
        Ok(())
    }

    fn state_file(&self, id: &str) -> PathBuf {
        self.directory.join(".state").join(format!("{id}.json"))
    }

    fn save(&self, id: &str, log: &Log) -> io::Result<()> {
        let path = self.state_file(id);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let temporary = path.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(log).map_err(io::Error::other)?)?;
        fs::rename(temporary, path)
    }
}

impl Log {
    /// Appends what is not in the files yet.
    fn finish(&mut self) -> io::Result<()> {
        if self.unfinished {
            self.pending.iter().try_for_each(append)?;
            self.unfinished = false;
        }
        Ok(())
    }

    /// When the current interval is over: at the next multiple of the log's interval.
    fn due(&self, spec: &FlowLog) -> Timestamp {
        let interval = i64::from(spec.interval.max(1)) * 1000;
        Timestamp((self.from.0.div_euclid(interval) + 1).saturating_mul(interval))
    }
}

/// What came since `before`; a counter that went back began anew.
fn difference(
    key: &Key,
    before: Count,
    now: Count,
    start: Timestamp,
    end: Timestamp,
) -> Option<Flow> {
    let anew = now.packets < before.packets || now.bytes < before.bytes;
    let before = if anew { Count::default() } else { before };
    let packets = now.packets - before.packets;
    (packets > 0).then(|| Flow {
        interface_id: key.interface_id.clone(),
        egress: key.egress,
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        packets,
        bytes: now.bytes - before.bytes,
        start,
        end,
        accepted: key.accepted,
    })
}

/// Makes a file what it was before, with the text behind; as often as one likes. A file that is
/// shorter than it was has been taken away by somebody, with the text.
fn append(pending: &Pending) -> io::Result<()> {
    if let Some(directory) = pending.path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).open(&pending.path)?;
    let length = file.metadata()?.len();
    if length < pending.length {
        return Ok(());
    }
    file.set_len(pending.length)?;
    file.write_all(pending.text.as_bytes())
}

/// Files that nothing will be appended to any more go to the disk for good.
fn sync_finished(before: &[Pending], now: &[Pending]) {
    let open: BTreeSet<&Path> = now.iter().map(|pending| pending.path.as_path()).collect();
    for pending in before.iter().filter(|pending| !open.contains(pending.path.as_path())) {
        if let Err(error) = File::open(&pending.path).and_then(|file| file.sync_all()) {
            tracing::warn!(%error, path = %pending.path.display(), "a flow log is not safe");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
