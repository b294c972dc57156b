//! Block device mappings of a launch.

use crate::record::Image;
use crate::volume::{self, Wish};
use model::ec2 as api;
use service::Error;

/// Most volumes of an instance (EC2 User Guide, "Instance volume limits", less the interface).
const MAX_VOLUMES: usize = 27;

/// A volume of a launch.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) shape: volume::Shape,
    pub(super) snapshot_id: Option<String>,
    pub(super) source: Option<String>,
    pub(super) delete_on_termination: bool,
}

/// The volumes of a launch: the image's root with what the request says of it, then the request's
/// own.
pub(super) fn devices(
    image: &Image,
    mappings: Vec<api::BlockDeviceMapping>,
) -> Result<Vec<Device>, Error> {
    let invalid = |message: String| Error::client("InvalidBlockDeviceMapping", message);
    let of_image = image.root().ok_or_else(|| Error::internal("an image without a root"))?;
    let root_snapshot = of_image.snapshot_id.as_deref().unwrap_or_default();
    let mut root = None;
    let mut devices: Vec<Device> = Vec::new();
    for mapping in mappings {
        let name = mapping.device_name.unwrap_or_default();
        check_device_name(&name)?;
        if mapping.no_device.is_some() {
            if name == image.root_device_name {
                return Err(invalid(format!("The root device '{name}' cannot be suppressed.")));
            }
            continue;
        }
        let is_root = name == image.root_device_name;
        if is_root && root.is_some() || devices.iter().any(|device| device.name == name) {
            return Err(invalid(format!(
                "The device '{name}' is used in more than one block-device mapping"
            )));
        }
        let ebs = mapping.ebs.unwrap_or_default();
        let snapshot_id = ebs.snapshot_id.filter(|id| !id.is_empty());
        if let Some(id) = snapshot_id.as_ref().filter(|id| **id != root_snapshot) {
            return Err(Error::client(
                "InvalidSnapshot.NotFound",
                format!("The snapshot '{id}' does not exist."),
            ));
        }
        let snapshot_id = if is_root { Some(root_snapshot.to_owned()) } else { snapshot_id };
        let wish = Wish {
            size: ebs.volume_size,
            kind: ebs.volume_type,
            iops: ebs.iops,
            throughput: ebs.throughput,
        };
        if is_root && matches!(wish.kind.as_deref(), Some("st1" | "sc1")) {
            return Err(Error::invalid_parameter_value(format!(
                "The volume type '{}' cannot be a boot volume.",
                wish.kind.unwrap_or_default()
            )));
        }
        // A volume type that is not named is the image's for its root, else gp2 (EC2 API
        // Reference, "EbsBlockDevice").
        let default_kind = if is_root { of_image.kind.as_str() } else { "gp2" };
        let source = snapshot_id.as_deref().map(|id| (id, of_image.size_gib));
        let device = Device {
            shape: volume::shape(&wish, source, default_kind)?,
            source: snapshot_id.as_ref().map(|_| image.key.clone()),
            snapshot_id,
            delete_on_termination: ebs.delete_on_termination.unwrap_or(is_root),
            name,
        };
        if is_root { root = Some(device) } else { devices.push(device) }
    }
    let root = match root {
        Some(root) => root,
        None => Device {
            name: image.root_device_name.clone(),
            shape: volume::shape(
                &Wish::default(),
                Some((root_snapshot, of_image.size_gib)),
                &of_image.kind,
            )?,
            snapshot_id: Some(root_snapshot.to_owned()),
            source: Some(image.key.clone()),
            delete_on_termination: true,
        },
    };
    devices.insert(0, root);
    if devices.len() > MAX_VOLUMES {
        return Err(Error::client(
            "AttachmentLimitExceeded",
            format!("An instance can have at most {MAX_VOLUMES} volumes."),
        ));
    }
    Ok(devices)
}

/// Device names become links in the guest: `/dev/sdf`, `/dev/xvdba`, `sdf`.
fn check_device_name(name: &str) -> Result<(), Error> {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let plain = short.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if plain
        && (short.starts_with("sd") || short.starts_with("xvd"))
        && (3..=8).contains(&short.len())
    {
        return Ok(());
    }
    Err(Error::client("InvalidBlockDeviceMapping", format!("Invalid device name {name}")))
}
