//! Public keys: what people import, in the one form in which they are kept.
//!
//! EC2 takes OpenSSH's one-line format, RFC 4716 and DER (EC2 API Reference, "ImportKeyPair"); PEM
//! around the DER is taken as well.

use super::der::{self, Reader};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

/// A public key that an instance can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// The 32 bytes.
    Ed25519(Vec<u8>),
}

/// Sizes of RSA keys that are taken, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=4096;

impl PublicKey {
    /// Reads any of the forms; `None` when it is none of them, or a key that EC2 does not take.
    pub(super) fn parse(material: &[u8]) -> Option<Self> {
        let key = match std::str::from_utf8(material).map(str::trim) {
            Ok(text) if text.starts_with("ssh-") => from_line(text),
            Ok(text) if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") => from_rfc4716(text),
            Ok(text) if text.starts_with("-----BEGIN ") => from_pem(text),
            // DER whose base64 was not taken off.
            Ok(text) => from_info(&STANDARD.decode(joined(text)).ok()?),
            Err(_) => from_info(material),
        }?;
        key.is_acceptable().then_some(key)
    }

    fn is_acceptable(&self) -> bool {
        match self {
            PublicKey::Rsa { modulus, exponent } => {
                let bits = modulus.len() * 8
                    - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
                RSA_BITS.contains(&bits) && bits % 8 == 0 && !exponent.is_empty()
            }
            PublicKey::Ed25519(bytes) => bytes.len() == 32,
        }
    }

    /// `rsa` or `ed25519`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            PublicKey::Rsa { .. } => "rsa",
            PublicKey::Ed25519(_) => "ed25519",
        }
    }

    /// The algorithm's name in SSH.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            PublicKey::Rsa { .. } => "ssh-rsa",
            PublicKey::Ed25519(_) => "ssh-ed25519",
        }
    }

    /// The key as SSH writes it on the wire (RFC 4253, RFC 8709).
    pub(super) fn blob(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, self.algorithm().as_bytes());
        match self {
            PublicKey::Rsa { modulus, exponent } => {
                put_number(&mut out, exponent);
                put_number(&mut out, modulus);
            }
            PublicKey::Ed25519(bytes) => put_string(&mut out, bytes),
        }
        out
    }

    /// One line as in authorized_keys.
    pub(super) fn line(&self, comment: &str) -> String {
        format!("{} {} {comment}", self.algorithm(), STANDARD.encode(self.blob()))
    }

    /// The fingerprint of an imported key: MD5 of the DER for RSA, SHA-256 for Ed25519.
    pub(super) fn fingerprint(&self) -> String {
        match self {
            PublicKey::Rsa { modulus, exponent } => {
                colons(&Md5::digest(der::rsa_public_key_info(modulus, exponent)))
            }
            PublicKey::Ed25519(_) => {
                STANDARD.encode(digest::digest(&digest::SHA256, &self.blob()).as_ref())
            }
        }
    }
}

/// Hexadecimal bytes with colons between them.
pub(super) fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn joined(text: &str) -> String {
    text.split_ascii_whitespace().collect()
}

fn from_line(text: &str) -> Option<PublicKey> {
    let mut words = text.split_ascii_whitespace();
    let algorithm = words.next()?;
    let key = from_blob(&STANDARD.decode(words.next()?).ok()?)?;
    (key.algorithm() == algorithm).then_some(key)
}

fn from_rfc4716(text: &str) -> Option<PublicKey> {
    let mut body = String::new();
    let mut in_header = false;
    for line in text.lines().skip(1) {
        let line = line.trim_end();
        if line.starts_with("---- END SSH2 PUBLIC KEY ----") {
            return from_blob(&STANDARD.decode(&body).ok()?);
        }
        // A header goes on where its line ends in a backslash.
        if in_header || line.contains(':') {
            in_header = line.ends_with('\\');
            continue;
        }
        body.push_str(line);
    }
    None
}

fn from_pem(text: &str) -> Option<PublicKey> {
    let mut lines = text.lines().map(str::trim);
    let label = lines.next()?.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
    let end = format!("-----END {label}-----");
    let mut body = String::new();
    let mut closed = false;
    for line in lines {
        if line == end {
            closed = true;
            break;
        }
        body.push_str(line);
    }
    let der = closed.then(|| STANDARD.decode(&body).ok())??;
    match label {
        "PUBLIC KEY" => from_info(&der),
        "RSA PUBLIC KEY" => rsa(Reader(&der).enter()?),
        _ => None,
    }
}

fn from_info(bytes: &[u8]) -> Option<PublicKey> {
    let mut info = Reader(bytes).enter()?;
    let mut algorithm = info.enter()?;
    let id = algorithm.take(der::OBJECT_ID)?;
    let (unused, key) = info.take(der::BIT_STRING)?.split_first()?;
    if *unused != 0 {
        return None;
    }
    match id {
        der::RSA_ENCRYPTION => rsa(Reader(key).enter()?),
        der::ED25519 => Some(PublicKey::Ed25519(key.to_vec())),
        _ => None,
    }
}

fn rsa(mut key: Reader<'_>) -> Option<PublicKey> {
    let modulus = key.number()?.to_vec();
    Some(PublicKey::Rsa { modulus, exponent: key.number()?.to_vec() })
}

fn from_blob(blob: &[u8]) -> Option<PublicKey> {
    let mut rest = blob;
    let algorithm = take_string(&mut rest)?;
    let key = match algorithm {
        b"ssh-rsa" => {
            let exponent = unsigned(take_string(&mut rest)?)?;
            PublicKey::Rsa { modulus: unsigned(take_string(&mut rest)?)?, exponent }
        }
        b"ssh-ed25519" => PublicKey::Ed25519(take_string(&mut rest)?.to_vec()),
        _ => return None,
    };
    rest.is_empty().then_some(key)
}

fn unsigned(number: &[u8]) -> Option<Vec<u8>> {
    if number.first().is_some_and(|first| first & 0x80 != 0) {
        return None;
    }
    let start = number.iter().position(|byte| *byte != 0)?;
    Some(number[start..].to_vec())
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (string, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

/// Appends bytes with their length (RFC 4251, "string").
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends an unsigned number (RFC 4251, "mpint").
pub(super) fn put_number(out: &mut Vec<u8>, number: &[u8]) {
    let mut bytes = number.to_vec();
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    put_string(out, &bytes);
}
