//! What requests about snapshots answer and write.

use super::attribute::{
    describe_snapshot_attribute, disable_snapshot_block_public_access,
    enable_snapshot_block_public_access, get_snapshot_block_public_access_state,
    modify_snapshot_attribute, reset_snapshot_attribute,
};
use super::copy::copy_snapshot;
use super::create::{create_snapshot, create_snapshots};
use super::delete::delete_snapshot;
use super::describe::describe_snapshots;
use super::fast_restore::{
    describe_fast_snapshot_restores, disable_fast_snapshot_restores, enable_fast_snapshot_restores,
};
use super::lock::{describe_locked_snapshots, lock_snapshot, unlock_snapshot};
use super::recycle_bin::{list_snapshots_in_recycle_bin, restore_snapshot_from_recycle_bin};
use super::tier::{describe_snapshot_tier_status, modify_snapshot_tier, restore_snapshot_tier};
use super::*;
use crate::record::{RecycleBinRule, Tags, Volume, VolumeState};
use crate::snapshot_reconciler;
use crate::testing::{ACCOUNT, Region, filter, list};
use base::volume::{Content, Ready, SnapshotState as Made, State};
use std::collections::BTreeMap;

/// A volume's record, as `change` wants it.
pub(crate) fn volume(region: &Region, change: impl FnOnce(&mut Volume)) -> Volume {
    let made = region.run(|call| {
        // Fields that a volume may lack are left out.
        let mut volume: Volume = serde_json::from_value(serde_json::json!({
            "v": 1,
            "id": call.new_id("vol"),
            "size_gib": 8,
            "kind": "gp3",
            "iops": 3_000,
            "throughput": 125,
            "availability_zone": "us-east-1a",
            "created": call.now,
            "tags": {},
        }))
        .unwrap();
        change(&mut volume);
        call.put(&key::of(call.region, key::VOLUME, call.account(), &volume.id), volume.clone());
        Ok(volume)
    });
    made.unwrap()
}

pub(crate) fn content(digit: char) -> Content {
    Content { root: digit.to_string().repeat(64), size_gib: 8, key: None }
}

/// A snapshot of the volume is asked for; its id.
pub(crate) fn snapshot(region: &Region, volume: &Volume) -> String {
    let input = api::CreateSnapshotRequest {
        volume_id: Some(volume.id.clone()),
        description: Some("nightly".to_owned()),
        ..Default::default()
    };
    region.ok(create_snapshot, input).snapshot_id.unwrap()
}

pub(crate) fn record(region: &Region, id: &str) -> Snapshot {
    let at = key_of("us-east-1", ACCOUNT, id);
    region.run(|call| Ok(call.peek::<Snapshot>(&at)?.unwrap().as_ref().clone())).unwrap()
}

pub(crate) fn volume_record(region: &Region, id: &str) -> Volume {
    let at = key::of("us-east-1", key::VOLUME, ACCOUNT, id);
    region.run(|call| Ok(call.peek::<Volume>(&at)?.unwrap().as_ref().clone())).unwrap()
}

/// One run of the snapshot's reconciler.
pub(crate) fn reconcile(region: &Region, id: &str) {
    let at = key_of("us-east-1", ACCOUNT, id);
    region.run(|call| (snapshot_reconciler::RECONCILER.run)(call, &at)).unwrap();
}

/// The driver completes a snapshot of the volume, and its record says so.
pub(crate) fn complete(region: &Region, volume: &Volume, id: &str, content: Content) {
    let made = Made::Completed { content, new_bytes: 512 << 10, full_bytes: 1 << 20 };
    let ready = Ready { snapshots: BTreeMap::from([(id.to_owned(), made)]), ..Default::default() };
    region.driver.set_volume(&volume.id, State::Ready(ready));
    reconcile(region, id);
}

/// A completed snapshot of a new volume.
fn completed(region: &Region) -> (Volume, String) {
    let volume = volume(region, |_| {});
    let id = snapshot(region, &volume);
    complete(region, &volume, &id, content('a'));
    (volume, id)
}

fn change(region: &Region, id: &str, with: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = record(region, id);
    with(&mut snapshot);
    let at = key_of("us-east-1", &snapshot.owner_id, id);
    region
        .run(|call| {
            call.put(&at, snapshot);
            Ok(())
        })
        .unwrap();
}

fn describe(region: &Region, input: api::DescribeSnapshotsRequest) -> Vec<api::Snapshot> {
    region.ok(describe_snapshots, input).snapshots.unwrap()
}

fn delete(id: &str) -> api::DeleteSnapshotRequest {
    api::DeleteSnapshotRequest { snapshot_id: Some(id.to_owned()), ..Default::default() }
}

const DAY: i64 = 24 * 3_600_000;

#[test]
fn a_snapshot_is_pending_and_its_volume_knows_it() {
    let region = Region::new();
    let volume = volume(&region, |_| {});
    let input = api::CreateSnapshotRequest {
        volume_id: Some(volume.id.clone()),
        description: Some("nightly".to_owned()),
        tag_specifications: Some(vec![api::TagSpecification {
            resource_type: Some("snapshot".to_owned()),
            tags: Some(vec![api::Tag {
                key: Some("Name".to_owned()),
                value: Some("n".to_owned()),
            }]),
        }]),
        ..Default::default()
    };
    let shown = region.ok(create_snapshot, input);
    let id = shown.snapshot_id.clone().unwrap();
    assert_eq!(shown.state.as_deref(), Some("pending"));
    assert_eq!(shown.volume_size, Some(8));
    assert_eq!(shown.encrypted, Some(false));
    assert_eq!(shown.owner_id.as_deref(), Some(ACCOUNT));
    assert_eq!(volume_record(&region, &volume.id).pending_snapshots, [id.as_str()]);
    assert!(!record(&region, &id).cut);
    let described = describe(&region, Default::default());
    let mine: Vec<_> = described.iter().filter(|s| s.snapshot_id.as_ref() == Some(&id)).collect();
    assert_eq!(mine[0].tags.as_ref().unwrap()[0].value.as_deref(), Some("n"));
    assert_eq!(mine[0].progress.as_deref(), Some("0%"));
}

#[test]
fn an_answer_waits_for_the_cut() {
    let region = Region::new();
    let volume = volume(&region, |_| {});
    let take = |during_reboot| {
        region
            .run(|call| {
                let takes = vec![Take {
                    volume_id: volume.id.clone(),
                    description: String::new(),
                    tags: Tags::new(),
                }];
                let taken = take(call, takes, during_reboot)?;
                Ok((taken[0].id.clone(), call.awaited()))
            })
            .unwrap()
    };
    let (id, awaited) = take(None);
    let at = key_of("us-east-1", ACCOUNT, &id);
    assert_eq!(awaited[0].key, at);
    let over = |region: &Region| (awaited[0].until)(region.store.snapshot().get(&at).as_ref());
    assert!(!over(&region));
    change(&region, &id, |snapshot| snapshot.cut = true);
    assert!(over(&region));
    // A cut that waits for a reboot is nothing to wait for.
    assert!(take(Some(1)).1.is_empty());
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let region = Region::new();
    let ask = |id: &str| api::CreateSnapshotRequest {
        volume_id: Some(id.to_owned()),
        ..Default::default()
    };
    for (id, refusal) in [
        (
            "x",
            "InvalidParameterValue: Value (x) for parameter volumeId is invalid. Expected: 'vol-...'.",
        ),
        (
            "vol-00000000000000001",
            "InvalidVolume.NotFound: The volume 'vol-00000000000000001' does not exist.",
        ),
    ] {
        assert_eq!(region.refused(create_snapshot, ask(id)), refusal);
    }
    let creating = volume(&region, |volume| volume.state = VolumeState::Creating);
    assert_eq!(
        region.refused(create_snapshot, ask(&creating.id)),
        format!("IncorrectState: The volume '{}' is 'creating'.", creating.id)
    );
    let limit = "ConcurrentSnapshotLimitExceeded: Maximum allowed in-progress snapshots for a \
                 single volume exceeded.";
    for (kind, most) in [("gp3", 5), ("st1", 1)] {
        let volume = volume(&region, |volume| volume.kind = kind.to_owned());
        for _ in 0..most {
            snapshot(&region, &volume);
        }
        assert_eq!(region.refused(create_snapshot, ask(&volume.id)), limit);
    }
    let volume = volume(&region, |_| {});
    let local =
        api::CreateSnapshotRequest { location: Some("local".to_owned()), ..ask(&volume.id) };
    assert!(region.refused(create_snapshot, local).starts_with("UnsupportedOperation: "));
}

#[test]
fn parents_follow_the_order_of_the_calls() {
    let region = Region::new();
    let volume = volume(&region, |volume| volume.source = Some(content('s')));
    let first = snapshot(&region, &volume);
    let second = snapshot(&region, &volume);
    let third = snapshot(&region, &volume);
    // The first shares what the volume was made from; the others wait for their turn.
    assert_eq!(record(&region, &first).parent, Some(content('s')));
    assert_eq!(record(&region, &second).parent, None);
    complete(&region, &volume, &first, content('a'));
    assert_eq!(record(&region, &second).parent, Some(content('a')));
    assert_eq!(volume_record(&region, &volume.id).last_content, Some(content('a')));
    // One that is deleted while it is pending leaves its parent to the next.
    region.ok(delete_snapshot, delete(&second));
    assert_eq!(record(&region, &third).parent, Some(content('a')));
    assert_eq!(volume_record(&region, &volume.id).pending_snapshots, [third.as_str()]);
    complete(&region, &volume, &third, content('b'));
    let fourth = snapshot(&region, &volume);
    assert_eq!(record(&region, &fourth).parent, Some(content('b')));
    // Nobody holds the blocks of a deleted one.
    complete(&region, &volume, &fourth, content('c'));
    region.ok(delete_snapshot, delete(&fourth));
    assert_eq!(volume_record(&region, &volume.id).last_content, None);
}

#[test]
fn snapshots_of_an_instance_are_one_instant() {
    let region = Region::new();
    let request = crate::instance::tests::request(&region);
    let launched = region.ok(crate::launch::run_instances, request).instances.unwrap().remove(0);
    let instance_id = launched.instance_id.unwrap();
    let data = volume(&region, |volume| {
        volume.tags.insert("Name".to_owned(), "data".to_owned());
        volume.attachments.push(instance_id.clone());
    });
    let at = key::of("us-east-1", key::INSTANCE, ACCOUNT, &instance_id);
    region
        .run(|call| {
            let mut instance = call.get::<crate::record::Instance>(&at)?.unwrap().as_ref().clone();
            let mut place = instance.volumes[0].clone();
            place.volume_id.clone_from(&data.id);
            place.device_name = "/dev/sdf".to_owned();
            instance.volumes.push(place);
            call.put(&at, instance);
            Ok(())
        })
        .unwrap();
    let ask = |boot: bool, excluded: &[&str]| api::CreateSnapshotsRequest {
        instance_specification: Some(api::InstanceSpecification {
            instance_id: Some(instance_id.clone()),
            exclude_boot_volume: Some(!boot),
            exclude_data_volume_ids: list(excluded),
        }),
        copy_tags_from_source: Some("volume".to_owned()),
        ..Default::default()
    };
    let taken = region.ok(create_snapshots, ask(true, &[])).snapshots.unwrap();
    assert_eq!(taken.len(), 2);
    let together = record(&region, taken[0].snapshot_id.as_ref().unwrap()).together;
    assert_eq!(together.len(), 2);
    assert_eq!(together, record(&region, taken[1].snapshot_id.as_ref().unwrap()).together);
    assert_eq!(taken[1].tags.as_ref().unwrap()[0].value.as_deref(), Some("data"));
    // The others do not wait for one that is deleted.
    region.ok(delete_snapshot, delete(&together[0].1));
    assert_eq!(record(&region, &together[1].1).together, [together[1].clone()]);
    let alone = region.ok(create_snapshots, ask(false, &[])).snapshots.unwrap();
    assert!(record(&region, alone[0].snapshot_id.as_ref().unwrap()).together.is_empty());
    assert!(
        region
            .refused(create_snapshots, ask(false, &[&data.id]))
            .starts_with("InvalidParameterCombination: ")
    );
    assert!(
        region
            .refused(create_snapshots, ask(true, &["vol-00000000000000009"]))
            .starts_with("InvalidParameterValue: The volume 'vol-00000000000000009' is not a data")
    );
}

#[test]
fn snapshots_are_found() {
    let region = Region::new();
    let (volume, id) = completed(&region);
    let by = |name: &str, value: &str| {
        let input = api::DescribeSnapshotsRequest {
            filters: Some(vec![filter(name, &[value])]),
            owner_ids: list(&["self"]),
            ..Default::default()
        };
        describe(&region, input).iter().any(|s| s.snapshot_id.as_ref() == Some(&id))
    };
    for (name, value) in [
        ("description", "night*"),
        ("encrypted", "false"),
        ("owner-id", ACCOUNT),
        ("progress", "100%"),
        ("snapshot-id", &id),
        ("status", "completed"),
        ("storage-tier", "standard"),
        ("volume-id", &volume.id),
        ("volume-size", "8"),
        ("start-time", "2026-11-21T10:00:23.000Z"),
    ] {
        assert!(by(name, value), "{name}");
        assert!(!by(name, "none"), "{name}");
    }
    assert!(!by("transfer-type", "standard") && !by("owner-alias", "amazon"));
    let ids = |ids: &[&str]| api::DescribeSnapshotsRequest {
        snapshot_ids: list(ids),
        ..Default::default()
    };
    let shown = describe(&region, ids(&[&id])).remove(0);
    assert_eq!(shown.full_snapshot_size_in_bytes, Some(1 << 20));
    assert!(shown.completion_time.is_some());
    for (id, refusal) in [
        (
            "snap-00000000000000001",
            "InvalidSnapshot.NotFound: The snapshot 'snap-00000000000000001' does not exist.",
        ),
        ("snap-1", "InvalidSnapshotID.Malformed: Invalid id: \"snap-1\" (expecting \"snap-...\")"),
        (
            "x",
            "InvalidParameterValue: Value (x) for parameter snapshotId is invalid. Expected: \
             'snap-...'.",
        ),
    ] {
        assert_eq!(region.refused(describe_snapshots, ids(&[id])), refusal);
    }
    let paged = api::DescribeSnapshotsRequest { max_results: Some(5), ..ids(&[&id]) };
    assert!(region.refused(describe_snapshots, paged).starts_with("InvalidParameterCombination"));
}

#[test]
fn one_that_an_image_uses_stays() {
    let region = Region::new();
    let (_, id) = completed(&region);
    change(&region, &id, |snapshot| {
        snapshot.images.insert("ami-00000000000000001".to_owned());
    });
    assert_eq!(
        region.refused(delete_snapshot, delete(&id)),
        format!(
            "InvalidSnapshot.InUse: The snapshot {id} is currently in use by ami-00000000000000001"
        )
    );
    change(&region, &id, |snapshot| snapshot.images.clear());
    region.ok(delete_snapshot, delete(&id));
    assert!(region.refused(delete_snapshot, delete(&id)).starts_with("InvalidSnapshot.NotFound"));
}

#[test]
fn permissions_are_given_and_taken() {
    let region = Region::new();
    let (_, id) = completed(&region);
    let modify =
        |kind: &str, users: &[&str], groups: &[&str]| api::ModifySnapshotAttributeRequest {
            snapshot_id: Some(id.clone()),
            attribute: Some("createVolumePermission".to_owned()),
            operation_type: Some(kind.to_owned()),
            user_ids: list(users),
            group_names: list(groups),
            ..Default::default()
        };
    let shown = |region: &Region| {
        let input = api::DescribeSnapshotAttributeRequest {
            snapshot_id: Some(id.clone()),
            attribute: Some("createVolumePermission".to_owned()),
            ..Default::default()
        };
        region.ok(describe_snapshot_attribute, input).create_volume_permissions.unwrap().len()
    };
    region.ok(modify_snapshot_attribute, modify("add", &["111122223333"], &["all"]));
    assert_eq!(shown(&region), 2);
    let restorable = |user: &str| {
        let input = api::DescribeSnapshotsRequest {
            restorable_by_user_ids: list(&[user]),
            snapshot_ids: list(&[&id]),
            ..Default::default()
        };
        describe(&region, input).len()
    };
    assert_eq!((restorable("all"), restorable("999988887777")), (1, 1));
    let block = |state: &str| api::EnableSnapshotBlockPublicAccessRequest {
        state: Some(state.to_owned()),
        ..Default::default()
    };
    region.ok(enable_snapshot_block_public_access, block("block-all-sharing"));
    assert_eq!((restorable("all"), restorable("111122223333"), restorable("self")), (0, 1, 1));
    assert!(
        region
            .refused(modify_snapshot_attribute, modify("add", &[], &["all"]))
            .starts_with("OperationNotPermitted: ")
    );
    let state = region.ok(get_snapshot_block_public_access_state, Default::default()).state;
    assert_eq!(state.as_deref(), Some("block-all-sharing"));
    region.ok(disable_snapshot_block_public_access, Default::default());
    assert_eq!(restorable("all"), 1);
    region.ok(modify_snapshot_attribute, modify("remove", &["111122223333"], &[]));
    assert_eq!(shown(&region), 1);
    let reset = api::ResetSnapshotAttributeRequest {
        snapshot_id: Some(id.clone()),
        attribute: Some("createVolumePermission".to_owned()),
        ..Default::default()
    };
    region.ok(reset_snapshot_attribute, reset);
    assert_eq!(shown(&region), 0);
    assert_eq!(
        region.refused(modify_snapshot_attribute, modify("add", &["1"], &[])),
        "InvalidUserID.Malformed: Invalid user id: \"1\""
    );
    let own_key =
        region.run(|call| crate::encryption::volume_key(call, Some(true), None, None)).unwrap();
    change(&region, &id, |snapshot| snapshot.key = own_key);
    assert_eq!(
        region.refused(modify_snapshot_attribute, modify("add", &["111122223333"], &[])),
        "OperationNotPermitted: Encrypted snapshots with EBS default key cannot be shared"
    );
}

#[test]
fn somebody_elses_is_used_only_if_it_is_shared() {
    let region = Region::new();
    let (_, id) = completed(&region);
    let mut snapshot = record(&region, &id);
    snapshot.owner_id = "111122223333".to_owned();
    region
        .run(|call| {
            call.delete(&key_of("us-east-1", ACCOUNT, &id));
            call.put(&key_of("us-east-1", "111122223333", &id), snapshot.clone());
            Ok(())
        })
        .unwrap();
    let find = || region.run(|call| source(call, &id));
    assert_eq!(find().unwrap_err(), not_found(&id));
    snapshot.permissions.accounts.insert(ACCOUNT.to_owned());
    region
        .run(|call| {
            call.put(&key_of("us-east-1", "111122223333", &id), snapshot);
            Ok(())
        })
        .unwrap();
    assert_eq!(find().unwrap().id, id);
    assert_eq!(
        region.refused(delete_snapshot, delete(&id)),
        format!("AuthFailure: Not authorized for resource {id}")
    );
}

#[test]
fn copies_share_content_or_are_made_anew() {
    let region = Region::new();
    let (_, id) = completed(&region);
    let ask = |from: &str, id: &str| api::CopySnapshotRequest {
        source_region: Some(from.to_owned()),
        source_snapshot_id: Some(id.to_owned()),
        ..Default::default()
    };
    let copied = region.ok(copy_snapshot, ask("us-east-1", &id)).snapshot_id.unwrap();
    reconcile(&region, &copied);
    let copy = record(&region, &copied);
    assert_eq!((copy.state, copy.content), (SnapshotState::Completed, Some(content('a'))));
    assert_eq!(copy.volume_id, "vol-ffffffff");
    assert_eq!(copy.full_bytes, Some(1 << 20));
    // With a key there are other blocks, and a task makes them.
    let sealed = api::CopySnapshotRequest { encrypted: Some(true), ..ask("us-east-1", &id) };
    let sealed = region.ok(copy_snapshot, sealed).snapshot_id.unwrap();
    reconcile(&region, &sealed);
    let task = region.driver.task(&sealed).unwrap();
    let key = record(&region, &sealed).key;
    assert_eq!(task.work, base::volume::Work::Copy { from: content('a'), key: key.clone() });
    let made = Content { key, ..content('e') };
    region
        .driver
        .set_task(&sealed, Made::Completed { content: made.clone(), new_bytes: 1, full_bytes: 1 });
    reconcile(&region, &sealed);
    assert_eq!(record(&region, &sealed).content, Some(made));
    let kept = api::CopySnapshotRequest { encrypted: Some(false), ..ask("us-east-1", &sealed) };
    let kept = region.ok(copy_snapshot, kept).snapshot_id.unwrap();
    assert!(record(&region, &kept).key.is_some(), "a copy of an encrypted one is encrypted");
    assert!(
        region
            .refused(copy_snapshot, ask("eu-west-1", &id))
            .starts_with("InvalidSnapshot.NotFound: ")
    );
    let odd =
        api::CopySnapshotRequest { completion_duration_minutes: Some(20), ..ask("us-east-1", &id) };
    assert!(region.refused(copy_snapshot, odd).starts_with("InvalidParameterValue: "));
    let pending = snapshot(&region, &volume(&region, |_| {}));
    assert_eq!(
        region.refused(copy_snapshot, ask("us-east-1", &pending)),
        "IncorrectState: Snapshot is in invalid state - pending"
    );
    for _ in 0..19 {
        region.ok(copy_snapshot, ask("us-east-1", &id));
    }
    assert_eq!(
        region.refused(copy_snapshot, ask("us-east-1", &id)),
        "ResourceLimitExceeded: Too many snapshot copies in progress. The limit is 20 for this \
         destination region."
    );
}

#[test]
fn a_lock_lasts_as_long_as_it_says() {
    let region = Region::new();
    let (_, id) = completed(&region);
    let lock = |mode: &str, days: i32, hours: Option<i32>| api::LockSnapshotRequest {
        snapshot_id: Some(id.clone()),
        lock_mode: Some(mode.to_owned()),
        lock_duration: Some(days),
        cool_off_period: hours,
        ..Default::default()
    };
    let unlock =
        || api::UnlockSnapshotRequest { snapshot_id: Some(id.clone()), ..Default::default() };
    let state = |region: &Region| {
        let input = api::DescribeLockedSnapshotsRequest::default();
        let mut found = region.ok(describe_locked_snapshots, input).snapshots.unwrap();
        found.remove(0).lock_state.unwrap()
    };
    assert!(region.refused(unlock_snapshot, unlock()).starts_with("IncorrectState: "));
    region.ok(lock_snapshot, lock("governance", 2, None));
    assert_eq!(state(&region), "governance");
    assert_eq!(
        region.refused(delete_snapshot, delete(&id)),
        format!("OperationNotPermitted: The snapshot '{id}' is locked and cannot be deleted.")
    );
    region.ok(unlock_snapshot, unlock());
    region.ok(lock_snapshot, lock("compliance", 2, Some(1)));
    assert_eq!(state(&region), "compliance-cooloff");
    region.pass(3_600_000);
    assert_eq!(state(&region), "compliance");
    assert!(region.refused(unlock_snapshot, unlock()).starts_with("OperationNotPermitted: "));
    assert!(
        region
            .refused(lock_snapshot, lock("compliance", 1, None))
            .starts_with("OperationNotPermitted: ")
    );
    region.ok(lock_snapshot, lock("compliance", 3, None));
    region.pass(3 * DAY);
    assert_eq!(state(&region), "expired");
    region.ok(delete_snapshot, delete(&id));
    let both = api::LockSnapshotRequest {
        expiration_date: Some(base::Timestamp(0)),
        ..lock("governance", 1, Some(1))
    };
    assert!(region.refused(lock_snapshot, both).starts_with("InvalidSnapshot.NotFound"));
}

#[test]
fn archived_ones_make_no_volumes_until_they_are_restored() {
    let region = Region::new();
    let (_, id) = completed(&region);
    let archive = || api::ModifySnapshotTierRequest {
        snapshot_id: Some(id.clone()),
        storage_tier: Some("archive".to_owned()),
        ..Default::default()
    };
    let restore = |days: Option<i32>| api::RestoreSnapshotTierRequest {
        snapshot_id: Some(id.clone()),
        temporary_restore_days: days,
        permanent_restore: days.is_none().then_some(true),
        ..Default::default()
    };
    let status = |region: &Region| {
        let input = api::DescribeSnapshotTierStatusRequest {
            filters: Some(vec![filter("snapshot-id", &[&id])]),
            ..Default::default()
        };
        let mut found =
            region.ok(describe_snapshot_tier_status, input).snapshot_tier_statuses.unwrap();
        found.remove(0).last_tiering_operation_status.unwrap()
    };
    let usable = || region.run(|call| source(call, &id)).map(|_| ());
    assert!(region.refused(restore_snapshot_tier, restore(None)).starts_with("IncorrectState"));
    region.ok(modify_snapshot_tier, archive());
    assert_eq!(status(&region), "archival-in-progress");
    assert!(usable().is_ok());
    region.pass(3_600_000);
    reconcile(&region, &id);
    assert_eq!(status(&region), "archival-completed");
    assert_eq!(usable().unwrap_err().code, "IncorrectState");
    assert!(region.refused(modify_snapshot_tier, archive()).starts_with("IncorrectState: "));
    region.ok(restore_snapshot_tier, restore(Some(2)));
    region.pass(3_600_000);
    reconcile(&region, &id);
    assert_eq!(status(&region), "temporary-restore-completed");
    assert!(usable().is_ok());
    region.pass(2 * DAY);
    reconcile(&region, &id);
    assert!(usable().is_err(), "its days are over");
    region.ok(restore_snapshot_tier, restore(None));
    region.pass(3_600_000);
    reconcile(&region, &id);
    assert!(usable().is_ok());
    region.pass(300 * DAY);
    reconcile(&region, &id);
    assert!(usable().is_ok(), "restored for good");
    assert!(
        region
            .refused(restore_snapshot_tier, restore(Some(181)))
            .starts_with("InvalidParameterValue: ")
    );
}

#[test]
fn fast_restores_follow_the_clock() {
    let region = Region::new();
    let (_, id) = completed(&region);
    let enable = |ids: &[&str]| api::EnableFastSnapshotRestoresRequest {
        availability_zones: list(&["us-east-1a"]),
        source_snapshot_ids: list(ids),
        ..Default::default()
    };
    let state = |region: &Region| {
        let input = api::DescribeFastSnapshotRestoresRequest {
            filters: Some(vec![filter("snapshot-id", &[&id])]),
            ..Default::default()
        };
        let mut found =
            region.ok(describe_fast_snapshot_restores, input).fast_snapshot_restores.unwrap();
        found.pop().map(|zone| zone.state.unwrap())
    };
    let done = region.ok(enable_fast_snapshot_restores, enable(&[&id, "snap-00000000000000001"]));
    assert_eq!(done.successful.unwrap()[0].state.as_deref(), Some("enabling"));
    let refused = done.unsuccessful.unwrap().remove(0).fast_snapshot_restore_state_errors.unwrap();
    let code = refused[0].error.as_ref().unwrap().code.clone();
    assert_eq!(code.as_deref(), Some("InvalidSnapshot.NotFound"));
    region.pass(1_000);
    reconcile(&region, &id);
    assert_eq!(state(&region).as_deref(), Some("optimizing"));
    assert!(!is_fast(&record(&region, &id), "us-east-1a"));
    // 8 of 1,024 GiB: half a minute of an hour.
    region.pass(30_000);
    reconcile(&region, &id);
    assert_eq!(state(&region).as_deref(), Some("enabled"));
    assert!(is_fast(&record(&region, &id), "us-east-1a"));
    assert!(!is_fast(&record(&region, &id), "us-east-1b"));
    let disable = || api::DisableFastSnapshotRestoresRequest {
        availability_zones: list(&["us-east-1a"]),
        source_snapshot_ids: list(&[&id]),
        ..Default::default()
    };
    region.ok(disable_fast_snapshot_restores, disable());
    assert_eq!(state(&region).as_deref(), Some("disabling"));
    assert!(!is_fast(&record(&region, &id), "us-east-1a"));
    let again = region.ok(disable_fast_snapshot_restores, disable());
    assert_eq!(again.unsuccessful.unwrap().len(), 1);
    region.pass(1_000);
    reconcile(&region, &id);
    assert_eq!(state(&region).as_deref(), Some("disabled"));
    region.pass(3_600_000);
    reconcile(&region, &id);
    assert_eq!(state(&region), None);
    let bad = api::EnableFastSnapshotRestoresRequest {
        availability_zones: list(&["us-east-1z"]),
        ..enable(&[&id])
    };
    assert_eq!(
        region.refused(enable_fast_snapshot_restores, bad),
        "InvalidParameterValue: Invalid availability zone: [us-east-1z]"
    );
}

#[test]
fn a_rule_keeps_what_is_deleted_for_its_days() {
    let region = Region::new();
    let rule = |id: &str, days: u32, tags: &[(&str, &str)]| RecycleBinRule {
        v: 1,
        id: id.to_owned(),
        resource_type: "EBS_SNAPSHOT".to_owned(),
        description: String::new(),
        retention_days: days,
        resource_tags: tags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
            .collect(),
        exclude_tags: Vec::new(),
        unlock_delay_days: None,
        unlock_expires: None,
        tags: Tags::new(),
    };
    region
        .run(|call| {
            for rule in [rule("all", 1, &[]), rule("keep", 7, &[("keep", "yes")])] {
                let at = key::of(call.region, key::RECYCLE_BIN_RULE, call.account(), &rule.id);
                call.put(&at, rule);
            }
            Ok(())
        })
        .unwrap();
    let (_, short) = completed(&region);
    let (volume, long) = completed(&region);
    change(&region, &long, |snapshot| {
        snapshot.tags.insert("keep".to_owned(), "yes".to_owned());
    });
    region.ok(delete_snapshot, delete(&short));
    region.ok(delete_snapshot, delete(&long));
    assert_eq!(record(&region, &long).recycled.unwrap().rule_id, "keep");
    let in_bin = |region: &Region| {
        let input = api::ListSnapshotsInRecycleBinRequest::default();
        region.ok(list_snapshots_in_recycle_bin, input).snapshots.unwrap().len()
    };
    assert_eq!(in_bin(&region), 2);
    let named =
        api::DescribeSnapshotsRequest { snapshot_ids: list(&[&long]), ..Default::default() };
    assert!(region.refused(describe_snapshots, named).starts_with("InvalidSnapshot.NotFound"));
    assert!(region.refused(delete_snapshot, delete(&long)).starts_with("InvalidSnapshot.NotFound"));
    region.pass(DAY);
    reconcile(&region, &short);
    reconcile(&region, &long);
    assert_eq!(in_bin(&region), 1);
    // What it holds is still there for the volume's next one.
    assert_eq!(volume_record(&region, &volume.id).last_content, Some(content('a')));
    let restore = || api::RestoreSnapshotFromRecycleBinRequest {
        snapshot_id: Some(long.clone()),
        ..Default::default()
    };
    let shown = region.ok(restore_snapshot_from_recycle_bin, restore());
    assert_eq!(shown.state.as_deref(), Some("completed"));
    assert_eq!(in_bin(&region), 0);
    assert!(
        region
            .refused(restore_snapshot_from_recycle_bin, restore())
            .starts_with("InvalidSnapshot.NotFound: ")
    );
    assert!(record(&region, &long).recycled.is_none());
}
