//! Amazon EC2: requests in, records and answers out.
//!
//! A handler writes what is wanted, in one transaction, and returns. It makes no system call and
//! waits for nothing. What moves the records on (pending to running, shutting-down to terminated)
//! are this crate's reconcilers; what makes it real is the node, behind
//! [`base::machine::Driver`].
//!
//! One module a resource. Each has its operation table; [`operations`] joins them.

#![forbid(unsafe_code)]

pub mod record;
pub mod region;
pub mod image;

mod account;
mod instance;
mod instance_type;
mod interface;
mod key_pair;
mod launch;
mod machine_plan;
mod network_plan;
mod security_group;
mod subnet;
mod tag;
#[cfg(test)]
mod testing;
mod volume;
mod vpc;
