//! Network interfaces: made, described, changed, attached.
//!
//! An interface's record is the authority for its addresses, MAC, security groups, description and
//! source check, and says where it is attached and how far that is. The instance's record lists its
//! interfaces, and repeats of the primary one what every description of an instance shows. An
//! elastic address stands in its own record and in that of the interface it leads to.
//!
//! ```text
//!  CreateNetworkInterface          AttachNetworkInterface        the guest has it
//!  ───────────► available ───────────────────► attaching ───────────────────► attached
//!                 │  ▲  (at once, when the instance is off)                       │
//!                 │  │     the guest has let go, or was made to                   │
//!                 │  └──────────────────────────────── detaching ◄────────────────┘
//!                 ▼ DeleteNetworkInterface          DetachNetworkInterface, with Force: made to
//! ```
//!
//! Interfaces of NAT gateways, endpoints and transit gateways are made by their services with
//! [`create`] and [`delete`]; users cannot change them.
//!
//! Not here: EFA, trunk and branch interfaces, carrier and customer-owned addresses, interfaces in
//! other accounts (permissions), ENA Express.

mod address;
mod assign;
mod attach;
mod attribute;
mod describe;
mod make;
#[cfg(test)]
mod tests;

pub(crate) use address::{Addresses, Chosen, Pool, Wanted, check_in_subnet, claim, unclaim};
pub(crate) use attach::{check_addresses, check_card, check_count, check_free};
pub(crate) use describe::attachment_status;
pub(crate) use make::{Given, New, create, delete, delete_by_id, release};

use crate::record::{self, Instance, Interface, InterfaceKind, key};
use crate::region;
use base::Timestamp;
use model::ec2::{self as api, op};
use service::filter::Values;
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What changes interfaces has buckets of its own (EC2 API Reference, "Request throttling").
const MODIFY_RATE: Rate = Rate::new(100.0, 5.0);

/// Most security groups of an interface (Amazon VPC User Guide, "Amazon VPC quotas").
pub(crate) const MAX_GROUPS: usize = 5;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DescribeNetworkInterfaces,
        describe::describe_network_interfaces,
        Read,
        ["Filters.*", "NetworkInterfaceIds", "MaxResults", "NextToken", "IncludeManagedResources"]
    ),
    operation!(
        op::DescribeNetworkInterfaceAttribute,
        attribute::describe_network_interface_attribute,
        Read,
        ["NetworkInterfaceId", "Attribute"]
    ),
    operation!(
        op::ModifyNetworkInterfaceAttribute,
        attribute::modify_network_interface_attribute,
        Write,
        [
            "NetworkInterfaceId",
            "Description.Value",
            "Groups",
            "SourceDestCheck.Value",
            "Attachment.AttachmentId",
            "Attachment.DeleteOnTermination",
            "EnablePrimaryIpv6",
        ],
        MODIFY_RATE
    ),
    operation!(
        op::ResetNetworkInterfaceAttribute,
        attribute::reset_network_interface_attribute,
        Write,
        ["NetworkInterfaceId", "SourceDestCheck"],
        MODIFY_RATE
    ),
    operation!(
        op::CreateNetworkInterface,
        make::create_network_interface,
        Write,
        [
            "SubnetId",
            "Description",
            "PrivateIpAddress",
            "PrivateIpAddresses.Primary",
            "PrivateIpAddresses.PrivateIpAddress",
            "SecondaryPrivateIpAddressCount",
            "Ipv4Prefixes.Ipv4Prefix",
            "Ipv4PrefixCount",
            "Ipv6Addresses.Ipv6Address",
            "Ipv6Addresses.IsPrimaryIpv6",
            "Ipv6AddressCount",
            "Ipv6Prefixes.Ipv6Prefix",
            "Ipv6PrefixCount",
            "EnablePrimaryIpv6",
            "Groups",
            "TagSpecifications.*",
            "ClientToken",
        ],
        MODIFY_RATE
    ),
    operation!(
        op::DeleteNetworkInterface,
        make::delete_network_interface,
        Write,
        ["NetworkInterfaceId"],
        MODIFY_RATE
    ),
    operation!(
        op::AttachNetworkInterface,
        attach::attach_network_interface,
        Write,
        ["NetworkInterfaceId", "InstanceId", "DeviceIndex", "NetworkCardIndex"],
        MODIFY_RATE
    ),
    operation!(
        op::DetachNetworkInterface,
        attach::detach_network_interface,
        Write,
        ["AttachmentId", "Force"],
        MODIFY_RATE
    ),
    operation!(
        op::AssignPrivateIpAddresses,
        assign::assign_private_ip_addresses,
        Write,
        [
            "NetworkInterfaceId",
            "PrivateIpAddresses",
            "SecondaryPrivateIpAddressCount",
            "Ipv4Prefixes",
            "Ipv4PrefixCount",
            "AllowReassignment",
        ],
        MODIFY_RATE
    ),
    operation!(
        op::UnassignPrivateIpAddresses,
        assign::unassign_private_ip_addresses,
        Write,
        ["NetworkInterfaceId", "PrivateIpAddresses", "Ipv4Prefixes"],
        MODIFY_RATE
    ),
    operation!(
        op::AssignIpv6Addresses,
        assign::assign_ipv6_addresses,
        Write,
        [
            "NetworkInterfaceId",
            "Ipv6Addresses",
            "Ipv6AddressCount",
            "Ipv6Prefixes",
            "Ipv6PrefixCount",
        ],
        MODIFY_RATE
    ),
    operation!(
        op::UnassignIpv6Addresses,
        assign::unassign_ipv6_addresses,
        Write,
        ["NetworkInterfaceId", "Ipv6Addresses", "Ipv6Prefixes"],
        MODIFY_RATE
    ),
];

/// The domain of private names in a region (VPC User Guide, "DHCP option sets").
pub(crate) fn private_domain(region: &str) -> String {
    if region == "us-east-1" {
        "ec2.internal".to_owned()
    } else {
        format!("{region}.compute.internal")
    }
}

/// Private DNS name of an address (EC2 User Guide, "EC2 instance hostnames and domains").
pub(crate) fn private_dns_name(region: &str, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{}", private_domain(region))
}

/// Name of an instance by its id (EC2 User Guide, "EC2 instance hostnames and domains").
pub(crate) fn resource_dns_name(region: &str, instance_id: &str) -> String {
    format!("{instance_id}.{}", private_domain(region))
}

/// Public DNS name of an address, in a VPC with enableDnsHostnames.
pub(crate) fn public_dns_name(region: &str, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    if region == "us-east-1" {
        format!("ec2-{a}-{b}-{c}-{d}.compute-1.amazonaws.com")
    } else {
        format!("ec2-{a}-{b}-{c}-{d}.{region}.compute.amazonaws.com")
    }
}

/// Names that descriptions show beside ids, read once a request.
#[derive(Debug, Default)]
pub(crate) struct Names {
    groups: HashMap<String, Option<String>>,
    dns_hostnames: HashMap<String, bool>,
    zones: Vec<region::Zone>,
}

impl Names {
    /// Group ids with their names. A group that was deleted meanwhile is left out.
    pub(crate) fn groups(
        &mut self,
        call: &Call<'_>,
        ids: &[String],
    ) -> Result<Vec<api::GroupIdentifier>, Error> {
        let mut identifiers = Vec::with_capacity(ids.len());
        for id in ids {
            if !self.groups.contains_key(id) {
                let key = key::of(call.region, key::SECURITY_GROUP, call.account(), id);
                let found = call.peek::<record::SecurityGroup>(&key)?;
                self.groups.insert(id.clone(), found.map(|group| group.name.clone()));
            }
            if let Some(Some(name)) = self.groups.get(id) {
                identifiers.push(api::GroupIdentifier {
                    group_id: Some(id.clone()),
                    group_name: Some(name.clone()),
                });
            }
        }
        Ok(identifiers)
    }

    /// The id of a zone, such as `use1-az1`; empty for one that the region has not.
    pub(crate) fn zone_id(&mut self, region: &str, zone_name: &str) -> String {
        if self.zones.is_empty() {
            self.zones = region::zones(region);
        }
        let zone = self.zones.iter().find(|zone| zone.name == zone_name);
        zone.map(|zone| zone.id.clone()).unwrap_or_default()
    }

    /// Whether public addresses in the VPC have names.
    pub(crate) fn dns_hostnames(&mut self, call: &Call<'_>, vpc_id: &str) -> Result<bool, Error> {
        if let Some(known) = self.dns_hostnames.get(vpc_id) {
            return Ok(*known);
        }
        let key = key::of(call.region, key::VPC, call.account(), vpc_id);
        let enabled =
            call.peek::<record::Vpc>(&key)?.is_some_and(|vpc| vpc.dns_hostnames && vpc.dns_support);
        self.dns_hostnames.insert(vpc_id.to_owned(), enabled);
        Ok(enabled)
    }
}

/// A filter value that may be absent.
pub(crate) fn one<'a>(value: Option<impl Into<Cow<'a, str>>>) -> Values<'a> {
    value.map(Into::into).into_iter().collect()
}

pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("eni", id) {
        return Ok(());
    }
    Err(Error::client(
        "InvalidNetworkInterfaceId.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"eni-...\")"),
    ))
}

pub(crate) fn not_found(id: &str) -> Error {
    Error::client(
        "InvalidNetworkInterfaceID.NotFound",
        format!("The networkInterface ID '{id}' does not exist"),
    )
}

fn key_of(call: &Call<'_>, account: &str, id: &str) -> String {
    key::of(call.region, key::INTERFACE, account, id)
}

/// The interface that a request describes.
fn peek(call: &Call<'_>, id: &str) -> Result<Arc<Interface>, Error> {
    check_id(id)?;
    call.peek(&key_of(call, call.account(), id))?.ok_or_else(|| not_found(id))
}

/// The interface that a request changes; the commit depends on it.
///
/// # Errors
/// `InvalidNetworkInterfaceId.Malformed`, `InvalidNetworkInterfaceID.NotFound`.
pub(crate) fn get(call: &mut Call<'_>, account: &str, id: &str) -> Result<Arc<Interface>, Error> {
    check_id(id)?;
    let at = key_of(call, account, id);
    call.get(&at)?.ok_or_else(|| not_found(id))
}

/// [`get`] for a user, who may not change what a service made for itself.
fn get_own(call: &mut Call<'_>, id: Option<String>) -> Result<Arc<Interface>, Error> {
    let id = id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("networkInterfaceId"))?;
    let account = call.account();
    let interface = get(call, account, &id)?;
    refuse_managed(&interface)?;
    Ok(interface)
}

/// Refuses what a service made for itself.
///
/// # Errors
/// `OperationNotPermitted`.
pub(crate) fn refuse_managed(interface: &Interface) -> Result<(), Error> {
    if interface.kind == InterfaceKind::Interface {
        return Ok(());
    }
    Err(Error::client(
        "OperationNotPermitted",
        format!(
            "You are not allowed to manage '{}': a service made this network interface for itself.",
            interface.id
        ),
    ))
}

/// Checks that every group exists in the VPC of an interface, the commit depending on it.
///
/// # Errors
/// As AWS words them; `subnet_id` only stands in the text.
pub(crate) fn check_groups(
    call: &mut Call<'_>,
    ids: &[String],
    vpc_id: &str,
    subnet_id: &str,
) -> Result<(), Error> {
    if ids.len() > MAX_GROUPS {
        return Err(Error::client(
            "SecurityGroupsPerInterfaceLimitExceeded",
            format!(
                "The maximum number of security groups per interface has been reached. \
                 Maximum: {MAX_GROUPS}"
            ),
        ));
    }
    for id in ids {
        if !base::id::is_valid("sg", id) {
            return Err(Error::client(
                "InvalidGroupId.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"sg-...\")"),
            ));
        }
        let at = key::of(call.region, key::SECURITY_GROUP, call.account(), id);
        let Some(group) = call.get::<record::SecurityGroup>(&at)? else {
            return Err(Error::client(
                "InvalidGroup.NotFound",
                format!("The security group '{id}' does not exist"),
            ));
        };
        if group.vpc_id != vpc_id {
            return Err(Error::client(
                "InvalidParameter",
                format!("Security group {id} and subnet {subnet_id} belong to different networks."),
            ));
        }
    }
    Ok(())
}

/// Ends the attachment of an interface, which is not staged.
pub(crate) fn detach(interface: &mut Interface, now: Timestamp) {
    if let Some(attachment) = interface.attachment.take() {
        interface.detached = Some((attachment, now));
    }
}

/// Stages a changed interface, and its instance in step with it, so that the instance's machine
/// learns of it: reconcilers are woken by the keys that a transaction writes.
///
/// # Errors
/// Internal: a record cannot be read.
pub(crate) fn put(call: &mut Call<'_>, account: &str, interface: Interface) -> Result<(), Error> {
    if let Some(attachment) = &interface.attachment {
        let at = key::of(call.region, key::INSTANCE, account, &attachment.instance_id);
        if let Some(instance) = call.get::<Instance>(&at)? {
            let mut instance = Instance::clone(&instance);
            if instance.interface_id == interface.id {
                instance.source_dest_check = interface.source_dest_check;
                instance.public_ip = interface.public_ip;
            }
            call.put(&at, instance);
        }
    }
    let at = key_of(call, account, &interface.id);
    call.put(&at, interface);
    Ok(())
}
