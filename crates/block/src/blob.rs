//! Blobs: immutable bytes named by their SHA-256, and the trait of a store that keeps them.
//!
//! The principle: a name proves its bytes. What comes out of a store is hashed before anybody sees
//! it, so a flipped bit on a disk or on the way is an error ([`Error::Damaged`], logged), never
//! data. A store only ever gains and loses whole blobs; it changes none.
//!
//! Methods block: callers are threads of uploads and exports. Whoever calls from a task of a
//! runtime moves aside first (`spawn_blocking`, `block_in_place`).

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::str::FromStr;

/// A blob is at most this long, bytes; longer ones are refused when written and when read. A
/// sealed block and the root of the largest volume (64 TiB) fit.
pub const MOST_BYTES: usize = 4 << 20;

/// The name of a blob: SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// The name of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Id(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a blob's name is 64 lower-case hexadecimal digits")]
pub struct NotAnId;

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAnId),
        };
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(NotAnId);
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Id(id))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Bytes with their name, which this type proves to belong together.
#[derive(Clone, Copy)]
pub struct Blob<'a> {
    id: Id,
    bytes: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Hashes `bytes`.
    pub fn of(bytes: &'a [u8]) -> Self {
        Blob { id: Id::of(bytes), bytes }
    }

    /// The name.
    pub fn id(&self) -> Id {
        self.id
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl fmt::Debug for Blob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({}, {} bytes)", self.id, self.bytes.len())
    }
}

/// Why content cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store has no such blob.
    #[error("the blob {0} is not in the blob store")]
    NotFound(Id),
    /// The bytes that the store has are not those that the name says. They are never given out.
    #[error("the blob {0} is damaged: its bytes do not match its name")]
    Damaged(Id),
    /// No space is left where the blobs are.
    #[error("the blob store is full")]
    Full,
    /// The disk failed.
    #[error("the blob store cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The object store answered with an error, or not at all.
    #[error("the object store cannot be used: {0}")]
    Remote(String),
    /// A blob whose bytes are as they were written and which is not what it should be.
    #[error("the blob {id} is not a valid {what}: {why}")]
    Malformed {
        /// Which blob.
        id: Id,
        /// `root`, `page`, `block`.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Content is read with a key that is not its own, or encrypted content without any.
    #[error("the content is encrypted with another key")]
    WrongKey,
    /// What was asked for makes no sense: an index beyond the end, a block of another length…
    #[error("{0}")]
    Invalid(String),
    /// The data key cannot be unwrapped.
    #[error(transparent)]
    Key(#[from] base::key::Error),
    /// Whoever was told of the progress wanted no more.
    #[error("stopped")]
    Stopped,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Io(error) => return error,
            Error::NotFound(_) => io::ErrorKind::NotFound,
            Error::Damaged(_) | Error::Malformed { .. } => io::ErrorKind::InvalidData,
            Error::Full => io::ErrorKind::StorageFull,
            Error::Remote(_) => io::ErrorKind::Other,
            Error::WrongKey | Error::Key(_) => io::ErrorKind::PermissionDenied,
            Error::Invalid(_) => io::ErrorKind::InvalidInput,
            Error::Stopped => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl Error {
    /// An error of a disk, where a full one is its own case.
    pub(crate) fn of_disk(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full,
            _ => Error::Io(error),
        }
    }
}

/// What this crate's functions give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes, without what the medium adds.
    pub bytes: u64,
}

/// Keeps blobs. Any number of threads may call at once.
pub trait BlobStore: Send + Sync + fmt::Debug {
    /// Keeps a blob; it is durable when this returns. Gives whether it was written, `false` when
    /// the store had it, whole.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::Remote`]; [`Error::Invalid`] if it is too long.
    fn put(&self, blob: &Blob<'_>) -> Result<bool>;

    /// The bytes of a blob, which match its name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`], [`Error::Io`], [`Error::Remote`].
    fn get(&self, id: Id) -> Result<Vec<u8>>;

    /// How long the stored blob is, bytes; `None` when there is none. Its bytes are not read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Remote`].
    fn stored(&self, id: Id) -> Result<Option<u64>>;

    /// Shows every blob and its length to `visit`, in no order, until it breaks off. A blob that is
    /// put or deleted meanwhile may be shown or not.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Remote`].
    fn list(&self, visit: &mut dyn FnMut(Id, u64) -> ControlFlow<()>) -> Result<()>;

    /// Drops a blob if it is there. After a crash it may be there again.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Remote`].
    fn delete(&self, id: Id) -> Result<()>;

    /// Whether the store has a blob of that name. Its bytes are not read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Remote`].
    fn exists(&self, id: Id) -> Result<bool> {
        Ok(self.stored(id)?.is_some())
    }

    /// How much the store holds. Lists all of it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Remote`].
    fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        self.list(&mut |_, bytes| {
            usage.blobs += 1;
            usage.bytes += bytes;
            ControlFlow::Continue(())
        })?;
        Ok(usage)
    }
}

/// Gives `bytes` only if `id` is their name.
pub(crate) fn verified(id: Id, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if Id::of(&bytes) == id {
        return Ok(bytes);
    }
    tracing::error!(blob = %id, bytes = bytes.len(), "a blob is damaged: not served");
    Err(Error::Damaged(id))
}

/// Refuses blobs that no reader would take.
pub(crate) fn check_length(blob: &Blob<'_>) -> Result<()> {
    if blob.bytes.len() > MOST_BYTES {
        return Err(Error::Invalid(format!("a blob of {} bytes is too long", blob.bytes.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sha256_in_hexadecimal() {
        let id = Id::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Id>(&format!("\"{text}\"")).unwrap(), id);
        for bad in ["", &text[1..], &text.to_uppercase(), &format!("{}g", &text[1..]), "é"] {
            assert_eq!(bad.parse::<Id>(), Err(NotAnId), "{bad}");
        }
    }

    #[test]
    fn errors_keep_their_meaning_as_io_errors() {
        let id = Id::of(b"");
        for (error, kind) in [
            (Error::NotFound(id), io::ErrorKind::NotFound),
            (Error::Damaged(id), io::ErrorKind::InvalidData),
            (Error::Full, io::ErrorKind::StorageFull),
            (Error::WrongKey, io::ErrorKind::PermissionDenied),
            (Error::Io(io::ErrorKind::TimedOut.into()), io::ErrorKind::TimedOut),
        ] {
            assert_eq!(io::Error::from(error).kind(), kind);
        }
        assert!(matches!(Error::of_disk(io::ErrorKind::StorageFull.into()), Error::Full));
    }
}
