//! IAM and STS: who the callers are.
//!
//! So far an account has its root and the root's access keys; users, roles and policies are not
//! built, and their operations answer so. The root may do everything, so there is nothing to
//! evaluate yet: the dispatcher has one place where a policy will be asked.
//!
//! Secrets are kept in the store, because a signature can only be verified with them; they are
//! never logged and never in an answer but the one that creates them.

#![forbid(unsafe_code)]

pub mod access_key;
pub mod sts;

use service::operation::Service;

/// STS as the dispatcher serves it.
pub fn sts_service() -> Service {
    Service {
        model: &model::sts::SERVICE,
        operations: sts::OPERATIONS.iter().collect(),
        set_up: None,
    }
}
