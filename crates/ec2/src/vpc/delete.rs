//! DeleteVpc.

use super::ID;
use crate::record::{
    EgressOnlyInternetGateway, FlowLog, NatGateway, NetworkAcl, Progress, RouteTable,
    SecurityGroup, Subnet, TransitGatewayAttachment, VpcEndpoint, VpcPeering, key,
};
use crate::{security_group, vpc};
use base::Ipv6Cidr;
use model::ec2 as api;
use service::{Call, Error};

pub(super) fn delete_vpc(
    call: &mut Call<'_>,
    input: api::DeleteVpcRequest,
) -> Result<wire::Empty, Error> {
    let vpc = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    if vpc.internet_gateway_id.is_some() || has_dependents(call, &vpc.id)? {
        return Err(Error::client(
            "DependencyViolation",
            format!("The vpc '{}' has dependencies and cannot be deleted.", vpc.id),
        ));
    }
    let (region, account) = (call.region, call.account());
    call.delete(&key::of(region, key::ROUTE_TABLE, account, &vpc.main_route_table_id));
    call.delete(&key::of(region, key::NETWORK_ACL, account, &vpc.default_network_acl_id));
    security_group::delete_default(call, &vpc.id, &vpc.default_group_id);
    for block in &vpc.ipv6_cidrs {
        release_ipv6(call, block.cidr);
    }
    delete_flow_logs(call, &vpc.id)?;
    call.delete(&ID.key(call, &vpc.id));
    Ok(wire::Empty)
}

pub(super) fn release_ipv6(call: &mut Call<'_>, cidr: Ipv6Cidr) {
    call.delete(&key::ipv6_block(cidr));
}

/// Flow logs go with what they are about.
pub(crate) fn delete_flow_logs(call: &mut Call<'_>, resource_id: &str) -> Result<(), Error> {
    let prefix = key::of(call.region, key::FLOW_LOG, call.account(), "");
    for log in call.scan::<FlowLog>(&prefix)? {
        if log.resource_id == resource_id {
            call.delete(&format!("{prefix}{}", log.id));
        }
    }
    Ok(())
}

/// Whether something of its user's is in the VPC. Interfaces and what has them need a subnet.
fn has_dependents(call: &mut Call<'_>, id: &str) -> Result<bool, Error> {
    let (region, account) = (call.region, call.account());
    let all = |kind| key::of(region, kind, account, "");
    let here = |vpc_id: &str| vpc_id == id;
    let there = |state| !matches!(state, Progress::Deleted | Progress::Failed);
    Ok(call.get_all::<Subnet>(&all(key::SUBNET))?.iter().any(|it| here(&it.vpc_id))
        || call
            .get_all::<SecurityGroup>(&all(key::SECURITY_GROUP))?
            .iter()
            .any(|it| here(&it.vpc_id) && it.name != "default")
        || call
            .get_all::<RouteTable>(&all(key::ROUTE_TABLE))?
            .iter()
            .any(|it| here(&it.vpc_id) && it.main_association_id.is_none())
        || call
            .get_all::<NetworkAcl>(&all(key::NETWORK_ACL))?
            .iter()
            .any(|it| here(&it.vpc_id) && !it.is_default)
        || call
            .get_all::<EgressOnlyInternetGateway>(&all(key::EGRESS_ONLY_INTERNET_GATEWAY))?
            .iter()
            .any(|it| here(&it.vpc_id))
        || call
            .get_all::<NatGateway>(&all(key::NAT_GATEWAY))?
            .iter()
            .any(|it| here(&it.vpc_id) && there(it.state))
        || call
            .get_all::<VpcEndpoint>(&all(key::VPC_ENDPOINT))?
            .iter()
            .any(|it| here(&it.vpc_id) && there(it.state))
        || call
            .get_all::<TransitGatewayAttachment>(&all(key::TRANSIT_GATEWAY_ATTACHMENT))?
            .iter()
            .any(|it| here(&it.resource_id) && there(it.state))
        || call.get_all::<VpcPeering>(&key::vpc_peering(""))?.iter().any(|it| {
            let sides = [&it.requester, &it.accepter];
            let ours = sides
                .iter()
                .any(|side| here(&side.vpc_id) && side.region == region && side.account == account);
            ours && match it.status.as_str() {
                "provisioning" | "active" => true,
                // What others ask for keeps nobody from deleting what is his.
                "initiating-request" | "pending-acceptance" => it.requester.account == account,
                _ => false,
            }
        }))
}
