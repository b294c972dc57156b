//! What is done to a volume behind its machine's back: filling, merging, growing, limits.
//!
//! ```text
//!            a machine has it                      nobody has it
//!  fill      block-stream in its owner             in a passing storage daemon, if it is to be
//!                                                  filled before it is given to anybody
//!  merge     block-commit in its owner             in a passing storage daemon
//!  grow      block_resize in its owner             in a passing storage daemon
//! ```
//!
//! A fill writes to layer 0 alone, a merge to frozen layers alone, so neither keeps a snapshot from
//! being cut. Both may be broken off anywhere and done again.

use super::directory::{Directory, IDLE_USER, Merging};
use super::host::{Chain, Event, Host, JobKind, Statistics, Throttle};
use super::keeper::{Keeper, Purpose};
use super::limits::{self, Balance};
use super::task::{Impaired, TICK, Volume, blocking, now};
use base::volume::Spec;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How fast a volume fills if nobody says, MiB a second.
const FILL_MIB: u32 = 64;

/// How fast layers are merged under a machine that uses them, bytes a second.
const MERGE_BYTES: u64 = 256 << 20;

/// From a failed job to the next try.
const JOB_AGAIN: Duration = Duration::from_secs(15);

/// How long everything has to work until a volume is not impaired any more.
const HEALTHY: Duration = Duration::from_secs(10);

/// Ticks between two writes of the balance.
const SAVE_BALANCE: u32 = 60;

/// The volume that an owner speaks of.
pub(super) fn volume_of(event: &Event) -> &str {
    match event {
        Event::DeviceDeleted { volume } | Event::IoError { volume, .. } | Event::Job { volume } => {
            volume
        }
    }
}

/// What a passing storage daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fill { bytes_per_second: u64 },
    Merge(Merging),
    Grow { size_gib: u32 },
}

/// Work on a volume that nobody has.
#[derive(Debug)]
pub(super) struct Work {
    kind: Kind,
    /// Percent.
    done: Arc<AtomicU64>,
    /// Dropped, it breaks the work off.
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<bool, String>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Work {
    pub(super) fn merges(&self) -> bool {
        matches!(self.kind, Kind::Merge(_))
    }

    pub(super) fn percent(&self) -> Option<u8> {
        let percent = self.done.load(Ordering::Relaxed).min(99);
        matches!(self.kind, Kind::Fill { .. }).then_some(u8::try_from(percent).unwrap_or(99))
    }

    /// Whether it was done rather than broken off. Cancellation safe.
    pub(super) async fn ended(&mut self) -> Result<bool, String> {
        (&mut self.task).await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Volume {
    async fn start_work(&mut self, spec: &Spec, kind: Kind) -> Result<(), String> {
        self.ensure_server(IDLE_USER).await?;
        let mut chain = self.chain(spec).await?;
        chain.throttle = Throttle::default();
        let (stop, stopped) = oneshot::channel();
        let (data_dir, directory) = (self.shared.config.data_dir.clone(), self.directory.clone());
        let done = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(work(data_dir, directory, chain, kind, stopped, Arc::clone(&done)));
        self.work = Some(Work { kind, done, stop: Some(stop), task });
        Ok(())
    }

    /// Breaks the work off and settles what it did.
    pub(super) async fn stop_work(&mut self) {
        let Some(work) = &mut self.work else { return };
        work.stop = None;
        let result = work.ended().await;
        self.on_worked(result).await;
    }

    pub(super) async fn on_worked(&mut self, result: Result<bool, String>) {
        let Some(work) = self.work.take() else { return };
        match result {
            Ok(true) => match work.kind {
                Kind::Fill { .. } => self.filled().await,
                Kind::Merge(_) => self.merged().await,
                Kind::Grow { size_gib } => self.grown(size_gib).await,
            },
            Ok(false) => {}
            Err(message) => {
                tracing::warn!(id = self.handle.id, message, kind = ?work.kind, "work failed");
                if matches!(work.kind, Kind::Fill { .. }) {
                    self.unfilled =
                        Some(format!("the volume cannot be filled from its snapshot: {message}"));
                }
                let what = match work.kind {
                    Kind::Fill { .. } => "fill",
                    Kind::Merge(_) => "merge",
                    Kind::Grow { .. } => "grow",
                };
                self.put_off(what, JOB_AGAIN);
            }
        }
        self.spare_server().await;
    }

    /// Begins to fill the volume from its source.
    pub(super) async fn start_fill(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        let begun = self.job.is_some() || self.work.is_some();
        if record.filled || begun || !self.is_due("fill") || self.unsaved() {
            return false;
        }
        let bytes_per_second = fill_speed(spec);
        let started = match self.owner() {
            Some(owner) => {
                let began = owner.stream(&self.handle.id, 0, bytes_per_second).await;
                if began.is_ok() {
                    self.job = Some(JobKind::Stream);
                    self.fill_speed = Some(bytes_per_second);
                }
                began.map_err(|error| error.to_string())
            }
            None if self.is_owned() || !spec.filled_first => return false,
            None => self.start_work(spec, Kind::Fill { bytes_per_second }).await,
        };
        if let Err(message) = started {
            tracing::warn!(id = self.handle.id, message, "a volume cannot be filled yet");
            self.put_off("fill", JOB_AGAIN);
            return false;
        }
        true
    }

    /// Everything that the source holds is in layer 0.
    async fn filled(&mut self) {
        tracing::info!(id = self.handle.id, "a volume has filled");
        if let Some(record) = &mut self.record {
            record.filled = true;
        }
        self.unfilled = None;
        self.save().await;
        self.spare_server().await;
        self.publish();
    }

    /// Begins to merge layers that nothing needs apart.
    pub(super) async fn merge(&mut self) -> bool {
        let Some(record) = &mut self.record else { return false };
        let Some(merging) = record.mergeable() else { return false };
        let begun = self.job.is_some() || self.work.is_some() || self.uploading.is_some();
        if begun || !self.is_due("merge") || self.unsaved() {
            return false;
        }
        let owner = self.owner();
        if self.is_owned() && owner.is_none() {
            return false;
        }
        let Some(spec) = self.inbox.borrow().clone() else { return false };
        if let Some(record) = &mut self.record {
            record.merging = Some(merging);
            // Neither what it was nor what it will be.
            if let Some(base) = record.layers.iter_mut().find(|l| l.number == merging.base) {
                base.content = None;
            }
        }
        if !self.save().await {
            return false;
        }
        let id = self.handle.id.clone();
        let started = match owner {
            Some(owner) => {
                let began = owner.commit(&id, merging.top, merging.base, MERGE_BYTES).await;
                if began.is_ok() {
                    self.job = Some(JobKind::Commit);
                }
                began.map_err(|error| error.to_string())
            }
            None => self.start_work(&spec, Kind::Merge(merging)).await,
        };
        if let Err(message) = started {
            tracing::warn!(id, message, "layers cannot be merged yet");
            self.put_off("merge", JOB_AGAIN);
            return false;
        }
        true
    }

    async fn merged(&mut self) {
        let Some(record) = &mut self.record else { return };
        let Some(merging) = record.merging else { return };
        tracing::debug!(id = self.handle.id, ?merging, "merged two layers");
        record.finish_merge();
        if self.save().await {
            let directory = self.directory.clone();
            // What stays is removed at the next start.
            let _ = blocking(move || directory.remove_layer(merging.top)).await;
        }
    }

    /// Makes the volume as large as it is wanted.
    pub(super) async fn grow(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        if spec.size_gib <= record.size_gib
            || record.cutting.is_some()
            || self.work.is_some()
            || self.unsaved()
            || !self.is_due("grow")
        {
            return false;
        }
        let owner = self.owner();
        // An export over NBD does not grow under those who have it.
        if self.is_owned() && (owner.is_none() || record.multi_attach) {
            return false;
        }
        let size_gib = spec.size_gib;
        let bytes = u64::from(size_gib) << 30;
        let passphrase = match self.shared.passphrase(record.key.as_ref()).await {
            Ok(passphrase) => passphrase.map(|passphrase| passphrase.0),
            Err(message) => {
                tracing::warn!(id = self.handle.id, message, "a volume cannot grow yet");
                self.put_off("grow", JOB_AGAIN);
                return false;
            }
        };
        let (directory, shared) = (self.directory.clone(), Arc::clone(&self.shared));
        let grown = blocking(move || {
            directory.resize_empty(bytes, passphrase.as_deref(), &shared.qemu_img)
        });
        let mut done = grown.await.map_err(|error| error.to_string());
        if done.is_ok() {
            done = match owner {
                Some(owner) => {
                    let resized = owner.resize(&self.handle.id, bytes).await;
                    if resized.is_ok() {
                        self.grown(size_gib).await;
                    }
                    resized.map_err(|error| error.to_string())
                }
                None => self.start_work(spec, Kind::Grow { size_gib }).await,
            };
        }
        if let Err(message) = done {
            tracing::warn!(id = self.handle.id, message, "a volume cannot grow yet");
            self.put_off("grow", JOB_AGAIN);
            return false;
        }
        true
    }

    async fn grown(&mut self, size_gib: u32) {
        tracing::info!(id = self.handle.id, size_gib, "a volume has grown");
        if let Some(record) = &mut self.record {
            record.size_gib = size_gib;
        }
        self.save().await;
        self.publish();
    }

    /// What runs in an owner that another daemon, or nobody, watched.
    pub(super) async fn take_up_job(&mut self, owner: &Host) {
        self.job = None;
        for kind in [JobKind::Stream, JobKind::Commit] {
            if let Ok(Some(_)) = owner.job(&self.handle.id, kind).await {
                self.job = Some(kind);
            }
        }
        let merging = self.record.as_ref().and_then(|record| record.merging);
        if let (None, Some(merging)) = (self.job, merging)
            && let Ok(layers) = owner.layers(&self.handle.id).await
            && layers.contains(&merging.base)
            && !layers.contains(&merging.top)
        {
            self.merged().await;
        }
        self.watch_job(owner).await;
    }

    /// Looks how far the owner's job is.
    async fn watch_job(&mut self, owner: &Host) {
        let Some(kind) = self.job else { return };
        let id = self.handle.id.clone();
        let job = match owner.job(&id, kind).await {
            Ok(Some(job)) => job,
            Ok(None) => {
                self.job = None;
                return;
            }
            Err(error) => {
                tracing::debug!(id, %error, "a job cannot be asked for");
                return;
            }
        };
        if kind == JobKind::Stream && job.total > 0 {
            let percent = (job.done * 100 / job.total).min(99);
            self.filled_percent = u8::try_from(percent).unwrap_or(99);
        }
        let Some(ended) = job.ended else { return };
        match ended {
            Ok(()) => match kind {
                JobKind::Stream => self.filled().await,
                JobKind::Commit => self.merged().await,
            },
            Err(message) => {
                tracing::warn!(id, message, ?kind, "a job of a volume failed");
                if kind == JobKind::Stream {
                    self.unfilled =
                        Some(format!("the volume cannot be filled from its snapshot: {message}"));
                }
                let what = if kind == JobKind::Stream { "fill" } else { "merge" };
                self.put_off(what, JOB_AGAIN);
            }
        }
        // Recorded first: a job that is forgotten cannot be asked how it ended.
        if let Err(error) = owner.dismiss_job(&id, kind).await {
            tracing::debug!(id, %error, "a job cannot be dismissed");
        }
        self.job = None;
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::IoError { no_space, write, .. } => {
                let reason = match (no_space, write) {
                    (true, _) => "the disk that holds the volume is full",
                    (false, true) => "writing to the volume fails",
                    (false, false) => "reading from the volume fails",
                };
                let last = Instant::now();
                self.impaired = Some(Impaired { reason: reason.to_owned(), last, operations: 0 });
                self.next_tick = Some(last + TICK);
            }
            Event::Job { .. } => self.next_tick = Some(Instant::now()),
            Event::DeviceDeleted { .. } => {}
        }
    }

    /// When the owner is looked at next.
    pub(super) fn plan_tick(&mut self, spec: &Spec) {
        let busy = self.job.is_some()
            || self.uploading.is_some()
            || self.work.is_some()
            || self.impaired.is_some()
            || (self.is_owned() && has_bursts(spec));
        match (busy, self.next_tick) {
            (true, None) => self.next_tick = Some(Instant::now() + TICK),
            (false, Some(_)) => self.next_tick = None,
            _ => {}
        }
    }

    pub(super) async fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if let Some(owner) = self.owner() {
            self.watch_job(&owner).await;
        }
        let counters = self.counters().await;
        if let (Some(impaired), Some(counters)) = (&mut self.impaired, &counters) {
            let operations = counters.read_operations + counters.write_operations;
            if impaired.operations == 0 {
                impaired.operations = operations;
            } else if impaired.last.elapsed() > HEALTHY && operations > impaired.operations {
                self.impaired = None;
            }
        }
        let Some(spec) = self.inbox.borrow().clone() else { return };
        if counters.is_some() && has_bursts(&spec) {
            self.advance_balance(&spec, counters.as_ref());
            if self.ticks.is_multiple_of(SAVE_BALANCE) {
                self.save().await;
            }
        }
    }

    /// What the volume's machines did; `None` while none has it.
    pub(super) async fn counters(&self) -> Option<Statistics> {
        let mut sum: Option<Statistics> = None;
        for host in self.hosts.values() {
            let counted = host.statistics(&self.handle.id).await.ok()?;
            let sum = sum.get_or_insert_default();
            sum.read_bytes += counted.read_bytes;
            sum.read_operations += counted.read_operations;
            sum.written_bytes += counted.written_bytes;
            sum.write_operations += counted.write_operations;
        }
        sum
    }

    pub(super) fn advance_balance(&mut self, spec: &Spec, counters: Option<&Statistics>) {
        if let Some(record) = &mut self.record {
            let now = now();
            let balance = record.balance.get_or_insert_with(|| Balance::new(now));
            balance.advance(&spec.limits, counters, now);
        }
    }

    /// The rates of this moment.
    pub(super) fn throttle(&self, spec: &Spec) -> Throttle {
        if !self.shared.config.throttled {
            return Throttle::default();
        }
        let balance = self.record.as_ref().and_then(|record| record.balance);
        balance.unwrap_or_else(|| Balance::new(now())).throttle(&spec.limits)
    }

    /// Tells the owner the rates, if they have changed.
    pub(super) async fn update_limits(&mut self, spec: &Spec) {
        let Some(owner) = self.owner() else { return };
        let speed = fill_speed(spec);
        if self.job == Some(JobKind::Stream) && self.fill_speed != Some(speed) {
            self.fill_speed = Some(speed);
            let id = &self.handle.id;
            // Refused: it has just ended.
            let _ = owner.set_job_speed(id, JobKind::Stream, speed).await;
        }
        let throttle = self.throttle(spec);
        if self.told.is_some_and(|told| !limits::differ(&told, &throttle)) {
            self.in_force = Some(spec.limits);
            return;
        }
        if !self.is_due("limits") {
            return;
        }
        match owner.set_throttle(&self.handle.id, throttle).await {
            Ok(()) => {
                self.told = Some(throttle);
                self.in_force = Some(spec.limits);
            }
            Err(error) => {
                tracing::warn!(id = self.handle.id, %error, "limits cannot be set yet");
                self.put_off("limits", TICK);
            }
        }
    }
}

/// Bytes a second; 0 is as fast as may be.
fn fill_speed(spec: &Spec) -> u64 {
    let default = if spec.filled_first { 0 } else { FILL_MIB };
    u64::from(spec.initialization_rate.unwrap_or(default)) << 20
}

fn has_bursts(spec: &Spec) -> bool {
    let rates = [spec.limits.operations, spec.limits.bytes];
    rates.into_iter().flatten().any(|rate| rate.burst.is_some())
}

/// Does one piece of work in a storage daemon; whether it was done rather than broken off.
async fn work(
    data_dir: PathBuf,
    directory: Directory,
    chain: Chain,
    kind: Kind,
    stopped: oneshot::Receiver<()>,
    percent: Arc<AtomicU64>,
) -> Result<bool, String> {
    let mut keeper = Keeper::start(&data_dir, &directory, Purpose::Work, IDLE_USER).await?;
    let host = keeper.host.clone();
    let done = tokio::select! {
        done = perform(&host, &chain, kind, &percent) => done.map(|()| true),
        _ = stopped => Ok(false),
        how = keeper.ended() => Err(format!("{how}: {}", directory.last_words(Purpose::Work.name()))),
    };
    keeper.quit().await;
    done
}

async fn perform(
    host: &Host,
    chain: &Chain,
    kind: Kind,
    percent: &AtomicU64,
) -> Result<(), String> {
    let text = |error: super::host::Error| error.to_string();
    let volume = &chain.volume;
    host.add_chain(chain).await.map_err(text)?;
    let job = match kind {
        Kind::Grow { size_gib } => {
            return host.resize(volume, u64::from(size_gib) << 30).await.map_err(text);
        }
        Kind::Fill { bytes_per_second } => {
            host.stream(volume, 0, bytes_per_second).await.map_err(text)?;
            JobKind::Stream
        }
        Kind::Merge(Merging { top, base }) => {
            host.commit(volume, top, base, 0).await.map_err(text)?;
            JobKind::Commit
        }
    };
    loop {
        let Some(state) = host.job(volume, job).await.map_err(text)? else {
            return Err("the job was forgotten".to_owned());
        };
        if let Some(ended) = state.ended {
            return ended;
        }
        percent.store((state.done * 100).checked_div(state.total).unwrap_or(0), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
