//! kill -9 at random moments: what was acknowledged is there, and nothing is there by half.
//!
//! The child is this test binary again. Each of its writers counts: transaction `n` writes `n` to
//! two keys, adds an entry `n` to its log and removes an old one, and is printed when the store
//! answered. So whatever the moment of the kill, the two keys and the log must tell one number, at
//! least the one that was printed and at most one more.

use crate::backend::{block_on, options};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use store::{Op, Store, Txn};

const DIRECTORY: &str = "GUREUM_STORE_CRASH_TEST_DIRECTORY";
const ROUNDS: u32 = 60;
const WRITERS: u64 = 8;
const LOG: u64 = 20;

fn open(path: &Path) -> Arc<dyn Store> {
    store::redb_with(path, &options(&Arc::new(AtomicI64::new(0)))).unwrap()
}

fn number(store: &Arc<dyn Store>, key: &str) -> u64 {
    let entry = store.snapshot().get(key);
    entry.map_or(0, |e| std::str::from_utf8(e.value()).unwrap().trim_end().parse().unwrap())
}

/// The number in fixed width, with something behind it that makes the records worth a sector.
fn value(n: u64) -> String {
    format!("{n:<200}")
}

#[test]
fn child_of_the_crash_test() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    let store = open(path.as_ref());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let writers = tokio::task::LocalSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn_local(async move {
            for n in number(&store, &format!("{writer}/first")) + 1.. {
                let mut ops = vec![
                    Op::put_bytes(format!("{writer}/first"), value(n)),
                    Op::put_bytes(format!("{writer}/log/{n:08}"), value(n)),
                    Op::put_bytes(format!("{writer}/second"), value(n)),
                ];
                if let Some(old) = n.checked_sub(LOG) {
                    ops.push(Op::delete(format!("{writer}/log/{old:08}")));
                }
                store.txn(Txn::write(ops)).await.unwrap();
                let mut out = std::io::stdout().lock();
                out.write_all(format!("\nacknowledged {writer} {n}\n").as_bytes()).unwrap();
                out.flush().unwrap();
            }
        });
    }
    runtime.block_on(writers);
}

#[test]
fn acknowledged_transactions_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut total = 0;
    for round in 0..ROUNDS {
        let acknowledged =
            run_and_kill(directory.path(), Duration::from_micros(random.u64(..40_000)));
        total += acknowledged.iter().filter(|n| **n > 0).count();
        let store = open(directory.path());
        let snapshot = store.snapshot();
        for (writer, acknowledged) in (0..WRITERS).zip(acknowledged) {
            let first = number(&store, &format!("{writer}/first"));
            let second = number(&store, &format!("{writer}/second"));
            assert_eq!(first, second, "round {round}: a transaction by half");
            assert!(first >= acknowledged, "round {round}: {acknowledged} lost, {first} there");
            if acknowledged > 0 {
                assert!(first <= acknowledged + 1, "round {round}: {first} was never asked for");
            }
            let prefix = format!("{writer}/log/");
            let log: Vec<String> = snapshot.scan(&prefix).map(|e| e.key().to_owned()).collect();
            let oldest = (first + 1).saturating_sub(LOG).max(1);
            let expected: Vec<String> =
                (oldest..=first).map(|n| format!("{prefix}{n:08}")).collect();
            assert_eq!(log, expected, "round {round}");
        }
        // And it can be written.
        block_on(store.txn(Txn::write(vec![Op::put_bytes("round", round.to_string())]))).unwrap();
    }
    assert!(total > 0, "no round got as far as an acknowledgement");
}

/// Runs the child until `after` its first acknowledgement; the last number of each writer.
fn run_and_kill(path: &Path, after: Duration) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crash::child_of_the_crash_test", "--exact", "--nocapture"])
        .env(DIRECTORY, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = vec![0; WRITERS as usize];
    let mut take = |line: &str| {
        // Without its end, the line may be cut in the number.
        let numbers = line.strip_prefix("acknowledged ").and_then(|rest| rest.strip_suffix('\n'));
        if let Some((writer, n)) = numbers.and_then(|numbers| numbers.split_once(' ')) {
            acknowledged[writer.parse::<usize>().unwrap()] = n.parse().unwrap();
            return true;
        }
        false
    };
    let mut line = String::new();
    loop {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child ended by itself");
        if take(&line) {
            break;
        }
    }
    // The pipe is read to its end only after the kill: a full pipe stops a writer that has its
    // answer, which is a moment as good as any.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    loop {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            return acknowledged;
        }
        take(&line);
    }
}
