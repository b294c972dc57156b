//! Images and volumes as files. Everything here blocks.
//!
//! A volume is a qcow2 file over the disk of the image that it was made from. An image may be
//! rebuilt or removed while volumes on it live, so each keeps what it needs by a link of its own:
//! `volumes/base-<inode>.<format>` is the image's disk, shared by the volumes on it and removed
//! with the last of them; `machines/<id>/kernel` and `initrd` are what the machine boots.

use super::command::volume_path;
use super::directory::give;
use crate::image;
use base::image::{Boot, Manifest};
use base::machine::Volume;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::RwLock;

/// What is wrong with an image or a volume, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error("image {key} is damaged ({reason}): build or import it again")]
    BadImage { key: String, reason: String },
    #[error("{0} is missing: apt-get install qemu-utils")]
    NoTool(String),
    #[error("volume {id} cannot be used: {reason}")]
    Volume { id: String, reason: String },
    #[error(
        "volume {id} could not be made: the disk that holds {directory} is full; free space there \
         and try again"
    )]
    Full { id: String, directory: String },
}

/// Held for reading while a volume is made and for writing while bases are removed.
static BASES: RwLock<()> = RwLock::new(());

/// An image whose disk was found good.
#[derive(Debug)]
struct Image {
    manifest: Manifest,
    disk: PathBuf,
    /// Bytes that the guest sees.
    virtual_size: u64,
}

impl Image {
    fn open(images: &Path, key: &str) -> Result<Image, Error> {
        let manifest = load(images, key)?;
        let disk = images.join(key).join(&manifest.disk);
        let virtual_size = virtual_size(&disk, &manifest.disk_format).map_err(|reason| {
            Error::BadImage { key: key.to_owned(), reason: format!("{}: {reason}", manifest.disk) }
        })?;
        Ok(Image { manifest, disk, virtual_size })
    }

    /// Links the disk below `volumes` and returns the link's name.
    fn link_base(&self, volumes: &Path) -> io::Result<String> {
        let inode = fs::metadata(&self.disk)?.ino();
        let name = format!("base-{inode:x}.{}", self.manifest.disk_format);
        // A link of that name holds the inode, so the number cannot have gone to another file.
        if !volumes.join(&name).exists() {
            link(&self.disk, &volumes.join(&name))?;
        }
        Ok(name)
    }
}

/// Reads a manifest; what is wrong with it becomes advice.
fn load(images: &Path, key: &str) -> Result<Manifest, Error> {
    image::load(images, key).map_err(|error| match error {
        image::Error::BrokenManifest { reason, .. } => {
            Error::BadImage { key: key.to_owned(), reason }
        }
        error => Error::Image(error),
    })
}

/// Makes `to` another name of the file `from`. On another file system it is a symbolic link, which
/// does not keep the file.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => symlink(from.canonicalize()?, to),
        Ok(()) => Ok(()),
    }
}

/// Links what the image `key` boots by into a machine's directory; the answer names the links.
pub(crate) fn pin_boot(images: &Path, key: &str, machine: &Path) -> Result<Boot, Error> {
    let manifest = load(images, key)?;
    let Boot::Kernel { kernel, initrd, command_line } = manifest.boot else {
        return Ok(Boot::Firmware);
    };
    for (from, to) in [(kernel, "kernel"), (initrd, "initrd")] {
        let damaged = |reason: String| Error::BadImage {
            key: key.to_owned(),
            reason: format!("{from}: {reason}"),
        };
        let file = images.join(key).join(&from);
        // QEMU says of an empty kernel that it is not there.
        match fs::metadata(&file) {
            Ok(metadata) if metadata.len() == 0 => return Err(damaged("it is empty".to_owned())),
            Ok(_) => link(&file, &machine.join(to)).map_err(|error| damaged(error.to_string()))?,
            Err(error) => return Err(damaged(error.to_string())),
        }
    }
    Ok(Boot::Kernel { kernel: "kernel".to_owned(), initrd: "initrd".to_owned(), command_line })
}

/// Opens a file that an unprivileged QEMU will open again through its descriptor, for which the
/// file itself must be readable by all; the directories above it need not be.
pub(crate) fn open_public(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o004 == 0 {
        file.set_permissions(fs::Permissions::from_mode((mode | 0o444) & 0o7777))?;
    }
    Ok(file)
}

/// The size that a guest sees of a disk image, whose header must be what `format` says.
fn virtual_size(path: &Path, format: &str) -> Result<u64, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    match format {
        "raw" if length == 0 => Err("it is empty".to_owned()),
        "raw" => Ok(length),
        "qcow2" => {
            let header = Header::read(&mut file)?;
            if header.backing.is_some() {
                return Err("it needs another file under it".to_owned());
            }
            Ok(header.size)
        }
        other => Err(format!("{other} is not a format that gureum runs")),
    }
}

/// What we read of a qcow2 header (QEMU, docs/interop/qcow2.txt).
#[derive(Debug, PartialEq, Eq)]
struct Header {
    /// Bytes that the guest sees.
    size: u64,
    /// Offset and length of the name of the file under it.
    backing: Option<(u64, u64)>,
}

impl Header {
    fn read(file: &mut impl Read) -> Result<Header, String> {
        let mut bytes = [0; 32];
        file.read_exact(&mut bytes).map_err(|_| "it is shorter than a qcow2 header")?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8; 32]) -> Result<Header, String> {
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        if !bytes.starts_with(b"QFI\xfb") {
            return Err("it is not a qcow2 file".to_owned());
        }
        let version = number(4..8);
        if !(2..=3).contains(&version) {
            return Err(format!("qcow2 version {version} is unknown"));
        }
        let (offset, length) = (number(8..16), number(16..20));
        // The format limits the name to 1023 bytes.
        if offset > 0 && !(1..=1023).contains(&length) {
            return Err("the name of the file under it is damaged".to_owned());
        }
        Ok(Header { size: number(24..32), backing: (offset > 0).then_some((offset, length)) })
    }
}

/// The name of the base under a volume's file.
fn base_of(volume: &Path) -> Result<Option<String>, String> {
    let mut file = File::open(volume).map_err(|error| error.to_string())?;
    let Some((offset, length)) = Header::read(&mut file)?.backing else { return Ok(None) };
    let mut name = String::new();
    file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
    file.take(length).read_to_string(&mut name).map_err(|error| error.to_string())?;
    // Ours are names in the same directory; another would be some other file of this machine.
    if !name.starts_with("base-") || name.contains('/') {
        return Err(format!("it lies on {name:?}, which is not ours"));
    }
    Ok(Some(name))
}

/// A volume that exists.
#[derive(Debug)]
pub(crate) struct Made {
    /// The file under it, and its format.
    pub(crate) base: Option<(PathBuf, String)>,
    /// Whether it was made now.
    pub(crate) new: bool,
}

/// Makes the volume unless it exists, and gives it to `user`.
pub(crate) fn make(
    data_dir: &Path,
    images: &Path,
    qemu_img: &Path,
    volume: &Volume,
    user: u32,
) -> Result<Made, Error> {
    let path = data_dir.join(volume_path(&volume.id));
    let failed =
        |error: io::Error| Error::Volume { id: volume.id.clone(), reason: error.to_string() };
    let new = !path.exists();
    if new {
        let _shared = BASES.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let image = volume.source.as_deref().map(|key| Image::open(images, key)).transpose()?;
        let half_made = path.with_extension("new");
        let made = create(qemu_img, &half_made, volume, image.as_ref())
            .and_then(|()| File::open(&half_made).and_then(|file| file.sync_all()).map_err(failed))
            .and_then(|()| fs::rename(&half_made, &path).map_err(failed));
        if let Err(error) = made {
            // May not exist; the error that counts is the first.
            let _ = fs::remove_file(&half_made);
            return Err(match error {
                Error::Volume { id, reason } if reason.contains("No space left") => {
                    Error::Full { id, directory: data_dir.display().to_string() }
                }
                error => error,
            });
        }
    }
    let base = base_of(&path)
        .map_err(|reason| Error::Volume { id: volume.id.clone(), reason })?
        .map(|name| {
            let format = name.rsplit('.').next().unwrap_or_default().to_owned();
            (path.with_file_name(name), format)
        });
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    give(&file, user).map_err(failed)?;
    Ok(Made { base, new })
}

fn create(
    qemu_img: &Path,
    path: &Path,
    volume: &Volume,
    image: Option<&Image>,
) -> Result<(), Error> {
    let failed = |reason: String| Error::Volume { id: volume.id.clone(), reason };
    let wanted = u64::from(volume.size_gib) << 30;
    let size = wanted.max(image.map_or(0, |image| image.virtual_size));
    let mut command = Command::new(qemu_img);
    command.args(["create", "-q", "-f", "qcow2"]);
    if let Some(image) = image {
        let volumes = path.parent().unwrap_or(Path::new("."));
        let base = image.link_base(volumes).map_err(|error| failed(error.to_string()))?;
        command.args(["-F", &image.manifest.disk_format, "-b", &base]);
    }
    command.arg(path).arg(size.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoTool(qemu_img.display().to_string()),
        _ => failed(error.to_string()),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    match image {
        Some(image) if said.contains("Could not open backing") => {
            Err(Error::BadImage { key: image.manifest.key.clone(), reason: said })
        }
        _ => Err(failed(said)),
    }
}

/// Deletes volumes, whether they exist or not, and the bases that nothing lies on any more.
pub(crate) fn delete(data_dir: &Path, volume_ids: &[String]) -> io::Result<()> {
    for id in volume_ids {
        let path = data_dir.join(volume_path(id));
        // Half-made: by a daemon that was killed.
        for path in [path.with_extension("new"), path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    let _exclusive = BASES.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut bases = Vec::new();
    let mut used = Vec::new();
    for entry in fs::read_dir(data_dir.join("volumes"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("base-") {
            bases.push(path);
        } else {
            match base_of(&path) {
                Ok(base) => used.extend(base),
                // Whatever it is, it may lie on something: keep everything.
                Err(_) => return Ok(()),
            }
        }
    }
    for base in bases {
        if !used.iter().any(|name| base.ends_with(name)) {
            fs::remove_file(base)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Timestamp;
    use proptest::prelude::*;

    fn manifest(disk_format: &str) -> Manifest {
        Manifest {
            v: 1,
            key: "micro".to_owned(),
            name: "n".to_owned(),
            also_named: Vec::new(),
            description: "d".to_owned(),
            architecture: "x86_64".to_owned(),
            root_device_name: "/dev/xvda".to_owned(),
            size_gib: 1,
            disk: "disk".to_owned(),
            disk_format: disk_format.to_owned(),
            boot: Boot::Kernel {
                kernel: "k".to_owned(),
                initrd: "i".to_owned(),
                command_line: String::new(),
            },
            owner_id: None,
            owner_alias: None,
            login_user: None,
            imds_v2: true,
            created: Timestamp(0),
        }
    }

    fn volume() -> Volume {
        Volume {
            id: "vol-1".to_owned(),
            device_name: "/dev/xvda".to_owned(),
            size_gib: 2,
            source: Some("micro".to_owned()),
            delete_on_termination: true,
        }
    }

    /// An image directory and a data directory.
    fn directories(format: &str, disk: &[u8]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("images/micro");
        fs::create_dir_all(&image).unwrap();
        fs::create_dir_all(root.path().join("volumes")).unwrap();
        fs::write(image.join("disk"), disk).unwrap();
        fs::write(image.join("k"), "k").unwrap();
        fs::write(image.join("i"), "i").unwrap();
        let manifest = serde_json::to_vec(&manifest(format)).unwrap();
        fs::write(image.join("manifest.json"), manifest).unwrap();
        root
    }

    fn open(root: &Path) -> Result<Image, String> {
        Image::open(&root.join("images"), "micro").map_err(|error| error.to_string())
    }

    fn user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root.join("volumes")).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn damaged_images_are_told_apart() {
        let root = directories("raw", &[1; 4096]);
        assert_eq!(open(root.path()).unwrap().virtual_size, 4096);
        fs::write(root.path().join("images/micro/disk"), "").unwrap();
        assert!(open(root.path()).unwrap_err().contains("damaged (disk: it is empty)"));
        let not_qcow2 = directories("qcow2", &[1; 4096]);
        assert!(open(not_qcow2.path()).unwrap_err().contains("not a qcow2 file"));
        let short = directories("qcow2", b"QFI\xfb");
        assert!(open(short.path()).unwrap_err().contains("shorter"));
        assert!(Image::open(&root.path().join("images"), "../x").is_err());
    }

    #[test]
    fn missing_tools_and_rubbish_leave_nothing_behind() {
        let root = directories("raw", &[1; 4096]);
        let images = root.path().join("images");
        let none = Path::new("/nonexistent/qemu-img");
        let error = make(root.path(), &images, none, &volume(), user()).unwrap_err();
        assert!(error.to_string().contains("install qemu-utils"), "{error}");
        let refuses = Path::new("/bin/false");
        let error = make(root.path(), &images, refuses, &volume(), user()).unwrap_err();
        assert!(error.to_string().contains("vol-1"), "{error}");
        delete(root.path(), &["vol-1".to_owned()]).unwrap();
        assert!(names(root.path()).is_empty());
    }

    /// Stands in for qemu-img: writes a header that names its `-b`.
    fn fake_qemu_img(root: &Path) -> PathBuf {
        let path = root.join("qemu-img");
        let script = r#"#!/bin/sh
            # create -q -f qcow2 -F raw -b BASE FILE SIZE
            length=$(printf '%03o' ${#8})
            zero='\0\0\0\0'
            printf "QFI\373\0\0\0\3$zero\0\0\0\040\0\0\0\\$length$zero$zero\0\0\020\0%s" "$8" > "$9"
        "#;
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn volumes_keep_the_disk_that_they_were_made_from() {
        let root = directories("raw", &[1; 4096]);
        let here = root.path();
        let images = here.join("images");
        let qemu_img = fake_qemu_img(here);
        let make = |id: &str| {
            let volume = Volume { id: id.to_owned(), ..volume() };
            make(here, &images, &qemu_img, &volume, user()).unwrap()
        };
        let first = make("vol-1");
        assert!(first.new);
        let (base, format) = first.base.unwrap();
        assert_eq!(format, "raw");
        assert_eq!(make("vol-2").base.unwrap().0, base, "one base for both");
        // The image is built again.
        fs::remove_file(images.join("micro/disk")).unwrap();
        fs::write(images.join("micro/disk"), [2; 4096]).unwrap();
        let again = make("vol-1");
        assert!(!again.new);
        assert_eq!(fs::read(again.base.unwrap().0).unwrap(), [1; 4096]);
        let (other, _) = make("vol-3").base.unwrap();
        assert_eq!(fs::read(&other).unwrap(), [2; 4096]);
        // A base goes with the last volume on it.
        delete(here, &["vol-1".to_owned()]).unwrap();
        assert!(base.exists() && other.exists());
        delete(here, &["vol-2".to_owned(), "vol-9".to_owned()]).unwrap();
        assert!(!base.exists() && other.exists());
        fs::write(here.join("volumes/vol-3.new"), "half-made").unwrap();
        delete(here, &["vol-3".to_owned()]).unwrap();
        assert!(names(here).is_empty());
    }

    #[test]
    fn a_machine_keeps_the_kernel_that_it_first_booted() {
        let root = directories("raw", &[1; 4096]);
        let images = root.path().join("images");
        let machine = root.path().join("machine");
        fs::create_dir(&machine).unwrap();
        pin_boot(&images, "micro", &machine).unwrap();
        fs::remove_file(images.join("micro/k")).unwrap();
        assert_eq!(fs::read(machine.join("kernel")).unwrap(), b"k");
        let error = pin_boot(&images, "micro", &machine).unwrap_err().to_string();
        assert!(error.contains("\"k\" is missing"), "{error}");
    }

    proptest! {
        #[test]
        fn headers(header: [u8; 32], size: u64) {
            let _ = Header::parse(&header);
            let mut good = [0; 32];
            good[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            good[24..].copy_from_slice(&size.to_be_bytes());
            prop_assert_eq!(Header::parse(&good), Ok(Header { size, backing: None }));
        }
    }
}
