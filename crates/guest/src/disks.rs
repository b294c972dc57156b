//! Names of disks: `/dev/sdf` and `/dev/xvdf` are links to the disk that was attached under that
//! name, whatever the kernel calls it.
//!
//! A disk says who it is by its serial, and IMDS says how it was called when it was attached: of a
//! volume `meta-data/gureum/volumes/<serial>`, of a disk of the instance store
//! `meta-data/block-device-mapping/<serial>`. The links are compared with the disks as a whole, after
//! the boot and whenever the kernel says that a disk came or went, so that nothing is remembered
//! that could be wrong.

use crate::imds::{self, Client};
use crate::init::say;
use crate::sys;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

const BY_ID: &str = "/dev/disk/by-id";

/// How long IMDS may take when a disk has come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often and after what time a disk is asked for again whose name IMDS does not know.
const TRIES: u32 = 6;
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// A disk of virtio-blk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Disk {
    /// Of the kernel: `vdb`.
    kernel_name: String,
    serial: String,
    /// Number that no other disk of this boot has; a disk that comes again has another.
    sequence: String,
    /// Numbers of its partitions.
    partitions: Vec<String>,
}

/// Names that IMDS told, by sequence.
type Names = HashMap<String, String>;

/// Links the disks that are there now.
pub(crate) fn link_all(client: &Client) -> Result<(), imds::Error> {
    let disks = disks();
    let mut names = Names::new();
    for disk in &disks {
        names.extend(ask(client, disk)?.map(|name| (disk.sequence.clone(), name)));
    }
    Ok(settle(&disks, &names)?)
}

/// Links disks that come and removes the links of those that go, as long as the machine runs.
pub(crate) fn watch() -> i32 {
    let events = match sys::device_events() {
        Ok(events) => events,
        Err(error) => {
            say(&format!("names of new disks are not linked: {error}"));
            return 1;
        }
    };
    let mut names = Names::new();
    let mut message = [0; 4096];
    let mut tries = 0;
    loop {
        tries += 1;
        let disks = disks();
        names.retain(|sequence, _| disks.iter().any(|disk| disk.sequence == *sequence));
        let new: Vec<&Disk> =
            disks.iter().filter(|disk| !names.contains_key(&disk.sequence)).collect();
        // A session lasts some hours, and disks come seldom.
        let client = if new.is_empty() { None } else { Client::connect(PATIENCE).ok() };
        for disk in new {
            if let Some(Ok(Some(name))) = client.as_ref().map(|client| ask(client, disk)) {
                names.insert(disk.sequence.clone(), name);
            }
        }
        if let Err(error) = settle(&disks, &names) {
            say(&format!("names of disks cannot be linked: {error}"));
        }
        let all_known = disks.iter().all(|disk| names.contains_key(&disk.sequence));
        let timeout = (!all_known && tries < TRIES).then_some(TRY_AGAIN);
        loop {
            match sys::wait_readable(&[events.as_raw_fd()], timeout) {
                Ok(ready) if !ready[0] && timeout.is_some() => break,
                _ => {}
            }
            match sys::receive(&events, &mut message) {
                Ok(size) if is_of_disk(&message[..size]) => {
                    tries = 0;
                    break;
                }
                Ok(_) => {}
                // Some were lost: look.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    say(&format!("names of new disks are not linked any more: {error}"));
                    return 1;
                }
            }
        }
    }
}

/// Whether an event of the kernel says that a disk or a partition came or went.
fn is_of_disk(event: &[u8]) -> bool {
    let mut fields = event.split(|byte| *byte == 0);
    let action = fields.next().unwrap_or_default();
    (action.starts_with(b"add@") || action.starts_with(b"remove@"))
        && fields.any(|field| field == b"SUBSYSTEM=block")
}

/// How the disk was called when it was attached.
fn ask(client: &Client, disk: &Disk) -> Result<Option<String>, imds::Error> {
    let serial = &disk.serial;
    let path = match serial.starts_with("vol") {
        true => format!("meta-data/gureum/volumes/{serial}"),
        false => format!("meta-data/block-device-mapping/{serial}"),
    };
    client.text(&path)
}

/// The disks that are there.
fn disks() -> Vec<Disk> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(kernel_name) = entry.file_name().into_string() else { continue };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let serial = read("serial").trim().to_owned();
        let is_plain = serial.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !kernel_name.starts_with("vd") || serial.is_empty() || !is_plain {
            continue;
        }
        let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        let partitions = files.filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let number = name.strip_prefix(&kernel_name)?;
            number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.to_owned())
        });
        let partitions = partitions.collect();
        let sequence = read("diskseq").trim().to_owned();
        disks.push(Disk { kernel_name, serial, sequence, partitions });
    }
    disks
}

/// Makes the links in /dev what they should be.
fn settle(disks: &[Disk], names: &Names) -> io::Result<()> {
    let mut wanted = BTreeMap::new();
    let mut by_id = BTreeMap::new();
    for disk in disks {
        let id = format!("virtio-{}", disk.serial);
        by_id.insert(id, format!("../../{}", disk.kernel_name));
        if let Some(name) = names.get(&disk.sequence) {
            wanted.extend(links(disk, name));
        }
    }
    make_so(Path::new("/dev"), "vd", &wanted)?;
    fs::create_dir_all(BY_ID)?;
    make_so(Path::new(BY_ID), "../../vd", &by_id)
}

/// Makes `wanted` the links of `directory` whose targets begin with `ours`.
fn make_so(directory: &Path, ours: &str, wanted: &BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if target.starts_with(ours) && wanted.get(&*name).is_none_or(|wanted| *wanted != target) {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, target) in wanted {
        match symlink(target, directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The links for a disk that was attached as `name`, each with its target: both ways to say the
/// name, with the partitions.
fn links(disk: &Disk, name: &str) -> Vec<(String, String)> {
    let name = name.trim_start_matches("/dev/");
    let Some(letters) = name.strip_prefix("xvd").or_else(|| name.strip_prefix("sd")) else {
        return Vec::new();
    };
    // A root called sda1 is a whole disk here.
    let letters = letters.trim_end_matches(|character: char| character.is_ascii_digit());
    if letters.is_empty() || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Vec::new();
    }
    let numbers = std::iter::once("").chain(disk.partitions.iter().map(String::as_str));
    let link = |number: &str, kind: &str| {
        (format!("{kind}{letters}{number}"), format!("{}{number}", disk.kernel_name))
    };
    numbers.flat_map(|number| [link(number, "sd"), link(number, "xvd")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(partitions: &[&str]) -> Disk {
        Disk {
            kernel_name: "vdb".to_owned(),
            serial: "vol0123456789abcdef0".to_owned(),
            sequence: "7".to_owned(),
            partitions: partitions.iter().map(|&number| number.to_owned()).collect(),
        }
    }

    fn names(partitions: &[&str], name: &str) -> Vec<String> {
        let links = links(&disk(partitions), name).into_iter();
        links.map(|(link, target)| format!("{link}>{target}")).collect()
    }

    #[test]
    fn names_are_linked_both_ways() {
        assert_eq!(names(&[], "/dev/xvdf"), ["sdf>vdb", "xvdf>vdb"]);
        assert_eq!(names(&[], "sdba"), ["sdba>vdb", "xvdba>vdb"]);
        assert_eq!(names(&[], "/dev/sda1"), ["sda>vdb", "xvda>vdb"]);
        let all = ["sdf>vdb", "xvdf>vdb", "sdf1>vdb1", "xvdf1>vdb1"];
        assert_eq!(names(&["1"], "/dev/sdf"), all);
        for bad in ["nvme1n1", "sd/../x", "", "/dev/sd", "sd1"] {
            assert!(names(&[], bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn links_are_made_what_they_should_be() {
        let directory = std::env::temp_dir().join(format!("gureum-links-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        symlink("vdb", directory.join("sdf")).unwrap();
        symlink("vdc", directory.join("sdg")).unwrap();
        symlink("/proc/self/fd", directory.join("fd")).unwrap();
        let wanted = BTreeMap::from([("sdg".to_owned(), "vdb".to_owned())]);
        make_so(&directory, "vd", &wanted).unwrap();
        assert!(fs::read_link(directory.join("sdf")).is_err());
        assert_eq!(fs::read_link(directory.join("sdg")).unwrap(), Path::new("vdb"));
        assert!(fs::read_link(directory.join("fd")).is_ok(), "it is not ours");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn events_of_disks_are_told_from_others() {
        let event = |action: &str, subsystem: &str| {
            format!("{action}@/devices/x\0ACTION={action}\0SUBSYSTEM={subsystem}\0SEQNUM=5\0")
        };
        assert!(is_of_disk(event("add", "block").as_bytes()));
        assert!(is_of_disk(event("remove", "block").as_bytes()));
        assert!(!is_of_disk(event("change", "block").as_bytes()));
        assert!(!is_of_disk(event("add", "net").as_bytes()));
        assert!(!is_of_disk(b""));
    }
}
