//! The data plane with real packets: guests are network namespaces behind taps, as machines are.
//!
//! Needs root and GUREUM_PRIVILEGED_TESTS=1; otherwise every test says that it skips.

mod guest;
mod world;

#[path = "../../src/system.rs"]
#[allow(dead_code, unreachable_pub)]
mod system;

mod lifecycle;
mod security;
