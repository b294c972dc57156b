//! The data plane with real packets: guests are network namespaces behind taps, as machines are.
//!
//! Needs root and GUREUM_PRIVILEGED_TESTS=1; otherwise every test says that it skips.

#![allow(unreachable_pub, missing_debug_implementations)]

mod guest;
mod world;

#[path = "../../src/system.rs"]
#[allow(dead_code)]
mod system;

mod abuse;
mod acl;
mod ipv6;
mod kills;
mod lifecycle;
mod nodes;
mod reach;
mod routing;
mod routing6;
mod security;
mod services;
