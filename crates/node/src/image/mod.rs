//! Machine images: what is there, and how Debian's packages or a file become one.
//!
//! An image is a directory `<images>/<key>` with a [`Manifest`], a disk and perhaps a kernel. The
//! principle: **what a machine may be running on is never written to again.** Every build makes files
//! with names of their own, and the manifest, replaced last and atomically, says which of them count.
//! The files of the build before stay, for whoever is reading its manifest just now; older ones go
//! (volumes and machines keep theirs by hard links). A build that fails or is killed leaves only a
//! directory `.building-<key>`, which the next build removes.
//!
//! ```text
//! <images>/.cache/           packages, kernel and Debian tree, kept so that building again is fast
//! <images>/.building-micro/  a build in progress
//! <images>/micro/            manifest.json  disk-20261121T101500.raw  kernel-…  initrd-…
//! ```
//!
//! Building needs root (files in an image belong to other users), no loop device and no network once
//! the cache is filled. Nothing here knows a running machine.

mod al2_compat;
mod debian;
mod disk;
mod import;
mod initrd;
mod kernel;
mod micro;
mod packages;
mod tools;

pub use base::image::{Boot, Manifest};
pub use import::{ImportOptions, import};

use base::Timestamp;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names that [`build`] knows.
pub const BUILDABLE: [&str; 3] = ["micro", "debian-12", "al2-compat"];

/// Size of the root file systems that are built, GiB: what Amazon Linux and Debian have on EC2.
const SIZE_GIB: u32 = 8;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `gureum image build` was given another name.
    #[error("there is no recipe for an image {0:?}; the recipes are {list}", list = BUILDABLE.join(", "))]
    UnknownRecipe(String),
    /// An image key may become a directory name and an AMI name.
    #[error(
        "{0:?} cannot be an image's name: use 3 to 100 letters, digits, '.', '-' and '_', not starting with '.' or '-'"
    )]
    BadKey(String),
    /// No manifest.
    #[error("there is no image {key:?} in {}; `gureum image list` shows what is there, `gureum image build {key}` builds what gureum has a recipe for", directory.display())]
    NotFound {
        /// What was asked for.
        key: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A manifest that cannot be used.
    #[error("{}: {reason}", path.display())]
    BrokenManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: what was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program said no.
    #[error("{command} failed ({status}): {output}")]
    Program {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// The last lines that it printed.
        output: String,
    },
    /// Images are built as root.
    #[error(
        "building an image needs root, because the files in it belong to several users; run it with sudo"
    )]
    NotRoot,
    /// The guest binary is not there.
    #[error("the guest init gureum-guest is not at {}; build it with `cargo xtask guest`, or set {variable} to where it is", looked_at.display(), variable = initrd::GUEST_VARIABLE)]
    NoGuest {
        /// Where it should be.
        looked_at: PathBuf,
    },
    /// A Debian package cannot be had.
    #[error("cannot get the Debian package {package}: {reason}")]
    Package {
        /// Its name.
        package: String,
        /// What apt said.
        reason: String,
    },
    /// The kernel package is not as expected.
    #[error("cannot use Debian's kernel: {0}")]
    Kernel(String),
    /// The file to import is not a disk.
    #[error("{} is not a disk image: {reason}", file.display())]
    NotADisk {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file to import would read other files of this machine.
    #[error("{} is refused: {reason}", file.display())]
    Unsafe {
        /// The file.
        file: PathBuf,
        /// What it refers to.
        reason: String,
    },
}

/// Turns an IO error into [`Error::Io`].
fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// Every usable image in `directory`, ordered by key. A broken one is skipped with a warning; a
/// directory that does not exist has no images.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read.
pub fn list(directory: &Path) -> Result<Vec<Manifest>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", directory)(error)),
    };
    let mut manifests = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("read", directory))?;
        let Ok(key) = entry.file_name().into_string() else { continue };
        if check_key(&key).is_err() || !entry.path().is_dir() {
            continue;
        }
        match load(directory, &key) {
            Ok(manifest) => manifests.push(manifest),
            Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, "an image is skipped"),
        }
    }
    manifests.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(manifests)
}

/// The image `key`, checked: its files are there.
///
/// # Errors
/// [`Error::BadKey`], [`Error::NotFound`], [`Error::BrokenManifest`] or [`Error::Io`].
pub fn load(directory: &Path, key: &str) -> Result<Manifest, Error> {
    check_key(key)?;
    let path = directory.join(key).join("manifest.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound { key: key.to_owned(), directory: directory.to_owned() });
        }
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let broken = |reason: String| Error::BrokenManifest { path: path.clone(), reason };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if manifest.v != 1 {
        return Err(broken(format!("version {} is not known to this gureum", manifest.v)));
    }
    if manifest.key != key {
        return Err(broken(format!("it is of image {:?}, not {key:?}", manifest.key)));
    }
    for name in files(&manifest) {
        if name.contains('/') || !directory.join(key).join(name).is_file() {
            return Err(broken(format!("its file {name:?} is missing")));
        }
    }
    Ok(manifest)
}

/// Builds the image `name`, one of [`BUILDABLE`], in `directory`. `progress` gets a line for
/// every step that may take a while.
///
/// # Errors
/// Every variant of [`Error`]; an image `name` that was there before is still there then.
pub fn build(
    name: &str,
    directory: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest, Error> {
    if !BUILDABLE.contains(&name) {
        return Err(Error::UnknownRecipe(name.to_owned()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let build = Build::start(directory, name)?;
    match name {
        "micro" => micro::build(build, progress),
        "debian-12" => debian::build(build, progress),
        _ => al2_compat::build(build, progress),
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let good =
        (3..=100).contains(&key.len()) && key.bytes().all(allowed) && !key.starts_with(['.', '-']);
    if good { Ok(()) } else { Err(Error::BadKey(key.to_owned())) }
}

/// A build in progress: a directory that vanishes unless it is published.
#[derive(Debug)]
struct Build {
    images: PathBuf,
    key: String,
    /// When the build began; it names the files.
    created: Timestamp,
    directory: PathBuf,
}

impl Build {
    fn start(images: &Path, key: &str) -> Result<Self, Error> {
        check_key(key)?;
        let directory = images.join(format!(".building-{key}"));
        remove_tree(&directory)?;
        fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        Ok(Self {
            images: images.to_owned(),
            key: key.to_owned(),
            created: Timestamp::wall(),
            directory,
        })
    }

    /// A path in the build directory.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What later builds may use again.
    fn cache(&self) -> Result<PathBuf, Error> {
        let cache = self.images.join(".cache");
        fs::create_dir_all(&cache).map_err(io_error("create", &cache))?;
        Ok(cache)
    }

    /// The time of the build as it stands in names: `20261121`.
    fn day(&self) -> String {
        self.created.format("%Y%m%d")
    }

    /// A file name of this build alone.
    fn file_name(&self, what: &str, extension: &str) -> String {
        let time = self.created.format("%Y%m%dT%H%M%S%3f");
        format!("{what}-{time}{extension}")
    }

    /// Moves the files that `manifest` names from the build directory into the image's, durably, and
    /// then makes `manifest` the image's.
    fn publish(self, manifest: Manifest) -> Result<Manifest, Error> {
        let target = self.images.join(&self.key);
        fs::create_dir_all(&target).map_err(io_error("create", &target))?;
        let before = load(&self.images, &self.key).ok();
        for name in files(&manifest) {
            let from = self.path(name);
            sync_file(&from)?;
            let to = target.join(name);
            fs::rename(&from, &to).map_err(io_error("create", &to))?;
        }
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::BrokenManifest {
            path: target.join("manifest.json"),
            reason: error.to_string(),
        })?;
        let draft = self.path("manifest.json");
        let write = |text: &[u8]| {
            let mut file = File::create(&draft)?;
            file.write_all(text)?;
            file.sync_all()
        };
        write(&text).map_err(io_error("write", &draft))?;
        sync_file(&target)?;
        let path = target.join("manifest.json");
        fs::rename(&draft, &path).map_err(io_error("create", &path))?;
        sync_file(&target)?;
        sync_file(&self.images)?;
        if let Some(before) = before {
            self.remove_superseded(&target, &[&before, &manifest]);
        }
        Ok(manifest)
    }

    /// Removes the files of builds before the last one. Volumes and machines hold what they need by
    /// hard links, unless they are on another file system; then nothing is removed.
    fn remove_superseded(&self, target: &Path, kept: &[&Manifest]) {
        let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
        let data = self.images.join("..");
        if device(&data).is_none() || device(&data) != device(target) {
            return;
        }
        for entry in fs::read_dir(target).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let needed = kept.iter().flat_map(|manifest| files(manifest));
            if name != "manifest.json" && needed.into_iter().all(|needed| name != *needed) {
                // One that stays only takes room.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The files beside a manifest that it names.
fn files(manifest: &Manifest) -> Vec<&str> {
    let mut files = vec![manifest.disk.as_str()];
    if let Boot::Kernel { kernel, initrd, .. } = &manifest.boot {
        files.extend([kernel.as_str(), initrd.as_str()]);
    }
    files
}

/// Gives a file a second name, or copies it where that cannot be. The file is never written to again.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).map_err(io_error("write", to))
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.directory) {
            tracing::warn!(%error, "a build's directory is left behind");
        }
    }
}

/// Waits until a file's bytes, or a directory's entries, are on the disk.
fn sync_file(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
