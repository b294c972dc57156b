//! AttachNetworkInterface and DetachNetworkInterface: a place in the interface's record and one in
//! the instance's, which the instance's reconciler brings to `attached` and takes away
//! ([`crate::instance_reconciler`]). The life of an attachment is drawn in [`super`].

use super::make::{MOST_ADDRESSES, too_many_addresses};
use super::{detach, get_own, key_of};
use crate::instance;
use crate::instance_type::{self, Facts};
use crate::record::{
    AttachedInterface, AttachmentState, Instance, InstanceState, Interface, InterfaceAttachment,
    key,
};
use model::ec2 as api;
use service::{Call, Error};

/// Most addresses of an interface, of IPv4 and of IPv6: what its instance's type takes.
///
/// # Errors
/// Internal: the instance's record cannot be read.
pub(crate) fn limits(
    call: &mut Call<'_>,
    account: &str,
    interface: &Interface,
) -> Result<(usize, usize), Error> {
    let any = (MOST_ADDRESSES as usize, MOST_ADDRESSES as usize);
    let Some(attachment) = &interface.attachment else { return Ok(any) };
    let at = key::of(call.region, key::INSTANCE, account, &attachment.instance_id);
    let instance = call.get::<Instance>(&at)?;
    let facts = instance.and_then(|instance| instance_type::find(&instance.instance_type));
    Ok(facts.map_or(any, |facts| (facts.ipv4_per_interface(), facts.ipv6_per_interface())))
}

/// Refuses one interface more than an instance type takes.
///
/// # Errors
/// `AttachmentLimitExceeded`.
pub(crate) fn check_count(facts: &Facts, count: usize) -> Result<(), Error> {
    if count <= facts.max_interfaces as usize {
        return Ok(());
    }
    Err(Error::client(
        "AttachmentLimitExceeded",
        format!("Interface count {count} exceeds the limit for {}", facts.name),
    ))
}

/// Refuses more addresses on one interface than an instance type takes.
///
/// # Errors
/// `PrivateIpAddressLimitExceeded`.
pub(crate) fn check_addresses(facts: &Facts, ipv4: usize, ipv6: usize) -> Result<(), Error> {
    if ipv4 <= facts.ipv4_per_interface() && ipv6 <= facts.ipv6_per_interface() {
        return Ok(());
    }
    Err(too_many_addresses())
}

/// Refuses an interface that something has.
///
/// # Errors
/// `InvalidNetworkInterface.InUse`.
pub(crate) fn check_free(interface: &Interface) -> Result<(), Error> {
    if interface.attachment.is_none() {
        return Ok(());
    }
    Err(Error::client(
        "InvalidNetworkInterface.InUse",
        format!("Interface: [{}] in use.", interface.id),
    ))
}

/// Refuses a network card that no instance here has.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn check_card(card: Option<i32>) -> Result<(), Error> {
    match card {
        None | Some(0) => Ok(()),
        Some(card) => Err(Error::invalid_parameter_value(format!(
            "Value ({card}) for parameter networkCardIndex is invalid. The instance has one network \
             card."
        ))),
    }
}

pub(super) fn attach_network_interface(
    call: &mut Call<'_>,
    input: api::AttachNetworkInterfaceRequest,
) -> Result<api::AttachNetworkInterfaceResult, Error> {
    let index = input.device_index.ok_or_else(|| Error::missing_parameter("deviceIndex"))?;
    let interface = get_own(call, input.network_interface_id)?;
    let instance = instance::get_one(call, input.instance_id)?;
    check_card(input.network_card_index)?;
    check_free(&interface)?;
    if !matches!(instance.state, InstanceState::Running | InstanceState::Stopped) {
        return Err(Error::client(
            "IncorrectState",
            format!("Instance '{}' is not 'running' or 'stopped'.", instance.id),
        ));
    }
    if interface.availability_zone != instance.availability_zone {
        return Err(Error::invalid_parameter_combination(
            "You may not attach a network interface to an instance if they are not in the same \
             availability zone",
        ));
    }
    let taken =
        instance.more_interfaces.iter().any(|place| i32::try_from(place.device_index) == Ok(index));
    if index == 0 || taken {
        return Err(Error::invalid_parameter_value(format!(
            "Instance '{}' already has an interface attached at device index '{index}'.",
            instance.id
        )));
    }
    let facts = instance_type::find(&instance.instance_type);
    let device_index = u32::try_from(index)
        .ok()
        .filter(|index| facts.is_none_or(|facts| *index <= facts.max_interfaces.max(15)));
    let device_index = device_index.ok_or_else(|| {
        Error::invalid_parameter_value(format!(
            "Value ({index}) for parameter deviceIndex is invalid. It is out of range."
        ))
    })?;
    if let Some(facts) = facts {
        check_count(facts, instance.more_interfaces.len() + 2)?;
        check_addresses(
            facts,
            1 + interface.secondary.len() + interface.prefixes.len(),
            interface.ipv6.len() + interface.ipv6_prefixes.len(),
        )?;
    }
    let is_off = instance.state == InstanceState::Stopped;
    let attachment_id = call.new_id("eni-attach");
    let mut interface = Interface::clone(&interface);
    interface.attachment = Some(InterfaceAttachment {
        id: attachment_id.clone(),
        instance_id: instance.id.clone(),
        device_index,
        delete_on_termination: false,
        attached: instance::whole_second(call.now),
        state: if is_off { AttachmentState::Attached } else { AttachmentState::Attaching },
        forced: false,
    });
    let mut instance = Instance::clone(&instance);
    let place = AttachedInterface { interface_id: interface.id.clone(), device_index };
    let at = instance.more_interfaces.partition_point(|other| other.device_index < device_index);
    instance.more_interfaces.insert(at, place);
    let at = key_of(call, call.account(), &interface.id);
    call.put(&at, interface);
    instance::put(call, instance);
    Ok(api::AttachNetworkInterfaceResult {
        attachment_id: Some(attachment_id),
        network_card_index: Some(0),
    })
}

pub(super) fn detach_network_interface(
    call: &mut Call<'_>,
    input: api::DetachNetworkInterfaceRequest,
) -> Result<wire::Empty, Error> {
    let id = input.attachment_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("attachmentId"))?;
    if !base::id::is_valid("eni-attach", &id) && !base::id::is_valid("ela-attach", &id) {
        return Err(Error::client(
            "InvalidAttachmentID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"eni-attach-...\")"),
        ));
    }
    // Attachments have no key of their own: an account has few interfaces, detached rarely.
    let all = call.scan::<Interface>(&key_of(call, call.account(), ""))?;
    let is_it = |interface: &Interface| interface.attachment.as_ref().is_some_and(|a| a.id == id);
    let missing = || {
        Error::client(
            "InvalidAttachmentID.NotFound",
            format!("The attachment ID '{id}' does not exist"),
        )
    };
    let interface = all.iter().find(|interface| is_it(interface)).ok_or_else(missing)?;
    let interface = get_own(call, Some(interface.id.clone()))?;
    let Some(attachment) = interface.attachment.as_ref().filter(|_| is_it(&interface)) else {
        return Err(missing());
    };
    if attachment.device_index == 0 {
        return Err(Error::client(
            "OperationNotPermitted",
            "The network interface at device index 0 cannot be detached.",
        ));
    }
    let at = key::of(call.region, key::INSTANCE, call.account(), &attachment.instance_id);
    let instance = call
        .get::<Instance>(&at)?
        .ok_or_else(|| Error::internal(format!("{} is attached to nothing", interface.id)))?;
    let mut changed = Interface::clone(&interface);
    let mut instance = Instance::clone(&instance);
    if instance.state == InstanceState::Stopped {
        detach(&mut changed, call.now);
        instance.more_interfaces.retain(|place| place.interface_id != interface.id);
    } else if let Some(attachment) = &mut changed.attachment {
        attachment.state = AttachmentState::Detaching;
        attachment.forced |= input.force == Some(true);
    }
    if changed != *interface {
        let at = key_of(call, call.account(), &interface.id);
        call.put(&at, changed);
        instance::put(call, instance);
    }
    Ok(wire::Empty)
}
