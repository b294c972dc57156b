//! Reading content: by index of a block, or by offset.
//!
//! A first read costs one read of a blob and one SHA-256 (and one decryption); the pages and the
//! blocks used last are kept in memory. Any number of threads may read at once; a block that
//! several want is read once.

use crate::blob::{Error, Id, Result};
use crate::cache::Cache;
use crate::seal::Seal;
use crate::store::{Blobs, root_of};
use crate::tree::{Page, PageReference, Root, blocks_of};
use base::key::DataKey;
use base::volume::{BLOCK_BYTES, Content};
use std::sync::Arc;

/// Pages kept: each stands for 2 GiB and takes at most 139 KiB.
const PAGES: usize = 32;
/// Blocks kept, 512 KiB each: as many as a guest reads at once in different places.
const BLOCKS: usize = 24;

/// The tree of a content. Needs no key.
#[derive(Debug)]
pub struct Tree {
    blobs: Blobs,
    id: Id,
    root: Root,
    pages: Cache<u32, Page>,
}

impl Tree {
    /// Reads the root.
    ///
    /// # Errors
    /// The blob cannot be read, or is no root.
    pub fn open(blobs: &Blobs, id: Id) -> Result<Self> {
        let root = Root::decode(id, &blobs.get(id)?)?;
        Ok(Tree { blobs: blobs.clone(), id, root, pages: Cache::new(PAGES) })
    }

    /// The name of the root.
    pub fn id(&self) -> Id {
        self.id
    }

    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The page that a reference of this tree's root means.
    ///
    /// # Errors
    /// The blob cannot be read, or is not that page.
    pub fn page(&self, reference: &PageReference) -> Result<Arc<Page>> {
        self.pages.get(reference.number, || read_page(&self.blobs, reference))
    }

    /// The blob of the block at an index; `None` is a block of zeros.
    ///
    /// # Errors
    /// As [`Tree::page`].
    pub fn block(&self, index: u64) -> Result<Option<Id>> {
        match self.root.page_of(index) {
            None => Ok(None),
            Some(reference) => Ok(self.page(reference)?.block(index)),
        }
    }

    /// Index and blob of the blocks from index `from` on, in order, at most `most`.
    ///
    /// # Errors
    /// As [`Tree::page`].
    pub fn list(&self, from: u64, most: usize) -> Result<Vec<(u64, Id)>> {
        let mut blocks = Vec::new();
        for reference in self.pages_from(from) {
            let page = self.page(reference)?;
            for block in page.indexes().filter(|(index, _)| *index >= from) {
                if blocks.len() == most {
                    return Ok(blocks);
                }
                blocks.push(block);
            }
        }
        Ok(blocks)
    }

    /// References to the pages that have indexes from `from` on, in order.
    pub(crate) fn pages_from(&self, from: u64) -> &[PageReference] {
        let number = from / crate::tree::PAGE_BLOCKS;
        let start = self.root.pages.partition_point(|page| u64::from(page.number) < number);
        &self.root.pages[start..]
    }
}

/// Reads and checks a page.
pub(crate) fn read_page(blobs: &Blobs, reference: &PageReference) -> Result<Page> {
    Page::decode(reference, &blobs.get(reference.id)?)
}

/// Reads and opens the blob of a block.
pub(crate) fn read_block(blobs: &Blobs, seal: Option<&Seal>, id: Id) -> Result<Vec<u8>> {
    let bytes = blobs.get(id)?;
    let block = match seal {
        Some(seal) => seal.open(id, bytes)?,
        None => bytes,
    };
    if block.len() != BLOCK_BYTES {
        return Err(Error::Malformed { id, what: "block", why: "it has not the size of a block" });
    }
    Ok(block)
}

/// The seal of a key, if it is the key of the tree.
pub(crate) fn seal_for(root: &Root, key: Option<&DataKey>) -> Result<Option<Seal>> {
    let seal = key.map(Seal::new);
    if seal.as_ref().map(Seal::name) != root.key {
        return Err(Error::WrongKey);
    }
    Ok(seal)
}

/// Reads content in the clear.
#[derive(Debug)]
pub struct Reader {
    tree: Tree,
    seal: Option<Seal>,
    blocks: Cache<u64, Vec<u8>>,
}

impl Reader {
    /// Reads the root of `content`, whose data key is `key`.
    ///
    /// # Errors
    /// The root cannot be read; [`Error::WrongKey`].
    pub fn open(blobs: &Blobs, content: &Content, key: Option<&DataKey>) -> Result<Self> {
        let tree = Tree::open(blobs, root_of(content)?)?;
        let seal = seal_for(tree.root(), key)?;
        Ok(Reader { tree, seal, blocks: Cache::new(BLOCKS) })
    }

    /// Its tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Size of the volume, bytes.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.tree.root.size_gib) << 30
    }

    /// Whether the content has a block at that index, that is, not all zeros.
    ///
    /// # Errors
    /// A page cannot be read.
    pub fn holds(&self, index: u64) -> Result<bool> {
        Ok(self.tree.block(index)?.is_some())
    }

    /// Indexes of the blocks from `from` on, in order, at most `most`.
    ///
    /// # Errors
    /// A page cannot be read.
    pub fn indexes(&self, from: u64, most: usize) -> Result<Vec<u64>> {
        Ok(self.tree.list(from, most)?.into_iter().map(|(index, _)| index).collect())
    }

    /// The [`BLOCK_BYTES`] at an index; `None` is a block of zeros.
    ///
    /// # Errors
    /// The block or its page cannot be read; [`Error::Invalid`] beyond the end.
    pub fn block(&self, index: u64) -> Result<Option<Arc<Vec<u8>>>> {
        if index >= blocks_of(self.tree.root.size_gib) {
            return Err(Error::Invalid(format!("there is no block {index}")));
        }
        let Some(id) = self.tree.block(index)? else { return Ok(None) };
        let read = || read_block(&self.tree.blobs, self.seal.as_ref(), id);
        self.blocks.get(index, read).map(Some)
    }

    /// As [`Reader::block`], for what is in memory: `None` means that it would have to be read, or
    /// that there is no such index.
    #[allow(clippy::option_option)]
    pub fn block_now(&self, index: u64) -> Option<Option<Arc<Vec<u8>>>> {
        if index >= blocks_of(self.tree.root.size_gib) {
            return None;
        }
        let Some(reference) = self.tree.root.page_of(index) else { return Some(None) };
        match self.tree.pages.peek(reference.number)?.block(index) {
            None => Some(None),
            Some(_) => self.blocks.peek(index).map(Some),
        }
    }

    /// Fills `buffer` with what stands at `offset`.
    ///
    /// # Errors
    /// As [`Reader::block`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes()) {
            return Err(Error::Invalid(format!("{offset} is beyond the end")));
        }
        let (mut index, mut skip) =
            (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        let mut rest = buffer;
        while !rest.is_empty() {
            let length = rest.len().min(BLOCK_BYTES - skip);
            let (now, later) = rest.split_at_mut(length);
            match self.block(index)? {
                Some(block) => now.copy_from_slice(&block[skip..skip + length]),
                None => now.fill(0),
            }
            (index, skip, rest) = (index + 1, 0, later);
        }
        Ok(())
    }
}
