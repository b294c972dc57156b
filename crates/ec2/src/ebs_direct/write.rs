//! StartSnapshot, PutSnapshotBlock, CompleteSnapshot.

use super::{BLOCK_BYTES, BLOCKS_PER_GIB, invalid, readable, storage, translate, writable};
use crate::encryption;
use crate::record::Snapshot;
use crate::record::snapshot::Origin;
use crate::{snapshot, tag};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::ebs::{self as api, op};
use model::ec2;
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};

/// EBS quotas: StartSnapshot and CompleteSnapshot 10 a second an account, PutSnapshotBlock 1,000.
const START: Rate = Rate::new(10.0, 10.0);
const PUT: Rate = Rate::new(1_000.0, 1_000.0);

pub(super) const OPERATIONS: &[Operation] = &[
    operation!(
        op::StartSnapshot,
        start_snapshot,
        Write,
        [
            "Description",
            "Encrypted",
            "KmsKeyArn",
            "ParentSnapshotId",
            "Tags.*",
            "Timeout",
            "VolumeSize",
        ],
        START
    ),
    // Writes a block before its transaction, if it has one.
    operation!(
        op::PutSnapshotBlock,
        put_snapshot_block,
        Live,
        [
            "BlockData",
            "BlockIndex",
            "Checksum",
            "ChecksumAlgorithm",
            "DataLength",
            "Progress",
            "SnapshotId",
        ],
        PUT
    ),
    operation!(
        op::CompleteSnapshot,
        complete_snapshot,
        Live,
        [
            "ChangedBlocksCount",
            "Checksum",
            "ChecksumAggregationMethod",
            "ChecksumAlgorithm",
            "SnapshotId",
        ],
        START
    ),
];

/// Largest snapshot, GiB.
const MAX_GIB: i64 = 65_536;
/// Minutes after the last block when a request does not say it.
const TIMEOUT: i32 = 60;

fn tags(call: &Call<'_>, tags: Option<Vec<api::Tag>>) -> Result<crate::record::Tags, Error> {
    let tags = tags.unwrap_or_default();
    if tags.is_empty() {
        return Ok(crate::record::Tags::new());
    }
    let specification = ec2::TagSpecification {
        resource_type: Some("snapshot".to_owned()),
        tags: Some(
            tags.into_iter().map(|tag| ec2::Tag { key: tag.key, value: tag.value }).collect(),
        ),
    };
    tag::for_caller(call, Some(&[specification]), "snapshot", &["snapshot"])
        .map_err(|error| invalid("INVALID_TAG", error.message))
}

pub(super) fn start_snapshot(
    call: &mut Call<'_>,
    input: api::StartSnapshotRequest,
) -> Result<api::StartSnapshotResponse, Error> {
    let size = input.volume_size.unwrap_or(0);
    let size_gib = u32::try_from(size).ok().filter(|_| (1..=MAX_GIB).contains(&size));
    let size_gib = size_gib.ok_or_else(|| {
        invalid(
            "INVALID_VOLUME_SIZE",
            format!("The volume size must be between 1 and {MAX_GIB} GiB."),
        )
    })?;
    let tags = tags(call, input.tags)?;
    let arn = input.kms_key_arn.filter(|arn| !arn.is_empty());
    if arn.is_some() && input.encrypted != Some(true) {
        return Err(invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn needs Encrypted to be true."));
    }
    let parent = match input.parent_snapshot_id.filter(|id| !id.is_empty()) {
        None => None,
        Some(_) if input.encrypted.is_some() || arn.is_some() => {
            return Err(invalid(
                "INVALID_PARAMETER_VALUE",
                "Encrypted and KmsKeyArn cannot be specified with ParentSnapshotId.",
            ));
        }
        Some(id) => Some(readable(call, &id)?),
    };
    let origin = Origin::Direct {
        timeout_minutes: input.timeout.unwrap_or(TIMEOUT).unsigned_abs(),
        touched: call.now,
        sealed: false,
    };
    let mut made = snapshot::pending(call, origin, size_gib);
    if let Some(parent) = &parent {
        if parent.size_gib > size_gib {
            return Err(invalid(
                "INVALID_VOLUME_SIZE",
                "The volume size must not be smaller than that of the parent snapshot.",
            ));
        }
        if parent.key.is_none() && encryption::settings(call)?.encrypt {
            return Err(invalid(
                "INVALID_PARAMETER_VALUE",
                "The parent snapshot is not encrypted, and the account encrypts by default.",
            ));
        }
        made.parent.clone_from(&parent.content);
        made.parent_id = Some(parent.id.clone());
        made.key.clone_from(&parent.key);
    } else {
        made.key = encryption::snapshot_key(call, input.encrypted, arn.as_deref(), None)
            .map_err(|error| translate(error, ""))?;
    }
    made.description = input.description.unwrap_or_default();
    made.tags = tags;
    let at = snapshot::key_of(call.region, &made.owner_id, &made.id);
    let made = call.put(&at, made);
    let shown = made.tags.iter();
    Ok(api::StartSnapshotResponse {
        block_size: Some(BLOCK_BYTES),
        description: (!made.description.is_empty()).then(|| made.description.clone()),
        kms_key_arn: made.key.as_ref().map(|key| key.key_arn.clone()),
        owner_id: Some(made.owner_id.clone()),
        parent_snapshot_id: made.parent_id.clone(),
        snapshot_id: Some(made.id.clone()),
        sse_type: Some(if made.key.is_some() { "sse-kms" } else { "none" }.to_owned()),
        start_time: Some(made.started),
        status: Some("pending".to_owned()),
        tags: (!made.tags.is_empty()).then(|| {
            shown
                .map(|(key, value)| api::Tag { key: Some(key.clone()), value: Some(value.clone()) })
                .collect()
        }),
        volume_size: Some(size),
    })
}

pub(super) fn put_snapshot_block(
    call: &mut Call<'_>,
    input: api::PutSnapshotBlockRequest,
) -> Result<api::PutSnapshotBlockResponse, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    let (at, found) = writable(call, &id)?;
    let data = input.block_data.unwrap_or_default();
    if input.data_length != Some(BLOCK_BYTES) || data.len() != base::volume::BLOCK_BYTES {
        return Err(invalid(
            "INVALID_BLOCK",
            format!("A block has {BLOCK_BYTES} bytes, and the data length says so."),
        ));
    }
    let index = u64::try_from(input.block_index.unwrap_or(0)).unwrap_or(u64::MAX);
    if index >= u64::from(found.size_gib) * BLOCKS_PER_GIB {
        return Err(invalid(
            "INVALID_BLOCK",
            format!("The block index {index} is beyond the end of the snapshot."),
        ));
    }
    let checksum = STANDARD.encode(digest::digest(&digest::SHA256, &data));
    if input.checksum.as_deref() != Some(&checksum) {
        return Err(invalid("INVALID_BLOCK", "The checksum is not that of the block's data."));
    }
    call.environment
        .blocks
        .put(&id, found.key.as_ref(), index, &data)
        .map_err(|error| storage(&error))?;
    touch(call, &at, &found, input.progress);
    Ok(api::PutSnapshotBlockResponse {
        checksum: Some(checksum),
        checksum_algorithm: Some("SHA256".to_owned()),
    })
}

/// Writes down that the snapshot is being written: not for every block, but often enough that its
/// time does not run out meanwhile.
fn touch(call: &mut Call<'_>, at: &str, found: &Snapshot, progress: Option<i32>) {
    let Origin::Direct { timeout_minutes, touched, sealed } = found.origin else { return };
    let progress = progress.and_then(|percent| u8::try_from(percent).ok()).map(|p| p.min(99));
    let is_news = progress.is_some_and(|percent| percent != found.progress);
    let often = i64::from(timeout_minutes) * 60_000 / 8;
    if !is_news && call.now.millis_since(touched) < often {
        return;
    }
    let mut next = found.clone();
    next.origin = Origin::Direct { timeout_minutes, touched: call.now, sealed };
    next.progress = progress.unwrap_or(found.progress);
    call.put(at, next);
}

pub(super) fn complete_snapshot(
    call: &mut Call<'_>,
    input: api::CompleteSnapshotRequest,
) -> Result<api::CompleteSnapshotResponse, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    let (at, found) = writable(call, &id)?;
    let blocks = &call.environment.blocks;
    let count = blocks.uploaded(&id).map_err(|error| storage(&error))?;
    let claimed = input.changed_blocks_count.unwrap_or(0);
    if u64::try_from(claimed).ok() != Some(count) {
        return Err(invalid(
            "INVALID_PARAMETER_VALUE",
            format!("ChangedBlocksCount is {claimed}, but {count} blocks were written."),
        ));
    }
    let words = [&input.checksum_algorithm, &input.checksum_aggregation_method];
    if let Some(checksum) = &input.checksum {
        if words.iter().any(|word| word.is_none()) {
            return Err(invalid(
                "INVALID_PARAMETER_VALUE",
                "A checksum needs ChecksumAlgorithm and ChecksumAggregationMethod.",
            ));
        }
        let sum = blocks.checksum(&id).map_err(|error| storage(&error))?;
        if *checksum != STANDARD.encode(sum) {
            return Err(invalid(
                "INVALID_PARAMETER_VALUE",
                "The checksum is not that of the checksums of the blocks.",
            ));
        }
    }
    let mut next = Snapshot::clone(&found);
    if let Origin::Direct { sealed, .. } = &mut next.origin {
        *sealed = true;
    }
    call.put(&at, next);
    Ok(api::CompleteSnapshotResponse { status: Some("pending".to_owned()) })
}
