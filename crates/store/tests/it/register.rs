//! A checker for histories of one register (Wing and Gong's search, with Lowe's memory of what was
//! tried): is there an order of the operations that respects real time and in which every answer
//! is right?

use std::collections::HashSet;

/// What was asked and answered. 0 stands for no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    Read(u32),
    Write(u32),
    CompareAndSet { expected: u32, new: u32, succeeded: bool },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// Before the call; any unit.
    pub(crate) invoked: u64,
    /// After the answer.
    pub(crate) returned: u64,
    pub(crate) action: Action,
}

impl Action {
    /// The register after it; `None` if the answer is wrong for a register that holds `value`.
    fn apply(self, value: u32) -> Option<u32> {
        match self {
            Action::Read(read) => (read == value).then_some(value),
            Action::Write(new) => Some(new),
            Action::CompareAndSet { expected, new, succeeded } => {
                let next = if succeeded { new } else { value };
                (succeeded == (expected == value)).then_some(next)
            }
        }
    }
}

/// Whether the history, of at most 64 operations, can have come from one register that starts
/// without a value.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    assert!(history.len() <= 64, "the set of operations is a word");
    let all = u64::MAX.checked_shr(64 - history.len() as u32).unwrap_or(0);
    let mut tried = HashSet::new();
    let mut stack = vec![(0_u64, 0_u32)];
    while let Some((done, value)) = stack.pop() {
        if done == all {
            return true;
        }
        if !tried.insert((done, value)) {
            continue;
        }
        let open = || history.iter().enumerate().filter(|(i, _)| done >> i & 1 == 0);
        // Next can be only what was called before the first of the others answered.
        let first_answer = open().map(|(_, o)| o.returned).min().unwrap_or(u64::MAX);
        for (i, operation) in open().filter(|(_, o)| o.invoked <= first_answer) {
            if let Some(next) = operation.action.apply(value) {
                stack.push((done | 1 << i, next));
            }
        }
    }
    false
}

fn history(operations: &[(u64, u64, Action)]) -> Vec<Operation> {
    let operation = |&(invoked, returned, action)| Operation { invoked, returned, action };
    operations.iter().map(operation).collect()
}

#[test]
fn right_histories_pass() {
    use Action::{CompareAndSet, Read, Write};
    assert!(is_linearizable(&[]));
    assert!(is_linearizable(&history(&[(0, 1, Read(0)), (2, 3, Write(1)), (4, 5, Read(1))])));
    // At the same time, either order will do.
    assert!(is_linearizable(&history(&[(0, 9, Write(1)), (1, 2, Read(0)), (3, 4, Read(1))])));
    let cas = |succeeded| CompareAndSet { expected: 0, new: 7, succeeded };
    assert!(is_linearizable(&history(&[(0, 9, cas(false)), (0, 9, cas(true)), (10, 11, Read(7))])));
}

#[test]
fn wrong_histories_are_found() {
    use Action::{CompareAndSet, Read, Write};
    // A stale read.
    assert!(!is_linearizable(&history(&[(0, 1, Write(1)), (2, 3, Write(2)), (4, 5, Read(1))])));
    // A read before the write was called.
    assert!(!is_linearizable(&history(&[(0, 1, Read(1)), (2, 3, Write(1))])));
    // New, then old again.
    assert!(!is_linearizable(&history(&[(0, 9, Write(1)), (1, 2, Read(1)), (3, 4, Read(0))])));
    // A lost update: both succeed.
    let cas = |new| CompareAndSet { expected: 0, new, succeeded: true };
    assert!(!is_linearizable(&history(&[(0, 9, cas(1)), (0, 9, cas(2))])));
}
