//! Tags: on creation, CreateTags, DeleteTags, DescribeTags.
//!
//! A tag is part of its resource's record, so tagging is one compare-and-put of that record, and
//! nothing is left behind when the resource goes. [`KINDS`] says for each id prefix which record
//! carries the tags; a new kind of resource becomes taggable by a row there. Rules of a security
//! group and reservations of a subnet live inside those and have functions of their own.
//!
//! Limits are those of the EC2 User Guide, "Tag your Amazon EC2 resources".

use crate::record::{self, SecurityGroup, Tags, key};
use crate::subnet;
use crate::vpc_peering;
use model::ec2::{self as api, TagSpecification, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};

/// Most tags of a resource.
const MAX_TAGS: usize = 50;
/// Longest key, in characters.
const MAX_KEY: usize = 128;
/// Longest value, in characters.
const MAX_VALUE: usize = 256;
/// Most resources of one CreateTags or DeleteTags request.
const MAX_RESOURCES: usize = 1000;

/// CreateTags and DeleteTags have a bucket of their own (EC2 API Reference, "Request throttling").
const RATE: Rate = Rate::new(100.0, 10.0);

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::CreateTags, create_tags, Write, ["Resources", "Tags.*"], RATE),
    operation!(op::DeleteTags, delete_tags, Write, ["Resources", "Tags.*"], RATE),
    operation!(op::DescribeTags, describe_tags, Read, ["Filters.*", "MaxResults", "NextToken"]),
];

/// The tags that a creation gives to its resource of type `resource_type`. `allowed` lists the
/// types that the operation makes; another one is refused.
pub(crate) fn from_specifications(
    specifications: Option<&[TagSpecification]>,
    resource_type: &str,
    allowed: &[&str],
) -> Result<Tags, Error> {
    specified(specifications, resource_type, allowed, false)
}

/// [`from_specifications`] for what services make too: their tags may have reserved keys.
pub(crate) fn for_caller(
    call: &Call<'_>,
    specifications: Option<&[TagSpecification]>,
    resource_type: &str,
    allowed: &[&str],
) -> Result<Tags, Error> {
    specified(specifications, resource_type, allowed, call.identity.is_service())
}

fn specified(
    specifications: Option<&[TagSpecification]>,
    resource_type: &str,
    allowed: &[&str],
    by_service: bool,
) -> Result<Tags, Error> {
    let mut tags = Tags::new();
    let mut seen: Vec<&str> = Vec::new();
    for specification in specifications.unwrap_or_default() {
        let Some(kind) = specification.resource_type.as_deref().filter(|t| !t.is_empty()) else {
            return Err(Error::invalid_parameter_value(
                "Tag specification resource type must have a value",
            ));
        };
        if !allowed.contains(&kind) {
            return Err(Error::invalid_parameter_value(format!(
                "'{kind}' is not a valid taggable resource type for this operation."
            )));
        }
        if seen.contains(&kind) {
            return Err(Error::invalid_parameter_value(format!(
                "The same resource type may not be specified more than once in tag specifications: {kind}"
            )));
        }
        seen.push(kind);
        let given = specification.tags.as_deref().unwrap_or_default();
        if given.is_empty() {
            return Err(Error::invalid_parameter_value(
                "Tag specification must have at least one tag",
            ));
        }
        let checked = check(given, by_service)?;
        if kind == resource_type {
            tags = checked;
        }
    }
    check_count(&tags)?;
    Ok(tags)
}

/// Tags as the API shows them; no member when there are none.
pub(crate) fn to_model(tags: &Tags) -> Option<Vec<api::Tag>> {
    (!tags.is_empty()).then(|| {
        tags.iter()
            .map(|(key, value)| api::Tag { key: Some(key.clone()), value: Some(value.clone()) })
            .collect()
    })
}

fn check(given: &[api::Tag], by_service: bool) -> Result<Tags, Error> {
    let mut tags = Tags::new();
    for tag in given {
        let key = checked_key(tag, by_service)?;
        let value = tag.value.as_deref().unwrap_or_default();
        if value.chars().count() > MAX_VALUE {
            return Err(Error::invalid_parameter_value(format!(
                "Tag value exceeds the maximum length of {MAX_VALUE} characters"
            )));
        }
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::invalid_parameter_value(format!(
                "Duplicate tag key '{key}' specified."
            )));
        }
    }
    Ok(tags)
}

fn checked_key(tag: &api::Tag, by_service: bool) -> Result<&str, Error> {
    let key = tag.key.as_deref().unwrap_or_default();
    if key.is_empty() {
        return Err(Error::invalid_parameter_value("Tag key cannot be empty or null"));
    }
    // In any mix of cases (EC2 User Guide, "Tag restrictions").
    let reserved = key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:"));
    if reserved && !by_service {
        return Err(Error::invalid_parameter_value(format!(
            "Value ( {key} ) for parameter key is invalid. Tag keys starting with 'aws:' are \
             reserved for internal use"
        )));
    }
    if key.chars().count() > MAX_KEY {
        return Err(Error::invalid_parameter_value(format!(
            "Tag key exceeds the maximum length of {MAX_KEY} characters"
        )));
    }
    Ok(key)
}

fn check_count(tags: &Tags) -> Result<(), Error> {
    // Tags that AWS gives itself do not count.
    if tags.keys().filter(|key| !key.starts_with("aws:")).count() > MAX_TAGS {
        return Err(Error::client(
            "TagLimitExceeded",
            "The maximum number of Tags for a resource has been reached.",
        ));
    }
    Ok(())
}

/// A record with tags.
trait Tagged: service::call::Record {
    /// The id that the API knows it by.
    fn id(&self) -> &str;
    fn tags(&self) -> &Tags;
    fn tags_mut(&mut self) -> &mut Tags;
}

macro_rules! tagged {
    ($($record:ident),*) => {
        $(impl Tagged for record::$record {
            fn id(&self) -> &str {
                &self.id
            }
            fn tags(&self) -> &Tags {
                &self.tags
            }
            fn tags_mut(&mut self) -> &mut Tags {
                &mut self.tags
            }
        })*
    };
}

tagged!(Vpc, Subnet, SecurityGroup, KeyPair, Image, Instance, Interface, Volume, Snapshot);
tagged!(DhcpOptions, RouteTable, NetworkAcl, InternetGateway, EgressOnlyInternetGateway);
tagged!(NatGateway, PrefixList, VpcEndpoint, FlowLog);
tagged!(TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable);
tagged!(InsightsPath, InsightsAnalysis);

impl Tagged for record::ElasticAddress {
    fn id(&self) -> &str {
        &self.allocation_id
    }
    fn tags(&self) -> &Tags {
        &self.tags
    }
    fn tags_mut(&mut self) -> &mut Tags {
        &mut self.tags
    }
}

type IdAndTags = (String, Tags);

type Change<'a> = dyn Fn(&mut Tags) -> Result<(), Error> + 'a;

/// One kind of resource that has tags.
struct ResourceKind {
    /// Id prefix without the dash.
    prefix: &'static str,
    /// Type as TagSpecification names it.
    resource_type: &'static str,
    /// Kind in the record key.
    record: &'static str,
    /// Error code and text for ids that do not exist.
    code: &'static str,
    noun: &'static str,
    /// The record is found under its id; otherwise by looking through them.
    keyed_by_id: bool,
    /// Changes the tags of the record with this key; false when there is none.
    change: fn(&mut Call<'_>, &str, &Change<'_>) -> Result<bool, Error>,
    /// The tags of the record with this key.
    peek: fn(&Call<'_>, &str) -> Result<Option<Tags>, Error>,
    /// Id and tags of every record under a prefix.
    scan: fn(&Call<'_>, &str) -> Result<Vec<IdAndTags>, Error>,
    /// The key of the record with this id among those under a prefix.
    find: fn(&Call<'_>, &str, &str) -> Option<String>,
}

fn change<T: Tagged>(call: &mut Call<'_>, key: &str, with: &Change<'_>) -> Result<bool, Error> {
    let Some(found) = call.get::<T>(key)? else { return Ok(false) };
    let mut tags = found.tags().clone();
    with(&mut tags)?;
    if tags != *found.tags() {
        let mut record = T::clone(&found);
        *record.tags_mut() = tags;
        call.put(key, record);
    }
    Ok(true)
}

fn peek<T: Tagged>(call: &Call<'_>, key: &str) -> Result<Option<Tags>, Error> {
    Ok(call.peek::<T>(key)?.map(|record| record.tags().clone()))
}

fn scan<T: Tagged>(call: &Call<'_>, prefix: &str) -> Result<Vec<IdAndTags>, Error> {
    let records = call.scan::<T>(prefix)?;
    Ok(records
        .iter()
        .filter(|record| !record.tags().is_empty())
        .map(|record| (record.id().to_owned(), record.tags().clone()))
        .collect())
}

fn find<T: Tagged>(call: &Call<'_>, prefix: &str, id: &str) -> Option<String> {
    let snapshot = call.snapshot();
    snapshot
        .scan(prefix)
        .find(|kv| kv.decode::<T>().is_ok_and(|record| record.id() == id))
        .map(|kv| kv.key().to_owned())
}

/// A peering connection and the tags that the caller gave it: each side has its own.
fn of_side(call: &Call<'_>, key: &str) -> Result<Option<IdAndTags>, Error> {
    let Some(peering) = call.peek::<record::VpcPeering>(key)? else { return Ok(None) };
    let tags = vpc_peering::tags(call, &peering);
    Ok(tags.map(|tags| (peering.id.clone(), tags.clone())))
}

fn change_of_side(call: &mut Call<'_>, key: &str, with: &Change<'_>) -> Result<bool, Error> {
    let Some(found) = call.get::<record::VpcPeering>(key)? else { return Ok(false) };
    let mut peering = record::VpcPeering::clone(&found);
    let Some(tags) = vpc_peering::tags_mut(call, &mut peering) else { return Ok(false) };
    with(tags)?;
    if peering != *found {
        call.put(key, peering);
    }
    Ok(true)
}

macro_rules! kind {
    ($prefix:literal, $type:literal, $record:expr, $struct:ident, $code:literal, $noun:literal,
     $keyed:literal) => {
        ResourceKind {
            prefix: $prefix,
            resource_type: $type,
            record: $record,
            code: $code,
            noun: $noun,
            keyed_by_id: $keyed,
            change: change::<record::$struct>,
            peek: peek::<record::$struct>,
            scan: scan::<record::$struct>,
            find: find::<record::$struct>,
        }
    };
}

/// Every kind of record with tags, by id prefix.
const KINDS: &[ResourceKind] = &[
    kind!("i", "instance", key::INSTANCE, Instance, "InvalidInstanceID", "instance ID", true),
    kind!("vol", "volume", key::VOLUME, Volume, "InvalidVolume", "volume", true),
    kind!("snap", "snapshot", key::SNAPSHOT, Snapshot, "InvalidSnapshot", "snapshot", true),
    kind!(
        "eni",
        "network-interface",
        key::INTERFACE,
        Interface,
        "InvalidNetworkInterfaceID",
        "networkInterface ID",
        true
    ),
    kind!(
        "sg",
        "security-group",
        key::SECURITY_GROUP,
        SecurityGroup,
        "InvalidGroup",
        "security group",
        true
    ),
    kind!("subnet", "subnet", key::SUBNET, Subnet, "InvalidSubnetID", "subnet ID", true),
    kind!("vpc", "vpc", key::VPC, Vpc, "InvalidVpcID", "vpc ID", true),
    kind!(
        "acl",
        "network-acl",
        key::NETWORK_ACL,
        NetworkAcl,
        "InvalidNetworkAclID",
        "networkAcl ID",
        true
    ),
    kind!(
        "dopt",
        "dhcp-options",
        key::DHCP_OPTIONS,
        DhcpOptions,
        "InvalidDhcpOptionsID",
        "dhcpOptions ID",
        true
    ),
    kind!(
        "eigw",
        "egress-only-internet-gateway",
        key::EGRESS_ONLY_INTERNET_GATEWAY,
        EgressOnlyInternetGateway,
        "InvalidEgressOnlyInternetGatewayId",
        "egressOnlyInternetGateway ID",
        true
    ),
    kind!(
        "eipalloc",
        "elastic-ip",
        key::ELASTIC_ADDRESS,
        ElasticAddress,
        "InvalidAllocationID",
        "allocation ID",
        true
    ),
    kind!("fl", "vpc-flow-log", key::FLOW_LOG, FlowLog, "InvalidFlowLogId", "flow log ID", true),
    kind!(
        "igw",
        "internet-gateway",
        key::INTERNET_GATEWAY,
        InternetGateway,
        "InvalidInternetGatewayID",
        "internetGateway ID",
        true
    ),
    kind!(
        "nat",
        "natgateway",
        key::NAT_GATEWAY,
        NatGateway,
        "InvalidNatGatewayID",
        "NAT gateway ID",
        true
    ),
    kind!(
        "nia",
        "network-insights-analysis",
        key::INSIGHTS_ANALYSIS,
        InsightsAnalysis,
        "InvalidNetworkInsightsAnalysisId",
        "networkInsightsAnalysis ID",
        true
    ),
    kind!(
        "nip",
        "network-insights-path",
        key::INSIGHTS_PATH,
        InsightsPath,
        "InvalidNetworkInsightsPathId",
        "networkInsightsPath ID",
        true
    ),
    kind!(
        "pl",
        "prefix-list",
        key::PREFIX_LIST,
        PrefixList,
        "InvalidPrefixListID",
        "prefix list ID",
        true
    ),
    kind!(
        "rtb",
        "route-table",
        key::ROUTE_TABLE,
        RouteTable,
        "InvalidRouteTableID",
        "routeTable ID",
        true
    ),
    kind!(
        "tgw",
        "transit-gateway",
        key::TRANSIT_GATEWAY,
        TransitGateway,
        "InvalidTransitGatewayID",
        "transit gateway ID",
        true
    ),
    kind!(
        "tgw-attach",
        "transit-gateway-attachment",
        key::TRANSIT_GATEWAY_ATTACHMENT,
        TransitGatewayAttachment,
        "InvalidTransitGatewayAttachmentID",
        "transit gateway attachment ID",
        true
    ),
    kind!(
        "tgw-rtb",
        "transit-gateway-route-table",
        key::TRANSIT_GATEWAY_ROUTE_TABLE,
        TransitGatewayRouteTable,
        "InvalidRouteTableID",
        "transit gateway route table ID",
        true
    ),
    kind!(
        "vpce",
        "vpc-endpoint",
        key::VPC_ENDPOINT,
        VpcEndpoint,
        "InvalidVpcEndpointId",
        "VPC endpoint ID",
        true
    ),
    ResourceKind {
        prefix: "pcx",
        resource_type: "vpc-peering-connection",
        record: key::VPC_PEERING,
        code: "InvalidVpcPeeringConnectionID",
        noun: "vpcPeeringConnection ID",
        keyed_by_id: true,
        change: change_of_side,
        peek: |call, key| Ok(of_side(call, key)?.map(|(_, tags)| tags)),
        scan: |call, prefix| {
            let keys = call.snapshot().scan(prefix).map(|kv| kv.key().to_owned());
            let keys: Vec<String> = keys.collect();
            let found = keys.iter().filter_map(|key| of_side(call, key).transpose());
            let found: Vec<IdAndTags> = found.collect::<Result<_, _>>()?;
            Ok(found.into_iter().filter(|(_, tags)| !tags.is_empty()).collect())
        },
        find: |_, _, _| None,
    },
    kind!("key", "key-pair", key::KEY_PAIR, KeyPair, "InvalidKeyPair", "key pair ID", false),
    kind!("ami", "image", key::IMAGE, Image, "InvalidAMIID", "image ID", false),
];

const RULE_PREFIX: &str = "sgr";
const RULE_TYPE: &str = "security-group-rule";
const RESERVATION_PREFIX: &str = "scr";
const RESERVATION_TYPE: &str = "subnet-cidr-reservation";

fn prefix(call: &Call<'_>, kind: &ResourceKind) -> String {
    // Images are filed under their owners.
    if kind.record == key::IMAGE {
        return format!("/{}/{}/", call.region, key::IMAGE);
    }
    // A peering connection belongs to two accounts and regions.
    if kind.record == key::VPC_PEERING {
        return key::vpc_peering("");
    }
    key::of(call.region, kind.record, call.account(), "")
}

fn key_of(call: &Call<'_>, kind: &ResourceKind, id: &str) -> Option<String> {
    if kind.keyed_by_id {
        return Some(format!("{}{id}", prefix(call, kind)));
    }
    (kind.find)(call, &prefix(call, kind), id)
}

pub(crate) fn create_tags(
    call: &mut Call<'_>,
    input: api::CreateTagsRequest,
) -> Result<wire::Empty, Error> {
    let given = input.tags.unwrap_or_default();
    if given.is_empty() {
        return Err(Error::missing_parameter("tagSet"));
    }
    let new = check(&given, call.identity.is_service())?;
    check_count(&new)?;
    change_each(call, &input.resources.unwrap_or_default(), &|tags| {
        tags.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
        check_count(tags)
    })
}

fn delete_tags(call: &mut Call<'_>, input: api::DeleteTagsRequest) -> Result<wire::Empty, Error> {
    let named = input.tags.unwrap_or_default();
    for tag in &named {
        checked_key(tag, call.identity.is_service())?;
    }
    change_each(call, &input.resources.unwrap_or_default(), &|tags| {
        tags.retain(|key, value| {
            // Without tags named, all that the user gave.
            let chosen = if named.is_empty() {
                !key.starts_with("aws:")
            } else {
                named.iter().any(|tag| {
                    tag.key.as_deref() == Some(key)
                        && tag.value.as_deref().is_none_or(|only| only == value)
                })
            };
            !chosen
        });
        Ok(())
    })
}

fn change_each(
    call: &mut Call<'_>,
    ids: &[String],
    with: &Change<'_>,
) -> Result<wire::Empty, Error> {
    if ids.is_empty() {
        return Err(Error::missing_parameter("resourceIdSet"));
    }
    if ids.len() > MAX_RESOURCES {
        return Err(Error::client(
            "InvalidParameterValue",
            format!("The maximum number of resources for this request is {MAX_RESOURCES}"),
        ));
    }
    for id in ids {
        let Some((prefix, _)) = id.rsplit_once('-') else { return Err(invalid_id(id)) };
        if prefix == RULE_PREFIX && base::id::is_valid(RULE_PREFIX, id) {
            change_rule(call, id, with)?;
            continue;
        }
        if prefix == RESERVATION_PREFIX && base::id::is_valid(RESERVATION_PREFIX, id) {
            subnet::change_reservation(call, id, |all, index| with(&mut all[index].tags))?;
            continue;
        }
        let kind = KINDS
            .iter()
            .find(|kind| kind.prefix == prefix && base::id::is_valid(prefix, id))
            .ok_or_else(|| invalid_id(id))?;
        let done = match key_of(call, kind, id) {
            Some(key) => (kind.change)(call, &key, with)?,
            None => false,
        };
        if !done {
            return Err(not_found(kind.code, kind.noun, id));
        }
    }
    Ok(wire::Empty)
}

fn invalid_id(id: &str) -> Error {
    Error::client("InvalidID", format!("The ID '{id}' is not valid"))
}

fn not_found(code: &str, noun: &str, id: &str) -> Error {
    let stop = if matches!(noun, "volume" | "snapshot") { "." } else { "" };
    Error::client(format!("{code}.NotFound"), format!("The {noun} '{id}' does not exist{stop}"))
}

/// Changes the tags of a rule, which is part of its group's record.
fn change_rule(call: &mut Call<'_>, id: &str, with: &Change<'_>) -> Result<(), Error> {
    let missing = || not_found("InvalidSecurityGroupRuleId", "security group rule ID", id);
    let prefix = key::of(call.region, key::SECURITY_GROUP, call.account(), "");
    let group = call
        .scan::<SecurityGroup>(&prefix)?
        .into_iter()
        .find(|group| group.rules.iter().any(|rule| rule.id == id))
        .ok_or_else(missing)?;
    let group_key = format!("{prefix}{}", group.id);
    let mut group = call.get::<SecurityGroup>(&group_key)?.ok_or_else(missing)?.as_ref().clone();
    let rule = group.rules.iter_mut().find(|rule| rule.id == id).ok_or_else(missing)?;
    with(&mut rule.tags)?;
    call.put(&group_key, group);
    Ok(())
}

/// One tag of one resource, as DescribeTags shows it.
struct Row {
    /// Resource id and key: the order of the pages.
    place: String,
    resource_id: String,
    resource_type: &'static str,
    key: String,
    value: String,
    alone: Tags,
}

const FILTERS: &[Field<Row>] = &[
    ("key", |row| vec![row.key.as_str().into()]),
    ("resource-id", |row| vec![row.resource_id.as_str().into()]),
    ("resource-type", |row| vec![row.resource_type.into()]),
    ("value", |row| vec![row.value.as_str().into()]),
];

fn describe_tags(
    call: &mut Call<'_>,
    input: api::DescribeTagsRequest,
) -> Result<api::DescribeTagsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let found = match filters.exact("resource-id") {
        Some(ids) => ids.iter().map(|id| tags_of(call, id)).collect::<Result<Vec<_>, _>>()?,
        None => all_tags(call, filters.exact("resource-type"))?,
    };
    let mut rows: Vec<Row> = found
        .into_iter()
        .flat_map(|(resource_type, id, tags)| {
            tags.into_iter().map(move |(key, value)| Row {
                place: format!("{id}\u{0}{key}"),
                resource_id: id.clone(),
                resource_type,
                alone: Tags::from([(key.clone(), value.clone())]),
                key,
                value,
            })
        })
        .filter(|row| filters.accept(row, &row.alone))
        .collect();
    rows.sort_by(|a, b| a.place.cmp(&b.place));
    rows.dedup_by(|a, b| a.place == b.place);
    let page =
        page(rows, |row| &row.place, input.max_results, input.next_token.as_deref(), 5..=1000)?;
    let tags = page
        .items
        .into_iter()
        .map(|row| api::TagDescription {
            key: Some(row.key),
            resource_id: Some(row.resource_id),
            resource_type: Some(row.resource_type.to_owned()),
            value: Some(row.value),
        })
        .collect();
    Ok(api::DescribeTagsResult { next_token: page.next_token, tags: Some(tags) })
}

type Found = (&'static str, String, Tags);

fn tags_of(call: &Call<'_>, id: &str) -> Result<Found, Error> {
    let prefix = id.rsplit_once('-').map_or("", |(prefix, _)| prefix);
    if prefix == RULE_PREFIX {
        let rule = rules(call)?.into_iter().find(|(_, found, _)| found == id);
        return Ok(rule.unwrap_or((RULE_TYPE, id.to_owned(), Tags::new())));
    }
    if prefix == RESERVATION_PREFIX {
        let found = reservations(call)?.into_iter().find(|(_, found, _)| found == id);
        return Ok(found.unwrap_or((RESERVATION_TYPE, id.to_owned(), Tags::new())));
    }
    // A resource that does not exist has no tags, and that is no error here.
    let Some(kind) = KINDS.iter().find(|kind| kind.prefix == prefix) else {
        return Ok(("", id.to_owned(), Tags::new()));
    };
    let tags = match key_of(call, kind, id) {
        Some(key) => (kind.peek)(call, &key)?.unwrap_or_default(),
        None => Tags::new(),
    };
    Ok((kind.resource_type, id.to_owned(), tags))
}

fn all_tags(call: &Call<'_>, types: Option<&[String]>) -> Result<Vec<Found>, Error> {
    let wanted = |kind: &str| types.is_none_or(|types| types.iter().any(|t| t == kind));
    let mut found = Vec::new();
    for kind in KINDS.iter().filter(|kind| wanted(kind.resource_type)) {
        let rows = (kind.scan)(call, &prefix(call, kind))?;
        found.extend(rows.into_iter().map(|(id, tags)| (kind.resource_type, id, tags)));
    }
    if wanted(RULE_TYPE) {
        found.extend(rules(call)?);
    }
    if wanted(RESERVATION_TYPE) {
        found.extend(reservations(call)?);
    }
    Ok(found)
}

fn reservations(call: &Call<'_>) -> Result<Vec<Found>, Error> {
    let subnets = call.scan::<record::Subnet>(&subnet::ID.key(call, ""))?;
    Ok(subnets
        .iter()
        .flat_map(|subnet| &subnet.reservations)
        .filter(|reservation| !reservation.tags.is_empty())
        .map(|reservation| (RESERVATION_TYPE, reservation.id.clone(), reservation.tags.clone()))
        .collect())
}

fn rules(call: &Call<'_>) -> Result<Vec<Found>, Error> {
    let prefix = key::of(call.region, key::SECURITY_GROUP, call.account(), "");
    let groups = call.scan::<SecurityGroup>(&prefix)?;
    Ok(groups
        .iter()
        .flat_map(|group| &group.rules)
        .filter(|rule| !rule.tags.is_empty())
        .map(|rule| (RULE_TYPE, rule.id.clone(), rule.tags.clone()))
        .collect())
}

#[cfg(test)]
mod tests;
