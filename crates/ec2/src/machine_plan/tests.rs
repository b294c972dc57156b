//! The machine of a launched instance, against `tests/plans/instance-metadata.golden`.

use super::*;
use crate::launch::run_instances;
use crate::testing::{ACCOUNT, Region};
use crate::{instance, instance_reconciler, record::key};
use model::ec2 as api;
use std::fmt::Write as _;
use std::path::Path;

/// Values that are random, replaced by what they are.
fn plain(text: &str, spec: &Spec, shown: &api::Instance) -> String {
    let leaves = &spec.metadata.leaves;
    let mac = leaves["meta-data/mac"].clone();
    let of_interface =
        |leaf: &str| leaves[&format!("meta-data/network/interfaces/macs/{mac}/{leaf}")].clone();
    let zone = &leaves["meta-data/placement/availability-zone"];
    let public = leaves["meta-data/public-ipv4"].clone();
    let mut names = vec![
        (spec.id.clone(), "INSTANCE"),
        (leaves["meta-data/ami-id"].clone(), "IMAGE"),
        (leaves["meta-data/reservation-id"].clone(), "RESERVATION"),
        (spec.interfaces[0].id.clone(), "INTERFACE"),
        (of_interface("subnet-id"), "SUBNET"),
        (of_interface("vpc-id"), "VPC"),
        (of_interface("security-group-ids"), "GROUP"),
        (of_interface("subnet-ipv4-cidr-block"), "SUBNET-BLOCK"),
        (leaves["meta-data/local-hostname"].clone(), "PRIVATE-NAME"),
        (leaves["meta-data/public-hostname"].clone(), "PUBLIC-NAME"),
        (leaves["meta-data/local-ipv4"].clone(), "PRIVATE-ADDRESS"),
        (leaves["meta-data/placement/availability-zone-id"].clone(), "ZONE-ID"),
        (zone.clone(), "ZONE"),
        (public, "PUBLIC-ADDRESS"),
        (mac, "MAC"),
    ];
    names.extend(shown.client_token.clone().filter(|t| !t.is_empty()).map(|t| (t, "TOKEN")));
    names.iter().fold(text.to_owned(), |text, (value, name)| text.replace(value, name))
}

#[test]
fn everything_that_imds_says() {
    let region = Region::new();
    let mut request = instance::tests::request(&region);
    request.metadata_options = Some(api::InstanceMetadataOptionsRequest {
        instance_metadata_tags: Some("enabled".to_owned()),
        ..Default::default()
    });
    request.tag_specifications = Some(vec![api::TagSpecification {
        resource_type: Some("instance".to_owned()),
        tags: Some(vec![api::Tag { key: Some("Name".to_owned()), value: Some("web".to_owned()) }]),
    }]);
    request.block_device_mappings = Some(vec![api::BlockDeviceMapping {
        device_name: Some("/dev/sdf".to_owned()),
        ebs: Some(api::EbsBlockDevice { volume_size: Some(1), ..Default::default() }),
        ..Default::default()
    }]);
    let shown = region.ok(run_instances, request).instances.unwrap().remove(0);
    let id = shown.instance_id.clone().unwrap();
    let at = key::of(region.name, key::INSTANCE, ACCOUNT, &id);
    region.run(|call| (instance_reconciler::RECONCILER.run)(call, &at)).unwrap();
    let spec = region.driver.spec(&id).unwrap();
    assert_eq!(spec.volumes[1].device_name, "/dev/sdf");

    // In an order that does not depend on random ids.
    let mut leaves = spec.metadata.leaves.clone();
    for (number, volume) in spec.volumes.iter().enumerate() {
        let at = |id: &str| format!("meta-data/gureum/volumes/{id}");
        let device = leaves.remove(&at(&volume.id.replace('-', ""))).unwrap();
        leaves.insert(at(&format!("VOLUME-{number}")), device);
    }
    let mut output = String::new();
    for (leaf, text) in &leaves {
        let text = text.replace('\n', "\n    ");
        writeln!(output, "{leaf}\n    {text}").unwrap();
    }
    let output = plain(&output, &spec, &shown);
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plans/instance-metadata.golden");
    if std::env::var_os("GUREUM_BLESS").is_some() {
        std::fs::write(&path, &output).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(output, golden, "GUREUM_BLESS=1 accepts the new output");
}

#[test]
fn the_identity_document_is_json() {
    let region = Region::new();
    let request = instance::tests::request(&region);
    let shown = region.ok(run_instances, request).instances.unwrap().remove(0);
    let id = shown.instance_id.clone().unwrap();
    let at = key::of(region.name, key::INSTANCE, ACCOUNT, &id);
    region.run(|call| (instance_reconciler::RECONCILER.run)(call, &at)).unwrap();
    let spec = region.driver.spec(&id).unwrap();
    let document: serde_json::Value =
        serde_json::from_str(&spec.metadata.leaves["dynamic/instance-identity/document"]).unwrap();
    assert_eq!(document["instanceId"], id.as_str());
    assert_eq!(document["pendingTime"], "2026-11-21T10:00:23Z");
    assert_eq!(document["billingProducts"], serde_json::Value::Null);
    assert_eq!(document.as_object().unwrap().len(), 15);
}

#[test]
fn another_spec_has_another_fingerprint() {
    let region = Region::new();
    let mut request = instance::tests::request(&region);
    request.metadata_options = Some(api::InstanceMetadataOptionsRequest {
        instance_metadata_tags: Some("enabled".to_owned()),
        ..Default::default()
    });
    let shown = region.ok(run_instances, request).instances.unwrap().remove(0);
    let at = |kind: &str, id: &str| key::of(region.name, kind, ACCOUNT, id);
    let id = shown.instance_id.unwrap();
    let found = region.run(|call| {
        let instance = call.peek::<Instance>(&at(key::INSTANCE, &id))?.unwrap();
        let interface = call.peek::<Interface>(&at(key::INTERFACE, &instance.interface_id))?;
        let subnet = call.peek::<Subnet>(&at(key::SUBNET, &instance.subnet_id))?;
        let vpc = call.peek::<Vpc>(&at(key::VPC, &instance.vpc_id))?;
        Ok((instance, interface.unwrap(), subnet.unwrap(), vpc.unwrap()))
    });
    let (instance, interface, subnet, vpc) = found.unwrap();
    type Records = (Instance, Interface, Subnet, Vpc, Vec<String>);
    let records: Records = (
        (*instance).clone(),
        (*interface).clone(),
        (*subnet).clone(),
        (*vpc).clone(),
        vec!["default".to_owned()],
    );
    let of = |(instance, interface, subnet, vpc, group_names): &Records| {
        let place = Place {
            interface: Arc::new(interface.clone()),
            subnet: Some(Arc::new(subnet.clone())),
            vpc: Some(Arc::new(vpc.clone())),
            group_names: group_names.clone(),
        };
        let (region, places) = (region.name, [place]);
        let sources = Sources { region, account: ACCOUNT, instance, places: &places };
        let wanted = wanted(instance).unwrap();
        (spec(&sources, wanted), fingerprint(&sources, wanted))
    };
    let before = of(&records);
    let other: &[fn(&mut Records)] = &[
        |(i, ..)| i.reboots += 1,
        |(i, ..)| i.start += 1,
        |(i, ..)| i.state = InstanceState::Stopping,
        |(i, ..)| i.state = InstanceState::ShuttingDown,
        |(i, ..)| i.image_key.push('x'),
        |(i, ..)| i.instance_type = "t3.large".to_owned(),
        |(i, ..)| i.public_key = Some("ssh-ed25519 AAAA".to_owned()),
        |(i, ..)| i.public_ip = None,
        |(i, ..)| i.user_data = Some(b"#!/bin/sh".to_vec()),
        |(i, ..)| i.launched = i.launched.plus_millis(1_000),
        |(i, ..)| i.monitoring = true,
        |(i, ..)| i.metadata_options.tokens_required ^= true,
        |(i, ..)| i.metadata_options.hop_limit += 1,
        |(i, ..)| i.volumes[0].device_name.push('1'),
        |(i, ..)| drop(i.tags.insert("Name".to_owned(), "web".to_owned())),
        |(_, n, ..)| n.groups.push("sg-1".to_owned()),
        |(_, n, ..)| n.mac = "0a:00:00:00:00:01".to_owned(),
        |(_, n, ..)| n.ipv6.push("fd00::5".parse().unwrap()),
        |(_, n, ..)| n.ipv6_prefixes.push("fd00::/80".parse().unwrap()),
        |(_, n, ..)| n.prefixes.push("10.0.0.16/28".parse().unwrap()),
        |(i, ..)| i.name_options.resource_name = true,
        |(_, n, ..)| {
            let private_ip = "10.0.0.9".parse().unwrap();
            n.secondary.push(crate::record::SecondaryAddress { private_ip, elastic: None });
        },
        |(_, _, s, ..)| s.cidr = "10.0.0.0/24".parse().unwrap(),
        |(_, _, _, v, _)| v.dns_hostnames ^= true,
        |(_, _, _, v, _)| v.cidr = "10.0.0.0/16".parse().unwrap(),
        |(.., names)| names.push("web".to_owned()),
    ];
    for (number, change) in other.iter().enumerate() {
        let mut changed = records.clone();
        change(&mut changed);
        let after = of(&changed);
        assert_ne!(before.0, after.0, "{number}");
        assert_ne!(before.1, after.1, "{number}");
    }
    let same: &[fn(&mut Records)] = &[
        |(i, ..)| i.state = InstanceState::Running,
        |(i, ..)| i.reachable = Some(true),
        |(i, ..)| i.state_changed = i.state_changed.plus_millis(1),
        |(i, ..)| i.disable_api_stop ^= true,
        |(_, _, s, ..)| drop(s.tags.insert("Name".to_owned(), "web".to_owned())),
    ];
    for change in same {
        let mut changed = records.clone();
        change(&mut changed);
        assert_eq!(before, of(&changed));
    }
}
