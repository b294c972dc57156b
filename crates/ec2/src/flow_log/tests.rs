use super::*;
use crate::testing::{Region, filter, list};
use crate::vpc;

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn vpc_id(region: &Region) -> String {
    region.run(|call| Ok(vpc::default_vpc(call)?.id.clone())).unwrap()
}

fn to_group(resource: &str) -> api::CreateFlowLogsRequest {
    api::CreateFlowLogsRequest {
        resource_ids: list(&[resource]),
        resource_type: text("VPC"),
        traffic_type: text("ALL"),
        log_group_name: text("flows"),
        deliver_logs_permission_arn: text("arn:aws:iam::123456789012:role/flows"),
        ..Default::default()
    }
}

fn to_bucket(resource: &str) -> api::CreateFlowLogsRequest {
    api::CreateFlowLogsRequest {
        log_group_name: None,
        deliver_logs_permission_arn: None,
        log_destination_type: text("s3"),
        log_destination: text("arn:aws:s3:::bucket/prefix"),
        ..to_group(resource)
    }
}

fn described(region: &Region, filters: Vec<api::Filter>) -> Vec<api::FlowLog> {
    let input = api::DescribeFlowLogsRequest { filter: Some(filters), ..Default::default() };
    region.ok(describe_flow_logs, input).flow_logs.unwrap()
}

#[test]
fn a_flow_log_lives_from_its_creation_to_its_deletion() {
    let region = Region::new();
    let vpc = vpc_id(&region);
    let made = region.ok(create_flow_logs, to_group(&vpc));
    assert_eq!(made.unsuccessful, Some(vec![]));
    let id = made.flow_log_ids.unwrap().remove(0);
    let log = described(&region, vec![filter("resource-id", &[&vpc])]).remove(0);
    assert_eq!(log.flow_log_id.as_ref(), Some(&id));
    assert_eq!(log.log_destination_type.as_deref(), Some("cloud-watch-logs"));
    assert_eq!(log.max_aggregation_interval, Some(600));
    assert!(log.log_format.unwrap().ends_with("${end} ${action} ${log-status}"));
    region.ok(create_flow_logs, to_bucket(&vpc));
    let in_bucket = described(&region, vec![filter("log-destination-type", &["s3"])]).remove(0);
    assert_eq!(in_bucket.destination_options.unwrap().file_format.as_deref(), Some("plain-text"));
    let third = api::CreateFlowLogsRequest { traffic_type: text("REJECT"), ..to_bucket(&vpc) };
    let refusal = region.refused(create_flow_logs, third);
    assert!(refusal.starts_with("FlowLogsLimitExceeded: "), "{refusal}");
    let input = || api::DeleteFlowLogsRequest { flow_log_ids: list(&[&id]), ..Default::default() };
    region.ok(delete_flow_logs, input());
    assert_eq!(
        region.refused(delete_flow_logs, input()),
        format!(
            "InvalidFlowLogId.NotFound: These flow log ids in the input list are not found: \
             [TotalCount: 1] {id}"
        )
    );
}

#[test]
fn the_same_log_twice_is_refused_and_a_missing_resource_is_named() {
    let region = Region::new();
    let vpc = vpc_id(&region);
    let ghost = "vpc-0123456789abcdef0";
    let both = api::CreateFlowLogsRequest { resource_ids: list(&[ghost, &vpc]), ..to_group(&vpc) };
    let answer = region.ok(create_flow_logs, both);
    assert_eq!(answer.flow_log_ids.unwrap().len(), 1);
    let failed = answer.unsuccessful.unwrap().remove(0);
    assert_eq!(failed.resource_id.as_deref(), Some(ghost));
    assert_eq!(failed.error.unwrap().code.as_deref(), Some("InvalidVpcID.NotFound"));
    assert_eq!(
        region.refused(create_flow_logs, to_group(&vpc)),
        "FlowLogAlreadyExists: Error. There is an existing Flow Log with the same configuration \
         and log destination."
    );
    assert_eq!(described(&region, vec![filter("log-group-name", &["fl*"])]).len(), 1);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let region = Region::new();
    let vpc = vpc_id(&region);
    type Change = fn(&mut api::CreateFlowLogsRequest);
    let cases: [(Change, &str); 11] = [
        (|r| r.log_group_name = None, "InvalidParameter: LogGroupName can't be empty"),
        (
            |r| r.deliver_logs_permission_arn = None,
            "InvalidParameter: DeliverLogsPermissionArn can't be empty if LogDestinationType is",
        ),
        (|r| r.max_aggregation_interval = Some(61), "InvalidParameter: Invalid Flow Log Max Aggr"),
        (|r| r.log_format = text("${version} ${color}"), "InvalidParameter: Unknown fields pro"),
        (|r| r.log_format = text("version"), "InvalidParameter: Unknown fields provided: version"),
        (|r| r.log_format = text("${bytes} ${bytes}"), "InvalidParameter: Duplicate fields prov"),
        (|r| r.traffic_type = None, "MissingParameter: "),
        (|r| r.resource_type = text("TransitGateway"), "UnsupportedOperation: "),
        (|r| r.log_destination_type = text("s3"), "InvalidParameter: LogDestinationType must be"),
        (|r| r.log_destination = text("arn:aws:s3:::b"), "InvalidParameter: Invalid ARN format"),
        (|r| r.log_destination_type = text("kinesis-data-firehose"), "UnsupportedOperation: "),
    ];
    for (change, error) in cases {
        let mut input = to_group(&vpc);
        change(&mut input);
        let refusal = region.refused(create_flow_logs, input);
        assert!(refusal.starts_with(error), "{refusal}");
    }
    assert_eq!(described(&region, vec![]), []);
}

#[test]
fn a_log_group_is_found_in_its_arn() {
    let name = |arn: &str| group_of(arn);
    assert_eq!(name("arn:aws:logs:us-east-1:123456789012:log-group:a/b:*"), text("a/b"));
    assert_eq!(name("arn:aws:logs:us-east-1:123456789012:log-group:x"), text("x"));
    assert_eq!(name("arn:aws:logs:us-east-1:123456789012:x"), None);
    assert_eq!(name("log-group:x"), None);
}
