//! Bytes as the root and as a page of a content's tree: what is not refused is the only spelling of
//! what it says, and lies within the volume.

use block::Id;
use block::tree::{PAGE_BLOCKS, Page, PageReference, Root, blocks_of};

/// Panics if a promise is broken.
pub(crate) fn check(data: &[u8]) {
    let id = Id::of(data);
    if let Ok(root) = Root::decode(id, data) {
        assert_eq!(root.encode(), data);
        let end = blocks_of(root.size_gib);
        for page in &root.pages {
            let first = u64::from(page.number) * PAGE_BLOCKS;
            assert!(first < end);
            assert_eq!(root.page_of(first), Some(page));
        }
        assert!(root.blocks() <= end.next_multiple_of(PAGE_BLOCKS));
    }
    // The root that names it says of which number it is, and how many blocks it has.
    let Some([number, blocks]) = data.get(8..16).map(|at| {
        let (words, _) = at.as_chunks();
        [u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1])]
    }) else {
        return;
    };
    if let Ok(page) = Page::decode(&PageReference { number, blocks, id }, data) {
        assert_eq!(page.encode(), data);
        for (index, block) in page.indexes() {
            assert_eq!(page.block(index), Some(block));
        }
        assert!(Page::decode(&PageReference { number: !number, blocks, id }, data).is_err());
    }
}
