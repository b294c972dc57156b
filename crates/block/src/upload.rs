//! Making content: blocks go in, in any order and from any number of threads; a tree comes out.
//!
//! ```text
//!   begin ──► put, put, … ──► finish ──► Finished ──► (the caller records its content) ──► drop
//!     │        pins and stores a block    writes the pages that changed, then the root
//!     └ pins the parent's root
//! ```
//!
//! Nothing refers to a blob before it is stored, and nothing refers to the root before the caller
//! records it: a crash anywhere leaves blobs that nothing names, which the next collection frees.
//! The pins of all of it live in [`Finished`]: keep it until the record is written.

use crate::blob::{Error, Id, Result};
use crate::parallel;
use crate::pins::Pinned;
use crate::read::{Tree, read_block, seal_for};
use crate::seal::Seal;
use crate::store::{Blobs, root_of};
use crate::sync::lock;
use crate::tree::{MOST_GIB, PAGE_BLOCKS, Page, PageReference, Root, blocks_of};
use base::key::{DataKey, WrappedKey};
use base::volume::{BLOCK_BYTES, Content};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Is told bytes done and bytes to do, from any thread; breaks off to stop the work.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> ControlFlow<()> + Sync);

/// Content that is being made.
#[derive(Debug)]
pub struct Upload {
    blobs: Blobs,
    pinned: Pinned,
    parent: Option<Tree>,
    size_gib: u32,
    seal: Option<Seal>,
    changes: Mutex<BTreeMap<u64, Option<Id>>>,
    stored_bytes: AtomicU64,
}

/// Content that was made, and its pins.
#[derive(Debug)]
#[must_use = "its blobs are only safe until it is dropped"]
pub struct Finished {
    /// The root of its tree.
    pub root: Id,
    /// Size of the volume, GiB.
    pub size_gib: u32,
    /// Bytes of the blocks that differ from the parent's.
    pub new_bytes: u64,
    /// Bytes of all its blocks.
    pub full_bytes: u64,
    /// Bytes that were really written to the store: blocks that nobody had before, and pages.
    pub stored_bytes: u64,
    /// Keeps its blobs, and the parent's, from being collected.
    pub pinned: Pinned,
}

impl Finished {
    /// As records name it; `key` is the data key that it was made with, wrapped.
    pub fn content(&self, key: Option<WrappedKey>) -> Content {
        Content { root: self.root.to_string(), size_gib: self.size_gib, key }
    }
}

impl Upload {
    /// Begins content of `size_gib`, sealed with `key` if there is one. It begins as what `parent`
    /// holds, which must have the same key, be no larger, and be named by a record or held now.
    ///
    /// # Errors
    /// The parent cannot be read; [`Error::WrongKey`]; [`Error::Invalid`] for a wrong size.
    pub fn begin(
        blobs: &Blobs,
        parent: Option<&Content>,
        size_gib: u32,
        key: Option<&DataKey>,
    ) -> Result<Self> {
        if size_gib == 0 || size_gib > MOST_GIB {
            return Err(Error::Invalid(format!("no volume has {size_gib} GiB")));
        }
        let pinned = blobs.pinned();
        let parent = match parent {
            None => None,
            Some(content) => {
                let id = root_of(content)?;
                pinned.root(id);
                Some(Tree::open(blobs, id)?)
            }
        };
        let seal = match &parent {
            Some(tree) => seal_for(tree.root(), key)?,
            None => key.map(Seal::new),
        };
        if parent.as_ref().is_some_and(|tree| tree.root().size_gib > size_gib) {
            return Err(Error::Invalid("the parent is larger than its child".to_owned()));
        }
        Ok(Upload {
            blobs: blobs.clone(),
            pinned,
            parent,
            size_gib,
            seal,
            changes: Mutex::default(),
            stored_bytes: AtomicU64::new(0),
        })
    }

    /// Stores a block of [`BLOCK_BYTES`]; zeros are not stored. The same index again replaces it.
    ///
    /// # Errors
    /// The store cannot be written; [`Error::Invalid`] for a wrong index or length.
    pub fn put(&self, index: u64, block: &[u8]) -> Result<()> {
        self.check(index)?;
        let id = store_block(&self.blobs, &self.pinned, self.seal.as_ref(), block)?.map(
            |(id, stored)| {
                self.stored_bytes.fetch_add(stored, Ordering::Relaxed);
                id
            },
        );
        lock(&self.changes).insert(index, id);
        Ok(())
    }

    /// Names a block that is stored already and that something else keeps at the moment.
    pub(crate) fn name(&self, index: u64, id: Option<Id>) -> Result<()> {
        self.check(index)?;
        if let Some(id) = id {
            self.pinned.blob(id);
        }
        lock(&self.changes).insert(index, id);
        Ok(())
    }

    fn check(&self, index: u64) -> Result<()> {
        if index >= blocks_of(self.size_gib) {
            return Err(Error::Invalid(format!("the volume has no block {index}")));
        }
        Ok(())
    }

    /// Writes the tree; it and all blocks are durable then.
    ///
    /// # Errors
    /// The store cannot be written, or the parent not be read.
    pub fn finish(self) -> Result<Finished> {
        let changes = std::mem::take(&mut *lock(&self.changes));
        let mut root = Root {
            size_gib: self.size_gib,
            key: self.seal.as_ref().map(Seal::name),
            pages: self.parent.as_ref().map_or_else(Vec::new, |tree| tree.root().pages.clone()),
        };
        let mut pages: BTreeMap<u32, PageReference> =
            root.pages.drain(..).map(|page| (page.number, page)).collect();
        let mut new_blocks = 0;
        let mut changes = changes.into_iter().peekable();
        while let Some((first, _)) = changes.peek() {
            let number = page_number(*first);
            let mut blocks: BTreeMap<u16, Id> = match (&self.parent, pages.get(&number)) {
                (Some(tree), Some(page)) => tree.page(page)?.blocks.iter().copied().collect(),
                _ => BTreeMap::new(),
            };
            let mut changed = false;
            while let Some((index, id)) =
                changes.next_if(|(index, _)| page_number(*index) == number)
            {
                let offset = u16::try_from(index % PAGE_BLOCKS).unwrap_or(u16::MAX);
                let before = match id {
                    Some(id) => blocks.insert(offset, id),
                    None => blocks.remove(&offset),
                };
                if before != id {
                    changed = true;
                    new_blocks += u64::from(id.is_some());
                }
            }
            if blocks.is_empty() {
                pages.remove(&number);
            } else if changed {
                let page = Page { number, blocks: blocks.into_iter().collect() };
                pages.insert(number, self.put_page(&page)?);
            }
        }
        root.pages.extend(pages.into_values());
        let id = self.put_node(&root.encode())?;
        let block = BLOCK_BYTES as u64;
        Ok(Finished {
            root: id,
            size_gib: self.size_gib,
            new_bytes: new_blocks * block,
            full_bytes: root.blocks() * block,
            stored_bytes: self.stored_bytes.into_inner(),
            pinned: self.pinned,
        })
    }

    fn put_page(&self, page: &Page) -> Result<PageReference> {
        let id = self.put_node(&page.encode())?;
        let blocks = u32::try_from(page.blocks.len()).unwrap_or(u32::MAX);
        Ok(PageReference { number: page.number, blocks, id })
    }

    fn put_node(&self, bytes: &[u8]) -> Result<Id> {
        let (id, stored) = self.blobs.put(&self.pinned, bytes)?;
        if stored {
            self.stored_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(id)
    }
}

fn page_number(index: u64) -> u32 {
    // Indexes are checked against the size, which keeps this small.
    u32::try_from(index / PAGE_BLOCKS).unwrap_or(u32::MAX)
}

/// Seals and stores a block; gives its name and how many bytes were new, or `None` for zeros.
pub(crate) fn store_block(
    blobs: &Blobs,
    pinned: &Pinned,
    seal: Option<&Seal>,
    block: &[u8],
) -> Result<Option<(Id, u64)>> {
    if block.len() != BLOCK_BYTES {
        return Err(Error::Invalid(format!("a block of {} bytes", block.len())));
    }
    if is_zero(block) {
        return Ok(None);
    }
    let sealed = seal.map(|seal| seal.seal(block));
    let bytes = sealed.as_deref().unwrap_or(block);
    let (id, new) = blobs.put(pinned, bytes)?;
    Ok(Some((id, if new { bytes.len() as u64 } else { 0 })))
}

/// Whether all of it is zeros; as fast as memcmp.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Content without any block.
///
/// # Errors
/// The store cannot be written; [`Error::Invalid`] for a wrong size.
pub fn empty(blobs: &Blobs, size_gib: u32, key: Option<&DataKey>) -> Result<Finished> {
    Upload::begin(blobs, None, size_gib, key)?.finish()
}

/// The same content under another data key. With the same key nothing is read but the root.
///
/// # Errors
/// The content cannot be read or written; [`Error::WrongKey`]; [`Error::Stopped`].
pub fn copy(
    blobs: &Blobs,
    from: &Content,
    from_key: Option<&DataKey>,
    to_key: Option<&DataKey>,
    threads: usize,
    progress: Progress<'_>,
) -> Result<Finished> {
    let pinned = blobs.hold(from)?;
    let tree = Tree::open(blobs, root_of(from)?)?;
    let seal = seal_for(tree.root(), from_key)?;
    let size_gib = tree.root().size_gib;
    let total = tree.root().blocks() * BLOCK_BYTES as u64;
    if from_key == to_key {
        let (root, new_bytes, stored_bytes) = (tree.id(), 0, 0);
        return Ok(Finished { root, size_gib, new_bytes, full_bytes: total, stored_bytes, pinned });
    }
    let upload = Upload::begin(blobs, None, size_gib, to_key)?;
    let progress = parallel::Counter::new(total, progress);
    for reference in &tree.root().pages {
        let page = tree.page(reference)?;
        parallel::each(threads, page.indexes(), |(index, id)| {
            upload.put(index, &read_block(blobs, seal.as_ref(), id)?)?;
            progress.add(BLOCK_BYTES as u64)
        })?;
    }
    upload.finish()
}
