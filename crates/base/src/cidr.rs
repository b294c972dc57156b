//! IPv4 prefixes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
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
    }

    #[test]
    fn strict_and_lenient() {
        assert!("172.31.0.1/16".parse::<Ipv4Cidr>().is_err());
        assert_eq!(Ipv4Cidr::parse_lenient("172.31.0.1/16").unwrap().to_string(), "172.31.0.0/16");
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "1.2.3.4/+8", "a/8", "1.2.3.4/008"] {
            assert!(Ipv4Cidr::parse_lenient(bad).is_err(), "{bad}");
        }
    }
}
