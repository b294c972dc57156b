//! Blocks of snapshots for the EBS direct APIs: `impl base::volume::Blocks`.
//!
//! Reading goes through the tree; what two contents share is skipped page by page. Writing puts a
//! block into the store and its name into the upload's log ([`crate::log`]); `complete` makes
//! content of the log, which stays until the caller has recorded the result and drops the upload.
//!
//! The methods are called by tasks of a runtime and block; they move aside themselves.

use crate::blob::{Error, Id, Result};
use crate::cache::Cache;
use crate::log::{Block, Logs};
use crate::read::{Tree, read_block, seal_for};
use crate::seal::Seal;
use crate::store::{Blobs, root_of};
use crate::tree::{Page, PageReference};
use crate::upload::{Finished, Upload, store_block};
use base::key::{DataKey, Keys, WrappedKey};
use base::volume::{Blocks, Content};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Trees kept open: their roots and the pages used last.
const TREES: usize = 8;

/// See the module.
pub struct Direct {
    blobs: Blobs,
    keys: Arc<dyn Keys>,
    logs: Logs,
    trees: Cache<Id, Tree>,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}

/// Lets the runtime's other tasks go on while this one blocks.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

impl Direct {
    /// Keeps logs of uploads in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(blobs: Blobs, keys: Arc<dyn Keys>, directory: &Path) -> Result<Self> {
        Ok(Direct { blobs, keys, logs: Logs::open(directory)?, trees: Cache::new(TREES) })
    }

    /// Every blob that an unfinished upload names, for [`crate::Roots::blobs`]. Ask when a pass
    /// has begun, as for all roots.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn referenced(&self) -> io::Result<Vec<Id>> {
        Ok(self.logs.named()?)
    }

    /// Content of what `parent` holds and the upload `id` has put over it. The log stays until
    /// [`Blocks::drop_upload`].
    ///
    /// # Errors
    /// The log or the parent cannot be read, the store not be written, the key not be unwrapped.
    pub fn complete(
        &self,
        id: &str,
        parent: Option<&Content>,
        size_gib: u32,
        key: Option<&WrappedKey>,
    ) -> Result<Finished> {
        let key = self.unwrap(key)?;
        let upload = Upload::begin(&self.blobs, parent, size_gib, key.as_ref())?;
        // The log keeps the blobs while they are pinned.
        for (index, block) in self.logs.blocks(id)? {
            upload.name(index, block.id)?;
        }
        upload.finish()
    }

    fn unwrap(&self, key: Option<&WrappedKey>) -> Result<Option<DataKey>> {
        key.map(|key| self.keys.unwrap(key)).transpose().map_err(Error::Key)
    }

    fn tree(&self, content: &Content) -> Result<Arc<Tree>> {
        let id = root_of(content)?;
        self.trees.get(id, || Tree::open(&self.blobs, id))
    }

    fn read_block(&self, content: &Content, index: u64) -> Result<Option<Vec<u8>>> {
        let tree = self.tree(content)?;
        let seal = seal_for(tree.root(), self.unwrap(content.key.as_ref())?.as_ref())?;
        let Some(id) = tree.block(index)? else { return Ok(None) };
        read_block(&self.blobs, seal.as_ref(), id).map(Some)
    }

    fn put_block(&self, id: &str, key: Option<&WrappedKey>, index: u64, data: &[u8]) -> Result<()> {
        let seal = self.unwrap(key)?.as_ref().map(Seal::new);
        // Until the log names it.
        let pinned = self.blobs.pinned();
        let stored = store_block(&self.blobs, &pinned, seal.as_ref(), data)?.map(|(id, _)| id);
        // The name of a block in the clear is its checksum.
        let checksum = stored.filter(|_| seal.is_none()).unwrap_or_else(|| Id::of(data));
        self.logs.append(id, index, Block { id: stored, checksum })
    }
}

/// Pages of two trees side by side, without those that both share.
fn different_pages<'a>(
    first: &'a [PageReference],
    second: &'a [PageReference],
) -> impl Iterator<Item = (Option<&'a PageReference>, Option<&'a PageReference>)> {
    let (mut first, mut second) = (first.iter().peekable(), second.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let number = match (first.peek(), second.peek()) {
                (None, None) => return None,
                (Some(page), None) | (None, Some(page)) => page.number,
                (Some(one), Some(other)) => one.number.min(other.number),
            };
            let pair = (
                first.next_if(|page| page.number == number),
                second.next_if(|page| page.number == number),
            );
            if pair.0.map(|page| page.id) != pair.1.map(|page| page.id) {
                return Some(pair);
            }
        }
    })
}

type Difference = (u64, Option<Id>, Option<Id>);

/// Where two pages of the same number differ.
fn differences(first: Option<&Page>, second: Option<&Page>) -> Vec<Difference> {
    let mut both = std::collections::BTreeMap::<u64, (Option<Id>, Option<Id>)>::new();
    for (index, id) in first.iter().flat_map(|page| page.indexes()) {
        both.entry(index).or_default().0 = Some(id);
    }
    for (index, id) in second.iter().flat_map(|page| page.indexes()) {
        both.entry(index).or_default().1 = Some(id);
    }
    both.into_iter()
        .filter(|(_, (one, other))| one != other)
        .map(|(index, (one, other))| (index, one, other))
        .collect()
}

fn changed(first: &Tree, second: &Tree, from: u64, most: usize) -> Result<Vec<Difference>> {
    let mut changed = Vec::new();
    for (one, other) in different_pages(first.pages_from(from), second.pages_from(from)) {
        if changed.len() >= most {
            break;
        }
        let one = one.map(|page| first.page(page)).transpose()?;
        let other = other.map(|page| second.page(page)).transpose()?;
        let found = differences(one.as_deref(), other.as_deref());
        changed.extend(found.into_iter().filter(|(index, ..)| *index >= from));
    }
    changed.truncate(most);
    Ok(changed)
}

impl Blocks for Direct {
    fn list(&self, content: &Content, from: u64, most: usize) -> io::Result<Vec<(u64, String)>> {
        aside(|| {
            let blocks = self.tree(content)?.list(from, most)?;
            Ok(blocks.into_iter().map(|(index, id)| (index, id.to_string())).collect())
        })
    }

    fn changed(
        &self,
        first: &Content,
        second: &Content,
        from: u64,
        most: usize,
    ) -> io::Result<Vec<(u64, Option<String>, Option<String>)>> {
        aside(|| {
            let changed = changed(&*self.tree(first)?, &*self.tree(second)?, from, most)?;
            let text = |id: Option<Id>| id.map(|id| id.to_string());
            Ok(changed.into_iter().map(|(i, one, other)| (i, text(one), text(other))).collect())
        })
    }

    fn read(&self, content: &Content, index: u64) -> io::Result<Option<Vec<u8>>> {
        aside(|| Ok(self.read_block(content, index)?))
    }

    fn put(&self, id: &str, key: Option<&WrappedKey>, index: u64, data: &[u8]) -> io::Result<()> {
        aside(|| Ok(self.put_block(id, key, index, data)?))
    }

    fn uploaded(&self, id: &str) -> io::Result<u64> {
        aside(|| Ok(self.logs.blocks(id)?.len() as u64))
    }

    fn checksum(&self, id: &str) -> io::Result<[u8; 32]> {
        aside(|| {
            let blocks = self.logs.blocks(id)?;
            let checksums: Vec<u8> = blocks.values().flat_map(|block| block.checksum.0).collect();
            Ok(Id::of(&checksums).0)
        })
    }

    fn drop_upload(&self, id: &str) -> io::Result<()> {
        aside(|| Ok(self.logs.remove(id)?))
    }
}
