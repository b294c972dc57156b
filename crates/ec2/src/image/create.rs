//! CreateImage: an AMI of an instance's disks.
//!
//! The snapshots are cut at one instant: now, or while the machine is off during a reboot. The AMI is
//! pending until they are completed.

use super::attribute::check_description;
use super::mapping::{self, invalid};
use super::{blank, check_name, check_name_is_free, peek_any, stage};
use crate::record::{
    AttachedVolume, AttachmentState, Instance, InstanceState, MappedDisk, MappedVolume, Mapping,
    Snapshot, Tags, Volume, key,
};
use crate::snapshot::{self, Take};
use crate::tag;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::CreateImage,
    create_image,
    Write,
    [
        "BlockDeviceMappings.DeviceName",
        "BlockDeviceMappings.NoDevice",
        "BlockDeviceMappings.VirtualName",
        "BlockDeviceMappings.Ebs.DeleteOnTermination",
        "BlockDeviceMappings.Ebs.Encrypted",
        "BlockDeviceMappings.Ebs.Iops",
        "BlockDeviceMappings.Ebs.SnapshotId",
        "BlockDeviceMappings.Ebs.Throughput",
        "BlockDeviceMappings.Ebs.VolumeSize",
        "BlockDeviceMappings.Ebs.VolumeType",
        "Description",
        "InstanceId",
        "Name",
        "NoReboot",
        "SnapshotLocation",
        "TagSpecifications.*",
        "TagSpecifications.Tags.*",
    ]
)];

/// An attached disk that goes into the image.
struct Disk {
    place: AttachedVolume,
    volume: Arc<Volume>,
    delete_on_termination: bool,
}

pub(super) fn create_image(
    call: &mut Call<'_>,
    input: api::CreateImageRequest,
) -> Result<api::CreateImageResult, Error> {
    if input.snapshot_location.is_some() {
        return Err(Error::unsupported(
            "SnapshotLocation is for instances in Local Zones, and this region has none.",
        ));
    }
    let instance = find_instance(call, &input.instance_id.unwrap_or_default())?;
    let name = check_name(input.name)?;
    check_name_is_free(call, &name)?;
    let description = input.description.unwrap_or_default();
    check_description(&description)?;
    let specifications = input.tag_specifications.as_deref();
    let tags = |call: &Call<'_>, kind: &str| {
        tag::for_caller(call, specifications, kind, &["image", "snapshot"])
    };
    let image_tags = tags(call, "image")?;
    let snapshot_tags = tags(call, "snapshot")?;
    let requested = input.block_device_mappings.unwrap_or_default();
    mapping::check_names(&requested)?;
    let (disks, additions) = disks(call, &instance, requested)?;
    let mut image = blank(call, name);
    let during_reboot = reboot(call, &instance, input.no_reboot.unwrap_or(false));
    let about = format!("Created by CreateImage({}) for {}", instance.id, image.id);
    let snapshots = take(call, &disks, &about, &snapshot_tags, during_reboot)?;
    image.mappings = disks.iter().zip(snapshots).map(mapped).collect();
    for addition in additions {
        image.mappings.push(mapping::new(call, addition)?);
    }
    image.key.clone_from(&instance.image_key);
    image.architecture.clone_from(&instance.architecture);
    image.root_device_name.clone_from(&instance.root_device_name);
    image.description = description;
    image.tags = image_tags;
    image.source_instance_id = Some(instance.id.clone());
    image.source_image_id = Some(instance.image_id.clone());
    image.source_image_region = Some(call.region.to_owned());
    if let Some(origin) = peek_any(call, call.region, &instance.image_id)? {
        image.imds_v2 = origin.imds_v2;
        image.boot_mode.clone_from(&origin.boot_mode);
        image.ena_support = origin.ena_support;
        image.sriov_net_support.clone_from(&origin.sriov_net_support);
    }
    let image = stage(call, image)?;
    Ok(api::CreateImageResult { image_id: Some(image.id.clone()) })
}

fn find_instance(call: &mut Call<'_>, id: &str) -> Result<Arc<Instance>, Error> {
    if id.is_empty() {
        return Err(Error::missing_parameter("instanceId"));
    }
    if !base::id::is_valid("i", id) {
        return Err(Error::client("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")));
    }
    let at = key::of(call.region, key::INSTANCE, call.account(), id);
    let instance = call.get::<Instance>(&at)?.ok_or_else(|| {
        Error::client(
            "InvalidInstanceID.NotFound",
            format!("The instance ID '{id}' does not exist"),
        )
    })?;
    match instance.state {
        InstanceState::Running | InstanceState::Stopping | InstanceState::Stopped => Ok(instance),
        _ => Err(Error::invalid_parameter_value(format!(
            "Invalid value '{id}' for instanceId. Instance is not in state 'running' or 'stopping' \
             or 'stopped'"
        ))),
    }
}

/// The instance's disks that go into the image, the root first, and what the request adds to them.
fn disks(
    call: &mut Call<'_>,
    instance: &Instance,
    mut requested: Vec<api::BlockDeviceMapping>,
) -> Result<(Vec<Disk>, Vec<api::BlockDeviceMapping>), Error> {
    let mut disks = Vec::new();
    for place in &instance.volumes {
        if place.state == AttachmentState::Detaching {
            continue;
        }
        let at = key::of(call.region, key::VOLUME, call.account(), &place.volume_id);
        let volume = call.get::<Volume>(&at)?.ok_or_else(|| {
            Error::client(
                "InvalidVolume.NotFound",
                format!("The volume '{}' does not exist.", place.volume_id),
            )
        })?;
        let named =
            |m: &api::BlockDeviceMapping| m.device_name.as_ref() == Some(&place.device_name);
        let mut delete_on_termination = place.delete_on_termination;
        if let Some(number) = requested.iter().position(named) {
            let wish = requested.remove(number);
            if wish.no_device.is_some() {
                if place.device_name == instance.root_device_name {
                    return Err(invalid(format!(
                        "The root device '{}' cannot be suppressed.",
                        place.device_name
                    )));
                }
                continue;
            }
            delete_on_termination = changed(&wish, place, &volume)?;
        }
        disks.push(Disk { place: place.clone(), volume, delete_on_termination });
    }
    if !disks.iter().any(|disk| disk.place.device_name == instance.root_device_name) {
        return Err(Error::client(
            "IncorrectState",
            format!("The instance '{}' has no root volume.", instance.id),
        ));
    }
    Ok((disks, requested))
}

/// DeleteOnTermination of an attached disk in the image: "the only option that can be changed for
/// existing mappings" (EC2 API Reference, "CreateImage").
fn changed(
    wish: &api::BlockDeviceMapping,
    place: &AttachedVolume,
    volume: &Volume,
) -> Result<bool, Error> {
    let name = &place.device_name;
    if wish.virtual_name.as_deref().is_some_and(|virtual_name| !virtual_name.is_empty()) {
        return Err(invalid(format!("The device '{name}' is a volume of the instance")));
    }
    let Some(ebs) = &wish.ebs else { return Ok(place.delete_on_termination) };
    let other = |wish: Option<i32>, has: Option<u32>| {
        wish.is_some_and(|wish| u32::try_from(wish).ok() != has)
    };
    let refused = if other(ebs.volume_size, Some(volume.size_gib)) {
        Some("volumeSize")
    } else if ebs.volume_type.as_ref().is_some_and(|kind| *kind != volume.kind) {
        Some("volumeType")
    } else if other(ebs.iops, volume.iops) {
        Some("iops")
    } else if other(ebs.throughput, volume.throughput) {
        Some("throughput")
    } else if ebs.encrypted.is_some_and(|encrypted| encrypted != volume.key.is_some()) {
        Some("encrypted")
    } else if ebs.snapshot_id.as_deref().is_some_and(|id| !id.is_empty()) {
        Some("snapshotId")
    } else {
        None
    };
    match refused {
        None => Ok(ebs.delete_on_termination.unwrap_or(place.delete_on_termination)),
        Some(member) => Err(invalid(format!(
            "The {member} of the device '{name}' cannot be changed: the instance has it attached"
        ))),
    }
}

/// Stages the reboot during which the snapshots are cut, unless it was declined or the machine is
/// off: its count.
fn reboot(call: &mut Call<'_>, instance: &Instance, declined: bool) -> Option<u32> {
    if declined || instance.state != InstanceState::Running {
        return None;
    }
    let mut rebooted = Instance::clone(instance);
    rebooted.reboots = instance.reboots.saturating_add(1);
    let reboots = rebooted.reboots;
    let at = key::of(call.region, key::INSTANCE, call.account(), &instance.id);
    call.put(&at, rebooted);
    Some(reboots)
}

fn take(
    call: &mut Call<'_>,
    disks: &[Disk],
    about: &str,
    tags: &Tags,
    during_reboot: Option<u32>,
) -> Result<Vec<Arc<Snapshot>>, Error> {
    let takes = disks.iter().map(|disk| Take {
        volume_id: disk.volume.id.clone(),
        description: about.to_owned(),
        tags: tags.clone(),
    });
    snapshot::take(call, takes.collect(), during_reboot)
}

/// What the image says of a disk.
fn mapped((disk, snapshot): (&Disk, Arc<Snapshot>)) -> Mapping {
    let volume = &disk.volume;
    Mapping {
        device_name: disk.place.device_name.clone(),
        disk: MappedDisk::Volume(MappedVolume {
            snapshot_id: Some(snapshot.id.clone()),
            size_gib: volume.size_gib,
            kind: volume.kind.clone(),
            iops: volume.iops,
            throughput: volume.throughput,
            encrypted: volume.key.is_some(),
            delete_on_termination: disk.delete_on_termination,
        }),
    }
}
