//! Volumes as a whole, with real storage daemons: one of them plays the machine.
//!
//! The program that serves sources is this test itself: started with the argument `storage` it runs
//! the one test of that name.

use super::directory::Record;
use super::host::Chain;
use super::keeper::{EXPORT, Keeper, Purpose};
use super::*;
use base::key::Error as KeyError;
use base::volume::{BLOCK_BYTES, Content, Limits, Ready, Snapshot, SnapshotState, Wanted};
use block::{Reader, nbd};
use rustix::process::{PidfdFlags, Signal};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const VOLUME: &str = "vol-0123456789abcdef0";
const OTHER: &str = "vol-0123456789abcdef1";
const MACHINE: &str = "i-0123456789abcdef0";

/// Whether the programs are there and we may use them.
fn is_possible() -> bool {
    let asked = std::env::var_os("GUREUM_PRIVILEGED_TESTS").is_some();
    let there = Command::new("qemu-storage-daemon").arg("--version").output().is_ok();
    if !(asked && there) {
        eprintln!("skipped: needs GUREUM_PRIVILEGED_TESTS=1 and qemu-storage-daemon");
    }
    asked && there
}

/// See the module.
#[test]
fn storage() {
    let input = std::fs::read_link("/proc/self/fd/0").unwrap_or_default();
    if !input.to_string_lossy().contains("memfd:") {
        return;
    }
    let options: nbd::StorageOptions = serde_json::from_reader(std::io::stdin()).unwrap();
    let source = Arc::new(options.source().unwrap());
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = options.listen().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        nbd::server::serve(listener, source).await;
    });
}

/// Wraps a key by naming its only byte.
struct PlainKeys;

fn wrapped(byte: u8) -> WrappedKey {
    WrappedKey { key_arn: "arn:test".to_owned(), ciphertext: byte.to_string() }
}

impl Keys for PlainKeys {
    fn resolve(&self, _: &str, _: &str, _: Option<&str>) -> Result<String, KeyError> {
        Ok("arn:test".to_owned())
    }

    fn generate(&self, _: &str) -> Result<WrappedKey, KeyError> {
        Ok(wrapped(7))
    }

    fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
        let byte = wrapped.ciphertext.parse();
        byte.map(|byte| DataKey([byte; 32])).map_err(|_| KeyError::NotOurs(wrapped.key_arn.clone()))
    }

    fn rewrap(&self, wrapped: &WrappedKey, _: &str) -> Result<WrappedKey, KeyError> {
        Ok(wrapped.clone())
    }
}

/// A data directory and what runs on it.
struct Node {
    directory: tempfile::TempDir,
    blobs: Blobs,
    volumes: Volumes,
}

impl Node {
    fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let passable = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(directory.path(), passable.clone()).unwrap();
        for name in ["volumes", "volumes/machine", "volumes/machine2"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::set_permissions(directory.path().join(name), passable.clone()).unwrap();
        }
        let (blobs, volumes) = Self::start(directory.path());
        Node { directory, blobs, volumes }
    }

    fn start(data_dir: &Path) -> (Blobs, Volumes) {
        let blob_config = block::Config::Local { directory: data_dir.join("blobs") };
        let blobs = Blobs::open(&blob_config).unwrap();
        let direct =
            Direct::open(blobs.clone(), Arc::new(PlainKeys), &data_dir.join("uploads")).unwrap();
        let config = Config {
            data_dir: data_dir.to_owned(),
            blobs: blobs.clone(),
            blob_config,
            direct: Arc::new(direct),
            keys: Arc::new(PlainKeys),
            storage: std::env::current_exe().unwrap(),
            throttled: true,
            fill_after: Duration::ZERO,
        };
        let announce = Box::new(|_: &str| {});
        (blobs, Volumes::start(config, runtime::Handle::current(), announce).unwrap())
    }

    /// The daemon ends, as by kill -9, and another starts.
    fn restart(&mut self) {
        self.volumes.stop();
        (self.blobs, self.volumes) = Self::start(self.directory.path());
    }

    fn record(&self, id: &str) -> Record {
        Directory::new(self.directory.path(), id).read().unwrap().unwrap()
    }

    async fn ready(&self, id: &str, what: &str, is: impl Fn(&Ready) -> bool) -> Ready {
        let began = Instant::now();
        loop {
            let state = self.volumes.state(id);
            if let State::Ready(ready) = &state
                && is(ready)
            {
                return ready.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{what}: {state:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn completed(&self, id: &str, snapshot: &str) -> (Content, u64, u64) {
        let is = |ready: &Ready| {
            matches!(ready.snapshots.get(snapshot), Some(SnapshotState::Completed { .. }))
        };
        match self.ready(id, "completed", is).await.snapshots.remove(snapshot) {
            Some(SnapshotState::Completed { content, new_bytes, full_bytes }) => {
                (content, new_bytes, full_bytes)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn cut(&self, id: &str, snapshot: &str) {
        let is = |ready: &Ready| {
            !matches!(
                ready.snapshots.get(snapshot),
                None | Some(
                    SnapshotState::Pending { cut: false, .. } | SnapshotState::Failed { .. }
                )
            )
        };
        self.ready(id, "cut", is).await;
    }

    /// Waits until the volume's layers are as few as they can be.
    async fn merged(&self, id: &str) {
        let began = Instant::now();
        while self.record(id).layers.len() > 2 || self.record(id).merging.is_some() {
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", self.record(id));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn gone(&self, id: &str) {
        let began = Instant::now();
        while self.volumes.state(id) != State::Gone {
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", self.volumes.state(id));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!self.directory.path().join("volumes").join(id).exists());
    }

    /// Opens the volumes in a machine, which then has them.
    async fn attach(&self, name: &str, volumes: &[&str]) -> Machine {
        let directory = Directory::new(self.directory.path(), name);
        let user = directory::IDLE_USER - 1;
        // Not one that a daemon takes for its own.
        let keeper =
            Keeper::start(self.directory.path(), &directory, Purpose::Owner, user).await.unwrap();
        let pid = rustix::process::Pid::from_raw(keeper.identity().pid).unwrap();
        let guard = Guard(rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap());
        let socket = directory.path().join("keeper-nbd.sock");
        let machine = Machine { id: format!("{MACHINE}{name}"), keeper, socket, _guard: guard };
        for volume in volumes {
            let chain = self.volumes.acquire(volume, &machine.id, user).await.unwrap();
            machine.keeper.host.add_chain(&chain).await.unwrap();
            machine.export(volume).await;
            self.volumes.held(volume, &machine.id, machine.keeper.host.clone());
        }
        for volume in volumes {
            self.ready(volume, "attached", |ready| ready.attached.contains(&machine.id)).await;
        }
        machine
    }

    async fn detach(&self, machine: Machine, volumes: &[&str]) {
        for volume in volumes {
            machine.close(volume).await;
            self.volumes.released(volume, &machine.id).await;
        }
        assert!(machine.keeper.host.volumes().await.unwrap().is_empty());
        machine.keeper.quit().await;
    }

    /// The bytes of a content.
    fn read(&self, content: &Content, offset: u64, length: usize) -> Vec<u8> {
        let key = content.key.as_ref().map(|key| PlainKeys.unwrap(key).unwrap());
        let reader = Reader::open(&self.blobs, content, key.as_ref()).unwrap();
        let mut bytes = vec![0; length];
        reader.read_at(offset, &mut bytes).unwrap();
        bytes
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.volumes.stop();
        keeper::kill_strays(self.directory.path(), &[]);
    }
}

/// A storage daemon that has volumes open.
struct Machine {
    id: String,
    keeper: Keeper,
    socket: PathBuf,
    _guard: Guard,
}

/// Kills a process when it is dropped.
struct Guard(std::os::fd::OwnedFd);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
    }
}

impl Machine {
    /// The guest can see the volume.
    async fn export(&self, volume: &str) {
        let export = serde_json::json!({
            "type": "nbd", "id": volume, "name": volume, "writable": true,
            "node-name": host::serial(volume),
        });
        self.keeper.host.execute("block-export-add", export).await.unwrap();
    }

    /// The guest lets go of it.
    async fn close(&self, volume: &str) {
        let export = serde_json::json!({ "id": volume, "mode": "hard" });
        self.keeper.host.execute("block-export-del", export).await.unwrap();
        let began = Instant::now();
        let exports = serde_json::json!({});
        while self
            .keeper
            .host
            .execute("query-block-exports", exports.clone())
            .await
            .unwrap()
            .as_array()
            .is_some_and(|all| all.iter().any(|export| export["id"] == volume))
        {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }

    /// What a guest does, in qemu-io's words.
    fn io(&self, volume: &str, commands: &[&str]) {
        let mut program = Command::new("qemu-io");
        program.args(["-f", "raw"]);
        for command in commands {
            program.args(["-c", command]);
        }
        let url = format!("nbd+unix:///{volume}?socket={}", self.socket.display());
        let output = program.arg(url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("failed"), "{commands:?}: {output:?}");
    }
}

fn spec(id: &str) -> Spec {
    Spec {
        id: id.to_owned(),
        region: "us-east-1".to_owned(),
        wanted: Wanted::Present,
        size_gib: 1,
        source: None,
        key: None,
        limits: Limits::default(),
        initialization_rate: None,
        filled_first: false,
        multi_attach: false,
        snapshots: Vec::new(),
    }
}

fn snapshot(id: &str, parent: Option<&Content>) -> Snapshot {
    Snapshot {
        id: id.to_owned(),
        together: Vec::new(),
        during_reboot: None,
        parent: parent.cloned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_its_snapshots_and_its_end() {
    if !is_possible() {
        return;
    }
    let node = Node::new();
    let mut spec = spec(VOLUME);
    node.volumes.apply(spec.clone());
    node.ready(VOLUME, "made", |ready| ready.filled_percent == 100).await;
    let machine = node.attach("machine", &[VOLUME]).await;
    machine.io(VOLUME, &["write -P 17 1M 4k", "write -P 18 100M 2M", "flush"]);
    spec.snapshots = vec![snapshot("snap-1", None)];
    node.volumes.apply(spec.clone());
    node.cut(VOLUME, "snap-1").await;
    machine.io(VOLUME, &["write -P 99 1M 4k"]);
    let (first, new_bytes, full_bytes) = node.completed(VOLUME, "snap-1").await;
    assert_eq!((new_bytes, full_bytes), (5 * BLOCK_BYTES as u64, 5 * BLOCK_BYTES as u64));
    assert_eq!(node.read(&first, 1 << 20, 4096), [17; 4096], "as it was at the cut");
    assert_eq!(node.read(&first, 100 << 20, 2 << 20), vec![18; 2 << 20]);
    // Another, right after it: it has what changed.
    spec.snapshots.push(snapshot("snap-2", None));
    node.volumes.apply(spec.clone());
    let (second, new_bytes, full_bytes) = node.completed(VOLUME, "snap-2").await;
    assert_eq!((new_bytes, full_bytes), (BLOCK_BYTES as u64, 5 * BLOCK_BYTES as u64));
    assert_eq!(node.read(&second, 1 << 20, 4096), [99; 4096]);
    // Both are recorded: the layers merge under the machine.
    spec.snapshots.clear();
    node.volumes.apply(spec.clone());
    node.merged(VOLUME).await;
    // One that nothing was written for holds no new block.
    spec.snapshots = vec![snapshot("snap-3", Some(&second))];
    node.volumes.apply(spec.clone());
    let (third, new_bytes, _) = node.completed(VOLUME, "snap-3").await;
    assert_eq!((new_bytes, third.root), (0, second.root));
    machine.io(VOLUME, &["read -P 99 1M 4k", "read -P 18 100M 2M"]);
    node.detach(machine, &[VOLUME]).await;
    // While nobody has it.
    spec.snapshots.push(snapshot("snap-4", None));
    spec.size_gib = 2;
    node.volumes.apply(spec.clone());
    node.completed(VOLUME, "snap-4").await;
    node.ready(VOLUME, "grown", |ready| ready.size_gib == 2).await;
    spec.snapshots.clear();
    spec.wanted = Wanted::Deleted;
    node.volumes.apply(spec);
    node.gone(VOLUME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_snapshot_is_there_at_once_and_fills() {
    if !is_possible() {
        return;
    }
    let mut node = Node::new();
    let upload = block::Upload::begin(&node.blobs, None, 1, None).unwrap();
    for index in 0..64 {
        upload.put(index, &[index as u8 + 1; BLOCK_BYTES]).unwrap();
    }
    let finished = upload.finish().unwrap();
    let source = finished.content(None);
    let mut spec = spec(VOLUME);
    spec.source = Some(source.clone());
    spec.size_gib = 2;
    // Slow enough to be seen.
    spec.initialization_rate = Some(1);
    node.volumes.apply(spec.clone());
    let machine = node.attach("machine", &[VOLUME]).await;
    machine.io(VOLUME, &["read -P 3 1M 512k", "read -P 64 33030144 512k", "read -P 0 1500M 1M"]);
    machine.io(VOLUME, &["write -P 77 1M 8k"]);
    assert!(!node.record(VOLUME).filled);
    // A snapshot while it fills.
    spec.snapshots = vec![snapshot("snap-1", Some(&source))];
    node.volumes.apply(spec.clone());
    let (content, new_bytes, full_bytes) = node.completed(VOLUME, "snap-1").await;
    assert_eq!((new_bytes, full_bytes), (BLOCK_BYTES as u64, 64 * BLOCK_BYTES as u64));
    assert_eq!(node.read(&content, 1 << 20, 8192), [77; 8192]);
    assert_eq!(node.read(&content, (1 << 20) + 8192, 4096), [3; 4096]);
    // The server dies: guests wait and go on.
    let server = node.record(VOLUME).server.unwrap();
    let pid = rustix::process::Pid::from_raw(server.pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    machine.io(VOLUME, &["read -P 40 20447232 512k"]);
    // Another daemon adopts the new one.
    node.restart();
    spec.initialization_rate = Some(1000);
    node.volumes.apply(spec.clone());
    node.volumes.held(VOLUME, &machine.id, machine.keeper.host.clone());
    node.ready(VOLUME, "filled", |ready| ready.filled_percent == 100).await;
    let began = Instant::now();
    while node.record(VOLUME).server.is_some() {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    machine.io(VOLUME, &["read -P 77 1M 8k", "read -P 50 25690112 512k"]);
    node.detach(machine, &[VOLUME]).await;
    drop(finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_volumes_are_cut_at_one_instant_and_a_daemon_may_end() {
    if !is_possible() {
        return;
    }
    let mut node = Node::new();
    let volumes = [VOLUME, OTHER];
    let mut specs = volumes.map(spec);
    for spec in &specs {
        node.volumes.apply(spec.clone());
    }
    let machine = node.attach("machine", &volumes).await;
    let together: Vec<_> = volumes.map(|id| (id.to_owned(), format!("snap-{id}"))).to_vec();
    for spec in &mut specs {
        let mut both = snapshot(&format!("snap-{}", spec.id), None);
        both.together = together.clone();
        spec.snapshots = vec![both];
        machine.io(&spec.id, &["write -P 5 0 64k"]);
        node.volumes.apply(spec.clone());
    }
    for id in volumes {
        node.cut(id, &format!("snap-{id}")).await;
    }
    node.restart();
    for spec in &mut specs {
        node.volumes.apply(spec.clone());
        node.volumes.held(&spec.id, &machine.id, machine.keeper.host.clone());
        let (content, _, _) = node.completed(&spec.id, &format!("snap-{}", spec.id)).await;
        assert_eq!(node.read(&content, 0, 65536), [5; 65536]);
        // A snapshot that waits for a reboot.
        let mut later = snapshot("snap-r", Some(&content));
        later.during_reboot = Some(3);
        spec.snapshots = vec![later];
        node.volumes.apply(spec.clone());
        node.ready(&spec.id, "not cut", |ready| {
            matches!(ready.snapshots.get("snap-r"), Some(SnapshotState::Pending { cut: false, .. }))
        })
        .await;
    }
    node.volumes.cut_during_reboot(&machine.id, 2).await;
    assert!(node.record(VOLUME).snapshots.is_empty());
    node.volumes.cut_during_reboot(&machine.id, 3).await;
    for id in volumes {
        assert!(node.record(id).snapshots.contains_key("snap-r"));
        node.completed(id, "snap-r").await;
    }
    // The machine dies with a cut recorded that may have happened.
    for id in volumes {
        node.merged(id).await;
    }
    node.volumes.stop();
    let directory = Directory::new(node.directory.path(), VOLUME);
    let mut record = node.record(VOLUME);
    record.cutting = Some(directory::Cutting { new: record.next, snapshots: vec!["x".to_owned()] });
    directory.add_layer(record.next, record.user()).unwrap();
    record.next += 1;
    directory.write(&record).unwrap();
    node.restart();
    specs[0].snapshots.push(snapshot("x", None));
    for spec in &specs {
        node.volumes.apply(spec.clone());
    }
    let Machine { id, keeper, _guard, .. } = machine;
    keeper.quit().await;
    node.volumes.machine_ended(&id).await;
    node.completed(VOLUME, "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_crash_parted_is_completed() {
    if !is_possible() {
        return;
    }
    let mut node = Node::new();
    let together: Vec<_> = [VOLUME, OTHER].map(|id| (id.to_owned(), format!("snap-{id}"))).to_vec();
    let specs = [VOLUME, OTHER].map(|id| {
        let mut spec = spec(id);
        let mut both = snapshot(&format!("snap-{id}"), None);
        both.together = together.clone();
        spec.snapshots = vec![both];
        spec
    });
    for id in [VOLUME, OTHER] {
        node.volumes.apply(spec(id));
        node.ready(id, "made", |_| true).await;
    }
    node.volumes.stop();
    let directory = Directory::new(node.directory.path(), VOLUME);
    let mut record = node.record(VOLUME);
    let snapshots = vec![format!("snap-{VOLUME}")];
    record.cutting = Some(directory::Cutting { new: record.next, snapshots });
    directory.add_layer(record.next, record.user()).unwrap();
    record.next += 1;
    record.finish_cut();
    directory.write(&record).unwrap();
    node.restart();
    for spec in &specs {
        node.volumes.apply(spec.clone());
    }
    for id in [VOLUME, OTHER] {
        node.completed(id, &format!("snap-{id}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_volume_shows_nothing() {
    if !is_possible() {
        return;
    }
    let node = Node::new();
    let mut spec = spec(VOLUME);
    spec.key = Some(wrapped(9));
    node.volumes.apply(spec.clone());
    let machine = node.attach("machine", &[VOLUME]).await;
    // 'A' is 65.
    machine.io(VOLUME, &["write -P 65 1M 1M", "flush"]);
    spec.snapshots = vec![snapshot("snap-1", None)];
    node.volumes.apply(spec.clone());
    let (content, _, _) = node.completed(VOLUME, "snap-1").await;
    machine.io(VOLUME, &["write -P 65 8M 1M", "flush", "read -P 65 1M 1M"]);
    assert_eq!(content.key, spec.key);
    assert_eq!(node.read(&content, 1 << 20, 4096), [65; 4096]);
    // An export does not grow under those who have it; a guest's disk does.
    machine.close(VOLUME).await;
    spec.size_gib = 3;
    node.volumes.apply(spec.clone());
    node.ready(VOLUME, "grown", |ready| ready.size_gib == 3).await;
    machine.export(VOLUME).await;
    machine.io(VOLUME, &["write -P 65 2900M 1M", "flush"]);
    let mut grep = Command::new("grep");
    let found = grep.args(["-rlaF", &"A".repeat(64)]).arg(node.directory.path()).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    node.detach(machine, &[VOLUME]).await;
    // Filled before anybody may have it.
    let mut copy = super::tests::spec(OTHER);
    (copy.source, copy.key, copy.filled_first) = (Some(content), spec.key.clone(), true);
    node.volumes.apply(copy);
    node.ready(OTHER, "filled", |ready| ready.filled_percent == 100).await;
    let machine = node.attach("machine", &[OTHER]).await;
    machine.io(OTHER, &["read -P 65 1M 1M", "read -P 0 8M 1M"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_machines_share_a_volume() {
    if !is_possible() {
        return;
    }
    let mut node = Node::new();
    let mut spec = spec(VOLUME);
    spec.multi_attach = true;
    node.volumes.apply(spec.clone());
    let first = node.attach("machine", &[VOLUME]).await;
    let second = node.attach("machine2", &[VOLUME]).await;
    first.io(VOLUME, &["write -P 7 4M 1M", "flush"]);
    second.io(VOLUME, &["read -P 7 4M 1M", "write -P 8 6M 1M", "flush"]);
    node.restart();
    for machine in [&first, &second] {
        node.volumes.held(VOLUME, &machine.id, machine.keeper.host.clone());
    }
    spec.snapshots = vec![snapshot("snap-1", None)];
    node.volumes.apply(spec.clone());
    let (content, _, _) = node.completed(VOLUME, "snap-1").await;
    assert_eq!(node.read(&content, 6 << 20, 4096), [8; 4096]);
    // The storage daemon dies: its machines wait for the next.
    let keeper = node.record(VOLUME).keeper.unwrap();
    let pid = rustix::process::Pid::from_raw(keeper.pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    first.io(VOLUME, &["read -P 8 6M 1M"]);
    node.detach(first, &[VOLUME]).await;
    second.io(VOLUME, &["read -P 7 4M 1M"]);
    node.detach(second, &[VOLUME]).await;
    assert!(node.record(VOLUME).keeper.is_none());
}

/// Once it says so, nobody else names its source any more, and the source's blocks are freed.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_filled_when_its_record_says_so() {
    let node = Node::new();
    let shared = &node.volumes.shared;
    let source = Content { root: "0".repeat(64), size_gib: 1, key: None };
    let wish = Spec { source: Some(source), ..spec(VOLUME) };
    let handle = Arc::clone(&node.volumes.add(OTHER, None));
    let (_wishes, inbox) = watch::channel(Some(Arc::new(wish.clone())));
    let (_asks, asked) = mpsc::unbounded_channel();
    let record = Record { filled: true, ..Record::new(&wish) };
    let mut volume =
        Volume::new(Arc::clone(shared), Arc::clone(&handle), inbox, asked, Some(record));
    let percent = |handle: &Handle| match &*locked(&handle.state) {
        State::Ready(ready) => ready.filled_percent,
        other => panic!("{other:?}"),
    };
    // The disk is full: it could not be written.
    volume.unsaved = true;
    volume.publish();
    assert_eq!(percent(&handle), 99);
    volume.unsaved = false;
    volume.publish();
    assert_eq!(percent(&handle), 100);
}

/// What the seam promises to a chain that a machine opens.
#[test]
fn chains_name_what_they_are() {
    let chain = Chain {
        volume: VOLUME.to_owned(),
        layers: Vec::new(),
        source: None,
        passphrase: Some(Passphrase("secret".to_owned())),
        throttle: host::Throttle::default(),
    };
    assert!(!format!("{chain:?}").contains("secret"));
    assert_eq!(EXPORT, "volume");
}
