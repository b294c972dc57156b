//! Data keys and the master keys that wrap them.
//!
//! Envelope encryption as in AWS KMS: data is encrypted with a data key; the data key is kept wrapped
//! beside the data, and only the key store can unwrap it. Records and specs carry wrapped keys alone.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A data key that a master key encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WrappedKey {
    /// ARN of the KMS key that unwraps it.
    pub key_arn: String,
    /// The encrypted data key, base64.
    pub ciphertext: String,
}

/// A data key in the clear: 256 bits. Never written, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(pub [u8; 32]);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such key or alias in that region and account.
    #[error("the key {0} does not exist")]
    NotFound(String),
    /// It is disabled or pending deletion.
    #[error("the key {0} cannot be used")]
    Disabled(String),
    /// A wrapped key that this key did not wrap, or that was damaged.
    #[error("the data key cannot be unwrapped with {0}")]
    NotOurs(String),
    /// The key store cannot be read or written.
    #[error("the key store cannot be used: {0}")]
    Storage(String),
}

/// A store of master keys.
pub trait Keys: Send + Sync {
    /// The ARN of the key that `reference` names: a key id, `alias/…`, or the ARN of either; `None`
    /// is the region's own key `alias/aws/ebs`, which is made when it is first asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disabled`], [`Error::Storage`].
    fn resolve(
        &self,
        region: &str,
        account: &str,
        reference: Option<&str>,
    ) -> Result<String, Error>;

    /// A new data key under the master key `key_arn`.
    ///
    /// # Errors
    /// See [`Error`].
    fn generate(&self, key_arn: &str) -> Result<WrappedKey, Error>;

    /// The data key in the clear.
    ///
    /// # Errors
    /// See [`Error`].
    fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, Error>;

    /// The same data key under another master key.
    ///
    /// # Errors
    /// See [`Error`].
    fn rewrap(&self, wrapped: &WrappedKey, key_arn: &str) -> Result<WrappedKey, Error>;
}
