//! DNS options and tenancy of a VPC.

use super::ID;
use crate::record::Vpc;
use model::ec2 as api;
use service::{Call, Error};

pub(super) fn describe_vpc_attribute(
    call: &mut Call<'_>,
    input: api::DescribeVpcAttributeRequest,
) -> Result<api::DescribeVpcAttributeResult, Error> {
    let id = input.vpc_id.unwrap_or_default();
    ID.check(&id)?;
    let vpc = call.peek::<Vpc>(&ID.key(call, &id))?.ok_or_else(|| ID.not_found(&id))?;
    let value = |value: bool| Some(api::AttributeBooleanValue { value: Some(value) });
    let mut result = api::DescribeVpcAttributeResult { vpc_id: Some(id), ..Default::default() };
    match input.attribute.as_deref().unwrap_or_default() {
        "enableDnsSupport" => result.enable_dns_support = value(vpc.dns_support),
        "enableDnsHostnames" => result.enable_dns_hostnames = value(vpc.dns_hostnames),
        "enableNetworkAddressUsageMetrics" => {
            result.enable_network_address_usage_metrics = value(vpc.address_usage_metrics);
        }
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter attribute is invalid. Unknown attribute."
            )));
        }
    }
    Ok(result)
}

pub(super) fn modify_vpc_attribute(
    call: &mut Call<'_>,
    input: api::ModifyVpcAttributeRequest,
) -> Result<wire::Empty, Error> {
    let found = super::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let mut vpc = Vpc::clone(&found);
    let value = |given: Option<api::AttributeBooleanValue>| given.and_then(|given| given.value);
    // One a request (EC2 API Reference, "ModifyVpcAttribute").
    match (
        value(input.enable_dns_hostnames),
        value(input.enable_dns_support),
        value(input.enable_network_address_usage_metrics),
    ) {
        (Some(wish), None, None) => {
            if wish && !vpc.dns_support {
                return Err(Error::invalid_parameter_combination(
                    "DNS hostnames can be enabled only while DNS support is enabled",
                ));
            }
            vpc.dns_hostnames = wish;
        }
        (None, Some(wish), None) => vpc.dns_support = wish,
        (None, None, Some(wish)) => vpc.address_usage_metrics = wish,
        (None, None, None) => {
            return Err(Error::invalid_parameter_combination("No attributes specified."));
        }
        _ => {
            return Err(Error::invalid_parameter_combination(
                "Fields for multiple attribute types specified",
            ));
        }
    }
    if vpc != *found {
        call.put(&ID.key(call, &vpc.id), vpc);
    }
    Ok(wire::Empty)
}

pub(super) fn invalid_tenancy(given: &str) -> Error {
    Error::invalid_parameter_value(format!(
        "Value ({given}) for parameter instanceTenancy is invalid. Tenancy of a VPC is one of: \
         default, dedicated"
    ))
}

/// Every VPC has the default tenancy, and may be given no other.
pub(super) fn modify_vpc_tenancy(
    call: &mut Call<'_>,
    input: api::ModifyVpcTenancyRequest,
) -> Result<api::ModifyVpcTenancyResult, Error> {
    super::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    match input.instance_tenancy.as_deref() {
        None | Some("") => return Err(Error::missing_parameter("instanceTenancy")),
        Some("default") => {}
        Some(other) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter instanceTenancy is invalid. The tenancy of a VPC \
                 can be modified to default only."
            )));
        }
    }
    Ok(api::ModifyVpcTenancyResult { return_value: Some(true) })
}
