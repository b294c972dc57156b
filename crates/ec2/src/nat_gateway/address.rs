//! Further addresses of a NAT gateway. Each is at once the gateway's and its interface's, so both
//! records are written, and the elastic address's.

use super::{addresses, check_count, describe, elastic, find, key_of};
use crate::record::{Interface, NatGateway, NatGatewayAddress, Progress, SecondaryAddress, key};
use crate::{elastic_address, interface, subnet};
use model::ec2 as api;
use service::{Call, Error};
use std::net::Ipv4Addr;

/// Associates an elastic address with a private one of the gateway's interface.
pub(super) fn with_elastic(
    call: &mut Call<'_>,
    interface_id: &str,
    private_ip: Ipv4Addr,
    allocation_id: &str,
) -> Result<NatGatewayAddress, Error> {
    let public_ip = elastic(call, allocation_id)?.public_ip;
    let account = call.account();
    let association_id = elastic_address::associate(
        call,
        account,
        allocation_id,
        interface_id,
        Some(private_ip),
        false,
    )?;
    Ok(NatGatewayAddress {
        private_ip,
        public_ip: Some(public_ip),
        allocation_id: Some(allocation_id.to_owned()),
        association_id: Some(association_id),
    })
}

pub(super) fn without_elastic(private_ip: Ipv4Addr) -> NatGatewayAddress {
    NatGatewayAddress { private_ip, public_ip: None, allocation_id: None, association_id: None }
}

/// A gateway that addresses can be changed of.
fn changeable(call: &mut Call<'_>, id: &str, public: bool) -> Result<NatGateway, Error> {
    let gateway = find(call, id)?;
    if gateway.state != Progress::Available {
        return Err(Error::client(
            "IncorrectState",
            format!("The NAT gateway {id} is not in the state available"),
        ));
    }
    if gateway.public != public {
        let (is, needs) = if public { ("private", "public") } else { ("public", "private") };
        return Err(Error::client(
            "InvalidParameter",
            format!("The NAT gateway {id} is {is}: this operation is for {needs} NAT gateways"),
        ));
    }
    Ok(gateway)
}

fn find_interface(call: &mut Call<'_>, gateway: &NatGateway) -> Result<Interface, Error> {
    let at = key::of(call.region, key::INTERFACE, call.account(), &gateway.interface_id);
    let found = call.get::<Interface>(&at)?;
    let found = found.ok_or_else(|| Error::internal(format!("{} has no interface", gateway.id)))?;
    Ok(Interface::clone(&found))
}

/// Gives the gateway's interface further private addresses.
fn add(
    call: &mut Call<'_>,
    gateway: &NatGateway,
    given: Option<&[String]>,
    count: u32,
) -> Result<Vec<Ipv4Addr>, Error> {
    let account = call.account();
    let subnet = subnet::find_subnet(call, &gateway.subnet_id)?;
    let wanted = interface::Wanted {
        secondary: addresses(given, &subnet)?,
        secondary_count: count,
        ipv6_count: Some(0),
        ..Default::default()
    };
    let mut of = find_interface(call, gateway)?;
    let pool = interface::Pool { account, subnet: &subnet };
    let new = pool.further(call, &mut interface::Chosen::default(), &wanted)?;
    interface::claim(call, account, &of, &new);
    let place = |address: &Ipv4Addr| SecondaryAddress { private_ip: *address, elastic: None };
    of.secondary.extend(new.secondary.iter().map(place));
    interface::put(call, account, of)?;
    Ok(new.secondary)
}

/// Takes private addresses from the gateway's interface.
fn remove(call: &mut Call<'_>, gateway: &NatGateway, taken: &[Ipv4Addr]) -> Result<(), Error> {
    let account = call.account();
    let mut of = find_interface(call, gateway)?;
    of.secondary.retain(|own| !taken.contains(&own.private_ip));
    let gone = interface::Addresses { secondary: taken.to_vec(), ..Default::default() };
    interface::unclaim(call, account, &of, &gone);
    interface::put(call, account, of)
}

fn put(call: &mut Call<'_>, gateway: NatGateway) {
    let at = key_of(call, &gateway.id);
    call.put(&at, gateway);
}

/// Addresses of an answer, with the status that AWS gives them there.
fn shown(
    gateway: &NatGateway,
    addresses: &[NatGatewayAddress],
    status: &str,
) -> Option<Vec<api::NatGatewayAddress>> {
    let shown = addresses.iter().map(|address| api::NatGatewayAddress {
        is_primary: Some(false),
        status: Some(status.to_owned()),
        ..describe::address(gateway, address)
    });
    Some(shown.collect())
}

pub(super) fn associate(
    call: &mut Call<'_>,
    input: api::AssociateNatGatewayAddressRequest,
) -> Result<api::AssociateNatGatewayAddressResult, Error> {
    let id = input.nat_gateway_id.unwrap_or_default();
    let mut gateway = changeable(call, &id, true)?;
    let allocations = input.allocation_ids.unwrap_or_default();
    if allocations.is_empty() {
        return Err(Error::missing_parameter("allocationIdSet"));
    }
    check_count(gateway.addresses.len() + allocations.len())?;
    for allocation in &allocations {
        if elastic(call, allocation)?.association.is_some() {
            return Err(Error::client(
                "Resource.AlreadyAssociated",
                format!("Elastic IP address {allocation} is already associated"),
            ));
        }
    }
    let given = input.private_ip_addresses.as_deref().unwrap_or_default();
    let Some(count) = allocations.len().checked_sub(given.len()) else {
        return Err(Error::invalid_parameter_combination(
            "There are more private addresses than allocation IDs",
        ));
    };
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let private = add(call, &gateway, Some(given), count)?;
    let mut added = Vec::new();
    for (private_ip, allocation) in private.into_iter().zip(&allocations) {
        added.push(with_elastic(call, &gateway.interface_id, private_ip, allocation)?);
    }
    let answer = shown(&gateway, &added, "associating");
    gateway.addresses.extend(added);
    put(call, gateway);
    Ok(api::AssociateNatGatewayAddressResult {
        nat_gateway_addresses: answer,
        nat_gateway_id: Some(id),
    })
}

pub(super) fn disassociate(
    call: &mut Call<'_>,
    input: api::DisassociateNatGatewayAddressRequest,
) -> Result<api::DisassociateNatGatewayAddressResult, Error> {
    let id = input.nat_gateway_id.unwrap_or_default();
    let mut gateway = changeable(call, &id, true)?;
    let account = call.account();
    let mut taken = Vec::new();
    for association in input.association_ids.unwrap_or_default() {
        let has = |address: &NatGatewayAddress| {
            address.association_id.as_deref() == Some(association.as_str())
        };
        match gateway.addresses.iter().position(has) {
            None => {
                return Err(Error::client(
                    "InvalidAssociationID.NotFound",
                    format!("The association ID '{association}' does not exist"),
                ));
            }
            Some(0) => return Err(primary_stays(&id)),
            Some(place) => taken.push(gateway.addresses.remove(place)),
        }
    }
    for address in &taken {
        if let Some(allocation) = &address.allocation_id {
            elastic_address::disassociate(call, account, allocation)?;
        }
    }
    let private: Vec<Ipv4Addr> = taken.iter().map(|address| address.private_ip).collect();
    remove(call, &gateway, &private)?;
    let answer = shown(&gateway, &taken, "disassociating");
    put(call, gateway);
    Ok(api::DisassociateNatGatewayAddressResult {
        nat_gateway_addresses: answer,
        nat_gateway_id: Some(id),
    })
}

fn primary_stays(id: &str) -> Error {
    Error::client(
        "OperationNotPermitted",
        format!("The primary address of the NAT gateway {id} cannot be taken away"),
    )
}

pub(super) fn assign(
    call: &mut Call<'_>,
    input: api::AssignPrivateNatGatewayAddressRequest,
) -> Result<api::AssignPrivateNatGatewayAddressResult, Error> {
    let id = input.nat_gateway_id.unwrap_or_default();
    let mut gateway = changeable(call, &id, false)?;
    let given = input.private_ip_addresses.unwrap_or_default();
    let count = match (given.is_empty(), input.private_ip_address_count) {
        (true, None) => {
            return Err(Error::missing_parameter("privateIpAddressSet or privateIpAddressCount"));
        }
        (false, Some(_)) => {
            return Err(Error::invalid_parameter_combination(
                "The parameters privateIpAddressSet and privateIpAddressCount cannot be used \
                 together",
            ));
        }
        (false, None) => 0,
        (true, Some(count)) => {
            u32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
                Error::invalid_parameter_value(format!(
                    "Value ({count}) for parameter privateIpAddressCount is invalid."
                ))
            })?
        }
    };
    let further = usize::try_from(count).unwrap_or(usize::MAX);
    check_count(gateway.addresses.len().saturating_add(given.len()).saturating_add(further))?;
    let private = add(call, &gateway, Some(&given), count)?;
    let added: Vec<NatGatewayAddress> = private.into_iter().map(without_elastic).collect();
    let answer = shown(&gateway, &added, "assigning");
    gateway.addresses.extend(added);
    put(call, gateway);
    Ok(api::AssignPrivateNatGatewayAddressResult {
        nat_gateway_addresses: answer,
        nat_gateway_id: Some(id),
    })
}

pub(super) fn unassign(
    call: &mut Call<'_>,
    input: api::UnassignPrivateNatGatewayAddressRequest,
) -> Result<api::UnassignPrivateNatGatewayAddressResult, Error> {
    let id = input.nat_gateway_id.unwrap_or_default();
    let mut gateway = changeable(call, &id, false)?;
    let mut taken = Vec::new();
    for text in input.private_ip_addresses.unwrap_or_default() {
        let has = |address: &NatGatewayAddress| address.private_ip.to_string() == text;
        match gateway.addresses.iter().position(has) {
            None => {
                return Err(Error::invalid_parameter_value(format!(
                    "The address {text} is not an address of the NAT gateway {id}"
                )));
            }
            Some(0) => return Err(primary_stays(&id)),
            Some(place) => taken.push(gateway.addresses.remove(place)),
        }
    }
    let private: Vec<Ipv4Addr> = taken.iter().map(|address| address.private_ip).collect();
    remove(call, &gateway, &private)?;
    let answer = shown(&gateway, &taken, "unassigning");
    put(call, gateway);
    Ok(api::UnassignPrivateNatGatewayAddressResult {
        nat_gateway_addresses: answer,
        nat_gateway_id: Some(id),
    })
}
