//! CopyImage, inside a region and between regions of this daemon.
//!
//! A copy is independent of its source: it has snapshots of its own, which name the same content
//! unless they are encrypted anew. Permissions, deprecation and protection are not copied.

use super::attribute::check_description;
use super::{blank, check_name, check_name_is_free, stage, unavailable, visible_in};
use crate::record::{Image, ImageState, MappedDisk, Snapshot, Tags};
use crate::snapshot::{self, Copy};
use crate::{region, tag};
use model::ec2::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::CopyImage,
    copy_image,
    Write,
    [
        "ClientToken",
        "CopyImageTags",
        "Description",
        "Encrypted",
        "KmsKeyId",
        "Name",
        "SnapshotCopyCompletionDurationMinutes",
        "SourceImageId",
        "SourceRegion",
        "TagSpecifications.*",
        "TagSpecifications.Tags.*",
    ],
    Rate::new(100.0, 1.0)
)];

pub(super) fn copy_image(
    call: &mut Call<'_>,
    input: api::CopyImageRequest,
) -> Result<api::CopyImageResult, Error> {
    let from = input.source_region.unwrap_or_default();
    if from.is_empty() {
        return Err(Error::missing_parameter("sourceRegion"));
    }
    if !region::is_name(&from) {
        return Err(Error::invalid_parameter_value(format!("Invalid region name: '{from}'")));
    }
    let name = check_name(input.name)?;
    let description = input.description.unwrap_or_default();
    check_description(&description)?;
    let specifications = input.tag_specifications.as_deref();
    let allowed = &["image", "snapshot"];
    let given = tag::for_caller(call, specifications, "image", allowed)?;
    let snapshot_tags = tag::for_caller(call, specifications, "snapshot", allowed)?;
    let minutes = completion_minutes(input.snapshot_copy_completion_duration_minutes)?;
    let source_id = input.source_image_id.unwrap_or_default();
    let source = visible_in(call, &from, &source_id)?;
    if source.state != ImageState::Available {
        return Err(unavailable(&source_id));
    }
    check_name_is_free(call, &name)?;
    let mut image = blank(call, name);
    image.tags = copied_tags(call, &source, input.copy_image_tags.unwrap_or(false));
    image.tags.extend(given);
    image.mappings.clone_from(&source.mappings);
    for mapping in &mut image.mappings {
        let MappedDisk::Volume(volume) = &mut mapping.disk else { continue };
        let Some(snapshot_id) = volume.snapshot_id.clone() else { continue };
        let found = readable(call, &from, &snapshot_id)?;
        let wish = Copy {
            encrypted: input.encrypted,
            kms_key_id: input.kms_key_id.clone(),
            description: about(&image.id, &source.id, &snapshot_id, call.now.0),
            tags: snapshot_tags.clone(),
            minutes,
        };
        let copied = snapshot::copy(call, &from, &found, wish)?;
        volume.encrypted = copied.key.is_some();
        volume.snapshot_id = Some(copied.id.clone());
    }
    image.key.clone_from(&source.key);
    image.description = description;
    image.architecture.clone_from(&source.architecture);
    image.root_device_name.clone_from(&source.root_device_name);
    image.imds_v2 = source.imds_v2;
    image.boot_mode.clone_from(&source.boot_mode);
    image.tpm_support.clone_from(&source.tpm_support);
    image.ena_support = source.ena_support;
    image.sriov_net_support.clone_from(&source.sriov_net_support);
    image.source_image_id = Some(source.id.clone());
    image.source_image_region = Some(from);
    let image = stage(call, image)?;
    Ok(api::CopyImageResult { image_id: Some(image.id.clone()) })
}

/// A snapshot of the source image that the caller may read.
fn readable(call: &mut Call<'_>, region: &str, id: &str) -> Result<Arc<Snapshot>, Error> {
    snapshot::find(call, region, id).map_err(|error| match &*error.code {
        "InvalidSnapshot.NotFound" | "AuthFailure" => Error::client(
            "InvalidRequest",
            "You do not have permission to access the storage of this ami",
        ),
        _ => error,
    })
}

/// The tags that a copy inherits: the caller's own ones.
fn copied_tags(call: &Call<'_>, source: &Image, wanted: bool) -> Tags {
    let mut tags = Tags::new();
    if wanted && source.owner_id == call.account() {
        tags.extend(source.tags.clone());
        tags.retain(|key, _| !key.starts_with("aws:"));
    }
    tags
}

/// The description of a copied snapshot; the time has commas, as AWS writes it.
fn about(image: &str, source: &str, snapshot: &str, now: i64) -> String {
    let digits = now.to_string();
    let mut time = String::new();
    for (number, digit) in digits.chars().enumerate() {
        if number > 0 && (digits.len() - number).is_multiple_of(3) {
            time.push(',');
        }
        time.push(digit);
    }
    format!(
        "Copied for DestinationAmi {image} from SourceAmi {source} for SourceSnapshot {snapshot}. \
         Task created on {time}."
    )
}

fn completion_minutes(minutes: Option<i64>) -> Result<Option<u32>, Error> {
    let Some(minutes) = minutes else { return Ok(None) };
    match u32::try_from(minutes) {
        Ok(valid) if (15..=2_880).contains(&valid) && valid.is_multiple_of(15) => Ok(Some(valid)),
        _ => Err(Error::invalid_parameter_value(format!(
            "Value ({minutes}) for parameter snapshotCopyCompletionDurationMinutes is invalid. \
             Expected a multiple of 15 between 15 and 2880."
        ))),
    }
}
