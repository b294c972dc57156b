//! The block layer of one process: a machine's QEMU, or a qemu-storage-daemon.
//!
//! ```text
//!  guest's disk ─► vol…             throttle filter; its file is the active layer
//!                   └► vol…-2       qcow2 over the file volumes/vol-…/2.qcow2 (node vol…-2f)
//!                        └► vol…-1  frozen by a snapshot
//!                             └► vol…-0
//!                                  └► vol…-source   NBD, until the volume has filled
//! ```
//!
//! Nodes are named after their volume and layer, so that whoever connects, after a restart of the
//! daemon too, can ask the process what it has. Commands of several tasks go through one queue and
//! run one at a time, each whole.
//!
//! What QEMU 10.0.2 does, as tried: a node that was named within its parent vanishes with it, one
//! that was added by itself stays until [`Host::sweep`] removes it; `blockdev-reopen` of a filter
//! may change its file under a guest that uses it.

mod chain;
mod graph;

use crate::qemu::qmp::{Client, Event as Heard};
use chain::{gone_node, layer_node, throttle_id, volume_of};
use graph::Graph;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};

pub(crate) use crate::qemu::qmp::Error;
pub(crate) use chain::{
    Bucket, Chain, DISK_BUS, Layer, Passphrase, Source, Throttle, secret_id, serial,
};

/// How long a command may take: a flush of what a guest wrote lately may be in it.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Events that a slow listener may be behind.
const EVENTS_KEPT: usize = 256;

/// One volume's part in a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) volume: String,
    /// The layer that is active and gets frozen.
    pub(crate) active: u32,
    /// The layer that becomes active: its file is there and as large as the volume.
    pub(crate) new: Layer,
    pub(crate) encrypted: bool,
}

/// What a volume's process does beside serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum JobKind {
    /// [`Host::stream`].
    Stream,
    /// [`Host::commit`].
    Commit,
}

impl JobKind {
    fn id(self, volume: &str) -> String {
        let kind = match self {
            JobKind::Stream => "stream",
            JobKind::Commit => "commit",
        };
        format!("{kind}-{}", serial(volume))
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Bytes.
    pub(crate) done: u64,
    /// Bytes.
    pub(crate) total: u64,
    /// Whether it has ended, and how; it is kept until [`Host::dismiss_job`].
    pub(crate) ended: Option<Result<(), String>>,
}

/// What a process says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest has let go of the disk.
    DeviceDeleted {
        /// `vol-…`.
        volume: String,
    },
    /// A request of the guest failed.
    IoError {
        /// `vol-…`.
        volume: String,
        /// The host's disk is full.
        no_space: bool,
        /// Rather than a read.
        write: bool,
    },
    /// A job has ended: ask [`Host::job`].
    Job {
        /// `vol-…`.
        volume: String,
    },
}

impl Event {
    fn of(heard: Heard) -> Option<Event> {
        match heard {
            Heard::DeviceDeleted { device } => {
                volume_of(&device).map(|volume| Event::DeviceDeleted { volume })
            }
            Heard::IoError { node, no_space, write } => {
                volume_of(&node).map(|volume| Event::IoError { volume, no_space, write })
            }
            Heard::NoSpace { device } => volume_of(&device).map(|volume| Event::IoError {
                volume,
                no_space: true,
                write: true,
            }),
            Heard::JobEnded { job } => {
                let (_, name) = job.split_once('-')?;
                volume_of(name).map(|volume| Event::Job { volume })
            }
            Heard::Shutdown { .. } | Heard::Reset => None,
        }
    }
}

/// What a guest did with a disk since its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) read_bytes: u64,
    pub(crate) read_operations: u64,
    pub(crate) written_bytes: u64,
    pub(crate) write_operations: u64,
}

struct Order {
    command: String,
    arguments: Value,
    answer: oneshot::Sender<Result<Value, Error>>,
}

/// A client; clones share the connection, which ends with the last of them.
#[derive(Clone)]
pub(crate) struct Host {
    orders: mpsc::Sender<Order>,
    events: broadcast::WeakSender<Event>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("closed", &self.orders.is_closed()).finish()
    }
}

async fn converse(
    mut client: Client,
    mut orders: mpsc::Receiver<Order>,
    events: broadcast::Sender<Event>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order { command, arguments, answer }) = order else { return };
                let result = client.execute(&command, arguments).await;
                let broken = matches!(result, Err(Error::Closed | Error::Io(_)));
                // Whoever asked may have gone.
                let _ = answer.send(result);
                if broken {
                    return;
                }
            }
            heard = client.event() => {
                let Some(heard) = heard else { return };
                if let Some(event) = Event::of(heard) {
                    // Nobody may be listening.
                    let _ = events.send(event);
                }
            }
        }
    }
}

impl Host {
    /// Connects to the monitor that listens at `socket`.
    ///
    /// # Errors
    /// Nobody listens, it is no monitor, or does not answer.
    pub(crate) async fn connect(socket: &Path) -> Result<Host, Error> {
        let stream = UnixStream::connect(socket).await.map_err(Error::Io)?;
        let client = Client::new_with(stream, ANSWER_TIME).await?;
        let (orders, inbox) = mpsc::channel(16);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let weak = events.downgrade();
        tokio::spawn(converse(client, inbox, events));
        Ok(Host { orders, events: weak })
    }

    /// Returns when the process or the connection has ended.
    pub(crate) async fn closed(&self) {
        self.orders.closed().await;
    }

    /// Events from now on; it ends with the connection.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        match self.events.upgrade() {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Runs any command.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Silent`] the command may have happened or may yet happen.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        let (answer, result) = oneshot::channel();
        let order = Order { command: command.to_owned(), arguments, answer };
        self.orders.send(order).await.map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }

    /// Opens a volume. What was made of it is removed again if the rest fails.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn add_chain(&self, chain: &Chain) -> Result<(), Error> {
        if self.graph().await?.has(&serial(&chain.volume)) {
            return Err(Error::Refused {
                command: "blockdev-add".to_owned(),
                description: format!("{} is open already", chain.volume),
            });
        }
        let added = self.add_parts(chain).await;
        if added.is_err() {
            // The error that counts is the first.
            let _ = self.remove_chain(&chain.volume).await;
        }
        added
    }

    async fn add_parts(&self, chain: &Chain) -> Result<(), Error> {
        if let Some(passphrase) = &chain.passphrase {
            let id = secret_id(&chain.volume);
            let secret = json!({ "qom-type": "secret", "id": id, "data": passphrase.0 });
            self.execute("object-add", secret).await?;
        }
        self.execute("object-add", chain.throttle_group()).await?;
        self.execute("blockdev-add", chain.nodes()).await?;
        Ok(())
    }

    /// Closes a volume that no device and no export uses any more, and ends its jobs; nothing is said
    /// of one that the process does not have.
    ///
    /// # Errors
    /// As for [`Host::execute`]; something still uses it.
    pub(crate) async fn remove_chain(&self, volume: &str) -> Result<(), Error> {
        let filter = serial(volume);
        // Whoever does not know yet that the volume goes may begin a job that was just ended.
        for _ in 0..5 {
            self.cancel_jobs(volume).await?;
            if self.graph().await?.has(&filter) {
                self.execute("blockdev-del", json!({ "node-name": filter })).await?;
            }
            self.sweep(volume).await?;
            if !self.graph().await?.has_any(volume) {
                return self.remove_objects(volume).await;
            }
        }
        Err(Error::Refused {
            command: "blockdev-del".to_owned(),
            description: format!("layers of {volume} are still used"),
        })
    }

    async fn cancel_jobs(&self, volume: &str) -> Result<(), Error> {
        for kind in [JobKind::Stream, JobKind::Commit] {
            self.cancel_job(volume, kind).await?;
        }
        Ok(())
    }

    async fn remove_objects(&self, volume: &str) -> Result<(), Error> {
        for id in [throttle_id(volume), secret_id(volume)] {
            match self.execute("object-del", json!({ "id": id })).await {
                // It has none.
                Err(Error::Refused { .. }) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Closes the files of a volume although a guest uses its disk, which has only errors from now
    /// on. Once the guest has let go of the disk, [`Host::remove_chain`] removes the rest.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn take_away(&self, volume: &str) -> Result<(), Error> {
        self.cancel_jobs(volume).await?;
        let filter = serial(volume);
        let errors = gone_node(volume);
        let graph = self.graph().await?;
        if !graph.has(&errors) {
            let size = self.size(&filter).await?;
            let node = json!({
                "driver": "blkdebug",
                "node-name": errors,
                "image": { "driver": "null-co", "size": size, "read-zeroes": true },
                "inject-error": [{ "event": "none", "errno": 5 }],
            });
            self.execute("blockdev-add", node).await?;
        }
        let options = json!([{
            "driver": "throttle",
            "node-name": filter,
            "throttle-group": throttle_id(volume),
            "file": errors,
        }]);
        self.execute("blockdev-reopen", json!({ "options": options })).await?;
        self.sweep(volume).await
    }

    /// Whether [`Host::take_away`] was done to a volume that the guest still holds.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn was_taken_away(&self, volume: &str) -> Result<bool, Error> {
        Ok(self.graph().await?.under(&serial(volume)) == Some(&gone_node(volume)))
    }

    async fn size(&self, node: &str) -> Result<u64, Error> {
        let nodes = self.execute("query-named-block-nodes", json!({ "flat": true })).await?;
        let found = nodes.as_array().into_iter().flatten().find(|other| other["node-name"] == node);
        Ok(found.and_then(|node| node["image"]["virtual-size"].as_u64()).unwrap_or(0))
    }

    /// Removes the volume's nodes that nothing uses: layers that were merged or left by a cut that
    /// did not happen.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn sweep(&self, volume: &str) -> Result<(), Error> {
        let prefix = format!("{}-", serial(volume));
        let mut tried = HashSet::new();
        loop {
            let graph = self.graph().await?;
            let unused: Vec<&String> = graph
                .unused()
                .filter(|name| name.starts_with(&prefix) && !tried.contains(*name))
                .collect();
            if unused.is_empty() {
                return Ok(());
            }
            for name in unused {
                tried.insert(name.clone());
                match self.execute("blockdev-del", json!({ "node-name": name })).await {
                    // It went by itself, or something new uses it.
                    Err(Error::Refused { .. }) | Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Volumes that the process has, with their layers' numbers, lowest first.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn volumes(&self) -> Result<BTreeMap<String, Vec<u32>>, Error> {
        let graph = self.graph().await?;
        let filters = graph.names.values().filter(|name| !name.contains('-'));
        let volumes = filters.filter_map(|name| volume_of(name));
        Ok(volumes.map(|volume| (volume.clone(), graph.layers(&volume))).collect())
    }

    /// Numbers of a volume's layers, lowest first; the last is the active one.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn layers(&self, volume: &str) -> Result<Vec<u32>, Error> {
        Ok(self.graph().await?.layers(volume))
    }

    async fn graph(&self) -> Result<Graph, Error> {
        Ok(Graph::read(&self.execute("x-debug-query-block-graph", json!({})).await?))
    }

    /// Freezes the active layers of all volumes at one instant and puts new ones on top.
    ///
    /// # Errors
    /// As for [`Host::execute`]; after a refusal nothing is changed.
    pub(crate) async fn cut(&self, cuts: &[Cut]) -> Result<(), Error> {
        let mut actions = Vec::new();
        let mut result = Ok(Value::Null);
        for Cut { volume, active, new, encrypted } in cuts {
            result = self.execute("blockdev-add", new.node(volume, *encrypted, Value::Null)).await;
            if result.is_err() {
                break;
            }
            let data = json!({
                "node": layer_node(volume, *active),
                "overlay": layer_node(volume, new.number),
            });
            actions.push(json!({ "type": "blockdev-snapshot", "data": data }));
        }
        if result.is_ok() {
            result = self.execute("transaction", json!({ "actions": actions })).await;
        }
        if matches!(result, Err(Error::Refused { .. })) {
            for cut in cuts {
                self.sweep(&cut.volume).await?;
            }
        }
        result.map(drop)
    }

    /// Makes a volume larger, which its guest sees at once.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn resize(&self, volume: &str, bytes: u64) -> Result<(), Error> {
        let arguments = json!({ "node-name": serial(volume), "size": bytes });
        self.execute("block_resize", arguments).await.map(drop)
    }

    /// Sets how fast a volume may be.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn set_throttle(&self, volume: &str, to: Throttle) -> Result<(), Error> {
        let path = format!("/objects/{}", throttle_id(volume));
        let arguments = json!({ "path": path, "property": "limits", "value": to.limits() });
        self.execute("qom-set", arguments).await.map(drop)
    }

    /// Begins to copy everything that lies under a layer into it, which then lies on nothing. 0
    /// bytes a second is as fast as may be.
    ///
    /// # Errors
    /// As for [`Host::execute`]; a job of that kind is there already.
    pub(crate) async fn stream(
        &self,
        volume: &str,
        layer: u32,
        bytes_per_second: u64,
    ) -> Result<(), Error> {
        let arguments = json!({
            "job-id": JobKind::Stream.id(volume),
            "device": layer_node(volume, layer),
            "speed": bytes_per_second,
            "auto-dismiss": false,
            "on-error": "report",
        });
        self.execute("block-stream", arguments).await.map(drop)
    }

    /// Begins to merge the layers above `base` up to `top`, which is not the active one, into
    /// `base`.
    ///
    /// # Errors
    /// As for [`Host::stream`].
    pub(crate) async fn commit(
        &self,
        volume: &str,
        top: u32,
        base: u32,
        bytes_per_second: u64,
    ) -> Result<(), Error> {
        let arguments = json!({
            "job-id": JobKind::Commit.id(volume),
            "device": serial(volume),
            "top-node": layer_node(volume, top),
            "base-node": layer_node(volume, base),
            // Nobody follows it, but what QEMU would write by itself may be too long for a header.
            "backing-file": format!("{base}.qcow2"),
            "speed": bytes_per_second,
            "auto-dismiss": false,
            "on-error": "report",
        });
        self.execute("block-commit", arguments).await.map(drop)
    }

    /// How far a volume's job is; `None` if there is none.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn job(&self, volume: &str, kind: JobKind) -> Result<Option<Job>, Error> {
        let jobs = self.execute("query-jobs", json!({})).await?;
        let id = kind.id(volume);
        let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == id.as_str());
        Ok(job.map(|job| Job {
            done: job["current-progress"].as_u64().unwrap_or(0),
            total: job["total-progress"].as_u64().unwrap_or(0),
            ended: (job["status"] == "concluded").then(|| match job["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(()),
            }),
        }))
    }

    /// Changes how fast a job is.
    ///
    /// # Errors
    /// As for [`Host::execute`]; there is no such job, or it has ended.
    pub(crate) async fn set_job_speed(
        &self,
        volume: &str,
        kind: JobKind,
        bytes_per_second: u64,
    ) -> Result<(), Error> {
        let arguments = json!({ "device": kind.id(volume), "speed": bytes_per_second });
        self.execute("block-job-set-speed", arguments).await.map(drop)
    }

    /// Ends a job, if there is one, waits until it has ended and forgets it. What it did so far
    /// stays and does no harm.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn cancel_job(&self, volume: &str, kind: JobKind) -> Result<(), Error> {
        let mut events = self.events();
        let mut job = self.job(volume, kind).await?;
        if job.as_ref().is_some_and(|job| job.ended.is_none()) {
            let cancelled = self.execute("job-cancel", json!({ "id": kind.id(volume) })).await;
            // Refused: it ended meanwhile.
            if !matches!(cancelled, Err(Error::Refused { .. }) | Ok(_)) {
                return cancelled.map(drop);
            }
            loop {
                job = self.job(volume, kind).await?;
                if job.as_ref().is_none_or(|job| job.ended.is_some()) {
                    break;
                }
                if matches!(events.recv().await, Err(broadcast::error::RecvError::Closed)) {
                    return Err(Error::Closed);
                }
            }
        }
        match job {
            None => Ok(()),
            Some(_) => match self.dismiss_job(volume, kind).await {
                // Somebody else did.
                Err(Error::Refused { .. }) => Ok(()),
                dismissed => dismissed,
            },
        }
    }

    /// Forgets a job that has ended, and removes the nodes that it made needless.
    ///
    /// # Errors
    /// As for [`Host::execute`]; it has not ended.
    pub(crate) async fn dismiss_job(&self, volume: &str, kind: JobKind) -> Result<(), Error> {
        self.execute("job-dismiss", json!({ "id": kind.id(volume) })).await?;
        self.sweep(volume).await
    }

    /// What the guest did with the volume's disk; zeros if there is none.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn statistics(&self, volume: &str) -> Result<Statistics, Error> {
        let disks = self.execute("query-blockstats", json!({})).await?;
        let node = serial(volume);
        let mut disks = disks.as_array().into_iter().flatten();
        let disk = disks.find(|disk| disk["node-name"] == node.as_str());
        let number = |name: &str| disk.and_then(|d| d["stats"][name].as_u64()).unwrap_or(0);
        Ok(Statistics {
            read_bytes: number("rd_bytes"),
            read_operations: number("rd_operations"),
            written_bytes: number("wr_bytes"),
            write_operations: number("wr_operations"),
        })
    }

    /// Gives the guest a disk of a volume that [`Host::add_chain`] opened.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn plug(&self, volume: &str) -> Result<(), Error> {
        self.execute("device_add", Chain::device(volume, DISK_BUS)).await.map(drop)
    }

    /// Asks the guest to let go of a disk; [`Event::DeviceDeleted`] says when it has. May be
    /// asked again: a guest that boots misses it.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn unplug(&self, volume: &str) -> Result<(), Error> {
        match self.execute("device_del", json!({ "id": serial(volume) })).await {
            Err(Error::Refused { description, .. }) if description.contains("in the process") => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// The volume on the root bus, which is the machine's first and cannot be unplugged.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn root_disk(&self) -> Result<Option<String>, Error> {
        for volume in self.plugged().await? {
            let path = format!("/machine/peripheral/{}", serial(&volume));
            let arguments = json!({ "path": path, "property": "parent_bus" });
            let bus = self.execute("qom-get", arguments).await?;
            if !bus.as_str().unwrap_or_default().contains(DISK_BUS) {
                return Ok(Some(volume));
            }
        }
        Ok(None)
    }

    /// Volumes that the guest has a disk of.
    ///
    /// # Errors
    /// As for [`Host::execute`].
    pub(crate) async fn plugged(&self) -> Result<Vec<String>, Error> {
        let all = self.execute("qom-list", json!({ "path": "/machine/peripheral" })).await?;
        let names = all.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
        Ok(names.filter_map(volume_of).collect())
    }
}

#[cfg(test)]
mod tests;
