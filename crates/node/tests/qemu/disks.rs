//! Disks of machines: plugged, unplugged, grown, cut and taken away while the machine runs; the
//! instance store.

use crate::support::{
    DATA, ID, Node, ROOT, RUN, attached, boot_sector, has_ended, image, is_running, privileged,
    spec, until, until_state, until_volume, volume,
};
use base::machine::{Driver as _, LocalDisk, Spec, State, Wanted};
use base::volume::{self, Content, Driver as _, Snapshot, SnapshotState};
use node::qemu::Driver;
use std::time::{Duration, Instant};

/// A volume whose content is a script that the guest runs when it sees it.
const SCRIPT: &str = "vol-0123456789abcdef2";
/// An encrypted volume that is plugged.
const DISK: &str = "vol-0123456789abcdef3";
const OTHER_ROOT: &str = "vol-0123456789abcdef4";
const OTHER_ID: &str = "i-0123456789abcdef1";

const SNAPSHOT: &str = "snap-0123456789abcdef0";

const LIMIT: Duration = Duration::from_secs(60);

fn encrypted(id: &str) -> volume::Spec {
    let key = base::key::WrappedKey {
        key_arn: "arn:aws:kms:us-east-1:000000000000:key/test".to_owned(),
        ciphertext: "ab".repeat(16),
    };
    volume::Spec { key: Some(key), ..volume(id) }
}

fn snapshot() -> Snapshot {
    Snapshot { id: SNAPSHOT.to_owned(), together: Vec::new(), during_reboot: None, parent: None }
}

/// The machine with more disks.
fn with(disks: &[&str]) -> Spec {
    let mut spec = spec("test", RUN);
    spec.volumes.extend(disks.iter().map(|id| attached(id)));
    spec
}

async fn until_said(node: &Node, machine: &str, text: &str) {
    let said = || node.console_of(machine).contains(text).then_some(());
    until(&format!("{text:?} on the console"), LIMIT, said).await;
}

async fn until_free(driver: &Driver, volume: &str) {
    until_volume(driver, volume, |ready| ready.attached.is_empty()).await;
}

/// Has the guest of `machine`, whose disks are as `base` says, run a script, until it says that it
/// is done.
async fn script(node: &Node, driver: &Driver, base: &Spec, text: &str) {
    let done = |count| format!("MARKER done {count}\r\n");
    let console = node.console_of(&base.id);
    let number = console.matches("MARKER done").count() + 1;
    node.write(SCRIPT, format!("#!sh\n{text}\necho MARKER done {number}\n").as_bytes());
    let mut plugged = base.clone();
    plugged.volumes.push(attached(SCRIPT));
    driver.apply(plugged);
    until_said(node, &base.id, &done(number)).await;
    driver.apply(base.clone());
    until_free(driver, SCRIPT).await;
}

/// The largest number that the guest's writer has had confirmed.
fn acknowledged(node: &Node) -> usize {
    let console = node.console();
    let acks = console.lines().filter_map(|line| line.trim().strip_prefix("ACK "));
    acks.filter_map(|number| number.parse().ok()).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_come_and_go_grow_and_are_cut() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    let all = [volume(ROOT), volume(DATA), volume(SCRIPT), encrypted(DISK), volume(OTHER_ROOT)];
    node.make(&all).await;
    driver.apply(with(&[]));
    until_said(&node, ID, "MARKER up").await;
    until_volume(&driver, DATA, |ready| ready.attached == [ID]).await;

    // Plugged, and with a file system on it.
    driver.apply(with(&[DISK]));
    until_said(&node, ID, "MARKER plugged vol0123456789abcdef3 sectors=2097152").await;
    until_volume(&driver, DISK, |ready| ready.attached == [ID]).await;
    let write = "d=/dev/$(disk vol0123456789abcdef3); mke2fs $d >/dev/null 2>&1; mkdir -p /mnt\n\
                 mount $d /mnt && echo of a volume > /mnt/file; umount /mnt";
    script(&node, &driver, &with(&[DISK]), write).await;

    // Grown in use, and the next daemon knows of it all.
    node.make(&[volume::Spec { size_gib: 2, ..encrypted(DISK) }]).await;
    until_volume(&driver, DISK, |ready| ready.size_gib == 2).await;
    let size = "echo MARKER size=$(cat /sys/block/$(disk vol0123456789abcdef3)/size)";
    script(&node, &driver, &with(&[DISK]), size).await;
    assert!(node.console().contains("MARKER size=4194304"), "{}", node.console());
    drop(driver);
    let driver = node.start();
    driver.apply(with(&[DISK]));
    until_volume(&driver, DISK, |ready| ready.attached == [ID]).await;

    // Unplugged here, read elsewhere.
    driver.apply(with(&[]));
    until_free(&driver, DISK).await;
    let mut other = spec("test", RUN);
    other.id = OTHER_ID.to_owned();
    other.volumes = vec![attached(OTHER_ROOT), attached(DISK)];
    driver.apply(other.clone());
    until_said(&node, OTHER_ID, "MARKER up").await;
    let read = "mkdir -p /mnt; mount /dev/$(disk vol0123456789abcdef3) /mnt\n\
                echo MARKER file $(cat /mnt/file); umount /mnt";
    script(&node, &driver, &other, read).await;
    assert!(node.console_of(OTHER_ID).contains("MARKER file of a volume"));
    // It was there when the machine started, and can be unplugged as well.
    other.volumes.truncate(1);
    driver.apply(other.clone());
    until_free(&driver, DISK).await;
    other.wanted = Wanted::Terminated;
    driver.apply(other);
    let gone = || (driver.state(OTHER_ID) == State::Gone).then_some(());
    until("the end of the other", LIMIT, gone).await;

    // Cut while a writer waits for each of its writes.
    let writer = "(n=0; while [ $n -lt 1000 ]; do n=$((n+1)); \
                  printf 'BLOCK %s\\n' $n | dd of=/dev/vdb bs=4k seek=$n count=1 conv=fsync,sync \
                  2>/dev/null && echo ACK $n; done) &";
    script(&node, &driver, &with(&[]), writer).await;
    until("the writer", LIMIT, || (acknowledged(&node) > 5).then_some(())).await;
    let before = acknowledged(&node);
    driver.apply_volume(volume::Spec { snapshots: vec![snapshot()], ..volume(DATA) });
    let content = completed(&driver, DATA, SNAPSHOT).await;
    let more = acknowledged(&node) + 3;
    until("the writer goes on", LIMIT, || (acknowledged(&node) > more).then_some(())).await;
    let written = blocks(&node, &content);
    assert!(written >= before, "{written} of {before} acknowledged writes are in the snapshot");
    assert!(written <= acknowledged(&node), "{written}");
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

async fn completed(driver: &Driver, volume: &str, snapshot: &str) -> Content {
    let is_complete = |ready: &volume::Ready| {
        matches!(ready.snapshots.get(snapshot), Some(SnapshotState::Completed { .. }))
    };
    let mut ready = until_volume(driver, volume, is_complete).await;
    match ready.snapshots.remove(snapshot) {
        Some(SnapshotState::Completed { content, .. }) => content,
        other => panic!("{other:?}"),
    }
}

/// How many of the writer's blocks are in a snapshot, which must be the first ones.
fn blocks(node: &Node, content: &Content) -> usize {
    let reader = block::Reader::open(&node.blobs(), content, None).unwrap();
    let mut bytes = Vec::new();
    for index in 0..8 {
        let block = reader.block(index).unwrap();
        bytes.extend(block.map_or_else(|| vec![0; volume::BLOCK_BYTES], |block| block.to_vec()));
    }
    let is_written = |n: &usize| bytes[n * 4096..].starts_with(format!("BLOCK {n}\n").as_bytes());
    let written = (1..=1000).take_while(is_written).count();
    let later = (written + 1..1001).filter(is_written).count();
    assert_eq!(later, 0, "a later write without an earlier one");
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_at_any_time_loses_no_disk() {
    if !privileged() {
        return;
    }
    let seed = std::env::var("GUREUM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("GUREUM_SEED={seed}");
    let mut random = seed;
    let mut next = move |below: u64| {
        // Knuth's MMIX.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let mut driver = node.start();
    node.make(&[volume(ROOT), volume(DATA), volume(SCRIPT), encrypted(DISK)]).await;
    driver.apply(with(&[]));
    until_said(&node, ID, "MARKER up").await;
    for round in 0..15 {
        let wanted: Vec<&str> = [SCRIPT, DISK].into_iter().filter(|_| next(2) == 0).collect();
        println!("round {round}: {wanted:?}");
        driver.apply(with(&wanted));
        // Where it dies is what is tried.
        tokio::time::sleep(Duration::from_millis(next(300))).await;
        drop(driver);
        driver = node.start();
        driver.apply(with(&wanted));
        for disk in [SCRIPT, DISK] {
            let count = usize::from(wanted.contains(&disk));
            until_volume(&driver, disk, |ready| ready.attached.len() == count).await;
        }
        assert!(is_running(&driver.state(ID)));
    }
    let sees = "for d in /sys/block/vd*; do echo \"MARKER sees $(cat $d/serial)\"; done";
    let base = with(&[DISK]);
    driver.apply(base.clone());
    until_volume(&driver, DISK, |ready| ready.attached == [ID]).await;
    driver.apply(base.clone());
    until_free(&driver, SCRIPT).await;
    script(&node, &driver, &base, sees).await;
    assert_eq!(node.console().matches("MARKER sees vol").count(), 4, "{}", node.console());
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_is_taken_from_a_guest_that_does_not_let_go() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    let driver = node.start();
    node.make_both().await;
    node.write(ROOT, &boot_sector("MARKER firmware\n"));
    // Without an operating system nobody hears of the unplug.
    let mut machine = spec("", RUN);
    driver.apply(machine.clone());
    until_said(&node, ID, "MARKER firmware").await;
    until_volume(&driver, DATA, |ready| ready.attached == [ID]).await;
    machine.volumes.truncate(1);
    driver.apply(machine.clone());
    let long = Instant::now() + Duration::from_secs(3);
    until("some time", LIMIT, || (Instant::now() > long).then_some(())).await;
    until_volume(&driver, DATA, |ready| ready.attached == [ID]).await;
    machine.forced_off = vec![DATA.to_owned()];
    driver.apply(machine.clone());
    until_free(&driver, DATA).await;
    // Nobody has its files open.
    node.write(DATA, b"free");
    assert!(is_running(&driver.state(ID)));
    // The next daemon does not take it for attached.
    drop(driver);
    let driver = node.start();
    driver.apply(machine.clone());
    until_volume(&driver, ROOT, |ready| ready.attached == [ID]).await;
    until_free(&driver, DATA).await;
    // With a reset the guest lets go, and the volume can come back.
    machine.forced_off.clear();
    machine.volumes.push(attached(DATA));
    driver.apply(machine.clone());
    machine.wanted = Wanted::Stopped { force: true };
    driver.apply(machine.clone());
    until_state(&driver, has_ended).await;
    machine.wanted = Wanted::Running { start: 2, reboots: 0 };
    driver.apply(machine.clone());
    until_volume(&driver, DATA, |ready| ready.attached == [ID]).await;
    machine.wanted = Wanted::Terminated;
    driver.apply(machine);
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_store_lives_as_long_as_the_machine_is_on() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    node.make(&[volume(ROOT), volume(DATA), volume(SCRIPT)]).await;
    // At each boot.
    let text = "#!sh\nd=/dev/$(disk ephemeral0)\n\
                echo \"MARKER was=$(head -c 5 $d | tr -d '\\000').\"\n\
                printf store | dd of=$d conv=fsync 2>/dev/null; echo MARKER wrote\n";
    node.write(SCRIPT, text.as_bytes());
    let mut machine = with(&[SCRIPT]);
    machine.local_disks = vec![LocalDisk {
        name: "ephemeral0".to_owned(),
        device_name: "/dev/sdb".to_owned(),
        size_gb: 1,
    }];
    let local = || {
        let files = node.files(&format!("machines/{ID}"));
        files.into_iter().filter(|file| file.starts_with("local-")).collect::<Vec<_>>()
    };
    let wrote = async |count| {
        let wrote = || (node.console().matches("MARKER wrote").count() == count).then_some(());
        until("the write", LIMIT, wrote).await;
    };
    driver.apply(machine.clone());
    wrote(1).await;
    assert!(node.console().contains("MARKER plugged ephemeral0 sectors=1953125"));
    assert_eq!(local(), ["local-ephemeral0.raw"]);
    // A snapshot that waits for the reboot is cut while the guest is off.
    let waits = Snapshot { during_reboot: Some(1), ..snapshot() };
    driver.apply_volume(volume::Spec { snapshots: vec![waits], ..volume(DATA) });
    let is_waiting = |ready: &volume::Ready| {
        matches!(ready.snapshots.get(SNAPSHOT), Some(SnapshotState::Pending { cut: false, .. }))
    };
    until_volume(&driver, DATA, is_waiting).await;
    machine.wanted = Wanted::Running { start: 1, reboots: 1 };
    driver.apply(machine.clone());
    wrote(2).await;
    completed(&driver, DATA, SNAPSHOT).await;
    machine.wanted = Wanted::Stopped { force: false };
    driver.apply(machine.clone());
    until_state(&driver, has_ended).await;
    assert!(local().is_empty());
    machine.wanted = Wanted::Running { start: 2, reboots: 1 };
    driver.apply(machine.clone());
    wrote(3).await;
    let console = node.console();
    let was: Vec<_> = console.lines().filter(|line| line.contains("MARKER was=")).collect();
    let was: Vec<_> = was.iter().map(|line| line.trim()).collect();
    assert_eq!(was, ["MARKER was=.", "MARKER was=store.", "MARKER was=."]);
    machine.wanted = Wanted::Terminated;
    driver.apply(machine);
    until_state(&driver, |state| *state == State::Gone).await;
}
