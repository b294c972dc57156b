//! The AWS protocols: bytes to typed shapes and back. Pure: no IO, no clock, no randomness.
//!
//! The principle: a shape (see [`shape`]) is described by static data (see [`schema`]) and shows its
//! members to an [`Encoder`] or takes them from a [`Decoder`]; a protocol is an implementation of
//! that pair. This crate knows no AWS service: names of operations and shapes come from `model`.

#![forbid(unsafe_code)]

pub mod debug;
pub mod document;
pub mod error;
pub mod form;
pub mod schema;
pub mod shape;
pub mod sigv4;
mod text;
pub mod xml;

pub use document::Document;
pub use error::{DecodeError, Error};
pub use schema::{Kind, Member, OperationModel, Protocol, ServiceModel, Type};
pub use shape::{Decoder, Empty, Encoder, List, Map, Operation, Shape, Value};

/// Defines a generated structure: its fields, all optional, numbered as in its schema.
#[macro_export]
macro_rules! shape {
    (schema::$schema:ident, pub struct $name:ident { $($index:literal $field:ident: $type:ty,)* }) => {
        #[derive(Clone, Default, PartialEq)]
        pub struct $name {
            $(pub $field: Option<$type>,)*
        }

        impl $crate::Shape for $name {
            fn schema(&self) -> &'static $crate::Type {
                &super::schema::$schema
            }
            #[allow(unused_variables)]
            fn encode(&self, out: &mut dyn $crate::Encoder) {
                let members = super::schema::$schema.members();
                $($crate::shape::put(&self.$field, &members[$index], out);)*
            }
            #[allow(unused_variables)]
            fn decode(
                &mut self,
                index: usize,
                from: &mut dyn $crate::Decoder,
            ) -> Result<(), $crate::DecodeError> {
                let members = super::schema::$schema.members();
                match index {
                    $($index => $crate::shape::take(&mut self.$field, &members[$index], from),)*
                    _ => Ok(()),
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
