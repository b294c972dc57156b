//! Asking a guest whether it is there.

use crate::{Error, names, system};
use base::Ipv4Cidr;
use base::network::Interface;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long a guest may take to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often it is asked in that time.
const REPEAT: Duration = Duration::from_millis(300);

/// Whether the guest behind a tap of the caller's namespace answers ARP for its address.
pub(crate) fn answers(interface: &Interface, subnet: &Ipv4Cidr) -> Result<bool, Error> {
    let tap = names::tap(&interface.id);
    let links = system::links().map_err(Error::io("list links"))?;
    let link = *links.get(&tap).ok_or_else(|| Error::NotInPlan(interface.id.clone()))?;
    let socket = system::arp_socket(link).map_err(Error::io(format!("watch {tap}")))?;
    let router = names::router(subnet).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let question = question(octets(names::ROUTER_MAC), router, interface.private_ip);
    let deadline = Instant::now() + PATIENCE;
    let mut again = Instant::now();
    let mut frame = [0; 128];
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if Instant::now() >= again {
            // A tap that nobody holds refuses, and may be held a moment later.
            let _ = rustix::io::write(&socket, &question);
            again += REPEAT;
        }
        let wait = left.min(again.saturating_duration_since(Instant::now()));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos().try_into().unwrap_or(0) };
        let mut list = [PollFd::new(&socket, PollFlags::IN)];
        let _ = poll(&mut list, Some(&wait));
        while let Ok(length) = rustix::io::read(&socket, &mut frame) {
            if is_answer(&frame[..length], octets(&interface.mac), interface.private_ip) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The bytes of a hardware address of a plan that was checked.
pub(crate) fn octets(mac: &str) -> [u8; 6] {
    let mut octets = [0; 6];
    for (octet, text) in octets.iter_mut().zip(mac.split(':')) {
        *octet = u8::from_str_radix(text, 16).unwrap_or(0);
    }
    octets
}

fn question(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn is_answer(frame: &[u8], mac: [u8; 6], address: Ipv4Addr) -> bool {
    frame.len() >= 42
        && frame[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]
        && frame[22..28] == mac
        && frame[28..32] == address.octets()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_no_answer() {
        let (mac, address) = ([10, 0, 0, 0, 0, 1], Ipv4Addr::new(172, 31, 0, 5));
        let mut frame = question(mac, address, address);
        assert!(!is_answer(&frame, mac, address));
        frame[21] = 2;
        assert!(is_answer(&frame, mac, address));
        assert!(!is_answer(&frame[..41], mac, address));
        assert!(!is_answer(&frame, [10, 0, 0, 0, 0, 2], address));
    }
}
