//! VPCs: described as the region was set up with them. Making and changing them is not served yet.

use crate::record::{NetworkAcl, NetworkAclEntry, RouteTable, Tags, Vpc, key};
use crate::tag;
use base::Ipv4Cidr;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::rc::Rc;
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DescribeVpcs,
        describe_vpcs,
        Read,
        ["Filters.*", "VpcIds", "MaxResults", "NextToken"]
    ),
    operation!(op::DescribeVpcAttribute, describe_vpc_attribute, Read, ["Attribute", "VpcId"]),
];

fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::VPC, call.account(), id)
}

/// The VPC with this id; the commit depends on it.
pub(crate) fn find_vpc(call: &mut Call<'_>, id: &str) -> Result<Arc<Vpc>, Error> {
    check_id(id)?;
    call.get::<Vpc>(&key_of(call, id))?.ok_or_else(|| not_found(id))
}

/// The region's default VPC.
///
/// # Errors
/// `VPCIdNotSpecified` when there is none.
pub(crate) fn default_vpc(call: &Call<'_>) -> Result<Arc<Vpc>, Error> {
    call.scan::<Vpc>(&key_of(call, ""))?
        .into_iter()
        .find(|vpc| vpc.is_default)
        .ok_or_else(|| Error::client("VPCIdNotSpecified", "No default VPC for this user"))
}

/// Stages a VPC with what every VPC has: main route table, default network ACL and default security
/// group (VPC User Guide, "VPC basics"). It is not a default VPC; [`Vpc`] may be changed and put
/// again by the same call.
pub(crate) fn stage(call: &mut Call<'_>, cidr: Ipv4Cidr, dhcp_options_id: &str, tags: Tags) -> Vpc {
    let vpc = Vpc {
        v: 1,
        id: call.new_id("vpc"),
        cidr,
        is_default: false,
        dns_support: true,
        dns_hostnames: false,
        address_usage_metrics: false,
        dhcp_options_id: dhcp_options_id.to_owned(),
        cidr_association_id: call.new_id("vpc-cidr-assoc"),
        secondary_cidrs: Vec::new(),
        ipv6_cidrs: Vec::new(),
        default_group_id: call.new_id("sg"),
        main_route_table_id: call.new_id("rtb"),
        default_network_acl_id: call.new_id("acl"),
        internet_gateway_id: None,
        dedicated: false,
        tags,
    };
    let table = RouteTable {
        v: 1,
        id: vpc.main_route_table_id.clone(),
        vpc_id: vpc.id.clone(),
        main_association_id: Some(call.new_id("rtbassoc")),
        associations: Vec::new(),
        propagating_gateways: Vec::new(),
        routes: Vec::new(),
        tags: Tags::new(),
    };
    let open = |egress| NetworkAclEntry {
        number: 100,
        egress,
        allow: true,
        protocol: "-1".to_owned(),
        cidr: Ipv4Cidr::containing([0; 4].into(), 0).into(),
        ports: None,
        icmp: None,
    };
    let acl = NetworkAcl {
        v: 1,
        id: vpc.default_network_acl_id.clone(),
        vpc_id: vpc.id.clone(),
        is_default: true,
        entries: vec![open(false), open(true)],
        associations: Vec::new(),
        tags: Tags::new(),
    };
    let (region, account) = (call.region, call.account());
    call.put(&key::of(region, key::ROUTE_TABLE, account, &vpc.main_route_table_id), table);
    call.put(&key::of(region, key::NETWORK_ACL, account, &vpc.default_network_acl_id), acl);
    crate::security_group::put_default(call, &vpc.id, &vpc.default_group_id);
    call.put(&key::of(region, key::VPC, account, &vpc.id), vpc.clone());
    vpc
}

fn check_id(id: &str) -> Result<(), Error> {
    if id.starts_with("vpc-") {
        return Ok(());
    }
    Err(Error::client(
        "InvalidVpcID.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"vpc-...\")"),
    ))
}

fn not_found(ids: &str) -> Error {
    Error::client("InvalidVpcID.NotFound", format!("The vpc ID '{ids}' does not exist"))
}

/// What a filter looks at.
struct View {
    account: Rc<str>,
    vpc: Arc<Vpc>,
}

const FILTERS: &[Field<View>] = &[
    ("cidr", |view| vec![view.vpc.cidr.to_string().into()]),
    // The name that older clients use.
    ("cidr-block", |view| vec![view.vpc.cidr.to_string().into()]),
    ("cidr-block-association.association-id", |view| {
        vec![view.vpc.cidr_association_id.as_str().into()]
    }),
    ("cidr-block-association.cidr-block", |view| vec![view.vpc.cidr.to_string().into()]),
    ("cidr-block-association.state", |_| vec!["associated".into()]),
    ("dhcp-options-id", |view| vec![view.vpc.dhcp_options_id.as_str().into()]),
    ("ipv6-cidr-block-association.association-id", |_| Vec::new()),
    ("ipv6-cidr-block-association.ipv6-cidr-block", |_| Vec::new()),
    ("ipv6-cidr-block-association.ipv6-pool", |_| Vec::new()),
    ("ipv6-cidr-block-association.state", |_| Vec::new()),
    ("is-default", |view| vec![view.vpc.is_default.to_string().into()]),
    ("isDefault", |view| vec![view.vpc.is_default.to_string().into()]),
    ("owner-id", |view| vec![view.account.as_ref().into()]),
    ("state", |_| vec!["available".into()]),
    ("vpc-id", |view| vec![view.vpc.id.as_str().into()]),
];

fn describe_vpcs(
    call: &mut Call<'_>,
    input: api::DescribeVpcsRequest,
) -> Result<api::DescribeVpcsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let mut ids = input.vpc_ids.unwrap_or_default();
    let vpcs = if ids.is_empty() {
        call.scan::<Vpc>(&key_of(call, ""))?
    } else {
        ids.sort();
        ids.dedup();
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for id in ids {
            check_id(&id)?;
            match call.peek::<Vpc>(&key_of(call, &id))? {
                Some(vpc) => found.push(vpc),
                None => missing.push(id),
            }
        }
        match missing.as_slice() {
            [] => found,
            [one] => return Err(not_found(one)),
            many => {
                return Err(Error::client(
                    "InvalidVpcID.NotFound",
                    format!("The vpc IDs '{}' do not exist", many.join(", ")),
                ));
            }
        }
    };
    let account: Rc<str> = call.account().into();
    let views: Vec<View> = vpcs
        .into_iter()
        .map(|vpc| View { account: Rc::clone(&account), vpc })
        .filter(|view| filters.accept(view, &view.vpc.tags))
        .collect();
    let page =
        page(views, |view| &view.vpc.id, input.max_results, input.next_token.as_deref(), 5..=1000)?;
    Ok(api::DescribeVpcsResult {
        next_token: page.next_token,
        vpcs: Some(page.items.iter().map(|view| to_model(&account, &view.vpc)).collect()),
    })
}

fn to_model(account: &str, vpc: &Vpc) -> api::Vpc {
    let cidr = vpc.cidr.to_string();
    api::Vpc {
        block_public_access_states: Some(api::BlockPublicAccessStates {
            internet_gateway_block_mode: Some("off".to_owned()),
        }),
        cidr_block: Some(cidr.clone()),
        cidr_block_association_set: Some(vec![api::VpcCidrBlockAssociation {
            association_id: Some(vpc.cidr_association_id.clone()),
            cidr_block: Some(cidr),
            cidr_block_state: Some(api::VpcCidrBlockState {
                state: Some("associated".to_owned()),
                status_message: None,
            }),
        }]),
        dhcp_options_id: Some(vpc.dhcp_options_id.clone()),
        instance_tenancy: Some("default".to_owned()),
        is_default: Some(vpc.is_default),
        owner_id: Some(account.to_owned()),
        state: Some("available".to_owned()),
        tags: tag::to_model(&vpc.tags),
        vpc_id: Some(vpc.id.clone()),
        ..Default::default()
    }
}

fn describe_vpc_attribute(
    call: &mut Call<'_>,
    input: api::DescribeVpcAttributeRequest,
) -> Result<api::DescribeVpcAttributeResult, Error> {
    let id = input.vpc_id.unwrap_or_default();
    check_id(&id)?;
    let vpc = call.peek::<Vpc>(&key_of(call, &id))?.ok_or_else(|| not_found(&id))?;
    let value = |value: bool| Some(api::AttributeBooleanValue { value: Some(value) });
    let mut result = api::DescribeVpcAttributeResult { vpc_id: Some(id), ..Default::default() };
    match input.attribute.as_deref().unwrap_or_default() {
        "enableDnsSupport" => result.enable_dns_support = value(vpc.dns_support),
        "enableDnsHostnames" => result.enable_dns_hostnames = value(vpc.dns_hostnames),
        "enableNetworkAddressUsageMetrics" => {
            result.enable_network_address_usage_metrics = value(false);
        }
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter attribute is invalid. Unknown attribute."
            )));
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Region, filter, list};

    #[test]
    fn the_default_vpc_is_described() {
        let region = Region::new();
        let vpcs = |filters| {
            let input = api::DescribeVpcsRequest { filters: Some(filters), ..Default::default() };
            region.ok(describe_vpcs, input).vpcs.unwrap()
        };
        let found = vpcs(vec![
            filter("is-default", &["true"]),
            filter("cidr-block-association.state", &["associated"]),
            filter("owner-id", &["123456789012"]),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].cidr_block.as_deref(), Some("172.31.0.0/16"));
        assert_eq!(vpcs(vec![filter("cidr", &["10.0.0.0/16"])]), []);
        let id = found[0].vpc_id.clone().unwrap();
        let attribute = |name: &str| {
            let input = api::DescribeVpcAttributeRequest {
                attribute: Some(name.to_owned()),
                vpc_id: Some(id.clone()),
                ..Default::default()
            };
            region.ok(describe_vpc_attribute, input)
        };
        let on = Some(api::AttributeBooleanValue { value: Some(true) });
        assert_eq!(attribute("enableDnsHostnames").enable_dns_hostnames, on);
        assert_eq!(attribute("enableDnsSupport").enable_dns_support, on);
    }

    #[test]
    fn unknown_ids_are_named() {
        let region = Region::new();
        for (id, error) in [
            (
                "vpc-00000000000000000",
                "InvalidVpcID.NotFound: The vpc ID 'vpc-00000000000000000' does not exist",
            ),
            ("x", "InvalidVpcID.Malformed: Invalid id: \"x\" (expecting \"vpc-...\")"),
        ] {
            let input = api::DescribeVpcsRequest { vpc_ids: list(&[id]), ..Default::default() };
            assert_eq!(region.refused(describe_vpcs, input), error);
        }
    }
}
