//! The DHCPv6 server: any datagram from a guest gets an answer or silence.
#![no_main]

use net::dhcp6::{self, Lease};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let lease = Lease {
        address: "fd00::5".parse().unwrap(),
        preferred: dhcp6::PREFERRED_SECONDS,
        resolvers: vec!["fd00:ec2::253".parse().unwrap()],
        time_servers: Vec::new(),
        domain: Some("ec2.internal".into()),
        server: [2, 0, 0, 0, 0, 1],
    };
    if let Some(answer) = dhcp6::answer(bytes, &lease) {
        assert!(answer[1..4] == bytes[1..4]);
    }
});
