//! EBS direct APIs: the blocks of snapshots, read and written one by one. The service `ebs`.
//!
//! ```text
//!  StartSnapshot ──► pending ── PutSnapshotBlock … ──► CompleteSnapshot ──► (a task) ──► completed
//!                       └── no block for Timeout minutes ──► error
//! ```
//!
//! What is being written is an upload of the blob store under the snapshot's id
//! ([`base::volume::Blocks::put`]); the snapshot's record says for how long it may go on. What is read is
//! named by tokens ([`token`]), as AWS does: a list gives them, and only they open a block.
//!
//! A block that is put is durable before its request is answered, and putting it again is the same:
//! so a handler may do it before its transaction.

mod read;
#[cfg(test)]
mod tests;
mod token;
mod write;

use crate::record::{Snapshot, SnapshotState};
use crate::snapshot;
use service::operation::Service;
use service::{Call, Error, Operation};
use std::sync::Arc;

/// The service as the dispatcher serves it.
pub fn service() -> Service {
    let tables: [&'static [Operation]; 2] = [read::OPERATIONS, write::OPERATIONS];
    Service {
        model: &model::ebs::SERVICE,
        operations: tables.into_iter().flatten().collect(),
        set_up: Some(token::set_up),
    }
}

/// Bytes of a block.
const BLOCK_BYTES: i32 = 512 << 10;
/// Blocks of a GiB.
const BLOCKS_PER_GIB: u64 = 2_048;

fn invalid(reason: &'static str, message: impl Into<String>) -> Error {
    Error::client("ValidationException", message).with_member("Reason", reason)
}

fn not_found(id: &str) -> Error {
    Error::client("ResourceNotFoundException", format!("The snapshot '{id}' does not exist."))
        .with_status(404)
        .with_member("Reason", "SNAPSHOT_NOT_FOUND")
}

/// The blob store failed; what happened is in the log.
fn storage(error: &std::io::Error) -> Error {
    Error::internal(format!("blocks: {error}"))
}

/// An error of the snapshot operations in this service's words.
fn translate(error: Error, id: &str) -> Error {
    match error.code.as_ref() {
        "InvalidSnapshot.NotFound" => not_found(id),
        "AuthFailure" => {
            Error::client("AccessDeniedException", "You do not have access to the snapshot.")
                .with_status(403)
                .with_member("Reason", "UNAUTHORIZED_ACCOUNT")
        }
        "InvalidParameterValue" | "InvalidSnapshotID.Malformed" | "IncorrectState" => {
            invalid("INVALID_SNAPSHOT_ID", error.message)
        }
        code if code.starts_with("InvalidKMSKey") => invalid("INVALID_CUSTOMER_KEY", error.message),
        _ => error,
    }
}

/// A snapshot that can be read.
fn readable(call: &mut Call<'_>, id: &str) -> Result<Arc<Snapshot>, Error> {
    snapshot::source(call, id).map_err(|error| translate(error, id))
}

/// A snapshot that is being written, with its key.
fn writable(call: &mut Call<'_>, id: &str) -> Result<(String, Arc<Snapshot>), Error> {
    use crate::record::snapshot::Origin;
    let (at, found) = snapshot::own(call, id).map_err(|error| translate(error, id))?;
    match (&found.origin, found.state) {
        (Origin::Direct { sealed: false, .. }, SnapshotState::Pending) => Ok((at, found)),
        (Origin::Direct { .. }, SnapshotState::Error) => Err(invalid(
            "WRITE_REQUEST_TIMEOUT",
            format!("The snapshot '{id}' was not written to for too long."),
        )),
        _ => Err(invalid(
            "INVALID_SNAPSHOT_ID",
            format!("The snapshot '{id}' is not being written with the EBS direct APIs."),
        )),
    }
}
