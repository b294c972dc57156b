//! The machine side of a region: reads what is wanted of this node, makes it so, reports what it
//! sees.
//!
//! - [`qemu`] runs machines for real; [`sim`] needs nothing and runs nothing. Both are a
//!   [`base::machine::Driver`], and nothing else of a region knows which one it has.
//! - [`image`] builds and imports what machines boot from.
//! - [`imds`] is the metadata service that guests ask.
//! - [`doctor`] says what this machine can do.
//!
//! Invariant: nothing here sees an AWS request, a store or an account. `unsafe` stands only in
//! [`qemu`]'s process module.

pub mod doctor;
pub mod endpoint;
mod flow_log;
pub mod image;
pub mod imds;
pub mod qemu;
mod secret;
pub mod sim;
pub mod volume;
