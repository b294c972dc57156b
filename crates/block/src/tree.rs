//! The tree of a content: which block stands at which index.
//!
//! ```text
//! root blob ──► page blobs, one for every 4,096 indexes that has any block ──► block blobs
//! ```
//!
//! Blocks of zeros are not in it, nor pages without blocks. Two trees that agree in a page share
//! its blob, so what differs between two contents is found by comparing the names of pages, and a
//! tree that is made from another writes only the pages that changed.
//!
//! ```text
//! root  "GBTR" 0x01 | flags: bit 0 sealed | 0 0 | size, GiB: u32 | pages: u32
//!       | the key's name: 16 bytes, zeros when not sealed
//!       | pages × (number: u32, blocks: u32, name: 32 bytes)         numbers ascend
//! page  "GBTP" 0x01 | 0 0 0 | number: u32 | blocks: u32
//!       | blocks × (offset in the page: u16, name: 32 bytes)         offsets ascend
//! ```
//!
//! Integers are little-endian. One tree has one spelling: a decoder takes nothing else, trusts no
//! count before it has seen as many bytes, and so allocates in proportion to what it was given.

use crate::blob::{Error, Id, Result};
use crate::seal::KeyName;
use base::volume::BLOCK_BYTES;

/// Indexes that one page stands for.
pub const PAGE_BLOCKS: u64 = 4096;
/// The largest volume that there is (io2 Block Express), GiB.
pub const MOST_GIB: u32 = 64 << 10;

const ROOT_MAGIC: [u8; 5] = *b"GBTR\x01";
const PAGE_MAGIC: [u8; 5] = *b"GBTP\x01";
const ROOT_HEADER: usize = 32;
const PAGE_HEADER: usize = 16;
const PAGE_REFERENCE: usize = 40;
const BLOCK_REFERENCE: usize = 34;
const SEALED: u8 = 1;

/// How many blocks a volume of that size has.
pub fn blocks_of(size_gib: u32) -> u64 {
    u64::from(size_gib) << 30 >> BLOCK_BYTES.trailing_zeros()
}

/// The top of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Size of the volume, GiB.
    pub size_gib: u32,
    /// The key that the blocks are sealed with.
    pub key: Option<KeyName>,
    /// In order of number.
    pub pages: Vec<PageReference>,
}

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageReference {
    /// The page has the indexes from `number * PAGE_BLOCKS` on.
    pub number: u32,
    /// How many blocks it has: 1 to [`PAGE_BLOCKS`].
    pub blocks: u32,
    /// Its blob.
    pub id: Id,
}

/// A part of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// As in [`PageReference::number`].
    pub number: u32,
    /// Offset in the page and blob of each block, in order; at least one.
    pub blocks: Vec<(u16, Id)>,
}

/// Takes little-endian integers and names off the front of a slice.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn id(&mut self) -> Option<Id> {
        self.take().map(Id)
    }

    /// Whether exactly `count` records of `size` bytes are left.
    fn has(&self, count: u32, size: usize) -> bool {
        usize::try_from(count).ok().and_then(|c| c.checked_mul(size)) == Some(self.0.len())
    }
}

impl Root {
    /// The root of content without any block.
    pub fn empty(size_gib: u32, key: Option<KeyName>) -> Self {
        Root { size_gib, key, pages: Vec::new() }
    }

    /// How many blocks the tree holds.
    pub fn blocks(&self) -> u64 {
        self.pages.iter().map(|page| u64::from(page.blocks)).sum()
    }

    /// The page that stands for an index.
    pub fn page_of(&self, index: u64) -> Option<&PageReference> {
        let number = u32::try_from(index / PAGE_BLOCKS).ok()?;
        let at = self.pages.binary_search_by_key(&number, |page| page.number).ok()?;
        self.pages.get(at)
    }

    /// As the blob of the root.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ROOT_HEADER + self.pages.len() * PAGE_REFERENCE);
        bytes.extend_from_slice(&ROOT_MAGIC);
        bytes.extend_from_slice(&[if self.key.is_some() { SEALED } else { 0 }, 0, 0]);
        bytes.extend_from_slice(&self.size_gib.to_le_bytes());
        bytes.extend_from_slice(&count(self.pages.len()));
        bytes.extend_from_slice(&self.key.unwrap_or_default());
        for page in &self.pages {
            bytes.extend_from_slice(&page.number.to_le_bytes());
            bytes.extend_from_slice(&page.blocks.to_le_bytes());
            bytes.extend_from_slice(&page.id.0);
        }
        bytes
    }

    /// Reads the blob of a root.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(id: Id, bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes).map_err(|why| Error::Malformed { id, what: "root", why })
    }

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is too short";
        let mut bytes = Bytes(bytes);
        if bytes.take().ok_or(SHORT)? != ROOT_MAGIC {
            return Err("it does not begin as a root of this version");
        }
        let [flags, 0, 0] = bytes.take().ok_or(SHORT)? else {
            return Err("it has unknown flags");
        };
        let size_gib = bytes.u32().ok_or(SHORT)?;
        let pages = bytes.u32().ok_or(SHORT)?;
        let name: KeyName = bytes.take().ok_or(SHORT)?;
        let key = match flags {
            SEALED => Some(name),
            0 if name == KeyName::default() => None,
            _ => return Err("it has unknown flags"),
        };
        if size_gib == 0 || size_gib > MOST_GIB {
            return Err("its size is none that a volume has");
        }
        if !bytes.has(pages, PAGE_REFERENCE) {
            return Err("its length does not fit its pages");
        }
        let mut root = Root::empty(size_gib, key);
        while let (Some(number), Some(blocks), Some(id)) = (bytes.u32(), bytes.u32(), bytes.id()) {
            if root.pages.last().is_some_and(|last| last.number >= number) {
                return Err("its pages are not in order");
            }
            if u64::from(number) * PAGE_BLOCKS >= blocks_of(size_gib) {
                return Err("it has a page beyond its end");
            }
            if blocks == 0 || u64::from(blocks) > PAGE_BLOCKS {
                return Err("it has a page with an impossible number of blocks");
            }
            root.pages.push(PageReference { number, blocks, id });
        }
        Ok(root)
    }
}

impl Page {
    /// The block at an index of the whole tree.
    pub fn block(&self, index: u64) -> Option<Id> {
        let offset = u16::try_from(index % PAGE_BLOCKS).ok()?;
        let at = self.blocks.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        (index / PAGE_BLOCKS == u64::from(self.number)).then(|| self.blocks[at].1)
    }

    /// Index in the whole tree and blob of each block.
    pub fn indexes(&self) -> impl Iterator<Item = (u64, Id)> + '_ {
        let first = u64::from(self.number) * PAGE_BLOCKS;
        self.blocks.iter().map(move |(offset, id)| (first + u64::from(*offset), *id))
    }

    /// As the blob of the page.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PAGE_HEADER + self.blocks.len() * BLOCK_REFERENCE);
        bytes.extend_from_slice(&PAGE_MAGIC);
        bytes.extend_from_slice(&[0, 0, 0]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&count(self.blocks.len()));
        for (offset, id) in &self.blocks {
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&id.0);
        }
        bytes
    }

    /// Reads the blob of the page that `reference` names.
    ///
    /// # Errors
    /// [`Error::Malformed`], also if it is another page.
    pub fn decode(reference: &PageReference, bytes: &[u8]) -> Result<Self> {
        let malformed = |why| Error::Malformed { id: reference.id, what: "page", why };
        let page = Self::parse(bytes).map_err(malformed)?;
        if page.number != reference.number
            || count(page.blocks.len()) != reference.blocks.to_le_bytes()
        {
            return Err(malformed("it is not the page that the root means"));
        }
        Ok(page)
    }

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is too short";
        let mut bytes = Bytes(bytes);
        if bytes.take().ok_or(SHORT)? != PAGE_MAGIC {
            return Err("it does not begin as a page of this version");
        }
        let [0, 0, 0] = bytes.take().ok_or(SHORT)? else {
            return Err("it has unknown flags");
        };
        let number = bytes.u32().ok_or(SHORT)?;
        let blocks = bytes.u32().ok_or(SHORT)?;
        if blocks == 0 || u64::from(blocks) > PAGE_BLOCKS || !bytes.has(blocks, BLOCK_REFERENCE) {
            return Err("its length does not fit its blocks");
        }
        let mut page = Page { number, blocks: Vec::with_capacity(bytes.0.len() / BLOCK_REFERENCE) };
        while let (Some(offset), Some(id)) = (bytes.u16(), bytes.id()) {
            if u64::from(offset) >= PAGE_BLOCKS {
                return Err("it has a block beyond its end");
            }
            if page.blocks.last().is_some_and(|(last, _)| *last >= offset) {
                return Err("its blocks are not in order");
            }
            page.blocks.push((offset, id));
        }
        Ok(page)
    }
}

/// A count of pages or blocks, which the size of a volume keeps below 2³².
fn count(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = Id> {
        any::<[u8; 32]>().prop_map(Id)
    }

    fn root() -> impl Strategy<Value = Root> {
        (1..=MOST_GIB, any::<Option<KeyName>>()).prop_flat_map(|(size_gib, key)| {
            let most = u32::try_from(blocks_of(size_gib).div_ceil(PAGE_BLOCKS)).unwrap();
            prop::collection::btree_map(0..most, (1..=4096_u32, id()), 0..20).prop_map(
                move |pages| Root {
                    size_gib,
                    key,
                    pages: pages
                        .into_iter()
                        .map(|(number, (blocks, id))| PageReference { number, blocks, id })
                        .collect(),
                },
            )
        })
    }

    fn page() -> impl Strategy<Value = Page> {
        (0..32768_u32, prop::collection::btree_map(0..4096_u16, id(), 1..50))
            .prop_map(|(number, blocks)| Page { number, blocks: blocks.into_iter().collect() })
    }

    fn reference(page: &Page) -> PageReference {
        let blocks = u32::try_from(page.blocks.len()).unwrap();
        PageReference { number: page.number, blocks, id: Id::of(&page.encode()) }
    }

    proptest! {
        #[test]
        fn a_root_comes_back(root in root()) {
            let bytes = root.encode();
            prop_assert_eq!(Root::decode(Id::of(&bytes), &bytes).unwrap(), root);
        }

        #[test]
        fn a_page_comes_back(page in page()) {
            let decoded = Page::decode(&reference(&page), &page.encode()).unwrap();
            for (index, id) in page.indexes() {
                prop_assert_eq!(decoded.block(index), Some(id));
                prop_assert_eq!(decoded.block(index + (1 << 40)), None);
            }
            prop_assert_eq!(decoded, page);
        }

        /// What is not refused is the only spelling of what it says.
        #[test]
        fn damaged_roots_and_pages_are_refused_or_mean_something_else(
            root in root(), page in page(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>(),
        ) {
            let damage = |mut bytes: Vec<u8>| {
                let at = at.index(bytes.len());
                if cut { bytes.truncate(at) } else { bytes[at] = to }
                bytes
            };
            let bytes = damage(root.encode());
            if let Ok(other) = Root::decode(Id::of(&bytes), &bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
            let bytes = damage(page.encode());
            if let Ok(other) = Page::decode(&reference(&page), &bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200), magic in 0..3,
        ) {
            let start: &[u8] = [&b""[..], &b"GBTR\x01\0\0\0"[..], &b"GBTP\x01\0\0\0"[..]][magic as usize];
            let bytes = [start, &bytes].concat();
            let id = Id::of(&bytes);
            if let Ok(root) = Root::decode(id, &bytes) {
                prop_assert_eq!(root.encode(), &bytes[..]);
            }
            let _ = Page::decode(&PageReference { number: 0, blocks: 1, id }, &bytes);
        }
    }

    #[test]
    fn counts_that_lie_allocate_nothing() {
        let mut bytes = Root::empty(MOST_GIB, None).encode();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Root::decode(Id::of(&bytes), &bytes).is_err());
        let page = Page { number: 0, blocks: vec![(0, Id([1; 32]))] };
        let mut bytes = page.encode();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Page::decode(&reference(&page), &bytes).is_err());
    }

    #[test]
    fn the_largest_root_is_a_blob() {
        let pages = u32::try_from(blocks_of(MOST_GIB) / PAGE_BLOCKS).unwrap();
        assert!(ROOT_HEADER + pages as usize * PAGE_REFERENCE < crate::blob::MOST_BYTES);
        assert_eq!(blocks_of(1), 2048);
    }
}
