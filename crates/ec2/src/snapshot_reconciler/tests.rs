//! The plan, and one run after another.

use super::*;
use crate::snapshot::tests::{
    complete, content, reconcile, record, snapshot, volume, volume_record,
};
use crate::testing::Region;
use base::volume::Ready;
use std::collections::BTreeMap;

fn ready(id: &str, made: Made) -> State {
    let snapshots = BTreeMap::from([(id.to_owned(), made)]);
    State::Ready(Ready { snapshots, ..Default::default() })
}

fn pending(cut: bool, done: u64, total: u64) -> Made {
    Made::Pending { cut, done, total }
}

fn copied(from: Content) -> Snapshot {
    let region = Region::new();
    let origin = Origin::Copy {
        region: "us-east-1".to_owned(),
        snapshot_id: "snap-1".to_owned(),
        from,
        minutes: None,
    };
    region.run(|call| Ok(crate::snapshot::pending(call, origin, 8))).unwrap()
}

#[test]
fn progress_is_true_and_never_whole() {
    let region = Region::new();
    let volume = volume(&region, |_| {});
    let id = snapshot(&region, &volume);
    for (made, shown) in [
        (pending(false, 0, 0), (false, 0)),
        (pending(true, 37, 100), (true, 37)),
        // What restarts counts anew; the caller does not see it go back.
        (pending(false, 10, 100), (true, 37)),
        (pending(true, 1000, 1000), (true, 99)),
    ] {
        region.driver.set_volume(&volume.id, ready(&id, made));
        reconcile(&region, &id);
        let record = record(&region, &id);
        assert_eq!((record.cut, record.progress), shown);
        assert_eq!(record.state, SnapshotState::Pending);
    }
    complete(&region, &volume, &id, content('a'));
    let record = record(&region, &id);
    assert_eq!((record.state, record.progress), (SnapshotState::Completed, 100));
    assert_eq!((record.content, record.parent), (Some(content('a')), None));
    assert!(volume_record(&region, &volume.id).pending_snapshots.is_empty());
}

#[test]
fn one_that_cannot_be_made_says_why() {
    let region = Region::new();
    let volume = volume(&region, |_| {});
    let (first, second) = (snapshot(&region, &volume), snapshot(&region, &volume));
    let message = "the disk is full".to_owned();
    region.driver.set_volume(&volume.id, ready(&first, Made::Failed { message }));
    reconcile(&region, &first);
    let failed = record(&region, &first);
    assert_eq!(failed.state, SnapshotState::Error);
    assert_eq!(failed.message.as_deref(), Some("the disk is full"));
    assert_eq!(volume_record(&region, &volume.id).pending_snapshots, [second.as_str()]);
    // A volume that is gone takes its snapshots with it, unless they were uploaded first.
    region.driver.set_volume(&volume.id, State::Gone);
    reconcile(&region, &second);
    assert_eq!(record(&region, &second).message.as_deref(), Some("The volume was deleted."));
}

#[test]
fn a_driver_that_knows_nothing_yet_is_waited_for() {
    let region = Region::new();
    let volume = volume(&region, |_| {});
    let id = snapshot(&region, &volume);
    reconcile(&region, &id);
    assert_eq!(record(&region, &id).state, SnapshotState::Pending);
}

#[test]
fn a_copy_with_its_sources_key_needs_nobody() {
    let copy = copied(content('a'));
    let done = step(&copy, &Observed::Nothing, copy.started);
    assert_eq!(done, Step::Complete { content: content('a'), full_bytes: None });
    assert!(task(&copy).is_some());
}

#[test]
fn one_that_is_written_directly_waits_for_its_blocks() {
    let region = Region::new();
    let origin = |sealed| Origin::Direct { timeout_minutes: 10, touched: Timestamp(1_000), sealed };
    let made = region.run(|call| Ok(crate::snapshot::pending(call, origin(false), 8))).unwrap();
    let end = Timestamp(1_000 + 600_000);
    assert_eq!(step(&made, &Observed::Nothing, Timestamp(2_000)), Step::Wait(end));
    assert!(matches!(step(&made, &Observed::Nothing, end), Step::Fail(_)));
    assert_eq!(task(&made), None);
    let sealed = Snapshot { origin: origin(true), ..made };
    assert_eq!(step(&sealed, &Observed::Nothing, end), Step::Drive);
    assert!(matches!(task(&sealed).unwrap().work, Work::Complete { size_gib: 8, .. }));
}

#[test]
fn keys_of_snapshots_are_work() {
    let at = "/us-east-1/snapshot/123456789012/snap-1";
    assert_eq!(work_key(at).as_deref(), Some(at));
    assert_eq!(work_key("/us-east-1/volume/123456789012/vol-1"), None);
}
