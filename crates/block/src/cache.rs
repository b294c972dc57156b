//! A small cache: what was used longest ago goes, and one thing is made once although many threads
//! want it at the same time.

use crate::sync::lock;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    slots: Mutex<Slots<K, V>>,
    most: usize,
}

#[derive(Debug)]
struct Slots<K, V> {
    /// Counts uses.
    now: u64,
    by_key: HashMap<K, (u64, Arc<Slot<V>>)>,
}

/// Locked while its value is being made.
type Slot<V> = Mutex<Option<Arc<V>>>;

impl<K: Copy + Eq + Hash, V> Cache<K, V> {
    /// Keeps at most `most` values, at least one. Looks at all of them to find the oldest, so `most`
    /// should be some dozens.
    pub(crate) fn new(most: usize) -> Self {
        let slots = Slots { now: 0, by_key: HashMap::new() };
        Cache { slots: Mutex::new(slots), most: most.max(1) }
    }

    /// The value of a key, which `make` gives if it is not here. An error is not kept.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let slot = self.slot(key);
        let mut value = lock(&slot);
        if let Some(value) = &*value {
            return Ok(Arc::clone(value));
        }
        let made = Arc::new(make()?);
        *value = Some(Arc::clone(&made));
        Ok(made)
    }

    /// The value of a key if it is here. Waits for nobody who makes one.
    pub(crate) fn peek(&self, key: K) -> Option<Arc<V>> {
        let mut slots = lock(&self.slots);
        slots.now += 1;
        let now = slots.now;
        let (used, slot) = slots.by_key.get_mut(&key)?;
        *used = now;
        let value = slot.try_lock().ok()?;
        value.clone()
    }

    fn slot(&self, key: K) -> Arc<Slot<V>> {
        let mut slots = lock(&self.slots);
        slots.now += 1;
        let now = slots.now;
        if let Some((used, slot)) = slots.by_key.get_mut(&key) {
            *used = now;
            return Arc::clone(slot);
        }
        if slots.by_key.len() >= self.most
            && let Some(oldest) =
                slots.by_key.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key)
        {
            slots.by_key.remove(&oldest);
        }
        let slot = Arc::new(Slot::default());
        slots.by_key.insert(key, (now, Arc::clone(&slot)));
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_value_used_longest_ago_goes_and_errors_are_not_kept() {
        let cache = Cache::new(2);
        let made = AtomicUsize::new(0);
        let get = |key: u8| {
            *cache.get(key, || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed))).unwrap()
        };
        assert_eq!([get(1), get(2), get(1), get(3)], [0, 1, 0, 2]);
        assert_eq!([get(1), get(2)], [0, 3], "2 was the oldest");
        assert_eq!(cache.get(9, || Err("no")), Err("no"));
        assert_eq!(get(9), 4);
    }

    #[test]
    fn many_threads_make_one_value() {
        let cache = Cache::new(4);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| cache.get(1, || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed))));
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
