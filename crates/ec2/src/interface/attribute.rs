//! Attributes of an interface, one at a time.

use super::describe::show;
use super::{check_groups, get_own, peek, put};
use crate::record::{Instance, Interface, key};
use model::ec2 as api;
use service::{Call, Error};
use std::collections::BTreeSet;

pub(super) fn describe_network_interface_attribute(
    call: &mut Call<'_>,
    input: api::DescribeNetworkInterfaceAttributeRequest,
) -> Result<api::DescribeNetworkInterfaceAttributeResult, Error> {
    let id = input.network_interface_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("networkInterfaceId"))?;
    let interface = peek(call, &id)?;
    let mut answer = api::DescribeNetworkInterfaceAttributeResult {
        network_interface_id: Some(id),
        ..Default::default()
    };
    match input.attribute.as_deref().unwrap_or_default() {
        "attachment" => answer.attachment = show(call, interface)?.attachment,
        "description" => {
            let value = Some(interface.description.clone());
            answer.description = Some(api::AttributeValue { value });
        }
        "groupSet" => answer.groups = show(call, interface)?.groups,
        "sourceDestCheck" => {
            let value = Some(interface.source_dest_check);
            answer.source_dest_check = Some(api::AttributeBooleanValue { value });
        }
        "associatePublicIpAddress" => {
            answer.associate_public_ip_address = Some(gets_public_address(call, &interface)?);
        }
        "" => {
            return Err(Error::invalid_parameter_combination("No attributes specified."));
        }
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter attribute is invalid. Unknown attribute."
            )));
        }
    }
    Ok(answer)
}

/// Whether the interface gets a public address with each start of its instance.
fn gets_public_address(call: &Call<'_>, interface: &Interface) -> Result<bool, Error> {
    let Some(attachment) = interface.attachment.as_ref().filter(|a| a.device_index == 0) else {
        return Ok(false);
    };
    let at = key::of(call.region, key::INSTANCE, call.account(), &attachment.instance_id);
    Ok(call.peek::<Instance>(&at)?.is_some_and(|instance| instance.wants_public_ip))
}

pub(super) fn modify_network_interface_attribute(
    call: &mut Call<'_>,
    input: api::ModifyNetworkInterfaceAttributeRequest,
) -> Result<wire::Empty, Error> {
    let found = get_own(call, input.network_interface_id)?;
    let asked = [
        input.groups.is_some(),
        input.source_dest_check.as_ref().is_some_and(|check| check.value.is_some()),
        input.description.is_some(),
        input.attachment.is_some(),
        input.enable_primary_ipv6.is_some(),
    ];
    match asked.into_iter().filter(|asked| *asked).count() {
        0 => return Err(Error::invalid_parameter_combination("No attributes specified.")),
        1 => {}
        _ => {
            return Err(Error::invalid_parameter_combination(
                "Fields for multiple attribute types specified: only one attribute can be modified \
                 at a time.",
            ));
        }
    }
    let mut interface = Interface::clone(&found);
    if let Some(mut groups) = input.groups {
        if groups.is_empty() {
            return Err(Error::missing_parameter("securityGroupIds"));
        }
        let mut seen = BTreeSet::new();
        groups.retain(|id| seen.insert(id.clone()));
        check_groups(call, &groups, &interface.vpc_id, &interface.subnet_id)?;
        interface.groups = groups;
    }
    if let Some(check) = input.source_dest_check.and_then(|check| check.value) {
        interface.source_dest_check = check;
    }
    if let Some(description) = input.description {
        interface.description = description.value.unwrap_or_default();
    }
    if let Some(changes) = input.attachment {
        let attachment = interface.attachment.as_mut();
        let named = changes.attachment_id.unwrap_or_default();
        let Some(attachment) = attachment.filter(|attachment| attachment.id == named) else {
            return Err(Error::client(
                "InvalidAttachmentID.NotFound",
                format!("The attachment ID '{named}' does not exist"),
            ));
        };
        if let Some(delete) = changes.delete_on_termination {
            attachment.delete_on_termination = delete;
        }
    }
    match input.enable_primary_ipv6 {
        Some(true) if interface.ipv6.is_empty() => {
            return Err(Error::invalid_parameter_value(format!(
                "The network interface '{}' has no IPv6 address that could be its primary one.",
                interface.id
            )));
        }
        Some(true) => interface.primary_ipv6 = true,
        // "If you no longer need it, you cannot remove it" (API Reference, EnablePrimaryIpv6).
        Some(false) if interface.primary_ipv6 => {
            return Err(Error::invalid_parameter_value(format!(
                "The primary IPv6 address of the network interface '{}' cannot be disabled.",
                interface.id
            )));
        }
        Some(false) | None => {}
    }
    let account = call.account();
    if interface != *found {
        put(call, account, interface)?;
    }
    Ok(wire::Empty)
}

pub(super) fn reset_network_interface_attribute(
    call: &mut Call<'_>,
    input: api::ResetNetworkInterfaceAttributeRequest,
) -> Result<wire::Empty, Error> {
    let found = get_own(call, input.network_interface_id)?;
    if input.source_dest_check.is_none() {
        return Err(Error::invalid_parameter_combination("No attributes specified."));
    }
    let mut interface = Interface::clone(&found);
    interface.source_dest_check = true;
    let account = call.account();
    if interface != *found {
        put(call, account, interface)?;
    }
    Ok(wire::Empty)
}
