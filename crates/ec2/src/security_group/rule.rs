//! The one form of a rule: what a caller writes in many ways is the same rule when it lets the same
//! packets pass.
//!
//! Protocols are named (`tcp`, `udp`, `icmp`, `icmpv6`) or numbers; `-1` and protocols without
//! ports have none; ICMP has type and code in their place, -1 for any; prefixes have no host bits
//! (EC2 API Reference, "IpPermission", "AuthorizeSecurityGroupIngress").

use super::{CHARACTERS, find, find_by_name, is_text, reference};
use crate::record::{RulePeer, SecurityGroup, SecurityGroupRule, Tags, key};
use crate::{prefix_list, tag};
use base::{Ipv4Cidr, Ipv6Cidr};
use model::ec2 as api;
use service::{Call, Error};

/// What packets a rule lets pass, in the one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) protocol: String,
    pub(super) from_port: Option<i32>,
    pub(super) to_port: Option<i32>,
    pub(super) peer: RulePeer,
}

impl Match {
    /// Whether a rule of a group lets the same packets pass.
    pub(super) fn is(&self, rule: &SecurityGroupRule) -> bool {
        self.protocol == rule.protocol
            && self.from_port == rule.from_port
            && self.to_port == rule.to_port
            && self.peer == rule.peer
    }

    /// The rule.
    pub(super) fn into_rule(
        self,
        call: &mut Call<'_>,
        egress: bool,
        description: Option<String>,
        tags: Tags,
    ) -> SecurityGroupRule {
        SecurityGroupRule {
            id: call.new_id("sgr"),
            egress,
            protocol: self.protocol,
            from_port: self.from_port,
            to_port: self.to_port,
            peer: self.peer,
            description,
            tags,
        }
    }

    /// As AWS words a rule in InvalidPermission.Duplicate.
    pub(super) fn describe(&self) -> String {
        let peer = peer_text(&self.peer);
        let any = |number: Option<i32>| match number {
            None | Some(-1) => "ALL".to_owned(),
            Some(number) => number.to_string(),
        };
        match self.protocol.as_str() {
            "-1" => format!("peer: {peer}, ALL, ALLOW"),
            "tcp" | "udp" => format!(
                "peer: {peer}, {}, from port: {}, to port: {}, ALLOW",
                self.protocol.to_ascii_uppercase(),
                self.from_port.unwrap_or(0),
                self.to_port.unwrap_or(65_535)
            ),
            "icmp" | "icmpv6" => format!(
                "peer: {peer}, {}, type: {}, code: {}, ALLOW",
                if self.protocol == "icmp" { "ICMP" } else { "ICMPv6" },
                any(self.from_port),
                any(self.to_port)
            ),
            number => format!("peer: {peer}, protocol: {number}, ALLOW"),
        }
    }
}

/// A prefix, or the id of a group or of a prefix list.
pub(super) fn peer_text(peer: &RulePeer) -> String {
    match peer {
        RulePeer::Ipv4(cidr) => cidr.to_string(),
        RulePeer::Ipv6(cidr) => cidr.to_string(),
        RulePeer::Group(id) | RulePeer::PrefixList(id) => id.clone(),
        RulePeer::PeerGroup { group_id, .. } => group_id.clone(),
    }
}

/// Whether a rule's peer is this group.
pub(super) fn refers_to(rule: &SecurityGroupRule, group_id: &str) -> bool {
    matches!(&rule.peer, RulePeer::Group(id) if id == group_id)
}

fn all(peer: RulePeer) -> Match {
    Match { protocol: "-1".to_owned(), from_port: None, to_port: None, peer }
}

/// Outbound, everything to 0.0.0.0/0: what a new group allows.
pub(super) fn everything_outbound(call: &mut Call<'_>) -> SecurityGroupRule {
    let everywhere = Ipv4Cidr::containing([0, 0, 0, 0].into(), 0);
    all(RulePeer::Ipv4(everywhere)).into_rule(call, true, None, Tags::new())
}

/// [`everything_outbound`] for IPv6, to ::/0: allowed too in a VPC that has IPv6.
pub(super) fn everything_outbound_by_ipv6(call: &mut Call<'_>) -> SecurityGroupRule {
    let everywhere = Ipv6Cidr::containing(std::net::Ipv6Addr::UNSPECIFIED, 0);
    all(RulePeer::Ipv6(everywhere)).into_rule(call, true, None, Tags::new())
}

/// Inbound, everything from the members of a group: what a default group allows.
pub(super) fn everything_from(call: &mut Call<'_>, group_id: &str) -> SecurityGroupRule {
    all(RulePeer::Group(group_id.to_owned())).into_rule(call, false, None, Tags::new())
}

/// Name or number of a protocol as the API shows it.
fn protocol(text: Option<&str>) -> Result<String, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Err(Error::missing_parameter("ipProtocol"));
    };
    let lower = text.to_ascii_lowercase();
    Ok(match lower.as_str() {
        "tcp" | "6" => "tcp".to_owned(),
        "udp" | "17" => "udp".to_owned(),
        "icmp" | "1" => "icmp".to_owned(),
        "icmpv6" | "58" => "icmpv6".to_owned(),
        "-1" | "all" => "-1".to_owned(),
        number => match number.parse::<u8>() {
            Ok(number) => number.to_string(),
            Err(_) => {
                return Err(Error::invalid_parameter_value(format!(
                    "Invalid value '{text}' for IP protocol. Unknown protocol."
                )));
            }
        },
    })
}

type Ports = (Option<i32>, Option<i32>);

fn ports(protocol: &str, from: Option<i32>, to: Option<i32>) -> Result<Ports, Error> {
    match protocol {
        "tcp" | "udp" => {
            let (Some(from), Some(to)) = (from, to) else {
                return Err(Error::invalid_parameter_value(
                    "Invalid value 'Must specify both from and to ports with TCP/UDP.' for \
                     portRange.",
                ));
            };
            if let Some(port) = [from, to].into_iter().find(|port| !(0..=65_535).contains(port)) {
                return Err(Error::invalid_parameter_value(format!(
                    "TCP/UDP port ({port}) out of range"
                )));
            }
            if from > to {
                return Err(Error::invalid_parameter_value(format!(
                    "Invalid TCP/UDP port range ({from}:{to})"
                )));
            }
            Ok((Some(from), Some(to)))
        }
        "icmp" | "icmpv6" => {
            if protocol == "icmp" && from.is_none() {
                return Err(Error::invalid_parameter_value(
                    "Invalid value 'Must specify both type and code with ICMP.' for portRange.",
                ));
            }
            let (kind, code) = (from.unwrap_or(-1), to.unwrap_or(-1));
            for (name, value) in [("type", kind), ("code", code)] {
                if !(-1..=255).contains(&value) {
                    return Err(Error::invalid_parameter_value(format!(
                        "ICMP {name} ({value}) out of range"
                    )));
                }
            }
            if kind == -1 && code != -1 {
                return Err(Error::invalid_parameter_value(format!(
                    "ICMP code ({code}) must be -1 when the ICMP type is -1"
                )));
            }
            Ok((Some(kind), Some(code)))
        }
        // The whole protocol, whatever ports were given.
        _ => Ok((None, None)),
    }
}

/// An IPv4 prefix, host bits cleared as AWS does.
pub(super) fn ipv4(text: &str) -> Result<RulePeer, Error> {
    Ipv4Cidr::parse_lenient(text).map(RulePeer::Ipv4).map_err(|_| malformed(text))
}

/// An IPv6 prefix in canonical text.
pub(super) fn ipv6(text: &str) -> Result<RulePeer, Error> {
    Ipv6Cidr::parse_lenient(text).map(RulePeer::Ipv6).map_err(|_| malformed(text))
}

fn malformed(text: &str) -> Error {
    Error::invalid_parameter_value(format!("CIDR block {text} is malformed"))
}

/// A rule's description, checked; an empty one is none.
pub(super) fn description(text: Option<String>) -> Result<Option<String>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if !is_text(&text) {
        return Err(Error::invalid_parameter_value(format!(
            "Invalid rule description. Valid descriptions are strings less than 256 characters \
             from the following set:  {CHARACTERS}"
        )));
    }
    Ok(Some(text))
}

/// The group that a rule of `group` names: one of the same VPC by id or name, or one of a peered VPC
/// by id.
fn group_peer(
    call: &mut Call<'_>,
    group: &SecurityGroup,
    pair: &api::UserIdGroupPair,
) -> Result<RulePeer, Error> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (id, name) = (given(&pair.group_id), given(&pair.group_name));
    let owner = given(&pair.user_id).unwrap_or_else(|| call.account().to_owned());
    let is_own = owner == call.account();
    let peer = match (&id, &name) {
        (Some(id), _) if *id == group.id && is_own => return Ok(RulePeer::Group(id.clone())),
        (Some(id), _) if is_own => find(call, id)?,
        (Some(id), _) => {
            super::check_id(id)?;
            let at = key::of(call.region, key::SECURITY_GROUP, &owner, id);
            call.get::<SecurityGroup>(&at)?.ok_or_else(|| super::not_found(id))?
        }
        (None, Some(name)) if is_own => find_by_name(call, &group.vpc_id, name)?,
        (None, Some(name)) => return Err(super::not_found(name)),
        (None, None) => return Err(Error::missing_parameter("groupId")),
    };
    if is_own && peer.vpc_id == group.vpc_id {
        return Ok(RulePeer::Group(peer.id.clone()));
    }
    let connection = given(&pair.vpc_peering_connection_id);
    let peering_id = reference::connection(call, &group.vpc_id, &owner, &peer.vpc_id, connection)?;
    let Some(peering_id) = peering_id else {
        return Err(if is_own {
            Error::client(
                "InvalidGroup.NotFound",
                "You have specified two resources that belong to different networks.",
            )
        } else {
            super::not_found(&peer.id)
        });
    };
    Ok(RulePeer::PeerGroup {
        account: owner,
        vpc_id: peer.vpc_id.clone(),
        peering_id,
        group_id: peer.id.clone(),
    })
}

/// The group that a rule that exists names: also one that is gone or that is reached no longer.
fn named_peer(group: &SecurityGroup, pair: &api::UserIdGroupPair) -> Option<RulePeer> {
    let id = pair.group_id.as_deref()?;
    let peers = group.rules.iter().map(|rule| &rule.peer);
    peers.into_iter().find(|peer| peer_text(peer) == id).cloned()
}

/// The prefix list with this id.
fn list_peer(call: &mut Call<'_>, id: Option<String>) -> Result<RulePeer, Error> {
    let id = id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::missing_parameter("prefixListId"))?;
    Ok(RulePeer::PrefixList(prefix_list::find(call, &id)?.id.clone()))
}

/// What a rule matches, and its description.
pub(super) type Wanted = (Match, Option<String>);

/// What a request does with rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Adds them: the groups that they name must be there.
    Add,
    /// Finds them among those of the group.
    Find,
}

/// The rules that permissions mean, one a peer.
///
/// # Errors
/// As AWS words them; the same rule twice in one request is one.
pub(super) fn from_permissions(
    call: &mut Call<'_>,
    group: &SecurityGroup,
    permissions: Vec<api::IpPermission>,
    purpose: Use,
) -> Result<Vec<Wanted>, Error> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for permission in permissions {
        let protocol = protocol(permission.ip_protocol.as_deref())?;
        let (from_port, to_port) = ports(&protocol, permission.from_port, permission.to_port)?;
        let mut peers = Vec::new();
        for range in permission.ip_ranges.unwrap_or_default() {
            peers.push((ipv4(range.cidr_ip.as_deref().unwrap_or_default())?, range.description));
        }
        for range in permission.ipv6_ranges.unwrap_or_default() {
            peers.push((ipv6(range.cidr_ipv6.as_deref().unwrap_or_default())?, range.description));
        }
        for pair in permission.user_id_group_pairs.unwrap_or_default() {
            let peer = match named_peer(group, &pair) {
                Some(peer) if purpose == Use::Find => peer,
                _ => group_peer(call, group, &pair)?,
            };
            peers.push((peer, pair.description));
        }
        for list in permission.prefix_list_ids.unwrap_or_default() {
            peers.push((list_peer(call, list.prefix_list_id)?, list.description));
        }
        if peers.is_empty() {
            return Err(Error::client(
                "MissingParameter",
                "The permission must contain ipRanges, ipv6Ranges, prefixListIds or groups",
            ));
        }
        for (peer, text) in peers {
            let one = Match { protocol: protocol.clone(), from_port, to_port, peer };
            if wanted.iter().any(|(other, _)| *other == one) {
                return Err(Error::invalid_parameter_value(
                    "The same permission must not appear multiple times",
                ));
            }
            wanted.push((one, description(text)?));
        }
    }
    Ok(wanted)
}

/// The members of the older, flat form of a request.
#[derive(Debug, Default)]
pub(super) struct Flat {
    pub(super) protocol: Option<String>,
    pub(super) from_port: Option<i32>,
    pub(super) to_port: Option<i32>,
    pub(super) cidr: Option<String>,
    pub(super) source_name: Option<String>,
    pub(super) source_owner: Option<String>,
}

impl Flat {
    fn is_empty(&self) -> bool {
        self.protocol.is_none()
            && self.from_port.is_none()
            && self.to_port.is_none()
            && self.cidr.is_none()
            && self.source_name.is_none()
            && self.source_owner.is_none()
    }
}

/// The rules of a request in either form.
pub(super) fn from_request(
    call: &mut Call<'_>,
    group: &SecurityGroup,
    permissions: Option<Vec<api::IpPermission>>,
    flat: Flat,
    purpose: Use,
) -> Result<Vec<Wanted>, Error> {
    let permissions = permissions.unwrap_or_default();
    if flat.is_empty() {
        if permissions.is_empty() {
            return Err(Error::missing_parameter("ipPermissions"));
        }
        return from_permissions(call, group, permissions, purpose);
    }
    if !permissions.is_empty() {
        return Err(Error::invalid_parameter_combination(
            "The parameter ipPermissions may not be used in combination with ipProtocol, \
             fromPort, toPort, cidrIp or sourceSecurityGroupName",
        ));
    }
    let Some(name) = flat.source_name else {
        let cidr = flat.cidr.ok_or_else(|| Error::missing_parameter("cidrIp"))?;
        let permission = api::IpPermission {
            ip_protocol: flat.protocol,
            from_port: flat.from_port,
            to_port: flat.to_port,
            ip_ranges: Some(vec![api::IpRange { cidr_ip: Some(cidr), description: None }]),
            ..Default::default()
        };
        return from_permissions(call, group, vec![permission], purpose);
    };
    if flat.cidr.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter cidrIp may not be used in combination with sourceSecurityGroupName",
        ));
    }
    // A group alone means all of TCP, UDP and ICMP.
    let parts = match flat.protocol {
        Some(protocol) => vec![(protocol, flat.from_port, flat.to_port)],
        None => vec![
            ("tcp".to_owned(), Some(0), Some(65_535)),
            ("udp".to_owned(), Some(0), Some(65_535)),
            ("icmp".to_owned(), Some(-1), Some(-1)),
        ],
    };
    let permissions = parts
        .into_iter()
        .map(|(protocol, from_port, to_port)| api::IpPermission {
            ip_protocol: Some(protocol),
            from_port,
            to_port,
            user_id_group_pairs: Some(vec![api::UserIdGroupPair {
                group_name: Some(name.clone()),
                user_id: flat.source_owner.clone(),
                ..Default::default()
            }]),
            ..Default::default()
        })
        .collect();
    from_permissions(call, group, permissions, purpose)
}

/// The rule that ModifySecurityGroupRules asks for.
pub(super) fn from_rule_request(
    call: &mut Call<'_>,
    group: &SecurityGroup,
    request: api::SecurityGroupRuleRequest,
) -> Result<Wanted, Error> {
    let protocol = protocol(request.ip_protocol.as_deref())?;
    let (from_port, to_port) = ports(&protocol, request.from_port, request.to_port)?;
    let mut peers = Vec::new();
    if let Some(cidr) = &request.cidr_ipv4 {
        peers.push(ipv4(cidr)?);
    }
    if let Some(cidr) = &request.cidr_ipv6 {
        peers.push(ipv6(cidr)?);
    }
    if let Some(id) = request.prefix_list_id {
        peers.push(list_peer(call, Some(id))?);
    }
    if let Some(id) = request.referenced_group_id {
        // `account/sg-…` for a group of somebody else.
        let (owner, id) = match id.split_once('/') {
            Some((owner, id)) => (Some(owner.to_owned()), id.to_owned()),
            None => (None, id),
        };
        let pair =
            api::UserIdGroupPair { group_id: Some(id), user_id: owner, ..Default::default() };
        // Only ports may change while the peer is gone.
        peers.push(match named_peer(group, &pair) {
            Some(peer) => peer,
            None => group_peer(call, group, &pair)?,
        });
    }
    let [peer] = <[RulePeer; 1]>::try_from(peers).map_err(|_| {
        Error::invalid_parameter_combination(
            "Exactly one of CidrIpv4, CidrIpv6, PrefixListId and ReferencedGroupId must be given",
        )
    })?;
    let one = Match { protocol, from_port, to_port, peer };
    Ok((one, description(request.description)?))
}

/// Ports as DescribeSecurityGroupRules shows them: -1 where there are none.
fn shown(port: Option<i32>) -> Option<i32> {
    Some(port.unwrap_or(-1))
}

/// The rule as the API shows it by itself.
pub(super) fn to_model(
    call: &Call<'_>,
    group: &SecurityGroup,
    rule: &SecurityGroupRule,
) -> Result<api::SecurityGroupRule, Error> {
    let mut shape = api::SecurityGroupRule {
        description: rule.description.clone(),
        from_port: shown(rule.from_port),
        group_id: Some(group.id.clone()),
        group_owner_id: Some(call.account().to_owned()),
        ip_protocol: Some(rule.protocol.clone()),
        is_egress: Some(rule.egress),
        security_group_rule_arn: Some(super::arn(call, "security-group-rule", &rule.id)),
        security_group_rule_id: Some(rule.id.clone()),
        tags: tag::to_model(&rule.tags),
        to_port: shown(rule.to_port),
        ..Default::default()
    };
    match &rule.peer {
        RulePeer::Ipv4(cidr) => shape.cidr_ipv4 = Some(cidr.to_string()),
        RulePeer::Ipv6(cidr) => shape.cidr_ipv6 = Some(cidr.to_string()),
        RulePeer::PrefixList(id) => shape.prefix_list_id = Some(id.clone()),
        RulePeer::PeerGroup { account, vpc_id, peering_id, group_id } => {
            shape.referenced_group_info = Some(api::ReferencedSecurityGroup {
                group_id: Some(group_id.clone()),
                peering_status: Some(reference::status(call, peering_id)?),
                user_id: Some(account.clone()),
                vpc_id: Some(vpc_id.clone()),
                vpc_peering_connection_id: Some(peering_id.clone()),
            });
        }
        RulePeer::Group(id) => {
            shape.referenced_group_info = Some(api::ReferencedSecurityGroup {
                group_id: Some(id.clone()),
                user_id: Some(call.account().to_owned()),
                ..Default::default()
            });
        }
    }
    Ok(shape)
}

/// The rule as the answer to a revocation shows it.
pub(super) fn to_revoked(
    group: &SecurityGroup,
    rule: &SecurityGroupRule,
) -> api::RevokedSecurityGroupRule {
    let mut shape = api::RevokedSecurityGroupRule {
        description: rule.description.clone(),
        from_port: shown(rule.from_port),
        group_id: Some(group.id.clone()),
        ip_protocol: Some(rule.protocol.clone()),
        is_egress: Some(rule.egress),
        security_group_rule_id: Some(rule.id.clone()),
        to_port: shown(rule.to_port),
        ..Default::default()
    };
    match &rule.peer {
        RulePeer::Ipv4(cidr) => shape.cidr_ipv4 = Some(cidr.to_string()),
        RulePeer::Ipv6(cidr) => shape.cidr_ipv6 = Some(cidr.to_string()),
        RulePeer::PrefixList(id) => shape.prefix_list_id = Some(id.clone()),
        RulePeer::Group(id) | RulePeer::PeerGroup { group_id: id, .. } => {
            shape.referenced_group_id = Some(id.clone());
        }
    }
    shape
}

/// One direction of a group as DescribeSecurityGroups shows it: rules of one protocol and port
/// range are one permission with many peers.
pub(super) fn to_permissions(
    call: &Call<'_>,
    group: &SecurityGroup,
    egress: bool,
) -> Result<Vec<api::IpPermission>, Error> {
    let mut permissions: Vec<api::IpPermission> = Vec::new();
    for rule in group.rules.iter().filter(|rule| rule.egress == egress) {
        let same = permissions.iter().position(|permission| {
            permission.ip_protocol.as_ref() == Some(&rule.protocol)
                && permission.from_port == rule.from_port
                && permission.to_port == rule.to_port
        });
        let index = same.unwrap_or_else(|| {
            permissions.push(api::IpPermission {
                from_port: rule.from_port,
                ip_protocol: Some(rule.protocol.clone()),
                ip_ranges: Some(Vec::new()),
                ipv6_ranges: Some(Vec::new()),
                prefix_list_ids: Some(Vec::new()),
                to_port: rule.to_port,
                user_id_group_pairs: Some(Vec::new()),
            });
            permissions.len() - 1
        });
        let permission = &mut permissions[index];
        let description = rule.description.clone();
        match &rule.peer {
            RulePeer::Ipv4(cidr) => permission
                .ip_ranges
                .get_or_insert_default()
                .push(api::IpRange { cidr_ip: Some(cidr.to_string()), description }),
            RulePeer::Ipv6(cidr) => permission
                .ipv6_ranges
                .get_or_insert_default()
                .push(api::Ipv6Range { cidr_ipv6: Some(cidr.to_string()), description }),
            RulePeer::PrefixList(id) => permission
                .prefix_list_ids
                .get_or_insert_default()
                .push(api::PrefixListId { description, prefix_list_id: Some(id.clone()) }),
            RulePeer::PeerGroup { account, vpc_id, peering_id, group_id } => {
                permission.user_id_group_pairs.get_or_insert_default().push(api::UserIdGroupPair {
                    description,
                    group_id: Some(group_id.clone()),
                    peering_status: Some(reference::status(call, peering_id)?),
                    user_id: Some(account.clone()),
                    vpc_id: Some(vpc_id.clone()),
                    vpc_peering_connection_id: Some(peering_id.clone()),
                    ..Default::default()
                });
            }
            RulePeer::Group(id) => {
                permission.user_id_group_pairs.get_or_insert_default().push(api::UserIdGroupPair {
                    description,
                    group_id: Some(id.clone()),
                    user_id: Some(call.account().to_owned()),
                    ..Default::default()
                });
            }
        }
    }
    Ok(permissions)
}
