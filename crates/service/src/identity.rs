//! Who asks: what a verified signature, or an open region, makes of a request.

use store::Snapshot;

/// The principal of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 12 digits.
    pub account_id: String,
    /// `arn:aws:iam::123456789012:root`.
    pub arn: String,
    /// The unique id that GetCallerIdentity shows; the account id for the root.
    pub user_id: String,
}

impl Identity {
    /// The root of an account.
    pub fn root(account_id: &str) -> Self {
        Identity {
            account_id: account_id.to_owned(),
            arn: format!("arn:aws:iam::{account_id}:root"),
            user_id: account_id.to_owned(),
        }
    }

    /// A service at work for an account: `dlm` is the principal `dlm.amazonaws.com`, which has no
    /// ARN on AWS either.
    pub fn service(name: &str, account_id: &str) -> Self {
        let principal = format!("{name}{SERVICE_SUFFIX}");
        Identity { account_id: account_id.to_owned(), arn: principal.clone(), user_id: principal }
    }

    /// Whether a service asks, for whom reserved names (tag keys that start with `aws:`) are free.
    pub fn is_service(&self) -> bool {
        !self.arn.starts_with("arn:") && self.arn.ends_with(SERVICE_SUFFIX)
    }
}

/// Ends the names of service principals.
const SERVICE_SUFFIX: &str = ".amazonaws.com";

/// A secret key with the principal whose requests it signs.
#[derive(Clone)]
pub struct Credential {
    /// Secret access key.
    pub secret: String,
    /// Whose it is.
    pub identity: Identity,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Finds the credential of an access key id in the region's records. The identity service gives
/// the function; `None` is a key that nobody has.
pub type Lookup = fn(&Snapshot, &str) -> Option<Credential>;
