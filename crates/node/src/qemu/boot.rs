//! What a machine boots by. Everything here blocks.
//!
//! An image may be rebuilt or removed while machines of it live, so each machine keeps its kernel
//! and initrd by links of its own, `machines/<id>/kernel` and `initrd`. Its disks are volumes, of
//! which nothing is known here.

use crate::image;
use base::image::{Boot, Manifest};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// What is wrong with an image, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error("image {key} is damaged ({reason}): build or import it again")]
    BadImage { key: String, reason: String },
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
/// Without a key it is what the root volume holds.
pub(crate) fn pin(images: &Path, key: &str, machine: &Path) -> Result<Boot, Error> {
    if key.is_empty() {
        return Ok(Boot::Firmware);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use base::Timestamp;

    #[test]
    fn a_machine_keeps_the_kernel_that_it_first_booted() {
        let root = tempfile::tempdir().unwrap();
        let images = root.path().join("images");
        let image = images.join("micro");
        let machine = root.path().join("machine");
        fs::create_dir_all(&image).unwrap();
        fs::create_dir(&machine).unwrap();
        for file in ["disk", "k", "i"] {
            fs::write(image.join(file), file).unwrap();
        }
        let manifest = Manifest {
            v: 1,
            key: "micro".to_owned(),
            name: "n".to_owned(),
            also_named: Vec::new(),
            description: "d".to_owned(),
            architecture: "x86_64".to_owned(),
            root_device_name: "/dev/xvda".to_owned(),
            size_gib: 1,
            disk: "disk".to_owned(),
            disk_format: "raw".to_owned(),
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
        };
        let manifest = serde_json::to_vec(&manifest).unwrap();
        fs::write(image.join("manifest.json"), manifest).unwrap();
        pin(&images, "micro", &machine).unwrap();
        fs::remove_file(image.join("k")).unwrap();
        assert_eq!(fs::read(machine.join("kernel")).unwrap(), b"k");
        let error = pin(&images, "micro", &machine).unwrap_err().to_string();
        assert!(error.contains("\"k\" is missing"), "{error}");
        assert!(pin(&images, "../micro", &machine).is_err());
        assert_eq!(pin(&images, "", &machine).unwrap(), Boot::Firmware);
    }
}
