//! Block device mappings of requests that make AMIs.

use crate::record::{MappedDisk, MappedVolume, Mapping};
use crate::snapshot;
use crate::volume::{self, Wish};
use model::ec2 as api;
use service::{Call, Error};

/// Most disks of an AMI: as many as an instance can have.
const MAX_DISKS: usize = 40;
/// A volume type that is not named (EC2 API Reference, "EbsBlockDevice").
const DEFAULT_KIND: &str = "gp2";

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::client("InvalidBlockDeviceMapping", message)
}

/// The device names of a request, each once.
pub(super) fn check_names(mappings: &[api::BlockDeviceMapping]) -> Result<(), Error> {
    if mappings.len() > MAX_DISKS {
        return Err(invalid(format!("At most {MAX_DISKS} devices can be mapped.")));
    }
    for (number, mapping) in mappings.iter().enumerate() {
        let name = mapping.device_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Err(Error::missing_parameter("deviceName"));
        }
        check_device_name(name)?;
        if mappings[..number].iter().any(|other| other.device_name.as_deref() == Some(name)) {
            return Err(invalid(format!(
                "The device '{name}' is used in more than one block-device mapping"
            )));
        }
    }
    Ok(())
}

/// Device names become links in the guest: `/dev/sdf`, `/dev/sda1`, `xvdba`.
pub(super) fn check_device_name(name: &str) -> Result<(), Error> {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let plain = short.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let known = short.starts_with("sd") || short.starts_with("xvd") || short.starts_with("nvme");
    if plain && known && (3..=10).contains(&short.len()) {
        return Ok(());
    }
    Err(invalid(format!("Invalid device name {name}")))
}

/// Whether a text names a disk of the instance store: `ephemeral0` to `ephemeral23`.
fn check_virtual_name(name: &str) -> Result<(), Error> {
    let number = name.strip_prefix("ephemeral").and_then(|number| number.parse::<u8>().ok());
    if number.is_some_and(|number| number < 24) {
        return Ok(());
    }
    Err(invalid(format!("Invalid virtual name '{name}'")))
}

/// What a request maps to a device by itself: a volume from a snapshot or an empty one, a disk of
/// the instance store, or nothing.
///
/// # Errors
/// Those of the snapshot and of the volume type; `InvalidBlockDeviceMapping`.
pub(super) fn new(call: &mut Call<'_>, mapping: api::BlockDeviceMapping) -> Result<Mapping, Error> {
    let device_name = mapping.device_name.unwrap_or_default();
    let disk = match (mapping.virtual_name.filter(|n| !n.is_empty()), mapping.ebs) {
        _ if mapping.no_device.is_some() => MappedDisk::Nothing,
        (Some(_), Some(_)) => {
            return Err(invalid(format!(
                "The device '{device_name}' cannot be a volume and a disk of the instance store"
            )));
        }
        (Some(name), None) => {
            check_virtual_name(&name)?;
            MappedDisk::Ephemeral(name)
        }
        (None, Some(ebs)) => MappedDisk::Volume(volume(call, &device_name, ebs)?),
        (None, None) => {
            return Err(invalid(format!(
                "Either snapshot ID or volume size must be provided for: {device_name}"
            )));
        }
    };
    Ok(Mapping { device_name, disk })
}

fn volume(
    call: &mut Call<'_>,
    device_name: &str,
    ebs: api::EbsBlockDevice,
) -> Result<MappedVolume, Error> {
    let snapshot = match ebs.snapshot_id.filter(|id| !id.is_empty()) {
        Some(id) => {
            let (_, snapshot) = snapshot::own(call, &id)?;
            snapshot::usable(&snapshot)?;
            if ebs.encrypted.is_some() {
                return Err(invalid(format!(
                    "the encrypted flag cannot be specified since device {device_name} has a \
                     snapshot specified."
                )));
            }
            Some(snapshot)
        }
        None => None,
    };
    let wish = Wish {
        size: ebs.volume_size,
        kind: ebs.volume_type,
        iops: ebs.iops,
        throughput: ebs.throughput,
        ..Default::default()
    };
    if snapshot.is_none() && wish.size.is_none() {
        return Err(invalid(format!(
            "Either snapshot ID or volume size must be provided for: {device_name}"
        )));
    }
    let source = snapshot.as_ref().map(|found| (found.id.as_str(), found.size_gib));
    let shape = volume::shape(&wish, source, DEFAULT_KIND)?;
    Ok(MappedVolume {
        size_gib: shape.size_gib,
        kind: shape.kind,
        iops: shape.iops,
        throughput: shape.throughput,
        encrypted: match &snapshot {
            Some(snapshot) => snapshot.key.is_some(),
            None => ebs.encrypted.unwrap_or(false),
        },
        snapshot_id: snapshot.map(|snapshot| snapshot.id.clone()),
        // Volumes of an AMI go with their instance unless it says otherwise.
        delete_on_termination: ebs.delete_on_termination.unwrap_or(true),
    })
}
