//! `application/x-www-form-urlencoded`: the requests of the ec2 and query protocols, in and out.
//!
//! A form is a flat list of dotted names (`Filter.1.Value.2=running`). [`Form`] keeps it sorted by
//! segment, so that everything below a name is one contiguous range and a shape is read by
//! narrowing that range. Nothing is ever allocated by a number that a client sent: an index is a
//! place in the order, not a size.

mod parse;
mod read;
mod write;

pub use parse::Form;
pub use write::encode;

use crate::schema::Member;

/// The two ways to write a shape as a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormStyle {
    /// Lists are always flattened, names begin with a capital, `queryName` wins.
    Ec2,
    /// Lists are `Name.member.1` unless flattened.
    Query,
}

impl FormStyle {
    /// The segment of a structure's member, and whether its first letter is made a capital.
    fn segment(self, member: &Member) -> (&'static str, bool) {
        match self {
            FormStyle::Ec2 if !member.query_name.is_empty() => (member.query_name, false),
            FormStyle::Ec2 => (member.wire_name(), true),
            FormStyle::Query => (member.wire_name(), false),
        }
    }

    fn is_flattened(self, member: &'static Member) -> bool {
        self == FormStyle::Ec2 || member.is_flattened()
    }
}

/// A member's name in a request, as the API reference prints it: `BlockDeviceMapping` for EC2's
/// `BlockDeviceMappings`.
pub fn request_name(style: FormStyle, member: &'static Member) -> String {
    let (name, capital) = style.segment(member);
    let mut name = name.to_owned();
    if let (true, Some(first)) = (capital, name.get_mut(..1)) {
        first.make_ascii_uppercase();
    }
    name
}
