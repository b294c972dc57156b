//! Internet gateways and egress-only internet gateways.
//!
//! What an internet gateway is attached to stands in its record and in the VPC's, written in one
//! transaction. Routes only name gateways: one that is detached leaves blackholes behind. An
//! egress-only one is made in its VPC and stays there.

#[cfg(test)]
mod tests;

use crate::lookup::Id;
use crate::record::{EgressOnlyInternetGateway, Interface, InternetGateway, Vpc, key};
use crate::{region, tag, vpc};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};

/// Most internet gateways of a region, and most egress-only ones (VPC User Guide, "Amazon VPC
/// quotas").
const MAX_GATEWAYS: usize = 5;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::CreateInternetGateway, create_internet_gateway, Write, ["TagSpecifications.*"]),
    operation!(
        op::AttachInternetGateway,
        attach_internet_gateway,
        Write,
        ["InternetGatewayId", "VpcId"]
    ),
    operation!(
        op::DetachInternetGateway,
        detach_internet_gateway,
        Write,
        ["InternetGatewayId", "VpcId"]
    ),
    operation!(op::DeleteInternetGateway, delete_internet_gateway, Write, ["InternetGatewayId"]),
    operation!(
        op::DescribeInternetGateways,
        describe_internet_gateways,
        Read,
        ["InternetGatewayIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::CreateEgressOnlyInternetGateway,
        create_egress_only,
        Write,
        ["VpcId", "ClientToken", "TagSpecifications.*"]
    ),
    operation!(
        op::DeleteEgressOnlyInternetGateway,
        delete_egress_only,
        Write,
        ["EgressOnlyInternetGatewayId"]
    ),
    operation!(
        op::DescribeEgressOnlyInternetGateways,
        describe_egress_only,
        Read,
        ["EgressOnlyInternetGatewayIds", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// Ids of internet gateways.
pub(crate) const ID: Id = Id {
    prefix: "igw",
    kind: key::INTERNET_GATEWAY,
    malformed: "InvalidInternetGatewayId.Malformed",
    missing: "InvalidInternetGatewayID.NotFound",
    noun: "internetGateway ID",
};

/// Ids of egress-only internet gateways.
pub(crate) const EGRESS_ONLY_ID: Id = Id {
    prefix: "eigw",
    kind: key::EGRESS_ONLY_INTERNET_GATEWAY,
    malformed: "InvalidGatewayID.Malformed",
    missing: "InvalidGatewayID.NotFound",
    noun: "eigw ID",
};

fn create_internet_gateway(
    call: &mut Call<'_>,
    input: api::CreateInternetGatewayRequest,
) -> Result<api::CreateInternetGatewayResult, Error> {
    const TYPE: &str = "internet-gateway";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    if call.snapshot().count(&ID.key(call, "")) >= MAX_GATEWAYS {
        return Err(Error::client(
            "InternetGatewayLimitExceeded",
            "The maximum number of internet gateways has been reached.",
        ));
    }
    let gateway = InternetGateway { v: 1, id: call.new_id("igw"), vpc_id: None, tags };
    let at = ID.key(call, &gateway.id);
    let gateway = call.put(&at, gateway);
    Ok(api::CreateInternetGatewayResult { internet_gateway: Some(to_model(call, &gateway)) })
}

/// A gateway and a VPC, to be changed.
fn pair(
    call: &mut Call<'_>,
    gateway_id: Option<String>,
    vpc_id: Option<String>,
) -> Result<(InternetGateway, Vpc), Error> {
    let gateway = ID.find::<InternetGateway>(call, &gateway_id.unwrap_or_default())?;
    let vpc = vpc::find_vpc(call, &vpc_id.unwrap_or_default())?;
    Ok((InternetGateway::clone(&gateway), Vpc::clone(&vpc)))
}

fn put_pair(call: &mut Call<'_>, gateway: InternetGateway, vpc: Vpc) {
    let at = ID.key(call, &gateway.id);
    call.put(&at, gateway);
    let at = key::of(call.region, key::VPC, call.account(), &vpc.id);
    call.put(&at, vpc);
}

fn attach_internet_gateway(
    call: &mut Call<'_>,
    input: api::AttachInternetGatewayRequest,
) -> Result<wire::Empty, Error> {
    let (mut gateway, mut vpc) = pair(call, input.internet_gateway_id, input.vpc_id)?;
    if let Some(network) = &gateway.vpc_id {
        return Err(Error::client(
            "Resource.AlreadyAssociated",
            format!("resource {} is already attached to network {network}", gateway.id),
        ));
    }
    if vpc.internet_gateway_id.is_some() {
        return Err(Error::invalid_parameter_value(format!(
            "Network {} already has an internet gateway attached",
            vpc.id
        )));
    }
    gateway.vpc_id = Some(vpc.id.clone());
    vpc.internet_gateway_id = Some(gateway.id.clone());
    put_pair(call, gateway, vpc);
    Ok(wire::Empty)
}

pub(crate) fn detach_internet_gateway(
    call: &mut Call<'_>,
    input: api::DetachInternetGatewayRequest,
) -> Result<wire::Empty, Error> {
    let (mut gateway, mut vpc) = pair(call, input.internet_gateway_id, input.vpc_id)?;
    if gateway.vpc_id.as_ref() != Some(&vpc.id) {
        return Err(Error::client(
            "Gateway.NotAttached",
            format!("resource {} is not attached to network {}", gateway.id, vpc.id),
        ));
    }
    let interfaces = key::of(call.region, key::INTERFACE, call.account(), "");
    let is_mapped = call.get_all::<Interface>(&interfaces)?.iter().any(|interface| {
        interface.vpc_id == vpc.id
            && (interface.public_ip.is_some()
                || interface.secondary.iter().any(|address| address.elastic.is_some()))
    });
    if is_mapped {
        return Err(Error::client(
            "DependencyViolation",
            format!(
                "Network {} has some mapped public address(es). Please unmap those public \
                 address(es) before detaching the gateway.",
                vpc.id
            ),
        ));
    }
    gateway.vpc_id = None;
    vpc.internet_gateway_id = None;
    put_pair(call, gateway, vpc);
    Ok(wire::Empty)
}

fn delete_internet_gateway(
    call: &mut Call<'_>,
    input: api::DeleteInternetGatewayRequest,
) -> Result<wire::Empty, Error> {
    let id = input.internet_gateway_id.unwrap_or_default();
    if ID.find::<InternetGateway>(call, &id)?.vpc_id.is_some() {
        return Err(Error::client(
            "DependencyViolation",
            format!("The internetGateway '{id}' has dependencies and cannot be deleted."),
        ));
    }
    let at = ID.key(call, &id);
    call.delete(&at);
    Ok(wire::Empty)
}

const FILTERS: &[Field<api::InternetGateway>] = &[
    ("attachment.state", |gateway| {
        let attachments = gateway.attachments.iter().flatten();
        attachments.flat_map(|attachment| region::text(&attachment.state)).collect()
    }),
    ("attachment.vpc-id", |gateway| {
        let attachments = gateway.attachments.iter().flatten();
        attachments.flat_map(|attachment| region::text(&attachment.vpc_id)).collect()
    }),
    ("internet-gateway-id", |gateway| region::text(&gateway.internet_gateway_id)),
    ("owner-id", |gateway| region::text(&gateway.owner_id)),
];

fn describe_internet_gateways(
    call: &mut Call<'_>,
    input: api::DescribeInternetGatewaysRequest,
) -> Result<api::DescribeInternetGatewaysResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let found = ID.described::<InternetGateway>(call, input.internet_gateway_ids)?;
    let shown: Vec<api::InternetGateway> = found
        .into_iter()
        .map(|gateway| (to_model(call, &gateway), gateway))
        .filter(|(shown, gateway)| filters.accept(shown, &gateway.tags))
        .map(|(shown, _)| shown)
        .collect();
    let page = page(
        shown,
        |gateway| gateway.internet_gateway_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeInternetGatewaysResult {
        internet_gateways: Some(page.items),
        next_token: page.next_token,
    })
}

/// The state of an attached internet gateway is `available` in AWS's answers, not `attached`.
fn to_model(call: &Call<'_>, gateway: &InternetGateway) -> api::InternetGateway {
    let attachment = gateway.vpc_id.as_ref().map(|id| api::InternetGatewayAttachment {
        state: Some("available".to_owned()),
        vpc_id: Some(id.clone()),
    });
    api::InternetGateway {
        attachments: Some(attachment.into_iter().collect()),
        internet_gateway_id: Some(gateway.id.clone()),
        owner_id: Some(call.account().to_owned()),
        tags: tag::to_model(&gateway.tags),
    }
}

/// The key that says which gateway a client token made. The model does not mark the token as one,
/// so the dispatcher does not keep it.
fn token_key(call: &Call<'_>, token: &str) -> String {
    key::of(call.region, "egress-only-internet-gateway-token", call.account(), token)
}

fn create_egress_only(
    call: &mut Call<'_>,
    input: api::CreateEgressOnlyInternetGatewayRequest,
) -> Result<api::CreateEgressOnlyInternetGatewayResult, Error> {
    const TYPE: &str = "egress-only-internet-gateway";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let vpc = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let token = input.client_token.filter(|token| !token.is_empty());
    if let Some(token) = &token {
        if token.len() > 64 || !token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({token}) for parameter clientToken is invalid. A client token has at most \
                 64 ASCII characters."
            )));
        }
        let at = token_key(call, token);
        if let Some(id) = call.get::<String>(&at)? {
            let made = EGRESS_ONLY_ID.find::<EgressOnlyInternetGateway>(call, &id)?;
            if made.vpc_id != vpc.id {
                return Err(Error::client(
                    "IdempotentParameterMismatch",
                    "The client token was used with other parameters.",
                ));
            }
            return Ok(egress_only_result(Some(token.clone()), &made));
        }
    }
    if call.snapshot().count(&EGRESS_ONLY_ID.key(call, "")) >= MAX_GATEWAYS {
        return Err(Error::client(
            "EgressOnlyInternetGatewayLimitExceeded",
            "The maximum number of egress-only internet gateways has been reached.",
        ));
    }
    let id = call.new_id("eigw");
    if let Some(token) = &token {
        let at = token_key(call, token);
        call.put(&at, id.clone());
    }
    let gateway = EgressOnlyInternetGateway { v: 1, id, vpc_id: vpc.id.clone(), tags };
    let at = EGRESS_ONLY_ID.key(call, &gateway.id);
    let gateway = call.put(&at, gateway);
    Ok(egress_only_result(token, &gateway))
}

fn egress_only_result(
    client_token: Option<String>,
    gateway: &EgressOnlyInternetGateway,
) -> api::CreateEgressOnlyInternetGatewayResult {
    api::CreateEgressOnlyInternetGatewayResult {
        client_token,
        egress_only_internet_gateway: Some(egress_only_to_model(gateway)),
    }
}

fn delete_egress_only(
    call: &mut Call<'_>,
    input: api::DeleteEgressOnlyInternetGatewayRequest,
) -> Result<api::DeleteEgressOnlyInternetGatewayResult, Error> {
    let id = input.egress_only_internet_gateway_id.unwrap_or_default();
    EGRESS_ONLY_ID.find::<EgressOnlyInternetGateway>(call, &id)?;
    let at = EGRESS_ONLY_ID.key(call, &id);
    call.delete(&at);
    // Its token may make another one.
    let tokens = call.snapshot().scan(&token_key(call, ""));
    let own = tokens.filter(|kv| kv.decode::<String>().is_ok_and(|made| *made == id));
    let own: Vec<String> = own.map(|kv| kv.key().to_owned()).collect();
    for token in own {
        call.delete(&token);
    }
    Ok(api::DeleteEgressOnlyInternetGatewayResult { return_code: Some(true) })
}

fn describe_egress_only(
    call: &mut Call<'_>,
    input: api::DescribeEgressOnlyInternetGatewaysRequest,
) -> Result<api::DescribeEgressOnlyInternetGatewaysResult, Error> {
    let filters = Filters::<EgressOnlyInternetGateway>::new(crate::filters(input.filters), &[])?;
    // An id that nothing has is no error here.
    let ids = input.egress_only_internet_gateway_ids.unwrap_or_default();
    for id in &ids {
        EGRESS_ONLY_ID.check(id)?;
    }
    let found = EGRESS_ONLY_ID.described::<EgressOnlyInternetGateway>(call, None)?;
    let shown: Vec<api::EgressOnlyInternetGateway> = found
        .into_iter()
        .filter(|gateway| ids.is_empty() || ids.contains(&gateway.id))
        .filter(|gateway| filters.accept(gateway, &gateway.tags))
        .map(|gateway| egress_only_to_model(&gateway))
        .collect();
    let page = page(
        shown,
        |gateway| gateway.egress_only_internet_gateway_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=255,
    )?;
    Ok(api::DescribeEgressOnlyInternetGatewaysResult {
        egress_only_internet_gateways: Some(page.items),
        next_token: page.next_token,
    })
}

fn egress_only_to_model(gateway: &EgressOnlyInternetGateway) -> api::EgressOnlyInternetGateway {
    api::EgressOnlyInternetGateway {
        attachments: Some(vec![api::InternetGatewayAttachment {
            state: Some("attached".to_owned()),
            vpc_id: Some(gateway.vpc_id.clone()),
        }]),
        egress_only_internet_gateway_id: Some(gateway.id.clone()),
        tags: tag::to_model(&gateway.tags),
    }
}
