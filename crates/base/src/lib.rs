//! What every other crate speaks: time, identifiers, addresses, and the plans that the control
//! plane hands to the machines.
//!
//! Nothing here does IO, is asynchronous or knows an AWS request. The plan types
//! ([`machine`], [`volume`], [`network`], [`image`]) are the only language between the services, which decide,
//! and the node, which executes.

#![forbid(unsafe_code)]

pub mod cidr;
pub mod clock;
pub mod id;
pub mod image;
pub mod key;
pub mod machine;
pub mod network;
pub mod volume;

pub use cidr::{Cidr, Ipv4Cidr, Ipv6Cidr};
pub use clock::{Clock, Timestamp};
