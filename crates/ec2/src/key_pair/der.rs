//! As much of DER as RSA and Ed25519 keys need: reading a value after the other, and writing a
//! SubjectPublicKeyInfo.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.1.1
pub(super) const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.3.101.112
pub(super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Reads values one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next value if it has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 || rest.len() < count {
                return None;
            }
            let (digits, rest) = rest.split_at(count);
            (digits.iter().fold(0, |n, digit| n << 8 | usize::from(*digit)), rest)
        };
        if found != tag || rest.len() < length {
            return None;
        }
        let (content, rest) = rest.split_at(length);
        self.0 = rest;
        Some(content)
    }

    /// The next value, which holds others.
    pub(super) fn enter(&mut self) -> Option<Reader<'a>> {
        self.take(SEQUENCE).map(Reader)
    }

    /// The bytes of the next value as an unsigned number without leading zeros.
    pub(super) fn number(&mut self) -> Option<&'a [u8]> {
        let content = self.take(INTEGER)?;
        let start = content.iter().position(|byte| *byte != 0).unwrap_or(content.len());
        Some(&content[start..])
    }
}

/// A value of a tag and its content.
pub(super) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    if let Ok(short @ 0..0x80) = u8::try_from(content.len()) {
        out.push(short);
    } else {
        let digits = content.len().to_be_bytes();
        let start = digits.iter().position(|byte| *byte != 0).unwrap_or(digits.len() - 1);
        out.push(0x80 | u8::try_from(digits.len() - start).unwrap_or(0));
        out.extend_from_slice(&digits[start..]);
    }
    out.extend_from_slice(content);
    out
}

fn integer(number: &[u8]) -> Vec<u8> {
    let mut content = number.to_vec();
    if content.first().is_none_or(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    value(INTEGER, &content)
}

/// The SubjectPublicKeyInfo of an RSA key, of which the fingerprint of an imported key is taken.
pub(super) fn rsa_public_key_info(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    const NULL: &[u8] = &[0x05, 0x00];
    let algorithm = [value(OBJECT_ID, RSA_ENCRYPTION), NULL.to_vec()].concat();
    let key = value(SEQUENCE, &[integer(modulus), integer(exponent)].concat());
    let bits = [&[0][..], &key].concat();
    value(SEQUENCE, &[value(SEQUENCE, &algorithm), value(BIT_STRING, &bits)].concat())
}
