//! CreateVolume and DeleteVolume.

use super::shape::{Wish, shape};
use super::source::{self, New};
use super::{describe, get_one};
use crate::record::{Volume, VolumeState, key};
use crate::{encryption, instance, region, snapshot, tag};
use model::ec2 as api;
use service::{Call, Error};

/// VolumeInitializationRate, MiB/s (EC2 API Reference, "CreateVolume").
const INITIALIZATION_RATES: std::ops::RangeInclusive<i32> = 100..=300;

pub(crate) fn create_volume(
    call: &mut Call<'_>,
    input: api::CreateVolumeRequest,
) -> Result<api::Volume, Error> {
    let zone = zone(call, input.availability_zone, input.availability_zone_id)?;
    let tags = tag::for_caller(call, input.tag_specifications.as_deref(), "volume", &["volume"])?;
    let snapshot = match input.snapshot_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(snapshot::source(call, id)?),
        None => None,
    };
    let wish = Wish {
        size: input.size,
        kind: input.volume_type,
        iops: input.iops,
        throughput: input.throughput,
        multi_attach: input.multi_attach_enabled,
    };
    let smallest = snapshot.as_ref().map(|snapshot| (snapshot.id.as_str(), snapshot.size_gib));
    let shape = shape(&wish, smallest, "gp2").map_err(|error| {
        // Only a launch has mappings.
        match error.code == "InvalidBlockDeviceMapping" {
            true => Error::invalid_parameter_value(error.message),
            false => error,
        }
    })?;
    let rate = initialization_rate(input.volume_initialization_rate, snapshot.is_some())?;
    let source_key = snapshot.as_ref().and_then(|snapshot| snapshot.key.as_ref());
    let kms_key = input.kms_key_id.as_deref();
    let volume_key = encryption::volume_key(call, input.encrypted, kms_key, source_key)?;
    let id = call.new_id("vol");
    let mut record = source::new(New {
        id,
        shape: &shape,
        snapshot: snapshot.as_deref(),
        key: volume_key,
        initialization_rate: rate,
        zone: &zone,
        created: instance::whole_second(call.now),
    });
    record.tags = tags;
    let at = key::of(call.region, key::VOLUME, call.account(), &record.id);
    let record = call.put(&at, record);
    Ok(api::Volume {
        attachments: None,
        fast_restored: None,
        sse_type: None,
        ..describe::to_model(call.region, &record, Vec::new())
    })
}

/// The zone that a request names, by one of its names.
fn zone(call: &Call<'_>, name: Option<String>, id: Option<String>) -> Result<String, Error> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let not_found = |zone: &str| {
        Error::client("InvalidZone.NotFound", format!("The zone '{zone}' does not exist."))
    };
    let zones = region::zones(call.region);
    match (given(name), given(id)) {
        (Some(_), Some(_)) => Err(Error::invalid_parameter_combination(
            "Only one of AvailabilityZone or AvailabilityZoneId can be specified.",
        )),
        (None, None) => Err(Error::missing_parameter("availabilityZone")),
        (Some(name), None) => {
            let found = zones.into_iter().find(|zone| zone.name == name);
            found.map(|zone| zone.name).ok_or_else(|| not_found(&name))
        }
        (None, Some(id)) => {
            let found = zones.into_iter().find(|zone| zone.id == id);
            found.map(|zone| zone.name).ok_or_else(|| not_found(&id))
        }
    }
}

/// Checks a VolumeInitializationRate.
pub(crate) fn initialization_rate(
    wish: Option<i32>,
    has_snapshot: bool,
) -> Result<Option<u32>, Error> {
    let Some(rate) = wish else { return Ok(None) };
    if !has_snapshot {
        return Err(Error::invalid_parameter_combination(
            "The parameter volumeInitializationRate can be specified only for a volume that is \
             created from a snapshot.",
        ));
    }
    if !INITIALIZATION_RATES.contains(&rate) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({rate}) for parameter volumeInitializationRate is invalid. Expecting a value \
             between {} and {}.",
            INITIALIZATION_RATES.start(),
            INITIALIZATION_RATES.end()
        )));
    }
    Ok(Some(rate.unsigned_abs()))
}

pub(crate) fn delete_volume(
    call: &mut Call<'_>,
    input: api::DeleteVolumeRequest,
) -> Result<wire::Empty, Error> {
    let found = get_one(call, input.volume_id.as_deref())?;
    if let Some(instance) = found.attachments.first() {
        return Err(Error::client(
            "VolumeInUse",
            format!("Volume {} is currently attached to {instance}", found.id),
        ));
    }
    match found.state {
        VolumeState::Creating => Err(super::not_available(&found)),
        VolumeState::Deleting => Ok(wire::Empty),
        VolumeState::Available | VolumeState::Error => {
            let volume = Volume { state: VolumeState::Deleting, ..Volume::clone(&found) };
            super::put(call, volume);
            Ok(wire::Empty)
        }
    }
}
