//! Concurrent writers and readers see one order of things. Rounds of random operations from
//! several threads are recorded with their times and checked, each key as a register, and all by
//! their revisions. A failure prints its seed; the threads' interleaving is the machine's.

use crate::backend::{Backend, block_on, on_every_backend};
use crate::register::{Action, Operation, is_linearizable};
use std::sync::{Arc, Barrier};
use std::time::Instant;
use store::{Compare, KeyValue, Op, Revision, Store, Txn};

on_every_backend!(histories_are_linearizable);

const ROUNDS: u64 = 60;
const THREADS: u64 = 4;
const OPERATIONS: u32 = 12;
const KEYS: usize = 3;

/// One call: of which key, and what the store said of its revision.
struct Call {
    key: usize,
    operation: Operation,
    revision: Revision,
    wrote: bool,
}

async fn histories_are_linearizable(b: Backend) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for round in 0..ROUNDS {
        let calls = record(&b.store, round, seed.wrapping_add(round * THREADS));
        for key in 0..KEYS {
            let history: Vec<Operation> =
                calls.iter().filter(|c| c.key == key).map(|c| c.operation).collect();
            assert!(is_linearizable(&history), "seed {seed}, round {round}: {history:#?}");
        }
        revisions_respect_time(&calls);
    }
}

fn record(store: &Arc<dyn Store>, round: u64, seed: u64) -> Vec<Call> {
    let begin = Instant::now();
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed + thread);
                    barrier.wait();
                    block_on(async {
                        let mut calls = Vec::new();
                        for _ in 0..OPERATIONS {
                            calls.push(call(store, round, begin, &mut random).await);
                        }
                        calls
                    })
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

async fn call(
    store: &Arc<dyn Store>,
    round: u64,
    begin: Instant,
    random: &mut fastrand::Rng,
) -> Call {
    let now = || u64::try_from(begin.elapsed().as_nanos()).unwrap();
    let key = random.usize(..KEYS);
    let name = |key: usize| format!("{round}/{key}");
    let value = |entry: Option<KeyValue>| {
        entry.map_or(0, |e| std::str::from_utf8(e.value()).unwrap().parse().unwrap())
    };
    // Few values, so that compares succeed now and then and wrong answers may look right: then the
    // search has something to do.
    let new = random.u32(1..6);
    let bytes = |number: u32| number.to_string().into_bytes();
    // Beside the register each write leaves its value twice; readers must see both or neither.
    let put = |number: u32| {
        let twin = Op::put_bytes(format!("{}/twin", name(key)), bytes(number));
        vec![Op::put_bytes(name(key), bytes(number)), twin]
    };
    match random.u8(..4) {
        0 | 1 => {
            let invoked = now();
            let snapshot = store.snapshot();
            let returned = now();
            let read = value(snapshot.get(&name(key)));
            assert_eq!(read, value(snapshot.get(&format!("{}/twin", name(key)))));
            let operation = Operation { invoked, returned, action: Action::Read(read) };
            Call { key, operation, revision: snapshot.revision(), wrote: false }
        }
        2 => {
            let invoked = now();
            let result = store.txn(Txn::write(put(new))).await.unwrap();
            let returned = now();
            let operation = Operation { invoked, returned, action: Action::Write(new) };
            Call { key, operation, revision: result.revision, wrote: true }
        }
        _ => {
            let expected = random.u32(..6);
            let compare = match expected {
                0 => Compare::absent(name(key)),
                _ => Compare::Value { key: name(key), is: bytes(expected) },
            };
            let invoked = now();
            let result = store.txn(Txn::when(vec![compare], put(new))).await.unwrap();
            let returned = now();
            let succeeded = result.succeeded;
            let action = Action::CompareAndSet { expected, new, succeeded };
            let operation = Operation { invoked, returned, action };
            Call { key, operation, revision: result.revision, wrote: succeeded }
        }
    }
}

/// What begins after another has ended has a revision no smaller, and a greater one if it writes.
fn revisions_respect_time(calls: &[Call]) {
    for before in calls {
        for after in calls.iter().filter(|c| before.operation.returned < c.operation.invoked) {
            let least = before.revision + u64::from(after.wrote);
            assert!(after.revision >= least, "{:?}, {:?}", before.operation, after.operation);
        }
    }
    let mut written: Vec<Revision> = calls.iter().filter(|c| c.wrote).map(|c| c.revision).collect();
    written.sort_unstable();
    assert!(written.windows(2).all(|pair| pair[0] < pair[1]), "a revision is one transaction's");
}
