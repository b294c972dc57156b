//! Reads a shape of the model out of a JSON value. For the embedded instance types only: numbers,
//! texts, booleans, lists and structures, members by their names in the model.

use base::Timestamp;
use serde_json::Value;
use wire::shape::{TakeEntry, TakeItem};
use wire::{DecodeError, Decoder, Document, Kind, Member, Shape};

/// Stands on one JSON value.
pub(super) struct Json<'a>(pub(super) &'a Value);

/// Fills `shape` from a JSON object; members that the model does not have are passed over.
pub(super) fn fill(shape: &mut dyn Shape, object: &Value) -> Result<(), DecodeError> {
    let Kind::Structure(members) = &shape.schema().kind else { return Ok(()) };
    for (index, member) in members.iter().enumerate() {
        if let Some(value) = object.get(member.name) {
            shape.decode(index, &mut Json(value))?;
        }
    }
    Ok(())
}

impl Json<'_> {
    fn invalid(&self, member: &'static Member) -> DecodeError {
        DecodeError::invalid(member, &self.0.to_string())
    }
}

impl Decoder for Json<'_> {
    fn string(&mut self, member: &'static Member) -> Result<String, DecodeError> {
        self.0.as_str().map(str::to_owned).ok_or_else(|| self.invalid(member))
    }

    fn integer(&mut self, member: &'static Member, min: i64, max: i64) -> Result<i64, DecodeError> {
        self.0.as_i64().filter(|n| (min..=max).contains(n)).ok_or_else(|| self.invalid(member))
    }

    fn boolean(&mut self, member: &'static Member) -> Result<bool, DecodeError> {
        self.0.as_bool().ok_or_else(|| self.invalid(member))
    }

    fn double(&mut self, member: &'static Member) -> Result<f64, DecodeError> {
        self.0.as_f64().ok_or_else(|| self.invalid(member))
    }

    fn blob(&mut self, member: &'static Member) -> Result<Vec<u8>, DecodeError> {
        Err(self.invalid(member))
    }

    fn timestamp(&mut self, member: &'static Member) -> Result<Timestamp, DecodeError> {
        Err(self.invalid(member))
    }

    fn document(&mut self, member: &'static Member) -> Result<Document, DecodeError> {
        Err(self.invalid(member))
    }

    fn structure(&mut self, _: &'static Member, into: &mut dyn Shape) -> Result<(), DecodeError> {
        fill(into, self.0)
    }

    fn list(
        &mut self,
        member: &'static Member,
        take: &mut TakeItem<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::List(item) = &member.target.kind else { return Err(self.invalid(member)) };
        for value in self.0.as_array().ok_or_else(|| self.invalid(member))? {
            take(item, &mut Json(value))?;
        }
        Ok(())
    }

    fn map(&mut self, member: &'static Member, _: &mut TakeEntry<'_>) -> Result<(), DecodeError> {
        Err(self.invalid(member))
    }
}
