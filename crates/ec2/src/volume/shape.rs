//! Types of volumes: their sizes, their IOPS and throughput, and what a request may ask of them.
//!
//! Numbers are those of the EBS User Guide, "Amazon EBS volume types". An io2 volume that lies within
//! what io2 was before Block Express (16,384 GiB, 64,000 IOPS) has its ratio of 500 IOPS a GiB; what
//! lies beyond is Block Express and has 1,000.

use crate::record::VolumeShape;
use service::Error;

/// What a request wants of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// GiB.
    pub(crate) size: Option<i32>,
    /// `gp3`, …
    pub(crate) kind: Option<String>,
    /// Provisioned IOPS.
    pub(crate) iops: Option<i32>,
    /// MiB/s.
    pub(crate) throughput: Option<i32>,
    /// Multi-Attach.
    pub(crate) multi_attach: Option<bool>,
}

/// Limits of a volume type (EBS User Guide, "Amazon EBS volume types").
struct Range {
    kind: &'static str,
    size: std::ops::RangeInclusive<i32>,
    /// Provisionable IOPS and how many a GiB may have.
    iops: Option<(std::ops::RangeInclusive<i32>, i32)>,
}

const TYPES: &[Range] = &[
    Range { kind: "gp3", size: 1..=65_536, iops: Some((3_000..=80_000, 500)) },
    Range { kind: "gp2", size: 1..=16_384, iops: None },
    Range { kind: "io1", size: 4..=16_384, iops: Some((100..=64_000, 50)) },
    Range { kind: "io2", size: 4..=65_536, iops: Some((100..=256_000, IO2_RATIO)) },
    Range { kind: "st1", size: 125..=16_384, iops: None },
    Range { kind: "sc1", size: 125..=16_384, iops: None },
    Range { kind: "standard", size: 1..=1_024, iops: None },
];

/// IOPS a GiB of io2.
const IO2_RATIO: i32 = 500;
/// And of io2 Block Express: beyond this size or these IOPS.
const BLOCK_EXPRESS: (i32, i32, i32) = (1_000, 16_384, 64_000);
/// IOPS and MiB/s that every gp3 volume has.
const GP3_INCLUDED: (i32, i32) = (3_000, 125);
/// Most MiB/s of a gp3 volume.
const GP3_THROUGHPUT: i32 = 2_000;

/// Checks a wish. `snapshot` is the id and the size of what the volume starts from; `default_kind`
/// applies when the wish names none.
pub(crate) fn shape(
    wish: &Wish,
    snapshot: Option<(&str, u32)>,
    default_kind: &str,
) -> Result<VolumeShape, Error> {
    let kind = wish.kind.as_deref().unwrap_or(default_kind);
    let limits = TYPES.iter().find(|limits| limits.kind == kind).ok_or_else(|| {
        Error::invalid_parameter_value(format!("Invalid value '{kind}' for volumeType."))
    })?;
    let size = match (wish.size, snapshot) {
        (Some(size), Some((id, smallest))) if i64::from(size) < i64::from(smallest) => {
            return Err(Error::client(
                "InvalidBlockDeviceMapping",
                format!(
                    "Volume of size {size}GB is smaller than snapshot '{id}', expect size >= \
                     {smallest}GB"
                ),
            ));
        }
        (Some(size), _) => size,
        (None, Some((_, smallest))) => i32::try_from(smallest).map_err(Error::internal)?,
        (None, None) => {
            return Err(Error::missing_parameter("size or snapshotId"));
        }
    };
    if size < *limits.size.start() {
        return Err(Error::invalid_parameter_value(format!(
            "Volume of {size}GiB is too small for volume type {kind}; minimum is {}GiB.",
            limits.size.start()
        )));
    }
    if size > *limits.size.end() {
        return Err(Error::invalid_parameter_value(format!(
            "Volume of {size}GiB is too large for volume type {kind}; maximum is {}GiB.",
            limits.size.end()
        )));
    }
    let iops = iops(wish, limits, size)?;
    let throughput = throughput(wish, kind, iops)?;
    let multi_attach = wish.multi_attach.unwrap_or(false);
    if multi_attach && !matches!(kind, "io1" | "io2") {
        return Err(Error::invalid_parameter_combination(format!(
            "The parameter multiAttachEnabled is not supported for {kind} volumes."
        )));
    }
    Ok(VolumeShape {
        size_gib: size.unsigned_abs(),
        kind: kind.to_owned(),
        iops: iops.map(i32::unsigned_abs),
        throughput: throughput.map(i32::unsigned_abs),
        multi_attach,
    })
}

fn iops(wish: &Wish, limits: &Range, size: i32) -> Result<Option<i32>, Error> {
    let kind = limits.kind;
    let Some((range, per_gib)) = &limits.iops else {
        if wish.iops.is_some() {
            return Err(Error::invalid_parameter_combination(format!(
                "The parameter iops is not supported for {kind} volumes."
            )));
        }
        // gp2 has 3 IOPS a GiB, from 100 to 16,000; the disks on platters show none.
        return Ok((kind == "gp2").then(|| size.saturating_mul(3).clamp(100, 16_000)));
    };
    let iops = match wish.iops {
        Some(iops) => iops,
        None if kind == "gp3" => GP3_INCLUDED.0,
        None => {
            return Err(Error::missing_parameter("iops"));
        }
    };
    if iops < *range.start() {
        return Err(Error::invalid_parameter_value(format!(
            "Volume iops of {iops} is too low; minimum is {}.",
            range.start()
        )));
    }
    if iops > *range.end() {
        return Err(Error::invalid_parameter_value(format!(
            "Volume iops of {iops} is too high; maximum is {}.",
            range.end()
        )));
    }
    let included = kind == "gp3" && iops == GP3_INCLUDED.0;
    let (express, size_without, iops_without) = BLOCK_EXPRESS;
    let is_express = kind == "io2" && (size > size_without || iops > iops_without);
    let per_gib = if is_express { express } else { *per_gib };
    if !included && i64::from(iops) > i64::from(size) * i64::from(per_gib) {
        return Err(Error::invalid_parameter_value(format!(
            "Iops to volume size ratio of {:.6} is too high; maximum is {per_gib}.",
            f64::from(iops) / f64::from(size)
        )));
    }
    Ok(Some(iops))
}

fn throughput(wish: &Wish, kind: &str, iops: Option<i32>) -> Result<Option<i32>, Error> {
    if kind != "gp3" {
        return match wish.throughput {
            Some(_) => Err(Error::invalid_parameter_combination(format!(
                "The parameter throughput is not supported for {kind} volumes."
            ))),
            None => Ok(None),
        };
    }
    let throughput = wish.throughput.unwrap_or(GP3_INCLUDED.1);
    if throughput < GP3_INCLUDED.1 {
        return Err(Error::invalid_parameter_value(format!(
            "Throughput (MiBps) of {throughput} is too low; minimum is {}.",
            GP3_INCLUDED.1
        )));
    }
    if throughput > GP3_THROUGHPUT {
        return Err(Error::invalid_parameter_value(format!(
            "Throughput (MiBps) of {throughput} is too high; maximum is {GP3_THROUGHPUT}."
        )));
    }
    // A quarter of a MiB/s for each of the IOPS.
    let iops = iops.unwrap_or(GP3_INCLUDED.0);
    if throughput > iops / 4 {
        return Err(Error::invalid_parameter_value(format!(
            "Throughput (MiBps) to iops ratio of {:.6} is too high; maximum is 0.250000.",
            f64::from(throughput) / f64::from(iops)
        )));
    }
    Ok(Some(throughput))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(size: Option<i32>, kind: &str, iops: Option<i32>, throughput: Option<i32>) -> Wish {
        Wish { size, kind: Some(kind.to_owned()), iops, throughput, multi_attach: None }
    }

    #[test]
    fn shapes_have_what_their_type_includes() {
        let gp3 = shape(&wish(Some(8), "gp3", None, None), None, "gp2").unwrap();
        assert_eq!((gp3.iops, gp3.throughput), (Some(3_000), Some(125)));
        let gp2 = shape(&Wish::default(), Some(("snap-1", 8)), "gp2").unwrap();
        assert_eq!((gp2.size_gib, gp2.iops, gp2.throughput), (8, Some(100), None));
        let gp2 = shape(&wish(Some(1_000), "gp2", None, None), None, "gp3").unwrap();
        assert_eq!(gp2.iops, Some(3_000));
        let standard = shape(&wish(Some(1), "standard", None, None), None, "gp3").unwrap();
        assert_eq!((standard.iops, standard.throughput), (None, None));
    }

    #[test]
    fn wishes_beyond_a_type_are_refused() {
        let code = |wish: Wish| shape(&wish, None, "gp2").unwrap_err().code.into_owned();
        assert_eq!(code(Wish::default()), "MissingParameter");
        assert_eq!(code(wish(Some(8), "io1", None, None)), "MissingParameter");
        assert_eq!(code(wish(Some(8), "gp2", Some(100), None)), "InvalidParameterCombination");
        assert_eq!(code(wish(Some(8), "gp2", None, Some(125))), "InvalidParameterCombination");
        assert_eq!(code(wish(Some(4), "io1", Some(201), None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(100), "gp3", Some(3_000), Some(751))), "InvalidParameterValue");
        assert_eq!(code(wish(Some(8), "gp3", Some(2_999), None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(8), "gp3", None, Some(124))), "InvalidParameterValue");
        assert_eq!(code(wish(Some(8), "gp9", None, None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(124), "st1", None, None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(1_025), "standard", None, None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(0), "gp3", None, None)), "InvalidParameterValue");
        let shared = Wish { multi_attach: Some(true), ..wish(Some(8), "gp3", None, None) };
        assert_eq!(code(shared), "InvalidParameterCombination");
        let small = shape(&wish(Some(1), "gp3", None, None), Some(("snap-1", 2)), "gp3");
        assert_eq!(small.unwrap_err().code, "InvalidBlockDeviceMapping");
    }

    /// The greatest and the first one beyond it, of sizes and of ratios (behaviour.md 3.8).
    #[test]
    fn types_end_where_the_reference_says() {
        let ok = |size, kind, iops, throughput| {
            shape(&wish(Some(size), kind, iops, throughput), None, "gp2").is_ok()
        };
        for (kind, iops, least, most) in [
            ("gp2", None, 1, 16_384),
            ("gp3", None, 1, 65_536),
            ("io1", Some(100), 4, 16_384),
            ("io2", Some(100), 4, 65_536),
            ("st1", None, 125, 16_384),
            ("sc1", None, 125, 16_384),
            ("standard", None, 1, 1_024),
        ] {
            for (size, fits) in [(least - 1, false), (least, true), (most, true), (most + 1, false)]
            {
                assert_eq!(ok(size, kind, iops, None), fits, "{kind} of {size} GiB");
            }
        }
        for (size, kind, most) in [
            (10, "io1", 500),
            (16_384, "io1", 64_000),
            (10, "io2", 5_000),
            (16_384, "io2", 256_000),
            (100, "io2", 50_000),
            (10, "gp3", 5_000),
            (65_536, "gp3", 80_000),
        ] {
            assert!(ok(size, kind, Some(most), None), "{kind} of {size} GiB has {most} IOPS");
            assert!(!ok(size, kind, Some(most + 1), None), "{kind} of {size} GiB, {most}");
        }
        // Block Express.
        assert!(ok(100, "io2", Some(100_000), None));
        assert!(!ok(99, "io2", Some(100_000), None));
        assert!(ok(100, "gp3", Some(8_000), Some(2_000)));
        assert!(!ok(100, "gp3", Some(7_999), Some(2_000)));
        assert!(!ok(100, "gp3", Some(80_000), Some(2_001)));
    }
}
