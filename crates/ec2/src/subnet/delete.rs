//! DeleteSubnet.

use super::{ID, create, find_subnet};
use crate::record::{NetworkAcl, RouteTable, Subnet, key};
use base::Cidr;
use model::ec2 as api;
use service::{Call, Error};
use std::net::IpAddr;

pub(super) fn delete_subnet(
    call: &mut Call<'_>,
    input: api::DeleteSubnetRequest,
) -> Result<wire::Empty, Error> {
    let subnet = find_subnet(call, &input.subnet_id.unwrap_or_default())?;
    if is_used(call, &subnet, subnet.cidr.into())? {
        return Err(Error::client(
            "DependencyViolation",
            format!("The subnet '{}' has dependencies and cannot be deleted.", subnet.id),
        ));
    }
    let at = key::of(call.region, key::NETWORK_ACL, call.account(), &subnet.network_acl_id);
    if let Some(acl) = call.get::<NetworkAcl>(&at)? {
        let mut acl = NetworkAcl::clone(&acl);
        acl.associations.retain(|association| association.subnet_id != subnet.id);
        call.put(&at, acl);
    }
    if let Some(id) = &subnet.route_table_id {
        let at = key::of(call.region, key::ROUTE_TABLE, call.account(), id);
        if let Some(table) = call.get::<RouteTable>(&at)? {
            let mut table = RouteTable::clone(&table);
            table.associations.retain(|association| association.subnet_id != subnet.id);
            call.put(&at, table);
        }
    }
    crate::vpc::delete_flow_logs(call, &subnet.id)?;
    call.delete(&ID.key(call, &subnet.id));
    Ok(wire::Empty)
}

/// Whether an interface has an address in a block of the subnet; the commit depends on it. Every
/// interface has an IPv4 address, and every address is claimed.
pub(super) fn is_used(call: &mut Call<'_>, subnet: &Subnet, block: Cidr) -> Result<bool, Error> {
    let prefix = create::claims(call, &subnet.vpc_id);
    // What a claim says is of no interest here: for the dependency alone.
    call.get_all::<serde_json::Value>(&prefix)?;
    let snapshot = call.snapshot();
    Ok(snapshot
        .scan(&prefix)
        .any(|claim| address(claim.key(), &prefix).is_some_and(|address| block.contains(address))))
}

/// The address that a claim is for; of a prefix, the first.
pub(super) fn address(claim: &str, prefix: &str) -> Option<IpAddr> {
    claim.strip_prefix(prefix)?.split('/').next()?.parse().ok()
}
