//! What a policy must be (DLM API Reference, the pages of the data types): what the model cannot
//! say, as which parameters belong together.
//!
//! Errors are `InvalidRequestException`, in the words of AWS where they are known: "The following
//! required parameter(s) are missing: {TargetTags}".

use crate::record::{
    CreateRule, IMAGES, INSTANCE, PolicyDetails, SNAPSHOTS, Schedule, Tag, VOLUME,
};
use crate::schedule::{DAY, INTERVALS, UNITS, When, after, time_of_day};
use base::Timestamp;
use service::Error;

/// Shortest time between two runs of a schedule that archives (EBS User Guide, "Considerations for
/// snapshot lifecycle policies").
const ARCHIVE_EVERY: i64 = 28 * DAY;
/// Shortest stay in the archive (API Reference, "RetentionArchiveTier").
const ARCHIVE_FOR: i64 = 90 * DAY;
const VOLUME_TYPES: [&str; 7] = ["standard", "io1", "io2", "gp2", "gp3", "sc1", "st1"];

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::client("InvalidRequestException", message)
}

pub(crate) fn missing(names: &[&str]) -> Error {
    invalid(format!("The following required parameter(s) are missing: {{{}}}", names.join(", ")))
        .with_member("RequiredParameters", list(names))
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn exclusive(names: &[&str]) -> Error {
    invalid(format!("The following parameter(s) are mutually exclusive: {{{}}}", names.join(", ")))
        .with_member("MutuallyExclusiveParameters", list(names))
}

fn not_for(names: &[&str], what: &str) -> Error {
    invalid(format!("The parameter(s) {{{}}} cannot be used with {what}", names.join(", ")))
}

/// A text of letters, digits, spaces, `_` and `-`: descriptions and names.
pub(crate) fn plain_text(name: &str, text: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-');
    if !text.is_empty() && text.chars().all(allowed) {
        return Ok(());
    }
    Err(invalid(format!(
        "Invalid value for {name}: it may contain the characters [0-9A-Za-z _-] only"
    )))
}

pub(crate) fn role_arn(arn: &str) -> Result<(), Error> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let well_formed = matches!(
        parts[..],
        ["arn", partition, "iam", "", account, role]
            if partition.starts_with("aws")
                && !account.is_empty()
                && account.bytes().all(|byte| byte.is_ascii_digit())
                && role.starts_with("role/")
    );
    if well_formed { Ok(()) } else { Err(invalid("Invalid ExecutionRoleArn")) }
}

/// A tag key of the policy itself.
pub(crate) fn policy_tag_key(key: &str) -> Result<(), Error> {
    if key.starts_with("aws:") {
        return Err(invalid(format!("Invalid tag key {key}: the prefix aws: is reserved")));
    }
    Ok(())
}

/// Checks the rules of a policy in a region at a time.
pub(crate) fn details(details: &PolicyDetails, region: &str, now: Timestamp) -> Result<(), Error> {
    if details.is_default() { default(details, region) } else { custom(details, region, now) }
}

/// Members of default policies that are present.
fn of_default(details: &PolicyDetails) -> Vec<&'static str> {
    let present = [
        ("CopyTags", details.copy_tags.is_some()),
        ("CreateInterval", details.create_interval.is_some()),
        ("CrossRegionCopyTargets", !is_empty(&details.cross_region_copy_targets)),
        ("Exclusions", details.exclusions.is_some()),
        ("ExtendDeletion", details.extend_deletion.is_some()),
        ("ResourceType", details.resource_type.is_some()),
        ("RetainInterval", details.retain_interval.is_some()),
    ];
    present.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

fn is_empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn default(details: &PolicyDetails, region: &str) -> Result<(), Error> {
    let custom = [
        ("Parameters", details.parameters.is_some()),
        ("ResourceLocations", !is_empty(&details.resource_locations)),
        ("ResourceTypes", !is_empty(&details.resource_types)),
        ("Schedules", !is_empty(&details.schedules)),
        ("TargetTags", !is_empty(&details.target_tags)),
    ];
    let custom: Vec<&str> =
        custom.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    if !custom.is_empty() {
        return Err(not_for(&custom, "default policies"));
    }
    let Some(kind) = details.resource_type.as_deref() else {
        return Err(missing(&["ResourceType"]));
    };
    let create = details.create_interval.unwrap_or(1);
    let retain = details.retain_interval.unwrap_or(7);
    if !(1..=7).contains(&create) {
        return Err(invalid("Invalid CreateInterval: it must be between 1 and 7 days"));
    }
    if !(2..=14).contains(&retain) {
        return Err(invalid("Invalid RetainInterval: it must be between 2 and 14 days"));
    }
    if retain <= create {
        return Err(invalid("RetainInterval must be greater than CreateInterval"));
    }
    if let Some(exclusions) = &details.exclusions {
        let volumes_only = exclusions.exclude_boot_volumes == Some(true)
            || !is_empty(&exclusions.exclude_volume_types);
        if kind == INSTANCE && volumes_only {
            return Err(not_for(
                &["ExcludeBootVolumes", "ExcludeVolumeTypes"],
                "default policies for EBS-backed AMIs",
            ));
        }
        for kind in exclusions.exclude_volume_types.iter().flatten() {
            if !VOLUME_TYPES.contains(&kind.as_str()) {
                return Err(invalid(format!("Invalid volume type {kind}")));
            }
        }
    }
    let targets = details.cross_region_copy_targets.iter().flatten();
    regions(targets.map(|target| target.target_region.as_deref().unwrap_or_default()), region)
}

fn custom(details: &PolicyDetails, region: &str, now: Timestamp) -> Result<(), Error> {
    let foreign = of_default(details);
    if !foreign.is_empty() {
        return Err(not_for(&foreign, "custom policies"));
    }
    let absent: Vec<&str> = [
        ("ResourceTypes", is_empty(&details.resource_types)),
        ("TargetTags", is_empty(&details.target_tags)),
        ("Schedules", is_empty(&details.schedules)),
    ]
    .into_iter()
    .filter_map(|(name, absent)| absent.then_some(name))
    .collect();
    if !absent.is_empty() {
        return Err(missing(&absent));
    }
    let kind = details.policy_type.as_deref().unwrap_or(SNAPSHOTS);
    let target = details.resource_type().unwrap_or(VOLUME);
    if kind == IMAGES && target != INSTANCE {
        return Err(invalid("AMI policies target the resource type INSTANCE only"));
    }
    if let Some(other) = details.resource_locations.iter().flatten().find(|l| *l != "CLOUD") {
        return Err(Error::unsupported(format!("There is no {other} in this region.")));
    }
    tags("TargetTags", details.target_tags.as_ref())?;
    if let Some(parameters) = &details.parameters {
        let sets = parameters.exclude_boot_volume == Some(true)
            || !is_empty(&parameters.exclude_data_volume_tags);
        if sets && (kind == IMAGES || target != INSTANCE) {
            return Err(not_for(
                &["ExcludeBootVolume", "ExcludeDataVolumeTags"],
                "policies other than snapshot policies that target instances",
            ));
        }
        if parameters.no_reboot == Some(true) && kind != IMAGES {
            return Err(not_for(&["NoReboot"], "snapshot policies"));
        }
    }
    let schedules = details.schedules.as_deref().unwrap_or_default();
    for (index, each) in schedules.iter().enumerate() {
        schedule(each, kind, target, region, now)?;
        if each.name.is_some() && schedules[..index].iter().any(|other| other.name == each.name) {
            return Err(invalid(format!(
                "Schedule names must be unique: {}",
                each.name.as_deref().unwrap_or_default()
            )));
        }
        if by_count(each) != by_count(&schedules[0]) {
            return Err(invalid("All schedules must have the same retention type"));
        }
    }
    Ok(())
}

/// Whether a schedule retains by count, not by age.
pub(crate) fn by_count(schedule: &Schedule) -> bool {
    schedule.retain_rule.as_ref().is_some_and(|rule| rule.count.is_some())
}

fn tags(name: &str, tags: Option<&Vec<Tag>>) -> Result<(), Error> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for tag in tags.into_iter().flatten() {
        let key = tag.key.as_deref().unwrap_or_default();
        let value = tag.value.as_deref().unwrap_or_default();
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(invalid(format!("Invalid tag in {name}: {key}")));
        }
        // A target may be any of several values of a key; what is made has one.
        let twice = seen
            .iter()
            .any(|(known, other)| *known == key && (name != "TargetTags" || *other == value));
        if twice {
            return Err(invalid(format!("Duplicate tag key in {name}: {key}")));
        }
        if name != "TargetTags" && key.starts_with("aws:") {
            return Err(invalid(format!("Invalid tag key {key}: the prefix aws: is reserved")));
        }
        seen.push((key, value));
    }
    Ok(())
}

/// An interval with its unit, both or none; true when they are there.
fn interval(what: &str, interval: Option<i32>, unit: Option<&str>) -> Result<bool, Error> {
    match (interval, unit) {
        (None, None) => Ok(false),
        (Some(_), None) => Err(missing(&[&format!("{what}.IntervalUnit")])),
        (None, Some(_)) => Err(missing(&[&format!("{what}.Interval")])),
        (Some(interval), Some(unit)) => {
            let most = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, most)| *most);
            let most = most.ok_or_else(|| invalid(format!("Invalid {what}.IntervalUnit")))?;
            if interval > most {
                return Err(invalid(format!(
                    "Invalid {what}.Interval: it must be at most {most} {unit}"
                )));
            }
            Ok(true)
        }
    }
}

/// A rule by count or by age; `by_count` is the schedule's way, which the rule must share.
fn count_or_age(
    what: &str,
    count: Option<i32>,
    age: (Option<i32>, Option<&str>),
    must_count: Option<bool>,
) -> Result<(), Error> {
    let aged = interval(what, age.0, age.1)?;
    match (count.is_some(), aged) {
        (true, true) => {
            return Err(exclusive(&[&format!("{what}.Count"), &format!("{what}.Interval")]));
        }
        (false, false) => return Err(missing(&[&format!("{what}.Count")])),
        _ => {}
    }
    match must_count {
        Some(true) if aged => Err(missing(&[&format!("{what}.Count")])),
        Some(false) if !aged => Err(missing(&[&format!("{what}.Interval")])),
        _ => Ok(()),
    }
}

fn schedule(
    schedule: &Schedule,
    kind: &str,
    target: &str,
    region: &str,
    now: Timestamp,
) -> Result<(), Error> {
    if let Some(name) = &schedule.name {
        plain_text("Schedule.Name", name)?;
    }
    let Some(create) = &schedule.create_rule else { return Err(missing(&["CreateRule"])) };
    let when = create_rule(create, now)?;
    let Some(retain) = &schedule.retain_rule else { return Err(missing(&["RetainRule"])) };
    count_or_age(
        "RetainRule",
        retain.count,
        (retain.interval, retain.interval_unit.as_deref()),
        None,
    )?;
    let counts = by_count(schedule);
    let kept = retain.count.or(retain.interval).unwrap_or_default();
    if kept == 0 && schedule.archive_rule.is_none() {
        return Err(invalid("RetainRule must retain at least 1 snapshot or AMI, or 1 day"));
    }
    let of_kept = [
        ("FastRestoreRule", schedule.fast_restore_rule.is_some()),
        ("ShareRules", !is_empty(&schedule.share_rules)),
        ("CrossRegionCopyRules", !is_empty(&schedule.cross_region_copy_rules)),
    ];
    let of_kept: Vec<&str> =
        of_kept.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    if kept == 0 && !of_kept.is_empty() {
        return Err(not_for(&of_kept, "a retention of 0"));
    }
    tags("TagsToAdd", schedule.tags_to_add.as_ref())?;
    tags("VariableTags", schedule.variable_tags.as_ref())?;
    let variables = schedule.variable_tags.as_deref().unwrap_or_default();
    if !variables.is_empty() && target != INSTANCE {
        return Err(not_for(&["VariableTags"], "policies that target volumes"));
    }
    for tag in variables {
        let value = tag.value.as_deref().unwrap_or_default();
        if !matches!(value, "$(instance-id)" | "$(timestamp)") {
            return Err(invalid(format!(
                "Invalid variable tag value {value}: it is $(instance-id) or $(timestamp)"
            )));
        }
    }
    if kind == IMAGES {
        let foreign: Vec<&str> = [
            ("FastRestoreRule", schedule.fast_restore_rule.is_some()),
            ("ShareRules", !is_empty(&schedule.share_rules)),
            ("ArchiveRule", schedule.archive_rule.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect();
        if !foreign.is_empty() {
            return Err(not_for(&foreign, "AMI policies"));
        }
    } else if schedule.deprecate_rule.is_some() {
        return Err(not_for(&["DeprecateRule"], "snapshot policies"));
    }
    if let Some(rule) = &schedule.fast_restore_rule {
        let age = (rule.interval, rule.interval_unit.as_deref());
        count_or_age("FastRestoreRule", rule.count, age, Some(counts))?;
        match (is_empty(&rule.availability_zones), is_empty(&rule.availability_zone_ids)) {
            (true, true) => return Err(missing(&["FastRestoreRule.AvailabilityZones"])),
            (false, false) => {
                return Err(exclusive(&["AvailabilityZones", "AvailabilityZoneIds"]));
            }
            _ => {}
        }
        no_longer("FastRestoreRule", rule.count, age, schedule, now)?;
    }
    if let Some(rule) = &schedule.deprecate_rule {
        let age = (rule.interval, rule.interval_unit.as_deref());
        count_or_age("DeprecateRule", rule.count, age, Some(counts))?;
        no_longer("DeprecateRule", rule.count, age, schedule, now)?;
    }
    for rule in schedule.share_rules.iter().flatten() {
        let accounts = rule.target_accounts.as_deref().unwrap_or_default();
        let digits = |id: &String| id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit());
        if accounts.is_empty() || !accounts.iter().all(digits) {
            return Err(invalid("Invalid TargetAccounts: an account id has 12 digits"));
        }
        interval("ShareRules", rule.unshare_interval, rule.unshare_interval_unit.as_deref())?;
    }
    if let Some(rule) = &schedule.archive_rule {
        if target != VOLUME {
            return Err(not_for(&["ArchiveRule"], "policies that target instances"));
        }
        if schedule.fast_restore_rule.is_some() && kept == 0 {
            return Err(exclusive(&["ArchiveRule", "FastRestoreRule"]));
        }
        let tier = rule.retain_rule.as_ref().and_then(|r| r.retention_archive_tier.as_ref());
        let Some(tier) = tier else { return Err(missing(&["RetentionArchiveTier"])) };
        let age = (tier.interval, tier.interval_unit.as_deref());
        count_or_age("RetentionArchiveTier", tier.count, age, Some(counts))?;
        let gaps = when.gaps(now);
        let least = gaps.map_or(i64::MAX, |(least, _)| least);
        if least < ARCHIVE_EVERY {
            return Err(invalid(
                "ArchiveRule needs a schedule that creates snapshots every 28 days or less often",
            ));
        }
        let stay = match tier.count {
            Some(count) => least.saturating_mul(i64::from(count)),
            None => after(now, tier.interval.unwrap_or(0), age.1).millis_since(now),
        };
        if stay < ARCHIVE_FOR {
            return Err(invalid("Snapshots must stay in the archive for at least 90 days"));
        }
    }
    let rules = schedule.cross_region_copy_rules.as_deref().unwrap_or_default();
    let mut copied_to = Vec::new();
    for rule in rules {
        let destination = match (&rule.target, &rule.target_region) {
            (Some(_), Some(_)) => return Err(exclusive(&["Target", "TargetRegion"])),
            (Some(_), None) if kind == IMAGES => {
                return Err(not_for(&["CrossRegionCopyRules.Target"], "AMI policies"));
            }
            (Some(target), None) | (None, Some(target)) => target,
            (None, None) => return Err(missing(&["CrossRegionCopyRules.Target"])),
        };
        copied_to.push(destination.as_str());
        if rule.cmk_arn.is_some() && rule.encrypted != Some(true) {
            return Err(not_for(&["CmkArn"], "copies that are not to be encrypted"));
        }
        if let Some(retain) = &rule.retain_rule {
            let given = interval("RetainRule", retain.interval, retain.interval_unit.as_deref())?;
            if !given {
                return Err(missing(&["CrossRegionCopyRules.RetainRule.Interval"]));
            }
        }
        if let Some(rule) = &rule.deprecate_rule {
            if kind != IMAGES {
                return Err(not_for(&["CrossRegionCopyRules.DeprecateRule"], "snapshot policies"));
            }
            interval("DeprecateRule", rule.interval, rule.interval_unit.as_deref())?;
        }
    }
    regions(copied_to.into_iter(), region)
}

/// A part of what is retained cannot be more than that.
fn no_longer(
    what: &str,
    count: Option<i32>,
    age: (Option<i32>, Option<&str>),
    schedule: &Schedule,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(retain) = &schedule.retain_rule else { return Ok(()) };
    let longer = match (count, retain.count, age.0, retain.interval) {
        (Some(count), Some(kept), ..) => count > kept,
        (_, _, Some(interval), Some(kept)) => {
            after(now, interval, age.1) > after(now, kept, retain.interval_unit.as_deref())
        }
        _ => false,
    };
    if longer {
        return Err(invalid(format!("{what} must not exceed the schedule's RetainRule")));
    }
    Ok(())
}

fn regions<'a>(names: impl Iterator<Item = &'a str>, own: &str) -> Result<(), Error> {
    let mut seen = Vec::new();
    for name in names {
        if name.starts_with("arn:") {
            return Err(Error::unsupported("There is no OUTPOST in this region."));
        }
        let parts: Vec<&str> = name.split('-').collect();
        let letters =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
        let last = parts.last().copied().unwrap_or_default();
        let is_region = parts.len() >= 3
            && parts[..parts.len() - 1].iter().all(letters)
            && !last.is_empty()
            && last.bytes().all(|b| b.is_ascii_digit());
        if !is_region || name == own || seen.contains(&name) {
            return Err(invalid(format!("Invalid target region {name}")));
        }
        seen.push(name);
    }
    if seen.len() > 3 {
        return Err(invalid("Copies can be made in at most 3 regions"));
    }
    Ok(())
}

fn create_rule(rule: &CreateRule, now: Timestamp) -> Result<When, Error> {
    if let Some(other) = rule.location.as_deref().filter(|location| *location != "CLOUD") {
        return Err(Error::unsupported(format!("There is no {other} in this region.")));
    }
    if rule.cron_expression.is_some() {
        if rule.interval.is_some() || rule.interval_unit.is_some() || !is_empty(&rule.times) {
            return Err(exclusive(&["CronExpression", "Interval", "IntervalUnit", "Times"]));
        }
    } else {
        let Some(interval) = rule.interval else {
            return Err(missing(&["CreateRule.Interval"]));
        };
        if rule.interval_unit.is_none() {
            return Err(missing(&["CreateRule.IntervalUnit"]));
        }
        if !INTERVALS.contains(&interval) {
            return Err(invalid(
                "Invalid CreateRule.Interval: it must be one of 1, 2, 3, 4, 6, 8, 12, 24",
            ));
        }
        if let Some(time) = rule.times.iter().flatten().find(|time| time_of_day(time).is_none()) {
            return Err(invalid(format!("Invalid time {time}: the format is hh:mm")));
        }
    }
    let refused = |why: &str| invalid(format!("Invalid cron expression: {why}"));
    let when = When::of(rule).map_err(|why| refused(&why))?;
    if let When::Cron(cron) = &when {
        if cron.per_hour() > 1 {
            return Err(refused("the interval must be at least 1 hour"));
        }
        if when.next(now).is_none() {
            return Err(refused("it is never due again"));
        }
        if when.gaps(now).is_some_and(|(_, longest)| longest > 366 * DAY) {
            return Err(refused("the interval must be at most 1 year"));
        }
    }
    Ok(when)
}
