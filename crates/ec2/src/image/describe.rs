//! DescribeImages.

use super::{check_id, not_found, prefix};
use crate::record::{Image, ImageState, MappedDisk, MappedVolume, Mapping, StateReason};
use crate::{region, tag};
use base::Timestamp;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::DescribeImages,
    describe_images,
    Read,
    [
        "ExecutableUsers",
        "Filters.*",
        "ImageIds",
        "IncludeDeprecated",
        "IncludeDisabled",
        "MaxResults",
        "NextToken",
        "Owners",
    ]
)];

/// Names that stand for accounts of Amazon's.
const OWNER_ALIASES: [&str; 3] = ["amazon", "aws-backup-vault", "aws-marketplace"];

/// ImageLocation.
fn location(image: &Image) -> String {
    let owner = image.owner_alias.as_deref().unwrap_or(&image.owner_id);
    format!("{owner}/{}", image.name)
}

fn none(_: &Image) -> Values<'_> {
    Vec::new()
}

fn yes(_: &Image) -> Values<'_> {
    vec!["true".into()]
}

fn volumes<'a>(
    image: &'a Image,
    value: impl Fn(&'a MappedVolume) -> Option<Cow<'a, str>>,
) -> Values<'a> {
    image.mappings.iter().filter_map(|mapping| value(mapping.volume()?)).collect()
}

fn reason<'a>(image: &'a Image, text: fn(&'a StateReason) -> &'a String) -> Values<'a> {
    image.state_reason.iter().map(|reason| text(reason).as_str().into()).collect()
}

const FILTERS: &[Field<Image>] = &[
    ("architecture", |image| vec![image.architecture.as_str().into()]),
    ("block-device-mapping.delete-on-termination", |image| {
        volumes(image, |volume| Some(volume.delete_on_termination.to_string().into()))
    }),
    ("block-device-mapping.device-name", |image| {
        image.mappings.iter().map(|mapping| mapping.device_name.as_str().into()).collect()
    }),
    ("block-device-mapping.snapshot-id", |image| {
        volumes(image, |volume| volume.snapshot_id.as_deref().map(Into::into))
    }),
    ("block-device-mapping.volume-size", |image| {
        volumes(image, |volume| Some(volume.size_gib.to_string().into()))
    }),
    ("block-device-mapping.volume-type", |image| {
        volumes(image, |volume| Some(volume.kind.as_str().into()))
    }),
    ("block-device-mapping.encrypted", |image| {
        volumes(image, |volume| Some(volume.encrypted.to_string().into()))
    }),
    ("creation-date", |image| vec![image.created.iso_millis().into()]),
    ("description", |image| vec![image.description.as_str().into()]),
    ("ena-support", |image| vec![image.ena_support.to_string().into()]),
    ("free-tier-eligible", yes),
    ("hypervisor", |_| vec!["xen".into()]),
    ("image-allowed", yes),
    ("image-id", |image| vec![image.id.as_str().into()]),
    ("image-type", |_| vec!["machine".into()]),
    ("is-public", |image| vec![image.public.to_string().into()]),
    ("kernel-id", none),
    ("manifest-location", |image| vec![location(image).into()]),
    ("name", |image| vec![image.name.as_str().into()]),
    ("owner-alias", |image| region::text(&image.owner_alias)),
    ("owner-id", |image| vec![image.owner_id.as_str().into()]),
    ("platform", none),
    ("product-code", none),
    ("product-code.type", none),
    ("ramdisk-id", none),
    ("root-device-name", |image| vec![image.root_device_name.as_str().into()]),
    ("root-device-type", |_| vec!["ebs".into()]),
    ("source-image-id", |image| region::text(&image.source_image_id)),
    ("source-image-region", |image| region::text(&image.source_image_region)),
    ("source-instance-id", |image| region::text(&image.source_instance_id)),
    ("state", |image| vec![image.state.name().into()]),
    ("state-reason-code", |image| reason(image, |reason| &reason.code)),
    ("state-reason-message", |image| reason(image, |reason| &reason.message)),
    ("sriov-net-support", |image| region::text(&image.sriov_net_support)),
    ("virtualization-type", |_| vec!["hvm".into()]),
];

pub(super) fn describe_images(
    call: &mut Call<'_>,
    input: api::DescribeImagesRequest,
) -> Result<api::DescribeImagesResult, Error> {
    let disabled_too = input.include_disabled.unwrap_or(false);
    let deprecated_too = input.include_deprecated.unwrap_or(false);
    let requested = crate::filters(input.filters);
    let of_disabled = |filter: &service::filter::Filter| {
        filter.name == "state" && filter.values.iter().any(|value| value == "disabled")
    };
    if !disabled_too && requested.iter().any(of_disabled) {
        return Err(Error::client(
            "InvalidParameter",
            "When filtering by the 'disabled' state, 'IncludeDisabled' must be set to 'true' in \
             the request.",
        ));
    }
    let filters = Filters::new(requested, FILTERS)?;
    let account = call.account();
    let mut images = call.scan::<Image>(&prefix(call.region))?;
    images.retain(|image| image.is_usable_by(account));
    let ids = input.image_ids.unwrap_or_default();
    if !ids.is_empty() {
        for id in &ids {
            check_id(id)?;
        }
        let missing: Vec<&str> = ids
            .iter()
            .map(String::as_str)
            .filter(|id| !images.iter().any(|image| image.id == **id))
            .collect();
        if !missing.is_empty() {
            return Err(not_found(&missing));
        }
        images.retain(|image| ids.contains(&image.id));
    }
    let owners = input.owners.unwrap_or_default();
    if !owners.is_empty() {
        for owner in &owners {
            check_owner(owner)?;
        }
        images.retain(|image| {
            owners.iter().any(|owner| match owner.as_str() {
                "self" => image.owner_id == account,
                name => image.owner_id == name || image.owner_alias.as_deref() == Some(name),
            })
        });
    }
    let users = input.executable_users.unwrap_or_default();
    if !users.is_empty() {
        images.retain(|image| {
            users.iter().any(|user| match user.as_str() {
                "all" => image.public,
                "self" => image.launch_accounts.contains(account),
                other => image.launch_accounts.contains(other),
            })
        });
    }
    images.retain(|image| {
        let hidden = image.state == ImageState::Disabled && !disabled_too
            || is_deprecated(image, call.now) && !deprecated_too && image.owner_id != account;
        !hidden && filters.accept(image, &image.tags)
    });
    images.sort_by(|a, b| a.id.cmp(&b.id));
    let page =
        page(images, |image| &image.id, input.max_results, input.next_token.as_deref(), 1..=1000)?;
    Ok(api::DescribeImagesResult {
        images: Some(page.items.iter().map(|image| to_model(image, call.now)).collect()),
        next_token: page.next_token,
    })
}

fn check_owner(owner: &str) -> Result<(), Error> {
    let is_account = owner.len() == 12 && owner.bytes().all(|b| b.is_ascii_digit());
    if owner == "self" || is_account || OWNER_ALIASES.contains(&owner) {
        return Ok(());
    }
    Err(Error::client("InvalidUserID.Malformed", format!("Invalid user id: \"{owner}\"")))
}

fn is_deprecated(image: &Image, now: Timestamp) -> bool {
    image.deprecation_time.is_some_and(|at| now >= at)
}

pub(super) fn mapping_to_model(mapping: &Mapping) -> api::BlockDeviceMapping {
    let mut shown = api::BlockDeviceMapping {
        device_name: Some(mapping.device_name.clone()),
        ..Default::default()
    };
    match &mapping.disk {
        MappedDisk::Volume(volume) => {
            shown.ebs = Some(api::EbsBlockDevice {
                delete_on_termination: Some(volume.delete_on_termination),
                encrypted: Some(volume.encrypted),
                // A gp2 volume's follow from its size: AWS shows none and takes none in a request.
                iops: volume
                    .iops
                    .filter(|_| volume.kind != "gp2")
                    .and_then(|iops| i32::try_from(iops).ok()),
                snapshot_id: volume.snapshot_id.clone(),
                throughput: volume.throughput.and_then(|rate| i32::try_from(rate).ok()),
                volume_size: i32::try_from(volume.size_gib).ok(),
                volume_type: Some(volume.kind.clone()),
                ..Default::default()
            });
        }
        MappedDisk::Ephemeral(name) => shown.virtual_name = Some(name.clone()),
        MappedDisk::Nothing => shown.no_device = Some(String::new()),
    }
    shown
}

/// DeregistrationProtection as the API shows it.
pub(super) fn protection(image: &Image, now: Timestamp) -> &'static str {
    match image.protection {
        Some(protection) if protection.ends.is_none_or(|ends| now < ends) => {
            if protection.cooldown { "enabled-with-cooldown" } else { "enabled-without-cooldown" }
        }
        _ => "disabled",
    }
}

fn to_model(image: &Image, now: Timestamp) -> api::Image {
    let text = |text: &str| Some(text.to_owned());
    api::Image {
        architecture: text(&image.architecture),
        block_device_mappings: Some(image.mappings.iter().map(mapping_to_model).collect()),
        boot_mode: image.boot_mode.clone(),
        creation_date: Some(image.created.iso_millis()),
        deprecation_time: image.deprecation_time.map(Timestamp::iso_millis),
        deregistration_protection: text(protection(image, now)),
        description: Some(image.description.clone()).filter(|text| !text.is_empty()),
        ena_support: Some(image.ena_support),
        free_tier_eligible: Some(true),
        hypervisor: text("xen"),
        image_id: text(&image.id),
        image_location: Some(location(image)),
        image_owner_alias: image.owner_alias.clone(),
        image_type: text("machine"),
        imds_support: image.imds_v2.then(|| "v2.0".to_owned()),
        name: text(&image.name),
        owner_id: text(&image.owner_id),
        platform_details: text("Linux/UNIX"),
        public: Some(image.public),
        root_device_name: text(&image.root_device_name),
        root_device_type: text("ebs"),
        source_image_id: image.source_image_id.clone(),
        source_image_region: image.source_image_region.clone(),
        source_instance_id: image.source_instance_id.clone(),
        sriov_net_support: image.sriov_net_support.clone(),
        state: text(image.state.name()),
        state_reason: image.state_reason.as_ref().map(|reason| api::StateReason {
            code: Some(reason.code.clone()),
            message: Some(reason.message.clone()),
        }),
        tags: tag::to_model(&image.tags),
        tpm_support: image.tpm_support.clone(),
        usage_operation: text("RunInstances"),
        virtualization_type: text("hvm"),
        ..Default::default()
    }
}
