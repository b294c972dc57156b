//! DescribeSubnets.

use super::{ID, create, delete, ipv6};
use crate::record::Subnet;
use crate::{region, tag};
use base::{Cidr, Ipv4Cidr};
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

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

    fn hostname_type(&self) -> &'static str {
        if self.subnet.name_options.resource_name { "resource-name" } else { "ip-name" }
    }
}

fn truth<'a>(value: bool) -> Values<'a> {
    vec![if value { "true" } else { "false" }.into()]
}

fn no<'a>(_: &'a View) -> Values<'a> {
    truth(false)
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
    truth(view.subnet.default_for_az)
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
    ("ipv6-cidr-block-association.ipv6-cidr-block", |view| {
        view.subnet.ipv6_cidr.iter().map(|block| block.cidr.to_string().into()).collect()
    }),
    ("ipv6-cidr-block-association.association-id", |view| {
        view.subnet.ipv6_cidr.iter().map(|block| block.id.as_str().into()).collect()
    }),
    ("ipv6-cidr-block-association.state", |view| {
        view.subnet.ipv6_cidr.iter().map(|_| "associated".into()).collect()
    }),
    ("ipv6-native", no),
    ("map-customer-owned-ip-on-launch", no),
    ("map-public-ip-on-launch", |view| truth(view.subnet.map_public_ip_on_launch)),
    ("outpost-arn", none),
    ("owner-id", |view| vec![view.account.as_ref().into()]),
    ("private-dns-name-options-on-launch.hostname-type", |view| vec![view.hostname_type().into()]),
    ("private-dns-name-options-on-launch.enable-resource-name-dns-a-record", |view| {
        truth(view.subnet.name_options.resource_name_a)
    }),
    ("private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record", |view| {
        truth(view.subnet.name_options.resource_name_aaaa)
    }),
    ("state", |_| vec!["available".into()]),
    ("subnet-arn", |view| vec![view.arn().into()]),
    ("subnet-id", |view| vec![view.subnet.id.as_str().into()]),
    ("vpc-id", |view| vec![view.subnet.vpc_id.as_str().into()]),
];

pub(super) fn describe_subnets(
    call: &mut Call<'_>,
    input: api::DescribeSubnetsRequest,
) -> Result<api::DescribeSubnetsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let subnets = ID.described::<Subnet>(call, input.subnet_ids)?;
    let views: Vec<View> = views(call, subnets)
        .into_iter()
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

/// The description of one subnet.
pub(super) fn one(call: &Call<'_>, subnet: Arc<Subnet>) -> api::Subnet {
    views(call, vec![subnet]).first().map(to_model).unwrap_or_default()
}

fn views(call: &Call<'_>, subnets: Vec<Arc<Subnet>>) -> Vec<View> {
    let taken = taken_addresses(call, &subnets);
    let (region, account): (Rc<str>, Rc<str>) = (call.region.into(), call.account().into());
    subnets
        .into_iter()
        .map(|subnet| {
            let taken = taken.get(subnet.id.as_str()).copied().unwrap_or(0);
            View {
                region: Rc::clone(&region),
                account: Rc::clone(&account),
                zone_id: crate::region::zone_id(call.region, &subnet.availability_zone)
                    .unwrap_or_default(),
                available: free_addresses(&subnet, taken),
                subnet,
            }
        })
        .collect()
}

/// Addresses of a subnet that nobody gets: network, router, resolver, a spare one, broadcast
/// (VPC User Guide, "Subnet CIDR blocks").
fn is_of_aws(subnet: &Subnet, address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    subnet.cidr.contains(address)
        && (u32::from(address) - u32::from(subnet.cidr.network()) < 4
            || address == subnet.cidr.last())
}

/// How many addresses may still be chosen: neither taken nor reserved.
fn free_addresses(subnet: &Subnet, taken: u64) -> u64 {
    let mut kept = 5;
    for reservation in &subnet.reservations {
        let Cidr::V4(range) = reservation.cidr else { continue };
        kept += range.size();
        // Those of AWS are counted already.
        let of_aws = [0, 1, 2, 3].into_iter().filter_map(|index| subnet.cidr.nth(index));
        let of_aws = of_aws.chain([subnet.cidr.last()]);
        kept -= of_aws.filter(|address| range.contains(*address)).count() as u64;
    }
    subnet.cidr.size().saturating_sub(kept).saturating_sub(taken)
}

/// How many addresses of each subnet are taken that are not reserved: one look at the claims of
/// each VPC.
fn taken_addresses(call: &Call<'_>, subnets: &[Arc<Subnet>]) -> HashMap<String, u64> {
    let mut taken = HashMap::new();
    let mut vpcs: BTreeMap<&str, BTreeMap<Ipv4Cidr, &Arc<Subnet>>> = BTreeMap::new();
    for subnet in subnets {
        vpcs.entry(&subnet.vpc_id).or_default().insert(subnet.cidr, subnet);
    }
    for (vpc_id, inside) in vpcs {
        let prefix = create::claims(call, vpc_id);
        for claim in call.snapshot().scan(&prefix) {
            let Some(IpAddr::V4(address)) = delete::address(claim.key(), &prefix) else { continue };
            // Blocks of subnets do not overlap: only the last one that begins before can have it.
            let end = Ipv4Cidr::containing(address, 32);
            let Some((cidr, subnet)) = inside.range(..=end).next_back() else { continue };
            let kept =
                super::is_reserved(subnet, address.into()) || is_of_aws(subnet, address.into());
            if cidr.contains(address) && !kept {
                *taken.entry(subnet.id.clone()).or_insert(0) += 1;
            }
        }
    }
    taken
}

fn to_model(view: &View) -> api::Subnet {
    let subnet = &view.subnet;
    api::Subnet {
        assign_ipv6_address_on_creation: Some(subnet.assign_ipv6_address_on_creation),
        availability_zone: Some(subnet.availability_zone.clone()),
        availability_zone_id: Some(view.zone_id.clone()),
        available_ip_address_count: Some(i32::try_from(view.available).unwrap_or(i32::MAX)),
        block_public_access_states: Some(api::BlockPublicAccessStates {
            internet_gateway_block_mode: Some("off".to_owned()),
        }),
        cidr_block: Some(subnet.cidr.to_string()),
        default_for_az: Some(subnet.default_for_az),
        enable_dns64: Some(false),
        ipv6_cidr_block_association_set: Some(
            subnet.ipv6_cidr.iter().map(ipv6::to_model).collect(),
        ),
        ipv6_native: Some(false),
        map_customer_owned_ip_on_launch: Some(false),
        map_public_ip_on_launch: Some(subnet.map_public_ip_on_launch),
        owner_id: Some(view.account.to_string()),
        private_dns_name_options_on_launch: Some(api::PrivateDnsNameOptionsOnLaunch {
            enable_resource_name_dns_aaaa_record: Some(subnet.name_options.resource_name_aaaa),
            enable_resource_name_dns_a_record: Some(subnet.name_options.resource_name_a),
            hostname_type: Some(view.hostname_type().to_owned()),
        }),
        state: Some("available".to_owned()),
        subnet_arn: Some(view.arn()),
        subnet_id: Some(subnet.id.clone()),
        tags: tag::to_model(&subnet.tags),
        vpc_id: Some(subnet.vpc_id.clone()),
        ..Default::default()
    }
}
