//! Further addresses of an interface: AssignPrivateIpAddresses, AssignIpv6Addresses and their
//! opposites. The guest learns of them from its metadata; packets follow at once.

use super::address::{self, Addresses, Chosen, Pool, Wanted, check_in_subnet};
use super::attach::limits;
use super::make::{
    count, ipv4_addresses, ipv6_addresses, too_many_addresses, v4_prefixes, v6_prefixes,
};
use super::{get, get_own, put, refuse_managed};
use crate::record::{ElasticAddress, Interface, SecondaryAddress, key};
use crate::{elastic_address, subnet};
use model::ec2 as api;
use service::{Call, Error};
use std::net::Ipv4Addr;

fn nothing_asked(parameters: &str) -> Error {
    Error::client(
        "MissingParameter",
        format!("The request must contain one of the parameters {parameters}"),
    )
}

fn not_together(one: &str, other: &str) -> Error {
    Error::invalid_parameter_combination(format!(
        "The parameter {one} cannot be used with the parameter {other}"
    ))
}

pub(super) fn assign_private_ip_addresses(
    call: &mut Call<'_>,
    input: api::AssignPrivateIpAddressesRequest,
) -> Result<api::AssignPrivateIpAddressesResult, Error> {
    let account = call.account();
    let found = get_own(call, input.network_interface_id)?;
    let given =
        ipv4_addresses(&input.private_ip_addresses.unwrap_or_default(), "privateIpAddress")?;
    let prefixes = input.ipv4_prefixes.unwrap_or_default();
    let secondary_count =
        count(input.secondary_private_ip_address_count, "secondaryPrivateIpAddressCount")?;
    let prefix_count = count(input.ipv4_prefix_count, "ipv4PrefixCount")?;
    if !given.is_empty() && secondary_count.is_some() {
        return Err(not_together("secondaryPrivateIpAddressCount", "privateIpAddresses"));
    }
    if !prefixes.is_empty() && prefix_count.is_some() {
        return Err(not_together("ipv4PrefixCount", "ipv4Prefixes"));
    }
    let mut wanted = Wanted {
        secondary_count: secondary_count.unwrap_or(0),
        prefixes: v4_prefixes(prefixes.iter().map(String::as_str))?,
        prefix_count: prefix_count.unwrap_or(0),
        ipv6_count: Some(0),
        ..Wanted::default()
    };
    if given.is_empty()
        && wanted.secondary_count + wanted.prefix_count == 0
        && wanted.prefixes.is_empty()
    {
        return Err(nothing_asked(
            "privateIpAddresses, secondaryPrivateIpAddressCount, ipv4Prefixes or ipv4PrefixCount",
        ));
    }
    let subnet = subnet::find_subnet(call, &found.subnet_id)?;
    let mut interface = Interface::clone(&found);
    let mut moved = Vec::new();
    for address in given {
        check_in_subnet(address, &subnet)?;
        let is_own = interface.private_ip == address
            || interface.secondary.iter().any(|own| own.private_ip == address);
        if is_own || wanted.secondary.contains(&address) {
            continue;
        }
        let claim = key::private_address(call.region, account, &interface.vpc_id, address);
        match call.get::<String>(&claim)? {
            Some(_) if input.allow_reassignment != Some(true) => {
                return Err(Error::invalid_parameter_value(format!(
                    "[{address}] assigned, but move is not allowed."
                )));
            }
            Some(other) => moved.push((address, String::clone(&other))),
            None => wanted.secondary.push(address),
        }
    }
    let mut chosen = Chosen::default();
    let pool = Pool { account, subnet: &subnet };
    let new = pool.further(call, &mut chosen, &wanted)?;
    let (most, _) = limits(call, account, &interface)?;
    let now = 1 + interface.secondary.len() + interface.prefixes.len();
    if now + new.secondary.len() + new.prefixes.len() + moved.len() > most {
        return Err(too_many_addresses());
    }
    for (address, other) in &moved {
        let place = take_from(call, account, *address, other, &interface)?;
        interface.secondary.push(place);
        let claim = key::private_address(call.region, account, &interface.vpc_id, address);
        call.put(&claim, interface.id.clone());
    }
    address::claim(call, account, &interface, &new);
    let place = |address: &Ipv4Addr| SecondaryAddress { private_ip: *address, elastic: None };
    interface.secondary.extend(new.secondary.iter().map(place));
    interface.prefixes.extend(&new.prefixes);
    let id = interface.id.clone();
    put(call, account, interface)?;
    let shown = new.secondary.iter().chain(moved.iter().map(|(address, _)| address));
    Ok(api::AssignPrivateIpAddressesResult {
        assigned_ipv4_prefixes: Some(
            new.prefixes
                .iter()
                .map(|prefix| api::Ipv4PrefixSpecification {
                    ipv4_prefix: Some(prefix.to_string()),
                })
                .collect(),
        ),
        assigned_private_ip_addresses: Some(
            shown
                .map(|address| api::AssignedPrivateIpAddress {
                    private_ip_address: Some(address.to_string()),
                })
                .collect(),
        ),
        network_interface_id: Some(id),
    })
}

/// Takes a secondary address from another interface, its elastic address with it.
fn take_from(
    call: &mut Call<'_>,
    account: &str,
    address: Ipv4Addr,
    other: &str,
    to: &Interface,
) -> Result<SecondaryAddress, Error> {
    let fixed = || {
        Error::invalid_parameter_value(format!(
            "[{address}] is a primary address, or part of a prefix, of another network interface \
             and cannot be reassigned."
        ))
    };
    let other = get(call, account, other).map_err(|_| fixed())?;
    refuse_managed(&other)?;
    if other.subnet_id != to.subnet_id {
        return Err(fixed());
    }
    let mut other = Interface::clone(&other);
    let place = other.secondary.iter().position(|own| own.private_ip == address);
    let taken = other.secondary.remove(place.ok_or_else(fixed)?);
    put(call, account, other)?;
    if let Some(part) = &taken.elastic {
        let at = key::of(call.region, key::ELASTIC_ADDRESS, account, &part.allocation_id);
        if let Some(elastic) = call.get::<ElasticAddress>(&at)? {
            let mut elastic = ElasticAddress::clone(&elastic);
            if let Some(association) = &mut elastic.association {
                association.interface_id = to.id.clone();
            }
            call.put(&at, elastic);
        }
    }
    Ok(taken)
}

pub(super) fn unassign_private_ip_addresses(
    call: &mut Call<'_>,
    input: api::UnassignPrivateIpAddressesRequest,
) -> Result<wire::Empty, Error> {
    let account = call.account();
    let found = get_own(call, input.network_interface_id)?;
    let given =
        ipv4_addresses(&input.private_ip_addresses.unwrap_or_default(), "privateIpAddress")?;
    let texts = input.ipv4_prefixes.unwrap_or_default();
    let prefixes = v4_prefixes(texts.iter().map(String::as_str))?;
    if given.is_empty() && prefixes.is_empty() {
        return Err(nothing_asked("privateIpAddresses or ipv4Prefixes"));
    }
    if given.contains(&found.private_ip) {
        return Err(Error::invalid_parameter_value(format!(
            "[{}] is the primary address of interface {} and cannot be unassigned.",
            found.private_ip, found.id
        )));
    }
    let has = |address: &Ipv4Addr| found.secondary.iter().any(|own| own.private_ip == *address);
    if !given.iter().all(has) || !prefixes.iter().all(|p| found.prefixes.contains(p)) {
        let all: Vec<String> = given
            .iter()
            .map(ToString::to_string)
            .chain(prefixes.iter().map(ToString::to_string))
            .collect();
        return Err(Error::invalid_parameter_value(format!(
            "Some of [{}] are not assigned to interface {}",
            all.join(", "),
            found.id
        )));
    }
    for place in found.secondary.iter().filter(|place| given.contains(&place.private_ip)) {
        if let Some(part) = &place.elastic {
            elastic_address::leave(call, account, &part.allocation_id)?;
        }
    }
    let mut interface = Interface::clone(&found);
    interface.secondary.retain(|place| !given.contains(&place.private_ip));
    interface.prefixes.retain(|prefix| !prefixes.contains(prefix));
    let gone = Addresses { secondary: given, prefixes, ..Addresses::default() };
    address::unclaim(call, account, &interface, &gone);
    put(call, account, interface)?;
    Ok(wire::Empty)
}

pub(super) fn assign_ipv6_addresses(
    call: &mut Call<'_>,
    input: api::AssignIpv6AddressesRequest,
) -> Result<api::AssignIpv6AddressesResult, Error> {
    let account = call.account();
    let found = get_own(call, input.network_interface_id)?;
    let addresses = input.ipv6_addresses.unwrap_or_default();
    let prefixes = input.ipv6_prefixes.unwrap_or_default();
    let address_count = count(input.ipv6_address_count, "ipv6AddressCount")?;
    let prefix_count = count(input.ipv6_prefix_count, "ipv6PrefixCount")?;
    if !addresses.is_empty() && address_count.is_some() {
        return Err(not_together("ipv6AddressCount", "ipv6Addresses"));
    }
    if !prefixes.is_empty() && prefix_count.is_some() {
        return Err(not_together("ipv6PrefixCount", "ipv6Prefixes"));
    }
    let mut wanted = Wanted {
        ipv6: ipv6_addresses(addresses.iter().map(String::as_str))?,
        ipv6_count: Some(address_count.unwrap_or(0)),
        ipv6_prefixes: v6_prefixes(prefixes.iter().map(String::as_str))?,
        ipv6_prefix_count: prefix_count.unwrap_or(0),
        ..Wanted::default()
    };
    if addresses.is_empty()
        && prefixes.is_empty()
        && address_count.is_none()
        && prefix_count.is_none()
    {
        return Err(nothing_asked(
            "ipv6Addresses, ipv6AddressCount, ipv6Prefixes or ipv6PrefixCount",
        ));
    }
    wanted.ipv6.retain(|address| !found.ipv6.contains(address));
    wanted.ipv6_prefixes.retain(|prefix| !found.ipv6_prefixes.contains(prefix));
    let subnet = subnet::find_subnet(call, &found.subnet_id)?;
    let pool = Pool { account, subnet: &subnet };
    let new = pool.further(call, &mut Chosen::default(), &wanted)?;
    let (_, most) = limits(call, account, &found)?;
    let now = found.ipv6.len() + found.ipv6_prefixes.len();
    if now + new.ipv6.len() + new.ipv6_prefixes.len() > most {
        return Err(Error::client(
            "Ipv6AddressLimitExceeded",
            "Number of IPv6 addresses will exceed limit.",
        ));
    }
    let mut interface = Interface::clone(&found);
    address::claim(call, account, &interface, &new);
    interface.ipv6.extend(&new.ipv6);
    interface.ipv6_prefixes.extend(&new.ipv6_prefixes);
    let id = interface.id.clone();
    put(call, account, interface)?;
    Ok(api::AssignIpv6AddressesResult {
        assigned_ipv6_addresses: Some(new.ipv6.iter().map(ToString::to_string).collect()),
        assigned_ipv6_prefixes: Some(new.ipv6_prefixes.iter().map(ToString::to_string).collect()),
        network_interface_id: Some(id),
    })
}

pub(super) fn unassign_ipv6_addresses(
    call: &mut Call<'_>,
    input: api::UnassignIpv6AddressesRequest,
) -> Result<api::UnassignIpv6AddressesResult, Error> {
    let account = call.account();
    let found = get_own(call, input.network_interface_id)?;
    let texts = input.ipv6_addresses.unwrap_or_default();
    let addresses = ipv6_addresses(texts.iter().map(String::as_str))?;
    let texts = input.ipv6_prefixes.unwrap_or_default();
    let prefixes = v6_prefixes(texts.iter().map(String::as_str))?;
    if addresses.is_empty() && prefixes.is_empty() {
        return Err(nothing_asked("ipv6Addresses or ipv6Prefixes"));
    }
    let missing = addresses
        .iter()
        .filter(|address| !found.ipv6.contains(address))
        .map(ToString::to_string)
        .chain(
            prefixes
                .iter()
                .filter(|prefix| !found.ipv6_prefixes.contains(prefix))
                .map(ToString::to_string),
        )
        .collect::<Vec<_>>();
    if !missing.is_empty() {
        return Err(Error::invalid_parameter_value(format!(
            "Some of [{}] are not assigned to interface {}",
            missing.join(", "),
            found.id
        )));
    }
    let is_primary = found.ipv6.first().is_some_and(|first| addresses.contains(first));
    if found.primary_ipv6 && is_primary {
        return Err(Error::client(
            "OperationNotPermitted",
            format!("The primary IPv6 address of interface {} cannot be unassigned.", found.id),
        ));
    }
    let mut interface = Interface::clone(&found);
    interface.ipv6.retain(|address| !addresses.contains(address));
    interface.ipv6_prefixes.retain(|prefix| !prefixes.contains(prefix));
    let answer = api::UnassignIpv6AddressesResult {
        network_interface_id: Some(interface.id.clone()),
        unassigned_ipv6_addresses: Some(addresses.iter().map(ToString::to_string).collect()),
        unassigned_ipv6_prefixes: Some(prefixes.iter().map(ToString::to_string).collect()),
    };
    let gone = Addresses { ipv6: addresses, ipv6_prefixes: prefixes, ..Addresses::default() };
    address::unclaim(call, account, &interface, &gone);
    put(call, account, interface)?;
    Ok(answer)
}
