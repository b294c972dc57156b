//! What the tests of this crate share.

use base::key::{DataKey, Error as KeyError, Keys, WrappedKey};
use base::volume::BLOCK_BYTES;
use block::{Blob, BlobStore, Blobs, Error, Id, Result};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// A block that differs for each seed.
pub fn block(seed: u64) -> Vec<u8> {
    let mut block = vec![0xA5; BLOCK_BYTES];
    block[..8].copy_from_slice(&seed.to_le_bytes());
    block[BLOCK_BYTES - 8..]
        .copy_from_slice(&seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    block
}

pub const KEY: DataKey = DataKey([7; 32]);
pub const OTHER_KEY: DataKey = DataKey([8; 32]);

/// No progress wanted.
pub fn silent(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct Memory(pub Mutex<BTreeMap<Id, Arc<[u8]>>>);

impl BlobStore for Memory {
    fn put(&self, blob: &Blob<'_>) -> Result<bool> {
        Ok(self.0.lock().unwrap().insert(blob.id(), blob.bytes().into()).is_none())
    }

    fn get(&self, id: Id) -> Result<Vec<u8>> {
        Ok(self.0.lock().unwrap().get(&id).ok_or(Error::NotFound(id))?.to_vec())
    }

    fn stored(&self, id: Id) -> Result<Option<u64>> {
        Ok(self.0.lock().unwrap().get(&id).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, visit: &mut dyn FnMut(Id, u64) -> ControlFlow<()>) -> Result<()> {
        let all: Vec<_> =
            self.0.lock().unwrap().iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
        let _ = all.into_iter().try_for_each(|(id, bytes)| visit(id, bytes));
        Ok(())
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.0.lock().unwrap().remove(&id);
        Ok(())
    }
}

pub fn memory() -> (Arc<Memory>, Blobs) {
    let memory = Arc::new(Memory::default());
    (Arc::clone(&memory), Blobs::new(memory))
}

/// "Wrapped" keys are a byte that the key repeats.
#[derive(Debug)]
pub struct TestKeys;

pub fn wrapped(byte: u8) -> WrappedKey {
    WrappedKey { key_arn: "arn:aws:kms:test".to_owned(), ciphertext: byte.to_string() }
}

impl Keys for TestKeys {
    fn resolve(&self, _: &str, _: &str, _: Option<&str>) -> Result<String, KeyError> {
        Err(KeyError::Storage("not needed".to_owned()))
    }

    fn generate(&self, _: &str) -> Result<WrappedKey, KeyError> {
        Err(KeyError::Storage("not needed".to_owned()))
    }

    fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
        let byte = wrapped.ciphertext.parse().map_err(|_| KeyError::NotOurs(String::new()))?;
        Ok(DataKey([byte; 32]))
    }

    fn rewrap(&self, _: &WrappedKey, _: &str) -> Result<WrappedKey, KeyError> {
        Err(KeyError::Storage("not needed".to_owned()))
    }
}
