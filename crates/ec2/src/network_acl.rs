//! Network ACLs: stateless rules at the border of a subnet (VPC User Guide, "Network ACLs").
//!
//! An entry is unique by direction and number; packets meet them in that order, and what none
//! takes is denied. That last entry is shown, with a number above all others, and cannot be
//! changed. Every subnet has one ACL; the relation stands in both records.

mod describe;
mod entry;

use crate::lookup::Id;
use crate::record::{Association, NetworkAcl, Subnet, key};
use crate::{subnet, tag, vpc};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most ACLs of a VPC (VPC User Guide, "Amazon VPC quotas").
const MAX_ACLS: usize = 200;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::CreateNetworkAcl, create_network_acl, Write, ["TagSpecifications.*", "VpcId"]),
    operation!(op::DeleteNetworkAcl, delete_network_acl, Write, ["NetworkAclId"]),
    operation!(
        op::DescribeNetworkAcls,
        describe::describe_network_acls,
        Read,
        ["Filters.*", "MaxResults", "NetworkAclIds", "NextToken"]
    ),
    operation!(
        op::CreateNetworkAclEntry,
        entry::create_network_acl_entry,
        Write,
        [
            "CidrBlock",
            "Egress",
            "IcmpTypeCode.*",
            "Ipv6CidrBlock",
            "NetworkAclId",
            "PortRange.*",
            "Protocol",
            "RuleAction",
            "RuleNumber",
        ]
    ),
    operation!(
        op::ReplaceNetworkAclEntry,
        entry::replace_network_acl_entry,
        Write,
        [
            "CidrBlock",
            "Egress",
            "IcmpTypeCode.*",
            "Ipv6CidrBlock",
            "NetworkAclId",
            "PortRange.*",
            "Protocol",
            "RuleAction",
            "RuleNumber",
        ]
    ),
    operation!(
        op::DeleteNetworkAclEntry,
        entry::delete_network_acl_entry,
        Write,
        ["Egress", "NetworkAclId", "RuleNumber"]
    ),
    operation!(
        op::ReplaceNetworkAclAssociation,
        replace_network_acl_association,
        Write,
        ["AssociationId", "NetworkAclId"]
    ),
];

pub(crate) const ID: Id = Id {
    prefix: "acl",
    kind: key::NETWORK_ACL,
    malformed: "InvalidNetworkAclId.Malformed",
    missing: "InvalidNetworkAclID.NotFound",
    noun: "networkAcl ID",
};

fn find(call: &mut Call<'_>, id: &str) -> Result<Arc<NetworkAcl>, Error> {
    ID.find(call, id)
}

fn create_network_acl(
    call: &mut Call<'_>,
    input: api::CreateNetworkAclRequest,
) -> Result<api::CreateNetworkAclResult, Error> {
    let vpc = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let kind = "network-acl";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), kind, &[kind])?;
    let all = call.get_all::<NetworkAcl>(&ID.key(call, ""))?;
    if all.iter().filter(|acl| acl.vpc_id == vpc.id).count() >= MAX_ACLS {
        return Err(Error::client(
            "NetworkAclLimitExceeded",
            "The maximum number of network acls has been reached.",
        ));
    }
    let acl = NetworkAcl {
        v: 1,
        id: call.new_id("acl"),
        vpc_id: vpc.id.clone(),
        is_default: false,
        entries: Vec::new(),
        associations: Vec::new(),
        tags,
    };
    let acl = call.put(&ID.key(call, &acl.id), acl);
    let has_ipv6 = !vpc.ipv6_cidrs.is_empty();
    Ok(api::CreateNetworkAclResult {
        client_token: input.client_token,
        network_acl: Some(describe::to_model(call.account(), &acl, has_ipv6)),
    })
}

fn delete_network_acl(
    call: &mut Call<'_>,
    input: api::DeleteNetworkAclRequest,
) -> Result<wire::Empty, Error> {
    let acl = find(call, &input.network_acl_id.unwrap_or_default())?;
    if acl.is_default {
        return Err(Error::invalid_parameter_value(format!(
            "cannot delete default network ACL {}",
            acl.id
        )));
    }
    if !acl.associations.is_empty() {
        return Err(Error::client(
            "DependencyViolation",
            format!("The networkAcl '{}' has dependencies and cannot be deleted.", acl.id),
        ));
    }
    call.delete(&ID.key(call, &acl.id));
    Ok(wire::Empty)
}

fn replace_network_acl_association(
    call: &mut Call<'_>,
    input: api::ReplaceNetworkAclAssociationRequest,
) -> Result<api::ReplaceNetworkAclAssociationResult, Error> {
    let id = input.association_id.unwrap_or_default();
    if !base::id::is_valid("aclassoc", &id) {
        return Err(Error::client(
            "InvalidAssociationID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"aclassoc-...\")"),
        ));
    }
    let missing = || {
        Error::client(
            "InvalidAssociationID.NotFound",
            format!("The association ID '{id}' does not exist"),
        )
    };
    let new = find(call, &input.network_acl_id.unwrap_or_default())?;
    let place = |acl: &NetworkAcl| acl.associations.iter().position(|it| it.id == id);
    let all = call.scan::<NetworkAcl>(&ID.key(call, ""))?;
    let holder = all.into_iter().find(|acl| place(acl).is_some()).ok_or_else(missing)?;
    let mut old = NetworkAcl::clone(&*find(call, &holder.id)?);
    let association = old.associations.remove(place(&old).ok_or_else(missing)?);
    if old.vpc_id != new.vpc_id {
        return Err(Error::invalid_parameter_value(format!(
            "Network ACL {} and subnet {} belong to different networks",
            new.id, association.subnet_id
        )));
    }
    let of_subnet = subnet::find_subnet(call, &association.subnet_id)?;
    call.put(&ID.key(call, &old.id), old);
    // The same ACL may be named again: read after it was staged.
    let mut new = NetworkAcl::clone(&*find(call, &new.id)?);
    let new_id = call.new_id("aclassoc");
    new.associations.push(Association { id: new_id.clone(), subnet_id: association.subnet_id });
    let of_subnet = Subnet { network_acl_id: new.id.clone(), ..Subnet::clone(&of_subnet) };
    call.put(&subnet::ID.key(call, &of_subnet.id), of_subnet);
    call.put(&ID.key(call, &new.id), new);
    Ok(api::ReplaceNetworkAclAssociationResult { new_association_id: Some(new_id) })
}

#[cfg(test)]
mod tests;
