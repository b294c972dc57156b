//! A volume as QEMU is told to open it: pure, no IO.

use serde_json::{Value, json};
use std::fmt;

/// The bus of disks that can be unplugged; see [`crate::qemu`]'s command line.
pub(crate) const DISK_BUS: &str = "disks";

/// A volume as its owner process opens it. Files are relative to the process' working directory,
/// the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `vol-…`.
    pub(crate) volume: String,
    /// Lowest first; the last is the active one. None for a Multi-Attach volume, which a machine
    /// has through `source` alone.
    pub(crate) layers: Vec<Layer>,
    /// What lies under the lowest layer.
    pub(crate) source: Option<Source>,
    /// Of every layer.
    pub(crate) passphrase: Option<Passphrase>,
    /// How fast it may be.
    pub(crate) throttle: Throttle,
}

/// A qcow2 file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) number: u32,
    pub(crate) file: String,
}

/// An NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Unix socket, relative to the data directory.
    pub(crate) socket: String,
    pub(crate) export: String,
    pub(crate) writable: bool,
}

/// What opens an encrypted layer; text, since QEMU wants UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Passphrase(pub(crate) String);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// QEMU's leaky buckets (docs/throttle.txt).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Throttle {
    pub(crate) operations: Bucket,
    pub(crate) bytes: Bucket,
    /// An operation larger than this counts as several, bytes; 0 counts each as one.
    pub(crate) operation_bytes: u64,
}

/// A rate and how it may be exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// A second; 0 is unlimited.
    pub(crate) average: u64,
    /// The rate of a burst; 0 is QEMU's default, a tenth of a second's worth of bucket.
    pub(crate) burst: u64,
    /// How long a burst may last; 0 and 1 are a second.
    pub(crate) burst_seconds: u64,
}

impl Throttle {
    /// `ThrottleLimits` of QEMU's schema.
    pub(super) fn limits(&self) -> Value {
        // QEMU refuses a size of operations whose number is not limited.
        let counted = if self.operations.average == 0 { 0 } else { self.operation_bytes };
        let mut limits = json!({ "iops-size": counted });
        for (name, bucket) in [("iops-total", self.operations), ("bps-total", self.bytes)] {
            limits[name] = bucket.average.into();
            let burst = if bucket.average == 0 { 0 } else { bucket.burst };
            limits[format!("{name}-max")] = burst.into();
            let seconds = if burst == 0 { 1 } else { bucket.burst_seconds.max(1) };
            limits[format!("{name}-max-length")] = seconds.into();
        }
        limits
    }
}

/// The volume's id without its dash: serial of its disk, id of the device, name of its filter.
pub(crate) fn serial(volume: &str) -> String {
    volume.replacen('-', "", 1)
}

pub(super) fn layer_node(volume: &str, number: u32) -> String {
    format!("{}-{number}", serial(volume))
}

/// What a guest's disk lies on when its volume was taken away: errors only.
pub(super) fn gone_node(volume: &str) -> String {
    format!("{}-gone", serial(volume))
}

/// The volume whose node or device this is.
pub(super) fn volume_of(name: &str) -> Option<String> {
    let digits = name.strip_prefix("vol")?.split('-').next()?;
    let is_ours = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then(|| format!("vol-{digits}"))
}

impl Layer {
    pub(super) fn node(&self, volume: &str, encrypted: bool, backing: Value) -> Value {
        let name = layer_node(volume, self.number);
        let mut node = json!({
            "driver": "qcow2",
            "node-name": name,
            "discard": "unmap",
            "file": {
                "driver": "file",
                "node-name": format!("{name}f"),
                "filename": self.file,
                "discard": "unmap",
            },
            // Said even if it is none: nothing that stands in a file's header is followed.
            "backing": backing,
        });
        if encrypted {
            node["encrypt"] = json!({ "format": "luks", "key-secret": secret_id(volume) });
        }
        node
    }
}

/// Name of the object that holds a volume's passphrase.
pub(crate) fn secret_id(volume: &str) -> String {
    format!("key-{}", serial(volume))
}

pub(super) fn throttle_id(volume: &str) -> String {
    format!("limit-{}", serial(volume))
}

impl Chain {
    /// The throttle group, as `-object` and `object-add` take it.
    pub(crate) fn throttle_group(&self) -> Value {
        json!({
            "qom-type": "throttle-group",
            "id": throttle_id(&self.volume),
            "limits": self.throttle.limits(),
        })
    }

    /// The nodes, as `-blockdev` and `blockdev-add` take them. The secret and the throttle group
    /// must be there.
    pub(crate) fn nodes(&self) -> Value {
        let volume = &self.volume;
        let lowest = match &self.source {
            None => Value::Null,
            Some(source) => json!({
                "driver": "nbd",
                "node-name": format!("{}-source", serial(volume)),
                "server": { "type": "unix", "path": source.socket },
                "export": source.export,
                "read-only": !source.writable,
                "discard": if source.writable { "unmap" } else { "ignore" },
                // Whoever serves it is started again when it dies; until then the guest waits.
                "reconnect-delay": 86_400,
                "open-timeout": 10,
            }),
        };
        let encrypted = self.passphrase.is_some();
        let active =
            self.layers.iter().fold(lowest, |below, layer| layer.node(volume, encrypted, below));
        json!({
            "driver": "throttle",
            "node-name": serial(volume),
            "throttle-group": throttle_id(volume),
            "file": active,
        })
    }

    /// The arguments of the disk itself, as `-device` and `device_add` take them, on a bus that can
    /// be unplugged from or not.
    pub(crate) fn device(volume: &str, bus: &str) -> Value {
        let serial = serial(volume);
        json!({
            "driver": "virtio-blk-pci",
            "id": serial,
            "drive": serial,
            "serial": serial,
            "bus": bus,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: &str = "vol-0123456789abcdef0";

    fn chain() -> Chain {
        let layer =
            |number: u32| Layer { number, file: format!("volumes/{VOLUME}/{number}.qcow2") };
        Chain {
            volume: VOLUME.to_owned(),
            layers: vec![layer(0), layer(1)],
            source: Some(Source {
                socket: format!("volumes/{VOLUME}/source.sock"),
                export: String::new(),
                writable: false,
            }),
            passphrase: Some(Passphrase("xyzzy".to_owned())),
            throttle: Throttle::default(),
        }
    }

    #[test]
    fn a_chain_is_laid_out_from_the_filter_down() {
        let nodes = chain().nodes();
        assert_eq!(nodes["node-name"], "vol0123456789abcdef0");
        let active = &nodes["file"];
        assert_eq!(active["node-name"], "vol0123456789abcdef0-1");
        assert_eq!(active["encrypt"]["key-secret"], "key-vol0123456789abcdef0");
        assert_eq!(active["backing"]["node-name"], "vol0123456789abcdef0-0");
        let source = &active["backing"]["backing"];
        assert_eq!(source["node-name"], "vol0123456789abcdef0-source");
        assert_eq!(source["read-only"], true);
        assert!(!format!("{:?}{nodes}", chain()).contains("xyzzy"), "no passphrase is shown");
        // QEMU takes names of at most 31 bytes.
        let longest = format!("{}f", layer_node(VOLUME, 99_999_999));
        assert!(longest.len() <= 31, "{longest}");
        let alone = Chain { layers: Vec::new(), ..chain() };
        assert_eq!(alone.nodes()["file"]["driver"], "nbd");
    }

    #[test]
    fn limits_are_what_qemu_takes() {
        let bucket = Bucket { average: 100, burst: 3000, burst_seconds: 1800 };
        let some = Throttle { operations: bucket, operation_bytes: 1 << 18, ..Throttle::default() };
        let limits = some.limits();
        assert_eq!(limits["iops-total"], 100);
        assert_eq!(limits["iops-total-max"], 3000);
        assert_eq!(limits["iops-total-max-length"], 1800);
        assert_eq!(limits["iops-size"], 262_144);
        assert_eq!(limits["bps-total-max-length"], 1, "0 is refused");
        let unlimited = Bucket { average: 0, burst: 3000, burst_seconds: 1800 };
        let none = Throttle { operations: unlimited, ..Throttle::default() }.limits();
        assert_eq!(none["iops-total-max"], 0, "a burst without a rate is refused");
        assert_eq!(none["iops-total-max-length"], 1);
    }

    #[test]
    fn names_belong_to_volumes() {
        assert_eq!(volume_of("vol0123456789abcdef0-12f").as_deref(), Some(VOLUME));
        assert_eq!(volume_of("vol0123456789abcdef0").as_deref(), Some(VOLUME));
        for other in ["#block123", "vol", "volume", "ephemeral0", ""] {
            assert_eq!(volume_of(other), None, "{other}");
        }
    }
}
