//! The ACPI power button, heard through the kernel's input devices.

use crate::sys;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};

/// Size of `struct input_event`: two longs of time, type, code, value.
const EVENT: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Every input device there is; which one is the button shows when it is pressed.
#[derive(Debug)]
pub(crate) struct Buttons(Vec<File>);

impl Buttons {
    pub(crate) fn open() -> Self {
        let Ok(entries) = fs::read_dir("/dev/input") else { return Self(Vec::new()) };
        Self(
            entries
                .flatten()
                .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"event"))
                .filter_map(|entry| File::open(entry.path()).ok())
                .collect(),
        )
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(AsRawFd::as_raw_fd)
    }

    /// Reads what is readable; whether the power button was pressed. A device that went away is
    /// forgotten.
    pub(crate) fn pressed(&mut self) -> bool {
        let mut pressed = false;
        self.0.retain_mut(|device| {
            let readable =
                sys::wait_readable(&[device.as_raw_fd()], Some(std::time::Duration::ZERO));
            if !readable.is_ok_and(|ready| ready[0]) {
                return true;
            }
            let mut events = [0; EVENT * 16];
            match device.read(&mut events) {
                Ok(size) if size > 0 => {
                    pressed |= events[..size].chunks_exact(EVENT).any(is_power_button);
                    true
                }
                _ => false,
            }
        });
        pressed
    }
}

/// Whether an event is the power button going down.
fn is_power_button(event: &[u8]) -> bool {
    let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    half(16) == EV_KEY && half(18) == KEY_POWER && event[20] == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut event = vec![0xff; 16];
        event.extend(kind.to_ne_bytes());
        event.extend(code.to_ne_bytes());
        event.extend(value.to_ne_bytes());
        event
    }

    #[test]
    fn only_the_button_going_down_counts() {
        assert!(is_power_button(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_power_button(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_power_button(&event(EV_KEY, 30, 1)));
        assert!(!is_power_button(&event(0, 0, 0)));
    }
}
