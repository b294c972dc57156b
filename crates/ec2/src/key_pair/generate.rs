//! New key pairs, and the files in which people get the private half.
//!
//! Keys come from the operating system's randomness, never from a request's: a private key that a
//! seed brings back would be no secret.

use super::der::{self, Reader};
use super::public::{PublicKey, colons, put_number, put_string};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{digest, hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;

/// A key pair that nobody has yet.
pub(super) struct Generated {
    pub(super) public: PublicKey,
    /// As DescribeKeyPairs shows it for a key that EC2 made.
    pub(super) fingerprint: String,
    private: Private,
}

enum Private {
    /// The PKCS#1 document.
    Rsa(Vec<u8>),
    /// The 32 bytes of the seed.
    Ed25519(Vec<u8>),
}

/// Why no key came out; never the caller's fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The library refused.
    #[error("key generation failed")]
    Generation(#[from] aws_lc_rs::error::Unspecified),
    /// The library's own encoding cannot be read.
    #[error("unexpected encoding of a generated key")]
    Encoding,
}

/// A 2048-bit RSA key. Its fingerprint is the SHA-1 of the private key's PKCS#8 DER.
pub(super) fn rsa_2048() -> Result<Generated, Error> {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048)?;
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der()?;
    let pkcs1 = pkcs1(pkcs8.as_ref()).ok_or(Error::Encoding)?;
    let [modulus, exponent, ..] = rsa_numbers(&pkcs1).ok_or(Error::Encoding)?;
    let public = PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() };
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, pkcs8.as_ref());
    Ok(Generated { public, fingerprint: colons(sha1.as_ref()), private: Private::Rsa(pkcs1) })
}

/// An Ed25519 key. Its fingerprint is the SHA-256 of the public key.
pub(super) fn ed25519() -> Result<Generated, Error> {
    let pair = Ed25519KeyPair::generate()?;
    let pkcs8 = pair.to_pkcs8v1()?;
    let seed = ed25519_seed(pkcs8.as_ref()).ok_or(Error::Encoding)?;
    let public = PublicKey::Ed25519(pair.public_key().as_ref().to_vec());
    let fingerprint = public.fingerprint();
    Ok(Generated { public, fingerprint, private: Private::Ed25519(seed) })
}

/// The key inside a PKCS#8 document.
fn inner(pkcs8: &[u8]) -> Option<&[u8]> {
    let mut document = Reader(pkcs8).enter()?;
    document.take(der::INTEGER)?;
    document.enter()?;
    document.take(der::OCTET_STRING)
}

fn pkcs1(pkcs8: &[u8]) -> Option<Vec<u8>> {
    inner(pkcs8).map(<[u8]>::to_vec)
}

fn ed25519_seed(pkcs8: &[u8]) -> Option<Vec<u8>> {
    Reader(inner(pkcs8)?).take(der::OCTET_STRING).filter(|s| s.len() == 32).map(<[u8]>::to_vec)
}

/// n, e, d, p, q, d mod p-1, d mod q-1, q⁻¹ mod p (RFC 8017, "RSAPrivateKey").
fn rsa_numbers(pkcs1: &[u8]) -> Option<[&[u8]; 8]> {
    let mut document = Reader(pkcs1).enter()?;
    document.number()?;
    let mut numbers = [&[][..]; 8];
    for number in &mut numbers {
        *number = document.number()?;
    }
    Some(numbers)
}

impl Generated {
    /// The private key as `.pem`: PKCS#1 for RSA, OpenSSH's own format for Ed25519.
    pub(super) fn pem(&self, comment: &str) -> String {
        match &self.private {
            Private::Rsa(pkcs1) => pem("RSA PRIVATE KEY", pkcs1, 64),
            // OpenSSH does not read this form without a line end after it.
            Private::Ed25519(seed) => {
                pem("OPENSSH PRIVATE KEY", &self.openssh(seed, comment), 70) + "\n"
            }
        }
    }

    /// OpenSSH's PROTOCOL.key, without a passphrase.
    fn openssh(&self, seed: &[u8], comment: &str) -> Vec<u8> {
        let PublicKey::Ed25519(public) = &self.public else { return Vec::new() };
        let blob = self.public.blob();
        // The same number twice lets a reader see that it decrypted; nothing is encrypted here.
        let check = digest::digest(&digest::SHA256, &blob);
        let mut private = Vec::new();
        for _ in 0..2 {
            private.extend_from_slice(&check.as_ref()[..4]);
        }
        put_string(&mut private, self.public.algorithm().as_bytes());
        put_string(&mut private, public);
        put_string(&mut private, &[seed, public].concat());
        put_string(&mut private, comment.as_bytes());
        for pad in (1u8..).take((8 - private.len() % 8) % 8) {
            private.push(pad);
        }
        let mut out = b"openssh-key-v1\0".to_vec();
        put_string(&mut out, b"none");
        put_string(&mut out, b"none");
        put_string(&mut out, b"");
        out.extend_from_slice(&1u32.to_be_bytes());
        put_string(&mut out, &blob);
        put_string(&mut out, &private);
        out
    }

    /// The private key as PuTTY's `.ppk`, version 3, without a passphrase (PuTTY manual, appendix
    /// C).
    pub(super) fn ppk(&self, comment: &str) -> Result<String, Error> {
        let algorithm = self.public.algorithm();
        let public = self.public.blob();
        let mut private = Vec::new();
        match &self.private {
            Private::Rsa(pkcs1) => {
                let [_, _, d, p, q, _, _, coefficient] =
                    rsa_numbers(pkcs1).ok_or(Error::Encoding)?;
                for number in [d, p, q, coefficient] {
                    put_number(&mut private, number);
                }
            }
            Private::Ed25519(seed) => put_string(&mut private, seed),
        }
        let mut signed = Vec::new();
        for part in [algorithm.as_bytes(), b"none", comment.as_bytes(), public.as_slice(), &private]
        {
            put_string(&mut signed, part);
        }
        // Without a passphrase the MAC's key is empty.
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b""), &signed);
        let mac: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let (public, private) = (wrapped(&public, 64), wrapped(&private, 64));
        let mut out = String::new();
        let _ = write!(
            out,
            "PuTTY-User-Key-File-3: {algorithm}\nEncryption: none\nComment: {comment}\n\
             Public-Lines: {}\n{public}Private-Lines: {}\n{private}Private-MAC: {mac}\n",
            public.lines().count(),
            private.lines().count(),
        );
        Ok(out)
    }
}

/// Base64 in lines of `width`, each with its end.
fn wrapped(bytes: &[u8], width: usize) -> String {
    let text = STANDARD.encode(bytes);
    let mut out = String::with_capacity(text.len() + text.len() / width + 1);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(width.min(rest.len()));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out
}

fn pem(label: &str, bytes: &[u8], width: usize) -> String {
    format!("-----BEGIN {label}-----\n{}-----END {label}-----", wrapped(bytes, width))
}
