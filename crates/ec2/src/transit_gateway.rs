//! Transit gateways: routers between VPCs, with route tables of their own.
//!
//! ```text
//!   Create…            (reconciler)              Delete…            (reconciler)      an hour
//!  ────────► pending ───────────────► available ────────► deleting ──────────────► deleted ──► gone
//!               ▲ accepted                │ a peering that its other side rejects: rejected
//!        pendingAcceptance ───────────────┘
//! ```
//!
//! Three kinds of record: the gateway, what is attached to it, and its route tables. An attachment
//! knows the table that its packets are looked up in and the tables that know its VPC's blocks, so
//! each of these is one fact in one record. Propagated routes are not stored, they follow from it
//! ([`route`]). A peering attachment is a record at both ends, written in one transaction.
//!
//! Not here: VPN, Direct Connect, Connect and multicast; gateways shared with other accounts;
//! peerings inside one account's region; public names that resolve to private addresses, and groups
//! in rules, across a gateway. Options about these have their default values only.

pub(crate) mod attachment;
mod describe;
mod peering;
pub(crate) mod reconciler;
mod route;
mod route_table;

use crate::record::{
    Progress, Tags, TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable, key,
};
use crate::{region, tag};
use base::Cidr;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most gateways of an account in a region (Transit Gateways guide, "Quotas").
const MAX_GATEWAYS: usize = 5;

/// A table of operations for each of this module's parts.
pub(crate) const OPERATIONS: [&[Operation]; 4] =
    [GATEWAY, attachment::OPERATIONS, peering::OPERATIONS, route_table::OPERATIONS];

const GATEWAY: &[Operation] = &[
    operation!(
        op::CreateTransitGateway,
        create_transit_gateway,
        Write,
        [
            "Description",
            "Options.AmazonSideAsn",
            "Options.AutoAcceptSharedAttachments",
            "Options.DefaultRouteTableAssociation",
            "Options.DefaultRouteTablePropagation",
            "Options.DnsSupport",
            "Options.MulticastSupport",
            "Options.SecurityGroupReferencingSupport",
            "Options.TransitGatewayCidrBlocks",
            "Options.VpnEcmpSupport",
            "TagSpecifications.*",
        ]
    ),
    operation!(
        op::ModifyTransitGateway,
        modify_transit_gateway,
        Write,
        [
            "TransitGatewayId",
            "Description",
            "Options.AddTransitGatewayCidrBlocks",
            "Options.AmazonSideAsn",
            "Options.AssociationDefaultRouteTableId",
            "Options.AutoAcceptSharedAttachments",
            "Options.DefaultRouteTableAssociation",
            "Options.DefaultRouteTablePropagation",
            "Options.DnsSupport",
            "Options.PropagationDefaultRouteTableId",
            "Options.RemoveTransitGatewayCidrBlocks",
            "Options.SecurityGroupReferencingSupport",
            "Options.VpnEcmpSupport",
        ]
    ),
    operation!(op::DeleteTransitGateway, delete_transit_gateway, Write, ["TransitGatewayId"]),
    operation!(
        op::DescribeTransitGateways,
        describe::describe_transit_gateways,
        Read,
        ["TransitGatewayIds", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// How ids of one of the three kinds are looked up and missed.
struct Kind {
    prefix: &'static str,
    record: &'static str,
    code: &'static str,
    noun: &'static str,
}

const TRANSIT_GATEWAY: Kind = Kind {
    prefix: "tgw",
    record: key::TRANSIT_GATEWAY,
    code: "InvalidTransitGatewayID",
    noun: "Transit Gateway",
};

const ATTACHMENT: Kind = Kind {
    prefix: "tgw-attach",
    record: key::TRANSIT_GATEWAY_ATTACHMENT,
    code: "InvalidTransitGatewayAttachmentID",
    noun: "Transit Gateway Attachment",
};

const ROUTE_TABLE: Kind = Kind {
    prefix: "tgw-rtb",
    record: key::TRANSIT_GATEWAY_ROUTE_TABLE,
    code: "InvalidRouteTableID",
    noun: "Transit Gateway Route Table",
};

impl Kind {
    fn key(&self, call: &Call<'_>, id: &str) -> String {
        key::of(call.region, self.record, call.account(), id)
    }

    fn not_found(&self, id: &str) -> Error {
        Error::client(
            format!("{}.NotFound", self.code),
            format!("{} {id} was deleted or does not exist.", self.noun),
        )
    }

    fn check(&self, id: &str) -> Result<(), Error> {
        if base::id::is_valid(self.prefix, id) {
            return Ok(());
        }
        Err(Error::client(
            format!("{}.Malformed", self.code),
            format!("Invalid id: \"{id}\" (expecting \"{}-...\")", self.prefix),
        ))
    }

    /// The record with this id, unless it was deleted; the commit depends on it.
    fn find<T: Live>(&self, call: &mut Call<'_>, id: &str) -> Result<Arc<T>, Error> {
        self.check(id)?;
        let found = call.get::<T>(&self.key(call, id))?;
        found.filter(|record| record.state() != Progress::Deleted).ok_or_else(|| self.not_found(id))
    }

    /// [`Kind::find`] what must be available.
    fn available<T: Live>(&self, call: &mut Call<'_>, id: &str) -> Result<Arc<T>, Error> {
        let found = self.find::<T>(call, id)?;
        if found.is_available() { Ok(found) } else { Err(invalid_state(id)) }
    }

    /// The records with these ids, or all.
    fn described<T: Live>(
        &self,
        call: &Call<'_>,
        ids: Option<Vec<String>>,
    ) -> Result<Vec<Arc<T>>, Error> {
        let mut ids = ids.unwrap_or_default();
        if ids.is_empty() {
            return call.scan::<T>(&self.key(call, ""));
        }
        ids.sort();
        ids.dedup();
        ids.iter()
            .map(|id| {
                self.check(id)?;
                call.peek::<T>(&self.key(call, id))?.ok_or_else(|| self.not_found(id))
            })
            .collect()
    }
}

fn invalid_state(id: &str) -> Error {
    incorrect_state(format!("{id} is in invalid state"))
}

fn incorrect_state(message: impl Into<String>) -> Error {
    Error::client("IncorrectState", message)
}

/// A record with a life.
trait Live: service::call::Record {
    fn state(&self) -> Progress;

    fn is_available(&self) -> bool {
        self.state() == Progress::Available
    }

    /// Whether it counts: neither deleted nor rejected.
    fn is_there(&self) -> bool {
        !matches!(self.state(), Progress::Deleted | Progress::Failed)
    }
}

macro_rules! live {
    ($($record:ty),*) => {
        $(impl Live for $record {
            fn state(&self) -> Progress {
                self.state
            }
        })*
    };
}

live!(TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable);

/// The name of a state in the API.
fn state_name(state: Progress) -> &'static str {
    match state {
        Progress::Pending => "pending",
        Progress::Available => "available",
        Progress::Deleting => "deleting",
        Progress::Deleted => "deleted",
        Progress::Failed => "failed",
    }
}

/// `enable` or `disable`.
fn switch(on: bool) -> Option<String> {
    Some(if on { "enable" } else { "disable" }.to_owned())
}

fn is_on(options: &BTreeMap<String, bool>, name: &str) -> bool {
    options.get(name).copied().unwrap_or(false)
}

/// Sets an option that a request names; the model has checked its value.
fn set(options: &mut BTreeMap<String, bool>, name: &str, value: &Option<String>) {
    if let Some(value) = value {
        options.insert(name.to_owned(), value == "enable");
    }
}

/// Options whose other value is not built are what they are by default; clients name that.
fn keep(name: &str, default: bool, value: &Option<String>) -> Result<(), Error> {
    match value.as_deref() {
        Some(value) if switch(default).as_deref() != Some(value) => {
            Err(Error::unsupported(format!("Options.{name}={value} is not built in gureum yet.")))
        }
        _ => Ok(()),
    }
}

fn arn(region: &str, account: &str, id: &str) -> String {
    format!("arn:{}:ec2:{region}:{account}:transit-gateway/{id}", region::partition(region))
}

/// A block as the API takes it: without host bits.
fn block(text: &str) -> Result<Cidr, Error> {
    text.parse::<Cidr>().map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter destinationCidrBlock is invalid. This is not a valid \
             CIDR block."
        ))
    })
}

/// Blocks of Connect attachments: /24 or larger, /64 or larger for IPv6 (EC2 API Reference,
/// "TransitGatewayRequestOptions").
fn gateway_blocks(texts: &[String]) -> Result<Vec<Cidr>, Error> {
    texts
        .iter()
        .map(|text| {
            let cidr = block(text)?;
            let longest = if matches!(cidr, Cidr::V4(_)) { 24 } else { 64 };
            if cidr.length() > longest {
                return Err(Error::invalid_parameter_value(format!(
                    "The transit gateway CIDR block {text} is too small: /{longest} at most."
                )));
            }
            Ok(cidr)
        })
        .collect()
}

/// A private ASN (EC2 API Reference, "TransitGatewayRequestOptions").
fn check_asn(asn: i64) -> Result<i64, Error> {
    if (64_512..=65_534).contains(&asn) || (4_200_000_000..=4_294_967_294).contains(&asn) {
        return Ok(asn);
    }
    Err(Error::invalid_parameter_value(format!(
        "Value ({asn}) for parameter amazonSideAsn is invalid."
    )))
}

fn create_transit_gateway(
    call: &mut Call<'_>,
    input: api::CreateTransitGatewayRequest,
) -> Result<api::CreateTransitGatewayResult, Error> {
    const TYPE: &str = "transit-gateway";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let asked = input.options.unwrap_or_default();
    keep("AutoAcceptSharedAttachments", false, &asked.auto_accept_shared_attachments)?;
    keep("DnsSupport", true, &asked.dns_support)?;
    keep("MulticastSupport", false, &asked.multicast_support)?;
    let referencing = &asked.security_group_referencing_support;
    keep("SecurityGroupReferencingSupport", false, referencing)?;
    keep("VpnEcmpSupport", true, &asked.vpn_ecmp_support)?;
    let mut options: BTreeMap<String, bool> = [
        ("AutoAcceptSharedAttachments", false),
        ("DefaultRouteTableAssociation", true),
        ("DefaultRouteTablePropagation", true),
        ("DnsSupport", true),
        ("MulticastSupport", false),
        ("SecurityGroupReferencingSupport", false),
        ("VpnEcmpSupport", true),
    ]
    .into_iter()
    .map(|(name, on)| (name.to_owned(), on))
    .collect();
    set(&mut options, "DefaultRouteTableAssociation", &asked.default_route_table_association);
    set(&mut options, "DefaultRouteTablePropagation", &asked.default_route_table_propagation);
    let asn = check_asn(asked.amazon_side_asn.unwrap_or(64_512))?;
    let cidrs = gateway_blocks(&asked.transit_gateway_cidr_blocks.unwrap_or_default())?;
    let gateways = TRANSIT_GATEWAY.key(call, "");
    let known = call.get_all::<TransitGateway>(&gateways)?;
    if known.iter().filter(|gateway| gateway.is_there()).count() >= MAX_GATEWAYS {
        return Err(Error::client(
            "TransitGatewayLimitExceeded",
            "The maximum number of transit gateways has been reached.",
        ));
    }
    let id = call.new_id("tgw");
    // One table for both.
    let (associates, propagates) = (
        is_on(&options, "DefaultRouteTableAssociation"),
        is_on(&options, "DefaultRouteTablePropagation"),
    );
    let table_id =
        (associates || propagates).then(|| route_table::stage(call, &id, Tags::new()).id.clone());
    let gateway = TransitGateway {
        v: 1,
        id: id.clone(),
        description: input.description.unwrap_or_default(),
        state: Progress::Pending,
        asn,
        options,
        cidrs,
        association_table_id: table_id.clone().filter(|_| associates),
        propagation_table_id: table_id.filter(|_| propagates),
        created: call.now,
        deleted: None,
        tags,
    };
    let gateway = call.put(&TRANSIT_GATEWAY.key(call, &id), gateway);
    Ok(api::CreateTransitGatewayResult {
        transit_gateway: Some(describe::gateway(call.region, call.account(), &gateway)),
    })
}

fn modify_transit_gateway(
    call: &mut Call<'_>,
    input: api::ModifyTransitGatewayRequest,
) -> Result<api::ModifyTransitGatewayResult, Error> {
    let id = input.transit_gateway_id.unwrap_or_default();
    let gateway = TRANSIT_GATEWAY.available::<TransitGateway>(call, &id)?;
    let mut changed = TransitGateway::clone(&gateway);
    if let Some(description) = input.description {
        changed.description = description;
    }
    let asked = input.options.unwrap_or_default();
    keep("AutoAcceptSharedAttachments", false, &asked.auto_accept_shared_attachments)?;
    keep("DnsSupport", true, &asked.dns_support)?;
    let referencing = &asked.security_group_referencing_support;
    keep("SecurityGroupReferencingSupport", false, referencing)?;
    keep("VpnEcmpSupport", true, &asked.vpn_ecmp_support)?;
    let options = &mut changed.options;
    set(options, "DefaultRouteTableAssociation", &asked.default_route_table_association);
    set(options, "DefaultRouteTablePropagation", &asked.default_route_table_propagation);
    if let Some(asn) = asked.amazon_side_asn {
        changed.asn = check_asn(asn)?;
    }
    let removed = gateway_blocks(&asked.remove_transit_gateway_cidr_blocks.unwrap_or_default())?;
    changed.cidrs.retain(|cidr| !removed.contains(cidr));
    for cidr in gateway_blocks(&asked.add_transit_gateway_cidr_blocks.unwrap_or_default())? {
        if changed.cidrs.iter().any(|known| known.overlaps(&cidr)) {
            return Err(Error::invalid_parameter_value(format!(
                "The transit gateway CIDR block {cidr} overlaps with another one."
            )));
        }
        changed.cidrs.push(cidr);
    }
    let tables = [
        (
            is_on(&changed.options, "DefaultRouteTableAssociation"),
            asked.association_default_route_table_id,
            &mut changed.association_table_id,
            "AssociationDefaultRouteTableId",
        ),
        (
            is_on(&changed.options, "DefaultRouteTablePropagation"),
            asked.propagation_default_route_table_id,
            &mut changed.propagation_table_id,
            "PropagationDefaultRouteTableId",
        ),
    ];
    for (on, table_id, place, name) in tables {
        match (on, table_id) {
            (false, None) => *place = None,
            (false, Some(_)) => {
                return Err(Error::invalid_parameter_combination(format!(
                    "{name} cannot be given while the option that uses it is disabled."
                )));
            }
            (true, Some(table_id)) => {
                route_table::of_gateway(call, &table_id, &id)?;
                *place = Some(table_id);
            }
            (true, None) if place.is_none() => return Err(Error::missing_parameter(name)),
            (true, None) => {}
        }
    }
    let gateway = call.put(&TRANSIT_GATEWAY.key(call, &id), changed);
    Ok(api::ModifyTransitGatewayResult {
        transit_gateway: Some(describe::gateway(call.region, call.account(), &gateway)),
    })
}

fn delete_transit_gateway(
    call: &mut Call<'_>,
    input: api::DeleteTransitGatewayRequest,
) -> Result<api::DeleteTransitGatewayResult, Error> {
    let id = input.transit_gateway_id.unwrap_or_default();
    let gateway = TRANSIT_GATEWAY.available::<TransitGateway>(call, &id)?;
    let attachments = ATTACHMENT.key(call, "");
    let attachments = call.get_all::<TransitGatewayAttachment>(&attachments)?;
    let mut left = attachments.iter().filter(|a| a.transit_gateway_id == id && a.is_there());
    if let Some(first) = left.next() {
        let kind = match first.peer_region {
            Some(_) => "Transit Gateway Cross Region Peering Attachments",
            None => "Transit Gateway Attachments",
        };
        let same = left.filter(|other| other.peer_region.is_some() == first.peer_region.is_some());
        let ids: Vec<&str> = std::iter::once(first).chain(same).map(|a| a.id.as_str()).collect();
        return Err(incorrect_state(format!("{id} has non-deleted {kind}: {}.", ids.join(", "))));
    }
    let tables = ROUTE_TABLE.key(call, "");
    for table in call.get_all::<TransitGatewayRouteTable>(&tables)? {
        if table.transit_gateway_id == id && table.is_there() && table.state != Progress::Deleting {
            route_table::stage_deletion(call, &table);
        }
    }
    let mut changed = TransitGateway::clone(&gateway);
    changed.state = Progress::Deleting;
    let gateway = call.put(&TRANSIT_GATEWAY.key(call, &id), changed);
    Ok(api::DeleteTransitGatewayResult {
        transit_gateway: Some(describe::gateway(call.region, call.account(), &gateway)),
    })
}

#[cfg(test)]
mod tests;
