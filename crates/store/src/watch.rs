//! Watches: what changed, in order, from a revision on.
//!
//! There is one log of the last commits, bounded in number and bytes, and each watch is a position
//! in it. So a watch that nobody reads costs nothing and holds nobody up; when the log has moved
//! past its position it ends with [`Error::Compacted`] and its owner lists again.
//!
//! ```text
//! commit ──> snapshot published ──> log appended ──> watches woken
//! ```
//!
//! In that order: who is told of a change finds it in the next snapshot. The log is not persisted;
//! after a restart, a watch from an earlier revision is answered with `Compacted`.

use crate::record::KeyValue;
use crate::{Error, Revision};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// One key changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the transaction that did it.
    pub revision: Revision,
    /// The key.
    pub key: Arc<str>,
    /// What it is now; `None` if it was deleted.
    pub value: Option<KeyValue>,
    /// What it was before; `None` if it did not exist.
    pub previous: Option<KeyValue>,
}

/// All that one transaction changed, in the order of its operations.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
}

impl Commit {
    /// The memory that only the log holds: what the events replaced, and the events themselves.
    fn retained_bytes(&self) -> usize {
        let replaced = |e: &Event| e.previous.as_ref().map_or(0, |p| p.value().len());
        self.events.iter().map(|e| 128 + replaced(e)).sum()
    }
}

/// The last commits. Their revisions have no gaps.
pub(crate) struct Log {
    inner: Mutex<Inner>,
    durable: watch::Sender<Revision>,
    max_events: usize,
    max_bytes: usize,
}

struct Inner {
    commits: VecDeque<Arc<Commit>>,
    /// The revision of the first commit here, or of the next one if there is none.
    oldest: Revision,
    events: usize,
    bytes: usize,
}

impl Inner {
    fn forget_first(&mut self) -> Option<Arc<Commit>> {
        let first = self.commits.pop_front()?;
        self.oldest = first.revision + 1;
        self.events -= first.events.len();
        self.bytes -= first.retained_bytes();
        Some(first)
    }
}

/// How many commits a watch takes from the log at once; bounds the time it holds the lock.
const COMMITS_AT_ONCE: usize = 256;

impl Log {
    /// An empty log of a store at `revision`.
    pub(crate) fn new(revision: Revision, max_events: usize, max_bytes: usize) -> Self {
        let commits = VecDeque::new();
        Log {
            inner: Mutex::new(Inner { commits, oldest: revision + 1, events: 0, bytes: 0 }),
            durable: watch::Sender::new(revision),
            max_events,
            max_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends commits that are durable and visible, and wakes the watches.
    pub(crate) fn append(&self, commits: impl IntoIterator<Item = Arc<Commit>>) {
        let mut forgotten = Vec::new();
        let mut last = None;
        {
            let mut inner = self.lock();
            for commit in commits {
                last = Some(commit.revision);
                inner.events += commit.events.len();
                inner.bytes += commit.retained_bytes();
                inner.commits.push_back(commit);
            }
            while inner.events > self.max_events || inner.bytes > self.max_bytes {
                forgotten.extend(inner.forget_first());
            }
        }
        drop(forgotten); // Outside the lock: these may be many deallocations.
        if let Some(revision) = last {
            self.durable.send_replace(revision);
        }
    }

    /// Forgets the commits before `revision`. Forgetting the same again is no error.
    pub(crate) fn compact(&self, revision: Revision) -> Result<(), Error> {
        let current = *self.durable.borrow();
        if revision > current {
            return Err(Error::FutureRevision { asked: revision, current });
        }
        let mut forgotten = Vec::new();
        let mut inner = self.lock();
        while inner.oldest < revision {
            forgotten.extend(inner.forget_first());
        }
        drop(inner);
        Ok(())
    }

    /// A watch of what starts with `prefix`, from revision `from` on (0: from now on).
    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let changed = self.durable.subscribe();
        let oldest = self.lock().oldest;
        let next = if from == 0 { changed.borrow().saturating_add(1) } else { from };
        if next < oldest {
            return Err(Error::Compacted { oldest });
        }
        Ok(Watch { log: Arc::clone(self), changed, prefix: prefix.into(), next, ended: None })
    }

    /// Up to [`COMMITS_AT_ONCE`] commits from revision `from` on.
    fn read(&self, from: Revision) -> Result<Vec<Arc<Commit>>, Error> {
        let inner = self.lock();
        let Some(skip) = from.checked_sub(inner.oldest) else {
            return Err(Error::Compacted { oldest: inner.oldest });
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Ok(inner.commits.iter().skip(skip).take(COMMITS_AT_ONCE).cloned().collect())
    }

    /// Ends all watches, once they have read what is here.
    pub(crate) fn close(&self) {
        // No revision is 0 after a commit, and none before: the value only says that this is the end.
        self.durable.send_replace(CLOSED);
    }
}

/// Stands in the place of the durable revision when the store is closed.
const CLOSED: Revision = Revision::MAX;

/// The changes of one prefix, from one revision on, without gaps. Dropping it ends it.
pub struct Watch {
    log: Arc<Log>,
    changed: watch::Receiver<Revision>,
    prefix: Box<str>,
    /// The first revision not yet looked at.
    next: Revision,
    ended: Option<Error>,
}

impl Watch {
    /// Waits for changes and returns those of one or more whole revisions, in order. `None` is the
    /// end: this watch was too slow (the owner takes a snapshot, lists, and watches from the
    /// snapshot's revision + 1), or the store is closed; [`ended`](Self::ended) says which.
    /// Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        while self.ended.is_none() {
            let seen = *self.changed.borrow_and_update();
            match self.log.read(self.next) {
                Err(compacted) => self.ended = Some(compacted),
                Ok(commits) => {
                    if let Some(last) = commits.last() {
                        self.next = last.revision + 1;
                        let events = self.select(&commits);
                        if !events.is_empty() {
                            return Some(events);
                        }
                    } else if seen == CLOSED || self.changed.changed().await.is_err() {
                        self.ended = Some(Error::Closed);
                    }
                }
            }
        }
        None
    }

    /// Why it ended, once [`next`](Self::next) said `None`.
    pub fn ended(&self) -> Option<&Error> {
        self.ended.as_ref()
    }

    fn select(&self, commits: &[Arc<Commit>]) -> Vec<Event> {
        let events = commits.iter().flat_map(|commit| &commit.events);
        events.filter(|event| event.key.starts_with(&*self.prefix)).cloned().collect()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("prefix", &self.prefix)
            .field("next", &self.next)
            .field("ended", &self.ended)
            .finish()
    }
}
