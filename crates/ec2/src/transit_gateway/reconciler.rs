//! Moves transit gateways, attachments and route tables on.
//!
//! [`step`] is the plan: pure, a function of a record's state and the time. Nothing here waits for
//! the node: what is available is in the plan of the network from then on
//! ([`crate::network_plan`]), and what is being deleted is in it no longer.

use crate::record::{
    Progress, TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable, key,
};
use base::Timestamp;
use service::call::Record;
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::sync::Arc;

/// How long what is deleted is shown, milliseconds.
pub(crate) const SHOWN_MILLIS: i64 = 3_600_000;

/// The reconciler of transit gateways and their parts.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "transit-gateway", for_network: false, work_key, run };

fn work_key(record_key: &str) -> Option<String> {
    const KINDS: [&str; 3] =
        [key::TRANSIT_GATEWAY, key::TRANSIT_GATEWAY_ATTACHMENT, key::TRANSIT_GATEWAY_ROUTE_TABLE];
    let (_, kind, ..) = key::parts(record_key)?;
    KINDS.contains(&kind).then(|| record_key.to_owned())
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The record says another state.
    Become(Progress),
    /// Nothing before this time.
    Wait(Timestamp),
    /// The record goes.
    Remove,
    /// Nothing until somebody asks.
    Rest,
}

/// What comes next for a record in `state` that was deleted at a time.
pub(crate) fn step(state: Progress, deleted: Option<Timestamp>, now: Timestamp) -> Step {
    match (state, deleted) {
        (Progress::Pending, _) => Step::Become(Progress::Available),
        (Progress::Deleting, _) => Step::Become(Progress::Deleted),
        (Progress::Deleted | Progress::Failed, Some(deleted)) => {
            let until = deleted.plus_millis(SHOWN_MILLIS);
            if now >= until { Step::Remove } else { Step::Wait(until) }
        }
        (Progress::Available | Progress::Deleted | Progress::Failed, _) => Step::Rest,
    }
}

/// A record that [`step`] moves on.
trait Moving: Record {
    fn place(&mut self) -> (&mut Progress, &mut Option<Timestamp>);
}

macro_rules! moving {
    ($($record:ty),*) => {
        $(impl Moving for $record {
            fn place(&mut self) -> (&mut Progress, &mut Option<Timestamp>) {
                (&mut self.state, &mut self.deleted)
            }
        })*
    };
}

moving!(TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable);

/// Stages the next step of a record.
fn advance<T: Moving>(call: &mut Call<'_>, work_key: &str, record: &Arc<T>) {
    let mut next = T::clone(record);
    let now = call.now;
    let (state, deleted) = next.place();
    match step(*state, *deleted, now) {
        Step::Become(other) => {
            *state = other;
            if other == Progress::Deleted {
                *deleted = Some(now);
            }
            call.put(work_key, next);
        }
        Step::Wait(until) => call.effect(Effect::Again(until)),
        Step::Remove => call.delete(work_key),
        Step::Rest => {}
    }
}

fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((_, kind, account, _)) = key::parts(work_key) else { return Ok(()) };
    match kind {
        key::TRANSIT_GATEWAY => {
            if let Some(gateway) = call.peek::<TransitGateway>(work_key)? {
                advance(call, work_key, &gateway);
            }
        }
        key::TRANSIT_GATEWAY_ROUTE_TABLE => {
            if let Some(table) = call.peek::<TransitGatewayRouteTable>(work_key)? {
                advance(call, work_key, &table);
            }
        }
        _ => {
            let Some(attachment) = call.peek::<TransitGatewayAttachment>(work_key)? else {
                return Ok(());
            };
            // It waits for its other side.
            if attachment.pending_acceptance && attachment.state == Progress::Pending {
                return Ok(());
            }
            if attachment.state == Progress::Deleting && !attachment.interface_ids.is_empty() {
                for interface_id in &attachment.interface_ids {
                    crate::interface::delete_by_id(call, account, interface_id)?;
                }
                let mut next = TransitGatewayAttachment::clone(&attachment);
                next.interface_ids.clear();
                call.put(work_key, next);
                return Ok(());
            }
            advance(call, work_key, &attachment);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_record() {
        let (now, hour) = (Timestamp(10_000_000), Timestamp(10_000_000 + SHOWN_MILLIS));
        assert_eq!(step(Progress::Pending, None, now), Step::Become(Progress::Available));
        assert_eq!(step(Progress::Available, None, now), Step::Rest);
        assert_eq!(step(Progress::Deleting, None, now), Step::Become(Progress::Deleted));
        for ended in [Progress::Deleted, Progress::Failed] {
            assert_eq!(step(ended, Some(now), now), Step::Wait(hour));
            assert_eq!(step(ended, Some(now), hour), Step::Remove);
        }
    }

    #[test]
    fn every_record_is_its_own_work() {
        let at = "/us-east-1/transit-gateway-attachment/123456789012/tgw-attach-1";
        assert_eq!(work_key(at).as_deref(), Some(at));
        assert_eq!(work_key("/us-east-1/vpc/123456789012/vpc-1"), None);
    }
}
