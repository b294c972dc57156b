//! The eight operations: policies and their tags.

use crate::check::{
    self, by_count, exclusive, invalid, missing, plain_text, policy_tag_key, role_arn,
};
use crate::record::{
    IMAGES, INSTANCE, Mirror, Policy, PolicyDetails, Progress, SIMPLIFIED, SNAPSHOTS, STANDARD,
    Tags, VOLUME, default_key, key,
};
use crate::schedule::{DAY, MINUTE};
use model::dlm::{self as api, op};
use service::{Call, Error, Operation, operation};

/// Most policies of an account in a region (EBS User Guide, "Quotas").
const MAX_POLICIES: usize = 100;
/// Most tags of a policy.
const MAX_TAGS: usize = 200;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateLifecyclePolicy,
        create,
        Write,
        [
            "CopyTags",
            "CreateInterval",
            "CrossRegionCopyTargets.TargetRegion",
            "DefaultPolicy",
            "Description",
            "Exclusions.ExcludeBootVolumes",
            "Exclusions.ExcludeTags.*",
            "Exclusions.ExcludeVolumeTypes",
            "ExecutionRoleArn",
            "ExtendDeletion",
            "PolicyDetails.Actions.*",
            "PolicyDetails.CopyTags",
            "PolicyDetails.CreateInterval",
            "PolicyDetails.CrossRegionCopyTargets.TargetRegion",
            "PolicyDetails.EventSource.*",
            "PolicyDetails.Exclusions.ExcludeBootVolumes",
            "PolicyDetails.Exclusions.ExcludeTags.*",
            "PolicyDetails.Exclusions.ExcludeVolumeTypes",
            "PolicyDetails.ExtendDeletion",
            "PolicyDetails.Parameters.*",
            "PolicyDetails.PolicyLanguage",
            "PolicyDetails.PolicyType",
            "PolicyDetails.ResourceLocations",
            "PolicyDetails.ResourceType",
            "PolicyDetails.ResourceTypes",
            "PolicyDetails.RetainInterval",
            "PolicyDetails.Schedules.ArchiveRule.*",
            "PolicyDetails.Schedules.CopyTags",
            "PolicyDetails.Schedules.CreateRule.CronExpression",
            "PolicyDetails.Schedules.CreateRule.Interval",
            "PolicyDetails.Schedules.CreateRule.IntervalUnit",
            "PolicyDetails.Schedules.CreateRule.Location",
            "PolicyDetails.Schedules.CreateRule.Times",
            "PolicyDetails.Schedules.CrossRegionCopyRules.*",
            "PolicyDetails.Schedules.DeprecateRule.*",
            "PolicyDetails.Schedules.FastRestoreRule.*",
            "PolicyDetails.Schedules.Name",
            "PolicyDetails.Schedules.RetainRule.*",
            "PolicyDetails.Schedules.ShareRules.*",
            "PolicyDetails.Schedules.TagsToAdd.*",
            "PolicyDetails.Schedules.VariableTags.*",
            "PolicyDetails.TargetTags.*",
            "RetainInterval",
            "State",
            "Tags",
        ]
    ),
    operation!(op::DeleteLifecyclePolicy, delete, Write, ["PolicyId"]),
    operation!(
        op::GetLifecyclePolicies,
        list,
        Read,
        ["DefaultPolicyType", "PolicyIds", "ResourceTypes", "State", "TagsToAdd", "TargetTags",]
    ),
    operation!(op::GetLifecyclePolicy, get, Read, ["PolicyId"]),
    operation!(op::ListTagsForResource, list_tags, Read, ["ResourceArn"]),
    operation!(op::TagResource, tag, Write, ["ResourceArn", "Tags"]),
    operation!(op::UntagResource, untag, Write, ["ResourceArn", "TagKeys"]),
    operation!(
        op::UpdateLifecyclePolicy,
        update,
        Write,
        [
            "CopyTags",
            "CreateInterval",
            "CrossRegionCopyTargets.TargetRegion",
            "Description",
            "Exclusions.ExcludeBootVolumes",
            "Exclusions.ExcludeTags.*",
            "Exclusions.ExcludeVolumeTypes",
            "ExecutionRoleArn",
            "ExtendDeletion",
            "PolicyDetails.Actions.*",
            "PolicyDetails.CopyTags",
            "PolicyDetails.CreateInterval",
            "PolicyDetails.CrossRegionCopyTargets.TargetRegion",
            "PolicyDetails.EventSource.*",
            "PolicyDetails.Exclusions.ExcludeBootVolumes",
            "PolicyDetails.Exclusions.ExcludeTags.*",
            "PolicyDetails.Exclusions.ExcludeVolumeTypes",
            "PolicyDetails.ExtendDeletion",
            "PolicyDetails.Parameters.*",
            "PolicyDetails.PolicyLanguage",
            "PolicyDetails.PolicyType",
            "PolicyDetails.ResourceLocations",
            "PolicyDetails.ResourceType",
            "PolicyDetails.ResourceTypes",
            "PolicyDetails.RetainInterval",
            "PolicyDetails.Schedules.ArchiveRule.*",
            "PolicyDetails.Schedules.CopyTags",
            "PolicyDetails.Schedules.CreateRule.CronExpression",
            "PolicyDetails.Schedules.CreateRule.Interval",
            "PolicyDetails.Schedules.CreateRule.IntervalUnit",
            "PolicyDetails.Schedules.CreateRule.Location",
            "PolicyDetails.Schedules.CreateRule.Times",
            "PolicyDetails.Schedules.CrossRegionCopyRules.*",
            "PolicyDetails.Schedules.DeprecateRule.*",
            "PolicyDetails.Schedules.FastRestoreRule.*",
            "PolicyDetails.Schedules.Name",
            "PolicyDetails.Schedules.RetainRule.*",
            "PolicyDetails.Schedules.ShareRules.*",
            "PolicyDetails.Schedules.TagsToAdd.*",
            "PolicyDetails.Schedules.VariableTags.*",
            "PolicyDetails.TargetTags.*",
            "PolicyId",
            "RetainInterval",
            "State",
        ]
    ),
];

fn not_found(id: &str) -> Error {
    Error::client("ResourceNotFoundException", format!("The policy {id} does not exist"))
        .with_status(404)
        .with_member("ResourceType", "policy")
        .with_member("ResourceIds", vec![id.to_owned()])
}

fn find(call: &mut Call<'_>, id: &str) -> Result<Policy, Error> {
    let found = call.get::<Policy>(&key(call.region, call.account(), id))?;
    found
        .filter(|policy| !policy.deleted)
        .map(|policy| (*policy).clone())
        .ok_or_else(|| not_found(id))
}

fn all(call: &Call<'_>) -> Result<Vec<std::sync::Arc<Policy>>, Error> {
    let mut policies = call.scan::<Policy>(&key(call.region, call.account(), ""))?;
    policies.retain(|policy| !policy.deleted);
    Ok(policies)
}

/// The rules of a request, without what this region does not have.
fn rules(given: api::PolicyDetails) -> Result<PolicyDetails, Error> {
    if given.policy_type.as_deref() == Some("EVENT_BASED_POLICY") {
        return Err(Error::unsupported(
            "Policies of the type EVENT_BASED_POLICY are not built in gureum yet.",
        ));
    }
    if given.event_source.is_some() || given.actions.is_some() {
        return Err(invalid(
            "The parameter(s) {EventSource, Actions} can be used with event-based policies only",
        ));
    }
    Ok(PolicyDetails::from_api(given))
}

/// Fills in what a custom policy means when it does not say it.
fn complete(call: &mut Call<'_>, details: &mut PolicyDetails) {
    details.policy_type.get_or_insert_with(|| SNAPSHOTS.to_owned());
    details.policy_language.get_or_insert_with(|| STANDARD.to_owned());
    if details.is_default() {
        return;
    }
    details.resource_locations.get_or_insert_with(|| vec!["CLOUD".to_owned()]);
    for schedule in details.schedules.iter_mut().flatten() {
        schedule.copy_tags.get_or_insert(false);
        if let Some(rule) = &mut schedule.create_rule
            && rule.cron_expression.is_none()
            && rule.times.as_ref().is_none_or(Vec::is_empty)
        {
            // AWS selects a time within the next 24 hours.
            let minute = call.rng.i64(0..DAY / MINUTE);
            rule.times = Some(vec![format!("{:02}:{:02}", minute / 60, minute % 60)]);
        }
    }
}

/// Members of a default policy that requests may give beside PolicyDetails.
#[derive(Clone)]
struct Simple {
    copy_tags: Option<bool>,
    create_interval: Option<i32>,
    cross_region_copy_targets: Option<Vec<api::CrossRegionCopyTarget>>,
    exclusions: Option<api::Exclusions>,
    extend_deletion: Option<bool>,
    retain_interval: Option<i32>,
}

impl Simple {
    fn present(&self) -> Vec<&'static str> {
        let present = [
            ("CopyTags", self.copy_tags.is_some()),
            ("CreateInterval", self.create_interval.is_some()),
            ("CrossRegionCopyTargets", self.cross_region_copy_targets.is_some()),
            ("Exclusions", self.exclusions.is_some()),
            ("ExtendDeletion", self.extend_deletion.is_some()),
            ("RetainInterval", self.retain_interval.is_some()),
        ];
        present.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }

    fn put_into(self, details: &mut PolicyDetails) {
        let targets = self.cross_region_copy_targets.map(Mirror::from_api);
        details.copy_tags = self.copy_tags.or(details.copy_tags);
        details.create_interval = self.create_interval.or(details.create_interval);
        details.cross_region_copy_targets = targets.or(details.cross_region_copy_targets.take());
        let exclusions = self.exclusions.map(Mirror::from_api);
        details.exclusions = exclusions.or(details.exclusions.take());
        details.extend_deletion = self.extend_deletion.or(details.extend_deletion);
        details.retain_interval = self.retain_interval.or(details.retain_interval);
    }
}

fn create(
    call: &mut Call<'_>,
    input: api::CreateLifecyclePolicyRequest,
) -> Result<api::CreateLifecyclePolicyResponse, Error> {
    let simple = Simple {
        copy_tags: input.copy_tags,
        create_interval: input.create_interval,
        cross_region_copy_targets: input.cross_region_copy_targets,
        exclusions: input.exclusions,
        extend_deletion: input.extend_deletion,
        retain_interval: input.retain_interval,
    };
    let role = input.execution_role_arn.unwrap_or_default();
    role_arn(&role)?;
    let description = input.description.unwrap_or_default();
    plain_text("Description", &description)?;
    let tags: Tags = input.tags.unwrap_or_default();
    tags.keys().try_for_each(|key| policy_tag_key(key))?;
    let mut details = match (input.default_policy, input.policy_details) {
        (Some(_), Some(_)) => return Err(exclusive(&["DefaultPolicy", "PolicyDetails"])),
        (None, None) => return Err(missing(&["PolicyDetails"])),
        (None, Some(given)) => {
            let present = simple.present();
            if !present.is_empty() {
                return Err(exclusive(&[&["PolicyDetails"], &present[..]].concat()));
            }
            rules(given)?
        }
        (Some(kind), None) => {
            let mut details = PolicyDetails {
                policy_language: Some(SIMPLIFIED.to_owned()),
                resource_type: Some(kind),
                ..PolicyDetails::default()
            };
            simple.put_into(&mut details);
            details
        }
    };
    if details.is_default() {
        let images = details.resource_type.as_deref() == Some(INSTANCE);
        let kind = if images { IMAGES } else { SNAPSHOTS };
        if details.policy_type.as_deref().is_some_and(|given| given != kind) {
            return Err(invalid("PolicyType and ResourceType do not fit each other"));
        }
        details.policy_type = Some(kind.to_owned());
        details.create_interval.get_or_insert(1);
        details.retain_interval.get_or_insert(7);
        details.copy_tags.get_or_insert(false);
        details.extend_deletion.get_or_insert(false);
    }
    check::details(&details, call.region, call.now)?;
    complete(call, &mut details);
    let known = all(call)?;
    if known.len() >= MAX_POLICIES {
        return Err(Error::client(
            "LimitExceededException",
            format!("The limit of {MAX_POLICIES} lifecycle policies per Region is reached"),
        )
        .with_status(429)
        .with_member("ResourceType", "policy"));
    }
    if details.is_default() {
        let kind = details.resource_type.as_deref().unwrap_or(VOLUME);
        let claim = default_key(call.region, call.account(), kind);
        if call.exists(&claim) {
            return Err(invalid(format!(
                "There is a default policy for the resource type {kind} already"
            )));
        }
        call.put(&claim, true);
    }
    let id = call.new_id("policy");
    let at = key(call.region, call.account(), &id);
    let policy = Policy {
        v: 1,
        id: id.clone(),
        description,
        role_arn: role,
        enabled: input.state.as_deref() == Some("ENABLED"),
        failure: None,
        created: call.now,
        modified: call.now,
        tags,
        details,
        deleted: false,
        progress: Progress::default(),
    };
    call.put(&at, policy);
    Ok(api::CreateLifecyclePolicyResponse { policy_id: Some(id) })
}

fn update(
    call: &mut Call<'_>,
    input: api::UpdateLifecyclePolicyRequest,
) -> Result<api::UpdateLifecyclePolicyResponse, Error> {
    let id = input.policy_id.unwrap_or_default();
    let mut policy = find(call, &id)?;
    let simple = Simple {
        copy_tags: input.copy_tags,
        create_interval: input.create_interval,
        cross_region_copy_targets: input.cross_region_copy_targets,
        exclusions: input.exclusions,
        extend_deletion: input.extend_deletion,
        retain_interval: input.retain_interval,
    };
    if let Some(role) = input.execution_role_arn {
        role_arn(&role)?;
        policy.role_arn = role;
    }
    if let Some(description) = input.description {
        plain_text("Description", &description)?;
        policy.description = description;
    }
    let present = simple.present();
    if input.policy_details.is_some() && !present.is_empty() {
        return Err(exclusive(&[&["PolicyDetails"], &present[..]].concat()));
    }
    if !present.is_empty() {
        if !policy.is_default() {
            return Err(invalid(format!(
                "The parameter(s) {{{}}} can be used with default policies only",
                present.join(", ")
            )));
        }
        simple.put_into(&mut policy.details);
        check::details(&policy.details, call.region, call.now)?;
    }
    if let Some(given) = input.policy_details {
        change_rules(call, &mut policy, rules(given)?)?;
    }
    if let Some(state) = input.state {
        policy.enabled = state == "ENABLED";
        if policy.enabled {
            // What failed is tried again at the next run.
            policy.failure = None;
        } else {
            policy.progress.schedules.clear();
        }
    }
    policy.modified = call.now;
    let at = key(call.region, call.account(), &id);
    call.put(&at, policy);
    Ok(api::UpdateLifecyclePolicyResponse {})
}

/// Puts new rules into a policy: those of a default policy one by one, those of a custom one as a
/// whole.
fn change_rules(
    call: &mut Call<'_>,
    policy: &mut Policy,
    mut given: PolicyDetails,
) -> Result<(), Error> {
    let known = policy.details.clone();
    let fixed = [
        ("PolicyType", given.policy_type.is_some() && given.policy_type != known.policy_type),
        (
            "PolicyLanguage",
            given.policy_language.is_some() && given.policy_language != known.policy_language,
        ),
        (
            "ResourceTypes",
            given.resource_types.as_ref().is_some_and(|types| !types.is_empty())
                && given.resource_types != known.resource_types,
        ),
        (
            "ResourceType",
            given.resource_type.is_some() && given.resource_type != known.resource_type,
        ),
    ];
    let changed: Vec<&str> =
        fixed.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect();
    if !changed.is_empty() {
        return Err(invalid(format!(
            "The following parameter(s) cannot be updated: {{{}}}",
            changed.join(", ")
        )));
    }
    given.policy_type = known.policy_type.clone();
    given.policy_language = known.policy_language.clone();
    given.resource_type = known.resource_type.clone();
    if policy.is_default() {
        given.copy_tags = given.copy_tags.or(known.copy_tags);
        given.create_interval = given.create_interval.or(known.create_interval);
        given.retain_interval = given.retain_interval.or(known.retain_interval);
        given.extend_deletion = given.extend_deletion.or(known.extend_deletion);
        given.exclusions = given.exclusions.or(known.exclusions);
        given.cross_region_copy_targets =
            given.cross_region_copy_targets.or(known.cross_region_copy_targets);
        check::details(&given, call.region, call.now)?;
        policy.details = given;
        return Ok(());
    }
    if given.resource_types.as_ref().is_none_or(Vec::is_empty) {
        given.resource_types = known.resource_types.clone();
    }
    // What is left out stays.
    given.target_tags = given.target_tags.or(known.target_tags.clone());
    given.schedules = given.schedules.or(known.schedules.clone());
    given.parameters = given.parameters.or(known.parameters.clone());
    given.resource_locations = given.resource_locations.or(known.resource_locations.clone());
    check::details(&given, call.region, call.now)?;
    let (old, new) = (policy.schedules(), given.schedules.as_deref().unwrap_or_default());
    if let (Some(old), Some(new)) = (old.first(), new.first())
        && by_count(old) != by_count(new)
    {
        return Err(invalid("The retention type of a policy cannot be changed"));
    }
    for (old, new) in known.schedules.iter().flatten().zip(given.schedules.iter_mut().flatten()) {
        // The time that was selected for a schedule without one stays, too.
        if let (Some(old), Some(new)) = (&old.create_rule, &mut new.create_rule)
            && new.times.as_ref().is_none_or(Vec::is_empty)
            && new.interval.is_some()
            && new.interval == old.interval
        {
            new.times = old.times.clone();
        }
    }
    complete(call, &mut given);
    let rules = given.schedules.as_deref().unwrap_or_default();
    let progress = &mut policy.progress.schedules;
    progress.truncate(rules.len());
    for (index, state) in progress.iter_mut().enumerate() {
        let before = known.schedules.as_ref().and_then(|schedules| schedules.get(index));
        if before.is_none_or(|before| before.create_rule != rules[index].create_rule) {
            *state = Default::default();
        }
    }
    policy.details = given;
    Ok(())
}

fn delete(
    call: &mut Call<'_>,
    input: api::DeleteLifecyclePolicyRequest,
) -> Result<api::DeleteLifecyclePolicyResponse, Error> {
    let id = input.policy_id.unwrap_or_default();
    let mut policy = find(call, &id)?;
    if let (true, Some(kind)) = (policy.is_default(), &policy.details.resource_type) {
        call.delete(&default_key(call.region, call.account(), kind));
    }
    let at = key(call.region, call.account(), &id);
    if policy.details.extend_deletion == Some(true) {
        // It goes on deleting what it made.
        policy.deleted = true;
        call.put(&at, policy);
    } else {
        call.delete(&at);
    }
    Ok(api::DeleteLifecyclePolicyResponse {})
}

fn arn(call: &Call<'_>, id: &str) -> String {
    format!("arn:aws:dlm:{}:{}:policy/{id}", call.region, call.account())
}

/// The policy that an ARN names.
fn by_arn(call: &mut Call<'_>, arn: Option<String>) -> Result<Policy, Error> {
    let arn = arn.unwrap_or_default();
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", _, "dlm", region, account, resource] => {
            let Some(id) = resource.strip_prefix("policy/") else {
                return Err(invalid(format!("Invalid ResourceArn {arn}")));
            };
            if region != call.region || account != call.account() {
                return Err(not_found(id));
            }
            find(call, id)
        }
        _ => Err(invalid(format!("Invalid ResourceArn {arn}"))),
    }
}

fn list_tags(
    call: &mut Call<'_>,
    input: api::ListTagsForResourceRequest,
) -> Result<api::ListTagsForResourceResponse, Error> {
    let policy = by_arn(call, input.resource_arn)?;
    Ok(api::ListTagsForResourceResponse { tags: Some(policy.tags) })
}

fn tag(
    call: &mut Call<'_>,
    input: api::TagResourceRequest,
) -> Result<api::TagResourceResponse, Error> {
    let mut policy = by_arn(call, input.resource_arn)?;
    let tags = input.tags.unwrap_or_default();
    tags.keys().try_for_each(|key| policy_tag_key(key))?;
    policy.tags.extend(tags);
    if policy.tags.len() > MAX_TAGS {
        return Err(invalid(format!("A policy has at most {MAX_TAGS} tags")));
    }
    let at = key(call.region, call.account(), &policy.id);
    call.put(&at, policy);
    Ok(api::TagResourceResponse {})
}

fn untag(
    call: &mut Call<'_>,
    input: api::UntagResourceRequest,
) -> Result<api::UntagResourceResponse, Error> {
    let mut policy = by_arn(call, input.resource_arn)?;
    let gone = input.tag_keys.unwrap_or_default();
    policy.tags.retain(|key, _| !gone.contains(key));
    let at = key(call.region, call.account(), &policy.id);
    call.put(&at, policy);
    Ok(api::UntagResourceResponse {})
}

fn get(
    call: &mut Call<'_>,
    input: api::GetLifecyclePolicyRequest,
) -> Result<api::GetLifecyclePolicyResponse, Error> {
    let policy = find(call, &input.policy_id.unwrap_or_default())?;
    let state = policy.state();
    Ok(api::GetLifecyclePolicyResponse {
        policy: Some(api::LifecyclePolicy {
            date_created: Some(policy.created),
            date_modified: Some(policy.modified),
            default_policy: Some(policy.is_default()),
            description: Some(policy.description.clone()),
            execution_role_arn: Some(policy.role_arn.clone()),
            policy_arn: Some(arn(call, &policy.id)),
            policy_details: Some(policy.details.to_api()),
            policy_id: Some(policy.id.clone()),
            state: Some(state.to_owned()),
            // AWS says the state again where there is nothing to say.
            status_message: match (&policy.failure, state) {
                (Some(failure), "ERROR") => Some(failure.clone()),
                _ => Some(state.to_owned()),
            },
            tags: (!policy.tags.is_empty()).then_some(policy.tags),
        }),
    })
}

/// Whether tags in the form `key=value` are all among these.
fn has_tags(wanted: Option<&Vec<String>>, tags: &[&crate::record::Tag]) -> bool {
    wanted.into_iter().flatten().all(|wanted| {
        let (key, value) = wanted.split_once('=').unwrap_or((wanted, ""));
        let is = |tag: &&crate::record::Tag| {
            tag.key.as_deref() == Some(key) && tag.value.as_deref() == Some(value)
        };
        tags.iter().any(is)
    })
}

fn list(
    call: &mut Call<'_>,
    input: api::GetLifecyclePoliciesRequest,
) -> Result<api::GetLifecyclePoliciesResponse, Error> {
    let policies = all(call)?;
    let ids = input.policy_ids.unwrap_or_default();
    if let Some(unknown) = ids.iter().find(|id| !policies.iter().any(|p| p.id == **id)) {
        return Err(not_found(unknown));
    }
    let chosen = policies.iter().filter(|policy| {
        let details = &policy.details;
        let targets: Vec<_> = details.target_tags.iter().flatten().collect();
        let added: Vec<_> = policy
            .schedules()
            .iter()
            .flat_map(|schedule| schedule.tags_to_add.iter().flatten())
            .collect();
        let kinds = input.resource_types.as_deref().unwrap_or_default();
        let kind = details.resource_type().unwrap_or(VOLUME);
        (ids.is_empty() || ids.contains(&policy.id))
            && input.state.as_deref().is_none_or(|state| state == policy.state())
            && (kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind))
            && has_tags(input.target_tags.as_ref(), &targets)
            && has_tags(input.tags_to_add.as_ref(), &added)
            && match input.default_policy_type.as_deref() {
                None => true,
                Some("ALL") => policy.is_default(),
                Some(wanted) => policy.is_default() && kind == wanted,
            }
    });
    let summary = |policy: &std::sync::Arc<Policy>| api::LifecyclePolicySummary {
        default_policy: Some(policy.is_default()),
        description: Some(policy.description.clone()),
        policy_id: Some(policy.id.clone()),
        policy_type: policy.details.policy_type.clone(),
        state: Some(policy.state().to_owned()),
        tags: (!policy.tags.is_empty()).then(|| policy.tags.clone()),
    };
    Ok(api::GetLifecyclePoliciesResponse { policies: Some(chosen.map(summary).collect()) })
}

#[cfg(test)]
mod tests;
