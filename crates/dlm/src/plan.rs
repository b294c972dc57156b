//! What a policy does next: a pure function of the policy, the time and what there is.
//!
//! ```text
//!   a schedule:  idle ──(due)──► run: targets left ──(some at a time)──► none left ──► idle
//!                                        ▲                │ some failed
//!                                        └──(later, for an hour)
//!   what it made: pending ──► complete ──(copy, share, …)──► kept ──(too many, too old)──► gone
//!                                                              └──► archived ──► gone
//! ```
//!
//! All that was missed while nobody looked is one run, and a run is in the record before its first
//! action, in the same transaction: so each due time runs once. Retention waits until the runs are
//! done, and counts what is complete: an old snapshot goes when the new one is there.

use crate::check::by_count;
use crate::record::{
    Copied, CrossRegionCopyRule, FollowUp, Part, Policy, Progress, Run, Schedule, Tags, Until,
    tag_map,
};
use crate::schedule::{DAY, HOUR, MINUTE, When, after};
use base::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most creations, and most deletions, in one transaction.
const BATCH: usize = 16;
/// When what failed is tried again, and for how long (a run starts within an hour of its time).
const RETRY: i64 = 10 * MINUTE;
const PATIENCE: i64 = HOUR;
/// For how long a copy and the like are tried after their snapshot or AMI was made.
const FOLLOW_UP_PATIENCE: i64 = DAY;
/// How long what was made may be unseen, and how soon it is looked at for the first time.
const POLL: i64 = MINUTE;

/// Tag keys that the scheduler gives (EBS User Guide, "How Amazon Data Lifecycle Manager works").
pub(crate) const POLICY_TAG: &str = "aws:dlm:lifecycle-policy-id";
/// Not on what default policies make.
pub(crate) const SCHEDULE_TAG: &str = "aws:dlm:lifecycle-schedule-name";
/// With retention by age.
pub(crate) const EXPIRATION_TAG: &str = "aws:dlm:expirationTime";
/// `true`.
pub(crate) const MANAGED_TAG: &str = "dlm:managed";

/// A volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volume {
    /// `vol-…`.
    pub(crate) id: String,
    /// `gp3`.
    pub(crate) kind: String,
    /// The instance that it is attached to.
    pub(crate) instance: Option<String>,
    /// It is that instance's root volume.
    pub(crate) boot: bool,
    /// Tags.
    pub(crate) tags: Tags,
}

/// An instance that can be backed up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    /// `i-…`.
    pub(crate) id: String,
    /// Tags.
    pub(crate) tags: Tags,
}

/// How far something is that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadeState {
    /// Not usable yet.
    Pending,
    /// There.
    Complete,
    /// In the archive.
    Archived,
    /// It will never be.
    Failed,
}

/// A snapshot or an AMI that the policy made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// `snap-…` or `ami-…`.
    pub(crate) id: String,
    /// The volume or the instance that it is of.
    pub(crate) source: String,
    /// The schedule's name.
    pub(crate) schedule: Option<String>,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// When it is to go, with retention by age.
    pub(crate) expires: Option<Timestamp>,
    /// How far it is.
    pub(crate) state: MadeState,
    /// An AMI that will be or is deprecated.
    pub(crate) deprecated: bool,
    /// Tags.
    pub(crate) tags: Tags,
}

/// What there is in the account's region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    /// All volumes; empty where no rule asks for them.
    pub(crate) volumes: Vec<Volume>,
    /// All instances that are not terminated.
    pub(crate) instances: Vec<Instance>,
    /// What this policy made.
    pub(crate) made: Vec<Made>,
    /// For default policies: when a source was backed up last, by whomever.
    pub(crate) backups: BTreeMap<String, Timestamp>,
}

/// One thing to be done through EC2's operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// CreateSnapshot.
    Snapshot { schedule: usize, volume: String, tags: Tags },
    /// CreateSnapshots.
    Snapshots {
        schedule: usize,
        instance: String,
        exclude_boot: bool,
        exclude: Vec<String>,
        copy_tags: bool,
        tags: Tags,
    },
    /// CreateImage.
    Image { schedule: usize, instance: String, reboot: bool, tags: Tags },
    /// CopySnapshot or CopyImage.
    Copy {
        id: String,
        schedule: usize,
        /// Which of its rules, or of a default policy's targets.
        rule: usize,
        region: String,
        expires: Option<Timestamp>,
        tags: Tags,
    },
    /// ModifySnapshotAttribute.
    Share { id: String, schedule: usize, accounts: Vec<String> },
    /// The same, taken back.
    Unshare { id: String, schedule: usize, accounts: Vec<String> },
    /// EnableFastSnapshotRestores.
    FastRestore { id: String, schedule: usize },
    /// DisableFastSnapshotRestores.
    SlowRestore { id: String, schedule: usize },
    /// EnableImageDeprecation.
    Deprecate {
        id: String,
        /// Where it follows the making; `None` where it is planned from what there is.
        schedule: Option<usize>,
        at: Timestamp,
    },
    /// ModifySnapshotTier.
    Archive { id: String },
    /// DeleteSnapshot, or DeregisterImage with its snapshots.
    Delete { id: String },
    /// The same of a copy.
    DeleteCopy { id: String, region: String },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Snapshot { volume, .. } => write!(f, "snapshot of {volume}"),
            Action::Snapshots { instance, .. } => write!(f, "snapshots of {instance}"),
            Action::Image { instance, .. } => write!(f, "image of {instance}"),
            Action::Copy { id, region, .. } => write!(f, "copy {id} to {region}"),
            Action::Share { id, accounts, .. } => {
                write!(f, "share {id} with {}", accounts.join(", "))
            }
            Action::Unshare { id, .. } => write!(f, "unshare {id}"),
            Action::FastRestore { id, .. } => write!(f, "fast restore of {id}"),
            Action::SlowRestore { id, .. } => write!(f, "no fast restore of {id}"),
            Action::Deprecate { id, at, .. } => write!(f, "deprecate {id} at {}", at.iso_seconds()),
            Action::Archive { id } => write!(f, "archive {id}"),
            Action::Delete { id } => write!(f, "delete {id}"),
            Action::DeleteCopy { id, region } => write!(f, "delete {id} in {region}"),
        }
    }
}

/// What to do, what to remember, when to look again.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// In this order; what fails is told to [`failed`].
    pub(crate) actions: Vec<Action>,
    /// The progress when all of them succeed.
    pub(crate) progress: Progress,
    /// A run ended in which nothing failed.
    pub(crate) recovered: bool,
    /// Something is tried again that was refused; with it, all is well if [`is_settled`].
    pub(crate) retried: bool,
    /// What was made and came to nothing.
    pub(crate) failure: Option<String>,
    /// When there is more to do: at once if `now`.
    pub(crate) wake: Option<Timestamp>,
}

/// Plans the next step.
pub(crate) fn plan(policy: &Policy, now: Timestamp, resources: &Resources) -> Plan {
    let mut plan = Plan {
        actions: Vec::new(),
        progress: policy.progress.clone(),
        recovered: false,
        retried: false,
        failure: None,
        wake: None,
    };
    let facts = Facts { policy, now, resources, targets: targets(policy, resources) };
    if policy.enabled && !policy.deleted {
        facts.runs(&mut plan);
        facts.follow_ups(&mut plan);
    }
    let busy = plan
        .progress
        .schedules
        .iter()
        .any(|schedule| schedule.run.as_ref().is_some_and(|run| !run.left.is_empty()));
    if busy || !plan.actions.is_empty() || (plan.recovered && policy.failure.is_some()) {
        plan.at(now);
        return plan;
    }
    facts.retention(&mut plan);
    if !plan.actions.is_empty() {
        plan.at(now);
    }
    plan
}

/// Remembers that an action of a plan failed. A target is tried again until its run is too old, what
/// follows for a day; what ends is ended later. Deletions are planned again by themselves.
pub(crate) fn failed(
    progress: &mut Progress,
    action: &Action,
    now: Timestamp,
    resources: &Resources,
) {
    let again = now.plus_millis(RETRY);
    let mut follow = |id: &str, schedule: usize, part: Part| {
        let made = resources.made.iter().find(|made| made.id == id);
        let Some(created) = made.map(|made| made.created) else { return };
        if again.millis_since(created) <= FOLLOW_UP_PATIENCE {
            let (id, part, again) = (id.to_owned(), Some(part), Some(again));
            progress.made.push(FollowUp { id, schedule, created, part, again });
        }
    };
    match action {
        Action::Copy { id, schedule, rule, .. } => follow(id, *schedule, Part::Copy(*rule)),
        Action::Share { id, schedule, .. } => follow(id, *schedule, Part::Share),
        Action::FastRestore { id, schedule } => follow(id, *schedule, Part::FastRestore),
        Action::Deprecate { id, schedule: Some(schedule), .. } => {
            follow(id, *schedule, Part::Deprecate);
        }
        Action::Unshare { id, schedule, .. } => {
            let (id, ends) = (id.clone(), Some(again));
            progress.shares.push(Until { id, schedule: *schedule, ends });
        }
        Action::DeleteCopy { id, region } => {
            let (id, region) = (id.clone(), region.clone());
            progress.copies.push(Copied { id, region, expires: now.plus_millis(DAY) });
        }
        Action::Snapshot { schedule, volume: target, .. }
        | Action::Snapshots { schedule, instance: target, .. }
        | Action::Image { schedule, instance: target, .. } => {
            let state = progress.schedules.get_mut(*schedule);
            let Some(run) = state.and_then(|state| state.run.as_mut()) else { return };
            run.broken = true;
            if again.millis_since(run.due) <= PATIENCE {
                run.failed.push(target.clone());
                run.again = Some(again);
            }
        }
        Action::SlowRestore { .. }
        | Action::Deprecate { .. }
        | Action::Archive { .. }
        | Action::Delete { .. } => {}
    }
}

/// Whether nothing of what was refused is left to be tried.
pub(crate) fn is_settled(progress: &Progress) -> bool {
    let broken = |run: &Run| run.broken;
    progress.made.iter().all(|item| item.again.is_none())
        && !progress.schedules.iter().any(|schedule| schedule.run.as_ref().is_some_and(broken))
}

impl Plan {
    fn at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |known| known.min(time)));
    }
}

/// Ids of the volumes or instances that a policy is for.
fn targets(policy: &Policy, resources: &Resources) -> BTreeSet<String> {
    let details = &policy.details;
    let wanted = details.target_tags.as_deref().unwrap_or_default();
    let tagged = |tags: &Tags| {
        wanted
            .iter()
            .any(|tag| tags.get(tag.key.as_deref().unwrap_or_default()) == tag.value.as_ref())
    };
    let exclusions = details.exclusions.clone().unwrap_or_default();
    let excluded = |tags: &Tags| {
        exclusions
            .exclude_tags
            .iter()
            .flatten()
            .any(|tag| tags.get(tag.key.as_deref().unwrap_or_default()) == tag.value.as_ref())
    };
    let kinds = exclusions.exclude_volume_types.clone().unwrap_or_default();
    if policy.targets_instances() {
        let chosen = resources.instances.iter().filter(|instance| {
            if policy.is_default() { !excluded(&instance.tags) } else { tagged(&instance.tags) }
        });
        return chosen.map(|instance| instance.id.clone()).collect();
    }
    let chosen = resources.volumes.iter().filter(|volume| {
        if !policy.is_default() {
            return tagged(&volume.tags);
        }
        let boot = exclusions.exclude_boot_volumes == Some(true) && volume.boot;
        !boot && !kinds.contains(&volume.kind) && !excluded(&volume.tags)
    });
    chosen.map(|volume| volume.id.clone()).collect()
}

struct Facts<'a> {
    policy: &'a Policy,
    now: Timestamp,
    resources: &'a Resources,
    targets: BTreeSet<String>,
}

impl Facts<'_> {
    /// The schedules' rules of time; a default policy looks once a day.
    fn times(&self) -> Vec<Option<When>> {
        if self.policy.is_default() {
            // The time of its making, so that it first runs a day later at most.
            let from = self.policy.created.0.rem_euclid(DAY);
            return vec![Some(When::Every { interval: DAY, from })];
        }
        let rules = self.policy.schedules().iter();
        rules.map(|schedule| When::of(schedule.create_rule.as_ref()?).ok()).collect()
    }

    fn runs(&self, plan: &mut Plan) {
        let times = self.times();
        plan.progress.schedules.resize_with(times.len(), Default::default);
        let mut creations = Vec::new();
        let mut wakes = Vec::new();
        for (index, when) in times.into_iter().enumerate() {
            let Some(when) = when else { continue };
            let state = &mut plan.progress.schedules[index];
            if state.next.is_none() {
                state.next = when.next(self.now);
            }
            if let Some(next) = state.next.filter(|next| *next <= self.now) {
                let due = when.latest(next, self.now);
                let left = self.due_targets(due);
                state.run = Some(Run { due, left, failed: Vec::new(), again: None, broken: false });
                state.next = when.next(due);
            }
            wakes.extend(state.next);
            let Some(run) = &mut state.run else { continue };
            if run.again.is_some_and(|again| again <= self.now) {
                run.left.append(&mut run.failed);
                run.again = None;
                run.broken = false;
            }
            while creations.len() < BATCH && !run.left.is_empty() {
                creations.extend(self.creation(index, &run.left.remove(0)));
            }
            if let Some(again) = run.again {
                wakes.push(again);
            } else if run.left.is_empty() && creations.is_empty() {
                // What fails now is put back by `failed`; so the run is over when the next look
                // finds nothing to try.
                plan.recovered |= !run.broken;
                state.run = None;
            }
        }
        plan.actions = creations;
        wakes.into_iter().for_each(|time| plan.at(time));
    }

    /// What a run is for: a default policy leaves out what was backed up recently.
    fn due_targets(&self, due: Timestamp) -> Vec<String> {
        let mut targets: Vec<String> = self.targets.iter().cloned().collect();
        if self.policy.is_default() {
            let days = i64::from(self.policy.details.create_interval.unwrap_or(1));
            // Backups of the run before began a little after their time.
            let recent = due.plus_millis(HOUR - days * DAY);
            targets.retain(|id| self.resources.backups.get(id).is_none_or(|at| *at < recent));
        }
        targets
    }

    /// What is made of a target that is still there.
    fn creation(&self, schedule: usize, target: &str) -> Option<Action> {
        let rules = self.policy.schedules().get(schedule);
        let copy_tags = match rules {
            Some(rules) => rules.copy_tags == Some(true),
            None => self.policy.details.copy_tags == Some(true),
        };
        let mut tags = Tags::new();
        let mut copy = |of: &Tags| {
            if copy_tags {
                let user = of.iter().filter(|(key, _)| !key.starts_with("aws:"));
                tags.extend(user.map(|(key, value)| (key.clone(), value.clone())));
            }
        };
        if !self.policy.targets_instances() {
            let volume = self.resources.volumes.iter().find(|volume| volume.id == target)?;
            copy(&volume.tags);
            self.add_tags(rules, target, &mut tags);
            return Some(Action::Snapshot { schedule, volume: volume.id.clone(), tags });
        }
        let instance = self.resources.instances.iter().find(|instance| instance.id == target)?;
        let parameters = self.policy.details.parameters.clone().unwrap_or_default();
        if self.policy.makes_images() {
            copy(&instance.tags);
            self.add_tags(rules, target, &mut tags);
            let reboot = parameters.no_reboot == Some(false);
            return Some(Action::Image { schedule, instance: target.to_owned(), reboot, tags });
        }
        self.add_tags(rules, target, &mut tags);
        let unwanted = tag_map(parameters.exclude_data_volume_tags.as_ref());
        let excluded = self.resources.volumes.iter().filter(|volume| {
            volume.instance.as_deref() == Some(target)
                && !volume.boot
                && unwanted.iter().any(|(key, value)| volume.tags.get(key) == Some(value))
        });
        Some(Action::Snapshots {
            schedule,
            instance: target.to_owned(),
            exclude_boot: parameters.exclude_boot_volume == Some(true),
            exclude: excluded.map(|volume| volume.id.clone()).collect(),
            copy_tags,
            tags,
        })
    }

    /// The schedule's own tags, and those by which the policy knows what it made.
    fn add_tags(&self, rules: Option<&Schedule>, target: &str, tags: &mut Tags) {
        if let Some(rules) = rules {
            tags.extend(tag_map(rules.tags_to_add.as_ref()));
            for (key, value) in tag_map(rules.variable_tags.as_ref()) {
                let value = match value.as_str() {
                    "$(instance-id)" => target.to_owned(),
                    _ => self.now.iso_seconds(),
                };
                tags.insert(key, value);
            }
            if let Some(name) = &rules.name {
                tags.insert(SCHEDULE_TAG.to_owned(), name.clone());
            }
        }
        let age = match rules.and_then(|rules| rules.retain_rule.as_ref()) {
            Some(retain) => retain.interval.map(|age| (age, retain.interval_unit.as_deref())),
            None => Some((self.policy.details.retain_interval.unwrap_or(7), None)),
        };
        if let Some((age, unit)) = age {
            let expires = after(self.now, age, unit).iso_seconds();
            tags.insert(EXPIRATION_TAG.to_owned(), expires);
        }
        tags.insert(POLICY_TAG.to_owned(), self.policy.id.clone());
        tags.insert(MANAGED_TAG.to_owned(), "true".to_owned());
    }

    /// Copies, shares, and speeds up what has become complete.
    fn follow_ups(&self, plan: &mut Plan) {
        let waiting = std::mem::take(&mut plan.progress.made);
        for item in waiting {
            if let Some(again) = item.again.filter(|again| *again > self.now) {
                plan.at(again);
                plan.progress.made.push(item);
                continue;
            }
            let made = self.resources.made.iter().find(|made| made.id == item.id);
            match made.map(|made| made.state) {
                // It has just been made, or it was deleted.
                None if self.now.millis_since(item.created) < POLL => {
                    plan.progress.made.push(item);
                    plan.at(self.now.plus_millis(POLL));
                }
                None => {}
                Some(MadeState::Pending) => {
                    plan.at(self.look_again(item.created));
                    plan.progress.made.push(item);
                }
                Some(MadeState::Failed) => {
                    plan.failure = Some(format!("{} could not be completed", item.id));
                }
                Some(_) if plan.actions.len() >= BATCH => plan.progress.made.push(item),
                Some(_) => {
                    plan.retried |= item.part.is_some();
                    plan.actions.extend(self.follow(&item));
                }
            }
        }
    }

    /// What is done with something that is complete, or the part of it that was refused.
    fn follow(&self, item: &FollowUp) -> Vec<Action> {
        let wanted = |part: Part| item.part.is_none_or(|only| only == part);
        let mut actions = Vec::new();
        let (id, schedule) = (&item.id, item.schedule);
        let mut copy = |rule: usize, region: &str, all: bool, expires: Option<Timestamp>| {
            if wanted(Part::Copy(rule)) {
                let tags = self.copied_tags(id, all, expires);
                let (id, region) = (id.clone(), region.to_owned());
                actions.push(Action::Copy { id, schedule, rule, region, expires, tags });
            }
        };
        let Some(rules) = self.policy.schedules().get(schedule) else {
            let targets = self.policy.details.cross_region_copy_targets.iter().flatten();
            let expires = after(self.now, self.policy.details.retain_interval.unwrap_or(7), None);
            let all = self.policy.details.copy_tags == Some(true);
            for (index, target) in targets.enumerate() {
                let region = target.target_region.as_deref().unwrap_or_default();
                copy(index, region, all, Some(expires));
            }
            return actions;
        };
        for (index, rule) in rules.cross_region_copy_rules.iter().flatten().enumerate() {
            let expires = rule.retain_rule.as_ref().and_then(|retain| {
                Some(after(self.now, retain.interval?, retain.interval_unit.as_deref()))
            });
            copy(index, region_of(rule), rule.copy_tags == Some(true), expires);
        }
        for rule in rules.share_rules.iter().flatten().filter(|_| wanted(Part::Share)) {
            let accounts = rule.target_accounts.clone().unwrap_or_default();
            actions.push(Action::Share { id: id.clone(), schedule, accounts });
        }
        if rules.fast_restore_rule.is_some() && wanted(Part::FastRestore) {
            actions.push(Action::FastRestore { id: id.clone(), schedule });
        }
        if let Some(rule) = rules.deprecate_rule.as_ref().filter(|_| wanted(Part::Deprecate))
            && let Some(interval) = rule.interval
        {
            let at = after(item.created, interval, rule.interval_unit.as_deref());
            actions.push(Action::Deprecate { id: id.clone(), schedule: Some(schedule), at });
        }
        actions
    }

    /// The tags of a copy: the policy's own, and the user's where they are wanted.
    fn copied_tags(&self, id: &str, all: bool, expires: Option<Timestamp>) -> Tags {
        let made = self.resources.made.iter().find(|made| made.id == id);
        let mut tags = made.map(|made| made.tags.clone()).unwrap_or_default();
        tags.remove(EXPIRATION_TAG);
        tags.retain(|key, _| {
            all || [POLICY_TAG, SCHEDULE_TAG, MANAGED_TAG].contains(&key.as_str())
        });
        if let Some(expires) = expires {
            tags.insert(EXPIRATION_TAG.to_owned(), expires.iso_seconds());
        }
        tags
    }

    fn retention(&self, plan: &mut Plan) {
        let extended = self.policy.details.extend_deletion == Some(true);
        let running = self.policy.enabled && !self.policy.deleted && self.policy.failure.is_none();
        if !running && !extended {
            return;
        }
        let mut actions = Vec::new();
        let names: Vec<Option<&Schedule>> = match self.policy.schedules() {
            [] => vec![None],
            schedules => schedules.iter().map(Some).collect(),
        };
        for rules in names {
            for (source, made) in self.by_source(rules) {
                self.retain(rules, &source, &made, extended, &mut actions, plan);
            }
        }
        self.ends(&mut actions, plan);
        actions.truncate(BATCH);
        plan.actions.append(&mut actions);
    }

    /// What a schedule made, oldest first, of each source.
    fn by_source(&self, rules: Option<&Schedule>) -> BTreeMap<String, Vec<&Made>> {
        let mut sources: BTreeMap<String, Vec<&Made>> = BTreeMap::new();
        for made in &self.resources.made {
            if rules.is_none_or(|rules| rules.name == made.schedule) {
                sources.entry(made.source.clone()).or_default().push(made);
            }
        }
        for made in sources.values_mut() {
            made.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        }
        sources
    }

    /// Whether a source still belongs to the policy; `None` when it is gone.
    fn is_managed(&self, source: &str) -> Option<bool> {
        if source.starts_with("i-") {
            let there = self.resources.instances.iter().any(|instance| instance.id == source);
            return there.then(|| self.targets.contains(source));
        }
        let volume = self.resources.volumes.iter().find(|volume| volume.id == source)?;
        Some(if self.policy.targets_instances() {
            volume.instance.as_ref().is_some_and(|instance| self.targets.contains(instance))
        } else {
            self.targets.contains(source)
        })
    }

    fn retain(
        &self,
        rules: Option<&Schedule>,
        source: &str,
        made: &[&Made],
        extended: bool,
        actions: &mut Vec<Action>,
        plan: &mut Plan,
    ) {
        let managed = self.is_managed(source);
        let delete = |made: &Made| Action::Delete { id: made.id.clone() };
        let of = |state: MadeState| -> Vec<&Made> {
            made.iter().copied().filter(|made| made.state == state).collect()
        };
        let (complete, archived) = (of(MadeState::Complete), of(MadeState::Archived));
        let pending = made.iter().filter(|made| made.state == MadeState::Pending);
        let look_again = pending.map(|made| self.look_again(made.created)).min();
        let tier = rules.and_then(|rules| {
            rules.archive_rule.as_ref()?.retain_rule.as_ref()?.retention_archive_tier.as_ref()
        });
        let retire = |made: &Made| match tier {
            Some(_) => Action::Archive { id: made.id.clone() },
            None => delete(made),
        };
        if let Some(rules) = rules.filter(|rules| by_count(rules)) {
            if managed != Some(true) {
                return;
            }
            let count = |count: Option<i32>| usize::try_from(count.unwrap_or(0)).unwrap_or(0);
            let keep = count(rules.retain_rule.as_ref().and_then(|rule| rule.count));
            let excess = complete.len().saturating_sub(keep);
            actions.extend(complete[..excess].iter().map(|made| retire(made)));
            if let Some(tier) = tier {
                let excess = archived.len().saturating_sub(count(tier.count));
                actions.extend(archived[..excess].iter().map(|made| delete(made)));
            }
            if let Some(oldest) = rules.deprecate_rule.as_ref().and_then(|rule| rule.count) {
                // The oldest of as many as are kept.
                let fresh = keep.saturating_sub(count(Some(oldest)));
                let old = complete.len().saturating_sub(fresh).max(excess);
                let old = complete[excess..old].iter().filter(|made| !made.deprecated);
                let at = self.now.plus_millis(2 * MINUTE);
                // Planned again by itself, since it is seen whether it is deprecated.
                actions.extend(old.map(|made| Action::Deprecate {
                    id: made.id.clone(),
                    schedule: None,
                    at,
                }));
            }
            look_again.into_iter().for_each(|time| plan.at(time));
            return;
        }
        if managed == Some(false) && !extended {
            return;
        }
        // The last of a source that is gone stays, unless its owner said otherwise.
        let spared = usize::from(managed.is_none() && !extended);
        let kept = (complete.len() + archived.len()).saturating_sub(spared);
        for made in archived.iter().chain(&complete).take(kept) {
            let Some(expires) = made.expires else { continue };
            let (end, action) = match (made.state, tier) {
                (MadeState::Archived, Some(tier)) => {
                    let interval = tier.interval.unwrap_or(0);
                    (after(expires, interval, tier.interval_unit.as_deref()), delete(made))
                }
                (MadeState::Archived, None) => continue,
                _ => (expires, retire(made)),
            };
            if end <= self.now {
                actions.push(action);
            } else {
                plan.at(end);
            }
        }
        look_again.into_iter().for_each(|time| plan.at(time));
    }

    /// When something that is pending is looked at again: the less often the longer it takes.
    fn look_again(&self, created: Timestamp) -> Timestamp {
        self.now.plus_millis(POLL.max(self.now.millis_since(created) / 16))
    }

    /// What ends by its own time: copies, shares, fast restore.
    fn ends(&self, actions: &mut Vec<Action>, plan: &mut Plan) {
        let mut kept: Vec<Copied> = Vec::new();
        for copy in std::mem::take(&mut plan.progress.copies) {
            if copy.expires <= self.now && actions.len() < BATCH {
                actions.push(Action::DeleteCopy { id: copy.id, region: copy.region });
            } else {
                plan.at(copy.expires);
                kept.push(copy);
            }
        }
        plan.progress.copies = kept;
        let there = |id: &str| self.resources.made.iter().any(|made| made.id == id);
        let mut kept: Vec<Until> = Vec::new();
        for share in std::mem::take(&mut plan.progress.shares) {
            match share.ends {
                _ if !there(&share.id) => {}
                Some(ends) if ends <= self.now && actions.len() < BATCH => {
                    let rules = self.policy.schedules().get(share.schedule);
                    let rules = rules.and_then(|rules| rules.share_rules.as_ref());
                    let accounts = rules.into_iter().flatten();
                    let accounts =
                        accounts.flat_map(|rule| rule.target_accounts.clone().unwrap_or_default());
                    actions.push(Action::Unshare {
                        id: share.id,
                        schedule: share.schedule,
                        accounts: accounts.collect(),
                    });
                }
                Some(ends) => {
                    plan.at(ends);
                    kept.push(share);
                }
                None => {}
            }
        }
        plan.progress.shares = kept;
        let source = |id: &str| {
            self.resources.made.iter().find(|made| made.id == id).map(|made| made.source.clone())
        };
        let fast: Vec<Until> = std::mem::take(&mut plan.progress.fast)
            .into_iter()
            .filter(|fast| there(&fast.id))
            .collect();
        for (index, one) in fast.iter().enumerate() {
            let rule = self.policy.schedules().get(one.schedule);
            let count = rule.and_then(|rule| rule.fast_restore_rule.as_ref()?.count);
            let newer = fast[index + 1..]
                .iter()
                .filter(|other| other.schedule == one.schedule)
                .filter(|other| source(&other.id) == source(&one.id))
                .count();
            let many = count.is_some_and(|count| usize::try_from(count).unwrap_or(0) <= newer);
            let over = many || rule.is_none() || one.ends.is_some_and(|ends| ends <= self.now);
            if over && actions.len() < BATCH {
                let (id, schedule) = (one.id.clone(), one.schedule);
                actions.push(Action::SlowRestore { id, schedule });
            } else {
                if let Some(ends) = one.ends {
                    plan.at(ends.max(self.now));
                }
                plan.progress.fast.push(one.clone());
            }
        }
    }
}

/// Where a rule copies to.
pub(crate) fn region_of(rule: &CrossRegionCopyRule) -> &str {
    rule.target.as_deref().or(rule.target_region.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
