//! The initrd of every image that boots a kernel of its own: our guest binary as `/init` and the few
//! modules that a machine needs, in an uncompressed cpio archive (reading it is cheaper than
//! unpacking it).

use super::kernel::{self, Kernel};
use super::{Error, io_error};
use std::fs;
use std::path::{Path, PathBuf};

/// Names the guest binary, if it is not beside the running program.
pub(super) const GUEST_VARIABLE: &str = "GUREUM_GUEST_INIT";

/// Drivers of the machines that the node starts: bus, disks, network, power button, entropy.
const MODULES: [&str; 6] =
    ["virtio_pci", "virtio_blk", "virtio_net", "button", "evdev", "virtio_rng"];

/// The guest binary.
pub(super) fn guest() -> Result<PathBuf, Error> {
    let path = match std::env::var_os(GUEST_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => {
            let program =
                std::env::current_exe().map_err(io_error("find", Path::new("/proc/self/exe")))?;
            program.with_file_name("gureum-guest")
        }
    };
    if path.is_file() { Ok(path) } else { Err(Error::NoGuest { looked_at: path }) }
}

/// Writes the initrd for `kernel`.
pub(super) fn make(kernel: &Kernel, file: &Path) -> Result<(), Error> {
    let guest = guest()?;
    let guest = fs::read(&guest).map_err(io_error("read", &guest))?;
    let mut archive = Archive::default();
    for directory in ["dev", "modules", "proc", "root"] {
        archive.add(directory, DIRECTORY | 0o755, (0, 0), b"");
    }
    // The kernel opens it before anything is mounted.
    archive.add("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), b"");
    archive.add("init", REGULAR | 0o755, (0, 0), &guest);
    let mut list = String::new();
    for module in kernel::modules(kernel, &MODULES)? {
        let path = format!("modules/{}.ko", module.name);
        archive.add(&path, REGULAR | 0o644, (0, 0), &module.bytes);
        list += &format!("/{path}\n");
    }
    archive.add("modules.list", REGULAR | 0o644, (0, 0), list.as_bytes());
    fs::write(file, archive.finish()).map_err(io_error("write", file))
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// A cpio archive in the "newc" format, which the kernel unpacks.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an entry; `device` counts for device nodes.
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = 1 + u32::from(mode & DIRECTORY != 0);
        let header = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.add("init", REGULAR | 0o755, (0, 0), b"#!\n12");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ed", "mode");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(&bytes[94..102], b"00000005", "size of the name");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"#!\n12");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
