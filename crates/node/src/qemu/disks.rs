//! The disks of a machine that runs: plugged when the spec gains a volume, unplugged when it loses
//! one.
//!
//! A guest may take minutes to let go of a disk, and a volume may be long in coming, so each disk has
//! a task of its own, which does one thing after the other and looks at the wish before each:
//!
//! ```text
//!         acquired, opened, plugged                asked again until
//!  Out ───────────────────────────► In ─► asked ─────────────────────► Out
//!                                          │       the guest lets go    ▲
//!                                          └─► Taken: forced; its files │
//!                                              are closed and free, the ┘
//!                                              guest has errors
//! ```
//!
//! All of them end with the machine's process, or when its monitor is lost; whoever connects again
//! reads off the process what there is.

use crate::volume::Volumes;
use crate::volume::host::{Error, Event, Host};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How often a guest is asked again to let go of a disk: one that boots misses the first.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How long a guest may keep a disk that is detached with Force.
const FORCE_GRACE: Duration = Duration::from_secs(5);

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// What is wanted of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Here,
    Away,
    /// Away, whatever the guest does.
    Forced,
}

/// Where a disk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Out,
    In,
    /// The guest has it still, without a volume behind it.
    Taken,
}

/// The disks of one machine, root excepted.
#[derive(Debug)]
pub(crate) struct Disks {
    machine: String,
    user: u32,
    volumes: Volumes,
    pub(crate) host: Host,
    wishes: BTreeMap<String, watch::Sender<Wish>>,
    tasks: JoinSet<String>,
}

impl Disks {
    /// Takes over the disks of a process that was started with `attached`, the root first.
    pub(crate) fn launched(
        volumes: Volumes,
        machine: &str,
        user: u32,
        host: Host,
        attached: &[String],
    ) -> Disks {
        let mut disks = Disks::new(volumes, machine, user, host);
        for (index, volume) in attached.iter().enumerate() {
            disks.volumes.held(volume, machine, disks.host.clone());
            if index > 0 {
                disks.spawn(volume, Place::In, Wish::Here);
            }
        }
        disks
    }

    fn new(volumes: Volumes, machine: &str, user: u32, host: Host) -> Disks {
        let machine = machine.to_owned();
        Disks { machine, user, volumes, host, wishes: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Takes over what another daemon, or this one before it lost the connection, left in the
    /// process. The root is the only disk that lies on the root bus.
    ///
    /// # Errors
    /// The process does not answer.
    pub(crate) async fn adopted(
        volumes: Volumes,
        machine: &str,
        user: u32,
        host: Host,
    ) -> Result<Disks, Error> {
        let mut disks = Disks::new(volumes, machine, user, host);
        let plugged = disks.host.plugged().await?;
        let root = disks.host.root_disk().await?;
        let mut still = Vec::new();
        for volume in disks.host.volumes().await?.into_keys() {
            if !plugged.contains(&volume) {
                // It was being plugged or unplugged.
                disks.host.remove_chain(&volume).await?;
                continue;
            }
            let taken = disks.host.was_taken_away(&volume).await?;
            let place = if taken { Place::Taken } else { Place::In };
            if taken {
                disks.host.sweep(&volume).await?;
            } else {
                disks.volumes.held(&volume, machine, disks.host.clone());
                still.push(volume.clone());
            }
            if root.as_ref() != Some(&volume) {
                disks.spawn(&volume, place, Wish::Here);
            }
        }
        disks.volumes.lost(machine, &still).await;
        Ok(disks)
    }

    fn spawn(&mut self, volume: &str, place: Place, wish: Wish) {
        let (sender, receiver) = watch::channel(wish);
        let disk = Disk {
            machine: self.machine.clone(),
            user: self.user,
            volume: volume.to_owned(),
            volumes: self.volumes.clone(),
            host: self.host.clone(),
            place,
            wish: receiver,
        };
        self.tasks.spawn(disk.run());
        self.wishes.insert(volume.to_owned(), sender);
    }

    /// Makes `wanted`, without the root, what the machine is to have.
    pub(crate) fn want(&mut self, wanted: &[&str], forced_off: &[String]) {
        for (volume, sender) in &self.wishes {
            let wish = if wanted.contains(&volume.as_str()) {
                Wish::Here
            } else if forced_off.contains(volume) {
                Wish::Forced
            } else {
                Wish::Away
            };
            sender.send_if_modified(|now| std::mem::replace(now, wish) != wish);
        }
        let new: BTreeSet<_> =
            wanted.iter().filter(|volume| !self.wishes.contains_key(**volume)).collect();
        for volume in new {
            self.spawn(volume, Place::Out, Wish::Here);
        }
    }

    /// Ends the tasks, and returns when none of them does anything any more.
    pub(crate) async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    /// Waits until a disk is out for good: what is wanted must be told again then. Cancellation
    /// safe.
    pub(crate) async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(volume)) => drop(self.wishes.remove(&volume)),
            Some(Err(error)) => tracing::error!(self.machine, %error, "a disk's task failed"),
            None => std::future::pending().await,
        }
    }
}

/// One disk's task.
struct Disk {
    machine: String,
    user: u32,
    volume: String,
    volumes: Volumes,
    host: Host,
    place: Place,
    wish: watch::Receiver<Wish>,
}

impl Disk {
    /// Runs until the disk is out and not wanted, and returns its volume; or until the process is
    /// lost.
    async fn run(mut self) -> String {
        loop {
            let wish = *self.wish.borrow_and_update();
            let done = match (self.place, wish) {
                (Place::In, Wish::Here) => {
                    if self.wish.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                }
                (Place::Out, Wish::Here) => self.put_in().await,
                (Place::Out, _) => return self.volume,
                // What was taken away must first leave the guest before it can come again.
                (Place::In | Place::Taken, _) => self.take_out().await,
            };
            match done {
                Ok(()) => {}
                // The machine's task learns it too, and begins anew.
                Err(Error::Closed | Error::Io(_)) => std::future::pending().await,
                Err(error) => {
                    let (machine, volume) = (&self.machine, &self.volume);
                    tracing::warn!(machine, volume, %error, "a disk waits");
                    self.pause().await;
                }
            }
        }
    }

    /// Waits a while, or until something else is wanted.
    async fn pause(&mut self) {
        tokio::select! {
            () = sleep(RETRY) => {}
            _ = self.wish.changed() => {}
        }
    }

    async fn put_in(&mut self) -> Result<(), Error> {
        let wish = &mut self.wish;
        let called_off = async { drop(wish.wait_for(|wish| *wish != Wish::Here).await) };
        let acquired = tokio::select! {
            acquired = self.volumes.acquire(&self.volume, &self.machine, self.user) => acquired,
            () = called_off => {
                self.volumes.released(&self.volume, &self.machine).await;
                return Ok(());
            }
        };
        let (machine, volume) = (&self.machine, &self.volume);
        let chain = match acquired {
            Ok(chain) => chain,
            Err(message) => {
                tracing::warn!(machine, volume, message, "a volume cannot be attached");
                self.pause().await;
                return Ok(());
            }
        };
        let mut plugged = self.host.add_chain(&chain).await;
        if plugged.is_ok() {
            plugged = self.host.plug(volume).await;
            if plugged.is_err() {
                self.host.remove_chain(volume).await?;
            }
        }
        match plugged {
            Ok(()) => {
                tracing::info!(machine, volume, "plugged");
                self.volumes.held(volume, machine, self.host.clone());
                self.place = Place::In;
                Ok(())
            }
            Err(error) => {
                self.volumes.released(volume, machine).await;
                Err(error)
            }
        }
    }

    async fn take_out(&mut self) -> Result<(), Error> {
        let mut events = self.host.events();
        let mut forced_at = None;
        loop {
            let wish = *self.wish.borrow_and_update();
            forced_at = match (wish, self.place) {
                (Wish::Forced, Place::In) => forced_at.or(Some(Instant::now() + FORCE_GRACE)),
                _ => None,
            };
            if self.ask(&mut events, forced_at).await? {
                break;
            }
            if forced_at.is_some_and(|at| at <= Instant::now()) {
                tracing::warn!(
                    self.machine,
                    self.volume,
                    "the guest keeps a disk; it is taken away"
                );
                self.host.take_away(&self.volume).await?;
                self.volumes.released(&self.volume, &self.machine).await;
                self.place = Place::Taken;
            }
        }
        self.host.remove_chain(&self.volume).await?;
        if self.place == Place::In {
            self.volumes.released(&self.volume, &self.machine).await;
        }
        tracing::info!(self.machine, self.volume, "unplugged");
        self.place = Place::Out;
        Ok(())
    }

    /// Asks the guest once and waits a while; whether it has let go.
    async fn ask(
        &mut self,
        events: &mut broadcast::Receiver<Event>,
        until: Option<Instant>,
    ) -> Result<bool, Error> {
        if !self.host.plugged().await?.contains(&self.volume) {
            return Ok(true);
        }
        match self.host.unplug(&self.volume).await {
            // It let go just now.
            Err(Error::Refused { description, .. }) if description.contains("not found") => {
                return Ok(true);
            }
            asked => asked?,
        }
        let again = Instant::now() + ASK_AGAIN;
        let again = until.map_or(again, |until| until.min(again));
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(Event::DeviceDeleted { volume }) if volume == self.volume => {
                        return Ok(true);
                    }
                    Ok(_) => {}
                    // Looked at again when it is asked again.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
                },
                () = sleep_until(again) => return Ok(false),
                changed = self.wish.changed() => match changed {
                    Ok(()) => return Ok(false),
                    Err(_) => std::future::pending().await,
                },
            }
        }
    }
}
