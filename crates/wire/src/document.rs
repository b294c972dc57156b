//! Free-form JSON (the model's `document` trait).

use std::collections::BTreeMap;

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Document {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Boolean(bool),
    /// A number without a fraction.
    Integer(i64),
    /// Any other number.
    Double(f64),
    /// A string.
    String(String),
    /// An array.
    List(Vec<Document>),
    /// An object.
    Map(BTreeMap<String, Document>),
}
