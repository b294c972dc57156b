//! Volumes: DescribeVolumes, and the rules by which a launch's block device mappings become
//! volumes.
//!
//! A volume's record says what it is; its place at an instance stands in the instance's record
//! ([`record::AttachedVolume`]), which a launch and a termination write anyway.
//!
//! Not here: CreateVolume and its like, snapshots, encryption.

use crate::interface::Names;
use crate::record::{AttachedVolume, Instance, InstanceState, Volume, key};
use crate::tag;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::DescribeVolumes,
    describe_volumes,
    Read,
    ["Filters.*", "VolumeIds", "MaxResults", "NextToken", "IncludeManagedResources"]
)];

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
}

/// Size, kind and performance of a volume, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// GiB.
    pub(crate) size_gib: u32,
    /// `gp3`, …
    pub(crate) kind: String,
    /// IOPS as DescribeVolumes shows them.
    pub(crate) iops: Option<u32>,
    /// MiB/s, gp3 only.
    pub(crate) throughput: Option<u32>,
}

/// Limits of a volume type (EBS User Guide, "Amazon EBS volume types").
struct Limits {
    kind: &'static str,
    size: std::ops::RangeInclusive<i32>,
    /// Provisionable IOPS and how many a GiB may have.
    iops: Option<(std::ops::RangeInclusive<i32>, i32)>,
}

const LIMITS: &[Limits] = &[
    Limits { kind: "gp3", size: 1..=65_536, iops: Some((3_000..=80_000, 500)) },
    Limits { kind: "gp2", size: 1..=16_384, iops: None },
    Limits { kind: "io1", size: 4..=16_384, iops: Some((100..=64_000, 50)) },
    Limits { kind: "io2", size: 4..=65_536, iops: Some((100..=256_000, 1_000)) },
    Limits { kind: "st1", size: 125..=16_384, iops: None },
    Limits { kind: "sc1", size: 125..=16_384, iops: None },
    Limits { kind: "standard", size: 1..=1_024, iops: None },
];

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
) -> Result<Shape, Error> {
    let kind = wish.kind.as_deref().unwrap_or(default_kind);
    let limits = LIMITS.iter().find(|limits| limits.kind == kind).ok_or_else(|| {
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
    Ok(Shape {
        size_gib: size.unsigned_abs(),
        kind: kind.to_owned(),
        iops: iops.map(i32::unsigned_abs),
        throughput: throughput.map(i32::unsigned_abs),
    })
}

fn iops(wish: &Wish, limits: &Limits, size: i32) -> Result<Option<i32>, Error> {
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
    if !included && i64::from(iops) > i64::from(size) * i64::from(*per_gib) {
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

/// A volume with its place at an instance.
struct View {
    volume: Arc<Volume>,
    instance: Option<(Arc<Instance>, AttachedVolume)>,
    zone_id: String,
}

impl View {
    fn new(call: &Call<'_>, names: &mut Names, volume: Arc<Volume>) -> Result<Self, Error> {
        let mut instance = None;
        if let Some(id) = volume.attachments.first() {
            let at = key::of(call.region, key::INSTANCE, call.account(), id);
            instance = call.peek::<Instance>(&at)?.and_then(|instance| {
                let place = instance.volumes.iter().find(|v| v.volume_id == volume.id).cloned();
                place.map(|place| (instance, place))
            });
        }
        Ok(View {
            zone_id: names.zone_id(call.region, &volume.availability_zone),
            volume,
            instance,
        })
    }

    fn state(&self) -> &'static str {
        if self.volume.attachments.is_empty() { "available" } else { "in-use" }
    }

    fn into_model(self) -> api::Volume {
        let state = self.state();
        let volume = &*self.volume;
        let attachments = self.instance.iter().map(|(instance, place)| api::VolumeAttachment {
            attach_time: Some(place.attached),
            delete_on_termination: Some(place.delete_on_termination),
            device: Some(place.device_name.clone()),
            instance_id: Some(instance.id.clone()),
            state: Some(attachment_status(instance.state).to_owned()),
            volume_id: Some(volume.id.clone()),
            ..Default::default()
        });
        api::Volume {
            attachments: Some(attachments.collect()),
            availability_zone: Some(volume.availability_zone.clone()),
            availability_zone_id: Some(self.zone_id),
            create_time: Some(volume.created),
            encrypted: Some(false),
            iops: volume.iops.and_then(|iops| i32::try_from(iops).ok()),
            multi_attach_enabled: Some(false),
            operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
            size: i32::try_from(volume.size_gib).ok(),
            snapshot_id: Some(volume.snapshot_id.clone().unwrap_or_default()),
            state: Some(state.to_owned()),
            tags: tag::to_model(&volume.tags),
            throughput: volume.throughput.and_then(|rate| i32::try_from(rate).ok()),
            volume_id: Some(volume.id.clone()),
            volume_type: Some(volume.kind.clone()),
            ..Default::default()
        }
    }
}

/// State of an attachment while its instance is in `state`.
pub(crate) fn attachment_status(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Pending => "attaching",
        InstanceState::ShuttingDown => "detaching",
        _ => "attached",
    }
}

fn attachment<'a>(
    view: &'a View,
    value: impl Fn(&'a Instance, &'a AttachedVolume) -> Cow<'a, str>,
) -> Values<'a> {
    view.instance.iter().map(|(instance, place)| value(instance, place)).collect()
}

const FILTERS: &[Field<View>] = &[
    ("attachment.attach-time", |v| attachment(v, |_, a| a.attached.iso_millis().into())),
    ("attachment.delete-on-termination", |v| {
        attachment(v, |_, a| a.delete_on_termination.to_string().into())
    }),
    ("attachment.device", |v| attachment(v, |_, a| a.device_name.as_str().into())),
    ("attachment.instance-id", |v| attachment(v, |i, _| i.id.as_str().into())),
    ("attachment.status", |v| attachment(v, |i, _| attachment_status(i.state).into())),
    ("availability-zone", |v| vec![v.volume.availability_zone.as_str().into()]),
    ("availability-zone-id", |v| vec![v.zone_id.as_str().into()]),
    ("create-time", |v| vec![v.volume.created.iso_millis().into()]),
    ("encrypted", |_| vec!["false".into()]),
    ("fast-restored", |_| vec!["false".into()]),
    ("multi-attach-enabled", |_| vec!["false".into()]),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", |_| Vec::new()),
    ("size", |v| vec![v.volume.size_gib.to_string().into()]),
    ("snapshot-id", |v| vec![v.volume.snapshot_id.as_deref().unwrap_or_default().into()]),
    ("status", |v| vec![v.state().into()]),
    ("volume-id", |v| vec![v.volume.id.as_str().into()]),
    ("volume-type", |v| vec![v.volume.kind.as_str().into()]),
];

fn describe_volumes(
    call: &mut Call<'_>,
    input: api::DescribeVolumesRequest,
) -> Result<api::DescribeVolumesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.volume_ids.unwrap_or_default();
    if !ids.is_empty() && input.max_results.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter volumeSet cannot be used with the parameter maxResults",
        ));
    }
    let at = |id: &str| key::of(call.region, key::VOLUME, call.account(), id);
    let mut found: Vec<Arc<Volume>> = Vec::new();
    if !ids.is_empty() {
        for id in &ids {
            if !base::id::is_valid("vol", id) {
                return Err(Error::invalid_parameter_value(format!(
                    "Value ({id}) for parameter volumes is invalid. Expected: 'vol-...'."
                )));
            }
            found.push(call.peek(&at(id))?.ok_or_else(|| {
                Error::client(
                    "InvalidVolume.NotFound",
                    format!("The volume '{id}' does not exist."),
                )
            })?);
        }
    } else if let Some(instances) = filters.exact("attachment.instance-id") {
        for id in instances {
            let instance = key::of(call.region, key::INSTANCE, call.account(), id);
            let Some(instance) = call.peek::<Instance>(&instance)? else { continue };
            for place in &instance.volumes {
                found.extend(call.peek::<Volume>(&at(&place.volume_id))?);
            }
        }
    } else {
        found = call.scan(&at(""))?;
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    let mut names = Names::default();
    let mut views = Vec::with_capacity(found.len());
    for volume in found {
        let view = View::new(call, &mut names, volume)?;
        if filters.accept(&view, &view.volume.tags) {
            views.push(view);
        }
    }
    let page = page(
        views,
        |view| view.volume.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeVolumesResult {
        volumes: Some(page.items.into_iter().map(View::into_model).collect()),
        next_token: page.next_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance;
    use crate::launch::run_instances;
    use crate::testing::{Region, filter, list};

    #[test]
    fn volumes_show_their_instance() {
        let region = Region::new();
        let mut request = instance::tests::request(&region);
        request.block_device_mappings = Some(vec![
            api::BlockDeviceMapping {
                device_name: Some("/dev/xvda".to_owned()),
                ebs: Some(api::EbsBlockDevice {
                    volume_size: Some(20),
                    volume_type: Some("gp2".to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            api::BlockDeviceMapping {
                device_name: Some("/dev/sdf".to_owned()),
                ebs: Some(api::EbsBlockDevice { volume_size: Some(5), ..Default::default() }),
                ..Default::default()
            },
        ]);
        let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
        let id = launched.instance_id.unwrap();
        let ask = |name: &str, value: &str| {
            let input = api::DescribeVolumesRequest {
                filters: Some(vec![filter(name, &[value])]),
                ..Default::default()
            };
            region.ok(describe_volumes, input).volumes.unwrap()
        };
        assert_eq!(ask("attachment.instance-id", &id).len(), 2);
        assert_eq!(ask("attachment.instance-id", "i-*").len(), 2);
        assert_eq!(ask("attachment.instance-id", "i-12345678").len(), 0);
        let root = ask("attachment.device", "/dev/xvda").remove(0);
        assert_eq!((root.size, root.iops, root.throughput), (Some(20), Some(100), None));
        assert!(root.snapshot_id.unwrap().starts_with("snap-"));
        let attachment = &root.attachments.as_ref().unwrap()[0];
        assert_eq!(attachment.delete_on_termination, Some(true));
        assert_eq!(attachment.instance_id.as_deref(), Some(id.as_str()));
        let data = ask("size", "5").remove(0);
        assert_eq!(data.volume_type.as_deref(), Some("gp2"));
        assert_eq!(data.snapshot_id.as_deref(), Some(""));
        assert_eq!(data.attachments.unwrap()[0].delete_on_termination, Some(false));
        let input = api::DescribeVolumesRequest {
            volume_ids: list(&["vol-12345678"]),
            ..Default::default()
        };
        assert_eq!(
            region.refused(describe_volumes, input),
            "InvalidVolume.NotFound: The volume 'vol-12345678' does not exist."
        );
    }

    #[test]
    fn bad_mappings_are_refused() {
        let region = Region::new();
        let refused = |device: &str, size: Option<i32>, encrypted: Option<bool>| {
            let mut request = instance::tests::request(&region);
            request.block_device_mappings = Some(vec![api::BlockDeviceMapping {
                device_name: Some(device.to_owned()),
                ebs: Some(api::EbsBlockDevice {
                    volume_size: size,
                    encrypted,
                    ..Default::default()
                }),
                ..Default::default()
            }]);
            region.refused(run_instances, request)
        };
        assert!(refused("/dev/sdf", None, None).starts_with("MissingParameter: "));
        assert!(refused("sd f", Some(1), None).starts_with("InvalidBlockDeviceMapping: "));
        assert!(refused("/dev/xvda", Some(0), None).starts_with("InvalidBlockDeviceMapping: "));
        assert_eq!(
            refused("/dev/xvda", None, Some(true)),
            "UnsupportedOperation: BlockDeviceMapping.Ebs.Encrypted=true is not built in gureum yet."
        );
    }

    fn wish(size: Option<i32>, kind: &str, iops: Option<i32>, throughput: Option<i32>) -> Wish {
        Wish { size, kind: Some(kind.to_owned()), iops, throughput }
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
        assert_eq!(code(wish(Some(124), "st1", None, None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(1_025), "standard", None, None)), "InvalidParameterValue");
        assert_eq!(code(wish(Some(0), "gp3", None, None)), "InvalidParameterValue");
        let small = shape(&wish(Some(1), "gp3", None, None), Some(("snap-1", 2)), "gp3");
        assert_eq!(small.unwrap_err().code, "InvalidBlockDeviceMapping");
    }
}
