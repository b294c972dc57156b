//! Key pairs.

pub(crate) const OPERATIONS: &[service::Operation] = &[];
