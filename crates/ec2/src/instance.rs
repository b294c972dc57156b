//! Instances: what the API shows of them, and what it lets people do to them.
//!
//! A handler only changes the wanted state in the record; the reconciler
//! ([`crate::instance_reconciler`], which draws the life of an instance) and the node make it so.
//! Launching is in [`crate::launch`].
//!
//! Not here: spot, hibernation, dedicated hosts, capacity reservations, instance profiles.

mod attribute;
mod console;
mod describe;
mod lifecycle;
mod monitor;
mod status;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use attribute::{MetadataWish, change_metadata_options, is_metadata_tag};
pub(crate) use describe::{View, reservation, to_model};
pub(crate) use lifecycle::pending;

use crate::record::{Instance, InstanceState, MetadataOptions, key};
use base::Timestamp;
use model::ec2::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most instances that one request may name.
const MAX_IDS: usize = 1_000;

pub(crate) const OPERATIONS: &[Operation] = &[
    describe::OPERATION,
    operation!(
        op::DescribeInstanceStatus,
        status::describe_instance_status,
        Read,
        [
            "Filters.*",
            "InstanceIds",
            "IncludeAllInstances",
            "MaxResults",
            "NextToken",
            "IncludeManagedResources",
        ]
    ),
    operation!(
        op::StartInstances,
        lifecycle::start_instances,
        Write,
        ["InstanceIds"],
        Rate::new(5.0, 2.0)
    ),
    operation!(
        op::StopInstances,
        lifecycle::stop_instances,
        Write,
        ["InstanceIds", "Force", "Hibernate", "SkipOsShutdown"]
    ),
    operation!(op::RebootInstances, lifecycle::reboot_instances, Write, ["InstanceIds"]),
    operation!(
        op::TerminateInstances,
        lifecycle::terminate_instances,
        Write,
        ["InstanceIds", "Force", "SkipOsShutdown"],
        Rate::new(100.0, 5.0)
    ),
    operation!(
        op::DescribeInstanceAttribute,
        attribute::describe_instance_attribute,
        Read,
        ["InstanceId", "Attribute"]
    ),
    operation!(
        op::ModifyInstanceAttribute,
        attribute::modify_instance_attribute,
        Write,
        [
            "InstanceId",
            "Attribute",
            "Value",
            "BlockDeviceMappings.DeviceName",
            "BlockDeviceMappings.Ebs.DeleteOnTermination",
            "BlockDeviceMappings.Ebs.VolumeId",
            "DisableApiStop.Value",
            "DisableApiTermination.Value",
            "EbsOptimized.Value",
            "EnaSupport.Value",
            "Groups",
            "InstanceInitiatedShutdownBehavior.Value",
            "InstanceType.Value",
            "SourceDestCheck.Value",
            "UserData.Value",
        ]
    ),
    operation!(
        op::ResetInstanceAttribute,
        attribute::reset_instance_attribute,
        Write,
        ["InstanceId", "Attribute"]
    ),
    operation!(
        op::ModifyInstanceMetadataOptions,
        attribute::modify_instance_metadata_options,
        Write,
        [
            "InstanceId",
            "HttpEndpoint",
            "HttpProtocolIpv6",
            "HttpPutResponseHopLimit",
            "HttpTokens",
            "InstanceMetadataTags",
        ],
        Rate::new(100.0, 5.0)
    ),
    operation!(
        op::ModifyPrivateDnsNameOptions,
        attribute::modify_private_dns_name_options,
        Write,
        [
            "InstanceId",
            "PrivateDnsHostnameType",
            "EnableResourceNameDnsARecord",
            "EnableResourceNameDnsAAAARecord",
        ]
    ),
    operation!(
        op::DescribeInstanceCreditSpecifications,
        attribute::describe_instance_credit_specifications,
        Read,
        ["Filters.*", "InstanceIds", "MaxResults", "NextToken"]
    ),
    operation!(
        op::ModifyInstanceCreditSpecification,
        attribute::modify_instance_credit_specification,
        Write,
        [
            "InstanceCreditSpecifications.InstanceId",
            "InstanceCreditSpecifications.CpuCredits",
            // Saying the same twice changes nothing.
            "ClientToken",
        ]
    ),
    operation!(op::MonitorInstances, monitor::monitor_instances, Write, ["InstanceIds"]),
    operation!(op::UnmonitorInstances, monitor::unmonitor_instances, Write, ["InstanceIds"]),
    operation!(op::GetConsoleOutput, console::get_console_output, Live, ["InstanceId", "Latest"]),
];

/// The record key of an instance.
pub(crate) fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::INSTANCE, call.account(), id)
}

pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("i", id) {
        return Ok(());
    }
    Err(Error::client("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")))
}

fn not_found(ids: &[&str]) -> Error {
    let message = match ids {
        [id] => format!("The instance ID '{id}' does not exist"),
        _ => format!("The instance IDs '{}' do not exist", ids.join(", ")),
    };
    Error::client("InvalidInstanceID.NotFound", message)
}

/// A way to read an instance's record.
type Read = fn(&mut Call<'_>, &str) -> Result<Option<Arc<Instance>>, Error>;

/// Every instance with one of these ids, in order and once, through `read`. One that does not
/// exist fails the whole request, naming all that do not.
fn find_all(call: &mut Call<'_>, ids: &[String], read: Read) -> Result<Vec<Arc<Instance>>, Error> {
    if ids.len() > MAX_IDS {
        return Err(Error::invalid_parameter_value(format!(
            "The maximum number of instance IDs for this request is {MAX_IDS}"
        )));
    }
    let mut found = Vec::with_capacity(ids.len());
    let mut missing: Vec<&str> = Vec::new();
    let mut seen = std::collections::HashSet::with_capacity(ids.len());
    for id in ids {
        check_id(id)?;
        if !seen.insert(id) {
            continue;
        }
        match read(call, &key_of(call, id))? {
            Some(instance) => found.push(instance),
            None => missing.push(id),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(not_found(&missing)) }
}

/// Instances that a request changes: the commit depends on them.
fn get_all(call: &mut Call<'_>, ids: Option<Vec<String>>) -> Result<Vec<Arc<Instance>>, Error> {
    let ids = ids.unwrap_or_default();
    if ids.is_empty() {
        return Err(Error::missing_parameter("InstanceId"));
    }
    find_all(call, &ids, |call, key| call.get(key))
}

/// Instances that a request describes.
fn peek_all(call: &mut Call<'_>, ids: &[String]) -> Result<Vec<Arc<Instance>>, Error> {
    find_all(call, ids, |call, key| call.peek(key))
}

/// The one instance that a request changes.
pub(crate) fn get_one(call: &mut Call<'_>, id: Option<String>) -> Result<Arc<Instance>, Error> {
    let mut found = get_all(call, id.map(|id| vec![id]))?;
    found.pop().ok_or_else(|| Error::missing_parameter("InstanceId"))
}

/// The one instance that a request describes.
fn peek_one(call: &mut Call<'_>, id: Option<String>) -> Result<Arc<Instance>, Error> {
    let id = id.ok_or_else(|| Error::missing_parameter("InstanceId"))?;
    let mut found = peek_all(call, &[id])?;
    found.pop().ok_or_else(|| Error::missing_parameter("InstanceId"))
}

/// Stages a changed instance.
pub(crate) fn put(call: &mut Call<'_>, instance: Instance) -> Arc<Instance> {
    let at = key_of(call, &instance.id);
    call.put(&at, instance)
}

/// A state as the API shows it.
pub(crate) fn state(state: InstanceState) -> api::InstanceState {
    api::InstanceState { code: Some(state.code()), name: Some(state.name().to_owned()) }
}

/// Whether the instance is gone or on its way there.
fn is_ending(instance: &Instance) -> bool {
    matches!(instance.state, InstanceState::ShuttingDown | InstanceState::Terminated)
}

/// StateTransitionReason of what a user asked for.
pub(crate) fn user_initiated(now: Timestamp) -> String {
    now.format("User initiated (%Y-%m-%d %H:%M:%S GMT)")
}

/// The times that EC2 shows of instances and volumes have no fractions of a second.
pub(crate) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(1_000))
}

fn on_off(enabled: bool) -> Option<String> {
    Some(if enabled { "enabled" } else { "disabled" }.to_owned())
}

/// IMDS options as the API shows them. Changes reach the node at once, so they are always applied.
fn metadata_options(options: &MetadataOptions) -> api::InstanceMetadataOptionsResponse {
    api::InstanceMetadataOptionsResponse {
        http_endpoint: on_off(options.enabled),
        http_protocol_ipv6: on_off(false),
        http_put_response_hop_limit: Some(i32::from(options.hop_limit)),
        http_tokens: Some(tokens(options).to_owned()),
        instance_metadata_tags: on_off(options.tags),
        state: Some("applied".to_owned()),
    }
}

fn tokens(options: &MetadataOptions) -> &'static str {
    if options.tokens_required { "required" } else { "optional" }
}
