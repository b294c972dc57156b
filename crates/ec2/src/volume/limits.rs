//! How fast a volume may be: its type, size and provisioning as the limits that the node enforces.
//!
//! Numbers are those of the EBS User Guide, "Amazon EBS volume types"; a MiB is 2^20 bytes.

use crate::record::VolumeShape;
use base::volume::{Burst, Limits, Rate};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB_IN_GIB: u64 = 1 << 10;

/// An operation of an SSD volume that is larger counts as several.
const SSD_OPERATION: u32 = 256 << 10;
/// The same of a volume on platters.
const HDD_OPERATION: u32 = 1 << 20;

/// gp2: what a volume below 1,000 GiB may have while it has credits, and how many it has at most.
const GP2_BURST: Burst = Burst { rate: 3_000, bucket: 5_400_000 };

fn steady(base: u64) -> Option<Rate> {
    Some(Rate { base, burst: None })
}

/// The limits of a volume.
pub(crate) fn limits(shape: &VolumeShape) -> Limits {
    let size = u64::from(shape.size_gib);
    let iops = u64::from(shape.iops.unwrap_or(0));
    let ssd = |operations: Option<Rate>, bytes: u64| Limits {
        operations,
        bytes: steady(bytes),
        operation_bytes: SSD_OPERATION,
    };
    match shape.kind.as_str() {
        "gp3" => ssd(steady(iops), u64::from(shape.throughput.unwrap_or(125)) * MIB),
        // 256 KiB for each of the IOPS up to 500 MiB/s; above 32,000 IOPS, 16 KiB for each.
        "io1" => ssd(steady(iops), (iops * 256 * KIB).min(500 * MIB).max(iops * 16 * KIB)),
        "io2" => ssd(steady(iops), (iops * 256 * KIB).min(4_000 * MIB)),
        "st1" => platters(size, 40, 250, 500, 500),
        "sc1" => platters(size, 12, 80, 250, 250),
        // The most that the guide gives for Magnetic, of which it says little else.
        "standard" => Limits {
            operations: steady(200),
            bytes: steady(90 * MIB),
            operation_bytes: HDD_OPERATION,
        },
        // gp2.
        _ => {
            let base = (size * 3).clamp(100, 16_000);
            let burst = (base < GP2_BURST.rate).then_some(GP2_BURST);
            let bytes = if size <= 170 { 128 * MIB } else { 250 * MIB };
            ssd(Some(Rate { base, burst }), bytes)
        }
    }
}

/// st1 and sc1: MiB/s for each TiB, the same in a burst, the most of both, and the most IOPS. The
/// bucket holds a TiB of credits for each TiB of the volume.
fn platters(size_gib: u64, base: u64, burst: u64, most: u64, operations: u64) -> Limits {
    let of_size = |rate: u64| (size_gib * rate * MIB / TIB_IN_GIB).min(most * MIB);
    let base = of_size(base);
    let rate = of_size(burst);
    let burst = (rate > base).then_some(Burst { rate, bucket: size_gib << 30 });
    Limits {
        operations: steady(operations),
        bytes: Some(Rate { base, burst }),
        operation_bytes: HDD_OPERATION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, size_gib: u32, iops: Option<u32>, throughput: Option<u32>) -> Limits {
        limits(&VolumeShape {
            size_gib,
            kind: kind.to_owned(),
            iops,
            throughput,
            multi_attach: false,
        })
    }

    fn operations(limits: Limits) -> (u64, Option<(u64, u64)>) {
        let rate = limits.operations.unwrap();
        (rate.base, rate.burst.map(|burst| (burst.rate, burst.bucket)))
    }

    /// MiB/s.
    fn bytes(limits: Limits) -> f64 {
        limits.bytes.unwrap().base as f64 / MIB as f64
    }

    #[test]
    fn gp2_bursts_until_its_own_rate_is_as_high() {
        let burst = Some((3_000, 5_400_000));
        for (size, base, burst, throughput) in [
            (1, 100, burst, 128.0),
            (33, 100, burst, 128.0),
            (34, 102, burst, 128.0),
            (170, 510, burst, 128.0),
            (171, 513, burst, 250.0),
            (999, 2_997, burst, 250.0),
            (1_000, 3_000, None, 250.0),
            (5_333, 15_999, None, 250.0),
            (16_384, 16_000, None, 250.0),
        ] {
            let limits = of("gp2", size, Some(base), None);
            assert_eq!(operations(limits), (u64::from(base), burst), "{size} GiB");
            assert_eq!(bytes(limits), throughput, "{size} GiB");
            assert_eq!(limits.operation_bytes, 256 << 10);
        }
    }

    #[test]
    fn provisioned_types_have_what_is_provisioned() {
        let gp3 = of("gp3", 8, Some(3_000), Some(125));
        assert_eq!((operations(gp3), bytes(gp3)), ((3_000, None), 125.0));
        let gp3 = of("gp3", 1_000, Some(80_000), Some(2_000));
        assert_eq!((operations(gp3), bytes(gp3)), ((80_000, None), 2_000.0));
        for (iops, throughput) in
            [(100, 25.0), (2_000, 500.0), (32_000, 500.0), (48_000, 750.0), (64_000, 1_000.0)]
        {
            let io1 = of("io1", 16_384, Some(iops), None);
            assert_eq!((operations(io1), bytes(io1)), ((u64::from(iops), None), throughput));
        }
        for (iops, throughput) in [(100, 25.0), (16_000, 4_000.0), (256_000, 4_000.0)] {
            let io2 = of("io2", 16_384, Some(iops), None);
            assert_eq!((operations(io2), bytes(io2)), ((u64::from(iops), None), throughput));
        }
    }

    #[test]
    fn platters_have_buckets_of_bytes() {
        let burst = |limits: Limits| {
            limits.bytes.unwrap().burst.map(|b| (b.rate as f64 / MIB as f64, b.bucket >> 30))
        };
        for (kind, size, base, most) in [
            ("st1", 1_024, 40.0, Some((250.0, 1_024))),
            ("st1", 2_048, 80.0, Some((500.0, 2_048))),
            ("st1", 8_192, 320.0, Some((500.0, 8_192))),
            ("st1", 12_800, 500.0, None),
            ("st1", 16_384, 500.0, None),
            ("sc1", 1_024, 12.0, Some((80.0, 1_024))),
            ("sc1", 4_096, 48.0, Some((250.0, 4_096))),
            ("sc1", 16_384, 192.0, Some((250.0, 16_384))),
        ] {
            let limits = of(kind, size, None, None);
            assert_eq!((bytes(limits), burst(limits)), (base, most), "{kind} of {size} GiB");
            assert_eq!(limits.operation_bytes, 1 << 20);
        }
        assert_eq!(bytes(of("st1", 125, None, None)), 125.0 * 40.0 / 1_024.0);
        let standard = of("standard", 1, None, None);
        assert_eq!((operations(standard), bytes(standard)), ((200, None), 90.0));
    }
}
