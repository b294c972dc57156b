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
    assert_eq!((spec.volumes[1].size_gib, &spec.volumes[1].source), (1, &None));

    let mut output = String::new();
    for (leaf, text) in &spec.metadata.leaves {
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
