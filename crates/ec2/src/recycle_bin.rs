//! Recycle Bin: retention rules, which keep what is deleted for some days.
//!
//! A tag-level rule keeps resources with one of its tags, a Region-level rule all but those with one
//! of its exclusion tags. When several apply, the longest retention counts (Recycle Bin User Guide,
//! "How do retention rules work?").

use crate::record::snapshot::Recycled;
use crate::record::{RecycleBinRule, Tags, key};
use service::operation::Service;
use service::{Call, Error};

mod rule;

/// The service as the dispatcher serves it.
pub fn service() -> Service {
    Service {
        model: &model::rbin::SERVICE,
        operations: rule::OPERATIONS.iter().collect(),
        set_up: None,
    }
}

const DAY_MILLIS: i64 = 24 * 3_600_000;

/// Whether one of the tags of a rule is among these.
fn has_one(wanted: &[(String, Option<String>)], tags: &Tags) -> bool {
    wanted.iter().any(|(name, value)| {
        tags.get(name).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
    })
}

fn applies(rule: &RecycleBinRule, resource_type: &str, tags: &Tags) -> bool {
    rule.resource_type == resource_type
        && if rule.resource_tags.is_empty() {
            !has_one(&rule.exclude_tags, tags)
        } else {
            has_one(&rule.resource_tags, tags)
        }
}

/// The stay in the recycle bin of a resource that is deleted now; `None` when no rule keeps it.
/// `resource_type` is `EBS_SNAPSHOT` or `EC2_IMAGE`.
pub(crate) fn recycled(
    call: &Call<'_>,
    resource_type: &str,
    tags: &Tags,
) -> Result<Option<Recycled>, Error> {
    let prefix = key::of(call.region, key::RECYCLE_BIN_RULE, call.account(), "");
    let rules = call.scan::<RecycleBinRule>(&prefix)?;
    let keeping = rules
        .iter()
        .filter(|rule| applies(rule, resource_type, tags))
        .max_by_key(|rule| rule.retention_days);
    Ok(keeping.map(|rule| Recycled {
        entered: call.now,
        exits: call.now.plus_millis(i64::from(rule.retention_days) * DAY_MILLIS),
        rule_id: rule.id.clone(),
    }))
}
