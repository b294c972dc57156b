//! The chains that every packet meets between the guard and its way out, and translation.
//!
//! Packets of established flows that are tracked on their side pass in the first rule of each chain:
//! what costs a lookup here costs it for every packet.

use super::guard::DISCOVERY;
use super::{Compiler, braces, lines, quoted};
use crate::names::UPLINK;
use crate::protocols::Version;
use base::Cidr;
use base::network::{RouteTable, Target};
use std::collections::BTreeMap;

/// Packets per second of one interface to link-local services (VPC quotas, "DNS"; EC2 User Guide,
/// "Instance metadata").
const SERVICE_RATE: u32 = 1024;

/// What neighbours may ask and answer.
const NEIGHBOURS: &str = "{ 133, 135, 136 }";

impl Compiler<'_> {
    pub(super) fn paths(&mut self) {
        self.services();
        self.egress();
        self.outside();
        self.translation();
        self.local();
        self.ingress();
    }

    fn services(&mut self) {
        self.set("service_rates", "type ifname; flags dynamic,timeout; timeout 1m; size 65536;");
        let over = format!(
            "update @service_rates {{ iifname limit rate over {SERVICE_RATE}/second burst {SERVICE_RATE} packets }} drop"
        );
        self.chain("services", vec![over, "accept".into()]);
    }

    fn egress(&mut self) {
        let mut rules = lines([
            "ct state established ct direction . ct mark { original . 0x1, original . 0x3, reply . 0x2, reply . 0x3 } accept",
            "ip daddr . meta l4proto . th dport @services iifname @machines goto services",
            // Only we answer DHCP.
            "udp sport 67 udp dport 68 drop",
        ]);
        if self.six {
            rules.push("meta nfproto ipv6 goto egress6".into());
            self.chain(
                "egress6",
                vec![
                    "ip6 daddr . meta l4proto . th dport @services6 iifname @machines goto services"
                        .into(),
                    "ip6 daddr fe80::/10 udp dport 547 iifname @machines goto services".into(),
                    "udp sport 547 udp dport 546 drop".into(),
                    format!("icmpv6 type {NEIGHBOURS} accept"),
                    "ip6 daddr { fe80::/10, ff00::/8 } icmpv6 type { 128, 129 } iifname @machines goto services"
                        .into(),
                    "ip6 daddr { fe80::/10, ff00::/8 } drop".into(),
                    "ct state vmap { invalid : drop, related : accept }".into(),
                    "iifname vmap @egress_by_link6".into(),
                    "drop".into(),
                ],
            );
        }
        rules.extend(lines([
            "ct state vmap { invalid : drop, related : accept }",
            "iifname vmap @egress_by_link",
            "drop",
        ]));
        self.base("egress", "filter hook prerouting priority -150", rules);
    }

    /// What may come from elsewhere: groups of its sender were asked there.
    fn outside(&mut self) {
        let mut rules = vec!["ip daddr @public_addresses accept".to_owned()];
        if let Some(blocks) = braces(&self.vpc.ipv6_cidrs) {
            if self.vpc.internet_gateway {
                rules.push(format!("ip6 daddr {blocks} accept"));
            } else if self.vpc.route_tables.iter().any(|table| !egress_only(table).is_empty()) {
                rules.push(format!("ip6 daddr {blocks} ct direction reply accept"));
            }
        }
        rules.push("drop".into());
        self.chain("from_outside", rules);
        if !self.around.peers.is_empty() {
            // Not the services, and nothing beyond the VPC.
            let mut rules = lines(["ip daddr @local_addresses drop"]);
            if let Some(blocks) = braces(&self.vpc.cidrs) {
                rules.push(format!("ip daddr {blocks} accept"));
            }
            if self.six {
                rules.push("ip6 daddr @local_addresses6 drop".into());
            }
            if let Some(blocks) = braces(&self.vpc.ipv6_cidrs) {
                rules.push(format!("ip6 daddr {blocks} accept"));
            }
            rules.push("drop".into());
            self.chain("from_peer", rules);
        }
        if !self.around.transits.is_empty() || self.around.fabric.is_some() {
            let mut rules =
                lines(["ip daddr @local_addresses drop", "ip daddr 169.254.0.0/16 drop"]);
            if self.six {
                rules.push("ip6 daddr @local_addresses6 drop".into());
            }
            rules.push("accept".into());
            self.chain("from_router", rules);
        }
        let mut rules = vec![
            format!("iifname \"{UPLINK}\" drop"),
            // The host may call from its end of the link, but nobody calls it there.
            "ct direction original ip daddr 169.254.0.0/16 drop".into(),
            "ip saddr @public_addresses accept".into(),
        ];
        if let Some(blocks) = braces(&self.vpc.ipv6_cidrs) {
            rules.push(format!("ip6 saddr {blocks} accept"));
        }
        rules.push("drop".into());
        self.chain("to_outside", rules);
    }

    /// Not where nobody has a public address: translation costs each flow even without a rule.
    fn translation(&mut self) {
        if !self.here.iter().any(|(i, _)| i.addresses().any(|a| a.public_ip.is_some())) {
            return;
        }
        self.base(
            "translate_in",
            "nat hook prerouting priority -100",
            vec![
                format!("iifname \"{UPLINK}\" dnat ip to ip daddr map @to_private"),
                // A public address called from inside: the way out and in again, for those whom
                // their routes lead out.
                format!(
                    "ip daddr @public_addresses fib daddr . mark oifname \"{UPLINK}\" dnat ip to ip daddr map @to_private"
                ),
            ],
        );
        self.base(
            "translate_out",
            "nat hook postrouting priority 100",
            vec![
                format!("oifname \"{UPLINK}\" snat ip to ip saddr map @to_public"),
                format!(
                    "iifname != \"{UPLINK}\" ct status dnat snat ip to ip saddr map @to_public"
                ),
            ],
        );
    }

    fn local(&mut self) {
        let mut rules =
            lines(["iifname \"lo\" accept", "ip daddr . meta l4proto . th dport @services accept"]);
        if self.six {
            rules.push("ip6 daddr . meta l4proto . th dport @services6 accept".into());
            rules.push("ip6 daddr fe80::/10 udp dport 547 accept".into());
            rules.push(format!("icmpv6 type {NEIGHBOURS} accept"));
            rules.push("ip6 daddr { fe80::/10, ff00::/8 } icmpv6 type { 128, 129 } accept".into());
        }
        let gateways = self.vpc.gateway_endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let gateways: Vec<String> = gateways.map(ToString::to_string).collect();
        if !gateways.is_empty() {
            self.filled("gateway_endpoints", "type ipv4_addr;", gateways);
            // The routing table that led here has the route; who comes from elsewhere has none.
            let blocks = braces(&self.vpc.cidrs).unwrap_or_default();
            rules.push(format!(
                "ip daddr @gateway_endpoints ip saddr {blocks} meta l4proto {{ icmp, tcp }} accept"
            ));
        }
        if !self.endpoints.is_empty() {
            rules.push(
                "ct state established ct direction . ct mark { original . 0x2, original . 0x3 } accept"
                    .into(),
            );
            rules.push("ip daddr vmap @endpoints".into());
            if self.six {
                rules.push("ip6 daddr vmap @endpoints6".into());
            }
        }
        rules.push("drop".into());
        self.base("local", "filter hook input priority 0", rules);
    }

    fn ingress(&mut self) {
        let mut rules = lines([
            "ct state established ct direction . ct mark { original . 0x2, original . 0x3, reply . 0x1, reply . 0x3 } accept",
        ]);
        if self.six {
            rules.push("meta nfproto ipv6 goto ingress6".into());
        }
        rules.push("ct state vmap { invalid : drop, related : accept }".into());
        rules.push("ip saddr @local_addresses accept".into());
        // Who has no public address cannot call one.
        rules.push(format!(
            "ct status dnat iifname != \"{UPLINK}\" ip saddr != @public_addresses drop"
        ));
        rules.extend(lines(["oifname vmap @ingress_by_link", "drop"]));
        self.base("ingress", "filter hook postrouting priority 150", rules);
        if !self.six {
            return;
        }
        // The router forwards nothing from link-local addresses: these are its own.
        let mut rules = lines(["ip6 saddr fe80::/10 accept"]);
        rules.push(format!("icmpv6 type {DISCOVERY} drop"));
        rules.extend(lines([
            "ip6 saddr @local_addresses6 accept",
            "ct state vmap { invalid : drop, related : accept }",
        ]));
        let guarded = self.egress_only_links();
        if !guarded.is_empty() {
            self.map("outside_by_link", "type ifname : verdict;", guarded);
            rules.push(format!(
                "iifname \"{UPLINK}\" ct direction original oifname vmap @outside_by_link"
            ));
        }
        rules.extend(lines(["oifname vmap @ingress_by_link6", "drop"]));
        self.chain("ingress6", rules);
    }

    /// Links of interfaces whose answers would leave by an egress-only gateway, to chains that drop
    /// what begins outside.
    fn egress_only_links(&mut self) -> BTreeMap<String, String> {
        let mut links = BTreeMap::new();
        let vpc = self.vpc;
        for table in &vpc.route_tables {
            let routes = egress_only(table);
            if routes.is_empty() {
                continue;
            }
            let name = format!("outside_{}", table.id);
            for (interface, link) in &self.here {
                let subnet = self.subnets.get(interface.subnet_id.as_str());
                if subnet.is_some_and(|subnet| subnet.route_table == table.id) {
                    links.insert(quoted(link), format!("jump {name}"));
                }
            }
            self.chain(name, routes);
        }
        links
    }
}

/// Rules by the sender of a packet from outside, if the table has an egress-only route.
fn egress_only(table: &RouteTable) -> Vec<String> {
    let gateway = Target::EgressOnlyInternetGateway;
    if !table.routes.iter().any(|route| route.target == gateway) {
        return Vec::new();
    }
    let six = |cidr: &Cidr| Version::of(cidr) == Version::Six;
    let mut routes: Vec<_> = table.routes.iter().filter(|r| six(&r.destination)).collect();
    routes.sort_by_key(|route| (std::cmp::Reverse(route.destination.length()), route.destination));
    let rule = |route: &&base::network::Route| {
        let verdict = if route.target == gateway { "drop" } else { "return" };
        format!("ip6 saddr {} {verdict}", route.destination)
    };
    routes.iter().map(rule).collect()
}
