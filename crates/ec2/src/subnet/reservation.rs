//! CIDR reservations: ranges of a subnet that are not given to who asks for any address (VPC User
//! Guide, "Subnet CIDR reservations").
//!
//! Both kinds keep single addresses from being chosen there. Of a `prefix` reservation, prefixes
//! are chosen; an `explicit` one is only for who names an address or prefix in it.

use super::{ID, find_subnet};
use crate::record::{CidrReservation, Subnet, Tags};
use crate::tag;
use base::Cidr;
use model::ec2 as api;
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error};
use std::net::IpAddr;
use std::sync::Arc;

/// Whether an address is set aside: it is not to be chosen, only given to who asks for it.
pub(crate) fn is_reserved(subnet: &Subnet, address: IpAddr) -> bool {
    subnet.reservations.iter().any(|reservation| reservation.cidr.contains(address))
}

/// The ranges that prefixes are to be chosen from; when there are none, any that is not reserved.
pub(crate) fn prefix_reservations(subnet: &Subnet) -> impl Iterator<Item = Cidr> + '_ {
    subnet.reservations.iter().filter(|reservation| !reservation.explicit).map(|r| r.cidr)
}

fn to_model(account: &str, subnet_id: &str, it: &CidrReservation) -> api::SubnetCidrReservation {
    let kind = if it.explicit { "explicit" } else { "prefix" };
    api::SubnetCidrReservation {
        cidr: Some(it.cidr.to_string()),
        description: it.description.clone(),
        owner_id: Some(account.to_owned()),
        reservation_type: Some(kind.to_owned()),
        subnet_cidr_reservation_id: Some(it.id.clone()),
        subnet_id: Some(subnet_id.to_owned()),
        tags: tag::to_model(&it.tags),
    }
}

fn not_within(cidr: &str) -> Error {
    Error::client(
        "InvalidCidr.NotWithinSubnetCidr",
        format!("The cidr {cidr} is not within the subnet CIDR range."),
    )
}

pub(super) fn create_subnet_cidr_reservation(
    call: &mut Call<'_>,
    input: api::CreateSubnetCidrReservationRequest,
) -> Result<api::CreateSubnetCidrReservationResult, Error> {
    let found = find_subnet(call, &input.subnet_id.unwrap_or_default())?;
    let text = input.cidr.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Error::missing_parameter("cidr"))?;
    let cidr = Cidr::parse_lenient(&text).map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter cidr is invalid. This is not a valid CIDR block."
        ))
    })?;
    let explicit = match input.reservation_type.as_deref() {
        Some("explicit") => true,
        Some("prefix") => false,
        None | Some("") => return Err(Error::missing_parameter("reservationType")),
        Some(other) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter reservationType is invalid."
            )));
        }
    };
    let kind = "subnet-cidr-reservation";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), kind, &[kind])?;
    let mut subnet = Subnet::clone(&found);
    let ipv6 = subnet.ipv6_cidr.as_ref().map(|block| Cidr::from(block.cidr));
    let network = match cidr {
        Cidr::V4(cidr) => IpAddr::from(cidr.network()),
        Cidr::V6(cidr) => IpAddr::from(cidr.network()),
    };
    let inside = |block: Cidr| block.contains(network) && block.length() <= cidr.length();
    if !inside(subnet.cidr.into()) && !ipv6.is_some_and(inside) {
        return Err(not_within(&cidr.to_string()));
    }
    if subnet.reservations.iter().any(|other| other.cidr.overlaps(&cidr)) {
        return Err(Error::client(
            "InvalidCidr.InUse",
            format!("The cidr {cidr} overlaps with an existing subnet cidr reservation."),
        ));
    }
    let reservation = CidrReservation {
        id: call.new_id("scr"),
        cidr,
        explicit,
        description: input.description.filter(|text| !text.is_empty()),
        tags,
    };
    let shown = to_model(call.account(), &subnet.id, &reservation);
    subnet.reservations.push(reservation);
    call.put(&ID.key(call, &subnet.id), subnet);
    Ok(api::CreateSubnetCidrReservationResult { subnet_cidr_reservation: Some(shown) })
}

/// Changes the reservations that this one is among, given with its place. The subnet as it becomes,
/// and the reservation as it was.
pub(crate) fn change(
    call: &mut Call<'_>,
    id: &str,
    with: impl FnOnce(&mut Vec<CidrReservation>, usize) -> Result<(), Error>,
) -> Result<(Arc<Subnet>, CidrReservation), Error> {
    let missing = || {
        Error::client(
            "InvalidSubnetCidrReservationID.NotFound",
            format!("The specified subnet CIDR reservation '{id}' does not exist."),
        )
    };
    let place = |subnet: &Subnet| subnet.reservations.iter().position(|it| it.id == id);
    let all = call.scan::<Subnet>(&ID.key(call, ""))?;
    let holder = all.into_iter().find(|subnet| place(subnet).is_some()).ok_or_else(missing)?;
    let mut subnet = Subnet::clone(&*find_subnet(call, &holder.id)?);
    let index = place(&subnet).ok_or_else(missing)?;
    let before = subnet.reservations.get(index).cloned().ok_or_else(missing)?;
    with(&mut subnet.reservations, index)?;
    Ok((call.put(&ID.key(call, &holder.id), subnet), before))
}

pub(super) fn delete_subnet_cidr_reservation(
    call: &mut Call<'_>,
    input: api::DeleteSubnetCidrReservationRequest,
) -> Result<api::DeleteSubnetCidrReservationResult, Error> {
    let id = input.subnet_cidr_reservation_id.unwrap_or_default();
    let (subnet, deleted) = change(call, &id, |all, index| {
        all.remove(index);
        Ok(())
    })?;
    Ok(api::DeleteSubnetCidrReservationResult {
        deleted_subnet_cidr_reservation: Some(to_model(call.account(), &subnet.id, &deleted)),
    })
}

/// What a filter looks at.
struct View {
    shown: api::SubnetCidrReservation,
    is_ipv6: bool,
    tags: Tags,
}

const FILTERS: &[Field<View>] = &[
    ("reservationType", |view| crate::region::text(&view.shown.reservation_type)),
    ("reservation-type", |view| crate::region::text(&view.shown.reservation_type)),
    ("subnet-id", |view| crate::region::text(&view.shown.subnet_id)),
];

pub(super) fn get_subnet_cidr_reservations(
    call: &mut Call<'_>,
    input: api::GetSubnetCidrReservationsRequest,
) -> Result<api::GetSubnetCidrReservationsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let id = input.subnet_id.unwrap_or_default();
    ID.check(&id)?;
    let subnet = call.peek::<Subnet>(&ID.key(call, &id))?.ok_or_else(|| ID.not_found(&id))?;
    let mut views: Vec<View> = subnet
        .reservations
        .iter()
        .map(|it| View {
            shown: to_model(call.account(), &id, it),
            is_ipv6: matches!(it.cidr, Cidr::V6(_)),
            tags: it.tags.clone(),
        })
        .filter(|view| filters.accept(view, &view.tags))
        .collect();
    let place = |view: &View| view.shown.subnet_cidr_reservation_id.clone().unwrap_or_default();
    views.sort_by_key(place);
    let page = page(
        views,
        |view| view.shown.subnet_cidr_reservation_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let (ipv6, ipv4): (Vec<View>, Vec<View>) =
        page.items.into_iter().partition(|view| view.is_ipv6);
    let shown = |views: Vec<View>| Some(views.into_iter().map(|view| view.shown).collect());
    Ok(api::GetSubnetCidrReservationsResult {
        next_token: page.next_token,
        subnet_ipv4_cidr_reservations: shown(ipv4),
        subnet_ipv6_cidr_reservations: shown(ipv6),
    })
}
