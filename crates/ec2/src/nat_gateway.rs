//! NAT gateways: made, given further addresses, deleted.
//!
//! ```text
//!   CreateNatGateway ──► pending ──► available ──► deleting ──► deleted ── an hour ──► no record
//!                           │                         ▲                        ▲
//!                           └──► failed ──────────────┴──── an hour ───────────┘
//! ```
//!
//! The interface, its addresses and their elastic ones are made by the request itself, in one
//! transaction with the record; when they cannot be, the request succeeds all the same and the
//! gateway fails, with the codes of the VPC User Guide ("Troubleshoot NAT gateways"). The
//! [`reconciler`] moves the states on. The packets are the node's business: the gateway is an
//! ordinary interface of the VPC ([`InterfaceKind::NatGateway`]) to which routes lead.
//!
//! Not here: regional NAT gateways, draining (an address is taken away at once).

mod address;
mod describe;
pub(crate) mod reconciler;
#[cfg(test)]
mod tests;

use crate::record::{
    ElasticAddress, InterfaceKind, NatGateway, NatGatewayAddress, Progress, Subnet, Tags, Vpc, key,
};
use crate::{interface, subnet, tag, vpc};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::net::Ipv4Addr;

/// Most NAT gateways of a zone, and most addresses of a gateway (VPC User Guide, "Amazon VPC
/// quotas").
const MAX_GATEWAYS: usize = 5;
const MAX_ADDRESSES: usize = 8;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateNatGateway,
        create_nat_gateway,
        Write,
        [
            "AvailabilityMode",
            "AllocationId",
            "ConnectivityType",
            "PrivateIpAddress",
            "SecondaryAllocationIds",
            "SecondaryPrivateIpAddresses",
            "SecondaryPrivateIpAddressCount",
            "SubnetId",
            "TagSpecifications.*",
        ]
    ),
    operation!(op::DeleteNatGateway, delete_nat_gateway, Write, ["NatGatewayId"]),
    operation!(
        op::DescribeNatGateways,
        describe::describe_nat_gateways,
        Read,
        ["NatGatewayIds", "Filter.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::AssociateNatGatewayAddress,
        address::associate,
        Write,
        ["NatGatewayId", "AllocationIds", "PrivateIpAddresses"]
    ),
    operation!(
        op::DisassociateNatGatewayAddress,
        address::disassociate,
        Write,
        ["NatGatewayId", "AssociationIds"]
    ),
    operation!(
        op::AssignPrivateNatGatewayAddress,
        address::assign,
        Write,
        ["NatGatewayId", "PrivateIpAddresses", "PrivateIpAddressCount"]
    ),
    operation!(
        op::UnassignPrivateNatGatewayAddress,
        address::unassign,
        Write,
        ["NatGatewayId", "PrivateIpAddresses"]
    ),
];

fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::NAT_GATEWAY, call.account(), id)
}

fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("nat", id) {
        return Ok(());
    }
    Err(Error::client("NatGatewayMalformed", format!("The Nat Gateway {id} was malformed")))
}

fn not_found(id: &str) -> Error {
    Error::client("NatGatewayNotFound", format!("The Nat Gateway {id} was not found"))
}

/// The gateway with this id, to be changed; the commit depends on it.
fn find(call: &mut Call<'_>, id: &str) -> Result<NatGateway, Error> {
    check_id(id)?;
    let found = call.get::<NatGateway>(&key_of(call, id))?;
    found.map(|found| NatGateway::clone(&found)).ok_or_else(|| not_found(id))
}

/// The addresses that texts are, in the subnet.
fn addresses(texts: Option<&[String]>, subnet: &Subnet) -> Result<Vec<Ipv4Addr>, Error> {
    let mut found = Vec::new();
    for text in texts.unwrap_or_default() {
        let address: Ipv4Addr = text.parse().map_err(|_| {
            Error::invalid_parameter_value(format!(
                "Value ({text}) for parameter privateIpAddress is invalid. Invalid IPv4 address."
            ))
        })?;
        interface::check_in_subnet(address, subnet)?;
        if found.contains(&address) {
            return Err(Error::invalid_parameter_value(format!(
                "Address {address} is given more than once"
            )));
        }
        found.push(address);
    }
    Ok(found)
}

/// The elastic address with this allocation id; the commit depends on it.
fn elastic(call: &mut Call<'_>, id: &str) -> Result<std::sync::Arc<ElasticAddress>, Error> {
    let at = key::of(call.region, key::ELASTIC_ADDRESS, call.account(), id);
    call.get::<ElasticAddress>(&at)?.ok_or_else(|| {
        Error::client(
            "InvalidAllocationID.NotFound",
            format!("The allocation ID '{id}' does not exist"),
        )
    })
}

fn check_count(addresses: usize) -> Result<(), Error> {
    if addresses > MAX_ADDRESSES {
        return Err(Error::invalid_parameter_value(format!(
            "A NAT gateway can have {MAX_ADDRESSES} addresses at most"
        )));
    }
    Ok(())
}

/// What a creation asks for.
struct Wanted {
    public: bool,
    private_ip: Option<Ipv4Addr>,
    secondary: Vec<Ipv4Addr>,
    /// Further automatic addresses.
    secondary_count: u32,
    /// Of the primary address, then of the others.
    allocations: Vec<String>,
}

fn wanted(input: &api::CreateNatGatewayRequest, subnet: &Subnet) -> Result<Wanted, Error> {
    let public = match input.connectivity_type.as_deref() {
        None | Some("public" | "") => true,
        Some("private") => false,
        Some(other) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter connectivityType is invalid."
            )));
        }
    };
    if input.availability_mode.as_deref().is_some_and(|mode| mode != "zonal") {
        return Err(Error::unsupported("Regional NAT gateways are not built in gureum yet."));
    }
    let private_ip =
        addresses(input.private_ip_address.as_ref().map(std::slice::from_ref), subnet)?;
    let secondary = addresses(input.secondary_private_ip_addresses.as_deref(), subnet)?;
    if private_ip.iter().any(|primary| secondary.contains(primary)) {
        return Err(Error::invalid_parameter_value(
            "The primary address cannot be a secondary one as well",
        ));
    }
    let mut secondary_count = match input.secondary_private_ip_address_count {
        None => 0,
        Some(count) => u32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
            Error::invalid_parameter_value(format!(
                "Value ({count}) for parameter secondaryPrivateIpAddressCount is invalid."
            ))
        })?,
    };
    let primary = input.allocation_id.clone().filter(|id| !id.is_empty());
    let others = input.secondary_allocation_ids.clone().unwrap_or_default();
    if !public {
        if primary.is_some() || !others.is_empty() {
            return Err(Error::invalid_parameter_combination(
                "A private NAT gateway cannot have an allocation ID",
            ));
        }
        if secondary_count > 0 && !secondary.is_empty() {
            return Err(Error::invalid_parameter_combination(
                "The parameters secondaryPrivateIpAddresses and secondaryPrivateIpAddressCount \
                 cannot be used together",
            ));
        }
    } else {
        if primary.is_none() {
            return Err(Error::client(
                "MissingParameter",
                "The request must include the AllocationId parameter. Add the required parameter \
                 and retry the request.",
            ));
        }
        if secondary_count > 0 {
            return Err(Error::invalid_parameter_combination(
                "The parameter secondaryPrivateIpAddressCount is only for private NAT gateways",
            ));
        }
        if secondary.len() > others.len() {
            return Err(Error::invalid_parameter_combination(
                "Each secondary private address of a public NAT gateway needs a secondary \
                 allocation ID",
            ));
        }
        secondary_count = u32::try_from(others.len() - secondary.len()).unwrap_or(u32::MAX);
    }
    let further = usize::try_from(secondary_count).unwrap_or(usize::MAX);
    check_count(secondary.len().saturating_add(further).saturating_add(1))?;
    let allocations: Vec<String> = primary.into_iter().chain(others).collect();
    if (1..allocations.len()).any(|index| allocations[..index].contains(&allocations[index])) {
        return Err(Error::invalid_parameter_value("An allocation ID is given more than once"));
    }
    let private_ip = private_ip.first().copied();
    Ok(Wanted { public, private_ip, secondary, secondary_count, allocations })
}

/// Refuses one gateway too many in a zone.
fn check_quota(call: &mut Call<'_>, zone: &str) -> Result<(), Error> {
    let mut there = 0;
    for gateway in call.scan::<NatGateway>(&key_of(call, ""))? {
        let counts =
            matches!(gateway.state, Progress::Pending | Progress::Available | Progress::Deleting);
        let at = key::of(call.region, key::SUBNET, call.account(), &gateway.subnet_id);
        let subnet = if counts { call.peek::<Subnet>(&at)? } else { None };
        there += usize::from(subnet.is_some_and(|subnet| subnet.availability_zone == zone));
    }
    if there >= MAX_GATEWAYS {
        return Err(Error::client(
            "NatGatewayLimitExceeded",
            format!(
                "Performing this operation would exceed the limit of {MAX_GATEWAYS} NAT gateways"
            ),
        ));
    }
    Ok(())
}

/// What becomes of a creation: an interface, by id, with its addresses; or code and message of the
/// failure.
type Made = Result<(String, Vec<NatGatewayAddress>), (String, String)>;

fn make(
    call: &mut Call<'_>,
    id: &str,
    vpc: &Vpc,
    subnet: &Subnet,
    wanted: &Wanted,
) -> Result<Made, Error> {
    let failed = |code: &str, message: String| Ok(Err((code.to_owned(), message)));
    let elastic =
        wanted.allocations.iter().map(|id| elastic(call, id)).collect::<Result<Vec<_>, _>>()?;
    if wanted.public && vpc.internet_gateway_id.is_none() {
        let message = format!("Network {} has no Internet gateway attached", vpc.id);
        return failed("Gateway.NotAttached", message);
    }
    if let Some(taken) = elastic.iter().find(|elastic| elastic.association.is_some()) {
        let message = format!("Elastic IP address {} is already associated", taken.allocation_id);
        return failed("Resource.AlreadyAssociated", message);
    }
    let account = call.account();
    let new = interface::New {
        subnet,
        groups: Vec::new(),
        kind: InterfaceKind::NatGateway(id.to_owned()),
        description: format!("Interface for NAT Gateway {id}"),
        source_dest_check: false,
        wanted: interface::Wanted {
            private_ip: wanted.private_ip,
            secondary: wanted.secondary.clone(),
            secondary_count: wanted.secondary_count,
            ipv6_count: Some(0),
            ..Default::default()
        },
        tags: Tags::new(),
    };
    let made = match interface::create(call, account, new) {
        Err(error) if error.code == "InsufficientFreeAddressesInSubnet" => {
            let message = "Subnet has insufficient free addresses to create this NAT gateway";
            return failed("InsufficientFreeAddressesInSubnet", message.to_owned());
        }
        made => made?,
    };
    let all = std::iter::once(made.private_ip).chain(made.secondary.iter().map(|a| a.private_ip));
    let mut allocations = wanted.allocations.iter();
    let mut addresses = Vec::new();
    for private_ip in all {
        addresses.push(match allocations.next() {
            Some(allocation) => address::with_elastic(call, &made.id, private_ip, allocation)?,
            None => address::without_elastic(private_ip),
        });
    }
    Ok(Ok((made.id.clone(), addresses)))
}

fn create_nat_gateway(
    call: &mut Call<'_>,
    input: api::CreateNatGatewayRequest,
) -> Result<api::CreateNatGatewayResult, Error> {
    const TYPE: &str = "natgateway";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let Some(subnet_id) = input.subnet_id.as_deref().filter(|id| !id.is_empty()) else {
        return Err(Error::missing_parameter("subnetId"));
    };
    let subnet = subnet::find_subnet(call, subnet_id)?;
    let vpc = vpc::find_vpc(call, &subnet.vpc_id)?;
    let wanted = wanted(&input, &subnet)?;
    check_quota(call, &subnet.availability_zone)?;
    let id = call.new_id("nat");
    let mut gateway = NatGateway {
        v: 1,
        id: id.clone(),
        vpc_id: vpc.id.clone(),
        subnet_id: subnet.id.clone(),
        public: wanted.public,
        state: Progress::Pending,
        interface_id: String::new(),
        addresses: Vec::new(),
        created: crate::instance::whole_second(call.now),
        deleted: None,
        failure: None,
        tags,
    };
    match make(call, &id, &vpc, &subnet, &wanted)? {
        Ok((interface_id, addresses)) => {
            gateway.interface_id = interface_id;
            gateway.addresses = addresses;
        }
        Err(why) => gateway.failure = Some(why),
    }
    let at = key_of(call, &id);
    let gateway = call.put(&at, gateway);
    Ok(api::CreateNatGatewayResult {
        client_token: input.client_token,
        nat_gateway: Some(describe::to_model(&gateway)),
    })
}

fn delete_nat_gateway(
    call: &mut Call<'_>,
    input: api::DeleteNatGatewayRequest,
) -> Result<api::DeleteNatGatewayResult, Error> {
    let id = input.nat_gateway_id.unwrap_or_default();
    let mut gateway = find(call, &id)?;
    match gateway.state {
        Progress::Deleted => return Err(not_found(&id)),
        Progress::Deleting => {}
        Progress::Pending | Progress::Available | Progress::Failed => {
            gateway.state = Progress::Deleting;
            let at = key_of(call, &id);
            call.put(&at, gateway);
        }
    }
    Ok(api::DeleteNatGatewayResult { nat_gateway_id: Some(id) })
}
