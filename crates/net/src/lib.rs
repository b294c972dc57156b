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
//! What this crate deliberately does not do: decide anything (addresses and rules come compiled in
//! the plan), speak AWS, run machines, answer instance metadata (it only opens the door with
//! [`Network::listen_metadata`]), or IPv6: guests have none.

mod advertisement;
mod arp;
mod check;
mod command;
mod conntrack;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
mod error;
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
mod system;
mod view;

use base::Ipv4Cidr;
use base::network::{Plan, Vpc};
pub use error::Error;
use host::Host;
use layout::Layout;
use ruleset::{Before, Ruleset};
use services::{Door, Services, Sockets};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::{fs, io};
use view::View;

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

#[derive(Debug)]
struct State {
    host: Host,
    vpcs: BTreeMap<String, Applied>,
    /// Apart from `vpcs`: servers go on while a VPC is being repaired.
    doors: BTreeMap<String, Door>,
}

/// A VPC as it stands in the kernel.
#[derive(Debug)]
struct Applied {
    vpc: Arc<Vpc>,
    ruleset: Ruleset,
    layout: Layout,
}

impl Network {
    /// Checks privileges and tools and starts the thread that answers DHCP and DNS.
    pub fn start(config: Config) -> Result<Network, Error> {
        config.check()?;
        privilege::check()?;
        let services = Services::start(&config.upstream_dns)?;
        let state = State {
            host: Host::new(config.clone()),
            vpcs: BTreeMap::new(),
            doors: BTreeMap::new(),
        };
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
        let mut state = self.state();
        state.host.prepare()?;
        let mut result = self.remove_surplus(plan, &mut state);
        for vpc in &plan.vpcs {
            // A namespace that somebody removed is not the one that we knew.
            let number = namespace::number(&self.namespace(&vpc.id)).ok();
            let stands = state.doors.get(&vpc.id).is_some_and(|door| Some(door.space) == number);
            let before = state.vpcs.remove(&vpc.id).filter(|_| stands);
            if before.as_ref().is_some_and(|applied| *applied.vpc == *vpc) {
                state.vpcs.extend(before.map(|applied| (vpc.id.clone(), applied)));
                continue;
            }
            match self.apply_vpc(&mut state, before, vpc) {
                Ok(applied) => {
                    state.vpcs.insert(vpc.id.clone(), applied);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.publish(plan, &state);
        result.and(self.route(plan, &mut state.host))
    }

    /// A VPC that could not be changed is still what it was.
    fn publish(&self, plan: &Plan, state: &State) {
        let old = self.directory();
        let current = plan.vpcs.iter().filter_map(|vpc| {
            let applied = state.vpcs.get(&vpc.id).map(|applied| &applied.vpc);
            Some((vpc.id.clone(), applied.or_else(|| old.get(&vpc.id))?.clone()))
        });
        let directory = Arc::new(current.collect::<BTreeMap<_, _>>());
        let vpcs = directory.values().map(|vpc| &**vpc);
        self.inner.services.publish(dns::Elsewhere::new(vpcs, &plan.peerings));
        *self.inner.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
    }

    fn route(&self, plan: &Plan, host: &mut Host) -> Result<(), Error> {
        let links = system::links().map_err(Error::io("list links"))?;
        let routes = plan.vpcs.iter().flat_map(|vpc| {
            let link = names::host_link(&self.inner.config.name_prefix, &vpc.id);
            // A VPC that could not even be made has none.
            let public = vpc.interfaces.iter().filter(|_| links.contains_key(&link));
            let public = public.filter_map(|interface| interface.public_ip).collect::<Vec<_>>();
            public.into_iter().map(move |address| (address, link.clone()))
        });
        host.route(routes.collect())
    }

    fn remove_surplus(&self, plan: &Plan, state: &mut State) -> Result<(), Error> {
        let wanted: BTreeSet<String> =
            plan.vpcs.iter().map(|vpc| self.namespace(&vpc.id)).collect();
        state.vpcs.retain(|id, _| wanted.contains(&self.namespace(id)));
        state.doors.retain(|id, _| wanted.contains(&self.namespace(id)));
        let mut result = Ok(());
        for space in namespace::list(&self.inner.config.name_prefix)? {
            if !wanted.contains(&space) {
                result = result.and(namespace::remove(&space));
                state.host.forget_routes();
            }
        }
        result
    }

    fn apply_vpc(
        &self,
        state: &mut State,
        before: Option<Applied>,
        vpc: &Vpc,
    ) -> Result<Applied, Error> {
        let space = self.namespace(&vpc.id);
        if before.is_none() {
            namespace::create(&space)?;
            namespace::within(&space, || set(&SETTINGS))?;
            state.host.connect(&vpc.id)?;
            // A new link has none of the old one's.
            state.host.forget_routes();
        }
        let number = namespace::number(&space)?;
        let open = state.doors.get(&vpc.id).is_some_and(|door| door.space == number);
        let (ruleset, layout) = (rules::compile(vpc), layout::wanted(vpc));
        let (links, sockets) = namespace::within(&space, || {
            let fresh = before.is_none();
            let current = match &before {
                Some(applied) => {
                    command::nft_batch(&ruleset.batch(Before::Known(&applied.ruleset)))?;
                    applied.layout.clone()
                }
                None => {
                    let listing = command::nft(&["-j", "-t", "list", "ruleset"])?;
                    let found = ruleset::parse_found(&listing).map_err(|error| Error::Tool {
                        command: "nft -j -t list ruleset".into(),
                        message: format!("answered with text that is not JSON: {error}"),
                    })?;
                    command::nft_batch(&ruleset.batch(Before::Found(&found)))?;
                    set(&TRACKING)?;
                    Layout::read()?
                }
            };
            command::ip_batch(None, &current.surplus(&layout))?;
            for tap in &layout.taps {
                let made = !current.taps.contains(tap);
                if made {
                    system::open_tap(tap, true).map_err(Error::io(format!("make {tap}")))?;
                }
                if made || fresh {
                    // At once; the kernel's default is a random time below 0.8 s, and namespaces
                    // have no default of their own to change.
                    set(&[(&format!("ipv4/neigh/{tap}/proxy_delay"), "0")])?;
                }
            }
            command::ip_batch(None, &current.changes(&layout, fresh))?;
            if let Some(before) = &before {
                conntrack::forget(&moved(&before.vpc, vpc))?;
            }
            let links = system::links().map_err(Error::io("list links"))?;
            let sockets = if open { None } else { Some(Sockets::bind(vpc)?) };
            Ok((links, sockets))
        })?;
        let view = View::new(vpc, self.inner.config.public_pool, &links, 1500);
        if let Some(sockets) = sockets {
            let door = self.inner.services.open(number, sockets, view);
            let door = door.map_err(Error::io(format!("serve DHCP and DNS in {}", vpc.id)))?;
            state.doors.insert(vpc.id.clone(), door);
        } else if let Some(door) = state.doors.get(&vpc.id) {
            door.show(view);
        }
        Ok(Applied { vpc: Arc::new(vpc.clone()), ruleset, layout })
    }

    /// A descriptor of the interface's tap for QEMU: `-netdev tap,fd=N,vhost=off`.
    ///
    /// Ethernet frames behind a `virtio_net_hdr`. The descriptor needs no privilege to be used, and
    /// goes on working when this process ends. Only one process at a time can have it.
    pub fn open_tap(&self, vpc_id: &str, interface_id: &str) -> Result<OwnedFd, Error> {
        let tap = names::tap(interface_id);
        let vpc = self.find(vpc_id)?;
        if !vpc.interfaces.iter().any(|interface| interface.id == interface_id) {
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
        Host::new(config).destroy()
    }
}

/// Addresses, private and public, that an interface had and has no more.
fn moved(before: &Vpc, now: &Vpc) -> BTreeSet<Ipv4Addr> {
    let pairs = |vpc: &Vpc| -> BTreeSet<(Ipv4Addr, String)> {
        let interfaces = vpc.interfaces.iter();
        interfaces
            .flat_map(|interface| {
                let owner = interface.id.clone();
                let addresses = [Some(interface.private_ip), interface.public_ip];
                addresses.into_iter().flatten().map(move |address| (address, owner.clone()))
            })
            .collect()
    };
    pairs(before).difference(&pairs(now)).map(|(address, _)| *address).collect()
}

/// Made before the namespace has links, which inherit them.
const SETTINGS: [(&str, &str); 11] = [
    ("ipv4/ip_forward", "1"),
    // The namespace answers for everybody who has an address.
    ("ipv4/conf/default/proxy_arp", "1"),
    // Sources are checked by the guard, which knows more.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];

/// ConnectionTrackingSpecification's defaults, and 600 s for what has no ports. They exist once the
/// first rule has brought connection tracking.
const TRACKING: [(&str, &str); 4] = [
    ("netfilter/nf_conntrack_tcp_timeout_established", "432000"),
    ("netfilter/nf_conntrack_udp_timeout", "30"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "180"),
    ("netfilter/nf_conntrack_generic_timeout", "600"),
];

/// Writes settings of the namespace in which the caller's thread stands.
fn set(settings: &[(&str, &str)]) -> Result<(), Error> {
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        match fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(Error::io(format!("set {path}")))?,
        }
    }
    Ok(())
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
