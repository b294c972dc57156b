//! GetImageAncestry: the AMIs that an AMI descends from. DescribeImageReferences: what uses an AMI.
//!
//! Of what may use an AMI there are only instances here: no launch templates, parameters, recipes.

use super::{check_id, peek_any, visible};
use crate::record::{Instance, key};
use crate::region;
use model::ec2::{self as api, op};
use service::page::page;
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::GetImageAncestry, get_image_ancestry, Read, ["ImageId"]),
    operation!(
        op::DescribeImageReferences,
        describe_image_references,
        Read,
        [
            "ImageIds",
            "IncludeAllResourceTypes",
            "MaxResults",
            "NextToken",
            "ResourceTypes.ResourceType",
            "ResourceTypes.ResourceTypeOptions.*",
        ]
    ),
];

/// States of instances that count unless the request says (EC2 User Guide, "How AMI reference checks
/// work").
const COUNTING: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

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

pub(super) fn describe_image_references(
    call: &mut Call<'_>,
    input: api::DescribeImageReferencesRequest,
) -> Result<api::DescribeImageReferencesResult, Error> {
    let ids = input.image_ids.unwrap_or_default();
    for id in &ids {
        check_id(id)?;
    }
    let states = instance_states(input.include_all_resource_types, input.resource_types)?;
    let prefix = key::of(call.region, key::INSTANCE, call.account(), "");
    let (region, account) = (call.region, call.account());
    let mut references = Vec::new();
    for instance in call.scan::<Instance>(&prefix)? {
        let state = instance.state.name();
        if ids.contains(&instance.image_id) && states.iter().any(|counted| counted == state) {
            references.push(api::ImageReference {
                arn: Some(format!(
                    "arn:{}:ec2:{region}:{account}:instance/{}",
                    region::partition(region),
                    instance.id
                )),
                image_id: Some(instance.image_id.clone()),
                resource_type: Some("ec2:Instance".to_owned()),
            });
        }
    }
    let page = page(
        references,
        |reference| reference.arn.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeImageReferencesResult {
        image_references: Some(page.items),
        next_token: page.next_token,
    })
}

/// The states of the instances that the request asks for; none when it does not ask for instances.
fn instance_states(
    all: Option<bool>,
    types: Option<Vec<api::ResourceTypeRequest>>,
) -> Result<Vec<String>, Error> {
    let types = types.unwrap_or_default();
    if all != Some(true) && types.is_empty() {
        return Err(Error::client(
            "MissingParameter",
            "Either IncludeAllResourceTypes or ResourceTypes must be specified.",
        ));
    }
    let of_instances =
        |wish: &&api::ResourceTypeRequest| wish.resource_type.as_deref() == Some("ec2:Instance");
    let wish = types.iter().find(of_instances);
    if wish.is_none() && all != Some(true) {
        return Ok(Vec::new());
    }
    let named = wish.and_then(|wish| {
        let options = wish.resource_type_options.as_ref()?;
        let states = options.iter().find(|o| o.option_name.as_deref() == Some("state-name"))?;
        states.option_values.clone()
    });
    Ok(named.unwrap_or_else(|| COUNTING.map(str::to_owned).to_vec()))
}
