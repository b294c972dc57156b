//! CreateVpcEndpoint.

use super::describe::to_model;
use super::service::{self, Offer};
use super::{ID, add_route, check_address_type, check_policy, invalid};
use crate::record::{InterfaceKind, Progress, Subnet, Tags, Vpc, VpcEndpoint};
use crate::{interface, subnet, tag, vpc};
use ::service::{Call, Error};
use model::ec2 as api;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Most gateway endpoints of a region, and most interface endpoints of a VPC (VPC User Guide,
/// "Amazon VPC quotas").
const MAX_GATEWAYS: usize = 20;
const MAX_INTERFACES: usize = 50;

/// The policy of an endpoint whose creation names none: full access.
pub(super) const FULL_ACCESS: &str = r#"{"Version":"2008-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}"#;

fn listed(ids: Option<Vec<String>>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.unwrap_or_default().into_iter().filter(|id| seen.insert(id.clone())).collect()
}

/// Refuses lists that only the other type of endpoint has.
fn only_for(kind: &str, what: &str, ids: &[String]) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    Err(invalid(format!("{what} are only supported for {kind} type VPC Endpoint.")))
}

pub(super) fn create_vpc_endpoint(
    call: &mut Call<'_>,
    input: api::CreateVpcEndpointRequest,
) -> Result<api::CreateVpcEndpointResult, Error> {
    const TYPE: &str = "vpc-endpoint";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let kind = input.vpc_endpoint_type.as_deref().unwrap_or("Gateway");
    if !matches!(kind, "Gateway" | "Interface") {
        return Err(Error::unsupported(format!(
            "A VPC endpoint of type {kind} is not built in gureum yet."
        )));
    }
    if let Some(other) = input.service_region.as_deref().filter(|region| *region != call.region) {
        return Err(Error::unsupported(format!(
            "Services of region {other} are not offered here."
        )));
    }
    let records = input.dns_options.as_ref().and_then(|o| o.dns_record_ip_type.as_deref());
    check_address_type(input.ip_address_type.as_deref(), records)?;
    let name = input.service_name.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::missing_parameter("ServiceName"))?;
    let vpc = vpc::find_vpc(call, input.vpc_id.as_deref().unwrap_or_default())?;
    let offer = service::named(call.region, name)?;
    if offer.kind() != kind {
        return Err(invalid(format!(
            "Endpoint type ({kind}) does not match available service types ([{}]).",
            offer.kind()
        )));
    }
    let policy = input.policy_document.clone().filter(|text| !text.is_empty());
    if let Some(policy) = &policy {
        check_policy(policy)?;
    }
    let id = call.new_id(ID.prefix);
    let endpoint = VpcEndpoint {
        v: 1,
        id: id.clone(),
        vpc_id: vpc.id.clone(),
        service_name: offer.name.clone(),
        gateway: offer.gateway,
        state: Progress::Pending,
        policy: policy.unwrap_or_else(|| FULL_ACCESS.to_owned()),
        route_table_ids: listed(input.route_table_ids),
        subnet_ids: listed(input.subnet_ids),
        group_ids: listed(input.security_group_ids),
        interface_ids: Vec::new(),
        private_dns: false,
        created: call.now,
        deleted: None,
        tags,
    };
    let places = chosen(input.subnet_configurations)?;
    let endpoints = ID.key(call, "");
    let mut known = call.get_all::<VpcEndpoint>(&endpoints)?;
    known.retain(|other| other.deleted.is_none() && other.gateway == offer.gateway);
    let endpoint = if offer.gateway {
        gateway(call, endpoint, &known, input.private_dns_enabled, &places)?
    } else {
        let private_dns = input.private_dns_enabled.unwrap_or(true);
        interfaces(call, &vpc, &offer, endpoint, &known, private_dns, &places)?
    };
    let endpoint = call.put(&ID.key(call, &id), endpoint);
    Ok(api::CreateVpcEndpointResult {
        client_token: input.client_token,
        vpc_endpoint: Some(to_model(call, &endpoint)?),
    })
}

/// Subnets with the addresses that are wanted in them.
type Places = Vec<(String, Option<Ipv4Addr>)>;

/// Reads SubnetConfigurations.
pub(super) fn chosen(given: Option<Vec<api::SubnetConfiguration>>) -> Result<Places, Error> {
    let read = |one: api::SubnetConfiguration| {
        let subnet_id = one.subnet_id.ok_or_else(|| Error::missing_parameter("SubnetId"))?;
        let address = match one.ipv4.filter(|text| !text.is_empty()) {
            Some(text) => Some(text.parse().map_err(|_| {
                invalid(format!("Invalid IPv4 address {text} in SubnetConfigurations."))
            })?),
            None => None,
        };
        Ok((subnet_id, address))
    };
    given.unwrap_or_default().into_iter().map(read).collect()
}

fn limit() -> Error {
    Error::client(
        "VpcEndpointLimitExceeded",
        "The maximum number of VPC endpoints has been reached.",
    )
}

fn gateway(
    call: &mut Call<'_>,
    endpoint: VpcEndpoint,
    known: &[Arc<VpcEndpoint>],
    private_dns: Option<bool>,
    places: &Places,
) -> Result<VpcEndpoint, Error> {
    only_for("Interface", "Subnet IDs", &endpoint.subnet_ids)?;
    only_for("Interface", "Security Group IDs", &endpoint.group_ids)?;
    if !places.is_empty() {
        return Err(invalid("Subnet IDs are only supported for Interface type VPC Endpoint."));
    }
    if private_dns == Some(true) {
        return Err(invalid("Private DNS can't be enabled for Gateway type VPC Endpoint."));
    }
    if known.len() >= MAX_GATEWAYS {
        return Err(limit());
    }
    for table_id in &endpoint.route_table_ids {
        add_route(call, &endpoint.id, &endpoint.vpc_id, &endpoint.service_name, table_id)?;
    }
    Ok(endpoint)
}

fn interfaces(
    call: &mut Call<'_>,
    vpc: &Vpc,
    offer: &Offer,
    mut endpoint: VpcEndpoint,
    known: &[Arc<VpcEndpoint>],
    private_dns: bool,
    places: &Places,
) -> Result<VpcEndpoint, Error> {
    only_for("Gateway", "Route table IDs", &endpoint.route_table_ids)?;
    let of_vpc = || known.iter().filter(|other| other.vpc_id == vpc.id);
    if of_vpc().count() >= MAX_INTERFACES {
        return Err(limit());
    }
    if private_dns {
        check_private_dns(vpc, offer, of_vpc())?;
    }
    endpoint.private_dns = private_dns;
    if endpoint.group_ids.is_empty() {
        endpoint.group_ids.push(vpc.default_group_id.clone());
    }
    interface::check_groups(call, &endpoint.group_ids, &vpc.id, "of the VPC endpoint")?;
    let mut wanted = std::mem::take(&mut endpoint.subnet_ids);
    let configured = places.iter().map(|(id, _)| id.clone());
    wanted.extend(configured.filter(|id| !wanted.contains(id)).collect::<Vec<_>>());
    add_subnets(call, &mut endpoint, &wanted, places)?;
    Ok(endpoint)
}

/// Whether the service's name may lead to an endpoint in this VPC.
pub(super) fn check_private_dns<'a>(
    vpc: &Vpc,
    offer: &Offer,
    mut of_vpc: impl Iterator<Item = &'a Arc<VpcEndpoint>>,
) -> Result<(), Error> {
    if !vpc.dns_support || !vpc.dns_hostnames {
        return Err(invalid(format!(
            "Enabling private DNS requires both enableDnsSupport and enableDnsHostnames VPC \
             attributes set to true for {}",
            vpc.id
        )));
    }
    if of_vpc.any(|other| other.private_dns && other.service_name == offer.name) {
        return Err(invalid(format!(
            "private-dns-enabled cannot be set because there is already a conflicting DNS domain \
             for {} in the VPC {}",
            offer.private_name, vpc.id
        )));
    }
    Ok(())
}

/// Stages an endpoint's interfaces in further subnets, each in a zone where it has none yet.
pub(super) fn add_subnets(
    call: &mut Call<'_>,
    endpoint: &mut VpcEndpoint,
    ids: &[String],
    places: &Places,
) -> Result<(), Error> {
    let mut zones = BTreeSet::new();
    for id in &endpoint.subnet_ids {
        zones.insert(subnet::find_subnet(call, id)?.availability_zone.clone());
    }
    for id in ids {
        let subnet = subnet::find_subnet(call, id)?;
        if subnet.vpc_id != endpoint.vpc_id {
            return Err(invalid(format!(
                "Subnet {id} belongs to a different VPC {} from VPC endpoint.",
                subnet.vpc_id
            )));
        }
        if !zones.insert(subnet.availability_zone.clone()) {
            return Err(Error::client(
                "DuplicateSubnetsInSameZone",
                format!("Found another VPC endpoint subnet in the availability zone of {id}"),
            ));
        }
        let address = places.iter().find(|(of, _)| of == id).and_then(|(_, address)| *address);
        let interface_id = stage_interface(call, endpoint, &subnet, address)?;
        endpoint.subnet_ids.push(id.clone());
        endpoint.interface_ids.push(interface_id);
    }
    Ok(())
}

fn stage_interface(
    call: &mut Call<'_>,
    endpoint: &VpcEndpoint,
    subnet: &Subnet,
    address: Option<Ipv4Addr>,
) -> Result<String, Error> {
    let new = interface::New {
        subnet,
        groups: endpoint.group_ids.clone(),
        kind: InterfaceKind::VpcEndpoint(endpoint.id.clone()),
        description: format!("VPC Endpoint Interface {}", endpoint.id),
        source_dest_check: true,
        wanted: interface::Wanted { private_ip: address, ..Default::default() },
        tags: Tags::new(),
    };
    let account = call.account();
    Ok(interface::create(call, account, new)?.id.clone())
}
