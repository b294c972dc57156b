//! Operations on volumes, with the errors that AWS documents, and what other tests need of them.

mod modify;
mod status;

use super::*;
use crate::instance;
use crate::instance_reconciler::tests as machines;
use crate::launch::run_instances;
use crate::record::snapshot::{NO_VOLUME, Origin, Permissions};
use crate::record::{Snapshot, SnapshotState};
use crate::testing::{ACCOUNT, Region, filter, list};
use crate::volume_reconciler::tests as disks;
use base::machine::State as Machine;
use base::volume::{Content, Driver as _, State};
use model::ec2 as api;

const ZONE: &str = "us-east-1a";

/// A request for a volume in zone a.
pub(crate) fn wish(size: i32, kind: &str) -> api::CreateVolumeRequest {
    api::CreateVolumeRequest {
        availability_zone: Some(ZONE.to_owned()),
        size: Some(size),
        volume_type: Some(kind.to_owned()),
        ..Default::default()
    }
}

fn ask(region: &Region, request: api::CreateVolumeRequest) -> String {
    region.ok(create::create_volume, request).volume_id.unwrap()
}

/// The id of a volume that is being created.
pub(crate) fn create(region: &Region, size: i32, kind: &str) -> String {
    ask(region, wish(size, kind))
}

/// The id of a volume that is there.
pub(crate) fn available(region: &Region, size: i32, kind: &str) -> String {
    let id = create(region, size, kind);
    disks::obey(region, &id);
    id
}

/// Deletes a volume.
pub(crate) fn delete(region: &Region, id: &str) {
    region.ok(create::delete_volume, deletion(id));
}

fn deletion(id: &str) -> api::DeleteVolumeRequest {
    api::DeleteVolumeRequest { volume_id: Some(id.to_owned()), ..Default::default() }
}

/// A mapping of an empty volume.
pub(crate) fn mapping(device: &str, size: Option<i32>) -> api::BlockDeviceMapping {
    api::BlockDeviceMapping {
        device_name: Some(device.to_owned()),
        ebs: Some(api::EbsBlockDevice { volume_size: size, ..Default::default() }),
        ..Default::default()
    }
}

/// A request for an instance in zone a with these mappings.
pub(crate) fn launch_request(
    region: &Region,
    mappings: Vec<api::BlockDeviceMapping>,
) -> api::RunInstancesRequest {
    let mut request = instance::tests::request(region);
    request.placement =
        Some(api::Placement { availability_zone: Some(ZONE.to_owned()), ..Default::default() });
    request.block_device_mappings = Some(mappings);
    request
}

/// The record of an instance that runs in zone a with these mappings.
pub(crate) fn launch(region: &Region, mappings: Vec<api::BlockDeviceMapping>) -> Arc<Instance> {
    launch_as(region, launch_request(region, mappings))
}

fn launch_as(region: &Region, request: api::RunInstancesRequest) -> Arc<Instance> {
    let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
    let id = launched.instance_id.unwrap();
    run(region, &id, Machine::Running { start: 1, reboots: 0, reachable: Some(true) });
    record(region, &id)
}

fn record(region: &Region, id: &str) -> Arc<Instance> {
    let at = key::of("us-east-1", key::INSTANCE, ACCOUNT, id);
    region.run(|call| call.peek::<Instance>(&at)).unwrap().unwrap()
}

/// The machine is in this state, and its record follows.
fn run(region: &Region, id: &str, state: Machine) {
    region.driver.set(id, state);
    machines::reconcile(region, id);
}

fn off(region: &Region, id: &str) {
    let input = api::StopInstancesRequest { instance_ids: list(&[id]), ..Default::default() };
    region.ok(instance::tests::stop, input);
    run(region, id, Machine::Exited { start: 1, cause: base::machine::ExitCause::Requested });
}

/// Terminates an instance, whose machine goes.
pub(crate) fn terminate(region: &Region, id: &str) {
    let input = api::TerminateInstancesRequest { instance_ids: list(&[id]), ..Default::default() };
    region.ok(instance::tests::terminate, input);
    run(region, id, Machine::Gone);
}

/// The record of a snapshot of this account.
pub(crate) fn snapshot(id: &str, size_gib: u32, state: SnapshotState) -> Snapshot {
    let content = Content { root: "0".repeat(64), size_gib, key: None };
    Snapshot {
        v: 1,
        id: id.to_owned(),
        volume_id: NO_VOLUME.to_owned(),
        size_gib,
        owner_id: ACCOUNT.to_owned(),
        owner_alias: None,
        origin: Origin::Volume,
        state,
        message: None,
        cut: true,
        progress: 100,
        content: (state == SnapshotState::Completed).then_some(content),
        key: None,
        full_bytes: None,
        parent: None,
        parent_id: None,
        started: base::Timestamp(0),
        completed: None,
        description: String::new(),
        tags: Default::default(),
        together: Vec::new(),
        during_reboot: None,
        images: Default::default(),
        image_key: Default::default(),
        permissions: Permissions::default(),
        lock: None,
        tiering: Default::default(),
        fast_restores: Default::default(),
        recycled: None,
    }
}

const SNAPSHOT: &str = "snap-0123456789abcdef0";

fn keep(region: &Region, snapshot: Snapshot) {
    let at = key::of("us-east-1", key::SNAPSHOT, &snapshot.owner_id, &snapshot.id);
    region
        .run(|call| {
            call.put(&at, snapshot);
            Ok(())
        })
        .unwrap();
}

fn attachment(volume: &str, instance: &str, device: &str) -> api::AttachVolumeRequest {
    api::AttachVolumeRequest {
        volume_id: Some(volume.to_owned()),
        instance_id: Some(instance.to_owned()),
        device: Some(device.to_owned()),
        ..Default::default()
    }
}

fn attach(region: &Region, volume: &str, instance: &str, device: &str) {
    let answer = region.ok(attach::attach_volume, attachment(volume, instance, device));
    assert_eq!(answer.state.as_deref(), Some("attaching"));
    assert_eq!(answer.device.as_deref(), Some(device));
}

/// Attaches a volume, if that can be.
pub(crate) fn try_attach(
    region: &Region,
    volume: &str,
    instance: &str,
    device: &str,
) -> Result<api::VolumeAttachment, Error> {
    region.run(|call| attach::attach_volume(call, attachment(volume, instance, device)))
}

/// Detaches a volume, if that can be.
pub(crate) fn try_detach(
    region: &Region,
    volume: &str,
    force: bool,
) -> Result<api::VolumeAttachment, Error> {
    let input = api::DetachVolumeRequest { force: Some(force), ..detachment(volume) };
    region.run(|call| attach::detach_volume(call, input))
}

fn detachment(volume: &str) -> api::DetachVolumeRequest {
    api::DetachVolumeRequest { volume_id: Some(volume.to_owned()), ..Default::default() }
}

fn shown(region: &Region, id: &str) -> api::Volume {
    let input = api::DescribeVolumesRequest { volume_ids: list(&[id]), ..Default::default() };
    region.ok(describe::describe_volumes, input).volumes.unwrap().remove(0)
}

/// State of a volume and of its attachments.
fn states(region: &Region, id: &str) -> (String, Vec<String>) {
    let shown = shown(region, id);
    let attachments = shown.attachments.unwrap().into_iter().map(|a| a.state.unwrap());
    (shown.state.unwrap(), attachments.collect())
}

fn is(state: &str, attachments: &[&str]) -> (String, Vec<String>) {
    (state.to_owned(), attachments.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn a_created_volume_is_shown() {
    let region = Region::new();
    let mut request = wish(8, "gp3");
    request.tag_specifications = Some(vec![api::TagSpecification {
        resource_type: Some("volume".to_owned()),
        tags: Some(vec![api::Tag { key: Some("Name".into()), value: Some("data".into()) }]),
    }]);
    let made = region.ok(create::create_volume, request);
    assert_eq!(made.state.as_deref(), Some("creating"));
    assert_eq!((made.size, made.iops, made.throughput), (Some(8), Some(3_000), Some(125)));
    assert_eq!((made.encrypted, made.multi_attach_enabled), (Some(false), Some(false)));
    assert_eq!(made.availability_zone_id.as_deref(), Some("use1-az1"));
    assert_eq!(made.snapshot_id.as_deref(), Some(""));
    assert!(made.attachments.is_none(), "not returned by CreateVolume");
    let id = made.volume_id.unwrap();
    assert_eq!(states(&region, &id), is("creating", &[]));
    disks::obey(&region, &id);
    assert_eq!(states(&region, &id), is("available", &[]));
    assert_eq!(shown(&region, &id).tags.unwrap()[0].value.as_deref(), Some("data"));
    // The zone by its id, and the type that nobody named.
    let request = api::CreateVolumeRequest {
        availability_zone_id: Some("use1-az2".to_owned()),
        size: Some(1),
        ..Default::default()
    };
    let made = region.ok(create::create_volume, request);
    assert_eq!(made.availability_zone.as_deref(), Some("us-east-1b"));
    assert_eq!((made.volume_type.as_deref(), made.iops), (Some("gp2"), Some(100)));
}

#[test]
fn a_volume_has_the_content_of_its_snapshot() {
    let region = Region::new();
    let mut complete = snapshot(SNAPSHOT, 8, SnapshotState::Completed);
    let content = complete.content.clone();
    complete.fast_restores.insert(
        ZONE.to_owned(),
        crate::record::snapshot::FastRestore {
            enabling: base::Timestamp(0),
            optimizing: Some(base::Timestamp(0)),
            enabled: Some(base::Timestamp(0)),
            disabling: None,
            disabled: None,
        },
    );
    keep(&region, complete);
    let request = |size: Option<i32>| api::CreateVolumeRequest {
        snapshot_id: Some(SNAPSHOT.to_owned()),
        size,
        ..wish(8, "gp3")
    };
    let id = ask(&region, request(None));
    let volume = disks::record(&region, &id).unwrap();
    assert_eq!((volume.size_gib, &volume.source), (8, &content));
    assert!(volume.filled_first, "fast snapshot restore is enabled in its zone");
    disks::obey(&region, &id);
    assert_eq!(shown(&region, &id).fast_restored, Some(true));
    let id = ask(
        &region,
        api::CreateVolumeRequest { volume_initialization_rate: Some(100), ..request(Some(20)) },
    );
    let volume = disks::record(&region, &id).unwrap();
    assert_eq!((volume.size_gib, volume.initialization_rate), (20, Some(100)));
    assert!(!volume.filled_first, "a rate comes before it");
    assert_eq!(
        region.refused(create::create_volume, request(Some(7))),
        "InvalidParameterValue: Volume of size 7GB is smaller than snapshot \
         'snap-0123456789abcdef0', expect size >= 8GB"
    );
}

#[test]
fn snapshots_that_cannot_be_used_are_refused() {
    let region = Region::new();
    let request =
        || api::CreateVolumeRequest { snapshot_id: Some(SNAPSHOT.to_owned()), ..wish(8, "gp3") };
    let refused = || region.refused(create::create_volume, request());
    assert_eq!(
        refused(),
        "InvalidSnapshot.NotFound: The snapshot 'snap-0123456789abcdef0' does not exist."
    );
    keep(&region, snapshot(SNAPSHOT, 8, SnapshotState::Pending));
    assert_eq!(refused(), "IncorrectState: Snapshot is in invalid state - pending");
    let mut archived = snapshot(SNAPSHOT, 8, SnapshotState::Completed);
    archived.tiering.archived = true;
    keep(&region, archived.clone());
    assert!(refused().starts_with("IncorrectState: "));
    // Somebody else's, until it is shared.
    let region = Region::new();
    let mut foreign = snapshot(SNAPSHOT, 8, SnapshotState::Completed);
    foreign.owner_id = "999999999999".to_owned();
    keep(&region, foreign.clone());
    assert!(
        region.refused(create::create_volume, request()).starts_with("InvalidSnapshot.NotFound")
    );
    foreign.permissions.accounts.insert(ACCOUNT.to_owned());
    keep(&region, foreign.clone());
    region.ok(create::create_volume, request());
}

#[test]
fn encryption_is_asked_for_or_inherited() {
    let region = Region::new();
    let plain = ask(&region, wish(1, "gp3"));
    assert_eq!(disks::record(&region, &plain).unwrap().key, None);
    let request = api::CreateVolumeRequest { encrypted: Some(true), ..wish(1, "gp3") };
    let made = region.ok(create::create_volume, request);
    assert_eq!(made.encrypted, Some(true));
    let arn = made.kms_key_id.unwrap();
    assert!(arn.starts_with("arn:aws:kms:us-east-1:"), "{arn}");
    let id = made.volume_id.unwrap();
    disks::obey(&region, &id);
    assert!(region.driver.volume_spec(&id).unwrap().key.is_some());
    // A snapshot's key is the volume's, whatever the request says.
    let mut encrypted = snapshot(SNAPSHOT, 8, SnapshotState::Completed);
    encrypted.key = disks::record(&region, &id).unwrap().key.clone();
    keep(&region, encrypted.clone());
    let request = api::CreateVolumeRequest {
        encrypted: Some(false),
        snapshot_id: Some(SNAPSHOT.to_owned()),
        ..wish(8, "gp3")
    };
    let made = region.ok(create::create_volume, request);
    let volume = disks::record(&region, &made.volume_id.unwrap()).unwrap();
    assert_eq!(volume.key, encrypted.key);
    let keyed = api::CreateVolumeRequest {
        kms_key_id: Some("arn:aws:kms:us-east-1:1:key/a".to_owned()),
        ..wish(1, "gp3")
    };
    assert!(
        region.refused(create::create_volume, keyed).starts_with("InvalidParameterDependency: ")
    );
    let unknown = api::CreateVolumeRequest {
        encrypted: Some(true),
        kms_key_id: Some("alias/none".to_owned()),
        ..wish(1, "gp3")
    };
    assert!(region.refused(create::create_volume, unknown).starts_with("InvalidKMSKey.NotFound"));
}

#[test]
fn volumes_that_cannot_be_are_refused() {
    let region = Region::new();
    let refused = |request| region.refused(create::create_volume, request);
    let nowhere = api::CreateVolumeRequest { availability_zone: None, ..wish(1, "gp3") };
    assert_eq!(
        refused(nowhere),
        "MissingParameter: The request must contain the parameter availabilityZone"
    );
    let both = api::CreateVolumeRequest {
        availability_zone_id: Some("use1-az1".to_owned()),
        ..wish(1, "gp3")
    };
    assert!(refused(both).starts_with("InvalidParameterCombination: "));
    let elsewhere = api::CreateVolumeRequest {
        availability_zone: Some("us-east-1z".to_owned()),
        ..wish(1, "gp3")
    };
    assert_eq!(refused(elsewhere), "InvalidZone.NotFound: The zone 'us-east-1z' does not exist.");
    let unsized_ = api::CreateVolumeRequest { size: None, ..wish(1, "gp3") };
    assert_eq!(
        refused(unsized_),
        "MissingParameter: The request must contain the parameter size or snapshotId"
    );
    assert!(refused(wish(1, "gp9")).starts_with("InvalidParameterValue: "));
    assert!(refused(wish(0, "gp3")).starts_with("InvalidParameterValue: "));
    let shared = api::CreateVolumeRequest { multi_attach_enabled: Some(true), ..wish(1, "gp3") };
    assert!(refused(shared).starts_with("InvalidParameterCombination: "));
    let rated =
        api::CreateVolumeRequest { volume_initialization_rate: Some(100), ..wish(1, "gp3") };
    assert!(refused(rated).starts_with("InvalidParameterCombination: "));
    keep(&region, snapshot(SNAPSHOT, 1, SnapshotState::Completed));
    for rate in [99, 301] {
        let rated = api::CreateVolumeRequest {
            volume_initialization_rate: Some(rate),
            snapshot_id: Some(SNAPSHOT.to_owned()),
            ..wish(1, "gp3")
        };
        assert!(refused(rated).starts_with("InvalidParameterValue: "));
    }
}

#[test]
fn only_what_is_available_is_deleted() {
    let region = Region::new();
    let refused = |id: &str| region.refused(create::delete_volume, deletion(id));
    assert_eq!(
        refused("vol-0123456789abcdef0"),
        "InvalidVolume.NotFound: The volume 'vol-0123456789abcdef0' does not exist."
    );
    assert!(refused("volume").starts_with("InvalidParameterValue: "));
    let id = create(&region, 1, "gp3");
    assert_eq!(refused(&id), format!("IncorrectState: {id} is not 'available'."));
    disks::obey(&region, &id);
    let instance = launch(&region, Vec::new());
    attach(&region, &id, &instance.id, "/dev/sdf");
    assert_eq!(
        refused(&id),
        format!("VolumeInUse: Volume {id} is currently attached to {}", instance.id)
    );
    let id = available(&region, 1, "gp3");
    delete(&region, &id);
    delete(&region, &id);
    assert_eq!(states(&region, &id), is("deleting", &[]));
    disks::obey(&region, &id);
    assert!(refused(&id).starts_with("InvalidVolume.NotFound"));
}

#[test]
fn a_running_machine_gets_and_loses_a_volume() {
    let region = Region::new();
    let instance = launch(&region, Vec::new());
    let id = available(&region, 1, "gp3");
    attach(&region, &id, &instance.id, "/dev/sdf");
    assert_eq!(states(&region, &id), is("in-use", &["attaching"]));
    machines::reconcile(&region, &instance.id);
    let spec = region.driver.spec(&instance.id).unwrap();
    assert_eq!(spec.volumes.len(), 2);
    assert_eq!(spec.volumes[1].device_name, "/dev/sdf");
    assert_eq!(spec.metadata.leaves["meta-data/block-device-mapping/ebs1"], "sdf");
    let link = format!("meta-data/gureum/volumes/{}", id.replace('-', ""));
    assert_eq!(spec.metadata.leaves[&link], "/dev/sdf");
    assert_eq!(states(&region, &id), is("in-use", &["attaching"]), "the guest cannot see it yet");
    disks::attached(&region, &id, &[&instance.id]);
    assert_eq!(machines::reconcile(&region, &instance.id), 1);
    assert_eq!(states(&region, &id), is("in-use", &["attached"]));
    let told = region.driver.told();
    assert_eq!(machines::reconcile(&region, &instance.id), 0);
    assert_eq!(region.driver.told(), told, "it is as it should be");

    let answer = region.ok(attach::detach_volume, detachment(&id));
    assert_eq!(answer.state.as_deref(), Some("detaching"));
    assert_eq!(answer.instance_id.as_deref(), Some(instance.id.as_str()));
    assert_eq!(machines::reconcile(&region, &instance.id), 0);
    let spec = region.driver.spec(&instance.id).unwrap();
    assert_eq!((spec.volumes.len(), spec.forced_off.len()), (1, 0));
    assert_eq!(states(&region, &id), is("in-use", &["detaching"]), "the guest holds it");
    let force = api::DetachVolumeRequest { force: Some(true), ..detachment(&id) };
    region.ok(attach::detach_volume, force);
    machines::reconcile(&region, &instance.id);
    assert_eq!(region.driver.spec(&instance.id).unwrap().forced_off, [id.as_str()]);
    disks::attached(&region, &id, &[]);
    machines::reconcile(&region, &instance.id);
    assert_eq!(states(&region, &id), is("available", &[]));
    assert_eq!(record(&region, &instance.id).volumes.len(), 1);
    assert!(region.driver.spec(&instance.id).unwrap().forced_off.is_empty());
}

#[test]
fn a_detached_volume_is_free_only_after_the_driver_was_told() {
    use crate::instance_reconciler::{Settled, settled};
    use crate::record::AttachmentState::{Attached, Attaching, Detaching};
    let ready = |machines: &[&str]| {
        State::Ready(base::volume::Ready {
            attached: machines.iter().map(|id| (*id).to_owned()).collect(),
            ..Default::default()
        })
    };
    let (there, away, other) = (ready(&["i-1"]), ready(&[]), ready(&["i-2"]));
    for (state, volume, was_told, expected) in [
        (Attaching, &there, true, Some(Settled::Attached)),
        (Attaching, &away, true, None),
        (Attaching, &other, true, None),
        (Attaching, &State::Absent, true, None),
        (Detaching, &there, true, None),
        (Detaching, &away, true, Some(Settled::Detached)),
        (Detaching, &other, true, Some(Settled::Detached)),
        (Detaching, &away, false, None),
        (Detaching, &State::Absent, true, None),
        (Detaching, &State::Gone, true, Some(Settled::Detached)),
        (Attached, &away, true, None),
    ] {
        assert_eq!(settled("i-1", state, volume, was_told), expected, "{state:?} {volume:?}");
    }
}

#[test]
fn a_machine_that_is_off_changes_at_once() {
    let region = Region::new();
    let instance = launch(&region, Vec::new());
    let (one, two) = (available(&region, 1, "gp3"), available(&region, 1, "gp3"));
    attach(&region, &one, &instance.id, "/dev/sdf");
    off(&region, &instance.id);
    assert_eq!(states(&region, &one), is("in-use", &["attached"]), "it will be there");
    attach(&region, &two, &instance.id, "/dev/sdg");
    assert_eq!(states(&region, &two), is("in-use", &["attached"]));
    region.ok(attach::detach_volume, detachment(&one));
    assert_eq!(states(&region, &one), is("available", &[]));
    // The root too; without it the instance does not start.
    let root = instance.volumes[0].volume_id.clone();
    region.ok(attach::detach_volume, detachment(&root));
    let start =
        || api::StartInstancesRequest { instance_ids: list(&[&instance.id]), ..Default::default() };
    assert_eq!(
        region.refused(instance::tests::start, start()),
        format!(
            "InvalidParameterValue: Invalid value '{}' for instanceId. Instance does not have a \
             volume attached at root (/dev/xvda)",
            instance.id
        )
    );
    attach(&region, &root, &instance.id, "/dev/xvda");
    let record = record(&region, &instance.id);
    assert_eq!(record.volumes[0].volume_id, root, "the root comes first");
    region.ok(instance::tests::start, start());
}

#[test]
fn attachments_that_cannot_be_are_refused() {
    let region = Region::new();
    let instance = launch(&region, vec![mapping("/dev/sdf", Some(1))]);
    let refused = |request| region.refused(attach::attach_volume, request);
    let none = "vol-0123456789abcdef0";
    assert!(refused(attachment(none, &instance.id, "/dev/sdg")).starts_with("InvalidVolume.NotF"));
    let id = create(&region, 1, "gp3");
    assert_eq!(
        refused(attachment(&id, &instance.id, "/dev/sdg")),
        format!("IncorrectState: {id} is not 'available'.")
    );
    disks::obey(&region, &id);
    assert!(
        refused(attachment(&id, "i-0123456789abcdef0", "/dev/sdg"))
            .starts_with("InvalidInstanceID.NotFound")
    );
    assert_eq!(
        refused(attachment(&id, &instance.id, "")),
        "MissingParameter: The request must contain the parameter device"
    );
    for device in ["/dev/sdZ", "/dev/nvme1n1", "sd", "/dev/sdf16", "/dev/sdf0", "disk"] {
        assert_eq!(
            refused(attachment(&id, &instance.id, device)),
            format!(
                "InvalidParameterValue: Value ({device}) for parameter device is invalid. \
                 {device} is not a valid EBS device name."
            )
        );
    }
    for device in ["/dev/sdf", "xvdf", "/dev/xvdf"] {
        assert_eq!(
            refused(attachment(&id, &instance.id, device)),
            format!(
                "InvalidParameterValue: Invalid value '{device}' for unixDevice. Attachment point \
                 {device} is already in use"
            )
        );
    }
    let elsewhere = ask(
        &region,
        api::CreateVolumeRequest {
            availability_zone: Some("us-east-1b".to_owned()),
            ..wish(1, "gp3")
        },
    );
    disks::obey(&region, &elsewhere);
    assert_eq!(
        refused(attachment(&elsewhere, &instance.id, "/dev/sdg")),
        format!(
            "InvalidVolume.ZoneMismatch: The volume '{elsewhere}' is not in the same availability \
             zone as instance '{}'",
            instance.id
        )
    );
    let card = api::AttachVolumeRequest {
        ebs_card_index: Some(1),
        ..attachment(&id, &instance.id, "sdg")
    };
    assert!(refused(card).starts_with("InvalidParameterValue: "));
    attach(&region, &id, &instance.id, "/dev/sdg");
    assert_eq!(
        refused(attachment(&id, &instance.id, "/dev/sdh")),
        format!("VolumeInUse: {id} is already attached to an instance")
    );
    let other = available(&region, 1, "gp3");
    terminate(&region, &instance.id);
    assert_eq!(
        refused(attachment(&other, &instance.id, "/dev/sdh")),
        format!("IncorrectState: Instance '{}' is not 'running'.", instance.id)
    );
}

#[test]
fn an_instance_has_so_many_volumes_and_no_more() {
    let region = Region::new();
    let letters = "bcdefghijklmnopqrstuvwxyz".chars();
    let mappings: Vec<api::BlockDeviceMapping> =
        letters.map(|letter| mapping(&format!("/dev/sd{letter}"), Some(1))).collect();
    let instance = launch(&region, mappings);
    assert_eq!(instance.volumes.len(), 26);
    attach(&region, &available(&region, 1, "gp3"), &instance.id, "/dev/xvdba");
    let one_more = available(&region, 1, "gp3");
    assert!(
        region
            .refused(attach::attach_volume, attachment(&one_more, &instance.id, "/dev/xvdbb"))
            .starts_with("AttachmentLimitExceeded: "),
        "27 is the limit of t3.micro"
    );
}

fn shared(region: &Region, kind: &str) -> String {
    let id = ask(
        region,
        api::CreateVolumeRequest {
            multi_attach_enabled: Some(true),
            iops: Some(100),
            ..wish(4, kind)
        },
    );
    disks::obey(region, &id);
    id
}

#[test]
fn a_multi_attach_volume_has_sixteen_instances() {
    let region = Region::new();
    let id = shared(&region, "io2");
    let instances: Vec<Arc<Instance>> = (0..17).map(|_| launch(&region, Vec::new())).collect();
    for instance in &instances[..16] {
        attach(&region, &id, &instance.id, "/dev/sdf");
    }
    assert_eq!(shown(&region, &id).attachments.unwrap().len(), 16);
    let refused = |instance: &str| {
        region.refused(attach::attach_volume, attachment(&id, instance, "/dev/sdf"))
    };
    assert!(refused(&instances[16].id).starts_with("AttachmentLimitExceeded: "));
    assert!(refused(&instances[0].id).starts_with("VolumeInUse: "));
    assert_eq!(
        region.refused(attach::detach_volume, detachment(&id)),
        "MissingParameter: The request must contain the parameter instanceId"
    );
    let one =
        api::DetachVolumeRequest { instance_id: Some(instances[3].id.clone()), ..detachment(&id) };
    region.ok(attach::detach_volume, one);
    machines::reconcile(&region, &instances[3].id);
    assert_eq!(shown(&region, &id).attachments.unwrap().len(), 15);
    // Nobody boots from one.
    off(&region, &instances[16].id);
    let root = record(&region, &instances[16].id).volumes[0].volume_id.clone();
    region.ok(attach::detach_volume, detachment(&root));
    let free = shared(&region, "io2");
    assert!(
        region
            .refused(attach::attach_volume, attachment(&free, &instances[16].id, "/dev/xvda"))
            .starts_with("InvalidParameterCombination: ")
    );
    // Not on Xen.
    let mut request = launch_request(&region, Vec::new());
    request.instance_type = Some("m3.medium".to_owned());
    let xen = launch_as(&region, request);
    let id = shared(&region, "io1");
    assert!(
        region
            .refused(attach::attach_volume, attachment(&id, &xen.id, "/dev/sdf"))
            .starts_with("UnsupportedOperation: ")
    );
}

#[test]
fn detachments_that_cannot_be_are_refused() {
    let region = Region::new();
    let instance = launch(&region, vec![mapping("/dev/sdf", Some(1))]);
    let refused = |request| region.refused(attach::detach_volume, request);
    let (root, data) = (&instance.volumes[0].volume_id, &instance.volumes[1].volume_id);
    assert_eq!(
        refused(detachment(root)),
        format!(
            "OperationNotPermitted: Unable to detach root volume '{root}' from instance '{}'",
            instance.id
        )
    );
    let free = available(&region, 1, "gp3");
    assert_eq!(
        refused(detachment(&free)),
        format!("IncorrectState: Volume '{free}' is in the 'available' state.")
    );
    let other = "i-0123456789abcdef0";
    let from = api::DetachVolumeRequest { instance_id: Some(other.to_owned()), ..detachment(data) };
    assert_eq!(
        refused(from),
        format!(
            "InvalidAttachment.NotFound: The volume '{data}' is not attached to instance '{other}'."
        )
    );
    let at = api::DetachVolumeRequest { device: Some("/dev/sdg".to_owned()), ..detachment(data) };
    assert!(refused(at).starts_with("InvalidAttachment.NotFound: "));
    let of = api::DetachVolumeRequest { instance_id: Some("i".to_owned()), ..detachment(data) };
    assert!(refused(of).starts_with("InvalidInstanceID.Malformed: "));
    assert!(refused(detachment("vol-0123456789abcdef0")).starts_with("InvalidVolume.NotFound: "));
}

#[test]
fn volumes_show_their_instance() {
    let region = Region::new();
    let mut root = mapping("/dev/xvda", Some(20));
    root.ebs.as_mut().unwrap().volume_type = Some("gp2".to_owned());
    let instance = launch(&region, vec![root, mapping("/dev/sdf", Some(5))]);
    let ask = |name: &str, value: &str| {
        let input = api::DescribeVolumesRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(describe::describe_volumes, input).volumes.unwrap()
    };
    assert_eq!(ask("attachment.instance-id", &instance.id).len(), 2);
    assert_eq!(ask("attachment.instance-id", "i-*").len(), 2);
    assert_eq!(ask("attachment.instance-id", "i-12345678").len(), 0);
    let root = ask("attachment.device", "/dev/xvda").remove(0);
    assert_eq!((root.size, root.iops, root.throughput), (Some(20), Some(100), None));
    assert!(root.snapshot_id.unwrap().starts_with("snap-"));
    let attachment = &root.attachments.as_ref().unwrap()[0];
    assert_eq!(attachment.delete_on_termination, Some(true));
    assert_eq!(attachment.instance_id.as_deref(), Some(instance.id.as_str()));
    let data = ask("size", "5").remove(0);
    assert_eq!(data.volume_type.as_deref(), Some("gp2"));
    assert_eq!(data.snapshot_id.as_deref(), Some(""));
    assert_eq!(data.attachments.unwrap()[0].delete_on_termination, Some(false));
    let id = data.volume_id.unwrap();
    let free = available(&region, 6, "gp3");
    for (name, value, count) in [
        ("attachment.status", "attached", 2),
        ("attachment.delete-on-termination", "true", 1),
        ("availability-zone", ZONE, 3),
        ("availability-zone-id", "use1-az1", 3),
        ("encrypted", "false", 3),
        ("encrypted", "true", 0),
        ("fast-restored", "true", 0),
        ("multi-attach-enabled", "false", 3),
        ("operator.managed", "false", 3),
        ("snapshot-id", "snap-*", 1),
        ("status", "in-use", 2),
        ("status", "available", 1),
        ("volume-id", &id, 1),
        ("volume-id", &free, 1),
        ("volume-type", "gp2", 2),
    ] {
        assert_eq!(ask(name, value).len(), count, "{name}={value}");
    }
    let input =
        api::DescribeVolumesRequest { volume_ids: list(&["vol-12345678"]), ..Default::default() };
    assert_eq!(
        region.refused(describe::describe_volumes, input),
        "InvalidVolume.NotFound: The volume 'vol-12345678' does not exist."
    );
}

#[test]
fn records_of_before_are_understood() {
    let text = r#"{"v":1,"id":"vol-1","size_gib":8,"kind":"gp3","iops":3000,"throughput":125,
        "snapshot_id":null,"availability_zone":"us-east-1a","created":0,"instance_id":"i-1",
        "tags":{}}"#;
    let volume: Volume = serde_json::from_str(text).unwrap();
    assert_eq!(volume.attachments, ["i-1"]);
    assert_eq!(state_name(&volume), "in-use");
    let none: Volume = serde_json::from_str(&text.replace("\"i-1\"", "null")).unwrap();
    assert_eq!(state_name(&none), "available");
    let again: Volume = serde_json::from_str(&serde_json::to_string(&volume).unwrap()).unwrap();
    assert_eq!(again, volume);
}
