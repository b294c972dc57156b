//! The host's part: a link to every VPC, routes to the public addresses, the way to the world.
//!
//! A public address that an interface has is routed to its VPC; the rest of the pool is
//! unreachable. What the guests send to the world leaves with the host's own address. The one
//! setting of the host that is changed, forwarding, is written down first, so that
//! [`Host::destroy`] can put it back. IPv6 blocks are routed to the VPCs that have a gateway for
//! them; they are nobody's outside, so what the guests send there takes the host's address as well.

use crate::layout::host as alone;
use crate::names::{
    HOST_ADDRESS, HOST_MAC, UPLINK, UPLINK_ADDRESS, UPLINK_ADDRESS_V6, UPLINK_MAC, host_link,
    host_table,
};
use crate::{Config, Error, command, namespace, system};
use base::network::{Plan, Target, Vpc};
use base::{Cidr, Ipv6Cidr};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARDING_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Less wanted than any route to a single address.
const POOL_METRIC: &str = "metric 4000";

/// What must be undone at the end.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Changes {
    /// Settings by path, with the value from before.
    sysctls: BTreeMap<String, String>,
    /// The pool whose unreachable route was added.
    pool: Option<String>,
}

/// [`HOST_ADDRESS`] as the source of a route.
const HOST_SOURCE: &str = " src 169.254.255.1";

#[derive(Debug)]
pub(crate) struct Host {
    config: Config,
    /// Public address, or IPv6 block of a VPC, to link; unknown until first read.
    routes: Option<BTreeMap<Cidr, String>>,
    prepared: bool,
    /// IPv6 blocks that are translated on the way out.
    translated: Option<BTreeSet<Ipv6Cidr>>,
}

/// Under which address the host itself calls a public address: the one that it has, so that a group
/// can name it; the link's own where it has none, as a laptop on a train.
fn source() -> Result<&'static str, Error> {
    let addresses = command::ip(&["-4", "-o", "address", "show", "scope", "global"])?;
    Ok(if addresses.trim().is_empty() { HOST_SOURCE } else { "" })
}

impl Host {
    pub(crate) fn new(config: Config) -> Host {
        Host { config, routes: None, prepared: false, translated: None }
    }

    fn state_file(&self) -> PathBuf {
        self.config.state_dir.join("network.json")
    }

    fn read_changes(&self) -> Result<Changes, Error> {
        let file = self.state_file();
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::Config(format!("{} is damaged: {error}; remove it", file.display()))
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Changes::default()),
            Err(error) => Err(Error::io(format!("read {}", file.display()))(error)),
        }
    }

    /// Written before the change is made: a daemon that dies in between has changed nothing that is
    /// not written down.
    fn write_changes(&self, changes: &Changes) -> Result<(), Error> {
        let file = self.state_file();
        let action = || format!("write {}", file.display());
        fs::create_dir_all(&self.config.state_dir).map_err(Error::io(action()))?;
        let text = serde_json::to_vec_pretty(changes).unwrap_or_default();
        let temporary = file.with_extension("json.new");
        fs::write(&temporary, text).map_err(Error::io(action()))?;
        fs::rename(&temporary, &file).map_err(Error::io(action()))
    }

    /// Forwarding, the pool's unreachable route, and translation on the way out.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        if self.prepared {
            return Ok(());
        }
        let pool = self.config.public_pool.to_string();
        let mut changes = self.read_changes()?;
        let old = fs::read_to_string(FORWARDING).map_err(Error::io("read ip_forward"))?;
        if old.trim() != "1" {
            changes.sysctls.entry(FORWARDING.into()).or_insert_with(|| old.trim().to_owned());
        }
        let earlier = changes.pool.replace(pool.clone()).filter(|earlier| *earlier != pool);
        self.write_changes(&changes)?;
        if old.trim() != "1" {
            fs::write(FORWARDING, "1").map_err(Error::io("switch ip_forward on"))?;
        }
        if let Some(earlier) = earlier {
            // Somebody may have removed it by hand.
            let _ = command::ip(&["route", "delete", "unreachable", &earlier]);
        }
        command::ip_batch(None, &[format!("route replace unreachable {pool} {POOL_METRIC}")])?;
        let (table, prefix) = (host_table(&self.config.name_prefix), &self.config.name_prefix);
        command::nft_batch(&format!(
            "add table ip {table}\n\
             add chain ip {table} leave {{ type nat hook postrouting priority 100; policy accept; }}\n\
             flush chain ip {table} leave\n\
             add rule ip {table} leave ip saddr {pool} oifname != \"{prefix}-*\" masquerade\n"
        ))?;
        self.prepared = true;
        Ok(())
    }

    /// Forwarding and translation of IPv6, where a VPC has any.
    fn prepare_v6(&mut self, blocks: BTreeSet<Ipv6Cidr>) -> Result<(), Error> {
        // A kernel without IPv6 has no such file.
        let Ok(old) = fs::read_to_string(FORWARDING_V6) else { return Ok(()) };
        if self.translated.as_ref() == Some(&blocks) {
            return Ok(());
        }
        if !blocks.is_empty() && old.trim() != "1" {
            let mut settings = routers_are_believed()?;
            settings.push((FORWARDING_V6.to_owned(), old.trim().to_owned(), "1"));
            let mut changes = self.read_changes()?;
            for (path, old, _) in &settings {
                changes.sysctls.entry(path.clone()).or_insert_with(|| old.clone());
            }
            self.write_changes(&changes)?;
            for (path, _, new) in settings {
                fs::write(&path, new).map_err(Error::io(format!("set {path}")))?;
            }
        }
        let (table, prefix) = (host_table(&self.config.name_prefix), &self.config.name_prefix);
        let mut batch = format!("add table ip6 {table}\ndelete table ip6 {table}\n");
        if !blocks.is_empty() {
            let list: Vec<String> = blocks.iter().map(Ipv6Cidr::to_string).collect();
            let list = list.join(", ");
            batch += &format!(
                "add table ip6 {table}\n\
                 add chain ip6 {table} leave {{ type nat hook postrouting priority 100; policy accept; }}\n\
                 add rule ip6 {table} leave ip6 saddr {{ {list} }} oifname != \"{prefix}-*\" masquerade\n"
            );
        }
        command::nft_batch(&batch)?;
        self.translated = Some(blocks);
        Ok(())
    }

    /// Makes the link between host and VPC unless both ends are there; whether it did.
    pub(crate) fn connect(&self, vpc_id: &str) -> Result<bool, Error> {
        let space = crate::names::namespace(&self.config.name_prefix, vpc_id);
        let link = host_link(&self.config.name_prefix, vpc_id);
        let here = system::links().map_err(Error::io("list links"))?.contains_key(&link);
        let there = namespace::within(&space, || {
            Ok(system::links().map_err(Error::io("list links"))?.contains_key(UPLINK))
        })?;
        let mut lines = Vec::new();
        if here && !there {
            lines.push(format!("link delete {link}"));
        }
        if there && !here {
            command::ip_batch(Some(&space), &[format!("link delete {UPLINK}")])?;
        }
        if !(here && there) {
            lines.push(format!(
                "link add name {link} address {HOST_MAC} type veth \
                 peer name {UPLINK} address {UPLINK_MAC} netns {space}"
            ));
        }
        lines.push(format!("link set {link} alias {space} up"));
        lines.push(format!("address replace {HOST_ADDRESS}/32 dev {link} scope link"));
        lines.push(format!(
            "neighbour replace {UPLINK_ADDRESS} lladdr {UPLINK_MAC} dev {link} nud permanent"
        ));
        command::ip_batch(None, &lines)?;
        Ok(!(here && there))
    }

    /// Routes exactly the public addresses and the IPv6 blocks of this node to their VPCs.
    pub(crate) fn route(&mut self, plan: &Plan) -> Result<(), Error> {
        let links = system::links().map_err(Error::io("list links"))?;
        let mut wanted = BTreeMap::new();
        let mut blocks = BTreeSet::new();
        for vpc in &plan.vpcs {
            let link = host_link(&self.config.name_prefix, &vpc.id);
            // A VPC that could not even be made has none.
            if links.contains_key(&link) {
                let here = public(vpc).chain(blocks_v6(vpc).map(Cidr::from));
                wanted.extend(here.map(|to| (to, link.clone())));
                blocks.extend(blocks_v6(vpc));
            }
        }
        self.prepare_v6(blocks)?;
        // Unknown while the kernel changes: whatever happens, the next call reads what is there.
        let current = match self.routes.take() {
            Some(routes) => routes,
            None => self.read_routes()?,
        };
        let mut lines = Vec::new();
        for (to, link) in &current {
            // With its link went the route.
            if !wanted.contains_key(to) && links.contains_key(link) {
                lines.push(format!("route delete {to} dev {link}"));
            }
        }
        let new = wanted.iter().filter(|(to, link)| current.get(*to) != Some(*link));
        let new: Vec<_> = new.collect();
        let source = if new.is_empty() { "" } else { source()? };
        for (to, link) in new {
            match to {
                Cidr::V4(_) => lines.push(format!(
                    "route replace {to} via {UPLINK_ADDRESS} dev {link} onlink{source}"
                )),
                Cidr::V6(_) => {
                    let off = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
                    fs::write(&off, "0").map_err(Error::io(format!("set {off}")))?;
                    lines.push(format!(
                        "neighbour replace {UPLINK_ADDRESS_V6} lladdr {UPLINK_MAC} dev {link} \
                         nud permanent"
                    ));
                    lines.push(format!(
                        "route replace {to} via {UPLINK_ADDRESS_V6} dev {link} onlink"
                    ));
                }
            }
        }
        command::ip_batch(None, &lines)?;
        self.routes = Some(wanted);
        Ok(())
    }

    /// Makes the next [`Host::route`] read the kernel.
    pub(crate) fn forget_routes(&mut self) {
        self.routes = None;
    }

    fn read_routes(&self) -> Result<BTreeMap<Cidr, String>, Error> {
        let start = format!("{}-", self.config.name_prefix);
        let mut routes = BTreeMap::new();
        for version in ["-4", "-6"] {
            for route in command::json("ip", &["-j", version, "route", "show"])? {
                let to = route["dst"].as_str().and_then(|text| {
                    text.parse().ok().or_else(|| Some(alone(text.parse::<IpAddr>().ok()?)))
                });
                let link = route["dev"].as_str().filter(|link| link.starts_with(&start));
                if let (Some(to), Some(link), true) = (to, link, route["protocol"] != "kernel") {
                    routes.insert(to, link.to_owned());
                }
            }
        }
        Ok(routes)
    }

    /// Undoes everything on this machine that has the prefix.
    pub(crate) fn destroy(self) -> Result<(), Error> {
        let prefix = &self.config.name_prefix;
        for space in namespace::list(prefix)? {
            namespace::remove(&space)?;
        }
        let links = system::links().map_err(Error::io("list links"))?;
        let start = format!("{prefix}-");
        let left: Vec<String> = links
            .keys()
            .filter(|name| name.starts_with(&start))
            .map(|name| format!("link delete {name}"))
            .collect();
        command::ip_batch(None, &left)?;
        let table = host_table(prefix);
        let tables = command::nft(&["list", "tables", "ip"])?;
        let stood = tables.lines().any(|line| line.trim_end() == format!("table ip {table}"));
        // Adding it first makes deleting it work whether or not it is there.
        command::nft_batch(&format!("add table ip {table}\ndelete table ip {table}\n"))?;
        command::nft_batch(&format!("add table ip6 {table}\ndelete table ip6 {table}\n"))?;
        let changes = self.read_changes()?;
        // Somebody may have removed the directory in which it was written down.
        let ours = stood.then(|| self.config.public_pool.to_string());
        let pools: BTreeSet<&String> = changes.pool.iter().chain(&ours).collect();
        for pool in pools {
            let routes = command::ip(&["route", "show", "type", "unreachable", pool])?;
            if !routes.trim().is_empty() {
                command::ip_batch(None, &[format!("route delete unreachable {pool}")])?;
            }
        }
        // Another region on this machine forwards as well: what it needs stays.
        let tables = command::nft(&["list", "tables", "ip"])?;
        if !tables.lines().any(|line| line.trim_end().ends_with("-host")) {
            // Forwarding is off before routers are believed as before: a host believes them again.
            for (path, value) in changes.sysctls.iter().rev() {
                match fs::write(path, value) {
                    // The link is gone.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    result => result.map_err(Error::io(format!("restore {path}")))?,
                }
            }
        }
        match fs::remove_file(self.state_file()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.state_file().display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// The public addresses of a VPC that are routed to it on this node.
fn public(vpc: &Vpc) -> impl Iterator<Item = Cidr> {
    let interfaces = vpc.interfaces.iter().filter(|_| vpc.internet_gateway);
    let here = interfaces.filter(|interface| interface.node.is_none());
    let addresses = here.flat_map(|interface| interface.addresses());
    addresses.filter_map(|address| Some(alone(address.public_ip?.into())))
}

/// The IPv6 blocks of a VPC, if it has a gateway for them.
fn blocks_v6(vpc: &Vpc) -> impl Iterator<Item = Ipv6Cidr> {
    let mut routes = vpc.route_tables.iter().flat_map(|table| &table.routes);
    let gateway = vpc.internet_gateway
        || routes.any(|route| route.target == Target::EgressOnlyInternetGateway);
    vpc.ipv6_cidrs.iter().copied().filter(move |_| gateway)
}

/// A host that forwards IPv6 does not listen to its router any more, and loses its own way, unless
/// it is told to: path, value and new value of each link that listens.
fn routers_are_believed() -> Result<Vec<(String, String, &'static str)>, Error> {
    let links = system::links().map_err(Error::io("list links"))?;
    let paths = links.keys().map(|link| format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"));
    let read = paths.filter_map(|path| Some((path.clone(), fs::read_to_string(&path).ok()?)));
    Ok(read
        .filter(|(_, value)| value.trim() == "1")
        .map(|(path, value)| (path, value.trim().to_owned(), "2"))
        .collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_fallback_source_is_the_address_of_the_link() {
        assert_eq!(super::HOST_SOURCE, format!(" src {}", super::HOST_ADDRESS));
    }
}
