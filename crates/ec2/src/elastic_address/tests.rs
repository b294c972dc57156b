//! Elastic addresses in a region of records: both sides of an association, and the claims, agree
//! whatever is done.

use super::associate::{associate_address, disassociate_address};
use super::*;
use crate::instance;
use crate::launch::run_instances;
use crate::record::{Instance, Subnet};
use crate::testing::{ACCOUNT, Region};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn all<T: service::call::Record>(region: &Region, kind: &str) -> Vec<Arc<T>> {
    region.run(|call| call.scan::<T>(&key::of(region.name, kind, ACCOUNT, ""))).unwrap()
}

/// What every record says of every other.
fn check(region: &Region) -> Result<(), TestCaseError> {
    let elastic = all::<ElasticAddress>(region, key::ELASTIC_ADDRESS);
    let interfaces = all::<Interface>(region, key::INTERFACE);
    let mut parts = BTreeMap::new();
    let mut owners: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    for interface in &interfaces {
        let secondary = interface.secondary.iter();
        let secondary = secondary.filter_map(|own| Some((own.private_ip, own.elastic.as_ref()?)));
        let primary = interface.elastic.as_ref().map(|part| (interface.private_ip, part));
        if let Some(part) = &interface.elastic {
            prop_assert_eq!(interface.public_ip, Some(part.public_ip));
        } else if let Some(address) = interface.public_ip {
            owners.insert(address, interface.id.clone());
        }
        for (private_ip, part) in primary.into_iter().chain(secondary) {
            let place = (interface.id.clone(), private_ip, part.association_id.clone());
            let before = parts.insert(part.allocation_id.clone(), (place, part.public_ip));
            prop_assert_eq!(before, None, "one address at two places");
        }
    }
    for address in &elastic {
        owners.insert(address.public_ip, address.allocation_id.clone());
        let here = address.association.as_ref().map(|association| {
            let (interface, id) = (association.interface_id.clone(), association.id.clone());
            ((interface, association.private_ip, id), address.public_ip)
        });
        prop_assert_eq!(here, parts.remove(&address.allocation_id));
    }
    prop_assert!(parts.is_empty(), "{:?}", parts);
    for instance in all::<Instance>(region, key::INSTANCE) {
        let primary = interfaces.iter().find(|i| i.id == instance.interface_id);
        prop_assert_eq!(instance.public_ip, primary.and_then(|i| i.public_ip));
    }
    let claims = region.run(|call| {
        let claims = call.snapshot().scan("/public-address/");
        let name = |key: &str| key.rsplit('/').next().unwrap().parse::<Ipv4Addr>().unwrap();
        Ok(claims
            .map(|kv| (name(kv.key()), kv.decode::<String>().unwrap().to_string()))
            .collect::<BTreeMap<_, _>>())
    });
    prop_assert_eq!(claims.unwrap(), owners);
    Ok(())
}

/// An interface of two addresses in a subnet of the default VPC.
fn interface(region: &Region) -> Arc<Interface> {
    let subnet = all::<Subnet>(region, key::SUBNET).remove(0);
    let made = region.run(|call| {
        let new = crate::interface::New {
            subnet: &subnet,
            groups: Vec::new(),
            kind: InterfaceKind::Interface,
            description: String::new(),
            source_dest_check: true,
            wanted: crate::interface::Wanted { secondary_count: 1, ..Default::default() },
            tags: crate::record::Tags::new(),
        };
        crate::interface::create(call, ACCOUNT, new)
    });
    made.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn both_sides_agree(steps in prop::collection::vec((0..6_u8, 0..4_usize, 0..4_usize, any::<bool>()), 1..25)) {
        let region = Region::new();
        for _ in 0..2 {
            region.ok(run_instances, instance::tests::request(&region));
            interface(&region);
        }
        for (what, first, second, flag) in steps {
            let elastic = all::<ElasticAddress>(&region, key::ELASTIC_ADDRESS);
            let interfaces = all::<Interface>(&region, key::INTERFACE);
            let address = elastic.get(first).map(|address| address.allocation_id.clone());
            let target = &interfaces[second % interfaces.len()];
            // Refusals change nothing, which is what is tested.
            let _ = match what {
                0 => region.run(|call| allocate_address(call, Default::default())).map(drop),
                1 => region.run(|call| {
                    let private = target.secondary.first().filter(|_| flag);
                    associate_address(call, api::AssociateAddressRequest {
                        allocation_id: address,
                        network_interface_id: Some(target.id.clone()),
                        private_ip_address: private.map(|own| own.private_ip.to_string()),
                        allow_reassociation: Some(flag),
                        ..Default::default()
                    })
                }).map(drop),
                2 => region.run(|call| {
                    let public_ip = elastic.get(first).map(|address| address.public_ip.to_string());
                    disassociate_address(call, api::DisassociateAddressRequest {
                        public_ip,
                        ..Default::default()
                    })
                }).map(drop),
                3 => region.run(|call| {
                    release_address(call, api::ReleaseAddressRequest {
                        allocation_id: address,
                        ..Default::default()
                    })
                }).map(drop),
                4 if target.attachment.is_none() && interfaces.len() > 3 => {
                    region.run(|call| crate::interface::delete(call, ACCOUNT, target))
                }
                _ => { interface(&region); Ok(()) }
            };
            check(&region)?;
        }
    }
}

#[test]
fn an_automatic_address_gives_way() {
    let region = Region::new();
    let launched = region.ok(run_instances, instance::tests::request(&region));
    let launched = launched.instances.unwrap().remove(0);
    let automatic = launched.public_ip_address.unwrap().parse::<Ipv4Addr>().unwrap();
    let made = region.ok(allocate_address, Default::default());
    let own = launched.network_interfaces.unwrap().remove(0).network_interface_id;
    let input = || api::AssociateAddressRequest {
        allocation_id: made.allocation_id.clone(),
        network_interface_id: own.clone(),
        ..Default::default()
    };
    let first = region.ok(associate_address, input());
    assert_eq!(first, region.ok(associate_address, input()), "twice is once");
    check(&region).unwrap();
    let claim = key::public_address(automatic);
    assert!(region.run(|call| Ok(call.snapshot().get(&claim).is_none())).unwrap());
}

#[test]
fn a_transferred_address_is_the_takers() {
    const TAKER: &str = "111122223333";
    let region = Region::new();
    let made = region.ok(allocate_address, Default::default());
    let offer = api::EnableAddressTransferRequest {
        allocation_id: made.allocation_id.clone(),
        transfer_account_id: Some(TAKER.to_owned()),
        ..Default::default()
    };
    region.ok(transfer::enable_address_transfer, offer.clone());
    let accept = |account| {
        let input = api::AcceptAddressTransferRequest {
            address: made.public_ip.clone(),
            ..Default::default()
        };
        region.run_as(region.name, account, |call| transfer::accept_address_transfer(call, input))
    };
    assert_eq!(accept("444455556666").unwrap_err().code, "InvalidAddress.NotFound");
    // Seven days later the offer has ended.
    region.pass(7 * 86_400_000);
    assert_eq!(accept(TAKER).unwrap_err().code, "InvalidAddress.NotFound");
    region.ok(transfer::enable_address_transfer, offer);
    let taken = accept(TAKER).unwrap().address_transfer.unwrap();
    assert_eq!(taken.address_transfer_status.as_deref(), Some("accepted"));
    let theirs =
        region.run_as(region.name, TAKER, |call| describe_addresses(call, Default::default()));
    let theirs = theirs.unwrap().addresses.unwrap();
    assert_eq!(theirs[0].public_ip, made.public_ip);
    assert_eq!(region.ok(describe_addresses, Default::default()).addresses.unwrap(), []);
    // The giver sees for three days where it went, and has nothing to give any more.
    let shown = || {
        let answer = region.ok(transfer::describe_address_transfers, Default::default());
        answer.address_transfers.unwrap().len()
    };
    assert_eq!(shown(), 1);
    region.pass(3 * 86_400_000);
    assert_eq!(shown(), 0);
    let release = api::ReleaseAddressRequest { public_ip: made.public_ip, ..Default::default() };
    let refusal = region.refused(release_address, release);
    assert!(refusal.starts_with("AuthFailure: The address '"), "{refusal}");
}
