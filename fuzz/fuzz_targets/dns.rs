//! The resolver: any message from a guest or from an upstream resolver.
#![no_main]

use base::network::Vpc;
use net::dns::{self, Elsewhere, Zone};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let vpc = Vpc {
        id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec!["172.31.0.0/16".parse().unwrap()],
        ..Vpc::default()
    };
    let zone = Zone::new(&vpc, "203.0.113.0/24".parse().unwrap());
    if let dns::Verdict::Answer(answer) = zone.judge(bytes, &Elsewhere::default()) {
        let _ = dns::fitting(bytes, answer);
    }
    let _ = dns::failure(bytes);
    let _ = dns::answers(bytes, bytes, 0xabcd);
});
