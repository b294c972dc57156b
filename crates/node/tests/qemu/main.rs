//! The qemu driver with real machines: a Debian cloud kernel and an initrd of busybox. Needs root;
//! runs when GUREUM_PRIVILEGED_TESTS=1. A dozen short boots in all.

#![allow(unreachable_pub, missing_debug_implementations)]

mod disks;
mod interfaces;
mod network;
mod support;

use base::machine::{Driver as _, ExitCause, State, Wanted};
use base::volume::{Driver as _, Spec};
use node::qemu::Timing;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{
    DATA, ID, Node, ROOT, RUN, Small, boot_sector, has_ended, image, is_running, privileged, run,
    spec, until, until_state, until_volume, volume,
};

/// Our own child that another driver of this test process would have to reap.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machines_life() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    node.make_both().await;
    node.write(ROOT, b"HELLO");

    // It comes up, unprivileged, as what it was ordered to be.
    driver.apply(spec("test", RUN));
    let up = until_state(&driver, |state| is_running(state) || has_ended(state)).await;
    assert_eq!(up, State::Running { start: 1, reboots: 0, reachable: None });
    let first_pid = node.pid();
    let limit = Duration::from_secs(60);
    until("the first boot", limit, || node.console().contains("MARKER up").then_some(())).await;
    let console = node.console();
    assert!(console.contains("MARKER uuid=ec2"), "{console}");
    assert!(console.contains("vendor=Amazon EC2 product=gureum"), "{console}");
    assert!(console.contains("vda serial=vol0123456789abcdef0 sectors=2097152"), "{console}");
    assert!(console.contains("vdb serial=vol0123456789abcdef1 sectors=2097152"), "{console}");
    assert!(console.contains("content=HELLO"), "{console}");
    let status = fs::read_to_string(format!("/proc/{first_pid}/status")).unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(uids, "Uid:\t1900000000\t1900000000\t1900000000\t1900000000");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");

    // A reboot is orderly and never looks like a stop.
    node.announced.lock().unwrap().clear();
    driver.apply(spec("test", Wanted::Running { start: 1, reboots: 1 }));
    until("the reboot", limit, || (node.console().matches("MARKER up").count() == 2).then_some(()))
        .await;
    assert!(node.console().contains("MARKER button"));
    let rebooted = State::Running { start: 1, reboots: 1, reachable: None };
    assert_eq!(driver.state(ID), rebooted);
    assert!(node.announced.lock().unwrap().iter().all(is_running));
    assert_eq!(node.pid(), first_pid);

    // The next daemon adopts it and can stop it by its button.
    drop(driver);
    let driver = node.start();
    assert_eq!(driver.state(ID), rebooted);
    assert_eq!(node.pid(), first_pid);
    driver.apply(spec("test", Wanted::Running { start: 1, reboots: 1 }));
    driver.apply(spec("test", Wanted::Stopped { force: false }));
    let stopped = until_state(&driver, has_ended).await;
    assert_eq!(stopped, State::Exited { start: 1, cause: ExitCause::Requested });
    assert_eq!(node.console().matches("MARKER button").count(), 2, "{}", node.console());
    assert!(!Path::new(&format!("/proc/{first_pid}")).exists() || is_zombie(first_pid));

    // A death is seen at once and said.
    driver.apply(spec("test", Wanted::Running { start: 2, reboots: 1 }));
    until_state(&driver, is_running).await;
    let killed = Instant::now();
    run("kill", &["-9", &node.pid().to_string()], node.root.path());
    let died = until_state(&driver, has_ended).await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(
        matches!(&died, State::Exited { start: 2, cause: ExitCause::Died(how) } if how.contains("signal 9")),
        "{died:?}"
    );

    // Volumes outlive the machine, its console for an hour.
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
    until_volume(&driver, DATA, |volume| volume.attached.is_empty()).await;
    assert_eq!(node.files("volumes"), [ROOT, DATA]);
    for id in [ROOT, DATA] {
        let deleted = Spec { wanted: base::volume::Wanted::Deleted, ..volume(id) };
        driver.apply_volume(deleted);
        let gone = || (driver.volume_state(id) == base::volume::State::Gone).then_some(());
        until("the deletion", limit, gone).await;
    }
    assert!(node.files("volumes").is_empty());
    assert!(node.files("machines").is_empty());
    let console = driver.console(ID).unwrap().expect("it is kept");
    assert!(String::from_utf8_lossy(&console.bytes).contains("MARKER up"));
    driver.forget(ID);
    assert_eq!(driver.state(ID), State::Absent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_off_that_no_daemon_saw() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "off", "gureum.off");
    let driver = node.start();
    node.make_both().await;
    driver.apply(spec("off", RUN));
    until_state(&driver, is_running).await;
    drop(driver);
    node.driver = None;
    let limit = Duration::from_secs(60);
    until("the power-off", limit, || node.console().contains("MARKER off").then_some(())).await;
    let driver = node.start();
    node.make_both().await;
    driver.apply(spec("off", RUN));
    let off = until_state(&driver, has_ended).await;
    assert_eq!(off, State::Exited { start: 1, cause: ExitCause::GuestShutdown });
    driver.apply(spec("off", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    node.make_both().await;
    let images = node.images();
    let mut start = 0;
    let mut fails = async |image: &str, expected: &str| {
        start += 1;
        driver.apply(spec(image, Wanted::Running { start, reboots: 0 }));
        let state = until_state(
            &driver,
            |state| matches!(state, State::Failed { start: failed, .. } if *failed == start),
        );
        let State::Failed { message, .. } = state.await else { unreachable!() };
        assert!(message.contains(expected), "{message}");
        until_volume(&driver, DATA, |volume| volume.attached.is_empty()).await;
    };
    fails("absent", "gureum image build absent").await;
    fs::rename(images.join("test/vmlinuz"), images.join("test/moved")).unwrap();
    fails("test", "(its file \"vmlinuz\" is missing): build or import it again").await;
    fs::write(images.join("test/vmlinuz"), "this is no kernel").unwrap();
    fails("test", "status 1").await;
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
    assert!(node.files("machines").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    node.small = Some(Small::mount(node.data()));
    image(&node.images(), "fill", "gureum.fill");
    let driver = node.start();

    // There is room to start, but not for what the guest writes.
    node.make_both().await;
    driver.apply(spec("fill", RUN));
    until_state(&driver, is_running).await;
    let died = until_state(&driver, has_ended).await;
    let full = |how: &str| how.contains("full") && how.contains("free space");
    assert!(
        matches!(&died, State::Exited { cause: ExitCause::Died(how), .. } if full(how)),
        "{died:?}"
    );
    assert!(!node.console().contains("MARKER filled"));
    driver.apply(spec("fill", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_ignores_its_button() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    let grace = Duration::from_millis(300);
    let driver = node.start_with(None, Timing { stop_grace: grace, reboot_grace: grace });
    node.make_both().await;
    node.write(ROOT, &boot_sector("MARKER firmware\n"));
    driver.apply(spec("", RUN));
    let limit = Duration::from_secs(30);
    let booted = |node: &Node, count| {
        (node.console().matches("MARKER firmware").count() == count).then_some(())
    };
    until("the boot sector", limit, || booted(&node, 1)).await;
    driver.apply(spec("", Wanted::Running { start: 1, reboots: 1 }));
    until("the hard reset", limit, || booted(&node, 2)).await;
    until_state(&driver, |state| matches!(state, State::Running { reboots: 1, .. })).await;
    driver.apply(spec("", Wanted::Stopped { force: false }));
    let stopped = until_state(&driver, has_ended).await;
    assert_eq!(stopped, State::Exited { start: 1, cause: ExitCause::Requested });
    driver.apply(spec("", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_stopped_without_a_daemon() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    node.make_both().await;
    driver.apply(spec("test", RUN));
    let limit = Duration::from_secs(60);
    until("the boot", limit, || node.console().contains("MARKER up").then_some(())).await;
    drop(driver);
    node.driver = None;
    let pid = node.pid();
    let data = node.data();
    let stopped = tokio::task::spawn_blocking(move || node::qemu::stop_all(&data)).await;
    stopped.unwrap().unwrap();
    assert!(node.console().contains("MARKER button"), "{}", node.console());
    assert!(!Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid));
    let driver = node.start();
    let off = State::Exited { start: 1, cause: ExitCause::Requested };
    assert_eq!(driver.state(ID), off);
    driver.apply(spec("test", RUN));
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_not_recorded_is_made_again() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    let driver = node.start();
    node.make_both().await;
    node.write(ROOT, &boot_sector("MARKER firmware\n"));
    driver.apply(spec("", RUN));
    until_state(&driver, is_running).await;
    let lost = node.pid();
    drop(driver);
    node.driver = None;
    // As if the daemon had died between starting QEMU and writing that down.
    let path = node.data().join("machines").join(ID).join("record.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["stage"] = "launching".into();
    fs::write(&path, record.to_string()).unwrap();

    let driver = node.start();
    assert_eq!(driver.state(ID), State::Launching { start: 1 });
    assert!(!Path::new(&format!("/proc/{lost}")).exists() || is_zombie(lost));
    driver.apply(spec("", RUN));
    let state = until_state(&driver, |state| is_running(state) || has_ended(state)).await;
    assert_eq!(state, State::Running { start: 1, reboots: 0, reachable: None });
    assert_ne!(node.pid(), lost);
    driver.apply(spec("", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}
