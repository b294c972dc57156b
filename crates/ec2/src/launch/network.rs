//! Subnet, security groups and addresses of a launch.

use crate::record::{SecurityGroup, Subnet, Vpc, key};
use crate::{interface, region, subnet};
use base::Ipv4Cidr;
use model::ec2 as api;
use service::{Call, Error};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Random probes before a range of addresses is walked.
const PROBES: usize = 32;
/// Most addresses that are walked when probing found none.
const WALK: u64 = 1 << 16;

/// The primary interface of a launch.
pub(super) struct Network {
    pub(super) groups: Vec<String>,
    pub(super) private_ip: Option<Ipv4Addr>,
    pub(super) public: bool,
    pub(super) description: String,
    pub(super) delete_on_termination: bool,
}

/// Subnet and primary interface: from NetworkInterfaces, or from the members of the request.
pub(super) fn network(
    call: &mut Call<'_>,
    input: &mut api::RunInstancesRequest,
) -> Result<(Arc<Subnet>, Network), Error> {
    let mut given = api::InstanceNetworkInterfaceSpecification::default();
    let mut names = Vec::new();
    match input.network_interfaces.take().filter(|list| !list.is_empty()) {
        Some(mut list) => {
            let not_both = |what: &str| {
                Error::invalid_parameter_combination(format!(
                    "Network interfaces and an instance-level {what} may not be specified on the \
                     same request"
                ))
            };
            if input.subnet_id.is_some() {
                return Err(not_both("subnet ID"));
            }
            let groups = [&input.security_group_ids, &input.security_groups];
            if groups.iter().any(|ids| ids.as_ref().is_some_and(|ids| !ids.is_empty())) {
                return Err(not_both("security groups"));
            }
            if input.private_ip_address.is_some() {
                return Err(not_both("private address"));
            }
            if list.len() > 1 {
                return Err(Error::unsupported(
                    "More than one network interface is not built in gureum yet.",
                ));
            }
            given = list.remove(0);
            match given.device_index {
                Some(0) => {}
                None => {
                    return Err(Error::missing_parameter("NetworkInterface.DeviceIndex"));
                }
                Some(_) => {
                    return Err(Error::invalid_parameter_combination(
                        "The network interface with device index 0 must be specified",
                    ));
                }
            }
        }
        None => {
            given.subnet_id = input.subnet_id.take();
            given.groups = input.security_group_ids.take();
            given.private_ip_address = input.private_ip_address.take();
            names = input.security_groups.take().unwrap_or_default();
        }
    }
    let subnet = choose_subnet(call, given.subnet_id.as_deref(), input.placement.as_ref())?;
    let mut groups = given.groups.unwrap_or_default();
    if !names.is_empty() {
        if given.subnet_id.is_some() {
            return Err(Error::invalid_parameter_combination(
                "The parameter groupName cannot be used with the parameter subnet",
            ));
        }
        for name in &names {
            groups.push(group_by_name(call, &subnet.vpc_id, name)?);
        }
    }
    if groups.is_empty() {
        let at = key::of(call.region, key::VPC, call.account(), &subnet.vpc_id);
        let vpc = call
            .peek::<Vpc>(&at)?
            .ok_or_else(|| Error::internal(format!("{} has no VPC", subnet.id)))?;
        groups.push(vpc.default_group_id.clone());
    }
    let mut seen = BTreeSet::new();
    groups.retain(|id| seen.insert(id.clone()));
    interface::check_groups(call, &groups, &subnet.vpc_id, &subnet.id)?;
    let private_ip = match given.private_ip_address.as_deref() {
        Some(text) => Some(check_private_address(text, &subnet.cidr)?),
        None => None,
    };
    let network = Network {
        groups,
        private_ip,
        public: given.associate_public_ip_address.unwrap_or(subnet.map_public_ip_on_launch),
        description: given.description.unwrap_or_default(),
        delete_on_termination: given.delete_on_termination.unwrap_or(true),
    };
    Ok((subnet, network))
}

fn choose_subnet(
    call: &mut Call<'_>,
    subnet_id: Option<&str>,
    placement: Option<&api::Placement>,
) -> Result<Arc<Subnet>, Error> {
    let mut zone = placement.and_then(|p| p.availability_zone.clone()).filter(|z| !z.is_empty());
    if let Some(id) = placement.and_then(|p| p.availability_zone_id.as_deref()) {
        let named = region::zones(call.region).into_iter().find(|zone| zone.id == id);
        let named = named.ok_or_else(|| {
            Error::invalid_parameter_value(format!("Invalid availability zone-id: [{id}]"))
        })?;
        if zone.as_ref().is_some_and(|zone| *zone != named.name) {
            return Err(Error::invalid_parameter_combination(format!(
                "The availability zone '{}' does not have the ID '{id}'",
                zone.unwrap_or_default()
            )));
        }
        zone = Some(named.name);
    }
    let Some(id) = subnet_id.filter(|id| !id.is_empty()) else {
        return subnet::default_subnet(call, zone.as_deref());
    };
    if !base::id::is_valid("subnet", id) {
        return Err(Error::client(
            "InvalidSubnetID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"subnet-...\")"),
        ));
    }
    let subnet = subnet::find_subnet(call, id)?;
    match zone {
        Some(zone) if zone != subnet.availability_zone => Err(Error::invalid_parameter_value(
            format!("The specified subnet '{id}' is not in the availability zone '{zone}'."),
        )),
        _ => Ok(subnet),
    }
}

fn group_by_name(call: &mut Call<'_>, vpc_id: &str, name: &str) -> Result<String, Error> {
    let claim =
        key::of(call.region, key::SECURITY_GROUP_NAME, call.account(), &format!("{vpc_id}/{name}"));
    if let Some(id) = call.get::<String>(&claim)? {
        return Ok(String::clone(&id));
    }
    // Clients may give an id here too.
    let at = key::of(call.region, key::SECURITY_GROUP, call.account(), name);
    if call.peek::<SecurityGroup>(&at)?.is_some() {
        return Ok(name.to_owned());
    }
    Err(Error::client(
        "InvalidGroup.NotFound",
        format!("The security group '{name}' does not exist in default VPC '{vpc_id}'"),
    ))
}

fn check_private_address(text: &str, range: &Ipv4Cidr) -> Result<Ipv4Addr, Error> {
    let address: Ipv4Addr = text.parse().map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter privateIpAddress is invalid. Invalid IPv4 address."
        ))
    })?;
    if !range.contains(address) {
        return Err(Error::invalid_parameter_value(format!(
            "Address {address} does not fall within the subnet's address range"
        )));
    }
    let index = u32::from(address) - u32::from(range.network());
    if index < 4 || address == range.last() {
        return Err(Error::invalid_parameter_value(format!(
            "Address {address} is in subnet's reserved address range"
        )));
    }
    Ok(address)
}

pub(super) fn private_claim(call: &Call<'_>, vpc_id: &str, address: Ipv4Addr) -> String {
    key::private_address(call.region, call.account(), vpc_id, address)
}

/// A free address of a subnet. The first four and the last are AWS's (VPC User Guide, "Subnet
/// sizing").
pub(super) fn free_private_address(
    call: &mut Call<'_>,
    subnet: &Subnet,
) -> Result<Ipv4Addr, Error> {
    let (region, account) = (call.region, call.account());
    let claim = |address| key::private_address(region, account, &subnet.vpc_id, address);
    free_address(call, &subnet.cidr, 4, claim).ok_or_else(|| {
        Error::client(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "The specified subnet does not have enough free addresses to satisfy the request. \
                 ({})",
                subnet.id
            ),
        )
    })
}

/// A free public address of the region's pool. Its network, first and broadcast address are left
/// to the host.
pub(crate) fn free_public_address(call: &mut Call<'_>) -> Result<Ipv4Addr, Error> {
    let pool = call.environment.public_pool;
    free_address(call, &pool, 2, key::public_address).ok_or_else(|| {
        Error::client(
            "InsufficientAddressCapacity",
            format!(
                "Not enough public addresses: all of the region's pool {pool} are in use. \
                 Terminate instances, launch without a public address, or start the region with a \
                 larger pool."
            ),
        )
        .with_status(500)
    })
}

/// An address of `range` that nobody has claimed; its first `reserved` and its last are never
/// given.
fn free_address(
    call: &mut Call<'_>,
    range: &Ipv4Cidr,
    reserved: u64,
    claim: impl Fn(Ipv4Addr) -> String,
) -> Option<Ipv4Addr> {
    let size = range.size().checked_sub(reserved + 1).filter(|size| *size > 0)?;
    for _ in 0..PROBES {
        let address = range.nth(reserved + call.rng.u64(..size))?;
        let key = claim(address);
        // Looked up without a dependency first: a taken address is no reason for a conflict.
        if call.snapshot().get(&key).is_none() && !call.exists(&key) {
            return Some(address);
        }
    }
    let start = call.rng.u64(..size);
    (0..size.min(WALK)).filter_map(|step| range.nth(reserved + (start + step) % size)).find(
        |address| {
            let key = claim(*address);
            call.snapshot().get(&key).is_none() && !call.exists(&key)
        },
    )
}

/// A locally administered unicast address, `0a:…` as EC2's are.
pub(super) fn new_mac(rng: &mut fastrand::Rng) -> String {
    let tail = rng.u64(..1 << 40).to_be_bytes();
    format!("0a:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", tail[3], tail[4], tail[5], tail[6], tail[7])
}
