//! CreateSubnet and CreateDefaultSubnet.

use super::{ID, describe, ipv6};
use crate::record::{Subnet, Tags, Vpc, key};
use crate::{region, tag, vpc};
use base::Ipv4Cidr;
use model::ec2 as api;
use service::{Call, Error};
use std::sync::Arc;

/// Most subnets of a VPC (VPC User Guide, "Amazon VPC quotas").
const MAX_SUBNETS: usize = 200;
/// Prefix length of a default subnet.
const DEFAULT_LENGTH: u8 = 20;

pub(super) fn out_of_range(cidr: impl std::fmt::Display) -> Error {
    Error::client("InvalidSubnet.Range", format!("The CIDR '{cidr}' is invalid."))
}

pub(super) fn conflict(cidr: impl std::fmt::Display) -> Error {
    Error::client(
        "InvalidSubnet.Conflict",
        format!("The CIDR '{cidr}' conflicts with another subnet"),
    )
}

/// The zone that a request names, by one of its names.
fn zone(
    call: &Call<'_>,
    name: Option<&str>,
    id: Option<&str>,
) -> Result<Option<region::Zone>, Error> {
    let zones = region::zones(call.region);
    let (member, given, names): (_, _, Vec<&str>) =
        match (name.filter(|name| !name.is_empty()), id.filter(|id| !id.is_empty())) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(Error::invalid_parameter_combination(
                    "Only one of AvailabilityZone or AvailabilityZoneId can be specified.",
                ));
            }
            (Some(name), None) => {
                ("availabilityZone", name, zones.iter().map(|zone| zone.name.as_str()).collect())
            }
            (None, Some(id)) => {
                ("availabilityZoneId", id, zones.iter().map(|zone| zone.id.as_str()).collect())
            }
        };
    let index = names.iter().position(|name| *name == given).ok_or_else(|| {
        Error::invalid_parameter_value(format!(
            "Value ({given}) for parameter {member} is invalid. Subnets can currently only be \
             created in the following availability zones: {}.",
            names.join(", ")
        ))
    })?;
    Ok(zones.get(index).cloned())
}

/// The subnets of a VPC, provided that there is room for one more.
fn all_with_room(call: &mut Call<'_>, vpc: &Vpc) -> Result<Vec<Arc<Subnet>>, Error> {
    let mut all = call.get_all::<Subnet>(&ID.key(call, ""))?;
    all.retain(|subnet| subnet.vpc_id == vpc.id);
    if all.len() >= MAX_SUBNETS {
        return Err(Error::client(
            "SubnetLimitExceeded",
            format!("The maximum number of subnets has been reached for vpc '{}'.", vpc.id),
        ));
    }
    Ok(all)
}

pub(super) fn create_subnet(
    call: &mut Call<'_>,
    input: api::CreateSubnetRequest,
) -> Result<api::CreateSubnetResult, Error> {
    let vpc = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let text = input.cidr_block.filter(|text| !text.is_empty());
    let cidr = vpc::parse(&text.ok_or_else(|| Error::missing_parameter("cidrBlock"))?)?;
    let zone =
        zone(call, input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?;
    let specifications = input.tag_specifications.as_deref();
    let tags = tag::from_specifications(specifications, "subnet", &["subnet"])?;
    let inside = |block: Ipv4Cidr| block.contains(cidr.network()) && block.contains(cidr.last());
    if !(16..=28).contains(&cidr.length()) || !vpc.cidrs().any(inside) {
        return Err(out_of_range(cidr));
    }
    let others = all_with_room(call, &vpc)?;
    if others.iter().any(|other| other.cidr.overlaps(&cidr)) {
        return Err(conflict(cidr));
    }
    let zone = match zone {
        Some(zone) => zone,
        None => {
            let mut zones = region::zones(call.region);
            zones.swap_remove(call.rng.usize(..zones.len()))
        }
    };
    let mut subnet = super::new(call, &vpc, cidr, &zone.name, tags);
    if let Some(text) = input.ipv6_cidr_block.filter(|text| !text.is_empty()) {
        subnet.ipv6_cidr = Some(ipv6::association(call, &vpc, &others, &text)?);
    }
    answer(call, subnet)
}

fn answer(call: &mut Call<'_>, subnet: Subnet) -> Result<api::CreateSubnetResult, Error> {
    let id = subnet.id.clone();
    super::stage(call, subnet)?;
    let subnet = super::find_subnet(call, &id)?;
    let mut shown = describe::one(call, subnet);
    for association in shown.ipv6_cidr_block_association_set.iter_mut().flatten() {
        association.ipv6_cidr_block_state = ipv6::state("associating");
    }
    Ok(api::CreateSubnetResult { subnet: Some(shown) })
}

pub(super) fn create_default_subnet(
    call: &mut Call<'_>,
    input: api::CreateDefaultSubnetRequest,
) -> Result<api::CreateDefaultSubnetResult, Error> {
    let zone =
        zone(call, input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?;
    let zone = zone.ok_or_else(|| Error::missing_parameter("availabilityZone"))?;
    let vpc = vpc::default_vpc(call).map_err(|_| {
        Error::client(
            "DefaultVpcDoesNotExist",
            "No default VPC exists for this account in this region.",
        )
    })?;
    let vpc = vpc::find_vpc(call, &vpc.id)?;
    let others = all_with_room(call, &vpc)?;
    let same = |other: &&Arc<Subnet>| other.default_for_az && other.availability_zone == zone.name;
    if let Some(other) = others.iter().find(same) {
        return Err(Error::client(
            "DefaultSubnetAlreadyExistsInAvailabilityZone",
            format!("'{}' is already the default subnet in {}.", other.id, zone.name),
        ));
    }
    let step = 32 - u32::from(DEFAULT_LENGTH);
    let free = (0u64..)
        .map_while(|index| vpc.cidr.nth(index << step))
        .map(|network| Ipv4Cidr::containing(network, DEFAULT_LENGTH))
        .find(|cidr| !others.iter().any(|other| other.cidr.overlaps(cidr)));
    let cidr = free.ok_or_else(|| {
        Error::client(
            "InsufficientFreeAddressesInVpc",
            format!("The VPC '{}' has no free /{DEFAULT_LENGTH} CIDR block.", vpc.id),
        )
    })?;
    let mut subnet = super::new(call, &vpc, cidr, &zone.name, Tags::new());
    subnet.default_for_az = true;
    subnet.map_public_ip_on_launch = true;
    let created = answer(call, subnet)?;
    Ok(api::CreateDefaultSubnetResult { subnet: created.subnet })
}

/// The keys of a VPC's claims of private addresses begin with this.
pub(super) fn claims(call: &Call<'_>, vpc_id: &str) -> String {
    key::of(call.region, key::PRIVATE_ADDRESS, call.account(), &format!("{vpc_id}/"))
}
