//! DescribeSnapshots.

use super::{attribute, check_id, not_found, prefix, progress, tier_name, to_model, transfer_type};
use crate::record::Snapshot;
use crate::region;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::DescribeSnapshots,
    describe_snapshots,
    Read,
    ["Filters.*", "MaxResults", "NextToken", "OwnerIds", "RestorableByUserIds", "SnapshotIds"]
)];

const FILTERS: &[Field<Arc<Snapshot>>] = &[
    ("description", |s| vec![s.description.as_str().into()]),
    ("encrypted", |s| vec![s.key.is_some().to_string().into()]),
    ("owner-alias", |s| region::text(&s.owner_alias)),
    ("owner-id", |s| vec![s.owner_id.as_str().into()]),
    ("progress", |s| vec![progress(s).into()]),
    ("snapshot-id", |s| vec![s.id.as_str().into()]),
    ("start-time", |s| vec![s.started.iso_millis().into()]),
    ("status", |s| vec![s.state.name().into()]),
    ("storage-tier", |s| vec![tier_name(s).into()]),
    ("transfer-type", |s| transfer_type(s).into_iter().map(Into::into).collect()),
    ("volume-id", |s| vec![s.volume_id.as_str().into()]),
    ("volume-size", |s| vec![s.size_gib.to_string().into()]),
];

pub(super) fn describe_snapshots(
    call: &mut Call<'_>,
    input: api::DescribeSnapshotsRequest,
) -> Result<api::DescribeSnapshotsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.snapshot_ids.unwrap_or_default();
    if !ids.is_empty() && input.max_results.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter snapshotSet cannot be used with the parameter maxResults",
        ));
    }
    let account = call.account();
    let mut found = visible(call, &ids)?;
    let owners = input.owner_ids.unwrap_or_default();
    if !owners.is_empty() {
        found.retain(|snapshot| {
            owners.iter().any(|owner| match owner.as_str() {
                "self" => snapshot.owner_id == account,
                name => snapshot.owner_id == name || snapshot.owner_alias.as_deref() == Some(name),
            })
        });
    }
    let users = input.restorable_by_user_ids.unwrap_or_default();
    if !users.is_empty() {
        let mut kept = Vec::with_capacity(found.len());
        for snapshot in found {
            if restorable_by(call, &snapshot, &users)? {
                kept.push(snapshot);
            }
        }
        found = kept;
    }
    found.retain(|snapshot| filters.accept(snapshot, &snapshot.tags));
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    let page = page(
        found,
        |snapshot| snapshot.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeSnapshotsResult {
        snapshots: Some(page.items.iter().map(|snapshot| to_model(snapshot)).collect()),
        next_token: page.next_token,
    })
}

/// The snapshots that the caller may make volumes of: all, or those with these ids.
fn visible(call: &Call<'_>, ids: &[String]) -> Result<Vec<Arc<Snapshot>>, Error> {
    let account = call.account();
    let mut found = Vec::new();
    if !ids.is_empty() {
        for id in ids {
            check_id(id)?;
        }
    }
    let mut foreign = ids.is_empty();
    for id in ids {
        match call.peek::<Snapshot>(&super::key_of(call.region, account, id))? {
            Some(snapshot) if snapshot.recycled.is_none() => found.push(snapshot),
            _ => foreign = true,
        }
    }
    if foreign {
        for snapshot in call.scan::<Snapshot>(&prefix(call.region))? {
            let named = ids.is_empty() || ids.contains(&snapshot.id);
            if named && attribute::may_use(call, &snapshot, account)? {
                found.push(snapshot);
            }
        }
    }
    if let Some(missing) = ids.iter().find(|id| !found.iter().any(|s| s.id == **id)) {
        return Err(not_found(missing));
    }
    Ok(found)
}

fn restorable_by(call: &Call<'_>, snapshot: &Snapshot, users: &[String]) -> Result<bool, Error> {
    for user in users {
        let may = match user.as_str() {
            "self" => attribute::may_use(call, snapshot, call.account())?,
            "all" => attribute::is_public(call, snapshot)?,
            account => attribute::may_use(call, snapshot, account)?,
        };
        if may {
            return Ok(true);
        }
    }
    Ok(false)
}
