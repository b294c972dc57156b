//! ModifyVolume and DescribeVolumesModifications.
//!
//! ```text
//!  ModifyVolume             the node has done it            a while later
//!  ────────────► modifying ─────────────────────► optimizing ─────────────► completed
//! ```
//!
//! The volume is shown as it was until the node has done it. Rules are those of the EBS User Guide,
//! "Requirements for Elastic Volumes operations". [`crate::volume_reconciler`] makes the moves.

use super::shape::{Wish, shape};
use super::{check_id, find_all, get_one, key_of, not_available, put};
use crate::instance;
use crate::record::{
    Instance, ModificationState, Volume, VolumeModification, VolumeShape, VolumeState, key,
};
use base::Timestamp;
use model::ec2 as api;
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error};
use std::collections::BTreeSet;

/// Modifications in [`WINDOW_MILLIS`].
const MOST: usize = 4;
const WINDOW_MILLIS: i64 = 24 * 3_600_000;
/// How long a volume is `optimizing`, in the region's milliseconds. Here it is as fast as it is to
/// be at once; EBS takes its time, and its clients are to see that state.
pub(crate) const OPTIMIZING_MILLIS: i64 = 5_000;
/// Provisioned IOPS of a volume that becomes one with provisioned IOPS and does not say how many
/// (EC2 API Reference, "ModifyVolume").
const DEFAULT_IOPS: u32 = 3_000;

/// What a volume is, as far as it can be modified.
pub(crate) fn shape_of(volume: &Volume) -> VolumeShape {
    VolumeShape {
        size_gib: volume.size_gib,
        kind: volume.kind.clone(),
        iops: volume.iops,
        throughput: volume.throughput,
        multi_attach: volume.multi_attach,
    }
}

impl ModificationState {
    fn name(self) -> &'static str {
        match self {
            ModificationState::Modifying => "modifying",
            ModificationState::Optimizing => "optimizing",
            ModificationState::Completed => "completed",
            ModificationState::Failed => "failed",
        }
    }
}

pub(super) fn modify_volume(
    call: &mut Call<'_>,
    input: api::ModifyVolumeRequest,
) -> Result<api::ModifyVolumeResult, Error> {
    let found = get_one(call, input.volume_id.as_deref())?;
    if found.state != VolumeState::Available {
        return Err(not_available(&found));
    }
    let wish = Wish {
        size: input.size,
        kind: input.volume_type,
        iops: input.iops,
        throughput: input.throughput,
        multi_attach: input.multi_attach_enabled,
    };
    if wish == Wish::default() {
        return Err(Error::missing_parameter(
            "size, volumeType, iops, throughput or multiAttachEnabled",
        ));
    }
    check_rate(&found, call.now)?;
    let original = shape_of(&found);
    let target = target(&original, wish)?;
    check_multi_attach(&found, &original, &target)?;
    if matches!(target.kind.as_str(), "st1" | "sc1") {
        check_is_no_root(call, &found, &target.kind)?;
    }
    let modification = VolumeModification {
        original,
        target,
        state: ModificationState::Modifying,
        started: instance::whole_second(call.now),
        optimizing: None,
        ended: None,
        message: None,
    };
    let mut volume = Volume::clone(&found);
    let since = modification.started.plus_millis(-WINDOW_MILLIS);
    volume.modifications.retain(|known| known.started > since);
    let shown = to_model(&volume.id, &modification, call.now);
    volume.modifications.push(modification);
    put(call, volume);
    Ok(api::ModifyVolumeResult { volume_modification: Some(shown) })
}

/// One modification after the other, and not many a day.
fn check_rate(volume: &Volume, now: Timestamp) -> Result<(), Error> {
    let Some(newest) = volume.modifications.last() else { return Ok(()) };
    if let ModificationState::Modifying | ModificationState::Optimizing = newest.state {
        return Err(Error::client(
            "IncorrectModificationState",
            format!(
                "Volume {} cannot be modified in modification state {}",
                volume.id,
                newest.state.name().to_uppercase()
            ),
        ));
    }
    let since = now.plus_millis(-WINDOW_MILLIS);
    let recent: Vec<&VolumeModification> =
        volume.modifications.iter().filter(|known| known.started > since).collect();
    if recent.len() < MOST {
        return Ok(());
    }
    let next = recent[recent.len() - MOST].started.plus_millis(WINDOW_MILLIS);
    Err(Error::client(
        "VolumeModificationRateExceeded",
        format!(
            "You've reached the maximum modification rate per volume limit. You can modify the \
             volume {} again at {}.",
            volume.id,
            next.iso_seconds()
        ),
    ))
}

/// What a wish makes of a volume.
fn target(original: &VolumeShape, mut wish: Wish) -> Result<VolumeShape, Error> {
    let number = |number: u32| i32::try_from(number).ok();
    let keeps_kind = wish.kind.as_ref().is_none_or(|kind| *kind == original.kind);
    let kind = wish.kind.get_or_insert_with(|| original.kind.clone()).clone();
    if wish.size.is_some_and(|size| i64::from(size) < i64::from(original.size_gib)) {
        return Err(Error::invalid_parameter_value(
            "New size cannot be smaller than existing size",
        ));
    }
    wish.size = wish.size.or(number(original.size_gib));
    if matches!(kind.as_str(), "gp3" | "io1" | "io2") && wish.iops.is_none() {
        // Those that it has, also where a type with provisioned IOPS follows another.
        let has = original.iops.filter(|_| keeps_kind);
        wish.iops = number(has.unwrap_or(DEFAULT_IOPS));
    }
    if kind == "gp3" && wish.throughput.is_none() && keeps_kind {
        wish.throughput = original.throughput.and_then(number);
    }
    wish.multi_attach = wish.multi_attach.or(Some(original.multi_attach));
    shape(&wish, None, &kind)
}

/// EBS User Guide, "Multi-Attach", "Considerations".
fn check_multi_attach(
    volume: &Volume,
    original: &VolumeShape,
    target: &VolumeShape,
) -> Result<(), Error> {
    let refused = |message: &str| Err(Error::invalid_parameter_combination(message));
    match (original.multi_attach, target.multi_attach) {
        (true, true) if original.kind == "io1" => refused(
            "Elastic Volumes operations are not supported for io1 volumes that are enabled for \
             Multi-Attach.",
        ),
        (true, _) if original.kind != target.kind => {
            refused("The type of a volume that is enabled for Multi-Attach cannot be changed.")
        }
        (false, true) if target.kind != "io2" => refused(
            "Multi-Attach can be enabled after the creation of a volume for io2 volumes only.",
        ),
        (false, true) if !volume.attachments.is_empty() => refused(
            "Multi-Attach can be enabled only while the volume is not attached to an instance.",
        ),
        (true, false) if volume.attachments.len() > 1 => refused(
            "Multi-Attach can be disabled only while the volume is attached to no more than one \
             instance.",
        ),
        _ => Ok(()),
    }
}

fn check_is_no_root(call: &mut Call<'_>, volume: &Volume, kind: &str) -> Result<(), Error> {
    for id in &volume.attachments {
        let at = key::of(call.region, key::INSTANCE, call.account(), id);
        let Some(instance) = call.get::<Instance>(&at)? else { continue };
        let place = instance.volumes.iter().find(|place| place.volume_id == volume.id);
        if place.is_some_and(|place| place.device_name == instance.root_device_name) {
            return Err(crate::launch::not_bootable(kind));
        }
    }
    Ok(())
}

/// Progress of a modification, percent: of the time that it is `optimizing`.
fn progress(modification: &VolumeModification, now: Timestamp) -> i64 {
    match (modification.state, modification.optimizing) {
        (ModificationState::Completed, _) => 100,
        (ModificationState::Optimizing, Some(since)) => {
            ((now.0 - since.0) * 100 / OPTIMIZING_MILLIS).clamp(0, 99)
        }
        _ => 0,
    }
}

fn to_model(
    id: &str,
    modification: &VolumeModification,
    now: Timestamp,
) -> api::VolumeModification {
    let number = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
    let VolumeModification { original, target, .. } = modification;
    api::VolumeModification {
        end_time: modification.ended,
        modification_state: Some(modification.state.name().to_owned()),
        operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
        original_iops: number(original.iops),
        original_multi_attach_enabled: Some(original.multi_attach),
        original_size: number(Some(original.size_gib)),
        original_throughput: number(original.throughput),
        original_volume_type: Some(original.kind.clone()),
        progress: Some(progress(modification, now)),
        start_time: Some(modification.started),
        status_message: modification.message.clone(),
        target_iops: number(target.iops),
        target_multi_attach_enabled: Some(target.multi_attach),
        target_size: number(Some(target.size_gib)),
        target_throughput: number(target.throughput),
        target_volume_type: Some(target.kind.clone()),
        volume_id: Some(id.to_owned()),
    }
}

type Shown = (std::sync::Arc<Volume>, VolumeModification);

fn number(number: Option<u32>) -> service::filter::Values<'static> {
    number.map(|number| number.to_string().into()).into_iter().collect()
}

const FILTERS: &[Field<Shown>] = &[
    ("modification-state", |(_, m)| vec![m.state.name().into()]),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", |_| Vec::new()),
    ("original-iops", |(_, m)| number(m.original.iops)),
    ("original-size", |(_, m)| number(Some(m.original.size_gib))),
    ("original-volume-type", |(_, m)| vec![m.original.kind.as_str().into()]),
    ("originalMultiAttachEnabled", |(_, m)| vec![m.original.multi_attach.to_string().into()]),
    ("start-time", |(_, m)| vec![m.started.iso_millis().into()]),
    ("target-iops", |(_, m)| number(m.target.iops)),
    ("target-size", |(_, m)| number(Some(m.target.size_gib))),
    ("target-volume-type", |(_, m)| vec![m.target.kind.as_str().into()]),
    ("targetMultiAttachEnabled", |(_, m)| vec![m.target.multi_attach.to_string().into()]),
    ("volume-id", |(v, _)| vec![v.id.as_str().into()]),
];

pub(super) fn describe_volumes_modifications(
    call: &mut Call<'_>,
    input: api::DescribeVolumesModificationsRequest,
) -> Result<api::DescribeVolumesModificationsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids: BTreeSet<String> = input.volume_ids.unwrap_or_default().into_iter().collect();
    let found = if ids.is_empty() {
        call.scan::<Volume>(&key_of(call, ""))?
    } else {
        for id in &ids {
            check_id(id)?;
        }
        let ids: Vec<String> = ids.into_iter().collect();
        let found = find_all(call, &ids)?;
        if let Some(never) = found.iter().find(|volume| volume.modifications.is_empty()) {
            return Err(Error::client(
                "InvalidVolumeModification.NotFound",
                format!("Modification for volume '{}' does not exist.", never.id),
            ));
        }
        found
    };
    let mut shown: Vec<Shown> = found
        .into_iter()
        .filter_map(|volume| {
            let newest = volume.modifications.last()?.clone();
            Some((volume, newest))
        })
        .collect();
    shown.retain(|item| filters.accept(item, &item.0.tags));
    shown.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    let page = page(
        shown,
        |(volume, _)| volume.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        1..=500,
    )?;
    let now = call.now;
    let items = page.items.iter().map(|(volume, newest)| to_model(&volume.id, newest, now));
    Ok(api::DescribeVolumesModificationsResult {
        volumes_modifications: Some(items.collect()),
        next_token: page.next_token,
    })
}
