//! Elastic addresses: public addresses that an account keeps, whatever they lead to.
//!
//! ```text
//!  AllocateAddress            AssociateAddress
//!  ──────────────► idle ◄────────────────────────► leads to one private address of an interface
//!                  │   DisassociateAddress, the interface's or the private address's end
//!                  ▼
//!               ReleaseAddress, or a transfer to another account
//! ```
//!
//! An association stands on both sides: in the address's record and in the interface's
//! ([`crate::record::ElasticPart`]), and both are written in one transaction. The packets follow the
//! interface's record. An automatic public address goes back to the pool when an elastic one takes
//! its place, and the next one comes with the next start. A claim
//! ([`crate::record::key::public_address`]) holds the allocation's id, that of an automatic address
//! its interface's.
//!
//! Not here: addresses of carriers and customers (Outposts, Wavelength), IPAM pools.

mod associate;
mod attribute;
mod pool;
#[cfg(test)]
mod tests;
mod transfer;

pub(crate) use associate::{associate, disassociate, leave};
pub(crate) use pool::ranges;

use crate::record::{ElasticAddress, Interface, InterfaceKind, key};
use crate::{launch, tag};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::{Call, Error, Operation, operation};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Most elastic addresses of an account in a region (EC2 User Guide, "Elastic IP address quota").
/// Those of pools of one's own do not count.
const MOST: usize = 5;

/// The pool of addresses that nobody brought.
const AMAZON: &str = "amazon";

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::AllocateAddress,
        allocate_address,
        Write,
        ["Domain", "Address", "PublicIpv4Pool", "NetworkBorderGroup", "TagSpecifications.*"]
    ),
    operation!(
        op::ReleaseAddress,
        release_address,
        Write,
        ["AllocationId", "PublicIp", "NetworkBorderGroup"]
    ),
    operation!(
        op::DescribeAddresses,
        describe_addresses,
        Read,
        ["PublicIps", "Filters.*", "AllocationIds"]
    ),
    operation!(
        op::AssociateAddress,
        associate::associate_address,
        Write,
        [
            "AllocationId",
            "InstanceId",
            "PublicIp",
            "NetworkInterfaceId",
            "PrivateIpAddress",
            "AllowReassociation",
        ]
    ),
    operation!(
        op::DisassociateAddress,
        associate::disassociate_address,
        Write,
        ["AssociationId", "PublicIp"]
    ),
    operation!(
        op::DescribeAddressesAttribute,
        attribute::describe_addresses_attribute,
        Read,
        ["AllocationIds", "Attribute", "NextToken", "MaxResults"]
    ),
    operation!(
        op::ModifyAddressAttribute,
        attribute::modify_address_attribute,
        Write,
        ["AllocationId", "DomainName"]
    ),
    operation!(
        op::ResetAddressAttribute,
        attribute::reset_address_attribute,
        Write,
        ["AllocationId", "Attribute"]
    ),
    operation!(
        op::EnableAddressTransfer,
        transfer::enable_address_transfer,
        Write,
        ["AllocationId", "TransferAccountId"]
    ),
    operation!(
        op::DisableAddressTransfer,
        transfer::disable_address_transfer,
        Write,
        ["AllocationId"]
    ),
    operation!(
        op::AcceptAddressTransfer,
        transfer::accept_address_transfer,
        Write,
        ["Address", "TagSpecifications.*"]
    ),
    operation!(
        op::DescribeAddressTransfers,
        transfer::describe_address_transfers,
        Read,
        ["AllocationIds", "NextToken", "MaxResults"]
    ),
    operation!(
        op::ProvisionByoipCidr,
        pool::provision_byoip_cidr,
        Write,
        [
            "Cidr",
            "CidrAuthorizationContext.Message",
            "CidrAuthorizationContext.Signature",
            "Description",
            "PubliclyAdvertisable",
            "PoolTagSpecifications.*",
            "NetworkBorderGroup",
        ]
    ),
    operation!(
        op::AdvertiseByoipCidr,
        pool::advertise_byoip_cidr,
        Write,
        ["Cidr", "NetworkBorderGroup"]
    ),
    operation!(op::WithdrawByoipCidr, pool::withdraw_byoip_cidr, Write, ["Cidr"]),
    operation!(op::DeprovisionByoipCidr, pool::deprovision_byoip_cidr, Write, ["Cidr"]),
    operation!(
        op::DescribeByoipCidrs,
        pool::describe_byoip_cidrs,
        Read,
        ["MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribePublicIpv4Pools,
        pool::describe_public_ipv4_pools,
        Read,
        ["PoolIds", "NextToken", "MaxResults", "Filters.*"]
    ),
];

fn key_of(call: &Call<'_>, account: &str, allocation_id: &str) -> String {
    key::of(call.region, key::ELASTIC_ADDRESS, account, allocation_id)
}

fn not_found(allocation_id: &str) -> Error {
    Error::client(
        "InvalidAllocationID.NotFound",
        format!("The allocation ID '{allocation_id}' does not exist"),
    )
}

fn address_not_found(address: &str) -> Error {
    Error::client("InvalidAddress.NotFound", format!("Address '{address}' not found."))
}

/// A user may not touch what a service has.
fn not_permitted() -> Error {
    Error::client("AuthFailure", "You do not have permission to access the specified resource.")
}

/// The address with this allocation id; the commit depends on it.
fn get(call: &mut Call<'_>, account: &str, id: &str) -> Result<Arc<ElasticAddress>, Error> {
    let at = key_of(call, account, id);
    call.get(&at)?.ok_or_else(|| not_found(id))
}

/// The address that a request names by its allocation or by itself.
fn named(
    call: &mut Call<'_>,
    allocation_id: Option<String>,
    public_ip: Option<String>,
) -> Result<Arc<ElasticAddress>, Error> {
    let account = call.account();
    match (allocation_id.filter(|id| !id.is_empty()), public_ip.filter(|ip| !ip.is_empty())) {
        (Some(_), Some(_)) => Err(Error::invalid_parameter_combination(
            "You may specify public IP or allocation id, but not both in the same call",
        )),
        (Some(id), None) => get(call, account, &id),
        (None, Some(text)) => {
            let address = parse(&text)?;
            let claim = key::public_address(address);
            let id = call.get::<String>(&claim)?.filter(|id| id.starts_with("eipalloc-"));
            let id = id.ok_or_else(|| address_not_found(&text))?;
            // Somebody else's, if it is none of this account.
            get(call, account, &id).map_err(|_| {
                Error::client(
                    "AuthFailure",
                    format!("The address '{text}' does not belong to you."),
                )
            })
        }
        (None, None) => Err(Error::client(
            "MissingParameter",
            "Either public IP or allocation id must be specified",
        )),
    }
}

fn parse(text: &str) -> Result<Ipv4Addr, Error> {
    text.parse().map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter publicIp is invalid. Invalid IPv4 address."
        ))
    })
}

/// Whether a service made the interface for itself.
fn is_managed(interface: &Interface) -> bool {
    interface.kind != InterfaceKind::Interface
}

/// Refuses what a service uses.
fn refuse_managed(call: &mut Call<'_>, elastic: &ElasticAddress) -> Result<(), Error> {
    if elastic.service_managed.is_some() {
        return Err(not_permitted());
    }
    let Some(association) = &elastic.association else { return Ok(()) };
    let at = key::of(call.region, key::INTERFACE, call.account(), &association.interface_id);
    match call.get::<Interface>(&at)? {
        Some(interface) if is_managed(&interface) => Err(not_permitted()),
        _ => Ok(()),
    }
}

fn check_border_group(call: &Call<'_>, group: Option<&str>) -> Result<(), Error> {
    match group.filter(|group| !group.is_empty() && *group != call.region) {
        None => Ok(()),
        Some(group) => Err(Error::invalid_parameter_value(format!(
            "Value ({group}) for parameter NetworkBorderGroup is invalid. This region has one \
             network border group, {}.",
            call.region
        ))),
    }
}

fn allocate_address(
    call: &mut Call<'_>,
    input: api::AllocateAddressRequest,
) -> Result<api::AllocateAddressResult, Error> {
    if input.domain.as_deref() == Some("standard") {
        return Err(Error::invalid_parameter_value(
            "Value (standard) for parameter domain is invalid. EC2-Classic is not supported.",
        ));
    }
    check_border_group(call, input.network_border_group.as_deref())?;
    let tags = tag::from_specifications(
        input.tag_specifications.as_deref(),
        "elastic-ip",
        &["elastic-ip"],
    )?;
    let wanted = match input.address.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Some(parse(text)?),
        None => None,
    };
    let pool_id = input.public_ipv4_pool.filter(|id| !id.is_empty() && id != AMAZON);
    let account = call.account();
    let address = match (&pool_id, wanted) {
        (Some(id), wanted) => pool::choose(call, id, wanted)?,
        (None, wanted) => {
            check_quota(call)?;
            match wanted {
                Some(address) => take(call, address)?,
                None => launch::free_public_address(call)?,
            }
        }
    };
    let allocation_id = call.new_id("eipalloc");
    call.put(&key::public_address(address), allocation_id.clone());
    let pool = pool_id.unwrap_or_else(|| AMAZON.to_owned());
    let at = key_of(call, account, &allocation_id);
    call.put(
        &at,
        ElasticAddress {
            v: 1,
            allocation_id: allocation_id.clone(),
            public_ip: address,
            pool: pool.clone(),
            association: None,
            domain_name: None,
            transfer: None,
            service_managed: None,
            tags,
        },
    );
    Ok(api::AllocateAddressResult {
        allocation_id: Some(allocation_id),
        domain: Some("vpc".to_owned()),
        network_border_group: Some(call.region.to_owned()),
        public_ip: Some(address.to_string()),
        public_ipv4_pool: Some(pool),
        ..Default::default()
    })
}

/// Refuses one address more than the quota.
fn check_quota(call: &mut Call<'_>) -> Result<(), Error> {
    let at = key_of(call, call.account(), "");
    let all = call.get_all::<ElasticAddress>(&at)?;
    if all.iter().filter(|address| address.pool == AMAZON).count() < MOST {
        return Ok(());
    }
    Err(Error::client("AddressLimitExceeded", "The maximum number of addresses has been reached."))
}

/// A certain address of the region's pool.
fn take(call: &mut Call<'_>, address: Ipv4Addr) -> Result<Ipv4Addr, Error> {
    let pool = call.environment.public_pool;
    let index = u32::from(address).wrapping_sub(u32::from(pool.network()));
    let is_ours = pool.contains(address) && index >= 2 && address != pool.last();
    if !is_ours || pool::is_own(call, address)? {
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

fn release_address(
    call: &mut Call<'_>,
    input: api::ReleaseAddressRequest,
) -> Result<wire::Empty, Error> {
    check_border_group(call, input.network_border_group.as_deref())?;
    let elastic = named(call, input.allocation_id, input.public_ip)?;
    refuse_managed(call, &elastic)?;
    if elastic.association.is_some() {
        return Err(Error::client(
            "InvalidIPAddress.InUse",
            format!("Address {} is in use.", elastic.public_ip),
        ));
    }
    let at = key_of(call, call.account(), &elastic.allocation_id);
    call.delete(&at);
    call.delete(&key::public_address(elastic.public_ip));
    Ok(wire::Empty)
}

/// What DescribeAddresses shows and filters.
struct View {
    elastic: Arc<ElasticAddress>,
    instance_id: Option<String>,
    region: String,
    account: String,
}

fn association<'a>(
    view: &'a View,
    value: impl Fn(&'a crate::record::ElasticAssociation) -> String,
) -> Values<'a> {
    view.elastic.association.iter().map(|association| value(association).into()).collect()
}

const FILTERS: &[Field<View>] = &[
    ("allocation-id", |v| vec![v.elastic.allocation_id.as_str().into()]),
    ("association-id", |v| association(v, |a| a.id.clone())),
    ("domain", |_| vec!["vpc".into()]),
    ("instance-id", |v| v.instance_id.iter().map(|id| id.as_str().into()).collect()),
    ("network-border-group", |v| vec![v.region.as_str().into()]),
    ("network-interface-id", |v| association(v, |a| a.interface_id.clone())),
    ("network-interface-owner-id", |v| association(v, |_| v.account.clone())),
    ("private-ip-address", |v| association(v, |a| a.private_ip.to_string())),
    ("public-ip", |v| vec![v.elastic.public_ip.to_string().into()]),
    ("public-ipv4-pool", |v| vec![v.elastic.pool.as_str().into()]),
];

fn describe_addresses(
    call: &mut Call<'_>,
    input: api::DescribeAddressesRequest,
) -> Result<api::DescribeAddressesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let account = call.account();
    let all = call.scan::<ElasticAddress>(&key_of(call, account, ""))?;
    let ids = input.allocation_ids.unwrap_or_default();
    for id in &ids {
        if !all.iter().any(|address| address.allocation_id == *id) {
            return Err(not_found(id));
        }
    }
    let addresses = input.public_ips.unwrap_or_default();
    for text in &addresses {
        if !all.iter().any(|address| address.public_ip.to_string() == *text) {
            return Err(address_not_found(text));
        }
    }
    let chosen = |elastic: &ElasticAddress| {
        (ids.is_empty() || ids.contains(&elastic.allocation_id))
            && (addresses.is_empty() || addresses.contains(&elastic.public_ip.to_string()))
    };
    let mut shown = Vec::new();
    for elastic in all.into_iter().filter(|elastic| chosen(elastic)) {
        let mut instance_id = None;
        if let Some(association) = &elastic.association {
            let at = key::of(call.region, key::INTERFACE, account, &association.interface_id);
            let interface = call.peek::<Interface>(&at)?;
            instance_id = interface.and_then(|i| Some(i.attachment.as_ref()?.instance_id.clone()));
        }
        let view = View {
            elastic,
            instance_id,
            region: call.region.to_owned(),
            account: account.to_owned(),
        };
        if filters.accept(&view, &view.elastic.tags) {
            shown.push(to_model(&view));
        }
    }
    Ok(api::DescribeAddressesResult { addresses: Some(shown) })
}

fn to_model(view: &View) -> api::Address {
    let elastic = &view.elastic;
    let association = elastic.association.as_ref();
    api::Address {
        allocation_id: Some(elastic.allocation_id.clone()),
        association_id: association.map(|association| association.id.clone()),
        domain: Some("vpc".to_owned()),
        instance_id: view.instance_id.clone(),
        network_border_group: Some(view.region.clone()),
        network_interface_id: association.map(|association| association.interface_id.clone()),
        network_interface_owner_id: association.map(|_| view.account.clone()),
        private_ip_address: association.map(|association| association.private_ip.to_string()),
        public_ip: Some(elastic.public_ip.to_string()),
        public_ipv4_pool: Some(elastic.pool.clone()),
        tags: tag::to_model(&elastic.tags),
        ..Default::default()
    }
}
