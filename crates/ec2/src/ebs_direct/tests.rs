//! What the EBS direct APIs answer.

use super::read::{get_snapshot_block, list_changed_blocks, list_snapshot_blocks};
use super::write::{complete_snapshot, put_snapshot_block, start_snapshot};
use super::*;
use crate::snapshot::tests::{complete, content, reconcile, record, snapshot, volume};
use crate::snapshot_reconciler;
use crate::testing::{ACCOUNT, Region};
use aws_lc_rs::digest;
use base::volume::{Content, SnapshotState as Made, Work};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::ebs as api;
use std::collections::BTreeMap;

fn region() -> Region {
    let region = Region::new();
    region.run(token::set_up).unwrap();
    region
}

fn block(byte: u8) -> Vec<u8> {
    vec![byte; base::volume::BLOCK_BYTES]
}

fn sum(data: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, data))
}

/// A snapshot with these blocks.
fn with_blocks(
    region: &Region,
    of: &crate::record::Volume,
    root: char,
    blocks: &[(u64, u8)],
) -> String {
    let id = snapshot(region, of);
    let content = content(root);
    let blocks: BTreeMap<u64, Vec<u8>> =
        blocks.iter().map(|(index, byte)| (*index, block(*byte))).collect();
    region.blocks.set(&content, blocks);
    complete(region, of, &id, content);
    id
}

fn list(id: &str) -> api::ListSnapshotBlocksRequest {
    api::ListSnapshotBlocksRequest { snapshot_id: Some(id.to_owned()), ..Default::default() }
}

fn get(id: &str, index: i32, token: &str) -> api::GetSnapshotBlockRequest {
    api::GetSnapshotBlockRequest {
        snapshot_id: Some(id.to_owned()),
        block_index: Some(index),
        block_token: Some(token.to_owned()),
    }
}

/// The `Reason` of a refusal.
#[track_caller]
fn reason<I, O>(
    region: &Region,
    handler: impl FnOnce(&mut Call<'_>, I) -> Result<O, Error>,
    input: I,
) -> String {
    match region.run(|call| handler(call, input)) {
        Ok(_) => panic!("not refused"),
        Err(error) => match error.members.first() {
            Some((_, wire::error::Detail::Text(reason))) => reason.clone(),
            _ => String::new(),
        },
    }
}

#[test]
fn blocks_are_listed_and_read() {
    let region = region();
    let id = with_blocks(&region, &volume(&region, |_| {}), 'a', &[(0, 1), (7, 2), (9, 3)]);
    let shown = region.ok(list_snapshot_blocks, list(&id));
    let blocks = shown.blocks.unwrap();
    let indexes: Vec<_> = blocks.iter().map(|block| block.block_index.unwrap()).collect();
    assert_eq!(indexes, [0, 7, 9]);
    assert_eq!((shown.block_size, shown.volume_size), (Some(524_288), Some(8)));
    assert!(shown.next_token.is_none() && shown.expiry_time.is_some());
    let token = blocks[1].block_token.clone().unwrap();
    assert!(token.len() <= 256);
    let read = region.ok(get_snapshot_block, get(&id, 7, &token));
    assert_eq!(read.checksum.unwrap(), sum(&block(2)));
    assert_eq!(read.data_length, Some(524_288));
    assert_eq!(read.block_data.unwrap(), block(2));
    let later = api::ListSnapshotBlocksRequest { starting_block_index: Some(8), ..list(&id) };
    assert_eq!(region.ok(list_snapshot_blocks, later).blocks.unwrap().len(), 1);
}

#[test]
fn tokens_open_their_block_alone() {
    let region = region();
    let of = volume(&region, |_| {});
    let id = with_blocks(&region, &of, 'a', &[(0, 1), (7, 2)]);
    let other = with_blocks(&region, &of, 'b', &[(0, 1), (7, 2)]);
    let blocks = region.ok(list_snapshot_blocks, list(&id)).blocks.unwrap();
    let token = blocks[1].block_token.clone().unwrap();
    let forged = {
        let mut bytes = STANDARD.decode(&token).unwrap();
        bytes[8] ^= 7;
        STANDARD.encode(bytes)
    };
    for (id, index, token) in
        [(&id, 0, &token), (&other, 7, &token), (&id, 0, &forged), (&id, 7, &"AAAA".to_owned())]
    {
        let why = reason(&region, get_snapshot_block, get(id, index, token));
        assert_eq!(why, "INVALID_BLOCK_TOKEN");
    }
    region.pass(7 * 24 * 3_600_000 - 1);
    region.ok(get_snapshot_block, get(&id, 7, &token));
    region.pass(1);
    let why = reason(&region, get_snapshot_block, get(&id, 7, &token));
    assert_eq!(why, "INVALID_BLOCK_TOKEN");
}

#[test]
fn lists_come_in_pages() {
    let region = region();
    let blocks: Vec<_> = (0..250).map(|index| (index * 3, 1)).collect();
    let id = with_blocks(&region, &volume(&region, |_| {}), 'a', &blocks);
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let input = api::ListSnapshotBlocksRequest {
            max_results: Some(100),
            next_token: next.clone(),
            ..list(&id)
        };
        let page = region.ok(list_snapshot_blocks, input);
        found.extend(page.blocks.unwrap().into_iter().map(|block| block.block_index.unwrap()));
        next = page.next_token;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found, (0..250).map(|index| index * 3).collect::<Vec<_>>());
    let bad = api::ListSnapshotBlocksRequest { next_token: Some("AAAA".to_owned()), ..list(&id) };
    assert_eq!(reason(&region, list_snapshot_blocks, bad), "INVALID_PAGE_TOKEN");
}

#[test]
fn changes_between_two_of_one_lineage() {
    let region = region();
    let of = volume(&region, |_| {});
    let first = with_blocks(&region, &of, 'a', &[(0, 1), (1, 1), (2, 1)]);
    let second = with_blocks(&region, &of, 'b', &[(0, 1), (1, 9), (3, 1)]);
    let ask = |first: Option<&str>, second: &str| api::ListChangedBlocksRequest {
        first_snapshot_id: first.map(str::to_owned),
        second_snapshot_id: Some(second.to_owned()),
        ..Default::default()
    };
    let changed = region.ok(list_changed_blocks, ask(Some(&first), &second));
    let changed: Vec<_> = changed
        .changed_blocks
        .unwrap()
        .into_iter()
        .map(|c| (c.block_index.unwrap(), c.first_block_token, c.second_block_token))
        .collect();
    let shape: Vec<_> =
        changed.iter().map(|(i, one, other)| (*i, one.is_some(), other.is_some())).collect();
    assert_eq!(shape, [(1, true, true), (2, true, false), (3, false, true)]);
    let token = changed[0].2.as_ref().unwrap();
    assert_eq!(region.ok(get_snapshot_block, get(&second, 1, token)).block_data, Some(block(9)));
    let stranger = with_blocks(&region, &volume(&region, |_| {}), 'c', &[(0, 1)]);
    let why = reason(&region, list_changed_blocks, ask(Some(&first), &stranger));
    assert_eq!(why, "UNRELATED_SNAPSHOTS");
    let why = reason(&region, list_changed_blocks, ask(None, &second));
    assert_eq!(why, "INVALID_SNAPSHOT_ID");
    // A volume that is made of a snapshot goes its lineage on.
    let child = volume(&region, |volume| volume.snapshot_id = Some(second.clone()));
    let third = with_blocks(&region, &child, 'd', &[(0, 1)]);
    region.ok(list_changed_blocks, ask(Some(&first), &third));
}

#[test]
fn snapshots_that_cannot_be_read() {
    let region = region();
    let pending = snapshot(&region, &volume(&region, |_| {}));
    for (id, why) in [
        ("snap-00000000000000001", "SNAPSHOT_NOT_FOUND"),
        ("snap-1", "INVALID_SNAPSHOT_ID"),
        (pending.as_str(), "INVALID_SNAPSHOT_ID"),
    ] {
        assert_eq!(reason(&region, list_snapshot_blocks, list(id)), why);
    }
    let error = region.run(|call| list_snapshot_blocks(call, list("snap-00000000000000001")));
    let error = error.unwrap_err();
    assert_eq!((error.code.as_ref(), error.status), ("ResourceNotFoundException", 404));
}

fn start(size: i64) -> api::StartSnapshotRequest {
    api::StartSnapshotRequest { volume_size: Some(size), ..Default::default() }
}

fn put(id: &str, index: i32, byte: u8) -> api::PutSnapshotBlockRequest {
    api::PutSnapshotBlockRequest {
        snapshot_id: Some(id.to_owned()),
        block_index: Some(index),
        checksum: Some(sum(&block(byte))),
        checksum_algorithm: Some("SHA256".to_owned()),
        data_length: Some(524_288),
        progress: None,
        block_data: Some(block(byte)),
    }
}

fn seal(id: &str, count: i32) -> api::CompleteSnapshotRequest {
    api::CompleteSnapshotRequest {
        snapshot_id: Some(id.to_owned()),
        changed_blocks_count: Some(count),
        ..Default::default()
    }
}

#[test]
fn a_snapshot_is_written_block_by_block() {
    let region = region();
    let input = api::StartSnapshotRequest {
        description: Some("by hand".to_owned()),
        tags: Some(vec![api::Tag { key: Some("a".to_owned()), value: Some("b".to_owned()) }]),
        ..start(2)
    };
    let started = region.ok(start_snapshot, input);
    assert_eq!(started.status.as_deref(), Some("pending"));
    let id = started.snapshot_id.unwrap();
    region.ok(put_snapshot_block, put(&id, 5, 1));
    region.ok(put_snapshot_block, put(&id, 0, 2));
    let again = region.ok(put_snapshot_block, put(&id, 5, 3));
    assert_eq!(again.checksum.unwrap(), sum(&block(3)));
    let why = reason(&region, complete_snapshot, seal(&id, 3));
    assert_eq!(why, "INVALID_PARAMETER_VALUE");
    let sums: Vec<u8> =
        [2, 3].iter().flat_map(|byte| STANDARD.decode(sum(&block(*byte))).unwrap()).collect();
    let checked = |checksum: String| api::CompleteSnapshotRequest {
        checksum: Some(checksum),
        checksum_algorithm: Some("SHA256".to_owned()),
        checksum_aggregation_method: Some("LINEAR".to_owned()),
        ..seal(&id, 2)
    };
    let why = reason(&region, complete_snapshot, checked(sum(b"else")));
    assert_eq!(why, "INVALID_PARAMETER_VALUE");
    let done = region.ok(complete_snapshot, checked(sum(&sums)));
    assert_eq!(done.status.as_deref(), Some("pending"));
    let why = reason(&region, put_snapshot_block, put(&id, 1, 1));
    assert_eq!(why, "INVALID_SNAPSHOT_ID");
    reconcile(&region, &id);
    let work = region.driver.task(&id).unwrap().work;
    assert_eq!(work, Work::Complete { parent: None, size_gib: 2, key: None });
    let made = Content { size_gib: 2, ..content('f') };
    region.driver.set_task(
        &id,
        Made::Completed { content: made.clone(), new_bytes: 1 << 20, full_bytes: 1 << 20 },
    );
    reconcile(&region, &id);
    assert_eq!(record(&region, &id).content, Some(made));
    assert!(region.blocks.upload(&id).is_some(), "until the result is recorded");
    reconcile(&region, &id);
    assert!(region.blocks.upload(&id).is_none());
}

#[test]
fn bad_blocks_are_refused() {
    let region = region();
    let id = region.ok(start_snapshot, start(1)).snapshot_id.unwrap();
    for bad in [
        api::PutSnapshotBlockRequest { checksum: Some(sum(b"else")), ..put(&id, 0, 1) },
        api::PutSnapshotBlockRequest { data_length: Some(512), ..put(&id, 0, 1) },
        api::PutSnapshotBlockRequest { block_data: Some(vec![1]), ..put(&id, 0, 1) },
        put(&id, 2_048, 1),
    ] {
        assert_eq!(reason(&region, put_snapshot_block, bad), "INVALID_BLOCK");
    }
    assert!(region.blocks.upload(&id).is_none());
    region.ok(put_snapshot_block, put(&id, 2_047, 1));
    let taken = snapshot(&region, &volume(&region, |_| {}));
    assert_eq!(
        reason(&region, put_snapshot_block, put(&taken, 0, 1)),
        "INVALID_SNAPSHOT_ID",
        "not one that was started here"
    );
}

#[test]
fn what_cannot_be_started() {
    let region = region();
    let parent = with_blocks(&region, &volume(&region, |_| {}), 'a', &[(0, 1)]);
    let child = |size| api::StartSnapshotRequest {
        parent_snapshot_id: Some(parent.clone()),
        ..start(size)
    };
    for (bad, why) in [
        (start(0), "INVALID_VOLUME_SIZE"),
        (start(65_537), "INVALID_VOLUME_SIZE"),
        (child(7), "INVALID_VOLUME_SIZE"),
        (
            api::StartSnapshotRequest { encrypted: Some(true), ..child(8) },
            "INVALID_PARAMETER_VALUE",
        ),
        (
            api::StartSnapshotRequest { kms_key_arn: Some("arn".to_owned()), ..start(1) },
            "INVALID_PARAMETER_VALUE",
        ),
        (
            api::StartSnapshotRequest {
                encrypted: Some(true),
                kms_key_arn: Some("none".to_owned()),
                ..start(1)
            },
            "INVALID_CUSTOMER_KEY",
        ),
        (
            api::StartSnapshotRequest {
                tags: Some(vec![api::Tag { key: Some("aws:x".to_owned()), value: None }]),
                ..start(1)
            },
            "INVALID_TAG",
        ),
    ] {
        assert_eq!(reason(&region, start_snapshot, bad), why);
    }
    let id = region.ok(start_snapshot, child(8)).snapshot_id.unwrap();
    assert_eq!(record(&region, &id).parent, Some(content('a')));
    let sealed = api::StartSnapshotRequest { encrypted: Some(true), ..start(1) };
    assert!(region.ok(start_snapshot, sealed).kms_key_arn.is_some());
}

#[test]
fn one_that_nobody_writes_fails() {
    let region = region();
    let input = api::StartSnapshotRequest { timeout: Some(10), ..start(1) };
    let id = region.ok(start_snapshot, input).snapshot_id.unwrap();
    region.pass(9 * 60_000);
    region.ok(put_snapshot_block, put(&id, 0, 1));
    region.pass(9 * 60_000);
    reconcile(&region, &id);
    assert_eq!(record(&region, &id).state, SnapshotState::Pending);
    region.pass(60_000);
    reconcile(&region, &id);
    assert_eq!(record(&region, &id).state, SnapshotState::Error);
    assert_eq!(reason(&region, put_snapshot_block, put(&id, 0, 1)), "WRITE_REQUEST_TIMEOUT");
    // Its blocks go, as those of a deleted one.
    reconcile(&region, &id);
    assert!(region.blocks.upload(&id).is_none());
    let other = region.ok(start_snapshot, start(1)).snapshot_id.unwrap();
    region.ok(put_snapshot_block, put(&other, 0, 1));
    let at = crate::snapshot::key_of("us-east-1", ACCOUNT, &other);
    region
        .run(|call| {
            call.delete(&at);
            Ok(())
        })
        .unwrap();
    region.run(|call| (snapshot_reconciler::RECONCILER.run)(call, &at)).unwrap();
    assert!(region.blocks.upload(&other).is_none());
}
