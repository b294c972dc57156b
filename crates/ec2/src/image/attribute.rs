//! Attributes of AMIs: description, IMDS support, and who may launch them.

use super::{key_of, own, state, unavailable, visible};
use crate::record::{Image, ImageState};
use model::ec2::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DescribeImageAttribute,
        describe_image_attribute,
        Read,
        ["ImageId", "Attribute"]
    ),
    operation!(
        op::ModifyImageAttribute,
        modify_image_attribute,
        Write,
        [
            "ImageId",
            "Attribute",
            "Description.Value",
            "ImdsSupport.Value",
            "LaunchPermission.Add.*",
            "LaunchPermission.Remove.*",
            "OperationType",
            "UserGroups",
            "UserIds",
            "Value",
        ],
        Rate::new(100.0, 5.0)
    ),
    operation!(op::ResetImageAttribute, reset_image_attribute, Write, ["ImageId", "Attribute"]),
    operation!(op::CancelImageLaunchPermission, cancel_image_launch_permission, Write, ["ImageId"]),
];

/// Longest description, in characters.
pub(super) const MAX_DESCRIPTION: usize = 255;

pub(super) fn describe_image_attribute(
    call: &mut Call<'_>,
    input: api::DescribeImageAttributeRequest,
) -> Result<api::ImageAttribute, Error> {
    let image = own(call, &input.image_id.unwrap_or_default())?;
    let value = |value: Option<String>| Some(api::AttributeValue { value });
    let mut shown = api::ImageAttribute { image_id: Some(image.id.clone()), ..Default::default() };
    match input.attribute.as_deref().unwrap_or_default() {
        "description" => shown.description = value(Some(image.description.clone())),
        "kernel" => shown.kernel_id = value(None),
        "ramdisk" => shown.ramdisk_id = value(None),
        "launchPermission" => shown.launch_permissions = Some(launch_permissions(&image)),
        "productCodes" => shown.product_codes = Some(Vec::new()),
        // "Using this attribute returns the Client.AuthFailure error" (EC2 API Reference).
        "blockDeviceMapping" => {
            return Err(Error::client(
                "AuthFailure",
                "Unauthorized attempt to access restricted resource",
            )
            .with_status(403));
        }
        "sriovNetSupport" => shown.sriov_net_support = value(image.sriov_net_support.clone()),
        "bootMode" => shown.boot_mode = value(image.boot_mode.clone()),
        "tpmSupport" => shown.tpm_support = value(image.tpm_support.clone()),
        "uefiData" => shown.uefi_data = value(None),
        "lastLaunchedTime" => shown.last_launched_time = value(None),
        "imdsSupport" => {
            shown.imds_support = value(image.imds_v2.then(|| "v2.0".to_owned()));
        }
        "deregistrationProtection" => {
            let protection = super::describe::protection(&image, call.now);
            shown.deregistration_protection = value(Some(protection.to_owned()));
        }
        other => return Err(invalid_attribute(other)),
    }
    Ok(shown)
}

fn invalid_attribute(name: &str) -> Error {
    Error::invalid_parameter_value(format!(
        "Value ({name}) for parameter attribute is invalid. Unknown attribute."
    ))
}

fn launch_permissions(image: &Image) -> Vec<api::LaunchPermission> {
    let group = image
        .public
        .then(|| api::LaunchPermission { group: Some("all".to_owned()), ..Default::default() });
    let accounts = image.launch_accounts.iter().map(|account| api::LaunchPermission {
        user_id: Some(account.clone()),
        ..Default::default()
    });
    group.into_iter().chain(accounts).collect()
}

/// What a request changes.
enum Change {
    Description(String),
    ImdsSupport(String),
    Permissions { add: Vec<Who>, remove: Vec<Who> },
}

/// Who gets or loses a launch permission.
enum Who {
    All,
    Account(String),
}

pub(super) fn modify_image_attribute(
    call: &mut Call<'_>,
    input: api::ModifyImageAttributeRequest,
) -> Result<wire::Empty, Error> {
    let known = own(call, input.image_id.as_deref().unwrap_or_default())?;
    let mut image = Image::clone(&known);
    match wanted(input)? {
        Change::Description(text) => {
            check_description(&text)?;
            image.description = text;
        }
        Change::ImdsSupport(value) if value == "v2.0" => image.imds_v2 = true,
        Change::ImdsSupport(value) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({value}) for parameter imdsSupport is invalid. Expected v2.0."
            )));
        }
        Change::Permissions { add, remove } => {
            if image.state != ImageState::Available {
                return Err(unavailable(&image.id));
            }
            for who in add {
                match who {
                    Who::All => {
                        check_public(call, &image)?;
                        image.public = true;
                    }
                    Who::Account(account) => _ = image.launch_accounts.insert(account),
                }
            }
            for who in remove {
                match who {
                    Who::All => image.public = false,
                    Who::Account(account) => _ = image.launch_accounts.remove(&account),
                }
            }
        }
    }
    if image != *known {
        call.put(&key_of(call.region, &image), image);
    }
    Ok(wire::Empty)
}

/// Whether a description is short enough.
pub(super) fn check_description(text: &str) -> Result<(), Error> {
    if text.chars().count() <= MAX_DESCRIPTION {
        return Ok(());
    }
    Err(Error::invalid_parameter_value(format!(
        "Character sets beyond {MAX_DESCRIPTION} characters are not supported for parameter \
         description."
    )))
}

fn check_public(call: &mut Call<'_>, image: &Image) -> Result<(), Error> {
    if image.public {
        return Ok(());
    }
    if state::blocks_public_access(call)? {
        return Err(Error::client(
            "OperationNotPermitted",
            "You can\u{2019}t publicly share this image because block public access for AMIs is \
             enabled for this account. To publicly share the image, you must call the \
             DisableImageBlockPublicAccess API.",
        ));
    }
    // "You can't make an AMI public if it has encrypted volumes" (EC2 User Guide, "Make your AMI
    // publicly available").
    if image.mappings.iter().filter_map(|mapping| mapping.volume()).any(|disk| disk.encrypted) {
        return Err(Error::invalid_parameter_value(format!(
            "The image '{}' has encrypted snapshots and cannot be made public.",
            image.id
        )));
    }
    Ok(())
}

/// The one change of a request, in its newer or its older form.
fn wanted(input: api::ModifyImageAttributeRequest) -> Result<Change, Error> {
    let mut changes = Vec::new();
    if let Some(description) = input.description {
        changes.push(Change::Description(description.value.unwrap_or_default()));
    }
    if let Some(support) = input.imds_support {
        changes.push(Change::ImdsSupport(support.value.unwrap_or_default()));
    }
    if let Some(permission) = input.launch_permission {
        changes.push(Change::Permissions {
            add: who(permission.add.unwrap_or_default())?,
            remove: who(permission.remove.unwrap_or_default())?,
        });
    }
    match input.attribute.as_deref().filter(|name| !name.is_empty()) {
        // What a newer form says may be named as well.
        Some(_) | None if !changes.is_empty() => {}
        None => {}
        Some("description") => {
            changes.push(Change::Description(input.value.unwrap_or_default()));
        }
        Some("imdsSupport") => {
            changes.push(Change::ImdsSupport(input.value.unwrap_or_default()));
        }
        Some("launchPermission") => {
            let ids = input.user_ids.unwrap_or_default().into_iter();
            let groups = input.user_groups.unwrap_or_default().into_iter();
            let permission =
                |user_id, group| api::LaunchPermission { user_id, group, ..Default::default() };
            let named: Vec<_> = ids
                .map(|id| permission(Some(id), None))
                .chain(groups.map(|group| permission(None, Some(group))))
                .collect();
            let named = who(named)?;
            changes.push(match input.operation_type.as_deref() {
                Some("add") => Change::Permissions { add: named, remove: Vec::new() },
                Some("remove") => Change::Permissions { add: Vec::new(), remove: named },
                _ => return Err(Error::missing_parameter("operationType")),
            });
        }
        Some(other) => return Err(invalid_attribute(other)),
    }
    let mut changes = changes.into_iter();
    match (changes.next(), changes.next()) {
        (Some(change), None) => Ok(change),
        (None, _) => Err(Error::invalid_parameter_combination("No attributes specified.")),
        (Some(_), Some(_)) => Err(Error::invalid_parameter_combination(
            "Fields for multiple attribute types specified: only one attribute can be modified at \
             a time.",
        )),
    }
}

fn who(permissions: Vec<api::LaunchPermission>) -> Result<Vec<Who>, Error> {
    let invalid = |value: &str, item: &str| {
        Error::client(
            "InvalidAMIAttributeItemValue",
            format!("Invalid attribute item value \"{value}\" for {item} item type."),
        )
    };
    let mut found = Vec::new();
    for permission in permissions {
        if permission.organization_arn.is_some() || permission.organizational_unit_arn.is_some() {
            return Err(Error::unsupported(
                "Launch permissions of organizations are not built in gureum: there are none.",
            ));
        }
        if let Some(group) = permission.group {
            if group != "all" {
                return Err(invalid(&group, "userGroup"));
            }
            found.push(Who::All);
        }
        if let Some(account) = permission.user_id {
            // People write them with dashes.
            let digits = account.replace('-', "");
            if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid(&account, "userId"));
            }
            found.push(Who::Account(digits));
        }
    }
    Ok(found)
}

pub(super) fn reset_image_attribute(
    call: &mut Call<'_>,
    input: api::ResetImageAttributeRequest,
) -> Result<wire::Empty, Error> {
    let known = own(call, &input.image_id.unwrap_or_default())?;
    match input.attribute.as_deref().unwrap_or_default() {
        "launchPermission" => {}
        other => return Err(invalid_attribute(other)),
    }
    let mut image = Image::clone(&known);
    image.public = false;
    image.launch_accounts.clear();
    if image != *known {
        call.put(&key_of(call.region, &image), image);
    }
    Ok(wire::Empty)
}

pub(super) fn cancel_image_launch_permission(
    call: &mut Call<'_>,
    input: api::CancelImageLaunchPermissionRequest,
) -> Result<api::CancelImageLaunchPermissionResult, Error> {
    let id = input.image_id.unwrap_or_default();
    let known = visible(call, &id)?;
    let account = call.account();
    if !known.launch_accounts.contains(account) {
        return Err(Error::client(
            "InvalidAMIID.NotFound",
            format!("The image id '[{id}]' is not shared with the account {account}"),
        ));
    }
    let mut image = Image::clone(&known);
    image.launch_accounts.remove(account);
    call.put(&key_of(call.region, &image), image);
    Ok(api::CancelImageLaunchPermissionResult { return_: Some(true) })
}
