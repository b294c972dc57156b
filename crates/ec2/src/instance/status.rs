//! DescribeInstanceStatus: the two status checks, and no scheduled events.
//!
//! The instance check is what the driver observes of the guest's network. The system check passes
//! while the instance runs here, since the host that answers is the host that would be checked.

use super::{key_of, peek_all, state};
use crate::interface::Names;
use crate::record::{Instance, InstanceState};
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::sync::Arc;

/// A status check's summary and the detail behind it.
type Check = (&'static str, Option<&'static str>);

const INITIALIZING: Check = ("initializing", Some("initializing"));
const OK: Check = ("ok", Some("passed"));
const IMPAIRED: Check = ("impaired", Some("failed"));
const NOT_APPLICABLE: Check = ("not-applicable", None);

struct View {
    instance: Arc<Instance>,
    zone_id: String,
}

impl View {
    fn instance_check(&self) -> Check {
        match (self.instance.state, self.instance.reachable) {
            (InstanceState::Running, None) => INITIALIZING,
            (InstanceState::Running, Some(true)) => OK,
            (InstanceState::Running, Some(false)) => IMPAIRED,
            _ => NOT_APPLICABLE,
        }
    }

    fn system_check(&self) -> Check {
        match (self.instance.state, self.instance.reachable) {
            (InstanceState::Running, None) => INITIALIZING,
            (InstanceState::Running, Some(_)) => OK,
            _ => NOT_APPLICABLE,
        }
    }

    fn to_model(&self) -> api::InstanceStatus {
        let (ebs, ebs_detail) = self.system_check();
        api::InstanceStatus {
            attached_ebs_status: Some(api::EbsStatusSummary {
                details: ebs_detail.map(|status| {
                    vec![api::EbsStatusDetails {
                        name: Some("reachability".to_owned()),
                        status: Some(status.to_owned()),
                        ..Default::default()
                    }]
                }),
                status: Some(ebs.to_owned()),
            }),
            availability_zone: Some(self.instance.availability_zone.clone()),
            availability_zone_id: Some(self.zone_id.clone()),
            instance_id: Some(self.instance.id.clone()),
            instance_state: Some(state(self.instance.state)),
            instance_status: Some(summary(self.instance_check())),
            operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
            system_status: Some(summary(self.system_check())),
            ..Default::default()
        }
    }
}

fn summary((status, detail): Check) -> api::InstanceStatusSummary {
    api::InstanceStatusSummary {
        details: detail.map(|status| {
            vec![api::InstanceStatusDetails {
                name: Some("reachability".to_owned()),
                status: Some(status.to_owned()),
                ..Default::default()
            }]
        }),
        status: Some(status.to_owned()),
    }
}

/// Of scheduled events, which no instance has.
fn none<'a>(_: &'a View) -> Values<'a> {
    Vec::new()
}

fn detail<'a>(check: Check) -> Values<'a> {
    check.1.map(Into::into).into_iter().collect()
}

const FILTERS: &[Field<View>] = &[
    ("attached-ebs-status.status", |v| vec![v.system_check().0.into()]),
    ("availability-zone", |v| vec![v.instance.availability_zone.as_str().into()]),
    ("availability-zone-id", |v| vec![v.zone_id.as_str().into()]),
    ("event.code", none),
    ("event.description", none),
    ("event.instance-event-id", none),
    ("event.not-after", none),
    ("event.not-before", none),
    ("event.not-before-deadline", none),
    // Not documented, and answered by AWS.
    ("instance-id", |v| vec![v.instance.id.as_str().into()]),
    ("instance-state-code", |v| vec![v.instance.state.code().to_string().into()]),
    ("instance-state-name", |v| vec![v.instance.state.name().into()]),
    ("instance-status.reachability", |v| detail(v.instance_check())),
    ("instance-status.status", |v| vec![v.instance_check().0.into()]),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", none),
    ("system-status.reachability", |v| detail(v.system_check())),
    ("system-status.status", |v| vec![v.system_check().0.into()]),
];

pub(super) fn describe_instance_status(
    call: &mut Call<'_>,
    input: api::DescribeInstanceStatusRequest,
) -> Result<api::DescribeInstanceStatusResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.instance_ids.unwrap_or_default();
    if !ids.is_empty() && input.max_results.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ));
    }
    let mut found = if ids.is_empty() {
        call.scan::<Instance>(&key_of(call, ""))?
    } else {
        peek_all(call, &ids)?
    };
    if input.include_all_instances != Some(true) {
        found.retain(|instance| instance.state == InstanceState::Running);
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let mut names = Names::default();
    let mut views: Vec<View> = found
        .into_iter()
        .map(|instance| View {
            zone_id: names.zone_id(call.region, &instance.availability_zone),
            instance,
        })
        .collect();
    views.retain(|view| filters.accept(view, &view.instance.tags));
    let page = page(
        views,
        |view| view.instance.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeInstanceStatusResult {
        instance_statuses: Some(page.items.iter().map(View::to_model).collect()),
        next_token: page.next_token,
    })
}
