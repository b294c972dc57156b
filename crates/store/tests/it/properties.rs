//! The backends agree: random operations lead both to the same state, before and after a restart.

use crate::backend::{Backend, block_on, events_until};
use proptest::collection::vec;
use proptest::prelude::*;
use store::{Compare, Op, Txn};

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/", "a/1", "a/2", "a/\u{10ffff}", "b", "b/1"])
        .prop_map(str::to_owned)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), vec(any::<u8>(), 0..40)).prop_map(|(k, v)| Op::put_bytes(k, v)),
        2 => key().prop_map(Op::delete),
        1 => prop::sample::select(vec!["a/", "b", "c", "a/\u{10ffff}"]).prop_map(Op::delete_prefix),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    (key(), 0..12_u64, 0..4).prop_map(|(key, is, kind)| match kind {
        0 => Compare::ModRevision { key, is },
        1 => Compare::CreateRevision { key, is },
        2 => Compare::Version { key, is: is % 4 },
        _ => Compare::absent(key),
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    (vec(compare(), 0..2), vec(op(), 0..4), vec(op(), 0..3))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn backends_agree(txns in vec(txn(), 1..40), restart in 0..40_usize) {
        block_on(async {
            let memory = Backend::memory();
            let mut redb = Backend::redb();
            for (i, txn) in txns.into_iter().enumerate() {
                if i == restart {
                    redb = redb.reopened();
                }
                let from = memory.store.snapshot().revision() + 1;
                let expected = memory.txn(txn.clone()).await;
                let got = redb.txn(txn).await;
                match (&expected, &got) {
                    (Ok(expected), Ok(got)) => {
                        assert_eq!(expected, got);
                        if got.revision >= from {
                            let mut watch = memory.store.watch("", from).unwrap();
                            let expected = events_until(&mut watch, from).await;
                            let mut watch = redb.store.watch("", from).unwrap();
                            assert_eq!(expected, events_until(&mut watch, from).await);
                        }
                    }
                    (Err(expected), Err(got)) => assert_eq!(expected.to_string(), got.to_string()),
                    _ => panic!("{expected:?} and {got:?}"),
                }
            }
            let expected: Vec<_> = memory.store.snapshot().scan("").collect();
            let got: Vec<_> = redb.store.snapshot().scan("").collect();
            assert_eq!(&expected, &got);
            let redb = redb.reopened();
            let got: Vec<_> = redb.store.snapshot().scan("").collect();
            assert_eq!(&expected, &got);
            assert_eq!(memory.store.snapshot().revision(), redb.store.snapshot().revision());
        });
    }
}
