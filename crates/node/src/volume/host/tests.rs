//! The block layer of a real qemu-storage-daemon.

use super::*;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const VOLUME: &str = "vol-0123456789abcdef0";
const MIB: u64 = 1 << 20;

/// A storage daemon in a directory with layers; ends with the test.
struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Daemon {
    async fn start() -> (Daemon, Host) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("block.sock");
        let chardev = format!("socket,id=monitor,path={},server=on,wait=off", socket.display());
        let child = Command::new("qemu-storage-daemon")
            .args(["--chardev", &chardev, "--monitor", "chardev=monitor"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-utils is installed");
        let daemon = Daemon { child, directory };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let host = loop {
            match Host::connect(&socket).await {
                Ok(host) => break host,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        (daemon, host)
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let command = command.args(arguments).current_dir(self.directory.path());
        let output = command.stdout(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
    }

    /// Makes a layer with 16 MiB of data.
    fn layer(&self, number: u32) -> Layer {
        let file = format!("{number}.qcow2");
        self.run("qemu-img", &["create", "-q", "-f", "qcow2", &file, "64M"]);
        self.run("qemu-io", &["-f", "qcow2", "-c", "write -q 0 16M", &file]);
        Layer { number, file }
    }

    /// Fails if somebody has the layer open.
    fn open(&self, number: u32) {
        let file = format!("{number}.qcow2");
        self.run("qemu-io", &["-f", "qcow2", "-c", "flush", &file]);
    }
}

fn chain(layers: Vec<Layer>) -> Chain {
    let volume = VOLUME.to_owned();
    Chain { volume, layers, source: None, passphrase: None, throttle: Throttle::default() }
}

fn cut(active: u32, new: Layer) -> Cut {
    Cut { volume: VOLUME.to_owned(), active, new, encrypted: false }
}

#[tokio::test]
async fn a_volume_is_opened_once() {
    let (daemon, host) = Daemon::start().await;
    let open = chain(vec![daemon.layer(0), daemon.layer(1)]);
    host.add_chain(&open).await.unwrap();
    assert!(host.add_chain(&open).await.is_err());
    assert_eq!(host.layers(VOLUME).await.unwrap(), [0, 1], "it stays open");
    host.remove_chain(VOLUME).await.unwrap();
    let missing = Layer { number: 2, file: "missing.qcow2".to_owned() };
    let broken = chain(vec![open.layers[0].clone(), missing]);
    assert!(host.add_chain(&broken).await.is_err());
    assert!(!host.graph().await.unwrap().has_any(VOLUME));
    host.add_chain(&open).await.unwrap();
}

#[tokio::test]
async fn a_cut_is_whole_and_layers_merge() {
    let (daemon, host) = Daemon::start().await;
    host.add_chain(&chain(vec![daemon.layer(0), daemon.layer(1)])).await.unwrap();
    assert_eq!(host.layers(VOLUME).await.unwrap(), [0, 1]);

    let missing = Layer { number: 2, file: "missing.qcow2".to_owned() };
    assert!(matches!(host.cut(&[cut(1, missing)]).await, Err(Error::Refused { .. })));
    let new = daemon.layer(2);
    let wrong = cut(7, new.clone());
    assert!(matches!(host.cut(&[wrong]).await, Err(Error::Refused { .. })));
    assert_eq!(host.layers(VOLUME).await.unwrap(), [0, 1]);
    daemon.open(2);
    host.cut(&[cut(1, new)]).await.unwrap();
    assert_eq!(host.volumes().await.unwrap(), BTreeMap::from([(VOLUME.to_owned(), vec![0, 1, 2])]));

    let mut events = host.events();
    host.commit(VOLUME, 1, 0, 0).await.unwrap();
    let ended = Event::Job { volume: VOLUME.to_owned() };
    assert_eq!(events.recv().await.unwrap(), ended);
    let job = host.job(VOLUME, JobKind::Commit).await.unwrap().expect("it is kept");
    assert_eq!(job.ended, Some(Ok(())));
    host.dismiss_job(VOLUME, JobKind::Commit).await.unwrap();
    assert_eq!(host.job(VOLUME, JobKind::Commit).await.unwrap(), None);
    assert_eq!(host.layers(VOLUME).await.unwrap(), [0, 2]);
    daemon.open(1);

    host.resize(VOLUME, 128 * MIB).await.unwrap();
    assert_eq!(host.size(&serial(VOLUME)).await.unwrap(), 128 * MIB);
    let bucket = Bucket { average: 100, burst: 3000, burst_seconds: 60 };
    let throttle = Throttle { operations: bucket, bytes: bucket, operation_bytes: 1 << 18 };
    host.set_throttle(VOLUME, throttle).await.unwrap();
    host.remove_chain(VOLUME).await.unwrap();
    assert!(host.volumes().await.unwrap().is_empty());
    for number in [0, 2] {
        daemon.open(number);
    }
    host.remove_chain(VOLUME).await.unwrap();
}

#[tokio::test]
async fn jobs_end_with_the_volume() {
    let (daemon, host) = Daemon::start().await;
    let layers = vec![daemon.layer(0), daemon.layer(1), daemon.layer(2)];
    for taken in [false, true] {
        host.add_chain(&chain(layers.clone())).await.unwrap();
        // Slow enough not to end by themselves.
        host.stream(VOLUME, 0, 1).await.unwrap();
        host.commit(VOLUME, 1, 0, 1).await.unwrap_err();
        host.cancel_job(VOLUME, JobKind::Stream).await.unwrap();
        host.commit(VOLUME, 1, 0, 1).await.unwrap();
        let job = host.job(VOLUME, JobKind::Commit).await.unwrap();
        assert_eq!(job.expect("it runs").ended, None);
        if taken {
            host.take_away(VOLUME).await.unwrap();
            assert!(host.was_taken_away(VOLUME).await.unwrap());
            assert!(host.layers(VOLUME).await.unwrap().is_empty());
            (0..3).for_each(|number| daemon.open(number));
            host.take_away(VOLUME).await.unwrap();
        } else {
            assert!(!host.was_taken_away(VOLUME).await.unwrap());
        }
        host.remove_chain(VOLUME).await.unwrap();
        assert!(!host.graph().await.unwrap().has_any(VOLUME));
        (0..3).for_each(|number| daemon.open(number));
    }
}

#[tokio::test]
async fn a_daemon_that_dies_is_noticed() {
    let (mut daemon, host) = Daemon::start().await;
    let mut events = host.events();
    daemon.child.kill().unwrap();
    host.closed().await;
    assert!(matches!(host.layers(VOLUME).await, Err(Error::Closed | Error::Io(_))));
    assert!(events.recv().await.is_err());
    let nowhere = PathBuf::from("/nonexistent/block.sock");
    assert!(matches!(Host::connect(&nowhere).await, Err(Error::Io(_))));
}
