//! Route tables: made, deleted and drawn to subnets; [`route`] is about what is in them.
//!
//! A table's record holds its routes and its associations, so a change of either is one
//! compare-and-put. That a subnet uses a table stands in both records, and which table is a VPC's
//! main one in the VPC's and the table's; both are written in one transaction. The local routes
//! follow from the VPC's blocks and are not stored, unless one leads elsewhere.
//!
//! Not here: tables of gateways (a table belongs to subnets only), virtual private gateways and
//! what they propagate.

mod describe;
mod route;
#[cfg(test)]
mod tests;

pub(crate) use route::check_count;

use crate::lookup::Id;
use crate::record::{Association, RouteTable, Subnet, Vpc, VpcEndpoint, key};
use crate::{subnet, tag, vpc};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most route tables of a VPC (VPC User Guide, "Amazon VPC quotas").
const MAX_TABLES: usize = 200;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::CreateRouteTable, create_route_table, Write, ["VpcId", "TagSpecifications.*"]),
    operation!(op::DeleteRouteTable, delete_route_table, Write, ["RouteTableId"]),
    operation!(
        op::DescribeRouteTables,
        describe::describe_route_tables,
        Read,
        ["RouteTableIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(op::AssociateRouteTable, associate_route_table, Write, ["RouteTableId", "SubnetId"]),
    operation!(op::DisassociateRouteTable, disassociate_route_table, Write, ["AssociationId"]),
    operation!(
        op::ReplaceRouteTableAssociation,
        replace_route_table_association,
        Write,
        ["AssociationId", "RouteTableId"]
    ),
    operation!(
        op::CreateRoute,
        route::create_route,
        Write,
        [
            "RouteTableId",
            "DestinationCidrBlock",
            "DestinationIpv6CidrBlock",
            "DestinationPrefixListId",
            "EgressOnlyInternetGatewayId",
            "GatewayId",
            "InstanceId",
            "NatGatewayId",
            "NetworkInterfaceId",
            "TransitGatewayId",
            "VpcEndpointId",
            "VpcPeeringConnectionId",
        ]
    ),
    operation!(
        op::ReplaceRoute,
        route::replace_route,
        Write,
        [
            "RouteTableId",
            "DestinationCidrBlock",
            "DestinationIpv6CidrBlock",
            "DestinationPrefixListId",
            "EgressOnlyInternetGatewayId",
            "GatewayId",
            "InstanceId",
            "LocalTarget",
            "NatGatewayId",
            "NetworkInterfaceId",
            "TransitGatewayId",
            "VpcEndpointId",
            "VpcPeeringConnectionId",
        ]
    ),
    operation!(
        op::DeleteRoute,
        route::delete_route,
        Write,
        [
            "RouteTableId",
            "DestinationCidrBlock",
            "DestinationIpv6CidrBlock",
            "DestinationPrefixListId"
        ]
    ),
    operation!(
        op::EnableVgwRoutePropagation,
        enable_propagation,
        Write,
        ["RouteTableId", "GatewayId"]
    ),
    operation!(
        op::DisableVgwRoutePropagation,
        disable_propagation,
        Write,
        ["RouteTableId", "GatewayId"]
    ),
];

/// Ids of route tables.
pub(crate) const ID: Id = Id {
    prefix: "rtb",
    kind: key::ROUTE_TABLE,
    malformed: "InvalidRouteTableId.Malformed",
    missing: "InvalidRouteTableID.NotFound",
    noun: "routeTable ID",
};

/// Ids of their associations, which have no records of their own.
const ASSOCIATION: Id = Id {
    prefix: "rtbassoc",
    kind: key::ROUTE_TABLE,
    malformed: "InvalidRouteTableAssociationId.Malformed",
    missing: "InvalidAssociationID.NotFound",
    noun: "association ID",
};

/// The table with this id, to be changed; the commit depends on it.
fn find(call: &mut Call<'_>, id: &str) -> Result<RouteTable, Error> {
    Ok(RouteTable::clone(&*ID.find::<RouteTable>(call, id)?))
}

fn put(call: &mut Call<'_>, table: RouteTable) {
    let at = ID.key(call, &table.id);
    call.put(&at, table);
}

fn create_route_table(
    call: &mut Call<'_>,
    input: api::CreateRouteTableRequest,
) -> Result<api::CreateRouteTableResult, Error> {
    let tags = tag::from_specifications(
        input.tag_specifications.as_deref(),
        "route-table",
        &["route-table"],
    )?;
    let vpc = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let tables = call.scan::<RouteTable>(&ID.key(call, ""))?;
    if tables.iter().filter(|table| table.vpc_id == vpc.id).count() >= MAX_TABLES {
        return Err(Error::client(
            "RouteTableLimitExceeded",
            "The maximum number of route tables has been reached.",
        ));
    }
    let table = RouteTable {
        v: 1,
        id: call.new_id("rtb"),
        vpc_id: vpc.id.clone(),
        main_association_id: None,
        associations: Vec::new(),
        propagating_gateways: Vec::new(),
        routes: Vec::new(),
        tags,
    };
    let at = ID.key(call, &table.id);
    let table = call.put(&at, table);
    let shown = describe::to_model(call, &table)?;
    Ok(api::CreateRouteTableResult { client_token: None, route_table: Some(shown) })
}

fn delete_route_table(
    call: &mut Call<'_>,
    input: api::DeleteRouteTableRequest,
) -> Result<wire::Empty, Error> {
    let id = input.route_table_id.unwrap_or_default();
    let table = find(call, &id)?;
    if table.main_association_id.is_some() || !table.associations.is_empty() {
        return Err(Error::client(
            "DependencyViolation",
            format!("The routeTable '{id}' has dependencies and cannot be deleted."),
        ));
    }
    // A gateway endpoint forgets the table.
    let endpoints = key::of(call.region, key::VPC_ENDPOINT, call.account(), "");
    for endpoint in call.get_all::<VpcEndpoint>(&endpoints)? {
        if endpoint.route_table_ids.contains(&id) {
            let mut endpoint = VpcEndpoint::clone(&endpoint);
            endpoint.route_table_ids.retain(|own| *own != id);
            let at = format!("{endpoints}{}", endpoint.id);
            call.put(&at, endpoint);
        }
    }
    let at = ID.key(call, &id);
    call.delete(&at);
    Ok(wire::Empty)
}

fn associated() -> Option<api::RouteTableAssociationState> {
    Some(api::RouteTableAssociationState {
        state: Some("associated".to_owned()),
        status_message: None,
    })
}

fn check_same_network(table: &RouteTable, subnet: &Subnet) -> Result<(), Error> {
    if table.vpc_id == subnet.vpc_id {
        return Ok(());
    }
    Err(Error::invalid_parameter_value(format!(
        "route table {} and subnet {} belong to different networks",
        table.id, subnet.id
    )))
}

/// Stages a subnet with its table.
fn put_subnet(call: &mut Call<'_>, subnet: &Subnet, route_table_id: Option<&str>) {
    let mut subnet = subnet.clone();
    subnet.route_table_id = route_table_id.map(str::to_owned);
    let at = key::of(call.region, key::SUBNET, call.account(), &subnet.id);
    call.put(&at, subnet);
}

fn associate_route_table(
    call: &mut Call<'_>,
    input: api::AssociateRouteTableRequest,
) -> Result<api::AssociateRouteTableResult, Error> {
    let mut table = find(call, &input.route_table_id.unwrap_or_default())?;
    let Some(subnet_id) = input.subnet_id.filter(|id| !id.is_empty()) else {
        return Err(Error::missing_parameter("subnetId"));
    };
    let subnet = subnet::find_subnet(call, &subnet_id)?;
    check_same_network(&table, &subnet)?;
    let id = match subnet.route_table_id.as_deref() {
        None => {
            let id = call.new_id("rtbassoc");
            table.associations.push(Association { id: id.clone(), subnet_id });
            put_subnet(call, &subnet, Some(&table.id));
            put(call, table);
            id
        }
        // Asked for again, it is the same one.
        Some(own) if own == table.id => table
            .associations
            .iter()
            .find(|association| association.subnet_id == subnet_id)
            .map(|association| association.id.clone())
            .ok_or_else(|| Error::internal(format!("{subnet_id} is not in {own}")))?,
        Some(other) => {
            return Err(Error::client(
                "Resource.AlreadyAssociated",
                format!(
                    "the specified association for route table {} conflicts with an existing \
                     association: subnet {subnet_id} is associated with {other}",
                    table.id
                ),
            ));
        }
    };
    Ok(api::AssociateRouteTableResult { association_id: Some(id), association_state: associated() })
}

/// The table with this association; the commit depends on it.
fn find_association(call: &mut Call<'_>, id: &str) -> Result<RouteTable, Error> {
    ASSOCIATION.check(id)?;
    let has = |table: &RouteTable| {
        table.main_association_id.as_deref() == Some(id)
            || table.associations.iter().any(|association| association.id == id)
    };
    let tables = call.scan::<RouteTable>(&ID.key(call, ""))?;
    let found = tables.iter().find(|table| has(table)).ok_or_else(|| ASSOCIATION.not_found(id))?;
    find(call, &found.id)
}

/// Takes a subnet's association out of a table; gives the subnet.
fn take_association(
    call: &mut Call<'_>,
    table: &mut RouteTable,
    id: &str,
) -> Result<Arc<Subnet>, Error> {
    let place = table.associations.iter().position(|association| association.id == id);
    let place = place.ok_or_else(|| ASSOCIATION.not_found(id))?;
    let association = table.associations.remove(place);
    subnet::find_subnet(call, &association.subnet_id)
}

fn disassociate_route_table(
    call: &mut Call<'_>,
    input: api::DisassociateRouteTableRequest,
) -> Result<wire::Empty, Error> {
    let id = input.association_id.unwrap_or_default();
    let mut table = find_association(call, &id)?;
    if table.main_association_id.as_deref() == Some(id.as_str()) {
        return Err(Error::invalid_parameter_value(format!(
            "cannot disassociate the main route table association {id}"
        )));
    }
    let subnet = take_association(call, &mut table, &id)?;
    put_subnet(call, &subnet, None);
    put(call, table);
    Ok(wire::Empty)
}

fn replace_route_table_association(
    call: &mut Call<'_>,
    input: api::ReplaceRouteTableAssociationRequest,
) -> Result<api::ReplaceRouteTableAssociationResult, Error> {
    let id = input.association_id.unwrap_or_default();
    let mut old = find_association(call, &id)?;
    let mut new = find(call, &input.route_table_id.unwrap_or_default())?;
    let new_id = call.new_id("rtbassoc");
    let is_main = old.main_association_id.as_deref() == Some(id.as_str());
    if is_main {
        if new.vpc_id != old.vpc_id {
            return Err(Error::invalid_parameter_value(format!(
                "route table {} and network {} belong to different networks",
                new.id, old.vpc_id
            )));
        }
        let at = key::of(call.region, key::VPC, call.account(), &old.vpc_id);
        let vpc = call.get::<Vpc>(&at)?;
        let mut vpc =
            Vpc::clone(&*vpc.ok_or_else(|| Error::internal(format!("{} has no VPC", old.id)))?);
        vpc.main_route_table_id.clone_from(&new.id);
        call.put(&at, vpc);
        old.main_association_id = None;
    } else {
        let subnet = take_association(call, &mut old, &id)?;
        check_same_network(&new, &subnet)?;
        put_subnet(call, &subnet, Some(&new.id));
        let association = Association { id: new_id.clone(), subnet_id: subnet.id.clone() };
        if old.id != new.id {
            new.associations.push(association);
        } else {
            old.associations.push(association);
        }
    }
    if old.id == new.id {
        if is_main {
            old.main_association_id = Some(new_id.clone());
        }
        put(call, old);
    } else {
        if is_main {
            new.main_association_id = Some(new_id.clone());
        }
        put(call, old);
        put(call, new);
    }
    Ok(api::ReplaceRouteTableAssociationResult {
        association_state: associated(),
        new_association_id: Some(new_id),
    })
}

/// There are no virtual private gateways, so none has the id that is asked for.
fn no_such_gateway(
    call: &mut Call<'_>,
    route_table_id: Option<String>,
    gateway_id: Option<String>,
) -> Result<wire::Empty, Error> {
    const GATEWAY: Id = Id {
        prefix: "vgw",
        kind: "vpn-gateway",
        malformed: "InvalidVpnGatewayID.Malformed",
        missing: "InvalidVpnGatewayID.NotFound",
        noun: "vpnGateway ID",
    };
    find(call, &route_table_id.unwrap_or_default())?;
    let id = gateway_id.unwrap_or_default();
    GATEWAY.check(&id)?;
    Err(GATEWAY.not_found(&id))
}

fn enable_propagation(
    call: &mut Call<'_>,
    input: api::EnableVgwRoutePropagationRequest,
) -> Result<wire::Empty, Error> {
    no_such_gateway(call, input.route_table_id, input.gateway_id)
}

fn disable_propagation(
    call: &mut Call<'_>,
    input: api::DisableVgwRoutePropagationRequest,
) -> Result<wire::Empty, Error> {
    no_such_gateway(call, input.route_table_id, input.gateway_id)
}
