//! Steps and versions as bytes: little-endian numbers, lengths before texts. Reading is total: any
//! bytes give a value or `None`, and no length is believed before it is checked.
//!
//! ```text
//! steps    1 commit: revision u64, events u32, then for each: 0 key | 1 key, version
//!          2 grant: lease u64, seconds u64
//!          3 revoke: lease u64
//! version  create revision u64, mod revision u64, version u64, lease u64 (0: none), value
//! key      length u32, UTF-8;  value: length u32, bytes
//! ```

use crate::record::{KeyValue, Version};
use crate::state::{State, Step};
use crate::watch::Event;
use crate::{LeaseId, Revision};
use std::sync::{Arc, OnceLock};

fn put_u32(out: &mut Vec<u8>, number: usize) {
    // Lengths are bounded by MAX_TXN_BYTES and counts by memory; both are far below 4 Gi.
    let number = u32::try_from(number).expect("a length below 4 GiB");
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a version without its key.
pub(crate) fn put_version(out: &mut Vec<u8>, entry: &KeyValue) {
    put_u64(out, entry.create_revision());
    put_u64(out, entry.mod_revision());
    put_u64(out, entry.version());
    put_u64(out, entry.lease().map_or(0, |id| id.0));
    put_bytes(out, entry.value());
}

/// Appends one step.
pub(crate) fn put_step(out: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Commit(commit) => {
            out.push(1);
            put_u64(out, commit.revision);
            put_u32(out, commit.events.len());
            for Event { key, value, .. } in &commit.events {
                out.push(u8::from(value.is_some()));
                put_bytes(out, key.as_bytes());
                if let Some(entry) = value {
                    put_version(out, entry);
                }
            }
        }
        Step::Grant(id, seconds) => {
            out.push(2);
            put_u64(out, id.0);
            put_u64(out, *seconds);
        }
        Step::Revoke(id) => {
            out.push(3);
            put_u64(out, id.0);
        }
    }
}

/// What is left to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    fn key(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Reads a version of `key`.
    pub(crate) fn version(&mut self, key: Arc<str>) -> Option<KeyValue> {
        Some(KeyValue::new(Version {
            key,
            create_revision: self.u64()?,
            mod_revision: self.u64()?,
            version: self.u64()?,
            lease: Some(self.u64()?).filter(|id| *id > 0).map(LeaseId),
            value: self.bytes()?.into(),
            decoded: OnceLock::new(),
        }))
    }

    /// Reads all steps and does them to `state`; the keys that changed go to `changed`.
    pub(crate) fn replay(&mut self, state: &mut State, changed: &mut Vec<Arc<str>>) -> Option<()> {
        while !self.0.is_empty() {
            match self.byte()? {
                1 => self.replay_commit(state, changed)?,
                2 => {
                    let id = LeaseId(self.u64()?);
                    state.insert_lease(id, self.u64()?);
                }
                3 => {
                    state.leases.remove(&LeaseId(self.u64()?));
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn replay_commit(&mut self, state: &mut State, changed: &mut Vec<Arc<str>>) -> Option<()> {
        let revision: Revision = self.u64()?;
        for _ in 0..self.u32()? {
            match self.byte()? {
                0 => {
                    let event = state.delete(self.key()?, revision)?;
                    changed.push(event.key);
                }
                1 => {
                    let key = self.key()?.into();
                    let event = state.put(self.version(key)?);
                    changed.push(event.key);
                }
                _ => return None,
            }
        }
        state.snapshot.revision = revision;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::{Op, Txn};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_steps_or_none(mut bytes in vec(any::<u8>(), 0..200), kind in 1..4_u8) {
            bytes.insert(0, kind);
            let _ = Reader(&bytes).replay(&mut State::default(), &mut Vec::new());
        }

        #[test]
        fn steps_are_read_as_they_were_written(values in vec(vec(any::<u8>(), 0..20), 1..9)) {
            let mut state = State::default();
            let lease = state.grant(7);
            let mut steps = vec![Step::Grant(lease, 7)];
            for (i, value) in values.iter().enumerate() {
                let put = Op::put_bytes(format!("k{}", i % 3), value.clone());
                let put = if i % 2 == 0 { put.with_lease(lease) } else { put };
                let ops = vec![put, Op::delete(format!("k{}", (i + 1) % 3))];
                steps.extend(state.run(Txn::write(ops)).unwrap().1.map(Step::Commit));
            }
            let mut bytes = Vec::new();
            steps.iter().for_each(|step| put_step(&mut bytes, step));
            let mut read = State::default();
            prop_assert!(Reader(&bytes).replay(&mut read, &mut Vec::new()).is_some());
            let entries = |s: &State| s.snapshot.scan("").collect::<Vec<_>>();
            prop_assert_eq!(entries(&read), entries(&state));
            prop_assert_eq!(read.snapshot.revision, state.snapshot.revision);
            prop_assert_eq!(&read.leases[&lease].keys, &state.leases[&lease].keys);
            // Cut anywhere, they end in a whole step or are refused.
            for end in 0..bytes.len() {
                let _ = Reader(&bytes[..end]).replay(&mut State::default(), &mut Vec::new());
            }
        }
    }
}
