//! Ranges of one's own (BYOIP): parts of the host's public pool that an account takes for itself.
//!
//! ```text
//!  ProvisionByoipCidr              AdvertiseByoipCidr
//!  ──────────────────► provisioned ──────────────────► advertised
//!                          │  ▲ ◄──────────────────────────┘
//!                          ▼  │       WithdrawByoipCidr
//!                 DeprovisionByoipCidr, once none of its addresses is allocated
//! ```
//!
//! On AWS a range comes with a signed proof of ownership; here who runs the region owns the pool, so
//! any range inside it that nothing uses can be taken. Nothing is announced to routers: an address
//! leads to its interface whether its range is advertised or not.

use super::{address_not_found, check_border_group};
use crate::launch::free_address;
use crate::record::{Tags, key};
use crate::tag;
use base::Ipv4Cidr;
use model::ec2 as api;
use serde::{Deserialize, Serialize};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Smallest range. AWS takes /24; pools here are often that small themselves.
const LONGEST: u8 = 29;

/// Where ranges are kept, for all regions and accounts of this cloud: their pool is one.
const RANGES: &str = "/byoip-cidr/";

/// A range of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByoipCidr {
    /// Record version, 1.
    pub(crate) v: u16,
    /// The range.
    pub(crate) cidr: Ipv4Cidr,
    /// Whose.
    pub(crate) account: String,
    /// In which region.
    pub(crate) region: String,
    /// `ipv4pool-ec2-…`.
    pub(crate) pool_id: String,
    /// Description.
    pub(crate) description: String,
    /// AdvertiseByoipCidr was called.
    pub(crate) advertised: bool,
    /// Tags of the pool.
    pub(crate) tags: Tags,
}

fn key_of(cidr: &Ipv4Cidr) -> String {
    format!("{RANGES}{cidr}")
}

/// Whether an account has taken the range that `address` lies in; the commit depends on no other
/// range being taken meanwhile.
///
/// # Errors
/// Internal, when a record cannot be read.
pub(crate) fn is_own(call: &mut Call<'_>, address: Ipv4Addr) -> Result<bool, Error> {
    Ok(ranges(call)?.iter().any(|range| range.contains(address)))
}

/// The ranges of the account in this region.
fn own(call: &Call<'_>) -> Result<Vec<Arc<ByoipCidr>>, Error> {
    let mut all = call.scan::<ByoipCidr>(RANGES)?;
    all.retain(|range| range.account == call.account() && range.region == call.region);
    Ok(all)
}

fn pool_not_found(id: &str) -> Error {
    Error::client("InvalidPublicIpv4PoolID.NotFound", format!("The pool ID '{id}' does not exist"))
}

/// An address of a pool: the wanted one, or any that is free.
pub(super) fn choose(
    call: &mut Call<'_>,
    pool_id: &str,
    wanted: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Error> {
    let range = own(call)?.into_iter().find(|range| range.pool_id == pool_id);
    let range = range.ok_or_else(|| pool_not_found(pool_id))?;
    // The commit depends on the range: it may be going.
    call.get::<ByoipCidr>(&key_of(&range.cidr))?.ok_or_else(|| pool_not_found(pool_id))?;
    let Some(address) = wanted else {
        return free_address(call, &range.cidr, 0, 0, key::public_address, |_| false).ok_or_else(
            || {
                Error::client(
                    "InsufficientAddressCapacity",
                    format!("All addresses of the pool {pool_id} are allocated."),
                )
            },
        );
    };
    if !range.cidr.contains(address) {
        return Err(address_not_found(&address.to_string()));
    }
    if call.exists(&key::public_address(address)) {
        return Err(Error::client(
            "InvalidIPAddress.InUse",
            format!("Address {address} is in use."),
        ));
    }
    Ok(address)
}

fn parse(cidr: Option<String>) -> Result<Ipv4Cidr, Error> {
    let text = cidr.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Error::missing_parameter("Cidr"))?;
    text.parse::<Ipv4Cidr>().map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter cidr is invalid. This is not a valid IPv4 CIDR block."
        ))
    })
}

fn get(call: &mut Call<'_>, cidr: &Ipv4Cidr) -> Result<Arc<ByoipCidr>, Error> {
    let (account, region) = (call.account(), call.region);
    let found = call.get::<ByoipCidr>(&key_of(cidr))?;
    found.filter(|range| range.account == account && range.region == region).ok_or_else(|| {
        Error::client(
            "InvalidByoipCidr.NotFound",
            format!("The address range {cidr} is not provisioned in this account."),
        )
    })
}

fn shown(range: &ByoipCidr, state: &str) -> api::ByoipCidr {
    api::ByoipCidr {
        advertisement_type: Some("unicast".to_owned()),
        asn_associations: Some(Vec::new()),
        cidr: Some(range.cidr.to_string()),
        description: Some(range.description.clone()),
        network_border_group: Some(range.region.clone()),
        state: Some(state.to_owned()),
        status_message: Some(format!("Cidr {}", range.pool_id)),
    }
}

fn state(range: &ByoipCidr) -> &'static str {
    if range.advertised { "advertised" } else { "provisioned" }
}

pub(super) fn provision_byoip_cidr(
    call: &mut Call<'_>,
    input: api::ProvisionByoipCidrRequest,
) -> Result<api::ProvisionByoipCidrResult, Error> {
    let cidr = parse(input.cidr)?;
    check_border_group(call, input.network_border_group.as_deref())?;
    if input.publicly_advertisable == Some(false) {
        return Err(Error::unsupported("PubliclyAdvertisable=false is for IPv6 ranges only."));
    }
    let pool = call.environment.public_pool;
    let is_inside = pool.contains(cidr.network()) && pool.contains(cidr.last());
    // The network, the host's own address and the broadcast address are not to be had.
    let has_own = u32::from(cidr.network()).wrapping_sub(u32::from(pool.network())) < 2
        || cidr.last() == pool.last();
    if !is_inside || has_own || cidr.length() > LONGEST {
        return Err(Error::invalid_parameter_value(format!(
            "The address range {cidr} cannot be provisioned. It must be a /{LONGEST} or larger \
             inside the public pool of this host, {pool}, and must have neither its first two \
             addresses nor its last one."
        )));
    }
    let ranges = call.get_all::<ByoipCidr>(RANGES)?;
    if let Some(other) = ranges.iter().find(|other| other.cidr.overlaps(&cidr)) {
        return Err(Error::client(
            "InvalidByoipCidr.Conflict",
            format!("The address range {cidr} overlaps the provisioned range {}.", other.cidr),
        ));
    }
    call.get_all::<String>("/public-address/")?;
    if let Some(address) = claimed(call, &cidr).next() {
        return Err(Error::client(
            "IncorrectState",
            format!("The address range {cidr} cannot be provisioned: {address} is in use."),
        ));
    }
    const MADE: &[&str] = &["ipv4pool-ec2"];
    let tags =
        tag::from_specifications(input.pool_tag_specifications.as_deref(), "ipv4pool-ec2", MADE)?;
    let range = ByoipCidr {
        v: 1,
        cidr,
        account: call.account().to_owned(),
        region: call.region.to_owned(),
        pool_id: call.new_id("ipv4pool-ec2"),
        description: input.description.unwrap_or_default(),
        advertised: false,
        tags,
    };
    let answer = shown(&range, "pending-provision");
    call.put(&key_of(&cidr), range);
    Ok(api::ProvisionByoipCidrResult { byoip_cidr: Some(answer) })
}

/// The addresses of a range that are somebody's.
fn claimed<'a>(call: &'a Call<'_>, cidr: &'a Ipv4Cidr) -> impl Iterator<Item = Ipv4Addr> + 'a {
    (0..cidr.size())
        .filter_map(|index| cidr.nth(index))
        .filter(|address| call.snapshot().get(&key::public_address(*address)).is_some())
}

fn advertise(call: &mut Call<'_>, cidr: &Ipv4Cidr, on: bool) -> Result<api::ByoipCidr, Error> {
    let range = get(call, cidr)?;
    if range.advertised == on {
        return Err(Error::client(
            "IncorrectState",
            format!("The address range {cidr} is in the state '{}'.", state(&range)),
        ));
    }
    let mut range = ByoipCidr::clone(&range);
    range.advertised = on;
    let answer = shown(&range, state(&range));
    call.put(&key_of(cidr), range);
    Ok(answer)
}

pub(super) fn advertise_byoip_cidr(
    call: &mut Call<'_>,
    input: api::AdvertiseByoipCidrRequest,
) -> Result<api::AdvertiseByoipCidrResult, Error> {
    check_border_group(call, input.network_border_group.as_deref())?;
    let cidr = parse(input.cidr)?;
    Ok(api::AdvertiseByoipCidrResult { byoip_cidr: Some(advertise(call, &cidr, true)?) })
}

pub(super) fn withdraw_byoip_cidr(
    call: &mut Call<'_>,
    input: api::WithdrawByoipCidrRequest,
) -> Result<api::WithdrawByoipCidrResult, Error> {
    let cidr = parse(input.cidr)?;
    Ok(api::WithdrawByoipCidrResult { byoip_cidr: Some(advertise(call, &cidr, false)?) })
}

pub(super) fn deprovision_byoip_cidr(
    call: &mut Call<'_>,
    input: api::DeprovisionByoipCidrRequest,
) -> Result<api::DeprovisionByoipCidrResult, Error> {
    let cidr = parse(input.cidr)?;
    let range = get(call, &cidr)?;
    if range.advertised {
        return Err(Error::client(
            "IncorrectState",
            format!("The address range {cidr} is advertised. Withdraw it first."),
        ));
    }
    call.get_all::<String>("/public-address/")?;
    if let Some(address) = claimed(call, &cidr).next() {
        return Err(Error::client(
            "IncorrectState",
            format!("The address {address} of the range {cidr} is allocated. Release it first."),
        ));
    }
    call.delete(&key_of(&cidr));
    let answer = shown(&range, "pending-deprovision");
    Ok(api::DeprovisionByoipCidrResult { byoip_cidr: Some(answer) })
}

pub(super) fn describe_byoip_cidrs(
    call: &mut Call<'_>,
    input: api::DescribeByoipCidrsRequest,
) -> Result<api::DescribeByoipCidrsResult, Error> {
    let mut all: Vec<(String, Arc<ByoipCidr>)> =
        own(call)?.into_iter().map(|range| (range.cidr.to_string(), range)).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    let page = page(
        all,
        |(cidr, _)| cidr.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        1..=100,
    )?;
    Ok(api::DescribeByoipCidrsResult {
        byoip_cidrs: Some(page.items.iter().map(|(_, range)| shown(range, state(range))).collect()),
        next_token: page.next_token,
    })
}

const FILTERS: &[Field<Arc<ByoipCidr>>] = &[];

pub(super) fn describe_public_ipv4_pools(
    call: &mut Call<'_>,
    input: api::DescribePublicIpv4PoolsRequest,
) -> Result<api::DescribePublicIpv4PoolsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let mut all = own(call)?;
    if let Some(ids) = input.pool_ids.filter(|ids| !ids.is_empty()) {
        if let Some(id) = ids.iter().find(|id| !all.iter().any(|range| range.pool_id == **id)) {
            return Err(pool_not_found(id));
        }
        all.retain(|range| ids.contains(&range.pool_id));
    }
    all.retain(|range| filters.accept(range, &range.tags));
    all.sort_by(|one, other| one.pool_id.cmp(&other.pool_id));
    let page = page(
        all,
        |range| range.pool_id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        1..=10,
    )?;
    let show = |range: &Arc<ByoipCidr>| {
        let total = i32::try_from(range.cidr.size()).unwrap_or(i32::MAX);
        let used = i32::try_from(claimed(call, &range.cidr).count()).unwrap_or(i32::MAX);
        api::PublicIpv4Pool {
            description: Some(range.description.clone()),
            network_border_group: Some(range.region.clone()),
            pool_address_ranges: Some(vec![api::PublicIpv4PoolRange {
                address_count: Some(total),
                available_address_count: Some(total - used),
                first_address: Some(range.cidr.network().to_string()),
                last_address: Some(range.cidr.last().to_string()),
            }]),
            pool_id: Some(range.pool_id.clone()),
            tags: tag::to_model(&range.tags),
            total_address_count: Some(total),
            total_available_address_count: Some(total - used),
        }
    };
    Ok(api::DescribePublicIpv4PoolsResult {
        next_token: page.next_token.clone(),
        public_ipv4_pools: Some(page.items.iter().map(show).collect()),
    })
}

/// Ranges that accounts have taken for themselves, which the automatic choice of a public address
/// leaves alone; the commit depends on no other range being taken meanwhile.
///
/// # Errors
/// Internal, when a record cannot be read.
pub(crate) fn ranges(call: &mut Call<'_>) -> Result<Vec<Ipv4Cidr>, Error> {
    Ok(call.get_all::<ByoipCidr>(RANGES)?.iter().map(|range| range.cidr).collect())
}
