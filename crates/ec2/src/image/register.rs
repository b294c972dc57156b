//! RegisterImage: an AMI of snapshots that are there.

use super::attribute::check_description;
use super::mapping::{self, invalid};
use super::{blank, check_name, check_name_is_free, stage};
use crate::record::{ImageState, MappedDisk, Snapshot, key};
use crate::tag;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::RegisterImage,
    register_image,
    Write,
    [
        "Architecture",
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
        "BootMode",
        "Description",
        "EnaSupport",
        "ImageLocation",
        "ImdsSupport",
        "Name",
        "RootDeviceName",
        "SriovNetSupport",
        "TagSpecifications.*",
        "TagSpecifications.Tags.*",
        "VirtualizationType",
    ]
)];

pub(super) fn register_image(
    call: &mut Call<'_>,
    input: api::RegisterImageRequest,
) -> Result<api::RegisterImageResult, Error> {
    let name = check_name(input.name)?;
    check_name_is_free(call, &name)?;
    let description = input.description.unwrap_or_default();
    check_description(&description)?;
    let tags = tag::for_caller(call, input.tag_specifications.as_deref(), "image", &["image"])?;
    // Terraform names it always, empty.
    if input.image_location.is_some_and(|location| !location.is_empty()) {
        return Err(Error::unsupported(
            "ImageLocation is not built in gureum: AMIs stand on snapshots.",
        ));
    }
    if input.virtualization_type.as_deref() == Some("paravirtual") {
        return Err(Error::unsupported(
            "VirtualizationType paravirtual is not built in gureum: machines are hvm.",
        ));
    }
    if let Some(other) = input.virtualization_type.as_deref().filter(|kind| *kind != "hvm") {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({other}) for parameter virtualizationType is invalid. Expected hvm or \
             paravirtual."
        )));
    }
    check_boot_mode(input.boot_mode.as_deref())?;
    if let Some(other) = input.sriov_net_support.as_deref().filter(|value| *value != "simple") {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({other}) for parameter sriovNetSupport is invalid. Expected simple."
        )));
    }
    let mut image = blank(call, name);
    image.root_device_name = input
        .root_device_name
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "/dev/sda1".to_owned());
    mapping::check_device_name(&image.root_device_name)?;
    let requested = input.block_device_mappings.unwrap_or_default();
    mapping::check_names(&requested)?;
    for wish in requested {
        image.mappings.push(mapping::new(call, wish)?);
    }
    // What is not there need not be taken away.
    image.mappings.retain(|mapping| mapping.disk != MappedDisk::Nothing);
    let root = image.root().and_then(|volume| volume.snapshot_id.clone()).ok_or_else(|| {
        invalid(format!(
            "The root device '{}' must be mapped to a snapshot.",
            image.root_device_name
        ))
    })?;
    if image.root().is_some_and(|volume| matches!(volume.kind.as_str(), "st1" | "sc1")) {
        return Err(Error::invalid_parameter_value(
            "The volume types st1 and sc1 cannot be used for a boot volume.",
        ));
    }
    let at = key::of(call.region, key::SNAPSHOT, call.account(), &root);
    if let Some(snapshot) = call.get::<Snapshot>(&at)? {
        image.key.clone_from(&snapshot.image_key);
    }
    image.description = description;
    // "Default: For Amazon EBS-backed AMIs, i386" (EC2 API Reference).
    image.architecture = input.architecture.unwrap_or_else(|| "i386".to_owned());
    image.boot_mode = input.boot_mode;
    image.ena_support = input.ena_support.unwrap_or(false);
    image.sriov_net_support = input.sriov_net_support;
    image.imds_v2 = input.imds_support.as_deref() == Some("v2.0");
    image.tags = tags;
    image.state = ImageState::Available;
    let image = stage(call, image)?;
    Ok(api::RegisterImageResult { image_id: Some(image.id.clone()) })
}

/// Machines boot by SeaBIOS or from a kernel: what prefers UEFI boots so on EC2 where there is none.
pub(super) fn check_boot_mode(mode: Option<&str>) -> Result<(), Error> {
    match mode {
        None | Some("legacy-bios" | "uefi-preferred") => Ok(()),
        Some("uefi") => Err(Error::unsupported(
            "BootMode uefi is not built in gureum yet: machines have legacy-bios.",
        )),
        Some(other) => Err(Error::invalid_parameter_value(format!(
            "Value ({other}) for parameter bootMode is invalid."
        ))),
    }
}
