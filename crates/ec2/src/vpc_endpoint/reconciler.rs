//! Moves endpoints on: as transit gateways, and an endpoint that is being deleted gives its
//! interfaces back.

use crate::interface;
use crate::record::{Progress, VpcEndpoint, key};
use crate::transit_gateway::reconciler::{Step, step};
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};

/// The reconciler of VPC endpoints.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "vpc-endpoint", for_network: false, work_key, run };

/// An endpoint's own record is its work.
fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    (kind == key::VPC_ENDPOINT).then(|| record_key.to_owned())
}

fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((_, _, account, _)) = key::parts(work_key) else { return Ok(()) };
    let Some(endpoint) = call.peek::<VpcEndpoint>(work_key)? else { return Ok(()) };
    match step(endpoint.state, endpoint.deleted, call.now) {
        // Of a gateway endpoint nothing is left to see.
        Step::Become(Progress::Deleted) if endpoint.gateway => call.delete(work_key),
        Step::Become(Progress::Deleted) => {
            for interface_id in &endpoint.interface_ids {
                interface::delete_by_id(call, account, interface_id)?;
            }
            let gone = VpcEndpoint {
                state: Progress::Deleted,
                deleted: Some(call.now),
                interface_ids: Vec::new(),
                ..VpcEndpoint::clone(&endpoint)
            };
            call.put(work_key, gone);
        }
        Step::Become(state) => {
            call.put(work_key, VpcEndpoint { state, ..VpcEndpoint::clone(&endpoint) });
        }
        Step::Wait(until) => call.effect(Effect::Again(until)),
        Step::Remove => call.delete(work_key),
        Step::Rest => {}
    }
    Ok(())
}
