//! Links, addresses, routes and neighbours of one namespace as a value, and the `ip` lines that turn
//! one state into another.
//!
//! The router knows the hardware address of every guest, so it never asks and can never be told a
//! lie. A blackhole for every block of the VPC stands behind the host routes: the kernel answers ARP
//! for an address only if it has a route to it, and a packet to an address that nobody has
//! vanishes.

use crate::names::{
    HOST_ADDRESS, HOST_MAC, LINK_GROUP, METADATA, RESOLVER, ROUTER_MAC, TIME, UPLINK,
    UPLINK_ADDRESS, resolver, router, tap,
};
use crate::{Error, command, system};
use base::network::Vpc;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What a namespace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub taps: BTreeSet<String>,
    /// On `lo`, /32 each.
    addresses: BTreeSet<Ipv4Addr>,
    /// Destination as `ip` prints it, to everything else of the route.
    routes: BTreeMap<String, Route>,
    /// Permanent ones, by link and address.
    neighbours: BTreeMap<(String, Ipv4Addr), String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Route {
    /// Word before the destination: `blackhole ` or nothing.
    kind: &'static str,
    /// Words after it.
    rest: String,
    /// The link, whose end is the end of the route as well.
    link: Option<String>,
}

/// What a VPC's namespace must hold.
pub(crate) fn wanted(vpc: &Vpc) -> Layout {
    let mut layout = Layout::default();
    layout.addresses.extend(vpc.subnets.iter().filter_map(|subnet| router(&subnet.cidr)));
    layout.addresses.extend(resolver(vpc));
    layout.addresses.extend([METADATA, RESOLVER, TIME]);
    let blocks = vpc.cidrs.iter().map(ToString::to_string);
    for block in blocks.chain(["169.254.0.0/16".to_owned()]) {
        layout.routes.insert(block, Route { kind: "blackhole ", ..Route::default() });
    }
    layout.routes.insert(
        "default".into(),
        Route {
            kind: "",
            rest: format!("via {HOST_ADDRESS} dev {UPLINK} onlink"),
            link: Some(UPLINK.into()),
        },
    );
    let back =
        Route { kind: "", rest: format!("dev {UPLINK} scope link"), link: Some(UPLINK.into()) };
    layout.routes.insert(HOST_ADDRESS.to_string(), back);
    layout.neighbours.insert((UPLINK.into(), HOST_ADDRESS), HOST_MAC.into());
    for interface in &vpc.interfaces {
        let tap = tap(&interface.id);
        layout.routes.insert(
            interface.private_ip.to_string(),
            Route { kind: "", rest: format!("dev {tap} scope link"), link: Some(tap.clone()) },
        );
        layout.neighbours.insert((tap.clone(), interface.private_ip), interface.mac.clone());
        layout.taps.insert(tap);
    }
    layout
}

impl Layout {
    /// Reads the namespace in which the caller's thread stands.
    ///
    /// What is found is never equal to what is wanted, so everything is put in place again; only
    /// what must go is exact.
    pub(crate) fn read() -> Result<Layout, Error> {
        let links = system::links().map_err(Error::io("list links"))?;
        let mut layout = Layout {
            taps: links.into_keys().filter(|name| name.starts_with("tap")).collect(),
            ..Layout::default()
        };
        for route in json(&["-j", "route", "show", "table", "main"])? {
            if let Some(destination) = route["dst"].as_str() {
                let link = route["dev"].as_str().map(str::to_owned);
                let found = Route { kind: "?", rest: String::new(), link };
                layout.routes.insert(destination.to_owned(), found);
            }
        }
        for link in json(&["-j", "address", "show", "dev", "lo"])? {
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let local = address["local"].as_str().and_then(|text| text.parse().ok());
                layout.addresses.extend(local.filter(|address: &Ipv4Addr| !address.is_loopback()));
            }
        }
        for neighbour in json(&["-j", "-4", "neighbour", "show", "nud", "permanent"])? {
            let address = neighbour["dst"].as_str().and_then(|text| text.parse().ok());
            if let (Some(link), Some(address)) = (neighbour["dev"].as_str(), address) {
                layout.neighbours.insert((link.to_owned(), address), String::new());
            }
        }
        Ok(layout)
    }

    /// Taps that are not wanted any more.
    pub(crate) fn surplus(&self, wanted: &Layout) -> Vec<String> {
        self.taps.difference(&wanted.taps).map(|tap| format!("link delete {tap}")).collect()
    }

    /// Lines for `ip -batch`, to run after the surplus taps went and the missing ones came.
    pub(crate) fn changes(&self, wanted: &Layout, fresh: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if fresh {
            lines.push("link set lo up".into());
            lines.push(format!("address replace {UPLINK_ADDRESS}/32 dev {UPLINK} scope link"));
            lines.push(format!("link set {UPLINK} group {LINK_GROUP} up"));
        }
        let stays = |link: &str| link == UPLINK || wanted.taps.contains(link);
        for (key, _) in self.neighbours.iter().filter(|(key, _)| stays(&key.0)) {
            if !wanted.neighbours.contains_key(key) {
                lines.push(format!("neighbour delete {} dev {}", key.1, key.0));
            }
        }
        for (destination, route) in &self.routes {
            // With its link went the route.
            let stays = route.link.as_deref().is_none_or(stays);
            if stays && !wanted.routes.contains_key(destination) {
                lines.push(format!("route delete {destination}"));
            }
        }
        let gone = self.addresses.difference(&wanted.addresses);
        lines.extend(gone.map(|address| format!("address delete {address}/32 dev lo")));
        for address in wanted.addresses.iter().filter(|a| fresh || !self.addresses.contains(a)) {
            lines.push(format!("address replace {address}/32 dev lo"));
        }
        for tap in wanted.taps.iter().filter(|tap| fresh || !self.taps.contains(*tap)) {
            lines.push(format!("link set {tap} address {ROUTER_MAC} mtu 1500 group {LINK_GROUP}"));
            lines.push(format!("link set {tap} up"));
        }
        for (destination, route) in &wanted.routes {
            if self.routes.get(destination) != Some(route) {
                let Route { kind, rest, .. } = route;
                lines.push(format!("route replace {kind}{destination} {rest}"));
            }
        }
        for (key, mac) in &wanted.neighbours {
            let renewed = !self.taps.contains(&key.0) && key.0 != UPLINK;
            if renewed || self.neighbours.get(key) != Some(mac) {
                let (link, address) = key;
                lines.push(format!(
                    "neighbour replace {address} lladdr {mac} dev {link} nud permanent"
                ));
            }
        }
        lines
    }
}

fn json(arguments: &[&str]) -> Result<Vec<Value>, Error> {
    let text = command::ip(arguments)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).map_err(|error| Error::Tool {
        command: format!("ip {}", arguments.join(" ")),
        message: format!("answered with text that is not JSON: {error}"),
    })
}
