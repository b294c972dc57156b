//! Empty qcow2 images, as layers begin (docs/interop/qcow2.txt).
//!
//! ```text
//!  cluster 0   header, with a pointer to the encryption header
//!          1   refcount table       2   its only block
//!          3…  encryption header, if there is one
//!          …   L1 table: empty
//! ```
//!
//! Clusters of 128 KiB with subclusters of 4 KiB: a small first write to a new layer copies nothing.

use super::directory::GIB;
use super::luks;
use std::io;

const CLUSTER_BITS: u32 = 17;
const CLUSTER: usize = 1 << CLUSTER_BITS;

/// An entry of an extended L2 table has 16 bytes, so that one table spans a GiB.
const SPAN: u64 = (CLUSTER as u64 / 16) * CLUSTER as u64;
const _: () = assert!(SPAN == GIB);

/// Bytes of the header.
const HEADER: usize = 112;

/// Its extension that says where the encryption header is.
const POINTER: u32 = 0x0537_be77;

/// Incompatible feature: extended L2 entries.
const EXTENDED_L2: u64 = 1 << 4;

/// The image of an empty disk of `bytes`, encrypted if there is a passphrase.
///
/// # Errors
/// The system gives no randomness; the disk is larger than 64 TiB.
pub(crate) fn image(bytes: u64, passphrase: Option<&str>) -> io::Result<Vec<u8>> {
    let entries = usize::try_from(bytes.div_ceil(SPAN)).map_err(io::Error::other)?;
    if entries > 64 << 10 {
        return Err(io::Error::other("a volume has at most 64 TiB"));
    }
    let container = passphrase.map(luks::container).transpose()?;
    let clusters = |bytes: usize| bytes.div_ceil(CLUSTER);
    let table = 3 + container.as_ref().map_or(0, |container| clusters(container.len()));
    let end = table + clusters(entries * 8).max(1);
    let mut image = vec![0; end * CLUSTER];
    let mut at = 0;
    let mut put = |value: &[u8]| {
        image[at..at + value.len()].copy_from_slice(value);
        at += value.len();
    };
    let offset = |cluster: usize| ((cluster * CLUSTER) as u64).to_be_bytes();
    put(b"QFI\xfb");
    put(&3_u32.to_be_bytes());
    // No backing file: who opens the layer says what lies under it.
    put(&[0; 12]);
    put(&CLUSTER_BITS.to_be_bytes());
    put(&bytes.to_be_bytes());
    put(&(if container.is_some() { 2_u32 } else { 0 }).to_be_bytes());
    put(&u32::try_from(entries).map_err(io::Error::other)?.to_be_bytes());
    put(&offset(table));
    put(&offset(1));
    put(&1_u32.to_be_bytes());
    // No internal snapshots.
    put(&[0; 12]);
    put(&EXTENDED_L2.to_be_bytes());
    put(&[0; 16]);
    // Refcounts of 16 bits.
    put(&4_u32.to_be_bytes());
    put(&(HEADER as u32).to_be_bytes());
    put(&[0; 8]);
    if let Some(container) = &container {
        put(&POINTER.to_be_bytes());
        put(&16_u32.to_be_bytes());
        put(&offset(3));
        put(&(container.len() as u64).to_be_bytes());
    }
    put(&[0; 8]);
    image[CLUSTER..CLUSTER + 8].copy_from_slice(&offset(2));
    for count in image[2 * CLUSTER..].chunks_exact_mut(2).take(end) {
        count.copy_from_slice(&1_u16.to_be_bytes());
    }
    if let Some(container) = container {
        image[3 * CLUSTER..][..container.len()].copy_from_slice(&container);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn qemu_finds_them_whole() {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            eprintln!("skipped: needs qemu-img");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.qcow2");
        for (bytes, passphrase) in
            [(GIB, None), (GIB, Some("secret")), (64 << 40, None), (16 << 40, Some("other"))]
        {
            std::fs::write(&file, image(bytes, passphrase).unwrap()).unwrap();
            let options = format!("driver=qcow2,file.filename={}", file.display());
            let secret = format!("secret,id=key,data={}", passphrase.unwrap_or_default());
            let mut arguments = vec!["check", "--output=json"];
            let encrypted = format!("{options},encrypt.key-secret=key");
            if passphrase.is_some() {
                arguments.extend(["--object", &secret, "--image-opts", &encrypted]);
            } else {
                arguments.extend(["--image-opts", &options]);
            }
            let check = Command::new("qemu-img").args(arguments).stdin(Stdio::null()).output();
            let check = check.unwrap();
            assert!(check.status.success(), "{bytes} {passphrase:?}: {check:?}");
            let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&file).output();
            let info: serde_json::Value = serde_json::from_slice(&info.unwrap().stdout).unwrap();
            assert_eq!(info["virtual-size"], bytes);
            assert_eq!(info["format-specific"]["data"]["extended-l2"], true);
            assert_eq!(
                info["encrypted"],
                passphrase.map_or(serde_json::Value::Null, |_| true.into())
            );
        }
        assert!(image((64 << 40) + 1, None).is_err());
    }
}
