//! Amazon Data Lifecycle Manager: snapshots and AMIs that are made on a schedule and deleted when
//! there are enough of them, or when they are old enough.
//!
//! ```text
//!  policy (a record) ──► plan(policy, now, what there is) ──► actions ──► EC2's operations
//!        ▲                        ▲                                             │
//!        └── progress ────────────┼──────────────── ONE transaction ◄───────────┘
//!                   the region's clock wakes it
//! ```
//!
//! It reaches EC2 as every service reaches another, through the operation table
//! ([`service::invoke`]), as the principal `dlm.amazonaws.com`, and knows what it made by the tags
//! that only services may give. The role of a policy is kept and shown; nothing assumes it.
//!
//! Deliberately not here: event-based policies, pre and post scripts, Outposts and Local Zones;
//! they are refused by name.

#![forbid(unsafe_code)]

mod check;
mod cron;
mod plan;
mod policy;
mod record;
mod run;
mod schedule;

use service::operation::Service;
use service::reconcile::Reconciler;

/// DLM as the dispatcher serves it.
pub fn service() -> Service {
    Service {
        model: &model::dlm::SERVICE,
        operations: policy::OPERATIONS.iter().collect(),
        set_up: None,
    }
}

/// What runs the policies.
pub const RECONCILERS: &[Reconciler] = &[run::RECONCILER];
