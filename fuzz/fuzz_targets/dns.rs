//! The resolver: any message from a guest or from an upstream resolver.
#![no_main]

use base::network::Vpc;
use net::dns::{self, Zone};
use std::collections::BTreeSet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let vpc = Vpc {
        id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec!["172.31.0.0/16".parse().unwrap()],
        subnets: Vec::new(),
        interfaces: Vec::new(),
        groups: Vec::new(),
    };
    let zone = Zone::new(&vpc, "203.0.113.0/24".parse().unwrap());
    let _ = zone.judge(bytes, &BTreeSet::new());
    let _ = dns::failure(bytes);
    let _ = dns::answers(bytes, bytes, 0xabcd);
});
