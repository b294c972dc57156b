//! ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock.

use super::token::{BLOCK_MILLIS, PAGE_MILLIS, Tokens};
use super::{BLOCK_BYTES, invalid, readable, storage};
use crate::record::snapshot::{NO_VOLUME, Origin};
use crate::record::{Snapshot, Volume, key};
use crate::snapshot;
use aws_lc_rs::digest;
use base::volume::Content;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::ebs::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::collections::BTreeSet;

/// EBS quotas: lists 50 a second an account, GetSnapshotBlock 1,000.
const LIST: Rate = Rate::new(50.0, 50.0);
const GET: Rate = Rate::new(1_000.0, 1_000.0);

pub(super) const OPERATIONS: &[Operation] = &[
    operation!(
        op::ListSnapshotBlocks,
        list_snapshot_blocks,
        Live,
        ["MaxResults", "NextToken", "SnapshotId", "StartingBlockIndex"],
        LIST
    ),
    operation!(
        op::ListChangedBlocks,
        list_changed_blocks,
        Live,
        ["FirstSnapshotId", "MaxResults", "NextToken", "SecondSnapshotId", "StartingBlockIndex"],
        LIST
    ),
    operation!(
        op::GetSnapshotBlock,
        get_snapshot_block,
        Live,
        ["BlockIndex", "BlockToken", "SnapshotId"],
        GET
    ),
];

/// Most blocks of one answer.
const MOST: usize = 10_000;
/// How many ancestors of a snapshot are looked at.
const DEPTH: usize = 64;

fn content(snapshot: &Snapshot) -> Result<&Content, Error> {
    snapshot.content.as_ref().ok_or_else(|| Error::internal("a completed snapshot without content"))
}

fn blocks_of(call: &Call<'_>, snapshot: &Snapshot) -> Result<Tokens, Error> {
    Tokens::new(call, "block", &[&snapshot.id, &content(snapshot)?.root])
}

fn most(max_results: Option<i32>) -> usize {
    max_results.and_then(|most| usize::try_from(most).ok()).map_or(MOST, |most| most.min(MOST))
}

/// Where a list goes on.
fn from(tokens: &Tokens, next: Option<&str>, start: Option<i32>) -> Result<u64, Error> {
    match next.filter(|token| !token.is_empty()) {
        Some(token) => tokens
            .read(token)
            .ok_or_else(|| invalid("INVALID_PAGE_TOKEN", "The page token is not valid.")),
        None => Ok(u64::try_from(start.unwrap_or(0)).unwrap_or(0)),
    }
}

fn index(number: u64) -> Option<i32> {
    i32::try_from(number).ok()
}

pub(super) fn list_snapshot_blocks(
    call: &mut Call<'_>,
    input: api::ListSnapshotBlocksRequest,
) -> Result<api::ListSnapshotBlocksResponse, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    let snapshot = readable(call, &id)?;
    let content = content(&snapshot)?;
    let pages = Tokens::new(call, "list", &[&id, &content.root])?;
    let from = from(&pages, input.next_token.as_deref(), input.starting_block_index)?;
    let most = most(input.max_results);
    let mut found =
        call.environment.blocks.list(content, from, most + 1).map_err(|error| storage(&error))?;
    let next = found.get(most).map(|(index, _)| *index);
    found.truncate(most);
    let tokens = blocks_of(call, &snapshot)?;
    let expires = call.now.plus_millis(BLOCK_MILLIS);
    let blocks = found.into_iter().map(|(number, _)| api::Block {
        block_index: index(number),
        block_token: Some(tokens.make(number, expires)),
    });
    Ok(api::ListSnapshotBlocksResponse {
        block_size: Some(BLOCK_BYTES),
        blocks: Some(blocks.collect()),
        expiry_time: Some(expires),
        next_token: next.map(|next| pages.make(next, call.now.plus_millis(PAGE_MILLIS))),
        volume_size: Some(i64::from(snapshot.size_gib)),
    })
}

/// What a snapshot descends from: snapshots and volumes. Two that have one of them in common are of
/// one lineage.
fn lineage(call: &Call<'_>, region: &str, of: &Snapshot) -> Result<BTreeSet<String>, Error> {
    let mut known = BTreeSet::from([of.id.clone()]);
    let mut open = vec![(region.to_owned(), of.clone())];
    while let Some((region, snapshot)) = open.pop() {
        if known.len() > DEPTH {
            break;
        }
        let mut ancestors = Vec::new();
        if snapshot.volume_id != NO_VOLUME {
            known.insert(snapshot.volume_id.clone());
            let at = key::of(&region, key::VOLUME, &snapshot.owner_id, &snapshot.volume_id);
            let volume = call.peek::<Volume>(&at)?;
            ancestors
                .extend(volume.and_then(|v| v.snapshot_id.clone()).map(|id| (region.clone(), id)));
        }
        if let Origin::Copy { region, snapshot_id, .. } = &snapshot.origin {
            ancestors.push((region.clone(), snapshot_id.clone()));
        }
        ancestors.extend(snapshot.parent_id.clone().map(|id| (region.clone(), id)));
        for (region, id) in ancestors {
            if known.insert(id.clone()) {
                let at = snapshot::key_of(&region, &snapshot.owner_id, &id);
                let found = call.peek::<Snapshot>(&at)?;
                open.extend(found.map(|found| (region, found.as_ref().clone())));
            }
        }
    }
    Ok(known)
}

pub(super) fn list_changed_blocks(
    call: &mut Call<'_>,
    input: api::ListChangedBlocksRequest,
) -> Result<api::ListChangedBlocksResponse, Error> {
    let Some(first_id) = input.first_snapshot_id.filter(|id| !id.is_empty()) else {
        return Err(invalid("INVALID_SNAPSHOT_ID", "The first snapshot must be specified."));
    };
    let second_id = input.second_snapshot_id.unwrap_or_default();
    let (first, second) = (readable(call, &first_id)?, readable(call, &second_id)?);
    let region = call.region;
    if lineage(call, region, &first)?.is_disjoint(&lineage(call, region, &second)?) {
        return Err(invalid(
            "UNRELATED_SNAPSHOTS",
            "The snapshots are not of the same volume or snapshot lineage.",
        ));
    }
    let (one, other) = (content(&first)?, content(&second)?);
    let bound = [first_id.as_str(), &one.root, &second_id, &other.root];
    let pages = Tokens::new(call, "changed", &bound)?;
    let from = from(&pages, input.next_token.as_deref(), input.starting_block_index)?;
    let most = most(input.max_results);
    let mut found = call
        .environment
        .blocks
        .changed(one, other, from, most + 1)
        .map_err(|error| storage(&error))?;
    let next = found.get(most).map(|(index, ..)| *index);
    found.truncate(most);
    let (ones, others) = (blocks_of(call, &first)?, blocks_of(call, &second)?);
    let expires = call.now.plus_millis(BLOCK_MILLIS);
    let blocks = found.into_iter().map(|(number, one, other)| api::ChangedBlock {
        block_index: index(number),
        first_block_token: one.map(|_| ones.make(number, expires)),
        second_block_token: other.map(|_| others.make(number, expires)),
    });
    Ok(api::ListChangedBlocksResponse {
        block_size: Some(BLOCK_BYTES),
        changed_blocks: Some(blocks.collect()),
        expiry_time: Some(expires),
        next_token: next.map(|next| pages.make(next, call.now.plus_millis(PAGE_MILLIS))),
        volume_size: Some(i64::from(second.size_gib)),
    })
}

pub(super) fn get_snapshot_block(
    call: &mut Call<'_>,
    input: api::GetSnapshotBlockRequest,
) -> Result<api::GetSnapshotBlockResponse, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    let snapshot = readable(call, &id)?;
    let number = u64::try_from(input.block_index.unwrap_or(0)).unwrap_or(u64::MAX);
    let tokens = blocks_of(call, &snapshot)?;
    if tokens.read(&input.block_token.unwrap_or_default()) != Some(number) {
        return Err(invalid("INVALID_BLOCK_TOKEN", "The block token is not valid."));
    }
    let block = call
        .environment
        .blocks
        .read(content(&snapshot)?, number)
        .map_err(|error| storage(&error))?
        .ok_or_else(|| invalid("INVALID_BLOCK", "The snapshot has no such block."))?;
    let checksum = digest::digest(&digest::SHA256, &block);
    Ok(api::GetSnapshotBlockResponse {
        checksum: Some(STANDARD.encode(checksum)),
        checksum_algorithm: Some("SHA256".to_owned()),
        data_length: i32::try_from(block.len()).ok(),
        block_data: Some(block),
    })
}
