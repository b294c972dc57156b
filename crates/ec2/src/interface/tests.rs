//! Interfaces in a region of records.

use super::attribute::modify_network_interface_attribute;
use super::describe::describe_network_interfaces;
use super::*;
use crate::instance;
use crate::launch::run_instances;
use crate::testing::{ACCOUNT, Region, filter, list};

fn ask(region: &Region, name: &str, value: &str) -> Vec<api::NetworkInterface> {
    let input = api::DescribeNetworkInterfacesRequest {
        filters: Some(vec![filter(name, &[value])]),
        ..Default::default()
    };
    region.ok(describe_network_interfaces, input).network_interfaces.unwrap()
}

#[test]
fn names_of_addresses() {
    let address = Ipv4Addr::new(172, 31, 5, 7);
    assert_eq!(private_dns_name("us-east-1", address), "ip-172-31-5-7.ec2.internal");
    assert_eq!(private_dns_name("eu-west-1", address), "ip-172-31-5-7.eu-west-1.compute.internal");
    assert_eq!(public_dns_name("us-east-1", address), "ec2-172-31-5-7.compute-1.amazonaws.com");
    assert_eq!(
        public_dns_name("eu-west-1", address),
        "ec2-172-31-5-7.eu-west-1.compute.amazonaws.com"
    );
}

#[test]
fn interfaces_are_found_by_what_they_have() {
    let region = Region::new();
    let mut request = instance::tests::request(&region);
    request.max_count = Some(6);
    let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
    let id = launched.instance_id.unwrap();
    let own = &launched.network_interfaces.unwrap()[0];
    let group = own.groups.as_ref().unwrap()[0].group_id.clone().unwrap();
    let text = |value: &Option<String>| value.clone().unwrap();
    for (name, value) in [
        ("attachment.instance-id", id.clone()),
        ("network-interface-id", text(&own.network_interface_id)),
        ("mac-address", text(&own.mac_address)),
        ("private-dns-name", text(&own.private_dns_name)),
        ("addresses.private-ip-address", text(&own.private_ip_address)),
    ] {
        assert_eq!(ask(&region, name, &value).len(), 1, "{name}");
    }
    for (name, value) in [
        ("group-id", group.as_str()),
        ("group-name", "default"),
        ("status", "in-use"),
        ("attachment.status", "attached"),
        ("owner-id", ACCOUNT),
    ] {
        assert_eq!(ask(&region, name, value).len(), 6, "{name}");
    }
    let page = api::DescribeNetworkInterfacesRequest { max_results: Some(5), ..Default::default() };
    let answer = region.ok(describe_network_interfaces, page);
    assert_eq!(answer.network_interfaces.unwrap().len(), 5);
    assert!(answer.next_token.is_some());
    let input = api::DescribeNetworkInterfacesRequest {
        network_interface_ids: list(&["eni-12345678"]),
        ..Default::default()
    };
    assert_eq!(
        region.refused(describe_network_interfaces, input),
        "InvalidNetworkInterfaceID.NotFound: The networkInterface ID 'eni-12345678' does not \
         exist"
    );
}

#[test]
fn a_changed_interface_changes_its_instance() {
    let region = Region::new();
    let request = instance::tests::request(&region);
    let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
    let id = launched.network_interfaces.unwrap()[0].network_interface_id.clone();
    let modify = |change: fn(&mut api::ModifyNetworkInterfaceAttributeRequest)| {
        let mut input = api::ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: id.clone(),
            ..Default::default()
        };
        change(&mut input);
        region.run(|call| modify_network_interface_attribute(call, input))
    };
    modify(|r| {
        r.source_dest_check = Some(api::AttributeBooleanValue { value: Some(false) });
    })
    .unwrap();
    assert_eq!(ask(&region, "source-dest-check", "false").len(), 1);
    let at = key::of(region.name, key::INSTANCE, ACCOUNT, &launched.instance_id.unwrap());
    let instance = region.run(|call| call.peek::<Instance>(&at)).unwrap().unwrap();
    assert!(!instance.source_dest_check);
    let refusal = modify(|r| r.groups = list(&["sg-12345678"])).unwrap_err();
    assert_eq!(refusal.code, "InvalidGroup.NotFound");
    let refusal = modify(|r| {
        r.attachment = Some(api::NetworkInterfaceAttachmentChanges {
            attachment_id: Some("eni-attach-12345678".to_owned()),
            delete_on_termination: Some(false),
            ..Default::default()
        });
    });
    assert_eq!(refusal.unwrap_err().code, "InvalidAttachmentID.NotFound");
}

mod addresses {
    use super::super::assign::{
        assign_ipv6_addresses, assign_private_ip_addresses, unassign_ipv6_addresses,
        unassign_private_ip_addresses,
    };
    use super::super::make::{create_network_interface, delete_network_interface};
    use super::*;
    use crate::record::{CidrAssociation, Subnet};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A region with one small subnet of both kinds of address.
    fn small() -> (Region, Subnet) {
        let region = Region::new();
        let at = key::of(region.name, key::SUBNET, ACCOUNT, "");
        let found = region.run(|call| call.scan::<Subnet>(&at)).unwrap().remove(0);
        let mut subnet = Subnet::clone(&found);
        subnet.cidr = "172.31.0.0/26".parse().unwrap();
        let id = "subnet-cidr-assoc-1".to_owned();
        let cidr = "fd00:1:2:3::/64".parse().unwrap();
        subnet.ipv6_cidr = Some(CidrAssociation { id, cidr });
        let at = key::of(region.name, key::SUBNET, ACCOUNT, &subnet.id);
        region.run(|call| Ok(call.put(&at, subnet.clone()))).unwrap();
        (region, subnet)
    }

    fn interfaces(region: &Region) -> Vec<Arc<Interface>> {
        let at = key::of(region.name, key::INTERFACE, ACCOUNT, "");
        region.run(|call| call.scan::<Interface>(&at)).unwrap()
    }

    /// Every address has one claim, its interface's, and there are no others.
    fn check(region: &Region, subnet: &Subnet) -> Result<(), TestCaseError> {
        let mut wanted = BTreeMap::new();
        for interface in interfaces(region) {
            let mut of = vec![interface.private_ip.to_string()];
            of.extend(interface.secondary.iter().map(|own| own.private_ip.to_string()));
            for prefix in &interface.prefixes {
                of.extend((0..16).map(|index| prefix.nth(index).unwrap().to_string()));
            }
            of.extend(interface.ipv6.iter().map(ToString::to_string));
            of.extend(interface.ipv6_prefixes.iter().map(ToString::to_string));
            for address in of {
                let before = wanted.insert(address, interface.id.clone());
                prop_assert_eq!(before, None, "given twice");
            }
            for address in &interface.ipv6 {
                let own = interfaces(region).iter().any(|other| {
                    other.ipv6_prefixes.iter().any(|prefix| prefix.contains(*address))
                });
                prop_assert!(!own, "{} lies in a delegated prefix", address);
            }
        }
        let prefix = key::private_address(region.name, ACCOUNT, &subnet.vpc_id, "");
        let claims = region.run(|call| {
            let claims = call.snapshot().scan(&prefix);
            let name = |key: &str| key[prefix.len()..].to_owned();
            Ok(claims
                .map(|kv| (name(kv.key()), kv.decode::<String>().unwrap().to_string()))
                .collect::<BTreeMap<_, _>>())
        });
        prop_assert_eq!(claims.unwrap(), wanted);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn claims_are_the_addresses(
            steps in prop::collection::vec((0..7_u8, 0..4_usize, 0..4_i32), 1..25)
        ) {
            let (region, subnet) = small();
            for (what, which, count) in steps {
                let all = interfaces(&region);
                let chosen = all.get(which).cloned();
                let id = chosen.as_ref().map(|interface| interface.id.clone());
                // Refusals change nothing, which is what is tested.
                let _ = match (what, &chosen) {
                    (0, _) | (_, None) => region.run(|call| {
                        create_network_interface(call, api::CreateNetworkInterfaceRequest {
                            subnet_id: Some(subnet.id.clone()),
                            secondary_private_ip_address_count: Some(count),
                            ipv6_address_count: Some(count),
                            ..Default::default()
                        })
                    }).map(drop),
                    (1, _) => region.run(|call| {
                        assign_private_ip_addresses(call, api::AssignPrivateIpAddressesRequest {
                            network_interface_id: id,
                            secondary_private_ip_address_count: Some(count),
                            ipv4_prefix_count: Some(1),
                            ..Default::default()
                        })
                    }).map(drop),
                    (2, _) => region.run(|call| {
                        assign_ipv6_addresses(call, api::AssignIpv6AddressesRequest {
                            network_interface_id: id,
                            ipv6_address_count: Some(count),
                            ipv6_prefix_count: Some(1),
                            ..Default::default()
                        })
                    }).map(drop),
                    (3, Some(of)) => region.run(|call| {
                        unassign_private_ip_addresses(call, api::UnassignPrivateIpAddressesRequest {
                            network_interface_id: id,
                            private_ip_addresses: Some(
                                of.secondary.iter().map(|own| own.private_ip.to_string()).take(1).collect(),
                            ),
                            ipv4_prefixes: Some(of.prefixes.iter().map(ToString::to_string).collect()),
                        })
                    }).map(drop),
                    (4, Some(of)) => region.run(|call| {
                        unassign_ipv6_addresses(call, api::UnassignIpv6AddressesRequest {
                            network_interface_id: id,
                            ipv6_addresses: Some(of.ipv6.iter().map(ToString::to_string).take(1).collect()),
                            ipv6_prefixes: Some(of.ipv6_prefixes.iter().map(ToString::to_string).collect()),
                        })
                    }).map(drop),
                    (5, _) => region.run(|call| {
                        delete_network_interface(call, api::DeleteNetworkInterfaceRequest {
                            network_interface_id: id,
                            ..Default::default()
                        })
                    }).map(drop),
                    // Another's secondary address.
                    (_, Some(of)) => region.run(|call| {
                        let other = &all[(which + 1) % all.len()];
                        let address = other.secondary.first().map(|own| own.private_ip);
                        assign_private_ip_addresses(call, api::AssignPrivateIpAddressesRequest {
                            network_interface_id: Some(of.id.clone()),
                            private_ip_addresses: Some(address.iter().map(ToString::to_string).collect()),
                            allow_reassignment: Some(true),
                            ..Default::default()
                        })
                    }).map(drop),
                };
                check(&region, &subnet)?;
            }
        }
    }

    #[test]
    fn a_subnet_is_used_up() {
        let (region, subnet) = small();
        let make = || {
            region.run(|call| {
                create_network_interface(
                    call,
                    api::CreateNetworkInterfaceRequest {
                        subnet_id: Some(subnet.id.clone()),
                        secondary_private_ip_address_count: Some(18),
                        ..Default::default()
                    },
                )
            })
        };
        for _ in 0..3 {
            make().unwrap();
        }
        // 64 - 5 - 3 * 19 = 2 are left.
        assert_eq!(make().unwrap_err().code, "InsufficientFreeAddressesInSubnet");
        check(&region, &subnet).unwrap();
        let input = api::AssignPrivateIpAddressesRequest {
            network_interface_id: Some(interfaces(&region)[0].id.clone()),
            ipv4_prefix_count: Some(1),
            ..Default::default()
        };
        let refusal = region.refused(assign_private_ip_addresses, input);
        assert!(refusal.starts_with("InsufficientCidrBlocks: "), "{refusal}");
    }
}

mod attachments {
    use super::super::attach::{attach_network_interface, detach_network_interface};
    use super::super::make::create_network_interface;
    use super::*;
    use crate::instance_reconciler::RECONCILER;
    use base::machine::{InterfaceState, State};

    fn reconcile(region: &Region, id: &str) {
        let at = key::of(region.name, key::INSTANCE, ACCOUNT, id);
        for _ in 0..3 {
            region
                .run(|call| {
                    // As the runner does it: what the driver was told last.
                    call.set_applied(region.driver.fingerprint(id));
                    (RECONCILER.run)(call, &at)
                })
                .unwrap();
        }
    }

    fn status(region: &Region, id: &str) -> Option<String> {
        let shown = ask(region, "network-interface-id", id).remove(0);
        shown.attachment.and_then(|attachment| attachment.status)
    }

    #[test]
    fn the_machine_says_how_far_an_attachment_is() {
        let region = Region::new();
        let launched = region.ok(run_instances, instance::tests::request(&region));
        let launched = launched.instances.unwrap().remove(0);
        let machine = launched.instance_id.clone().unwrap();
        region.driver.set(&machine, State::Running { start: 1, reboots: 0, reachable: Some(true) });
        reconcile(&region, &machine);
        let made = region.ok(
            create_network_interface,
            api::CreateNetworkInterfaceRequest {
                subnet_id: launched.subnet_id.clone(),
                ..Default::default()
            },
        );
        let id = made.network_interface.unwrap().network_interface_id.unwrap();
        let attach = || {
            let input = api::AttachNetworkInterfaceRequest {
                network_interface_id: Some(id.clone()),
                instance_id: Some(machine.clone()),
                device_index: Some(1),
                ..Default::default()
            };
            region.ok(attach_network_interface, input).attachment_id
        };
        let detach = |attachment_id, force| {
            let input = api::DetachNetworkInterfaceRequest {
                attachment_id,
                force: Some(force),
                ..Default::default()
            };
            region.ok(detach_network_interface, input);
        };
        let attachment = attach();
        reconcile(&region, &machine);
        assert_eq!(status(&region, &id).as_deref(), Some("attaching"));
        let spec = region.driver.spec(&machine).unwrap();
        assert_eq!(spec.interfaces[1].id, id);
        let mac = &spec.interfaces[1].mac;
        let leaf = format!("meta-data/network/interfaces/macs/{mac}/device-number");
        assert_eq!(spec.metadata.leaves[&leaf], "1");
        region.driver.set_interface(&machine, &id, InterfaceState::Unsettled);
        reconcile(&region, &machine);
        assert_eq!(status(&region, &id).as_deref(), Some("attaching"));
        region.driver.set_interface(&machine, &id, InterfaceState::In);
        reconcile(&region, &machine);
        assert_eq!(status(&region, &id).as_deref(), Some("attached"));
        let told = region.driver.told();
        reconcile(&region, &machine);
        assert_eq!(region.driver.told(), told, "nothing new to tell");

        detach(attachment, false);
        reconcile(&region, &machine);
        assert_eq!(status(&region, &id).as_deref(), Some("detaching"));
        let spec = region.driver.spec(&machine).unwrap();
        assert_eq!((spec.interfaces.len(), spec.forced_off_interfaces.len()), (1, 0));
        assert!(!spec.metadata.leaves.contains_key(&leaf));
        region.driver.set_interface(&machine, &id, InterfaceState::Out);
        reconcile(&region, &machine);
        assert_eq!(status(&region, &id), None);

        // With Force the driver learns of it, and one that is gone before anybody looked is gone.
        let attachment = attach();
        region.driver.set_interface(&machine, &id, InterfaceState::In);
        reconcile(&region, &machine);
        detach(attachment.clone(), false);
        reconcile(&region, &machine);
        detach(attachment, true);
        reconcile(&region, &machine);
        let spec = region.driver.spec(&machine).unwrap();
        assert_eq!(spec.forced_off_interfaces, std::slice::from_ref(&id));
        // Its machine ends meanwhile.
        let cause = base::machine::ExitCause::GuestShutdown;
        region.driver.set(&machine, State::Exited { start: 1, cause });
        reconcile(&region, &machine);
        assert_eq!(status(&region, &id), None);
        let at = key::of(region.name, key::INSTANCE, ACCOUNT, &machine);
        let instance = region.run(|call| call.peek::<Instance>(&at)).unwrap().unwrap();
        assert_eq!(instance.more_interfaces, []);
    }
}
