//! Managed prefix lists: named sets of blocks that routes and rules refer to.
//!
//! Every change of the entries is a version; the last one is in force, earlier ones can be read and
//! restored. In a route table and in a security group a list counts as many as its MaxEntries,
//! whatever is in it.
//!
//! AWS's own lists, of S3 and DynamoDB in the region, have no records: [`of_aws`] makes them, the
//! same ones each time. They cannot be changed.
//!
//! Not here: lists shared with other accounts, IPAM's resolvers.

#[cfg(test)]
mod tests;

use crate::lookup::Id;
use crate::record::{
    Destination, PrefixList, PrefixListEntry, RouteTable, RulePeer, SecurityGroup,
    TransitGatewayRouteTable, key,
};
use crate::{region, route_table, tag};
use base::{Cidr, Ipv4Cidr};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Most lists of a region, entries of a list, and versions that are kept (VPC User Guide, "Amazon
/// VPC quotas", "Customer-managed prefix lists").
const MAX_LISTS: usize = 100;
const MAX_ENTRIES: u32 = 1_000;
const MAX_VERSIONS: usize = 1_000;
/// What all versions of a list may take together, bytes: they are one record, written anew with each
/// change, and a transaction takes 16 MiB.
const MAX_HISTORY: usize = 2 << 20;
/// What an entry takes in the record beside its description, bytes.
const ENTRY: usize = 96;
/// Most entries of one request.
const MAX_CHANGES: usize = 100;
/// Longest name and description, characters.
const MAX_TEXT: usize = 255;

/// Who owns AWS's own lists.
const AWS: &str = "AWS";

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateManagedPrefixList,
        create,
        Write,
        ["PrefixListName", "Entries.*", "MaxEntries", "AddressFamily", "TagSpecifications.*"]
    ),
    operation!(
        op::ModifyManagedPrefixList,
        modify,
        Write,
        [
            "PrefixListId",
            "CurrentVersion",
            "PrefixListName",
            "AddEntries.*",
            "RemoveEntries.*",
            "MaxEntries"
        ]
    ),
    operation!(
        op::RestoreManagedPrefixListVersion,
        restore,
        Write,
        ["PrefixListId", "PreviousVersion", "CurrentVersion"]
    ),
    operation!(op::DeleteManagedPrefixList, delete, Write, ["PrefixListId"]),
    operation!(
        op::DescribeManagedPrefixLists,
        describe,
        Read,
        ["PrefixListIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::GetManagedPrefixListEntries,
        entries,
        Read,
        ["PrefixListId", "TargetVersion", "MaxResults", "NextToken"]
    ),
    operation!(
        op::GetManagedPrefixListAssociations,
        associations,
        Read,
        ["PrefixListId", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribePrefixLists,
        describe_of_aws,
        Read,
        ["PrefixListIds", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// Ids of prefix lists.
const ID: Id = Id {
    prefix: "pl",
    kind: key::PREFIX_LIST,
    malformed: "InvalidPrefixListId.Malformed",
    missing: "InvalidPrefixListID.NotFound",
    noun: "prefix list ID",
};

/// The name of AWS's list of a service, `s3` or `dynamodb`.
fn name_of_aws(region: &str, service: &str) -> String {
    format!("com.amazonaws.{region}.{service}")
}

/// The id of AWS's list with this name, which is the service's that gateway endpoints route to
/// (`com.amazonaws.us-east-1.s3`): a hash of the name (FNV-1a), eight digits as theirs have.
pub(crate) fn id_of_service(service_name: &str) -> String {
    let hash = service_name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("pl-{hash:08x}")
}

/// AWS's own lists in a region; `service` is the address of the cloud's own services.
pub(crate) fn of_aws(region: &str, service: Option<Ipv4Addr>) -> [PrefixList; 2] {
    let list = |name: &str, entries: Vec<PrefixListEntry>| {
        let name = name_of_aws(region, name);
        PrefixList {
            v: 1,
            id: id_of_service(&name),
            name,
            ipv6: false,
            max_entries: 1,
            state: "create-complete".to_owned(),
            versions: BTreeMap::from([(1, entries)]),
            tags: crate::record::Tags::new(),
        }
    };
    let entry = |address| PrefixListEntry {
        cidr: Cidr::V4(Ipv4Cidr::containing(address, 32)),
        description: None,
    };
    // There is no DynamoDB here: its list is empty.
    [list("dynamodb", Vec::new()), list("s3", service.map(entry).into_iter().collect())]
}

fn own_lists_of_aws(call: &Call<'_>) -> [PrefixList; 2] {
    // The first address of the pool is the host's, where the services are.
    of_aws(call.region, call.environment.public_pool.nth(1))
}

fn is_of_aws(call: &Call<'_>, id: &str) -> bool {
    own_lists_of_aws(call).iter().any(|list| list.id == id)
}

/// The list with this id, the caller's or AWS's, if there is one.
///
/// # Errors
/// Internal, when the record cannot be read.
pub(crate) fn peek(call: &Call<'_>, id: &str) -> Result<Option<Arc<PrefixList>>, Error> {
    if let Some(list) = own_lists_of_aws(call).into_iter().find(|list| list.id == id) {
        return Ok(Some(Arc::new(list)));
    }
    call.peek::<PrefixList>(&ID.key(call, id))
}

/// The list with this id, the caller's or AWS's; the commit depends on it.
///
/// # Errors
/// `InvalidPrefixListID.NotFound`, `InvalidPrefixListId.Malformed`.
pub(crate) fn find(call: &mut Call<'_>, id: &str) -> Result<Arc<PrefixList>, Error> {
    if let Some(list) = own_lists_of_aws(call).into_iter().find(|list| list.id == id) {
        return Ok(Arc::new(list));
    }
    ID.find::<PrefixList>(call, id)
}

/// A list that the caller may change.
fn find_own(call: &mut Call<'_>, id: &str) -> Result<PrefixList, Error> {
    if is_of_aws(call, id) {
        return Err(Error::client(
            "OperationNotPermitted",
            format!("The prefix list '{id}' is managed by AWS and cannot be changed."),
        ));
    }
    Ok(PrefixList::clone(&*ID.find::<PrefixList>(call, id)?))
}

fn put(call: &mut Call<'_>, list: PrefixList) -> api::ManagedPrefixList {
    let at = ID.key(call, &list.id);
    let list = call.put(&at, list);
    to_model(call, &list)
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.chars().count() > MAX_TEXT {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({name}) for parameter PrefixListName is invalid. The name must have 1 to \
             {MAX_TEXT} characters."
        )));
    }
    if name.starts_with("com.amazonaws") {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({name}) for parameter PrefixListName is invalid. The name cannot start with \
             com.amazonaws."
        )));
    }
    Ok(())
}

fn check_max_entries(max: i32) -> Result<u32, Error> {
    u32::try_from(max).ok().filter(|max| (1..=MAX_ENTRIES).contains(max)).ok_or_else(|| {
        Error::invalid_parameter_value(format!(
            "Value ({max}) for parameter MaxEntries is invalid. Must specify a max size between 1 \
             and {MAX_ENTRIES}."
        ))
    })
}

/// A block as a list of this family has it: in canonical form.
fn block(text: &str, ipv6: bool) -> Result<Cidr, Error> {
    match Cidr::parse_lenient(text) {
        Ok(cidr) if matches!(cidr, Cidr::V6(_)) == ipv6 => Ok(cidr),
        Ok(_) => Err(Error::invalid_parameter_value(format!(
            "The CIDR ({text}) is not of the address family of the prefix list: {}.",
            family(ipv6)
        ))),
        Err(_) => Err(Error::invalid_parameter_value(format!("The CIDR ({text}) is invalid."))),
    }
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

/// The entries that a request adds: no block twice.
fn given(
    entries: Option<Vec<api::AddPrefixListEntry>>,
    ipv6: bool,
) -> Result<Vec<PrefixListEntry>, Error> {
    let entries = entries.unwrap_or_default();
    check_changes(entries.len())?;
    let mut checked: Vec<PrefixListEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let cidr = block(entry.cidr.as_deref().unwrap_or_default(), ipv6)?;
        if checked.iter().any(|other| other.cidr == cidr) {
            return Err(Error::invalid_parameter_value(format!(
                "You cannot specify the same CIDR more than once: {cidr}."
            )));
        }
        let description = entry.description.filter(|text| !text.is_empty());
        if description.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT) {
            return Err(Error::invalid_parameter_value(format!(
                "The description of an entry cannot have more than {MAX_TEXT} characters."
            )));
        }
        checked.push(PrefixListEntry { cidr, description });
    }
    Ok(checked)
}

fn check_changes(count: usize) -> Result<(), Error> {
    if count > MAX_CHANGES {
        return Err(Error::invalid_parameter_value(format!(
            "The number of entries per request cannot exceeds limit ({MAX_CHANGES})."
        )));
    }
    Ok(())
}

fn check_entries(entries: &[PrefixListEntry], max_entries: u32) -> Result<(), Error> {
    if entries.len() > usize::try_from(max_entries).unwrap_or(usize::MAX) {
        return Err(Error::client(
            "PrefixListMaxEntriesExceeded",
            "You've reached the maximum number of entries for the prefix list.",
        ));
    }
    Ok(())
}

fn create(
    call: &mut Call<'_>,
    input: api::CreateManagedPrefixListRequest,
) -> Result<api::CreateManagedPrefixListResult, Error> {
    const TYPE: &str = "prefix-list";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let name = input.prefix_list_name.unwrap_or_default();
    check_name(&name)?;
    let max_entries = check_max_entries(input.max_entries.unwrap_or_default())?;
    let ipv6 = match input.address_family.as_deref().unwrap_or_default() {
        "IPv4" => false,
        "IPv6" => true,
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter AddressFamily is invalid. Valid values are: IPv4, \
                 IPv6."
            )));
        }
    };
    let entries = given(input.entries, ipv6)?;
    check_entries(&entries, max_entries)?;
    if call.snapshot().count(&ID.key(call, "")) >= MAX_LISTS {
        return Err(Error::client(
            "PrefixListLimitExceeded",
            "The maximum number of prefix lists has been reached.",
        ));
    }
    let list = PrefixList {
        v: 1,
        id: call.new_id("pl"),
        name,
        ipv6,
        max_entries,
        state: "create-complete".to_owned(),
        versions: BTreeMap::from([(1, entries)]),
        tags,
    };
    Ok(api::CreateManagedPrefixListResult { prefix_list: Some(put(call, list)) })
}

/// The version in force.
fn version(list: &PrefixList) -> u64 {
    list.versions.last_key_value().map_or(0, |(version, _)| *version)
}

fn check_version(list: &PrefixList, current: Option<i64>) -> Result<(), Error> {
    if current.is_some_and(|current| u64::try_from(current) != Ok(version(list))) {
        return Err(Error::client(
            "PrefixListVersionMismatch",
            "The prefix list has the incorrect version number.",
        ));
    }
    Ok(())
}

/// Adds a version; the oldest go when there are too many, or they are too long together.
fn add_version(list: &mut PrefixList, entries: Vec<PrefixListEntry>) {
    let size = |entries: &Vec<PrefixListEntry>| -> usize {
        entries.iter().map(|e| ENTRY + e.description.as_ref().map_or(0, String::len)).sum()
    };
    list.versions.insert(version(list) + 1, entries);
    let mut history: usize = list.versions.values().map(size).sum();
    while list.versions.len() > 1
        && (list.versions.len() > MAX_VERSIONS || history > MAX_HISTORY)
        && let Some((_, oldest)) = list.versions.pop_first()
    {
        history -= size(&oldest);
    }
}

fn modify(
    call: &mut Call<'_>,
    input: api::ModifyManagedPrefixListRequest,
) -> Result<api::ModifyManagedPrefixListResult, Error> {
    let mut list = find_own(call, &input.prefix_list_id.unwrap_or_default())?;
    let added = given(input.add_entries, list.ipv6)?;
    let removed = input.remove_entries.unwrap_or_default();
    check_changes(removed.len())?;
    let removed: Vec<Cidr> = removed
        .iter()
        .map(|entry| block(entry.cidr.as_deref().unwrap_or_default(), list.ipv6))
        .collect::<Result<_, _>>()?;
    let changes_entries = !added.is_empty() || !removed.is_empty();
    if changes_entries && input.max_entries.is_some() {
        return Err(Error::invalid_parameter_combination(
            "You cannot modify the entries and the maximum entries for the prefix list in the same \
             request.",
        ));
    }
    if !changes_entries && input.max_entries.is_none() && input.prefix_list_name.is_none() {
        return Err(Error::missing_parameter(
            "PrefixListName, MaxEntries, AddEntries or RemoveEntries",
        ));
    }
    check_version(&list, input.current_version)?;
    if let Some(name) = input.prefix_list_name {
        check_name(&name)?;
        list.name = name;
    }
    if changes_entries {
        if added.iter().any(|entry| removed.contains(&entry.cidr)) {
            return Err(Error::client("InvalidRequest", "The request received was invalid."));
        }
        let mut entries = list.entries().to_vec();
        for cidr in removed {
            let place = entries.iter().position(|entry| entry.cidr == cidr);
            let place = place.ok_or_else(|| {
                Error::client(
                    "InvalidPrefixListModification",
                    format!("The CIDR {cidr} is not in the prefix list {}.", list.id),
                )
            })?;
            entries.remove(place);
        }
        for entry in added {
            // A block that is there gets the new description.
            match entries.iter_mut().find(|other| other.cidr == entry.cidr) {
                Some(other) => *other = entry,
                None => entries.push(entry),
            }
        }
        check_entries(&entries, list.max_entries)?;
        if entries != list.entries() {
            add_version(&mut list, entries);
        }
    }
    if let Some(max) = input.max_entries {
        list.max_entries = check_max_entries(max)?;
        check_entries(list.entries(), list.max_entries)?;
        check_users(call, &list)?;
    }
    list.state = "modify-complete".to_owned();
    Ok(api::ModifyManagedPrefixListResult { prefix_list: Some(put(call, list)) })
}

/// Checks that the tables that refer to a list can hold what it counts as now.
fn check_users(call: &mut Call<'_>, list: &PrefixList) -> Result<(), Error> {
    let tables = key::of(call.region, key::ROUTE_TABLE, call.account(), "");
    for table in call.get_all::<RouteTable>(&tables)? {
        if names(&table, &list.id) {
            route_table::check_count(call, &table, Some(list))?;
        }
    }
    Ok(())
}

fn restore(
    call: &mut Call<'_>,
    input: api::RestoreManagedPrefixListVersionRequest,
) -> Result<api::RestoreManagedPrefixListVersionResult, Error> {
    let mut list = find_own(call, &input.prefix_list_id.unwrap_or_default())?;
    check_version(&list, input.current_version)?;
    let entries = of_version(&list, input.previous_version)?.to_vec();
    check_entries(&entries, list.max_entries)?;
    add_version(&mut list, entries);
    list.state = "restore-complete".to_owned();
    Ok(api::RestoreManagedPrefixListVersionResult { prefix_list: Some(put(call, list)) })
}

/// The entries of a version, or of the one in force.
fn of_version(list: &PrefixList, wanted: Option<i64>) -> Result<&[PrefixListEntry], Error> {
    let Some(wanted) = wanted else { return Ok(list.entries()) };
    let found = u64::try_from(wanted).ok().and_then(|version| list.versions.get(&version));
    found.map(Vec::as_slice).ok_or_else(|| {
        Error::client(
            "InvalidPrefixListVersion.NotFound",
            format!("The prefix list {} has no version {wanted}.", list.id),
        )
    })
}

/// Whether a route of the table leads to the list.
fn names(table: &RouteTable, id: &str) -> bool {
    table
        .routes
        .iter()
        .any(|r| matches!(&r.destination, Destination::PrefixList(list) if list == id))
}

/// What refers to a list, by id: route tables, security groups, transit gateways' route tables. A
/// commit depends on it.
fn users(call: &mut Call<'_>, id: &str) -> Result<Vec<String>, Error> {
    let prefix = |call: &Call<'_>, kind: &str| key::of(call.region, kind, call.account(), "");
    let mut users = Vec::new();
    let at = prefix(call, key::ROUTE_TABLE);
    for table in call.get_all::<RouteTable>(&at)? {
        users.extend(names(&table, id).then(|| table.id.clone()));
    }
    let at = prefix(call, key::SECURITY_GROUP);
    for group in call.get_all::<SecurityGroup>(&at)? {
        let mut rules = group.rules.iter();
        let named = rules.any(|r| matches!(&r.peer, RulePeer::PrefixList(list) if list == id));
        users.extend(named.then(|| group.id.clone()));
    }
    let at = prefix(call, key::TRANSIT_GATEWAY_ROUTE_TABLE);
    for table in call.get_all::<TransitGatewayRouteTable>(&at)? {
        let named = table.prefix_lists.iter().any(|(list, _)| list == id);
        users.extend(named.then(|| table.id.clone()));
    }
    Ok(users)
}

fn delete(
    call: &mut Call<'_>,
    input: api::DeleteManagedPrefixListRequest,
) -> Result<api::DeleteManagedPrefixListResult, Error> {
    let list = find_own(call, &input.prefix_list_id.unwrap_or_default())?;
    let users = users(call, &list.id)?;
    if !users.is_empty() {
        return Err(Error::client(
            "DependencyViolation",
            format!(
                "The prefix list '{}' has dependencies and cannot be deleted: {}.",
                list.id,
                users.join(", ")
            ),
        ));
    }
    let mut shown = to_model(call, &list);
    shown.state = Some("delete-complete".to_owned());
    let at = ID.key(call, &list.id);
    call.delete(&at);
    Ok(api::DeleteManagedPrefixListResult { prefix_list: Some(shown) })
}

const FILTERS: &[Field<api::ManagedPrefixList>] = &[
    ("owner-id", |list| region::text(&list.owner_id)),
    ("prefix-list-id", |list| region::text(&list.prefix_list_id)),
    ("prefix-list-name", |list| region::text(&list.prefix_list_name)),
];

/// The lists with these ids or all, AWS's too, in the order of their ids.
fn described(call: &Call<'_>, ids: Option<Vec<String>>) -> Result<Vec<Arc<PrefixList>>, Error> {
    let mut ids = ids.unwrap_or_default();
    let mut found: Vec<Arc<PrefixList>> = own_lists_of_aws(call)
        .into_iter()
        .filter(|list| ids.is_empty() || ids.contains(&list.id))
        .map(Arc::new)
        .collect();
    let all = ids.is_empty();
    ids.retain(|id| !is_of_aws(call, id));
    if all || !ids.is_empty() {
        found.extend(ID.described::<PrefixList>(call, Some(ids))?);
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

fn describe(
    call: &mut Call<'_>,
    input: api::DescribeManagedPrefixListsRequest,
) -> Result<api::DescribeManagedPrefixListsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let shown: Vec<api::ManagedPrefixList> = described(call, input.prefix_list_ids)?
        .into_iter()
        .map(|list| (to_model(call, &list), list))
        .filter(|(shown, list)| filters.accept(shown, &list.tags))
        .map(|(shown, _)| shown)
        .collect();
    let page = page(
        shown,
        |list| list.prefix_list_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        1..=100,
    )?;
    Ok(api::DescribeManagedPrefixListsResult {
        next_token: page.next_token,
        prefix_lists: Some(page.items),
    })
}

fn to_model(call: &Call<'_>, list: &PrefixList) -> api::ManagedPrefixList {
    let is_of_aws = is_of_aws(call, &list.id);
    let owner = if is_of_aws { "aws" } else { call.account() };
    let partition = region::partition(call.region);
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    api::ManagedPrefixList {
        address_family: Some(family(list.ipv6).to_owned()),
        max_entries: (!is_of_aws).then(|| i32::try_from(list.max_entries).unwrap_or(i32::MAX)),
        owner_id: Some(if is_of_aws { AWS } else { call.account() }.to_owned()),
        prefix_list_arn: Some(format!(
            "arn:{partition}:ec2:{}:{owner}:prefix-list/{}",
            call.region, list.id
        )),
        prefix_list_id: Some(list.id.clone()),
        prefix_list_name: Some(list.name.clone()),
        state: Some(list.state.clone()),
        tags: tag::to_model(&list.tags),
        version: (!is_of_aws).then(|| number(version(list))),
        ..Default::default()
    }
}

fn entries(
    call: &mut Call<'_>,
    input: api::GetManagedPrefixListEntriesRequest,
) -> Result<api::GetManagedPrefixListEntriesResult, Error> {
    let list = find(call, &input.prefix_list_id.unwrap_or_default())?;
    let mut shown: Vec<api::PrefixListEntry> = of_version(&list, input.target_version)?
        .iter()
        .map(|entry| api::PrefixListEntry {
            cidr: Some(entry.cidr.to_string()),
            description: entry.description.clone(),
        })
        .collect();
    shown.sort_by(|a, b| a.cidr.cmp(&b.cidr));
    let page = page(
        shown,
        |entry| entry.cidr.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        1..=100,
    )?;
    Ok(api::GetManagedPrefixListEntriesResult {
        entries: Some(page.items),
        next_token: page.next_token,
    })
}

fn associations(
    call: &mut Call<'_>,
    input: api::GetManagedPrefixListAssociationsRequest,
) -> Result<api::GetManagedPrefixListAssociationsResult, Error> {
    let list = find(call, &input.prefix_list_id.unwrap_or_default())?;
    let mut ids = users(call, &list.id)?;
    ids.sort();
    let page = page(ids, String::as_str, input.max_results, input.next_token.as_deref(), 5..=255)?;
    let owner = call.account();
    let associations = page.items.into_iter().map(|id| api::PrefixListAssociation {
        resource_id: Some(id),
        resource_owner: Some(owner.to_owned()),
    });
    Ok(api::GetManagedPrefixListAssociationsResult {
        next_token: page.next_token,
        prefix_list_associations: Some(associations.collect()),
    })
}

const FILTERS_OF_AWS: &[Field<api::PrefixList>] = &[
    ("prefix-list-id", |list| region::text(&list.prefix_list_id)),
    ("prefix-list-name", |list| region::text(&list.prefix_list_name)),
];

/// DescribePrefixLists: AWS's own lists only.
fn describe_of_aws(
    call: &mut Call<'_>,
    input: api::DescribePrefixListsRequest,
) -> Result<api::DescribePrefixListsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS_OF_AWS)?;
    let ids = input.prefix_list_ids.unwrap_or_default();
    if let Some(id) = ids.iter().find(|id| !is_of_aws(call, id)) {
        ID.check(id)?;
        return Err(ID.not_found(id));
    }
    let mut shown: Vec<api::PrefixList> = own_lists_of_aws(call)
        .into_iter()
        .filter(|list| ids.is_empty() || ids.contains(&list.id))
        .map(|list| api::PrefixList {
            cidrs: Some(list.entries().iter().map(|entry| entry.cidr.to_string()).collect()),
            prefix_list_id: Some(list.id),
            prefix_list_name: Some(list.name),
        })
        .filter(|list| filters.accept(list, &BTreeMap::new()))
        .collect();
    shown.sort_by(|a, b| a.prefix_list_id.cmp(&b.prefix_list_id));
    let page = page(
        shown,
        |list| list.prefix_list_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribePrefixListsResult {
        next_token: page.next_token,
        prefix_lists: Some(page.items),
    })
}
