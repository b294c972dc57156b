//! Describing groups and rules.

use super::change::no_rule;
use super::{arn, check_id, find_by_name, key_of, not_found, rule};
use crate::record::{RulePeer, SecurityGroup, SecurityGroupRule};
use crate::{tag, vpc};
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// What a filter looks at.
struct View {
    account: Rc<str>,
    /// Names of groups by id; empty unless a filter asks for names.
    names: Rc<HashMap<String, String>>,
    group: Arc<SecurityGroup>,
}

/// The texts of one aspect over the rules of one direction.
fn over<'a>(
    view: &'a View,
    egress: bool,
    aspect: impl Fn(&'a SecurityGroupRule) -> Option<Cow<'a, str>>,
) -> Values<'a> {
    view.group.rules.iter().filter(|rule| rule.egress == egress).filter_map(aspect).collect()
}

fn cidr(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    match &rule.peer {
        RulePeer::Ipv4(cidr) => Some(cidr.to_string().into()),
        _ => None,
    }
}

fn cidr_ipv6(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    match &rule.peer {
        RulePeer::Ipv6(cidr) => Some(cidr.to_string().into()),
        _ => None,
    }
}

fn group_id(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    match &rule.peer {
        RulePeer::Group(id) | RulePeer::PeerGroup { group_id: id, .. } => Some(id.as_str().into()),
        _ => None,
    }
}

fn prefix_list_id(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    match &rule.peer {
        RulePeer::PrefixList(id) => Some(id.as_str().into()),
        _ => None,
    }
}

fn from_port(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    rule.from_port.map(|port| port.to_string().into())
}

fn to_port(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    rule.to_port.map(|port| port.to_string().into())
}

fn protocol(rule: &SecurityGroupRule) -> Option<Cow<'_, str>> {
    Some(rule.protocol.as_str().into())
}

fn group_names(view: &View, egress: bool) -> Values<'_> {
    over(view, egress, |rule| match &rule.peer {
        RulePeer::Group(id) => view.names.get(id).map(|name| name.as_str().into()),
        _ => None,
    })
}

fn user_ids(view: &View, egress: bool) -> Values<'_> {
    over(view, egress, |rule| match &rule.peer {
        RulePeer::Group(_) => Some(view.account.as_ref().into()),
        RulePeer::PeerGroup { account, .. } => Some(account.as_str().into()),
        _ => None,
    })
}

const FILTERS: &[Field<View>] = &[
    ("description", |view| vec![view.group.description.as_str().into()]),
    ("egress.ip-permission.cidr", |view| over(view, true, cidr)),
    ("egress.ip-permission.from-port", |view| over(view, true, from_port)),
    ("egress.ip-permission.group-id", |view| over(view, true, group_id)),
    ("egress.ip-permission.group-name", |view| group_names(view, true)),
    ("egress.ip-permission.ipv6-cidr", |view| over(view, true, cidr_ipv6)),
    ("egress.ip-permission.prefix-list-id", |view| over(view, true, prefix_list_id)),
    ("egress.ip-permission.protocol", |view| over(view, true, protocol)),
    ("egress.ip-permission.to-port", |view| over(view, true, to_port)),
    ("egress.ip-permission.user-id", |view| user_ids(view, true)),
    ("group-id", |view| vec![view.group.id.as_str().into()]),
    ("group-name", |view| vec![view.group.name.as_str().into()]),
    ("ip-permission.cidr", |view| over(view, false, cidr)),
    ("ip-permission.from-port", |view| over(view, false, from_port)),
    ("ip-permission.group-id", |view| over(view, false, group_id)),
    ("ip-permission.group-name", |view| group_names(view, false)),
    ("ip-permission.ipv6-cidr", |view| over(view, false, cidr_ipv6)),
    ("ip-permission.prefix-list-id", |view| over(view, false, prefix_list_id)),
    ("ip-permission.protocol", |view| over(view, false, protocol)),
    ("ip-permission.to-port", |view| over(view, false, to_port)),
    ("ip-permission.user-id", |view| user_ids(view, false)),
    ("owner-id", |view| vec![view.account.as_ref().into()]),
    ("vpc-id", |view| vec![view.group.vpc_id.as_str().into()]),
];

pub(super) fn describe_security_groups(
    call: &mut Call<'_>,
    input: api::DescribeSecurityGroupsRequest,
) -> Result<api::DescribeSecurityGroupsResult, Error> {
    let requested = crate::filters(input.filters);
    let by_name = requested.iter().any(|f| f.name.ends_with("ip-permission.group-name"));
    let filters = Filters::new(requested, FILTERS)?;
    let ids = input.group_ids.unwrap_or_default();
    let names = input.group_names.unwrap_or_default();
    let groups = if ids.is_empty() && names.is_empty() {
        match filters.exact("group-id") {
            Some(ids) => existing(call, ids)?,
            None => call.scan::<SecurityGroup>(&key_of(call, ""))?,
        }
    } else {
        named(call, &ids, &names)?
    };
    let account: Rc<str> = call.account().into();
    let names_of_groups = Rc::new(if by_name { names_by_id(call)? } else { HashMap::new() });
    let views: Vec<View> = groups
        .into_iter()
        .map(|group| View {
            account: Rc::clone(&account),
            names: Rc::clone(&names_of_groups),
            group,
        })
        .filter(|view| filters.accept(view, &view.group.tags))
        .collect();
    let page = page(
        views,
        |view| &view.group.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page
        .items
        .iter()
        .map(|view| {
            Ok(api::SecurityGroup {
                description: Some(view.group.description.clone()),
                group_id: Some(view.group.id.clone()),
                group_name: Some(view.group.name.clone()),
                ip_permissions: Some(rule::to_permissions(call, &view.group, false)?),
                ip_permissions_egress: Some(rule::to_permissions(call, &view.group, true)?),
                owner_id: Some(account.to_string()),
                security_group_arn: Some(arn(call, "security-group", &view.group.id)),
                tags: tag::to_model(&view.group.tags),
                vpc_id: Some(view.group.vpc_id.clone()),
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(api::DescribeSecurityGroupsResult {
        next_token: page.next_token,
        security_groups: Some(shown),
    })
}

/// Those of the ids that exist, in order.
fn existing(call: &Call<'_>, ids: &[String]) -> Result<Vec<Arc<SecurityGroup>>, Error> {
    let mut found = Vec::new();
    for id in ids {
        found.extend(call.peek::<SecurityGroup>(&key_of(call, id))?);
    }
    in_order(&mut found);
    Ok(found)
}

/// The groups with these ids, and those with these names in the default VPC; all must exist.
fn named(
    call: &mut Call<'_>,
    ids: &[String],
    names: &[String],
) -> Result<Vec<Arc<SecurityGroup>>, Error> {
    let mut found = Vec::new();
    for id in ids {
        check_id(id)?;
        found.push(call.peek::<SecurityGroup>(&key_of(call, id))?.ok_or_else(|| not_found(id))?);
    }
    if !names.is_empty() {
        let vpc_id = vpc::default_vpc(call)?.id.clone();
        for name in names {
            found.push(find_by_name(call, &vpc_id, name)?);
        }
    }
    in_order(&mut found);
    Ok(found)
}

fn in_order(groups: &mut Vec<Arc<SecurityGroup>>) {
    groups.sort_by(|a, b| a.id.cmp(&b.id));
    groups.dedup_by(|a, b| a.id == b.id);
}

fn names_by_id(call: &Call<'_>) -> Result<HashMap<String, String>, Error> {
    let groups = call.scan::<SecurityGroup>(&key_of(call, ""))?;
    Ok(groups.iter().map(|group| (group.id.clone(), group.name.clone())).collect())
}

/// A rule with its group.
struct Rule {
    group: Arc<SecurityGroup>,
    index: usize,
}

impl Rule {
    fn rule(&self) -> &SecurityGroupRule {
        &self.group.rules[self.index]
    }
}

const RULE_FILTERS: &[Field<Rule>] = &[
    ("group-id", |rule| vec![rule.group.id.as_str().into()]),
    ("security-group-rule-id", |rule| vec![rule.rule().id.as_str().into()]),
];

pub(super) fn describe_security_group_rules(
    call: &mut Call<'_>,
    input: api::DescribeSecurityGroupRulesRequest,
) -> Result<api::DescribeSecurityGroupRulesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), RULE_FILTERS)?;
    let groups = match filters.exact("group-id") {
        Some(ids) => existing(call, ids)?,
        None => call.scan::<SecurityGroup>(&key_of(call, ""))?,
    };
    let mut rules: Vec<Rule> = groups
        .into_iter()
        .flat_map(|group| {
            (0..group.rules.len()).map(move |index| Rule { group: Arc::clone(&group), index })
        })
        .collect();
    if let Some(ids) = input.security_group_rule_ids.filter(|ids| !ids.is_empty()) {
        if let Some(id) = ids.iter().find(|id| !base::id::is_valid("sgr", id)) {
            return Err(Error::client(
                "InvalidSecurityGroupRuleId.Malformed",
                format!("The security group rule ID '{id}' is malformed"),
            ));
        }
        if let Some(id) = ids.iter().find(|id| !rules.iter().any(|rule| rule.rule().id == **id)) {
            return Err(no_rule(id));
        }
        rules.retain(|rule| ids.contains(&rule.rule().id));
    }
    rules.retain(|rule| filters.accept(rule, &rule.rule().tags));
    rules.sort_by(|a, b| a.rule().id.cmp(&b.rule().id));
    let page = page(
        rules,
        |rule| &rule.rule().id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|rule| rule::to_model(call, &rule.group, rule.rule()));
    let shown = shown.collect::<Result<_, Error>>()?;
    Ok(api::DescribeSecurityGroupRulesResult {
        next_token: page.next_token,
        security_group_rules: Some(shown),
    })
}

const FOR_VPC_FILTERS: &[Field<View>] = &[
    ("description", |view| vec![view.group.description.as_str().into()]),
    ("group-id", |view| vec![view.group.id.as_str().into()]),
    ("group-name", |view| vec![view.group.name.as_str().into()]),
    ("owner-id", |view| vec![view.account.as_ref().into()]),
    ("primary-vpc-id", |view| vec![view.group.vpc_id.as_str().into()]),
];

/// The groups that interfaces of a VPC can have: its own, since none are shared.
pub(super) fn get_security_groups_for_vpc(
    call: &mut Call<'_>,
    input: api::GetSecurityGroupsForVpcRequest,
) -> Result<api::GetSecurityGroupsForVpcResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FOR_VPC_FILTERS)?;
    let vpc = vpc::find_vpc(call, input.vpc_id.as_deref().unwrap_or_default())?;
    let account: Rc<str> = call.account().into();
    let names: Rc<HashMap<String, String>> = Rc::default();
    let views: Vec<View> = call
        .scan::<SecurityGroup>(&key_of(call, ""))?
        .into_iter()
        .filter(|group| group.vpc_id == vpc.id)
        .map(|group| View { account: Rc::clone(&account), names: Rc::clone(&names), group })
        .filter(|view| filters.accept(view, &view.group.tags))
        .collect();
    let page = page(
        views,
        |view| &view.group.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|view| api::SecurityGroupForVpc {
        description: Some(view.group.description.clone()),
        group_id: Some(view.group.id.clone()),
        group_name: Some(view.group.name.clone()),
        owner_id: Some(account.to_string()),
        primary_vpc_id: Some(view.group.vpc_id.clone()),
        tags: tag::to_model(&view.group.tags),
    });
    Ok(api::GetSecurityGroupsForVpcResult {
        security_group_for_vpcs: Some(shown.collect()),
        next_token: page.next_token,
    })
}
