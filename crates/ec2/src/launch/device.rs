//! Block device mappings of a launch: the image's, with what the request says of them.
//!
//! Rules are those of the EC2 User Guide, "Block device mappings": a mapping of the request for a
//! device of the image changes what it names and leaves the rest, NoDevice takes it away, and others
//! are added. Disks of the instance store that a type does not have are ignored when the image maps
//! them and refused when the request does; those with NVMe are there without a mapping, and a mapping
//! of one has no effect.

use crate::instance_type::Facts;
use crate::record::{Image, MappedDisk, MappedLocalDisk, MappedVolume, Snapshot, VolumeShape};
use crate::volume::{self, Wish};
use crate::{encryption, snapshot};
use base::key::WrappedKey;
use model::ec2 as api;
use service::{Call, Error};
use std::sync::Arc;

/// Most volumes of an instance of a type that does not say it (EC2 User Guide, "Instance volume
/// limits", less the interface).
const MAX_VOLUMES: usize = 27;

/// A volume of a launch.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) shape: VolumeShape,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) delete_on_termination: bool,
    pub(super) initialization_rate: Option<u32>,
    encrypted: Option<bool>,
    kms_key_id: Option<String>,
}

impl Device {
    /// The key of one such volume.
    pub(super) fn key(&self, call: &mut Call<'_>) -> Result<Option<WrappedKey>, Error> {
        let source = self.snapshot.as_ref().and_then(|snapshot| snapshot.key.as_ref());
        encryption::volume_key(call, self.encrypted, self.kms_key_id.as_deref(), source)
    }
}

/// The disks of a launch.
pub(super) struct Devices {
    /// Root first.
    pub(super) volumes: Vec<Device>,
    /// Mapped disks of the instance store.
    pub(super) ephemeral: Vec<MappedLocalDisk>,
}

/// What a launch has at one device name.
struct Wanted {
    name: String,
    of_image: Option<MappedVolume>,
    disk: Disk,
}

enum Disk {
    /// The image's, or a new one, as the request says.
    Volume(Box<api::EbsBlockDevice>),
    /// The request asks for it.
    Local(String),
    /// The image has it.
    LocalOfImage(String),
}

fn invalid(message: String) -> Error {
    Error::client("InvalidBlockDeviceMapping", message)
}

/// The disks of an instance of this type that is launched from the image.
pub(super) fn devices(
    call: &mut Call<'_>,
    image: &Image,
    facts: &'static Facts,
    mappings: Vec<api::BlockDeviceMapping>,
) -> Result<Devices, Error> {
    let wanted = wanted(image, mappings)?;
    let mut devices = Devices { volumes: Vec::new(), ephemeral: Vec::new() };
    for Wanted { name, of_image, disk } in wanted {
        match disk {
            Disk::Volume(ebs) => {
                let is_root = name == image.root_device_name;
                let device = device(call, image, name, of_image.as_ref(), *ebs)?;
                let at = if is_root { 0 } else { devices.volumes.len() };
                devices.volumes.insert(at, device);
            }
            Disk::Local(disk) if facts.local_disks == 0 => {
                return Err(invalid(format!(
                    "The device '{name}' is mapped to {disk}, but instances of the type {} have no \
                     instance store volumes.",
                    facts.name
                )));
            }
            Disk::Local(disk) | Disk::LocalOfImage(disk) => {
                let is_there = local_number(&disk).is_some_and(|number| number < facts.local_disks);
                if devices.ephemeral.iter().any(|known| known.name == disk) {
                    return Err(invalid(format!(
                        "The virtual device '{disk}' is used in more than one block-device mapping"
                    )));
                }
                if is_there && !facts.local_nvme {
                    devices.ephemeral.push(MappedLocalDisk { device_name: name, name: disk });
                }
            }
        }
    }
    if devices.volumes.first().is_none_or(|first| first.name != image.root_device_name) {
        return Err(Error::internal(format!("the image {} has no root", image.id)));
    }
    let most = most_volumes(Some(facts));
    if devices.volumes.len() > most {
        return Err(too_many_volumes(facts.name, most));
    }
    Ok(devices)
}

/// Joins the mappings of the image and of the request.
fn wanted(image: &Image, mappings: Vec<api::BlockDeviceMapping>) -> Result<Vec<Wanted>, Error> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for mapping in &image.mappings {
        let (of_image, disk) = match &mapping.disk {
            MappedDisk::Volume(volume) => (Some(volume.clone()), Disk::Volume(Box::default())),
            MappedDisk::Ephemeral(disk) => (None, Disk::LocalOfImage(disk.clone())),
            MappedDisk::Nothing => continue,
        };
        wanted.push(Wanted { name: mapping.device_name.clone(), of_image, disk });
    }
    let mut seen: Vec<String> = Vec::new();
    for mapping in mappings {
        let name = mapping.device_name.unwrap_or_default();
        if !is_device_name(&name) {
            return Err(invalid(format!("Invalid device name {name}")));
        }
        let place = volume::place_of(&name);
        let other = wanted.iter().find(|w| w.name != name && volume::place_of(&w.name) == place);
        if seen.contains(&name) || other.is_some() {
            return Err(invalid(format!(
                "The device '{name}' is used in more than one block-device mapping"
            )));
        }
        seen.push(name.clone());
        let is_root = name == image.root_device_name;
        let at = wanted.iter().position(|known| known.name == name);
        if mapping.no_device.is_some() {
            if is_root {
                return Err(invalid(format!("The root device '{name}' cannot be suppressed.")));
            }
            if let Some(at) = at {
                wanted.remove(at);
            }
            continue;
        }
        let disk = match mapping.virtual_name.filter(|disk| !disk.is_empty()) {
            Some(disk) if mapping.ebs.is_some() => {
                return Err(invalid(format!(
                    "The device '{name}' is mapped to {disk} and to an EBS volume."
                )));
            }
            Some(_) if is_root => {
                return Err(invalid(format!("The root device '{name}' must be an EBS volume.")));
            }
            Some(disk) if local_number(&disk).is_none() => {
                return Err(invalid(format!("Invalid virtual device name {disk}")));
            }
            Some(disk) => Disk::Local(disk),
            None => Disk::Volume(Box::new(mapping.ebs.unwrap_or_default())),
        };
        match at {
            Some(at) => {
                if matches!(disk, Disk::Local(_)) {
                    wanted[at].of_image = None;
                }
                wanted[at].disk = disk;
            }
            None => wanted.push(Wanted { name, of_image: None, disk }),
        }
    }
    Ok(wanted)
}

/// The N of `ephemeralN`.
fn local_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("ephemeral")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 2;
    digits.parse().ok().filter(|_| plain)
}

/// A volume of the image with what the request says of it, or one of the request's own.
fn device(
    call: &mut Call<'_>,
    image: &Image,
    name: String,
    of_image: Option<&MappedVolume>,
    ebs: api::EbsBlockDevice,
) -> Result<Device, Error> {
    let is_root = name == image.root_device_name;
    let image_snapshot = of_image.and_then(|volume| volume.snapshot_id.as_deref());
    let given = ebs.snapshot_id.as_deref().filter(|id| !id.is_empty());
    if is_root && given.is_some_and(|given| Some(given) != image_snapshot) {
        return Err(invalid("snapshotId cannot be modified on root device".to_owned()));
    }
    let snapshot = match given.or(image_snapshot) {
        Some(id) if image.snapshots().any(|own| own == id) => Some(of_owner(call, image, id)?),
        Some(id) => Some(snapshot::source(call, id)?),
        None => None,
    };
    let number = |number: u32| i32::try_from(number).ok();
    // A volume type that is not named is the image's, else gp2 (EC2 API Reference,
    // "EbsBlockDevice").
    let default_kind = of_image.map_or("gp2", |volume| volume.kind.as_str());
    let of_kind =
        of_image.filter(|volume| ebs.volume_type.as_ref().is_none_or(|kind| *kind == volume.kind));
    let provisioned =
        matches!(ebs.volume_type.as_deref().unwrap_or(default_kind), "gp3" | "io1" | "io2");
    let of_image_size = of_image.filter(|_| given.is_none() || given == image_snapshot);
    let wish = Wish {
        size: ebs.volume_size.or(of_image_size.and_then(|volume| number(volume.size_gib))),
        iops: ebs
            .iops
            .or(of_kind.filter(|_| provisioned).and_then(|volume| volume.iops.and_then(number))),
        throughput: ebs
            .throughput
            .or(of_kind.and_then(|volume| volume.throughput.and_then(number))),
        kind: ebs.volume_type,
        multi_attach: None,
    };
    let kind = wish.kind.as_deref().unwrap_or(default_kind);
    if is_root && matches!(kind, "st1" | "sc1") {
        return Err(not_bootable(kind));
    }
    let smallest = snapshot.as_ref().map(|snapshot| (snapshot.id.as_str(), snapshot.size_gib));
    let new_and_encrypted =
        of_image.is_some_and(|volume| volume.encrypted && volume.snapshot_id.is_none());
    Ok(Device {
        shape: volume::shape(&wish, smallest, default_kind)?,
        initialization_rate: volume::initialization_rate(
            ebs.volume_initialization_rate,
            snapshot.is_some(),
        )?,
        snapshot,
        delete_on_termination: ebs
            .delete_on_termination
            .unwrap_or_else(|| of_image.map_or(is_root, |volume| volume.delete_on_termination)),
        encrypted: if new_and_encrypted { Some(true) } else { ebs.encrypted },
        kms_key_id: ebs.kms_key_id,
        name,
    })
}

/// A snapshot of the image: who may launch the image may use it. It is there as long as the image,
/// on which the commit depends.
fn of_owner(call: &mut Call<'_>, image: &Image, id: &str) -> Result<Arc<Snapshot>, Error> {
    let at = snapshot::key_of(call.region, &image.owner_id, id);
    match call.peek::<Snapshot>(&at)?.filter(|snapshot| snapshot.recycled.is_none()) {
        Some(found) => snapshot::usable(&found).map(|()| found),
        None => snapshot::source(call, id),
    }
}

/// Refuses a volume on platters as a root.
pub(crate) fn not_bootable(kind: &str) -> Error {
    Error::invalid_parameter_value(format!("The volume type '{kind}' cannot be a boot volume."))
}

/// Most volumes of an instance of a type.
pub(crate) fn most_volumes(facts: Option<&'static Facts>) -> usize {
    let most = facts.map_or(0, |facts| facts.max_volumes as usize);
    if most == 0 { MAX_VOLUMES } else { most }
}

/// Refuses one volume more.
pub(crate) fn too_many_volumes(instance_type: &str, most: usize) -> Error {
    Error::client(
        "AttachmentLimitExceeded",
        format!("Instances of the type {instance_type} can have at most {most} volumes."),
    )
}

/// Whether a text is a device name of EC2: `/dev/sdf`, `/dev/sda1`, `/dev/xvdba`, `sdf`. It becomes a
/// link in the guest (EC2 User Guide, "Device names").
pub(crate) fn is_device_name(name: &str) -> bool {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let Some(rest) = short.strip_prefix("sd").or_else(|| short.strip_prefix("xvd")) else {
        return false;
    };
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let partition = &rest[letters..];
    (1..=2).contains(&letters)
        && (partition.is_empty()
            || (!partition.starts_with('0')
                && partition.parse::<u8>().is_ok_and(|number| number <= 15)))
}

#[cfg(test)]
mod tests;
