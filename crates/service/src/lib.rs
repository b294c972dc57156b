//! What every AWS service here is made of: the table of operations, and the way of a request
//! through it.
//!
//! ```text
//!  HTTP ──► SigV4 ──► identity ──► throttle ──► operation ──► decode, validate ──► handler
//!                                                                                  │ stages
//!  answer ◄── encode ◄── after the fsync ◄── ONE transaction (again on conflict) ◄─┘
//! ```
//!
//! Services know only this crate and the generated model; they reach each other through the
//! operation table alone. What stands here serves all of them and knows none.

#![forbid(unsafe_code)]

pub mod call;
pub mod dispatch;
pub mod error;
pub mod filter;
pub mod http;
pub mod identity;
mod inspect;
pub mod invoke;
pub mod nothing;
pub mod operation;
pub mod page;
pub mod reconcile;
pub mod throttle;

pub use call::{Call, Effect, Environment};
pub use error::Error;
pub use identity::Identity;
pub use operation::{Kind, Operation};
