//! IPv4 and IPv6 prefixes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 prefix whose host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    network: Ipv4Addr,
    length: u8,
}

/// Why a text is not a CIDR block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not `a.b.c.d/n` with n from 0 to 32.
    #[error("{0:?} is not an IPv4 CIDR block")]
    Syntax(String),
    /// Not `x::y/n` with n from 0 to 128.
    #[error("{0:?} is not an IPv6 CIDR block")]
    Ipv6Syntax(String),
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cidr {
    /// IPv4.
    V4(Ipv4Cidr),
    /// IPv6.
    V6(Ipv6Cidr),
}

impl Cidr {
    /// Prefix length in bits.
    pub fn length(&self) -> u8 {
        match self {
            Cidr::V4(cidr) => cidr.length(),
            Cidr::V6(cidr) => cidr.length(),
        }
    }

    /// Whether `address` lies in the prefix; never one of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Cidr::V4(cidr), IpAddr::V4(address)) => cidr.contains(address),
            (Cidr::V6(cidr), IpAddr::V6(address)) => cidr.contains(address),
            _ => false,
        }
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        match (self, other) {
            (Cidr::V4(a), Cidr::V4(b)) => a.overlaps(b),
            (Cidr::V6(a), Cidr::V6(b)) => a.overlaps(b),
            _ => false,
        }
    }

    /// Parses either family, clearing host bits.
    pub fn parse_lenient(text: &str) -> Result<Self, ParseError> {
        if text.contains(':') {
            Ipv6Cidr::parse_lenient(text).map(Cidr::V6)
        } else {
            Ipv4Cidr::parse_lenient(text).map(Cidr::V4)
        }
    }
}

impl From<Ipv4Cidr> for Cidr {
    fn from(cidr: Ipv4Cidr) -> Cidr {
        Cidr::V4(cidr)
    }
}

impl From<Ipv6Cidr> for Cidr {
    fn from(cidr: Ipv6Cidr) -> Cidr {
        Cidr::V6(cidr)
    }
}

impl FromStr for Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.contains(':') { text.parse().map(Cidr::V6) } else { text.parse().map(Cidr::V4) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cidr::V4(cidr) => cidr.fmt(f),
            Cidr::V6(cidr) => cidr.fmt(f),
        }
    }
}

/// An IPv6 prefix whose host bits are zero; its text is canonical (RFC 5952).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Cidr {
    network: Ipv6Addr,
    length: u8,
}

impl Ipv6Cidr {
    /// The prefix of `length` bits (0 to 128) that contains `address`; host bits are cleared.
    pub fn containing(address: Ipv6Addr, length: u8) -> Self {
        let length = length.min(128);
        Ipv6Cidr { network: (u128::from(address) & Self::mask_bits(length)).into(), length }
    }

    fn mask_bits(length: u8) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
    }

    /// The lowest address.
    pub fn network(&self) -> Ipv6Addr {
        self.network
    }

    /// Prefix length in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The address `index` places above the lowest; `None` outside the prefix.
    pub fn nth(&self, index: u128) -> Option<Ipv6Addr> {
        let address = Ipv6Addr::from(u128::from(self.network).checked_add(index)?);
        self.contains(address).then_some(address)
    }

    /// The highest address.
    pub fn last(&self) -> Ipv6Addr {
        (u128::from(self.network) | !Self::mask_bits(self.length)).into()
    }

    /// Whether `address` lies in the prefix.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        u128::from(address) & Self::mask_bits(self.length) == u128::from(self.network)
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(&self, other: &Ipv6Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Parses `x::y/n`, clearing host bits.
    pub fn parse_lenient(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::Ipv6Syntax(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv6Addr = address.parse().map_err(|_| error())?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let length: u8 = length.parse().ok().filter(|n| *n <= 128).ok_or_else(error)?;
        Ok(Self::containing(address, length))
    }
}

impl FromStr for Ipv6Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let cidr = Self::parse_lenient(text)?;
        // The same address in another spelling is the same prefix; other host bits are not.
        let given: Option<Ipv6Addr> = text.split('/').next().and_then(|a| a.parse().ok());
        if given != Some(cidr.network) {
            return Err(ParseError::Ipv6Syntax(text.to_owned()));
        }
        Ok(cidr)
    }
}

impl TryFrom<String> for Ipv6Cidr {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Ipv6Cidr> for String {
    fn from(cidr: Ipv6Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Ipv6Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl Ipv4Cidr {
    /// The prefix of `length` bits (0 to 32) that contains `address`; host bits are cleared.
    pub fn containing(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Ipv4Cidr { network: (u32::from(address) & Self::mask_bits(length)).into(), length }
    }

    fn mask_bits(length: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }

    /// The lowest address.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Prefix length in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The netmask, such as 255.255.240.0.
    pub fn netmask(&self) -> Ipv4Addr {
        Self::mask_bits(self.length).into()
    }

    /// How many addresses the prefix holds.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.length))
    }

    /// The address `index` places above the lowest; `None` outside the prefix.
    pub fn nth(&self, index: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(index).ok().filter(|_| index < self.size())?;
        Some((u32::from(self.network) + offset).into())
    }

    /// The highest address.
    pub fn last(&self) -> Ipv4Addr {
        (u32::from(self.network) | !Self::mask_bits(self.length)).into()
    }

    /// Whether `address` lies in the prefix.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & Self::mask_bits(self.length) == u32::from(self.network)
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(&self, other: &Ipv4Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Parses `a.b.c.d/n`, clearing host bits as EC2 does with security-group rules
    /// (100.68.0.18/18 becomes 100.68.0.0/18).
    pub fn parse_lenient(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::Syntax(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        if length.is_empty() || length.len() > 2 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let length: u8 = length.parse().ok().filter(|n| *n <= 32).ok_or_else(error)?;
        Ok(Self::containing(address, length))
    }
}

impl FromStr for Ipv4Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let cidr = Self::parse_lenient(text)?;
        if text.split('/').next() != Some(cidr.network.to_string().as_str()) {
            return Err(ParseError::Syntax(text.to_owned()));
        }
        Ok(cidr)
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trip(address: u32, length in 0u8..=32) {
            let cidr = Ipv4Cidr::containing(address.into(), length);
            prop_assert_eq!(cidr.to_string().parse::<Ipv4Cidr>(), Ok(cidr));
            prop_assert!(cidr.contains(address.into()));
            prop_assert!(cidr.contains(cidr.last()));
            prop_assert_eq!(cidr.nth(cidr.size() - 1), Some(cidr.last()));
            prop_assert_eq!(cidr.nth(cidr.size()), None);
        }

        #[test]
        fn ipv6_text_round_trip(address: u128, length in 0u8..=128) {
            let cidr = Ipv6Cidr::containing(address.into(), length);
            prop_assert_eq!(cidr.to_string().parse::<Cidr>(), Ok(Cidr::V6(cidr)));
            prop_assert!(cidr.contains(address.into()));
            prop_assert!(cidr.contains(cidr.last()));
            prop_assert_eq!(cidr.nth(0), Some(cidr.network()));
        }
    }

    #[test]
    fn strict_and_lenient() {
        assert!("fd00::1/64".parse::<Ipv6Cidr>().is_err());
        let other_spelling: Ipv6Cidr = "FD00:0:0::/64".parse().unwrap();
        assert_eq!(other_spelling.to_string(), "fd00::/64");
        for bad in ["fd00::", "fd00::/129", "fd00::/", "fd00::/0064", "10.0.0.0/8"] {
            assert!(Ipv6Cidr::parse_lenient(bad).is_err(), "{bad}");
        }
        assert!("172.31.0.1/16".parse::<Ipv4Cidr>().is_err());
        assert_eq!(Ipv4Cidr::parse_lenient("172.31.0.1/16").unwrap().to_string(), "172.31.0.0/16");
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "1.2.3.4/+8", "a/8", "1.2.3.4/008"] {
            assert!(Ipv4Cidr::parse_lenient(bad).is_err(), "{bad}");
        }
    }
}
