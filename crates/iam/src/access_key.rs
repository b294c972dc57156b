//! Access keys: an id that everybody may see and a secret that signs.

use serde::{Deserialize, Serialize};
use service::Call;
use service::identity::{Credential, Identity};
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

/// The access key of the account's root, if there is one.
///
/// # Errors
/// A stored key cannot be read.
pub fn root(snapshot: &Snapshot, account_id: &str) -> Result<Option<AccessKey>, store::Error> {
    for kv in snapshot.scan(&key("")) {
        let record = kv.decode::<AccessKey>()?;
        if record.account_id == account_id {
            return Ok(Some((*record).clone()));
        }
    }
    Ok(None)
}

/// Stages an access key for the caller's root. The texts must come from a cryptographic source.
pub fn create_root(call: &mut Call<'_>, id: &str, secret: &str) -> AccessKey {
    let record = AccessKey {
        v: 1,
        id: id.to_owned(),
        secret: secret.to_owned(),
        account_id: call.account().to_owned(),
    };
    (*call.put(&key(id), record)).clone()
}
