//! Records by their ids, or all of an account's: what describing operations begin with.

use crate::record::key;
use service::call::Record;
use service::{Call, Error};
use std::sync::Arc;

/// The id of a resource: its prefix, and how AWS words that it is wrong.
#[derive(Debug)]
pub(crate) struct Id {
    /// Without the dash: `rtb`.
    pub(crate) prefix: &'static str,
    /// Kind in the record key.
    pub(crate) kind: &'static str,
    /// Error code of an id that is none.
    pub(crate) malformed: &'static str,
    /// Error code of an id that nothing has.
    pub(crate) missing: &'static str,
    /// As messages name it: `routeTable ID`.
    pub(crate) noun: &'static str,
}

impl Id {
    /// The key of the record with this id; of all of them, with an empty one.
    pub(crate) fn key(&self, call: &Call<'_>, id: &str) -> String {
        key::of(call.region, self.kind, call.account(), id)
    }

    /// Checks the form of an id.
    ///
    /// # Errors
    /// The code of a malformed one.
    pub(crate) fn check(&self, id: &str) -> Result<(), Error> {
        if base::id::is_valid(self.prefix, id) {
            return Ok(());
        }
        let prefix = self.prefix;
        Err(Error::client(
            self.malformed,
            format!("Invalid id: \"{id}\" (expecting \"{prefix}-...\")"),
        ))
    }

    /// The refusal of an id that nothing has.
    pub(crate) fn not_found(&self, id: &str) -> Error {
        Error::client(self.missing, format!("The {} '{id}' does not exist", self.noun))
    }

    /// The record with this id; the commit depends on it.
    ///
    /// # Errors
    /// The id is malformed, or nothing has it.
    pub(crate) fn find<T: Record>(&self, call: &mut Call<'_>, id: &str) -> Result<Arc<T>, Error> {
        self.check(id)?;
        call.get::<T>(&self.key(call, id))?.ok_or_else(|| self.not_found(id))
    }

    /// The records with these ids in the order of the ids, or all when none are given.
    ///
    /// # Errors
    /// An id is malformed, or nothing has it.
    pub(crate) fn described<T: Record>(
        &self,
        call: &Call<'_>,
        ids: Option<Vec<String>>,
    ) -> Result<Vec<Arc<T>>, Error> {
        let mut ids = ids.unwrap_or_default();
        if ids.is_empty() {
            return call.scan::<T>(&self.key(call, ""));
        }
        ids.sort();
        ids.dedup();
        let mut found = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            self.check(&id)?;
            match call.peek::<T>(&self.key(call, &id))? {
                Some(record) => found.push(record),
                None => missing.push(id),
            }
        }
        match missing.as_slice() {
            [] => Ok(found),
            [one] => Err(self.not_found(one)),
            many => Err(Error::client(
                self.missing,
                format!("The {}s '{}' do not exist", self.noun, many.join(", ")),
            )),
        }
    }
}
