//! DescribeNatGateways. Gateways that are deleted or have failed are shown for an hour.

use super::{check_id, key_of, not_found};
use crate::record::{NatGateway, NatGatewayAddress, Progress};
use crate::{region, tag};
use model::ec2 as api;
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error};

const FILTERS: &[Field<api::NatGateway>] = &[
    ("nat-gateway-id", |gateway| region::text(&gateway.nat_gateway_id)),
    ("state", |gateway| region::text(&gateway.state)),
    ("subnet-id", |gateway| region::text(&gateway.subnet_id)),
    ("vpc-id", |gateway| region::text(&gateway.vpc_id)),
];

pub(super) fn describe_nat_gateways(
    call: &mut Call<'_>,
    input: api::DescribeNatGatewaysRequest,
) -> Result<api::DescribeNatGatewaysResult, Error> {
    let filters = Filters::new(crate::filters(input.filter), FILTERS)?;
    let mut ids = input.nat_gateway_ids.unwrap_or_default();
    let found = if ids.is_empty() {
        call.scan::<NatGateway>(&key_of(call, ""))?
    } else {
        ids.sort();
        ids.dedup();
        let mut found = Vec::with_capacity(ids.len());
        for id in &ids {
            check_id(id)?;
            let gateway = call.peek::<NatGateway>(&key_of(call, id))?;
            found.push(gateway.ok_or_else(|| not_found(id))?);
        }
        found
    };
    let shown: Vec<api::NatGateway> = found
        .into_iter()
        .map(|gateway| (to_model(&gateway), gateway))
        .filter(|(shown, gateway)| filters.accept(shown, &gateway.tags))
        .map(|(shown, _)| shown)
        .collect();
    let page = page(
        shown,
        |gateway| gateway.nat_gateway_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeNatGatewaysResult {
        nat_gateways: Some(page.items),
        next_token: page.next_token,
    })
}

fn state(state: Progress) -> &'static str {
    match state {
        Progress::Pending => "pending",
        Progress::Available => "available",
        Progress::Deleting => "deleting",
        Progress::Deleted => "deleted",
        Progress::Failed => "failed",
    }
}

/// An address as the API shows it, but for whether it is the primary one.
pub(super) fn address(gateway: &NatGateway, address: &NatGatewayAddress) -> api::NatGatewayAddress {
    api::NatGatewayAddress {
        allocation_id: address.allocation_id.clone(),
        association_id: address.association_id.clone(),
        network_interface_id: Some(gateway.interface_id.clone()).filter(|id| !id.is_empty()),
        private_ip: Some(address.private_ip.to_string()),
        public_ip: address.public_ip.map(|ip| ip.to_string()),
        status: Some("succeeded".to_owned()),
        ..Default::default()
    }
}

pub(super) fn to_model(gateway: &NatGateway) -> api::NatGateway {
    let addresses = gateway.addresses.iter().enumerate();
    let addresses = addresses.map(|(index, own)| api::NatGatewayAddress {
        is_primary: Some(index == 0),
        ..address(gateway, own)
    });
    // Why it failed is known before it is told.
    let failure = gateway.failure.as_ref().filter(|_| gateway.state != Progress::Pending);
    api::NatGateway {
        availability_mode: Some("zonal".to_owned()),
        connectivity_type: Some(if gateway.public { "public" } else { "private" }.to_owned()),
        create_time: Some(gateway.created),
        delete_time: gateway.deleted,
        failure_code: failure.map(|(code, _)| code.clone()),
        failure_message: failure.map(|(_, message)| message.clone()),
        nat_gateway_addresses: Some(addresses.collect()),
        nat_gateway_id: Some(gateway.id.clone()),
        state: Some(state(gateway.state).to_owned()),
        subnet_id: Some(gateway.subnet_id.clone()),
        tags: tag::to_model(&gateway.tags),
        vpc_id: Some(gateway.vpc_id.clone()),
        ..Default::default()
    }
}
