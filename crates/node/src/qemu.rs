//! Machines on QEMU: the driver of a region whose instances are real.
//!
//! Each machine has one task, one queue and one state machine, drawn in [`machine`]. The driver
//! itself only routes: wishes to the task of their machine, plans to the thread of the network,
//! metadata requests to the machine that an address belongs to.
//!
//! ```text
//!  apply ───────► inbox ──► machine task ──► QEMU (own session, own user, seccomp), its disks
//!  apply_volume ─► volumes ([`crate::volume`]), which machine tasks acquire and release
//!  apply_network ─► thread ─► net ──► namespaces, taps, nftables
//!                       └──► IMDS server per VPC ──► which machine has this address?
//! ```
//!
//! QEMU processes outlive the daemon: [`Driver::start`] reads the records of machines and adopts
//! the processes that run. What it deliberately does not do: it decides nothing about instances
//! (no restart of what ended, no placement), and it deletes no machine that nobody told it to.

mod accelerator;
mod admission;
mod boot;
mod command;
mod directory;
mod disks;
mod launch;
mod machine;
mod network;
mod nics;
pub(crate) mod process;
pub(crate) mod qmp;

pub use accelerator::{Accelerator, Verdict, cached as cached_verdict};
pub use network::Fabric;

use crate::endpoint::Endpoints;
use crate::flow_log::FlowLogs;
use crate::imds;
use crate::volume::{self, Volumes};
use accelerator::Judge;
use base::Clock;
use base::machine::{Console, InterfaceState, Spec, State};
use base::network::Plan;
use directory::Directory;
use machine::{Handle, Machine};
use network::Network;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::runtime;
use tokio::task::{AbortHandle, JoinSet};

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// The first user that machines run as; each machine has its own, so that QEMUs cannot touch each
/// other. No distribution assigns numbers from here on (systemd, UIDS-GIDS.md).
const FIRST_USER: u32 = 1_900_000_000;

/// How often consoles are looked at.
const JANITOR: Duration = Duration::from_secs(5);

/// What a driver is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory for machines, volumes and consoles.
    pub data_dir: PathBuf,
    /// Directory of images.
    pub images_dir: PathBuf,
    /// Most memory that a machine gets, MiB, whatever its type says.
    pub vm_memory_max: Option<u64>,
    /// How processors run.
    pub accelerator: Accelerator,
    /// The region's clock.
    pub clock: Clock,
    /// The data plane.
    pub network: net::Config,
    /// Where the cloud's own services are inside of VPCs.
    pub endpoints: Endpoints,
    /// What volumes need.
    pub volumes: volume::Config,
}

/// How long a guest may take, in wall time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From the power button to the end, when an instance is stopped.
    pub stop_grace: Duration,
    /// From the power button to a hard reset, when it is rebooted (EC2: "a few minutes").
    pub reboot_grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { stop_grace: Duration::from_secs(60), reboot_grace: Duration::from_secs(120) }
    }
}

/// Why a driver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing.
    #[error("{0} is not installed: apt-get install qemu-system-x86 qemu-utils")]
    NoProgram(String),
    /// A file or directory could not be used.
    #[error("{path} cannot be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data plane cannot start.
    #[error("the network cannot start")]
    Network(#[source] net::Error),
    /// The key that signs instance identities.
    #[error("the key of instance identities cannot be used")]
    Identity(#[source] imds::identity::Error),
    /// Called outside of a tokio runtime.
    #[error("the qemu driver needs a tokio runtime")]
    NoRuntime,
}

/// The node.
pub struct Driver {
    shared: Arc<Shared>,
    janitor: AbortHandle,
}

/// What the tasks share.
pub(crate) struct Shared {
    data_dir: PathBuf,
    images_dir: PathBuf,
    vm_memory_max: Option<u64>,
    host_cpus: u32,
    clock: Clock,
    timing: Timing,
    qemu: PathBuf,
    volumes: Volumes,
    judge: Judge,
    network: Option<Arc<Network>>,
    runtime: runtime::Handle,
    listener: Arc<OnceLock<Listener>>,
    machines: Mutex<HashMap<String, Arc<Handle>>>,
    addresses: Arc<Addresses>,
    users: Mutex<BTreeSet<u32>>,
}

/// Which machine has an address of a VPC.
type Addresses = Mutex<HashMap<(String, Ipv4Addr), Arc<Handle>>>;

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("qemu::Driver").field("data_dir", &self.shared.data_dir).finish()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shared {
    fn announce(&self, id: &str) {
        if let Some(listener) = self.listener.get() {
            listener(id);
        }
    }

    /// A user number that no other machine has.
    fn take_user(&self) -> u32 {
        let mut users = locked(&self.users);
        let free = (FIRST_USER..).find(|user| !users.contains(user)).unwrap_or(FIRST_USER);
        users.insert(free);
        free
    }

    fn free_user(&self, user: u32) {
        locked(&self.users).remove(&user);
    }
}

impl Driver {
    /// Checks what is needed, starts the network and adopts the machines that run. Must be called
    /// within a tokio runtime, which then runs the machines' tasks.
    ///
    /// # Errors
    /// Something is missing: the message says what to do.
    pub fn start(config: Config) -> Result<Arc<Self>, Error> {
        for program in ["qemu-system-x86_64", "qemu-img", "qemu-nbd", "qemu-storage-daemon"] {
            accelerator::find_program(Path::new(program))
                .map_err(|_| Error::NoProgram(program.to_owned()))?;
        }
        let network = net::Network::start(config.network.clone()).map_err(Error::Network)?;
        Self::start_with(config, Some(Arc::new(network)), Timing::default())
    }

    /// [`Driver::start`] on another data plane, or on none, with other graces.
    ///
    /// # Errors
    /// As for [`Driver::start`].
    pub fn start_with(
        config: Config,
        fabric: Option<Arc<dyn Fabric>>,
        timing: Timing,
    ) -> Result<Arc<Self>, Error> {
        let runtime = runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        for directory in ["machines", "volumes"] {
            let path = config.data_dir.join(directory);
            make_passable(&path).map_err(|source| Error::Io { path, source })?;
        }
        let identity = imds::identity::Signer::open(&config.data_dir.join("identity"));
        let identity = Arc::new(identity.map_err(Error::Identity)?);
        let addresses: Arc<Addresses> = Arc::default();
        let network = fabric.map(|fabric| {
            let counters = Arc::clone(&fabric);
            let logs = FlowLogs::start(&config.data_dir, config.clock.clone(), move |vpc| {
                counters.flows(vpc)
            })?;
            let servers = Servers {
                runtime: runtime.clone(),
                addresses: Arc::clone(&addresses),
                owners: Arc::default(),
                endpoints: config.endpoints.clone(),
                identity,
            };
            servers.watch(fabric, logs)
        });
        let network = network
            .transpose()
            .map_err(|source| Error::Io { path: "the thread of network plans".into(), source })?;
        let listener: Arc<OnceLock<Listener>> = Arc::default();
        let tell = Arc::clone(&listener);
        let announce = Box::new(move |id: &str| {
            if let Some(listener) = tell.get() {
                listener(id);
            }
        });
        let volumes = Volumes::start(config.volumes, runtime.clone(), announce);
        let volumes = volumes
            .map_err(|source| Error::Io { path: config.data_dir.join("volumes"), source })?;
        let host_cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
        let qemu = PathBuf::from("qemu-system-x86_64");
        let shared = Arc::new(Shared {
            judge: Judge {
                wanted: config.accelerator,
                data_dir: config.data_dir.clone(),
                images_dir: config.images_dir.clone(),
                qemu: qemu.clone(),
                user: rustix::process::geteuid().is_root().then_some(FIRST_USER - 1),
                decided: tokio::sync::Mutex::new(None),
            },
            data_dir: config.data_dir,
            images_dir: config.images_dir,
            vm_memory_max: config.vm_memory_max,
            host_cpus: u32::try_from(host_cpus).unwrap_or(1),
            clock: config.clock,
            timing,
            qemu,
            volumes,
            network: network.map(Arc::new),
            runtime: runtime.clone(),
            listener,
            machines: Mutex::default(),
            addresses,
            users: Mutex::default(),
        });
        adopt_all(&shared)
            .map_err(|source| Error::Io { path: shared.data_dir.join("machines"), source })?;
        // Reached now rather than by the first launch, which then need not wait for it.
        let judge = Arc::clone(&shared);
        runtime.spawn(async move { judge.judge.engine().await });
        let janitor = runtime.spawn(tidy(Arc::clone(&shared))).abort_handle();
        Ok(Arc::new(Driver { shared, janitor }))
    }

    /// The machine's handle, made if it is new.
    fn handle(&self, id: &str) -> Arc<Handle> {
        let mut machines = locked(&self.shared.machines);
        if let Some(handle) = machines.get(id) {
            return Arc::clone(handle);
        }
        let (handle, inbox) = Handle::new(id, State::Absent);
        let machine = Machine::new(Arc::clone(&self.shared), Arc::clone(&handle), inbox);
        let task = self.shared.runtime.spawn(machine.run());
        handle.task.get_or_init(|| task.abort_handle());
        machines.insert(id.to_owned(), Arc::clone(&handle));
        handle
    }
}

impl Drop for Driver {
    /// Ends the tasks; the machines run on.
    fn drop(&mut self) {
        self.janitor.abort();
        self.shared.volumes.stop();
        for (_, handle) in locked(&self.shared.machines).drain() {
            if let Some(task) = handle.task.get() {
                task.abort();
            }
        }
    }
}

impl base::volume::Driver for Driver {
    fn apply_volume(&self, spec: base::volume::Spec) {
        self.shared.volumes.apply(spec);
    }

    fn volume_state(&self, id: &str) -> base::volume::State {
        self.shared.volumes.state(id)
    }

    fn forget_volume(&self, id: &str) {
        self.shared.volumes.forget(id);
    }

    fn apply_task(&self, task: base::volume::Task) {
        self.shared.volumes.tasks().apply(task);
    }

    fn task_state(&self, id: &str) -> Option<base::volume::SnapshotState> {
        self.shared.volumes.tasks().state(id)
    }

    fn forget_task(&self, id: &str) {
        self.shared.volumes.tasks().forget(id);
    }
}

impl base::machine::Driver for Driver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn apply(&self, spec: Spec) {
        let handle = self.handle(&spec.id);
        {
            let mut addresses = locked(&self.shared.addresses);
            if let Some(before) = handle.inbox.borrow().as_deref() {
                for interface in &before.interfaces {
                    let key = (interface.vpc_id.clone(), interface.private_ip);
                    // An interface that moved on may belong to another machine already.
                    if addresses.get(&key).is_some_and(|owner| Arc::ptr_eq(owner, &handle)) {
                        addresses.remove(&key);
                    }
                }
            }
            if spec.wanted != base::machine::Wanted::Terminated {
                for interface in &spec.interfaces {
                    let key = (interface.vpc_id.clone(), interface.private_ip);
                    addresses.insert(key, Arc::clone(&handle));
                }
            }
        }
        handle.inbox.send_replace(Some(Arc::new(spec)));
    }

    fn state(&self, id: &str) -> State {
        let handle = locked(&self.shared.machines).get(id).cloned();
        handle.map_or(State::Absent, |handle| handle.state())
    }

    fn interface_state(&self, machine: &str, interface: &str) -> InterfaceState {
        let handle = locked(&self.shared.machines).get(machine).cloned();
        handle.map_or(InterfaceState::Out, |handle| handle.interfaces.state(interface))
    }

    fn forget(&self, id: &str) {
        let mut machines = locked(&self.shared.machines);
        if machines.get(id).is_some_and(|handle| handle.state() == State::Gone) {
            machines.remove(id);
        }
    }

    fn console(&self, id: &str) -> io::Result<Option<Console>> {
        Directory::new(&self.shared.data_dir, id).console(&self.shared.clock)
    }

    fn apply_network(&self, plan: base::network::Plan) {
        if let Some(network) = &self.shared.network {
            network.want(plan);
        }
    }

    fn has_network(&self) -> bool {
        self.shared.network.is_some()
    }

    fn listen(&self, listener: Listener) {
        if self.shared.listener.set(listener).is_err() {
            tracing::error!("a second listener of the qemu driver was ignored");
        }
    }
}

/// Ends every machine of a data directory in an orderly way, or after a grace with force, then what
/// served their volumes, and blocks until that is done. Their disks stay. No driver may be running
/// on the directory.
///
/// # Errors
/// The directory could not be read.
pub fn stop_all(data_dir: &Path) -> io::Result<()> {
    const GRACE: Duration = Duration::from_secs(20);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let ids = machine_ids(data_dir)?;
    runtime.block_on(async {
        let mut stops = JoinSet::new();
        for id in ids {
            stops.spawn(launch::stop(Directory::new(data_dir, &id), GRACE));
        }
        stops.join_all().await;
    });
    volume::stop_processes(data_dir);
    Ok(())
}

/// Makes a directory that QEMU may pass through without reading it.
fn make_passable(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}

/// The machines that have a directory.
fn machine_ids(data_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(data_dir.join("machines")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| base::id::is_valid("i", name)).collect())
}

fn adopt_all(shared: &Arc<Shared>) -> io::Result<()> {
    for id in machine_ids(&shared.data_dir)? {
        let Some(record) = Directory::new(&shared.data_dir, &id).read() else {
            tracing::warn!(id, "a machine's directory without a record was left alone");
            continue;
        };
        locked(&shared.users).insert(record.user);
        let (handle, inbox) = Handle::new(&id, State::Absent);
        let mut machine = Machine::new(Arc::clone(shared), Arc::clone(&handle), inbox);
        machine.adopt(record);
        let task = shared.runtime.spawn(machine.run());
        handle.task.get_or_init(|| task.abort_handle());
        locked(&shared.machines).insert(id, handle);
    }
    Ok(())
}

async fn tidy(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(JANITOR);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ids: Vec<String> = locked(&shared.machines).keys().cloned().collect();
        let (data_dir, now) = (shared.data_dir.clone(), shared.clock.now());
        let done = tokio::task::spawn_blocking(move || directory::tidy(&data_dir, &ids, now)).await;
        if let Err(error) = done {
            tracing::error!(%error, "tidying consoles failed");
        }
    }
}

/// The metadata servers, one for each VPC.
struct Servers {
    runtime: runtime::Handle,
    addresses: Arc<Addresses>,
    owners: Arc<Owners>,
    endpoints: Endpoints,
    identity: Arc<imds::identity::Signer>,
}

/// The plan as it was applied, for addresses that are not the first of an interface.
type Owners = Mutex<Arc<Plan>>;

/// The first address of the interface that has `address`.
fn first_address(plan: &Plan, vpc_id: &str, address: Ipv4Addr) -> Option<Ipv4Addr> {
    let vpc = plan.vpcs.iter().find(|vpc| vpc.id == vpc_id)?;
    let interface = vpc.interfaces.iter().find(|interface| interface.has(address.into()))?;
    Some(interface.private_ip)
}

impl Servers {
    /// Starts the network's thread, which keeps the servers in step with the plans.
    fn watch(self, fabric: Arc<dyn Fabric>, logs: FlowLogs) -> io::Result<Network> {
        let mut running = Running::default();
        let listeners = Arc::clone(&fabric);
        Network::start(fabric, logs, move |plan| {
            *locked(&self.owners) = Arc::new(plan.clone());
            let mut result = {
                let _context = self.runtime.enter();
                let listen =
                    |vpc: &str, address, port| listeners.listen_service(vpc, address, port);
                self.endpoints.follow(plan, listen)
            };
            let vpcs: Vec<String> = plan.vpcs.iter().map(|vpc| vpc.id.clone()).collect();
            running.retain(&vpcs);
            for vpc in &vpcs {
                if running.0.contains_key(vpc) {
                    continue;
                }
                match listeners.listen_metadata(vpc) {
                    Ok(listener) => {
                        let server = self.serve(vpc.clone(), listener);
                        running.0.insert(vpc.clone(), server);
                    }
                    Err(error) => result = Err(format!("no metadata service in {vpc}: {error}")),
                }
            }
            result
        })
    }

    fn serve(&self, vpc: String, listener: std::net::TcpListener) -> AbortHandle {
        let addresses = Arc::clone(&self.addresses);
        let owners = Arc::clone(&self.owners);
        let find = move |peer: Ipv4Addr| {
            let handle = |address| locked(&addresses).get(&(vpc.clone(), address)).cloned();
            let other = || {
                let plan = Arc::clone(&locked(&owners));
                handle(first_address(&plan, &vpc, peer)?)
            };
            let handle = handle(peer).or_else(other)?;
            let spec = handle.inbox.borrow().clone()?;
            let token_key = handle.token_key.get()?.clone();
            Some(imds::Subject { spec, token_key })
        };
        let server = imds::serve(listener, find, Arc::clone(&self.identity));
        self.runtime.spawn(server).abort_handle()
    }
}

/// Servers by VPC; they end with it.
#[derive(Default)]
struct Running(HashMap<String, AbortHandle>);

impl Running {
    /// Ends the servers of all VPCs but `vpcs`, and forgets those that ended by themselves.
    fn retain(&mut self, vpcs: &[String]) {
        self.0.retain(|vpc, server| {
            let stays = vpcs.contains(vpc) && !server.is_finished();
            if !stays {
                server.abort();
            }
            stays
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.retain(&[]);
    }
}

/// The region's public certificate, PEM, by which users verify instance identity documents.
///
/// # Errors
/// The key is missing and cannot be made.
pub fn identity_certificate(data_dir: &Path) -> Result<String, imds::identity::Error> {
    Ok(imds::identity::Signer::open(&data_dir.join("identity"))?.certificate_pem())
}
