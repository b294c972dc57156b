//! Rules that name groups of peered VPCs, seen from both sides, and those that have gone stale.
//!
//! A rule is stale when its connection is not active or its group is gone (VPC Peering Guide,
//! "Update your security groups to reference peer security groups").

use super::{check_id, key_of, not_found};
use crate::record::{PeeringSide, RulePeer, SecurityGroup, SecurityGroupRule, VpcPeering, key};
use crate::vpc;
use model::ec2 as api;
use service::page::page;
use service::{Call, Error};
use std::collections::BTreeSet;

/// The active connection between a VPC of the caller and one of `owner`, both in this region: a
/// rule cannot name groups of another region. `wanted` is the one that the caller names.
pub(super) fn connection(
    call: &Call<'_>,
    vpc_id: &str,
    owner: &str,
    other_vpc_id: &str,
    wanted: Option<String>,
) -> Result<Option<String>, Error> {
    let is = |side: &PeeringSide, account: &str, vpc_id: &str| {
        side.region == call.region && side.account == account && side.vpc_id == vpc_id
    };
    let peerings = call.scan::<VpcPeering>(&key::vpc_peering(""))?;
    let found = peerings.iter().find(|peering| {
        let (one, other) = (&peering.requester, &peering.accepter);
        peering.status == "active"
            && wanted.as_ref().is_none_or(|id| *id == peering.id)
            && [(one, other), (other, one)].iter().any(|(own, theirs)| {
                is(own, call.account(), vpc_id) && is(theirs, owner, other_vpc_id)
            })
    });
    Ok(found.map(|peering| peering.id.clone()))
}

/// The status of a connection as rules show it.
pub(super) fn status(call: &Call<'_>, peering_id: &str) -> Result<String, Error> {
    let found = call.peek::<VpcPeering>(&key::vpc_peering(peering_id))?;
    Ok(found.map_or_else(|| "deleted".to_owned(), |peering| peering.status.clone()))
}

pub(super) fn describe_security_group_references(
    call: &mut Call<'_>,
    input: api::DescribeSecurityGroupReferencesRequest,
) -> Result<api::DescribeSecurityGroupReferencesResult, Error> {
    let ids = input.group_id.unwrap_or_default();
    for id in &ids {
        check_id(id)?;
        call.peek::<SecurityGroup>(&key_of(call, id))?.ok_or_else(|| not_found(id))?;
    }
    // Whoever names them.
    let groups = format!("/{}/{}/", call.region, key::SECURITY_GROUP);
    let mut found: BTreeSet<(String, String, String)> = BTreeSet::new();
    for group in call.scan::<SecurityGroup>(&groups)? {
        for rule in &group.rules {
            if let RulePeer::PeerGroup { account, peering_id, group_id, .. } = &rule.peer
                && account == call.account()
                && ids.contains(group_id)
            {
                found.insert((group_id.clone(), group.vpc_id.clone(), peering_id.clone()));
            }
        }
    }
    let shown =
        found.into_iter().map(|(group_id, vpc_id, peering_id)| api::SecurityGroupReference {
            group_id: Some(group_id),
            referencing_vpc_id: Some(vpc_id),
            vpc_peering_connection_id: Some(peering_id),
            ..Default::default()
        });
    Ok(api::DescribeSecurityGroupReferencesResult {
        security_group_reference_set: Some(shown.collect()),
    })
}

/// The pair of a rule that is stale.
fn stale(call: &Call<'_>, rule: &SecurityGroupRule) -> Result<Option<api::UserIdGroupPair>, Error> {
    let RulePeer::PeerGroup { account, vpc_id, peering_id, group_id } = &rule.peer else {
        return Ok(None);
    };
    let status = status(call, peering_id)?;
    let at = key::of(call.region, key::SECURITY_GROUP, account, group_id);
    if status == "active" && call.peek::<SecurityGroup>(&at)?.is_some() {
        return Ok(None);
    }
    Ok(Some(api::UserIdGroupPair {
        description: rule.description.clone(),
        group_id: Some(group_id.clone()),
        peering_status: Some(status),
        user_id: Some(account.clone()),
        vpc_id: Some(vpc_id.clone()),
        vpc_peering_connection_id: Some(peering_id.clone()),
        ..Default::default()
    }))
}

fn stale_permissions(
    call: &Call<'_>,
    group: &SecurityGroup,
    egress: bool,
) -> Result<Vec<api::StaleIpPermission>, Error> {
    let mut found = Vec::new();
    for rule in group.rules.iter().filter(|rule| rule.egress == egress) {
        if let Some(pair) = stale(call, rule)? {
            found.push(api::StaleIpPermission {
                from_port: rule.from_port,
                ip_protocol: Some(rule.protocol.clone()),
                ip_ranges: Some(Vec::new()),
                prefix_list_ids: Some(Vec::new()),
                to_port: rule.to_port,
                user_id_group_pairs: Some(vec![pair]),
            });
        }
    }
    Ok(found)
}

pub(super) fn describe_stale_security_groups(
    call: &mut Call<'_>,
    input: api::DescribeStaleSecurityGroupsRequest,
) -> Result<api::DescribeStaleSecurityGroupsResult, Error> {
    let vpc = vpc::find_vpc(call, input.vpc_id.as_deref().unwrap_or_default())?;
    let mut found = Vec::new();
    for group in call.scan::<SecurityGroup>(&key_of(call, ""))? {
        if group.vpc_id != vpc.id {
            continue;
        }
        let ingress = stale_permissions(call, &group, false)?;
        let egress = stale_permissions(call, &group, true)?;
        if !ingress.is_empty() || !egress.is_empty() {
            found.push((group, ingress, egress));
        }
    }
    let page = page(
        found,
        |(group, ..)| &group.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=255,
    )?;
    let shown = page.items.into_iter().map(|(group, ingress, egress)| api::StaleSecurityGroup {
        description: Some(group.description.clone()),
        group_id: Some(group.id.clone()),
        group_name: Some(group.name.clone()),
        stale_ip_permissions: Some(ingress),
        stale_ip_permissions_egress: Some(egress),
        vpc_id: Some(group.vpc_id.clone()),
    });
    Ok(api::DescribeStaleSecurityGroupsResult {
        stale_security_group_set: Some(shown.collect()),
        next_token: page.next_token,
    })
}
