//! ModifyVpcEndpoint.

use super::create::{FULL_ACCESS, add_subnets, check_private_dns, chosen};
use super::{ID, add_route, check_address_type, check_policy, find, invalid, offer, remove_route};
use crate::record::{Interface, Progress, VpcEndpoint, key};
use crate::{interface, vpc};
use ::service::{Call, Error};
use model::ec2 as api;

pub(super) fn modify_vpc_endpoint(
    call: &mut Call<'_>,
    input: api::ModifyVpcEndpointRequest,
) -> Result<api::ModifyVpcEndpointResult, Error> {
    let id = input.vpc_endpoint_id.clone().unwrap_or_default();
    let endpoint = find(call, &id)?;
    if endpoint.state == Progress::Deleting {
        return Err(Error::client(
            "InvalidVpcEndpoint.State",
            format!("The Vpc Endpoint '{id}' is being deleted"),
        ));
    }
    let records = input.dns_options.as_ref().and_then(|o| o.dns_record_ip_type.as_deref());
    check_address_type(input.ip_address_type.as_deref(), records)?;
    let mut changed = VpcEndpoint::clone(&endpoint);
    if input.reset_policy == Some(true) {
        changed.policy = FULL_ACCESS.to_owned();
    } else if let Some(policy) = input.policy_document.as_ref().filter(|text| !text.is_empty()) {
        check_policy(policy)?;
        changed.policy.clone_from(policy);
    }
    if changed.gateway {
        modify_gateway(call, &mut changed, input)?;
    } else {
        modify_interfaces(call, &mut changed, input)?;
    }
    call.put(&ID.key(call, &id), changed);
    Ok(api::ModifyVpcEndpointResult { return_: Some(true) })
}

fn modify_gateway(
    call: &mut Call<'_>,
    endpoint: &mut VpcEndpoint,
    input: api::ModifyVpcEndpointRequest,
) -> Result<(), Error> {
    let of_interfaces = [
        &input.add_subnet_ids,
        &input.remove_subnet_ids,
        &input.add_security_group_ids,
        &input.remove_security_group_ids,
    ];
    if of_interfaces.iter().any(|ids| ids.as_ref().is_some_and(|ids| !ids.is_empty()))
        || input.private_dns_enabled == Some(true)
        || input.subnet_configurations.is_some_and(|list| !list.is_empty())
    {
        return Err(invalid(
            "Subnets, security groups and private DNS are only supported for Interface type VPC \
             Endpoint.",
        ));
    }
    for table_id in input.remove_route_table_ids.unwrap_or_default() {
        let Some(index) = endpoint.route_table_ids.iter().position(|own| *own == table_id) else {
            return Err(invalid(format!(
                "Route table {table_id} is not associated with VPC endpoint {}.",
                endpoint.id
            )));
        };
        endpoint.route_table_ids.remove(index);
        remove_route(call, &endpoint.id, &table_id)?;
    }
    for table_id in input.add_route_table_ids.unwrap_or_default() {
        add_route(call, &endpoint.id, &endpoint.vpc_id, &endpoint.service_name, &table_id)?;
        endpoint.route_table_ids.push(table_id);
    }
    Ok(())
}

fn modify_interfaces(
    call: &mut Call<'_>,
    endpoint: &mut VpcEndpoint,
    input: api::ModifyVpcEndpointRequest,
) -> Result<(), Error> {
    let of_tables = [&input.add_route_table_ids, &input.remove_route_table_ids];
    if of_tables.iter().any(|ids| ids.as_ref().is_some_and(|ids| !ids.is_empty())) {
        return Err(invalid("Route table IDs are only supported for Gateway type VPC Endpoint."));
    }
    if let Some(on) = input.private_dns_enabled {
        if on && !endpoint.private_dns {
            let vpc = vpc::find_vpc(call, &endpoint.vpc_id)?;
            let endpoints = ID.key(call, "");
            let known = call.get_all::<VpcEndpoint>(&endpoints)?;
            let of_vpc = known.iter().filter(|other| {
                other.vpc_id == vpc.id && other.id != endpoint.id && other.deleted.is_none()
            });
            if let Some(offer) = offer(call.region, endpoint) {
                check_private_dns(&vpc, &offer, of_vpc)?;
            }
        }
        endpoint.private_dns = on;
    }
    for subnet_id in input.remove_subnet_ids.unwrap_or_default() {
        let Some(index) = endpoint.subnet_ids.iter().position(|own| *own == subnet_id) else {
            return Err(invalid(format!(
                "Subnet {subnet_id} is not associated with VPC endpoint {}.",
                endpoint.id
            )));
        };
        endpoint.subnet_ids.remove(index);
        let interface_id = endpoint.interface_ids.remove(index);
        interface::delete_by_id(call, call.account(), &interface_id)?;
    }
    let places = chosen(input.subnet_configurations)?;
    let mut added = input.add_subnet_ids.unwrap_or_default();
    let further = places.iter().map(|(id, _)| id).filter(|id| !endpoint.subnet_ids.contains(*id));
    let further: Vec<String> = further.filter(|id| !added.contains(*id)).cloned().collect();
    added.extend(further);
    let removed = input.remove_security_group_ids.unwrap_or_default();
    let new = input.add_security_group_ids.unwrap_or_default();
    if !removed.is_empty() || !new.is_empty() {
        endpoint.group_ids.retain(|id| !removed.contains(id));
        for id in new {
            if !endpoint.group_ids.contains(&id) {
                endpoint.group_ids.push(id);
            }
        }
        if endpoint.group_ids.is_empty() {
            return Err(invalid("A VPC endpoint needs at least one security group."));
        }
        let vpc_id = endpoint.vpc_id.clone();
        interface::check_groups(call, &endpoint.group_ids, &vpc_id, "of the VPC endpoint")?;
        for interface_id in &endpoint.interface_ids {
            let at = key::of(call.region, key::INTERFACE, call.account(), interface_id);
            if let Some(interface) = call.get::<Interface>(&at)? {
                let groups = endpoint.group_ids.clone();
                call.put(&at, Interface { groups, ..Interface::clone(&interface) });
            }
        }
    }
    add_subnets(call, endpoint, &added, &places)
}
