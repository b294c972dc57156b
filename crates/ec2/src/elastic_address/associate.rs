//! AssociateAddress and DisassociateAddress, and the same for services.

use super::{get, key_of, named, not_permitted, refuse_managed};
use crate::record::{
    ElasticAddress, ElasticAssociation, ElasticPart, Instance, InstanceState, Interface, Vpc, key,
};
use crate::{instance, interface};
use model::ec2 as api;
use service::{Call, Error};
use std::net::Ipv4Addr;

/// Makes an elastic address lead to a private address of an interface, the primary one unless
/// another is named. What had either of the two before loses it, if that is allowed. The
/// association's id.
///
/// # Errors
/// `Resource.AlreadyAssociated`, `Gateway.NotAttached`, and those of what is not there.
pub(crate) fn associate(
    call: &mut Call<'_>,
    account: &str,
    allocation_id: &str,
    interface_id: &str,
    private_ip: Option<Ipv4Addr>,
    allow_reassociation: bool,
) -> Result<String, Error> {
    let elastic = get(call, account, allocation_id)?;
    let found = interface::get(call, account, interface_id)?;
    let private_ip = private_ip.unwrap_or(found.private_ip);
    let is_primary = private_ip == found.private_ip;
    if !is_primary && !found.secondary.iter().any(|own| own.private_ip == private_ip) {
        return Err(Error::invalid_parameter_value(format!(
            "The private IP address '{private_ip}' is not assigned to the network interface \
             '{interface_id}'."
        )));
    }
    let vpc = call.get::<Vpc>(&key::of(call.region, key::VPC, account, &found.vpc_id))?;
    if vpc.is_none_or(|vpc| vpc.internet_gateway_id.is_none()) {
        return Err(Error::client(
            "Gateway.NotAttached",
            format!("Network {} is not attached to any internet gateway", found.vpc_id),
        ));
    }
    if let Some(association) = &elastic.association {
        if association.interface_id == interface_id && association.private_ip == private_ip {
            return Ok(association.id.clone());
        }
        if !allow_reassociation {
            return Err(Error::client(
                "Resource.AlreadyAssociated",
                format!(
                    "resource {allocation_id} is already associated with associate-id {}",
                    association.id
                ),
            ));
        }
        disassociate(call, account, allocation_id)?;
    }
    let part = part_of(&found, private_ip);
    if let Some(part) = part {
        if !allow_reassociation {
            return Err(Error::client(
                "Resource.AlreadyAssociated",
                format!(
                    "resource {interface_id} is already associated with associate-id {}",
                    part.association_id
                ),
            ));
        }
        let other = part.allocation_id.clone();
        disassociate(call, account, &other)?;
    }
    // Read again: the interface may have changed by what was just undone.
    let mut changed = Interface::clone(&*interface::get(call, account, interface_id)?);
    if is_primary && let Some(automatic) = changed.public_ip {
        interface::release(call, automatic, interface_id)?;
    }
    let id = call.new_id("eipassoc");
    let part = ElasticPart {
        public_ip: elastic.public_ip,
        allocation_id: allocation_id.to_owned(),
        association_id: id.clone(),
    };
    if is_primary {
        changed.public_ip = Some(elastic.public_ip);
        changed.elastic = Some(part);
    } else {
        for own in changed.secondary.iter_mut().filter(|own| own.private_ip == private_ip) {
            own.elastic = Some(part.clone());
        }
    }
    interface::put(call, account, changed)?;
    let at = key_of(call, account, allocation_id);
    let mut elastic = ElasticAddress::clone(&*get(call, account, allocation_id)?);
    elastic.association = Some(ElasticAssociation {
        id: id.clone(),
        interface_id: interface_id.to_owned(),
        private_ip,
    });
    // Whoever uses an address again does not give it away.
    elastic.transfer = None;
    call.put(&at, elastic);
    Ok(id)
}

fn part_of(interface: &Interface, private_ip: Ipv4Addr) -> Option<&ElasticPart> {
    if interface.private_ip == private_ip {
        return interface.elastic.as_ref();
    }
    let own = interface.secondary.iter().find(|own| own.private_ip == private_ip);
    own.and_then(|own| own.elastic.as_ref())
}

/// Makes an elastic address lead nowhere. Nothing is done when it does already.
///
/// # Errors
/// `InvalidAllocationID.NotFound`.
pub(crate) fn disassociate(
    call: &mut Call<'_>,
    account: &str,
    allocation_id: &str,
) -> Result<(), Error> {
    let Some(association) = leave(call, account, allocation_id)? else { return Ok(()) };
    let at = key::of(call.region, key::INTERFACE, account, &association.interface_id);
    let Some(found) = call.get::<Interface>(&at)? else { return Ok(()) };
    let mut interface = Interface::clone(&found);
    let is_it = |part: &Option<ElasticPart>| {
        part.as_ref().is_some_and(|p| p.allocation_id == allocation_id)
    };
    if is_it(&interface.elastic) {
        interface.elastic = None;
        interface.public_ip = None;
    }
    for own in interface.secondary.iter_mut().filter(|own| is_it(&own.elastic)) {
        own.elastic = None;
    }
    interface::put(call, account, interface)
}

/// The address's half of [`disassociate`], for whoever changes or removes the interface: what it led
/// to.
///
/// # Errors
/// As for [`disassociate`].
pub(crate) fn leave(
    call: &mut Call<'_>,
    account: &str,
    allocation_id: &str,
) -> Result<Option<ElasticAssociation>, Error> {
    let elastic = get(call, account, allocation_id)?;
    let mut elastic = ElasticAddress::clone(&elastic);
    let association = elastic.association.take();
    if association.is_some() {
        let at = key_of(call, account, allocation_id);
        call.put(&at, elastic);
    }
    Ok(association)
}

/// The interface of an instance that an address is to lead to.
fn interface_of(call: &mut Call<'_>, id: String) -> Result<String, Error> {
    let instance = instance::get_one(call, Some(id))?;
    match instance.state {
        InstanceState::Running | InstanceState::Stopping | InstanceState::Stopped => {}
        state => {
            return Err(Error::client(
                "InvalidInstanceID",
                format!(
                    "The {} instance '{}' is not in a valid state for this operation.",
                    state.name(),
                    instance.id
                ),
            ));
        }
    }
    if !instance.more_interfaces.is_empty() {
        return Err(Error::client(
            "InvalidInstanceID",
            format!(
                "There are multiple interfaces attached to instance '{}'. Please specify an \
                 interface ID for the operation instead.",
                instance.id
            ),
        ));
    }
    Ok(Instance::clone(&instance).interface_id)
}

pub(super) fn associate_address(
    call: &mut Call<'_>,
    input: api::AssociateAddressRequest,
) -> Result<api::AssociateAddressResult, Error> {
    let account = call.account();
    let elastic = named(call, input.allocation_id, input.public_ip)?;
    let interface_id = match (
        input.network_interface_id.filter(|id| !id.is_empty()),
        input.instance_id.filter(|id| !id.is_empty()),
    ) {
        (Some(id), None) => id,
        (None, Some(id)) => interface_of(call, id)?,
        (Some(_), Some(_)) => {
            return Err(Error::invalid_parameter_combination(
                "You may specify instance id or network interface id, but not both in the same call",
            ));
        }
        (None, None) => {
            return Err(Error::client(
                "MissingParameter",
                "Either instance ID or network interface id must be specified",
            ));
        }
    };
    let private_ip = match input.private_ip_address.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Error::invalid_parameter_value(format!(
                "Value ({text}) for parameter privateIpAddress is invalid. Invalid IPv4 address."
            ))
        })?),
    };
    refuse_managed(call, &elastic)?;
    let target = interface::get(call, account, &interface_id)?;
    if super::is_managed(&target) {
        return Err(not_permitted());
    }
    // "Reassociation is automatic, but you can specify false" (API Reference, AllowReassociation).
    let allow = input.allow_reassociation != Some(false);
    let id = associate(call, account, &elastic.allocation_id, &interface_id, private_ip, allow)?;
    Ok(api::AssociateAddressResult { association_id: Some(id) })
}

pub(super) fn disassociate_address(
    call: &mut Call<'_>,
    input: api::DisassociateAddressRequest,
) -> Result<wire::Empty, Error> {
    let account = call.account();
    let id = input.association_id.filter(|id| !id.is_empty());
    let elastic = match id {
        Some(id) => {
            // Associations have no key of their own; an account has a handful.
            let all = call.scan::<ElasticAddress>(&key_of(call, account, ""))?;
            let is_it = |elastic: &ElasticAddress| {
                elastic.association.as_ref().is_some_and(|association| association.id == id)
            };
            let missing = || {
                Error::client(
                    "InvalidAssociationID.NotFound",
                    format!("The association ID '{id}' does not exist"),
                )
            };
            let found = all.iter().find(|elastic| is_it(elastic)).ok_or_else(missing)?;
            let found = get(call, account, &found.allocation_id)?;
            if !is_it(&found) {
                return Err(missing());
            }
            found
        }
        None if input.public_ip.is_some() => named(call, None, input.public_ip)?,
        None => return Err(Error::missing_parameter("AssociationId")),
    };
    refuse_managed(call, &elastic)?;
    disassociate(call, account, &elastic.allocation_id)?;
    Ok(wire::Empty)
}
