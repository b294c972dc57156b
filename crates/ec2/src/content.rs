//! What the records say must be kept on disk: content in the blob store, volumes, uploads.
//!
//! Content is found by its shape, in every record of the store and of whatever kind: a kind that
//! somebody adds cannot be forgotten here, and forgetting one would be the loss of its data. One is
//! left out on purpose: what a volume was made from, once the volume holds all of it itself.

use crate::record::{
    Instance, InstanceState, Snapshot, Volume, VolumeState, key, snapshot::Origin,
};
use base::volume::Content;
use serde_json::Value;
use std::sync::Arc;
use store::Error;

/// Content that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Key of the record.
    pub record: String,
    /// What it names.
    pub content: Content,
}

/// A volume that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `vol-…`.
    pub id: String,
    /// It has been made and is not being removed, so the node must have it. Otherwise it may.
    pub must_be: bool,
}

/// Every content that any record names; several times if several do.
///
/// # Errors
/// A record that may name one cannot be read. What it names must not be taken for garbage.
pub fn contents(records: &store::Snapshot) -> Result<Vec<Content>, Error> {
    Ok(named(records)?.into_iter().map(|named| named.content).collect())
}

/// As [`contents`], with the records.
///
/// # Errors
/// As for [`contents`].
pub fn named(records: &store::Snapshot) -> Result<Vec<Named>, Error> {
    const FIELD: &[u8] = b"\"root\"";
    let mut found = Vec::new();
    for record in records.scan("") {
        // Most records name none, and are not parsed for it.
        if !record.value().windows(FIELD.len()).any(|bytes| bytes == FIELD) {
            continue;
        }
        let mut value: Value = serde_json::from_slice(record.value()).map_err(|error| {
            Error::Decode { key: record.key().to_owned(), source: Arc::new(error) }
        })?;
        if is_of(&record, key::VOLUME)
            && value.get("is_filled") == Some(&Value::Bool(true))
            && let Some(fields) = value.as_object_mut()
        {
            fields.remove("source");
        }
        search(&value, &mut |content| {
            found.push(Named { record: record.key().to_owned(), content });
        });
    }
    Ok(found)
}

fn search(value: &Value, found: &mut impl FnMut(Content)) {
    match value {
        Value::Object(members) => {
            if let Some(root) = members.get("root").and_then(Value::as_str)
                && root.len() == 64
                && root.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            {
                // Whatever the rest is: the root is what keeps.
                found(serde_json::from_value(value.clone()).unwrap_or_else(|_| Content {
                    root: root.to_owned(),
                    size_gib: 0,
                    key: None,
                }));
            }
            members.values().for_each(|member| search(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| search(item, found)),
        _ => {}
    }
}

/// Every volume of the cloud.
///
/// # Errors
/// A record cannot be read.
pub fn volumes(records: &store::Snapshot) -> Result<Vec<Disk>, Error> {
    let mut disks = Vec::new();
    for record in of_kind(records, key::VOLUME) {
        let volume = record.decode::<Volume>()?;
        let mut must_be = volume.state == VolumeState::Available;
        // The volumes of a launch are made while it is pending.
        for id in &volume.attachments {
            let instance = record.key().replacen(key::VOLUME, key::INSTANCE, 1);
            let instance = instance.replacen(&volume.id, id, 1);
            if let Some(instance) = records.get(&instance) {
                must_be &= instance.decode::<Instance>()?.state != InstanceState::Pending;
            }
        }
        disks.push(Disk { id: volume.id.clone(), must_be });
    }
    Ok(disks)
}

/// The snapshots whose blocks are being put with the EBS direct APIs; each has an upload of its id.
///
/// # Errors
/// A record cannot be read.
pub fn uploads(records: &store::Snapshot) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for record in of_kind(records, key::SNAPSHOT) {
        let snapshot = record.decode::<Snapshot>()?;
        if matches!(snapshot.origin, Origin::Direct { .. }) {
            ids.push(snapshot.id.clone());
        }
    }
    Ok(ids)
}

/// The records of one kind in all regions and accounts.
fn of_kind<'a>(
    records: &'a store::Snapshot,
    kind: &'a str,
) -> impl Iterator<Item = store::KeyValue> + use<'a> {
    records.scan("").filter(move |record| is_of(record, kind))
}

fn is_of(record: &store::KeyValue, kind: &str) -> bool {
    let mut parts = record.key().split('/');
    parts.next() == Some("") && parts.nth(1) == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ACCOUNT, Region};
    use serde_json::json;

    fn put(region: &Region, key: &str, value: &Value) {
        region
            .run(|call| {
                call.put(key, value.clone());
                Ok(())
            })
            .unwrap();
    }

    fn content(digit: char) -> Content {
        Content { root: digit.to_string().repeat(64), size_gib: 8, key: None }
    }

    #[test]
    fn content_is_found_in_records_of_any_kind() {
        let region = Region::new();
        let before = contents(&region.store.snapshot()).unwrap();
        put(
            &region,
            "/us-east-1/something-new/123456789012/x-1",
            &json!({ "v": 1, "deep": [{ "of": content('a') }, [content('b')]], "root": "/" }),
        );
        put(&region, "/odd", &json!({ "root": "c".repeat(64), "size_gib": "eight" }));
        put(&region, "/none", &json!({ "root": "C".repeat(64) }));
        let records = region.store.snapshot();
        let mut found = named(&records).unwrap();
        found.retain(|named| !before.contains(&named.content));
        let mut roots: Vec<_> =
            found.iter().map(|named| (named.record.as_str(), &named.content.root[..1])).collect();
        roots.sort_unstable();
        let new = "/us-east-1/something-new/123456789012/x-1";
        assert_eq!(roots, [("/odd", "c"), (new, "a"), (new, "b")]);
        assert!(found.iter().any(|named| named.content == content('a')));
    }

    #[test]
    fn a_volume_holds_its_source_until_it_has_filled() {
        let region = Region::new();
        let volume = crate::snapshot::tests::volume(&region, |volume| {
            volume.source = Some(content('a'));
            volume.last_content = Some(content('b'));
        });
        let holds = |digit| contents(&region.store.snapshot()).unwrap().contains(&content(digit));
        assert!(holds('a') && holds('b'));
        let at = key::of("us-east-1", key::VOLUME, ACCOUNT, &volume.id);
        region
            .run(|call| {
                call.put(&at, Volume { is_filled: true, ..volume });
                Ok(())
            })
            .unwrap();
        assert!(!holds('a') && holds('b'));
    }

    #[test]
    fn a_volume_must_be_there_when_it_has_been_made() {
        let region = Region::new();
        let path = |kind: &str, id: &str| key::of("us-east-1", kind, ACCOUNT, id);
        for (id, state) in [("vol-1", "available"), ("vol-2", "creating"), ("vol-3", "deleting")] {
            let volume = json!({
                "v": 1, "id": id, "size_gib": 8, "kind": "gp3", "iops": null, "throughput": null,
                "snapshot_id": null, "availability_zone": "us-east-1a", "created": 0,
                "state": state, "tags": {},
            });
            put(&region, &path(key::VOLUME, id), &volume);
        }
        let disks = volumes(&region.store.snapshot()).unwrap();
        let must: Vec<_> = disks.iter().map(|disk| (&*disk.id, disk.must_be)).collect();
        assert_eq!(must, [("vol-1", true), ("vol-2", false), ("vol-3", false)]);
        assert_eq!(uploads(&region.store.snapshot()).unwrap(), [""; 0]);
    }
}
