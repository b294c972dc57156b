//! Plays the scripts `tests/plans/lifecycle-*.txt` against [`plan`] (`GUREUM_BLESS=1` writes what it
//! finds).
//!
//! A line at the margin sets the stage or lets time pass; the indented lines are what the policy
//! does, with the time at which it does it. What it makes is there at once, unless `slow` was said.

use super::*;
use crate::record::{
    ArchiveRetainRule, ArchiveRule, CreateRule, CrossRegionCopyRetainRule, DeprecateRule,
    FastRestoreRule, IMAGES, Parameters, PolicyDetails, RetainRule, RetentionArchiveTier,
    SIMPLIFIED, SNAPSHOTS, ShareRule, Tag,
};
use std::fmt::Write as _;
use std::path::Path;

struct World {
    policy: Policy,
    now: Timestamp,
    resources: Resources,
    broken: BTreeSet<String>,
    slow: bool,
    show_tags: bool,
    made: usize,
}

fn time(text: &str) -> Timestamp {
    let iso = format!("{}:00Z", text.trim().replace(' ', "T"));
    Timestamp::parse_iso(&iso).unwrap_or_else(|| panic!("{text:?} is not a time"))
}

fn shown(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M")
}

fn tag_list(text: &str) -> Tags {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word:?} is not a tag"));
        (key.to_owned(), value.to_owned())
    };
    text.split_whitespace().map(pair).collect()
}

fn api_tags(tags: &Tags) -> Option<Vec<Tag>> {
    let tag = |(key, value): (&String, &String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    Some(tags.iter().map(tag).collect())
}

/// `3` is a count, `10 days` an interval.
fn amount(text: &str) -> (Option<i32>, Option<i32>, Option<String>) {
    let (number, unit) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let number = number.parse().unwrap_or_else(|_| panic!("{text:?} is no amount"));
    if unit.is_empty() {
        (Some(number), None, None)
    } else {
        (None, Some(number), Some(unit.to_uppercase()))
    }
}

/// `NAME: every 12 at 03:00, keep 2, copy to eu-west-1 for 3 days, …`.
fn schedule(text: &str) -> Schedule {
    let (name, rules) = text.split_once(": ").expect("a schedule has a name");
    let mut schedule = Schedule { name: Some(name.to_owned()), ..Schedule::default() };
    for rule in rules.split(", ") {
        let (word, rest) = rule.split_once(' ').unwrap_or((rule, ""));
        match word {
            "every" => {
                let (hours, at) = rest.split_once(" at ").expect("every HOURS at TIME");
                schedule.create_rule = Some(CreateRule {
                    interval: Some(hours.parse().unwrap()),
                    interval_unit: Some("HOURS".to_owned()),
                    times: Some(vec![at.to_owned()]),
                    ..CreateRule::default()
                });
            }
            "cron" => {
                schedule.create_rule = Some(CreateRule {
                    cron_expression: Some(format!("cron({rest})")),
                    ..CreateRule::default()
                });
            }
            "keep" => {
                let (count, interval, interval_unit) = amount(rest);
                schedule.retain_rule = Some(RetainRule { count, interval, interval_unit });
            }
            "copy" => {
                let rest = rest.strip_prefix("to ").expect("copy to REGION for AMOUNT");
                let (region, age) = rest.split_once(" for ").expect("copy to REGION for AMOUNT");
                let (_, interval, interval_unit) = amount(age);
                let rule = CrossRegionCopyRule {
                    encrypted: Some(false),
                    target: Some(region.to_owned()),
                    retain_rule: Some(CrossRegionCopyRetainRule { interval, interval_unit }),
                    ..CrossRegionCopyRule::default()
                };
                schedule.cross_region_copy_rules.get_or_insert_default().push(rule);
            }
            "share" => {
                let rest = rest.strip_prefix("with ").expect("share with ACCOUNT for AMOUNT");
                let (account, age) = rest.split_once(" for ").expect("share with … for AMOUNT");
                let (_, unshare_interval, unshare_interval_unit) = amount(age);
                schedule.share_rules = Some(vec![ShareRule {
                    target_accounts: Some(vec![account.to_owned()]),
                    unshare_interval,
                    unshare_interval_unit,
                }]);
            }
            "fast" => {
                let (count, interval, interval_unit) = amount(rest);
                schedule.fast_restore_rule = Some(FastRestoreRule {
                    availability_zones: Some(vec!["us-east-1a".to_owned()]),
                    count,
                    interval,
                    interval_unit,
                    ..FastRestoreRule::default()
                });
            }
            "archive" => {
                let (count, interval, interval_unit) = amount(rest);
                let tier = RetentionArchiveTier { count, interval, interval_unit };
                schedule.archive_rule = Some(ArchiveRule {
                    retain_rule: Some(ArchiveRetainRule { retention_archive_tier: Some(tier) }),
                });
            }
            "deprecate" => {
                let (count, interval, interval_unit) = amount(rest);
                schedule.deprecate_rule = Some(DeprecateRule { count, interval, interval_unit });
            }
            "tags" => schedule.tags_to_add = api_tags(&tag_list(rest)),
            "variable" => schedule.variable_tags = api_tags(&tag_list(rest)),
            "copytags" => schedule.copy_tags = Some(true),
            _ => panic!("{rule:?} is no rule"),
        }
    }
    schedule
}

impl World {
    fn new() -> Self {
        World {
            policy: Policy {
                v: 1,
                id: "policy-1".to_owned(),
                description: String::new(),
                role_arn: String::new(),
                enabled: true,
                failure: None,
                created: time("2026-01-01 00:00"),
                modified: time("2026-01-01 00:00"),
                tags: Tags::new(),
                details: PolicyDetails::default(),
                deleted: false,
                progress: Progress::default(),
            },
            now: time("2026-01-01 00:00"),
            resources: Resources::default(),
            broken: BTreeSet::new(),
            slow: false,
            show_tags: false,
            made: 0,
        }
    }

    fn line(&mut self, line: &str) -> String {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let details = &mut self.policy.details;
        match word {
            "policy" => {
                let (kind, tags) = rest.split_once(' ').unwrap_or((rest, ""));
                let (policy_type, target) = match kind {
                    "volumes" => (SNAPSHOTS, "VOLUME"),
                    "instances" => (SNAPSHOTS, "INSTANCE"),
                    "images" => (IMAGES, "INSTANCE"),
                    _ => panic!("{kind:?} is no kind of policy"),
                };
                details.policy_type = Some(policy_type.to_owned());
                details.resource_types = Some(vec![target.to_owned()]);
                details.target_tags = api_tags(&tag_list(tags));
            }
            "default" => {
                // default volumes every DAYS keep DAYS
                let words: Vec<&str> = rest.split_whitespace().collect();
                let images = words[0] == "instances";
                details.policy_language = Some(SIMPLIFIED.to_owned());
                details.policy_type = Some(if images { IMAGES } else { SNAPSHOTS }.to_owned());
                details.resource_type = Some(if images { "INSTANCE" } else { "VOLUME" }.to_owned());
                details.create_interval = words[2].parse().ok();
                details.retain_interval = words[4].parse().ok();
            }
            "schedule" => details.schedules.get_or_insert_default().push(schedule(rest)),
            "parameters" => {
                details.parameters = Some(Parameters {
                    exclude_boot_volume: Some(rest.contains("without-boot")),
                    no_reboot: rest.contains("reboot").then_some(false),
                    exclude_data_volume_tags: rest
                        .split_once("without ")
                        .and_then(|(_, tags)| api_tags(&tag_list(tags))),
                });
            }
            "extend-deletion" => details.extend_deletion = Some(true),
            "volume" => {
                let (id, tags) = rest.split_once(' ').unwrap_or((rest, ""));
                let (place, tags) = match tags.strip_prefix("on ") {
                    Some(tags) => tags.split_once(' ').unwrap_or((tags, "")),
                    None => ("", tags),
                };
                let boot = place.ends_with('!');
                let instance = Some(place.trim_end_matches('!').to_owned());
                self.resources.volumes.retain(|volume| volume.id != id);
                self.resources.volumes.push(Volume {
                    id: id.to_owned(),
                    kind: "gp3".to_owned(),
                    instance: instance.filter(|id| !id.is_empty()),
                    boot,
                    tags: tag_list(tags),
                });
            }
            "instance" => {
                let (id, tags) = rest.split_once(' ').unwrap_or((rest, ""));
                self.resources.instances.retain(|instance| instance.id != id);
                let tags = tag_list(tags);
                self.resources.instances.push(Instance { id: id.to_owned(), tags });
            }
            "gone" => {
                self.resources.volumes.retain(|volume| volume.id != rest);
                self.resources.instances.retain(|instance| instance.id != rest);
            }
            "backed-up" => {
                self.resources.backups.insert(rest.to_owned(), self.now);
            }
            "breaks" => {
                self.broken.insert(rest.to_owned());
            }
            "works" => {
                self.broken.remove(rest);
            }
            "slow" => self.slow = true,
            "show-tags" => self.show_tags = true,
            "complete" => {
                for made in &mut self.resources.made {
                    made.state = MadeState::Complete;
                }
                return self.until(self.now);
            }
            "disable" => self.policy.enabled = false,
            "delete-policy" => self.policy.deleted = true,
            "restart-at" => {
                // Nobody looked in between.
                self.now = time(rest);
                return self.until(self.now);
            }
            "until" => return self.until(time(rest)),
            _ => panic!("{line:?} means nothing"),
        }
        String::new()
    }

    /// Lets time pass, looking whenever the plan said so.
    fn until(&mut self, end: Timestamp) -> String {
        let mut said = String::new();
        for _ in 0..20_000 {
            let mut plan = plan(&self.policy, self.now, &self.resources);
            self.policy.progress = std::mem::take(&mut plan.progress);
            if plan.recovered && self.policy.failure.take().is_some() {
                let _ = writeln!(said, "    {} works again", shown(self.now));
            }
            if let Some(failure) = plan.failure {
                let _ = writeln!(said, "    {} ERROR {failure}", shown(self.now));
                self.policy.failure = Some(failure);
            }
            let mut any = false;
            for action in &plan.actions {
                let refused = self.act(action);
                any |= refused;
                let _ = writeln!(
                    said,
                    "    {} {action}{}{}",
                    shown(self.now),
                    self.told(action),
                    if refused { ": refused" } else { "" }
                );
            }
            if plan.retried && !any && is_settled(&self.policy.progress) {
                let _ = writeln!(said, "    {} works again", shown(self.now));
                self.policy.failure = None;
            }
            match plan.wake {
                Some(wake) if wake <= end => self.now = self.now.max(wake),
                wake => {
                    self.now = end;
                    let wake = wake.map_or("never".to_owned(), shown);
                    let _ = writeln!(said, "    looks again: {wake}");
                    return said;
                }
            }
        }
        panic!("it looks again and again:\n{said}");
    }

    fn told(&self, action: &Action) -> String {
        let (tags, more) = match action {
            Action::Snapshot { tags, .. } => (tags, String::new()),
            Action::Snapshots { tags, exclude_boot, exclude, .. } => {
                let mut more = String::new();
                if *exclude_boot {
                    more.push_str(" without its root volume");
                }
                if !exclude.is_empty() {
                    let _ = write!(more, " without {}", exclude.join(", "));
                }
                (tags, more)
            }
            Action::Image { tags, reboot, .. } => {
                (tags, if *reboot { " with a reboot" } else { "" }.to_owned())
            }
            Action::Copy { tags, expires, .. } => {
                (tags, expires.map(|at| format!(" until {}", shown(at))).unwrap_or_default())
            }
            _ => return String::new(),
        };
        if !self.show_tags {
            return more;
        }
        let tags: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{more} [{}]", tags.join(" "))
    }

    /// Does what EC2 would; true when it is refused.
    fn act(&mut self, action: &Action) -> bool {
        let created = self.now;
        let kind = match action {
            Action::Copy { region, .. } | Action::DeleteCopy { region, .. } => region.as_str(),
            Action::Share { .. } | Action::Unshare { .. } => "sharing",
            _ => "",
        };
        if self.broken.contains(kind) {
            self.policy.failure = Some(format!("{action} was refused"));
            failed(&mut self.policy.progress, action, self.now, &self.resources);
            return true;
        }
        match action {
            Action::Snapshot { schedule, volume: source, tags }
            | Action::Snapshots { schedule, instance: source, tags, .. }
            | Action::Image { schedule, instance: source, tags, .. } => {
                if self.broken.contains(source) {
                    self.policy.failure = Some(format!("{action} was refused"));
                    failed(&mut self.policy.progress, action, self.now, &self.resources);
                    return true;
                }
                let sources = match action {
                    Action::Snapshots { exclude, exclude_boot, .. } => self
                        .resources
                        .volumes
                        .iter()
                        .filter(|volume| volume.instance.as_ref() == Some(source))
                        .filter(|volume| {
                            !(exclude.contains(&volume.id) || *exclude_boot && volume.boot)
                        })
                        .map(|volume| volume.id.clone())
                        .collect(),
                    _ => vec![source.clone()],
                };
                for source in sources {
                    self.made += 1;
                    let kind = if self.policy.makes_images() { "ami" } else { "snap" };
                    let id = format!("{kind}-{}", self.made);
                    let state = if self.slow { MadeState::Pending } else { MadeState::Complete };
                    self.resources.backups.insert(source.clone(), created);
                    self.resources.made.push(Made {
                        id: id.clone(),
                        source,
                        schedule: tags.get(SCHEDULE_TAG).cloned(),
                        created,
                        expires: tags.get(EXPIRATION_TAG).and_then(|at| Timestamp::parse_iso(at)),
                        state,
                        deprecated: false,
                        tags: tags.clone(),
                    });
                    self.policy.progress.made.push(FollowUp {
                        id,
                        schedule: *schedule,
                        created,
                        part: None,
                        again: None,
                    });
                }
            }
            Action::Copy { id, region, expires, .. } => {
                let (id, region) = (format!("{id}-copy"), region.clone());
                let expires = expires.expect("scripts say until when");
                self.policy.progress.copies.push(Copied { id, region, expires });
            }
            Action::Share { id, schedule, .. } => {
                let rules = self.policy.schedules()[*schedule].share_rules.clone().unwrap();
                let ends = rules[0].unshare_interval.map(|interval| {
                    after(created, interval, rules[0].unshare_interval_unit.as_deref())
                });
                let share = Until { id: id.clone(), schedule: *schedule, ends };
                self.policy.progress.shares.push(share);
            }
            Action::FastRestore { id, schedule } => {
                let rule = self.policy.schedules()[*schedule].fast_restore_rule.clone().unwrap();
                let ends = rule.interval.map(|i| after(created, i, rule.interval_unit.as_deref()));
                let fast = Until { id: id.clone(), schedule: *schedule, ends };
                self.policy.progress.fast.push(fast);
            }
            Action::Deprecate { id, .. } => {
                let made = self.resources.made.iter_mut().find(|made| made.id == *id);
                made.expect("deprecates what is there").deprecated = true;
            }
            Action::Archive { id } => {
                let made = self.resources.made.iter_mut().find(|made| made.id == *id);
                made.expect("archives what is there").state = MadeState::Archived;
            }
            Action::Delete { id } => {
                let before = self.resources.made.len();
                self.resources.made.retain(|made| made.id != *id);
                assert_eq!(
                    self.resources.made.len() + 1,
                    before,
                    "deletes {id}, which is not there"
                );
            }
            Action::Unshare { .. } | Action::SlowRestore { .. } | Action::DeleteCopy { .. } => {}
        }
        false
    }
}

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plans");
    let mut played = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("lifecycle-") {
            continue;
        }
        played += 1;
        let script = std::fs::read_to_string(&path).unwrap();
        let mut world = World::new();
        let mut answer = String::new();
        for line in script.lines() {
            if line.starts_with(' ') {
                continue;
            }
            answer.push_str(line);
            answer.push('\n');
            if line == "new" {
                world = World::new();
            } else if !line.is_empty() && !line.starts_with('#') {
                answer.push_str(&world.line(line));
            }
        }
        if std::env::var_os("GUREUM_BLESS").is_some() {
            std::fs::write(&path, &answer).unwrap();
            continue;
        }
        for (number, (now, then)) in answer.lines().zip(script.lines()).enumerate() {
            assert_eq!(now, then, "{name}:{}; GUREUM_BLESS=1 accepts it", number + 1);
        }
        assert_eq!(answer.lines().count(), script.lines().count(), "{name}: lines are missing");
    }
    assert!(played > 0, "no scripts in {}", directory.display());
}
