//! The DHCP server: any datagram from a guest gets an answer or silence.
#![no_main]

use net::dhcp::{self, Lease};
use std::net::Ipv4Addr;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let lease = Lease {
        mac: [10, 0, 0, 0, 0, 1],
        address: Ipv4Addr::new(172, 31, 0, 5),
        netmask: Ipv4Addr::new(255, 255, 240, 0),
        router: Ipv4Addr::new(172, 31, 0, 1),
        resolvers: vec![Ipv4Addr::new(172, 31, 0, 2)],
        time_servers: vec![Ipv4Addr::new(169, 254, 169, 123)],
        netbios_servers: Vec::new(),
        netbios_kind: Some(2),
        host: "ip-172-31-0-5".into(),
        domain: Some("ec2.internal".into()),
        mtu: 1500,
    };
    if let Some(answer) = dhcp::answer(bytes, &lease) {
        assert!(answer.bytes.len() >= 300);
    }
});
