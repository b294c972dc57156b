//! Flow logs: whose flows are written, and which of their facts.
//!
//! A flow log is a wish; the node writes the lines of every interface that the logged resource has
//! ([`crate::network_plan`]), into files of its own until there are log groups and buckets. The
//! destination is kept and shown as given. What is logged never changes: another wish is another
//! flow log (VPC User Guide, "Logging IP traffic using VPC Flow Logs").
//!
//! Not here: flow logs of transit gateways, delivery to Firehose or to another account, Parquet.

use crate::record::{FlowLog, Interface, Subnet, Vpc, key};
use crate::tag;
use model::ec2::{self as api, op};
use service::call::Record;
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most flow logs of one resource (VPC User Guide, "Amazon VPC quotas").
const MAX_LOGS: usize = 2;

/// The format of a log whose creation names none (VPC User Guide, "Flow log records").
const DEFAULT_FORMAT: &str = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} \
                              ${srcport} ${dstport} ${protocol} ${packets} ${bytes} ${start} \
                              ${end} ${action} ${log-status}";

/// The fields of a record (VPC User Guide, "Flow log records", "Available fields").
const FIELDS: &[&str] = &[
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
    "vpc-id",
    "subnet-id",
    "instance-id",
    "tcp-flags",
    "type",
    "pkt-srcaddr",
    "pkt-dstaddr",
    "region",
    "az-id",
    "sublocation-type",
    "sublocation-id",
    "pkt-src-aws-service",
    "pkt-dst-aws-service",
    "flow-direction",
    "traffic-path",
    "ecs-cluster-arn",
    "ecs-cluster-name",
    "ecs-container-instance-arn",
    "ecs-container-instance-id",
    "ecs-container-id",
    "ecs-second-container-id",
    "ecs-service-name",
    "ecs-task-definition-arn",
    "ecs-task-arn",
    "ecs-task-id",
    "reject-reason",
];

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateFlowLogs,
        create_flow_logs,
        Write,
        [
            "ResourceIds",
            "ResourceType",
            "TrafficType",
            "LogDestinationType",
            "LogDestination",
            "LogGroupName",
            "LogFormat",
            "MaxAggregationInterval",
            "DeliverLogsPermissionArn",
            "DestinationOptions.*",
            "TagSpecifications.*",
        ]
    ),
    operation!(op::DeleteFlowLogs, delete_flow_logs, Write, ["FlowLogIds"]),
    operation!(
        op::DescribeFlowLogs,
        describe_flow_logs,
        Read,
        ["FlowLogIds", "Filter.*", "MaxResults", "NextToken"]
    ),
];

fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::FLOW_LOG, call.account(), id)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::client("InvalidParameter", message)
}

/// Where a log's lines are to go.
struct Sink {
    kind: String,
    destination: Option<String>,
    group_name: Option<String>,
    role_arn: Option<String>,
}

fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn sink(input: &api::CreateFlowLogsRequest) -> Result<Sink, Error> {
    let (destination, group_name) = (given(&input.log_destination), given(&input.log_group_name));
    let role_arn = given(&input.deliver_logs_permission_arn);
    let kind = given(&input.log_destination_type).unwrap_or_else(|| "cloud-watch-logs".to_owned());
    let empty =
        |name: &str| invalid(format!("{name} can't be empty if LogDestinationType is {kind}."));
    let options = input.destination_options.clone().unwrap_or_default();
    if options.file_format.is_some_and(|format| format != "plain-text")
        || options.hive_compatible_partitions == Some(true)
        || options.per_hour_partition == Some(true)
    {
        return Err(Error::unsupported(
            "Flow logs are written as plain text, without partitions: DestinationOptions has no \
             other values here.",
        ));
    }
    match kind.as_str() {
        "cloud-watch-logs" => {
            if input.destination_options.is_some() {
                return Err(invalid(
                    "DestinationOptions can't be provided if LogDestinationType is \
                     cloud-watch-logs.",
                ));
            }
            let from_arn = match &destination {
                Some(arn) => Some(group_of(arn).ok_or_else(|| malformed(arn))?),
                None => None,
            };
            if from_arn.is_some() && group_name.is_some() {
                return Err(invalid(
                    "Please only provide LogGroupName or only provide LogDestination.",
                ));
            }
            let group_name = group_name.or(from_arn).ok_or_else(|| empty("LogGroupName"))?;
            let role_arn = role_arn.ok_or_else(|| empty("DeliverLogsPermissionArn"))?;
            if !is_arn(&role_arn, "iam") {
                return Err(malformed(&role_arn));
            }
            Ok(Sink { kind, destination, group_name: Some(group_name), role_arn: Some(role_arn) })
        }
        "s3" => {
            if group_name.is_some() {
                return Err(invalid(
                    "LogDestinationType must be cloud-watch-logs if LogGroupName is provided.",
                ));
            }
            if role_arn.is_some() {
                return Err(invalid(
                    "LogDestinationType must be cloud-watch-logs if DeliverLogsPermissionArn is \
                     provided.",
                ));
            }
            let destination = destination.ok_or_else(|| empty("LogDestination"))?;
            if !is_arn(&destination, "s3") {
                return Err(malformed(&destination));
            }
            Ok(Sink { kind, destination: Some(destination), group_name: None, role_arn: None })
        }
        other => Err(Error::unsupported(format!(
            "LogDestinationType {other} is not built in gureum yet."
        ))),
    }
}

fn malformed(arn: &str) -> Error {
    invalid(format!("Invalid ARN format: {arn}"))
}

/// `arn:aws:<service>:…:<something>`.
fn is_arn(text: &str, service: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    matches!(parts.as_slice(), ["arn", _, of, _, _, rest] if *of == service && !rest.is_empty())
}

/// The log group of `arn:aws:logs:<region>:<account>:log-group:<name>`, with or without `:*`.
fn group_of(arn: &str) -> Option<String> {
    let rest = is_arn(arn, "logs").then(|| arn.splitn(6, ':').last())??;
    let name = rest.strip_prefix("log-group:")?;
    let name = name.strip_suffix(":*").unwrap_or(name);
    (!name.is_empty()).then(|| name.to_owned())
}

/// Checks a format: fields in `${}`, a space between them, none twice.
fn check_format(format: &str) -> Result<(), Error> {
    let mut seen: Vec<&str> = Vec::new();
    for word in format.split(' ') {
        let name = word.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let name = name.filter(|name| FIELDS.contains(name));
        let name = name.ok_or_else(|| invalid(format!("Unknown fields provided: {word}")))?;
        if seen.contains(&name) {
            return Err(invalid(format!("Duplicate fields provided: {name}")));
        }
        seen.push(name);
    }
    Ok(())
}

/// Why a resource cannot be logged.
fn check_resource(call: &mut Call<'_>, kind: &str, id: &str) -> Result<(), Error> {
    fn there<T: Record>(call: &mut Call<'_>, kind: &str, id: &str) -> Result<bool, Error> {
        let at = key::of(call.region, kind, call.account(), id);
        Ok(call.get::<T>(&at)?.is_some())
    }
    let (is_there, code, noun) = match kind {
        "VPC" => (there::<Vpc>(call, key::VPC, id)?, "InvalidVpcID.NotFound", "vpc ID"),
        "Subnet" => {
            (there::<Subnet>(call, key::SUBNET, id)?, "InvalidSubnetID.NotFound", "subnet ID")
        }
        "NetworkInterface" => (
            there::<Interface>(call, key::INTERFACE, id)?,
            "InvalidNetworkInterfaceID.NotFound",
            "networkInterface ID",
        ),
        other => {
            return Err(Error::unsupported(format!(
                "Flow logs of a resource of type {other} are not built in gureum yet."
            )));
        }
    };
    if is_there {
        return Ok(());
    }
    Err(Error::client(code, format!("The {noun} '{id}' does not exist")))
}

fn create_flow_logs(
    call: &mut Call<'_>,
    input: api::CreateFlowLogsRequest,
) -> Result<api::CreateFlowLogsResult, Error> {
    const TYPE: &str = "vpc-flow-log";
    let sink = sink(&input)?;
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let traffic_type =
        given(&input.traffic_type).ok_or_else(|| Error::missing_parameter("TrafficType"))?;
    let interval = match input.max_aggregation_interval {
        None | Some(600) => 600,
        Some(60) => 60,
        Some(_) => return Err(invalid("Invalid Flow Log Max Aggregation Interval")),
    };
    let format = given(&input.log_format).unwrap_or_else(|| DEFAULT_FORMAT.to_owned());
    check_format(&format)?;
    let kind = input.resource_type.unwrap_or_default();
    // That a resource has no more of them than it may, and none twice, depends on all.
    let known = call.get_all::<FlowLog>(&key_of(call, ""))?;
    let (mut made, mut unsuccessful): (Vec<String>, Vec<api::UnsuccessfulItem>) =
        Default::default();
    let mut resources = input.resource_ids.unwrap_or_default();
    let mut seen = std::collections::BTreeSet::new();
    resources.retain(|id| seen.insert(id.clone()));
    for resource_id in resources {
        if let Err(error) = check_resource(call, &kind, &resource_id) {
            if error.code == "UnsupportedOperation" || error.status >= 500 {
                return Err(error);
            }
            unsuccessful.push(api::UnsuccessfulItem {
                error: Some(api::UnsuccessfulItemError {
                    code: Some(error.code.into_owned()),
                    message: Some(error.message),
                }),
                resource_id: Some(resource_id),
            });
            continue;
        }
        let of_resource = || known.iter().filter(|log| log.resource_id == resource_id);
        let is_same = |log: &Arc<FlowLog>| {
            log.traffic_type == traffic_type
                && log.destination_type == sink.kind
                && log.destination == sink.destination
                && log.group_name == sink.group_name
        };
        if of_resource().any(is_same) {
            return Err(Error::client(
                "FlowLogAlreadyExists",
                "Error. There is an existing Flow Log with the same configuration and log \
                 destination.",
            ));
        }
        if of_resource().count() >= MAX_LOGS {
            return Err(Error::client(
                "FlowLogsLimitExceeded",
                format!("The maximum number of flow logs for {resource_id} has been reached."),
            ));
        }
        let log = FlowLog {
            v: 1,
            id: call.new_id("fl"),
            resource_id,
            traffic_type: traffic_type.clone(),
            destination_type: sink.kind.clone(),
            destination: sink.destination.clone(),
            group_name: sink.group_name.clone(),
            role_arn: sink.role_arn.clone(),
            format: format.clone(),
            interval,
            created: call.now,
            tags: tags.clone(),
        };
        made.push(log.id.clone());
        call.put(&key_of(call, &log.id.clone()), log);
    }
    Ok(api::CreateFlowLogsResult {
        client_token: input.client_token,
        flow_log_ids: Some(made),
        unsuccessful: Some(unsuccessful),
    })
}

/// The ids are all known, or none is touched.
fn check_ids(call: &mut Call<'_>, ids: &[String]) -> Result<Vec<Arc<FlowLog>>, Error> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        if !base::id::is_valid("fl", id) {
            return Err(Error::client(
                "InvalidFlowLogId.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"fl-...\")"),
            ));
        }
        match call.get::<FlowLog>(&key_of(call, id))? {
            Some(log) => found.push(log),
            None => missing.push(id.as_str()),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    Err(Error::client(
        "InvalidFlowLogId.NotFound",
        format!(
            "These flow log ids in the input list are not found: [TotalCount: {}] {}",
            missing.len(),
            missing.join(" ")
        ),
    ))
}

fn delete_flow_logs(
    call: &mut Call<'_>,
    input: api::DeleteFlowLogsRequest,
) -> Result<api::DeleteFlowLogsResult, Error> {
    for log in check_ids(call, &input.flow_log_ids.unwrap_or_default())? {
        call.delete(&key_of(call, &log.id));
    }
    Ok(api::DeleteFlowLogsResult { unsuccessful: Some(Vec::new()) })
}

const FILTERS: &[Field<Arc<FlowLog>>] = &[
    ("deliver-log-status", |_| vec!["SUCCESS".into()]),
    ("flow-log-id", |log| vec![log.id.as_str().into()]),
    ("log-destination-type", |log| vec![log.destination_type.as_str().into()]),
    ("log-group-name", |log| log.group_name.iter().map(|name| name.as_str().into()).collect()),
    ("resource-id", |log| vec![log.resource_id.as_str().into()]),
    ("traffic-type", |log| vec![log.traffic_type.as_str().into()]),
];

fn describe_flow_logs(
    call: &mut Call<'_>,
    input: api::DescribeFlowLogsRequest,
) -> Result<api::DescribeFlowLogsResult, Error> {
    let filters = Filters::new(crate::filters(input.filter), FILTERS)?;
    let mut ids = input.flow_log_ids.unwrap_or_default();
    let mut logs = if ids.is_empty() {
        call.scan::<FlowLog>(&key_of(call, ""))?
    } else {
        ids.sort();
        ids.dedup();
        check_ids(call, &ids)?
    };
    logs.retain(|log| filters.accept(log, &log.tags));
    let page = page(logs, |log| &log.id, input.max_results, input.next_token.as_deref(), 1..=1000)?;
    Ok(api::DescribeFlowLogsResult {
        flow_logs: Some(page.items.iter().map(|log| to_model(log)).collect()),
        next_token: page.next_token,
    })
}

fn to_model(log: &FlowLog) -> api::FlowLog {
    api::FlowLog {
        creation_time: Some(log.created),
        deliver_logs_permission_arn: log.role_arn.clone(),
        deliver_logs_status: Some("SUCCESS".to_owned()),
        destination_options: (log.destination_type == "s3").then(|| {
            api::DestinationOptionsResponse {
                file_format: Some("plain-text".to_owned()),
                hive_compatible_partitions: Some(false),
                per_hour_partition: Some(false),
            }
        }),
        flow_log_id: Some(log.id.clone()),
        flow_log_status: Some("ACTIVE".to_owned()),
        log_destination: log.destination.clone(),
        log_destination_type: Some(log.destination_type.clone()),
        log_format: Some(log.format.clone()),
        log_group_name: log.group_name.clone(),
        max_aggregation_interval: i32::try_from(log.interval).ok(),
        resource_id: Some(log.resource_id.clone()),
        tags: tag::to_model(&log.tags),
        traffic_type: Some(log.traffic_type.clone()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
