//! Network ACLs: stateless, in order, a denial where nothing matches; asked when a packet leaves or
//! enters a subnet, never within it, never for the VPC's own services.
//!
//! A subnet whose ACL allows everything in a direction has no chain there, and a VPC where all do
//! has not even the hook.

use super::groups::addresses;
use super::{Compiler, Direction, braces, forwards, quoted};
use crate::protocols::{Protocols, Version};
use base::network::{AclRule, NetworkAcl, Protocol, Subnet};
use std::collections::{BTreeMap, BTreeSet};

impl Compiler<'_> {
    pub(super) fn acls(&mut self) {
        let acls: BTreeMap<&str, &NetworkAcl> =
            self.vpc.network_acls.iter().map(|acl| (acl.id.as_str(), acl)).collect();
        let occupied: BTreeSet<&str> = {
            let local = self.vpc.interfaces.iter().filter(|i| i.node.is_none());
            local.map(|interface| interface.subnet_id.as_str()).collect()
        };
        let vpc = self.vpc;
        for direction in Direction::BOTH {
            let mut used = BTreeSet::new();
            let mut guarded = BTreeSet::new();
            for subnet in vpc.subnets.iter().filter(|s| occupied.contains(s.id.as_str())) {
                let acl = acls.get(subnet.network_acl.as_str()).copied();
                let rules = acl.map(|acl| rules(acl, direction)).unwrap_or_default();
                if self.versions().iter().all(|version| allows_everything(rules, *version)) {
                    continue;
                }
                // An ACL that is not known lets nothing pass.
                let name = acl.map_or("none", |acl| acl.id.as_str());
                if used.insert(name) {
                    self.acl(name, rules, direction);
                }
                self.subnet(subnet, name, direction);
                if direction == Direction::Egress
                    && self.endpoints.iter().any(|endpoint| endpoint.subnet_id == subnet.id)
                {
                    self.endpoint_answers(subnet, name);
                }
                guarded.insert(subnet.id.as_str());
            }
            if !guarded.is_empty() {
                self.acl_hooks(direction, &guarded);
            }
        }
    }

    fn acl(&mut self, name: &str, rules: &[AclRule], direction: Direction) {
        let mut sorted: Vec<&AclRule> = rules.iter().collect();
        sorted.sort_by_key(|rule| rule.number);
        let deny = self.denial(direction);
        let mut lines = Vec::new();
        for version in self.versions() {
            let field = format!("{} {}", version.header(), direction.peer());
            for rule in sorted.iter().filter(|rule| Version::of(&rule.cidr) == *version) {
                let verdict = if rule.allow { "accept" } else { &deny };
                // A prefix of length 0 still says which version.
                let peer = if rule.cidr.length() == 0 {
                    match version {
                        Version::Four => "meta nfproto ipv4".to_owned(),
                        Version::Six => "meta nfproto ipv6".to_owned(),
                    }
                } else {
                    format!("{field} {}", rule.cidr)
                };
                for text in Protocols::only(rule.protocol).matches(*version) {
                    let words = [peer.as_str(), text.as_str(), verdict];
                    let words: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
                    lines.push(words.join(" "));
                }
                if is_final(rule) {
                    break;
                }
            }
        }
        lines.push(deny);
        self.chain(format!("acl_{}_{name}", direction.name()), lines);
    }

    /// Exceptions, then the ACL.
    fn subnet(&mut self, subnet: &Subnet, acl: &str, direction: Direction) {
        let mut lines = Vec::new();
        match direction {
            Direction::Egress => {
                lines.push(format!("ip daddr {} accept", subnet.cidr));
                lines.push("ip daddr . meta l4proto . th dport @services accept".into());
                if self.six {
                    lines.extend(subnet.ipv6_cidr.map(|cidr| format!("ip6 daddr {cidr} accept")));
                    lines.push("ip6 daddr { fe80::/10, ff00::/8 } accept".into());
                    lines.push("ip6 daddr . meta l4proto . th dport @services6 accept".into());
                }
                let next =
                    self.here.iter().filter(|(i, _)| forwards(i) && i.subnet_id == subnet.id);
                let next: Vec<String> = next.map(|(_, link)| quoted(link)).collect();
                if !next.is_empty() {
                    // To a router of the same subnet, wherever it leads from there. What stays on the
                    // link has been let through: it has no route.
                    let routers = format!("routers_{}", subnet.id);
                    lines.push(format!("fib daddr . mark oifname @{routers} accept"));
                    self.filled(routers, "typeof fib daddr oifname;", next);
                }
            }
            Direction::Ingress => {
                let links = format!("links_{}", subnet.id);
                let own = self.here.iter().filter(|(i, _)| i.subnet_id == subnet.id);
                let own: Vec<String> = own.map(|(_, link)| quoted(link)).collect();
                self.filled(&links, "type ifname;", own);
                lines.push(format!("iifname @{links} accept"));
                // Who lives on another node, or is an endpoint, comes by no link of the subnet.
                if let Some(fabric) = &self.around.fabric {
                    lines.push(format!("iifname \"{fabric}\" ip saddr {} accept", subnet.cidr));
                    let six = subnet.ipv6_cidr.filter(|_| self.six);
                    lines.extend(six.map(|c| format!("iifname \"{fabric}\" ip6 saddr {c} accept")));
                }
                let endpoints = self.endpoints.iter().filter(|e| e.subnet_id == subnet.id);
                for version in self.versions() {
                    let own = endpoints.clone().flat_map(|e| addresses(e, *version));
                    let own =
                        braces(own).map(|own| format!("{} saddr {own} accept", version.header()));
                    lines.extend(own);
                }
                lines.push("ip saddr @local_addresses accept".into());
                if self.six {
                    lines.push("ip6 saddr fe80::/10 accept".into());
                    lines.push("ip6 saddr @local_addresses6 accept".into());
                }
            }
        }
        lines.push(format!("goto acl_{}_{acl}", direction.name()));
        self.chain(format!("acl_{}_{}", direction.name(), subnet.id), lines);
    }

    /// As [`Self::subnet`] for what the namespace itself sends: no router of the subnet is next, and
    /// the output hook may not ask the routes.
    fn endpoint_answers(&mut self, subnet: &Subnet, acl: &str) {
        let mut lines = vec![format!("ip daddr {} accept", subnet.cidr)];
        let six = subnet.ipv6_cidr.filter(|_| self.six);
        lines.extend(six.map(|cidr| format!("ip6 daddr {cidr} accept")));
        lines.push(format!("goto acl_egress_{acl}"));
        self.chain(format!("acl_answers_{}", subnet.id), lines);
    }

    fn acl_hooks(&mut self, direction: Direction, guarded: &BTreeSet<&str>) {
        let word = direction.name();
        let here = self.here.iter().filter(|(i, _)| guarded.contains(i.subnet_id.as_str()));
        let links: BTreeMap<String, String> = here
            .map(|(i, link)| (quoted(link), format!("goto acl_{word}_{}", i.subnet_id)))
            .collect();
        self.map(format!("acl_{word}_by_link"), "type ifname : verdict;", links);
        let (name, hook, link) = match direction {
            Direction::Egress => ("acl_out", "filter hook prerouting priority -250", "iifname"),
            Direction::Ingress => ("acl_in", "filter hook postrouting priority 140", "oifname"),
        };
        self.base(name, hook, vec![format!("{link} vmap @acl_{word}_by_link")]);
        // Endpoints live on no link: they are called by the input hook and answer by the output one.
        let (name, hook, field) = match direction {
            Direction::Egress => ("acl_answers", "filter hook output priority 0", "saddr"),
            Direction::Ingress => ("acl_calls", "filter hook input priority -10", "daddr"),
        };
        let endpoints = self.endpoints.iter().copied();
        let endpoints: Vec<_> =
            endpoints.filter(|i| guarded.contains(i.subnet_id.as_str())).collect();
        if endpoints.is_empty() {
            return;
        }
        let mut rules = Vec::new();
        for version in self.versions() {
            let mut map = BTreeMap::new();
            for endpoint in &endpoints {
                let chain = if direction == Direction::Egress { "answers" } else { word };
                let verdict = format!("goto acl_{chain}_{}", endpoint.subnet_id);
                let own = addresses(endpoint, *version).into_iter();
                map.extend(own.map(|address| (address, verdict.clone())));
            }
            let set = format!("acl_{word}_by_endpoint{}", version.suffix());
            self.map(&set, format!("type {} : verdict;", version.address()), map);
            rules.push(format!("{} {field} vmap @{set}", version.header()));
        }
        self.base(name, hook, rules);
    }
}

fn rules(acl: &NetworkAcl, direction: Direction) -> &[AclRule] {
    match direction {
        Direction::Ingress => &acl.ingress,
        Direction::Egress => &acl.egress,
    }
}

/// Whether it decides about every packet of its version.
fn is_final(rule: &AclRule) -> bool {
    rule.protocol == Protocol::All && rule.cidr.length() == 0
}

fn allows_everything(rules: &[AclRule], version: Version) -> bool {
    let mut own: Vec<&AclRule> =
        rules.iter().filter(|rule| Version::of(&rule.cidr) == version).collect();
    own.sort_by_key(|rule| rule.number);
    let last = own.iter().position(|rule| is_final(rule));
    last.is_some_and(|last| own[..=last].iter().all(|rule| rule.allow))
}
