//! The REST protocols: members travel in the path, the query, headers, the status and the body.
//!
//! A request and an answer are the same thing seen from two sides, so there is one writer
//! ([`write`]) and one reader ([`read`]) of a [`Message`], used by client and server alike, and for
//! JSON and XML bodies alike.

mod message;
mod route;
mod text;

pub(crate) use message::{Format, Message, Source, read, write};
pub(crate) use route::{Found, fill, find};
