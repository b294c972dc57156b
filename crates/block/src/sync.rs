//! One fsync for many: whoever waits while another's runs shares the next.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic elsewhere leaves nothing half-changed behind our locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts changes of one file or directory and how many of them are durable.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    changes: AtomicU64,
    durable: Mutex<u64>,
}

impl Syncer {
    /// Of a thing that a process before this one may have changed and not synced.
    pub(crate) fn unknown() -> Self {
        Syncer { changes: AtomicU64::new(1), durable: Mutex::new(0) }
    }

    /// Notes a change that was made.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns when every change noted before the call is durable; `sync` makes them so.
    pub(crate) fn wait(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let wanted = self.changes.load(Ordering::SeqCst);
        let mut durable = lock(&self.durable);
        if *durable >= wanted {
            return Ok(());
        }
        // Those who came while another's sync ran are in this one.
        let reached = self.changes.load(Ordering::SeqCst);
        sync()?;
        *durable = reached;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_synced_twice_and_a_failed_sync_does_not_count() {
        let syncer = Syncer::unknown();
        let mut calls = 0;
        syncer.wait(|| Err(io::ErrorKind::Other.into())).unwrap_err();
        syncer
            .wait(|| {
                calls += 1;
                Ok(())
            })
            .unwrap();
        syncer
            .wait(|| {
                calls += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(calls, 1);
        syncer.changed();
        syncer
            .wait(|| {
                calls += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(calls, 2);
    }
}
