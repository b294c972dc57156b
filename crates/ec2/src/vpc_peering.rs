//! VPC peering connections, between accounts and regions too.
//!
//! ```text
//!   CreateVpcPeeringConnection
//!        │ the VPC is not there, is the same one, or blocks overlap ──► failed
//!        ▼
//!   pending-acceptance ──► active ──► deleted          deleted by either side
//!        ├── 7 days ─────► expired
//!        ├── Reject ─────► rejected                    by the accepter
//!        └── Delete ─────► deleted                     by the requester
//! ```
//!
//! One record serves both sides and lies under a key of no region ([`key::vpc_peering`]), so that
//! each step is one compare-and-put, and both sides always see the same. What has ended is shown for
//! a while (VPC Peering Guide, "VPC peering connection lifecycle"); [`RECONCILER`] lets requests
//! expire and removes what nobody sees any more.
//!
//! Not here: ClassicLink, which AWS has retired.

#[cfg(test)]
mod tests;

use crate::lookup::Id;
use crate::record::{PeeringSide, Tags, Vpc, VpcPeering, key};
use crate::{tag, vpc};
use base::{Cidr, Timestamp};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::reconcile::Reconciler;
use service::{Call, Effect, Error, Operation, operation};
use std::sync::Arc;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// How long a request waits.
const PENDING: i64 = 7 * DAY;
/// How long an ended connection is shown to who ended it, and to the other side.
const SHOWN_SHORT: i64 = 2 * HOUR;
const SHOWN_LONG: i64 = 2 * DAY;
/// Most active connections of a VPC, and most requests of an account that wait (VPC User Guide,
/// "Amazon VPC quotas").
const MAX_ACTIVE: usize = 50;
const MAX_PENDING: usize = 25;

const ACTIVE: &str = "active";
const PENDING_ACCEPTANCE: &str = "pending-acceptance";

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateVpcPeeringConnection,
        create,
        Write,
        ["VpcId", "PeerVpcId", "PeerOwnerId", "PeerRegion", "TagSpecifications.*"]
    ),
    operation!(op::AcceptVpcPeeringConnection, accept, Write, ["VpcPeeringConnectionId"]),
    operation!(op::RejectVpcPeeringConnection, reject, Write, ["VpcPeeringConnectionId"]),
    operation!(op::DeleteVpcPeeringConnection, delete, Write, ["VpcPeeringConnectionId"]),
    operation!(
        op::DescribeVpcPeeringConnections,
        describe,
        Live,
        ["VpcPeeringConnectionIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::ModifyVpcPeeringConnectionOptions,
        modify_options,
        Write,
        [
            "VpcPeeringConnectionId",
            "AccepterPeeringConnectionOptions.AllowDnsResolutionFromRemoteVpc",
            "AccepterPeeringConnectionOptions.AllowEgressFromLocalClassicLinkToRemoteVpc",
            "AccepterPeeringConnectionOptions.AllowEgressFromLocalVpcToRemoteClassicLink",
            "RequesterPeeringConnectionOptions.AllowDnsResolutionFromRemoteVpc",
            "RequesterPeeringConnectionOptions.AllowEgressFromLocalClassicLinkToRemoteVpc",
            "RequesterPeeringConnectionOptions.AllowEgressFromLocalVpcToRemoteClassicLink",
        ]
    ),
];

/// Lets requests expire, and removes connections that ended a while ago.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "vpc-peering", for_network: false, work_key, run };

/// Its key is not made of region and account: [`key::vpc_peering`].
const ID: Id = Id {
    prefix: "pcx",
    kind: key::VPC_PEERING,
    malformed: "InvalidVpcPeeringConnectionID.Malformed",
    missing: "InvalidVpcPeeringConnectionID.NotFound",
    noun: "vpcPeeringConnection ID",
};

/// The refusal of an id that no connection of the caller has.
pub(crate) fn not_found(id: &str) -> Error {
    ID.not_found(id)
}

fn is_of(call: &Call<'_>, side: &PeeringSide) -> bool {
    side.account == call.account() && side.region == call.region
}

/// The connection with this id, if the caller is one of its sides, in this region.
fn find(call: &mut Call<'_>, id: &str) -> Result<VpcPeering, Error> {
    ID.check(id)?;
    let found = call.get::<VpcPeering>(&key::vpc_peering(id))?;
    let found = found.filter(|found| is_of(call, &found.requester) || is_of(call, &found.accepter));
    let found = found.filter(|found| is_shown(call, found));
    found.map(|found| VpcPeering::clone(&found)).ok_or_else(|| not_found(id))
}

fn put(call: &mut Call<'_>, peering: VpcPeering) -> Arc<VpcPeering> {
    let at = key::vpc_peering(&peering.id);
    call.put(&at, peering)
}

/// All blocks of a VPC.
fn blocks(vpc: &Vpc) -> impl Iterator<Item = Cidr> + '_ {
    vpc.cidrs().map(Cidr::V4).chain(vpc.ipv6_cidrs.iter().map(|block| Cidr::V6(block.cidr)))
}

fn overlap(one: &Vpc, other: &Vpc) -> bool {
    blocks(one).any(|block| blocks(other).any(|of_other| block.overlaps(&of_other)))
}

/// The VPC of a side, in whatever account and region; the commit depends on it.
fn vpc_of(call: &mut Call<'_>, side: &PeeringSide) -> Result<Option<Arc<Vpc>>, Error> {
    call.get::<Vpc>(&key::of(&side.region, key::VPC, &side.account, &side.vpc_id))
}

/// Ends a connection.
fn end(peering: &mut VpcPeering, now: Timestamp, status: &str, message: String) {
    status.clone_into(&mut peering.status);
    peering.message = message;
    peering.ended = Some(now);
}

fn fail(peering: &mut VpcPeering, now: Timestamp) {
    let why = "Failed due to incorrect VPC-ID, Account ID, or overlapping CIDR range";
    end(peering, now, "failed", why.to_owned());
}

fn create(
    call: &mut Call<'_>,
    input: api::CreateVpcPeeringConnectionRequest,
) -> Result<api::CreateVpcPeeringConnectionResult, Error> {
    const TYPE: &str = "vpc-peering-connection";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let vpc = vpc::find_vpc(call, &input.vpc_id.unwrap_or_default())?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let side = |account: String, region: String, vpc_id: String| PeeringSide {
        account,
        region,
        vpc_id,
        resolved_by_other: false,
    };
    let here = || call.region.to_owned();
    let own = || call.account().to_owned();
    let requester = side(own(), here(), vpc.id.clone());
    let peer_vpc = given(input.peer_vpc_id).ok_or_else(|| Error::missing_parameter("peerVpcId"))?;
    if !base::id::is_valid("vpc", &peer_vpc) {
        return Err(Error::client(
            "InvalidVpcID.Malformed",
            format!("Invalid id: \"{peer_vpc}\" (expecting \"vpc-...\")"),
        ));
    }
    let account = given(input.peer_owner_id).unwrap_or_else(own);
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({account}) for parameter peerOwnerId is invalid. It must be an account ID."
        )));
    }
    let region = given(input.peer_region).unwrap_or_else(here);
    if !crate::region::is_name(&region) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({region}) for parameter peerRegion is invalid. Invalid region."
        )));
    }
    let accepter = side(account, region, peer_vpc);
    let others = call.get_all::<VpcPeering>(&key::vpc_peering(""))?;
    check_others(call, &others, &requester, &accepter)?;
    let peer = vpc_of(call, &accepter)?;
    let mut peering = VpcPeering {
        v: 1,
        id: call.new_id("pcx"),
        message: format!("Pending Acceptance by {}", accepter.account),
        requester,
        accepter,
        status: PENDING_ACCEPTANCE.to_owned(),
        expires: crate::instance::whole_second(call.now).plus_millis(PENDING),
        ended: None,
        tags,
        accepter_tags: Tags::new(),
    };
    if peer.is_none_or(|peer| peer.id == vpc.id || overlap(&vpc, &peer)) {
        fail(&mut peering, call.now);
    }
    let peering = put(call, peering);
    // AWS answers before it has looked at the other side.
    let mut shown = to_model(call, &peering)?;
    shown.status = Some(api::VpcPeeringConnectionStateReason {
        code: Some("initiating-request".to_owned()),
        message: Some(format!("Initiating Request to {}", peering.accepter.account)),
    });
    Ok(api::CreateVpcPeeringConnectionResult { vpc_peering_connection: Some(shown) })
}

/// Refuses a connection that is there already, and one too many.
fn check_others(
    call: &Call<'_>,
    others: &[Arc<VpcPeering>],
    requester: &PeeringSide,
    accepter: &PeeringSide,
) -> Result<(), Error> {
    let live = |other: &&Arc<VpcPeering>| match other.status.as_str() {
        PENDING_ACCEPTANCE => call.now < other.expires,
        status => status == ACTIVE,
    };
    let pair = |other: &VpcPeering| {
        let ids = [other.requester.vpc_id.as_str(), other.accepter.vpc_id.as_str()];
        ids.contains(&requester.vpc_id.as_str())
            && ids.contains(&accepter.vpc_id.as_str())
            && requester.vpc_id != accepter.vpc_id
    };
    if let Some(other) = others.iter().filter(live).find(|other| pair(other)) {
        return Err(Error::client(
            "VpcPeeringConnectionAlreadyExists",
            format!("A VPC peering connection between the VPCs already exists: {}.", other.id),
        ));
    }
    let waiting = others
        .iter()
        .filter(live)
        .filter(|other| other.status == PENDING_ACCEPTANCE && is_of(call, &other.requester));
    if waiting.count() >= MAX_PENDING {
        return Err(Error::client(
            "OutstandingVpcPeeringConnectionLimitExceeded",
            "The maximum number of outstanding VPC peering connection requests has been reached.",
        ));
    }
    Ok(())
}

/// Refuses a step that the connection's status does not allow.
fn check_transition(
    peering: &VpcPeering,
    now: Timestamp,
    ok: &[&str],
    to: &str,
) -> Result<(), Error> {
    // A request may have expired without the reconciler having come to it yet.
    let expired = peering.status == PENDING_ACCEPTANCE && now >= peering.expires;
    let status = if expired { "expired" } else { peering.status.as_str() };
    if ok.contains(&status) {
        return Ok(());
    }
    Err(Error::client(
        "InvalidStateTransition",
        format!(
            "Invalid state transition for {}, attempted to transition from {status} to {to}",
            peering.id
        ),
    ))
}

/// Refuses a step that is the accepter's.
fn check_accepter(call: &Call<'_>, peering: &VpcPeering, what: &str) -> Result<(), Error> {
    if is_of(call, &peering.accepter) {
        return Ok(());
    }
    let message = if peering.accepter.account == call.account() {
        format!(
            "Incorrect region ({}) specified for this request. VPC peering connection {} must be \
             {what}ed in region {}",
            call.region, peering.id, peering.accepter.region
        )
    } else {
        format!("User {} cannot {what} peering {}", call.account(), peering.id)
    };
    Err(Error::client("OperationNotPermitted", message))
}

fn accept(
    call: &mut Call<'_>,
    input: api::AcceptVpcPeeringConnectionRequest,
) -> Result<api::AcceptVpcPeeringConnectionResult, Error> {
    let mut peering = find(call, &input.vpc_peering_connection_id.unwrap_or_default())?;
    check_accepter(call, &peering, "accept")?;
    check_transition(&peering, call.now, &[PENDING_ACCEPTANCE], "provisioning")?;
    let requester = vpc_of(call, &peering.requester)?;
    let accepter = vpc_of(call, &peering.accepter)?;
    let others = call.get_all::<VpcPeering>(&key::vpc_peering(""))?;
    for side in [&peering.requester, &peering.accepter] {
        let of_vpc = others.iter().filter(|other| {
            other.status == ACTIVE
                && [&other.requester, &other.accepter].iter().any(|s| s.vpc_id == side.vpc_id)
        });
        if of_vpc.count() >= MAX_ACTIVE {
            return Err(Error::client(
                "VpcPeeringConnectionsPerVpcLimitExceeded",
                format!(
                    "The maximum number of VPC peering connections has been reached for the VPC \
                     {}.",
                    side.vpc_id
                ),
            ));
        }
    }
    match (requester, accepter) {
        // Blocks may have been added since it was asked for.
        (Some(requester), Some(accepter)) if !overlap(&requester, &accepter) => {
            ACTIVE.clone_into(&mut peering.status);
            "Active".clone_into(&mut peering.message);
        }
        _ => fail(&mut peering, call.now),
    }
    let peering = put(call, peering);
    let shown = to_model(call, &peering)?;
    Ok(api::AcceptVpcPeeringConnectionResult { vpc_peering_connection: Some(shown) })
}

fn reject(
    call: &mut Call<'_>,
    input: api::RejectVpcPeeringConnectionRequest,
) -> Result<api::RejectVpcPeeringConnectionResult, Error> {
    let mut peering = find(call, &input.vpc_peering_connection_id.unwrap_or_default())?;
    check_accepter(call, &peering, "reject")?;
    check_transition(&peering, call.now, &[PENDING_ACCEPTANCE], "rejected")?;
    let message = format!("Rejected by {}", call.account());
    end(&mut peering, call.now, "rejected", message);
    put(call, peering);
    Ok(api::RejectVpcPeeringConnectionResult { return_: Some(true) })
}

fn delete(
    call: &mut Call<'_>,
    input: api::DeleteVpcPeeringConnectionRequest,
) -> Result<api::DeleteVpcPeeringConnectionResult, Error> {
    let mut peering = find(call, &input.vpc_peering_connection_id.unwrap_or_default())?;
    check_transition(&peering, call.now, &[PENDING_ACCEPTANCE, ACTIVE], "deleting")?;
    if peering.status == PENDING_ACCEPTANCE && peering.requester.account != call.account() {
        return Err(Error::client(
            "OperationNotPermitted",
            format!("User {} cannot delete peering {}", call.account(), peering.id),
        ));
    }
    let message = format!("Deleted by {}", call.account());
    end(&mut peering, call.now, "deleted", message);
    put(call, peering);
    Ok(api::DeleteVpcPeeringConnectionResult { return_: Some(true) })
}

/// Whether an ended connection is still shown to the caller (VPC Peering Guide, "VPC peering
/// connection lifecycle").
fn is_shown(call: &Call<'_>, peering: &VpcPeering) -> bool {
    let Some(ended) = peering.ended else { return true };
    let by_caller = peering.message.ends_with(&format!(" by {}", call.account()));
    let shown = match peering.status.as_str() {
        "failed" if peering.requester.account != call.account() => 0,
        "failed" => SHOWN_SHORT,
        "deleted" | "rejected" if by_caller => SHOWN_SHORT,
        _ => SHOWN_LONG,
    };
    call.now.millis_since(ended) < shown
}

/// What a filter looks at.
struct View {
    shown: api::VpcPeeringConnection,
    tags: Tags,
}

fn side<'a>(
    info: &'a Option<api::VpcPeeringConnectionVpcInfo>,
    of: fn(&api::VpcPeeringConnectionVpcInfo) -> &Option<String>,
) -> Values<'a> {
    info.iter().filter_map(|info| of(info).as_deref()).map(Into::into).collect()
}

fn status<'a>(
    view: &'a View,
    of: fn(&api::VpcPeeringConnectionStateReason) -> &Option<String>,
) -> Values<'a> {
    view.shown.status.iter().filter_map(|s| of(s).as_deref()).map(Into::into).collect()
}

const FILTERS: &[Field<View>] = &[
    ("accepter-vpc-info.cidr-block", |v| side(&v.shown.accepter_vpc_info, |i| &i.cidr_block)),
    ("accepter-vpc-info.owner-id", |v| side(&v.shown.accepter_vpc_info, |i| &i.owner_id)),
    ("accepter-vpc-info.vpc-id", |v| side(&v.shown.accepter_vpc_info, |i| &i.vpc_id)),
    ("expiration-time", |v| {
        v.shown.expiration_time.iter().map(|at| at.iso_millis().into()).collect()
    }),
    ("requester-vpc-info.cidr-block", |v| side(&v.shown.requester_vpc_info, |i| &i.cidr_block)),
    ("requester-vpc-info.owner-id", |v| side(&v.shown.requester_vpc_info, |i| &i.owner_id)),
    ("requester-vpc-info.vpc-id", |v| side(&v.shown.requester_vpc_info, |i| &i.vpc_id)),
    ("status-code", |v| status(v, |s| &s.code)),
    ("status-message", |v| status(v, |s| &s.message)),
    ("vpc-peering-connection-id", |v| crate::region::text(&v.shown.vpc_peering_connection_id)),
];

fn describe(
    call: &mut Call<'_>,
    input: api::DescribeVpcPeeringConnectionsRequest,
) -> Result<api::DescribeVpcPeeringConnectionsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.vpc_peering_connection_ids.unwrap_or_default();
    for id in &ids {
        ID.check(id)?;
    }
    let mut found = call.scan::<VpcPeering>(&key::vpc_peering(""))?;
    found.retain(|peering| {
        (is_of(call, &peering.requester) || is_of(call, &peering.accepter))
            && is_shown(call, peering)
            && (ids.is_empty() || ids.contains(&peering.id))
    });
    if let Some(id) = ids.iter().find(|id| !found.iter().any(|peering| peering.id == **id)) {
        return Err(not_found(id));
    }
    let mut views = Vec::with_capacity(found.len());
    for peering in found {
        let view = View {
            shown: to_model(call, &peering)?,
            tags: tags(call, &peering).cloned().unwrap_or_default(),
        };
        if filters.accept(&view, &view.tags) {
            views.push(view);
        }
    }
    let page = page(
        views,
        |view| view.shown.vpc_peering_connection_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeVpcPeeringConnectionsResult {
        next_token: page.next_token,
        vpc_peering_connections: Some(page.items.into_iter().map(|view| view.shown).collect()),
    })
}

/// The tags that the caller gave the connection, if he is one of its sides: each has its own.
pub(crate) fn tags<'a>(call: &Call<'_>, peering: &'a VpcPeering) -> Option<&'a Tags> {
    if is_of(call, &peering.requester) {
        Some(&peering.tags)
    } else {
        is_of(call, &peering.accepter).then_some(&peering.accepter_tags)
    }
}

/// [`tags`], to be changed.
pub(crate) fn tags_mut<'a>(call: &Call<'_>, peering: &'a mut VpcPeering) -> Option<&'a mut Tags> {
    if is_of(call, &peering.requester) {
        Some(&mut peering.tags)
    } else {
        is_of(call, &peering.accepter).then_some(&mut peering.accepter_tags)
    }
}

fn to_model(call: &Call<'_>, peering: &VpcPeering) -> Result<api::VpcPeeringConnection, Error> {
    let expires = (peering.status == PENDING_ACCEPTANCE).then_some(peering.expires);
    Ok(api::VpcPeeringConnection {
        accepter_vpc_info: Some(info(call, peering, &peering.accepter)?),
        expiration_time: expires,
        requester_vpc_info: Some(info(call, peering, &peering.requester)?),
        status: Some(api::VpcPeeringConnectionStateReason {
            code: Some(peering.status.clone()),
            message: Some(peering.message.clone()),
        }),
        tags: tags(call, peering).and_then(tag::to_model),
        vpc_peering_connection_id: Some(peering.id.clone()),
    })
}

/// A side as it is shown: the other one's blocks and options only when it has accepted.
fn info(
    call: &Call<'_>,
    peering: &VpcPeering,
    side: &PeeringSide,
) -> Result<api::VpcPeeringConnectionVpcInfo, Error> {
    let is_active = peering.status == ACTIVE;
    let mut shown = api::VpcPeeringConnectionVpcInfo {
        owner_id: Some(side.account.clone()),
        region: Some(side.region.clone()),
        vpc_id: Some(side.vpc_id.clone()),
        ..Default::default()
    };
    let is_requester = *side == peering.requester;
    if is_active || is_requester || side.account == call.account() {
        let at = key::of(&side.region, key::VPC, &side.account, &side.vpc_id);
        if let Some(vpc) = call.peek::<Vpc>(&at)? {
            shown.cidr_block = Some(vpc.cidr.to_string());
            let blocks = vpc.cidrs();
            shown.cidr_block_set =
                Some(blocks.map(|b| api::CidrBlock { cidr_block: Some(b.to_string()) }).collect());
            if !vpc.ipv6_cidrs.is_empty() {
                let blocks = vpc.ipv6_cidrs.iter().map(|block| block.cidr.to_string());
                shown.ipv6_cidr_block_set =
                    Some(blocks.map(|b| api::Ipv6CidrBlock { ipv6_cidr_block: Some(b) }).collect());
            }
        }
    }
    if is_active || is_requester {
        shown.peering_options = Some(api::VpcPeeringConnectionOptionsDescription {
            allow_dns_resolution_from_remote_vpc: Some(side.resolved_by_other),
            allow_egress_from_local_classic_link_to_remote_vpc: Some(false),
            allow_egress_from_local_vpc_to_remote_classic_link: Some(false),
        });
    }
    Ok(shown)
}

fn modify_options(
    call: &mut Call<'_>,
    input: api::ModifyVpcPeeringConnectionOptionsRequest,
) -> Result<api::ModifyVpcPeeringConnectionOptionsResult, Error> {
    let mut peering = find(call, &input.vpc_peering_connection_id.unwrap_or_default())?;
    if peering.status != ACTIVE {
        return Err(Error::client(
            "OperationNotPermitted",
            format!(
                "Peering {} is not active. Peering options can be added only to active peerings.",
                peering.id
            ),
        ));
    }
    let accepter = input.accepter_peering_connection_options;
    let requester = input.requester_peering_connection_options;
    if accepter.is_none() && requester.is_none() {
        return Err(Error::missing_parameter(
            "accepterPeeringConnectionOptions or requesterPeeringConnectionOptions",
        ));
    }
    let mut shown = api::ModifyVpcPeeringConnectionOptionsResult::default();
    if let Some(options) = accepter {
        let shown = &mut shown.accepter_peering_connection_options;
        *shown = Some(modify_side(call, &peering.id, &mut peering.accepter, "accepter", options)?);
    }
    if let Some(options) = requester {
        let shown = &mut shown.requester_peering_connection_options;
        *shown =
            Some(modify_side(call, &peering.id, &mut peering.requester, "requester", options)?);
    }
    put(call, peering);
    Ok(shown)
}

fn modify_side(
    call: &Call<'_>,
    id: &str,
    side: &mut PeeringSide,
    name: &str,
    options: api::PeeringConnectionOptionsRequest,
) -> Result<api::PeeringConnectionOptions, Error> {
    if !is_of(call, side) {
        return Err(Error::client(
            "OperationNotPermitted",
            format!("User {} cannot modify {name} peering options for {id}", call.account()),
        ));
    }
    let classic = [
        options.allow_egress_from_local_classic_link_to_remote_vpc,
        options.allow_egress_from_local_vpc_to_remote_classic_link,
    ];
    if classic.contains(&Some(true)) {
        return Err(Error::unsupported("ClassicLink has been retired."));
    }
    if let Some(allow) = options.allow_dns_resolution_from_remote_vpc {
        side.resolved_by_other = allow;
    }
    Ok(api::PeeringConnectionOptions {
        allow_dns_resolution_from_remote_vpc: Some(side.resolved_by_other),
        allow_egress_from_local_classic_link_to_remote_vpc: classic[0],
        allow_egress_from_local_vpc_to_remote_classic_link: classic[1],
    })
}

/// A connection's own record is its work.
fn work_key(record_key: &str) -> Option<String> {
    record_key.starts_with(&key::vpc_peering("")).then(|| record_key.to_owned())
}

fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some(peering) = call.peek::<VpcPeering>(work_key)? else { return Ok(()) };
    match peering.ended {
        Some(ended) => {
            let until = ended.plus_millis(SHOWN_LONG);
            if call.now >= until {
                call.delete(work_key);
            } else {
                call.effect(Effect::Again(until));
            }
        }
        None if peering.status == PENDING_ACCEPTANCE => {
            if call.now >= peering.expires {
                let mut peering = VpcPeering::clone(&peering);
                let at = peering.expires;
                end(&mut peering, at, "expired", "Expired".to_owned());
                call.put(work_key, peering);
            } else {
                call.effect(Effect::Again(peering.expires));
            }
        }
        None => {}
    }
    Ok(())
}
