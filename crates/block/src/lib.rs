//! Content of snapshots: blocks that are named by what they hold, in a blob store.
//!
//! ```text
//!   Upload ──┐                                 ┌──► Reader ──► NBD, exports, copies
//!   ingest ──┼──► tree of blobs (Content) ─────┤
//!   Direct ──┘        │                        └──► Direct (EBS direct APIs)
//!                     ▼
//!                BlobStore: Local directory | S3 endpoint
//!                     ▲
//!         collect, check: what do the records still name?
//! ```
//!
//! The principle: a blob's name is the SHA-256 of its bytes, a content is a tree of such names, and
//! so content never changes, is shared wherever it is equal, and proves itself whenever it is read.
//! A snapshot is the root of a tree; deleting it is forgetting the root, and [`collect`] frees what
//! no root reaches.
//!
//! One process writes a store (the daemon); any number may read it. Methods block.
//!
//! Deliberately not here: volumes, layers and when a snapshot is cut (`node`); which records name
//! which content (`ec2`); master keys (`kms`); replication (a store may have it).

#![forbid(unsafe_code)]

pub mod blob;
mod cache;
pub mod check;
pub mod collect;
pub mod direct;
pub mod faulty;
pub mod ingest;
pub mod local;
mod log;
mod parallel;
mod pins;
pub mod read;
pub mod s3;
pub mod seal;
mod store;
mod sync;
pub mod tree;
pub mod upload;

pub use blob::{Blob, BlobStore, Error, Id, Result, Usage};
pub use collect::Roots;
pub use direct::Direct;
pub use pins::Pinned;
pub use read::{Reader, Tree};
pub use s3::S3Config;
pub use store::{Blobs, Config, root_of};
pub use upload::{Finished, Progress, Upload};

pub mod nbd;
