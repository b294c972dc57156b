//! Images and volumes as files. Everything here blocks.

use super::command::volume_path;
use super::directory::give;
use base::image::{Boot, Manifest};
use base::machine::Volume;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is wrong with an image or a volume, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "image {key} is not in {directory}: build it with `gureum image build {key}`, or import it with `gureum image import`"
    )]
    NoImage { key: String, directory: String },
    #[error("image {key} is damaged ({reason}): build or import it again")]
    BadImage { key: String, reason: String },
    #[error("{0} is missing: install qemu-utils")]
    NoTool(String),
    #[error("volume {id} could not be made: {reason}")]
    Volume { id: String, reason: String },
    #[error(
        "volume {id}: the disk that holds {directory} is full: free space there and start the instance again"
    )]
    Full { id: String, directory: String },
}

/// An image whose files were found good.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Manifest,
    directory: PathBuf,
    /// Bytes that the guest sees.
    virtual_size: u64,
}

impl Image {
    /// Reads and checks the image `key` of `images`.
    pub(crate) fn open(images: &Path, key: &str) -> Result<Image, Error> {
        let missing =
            || Error::NoImage { key: key.to_owned(), directory: images.display().to_string() };
        // A key is a directory name; anything else would leave the directory of images.
        if key.is_empty() || key.contains('/') || key.starts_with('.') {
            return Err(missing());
        }
        let directory = images.join(key);
        let bad = |reason: String| Error::BadImage { key: key.to_owned(), reason };
        let manifest = fs::read(directory.join("manifest.json")).map_err(|_| missing())?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| bad(format!("manifest.json: {error}")))?;
        let disk = directory.join(&manifest.disk);
        let virtual_size = virtual_size(&disk, &manifest.disk_format)
            .map_err(|reason| bad(format!("{}: {reason}", manifest.disk)))?;
        if let Boot::Kernel { kernel, initrd, .. } = &manifest.boot {
            for name in [kernel, initrd] {
                let metadata = fs::metadata(directory.join(name))
                    .map_err(|error| bad(format!("{name}: {error}")))?;
                if metadata.len() == 0 {
                    return Err(bad(format!("{name} is empty")));
                }
            }
        }
        Ok(Image { manifest, directory, virtual_size })
    }

    pub(crate) fn disk_path(&self) -> PathBuf {
        self.directory.join(&self.manifest.disk)
    }

    pub(crate) fn open_disk(&self) -> io::Result<File> {
        File::open(self.disk_path())
    }

    /// Opens a kernel or initrd, see [`open_public`].
    pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
        open_public(&self.directory.join(name))
    }
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
            let mut header = [0; 32];
            file.read_exact(&mut header).map_err(|_| "it is shorter than a qcow2 header")?;
            qcow2_size(&header)
        }
        other => Err(format!("{other} is not a format that gureum runs")),
    }
}

/// The virtual size in a qcow2 header (QEMU, docs/interop/qcow2.txt).
fn qcow2_size(header: &[u8; 32]) -> Result<u64, String> {
    if !header.starts_with(b"QFI\xfb") {
        return Err("it is not a qcow2 file".to_owned());
    }
    let version = header[4..8].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    if !(2..=3).contains(&version) {
        return Err(format!("qcow2 version {version} is unknown"));
    }
    if header[8..16] != [0; 8] {
        return Err("it needs another file under it".to_owned());
    }
    Ok(header[24..32].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A volume that exists.
#[derive(Debug)]
pub(crate) struct Made {
    /// The image under it.
    pub(crate) image: Option<Image>,
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
    let image = volume.source.as_deref().map(|key| Image::open(images, key)).transpose()?;
    let path = data_dir.join(volume_path(&volume.id));
    let failed =
        |error: io::Error| Error::Volume { id: volume.id.clone(), reason: error.to_string() };
    let new = !path.exists();
    if new {
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
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    give(&file, user).map_err(failed)?;
    Ok(Made { image, new })
}

fn create(
    qemu_img: &Path,
    path: &Path,
    volume: &Volume,
    image: Option<&Image>,
) -> Result<(), Error> {
    let wanted = u64::from(volume.size_gib) << 30;
    let size = wanted.max(image.map_or(0, |image| image.virtual_size));
    let mut command = Command::new(qemu_img);
    command.args(["create", "-q", "-f", "qcow2"]);
    if let Some(image) = image {
        command.args(["-F", &image.manifest.disk_format, "-b"]).arg(image.disk_path());
    }
    command.arg(path).arg(size.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoTool(qemu_img.display().to_string()),
        _ => Error::Volume { id: volume.id.clone(), reason: error.to_string() },
    })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Volume { id: volume.id.clone(), reason })
}

/// Deletes a volume, whether it exists or not.
pub(crate) fn delete(data_dir: &Path, volume_id: &str) -> io::Result<()> {
    match fs::remove_file(data_dir.join(volume_path(volume_id))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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

    #[test]
    fn damaged_images_are_told_apart() {
        let root = directories("raw", &[1; 4096]);
        assert_eq!(open(root.path()).unwrap().virtual_size, 4096);
        fs::remove_file(root.path().join("images/micro/k")).unwrap();
        assert!(open(root.path()).unwrap_err().contains("damaged (k: No such file"));
        fs::write(root.path().join("images/micro/manifest.json"), "{").unwrap();
        assert!(open(root.path()).unwrap_err().contains("manifest.json"));
        fs::remove_file(root.path().join("images/micro/manifest.json")).unwrap();
        assert!(open(root.path()).unwrap_err().contains("gureum image build micro"));
        let not_qcow2 = directories("qcow2", &[1; 4096]);
        assert!(open(not_qcow2.path()).unwrap_err().contains("not a qcow2 file"));
        let short = directories("qcow2", b"QFI\xfb");
        assert!(open(short.path()).unwrap_err().contains("shorter"));
        for key in ["", "../x", ".", "a/b"] {
            assert!(Image::open(&root.path().join("images"), key).is_err(), "{key}");
        }
    }

    #[test]
    fn missing_tools_and_rubbish_leave_nothing_behind() {
        let root = directories("raw", &[1; 4096]);
        let images = root.path().join("images");
        let none = Path::new("/nonexistent/qemu-img");
        let user = rustix::process::geteuid().as_raw();
        let error = make(root.path(), &images, none, &volume(), user).unwrap_err();
        assert!(error.to_string().contains("install qemu-utils"), "{error}");
        let refuses = Path::new("/bin/false");
        let error = make(root.path(), &images, refuses, &volume(), user).unwrap_err();
        assert!(error.to_string().contains("vol-1"), "{error}");
        assert_eq!(fs::read_dir(root.path().join("volumes")).unwrap().count(), 0);
        delete(root.path(), "vol-1").unwrap();
    }

    proptest! {
        #[test]
        fn headers(header: [u8; 32], size: u64) {
            let _ = qcow2_size(&header);
            let mut good = [0; 32];
            good[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            good[24..].copy_from_slice(&size.to_be_bytes());
            prop_assert_eq!(qcow2_size(&good), Ok(size));
        }
    }
}
