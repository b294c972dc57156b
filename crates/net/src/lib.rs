//! The data plane of a node: a [`base::network::Plan`] goes in, kernel state comes out.
//!
//! A VPC is a network namespace, an interface is a tap in it with a route to its address. Nothing
//! is bridged: guests believe in a subnet, but every packet between two of them is routed by the
//! namespace, which answers ARP for those that exist (as EC2 does it). Therefore VPCs may overlap,
//! and every packet passes the rules of [`rules`].
//!
//! ```text
//!  host ──────── veth ──────── namespace gureum-vpc-… ──┬── tap ── guest 172.31.0.5
//!   203.0.113.5 is routed      translates, filters,     ├── tap ── guest 172.31.0.6
//!   to the VPC that has it     answers DHCP, DNS        └── …
//! ```
//!
//! [`Network::apply`] is level-triggered: it compares what is wanted with what it knows to be there,
//! or with what it finds after a start, and changes the difference. A VPC that did not change is not
//! touched. Security: new rules are in place before a new tap is.
//!
//! ```text
//!  namespace:  absent ──create──► found ──adopt──► known ──changed plan──► known
//!                                   ▲                │ failed half way
//!                                   └────────────────┘
//! ```
//!
//! Beside VPCs there are namespaces for NAT gateways and transit gateways, joined by veth pairs, as
//! peered VPCs are; other nodes are behind one VXLAN link a VPC. Which way a packet goes is written
//! in `tables`, what a VPC's namespace holds in `vpc`, how one state becomes the next in `apply`.
//!
//! What this crate deliberately does not do: decide anything (addresses, routes and rules come
//! compiled in the plan), speak AWS, run machines, answer instance metadata or serve endpoints (it
//! only opens the doors with [`Network::listen_metadata`] and [`Network::listen_service`]), NAT64.

mod advertisement;
mod apply;
mod arp;
mod check;
mod command;
mod conntrack;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
mod error;
pub mod flow;
mod gateway;
mod host;
mod layout;
pub mod names;
mod namespace;
#[cfg(test)]
mod oracle;
mod privilege;
mod protocols;
mod resolver;
pub mod rules;
pub mod ruleset;
mod services;
pub mod surroundings;
mod system;
mod tables;
mod view;
mod vpc;

#[doc(hidden)]
pub use apply::Compiled;
use apply::State;
use base::Ipv4Cidr;
use base::network::{Holder, Plan, Vpc};
pub use error::Error;
use host::Host;
use services::Services;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Where and under which names the network lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses that the host routes to the instances that own them. 203.0.113.0/24 unless told:
    /// it is reserved for documentation (RFC 5737), so it hides nobody.
    pub public_pool: Ipv4Cidr,
    /// What namespaces, links and tables are called: 1 to 6 lower-case letters and digits, `gureum`
    /// unless told. Two daemons on one machine need two.
    pub name_prefix: String,
    /// Resolvers that answer what is not ours; those of `/etc/resolv.conf` unless told.
    pub upstream_dns: Vec<SocketAddr>,
    /// Directory for what must be undone by [`Network::destroy_all`].
    pub state_dir: PathBuf,
    /// Name of the namespace that is the node's own, as `ip netns` shows it; that of the process
    /// unless told. For several nodes on one machine, each with a prefix of its own.
    pub home: Option<String>,
}

impl Config {
    /// The defaults.
    pub fn new(state_dir: PathBuf) -> Config {
        let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Config {
            public_pool: Ipv4Cidr::containing(Ipv4Addr::new(203, 0, 113, 0), 24),
            name_prefix: "gureum".into(),
            upstream_dns: nameservers(&resolvers),
            state_dir,
            home: None,
        }
    }

    /// Runs `work` where the node's own network is.
    fn at_home<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        match &self.home {
            Some(name) => namespace::within(name, work),
            None => work(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        if !names::is_prefix(&self.name_prefix) {
            return Err(Error::Config(format!(
                "the name prefix {:?} is not 1 to 6 lower-case letters and digits",
                self.name_prefix
            )));
        }
        Ok(())
    }
}

fn nameservers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// Whose packets come from an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `eni-…`.
    pub interface_id: String,
    /// `i-…`.
    pub instance_id: String,
}

/// The node's network; a cheap handle.
///
/// Dropping the last one stops DHCP and DNS and leaves the kernel as it is: guests keep talking,
/// and the next [`Network::start`] adopts what is there.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    services: Services,
    state: Mutex<State>,
    /// The VPCs as applied, for those who only look: they never wait for an apply.
    directory: RwLock<Directory>,
}

type Directory = Arc<BTreeMap<String, Arc<Vpc>>>;

impl Network {
    /// Checks privileges and tools and starts the thread that answers DHCP and DNS.
    pub fn start(config: Config) -> Result<Network, Error> {
        config.check()?;
        privilege::check()?;
        let services = config.at_home(|| Services::start(&config.upstream_dns))?;
        let state = State::new(config.clone());
        let inner =
            Inner { config, services, state: Mutex::new(state), directory: RwLock::default() };
        Ok(Network { inner: Arc::new(inner) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic half way leaves a VPC unknown, which is a state that apply can start from.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self) -> Directory {
        self.inner.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, vpc_id: &str) -> Result<Arc<Vpc>, Error> {
        self.directory().get(vpc_id).cloned().ok_or_else(|| Error::NotInPlan(vpc_id.to_owned()))
    }

    fn namespace(&self, vpc_id: &str) -> String {
        names::namespace(&self.inner.config.name_prefix, vpc_id)
    }

    /// Makes the kernel what `plan` says: idempotent, and it adopts what another process left.
    ///
    /// Blocking, for some milliseconds a VPC that changed; call it from a worker thread. A VPC that
    /// cannot be had does not keep the others from theirs; the first error is returned.
    pub fn apply(&self, plan: &Plan) -> Result<(), Error> {
        check::plan(plan, &self.inner.config.public_pool)?;
        self.inner.config.at_home(|| {
            let mut state = self.state();
            let result = state.apply(plan, &self.inner.config, &self.inner.services);
            self.publish(plan, &state);
            result.and(state.host.route(plan))
        })
    }

    /// A VPC that could not be changed is still what it was.
    fn publish(&self, plan: &Plan, state: &State) {
        let old = self.directory();
        let current = plan.vpcs.iter().filter_map(|vpc| {
            let applied = state.vpc(&vpc.id);
            Some((vpc.id.clone(), applied.or_else(|| old.get(&vpc.id))?.clone()))
        });
        let directory = Arc::new(current.collect::<BTreeMap<_, _>>());
        let vpcs = directory.values().map(|vpc| &**vpc);
        self.inner.services.publish(dns::Elsewhere::new(vpcs, &plan.peerings));
        *self.inner.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
    }

    /// A descriptor of the interface's tap for QEMU: `-netdev tap,fd=N,vhost=off`.
    ///
    /// Ethernet frames behind a `virtio_net_hdr`. The descriptor needs no privilege to be used, and
    /// goes on working when this process ends. Only one process at a time can have it.
    pub fn open_tap(&self, vpc_id: &str, interface_id: &str) -> Result<OwnedFd, Error> {
        let tap = names::tap(interface_id);
        let vpc = self.find(vpc_id)?;
        let mut machines = vpc.interfaces.iter().filter(|interface| {
            interface.node.is_none() && matches!(interface.holder, Holder::Machine(_))
        });
        if !machines.any(|interface| interface.id == interface_id) {
            return Err(Error::NotInPlan(format!("{interface_id} of {vpc_id}")));
        }
        namespace::within(&self.namespace(vpc_id), || {
            system::open_tap(&tap, true).map_err(|error| {
                if error.raw_os_error() == Some(libc::EBUSY) {
                    Error::TapBusy(interface_id.to_owned())
                } else {
                    Error::io(format!("open {tap}"))(error)
                }
            })
        })
    }

    /// A listener on 169.254.169.254:80 inside the VPC.
    ///
    /// A peer's address is that of the interface that called ([`Network::interface_of`]): the
    /// guard lets no other source through. It lives as long as the VPC: one that is removed and made
    /// again needs a new listener.
    pub fn listen_metadata(&self, vpc_id: &str) -> Result<TcpListener, Error> {
        self.find(vpc_id)?;
        namespace::within(&self.namespace(vpc_id), || {
            TcpListener::bind((names::METADATA, 80))
                .map_err(Error::io(format!("listen on {}:80 in {vpc_id}", names::METADATA)))
        })
    }

    /// A listener on an address that the VPC's namespace has for a service: of an interface
    /// endpoint, of a gateway endpoint.
    ///
    /// Like [`Network::listen_metadata`]; groups and ACLs judge who may call.
    pub fn listen_service(
        &self,
        vpc_id: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<TcpListener, Error> {
        let vpc = self.find(vpc_id)?;
        let of_interface = vpc.interfaces.iter().any(|interface| {
            matches!(interface.holder, Holder::Endpoint(_)) && interface.has(address)
        });
        let of_gateway = vpc
            .gateway_endpoints
            .iter()
            .any(|endpoint| endpoint.addresses.iter().any(|own| IpAddr::from(*own) == address));
        if !(of_interface || of_gateway) {
            return Err(Error::NotInPlan(format!("the service at {address} in {vpc_id}")));
        }
        namespace::within(&self.namespace(vpc_id), || {
            TcpListener::bind((address, port))
                .map_err(Error::io(format!("listen on {address}:{port} in {vpc_id}")))
        })
    }

    /// The interface that has a private address in a VPC.
    pub fn interface_of(&self, vpc_id: &str, source: Ipv4Addr) -> Option<Owner> {
        let vpc = self.find(vpc_id).ok()?;
        let interface = vpc.interfaces.iter().find(|i| i.has(source.into()))?;
        Some(Owner {
            interface_id: interface.id.clone(),
            instance_id: interface.instance_id()?.to_owned(),
        })
    }

    /// Whether the guest answers ARP; takes at most 2 s.
    ///
    /// The status check of an instance: its machine runs, and its system has brought its network up.
    pub fn reachable(&self, interface_id: &str) -> Result<bool, Error> {
        let found = self.directory().values().find_map(|vpc| {
            let interface = vpc.interfaces.iter().find(|i| i.id == interface_id)?;
            let subnet = vpc.subnets.iter().find(|subnet| subnet.id == interface.subnet_id)?;
            Some((vpc.id.clone(), interface.clone(), subnet.cidr))
        });
        let (vpc_id, interface, subnet) =
            found.ok_or_else(|| Error::NotInPlan(interface_id.to_owned()))?;
        namespace::within(&self.namespace(&vpc_id), || arp::answers(&interface, &subnet))
    }

    /// Removes every namespace, link, route and table with the prefix and puts settings back.
    ///
    /// Needs no running daemon.
    pub fn destroy_all(config: Config) -> Result<(), Error> {
        config.check()?;
        privilege::check()?;
        config.at_home(|| Host::new(config.clone()).destroy())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nameservers_are_read() {
        let text = "# c\nsearch x\nnameserver 10.0.0.1\n nameserver ::1\nnameserver bad\n";
        let found: Vec<String> = super::nameservers(text).iter().map(|a| a.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53"]);
    }
}
