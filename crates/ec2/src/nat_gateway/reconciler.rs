//! Moves NAT gateways on; the states are drawn in [`super`].

use crate::interface;
use crate::record::{NatGateway, Progress, key};
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};

/// How long a gateway that is gone is shown (VPC User Guide, "Work with NAT gateways").
const SHOWN: i64 = 3_600_000;

/// The reconciler of NAT gateways.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "nat-gateway", for_network: false, work_key, run };

/// A gateway's own record is its work.
fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    (kind == key::NAT_GATEWAY).then(|| record_key.to_owned())
}

fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((_, _, account, _)) = key::parts(work_key) else { return Ok(()) };
    let Some(found) = call.peek::<NatGateway>(work_key)? else { return Ok(()) };
    let mut gateway = NatGateway::clone(&found);
    let now = crate::instance::whole_second(call.now);
    match gateway.state {
        Progress::Pending if gateway.failure.is_some() => {
            gateway.state = Progress::Failed;
            gateway.deleted = Some(now);
        }
        Progress::Pending => gateway.state = Progress::Available,
        Progress::Deleting => {
            interface::delete_by_id(call, account, &gateway.interface_id)?;
            gateway.state = Progress::Deleted;
            gateway.deleted = Some(now);
        }
        Progress::Deleted | Progress::Failed => {
            let until = gateway.deleted.unwrap_or(gateway.created).plus_millis(SHOWN);
            if call.now >= until {
                call.delete(work_key);
            } else {
                call.effect(Effect::Again(until));
            }
            return Ok(());
        }
        Progress::Available => return Ok(()),
    }
    call.put(work_key, gateway);
    Ok(())
}
