//! ModifyVolume and DescribeVolumesModifications.

use super::*;
use crate::record::ModificationState;
use crate::volume::modify::{OPTIMIZING_MILLIS, describe_volumes_modifications, modify_volume};

fn modification(id: &str) -> api::ModifyVolumeRequest {
    api::ModifyVolumeRequest { volume_id: Some(id.to_owned()), ..Default::default() }
}

fn modified(region: &Region, id: &str) -> api::VolumeModification {
    let input =
        api::DescribeVolumesModificationsRequest { volume_ids: list(&[id]), ..Default::default() };
    let answer = region.ok(describe_volumes_modifications, input);
    answer.volumes_modifications.unwrap().remove(0)
}

/// Grows a volume by a GiB and lets the modification end.
fn grow(region: &Region, id: &str) {
    let size = shown(region, id).size.map(|size| size + 1);
    region.ok(modify_volume, api::ModifyVolumeRequest { size, ..modification(id) });
    disks::obey(region, id);
    region.pass(OPTIMIZING_MILLIS);
    disks::reconcile(region, id);
}

#[test]
fn a_modification_goes_through_its_states() {
    let region = Region::new();
    let id = available(&region, 8, "gp2");
    let wish = api::ModifyVolumeRequest {
        size: Some(10),
        volume_type: Some("gp3".to_owned()),
        throughput: Some(250),
        ..modification(&id)
    };
    let asked = region.ok(modify_volume, wish).volume_modification.unwrap();
    assert_eq!(asked.modification_state.as_deref(), Some("modifying"));
    assert_eq!((asked.original_size, asked.target_size), (Some(8), Some(10)));
    assert_eq!((asked.original_iops, asked.target_iops), (Some(100), Some(3_000)));
    assert_eq!((asked.original_throughput, asked.target_throughput), (None, Some(250)));
    assert_eq!(asked.progress, Some(0));
    assert_eq!(shown(&region, &id).size, Some(8), "until the node has done it");
    disks::reconcile(&region, &id);
    let spec = region.driver.volume_spec(&id).unwrap();
    assert_eq!((spec.size_gib, spec.limits.bytes.unwrap().base), (10, 250 << 20));
    assert_eq!(shown(&region, &id).size, Some(8));
    disks::obey(&region, &id);
    let now = shown(&region, &id);
    assert_eq!((now.size, now.volume_type.as_deref()), (Some(10), Some("gp3")));
    assert_eq!(modified(&region, &id).modification_state.as_deref(), Some("optimizing"));
    region.pass(OPTIMIZING_MILLIS / 2);
    disks::reconcile(&region, &id);
    assert_eq!(modified(&region, &id).progress, Some(50));
    region.pass(OPTIMIZING_MILLIS / 2);
    disks::reconcile(&region, &id);
    let ended = modified(&region, &id);
    assert_eq!(ended.modification_state.as_deref(), Some("completed"));
    assert_eq!(ended.progress, Some(100));
    assert!(ended.end_time.is_some());
    assert_eq!(disks::reconcile(&region, &id), 0);
    let found = api::DescribeVolumesModificationsRequest {
        filters: Some(vec![filter("target-size", &["10"]), filter("original-iops", &["100"])]),
        ..Default::default()
    };
    let answer = region.ok(describe_volumes_modifications, found);
    assert_eq!(answer.volumes_modifications.unwrap().len(), 1);
}

#[test]
fn modifications_are_one_at_a_time_and_four_a_day() {
    let region = Region::new();
    let id = available(&region, 8, "gp3");
    let ask = || api::ModifyVolumeRequest { size: Some(100), ..modification(&id) };
    region.ok(modify_volume, api::ModifyVolumeRequest { size: Some(9), ..ask() });
    assert_eq!(
        region.refused(modify_volume, ask()),
        format!(
            "IncorrectModificationState: Volume {id} cannot be modified in modification state \
             MODIFYING"
        )
    );
    disks::obey(&region, &id);
    assert!(region.refused(modify_volume, ask()).ends_with("state OPTIMIZING"));
    region.pass(OPTIMIZING_MILLIS);
    disks::reconcile(&region, &id);
    for _ in 0..3 {
        grow(&region, &id);
    }
    let refusal = region.refused(modify_volume, ask());
    let expected = "VolumeModificationRateExceeded: You've reached the maximum modification rate \
                    per volume limit.";
    assert!(refusal.starts_with(expected), "{refusal}");
    region.pass(24 * 3_600_000 - 21_000);
    assert!(region.refused(modify_volume, ask()).starts_with(expected));
    region.pass(1_000);
    grow(&region, &id);
    let known = disks::record(&region, &id).unwrap();
    assert!(known.modifications.len() <= 4, "what is older is dropped");
    assert_eq!(known.modifications.last().unwrap().state, ModificationState::Completed);
}

#[test]
fn modifications_that_cannot_be_are_refused() {
    let region = Region::new();
    let refused = |request| region.refused(modify_volume, request);
    assert!(refused(modification("vol-0123456789abcdef0")).starts_with("InvalidVolume.NotFound"));
    let id = create(&region, 8, "gp3");
    let grown = |id: &str| api::ModifyVolumeRequest { size: Some(9), ..modification(id) };
    assert_eq!(refused(grown(&id)), format!("IncorrectState: {id} is not 'available'."));
    disks::obey(&region, &id);
    assert!(refused(modification(&id)).starts_with("MissingParameter: "));
    assert_eq!(
        refused(api::ModifyVolumeRequest { size: Some(7), ..modification(&id) }),
        "InvalidParameterValue: New size cannot be smaller than existing size"
    );
    let to = |kind: &str| api::ModifyVolumeRequest {
        volume_type: Some(kind.to_owned()),
        ..modification(&id)
    };
    assert!(refused(to("st1")).starts_with("InvalidParameterValue: "), "too small");
    assert!(refused(to("io1")).starts_with("InvalidParameterValue: "), "3,000 IOPS need 60 GiB");
    let many = api::ModifyVolumeRequest { iops: Some(80_001), ..modification(&id) };
    assert!(refused(many).starts_with("InvalidParameterValue: "));
    let wide = api::ModifyVolumeRequest { throughput: Some(126), ..to("gp2") };
    assert!(refused(wide).starts_with("InvalidParameterCombination: "));
    let shared_gp3 =
        api::ModifyVolumeRequest { multi_attach_enabled: Some(true), ..modification(&id) };
    assert!(refused(shared_gp3).starts_with("InvalidParameterCombination: "));
    // To and from Magnetic.
    region.ok(modify_volume, to("standard"));
    // A root stays bootable.
    let instance = launch(&region, vec![mapping("/dev/xvda", Some(125))]);
    let root = instance.volumes[0].volume_id.clone();
    let platters =
        api::ModifyVolumeRequest { volume_type: Some("st1".to_owned()), ..modification(&root) };
    assert!(refused(platters).ends_with("cannot be a boot volume."));
    // Never modified.
    let input = api::DescribeVolumesModificationsRequest {
        volume_ids: list(&[&root]),
        ..Default::default()
    };
    assert!(
        region
            .refused(describe_volumes_modifications, input)
            .starts_with("InvalidVolumeModification.NotFound: ")
    );
}

#[test]
fn multi_attach_is_switched_as_the_guide_says() {
    let region = Region::new();
    let switch = |id: &str, on: bool| api::ModifyVolumeRequest {
        multi_attach_enabled: Some(on),
        ..modification(id)
    };
    let refused = |request| region.refused(modify_volume, request);
    let io1 = ask(&region, api::CreateVolumeRequest { iops: Some(100), ..wish(4, "io1") });
    disks::obey(&region, &io1);
    assert!(refused(switch(&io1, true)).contains("for io2 volumes only"));
    let shared_io1 = shared(&region, "io1");
    let grown = api::ModifyVolumeRequest { size: Some(9), ..modification(&shared_io1) };
    assert!(refused(grown).contains("Elastic Volumes"));
    let io2 = ask(&region, api::CreateVolumeRequest { iops: Some(100), ..wish(4, "io2") });
    disks::obey(&region, &io2);
    let instances = [launch(&region, Vec::new()), launch(&region, Vec::new())];
    attach(&region, &io2, &instances[0].id, "/dev/sdf");
    assert!(refused(switch(&io2, true)).contains("not attached"));
    let shared_io2 = shared(&region, "io2");
    for instance in &instances {
        attach(&region, &shared_io2, &instance.id, "/dev/sdg");
    }
    assert!(refused(switch(&shared_io2, false)).contains("no more than one"));
    let to_gp3 = api::ModifyVolumeRequest {
        volume_type: Some("gp3".to_owned()),
        ..switch(&shared_io2, false)
    };
    assert!(refused(to_gp3).contains("type"));
    let free = ask(&region, api::CreateVolumeRequest { iops: Some(100), ..wish(4, "io2") });
    disks::obey(&region, &free);
    region.ok(modify_volume, switch(&free, true));
    disks::obey(&region, &free);
    assert_eq!(shown(&region, &free).multi_attach_enabled, Some(true));
    assert!(region.driver.volume_spec(&free).unwrap().multi_attach);
}
