//! Freeing blobs that nothing names any more: mark and sweep.
//!
//! ```text
//!   begin (from here on released pins count) ─► read the roots ─► mark ─► list ─► sweep ─► end
//! ```
//!
//! What stays: all that the trees of the roots reach, all that the trees of pinned roots reach, and
//! every blob that was pinned at any time of the pass ([`crate::pins`]). Why that is enough: a blob
//! is named by a record only after an upload that pinned it, and its pin is released only after
//! the record is written. If the record was there when the roots were read, the blob is marked;
//! else the pin was released after the pass began, and counts. What an upload took from its parent
//! is marked with the parent, whose root it pins.
//!
//! Killed at any line, it has deleted only what nothing named, in some order: the next pass does
//! the rest. A root or page that cannot be read ends the pass before anything is deleted.

use crate::blob::{Error, Id, Result};
use crate::read::read_page;
use crate::store::{Blobs, root_of};
use crate::sync::lock;
use crate::tree::Root;
use base::volume::Content;
use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;

/// What is to stay, beside pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Roots of trees: of every content that any record names.
    pub contents: Vec<Id>,
    /// Single blobs: what unfinished uploads of EBS direct have put
    /// ([`crate::Direct::referenced`]).
    pub blobs: Vec<Id>,
}

impl Roots {
    /// Of contents alone.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if the root of one is no name of a blob.
    pub fn of<'a>(contents: impl IntoIterator<Item = &'a Content>) -> Result<Self> {
        let contents = contents.into_iter().map(root_of).collect::<Result<_>>()?;
        Ok(Roots { contents, blobs: Vec::new() })
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blobs that the roots reach.
    pub marked: u64,
    /// Blobs that no root reaches and that were kept because an upload had pinned them.
    pub pinned: u64,
    /// Blobs deleted.
    pub freed: u64,
    /// Their bytes.
    pub freed_bytes: u64,
}

/// Frees what neither `roots` nor a pin names. `roots` is called when the pass has begun, and must
/// read all records as they are at one instant: one snapshot of the store. Passes wait for each
/// other.
///
/// # Errors
/// A root, page or record cannot be read, or the store not be listed, and then nothing was deleted;
/// or a blob cannot be deleted, and then the others were.
pub fn collect(blobs: &Blobs, roots: impl FnOnce() -> io::Result<Roots>) -> Result<Report> {
    let _alone = lock(blobs.pass());
    let pass = blobs.pins().begin_pass();
    let roots = roots()?;
    let mut marked: HashSet<Id> = roots.blobs.into_iter().collect();
    let mut walked = HashSet::new();
    for root in roots.contents.into_iter().chain(pass.roots()) {
        mark(blobs, root, &mut marked, &mut walked)?;
    }
    let mut garbage = Vec::new();
    blobs.store().list(&mut |id, bytes| {
        if !marked.contains(&id) {
            garbage.push((id, bytes));
        }
        ControlFlow::Continue(())
    })?;
    let mut report = Report { marked: marked.len() as u64, ..Report::default() };
    let mut kept = None;
    for (id, bytes) in garbage {
        match blobs.pins().delete_unless_pinned(id, || blobs.store().delete(id)) {
            Ok(true) => {
                report.freed += 1;
                report.freed_bytes += bytes;
            }
            Ok(false) => report.pinned += 1,
            // An object store that is away: the next pass does the rest.
            Err(error @ Error::Remote(_)) => return Err(error),
            Err(error) => kept = Some(error),
        }
    }
    kept.map_or(Ok(report), Err)
}

/// Adds all that a tree reaches. `walked` has the roots and pages that were read already.
fn mark(blobs: &Blobs, id: Id, marked: &mut HashSet<Id>, walked: &mut HashSet<Id>) -> Result<()> {
    if !walked.insert(id) {
        return Ok(());
    }
    let root = Root::decode(id, &blobs.get(id)?)?;
    marked.insert(id);
    for reference in &root.pages {
        if walked.insert(reference.id) {
            let page = read_page(blobs, reference)?;
            marked.insert(reference.id);
            marked.extend(page.blocks.iter().map(|(_, id)| *id));
        }
    }
    Ok(())
}
