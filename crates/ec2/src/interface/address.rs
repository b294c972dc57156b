//! The addresses of an interface: chosen, claimed and given back.
//!
//! An address is claimed by a key, so two requests that choose the same one conflict at commit and
//! the later one chooses again. A delegated IPv4 prefix claims each of its addresses; an IPv6 prefix
//! has one claim of its own, which every single address of it depends on not being there.
//!
//! Choosing stages nothing: a request that fails half way leaves nothing behind. What one request has
//! chosen and not claimed yet stands in [`Chosen`].

use crate::launch::free_private_address_but;
use crate::record::{Interface, Subnet, key};
use crate::subnet;
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use service::{Call, Error};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of a delegated IPv4 prefix (EC2 User Guide, "Prefix delegation").
const PREFIX: u8 = 28;
/// Length of a delegated IPv6 prefix.
const IPV6_PREFIX: u8 = 80;
/// Random probes before a range is walked.
const PROBES: usize = 32;
/// Most blocks or addresses that are walked when probing found none.
const WALK: u64 = 1 << 16;

/// The addresses that a new interface is to have; one automatic IPv4 address unless it says more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The primary address; automatic if there is none.
    pub(crate) private_ip: Option<Ipv4Addr>,
    /// Further addresses.
    pub(crate) secondary: Vec<Ipv4Addr>,
    /// Further automatic addresses.
    pub(crate) secondary_count: u32,
    /// IPv4 prefixes.
    pub(crate) prefixes: Vec<Ipv4Cidr>,
    /// Automatic IPv4 prefixes.
    pub(crate) prefix_count: u32,
    /// IPv6 addresses.
    pub(crate) ipv6: Vec<Ipv6Addr>,
    /// Automatic IPv6 addresses; `None` is as the subnet says.
    pub(crate) ipv6_count: Option<u32>,
    /// IPv6 prefixes.
    pub(crate) ipv6_prefixes: Vec<Ipv6Cidr>,
    /// Automatic IPv6 prefixes.
    pub(crate) ipv6_prefix_count: u32,
    /// The first IPv6 address stays the first.
    pub(crate) primary_ipv6: bool,
}

/// Addresses that were chosen for one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) secondary: Vec<Ipv4Addr>,
    pub(crate) prefixes: Vec<Ipv4Cidr>,
    pub(crate) ipv6: Vec<Ipv6Addr>,
    pub(crate) ipv6_prefixes: Vec<Ipv6Cidr>,
}

/// What a request has chosen so far, for all its interfaces.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) addresses: BTreeSet<IpAddr>,
    ipv6_prefixes: Vec<Ipv6Cidr>,
}

impl Chosen {
    fn has_ipv6(&self, address: Ipv6Addr) -> bool {
        self.addresses.contains(&IpAddr::V6(address))
            || self.ipv6_prefixes.iter().any(|prefix| prefix.contains(address))
    }
}

pub(crate) fn in_use(address: impl std::fmt::Display) -> Error {
    Error::client("InvalidIPAddress.InUse", format!("Address {address} is in use."))
}

/// Where addresses come from.
pub(crate) struct Pool<'a> {
    pub(crate) account: &'a str,
    pub(crate) subnet: &'a Subnet,
}

impl Pool<'_> {
    fn claim(&self, call: &Call<'_>, address: impl std::fmt::Display) -> String {
        key::private_address(call.region, self.account, &self.subnet.vpc_id, address)
    }

    /// Whether an automatic choice must leave `address` alone: it lies in a reservation.
    fn is_reserved(&self, address: IpAddr) -> bool {
        subnet::is_reserved(self.subnet, address)
    }

    /// The primary IPv4 address.
    pub(crate) fn primary(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        wanted: &Wanted,
    ) -> Result<Ipv4Addr, Error> {
        match wanted.private_ip {
            Some(address) => {
                check_in_subnet(address, self.subnet)?;
                self.take(call, chosen, address)?;
                Ok(address)
            }
            None => self.automatic(call, chosen, wanted),
        }
    }

    /// A given IPv4 address, which must be free. Whether it lies in the subnet is the caller's.
    fn take(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        address: Ipv4Addr,
    ) -> Result<(), Error> {
        let claim = self.claim(call, address);
        if call.exists(&claim) || !chosen.addresses.insert(IpAddr::V4(address)) {
            return Err(in_use(address));
        }
        Ok(())
    }

    fn automatic(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        wanted: &Wanted,
    ) -> Result<Ipv4Addr, Error> {
        // What is named comes after the primary address, and is not to be taken by it.
        let address = free_private_address_but(call, self.account, self.subnet, |address| {
            chosen.addresses.contains(&IpAddr::V4(address))
                || wanted.secondary.contains(&address)
                || wanted.prefixes.iter().any(|prefix| prefix.contains(address))
        })?;
        chosen.addresses.insert(IpAddr::V4(address));
        Ok(address)
    }

    /// Everything but the primary address.
    pub(crate) fn further(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        wanted: &Wanted,
    ) -> Result<Addresses, Error> {
        let mut found = Addresses::default();
        for address in &wanted.secondary {
            check_in_subnet(*address, self.subnet)?;
            self.take(call, chosen, *address)?;
            found.secondary.push(*address);
        }
        for prefix in &wanted.prefixes {
            self.take_prefix(call, chosen, *prefix)?;
            found.prefixes.push(*prefix);
        }
        for _ in 0..wanted.secondary_count {
            found.secondary.push(self.automatic(call, chosen, wanted)?);
        }
        for _ in 0..wanted.prefix_count {
            found.prefixes.push(self.automatic_prefix(call, chosen)?);
        }
        let by_subnet = u32::from(self.subnet.assign_ipv6_address_on_creation);
        let automatic = match wanted.ipv6_count {
            Some(count) => count,
            None if wanted.ipv6.is_empty() && self.subnet.ipv6_cidr.is_some() => by_subnet,
            None => 0,
        };
        for address in &wanted.ipv6 {
            self.take_ipv6(call, chosen, *address)?;
            found.ipv6.push(*address);
        }
        for _ in 0..automatic {
            found.ipv6.push(self.automatic_ipv6(call, chosen)?);
        }
        if !wanted.ipv6_prefixes.is_empty() || wanted.ipv6_prefix_count > 0 {
            let used = self.used_ipv6(call)?;
            for prefix in &wanted.ipv6_prefixes {
                self.take_ipv6_prefix(call, chosen, &used, *prefix)?;
                found.ipv6_prefixes.push(*prefix);
            }
            for _ in 0..wanted.ipv6_prefix_count {
                found.ipv6_prefixes.push(self.automatic_ipv6_prefix(call, chosen, &used)?);
            }
        }
        Ok(found)
    }

    fn take_prefix(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        prefix: Ipv4Cidr,
    ) -> Result<(), Error> {
        if prefix.length() != PREFIX || !self.subnet.cidr.contains(prefix.last()) {
            return Err(Error::invalid_parameter_value(format!(
                "The prefix {prefix} is not valid. It must be a /{PREFIX} within the subnet's CIDR \
                 block {}.",
                self.subnet.cidr
            )));
        }
        if !self.is_free(call, chosen, prefix) {
            return Err(in_use(prefix));
        }
        self.keep_prefix(chosen, prefix);
        Ok(())
    }

    fn keep_prefix(&self, chosen: &mut Chosen, prefix: Ipv4Cidr) {
        chosen.addresses.extend(hosts(prefix).map(IpAddr::V4));
    }

    /// Whether none of a prefix is taken, nor one of the subnet's own addresses; the commit depends
    /// on it if so.
    fn is_free(&self, call: &mut Call<'_>, chosen: &Chosen, prefix: Ipv4Cidr) -> bool {
        let own = |address: Ipv4Addr| check_in_subnet(address, self.subnet).is_err();
        let taken = |call: &Call<'_>, address: Ipv4Addr| {
            call.snapshot().get(&self.claim(call, address)).is_some()
        };
        if hosts(prefix).any(|address| {
            own(address) || chosen.addresses.contains(&IpAddr::V4(address)) || taken(call, address)
        }) {
            return false;
        }
        hosts(prefix).all(|address| {
            let claim = self.claim(call, address);
            !call.exists(&claim)
        })
    }

    fn automatic_prefix(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
    ) -> Result<Ipv4Cidr, Error> {
        // Those that were set aside for prefixes come first.
        let reserved: Vec<Ipv4Cidr> = subnet::prefix_reservations(self.subnet)
            .filter_map(|cidr| match cidr {
                Cidr::V4(cidr) => Some(cidr),
                Cidr::V6(_) => None,
            })
            .collect();
        for range in reserved {
            if let Some(prefix) = self.block_of(call, chosen, range, false) {
                return Ok(prefix);
            }
        }
        self.block_of(call, chosen, self.subnet.cidr, true).ok_or_else(|| {
            Error::client(
                "InsufficientCidrBlocks",
                "The specified subnet does not have enough free cidr blocks to satisfy the request.",
            )
        })
    }

    fn block_of(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        range: Ipv4Cidr,
        is_open: bool,
    ) -> Option<Ipv4Cidr> {
        let blocks = range.size() / 16;
        if blocks == 0 {
            return None;
        }
        let start = call.rng.u64(..blocks);
        let random = (0..PROBES).map(|_| call.rng.u64(..blocks)).collect::<Vec<_>>();
        let walk = (0..blocks.min(WALK)).map(|step| (start + step) % blocks);
        for block in random.into_iter().chain(walk) {
            let Some(first) = range.nth(block * 16) else { continue };
            let prefix = Ipv4Cidr::containing(first, PREFIX);
            let is_reserved = is_open
                && self.subnet.reservations.iter().any(|r| r.cidr.overlaps(&Cidr::V4(prefix)));
            if !is_reserved && self.is_free(call, chosen, prefix) {
                self.keep_prefix(chosen, prefix);
                return Some(prefix);
            }
        }
        None
    }

    /// The subnet's IPv6 block.
    fn ipv6_cidr(&self) -> Result<Ipv6Cidr, Error> {
        self.subnet.ipv6_cidr.as_ref().map(|block| block.cidr).ok_or_else(|| {
            Error::invalid_parameter_value(format!(
                "The subnet '{}' does not have an IPv6 CIDR block associated with it.",
                self.subnet.id
            ))
        })
    }

    fn is_taken_ipv6(&self, call: &mut Call<'_>, chosen: &Chosen, address: Ipv6Addr) -> bool {
        let claims = [
            self.claim(call, address),
            self.claim(call, Ipv6Cidr::containing(address, IPV6_PREFIX)),
        ];
        chosen.has_ipv6(address) || claims.iter().any(|claim| call.exists(claim))
    }

    fn take_ipv6(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        address: Ipv6Addr,
    ) -> Result<(), Error> {
        let range = self.ipv6_cidr()?;
        let own = u128::from(address).wrapping_sub(u128::from(range.network())) < 4;
        if !range.contains(address) || own || address == range.last() {
            return Err(Error::invalid_parameter_value(format!(
                "The address {address} is not within the subnet's IPv6 CIDR block {range}, or is \
                 one of its reserved addresses."
            )));
        }
        if self.is_taken_ipv6(call, chosen, address) {
            return Err(in_use(address));
        }
        chosen.addresses.insert(IpAddr::V6(address));
        Ok(())
    }

    fn automatic_ipv6(&self, call: &mut Call<'_>, chosen: &mut Chosen) -> Result<Ipv6Addr, Error> {
        let range = self.ipv6_cidr()?;
        let size = u128::from(range.last()) - u128::from(range.network());
        for _ in 0..4 * PROBES {
            let Some(address) = range.nth(call.rng.u128(4..size.max(5))) else { continue };
            if !self.is_reserved(IpAddr::V6(address)) && !self.is_taken_ipv6(call, chosen, address)
            {
                chosen.addresses.insert(IpAddr::V6(address));
                return Ok(address);
            }
        }
        Err(Error::client(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "The specified subnet does not have enough free IPv6 addresses to satisfy the \
                 request. ({})",
                self.subnet.id
            ),
        ))
    }

    /// The single IPv6 addresses of the VPC that are taken; the commit depends on there being no
    /// more.
    fn used_ipv6(&self, call: &mut Call<'_>) -> Result<Vec<Ipv6Addr>, Error> {
        let prefix = self.claim(call, "");
        call.get_all::<String>(&prefix)?;
        let claims = call.snapshot().scan(&prefix);
        Ok(claims.filter_map(|kv| kv.key().get(prefix.len()..)?.parse().ok()).collect())
    }

    fn is_free_ipv6(
        &self,
        call: &mut Call<'_>,
        chosen: &Chosen,
        used: &[Ipv6Addr],
        prefix: Ipv6Cidr,
    ) -> bool {
        let single = |address: &IpAddr| match address {
            IpAddr::V6(address) => prefix.contains(*address),
            IpAddr::V4(_) => false,
        };
        !used.iter().any(|address| prefix.contains(*address))
            && !chosen.addresses.iter().any(single)
            && !chosen.ipv6_prefixes.contains(&prefix)
            && {
                let claim = self.claim(call, prefix);
                !call.exists(&claim)
            }
    }

    fn take_ipv6_prefix(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        used: &[Ipv6Addr],
        prefix: Ipv6Cidr,
    ) -> Result<(), Error> {
        let range = self.ipv6_cidr()?;
        if prefix.length() != IPV6_PREFIX || !range.contains(prefix.network()) {
            return Err(Error::invalid_parameter_value(format!(
                "The prefix {prefix} is not valid. It must be a /{IPV6_PREFIX} within the subnet's \
                 IPv6 CIDR block {range}."
            )));
        }
        if !self.is_free_ipv6(call, chosen, used, prefix) {
            return Err(in_use(prefix));
        }
        chosen.ipv6_prefixes.push(prefix);
        Ok(())
    }

    fn automatic_ipv6_prefix(
        &self,
        call: &mut Call<'_>,
        chosen: &mut Chosen,
        used: &[Ipv6Addr],
    ) -> Result<Ipv6Cidr, Error> {
        let range = self.ipv6_cidr()?;
        let blocks = 1_u128 << u32::from(IPV6_PREFIX.saturating_sub(range.length()));
        for _ in 0..4 * PROBES {
            // The first block has the router.
            let block = call.rng.u128(1..blocks.max(2));
            let first = u128::from(range.network()) + (block << (128 - u32::from(IPV6_PREFIX)));
            let prefix = Ipv6Cidr::containing(first.into(), IPV6_PREFIX);
            let reserved = self.subnet.reservations.iter().filter(|r| r.explicit);
            let mut reserved = reserved.filter(|r| r.cidr.overlaps(&Cidr::V6(prefix)));
            if range.contains(prefix.network())
                && reserved.next().is_none()
                && self.is_free_ipv6(call, chosen, used, prefix)
            {
                chosen.ipv6_prefixes.push(prefix);
                return Ok(prefix);
            }
        }
        Err(Error::client(
            "InsufficientCidrBlocks",
            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
        ))
    }
}

/// The addresses of a prefix.
fn hosts(prefix: Ipv4Cidr) -> impl Iterator<Item = Ipv4Addr> {
    (0..prefix.size()).filter_map(move |index| prefix.nth(index))
}

/// Refuses an address that is not the subnet's to give.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn check_in_subnet(address: Ipv4Addr, subnet: &Subnet) -> Result<(), Error> {
    let range = &subnet.cidr;
    if !range.contains(address) {
        return Err(Error::invalid_parameter_value(format!(
            "Address {address} does not fall within the subnet's address range"
        )));
    }
    let index = u32::from(address) - u32::from(range.network());
    if index < 4 || address == range.last() {
        return Err(Error::invalid_parameter_value(format!(
            "Address {address} is in subnet's reserved address range"
        )));
    }
    Ok(())
}

/// The claims of `addresses` beside the primary one.
fn claims(call: &Call<'_>, account: &str, vpc_id: &str, addresses: &Addresses) -> Vec<String> {
    let claim = |address: &dyn std::fmt::Display| {
        key::private_address(call.region, account, vpc_id, address)
    };
    let mut all = Vec::new();
    all.extend(addresses.secondary.iter().map(|address| claim(address)));
    for prefix in &addresses.prefixes {
        all.extend(hosts(*prefix).map(|address| claim(&address)));
    }
    all.extend(addresses.ipv6.iter().map(|address| claim(address)));
    all.extend(addresses.ipv6_prefixes.iter().map(|prefix| claim(prefix)));
    all
}

/// Stages the claims of an interface's further addresses.
pub(crate) fn claim(call: &mut Call<'_>, account: &str, to: &Interface, addresses: &Addresses) {
    for claim in claims(call, account, &to.vpc_id, addresses) {
        call.put(&claim, to.id.clone());
    }
}

/// Gives further addresses of an interface back.
pub(crate) fn unclaim(call: &mut Call<'_>, account: &str, of: &Interface, addresses: &Addresses) {
    for claim in claims(call, account, &of.vpc_id, addresses) {
        call.delete(&claim);
    }
}

/// All addresses of an interface but the primary one.
pub(crate) fn all(interface: &Interface) -> Addresses {
    Addresses {
        secondary: interface.secondary.iter().map(|address| address.private_ip).collect(),
        prefixes: interface.prefixes.clone(),
        ipv6: interface.ipv6.clone(),
        ipv6_prefixes: interface.ipv6_prefixes.clone(),
    }
}
