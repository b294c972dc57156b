//! A blob store in memory.

use super::lock;
use aws_lc_rs::digest;
use base::key::WrappedKey;
use base::volume::{Blocks, Content};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Mutex;

type Upload = BTreeMap<u64, Vec<u8>>;

/// Blocks of contents and of uploads.
#[derive(Debug, Default)]
pub(crate) struct MemoryBlocks {
    contents: Mutex<HashMap<String, Upload>>,
    uploads: Mutex<HashMap<String, Upload>>,
}

fn sha256(data: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, data).as_ref().to_vec()
}

impl MemoryBlocks {
    /// From now on the content has these blocks.
    pub(crate) fn set(&self, content: &Content, blocks: Upload) {
        lock(&self.contents).insert(content.root.clone(), blocks);
    }

    fn of(&self, content: &Content) -> Upload {
        lock(&self.contents).get(&content.root).cloned().unwrap_or_default()
    }

    /// Blocks that were put for a snapshot.
    pub(crate) fn upload(&self, id: &str) -> Option<Upload> {
        lock(&self.uploads).get(id).cloned()
    }
}

fn identity(block: &[u8]) -> String {
    format!("{:02x?}", sha256(block))
}

impl Blocks for MemoryBlocks {
    fn list(&self, content: &Content, from: u64, most: usize) -> io::Result<Vec<(u64, String)>> {
        let blocks = self.of(content);
        Ok(blocks.range(from..).take(most).map(|(i, block)| (*i, identity(block))).collect())
    }

    fn changed(
        &self,
        first: &Content,
        second: &Content,
        from: u64,
        most: usize,
    ) -> io::Result<Vec<(u64, Option<String>, Option<String>)>> {
        let (one, other) = (self.of(first), self.of(second));
        let indexes: BTreeSet<u64> = one.keys().chain(other.keys()).copied().collect();
        let rows = indexes.range(from..).map(|index| {
            let text = |blocks: &Upload| blocks.get(index).map(|block| identity(block));
            (*index, text(&one), text(&other))
        });
        Ok(rows.filter(|(_, one, other)| one != other).take(most).collect())
    }

    fn read(&self, content: &Content, index: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.of(content).get(&index).cloned())
    }

    fn put(&self, id: &str, _: Option<&WrappedKey>, index: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.uploads).entry(id.to_owned()).or_default().insert(index, data.to_vec());
        Ok(())
    }

    fn uploaded(&self, id: &str) -> io::Result<u64> {
        Ok(self.upload(id).map_or(0, |blocks| blocks.len() as u64))
    }

    fn checksum(&self, id: &str) -> io::Result<[u8; 32]> {
        let blocks = self.upload(id).unwrap_or_default();
        let sums: Vec<u8> = blocks.values().flat_map(|block| sha256(block)).collect();
        Ok(sha256(&sums).try_into().unwrap_or_default())
    }

    fn drop_upload(&self, id: &str) -> io::Result<()> {
        lock(&self.uploads).remove(id);
        Ok(())
    }
}
