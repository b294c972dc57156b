//! MonitorInstances and UnmonitorInstances: a flag that descriptions and IMDS show. Nothing is
//! measured yet.

use super::{get_all, put};
use crate::record::Instance;
use model::ec2 as api;
use service::{Call, Error};

pub(super) fn monitor_instances(
    call: &mut Call<'_>,
    input: api::MonitorInstancesRequest,
) -> Result<api::MonitorInstancesResult, Error> {
    let changed = set(call, input.instance_ids, true)?;
    Ok(api::MonitorInstancesResult { instance_monitorings: Some(changed) })
}

pub(super) fn unmonitor_instances(
    call: &mut Call<'_>,
    input: api::UnmonitorInstancesRequest,
) -> Result<api::UnmonitorInstancesResult, Error> {
    let changed = set(call, input.instance_ids, false)?;
    Ok(api::UnmonitorInstancesResult { instance_monitorings: Some(changed) })
}

fn set(
    call: &mut Call<'_>,
    ids: Option<Vec<String>>,
    enabled: bool,
) -> Result<Vec<api::InstanceMonitoring>, Error> {
    let mut answer = Vec::new();
    for instance in get_all(call, ids)? {
        // The words of the change, which the next description shows as done.
        let state = match (instance.monitoring, enabled) {
            (true, true) => "enabled",
            (false, false) => "disabled",
            (false, true) => "pending",
            (true, false) => "disabling",
        };
        answer.push(api::InstanceMonitoring {
            instance_id: Some(instance.id.clone()),
            monitoring: Some(api::Monitoring { state: Some(state.to_owned()) }),
        });
        if instance.monitoring != enabled {
            let mut changed = Instance::clone(&instance);
            changed.monitoring = enabled;
            put(call, changed);
        }
    }
    Ok(answer)
}
