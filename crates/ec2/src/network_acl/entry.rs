//! Entries of a network ACL.

use super::{ID, find};
use crate::record::{NetworkAcl, NetworkAclEntry};
use base::Cidr;
use model::ec2 as api;
use service::{Call, Error};

/// Most entries of a direction and family (VPC User Guide, "Amazon VPC quotas").
const MAX_ENTRIES: usize = 20;
/// Numbers that users may give; those above are AWS's.
const NUMBERS: std::ops::RangeInclusive<i32> = 1..=32_766;

fn number(given: Option<i32>) -> Result<u16, Error> {
    let given = given.ok_or_else(|| Error::missing_parameter("ruleNumber"))?;
    let number = u16::try_from(given).ok().filter(|_| NUMBERS.contains(&given));
    number.ok_or_else(|| {
        Error::invalid_parameter_value(format!(
            "Value ({given}) for parameter ruleNumber is invalid. Rule numbers are from {} to {}.",
            NUMBERS.start(),
            NUMBERS.end()
        ))
    })
}

fn block(text: Option<&str>, ipv6: Option<&str>) -> Result<Cidr, Error> {
    let given = |text: Option<&'_ str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let (member, text) = match (given(text), given(ipv6)) {
        (Some(text), None) => ("cidrBlock", text),
        (None, Some(text)) => ("ipv6CidrBlock", text),
        (None, None) => return Err(Error::missing_parameter("cidrBlock or ipv6CidrBlock")),
        (Some(_), Some(_)) => {
            return Err(Error::invalid_parameter_combination(
                "The parameters cidrBlock and ipv6CidrBlock cannot be used together",
            ));
        }
    };
    let cidr = Cidr::parse_lenient(&text).ok();
    cidr.filter(|cidr| matches!(cidr, Cidr::V6(_)) == (member == "ipv6CidrBlock")).ok_or_else(
        || {
            Error::invalid_parameter_value(format!(
                "Value ({text}) for parameter {member} is invalid. This is not a valid CIDR block."
            ))
        },
    )
}

/// A protocol number, or -1 for all (Protocol of "CreateNetworkAclEntry").
fn protocol(text: Option<&str>) -> Result<String, Error> {
    let text = text.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Error::missing_parameter("protocol"))?;
    match text.parse::<i32>() {
        Ok(-1) => Ok("-1".to_owned()),
        Ok(number @ 0..=255) => Ok(number.to_string()),
        _ => Err(Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter protocol is invalid. Unknown protocol."
        ))),
    }
}

fn ports(given: Option<&api::PortRange>) -> Result<(u16, u16), Error> {
    let (Some(from), Some(to)) =
        (given.and_then(|range| range.from), given.and_then(|range| range.to))
    else {
        return Err(Error::missing_parameter("portRange"));
    };
    let range = (u16::try_from(from).ok()).zip(u16::try_from(to).ok());
    range.filter(|(from, to)| from <= to).ok_or_else(|| {
        Error::invalid_parameter_value(format!(
            "Value ({from}-{to}) for parameter portRange is invalid. Invalid TCP/UDP port range."
        ))
    })
}

fn icmp(given: Option<&api::IcmpTypeCode>) -> Result<(i32, i32), Error> {
    let (Some(kind), Some(code)) =
        (given.and_then(|icmp| icmp.type_), given.and_then(|icmp| icmp.code))
    else {
        return Err(Error::missing_parameter("icmpTypeCode"));
    };
    let is_valid =
        (-1..=255).contains(&kind) && (-1..=255).contains(&code) && (kind != -1 || code == -1);
    if !is_valid {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({kind}/{code}) for parameter icmpTypeCode is invalid. Invalid ICMP type/code."
        )));
    }
    Ok((kind, code))
}

/// The entry that a request describes. Ports and ICMP types of other protocols mean nothing and
/// are left out, as AWS does.
fn entry(input: &api::CreateNetworkAclEntryRequest) -> Result<NetworkAclEntry, Error> {
    let number = number(input.rule_number)?;
    let egress = input.egress.ok_or_else(|| Error::missing_parameter("egress"))?;
    let protocol = protocol(input.protocol.as_deref())?;
    let allow = match input.rule_action.as_deref() {
        Some("allow") => true,
        Some("deny") => false,
        None | Some("") => return Err(Error::missing_parameter("ruleAction")),
        Some(other) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter ruleAction is invalid."
            )));
        }
    };
    let cidr = block(input.cidr_block.as_deref(), input.ipv6_cidr_block.as_deref())?;
    let is_ipv6 = matches!(cidr, Cidr::V6(_));
    let mut entry =
        NetworkAclEntry { number, egress, allow, protocol, cidr, ports: None, icmp: None };
    match entry.protocol.as_str() {
        "6" | "17" => entry.ports = Some(ports(input.port_range.as_ref())?),
        "1" => entry.icmp = Some(icmp(input.icmp_type_code.as_ref())?),
        "58" if is_ipv6 => entry.icmp = Some(icmp(input.icmp_type_code.as_ref())?),
        _ => {}
    }
    Ok(entry)
}

fn is_at(egress: bool, number: u16) -> impl Fn(&NetworkAclEntry) -> bool {
    move |entry| entry.egress == egress && entry.number == number
}

fn missing(egress: bool, number: u16) -> Error {
    let direction = if egress { "egress" } else { "ingress" };
    Error::client(
        "InvalidNetworkAclEntry.NotFound",
        format!("no {direction} entry with number {number}"),
    )
}

fn check_room(acl: &NetworkAcl, new: &NetworkAclEntry) -> Result<(), Error> {
    let is_ipv6 = |entry: &NetworkAclEntry| matches!(entry.cidr, Cidr::V6(_));
    let same = |entry: &&NetworkAclEntry| {
        entry.egress == new.egress && entry.number != new.number && is_ipv6(entry) == is_ipv6(new)
    };
    if acl.entries.iter().filter(same).count() >= MAX_ENTRIES {
        return Err(Error::client(
            "NetworkAclEntryLimitExceeded",
            format!(
                "The maximum number of network acl entries has been reached for '{}': \
                 {MAX_ENTRIES} of a direction and address family",
                acl.id
            ),
        ));
    }
    Ok(())
}

pub(super) fn create_network_acl_entry(
    call: &mut Call<'_>,
    input: api::CreateNetworkAclEntryRequest,
) -> Result<wire::Empty, Error> {
    let mut acl =
        NetworkAcl::clone(&*find(call, input.network_acl_id.as_deref().unwrap_or_default())?);
    let new = entry(&input)?;
    if acl.entries.iter().any(is_at(new.egress, new.number)) {
        return Err(Error::client(
            "NetworkAclEntryAlreadyExists",
            format!("The network acl entry identified by {} already exists.", new.number),
        ));
    }
    check_room(&acl, &new)?;
    acl.entries.push(new);
    call.put(&ID.key(call, &acl.id), acl);
    Ok(wire::Empty)
}

pub(super) fn replace_network_acl_entry(
    call: &mut Call<'_>,
    input: api::ReplaceNetworkAclEntryRequest,
) -> Result<wire::Empty, Error> {
    let mut acl =
        NetworkAcl::clone(&*find(call, input.network_acl_id.as_deref().unwrap_or_default())?);
    let new = entry(&api::CreateNetworkAclEntryRequest {
        cidr_block: input.cidr_block,
        dry_run: None,
        egress: input.egress,
        icmp_type_code: input.icmp_type_code,
        ipv6_cidr_block: input.ipv6_cidr_block,
        network_acl_id: None,
        port_range: input.port_range,
        protocol: input.protocol,
        rule_action: input.rule_action,
        rule_number: input.rule_number,
    })?;
    check_room(&acl, &new)?;
    let is_it = is_at(new.egress, new.number);
    match acl.entries.iter_mut().find(|entry| is_it(entry)) {
        Some(old) => *old = new,
        None => return Err(missing(new.egress, new.number)),
    }
    call.put(&ID.key(call, &acl.id), acl);
    Ok(wire::Empty)
}

pub(super) fn delete_network_acl_entry(
    call: &mut Call<'_>,
    input: api::DeleteNetworkAclEntryRequest,
) -> Result<wire::Empty, Error> {
    let mut acl = NetworkAcl::clone(&*find(call, &input.network_acl_id.unwrap_or_default())?);
    let number = number(input.rule_number)?;
    let egress = input.egress.ok_or_else(|| Error::missing_parameter("egress"))?;
    let is_it = is_at(egress, number);
    let index = acl.entries.iter().position(is_it).ok_or_else(|| missing(egress, number))?;
    acl.entries.remove(index);
    call.put(&ID.key(call, &acl.id), acl);
    Ok(wire::Empty)
}
