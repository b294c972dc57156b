//! What flow logs count: packets and bytes of every flow of an interface that is logged, in sets that
//! the kernel fills.
//!
//! `flow_out_…` is what interfaces send, as they wrote it; `flow_in_…` what they get, as they see it;
//! `…_accept` passed groups and ACLs, `…_reject` did not. An element is the link, protocol, source,
//! destination and, unless the set is called `…_plain`, the two ports; its counter is never reset,
//! and it goes [`IDLE`] after its last packet. Talk with the VPC's own services is not logged (VPC
//! User Guide, "Flow log limitations").

use super::{Compiler, Direction, quoted};
use crate::protocols::Version;

/// Longer than the longest interval of aggregation, ten minutes.
const IDLE: &str = "15m";

/// Those with ports.
const PORTS: &str = "{ tcp, udp, sctp }";

impl Compiler<'_> {
    fn logs(&self) -> bool {
        self.here.iter().any(|(interface, _)| self.around.logged.contains(&interface.id))
    }

    /// The verdict of groups and ACLs that say no.
    pub(super) fn denial(&self, direction: Direction) -> String {
        match (self.logs(), direction) {
            (false, _) => "drop".into(),
            (true, Direction::Egress) => "goto denied_out".into(),
            (true, Direction::Ingress) => "goto denied_in".into(),
        }
    }

    pub(super) fn flow_logs(&mut self) {
        if !self.logs() {
            return;
        }
        let around = self.around;
        let logged = self.here.iter().filter(|(i, _)| around.logged.contains(&i.id));
        let logged: Vec<String> = logged.map(|(_, link)| quoted(link)).collect();
        self.filled("logged", "type ifname;", logged);
        for (word, link, hook) in [
            ("out", "iifname", "filter hook prerouting priority -140"),
            ("in", "oifname", "filter hook postrouting priority 160"),
        ] {
            let mut accepted = vec![format!("{link} != @logged accept")];
            accepted.extend(self.unlogged(word));
            accepted.extend(self.count(word, link, "accept"));
            let name = if word == "out" { "log_out" } else { "log_in" };
            self.base(name, hook, accepted);
            let mut denied = vec![format!("{link} != @logged drop")];
            denied.extend(self.count(word, link, "reject"));
            denied.push("drop".into());
            self.chain(format!("denied_{word}"), denied);
        }
    }

    fn unlogged(&self, word: &str) -> Vec<String> {
        let mut rules = Vec::new();
        for version in self.versions() {
            let (header, suffix) = (version.header(), version.suffix());
            rules.push(if word == "out" {
                format!("{header} daddr . meta l4proto . th dport @services{suffix} accept")
            } else {
                format!("{header} saddr @local_addresses{suffix} accept")
            });
        }
        if self.six {
            let field = if word == "out" { "daddr" } else { "saddr" };
            rules.push(format!("ip6 {field} {{ fe80::/10, ff00::/8 }} accept"));
        }
        rules
    }

    /// Declares the sets and counts.
    fn count(&mut self, word: &str, link: &str, verdict: &str) -> Vec<String> {
        let mut rules = Vec::new();
        for version in self.versions() {
            let header = version.header();
            let digit = if *version == Version::Four { 4 } else { 6 };
            for (ports, rest, matched) in
                [(" . th sport . th dport", "", ""), ("", "_plain", "!= ")]
            {
                let name = format!("flow_{word}_{verdict}_{digit}{rest}");
                let key = format!("{link} . meta l4proto . {header} saddr . {header} daddr{ports}");
                self.set(
                    &name,
                    format!("typeof {key}; flags dynamic,timeout; timeout {IDLE}; size 65536;"),
                );
                rules.push(format!(
                    "meta l4proto {matched}{PORTS} update @{name} {{ {key} counter }}"
                ));
            }
        }
        rules
    }
}
