//! The IPv6 block of a subnet.

use super::{ID, create, delete, find_subnet};
use crate::record::{CidrAssociation, Subnet, Vpc};
use crate::vpc;
use base::Ipv6Cidr;
use model::ec2 as api;
use service::{Call, Error};
use std::sync::Arc;

/// A state of a block.
pub(super) fn state(name: &str) -> Option<api::SubnetCidrBlockState> {
    Some(api::SubnetCidrBlockState { state: Some(name.to_owned()), status_message: None })
}

pub(super) fn to_model(given: &CidrAssociation<Ipv6Cidr>) -> api::SubnetIpv6CidrBlockAssociation {
    api::SubnetIpv6CidrBlockAssociation {
        association_id: Some(given.id.clone()),
        ip_source: Some("amazon".to_owned()),
        ipv6_address_attribute: Some("private".to_owned()),
        ipv6_cidr_block: Some(given.cidr.to_string()),
        ipv6_cidr_block_state: state("associated"),
    }
}

/// A new association with a block that lies in the VPC's and that no other subnet has. Lengths are
/// /44 to /64 in steps of four (VPC User Guide, "Subnet sizing for IPv6").
pub(super) fn association(
    call: &mut Call<'_>,
    vpc: &Vpc,
    others: &[Arc<Subnet>],
    text: &str,
) -> Result<CidrAssociation<Ipv6Cidr>, Error> {
    let cidr = vpc::parse_ipv6(text)?;
    let inside =
        |block: &Ipv6Cidr| block.contains(cidr.network()) && block.length() <= cidr.length();
    let has_length = (44..=64).contains(&cidr.length()) && cidr.length() % 4 == 0;
    if !has_length || !vpc.ipv6_cidrs.iter().any(|block| inside(&block.cidr)) {
        return Err(create::out_of_range(cidr));
    }
    let mut taken = others.iter().filter_map(|other| other.ipv6_cidr.as_ref());
    if taken.any(|block| block.cidr.overlaps(&cidr)) {
        return Err(create::conflict(cidr));
    }
    Ok(CidrAssociation { id: call.new_id("subnet-cidr-assoc"), cidr })
}

pub(super) fn associate_subnet_cidr_block(
    call: &mut Call<'_>,
    input: api::AssociateSubnetCidrBlockRequest,
) -> Result<api::AssociateSubnetCidrBlockResult, Error> {
    let found = find_subnet(call, &input.subnet_id.unwrap_or_default())?;
    let text = input.ipv6_cidr_block.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Error::missing_parameter("ipv6CidrBlock"))?;
    let vpc = vpc::find_vpc(call, &found.vpc_id)?;
    let mut others = call.get_all::<Subnet>(&ID.key(call, ""))?;
    others.retain(|other| other.vpc_id == vpc.id);
    let association = association(call, &vpc, &others, &text)?;
    if let Some(block) = &found.ipv6_cidr {
        return Err(Error::client(
            "SubnetIpv6CidrBlockLimitExceeded",
            format!(
                "The subnet '{}' has met its maximum number of allowed IPv6 CIDRs: 1 ({})",
                found.id, block.cidr
            ),
        ));
    }
    let shown = api::SubnetIpv6CidrBlockAssociation {
        ipv6_cidr_block_state: state("associating"),
        ..to_model(&association)
    };
    let subnet = Subnet { ipv6_cidr: Some(association), ..Subnet::clone(&found) };
    call.put(&ID.key(call, &subnet.id), subnet);
    Ok(api::AssociateSubnetCidrBlockResult {
        ipv6_cidr_block_association: Some(shown),
        subnet_id: Some(found.id.clone()),
    })
}

pub(super) fn disassociate_subnet_cidr_block(
    call: &mut Call<'_>,
    input: api::DisassociateSubnetCidrBlockRequest,
) -> Result<api::DisassociateSubnetCidrBlockResult, Error> {
    let id = input.association_id.unwrap_or_default();
    if !base::id::is_valid("subnet-cidr-assoc", &id) {
        return Err(Error::client(
            "InvalidSubnetCidrBlockAssociationID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"subnet-cidr-assoc-...\")"),
        ));
    }
    let missing = || {
        Error::client(
            "InvalidSubnetCidrBlockAssociationID.NotFound",
            format!("The subnet CIDR block with association ID '{id}' does not exist"),
        )
    };
    let all = call.scan::<Subnet>(&ID.key(call, ""))?;
    let named = |subnet: &Arc<Subnet>| subnet.ipv6_cidr.as_ref().is_some_and(|b| b.id == id);
    let holder = all.into_iter().find(named).ok_or_else(missing)?;
    let mut subnet = Subnet::clone(&*find_subnet(call, &holder.id)?);
    let block = subnet.ipv6_cidr.take().filter(|block| block.id == id).ok_or_else(missing)?;
    if delete::is_used(call, &subnet, block.cidr.into())? {
        return Err(Error::client(
            "InvalidCidrBlock.InUse",
            format!(
                "The subnet {} currently has a network interface with an address of CIDR block {}",
                subnet.id, block.cidr
            ),
        ));
    }
    subnet.assign_ipv6_address_on_creation = false;
    subnet.reservations.retain(|reservation| !reservation.cidr.overlaps(&block.cidr.into()));
    let subnet = call.put(&ID.key(call, &subnet.id), subnet);
    Ok(api::DisassociateSubnetCidrBlockResult {
        ipv6_cidr_block_association: Some(api::SubnetIpv6CidrBlockAssociation {
            ipv6_cidr_block_state: state("disassociating"),
            ..to_model(&block)
        }),
        subnet_id: Some(subnet.id.clone()),
    })
}
