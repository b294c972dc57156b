//! The scheduler: looks at EC2 through its operations, plans, and carries the plan out, all in one
//! transaction with the policy's record. So what a run has made and what the record says of it
//! cannot differ, whenever the daemon is killed.
//!
//! An operation that EC2 refuses stages nothing; the rest of the plan goes on, and the policy says
//! ERROR with EC2's words until a run succeeds again.

use crate::plan::{
    self, Action, EXPIRATION_TAG, Instance, MANAGED_TAG, Made, MadeState, POLICY_TAG, Resources,
    SCHEDULE_TAG, Volume, failed,
};
use crate::record::{self, Copied, FollowUp, Policy, Tags, Until};
use crate::schedule::{MINUTE, after};
use base::Timestamp;
use model::ec2::{self as api, op};
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::collections::BTreeMap;

/// The principal that EC2 sees.
const PRINCIPAL: &str = "dlm";
/// Longest StatusMessage (API Reference, "LifecyclePolicy").
const MESSAGE_LENGTH: usize = 500;
/// When a policy is looked at again whose actions were refused.
const AGAIN: i64 = 10 * MINUTE;

pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "lifecycle policies", for_network: false, work_key, run };

fn work_key(record_key: &str) -> Option<String> {
    let mut parts = record_key.split('/').skip(2);
    (parts.next() == Some(record::POLICY)).then(|| record_key.to_owned())
}

fn run(call: &mut Call<'_>, key: &str) -> Result<(), Error> {
    let Some(policy) = call.get::<Policy>(key)? else { return Ok(()) };
    let extended = policy.details.extend_deletion == Some(true);
    if !extended && (policy.deleted || !policy.enabled) {
        return Ok(());
    }
    let mut next = (*policy).clone();
    let wake = match observe(call, &policy) {
        Ok(resources) => step(call, &mut next, &resources),
        Err(error) => {
            next.failure = Some(message(&format!("The resources cannot be listed: {error}")));
            Some(call.now.plus_millis(AGAIN))
        }
    };
    if next.deleted && wake.is_none() {
        call.delete(key);
    } else if next != *policy {
        call.put(key, next);
    }
    if let Some(wake) = wake {
        call.effect(Effect::Again(wake));
    }
    Ok(())
}

/// Plans and acts; says when there is more to do.
fn step(call: &mut Call<'_>, policy: &mut Policy, resources: &Resources) -> Option<Timestamp> {
    let plan = plan::plan(policy, call.now, resources);
    policy.progress = plan.progress;
    if plan.recovered {
        policy.failure = None;
    }
    if let Some(failure) = plan.failure {
        policy.failure = Some(message(&failure));
    }
    let mut refused = false;
    for action in &plan.actions {
        if let Err(error) = perform(call, policy, action)
            && !is_gone(action, &error)
        {
            tracing::warn!(policy = policy.id, %action, %error, "a lifecycle policy was refused");
            refused = true;
            failed(&mut policy.progress, action, call.now, resources);
            policy.failure = Some(message(&format!("{action}: {error}")));
        }
    }
    if plan.retried && !refused && plan::is_settled(&policy.progress) {
        policy.failure = None;
    }
    let left = policy
        .progress
        .schedules
        .iter()
        .any(|schedule| schedule.run.as_ref().is_some_and(|run| !run.left.is_empty()));
    let later = call.now.plus_millis(AGAIN);
    plan.wake.map(|wake| if refused && !left { wake.max(later) } else { wake })
}

/// What was to be deleted does not exist any more: somebody else did it.
fn is_gone(action: &Action, error: &Error) -> bool {
    let deletes = matches!(action, Action::Delete { .. } | Action::DeleteCopy { .. });
    deletes && (error.code.ends_with(".NotFound") || error.code == "InvalidAMIID.Unavailable")
}

fn message(text: &str) -> String {
    text.chars().take(MESSAGE_LENGTH).collect()
}

fn filter(name: &str, values: &[&str]) -> Option<Vec<api::Filter>> {
    Some(vec![api::Filter {
        name: Some(name.to_owned()),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    }])
}

fn tags_of(tags: Option<Vec<api::Tag>>) -> Tags {
    let pair = |tag: api::Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    tags.into_iter().flatten().map(pair).collect()
}

/// Looks at what the plan depends on.
fn observe(call: &mut Call<'_>, policy: &Policy) -> Result<Resources, Error> {
    let mut resources = Resources::default();
    let mut roots: BTreeMap<String, String> = BTreeMap::new();
    if policy.targets_instances() || policy.is_default() {
        let input = api::DescribeInstancesRequest {
            filters: filter("instance-state-name", &["pending", "running", "stopping", "stopped"]),
            ..api::DescribeInstancesRequest::default()
        };
        let found = call.invoke::<op::DescribeInstances>(PRINCIPAL, input)?;
        let found = found.reservations.into_iter().flatten();
        for instance in found.flat_map(|reservation| reservation.instances.unwrap_or_default()) {
            let id = instance.instance_id.unwrap_or_default();
            roots.insert(id.clone(), instance.root_device_name.unwrap_or_default());
            resources.instances.push(Instance { id, tags: tags_of(instance.tags) });
        }
    }
    if !policy.makes_images() {
        let found = call.invoke::<op::DescribeVolumes>(PRINCIPAL, Default::default())?;
        for volume in found.volumes.into_iter().flatten() {
            let attached = volume.attachments.into_iter().flatten().next();
            let instance = attached.as_ref().and_then(|place| place.instance_id.clone());
            let device = attached.and_then(|place| place.device);
            resources.volumes.push(Volume {
                id: volume.volume_id.unwrap_or_default(),
                kind: volume.volume_type.unwrap_or_default(),
                boot: instance.as_ref().is_some_and(|id| roots.get(id) == device.as_ref()),
                instance,
                tags: tags_of(volume.tags),
            });
        }
        snapshots(call, policy, &mut resources)?;
    } else {
        images(call, policy, &mut resources)?;
    }
    Ok(resources)
}

fn snapshots(call: &mut Call<'_>, policy: &Policy, resources: &mut Resources) -> Result<(), Error> {
    // A default policy looks at everybody's backups.
    let own = format!("tag:{POLICY_TAG}");
    let input = api::DescribeSnapshotsRequest {
        owner_ids: Some(vec!["self".to_owned()]),
        filters: if policy.is_default() { None } else { filter(&own, &[&policy.id]) },
        ..api::DescribeSnapshotsRequest::default()
    };
    let found = call.invoke::<op::DescribeSnapshots>(PRINCIPAL, input)?;
    for snapshot in found.snapshots.into_iter().flatten() {
        let id = snapshot.snapshot_id.unwrap_or_default();
        let source = snapshot.volume_id.unwrap_or_default();
        let created = snapshot.start_time.unwrap_or_default();
        let state = match (snapshot.state.as_deref(), snapshot.storage_tier.as_deref()) {
            (_, Some("archive")) => MadeState::Archived,
            (Some("completed"), _) if policy.progress.archived.contains(&id) => MadeState::Archived,
            (Some("completed"), _) => MadeState::Complete,
            (Some("pending"), _) => MadeState::Pending,
            _ => MadeState::Failed,
        };
        if state != MadeState::Failed {
            let latest = resources.backups.entry(source.clone()).or_insert(created);
            *latest = created.max(*latest);
        }
        let tags = tags_of(snapshot.tags);
        resources.made.extend(made(policy, id, source, created, state, false, tags));
    }
    Ok(())
}

fn images(call: &mut Call<'_>, policy: &Policy, resources: &mut Resources) -> Result<(), Error> {
    let own = format!("tag:{POLICY_TAG}");
    let input = api::DescribeImagesRequest {
        owners: Some(vec!["self".to_owned()]),
        include_deprecated: Some(true),
        filters: if policy.is_default() { None } else { filter(&own, &[&policy.id]) },
        ..api::DescribeImagesRequest::default()
    };
    let found = call.invoke::<op::DescribeImages>(PRINCIPAL, input)?;
    for image in found.images.into_iter().flatten() {
        let name = image.name.unwrap_or_default();
        // The name says the instance, too.
        let named = name.split('_').find(|part| part.starts_with("i-")).map(str::to_owned);
        let source = image.source_instance_id.or(named).unwrap_or_default();
        let created = image.creation_date.as_deref().and_then(Timestamp::parse_iso);
        let created = created.unwrap_or_default();
        let state = match image.state.as_deref() {
            Some("available" | "disabled") => MadeState::Complete,
            Some("pending" | "transient") => MadeState::Pending,
            _ => MadeState::Failed,
        };
        if state != MadeState::Failed {
            let latest = resources.backups.entry(source.clone()).or_insert(created);
            *latest = created.max(*latest);
        }
        let id = image.image_id.unwrap_or_default();
        let deprecated = image.deprecation_time.is_some();
        let tags = tags_of(image.tags);
        resources.made.extend(made(policy, id, source, created, state, deprecated, tags));
    }
    Ok(())
}

/// One of the policy's own.
fn made(
    policy: &Policy,
    id: String,
    source: String,
    created: Timestamp,
    state: MadeState,
    deprecated: bool,
    tags: Tags,
) -> Option<Made> {
    if tags.get(POLICY_TAG) != Some(&policy.id) || !tags.contains_key(MANAGED_TAG) {
        return None;
    }
    let schedule = tags.get(SCHEDULE_TAG).cloned();
    let expires = tags.get(EXPIRATION_TAG).and_then(|time| Timestamp::parse_iso(time));
    Some(Made { id, source, schedule, created, expires, state, deprecated, tags })
}

fn specifications(tags: &Tags, kinds: &[&str]) -> Option<Vec<api::TagSpecification>> {
    let tags: Vec<api::Tag> = tags
        .iter()
        .map(|(key, value)| api::Tag { key: Some(key.clone()), value: Some(value.clone()) })
        .collect();
    let specification = |kind: &&str| api::TagSpecification {
        resource_type: Some((*kind).to_owned()),
        tags: Some(tags.clone()),
    };
    Some(kinds.iter().map(specification).collect())
}

fn description(policy: &Policy, schedule: usize) -> String {
    match policy.schedules().get(schedule).and_then(|schedule| schedule.name.as_ref()) {
        Some(name) => format!("Created for policy: {} schedule: {name}", policy.id),
        None => format!("Created for policy: {}", policy.id),
    }
}

/// Carries an action out and remembers what comes of it.
fn perform(call: &mut Call<'_>, policy: &mut Policy, action: &Action) -> Result<(), Error> {
    let created = call.now;
    match action {
        Action::Snapshot { schedule, volume, tags } => {
            let input = api::CreateSnapshotRequest {
                volume_id: Some(volume.clone()),
                description: Some(description(policy, *schedule)),
                tag_specifications: specifications(tags, &["snapshot"]),
                ..api::CreateSnapshotRequest::default()
            };
            let made = call.invoke::<op::CreateSnapshot>(PRINCIPAL, input)?;
            remember(policy, made.snapshot_id, *schedule, created);
        }
        Action::Snapshots { schedule, instance, exclude_boot, exclude, copy_tags, tags } => {
            let specification = api::InstanceSpecification {
                instance_id: Some(instance.clone()),
                exclude_boot_volume: exclude_boot.then_some(true),
                exclude_data_volume_ids: (!exclude.is_empty()).then(|| exclude.clone()),
            };
            let input = api::CreateSnapshotsRequest {
                instance_specification: Some(specification),
                copy_tags_from_source: copy_tags.then(|| "volume".to_owned()),
                description: Some(description(policy, *schedule)),
                tag_specifications: specifications(tags, &["snapshot"]),
                ..api::CreateSnapshotsRequest::default()
            };
            let made = call.invoke::<op::CreateSnapshots>(PRINCIPAL, input)?;
            for snapshot in made.snapshots.into_iter().flatten() {
                remember(policy, snapshot.snapshot_id, *schedule, created);
            }
        }
        Action::Image { schedule, instance, reboot, tags } => {
            let time = created.format("%Y-%m-%dT%H.%M.%S.%3fZ");
            let input = api::CreateImageRequest {
                instance_id: Some(instance.clone()),
                name: Some(format!("{}_{instance}_{time}", policy.id)),
                description: Some(description(policy, *schedule)),
                no_reboot: Some(!reboot),
                tag_specifications: specifications(tags, &["image", "snapshot"]),
                ..api::CreateImageRequest::default()
            };
            let made = call.invoke::<op::CreateImage>(PRINCIPAL, input)?;
            remember(policy, made.image_id, *schedule, created);
        }
        Action::Copy { id, schedule, rule, region, expires, tags } => {
            let copied = copy(call, policy, id, (*schedule, *rule), region, tags)?;
            if let Some(expires) = *expires {
                let region = region.clone();
                policy.progress.copies.push(Copied { id: copied, region, expires });
            }
        }
        Action::Share { id, schedule, accounts } => {
            permit(call, id, accounts, true)?;
            let rules = policy.schedules().get(*schedule);
            let rules = rules.and_then(|rules| rules.share_rules.as_ref()?.first());
            let ends = rules.and_then(|rule| {
                Some(after(created, rule.unshare_interval?, rule.unshare_interval_unit.as_deref()))
            });
            if ends.is_some() {
                let share = Until { id: id.clone(), schedule: *schedule, ends };
                policy.progress.shares.push(share);
            }
        }
        Action::Unshare { id, accounts, .. } => permit(call, id, accounts, false)?,
        Action::FastRestore { id, schedule } => {
            let Some(rule) = fast_restore(policy, *schedule) else { return Ok(()) };
            let ends = rule.interval.map(|i| after(created, i, rule.interval_unit.as_deref()));
            let input = api::EnableFastSnapshotRestoresRequest {
                availability_zones: rule.availability_zones,
                availability_zone_ids: rule.availability_zone_ids,
                source_snapshot_ids: Some(vec![id.clone()]),
                ..api::EnableFastSnapshotRestoresRequest::default()
            };
            let done = call.invoke::<op::EnableFastSnapshotRestores>(PRINCIPAL, input)?;
            if done.unsuccessful.is_some_and(|items| !items.is_empty()) {
                return Err(Error::client("FastSnapshotRestore", "not enabled in all zones"));
            }
            policy.progress.fast.push(Until { id: id.clone(), schedule: *schedule, ends });
        }
        Action::SlowRestore { id, schedule } => {
            let Some(rule) = fast_restore(policy, *schedule) else { return Ok(()) };
            let input = api::DisableFastSnapshotRestoresRequest {
                availability_zones: rule.availability_zones,
                availability_zone_ids: rule.availability_zone_ids,
                source_snapshot_ids: Some(vec![id.clone()]),
                ..api::DisableFastSnapshotRestoresRequest::default()
            };
            call.invoke::<op::DisableFastSnapshotRestores>(PRINCIPAL, input)?;
        }
        Action::Deprecate { id, at, .. } => deprecate(call, call.region, id, *at)?,
        Action::Archive { id } => {
            let input = api::ModifySnapshotTierRequest {
                snapshot_id: Some(id.clone()),
                storage_tier: Some("archive".to_owned()),
                ..api::ModifySnapshotTierRequest::default()
            };
            call.invoke::<op::ModifySnapshotTier>(PRINCIPAL, input)?;
            policy.progress.archived.insert(id.clone());
        }
        Action::Delete { id } => {
            delete(call, call.region, id)?;
            policy.progress.archived.remove(id);
        }
        Action::DeleteCopy { id, region } => delete(call, region, id)?,
    }
    Ok(())
}

fn fast_restore(policy: &Policy, schedule: usize) -> Option<record::FastRestoreRule> {
    policy.schedules().get(schedule)?.fast_restore_rule.clone()
}

/// Keeps an eye on what was made, where its schedule does something with it later.
fn remember(policy: &mut Policy, id: Option<String>, schedule: usize, created: Timestamp) {
    let follows = match policy.schedules().get(schedule) {
        Some(rules) => {
            rules.cross_region_copy_rules.as_ref().is_some_and(|rules| !rules.is_empty())
                || rules.share_rules.as_ref().is_some_and(|rules| !rules.is_empty())
                || rules.fast_restore_rule.is_some()
                || rules.deprecate_rule.is_some()
        }
        None => policy.details.cross_region_copy_targets.is_some(),
    };
    if let Some(id) = id.filter(|_| follows) {
        policy.progress.made.push(FollowUp { id, schedule, created, part: None, again: None });
    }
}

fn delete(call: &mut Call<'_>, region: &str, id: &str) -> Result<(), Error> {
    if id.starts_with("ami-") {
        let input = api::DeregisterImageRequest {
            image_id: Some(id.to_owned()),
            delete_associated_snapshots: Some(true),
            ..api::DeregisterImageRequest::default()
        };
        call.invoke_in::<op::DeregisterImage>(PRINCIPAL, region, input)?;
    } else {
        let input = api::DeleteSnapshotRequest {
            snapshot_id: Some(id.to_owned()),
            ..api::DeleteSnapshotRequest::default()
        };
        call.invoke_in::<op::DeleteSnapshot>(PRINCIPAL, region, input)?;
    }
    Ok(())
}

fn permit(call: &mut Call<'_>, id: &str, accounts: &[String], add: bool) -> Result<(), Error> {
    let permission = |account: &String| api::CreateVolumePermission {
        user_id: Some(account.clone()),
        ..api::CreateVolumePermission::default()
    };
    let list = Some(accounts.iter().map(permission).collect());
    let (added, removed) = if add { (list, None) } else { (None, list) };
    let input = api::ModifySnapshotAttributeRequest {
        snapshot_id: Some(id.to_owned()),
        attribute: Some("createVolumePermission".to_owned()),
        create_volume_permission: Some(api::CreateVolumePermissionModifications {
            add: added,
            remove: removed,
        }),
        ..api::ModifySnapshotAttributeRequest::default()
    };
    call.invoke::<op::ModifySnapshotAttribute>(PRINCIPAL, input)?;
    Ok(())
}

fn deprecate(call: &mut Call<'_>, region: &str, id: &str, at: Timestamp) -> Result<(), Error> {
    let input = api::EnableImageDeprecationRequest {
        image_id: Some(id.to_owned()),
        deprecate_at: Some(at),
        ..api::EnableImageDeprecationRequest::default()
    };
    call.invoke_in::<op::EnableImageDeprecation>(PRINCIPAL, region, input)?;
    Ok(())
}

/// Copies into another region; gives the copy's id.
fn copy(
    call: &mut Call<'_>,
    policy: &Policy,
    id: &str,
    (schedule, rule): (usize, usize),
    region: &str,
    tags: &Tags,
) -> Result<String, Error> {
    let rules = policy.schedules().get(schedule);
    let rule = rules.and_then(|rules| rules.cross_region_copy_rules.as_ref()?.get(rule));
    let encrypted = rule.is_some_and(|rule| rule.encrypted == Some(true)).then_some(true);
    let kms_key_id = rule.and_then(|rule| rule.cmk_arn.clone());
    let source = call.region.to_owned();
    let description = format!("[Copied {id} from {source}] Created for policy: {}", policy.id);
    if !id.starts_with("ami-") {
        let input = api::CopySnapshotRequest {
            source_region: Some(source),
            source_snapshot_id: Some(id.to_owned()),
            description: Some(description),
            encrypted,
            kms_key_id,
            tag_specifications: specifications(tags, &["snapshot"]),
            ..api::CopySnapshotRequest::default()
        };
        let made = call.invoke_in::<op::CopySnapshot>(PRINCIPAL, region, input)?;
        return Ok(made.snapshot_id.unwrap_or_default());
    }
    let input = api::CopyImageRequest {
        source_region: Some(source),
        source_image_id: Some(id.to_owned()),
        name: Some(format!("{}_{id}_{}", policy.id, call.now.format("%Y-%m-%dT%H.%M.%S.%3fZ"))),
        description: Some(description),
        encrypted,
        kms_key_id,
        tag_specifications: specifications(tags, &["image", "snapshot"]),
        ..api::CopyImageRequest::default()
    };
    let made = call.invoke_in::<op::CopyImage>(PRINCIPAL, region, input)?;
    let copy = made.image_id.unwrap_or_default();
    if let Some(interval) = rule.and_then(|rule| rule.deprecate_rule.as_ref()) {
        let unit = interval.interval_unit.as_deref();
        let at = after(call.now, interval.interval.unwrap_or(1), unit);
        deprecate(call, region, &copy, at)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests;
