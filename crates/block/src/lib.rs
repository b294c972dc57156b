//! Content-addressed blocks of snapshots.

#![forbid(unsafe_code)]
