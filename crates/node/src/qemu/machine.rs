//! The one task that owns a machine.
//!
//! Everything that happens to a machine arrives in one place, [`Machine::wait`]: a new wish (the
//! latest replaces the one before), an event of its monitor, the end of its process, a timer. After
//! each, [`super::admission`] says the next step, until there is none.
//!
//! ```text
//!            Launch                     QMP answers
//!   Off ───────────────► (launching) ───────────────► Up ◄──────────────┐
//!    ▲ ▲                      │                       │ │ Press(Reboot) │ reset: done by the guest's
//!    │ │      disk, kernel,   │                       │ └──► closing ───┘ power-off, or after a grace
//!    │ └── network, QEMU fail ┘         Press(Stop)   │
//!    │     (Failed: what was made is removed)         ▼
//!    ├───────────────── power-off, or Quit after a grace, or Quit at once
//!    └───────────────── the process died (pidfd), the guest powered off, the host's disk is full
//!   any ── Demolish ──► Gone
//! ```
//!
//! The disks of a machine that is up are kept by [`super::disks`]; volumes are given back before it
//! is said that the machine has ended.
//!
//! What survives the daemon is the process, its monitors' sockets and `record.json`; a machine is
//! adopted by reading the record and asking the monitors. QEMU pauses when its guest powers off, so
//! a power-off that nobody watched is still told apart from a death.

mod bring_up;

use super::Shared;
use super::admission::{self, Action, Closing, Phase, PowerOff};
use super::command;
use super::directory::{Directory, Record, Stage};
use super::disks::Disks;
use super::launch::{connect, connect_disks};
use super::nics::{NicEvent, Nics, States};
use super::process::{self, Process};
use super::qmp::{Client, Event};
use base::machine::{ExitCause, Spec, State, Wanted};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout};

/// How long QEMU may take from its start to its monitor's first answer.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// How long QEMU may take to end after it was told to.
pub(crate) const QUIT: Duration = Duration::from_secs(5);

/// How often the power button is pressed again: a guest that still boots misses the first.
pub(crate) const PRESS_AGAIN: Duration = Duration::from_secs(5);

/// How often a guest's network is probed until it first answers, and from then on.
const PROBE_FIRST: Duration = Duration::from_secs(2);
const PROBE_LATER: Duration = Duration::from_secs(60);

/// What the rest of the driver holds of a machine.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: String,
    /// The latest wish; the task's one queue.
    pub(crate) inbox: watch::Sender<Option<Arc<Spec>>>,
    pub(crate) state: Mutex<State>,
    /// How far each interface beside the primary one is.
    pub(crate) interfaces: States,
    /// Secret behind the machine's metadata tokens; set before it first runs.
    pub(crate) token_key: OnceLock<Vec<u8>>,
    pub(crate) task: OnceLock<AbortHandle>,
}

impl Handle {
    pub(crate) fn new(id: &str, state: State) -> (Arc<Self>, watch::Receiver<Option<Arc<Spec>>>) {
        let (inbox, receiver) = watch::channel(None);
        let handle = Handle {
            id: id.to_owned(),
            inbox,
            state: Mutex::new(state),
            interfaces: States::default(),
            token_key: OnceLock::new(),
            task: OnceLock::new(),
        };
        (Arc::new(handle), receiver)
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// The task's own view of its machine.
#[derive(Debug)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    inbox: watch::Receiver<Option<Arc<Spec>>>,
    directory: Directory,
    record: Option<Record>,
    up: Option<Up>,
    gone: bool,
    /// When to try a step again that failed.
    retry: Option<Instant>,
}

/// A machine whose process runs.
#[derive(Debug)]
struct Up {
    process: Process,
    /// `None` while the connection is lost.
    monitor: Option<Client>,
    /// As `monitor`.
    disks: Option<Disks>,
    /// As `monitor`, by which it works.
    nics: Option<Nics>,
    reconnect: Instant,
    closing: Option<Close>,
    /// The guest powered off; QEMU is paused.
    powered_off: bool,
    reachable: Option<bool>,
    next_probe: Option<Instant>,
    probe: Option<JoinHandle<Option<bool>>>,
}

#[derive(Debug)]
struct Close {
    why: Closing,
    /// When the guest has had its time.
    deadline: Instant,
    next_press: Instant,
}

impl Up {
    fn new(process: Process, probes: bool) -> Self {
        let now = Instant::now();
        Up {
            process,
            monitor: None,
            disks: None,
            nics: None,
            reconnect: now,
            closing: None,
            powered_off: false,
            reachable: None,
            next_probe: probes.then_some(now + PROBE_FIRST),
            probe: None,
        }
    }

    /// When something is due.
    fn next_timer(&self) -> Option<Instant> {
        let lost = self.is_lost();
        let reconnect = lost.then_some(self.reconnect);
        let closing = self.closing.as_ref().map(|close| close.deadline.min(close.next_press));
        let probe = self.next_probe.filter(|_| self.probe.is_none());
        let nics = self.nics.as_ref().and_then(Nics::next_timer);
        let nics = nics.filter(|_| self.monitor.is_some());
        [reconnect, closing, probe, nics].into_iter().flatten().min()
    }

    /// Whether something is to be connected again.
    fn is_lost(&self) -> bool {
        self.monitor.is_none() || self.disks.is_none() || self.nics.is_none()
    }
}

/// What [`Machine::wait`] saw.
enum Seen {
    Wish,
    Closed,
    Event(Option<Event>),
    /// A disk is out.
    Disk,
    /// Something of the network cards.
    Nic(NicEvent),
    /// The connection to the block layer has ended.
    DisksLost,
    End(String),
    Probe(Option<bool>),
    Timer,
}

impl Machine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        inbox: watch::Receiver<Option<Arc<Spec>>>,
    ) -> Self {
        let directory = Directory::new(&shared.data_dir, &handle.id);
        Machine {
            shared,
            handle,
            inbox,
            directory,
            record: None,
            up: None,
            gone: false,
            retry: None,
        }
    }

    /// Takes up what another daemon left of the machine. Called before the task starts.
    pub(crate) fn adopt(&mut self, mut record: Record) {
        self.remember_key(&record);
        if let Stage::Up(identity) = &record.stage {
            match Process::adopt(identity) {
                Ok(Some(process)) => {
                    tracing::info!(id = self.handle.id, pid = identity.pid, "adopted a machine");
                    self.up = Some(Up::new(process, self.shared.network.is_some()));
                }
                Ok(None) => {
                    let same_boot = process::boot_id().is_ok_and(|id| id == identity.boot_id);
                    let how = match same_boot {
                        true => "the QEMU process ended while no daemon was watching it",
                        false => "the host was restarted",
                    };
                    record.stage = Stage::Exited(ExitCause::Died(how.to_owned()));
                    self.keep(&record);
                }
                Err(error) => {
                    let how = format!("the QEMU process cannot be watched: {error}");
                    record.stage = Stage::Exited(ExitCause::Died(how));
                }
            }
        }
        if record.stage == Stage::Launching {
            process::kill_unrecorded(&self.shared.data_dir, &command::uuid(&self.handle.id));
        }
        self.record = Some(record);
        self.publish();
    }

    fn remember_key(&self, record: &Record) {
        match BASE64.decode(&record.token_key) {
            // Set once; a relaunch brings the same key.
            Ok(key) => drop(self.handle.token_key.set(key)),
            Err(error) => tracing::error!(id = self.handle.id, %error, "unreadable token key"),
        }
    }

    fn keep(&self, record: &Record) {
        if let Err(error) = self.directory.write(record) {
            tracing::error!(id = self.handle.id, %error, "a machine's record could not be written");
        }
    }

    fn phase(&self) -> Phase {
        if self.gone {
            return Phase::Gone;
        }
        match (&self.record, &self.up) {
            (Some(record), Some(up)) => Phase::Up {
                start: record.start,
                reboots: record.reboots,
                closing: up.closing.as_ref().map(|close| close.why),
            },
            // What was not recorded to run was killed: the same start is made again.
            (Some(Record { stage: Stage::Launching, start, .. }), None) => {
                Phase::Off { ended: start.saturating_sub(1) }
            }
            (Some(record), None) => Phase::Off { ended: record.start },
            (None, _) => Phase::Off { ended: 0 },
        }
    }

    fn state(&self) -> State {
        if self.gone {
            return State::Gone;
        }
        let Some(record) = &self.record else {
            return State::Exited { start: 0, cause: ExitCause::Requested };
        };
        let start = record.start;
        match (&self.up, &record.stage) {
            (Some(up), _) => {
                State::Running { start, reboots: record.reboots, reachable: up.reachable }
            }
            (None, Stage::Launching | Stage::Up(_)) => State::Launching { start },
            (None, Stage::Exited(cause)) => State::Exited { start, cause: cause.clone() },
            (None, Stage::Failed(message)) => State::Failed { start, message: message.clone() },
        }
    }

    fn publish(&self) {
        let state = self.state();
        let changed = {
            let mut known =
                self.handle.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let changed = *known != state;
            *known = state;
            changed
        };
        let replugged = self.publish_interfaces();
        if changed || replugged {
            self.shared.announce(&self.handle.id);
        }
    }

    /// Runs until the machine is gone or the driver is dropped.
    pub(crate) async fn run(mut self) {
        if self.up.is_none() && self.record.is_some() {
            // It may have ended while no daemon was watching.
            self.give_back().await;
        }
        loop {
            while self.step().await {}
            if self.gone {
                return;
            }
            match self.wait().await {
                Seen::Closed => return,
                Seen::Wish => {}
                Seen::Event(event) => self.on_event(event).await,
                Seen::Disk => {}
                Seen::Nic(event) => self.on_nic(event).await,
                Seen::DisksLost => self.on_disks_lost().await,
                Seen::End(how) => self.on_end(how).await,
                Seen::Probe(reachable) => self.on_probe(reachable),
                Seen::Timer => self.on_timer().await,
            }
        }
    }

    fn wanted(&self) -> Option<Wanted> {
        self.inbox.borrow().as_ref().map(|spec| spec.wanted)
    }

    /// Makes the next step; whether there was one.
    async fn step(&mut self) -> bool {
        if self.retry.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        self.retry = None;
        let Some(spec) = self.inbox.borrow_and_update().clone() else { return false };
        if self.up.as_ref().is_some_and(|up| up.powered_off) {
            self.settle_power_off(spec.wanted).await;
            return true;
        }
        match admission::decide(self.phase(), spec.wanted) {
            Action::Nothing => {
                self.want_disks(&spec);
                self.want_nics(&spec).await;
                self.publish();
                return false;
            }
            Action::Launch { start, reboots } => self.launch(&spec, start, reboots).await,
            Action::Press(why) => self.press(why).await,
            Action::Quit => self.quit(ExitCause::Requested).await,
            Action::Demolish => self.demolish().await,
        }
        true
    }

    async fn wait(&mut self) -> Seen {
        let timer = [self.retry, self.up.as_ref().and_then(Up::next_timer)];
        let timer = timer.into_iter().flatten().min();
        let timer = async {
            match timer {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let inbox = &mut self.inbox;
        let wish = async {
            match inbox.changed().await {
                Ok(()) => Seen::Wish,
                Err(_) => Seen::Closed,
            }
        };
        let Some(up) = &mut self.up else {
            return tokio::select! {
                seen = wish => seen,
                () = timer => Seen::Timer,
            };
        };
        let monitor = async {
            match &mut up.monitor {
                Some(monitor) => monitor.event().await,
                None => std::future::pending().await,
            }
        };
        let disks = async {
            match &mut up.disks {
                Some(disks) => {
                    let host = disks.host.clone();
                    tokio::select! {
                        () = disks.ended() => Seen::Disk,
                        () = host.closed() => Seen::DisksLost,
                    }
                }
                None => std::future::pending().await,
            }
        };
        let nics = async {
            match &mut up.nics {
                Some(nics) => Seen::Nic(nics.event().await),
                None => std::future::pending().await,
            }
        };
        let probe = async {
            match &mut up.probe {
                Some(probe) => probe.await.unwrap_or(None),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What QEMU said before it ended counts before its end.
            biased;
            event = monitor => Seen::Event(event),
            how = up.process.ended() => Seen::End(how),
            seen = wish => seen,
            seen = disks => seen,
            seen = nics => seen,
            reachable = probe => Seen::Probe(reachable),
            () = timer => Seen::Timer,
        }
    }

    async fn on_event(&mut self, event: Option<Event>) {
        let Some(up) = &mut self.up else { return };
        match event {
            Some(Event::Shutdown { guest, reason }) => {
                tracing::info!(id = self.handle.id, guest, reason, "the machine shut down");
                up.powered_off |= guest;
            }
            Some(Event::Reset) => tracing::info!(id = self.handle.id, "the machine was reset"),
            // For those who keep the disks, who have a monitor of their own.
            Some(Event::IoError { .. } | Event::JobEnded { .. }) => {}
            Some(Event::DeviceDeleted { device }) => {
                if let (Some(nics), Some(monitor)) = (&mut up.nics, &mut up.monitor) {
                    nics.deleted(&device, monitor).await;
                }
            }
            Some(Event::NoSpace { device }) => {
                let directory = self.shared.data_dir.display();
                let why = format!(
                    "disk {device} could not grow: the disk that holds {directory} is full; free \
                     space there and start the instance again"
                );
                self.quit(ExitCause::Died(why)).await;
            }
            None => {
                up.monitor = None;
                up.nics = None;
                up.reconnect = Instant::now() + Duration::from_millis(200);
            }
        }
    }

    async fn on_disks_lost(&mut self) {
        let Some(up) = &mut self.up else { return };
        if let Some(disks) = up.disks.take() {
            disks.end().await;
        }
        up.reconnect = Instant::now() + Duration::from_millis(200);
    }

    /// Tells those who keep the disks what the spec has.
    fn want_disks(&mut self, spec: &Spec) {
        let Some(disks) = self.up.as_mut().and_then(|up| up.disks.as_mut()) else { return };
        let wanted: Vec<&str> =
            spec.volumes.iter().skip(1).map(|volume| volume.id.as_str()).collect();
        disks.want(&wanted, &spec.forced_off);
    }

    /// Brings the network cards nearer to what the spec has.
    async fn want_nics(&mut self, spec: &Spec) {
        let Some(up) = &mut self.up else { return };
        if let (Some(nics), Some(monitor)) = (&mut up.nics, &mut up.monitor) {
            nics.step(spec, monitor).await;
        }
    }

    async fn on_nic(&mut self, event: NicEvent) {
        let Some(up) = &mut self.up else { return };
        if let (NicEvent::Opened(id, opened), Some(nics), Some(monitor)) =
            (event, &mut up.nics, &mut up.monitor)
        {
            nics.opened(&id, opened, monitor).await;
        }
    }

    /// Says how far the interfaces are; whether that is something new.
    fn publish_interfaces(&self) -> bool {
        let known = match &self.up {
            None => Some(BTreeMap::new()),
            Some(Up { nics: None, .. }) => None,
            Some(Up { nics: Some(nics), .. }) => Some(nics.states()),
        };
        self.handle.interfaces.set(known)
    }

    /// The machine is off: nobody uses its volumes and its instance store any more.
    async fn give_back(&self) {
        self.shared.volumes.machine_ended(&self.handle.id).await;
        let directory = self.directory.clone();
        if let Err(error) = blocking(move || directory.remove_local_disks()).await {
            tracing::error!(id = self.handle.id, %error, "the instance store was not removed");
        }
    }

    async fn on_end(&mut self, how: String) {
        let wanted = self.wanted();
        let stopping = matches!(wanted, Some(Wanted::Stopped { .. } | Wanted::Terminated))
            || self.up.as_ref().is_some_and(|up| {
                up.closing.as_ref().is_some_and(|close| close.why == Closing::Stop)
            });
        let cause = if stopping {
            ExitCause::Requested
        } else {
            let words = self.directory.last_words();
            ExitCause::Died(if words.is_empty() { how } else { format!("{how} ({words})") })
        };
        self.ended(cause).await;
    }

    async fn ended(&mut self, cause: ExitCause) {
        tracing::info!(id = self.handle.id, ?cause, "the machine has ended");
        if let Some(disks) = self.up.take().and_then(|up| up.disks) {
            disks.end().await;
        }
        self.give_back().await;
        if let Some(record) = &mut self.record {
            record.stage = Stage::Exited(cause);
            let record = record.clone();
            self.keep(&record);
        }
        self.publish();
    }

    fn on_probe(&mut self, reachable: Option<bool>) {
        let Some(up) = &mut self.up else { return };
        up.probe = None;
        if reachable.is_some() {
            up.reachable = reachable;
        }
        let pause = if up.reachable == Some(true) { PROBE_LATER } else { PROBE_FIRST };
        up.next_probe = Some(Instant::now() + pause);
        self.publish();
    }

    async fn on_timer(&mut self) {
        let now = Instant::now();
        let Some(up) = &mut self.up else { return };
        if up.next_probe.is_some_and(|at| at <= now) && up.probe.is_none() {
            let spec = self.inbox.borrow().clone();
            let interface = spec.and_then(|spec| Some(spec.interfaces.first()?.id.clone()));
            match (interface, &self.shared.network) {
                (Some(interface), Some(network)) => {
                    let fabric = Arc::clone(&network.fabric);
                    let probe = move || fabric.reachable(&interface);
                    up.probe = Some(tokio::task::spawn_blocking(probe));
                }
                _ => up.next_probe = Some(now + PROBE_FIRST),
            }
        }
        if up.is_lost() && up.reconnect <= now {
            self.reconnect().await;
        }
        let Some(close) = self.up.as_mut().and_then(|up| up.closing.as_mut()) else { return };
        if close.deadline <= now {
            match close.why {
                Closing::Stop => self.quit(ExitCause::Requested).await,
                Closing::Reboot => self.reset().await,
            }
        } else if close.next_press <= now {
            close.next_press = now + PRESS_AGAIN;
            self.order("system_powerdown").await;
        }
    }

    /// Connects to the monitors again and learns what was missed.
    async fn reconnect(&mut self) {
        if let Err(why) = self.try_reconnect().await {
            tracing::warn!(id = self.handle.id, why, "QEMU's monitor cannot be reached");
            if let Some(up) = &mut self.up {
                up.reconnect = Instant::now() + Duration::from_secs(2);
            }
        }
    }

    async fn try_reconnect(&mut self) -> Result<(), String> {
        let user = self.record.as_ref().map_or(0, |record| record.user);
        let Some(up) = &mut self.up else { return Ok(()) };
        let silent = |_| "no answer".to_owned();
        if up.monitor.is_none() {
            let connected = timeout(HANDSHAKE, connect(&self.directory)).await;
            let (monitor, powered_off) = connected.map_err(silent)??;
            up.monitor = Some(monitor);
            up.powered_off |= powered_off;
        }
        if let (None, Some(monitor)) = (&up.nics, &mut up.monitor) {
            let network = self.shared.network.clone();
            let nics = Nics::adopted(&self.handle.id, network, monitor);
            let nics = timeout(HANDSHAKE, nics).await.map_err(silent)?;
            up.nics = Some(nics.map_err(|error| error.to_string())?);
        }
        if up.disks.is_none() {
            let volumes = self.shared.volumes.clone();
            let adopt = async {
                let host = connect_disks(&self.directory).await?;
                let disks = Disks::adopted(volumes, &self.handle.id, user, host).await;
                disks.map_err(|error| error.to_string())
            };
            up.disks = Some(timeout(HANDSHAKE, adopt).await.map_err(silent)??);
        }
        Ok(())
    }

    /// Sends a command without arguments; a failure shows by what does not happen after it.
    async fn order(&mut self, command: &str) {
        let Some(monitor) = self.up.as_mut().and_then(|up| up.monitor.as_mut()) else { return };
        if let Err(error) = monitor.execute(command, json!({})).await {
            tracing::warn!(id = self.handle.id, command, %error, "QEMU did not obey");
        }
    }

    async fn press(&mut self, why: Closing) {
        let grace = match why {
            Closing::Stop => self.shared.timing.stop_grace,
            Closing::Reboot => self.shared.timing.reboot_grace,
        };
        let now = Instant::now();
        if let Some(up) = &mut self.up {
            let close = Close { why, deadline: now + grace, next_press: now + PRESS_AGAIN };
            up.closing = Some(close);
        }
        self.order("system_powerdown").await;
    }

    /// The guest has powered off: ends the machine or brings it up again.
    async fn settle_power_off(&mut self, wanted: Wanted) {
        let start = self.record.as_ref().map_or(0, |record| record.start);
        let closing = self.up.as_ref().and_then(|up| up.closing.as_ref()).map(|close| close.why);
        match admission::power_off(closing, start, wanted) {
            PowerOff::Exit(cause) => self.quit(cause).await,
            PowerOff::ComeBack => self.reset().await,
        }
    }

    /// Resets the machine, which completes a reboot. While it is off, snapshots are cut that waited
    /// for this.
    async fn reset(&mut self) {
        let was_off = self.up.as_ref().is_some_and(|up| up.powered_off);
        let wanted = self.inbox.borrow().as_ref().map(|spec| spec.wanted);
        if let Some(Wanted::Running { reboots, .. }) = wanted {
            if !was_off {
                self.order("stop").await;
            }
            self.shared.volumes.cut_during_reboot(&self.handle.id, reboots).await;
        }
        self.order("system_reset").await;
        // QEMU stays paused until the reset has happened, which its event says.
        if let Some(monitor) = self.up.as_mut().and_then(|up| up.monitor.as_mut()) {
            let reset =
                async { while !matches!(monitor.event().await, Some(Event::Reset) | None) {} };
            if timeout(QUIT, reset).await.is_err() {
                tracing::warn!(id = self.handle.id, "QEMU did not report a reset");
            }
        }
        self.order("cont").await;
        let Some(up) = &mut self.up else { return };
        up.powered_off = false;
        up.closing = None;
        if let (Some(record), Some(Wanted::Running { reboots, .. })) =
            (&mut self.record, self.inbox.borrow().as_ref().map(|spec| spec.wanted))
        {
            record.reboots = record.reboots.max(reboots);
        }
        if let Some(record) = self.record.clone() {
            self.keep(&record);
        }
        self.publish();
    }

    /// Ends the process, with force if it must be.
    async fn quit(&mut self, cause: ExitCause) {
        self.end_process().await;
        self.ended(cause).await;
    }

    async fn end_process(&mut self) {
        let Some(mut up) = self.up.take() else { return };
        if let Some(monitor) = &mut up.monitor {
            // Its answer may be lost in its end.
            let _ = timeout(QUIT, monitor.execute("quit", json!({}))).await;
        } else {
            up.process.kill();
        }
        if timeout(QUIT, up.process.ended()).await.is_err() {
            up.process.kill();
            up.process.ended().await;
        }
        if let Some(disks) = up.disks {
            disks.end().await;
        }
    }

    async fn demolish(&mut self) {
        self.end_process().await;
        self.give_back().await;
        let directory = self.directory.clone();
        let now = self.shared.clock.now();
        let removed = blocking(move || directory.bury(now));
        match removed.await {
            Ok(()) => {
                if let Some(record) = self.record.take() {
                    self.shared.free_user(record.user);
                }
                self.gone = true;
                self.publish();
            }
            Err(error) => {
                tracing::error!(id = self.handle.id, %error, "a machine could not be removed yet");
                self.retry = Some(Instant::now() + Duration::from_secs(5));
            }
        }
    }
}

/// Says what is wrong with a machine's directory, and what to do where that is known.
fn explain(directory: &Directory, error: &io::Error) -> String {
    let path = directory.path().display();
    match error.kind() {
        io::ErrorKind::StorageFull => {
            format!("the disk that holds {path} is full; free space there and try again")
        }
        io::ErrorKind::PermissionDenied => format!("{path}: {error}; run gureum as root"),
        _ => format!("{path}: {error}"),
    }
}

/// Runs file work off the async threads.
async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
