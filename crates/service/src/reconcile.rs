//! The reconciler driver: moves what is wanted towards what is, one key at a time.
//!
//! A reconciler takes no input. The store's watch, a timer or the machine driver wakes it for a
//! key, and it reads the state again; start-up wakes it once for every key. So start-up, fail-over
//! and the happy case are one code path, and it may be killed between any two lines.
//!
//! A key is never worked on twice at once; a wake-up during a run makes it run once more. A run
//! that fails is tried again with a growing delay. Runs of different keys are concurrent, so their
//! transactions share the store's commits.
//!
//! ```text
//!   watch ─┐
//!   timer ─┼─► queued ──► running ──► (commit) ──► effects ──► idle
//!   driver ┘                 ▲   woken meanwhile, conflict, error   │
//!                            └──────────────────────────────────────┘
//! ```

use crate::call::{Call, Effect, Environment};
use crate::error::Error;
use crate::identity::Identity;
use base::Timestamp;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::Notify;

/// How many keys are worked on at once.
const WORKERS: usize = 64;

/// A reconciler: plain functions over the records.
#[derive(Debug)]
pub struct Reconciler {
    /// For logs.
    pub name: &'static str,
    /// It has nothing to do with a driver that has no network.
    pub for_network: bool,
    /// The work key that a changed record belongs to; `None` when it does not matter here.
    pub work_key: fn(record_key: &str) -> Option<String>,
    /// Looks at a work key's state and stages what moves it on.
    pub run: fn(&mut Call<'_>, work_key: &str) -> Result<(), Error>,
}

struct Shared {
    reconcilers: Vec<&'static Reconciler>,
    environment: Arc<Environment>,
    store: Arc<dyn Store>,
    queue: Mutex<Queue>,
    work: Notify,
    timers: Notify,
}

type Work = (usize, String);

#[derive(Default)]
struct Queue {
    ready: VecDeque<Work>,
    queued: HashSet<Work>,
    running: HashSet<Work>,
    again: HashSet<Work>,
    failures: HashMap<Work, u32>,
    timers: BinaryHeap<Reverse<(Timestamp, usize, String)>>,
    /// Who is woken by what the driver announces of a machine, a volume or a task.
    listeners: HashMap<String, Vec<Work>>,
    /// What a key listens to, in the order of its effects.
    heard: HashMap<Work, Vec<String>>,
    /// Fingerprints of the specs that the driver was given last.
    applied: HashMap<Work, u64>,
}

impl Queue {
    /// From now on `id` wakes `work`; false if it did before.
    fn listen(&mut self, id: &str, work: &Work) -> bool {
        let listeners = self.listeners.entry(id.to_owned()).or_default();
        let is_new = !listeners.contains(work);
        if is_new {
            listeners.push(work.clone());
            self.heard.entry(work.clone()).or_default().push(id.to_owned());
        }
        is_new
    }

    fn unlisten(&mut self, id: &str, work: &Work) {
        if let Some(heard) = self.heard.get_mut(work) {
            heard.retain(|known| known != id);
            if heard.is_empty() {
                self.heard.remove(work);
            }
        }
        if let Some(listeners) = self.listeners.get_mut(id) {
            listeners.retain(|listener| listener != work);
            if listeners.is_empty() {
                self.listeners.remove(id);
            }
        }
    }

    fn remember(&mut self, work: &Work, fingerprint: Option<u64>) {
        match fingerprint {
            Some(fingerprint) => self.applied.insert(work.clone(), fingerprint),
            None => self.applied.remove(work),
        };
    }
}

/// Starts the reconcilers of all services, once; they run until the runtime ends.
pub fn start(
    reconcilers: impl IntoIterator<Item = &'static Reconciler>,
    environment: Arc<Environment>,
    store: Arc<dyn Store>,
) {
    let shared = Arc::new(Shared {
        reconcilers: reconcilers.into_iter().collect(),
        environment,
        store,
        queue: Mutex::default(),
        work: Notify::new(),
        timers: Notify::new(),
    });
    let listener = Arc::downgrade(&shared);
    shared.environment.driver.listen(Box::new(move |id| {
        if let Some(shared) = listener.upgrade() {
            shared.announced(id);
        }
    }));
    for _ in 0..WORKERS {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { shared.work().await });
    }
    tokio::spawn(Arc::clone(&shared).watch());
    tokio::spawn(shared.keep_time());
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch(self: Arc<Self>) {
        loop {
            let snapshot = self.store.snapshot();
            for kv in snapshot.scan("/") {
                self.wake_record(kv.key());
            }
            let mut watch = match self.store.watch("/", snapshot.revision() + 1) {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::warn!(%error, "watch refused; listing again");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            drop(snapshot);
            while let Some(events) = watch.next().await {
                for event in events {
                    self.wake_record(&event.key);
                }
            }
            tracing::debug!("watch fell behind; listing again");
        }
    }

    fn wake_record(&self, record_key: &str) {
        for (index, reconciler) in self.reconcilers.iter().enumerate() {
            if reconciler.for_network && !self.environment.driver.has_network() {
                continue;
            }
            if let Some(work_key) = (reconciler.work_key)(record_key) {
                self.wake((index, work_key));
            }
        }
    }

    fn announced(&self, id: &str) {
        let listeners = self.queue().listeners.get(id).cloned();
        for work in listeners.into_iter().flatten() {
            self.wake(work);
        }
    }

    fn wake(&self, work: Work) {
        let mut queue = self.queue();
        if queue.running.contains(&work) {
            queue.again.insert(work);
            return;
        }
        if queue.queued.insert(work.clone()) {
            queue.ready.push_back(work);
            drop(queue);
            self.work.notify_one();
        }
    }

    async fn next(&self) -> Work {
        loop {
            {
                let mut queue = self.queue();
                if let Some(work) = queue.ready.pop_front() {
                    queue.queued.remove(&work);
                    queue.running.insert(work.clone());
                    return work;
                }
            }
            self.work.notified().await;
        }
    }

    async fn work(&self) {
        loop {
            let work = self.next().await;
            let result = self.run(&work).await;
            let mut queue = self.queue();
            queue.running.remove(&work);
            let again = queue.again.remove(&work);
            match result {
                Ok(()) => {
                    queue.failures.remove(&work);
                }
                Err(error) => {
                    let failures = queue.failures.entry(work.clone()).or_default();
                    *failures = failures.saturating_add(1);
                    let delay = 50_i64 << (*failures).min(9);
                    let reconciler = self.reconcilers[work.0].name;
                    tracing::warn!(reconciler, key = work.1, %error, delay, "reconciling failed");
                    let at = self.environment.clock.now().plus_millis(delay);
                    queue.timers.push(Reverse((at, work.0, work.1.clone())));
                    self.timers.notify_one();
                }
            }
            drop(queue);
            if again {
                self.wake(work);
            }
        }
    }

    /// One run of one key: as often as its transaction meets a conflict.
    async fn run(&self, work: &Work) -> Result<(), Error> {
        let reconciler = &self.reconcilers[work.0];
        let identity = Identity::root(&self.environment.account_id);
        let region = work.1.split('/').nth(1).unwrap_or_default();
        loop {
            let applied = self.queue().applied.get(work).copied();
            let effects = {
                let mut call = Call::new(
                    &self.environment,
                    self.store.snapshot(),
                    region,
                    &identity,
                    reconciler.name,
                );
                call.set_applied(applied);
                (reconciler.run)(&mut call, &work.1)?;
                let read_only = call.is_read_only();
                let (txn, effects) = call.into_parts()?;
                if !read_only {
                    let result = self.store.txn(txn).await.map_err(Error::internal)?;
                    if !result.succeeded {
                        continue;
                    }
                }
                effects
            };
            for effect in effects {
                self.perform(work, effect);
            }
            return Ok(());
        }
    }

    fn perform(&self, work: &Work, effect: Effect) {
        let driver = &self.environment.driver;
        match effect {
            Effect::Apply(spec, fingerprint) => {
                let mut queue = self.queue();
                queue.listen(&spec.id, work);
                queue.remember(work, fingerprint);
                drop(queue);
                driver.apply(*spec);
            }
            Effect::Forget(machine) => {
                let mut queue = self.queue();
                queue.unlisten(&machine, work);
                queue.remember(work, None);
                drop(queue);
                driver.forget(&machine);
            }
            Effect::Volume(spec, fingerprint) => {
                let mut queue = self.queue();
                queue.listen(&spec.id, work);
                queue.remember(work, fingerprint);
                drop(queue);
                driver.apply_volume(*spec);
            }
            Effect::ForgetVolume(volume) => {
                let mut queue = self.queue();
                queue.unlisten(&volume, work);
                queue.remember(work, None);
                drop(queue);
                driver.forget_volume(&volume);
            }
            Effect::Task(task) => {
                self.queue().listen(&task.id, work);
                driver.apply_task(*task);
            }
            Effect::ForgetTask(task) => {
                self.queue().unlisten(&task, work);
                driver.forget_task(&task);
            }
            Effect::Listen(id) => {
                let is_new = self.queue().listen(&id, work);
                if is_new {
                    self.wake(work.clone());
                }
            }
            Effect::Unlisten(id) => self.queue().unlisten(&id, work),
            Effect::UnlistenAll => {
                let mut queue = self.queue();
                for id in queue.heard.get(work).cloned().unwrap_or_default() {
                    queue.unlisten(&id, work);
                }
            }
            Effect::Network(plan) => driver.apply_network(*plan),
            Effect::Again(at) => {
                self.queue().timers.push(Reverse((at, work.0, work.1.clone())));
                self.timers.notify_one();
            }
        }
    }

    async fn keep_time(self: Arc<Self>) {
        loop {
            let clock = &self.environment.clock;
            let mut due = Vec::new();
            let wait = {
                let mut queue = self.queue();
                let now = clock.now();
                while let Some(Reverse((at, ..))) = queue.timers.peek() {
                    if *at > now {
                        break;
                    }
                    if let Some(Reverse((_, index, key))) = queue.timers.pop() {
                        due.push((index, key));
                    }
                }
                queue.timers.peek().map(|Reverse((at, ..))| clock.wall_millis_until(*at))
            };
            for work in due {
                self.wake(work);
            }
            match wait {
                None => self.timers.notified().await,
                Some(millis) => {
                    let pause = tokio::time::sleep(Duration::from_millis(millis.max(1)));
                    tokio::select! {
                        () = pause => {}
                        () = self.timers.notified() => {}
                    }
                }
            }
        }
    }
}
