//! Plays the scripts `tests/plans/instance-*.txt`: the handlers, the reconciler and its records
//! together, with machines that do what the script says. `GUREUM_BLESS=1` writes the output that it
//! finds; read the difference before you commit it.

use super::*;
use crate::instance;
use crate::launch::run_instances;
use crate::testing::{ACCOUNT, Region};
use base::machine::{Driver, Wanted};
use base::volume::Driver as _;
use model::ec2 as api;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

#[test]
fn scripts() {
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plans");
    let mut played = 0;
    for entry in std::fs::read_dir(plans).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !(name.starts_with("instance-") && name.ends_with(".txt")) {
            continue;
        }
        played += 1;
        let script = std::fs::read_to_string(&path).unwrap();
        let output = play(&script);
        if std::env::var_os("GUREUM_BLESS").is_some() {
            std::fs::write(&path, &output).unwrap();
            continue;
        }
        for (number, (now, then)) in output.lines().zip(script.lines()).enumerate() {
            assert_eq!(now, then, "{name}:{}; GUREUM_BLESS=1 accepts it", number + 1);
        }
        assert_eq!(output.lines().count(), script.lines().count(), "{name}: lines are missing");
    }
    assert!(played > 0, "no scripts");
}

/// The script with what happens now below each of its commands.
fn play(script: &str) -> String {
    let region = Region::new();
    let mut id = String::new();
    let mut output = String::new();
    for line in script.lines() {
        if line.starts_with(' ') {
            continue;
        }
        writeln!(output, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match command(&region, &mut id, line) {
            Ok(()) => {
                let transactions = reconcile(&region, &id);
                output.push_str(&describe(&region, &id, transactions));
            }
            Err(error) => {
                writeln!(output, "    refused: {}", error.to_string().replace(&id, "ID")).unwrap()
            }
        }
    }
    output
}

fn command(region: &Region, id: &mut String, line: &str) -> Result<(), Error> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let ids = || Some(vec![id.clone()]);
    match verb {
        "run-instances" => {
            let request = request(region, rest);
            let answer = region.run(|call| run_instances(call, request))?;
            let instance = answer.instances.unwrap_or_default().pop().unwrap();
            assert_eq!(instance.state.unwrap().name.as_deref(), Some("pending"));
            *id = instance.instance_id.unwrap();
        }
        "start-instances" => {
            let input = api::StartInstancesRequest { instance_ids: ids(), ..Default::default() };
            region.run(|call| instance::tests::start(call, input))?;
        }
        "stop-instances" => {
            let input = api::StopInstancesRequest {
                instance_ids: ids(),
                force: Some(rest == "force"),
                ..Default::default()
            };
            region.run(|call| instance::tests::stop(call, input))?;
        }
        "reboot-instances" => {
            let input = api::RebootInstancesRequest { instance_ids: ids(), ..Default::default() };
            region.run(|call| instance::tests::reboot(call, input))?;
        }
        "terminate-instances" => {
            let input =
                api::TerminateInstancesRequest { instance_ids: ids(), ..Default::default() };
            region.run(|call| instance::tests::terminate(call, input))?;
        }
        "machine" => region.driver.set(id, machine(rest)),
        "minutes" => region.pass(rest.parse::<i64>().unwrap() * 60_000),
        "erase" => region.run(|call| {
            call.delete(&work(id));
            Ok(())
        })?,
        _ => panic!("unknown command: {line}"),
    }
    Ok(())
}

fn request(region: &Region, words: &str) -> api::RunInstancesRequest {
    let mut request = instance::tests::request(region);
    for word in words.split_whitespace() {
        match word {
            "terminate-on-shutdown" => {
                request.instance_initiated_shutdown_behavior = Some("terminate".to_owned());
            }
            "keep-interface" => {
                request.network_interfaces =
                    Some(vec![api::InstanceNetworkInterfaceSpecification {
                        device_index: Some(0),
                        delete_on_termination: Some(false),
                        ..Default::default()
                    }]);
            }
            "data-volume" => {
                request.block_device_mappings = Some(vec![api::BlockDeviceMapping {
                    device_name: Some("/dev/sdf".to_owned()),
                    ebs: Some(api::EbsBlockDevice { volume_size: Some(1), ..Default::default() }),
                    ..Default::default()
                }]);
            }
            _ => panic!("unknown word: {word}"),
        }
    }
    request
}

/// `absent`, `launching N`, `running N REBOOTS [up|down]`, `off N`, `stopped N`, `died N TEXT`,
/// `failed N TEXT` or `gone`.
fn machine(text: &str) -> State {
    let mut words = text.splitn(4, ' ');
    let verb = words.next().unwrap();
    let start = words.next().map_or(0, |word| word.parse().unwrap());
    let mut rest = || words.next().unwrap_or_default().to_owned();
    let exited = |cause| State::Exited { start, cause };
    match verb {
        "absent" => State::Absent,
        "launching" => State::Launching { start },
        "running" => {
            let reboots = rest().parse().unwrap();
            let reachable = match rest().as_str() {
                "" => None,
                verdict => Some(verdict == "up"),
            };
            State::Running { start, reboots, reachable }
        }
        "off" => exited(ExitCause::GuestShutdown),
        "stopped" => exited(ExitCause::Requested),
        "died" => exited(ExitCause::Died(format!("{} {}", rest(), rest()))),
        "failed" => State::Failed { start, message: format!("{} {}", rest(), rest()) },
        "gone" => State::Gone,
        _ => panic!("unknown machine: {text}"),
    }
}

fn work(id: &str) -> String {
    key::of("us-east-1", key::INSTANCE, ACCOUNT, id)
}

/// Runs the reconciler until it writes nothing; how often it wrote. Volumes are there and go as they
/// are told.
pub(crate) fn reconcile(region: &Region, id: &str) -> usize {
    for transactions in 0..10 {
        let wrote = region.run(|call| {
            call.set_applied(region.driver.fingerprint(id));
            run(call, &work(id))?;
            Ok(!call.is_read_only())
        });
        if !wrote.unwrap() {
            volumes_obey(region);
            return transactions;
        }
    }
    panic!("the reconciler does not come to rest");
}

fn volumes_obey(region: &Region) {
    let all = key::of("us-east-1", key::VOLUME, ACCOUNT, "");
    for volume in region.run(|call| call.scan::<Volume>(&all)).unwrap() {
        crate::volume_reconciler::tests::obey(region, &volume.id);
    }
}

fn describe(region: &Region, id: &str, transactions: usize) -> String {
    let mut output = String::new();
    let mut say = |what: &str, text: String| writeln!(output, "    {what}: {text}").unwrap();
    let instance = region.run(|call| call.peek::<Instance>(&work(id))).unwrap();
    if let Some(instance) = &instance {
        let check = match instance.reachable {
            None => "",
            Some(true) => ", check ok",
            Some(false) => ", check impaired",
        };
        say("instance", format!("{}{check}", instance.state.name()));
        if let Some(reason) = &instance.state_reason {
            say("reason", reason.message.clone());
        }
        if !instance.transition_reason.is_empty() {
            say("transition", instance.transition_reason.clone());
        }
        let public = instance.public_ip.is_some();
        let interface = region
            .run(|call| {
                let id = &instance.interface_id;
                call.peek::<Interface>(&key::of("us-east-1", key::INTERFACE, ACCOUNT, id))
            })
            .unwrap();
        if let Some(interface) = interface {
            assert_eq!(interface.public_ip, instance.public_ip);
            assert_eq!(interface.private_ip, instance.private_ip);
        }
        assert!(!public || instance.wants_public_ip);
    }
    let count = |prefix: &str| region.run(|call| Ok(call.snapshot().scan(prefix).count())).unwrap();
    let of_kind = |kind| count(&key::of("us-east-1", kind, ACCOUNT, ""));
    let kept = [
        ("interface", of_kind(key::INTERFACE)),
        ("volume", of_kind(key::VOLUME)),
        ("private address", of_kind(key::PRIVATE_ADDRESS)),
        ("public address", count("/public-address/")),
    ];
    let kept: Vec<String> = kept
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    say("records", if kept.is_empty() { "none".to_owned() } else { kept.join(", ") });
    if let Some(spec) = region.driver.spec(id) {
        let wanted = match spec.wanted {
            Wanted::Running { start, reboots } => format!("run, start {start}, reboots {reboots}"),
            Wanted::Stopped { force: false } => "stop".to_owned(),
            Wanted::Stopped { force: true } => "stop by force".to_owned(),
            Wanted::Terminated => "be gone".to_owned(),
        };
        say("machine was told", wanted);
    }
    say("transactions", transactions.to_string());
    output
}

/// What may happen to a region with one image: requests, and machines that end by themselves.
#[derive(Clone, Copy, Debug)]
enum Event {
    Launch {
        keep_interface: bool,
        terminate_on_shutdown: bool,
    },
    Start(usize),
    Stop(usize, bool),
    Reboot(usize),
    Terminate(usize),
    /// The machine gets as far as it was told.
    Obey(usize),
    /// The guest lets go of what it is to let go of, and has what it is to have.
    Hold(usize),
    Attach(usize, usize),
    Detach(usize, bool),
    PowerOff(usize),
    Die(usize),
    Fail(usize),
    /// The daemon was started anew.
    Forget(usize),
    Reconcile(usize),
    Hour,
}

fn any_event() -> impl Strategy<Value = Event> {
    let of = 0..4usize;
    prop_oneof![
        2 => any::<(bool, bool)>().prop_map(|(keep_interface, terminate_on_shutdown)| {
            Event::Launch { keep_interface, terminate_on_shutdown }
        }),
        3 => of.clone().prop_map(Event::Start),
        3 => (of.clone(), any::<bool>()).prop_map(|(n, force)| Event::Stop(n, force)),
        1 => of.clone().prop_map(Event::Reboot),
        1 => of.clone().prop_map(Event::Terminate),
        6 => of.clone().prop_map(Event::Obey),
        3 => of.clone().prop_map(Event::Hold),
        3 => (of.clone(), 0..3usize).prop_map(|(n, volume)| Event::Attach(n, volume)),
        3 => (0..3usize, any::<bool>()).prop_map(|(volume, force)| Event::Detach(volume, force)),
        1 => of.clone().prop_map(Event::PowerOff),
        1 => of.clone().prop_map(Event::Die),
        1 => of.clone().prop_map(Event::Fail),
        1 => of.clone().prop_map(Event::Forget),
        6 => of.prop_map(Event::Reconcile),
        1 => Just(Event::Hour),
    ]
}

/// What the last wish makes of the machine.
fn obey(region: &Region, id: &str) {
    let Some(spec) = region.driver.spec(id) else { return };
    let state = match (spec.wanted, region.driver.state(id)) {
        (_, State::Gone) => State::Gone,
        (Wanted::Terminated, _) => State::Gone,
        (Wanted::Running { start, .. }, State::Exited { start: ended, cause })
            if start <= ended =>
        {
            State::Exited { start: ended, cause }
        }
        (Wanted::Running { start, .. }, State::Failed { start: failed, message })
            if start <= failed =>
        {
            State::Failed { start: failed, message }
        }
        (Wanted::Running { start, reboots }, _) => {
            State::Running { start, reboots, reachable: Some(true) }
        }
        (Wanted::Stopped { .. }, State::Running { start, .. } | State::Launching { start }) => {
            State::Exited { start, cause: ExitCause::Requested }
        }
        (Wanted::Stopped { .. }, State::Absent) => {
            State::Exited { start: 0, cause: ExitCause::Requested }
        }
        (Wanted::Stopped { .. }, other) => other,
    };
    region.driver.set(id, state);
}

/// The machine has the volumes of its last spec while it runs, and none while it does not.
fn hold(region: &Region, id: &str) {
    let runs = matches!(region.driver.state(id), State::Running { .. });
    let spec = region.driver.spec(id);
    let wanted = |volume: &str| {
        runs && spec.as_ref().is_some_and(|spec| spec.volumes.iter().any(|v| v.id == volume))
    };
    let all = key::of("us-east-1", key::VOLUME, ACCOUNT, "");
    for record in region.run(|call| call.scan::<Volume>(&all)).unwrap() {
        let volume::State::Ready(mut ready) = region.driver.volume_state(&record.id) else {
            continue;
        };
        ready.attached.retain(|machine| machine != id);
        if wanted(&record.id) {
            ready.attached.push(id.to_owned());
        }
        region.driver.set_volume(&record.id, volume::State::Ready(ready));
    }
}

fn happen(region: &Region, ids: &mut Vec<String>, volumes: &[String], event: Event) {
    let one = |n: usize| (!ids.is_empty()).then(|| ids[n % ids.len()].clone());
    let up = |id: &str| match region.driver.state(id) {
        State::Running { start, .. } | State::Launching { start } => Some(start),
        _ => None,
    };
    let line = match event {
        Event::Launch { keep_interface, terminate_on_shutdown } => {
            if ids.len() < 4 {
                let mut words = "run-instances data-volume".to_owned();
                words.push_str(if keep_interface { " keep-interface" } else { "" });
                words.push_str(if terminate_on_shutdown { " terminate-on-shutdown" } else { "" });
                let mut id = String::new();
                command(region, &mut id, &words).unwrap();
                ids.push(id);
            }
            return;
        }
        Event::Hour => return region.pass(3_600_000),
        Event::Start(n) => one(n).map(|id| (id, "start-instances".to_owned())),
        Event::Stop(n, false) => one(n).map(|id| (id, "stop-instances".to_owned())),
        Event::Stop(n, true) => one(n).map(|id| (id, "stop-instances force".to_owned())),
        Event::Reboot(n) => one(n).map(|id| (id, "reboot-instances".to_owned())),
        Event::Terminate(n) => one(n).map(|id| (id, "terminate-instances".to_owned())),
        Event::Obey(n) => {
            return one(n).into_iter().for_each(|id| obey(region, &id));
        }
        Event::Hold(n) => {
            return one(n).into_iter().for_each(|id| hold(region, &id));
        }
        Event::Attach(n, volume) => {
            if let Some(id) = one(n) {
                let device = format!("/dev/sd{}", ["g", "h", "i"][volume]);
                // A refusal is an answer too.
                let _ = crate::volume::tests::try_attach(region, &volumes[volume], &id, &device);
            }
            return;
        }
        Event::Detach(volume, force) => {
            let _ = crate::volume::tests::try_detach(region, &volumes[volume], force);
            return;
        }
        Event::Reconcile(n) => {
            return one(n).into_iter().for_each(|id| {
                reconcile(region, &id);
            });
        }
        Event::PowerOff(n) => {
            one(n).and_then(|id| up(&id).map(|start| (id, format!("machine off {start}"))))
        }
        Event::Die(n) => {
            one(n).and_then(|id| up(&id).map(|start| (id, format!("machine died {start} so it"))))
        }
        Event::Fail(n) => one(n).and_then(|id| match region.driver.spec(&id)?.wanted {
            Wanted::Running { start, .. } if up(&id).is_none_or(|up| up < start) => {
                Some((id, format!("machine failed {start} no disk")))
            }
            _ => None,
        }),
        Event::Forget(n) => one(n).map(|id| (id, "machine absent".to_owned())),
    };
    if let Some((mut id, line)) = line {
        // A refusal is an answer too.
        let _ = command(region, &mut id, &line);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever happens, once machines do as they are told every instance comes to rest, and claims,
    /// interfaces and volumes are those of the instances that there are.
    #[test]
    fn everything_comes_to_rest(events in prop::collection::vec(any_event(), 1..40)) {
        let region = Region::new();
        let mut ids = Vec::new();
        let free: Vec<String> =
            (0..3).map(|_| crate::volume::tests::available(&region, 1, "gp3")).collect();
        for event in events {
            happen(&region, &mut ids, &free, event);
        }
        for _ in 0..4 {
            for id in &ids {
                reconcile(&region, id);
                obey(&region, id);
                hold(&region, id);
            }
        }
        let mut public = 0;
        let mut used = BTreeSet::new();
        for id in &ids {
            let Some(instance) = region.run(|call| call.peek::<Instance>(&work(id))).unwrap()
            else {
                continue;
            };
            let rests = matches!(
                instance.state,
                InstanceState::Running | InstanceState::Stopped | InstanceState::Terminated
            );
            prop_assert!(rests, "{id} is {:?}", instance.state);
            let runs = instance.state == InstanceState::Running;
            prop_assert_eq!(instance.public_ip.is_some(), runs);
            public += usize::from(runs);
            if instance.state != InstanceState::Terminated {
                used.insert(instance.interface_id.clone());
            }
        }
        let count = |prefix: &str| {
            region.run(|call| Ok(call.snapshot().scan(prefix).count())).unwrap()
        };
        prop_assert_eq!(count("/public-address/"), public);
        let interfaces = region
            .run(|call| call.scan::<Interface>(&key::of("us-east-1", key::INTERFACE, ACCOUNT, "")))
            .unwrap();
        for interface in &interfaces {
            prop_assert_eq!(interface.attachment.is_some(), used.contains(&interface.id));
        }
        let claims = count(&key::of("us-east-1", key::PRIVATE_ADDRESS, ACCOUNT, ""));
        prop_assert_eq!(claims, interfaces.len());
        let volumes = region
            .run(|call| call.scan::<Volume>(&key::of("us-east-1", key::VOLUME, ACCOUNT, "")))
            .unwrap();
        let of_launches = |volume: &&Arc<Volume>| !free.contains(&volume.id);
        let attached = volumes.iter().filter(of_launches).filter(|v| !v.attachments.is_empty());
        prop_assert_eq!(attached.count(), 2 * used.len(), "a root and a data volume each");
        // Both sides of every attachment know of it, and nothing is half done.
        let mut places = BTreeSet::new();
        for id in &ids {
            let instance = region.run(|call| call.peek::<Instance>(&work(id))).unwrap();
            for place in instance.iter().flat_map(|instance| &instance.volumes) {
                prop_assert_eq!(place.state, AttachmentState::Attached);
                prop_assert!(places.insert((place.volume_id.clone(), id.clone())));
            }
        }
        for volume in &volumes {
            prop_assert_eq!(volume.state, VolumeState::Available);
            for id in &volume.attachments {
                prop_assert!(places.remove(&(volume.id.clone(), id.clone())));
            }
            let volume::State::Ready(ready) = region.driver.volume_state(&volume.id) else {
                panic!("{} is not there", volume.id)
            };
            for machine in &ready.attached {
                prop_assert!(volume.attachments.contains(machine), "{machine} holds it still");
            }
        }
        prop_assert!(places.is_empty(), "{places:?}");
    }
}

#[test]
fn a_machine_is_told_again_only_what_is_new() {
    let region = Region::new();
    let mut id = String::new();
    let mut told = |line: &str| {
        command(&region, &mut id, line).unwrap();
        reconcile(&region, &id);
        let before = region.driver.told();
        reconcile(&region, &id);
        region.driver.told() > before
    };
    assert!(told("run-instances"), "it is not up");
    assert!(!told("machine running 1 0 up"), "it is as it should be");
    assert!(told("reboot-instances"), "it has not rebooted");
    assert!(!told("machine running 1 1 up"));
    assert!(told("machine absent"), "it must be there");
    assert!(!told("machine running 1 1 up"));
    assert!(told("stop-instances"), "it must not run");
}
