//! The plan step by step, and the reconciler with handlers and records together.

use super::*;
use crate::record::{Instance, SnapshotState};
use crate::testing::{ACCOUNT, Region};
use crate::volume::tests as requests;
use base::volume::{Content, Driver as _};

/// The key of a volume's work.
pub(crate) fn work(id: &str) -> String {
    key::of("us-east-1", key::VOLUME, ACCOUNT, id)
}

/// The record of a volume.
pub(crate) fn record(region: &Region, id: &str) -> Option<Arc<Volume>> {
    region.run(|call| call.peek::<Volume>(&work(id))).unwrap()
}

/// Runs the reconciler until it writes nothing; how often it wrote.
pub(crate) fn reconcile(region: &Region, id: &str) -> usize {
    for transactions in 0..10 {
        let wrote = region.run(|call| {
            call.set_applied(region.driver.volume_fingerprint(id));
            run(call, &work(id))?;
            Ok(!call.is_read_only())
        });
        if !wrote.unwrap() {
            return transactions;
        }
    }
    panic!("the reconciler does not come to rest");
}

/// The volume becomes what its spec wants; it is attached where it was.
pub(crate) fn obey(region: &Region, id: &str) {
    reconcile(region, id);
    let Some(spec) = region.driver.volume_spec(id) else { return };
    let before = match region.driver.volume_state(id) {
        State::Ready(ready) => ready,
        _ => Ready::default(),
    };
    let state = match spec.wanted {
        Wanted::Deleted => State::Gone,
        Wanted::Present => State::Ready(Ready {
            size_gib: spec.size_gib,
            limits: spec.limits,
            filled_percent: 100,
            ..before
        }),
    };
    region.driver.set_volume(id, state);
    reconcile(region, id);
}

/// From now on these machines have the volume.
pub(crate) fn attached(region: &Region, id: &str, machines: &[&str]) {
    let State::Ready(ready) = region.driver.volume_state(id) else { panic!("{id} is not there") };
    let attached = machines.iter().map(|id| (*id).to_owned()).collect();
    region.driver.set_volume(id, State::Ready(Ready { attached, ..ready }));
}

fn ready(volume: &Volume) -> Ready {
    Ready {
        size_gib: volume.size_gib,
        limits: limits(&shape_of(volume)),
        filled_percent: 100,
        ..Ready::default()
    }
}

#[test]
fn a_volume_goes_through_its_life() {
    let region = Region::new();
    let now = base::Timestamp(0);
    let id = requests::create(&region, 8, "gp3");
    let volume = Volume::clone(&record(&region, &id).unwrap());
    let creating = |observed: &State| step(&volume, observed, now);
    let failed = State::Failed { message: "no disk".to_owned() };
    assert_eq!(creating(&State::Absent), Step::Drive(None));
    assert_eq!(creating(&State::Creating), Step::Drive(None));
    assert_eq!(creating(&State::Ready(ready(&volume))), Step::Change(Change::Made));
    assert_eq!(creating(&failed), Step::Change(Change::Failed));
    let volume = Volume { state: VolumeState::Available, ..volume };
    let available = |observed: &State| step(&volume, observed, now);
    assert_eq!(available(&State::Absent), Step::Drive(None));
    assert_eq!(available(&State::Ready(ready(&volume))), Step::Drive(None));
    assert_eq!(available(&failed), Step::Change(Change::Failed));
    assert_eq!(available(&State::Gone), Step::Change(Change::Failed));
    let broken = Ready { impaired: Some("I/O error".to_owned()), ..ready(&volume) };
    let impaired = Change::Impaired(broken.impaired.clone());
    assert_eq!(available(&State::Ready(broken)), Step::Change(impaired));
    let volume = Volume { state: VolumeState::Deleting, ..volume };
    for observed in [State::Absent, State::Creating, State::Ready(ready(&volume)), failed] {
        assert_eq!(step(&volume, &observed, now), Step::Drive(None), "{observed:?}");
    }
    assert_eq!(step(&volume, &State::Gone, now), Step::Change(Change::Gone));
}

#[test]
fn what_has_filled_is_written_unless_an_image_keeps_it() {
    let region = Region::new();
    let id = requests::create(&region, 8, "gp3");
    let made = Volume::clone(&record(&region, &id).unwrap());
    assert!(made.is_filled, "it has nothing to fill from");
    let filling = Volume { state: VolumeState::Available, is_filled: false, ..made };
    let at = |volume: &Volume, filled_percent| {
        let observed = State::Ready(Ready { filled_percent, ..ready(volume) });
        step(volume, &observed, base::Timestamp(0))
    };
    assert_eq!(at(&filling, 99), Step::Drive(None));
    assert_eq!(at(&filling, 100), Step::Change(Change::Filled));
    let published = Volume { source_is_published: true, ..filling };
    assert_eq!(at(&published, 100), Step::Drive(None));
}

#[test]
fn a_made_volume_costs_one_transaction_and_one_telling() {
    let region = Region::new();
    let id = requests::create(&region, 8, "gp3");
    assert_eq!(reconcile(&region, &id), 0, "the driver is told");
    let spec = region.driver.volume_spec(&id).unwrap();
    assert_eq!((spec.size_gib, spec.wanted), (8, Wanted::Present));
    assert_eq!(spec.limits.operations.unwrap().base, 3_000);
    let volume = record(&region, &id).unwrap();
    region.driver.set_volume(&id, State::Ready(ready(&volume)));
    assert_eq!(reconcile(&region, &id), 1);
    assert_eq!(record(&region, &id).unwrap().state, VolumeState::Available);
    assert_eq!(reconcile(&region, &id), 0);
}

#[test]
fn a_volume_of_a_launch_costs_no_transaction() {
    let region = Region::new();
    let instance = requests::launch(&region, Vec::new());
    let id = instance.volumes[0].volume_id.clone();
    assert_eq!(reconcile(&region, &id), 0);
    let volume = record(&region, &id).unwrap();
    let spec = region.driver.volume_spec(&id).unwrap();
    assert_eq!(spec.source, volume.source);
    assert!(spec.source.is_some(), "it is filled from its image");
    let attached = vec![instance.id.clone()];
    region.driver.set_volume(&id, State::Ready(Ready { attached, ..ready(&volume) }));
    assert_eq!(reconcile(&region, &id), 0);
}

#[test]
fn a_volume_that_cannot_be_made_is_an_error_and_can_be_deleted() {
    let region = Region::new();
    let id = requests::create(&region, 8, "gp3");
    reconcile(&region, &id);
    region.driver.set_volume(&id, State::Failed { message: "no disk".to_owned() });
    assert_eq!(reconcile(&region, &id), 1);
    assert_eq!(record(&region, &id).unwrap().state, VolumeState::Error);
    // There is room again.
    obey(&region, &id);
    assert_eq!(record(&region, &id).unwrap().state, VolumeState::Available);
    region.driver.set_volume(&id, State::Failed { message: "no disk".to_owned() });
    reconcile(&region, &id);
    requests::delete(&region, &id);
    obey(&region, &id);
    assert!(record(&region, &id).is_none());
    assert_eq!(region.driver.volume_state(&id), State::Absent, "it is forgotten");
}

#[test]
fn a_deleted_volume_is_there_until_its_snapshots_are_taken() {
    let region = Region::new();
    let id = requests::available(&region, 8, "gp3");
    requests::delete(&region, &id);
    reconcile(&region, &id);
    assert_eq!(region.driver.volume_spec(&id).unwrap().wanted, Wanted::Deleted);
    region.driver.set_volume(&id, State::Deleting { snapshots: Default::default() });
    reconcile(&region, &id);
    assert_eq!(record(&region, &id).unwrap().state, VolumeState::Deleting);
    region.driver.set_volume(&id, State::Gone);
    reconcile(&region, &id);
    assert!(record(&region, &id).is_none());
}

#[test]
fn a_volume_without_a_record_is_removed() {
    let region = Region::new();
    let id = "vol-0123456789abcdef0";
    region.driver.set_volume(id, State::Ready(Ready::default()));
    reconcile(&region, id);
    assert_eq!(region.driver.volume_spec(id).unwrap().wanted, Wanted::Deleted);
    region.driver.set_volume(id, State::Gone);
    reconcile(&region, id);
    assert_eq!(region.driver.volume_state(id), State::Absent);
}

#[test]
fn a_driver_that_was_started_anew_is_told_again() {
    let region = Region::new();
    let id = requests::available(&region, 8, "gp3");
    let spec = region.driver.volume_spec(&id).unwrap();
    region.driver.set_volume(&id, State::Absent);
    // It would tell something else if it told nothing.
    region.driver.apply_volume(orphan(&id, "us-east-1"));
    region
        .run(|call| {
            let told = fingerprint(call, &work(&id), &[]);
            call.set_applied(Some(told));
            run(call, &work(&id))
        })
        .unwrap();
    assert_eq!(region.driver.volume_spec(&id).unwrap(), spec);
}

#[test]
fn pending_snapshots_stand_in_the_spec_in_their_order() {
    let region = Region::new();
    let id = requests::available(&region, 8, "gp3");
    let snapshots = ["snap-0123456789abcdef0", "snap-00000000000000001"];
    let parent = Content { root: "0".repeat(64), size_gib: 8, key: None };
    region
        .run(|call| {
            let mut volume = Volume::clone(&call.get::<Volume>(&work(&id))?.unwrap());
            for (number, snapshot_id) in snapshots.iter().enumerate() {
                let mut snapshot = requests::snapshot(snapshot_id, 8, SnapshotState::Pending);
                snapshot.parent = (number == 0).then(|| parent.clone());
                let at = key::of("us-east-1", key::SNAPSHOT, ACCOUNT, snapshot_id);
                call.put(&at, snapshot);
                volume.pending_snapshots.push((*snapshot_id).to_owned());
            }
            call.put(&work(&id), volume);
            Ok(())
        })
        .unwrap();
    reconcile(&region, &id);
    let spec = region.driver.volume_spec(&id).unwrap();
    let ids: Vec<&str> = spec.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    assert_eq!(ids, snapshots);
    assert_eq!(spec.snapshots[0].parent, Some(parent));
    assert_eq!(spec.snapshots[1].parent, None);
}

#[test]
fn an_ended_instance_takes_its_volumes_along() {
    let region = Region::new();
    let kept = requests::mapping("/dev/sdf", Some(1));
    let instance: Arc<Instance> = requests::launch(&region, vec![kept]);
    let ids: Vec<String> = instance.volumes.iter().map(|v| v.volume_id.clone()).collect();
    requests::terminate(&region, &instance.id);
    assert_eq!(record(&region, &ids[0]), None, "the root is deleted on termination");
    let kept = record(&region, &ids[1]).unwrap();
    assert_eq!((kept.state, kept.attachments.len()), (VolumeState::Available, 0));
}
