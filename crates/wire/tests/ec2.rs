//! The codecs on the real model: what EC2 and STS clients send, and what they are answered.

use base::Timestamp;
use model::ec2::{
    DescribeInstancesRequest, DescribeInstancesResult, Filter, Instance, Reservation,
    RunInstancesRequest, Tag, op,
};
use proptest::prelude::*;
use wire::sigv4::RequestParts;
use wire::{DecodeError, Operation, Protocol, Shape, client, server, validate};

fn parts<'a>(query: &'a str, body: &'a [u8]) -> RequestParts<'a> {
    RequestParts { method: "POST", path: "/", query, headers: &[], body }
}

fn decode<I: Shape + Default>(body: &str) -> Result<I, DecodeError> {
    let call = server::open(&model::ec2::SERVICE, &parts("", body.as_bytes()))?;
    let mut input = I::default();
    call.decode(&mut input)?;
    Ok(input)
}

/// The code and message that a client of EC2 is told.
fn refused(body: &str) -> (String, String) {
    let error = decode::<RunInstancesRequest>(body).expect_err("a refusal");
    let error = error.to_api(Protocol::Ec2);
    (error.code.into_owned(), error.message)
}

#[test]
fn run_instances_as_aws_cli_sends_it() {
    let body = "Action=RunInstances&Version=2016-11-15&ImageId=ami-1&InstanceType=t3.micro\
        &MaxCount=2&MinCount=1&KeyName=k&SecurityGroupId.1=sg-1&SecurityGroupId.2=sg-2\
        &BlockDeviceMapping.1.DeviceName=%2Fdev%2Fxvda&BlockDeviceMapping.1.Ebs.VolumeSize=9\
        &NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.Ipv6Addresses.1.Ipv6Address=%3A%3A1\
        &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name\
        &TagSpecification.1.Tag.1.Value=a+b&ClientToken=t&DisableApiTermination=true";
    let input: RunInstancesRequest = decode(body).expect("well-formed");
    assert_eq!(input.max_count, Some(2));
    assert_eq!(input.security_group_ids, Some(vec!["sg-1".to_owned(), "sg-2".to_owned()]));
    let mapping = &input.block_device_mappings.as_ref().expect("mappings")[0];
    assert_eq!(mapping.device_name.as_deref(), Some("/dev/xvda"));
    assert_eq!(mapping.ebs.as_ref().expect("ebs").volume_size, Some(9));
    let tags = input.tag_specifications.as_ref().expect("tags")[0].tags.clone().expect("tags");
    assert_eq!(tags[0].value.as_deref(), Some("a b"));

    // What a client of ours would send means the same.
    let again =
        client::request(&model::ec2::SERVICE, Protocol::Ec2, op::RunInstances::MODEL, &input)
            .expect("a form");
    let again = String::from_utf8(again.body).expect("UTF-8");
    assert_eq!(decode::<RunInstancesRequest>(&again).expect("well-formed"), input);
}

#[test]
fn what_is_malformed_is_refused_by_name() {
    let run = "Action=RunInstances&Version=2016-11-15";
    for (rest, code, message) in [
        ("&Nonsense=1", "UnknownParameter", "The parameter Nonsense is not recognized"),
        (
            "&BlockDeviceMapping.1.Ebs.Colour=red",
            "UnknownParameter",
            "The parameter BlockDeviceMapping.1.Ebs.Colour is not recognized",
        ),
        ("&ImageId.1=x", "UnknownParameter", "The parameter ImageId.1 is not recognized"),
        ("&ImageId=x&ImageId.1=x", "UnknownParameter", "The parameter ImageId.1 is not recognized"),
        (
            "&MinCount=many",
            "InvalidParameterValue",
            "Value (many) for parameter MinCount is invalid. Expected a value of type integer.",
        ),
        (
            "&MinCount=2147483648",
            "InvalidParameterValue",
            "Value (2147483648) for parameter MinCount is invalid. \
             Expected a value of type integer.",
        ),
        (
            "&EbsOptimized=maybe",
            "InvalidParameterValue",
            "Value (maybe) for parameter EbsOptimized is invalid. \
             Expected a value of type boolean.",
        ),
        (
            "&ImageId=a&ImageId=b",
            "InvalidQueryParameter",
            "The parameter ImageId is given more than once",
        ),
        (
            "&SecurityGroupId.1=a&SecurityGroupId.3=c",
            "InvalidQueryParameter",
            "The parameter SecurityGroupId.3 is out of sequence: index 2 is missing",
        ),
        (
            "&SecurityGroupId.0=a",
            "InvalidQueryParameter",
            "The parameter SecurityGroupId.0 is out of sequence: index 1 is missing",
        ),
        (
            "&SecurityGroupId.99999999999999999999999=a",
            "InvalidQueryParameter",
            "The parameter SecurityGroupId.99999999999999999999999 is out of sequence: \
             index 1 is missing",
        ),
        (
            "&SecurityGroupId.x=a",
            "UnknownParameter",
            "The parameter SecurityGroupId.x is not recognized",
        ),
        ("&ImageId=%ff", "MalformedQueryString", "The query string is malformed: not UTF-8."),
        (
            "&ImageId=%4",
            "MalformedQueryString",
            "The query string is malformed: a % without two hexadecimal digits.",
        ),
    ] {
        assert_eq!(refused(&format!("{run}{rest}")), (code.to_owned(), message.to_owned()));
    }
    assert_eq!(refused("Version=2016-11-15").0, "MissingAction");
    assert_eq!(
        refused("Action=Dance&Version=2016-11-15"),
        (
            "InvalidAction".to_owned(),
            "The action Dance is not valid for this web service.".to_owned()
        )
    );
}

#[test]
fn ten_thousand_and_one_filters_are_read_for_the_handler_to_refuse() {
    let mut body = "Action=DescribeInstances&Version=2016-11-15".to_owned();
    for index in 1..=10_001 {
        body += &format!("&Filter.{index}.Name=tag:a&Filter.{index}.Value.1=b");
    }
    let input: DescribeInstancesRequest = decode(&body).expect("well-formed");
    assert_eq!(input.filters.expect("filters").len(), 10_001);
}

#[test]
fn a_presigned_url_has_parameters_of_its_own() {
    let query = "Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256\
        &X-Amz-Credential=a&X-Amz-Signature=b&X-Amz-Date=c&X-Amz-SignedHeaders=host";
    let call = server::open(&model::sts::SERVICE, &parts(query, b"")).expect("an operation");
    assert_eq!(call.operation.name, "GetCallerIdentity");
    let mut input = model::sts::GetCallerIdentityRequest::default();
    call.decode(&mut input).expect("nothing unknown");
}

fn instances(count: usize) -> DescribeInstancesResult {
    let text = |text: &str| Some(text.to_owned());
    let instance = |index: usize| Instance {
        instance_id: Some(format!("i-{index:017x}")),
        image_id: text("ami-0123456789abcdef0"),
        instance_type: text("t3.micro"),
        launch_time: Some(Timestamp(1_795_255_223_045)),
        private_ip_address: text("172.31.0.10"),
        private_dns_name: text("ip-172-31-0-10.ec2.internal"),
        ebs_optimized: Some(false),
        ami_launch_index: Some(0),
        architecture: text("x86_64"),
        vpc_id: text("vpc-0123456789abcdef0"),
        subnet_id: text("subnet-0123456789abcdef0"),
        product_codes: Some(Vec::new()),
        state: Some(model::ec2::InstanceState { code: Some(16), name: text("running") }),
        tags: Some(vec![Tag { key: text("Name"), value: text("<a> & \"b\"") }]),
        ..Instance::default()
    };
    let reservation = |index: usize| Reservation {
        reservation_id: Some(format!("r-{index:017x}")),
        owner_id: text("123456789012"),
        groups: Some(Vec::new()),
        instances: Some(vec![instance(index)]),
        ..Reservation::default()
    };
    DescribeInstancesResult {
        reservations: Some((0..count).map(reservation).collect()),
        ..DescribeInstancesResult::default()
    }
}

#[test]
fn an_answer_of_ec2() {
    let output = instances(1);
    let operation = op::DescribeInstances::MODEL;
    let response = server::encode(&model::ec2::SERVICE, Protocol::Ec2, operation, &output, 0);
    assert_eq!(response.status, 200);
    let body = response.body("id-1");
    let text = String::from_utf8(body.clone()).expect("UTF-8");
    assert!(
        text.starts_with(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse \
             xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15\"><requestId>id-1</requestId>\
             <reservationSet><item><groupSet/><instancesSet><item><amiLaunchIndex>0<"
        ),
        "{text}"
    );
    assert!(text.contains("<launchTime>2026-11-21T10:00:23.045Z</launchTime>"), "{text}");
    assert!(text.contains("<value>&lt;a&gt; &amp; &quot;b&quot;</value>"), "{text}");
    assert!(text.contains("<instanceState><code>16</code><name>running</name></instanceState>"));
    assert!(text.ends_with("</reservationSet></DescribeInstancesResponse>"), "{text}");

    let mut again = DescribeInstancesResult::default();
    let reply = client::Reply { status: 200, headers: &[], body: &body };
    client::response(Protocol::Ec2, operation, reply, &mut again).expect("an answer");
    assert_eq!(again, output);
}

#[test]
fn errors_of_ec2_and_query() {
    let error = wire::Error::new("InvalidInstanceID.NotFound", "no <i-1>");
    let response = server::encode_error(&model::ec2::SERVICE, Protocol::Ec2, &error);
    assert_eq!(response.status, 400);
    assert_eq!(
        String::from_utf8(response.body("id")).expect("UTF-8"),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
         <Code>InvalidInstanceID.NotFound</Code><Message>no &lt;i-1&gt;</Message></Error></Errors>\
         <RequestID>id</RequestID></Response>"
    );
    let response = server::encode_error(&model::sts::SERVICE, Protocol::Query, &error);
    let text = String::from_utf8(response.body("id")).expect("UTF-8");
    assert!(text.contains("<Error><Type>Sender</Type><Code>InvalidInstanceID.NotFound</Code>"));
    assert!(text.ends_with("</Error><RequestId>id</RequestId></ErrorResponse>"), "{text}");
}

#[test]
fn the_model_is_enforced() {
    let check = |input: &dyn Shape| {
        let error = validate::validate(Protocol::Ec2, input).expect_err("a violation");
        (error.code.into_owned(), error.message)
    };
    let input = RunInstancesRequest { min_count: Some(1), ..RunInstancesRequest::default() };
    assert_eq!(
        check(&input),
        (
            "MissingParameter".to_owned(),
            "The request must contain the parameter maxCount".to_owned()
        )
    );
    let input = RunInstancesRequest {
        min_count: Some(1),
        max_count: Some(1),
        instance_initiated_shutdown_behavior: Some("explode".to_owned()),
        // The list of types in the model is never complete: the handler checks it.
        instance_type: Some("t99.nano".to_owned()),
        ..RunInstancesRequest::default()
    };
    assert_eq!(
        check(&input),
        (
            "InvalidParameterValue".to_owned(),
            "Value (explode) for parameter instanceInitiatedShutdownBehavior is invalid. \
             Valid values are: stop, terminate."
                .to_owned()
        )
    );
    let input =
        model::ec2::DescribeInstanceTypesRequest { max_results: Some(101), ..Default::default() };
    assert_eq!(check(&input).0, "InvalidParameterValue");

    let input = model::sts::AssumeRoleRequest {
        role_arn: Some("short".to_owned()),
        ..model::sts::AssumeRoleRequest::default()
    };
    let error = validate::validate(Protocol::Query, &input).expect_err("violations");
    assert_eq!(error.code, "ValidationError");
    assert_eq!(
        error.message,
        "2 validation errors detected: Value null at 'roleSessionName' failed to satisfy \
         constraint: Member must not be null; Value 'short' at 'roleArn' failed to satisfy \
         constraint: Member must have length greater than or equal to 20"
    );
}

#[test]
fn debug_leaves_secrets_out() {
    let input = RunInstancesRequest {
        user_data: Some("password".to_owned()),
        image_id: Some("ami-1".to_owned()),
        ..RunInstancesRequest::default()
    };
    let text = format!("{input:?}");
    assert_eq!(text, r#"RunInstancesRequest { ImageId: "ami-1", UserData: <sensitive> }"#);
}

fn name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Action",
        "ImageId",
        "MinCount",
        "Filter",
        "Filters",
        "Value",
        "Name",
        "member",
        "entry",
        "key",
        "value",
        "TagSpecification",
        "Tag",
        "Ebs",
        "BlockDeviceMapping",
        "DryRun",
        "1",
        "2",
        "0",
        "18446744073709551616",
        "",
        "%",
        "..",
        "é",
    ]);
    prop::collection::vec(known, 0..6).prop_map(|parts| parts.join("."))
}

proptest! {
    #[test]
    fn any_bytes_are_an_input_or_an_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = server::open(&model::ec2::SERVICE, &parts("", &body));
    }

    #[test]
    fn any_names_are_an_input_or_an_error(
        pairs in prop::collection::vec((name(), ".{0,8}"), 0..12),
        operation in prop::sample::select(model::ec2::SERVICE.operations.to_vec()),
    ) {
        let mut body = format!("Action={}&Version=2016-11-15", operation.name);
        for (name, value) in pairs {
            body += &format!("&{name}={value}");
        }
        let call = server::open(&model::ec2::SERVICE, &parts("", body.as_bytes()));
        if let Ok(call) = call {
            let mut input = RunInstancesRequest::default();
            let _ = call.decode(&mut input);
            let _ = validate::validate(Protocol::Ec2, &input);
            let _ = format!("{input:?}");
        }
    }

    #[test]
    fn filters_come_back(
        filters in prop::collection::vec((".{0,9}", prop::collection::vec(".{0,9}", 1..4)), 1..15)
    ) {
        let filters = filters.into_iter().map(|(name, values)| Filter {
            name: Some(name),
            values: Some(values),
        });
        let input = DescribeInstancesRequest {
            filters: Some(filters.collect()),
            ..DescribeInstancesRequest::default()
        };
        let operation = op::DescribeInstances::MODEL;
        let sent = client::request(&model::ec2::SERVICE, Protocol::Ec2, operation, &input);
        let sent = String::from_utf8(sent.expect("a form").body).expect("UTF-8");
        prop_assert_eq!(decode::<DescribeInstancesRequest>(&sent), Ok(input));
    }
}
