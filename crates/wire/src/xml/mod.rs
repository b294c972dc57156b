//! XML out (answers of the ec2, query and rest-xml protocols) and in.

mod read;
mod write;

pub use read::{Node, XmlDecoder, parse};
pub use write::{XmlEncoder, XmlStyle, escape};
pub(crate) use write::{item_name, map_names};
