//! The `reach` crate, which walks packets through a plan on paper, and the compiled rules: for random
//! VPCs and packets both must say the same of groups and ACLs.

use super::{Direction, Reader, any_packet, any_vpc, compiled, packet, tap, without_strangers};
use base::network::Plan;
use proptest::prelude::*;
use reach::{Code, Component, Origin, Traffic};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_model_says_what_the_compiled_rules_say(
        vpc in any_vpc(),
        words in any_packet(),
        other in 1_usize..3,
    ) {
        let vpc = without_strangers(vpc);
        let rules = compiled(&vpc);
        let (sender, receiver) = (&vpc.interfaces[0], &vpc.interfaces[other]);
        let to = if words.2.is_ipv4() {
            receiver.private_ip.into()
        } else {
            receiver.ipv6[0].into()
        };
        let packet = packet(sender, Direction::Egress, (words.0, words.1, to, None));
        let [kind, code] = packet.port.to_be_bytes();
        let (source, destination) = (40_000, packet.port);
        let traffic = match packet.protocol {
            6 => Traffic::Tcp { source, destination },
            17 => Traffic::Udp { source, destination },
            1 => Traffic::Icmp { kind, code },
            58 => Traffic::Icmpv6 { kind, code },
            number => Traffic::Other(number),
        };
        let walked = reach::Packet { source: packet.from, destination: packet.to, traffic };
        let plan = Plan { vpcs: vec![vpc.clone()], ..Plan::default() };
        let forward = reach::reach(&plan, &Origin::Interface(sender.id.clone()), walked).forward;
        let refused = |wanted: reach::Direction, code: Code| {
            forward.refusals.iter().any(|refusal| {
                let direction = match &refusal.component {
                    Component::SecurityGroups { direction, .. }
                    | Component::NetworkAcl { direction, .. } => *direction == wanted,
                    _ => false,
                };
                direction && refusal.code == code
            })
        };
        let crosses = sender.subnet_id != receiver.subnet_id;
        let mut reader = Reader { rules: &rules, packet, link: tap(&sender.id), mark: 0 };
        for (direction, told, interface) in [
            (Direction::Egress, reach::Direction::Egress, sender),
            (Direction::Ingress, reach::Direction::Ingress, receiver),
        ] {
            prop_assert_eq!(
                reader.judge(direction, interface),
                !refused(told, Code::EniSgRulesMismatch),
                "groups {:?} {}", direction, walked
            );
            let passes = !refused(told, Code::SubnetAclRestriction);
            prop_assert!(crosses || passes);
            prop_assert_eq!(
                reader.crosses(direction, interface), passes,
                "ACL {:?} {}", direction, walked
            );
        }
    }
}
