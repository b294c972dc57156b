//! Address blocks of a VPC (VPC User Guide, "VPC CIDR blocks").
//!
//! IPv6 blocks, /56, come from a range of the region's own among the unique local addresses
//! (RFC 4193): `fd`, 32 bits made of the region's name, /40. Such addresses are meant to be used
//! without asking anybody; every border router drops what leaks; and guests prefer IPv4 to
//! destinations outside (RFC 6724), which an address that nobody routes back to could not reach.
//! Addresses for documentation would be taken for global ones. Blocks are claimed for all accounts
//! and regions of this cloud, so VPCs can be peered by IPv6.

use super::{ID, delete, find_vpc};
use crate::record::{
    CidrAssociation, Destination, NetworkAcl, NetworkAclEntry, RouteTable, Subnet, Vpc, VpcPeering,
    key,
};
use crate::{network_acl, security_group};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use model::ec2 as api;
use service::{Call, Error};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Most blocks of a family (VPC User Guide, "Amazon VPC quotas").
const MAX_BLOCKS: usize = 5;
/// Prefix length of an IPv6 block.
const IPV6_LENGTH: u8 = 56;
/// The pool that IPv6 blocks come from, as it is named.
pub(super) const IPV6_POOL: &str = "Amazon";
/// Random probes before the IPv6 range is walked.
const PROBES: usize = 32;

const MORE: &str = "For additional restrictions, see \
                    https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html";

/// An IPv4 block of a request in its canonical form: host bits are cleared, as AWS does.
pub(crate) fn parse(text: &str) -> Result<Ipv4Cidr, Error> {
    Ipv4Cidr::parse_lenient(text).map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter cidrBlock is invalid. This is not a valid CIDR block."
        ))
    })
}

/// As [`parse`], for IPv6.
pub(crate) fn parse_ipv6(text: &str) -> Result<Ipv6Cidr, Error> {
    Ipv6Cidr::parse_lenient(text).map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter ipv6CidrBlock is invalid. This is not a valid IPv6 CIDR \
             block."
        ))
    })
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// Ranges of private addresses (RFC 1918).
const PRIVATE: [(Ipv4Addr, u8); 3] =
    [(v4(10, 0, 0, 0), 8), (v4(172, 16, 0, 0), 12), (v4(192, 168, 0, 0), 16)];

/// Ranges that no VPC has: this host, loopback, link local, multicast and above.
const UNUSABLE: [(Ipv4Addr, u8); 4] =
    [(v4(0, 0, 0, 0), 8), (v4(127, 0, 0, 0), 8), (v4(169, 254, 0, 0), 16), (v4(224, 0, 0, 0), 3)];

fn is_in(cidr: Ipv4Cidr, (network, length): (Ipv4Addr, u8)) -> bool {
    Ipv4Cidr::containing(network, length).overlaps(&cidr)
}

/// Which private range a block is in; `None` is a public one.
fn private_range(cidr: Ipv4Cidr) -> Option<usize> {
    PRIVATE.iter().position(|range| is_in(cidr, *range))
}

fn invalid(cidr: impl std::fmt::Display) -> Error {
    Error::client("InvalidVpc.Range", format!("The CIDR '{cidr}' is invalid."))
}

fn conflict(cidr: Ipv4Cidr, with: impl std::fmt::Display) -> Error {
    Error::client("InvalidVpc.Range", format!("The CIDR '{cidr}' conflicts with {with}."))
}

/// Checks the block that a VPC is made with.
pub(super) fn check_primary(cidr: Ipv4Cidr) -> Result<(), Error> {
    let is_usable = !UNUSABLE.iter().any(|range| is_in(cidr, *range));
    if (16..=28).contains(&cidr.length()) && is_usable { Ok(()) } else { Err(invalid(cidr)) }
}

/// Whether a block may be added beside others (VPC User Guide, "IPv4 CIDR block association
/// restrictions").
pub(super) fn is_restricted(primary: Ipv4Cidr, others: &[Ipv4Cidr], new: Ipv4Cidr) -> bool {
    let inside = |a, b, length| is_in(new, (v4(a, b, 0, 0), length));
    match (private_range(primary), private_range(new)) {
        _ if inside(198, 19, 16) => true,
        (Some(old), Some(range)) if old != range => true,
        (None, Some(_)) => true,
        (_, Some(0)) => {
            let low = Ipv4Cidr::containing(v4(10, 0, 0, 0), 15);
            inside(10, 0, 16) && others.iter().any(|other| low.overlaps(other))
        }
        (_, Some(1)) => inside(172, 31, 16),
        _ => false,
    }
}

/// Checks a block that is to be added.
fn check_secondary(call: &mut Call<'_>, vpc: &Vpc, new: Ipv4Cidr) -> Result<(), Error> {
    check_primary(new)?;
    let others: Vec<Ipv4Cidr> = vpc.cidrs().collect();
    if let Some(other) = others.iter().find(|other| other.overlaps(&new)) {
        return Err(conflict(new, format_args!("the CIDR '{other}' of the VPC")));
    }
    if is_restricted(vpc.cidr, &others, new) {
        return Err(Error::client(
            "InvalidVpc.Range",
            format!(
                "The CIDR '{new}' is restricted. Use a CIDR from the same private address range \
                 as the current VPC CIDR, or use a publicly-routable CIDR. {MORE}"
            ),
        ));
    }
    if others.len() >= MAX_BLOCKS {
        return Err(limit_exceeded(vpc));
    }
    // A route that is as specific as the new local one, or more, would be taken over by it.
    let tables = key::of(call.region, key::ROUTE_TABLE, call.account(), "");
    for table in call.get_all::<RouteTable>(&tables)? {
        for route in table.routes.iter().filter(|_| table.vpc_id == vpc.id) {
            if let Destination::Cidr(Cidr::V4(to)) = &route.destination
                && to.length() >= new.length()
                && new.contains(to.network())
            {
                return Err(conflict(new, format_args!("the route to '{to}' in {}", table.id)));
            }
        }
    }
    for peering in call.get_all::<VpcPeering>(&key::vpc_peering(""))? {
        let other = match (&peering.requester, &peering.accepter) {
            (ours, other) | (other, ours) if ours.vpc_id == vpc.id => other,
            _ => continue,
        };
        if !matches!(peering.status.as_str(), "active" | "pending-acceptance") {
            continue;
        }
        let at = key::of(&other.region, key::VPC, &other.account, &other.vpc_id);
        let Some(peer) = call.get::<Vpc>(&at)? else { continue };
        if peer.cidrs().any(|cidr| cidr.overlaps(&new)) {
            return Err(conflict(new, format_args!("the peered VPC {}", peer.id)));
        }
    }
    Ok(())
}

fn limit_exceeded(vpc: &Vpc) -> Error {
    Error::client(
        "CidrLimitExceeded",
        format!(
            "This network '{}' has met its maximum number of allowed CIDRs: {MAX_BLOCKS}",
            vpc.id
        ),
    )
}

/// Addresses are advertised from the region alone: there are no local zones.
pub(super) fn check_border_group(call: &Call<'_>, given: Option<&str>) -> Result<(), Error> {
    match given.filter(|group| !group.is_empty() && *group != call.region) {
        None => Ok(()),
        Some(group) => Err(Error::invalid_parameter_value(format!(
            "Value ({group}) for parameter ipv6CidrBlockNetworkBorderGroup is invalid. The \
             network border group of this region is {}",
            call.region
        ))),
    }
}

/// The range that a region's IPv6 blocks are taken from.
pub(super) fn ipv6_range(region: &str) -> Ipv6Cidr {
    // FNV-1a: the same in every version and on every machine.
    let hash = region
        .bytes()
        .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut bits = (0xfd << 120) | (u128::from(hash) << 88);
    // fd00:ec2::/32 has the services of instances.
    if bits >> 96 == 0xfd00_0ec2 {
        bits ^= 1 << 119;
    }
    Ipv6Cidr::containing(Ipv6Addr::from(bits), 40)
}

/// Gives a VPC an IPv6 block that nobody has. The VPC is not staged.
pub(super) fn add_ipv6(call: &mut Call<'_>, vpc: &mut Vpc) -> Result<(), Error> {
    if vpc.ipv6_cidrs.len() >= MAX_BLOCKS {
        return Err(limit_exceeded(vpc));
    }
    let range = ipv6_range(call.region);
    let blocks = 1u64 << (IPV6_LENGTH - range.length());
    let start = call.rng.u64(..blocks);
    let probes: Vec<u64> = (0..PROBES).map(|_| call.rng.u64(..blocks)).collect();
    let walk = (0..blocks).map(|step| (start + step) % blocks);
    let found = probes.into_iter().chain(walk).find_map(|index| {
        let network = range.nth(u128::from(index) << (128 - IPV6_LENGTH))?;
        let block = Ipv6Cidr::containing(network, IPV6_LENGTH);
        let claim = key::ipv6_block(block);
        (call.snapshot().get(&claim).is_none() && !call.exists(&claim)).then_some(block)
    });
    let cidr = found.ok_or_else(|| {
        Error::client(
            "InsufficientAddressCapacity",
            format!("All IPv6 blocks of the region's range {range} are in use."),
        )
        .with_status(500)
    })?;
    call.put(&key::ipv6_block(cidr), vpc.id.clone());
    if vpc.ipv6_cidrs.is_empty() {
        open_for_ipv6(call, vpc)?;
    }
    let id = call.new_id("vpc-cidr-assoc");
    vpc.ipv6_cidrs.push(CidrAssociation { id, cidr });
    Ok(())
}

/// What is open for IPv4 becomes open for IPv6 with the first block, unless it was changed (VPC
/// User Guide, "Default network ACL", "Default security groups").
fn open_for_ipv6(call: &mut Call<'_>, vpc: &Vpc) -> Result<(), Error> {
    let at = network_acl::ID.key(call, &vpc.default_network_acl_id);
    if let Some(found) = call.get::<NetworkAcl>(&at)? {
        let mut acl = NetworkAcl::clone(&found);
        for egress in [false, true] {
            let mut same = found.entries.iter().filter(|entry| entry.egress == egress);
            if let (Some(only), None) = (same.next(), same.next())
                && *only == super::open(egress)
            {
                acl.entries.push(NetworkAclEntry {
                    number: 101,
                    cidr: Ipv6Cidr::containing(Ipv6Addr::UNSPECIFIED, 0).into(),
                    ..super::open(egress)
                });
            }
        }
        if acl != *found {
            call.put(&at, acl);
        }
    }
    security_group::open_for_ipv6(call, &vpc.default_group_id)
}

/// A state of a block.
pub(super) fn state(name: &str) -> Option<api::VpcCidrBlockState> {
    Some(api::VpcCidrBlockState { state: Some(name.to_owned()), status_message: None })
}

pub(super) fn to_model(id: &str, cidr: Ipv4Cidr) -> api::VpcCidrBlockAssociation {
    api::VpcCidrBlockAssociation {
        association_id: Some(id.to_owned()),
        cidr_block: Some(cidr.to_string()),
        cidr_block_state: state("associated"),
    }
}

pub(super) fn ipv6_to_model(
    region: &str,
    given: &CidrAssociation<Ipv6Cidr>,
) -> api::VpcIpv6CidrBlockAssociation {
    api::VpcIpv6CidrBlockAssociation {
        association_id: Some(given.id.clone()),
        ip_source: Some("amazon".to_owned()),
        ipv6_address_attribute: Some("private".to_owned()),
        ipv6_cidr_block: Some(given.cidr.to_string()),
        ipv6_cidr_block_state: state("associated"),
        ipv6_pool: Some(IPV6_POOL.to_owned()),
        network_border_group: Some(region.to_owned()),
    }
}

pub(super) fn associate_vpc_cidr_block(
    call: &mut Call<'_>,
    input: api::AssociateVpcCidrBlockRequest,
) -> Result<api::AssociateVpcCidrBlockResult, Error> {
    let mut vpc = Vpc::clone(&*find_vpc(call, &input.vpc_id.unwrap_or_default())?);
    let mut result =
        api::AssociateVpcCidrBlockResult { vpc_id: Some(vpc.id.clone()), ..Default::default() };
    let wants_ipv6 = input.amazon_provided_ipv6_cidr_block == Some(true);
    match input.cidr_block.filter(|text| !text.is_empty()) {
        Some(_) if wants_ipv6 => {
            return Err(Error::invalid_parameter_combination(
                "The parameters cidrBlock and amazonProvidedIpv6CidrBlock cannot be used together",
            ));
        }
        Some(text) => {
            let cidr = parse(&text)?;
            check_secondary(call, &vpc, cidr)?;
            let id = call.new_id("vpc-cidr-assoc");
            result.cidr_block_association = Some(api::VpcCidrBlockAssociation {
                cidr_block_state: state("associating"),
                ..to_model(&id, cidr)
            });
            vpc.secondary_cidrs.push(CidrAssociation { id, cidr });
        }
        None if wants_ipv6 => {
            check_border_group(call, input.ipv6_cidr_block_network_border_group.as_deref())?;
            add_ipv6(call, &mut vpc)?;
            result.ipv6_cidr_block_association =
                vpc.ipv6_cidrs.last().map(|given| api::VpcIpv6CidrBlockAssociation {
                    ipv6_cidr_block_state: state("associating"),
                    ..ipv6_to_model(call.region, given)
                });
        }
        None => return Err(Error::missing_parameter("cidrBlock")),
    }
    call.put(&ID.key(call, &vpc.id), vpc);
    Ok(result)
}

fn in_use(vpc: &Vpc, cidr: impl std::fmt::Display) -> Error {
    Error::client(
        "InvalidCidrBlock.InUse",
        format!("The vpc {} currently has a subnet within CIDR block {cidr}", vpc.id),
    )
}

pub(super) fn disassociate_vpc_cidr_block(
    call: &mut Call<'_>,
    input: api::DisassociateVpcCidrBlockRequest,
) -> Result<api::DisassociateVpcCidrBlockResult, Error> {
    let id = input.association_id.unwrap_or_default();
    let missing = || {
        Error::client(
            "InvalidVpcCidrBlockAssociationID.NotFound",
            format!("The vpc CIDR block association ID '{id}' does not exist"),
        )
    };
    if !base::id::is_valid("vpc-cidr-assoc", &id) {
        return Err(Error::client(
            "InvalidVpcCidrBlockAssociationID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"vpc-cidr-assoc-...\")"),
        ));
    }
    let all = call.scan::<Vpc>(&ID.key(call, ""))?;
    let holder = all.into_iter().find(|vpc| {
        vpc.cidr_association_id == id
            || vpc.secondary_cidrs.iter().any(|block| block.id == id)
            || vpc.ipv6_cidrs.iter().any(|block| block.id == id)
    });
    let holder = holder.ok_or_else(missing)?;
    let mut vpc = Vpc::clone(&*find_vpc(call, &holder.id)?);
    if vpc.cidr_association_id == id {
        return Err(Error::client(
            "OperationNotPermitted",
            format!(
                "The vpc CIDR block with association ID {id} may not be disassociated. It is the \
                 primary IPv4 CIDR block of the VPC"
            ),
        ));
    }
    let mut result =
        api::DisassociateVpcCidrBlockResult { vpc_id: Some(vpc.id.clone()), ..Default::default() };
    let subnets = call.get_all::<Subnet>(&crate::subnet::ID.key(call, ""))?;
    let mut inside = subnets.iter().filter(|subnet| subnet.vpc_id == vpc.id);
    if let Some(index) = vpc.secondary_cidrs.iter().position(|block| block.id == id) {
        let block = vpc.secondary_cidrs.remove(index);
        if inside.any(|subnet| block.cidr.overlaps(&subnet.cidr)) {
            return Err(in_use(&vpc, block.cidr));
        }
        result.cidr_block_association = Some(api::VpcCidrBlockAssociation {
            cidr_block_state: state("disassociating"),
            ..to_model(&id, block.cidr)
        });
    } else {
        let index = vpc.ipv6_cidrs.iter().position(|block| block.id == id);
        let block = vpc.ipv6_cidrs.remove(index.ok_or_else(missing)?);
        let mut blocks = inside.filter_map(|subnet| subnet.ipv6_cidr.as_ref());
        if blocks.any(|of_subnet| block.cidr.overlaps(&of_subnet.cidr)) {
            return Err(in_use(&vpc, block.cidr));
        }
        delete::release_ipv6(call, block.cidr);
        result.ipv6_cidr_block_association = Some(api::VpcIpv6CidrBlockAssociation {
            ipv6_cidr_block_state: state("disassociating"),
            ..ipv6_to_model(call.region, &block)
        });
    }
    call.put(&ID.key(call, &vpc.id), vpc);
    Ok(result)
}
