//! CBOR (RFC 8949) as the rpc-v2-cbor protocol uses it: times are tag 1, maps and lists are written
//! with an indefinite length and read with any.

use super::{MAX_DEPTH, Tree};
use crate::schema::{Kind, Member};
use crate::shape::{Encoder, List, Map, Shape};
use crate::{DecodeError, Document};
use base::Timestamp;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;

fn malformed(why: &str) -> DecodeError {
    DecodeError::Malformed(format!("CBOR: {why}"))
}

/// Reads a body; an empty one is an empty map.
pub(crate) fn parse(body: &[u8]) -> Result<Tree, DecodeError> {
    if body.is_empty() {
        return Ok(Tree::Map(Vec::new()));
    }
    let mut reader = Reader { rest: body };
    let tree = reader.value(0)?;
    if !reader.rest.is_empty() {
        return Err(malformed("something follows the value"));
    }
    Ok(tree)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| malformed("the value is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Major type and the rest of the first byte.
    fn head(&mut self) -> Result<(u8, u8), DecodeError> {
        let byte = self.take(1)?[0];
        Ok((byte >> 5, byte & 31))
    }

    fn number(&mut self, information: u8) -> Result<u64, DecodeError> {
        let size = match information {
            0..=23 => return Ok(u64::from(information)),
            24..=27 => 1 << (information - 24),
            _ => return Err(malformed("reserved length")),
        };
        let bytes = self.take(size)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn at_break(&mut self) -> bool {
        let found = self.rest.first() == Some(&BREAK);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    /// Bytes or text, in one piece or many.
    fn string(&mut self, major: u8, information: u8) -> Result<Vec<u8>, DecodeError> {
        if information != INDEFINITE {
            let length = usize::try_from(self.number(information)?).unwrap_or(usize::MAX);
            return self.take(length).map(<[u8]>::to_vec);
        }
        let mut all = Vec::new();
        while !self.at_break() {
            let (piece, information) = self.head()?;
            if piece != major || information == INDEFINITE {
                return Err(malformed("a string is made of other things"));
            }
            all.extend(self.string(major, information)?);
        }
        Ok(all)
    }

    /// Calls `take` for each of a list's or map's entries. The length that is given is never
    /// trusted: nothing is reserved by it.
    fn entries(
        &mut self,
        information: u8,
        mut take: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if information == INDEFINITE {
            while !self.at_break() {
                take(self)?;
            }
            return Ok(());
        }
        for _ in 0..self.number(information)? {
            take(self)?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Tree, DecodeError> {
        if depth == MAX_DEPTH {
            return Err(DecodeError::TooMany("levels of values".to_owned()));
        }
        let (major, information) = self.head()?;
        Ok(match major {
            UNSIGNED => integer(i128::from(self.number(information)?)),
            NEGATIVE => integer(-1 - i128::from(self.number(information)?)),
            BYTES => Tree::Bytes(self.string(major, information)?),
            TEXT => Tree::String(self.text(information)?),
            LIST => {
                let mut all = Vec::new();
                self.entries(information, |reader| {
                    all.push(reader.value(depth + 1)?);
                    Ok(())
                })?;
                Tree::List(all)
            }
            MAP => {
                let mut all = Vec::new();
                self.entries(information, |reader| {
                    let (TEXT, information) = reader.head()? else {
                        return Err(malformed("a key is not text"));
                    };
                    let key = reader.text(information)?;
                    all.push((key, reader.value(depth + 1)?));
                    Ok(())
                })?;
                Tree::Map(all)
            }
            TAG => {
                // Only times are tagged, and their value is a number as everywhere else.
                self.number(information)?;
                self.value(depth + 1)?
            }
            _ => self.simple(information)?,
        })
    }

    fn text(&mut self, information: u8) -> Result<String, DecodeError> {
        let bytes = self.string(TEXT, information)?;
        String::from_utf8(bytes).map_err(|_| malformed("text is not UTF-8"))
    }

    fn simple(&mut self, information: u8) -> Result<Tree, DecodeError> {
        Ok(match information {
            20 => Tree::Boolean(false),
            21 => Tree::Boolean(true),
            // null and undefined
            22 | 23 => Tree::Null,
            25 => Tree::Double(half(self.number(information)? as u16)),
            26 => Tree::Double(f64::from(f32::from_bits(self.number(information)? as u32))),
            27 => Tree::Double(f64::from_bits(self.number(information)?)),
            _ => return Err(malformed("an unknown simple value")),
        })
    }
}

fn integer(value: i128) -> Tree {
    i64::try_from(value).map_or(Tree::Double(value as f64), Tree::Integer)
}

/// A half-precision float (RFC 8949, appendix D).
fn half(bits: u16) -> f64 {
    let exponent = i32::from(bits >> 10 & 0x1f);
    let mantissa = f64::from(bits & 0x3ff);
    let value = match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { value } else { -value }
}

/// Writes a structure as a map.
pub(crate) fn encode(shape: &dyn Shape, out: Vec<u8>) -> Vec<u8> {
    let mut encoder = CborEncoder { out, place: Place::Structure };
    encoder.nested(Place::Structure, MAP, |encoder| shape.encode(encoder));
    encoder.out
}

/// Writes text.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    push_head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn push_head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..=23 => out.push(major | number as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, number as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

fn push_integer(out: &mut Vec<u8>, value: i64) {
    match u64::try_from(value) {
        Ok(value) => push_head(out, UNSIGNED, value),
        Err(_) => push_head(out, NEGATIVE, !value as u64),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Structure,
    /// In a list, or after a map's key.
    Bare,
}

struct CborEncoder {
    out: Vec<u8>,
    place: Place,
}

impl CborEncoder {
    fn lead(&mut self, member: &'static Member) {
        if self.place == Place::Structure {
            push_text(&mut self.out, member.name);
        }
    }

    fn nested(&mut self, place: Place, major: u8, inside: impl FnOnce(&mut Self)) {
        self.out.push(major << 5 | INDEFINITE);
        let place = std::mem::replace(&mut self.place, place);
        inside(self);
        self.place = place;
        self.out.push(BREAK);
    }
}

impl Encoder for CborEncoder {
    fn string(&mut self, member: &'static Member, value: &str) {
        self.lead(member);
        push_text(&mut self.out, value);
    }
    fn integer(&mut self, member: &'static Member, value: i64) {
        self.lead(member);
        push_integer(&mut self.out, value);
    }
    fn boolean(&mut self, member: &'static Member, value: bool) {
        self.lead(member);
        self.out.push(SIMPLE << 5 | if value { 21 } else { 20 });
    }
    fn double(&mut self, member: &'static Member, value: f64) {
        self.lead(member);
        self.out.push(SIMPLE << 5 | 27);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        self.lead(member);
        self.out.push(SIMPLE << 5 | 26);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
    }
    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        self.lead(member);
        push_head(&mut self.out, BYTES, value.len() as u64);
        self.out.extend_from_slice(value);
    }
    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        self.lead(member);
        push_head(&mut self.out, TAG, 1);
        if value.0 % 1_000 == 0 {
            push_integer(&mut self.out, value.0 / 1_000);
        } else {
            self.out.push(SIMPLE << 5 | 27);
            let seconds = value.0 as f64 / 1_000.0;
            self.out.extend_from_slice(&seconds.to_bits().to_be_bytes());
        }
    }
    fn document(&mut self, member: &'static Member, _: &Document) {
        // The protocol has no documents.
        self.lead(member);
        self.out.push(SIMPLE << 5 | 22);
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        self.lead(member);
        self.nested(Place::Structure, MAP, |encoder| value.encode(encoder));
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        let Kind::List(item) = member.target.kind else { return };
        self.lead(member);
        self.nested(Place::Bare, LIST, |encoder| value.encode_items(item, encoder));
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        let Kind::Map(_, item) = member.target.kind else { return };
        self.lead(member);
        self.nested(Place::Bare, MAP, |encoder| value.encode_entries(item, encoder));
    }
    fn key(&mut self, key: &str) {
        push_text(&mut self.out, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_the_standard() {
        // RFC 8949, appendix A.
        for (bytes, tree) in [
            (&[0x1b, 0, 0, 0, 0xe8, 0xd4, 0xa5, 0x10, 0][..], Tree::Integer(1_000_000_000_000)),
            (&[0x39, 0x03, 0xe7], Tree::Integer(-1_000)),
            (&[0xf9, 0x3c, 0x00], Tree::Double(1.0)),
            (&[0xf9, 0x00, 0x01], Tree::Double(5.960_464_477_539_063e-8)),
            (&[0xf9, 0xfc, 0x00], Tree::Double(f64::NEG_INFINITY)),
            (&[0xfa, 0x47, 0xc3, 0x50, 0x00], Tree::Double(100_000.0)),
            (&[0xc1, 0x1a, 0x51, 0x4b, 0x67, 0xb0], Tree::Integer(1_363_896_240)),
            (&[0x5f, 0x42, 1, 2, 0x43, 3, 4, 5, 0xff], Tree::Bytes(vec![1, 2, 3, 4, 5])),
            (&[0x62, 0xc3, 0xbc], Tree::String("ü".to_owned())),
            (&[0x9f, 0x01, 0x80, 0xff], Tree::List(vec![Tree::Integer(1), Tree::List(vec![])])),
            (
                &[0xbf, 0x61, 0x61, 0xf5, 0xff],
                Tree::Map(vec![("a".to_owned(), Tree::Boolean(true))]),
            ),
        ] {
            assert_eq!(parse(bytes), Ok(tree), "{bytes:x?}");
        }
        for bad in [&[0xff][..], &[0x1c], &[0x61], &[0x61, 0xff], &[0xa1, 1, 1], &[0, 0], &[0x9f]] {
            assert!(parse(bad).is_err(), "{bad:x?}");
        }
        assert!(matches!(parse(&[0x81; 1_000]), Err(DecodeError::TooMany(_))));
        // A length of 2^64 - 1 is not believed.
        assert!(parse(&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255, 0]).is_err());
        assert!(parse(&[0x7b, 255, 255, 255, 255, 255, 255, 255, 255, 0]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn integers_come_back(value: i64) {
            let mut out = Vec::new();
            push_integer(&mut out, value);
            prop_assert_eq!(parse(&out), Ok(Tree::Integer(value)));
        }
    }
}
