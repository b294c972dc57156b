//! CreateNetworkInterface and DeleteNetworkInterface, and the same for services.

use super::address::{self, Chosen, Pool, Wanted};
use super::describe::show;
use super::{check_groups, get_own, key_of};
use crate::record::{Interface, InterfaceKind, SecondaryAddress, Subnet, Tags, Vpc, key};
use crate::{elastic_address, launch, subnet, tag};
use base::{Ipv4Cidr, Ipv6Cidr};
use model::ec2 as api;
use service::{Call, Error};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Most addresses and prefixes of one kind that an interface may have, attached or not: what the
/// largest instance types take.
pub(super) const MOST_ADDRESSES: u32 = 50;

/// What an interface is made of.
pub(crate) struct New<'a> {
    /// Where it stands.
    pub(crate) subnet: &'a Subnet,
    /// Its security groups.
    pub(crate) groups: Vec<String>,
    /// What makes it.
    pub(crate) kind: InterfaceKind,
    /// Description.
    pub(crate) description: String,
    /// sourceDestCheck.
    pub(crate) source_dest_check: bool,
    /// Its addresses.
    pub(crate) wanted: Wanted,
    /// Tags.
    pub(crate) tags: Tags,
}

/// Stages a new interface with its addresses.
///
/// # Errors
/// A group is not there or of another VPC; an address is taken, not the subnet's, or there is none
/// left.
pub(crate) fn create(
    call: &mut Call<'_>,
    account: &str,
    new: New<'_>,
) -> Result<Arc<Interface>, Error> {
    let New { subnet, groups, kind, description, source_dest_check, wanted, tags } = new;
    check_groups(call, &groups, &subnet.vpc_id, &subnet.id)?;
    let mut chosen = Chosen::default();
    let pool = Pool { account, subnet };
    let private_ip = pool.primary(call, &mut chosen, &wanted)?;
    let further = pool.further(call, &mut chosen, &wanted)?;
    let interface = Interface {
        v: 1,
        id: call.new_id("eni"),
        subnet_id: subnet.id.clone(),
        vpc_id: subnet.vpc_id.clone(),
        availability_zone: subnet.availability_zone.clone(),
        description,
        mac: launch::new_mac(&mut call.rng),
        private_ip,
        public_ip: None,
        elastic: None,
        secondary: further
            .secondary
            .iter()
            .map(|address| SecondaryAddress { private_ip: *address, elastic: None })
            .collect(),
        prefixes: further.prefixes.clone(),
        ipv6: further.ipv6.clone(),
        ipv6_prefixes: further.ipv6_prefixes.clone(),
        primary_ipv6: wanted.primary_ipv6,
        kind,
        groups,
        source_dest_check,
        attachment: None,
        detached: None,
        tags,
    };
    let claim = key::private_address(call.region, account, &subnet.vpc_id, private_ip);
    call.put(&claim, interface.id.clone());
    address::claim(call, account, &interface, &further);
    let at = key_of(call, account, &interface.id);
    Ok(call.put(&at, interface))
}

/// Stages the removal of an interface: of its record and the claims of its addresses. Elastic
/// addresses lead nowhere afterwards.
///
/// # Errors
/// Internal: a record cannot be read.
pub(crate) fn delete(
    call: &mut Call<'_>,
    account: &str,
    interface: &Interface,
) -> Result<(), Error> {
    let secondary = interface.secondary.iter().filter_map(|address| address.elastic.as_ref());
    for part in interface.elastic.iter().chain(secondary) {
        elastic_address::leave(call, account, &part.allocation_id)?;
    }
    if let (Some(address), None) = (interface.public_ip, &interface.elastic) {
        release(call, address, &interface.id)?;
    }
    let claim = key::private_address(call.region, account, &interface.vpc_id, interface.private_ip);
    call.delete(&claim);
    address::unclaim(call, account, interface, &address::all(interface));
    let at = key_of(call, account, &interface.id);
    call.delete(&at);
    Ok(())
}

/// [`delete`] of the interface with this id, if it is still there.
///
/// # Errors
/// Internal: a record cannot be read.
pub(crate) fn delete_by_id(call: &mut Call<'_>, account: &str, id: &str) -> Result<(), Error> {
    match call.get::<Interface>(&key_of(call, account, id))? {
        Some(interface) => delete(call, account, &interface),
        None => Ok(()),
    }
}

/// Gives a public address back to the pool that was `interface_id`'s own.
///
/// # Errors
/// Internal: the claim cannot be read.
pub(crate) fn release(
    call: &mut Call<'_>,
    address: Ipv4Addr,
    interface_id: &str,
) -> Result<(), Error> {
    let claim = key::public_address(address);
    if call.get::<String>(&claim)?.is_some_and(|owner| *owner == interface_id) {
        call.delete(&claim);
    }
    Ok(())
}

fn no_address(text: &str, parameter: &str) -> Error {
    Error::invalid_parameter_value(format!(
        "Value ({text}) for parameter {parameter} is invalid. Invalid IPv4 address."
    ))
}

pub(super) fn ipv4_addresses(texts: &[String], parameter: &str) -> Result<Vec<Ipv4Addr>, Error> {
    let parse = |text: &String| text.parse().map_err(|_| no_address(text, parameter));
    texts.iter().map(parse).collect()
}

/// IPv6 addresses of a request.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn ipv6_addresses<'a>(
    texts: impl Iterator<Item = &'a str>,
) -> Result<Vec<Ipv6Addr>, Error> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            Error::invalid_parameter_value(format!(
                "Value ({text}) for parameter ipv6Addresses is invalid. Invalid IPv6 address."
            ))
        })
    };
    texts.map(parse).collect()
}

/// IPv4 prefixes of a request.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn v4_prefixes<'a>(
    texts: impl Iterator<Item = &'a str>,
) -> Result<Vec<Ipv4Cidr>, Error> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            Error::invalid_parameter_value(format!(
                "Value ({text}) for parameter ipv4Prefixes is invalid. This is not a valid CIDR \
                 block."
            ))
        })
    };
    texts.map(parse).collect()
}

/// IPv6 prefixes of a request.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn v6_prefixes<'a>(
    texts: impl Iterator<Item = &'a str>,
) -> Result<Vec<Ipv6Cidr>, Error> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            Error::invalid_parameter_value(format!(
                "Value ({text}) for parameter ipv6Prefixes is invalid. This is not a valid CIDR \
                 block."
            ))
        })
    };
    texts.map(parse).collect()
}

/// A count of a request.
pub(super) fn count(count: Option<i32>, parameter: &str) -> Result<Option<u32>, Error> {
    let Some(count) = count else { return Ok(None) };
    let within = u32::try_from(count).ok().filter(|count| *count <= MOST_ADDRESSES);
    within.map(Some).ok_or_else(|| {
        Error::invalid_parameter_value(format!(
            "Value ({count}) for parameter {parameter} is invalid. Expecting a value between 0 and \
             {MOST_ADDRESSES}."
        ))
    })
}

fn either(what: &str, other: &str) -> Error {
    Error::invalid_parameter_combination(format!(
        "The parameter {what} cannot be used with the parameter {other}"
    ))
}

/// The members of an interface's specification, of CreateNetworkInterface and of RunInstances.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) private_ip_address: Option<String>,
    pub(crate) private_ip_addresses: Vec<api::PrivateIpAddressSpecification>,
    pub(crate) secondary_count: Option<i32>,
    pub(crate) ipv4_prefixes: Vec<String>,
    pub(crate) ipv4_prefix_count: Option<i32>,
    pub(crate) ipv6_addresses: Vec<String>,
    pub(crate) ipv6_address_count: Option<i32>,
    pub(crate) ipv6_prefixes: Vec<String>,
    pub(crate) ipv6_prefix_count: Option<i32>,
    pub(crate) primary_ipv6: bool,
}

impl Given {
    /// The addresses that are asked for in a subnet.
    ///
    /// # Errors
    /// They contradict each other, or cannot be in the subnet.
    pub(crate) fn wanted(self, subnet: &Subnet) -> Result<Wanted, Error> {
        let mut wanted = Wanted { primary_ipv6: self.primary_ipv6, ..Wanted::default() };
        if let Some(text) = self.private_ip_address.filter(|text| !text.is_empty()) {
            wanted.private_ip = Some(launch::check_private_address(&text, subnet)?);
        }
        for given in self.private_ip_addresses {
            let text = given.private_ip_address.unwrap_or_default();
            let address = launch::check_private_address(&text, subnet)?;
            if given.primary == Some(true) {
                if wanted.private_ip.is_some_and(|primary| primary != address) {
                    return Err(Error::invalid_parameter_combination(
                        "Only one primary private IP address can be specified.",
                    ));
                }
                wanted.private_ip = Some(address);
            } else if wanted.private_ip != Some(address) {
                wanted.secondary.push(address);
            }
        }
        let secondary = count(self.secondary_count, "secondaryPrivateIpAddressCount")?;
        if !wanted.secondary.is_empty() && secondary.is_some_and(|count| count > 0) {
            return Err(either("secondaryPrivateIpAddressCount", "privateIpAddresses"));
        }
        wanted.secondary_count = secondary.unwrap_or(0);
        wanted.prefixes = v4_prefixes(self.ipv4_prefixes.iter().map(String::as_str))?;
        wanted.prefix_count = count(self.ipv4_prefix_count, "ipv4PrefixCount")?.unwrap_or(0);
        if !wanted.prefixes.is_empty() && wanted.prefix_count > 0 {
            return Err(either("ipv4PrefixCount", "ipv4Prefixes"));
        }
        wanted.ipv6 = ipv6_addresses(self.ipv6_addresses.iter().map(String::as_str))?;
        let automatic = count(self.ipv6_address_count, "ipv6AddressCount")?;
        if !wanted.ipv6.is_empty() && automatic.is_some_and(|count| count > 0) {
            return Err(either("ipv6AddressCount", "ipv6Addresses"));
        }
        wanted.ipv6_count = automatic.filter(|_| wanted.ipv6.is_empty());
        wanted.ipv6_prefixes = v6_prefixes(self.ipv6_prefixes.iter().map(String::as_str))?;
        wanted.ipv6_prefix_count = count(self.ipv6_prefix_count, "ipv6PrefixCount")?.unwrap_or(0);
        if !wanted.ipv6_prefixes.is_empty() && wanted.ipv6_prefix_count > 0 {
            return Err(either("ipv6PrefixCount", "ipv6Prefixes"));
        }
        Ok(wanted)
    }
}

impl Wanted {
    /// How many IPv4 addresses and prefixes there will be, and how many IPv6 ones.
    pub(crate) fn sizes(&self, subnet: &Subnet) -> (usize, usize) {
        let by_subnet = subnet.assign_ipv6_address_on_creation && self.ipv6.is_empty();
        let automatic = self.ipv6_count.unwrap_or(u32::from(by_subnet));
        let ipv4 = 1 + self.secondary.len() + self.prefixes.len();
        let ipv6 = self.ipv6.len() + self.ipv6_prefixes.len();
        (
            ipv4 + (self.secondary_count + self.prefix_count) as usize,
            ipv6 + (automatic + self.ipv6_prefix_count) as usize,
        )
    }
}

pub(super) fn create_network_interface(
    call: &mut Call<'_>,
    input: api::CreateNetworkInterfaceRequest,
) -> Result<api::CreateNetworkInterfaceResult, Error> {
    let subnet_id = input.subnet_id.filter(|id| !id.is_empty());
    let subnet_id = subnet_id.ok_or_else(|| Error::missing_parameter("subnetId"))?;
    if !base::id::is_valid("subnet", &subnet_id) {
        return Err(Error::client(
            "InvalidSubnetID.Malformed",
            format!("Invalid id: \"{subnet_id}\" (expecting \"subnet-...\")"),
        ));
    }
    let subnet = subnet::find_subnet(call, &subnet_id)?;
    let mut groups = input.groups.unwrap_or_default();
    if groups.is_empty() {
        let at = key::of(call.region, key::VPC, call.account(), &subnet.vpc_id);
        let vpc = call.peek::<Vpc>(&at)?;
        let vpc = vpc.ok_or_else(|| Error::internal(format!("{} has no VPC", subnet.id)))?;
        groups.push(vpc.default_group_id.clone());
    }
    let mut seen = BTreeSet::new();
    groups.retain(|id| seen.insert(id.clone()));
    let ipv6 = input.ipv6_addresses.unwrap_or_default();
    let marked = ipv6.iter().any(|address| address.is_primary_ipv6 == Some(true));
    let text = |prefix: Option<String>| prefix.unwrap_or_default();
    let given = Given {
        private_ip_address: input.private_ip_address,
        private_ip_addresses: input.private_ip_addresses.unwrap_or_default(),
        secondary_count: input.secondary_private_ip_address_count,
        ipv4_prefixes: input
            .ipv4_prefixes
            .into_iter()
            .flatten()
            .map(|prefix| text(prefix.ipv4_prefix))
            .collect(),
        ipv4_prefix_count: input.ipv4_prefix_count,
        ipv6_addresses: ipv6.into_iter().map(|address| text(address.ipv6_address)).collect(),
        ipv6_address_count: input.ipv6_address_count,
        ipv6_prefixes: input
            .ipv6_prefixes
            .into_iter()
            .flatten()
            .map(|prefix| text(prefix.ipv6_prefix))
            .collect(),
        ipv6_prefix_count: input.ipv6_prefix_count,
        primary_ipv6: marked || input.enable_primary_ipv6 == Some(true),
    };
    let wanted = given.wanted(&subnet)?;
    let (ipv4, ipv6) = wanted.sizes(&subnet);
    if ipv4.max(ipv6) > MOST_ADDRESSES as usize {
        return Err(too_many_addresses());
    }
    const MADE: &[&str] = &["network-interface"];
    let tags =
        tag::from_specifications(input.tag_specifications.as_deref(), "network-interface", MADE)?;
    let new = New {
        subnet: &subnet,
        groups,
        kind: InterfaceKind::Interface,
        description: input.description.unwrap_or_default(),
        source_dest_check: true,
        wanted,
        tags,
    };
    let account = call.account();
    let interface = create(call, account, new)?;
    Ok(api::CreateNetworkInterfaceResult {
        client_token: input.client_token,
        network_interface: Some(api::NetworkInterface {
            // As AWS answers it.
            status: Some("pending".to_owned()),
            ..show(call, interface)?
        }),
    })
}

/// Refusal of more addresses than an interface may have.
pub(super) fn too_many_addresses() -> Error {
    Error::client("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
}

pub(super) fn delete_network_interface(
    call: &mut Call<'_>,
    input: api::DeleteNetworkInterfaceRequest,
) -> Result<wire::Empty, Error> {
    let interface = get_own(call, input.network_interface_id)?;
    if interface.attachment.is_some() {
        return Err(Error::invalid_parameter_value(format!(
            "Network interface '{}' is currently in use.",
            interface.id
        )));
    }
    let account = call.account();
    delete(call, account, &interface)?;
    Ok(wire::Empty)
}
