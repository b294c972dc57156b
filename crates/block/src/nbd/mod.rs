//! NBD, the network block device protocol: how disks reach QEMU and come back from it.
//!
//! - [`server`] serves one read-only [`server::Export`]. The storage process of a volume that fills
//!   from a snapshot is such a server ([`storage`]); QEMU is its client.
//! - [`client`] reads what `qemu-nbd` serves, and asks it which layer of a chain holds what: this is
//!   how a snapshot's frozen layer is uploaded.
//! - [`protocol`] is both sides' bytes, as pure functions: what decodes never panics and never
//!   allocates more than it was given.
//!
//! The protocol is `doc/proto.md` of github.com/NetworkBlockDevice/nbd: fixed newstyle handshake,
//! structured replies, metadata contexts. All numbers are big-endian.
//!
//! ```text
//!  client                                   server
//!                                        ◄── NBDMAGIC IHAVEOPT flags
//!  flags                                 ──►
//!  option, again and again               ──►
//!                                        ◄── replies to it
//!  GO (or EXPORT_NAME)                   ──►
//!                                        ◄── size, flags
//!  requests, many at once                ──►
//!                                        ◄── chunks of replies, in any order
//!  DISC                                  ──►
//! ```
//!
//! Not here: TLS, writing, extended headers; both ends are on one machine and a unix socket's file
//! permissions say who may connect.

pub mod client;
pub mod protocol;
pub mod server;
pub mod storage;

pub use client::Client;
pub use storage::StorageOptions;

use std::io;

/// Why a connection, or one request on it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error("the NBD connection broke: {0}")]
    Io(#[from] io::Error),
    /// The other side does not keep to the protocol.
    #[error("the NBD peer broke the protocol: {0}")]
    Protocol(#[from] protocol::Malformed),
    /// The server does not do what was asked of it in the handshake.
    #[error("the NBD server refused {what}: {message}")]
    Refused {
        /// What it refused.
        what: &'static str,
        /// Its words, or the code of its reply.
        message: String,
    },
    /// The server answered a request with an error.
    #[error("the NBD server answered error {code}: {message}")]
    Failed {
        /// The error's number, as in errno.
        code: u32,
        /// The server's words, perhaps none.
        message: String,
    },
    /// The request cannot be sent: it lies outside the export or is too large.
    #[error("{length} bytes at {offset} cannot be asked of an NBD export of {size} bytes")]
    OutOfRange {
        /// Where it begins, bytes.
        offset: u64,
        /// Its length, bytes.
        length: u64,
        /// Size of the export, bytes.
        size: u64,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            Error::OutOfRange { .. } => io::Error::new(io::ErrorKind::InvalidInput, error),
            error => io::Error::other(error),
        }
    }
}

#[cfg(test)]
mod tests;
