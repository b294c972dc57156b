//! Work on many blocks with a few threads, so that their reads and fsyncs overlap.

use crate::blob::{Error, Result};
use crate::sync::lock;
use crate::upload::Progress;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Does `work` for each item on `threads` threads. The first error ends it.
pub(crate) fn each<T: Send>(
    threads: usize,
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let items = Mutex::new(items.fuse());
    let stop = AtomicBool::new(false);
    let run = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let Some(item) = lock(&items).next() else { break };
            if let Err(error) = work(item) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(run)).collect();
        let mut result = run();
        for other in others {
            let ended = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

/// Adds up what threads have done and tells it.
pub(crate) struct Counter<'a> {
    done: AtomicU64,
    total: u64,
    progress: Progress<'a>,
}

impl fmt::Debug for Counter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("done", &self.done).finish_non_exhaustive()
    }
}

impl<'a> Counter<'a> {
    pub(crate) fn new(total: u64, progress: Progress<'a>) -> Self {
        Counter { done: AtomicU64::new(0), total, progress }
    }

    pub(crate) fn add(&self, bytes: u64) -> Result<()> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match (self.progress)(done, self.total) {
            std::ops::ControlFlow::Continue(()) => Ok(()),
            std::ops::ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_an_error_ends_it() {
        let sum = AtomicU64::new(0);
        each(4, 1..=100_u64, |item| {
            sum.fetch_add(item, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(sum.into_inner(), 5050);
        let calls = AtomicU64::new(0);
        let error = each(2, 0..1_000_000_u64, |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(Error::Full)
        });
        assert!(matches!(error, Err(Error::Full)));
        assert!(calls.into_inner() <= 2);
    }
}
