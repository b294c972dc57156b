//! DescribeVolumes.

use super::{attachment_status, find_all, is_encrypted, key_of, state_name};
use crate::interface::Names;
use crate::record::{AttachedVolume, Instance, Volume, key};
use crate::{region, tag};
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::borrow::Cow;
use std::sync::Arc;

/// A volume's place at an instance.
pub(super) struct Place {
    pub(super) instance: Arc<Instance>,
    /// In the instance's volumes.
    index: usize,
}

impl Place {
    fn attached(&self) -> &AttachedVolume {
        &self.instance.volumes[self.index]
    }

    fn status(&self) -> &'static str {
        attachment_status(&self.instance, self.attached())
    }
}

/// A volume with its places.
pub(super) struct View {
    pub(super) volume: Arc<Volume>,
    pub(super) places: Vec<Place>,
    pub(super) zone_id: String,
}

impl View {
    pub(super) fn new(
        call: &Call<'_>,
        names: &mut Names,
        volume: Arc<Volume>,
    ) -> Result<Self, Error> {
        let mut places = Vec::with_capacity(volume.attachments.len());
        for id in &volume.attachments {
            let at = key::of(call.region, key::INSTANCE, call.account(), id);
            let Some(instance) = call.peek::<Instance>(&at)? else { continue };
            let index = instance.volumes.iter().position(|place| place.volume_id == volume.id);
            if let Some(index) = index {
                places.push(Place { instance, index });
            }
        }
        Ok(View { zone_id: names.zone_id(call.region, &volume.availability_zone), volume, places })
    }
}

/// A volume as the API shows it.
pub(super) fn to_model(region: &str, volume: &Volume, places: Vec<Place>) -> api::Volume {
    let attachments = places.iter().map(|place| {
        let attached = place.attached();
        api::VolumeAttachment {
            attach_time: Some(attached.attached),
            delete_on_termination: Some(attached.delete_on_termination),
            device: Some(attached.device_name.clone()),
            instance_id: Some(place.instance.id.clone()),
            state: Some(place.status().to_owned()),
            volume_id: Some(volume.id.clone()),
            ..Default::default()
        }
    });
    let number = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
    api::Volume {
        attachments: Some(attachments.collect()),
        availability_zone: Some(volume.availability_zone.clone()),
        availability_zone_id: region::zone_id(region, &volume.availability_zone),
        create_time: Some(volume.created),
        encrypted: Some(is_encrypted(volume)),
        fast_restored: volume.filled_first.then_some(true),
        iops: number(volume.iops),
        kms_key_id: volume.key.as_ref().map(|key| key.key_arn.clone()),
        multi_attach_enabled: Some(volume.multi_attach),
        operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
        size: number(Some(volume.size_gib)),
        snapshot_id: Some(volume.snapshot_id.clone().unwrap_or_default()),
        state: Some(state_name(volume).to_owned()),
        tags: tag::to_model(&volume.tags),
        throughput: number(volume.throughput),
        volume_id: Some(volume.id.clone()),
        volume_initialization_rate: number(volume.initialization_rate),
        volume_type: Some(volume.kind.clone()),
        ..Default::default()
    }
}

fn attachment<'a>(view: &'a View, value: impl Fn(&'a Place) -> Cow<'a, str>) -> Values<'a> {
    view.places.iter().map(value).collect()
}

const FILTERS: &[Field<View>] = &[
    ("attachment.attach-time", |v| attachment(v, |p| p.attached().attached.iso_millis().into())),
    ("attachment.delete-on-termination", |v| {
        attachment(v, |p| p.attached().delete_on_termination.to_string().into())
    }),
    ("attachment.device", |v| attachment(v, |p| p.attached().device_name.as_str().into())),
    ("attachment.instance-id", |v| attachment(v, |p| p.instance.id.as_str().into())),
    ("attachment.status", |v| attachment(v, |p| p.status().into())),
    ("availability-zone", |v| vec![v.volume.availability_zone.as_str().into()]),
    ("availability-zone-id", |v| vec![v.zone_id.as_str().into()]),
    ("create-time", |v| vec![v.volume.created.iso_millis().into()]),
    ("encrypted", |v| vec![is_encrypted(&v.volume).to_string().into()]),
    ("fast-restored", |v| vec![v.volume.filled_first.to_string().into()]),
    ("multi-attach-enabled", |v| vec![v.volume.multi_attach.to_string().into()]),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", |_| Vec::new()),
    ("size", |v| vec![v.volume.size_gib.to_string().into()]),
    ("snapshot-id", |v| vec![v.volume.snapshot_id.as_deref().unwrap_or_default().into()]),
    ("status", |v| vec![state_name(&v.volume).into()]),
    ("volume-id", |v| vec![v.volume.id.as_str().into()]),
    ("volume-type", |v| vec![v.volume.kind.as_str().into()]),
];

/// The volumes of these ids, or those that may pass the filters, with their places; once each and by
/// id.
pub(super) fn views<'t>(
    call: &mut Call<'_>,
    ids: &[String],
    has_max_results: bool,
    instances: Option<&[String]>,
    accept: impl Fn(&View) -> bool + 't,
) -> Result<Vec<View>, Error> {
    if !ids.is_empty() && has_max_results {
        return Err(Error::invalid_parameter_combination(
            "The parameter volumeSet cannot be used with the parameter maxResults",
        ));
    }
    let mut found: Vec<Arc<Volume>> = Vec::new();
    if !ids.is_empty() {
        found = find_all(call, ids)?;
    } else if let Some(instances) = instances {
        for id in instances {
            let instance = key::of(call.region, key::INSTANCE, call.account(), id);
            let Some(instance) = call.peek::<Instance>(&instance)? else { continue };
            for place in &instance.volumes {
                found.extend(call.peek::<Volume>(&key_of(call, &place.volume_id))?);
            }
        }
    } else {
        found = call.scan(&key_of(call, ""))?;
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    let mut names = Names::default();
    let mut views = Vec::with_capacity(found.len());
    for volume in found {
        let view = View::new(call, &mut names, volume)?;
        if accept(&view) {
            views.push(view);
        }
    }
    Ok(views)
}

pub(super) fn describe_volumes(
    call: &mut Call<'_>,
    input: api::DescribeVolumesRequest,
) -> Result<api::DescribeVolumesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.volume_ids.unwrap_or_default();
    let instances = filters.exact("attachment.instance-id");
    let found = views(call, &ids, input.max_results.is_some(), instances, |view| {
        filters.accept(view, &view.volume.tags)
    })?;
    let page = page(
        found,
        |view| view.volume.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let region = call.region;
    let shown =
        page.items.into_iter().map(|view| to_model(region, &view.volume, view.places)).collect();
    Ok(api::DescribeVolumesResult { volumes: Some(shown), next_token: page.next_token })
}
