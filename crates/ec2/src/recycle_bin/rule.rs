//! Retention rules: made, shown, changed, locked, tagged, deleted. The service `rbin`.
//!
//! ```text
//!  CreateRule ──► unlocked ──── LockRule ───► locked ──── UnlockRule ───► pending_unlock
//!                    ▲                           ▲ LockRule                    │
//!                    │                           └─────────────────────────────┤
//!                    └───────────────── the unlock delay is over ──────────────┘
//! ```
//!
//! What is not unlocked is neither changed nor deleted. A lock's state is a function of its record
//! and the time.

use crate::record::{RecycleBinRule, Tags, key};
use crate::region;
use base::Timestamp;
use model::rbin::{self as api, op};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(super) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateRule,
        create_rule,
        Write,
        [
            "Description",
            "ExcludeResourceTags.*",
            "LockConfiguration.UnlockDelay.*",
            "ResourceTags.*",
            "ResourceType",
            "RetentionPeriod.*",
            "Tags.*",
        ]
    ),
    operation!(op::DeleteRule, delete_rule, Write, ["Identifier"]),
    operation!(op::GetRule, get_rule, Live, ["Identifier"]),
    operation!(
        op::ListRules,
        list_rules,
        Live,
        [
            "ExcludeResourceTags.*",
            "LockState",
            "MaxResults",
            "NextToken",
            "ResourceTags.*",
            "ResourceType",
        ]
    ),
    operation!(op::LockRule, lock_rule, Write, ["Identifier", "LockConfiguration.UnlockDelay.*"]),
    operation!(op::UnlockRule, unlock_rule, Write, ["Identifier"]),
    operation!(
        op::UpdateRule,
        update_rule,
        Write,
        [
            "Description",
            "ExcludeResourceTags.*",
            "Identifier",
            "ResourceTags.*",
            "ResourceType",
            "RetentionPeriod.*",
        ]
    ),
    operation!(op::ListTagsForResource, list_tags_for_resource, Read, ["ResourceArn"]),
    operation!(op::TagResource, tag_resource, Write, ["ResourceArn", "Tags.*"]),
    operation!(op::UntagResource, untag_resource, Write, ["ResourceArn", "TagKeys"]),
];

/// Most rules of a region, and most days that they keep something (Recycle Bin quotas).
const MAX_RULES: usize = 250;
const MAX_DAYS: i32 = 365;
/// Most tags of a rule.
const MAX_TAGS: usize = 50;
const DAY_MILLIS: i64 = 24 * 3_600_000;
/// Letters and digits of an identifier.
const ID_LENGTH: usize = 11;

fn invalid(message: impl Into<String>) -> Error {
    Error::client("ValidationException", message).with_member("Reason", "INVALID_PARAMETER_VALUE")
}

fn not_found() -> Error {
    Error::client("ResourceNotFoundException", "Rule not found.")
        .with_status(404)
        .with_member("Reason", "RULE_NOT_FOUND")
}

fn conflict(message: &str) -> Error {
    Error::client("ConflictException", message)
        .with_status(409)
        .with_member("Reason", "INVALID_RULE_STATE")
}

fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::RECYCLE_BIN_RULE, call.account(), id)
}

fn arn(call: &Call<'_>, id: &str) -> Option<String> {
    let (region, account) = (call.region, call.account());
    Some(format!("arn:{}:rbin:{region}:{account}:rule/{id}", region::partition(region)))
}

/// A rule with its record key; the commit depends on it.
fn find(call: &mut Call<'_>, id: &str) -> Result<(String, Arc<RecycleBinRule>), Error> {
    if id.len() != ID_LENGTH || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(invalid(format!("The identifier '{id}' is not one of a rule.")));
    }
    let at = key_of(call, id);
    let rule = call.get::<RecycleBinRule>(&at)?.ok_or_else(not_found)?;
    Ok((at, rule))
}

fn by_arn(
    call: &mut Call<'_>,
    name: Option<String>,
) -> Result<(String, Arc<RecycleBinRule>), Error> {
    let name = name.unwrap_or_default();
    let id = name.rsplit('/').next().unwrap_or_default().to_owned();
    if arn(call, &id).as_deref() != Some(&name) {
        return Err(invalid(format!("'{name}' is not the ARN of a rule of this region.")));
    }
    find(call, &id)
}

/// The state of a rule's lock.
fn lock_state(rule: &RecycleBinRule, now: Timestamp) -> &'static str {
    match (rule.unlock_delay_days, rule.unlock_expires) {
        (None, _) => "unlocked",
        (Some(_), None) => "locked",
        (Some(_), Some(end)) if now < end => "pending_unlock",
        (Some(_), Some(_)) => "unlocked",
    }
}

fn must_be_unlocked(rule: &RecycleBinRule, now: Timestamp) -> Result<(), Error> {
    match lock_state(rule, now) {
        "unlocked" => Ok(()),
        _ => Err(conflict("The rule is locked, or its unlock delay is not over yet.")),
    }
}

fn period(given: Option<api::RetentionPeriod>) -> Result<u32, Error> {
    let days = given.and_then(|period| period.retention_period_value).unwrap_or(0);
    if (1..=MAX_DAYS).contains(&days) {
        return Ok(days.unsigned_abs());
    }
    Err(invalid(format!("The retention period must be between 1 and {MAX_DAYS} days.")))
}

fn delay(given: Option<api::LockConfiguration>) -> Option<u32> {
    let days = given?.unlock_delay?.unlock_delay_value?;
    Some(days.unsigned_abs())
}

type Wanted = Vec<(String, Option<String>)>;

fn wanted(tags: Option<Vec<api::ResourceTag>>) -> Result<Wanted, Error> {
    let mut found = Wanted::new();
    for tag in tags.unwrap_or_default() {
        let name = tag.resource_tag_key.unwrap_or_default();
        if name.is_empty() {
            return Err(invalid("A resource tag needs a key."));
        }
        found.push((name, tag.resource_tag_value.filter(|value| !value.is_empty())));
    }
    Ok(found)
}

fn check_kind(rule: &RecycleBinRule) -> Result<(), Error> {
    if !rule.resource_tags.is_empty() && !rule.exclude_tags.is_empty() {
        return Err(invalid("A rule has resource tags or exclusion tags, not both."));
    }
    let has_tags = !rule.resource_tags.is_empty() || !rule.exclude_tags.is_empty();
    if has_tags && rule.unlock_delay_days.is_some() {
        return Err(invalid("Only Region-level rules without exclusion tags can be locked."));
    }
    Ok(())
}

fn tags(given: Option<Vec<api::Tag>>) -> Tags {
    given
        .unwrap_or_default()
        .into_iter()
        .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()))
        .collect()
}

fn check_tags(tags: &Tags) -> Result<(), Error> {
    if tags.len() > MAX_TAGS {
        return Err(Error::client("ServiceQuotaExceededException", "Too many tags.")
            .with_status(402)
            .with_member("Reason", "SERVICE_QUOTA_EXCEEDED"));
    }
    if tags.keys().any(|key| key.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("aws:"))) {
        return Err(invalid("Tag keys starting with 'aws:' are reserved."));
    }
    Ok(())
}

/// The members that most answers have.
struct Shown {
    description: Option<String>,
    exclude: Option<Vec<api::ResourceTag>>,
    identifier: Option<String>,
    lock: Option<api::LockConfiguration>,
    lock_end: Option<Timestamp>,
    lock_state: Option<String>,
    resource_tags: Option<Vec<api::ResourceTag>>,
    resource_type: Option<String>,
    period: Option<api::RetentionPeriod>,
    arn: Option<String>,
    status: Option<String>,
}

fn show(call: &Call<'_>, rule: &RecycleBinRule) -> Shown {
    let tags = |tags: &Wanted| {
        Some(
            tags.iter()
                .map(|(name, value)| api::ResourceTag {
                    resource_tag_key: Some(name.clone()),
                    resource_tag_value: value.clone(),
                })
                .collect(),
        )
    };
    let state = lock_state(rule, call.now);
    let is_locked = state != "unlocked";
    Shown {
        description: Some(rule.description.clone()),
        exclude: tags(&rule.exclude_tags),
        identifier: Some(rule.id.clone()),
        lock: rule.unlock_delay_days.filter(|_| is_locked).map(|days| api::LockConfiguration {
            unlock_delay: Some(api::UnlockDelay {
                unlock_delay_unit: Some("DAYS".to_owned()),
                unlock_delay_value: i32::try_from(days).ok(),
            }),
        }),
        lock_end: rule.unlock_expires.filter(|_| is_locked),
        lock_state: Some(state.to_owned()),
        resource_tags: tags(&rule.resource_tags),
        resource_type: Some(rule.resource_type.clone()),
        period: Some(retention(rule)),
        arn: arn(call, &rule.id),
        status: Some("available".to_owned()),
    }
}

fn retention(rule: &RecycleBinRule) -> api::RetentionPeriod {
    api::RetentionPeriod {
        retention_period_unit: Some("DAYS".to_owned()),
        retention_period_value: i32::try_from(rule.retention_days).ok(),
    }
}

pub(super) fn create_rule(
    call: &mut Call<'_>,
    input: api::CreateRuleRequest,
) -> Result<api::CreateRuleResponse, Error> {
    let resource_type = input.resource_type.unwrap_or_default();
    if resource_type == "EBS_VOLUME" {
        return Err(Error::unsupported(
            "The recycle bin for volumes (ResourceType EBS_VOLUME) is not built in gureum yet.",
        ));
    }
    let prefix = key_of(call, "");
    if call.snapshot().count(&prefix) >= MAX_RULES {
        return Err(Error::client("ServiceQuotaExceededException", "Too many rules.")
            .with_status(402)
            .with_member("Reason", "SERVICE_QUOTA_EXCEEDED"));
    }
    let given = tags(input.tags);
    check_tags(&given)?;
    let id = loop {
        let id: String = (0..ID_LENGTH).map(|_| call.rng.alphanumeric()).collect();
        let at = key_of(call, &id);
        if !call.exists(&at) {
            break id;
        }
    };
    let rule = RecycleBinRule {
        v: 1,
        id,
        resource_type,
        description: input.description.unwrap_or_default(),
        retention_days: period(input.retention_period)?,
        resource_tags: wanted(input.resource_tags)?,
        exclude_tags: wanted(input.exclude_resource_tags)?,
        unlock_delay_days: delay(input.lock_configuration),
        unlock_expires: None,
        tags: given,
    };
    check_kind(&rule)?;
    let at = key_of(call, &rule.id);
    let rule = call.put(&at, rule);
    let shown = show(call, &rule);
    let tags = rule
        .tags
        .iter()
        .map(|(key, value)| api::Tag { key: Some(key.clone()), value: Some(value.clone()) });
    Ok(api::CreateRuleResponse {
        description: shown.description,
        exclude_resource_tags: shown.exclude,
        identifier: shown.identifier,
        lock_configuration: shown.lock,
        lock_state: shown.lock_state,
        resource_tags: shown.resource_tags,
        resource_type: shown.resource_type,
        retention_period: shown.period,
        rule_arn: shown.arn,
        status: shown.status,
        tags: Some(tags.collect()),
    })
}

pub(super) fn delete_rule(
    call: &mut Call<'_>,
    input: api::DeleteRuleRequest,
) -> Result<api::DeleteRuleResponse, Error> {
    let (at, rule) = find(call, &input.identifier.unwrap_or_default())?;
    must_be_unlocked(&rule, call.now)?;
    call.delete(&at);
    Ok(api::DeleteRuleResponse {})
}

pub(super) fn get_rule(
    call: &mut Call<'_>,
    input: api::GetRuleRequest,
) -> Result<api::GetRuleResponse, Error> {
    let (_, rule) = find(call, &input.identifier.unwrap_or_default())?;
    let shown = show(call, &rule);
    Ok(api::GetRuleResponse {
        description: shown.description,
        exclude_resource_tags: shown.exclude,
        identifier: shown.identifier,
        lock_configuration: shown.lock,
        lock_end_time: shown.lock_end,
        lock_state: shown.lock_state,
        resource_tags: shown.resource_tags,
        resource_type: shown.resource_type,
        retention_period: shown.period,
        rule_arn: shown.arn,
        status: shown.status,
    })
}

pub(super) fn list_rules(
    call: &mut Call<'_>,
    input: api::ListRulesRequest,
) -> Result<api::ListRulesResponse, Error> {
    let resource_type = input.resource_type.unwrap_or_default();
    let with = wanted(input.resource_tags)?;
    let without = wanted(input.exclude_resource_tags)?;
    let now = call.now;
    let mut rules = call.scan::<RecycleBinRule>(&key_of(call, ""))?;
    rules.retain(|rule| {
        rule.resource_type == resource_type
            && with.iter().all(|tag| rule.resource_tags.contains(tag))
            && without.iter().all(|tag| rule.exclude_tags.contains(tag))
            && input.lock_state.as_deref().is_none_or(|state| state == lock_state(rule, now))
    });
    let page = page(
        rules,
        |rule| rule.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        1..=1000,
    )
    .map_err(|error| {
        Error::client("ValidationException", error.message)
            .with_member("Reason", "INVALID_PAGE_TOKEN")
    })?;
    let shown = page.items.iter().map(|rule| api::RuleSummary {
        description: Some(rule.description.clone()),
        identifier: Some(rule.id.clone()),
        lock_state: Some(lock_state(rule, now).to_owned()),
        retention_period: Some(retention(rule)),
        rule_arn: arn(call, &rule.id),
    });
    Ok(api::ListRulesResponse { rules: Some(shown.collect()), next_token: page.next_token })
}

pub(super) fn lock_rule(
    call: &mut Call<'_>,
    input: api::LockRuleRequest,
) -> Result<api::LockRuleResponse, Error> {
    let (at, rule) = find(call, &input.identifier.unwrap_or_default())?;
    if lock_state(&rule, call.now) == "locked" {
        return Err(conflict("The rule is locked already."));
    }
    let mut rule = RecycleBinRule::clone(&rule);
    rule.unlock_delay_days = delay(input.lock_configuration);
    rule.unlock_expires = None;
    check_kind(&rule)?;
    let rule = call.put(&at, rule);
    let shown = show(call, &rule);
    Ok(api::LockRuleResponse {
        description: shown.description,
        exclude_resource_tags: shown.exclude,
        identifier: shown.identifier,
        lock_configuration: shown.lock,
        lock_state: shown.lock_state,
        resource_tags: shown.resource_tags,
        resource_type: shown.resource_type,
        retention_period: shown.period,
        rule_arn: shown.arn,
        status: shown.status,
    })
}

pub(super) fn unlock_rule(
    call: &mut Call<'_>,
    input: api::UnlockRuleRequest,
) -> Result<api::UnlockRuleResponse, Error> {
    let (at, rule) = find(call, &input.identifier.unwrap_or_default())?;
    let days = match (lock_state(&rule, call.now), rule.unlock_delay_days) {
        ("locked", Some(days)) => i64::from(days),
        _ => return Err(conflict("The rule is not locked.")),
    };
    let mut rule = RecycleBinRule::clone(&rule);
    rule.unlock_expires = Some(call.now.plus_millis(days * DAY_MILLIS));
    let rule = call.put(&at, rule);
    let shown = show(call, &rule);
    Ok(api::UnlockRuleResponse {
        description: shown.description,
        exclude_resource_tags: shown.exclude,
        identifier: shown.identifier,
        lock_configuration: shown.lock,
        lock_end_time: shown.lock_end,
        lock_state: shown.lock_state,
        resource_tags: shown.resource_tags,
        resource_type: shown.resource_type,
        retention_period: shown.period,
        rule_arn: shown.arn,
        status: shown.status,
    })
}

pub(super) fn update_rule(
    call: &mut Call<'_>,
    input: api::UpdateRuleRequest,
) -> Result<api::UpdateRuleResponse, Error> {
    let (at, rule) = find(call, &input.identifier.unwrap_or_default())?;
    must_be_unlocked(&rule, call.now)?;
    if input.resource_type.as_ref().is_some_and(|kind| *kind != rule.resource_type) {
        return Err(invalid("The resource type of a rule cannot be changed."));
    }
    let mut rule = RecycleBinRule::clone(&rule);
    // A lock that is over is none any more.
    (rule.unlock_delay_days, rule.unlock_expires) = (None, None);
    if let Some(description) = input.description {
        rule.description = description;
    }
    if input.retention_period.is_some() {
        rule.retention_days = period(input.retention_period)?;
    }
    if input.resource_tags.is_some() {
        rule.resource_tags = wanted(input.resource_tags)?;
    }
    if input.exclude_resource_tags.is_some() {
        rule.exclude_tags = wanted(input.exclude_resource_tags)?;
    }
    check_kind(&rule)?;
    let rule = call.put(&at, rule);
    let shown = show(call, &rule);
    Ok(api::UpdateRuleResponse {
        description: shown.description,
        exclude_resource_tags: shown.exclude,
        identifier: shown.identifier,
        lock_end_time: shown.lock_end,
        lock_state: shown.lock_state,
        resource_tags: shown.resource_tags,
        resource_type: shown.resource_type,
        retention_period: shown.period,
        rule_arn: shown.arn,
        status: shown.status,
    })
}

pub(super) fn list_tags_for_resource(
    call: &mut Call<'_>,
    input: api::ListTagsForResourceRequest,
) -> Result<api::ListTagsForResourceResponse, Error> {
    let (_, rule) = by_arn(call, input.resource_arn)?;
    let shown = rule
        .tags
        .iter()
        .map(|(key, value)| api::Tag { key: Some(key.clone()), value: Some(value.clone()) });
    Ok(api::ListTagsForResourceResponse { tags: Some(shown.collect()) })
}

pub(super) fn tag_resource(
    call: &mut Call<'_>,
    input: api::TagResourceRequest,
) -> Result<api::TagResourceResponse, Error> {
    let (at, rule) = by_arn(call, input.resource_arn)?;
    let mut rule = RecycleBinRule::clone(&rule);
    rule.tags.extend(tags(input.tags));
    check_tags(&rule.tags)?;
    call.put(&at, rule);
    Ok(api::TagResourceResponse {})
}

pub(super) fn untag_resource(
    call: &mut Call<'_>,
    input: api::UntagResourceRequest,
) -> Result<api::UntagResourceResponse, Error> {
    let (at, rule) = by_arn(call, input.resource_arn)?;
    let mut rule = RecycleBinRule::clone(&rule);
    let names = input.tag_keys.unwrap_or_default();
    rule.tags.retain(|key, _| !names.contains(key));
    call.put(&at, rule);
    Ok(api::UntagResourceResponse {})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    fn region_level(days: i32) -> api::CreateRuleRequest {
        api::CreateRuleRequest {
            resource_type: Some("EBS_SNAPSHOT".to_owned()),
            retention_period: Some(api::RetentionPeriod {
                retention_period_unit: Some("DAYS".to_owned()),
                retention_period_value: Some(days),
            }),
            ..Default::default()
        }
    }

    fn resource_tag(name: &str, value: Option<&str>) -> Option<Vec<api::ResourceTag>> {
        Some(vec![api::ResourceTag {
            resource_tag_key: Some(name.to_owned()),
            resource_tag_value: value.map(str::to_owned),
        }])
    }

    fn days(days: i32) -> Option<api::LockConfiguration> {
        Some(api::LockConfiguration {
            unlock_delay: Some(api::UnlockDelay {
                unlock_delay_unit: Some("DAYS".to_owned()),
                unlock_delay_value: Some(days),
            }),
        })
    }

    #[test]
    fn rules_are_made_shown_changed_and_deleted() {
        let region = Region::new();
        let made = region.ok(create_rule, region_level(7));
        let id = made.identifier.unwrap();
        assert_eq!(made.status.as_deref(), Some("available"));
        let arn = made.rule_arn.unwrap();
        assert_eq!(arn, format!("arn:aws:rbin:us-east-1:123456789012:rule/{id}"));
        let by_tag = api::CreateRuleRequest {
            resource_tags: resource_tag("keep", Some("yes")),
            ..region_level(30)
        };
        region.ok(create_rule, by_tag);
        let list = |tags| api::ListRulesRequest {
            resource_type: Some("EBS_SNAPSHOT".to_owned()),
            resource_tags: tags,
            ..Default::default()
        };
        assert_eq!(region.ok(list_rules, list(None)).rules.unwrap().len(), 2);
        let tagged = region.ok(list_rules, list(resource_tag("keep", Some("yes"))));
        assert_eq!(tagged.rules.unwrap().len(), 1);
        let update = api::UpdateRuleRequest {
            identifier: Some(id.clone()),
            description: Some("a week".to_owned()),
            exclude_resource_tags: resource_tag("drop", None),
            ..Default::default()
        };
        let changed = region.ok(update_rule, update);
        assert_eq!(changed.description.as_deref(), Some("a week"));
        let keeps = |name: &str| {
            let tags = Tags::from([(name.to_owned(), String::new())]);
            region.run(|call| super::super::recycled(call, "EBS_SNAPSHOT", &tags)).unwrap()
        };
        assert!(keeps("drop").is_none());
        assert_eq!(keeps("other").unwrap().rule_id, id);
        let tag = api::TagResourceRequest {
            resource_arn: Some(arn.clone()),
            tags: Some(vec![api::Tag { key: Some("a".to_owned()), value: Some("b".to_owned()) }]),
        };
        region.ok(tag_resource, tag);
        let shown = |region: &Region| {
            let input = api::ListTagsForResourceRequest { resource_arn: Some(arn.clone()) };
            region.ok(list_tags_for_resource, input).tags.unwrap().len()
        };
        assert_eq!(shown(&region), 1);
        let untag = api::UntagResourceRequest {
            resource_arn: Some(arn.clone()),
            tag_keys: Some(vec!["a".to_owned()]),
        };
        region.ok(untag_resource, untag);
        assert_eq!(shown(&region), 0);
        let delete = || api::DeleteRuleRequest { identifier: Some(id.clone()) };
        region.ok(delete_rule, delete());
        let gone = region.run(|call| delete_rule(call, delete())).unwrap_err();
        assert_eq!((gone.code.as_ref(), gone.status), ("ResourceNotFoundException", 404));
        assert_eq!(gone.members, [("Reason", "RULE_NOT_FOUND".into())]);
    }

    #[test]
    fn a_locked_rule_stays_until_its_delay_is_over() {
        let region = Region::new();
        let locked = api::CreateRuleRequest { lock_configuration: days(7), ..region_level(7) };
        let id = region.ok(create_rule, locked).identifier.unwrap();
        let state = |region: &Region| {
            let input = api::GetRuleRequest { identifier: Some(id.clone()) };
            region.ok(get_rule, input).lock_state.unwrap()
        };
        let delete = || api::DeleteRuleRequest { identifier: Some(id.clone()) };
        assert_eq!(state(&region), "locked");
        assert!(region.refused(delete_rule, delete()).starts_with("ConflictException: "));
        let unlock = || api::UnlockRuleRequest { identifier: Some(id.clone()) };
        assert!(region.ok(unlock_rule, unlock()).lock_end_time.is_some());
        assert_eq!(state(&region), "pending_unlock");
        assert!(region.refused(unlock_rule, unlock()).starts_with("ConflictException: "));
        assert!(region.refused(delete_rule, delete()).starts_with("ConflictException: "));
        region.pass(7 * DAY_MILLIS);
        assert_eq!(state(&region), "unlocked");
        let lock =
            api::LockRuleRequest { identifier: Some(id.clone()), lock_configuration: days(8) };
        region.ok(lock_rule, lock);
        assert_eq!(state(&region), "locked");
        region.ok(unlock_rule, unlock());
        region.pass(8 * DAY_MILLIS);
        region.ok(delete_rule, delete());
    }

    #[test]
    fn what_cannot_be_a_rule() {
        let region = Region::new();
        let both = api::CreateRuleRequest {
            resource_tags: resource_tag("a", None),
            exclude_resource_tags: resource_tag("b", None),
            ..region_level(1)
        };
        let locked = api::CreateRuleRequest {
            resource_tags: resource_tag("a", None),
            lock_configuration: days(7),
            ..region_level(1)
        };
        for bad in [both, locked, region_level(0), region_level(366)] {
            assert!(region.refused(create_rule, bad).starts_with("ValidationException: "));
        }
        let volumes = api::CreateRuleRequest {
            resource_type: Some("EBS_VOLUME".to_owned()),
            ..region_level(1)
        };
        assert!(region.refused(create_rule, volumes).starts_with("UnsupportedOperation: "));
        let id = api::GetRuleRequest { identifier: Some("x/../y".to_owned()) };
        assert!(region.refused(get_rule, id).starts_with("ValidationException: "));
    }
}
