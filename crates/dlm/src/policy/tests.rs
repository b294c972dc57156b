//! The handlers on an empty region.

use super::*;
use crate::record::key;
use base::{Clock, Timestamp};
use service::invoke::Table;
use service::nothing::Nothing;
use service::{Environment, Identity};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::task::{Context, Poll, Wake, Waker};
use store::Store;

const ACCOUNT: &str = "123456789012";
const ROLE: &str = "arn:aws:iam::123456789012:role/dlm";

struct Region {
    environment: Environment,
    store: Arc<dyn Store>,
}

struct Idle;

impl Wake for Idle {
    fn wake(self: Arc<Self>) {}
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Idle));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

impl Region {
    fn new() -> Self {
        let now = Timestamp::parse_iso("2026-01-01T00:00:00Z").unwrap();
        Region {
            environment: Environment {
                account_id: ACCOUNT.to_owned(),
                public_pool: "203.0.113.0/24".parse().unwrap(),
                driver: Arc::new(Nothing),
                clock: Clock::Manual(Arc::new(AtomicI64::new(now.0))),
                keys: Arc::new(Nothing),
                blocks: Arc::new(Nothing),
                services: Table::default(),
            },
            store: store::memory(),
        }
    }

    fn run<T>(&self, work: impl FnOnce(&mut Call<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let identity = Identity::root(ACCOUNT);
        let snapshot = self.store.snapshot();
        let mut call = Call::new(&self.environment, snapshot, "us-east-1", &identity, "test");
        let done = work(&mut call)?;
        let (txn, _) = call.into_parts()?;
        assert!(block_on(self.store.txn(txn)).unwrap().succeeded);
        Ok(done)
    }

    fn ok<I, O>(&self, handler: fn(&mut Call<'_>, I) -> Result<O, Error>, input: I) -> O {
        self.run(|call| handler(call, input)).unwrap_or_else(|error| panic!("refused: {error}"))
    }

    fn refused<I, O>(&self, handler: fn(&mut Call<'_>, I) -> Result<O, Error>, input: I) -> String {
        match self.run(|call| handler(call, input)) {
            Ok(_) => panic!("not refused"),
            Err(error) => error.to_string(),
        }
    }

    fn made(&self, details: api::PolicyDetails) -> String {
        self.ok(create, request(details)).policy_id.unwrap()
    }

    fn shown(&self, id: &str) -> api::LifecyclePolicy {
        let input = api::GetLifecyclePolicyRequest { policy_id: Some(id.to_owned()) };
        self.ok(get, input).policy.unwrap()
    }
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn tags(pairs: &[(&str, &str)]) -> Option<Vec<api::Tag>> {
    let tag = |(key, value): &(&str, &str)| api::Tag { key: text(key), value: text(value) };
    Some(pairs.iter().map(tag).collect())
}

fn schedule() -> api::Schedule {
    api::Schedule {
        name: text("daily"),
        create_rule: Some(api::CreateRule {
            interval: Some(24),
            interval_unit: text("HOURS"),
            times: Some(vec!["03:00".to_owned()]),
            ..Default::default()
        }),
        retain_rule: Some(api::RetainRule { count: Some(3), ..Default::default() }),
        ..Default::default()
    }
}

fn volumes() -> api::PolicyDetails {
    api::PolicyDetails {
        resource_types: Some(vec![VOLUME.to_owned()]),
        target_tags: tags(&[("backup", "yes")]),
        schedules: Some(vec![schedule()]),
        ..Default::default()
    }
}

fn images() -> api::PolicyDetails {
    api::PolicyDetails {
        policy_type: text(IMAGES),
        resource_types: Some(vec![INSTANCE.to_owned()]),
        ..volumes()
    }
}

fn request(details: api::PolicyDetails) -> api::CreateLifecyclePolicyRequest {
    api::CreateLifecyclePolicyRequest {
        description: text("my policy"),
        execution_role_arn: text(ROLE),
        state: text("ENABLED"),
        policy_details: Some(details),
        ..Default::default()
    }
}

fn default(kind: &str) -> api::CreateLifecyclePolicyRequest {
    api::CreateLifecyclePolicyRequest {
        default_policy: text(kind),
        policy_details: None,
        ..request(Default::default())
    }
}

#[test]
fn a_policy_is_shown_as_it_was_given() {
    let region = Region::new();
    let mut input = request(volumes());
    input.tags = Some([("team".to_owned(), "a".to_owned())].into());
    let id = region.ok(create, input).policy_id.unwrap();
    assert!(id.starts_with("policy-"), "{id}");
    let policy = region.shown(&id);
    assert_eq!(policy.state.as_deref(), Some("ENABLED"));
    assert_eq!(policy.status_message.as_deref(), Some("ENABLED"));
    assert_eq!(policy.default_policy, Some(false));
    assert_eq!(policy.policy_arn, Some(format!("arn:aws:dlm:us-east-1:{ACCOUNT}:policy/{id}")));
    assert_eq!(policy.tags.unwrap()["team"], "a");
    let mut wanted = volumes();
    wanted.policy_type = text(SNAPSHOTS);
    wanted.policy_language = text(STANDARD);
    wanted.resource_locations = Some(vec!["CLOUD".to_owned()]);
    wanted.schedules.as_mut().unwrap()[0].copy_tags = Some(false);
    assert_eq!(policy.policy_details, Some(wanted));
    region.ok(delete, api::DeleteLifecyclePolicyRequest { policy_id: Some(id.clone()) });
    let gone = api::GetLifecyclePolicyRequest { policy_id: Some(id.clone()) };
    assert_eq!(
        region.refused(get, gone),
        format!("ResourceNotFoundException: The policy {id} does not exist")
    );
    let gone = api::DeleteLifecyclePolicyRequest { policy_id: Some(id) };
    assert!(region.refused(delete, gone).starts_with("ResourceNotFoundException"));
}

#[test]
fn a_schedule_without_a_time_gets_one() {
    let region = Region::new();
    let mut details = volumes();
    let rule = details.schedules.as_mut().unwrap()[0].create_rule.as_mut().unwrap();
    rule.times = None;
    let id = region.made(details.clone());
    let chosen = |region: &Region| {
        let details = region.shown(&id).policy_details.unwrap();
        details.schedules.unwrap()[0].create_rule.clone().unwrap().times.unwrap()
    };
    let first = chosen(&region);
    assert!(crate::schedule::time_of_day(&first[0]).is_some(), "{first:?}");
    let input = api::UpdateLifecyclePolicyRequest {
        policy_id: Some(id.clone()),
        policy_details: Some(details),
        ..Default::default()
    };
    region.ok(update, input);
    assert_eq!(chosen(&region), first, "and keeps it");
}

type Change = fn(&mut api::PolicyDetails);

fn first(details: &mut api::PolicyDetails) -> &mut api::Schedule {
    &mut details.schedules.as_mut().unwrap()[0]
}

#[test]
fn what_a_custom_policy_must_not_be() {
    let cases: &[(&str, Change)] = &[
        ("The following required parameter(s) are missing: {ResourceTypes}", |d| {
            d.resource_types = None;
        }),
        ("The following required parameter(s) are missing: {TargetTags}", |d| d.target_tags = None),
        ("The following required parameter(s) are missing: {TargetTags, Schedules}", |d| {
            d.target_tags = None;
            d.schedules = None;
        }),
        ("Duplicate tag key in TargetTags: backup", |d| {
            d.target_tags = tags(&[("backup", "yes"), ("backup", "yes")]);
        }),
        ("The parameter(s) {RetainInterval} cannot be used with custom policies", |d| {
            d.retain_interval = Some(7);
        }),
        ("AMI policies target the resource type INSTANCE only", |d| d.policy_type = text(IMAGES)),
        ("The parameter(s) {NoReboot} cannot be used with snapshot policies", |d| {
            d.parameters = Some(api::Parameters { no_reboot: Some(true), ..Default::default() });
        }),
        (
            "The parameter(s) {ExcludeBootVolume, ExcludeDataVolumeTags} cannot be used with \
             policies other than snapshot policies that target instances",
            |d| {
                let parameters =
                    api::Parameters { exclude_boot_volume: Some(true), ..Default::default() };
                d.parameters = Some(parameters);
            },
        ),
        ("Schedule names must be unique: daily", |d| {
            d.schedules.as_mut().unwrap().push(schedule());
        }),
        ("All schedules must have the same retention type", |d| {
            let mut other = schedule();
            other.name = text("other");
            other.retain_rule = Some(api::RetainRule {
                interval: Some(3),
                interval_unit: text("DAYS"),
                ..Default::default()
            });
            d.schedules.as_mut().unwrap().push(other);
        }),
        (
            "Invalid value for Schedule.Name: it may contain the characters [0-9A-Za-z _-] only",
            |d| {
                first(d).name = text("a/b");
            },
        ),
        ("The following required parameter(s) are missing: {CreateRule}", |d| {
            first(d).create_rule = None;
        }),
        ("The following required parameter(s) are missing: {RetainRule}", |d| {
            first(d).retain_rule = None;
        }),
        ("The following required parameter(s) are missing: {CreateRule.IntervalUnit}", |d| {
            first(d).create_rule.as_mut().unwrap().interval_unit = None;
        }),
        ("Invalid CreateRule.Interval: it must be one of 1, 2, 3, 4, 6, 8, 12, 24", |d| {
            first(d).create_rule.as_mut().unwrap().interval = Some(5);
        }),
        ("Invalid time 3:00: the format is hh:mm", |d| {
            first(d).create_rule.as_mut().unwrap().times = Some(vec!["3:00".to_owned()]);
        }),
        (
            "The following parameter(s) are mutually exclusive: {CronExpression, Interval, \
             IntervalUnit, Times}",
            |d| first(d).create_rule.as_mut().unwrap().cron_expression = text("cron(0 3 * * ? *)"),
        ),
        ("Invalid cron expression: the interval must be at least 1 hour", |d| {
            cron(d, "cron(0/30 3 * * ? *)");
        }),
        ("Invalid cron expression: the interval must be at most 1 year", |d| {
            cron(d, "cron(0 3 29 2 ? *)");
        }),
        ("Invalid cron expression: it is never due again", |d| cron(d, "cron(0 3 1 1 ? 2020)")),
        ("Invalid cron expression: both days are ?", |d| cron(d, "cron(0 3 ? * ? *)")),
        (
            "The following parameter(s) are mutually exclusive: {RetainRule.Count, \
             RetainRule.Interval}",
            |d| {
                let rule = first(d).retain_rule.as_mut().unwrap();
                (rule.interval, rule.interval_unit) = (Some(1), text("DAYS"));
            },
        ),
        ("The following required parameter(s) are missing: {RetainRule.IntervalUnit}", |d| {
            first(d).retain_rule =
                Some(api::RetainRule { interval: Some(1), ..Default::default() });
        }),
        ("RetainRule must retain at least 1 snapshot or AMI, or 1 day", |d| {
            first(d).retain_rule.as_mut().unwrap().count = Some(0);
        }),
        ("Invalid RetainRule.Interval: it must be at most 100 YEARS", |d| {
            first(d).retain_rule = Some(api::RetainRule {
                interval: Some(101),
                interval_unit: text("YEARS"),
                ..Default::default()
            });
        }),
        ("Invalid tag key aws:mine: the prefix aws: is reserved", |d| {
            first(d).tags_to_add = tags(&[("aws:mine", "x")]);
        }),
        ("The parameter(s) {VariableTags} cannot be used with policies that target volumes", |d| {
            first(d).variable_tags = tags(&[("from", "$(instance-id)")]);
        }),
        ("Invalid variable tag value $(volume-id): it is $(instance-id) or $(timestamp)", |d| {
            d.resource_types = Some(vec![INSTANCE.to_owned()]);
            first(d).variable_tags = tags(&[("from", "$(volume-id)")]);
        }),
        ("The parameter(s) {DeprecateRule} cannot be used with snapshot policies", |d| {
            first(d).deprecate_rule =
                Some(api::DeprecateRule { count: Some(1), ..Default::default() });
        }),
        (
            "The following required parameter(s) are missing: {FastRestoreRule.AvailabilityZones}",
            |d| {
                first(d).fast_restore_rule =
                    Some(api::FastRestoreRule { count: Some(1), ..Default::default() });
            },
        ),
        ("FastRestoreRule must not exceed the schedule's RetainRule", |d| {
            first(d).fast_restore_rule = Some(api::FastRestoreRule {
                count: Some(4),
                availability_zones: Some(vec!["us-east-1a".to_owned()]),
                ..Default::default()
            });
        }),
        ("Invalid TargetAccounts: an account id has 12 digits", |d| {
            first(d).share_rules = Some(vec![api::ShareRule {
                target_accounts: Some(vec!["me".to_owned()]),
                ..Default::default()
            }]);
        }),
        ("ArchiveRule needs a schedule that creates snapshots every 28 days or less often", |d| {
            archive(d, 3)
        }),
        ("Snapshots must stay in the archive for at least 90 days", |d| {
            cron(d, "cron(0 3 1 * ? *)");
            archive(d, 3);
        }),
        ("Invalid target region us-east-1", |d| copy(d, "us-east-1")),
        ("Invalid target region Mars", |d| copy(d, "Mars")),
        (
            "The parameter(s) {CmkArn} cannot be used with copies that are not to be encrypted",
            |d| {
                copy(d, "eu-west-1");
                first(d).cross_region_copy_rules.as_mut().unwrap()[0].cmk_arn = text("arn:aws:kms");
            },
        ),
        ("The following parameter(s) are mutually exclusive: {Target, TargetRegion}", |d| {
            copy(d, "eu-west-1");
            first(d).cross_region_copy_rules.as_mut().unwrap()[0].target_region = text("eu-west-2");
        }),
        (
            "The parameter(s) {EventSource, Actions} can be used with event-based policies only",
            |d| d.actions = Some(Vec::new()),
        ),
    ];
    let region = Region::new();
    for (why, change) in cases {
        let mut details = volumes();
        change(&mut details);
        let message = region.refused(create, request(details));
        assert_eq!(message, format!("InvalidRequestException: {}", *why));
    }
    let mut details = volumes();
    cron(&mut details, "cron(0 3 1 * ? *)");
    archive(&mut details, 4);
    copy(&mut details, "eu-west-1");
    region.made(details);
}

fn cron(details: &mut api::PolicyDetails, expression: &str) {
    first(details).create_rule =
        Some(api::CreateRule { cron_expression: text(expression), ..Default::default() });
}

fn archive(details: &mut api::PolicyDetails, count: i32) {
    let tier = api::RetentionArchiveTier { count: Some(count), ..Default::default() };
    first(details).archive_rule = Some(api::ArchiveRule {
        retain_rule: Some(api::ArchiveRetainRule { retention_archive_tier: Some(tier) }),
    });
}

fn copy(details: &mut api::PolicyDetails, region: &str) {
    first(details).cross_region_copy_rules = Some(vec![api::CrossRegionCopyRule {
        target: text(region),
        encrypted: Some(false),
        ..Default::default()
    }]);
}

#[test]
fn ami_policies_have_their_own_rules() {
    let region = Region::new();
    let mut details = images();
    first(&mut details).deprecate_rule =
        Some(api::DeprecateRule { count: Some(2), ..Default::default() });
    first(&mut details).variable_tags = tags(&[("from", "$(instance-id)")]);
    details.parameters = Some(api::Parameters { no_reboot: Some(true), ..Default::default() });
    region.made(details);
    let mut details = images();
    first(&mut details).share_rules = Some(vec![api::ShareRule {
        target_accounts: Some(vec![ACCOUNT.to_owned()]),
        ..Default::default()
    }]);
    assert_eq!(
        region.refused(create, request(details)),
        "InvalidRequestException: The parameter(s) {ShareRules} cannot be used with AMI policies"
    );
    let mut details = images();
    copy(&mut details, "eu-west-1");
    assert_eq!(
        region.refused(create, request(details)),
        "InvalidRequestException: The parameter(s) {CrossRegionCopyRules.Target} cannot be used \
         with AMI policies"
    );
}

#[test]
fn what_is_not_here_is_refused_by_name() {
    let region = Region::new();
    let event =
        api::PolicyDetails { policy_type: text("EVENT_BASED_POLICY"), ..Default::default() };
    let refused = region.refused(create, request(event));
    assert!(refused.starts_with("UnsupportedOperation: "), "{refused}");
    assert!(refused.contains("EVENT_BASED_POLICY"), "{refused}");
    let mut outpost = volumes();
    outpost.resource_locations = Some(vec!["OUTPOST".to_owned()]);
    let refused = region.refused(create, request(outpost));
    assert_eq!(refused, "UnsupportedOperation: There is no OUTPOST in this region.");
    let mut input = request(volumes());
    input.execution_role_arn = text("arn:aws:iam::1:user/me");
    assert_eq!(region.refused(create, input), "InvalidRequestException: Invalid ExecutionRoleArn");
    let mut input = request(volumes());
    input.description = text("a/b");
    assert!(region.refused(create, input).contains("Description"));
}

#[test]
fn default_policies() {
    let region = Region::new();
    let refused = |change: fn(&mut api::CreateLifecyclePolicyRequest)| {
        let mut input = default(VOLUME);
        change(&mut input);
        region.refused(create, input)
    };
    assert_eq!(
        refused(|input| input.policy_details = Some(volumes())),
        "InvalidRequestException: The following parameter(s) are mutually exclusive: \
         {DefaultPolicy, PolicyDetails}"
    );
    assert!(refused(|input| input.create_interval = Some(8)).contains("between 1 and 7 days"));
    assert!(refused(|input| input.retain_interval = Some(15)).contains("between 2 and 14 days"));
    assert_eq!(
        refused(|input| (input.create_interval, input.retain_interval) = (Some(5), Some(5))),
        "InvalidRequestException: RetainInterval must be greater than CreateInterval"
    );
    assert_eq!(
        refused(|input| input.exclusions = Some(api::Exclusions {
            exclude_volume_types: Some(vec!["tape".to_owned()]),
            ..Default::default()
        })),
        "InvalidRequestException: Invalid volume type tape"
    );
    assert_eq!(
        refused(|input| input.default_policy = None),
        "InvalidRequestException: The following required parameter(s) are missing: \
         {PolicyDetails}"
    );
    let mut beside = request(volumes());
    beside.retain_interval = Some(3);
    assert_eq!(
        region.refused(create, beside),
        "InvalidRequestException: The following parameter(s) are mutually exclusive: \
         {PolicyDetails, RetainInterval}"
    );
    let id = region.ok(create, default(VOLUME)).policy_id.unwrap();
    let policy = region.shown(&id);
    assert_eq!(policy.default_policy, Some(true));
    let details = policy.policy_details.unwrap();
    assert_eq!((details.create_interval, details.retain_interval), (Some(1), Some(7)));
    assert_eq!(details.policy_language.as_deref(), Some(SIMPLIFIED));
    assert!(region.refused(create, default(VOLUME)).contains("already"));
    let images = region.ok(create, default(INSTANCE)).policy_id.unwrap();
    assert_eq!(region.shown(&images).policy_details.unwrap().policy_type.as_deref(), Some(IMAGES));

    let input = api::UpdateLifecyclePolicyRequest {
        policy_id: Some(id.clone()),
        create_interval: Some(7),
        ..Default::default()
    };
    assert!(region.refused(update, input.clone()).contains("greater than CreateInterval"));
    region.ok(update, api::UpdateLifecyclePolicyRequest { retain_interval: Some(9), ..input });
    assert_eq!(region.shown(&id).policy_details.unwrap().create_interval, Some(7));
    region.ok(delete, api::DeleteLifecyclePolicyRequest { policy_id: Some(id) });
    region.ok(create, default(VOLUME));
}

#[test]
fn a_deleted_policy_may_go_on_deleting() {
    let region = Region::new();
    let mut input = default(VOLUME);
    input.extend_deletion = Some(true);
    let id = region.ok(create, input).policy_id.unwrap();
    region.ok(delete, api::DeleteLifecyclePolicyRequest { policy_id: Some(id.clone()) });
    assert!(region.ok(list, Default::default()).policies.unwrap().is_empty());
    let kept = region.run(|call| call.get::<Policy>(&key("us-east-1", ACCOUNT, &id))).unwrap();
    assert!(kept.unwrap().deleted);
}

#[test]
fn updates_keep_what_is_fixed() {
    let region = Region::new();
    let id = region.made(volumes());
    let refused = |change: Change| {
        let mut details = volumes();
        change(&mut details);
        let input = api::UpdateLifecyclePolicyRequest {
            policy_id: Some(id.clone()),
            policy_details: Some(details),
            ..Default::default()
        };
        region.refused(update, input)
    };
    assert_eq!(
        refused(|d| d.policy_type = text(IMAGES)),
        "InvalidRequestException: The following parameter(s) cannot be updated: {PolicyType}"
    );
    assert_eq!(
        refused(|d| d.resource_types = Some(vec![INSTANCE.to_owned()])),
        "InvalidRequestException: The following parameter(s) cannot be updated: {ResourceTypes}"
    );
    assert_eq!(
        refused(|d| first(d).retain_rule = Some(api::RetainRule {
            interval: Some(1),
            interval_unit: text("DAYS"),
            ..Default::default()
        })),
        "InvalidRequestException: The retention type of a policy cannot be changed"
    );
    let nobody = api::UpdateLifecyclePolicyRequest {
        policy_id: text("policy-0123456789abcdef0"),
        ..Default::default()
    };
    assert!(region.refused(update, nobody).starts_with("ResourceNotFoundException"));
    let input = api::UpdateLifecyclePolicyRequest {
        policy_id: Some(id.clone()),
        state: text("DISABLED"),
        description: text("another"),
        policy_details: Some(api::PolicyDetails {
            target_tags: tags(&[("other", "tag")]),
            ..Default::default()
        }),
        ..Default::default()
    };
    region.ok(update, input);
    let policy = region.shown(&id);
    assert_eq!(policy.state.as_deref(), Some("DISABLED"));
    assert_eq!(policy.description.as_deref(), Some("another"));
    let details = policy.policy_details.unwrap();
    assert_eq!(details.target_tags, tags(&[("other", "tag")]));
    assert_eq!(details.schedules.unwrap().len(), 1);
}

#[test]
fn lists_are_filtered() {
    let region = Region::new();
    let snapshots = region.made(volumes());
    let mut details = images();
    first(&mut details).tags_to_add = tags(&[("type", "ami")]);
    let amis = region.made(details);
    let all = region.ok(create, default(VOLUME)).policy_id.unwrap();
    let found = |change: fn(&mut api::GetLifecyclePoliciesRequest)| {
        let mut input = api::GetLifecyclePoliciesRequest::default();
        change(&mut input);
        let mut ids: Vec<String> = region
            .ok(list, input)
            .policies
            .unwrap()
            .into_iter()
            .map(|policy| policy.policy_id.unwrap())
            .collect();
        ids.sort();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(found(|_| {}), sorted(&[&snapshots, &amis, &all]));
    assert_eq!(found(|i| i.resource_types = Some(vec![INSTANCE.to_owned()])), sorted(&[&amis]));
    assert_eq!(found(|i| i.tags_to_add = Some(vec!["type=ami".to_owned()])), sorted(&[&amis]));
    assert_eq!(
        found(|i| i.target_tags = Some(vec!["backup=yes".to_owned()])),
        sorted(&[&snapshots, &amis])
    );
    assert_eq!(found(|i| i.default_policy_type = text("ALL")), sorted(&[&all]));
    assert_eq!(found(|i| i.default_policy_type = text(INSTANCE)), sorted(&[]));
    assert_eq!(found(|i| i.state = text("DISABLED")), sorted(&[]));
    let unknown = api::GetLifecyclePoliciesRequest {
        policy_ids: Some(vec![snapshots, "policy-0".to_owned()]),
        ..Default::default()
    };
    assert_eq!(
        region.refused(list, unknown),
        "ResourceNotFoundException: The policy policy-0 does not exist"
    );
}

#[test]
fn a_hundred_policies_and_no_more() {
    let region = Region::new();
    for _ in 0..MAX_POLICIES {
        region.made(volumes());
    }
    let refused = region.refused(create, request(volumes()));
    assert!(refused.starts_with("LimitExceededException: "), "{refused}");
}

#[test]
fn tags_of_policies() {
    let region = Region::new();
    let id = region.made(volumes());
    let arn = format!("arn:aws:dlm:us-east-1:{ACCOUNT}:policy/{id}");
    let tagged = |arn: &str, key: &str| api::TagResourceRequest {
        resource_arn: text(arn),
        tags: Some([(key.to_owned(), "v".to_owned())].into()),
    };
    region.ok(tag, tagged(&arn, "a"));
    region.ok(tag, tagged(&arn, "b"));
    let gone = api::UntagResourceRequest {
        resource_arn: text(&arn),
        tag_keys: Some(vec!["a".to_owned()]),
    };
    region.ok(untag, gone);
    let shown = region.ok(list_tags, api::ListTagsForResourceRequest { resource_arn: text(&arn) });
    assert_eq!(shown.tags.unwrap().into_keys().collect::<Vec<_>>(), ["b"]);
    assert!(region.refused(tag, tagged(&arn, "aws:a")).contains("reserved"));
    let other = arn.replace("us-east-1", "us-east-2");
    assert!(region.refused(tag, tagged(&other, "a")).starts_with("ResourceNotFoundException"));
    let wrong = "arn:aws:ec2:us-east-1:123456789012:volume/vol-1";
    assert_eq!(
        region.refused(tag, tagged(wrong, "a")),
        format!("InvalidRequestException: Invalid ResourceArn {wrong}")
    );
}
