//! The health of volumes: DescribeVolumeStatus, EnableVolumeIO, and the attribute autoEnableIO.
//!
//! A volume is impaired while the node says that its input and output fail (EBS User Guide, "Monitor
//! the status of your volumes"). EnableVolumeIO, or autoEnableIO, takes that note; while the node
//! goes on saying so the volume is shown with a warning. How far a volume has filled is asked of the
//! node when it is shown.

use super::describe::{View, views};
use super::{get_one, peek_one, put};
use crate::record::{Impairment, Volume, VolumeState};
use base::Timestamp;
use base::volume::State;
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};

const INCONSISTENT: &str = "potential-data-inconsistency";
const ENABLE: (&str, &str) = ("enable-volume-io", "Enable volume I/O");

/// A volume with what its checks say.
struct Checked {
    view: View,
    /// How much of its snapshot it holds, percent.
    filled: Option<u8>,
}

impl Checked {
    fn impairment(&self) -> Option<&Impairment> {
        self.view.volume.impaired.as_ref()
    }

    /// Input and output were disabled and nobody has enabled them.
    fn is_disabled(&self) -> bool {
        self.impairment().is_some_and(|impairment| impairment.io_enabled.is_none())
    }

    fn status(&self) -> &'static str {
        match (self.view.volume.state, self.impairment()) {
            (VolumeState::Creating, _) => "insufficient-data",
            (_, Some(_)) if self.is_disabled() => "impaired",
            (_, Some(_)) => "warning",
            _ => "ok",
        }
    }

    fn details(&self) -> Vec<(&'static str, &'static str)> {
        if self.view.volume.state == VolumeState::Creating {
            return vec![("io-enabled", "not-applicable"), ("io-performance", "not-applicable")];
        }
        let enabled = if self.is_disabled() { "failed" } else { "passed" };
        let provisioned = matches!(self.view.volume.kind.as_str(), "io1" | "io2" | "gp3");
        let performance = match self.impairment() {
            _ if !provisioned => "not-applicable",
            Some(_) => "stalled",
            None => "normal",
        };
        let mut details = vec![("io-enabled", enabled), ("io-performance", performance)];
        if let Some(filled) = self.filled {
            let state = if filled < 100 { "initializing" } else { "completed" };
            details.push(("initialization-state", state));
        }
        details
    }

    /// Its event: type, description, begin.
    fn event(&self) -> Option<(String, String, Timestamp)> {
        let impairment = self.impairment()?;
        Some(match impairment.io_enabled {
            None => {
                let text = format!("THIS IS IMPORTANT: {}", impairment.message);
                (INCONSISTENT.to_owned(), text, impairment.since)
            }
            Some(at) => {
                let by = match self.view.volume.auto_enable_io {
                    true => "IO auto-enabled",
                    false => "Initiated Customer Action",
                };
                ("io-enabled".to_owned(), format!("{by}: {}", impairment.message), at)
            }
        })
    }
}

fn event(
    checked: &Checked,
    value: impl Fn(&Impairment, (String, String, Timestamp)) -> String,
) -> Values<'_> {
    let shown = checked.impairment().zip(checked.event());
    shown.map(|(impairment, event)| value(impairment, event).into()).into_iter().collect()
}

fn action<'a>(checked: &'a Checked, value: &'a str) -> Values<'a> {
    checked.is_disabled().then(|| value.into()).into_iter().collect()
}

const FILTERS: &[Field<Checked>] = &[
    ("action.code", |c| action(c, ENABLE.0)),
    ("action.description", |c| action(c, ENABLE.1)),
    ("action.event-id", |c| action(c, c.impairment().map_or("", |i| &i.event_id))),
    ("availability-zone", |c| vec![c.view.volume.availability_zone.as_str().into()]),
    ("availability-zone-id", |c| vec![c.view.zone_id.as_str().into()]),
    ("event.description", |c| event(c, |_, (_, text, _)| text)),
    ("event.event-id", |c| event(c, |impairment, _| impairment.event_id.clone())),
    ("event.event-type", |c| event(c, |_, (kind, ..)| kind)),
    ("event.not-after", |_| Vec::new()),
    ("event.not-before", |c| event(c, |_, (_, _, at)| at.iso_millis())),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", |_| Vec::new()),
    ("volume-status.details-name", |c| c.details().iter().map(|(n, _)| (*n).into()).collect()),
    ("volume-status.details-status", |c| c.details().iter().map(|(_, s)| (*s).into()).collect()),
    ("volume-status.status", |c| vec![c.status().into()]),
];

pub(super) fn describe_volume_status(
    call: &mut Call<'_>,
    input: api::DescribeVolumeStatusRequest,
) -> Result<api::DescribeVolumeStatusResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.volume_ids.unwrap_or_default();
    let found = views(call, &ids, input.max_results.is_some(), None, |view| {
        view.volume.state != VolumeState::Deleting
    })?;
    let mut checked: Vec<Checked> = found
        .into_iter()
        .map(|view| Checked { filled: filled(call, &view.volume), view })
        .collect();
    checked.retain(|checked| filters.accept(checked, &checked.view.volume.tags));
    let page = page(
        checked,
        |checked| checked.view.volume.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeVolumeStatusResult {
        volume_statuses: Some(page.items.iter().map(to_model).collect()),
        next_token: page.next_token,
    })
}

fn filled(call: &Call<'_>, volume: &Volume) -> Option<u8> {
    volume.snapshot_id.as_ref()?;
    match call.environment.driver.volume_state(&volume.id) {
        State::Ready(ready) => Some(ready.filled_percent),
        State::Absent | State::Creating => Some(0),
        _ => None,
    }
}

fn to_model(checked: &Checked) -> api::VolumeStatusItem {
    let volume = &checked.view.volume;
    let text = |text: &str| Some(text.to_owned());
    let event_id = checked.impairment().map(|impairment| impairment.event_id.clone());
    let actions = checked.is_disabled().then(|| api::VolumeStatusAction {
        code: text(ENABLE.0),
        description: text(ENABLE.1),
        event_id: event_id.clone(),
        event_type: text(INCONSISTENT),
    });
    let events = checked.event().map(|(kind, description, at)| api::VolumeStatusEvent {
        description: Some(description),
        event_id,
        event_type: Some(kind),
        not_before: Some(at),
        ..Default::default()
    });
    let details = checked
        .details()
        .into_iter()
        .map(|(name, status)| api::VolumeStatusDetails { name: text(name), status: text(status) });
    let performance = checked.details().into_iter().find(|(name, _)| *name == "io-performance");
    let attachments = checked.view.places.iter().map(|place| api::VolumeStatusAttachmentStatus {
        instance_id: Some(place.instance.id.clone()),
        io_performance: performance.and_then(|(_, status)| text(status)),
    });
    api::VolumeStatusItem {
        actions: Some(actions.into_iter().collect()),
        attachment_statuses: volume.multi_attach.then(|| attachments.collect()),
        availability_zone: text(&volume.availability_zone),
        availability_zone_id: text(&checked.view.zone_id),
        events: Some(events.into_iter().collect()),
        initialization_status_details: checked.filled.map(|filled| initialization(volume, filled)),
        operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
        volume_id: text(&volume.id),
        volume_status: Some(api::VolumeStatusInfo {
            details: Some(details.collect()),
            status: text(checked.status()),
        }),
        ..Default::default()
    }
}

fn initialization(volume: &Volume, filled: u8) -> api::InitializationStatusDetails {
    // At its own rate it is known how long the rest takes.
    let rest = volume.initialization_rate.map(|rate| {
        let size_mib =
            i64::from(volume.source.as_ref().map_or(0, |source| source.size_gib)) * 1_024;
        size_mib * i64::from(100 - filled.min(100)) / 100 / i64::from(rate.max(1))
    });
    let kind = if rest.is_some() { "provisioned-rate" } else { "default" };
    api::InitializationStatusDetails {
        estimated_time_to_complete_in_seconds: rest,
        initialization_type: Some(kind.to_owned()),
        progress: Some(i64::from(filled)),
    }
}

pub(super) fn enable_volume_io(
    call: &mut Call<'_>,
    input: api::EnableVolumeIORequest,
) -> Result<wire::Empty, Error> {
    let found = get_one(call, input.volume_id.as_deref())?;
    if found.impaired.as_ref().is_some_and(|impairment| impairment.io_enabled.is_none()) {
        let mut volume = Volume::clone(&found);
        if let Some(impairment) = &mut volume.impaired {
            impairment.io_enabled = Some(call.now);
        }
        put(call, volume);
    }
    Ok(wire::Empty)
}

pub(super) fn describe_volume_attribute(
    call: &mut Call<'_>,
    input: api::DescribeVolumeAttributeRequest,
) -> Result<api::DescribeVolumeAttributeResult, Error> {
    let volume = peek_one(call, input.volume_id.as_deref())?;
    let mut shown = api::DescribeVolumeAttributeResult {
        volume_id: Some(volume.id.clone()),
        ..Default::default()
    };
    match input.attribute.as_deref() {
        Some("autoEnableIO") => {
            shown.auto_enable_io =
                Some(api::AttributeBooleanValue { value: Some(volume.auto_enable_io) });
        }
        Some("productCodes") => shown.product_codes = Some(Vec::new()),
        None => return Err(Error::missing_parameter("attribute")),
        Some(other) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter attribute is invalid. Unknown attribute."
            )));
        }
    }
    Ok(shown)
}

pub(super) fn modify_volume_attribute(
    call: &mut Call<'_>,
    input: api::ModifyVolumeAttributeRequest,
) -> Result<wire::Empty, Error> {
    let found = get_one(call, input.volume_id.as_deref())?;
    let wanted = input.auto_enable_io.and_then(|member| member.value);
    let wanted =
        wanted.ok_or_else(|| Error::invalid_parameter_combination("No attributes specified."))?;
    if wanted != found.auto_enable_io {
        put(call, Volume { auto_enable_io: wanted, ..Volume::clone(&found) });
    }
    Ok(wire::Empty)
}
