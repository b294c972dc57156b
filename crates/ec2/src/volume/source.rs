//! The record of a new volume, made by itself or by a launch.

use crate::record::snapshot::Origin;
use crate::record::{Snapshot, Volume, VolumeShape, VolumeState};
use crate::snapshot;
use base::Timestamp;
use base::key::WrappedKey;

/// The facts of a new volume.
pub(crate) struct New<'a> {
    pub(crate) id: String,
    pub(crate) shape: &'a VolumeShape,
    pub(crate) snapshot: Option<&'a Snapshot>,
    pub(crate) key: Option<WrappedKey>,
    pub(crate) initialization_rate: Option<u32>,
    pub(crate) zone: &'a str,
    pub(crate) created: Timestamp,
}

/// The record of a volume that nothing has happened to yet.
pub(crate) fn new(new: New<'_>) -> Volume {
    let New { id, shape, snapshot, key, initialization_rate, zone, created } = new;
    Volume {
        v: 1,
        id,
        size_gib: shape.size_gib,
        kind: shape.kind.clone(),
        iops: shape.iops,
        throughput: shape.throughput,
        snapshot_id: snapshot.map(|snapshot| snapshot.id.clone()),
        availability_zone: zone.to_owned(),
        created,
        attachments: Vec::new(),
        state: VolumeState::Creating,
        key,
        source: snapshot.and_then(|snapshot| snapshot.content.clone()),
        multi_attach: shape.multi_attach,
        initialization_rate,
        filled_first: initialization_rate.is_none()
            && snapshot.is_some_and(|snapshot| snapshot::is_fast(snapshot, zone)),
        is_filled: snapshot.is_none(),
        source_is_published: snapshot.is_some_and(|s| s.origin == Origin::Published),
        image_key: snapshot.map(|snapshot| snapshot.image_key.clone()).unwrap_or_default(),
        pending_snapshots: Vec::new(),
        last_content: None,
        modifications: Vec::new(),
        auto_enable_io: false,
        impaired: None,
        tags: Default::default(),
    }
}
