//! What to do next with a machine, given what is wanted of it: pure, total and without memory.
//!
//! The state machine of [`super::machine`] asks at every event; asking twice answers the same.

use base::machine::{ExitCause, Wanted};

/// Where a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Off. `ended` is the last start that was tried, 0 if none was.
    Off { ended: u32 },
    /// A QEMU process runs it.
    Up { start: u32, reboots: u32, closing: Option<Closing> },
    /// Terminated and cleaned up.
    Gone,
}

/// Why the guest was asked to power itself off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// To stay off.
    Stop,
    /// To come up again.
    Reboot,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Launch {
        start: u32,
        reboots: u32,
    },
    /// Press the ACPI power button; the guest has a grace to follow.
    Press(Closing),
    /// End the process now.
    Quit,
    /// End the process, delete what goes with the machine.
    Demolish,
}

/// The next step from `phase` towards `wanted`.
pub(crate) fn decide(phase: Phase, wanted: Wanted) -> Action {
    match (phase, wanted) {
        (Phase::Gone, _) => Action::Nothing,
        (_, Wanted::Terminated) => Action::Demolish,
        (Phase::Off { ended }, Wanted::Running { start, reboots }) if start > ended => {
            Action::Launch { start, reboots }
        }
        (Phase::Off { .. }, _) => Action::Nothing,
        (Phase::Up { .. }, Wanted::Stopped { force: true }) => Action::Quit,
        (Phase::Up { closing: Some(Closing::Stop), .. }, _) => Action::Nothing,
        (Phase::Up { .. }, Wanted::Stopped { force: false }) => Action::Press(Closing::Stop),
        // The stop between two starts was not seen: make it, the launch follows.
        (Phase::Up { start: now, .. }, Wanted::Running { start, .. }) if start > now => {
            Action::Press(Closing::Stop)
        }
        (Phase::Up { closing: Some(Closing::Reboot), .. }, Wanted::Running { .. }) => {
            Action::Nothing
        }
        (Phase::Up { reboots: done, .. }, Wanted::Running { reboots, .. }) if reboots > done => {
            Action::Press(Closing::Reboot)
        }
        (Phase::Up { .. }, Wanted::Running { .. }) => Action::Nothing,
    }
}

/// What a guest's power-off means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PowerOff {
    /// The machine is off.
    Exit(ExitCause),
    /// It was half of a reboot: bring it up again.
    ComeBack,
}

/// Judges a power-off by the guest of a machine in which `closing` was under way.
pub(crate) fn power_off(closing: Option<Closing>, start: u32, wanted: Wanted) -> PowerOff {
    match (closing, wanted) {
        (Some(Closing::Reboot), Wanted::Running { start: wanted, .. }) if wanted == start => {
            PowerOff::ComeBack
        }
        (None, Wanted::Running { start: wanted, .. }) if wanted == start => {
            PowerOff::Exit(ExitCause::GuestShutdown)
        }
        // Whoever asked for another state than running has got it, and the guest's own wish must
        // not count: it could terminate an instance that its user only stopped.
        _ => PowerOff::Exit(ExitCause::Requested),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: Wanted = Wanted::Running { start: 1, reboots: 0 };
    const STOP: Wanted = Wanted::Stopped { force: false };
    const FORCE: Wanted = Wanted::Stopped { force: true };

    fn up(closing: Option<Closing>) -> Phase {
        Phase::Up { start: 1, reboots: 0, closing }
    }

    #[test]
    fn table() {
        let launch = |start| Action::Launch { start, reboots: 0 };
        let again = Wanted::Running { start: 2, reboots: 0 };
        let reboot = Wanted::Running { start: 1, reboots: 1 };
        for (phase, wanted, action) in [
            (Phase::Off { ended: 0 }, RUN, launch(1)),
            (Phase::Off { ended: 1 }, RUN, Action::Nothing),
            (Phase::Off { ended: 1 }, again, launch(2)),
            (Phase::Off { ended: 1 }, STOP, Action::Nothing),
            (Phase::Off { ended: 1 }, Wanted::Terminated, Action::Demolish),
            (up(None), RUN, Action::Nothing),
            (up(None), STOP, Action::Press(Closing::Stop)),
            (up(None), FORCE, Action::Quit),
            (up(None), again, Action::Press(Closing::Stop)),
            (up(None), reboot, Action::Press(Closing::Reboot)),
            (up(None), Wanted::Terminated, Action::Demolish),
            (up(Some(Closing::Stop)), STOP, Action::Nothing),
            (up(Some(Closing::Stop)), FORCE, Action::Quit),
            (up(Some(Closing::Stop)), again, Action::Nothing),
            (up(Some(Closing::Stop)), reboot, Action::Nothing),
            (up(Some(Closing::Reboot)), reboot, Action::Nothing),
            (up(Some(Closing::Reboot)), STOP, Action::Press(Closing::Stop)),
            (up(Some(Closing::Reboot)), again, Action::Press(Closing::Stop)),
            (Phase::Gone, RUN, Action::Nothing),
            (Phase::Gone, Wanted::Terminated, Action::Nothing),
        ] {
            assert_eq!(decide(phase, wanted), action, "{phase:?} {wanted:?}");
        }
    }

    #[test]
    fn power_offs() {
        let exit = PowerOff::Exit;
        assert_eq!(power_off(None, 1, RUN), exit(ExitCause::GuestShutdown));
        assert_eq!(power_off(None, 1, STOP), exit(ExitCause::Requested));
        assert_eq!(power_off(Some(Closing::Stop), 1, RUN), exit(ExitCause::Requested));
        assert_eq!(power_off(Some(Closing::Reboot), 1, RUN), PowerOff::ComeBack);
        assert_eq!(power_off(Some(Closing::Reboot), 1, STOP), exit(ExitCause::Requested));
        assert_eq!(power_off(None, 1, Wanted::Terminated), exit(ExitCause::Requested));
    }

    fn any_wanted() -> impl Strategy<Value = Wanted> {
        prop_oneof![
            (1u32..4, 0u32..3).prop_map(|(start, reboots)| Wanted::Running { start, reboots }),
            any::<bool>().prop_map(|force| Wanted::Stopped { force }),
            Just(Wanted::Terminated),
        ]
    }

    proptest! {
        /// Following the steps, with a guest that obeys the button, ends where it was wanted and
        /// stays there.
        #[test]
        fn steps_converge(ended in 0u32..3, start in 1u32..3, on: bool, wanted in any_wanted()) {
            let mut phase = if on {
                Phase::Up { start, reboots: 0, closing: None }
            } else {
                Phase::Off { ended }
            };
            for _ in 0..6 {
                phase = match (decide(phase, wanted), phase) {
                    (Action::Nothing, Phase::Up { start, closing: Some(closing), reboots }) => {
                        match power_off(Some(closing), start, wanted) {
                            PowerOff::Exit(_) => Phase::Off { ended: start },
                            PowerOff::ComeBack => {
                                let Wanted::Running { reboots: asked, .. } = wanted else {
                                    return Err(TestCaseError::fail("came back though not wanted"));
                                };
                                Phase::Up { start, reboots: asked.max(reboots), closing: None }
                            }
                        }
                    }
                    (Action::Nothing, phase) => phase,
                    (Action::Launch { start, reboots }, _) => {
                        Phase::Up { start, reboots, closing: None }
                    }
                    (Action::Press(closing), Phase::Up { start, reboots, .. }) => {
                        Phase::Up { start, reboots, closing: Some(closing) }
                    }
                    (Action::Quit, Phase::Up { start, .. }) => Phase::Off { ended: start },
                    (Action::Demolish, _) => Phase::Gone,
                    (action, phase) => {
                        return Err(TestCaseError::fail(format!("{action:?} in {phase:?}")));
                    }
                };
            }
            let settled = match (wanted, phase) {
                (Wanted::Terminated, Phase::Gone) => true,
                (Wanted::Stopped { .. }, Phase::Off { .. }) => true,
                (Wanted::Running { start: wanted, .. }, Phase::Off { ended }) => ended >= wanted,
                (Wanted::Running { start: wanted, reboots: asked }, Phase::Up { start, reboots, .. }) =>
                {
                    start > wanted || (start == wanted && reboots >= asked)
                }
                _ => false,
            };
            prop_assert!(settled, "{:?} for {:?}", phase, wanted);
        }
    }
}
