//! Disk image files that somebody else made: what they are, and that they stand alone.

use super::tasks::Problem;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What an image file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Vhd,
    Vhdx,
}

impl Format {
    /// As requests name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
        }
    }

    /// The file as QEMU may open it.
    pub(super) fn node(self, path: &Path) -> Result<serde_json::Value, Problem> {
        let path = std::path::absolute(path)?;
        let path = path.to_str().ok_or_else(|| Problem::Final("not a UTF-8 name".to_owned()))?;
        let driver = match self {
            Format::Vhd => "vpc",
            other => other.name(),
        };
        let mut node = json!({
            "driver": driver,
            "read-only": true,
            "file": { "driver": "file", "filename": path, "read-only": true },
        });
        if matches!(self, Format::Qcow2 | Format::Vmdk) {
            node["backing"] = serde_json::Value::Null;
        }
        Ok(node)
    }
}

/// What the file at `path` is, which people know as `file`.
///
/// # Errors
/// It cannot be read, is no image, or does not stand alone.
pub(super) fn check_format(path: &Path, file: &str) -> Result<Format, Problem> {
    let opened = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Problem::Final(format!("{file} does not exist")),
        _ => error.into(),
    })?;
    let metadata = opened.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(Problem::Final(format!("{file} is not a disk image: it is no file, or empty")));
    }
    let mut start = Vec::new();
    (&opened).take(4096).read_to_end(&mut start)?;
    let mut end = [0; 512];
    if metadata.len() >= 512 {
        (&opened).seek(SeekFrom::End(-512))?;
        (&opened).read_exact(&mut end)?;
    }
    format_of(&start, &end)
        .map_err(|why| Problem::Final(format!("{file} cannot be imported: {why}")))
}

/// The format by the first and last bytes of a file, if it stands alone.
fn format_of(start: &[u8], end: &[u8; 512]) -> Result<Format, &'static str> {
    let long = |at: usize| {
        start.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
    };
    match start {
        [b'Q', b'F', b'I', 0xfb, ..] => {
            let version = start.get(4..8);
            if version != Some(&[0, 0, 0, 2]) && version != Some(&[0, 0, 0, 3]) {
                return Err("its qcow2 version is not known");
            }
            if long(8) != Some(0) {
                return Err("it has a backing file; flatten it first: qemu-img convert");
            }
            // Incompatible features, bit 2: an external data file (docs/interop/qcow2.txt).
            if version == Some(&[0, 0, 0, 3]) && long(72).is_none_or(|bits| bits & 4 != 0) {
                return Err("its data is in another file; flatten it first: qemu-img convert");
            }
            Ok(Format::Qcow2)
        }
        [b'K', b'D', b'M', b'V', ..] => {
            // Without a capacity its descriptor names the files with the data (vmdk.c).
            match start.get(12..20) {
                Some(capacity) if capacity.iter().any(|byte| *byte != 0) => {}
                _ => return Err("its data is in other files"),
            }
            Ok(Format::Vmdk)
        }
        [b'C', b'O', b'W', b'D', ..] => Err("it is one extent of a VMDK of several files"),
        [b'#', b' ', b'D', b'i', b's', b'k', ..] => {
            Err("it is the descriptor of a VMDK whose data is in other files")
        }
        [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => Ok(Format::Vhdx),
        [0x1f, 0x8b, ..] | [0xfd, b'7', b'z', b'X', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Err("it is compressed; unpack it first")
        }
        [b'c', b'o', b'n', b'e', b'c', b't', b'i', b'x', ..] => check_vhd(start),
        _ if end.starts_with(b"conectix") => check_vhd(end),
        _ => Ok(Format::Raw),
    }
}

/// Refuses a VHD that lies on another.
fn check_vhd(footer: &[u8]) -> Result<Format, &'static str> {
    // Disk type: 2 fixed, 3 dynamic, 4 differencing.
    match footer.get(60..64) {
        Some([0, 0, 0, 2 | 3]) => Ok(Format::Vhd),
        _ => Err("it is a differencing VHD, or damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn qcow2(version: u8, backing: u8, features: u8) -> Vec<u8> {
        let mut start = vec![0; 4096];
        start[..4].copy_from_slice(b"QFI\xfb");
        (start[7], start[15], start[79]) = (version, backing, features);
        start
    }

    #[test]
    fn formats_are_told_and_references_refused() {
        let none = [0; 512];
        assert_eq!(format_of(&qcow2(3, 0, 0), &none), Ok(Format::Qcow2));
        assert_eq!(format_of(&qcow2(2, 0, 4), &none), Ok(Format::Qcow2));
        for bad in [qcow2(3, 1, 0), qcow2(3, 0, 4), qcow2(4, 0, 0), b"QFI\xfb\0\0\0\x03".to_vec()] {
            assert!(format_of(&bad, &none).is_err());
        }
        let mut vmdk = b"KDMV".to_vec();
        vmdk.resize(512, 0);
        assert!(format_of(&vmdk, &none).is_err(), "its extents are elsewhere");
        vmdk[12] = 1;
        assert_eq!(format_of(&vmdk, &none), Ok(Format::Vmdk));
        assert!(format_of(b"# Disk DescriptorFile", &none).is_err());
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        for (kind, good) in [(2, true), (3, true), (4, false)] {
            footer[63] = kind;
            assert_eq!(format_of(&[0; 4096], &footer).is_ok(), good);
            assert_eq!(format_of(&footer, &none).is_ok(), good);
        }
        assert_eq!(format_of(b"vhdxfile", &none), Ok(Format::Vhdx));
        assert_eq!(format_of(b"hello", &none), Ok(Format::Raw));
    }

    proptest! {
        #[test]
        fn no_file_panics(start in prop::collection::vec(any::<u8>(), 0..100), end: [u8; 32]) {
            let mut footer = [0; 512];
            footer[..32].copy_from_slice(&end);
            let _ = format_of(&start, &footer);
        }
    }
}
