//! Links, addresses, routes, rules and neighbours of one namespace as a value, and the `ip` lines
//! that turn one state into another.
//!
//! The router knows the hardware address of every guest, so it never asks and can never be told a
//! lie. A change has three parts: what may be made while the old packet rules still judge (links and
//! the tables that nobody is sent to yet), then — between them, by the caller — the packet rules
//! themselves, then the rest and what goes.

use crate::names::{LINK_GROUP, UPLINK, UPLINK_ADDRESS};
use crate::{Error, command};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kernel's main routing table.
pub(crate) const MAIN: u32 = 254;
/// The kernel's table of the namespace's own addresses.
pub(crate) const LOCAL: u32 = 255;

/// What a namespace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub links: BTreeMap<String, Link>,
    /// On `lo`, each alone in its prefix.
    pub addresses: BTreeSet<IpAddr>,
    /// By table and destination.
    pub routes: BTreeMap<(u32, Cidr), Route>,
    /// Which table is asked when.
    pub rules: BTreeSet<Rule>,
    /// Permanent ones, by link and address.
    pub neighbours: BTreeMap<(String, IpAddr), String>,
    /// By VXLAN link and hardware address: the node that has it.
    pub stations: BTreeMap<(String, String), Ipv4Addr>,
}

/// A link other than `lo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub kind: Kind,
    pub mac: String,
    pub mtu: u16,
}

/// What a link is and how it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The VPC's end of the link to the host, which the host's part makes.
    Uplink,
    /// A machine opens it.
    Tap,
    /// One end of a veth pair; the other one is there.
    Pair { space: String, link: String, mac: String },
    /// To the other nodes: VXLAN with its outer packets in the host's namespace.
    Fabric { vni: u32, address: Ipv4Addr },
    /// Another process made it: the kernel's word for what it is, and its alias.
    Found { what: String, alias: String },
}

impl Kind {
    /// Whether a link that is this does for one that is to be `wanted`.
    pub(crate) fn does_for(&self, wanted: &Kind) -> bool {
        match (self, wanted) {
            (Kind::Found { .. }, Kind::Uplink) => true,
            (Kind::Found { what, .. }, Kind::Tap) => what == "tun",
            (Kind::Found { what, alias }, Kind::Pair { .. }) => {
                what == "veth" && Some(alias) == wanted.alias().as_ref()
            }
            (this, wanted) => this == wanted,
        }
    }

    /// Written on each end of a pair: where the other one is. Two ends with the right names need
    /// not be of one pair.
    fn alias(&self) -> Option<String> {
        match self {
            Kind::Pair { space, link, .. } => Some(format!("{space}/{link}")),
            _ => None,
        }
    }
}

/// A route without its destination and table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// Word before the destination: `blackhole `, `throw ` or nothing.
    pub kind: &'static str,
    /// Words after it.
    pub rest: String,
    /// The link, whose end is the end of the route as well.
    pub link: Option<String>,
}

impl Route {
    pub(crate) fn blackhole() -> Route {
        Route { kind: "blackhole ", ..Route::default() }
    }

    /// As if this table had nothing there.
    pub(crate) fn throw() -> Route {
        Route { kind: "throw ", ..Route::default() }
    }

    pub(crate) fn on(link: &str) -> Route {
        Route { kind: "", rest: format!("dev {link}"), link: Some(link.to_owned()) }
    }

    /// By a next hop whose neighbour entry is permanent.
    pub(crate) fn via(hop: impl Into<IpAddr>, link: &str) -> Route {
        let rest = format!("via {} dev {link} onlink", hop.into());
        Route { kind: "", rest, link: Some(link.to_owned()) }
    }
}

/// A line of `ip rule`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub v6: bool,
    pub priority: u32,
    pub mark: Option<u32>,
    pub input: Option<String>,
    pub table: u32,
}

impl Rule {
    /// The same for both versions of IP.
    pub(crate) fn both(
        priority: u32,
        mark: Option<u32>,
        input: Option<&str>,
        table: u32,
    ) -> [Rule; 2] {
        [false, true].map(|v6| Rule { v6, priority, mark, input: input.map(str::to_owned), table })
    }

    fn words(&self) -> String {
        let mark = self.mark.map(|mark| format!("fwmark {mark} ")).unwrap_or_default();
        let input = self.input.as_ref().map(|link| format!("iif {link} ")).unwrap_or_default();
        format!("{mark}{input}lookup {} priority {}", self.table, self.priority)
    }
}

/// A prefix that holds one address.
pub(crate) fn host(address: IpAddr) -> Cidr {
    match address {
        IpAddr::V4(address) => Ipv4Cidr::containing(address, 32).into(),
        IpAddr::V6(address) => Ipv6Cidr::containing(address, 128).into(),
    }
}

/// Both worlds.
pub(crate) fn everything() -> [Cidr; 2] {
    [
        Ipv4Cidr::containing(Ipv4Addr::UNSPECIFIED, 0).into(),
        Ipv6Cidr::containing(Ipv6Addr::UNSPECIFIED, 0).into(),
    ]
}

/// Lines for the tools, in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    lines: Vec<String>,
    rules: [Vec<String>; 2],
    stations: Vec<String>,
}

impl Batch {
    /// In the namespace in which the caller's thread stands.
    pub(crate) fn run(&self) -> Result<(), Error> {
        command::bridge_batch(&self.stations)?;
        command::ip_batch(None, &self.lines)?;
        command::ip_rule_batch("-4", &self.rules[0])?;
        command::ip_rule_batch("-6", &self.rules[1])
    }
}

/// From one layout to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Before the packet rules change: changes the way of no packet that is allowed.
    pub before: Batch,
    /// After them.
    pub after: Batch,
    /// Links that go at the very end, so that no packet takes a shorter prefix meanwhile.
    pub surplus: Vec<String>,
}

impl Changes {
    /// How much is to be done.
    pub(crate) fn lines(&self) -> usize {
        let batch = |batch: &Batch| {
            batch.lines.len()
                + batch.stations.len()
                + batch.rules.iter().map(Vec::len).sum::<usize>()
        };
        batch(&self.before) + batch(&self.after) + self.surplus.len()
    }
}

impl Layout {
    /// Reads the namespace in which the caller's thread stands.
    ///
    /// What is found is never equal to what is wanted, so everything is put in place again; only
    /// what must go is exact.
    pub(crate) fn read() -> Result<Layout, Error> {
        let mut layout = Layout::default();
        layout.read_links()?;
        for version in ["-4", "-6"] {
            for route in json(&["-j", version, "route", "show", "table", "all"])? {
                let table = table_of(&route["table"]);
                let destination = destination(&route["dst"], version == "-6");
                if route["protocol"] == "kernel" || table == Some(LOCAL) {
                    continue;
                }
                if let (Some(table), Some(destination)) = (table, destination) {
                    let link = route["dev"].as_str().filter(|link| *link != "lo");
                    let link = link.map(str::to_owned);
                    let route = Route { kind: "?", rest: String::new(), link };
                    layout.routes.insert((table, destination), route);
                }
            }
            for rule in json(&["-j", version, "rule", "show"])? {
                let priority = rule["priority"].as_u64().and_then(|n| u32::try_from(n).ok());
                let table = rule["table"].as_str().and_then(number_of_table);
                let (Some(priority), Some(table)) = (priority, table) else { continue };
                // The kernel's own.
                if priority >= 32766 {
                    continue;
                }
                let mark = rule["fwmark"]
                    .as_str()
                    .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
                let input = rule["iif"].as_str().map(str::to_owned);
                layout.rules.insert(Rule { v6: version == "-6", priority, mark, input, table });
            }
        }
        for link in json(&["-j", "address", "show", "dev", "lo"])? {
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let local = address["local"].as_str().and_then(|text| text.parse().ok());
                layout.addresses.extend(local.filter(|address: &IpAddr| !address.is_loopback()));
            }
        }
        for neighbour in json(&["-j", "neighbour", "show", "nud", "permanent"])? {
            let address = neighbour["dst"].as_str().and_then(|text| text.parse().ok());
            if let (Some(link), Some(address)) = (neighbour["dev"].as_str(), address) {
                layout.neighbours.insert((link.to_owned(), address), String::new());
            }
        }
        Ok(layout)
    }

    fn read_links(&mut self) -> Result<(), Error> {
        for link in json(&["-j", "-d", "link", "show"])? {
            let Some(name) = link["ifname"].as_str().filter(|name| is_ours(name)) else {
                continue;
            };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let data = &link["linkinfo"]["info_data"];
            let vni = data["id"].as_u64().and_then(|id| u32::try_from(id).ok());
            let address = data["local"].as_str().and_then(|text| text.parse().ok());
            let what = text(&link["linkinfo"]["info_kind"]);
            let kind = match (vni, address) {
                (Some(vni), Some(address)) if what == "vxlan" => Kind::Fabric { vni, address },
                _ => Kind::Found { what, alias: text(&link["ifalias"]) },
            };
            self.links.insert(name.to_owned(), Link { kind, mac: String::new(), mtu: 0 });
        }
        if !self.links.keys().any(|name| name.starts_with("vx")) {
            return Ok(());
        }
        for station in command::json("bridge", &["-j", "fdb", "show"])? {
            let words = (station["ifname"].as_str(), station["mac"].as_str());
            let node = station["dst"].as_str().and_then(|text| text.parse().ok());
            if let ((Some(link), Some(mac)), Some(node)) = (words, node) {
                self.stations.insert((link.to_owned(), mac.to_owned()), node);
            }
        }
        Ok(())
    }

    /// Forgets links that are not there, with all that went with them. Says whether there were any.
    pub(crate) fn lose(&mut self, is_there: impl Fn(&str) -> bool) -> bool {
        let before = self.links.len();
        self.links.retain(|name, _| is_there(name));
        if self.links.len() == before {
            return false;
        }
        self.routes.retain(|_, route| route.link.as_deref().is_none_or(&is_there));
        self.neighbours.retain(|(link, _), _| is_there(link));
        self.stations.retain(|(link, _), _| is_there(link));
        true
    }

    /// What turns this into `wanted`. `fresh`: this was read from the kernel, where only what must
    /// go is known for sure.
    pub(crate) fn changes(&self, wanted: &Layout, fresh: bool) -> Changes {
        let mut changes = Changes::default();
        self.make(wanted, fresh, &mut changes);
        self.remove(wanted, &mut changes);
        changes
    }

    fn make(&self, wanted: &Layout, fresh: bool, changes: &mut Changes) {
        let Changes { before, after, .. } = changes;
        if fresh {
            before.lines.push("link set lo up".into());
        }
        if wanted.links.contains_key(UPLINK) && (fresh || !self.links.contains_key(UPLINK)) {
            let address = format!("{UPLINK_ADDRESS}/32 dev {UPLINK} scope link");
            before.lines.push(format!("address replace {address}"));
        }
        for (name, link) in &wanted.links {
            if fresh || self.links.get(name) != Some(link) {
                let Link { mac, mtu, .. } = link;
                before
                    .lines
                    .push(format!("link set {name} address {mac} mtu {mtu} group {LINK_GROUP}"));
                before.lines.push(format!("link set {name} up"));
            }
        }
        for (key, mac) in &wanted.neighbours {
            if fresh || self.neighbours.get(key) != Some(mac) {
                let (link, address) = key;
                before.lines.push(format!(
                    "neighbour replace {address} lladdr {mac} dev {link} nud permanent"
                ));
            }
        }
        for (key, node) in &wanted.stations {
            if fresh || self.stations.get(key) != Some(node) {
                let (link, mac) = key;
                before.stations.push(format!("fdb replace {mac} dev {link} dst {node} self"));
            }
        }
        for ((table, destination), route) in &wanted.routes {
            if fresh || self.routes.get(&(*table, *destination)) != Some(route) {
                let Route { kind, rest, .. } = route;
                // The tables have contents that never change; main is where the addresses are.
                let part = if *table == MAIN { &mut *after } else { &mut *before };
                let text = text(destination);
                part.lines.push(format!("route replace {kind}{text} {rest} table {table}"));
            }
        }
        for rule in wanted.rules.difference(&self.rules) {
            before.rules[usize::from(rule.v6)].push(format!("rule add {}", rule.words()));
        }
        for address in wanted.addresses.iter().filter(|a| fresh || !self.addresses.contains(a)) {
            let quick = if address.is_ipv6() { " nodad" } else { "" };
            after.lines.push(format!("address replace {} dev lo{quick}", host(*address)));
        }
    }

    fn remove(&self, wanted: &Layout, changes: &mut Changes) {
        let Changes { after, surplus, .. } = changes;
        for rule in self.rules.difference(&wanted.rules) {
            after.rules[usize::from(rule.v6)].push(format!("rule delete {}", rule.words()));
        }
        // What hangs on a link goes with it.
        let stays = |link: &str| wanted.links.contains_key(link);
        for key in self.routes.keys().filter(|key| !wanted.routes.contains_key(*key)) {
            let link = self.routes[key].link.as_deref();
            if link.is_none_or(stays) {
                after.lines.push(format!("route delete {} table {}", text(&key.1), key.0));
            }
        }
        for address in self.addresses.difference(&wanted.addresses) {
            after.lines.push(format!("address delete {} dev lo", host(*address)));
        }
        for key in self.neighbours.keys().filter(|key| !wanted.neighbours.contains_key(*key)) {
            if stays(&key.0) {
                after.lines.push(format!("neighbour delete {} dev {}", key.1, key.0));
            }
        }
        for key in self.stations.keys().filter(|key| !wanted.stations.contains_key(*key)) {
            if stays(&key.0) {
                after.stations.push(format!("fdb delete {} dev {} self", key.1, key.0));
            }
        }
        let gone = self.links.keys().filter(|name| !stays(name));
        surplus.extend(gone.cloned());
    }
}

/// Whether a name is one of those that we give to links inside of namespaces.
pub(crate) fn is_ours(name: &str) -> bool {
    name == UPLINK
        || name == crate::names::GATEWAY_LINK
        || ["tap", "pcx", "tgw", "att", "vx"].iter().any(|start| name.starts_with(start))
}

/// `ip` takes `default` for a word of IPv4 unless told otherwise.
fn text(destination: &Cidr) -> String {
    destination.to_string()
}

fn destination(value: &Value, v6: bool) -> Option<Cidr> {
    let text = value.as_str()?;
    if text == "default" {
        return Some(everything()[usize::from(v6)]);
    }
    text.parse().ok().or_else(|| Some(host(text.parse().ok()?)))
}

fn number_of_table(text: &str) -> Option<u32> {
    match text {
        "main" => Some(MAIN),
        "local" => Some(LOCAL),
        "default" => Some(253),
        number => number.parse().ok(),
    }
}

/// `ip` leaves the main table out.
fn table_of(value: &Value) -> Option<u32> {
    value.as_str().map_or(Some(MAIN), number_of_table)
}

fn json(arguments: &[&str]) -> Result<Vec<Value>, Error> {
    command::json("ip", arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u32, destination: &str, route: Route) -> ((u32, Cidr), Route) {
        ((table, destination.parse().unwrap()), route)
    }

    #[test]
    fn new_tables_come_before_the_rules_and_old_ones_go_after() {
        let rules = |table| Rule::both(100, Some(table), None, table).into_iter().collect();
        let old = Layout {
            routes: [route(7, "10.0.0.0/8", Route::blackhole())].into(),
            rules: rules(7),
            ..Layout::default()
        };
        let new = Layout {
            routes: [
                route(8, "10.0.0.0/8", Route::throw()),
                route(MAIN, "10.0.0.9/32", Route::on("tap9")),
            ]
            .into(),
            rules: rules(8),
            ..Layout::default()
        };
        let Changes { before, after, .. } = old.changes(&new, false);
        assert_eq!(before.lines, ["route replace throw 10.0.0.0/8  table 8"]);
        assert_eq!(before.rules[1], ["rule add fwmark 8 lookup 8 priority 100"]);
        assert_eq!(
            after.lines,
            ["route replace 10.0.0.9/32 dev tap9 table 254", "route delete 10.0.0.0/8 table 7"]
        );
        assert_eq!(after.rules[0], ["rule delete fwmark 7 lookup 7 priority 100"]);
        assert_eq!(new.changes(&new, false), Changes::default());
    }

    #[test]
    fn what_hangs_on_a_link_that_goes_is_not_removed_apart() {
        let mut old = Layout::default();
        let link = Link { kind: Kind::Tap, mac: "02:00:00:00:00:01".into(), mtu: 1500 };
        old.links.insert("tap1".into(), link);
        old.routes.extend([route(MAIN, "10.0.0.9/32", Route::on("tap1"))]);
        old.neighbours
            .insert(("tap1".into(), "10.0.0.9".parse().unwrap()), "0a:00:00:00:00:01".into());
        let changes = old.changes(&Layout::default(), false);
        assert_eq!(changes.after, Batch::default());
        assert_eq!(changes.surplus, ["tap1"]);
        assert!(old.lose(|_| false) && old == Layout::default());
    }

    #[test]
    fn a_pair_is_known_by_both_ends() {
        let pair = |space: &str, link: &str| Kind::Pair {
            space: space.into(),
            link: link.into(),
            mac: String::new(),
        };
        let found =
            |what: &str, alias: &str| Kind::Found { what: what.into(), alias: alias.into() };
        assert!(pair("a", "x").does_for(&pair("a", "x")));
        assert!(!pair("a", "x").does_for(&pair("a", "y")));
        assert!(found("veth", "a/x").does_for(&pair("a", "x")));
        assert!(!found("veth", "").does_for(&pair("a", "x")));
        assert!(
            !found("veth", "a/x").does_for(&Kind::Tap) && found("tun", "").does_for(&Kind::Tap)
        );
    }

    #[test]
    fn destinations_are_read() {
        let read = |text: &str, v6| destination(&Value::from(text), v6).unwrap().to_string();
        assert_eq!(read("default", false), "0.0.0.0/0");
        assert_eq!(read("default", true), "::/0");
        assert_eq!(read("10.0.0.1", false), "10.0.0.1/32");
        assert_eq!(read("fd00::/8", true), "fd00::/8");
        assert_eq!(read("fd00::1", true), "fd00::1/128");
    }
}
