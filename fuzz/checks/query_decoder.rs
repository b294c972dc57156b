//! The bytes of a body are an input or an error, for a service of each form protocol; an input that
//! is written and read again is the same.

use model::{ec2, sts};
use wire::sigv4::RequestParts;
use wire::{Operation, OperationModel, ServiceModel, Shape, client, server, validate};

/// Panics if a promise is broken.
pub(crate) fn check(data: &[u8]) {
    one::<ec2::op::RunInstances>(&ec2::SERVICE, data);
    one::<ec2::op::DescribeInstances>(&ec2::SERVICE, data);
    one::<ec2::op::AuthorizeSecurityGroupIngress>(&ec2::SERVICE, data);
    one::<sts::op::AssumeRole>(&sts::SERVICE, data);
}

fn one<O: Operation>(service: &'static ServiceModel, data: &[u8]) {
    let Some(input) = read::<O>(service, O::MODEL, data) else { return };
    let protocol = service.protocols[0];
    let _ = validate::validate(protocol, &input);
    let written = client::request(service, protocol, O::MODEL, &input).expect("a form");
    let again = read::<O>(service, O::MODEL, &written.body).expect("what we write is well-formed");
    // What a form cannot say (an empty list, a structure without members) is gone, and stays gone.
    let rewritten = client::request(service, protocol, O::MODEL, &again).expect("a form");
    assert_eq!(written.body, rewritten.body);
}

/// Reads the body as the input of `operation`, whatever action it names.
fn read<O: Operation>(
    service: &'static ServiceModel,
    operation: &OperationModel,
    body: &[u8],
) -> Option<O::Input> {
    let parts = RequestParts { method: "POST", path: "/", query: "", headers: &[], body };
    if let Err(error) = server::open(service, &parts) {
        let _ = error.to_api(service.protocols[0]);
    }
    let query = format!("Action={}", operation.name);
    let named = RequestParts { query: &query, ..parts };
    let named = if body.starts_with(b"Action=") { parts } else { named };
    let call = server::open(service, &named).ok()?;
    let mut input = O::Input::default();
    let shape: &mut dyn Shape = &mut input;
    if call.operation.name != operation.name {
        return None;
    }
    call.decode(shape).map_err(|error| error.to_api(service.protocols[0])).ok()?;
    Some(input)
}
