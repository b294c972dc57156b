//! DHCP option sets: what a VPC's DHCP server tells its guests (VPC User Guide, "DHCP option sets
//! in Amazon VPC"). A set never changes; a VPC is given another one.

use crate::lookup::Id;
use crate::record::{DhcpOptions, Vpc, key};
use crate::{tag, vpc};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Most servers of an option.
const MAX_SERVERS: usize = 4;
/// A VPC without options names this set.
const NONE: &str = "default";

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateDhcpOptions,
        create_dhcp_options,
        Write,
        ["DhcpConfigurations.*", "TagSpecifications.*"]
    ),
    operation!(op::DeleteDhcpOptions, delete_dhcp_options, Write, ["DhcpOptionsId"]),
    operation!(
        op::DescribeDhcpOptions,
        describe_dhcp_options,
        Read,
        ["DhcpOptionsIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(op::AssociateDhcpOptions, associate_dhcp_options, Write, ["DhcpOptionsId", "VpcId"]),
];

pub(crate) const ID: Id = Id {
    prefix: "dopt",
    kind: key::DHCP_OPTIONS,
    malformed: "InvalidDhcpOptionsId.Malformed",
    missing: "InvalidDhcpOptionID.NotFound",
    noun: "dhcpOption ID",
};

fn invalid(value: &str, option: &str) -> Error {
    Error::invalid_parameter_value(format!(
        "Value ({value}) for parameter value is invalid. Invalid DHCP option value for {option}."
    ))
}

/// Whether a text is a name or names, separated by spaces, that can stand in a DHCP answer.
fn is_domain_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_name = |name: &str| {
        let name = name.strip_suffix('.').unwrap_or(name);
        name.len() <= 253 && name.split('.').all(is_label)
    };
    text.len() <= 255 && text.split(' ').all(is_name)
}

/// Checks one option and takes lists apart that came as one text.
fn option(name: &str, given: &[String]) -> Result<Vec<String>, Error> {
    let values: Vec<String> = given
        .iter()
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect();
    let is_value: fn(&str) -> bool = match name {
        "domain-name" => is_domain_name,
        "domain-name-servers" => {
            |value| value == "AmazonProvidedDNS" || value.parse::<IpAddr>().is_ok()
        }
        "ntp-servers" => |value| value.parse::<IpAddr>().is_ok(),
        "netbios-name-servers" => |value| value.parse::<Ipv4Addr>().is_ok(),
        "netbios-node-type" => |value| matches!(value, "1" | "2" | "4" | "8"),
        "ipv6-address-preferred-lease-time" => |value| {
            value.parse::<u32>().is_ok_and(|seconds| (140..=2_147_483_647).contains(&seconds))
        },
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter name is invalid. Unknown DHCP option"
            )));
        }
    };
    if values.is_empty() {
        return Err(Error::missing_parameter("value"));
    }
    if let Some(bad) = values.iter().find(|value| !is_value(value)) {
        return Err(invalid(bad, name));
    }
    let most = if name.ends_with("-servers") { MAX_SERVERS } else { 1 };
    if values.len() > most {
        return Err(Error::client(
            "InvalidParameterValue",
            format!("The DHCP option {name} has more than {most} value(s)."),
        ));
    }
    Ok(values)
}

fn create_dhcp_options(
    call: &mut Call<'_>,
    input: api::CreateDhcpOptionsRequest,
) -> Result<api::CreateDhcpOptionsResult, Error> {
    let given = input.dhcp_configurations.unwrap_or_default();
    if given.is_empty() {
        return Err(Error::missing_parameter("dhcpConfiguration"));
    }
    let mut options = BTreeMap::new();
    for configuration in given {
        let name = configuration.key.unwrap_or_default();
        let values = option(&name, &configuration.values.unwrap_or_default())?;
        if options.insert(name.clone(), values).is_some() {
            return Err(Error::invalid_parameter_value(format!(
                "The DHCP option {name} is given more than once."
            )));
        }
    }
    let kind = "dhcp-options";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), kind, &[kind])?;
    let record = DhcpOptions { v: 1, id: call.new_id("dopt"), options, tags };
    let record = call.put(&ID.key(call, &record.id), record);
    Ok(api::CreateDhcpOptionsResult { dhcp_options: Some(to_model(call.account(), &record)) })
}

fn to_model(account: &str, record: &DhcpOptions) -> api::DhcpOptions {
    let configurations = record.options.iter().map(|(name, values)| api::DhcpConfiguration {
        key: Some(name.clone()),
        values: Some(
            values.iter().map(|value| api::AttributeValue { value: Some(value.clone()) }).collect(),
        ),
    });
    api::DhcpOptions {
        dhcp_configurations: Some(configurations.collect()),
        dhcp_options_id: Some(record.id.clone()),
        owner_id: Some(account.to_owned()),
        tags: tag::to_model(&record.tags),
    }
}

fn delete_dhcp_options(
    call: &mut Call<'_>,
    input: api::DeleteDhcpOptionsRequest,
) -> Result<wire::Empty, Error> {
    let found: Arc<DhcpOptions> = ID.find(call, &input.dhcp_options_id.unwrap_or_default())?;
    let vpcs = call.get_all::<Vpc>(&vpc::ID.key(call, ""))?;
    if vpcs.iter().any(|vpc| vpc.dhcp_options_id == found.id) {
        return Err(Error::client(
            "DependencyViolation",
            format!("The dhcpOptions '{}' has dependencies and cannot be deleted.", found.id),
        ));
    }
    call.delete(&ID.key(call, &found.id));
    Ok(wire::Empty)
}

/// What a filter looks at.
struct View {
    account: String,
    options: Arc<DhcpOptions>,
}

const FILTERS: &[Field<View>] = &[
    ("dhcp-options-id", |view| vec![view.options.id.as_str().into()]),
    ("key", |view| view.options.options.keys().map(|name| name.as_str().into()).collect()),
    ("owner-id", |view| vec![view.account.as_str().into()]),
    ("value", |view| {
        view.options.options.values().flatten().map(|value| value.as_str().into()).collect()
    }),
];

fn describe_dhcp_options(
    call: &mut Call<'_>,
    input: api::DescribeDhcpOptionsRequest,
) -> Result<api::DescribeDhcpOptionsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let views: Vec<View> = ID
        .described::<DhcpOptions>(call, input.dhcp_options_ids)?
        .into_iter()
        .map(|options| View { account: call.account().to_owned(), options })
        .filter(|view| filters.accept(view, &view.options.tags))
        .collect();
    let page = page(
        views,
        |view| &view.options.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|view| to_model(&view.account, &view.options)).collect();
    Ok(api::DescribeDhcpOptionsResult { dhcp_options: Some(shown), next_token: page.next_token })
}

fn associate_dhcp_options(
    call: &mut Call<'_>,
    input: api::AssociateDhcpOptionsRequest,
) -> Result<wire::Empty, Error> {
    let options_id = input.dhcp_options_id.unwrap_or_default();
    if options_id != NONE {
        // The commit depends on it: it cannot be deleted meanwhile.
        ID.find::<DhcpOptions>(call, &options_id)?;
    }
    let found = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let vpc = Vpc { dhcp_options_id: options_id, ..Vpc::clone(&found) };
    call.put(&vpc::ID.key(call, &vpc.id), vpc);
    Ok(wire::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Region, filter, list};

    fn create(configurations: &[(&str, &[&str])]) -> api::CreateDhcpOptionsRequest {
        let configurations = configurations.iter().map(|(name, values)| {
            api::NewDhcpConfiguration { key: Some((*name).to_owned()), values: list(values) }
        });
        api::CreateDhcpOptionsRequest {
            dhcp_configurations: Some(configurations.collect()),
            ..Default::default()
        }
    }

    #[test]
    fn options_are_checked() {
        let region = Region::new();
        let refused = |name, values| region.refused(create_dhcp_options, create(&[(name, values)]));
        for (name, values) in [
            ("domain-name", &["-.x..y"][..]),
            ("domain-name", &["a.example", "b.example"]),
            ("domain-name-servers", &["10.0.0.2", "x"]),
            ("domain-name-servers", &["10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5"]),
            ("ntp-servers", &["AmazonProvidedDNS"]),
            ("netbios-name-servers", &["fd00::1"]),
            ("netbios-node-type", &["3"]),
            ("ipv6-address-preferred-lease-time", &["139"]),
            ("routers", &["10.0.0.1"]),
        ] {
            let error = refused(name, values);
            assert!(error.starts_with("InvalidParameterValue: "), "{name}: {error}");
        }
        assert!(refused("ntp-servers", &[]).starts_with("MissingParameter: "));
        let twice = create(&[("domain-name", &["a"]), ("domain-name", &["b"])]);
        assert!(region.refused(create_dhcp_options, twice).contains("more than once"));
        let nothing = region.refused(create_dhcp_options, create(&[]));
        assert!(nothing.starts_with("MissingParameter: "), "{nothing}");
    }

    #[test]
    fn sets_are_used_and_deleted() {
        let region = Region::new();
        let input = create(&[
            ("domain-name", &["a.example b.example"]),
            ("domain-name-servers", &["10.0.0.2, 10.0.0.3", "fd00::2"]),
            ("netbios-node-type", &["2"]),
        ]);
        let id = region.ok(create_dhcp_options, input).dhcp_options.unwrap().dhcp_options_id;
        let described = |filters: Vec<api::Filter>| {
            let input =
                api::DescribeDhcpOptionsRequest { filters: Some(filters), ..Default::default() };
            region.ok(describe_dhcp_options, input).dhcp_options.unwrap()
        };
        assert_eq!(described(vec![]).len(), 2, "and the region's own");
        let found = described(vec![filter("key", &["domain-name"]), filter("value", &["fd00::2"])]);
        assert_eq!(found.len(), 1);
        let servers = &found[0].dhcp_configurations.as_ref().unwrap()[1];
        assert_eq!(servers.values.as_ref().unwrap().len(), 3);
        let vpc_id = region.run(|call| Ok(vpc::default_vpc(call)?.id.clone())).unwrap();
        let associate = |options: &str| api::AssociateDhcpOptionsRequest {
            dhcp_options_id: Some(options.to_owned()),
            vpc_id: Some(vpc_id.clone()),
            ..Default::default()
        };
        let delete =
            || api::DeleteDhcpOptionsRequest { dhcp_options_id: id.clone(), ..Default::default() };
        region.ok(associate_dhcp_options, associate(id.as_deref().unwrap()));
        let refused = region.refused(delete_dhcp_options, delete());
        assert!(refused.starts_with("DependencyViolation: The dhcpOptions 'dopt-"), "{refused}");
        region.ok(associate_dhcp_options, associate("default"));
        region.ok(delete_dhcp_options, delete());
        let refused = region.refused(associate_dhcp_options, associate(id.as_deref().unwrap()));
        assert!(
            refused.starts_with("InvalidDhcpOptionID.NotFound: The dhcpOption ID"),
            "{refused}"
        );
        let refused = region.refused(associate_dhcp_options, associate("dopt-x"));
        assert!(refused.starts_with("InvalidDhcpOptionsId.Malformed: "), "{refused}");
    }
}
