//! ModifySubnetAttribute.

use super::{ID, find_subnet};
use crate::record::Subnet;
use model::ec2 as api;
use service::{Call, Error};

pub(super) fn modify_subnet_attribute(
    call: &mut Call<'_>,
    input: api::ModifySubnetAttributeRequest,
) -> Result<wire::Empty, Error> {
    let found = find_subnet(call, &input.subnet_id.unwrap_or_default())?;
    let mut subnet = Subnet::clone(&found);
    let value = |given: Option<api::AttributeBooleanValue>| given.and_then(|given| given.value);
    let mut changes = 0;
    if let Some(wish) = value(input.map_public_ip_on_launch) {
        subnet.map_public_ip_on_launch = wish;
        changes += 1;
    }
    if let Some(wish) = value(input.assign_ipv6_address_on_creation) {
        if wish && subnet.ipv6_cidr.is_none() {
            return Err(Error::invalid_parameter_value(format!(
                "Invalid value 'true' for assignIpv6AddressOnCreation. The subnet '{}' does not \
                 have an IPv6 CIDR block",
                subnet.id
            )));
        }
        subnet.assign_ipv6_address_on_creation = wish;
        changes += 1;
    }
    if let Some(wish) = value(input.enable_dns64) {
        if wish {
            return Err(Error::unsupported("DNS64 is not built in gureum yet."));
        }
        changes += 1;
    }
    if let Some(wish) = value(input.enable_resource_name_dns_a_record_on_launch) {
        subnet.name_options.resource_name_a = wish;
        changes += 1;
    }
    if let Some(wish) = value(input.enable_resource_name_dns_aaaa_record_on_launch) {
        if wish && subnet.ipv6_cidr.is_none() {
            return Err(Error::invalid_parameter_value(format!(
                "Invalid value 'true' for enableResourceNameDnsAAAARecordOnLaunch. The subnet \
                 '{}' does not have an IPv6 CIDR block",
                subnet.id
            )));
        }
        subnet.name_options.resource_name_aaaa = wish;
        changes += 1;
    }
    if let Some(wish) = input.private_dns_hostname_type_on_launch.filter(|wish| !wish.is_empty()) {
        subnet.name_options.resource_name = match wish.as_str() {
            "ip-name" => false,
            "resource-name" => true,
            other => {
                return Err(Error::invalid_parameter_value(format!(
                    "Value ({other}) for parameter privateDnsHostnameTypeOnLaunch is invalid."
                )));
            }
        };
        changes += 1;
    }
    match changes {
        0 => return Err(Error::invalid_parameter_combination("No attributes specified.")),
        1 => {}
        _ => {
            return Err(Error::invalid_parameter_combination(
                "Fields for multiple attribute types specified",
            ));
        }
    }
    if subnet != *found {
        call.put(&ID.key(call, &subnet.id), subnet);
    }
    Ok(wire::Empty)
}
