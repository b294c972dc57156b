//! Changing a group's rules: authorize, revoke, modify, describe anew.

use super::rule::{self, Flat, Use, Wanted};
use super::{find, key_of, meant};
use crate::record::{RulePeer, SecurityGroup, SecurityGroupRule};
use crate::{prefix_list, tag};
use model::ec2 as api;
use service::{Call, Error};
use std::sync::Arc;

/// Most rules of a group in one direction, for IPv4 and for IPv6 each (VPC User Guide, "Amazon VPC
/// quotas").
const MAX_RULES: u32 = 60;

/// The flat members of a request: the two requests that have them have the same.
macro_rules! flat {
    ($input:ident) => {
        Flat {
            protocol: $input.ip_protocol,
            from_port: $input.from_port,
            to_port: $input.to_port,
            cidr: $input.cidr_ip,
            source_name: $input.source_security_group_name,
            source_owner: $input.source_security_group_owner_id,
        }
    };
}

pub(super) fn authorize_ingress(
    call: &mut Call<'_>,
    input: api::AuthorizeSecurityGroupIngressRequest,
) -> Result<api::AuthorizeSecurityGroupIngressResult, Error> {
    let group = meant(call, input.group_id.as_deref(), input.group_name.as_deref())?;
    let flat = flat!(input);
    let wanted = rule::from_request(call, &group, input.ip_permissions, flat, Use::Add)?;
    let rules = authorize(call, &group, false, wanted, input.tag_specifications.as_deref())?;
    Ok(api::AuthorizeSecurityGroupIngressResult {
        return_: Some(true),
        security_group_rules: Some(rules),
    })
}

pub(super) fn authorize_egress(
    call: &mut Call<'_>,
    input: api::AuthorizeSecurityGroupEgressRequest,
) -> Result<api::AuthorizeSecurityGroupEgressResult, Error> {
    let group = find(call, input.group_id.as_deref().unwrap_or_default())?;
    let wanted = rule::from_request(call, &group, input.ip_permissions, Flat::default(), Use::Add)?;
    let rules = authorize(call, &group, true, wanted, input.tag_specifications.as_deref())?;
    Ok(api::AuthorizeSecurityGroupEgressResult {
        return_: Some(true),
        security_group_rules: Some(rules),
    })
}

fn authorize(
    call: &mut Call<'_>,
    group: &Arc<SecurityGroup>,
    egress: bool,
    wanted: Vec<Wanted>,
    specifications: Option<&[api::TagSpecification]>,
) -> Result<Vec<api::SecurityGroupRule>, Error> {
    const TYPE: &str = "security-group-rule";
    let tags = tag::from_specifications(specifications, TYPE, &[TYPE])?;
    let mut changed = SecurityGroup::clone(group);
    let mut shown = Vec::new();
    for (new, description) in wanted {
        if changed.rules.iter().any(|rule| rule.egress == egress && new.is(rule)) {
            return Err(duplicate(&new));
        }
        let rule = new.into_rule(call, egress, description, tags.clone());
        shown.push(rule::to_model(call, group, &rule)?);
        changed.rules.push(rule);
    }
    check_count(call, &changed, egress)?;
    call.put(&key_of(call, &group.id), changed);
    Ok(shown)
}

fn duplicate(rule: &rule::Match) -> Error {
    Error::client(
        "InvalidPermission.Duplicate",
        format!("the specified rule \"{}\" already exists", rule.describe()),
    )
}

/// Checks that a group has no more rules of a direction than it may, each prefix list counted as its
/// most entries (also a list that is staged).
///
/// # Errors
/// `RulesPerSecurityGroupLimitExceeded`, or a prefix list that is gone.
pub(crate) fn check_count(
    call: &mut Call<'_>,
    group: &SecurityGroup,
    egress: bool,
) -> Result<(), Error> {
    let (mut ipv4, mut ipv6) = (0, 0);
    for rule in group.rules.iter().filter(|rule| rule.egress == egress) {
        match &rule.peer {
            RulePeer::Ipv4(_) => ipv4 += 1,
            RulePeer::Ipv6(_) => ipv6 += 1,
            // A reference to a group counts for both.
            RulePeer::Group(_) | RulePeer::PeerGroup { .. } => {
                ipv4 += 1;
                ipv6 += 1;
            }
            // As many as it may have entries (VPC User Guide, "Prefix list quotas").
            RulePeer::PrefixList(id) => {
                let list = prefix_list::find(call, id)?;
                *(if list.ipv6 { &mut ipv6 } else { &mut ipv4 }) += list.max_entries;
            }
        }
    }
    if ipv4.max(ipv6) > MAX_RULES {
        return Err(Error::client(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        ));
    }
    Ok(())
}

pub(super) fn revoke_ingress(
    call: &mut Call<'_>,
    input: api::RevokeSecurityGroupIngressRequest,
) -> Result<api::RevokeSecurityGroupIngressResult, Error> {
    let group = meant(call, input.group_id.as_deref(), input.group_name.as_deref())?;
    let flat = flat!(input);
    let ids = input.security_group_rule_ids.unwrap_or_default();
    let revoked = revoke(call, &group, false, ids, input.ip_permissions, flat)?;
    Ok(api::RevokeSecurityGroupIngressResult {
        return_: Some(true),
        revoked_security_group_rules: Some(revoked),
        ..Default::default()
    })
}

pub(super) fn revoke_egress(
    call: &mut Call<'_>,
    input: api::RevokeSecurityGroupEgressRequest,
) -> Result<api::RevokeSecurityGroupEgressResult, Error> {
    let group = find(call, input.group_id.as_deref().unwrap_or_default())?;
    let ids = input.security_group_rule_ids.unwrap_or_default();
    let revoked = revoke(call, &group, true, ids, input.ip_permissions, Flat::default())?;
    Ok(api::RevokeSecurityGroupEgressResult {
        return_: Some(true),
        revoked_security_group_rules: Some(revoked),
        ..Default::default()
    })
}

fn revoke(
    call: &mut Call<'_>,
    group: &Arc<SecurityGroup>,
    egress: bool,
    ids: Vec<String>,
    permissions: Option<Vec<api::IpPermission>>,
    flat: Flat,
) -> Result<Vec<api::RevokedSecurityGroupRule>, Error> {
    let mut changed = SecurityGroup::clone(group);
    let mut revoked = Vec::new();
    if ids.is_empty() {
        for (gone, _) in rule::from_request(call, group, permissions, flat, Use::Find)? {
            let index = position(&changed, egress, |rule| gone.is(rule)).ok_or_else(unknown)?;
            revoked.push(rule::to_revoked(group, &changed.rules.remove(index)));
        }
    } else {
        if permissions.is_some_and(|permissions| !permissions.is_empty()) {
            return Err(Error::invalid_parameter_combination(
                "Only one of 'ipPermissions' or 'securityGroupRuleIds' may be provided.",
            ));
        }
        for id in ids {
            let index =
                position(&changed, egress, |rule| rule.id == id).ok_or_else(|| no_rule(&id))?;
            revoked.push(rule::to_revoked(group, &changed.rules.remove(index)));
        }
    }
    call.put(&key_of(call, &group.id), changed);
    Ok(revoked)
}

fn position(
    group: &SecurityGroup,
    egress: bool,
    is: impl Fn(&SecurityGroupRule) -> bool,
) -> Option<usize> {
    group.rules.iter().position(|rule| rule.egress == egress && is(rule))
}

fn unknown() -> Error {
    Error::client(
        "InvalidPermission.NotFound",
        "The specified rule does not exist in this security group.",
    )
}

/// The error for a rule id that a group does not have.
pub(super) fn no_rule(id: &str) -> Error {
    Error::client(
        "InvalidSecurityGroupRuleId.NotFound",
        format!("The security group rule ID '{id}' does not exist"),
    )
}

pub(super) fn modify_rules(
    call: &mut Call<'_>,
    input: api::ModifySecurityGroupRulesRequest,
) -> Result<api::ModifySecurityGroupRulesResult, Error> {
    let group = find(call, input.group_id.as_deref().unwrap_or_default())?;
    let mut changed = SecurityGroup::clone(&group);
    let updates = input.security_group_rules.unwrap_or_default();
    if updates.is_empty() {
        return Err(Error::missing_parameter("SecurityGroupRules"));
    }
    for update in updates {
        let id = update.security_group_rule_id.unwrap_or_default();
        let index =
            changed.rules.iter().position(|rule| rule.id == id).ok_or_else(|| no_rule(&id))?;
        let Some(request) = update.security_group_rule else { continue };
        let (new, description) = rule::from_rule_request(call, &group, request)?;
        let egress = changed.rules[index].egress;
        let twice =
            changed.rules.iter().any(|rule| rule.id != id && rule.egress == egress && new.is(rule));
        if twice {
            return Err(duplicate(&new));
        }
        let rule = &mut changed.rules[index];
        rule.protocol = new.protocol;
        rule.from_port = new.from_port;
        rule.to_port = new.to_port;
        rule.peer = new.peer;
        rule.description = description;
    }
    check_count(call, &changed, false)?;
    check_count(call, &changed, true)?;
    call.put(&key_of(call, &group.id), changed);
    Ok(api::ModifySecurityGroupRulesResult { return_: Some(true) })
}

pub(super) fn update_descriptions_ingress(
    call: &mut Call<'_>,
    input: api::UpdateSecurityGroupRuleDescriptionsIngressRequest,
) -> Result<api::UpdateSecurityGroupRuleDescriptionsIngressResult, Error> {
    let group = meant(call, input.group_id.as_deref(), input.group_name.as_deref())?;
    let (permissions, texts) = (input.ip_permissions, input.security_group_rule_descriptions);
    update_descriptions(call, &group, false, permissions, texts)?;
    Ok(api::UpdateSecurityGroupRuleDescriptionsIngressResult { return_: Some(true) })
}

pub(super) fn update_descriptions_egress(
    call: &mut Call<'_>,
    input: api::UpdateSecurityGroupRuleDescriptionsEgressRequest,
) -> Result<api::UpdateSecurityGroupRuleDescriptionsEgressResult, Error> {
    let group = meant(call, input.group_id.as_deref(), input.group_name.as_deref())?;
    let (permissions, texts) = (input.ip_permissions, input.security_group_rule_descriptions);
    update_descriptions(call, &group, true, permissions, texts)?;
    Ok(api::UpdateSecurityGroupRuleDescriptionsEgressResult { return_: Some(true) })
}

/// Gives rules, named by what they match or by id, new descriptions; none takes the old one away.
fn update_descriptions(
    call: &mut Call<'_>,
    group: &Arc<SecurityGroup>,
    egress: bool,
    permissions: Option<Vec<api::IpPermission>>,
    texts: Option<Vec<api::SecurityGroupRuleDescription>>,
) -> Result<(), Error> {
    let texts = texts.unwrap_or_default();
    let permissions = permissions.unwrap_or_default();
    if texts.is_empty() == permissions.is_empty() {
        return Err(Error::invalid_parameter_combination(
            "Exactly one of 'ipPermissions' and 'securityGroupRuleDescriptions' must be provided.",
        ));
    }
    let mut changed = SecurityGroup::clone(group);
    for (named, text) in rule::from_permissions(call, group, permissions, Use::Find)? {
        let index = position(&changed, egress, |rule| named.is(rule)).ok_or_else(unknown)?;
        changed.rules[index].description = text;
    }
    for text in texts {
        let id = text.security_group_rule_id.unwrap_or_default();
        let index = position(&changed, egress, |rule| rule.id == id).ok_or_else(|| no_rule(&id))?;
        changed.rules[index].description = rule::description(text.description)?;
    }
    call.put(&key_of(call, &group.id), changed);
    Ok(())
}
