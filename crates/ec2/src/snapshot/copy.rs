//! CopySnapshot, inside a region and between regions of this daemon.
//!
//! A copy with its source's key, or without key like its source, names the same content. Another key
//! means other blocks: a task makes them.

use super::create::{check_description, pending};
use super::{find, key_of, usable};
use crate::encryption;
use crate::record::snapshot::Origin;
use crate::record::{Snapshot, SnapshotState, Tags};
use crate::tag;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::CopySnapshot,
    copy_snapshot,
    Write,
    [
        "CompletionDurationMinutes",
        "Description",
        "DestinationRegion",
        "Encrypted",
        "KmsKeyId",
        "PresignedUrl",
        "SourceRegion",
        "SourceSnapshotId",
        "TagSpecifications.*",
        "TagSpecifications.Tags.*",
    ]
)];

/// Most copies to a region that are pending (EBS quotas).
const MAX_COPIES: usize = 20;

/// What a copy is to be like.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    /// Encrypted.
    pub(crate) encrypted: Option<bool>,
    /// KmsKeyId.
    pub(crate) kms_key_id: Option<String>,
    /// Description.
    pub(crate) description: String,
    /// Tags.
    pub(crate) tags: Tags,
    /// CompletionDurationMinutes.
    pub(crate) minutes: Option<u32>,
}

/// Stages a copy of `source`, which is in the region `from`, into the call's region.
///
/// # Errors
/// `IncorrectState` when the source is not completed; `ResourceLimitExceeded`; those of the key.
pub(crate) fn copy(
    call: &mut Call<'_>,
    from: &str,
    source: &Snapshot,
    wish: Copy,
) -> Result<Arc<Snapshot>, Error> {
    usable(source)?;
    let content = source.content.clone().ok_or_else(|| super::wrong_state(source))?;
    let under_way = call
        .scan::<Snapshot>(&key_of(call.region, call.account(), ""))?
        .iter()
        .filter(|s| s.state == SnapshotState::Pending && matches!(s.origin, Origin::Copy { .. }))
        .count();
    if under_way >= MAX_COPIES {
        return Err(Error::client(
            "ResourceLimitExceeded",
            format!(
                "Too many snapshot copies in progress. The limit is {MAX_COPIES} for this \
                 destination region."
            ),
        ));
    }
    let origin = Origin::Copy {
        region: from.to_owned(),
        snapshot_id: source.id.clone(),
        from: content,
        minutes: wish.minutes,
    };
    let kms_key_id = wish.kms_key_id.as_deref();
    let key = encryption::snapshot_key(call, wish.encrypted, kms_key_id, source.key.as_ref())?;
    let mut snapshot = pending(call, origin, source.size_gib);
    snapshot.full_bytes = source.full_bytes;
    snapshot.image_key.clone_from(&source.image_key);
    snapshot.key = key;
    snapshot.description = wish.description;
    snapshot.tags = wish.tags;
    let at = key_of(call.region, &snapshot.owner_id, &snapshot.id);
    Ok(call.put(&at, snapshot))
}

/// Whether a text has the form of a region's name; it becomes a part of a record's key.
fn is_region(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn source(call: &mut Call<'_>, region: &str, id: &str) -> Result<Arc<Snapshot>, Error> {
    if !is_region(region) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({region}) for parameter sourceRegion is invalid."
        )));
    }
    find(call, region, id)
}

pub(super) fn copy_snapshot(
    call: &mut Call<'_>,
    input: api::CopySnapshotRequest,
) -> Result<api::CopySnapshotResult, Error> {
    let from = input.source_region.unwrap_or_default();
    let tags =
        tag::for_caller(call, input.tag_specifications.as_deref(), "snapshot", &["snapshot"])?;
    let description = check_description(input.description)?;
    let minutes = match input.completion_duration_minutes {
        None => None,
        Some(minutes) if (15..=2_880).contains(&minutes) && minutes % 15 == 0 => {
            Some(minutes.unsigned_abs())
        }
        Some(minutes) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({minutes}) for parameter completionDurationMinutes is invalid. Expected a \
                 multiple of 15 between 15 and 2880."
            )));
        }
    };
    let source = source(call, &from, &input.source_snapshot_id.unwrap_or_default())?;
    let (encrypted, kms_key_id) = (input.encrypted, input.kms_key_id);
    let wish = Copy { encrypted, kms_key_id, description, tags, minutes };
    let snapshot = copy(call, &from, &source, wish)?;
    Ok(api::CopySnapshotResult {
        snapshot_id: Some(snapshot.id.clone()),
        tags: tag::to_model(&snapshot.tags),
    })
}
