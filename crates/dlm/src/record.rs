//! What the store keeps about policies: plain JSON with a version number, one record a policy,
//! `/<region>/dlm-policy/<account>/<policy id>`.
//!
//! A policy's rules are kept as they were given, member by member ([`mirror`]); what the scheduler
//! has done with them is its [`Progress`].

use base::Timestamp;
use model::dlm as api;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Kind of the records in their keys.
pub(crate) const POLICY: &str = "dlm-policy";

/// Key of a policy; with an empty id, the prefix of all.
pub(crate) fn key(region: &str, account: &str, id: &str) -> String {
    format!("/{region}/{POLICY}/{account}/{id}")
}

/// Claims the one default policy for a resource type.
pub(crate) fn default_key(region: &str, account: &str, resource_type: &str) -> String {
    format!("/{region}/dlm-default-policy/{account}/{resource_type}")
}

/// Tags by key.
pub(crate) type Tags = BTreeMap<String, String>;

/// A lifecycle policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Record version, 1.
    pub(crate) v: u16,
    /// `policy-…`.
    pub(crate) id: String,
    /// Description.
    pub(crate) description: String,
    /// The role that AWS would assume; kept and shown.
    pub(crate) role_arn: String,
    /// ENABLED, not DISABLED.
    pub(crate) enabled: bool,
    /// Why the policy is in the state ERROR.
    pub(crate) failure: Option<String>,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// When it was changed last.
    pub(crate) modified: Timestamp,
    /// Tags of the policy itself.
    pub(crate) tags: Tags,
    /// Its rules.
    pub(crate) details: PolicyDetails,
    /// Deleted by its owner and invisible, but still to delete what it made (ExtendDeletion).
    #[serde(default)]
    pub(crate) deleted: bool,
    /// What the scheduler has done.
    #[serde(default)]
    pub(crate) progress: Progress,
}

/// What the scheduler knows of a policy's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Of each schedule, in their order; a default policy has one.
    #[serde(default)]
    pub(crate) schedules: Vec<ScheduleProgress>,
    /// What was made and is to be copied, shared and so on when it is complete.
    #[serde(default)]
    pub(crate) made: Vec<FollowUp>,
    /// What was copied to other regions.
    #[serde(default)]
    pub(crate) copies: Vec<Copied>,
    /// Snapshots that are shared until a time.
    #[serde(default)]
    pub(crate) shares: Vec<Until>,
    /// Snapshots with fast restore, in order of their making.
    #[serde(default)]
    pub(crate) fast: Vec<Until>,
    /// Snapshots that were sent to the archive, which takes a while.
    #[serde(default)]
    pub(crate) archived: BTreeSet<String>,
}

/// Where a schedule stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScheduleProgress {
    /// When it is due; `None` before the scheduler has seen it and when it is never due again.
    pub(crate) next: Option<Timestamp>,
    /// The run that is not finished.
    #[serde(default)]
    pub(crate) run: Option<Run>,
}

/// One run of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// When it was due.
    pub(crate) due: Timestamp,
    /// Volumes or instances that are still to be backed up.
    pub(crate) left: Vec<String>,
    /// Those that failed and are tried again.
    #[serde(default)]
    pub(crate) failed: Vec<String>,
    /// When they are.
    #[serde(default)]
    pub(crate) again: Option<Timestamp>,
    /// Something failed and was not made good.
    #[serde(default)]
    pub(crate) broken: bool,
}

/// Something that a schedule made and is not done with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FollowUp {
    /// `snap-…` or `ami-…`.
    pub(crate) id: String,
    /// Which schedule made it.
    pub(crate) schedule: usize,
    /// When.
    pub(crate) created: Timestamp,
    /// The one thing that was refused and is tried again; `None` for all.
    #[serde(default)]
    pub(crate) part: Option<Part>,
    /// When it is.
    #[serde(default)]
    pub(crate) again: Option<Timestamp>,
}

/// What is done with something that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// A copy, by the rule of this number.
    Copy(usize),
    /// It is shared.
    Share,
    /// It restores fast.
    FastRestore,
    /// It will be deprecated.
    Deprecate,
}

/// A copy in another region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copied {
    /// `snap-…` or `ami-…`.
    pub(crate) id: String,
    /// Its region.
    pub(crate) region: String,
    /// When it is to be deleted.
    pub(crate) expires: Timestamp,
}

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Until {
    /// `snap-…`.
    pub(crate) id: String,
    /// Which schedule it is of.
    pub(crate) schedule: usize,
    /// When it ends; `None` where only a count does.
    pub(crate) ends: Option<Timestamp>,
}

/// A value that the API and the records have alike.
pub(crate) trait Mirror: Sized {
    /// The API's type.
    type Api;
    /// From a request.
    fn from_api(from: Self::Api) -> Self;
    /// To an answer.
    fn to_api(&self) -> Self::Api;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Mirror for $type {
            type Api = $type;
            fn from_api(from: $type) -> $type { from }
            fn to_api(&self) -> $type { self.clone() }
        }
    )*};
}

plain!(String, bool, i32);

impl<T: Mirror> Mirror for Vec<T> {
    type Api = Vec<T::Api>;
    fn from_api(from: Self::Api) -> Self {
        from.into_iter().map(T::from_api).collect()
    }
    fn to_api(&self) -> Self::Api {
        self.iter().map(T::to_api).collect()
    }
}

/// Defines record structures whose members are those of the API's, all optional.
macro_rules! mirror {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub(crate) struct $name {
            $(
                #[serde(skip_serializing_if = "Option::is_none")]
                pub(crate) $field: Option<$type>,
            )*
        }

        impl Mirror for $name {
            type Api = api::$name;
            fn from_api(from: api::$name) -> Self {
                $name { $($field: from.$field.map(Mirror::from_api),)* }
            }
            #[allow(clippy::needless_update)]
            fn to_api(&self) -> api::$name {
                api::$name {
                    $($field: self.$field.as_ref().map(Mirror::to_api),)*
                    ..api::$name::default()
                }
            }
        }
    )*};
}

mirror! {
    /// A tag.
    Tag {
        key: String,
        value: String,
    }
    /// The rules of a policy. Events and their actions are not here: event-based policies are
    /// refused.
    PolicyDetails {
        copy_tags: bool,
        create_interval: i32,
        cross_region_copy_targets: Vec<CrossRegionCopyTarget>,
        exclusions: Exclusions,
        extend_deletion: bool,
        parameters: Parameters,
        policy_language: String,
        policy_type: String,
        resource_locations: Vec<String>,
        resource_type: String,
        resource_types: Vec<String>,
        retain_interval: i32,
        schedules: Vec<Schedule>,
        target_tags: Vec<Tag>,
    }
    /// Where a default policy copies to.
    CrossRegionCopyTarget {
        target_region: String,
    }
    /// What a default policy leaves out.
    Exclusions {
        exclude_boot_volumes: bool,
        exclude_tags: Vec<Tag>,
        exclude_volume_types: Vec<String>,
    }
    /// Choices of a custom policy.
    Parameters {
        exclude_boot_volume: bool,
        exclude_data_volume_tags: Vec<Tag>,
        no_reboot: bool,
    }
    /// When what is made of the targets, and what becomes of it.
    Schedule {
        archive_rule: ArchiveRule,
        copy_tags: bool,
        create_rule: CreateRule,
        cross_region_copy_rules: Vec<CrossRegionCopyRule>,
        deprecate_rule: DeprecateRule,
        fast_restore_rule: FastRestoreRule,
        name: String,
        retain_rule: RetainRule,
        share_rules: Vec<ShareRule>,
        tags_to_add: Vec<Tag>,
        variable_tags: Vec<Tag>,
    }
    /// When.
    CreateRule {
        cron_expression: String,
        interval: i32,
        interval_unit: String,
        location: String,
        times: Vec<String>,
    }
    /// How many, or for how long.
    RetainRule {
        count: i32,
        interval: i32,
        interval_unit: String,
    }
    /// What is archived instead of deleted.
    ArchiveRule {
        retain_rule: ArchiveRetainRule,
    }
    /// For how long what is archived stays.
    ArchiveRetainRule {
        retention_archive_tier: RetentionArchiveTier,
    }
    /// The same, said at last.
    RetentionArchiveTier {
        count: i32,
        interval: i32,
        interval_unit: String,
    }
    /// A copy to another region.
    CrossRegionCopyRule {
        cmk_arn: String,
        copy_tags: bool,
        deprecate_rule: CrossRegionCopyDeprecateRule,
        encrypted: bool,
        retain_rule: CrossRegionCopyRetainRule,
        target: String,
        target_region: String,
    }
    /// When a copied AMI is deprecated.
    CrossRegionCopyDeprecateRule {
        interval: i32,
        interval_unit: String,
    }
    /// When a copy is deleted.
    CrossRegionCopyRetainRule {
        interval: i32,
        interval_unit: String,
    }
    /// When an AMI is deprecated.
    DeprecateRule {
        count: i32,
        interval: i32,
        interval_unit: String,
    }
    /// Which snapshots restore fast, and where.
    FastRestoreRule {
        availability_zone_ids: Vec<String>,
        availability_zones: Vec<String>,
        count: i32,
        interval: i32,
        interval_unit: String,
    }
    /// With whom snapshots are shared.
    ShareRule {
        target_accounts: Vec<String>,
        unshare_interval: i32,
        unshare_interval_unit: String,
    }
}

impl Policy {
    /// Whether it makes AMIs, not snapshots.
    pub(crate) fn makes_images(&self) -> bool {
        self.details.policy_type.as_deref() == Some(IMAGES)
    }

    /// Whether it targets instances, not volumes.
    pub(crate) fn targets_instances(&self) -> bool {
        self.details.resource_type().is_some_and(|kind| kind == INSTANCE)
    }

    /// Whether it is a default policy.
    pub(crate) fn is_default(&self) -> bool {
        self.details.is_default()
    }

    /// The state that callers see.
    pub(crate) fn state(&self) -> &'static str {
        match (self.enabled, &self.failure) {
            (false, _) => "DISABLED",
            (true, Some(_)) => "ERROR",
            (true, None) => "ENABLED",
        }
    }

    /// Its schedules; none for a default policy.
    pub(crate) fn schedules(&self) -> &[Schedule] {
        self.details.schedules.as_deref().unwrap_or_default()
    }
}

impl PolicyDetails {
    /// Whether this is a default policy's.
    pub(crate) fn is_default(&self) -> bool {
        self.policy_language.as_deref() == Some(SIMPLIFIED)
    }

    /// VOLUME or INSTANCE.
    pub(crate) fn resource_type(&self) -> Option<&str> {
        let named = self.resource_types.as_ref().and_then(|types| types.first());
        named.or(self.resource_type.as_ref()).map(String::as_str)
    }
}

/// PolicyType of snapshot policies.
pub(crate) const SNAPSHOTS: &str = "EBS_SNAPSHOT_MANAGEMENT";
/// PolicyType of AMI policies.
pub(crate) const IMAGES: &str = "IMAGE_MANAGEMENT";
/// PolicyLanguage of default policies.
pub(crate) const SIMPLIFIED: &str = "SIMPLIFIED";
/// PolicyLanguage of custom policies.
pub(crate) const STANDARD: &str = "STANDARD";
/// A resource type.
pub(crate) const VOLUME: &str = "VOLUME";
/// A resource type.
pub(crate) const INSTANCE: &str = "INSTANCE";

/// Tags as a map.
pub(crate) fn tag_map(tags: Option<&Vec<Tag>>) -> Tags {
    let pair =
        |tag: &Tag| (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default());
    tags.into_iter().flatten().map(pair).collect()
}
