//! StartInstances, StopInstances, RebootInstances and TerminateInstances: changes of the wanted
//! state. A wrong id or state fails the whole request.

use super::{get_all, is_ending, put, state, user_initiated, whole_second};
use crate::launch;
use crate::record::{Instance, InstanceState, Interface, StateReason, key};
use model::ec2 as api;
use service::{Call, Error};
use std::collections::BTreeSet;

fn change(instance: &Instance, now: InstanceState) -> api::InstanceStateChange {
    api::InstanceStateChange {
        current_state: Some(state(now)),
        instance_id: Some(instance.id.clone()),
        previous_state: Some(state(instance.state)),
    }
}

fn incorrect_state(message: String) -> Error {
    Error::client("IncorrectInstanceState", message)
}

/// StateReason of an instance on its way up.
pub(crate) fn pending() -> Option<StateReason> {
    Some(StateReason { code: "pending".to_owned(), message: "pending".to_owned() })
}

fn user_shutdown() -> Option<StateReason> {
    Some(StateReason {
        code: "Client.UserInitiatedShutdown".to_owned(),
        message: "Client.UserInitiatedShutdown: User initiated shutdown".to_owned(),
    })
}

pub(crate) fn start_instances(
    call: &mut Call<'_>,
    input: api::StartInstancesRequest,
) -> Result<api::StartInstancesResult, Error> {
    let found = get_all(call, input.instance_ids)?;
    let mut changes = Vec::with_capacity(found.len());
    for instance in found {
        match instance.state {
            InstanceState::Pending | InstanceState::Running => {
                changes.push(change(&instance, instance.state));
                continue;
            }
            InstanceState::Stopped => {}
            _ => {
                return Err(incorrect_state(format!(
                    "The instance '{}' is not in a state from which it can be started.",
                    instance.id
                )));
            }
        }
        let root = &instance.root_device_name;
        if instance.volumes.iter().all(|volume| volume.device_name != *root) {
            return Err(Error::invalid_parameter_value(format!(
                "Invalid value '{}' for instanceId. Instance does not have a volume attached at \
                 root ({root})",
                instance.id
            )));
        }
        changes.push(change(&instance, InstanceState::Pending));
        let mut started = Instance::clone(&instance);
        started.state = InstanceState::Pending;
        started.state_reason = pending();
        started.transition_reason.clear();
        started.start = instance.start.saturating_add(1);
        started.force_stop = false;
        started.reachable = None;
        started.launched = whole_second(call.now);
        started.state_changed = call.now;
        // Not with several interfaces (EC2 User Guide, "Public IPv4 addresses").
        let wants = instance.wants_public_ip && instance.more_interfaces.is_empty();
        if wants && instance.public_ip.is_none() {
            started.public_ip = Some(assign_public_address(call, &instance)?);
        }
        put(call, started);
    }
    Ok(api::StartInstancesResult { starting_instances: Some(changes) })
}

/// A new public address for an instance whose last one was released when it stopped.
fn assign_public_address(
    call: &mut Call<'_>,
    instance: &Instance,
) -> Result<std::net::Ipv4Addr, Error> {
    let address = launch::free_public_address(call)?;
    call.put(&key::public_address(address), instance.interface_id.clone());
    let at = key::of(call.region, key::INTERFACE, call.account(), &instance.interface_id);
    if let Some(interface) = call.get::<Interface>(&at)? {
        let mut interface = Interface::clone(&interface);
        interface.public_ip = Some(address);
        call.put(&at, interface);
    }
    Ok(address)
}

pub(crate) fn stop_instances(
    call: &mut Call<'_>,
    input: api::StopInstancesRequest,
) -> Result<api::StopInstancesResult, Error> {
    if input.hibernate == Some(true) {
        return Err(Error::client(
            "UnsupportedHibernationConfiguration",
            "The specified instance is not enabled for hibernation: this region does not \
             hibernate instances yet.",
        ));
    }
    let force = input.force == Some(true) || input.skip_os_shutdown == Some(true);
    let found = get_all(call, input.instance_ids)?;
    let mut changes = Vec::with_capacity(found.len());
    for instance in found {
        if instance.disable_api_stop && !is_ending(&instance) {
            return Err(Error::client(
                "OperationNotPermitted",
                format!(
                    "The instance '{}' may not be stopped. Modify its 'disableApiStop' instance \
                     attribute and try again.",
                    instance.id
                ),
            ));
        }
        let stopping = match instance.state {
            InstanceState::Stopped => {
                changes.push(change(&instance, InstanceState::Stopped));
                continue;
            }
            // A launch may be stopped before it runs: where machines take no time to launch, nobody
            // who stops at once could tell.
            InstanceState::Pending | InstanceState::Running => {
                let mut stopping = Instance::clone(&instance);
                stopping.state = InstanceState::Stopping;
                stopping.state_reason = user_shutdown();
                stopping.transition_reason = user_initiated(call.now);
                stopping.state_changed = call.now;
                stopping.reachable = None;
                stopping.force_stop = force;
                Some(stopping)
            }
            // A guest that does not hear its power button is stopped by asking again with Force.
            InstanceState::Stopping if force && !instance.force_stop => {
                let mut stopping = Instance::clone(&instance);
                stopping.force_stop = true;
                Some(stopping)
            }
            InstanceState::Stopping => None,
            InstanceState::ShuttingDown | InstanceState::Terminated => {
                return Err(incorrect_state(format!(
                    "This instance '{}' is not in a state from which it can be stopped.",
                    instance.id
                )));
            }
        };
        changes.push(change(&instance, InstanceState::Stopping));
        if let Some(stopping) = stopping {
            put(call, stopping);
        }
    }
    Ok(api::StopInstancesResult { stopping_instances: Some(changes) })
}

pub(crate) fn reboot_instances(
    call: &mut Call<'_>,
    input: api::RebootInstancesRequest,
) -> Result<wire::Empty, Error> {
    for instance in get_all(call, input.instance_ids)? {
        match instance.state {
            InstanceState::Running => {
                let mut rebooted = Instance::clone(&instance);
                rebooted.reboots = instance.reboots.saturating_add(1);
                put(call, rebooted);
            }
            // It is on its way up anyway.
            InstanceState::Pending => {}
            // "RebootInstances … ignores terminated instances" (EC2 API Reference).
            InstanceState::ShuttingDown | InstanceState::Terminated => {}
            InstanceState::Stopping | InstanceState::Stopped => {
                return Err(incorrect_state(format!(
                    "The instance '{}' is not in the 'running' state.",
                    instance.id
                )));
            }
        }
    }
    Ok(wire::Empty)
}

pub(crate) fn terminate_instances(
    call: &mut Call<'_>,
    input: api::TerminateInstancesRequest,
) -> Result<api::TerminateInstancesResult, Error> {
    let found = get_all(call, input.instance_ids)?;
    let protected = |instance: &Instance| instance.disable_api_termination && !is_ending(instance);
    let refusal = found.iter().find(|instance| protected(instance)).map(|instance| {
        Error::client(
            "OperationNotPermitted",
            format!(
                "The instance '{}' may not be terminated. Modify its 'disableApiTermination' \
                 instance attribute and try again.",
                instance.id
            ),
        )
    });
    let spared: BTreeSet<String> = found
        .iter()
        .filter(|instance| protected(instance))
        .map(|instance| instance.availability_zone.clone())
        .collect();
    let mut changes = Vec::with_capacity(found.len());
    for instance in found {
        if spared.contains(&instance.availability_zone) {
            continue;
        }
        if is_ending(&instance) {
            changes.push(change(&instance, instance.state));
            continue;
        }
        changes.push(change(&instance, InstanceState::ShuttingDown));
        let mut ending = Instance::clone(&instance);
        ending.state = InstanceState::ShuttingDown;
        ending.state_reason = user_shutdown();
        ending.transition_reason = user_initiated(call.now);
        ending.state_changed = call.now;
        ending.reachable = None;
        put(call, ending);
    }
    // Instances of other zones are terminated although the request fails (EC2 API Reference).
    if let Some(refusal) = refusal {
        call.refuse_partly(refusal);
    }
    Ok(api::TerminateInstancesResult { terminating_instances: Some(changes) })
}
