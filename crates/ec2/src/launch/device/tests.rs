//! Mappings of launches, joined with those of images.

use super::*;
use crate::launch::run_instances;
use crate::record::{Image, Instance, Mapping, SnapshotState, Volume, key};
use crate::testing::{ACCOUNT, Region};
use crate::volume::tests::{launch, launch_request, mapping, snapshot};
use base::machine::LocalDisk;

const SNAPSHOTS: [&str; 2] = ["snap-0123456789abcdef0", "snap-0123456789abcdef1"];
const AMI: &str = "ami-0123456789abcdef0";

/// An image with a root of 8 GiB, a volume of a snapshot, an empty one that is to be encrypted, a
/// disk of the instance store and a hole.
fn image(region: &Region) -> Image {
    let request = crate::instance::tests::request(region);
    let volume = |snapshot_id: Option<&str>, size_gib| MappedVolume {
        snapshot_id: snapshot_id.map(str::to_owned),
        size_gib,
        kind: "gp3".to_owned(),
        iops: Some(3_000),
        throughput: Some(125),
        encrypted: snapshot_id.is_none(),
        delete_on_termination: true,
    };
    let at = |device: &str, disk| Mapping { device_name: device.to_owned(), disk };
    region
        .run(|call| {
            let mut image =
                Image::clone(&*crate::image::find(call, request.image_id.as_deref().unwrap())?);
            for id in SNAPSHOTS {
                let at = key::of("us-east-1", key::SNAPSHOT, ACCOUNT, id);
                call.put(&at, snapshot(id, 8, SnapshotState::Completed));
            }
            image.id = AMI.to_owned();
            image.owner_id = ACCOUNT.to_owned();
            image.root_device_name = "/dev/xvda".to_owned();
            image.mappings = vec![
                at("/dev/sdb", MappedDisk::Ephemeral("ephemeral0".to_owned())),
                at("/dev/sdf", MappedDisk::Volume(volume(Some(SNAPSHOTS[1]), 16))),
                at("/dev/xvda", MappedDisk::Volume(volume(Some(SNAPSHOTS[0]), 8))),
                at("/dev/sdg", MappedDisk::Volume(volume(None, 3))),
                at("/dev/sdc", MappedDisk::Nothing),
            ];
            call.put(&key::of("us-east-1", key::IMAGE, ACCOUNT, AMI), image.clone());
            Ok(image)
        })
        .unwrap()
}

fn of_image(
    region: &Region,
    kind: &str,
    mappings: Vec<api::BlockDeviceMapping>,
) -> api::RunInstancesRequest {
    image(region);
    let mut request = launch_request(region, mappings);
    request.image_id = Some(AMI.to_owned());
    request.instance_type = Some(kind.to_owned());
    request
}

/// Device, size, type, snapshot, encrypted and DeleteOnTermination of each volume.
type Row = (String, u32, String, Option<String>, bool, bool);

fn rows(region: &Region, request: api::RunInstancesRequest) -> (Vec<Row>, Instance) {
    let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
    let at = key::of("us-east-1", key::INSTANCE, ACCOUNT, &launched.instance_id.unwrap());
    let instance = region.run(|call| call.peek::<Instance>(&at)).unwrap().unwrap();
    let rows = instance.volumes.iter().map(|place| {
        let at = key::of("us-east-1", key::VOLUME, ACCOUNT, &place.volume_id);
        let volume = region.run(|call| call.peek::<Volume>(&at)).unwrap().unwrap();
        assert_eq!(volume.source.is_some(), volume.snapshot_id.is_some());
        (
            place.device_name.clone(),
            volume.size_gib,
            volume.kind.clone(),
            volume.snapshot_id.clone(),
            volume.key.is_some(),
            place.delete_on_termination,
        )
    });
    (rows.collect(), Instance::clone(&instance))
}

fn row(device: &str, size: u32, kind: &str, snapshot: Option<&str>, flags: [bool; 2]) -> Row {
    let [encrypted, deleted] = flags;
    let snapshot = snapshot.map(str::to_owned);
    (device.to_owned(), size, kind.to_owned(), snapshot, encrypted, deleted)
}

#[test]
fn an_image_says_what_disks_there_are() {
    let region = Region::new();
    let (rows, instance) = rows(&region, of_image(&region, "t3.micro", Vec::new()));
    assert_eq!(
        rows,
        [
            row("/dev/xvda", 8, "gp3", Some(SNAPSHOTS[0]), [false, true]),
            row("/dev/sdf", 16, "gp3", Some(SNAPSHOTS[1]), [false, true]),
            row("/dev/sdg", 3, "gp3", None, [true, true]),
        ]
    );
    assert_eq!(instance.ephemeral, [], "the type has no instance store");
}

#[test]
fn a_request_changes_adds_and_takes_away() {
    let region = Region::new();
    let mut bigger = mapping("/dev/xvda", Some(20));
    bigger.ebs.as_mut().unwrap().delete_on_termination = Some(false);
    let mut encrypted = mapping("/dev/sdf", None);
    encrypted.ebs.as_mut().unwrap().encrypted = Some(true);
    encrypted.ebs.as_mut().unwrap().volume_type = Some("gp2".to_owned());
    let mut gone = mapping("/dev/sdg", None);
    gone.no_device = Some(String::new());
    let mut of_snapshot = mapping("/dev/sdh", None);
    of_snapshot.ebs.as_mut().unwrap().snapshot_id = Some(SNAPSHOTS[1].to_owned());
    let mappings = vec![bigger, encrypted, gone, of_snapshot, mapping("/dev/sdi", Some(2))];
    let (rows, _) = rows(&region, of_image(&region, "t3.micro", mappings));
    assert_eq!(
        rows,
        [
            row("/dev/xvda", 20, "gp3", Some(SNAPSHOTS[0]), [false, false]),
            row("/dev/sdf", 16, "gp2", Some(SNAPSHOTS[1]), [true, true]),
            row("/dev/sdh", 8, "gp2", Some(SNAPSHOTS[1]), [false, false]),
            row("/dev/sdi", 2, "gp2", None, [false, false]),
        ]
    );
}

fn local(device: &str, name: &str) -> api::BlockDeviceMapping {
    api::BlockDeviceMapping {
        device_name: Some(device.to_owned()),
        virtual_name: Some(name.to_owned()),
        ..Default::default()
    }
}

fn local_disks(region: &Region, instance: &Instance) -> Vec<LocalDisk> {
    crate::instance_reconciler::tests::reconcile(region, &instance.id);
    region.driver.spec(&instance.id).unwrap().local_disks
}

fn disk(name: &str, device_name: &str, size_gb: u32) -> LocalDisk {
    LocalDisk { name: name.to_owned(), device_name: device_name.to_owned(), size_gb }
}

#[test]
fn the_instance_store_is_what_is_mapped_of_what_there_is() {
    let region = Region::new();
    // c3.large has two disks of 16 GB; its image maps the first.
    let mappings = vec![local("/dev/sdd", "ephemeral1"), local("/dev/sde", "ephemeral2")];
    let (_, instance) = rows(&region, of_image(&region, "c3.large", mappings));
    assert_eq!(
        local_disks(&region, &instance),
        [disk("ephemeral0", "/dev/sdb", 16), disk("ephemeral1", "/dev/sdd", 16)]
    );
    let spec = region.driver.spec(&instance.id).unwrap();
    assert_eq!(spec.metadata.leaves["meta-data/block-device-mapping/ephemeral1"], "sdd");
    // NVMe is there by itself.
    let mappings = vec![local("/dev/sdd", "ephemeral1")];
    let (_, instance) = rows(&region, of_image(&region, "m5d.large", mappings));
    assert_eq!(instance.ephemeral, []);
    assert_eq!(local_disks(&region, &instance), [disk("ephemeral0", "/dev/nvme1n1", 75)]);
    let spec = region.driver.spec(&instance.id).unwrap();
    assert!(!spec.metadata.leaves.contains_key("meta-data/block-device-mapping/ephemeral0"));
    let plain = launch(&region, Vec::new());
    assert_eq!(local_disks(&region, &plain), []);
}

#[test]
fn bad_mappings_are_refused() {
    let region = Region::new();
    let refused = |mappings: Vec<api::BlockDeviceMapping>| {
        region.refused(run_instances, of_image(&region, "t3.micro", mappings))
    };
    let sized = |device: &str, size: Option<i32>| refused(vec![mapping(device, size)]);
    assert!(sized("/dev/sdh", None).starts_with("MissingParameter: "));
    assert_eq!(sized("sd f", Some(1)), "InvalidBlockDeviceMapping: Invalid device name sd f");
    assert_eq!(
        sized("/dev/xvda", Some(7)),
        "InvalidBlockDeviceMapping: Volume of size 7GB is smaller than snapshot \
         'snap-0123456789abcdef0', expect size >= 8GB"
    );
    for pair in [["/dev/sdh", "/dev/sdh"], ["/dev/sdi", "/dev/xvdf"]] {
        let mappings = pair.map(|device| mapping(device, Some(1))).to_vec();
        assert_eq!(
            refused(mappings),
            format!(
                "InvalidBlockDeviceMapping: The device '{}' is used in more than one block-device \
                 mapping",
                pair[1]
            )
        );
    }
    let mut no_root = mapping("/dev/xvda", None);
    no_root.no_device = Some(String::new());
    assert!(refused(vec![no_root]).starts_with("InvalidBlockDeviceMapping: The root device"));
    let mut other_root = mapping("/dev/xvda", None);
    other_root.ebs.as_mut().unwrap().snapshot_id = Some(SNAPSHOTS[1].to_owned());
    assert_eq!(
        refused(vec![other_root]),
        "InvalidBlockDeviceMapping: snapshotId cannot be modified on root device"
    );
    let mut platters = mapping("/dev/xvda", Some(125));
    platters.ebs.as_mut().unwrap().volume_type = Some("sc1".to_owned());
    assert_eq!(
        refused(vec![platters]),
        "InvalidParameterValue: The volume type 'sc1' cannot be a boot volume."
    );
    let mut nowhere = mapping("/dev/sdh", None);
    nowhere.ebs.as_mut().unwrap().snapshot_id = Some("snap-00000000000000000".to_owned());
    assert!(refused(vec![nowhere]).starts_with("InvalidSnapshot.NotFound: "));
    let mut keyed = mapping("/dev/sdh", Some(1));
    keyed.ebs.as_mut().unwrap().kms_key_id = Some("alias/aws/ebs".to_owned());
    assert!(refused(vec![keyed]).starts_with("InvalidParameterDependency: "));
    let mut rated = mapping("/dev/sdh", Some(1));
    rated.ebs.as_mut().unwrap().volume_initialization_rate = Some(100);
    assert!(refused(vec![rated]).starts_with("InvalidParameterCombination: "));
    // The instance store of a type that has none, and what is none.
    assert!(refused(vec![local("/dev/sdh", "ephemeral0")]).contains("no instance store volumes"));
    assert!(refused(vec![local("/dev/sdh", "swap")]).starts_with("InvalidBlockDeviceMapping: "));
    assert!(
        refused(vec![local("/dev/xvda", "ephemeral0")]).starts_with("InvalidBlockDeviceMapping: ")
    );
    let letters = "hijklmnopqrstuvwxyz".chars().map(|letter| format!("/dev/sd{letter}"));
    let more = "abcdefgh".chars().map(|letter| format!("/dev/xvdb{letter}"));
    let many = letters.chain(more).map(|device| mapping(&device, Some(1))).collect();
    assert!(refused(many).starts_with("AttachmentLimitExceeded: "));
}

#[test]
fn device_names_are_those_of_ec2() {
    for name in ["/dev/sdf", "/dev/sda1", "/dev/sdf15", "/dev/xvda", "/dev/xvdba", "sdf", "xvdh"] {
        assert!(is_device_name(name), "{name}");
    }
    for name in
        ["", "/dev/", "sd", "/dev/sdF", "/dev/sdf0", "/dev/sdf16", "/dev/xvdabc", "/dev/nvme0n1"]
    {
        assert!(!is_device_name(name), "{name}");
    }
}
