//! Is everything there that the records name, and is anything there that none names?
//!
//! Reads only. On a store that a daemon writes at the moment, blobs of uploads that run show as
//! unreferenced, and blobs that a collection frees after the records were read as missing; on one that
//! rests, every unreferenced blob is a leak until the next collection.

use crate::blob::{Error, Id, Result};
use crate::collect::Roots;
use crate::parallel;
use crate::read::read_page;
use crate::seal::OVERHEAD_BYTES;
use crate::store::Blobs;
use crate::sync::lock;
use crate::tree::Root;
use crate::upload::Progress;
use base::volume::BLOCK_BYTES;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Mutex;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Different contents that were looked at.
    pub contents: u64,
    /// Different pages of theirs.
    pub pages: u64,
    /// Different blocks of theirs and of unfinished uploads.
    pub blocks: u64,
    /// Blobs in the store.
    pub stored: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Blobs that are named and that the store does not have, or not as they were written.
    pub problems: Vec<Problem>,
    /// Blobs that nothing names.
    pub unreferenced: Vec<Id>,
    /// Their bytes.
    pub unreferenced_bytes: u64,
}

impl Report {
    /// Whether all that is named can be read, as far as it was looked at.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A blob that is named and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The blob.
    pub id: Id,
    /// A root that reaches it; `None` if an unfinished upload names it.
    pub content: Option<Id>,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blob {} {}, needed by ", self.id, self.fault)?;
        match self.content {
            Some(content) => write!(f, "content {content}"),
            None => f.write_str("an unfinished upload"),
        }
    }
}

/// What is wrong with a blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// Its bytes do not match its name, or it has the wrong length.
    #[error("is damaged")]
    Damaged,
    /// It is there and cannot be read or understood.
    #[error("cannot be read ({0})")]
    Unreadable(String),
}

impl Fault {
    fn of(error: Error) -> Self {
        match error {
            Error::NotFound(_) => Fault::Missing,
            Error::Damaged(_) => Fault::Damaged,
            error => Fault::Unreadable(error.to_string()),
        }
    }
}

/// Why a blob must be there.
#[derive(Clone, Copy)]
struct Need {
    content: Option<Id>,
    /// `None`: a root or page, which has been read; or an upload's block of either length.
    length: Option<u64>,
    block: bool,
}

/// Checks all that `roots` name. Roots and pages are read; blocks are looked up, and read too if
/// `deep` (`threads` at a time, with `progress` in bytes).
///
/// # Errors
/// The store cannot be listed; [`Error::Stopped`]. What a blob lacks is in the report.
pub fn check(
    blobs: &Blobs,
    roots: &Roots,
    deep: bool,
    threads: usize,
    progress: Progress<'_>,
) -> Result<Report> {
    let mut report = Report::default();
    let mut needed: HashMap<Id, Need> = HashMap::new();
    for id in &roots.blobs {
        needed.insert(*id, Need { content: None, length: None, block: true });
    }
    for root in &roots.contents {
        walk(blobs, *root, &mut needed, &mut report);
    }
    let mut stored = HashMap::new();
    blobs.store().list(&mut |id, bytes| {
        stored.insert(id, bytes);
        ControlFlow::Continue(())
    })?;
    report.stored = stored.len() as u64;
    report.stored_bytes = stored.values().sum();
    let problems = Mutex::new(std::mem::take(&mut report.problems));
    let mut readable = Vec::new();
    let mut total = 0;
    for (id, need) in needed.iter().filter(|(_, need)| need.block) {
        report.blocks += 1;
        let fault = match stored.get(id) {
            None => Fault::Missing,
            Some(length) if need.length.is_some_and(|needed| needed != *length) => Fault::Damaged,
            Some(length) => {
                readable.push((*id, need.content, *length));
                total += length;
                continue;
            }
        };
        lock(&problems).push(Problem { id: *id, content: need.content, fault });
    }
    if deep {
        let progress = parallel::Counter::new(total, progress);
        parallel::each(threads, readable.into_iter(), |(id, content, length)| {
            if let Err(error) = blobs.get(id) {
                lock(&problems).push(Problem { id, content, fault: Fault::of(error) });
            }
            progress.add(length)
        })?;
    }
    report.problems = lock(&problems).drain(..).collect();
    report.problems.sort_by_key(|problem| problem.id);
    for (id, bytes) in stored {
        if !needed.contains_key(&id) {
            report.unreferenced.push(id);
            report.unreferenced_bytes += bytes;
        }
    }
    report.unreferenced.sort_unstable();
    Ok(report)
}

/// Notes what a tree needs.
fn walk(blobs: &Blobs, id: Id, needed: &mut HashMap<Id, Need>, report: &mut Report) {
    let content = Some(id);
    let node = Need { content, length: None, block: false };
    if needed.insert(id, node).is_some_and(|need| !need.block) {
        return;
    }
    report.contents += 1;
    let root = match blobs.get(id).and_then(|bytes| Root::decode(id, &bytes)) {
        Ok(root) => root,
        Err(error) => {
            report.problems.push(Problem { id, content, fault: Fault::of(error) });
            return;
        }
    };
    let length = BLOCK_BYTES + if root.key.is_some() { OVERHEAD_BYTES } else { 0 };
    for reference in &root.pages {
        match needed.entry(reference.id) {
            Entry::Occupied(entry) if !entry.get().block => continue,
            entry => drop(entry.insert_entry(node)),
        }
        report.pages += 1;
        match read_page(blobs, reference) {
            Ok(page) => {
                for (_, id) in &page.blocks {
                    let need = Need { content, length: Some(length as u64), block: true };
                    needed.entry(*id).or_insert(need);
                }
            }
            Err(error) => {
                let (id, fault) = (reference.id, Fault::of(error));
                report.problems.push(Problem { id, content, fault });
            }
        }
    }
}
