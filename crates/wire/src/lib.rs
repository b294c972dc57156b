//! The AWS protocols: bytes to typed shapes and back. Pure: no IO, no clock, no randomness.
//!
//! The principle: a shape (see [`shape`]) is described by static data (see [`schema`]) and shows its
//! members to an [`Encoder`] or takes them from a [`Decoder`]; a protocol is an implementation of
//! that pair. This crate knows no AWS service: names of operations and shapes come from `model`.
//!
//! ```text
//!             form ── ec2, query requests          [`server`]  request to input, output to answer
//! shape ◀──▶  xml ─── ec2, query, rest-xml         [`client`]  input to request, answer to output
//!             tree ── json 1.0/1.1, rest-json,     [`validate`] what the model demands of an input
//!                     rpc-v2-cbor                  [`sigv4`]   who sent it
//!             rest ── paths, queries, headers
//! ```
//!
//! Deliberately not here: event streams, compressed or chunked bodies, patterns of the model, and
//! members of modelled errors other than the message in answers.

#![forbid(unsafe_code)]

pub mod client;
pub mod debug;
pub mod document;
pub mod error;
pub mod form;
mod rest;
pub mod schema;
pub mod server;
pub mod shape;
pub mod sigv4;
mod text;
mod tree;
pub mod validate;
pub mod xml;

pub use document::Document;
pub use error::{DecodeError, Error};
pub use schema::{Kind, Member, OperationModel, Protocol, ServiceModel, Type};
pub use shape::{Decoder, Empty, Encoder, List, Map, Operation, Shape, Value};

/// Defines a generated structure: its fields, all optional, numbered as in its schema.
#[macro_export]
macro_rules! shape {
    (schema::$schema:ident, pub struct $name:ident { $($index:literal $field:ident: $type:ty,)* }) => {
        #[derive(Clone)]
        pub struct $name {
            $(pub $field: Option<$type>,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: None,)* }
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                $crate::shape::equal(self, other)
            }
        }

        impl $crate::Shape for $name {
            fn schema(&self) -> &'static $crate::Type {
                &super::schema::$schema
            }
            fn slot(&self, index: usize) -> &dyn $crate::shape::Slot {
                match index {
                    $($index => &self.$field,)*
                    _ => &$crate::shape::NO_SLOT,
                }
            }
            fn slot_mut(&mut self, index: usize) -> Option<&mut dyn $crate::shape::Slot> {
                match index {
                    $($index => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::debug::debug(self, f)
            }
        }
    };
}

/// Defines the type of a generated operation.
#[macro_export]
macro_rules! operation {
    ($name:ident: $input:ty => $output:ty) => {
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl $crate::Operation for $name {
            type Input = $input;
            type Output = $output;
            const MODEL: &'static $crate::OperationModel = &super::schema::operation::$name;
        }
    };
}
