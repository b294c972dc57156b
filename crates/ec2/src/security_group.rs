//! Security groups: which packets an interface may send and receive.
//!
//! A group's record holds its rules, so that a change of rules is one compare-and-put and rules
//! can neither outlive their group nor exist twice. What a caller writes is brought into one form
//! first (see [`rule`]): then two rules are the same exactly when they are equal. The packets are
//! the node's business; [`crate::network_plan`] tells it.
//!
//! A rule may name a group of a peered VPC. That group's owner need not know of it: when the group
//! or the connection goes, the rule stays, lets nothing pass and is shown as stale ([`reference`]).
//!
//! Not here: groups shared between VPCs (AssociateSecurityGroupVpc).

pub(crate) mod change;
mod describe;
mod reference;
mod rule;

use crate::record::{Interface, SecurityGroup, Tags, VpcEndpoint, key};
use crate::{record, region, tag, vpc};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most groups in a region (VPC User Guide, "Amazon VPC quotas").
const MAX_GROUPS: usize = 2_500;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateSecurityGroup,
        create_security_group,
        Write,
        ["Description", "GroupName", "VpcId", "TagSpecifications.*"]
    ),
    operation!(op::DeleteSecurityGroup, delete_security_group, Write, ["GroupId", "GroupName"]),
    operation!(
        op::DescribeSecurityGroups,
        describe::describe_security_groups,
        Read,
        ["GroupIds", "GroupNames", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribeSecurityGroupRules,
        describe::describe_security_group_rules,
        Read,
        ["SecurityGroupRuleIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribeSecurityGroupReferences,
        reference::describe_security_group_references,
        Read,
        ["GroupId"]
    ),
    operation!(
        op::DescribeStaleSecurityGroups,
        reference::describe_stale_security_groups,
        Read,
        ["VpcId", "MaxResults", "NextToken"]
    ),
    operation!(
        op::GetSecurityGroupsForVpc,
        describe::get_security_groups_for_vpc,
        Read,
        ["VpcId", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::AuthorizeSecurityGroupIngress,
        change::authorize_ingress,
        Write,
        [
            "GroupId",
            "GroupName",
            "IpProtocol",
            "FromPort",
            "ToPort",
            "CidrIp",
            "SourceSecurityGroupName",
            "SourceSecurityGroupOwnerId",
            "IpPermissions.*",
            "TagSpecifications.*",
        ]
    ),
    operation!(
        op::AuthorizeSecurityGroupEgress,
        change::authorize_egress,
        Write,
        ["GroupId", "IpPermissions.*", "TagSpecifications.*",]
    ),
    operation!(
        op::RevokeSecurityGroupIngress,
        change::revoke_ingress,
        Write,
        [
            "GroupId",
            "GroupName",
            "IpProtocol",
            "FromPort",
            "ToPort",
            "CidrIp",
            "SourceSecurityGroupName",
            "SourceSecurityGroupOwnerId",
            "SecurityGroupRuleIds",
            "IpPermissions.*",
        ]
    ),
    operation!(
        op::RevokeSecurityGroupEgress,
        change::revoke_egress,
        Write,
        ["GroupId", "SecurityGroupRuleIds", "IpPermissions.*",]
    ),
    operation!(
        op::ModifySecurityGroupRules,
        change::modify_rules,
        Write,
        [
            "GroupId",
            "SecurityGroupRules.SecurityGroupRuleId",
            "SecurityGroupRules.SecurityGroupRule.*",
        ]
    ),
    operation!(
        op::UpdateSecurityGroupRuleDescriptionsIngress,
        change::update_descriptions_ingress,
        Write,
        ["GroupId", "GroupName", "IpPermissions.*", "SecurityGroupRuleDescriptions.*",]
    ),
    operation!(
        op::UpdateSecurityGroupRuleDescriptionsEgress,
        change::update_descriptions_egress,
        Write,
        ["GroupId", "GroupName", "IpPermissions.*", "SecurityGroupRuleDescriptions.*",]
    ),
];

fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::SECURITY_GROUP, call.account(), id)
}

/// The keys that claim a group name in a VPC: as it is written, by which it is found, and in lower
/// case, because names that differ only in case are the same.
fn name_claims(call: &Call<'_>, vpc_id: &str, name: &str) -> [String; 2] {
    [name.to_owned(), name.to_ascii_lowercase()].map(|name| {
        let name = format!("{vpc_id}/{name}");
        key::of(call.region, key::SECURITY_GROUP_NAME, call.account(), &name)
    })
}

/// The group with this id; the commit depends on it.
pub(crate) fn find(call: &mut Call<'_>, id: &str) -> Result<Arc<SecurityGroup>, Error> {
    check_id(id)?;
    call.get::<SecurityGroup>(&key_of(call, id))?.ok_or_else(|| not_found(id))
}

/// The group with this name in a VPC; the commit depends on it.
pub(crate) fn find_by_name(
    call: &mut Call<'_>,
    vpc_id: &str,
    name: &str,
) -> Result<Arc<SecurityGroup>, Error> {
    let [claim, _] = name_claims(call, vpc_id, name);
    let id = call.get::<String>(&claim)?.ok_or_else(|| {
        Error::client(
            "InvalidGroup.NotFound",
            format!("The security group '{name}' does not exist in default VPC '{vpc_id}'"),
        )
    })?;
    find(call, &id)
}

/// The group that a request means: by id, or by name in the default VPC.
fn meant(
    call: &mut Call<'_>,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<Arc<SecurityGroup>, Error> {
    match (id.filter(|id| !id.is_empty()), name.filter(|name| !name.is_empty())) {
        (Some(id), None) => find(call, id),
        (Some(id), Some(name)) => {
            let group = find(call, id)?;
            if group.name != name {
                return Err(not_found(name));
            }
            Ok(group)
        }
        (None, Some(name)) => {
            let vpc_id = vpc::default_vpc(call)?.id.clone();
            find_by_name(call, &vpc_id, name)
        }
        (None, None) => Err(Error::client(
            "MissingParameter",
            "The request must contain the parameter groupName or groupId",
        )),
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("sg", id) {
        return Ok(());
    }
    Err(Error::client(
        "InvalidGroupId.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"sg-...\")"),
    ))
}

fn not_found(id: &str) -> Error {
    Error::client("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
}

/// Whether AWS takes a text as a group name or as a description of a group or rule.
fn is_text(text: &str) -> bool {
    text.len() <= 255
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" ._-:/()#,@[]+=&;{}!$*".contains(&b))
}

/// As AWS spells the characters in its messages.
const CHARACTERS: &str = "a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*";

fn check_name(name: &str) -> Result<(), Error> {
    if name.starts_with("sg-") {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({name}) for parameter GroupName is invalid. Group names may not be in the \
             format sg-*."
        )));
    }
    if name.eq_ignore_ascii_case("default") {
        return Err(Error::invalid_parameter_value(format!(
            "Cannot use reserved security group name: {name}"
        )));
    }
    if name.is_empty() || !is_text(name) {
        return Err(Error::invalid_parameter_value(format!(
            "Invalid security group name. Valid names are strings less than 256 characters from \
             the following set:  {CHARACTERS}"
        )));
    }
    Ok(())
}

fn check_description(description: &str) -> Result<(), Error> {
    if !description.is_ascii() {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({description}) for parameter GroupDescription is invalid. Character sets \
             beyond ASCII are not supported."
        )));
    }
    if description.is_empty() || !is_text(description) {
        return Err(Error::invalid_parameter_value(format!(
            "Invalid security group description. Valid descriptions are strings less than 256 \
             characters from the following set:  {CHARACTERS}"
        )));
    }
    Ok(())
}

fn arn(call: &Call<'_>, resource: &str, id: &str) -> String {
    let partition = region::partition(call.region);
    format!("arn:{partition}:ec2:{}:{}:{resource}/{id}", call.region, call.account())
}

fn create_security_group(
    call: &mut Call<'_>,
    input: api::CreateSecurityGroupRequest,
) -> Result<api::CreateSecurityGroupResult, Error> {
    let name = input.group_name.unwrap_or_default();
    let description = input.description.unwrap_or_default();
    check_name(&name)?;
    check_description(&description)?;
    let tags = tag::from_specifications(
        input.tag_specifications.as_deref(),
        "security-group",
        &["security-group"],
    )?;
    let vpc_id = match input.vpc_id.filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => vpc::default_vpc(call)?.id.clone(),
    };
    let vpc = vpc::find_vpc(call, &vpc_id)?;
    let claims = name_claims(call, &vpc_id, &name);
    if claims.iter().any(|claim| call.exists(claim)) {
        return Err(Error::client(
            "InvalidGroup.Duplicate",
            format!("The security group '{name}' already exists for VPC '{vpc_id}'"),
        ));
    }
    if call.snapshot().count(&key_of(call, "")) >= MAX_GROUPS {
        return Err(Error::client(
            "SecurityGroupLimitExceeded",
            "The maximum number of security groups has been reached.",
        ));
    }
    let id = call.new_id("sg");
    let mut rules = vec![rule::everything_outbound(call)];
    if !vpc.ipv6_cidrs.is_empty() {
        rules.push(rule::everything_outbound_by_ipv6(call));
    }
    for claim in &claims {
        call.put(claim, id.clone());
    }
    let group = SecurityGroup { v: 1, id: id.clone(), name, description, vpc_id, rules, tags };
    let group = call.put(&key_of(call, &id), group);
    Ok(api::CreateSecurityGroupResult {
        security_group_arn: Some(arn(call, "security-group", &id)),
        group_id: Some(id),
        tags: tag::to_model(&group.tags),
    })
}

/// The group that every VPC is made with: in from its own members, out to everywhere.
pub(crate) fn put_default(call: &mut Call<'_>, vpc_id: &str, id: &str) {
    let rules = vec![rule::everything_from(call, id), rule::everything_outbound(call)];
    let group = SecurityGroup {
        v: 1,
        id: id.to_owned(),
        name: "default".to_owned(),
        description: "default VPC security group".to_owned(),
        vpc_id: vpc_id.to_owned(),
        rules,
        tags: Tags::new(),
    };
    for claim in name_claims(call, vpc_id, &group.name) {
        call.put(&claim, group.id.clone());
    }
    call.put(&key_of(call, id), group);
}

/// Removes the group that a VPC was made with, with its VPC.
pub(crate) fn delete_default(call: &mut Call<'_>, vpc_id: &str, id: &str) {
    for claim in name_claims(call, vpc_id, "default") {
        call.delete(&claim);
    }
    call.delete(&key_of(call, id));
}

/// Lets a default group that is open to everywhere by IPv4 be so by IPv6 too: its VPC has got its
/// first IPv6 block (VPC User Guide, "Default security groups").
pub(crate) fn open_for_ipv6(call: &mut Call<'_>, id: &str) -> Result<(), Error> {
    let Some(found) = call.get::<SecurityGroup>(&key_of(call, id))? else { return Ok(()) };
    let is_open = |rule: &record::SecurityGroupRule| match &rule.peer {
        record::RulePeer::Ipv4(cidr) => rule.egress && rule.protocol == "-1" && cidr.length() == 0,
        _ => false,
    };
    if !found.rules.iter().filter(|rule| rule.egress).all(is_open) {
        return Ok(());
    }
    if !found.rules.iter().any(is_open) {
        return Ok(());
    }
    let rule = rule::everything_outbound_by_ipv6(call);
    let mut group = SecurityGroup::clone(&found);
    group.rules.push(rule);
    call.put(&key_of(call, id), group);
    Ok(())
}

fn delete_security_group(
    call: &mut Call<'_>,
    input: api::DeleteSecurityGroupRequest,
) -> Result<api::DeleteSecurityGroupResult, Error> {
    let group = meant(call, input.group_id.as_deref(), input.group_name.as_deref())?;
    if group.name == "default" {
        return Err(Error::client(
            "CannotDelete",
            format!(
                "the specified group: \"{}\" name: \"default\" cannot be deleted by a user",
                group.id
            ),
        ));
    }
    if is_used(call, &group.id)? {
        return Err(Error::client(
            "DependencyViolation",
            format!("resource {} has a dependent object", group.id),
        ));
    }
    for claim in name_claims(call, &group.vpc_id, &group.name) {
        call.delete(&claim);
    }
    call.delete(&key_of(call, &group.id));
    Ok(api::DeleteSecurityGroupResult { group_id: Some(group.id.clone()), return_: Some(true) })
}

/// Whether an interface or an endpoint is in the group, or a rule of another group names it. The
/// commit depends on that staying so.
fn is_used(call: &mut Call<'_>, id: &str) -> Result<bool, Error> {
    let of = |kind: &str| key::of(call.region, kind, call.account(), "");
    let (interfaces, endpoints, groups) =
        (of(key::INTERFACE), of(key::VPC_ENDPOINT), of(key::SECURITY_GROUP));
    let interfaces = call.get_all::<Interface>(&interfaces)?;
    if interfaces.iter().any(|interface| interface.groups.iter().any(|group| group == id)) {
        return Ok(true);
    }
    let endpoints = call.get_all::<VpcEndpoint>(&endpoints)?;
    let mut live = endpoints.iter().filter(|endpoint| endpoint.deleted.is_none());
    if live.any(|endpoint| endpoint.group_ids.iter().any(|group| group == id)) {
        return Ok(true);
    }
    let groups = call.get_all::<SecurityGroup>(&groups)?;
    Ok(groups
        .iter()
        .any(|group| group.id != id && group.rules.iter().any(|rule| rule::refers_to(rule, id))))
}

#[cfg(test)]
mod tests;
