//! Moves instances on: compares each record with what the driver says of its machine.
//!
//! ```text
//!   RunInstances                      StartInstances
//!        │                                  │
//!        ▼            machine runs          ▼
//!     pending ──────────────────────►    running ◄──┐ status checks
//!        │  │                            │  │  └────┘
//!        │  │ launch failed    StopInst. │  │ guest powers off, machine dies
//!        │  │                            ▼  │
//!        │  │   start failed      stopping  │
//!        │  ├──────────────┐          │ off │
//!        │  │              ▼          ▼     ▼
//!        │  │            stopped (public address released) ──► StartInstances
//!        │  ▼
//!        └─► shutting-down ◄── TerminateInstances (any state); guest powers off and
//!                  │           InstanceInitiatedShutdownBehavior is terminate
//!                  │ machine is gone
//!                  ▼
//!             terminated (interface and claims deleted, volumes deleting) ── one hour ──► no record
//! ```
//!
//! Attachments of a running instance are `attaching` until the driver says that the machine has the
//! volume or interface, and `detaching` until it has let go; a machine that is off has what it is to
//! have.
//!
//! [`step`] is the plan: pure, a function of record, observation and time. [`run`] reads, asks it,
//! stages its change as one transaction and tells the driver the state that is wanted then. Handlers
//! make the moves with an operation's name; nothing else moves an instance.
//!
//! A launch costs one transaction here: the first run only tells the driver, which announces the
//! machine, and the second writes `running` and its status check together. That wakes a third, which
//! finds that nothing is to be told: the machine runs as it should, and the fingerprint of what its
//! spec is made of is that of the spec which the driver got last.

use crate::interface;
use crate::machine_plan::{self, Place, Sources};
use crate::record::{
    AttachedVolume, AttachmentState, Instance, InstanceState, Interface, SecurityGroup,
    StateReason, Subnet, Volume, VolumeState, Vpc, key,
};
use base::Timestamp;
use base::machine::{ExitCause, InterfaceState, State};
use base::volume;
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::sync::Arc;

/// How long a terminated instance stays visible, in the region's milliseconds.
const VISIBLE_MILLIS: i64 = 3_600_000;

/// The reconciler of instances.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "instance", for_network: false, work_key, run };

/// An instance's own record is its work.
fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    (kind == key::INSTANCE).then(|| record_key.to_owned())
}

/// What an observation makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The machine runs; with the verdict of its status check.
    Running(Option<bool>),
    /// The status check says something else.
    Reachable(Option<bool>),
    /// The machine is off. A reason replaces the one that the request left.
    Stopped(Option<StateReason>),
    /// The machine must go, for this reason.
    ShuttingDown(StateReason),
    /// The machine is gone. A reason replaces the one that the request left.
    Terminated(Option<StateReason>),
    /// The instance was visible long enough.
    Expired,
}

/// The plan of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Change the record, then do as the record says.
    Change(Change),
    /// Tell the driver what the record wants.
    Drive,
    /// Nothing before this time.
    Wait(Timestamp),
    /// Record and machine agree, and the machine needs no telling.
    Rest,
}

fn reason(code: &str, message: String) -> StateReason {
    StateReason { code: code.to_owned(), message: format!("{code}: {message}") }
}

/// StateReason of a machine that this region lost; `text` says how.
fn internal(what: &str, text: &str) -> StateReason {
    reason("Server.InternalError", format!("{what}: {text}"))
}

/// What to do about an instance of which the driver says `observed`.
pub(crate) fn step(instance: &Instance, observed: &State, now: Timestamp) -> Step {
    use InstanceState as Is;
    match (instance.state, observed) {
        // On its way up, or up.
        (Is::Pending, State::Running { start, reachable, .. }) if *start >= instance.start => {
            Step::Change(Change::Running(*reachable))
        }
        (Is::Running, State::Running { start, reboots, reachable })
            if *start >= instance.start && *reachable != instance.reachable =>
        {
            // While a reboot is due the old verdict says nothing of the new boot.
            let verdict = if *reboots < instance.reboots { None } else { *reachable };
            if verdict == instance.reachable {
                Step::Drive
            } else {
                Step::Change(Change::Reachable(verdict))
            }
        }
        (Is::Pending | Is::Running, State::Exited { start, cause }) if *start >= instance.start => {
            Step::Change(ended(instance, cause))
        }
        (Is::Pending | Is::Running, State::Failed { start, message })
            if *start >= instance.start =>
        {
            if instance.state == Is::Pending && instance.start == 1 {
                Step::Change(Change::ShuttingDown(internal("Internal error on launch", message)))
            } else {
                Step::Change(Change::Stopped(Some(internal("Internal error on start", message))))
            }
        }
        // On its way down, or down.
        (Is::Stopping, State::Exited { .. } | State::Failed { .. }) => {
            Step::Change(Change::Stopped(None))
        }
        (Is::Stopped, State::Exited { .. } | State::Failed { .. }) => Step::Rest,
        (Is::ShuttingDown, State::Gone) => Step::Change(Change::Terminated(None)),
        (Is::Pending | Is::Running | Is::Stopping | Is::Stopped, State::Gone) => {
            Step::Change(Change::Terminated(Some(internal(
                "Internal error",
                "the machine and its disks are gone from their node",
            ))))
        }
        (Is::Terminated, _) => {
            let until = instance.state_changed.plus_millis(VISIBLE_MILLIS);
            if now >= until { Step::Change(Change::Expired) } else { Step::Wait(until) }
        }
        // The driver is not there yet, or was started anew: tell it again, which costs nothing.
        _ => Step::Drive,
    }
}

/// What becomes of an instance whose machine ended without a request.
fn ended(instance: &Instance, cause: &ExitCause) -> Change {
    match cause {
        ExitCause::GuestShutdown => {
            let reason = reason(
                "Client.InstanceInitiatedShutdown",
                "Instance initiated shutdown".to_owned(),
            );
            if instance.terminate_on_shutdown {
                Change::ShuttingDown(reason)
            } else {
                Change::Stopped(Some(reason))
            }
        }
        ExitCause::Died(how) => Change::Stopped(Some(internal("Internal error", how))),
        ExitCause::Requested => Change::Stopped(Some(internal(
            "Internal error",
            "the machine was stopped although it was wanted",
        ))),
    }
}

/// One run for one instance.
fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((region, _, account, id)) = key::parts(work_key) else { return Ok(()) };
    let observed = call.environment.driver.state(id);
    let Some(instance) = call.get::<Instance>(work_key)? else {
        // Deleted, in the regular course of things or with the whole state.
        match observed {
            State::Absent => {}
            State::Gone => call.effect(Effect::Forget(id.to_owned())),
            _ => call.effect(Effect::Apply(Box::new(machine_plan::orphan(id, region)), None)),
        }
        return Ok(());
    };
    match step(&instance, &observed, call.now) {
        Step::Change(change) => {
            // Neither changes what is wanted of the machine; the run that this one's commit wakes
            // sees to the rest of the record.
            let is_verdict = matches!(change, Change::Running(_) | Change::Reachable(_));
            let changed = apply(call, account, work_key, &instance, change)?;
            if let Some(changed) = changed.filter(|_| !is_verdict) {
                drive(call, account, &changed, &observed)?;
            }
        }
        Step::Drive => drive(call, account, &instance, &observed)?,
        Step::Wait(until) => call.effect(Effect::Again(until)),
        Step::Rest => {}
    }
    Ok(())
}

/// Stages a change. The changed record, if there still is one.
fn apply(
    call: &mut Call<'_>,
    account: &str,
    work_key: &str,
    instance: &Instance,
    change: Change,
) -> Result<Option<Arc<Instance>>, Error> {
    let mut next = instance.clone();
    let mut move_to = |state: InstanceState| {
        next.state = state;
        next.state_changed = call.now;
        next.reachable = None;
    };
    match change {
        Change::Running(reachable) => {
            move_to(InstanceState::Running);
            next.reachable = reachable;
            next.state_reason = None;
            next.transition_reason.clear();
        }
        Change::Reachable(reachable) => next.reachable = reachable,
        Change::Stopped(reason) => {
            move_to(InstanceState::Stopped);
            next.force_stop = false;
            if let Some(reason) = reason {
                next.state_reason = Some(reason);
                next.transition_reason.clear();
            }
            release_public_address(call, account, &mut next)?;
            settle_off(call, account, &mut next)?;
        }
        Change::ShuttingDown(reason) => {
            move_to(InstanceState::ShuttingDown);
            next.state_reason = Some(reason);
            next.transition_reason.clear();
        }
        Change::Terminated(reason) => {
            move_to(InstanceState::Terminated);
            if let Some(reason) = reason {
                next.state_reason = Some(reason);
                next.transition_reason.clear();
            }
            release_public_address(call, account, &mut next)?;
            release_interfaces(call, account, &mut next)?;
            release_volumes(call, account, &mut next)?;
            next.user_data = None;
        }
        Change::Expired => {
            call.delete(work_key);
            call.effect(Effect::Forget(instance.id.clone()));
            return Ok(None);
        }
    }
    Ok(Some(call.put(work_key, next)))
}

/// Gives an automatic public address back; an elastic one stays.
fn release_public_address(
    call: &mut Call<'_>,
    account: &str,
    instance: &mut Instance,
) -> Result<(), Error> {
    let Some(address) = instance.public_ip else { return Ok(()) };
    let at = key::of(call.region, key::INTERFACE, account, &instance.interface_id);
    let interface = call.get::<Interface>(&at)?;
    if interface.as_ref().is_some_and(|interface| interface.elastic.is_some()) {
        return Ok(());
    }
    instance.public_ip = None;
    interface::release(call, address, &instance.interface_id)?;
    if let Some(interface) = interface {
        let mut interface = Interface::clone(&interface);
        interface.public_ip = None;
        call.put(&at, interface);
    }
    Ok(())
}

/// Deletes the interfaces of a terminated instance with their addresses, or leaves them available.
fn release_interfaces(
    call: &mut Call<'_>,
    account: &str,
    instance: &mut Instance,
) -> Result<(), Error> {
    let more = std::mem::take(&mut instance.more_interfaces);
    let more = more.into_iter().map(|place| place.interface_id);
    for id in std::iter::once(instance.interface_id.clone()).chain(more) {
        let at = key::of(call.region, key::INTERFACE, account, &id);
        let Some(interface) = call.get::<Interface>(&at)? else { continue };
        // One that is somebody else's by now is none of this instance's.
        let own = interface.attachment.as_ref().filter(|a| a.instance_id == instance.id);
        let Some(attachment) = own else { continue };
        if attachment.delete_on_termination && attachment.state != AttachmentState::Detaching {
            interface::delete(call, account, &interface)?;
        } else {
            let mut interface = Interface::clone(&interface);
            interface.attachment = None;
            call.put(&at, interface);
        }
    }
    instance.public_ip = None;
    Ok(())
}

/// Takes a volume from the instance. Deleted on termination, it goes with its last instance.
fn release_volume(
    call: &mut Call<'_>,
    account: &str,
    instance_id: &str,
    attached: &AttachedVolume,
    is_deleted: bool,
) -> Result<(), Error> {
    let at = key::of(call.region, key::VOLUME, account, &attached.volume_id);
    let Some(found) = call.get::<Volume>(&at)? else { return Ok(()) };
    let mut volume = Volume::clone(&found);
    volume.attachments.retain(|id| id != instance_id);
    if is_deleted && volume.attachments.is_empty() {
        volume.state = VolumeState::Deleting;
    }
    call.put(&at, volume);
    Ok(())
}

/// Deletes the volumes of a terminated instance that go with it; the others become available.
fn release_volumes(
    call: &mut Call<'_>,
    account: &str,
    instance: &mut Instance,
) -> Result<(), Error> {
    for attached in std::mem::take(&mut instance.volumes) {
        let is_deleted = attached.delete_on_termination;
        release_volume(call, account, &instance.id, &attached, is_deleted)?;
    }
    Ok(())
}

/// A machine that is off has the volumes and interfaces that it is to have.
fn settle_off(call: &mut Call<'_>, account: &str, instance: &mut Instance) -> Result<(), Error> {
    for mut attached in std::mem::take(&mut instance.volumes) {
        if attached.state == AttachmentState::Detaching {
            release_volume(call, account, &instance.id, &attached, false)?;
        } else {
            attached.state = AttachmentState::Attached;
            instance.volumes.push(attached);
        }
    }
    for place in std::mem::take(&mut instance.more_interfaces) {
        let at = key::of(call.region, key::INTERFACE, account, &place.interface_id);
        let Some(found) = call.get::<Interface>(&at)? else { continue };
        let mut interface = Interface::clone(&found);
        match &mut interface.attachment {
            Some(attachment) if attachment.state != AttachmentState::Detaching => {
                attachment.state = AttachmentState::Attached;
                instance.more_interfaces.push(place);
            }
            attachment => *attachment = None,
        }
        if interface != *found {
            call.put(&at, interface);
        }
    }
    Ok(())
}

/// What becomes of an attachment to a running machine; `None` while it is on its way. `was_told` says
/// whether the driver knows the wish that it belongs to.
pub(crate) fn settled(
    instance_id: &str,
    attached: AttachmentState,
    volume: &volume::State,
    was_told: bool,
) -> Option<Settled> {
    let is_there = match volume {
        volume::State::Ready(ready) => ready.attached.iter().any(|id| id == instance_id),
        // It may be there: whoever has just started does not know yet.
        volume::State::Absent | volume::State::Creating => attached == AttachmentState::Detaching,
        volume::State::Failed { .. } | volume::State::Deleting { .. } | volume::State::Gone => {
            false
        }
    };
    match attached {
        AttachmentState::Attaching if is_there => Some(Settled::Attached),
        AttachmentState::Detaching if was_told && !is_there => Some(Settled::Detached),
        _ => None,
    }
}

/// See [`settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The machine has it.
    Attached,
    /// It has let go of it.
    Detached,
}

/// Writes down which volumes a running machine really has. Whether anything changed; the ids of
/// those that are on their way.
fn settle(
    call: &mut Call<'_>,
    account: &str,
    instance: &Instance,
    was_told: bool,
) -> Result<(bool, Vec<String>), Error> {
    let mut waiting = Vec::new();
    let mut next: Option<Instance> = None;
    for attached in instance.volumes.iter().filter(|v| v.state != AttachmentState::Attached) {
        let id = &attached.volume_id;
        let observed = call.environment.driver.volume_state(id);
        let Some(outcome) = settled(&instance.id, attached.state, &observed, was_told) else {
            waiting.push(id.clone());
            continue;
        };
        let next = next.get_or_insert_with(|| instance.clone());
        match outcome {
            Settled::Attached => {
                for known in next.volumes.iter_mut().filter(|known| known.volume_id == *id) {
                    known.state = AttachmentState::Attached;
                }
            }
            Settled::Detached => {
                next.volumes.retain(|known| known.volume_id != *id);
                release_volume(call, account, &instance.id, attached, false)?;
            }
        }
        call.effect(Effect::Unlisten(id.clone()));
    }
    let changed = next.is_some();
    if let Some(next) = next {
        let at = key::of(call.region, key::INSTANCE, account, &instance.id);
        call.put(&at, next);
    }
    Ok((changed, waiting))
}

/// What becomes of an interface's attachment to a running machine; `None` while it is on its way.
pub(crate) fn settled_interface(
    attached: AttachmentState,
    observed: InterfaceState,
    was_told: bool,
) -> Option<Settled> {
    match (attached, observed) {
        (AttachmentState::Attaching, InterfaceState::In) => Some(Settled::Attached),
        (AttachmentState::Detaching, InterfaceState::Out) if was_told => Some(Settled::Detached),
        _ => None,
    }
}

/// Writes down which interfaces a running machine really has. Whether the instance's record changed;
/// the ids of those that are on their way.
fn settle_interfaces(
    call: &mut Call<'_>,
    account: &str,
    instance: &Instance,
    places: &[Place],
    was_told: bool,
) -> Result<(bool, Vec<String>), Error> {
    let mut waiting = Vec::new();
    let mut gone = Vec::new();
    for place in places.iter().skip(1) {
        let interface = &place.interface;
        let Some(attachment) = &interface.attachment else { continue };
        if attachment.state == AttachmentState::Attached {
            continue;
        }
        let observed = call.environment.driver.interface_state(&instance.id, &interface.id);
        let Some(outcome) = settled_interface(attachment.state, observed, was_told) else {
            waiting.push(interface.id.clone());
            continue;
        };
        let mut next = Interface::clone(interface);
        match outcome {
            Settled::Attached => {
                if let Some(attachment) = &mut next.attachment {
                    attachment.state = AttachmentState::Attached;
                }
            }
            Settled::Detached => {
                interface::detach(&mut next, call.now);
                gone.push(interface.id.clone());
            }
        }
        call.put(&key::of(call.region, key::INTERFACE, account, &interface.id), next);
        call.effect(Effect::Unlisten(interface.id.clone()));
    }
    if gone.is_empty() {
        return Ok((false, waiting));
    }
    let at = key::of(call.region, key::INSTANCE, account, &instance.id);
    // What was settled of its volumes is staged already.
    if let Some(staged) = call.get::<Instance>(&at)? {
        let mut next = Instance::clone(&staged);
        next.more_interfaces.retain(|place| !gone.contains(&place.interface_id));
        call.put(&at, next);
    }
    Ok((true, waiting))
}

/// The interfaces of an instance with what they stand in. What this transaction staged counts; what
/// it only reads here may change without a conflict, since every change wakes this reconciler again.
fn places(call: &mut Call<'_>, account: &str, instance: &Instance) -> Result<Vec<Place>, Error> {
    let region = call.region;
    let at = |kind: &str, id: &str| key::of(region, kind, account, id);
    let more = instance.more_interfaces.iter().map(|place| &place.interface_id);
    let mut places: Vec<Place> = Vec::with_capacity(1 + instance.more_interfaces.len());
    for id in std::iter::once(&instance.interface_id).chain(more) {
        let Some(interface) = call.get::<Interface>(&at(key::INTERFACE, id))? else { continue };
        let subnet = call.peek::<Subnet>(&at(key::SUBNET, &interface.subnet_id))?;
        let vpc = call.peek::<Vpc>(&at(key::VPC, &interface.vpc_id))?;
        let mut group_names = Vec::with_capacity(interface.groups.len());
        for id in &interface.groups {
            let group = call.peek::<SecurityGroup>(&at(key::SECURITY_GROUP, id))?;
            group_names.extend(group.map(|group| group.name.clone()));
        }
        places.push(Place { interface, subnet, vpc, group_names });
    }
    Ok(places)
}

/// Whether the machine is up as the record wants it.
fn is_up(instance: &Instance, observed: &State) -> bool {
    matches!(instance.state, InstanceState::Pending | InstanceState::Running)
        && matches!(observed, State::Running { start, reboots, .. }
            if *start >= instance.start && *reboots >= instance.reboots)
}

/// Tells the driver what a record wants, unless the machine is up and the driver has been told.
fn drive(
    call: &mut Call<'_>,
    account: &str,
    instance: &Instance,
    observed: &State,
) -> Result<(), Error> {
    let Some(wanted) = machine_plan::wanted(instance) else {
        let until = instance.state_changed.plus_millis(VISIBLE_MILLIS);
        call.effect(Effect::Again(until));
        return Ok(());
    };
    let places = places(call, account, instance)?;
    let sources = Sources { region: call.region, account, instance, places: &places };
    let fingerprint = machine_plan::fingerprint(&sources, wanted);
    let was_told = call.applied() == Some(fingerprint);
    if !(was_told && is_up(instance, observed)) {
        let spec = machine_plan::spec(&sources, wanted);
        call.effect(Effect::Apply(Box::new(spec), Some(fingerprint)));
    }
    if instance.state == InstanceState::Running {
        let (volumes, waiting) = settle(call, account, instance, was_told)?;
        let (interfaces, also) = settle_interfaces(call, account, instance, &places, was_told)?;
        // A change wakes this reconciler again.
        for id in waiting.into_iter().chain(also).filter(|_| !volumes && !interfaces) {
            call.effect(Effect::Listen(id));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
