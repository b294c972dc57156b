//! VPC endpoints: ways from a VPC to the cloud's own services that need no gateway.
//!
//! ```text
//!   CreateVpcEndpoint                DeleteVpcEndpoints
//!  ──────────► pending ──► available ──────────► deleting ──► deleted ──(an hour)──► gone
//! ```
//!
//! A gateway endpoint is a route to the service's prefix list in each of its route tables, written
//! with the endpoint. An interface endpoint is a network interface in each of its subnets; the
//! node serves there, and the VPC's resolver leads the service's own name to it when PrivateDnsEnabled
//! is set ([`crate::network_plan`]). The only policy is full access.
//!
//! Not here: Gateway Load Balancer, resource and service network endpoints, endpoint services of
//! one's own, IPv6.

mod create;
mod describe;
mod modify;
mod reconciler;
mod service;

pub(crate) use reconciler::RECONCILER;

use self::service::Offer;
use crate::lookup::Id;
use crate::prefix_list;
use crate::record::{Destination, Progress, Route, RouteOrigin, RouteTable, VpcEndpoint, key};
use ::service::{Call, Error, Operation, operation};
use model::ec2::{self as api, op};
use serde_json::Value;
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateVpcEndpoint,
        create::create_vpc_endpoint,
        Write,
        [
            "VpcId",
            "ServiceName",
            "ServiceRegion",
            "VpcEndpointType",
            "PolicyDocument",
            "RouteTableIds",
            "SubnetIds",
            "SubnetConfigurations.Ipv4",
            "SubnetConfigurations.SubnetId",
            "SecurityGroupIds",
            "PrivateDnsEnabled",
            "IpAddressType",
            "DnsOptions.DnsRecordIpType",
            "TagSpecifications.*",
        ]
    ),
    operation!(
        op::ModifyVpcEndpoint,
        modify::modify_vpc_endpoint,
        Write,
        [
            "VpcEndpointId",
            "AddRouteTableIds",
            "AddSecurityGroupIds",
            "AddSubnetIds",
            "DnsOptions.DnsRecordIpType",
            "IpAddressType",
            "PolicyDocument",
            "PrivateDnsEnabled",
            "RemoveRouteTableIds",
            "RemoveSecurityGroupIds",
            "RemoveSubnetIds",
            "ResetPolicy",
            "SubnetConfigurations.Ipv4",
            "SubnetConfigurations.SubnetId",
        ]
    ),
    operation!(op::DeleteVpcEndpoints, delete_vpc_endpoints, Write, ["VpcEndpointIds"]),
    operation!(
        op::DescribeVpcEndpoints,
        describe::describe_vpc_endpoints,
        Read,
        ["VpcEndpointIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribeVpcEndpointServices,
        service::describe_vpc_endpoint_services,
        Read,
        ["ServiceNames", "ServiceRegions", "Filters.*", "MaxResults", "NextToken"]
    ),
];

const ID: Id = Id {
    prefix: "vpce",
    kind: key::VPC_ENDPOINT,
    malformed: "InvalidVpcEndpointId.Malformed",
    missing: "InvalidVpcEndpointId.NotFound",
    noun: "Vpc Endpoint Id",
};

/// The endpoint with this id, unless it was deleted; the commit depends on it.
fn find(call: &mut Call<'_>, id: &str) -> Result<Arc<VpcEndpoint>, Error> {
    let endpoint = ID.find::<VpcEndpoint>(call, id)?;
    if endpoint.state == Progress::Deleted { Err(ID.not_found(id)) } else { Ok(endpoint) }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::client("InvalidParameter", message)
}

/// Addresses of endpoints are IPv4.
fn check_address_type(kind: Option<&str>, records: Option<&str>) -> Result<(), Error> {
    if let Some(other) = kind.filter(|kind| *kind != "ipv4") {
        return Err(Error::unsupported(format!(
            "IpAddressType {other} of a VPC endpoint is not built in gureum yet."
        )));
    }
    if let Some(other) = records.filter(|kind| !matches!(*kind, "ipv4" | "service-defined")) {
        return Err(Error::unsupported(format!(
            "DnsRecordIpType {other} of a VPC endpoint is not built in gureum yet."
        )));
    }
    Ok(())
}

/// Checks that a policy allows everything: no call is judged by it. It is kept as given.
///
/// # Errors
/// `InvalidPolicyDocument` for what is no policy, `UnsupportedOperation` for one that allows less.
fn check_policy(text: &str) -> Result<(), Error> {
    let document = serde_json::from_str::<Value>(text).ok();
    let Some(statement) = document.as_ref().and_then(|document| document.get("Statement")) else {
        return Err(Error::client("InvalidPolicyDocument", "Policy document is malformed."));
    };
    let whole = match statement {
        Value::Array(statements) => match statements.as_slice() {
            [only] => allows_everything(only),
            _ => false,
        },
        only => allows_everything(only),
    };
    if whole {
        return Ok(());
    }
    Err(Error::unsupported(
        "A PolicyDocument other than full access (one statement that allows \"*\" on \"*\" to \"*\") is \
         not built in gureum yet.",
    ))
}

fn allows_everything(statement: &Value) -> bool {
    let Some(members) = statement.as_object() else { return false };
    let every = |value: &Value| match value {
        Value::Array(values) => values.iter().any(|value| value == "*"),
        value => value == "*",
    };
    let has = |name: &str, accepts: &dyn Fn(&Value) -> bool| members.get(name).is_some_and(accepts);
    has("Effect", &|value| value == "Allow")
        && has("Principal", &|value| every(value) || value.get("AWS").is_some_and(every))
        && has("Action", &every)
        && has("Resource", &every)
        // Whatever else there is, as a Condition, takes something away.
        && members.keys().all(|name| {
            matches!(name.as_str(), "Sid" | "Effect" | "Principal" | "Action" | "Resource")
        })
}

fn table_key(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::ROUTE_TABLE, call.account(), id)
}

/// Stages the route of a gateway endpoint in a table of its VPC.
///
/// # Errors
/// `InvalidRouteTableId.NotFound`, `RouteAlreadyExists`.
fn add_route(
    call: &mut Call<'_>,
    endpoint_id: &str,
    vpc_id: &str,
    service_name: &str,
    table_id: &str,
) -> Result<(), Error> {
    let at = table_key(call, table_id);
    let missing = || {
        Error::client(
            "InvalidRouteTableId.NotFound",
            format!("The routeTable ID '{table_id}' does not exist"),
        )
    };
    let table = call.get::<RouteTable>(&at)?.ok_or_else(missing)?;
    if table.vpc_id != vpc_id {
        return Err(invalid(format!(
            "Route table {table_id} belongs to a different VPC {} from VPC endpoint.",
            table.vpc_id
        )));
    }
    let list_id = prefix_list::id_of_service(service_name);
    let destination = Destination::PrefixList(list_id.clone());
    if table.routes.iter().any(|route| route.destination == destination) {
        return Err(Error::client(
            "RouteAlreadyExists",
            format!(
                "route table {table_id} already has a route with destination-prefix-list-id \
                 {list_id}"
            ),
        ));
    }
    let mut changed = RouteTable::clone(&table);
    changed.routes.push(Route {
        destination,
        target: endpoint_id.to_owned(),
        origin: RouteOrigin::CreateRoute,
    });
    call.put(&at, changed);
    Ok(())
}

/// Takes the route of a gateway endpoint out of a table.
fn remove_route(call: &mut Call<'_>, endpoint_id: &str, table_id: &str) -> Result<(), Error> {
    let at = table_key(call, table_id);
    if let Some(table) = call.get::<RouteTable>(&at)? {
        let mut changed = RouteTable::clone(&table);
        changed.routes.retain(|route| route.target != endpoint_id);
        call.put(&at, changed);
    }
    Ok(())
}

fn delete_vpc_endpoints(
    call: &mut Call<'_>,
    input: api::DeleteVpcEndpointsRequest,
) -> Result<api::DeleteVpcEndpointsResult, Error> {
    let mut ids = input.vpc_endpoint_ids.unwrap_or_default();
    ids.sort();
    ids.dedup();
    let mut unsuccessful = Vec::new();
    for id in ids {
        match find(call, &id) {
            Ok(endpoint) if endpoint.state == Progress::Deleting => {}
            Ok(endpoint) => delete(call, &endpoint)?,
            Err(error) if error.status >= 500 => return Err(error),
            Err(error) => unsuccessful.push(api::UnsuccessfulItem {
                error: Some(api::UnsuccessfulItemError {
                    code: Some(error.code.into_owned()),
                    message: Some(error.message),
                }),
                resource_id: Some(id),
            }),
        }
    }
    Ok(api::DeleteVpcEndpointsResult { unsuccessful: Some(unsuccessful) })
}

fn delete(call: &mut Call<'_>, endpoint: &VpcEndpoint) -> Result<(), Error> {
    for table_id in &endpoint.route_table_ids {
        remove_route(call, &endpoint.id, table_id)?;
    }
    let changed =
        VpcEndpoint { state: Progress::Deleting, route_table_ids: Vec::new(), ..endpoint.clone() };
    call.put(&ID.key(call, &endpoint.id), changed);
    Ok(())
}

/// The service of an endpoint.
fn offer(region: &str, endpoint: &VpcEndpoint) -> Option<Offer> {
    service::offers(region).find(|offer| offer.name == endpoint.service_name)
}

/// The names of an interface endpoint with the zone that a name is of: all of them, then one a
/// zone (AWS PrivateLink guide, "DNS hostnames").
pub(crate) fn own_names(
    region: &str,
    endpoint: &VpcEndpoint,
    zones: &[String],
) -> Vec<(String, Option<String>)> {
    let Some(offer) = offer(region, endpoint).filter(|_| !endpoint.gateway) else {
        return Vec::new();
    };
    let id = &endpoint.id;
    // Eight digits that only the endpoint has.
    let digits = &id[id.len().saturating_sub(8)..];
    let domain = format!("{}.{region}.vpce.amazonaws.com", offer.word);
    let mut names = vec![(format!("{id}-{digits}.{domain}"), None)];
    for zone in zones {
        names.push((format!("{id}-{digits}-{zone}.{domain}"), Some(zone.clone())));
    }
    names
}

#[cfg(test)]
mod tests;
