//! The storage process, as the node starts it.

use base::key::DataKey;
use base::volume::BLOCK_BYTES;
use block::nbd::{Client, StorageOptions};
use block::{Blobs, Config, Upload};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn start(line: &str) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gureum"))
        .arg("storage")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended already, and then says why.
    let _ = child.stdin.take().unwrap().write_all(line.as_bytes());
    child
}

fn serving(options: &StorageOptions) -> Child {
    let mut child = start(&format!("{}\n", serde_json::to_string(options).unwrap()));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "ready\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn options(directory: &Path) -> StorageOptions {
    let blobs = Config::Local { directory: directory.join("blobs") };
    let key = DataKey([7; 32]);
    let upload = Upload::begin(&Blobs::open(&blobs).unwrap(), None, 1, Some(&key)).unwrap();
    upload.put(3, &[9; BLOCK_BYTES]).unwrap();
    StorageOptions {
        blobs,
        content: upload.finish().unwrap().content(None),
        data_key: Some(StorageOptions::encode_key(&key)),
        socket: directory.join("source.sock"),
        owner: std::fs::metadata(directory).unwrap().uid(),
        size: 2 << 30,
    }
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_end_and_another_takes_over() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let mut first = serving(&options);
    let client = Client::connect(&options.socket, "", &[]).await.unwrap();
    assert_eq!((client.size(), client.read_only()), (2 << 30, true));
    let offset = 3 * BLOCK_BYTES as u64;
    assert_eq!(client.read(offset - 1, 3).await.unwrap(), [0, 9, 9]);
    assert_eq!(client.read((2 << 30) - 2, 2).await.unwrap(), [0, 0]);
    signal(&first, Signal::HUP);
    assert_eq!(client.read(offset, 1).await.unwrap(), [9], "the terminal is gone");

    let mut second = serving(&options);
    assert_eq!(client.read(offset, 1).await.unwrap(), [9], "the first has a client");
    signal(&first, Signal::TERM);
    assert!(ended(&mut first).success());
    assert!(client.read(offset, 1).await.is_err());
    let client = Client::connect(&options.socket, "", &[]).await.unwrap();
    assert_eq!(client.read(offset, 1).await.unwrap(), [9]);
    client.close().await;
    std::fs::remove_file(&options.socket).unwrap();
    assert!(ended(&mut second).success(), "nobody needs it");
}

#[test]
fn what_it_cannot_serve_it_says_without_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let good = options(directory.path());
    let secret = StorageOptions::encode_key(&DataKey([8; 32]));
    let wrong_key = StorageOptions { data_key: Some(secret.clone()), ..good.clone() };
    let wrong_key = serde_json::to_string(&wrong_key).unwrap();
    let wrong_type = wrong_key.replace("\"size\":", &format!("\"size\":\"{secret}\",\"other\":"));
    for line in ["", "{}", &wrong_type, &wrong_key] {
        let mut child = start(line);
        assert!(!ended(&mut child).success(), "{line}");
        let mut words = String::new();
        child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert!(words.starts_with("gureum: ") && !words.contains(&secret), "{words}");
    }
    assert!(!good.socket.exists());
}
