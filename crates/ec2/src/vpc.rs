//! VPCs: made, changed, described and deleted.
//!
//! A VPC comes with a main route table, a default network ACL and a default security group, which
//! go with it. Everything else in it is its user's, and keeps it from being deleted.
//!
//! Not here: IPAM pools, address pools of one's own, encryption controls, dedicated tenancy; requests
//! that name them are refused.

mod attribute;
mod block;
mod delete;
mod describe;

pub(crate) use block::{parse, parse_ipv6};
pub(crate) use delete::delete_flow_logs;

use crate::lookup::Id;
use crate::record::{NetworkAcl, NetworkAclEntry, RouteTable, Tags, Vpc, key};
use crate::{region, tag};
use base::Ipv4Cidr;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most VPCs in a region (VPC User Guide, "Amazon VPC quotas").
const MAX_VPCS: usize = 5;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateVpc,
        create_vpc,
        Write,
        [
            "AmazonProvidedIpv6CidrBlock",
            "CidrBlock",
            "InstanceTenancy",
            "Ipv6CidrBlockNetworkBorderGroup",
            "TagSpecifications.*",
        ]
    ),
    operation!(op::CreateDefaultVpc, create_default_vpc, Write, []),
    operation!(op::DeleteVpc, delete::delete_vpc, Write, ["VpcId"]),
    operation!(
        op::DescribeVpcs,
        describe::describe_vpcs,
        Read,
        ["Filters.*", "VpcIds", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribeVpcAttribute,
        attribute::describe_vpc_attribute,
        Read,
        ["Attribute", "VpcId"]
    ),
    operation!(
        op::ModifyVpcAttribute,
        attribute::modify_vpc_attribute,
        Write,
        [
            "EnableDnsHostnames.Value",
            "EnableDnsSupport.Value",
            "EnableNetworkAddressUsageMetrics.Value",
            "VpcId",
        ]
    ),
    operation!(
        op::ModifyVpcTenancy,
        attribute::modify_vpc_tenancy,
        Write,
        ["InstanceTenancy", "VpcId"]
    ),
    operation!(
        op::AssociateVpcCidrBlock,
        block::associate_vpc_cidr_block,
        Write,
        ["AmazonProvidedIpv6CidrBlock", "CidrBlock", "Ipv6CidrBlockNetworkBorderGroup", "VpcId"]
    ),
    operation!(
        op::DisassociateVpcCidrBlock,
        block::disassociate_vpc_cidr_block,
        Write,
        ["AssociationId"]
    ),
];

pub(crate) const ID: Id = Id {
    prefix: "vpc",
    kind: key::VPC,
    malformed: "InvalidVpcID.Malformed",
    missing: "InvalidVpcID.NotFound",
    noun: "vpc ID",
};

/// The VPC with this id; the commit depends on it.
pub(crate) fn find_vpc(call: &mut Call<'_>, id: &str) -> Result<Arc<Vpc>, Error> {
    ID.find(call, id)
}

/// The region's default VPC.
///
/// # Errors
/// `VPCIdNotSpecified` when there is none.
pub(crate) fn default_vpc(call: &Call<'_>) -> Result<Arc<Vpc>, Error> {
    call.scan::<Vpc>(&ID.key(call, ""))?
        .into_iter()
        .find(|vpc| vpc.is_default)
        .ok_or_else(|| Error::client("VPCIdNotSpecified", "No default VPC for this user"))
}

/// Stages a VPC with what every VPC has: main route table, default network ACL and default security
/// group (VPC User Guide, "VPC basics"). It is not a default VPC; [`Vpc`] may be changed and put
/// again by the same call.
pub(crate) fn stage(call: &mut Call<'_>, cidr: Ipv4Cidr, dhcp_options_id: &str, tags: Tags) -> Vpc {
    let vpc = Vpc {
        v: 2,
        id: call.new_id("vpc"),
        cidr,
        is_default: false,
        dns_support: true,
        dns_hostnames: false,
        address_usage_metrics: false,
        dhcp_options_id: dhcp_options_id.to_owned(),
        cidr_association_id: call.new_id("vpc-cidr-assoc"),
        secondary_cidrs: Vec::new(),
        ipv6_cidrs: Vec::new(),
        default_group_id: call.new_id("sg"),
        main_route_table_id: call.new_id("rtb"),
        default_network_acl_id: call.new_id("acl"),
        internet_gateway_id: None,
        tags,
    };
    stage_tables(call, &vpc);
    crate::security_group::put_default(call, &vpc.id, &vpc.default_group_id);
    call.put(&key::of(call.region, key::VPC, call.account(), &vpc.id), vpc.clone());
    vpc
}

/// Stages the main route table and the default network ACL that a VPC names.
pub(crate) fn stage_tables(call: &mut Call<'_>, vpc: &Vpc) {
    let table = RouteTable {
        v: 1,
        id: vpc.main_route_table_id.clone(),
        vpc_id: vpc.id.clone(),
        main_association_id: Some(call.new_id("rtbassoc")),
        associations: Vec::new(),
        propagating_gateways: Vec::new(),
        routes: Vec::new(),
        tags: Tags::new(),
    };
    let acl = NetworkAcl {
        v: 1,
        id: vpc.default_network_acl_id.clone(),
        vpc_id: vpc.id.clone(),
        is_default: true,
        entries: vec![open(false), open(true)],
        associations: Vec::new(),
        tags: Tags::new(),
    };
    let (region, account) = (call.region, call.account());
    call.put(&key::of(region, key::ROUTE_TABLE, account, &vpc.main_route_table_id), table);
    call.put(&key::of(region, key::NETWORK_ACL, account, &vpc.default_network_acl_id), acl);
}

/// The entry of a default network ACL: everything passes.
fn open(egress: bool) -> NetworkAclEntry {
    NetworkAclEntry {
        number: 100,
        egress,
        allow: true,
        protocol: "-1".to_owned(),
        cidr: Ipv4Cidr::containing([0; 4].into(), 0).into(),
        ports: None,
        icmp: None,
    }
}

/// Every VPC of the account, provided that there is room for one more.
fn all_with_room(call: &mut Call<'_>) -> Result<Vec<Arc<Vpc>>, Error> {
    let all = call.get_all::<Vpc>(&ID.key(call, ""))?;
    if all.len() >= MAX_VPCS {
        return Err(Error::client(
            "VpcLimitExceeded",
            "The maximum number of VPCs has been reached.",
        ));
    }
    Ok(all)
}

fn create_vpc(
    call: &mut Call<'_>,
    input: api::CreateVpcRequest,
) -> Result<api::CreateVpcResult, Error> {
    let text = input.cidr_block.unwrap_or_default();
    if text.is_empty() {
        return Err(Error::missing_parameter("cidrBlock"));
    }
    let cidr = block::parse(&text)?;
    block::check_primary(cidr)?;
    match input.instance_tenancy.as_deref() {
        None | Some("" | "default") => {}
        Some("dedicated") => {
            return Err(Error::unsupported(
                "InstanceTenancy=dedicated is not built in gureum yet.",
            ));
        }
        Some(other) => return Err(attribute::invalid_tenancy(other)),
    }
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), "vpc", &["vpc"])?;
    block::check_border_group(call, input.ipv6_cidr_block_network_border_group.as_deref())?;
    all_with_room(call)?;
    let options = region::default_dhcp_options_id(call)?;
    let mut vpc = stage(call, cidr, &options, tags);
    if input.amazon_provided_ipv6_cidr_block == Some(true) {
        block::add_ipv6(call, &mut vpc)?;
    }
    let vpc = call.put(&ID.key(call, &vpc.id), vpc);
    let mut shown = describe::to_model(call, &vpc);
    shown.state = Some("pending".to_owned());
    for association in shown.ipv6_cidr_block_association_set.iter_mut().flatten() {
        association.ipv6_cidr_block_state = block::state("associating");
    }
    Ok(api::CreateVpcResult { vpc: Some(shown) })
}

fn create_default_vpc(
    call: &mut Call<'_>,
    _: api::CreateDefaultVpcRequest,
) -> Result<api::CreateDefaultVpcResult, Error> {
    let all = call.get_all::<Vpc>(&ID.key(call, ""))?;
    if all.iter().any(|vpc| vpc.is_default) {
        return Err(Error::client(
            "DefaultVpcAlreadyExists",
            "A Default VPC already exists for this account in this region.",
        ));
    }
    all_with_room(call)?;
    let options = region::default_dhcp_options_id(call)?;
    let vpc = region::stage_default_vpc(call, &options)?;
    let mut shown = describe::to_model(call, &vpc);
    shown.state = Some("pending".to_owned());
    Ok(api::CreateDefaultVpcResult { vpc: Some(shown) })
}

#[cfg(test)]
mod tests;
