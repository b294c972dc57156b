//! Hands network plans to the data plane on a thread of its own, since applying one blocks.
//!
//! The latest plan wins: plans that arrive while one is applied replace each other. Machines wait
//! until the plan that holds their interfaces is in the kernel. A plan that fails is tried again.

use crate::flow_log::FlowLogs;
use base::network::Plan;
use net::flow::Reading;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// What a driver needs of a data plane; [`net::Network`] is one. All methods block.
pub trait Fabric: Send + Sync + 'static {
    /// Makes the kernel what `plan` says.
    ///
    /// # Errors
    /// What failed and what to do.
    fn apply(&self, plan: &Plan) -> Result<(), String>;

    /// Opens the tap of an interface for QEMU.
    ///
    /// # Errors
    /// What failed and what to do.
    fn open_tap(&self, vpc_id: &str, interface_id: &str) -> Result<OwnedFd, String>;

    /// Listens on the metadata address inside a VPC.
    ///
    /// # Errors
    /// What failed and what to do.
    fn listen_metadata(&self, vpc_id: &str) -> Result<TcpListener, String>;

    /// Listens on an address of the node inside a VPC.
    ///
    /// # Errors
    /// What failed and what to do.
    fn listen_service(
        &self,
        vpc_id: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<TcpListener, String> {
        Err(format!("nobody can listen on {address}:{port} in {vpc_id}"))
    }

    /// What the flow logs' counters of a VPC show.
    ///
    /// # Errors
    /// What failed.
    fn flows(&self, _vpc_id: &str) -> Result<Reading, String> {
        Ok(Reading::default())
    }

    /// Whether the guest behind an interface answers ARP; `None` if that cannot be told.
    fn reachable(&self, interface_id: &str) -> Option<bool>;
}

impl Fabric for net::Network {
    fn apply(&self, plan: &Plan) -> Result<(), String> {
        self.apply(plan).map_err(|error| chain(&error))
    }

    fn open_tap(&self, vpc_id: &str, interface_id: &str) -> Result<OwnedFd, String> {
        self.open_tap(vpc_id, interface_id).map_err(|error| chain(&error))
    }

    fn listen_metadata(&self, vpc_id: &str) -> Result<TcpListener, String> {
        self.listen_metadata(vpc_id).map_err(|error| chain(&error))
    }

    fn listen_service(
        &self,
        vpc_id: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<TcpListener, String> {
        self.listen_service(vpc_id, address, port).map_err(|error| chain(&error))
    }

    fn flows(&self, vpc_id: &str) -> Result<Reading, String> {
        self.flows(vpc_id).map_err(|error| chain(&error))
    }

    fn reachable(&self, interface_id: &str) -> Option<bool> {
        self.reachable(interface_id).ok()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// An interface that the kernel holds.
#[derive(Clone, Debug)]
struct Held {
    /// The machine that it is for.
    machine: Option<String>,
    /// Another number each time that it came: its tap is another one then.
    generation: u64,
}

/// What the kernel holds now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    interfaces: Arc<HashMap<String, Held>>,
    /// Why the latest plan is not in the kernel.
    error: Option<String>,
}

/// The thread's wishes.
#[derive(Default)]
struct Wish {
    plan: Option<Plan>,
    ended: bool,
}

/// The handle of the thread.
pub(crate) struct Network {
    pub(crate) fabric: Arc<dyn Fabric>,
    wish: Arc<(Mutex<Wish>, Condvar)>,
    applied: watch::Receiver<Applied>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// How long to wait before a plan that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How long a machine waits for its interfaces.
const PATIENCE: Duration = Duration::from_secs(30);

fn locked(wish: &Mutex<Wish>) -> MutexGuard<'_, Wish> {
    wish.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Network {
    /// Starts the thread. `on_plan` is called on it with each plan that was applied, and again later
    /// if it fails.
    pub(crate) fn start(
        fabric: Arc<dyn Fabric>,
        logs: FlowLogs,
        on_plan: impl FnMut(&Plan) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, applied) = watch::channel(Applied::default());
        let wish = Arc::new((Mutex::new(Wish::default()), Condvar::new()));
        let network = Network { fabric: Arc::clone(&fabric), wish: Arc::clone(&wish), applied };
        let thread = std::thread::Builder::new().name("network-plans".to_owned());
        thread.spawn(move || work(&*fabric, &logs, &wish, &sender, on_plan))?;
        Ok(network)
    }

    /// Makes `plan` the wanted one.
    pub(crate) fn want(&self, plan: Plan) {
        locked(&self.wish.0).plan = Some(plan);
        self.wish.1.notify_one();
    }

    /// Wakes when another plan was applied.
    pub(crate) fn changes(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// Which tap of its name an interface has; `None` if it has none.
    pub(crate) fn generation(&self, interface: &str) -> Option<u64> {
        self.applied.borrow().interfaces.get(interface).map(|held| held.generation)
    }

    /// Waits until the kernel holds all of `interfaces` for this machine.
    pub(crate) async fn holds(&self, machine: &str, interfaces: &[String]) -> Result<(), String> {
        let mut applied = self.applied.clone();
        let is_there = |applied: &Applied, id: &String| {
            let held = applied.interfaces.get(id);
            held.is_some_and(|held| held.machine.as_deref() == Some(machine))
        };
        let all_there =
            applied.wait_for(|applied| interfaces.iter().all(|id| is_there(applied, id)));
        match tokio::time::timeout(PATIENCE, all_there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the network of this node has ended".to_owned()),
            Err(_) => Err(match &self.applied.borrow().error {
                Some(error) => format!("the network could not be made: {error}"),
                None => "its network interfaces did not appear".to_owned(),
            }),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        locked(&self.wish.0).ended = true;
        self.wish.1.notify_one();
    }
}

fn work(
    fabric: &dyn Fabric,
    logs: &FlowLogs,
    wish: &(Mutex<Wish>, Condvar),
    sender: &watch::Sender<Applied>,
    mut on_plan: impl FnMut(&Plan) -> Result<(), String>,
) {
    let mut failed: Option<Plan> = None;
    let mut generation = 0;
    loop {
        let plan = {
            let idle = |wish: &mut Wish| wish.plan.is_none() && !wish.ended;
            let mut wish_now = locked(&wish.0);
            if failed.is_some() {
                let waited = wish.1.wait_timeout_while(wish_now, RETRY, idle);
                wish_now = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            } else {
                let waited = wish.1.wait_while(wish_now, idle);
                wish_now = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            if wish_now.ended {
                return;
            }
            wish_now.plan.take().or_else(|| failed.take())
        };
        let Some(plan) = plan else { continue };
        logs.prepare(&plan);
        let mut result = fabric.apply(&plan);
        if result.is_ok() {
            logs.follow(&plan);
            result = on_plan(&plan);
            generation += 1;
            let before = Arc::clone(&sender.borrow().interfaces);
            let interfaces = plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces);
            let held = interfaces.map(|interface| {
                let known = before.get(&interface.id).map(|held| held.generation);
                let machine = interface.instance_id().map(str::to_owned);
                let held = Held { machine, generation: known.unwrap_or(generation) };
                (interface.id.clone(), held)
            });
            let held = held.collect();
            sender.send_modify(|applied| applied.interfaces = Arc::new(held));
        }
        if let Err(error) = &result {
            tracing::error!(error, "applying the network plan failed; it will be tried again");
        }
        failed = result.is_err().then_some(plan);
        sender.send_modify(|applied| applied.error = result.err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::network::{Interface, Vpc};
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// Fails the first application.
    #[derive(Default)]
    struct Flaky {
        applied: AtomicUsize,
    }

    impl Fabric for Flaky {
        fn apply(&self, _plan: &Plan) -> Result<(), String> {
            match self.applied.fetch_add(1, Ordering::SeqCst) {
                0 => Err("not yet".to_owned()),
                _ => Ok(()),
            }
        }

        fn open_tap(&self, _vpc: &str, _interface: &str) -> Result<OwnedFd, String> {
            Err("none".to_owned())
        }

        fn listen_metadata(&self, _vpc: &str) -> Result<TcpListener, String> {
            Err("none".to_owned())
        }

        fn reachable(&self, _interface: &str) -> Option<bool> {
            None
        }
    }

    fn plan(interface: &str) -> Plan {
        let interface = Interface {
            id: interface.to_owned(),
            holder: base::network::Holder::Machine("i-1".to_owned()),
            secondary: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            node: None,
            subnet_id: "subnet-1".to_owned(),
            mac: "0a:00:00:00:00:01".to_owned(),
            private_ip: Ipv4Addr::LOCALHOST,
            public_ip: None,
            hostname: String::new(),
            groups: Vec::new(),
            source_dest_check: true,
        };
        let vpc = Vpc {
            id: "vpc-1".to_owned(),
            region: "us-east-1".to_owned(),
            cidrs: Vec::new(),
            subnets: Vec::new(),
            interfaces: vec![interface],
            groups: Vec::new(),
            ..Vpc::default()
        };
        Plan { vpcs: vec![vpc], ..Plan::default() }
    }

    #[tokio::test]
    async fn a_failed_plan_is_tried_again_and_machines_wait_for_theirs() {
        let (vpcs, seen) = mpsc::channel();
        let data = tempfile::tempdir().unwrap();
        let logs = FlowLogs::start(data.path(), base::Clock::wall(), |_| Ok(Reading::default()));
        let network = Network::start(Arc::new(Flaky::default()), logs.unwrap(), move |now| {
            let now: Vec<String> = now.vpcs.iter().map(|vpc| vpc.id.clone()).collect();
            vpcs.send(now).map_err(|error| error.to_string())
        })
        .unwrap();
        network.want(plan("eni-1"));
        network.holds("i-1", &["eni-1".to_owned()]).await.unwrap();
        assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), ["vpc-1"]);
        network.want(plan("eni-2"));
        network.holds("i-1", &["eni-2".to_owned()]).await.unwrap();
        network.holds("i-1", &[]).await.unwrap();
    }
}
