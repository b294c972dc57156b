//! Transfers of elastic addresses to other accounts: offered, accepted or taken back.
//!
//! ```text
//!  EnableAddressTransfer            AcceptAddressTransfer by the other account
//!  ─────────────────────► pending ───────────────────────────────────────────► accepted ─ 3 days ─► none
//!                            │ DisableAddressTransfer, or seven days, or it is associated
//!                            ▼
//!                          none
//! ```

use super::{AMAZON, check_quota, get, key_of, not_permitted, parse, refuse_managed};
use crate::record::{ElasticAddress, key};
use crate::tag;
use base::Timestamp;
use model::ec2 as api;
use serde::{Deserialize, Serialize};
use service::page::page;
use service::{Call, Error};

/// How long an offer stands (EC2 User Guide, "Transfer Elastic IP addresses").
const OFFER_MILLIS: i64 = 7 * 86_400_000;
/// How long the giver sees that it was accepted.
const SHOWN_MILLIS: i64 = 3 * 86_400_000;
/// Kind of the records of accepted transfers.
const ACCEPTED: &str = "accepted-address-transfer";

/// A transfer that was accepted, as the giver sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Accepted {
    v: u16,
    allocation_id: String,
    public_ip: std::net::Ipv4Addr,
    account: String,
    expires: Timestamp,
    accepted: Timestamp,
}

impl Accepted {
    fn shown(&self) -> api::AddressTransfer {
        api::AddressTransfer {
            address_transfer_status: Some("accepted".to_owned()),
            allocation_id: Some(self.allocation_id.clone()),
            public_ip: Some(self.public_ip.to_string()),
            transfer_account_id: Some(self.account.clone()),
            transfer_offer_accepted_timestamp: Some(self.accepted),
            transfer_offer_expiration_timestamp: Some(self.expires),
        }
    }
}

/// The offer that stands.
fn offer(elastic: &ElasticAddress, now: Timestamp) -> Option<&(String, Timestamp, Timestamp)> {
    elastic.transfer.as_ref().filter(|(_, _, expires)| *expires > now)
}

fn shown(elastic: &ElasticAddress, to: &str, expires: Timestamp) -> api::AddressTransfer {
    api::AddressTransfer {
        address_transfer_status: Some("pending".to_owned()),
        allocation_id: Some(elastic.allocation_id.clone()),
        public_ip: Some(elastic.public_ip.to_string()),
        transfer_account_id: Some(to.to_owned()),
        transfer_offer_expiration_timestamp: Some(expires),
        ..Default::default()
    }
}

pub(super) fn enable_address_transfer(
    call: &mut Call<'_>,
    input: api::EnableAddressTransferRequest,
) -> Result<api::EnableAddressTransferResult, Error> {
    let id = input.allocation_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("AllocationId"))?;
    let to = input.transfer_account_id.unwrap_or_default();
    let account = call.account();
    if to.len() != 12 || !to.bytes().all(|b| b.is_ascii_digit()) || to == account {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({to}) for parameter TransferAccountId is invalid. Expecting the ID of another \
             account."
        )));
    }
    let elastic = get(call, account, &id)?;
    refuse_managed(call, &elastic)?;
    if elastic.association.is_some() {
        return Err(Error::client(
            "InvalidTransfer.AddressAssociated",
            format!("The address {} is associated. Disassociate it first.", elastic.public_ip),
        ));
    }
    if elastic.domain_name.is_some() {
        return Err(Error::client(
            "InvalidTransfer.AddressCustomPtrSet",
            format!("The address {} has a reverse DNS record. Reset it first.", elastic.public_ip),
        ));
    }
    if elastic.pool != AMAZON {
        return Err(Error::client(
            "OperationNotPermitted",
            "An address of a pool of your own cannot be transferred.",
        ));
    }
    let expires = call.now.plus_millis(OFFER_MILLIS);
    let mut elastic = ElasticAddress::clone(&elastic);
    elastic.transfer = Some((to.clone(), call.now, expires));
    let answer = shown(&elastic, &to, expires);
    let at = key_of(call, account, &id);
    call.put(&at, elastic);
    Ok(api::EnableAddressTransferResult { address_transfer: Some(answer) })
}

pub(super) fn disable_address_transfer(
    call: &mut Call<'_>,
    input: api::DisableAddressTransferRequest,
) -> Result<api::DisableAddressTransferResult, Error> {
    let id = input.allocation_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("AllocationId"))?;
    let account = call.account();
    let elastic = get(call, account, &id)?;
    let Some((to, _, expires)) = offer(&elastic, call.now).cloned() else {
        return Err(Error::client(
            "InvalidAddressTransfer.NotFound",
            format!("There is no transfer of the address {}.", elastic.public_ip),
        ));
    };
    let mut elastic = ElasticAddress::clone(&elastic);
    elastic.transfer = None;
    let mut answer = shown(&elastic, &to, expires);
    answer.address_transfer_status = Some("disabled".to_owned());
    let at = key_of(call, account, &id);
    call.put(&at, elastic);
    Ok(api::DisableAddressTransferResult { address_transfer: Some(answer) })
}

pub(super) fn accept_address_transfer(
    call: &mut Call<'_>,
    input: api::AcceptAddressTransferRequest,
) -> Result<api::AcceptAddressTransferResult, Error> {
    let text = input.address.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Error::missing_parameter("Address"))?;
    let address = parse(&text)?;
    let tags = tag::from_specifications(
        input.tag_specifications.as_deref(),
        "elastic-ip",
        &["elastic-ip"],
    )?;
    // The giver's record lies under the giver's account.
    let prefix = format!("/{}/{}/", call.region, key::ELASTIC_ADDRESS);
    let mut found = None;
    for kv in call.snapshot().scan(&prefix) {
        let elastic = kv.decode::<ElasticAddress>().map_err(Error::internal)?;
        if elastic.public_ip == address {
            found =
                key::parts(kv.key()).map(|(_, _, account, id)| (account.to_owned(), id.to_owned()));
        }
    }
    let missing = || {
        Error::client(
            "InvalidAddress.NotFound",
            format!("There is no transfer of the address {text} to this account."),
        )
    };
    let (giver, id) = found.ok_or_else(missing)?;
    let elastic = get(call, &giver, &id)?;
    let taker = call.account();
    let expires = match offer(&elastic, call.now) {
        Some((to, _, expires)) if to == taker => *expires,
        _ => return Err(missing()),
    };
    if elastic.association.is_some() {
        return Err(not_permitted());
    }
    check_quota(call)?;
    let accepted = Accepted {
        v: 1,
        allocation_id: id.clone(),
        public_ip: address,
        account: taker.to_owned(),
        expires,
        accepted: call.now,
    };
    call.put(&key::of(call.region, ACCEPTED, &giver, &id), accepted.clone());
    let old = key_of(call, &giver, &id);
    call.delete(&old);
    let new_id = call.new_id("eipalloc");
    call.put(&key::public_address(address), new_id.clone());
    let record = ElasticAddress {
        allocation_id: new_id.clone(),
        transfer: None,
        // A name that the giver chose is not the taker's.
        domain_name: None,
        tags,
        ..ElasticAddress::clone(&elastic)
    };
    let at = key_of(call, taker, &new_id);
    call.put(&at, record);
    Ok(api::AcceptAddressTransferResult {
        address_transfer: Some(api::AddressTransfer {
            allocation_id: Some(new_id),
            ..accepted.shown()
        }),
    })
}

pub(super) fn describe_address_transfers(
    call: &mut Call<'_>,
    input: api::DescribeAddressTransfersRequest,
) -> Result<api::DescribeAddressTransfersResult, Error> {
    let account = call.account();
    let now = call.now;
    let pending = call.scan::<ElasticAddress>(&key_of(call, account, ""))?;
    let accepted = call.scan::<Accepted>(&key::of(call.region, ACCEPTED, account, ""))?;
    let pending = pending.iter().filter_map(|elastic| {
        let (to, _, expires) = offer(elastic, now)?;
        Some(shown(elastic, to, *expires))
    });
    let accepted = accepted.iter();
    let accepted = accepted.filter(|one| one.accepted.plus_millis(SHOWN_MILLIS) > now);
    let mut all: Vec<_> = pending.chain(accepted.map(|one| one.shown())).collect();
    let id = |transfer: &api::AddressTransfer| transfer.allocation_id.clone().unwrap_or_default();
    if let Some(ids) = input.allocation_ids.filter(|ids| !ids.is_empty()) {
        all.retain(|transfer| ids.contains(&id(transfer)));
    }
    all.sort_by_key(id);
    let page = page(
        all,
        |transfer| transfer.allocation_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeAddressTransfersResult {
        address_transfers: Some(page.items),
        next_token: page.next_token,
    })
}
