//! Machines that exist only as states: the driver of a region without privileges or QEMU.
//!
//! The same [`Driver`](base::machine::Driver) contract as [`crate::qemu`], with every transition
//! made at once, or after a launch time of the region's clock. Each machine costs a map entry of a
//! few dozen bytes, and every call is O(1), so tens of thousands of machines fit a test.
//!
//! ```text
//!  Absent ── Running{n} ──► Launching ── launch time ──► Running ── Stopped ──► Exited
//!    │                                                     │                      │
//!    │                                  power_off, kill ───┴──► Exited            │ Running{m>n}
//!    └── Stopped ──► Exited{start: 0}                          Launching ◄────────┘
//!  any ── Terminated ──► Gone ── forget ──► Absent
//! ```
//!
//! What it does not do: it keeps no metadata, prints no console and carries no packet. A machine
//! without a kernel has nothing to say, so [`console`](base::machine::Driver::console) answers
//! `None` rather than something invented.

mod volumes;

pub use volumes::{Cut, cut_into};

use crate::volume::Tasks;
use base::machine::{Console, ExitCause, InterfaceState, Spec, State, Wanted};
use base::volume;
use base::{Clock, Timestamp};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;
use volumes::Volumes;

/// What is called with the id of a thing whose state changed.
pub type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// The simulated node.
pub struct Driver {
    shared: Arc<Shared>,
    volumes: Arc<Volumes>,
    tasks: Option<Tasks>,
    launch_time: Duration,
    /// Interfaces beside the primary one, of machines that have some.
    interfaces: Mutex<HashMap<Box<str>, Vec<String>>>,
    /// Machines whose launch ends later; made when the first one does.
    launches: OnceLock<mpsc::Sender<(Timestamp, Box<str>)>>,
}

struct Shared {
    clock: Clock,
    machines: Mutex<HashMap<Box<str>, Machine>>,
    listener: Arc<OnceLock<Listener>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What is kept of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    start: u32,
    reboots: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Launching before this time of the region's clock, running from then on.
    Up {
        since: Timestamp,
    },
    Down(Cause),
    Gone,
}

/// [`ExitCause`] without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Requested,
    GuestShutdown,
    Killed,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("sim::Driver").field("machines", &self.shared.machines().len()).finish()
    }
}

impl Shared {
    fn machines(&self) -> MutexGuard<'_, HashMap<Box<str>, Machine>> {
        locked(&self.machines)
    }

    fn announce(&self, id: &str) {
        if let Some(listener) = self.listener.get() {
            listener(id);
        }
    }
}

/// The machine that `wanted` makes of `current`; `None` where nothing changes.
fn step(current: Option<Machine>, wanted: Wanted, up_from: Timestamp) -> Option<Machine> {
    let next = match (wanted, current) {
        (Wanted::Terminated, _) => {
            Machine { phase: Phase::Gone, ..current.unwrap_or(Machine::ABSENT) }
        }
        (_, Some(machine)) if machine.phase == Phase::Gone => machine,
        (Wanted::Stopped { .. }, machine) => {
            let machine = machine.unwrap_or(Machine::ABSENT);
            match machine.phase {
                Phase::Up { .. } => Machine { phase: Phase::Down(Cause::Requested), ..machine },
                Phase::Down(_) | Phase::Gone => machine,
            }
        }
        (Wanted::Running { start, reboots }, Some(machine)) => match machine.phase {
            Phase::Up { .. } => Machine {
                start: machine.start.max(start),
                reboots: machine.reboots.max(reboots),
                ..machine
            },
            Phase::Down(_) if start > machine.start => {
                Machine { start, reboots, phase: Phase::Up { since: up_from } }
            }
            Phase::Down(_) | Phase::Gone => machine,
        },
        (Wanted::Running { start, reboots }, None) => {
            Machine { start, reboots, phase: Phase::Up { since: up_from } }
        }
    };
    (current != Some(next)).then_some(next)
}

impl Machine {
    /// Where a machine that was never started stands once something else is wanted of it.
    const ABSENT: Machine = Machine { start: 0, reboots: 0, phase: Phase::Down(Cause::Requested) };

    fn state(self, now: Timestamp) -> State {
        match self.phase {
            Phase::Up { since } if now < since => State::Launching { start: self.start },
            Phase::Up { .. } => {
                State::Running { start: self.start, reboots: self.reboots, reachable: Some(true) }
            }
            Phase::Down(cause) => State::Exited { start: self.start, cause: cause.into() },
            Phase::Gone => State::Gone,
        }
    }
}

impl From<Cause> for ExitCause {
    fn from(cause: Cause) -> ExitCause {
        match cause {
            Cause::Requested => ExitCause::Requested,
            Cause::GuestShutdown => ExitCause::GuestShutdown,
            Cause::Killed => {
                ExitCause::Died("the simulated machine was killed by signal 9".to_owned())
            }
        }
    }
}

impl Driver {
    /// A node without machines. `launch_time`, in time of `clock`, passes between the wish for a
    /// running machine and its running; zero makes every transition immediate. `cut` takes snapshots.
    pub fn new(clock: Clock, launch_time: Duration, cut: Cut) -> Self {
        let shared =
            Shared { clock, machines: Mutex::new(HashMap::new()), listener: Arc::default() };
        Driver {
            shared: Arc::new(shared),
            volumes: Arc::new(Volumes::new(cut)),
            tasks: None,
            launch_time,
            interfaces: Mutex::default(),
            launches: OnceLock::new(),
        }
    }

    /// The same driver with a runner for copies, imports, exports and uploads, which are real here
    /// too: `start` makes it, given what to call with a task's id when its state changed. Without
    /// one, tasks wait for ever.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn with_tasks(
        mut self,
        start: impl FnOnce(Listener) -> io::Result<Tasks>,
    ) -> io::Result<Self> {
        let shared = Arc::downgrade(&self.shared);
        let announce = move |id: &str| {
            if let Some(shared) = shared.upgrade() {
                shared.announce(id);
            }
        };
        self.tasks = Some(start(Box::new(announce))?);
        Ok(self)
    }

    /// The guest powers itself off, as `poweroff` inside it does. Whether the machine ran.
    pub fn power_off(&self, id: &str) -> bool {
        self.take_down(id, Cause::GuestShutdown)
    }

    /// The machine's process dies. Whether the machine ran.
    pub fn kill(&self, id: &str) -> bool {
        self.take_down(id, Cause::Killed)
    }

    fn take_down(&self, id: &str, cause: Cause) -> bool {
        let taken = match self.shared.machines().get_mut(id) {
            Some(machine) if matches!(machine.phase, Phase::Up { .. }) => {
                machine.phase = Phase::Down(cause);
                true
            }
            _ => false,
        };
        if taken {
            self.attach(id, std::iter::empty());
            self.shared.announce(id);
        }
        taken
    }

    /// Gives a machine the interfaces of its spec, or takes them away from one that is off. Whether
    /// they are others than before.
    fn plug(&self, spec: &Spec, next: Option<Machine>) -> bool {
        let phase = next.map(|machine| machine.phase);
        let phase = phase.or_else(|| self.shared.machines().get(spec.id.as_str()).map(|m| m.phase));
        let up = matches!(phase, Some(Phase::Up { .. }));
        let ids: Vec<String> = match up {
            true => spec.interfaces.iter().skip(1).map(|i| i.id.clone()).collect(),
            false => Vec::new(),
        };
        let mut all = locked(&self.interfaces);
        if ids.is_empty() {
            return all.remove(spec.id.as_str()).is_some();
        }
        all.insert(spec.id.as_str().into(), ids.clone()) != Some(ids)
    }

    /// Gives a machine its volumes, or takes them away from one that is off.
    fn attach<'a>(&self, id: &str, volumes: impl Iterator<Item = &'a str>) {
        for volume in self.volumes.attach(id, volumes) {
            self.shared.announce(&volume);
        }
    }

    /// Has the end of a launch announced at `at`. All launches take equally long, so one thread
    /// serves them in the order of their beginnings.
    fn announce_at(&self, at: Timestamp, id: &str) {
        let queue = self.launches.get_or_init(|| {
            let (sender, receiver) = mpsc::channel();
            let shared = Arc::downgrade(&self.shared);
            let announcer = std::thread::Builder::new().name("sim-launches".to_owned());
            if let Err(error) = announcer.spawn(move || announce_launches(&shared, &receiver)) {
                tracing::error!(%error, "ends of simulated launches will not be announced");
            }
            sender
        });
        // Fails only if the thread could not be made, which was reported then.
        let _ = queue.send((at, id.into()));
    }
}

fn announce_launches(shared: &Weak<Shared>, launches: &mpsc::Receiver<(Timestamp, Box<str>)>) {
    const LONGEST_NAP: Duration = Duration::from_millis(100);
    for (at, id) in launches {
        loop {
            // Upgraded anew for each nap, so that a dropped driver ends the thread.
            let Some(shared) = shared.upgrade() else { return };
            let wait = Duration::from_millis(shared.clock.wall_millis_until(at));
            if wait.is_zero() {
                shared.announce(&id);
                break;
            }
            drop(shared);
            std::thread::sleep(wait.min(LONGEST_NAP));
        }
    }
}

impl volume::Driver for Driver {
    fn apply_volume(&self, spec: volume::Spec) {
        let id = spec.id.clone();
        if self.volumes.apply(spec, &self.shared.listener) {
            self.shared.announce(&id);
        }
    }

    fn volume_state(&self, id: &str) -> volume::State {
        self.volumes.state(id)
    }

    fn forget_volume(&self, id: &str) {
        self.volumes.forget(id);
    }

    fn apply_task(&self, task: volume::Task) {
        if let Some(tasks) = &self.tasks {
            tasks.apply(task);
        }
    }

    fn task_state(&self, id: &str) -> Option<volume::SnapshotState> {
        self.tasks.as_ref()?.state(id)
    }

    fn forget_task(&self, id: &str) {
        if let Some(tasks) = &self.tasks {
            tasks.forget(id);
        }
    }
}

impl base::machine::Driver for Driver {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn apply(&self, spec: Spec) {
        let now = self.shared.clock.now();
        let launch_millis = i64::try_from(self.launch_time.as_millis()).unwrap_or(i64::MAX);
        let up_from = now.plus_millis(launch_millis);
        let next = {
            let mut machines = self.shared.machines();
            let current = machines.get(spec.id.as_str()).copied();
            let next = step(current, spec.wanted, up_from);
            if let Some(next) = next {
                machines.insert(spec.id.as_str().into(), next);
            }
            next
        };
        let replugged = self.plug(&spec, next);
        let volumes = spec.volumes.iter().map(|volume| volume.id.as_str());
        let phase = locked(&self.shared.machines).get(spec.id.as_str()).map(|m| m.phase);
        match phase {
            Some(Phase::Up { .. }) => self.attach(&spec.id, volumes),
            _ => self.attach(&spec.id, std::iter::empty()),
        }
        let Some(next) = next else {
            if replugged {
                self.shared.announce(&spec.id);
            }
            return;
        };
        if let Phase::Up { since } = next.phase
            && since > now
        {
            self.announce_at(since, &spec.id);
        }
        self.shared.announce(&spec.id);
    }

    fn state(&self, id: &str) -> State {
        let machine = self.shared.machines().get(id).copied();
        machine.map_or(State::Absent, |machine| machine.state(self.shared.clock.now()))
    }

    fn interface_state(&self, machine: &str, interface: &str) -> InterfaceState {
        let up = self.shared.machines().get(machine).copied();
        let has = |ids: &Vec<String>| ids.iter().any(|id| id == interface);
        match up.map(|machine| machine.state(self.shared.clock.now())) {
            Some(State::Running { .. })
                if locked(&self.interfaces).get(machine).is_some_and(has) =>
            {
                InterfaceState::In
            }
            _ => InterfaceState::Out,
        }
    }

    fn forget(&self, id: &str) {
        let mut machines = self.shared.machines();
        if machines.get(id).is_some_and(|machine| machine.phase == Phase::Gone) {
            machines.remove(id);
        }
    }

    /// Always `None`: a simulated machine has no console.
    fn console(&self, _id: &str) -> io::Result<Option<Console>> {
        Ok(None)
    }

    fn apply_network(&self, _plan: base::network::Plan) {}

    fn has_network(&self) -> bool {
        false
    }

    fn listen(&self, listener: Listener) {
        if self.shared.listener.set(listener).is_err() {
            tracing::error!("a second listener of the simulation was ignored");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::machine::{Driver as _, Metadata};
    use base::volume::{Driver as _, SnapshotState};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    fn spec(id: &str, wanted: Wanted) -> Spec {
        Spec {
            id: id.to_owned(),
            region: "us-east-1".to_owned(),
            wanted,
            image: "micro".to_owned(),
            vcpus: 1,
            memory_mib: 512,
            volumes: Vec::new(),
            forced_off: Vec::new(),
            forced_off_interfaces: Vec::new(),
            local_disks: Vec::new(),
            interfaces: Vec::new(),
            metadata: Metadata::default(),
        }
    }

    /// Snapshots of nothing.
    fn cut() -> Cut {
        Box::new(|spec| {
            let content = base::volume::Content {
                root: "0".repeat(64),
                size_gib: spec.size_gib,
                key: spec.key.clone(),
            };
            (SnapshotState::Completed { content, new_bytes: 0, full_bytes: 0 }, None)
        })
    }

    fn running(start: u32) -> State {
        State::Running { start, reboots: 0, reachable: Some(true) }
    }

    #[test]
    fn one_life() {
        let driver = Driver::new(Clock::wall(), Duration::ZERO, cut());
        let announced = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&announced);
        driver.listen(Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        assert_eq!(driver.state("i-1"), State::Absent);
        let run = |start, reboots| {
            driver.apply(spec("i-1", Wanted::Running { start, reboots }));
            driver.state("i-1")
        };
        assert_eq!(run(1, 0), running(1));
        assert_eq!(run(1, 0), running(1), "applied twice");
        assert_eq!(announced.load(Ordering::SeqCst), 1, "an idle apply announces nothing");
        assert_eq!(run(1, 1), State::Running { start: 1, reboots: 1, reachable: Some(true) });
        driver.apply(spec("i-1", Wanted::Stopped { force: false }));
        let stopped = State::Exited { start: 1, cause: ExitCause::Requested };
        assert_eq!(driver.state("i-1"), stopped);
        assert_eq!(run(1, 1), stopped, "a start that ended does not run again");
        assert_eq!(run(2, 0), running(2));
        assert!(driver.power_off("i-1"));
        assert!(!driver.kill("i-1"), "it is off already");
        let off = State::Exited { start: 2, cause: ExitCause::GuestShutdown };
        assert_eq!(run(2, 0), off);
        assert_eq!(run(3, 0), running(3));
        assert!(driver.kill("i-1"));
        assert!(matches!(
            driver.state("i-1"),
            State::Exited { start: 3, cause: ExitCause::Died(how) } if how.contains("signal 9")
        ));
        driver.forget("i-1");
        assert_ne!(driver.state("i-1"), State::Absent, "only what is gone can be forgotten");
        driver.apply(spec("i-1", Wanted::Terminated));
        assert_eq!(driver.state("i-1"), State::Gone);
        assert_eq!(run(4, 0), State::Gone, "termination is final");
        assert_eq!(driver.console("i-1").unwrap(), None);
        driver.forget("i-1");
        assert_eq!(driver.state("i-1"), State::Absent);
    }

    #[test]
    fn what_never_ran_can_be_stopped_and_terminated() {
        let driver = Driver::new(Clock::wall(), Duration::ZERO, cut());
        driver.apply(spec("i-1", Wanted::Stopped { force: true }));
        let never = State::Exited { start: 0, cause: ExitCause::Requested };
        assert_eq!(driver.state("i-1"), never);
        driver.apply(spec("i-2", Wanted::Terminated));
        assert_eq!(driver.state("i-2"), State::Gone);
        assert!(!driver.kill("i-3"));
    }

    #[test]
    fn a_launch_takes_the_time_of_the_regions_clock() {
        let millis = Arc::new(AtomicI64::new(1_000));
        let driver =
            Driver::new(Clock::Manual(Arc::clone(&millis)), Duration::from_secs(30), cut());
        let (sender, announced) = mpsc::channel();
        driver.listen(Box::new(move |id| sender.send(id.to_owned()).unwrap_or_default()));
        driver.apply(spec("i-1", Wanted::Running { start: 1, reboots: 0 }));
        assert_eq!(announced.recv_timeout(Duration::from_secs(10)).unwrap(), "i-1");
        millis.store(30_999, Ordering::SeqCst);
        assert_eq!(driver.state("i-1"), State::Launching { start: 1 });
        assert!(announced.try_recv().is_err(), "nothing to announce yet");
        millis.store(31_000, Ordering::SeqCst);
        assert_eq!(announced.recv_timeout(Duration::from_secs(10)).unwrap(), "i-1");
        assert_eq!(driver.state("i-1"), running(1));
    }

    #[test]
    fn volumes_follow_their_machine_and_their_snapshots_complete() {
        let driver = Driver::new(Clock::wall(), Duration::ZERO, cut());
        let (sender, announced) = mpsc::channel();
        driver.listen(Box::new(move |id| sender.send(id.to_owned()).unwrap_or_default()));
        let volume = |wanted, snapshots: &[&str]| volume::Spec {
            id: "vol-1".to_owned(),
            region: "us-east-1".to_owned(),
            wanted,
            size_gib: 8,
            source: None,
            key: None,
            limits: volume::Limits::default(),
            initialization_rate: None,
            filled_first: false,
            multi_attach: false,
            snapshots: snapshots
                .iter()
                .map(|id| volume::Snapshot {
                    id: (*id).to_owned(),
                    together: Vec::new(),
                    during_reboot: None,
                    parent: None,
                })
                .collect(),
        };
        let ready = || match driver.volume_state("vol-1") {
            volume::State::Ready(ready) => ready,
            other => panic!("{other:?}"),
        };
        let wait = || {
            while announced.recv_timeout(Duration::from_secs(10)).unwrap() != "vol-1" {}
        };
        driver.apply_volume(volume(volume::Wanted::Present, &[]));
        wait();
        assert_eq!(ready().attached, [""; 0]);
        let mut machine = spec("i-1", Wanted::Running { start: 1, reboots: 0 });
        machine.volumes.push(base::machine::Volume {
            id: "vol-1".to_owned(),
            device_name: "/dev/sdf".to_owned(),
        });
        driver.apply(machine.clone());
        assert_eq!(ready().attached, ["i-1"]);
        driver.apply_volume(volume(volume::Wanted::Present, &["snap-1"]));
        wait();
        if matches!(ready().snapshots["snap-1"], SnapshotState::Pending { .. }) {
            wait();
        }
        assert!(matches!(ready().snapshots["snap-1"], SnapshotState::Completed { .. }));
        assert_eq!(ready().attached, ["i-1"], "a new spec keeps what is attached");
        machine.volumes.clear();
        driver.apply(machine);
        assert_eq!(ready().attached, [""; 0]);
        driver.apply_volume(volume(volume::Wanted::Deleted, &[]));
        assert_eq!(driver.volume_state("vol-1"), volume::State::Gone);
        driver.forget_volume("vol-1");
        assert_eq!(driver.volume_state("vol-1"), volume::State::Absent);
        // Machines may be told of a volume before the volume is.
        for id in ["i-2", "i-3"] {
            let mut machine = spec(id, Wanted::Running { start: 1, reboots: 0 });
            machine.volumes.push(base::machine::Volume {
                id: "vol-1".to_owned(),
                device_name: "/dev/sdf".to_owned(),
            });
            driver.apply(machine);
        }
        driver.apply(spec("i-2", Wanted::Stopped { force: false }));
        driver.apply_volume(volume(volume::Wanted::Present, &[]));
        assert_eq!(ready().attached, ["i-3"]);
    }

    #[test]
    fn a_machine_is_a_few_dozen_bytes() {
        assert!(size_of::<(Box<str>, Machine)>() <= 40);
    }

    fn any_wanted() -> impl Strategy<Value = Wanted> {
        prop_oneof![
            4 => (1u32..5, 0u32..3).prop_map(|(start, reboots)| Wanted::Running { start, reboots }),
            2 => any::<bool>().prop_map(|force| Wanted::Stopped { force }),
            1 => Just(Wanted::Terminated),
        ]
    }

    proptest! {
        /// A second application of the same wish changes nothing, starts never go back, and
        /// nothing leaves Gone.
        #[test]
        fn steps_are_idempotent_and_monotonous(wishes in prop::collection::vec(any_wanted(), 1..20)) {
            let mut current = None;
            for wanted in wishes {
                let before: Option<Machine> = current;
                current = step(before, wanted, Timestamp(0)).or(before);
                let after = current.expect("every wish leaves a machine");
                prop_assert_eq!(step(current, wanted, Timestamp(0)), None);
                if let Some(before) = before {
                    prop_assert!(after.start >= before.start);
                    prop_assert!(before.phase != Phase::Gone || after == before);
                }
            }
        }
    }
}
