//! CreateImage, RegisterImage, CopyImage.

use crate::image::copy::copy_image;
use crate::image::create::create_image;
use crate::image::describe::{describe_images, mapping_to_model};
use crate::image::reconciler::RECONCILER;
use crate::image::register::register_image;
use crate::image::{find, key_of};
use crate::instance;
use crate::launch::run_instances;
use crate::record::{
    Image, Instance, InstanceState, MappedDisk, Snapshot, SnapshotState, VolumeState, key,
};
use crate::snapshot::tests::content;
use crate::testing::{ACCOUNT, Region};
use model::ec2 as api;

pub(super) const OTHER: &str = "210987654321";

pub(super) fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

pub(super) fn image(region: &Region, id: &str) -> Image {
    record(region, region.name, id).unwrap()
}

/// An image's record, whoever owns it.
fn record(region: &Region, name: &str, id: &str) -> Option<Image> {
    let prefix = format!("/{name}/{}/", key::IMAGE);
    let images = region.run(|call| call.scan::<Image>(&prefix)).unwrap();
    images.iter().find(|image| image.id == id).map(|image| Image::clone(image))
}

pub(super) fn snapshot(region: &Region, id: &str) -> Option<Snapshot> {
    let at = key::of(region.name, key::SNAPSHOT, ACCOUNT, id);
    let found = region.run(|call| call.peek::<Snapshot>(&at)).unwrap();
    found.map(|snapshot| Snapshot::clone(&snapshot))
}

/// The snapshot comes to its end, and what stands on it is told.
pub(super) fn end(region: &Region, id: &str, state: SnapshotState) {
    let at = key::of(region.name, key::SNAPSHOT, ACCOUNT, id);
    region
        .run(|call| {
            let mut next = Snapshot::clone(&*call.get::<Snapshot>(&at)?.unwrap());
            next.state = state;
            next.progress = 100;
            if state == SnapshotState::Completed {
                next.size_gib = next.size_gib.max(1);
                next.content = Some(content('c'));
            } else {
                next.message = text("The disk is full.");
            }
            call.put(&at, next);
            Ok(())
        })
        .unwrap();
    region.run(|call| (RECONCILER.run)(call, &at)).unwrap();
}

/// A running instance with a root and a data volume; its id.
pub(super) fn launch(region: &Region) -> String {
    let mut request = instance::tests::request(region);
    request.block_device_mappings = Some(vec![ebs("/dev/sdf", |ebs| {
        ebs.volume_size = Some(5);
        ebs.delete_on_termination = Some(true);
    })]);
    let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
    let id = launched.instance_id.unwrap();
    change(region, &id, |instance| instance.state = InstanceState::Running);
    let volumes = instance(region, &id).volumes;
    for place in volumes {
        let at = key::of(region.name, key::VOLUME, ACCOUNT, &place.volume_id);
        region
            .run(|call| {
                let found = call.get::<crate::record::Volume>(&at)?.unwrap();
                let mut volume = crate::record::Volume::clone(&found);
                volume.state = VolumeState::Available;
                call.put(&at, volume);
                Ok(())
            })
            .unwrap();
    }
    id
}

fn instance(region: &Region, id: &str) -> Instance {
    let at = key::of(region.name, key::INSTANCE, ACCOUNT, id);
    Instance::clone(&region.run(|call| call.peek::<Instance>(&at)).unwrap().unwrap())
}

fn change(region: &Region, id: &str, with: impl FnOnce(&mut Instance)) {
    let mut changed = instance(region, id);
    with(&mut changed);
    let at = key::of(region.name, key::INSTANCE, ACCOUNT, id);
    region
        .run(|call| {
            call.put(&at, changed);
            Ok(())
        })
        .unwrap();
}

pub(super) fn ebs(
    device: &str,
    with: impl FnOnce(&mut api::EbsBlockDevice),
) -> api::BlockDeviceMapping {
    let mut ebs = api::EbsBlockDevice::default();
    with(&mut ebs);
    api::BlockDeviceMapping { device_name: text(device), ebs: Some(ebs), ..Default::default() }
}

fn of(instance: &str, name: &str) -> api::CreateImageRequest {
    api::CreateImageRequest {
        instance_id: text(instance),
        name: text(name),
        no_reboot: Some(true),
        ..Default::default()
    }
}

/// An available image of two disks; its id.
pub(super) fn made(region: &Region, name: &str) -> String {
    let instance = launch(region);
    let id = region.ok(create_image, of(&instance, name)).image_id.unwrap();
    let snapshots: Vec<String> = image(region, &id).snapshots().map(str::to_owned).collect();
    for snapshot in snapshots {
        end(region, &snapshot, SnapshotState::Completed);
    }
    id
}

#[test]
fn every_attached_disk_is_in_the_image_which_waits_for_its_snapshots() {
    let region = Region::new();
    let source = launch(&region);
    let mut request = of(&source, "mine");
    request.description = text("of two disks");
    request.tag_specifications = Some(
        ["image", "snapshot"]
            .map(|kind| api::TagSpecification {
                resource_type: text(kind),
                tags: Some(vec![api::Tag { key: text("for"), value: text(kind) }]),
            })
            .to_vec(),
    );
    request.block_device_mappings = Some(vec![
        ebs("/dev/sdf", |ebs| ebs.delete_on_termination = Some(false)),
        ebs("/dev/sdg", |ebs| ebs.volume_size = Some(3)),
        api::BlockDeviceMapping {
            device_name: text("/dev/sdh"),
            virtual_name: text("ephemeral0"),
            ..Default::default()
        },
    ]);
    let id = region.ok(create_image, request).image_id.unwrap();
    let made = image(&region, &id);
    let shown: Vec<_> = made
        .mappings
        .iter()
        .map(|mapping| {
            let volume = mapping.volume();
            let size = volume.map(|volume| volume.size_gib);
            let goes = volume.map(|volume| volume.delete_on_termination);
            let from = volume.is_some_and(|volume| volume.snapshot_id.is_some());
            (mapping.device_name.as_str(), size, goes, from)
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("/dev/xvda", Some(1), Some(true), true),
            ("/dev/sdf", Some(5), Some(false), true),
            ("/dev/sdg", Some(3), Some(true), false),
            ("/dev/sdh", None, None, false),
        ]
    );
    assert_eq!(made.mappings[3].disk, MappedDisk::Ephemeral("ephemeral0".to_owned()));
    assert_eq!(made.source_instance_id.as_deref(), Some(source.as_str()));
    assert_eq!(made.source_image_region.as_deref(), Some("us-east-1"));
    assert_eq!(made.tags["for"], "image");
    assert_eq!(instance(&region, &source).reboots, 0, "NoReboot");
    let snapshots: Vec<String> = made.snapshots().map(str::to_owned).collect();
    assert_eq!(snapshots.len(), 2);
    for snapshot_id in &snapshots {
        let taken = snapshot(&region, snapshot_id).unwrap();
        assert_eq!(taken.together.len(), 2, "at one instant");
        assert_eq!(taken.during_reboot, None);
        assert_eq!(taken.images.first(), Some(&id));
        assert_eq!(taken.tags["for"], "snapshot");
        assert_eq!(taken.description, format!("Created by CreateImage({source}) for {id}"));
    }
    let unavailable = format!("InvalidAMIID.Unavailable: The image ID '{id}' is not available");
    assert_eq!(region.run(|call| find(call, &id)).unwrap_err().to_string(), unavailable);
    end(&region, &snapshots[0], SnapshotState::Completed);
    assert!(region.run(|call| find(call, &id)).is_err(), "one is not completed");
    end(&region, &snapshots[1], SnapshotState::Completed);
    region.run(|call| find(call, &id)).unwrap();
}

#[test]
fn a_running_instance_is_rebooted_for_its_image() {
    let region = Region::new();
    let source = launch(&region);
    let request = api::CreateImageRequest { no_reboot: None, ..of(&source, "after a reboot") };
    let id = region.ok(create_image, request).image_id.unwrap();
    assert_eq!(instance(&region, &source).reboots, 1);
    for id in image(&region, &id).snapshots() {
        assert_eq!(snapshot(&region, id).unwrap().during_reboot, Some(1));
    }
    change(&region, &source, |instance| instance.state = InstanceState::Stopped);
    let request = api::CreateImageRequest { no_reboot: Some(false), ..of(&source, "while off") };
    let id = region.ok(create_image, request).image_id.unwrap();
    assert_eq!(instance(&region, &source).reboots, 1, "it is off");
    for id in image(&region, &id).snapshots() {
        assert_eq!(snapshot(&region, id).unwrap().during_reboot, None);
    }
}

#[test]
fn an_image_fails_with_its_snapshot() {
    let region = Region::new();
    let source = launch(&region);
    let id = region.ok(create_image, of(&source, "never")).image_id.unwrap();
    let root = image(&region, &id).snapshots().next().unwrap().to_owned();
    end(&region, &root, SnapshotState::Error);
    let request = api::DescribeImagesRequest { image_ids: Some(vec![id]), ..Default::default() };
    let shown = region.ok(describe_images, request).images.unwrap().remove(0);
    assert_eq!(shown.state.as_deref(), Some("failed"));
    let reason = shown.state_reason.unwrap();
    assert_eq!(reason.code.as_deref(), Some("Server.InternalError"));
    assert_eq!(reason.message.as_deref(), Some("Server.InternalError: The disk is full."));
}

#[test]
fn images_that_cannot_be_made_of_an_instance_are_refused() {
    let region = Region::new();
    let source = launch(&region);
    made(&region, "taken");
    let taken = {
        let images = region.ok(
            describe_images,
            api::DescribeImagesRequest {
                filters: Some(vec![crate::testing::filter("name", &["taken"])]),
                ..Default::default()
            },
        );
        images.images.unwrap().remove(0).image_id.unwrap()
    };
    let refused = |with: &dyn Fn(&mut api::CreateImageRequest)| {
        let mut request = of(&source, "free");
        with(&mut request);
        region.refused(create_image, request)
    };
    let malformed = "InvalidAMIName.Malformed: AMI names must be between 3 and 128 characters \
                     long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'";
    for name in ["ab", "a:b:c", "ünïcode", &"x".repeat(129)] {
        assert_eq!(refused(&|r| r.name = text(name)), malformed, "{name}");
    }
    assert_eq!(
        refused(&|r| r.name = text("taken")),
        format!("InvalidAMIName.Duplicate: AMI name taken is already in use by AMI {taken}")
    );
    assert!(
        refused(&|r| r.name = text("gureum-micro-x86_64")).starts_with("InvalidAMIName.Duplicate")
    );
    assert!(refused(&|r| r.name = None).starts_with("MissingParameter"));
    assert_eq!(
        refused(&|r| r.instance_id = text("i-0123456789abcdef0")),
        "InvalidInstanceID.NotFound: The instance ID 'i-0123456789abcdef0' does not exist"
    );
    assert!(refused(&|r| r.instance_id = text("x")).starts_with("InvalidInstanceID.Malformed"));
    assert!(refused(&|r| r.snapshot_location = text("local")).starts_with("UnsupportedOperation"));
    assert!(
        refused(&|r| r.description = Some("x".repeat(256))).starts_with("InvalidParameterValue")
    );
    for (mapping, code) in [
        (ebs("/dev/sdf", |ebs| ebs.volume_size = Some(6)), "InvalidBlockDeviceMapping"),
        (ebs("/dev/sdf", |ebs| ebs.encrypted = Some(true)), "InvalidBlockDeviceMapping"),
        (ebs("/dev/sdf", |ebs| ebs.snapshot_id = text("snap-1")), "InvalidBlockDeviceMapping"),
        (ebs("/dev/sdg", |_| {}), "InvalidBlockDeviceMapping"),
        (ebs("sd g", |ebs| ebs.volume_size = Some(6)), "InvalidBlockDeviceMapping"),
        (
            ebs("/dev/sdg", |ebs| ebs.snapshot_id = text("snap-0123456789abcdef0")),
            "InvalidSnapshot.NotFound",
        ),
    ] {
        let refusal = refused(&|r| r.block_device_mappings = Some(vec![mapping.clone()]));
        assert!(refusal.starts_with(code), "{refusal}");
    }
    let root = api::BlockDeviceMapping {
        device_name: text("/dev/xvda"),
        no_device: text(""),
        ..Default::default()
    };
    let refusal = refused(&|r| r.block_device_mappings = Some(vec![root.clone()]));
    assert!(refusal.contains("cannot be suppressed"), "{refusal}");
    let twice = ebs("/dev/sdg", |ebs| ebs.volume_size = Some(6));
    let refusal = refused(&|r| r.block_device_mappings = Some(vec![twice.clone(), twice.clone()]));
    assert!(refusal.contains("more than one block-device mapping"), "{refusal}");
    change(&region, &source, |instance| instance.state = InstanceState::Terminated);
    assert_eq!(
        refused(&|_| {}),
        format!(
            "InvalidParameterValue: Invalid value '{source}' for instanceId. Instance is not in \
             state 'running' or 'stopping' or 'stopped'"
        )
    );
}

/// A snapshot that is completed, with nothing on it.
pub(super) fn bare(region: &Region, image_key: &str) -> String {
    let at = |id: &str| key::of(region.name, key::SNAPSHOT, ACCOUNT, id);
    region
        .run(|call| {
            let mut made =
                crate::snapshot::pending(call, crate::record::snapshot::Origin::Published, 8);
            made.state = SnapshotState::Completed;
            made.content = Some(content('b'));
            made.image_key = image_key.to_owned();
            let id = made.id.clone();
            call.put(&at(&id), made);
            Ok(id)
        })
        .unwrap()
}

pub(super) fn registration(snapshot: &str) -> api::RegisterImageRequest {
    api::RegisterImageRequest {
        name: text("registered"),
        architecture: text("x86_64"),
        root_device_name: text("/dev/xvda"),
        virtualization_type: text("hvm"),
        ena_support: Some(true),
        block_device_mappings: Some(vec![ebs("/dev/xvda", |ebs| {
            ebs.snapshot_id = text(snapshot);
        })]),
        ..Default::default()
    }
}

#[test]
fn an_image_is_registered_of_a_snapshot_and_boots_as_its_snapshot_does() {
    let region = Region::new();
    let root = bare(&region, "micro");
    let mut request = registration(&root);
    request.imds_support = text("v2.0");
    request.boot_mode = text("legacy-bios");
    let id = region.ok(register_image, request).image_id.unwrap();
    let made = region.run(|call| find(call, &id)).unwrap();
    assert_eq!((made.key.as_str(), made.imds_v2, made.ena_support), ("micro", true, true));
    let volume = made.root().unwrap();
    assert_eq!((volume.size_gib, volume.kind.as_str()), (8, "gp2"));
    assert!(volume.delete_on_termination);
    assert!(snapshot(&region, &root).unwrap().images.contains(&id));
    // What is shown of its disks can be asked for again: gp2 takes no IOPS.
    let shown: Vec<_> = made.mappings.iter().map(mapping_to_model).collect();
    assert_eq!(shown[0].ebs.as_ref().unwrap().iops, None);
    // It can be launched.
    let launch =
        api::RunInstancesRequest { image_id: text(&id), ..instance::tests::request(&region) };
    region.ok(run_instances, launch);
}

#[test]
fn images_that_cannot_be_registered_are_refused() {
    let region = Region::new();
    let root = bare(&region, "");
    let refused = |with: &dyn Fn(&mut api::RegisterImageRequest)| {
        let mut request = registration(&root);
        with(&mut request);
        region.refused(register_image, request)
    };
    let map = |mapping: api::BlockDeviceMapping| {
        refused(&|r| r.block_device_mappings = Some(vec![mapping.clone()]))
    };
    let no_root = "InvalidBlockDeviceMapping: The root device '/dev/xvda' must be mapped to a \
                   snapshot.";
    assert_eq!(refused(&|r| r.block_device_mappings = None), no_root);
    assert_eq!(map(ebs("/dev/xvda", |ebs| ebs.volume_size = Some(8))), no_root);
    assert_eq!(
        map(ebs("/dev/xvda", |ebs| {
            ebs.snapshot_id = text(&root);
            ebs.encrypted = Some(false);
        })),
        "InvalidBlockDeviceMapping: the encrypted flag cannot be specified since device /dev/xvda \
         has a snapshot specified."
    );
    assert!(
        map(ebs("/dev/xvda", |ebs| {
            ebs.snapshot_id = text(&root);
            ebs.volume_size = Some(7);
        }))
        .starts_with("InvalidBlockDeviceMapping: Volume of size 7GB is smaller than snapshot")
    );
    assert!(
        map(ebs("/dev/xvda", |ebs| {
            ebs.snapshot_id = text(&root);
            ebs.volume_type = text("st1");
            ebs.volume_size = Some(500);
        }))
        .starts_with("InvalidParameterValue")
    );
    assert!(refused(&|r| r.name = text("x")).starts_with("InvalidAMIName.Malformed"));
    assert!(
        refused(&|r| r.virtualization_type = text("paravirtual"))
            .starts_with("UnsupportedOperation")
    );
    assert!(refused(&|r| r.boot_mode = text("uefi")).starts_with("UnsupportedOperation"));
    assert!(refused(&|r| r.image_location = text("b/m.xml")).starts_with("UnsupportedOperation"));
    assert!(
        refused(&|r| r.sriov_net_support = text("double")).starts_with("InvalidParameterValue")
    );
    end(&region, &root, SnapshotState::Error);
    assert!(refused(&|_| {}).starts_with("IncorrectState"));
}

fn copy(from: &str, id: &str, name: &str) -> api::CopyImageRequest {
    api::CopyImageRequest {
        source_region: text(from),
        source_image_id: text(id),
        name: text(name),
        ..Default::default()
    }
}

#[test]
fn a_copy_has_snapshots_of_its_own_and_waits_for_them() {
    let region = Region::new();
    let source = made(&region, "source");
    region
        .run(|call| {
            let mut tagged = Image::clone(&*find(call, &source)?);
            tagged.tags.insert("a".to_owned(), "b".to_owned());
            tagged.key = "micro".to_owned();
            tagged.public = true;
            let at = key_of(call.region, &tagged);
            call.put(&at, tagged);
            Ok(())
        })
        .unwrap();
    let request =
        api::CopyImageRequest { copy_image_tags: Some(true), ..copy("us-east-1", &source, "copy") };
    let copied = region
        .run_as("eu-west-1", ACCOUNT, |call| copy_image(call, request))
        .unwrap()
        .image_id
        .unwrap();
    let there = record(&region, "eu-west-1", &copied).unwrap();
    assert_eq!((there.key.as_str(), there.tags["a"].as_str()), ("micro", "b"));
    assert_eq!(there.source_image_id.as_deref(), Some(source.as_str()));
    assert_eq!(there.source_image_region.as_deref(), Some("us-east-1"));
    assert!(!there.public, "permissions are not copied");
    for (one, other) in there.snapshots().zip(image(&region, &source).snapshots()) {
        assert_ne!(one, other);
    }
    let refusal = region.run_as("eu-west-1", ACCOUNT, |call| find(call, &copied)).unwrap_err();
    assert_eq!(refusal.code, "InvalidAMIID.Unavailable", "its snapshots are pending");
    for id in there.snapshots() {
        let at = key::of("eu-west-1", key::SNAPSHOT, ACCOUNT, id);
        let about = region
            .run_as("eu-west-1", ACCOUNT, |call| {
                (crate::snapshot_reconciler::RECONCILER.run)(call, &at)?;
                Ok(call.peek::<Snapshot>(&at)?.unwrap().description.clone())
            })
            .unwrap();
        let start = format!("Copied for DestinationAmi {copied} from SourceAmi {source} for ");
        assert!(about.starts_with(&start), "{about}");
        assert!(about.ends_with("Task created on 1,795,255,223,000."), "{about}");
        region.run_as("eu-west-1", ACCOUNT, |call| (RECONCILER.run)(call, &at)).unwrap();
    }
    region.run_as("eu-west-1", ACCOUNT, |call| find(call, &copied)).unwrap();
}

#[test]
fn a_copy_may_be_encrypted() {
    let region = Region::new();
    let source = made(&region, "plain");
    let request =
        api::CopyImageRequest { encrypted: Some(true), ..copy("us-east-1", &source, "secret") };
    let id = region.ok(copy_image, request).image_id.unwrap();
    let copied = image(&region, &id);
    assert!(copied.mappings.iter().filter_map(|m| m.volume()).all(|volume| volume.encrypted));
    for id in copied.snapshots() {
        assert!(snapshot(&region, id).unwrap().key.is_some());
    }
}

#[test]
fn copies_that_cannot_be_made_are_refused() {
    let region = Region::new();
    let source = made(&region, "source");
    let refused = |with: &dyn Fn(&mut api::CopyImageRequest)| {
        let mut request = copy("us-east-1", &source, "free");
        with(&mut request);
        region.refused(copy_image, request)
    };
    assert!(
        refused(&|r| r.name = text("source")).starts_with("InvalidAMIName.Duplicate: AMI name")
    );
    assert_eq!(
        refused(&|r| r.source_region = text("eu-west-1")),
        format!("InvalidAMIID.NotFound: The image id '[{source}]' does not exist")
    );
    assert_eq!(
        refused(&|r| r.source_region = text("no/where")),
        "InvalidParameterValue: Invalid region name: 'no/where'"
    );
    assert!(refused(&|r| r.source_image_id = text("x")).starts_with("InvalidAMIID.Malformed"));
    assert!(
        refused(&|r| r.snapshot_copy_completion_duration_minutes = Some(20))
            .starts_with("InvalidParameterValue")
    );
    assert!(refused(&|r| r.kms_key_id = text("alias/x")).starts_with("InvalidParameterDependency"));
    // Shared, but not its storage.
    region
        .run(|call| {
            let mut shared = Image::clone(&*find(call, &source)?);
            shared.launch_accounts.insert(OTHER.to_owned());
            let at = key_of(call.region, &shared);
            call.put(&at, shared);
            Ok(())
        })
        .unwrap();
    let request = copy("us-east-1", &source, "theirs");
    let refusal = region.run_as("us-east-1", OTHER, |call| copy_image(call, request)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "InvalidRequest: You do not have permission to access the storage of this ami"
    );
    let pending = launch(&region);
    let pending = region.ok(create_image, of(&pending, "pending")).image_id.unwrap();
    assert!(
        refused(&|r| r.source_image_id = text(&pending)).starts_with("InvalidAMIID.Unavailable")
    );
}
