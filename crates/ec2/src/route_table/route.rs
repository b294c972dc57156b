//! CreateRoute, ReplaceRoute and DeleteRoute.
//!
//! A route names its target by id and may outlive it: then it is a blackhole, as on AWS. What is
//! checked is that the target is there now, in the table's VPC, and can be one for the destination
//! (VPC User Guide, "Example routing options", "Route table concepts").

use super::describe::{blocks, is_attached};
use super::{find, put};
use crate::lookup::Id;
use crate::record::{
    Destination, EgressOnlyInternetGateway, Instance, InstanceState, Interface, InternetGateway,
    NatGateway, PrefixList, Progress, Route, RouteOrigin, RouteTable, Subnet, Vpc, VpcEndpoint,
    VpcPeering, key,
};
use crate::{internet_gateway, prefix_list, vpc, vpc_peering};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use model::ec2 as api;
use service::{Call, Error};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Most routes of a table, each address family by itself; a prefix list counts as many as its
/// MaxEntries (VPC User Guide, "Amazon VPC quotas").
const MAX_ROUTES: usize = 50;

const INTERFACE: Id = Id {
    prefix: "eni",
    kind: key::INTERFACE,
    malformed: "InvalidNetworkInterfaceId.Malformed",
    missing: "InvalidNetworkInterfaceID.NotFound",
    noun: "networkInterface ID",
};

const INSTANCE: Id = Id {
    prefix: "i",
    kind: key::INSTANCE,
    malformed: "InvalidInstanceID.Malformed",
    missing: "InvalidInstanceID.NotFound",
    noun: "instance ID",
};

const ENDPOINT: Id = Id {
    prefix: "vpce",
    kind: key::VPC_ENDPOINT,
    malformed: "InvalidVpcEndpointId.Malformed",
    missing: "InvalidVpcEndpointId.NotFound",
    noun: "Vpc Endpoint Id",
};

const NAT_GATEWAY: Id = Id {
    prefix: "nat",
    kind: key::NAT_GATEWAY,
    malformed: "InvalidNatGatewayID.Malformed",
    missing: "InvalidNatGatewayID.NotFound",
    noun: "natGateway ID",
};

/// The NAT64 prefix (RFC 6052): what IPv6 a NAT gateway takes.
const NAT64: &str = "64:ff9b::/96";

/// The destination that a request names; exactly one.
fn destination(
    cidr: Option<String>,
    ipv6: Option<String>,
    prefix_list: Option<String>,
) -> Result<Destination, Error> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    match (given(cidr), given(ipv6), given(prefix_list)) {
        (Some(text), None, None) => match Ipv4Cidr::parse_lenient(&text) {
            Ok(cidr) => Ok(Destination::Cidr(Cidr::V4(cidr))),
            Err(_) => Err(invalid_cidr(&text, "destinationCidrBlock")),
        },
        (None, Some(text), None) => match Ipv6Cidr::parse_lenient(&text) {
            Ok(cidr) => Ok(Destination::Cidr(Cidr::V6(cidr))),
            Err(_) => Err(invalid_cidr(&text, "destinationIpv6CidrBlock")),
        },
        (None, None, Some(id)) => Ok(Destination::PrefixList(id)),
        (None, None, None) => Err(Error::missing_parameter(
            "destinationCidrBlock, destinationIpv6CidrBlock or destinationPrefixListId",
        )),
        _ => Err(Error::invalid_parameter_combination(
            "The request must contain exactly one of destinationCidrBlock, \
             destinationIpv6CidrBlock, destinationPrefixListId",
        )),
    }
}

fn invalid_cidr(text: &str, member: &str) -> Error {
    Error::invalid_parameter_value(format!(
        "Value ({text}) for parameter {member} is invalid. This is not a valid CIDR block."
    ))
}

fn text(destination: &Destination) -> String {
    match destination {
        Destination::Cidr(cidr) => cidr.to_string(),
        Destination::PrefixList(id) => id.clone(),
    }
}

/// What a request wants its route to lead to.
enum Wanted {
    Local,
    Gateway(String),
    EgressOnly(String),
    Instance(String),
    Nat(String),
    Interface(String),
    TransitGateway(String),
    Endpoint(String),
    Peering(String),
}

/// The target that a request names; exactly one.
fn one_of(targets: Vec<Option<Wanted>>) -> Result<Wanted, Error> {
    let mut targets = targets.into_iter().flatten();
    match (targets.next(), targets.next()) {
        (Some(one), None) => Ok(one),
        (found, _) => {
            let message = "The request must contain exactly one of gatewayId, natGatewayId, \
                           networkInterfaceId, vpcPeeringConnectionId, instanceId, \
                           egressOnlyInternetGatewayId, transitGatewayId, vpcEndpointId";
            Err(match found {
                None => Error::client("MissingParameter", message),
                Some(_) => Error::invalid_parameter_combination(message),
            })
        }
    }
}

macro_rules! targets {
    ($input:ident) => {{
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        vec![
            given($input.gateway_id).map(|id| match id.as_str() {
                "local" => Wanted::Local,
                id if id.starts_with("vpce-") => Wanted::Endpoint(id.to_owned()),
                _ => Wanted::Gateway(id),
            }),
            given($input.egress_only_internet_gateway_id).map(Wanted::EgressOnly),
            given($input.instance_id).map(Wanted::Instance),
            given($input.nat_gateway_id).map(Wanted::Nat),
            given($input.network_interface_id).map(Wanted::Interface),
            given($input.transit_gateway_id).map(Wanted::TransitGateway),
            given($input.vpc_endpoint_id).map(Wanted::Endpoint),
            given($input.vpc_peering_connection_id).map(Wanted::Peering),
        ]
    }};
}

fn other_network(table: &RouteTable, what: &str, id: &str) -> Error {
    Error::invalid_parameter_value(format!(
        "route table {} and {what} {id} belong to different networks",
        table.id
    ))
}

/// The id that the route's record holds, after every check of the target.
fn resolve(
    call: &mut Call<'_>,
    table: &RouteTable,
    to: &Destination,
    wanted: Wanted,
) -> Result<String, Error> {
    let is_ipv6 = matches!(to, Destination::Cidr(Cidr::V6(_)));
    let unfit = |what: &str| {
        Error::invalid_parameter_value(format!(
            "The destination {} cannot be routed to {what}.",
            text(to)
        ))
    };
    match wanted {
        Wanted::Local => Ok("local".to_owned()),
        Wanted::Gateway(id) if id.starts_with("igw-") => {
            let found = internet_gateway::ID.find::<InternetGateway>(call, &id)?;
            if found.vpc_id.as_deref() != Some(table.vpc_id.as_str()) {
                return Err(other_network(table, "network gateway", &id));
            }
            Ok(id)
        }
        Wanted::Gateway(id) if id.starts_with("vgw-") => Err(Error::client(
            "InvalidVpnGatewayID.NotFound",
            format!("The vpnGateway ID '{id}' does not exist"),
        )),
        Wanted::Gateway(id) => Err(Error::client(
            "InvalidGatewayID.NotFound",
            format!("The gateway ID '{id}' does not exist"),
        )),
        Wanted::EgressOnly(id) => {
            let found =
                internet_gateway::EGRESS_ONLY_ID.find::<EgressOnlyInternetGateway>(call, &id)?;
            if found.vpc_id != table.vpc_id {
                return Err(other_network(table, "network gateway", &id));
            }
            if matches!(to, Destination::Cidr(Cidr::V4(_))) {
                return Err(unfit("an egress-only internet gateway: it carries IPv6 only"));
            }
            Ok(id)
        }
        Wanted::Instance(id) => {
            let instance = INSTANCE.find::<Instance>(call, &id)?;
            // Its interface may live on, with another instance.
            if instance.state == InstanceState::Terminated {
                return Err(Error::client(
                    "InvalidInstanceID",
                    format!("There are no interfaces attached to instance '{id}'."),
                ));
            }
            if !instance.more_interfaces.is_empty() {
                return Err(Error::client(
                    "InvalidInstanceID",
                    format!(
                        "There are multiple interfaces attached to instance '{id}'. Please specify \
                         an interface ID for the operation instead."
                    ),
                ));
            }
            interface(call, table, instance.interface_id.clone())
        }
        Wanted::Interface(id) => interface(call, table, id),
        Wanted::Nat(id) => {
            NAT_GATEWAY.check(&id)?;
            let at = NAT_GATEWAY.key(call, &id);
            let found = call.get::<NatGateway>(&at)?;
            let found =
                found.filter(|g| matches!(g.state, Progress::Pending | Progress::Available));
            let found = found.ok_or_else(|| NAT_GATEWAY.not_found(&id))?;
            if found.vpc_id != table.vpc_id {
                return Err(other_network(table, "network gateway", &id));
            }
            if is_ipv6 && text(to) != NAT64 {
                return Err(unfit("a NAT gateway: of IPv6 it takes 64:ff9b::/96 only"));
            }
            Ok(id)
        }
        Wanted::TransitGateway(id) => {
            if is_attached(call, &id, &table.vpc_id)? {
                return Ok(id);
            }
            Err(Error::client(
                "InvalidTransitGatewayID.NotFound",
                format!("The transitGateway ID '{id}' does not exist."),
            ))
        }
        Wanted::Endpoint(id) => {
            ENDPOINT.find::<VpcEndpoint>(call, &id)?;
            Err(Error::client(
                "RouteNotSupported",
                format!(
                    "Route table contains unsupported route target: {id}. VPC Endpoints of this \
                     type cannot be used as route targets."
                ),
            ))
        }
        Wanted::Peering(id) => {
            let missing = || vpc_peering::not_found(&id);
            let found = call.get::<VpcPeering>(&key::vpc_peering(&id))?.ok_or_else(missing)?;
            let ours = |side: &crate::record::PeeringSide| {
                side.account == call.account() && side.region == call.region
            };
            let sides = [&found.requester, &found.accepter];
            if !sides.iter().any(|side| ours(side)) {
                return Err(missing());
            }
            if !sides.iter().any(|side| ours(side) && side.vpc_id == table.vpc_id) {
                return Err(other_network(table, "vpc peering connection", &id));
            }
            // Before it is accepted the route is a blackhole (VPC Peering Guide, "Update your route
            // tables for a VPC peering connection").
            if !matches!(found.status.as_str(), "active" | "pending-acceptance") {
                return Err(missing());
            }
            Ok(id)
        }
    }
}

fn interface(call: &mut Call<'_>, table: &RouteTable, id: String) -> Result<String, Error> {
    let found = INTERFACE.find::<Interface>(call, &id)?;
    if found.vpc_id != table.vpc_id {
        return Err(other_network(table, "interface", &id));
    }
    Ok(id)
}

/// What is reserved for services that instances use: nothing in it can be routed elsewhere (VPC User
/// Guide, "Route table concepts").
fn services() -> [Cidr; 2] {
    [
        Cidr::V4(Ipv4Cidr::containing(Ipv4Addr::new(169, 254, 168, 0), 22)),
        Cidr::V6(Ipv6Cidr::containing(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32)),
    ]
}

/// Checks a destination inside the VPC: it must be a subnet's block, and lead to an interface, a
/// NAT gateway, or where it leads anyway.
fn check_inside(
    call: &mut Call<'_>,
    vpc: &Vpc,
    to: &Destination,
    target: &str,
) -> Result<(), Error> {
    let Destination::Cidr(cidr) = to else {
        if target == "local" {
            return Err(Error::invalid_parameter_value(format!(
                "The destination {} is a prefix list, so it cannot have the target local.",
                text(to)
            )));
        }
        return Ok(());
    };
    if services().iter().any(|own| own.overlaps(cidr) && own.length() <= cidr.length()) {
        return Err(Error::invalid_parameter_value(format!(
            "The destination CIDR block {cidr} is reserved for AWS services and cannot be routed."
        )));
    }
    let inside = |block: &Cidr| block.overlaps(cidr) && block.length() <= cidr.length();
    if !blocks(vpc).any(|block| inside(&block)) {
        if target == "local" {
            return Err(Error::invalid_parameter_value(format!(
                "The destination CIDR block {cidr} is not inside the VPC's CIDR blocks, so it \
                 cannot have the target local."
            )));
        }
        return Ok(());
    }
    if !["local", "eni-", "nat-"].iter().any(|kind| target.starts_with(kind)) {
        return Err(Error::invalid_parameter_value(format!(
            "The destination CIDR block {cidr} is equal to or more specific than one of this VPC's \
             CIDR blocks. This route can target only an interface or an instance."
        )));
    }
    let at = key::of(call.region, key::SUBNET, call.account(), "");
    let is_subnet = call.scan::<Subnet>(&at)?.iter().any(|subnet| {
        let ipv6 = subnet.ipv6_cidr.as_ref().map(|block| Cidr::V6(block.cidr));
        subnet.vpc_id == vpc.id && (Cidr::V4(subnet.cidr) == *cidr || ipv6 == Some(*cidr))
    });
    if is_subnet || blocks(vpc).any(|block| block == *cidr) {
        return Ok(());
    }
    Err(Error::invalid_parameter_value(format!(
        "Route destination doesn't match any subnet CIDR blocks: {cidr}"
    )))
}

/// How much a destination counts, of IPv4 and of IPv6. `changed` is a list about to be changed.
fn weight(
    call: &Call<'_>,
    destination: &Destination,
    changed: Option<&PrefixList>,
) -> Result<[usize; 2], Error> {
    Ok(match destination {
        Destination::Cidr(Cidr::V4(_)) => [1, 0],
        Destination::Cidr(Cidr::V6(_)) => [0, 1],
        Destination::PrefixList(id) if changed.is_some_and(|list| list.id == *id) => {
            changed.map(prefix_list_weight).unwrap_or_default()
        }
        Destination::PrefixList(id) => match prefix_list::peek(call, id)? {
            Some(list) => prefix_list_weight(&list),
            None => [0, 0],
        },
    })
}

fn prefix_list_weight(list: &PrefixList) -> [usize; 2] {
    let entries = usize::try_from(list.max_entries).unwrap_or(usize::MAX);
    if list.ipv6 { [0, entries] } else { [entries, 0] }
}

/// Checks that a table's routes are not too many, with a prefix list as it is about to be.
///
/// # Errors
/// `RouteLimitExceeded`.
pub(crate) fn check_count(
    call: &Call<'_>,
    table: &RouteTable,
    changed: Option<&PrefixList>,
) -> Result<(), Error> {
    let mut count = [0_usize; 2];
    // What a gateway endpoint adds does not count.
    let own = table.routes.iter().filter(|route| !route.target.starts_with("vpce-"));
    for route in own.filter(|route| route.origin == RouteOrigin::CreateRoute) {
        let weight = weight(call, &route.destination, changed)?;
        count = [count[0].saturating_add(weight[0]), count[1].saturating_add(weight[1])];
    }
    if count.iter().any(|count| *count > MAX_ROUTES) {
        return Err(Error::client(
            "RouteLimitExceeded",
            "The maximum number of routes has been reached.",
        ));
    }
    Ok(())
}

pub(super) fn create_route(
    call: &mut Call<'_>,
    input: api::CreateRouteRequest,
) -> Result<api::CreateRouteResult, Error> {
    let mut table = find(call, &input.route_table_id.unwrap_or_default())?;
    let to = destination(
        input.destination_cidr_block,
        input.destination_ipv6_cidr_block,
        input.destination_prefix_list_id,
    )?;
    let wanted = one_of(targets!(input))?;
    if let Destination::PrefixList(id) = &to {
        prefix_list::find(call, id)?;
    }
    let target = resolve(call, &table, &to, wanted)?;
    let vpc = vpc::find_vpc(call, &table.vpc_id.clone())?;
    let exists = table.routes.iter().any(|route| route.destination == to)
        || blocks(&vpc).any(|block| Destination::Cidr(block) == to);
    if exists {
        return Err(Error::client(
            "RouteAlreadyExists",
            format!("The route identified by {} already exists.", text(&to)),
        ));
    }
    check_inside(call, &vpc, &to, &target)?;
    table.routes.push(Route { destination: to, target, origin: RouteOrigin::CreateRoute });
    check_count(call, &table, None)?;
    put(call, table);
    Ok(api::CreateRouteResult { return_: Some(true) })
}

pub(super) fn replace_route(
    call: &mut Call<'_>,
    input: api::ReplaceRouteRequest,
) -> Result<wire::Empty, Error> {
    let mut table = find(call, &input.route_table_id.unwrap_or_default())?;
    let to = destination(
        input.destination_cidr_block,
        input.destination_ipv6_cidr_block,
        input.destination_prefix_list_id,
    )?;
    let mut targets = targets!(input);
    targets.push(input.local_target.filter(|local| *local).map(|_| Wanted::Local));
    let target = resolve(call, &table, &to, one_of(targets)?)?;
    let vpc = vpc::find_vpc(call, &table.vpc_id.clone())?;
    let place = table.routes.iter().position(|route| route.destination == to);
    let is_local = blocks(&vpc).any(|block| Destination::Cidr(block) == to);
    if place.is_none() && !is_local {
        return Err(Error::invalid_parameter_value(format!(
            "There is no route defined for '{}' in the route table. Use CreateRoute instead.",
            text(&to)
        )));
    }
    if let Some(place) = place {
        check_not_endpoint(&table, &table.routes[place])?;
    }
    check_inside(call, &vpc, &to, &target)?;
    match place {
        // A local route that leads where it does by itself is not stored.
        Some(place) if is_local && target == "local" => {
            table.routes.remove(place);
        }
        Some(place) => table.routes[place].target = target,
        None if target == "local" => {}
        None => {
            table.routes.push(Route { destination: to, target, origin: RouteOrigin::CreateRoute });
        }
    }
    put(call, table);
    Ok(wire::Empty)
}

/// The routes of gateway endpoints belong to the endpoint.
fn check_not_endpoint(table: &RouteTable, route: &Route) -> Result<(), Error> {
    if route.target.starts_with("vpce-") {
        return Err(Error::invalid_parameter_value(format!(
            "cannot remove VPC endpoint route {} in route table {}",
            text(&route.destination),
            table.id
        )));
    }
    Ok(())
}

pub(super) fn delete_route(
    call: &mut Call<'_>,
    input: api::DeleteRouteRequest,
) -> Result<wire::Empty, Error> {
    let mut table = find(call, &input.route_table_id.unwrap_or_default())?;
    let to = destination(
        input.destination_cidr_block,
        input.destination_ipv6_cidr_block,
        input.destination_prefix_list_id,
    )?;
    let vpc = vpc::find_vpc(call, &table.vpc_id.clone())?;
    if blocks(&vpc).any(|block| Destination::Cidr(block) == to) {
        return Err(Error::invalid_parameter_value(format!(
            "cannot remove local route {} in route table {}",
            text(&to),
            table.id
        )));
    }
    let Some(place) = table.routes.iter().position(|route| route.destination == to) else {
        let member = match &to {
            Destination::Cidr(Cidr::V4(_)) => "destination-cidr-block",
            Destination::Cidr(Cidr::V6(_)) => "destination-ipv6-cidr-block",
            Destination::PrefixList(_) => "destination-prefix-list-id",
        };
        return Err(Error::client(
            "InvalidRoute.NotFound",
            format!("no route with {member} {} in route table {}", text(&to), table.id),
        ));
    };
    check_not_endpoint(&table, &table.routes[place])?;
    table.routes.remove(place);
    put(call, table);
    Ok(wire::Empty)
}
