//! Tests of the crate from outside, as one program.

#![allow(unreachable_pub)] // Nobody uses a test from outside.

mod collection;
mod common;
mod content;
mod direct;
mod object_store;
mod stores;
