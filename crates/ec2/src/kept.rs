//! Pieces of answers that are kept beside what they show, and answers that are made of them.
//!
//! A description of a thousand instances is a thousand conversions of records into API shapes and
//! as many encodings, and all but a few of them show what they showed a second ago. So an encoded
//! item is kept beside its record, with everything else that it was made of: it is used again only
//! where that is still the same. Memory for it is bounded by [`LIMIT`], the rest is encoded anew.
//!
//! An answer of [`Items`] converts one item at a time: there is never more than one in memory.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use wire::shape::{NO_SLOT, Slot};
use wire::{Encoder, List, Member, Shape, Type};

/// Most bytes of kept pieces.
const LIMIT: usize = 16 << 20;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The encoded form of one item, with `K`, what it was made of beside the record that holds it. It
/// is no part of its record: all are equal, and a copy, which is made to be changed, has none.
pub struct Kept<K>(OnceLock<(K, Piece)>);

struct Piece(Box<[u8]>);

impl Piece {
    fn new(bytes: &[u8]) -> Option<Self> {
        let before = BYTES.fetch_add(bytes.len(), Ordering::Relaxed);
        // Made even if it is not kept: its end takes its bytes off again.
        let piece = Piece(bytes.into());
        (before + bytes.len() <= LIMIT).then_some(piece)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

impl<K> Kept<K> {
    /// Whether there is one.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.get().is_some()
    }

    /// Shows an item that `model` makes of the record and of something else: `is_same` says whether
    /// that is what it was, `made_of` gives it to be kept. A record that outlives what its piece was
    /// made of is encoded anew until it changes itself.
    pub(crate) fn show(
        &self,
        item: &'static Member,
        out: &mut dyn Encoder,
        is_same: impl FnOnce(&K) -> bool,
        made_of: impl FnOnce() -> K,
        model: impl FnOnce(&mut dyn FnMut(&dyn Shape)),
    ) {
        if let Some((known, piece)) = self.0.get()
            && is_same(known)
            && out.paste(&piece.0)
        {
            return;
        }
        let from = out.written().map(<[u8]>::len);
        model(&mut |model| out.structure(item, model));
        if self.0.get().is_none()
            && let Some(piece) = from.and_then(|from| out.written()?.get(from..))
            && let Some(piece) = Piece::new(piece)
        {
            let _ = self.0.set((made_of(), piece));
        }
    }
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Kept(OnceLock::new())
    }
}

impl<K> Clone for Kept<K> {
    fn clone(&self) -> Self {
        Kept::default()
    }
}

impl<K> PartialEq for Kept<K> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<K> Eq for Kept<K> {}

impl<K> fmt::Debug for Kept<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// A structure that is shown member by member.
pub(crate) struct Made<F> {
    pub(crate) schema: &'static Type,
    pub(crate) show: F,
}

impl<F: Fn(&'static Member, &mut dyn Encoder) + Send + Sync> Shape for Made<F> {
    fn schema(&self) -> &'static Type {
        self.schema
    }

    // It is only ever shown.
    fn slot(&self, _: usize) -> &dyn Slot {
        &NO_SLOT
    }

    fn slot_mut(&mut self, _: usize) -> Option<&mut dyn Slot> {
        None
    }

    fn encode(&self, out: &mut dyn Encoder) {
        for member in self.schema.members() {
            (self.show)(member, out);
        }
    }
}

/// A list that is shown item by item.
pub(crate) struct Items<'a, T, F> {
    pub(crate) items: &'a [T],
    pub(crate) show: F,
}

impl<T, F: Fn(&T, &'static Member, &mut dyn Encoder)> List for Items<'_, T, F> {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn encode_items(&self, item: &'static Member, out: &mut dyn Encoder) {
        for value in self.items {
            (self.show)(value, item, out);
        }
    }
}
