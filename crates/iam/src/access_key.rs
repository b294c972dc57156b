//! Access keys: an id that everybody may see and a secret that signs.

use serde::{Deserialize, Serialize};
use service::identity::{Credential, Identity};
use service::{Call, Error};
use std::fmt;
use store::Snapshot;

/// A long-lived access key of an account's root.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// Record version, 1.
    pub v: u16,
    /// `AKIA…`, 20 characters.
    pub id: String,
    /// 40 characters.
    pub secret: String,
    /// 12 digits.
    pub account_id: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

fn key(id: &str) -> String {
    format!("/iam/access-key/{id}")
}

/// The credential behind an access key id; the dispatcher's [`service::identity::Lookup`].
pub fn lookup(snapshot: &Snapshot, id: &str) -> Option<Credential> {
    let record = snapshot.get(&key(id))?.decode::<AccessKey>().ok()?;
    Some(Credential { secret: record.secret.clone(), identity: Identity::root(&record.account_id) })
}

/// The access key of the account's root, staged if there is none yet. The caller gives the random
/// text of a new secret, which must come from a cryptographic source.
///
/// # Errors
/// A stored key cannot be read.
pub fn ensure_root(
    call: &mut Call<'_>,
    account_id: &str,
    new_id: &str,
    new_secret: &str,
) -> Result<AccessKey, Error> {
    let existing = call
        .scan::<AccessKey>("/iam/access-key/")?
        .into_iter()
        .find(|access_key| access_key.account_id == account_id);
    if let Some(found) = existing {
        return Ok((*found).clone());
    }
    let record = AccessKey {
        v: 1,
        id: new_id.to_owned(),
        secret: new_secret.to_owned(),
        account_id: account_id.to_owned(),
    };
    Ok((*call.put(&key(new_id), record)).clone())
}
