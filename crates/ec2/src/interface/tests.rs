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
