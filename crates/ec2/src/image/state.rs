//! What becomes of an AMI after it was made: deregistration and the recycle bin, disabling,
//! deprecation, protection; and whether an account may make AMIs public.

use super::{
    check_id, claim_name, key_of, name_claim, not_found, own, prefix, publish, unavailable,
};
use crate::record::{Image, ImageState, Protection, Snapshot, SnapshotState, key};
use crate::{recycle_bin, snapshot};
use base::Timestamp;
use model::ec2::{self as api, op};
use service::page::page;
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DeregisterImage,
        deregister_image,
        Write,
        ["ImageId", "DeleteAssociatedSnapshots"],
        Rate::new(100.0, 5.0)
    ),
    operation!(
        op::ListImagesInRecycleBin,
        list_images_in_recycle_bin,
        Read,
        ["ImageIds", "MaxResults", "NextToken"]
    ),
    operation!(op::RestoreImageFromRecycleBin, restore_image_from_recycle_bin, Write, ["ImageId"]),
    operation!(op::DisableImage, disable_image, Write, ["ImageId"]),
    operation!(op::EnableImage, enable_image, Write, ["ImageId"]),
    operation!(
        op::EnableImageDeprecation,
        enable_image_deprecation,
        Write,
        ["ImageId", "DeprecateAt"]
    ),
    operation!(op::DisableImageDeprecation, disable_image_deprecation, Write, ["ImageId"]),
    operation!(
        op::EnableImageDeregistrationProtection,
        enable_image_deregistration_protection,
        Write,
        ["ImageId", "WithCooldown"]
    ),
    operation!(
        op::DisableImageDeregistrationProtection,
        disable_image_deregistration_protection,
        Write,
        ["ImageId"]
    ),
    operation!(
        op::EnableImageBlockPublicAccess,
        enable_image_block_public_access,
        Write,
        ["ImageBlockPublicAccessState"]
    ),
    operation!(op::DisableImageBlockPublicAccess, disable_image_block_public_access, Write, []),
    operation!(op::GetImageBlockPublicAccessState, get_image_block_public_access_state, Read, []),
];

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
/// An AMI is deprecated ten years from now at the latest, a public one two years after it was made
/// (EC2 API Reference, "EnableImageDeprecation").
const MAX_DEPRECATION: i64 = 10 * 366 * DAY;
const MAX_PUBLIC_DEPRECATION: i64 = 2 * 366 * DAY;

const BLOCKED: &str = "block-new-sharing";
const UNBLOCKED: &str = "unblocked";

fn id_of(image_id: Option<String>) -> Result<String, Error> {
    image_id.filter(|id| !id.is_empty()).ok_or_else(|| Error::missing_parameter("imageId"))
}

/// Stages a change of the caller's image.
fn change(
    call: &mut Call<'_>,
    image_id: Option<String>,
    with: impl FnOnce(&mut Image, Timestamp) -> Result<(), Error>,
) -> Result<(), Error> {
    let known = own(call, &id_of(image_id)?)?;
    let mut image = Image::clone(&known);
    with(&mut image, call.now)?;
    if image != *known {
        call.put(&key_of(call.region, &image), image);
    }
    Ok(())
}

/// Whether deregistration is refused at this time.
pub(super) fn is_protected(image: &Image, now: Timestamp) -> bool {
    image.protection.is_some_and(|protection| protection.ends.is_none_or(|ends| now < ends))
}

pub(super) fn deregister_image(
    call: &mut Call<'_>,
    input: api::DeregisterImageRequest,
) -> Result<api::DeregisterImageResult, Error> {
    let image = own(call, &id_of(input.image_id)?)?;
    if is_protected(&image, call.now) {
        return Err(Error::client(
            "OperationNotPermitted",
            format!(
                "The image '{}' may not be deregistered: deregistration protection is {}.",
                image.id,
                match image.protection.and_then(|protection| protection.ends) {
                    Some(ends) => format!("in its cooldown until {}", ends.iso_seconds()),
                    None => "enabled".to_owned(),
                }
            ),
        ));
    }
    let released = release_snapshots(call, &image)?;
    release_name(call, &image)?;
    let at = key_of(call.region, &image);
    match recycle_bin::recycled(call, "EC2_IMAGE", &image.tags)? {
        Some(stay) => {
            let mut image = Image::clone(&image);
            image.recycled = Some(stay);
            image.public = false;
            image.launch_accounts.clear();
            call.put(&at, image);
        }
        None => call.delete(&at),
    }
    if publish::is_published(call.region, &image) {
        publish::bid_farewell(call, &image);
    }
    let mut results = None;
    if input.delete_associated_snapshots == Some(true) {
        let mut deleted = Vec::new();
        for (snapshot_id, released) in released {
            deleted.push(api::DeleteSnapshotReturnCode {
                return_code: Some(discard(call, released)?.to_owned()),
                snapshot_id: Some(snapshot_id),
            });
        }
        results = Some(deleted);
    }
    Ok(api::DeregisterImageResult { delete_snapshot_results: results, return_: Some(true) })
}

/// A snapshot that an image stood on, with its record key.
type Released = Option<(String, Arc<Snapshot>)>;

/// Takes the image off its snapshots, which may be deleted then. `None` for one that the caller
/// does not own.
fn release_snapshots(call: &mut Call<'_>, image: &Image) -> Result<Vec<(String, Released)>, Error> {
    let mut released = Vec::new();
    for id in image.snapshots() {
        if released.iter().any(|(known, _)| known == id) {
            continue;
        }
        let at = key::of(call.region, key::SNAPSHOT, &image.owner_id, id);
        let found = match call.get::<Snapshot>(&at)? {
            Some(snapshot) => {
                let mut snapshot = Snapshot::clone(&snapshot);
                snapshot.images.remove(&image.id);
                Some((at.clone(), call.put(&at, snapshot)))
            }
            None => None,
        };
        released.push((id.to_owned(), found));
    }
    Ok(released)
}

/// Deletes a snapshot with its image: the ReturnCode.
fn discard(call: &mut Call<'_>, released: Released) -> Result<&'static str, Error> {
    let Some((at, snapshot)) = released else { return Ok("missing-permissions") };
    if !snapshot.images.is_empty() {
        return Ok("skipped");
    }
    match snapshot::discard(call, &at, &snapshot) {
        Ok(()) => Ok("success"),
        Err(error) if error.status < 500 => Ok("client-error"),
        Err(error) => Err(error),
    }
}

/// Lets others of the account have the image's name.
fn release_name(call: &mut Call<'_>, image: &Image) -> Result<(), Error> {
    let claim = name_claim(call.region, &image.owner_id, &image.name);
    if call.get::<String>(&claim)?.is_some_and(|id| *id == image.id) {
        call.delete(&claim);
    }
    Ok(())
}

pub(super) fn list_images_in_recycle_bin(
    call: &mut Call<'_>,
    input: api::ListImagesInRecycleBinRequest,
) -> Result<api::ListImagesInRecycleBinResult, Error> {
    let own = format!("{}{}/", prefix(call.region), call.account());
    let mut images = call.scan::<Image>(&own)?;
    let now = call.now;
    images.retain(|image| image.recycled.as_ref().is_some_and(|stay| now < stay.exits));
    let ids = input.image_ids.unwrap_or_default();
    if !ids.is_empty() {
        for id in &ids {
            check_id(id)?;
            if !images.iter().any(|image| image.id == *id) {
                return Err(not_found(&[id]));
            }
        }
        images.retain(|image| ids.contains(&image.id));
    }
    let page =
        page(images, |image| &image.id, input.max_results, input.next_token.as_deref(), 1..=1000)?;
    let shown = page.items.iter().map(|image| api::ImageRecycleBinInfo {
        description: Some(image.description.clone()),
        image_id: Some(image.id.clone()),
        name: Some(image.name.clone()),
        recycle_bin_enter_time: image.recycled.as_ref().map(|stay| stay.entered),
        recycle_bin_exit_time: image.recycled.as_ref().map(|stay| stay.exits),
    });
    Ok(api::ListImagesInRecycleBinResult {
        images: Some(shown.collect()),
        next_token: page.next_token,
    })
}

pub(super) fn restore_image_from_recycle_bin(
    call: &mut Call<'_>,
    input: api::RestoreImageFromRecycleBinRequest,
) -> Result<api::RestoreImageFromRecycleBinResult, Error> {
    let id = id_of(input.image_id)?;
    check_id(&id)?;
    let at = key::of(call.region, key::IMAGE, call.account(), &id);
    let now = call.now;
    let image = call
        .get::<Image>(&at)?
        .filter(|image| image.recycled.as_ref().is_some_and(|stay| now < stay.exits))
        .ok_or_else(|| not_found(&[&id]))?;
    let mut image = Image::clone(&image);
    super::check_name_is_free(call, &image.name)?;
    for snapshot_id in image.snapshots() {
        let at = key::of(call.region, key::SNAPSHOT, &image.owner_id, snapshot_id);
        let snapshot = call
            .get::<Snapshot>(&at)?
            .filter(|found| found.recycled.is_none() && found.state == SnapshotState::Completed)
            .ok_or_else(|| {
                Error::client(
                    "InvalidSnapshot.NotFound",
                    format!("The snapshot '{snapshot_id}' does not exist."),
                )
            })?;
        let mut snapshot = Snapshot::clone(&snapshot);
        snapshot.images.insert(image.id.clone());
        call.put(&at, snapshot);
    }
    image.recycled = None;
    claim_name(call, &image);
    call.put(&at, image);
    Ok(api::RestoreImageFromRecycleBinResult { return_: Some(true) })
}

pub(super) fn disable_image(
    call: &mut Call<'_>,
    input: api::DisableImageRequest,
) -> Result<api::DisableImageResult, Error> {
    change(call, input.image_id, |image, _| {
        match image.state {
            ImageState::Available | ImageState::Disabled => {}
            ImageState::Pending | ImageState::Failed => return Err(unavailable(&image.id)),
        }
        image.state = ImageState::Disabled;
        image.public = false;
        image.launch_accounts.clear();
        Ok(())
    })?;
    Ok(api::DisableImageResult { return_: Some(true) })
}

pub(super) fn enable_image(
    call: &mut Call<'_>,
    input: api::EnableImageRequest,
) -> Result<api::EnableImageResult, Error> {
    change(call, input.image_id, |image, _| {
        match image.state {
            ImageState::Available | ImageState::Disabled => {}
            ImageState::Pending | ImageState::Failed => return Err(unavailable(&image.id)),
        }
        image.state = ImageState::Available;
        Ok(())
    })?;
    Ok(api::EnableImageResult { return_: Some(true) })
}

pub(super) fn enable_image_deprecation(
    call: &mut Call<'_>,
    input: api::EnableImageDeprecationRequest,
) -> Result<api::EnableImageDeprecationResult, Error> {
    let asked = input.deprecate_at.ok_or_else(|| Error::missing_parameter("deprecateAt"))?;
    change(call, input.image_id, |image, now| {
        // Seconds are rounded to the nearest minute.
        let at = Timestamp((asked.0 + MINUTE / 2).div_euclid(MINUTE) * MINUTE);
        let latest = if image.public {
            image.created.plus_millis(MAX_PUBLIC_DEPRECATION)
        } else {
            now.plus_millis(MAX_DEPRECATION)
        };
        let why = if asked < now {
            "The date must be in the future."
        } else if at > latest && image.public {
            "The upper limit of a public AMI is 2 years from its creation date."
        } else if at > latest {
            "The upper limit is 10 years from now."
        } else {
            image.deprecation_time = Some(at);
            return Ok(());
        };
        Err(Error::invalid_parameter_value(format!(
            "Value ({}) for parameter DeprecateAt is invalid. {why}",
            asked.iso_millis()
        )))
    })?;
    Ok(api::EnableImageDeprecationResult { return_: Some(true) })
}

pub(super) fn disable_image_deprecation(
    call: &mut Call<'_>,
    input: api::DisableImageDeprecationRequest,
) -> Result<api::DisableImageDeprecationResult, Error> {
    change(call, input.image_id, |image, _| {
        image.deprecation_time = None;
        Ok(())
    })?;
    Ok(api::DisableImageDeprecationResult { return_: Some(true) })
}

pub(super) fn enable_image_deregistration_protection(
    call: &mut Call<'_>,
    input: api::EnableImageDeregistrationProtectionRequest,
) -> Result<api::EnableImageDeregistrationProtectionResult, Error> {
    let cooldown = input.with_cooldown.unwrap_or(false);
    change(call, input.image_id, |image, _| {
        image.protection = Some(Protection { cooldown, ends: None });
        Ok(())
    })?;
    Ok(api::EnableImageDeregistrationProtectionResult { return_: Some("true".to_owned()) })
}

pub(super) fn disable_image_deregistration_protection(
    call: &mut Call<'_>,
    input: api::DisableImageDeregistrationProtectionRequest,
) -> Result<api::DisableImageDeregistrationProtectionResult, Error> {
    change(call, input.image_id, |image, now| {
        image.protection = match image.protection {
            Some(Protection { cooldown: true, ends: None }) => {
                Some(Protection { cooldown: true, ends: Some(now.plus_millis(DAY)) })
            }
            // The first call counts.
            Some(cooling @ Protection { cooldown: true, ends: Some(_) }) => Some(cooling),
            _ => None,
        };
        Ok(())
    })?;
    Ok(api::DisableImageDeregistrationProtectionResult { return_: Some("true".to_owned()) })
}

fn public_access_key(call: &Call<'_>) -> String {
    key::of(call.region, "image-block-public-access", call.account(), "state")
}

/// Whether the account keeps its AMIs from becoming public; the commit depends on it. A new account
/// of this region does not, other than one of AWS's.
pub(super) fn blocks_public_access(call: &mut Call<'_>) -> Result<bool, Error> {
    let at = public_access_key(call);
    Ok(call.get::<String>(&at)?.is_some_and(|state| *state == BLOCKED))
}

pub(super) fn enable_image_block_public_access(
    call: &mut Call<'_>,
    input: api::EnableImageBlockPublicAccessRequest,
) -> Result<api::EnableImageBlockPublicAccessResult, Error> {
    // The model allows this one value.
    if input.image_block_public_access_state.as_deref() != Some(BLOCKED) {
        return Err(Error::invalid_parameter_value(
            "Value for parameter imageBlockPublicAccessState is invalid. Expected \
             block-new-sharing.",
        ));
    }
    let at = public_access_key(call);
    call.put(&at, BLOCKED.to_owned());
    Ok(api::EnableImageBlockPublicAccessResult {
        image_block_public_access_state: Some(BLOCKED.to_owned()),
    })
}

pub(super) fn disable_image_block_public_access(
    call: &mut Call<'_>,
    _: api::DisableImageBlockPublicAccessRequest,
) -> Result<api::DisableImageBlockPublicAccessResult, Error> {
    let at = public_access_key(call);
    if call.exists(&at) {
        call.delete(&at);
    }
    Ok(api::DisableImageBlockPublicAccessResult {
        image_block_public_access_state: Some(UNBLOCKED.to_owned()),
    })
}

pub(super) fn get_image_block_public_access_state(
    call: &mut Call<'_>,
    _: api::GetImageBlockPublicAccessStateRequest,
) -> Result<api::GetImageBlockPublicAccessStateResult, Error> {
    let state = if blocks_public_access(call)? { BLOCKED } else { UNBLOCKED };
    Ok(api::GetImageBlockPublicAccessStateResult {
        image_block_public_access_state: Some(state.to_owned()),
        managed_by: Some("account".to_owned()),
    })
}
