//! The volumes of this node.
//!
//! A volume is a directory of qcow2 **layers** ([`directory`]): the highest is written to, a
//! snapshot freezes it and puts a new one on top. Each volume has one task, one queue and one state
//! machine, drawn in [`task`]. Who has the layers open is the volume's **owner**: the QEMU of the
//! machine that it is attached to, a qemu-storage-daemon ([`keeper`]) for a Multi-Attach volume, or
//! nobody.
//!
//! ```text
//!  apply_volume ─► inbox ─┐                   ┌─► qemu-img, files
//!  machine tasks ─► asks ─┴─► volume task ────┼─► owner's block layer (host): cut, fill, merge, resize
//!   acquire, held, released                   ├─► `gureum storage` (source): serves what is not filled
//!                                             └─► upload ─► blob store
//! ```
//!
//! Owners and servers outlive the daemon and are adopted. What it deliberately does not do: it
//! decides nothing about volumes (no attachment, no retention), and deletes none that nobody told
//! it to.

mod attach;
pub mod check;
mod cut;
mod directory;
mod empty;
pub(crate) mod host;
mod image_file;
mod jobs;
mod keeper;
mod limits;
mod luks;
mod processes;
mod snapshots;
mod source;
mod state;
mod task;
mod tasks;
#[cfg(test)]
mod tests;
mod upload;

pub use tasks::Tasks;

use base::key::{DataKey, Keys, WrappedKey};
use base::volume::{Spec, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use block::{Blobs, Direct};
use cut::Groups;
use directory::Directory;
use host::{Chain, Host, Passphrase};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use task::Volume;
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// Uploads at a time, over all volumes.
const UPLOADS: usize = 3;

/// How long a machine waits in a reboot for its volumes to be cut.
const REBOOT_CUT: Duration = Duration::from_secs(10);

/// What volumes need.
#[derive(Clone)]
pub struct Config {
    /// Directory for machines and volumes.
    pub data_dir: PathBuf,
    /// The blob store, opened to write.
    pub blobs: Blobs,
    /// The same, as the storage process opens it.
    pub blob_config: block::Config,
    /// What EBS direct put, for tasks that complete it.
    pub direct: Arc<Direct>,
    /// Unwraps data keys.
    pub keys: Arc<dyn Keys>,
    /// The program that is a storage process when its argument is `storage`: gureum itself.
    pub storage: PathBuf,
    /// Whether limits are enforced; false measures the data path alone.
    pub throttled: bool,
    /// From the time that a guest has a volume until it is filled behind it: a guest that boots
    /// reads what it needs itself.
    pub fill_after: Duration,
}

/// What [`Config::fill_after`] should be.
pub const FILL_AFTER: Duration = Duration::from_secs(20);

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("volume::Config").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// Is called with the id of a volume whose state changed, from any thread.
pub(crate) type Announce = Arc<dyn Fn(&str) + Send + Sync>;

/// The volumes. Clones are the same.
#[derive(Clone)]
pub(crate) struct Volumes {
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl fmt::Debug for Volumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volumes").field("config", &self.shared.config).finish()
    }
}

/// What the tasks share.
pub(crate) struct Shared {
    config: Config,
    runtime: runtime::Handle,
    announce: Announce,
    volumes: Mutex<HashMap<String, Arc<Handle>>>,
    groups: Groups,
    uploads: Arc<Semaphore>,
    qemu_img: PathBuf,
}

/// What the rest of the driver holds of a volume.
#[derive(Debug)]
struct Handle {
    id: String,
    inbox: watch::Sender<Option<Arc<Spec>>>,
    asks: mpsc::UnboundedSender<Ask>,
    state: Mutex<State>,
    task: OnceLock<AbortHandle>,
}

/// What a volume's task is asked for.
#[derive(Debug)]
enum Ask {
    /// A machine wants to open the volume.
    Acquire { machine: String, user: u32, answer: oneshot::Sender<Result<Chain, String>> },
    /// A machine has it.
    Held { machine: String, host: Host },
    /// A machine has it no more.
    Released { machine: String, answer: oneshot::Sender<()> },
    /// The machine is off in the middle of a reboot.
    Rebooting { machine: String, reboots: u32, answer: oneshot::Sender<()> },
    /// Its owner says something.
    Event(host::Event),
}

/// Ends the processes that serve volumes of a data directory, which no daemon and no machine uses.
pub(crate) fn stop_processes(data_dir: &std::path::Path) {
    keeper::kill_strays(data_dir, &[]);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shared {
    /// The data key in the clear.
    async fn data_key(&self, key: Option<&WrappedKey>) -> Result<Option<DataKey>, String> {
        let Some(key) = key.cloned() else { return Ok(None) };
        let keys = Arc::clone(&self.config.keys);
        let unwrapped = tokio::task::spawn_blocking(move || keys.unwrap(&key)).await;
        let unwrapped = unwrapped.map_err(|error| error.to_string())?;
        unwrapped.map(Some).map_err(|error| error.to_string())
    }

    /// What opens an encrypted volume's layers.
    async fn passphrase(&self, key: Option<&WrappedKey>) -> Result<Option<Passphrase>, String> {
        let key = self.data_key(key).await?;
        Ok(key.map(|key| Passphrase(BASE64.encode(key.0))))
    }
}

impl Volumes {
    /// Adopts the volumes of the data directory. Must be called before anything collects garbage
    /// in the blob store, and before machines are adopted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn start(
        config: Config,
        runtime: runtime::Handle,
        announce: Box<dyn Fn(&str) + Send + Sync>,
    ) -> io::Result<Self> {
        let announce: Announce = Arc::from(announce);
        let told = Arc::clone(&announce);
        let tasks = Tasks::new(
            &config.data_dir,
            config.blobs.clone(),
            Arc::clone(&config.keys),
            Arc::clone(&config.direct),
            runtime.clone(),
            Box::new(move |id| told(id)),
        )?;
        let found = directory::volumes(&config.data_dir)?;
        let shared = Arc::new(Shared {
            config,
            runtime,
            announce,
            volumes: Mutex::default(),
            groups: Groups::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            qemu_img: PathBuf::from("qemu-img"),
        });
        let volumes = Volumes { shared, tasks };
        let data_dir = &volumes.shared.config.data_dir;
        let mut adopted = Vec::new();
        let mut kept = Vec::new();
        for id in found {
            match Directory::new(data_dir, &id).read() {
                Ok(Some(record)) => {
                    let processes = [&record.server, &record.keeper].into_iter().flatten();
                    kept.extend(processes.map(|identity| identity.pid));
                    adopted.push((id, record));
                }
                Ok(None) => tracing::warn!(id, "a volume's directory without a record was left"),
                Err(error) => tracing::error!(id, %error, "a volume's record cannot be read"),
            }
        }
        keeper::kill_strays(data_dir, &kept);
        for (id, record) in adopted {
            volumes.add(&id, Some(record));
        }
        Ok(volumes)
    }

    fn add(&self, id: &str, record: Option<directory::Record>) -> Arc<Handle> {
        let mut volumes = locked(&self.shared.volumes);
        if let Some(handle) = volumes.get(id) {
            return Arc::clone(handle);
        }
        let (inbox, wishes) = watch::channel(None);
        let (asks, asked) = mpsc::unbounded_channel();
        let handle = Arc::new(Handle {
            id: id.to_owned(),
            inbox,
            asks,
            state: Mutex::new(State::Absent),
            task: OnceLock::new(),
        });
        let volume =
            Volume::new(Arc::clone(&self.shared), Arc::clone(&handle), wishes, asked, record);
        let task = self.shared.runtime.spawn(volume.run());
        handle.task.get_or_init(|| task.abort_handle());
        volumes.insert(id.to_owned(), Arc::clone(&handle));
        handle
    }

    /// The tasks of content that belongs to no volume.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Ends the tasks; owners and servers run on.
    pub(crate) fn stop(&self) {
        self.tasks.stop();
        for (_, handle) in locked(&self.shared.volumes).drain() {
            if let Some(task) = handle.task.get() {
                task.abort();
            }
        }
    }

    fn get(&self, id: &str) -> Option<Arc<Handle>> {
        locked(&self.shared.volumes).get(id).cloned()
    }

    /// As [`base::volume::Driver::apply_volume`].
    pub(crate) fn apply(&self, spec: Spec) {
        if !base::id::is_valid("vol", &spec.id) {
            tracing::error!(id = spec.id, "that is no volume's id");
            return;
        }
        let handle = self.add(&spec.id, None);
        handle.inbox.send_replace(Some(Arc::new(spec)));
    }

    /// As [`base::volume::Driver::volume_state`].
    pub(crate) fn state(&self, id: &str) -> State {
        self.get(id).map_or(State::Absent, |handle| locked(&handle.state).clone())
    }

    /// As [`base::volume::Driver::forget_volume`].
    pub(crate) fn forget(&self, id: &str) {
        let mut volumes = locked(&self.shared.volumes);
        if volumes.get(id).is_some_and(|handle| *locked(&handle.state) == State::Gone) {
            volumes.remove(id);
        }
    }

    /// Opens the volume for a machine whose QEMU runs as `user`: waits until it is there and nobody
    /// else has it. From then on the machine has it, until [`Volumes::released`]. A machine that
    /// asks again has lost what it had.
    ///
    /// # Errors
    /// It never can be opened; text for people.
    pub(crate) async fn acquire(
        &self,
        volume: &str,
        machine: &str,
        user: u32,
    ) -> Result<Chain, String> {
        if !base::id::is_valid("vol", volume) {
            return Err(format!("{volume} is no volume's id"));
        }
        let handle = self.add(volume, None);
        let (answer, opened) = oneshot::channel();
        let ask = Ask::Acquire { machine: machine.to_owned(), user, answer };
        if handle.asks.send(ask).is_err() {
            return Err(format!("the volume {volume} is gone"));
        }
        opened.await.unwrap_or_else(|_| Err(format!("the volume {volume} is gone")))
    }

    /// The machine's guest can see the volume; `host` is the block layer of its QEMU. Called after a
    /// launch, a hot plug, and when a running machine was adopted.
    pub(crate) fn held(&self, volume: &str, machine: &str, host: Host) {
        if let Some(handle) = self.get(volume) {
            // Fails only if the volume is gone.
            let _ = handle.asks.send(Ask::Held { machine: machine.to_owned(), host });
        }
    }

    /// The machine has let go of the volume, its process has ended, or it never opened what it
    /// acquired. Returns when somebody else may have it.
    pub(crate) async fn released(&self, volume: &str, machine: &str) {
        let Some(handle) = self.get(volume) else { return };
        let (answer, done) = oneshot::channel();
        if handle.asks.send(Ask::Released { machine: machine.to_owned(), answer }).is_ok() {
            // Without an answer the volume is gone.
            let _ = done.await;
        }
    }

    /// The machine's process has ended: [`Volumes::released`] for all that it had.
    pub(crate) async fn machine_ended(&self, machine: &str) {
        self.lost(machine, &[]).await;
    }

    /// The machine was adopted and has none but the volumes `still`: [`Volumes::released`] for all
    /// others.
    pub(crate) async fn lost(&self, machine: &str, still: &[String]) {
        let mut ids: Vec<String> = locked(&self.shared.volumes).keys().cloned().collect();
        ids.retain(|id| !still.contains(id));
        for id in ids {
            self.released(&id, machine).await;
        }
    }

    /// Cuts the snapshots of the machine's volumes that waited for this reboot. Called while the
    /// guest is off and its QEMU still runs, before the reboot is recorded. Returns when that is
    /// done, or after a while.
    pub(crate) async fn cut_during_reboot(&self, machine: &str, reboots: u32) {
        let handles: Vec<_> = locked(&self.shared.volumes).values().cloned().collect();
        let mut waiting = Vec::new();
        for handle in handles {
            let (answer, done) = oneshot::channel();
            let ask = Ask::Rebooting { machine: machine.to_owned(), reboots, answer };
            if handle.asks.send(ask).is_ok() {
                waiting.push(done);
            }
        }
        let all = async {
            for done in waiting {
                // Without an answer the volume is gone.
                let _ = done.await;
            }
        };
        if tokio::time::timeout(REBOOT_CUT, all).await.is_err() {
            tracing::error!(machine, "the reboot goes on before all its snapshots are cut");
        }
    }
}
