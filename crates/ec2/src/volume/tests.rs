//! Operations on volumes, with the errors that AWS documents, and what other tests need of them.

use super::*;
use crate::instance;
use crate::instance_reconciler::tests as machines;
use crate::launch::run_instances;
use crate::record::snapshot::{NO_VOLUME, Origin, Permissions};
use crate::record::{ModificationState, Snapshot, SnapshotState};
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

fn modification(id: &str) -> api::ModifyVolumeRequest {
    api::ModifyVolumeRequest { volume_id: Some(id.to_owned()), ..Default::default() }
}

fn modified(region: &Region, id: &str) -> api::VolumeModification {
    let input =
        api::DescribeVolumesModificationsRequest { volume_ids: list(&[id]), ..Default::default() };
    let answer = region.ok(modify::describe_volumes_modifications, input);
    answer.volumes_modifications.unwrap().remove(0)
}

/// Grows a volume by a GiB and lets the modification end.
fn grow(region: &Region, id: &str) {
    let size = shown(region, id).size.map(|size| size + 1);
    region.ok(modify::modify_volume, api::ModifyVolumeRequest { size, ..modification(id) });
    disks::obey(region, id);
    region.pass(modify::OPTIMIZING_MILLIS);
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
    let asked = region.ok(modify::modify_volume, wish).volume_modification.unwrap();
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
    region.pass(modify::OPTIMIZING_MILLIS / 2);
    disks::reconcile(&region, &id);
    assert_eq!(modified(&region, &id).progress, Some(50));
    region.pass(modify::OPTIMIZING_MILLIS / 2);
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
    let answer = region.ok(modify::describe_volumes_modifications, found);
    assert_eq!(answer.volumes_modifications.unwrap().len(), 1);
}

#[test]
fn modifications_are_one_at_a_time_and_four_a_day() {
    let region = Region::new();
    let id = available(&region, 8, "gp3");
    let ask = || api::ModifyVolumeRequest { size: Some(100), ..modification(&id) };
    region.ok(modify::modify_volume, api::ModifyVolumeRequest { size: Some(9), ..ask() });
    assert_eq!(
        region.refused(modify::modify_volume, ask()),
        format!(
            "IncorrectModificationState: Volume {id} cannot be modified in modification state \
             MODIFYING"
        )
    );
    disks::obey(&region, &id);
    assert!(region.refused(modify::modify_volume, ask()).ends_with("state OPTIMIZING"));
    region.pass(modify::OPTIMIZING_MILLIS);
    disks::reconcile(&region, &id);
    for _ in 0..3 {
        grow(&region, &id);
    }
    let refusal = region.refused(modify::modify_volume, ask());
    let expected = "VolumeModificationRateExceeded: You've reached the maximum modification rate \
                    per volume limit.";
    assert!(refusal.starts_with(expected), "{refusal}");
    region.pass(24 * 3_600_000 - 21_000);
    assert!(region.refused(modify::modify_volume, ask()).starts_with(expected));
    region.pass(1_000);
    grow(&region, &id);
    let known = disks::record(&region, &id).unwrap();
    assert!(known.modifications.len() <= 4, "what is older is dropped");
    assert_eq!(known.modifications.last().unwrap().state, ModificationState::Completed);
}

#[test]
fn modifications_that_cannot_be_are_refused() {
    let region = Region::new();
    let refused = |request| region.refused(modify::modify_volume, request);
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
    region.ok(modify::modify_volume, to("standard"));
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
            .refused(modify::describe_volumes_modifications, input)
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
    let refused = |request| region.refused(modify::modify_volume, request);
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
    region.ok(modify::modify_volume, switch(&free, true));
    disks::obey(&region, &free);
    assert_eq!(shown(&region, &free).multi_attach_enabled, Some(true));
    assert!(region.driver.volume_spec(&free).unwrap().multi_attach);
}

fn status(region: &Region, id: &str) -> api::VolumeStatusItem {
    let input = api::DescribeVolumeStatusRequest { volume_ids: list(&[id]), ..Default::default() };
    region.ok(status::describe_volume_status, input).volume_statuses.unwrap().remove(0)
}

fn verdict(item: &api::VolumeStatusItem) -> (&str, Vec<(&str, &str)>) {
    let info = item.volume_status.as_ref().unwrap();
    let details = info.details.as_ref().unwrap().iter();
    let details = details.map(|d| (d.name.as_deref().unwrap(), d.status.as_deref().unwrap()));
    (info.status.as_deref().unwrap(), details.collect())
}

fn impair(region: &Region, id: &str, message: Option<&str>) {
    let State::Ready(ready) = region.driver.volume_state(id) else { panic!() };
    let impaired = message.map(str::to_owned);
    region.driver.set_volume(id, State::Ready(base::volume::Ready { impaired, ..ready }));
    disks::reconcile(region, id);
}

#[test]
fn a_broken_volume_is_impaired_until_somebody_takes_note() {
    let region = Region::new();
    let id = create(&region, 8, "gp3");
    assert_eq!(verdict(&status(&region, &id)).0, "insufficient-data");
    disks::obey(&region, &id);
    let fine = ("ok", vec![("io-enabled", "passed"), ("io-performance", "normal")]);
    assert_eq!(verdict(&status(&region, &id)), fine);
    impair(&region, &id, Some("no space"));
    let item = status(&region, &id);
    let broken = ("impaired", vec![("io-enabled", "failed"), ("io-performance", "stalled")]);
    assert_eq!(verdict(&item), broken);
    let event = &item.events.as_ref().unwrap()[0];
    assert_eq!(event.event_type.as_deref(), Some("potential-data-inconsistency"));
    let action = &item.actions.as_ref().unwrap()[0];
    assert_eq!(action.code.as_deref(), Some("enable-volume-io"));
    assert_eq!(action.event_id, event.event_id);
    let found = |name: &str, value: &str| {
        let input = api::DescribeVolumeStatusRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(status::describe_volume_status, input).volume_statuses.unwrap().len()
    };
    assert_eq!(found("volume-status.status", "impaired"), 1);
    assert_eq!(found("action.code", "enable-volume-io"), 1);
    assert_eq!(found("volume-status.details-status", "failed"), 1);
    let enable = api::EnableVolumeIORequest { volume_id: Some(id.clone()), ..Default::default() };
    region.ok(status::enable_volume_io, enable);
    let item = status(&region, &id);
    assert_eq!(verdict(&item).0, "warning");
    assert!(item.actions.unwrap().is_empty());
    impair(&region, &id, None);
    assert_eq!(verdict(&status(&region, &id)), fine);
    assert_eq!(found("action.code", "*"), 0);
    let attribute = api::ModifyVolumeAttributeRequest {
        volume_id: Some(id.clone()),
        auto_enable_io: Some(api::AttributeBooleanValue { value: Some(true) }),
        ..Default::default()
    };
    region.ok(status::modify_volume_attribute, attribute);
    impair(&region, &id, Some("no space"));
    assert_eq!(verdict(&status(&region, &id)).0, "warning");
}

#[test]
fn attributes_are_shown() {
    let region = Region::new();
    let id = available(&region, 8, "gp3");
    let ask = |attribute: Option<&str>| api::DescribeVolumeAttributeRequest {
        volume_id: Some(id.clone()),
        attribute: attribute.map(str::to_owned),
        ..Default::default()
    };
    let auto = region.ok(status::describe_volume_attribute, ask(Some("autoEnableIO")));
    assert_eq!(auto.auto_enable_io.unwrap().value, Some(false));
    let codes = region.ok(status::describe_volume_attribute, ask(Some("productCodes")));
    assert_eq!(codes.product_codes.unwrap().len(), 0);
    for (attribute, code) in [(None, "MissingParameter"), (Some("x"), "InvalidParameterValue")] {
        assert!(
            region.refused(status::describe_volume_attribute, ask(attribute)).starts_with(code)
        );
    }
    let nothing =
        api::ModifyVolumeAttributeRequest { volume_id: Some(id.clone()), ..Default::default() };
    assert_eq!(
        region.refused(status::modify_volume_attribute, nothing),
        "InvalidParameterCombination: No attributes specified."
    );
}

#[test]
fn a_filling_volume_shows_its_progress() {
    let region = Region::new();
    keep(&region, snapshot(SNAPSHOT, 10, SnapshotState::Completed));
    let id = ask(
        &region,
        api::CreateVolumeRequest {
            snapshot_id: Some(SNAPSHOT.to_owned()),
            volume_initialization_rate: Some(100),
            ..wish(10, "gp3")
        },
    );
    disks::obey(&region, &id);
    let State::Ready(ready) = region.driver.volume_state(&id) else { panic!() };
    region
        .driver
        .set_volume(&id, State::Ready(base::volume::Ready { filled_percent: 50, ..ready }));
    let item = status(&region, &id);
    let details = item.initialization_status_details.clone().unwrap();
    assert_eq!(details.progress, Some(50));
    assert_eq!(details.initialization_type.as_deref(), Some("provisioned-rate"));
    assert_eq!(details.estimated_time_to_complete_in_seconds, Some(51));
    assert!(verdict(&item).1.contains(&("initialization-state", "initializing")));
    let empty = available(&region, 1, "gp3");
    assert!(status(&region, &empty).initialization_status_details.is_none());
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
