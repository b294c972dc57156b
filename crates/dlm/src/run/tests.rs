//! The scheduler against a small EC2 in the operation table.

use super::*;
use crate::record::{
    CreateRule, CrossRegionCopyRetainRule, CrossRegionCopyRule, PolicyDetails, Progress,
    RetainRule, SNAPSHOTS, Schedule, Tag, key,
};
use base::Clock;
use serde::{Deserialize, Serialize};
use service::invoke::Table;
use service::nothing::Nothing;
use service::operation::Service;
use service::{Environment, Identity, Operation, operation};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use store::Store;

const ACCOUNT: &str = "123456789012";

#[derive(Clone, Serialize, Deserialize)]
struct FakeSnapshot {
    id: String,
    volume: String,
    tags: Tags,
    started: Timestamp,
    by: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct FakeVolume {
    id: String,
    tags: Tags,
    broken: bool,
}

fn to_api(tags: &Tags) -> Option<Vec<api::Tag>> {
    let tag = |(key, value): (&String, &String)| api::Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    Some(tags.iter().map(tag).collect())
}

fn describe_volumes(
    call: &mut Call<'_>,
    _: api::DescribeVolumesRequest,
) -> Result<api::DescribeVolumesResult, Error> {
    let volumes = call.scan::<FakeVolume>(&format!("/{}/fake-volume/", call.region))?;
    let volume = |volume: &Arc<FakeVolume>| api::Volume {
        volume_id: Some(volume.id.clone()),
        tags: to_api(&volume.tags),
        ..api::Volume::default()
    };
    Ok(api::DescribeVolumesResult {
        volumes: Some(volumes.iter().map(volume).collect()),
        ..api::DescribeVolumesResult::default()
    })
}

fn describe_snapshots(
    call: &mut Call<'_>,
    input: api::DescribeSnapshotsRequest,
) -> Result<api::DescribeSnapshotsResult, Error> {
    let filter = input.filters.unwrap_or_default().remove(0);
    let name = filter.name.unwrap_or_default();
    let name = name.strip_prefix("tag:").expect("filters by a tag");
    let values = filter.values.unwrap_or_default();
    let snapshots = call.scan::<FakeSnapshot>(&format!("/{}/fake-snapshot/", call.region))?;
    let snapshot = |snapshot: &Arc<FakeSnapshot>| api::Snapshot {
        snapshot_id: Some(snapshot.id.clone()),
        volume_id: Some(snapshot.volume.clone()),
        start_time: Some(snapshot.started),
        state: Some("completed".to_owned()),
        storage_tier: Some("standard".to_owned()),
        tags: to_api(&snapshot.tags),
        ..api::Snapshot::default()
    };
    let snapshots =
        snapshots.iter().filter(|s| s.tags.get(name).is_some_and(|tag| values.contains(tag)));
    Ok(api::DescribeSnapshotsResult {
        snapshots: Some(snapshots.map(snapshot).collect()),
        ..api::DescribeSnapshotsResult::default()
    })
}

fn store_snapshot(
    call: &mut Call<'_>,
    volume: String,
    specifications: Option<Vec<api::TagSpecification>>,
) -> String {
    let id = call.new_id("snap");
    let tags = specifications.unwrap_or_default().remove(0).tags;
    let snapshot = FakeSnapshot {
        id: id.clone(),
        volume,
        tags: tags_of(tags),
        started: call.now,
        by: call.identity.arn.clone(),
    };
    call.put(&format!("/{}/fake-snapshot/{id}", call.region), snapshot);
    id
}

fn create_snapshot(
    call: &mut Call<'_>,
    input: api::CreateSnapshotRequest,
) -> Result<api::Snapshot, Error> {
    let volume = input.volume_id.unwrap_or_default();
    let found = call.get::<FakeVolume>(&format!("/{}/fake-volume/{volume}", call.region))?;
    let id = store_snapshot(call, volume, input.tag_specifications);
    if found.is_none_or(|volume| volume.broken) {
        return Err(Error::client("IncorrectState", "The volume is in error"));
    }
    Ok(api::Snapshot { snapshot_id: Some(id), ..api::Snapshot::default() })
}

fn copy_snapshot(
    call: &mut Call<'_>,
    input: api::CopySnapshotRequest,
) -> Result<api::CopySnapshotResult, Error> {
    assert_eq!(input.source_region.as_deref(), Some("us-east-1"));
    if call.exists("/no-copies") {
        return Err(Error::client("ResourceLimitExceeded", "Too many snapshots are being copied"));
    }
    let id = store_snapshot(call, "vol-ffffffff".to_owned(), input.tag_specifications);
    Ok(api::CopySnapshotResult { snapshot_id: Some(id), ..api::CopySnapshotResult::default() })
}

fn delete_snapshot(
    call: &mut Call<'_>,
    input: api::DeleteSnapshotRequest,
) -> Result<wire::Empty, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    let at = format!("/{}/fake-snapshot/{id}", call.region);
    if !call.exists(&at) {
        return Err(Error::client("InvalidSnapshot.NotFound", id));
    }
    call.delete(&at);
    Ok(wire::Empty)
}

static EC2: &[Operation] = &[
    operation!(op::DescribeVolumes, describe_volumes, Read, []),
    operation!(op::DescribeSnapshots, describe_snapshots, Read, ["OwnerIds", "Filters.*"]),
    operation!(
        op::CreateSnapshot,
        create_snapshot,
        Write,
        ["VolumeId", "Description", "TagSpecifications.*"]
    ),
    operation!(
        op::CopySnapshot,
        copy_snapshot,
        Write,
        ["SourceRegion", "SourceSnapshotId", "Description", "TagSpecifications.*"]
    ),
    operation!(op::DeleteSnapshot, delete_snapshot, Write, ["SnapshotId"]),
];

struct World {
    environment: Environment,
    store: Arc<dyn Store>,
    now: Arc<AtomicI64>,
}

struct Idle;

impl Wake for Idle {
    fn wake(self: Arc<Self>) {}
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Idle));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

impl World {
    fn new(built: &'static [Operation]) -> Self {
        let now = Arc::new(AtomicI64::new(at("2026-01-01T00:00:00Z").0));
        let environment = Environment {
            account_id: ACCOUNT.to_owned(),
            public_pool: "203.0.113.0/24".parse().unwrap(),
            driver: Arc::new(Nothing),
            clock: Clock::Manual(Arc::clone(&now)),
            keys: Arc::new(Nothing),
            blocks: Arc::new(Nothing),
            services: Table::default(),
        };
        environment.services.fill(&[Service {
            model: &model::ec2::SERVICE,
            operations: built.iter().collect(),
            set_up: None,
        }]);
        World { environment, store: store::memory(), now }
    }

    /// One transaction; gives when it wants to be woken.
    fn run<T>(&self, work: impl FnOnce(&mut Call<'_>) -> T) -> (T, Option<Timestamp>) {
        let identity = Identity::root(ACCOUNT);
        let snapshot = self.store.snapshot();
        let mut call = Call::new(&self.environment, snapshot, "us-east-1", &identity, "test");
        let result = work(&mut call);
        let (txn, effects) = call.into_parts().unwrap();
        assert!(block_on(self.store.txn(txn)).unwrap().succeeded);
        let wake = effects.iter().map(|effect| match effect {
            Effect::Again(at) => *at,
            other => panic!("{other:?}"),
        });
        (result, wake.min())
    }

    fn volume(&self, id: &str, broken: bool) {
        let tags = [("backup".to_owned(), "yes".to_owned())].into();
        let volume = FakeVolume { id: id.to_owned(), tags, broken };
        self.run(|call| call.put(&format!("/us-east-1/fake-volume/{id}"), volume));
    }

    fn policy(&self) -> Arc<Policy> {
        let at = key("us-east-1", ACCOUNT, "policy-1");
        self.run(|call| call.get::<Policy>(&at).unwrap().unwrap()).0
    }

    fn snapshots(&self, region: &str) -> Vec<Arc<FakeSnapshot>> {
        let mut found = self.run(|call| call.scan(&format!("/{region}/fake-snapshot/")).unwrap()).0;
        found.sort_by_key(|snapshot: &Arc<FakeSnapshot>| snapshot.started);
        found
    }

    /// Wakes the scheduler until it has nothing to do before `end`.
    fn until(&self, end: &str) {
        let end = at(end);
        let at = key("us-east-1", ACCOUNT, "policy-1");
        for _ in 0..1_000 {
            let (result, wake) = self.run(|call| run(call, &at));
            result.unwrap();
            let wake = wake.filter(|wake| *wake <= end);
            let Some(wake) = wake else {
                self.now.store(end.0, Ordering::SeqCst);
                return;
            };
            self.now.fetch_max(wake.0, Ordering::SeqCst);
        }
        panic!("it looks again and again: {:?}", self.policy().progress);
    }

    fn daily(&self, keep: i32, copies: Option<Vec<CrossRegionCopyRule>>) {
        let schedule = Schedule {
            name: Some("daily".to_owned()),
            create_rule: Some(CreateRule {
                interval: Some(24),
                interval_unit: Some("HOURS".to_owned()),
                times: Some(vec!["03:00".to_owned()]),
                ..CreateRule::default()
            }),
            retain_rule: Some(RetainRule { count: Some(keep), ..RetainRule::default() }),
            cross_region_copy_rules: copies,
            ..Schedule::default()
        };
        let tag = Tag { key: Some("backup".to_owned()), value: Some("yes".to_owned()) };
        let policy = Policy {
            v: 1,
            id: "policy-1".to_owned(),
            description: "d".to_owned(),
            role_arn: "r".to_owned(),
            enabled: true,
            failure: None,
            created: at("2026-01-01T00:00:00Z"),
            modified: at("2026-01-01T00:00:00Z"),
            tags: Tags::new(),
            details: PolicyDetails {
                policy_type: Some(SNAPSHOTS.to_owned()),
                resource_types: Some(vec!["VOLUME".to_owned()]),
                target_tags: Some(vec![tag]),
                schedules: Some(vec![schedule]),
                ..PolicyDetails::default()
            },
            deleted: false,
            progress: Progress::default(),
        };
        self.run(|call| call.put(&key("us-east-1", ACCOUNT, "policy-1"), policy));
    }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_iso(text).unwrap()
}

#[test]
fn snapshots_appear_and_old_ones_go() {
    let world = World::new(EC2);
    for n in 0..40 {
        world.volume(&format!("vol-{n:08}"), false);
    }
    world.daily(2, None);
    world.until("2026-01-01T12:00:00Z");
    let first = world.snapshots("us-east-1");
    assert_eq!(first.len(), 40);
    assert_eq!(first[0].by, "dlm.amazonaws.com");
    assert_eq!(first[0].tags[POLICY_TAG], "policy-1");
    assert_eq!(first[0].tags[MANAGED_TAG], "true");
    world.until("2026-01-05T12:00:00Z");
    let kept = world.snapshots("us-east-1");
    assert_eq!(kept.len(), 80);
    assert!(kept.iter().all(|snapshot| snapshot.started >= at("2026-01-04T00:00:00Z")));
    assert_eq!(world.policy().state(), "ENABLED");
}

#[test]
fn a_run_goes_on_where_it_was_cut_off() {
    let world = World::new(EC2);
    for n in 0..40 {
        world.volume(&format!("vol-{n:08}"), false);
    }
    world.daily(2, None);
    world.now.store(at("2026-01-01T03:00:00Z").0 - 1, Ordering::SeqCst);
    let at = key("us-east-1", ACCOUNT, "policy-1");
    world.run(|call| run(call, &at)).0.unwrap();
    world.now.fetch_add(1, Ordering::SeqCst);
    // One transaction of the run, then one that is never committed: the daemon was killed.
    world.run(|call| run(call, &at)).0.unwrap();
    let begun = world.snapshots("us-east-1").len();
    assert!((1..40).contains(&begun), "{begun}");
    let identity = Identity::root(ACCOUNT);
    let snapshot = world.store.snapshot();
    let mut lost = Call::new(&world.environment, snapshot, "us-east-1", &identity, "lost");
    run(&mut lost, &at).unwrap();
    drop(lost);
    world.until("2026-01-01T12:00:00Z");
    let made = world.snapshots("us-east-1");
    let volumes: std::collections::BTreeSet<_> = made.iter().map(|s| s.volume.clone()).collect();
    assert_eq!((made.len(), volumes.len()), (40, 40));
}

#[test]
fn a_refusal_is_told_and_the_rest_goes_on() {
    let world = World::new(EC2);
    world.volume("vol-aaaaaaaa", true);
    world.volume("vol-bbbbbbbb", false);
    world.daily(1, None);
    world.until("2026-01-01T12:00:00Z");
    let made = world.snapshots("us-east-1");
    assert_eq!(made.len(), 1, "what the refused operation staged is gone");
    assert_eq!(made[0].volume, "vol-bbbbbbbb");
    let policy = world.policy();
    assert_eq!(policy.state(), "ERROR");
    assert_eq!(
        policy.failure.as_deref(),
        Some("snapshot of vol-aaaaaaaa: IncorrectState: The volume is in error")
    );
    world.volume("vol-aaaaaaaa", false);
    world.until("2026-01-02T12:00:00Z");
    assert_eq!(world.policy().state(), "ENABLED");
    assert_eq!(world.snapshots("us-east-1").len(), 2);
}

#[test]
fn copies_live_in_their_region() {
    let world = World::new(EC2);
    world.volume("vol-aaaaaaaa", false);
    let rule = CrossRegionCopyRule {
        encrypted: Some(false),
        target: Some("eu-west-1".to_owned()),
        retain_rule: Some(CrossRegionCopyRetainRule {
            interval: Some(1),
            interval_unit: Some("DAYS".to_owned()),
        }),
        ..CrossRegionCopyRule::default()
    };
    world.daily(1, Some(vec![rule]));
    world.until("2026-01-01T12:00:00Z");
    let copies = world.snapshots("eu-west-1");
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].tags[POLICY_TAG], "policy-1");
    assert_eq!(copies[0].tags[EXPIRATION_TAG], "2026-01-02T03:00:00Z");
    world.until("2026-01-03T12:00:00Z");
    let copies = world.snapshots("eu-west-1");
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].started, at("2026-01-03T03:00:00Z"));
}

#[test]
fn a_copy_that_is_refused_is_made_later() {
    let world = World::new(EC2);
    world.volume("vol-aaaaaaaa", false);
    let rule = CrossRegionCopyRule {
        encrypted: Some(false),
        target: Some("eu-west-1".to_owned()),
        ..CrossRegionCopyRule::default()
    };
    world.daily(1, Some(vec![rule]));
    world.run(|call| call.put("/no-copies", true));
    world.until("2026-01-01T12:00:00Z");
    assert_eq!(world.policy().state(), "ERROR");
    assert!(
        world.policy().failure.as_deref().unwrap().contains("Too many"),
        "{:?}",
        world.policy()
    );
    assert_eq!(world.snapshots("eu-west-1").len(), 0);
    world.run(|call| call.delete("/no-copies"));
    world.until("2026-01-01T18:00:00Z");
    assert_eq!(world.snapshots("eu-west-1").len(), 1);
    assert_eq!(world.policy().state(), "ENABLED");
}

#[test]
fn what_ec2_cannot_do_is_an_error_of_the_policy() {
    let world = World::new(&[]);
    world.daily(1, None);
    world.until("2026-01-01T12:00:00Z");
    let policy = world.policy();
    assert_eq!(policy.state(), "ERROR");
    assert!(policy.failure.as_deref().unwrap().contains("DescribeVolumes"), "{policy:?}");
}
