//! The one task that owns a volume.
//!
//! Everything that happens to a volume arrives in one place, [`Volume::wait`]: a new wish (the
//! latest replaces the one before), what machines ask for, what its owner says, the end of a process
//! or of work behind, a timer. After each, [`Volume::step`] makes the next step, until there is
//! none.
//!
//! ```text
//!          create                     acquire                    held
//!  Absent ────────► Ready, nobody's ───────────► given to a ────────────► attached
//!     │                ▲   │ ▲                   machine                     │
//!     ▼                │   │ └── fill, merge, grow (a passing storage        │
//!  Failed              │   │     daemon; ends at once when a machine asks)   │
//!                      └───┼────────────────────── released ─────────────────┘
//!                          │ Deleted: every cut snapshot uploaded and recorded
//!                          ▼
//!                        Gone
//!
//!  a snapshot:  due ──► cut (new layer) ──► uploading ──► Completed ──► dropped by the spec
//!                                              └─ again ─┘  Failed          └──► layers merge
//! ```
//!
//! What survives the daemon is `record.json`, the owner and the server of the source. A step that
//! a crash interrupted is found in the record (`cutting`, `merging`) and settled by asking the owner,
//! or by the files when there is none.

use super::directory::{Directory, Outcome, Record};
use super::host::{Chain, Host, JobKind, Throttle};
use super::jobs::Work;
use super::keeper::Keeper;
use super::limits::Balance;
use super::upload::{Problem, Progress};
use super::{Ask, Handle, Shared};
use crate::qemu::process::Process;
use base::volume::{Limits, Spec, State, Wanted};
use block::{Finished, Pinned};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};

/// How often work that the host's state decides is looked at.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// How often, a tick apart, a volume is tried to be made until its creator is told of an error.
const CREATIONS: u32 = 15;

/// The task's own view of its volume.
pub(crate) struct Volume {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Arc<Handle>,
    pub(super) inbox: watch::Receiver<Option<Arc<Spec>>>,
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) directory: Directory,
    pub(super) record: Option<Record>,
    /// What is in memory is not on the disk.
    pub(super) unsaved: bool,
    pub(super) failed: Option<String>,
    /// How often it could not be made.
    creations: u32,
    pub(super) gone: bool,
    /// Block layers of the machines that have it.
    pub(super) hosts: BTreeMap<String, Host>,
    pub(super) listening: BTreeMap<String, AbortHandle>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) rebooting: Vec<oneshot::Sender<()>>,
    /// Owner of a Multi-Attach volume.
    pub(super) keeper: Option<Keeper>,
    /// Serves the source.
    pub(super) server: Option<Process>,
    /// Work while nobody has it.
    pub(super) work: Option<Work>,
    pub(super) uploading: Option<Uploading>,
    pub(super) attempts: BTreeMap<String, Attempts>,
    /// How often a snapshot's group did not come together.
    pub(super) group_tries: BTreeMap<String, u32>,
    pub(super) pins: HashMap<String, Pinned>,
    /// What runs in the owner.
    pub(super) job: Option<JobKind>,
    pub(super) filled_percent: u8,
    /// How fast the owner fills it, bytes a second; `None`: another daemon said.
    pub(super) fill_speed: Option<u64>,
    pub(super) told: Option<Throttle>,
    /// Limits that the owner was told.
    pub(super) in_force: Option<Limits>,
    pub(super) impaired: Option<Impaired>,
    /// Why it does not fill.
    pub(super) unfilled: Option<String>,
    /// When what failed is tried again.
    pub(super) later: BTreeMap<&'static str, Instant>,
    pub(super) next_tick: Option<Instant>,
    pub(super) ticks: u32,
}

/// A machine that wants the volume.
pub(super) struct Waiting {
    pub(super) machine: String,
    pub(super) user: u32,
    pub(super) answer: oneshot::Sender<Result<Chain, String>>,
    pub(super) tries: u32,
}

/// See [`Volume::uploading`].
pub(super) struct Uploading {
    pub(super) snapshot: String,
    pub(super) progress: Arc<Progress>,
    pub(super) task: JoinHandle<Result<Finished, Problem>>,
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of an upload so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempts {
    pub(super) count: u32,
    /// Those in which the volume's data could not be read.
    pub(super) unreadable: u32,
    /// Without the parent, which is damaged.
    pub(super) whole: bool,
    pub(super) after: Option<Instant>,
}

/// Input and output fail.
#[derive(Debug)]
pub(super) struct Impaired {
    pub(super) reason: String,
    pub(super) last: Instant,
    /// Operations done then.
    pub(super) operations: u64,
}

/// What [`Volume::wait`] saw.
enum Seen {
    Wish,
    Closed,
    Ask(Ask),
    Uploaded(Result<Finished, Problem>),
    Worked(Result<bool, String>),
    ServerEnded(String),
    KeeperEnded(String),
    Timer,
}

impl Volume {
    pub(super) fn new(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        inbox: watch::Receiver<Option<Arc<Spec>>>,
        asks: mpsc::UnboundedReceiver<Ask>,
        record: Option<Record>,
    ) -> Self {
        let directory = Directory::new(&shared.config.data_dir, &handle.id);
        let mut pins = HashMap::new();
        for (id, taken) in record.iter().flat_map(|record| &record.snapshots) {
            // Held from now on as they were by the daemon before.
            if let Some(Outcome::Completed { content, .. }) = &taken.result
                && let Ok(pinned) = shared.config.blobs.hold(content)
            {
                pins.insert(id.clone(), pinned);
            }
        }
        let volume = Volume {
            shared,
            handle,
            inbox,
            asks,
            directory,
            record,
            unsaved: false,
            failed: None,
            creations: 0,
            gone: false,
            hosts: BTreeMap::new(),
            listening: BTreeMap::new(),
            waiting: VecDeque::new(),
            rebooting: Vec::new(),
            keeper: None,
            server: None,
            work: None,
            uploading: None,
            attempts: BTreeMap::new(),
            group_tries: BTreeMap::new(),
            pins,
            job: None,
            filled_percent: 0,
            fill_speed: None,
            told: None,
            in_force: None,
            impaired: None,
            unfilled: None,
            later: BTreeMap::new(),
            next_tick: None,
            ticks: 0,
        };
        volume.publish();
        volume
    }

    /// Runs until the volume is gone or the driver is dropped.
    pub(super) async fn run(mut self) {
        self.adopt().await;
        loop {
            while self.step().await {}
            if self.gone {
                return;
            }
            match self.wait().await {
                Seen::Closed => return,
                Seen::Wish => {}
                Seen::Ask(ask) => self.on_ask(ask).await,
                Seen::Uploaded(result) => self.on_uploaded(result).await,
                Seen::Worked(result) => self.on_worked(result).await,
                Seen::ServerEnded(how) => self.on_server_ended(&how),
                Seen::KeeperEnded(how) => self.on_keeper_ended(&how).await,
                Seen::Timer => self.on_timer().await,
            }
        }
    }

    /// Takes up what another daemon left.
    async fn adopt(&mut self) {
        let Some(record) = &self.record else { return };
        if let Some(identity) = &record.server {
            self.server = Process::adopt(identity).ok().flatten();
        }
        if let Some(identity) = &record.keeper {
            self.keeper = Keeper::adopt(&self.directory, identity).await;
        }
        if let Some(keeper) = &self.keeper {
            let host = keeper.host.clone();
            self.listen("", &host);
            self.take_up_job(&host).await;
        } else if self.needs_keeper() {
            self.on_keeper_ended("it ended while no daemon watched it").await;
        }
        if let Some(record) = &self.record
            && self.is_owned()
            && let Err(message) = self.ensure_server(record.user()).await
        {
            tracing::error!(id = self.handle.id, message, "the source cannot be served");
        }
        self.spare_server().await;
        let (directory, record) = (self.directory.clone(), self.record.clone());
        let tidied = blocking(move || match &record {
            Some(record) => directory.tidy(record),
            None => Ok(()),
        });
        if let Err(error) = tidied.await {
            tracing::warn!(id = self.handle.id, %error, "a volume could not be tidied");
        }
    }

    async fn wait(&mut self) -> Seen {
        let now = Instant::now();
        let uploads = self.attempts.values().filter_map(|attempts| attempts.after);
        let uploads = uploads.filter(|after| self.uploading.is_none() && *after > now);
        let timers = self.later.values().copied().chain(self.next_tick);
        let timer = timers.chain(uploads).min();
        let timer = async {
            match timer {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let (inbox, asks) = (&mut self.inbox, &mut self.asks);
        let wish = async {
            match inbox.changed().await {
                Ok(()) => Seen::Wish,
                Err(_) => Seen::Closed,
            }
        };
        let asked = async {
            match asks.recv().await {
                Some(ask) => Seen::Ask(ask),
                None => Seen::Closed,
            }
        };
        let uploaded = async {
            match &mut self.uploading {
                Some(uploading) => (&mut uploading.task)
                    .await
                    .unwrap_or_else(|error| Err(Problem::Passing(error.to_string()))),
                None => std::future::pending().await,
            }
        };
        let worked = async {
            match &mut self.work {
                Some(work) => work.ended().await,
                None => std::future::pending().await,
            }
        };
        let server = async {
            match &mut self.server {
                Some(server) => server.ended().await,
                None => std::future::pending().await,
            }
        };
        let keeper = async {
            match &mut self.keeper {
                Some(keeper) => keeper.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            seen = asked => seen,
            seen = wish => seen,
            result = uploaded => Seen::Uploaded(result),
            result = worked => Seen::Worked(result),
            how = server => Seen::ServerEnded(how),
            how = keeper => Seen::KeeperEnded(how),
            () = timer => Seen::Timer,
        }
    }

    /// Makes the next step; whether there was one.
    async fn step(&mut self) -> bool {
        let now = Instant::now();
        self.later.retain(|_, at| *at > now);
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        let Some(spec) = self.inbox.borrow_and_update().clone() else { return false };
        if self.gone {
            return false;
        }
        if self.record.is_none() {
            return match (spec.wanted, &self.failed) {
                (Wanted::Deleted, _) => self.demolish().await,
                (Wanted::Present, None) => self.create(&spec).await,
                (Wanted::Present, Some(message)) => {
                    for waiting in self.waiting.drain(..) {
                        // Nobody may wait any more.
                        let _ = waiting.answer.send(Err(message.clone()));
                    }
                    self.publish();
                    false
                }
            };
        }
        if self.unsaved && self.is_due("save") {
            self.save().await;
        }
        self.keep_processes(&spec).await;
        if self.recover_cut().await
            || self.forget_snapshots(&spec).await
            || self.cut_due(&spec).await
        {
            return true;
        }
        self.answer_reboots(&spec);
        if self.grow(&spec).await || self.admit(&spec).await {
            return true;
        }
        if spec.wanted == Wanted::Deleted && self.is_finished(&spec) {
            return self.demolish().await;
        }
        if self.start_upload(&spec).await || self.start_fill(&spec).await || self.merge().await {
            return true;
        }
        self.update_limits(&spec).await;
        self.publish();
        self.plan_tick(&spec);
        false
    }

    pub(super) fn is_due(&self, what: &'static str) -> bool {
        !self.later.contains_key(what)
    }

    pub(super) fn put_off(&mut self, what: &'static str, for_how_long: Duration) {
        self.later.insert(what, Instant::now() + for_how_long);
    }

    /// Writes the record; what could not be written is written later.
    pub(super) async fn save(&mut self) -> bool {
        let Some(record) = self.record.clone() else { return true };
        let directory = self.directory.clone();
        let saved = blocking(move || directory.write(&record)).await;
        self.unsaved = saved.is_err();
        if let Err(error) = saved {
            tracing::error!(id = self.handle.id, %error, "a volume's record could not be written");
            self.put_off("save", TICK);
        }
        !self.unsaved
    }

    pub(super) fn unsaved(&self) -> bool {
        self.unsaved
    }

    /// The block layer that has the layers open.
    pub(super) fn owner(&self) -> Option<Host> {
        match self.record.as_ref()?.multi_attach {
            true => self.keeper.as_ref().map(|keeper| keeper.host.clone()),
            false => self.hosts.values().next().cloned(),
        }
    }

    /// Whether a process may have the layers open.
    pub(super) fn is_owned(&self) -> bool {
        self.keeper.is_some()
            || self.record.as_ref().is_some_and(|record| !record.holders.is_empty())
    }

    async fn create(&mut self, spec: &Spec) -> bool {
        if !self.is_due("create") {
            return false;
        }
        *super::locked(&self.handle.state) = State::Creating;
        (self.shared.announce)(&self.handle.id);
        let mut record = Record::new(spec);
        record.balance = Some(Balance::new(now()));
        let made = match self.shared.passphrase(spec.key.as_ref()).await {
            Err(message) => Err(message),
            Ok(passphrase) => {
                let directory = self.directory.clone();
                let new = record.clone();
                let passphrase = passphrase.map(|passphrase| passphrase.0);
                blocking(move || directory.create(&new, passphrase.as_deref())).await.map_err(
                    |error| match error.kind() {
                        io::ErrorKind::StorageFull => {
                            "the disk that holds the volumes is full".to_owned()
                        }
                        _ => error.to_string(),
                    },
                )
            }
        };
        match made {
            Ok(()) => {
                tracing::info!(id = self.handle.id, size_gib = spec.size_gib, "made a volume");
                self.record = Some(record);
            }
            Err(message) => {
                tracing::error!(id = self.handle.id, message, "a volume could not be made");
                self.creations += 1;
                if self.creations < CREATIONS {
                    self.put_off("create", TICK);
                } else {
                    self.failed = Some(message);
                }
            }
        }
        true
    }

    /// Whether nothing of a volume that is to be deleted is needed any more.
    fn is_finished(&self, spec: &Spec) -> bool {
        !self.is_owned()
            && spec.snapshots.is_empty()
            && self.record.as_ref().is_none_or(|record| record.snapshots.is_empty())
    }

    async fn demolish(&mut self) -> bool {
        if !self.is_due("demolish") {
            return false;
        }
        self.stop_work().await;
        self.stop_server().await;
        let directory = self.directory.clone();
        if let Err(error) = blocking(move || directory.remove()).await {
            tracing::error!(id = self.handle.id, %error, "a volume could not be removed yet");
            self.put_off("demolish", Duration::from_secs(5));
            return false;
        }
        self.record = None;
        self.gone = true;
        self.waiting.clear();
        self.publish();
        true
    }

    async fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Acquire { machine, user, answer } => {
                self.waiting.push_back(Waiting { machine, user, answer, tries: 0 });
            }
            Ask::Held { machine, host } => self.on_held(machine, host).await,
            Ask::Released { machine, answer } => {
                self.release(&machine).await;
                // Nobody may wait any more.
                let _ = answer.send(());
            }
            Ask::Rebooting { machine, reboots, answer } => {
                let Some(record) = self.record.as_mut() else { return };
                if record.holders.contains_key(&machine) {
                    record.reboots = Some((machine, reboots));
                    self.save().await;
                    self.later.remove("cut");
                    self.rebooting.push(answer);
                }
            }
            Ask::Event(event) => self.on_event(event),
        }
    }

    async fn on_timer(&mut self) {
        let now = Instant::now();
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = None;
            self.tick().await;
        }
    }
}

/// Seconds since the epoch.
pub(super) fn now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// Runs file work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
