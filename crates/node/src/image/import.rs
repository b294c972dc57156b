//! Importing a disk image that somebody else made.
//!
//! The file is not trusted. Its format is told by its first bytes, never by probing deeper; a qcow2
//! that names another file (a backing file, an external data file) is refused before QEMU sees it,
//! because it would make this machine's files readable inside the instance.

use super::{Boot, Build, Error, Manifest, io_error, tools};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

/// What the file does not say.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Key of the image and name of the AMI.
    pub name: String,
    /// Description of the AMI; `None` says where it came from.
    pub description: Option<String>,
    /// Login user, if known.
    pub login_user: Option<String>,
}

/// Sector size, bytes.
const SECTOR: usize = 512;

/// Copies `file`, a qcow2 or raw disk, into `directory` as an image that the firmware boots.
///
/// # Errors
/// [`Error::NotADisk`] and [`Error::Unsafe`] for what the file is, [`Error::BadKey`] for the name,
/// and what copying reports.
pub fn import(file: &Path, directory: &Path, options: &ImportOptions) -> Result<Manifest, Error> {
    if super::BUILDABLE.contains(&options.name.as_str()) {
        return Err(Error::BadKey(options.name.clone()));
    }
    let build = Build::start(directory, &options.name)?;
    let format = check_start(file)?;
    let info = tools::run(
        Command::new("qemu-img")
            .args(["info", "--force-share", "--output=json", "-f", format, "--"])
            .arg(absolute(file)?),
    )
    .map_err(|error| match error {
        Error::Program { output, .. } => not_a_disk(file, &output),
        other => other,
    })?;
    let bytes = check_info(file, &info)?;
    let extension = format!(".{format}");
    let disk = build.file_name("disk", &extension);
    tools::run(
        Command::new("cp")
            .args(["--reflink=auto", "--sparse=always", "--"])
            .arg(file)
            .arg(build.path(&disk)),
    )?;
    // What was checked may have been exchanged since; the copy is ours alone.
    check_start(&build.path(&disk))?;
    check_boot_sector(file, &build.path(&disk), format)?;
    let description = options.description.clone().unwrap_or_else(|| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        format!("imported from {name}")
    });
    let manifest = Manifest {
        v: 1,
        key: build.key.clone(),
        name: options.name.clone(),
        also_named: Vec::new(),
        description,
        architecture: "x86_64".into(),
        root_device_name: "/dev/xvda".into(),
        size_gib: u32::try_from(bytes.div_ceil(1 << 30)).unwrap_or(u32::MAX),
        disk,
        disk_format: format.into(),
        boot: Boot::Firmware,
        owner_id: None,
        owner_alias: None,
        login_user: options.login_user.clone(),
        imds_v2: false,
        created: build.created,
    };
    build.publish(manifest)
}

fn not_a_disk(file: &Path, reason: &str) -> Error {
    Error::NotADisk { file: file.to_owned(), reason: reason.to_owned() }
}

/// An absolute path is never taken for an option or a protocol such as `nbd:`.
fn absolute(file: &Path) -> Result<std::path::PathBuf, Error> {
    std::path::absolute(file).map_err(io_error("find", file))
}

/// The format, by the first bytes of the file: `qcow2` or `raw`.
fn check_start(file: &Path) -> Result<&'static str, Error> {
    let mut start = Vec::new();
    let opened = File::open(file).map_err(io_error("read", file))?;
    if !opened.metadata().map_err(io_error("read", file))?.is_file() {
        return Err(not_a_disk(file, "it is not a regular file"));
    }
    opened.take(4096).read_to_end(&mut start).map_err(io_error("read", file))?;
    format_of(&start).map_err(|problem| match problem {
        Problem::NotADisk(reason) => not_a_disk(file, &reason),
        Problem::Unsafe(reason) => Error::Unsafe { file: file.to_owned(), reason },
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    NotADisk(String),
    Unsafe(String),
}

fn format_of(start: &[u8]) -> Result<&'static str, Problem> {
    let other = |name: &str| {
        let advice = format!("it is {name}; convert it first: qemu-img convert -O qcow2 IN OUT");
        Err(Problem::NotADisk(advice))
    };
    match start {
        [b'Q', b'F', b'I', 0xfb, ..] => check_qcow2(start).map(|()| "qcow2"),
        [b'K', b'D', b'M', b'V', ..] => other("a VMDK"),
        [b'#', b' ', b'D', b'i', b's', b'k', ..] => other("a VMDK descriptor"),
        [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => other("a VHDX"),
        [b'c', b'o', b'n', b'e', b'c', b't', b'i', b'x', ..] => other("a VHD"),
        [0x1f, 0x8b, ..] => other("gzip data"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => other("xz data"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => other("zstd data"),
        _ if start.len() < SECTOR => Err(Problem::NotADisk("it is too short".to_owned())),
        _ if is_boot_sector(start) => Ok("raw"),
        _ => Err(Problem::NotADisk(
            "it is no qcow2, and as a raw disk it has no boot sector (55 AA at byte 510)"
                .to_owned(),
        )),
    }
}

/// Looks at a qcow2 header (docs/interop/qcow2.txt) for references to other files.
fn check_qcow2(start: &[u8]) -> Result<(), Problem> {
    let word = |at: usize| {
        let bytes: Option<[u8; 4]> = start.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u32::from_be_bytes)
            .ok_or_else(|| Problem::NotADisk("its qcow2 header is cut off".to_owned()))
    };
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return Err(Problem::NotADisk(format!("qcow2 version {version} is not known")));
    }
    if word(8)? != 0 || word(12)? != 0 {
        return Err(Problem::Unsafe(
            "it has a backing file; flatten it first: qemu-img convert -O qcow2 IN OUT".to_owned(),
        ));
    }
    // Incompatible features, low word: bit 2 is an external data file.
    if version == 3 && word(76)? & 4 != 0 {
        return Err(Problem::Unsafe(
            "its data is in another file; flatten it first: qemu-img convert -O qcow2 IN OUT"
                .to_owned(),
        ));
    }
    Ok(())
}

fn is_boot_sector(sector: &[u8]) -> bool {
    sector.get(510..SECTOR) == Some(&[0x55, 0xaa])
}

/// What `qemu-img info` says, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    #[serde(default)]
    format_specific: serde_json::Value,
}

/// Size of the disk, bytes.
fn check_info(file: &Path, text: &[u8]) -> Result<u64, Error> {
    let info: Info = serde_json::from_slice(text)
        .map_err(|error| not_a_disk(file, &format!("qemu-img describes it oddly: {error}")))?;
    let data_file = &info.format_specific["data"]["data-file"];
    if info.backing_filename.is_some() || !data_file.is_null() {
        let reason = "it refers to another file".to_owned();
        return Err(Error::Unsafe { file: file.to_owned(), reason });
    }
    if info.encrypted {
        return Err(not_a_disk(file, "it is encrypted"));
    }
    if info.virtual_size < 1 << 20 || info.virtual_size > 16 << 40 {
        return Err(not_a_disk(file, "its size is not between 1 MiB and 16 TiB"));
    }
    Ok(info.virtual_size)
}

/// Refuses a disk that the firmware could not boot. `file` is how people know it.
fn check_boot_sector(file: &Path, disk: &Path, format: &str) -> Result<(), Error> {
    let sector_file = disk.with_extension("sector");
    let mut input = std::ffi::OsString::from("if=");
    input.push(disk);
    let mut output = std::ffi::OsString::from("of=");
    output.push(&sector_file);
    tools::run(
        Command::new("qemu-img")
            .args(["dd", "-f", format, "-O", "raw", "bs=512", "count=1"])
            .arg(input)
            .arg(output),
    )
    .map_err(|error| match error {
        Error::Program { output, .. } => not_a_disk(file, &output),
        other => other,
    })?;
    let mut sector = vec![0; SECTOR];
    File::open(&sector_file)
        .and_then(|mut opened| opened.read_exact(&mut sector))
        .and_then(|()| std::fs::remove_file(&sector_file))
        .or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(()),
            _ => Err(error),
        })
        .map_err(io_error("read", &sector_file))?;
    if is_boot_sector(&sector) {
        Ok(())
    } else {
        Err(not_a_disk(file, "the disk in it has no boot sector (55 AA at byte 510)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(version: u8, backing: u8, features: u8) -> Vec<u8> {
        let mut start = vec![0; 4096];
        start[..4].copy_from_slice(b"QFI\xfb");
        start[7] = version;
        start[15] = backing;
        start[79] = features;
        start
    }

    fn boot_sector() -> Vec<u8> {
        let mut start = vec![0; 4096];
        start[510..512].copy_from_slice(&[0x55, 0xaa]);
        start
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(format_of(&qcow2(3, 0, 0)), Ok("qcow2"));
        assert_eq!(format_of(&qcow2(2, 0, 4)), Ok("qcow2"), "version 2 has no features");
        assert_eq!(format_of(&boot_sector()), Ok("raw"));
        for start in [&b""[..], b"QFI\xfb", b"hello", &[0; 4096], b"KDMV", b"vhdxfile", b"\x1f\x8b"]
        {
            assert!(matches!(format_of(start), Err(Problem::NotADisk(_))), "{start:?}");
        }
        assert!(matches!(format_of(&qcow2(9, 0, 0)), Err(Problem::NotADisk(_))));
    }

    #[test]
    fn references_to_other_files_are_refused() {
        assert!(matches!(format_of(&qcow2(3, 1, 0)), Err(Problem::Unsafe(_))));
        assert!(matches!(format_of(&qcow2(3, 0, 4)), Err(Problem::Unsafe(_))));
        let file = Path::new("x");
        for text in [
            r#"{"virtual-size": 9999999, "backing-filename": "/etc/shadow"}"#,
            r#"{"virtual-size": 9999999, "format-specific": {"data": {"data-file": "/dev/sda"}}}"#,
        ] {
            let error = check_info(file, text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Unsafe { .. }), "{text}");
        }
    }

    #[test]
    fn information_is_read() {
        let file = Path::new("x");
        let good = br#"{"virtual-size": 2147483648, "format": "qcow2", "format-specific":
            {"type": "qcow2", "data": {"compat": "1.1"}}}"#;
        assert_eq!(check_info(file, good).unwrap(), 2 << 30);
        for text in [
            &b"{}"[..],
            b"no",
            br#"{"virtual-size": 0}"#,
            br#"{"virtual-size": 9999999, "encrypted": true}"#,
        ] {
            assert!(matches!(check_info(file, text), Err(Error::NotADisk { .. })));
        }
    }

    #[test]
    fn a_text_file_is_not_a_disk_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("notes.txt");
        std::fs::write(&file, "not a disk\n".repeat(100)).unwrap();
        let images = directory.path().join("images");
        let options = ImportOptions { name: "mine".into(), ..ImportOptions::default() };
        let error = import(&file, &images, &options).unwrap_err().to_string();
        assert!(error.contains("is not a disk image"), "{error}");
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 0);
        let options = ImportOptions { name: "micro".into(), ..ImportOptions::default() };
        assert!(matches!(import(&file, &images, &options), Err(Error::BadKey(_))));
    }

    #[test]
    fn a_raw_disk_is_imported() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk.raw");
        let mut disk = boot_sector();
        disk.resize(2 << 20, 0);
        std::fs::write(&file, disk).unwrap();
        let options = ImportOptions { name: "mine".into(), ..ImportOptions::default() };
        match import(&file, directory.path(), &options) {
            Ok(manifest) => {
                assert_eq!((manifest.disk_format.as_str(), manifest.size_gib), ("raw", 1));
                assert_eq!(crate::image::load(directory.path(), "mine").unwrap(), manifest);
            }
            Err(Error::MissingProgram { program, .. }) => eprintln!("skipped: no {program}"),
            Err(error) => panic!("{error}"),
        }
    }
}
