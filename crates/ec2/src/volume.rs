//! Volumes: what the API shows of them, and what it lets people do to them.
//!
//! A volume's record says what it is; its places at instances stand in the instances' records
//! ([`crate::record::AttachedVolume`]). A handler only changes what is wanted: the volume's
//! reconciler ([`crate::volume_reconciler`], which draws the life of a volume) and the instance's,
//! which attaches and detaches, make it so. Volumes of a launch are made in [`crate::launch`].
//!
//! Not here: CopyVolumes, Outposts, the recycle bin for volumes.

mod attach;
mod create;
mod describe;
mod limits;
mod modify;
mod shape;
pub(crate) mod source;
mod status;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use attach::place_of;
pub(crate) use create::initialization_rate;
pub(crate) use limits::limits;
pub(crate) use modify::{OPTIMIZING_MILLIS, shape_of};
pub(crate) use shape::{Wish, shape};

use crate::record::{
    AttachedVolume, AttachmentState, Instance, InstanceState, Volume, VolumeState, key,
};
use model::ec2::op;
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// CreateVolume and DeleteVolume have a bucket of their own (EC2 API Reference, "Request
/// throttling").
const RATE: Rate = Rate::new(100.0, 5.0);

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateVolume,
        create::create_volume,
        Write,
        [
            "AvailabilityZone",
            "AvailabilityZoneId",
            "Encrypted",
            "Iops",
            "KmsKeyId",
            "MultiAttachEnabled",
            "Size",
            "SnapshotId",
            "TagSpecifications.*",
            "Throughput",
            "VolumeInitializationRate",
            "VolumeType",
        ],
        RATE
    ),
    operation!(op::DeleteVolume, create::delete_volume, Write, ["VolumeId"], RATE),
    operation!(
        op::AttachVolume,
        attach::attach_volume,
        Write,
        ["Device", "EbsCardIndex", "InstanceId", "VolumeId"]
    ),
    operation!(
        op::DetachVolume,
        attach::detach_volume,
        Write,
        ["Device", "Force", "InstanceId", "VolumeId"]
    ),
    operation!(
        op::DescribeVolumes,
        describe::describe_volumes,
        Read,
        ["Filters.*", "VolumeIds", "MaxResults", "NextToken", "IncludeManagedResources"]
    ),
    operation!(
        op::DescribeVolumeStatus,
        status::describe_volume_status,
        Live,
        ["Filters.*", "VolumeIds", "MaxResults", "NextToken", "IncludeManagedResources"]
    ),
    operation!(op::EnableVolumeIO, status::enable_volume_io, Write, ["VolumeId"]),
    operation!(
        op::DescribeVolumeAttribute,
        status::describe_volume_attribute,
        Read,
        ["Attribute", "VolumeId"]
    ),
    operation!(
        op::ModifyVolumeAttribute,
        status::modify_volume_attribute,
        Write,
        ["AutoEnableIO.Value", "VolumeId"]
    ),
    operation!(
        op::ModifyVolume,
        modify::modify_volume,
        Write,
        ["Iops", "MultiAttachEnabled", "Size", "Throughput", "VolumeId", "VolumeType"]
    ),
    operation!(
        op::DescribeVolumesModifications,
        modify::describe_volumes_modifications,
        // Its progress goes with the clock.
        Live,
        ["Filters.*", "VolumeIds", "MaxResults", "NextToken"]
    ),
];

/// The record key of a volume.
pub(crate) fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::VOLUME, call.account(), id)
}

fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("vol", id) {
        return Ok(());
    }
    Err(Error::invalid_parameter_value(format!(
        "Value ({id}) for parameter volumes is invalid. Expected: 'vol-...'."
    )))
}

fn not_found(id: &str) -> Error {
    Error::client("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
}

/// The volume that a request changes: the commit depends on it.
///
/// # Errors
/// `MissingParameter`, `InvalidParameterValue`, `InvalidVolume.NotFound`.
pub(crate) fn get_one(call: &mut Call<'_>, id: Option<&str>) -> Result<Arc<Volume>, Error> {
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| Error::missing_parameter("volumeId"))?;
    check_id(id)?;
    let at = key_of(call, id);
    call.get(&at)?.ok_or_else(|| not_found(id))
}

/// The volume that a request describes.
fn peek_one(call: &Call<'_>, id: Option<&str>) -> Result<Arc<Volume>, Error> {
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| Error::missing_parameter("volumeId"))?;
    check_id(id)?;
    call.peek(&key_of(call, id))?.ok_or_else(|| not_found(id))
}

/// The volumes that a request describes by their ids.
fn find_all(call: &Call<'_>, ids: &[String]) -> Result<Vec<Arc<Volume>>, Error> {
    ids.iter().map(|id| peek_one(call, Some(id))).collect()
}

/// Stages a changed volume.
pub(crate) fn put(call: &mut Call<'_>, volume: Volume) -> Arc<Volume> {
    let at = key_of(call, &volume.id);
    call.put(&at, volume)
}

/// The refusal of what needs a volume that is there.
fn not_available(volume: &Volume) -> Error {
    Error::client("IncorrectState", format!("{} is not 'available'.", volume.id))
}

fn is_encrypted(volume: &Volume) -> bool {
    volume.key.is_some()
}

/// The state of a volume in the API.
pub(crate) fn state_name(volume: &Volume) -> &'static str {
    match volume.state {
        VolumeState::Creating => "creating",
        VolumeState::Deleting => "deleting",
        VolumeState::Error => "error",
        VolumeState::Available if volume.attachments.is_empty() => "available",
        VolumeState::Available => "in-use",
    }
}

/// State of an attachment: its own, as far as its instance is there to see it.
pub(crate) fn attachment_status(instance: &Instance, place: &AttachedVolume) -> &'static str {
    match (instance.state, place.state) {
        (InstanceState::ShuttingDown, _) | (_, AttachmentState::Detaching) => "detaching",
        (InstanceState::Pending, _) if instance.start == 1 => "attaching",
        (_, AttachmentState::Attaching) => "attaching",
        (_, AttachmentState::Attached) => "attached",
    }
}
