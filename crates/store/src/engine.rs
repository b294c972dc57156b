//! The one writer. A thread takes the requests that queued up while the last batch was being made
//! durable, runs them one after the other on its copy of the state, makes the whole batch durable
//! with one fsync, publishes the new snapshot, wakes the watches and answers.
//!
//! ```text
//! queued ──> run on the writer's state ──> one durable write ──┬──> published ──> answered Ok
//!                                                              └──> state := durable, all answered Err
//! ```
//!
//! Compares see the earlier transactions of their own batch. If the write fails, all of the batch
//! fails, since each answer may rest on a change that is not going to be; the state goes back to
//! what is durable, and the next batch is tried as if nothing had happened.
//!
//! What it does not do: read. Readers take the published snapshot and never wait for a write.

use crate::record::Snapshot;
use crate::state::{State, Step};
use crate::txn::{Txn, TxnResult};
use crate::watch::{Commit, Log, Watch};
use crate::{BoxFuture, Error, LeaseId, Options, Revision, Store};
use base::{Clock, Timestamp};
use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Where batches become durable.
pub(crate) trait Durable: Send + 'static {
    /// Returns when the batch, which leads to `after`, would survive the loss of power. After an
    /// error the batch must not appear again, unless the process ends before the next call.
    fn write(&mut self, batch: &[Step], after: &State) -> Result<(), Error>;
}

/// Durable as long as the process: the in-memory backend.
pub(crate) struct Volatile;

impl Durable for Volatile {
    fn write(&mut self, _: &[Step], _: &State) -> Result<(), Error> {
        Ok(())
    }
}

/// The most requests in one batch: bounds the time until the first of them is answered.
const MAX_BATCH: usize = 1024;

/// And the most bytes, for the same reason.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// How long to wait after a failed expiry of a lease before trying again.
const EXPIRY_RETRY: Duration = Duration::from_millis(100);

type Answer<T> = oneshot::Sender<Result<T, Error>>;

enum Request {
    /// With its size in bytes.
    Txn(Txn, usize, Answer<TxnResult>),
    Grant(u64, Answer<LeaseId>),
    KeepAlive(LeaseId, Answer<Duration>),
    Revoke(LeaseId, Answer<()>),
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Txn(_, bytes, _) => *bytes,
            Request::Grant(..) | Request::KeepAlive(..) | Request::Revoke(..) => 0,
        }
    }
}

/// An answer that waits for the batch to be durable.
enum Pending {
    Txn(Answer<TxnResult>, Result<TxnResult, Error>),
    Grant(Answer<LeaseId>, Result<LeaseId, Error>),
    KeepAlive(Answer<Duration>, Result<Duration, Error>),
    Revoke(Answer<()>, Result<(), Error>),
}

impl Pending {
    /// Sends the answer, or the error that befell the batch. Who no longer listens is no matter.
    fn send(self, batch: &Result<(), Error>) {
        fn settle<T>(answer: Answer<T>, result: Result<T, Error>, batch: &Result<(), Error>) {
            let _ = answer.send(batch.clone().and(result));
        }
        match self {
            Pending::Txn(answer, result) => settle(answer, result, batch),
            Pending::Grant(answer, result) => settle(answer, result, batch),
            Pending::KeepAlive(answer, result) => settle(answer, result, batch),
            Pending::Revoke(answer, result) => settle(answer, result, batch),
        }
    }
}

/// What the writer and the readers share.
struct Shared {
    published: RwLock<Snapshot>,
    log: Arc<Log>,
}

/// A store whose state is in memory and whose writes go through one [`Durable`].
pub(crate) struct Engine {
    shared: Arc<Shared>,
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the writer on a state that is durable already.
    pub(crate) fn start(
        state: State,
        durable: impl Durable,
        options: &Options,
    ) -> Result<Self, Error> {
        let log = Log::new(state.snapshot.revision, options.log_events, options.log_bytes);
        let published = RwLock::new(state.snapshot.clone());
        let shared = Arc::new(Shared { published, log: Arc::new(log) });
        let (requests, queue) = mpsc::channel();
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            deadlines: HashMap::new(),
            clock: options.clock.clone(),
            state,
            durable,
            failing: false,
        };
        for (id, lease) in &writer.state.leases {
            writer.deadlines.insert(*id, deadline(writer.clock.now(), lease.ttl_seconds));
        }
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| Error::io("start the writer thread of", "the store", e))?;
        Ok(Engine { shared, requests: Some(requests), writer: Some(writer) })
    }

    /// Queues a request and waits for its answer.
    async fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request + Send,
    ) -> Result<T, Error> {
        let (answer, waiting) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(Error::Closed)?;
        requests.send(request(answer)).map_err(|_| Error::Closed)?;
        waiting.await.unwrap_or(Err(Error::Closed))
    }
}

impl Store for Engine {
    fn snapshot(&self) -> Snapshot {
        self.shared.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>> {
        Box::pin(async move {
            let bytes = txn.validate()?;
            self.ask(|answer| Request::Txn(txn, bytes, answer)).await
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.shared.log.watch(prefix, from)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Error>> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        Box::pin(async move { self.ask(|answer| Request::Grant(seconds.max(1), answer)).await })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration, Error>> {
        Box::pin(async move { self.ask(|answer| Request::KeepAlive(lease, answer)).await })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.ask(|answer| Request::Revoke(lease, answer)).await })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.shared.log.compact(revision) })
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("snapshot", &self.snapshot()).finish()
    }
}

impl Drop for Engine {
    /// Waits for what is queued, so that the files are free when this returns.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

struct Writer<D> {
    shared: Arc<Shared>,
    /// Ahead of what is published while a batch is being written.
    state: State,
    /// When each lease ends. Leases are few: one for each node and leader.
    deadlines: HashMap<LeaseId, Timestamp>,
    clock: Clock,
    durable: D,
    /// Whether the last write failed, so that a full disk is not a full log.
    failing: bool,
}

impl<D> Drop for Writer<D> {
    /// Also if it panicked: nobody may wait for a change that will not come.
    fn drop(&mut self) {
        self.shared.log.close();
    }
}

fn deadline(now: Timestamp, ttl_seconds: u64) -> Timestamp {
    now.plus_millis(i64::try_from(ttl_seconds).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// What has queued up, within the bounds of a batch.
fn gather(first: Request, queue: &Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.bytes();
        batch.push(next);
    }
    batch
}

impl<D: Durable> Writer<D> {
    fn run(&mut self, queue: &Receiver<Request>) {
        loop {
            let first = match self.until_next_expiry() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => queue.recv_timeout(wait),
            };
            let batch = match first {
                Ok(first) => gather(first, queue),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.batch(batch);
        }
    }

    /// How long until a lease ends; `None` without leases.
    fn until_next_expiry(&self) -> Option<Duration> {
        let next = *self.deadlines.values().min()?;
        let wait = Duration::from_millis(self.clock.wall_millis_until(next));
        Some(if self.failing { wait.max(EXPIRY_RETRY) } else { wait })
    }

    fn batch(&mut self, requests: Vec<Request>) {
        let durable = self.state.clone();
        let mut steps = Vec::with_capacity(requests.len());
        self.expire(&mut steps);
        let pending: Vec<Pending> =
            requests.into_iter().map(|request| self.handle(request, &mut steps)).collect();
        let wrote = !steps.is_empty();
        let written = match wrote {
            true => self.durable.write(&steps, &self.state),
            false => Ok(()),
        };
        match &written {
            Ok(()) => self.publish(steps),
            Err(error) => {
                if !self.failing {
                    tracing::error!(error = %error, "writes fail and are taken back");
                }
                self.state = durable;
            }
        }
        if self.failing && written.is_ok() && wrote {
            tracing::info!("writes succeed again");
        }
        if wrote {
            self.failing = written.is_err();
        }
        let leases = &self.state.leases;
        self.deadlines.retain(|id, _| leases.contains_key(id));
        for answer in pending {
            answer.send(&written);
        }
    }

    /// Makes the batch visible: first to readers, then to watches.
    fn publish(&self, steps: Vec<Step>) {
        let mut published = self.shared.published.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *published, self.state.snapshot.clone());
        drop(published);
        drop(old); // Outside the lock: it may be the last reference to many records.
        let commits = steps.into_iter().filter_map(|step| match step {
            Step::Commit(commit) => Some(commit),
            Step::Grant(..) | Step::Revoke(..) => None,
        });
        self.shared.log.append(commits);
    }

    fn handle(&mut self, request: Request, steps: &mut Vec<Step>) -> Pending {
        match request {
            Request::Txn(txn, _, answer) => {
                let result = self.state.run(txn).map(|(result, commit)| {
                    steps.extend(commit.map(Step::Commit));
                    result
                });
                Pending::Txn(answer, result)
            }
            Request::Grant(ttl_seconds, answer) => {
                let id = self.state.grant(ttl_seconds);
                self.deadlines.insert(id, deadline(self.clock.now(), ttl_seconds));
                steps.push(Step::Grant(id, ttl_seconds));
                Pending::Grant(answer, Ok(id))
            }
            Request::KeepAlive(id, answer) => {
                let ttl = self.state.leases.get(&id).map(|lease| lease.ttl_seconds);
                let result = ttl.ok_or(Error::LeaseNotFound(id)).map(|ttl_seconds| {
                    self.deadlines.insert(id, deadline(self.clock.now(), ttl_seconds));
                    Duration::from_secs(ttl_seconds)
                });
                Pending::KeepAlive(answer, result)
            }
            Request::Revoke(id, answer) => Pending::Revoke(answer, self.revoke(id, steps)),
        }
    }

    fn expire(&mut self, steps: &mut Vec<Step>) {
        let now = self.clock.now();
        let mut over: Vec<LeaseId> =
            self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        over.sort_unstable();
        for id in over {
            // It is in the state, or the last batch would have dropped its deadline.
            let _ = self.revoke(id, steps);
        }
    }

    fn revoke(&mut self, id: LeaseId, steps: &mut Vec<Step>) -> Result<(), Error> {
        let commit: Option<Arc<Commit>> = self.state.revoke(id)?;
        steps.extend(commit.map(Step::Commit));
        steps.push(Step::Revoke(id));
        Ok(())
    }
}
