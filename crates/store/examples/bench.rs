//! How many durable transactions a second the store does, with 1, 8 and 64 writers that each wait
//! for their answer: `cargo run --release -p store --example bench [DIRECTORY]`.
//!
//! A transaction is what RunInstances is: a compare and five puts of 1 KiB of JSON. The directory
//! (target/bench-store unless told) is on the file system to be measured; it is emptied before.
//! First the limit: `fdatasync` alone, of the same bytes into a file that is there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::{Compare, Op, Store, Txn};

const WRITERS: [usize; 3] = [1, 8, 64];
const PUTS: usize = 5;
const VALUE_BYTES: usize = 1024;
const SECONDS: u64 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = given.unwrap_or_else(|| PathBuf::from("target/bench-store"));
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    for batch in WRITERS {
        let each = raw(&directory.join("raw"), batch * PUTS * (VALUE_BYTES + 100))?;
        let ceiling = batch as f64 / each.as_secs_f64();
        println!(
            "fdatasync of {batch:>2} transactions: {each:>9.1?}, at most {ceiling:>7.0} txn/s"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for writers in WRITERS {
        let store = store::memory();
        println!("memory {}", runtime.block_on(run(store, writers))?);
    }
    for writers in WRITERS {
        let store = store::redb(&directory.join(format!("store-{writers}")))?;
        println!("redb   {}", runtime.block_on(run(store, writers))?);
    }
    for writers in WRITERS {
        let begun = Instant::now();
        let store = store::redb(&directory.join(format!("store-{writers}")))?;
        let keys = store.snapshot().count("");
        println!("open with {keys} keys: {:.1?}", begun.elapsed());
    }
    println!("{}", runtime.block_on(open(&directory.join("region")))?);
    fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Opening what a region of 1,000 instances leaves behind: each launched, then updated thrice.
async fn open(path: &Path) -> Result<String, store::Error> {
    let store = store::redb(path)?;
    for round in 0..4 {
        for instance in 0..1000 {
            let ops = (0..4).map(|kind| {
                let value = vec![b'0' + round; VALUE_BYTES];
                Op::put_bytes(format!("/us-east-1/kind-{kind}/i-{instance:017x}"), value)
            });
            store.txn(Txn::write(ops.collect())).await?;
        }
    }
    drop(store);
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let store = store::redb(path)?;
        times.push(format!("{:.1?}", begun.elapsed()));
        drop(store);
    }
    Ok(format!("open with 1000 instances of 4 records: {}", times.join(", ")))
}

/// The mean time of a write and `fdatasync` of so many bytes over blocks that are there.
fn raw(path: &Path, bytes: usize) -> std::io::Result<Duration> {
    const ROUNDS: u32 = 200;
    let file = File::create(path)?;
    let content = vec![1; bytes];
    for round in 0..2 {
        let begun = Instant::now();
        for position in 0..ROUNDS {
            file.write_all_at(&content, u64::from(position) * bytes as u64)?;
            if round == 1 {
                file.sync_data()?;
            }
        }
        if round == 1 {
            return Ok(begun.elapsed() / ROUNDS);
        }
        file.sync_all()?;
    }
    Ok(Duration::ZERO)
}

async fn run(store: Arc<dyn Store>, writers: usize) -> Result<String, store::Error> {
    let done = Arc::new(AtomicU64::new(0));
    let value = vec![b'x'; VALUE_BYTES];
    let begun = Instant::now();
    let end = begun + Duration::from_secs(SECONDS);
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let (store, done, value) = (Arc::clone(&store), Arc::clone(&done), value.clone());
        tasks.push(tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for round in 0.. {
                let asked = Instant::now();
                if asked >= end {
                    break;
                }
                let key =
                    |put| format!("/us-east-1/kind-{put}/123456789012/i-{writer:04}{round:012}");
                let compare = Compare::absent(key(0));
                let ops = (0..PUTS).map(|put| Op::put_bytes(key(put), value.clone())).collect();
                store.txn(Txn::when(vec![compare], ops)).await?;
                done.fetch_add(1, Ordering::Relaxed);
                slowest = slowest.max(asked.elapsed());
            }
            Ok::<_, store::Error>(slowest)
        }));
    }
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.map_err(|_| store::Error::Closed)??);
    }
    let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    Ok(format!("{writers:>2} writers: {rate:>7.0} txn/s, slowest answer {slowest:.1?}"))
}
