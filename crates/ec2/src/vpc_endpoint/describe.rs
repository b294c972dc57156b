//! Describing endpoints.

use super::{ID, offer, own_names};
use crate::record::{Progress, SecurityGroup, Subnet, VpcEndpoint, key};
use crate::tag;
use ::service::filter::{Field, Filters};
use ::service::page::page;
use ::service::{Call, Error};
use model::ec2 as api;
use std::sync::Arc;

/// The hosted zone of names below `vpce.amazonaws.com`, as us-east-1 has it.
const ENDPOINT_ZONE: &str = "Z7HUB22UULQXV";

/// The state as the API spells it.
fn state(endpoint: &VpcEndpoint) -> &'static str {
    match endpoint.state {
        // Routes are there at once.
        Progress::Pending if endpoint.gateway => "available",
        Progress::Pending => "pending",
        Progress::Available => "available",
        Progress::Deleting => "deleting",
        Progress::Deleted => "deleted",
        Progress::Failed => "failed",
    }
}

fn kind(endpoint: &VpcEndpoint) -> &'static str {
    if endpoint.gateway { "Gateway" } else { "Interface" }
}

/// An endpoint as the API shows it.
pub(super) fn to_model(call: &Call<'_>, endpoint: &VpcEndpoint) -> Result<api::VpcEndpoint, Error> {
    let at = |kind: &str, id: &str| key::of(call.region, kind, call.account(), id);
    let mut groups = Vec::with_capacity(endpoint.group_ids.len());
    for id in &endpoint.group_ids {
        let group = call.peek::<SecurityGroup>(&at(key::SECURITY_GROUP, id))?;
        groups.push(api::SecurityGroupIdentifier {
            group_id: Some(id.clone()),
            group_name: group.map(|group| group.name.clone()),
        });
    }
    let mut zones = Vec::with_capacity(endpoint.subnet_ids.len());
    for id in &endpoint.subnet_ids {
        let subnet = call.peek::<Subnet>(&at(key::SUBNET, id))?;
        zones.extend(subnet.map(|subnet| subnet.availability_zone.clone()));
    }
    let entry = |name: String, zone: &str| api::DnsEntry {
        dns_name: Some(name),
        hosted_zone_id: Some(zone.to_owned()),
    };
    let mut entries: Vec<api::DnsEntry> = own_names(call.region, endpoint, &zones)
        .into_iter()
        .map(|(name, _)| entry(name, ENDPOINT_ZONE))
        .collect();
    if let Some(offer) = offer(call.region, endpoint).filter(|_| endpoint.private_dns) {
        // As AWS says while there is no hosted zone: only the resolver of the VPC knows the name.
        entries.push(entry(offer.private_name, "ZONEIDPENDING"));
    }
    Ok(api::VpcEndpoint {
        creation_timestamp: Some(endpoint.created),
        dns_entries: Some(entries),
        dns_options: Some(api::DnsOptions {
            dns_record_ip_type: Some(
                if endpoint.gateway { "service-defined" } else { "ipv4" }.to_owned(),
            ),
            ..Default::default()
        }),
        groups: Some(groups),
        ip_address_type: Some("ipv4".to_owned()),
        network_interface_ids: Some(endpoint.interface_ids.clone()),
        owner_id: Some(call.account().to_owned()),
        policy_document: Some(endpoint.policy.clone()),
        private_dns_enabled: Some(endpoint.private_dns),
        requester_managed: Some(false),
        route_table_ids: Some(endpoint.route_table_ids.clone()),
        service_name: Some(endpoint.service_name.clone()),
        service_region: Some(call.region.to_owned()),
        state: Some(state(endpoint).to_owned()),
        subnet_ids: Some(endpoint.subnet_ids.clone()),
        tags: tag::to_model(&endpoint.tags),
        vpc_endpoint_id: Some(endpoint.id.clone()),
        vpc_endpoint_type: Some(kind(endpoint).to_owned()),
        vpc_id: Some(endpoint.vpc_id.clone()),
        ..Default::default()
    })
}

/// An endpoint with its region.
type View = (Arc<VpcEndpoint>, String);

const FILTERS: &[Field<View>] = &[
    ("ip-address-type", |_| vec!["ipv4".into()]),
    ("service-name", |(endpoint, _)| vec![endpoint.service_name.as_str().into()]),
    ("service-region", |(_, region)| vec![region.as_str().into()]),
    ("vpc-endpoint-id", |(endpoint, _)| vec![endpoint.id.as_str().into()]),
    ("vpc-endpoint-state", |(endpoint, _)| vec![state(endpoint).into()]),
    ("vpc-endpoint-type", |(endpoint, _)| vec![kind(endpoint).into()]),
    ("vpc-id", |(endpoint, _)| vec![endpoint.vpc_id.as_str().into()]),
];

pub(super) fn describe_vpc_endpoints(
    call: &mut Call<'_>,
    input: api::DescribeVpcEndpointsRequest,
) -> Result<api::DescribeVpcEndpointsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let region = call.region.to_owned();
    let found: Vec<View> = ID
        .described::<VpcEndpoint>(call, input.vpc_endpoint_ids)?
        .into_iter()
        .map(|endpoint| (endpoint, region.clone()))
        .filter(|view| filters.accept(view, &view.0.tags))
        .collect();
    let page = page(
        found,
        |(endpoint, _)| &endpoint.id,
        input.max_results,
        input.next_token.as_deref(),
        1..=1000,
    )?;
    let shown = page.items.iter().map(|(endpoint, _)| to_model(call, endpoint));
    Ok(api::DescribeVpcEndpointsResult {
        vpc_endpoints: Some(shown.collect::<Result<_, Error>>()?),
        next_token: page.next_token,
    })
}
