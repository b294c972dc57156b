//! The seam between shapes and protocols: a [`Shape`] shows its members to an [`Encoder`] and takes
//! them from a [`Decoder`].
//!
//! Both traits are object-safe, so the generated code of a shape is compiled once and every
//! protocol is an implementation of the pair. A shape does not know how it is written; a codec does
//! not know which shape it writes. There is no serde here: its derives take seven times as long to
//! compile for EC2's 2,400 structures.

use crate::schema::{Member, Type};
use crate::{DecodeError, Document};
use base::Timestamp;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

/// A structure of the model. Members are addressed by their index in [`Type::members`].
pub trait Shape: Send + Sync {
    /// The description; always a structure.
    fn schema(&self) -> &'static Type;

    /// The member of that index.
    fn slot(&self, index: usize) -> &dyn Slot;

    /// The member of that index; `None` if there are not as many.
    fn slot_mut(&mut self, index: usize) -> Option<&mut dyn Slot>;

    /// Shows the present members in order.
    fn encode(&self, out: &mut dyn Encoder) {
        for (index, member) in self.schema().members().iter().enumerate() {
            self.slot(index).put(member, out);
        }
    }

    /// Reads the value of one member from a decoder that stands on it.
    fn decode(&mut self, index: usize, from: &mut dyn Decoder) -> Result<(), DecodeError> {
        let members = self.schema().members();
        match (self.slot_mut(index), members.get(index)) {
            (Some(slot), Some(member)) => slot.take(member, from),
            _ => Ok(()),
        }
    }
}

/// A member of a structure, which may be absent.
pub trait Slot: Any {
    /// Whether there is a value.
    fn is_present(&self) -> bool;
    /// Whether both are absent, or have the same type and value.
    fn equals(&self, other: &dyn Slot) -> bool;
    /// Shows the value, if there is one.
    fn put(&self, member: &'static Member, out: &mut dyn Encoder);
    /// Reads the value.
    fn take(&mut self, member: &'static Member, from: &mut dyn Decoder) -> Result<(), DecodeError>;
}

/// A member that no structure has.
pub static NO_SLOT: Option<bool> = None;

/// Receives a shape's values. `member` is the reference through which the value is reached: a
/// member of a structure, the item of a list or the value of a map.
pub trait Encoder {
    /// A string or an enum.
    fn string(&mut self, member: &'static Member, value: &str);
    /// An `i32` or `i64`.
    fn integer(&mut self, member: &'static Member, value: i64);
    /// A boolean.
    fn boolean(&mut self, member: &'static Member, value: bool);
    /// A double.
    fn double(&mut self, member: &'static Member, value: f64);
    /// A float.
    fn float(&mut self, member: &'static Member, value: f32);
    /// Bytes.
    fn blob(&mut self, member: &'static Member, value: &[u8]);
    /// A point in time.
    fn timestamp(&mut self, member: &'static Member, value: Timestamp);
    /// Free-form JSON.
    fn document(&mut self, member: &'static Member, value: &Document);
    /// A structure; the encoder calls [`Shape::encode`].
    fn structure(&mut self, member: &'static Member, value: &dyn Shape);
    /// A list; the encoder calls [`List::encode_items`].
    fn list(&mut self, member: &'static Member, value: &dyn List);
    /// A map; the encoder calls [`Map::encode_entries`], which calls [`Encoder::key`] before every
    /// value.
    fn map(&mut self, member: &'static Member, value: &dyn Map);
    /// The key of the value that follows.
    fn key(&mut self, key: &str);
    /// What was written so far, by an encoder that can [`paste`](Encoder::paste).
    fn written(&self) -> Option<&[u8]> {
        None
    }
    /// Writes what an encoder of the same kind had [`written`](Encoder::written) for an item of the
    /// same list. False, and nothing was written, where the two do not fit.
    fn paste(&mut self, _piece: &[u8]) -> bool {
        false
    }
}

/// The items of a list, for an encoder.
pub trait List {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Shows them in order.
    fn encode_items(&self, item: &'static Member, out: &mut dyn Encoder);
}

/// The entries of a map, for an encoder.
pub trait Map {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Shows them in order of their keys.
    fn encode_entries(&self, value: &'static Member, out: &mut dyn Encoder);
}

/// Takes one item of a list.
pub type TakeItem<'a> =
    dyn FnMut(&'static Member, &mut dyn Decoder) -> Result<(), DecodeError> + 'a;
/// Takes one entry of a map.
pub type TakeEntry<'a> =
    dyn FnMut(String, &'static Member, &mut dyn Decoder) -> Result<(), DecodeError> + 'a;

/// Gives the value on which it stands.
pub trait Decoder {
    /// A string or an enum.
    fn string(&mut self, member: &'static Member) -> Result<String, DecodeError>;
    /// An integer between `min` and `max`.
    fn integer(&mut self, member: &'static Member, min: i64, max: i64) -> Result<i64, DecodeError>;
    /// A boolean.
    fn boolean(&mut self, member: &'static Member) -> Result<bool, DecodeError>;
    /// A double or a float.
    fn double(&mut self, member: &'static Member) -> Result<f64, DecodeError>;
    /// Bytes.
    fn blob(&mut self, member: &'static Member) -> Result<Vec<u8>, DecodeError>;
    /// A point in time.
    fn timestamp(&mut self, member: &'static Member) -> Result<Timestamp, DecodeError>;
    /// Free-form JSON.
    fn document(&mut self, member: &'static Member) -> Result<Document, DecodeError>;
    /// A structure: the decoder stands on each member that is there in turn and calls
    /// [`Shape::decode`].
    fn structure(
        &mut self,
        member: &'static Member,
        into: &mut dyn Shape,
    ) -> Result<(), DecodeError>;
    /// A list: the decoder stands on each item in turn and calls `take`.
    fn list(&mut self, member: &'static Member, take: &mut TakeItem<'_>)
    -> Result<(), DecodeError>;
    /// A map: the decoder stands on each value in turn and calls `take`.
    fn map(&mut self, member: &'static Member, take: &mut TakeEntry<'_>)
    -> Result<(), DecodeError>;
}

/// A Rust type that a member can have.
pub trait Value: Sized + PartialEq + 'static {
    /// Shows itself.
    fn encode(&self, member: &'static Member, out: &mut dyn Encoder);
    /// Reads itself.
    fn decode(member: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError>;
}

impl<T: Value> Slot for Option<T> {
    fn is_present(&self) -> bool {
        self.is_some()
    }
    fn equals(&self, other: &dyn Slot) -> bool {
        let other: &dyn Any = other;
        other.downcast_ref::<Self>() == Some(self)
    }
    fn put(&self, member: &'static Member, out: &mut dyn Encoder) {
        if let Some(value) = self {
            value.encode(member, out);
        }
    }
    fn take(&mut self, member: &'static Member, from: &mut dyn Decoder) -> Result<(), DecodeError> {
        *self = Some(T::decode(member, from)?);
        Ok(())
    }
}

impl<T: Shape + Default + PartialEq + 'static> Value for T {
    #[inline]
    fn encode(&self, member: &'static Member, out: &mut dyn Encoder) {
        out.structure(member, self);
    }
    fn decode(member: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError> {
        let mut value = T::default();
        from.structure(member, &mut value)?;
        Ok(value)
    }
}

impl<T: Shape> Shape for Box<T> {
    fn schema(&self) -> &'static Type {
        (**self).schema()
    }
    fn slot(&self, index: usize) -> &dyn Slot {
        (**self).slot(index)
    }
    fn slot_mut(&mut self, index: usize) -> Option<&mut dyn Slot> {
        (**self).slot_mut(index)
    }
}

macro_rules! scalar {
    ($type:ty, $value:ident, $encode:ident($($as_value:tt)*), $decode:expr) => {
        impl Value for $type {
            #[inline]
            fn encode(&self, member: &'static Member, out: &mut dyn Encoder) {
                let $value = self;
                out.$encode(member, $($as_value)*);
            }
            fn decode(m: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError> {
                let decode: fn(&'static Member, &mut dyn Decoder) -> _ = $decode;
                decode(m, from)
            }
        }
    };
}

scalar!(String, value, string(value), |m, from| from.string(m));
scalar!(i64, value, integer(*value), |m, from| from.integer(m, i64::MIN, i64::MAX));
scalar!(i32, value, integer(i64::from(*value)), |m, from| {
    let value = from.integer(m, i64::from(i32::MIN), i64::from(i32::MAX))?;
    i32::try_from(value).map_err(|_| DecodeError::invalid(m, &value.to_string()))
});
scalar!(bool, value, boolean(*value), |m, from| from.boolean(m));
scalar!(f64, value, double(*value), |m, from| from.double(m));
scalar!(f32, value, float(*value), |m, from| Ok(from.double(m)? as f32));
scalar!(Timestamp, value, timestamp(*value), |m, from| from.timestamp(m));
scalar!(Document, value, document(value), |m, from| from.document(m));

/// Bytes: `u8` is no [`Value`], so this is not a list.
impl Value for Vec<u8> {
    #[inline]
    fn encode(&self, member: &'static Member, out: &mut dyn Encoder) {
        out.blob(member, self);
    }
    fn decode(member: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError> {
        from.blob(member)
    }
}

impl<T: Value> List for Vec<T> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn encode_items(&self, item: &'static Member, out: &mut dyn Encoder) {
        for value in self {
            value.encode(item, out);
        }
    }
}

impl<T: Value> Value for Vec<T> {
    #[inline]
    fn encode(&self, member: &'static Member, out: &mut dyn Encoder) {
        out.list(member, self);
    }
    fn decode(member: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError> {
        let mut items = Vec::new();
        from.list(member, &mut |item, from| {
            items.push(T::decode(item, from)?);
            Ok(())
        })?;
        Ok(items)
    }
}

impl<T: Value> Map for BTreeMap<String, T> {
    fn len(&self) -> usize {
        BTreeMap::len(self)
    }
    fn encode_entries(&self, value: &'static Member, out: &mut dyn Encoder) {
        for (key, item) in self {
            out.key(key);
            item.encode(value, out);
        }
    }
}

impl<T: Value> Value for BTreeMap<String, T> {
    #[inline]
    fn encode(&self, member: &'static Member, out: &mut dyn Encoder) {
        out.map(member, self);
    }
    fn decode(member: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError> {
        let mut entries = BTreeMap::new();
        from.map(member, &mut |key, value, from| {
            entries.insert(key, T::decode(value, from)?);
            Ok(())
        })?;
        Ok(entries)
    }
}

/// An operation as a type: what the table of operations and typed clients are made of.
pub trait Operation {
    /// Its input; [`Empty`] if the model has none.
    type Input: Shape + Default + Clone + PartialEq + fmt::Debug + 'static;
    /// Its output; [`Empty`] if the model has none.
    type Output: Shape + Default + Clone + PartialEq + fmt::Debug + 'static;
    /// The description.
    const MODEL: &'static crate::schema::OperationModel;
}

/// The input or output of an operation that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Empty;

static EMPTY: Type = Type::structure("Empty", &[]);

impl Shape for Empty {
    fn schema(&self) -> &'static Type {
        &EMPTY
    }
    fn slot(&self, _: usize) -> &dyn Slot {
        &NO_SLOT
    }
    fn slot_mut(&mut self, _: usize) -> Option<&mut dyn Slot> {
        None
    }
}

/// Whether two structures of the same type have the same members. Generated structures compare
/// themselves by this: derives for all of them take a second to compile.
pub fn equal(a: &dyn Shape, b: &dyn Shape) -> bool {
    let members = a.schema().members();
    (0..members.len()).all(|index| a.slot(index).equals(b.slot(index)))
}
