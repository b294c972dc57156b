//! Regions and their zones, and what an account finds in a region that it uses for the first time:
//! the default VPC with a subnet in each zone and its security group.
//!
//! Every name of a region's form is served, with state of its own. What AWS has is described as AWS
//! describes it; a region of one's own has three zones. Nothing here is configuration: the table is
//! public fact (EC2 User Guide, "Regions and Zones").

use crate::record::{
    Destination, DhcpOptions, InternetGateway, Route, RouteOrigin, RouteTable, Subnet, Tags, Vpc,
    key,
};
use crate::{interface, subnet, vpc};
use base::Ipv4Cidr;
use model::ec2::{self as api, op};
use serde::{Deserialize, Serialize};
use service::filter::{Field, Filters};
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;
use std::collections::BTreeMap;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DescribeRegions,
        describe_regions,
        Read,
        ["AllRegions", "RegionNames", "Filters.*"]
    ),
    operation!(
        op::DescribeAvailabilityZones,
        describe_availability_zones,
        Read,
        ["ZoneNames", "ZoneIds", "AllAvailabilityZones", "Filters.*"]
    ),
];

/// A region that AWS has.
struct Known {
    name: &'static str,
    /// As zone groups are named: `US East (N. Virginia)`.
    long_name: &'static str,
    /// Zone id prefix.
    short: &'static str,
    /// Zone letter and number of the zone id, in order.
    zones: &'static [(char, u8)],
    /// Accounts must opt in.
    opt_in: bool,
}

const ABC: &[(char, u8)] = &[('a', 1), ('b', 2), ('c', 3)];
const ABCD: &[(char, u8)] = &[('a', 1), ('b', 2), ('c', 3), ('d', 4)];
const ABCDEF: &[(char, u8)] = &[('a', 1), ('b', 2), ('c', 3), ('d', 4), ('e', 5), ('f', 6)];

const fn known(
    name: &'static str,
    long_name: &'static str,
    short: &'static str,
    zones: &'static [(char, u8)],
    opt_in: bool,
) -> Known {
    Known { name, long_name, short, zones, opt_in }
}

const KNOWN: &[Known] = &[
    known("af-south-1", "Africa (Cape Town)", "afs1", ABC, true),
    known("ap-east-1", "Asia Pacific (Hong Kong)", "ape1", ABC, true),
    known("ap-east-2", "Asia Pacific (Taipei)", "ape2", ABC, true),
    known(
        "ap-northeast-1",
        "Asia Pacific (Tokyo)",
        "apne1",
        &[('a', 4), ('c', 1), ('d', 2)],
        false,
    ),
    known("ap-northeast-2", "Asia Pacific (Seoul)", "apne2", ABCD, false),
    known("ap-northeast-3", "Asia Pacific (Osaka)", "apne3", ABC, false),
    known("ap-south-1", "Asia Pacific (Mumbai)", "aps1", ABC, false),
    known("ap-south-2", "Asia Pacific (Hyderabad)", "aps2", ABC, true),
    known("ap-southeast-1", "Asia Pacific (Singapore)", "apse1", ABC, false),
    known("ap-southeast-2", "Asia Pacific (Sydney)", "apse2", ABC, false),
    known("ap-southeast-3", "Asia Pacific (Jakarta)", "apse3", ABC, true),
    known("ap-southeast-4", "Asia Pacific (Melbourne)", "apse4", ABC, true),
    known("ap-southeast-5", "Asia Pacific (Malaysia)", "apse5", ABC, true),
    known("ap-southeast-6", "Asia Pacific (New Zealand)", "apse6", ABC, true),
    known("ap-southeast-7", "Asia Pacific (Thailand)", "apse7", ABC, true),
    known("ca-central-1", "Canada (Central)", "cac1", &[('a', 1), ('b', 2), ('d', 4)], false),
    known("ca-west-1", "Canada West (Calgary)", "caw1", ABC, true),
    known("cn-north-1", "China (Beijing)", "cnn1", ABC, false),
    known("cn-northwest-1", "China (Ningxia)", "cnnw1", ABC, false),
    known("eu-central-1", "Europe (Frankfurt)", "euc1", ABC, false),
    known("eu-central-2", "Europe (Zurich)", "euc2", ABC, true),
    known("eu-north-1", "Europe (Stockholm)", "eun1", ABC, false),
    known("eu-south-1", "Europe (Milan)", "eus1", ABC, true),
    known("eu-south-2", "Europe (Spain)", "eus2", ABC, true),
    known("eu-west-1", "Europe (Ireland)", "euw1", ABC, false),
    known("eu-west-2", "Europe (London)", "euw2", ABC, false),
    known("eu-west-3", "Europe (Paris)", "euw3", ABC, false),
    known("il-central-1", "Israel (Tel Aviv)", "ilc1", ABC, true),
    known("me-central-1", "Middle East (UAE)", "mec1", ABC, true),
    known("me-south-1", "Middle East (Bahrain)", "mes1", ABC, true),
    known("mx-central-1", "Mexico (Central)", "mxc1", ABC, true),
    known("sa-east-1", "South America (Sao Paulo)", "sae1", ABC, false),
    known("us-east-1", "US East (N. Virginia)", "use1", ABCDEF, false),
    known("us-east-2", "US East (Ohio)", "use2", ABC, false),
    known("us-gov-east-1", "AWS GovCloud (US-East)", "usge1", ABC, false),
    known("us-gov-west-1", "AWS GovCloud (US-West)", "usgw1", ABC, false),
    known("us-west-1", "US West (N. California)", "usw1", &[('a', 1), ('c', 3)], false),
    known("us-west-2", "US West (Oregon)", "usw2", ABCD, false),
];

fn find_known(region: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == region)
}

/// An availability zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// `us-east-1a`.
    pub name: String,
    /// `use1-az1`.
    pub id: String,
}

/// Whether a text has the form of a region name: words of lower-case letters and digits with
/// dashes between them, the last one a number. Any such region is served.
pub fn is_name(name: &str) -> bool {
    let words: Vec<&str> = name.split('-').collect();
    name.len() <= 32
        && words.len() >= 2
        && words[0].starts_with(|c: char| c.is_ascii_lowercase())
        && words.iter().all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
        && words.last().is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit()))
}

/// The zones of a region: as many as AWS has there, three in a region that AWS does not have.
pub fn zones(region: &str) -> Vec<Zone> {
    let (short, zones) = match find_known(region) {
        Some(known) => (Cow::Borrowed(known.short), known.zones),
        None => (Cow::Owned(short_name(region)), ABC),
    };
    zones
        .iter()
        .map(|(letter, number)| Zone {
            name: format!("{region}{letter}"),
            id: format!("{short}-az{number}"),
        })
        .collect()
}

/// The id of the zone with this name, such as `use1-az1` for `us-east-1a`.
pub(crate) fn zone_id(region: &str, zone_name: &str) -> Option<String> {
    zones(region).into_iter().find(|zone| zone.name == zone_name).map(|zone| zone.id)
}

/// The domain of a service endpoint in a region's partition.
pub(crate) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// `aws`, `aws-cn` or `aws-us-gov`.
pub(crate) fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

/// Zone ids shorten a region's name the way that AWS does: `us-east-1` to `use1`,
/// `ap-northeast-1` to `apne1`.
fn short_name(region: &str) -> String {
    let mut words = region.split('-');
    let mut short = words.next().unwrap_or_default().to_owned();
    for word in words {
        match word {
            "northeast" => short.push_str("ne"),
            "northwest" => short.push_str("nw"),
            "southeast" => short.push_str("se"),
            "southwest" => short.push_str("sw"),
            number if number.bytes().all(|b| b.is_ascii_digit()) => short.push_str(number),
            other => short.extend(other.chars().next()),
        }
    }
    short
}

/// What a region that is set up has: version 2 has DHCP options, tables and gateways.
const MARKER_VERSION: u16 = 2;

/// Marks that an account's region is set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Marker {
    v: u16,
    /// Not in version 1.
    #[serde(default)]
    default_dhcp_options_id: String,
}

fn marker_key(region: &str, account: &str) -> String {
    key::of(region, key::REGION, account, "default")
}

/// Makes the default VPC and its parts when the account uses the region for the first time. Cheap
/// when that was done before.
///
/// # Errors
/// None of the caller's; an internal error when a record cannot be read.
pub fn set_up(call: &mut Call<'_>) -> Result<(), Error> {
    let marker = marker_key(call.region, call.account());
    let found = call.peek::<Marker>(&marker)?;
    if found.as_ref().is_some_and(|found| found.v >= MARKER_VERSION) {
        return Ok(());
    }
    let default_dhcp_options_id = stage_default_dhcp_options(call);
    match found {
        None => {
            stage_default_vpc(call, &default_dhcp_options_id)?;
        }
        Some(_) => draw_tables(call, &default_dhcp_options_id)?,
    }
    call.put(&marker, Marker { v: MARKER_VERSION, default_dhcp_options_id });
    Ok(())
}

/// Version 1 had a default VPC without tables, whose every subnet had a way out: it becomes what a
/// default VPC is.
fn draw_tables(call: &mut Call<'_>, dhcp_options_id: &str) -> Result<(), Error> {
    let (region, account) = (call.region, call.account());
    for old in call.get_all::<Vpc>(&key::of(region, key::VPC, account, ""))? {
        let mut vpc = Vpc {
            v: 2,
            dhcp_options_id: dhcp_options_id.to_owned(),
            main_route_table_id: call.new_id("rtb"),
            default_network_acl_id: call.new_id("acl"),
            ..Vpc::clone(&old)
        };
        vpc::stage_tables(call, &vpc);
        stage_way_out(call, &mut vpc)?;
        for subnet in call.get_all::<Subnet>(&key::of(region, key::SUBNET, account, ""))? {
            if subnet.vpc_id == vpc.id {
                let network_acl_id = vpc.default_network_acl_id.clone();
                subnet::stage(call, Subnet { v: 2, network_acl_id, ..Subnet::clone(&subnet) })?;
            }
        }
    }
    Ok(())
}

/// The DHCP options that new VPCs have. They are made anew when they were deleted.
///
/// # Errors
/// Internal, when the region was not set up.
pub(crate) fn default_dhcp_options_id(call: &mut Call<'_>) -> Result<String, Error> {
    let at = marker_key(call.region, call.account());
    let marker = call.get::<Marker>(&at)?;
    let marker = marker.ok_or_else(|| Error::internal("a region that was not set up"))?;
    let id = marker.default_dhcp_options_id.clone();
    let options = key::of(call.region, key::DHCP_OPTIONS, call.account(), &id);
    if call.exists(&options) {
        return Ok(id);
    }
    let id = stage_default_dhcp_options(call);
    call.put(&at, Marker { default_dhcp_options_id: id.clone(), ..Marker::clone(&marker) });
    Ok(id)
}

fn stage_default_dhcp_options(call: &mut Call<'_>) -> String {
    let id = call.new_id("dopt");
    let options = DhcpOptions {
        v: 1,
        id: id.clone(),
        options: BTreeMap::from([
            ("domain-name".to_owned(), vec![interface::private_domain(call.region)]),
            ("domain-name-servers".to_owned(), vec!["AmazonProvidedDNS".to_owned()]),
        ]),
        tags: Tags::new(),
    };
    call.put(&key::of(call.region, key::DHCP_OPTIONS, call.account(), &id), options);
    id
}

/// Stages a default VPC with all its parts: internet gateway, the route to it, a subnet in each zone
/// (VPC User Guide, "Default VPC components").
pub(crate) fn stage_default_vpc(call: &mut Call<'_>, dhcp_options_id: &str) -> Result<Vpc, Error> {
    let region = call.region;
    let cidr = Ipv4Cidr::containing([172, 31, 0, 0].into(), 16);
    let mut vpc = vpc::stage(call, cidr, dhcp_options_id, Tags::new());
    vpc.is_default = true;
    vpc.dns_hostnames = true;
    stage_way_out(call, &mut vpc)?;
    for (index, zone) in (0u64..).zip(zones(region)) {
        let Some(network) = cidr.nth(index << 12) else { break };
        let mut subnet =
            subnet::new(call, &vpc, Ipv4Cidr::containing(network, 20), &zone.name, Tags::new());
        subnet.default_for_az = true;
        subnet.map_public_ip_on_launch = true;
        subnet::stage(call, subnet)?;
    }
    Ok(vpc)
}

/// Stages a VPC with an internet gateway and the route to it in the main table.
fn stage_way_out(call: &mut Call<'_>, vpc: &mut Vpc) -> Result<(), Error> {
    let (region, account) = (call.region, call.account());
    let gateway = InternetGateway {
        v: 1,
        id: call.new_id("igw"),
        vpc_id: Some(vpc.id.clone()),
        tags: Tags::new(),
    };
    vpc.internet_gateway_id = Some(gateway.id.clone());
    let at = key::of(region, key::ROUTE_TABLE, account, &vpc.main_route_table_id);
    if let Some(table) = call.get::<RouteTable>(&at)? {
        let mut table = RouteTable::clone(&table);
        table.routes.push(Route {
            destination: Destination::Cidr(Ipv4Cidr::containing([0; 4].into(), 0).into()),
            target: gateway.id.clone(),
            origin: RouteOrigin::CreateRoute,
        });
        call.put(&at, table);
    }
    call.put(&key::of(region, key::INTERNET_GATEWAY, account, &gateway.id.clone()), gateway);
    call.put(&key::of(region, key::VPC, account, &vpc.id), vpc.clone());
    Ok(())
}

const REGION_FILTERS: &[Field<api::Region>] = &[
    ("endpoint", |region| text(&region.endpoint)),
    ("opt-in-status", |region| text(&region.opt_in_status)),
    ("region-name", |region| text(&region.region_name)),
];

/// The text of an optional member as filter values.
pub(crate) fn text(member: &Option<String>) -> service::filter::Values<'_> {
    member.as_deref().map(Cow::Borrowed).into_iter().collect()
}

fn describe_regions(
    call: &mut Call<'_>,
    input: api::DescribeRegionsRequest,
) -> Result<api::DescribeRegionsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), REGION_FILTERS)?;
    let here = partition(call.region);
    let mut names: Vec<&str> =
        KNOWN.iter().map(|known| known.name).filter(|name| partition(name) == here).collect();
    if find_known(call.region).is_none() {
        names.push(call.region);
    }
    let mut regions: Vec<api::Region> = names.into_iter().map(|name| region(call, name)).collect();
    let named = input.region_names.unwrap_or_default();
    if named.is_empty() {
        if input.all_regions != Some(true) {
            regions.retain(|region| region.opt_in_status.as_deref() != Some("not-opted-in"));
        }
    } else {
        for name in &named {
            if !regions.iter().any(|region| region.region_name.as_ref() == Some(name)) {
                return Err(Error::invalid_parameter_value(format!(
                    "Invalid region(s): [{name}]. Verify the region names and try again."
                )));
            }
        }
        regions.retain(|region| region.region_name.as_ref().is_some_and(|n| named.contains(n)));
    }
    regions.retain(|region| filters.accept(region, &Tags::new()));
    Ok(api::DescribeRegionsResult { regions: Some(regions) })
}

fn region(call: &Call<'_>, name: &str) -> api::Region {
    let used =
        || name == call.region || call.snapshot().get(&marker_key(name, call.account())).is_some();
    let status = match find_known(name) {
        Some(known) if known.opt_in && used() => "opted-in",
        Some(known) if known.opt_in => "not-opted-in",
        _ => "opt-in-not-required",
    };
    api::Region {
        endpoint: Some(format!("ec2.{name}.{}", domain(name))),
        opt_in_status: Some(status.to_owned()),
        region_name: Some(name.to_owned()),
        ..Default::default()
    }
}

const ZONE_FILTERS: &[Field<api::AvailabilityZone>] = &[
    ("group-long-name", |zone| text(&zone.group_long_name)),
    ("group-name", |zone| text(&zone.group_name)),
    ("message", |_| Vec::new()),
    ("opt-in-status", |zone| text(&zone.opt_in_status)),
    ("parent-zone-id", |_| Vec::new()),
    ("parent-zone-name", |_| Vec::new()),
    // Older spellings, which clients still send.
    ("parent-zoneID", |_| Vec::new()),
    ("parent-zoneName", |_| Vec::new()),
    ("region-name", |zone| text(&zone.region_name)),
    ("state", |zone| text(&zone.state)),
    ("zone-id", |zone| text(&zone.zone_id)),
    ("zone-name", |zone| text(&zone.zone_name)),
    ("zone-type", |zone| text(&zone.zone_type)),
];

fn describe_availability_zones(
    call: &mut Call<'_>,
    input: api::DescribeAvailabilityZonesRequest,
) -> Result<api::DescribeAvailabilityZonesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), ZONE_FILTERS)?;
    let region = call.region;
    let mut zones = zones(region);
    for name in input.zone_names.iter().flatten() {
        if !zones.iter().any(|zone| zone.name == *name) {
            return Err(Error::invalid_parameter_value(format!(
                "Invalid availability zone: [{name}]"
            )));
        }
    }
    for id in input.zone_ids.iter().flatten() {
        if !zones.iter().any(|zone| zone.id == *id) {
            return Err(Error::invalid_parameter_value(format!(
                "Invalid availability zone-id: [{id}]"
            )));
        }
    }
    let chosen = |named: &Option<Vec<String>>, value: &String| {
        named.as_ref().is_none_or(|list| list.is_empty() || list.contains(value))
    };
    zones.retain(|zone| chosen(&input.zone_names, &zone.name) && chosen(&input.zone_ids, &zone.id));
    let long_name = find_known(region)
        .map_or_else(|| format!("{region} 1"), |known| format!("{} 1", known.long_name));
    let zones = zones
        .into_iter()
        .map(|zone| api::AvailabilityZone {
            group_long_name: Some(long_name.clone()),
            group_name: Some(format!("{region}-zg-1")),
            messages: Some(Vec::new()),
            network_border_group: Some(region.to_owned()),
            opt_in_status: Some("opt-in-not-required".to_owned()),
            region_name: Some(region.to_owned()),
            state: Some("available".to_owned()),
            zone_id: Some(zone.id),
            zone_name: Some(zone.name),
            zone_type: Some("availability-zone".to_owned()),
            ..Default::default()
        })
        .filter(|zone| filters.accept(zone, &Tags::new()))
        .collect();
    Ok(api::DescribeAvailabilityZonesResult { availability_zones: Some(zones) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Region, filter, list};

    #[test]
    fn names_have_a_form_and_zones_have_ids() {
        for name in ["us-east-1", "us-gov-west-1", "my-lab-1", "local-1", "eu-isoe-west-1"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "us", "us-east", "us--1", "US-EAST-1", "us-east-1a", "-1", "us/east-1"] {
            assert!(!is_name(name), "{name}");
        }
        let ids = |region: &str| zones(region).into_iter().map(|z| z.id).collect::<Vec<_>>();
        assert_eq!(zones("us-east-1").len(), 6);
        assert_eq!(ids("us-west-1"), ["usw1-az1", "usw1-az3"]);
        assert_eq!(ids("my-lab-1"), ["myl1-az1", "myl1-az2", "myl1-az3"]);
        assert_eq!(zone_id("us-east-1", "us-east-1f").as_deref(), Some("use1-az6"));
        assert_eq!(zone_id("us-east-1", "us-east-1g"), None);
        for known in KNOWN {
            assert!(is_name(known.name), "{}", known.name);
            assert_eq!(short_name(known.name), known.short, "{}", known.name);
        }
        assert!(KNOWN.is_sorted_by_key(|known| known.name));
    }

    #[test]
    fn a_region_is_set_up_once() {
        let region = Region::new();
        region.run(set_up).unwrap();
        let vpcs = region.run(|call| call.scan::<Vpc>("/us-east-1/vpc/")).unwrap();
        assert_eq!(vpcs.len(), 1);
        let subnets =
            region.run(|call| call.scan::<crate::record::Subnet>("/us-east-1/subnet/")).unwrap();
        let mut blocks: Vec<String> = subnets.iter().map(|s| s.cidr.to_string()).collect();
        blocks.sort();
        assert_eq!(
            blocks,
            [
                "172.31.0.0/20",
                "172.31.16.0/20",
                "172.31.32.0/20",
                "172.31.48.0/20",
                "172.31.64.0/20",
                "172.31.80.0/20"
            ]
        );
        let group = region.run(|call| crate::security_group::find(call, &vpcs[0].default_group_id));
        assert_eq!(group.unwrap().name, "default");
    }

    fn regions(region: &Region, input: api::DescribeRegionsRequest) -> Vec<(String, String)> {
        region
            .ok(describe_regions, input)
            .regions
            .unwrap()
            .into_iter()
            .map(|region| (region.region_name.unwrap(), region.opt_in_status.unwrap()))
            .collect()
    }

    #[test]
    fn regions_are_described_as_aws_does() {
        let region = Region::new();
        let shown = regions(&region, api::DescribeRegionsRequest::default());
        assert_eq!(shown.len(), 17, "{shown:?}");
        assert!(shown.iter().all(|(_, status)| status == "opt-in-not-required"));
        let all = api::DescribeRegionsRequest { all_regions: Some(true), ..Default::default() };
        let shown = regions(&region, all);
        assert!(shown.contains(&("af-south-1".to_owned(), "not-opted-in".to_owned())));
        assert!(!shown.iter().any(|(name, _)| name.starts_with("cn-")));
        let filtered = api::DescribeRegionsRequest {
            filters: Some(vec![filter("endpoint", &["ec2.eu-*-1.amazonaws.com"])]),
            ..Default::default()
        };
        assert_eq!(regions(&region, filtered).len(), 3);
        let unknown =
            api::DescribeRegionsRequest { region_names: list(&["mars-1"]), ..Default::default() };
        assert!(region.refused(describe_regions, unknown).contains("[mars-1]"));
        let lab = Region::named("my-lab-1");
        let shown = regions(&lab, api::DescribeRegionsRequest::default());
        assert!(shown.contains(&("my-lab-1".to_owned(), "opt-in-not-required".to_owned())));
    }

    #[test]
    fn zones_are_described_as_aws_does() {
        let region = Region::new();
        let input = api::DescribeAvailabilityZonesRequest {
            zone_names: list(&["us-east-1b"]),
            filters: Some(vec![
                filter("state", &["available"]),
                filter("zone-type", &["availability-zone"]),
                filter("group-name", &["us-east-1-zg-1"]),
            ]),
            ..Default::default()
        };
        let zones = region.ok(describe_availability_zones, input).availability_zones.unwrap();
        assert_eq!(zones.len(), 1);
        assert_eq!(zones[0].zone_id.as_deref(), Some("use1-az2"));
        assert_eq!(zones[0].group_long_name.as_deref(), Some("US East (N. Virginia) 1"));
        let unknown = api::DescribeAvailabilityZonesRequest {
            zone_names: list(&["us-east-1z"]),
            ..Default::default()
        };
        assert_eq!(
            region.refused(describe_availability_zones, unknown),
            "InvalidParameterValue: Invalid availability zone: [us-east-1z]"
        );
    }

    /// What version 1 wrote: none of the members that have come since, no tables, no gateways.
    #[test]
    fn a_region_of_version_1_gets_its_tables() {
        let region = Region::new();
        let all = |kind: &str| format!("/us-east-1/{kind}/");
        region
            .run(|call| {
                for kind in [key::ROUTE_TABLE, key::NETWORK_ACL, key::INTERNET_GATEWAY] {
                    for kv in call.snapshot().clone().scan(&all(kind)) {
                        call.delete(kv.key());
                    }
                }
                for kind in [key::VPC, key::SUBNET, key::REGION] {
                    for kv in call.snapshot().clone().scan(&all(kind)) {
                        let mut old: serde_json::Value =
                            serde_json::from_slice(kv.value()).expect("a record is JSON");
                        let members = old.as_object_mut().expect("a record is an object");
                        members.retain(|name, _| {
                            !["main_route_table_id", "default_network_acl_id", "network_acl_id"]
                                .contains(&name.as_str())
                                && !["internet_gateway_id", "default_dhcp_options_id"]
                                    .contains(&name.as_str())
                        });
                        old["v"] = 1.into();
                        call.put(kv.key(), old);
                    }
                }
                Ok(())
            })
            .unwrap();
        region.run(set_up).unwrap();
        let (vpcs, subnets, tables) = region
            .run(|call| {
                Ok((
                    call.scan::<Vpc>(&all(key::VPC))?,
                    call.scan::<Subnet>(&all(key::SUBNET))?,
                    call.scan::<RouteTable>(&all(key::ROUTE_TABLE))?,
                ))
            })
            .unwrap();
        assert_eq!((vpcs.len(), subnets.len(), tables.len()), (1, 6, 1));
        assert_eq!(tables[0].id, vpcs[0].main_route_table_id);
        assert_eq!(tables[0].routes[0].target, *vpcs[0].internet_gateway_id.as_ref().unwrap());
        assert!(vpcs[0].is_default);
        assert!(subnets.iter().all(|s| s.network_acl_id == vpcs[0].default_network_acl_id));
        region.run(set_up).unwrap();
        assert_eq!(region.run(|call| call.scan::<Vpc>(&all(key::VPC))).unwrap(), vpcs);
    }
}
