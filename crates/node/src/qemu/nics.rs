//! The network cards of a machine that runs, the primary one excepted: plugged when the spec gains an
//! interface, unplugged when it loses one.
//!
//! ```text
//!         the kernel has the tap, it is      asked again until
//!         opened, passed, plugged
//!  Out ───────────────────────────► In ─► Asked ─────────────────────► Out
//!                                           │       the guest lets go    ▲
//!                                           └─► Taken: forced; the tap   │
//!                                               is closed, the guest's ──┘
//!                                               card has no link
//! ```
//!
//! The machine's task drives this with its own monitor: [`Nics::step`] after everything that
//! happens, [`Nics::opened`] when a tap is open, [`Nics::deleted`] when the guest has let go. A card
//! is named after its interface, so whoever connects again reads off the process what there is.
//!
//! A tap that was taken away and made anew while a guest had it (its interface left the plan and came
//! back) is dead: its card is unplugged and plugged again.

use super::network::{Applied, Network};
use super::qmp::{Client, Error};
use base::machine::{Interface, InterfaceState, Spec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// The bridge that cards can be plugged into and unplugged from.
pub(crate) const NIC_BUS: &str = "nics";

/// How often a guest is asked again to let go of a card: one that boots misses the first.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How long a guest may keep a card that is detached with Force.
const FORCE_GRACE: Duration = Duration::from_secs(2);

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The card of an interface.
pub(crate) fn card(interface: &Interface, bus: Option<&str>) -> Value {
    let mut card = json!({
        "driver": "virtio-net-pci",
        "id": interface.id,
        "netdev": netdev(&interface.id),
        "mac": interface.mac,
        // Without its option ROM the firmware has nothing to try before the disk.
        "romfile": "",
    });
    if let Some(bus) = bus {
        card["bus"] = bus.into();
    }
    card
}

/// The host's side of a card.
pub(crate) fn netdev(interface_id: &str) -> String {
    format!("net-{interface_id}")
}

/// What the rest of the driver knows of a machine's interfaces; `None` when it is not known yet.
#[derive(Debug)]
pub(crate) struct States(Mutex<Option<BTreeMap<String, InterfaceState>>>);

impl Default for States {
    fn default() -> Self {
        States(Mutex::new(Some(BTreeMap::new())))
    }
}

impl States {
    /// How far an interface is.
    pub(crate) fn state(&self, interface: &str) -> InterfaceState {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            None => InterfaceState::Unsettled,
            Some(known) => known.get(interface).copied().unwrap_or(InterfaceState::Out),
        }
    }

    /// Replaces what is known; whether that is something else.
    pub(crate) fn set(&self, new: Option<BTreeMap<String, InterfaceState>>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *known != new;
        *known = new;
        changed
    }
}

/// What is wanted of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Here,
    Away,
    /// Away, whatever the guest does.
    Forced,
}

/// Where a card stands.
#[derive(Debug)]
enum Place {
    Out,
    /// Its tap is being opened.
    Opening(AbortHandle),
    In,
    /// The guest is to let go of it.
    Asked,
    /// The guest has it still, without a tap behind it.
    Taken,
}

#[derive(Debug)]
struct Nic {
    wish: Wish,
    place: Place,
    interface: Option<Interface>,
    /// Which tap of this name it has; unknown after an adoption until a plan was applied.
    generation: Option<u64>,
    /// Its tap is no more.
    is_stale: bool,
    /// When to do the next thing.
    due: Option<Instant>,
    forced_at: Option<Instant>,
}

impl Nic {
    fn new(place: Place) -> Nic {
        Nic {
            wish: Wish::Here,
            place,
            interface: None,
            generation: None,
            is_stale: false,
            due: None,
            forced_at: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    fn state(&self) -> InterfaceState {
        match (&self.place, self.wish) {
            (Place::In, Wish::Here) if !self.is_stale => InterfaceState::In,
            // The guest has nothing of it any more, and somebody else may have its tap.
            (Place::Out, Wish::Away | Wish::Forced) | (Place::Taken, _) => InterfaceState::Out,
            _ => InterfaceState::Unsettled,
        }
    }
}

/// A tap that was opened, and which one of its name it is.
type Opened = Result<(OwnedFd, u64), String>;

/// The cards of one machine.
#[derive(Debug)]
pub(crate) struct Nics {
    machine: String,
    network: Option<Arc<Network>>,
    /// Wakes when the node has other taps.
    changes: Option<watch::Receiver<Applied>>,
    nics: BTreeMap<String, Nic>,
    opening: JoinSet<(String, Opened)>,
}

impl Nics {
    /// The cards of a process that was started with these interfaces.
    pub(crate) fn launched(
        machine: &str,
        network: Option<Arc<Network>>,
        interfaces: &[Interface],
    ) -> Nics {
        let mut nics = Nics::new(machine, network);
        for interface in interfaces.iter().skip(1) {
            let mut nic = Nic::new(Place::In);
            nic.generation = nics.network.as_ref().and_then(|n| n.generation(&interface.id));
            nics.nics.insert(interface.id.clone(), nic);
        }
        nics
    }

    fn new(machine: &str, network: Option<Arc<Network>>) -> Nics {
        Nics {
            machine: machine.to_owned(),
            changes: network.as_ref().map(|network| network.changes()),
            network,
            nics: BTreeMap::new(),
            opening: JoinSet::new(),
        }
    }

    /// Reads off a process what another daemon, or this one before it lost the connection, left in
    /// it.
    ///
    /// # Errors
    /// The process does not answer.
    pub(crate) async fn adopted(
        machine: &str,
        network: Option<Arc<Network>>,
        monitor: &mut Client,
    ) -> Result<Nics, Error> {
        let mut nics = Nics::new(machine, network);
        let all = monitor.execute("qom-list", json!({ "path": "/machine/peripheral" })).await?;
        let names = all.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
        for name in names.filter(|name| name.starts_with("eni-")) {
            nics.nics.insert(name.to_owned(), Nic::new(Place::In));
        }
        Ok(nics)
    }

    /// How far each card is.
    pub(crate) fn states(&self) -> BTreeMap<String, InterfaceState> {
        self.nics.iter().map(|(id, nic)| (id.clone(), nic.state())).collect()
    }

    /// When something is due.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let busy = self.nics.values().filter(|nic| match nic.place {
            Place::Asked | Place::Taken => true,
            Place::Out => nic.wish == Wish::Here,
            Place::In | Place::Opening(_) => false,
        });
        busy.filter_map(|nic| nic.due).min()
    }

    /// Waits until a tap is open, or the taps of the node have changed. Cancellation safe.
    pub(crate) async fn event(&mut self) -> NicEvent {
        let watched = self.nics.values().any(|nic| matches!(nic.place, Place::In));
        let changes = self.changes.as_mut().filter(|_| watched);
        let changed = async {
            let ended = match changes {
                Some(changes) => changes.changed().await.is_err(),
                None => true,
            };
            if ended {
                std::future::pending().await
            }
        };
        tokio::select! {
            Some(joined) = self.opening.join_next(), if !self.opening.is_empty() => match joined {
                Ok((interface, opened)) => NicEvent::Opened(interface, opened),
                // It was not wanted any more.
                Err(_) => NicEvent::Changed,
            },
            () = changed => NicEvent::Changed,
        }
    }

    /// Makes the next step of each card. The connection may be lost in it, which shows by itself.
    pub(crate) async fn step(&mut self, spec: &Spec, monitor: &mut Client) {
        self.want(spec);
        let now = Instant::now();
        let ids: Vec<String> = self.nics.keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.step_one(&id, now, monitor).await {
                tracing::warn!(self.machine, interface = id, %error, "an interface waits");
                if let Some(nic) = self.nics.get_mut(&id) {
                    nic.due = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn want(&mut self, spec: &Spec) {
        // An adopted process shows the primary one too, which stays as long as the machine.
        if let Some(primary) = spec.interfaces.first() {
            self.nics.remove(&primary.id);
        }
        for (id, nic) in &mut self.nics {
            let wanted = spec.interfaces.iter().find(|interface| interface.id == *id);
            let wish = match wanted {
                Some(_) => Wish::Here,
                None if spec.forced_off_interfaces.contains(id) => Wish::Forced,
                None => Wish::Away,
            };
            nic.interface = wanted.cloned().or(nic.interface.take());
            if nic.wish != wish {
                (nic.wish, nic.due) = (wish, None);
            }
        }
        for interface in spec.interfaces.iter().skip(1) {
            if !self.nics.contains_key(&interface.id) {
                let mut nic = Nic::new(Place::Out);
                nic.interface = Some(interface.clone());
                self.nics.insert(interface.id.clone(), nic);
            }
        }
        // Taps that went and came again.
        let Some(network) = &self.network else { return };
        for (id, nic) in &mut self.nics {
            let now = network.generation(id);
            if !matches!(nic.place, Place::In) || now.is_none() {
                continue;
            }
            match nic.generation {
                None => nic.generation = now,
                known => nic.is_stale |= known != now,
            }
        }
    }

    async fn step_one(
        &mut self,
        id: &str,
        now: Instant,
        monitor: &mut Client,
    ) -> Result<(), Error> {
        let Some(nic) = self.nics.get_mut(id) else { return Ok(()) };
        let is_here = nic.wish == Wish::Here && !nic.is_stale;
        match (&nic.place, is_here) {
            (Place::In, true) | (Place::Opening(_), true) => {}
            (Place::Out, true) => {
                if nic.is_due(now) {
                    self.open(id);
                }
            }
            (Place::Out, false) => {
                self.nics.remove(id);
            }
            (Place::Opening(task), false) => {
                task.abort();
                self.nics.remove(id);
            }
            (Place::In, false) => {
                nic.place = Place::Asked;
                (nic.due, nic.forced_at) = (Some(now + ASK_AGAIN), None);
                self.ask(id, monitor).await?;
            }
            (Place::Asked | Place::Taken, _) => {
                let forced = nic.wish == Wish::Forced && !matches!(nic.place, Place::Taken);
                let until = forced.then(|| *nic.forced_at.get_or_insert(now + FORCE_GRACE));
                if until.is_some_and(|until| until <= now) {
                    tracing::warn!(self.machine, interface = id, "the guest keeps a card");
                    nic.place = Place::Taken;
                    nic.due = Some(now + ASK_AGAIN);
                    remove_netdev(id, monitor).await?;
                } else if nic.is_due(now) {
                    nic.due = Some(until.map_or(now + ASK_AGAIN, |u| u.min(now + ASK_AGAIN)));
                    self.ask(id, monitor).await?;
                } else if let Some(until) = until {
                    nic.due = Some(nic.due.map_or(until, |due| due.min(until)));
                }
            }
        }
        Ok(())
    }

    /// Begins to open the tap of an interface, once the kernel has it.
    fn open(&mut self, id: &str) {
        let Some(nic) = self.nics.get_mut(id) else { return };
        let Some(interface) = nic.interface.clone() else { return };
        let (network, machine, id) = (self.network.clone(), self.machine.clone(), id.to_owned());
        let task = self.opening.spawn(async move {
            let opened = open(network, &machine, interface).await;
            (id, opened)
        });
        nic.place = Place::Opening(task);
    }

    /// A tap is open, or could not be opened.
    pub(crate) async fn opened(&mut self, id: &str, opened: Opened, monitor: &mut Client) {
        let Some(nic) = self.nics.get_mut(id) else { return };
        if !matches!(nic.place, Place::Opening(_)) {
            return;
        }
        nic.place = Place::Out;
        nic.due = Some(Instant::now() + RETRY);
        let plugged = match (opened, nic.interface.clone()) {
            (Ok((tap, generation)), Some(interface)) => {
                nic.generation = Some(generation);
                plug(&interface, tap, monitor).await.map_err(|error| error.to_string())
            }
            (Err(why), _) => Err(why),
            (Ok(_), None) => return,
        };
        match plugged {
            Ok(()) => {
                tracing::info!(self.machine, interface = id, "plugged");
                (nic.place, nic.due, nic.is_stale) = (Place::In, None, false);
            }
            Err(why) => {
                tracing::warn!(
                    self.machine,
                    interface = id,
                    why,
                    "an interface cannot be attached"
                );
            }
        }
    }

    async fn ask(&mut self, id: &str, monitor: &mut Client) -> Result<(), Error> {
        match monitor.execute("device_del", json!({ "id": id })).await {
            Err(Error::Refused { description, .. }) if description.contains("in the process") => {
                Ok(())
            }
            // It let go just now, or before anybody listened.
            Err(Error::Refused { description, .. }) if description.contains("not found") => {
                self.deleted(id, monitor).await;
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// The guest has let go of a device.
    pub(crate) async fn deleted(&mut self, id: &str, monitor: &mut Client) {
        let Some(nic) = self.nics.get_mut(id) else { return };
        if let Err(error) = remove_netdev(id, monitor).await {
            tracing::warn!(self.machine, interface = id, %error, "a tap may be open still");
        }
        tracing::info!(self.machine, interface = id, "unplugged");
        (nic.place, nic.is_stale, nic.due, nic.forced_at) = (Place::Out, false, None, None);
        if nic.wish != Wish::Here {
            self.nics.remove(id);
        }
    }
}

/// What [`Nics::event`] saw.
#[derive(Debug)]
pub(crate) enum NicEvent {
    /// The tap of an interface is open, or could not be opened.
    Opened(String, Opened),
    /// The taps of the node may be others.
    Changed,
}

async fn open(network: Option<Arc<Network>>, machine: &str, interface: Interface) -> Opened {
    let Some(network) = network else { return Err("this node has no network".to_owned()) };
    network.holds(machine, std::slice::from_ref(&interface.id)).await?;
    let generation = network.generation(&interface.id).unwrap_or(0);
    let fabric = Arc::clone(&network.fabric);
    let opening = move || fabric.open_tap(&interface.vpc_id, &interface.id);
    let tap = tokio::task::spawn_blocking(opening).await.map_err(|error| error.to_string())??;
    Ok((tap, generation))
}

async fn remove_netdev(id: &str, monitor: &mut Client) -> Result<(), Error> {
    match monitor.execute("netdev_del", json!({ "id": netdev(id) })).await {
        // There is none.
        Err(Error::Refused { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives the guest a card on this tap.
async fn plug(interface: &Interface, tap: OwnedFd, monitor: &mut Client) -> Result<(), Error> {
    let name = format!("tap-{}", interface.id);
    monitor.pass("getfd", json!({ "fdname": name }), tap.as_fd()).await?;
    let id = netdev(&interface.id);
    // Left by somebody who did not come to the card.
    remove_netdev(&interface.id, monitor).await?;
    let side = json!({ "type": "tap", "id": id, "fd": name, "vhost": false });
    if let Err(error) = monitor.execute("netdev_add", side).await {
        // The error that counts is the first.
        let _ = monitor.execute("closefd", json!({ "fdname": name })).await;
        return Err(error);
    }
    let mut added = monitor.execute("device_add", card(interface, Some(NIC_BUS))).await;
    if matches!(&added, Err(Error::Refused { description, .. }) if description.contains(NIC_BUS)) {
        // A machine from before there was a bridge for cards.
        let bus = crate::volume::host::DISK_BUS;
        added = monitor.execute("device_add", card(interface, Some(bus))).await;
    }
    if let Err(error) = added {
        let _ = remove_netdev(&interface.id, monitor).await;
        return Err(error);
    }
    Ok(())
}
