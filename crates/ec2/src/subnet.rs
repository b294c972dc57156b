//! Subnets: described as the region was set up with them, and the choice of one for a launch.
//! Making and changing them is not served yet.

use crate::record::{Association, NameOptions, NetworkAcl, Subnet, Tags, Vpc, key};
use crate::{region, tag, vpc};
use base::Ipv4Cidr;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

/// Addresses of a subnet that nobody gets: network, router, resolver, a spare one, broadcast
/// (VPC User Guide, "Subnet CIDR blocks").
const RESERVED: u64 = 5;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::DescribeSubnets,
    describe_subnets,
    Read,
    ["Filters.*", "SubnetIds", "MaxResults", "NextToken"]
)];

fn key_of(call: &Call<'_>, id: &str) -> String {
    key::of(call.region, key::SUBNET, call.account(), id)
}

/// The subnet with this id; the commit depends on it.
pub(crate) fn find_subnet(call: &mut Call<'_>, id: &str) -> Result<Arc<Subnet>, Error> {
    call.get::<Subnet>(&key_of(call, id))?.ok_or_else(|| not_found(id))
}

/// A subnet with the defaults of a VPC; not staged.
pub(crate) fn new(
    call: &mut Call<'_>,
    vpc: &Vpc,
    cidr: Ipv4Cidr,
    availability_zone: &str,
    tags: Tags,
) -> Subnet {
    Subnet {
        v: 1,
        id: call.new_id("subnet"),
        vpc_id: vpc.id.clone(),
        cidr,
        ipv6_cidr: None,
        availability_zone: availability_zone.to_owned(),
        default_for_az: false,
        map_public_ip_on_launch: false,
        assign_ipv6_address_on_creation: false,
        name_options: NameOptions::default(),
        route_table_id: None,
        network_acl_id: vpc.default_network_acl_id.clone(),
        reservations: Vec::new(),
        tags,
    }
}

/// Stages a new subnet and its association with its network ACL.
///
/// # Errors
/// Internal, when the ACL is not there.
pub(crate) fn stage(call: &mut Call<'_>, subnet: Subnet) -> Result<(), Error> {
    let at = key::of(call.region, key::NETWORK_ACL, call.account(), &subnet.network_acl_id);
    let acl = call.get::<NetworkAcl>(&at)?;
    let acl = acl.ok_or_else(|| Error::internal(format!("{at} is not there")))?;
    let mut acl = NetworkAcl::clone(&acl);
    let id = call.new_id("aclassoc");
    acl.associations.push(Association { id, subnet_id: subnet.id.clone() });
    call.put(&at, acl);
    call.put(&key_of(call, &subnet.id), subnet);
    Ok(())
}

/// The default subnet of a zone, or of one that the region chooses: launches that do not care
/// spread over the zones.
///
/// # Errors
/// `InvalidParameterValue` for a zone that the region does not have; `InvalidInput` and
/// `MissingInput` when there is no default subnet.
pub(crate) fn default_subnet(
    call: &mut Call<'_>,
    availability_zone: Option<&str>,
) -> Result<Arc<Subnet>, Error> {
    if let Some(zone) = availability_zone
        && region::zone_id(call.region, zone).is_none()
    {
        return Err(Error::invalid_parameter_value(format!("Invalid availability zone: [{zone}]")));
    }
    let mut candidates = call.scan::<Subnet>(&key_of(call, ""))?;
    candidates.retain(|subnet| {
        subnet.default_for_az && availability_zone.is_none_or(|z| z == subnet.availability_zone)
    });
    if candidates.is_empty() {
        return Err(match availability_zone {
            Some(zone) => Error::client(
                "InvalidInput",
                format!("No default subnet for availability zone: '{zone}'."),
            ),
            None => match vpc::default_vpc(call) {
                Ok(vpc) => Error::client(
                    "MissingInput",
                    format!(
                        "No subnets found for the default VPC '{}'. Please specify a subnet.",
                        vpc.id
                    ),
                ),
                Err(error) => error,
            },
        });
    }
    let index = call.rng.usize(..candidates.len());
    find_subnet(call, &candidates[index].id)
}

fn not_found(id: &str) -> Error {
    Error::client("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
}

/// What a filter looks at.
struct View {
    region: Rc<str>,
    account: Rc<str>,
    zone_id: String,
    available: u64,
    subnet: Arc<Subnet>,
}

impl View {
    fn arn(&self) -> String {
        format!(
            "arn:{}:ec2:{}:{}:subnet/{}",
            region::partition(&self.region),
            self.region,
            self.account,
            self.subnet.id
        )
    }
}

fn no<'a>(_: &'a View) -> Values<'a> {
    vec!["false".into()]
}

fn none<'a>(_: &'a View) -> Values<'a> {
    Vec::new()
}

fn zone<'a>(view: &'a View) -> Values<'a> {
    vec![view.subnet.availability_zone.as_str().into()]
}

fn zone_id<'a>(view: &'a View) -> Values<'a> {
    vec![view.zone_id.as_str().into()]
}

fn cidr<'a>(view: &'a View) -> Values<'a> {
    vec![view.subnet.cidr.to_string().into()]
}

fn default_for_az<'a>(view: &'a View) -> Values<'a> {
    vec![view.subnet.default_for_az.to_string().into()]
}

const FILTERS: &[Field<View>] = &[
    ("availability-zone", zone),
    ("availabilityZone", zone),
    ("availability-zone-id", zone_id),
    ("availabilityZoneId", zone_id),
    ("available-ip-address-count", |view| vec![view.available.to_string().into()]),
    ("cidr-block", cidr),
    ("cidr", cidr),
    ("cidrBlock", cidr),
    ("customer-owned-ipv4-pool", none),
    ("default-for-az", default_for_az),
    ("defaultForAz", default_for_az),
    ("enable-dns64", no),
    ("enable-lni-at-device-index", none),
    ("ipv6-cidr-block-association.ipv6-cidr-block", none),
    ("ipv6-cidr-block-association.association-id", none),
    ("ipv6-cidr-block-association.state", none),
    ("ipv6-native", no),
    ("map-customer-owned-ip-on-launch", no),
    ("map-public-ip-on-launch", |view| {
        vec![view.subnet.map_public_ip_on_launch.to_string().into()]
    }),
    ("outpost-arn", none),
    ("owner-id", |view| vec![view.account.as_ref().into()]),
    ("private-dns-name-options-on-launch.hostname-type", |_| vec!["ip-name".into()]),
    ("private-dns-name-options-on-launch.enable-resource-name-dns-a-record", no),
    ("private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record", no),
    ("state", |_| vec!["available".into()]),
    ("subnet-arn", |view| vec![view.arn().into()]),
    ("subnet-id", |view| vec![view.subnet.id.as_str().into()]),
    ("vpc-id", |view| vec![view.subnet.vpc_id.as_str().into()]),
];

fn describe_subnets(
    call: &mut Call<'_>,
    input: api::DescribeSubnetsRequest,
) -> Result<api::DescribeSubnetsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let mut ids = input.subnet_ids.unwrap_or_default();
    let subnets = if ids.is_empty() {
        call.scan::<Subnet>(&key_of(call, ""))?
    } else {
        ids.sort();
        ids.dedup();
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for id in ids {
            match call.peek::<Subnet>(&key_of(call, &id))? {
                Some(subnet) => found.push(subnet),
                None => missing.push(id),
            }
        }
        match missing.as_slice() {
            [] => found,
            [one] => return Err(not_found(one)),
            many => {
                return Err(Error::client(
                    "InvalidSubnetID.NotFound",
                    format!("The subnet IDs '{}' do not exist", many.join(", ")),
                ));
            }
        }
    };
    let used = used_addresses(call, &subnets);
    let (region, account): (Rc<str>, Rc<str>) = (call.region.into(), call.account().into());
    let views: Vec<View> = subnets
        .into_iter()
        .map(|subnet| {
            let used = used.get(subnet.id.as_str()).copied().unwrap_or(0);
            View {
                region: Rc::clone(&region),
                account: Rc::clone(&account),
                zone_id: crate::region::zone_id(call.region, &subnet.availability_zone)
                    .unwrap_or_default(),
                available: subnet.cidr.size().saturating_sub(RESERVED).saturating_sub(used),
                subnet,
            }
        })
        .filter(|view| filters.accept(view, &view.subnet.tags))
        .collect();
    let page = page(
        views,
        |view| &view.subnet.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeSubnetsResult {
        next_token: page.next_token,
        subnets: Some(page.items.iter().map(to_model).collect()),
    })
}

/// How many addresses of each subnet are taken: one look at the claims of each VPC.
fn used_addresses(call: &Call<'_>, subnets: &[Arc<Subnet>]) -> HashMap<String, u64> {
    let mut used = HashMap::new();
    let mut vpcs: Vec<&str> = subnets.iter().map(|subnet| subnet.vpc_id.as_str()).collect();
    vpcs.sort_unstable();
    vpcs.dedup();
    for vpc_id in vpcs {
        let inside: Vec<&Arc<Subnet>> =
            subnets.iter().filter(|subnet| subnet.vpc_id == vpc_id).collect();
        let claims =
            key::of(call.region, key::PRIVATE_ADDRESS, call.account(), &format!("{vpc_id}/"));
        for claim in call.snapshot().scan(&claims) {
            let address = claim.key().rsplit('/').next().and_then(|a| a.parse::<Ipv4Addr>().ok());
            let subnet = address
                .and_then(|address| inside.iter().find(|subnet| subnet.cidr.contains(address)));
            if let Some(subnet) = subnet {
                *used.entry(subnet.id.clone()).or_insert(0) += 1;
            }
        }
    }
    used
}

fn to_model(view: &View) -> api::Subnet {
    let subnet = &view.subnet;
    api::Subnet {
        assign_ipv6_address_on_creation: Some(false),
        availability_zone: Some(subnet.availability_zone.clone()),
        availability_zone_id: Some(view.zone_id.clone()),
        available_ip_address_count: Some(i32::try_from(view.available).unwrap_or(i32::MAX)),
        block_public_access_states: Some(api::BlockPublicAccessStates {
            internet_gateway_block_mode: Some("off".to_owned()),
        }),
        cidr_block: Some(subnet.cidr.to_string()),
        default_for_az: Some(subnet.default_for_az),
        enable_dns64: Some(false),
        ipv6_cidr_block_association_set: Some(Vec::new()),
        ipv6_native: Some(false),
        map_customer_owned_ip_on_launch: Some(false),
        map_public_ip_on_launch: Some(subnet.map_public_ip_on_launch),
        owner_id: Some(view.account.to_string()),
        private_dns_name_options_on_launch: Some(api::PrivateDnsNameOptionsOnLaunch {
            enable_resource_name_dns_aaaa_record: Some(false),
            enable_resource_name_dns_a_record: Some(false),
            hostname_type: Some("ip-name".to_owned()),
        }),
        state: Some("available".to_owned()),
        subnet_arn: Some(view.arn()),
        subnet_id: Some(subnet.id.clone()),
        tags: tag::to_model(&subnet.tags),
        vpc_id: Some(subnet.vpc_id.clone()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ACCOUNT, Region, filter, list};

    fn subnets(region: &Region, filters: Vec<api::Filter>) -> Vec<api::Subnet> {
        let input = api::DescribeSubnetsRequest { filters: Some(filters), ..Default::default() };
        region.ok(describe_subnets, input).subnets.unwrap()
    }

    #[test]
    fn available_addresses_are_counted() {
        let region = Region::new();
        let found = subnets(&region, vec![filter("availability-zone", &["us-east-1b"])]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].available_ip_address_count, Some(4091));
        let vpc_id = found[0].vpc_id.clone().unwrap();
        region
            .run(|call| {
                // Two in the subnet, one in another.
                for address in ["172.31.16.4", "172.31.31.254", "172.31.32.4"] {
                    let claim = format!("{vpc_id}/{address}");
                    let claim = key::of(call.region, key::PRIVATE_ADDRESS, ACCOUNT, &claim);
                    call.put(&claim, "eni-1".to_owned());
                }
                Ok(())
            })
            .unwrap();
        let counted = filter("available-ip-address-count", &["4089"]);
        let found = subnets(&region, vec![counted]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].availability_zone.as_deref(), Some("us-east-1b"));
    }

    #[test]
    fn launches_find_the_default_subnet() {
        let region = Region::new();
        let choose = |zone: Option<&str>| {
            region.run(|call| default_subnet(call, zone)).map(|s| s.availability_zone.clone())
        };
        assert_eq!(choose(Some("us-east-1c")).unwrap(), "us-east-1c");
        assert!(choose(None).unwrap().starts_with("us-east-1"));
        assert_eq!(
            choose(Some("us-east-1x")).unwrap_err().to_string(),
            "InvalidParameterValue: Invalid availability zone: [us-east-1x]"
        );
    }

    #[test]
    fn filters_and_ids() {
        let region = Region::new();
        assert_eq!(subnets(&region, vec![filter("default-for-az", &["true"])]).len(), 6);
        assert_eq!(subnets(&region, vec![filter("defaultForAz", &["false"])]).len(), 0);
        assert_eq!(subnets(&region, vec![filter("availability-zone-id", &["use1-az*"])]).len(), 6);
        let input = api::DescribeSubnetsRequest {
            subnet_ids: list(&["subnet-1", "subnet-2"]),
            ..Default::default()
        };
        assert_eq!(
            region.refused(describe_subnets, input),
            "InvalidSubnetID.NotFound: The subnet IDs 'subnet-1, subnet-2' do not exist"
        );
    }
}
