//! The metadata service: any request is answered, none panics.
#![no_main]

use base::machine::{Metadata, Spec, Wanted};
use libfuzzer_sys::fuzz_target;
use node::imds::{Subject, answer, identity::Signer};
use std::sync::{Arc, LazyLock};

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("gureum-fuzz-imds-{}", std::process::id()));
    let signer = Signer::open(&directory).expect("a key can be made");
    std::fs::remove_dir_all(directory).expect("the key's directory can be removed");
    signer
});

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let mut metadata = Metadata { enabled: true, hop_limit: 2, ..Metadata::default() };
    for (path, text) in [
        ("meta-data/instance-id", "i-1"),
        ("meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA my key"),
        ("dynamic/instance-identity/document", "{}"),
    ] {
        metadata.leaves.insert(path.to_owned(), text.to_owned());
    }
    let spec = Spec {
        id: "i-1".to_owned(),
        region: "us-east-1".to_owned(),
        wanted: Wanted::Running { start: 1, reboots: 0 },
        image: "micro".to_owned(),
        vcpus: 1,
        memory_mib: 512,
        volumes: Vec::new(),
        interfaces: Vec::new(),
        metadata,
    };
    Subject { spec: Arc::new(spec), token_key: vec![7; 32] }
});

fuzz_target!(|bytes: &[u8]| {
    let answer = answer::fuzz(bytes, &SUBJECT, &SIGNER);
    assert!([200, 400, 401, 403, 404, 405].contains(&answer.status));
});
