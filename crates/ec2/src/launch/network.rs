//! Subnets, interfaces and addresses of a launch.

use crate::interface::{self, Given, Wanted};
use crate::record::{Interface, SecurityGroup, Subnet, Vpc, key};
use crate::{elastic_address, instance_type, region, subnet};
use base::Ipv4Cidr;
use model::ec2 as api;
use service::{Call, Error};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Random probes before a range of addresses is walked.
const PROBES: usize = 32;
/// Most addresses that are walked when probing found none.
const WALK: u64 = 1 << 16;

/// The interfaces of a launch.
pub(super) struct Network {
    /// By device index, the primary one first.
    pub(super) places: Vec<Place>,
    /// The primary one gets a public address.
    pub(super) public: bool,
}

/// One interface.
pub(super) struct Place {
    pub(super) device_index: u32,
    pub(super) delete_on_termination: bool,
    pub(super) source: Source,
}

/// Where an interface comes from.
pub(super) enum Source {
    /// It is there.
    Existing(Arc<Interface>),
    /// The launch makes it.
    New(Box<Fresh>),
}

/// An interface that the launch makes.
pub(super) struct Fresh {
    pub(super) subnet: Arc<Subnet>,
    pub(super) groups: Vec<String>,
    pub(super) description: String,
    pub(super) wanted: Wanted,
}

impl Network {
    /// Whether each instance of a launch would need addresses of its own that are named here.
    pub(super) fn names_addresses(&self) -> bool {
        self.places.iter().any(|place| match &place.source {
            Source::Existing(_) => true,
            Source::New(fresh) => {
                let wanted = &fresh.wanted;
                wanted.private_ip.is_some()
                    || !wanted.secondary.is_empty()
                    || !wanted.prefixes.is_empty()
                    || !wanted.ipv6.is_empty()
                    || !wanted.ipv6_prefixes.is_empty()
            }
        })
    }

    /// How many keys an instance's interfaces write beside those of a plain one.
    pub(super) fn further_keys(&self) -> usize {
        let keys = |place: &Place| match &place.source {
            Source::Existing(_) => 2,
            Source::New(fresh) => {
                let (ipv4, ipv6) = fresh.wanted.sizes(&fresh.subnet);
                let prefixes = fresh.wanted.prefixes.len() + fresh.wanted.prefix_count as usize;
                1 + ipv4 + ipv6 + 15 * prefixes
            }
        };
        self.places.iter().map(keys).sum::<usize>().saturating_sub(2)
    }
}

fn not_both(what: &str) -> Error {
    Error::invalid_parameter_combination(format!(
        "Network interfaces and an instance-level {what} may not be specified on the same request"
    ))
}

/// The interfaces, from NetworkInterfaces or from the members of the request, and the subnet of the
/// primary one.
pub(super) fn network(
    call: &mut Call<'_>,
    input: &mut api::RunInstancesRequest,
    facts: &instance_type::Facts,
) -> Result<(Arc<Subnet>, Network), Error> {
    let (subnet, network) = match input.network_interfaces.take().filter(|list| !list.is_empty()) {
        Some(list) => {
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
            if input.ipv6_address_count.is_some_and(|count| count > 0)
                || input.ipv6_addresses.as_ref().is_some_and(|list| !list.is_empty())
            {
                return Err(not_both("IPv6 address"));
            }
            specified(call, input, list)?
        }
        None => plain(call, input)?,
    };
    interface::check_count(facts, network.places.len())?;
    for place in &network.places {
        let (ipv4, ipv6) = match &place.source {
            Source::Existing(it) => {
                (1 + it.secondary.len() + it.prefixes.len(), it.ipv6.len() + it.ipv6_prefixes.len())
            }
            Source::New(fresh) => fresh.wanted.sizes(&fresh.subnet),
        };
        interface::check_addresses(facts, ipv4, ipv6)?;
    }
    Ok((subnet, network))
}

/// One interface, by the members of the request.
fn plain(
    call: &mut Call<'_>,
    input: &mut api::RunInstancesRequest,
) -> Result<(Arc<Subnet>, Network), Error> {
    let subnet_id = input.subnet_id.take();
    let names = input.security_groups.take().unwrap_or_default();
    let mut groups = input.security_group_ids.take().unwrap_or_default();
    let subnet = choose_subnet(call, subnet_id.as_deref(), input.placement.as_ref())?;
    if !names.is_empty() {
        if subnet_id.is_some() {
            return Err(Error::invalid_parameter_combination(
                "The parameter groupName cannot be used with the parameter subnet",
            ));
        }
        for name in &names {
            groups.push(group_by_name(call, &subnet.vpc_id, name)?);
        }
    }
    let addresses = input.ipv6_addresses.take().unwrap_or_default();
    let marked = addresses.iter().any(|address| address.is_primary_ipv6 == Some(true));
    let given = Given {
        private_ip_address: input.private_ip_address.take(),
        ipv6_addresses: addresses.into_iter().filter_map(|given| given.ipv6_address).collect(),
        ipv6_address_count: input.ipv6_address_count,
        primary_ipv6: marked || input.enable_primary_ipv6 == Some(true),
        ..Given::default()
    };
    let groups = checked_groups(call, groups, &subnet)?;
    let wanted = given.wanted(&subnet)?;
    let public = subnet.map_public_ip_on_launch;
    let fresh = Fresh { subnet: Arc::clone(&subnet), groups, description: String::new(), wanted };
    let source = Source::New(Box::new(fresh));
    let place = Place { device_index: 0, delete_on_termination: true, source };
    Ok((subnet, Network { places: vec![place], public }))
}

/// Groups without repetition, the VPC's default one if there are none.
fn checked_groups(
    call: &mut Call<'_>,
    mut groups: Vec<String>,
    subnet: &Subnet,
) -> Result<Vec<String>, Error> {
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
    Ok(groups)
}

/// The interfaces that a request lists.
fn specified(
    call: &mut Call<'_>,
    input: &api::RunInstancesRequest,
    mut list: Vec<api::InstanceNetworkInterfaceSpecification>,
) -> Result<(Arc<Subnet>, Network), Error> {
    if list.iter().any(|given| given.device_index.is_none()) {
        return Err(Error::missing_parameter("NetworkInterface.DeviceIndex"));
    }
    list.sort_by_key(|given| given.device_index);
    if list[0].device_index != Some(0) {
        return Err(Error::invalid_parameter_combination(
            "The network interface with device index 0 must be specified",
        ));
    }
    if list.windows(2).any(|pair| pair[0].device_index == pair[1].device_index) {
        return Err(Error::invalid_parameter_combination(
            "Each network interface requires a unique device index.",
        ));
    }
    let several = list.len() > 1;
    let mut public = None;
    let mut places: Vec<Place> = Vec::with_capacity(list.len());
    let mut first: Option<Arc<Subnet>> = None;
    for given in list {
        interface::check_card(given.network_card_index)?;
        let device_index = u32::try_from(given.device_index.unwrap_or(0)).map_err(|_| {
            Error::invalid_parameter_value(
                "The value for parameter NetworkInterface.DeviceIndex is out of range.",
            )
        })?;
        if let Some(associate) = given.associate_public_ip_address {
            if several && associate {
                return Err(Error::invalid_parameter_combination(
                    "The associatePublicIPAddress parameter cannot be specified when launching \
                     with multiple network interfaces.",
                ));
            }
            if given.network_interface_id.is_some() {
                return Err(Error::invalid_parameter_combination(
                    "The associatePublicIPAddress parameter cannot be specified for a network \
                     interface with an ID.",
                ));
            }
            public = Some(associate);
        }
        let delete = given.delete_on_termination;
        let (subnet, source) = match given.network_interface_id.clone() {
            Some(id) => {
                let found = existing(call, &id, &given)?;
                if places
                    .iter()
                    .any(|place| matches!(&place.source, Source::Existing(other) if other.id == id))
                {
                    return Err(Error::invalid_parameter_value(format!(
                        "The network interface '{id}' is specified more than once."
                    )));
                }
                if delete == Some(true) {
                    return Err(Error::invalid_parameter_combination(
                        "A network interface may not specify a network interface ID and delete on \
                         termination as true",
                    ));
                }
                (subnet::find_subnet(call, &found.subnet_id)?, Source::Existing(found))
            }
            None => {
                let subnet =
                    choose_subnet(call, given.subnet_id.as_deref(), input.placement.as_ref())?;
                let fresh = fresh(call, &subnet, given)?;
                (subnet, Source::New(Box::new(fresh)))
            }
        };
        match &first {
            None => first = Some(subnet),
            Some(first) if first.availability_zone != subnet.availability_zone => {
                return Err(Error::invalid_parameter_combination(
                    "All network interfaces of an instance must be in one availability zone.",
                ));
            }
            Some(_) => {}
        }
        let is_new = matches!(source, Source::New(_));
        let delete_on_termination = delete.unwrap_or(is_new);
        places.push(Place { device_index, delete_on_termination, source });
    }
    let subnet = first.ok_or_else(|| Error::internal("a launch without an interface"))?;
    let is_new = matches!(places[0].source, Source::New(_));
    // A second interface, or one that is there already, keeps the subnet's habit away.
    let by_subnet = subnet.map_public_ip_on_launch && is_new && !several;
    Ok((subnet, Network { places, public: public.unwrap_or(by_subnet) }))
}

/// An interface that is there and free.
fn existing(
    call: &mut Call<'_>,
    id: &str,
    given: &api::InstanceNetworkInterfaceSpecification,
) -> Result<Arc<Interface>, Error> {
    let of_new = given.subnet_id.is_some()
        || given.groups.as_ref().is_some_and(|groups| !groups.is_empty())
        || given.private_ip_address.is_some()
        || given.private_ip_addresses.as_ref().is_some_and(|list| !list.is_empty())
        || given.secondary_private_ip_address_count.is_some()
        || given.ipv6_address_count.is_some()
        || given.ipv6_addresses.as_ref().is_some_and(|list| !list.is_empty())
        || given.description.as_ref().is_some_and(|text| !text.is_empty());
    if of_new {
        return Err(Error::invalid_parameter_combination(
            "A network interface may not specify both a network interface ID and a subnet, \
             security groups, addresses or a description",
        ));
    }
    let account = call.account();
    let found = interface::get(call, account, id)?;
    interface::refuse_managed(&found)?;
    interface::check_free(&found)?;
    Ok(found)
}

fn fresh(
    call: &mut Call<'_>,
    subnet: &Arc<Subnet>,
    given: api::InstanceNetworkInterfaceSpecification,
) -> Result<Fresh, Error> {
    let groups = checked_groups(call, given.groups.unwrap_or_default(), subnet)?;
    let addresses = given.ipv6_addresses.unwrap_or_default();
    let marked = addresses.iter().any(|address| address.is_primary_ipv6 == Some(true));
    let wanted = Given {
        private_ip_address: given.private_ip_address,
        private_ip_addresses: given.private_ip_addresses.unwrap_or_default(),
        secondary_count: given.secondary_private_ip_address_count,
        ipv4_prefixes: given
            .ipv4_prefixes
            .into_iter()
            .flatten()
            .map(|prefix| prefix.ipv4_prefix.unwrap_or_default())
            .collect(),
        ipv4_prefix_count: given.ipv4_prefix_count,
        ipv6_addresses: addresses.into_iter().filter_map(|given| given.ipv6_address).collect(),
        ipv6_address_count: given.ipv6_address_count,
        ipv6_prefixes: given
            .ipv6_prefixes
            .into_iter()
            .flatten()
            .map(|prefix| prefix.ipv6_prefix.unwrap_or_default())
            .collect(),
        ipv6_prefix_count: given.ipv6_prefix_count,
        primary_ipv6: marked || given.primary_ipv6 == Some(true),
    };
    Ok(Fresh {
        wanted: wanted.wanted(subnet)?,
        subnet: Arc::clone(subnet),
        groups,
        description: given.description.unwrap_or_default(),
    })
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

/// A private address of a request.
///
/// # Errors
/// `InvalidParameterValue`: it is none, or not the subnet's to give.
pub(crate) fn check_private_address(text: &str, subnet: &Subnet) -> Result<Ipv4Addr, Error> {
    let address: Ipv4Addr = text.parse().map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter privateIpAddress is invalid. Invalid IPv4 address."
        ))
    })?;
    interface::check_in_subnet(address, subnet)?;
    Ok(address)
}

pub(super) fn private_claim(call: &Call<'_>, vpc_id: &str, address: Ipv4Addr) -> String {
    key::private_address(call.region, call.account(), vpc_id, address)
}

/// A free address of a subnet that is not `taken` either. The first four and the last are AWS's (VPC
/// User Guide, "Subnet sizing"), and what is reserved is given to nobody who does not name it.
///
/// # Errors
/// `InsufficientFreeAddressesInSubnet`.
pub(crate) fn free_private_address_but(
    call: &mut Call<'_>,
    account: &str,
    subnet: &Subnet,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Result<Ipv4Addr, Error> {
    let region = call.region;
    let claim = |address| key::private_address(region, account, &subnet.vpc_id, address);
    let left_alone =
        |address: Ipv4Addr| taken(address) || subnet::is_reserved(subnet, IpAddr::V4(address));
    free_address(call, &subnet.cidr, 4, 1, claim, left_alone).ok_or_else(|| {
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
/// to the host, and the ranges that accounts took for themselves to those.
pub(crate) fn free_public_address(call: &mut Call<'_>) -> Result<Ipv4Addr, Error> {
    let pool = call.environment.public_pool;
    let own = elastic_address::ranges(call)?;
    let left_alone = |address| own.iter().any(|range| range.contains(address));
    free_address(call, &pool, 2, 1, key::public_address, left_alone).ok_or_else(|| {
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

/// An address of `range` that nobody has claimed and that is not to be left alone; its first
/// `before` and its last `after` are never given.
pub(crate) fn free_address(
    call: &mut Call<'_>,
    range: &Ipv4Cidr,
    before: u64,
    after: u64,
    claim: impl Fn(Ipv4Addr) -> String,
    left_alone: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let size = range.size().checked_sub(before + after).filter(|size| *size > 0)?;
    // Looked up without a dependency first: a taken address is no reason for a conflict.
    let is_free = |call: &mut Call<'_>, address: Ipv4Addr| {
        let key = claim(address);
        !left_alone(address) && call.snapshot().get(&key).is_none() && !call.exists(&key)
    };
    for _ in 0..PROBES {
        let address = range.nth(before + call.rng.u64(..size))?;
        if is_free(call, address) {
            return Some(address);
        }
    }
    let start = call.rng.u64(..size);
    (0..size.min(WALK))
        .filter_map(|step| range.nth(before + (start + step) % size))
        .find(|address| is_free(call, *address))
}

/// A locally administered unicast address, `0a:…` as EC2's are.
pub(crate) fn new_mac(rng: &mut fastrand::Rng) -> String {
    let tail = rng.u64(..1 << 40).to_be_bytes();
    format!("0a:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", tail[3], tail[4], tail[5], tail[6], tail[7])
}
