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

use super::directory::{self, Directory, Holder, IDLE_USER, Outcome, Record};
use super::host::{Chain, Cut, Error, Host, JobKind, Layer, Source, Throttle};
use super::jobs::{Work, volume_of};
use super::keeper::{self, EXPORT, Keeper, Purpose, export_socket};
use super::limits::Balance;
use super::source;
use super::upload::{Plan, Problem, Progress, upload};
use super::{Ask, Handle, Shared};
use crate::qemu::process::Process;
use base::volume::{Content, Limits, Spec, State, Wanted};
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

/// How often a machine's wish is tried that something prevents.
const ADMISSIONS: u32 = 20;

/// How often data is read that cannot be read.
const READINGS: u32 = 4;

/// The task's own view of its volume.
pub(crate) struct Volume {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Arc<Handle>,
    pub(super) inbox: watch::Receiver<Option<Arc<Spec>>>,
    asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) directory: Directory,
    pub(super) record: Option<Record>,
    /// What is in memory is not on the disk.
    unsaved: bool,
    pub(super) failed: Option<String>,
    pub(super) gone: bool,
    /// Block layers of the machines that have it.
    pub(super) hosts: BTreeMap<String, Host>,
    listening: BTreeMap<String, AbortHandle>,
    waiting: VecDeque<Waiting>,
    rebooting: Vec<oneshot::Sender<()>>,
    /// Owner of a Multi-Attach volume.
    pub(super) keeper: Option<Keeper>,
    /// Serves the source.
    server: Option<Process>,
    /// Work while nobody has it.
    pub(super) work: Option<Work>,
    pub(super) uploading: Option<Uploading>,
    attempts: BTreeMap<String, Attempts>,
    pins: HashMap<String, Pinned>,
    /// What runs in the owner.
    pub(super) job: Option<JobKind>,
    pub(super) filled_percent: u8,
    /// How fast the owner fills it, bytes a second; `None`: another daemon said.
    pub(super) fill_speed: Option<u64>,
    pub(super) told: Option<Throttle>,
    /// Limits that the owner was told.
    pub(super) in_force: Option<Limits>,
    pub(super) impaired: Option<Impaired>,
    /// When what failed is tried again.
    later: BTreeMap<&'static str, Instant>,
    pub(super) next_tick: Option<Instant>,
    pub(super) ticks: u32,
}

/// A machine that wants the volume.
struct Waiting {
    machine: String,
    user: u32,
    answer: oneshot::Sender<Result<Chain, String>>,
    tries: u32,
}

/// See [`Volume::uploading`].
pub(super) struct Uploading {
    pub(super) snapshot: String,
    pub(super) progress: Arc<Progress>,
    task: JoinHandle<Result<Finished, Problem>>,
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of an upload so far.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    count: u32,
    /// Without the parent, which is damaged.
    whole: bool,
    after: Option<Instant>,
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
            pins,
            job: None,
            filled_percent: 0,
            fill_speed: None,
            told: None,
            in_force: None,
            impaired: None,
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
        *super::locked(&self.handle.state) = State::Creating;
        (self.shared.announce)(&self.handle.id);
        let mut record = Record::new(spec);
        record.balance = Some(Balance::new(now()));
        let made = match self.shared.passphrase(spec.key.as_ref()).await {
            Err(message) => Err(message),
            Ok(passphrase) => {
                let (directory, shared) = (self.directory.clone(), Arc::clone(&self.shared));
                let new = record.clone();
                let passphrase = passphrase.map(|passphrase| passphrase.0);
                blocking(move || directory.create(&new, passphrase.as_deref(), &shared.qemu_img))
                    .await
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::StorageFull => {
                            "the disk that holds the volumes is full".to_owned()
                        }
                        _ => error.to_string(),
                    })
            }
        };
        match made {
            Ok(()) => {
                tracing::info!(id = self.handle.id, size_gib = spec.size_gib, "made a volume");
                self.record = Some(record);
            }
            Err(message) => {
                tracing::error!(id = self.handle.id, message, "a volume could not be made");
                self.failed = Some(message);
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

    /// Gives the volume to the machine that has waited longest, if it can be.
    async fn admit(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        if self.waiting.is_empty() || !self.is_due("admit") || self.unsaved {
            return false;
        }
        if spec.wanted == Wanted::Deleted {
            for waiting in self.waiting.drain(..) {
                // Nobody may wait any more.
                let _ = waiting.answer.send(Err("the volume is being deleted".to_owned()));
            }
            return true;
        }
        if spec.filled_first && !record.filled {
            return false;
        }
        let free = |waiting: &Waiting| {
            record.multi_attach
                || record.holders.is_empty()
                || record.holders.contains_key(&waiting.machine)
        };
        let Some(at) = self.waiting.iter().position(free) else { return false };
        let Some(mut waiting) = self.waiting.remove(at) else { return false };
        if record.holders.contains_key(&waiting.machine) {
            self.release(&waiting.machine).await;
        }
        match self.grant(spec, &waiting.machine, waiting.user).await {
            Ok(chain) => {
                if waiting.answer.send(Ok(chain)).is_err() {
                    self.release(&waiting.machine).await;
                }
            }
            Err(message) => {
                tracing::warn!(id = self.handle.id, message, "the volume cannot be opened yet");
                waiting.tries += 1;
                if waiting.tries >= ADMISSIONS {
                    // Nobody may wait any more.
                    let _ = waiting.answer.send(Err(message));
                } else {
                    self.waiting.push_back(waiting);
                }
                self.put_off("admit", TICK);
            }
        }
        true
    }

    async fn grant(&mut self, spec: &Spec, machine: &str, user: u32) -> Result<Chain, String> {
        self.stop_work().await;
        self.advance_balance(spec, None);
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        if record.multi_attach {
            self.ensure_keeper(spec).await?;
        } else {
            let (directory, files) = (self.directory.clone(), record.clone());
            blocking(move || directory.give(&files, user)).await.map_err(|e| e.to_string())?;
            self.ensure_server(user).await?;
        }
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        record.holders.insert(machine.to_owned(), Holder { user, held: false });
        if !self.save().await {
            let record = self.record.as_mut().ok_or("the volume is not there")?;
            record.holders.remove(machine);
            return Err("the volume's record cannot be written".to_owned());
        }
        self.admit_holders()?;
        let chain = self.chain(spec).await?;
        let record = self.record.as_ref().ok_or("the volume is not there")?;
        if record.multi_attach {
            let socket = export_socket(Purpose::Owner);
            let socket = format!("{}/{socket}", directory::relative(&self.handle.id));
            let source = Source { socket, export: EXPORT.to_owned(), writable: true };
            return Ok(Chain {
                volume: self.handle.id.clone(),
                layers: Vec::new(),
                source: Some(source),
                passphrase: None,
                throttle: Throttle::default(),
            });
        }
        self.told = Some(chain.throttle);
        self.in_force = Some(spec.limits);
        Ok(chain)
    }

    /// Lets the machines of a Multi-Attach volume connect to its owner.
    fn admit_holders(&self) -> Result<(), String> {
        let Some(record) = &self.record else { return Ok(()) };
        if self.keeper.is_none() {
            return Ok(());
        }
        let users: Vec<u32> = record.holders.values().map(|holder| holder.user).collect();
        keeper::admit(&self.directory, &users).map_err(|error| error.to_string())
    }

    /// The volume as its owner opens it.
    pub(super) async fn chain(&self, spec: &Spec) -> Result<Chain, String> {
        let record = self.record.as_ref().ok_or("the volume is not there")?;
        Ok(Chain {
            volume: self.handle.id.clone(),
            layers: self.layers(record.layers.iter().map(|layer| layer.number)),
            source: (!record.filled).then(|| self.served()),
            passphrase: self.shared.passphrase(record.key.as_ref()).await?,
            throttle: self.throttle(spec),
        })
    }

    fn layers(&self, numbers: impl Iterator<Item = u32>) -> Vec<Layer> {
        let file = |number| directory::layer_file(&self.handle.id, number);
        numbers.map(|number| Layer { number, file: file(number) }).collect()
    }

    /// The source as what opens it sees it.
    fn served(&self) -> Source {
        let socket = format!("{}/{}", directory::relative(&self.handle.id), source::SOCKET);
        Source { socket, export: String::new(), writable: false }
    }

    /// Starts what serves the source, unless it is not needed or runs; `user` may connect.
    pub(super) async fn ensure_server(&mut self, user: u32) -> Result<(), String> {
        let Some(record) = &self.record else { return Ok(()) };
        let Some(content) = record.source.clone().filter(|_| !record.filled) else {
            return Ok(());
        };
        if self.server.is_none() {
            let config = &self.shared.config;
            let served = source::Served {
                blobs: &config.blob_config,
                key: self.shared.data_key(content.key.as_ref()).await?,
                content: &content,
                user,
                bytes: record.bytes(),
            };
            let server =
                source::start(&config.storage, &config.data_dir, &self.directory, served).await?;
            let identity = server.identity.clone();
            self.server = Some(server);
            if let Some(record) = &mut self.record {
                record.server = Some(identity);
            }
            // If it cannot be recorded it is a stray after the next start.
            self.save().await;
        }
        if rustix::process::geteuid().is_root() {
            let socket = self.directory.path().join(source::SOCKET);
            std::os::unix::fs::chown(socket, Some(user), Some(user)).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
            server.ended().await;
        }
        if let Some(record) = &mut self.record {
            record.server = None;
        }
    }

    /// Stops what serves the source once nothing reads it.
    pub(super) async fn spare_server(&mut self) {
        let filled = self.record.as_ref().is_none_or(|record| record.filled);
        let unused = !self.is_owned() && self.work.is_none();
        if (filled || unused) && self.uploading.is_none() && self.server.is_some() {
            self.stop_server().await;
            self.save().await;
        }
    }

    fn on_server_ended(&mut self, how: &str) {
        tracing::warn!(id = self.handle.id, how, "the process that serves the source has ended");
        self.server = None;
        if let Some(record) = &mut self.record {
            record.server = None;
        }
    }

    /// Starts again what machines need and what has ended.
    async fn keep_processes(&mut self, spec: &Spec) {
        if self.needs_keeper()
            && self.keeper.is_none()
            && self.is_due("keeper")
            && let Err(message) = self.ensure_keeper(spec).await
        {
            tracing::error!(id = self.handle.id, message, "the storage daemon cannot be started");
            self.put_off("keeper", TICK);
        }
        let user = self.record.as_ref().map_or(IDLE_USER, Record::user);
        let needed = self.is_owned() || self.work.is_some() || self.uploading.is_some();
        if needed
            && self.server.is_none()
            && self.is_due("server")
            && let Err(message) = self.ensure_server(user).await
        {
            tracing::error!(id = self.handle.id, message, "the source cannot be served");
            self.put_off("server", TICK);
        }
    }

    /// Whether machines wait for a storage daemon of ours.
    fn needs_keeper(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.multi_attach && !record.holders.is_empty())
    }

    async fn on_timer(&mut self) {
        let now = Instant::now();
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = None;
            self.tick().await;
        }
    }

    /// Starts the owner of a Multi-Attach volume.
    async fn ensure_keeper(&mut self, spec: &Spec) -> Result<(), String> {
        if self.keeper.is_some() {
            return Ok(());
        }
        self.ensure_server(IDLE_USER).await?;
        let chain = self.chain(spec).await?;
        let data_dir = &self.shared.config.data_dir;
        let keeper = Keeper::start(data_dir, &self.directory, Purpose::Owner, IDLE_USER).await?;
        if let Err(message) = keeper.share(&chain).await {
            keeper.quit().await;
            return Err(message);
        }
        self.told = Some(chain.throttle);
        self.in_force = Some(spec.limits);
        if let Some(record) = &mut self.record {
            record.keeper = Some(keeper.identity());
        }
        self.listen("", &keeper.host.clone());
        self.keeper = Some(keeper);
        self.admit_holders()?;
        // If it cannot be recorded it is a stray after the next start.
        self.save().await;
        Ok(())
    }

    /// The owner of a Multi-Attach volume is no more: its machines wait for another.
    async fn on_keeper_ended(&mut self, how: &str) {
        tracing::warn!(id = self.handle.id, how, "a volume's storage daemon has ended");
        self.keeper = None;
        self.job = None;
        let Some(record) = &mut self.record else { return };
        record.keeper = None;
        // Nobody writes to the layer below a new one, so its instant was the daemon's end.
        record.finish_cut();
        self.save().await;
    }

    /// Sends what a block layer says into the task's queue.
    pub(super) fn listen(&mut self, name: &str, host: &Host) {
        let mut events = host.events();
        let (asks, id) = (self.handle.asks.clone(), self.handle.id.clone());
        let listening = tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) if volume_of(&event) == id => {
                        if asks.send(Ask::Event(event)).is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let before = self.listening.insert(name.to_owned(), listening.abort_handle());
        if let Some(before) = before {
            before.abort();
        }
    }

    async fn on_held(&mut self, machine: String, host: Host) {
        let Some(record) = &mut self.record else { return };
        let Some(holder) = record.holders.get_mut(&machine) else {
            tracing::error!(id = self.handle.id, machine, "a machine has a volume not given to it");
            return;
        };
        let known = std::mem::replace(&mut holder.held, true);
        if !known {
            self.save().await;
            self.put_off("fill", self.shared.config.fill_after);
        }
        self.listen(&machine, &host);
        self.hosts.insert(machine, host.clone());
        if self.record.as_ref().is_some_and(|record| !record.multi_attach) {
            if known {
                self.told = None;
            }
            self.take_up_job(&host).await;
        }
    }

    /// A machine has the volume no more.
    async fn release(&mut self, machine: &str) {
        let holds = |record: &Record| record.holders.contains_key(machine);
        if !self.record.as_ref().is_some_and(holds) {
            return;
        }
        let spec = self.inbox.borrow().clone();
        if let Some(spec) = &spec {
            let counters = self.counters().await;
            self.advance_balance(spec, counters.as_ref());
        }
        if let Some(listening) = self.listening.remove(machine) {
            listening.abort();
        }
        if let Some(host) = self.hosts.remove(machine) {
            let patience = Instant::now() + Duration::from_secs(5);
            // Refused while the guest has not quite let go; an error too if the process has ended.
            while let Err(error) = close(&host, &self.handle.id).await {
                if matches!(error, Error::Closed | Error::Io(_)) {
                    break;
                }
                if Instant::now() > patience {
                    tracing::error!(id = self.handle.id, %error, "a volume stays open");
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let Some(record) = &mut self.record else { return };
        if record.holders.remove(machine).is_none() {
            return;
        }
        if record.holders.is_empty() {
            self.job = None;
            self.told = None;
            self.impaired = None;
            if let Some(keeper) = self.keeper.take() {
                keeper.quit().await;
            }
            let Some(record) = &mut self.record else { return };
            record.keeper = None;
            // Nobody writes to the layer below a new one, so its instant was this.
            record.finish_cut();
            let (directory, files) = (self.directory.clone(), record.clone());
            if let Err(error) = blocking(move || directory.give(&files, IDLE_USER)).await {
                tracing::error!(id = self.handle.id, %error, "a volume stays its machine's");
            }
            self.spare_server().await;
        }
        self.save().await;
        self.publish();
    }

    /// Forgets the snapshots that the spec does not name any more.
    async fn forget_snapshots(&mut self, spec: &Spec) -> bool {
        let Some(record) = &mut self.record else { return false };
        let dropped: Vec<String> = record
            .snapshots
            .keys()
            .filter(|id| !spec.snapshots.iter().any(|snapshot| snapshot.id == **id))
            .cloned()
            .collect();
        if dropped.is_empty() || self.unsaved {
            return false;
        }
        for id in &dropped {
            record.snapshots.remove(id);
            self.attempts.remove(id);
        }
        if self.uploading.as_ref().is_some_and(|upload| dropped.contains(&upload.snapshot)) {
            self.uploading = None;
        }
        self.save().await;
        for id in &dropped {
            // Whoever dropped it has recorded its content.
            self.pins.remove(id);
        }
        true
    }

    /// Begins the upload of the oldest snapshot that is cut and not uploaded.
    async fn start_upload(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        let merging = self.job == Some(JobKind::Commit)
            || self.work.as_ref().is_some_and(|work| work.merges());
        if self.uploading.is_some() || merging || self.unsaved || !self.is_due("upload") {
            return false;
        }
        let pending =
            |id: &str| record.snapshots.get(id).is_some_and(|taken| taken.result.is_none());
        // In order, since each is the next one's parent.
        let Some(snapshot) = spec.snapshots.iter().find(|snapshot| pending(&snapshot.id)) else {
            return false;
        };
        let attempts = self.attempts.get(&snapshot.id).copied().unwrap_or_default();
        if attempts.after.is_some_and(|after| after > Instant::now()) {
            return false;
        }
        let id = snapshot.id.clone();
        let plan = match self.plan(spec, snapshot, attempts.whole).await {
            Ok(plan) => plan,
            Err(message) => {
                tracing::warn!(id = self.handle.id, message, "a snapshot cannot be uploaded yet");
                self.put_off("upload", Duration::from_secs(5));
                return false;
            }
        };
        let progress = Arc::new(Progress::default());
        let (shared, directory) = (Arc::clone(&self.shared), self.directory.clone());
        let followed = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            // Never closed.
            let _permit = Arc::clone(&shared.uploads).acquire_owned().await;
            let config = &shared.config;
            upload(&config.data_dir, &directory, &config.blobs, plan, &followed).await
        });
        self.uploading = Some(Uploading { snapshot: id, progress, task });
        true
    }

    /// What is uploaded for a snapshot.
    async fn plan(
        &mut self,
        spec: &Spec,
        snapshot: &base::volume::Snapshot,
        whole: bool,
    ) -> Result<Plan, String> {
        let user = self.record.as_ref().map_or(IDLE_USER, Record::user);
        self.ensure_server(user).await?;
        let record = self.record.as_ref().ok_or("the volume is not there")?;
        let taken = record.snapshots.get(&snapshot.id).ok_or("the snapshot is not cut")?;
        let at = record
            .layers
            .iter()
            .position(|layer| layer.number == taken.layer)
            .ok_or("the snapshot's layer is not there")?;
        // What is still sure to be in the blob store: what the control plane names, and what was
        // uploaded and is pinned here.
        let named = |content: &Content| {
            snapshot.parent.as_ref() == Some(content)
                || spec.snapshots.iter().any(|other| {
                    let result = record.snapshots.get(&other.id).and_then(|t| t.result.as_ref());
                    matches!(result, Some(Outcome::Completed { content: c, .. }) if c == content)
                })
        };
        let parent = record.layers[..=at].iter().enumerate().rev().find_map(|(index, layer)| {
            let content = layer.content.as_ref()?;
            (content.key == record.key && named(content)).then(|| (index, content.clone()))
        });
        let parent = parent.filter(|_| !whole);
        // While layer 0 is being filled the source itself is read.
        let lowest = usize::from(!record.filled);
        let numbers = record.layers[lowest.min(at)..=at].iter().map(|layer| layer.number);
        Ok(Plan {
            chain: Chain {
                volume: self.handle.id.clone(),
                layers: self.layers(numbers),
                source: (!record.filled).then(|| self.served()),
                passphrase: self.shared.passphrase(record.key.as_ref()).await?,
                throttle: Throttle::default(),
            },
            user: record.user(),
            newer: parent.as_ref().map_or(0, |(index, _)| at - index),
            parent: parent.map(|(_, content)| content),
            size_gib: taken.size_gib,
            key: self.shared.data_key(record.key.as_ref()).await?,
        })
    }

    async fn on_uploaded(&mut self, result: Result<Finished, Problem>) {
        let Some(uploading) = self.uploading.take() else { return };
        let id = uploading.snapshot.clone();
        let Some(record) = &mut self.record else { return };
        let key = record.key.clone();
        let Some(taken) = record.snapshots.get_mut(&id) else { return };
        let attempts = self.attempts.entry(id.clone()).or_default();
        attempts.count += 1;
        let failed = match result {
            Ok(finished) => {
                let content = finished.content(key);
                tracing::info!(
                    id,
                    volume = self.handle.id,
                    new_bytes = finished.new_bytes,
                    stored_bytes = finished.stored_bytes,
                    "uploaded a snapshot"
                );
                let layer = taken.layer;
                taken.result = Some(Outcome::Completed {
                    content: content.clone(),
                    new_bytes: finished.new_bytes,
                    full_bytes: finished.full_bytes,
                });
                if let Some(layer) = record.layers.iter_mut().find(|l| l.number == layer) {
                    layer.content = Some(content);
                }
                self.pins.insert(id.clone(), finished.pinned);
                self.attempts.remove(&id);
                None
            }
            Err(Problem::Final(message)) => Some(message),
            Err(Problem::Unreadable(message)) if attempts.count >= READINGS => Some(message),
            Err(problem) => {
                tracing::warn!(id, ?problem, "the upload of a snapshot is tried again");
                attempts.whole |= matches!(problem, Problem::Parent(_));
                let delay = Duration::from_secs((1 << attempts.count.min(6)).min(60));
                attempts.after = Some(Instant::now() + delay);
                self.spare_server().await;
                return;
            }
        };
        if let Some(message) = failed {
            tracing::error!(id, message, "a snapshot cannot be uploaded");
            taken.result = Some(Outcome::Failed { message });
            self.attempts.remove(&id);
        }
        self.save().await;
        self.spare_server().await;
    }

    /// A cut that may have happened before a crash or an error: whether something was found out.
    async fn recover_cut(&mut self) -> bool {
        let Some(record) = &self.record else { return false };
        let Some(cutting) = record.cutting.clone() else { return false };
        if !self.is_due("cut") {
            return false;
        }
        let happened = if record.holders.is_empty() && self.keeper.is_none() {
            true
        } else {
            let Some(owner) = self.owner() else { return false };
            match owner.layers(&self.handle.id).await {
                Ok(layers) => layers.contains(&cutting.new),
                Err(error) => {
                    tracing::warn!(id = self.handle.id, %error, "whether a cut was made is open");
                    self.put_off("cut", TICK);
                    return false;
                }
            }
        };
        if let Some(record) = &mut self.record {
            match happened {
                true => record.finish_cut(),
                false => record.cutting = None,
            }
        }
        if self.save().await && !happened {
            let directory = self.directory.clone();
            // What stays is removed at the next start.
            let _ = blocking(move || directory.remove_layer(cutting.new)).await;
        }
        true
    }

    /// Snapshots that are to be cut now.
    fn due<'a>(&self, spec: &'a Spec) -> Vec<&'a base::volume::Snapshot> {
        let Some(record) = &self.record else { return Vec::new() };
        let is_due = |snapshot: &&base::volume::Snapshot| {
            if record.snapshots.contains_key(&snapshot.id) {
                return false;
            }
            match snapshot.during_reboot {
                None => true,
                Some(_) if record.holders.is_empty() => true,
                Some(wanted) => record.reboots.as_ref().is_some_and(|(machine, reboots)| {
                    *reboots >= wanted && record.holders.contains_key(machine)
                }),
            }
        };
        spec.snapshots.iter().filter(is_due).collect()
    }

    fn answer_reboots(&mut self, spec: &Spec) {
        if self.due(spec).is_empty() {
            for answer in self.rebooting.drain(..) {
                // Nobody may wait any more.
                let _ = answer.send(());
            }
        }
    }

    async fn cut_due(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        if record.cutting.is_some() || self.unsaved || !self.is_due("cut") {
            return false;
        }
        let owner = self.owner();
        if self.is_owned() && owner.is_none() {
            return false;
        }
        let due = self.due(spec);
        let Some(first) = due.first() else { return false };
        // Those that stand alone share a cut; a group has its own.
        let group: &[(String, String)] = match first.together.len() {
            0 | 1 => &[],
            _ => &first.together,
        };
        let ids: Vec<String> = match group.is_empty() {
            false => vec![first.id.clone()],
            true => due.iter().filter(|s| s.together.len() < 2).map(|s| s.id.clone()).collect(),
        };
        let began = Instant::now();
        if let Err(message) = self.cut(ids.clone(), group, owner).await {
            tracing::warn!(id = self.handle.id, message, "a snapshot could not be cut yet");
            self.put_off("cut", TICK);
            return false;
        }
        tracing::info!(id = self.handle.id, ?ids, elapsed = ?began.elapsed(), "cut");
        self.publish();
        true
    }

    /// Freezes the active layer as `snapshots`.
    async fn cut(
        &mut self,
        snapshots: Vec<String>,
        group: &[(String, String)],
        owner: Option<Host>,
    ) -> Result<(), String> {
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        let (new, active, user) = (record.next, record.active(), record.user());
        let (directory, owned) = (self.directory.clone(), owner.is_some());
        let made = blocking(move || {
            if owned {
                directory.sync_layer(active);
            }
            directory.add_layer(new, user)
        });
        made.await.map_err(|error| error.to_string())?;
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        record.next += 1;
        record.cutting = Some(directory::Cutting { new, snapshots });
        let encrypted = record.key.is_some();
        let name = match record.multi_attach {
            true => self.handle.id.clone(),
            false => record.holders.keys().next().cloned().unwrap_or_default(),
        };
        let part = match owner {
            Some(host) => {
                if !self.save().await {
                    // Written before anything else happens; then it is found not to have happened.
                    return Err("the volume's record cannot be written".to_owned());
                }
                let layer =
                    Layer { number: new, file: directory::layer_file(&self.handle.id, new) };
                let volume = self.handle.id.clone();
                Some((name, host, Cut { volume, active, new: layer, encrypted }))
            }
            None => None,
        };
        let done = match (group.is_empty(), part) {
            (true, None) => Ok(()),
            (true, Some((_, host, cut))) => {
                host.cut(&[cut]).await.map_err(|error| error.to_string())
            }
            (false, part) => {
                let owned = part.is_some();
                let joined = self.shared.groups.join(group, &self.handle.id, part).await;
                if joined.is_err() && !owned {
                    // It has not happened, and the record on the disk does not know of it.
                    if let Some(record) = &mut self.record {
                        record.cutting = None;
                    }
                }
                joined
            }
        };
        done?;
        if let Some(record) = &mut self.record {
            record.finish_cut();
        }
        // In memory it has happened, and on the disk the record and the owner say so.
        self.save().await;
        Ok(())
    }
}

/// Removes a volume from a process that goes on.
async fn close(host: &Host, volume: &str) -> Result<(), Error> {
    for kind in [JobKind::Stream, JobKind::Commit] {
        host.cancel_job(volume, kind).await?;
    }
    host.remove_chain(volume).await
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
