//! Marks that choose a route table, and zones of connection tracking.
//!
//! The mark of a packet is the number of the route table of the link that it came in by.
//!
//! A packet that goes through a machine that forwards crosses the VPC twice with the same addresses,
//! and is two flows to the groups: in by one interface, out by another. So each hop between such a
//! machine and another link is tracked in a zone of its own, named by that link; hops between two of
//! them share one; all else, and every VPC without such machines, is in zone 0. The zone must be the
//! same in both directions, so it is found from both links, the outgoing one by asking the routes.

use super::{Compiler, forwards, lines, quoted};
use crate::names::UPLINK;
use std::collections::{BTreeMap, BTreeSet};

/// Hops between two forwarding machines.
const BETWEEN: u16 = 65535;
/// Hops between a forwarding machine and the outside.
const OUTSIDE: u16 = 65534;
/// Other links are below.
const LINKS: u16 = 65000;

impl Compiler<'_> {
    /// The rule that marks, for the chain that every packet meets first; none without route tables.
    pub(super) fn marks(&mut self) -> Option<String> {
        let marks = &self.around.marks;
        if marks.is_empty() {
            return None;
        }
        let marks = marks.iter().map(|(link, mark)| (quoted(link), format!("{mark:#x}")));
        self.map("route_tables", "type ifname : mark;", marks.collect());
        Some("meta mark set iifname map @route_tables".to_owned())
    }

    pub(super) fn zones(&mut self) {
        let mut rules = Vec::new();
        let forwarders: Vec<_> = self.here.iter().filter(|(i, _)| forwards(i)).collect();
        if !forwarders.is_empty() {
            let links: Vec<String> = forwarders.iter().map(|(_, link)| quoted(link)).collect();
            let public = forwarders.iter().flat_map(|(interface, _)| interface.addresses());
            let public: Vec<_> =
                public.filter_map(|address| Some(address.public_ip?.to_string())).collect();
            let mut others: Vec<&str> = self.foreign_links();
            let tracked: BTreeSet<&str> = forwarders.iter().map(|(_, link)| &**link).collect();
            let taps = self.here.iter().map(|(_, link)| link.as_str());
            others.extend(taps.filter(|link| !tracked.contains(link)));
            let mut zones = zones(&others);
            zones.insert(UPLINK, OUTSIDE);
            let verdict = |zone: &u16| format!("goto zone_{zone}");
            let map: BTreeMap<String, String> =
                zones.iter().map(|(link, zone)| (quoted(link), verdict(zone))).collect();
            let numbers: BTreeSet<u16> = zones.into_values().collect();
            for zone in numbers {
                self.chain(
                    format!("zone_{zone}"),
                    vec![format!("ct zone set {zone}"), "accept".into()],
                );
            }
            self.filled("forwarding_in", "type ifname;", links.clone());
            self.filled("forwarding_out", "typeof fib daddr oifname;", links);
            self.filled("forwarding_public", "type ipv4_addr;", public);
            self.map("zone_in", "type ifname : verdict;", map.clone());
            self.map("zone_out", "typeof fib daddr oifname : verdict;", map);
            // A public address is translated later, and leads to the outside until then.
            rules.push(format!("ip daddr @forwarding_public goto zone_{OUTSIDE}"));
            rules.push(format!(
                "iifname @forwarding_in fib daddr . mark oifname @forwarding_out ct zone set {BETWEEN} accept"
            ));
            rules.extend(lines([
                "iifname @forwarding_in fib daddr . mark oifname vmap @zone_out",
                "fib daddr . mark oifname @forwarding_out iifname vmap @zone_in",
            ]));
        }
        if !rules.is_empty() {
            self.base("zones", "filter hook prerouting priority -290", rules);
        }
    }
}

/// A number a link that stays while other links come and go: a hash of its name, and the next free
/// one where two are the same.
fn zones<'a>(links: &[&'a str]) -> BTreeMap<&'a str, u16> {
    let mut links = links.to_vec();
    links.sort_unstable();
    let mut taken = BTreeSet::new();
    let mut zones = BTreeMap::new();
    for link in links {
        let hash = link
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let first = u16::try_from(hash % u32::from(LINKS)).unwrap_or(0);
        let free = (0..LINKS).map(|step| 1 + (first + step.min(LINKS - 1 - first)) % LINKS);
        let zone = free.into_iter().find(|zone| !taken.contains(zone)).unwrap_or(1 + first);
        taken.insert(zone);
        zones.insert(link, zone);
    }
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_apart_and_stay() {
        let names: Vec<String> = (0..2000).map(|number| format!("tap{number}")).collect();
        let links: Vec<&str> = names.iter().map(String::as_str).collect();
        let all = zones(&links);
        let numbers: BTreeSet<u16> = all.values().copied().collect();
        assert_eq!(numbers.len(), links.len());
        assert!(numbers.iter().all(|zone| (1..=LINKS).contains(zone)));
        let few = zones(&links[..10]);
        let stay = few.iter().filter(|(link, zone)| all[*link] == **zone).count();
        assert!(stay >= 9, "{stay}");
    }
}
