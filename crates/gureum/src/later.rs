//! Stands in for the blob store until it is joined.

use base::key::WrappedKey;
use base::volume::{Blocks, Content};
use std::io;

#[derive(Debug)]
pub(crate) struct Later;

fn later<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Blocks for Later {
    fn list(&self, _: &Content, _: u64, _: usize) -> io::Result<Vec<(u64, String)>> {
        later()
    }

    fn changed(
        &self,
        _: &Content,
        _: &Content,
        _: u64,
        _: usize,
    ) -> io::Result<Vec<(u64, Option<String>, Option<String>)>> {
        later()
    }

    fn read(&self, _: &Content, _: u64) -> io::Result<Option<Vec<u8>>> {
        later()
    }

    fn put(&self, _: &str, _: Option<&WrappedKey>, _: u64, _: &[u8]) -> io::Result<()> {
        later()
    }

    fn uploaded(&self, _: &str) -> io::Result<u64> {
        later()
    }

    fn drop_upload(&self, _: &str) -> io::Result<()> {
        later()
    }
}
