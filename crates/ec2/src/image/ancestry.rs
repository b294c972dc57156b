//! GetImageAncestry: the AMIs that an AMI descends from.

use super::{peek_any, visible};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] =
    &[operation!(op::GetImageAncestry, get_image_ancestry, Read, ["ImageId"])];

/// Most generations that are shown.
const MAX_GENERATIONS: usize = 100;

pub(super) fn get_image_ancestry(
    call: &mut Call<'_>,
    input: api::GetImageAncestryRequest,
) -> Result<api::GetImageAncestryResult, Error> {
    let mut here = Some(visible(call, &input.image_id.unwrap_or_default())?);
    let mut region = call.region.to_owned();
    let mut entries = Vec::new();
    while let Some(image) = here.take().filter(|_| entries.len() < MAX_GENERATIONS) {
        entries.push(api::ImageAncestryEntry {
            creation_date: Some(image.created),
            image_id: Some(image.id.clone()),
            image_owner_alias: image.owner_alias.clone(),
            source_image_id: image.source_image_id.clone(),
            source_image_region: image.source_image_region.clone(),
        });
        if let (Some(id), Some(of)) = (&image.source_image_id, &image.source_image_region) {
            region.clone_from(of);
            here = peek_any(call, &region, id)?;
        }
    }
    Ok(api::GetImageAncestryResult { image_ancestry_entries: Some(entries) })
}
