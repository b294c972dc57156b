//! Handlers of instances on a region in memory.

use super::*;
use crate::instance_reconciler::RECONCILER;
use crate::launch::run_instances;
use crate::record::{Interface, Volume};
use crate::testing::{ACCOUNT, Region, filter, list};
use base::machine::{Driver, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;

pub(crate) use super::lifecycle::{
    reboot_instances as reboot, start_instances as start, stop_instances as stop,
    terminate_instances as terminate,
};

/// A launch request for one instance of the first image.
pub(crate) fn request(region: &Region) -> api::RunInstancesRequest {
    api::RunInstancesRequest {
        image_id: Some(crate::image::id_for_tests(region.name)),
        instance_type: Some("t3.micro".to_owned()),
        min_count: Some(1),
        max_count: Some(1),
        ..Default::default()
    }
}

fn launch(region: &Region, request: api::RunInstancesRequest) -> api::Instance {
    region.ok(run_instances, request).instances.unwrap().remove(0)
}

/// Launches an instance whose machine runs.
fn running(region: &Region, request: api::RunInstancesRequest) -> String {
    let id = launch(region, request).instance_id.unwrap();
    let state = State::Running { start: 1, reboots: 0, reachable: Some(true) };
    machine(region, &id, state);
    id
}

/// The machine is in this state, and the reconciler was told.
fn machine(region: &Region, id: &str, state: State) {
    region.driver.set(id, state);
    let key = key::of(region.name, key::INSTANCE, ACCOUNT, id);
    for _ in 0..3 {
        region.run(|call| (RECONCILER.run)(call, &key)).unwrap();
    }
}

fn stopped(region: &Region, id: &str) {
    let input = api::StopInstancesRequest { instance_ids: list(&[id]), ..Default::default() };
    region.ok(stop, input);
    let cause = base::machine::ExitCause::Requested;
    machine(region, id, State::Exited { start: 1, cause });
}

fn gone(region: &Region, id: &str) {
    region.ok(terminate, terminate_input(&[id]));
    machine(region, id, State::Gone);
}

fn terminate_input(ids: &[&str]) -> api::TerminateInstancesRequest {
    api::TerminateInstancesRequest { instance_ids: list(ids), ..Default::default() }
}

fn describe(region: &Region, input: api::DescribeInstancesRequest) -> Vec<api::Instance> {
    let answer = region.ok(describe::describe_instances, input);
    answer.reservations.unwrap().into_iter().flat_map(|r| r.instances.unwrap()).collect()
}

fn one(region: &Region, id: &str) -> api::Instance {
    let input = api::DescribeInstancesRequest { instance_ids: list(&[id]), ..Default::default() };
    describe(region, input).remove(0)
}

fn matching(region: &Region, name: &str, values: &[&str]) -> BTreeSet<String> {
    let input = api::DescribeInstancesRequest {
        filters: Some(vec![filter(name, values)]),
        ..Default::default()
    };
    describe(region, input).into_iter().filter_map(|instance| instance.instance_id).collect()
}

#[test]
fn a_launch_shows_everything() {
    let region = Region::new();
    let instance = launch(&region, request(&region));
    assert_eq!(instance.state.unwrap().name.unwrap(), "pending");
    let id = instance.instance_id.unwrap();
    machine(&region, &id, State::Running { start: 1, reboots: 0, reachable: Some(true) });
    let shown = one(&region, &id);
    let interface = &shown.network_interfaces.as_ref().unwrap()[0];
    let address: std::net::Ipv4Addr = shown.private_ip_address.as_ref().unwrap().parse().unwrap();
    let [a, b, c, d] = address.octets();
    assert_eq!(shown.private_dns_name.unwrap(), format!("ip-{a}-{b}-{c}-{d}.ec2.internal"));
    assert_eq!(interface.private_ip_address, shown.private_ip_address);
    let public = interface.association.as_ref().unwrap().public_ip.as_ref();
    assert_eq!(public, shown.public_ip_address.as_ref());
    assert!(shown.public_dns_name.unwrap().ends_with(".compute-1.amazonaws.com"));
    assert_eq!(shown.security_groups.unwrap()[0].group_name.as_deref(), Some("default"));
    let mapping = &shown.block_device_mappings.unwrap()[0];
    assert_eq!(mapping.ebs.as_ref().unwrap().delete_on_termination, Some(true));
    assert_eq!(mapping.device_name, shown.root_device_name);
    let cpu = shown.cpu_options.unwrap();
    assert_eq!((cpu.core_count, cpu.threads_per_core), (Some(1), Some(2)));
    assert_eq!(
        shown
            .capacity_reservation_specification
            .unwrap()
            .capacity_reservation_preference
            .as_deref(),
        Some("open")
    );
    let options = shown.metadata_options.unwrap();
    // As the image says (EC2 User Guide, "Instance metadata options").
    let required = crate::image::built_in()[0].imds_v2;
    let expected = if required { ("required", 2) } else { ("optional", 1) };
    assert_eq!(options.http_tokens.as_deref(), Some(expected.0));
    assert_eq!(options.http_put_response_hop_limit, Some(expected.1));
    let spec = region.driver.spec(&id).unwrap();
    assert_eq!(spec.image, "", "the firmware boots it");
    assert_eq!((spec.vcpus, spec.memory_mib), (2, 1024));
    assert_eq!(spec.metadata.leaves["meta-data/local-ipv4"], address.to_string());
}

#[test]
fn a_terminated_instance_has_no_network_and_vanishes_later() {
    let region = Region::new();
    let id = running(&region, request(&region));
    gone(&region, &id);
    let shown = one(&region, &id);
    assert_eq!(shown.state.unwrap().code, Some(48));
    assert_eq!(shown.network_interfaces.unwrap(), vec![]);
    assert_eq!(shown.block_device_mappings.unwrap(), vec![]);
    assert_eq!((shown.vpc_id, shown.subnet_id, shown.private_ip_address), (None, None, None));
    region.pass(3_600_000);
    machine(&region, &id, State::Gone);
    let input = api::DescribeInstancesRequest { instance_ids: list(&[&id]), ..Default::default() };
    assert_eq!(
        region.refused(describe::describe_instances, input),
        format!("InvalidInstanceID.NotFound: The instance ID '{id}' does not exist")
    );
    assert_eq!(region.driver.state(&id), State::Absent);
}

#[test]
fn addresses_are_unique_and_run_out() {
    let region = Region::new();
    let mut many = request(&region);
    // The pool of the tests has 256 addresses, of which three are not given away.
    (many.min_count, many.max_count) = (Some(200), Some(300));
    let instances = region.ok(run_instances, many.clone()).instances.unwrap();
    assert_eq!(instances.len(), 253, "as many as there are public addresses");
    for of in [
        |i: &api::Instance| i.private_ip_address.clone(),
        |i: &api::Instance| i.public_ip_address.clone(),
        |i: &api::Instance| i.instance_id.clone(),
    ] {
        assert_eq!(instances.iter().filter_map(of).collect::<BTreeSet<_>>().len(), 253);
    }
    let refusal = region.refused(run_instances, many.clone());
    assert!(refusal.starts_with("InsufficientAddressCapacity: "), "{refusal}");
    many.network_interfaces = Some(vec![api::InstanceNetworkInterfaceSpecification {
        device_index: Some(0),
        associate_public_ip_address: Some(false),
        ..Default::default()
    }]);
    let private = region.ok(run_instances, many).instances.unwrap();
    assert_eq!(private.len(), 300);
    assert!(private.iter().all(|instance| instance.public_ip_address.is_none()));
}

#[test]
fn a_launch_is_refused_as_in_aws() {
    let region = Region::new();
    let refuse = |change: fn(&mut api::RunInstancesRequest), expected: &str| {
        let mut input = request(&region);
        change(&mut input);
        let refusal = region.refused(run_instances, input);
        assert!(refusal.starts_with(expected), "{refusal}");
    };
    refuse(
        |r| r.image_id = None,
        "MissingParameter: The request must contain the parameter ImageId",
    );
    refuse(|r| r.image_id = Some("ami-12345678".to_owned()), "InvalidAMIID.NotFound: ");
    refuse(|r| r.min_count = Some(0), "InvalidParameterValue: ");
    refuse(|r| r.min_count = Some(2), "InvalidParameterCombination: ");
    refuse(|r| r.key_name = Some("k".to_owned()), "InvalidKeyPair.NotFound: The key pair 'k' does");
    refuse(
        |r| r.instance_type = Some("t4g.micro".to_owned()),
        "InvalidParameterValue: The architecture 'arm64' of the specified instance type does not \
         match the architecture 'x86_64' of the specified AMI.",
    );
    refuse(
        |r| r.user_data = Some(STANDARD.encode(vec![b'x'; 16_385])),
        "InvalidParameterValue: User data is limited to 16384 bytes",
    );
    refuse(
        |r| r.user_data = Some("#!".to_owned()),
        "InvalidParameterValue: Invalid BASE64 encoding of user data.",
    );
    refuse(
        |r| r.subnet_id = Some("subnet-12345678".to_owned()),
        "InvalidSubnetID.NotFound: The subnet ID 'subnet-12345678' does not exist",
    );
    refuse(
        |r| r.security_group_ids = list(&["sg-12345678"]),
        "InvalidGroup.NotFound: The security group 'sg-12345678' does not exist",
    );
    refuse(
        |r| r.private_ip_address = Some("172.32.0.1".to_owned()),
        "InvalidParameterValue: Address 172.32.0.1 does not fall within the subnet's address range",
    );
    refuse(
        |r| {
            r.metadata_options = Some(api::InstanceMetadataOptionsRequest {
                http_put_response_hop_limit: Some(65),
                ..Default::default()
            });
        },
        "InvalidParameterValue: Value (65) for parameter HttpPutResponseHopLimit is invalid",
    );
    refuse(
        |r| {
            r.hibernation_options = Some(api::HibernationOptionsRequest { configured: Some(true) });
        },
        "UnsupportedOperation: HibernationOptions.Configured=true",
    );
    refuse(
        |r| {
            r.placement =
                Some(api::Placement { tenancy: Some("host".to_owned()), ..Default::default() });
        },
        "UnsupportedOperation: Placement.Tenancy=host",
    );
    assert_eq!(matching(&region, "instance-id", &["i-*"]).len(), 0, "nothing was left behind");
    let claims = region.run(|call| Ok(call.snapshot().scan("/public-address/").count()));
    assert_eq!(claims.unwrap(), 0);
}

#[test]
fn user_data_and_its_line_ends() {
    let region = Region::new();
    let script = vec![b'x'; 16_384];
    let mut text = STANDARD.encode(&script);
    text.insert(76, '\n');
    let id =
        running(&region, api::RunInstancesRequest { user_data: Some(text), ..request(&region) });
    assert_eq!(region.driver.spec(&id).unwrap().metadata.user_data.as_ref(), Some(&script));
    let ask = |attribute: &str| api::DescribeInstanceAttributeRequest {
        attribute: Some(attribute.to_owned()),
        instance_id: Some(id.clone()),
        ..Default::default()
    };
    let shown = region.ok(attribute::describe_instance_attribute, ask("userData"));
    assert_eq!(shown.user_data.unwrap().value, Some(STANDARD.encode(&script)));
    let change = || api::ModifyInstanceAttributeRequest {
        instance_id: Some(id.clone()),
        user_data: Some(api::BlobAttributeValue { value: Some(b"new".to_vec()) }),
        ..Default::default()
    };
    assert_eq!(
        region.refused(attribute::modify_instance_attribute, change()),
        format!("IncorrectInstanceState: The instance '{id}' is not in the 'stopped' state.")
    );
    stopped(&region, &id);
    region.ok(attribute::modify_instance_attribute, change());
    let shown = region.ok(attribute::describe_instance_attribute, ask("userData"));
    assert_eq!(shown.user_data.unwrap().value.as_deref(), Some("bmV3"));
}

#[test]
fn protected_instances_spare_their_zone() {
    let region = Region::new();
    let in_zone = |zone: &str, protected: bool| {
        let mut input = request(&region);
        input.placement =
            Some(api::Placement { availability_zone: Some(zone.to_owned()), ..Default::default() });
        input.disable_api_termination = Some(protected);
        running(&region, input)
    };
    let a = in_zone("us-east-1a", false);
    let b = in_zone("us-east-1a", false);
    let c = in_zone("us-east-1b", true);
    let d = in_zone("us-east-1b", false);
    let refusal = region
        .run(|call| {
            terminate(call, terminate_input(&[&a, &b, &c, &d]))?;
            Ok(call.partial_refusal())
        })
        .unwrap()
        .unwrap();
    assert_eq!(
        refusal.to_string(),
        format!(
            "OperationNotPermitted: The instance '{c}' may not be terminated. Modify its \
             'disableApiTermination' instance attribute and try again."
        )
    );
    assert_eq!(matching(&region, "instance-state-name", &["shutting-down"]), [a, b].into());
    assert_eq!(matching(&region, "instance-state-name", &["running"]), [c, d].into());
}

#[test]
fn a_wrong_id_fails_the_whole_request() {
    let region = Region::new();
    let id = running(&region, request(&region));
    assert_eq!(
        region.refused(terminate, terminate_input(&[&id, "i-12345678", "i-87654321"])),
        "InvalidInstanceID.NotFound: The instance IDs 'i-12345678, i-87654321' do not exist"
    );
    assert_eq!(
        region.refused(terminate, terminate_input(&[&id, "i-xyz"])),
        "InvalidInstanceID.Malformed: Invalid id: \"i-xyz\""
    );
    assert_eq!(one(&region, &id).state.unwrap().name.as_deref(), Some("running"));
}

#[test]
fn a_thousand_instances_end_in_one_request() {
    let region = Region::new();
    let mut many = request(&region);
    (many.min_count, many.max_count) = (Some(1_000), Some(1_000));
    many.network_interfaces = Some(vec![api::InstanceNetworkInterfaceSpecification {
        device_index: Some(0),
        associate_public_ip_address: Some(false),
        ..Default::default()
    }]);
    let instances = region.ok(run_instances, many).instances.unwrap();
    let ids: Vec<String> = instances.into_iter().filter_map(|i| i.instance_id).collect();
    let input = api::TerminateInstancesRequest { instance_ids: Some(ids), ..Default::default() };
    assert_eq!(region.ok(terminate, input).terminating_instances.unwrap().len(), 1_000);
}

#[test]
fn every_filter_is_documented_behaviour() {
    let region = Region::new();
    let mut tagged = request(&region);
    tagged.tag_specifications = Some(vec![api::TagSpecification {
        resource_type: Some("instance".to_owned()),
        tags: Some(vec![api::Tag { key: Some("Name".to_owned()), value: Some("web".to_owned()) }]),
    }]);
    let a = running(&region, tagged);
    let b = launch(&region, request(&region)).instance_id.unwrap();
    let shown = one(&region, &a);
    let interface = &shown.network_interfaces.as_ref().unwrap()[0];
    let text = |value: &Option<String>| value.clone().unwrap();
    for (name, value) in [
        ("tag:Name", "w?b".to_owned()),
        ("tag-key", "Na*".to_owned()),
        ("instance-state-name", "running".to_owned()),
        ("instance-state-code", "16".to_owned()),
        ("ip-address", text(&shown.public_ip_address)),
        ("private-ip-address", text(&shown.private_ip_address)),
        ("dns-name", text(&shown.public_dns_name)),
        ("network-interface.mac-address", text(&interface.mac_address)),
        ("network-interface.network-interface-id", text(&interface.network_interface_id)),
        ("instance-id", a.clone()),
    ] {
        assert_eq!(matching(&region, name, &[&value]), [a.clone()].into(), "{name}");
    }
    for (name, value) in [
        ("tenancy", "default"),
        ("instance.group-name", "default"),
        ("architecture", "x86_64"),
        ("root-device-type", "ebs"),
        ("launch-time", "2026-11-21T*"),
        ("owner-id", ACCOUNT),
    ] {
        assert_eq!(matching(&region, name, &[value]), [a.clone(), b.clone()].into(), "{name}");
    }
    assert_eq!(matching(&region, "platform", &["windows"]).len(), 0);
    let input = api::DescribeInstancesRequest {
        filters: Some(vec![filter("nonsense", &["x"])]),
        ..Default::default()
    };
    assert_eq!(
        region.refused(describe::describe_instances, input),
        "InvalidParameterValue: The filter 'nonsense' is invalid"
    );
}

#[test]
fn pages_of_instances() {
    let region = Region::new();
    let mut many = request(&region);
    (many.min_count, many.max_count) = (Some(12), Some(12));
    region.ok(run_instances, many);
    let mut seen = BTreeSet::new();
    let mut next_token = None;
    for size in [5, 5, 2] {
        let input = api::DescribeInstancesRequest {
            max_results: Some(5),
            next_token: next_token.take(),
            ..Default::default()
        };
        let answer = region.ok(describe::describe_instances, input);
        let reservations = answer.reservations.unwrap();
        assert_eq!(reservations.len(), 1);
        let page = reservations[0].instances.as_ref().unwrap();
        assert_eq!(page.len(), size);
        seen.extend(page.iter().filter_map(|instance| instance.instance_id.clone()));
        next_token = answer.next_token;
    }
    assert_eq!((seen.len(), next_token), (12, None));
    let both = api::DescribeInstancesRequest {
        instance_ids: Some(seen.into_iter().collect()),
        max_results: Some(5),
        ..Default::default()
    };
    assert_eq!(
        region.refused(describe::describe_instances, both),
        "InvalidParameterCombination: The parameter instancesSet cannot be used with the \
         parameter maxResults"
    );
}

#[test]
fn status_checks() {
    let region = Region::new();
    let id = launch(&region, request(&region)).instance_id.unwrap();
    let ask = |all| {
        let input = api::DescribeInstanceStatusRequest {
            include_all_instances: Some(all),
            ..Default::default()
        };
        region.ok(status::describe_instance_status, input).instance_statuses.unwrap()
    };
    assert_eq!(ask(false).len(), 0, "only running instances");
    let of = |all| {
        let shown = ask(all).remove(0);
        (
            shown.instance_status.unwrap().status.unwrap(),
            shown.system_status.unwrap().status.unwrap(),
        )
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(of(true), pair("not-applicable", "not-applicable"));
    let up = |reachable| State::Running { start: 1, reboots: 0, reachable };
    machine(&region, &id, up(None));
    assert_eq!(of(false), pair("initializing", "initializing"));
    machine(&region, &id, up(Some(true)));
    assert_eq!(of(false), pair("ok", "ok"));
    machine(&region, &id, up(Some(false)));
    assert_eq!(of(false), pair("impaired", "ok"));
}

#[test]
fn attributes_change_and_reset() {
    let region = Region::new();
    let id = running(&region, request(&region));
    let modify = |change: fn(&mut api::ModifyInstanceAttributeRequest)| {
        let mut input = api::ModifyInstanceAttributeRequest {
            instance_id: Some(id.clone()),
            ..Default::default()
        };
        change(&mut input);
        region.run(|call| attribute::modify_instance_attribute(call, input)).map(|_| ())
    };
    assert_eq!(
        modify(|_| {}).unwrap_err().to_string(),
        "InvalidParameterCombination: No attributes specified."
    );
    modify(|r| {
        r.source_dest_check = Some(api::AttributeBooleanValue { value: Some(false) });
    })
    .unwrap();
    let shown = one(&region, &id);
    assert_eq!(shown.source_dest_check, Some(false));
    assert_eq!(shown.network_interfaces.unwrap()[0].source_dest_check, Some(false));
    region.ok(
        attribute::reset_instance_attribute,
        api::ResetInstanceAttributeRequest {
            attribute: Some("sourceDestCheck".to_owned()),
            instance_id: Some(id.clone()),
            ..Default::default()
        },
    );
    assert_eq!(one(&region, &id).source_dest_check, Some(true));
    modify(|r| {
        r.attribute = Some("disableApiTermination".to_owned());
        r.value = Some("true".to_owned());
    })
    .unwrap();
    let refusal = region.run(|call| {
        terminate(call, terminate_input(&[&id]))?;
        Ok(call.partial_refusal())
    });
    assert_eq!(refusal.unwrap().unwrap().code, "OperationNotPermitted");
    modify(|r| {
        r.disable_api_termination = Some(api::AttributeBooleanValue { value: Some(false) });
    })
    .unwrap();
    modify(|r| {
        r.block_device_mappings = Some(vec![api::InstanceBlockDeviceMappingSpecification {
            device_name: Some("/dev/xvda".to_owned()),
            ebs: Some(api::EbsInstanceBlockDeviceSpecification {
                delete_on_termination: Some(false),
                ..Default::default()
            }),
            ..Default::default()
        }]);
    })
    .unwrap();
    let bigger = |r: &mut api::ModifyInstanceAttributeRequest| {
        r.instance_type = Some(api::AttributeValue { value: Some("m5.large".to_owned()) });
    };
    assert_eq!(modify(bigger).unwrap_err().code, "IncorrectInstanceState");
    stopped(&region, &id);
    modify(bigger).unwrap();
    let shown = one(&region, &id);
    assert_eq!(shown.instance_type.as_deref(), Some("m5.large"));
    let credits = api::DescribeInstanceCreditSpecificationsRequest {
        instance_ids: list(&[&id]),
        ..Default::default()
    };
    let refusal = region.refused(attribute::describe_instance_credit_specifications, credits);
    assert!(refusal.starts_with("UnsupportedOperation: "), "{refusal}");
    gone(&region, &id);
    let volumes: Vec<std::sync::Arc<Volume>> =
        region.run(|call| call.scan(&key::of(region.name, key::VOLUME, ACCOUNT, ""))).unwrap();
    assert_eq!(volumes.len(), 1, "the root volume outlived its instance");
    assert_eq!(volumes[0].attachments, [""; 0]);
}

#[test]
fn network_interfaces_of_a_launch() {
    let region = Region::new();
    let mut input = request(&region);
    input.network_interfaces = Some(vec![api::InstanceNetworkInterfaceSpecification {
        device_index: Some(0),
        associate_public_ip_address: Some(false),
        description: Some("primary".to_owned()),
        private_ip_address: None,
        ..Default::default()
    }]);
    let id = running(&region, input.clone());
    let shown = one(&region, &id);
    assert_eq!(shown.public_ip_address, None);
    let interface_id = shown.network_interfaces.unwrap()[0].network_interface_id.clone().unwrap();
    let at = key::of(region.name, key::INTERFACE, ACCOUNT, &interface_id);
    let interface = region.run(|call| call.peek::<Interface>(&at)).unwrap().unwrap();
    assert_eq!(interface.description, "primary");
    input.security_group_ids = list(&["sg-12345678"]);
    assert_eq!(
        region.refused(run_instances, input.clone()),
        "InvalidParameterCombination: Network interfaces and an instance-level security groups \
         may not be specified on the same request"
    );
    input.security_group_ids = None;
    let interfaces = input.network_interfaces.as_mut().unwrap();
    interfaces[0].subnet_id = shown.subnet_id;
    interfaces[0].private_ip_address = shown.private_ip_address.clone();
    let address = shown.private_ip_address.unwrap();
    assert_eq!(
        region.refused(run_instances, input),
        format!("InvalidIPAddress.InUse: Address {address} is in use.")
    );
}

#[test]
fn an_automatic_address_is_none_that_the_launch_names() {
    let region = Region::new();
    let subnet = region
        .run(|call| {
            let vpc = crate::vpc::default_vpc(call)?;
            let small = "172.31.240.0/28".parse().unwrap();
            let subnet =
                crate::subnet::new(call, &vpc, small, "us-east-1a", crate::record::Tags::new());
            let id = subnet.id.clone();
            crate::subnet::stage(call, subnet)?;
            Ok(id)
        })
        .unwrap();
    // Eleven are free: all but one are named by the second interface.
    let named = (5..15).map(|last| api::PrivateIpAddressSpecification {
        primary: Some(last == 5),
        private_ip_address: Some(format!("172.31.240.{last}")),
    });
    let place = |index: i32| api::InstanceNetworkInterfaceSpecification {
        device_index: Some(index),
        subnet_id: Some(subnet.clone()),
        ..Default::default()
    };
    let mut input = request(&region);
    input.instance_type = Some("m5.large".to_owned());
    input.network_interfaces = Some(vec![
        place(0),
        api::InstanceNetworkInterfaceSpecification {
            private_ip_addresses: Some(named.collect()),
            ..place(1)
        },
    ]);
    assert_eq!(launch(&region, input).private_ip_address.as_deref(), Some("172.31.240.4"));
}

#[test]
fn an_interface_that_another_instance_has_outlives_this_one() {
    let region = Region::new();
    let id = running(&region, request(&region));
    let interface_id =
        one(&region, &id).network_interfaces.unwrap()[0].network_interface_id.clone();
    let at = key::of(region.name, key::INTERFACE, ACCOUNT, &interface_id.unwrap());
    region
        .run(|call| {
            let mut interface = Interface::clone(&*call.get::<Interface>(&at)?.unwrap());
            interface.attachment.as_mut().unwrap().instance_id = "i-another".to_owned();
            call.put(&at, interface);
            Ok(())
        })
        .unwrap();
    gone(&region, &id);
    let left = region.run(|call| call.peek::<Interface>(&at)).unwrap().unwrap();
    assert_eq!(left.attachment.as_ref().unwrap().instance_id, "i-another");
}

/// DescribeInstances answers with kept pieces; `describe_instances` makes the same from the records.
fn check_answer(region: &Region) {
    let encoded = |answer: &dyn wire::Shape| {
        let service = &model::ec2::SERVICE;
        let operation = describe::OPERATION.model;
        let response = wire::server::encode(service, wire::Protocol::Ec2, operation, answer, 0);
        String::from_utf8(response.body("request-1")).unwrap()
    };
    let made = region.ok(describe::describe_instances, api::DescribeInstancesRequest::default());
    let made = encoded(&made);
    for _ in 0..2 {
        let input = api::DescribeInstancesRequest::default();
        let shown = region.run(|call| (describe::OPERATION.run)(call, &input)).unwrap();
        assert_eq!(encoded(shown.as_ref()), made);
    }
}

#[test]
fn kept_descriptions_follow_their_records() {
    let region = Region::new();
    check_answer(&region);
    let mut several = request(&region);
    (several.min_count, several.max_count) = (Some(2), Some(2));
    region.ok(run_instances, several);
    let id = launch(&region, request(&region)).instance_id.unwrap();
    check_answer(&region);
    machine(&region, &id, State::Running { start: 1, reboots: 0, reachable: Some(true) });
    check_answer(&region);
    // Of the description alone, not of the instance's record.
    let change_interface = |change: fn(&mut crate::record::Interface)| {
        region
            .run(|call| {
                let at = super::key_of(call, &id);
                let interface_id = call.get::<Instance>(&at)?.unwrap().interface_id.clone();
                let at = key::of(region.name, key::INTERFACE, ACCOUNT, &interface_id);
                let mut interface = (*call.get::<crate::record::Interface>(&at)?.unwrap()).clone();
                change(&mut interface);
                call.put(&at, interface);
                Ok(())
            })
            .unwrap();
        check_answer(&region);
    };
    change_interface(|interface| interface.description = "of the web".to_owned());
    change_interface(|interface| interface.groups.clear());
    region
        .run(|call| {
            let at = key::of(region.name, key::VPC, ACCOUNT, "");
            let mut vpc = (*call.scan::<crate::record::Vpc>(&at)?[0]).clone();
            vpc.dns_hostnames = !vpc.dns_hostnames;
            call.put(&format!("{at}{}", vpc.id.clone()), vpc);
            Ok(())
        })
        .unwrap();
    check_answer(&region);
    stopped(&region, &id);
    check_answer(&region);
    gone(&region, &id);
    check_answer(&region);
}
