//! Subnets: made, changed, described and deleted, and the choice of one for a launch.
//!
//! A subnet lies in one zone. Its blocks lie in its VPC's and overlap no other subnet's. The
//! relation to its network ACL stands in both records.
//!
//! Not here: subnets of IPv6 alone, of Outposts and of IPAM pools, DNS64; requests that name them
//! are refused.

mod attribute;
mod create;
mod delete;
mod describe;
mod ipv6;
mod reservation;

pub(crate) use reservation::{change as change_reservation, is_reserved, prefix_reservations};

use crate::lookup::Id;
use crate::record::{Association, NameOptions, NetworkAcl, Subnet, Tags, Vpc, key};
use crate::{region, vpc};
use base::Ipv4Cidr;
use model::ec2::op;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateSubnet,
        create::create_subnet,
        Write,
        [
            "AvailabilityZone",
            "AvailabilityZoneId",
            "CidrBlock",
            "Ipv6CidrBlock",
            "TagSpecifications.*",
            "VpcId",
        ]
    ),
    operation!(
        op::CreateDefaultSubnet,
        create::create_default_subnet,
        Write,
        ["AvailabilityZone", "AvailabilityZoneId"]
    ),
    operation!(op::DeleteSubnet, delete::delete_subnet, Write, ["SubnetId"]),
    operation!(
        op::DescribeSubnets,
        describe::describe_subnets,
        Read,
        ["Filters.*", "SubnetIds", "MaxResults", "NextToken"]
    ),
    operation!(
        op::ModifySubnetAttribute,
        attribute::modify_subnet_attribute,
        Write,
        [
            "AssignIpv6AddressOnCreation.Value",
            "EnableDns64.Value",
            "EnableResourceNameDnsAAAARecordOnLaunch.Value",
            "EnableResourceNameDnsARecordOnLaunch.Value",
            "MapPublicIpOnLaunch.Value",
            "PrivateDnsHostnameTypeOnLaunch",
            "SubnetId",
        ]
    ),
    operation!(
        op::AssociateSubnetCidrBlock,
        ipv6::associate_subnet_cidr_block,
        Write,
        ["Ipv6CidrBlock", "SubnetId"]
    ),
    operation!(
        op::DisassociateSubnetCidrBlock,
        ipv6::disassociate_subnet_cidr_block,
        Write,
        ["AssociationId"]
    ),
    operation!(
        op::CreateSubnetCidrReservation,
        reservation::create_subnet_cidr_reservation,
        Write,
        ["Cidr", "Description", "ReservationType", "SubnetId", "TagSpecifications.*"]
    ),
    operation!(
        op::DeleteSubnetCidrReservation,
        reservation::delete_subnet_cidr_reservation,
        Write,
        ["SubnetCidrReservationId"]
    ),
    operation!(
        op::GetSubnetCidrReservations,
        reservation::get_subnet_cidr_reservations,
        Read,
        ["Filters.*", "MaxResults", "NextToken", "SubnetId"]
    ),
];

pub(crate) const ID: Id = Id {
    prefix: "subnet",
    kind: key::SUBNET,
    malformed: "InvalidSubnetID.Malformed",
    missing: "InvalidSubnetID.NotFound",
    noun: "subnet ID",
};

/// The subnet with this id; the commit depends on it.
pub(crate) fn find_subnet(call: &mut Call<'_>, id: &str) -> Result<Arc<Subnet>, Error> {
    ID.find(call, id)
}

/// A subnet with the defaults of a VPC; not staged.
pub(crate) fn new(
    call: &mut Call<'_>,
    vpc: &Vpc,
    cidr: Ipv4Cidr,
    availability_zone: &str,
    tags: Tags,
) -> Subnet {
    Subnet {
        v: 2,
        id: call.new_id("subnet"),
        vpc_id: vpc.id.clone(),
        cidr,
        ipv6_cidr: None,
        availability_zone: availability_zone.to_owned(),
        default_for_az: false,
        map_public_ip_on_launch: false,
        assign_ipv6_address_on_creation: false,
        name_options: NameOptions::default(),
        route_table_id: None,
        network_acl_id: vpc.default_network_acl_id.clone(),
        reservations: Vec::new(),
        tags,
    }
}

/// Stages a new subnet and its association with its network ACL.
///
/// # Errors
/// Internal, when the ACL is not there.
pub(crate) fn stage(call: &mut Call<'_>, subnet: Subnet) -> Result<(), Error> {
    let at = key::of(call.region, key::NETWORK_ACL, call.account(), &subnet.network_acl_id);
    let acl = call.get::<NetworkAcl>(&at)?;
    let acl = acl.ok_or_else(|| Error::internal(format!("{at} is not there")))?;
    let mut acl = NetworkAcl::clone(&acl);
    let id = call.new_id("aclassoc");
    acl.associations.push(Association { id, subnet_id: subnet.id.clone() });
    call.put(&at, acl);
    call.put(&ID.key(call, &subnet.id), subnet);
    Ok(())
}

/// The default subnet of a zone, or of one that the region chooses: launches that do not care
/// spread over the zones.
///
/// # Errors
/// `InvalidParameterValue` for a zone that the region does not have; `InvalidInput` and
/// `MissingInput` when there is no default subnet.
pub(crate) fn default_subnet(
    call: &mut Call<'_>,
    availability_zone: Option<&str>,
) -> Result<Arc<Subnet>, Error> {
    if let Some(zone) = availability_zone
        && region::zone_id(call.region, zone).is_none()
    {
        return Err(Error::invalid_parameter_value(format!("Invalid availability zone: [{zone}]")));
    }
    let mut candidates = call.scan::<Subnet>(&ID.key(call, ""))?;
    candidates.retain(|subnet| {
        subnet.default_for_az && availability_zone.is_none_or(|z| z == subnet.availability_zone)
    });
    if candidates.is_empty() {
        return Err(match availability_zone {
            Some(zone) => Error::client(
                "InvalidInput",
                format!("No default subnet for availability zone: '{zone}'."),
            ),
            None => match vpc::default_vpc(call) {
                Ok(vpc) => Error::client(
                    "MissingInput",
                    format!(
                        "No subnets found for the default VPC '{}'. Please specify a subnet.",
                        vpc.id
                    ),
                ),
                Err(error) => error,
            },
        });
    }
    let index = call.rng.usize(..candidates.len());
    find_subnet(call, &candidates[index].id)
}

#[cfg(test)]
mod tests;
