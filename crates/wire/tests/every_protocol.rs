//! One input and one output through all seven protocols and back; and no bytes make any of them
//! panic.

use base::Timestamp;
use model::ec2::{DescribeInstancesResult, Instance, Reservation, RunInstancesRequest, Tag, op};
use proptest::prelude::*;
use wire::sigv4::RequestParts;
use wire::{Operation, Protocol, ServiceModel, Shape, client, server};

/// EC2's shapes under another protocol: REST puts all members into the body.
fn service(protocol: Protocol) -> &'static ServiceModel {
    Box::leak(Box::new(ServiceModel {
        name: "test",
        service_id: "Test",
        protocols: Box::leak(Box::new([protocol])),
        api_version: "2016-11-15",
        xml_namespace: "urn:test",
        signing_name: "test",
        endpoint_prefix: "test",
        target_prefix: "Test",
        operations: Box::leak(Box::new([op::RunInstances::MODEL])),
    }))
}

const PROTOCOLS: [Protocol; 7] = [
    Protocol::Ec2,
    Protocol::Query,
    Protocol::Json10,
    Protocol::Json11,
    Protocol::RestJson,
    Protocol::RestXml,
    Protocol::RpcV2Cbor,
];

fn parts<'a>(uri: &'a str, headers: &'a [(&'a str, &'a [u8])], body: &'a [u8]) -> RequestParts<'a> {
    RequestParts { method: "POST", path: uri, query: "", headers, body }
}

fn output(name: &str, value: &str, millis: i64) -> DescribeInstancesResult {
    let instance = Instance {
        instance_id: Some(name.to_owned()),
        launch_time: Some(Timestamp(millis)),
        ebs_optimized: Some(true),
        ami_launch_index: Some(-1),
        tags: Some(vec![Tag { key: Some(value.to_owned()), value: Some(name.to_owned()) }]),
        ..Instance::default()
    };
    let reservation = Reservation { instances: Some(vec![instance]), ..Reservation::default() };
    DescribeInstancesResult { reservations: Some(vec![reservation]), ..Default::default() }
}

proptest! {
    #[test]
    fn an_input_comes_back(
        texts in prop::collection::vec("\\PC{0,12}", 1..4),
        count: i32,
        protocol in prop::sample::select(PROTOCOLS.to_vec()),
    ) {
        let input = RunInstancesRequest {
            image_id: texts.first().cloned(),
            min_count: Some(count),
            dry_run: Some(count % 2 == 0),
            security_group_ids: Some(texts),
            ..RunInstancesRequest::default()
        };
        let service = service(protocol);
        let operation = op::RunInstances::MODEL;
        let sent = client::request(service, protocol, operation, &input).expect("a request");
        let headers: Vec<(&str, &[u8])> =
            sent.headers.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        let call = server::open(service, &parts(&sent.uri, &headers, &sent.body));
        let mut again = RunInstancesRequest::default();
        call.expect("an operation").decode(&mut again).expect("an input");
        prop_assert_eq!(again, input);
    }

    #[test]
    fn an_output_comes_back(
        name in "\\PC{0,12}",
        value in "\\PC{0,12}",
        millis in 0..4_102_444_800_000_i64,
        protocol in prop::sample::select(PROTOCOLS.to_vec()),
    ) {
        let output = output(&name, &value, millis);
        let operation = op::DescribeInstances::MODEL;
        let response = server::encode(service(protocol), protocol, operation, &output, 0);
        let body = response.body("id");
        let reply = client::Reply { status: response.status, headers: &[], body: &body };
        let mut again = DescribeInstancesResult::default();
        client::response(protocol, operation, reply, &mut again).expect("an output");
        prop_assert_eq!(again, output);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(
        body in prop::collection::vec(any::<u8>(), 0..100),
        path in "[a-z/%0-9]{0,20}",
        protocol in prop::sample::select(PROTOCOLS.to_vec()),
    ) {
        let headers: [(&str, &[u8]); 1] = [("x-amz-target", b"Test.RunInstances")];
        for path in [&path, "/", "/service/Test/operation/RunInstances"] {
            let Ok(call) = server::open(service(protocol), &parts(path, &headers, &body)) else {
                continue;
            };
            if let Err(error) = call.decode(&mut RunInstancesRequest::default()) {
                let error = error.to_api(protocol);
                let _ = server::encode_error(service(protocol), protocol, &error);
            }
        }
        for status in [200, 400] {
            let reply = client::Reply { status, headers: &headers, body: &body };
            let into: &mut dyn Shape = &mut DescribeInstancesResult::default();
            let _ = client::response(protocol, op::DescribeInstances::MODEL, reply, into);
        }
    }
}

#[test]
fn deep_bodies_are_refused() {
    for (protocol, body) in [
        (Protocol::Json11, "[".repeat(100_000).into_bytes()),
        (Protocol::RestJson, "{\"a\":".repeat(100_000).into_bytes()),
        (Protocol::RestXml, "<a>".repeat(100_000).into_bytes()),
        (Protocol::RpcV2Cbor, vec![0x81; 100_000]),
        (Protocol::RpcV2Cbor, vec![0xc1; 100_000]),
    ] {
        let headers: [(&str, &[u8]); 1] = [("x-amz-target", b"Test.RunInstances")];
        let path = match protocol {
            Protocol::RpcV2Cbor => "/service/Test/operation/RunInstances",
            _ => "/",
        };
        let call = server::open(service(protocol), &parts(path, &headers, &body));
        let call = call.expect("an operation");
        assert!(call.decode(&mut RunInstancesRequest::default()).is_err(), "{protocol:?}");
    }
}
