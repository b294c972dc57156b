//! The journal on a disk that tears, fails and loses power.

use super::*;
use crate::faults::{Fault, FaultyDisk};
use crate::txn::{Op, Txn};

const SEGMENT: u64 = 4096;
const FIRST: &str = "0000000000000001.journal";

/// A journal with the state that it adds up to.
struct Fixture {
    disk: FaultyDisk,
    journal: Journal,
    state: State,
}

impl Fixture {
    fn open(disk: &FaultyDisk) -> Self {
        Self::try_open(disk).unwrap()
    }

    fn try_open(disk: &FaultyDisk) -> Result<Self, Error> {
        let mut state = State::default();
        let opened = Journal::open(Arc::new(disk.clone()), SEGMENT, 0, &mut state)?;
        Ok(Fixture { disk: disk.clone(), journal: opened.journal, state })
    }

    /// A batch of a transaction for each value; taken back if it fails, as the engine does.
    fn write(&mut self, values: &[&str]) -> Result<(), Error> {
        let before = self.state.clone();
        let steps = steps(&mut self.state, values);
        let written = self.journal.append(&steps).1;
        if written.is_err() {
            self.state = before;
        }
        written
    }

    fn revision(&self) -> u64 {
        self.state.snapshot.revision
    }

    fn content(&self) -> Vec<crate::KeyValue> {
        self.state.snapshot.scan("").collect()
    }
}

/// A transaction for each value.
fn steps(state: &mut State, values: &[&str]) -> Vec<Step> {
    let step = |(i, value): (usize, &&str)| {
        let ops = vec![Op::put_bytes(format!("k{i}"), *value), Op::put_bytes("last", *value)];
        Step::Commit(state.run(Txn::write(ops)).unwrap().1.unwrap())
    };
    values.iter().enumerate().map(step).collect()
}

#[test]
fn a_record_that_is_torn_at_any_byte_is_no_record() {
    let mut fixture = Fixture::open(&FaultyDisk::default());
    fixture.write(&["one"]).unwrap();
    fixture.write(&["two", "three"]).unwrap();
    let before = fixture.content();
    let start = usize::try_from(fixture.journal.active.as_ref().unwrap().position).unwrap();
    fixture.write(&["four", "five", "a value of some length"]).unwrap();
    let end = usize::try_from(fixture.journal.active.as_ref().unwrap().position).unwrap();
    let after = fixture.content();
    assert_eq!(Fixture::open(&fixture.disk).content(), after);
    for torn in start..end {
        // Cut: zeros from there on, as where nothing arrived. Then ones, as from an earlier use.
        for filler in [0, 0xff] {
            let disk = fixture.disk.with_changed(FIRST, |c| c[torn..].fill(filler));
            let mut found = Fixture::open(&disk);
            if found.revision() == 6 {
                // The bytes that did not arrive were the filler already.
                assert!(fixture.disk.content(FIRST)[torn..end].iter().all(|b| *b == filler));
                assert_eq!(found.content(), after);
                continue;
            }
            assert_eq!(found.content(), before, "torn at {torn}");
            assert_eq!(found.revision(), 3);
            // What comes after the torn record counts, and is found again.
            found.write(&["six"]).unwrap();
            let again = Fixture::open(&disk);
            assert_eq!(again.content(), found.content(), "torn at {torn}");
        }
        // One wrong bit is enough.
        let disk = fixture.disk.with_changed(FIRST, |c| c[torn] ^= 1 << (torn % 8));
        assert_eq!(Fixture::open(&disk).content(), before, "a bit of {torn}");
    }
}

#[test]
fn a_header_that_does_not_fit_is_refused() {
    let mut fixture = Fixture::open(&FaultyDisk::default());
    fixture.write(&["one"]).unwrap();
    for byte in 0..SEGMENT_HEADER as usize {
        let disk = fixture.disk.with_changed(FIRST, |c| c[byte] ^= 1);
        let error = Fixture::try_open(&disk).err().expect("an error");
        let newer = (8..12).contains(&byte); // Format 0 is as unknown as format 257.
        match error {
            Error::NewerFormat { found, .. } => assert!(newer && found > 1, "{byte}"),
            Error::Corrupt { .. } => {}
            other => panic!("{byte}: {other}"),
        }
    }
    let disk = fixture.disk.with_changed(FIRST, |c| c.truncate(7));
    assert!(Fixture::try_open(&disk).is_err());
}

#[test]
fn a_missing_segment_is_noticed() {
    let mut fixture = Fixture::open(&FaultyDisk::default());
    for i in 0..200 {
        fixture.write(&[&format!("value {i}")]).unwrap();
    }
    let segments = fixture.disk.list().unwrap().len();
    assert!(segments > 3, "{segments}");
    fixture.disk.remove("0000000000000002.journal").unwrap();
    let error = Fixture::try_open(&fixture.disk).err().expect("an error");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
}

/// Random batches, failures, restarts and losses of power: whatever was acknowledged is found, and
/// a batch is found whole or not at all.
#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..80 {
        survive(&mut random);
    }
}

fn survive(random: &mut fastrand::Rng) {
    let mut fixture = Fixture::open(&FaultyDisk::default());
    // What a reopened journal may show: what was acknowledged last, or one batch more that failed
    // after its bytes had arrived.
    let mut possible = vec![fixture.content()];
    for step in 0..random.u32(1..60) {
        let fault = match random.u8(..8) {
            0 => Fault::Sync,
            1 => Fault::Write,
            2 => Fault::Full,
            _ => Fault::None,
        };
        fixture.disk.set(fault);
        let value = format!("{step} {}", "x".repeat(random.usize(..900)));
        let batch = vec![value.as_str(); random.usize(1..4)];
        let mut wanted = fixture.state.clone();
        steps(&mut wanted, &batch);
        let wanted = wanted.snapshot.scan("").collect();
        match fixture.write(&batch) {
            Ok(()) => possible = vec![wanted],
            Err(_) => possible.push(wanted),
        }
        fixture.disk.set(Fault::None);
        let lost = random.u8(..6);
        if lost < 2 {
            let disk = match lost {
                0 => fixture.disk.after_power_loss(random),
                _ => fixture.disk.clone(), // Only the process.
            };
            fixture = Fixture::open(&disk);
            let found = fixture.content();
            assert!(possible.contains(&found), "step {step}: {found:?}");
            possible = vec![found];
        }
    }
}
