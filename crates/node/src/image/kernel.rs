//! Debian's cloud kernel, made quick to boot: the ELF file out of the bzImage, which QEMU starts
//! through its PVH entry. That spares the machine the real-mode code, the EDD probe and
//! decompressing itself, which together take as long as half of the rest of the boot.

use super::{Error, io_error, packages, tools};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "linux-image-cloud-amd64";
/// Largest kernel that is unpacked.
const LARGEST: usize = 256 << 20;

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    /// The file that QEMU is given.
    pub(super) image: PathBuf,
    /// `/lib/modules/<release>`.
    pub(super) modules: PathBuf,
}

/// The kernel, unpacked in the cache.
pub(super) fn get(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Kernel, Error> {
    let meta = packages::get(&[PACKAGE], cache, progress)?;
    let package = packages::dependencies(&meta[0])?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| Error::Kernel(format!("{PACKAGE} depends on no kernel")))?;
    let file = packages::get(&[&package], cache, progress)?.remove(0);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let tree = cache.join(format!("kernel-{stem}"));
    if !tree.join("vmlinux").exists() {
        progress("unpacking the kernel");
        // The link is made last, so a directory with it is whole.
        super::remove_tree(&tree)?;
        fs::create_dir_all(&tree).map_err(io_error("create", &tree))?;
        packages::unpack(&file, &tree)?;
        let bzimage = only_entry(&tree.join("boot"), "vmlinuz-")?;
        let bytes = fs::read(&bzimage).map_err(io_error("read", &bzimage))?;
        let draft = tree.join("vmlinux.new");
        // A kernel packed in another way still boots, only slower.
        fs::write(&draft, elf_kernel(&bytes).unwrap_or(bytes))
            .map_err(io_error("write", &draft))?;
        let image = tree.join("vmlinux");
        fs::rename(&draft, &image).map_err(io_error("create", &image))?;
    }
    let modules = only_entry(&tree.join("lib/modules"), "")?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Kernel { release, image: tree.join("vmlinux"), modules })
}

fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf, Error> {
    fs::read_dir(directory)
        .map_err(io_error("read", directory))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| Error::Kernel(format!("nothing in {}", directory.display())))
}

/// The ELF kernel in a bzImage; `None` if it is packed otherwise than by LZ4 or has no PVH entry.
fn elf_kernel(bzimage: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| -> Option<usize> {
        Some(u32::from_le_bytes(bzimage.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    // The boot protocol's header: Documentation/arch/x86/boot.rst.
    if bzimage.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match bzimage.get(0x1f1)? {
        0 => 4,
        number => usize::from(*number),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload = bzimage.get(start..start.checked_add(word(0x24c)?)?)?;
    let kernel = unpack_lz4(payload)?;
    (kernel.starts_with(b"\x7fELF") && has_pvh_entry(&kernel)).then_some(kernel)
}

/// Whether there is an ELF note "Xen" of type 18, XEN_ELFNOTE_PHYS32_ENTRY.
fn has_pvh_entry(kernel: &[u8]) -> bool {
    const NOTE: [u8; 8] = [18, 0, 0, 0, b'X', b'e', b'n', 0];
    kernel.windows(NOTE.len()).any(|window| window == NOTE)
}

/// Unpacks LZ4's legacy frame, the one that the kernel uses: blocks with their packed sizes.
fn unpack_lz4(frame: &[u8]) -> Option<Vec<u8>> {
    let mut rest = frame.strip_prefix(&[0x02, 0x21, 0x4c, 0x18])?;
    let mut whole = Vec::new();
    while rest.len() > 4 {
        let (size, after) = rest.split_at(4);
        let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
        // What follows the last block is the size of the kernel.
        let Some(block) = after.get(..size) else { break };
        unpack_lz4_block(block, &mut whole)?;
        rest = &after[size..];
    }
    Some(whole)
}

/// Appends what an LZ4 block (lz4_Block_format.md) holds; matches reach back into this block only.
fn unpack_lz4_block(mut block: &[u8], whole: &mut Vec<u8>) -> Option<()> {
    let start = whole.len();
    loop {
        let (token, rest) = block.split_first()?;
        block = rest;
        let literals = length(usize::from(token >> 4), &mut block)?;
        whole.extend_from_slice(block.get(..literals)?);
        block = &block[literals..];
        if block.is_empty() {
            return Some(());
        }
        let (offset, rest) = block.split_at_checked(2)?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes([offset[0], offset[1]]));
        let count = length(usize::from(token & 15), &mut block)? + 4;
        if offset == 0 || offset > whole.len() - start || whole.len() + count > LARGEST {
            return None;
        }
        let from = whole.len() - offset;
        if offset >= count {
            whole.extend_from_within(from..from + count);
        } else {
            for at in from..from + count {
                whole.push(whole[at]);
            }
        }
    }
}

/// A length whose first four bits are `first`.
fn length(first: usize, block: &mut &[u8]) -> Option<usize> {
    let mut sum = first;
    if first == 15 {
        loop {
            let (byte, rest) = block.split_first()?;
            *block = rest;
            sum += usize::from(*byte);
            if *byte != 255 {
                break;
            }
        }
    }
    Some(sum)
}

/// A module and its bytes, uncompressed.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The modules `wanted` and all that they depend on, each after its dependencies. One that does not
/// exist is taken for built in.
pub(super) fn modules(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>, Error> {
    let mut files = BTreeMap::new();
    find_modules(&kernel.modules.join("kernel"), &mut files)?;
    let mut loaded = Vec::new();
    for name in wanted {
        add_module(name, &files, &mut loaded)?;
    }
    if loaded.is_empty() {
        return Err(Error::Kernel(format!("no modules in {}", kernel.modules.display())));
    }
    Ok(loaded)
}

fn find_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(io_error("read", directory))? {
        let path = entry.map_err(io_error("read", directory))?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((name, "ko" | "ko.xz")) = name.split_once('.')
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    loaded: &mut Vec<Module>,
) -> Result<(), Error> {
    let name = name.replace('-', "_");
    let Some(path) = files.get(&name) else { return Ok(()) };
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let bytes = if path.extension().is_some_and(|extension| extension == "xz") {
        tools::run(Command::new("xz").arg("-dc").arg(path))?
    } else {
        fs::read(path).map_err(io_error("read", path))?
    };
    for dependency in module_dependencies(&bytes) {
        add_module(&dependency, files, loaded)?;
    }
    loaded.push(Module { name, bytes });
    Ok(())
}

/// What a module's `.modinfo` says that it depends on.
fn module_dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_blocks_are_unpacked() {
        // "abcd", then 12 bytes from 4 back (overlapping), then "xyz".
        let block = [0x48, b'a', b'b', b'c', b'd', 4, 0, 0x30, b'x', b'y', b'z'];
        let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(block);
        frame.extend(19u32.to_le_bytes());
        assert_eq!(unpack_lz4(&frame).unwrap(), b"abcdabcdabcdabcdxyz");
    }

    #[test]
    fn broken_lz4_is_refused() {
        let whole = &mut Vec::new();
        assert_eq!(unpack_lz4(b"\x1f\x8b"), None);
        assert_eq!(unpack_lz4_block(&[], whole), None);
        assert_eq!(unpack_lz4_block(&[0x10, b'a', 9, 0], whole), None, "reaches before the start");
        assert_eq!(unpack_lz4_block(&[0xf0, 255], whole), None, "cut off");
        assert_eq!(unpack_lz4_block(&[0x10, b'a', 0, 0], whole), None, "offset zero");
    }

    #[test]
    fn what_is_not_a_bzimage_is_not_unpacked() {
        assert_eq!(elf_kernel(b""), None);
        assert_eq!(elf_kernel(&[0; 0x400]), None);
        let mut image = vec![0xff; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(elf_kernel(&image), None);
    }

    #[test]
    fn modules_say_what_they_need() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio,virtio_ring\0name=virtio_pci\0";
        assert_eq!(module_dependencies(module), ["virtio", "virtio_ring"]);
        assert!(module_dependencies(b"\0depends=\0").is_empty());
        assert!(module_dependencies(b"none").is_empty());
    }
}
