//! Reverse names of elastic addresses. A name is taken as it is given: AWS asks the DNS whether it
//! leads to the address, which nothing outside of this cloud could say.

use super::{get, key_of, not_found};
use crate::record::ElasticAddress;
use model::ec2 as api;
use service::page::page;
use service::{Call, Error};
use std::sync::Arc;

/// Longest DNS name.
const LONGEST: usize = 253;

fn shown(elastic: &ElasticAddress) -> api::AddressAttribute {
    api::AddressAttribute {
        allocation_id: Some(elastic.allocation_id.clone()),
        ptr_record: elastic.domain_name.clone(),
        public_ip: Some(elastic.public_ip.to_string()),
        ..Default::default()
    }
}

pub(super) fn describe_addresses_attribute(
    call: &mut Call<'_>,
    input: api::DescribeAddressesAttributeRequest,
) -> Result<api::DescribeAddressesAttributeResult, Error> {
    let at = key_of(call, call.account(), "");
    let mut all = call.scan::<ElasticAddress>(&at)?;
    // Checked against all, shown are those that have the attribute.
    if let Some(ids) = input.allocation_ids.filter(|ids| !ids.is_empty()) {
        if let Some(id) = ids.iter().find(|id| !all.iter().any(|a| a.allocation_id == **id)) {
            return Err(not_found(id));
        }
        all.retain(|elastic| ids.contains(&elastic.allocation_id));
    }
    all.retain(|elastic| elastic.domain_name.is_some());
    let page = page(
        all,
        |elastic: &Arc<ElasticAddress>| elastic.allocation_id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        1..=1000,
    )?;
    Ok(api::DescribeAddressesAttributeResult {
        addresses: Some(page.items.iter().map(|elastic| shown(elastic)).collect()),
        next_token: page.next_token,
    })
}

/// A host name with a final dot.
fn checked(name: &str) -> Result<String, Error> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if bare.len() > LONGEST || !bare.contains('.') || !bare.split('.').all(is_label) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({name}) for parameter domainName is invalid. It is not a fully qualified domain \
             name."
        )));
    }
    Ok(format!("{}.", bare.to_ascii_lowercase()))
}

fn change(
    call: &mut Call<'_>,
    allocation_id: Option<String>,
    name: Option<String>,
) -> Result<api::AddressAttribute, Error> {
    let id = allocation_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("AllocationId"))?;
    let account = call.account();
    let mut elastic = ElasticAddress::clone(&*get(call, account, &id)?);
    elastic.domain_name = name.clone();
    let answer = api::AddressAttribute {
        ptr_record_update: Some(api::PtrUpdateStatus {
            status: Some("PENDING".to_owned()),
            value: name,
            ..Default::default()
        }),
        ..shown(&elastic)
    };
    let at = key_of(call, account, &id);
    call.put(&at, elastic);
    Ok(answer)
}

pub(super) fn modify_address_attribute(
    call: &mut Call<'_>,
    input: api::ModifyAddressAttributeRequest,
) -> Result<api::ModifyAddressAttributeResult, Error> {
    let name = input.domain_name.filter(|name| !name.is_empty());
    let name = checked(&name.ok_or_else(|| Error::missing_parameter("DomainName"))?)?;
    let address = change(call, input.allocation_id, Some(name))?;
    Ok(api::ModifyAddressAttributeResult { address: Some(address) })
}

pub(super) fn reset_address_attribute(
    call: &mut Call<'_>,
    input: api::ResetAddressAttributeRequest,
) -> Result<api::ResetAddressAttributeResult, Error> {
    let address = change(call, input.allocation_id, None)?;
    Ok(api::ResetAddressAttributeResult { address: Some(address) })
}
