//! AttachVolume and DetachVolume: a place in the instance's record, which the instance's reconciler
//! brings to `attached` and takes away ([`crate::instance_reconciler`]).
//!
//! ```text
//!  AttachVolume            the machine has it              DetachVolume           it has not
//!  ────────────► attaching ────────────────► attached ────────────────► detaching ──────────► none
//!        │          (at once, when the instance is off)   ▲                         ▲
//!        └────────────────────────────────────────────────┘      with Force the guest is not asked
//! ```

use super::{get_one, not_available, put};
use crate::instance_type::{self, Facts};
use crate::record::{
    AttachedVolume, AttachmentState, Instance, InstanceState, Volume, VolumeState, key,
};
use crate::{instance, launch};
use model::ec2 as api;
use service::{Call, Error};
use std::sync::Arc;

/// Most instances of a Multi-Attach volume (EBS User Guide, "Multi-Attach").
const MULTI_ATTACH: usize = 16;

fn incorrect_state(message: String) -> Error {
    Error::client("IncorrectState", message)
}

fn to_model(instance_id: &str, place: &AttachedVolume, state: &str) -> api::VolumeAttachment {
    api::VolumeAttachment {
        attach_time: Some(place.attached),
        delete_on_termination: Some(place.delete_on_termination),
        device: Some(place.device_name.clone()),
        instance_id: Some(instance_id.to_owned()),
        state: Some(state.to_owned()),
        volume_id: Some(place.volume_id.clone()),
        ..Default::default()
    }
}

/// `sdf` and `/dev/xvdf` are one place.
pub(crate) fn place_of(device: &str) -> &str {
    let short = device.strip_prefix("/dev/").unwrap_or(device);
    short.strip_prefix("xvd").or_else(|| short.strip_prefix("sd")).unwrap_or(short)
}

pub(crate) fn attach_volume(
    call: &mut Call<'_>,
    input: api::AttachVolumeRequest,
) -> Result<api::VolumeAttachment, Error> {
    let device = input.device.filter(|device| !device.is_empty());
    let device = device.ok_or_else(|| Error::missing_parameter("device"))?;
    let volume = get_one(call, input.volume_id.as_deref())?;
    let instance = instance::get_one(call, input.instance_id)?;
    if let Some(card) = input.ebs_card_index.filter(|card| *card != 0) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({card}) for parameter ebsCardIndex is invalid. The instance has one EBS card."
        )));
    }
    if !launch::is_device_name(&device) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({device}) for parameter device is invalid. {device} is not a valid EBS device \
             name."
        )));
    }
    let facts = instance_type::find(&instance.instance_type);
    check_volume(&volume, &instance, facts)?;
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
        return Err(incorrect_state(format!("Instance '{}' is not 'running'.", instance.id)));
    }
    if volume.availability_zone != instance.availability_zone {
        return Err(Error::client(
            "InvalidVolume.ZoneMismatch",
            format!(
                "The volume '{}' is not in the same availability zone as instance '{}'",
                volume.id, instance.id
            ),
        ));
    }
    let is_root = device == instance.root_device_name;
    let taken = instance.volumes.iter().map(|place| &place.device_name);
    let taken = taken.chain(instance.ephemeral.iter().map(|place| &place.device_name));
    if taken.into_iter().any(|used| place_of(used) == place_of(&device)) {
        return Err(Error::invalid_parameter_value(format!(
            "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
        )));
    }
    if is_root && matches!(volume.kind.as_str(), "st1" | "sc1") {
        return Err(launch::not_bootable(&volume.kind));
    }
    if is_root && volume.multi_attach {
        return Err(Error::invalid_parameter_combination(format!(
            "The volume '{}' is enabled for Multi-Attach and cannot be a boot volume.",
            volume.id
        )));
    }
    let most = launch::most_volumes(facts);
    if instance.volumes.len() >= most {
        return Err(launch::too_many_volumes(&instance.instance_type, most));
    }
    let is_off = instance.state == InstanceState::Stopped;
    let place = AttachedVolume {
        volume_id: volume.id.clone(),
        device_name: device,
        delete_on_termination: false,
        attached: instance::whole_second(call.now),
        state: if is_off { AttachmentState::Attached } else { AttachmentState::Attaching },
        forced: false,
    };
    let answer = to_model(&instance.id, &place, "attaching");
    let mut instance = Instance::clone(&instance);
    let mut volume = Volume::clone(&volume);
    volume.attachments.push(instance.id.clone());
    // The root comes first.
    let at = if is_root { 0 } else { instance.volumes.len() };
    instance.volumes.insert(at, place);
    put(call, volume);
    instance::put(call, instance);
    Ok(answer)
}

/// Whether the volume may have one more instance, and this one.
fn check_volume(
    volume: &Volume,
    instance: &Instance,
    facts: Option<&'static Facts>,
) -> Result<(), Error> {
    if volume.state != VolumeState::Available {
        return Err(not_available(volume));
    }
    let is_there = volume.attachments.contains(&instance.id);
    if is_there || (!volume.attachments.is_empty() && !volume.multi_attach) {
        return Err(Error::client(
            "VolumeInUse",
            format!("{} is already attached to an instance", volume.id),
        ));
    }
    if volume.multi_attach && facts.is_none_or(|facts| !facts.nitro) {
        return Err(Error::unsupported(format!(
            "The volume '{}' is enabled for Multi-Attach and can be attached to instances built on \
             the Nitro System only; {} is not one.",
            volume.id, instance.instance_type
        )));
    }
    if volume.attachments.len() >= MULTI_ATTACH {
        return Err(Error::client(
            "AttachmentLimitExceeded",
            format!(
                "The volume '{}' is attached to {MULTI_ATTACH} instances, which is the most.",
                volume.id
            ),
        ));
    }
    Ok(())
}

pub(crate) fn detach_volume(
    call: &mut Call<'_>,
    input: api::DetachVolumeRequest,
) -> Result<api::VolumeAttachment, Error> {
    let volume = get_one(call, input.volume_id.as_deref())?;
    let wanted = input.instance_id.filter(|id| !id.is_empty());
    let wanted = match wanted {
        Some(id) => {
            instance::check_id(&id)?;
            Some(id)
        }
        None => None,
    };
    if volume.attachments.is_empty() {
        let state = super::state_name(&volume);
        return Err(incorrect_state(format!("Volume '{}' is in the '{state}' state.", volume.id)));
    }
    let instance_id = match (wanted, volume.attachments.as_slice()) {
        (Some(id), all) if all.contains(&id) => id,
        (Some(id), _) => {
            return Err(Error::client(
                "InvalidAttachment.NotFound",
                format!("The volume '{}' is not attached to instance '{id}'.", volume.id),
            ));
        }
        (None, [one]) => one.clone(),
        (None, _) => return Err(Error::missing_parameter("instanceId")),
    };
    let at = key::of(call.region, key::INSTANCE, call.account(), &instance_id);
    let found: Arc<Instance> = call
        .get(&at)?
        .ok_or_else(|| Error::internal(format!("{} is attached to nothing", volume.id)))?;
    let mut instance = Instance::clone(&found);
    let place = instance
        .volumes
        .iter_mut()
        .find(|place| place.volume_id == volume.id)
        .ok_or_else(|| Error::internal(format!("{} has no place", volume.id)))?;
    if let Some(device) = input.device.filter(|device| !device.is_empty())
        && device != place.device_name
    {
        return Err(Error::client(
            "InvalidAttachment.NotFound",
            format!(
                "The volume '{}' is not attached to instance '{instance_id}' as device '{device}'.",
                volume.id
            ),
        ));
    }
    let is_off = found.state == InstanceState::Stopped;
    if !is_off && place.device_name == found.root_device_name {
        return Err(Error::client(
            "OperationNotPermitted",
            format!("Unable to detach root volume '{}' from instance '{instance_id}'", volume.id),
        ));
    }
    place.state = AttachmentState::Detaching;
    place.forced |= input.force == Some(true);
    let answer = to_model(&instance_id, place, "detaching");
    if is_off {
        instance.volumes.retain(|place| place.volume_id != volume.id);
        let mut volume = Volume::clone(&volume);
        volume.attachments.retain(|id| *id != instance_id);
        put(call, volume);
    }
    if instance != *found {
        instance::put(call, instance);
    }
    Ok(answer)
}
