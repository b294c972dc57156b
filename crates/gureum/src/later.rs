//! Stands in for the key store and the blob store until they are joined.

use base::key::{DataKey, Error, Keys, WrappedKey};
use base::volume::{Blocks, Content};
use std::io;

#[derive(Debug)]
pub(crate) struct Later;

fn later<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Keys for Later {
    fn resolve(&self, _: &str, _: &str, key: Option<&str>) -> Result<String, Error> {
        Err(Error::NotFound(key.unwrap_or_default().to_owned()))
    }

    fn generate(&self, key: &str) -> Result<WrappedKey, Error> {
        Err(Error::NotFound(key.to_owned()))
    }

    fn unwrap(&self, key: &WrappedKey) -> Result<DataKey, Error> {
        Err(Error::NotFound(key.key_arn.clone()))
    }

    fn rewrap(&self, _: &WrappedKey, key: &str) -> Result<WrappedKey, Error> {
        Err(Error::NotFound(key.to_owned()))
    }
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
