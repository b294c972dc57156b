//! Making the kernel what a plan says.
//!
//! Level-triggered: every namespace is compared with what it was left as, or with what is found in
//! it, and the difference is changed. Each step leaves something that the next start takes up:
//!
//! ```text
//!  1  new namespaces, empty, with their packet rules       nothing passes a link that rules do not name
//!  2  missing links                                        veth pairs need both namespaces
//!  3  per namespace that changed:
//!       links up, new routing tables                       nobody is sent there yet
//!       packet rules, one transaction, with the marks      now packets take the new tables
//!       addresses, old tables, then links that go          a shorter prefix never takes over
//!  4  namespaces that go
//!  5  the host's routes to public addresses
//! ```

use crate::host::Host;
use crate::layout::{Kind, Layout};
use crate::names::{self, UPLINK};
use crate::ruleset::{Before, Ruleset};
use crate::services::{Door, Services, Sockets};
use crate::surroundings::Surroundings;
use crate::view::View;
use crate::{
    Config, Error, command, conntrack, gateway, namespace, rules, ruleset, system, vpc as place,
};
use base::network::{Plan, Vpc};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::{fs, io};

/// What is known of the kernel.
#[derive(Debug)]
pub(crate) struct State {
    pub host: Host,
    spaces: BTreeMap<String, Applied>,
    /// Apart from `spaces`: servers go on while a VPC is being repaired.
    doors: BTreeMap<String, Door>,
}

/// A namespace as it stands in the kernel.
#[derive(Clone, Debug, Default)]
struct Applied {
    number: u64,
    layout: Layout,
    ruleset: Arc<Ruleset>,
    /// Of a VPC only.
    vpc: Option<(Arc<Vpc>, Arc<Surroundings>)>,
}

/// A namespace as it is wanted.
struct Wanted {
    id: String,
    space: String,
    layout: Layout,
    ruleset: Arc<Ruleset>,
    body: Body,
}

enum Body {
    Vpc(Arc<Vpc>, Arc<Surroundings>),
    Nat,
    Transit,
}

/// On its way from one to the other.
struct Pending {
    wanted: Wanted,
    applied: Applied,
    /// Only just read from the kernel; the packet rules are those that are wanted.
    fresh: bool,
    links: BTreeSet<String>,
}

impl State {
    pub(crate) fn new(config: Config) -> State {
        State { host: Host::new(config), spaces: BTreeMap::new(), doors: BTreeMap::new() }
    }

    /// The VPC as it was applied last.
    pub(crate) fn vpc(&self, id: &str) -> Option<&Arc<Vpc>> {
        self.spaces.get(id)?.vpc.as_ref().map(|(vpc, _)| vpc)
    }

    /// Makes the kernel what the plan says. A namespace that cannot be had does not keep the others
    /// from theirs; the first error is returned.
    pub(crate) fn apply(
        &mut self,
        plan: &Plan,
        config: &Config,
        services: &Services,
    ) -> Result<(), Error> {
        self.host.prepare()?;
        let mut result = Ok(());
        let mut pending = BTreeMap::new();
        for wanted in wanted(&self.spaces, plan, &config.name_prefix) {
            match self.open(wanted) {
                Ok(entry) => {
                    pending.insert(entry.wanted.space.clone(), entry);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result = result.and(link_up(&mut pending));
        for entry in pending.into_values() {
            result = result.and(self.settle(entry, config, services));
        }
        result.and(self.remove_surplus(plan, &config.name_prefix))
    }

    /// What stands where a namespace is wanted; makes it if nothing does.
    fn open(&mut self, wanted: Wanted) -> Result<Pending, Error> {
        let Wanted { id, space, ruleset, body, .. } = &wanted;
        // Unknown while it changes: whatever happens, the next call reads what is there.
        let known = self.spaces.remove(id);
        // A namespace that somebody removed is not the one that we knew.
        let number = namespace::number(space).ok();
        let stands = match body {
            Body::Vpc(..) => self.doors.get(id).is_some_and(|door| Some(door.space) == number),
            Body::Nat | Body::Transit => true,
        };
        let known = known.filter(|known| stands && Some(known.number) == number);
        let fresh = known.is_none();
        let mut applied = match known {
            Some(applied) => applied,
            None => {
                namespace::create(space)?;
                let number = namespace::number(space)?;
                let v6 = body.has_v6();
                let layout = namespace::within(space, || {
                    set(&SETTINGS)?;
                    set(&disable_v6(!v6))?;
                    adopt_rules(ruleset)?;
                    set(body.tracking())?;
                    Layout::read()
                })?;
                Applied { number, layout, ruleset: ruleset.clone(), vpc: None }
            }
        };
        let links: BTreeSet<String> = namespace::within(space, || {
            Ok(system::links().map_err(Error::io("list links"))?.into_keys().collect())
        })?;
        applied.layout.lose(|link| links.contains(link));
        if let (Body::Vpc(vpc, _), true) = (body, fresh || !links.contains(UPLINK)) {
            let made = self.host.connect(&vpc.id)?;
            // A new link has none of the old one's.
            self.host.forget_routes();
            applied.layout.lose(|link| !made || link != UPLINK);
        }
        Ok(Pending { wanted, applied, fresh, links })
    }

    /// Third step, for one namespace whose links are there.
    fn settle(
        &mut self,
        entry: Pending,
        config: &Config,
        services: &Services,
    ) -> Result<(), Error> {
        let Pending { wanted, mut applied, fresh, .. } = entry;
        let Wanted { id, space, layout, ruleset, body } = wanted;
        let unchanged = !fresh && applied.layout == layout && applied.ruleset == ruleset;
        if let (true, Body::Vpc(vpc, around)) = (unchanged, &body) {
            let same = |(was, was_around): &(Arc<Vpc>, Arc<Surroundings>)| {
                was == vpc && was_around == around
            };
            if applied.vpc.as_ref().is_some_and(same) {
                self.spaces.insert(id, applied);
                return Ok(());
            }
        } else if unchanged {
            self.spaces.insert(id, applied);
            return Ok(());
        }
        // The other ends of links that went meanwhile.
        let links = namespace::within(&space, || system::links().map_err(Error::io("list links")))?;
        applied.layout.lose(|link| links.contains_key(link));
        let changes = applied.layout.changes(&layout, fresh);
        let v6 = body.has_v6();
        namespace::within(&space, || {
            if v6 {
                set(&disable_v6(false))?;
            }
            changes.before.run()?;
            if !fresh {
                command::nft_batch(&ruleset.batch(Before::Known(&applied.ruleset)))?;
            }
            changes.after.run()?;
            remove_links_here(&changes.surplus)?;
            if let Body::Vpc(vpc, around) = &body {
                if let Some((_, text)) = place::stations(around) {
                    command::nft_batch(&text)?;
                }
                if let Some((before, _)) = &applied.vpc {
                    conntrack::forget(&moved(before, vpc))?;
                }
            }
            if v6 { Ok(()) } else { set(&disable_v6(true)) }
        })?;
        applied.layout = layout;
        applied.ruleset = ruleset;
        if let Body::Vpc(vpc, around) = body {
            self.serve(&vpc, &around, &space, applied.number, config, services)?;
            applied.vpc = Some((vpc, around));
        }
        self.spaces.insert(id, applied);
        Ok(())
    }

    fn serve(
        &mut self,
        vpc: &Vpc,
        around: &Surroundings,
        space: &str,
        number: u64,
        config: &Config,
        services: &Services,
    ) -> Result<(), Error> {
        let open = self.doors.get(&vpc.id).is_some_and(|door| door.space == number);
        let (links, sockets) = namespace::within(space, || {
            let links = system::links().map_err(Error::io("list links"))?;
            let sockets = if open { None } else { Some(Sockets::bind(vpc)?) };
            Ok((links, sockets))
        })?;
        let view = View::new(vpc, config.public_pool, &links, around.mtu);
        if let Some(sockets) = sockets {
            let door = services.open(number, sockets, view);
            let door = door.map_err(Error::io(format!("serve DHCP and DNS in {}", vpc.id)))?;
            self.doors.insert(vpc.id.clone(), door);
        } else if let Some(door) = self.doors.get(&vpc.id) {
            door.show(view);
        }
        Ok(())
    }

    fn remove_surplus(&mut self, plan: &Plan, prefix: &str) -> Result<(), Error> {
        let vpcs = plan.vpcs.iter().map(|vpc| names::namespace(prefix, &vpc.id));
        let gateways = gateway::all(plan, prefix);
        let gateways = gateways.iter().map(|gateway| names::namespace(prefix, &gateway.id));
        let wanted: BTreeSet<String> = vpcs.chain(gateways).collect();
        self.spaces.retain(|id, _| wanted.contains(&names::namespace(prefix, id)));
        self.doors.retain(|id, _| wanted.contains(&names::namespace(prefix, id)));
        let mut result = Ok(());
        for space in namespace::list(prefix)? {
            if !wanted.contains(&space) {
                result = result.and(namespace::remove(&space));
                self.host.forget_routes();
            }
        }
        result
    }
}

/// Every namespace of the plan. The rules of a VPC that is as it was are not compiled again.
fn wanted(spaces: &BTreeMap<String, Applied>, plan: &Plan, prefix: &str) -> Vec<Wanted> {
    let mut list = Vec::new();
    for vpc in &plan.vpcs {
        let around = Arc::new(Surroundings::of(plan, vpc));
        let before = spaces.get(&vpc.id).and_then(|applied| {
            let (was, was_around) = applied.vpc.as_ref()?;
            (**was == *vpc && *was_around == around).then_some((was, &applied.ruleset))
        });
        let (vpc, ruleset) = match before {
            Some((vpc, ruleset)) => (vpc.clone(), ruleset.clone()),
            None => (Arc::new(vpc.clone()), Arc::new(rules::compile(vpc, &around))),
        };
        list.push(Wanted {
            id: vpc.id.clone(),
            space: names::namespace(prefix, &vpc.id),
            layout: place::layout(plan, &vpc, &around, prefix),
            ruleset,
            body: Body::Vpc(vpc, around),
        });
    }
    for gateway in gateway::all(plan, prefix) {
        list.push(Wanted {
            space: names::namespace(prefix, &gateway.id),
            id: gateway.id,
            layout: gateway.layout,
            ruleset: Arc::new(gateway.ruleset),
            body: if gateway.nat { Body::Nat } else { Body::Transit },
        });
    }
    list
}

/// A plan in the kernel's terms, without the kernel: for measuring.
#[derive(Debug, Default)]
pub struct Compiled(BTreeMap<String, Applied>);

impl Compiled {
    /// Compiles a plan, what is as it was in `before` but for its layout excepted.
    pub fn new(plan: &Plan, prefix: &str, before: &Compiled) -> Compiled {
        let spaces = wanted(&before.0, plan, prefix).into_iter().map(|wanted| {
            let Wanted { id, layout, ruleset, body, .. } = wanted;
            let vpc = match body {
                Body::Vpc(vpc, around) => Some((vpc, around)),
                Body::Nat | Body::Transit => None,
            };
            (id, Applied { number: 0, layout, ruleset, vpc })
        });
        Compiled(spaces.collect())
    }

    /// The lines that lead from `before` to this.
    pub fn difference(&self, before: &Compiled) -> usize {
        let nothing = Applied::default();
        let lines = self.0.iter().map(|(id, now)| {
            let was = before.0.get(id).unwrap_or(&nothing);
            let rules = now.ruleset.batch(Before::Known(&was.ruleset));
            rules.lines().count() + was.layout.changes(&now.layout, false).lines()
        });
        lines.sum()
    }
}

impl Body {
    fn has_v6(&self) -> bool {
        match self {
            Body::Vpc(vpc, _) => !vpc.ipv6_cidrs.is_empty(),
            Body::Nat => false,
            Body::Transit => true,
        }
    }

    fn tracking(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Body::Vpc(..) => &TRACKING,
            Body::Nat => &gateway::NAT_TRACKING,
            Body::Transit => &[],
        }
    }
}

/// Puts the rules in place of those that are found in the caller's namespace.
fn adopt_rules(ruleset: &Ruleset) -> Result<(), Error> {
    let listing = command::nft(&["-j", "-t", "list", "ruleset"])?;
    let found = ruleset::parse_found(&listing).map_err(|error| Error::Tool {
        command: "nft -j -t list ruleset".into(),
        message: format!("answered with text that is not JSON: {error}"),
    })?;
    command::nft_batch(&ruleset.batch(Before::Found(&found)))
}

fn remove_links(space: &str, names: &[String]) -> Result<(), Error> {
    namespace::within(space, || remove_links_here(names))
}

/// From the caller's namespace. Half of a pair goes with the other one.
fn remove_links_here(names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let links = system::links().map_err(Error::io("list links"))?;
    let there = names.iter().filter(|name| links.contains_key(*name));
    let lines: Vec<String> = there.map(|name| format!("link delete {name}")).collect();
    command::ip_batch(None, &lines)
}

/// Second step: makes every link that is not there.
fn link_up(pending: &mut BTreeMap<String, Pending>) -> Result<(), Error> {
    let mut result = Ok(());
    let mut pairs = Vec::new();
    for (space, entry) in pending.iter_mut() {
        let Pending { wanted, applied, links, .. } = entry;
        for (name, link) in &wanted.layout.links {
            match &link.kind {
                Kind::Uplink | Kind::Found { .. } => {}
                Kind::Tap => {
                    let known = applied.layout.links.get(name).map(|link| &link.kind);
                    let other = known.is_some_and(|known| !known.does_for(&link.kind));
                    let missing = other || !links.contains(name);
                    let fresh = known != Some(&link.kind);
                    if other {
                        result = result.and(remove_links(space, std::slice::from_ref(name)));
                        applied.layout.lose(|link| link != name);
                    }
                    if missing || fresh {
                        result = result.and(make_tap(space, name, missing));
                    }
                }
                Kind::Fabric { vni, address } => {
                    let was = applied.layout.links.get(name).map(|link| &link.kind);
                    if was != Some(&link.kind) {
                        let made = make_fabric(space, name, *vni, *address, links.contains(name));
                        result = result.and(made);
                        applied.layout.lose(|other| other != name);
                    }
                }
                Kind::Pair { space: other, link: end, mac } => {
                    let one = ((space.clone(), name.clone()), link.mac.clone());
                    let other = ((other.clone(), end.clone()), mac.clone());
                    // Both sides name it; one makes it.
                    pairs.push(if one.0 < other.0 { (one, other) } else { (other, one) });
                }
            }
        }
    }
    pairs.sort();
    pairs.dedup_by(|one, other| one.0.0 == other.0.0 && one.1.0 == other.1.0);
    for (one, other) in pairs {
        result = result.and(make_pair(pending, &one, &other));
    }
    result
}

fn make_tap(space: &str, name: &str, missing: bool) -> Result<(), Error> {
    namespace::within(space, || {
        if missing {
            system::open_tap(name, true).map_err(Error::io(format!("make {name}")))?;
        }
        // At once; the kernel's default is a random time below 0.8 s, and namespaces have no default
        // of their own to change.
        set(&[(&format!("ipv4/neigh/{name}/proxy_delay"), "0")])
    })
}

/// The outer packets are the caller's namespace's, the inner ones those of `space`.
fn make_fabric(
    space: &str,
    name: &str,
    vni: u32,
    address: std::net::Ipv4Addr,
    replace: bool,
) -> Result<(), Error> {
    if replace {
        command::ip_batch(Some(space), &[format!("link delete {name}")])?;
    }
    command::ip_batch(
        None,
        &[format!(
            "link add name {name} netns {space} type vxlan id {vni} local {address} \
             dstport {VXLAN_PORT} nolearning"
        )],
    )
}

/// IANA's.
const VXLAN_PORT: u16 = 4789;

type End = ((String, String), String);

fn make_pair(pending: &mut BTreeMap<String, Pending>, one: &End, other: &End) -> Result<(), Error> {
    let there = |(space, name): &(String, String)| {
        let entry = pending.get(space)?;
        let known = entry.applied.layout.links.get(name);
        let wanted = entry.wanted.layout.links.get(name);
        let right = known.zip(wanted).is_some_and(|(a, b)| a.kind.does_for(&b.kind));
        Some(right && entry.links.contains(name))
    };
    let ends = (there(&one.0), there(&other.0));
    if ends == (Some(true), Some(true)) {
        return Ok(());
    }
    // The other end of half a pair is in a namespace that somebody removed, or it belongs to
    // another pair now.
    for ((space, name), _) in [one, other] {
        let Some(entry) = pending.get_mut(space) else { continue };
        if entry.links.remove(name) {
            remove_links(space, std::slice::from_ref(name))?;
        }
        entry.applied.layout.lose(|link| link != name);
    }
    if ends.0.is_none() || ends.1.is_none() {
        // That one could not be had; its error is told already. This side does without.
        for ((space, name), _) in [one, other] {
            if let Some(entry) = pending.get_mut(space) {
                entry.wanted.layout.lose(|link| link != name);
            }
        }
        return Ok(());
    }
    let (((space, name), mac), ((far, far_name), far_mac)) = (one, other);
    command::ip_batch(
        None,
        &[format!(
            "link add name {name} address {mac} netns {space} type veth \
             peer name {far_name} address {far_mac} netns {far}"
        )],
    )
}

/// Addresses, private and public, that an interface had and has no more.
fn moved(before: &Vpc, now: &Vpc) -> BTreeSet<IpAddr> {
    let pairs = |vpc: &Vpc| -> BTreeSet<(IpAddr, String)> {
        let interfaces = vpc.interfaces.iter();
        interfaces
            .flat_map(|interface| {
                let own =
                    interface.addresses().flat_map(|own| [Some(own.private_ip), own.public_ip]);
                let prefixes = interface.prefixes.iter();
                let inside = prefixes.flat_map(|prefix| (0..prefix.size()).map(|n| prefix.nth(n)));
                let v4 = own.chain(inside).flatten().map(IpAddr::from);
                let all = v4.chain(interface.ipv6.iter().copied().map(IpAddr::from));
                all.map(|address| (address, interface.id.clone())).collect::<Vec<_>>()
            })
            .collect()
    };
    pairs(before).difference(&pairs(now)).map(|(address, _)| *address).collect()
}

/// Made before the namespace has links, which inherit them.
const SETTINGS: [(&str, &str); 18] = [
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
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    // Nobody but us gives out addresses: a router has its own at once.
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/addr_gen_mode", "0"),
];

fn disable_v6(disable: bool) -> [(&'static str, &'static str); 2] {
    let value = if disable { "1" } else { "0" };
    [("ipv6/conf/all/disable_ipv6", value), ("ipv6/conf/default/disable_ipv6", value)]
}

/// ConnectionTrackingSpecification's defaults, and 600 s for what has no ports. They exist once the
/// first rule has brought connection tracking.
const TRACKING: [(&str, &str); 4] = [
    ("netfilter/nf_conntrack_tcp_timeout_established", "432000"),
    ("netfilter/nf_conntrack_udp_timeout", "30"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "180"),
    ("netfilter/nf_conntrack_generic_timeout", "600"),
];

/// Writes settings of the namespace in which the caller's thread stands.
pub(crate) fn set(settings: &[(&str, &str)]) -> Result<(), Error> {
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
