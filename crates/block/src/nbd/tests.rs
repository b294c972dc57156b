//! Our client, our server and QEMU's, against each other.

use super::client::Status;
use super::protocol::{ALLOCATION_DEPTH, BASE_ALLOCATION, STATE_HOLE, STATE_ZERO};
use super::server::{Export, Extent, Piece, serve};
use super::{Client, Error, protocol};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

const BLOCK: usize = 64 << 10;

/// Blocks in memory; `None` is zeros. Some are had at once, some are slow, some are damaged.
#[derive(Debug, Default)]
struct Memory {
    blocks: Vec<Option<Bytes>>,
    at_once: bool,
    damaged: Option<usize>,
    /// Reading this block waits until the gate is open.
    slow: Option<usize>,
    gate: (Mutex<bool>, Condvar),
    reads: AtomicUsize,
}

impl Memory {
    /// Every third block is zeros.
    fn random(blocks: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let block = |index| (index % 3 != 1).then(|| (0..BLOCK).map(|_| rng.u8(..)).collect());
        Memory { blocks: (0..blocks).map(block).collect(), ..Memory::default() }
    }

    fn bytes(&self) -> Vec<u8> {
        let zeros = Bytes::from(vec![0; BLOCK]);
        self.blocks.iter().flat_map(|block| block.as_ref().unwrap_or(&zeros).to_vec()).collect()
    }

    fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    /// The parts of blocks that make a range: index, begin, length.
    fn parts(offset: u64, length: u32) -> Vec<(usize, usize, usize)> {
        let (mut at, mut left) = (offset as usize, length as usize);
        let mut parts = Vec::new();
        while left > 0 {
            let part = left.min(BLOCK - at % BLOCK);
            parts.push((at / BLOCK, at % BLOCK, part));
            (at, left) = (at + part, left - part);
        }
        parts
    }

    fn pieces(&self, offset: u64, length: u32) -> Vec<Piece> {
        let piece = |(index, begin, length): (usize, usize, usize)| match &self.blocks[index] {
            Some(block) => Piece::Data(block.slice(begin..begin + length)),
            None => Piece::Zeros(length as u32),
        };
        Self::parts(offset, length).into_iter().map(piece).collect()
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        (self.blocks.len() * BLOCK) as u64
    }

    fn read_now(&self, offset: u64, length: u32) -> Option<Vec<Piece>> {
        self.at_once.then(|| self.pieces(offset, length))
    }

    fn read(&self, offset: u64, length: u32) -> io::Result<Vec<Piece>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        for (index, ..) in Self::parts(offset, length) {
            if self.damaged == Some(index) {
                return Err(io::Error::other("the block is damaged"));
            }
            if self.slow == Some(index) {
                let gate = self.gate.0.lock().unwrap();
                drop(self.gate.1.wait_while(gate, |open| !*open).unwrap());
            }
        }
        Ok(self.pieces(offset, length))
    }

    fn extents(&self, offset: u64, length: u32) -> io::Result<Vec<Extent>> {
        let extent = |(index, _, length): (usize, usize, usize)| Extent {
            length: length as u32,
            zeros: self.blocks[index].is_none(),
        };
        Ok(Self::parts(offset, length).into_iter().map(extent).collect())
    }
}

/// A server that ends with the test.
struct Served {
    directory: tempfile::TempDir,
    server: JoinHandle<()>,
}

impl Served {
    fn new(export: Arc<Memory>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        Served { directory, server: tokio::spawn(serve(listener, export)) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket(), "", &[BASE_ALLOCATION]).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_read_what_is_served() {
    for at_once in [false, true] {
        let export = Arc::new(Memory { at_once, ..Memory::random(20, 1) });
        let bytes = Arc::new(export.bytes());
        let served = Served::new(Arc::clone(&export));
        let mut readers = Vec::new();
        for seed in 0..2 {
            let client = Arc::new(served.client().await);
            assert_eq!((client.size(), client.read_only()), (export.size(), true));
            for part in 0..8 {
                let (client, bytes) = (Arc::clone(&client), Arc::clone(&bytes));
                readers.push(tokio::spawn(async move {
                    let mut rng = fastrand::Rng::with_seed(seed * 100 + part);
                    for _ in 0..20 {
                        let begin = rng.usize(..bytes.len());
                        let length = rng.usize(..=(bytes.len() - begin).min(4 * BLOCK));
                        let read = client.read(begin as u64, length as u32).await.unwrap();
                        assert!(read == bytes[begin..begin + length], "{begin} {length}");
                    }
                }));
            }
        }
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(export.reads.load(Ordering::Relaxed) == 0, at_once);
    }
}

#[tokio::test]
async fn holes_are_told() {
    let export = Arc::new(Memory::random(6, 2));
    let served = Served::new(export);
    let client = served.client().await;
    let block = BLOCK as u64;
    let zeros = STATE_HOLE | STATE_ZERO;
    let told = client.status(BASE_ALLOCATION, 512, 6 * block - 512).await.unwrap();
    let of = |offset, end, flags| Status { offset, length: end - offset, flags };
    let wanted = [
        of(512, block, 0),
        of(block, 2 * block, zeros),
        of(2 * block, 4 * block, 0),
        of(4 * block, 5 * block, zeros),
        of(5 * block, 6 * block, 0),
    ];
    assert_eq!(told, wanted);
    let unselected = client.status(ALLOCATION_DEPTH, 0, 1).await;
    assert!(matches!(unselected, Err(Error::Refused { .. })), "{unselected:?}");
    let refused = Client::connect(&served.socket(), "", &[ALLOCATION_DEPTH]).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let refused = Client::connect(&served.socket(), "other", &[]).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    client.close().await;
}

#[tokio::test]
async fn a_damaged_block_fails_its_reads_alone() {
    let export = Arc::new(Memory { damaged: Some(3), ..Memory::random(6, 3) });
    let bytes = export.bytes();
    let served = Served::new(export);
    let client = served.client().await;
    for (offset, length) in [(3 * BLOCK, 1), (2 * BLOCK, 2 * BLOCK), (0, 6 * BLOCK)] {
        match client.read(offset as u64, length as u32).await {
            Err(Error::Failed { code, message }) => {
                assert_eq!((code, &*message), (protocol::errno::EIO, "the block is damaged"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(client.read(0, 3 * BLOCK as u32).await.unwrap() == bytes[..3 * BLOCK]);
    let outside = client.read(6 * BLOCK as u64 - 1, 2).await;
    assert!(matches!(outside, Err(Error::OutOfRange { .. })), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_read_holds_up_no_other() {
    let export = Arc::new(Memory { slow: Some(0), ..Memory::random(6, 4) });
    let served = Served::new(Arc::clone(&export));
    let client = Arc::new(served.client().await);
    let slow = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.read(0, 10).await }
    });
    // A caller who goes away takes nothing with him.
    let gone = tokio::time::timeout(Duration::from_millis(1), client.read(5, 10)).await;
    assert!(gone.is_err());
    for block in 2..6 {
        client.read(block * BLOCK as u64, 100).await.unwrap();
    }
    assert!(!slow.is_finished());
    export.open_gate();
    assert_eq!(slow.await.unwrap().unwrap(), export.bytes()[..10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_fails_when_the_connection_breaks() {
    let export = Arc::new(Memory { slow: Some(0), ..Memory::random(6, 5) });
    let served = Served::new(Arc::clone(&export));
    let client = Arc::new(served.client().await);
    let slow = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.read(0, 10).await }
    });
    while export.reads.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.server.abort();
    assert!(matches!(slow.await.unwrap(), Err(Error::Io(_))));
    assert!(matches!(client.read(BLOCK as u64, 10).await, Err(Error::Io(_))));
    export.open_gate();
}

#[tokio::test]
async fn rubbish_costs_a_client_its_connection_and_nobody_else() {
    let export = Arc::new(Memory::random(2, 6));
    let served = Served::new(export);
    let honest = served.client().await;
    let flags = 3_u32.to_be_bytes();
    let mut long = flags.to_vec();
    long.extend_from_slice(&protocol::OPTION_MAGIC.to_be_bytes());
    long.extend_from_slice(&[0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]);
    let mut gone = flags.to_vec();
    protocol::encode_option(protocol::option::EXPORT_NAME, &[], &mut gone);
    gone.extend_from_slice(&[7; 28]);
    for rubbish in [vec![0xff; 4], [&flags[..], &[9; 16]].concat(), long, gone] {
        let mut stream = UnixStream::connect(served.socket()).await.unwrap();
        stream.write_all(&rubbish).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
        // Whether it ends with what was not read or not is the kernel's.
        let _ = ended.await.expect("the connection is still there");
    }
    assert_eq!(honest.read(0, 8).await.unwrap().len(), 8);
}

#[tokio::test]
async fn an_old_client_gets_simple_replies_and_may_not_write() {
    let export = Arc::new(Memory::random(2, 7));
    let bytes = export.bytes();
    let served = Served::new(export);
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(protocol::decode_greeting(&greeting), Ok(3));
    let mut words = 0_u32.to_be_bytes().to_vec();
    protocol::encode_option(protocol::option::EXPORT_NAME, &[], &mut words);
    let mut request = |command, length: u32, data: &[u8]| {
        let offset = BLOCK as u64 - 10;
        let request =
            protocol::Request { flags: 0, command, cookie: length.into(), offset, length };
        words.extend_from_slice(&request.encode());
        words.extend_from_slice(data);
    };
    request(protocol::command::WRITE, 600, &[1; 600]);
    request(protocol::command::READ, 20, &[]);
    request(protocol::command::FLUSH, 0, &[]);
    request(99, 1, &[]);
    request(protocol::command::DISCONNECT, 0, &[]);
    stream.write_all(&words).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let (head, mut replies) = all.split_at(134);
    assert_eq!(head[..8], (2 * BLOCK as u64).to_be_bytes());
    let mut found = Vec::new();
    while let Some((head, rest)) = replies.split_first_chunk() {
        let protocol::ReplyHead::Simple { error, cookie } =
            protocol::decode_reply_head(head).unwrap()
        else {
            panic!("a chunk was not agreed");
        };
        let data = if (error, cookie) == (0, 20) { 20 } else { 0 };
        found.push((cookie, error, rest[..data].to_vec()));
        replies = &rest[data..];
    }
    found.sort();
    let wanted = [
        (0, 0, vec![]),
        (1, protocol::errno::EINVAL, vec![]),
        (20, 0, bytes[BLOCK - 10..BLOCK + 10].to_vec()),
        (600, protocol::errno::EPERM, vec![]),
    ];
    assert_eq!(found, wanted);
}

/// Whether QEMU's tools are here. Where all tests are to run they must be.
fn has_qemu() -> bool {
    let tools = ["qemu-img", "qemu-nbd", "qemu-io"];
    let missing = tools
        .iter()
        .find(|tool| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err());
    let Some(missing) = missing else { return true };
    let all = std::env::var_os("GUREUM_PRIVILEGED_TESTS").is_some_and(|value| value == "1");
    assert!(!all, "{missing} is not installed (Debian: qemu-utils)");
    eprintln!("skipped: {missing} is not installed (Debian: qemu-utils)");
    false
}

async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
    let output = tokio::time::timeout(Duration::from_secs(60), command.output());
    let output = output.await.expect("it does not end").unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_reads_what_is_served() {
    if !has_qemu() {
        return;
    }
    for at_once in [false, true] {
        let export = Arc::new(Memory { at_once, ..Memory::random(128, 8) });
        let served = Served::new(Arc::clone(&export));
        let (uri, directory) = (served.uri(), served.directory.path());
        let (copy, whole) = (directory.join("copy"), directory.join("whole"));
        let (copy, whole) = (copy.to_str().unwrap(), whole.to_str().unwrap());
        run("qemu-img", &["convert", "-O", "raw", &uri, copy]).await;
        assert!(std::fs::read(copy).unwrap() == export.bytes());
        std::fs::write(whole, export.bytes()).unwrap();
        let compared = run("qemu-img", &["compare", "-F", "raw", &uri, whole]).await;
        assert_eq!(compared, "Images are identical.\n");
        let map = run("qemu-img", &["map", "--output=json", &uri]).await;
        let zeros = map.matches("\"zero\": true").count();
        assert_eq!(zeros, 43, "{map}");
        for size in ["4096", "1048576"] {
            let bench = ["bench", "-f", "raw", "-c", "200", "-d", "16", "-s", size, &uri];
            run("qemu-img", &bench).await;
        }
        let refused = Command::new("qemu-io")
            .args(["-f", "raw", "-c", "write 0 4096", &uri])
            .output()
            .unwrap();
        assert!(!refused.status.success());
    }
}

/// A `qemu-nbd` that ends with the test.
struct QemuNbd(Child);

impl QemuNbd {
    fn new(socket: &Path, image: &Path, options: &[&str]) -> Self {
        let child = Command::new("qemu-nbd")
            .args(["--read-only", "--persistent", "--shared=0", "--format=qcow2"])
            .args(options)
            .arg("--socket")
            .arg(socket)
            .arg(image)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "qemu-nbd does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        QemuNbd(child)
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_chain_are_told_apart() {
    if !has_qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let layout = "extended_l2=on,cluster_size=128k";
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", layout, &text("0"), "8M"]).await;
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", &text("0")]).await;
    for layer in ["1", "2"] {
        let below = (layer.parse::<u8>().unwrap() - 1).to_string();
        let create = ["create", "-q", "-f", "qcow2", "-o", layout, "-F", "qcow2", "-b"];
        run("qemu-img", &[&create[..], &[&text(&below), &text(layer)]].concat()).await;
    }
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 2 512k 4k", &text("1")]).await;
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 3 516k 4k", &text("2")]).await;
    run("qemu-io", &["-f", "qcow2", "-c", "write -z 3M 64k", &text("2")]).await;

    let _server = QemuNbd::new(&path("socket"), &path("2"), &["--allocation-depth"]);
    let contexts = [BASE_ALLOCATION, ALLOCATION_DEPTH];
    let client = Client::connect(&path("socket"), "", &contexts).await.unwrap();
    assert_eq!((client.size(), client.read_only()), (8 << 20, true));
    let kib = |begin: u64, end: u64, flags| Status {
        offset: begin << 10,
        length: (end - begin) << 10,
        flags,
    };
    let depths = client.status(ALLOCATION_DEPTH, 0, 8 << 20).await.unwrap();
    let wanted = [
        kib(0, 512, 3),
        kib(512, 516, 2),
        kib(516, 520, 1),
        kib(520, 1024, 3),
        kib(1024, 3072, 0),
        kib(3072, 3136, 1),
        kib(3136, 8192, 0),
    ];
    assert_eq!(depths, wanted);
    let zeros: Vec<bool> = client
        .status(BASE_ALLOCATION, 0, 8 << 20)
        .await
        .unwrap()
        .iter()
        .map(|status| status.flags & STATE_ZERO != 0)
        .collect();
    assert!(zeros.starts_with(&[false, true]), "{zeros:?}");
    let data = client.read(510 << 10, 12 << 10).await.unwrap();
    let runs: Vec<(u8, usize)> =
        data.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() >> 10)).collect();
    assert_eq!(runs, [(1, 2), (2, 4), (3, 4), (1, 2)]);
    assert!(client.read(2 << 20, 4 << 20).await.unwrap().iter().all(|byte| *byte == 0));
    client.close().await;
}
