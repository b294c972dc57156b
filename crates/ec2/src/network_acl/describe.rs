//! DescribeNetworkAcls.

use super::ID;
use crate::record::{NetworkAcl, Vpc};
use crate::{tag, vpc};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Numbers of the entries that deny what is left (VPC User Guide, "Network ACL rules").
const LAST_IPV4: i32 = 32_767;
const LAST_IPV6: i32 = 32_768;

/// An ACL with its description, which the filters look at.
struct View {
    acl: Arc<NetworkAcl>,
    shown: api::NetworkAcl,
}

/// Values of a member of every entry.
fn entries<'a>(
    view: &'a View,
    value: impl Fn(&'a api::NetworkAclEntry) -> Option<String>,
) -> Values<'a> {
    view.shown.entries.iter().flatten().filter_map(value).map(Into::into).collect()
}

const FILTERS: &[Field<View>] = &[
    ("association.association-id", |v| {
        v.acl.associations.iter().map(|it| it.id.as_str().into()).collect()
    }),
    ("association.network-acl-id", |v| {
        v.acl.associations.iter().map(|_| v.acl.id.as_str().into()).collect()
    }),
    ("association.subnet-id", |v| {
        v.acl.associations.iter().map(|it| it.subnet_id.as_str().into()).collect()
    }),
    ("default", |v| vec![v.acl.is_default.to_string().into()]),
    ("entry.cidr", |v| entries(v, |entry| entry.cidr_block.clone())),
    ("entry.egress", |v| entries(v, |entry| Some(entry.egress?.to_string()))),
    ("entry.icmp.code", |v| {
        entries(v, |entry| Some(entry.icmp_type_code.as_ref()?.code?.to_string()))
    }),
    ("entry.icmp.type", |v| {
        entries(v, |entry| Some(entry.icmp_type_code.as_ref()?.type_?.to_string()))
    }),
    ("entry.ipv6-cidr", |v| entries(v, |entry| entry.ipv6_cidr_block.clone())),
    ("entry.port-range.from", |v| {
        entries(v, |entry| Some(entry.port_range.as_ref()?.from?.to_string()))
    }),
    ("entry.port-range.to", |v| {
        entries(v, |entry| Some(entry.port_range.as_ref()?.to?.to_string()))
    }),
    ("entry.protocol", |v| entries(v, |entry| entry.protocol.clone())),
    ("entry.rule-action", |v| entries(v, |entry| entry.rule_action.clone())),
    ("entry.rule-number", |v| entries(v, |entry| Some(entry.rule_number?.to_string()))),
    ("network-acl-id", |v| vec![v.acl.id.as_str().into()]),
    ("owner-id", |v| crate::region::text(&v.shown.owner_id)),
    ("vpc-id", |v| vec![v.acl.vpc_id.as_str().into()]),
];

pub(super) fn describe_network_acls(
    call: &mut Call<'_>,
    input: api::DescribeNetworkAclsRequest,
) -> Result<api::DescribeNetworkAclsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let mut has_ipv6: HashMap<String, bool> = HashMap::new();
    let mut views = Vec::new();
    for acl in ID.described::<NetworkAcl>(call, input.network_acl_ids)? {
        let has_ipv6 = match has_ipv6.get(&acl.vpc_id) {
            Some(known) => *known,
            None => {
                let vpc = call.peek::<Vpc>(&vpc::ID.key(call, &acl.vpc_id))?;
                let has = vpc.is_some_and(|vpc| !vpc.ipv6_cidrs.is_empty());
                has_ipv6.insert(acl.vpc_id.clone(), has);
                has
            }
        };
        let view = View { shown: to_model(call.account(), &acl, has_ipv6), acl };
        if filters.accept(&view, &view.acl.tags) {
            views.push(view);
        }
    }
    let page =
        page(views, |view| &view.acl.id, input.max_results, input.next_token.as_deref(), 5..=1000)?;
    Ok(api::DescribeNetworkAclsResult {
        network_acls: Some(page.items.into_iter().map(|view| view.shown).collect()),
        next_token: page.next_token,
    })
}

fn blocks(cidr: Cidr) -> (Option<String>, Option<String>) {
    match cidr {
        Cidr::V4(cidr) => (Some(cidr.to_string()), None),
        Cidr::V6(cidr) => (None, Some(cidr.to_string())),
    }
}

pub(super) fn to_model(account: &str, acl: &NetworkAcl, has_ipv6: bool) -> api::NetworkAcl {
    let mut entries: Vec<api::NetworkAclEntry> = acl
        .entries
        .iter()
        .map(|entry| {
            let (cidr_block, ipv6_cidr_block) = blocks(entry.cidr);
            api::NetworkAclEntry {
                cidr_block,
                egress: Some(entry.egress),
                icmp_type_code: entry
                    .icmp
                    .map(|(kind, code)| api::IcmpTypeCode { code: Some(code), type_: Some(kind) }),
                ipv6_cidr_block,
                port_range: entry.ports.map(|(from, to)| api::PortRange {
                    from: Some(from.into()),
                    to: Some(to.into()),
                }),
                protocol: Some(entry.protocol.clone()),
                rule_action: Some(if entry.allow { "allow" } else { "deny" }.to_owned()),
                rule_number: Some(entry.number.into()),
            }
        })
        .collect();
    let everything_v4: Cidr = Ipv4Cidr::containing(Ipv4Addr::UNSPECIFIED, 0).into();
    let everything_v6: Cidr = Ipv6Cidr::containing(Ipv6Addr::UNSPECIFIED, 0).into();
    let mut last = vec![(LAST_IPV4, everything_v4)];
    if has_ipv6 {
        last.push((LAST_IPV6, everything_v6));
    }
    for (number, cidr) in last {
        let (cidr_block, ipv6_cidr_block) = blocks(cidr);
        for egress in [true, false] {
            entries.push(api::NetworkAclEntry {
                cidr_block: cidr_block.clone(),
                egress: Some(egress),
                ipv6_cidr_block: ipv6_cidr_block.clone(),
                protocol: Some("-1".to_owned()),
                rule_action: Some("deny".to_owned()),
                rule_number: Some(number),
                ..Default::default()
            });
        }
    }
    entries.sort_by_key(|entry| (entry.egress == Some(false), entry.rule_number));
    let associations = acl.associations.iter().map(|it| api::NetworkAclAssociation {
        network_acl_association_id: Some(it.id.clone()),
        network_acl_id: Some(acl.id.clone()),
        subnet_id: Some(it.subnet_id.clone()),
    });
    api::NetworkAcl {
        associations: Some(associations.collect()),
        entries: Some(entries),
        is_default: Some(acl.is_default),
        network_acl_id: Some(acl.id.clone()),
        owner_id: Some(account.to_owned()),
        tags: Some(tag::to_model(&acl.tags).unwrap_or_default()),
        vpc_id: Some(acl.vpc_id.clone()),
    }
}
