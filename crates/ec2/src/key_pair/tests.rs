use super::public::PublicKey;
use super::{create_key_pair, delete_key_pair, describe_key_pairs, import_key_pair};
use crate::testing::{Region, filter, list};
use model::ec2 as api;
use proptest::prelude::*;
use std::path::Path;
use std::process::{Command, Stdio};

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// What a program prints; `None` when it is not installed.
fn output(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let result = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let Ok(output) = result else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output.stdout)
}

fn line(program: &str, arguments: &[&str]) -> Option<String> {
    let text = String::from_utf8(output(program, arguments)?).unwrap();
    Some(text.trim().to_owned())
}

/// A file that only its owner may read, as ssh-keygen demands of private keys.
fn keep(directory: &Path, name: &str, content: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join(name);
    std::fs::write(&path, format!("{content}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn create(region: &Region, name: &str, kind: &str, format: &str) -> api::KeyPair {
    let input = api::CreateKeyPairRequest {
        key_name: text(name),
        key_type: text(kind),
        key_format: text(format),
        ..Default::default()
    };
    region.ok(create_key_pair, input)
}

fn show(region: &Region, name: &str) -> api::KeyPairInfo {
    let input = api::DescribeKeyPairsRequest {
        key_names: list(&[name]),
        include_public_key: Some(true),
        ..Default::default()
    };
    region.ok(describe_key_pairs, input).key_pairs.unwrap().remove(0)
}

fn import(name: &str, material: &[u8]) -> api::ImportKeyPairRequest {
    api::ImportKeyPairRequest {
        key_name: text(name),
        public_key_material: Some(material.to_vec()),
        ..Default::default()
    }
}

/// The first two words of a public key's line, without the comment.
fn bare(line: &str) -> Vec<&str> {
    line.split_whitespace().take(2).collect()
}

#[test]
fn made_keys_are_what_openssh_and_openssl_say() {
    let region = Region::new();
    let directory = tempfile::tempdir().unwrap();
    for kind in ["rsa", "ed25519"] {
        let made = create(&region, kind, kind, "pem");
        let material = made.key_material.unwrap();
        let label = if kind == "rsa" { "RSA" } else { "OPENSSH" };
        assert!(material.starts_with(&format!("-----BEGIN {label} PRIVATE KEY-----\n")));
        let shown = show(&region, kind);
        assert_eq!(shown.key_fingerprint, made.key_fingerprint);
        assert_eq!(shown.key_type.as_deref(), Some(kind));
        let public = shown.public_key.unwrap();
        assert!(public.ends_with(&format!(" {kind}")), "{public}");
        let path = keep(directory.path(), kind, &material);
        if let Some(derived) = line("ssh-keygen", &["-y", "-f", &path]) {
            assert_eq!(bare(&derived), bare(&public));
        }
        if kind == "rsa" {
            // EC2 User Guide, "Verify the fingerprint of your key pair".
            let arguments =
                ["pkcs8", "-in", &path, "-inform", "PEM", "-outform", "DER", "-topk8", "-nocrypt"];
            if let Some(der) = output("openssl", &arguments) {
                let der_path = directory.path().join("rsa.der");
                std::fs::write(&der_path, der).unwrap();
                let hash = line("openssl", &["sha1", "-c", der_path.to_str().unwrap()]).unwrap();
                assert_eq!(hash.rsplit("= ").next(), made.key_fingerprint.as_deref());
            }
        } else if let Some(listed) = line("ssh-keygen", &["-l", "-f", &path]) {
            let hash = listed.split_whitespace().nth(1).unwrap().trim_start_matches("SHA256:");
            assert_eq!(format!("{hash}="), made.key_fingerprint.unwrap());
        }
    }
}

#[test]
fn putty_reads_made_keys() {
    let region = Region::new();
    let directory = tempfile::tempdir().unwrap();
    for kind in ["rsa", "ed25519"] {
        let made = create(&region, kind, kind, "ppk").key_material.unwrap();
        let start =
            format!("PuTTY-User-Key-File-3: ssh-{kind}\nEncryption: none\nComment: {kind}\n");
        assert!(made.starts_with(&start), "{made}");
        let path = keep(directory.path(), &format!("{kind}.ppk"), made.trim_end());
        // puttygen checks the MAC and that the halves belong together.
        let Some(public) = line("puttygen", &[&path, "-O", "public-openssh"]) else { continue };
        assert_eq!(bare(&public), bare(&show(&region, kind).public_key.unwrap()));
        let out = directory.path().join(format!("{kind}.pem"));
        let out = out.to_str().unwrap();
        output("puttygen", &[&path, "-O", "private-openssh", "-o", out]).unwrap();
        if let Some(derived) = line("ssh-keygen", &["-y", "-f", out]) {
            assert_eq!(bare(&derived), bare(&public));
        }
    }
}

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBUwXSfr+Yr9OxZRpNWeQHqXuhHEVh5JnaWMYrRlJvsM someone@host";

/// The Ed25519 key above, in SubjectPublicKeyInfo: a fixed header and the last 32 bytes.
fn ed25519_info() -> Vec<u8> {
    let PublicKey::Ed25519(bytes) = PublicKey::parse(ED25519.as_bytes()).unwrap() else {
        panic!("not Ed25519");
    };
    [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &bytes].concat()
}

#[test]
fn every_form_of_a_public_key_is_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let path = path.to_str().unwrap();
    for (kind, bits) in [("rsa", "1024"), ("rsa", "2048"), ("ed25519", "256")] {
        let _ = std::fs::remove_file(path);
        let arguments = ["-q", "-t", kind, "-b", bits, "-N", "", "-C", "a b c", "-f", path];
        if output("ssh-keygen", &arguments).is_none() {
            return;
        }
        let public = format!("{path}.pub");
        let expected = PublicKey::parse(&std::fs::read(&public).unwrap()).unwrap();
        assert_eq!(expected.kind(), kind);
        let listed = line("ssh-keygen", &["-e", "-f", &public, "-m", "RFC4716"]).unwrap();
        assert_eq!(PublicKey::parse(listed.as_bytes()).as_ref(), Some(&expected));
        if kind == "rsa" {
            for form in ["PKCS8", "PEM"] {
                let pem = line("ssh-keygen", &["-e", "-f", &public, "-m", form]).unwrap();
                assert_eq!(PublicKey::parse(pem.as_bytes()).as_ref(), Some(&expected), "{form}");
            }
            let pem = line("ssh-keygen", &["-e", "-f", &public, "-m", "PKCS8"]).unwrap();
            let pem = keep(directory.path(), "spki.pem", &pem);
            let der = format!("{path}.der");
            let arguments = ["pkey", "-pubin", "-in", &pem, "-outform", "DER", "-out", &der];
            if output("openssl", &arguments).is_none() {
                continue;
            }
            let bytes = std::fs::read(&der).unwrap();
            assert_eq!(PublicKey::parse(&bytes).as_ref(), Some(&expected));
            let hash = line("openssl", &["md5", "-c", &der]).unwrap();
            assert_eq!(hash.rsplit("= ").next(), Some(expected.fingerprint().as_str()));
        }
    }
    let expected = PublicKey::parse(ED25519.as_bytes());
    assert!(expected.is_some());
    assert_eq!(PublicKey::parse(&ed25519_info()), expected);
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(ed25519_info());
    assert_eq!(PublicKey::parse(encoded.as_bytes()), expected);
}

#[test]
fn imported_keys_keep_their_name_as_comment() {
    let region = Region::new();
    let answer = region.ok(import_key_pair, import("mine", ED25519.as_bytes()));
    let shown = show(&region, "mine");
    assert_eq!(shown.key_fingerprint, answer.key_fingerprint);
    assert_eq!(answer.key_fingerprint.unwrap().len(), 44);
    assert_eq!(shown.public_key.unwrap(), ED25519.replace("someone@host", "mine"));
    assert_eq!(
        region.refused(import_key_pair, import("mine", ED25519.as_bytes())),
        "InvalidKeyPair.Duplicate: The keypair already exists"
    );
}

#[test]
fn what_is_no_key_is_refused() {
    let region = Region::new();
    for material in [
        &b""[..],
        b"ssh-rsa",
        b"ssh-rsa AAAA",
        // Another algorithm than the line says.
        b"ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIBUwXSfr+Yr9OxZRpNWeQHqXuhHEVh5JnaWMYrRlJvsM",
        b"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA==",
        b"-----BEGIN PUBLIC KEY-----\nMCow",
        b"\x30\x03\x02\x01\x00",
        b"\xff\xfe\xfd",
    ] {
        assert_eq!(
            region.refused(import_key_pair, import("bad", material)),
            "InvalidKey.Format: Key is not in valid OpenSSH public key format"
        );
    }
}

#[test]
fn pairs_are_found_by_name_id_and_filter_and_deleted_once() {
    let region = Region::new();
    let answer = region.ok(import_key_pair, import("mine", ED25519.as_bytes()));
    let id = answer.key_pair_id.unwrap();
    region.ok(import_key_pair, import("other", ED25519.as_bytes()));
    let names = |input: api::DescribeKeyPairsRequest| -> Vec<String> {
        let pairs = region.ok(describe_key_pairs, input).key_pairs.unwrap();
        pairs.into_iter().filter_map(|pair| pair.key_name).collect()
    };
    assert_eq!(names(api::DescribeKeyPairsRequest::default()), ["mine", "other"]);
    let by_id = api::DescribeKeyPairsRequest { key_pair_ids: list(&[&id]), ..Default::default() };
    assert_eq!(names(by_id), ["mine"]);
    let by_filter = api::DescribeKeyPairsRequest {
        filters: Some(vec![filter("key-name", &["o*"])]),
        ..Default::default()
    };
    assert_eq!(names(by_filter), ["other"]);
    let delete = api::DeleteKeyPairRequest { key_pair_id: Some(id.clone()), ..Default::default() };
    assert_eq!(region.ok(delete_key_pair, delete.clone()).key_pair_id, Some(id));
    assert_eq!(region.ok(delete_key_pair, delete).return_, Some(true));
    let gone = api::DescribeKeyPairsRequest { key_names: list(&["mine"]), ..Default::default() };
    assert_eq!(
        region.refused(describe_key_pairs, gone),
        "InvalidKeyPair.NotFound: The key pair 'mine' does not exist"
    );
}

proptest! {
    /// No material makes the parser panic, and what it takes survives its own line.
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(key) = PublicKey::parse(&bytes) {
            prop_assert_eq!(PublicKey::parse(key.line("x").as_bytes()), Some(key));
        }
    }

    #[test]
    fn broken_der_is_refused(cut in 0usize..44, index in 0usize..44, bit in 0u8..8) {
        let mut info = ed25519_info();
        prop_assert_eq!(PublicKey::parse(&info[..cut]), None);
        info[index] ^= 1 << bit;
        let _ = PublicKey::parse(&info);
    }
}
