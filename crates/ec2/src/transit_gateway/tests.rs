use super::reconciler::{RECONCILER, SHOWN_MILLIS};
use super::*;
use crate::record::{
    CidrAssociation, Destination, Interface, InterfaceKind, PrefixList, PrefixListEntry, Route,
    RouteOrigin, RouteTable, Subnet, Vpc,
};
use crate::testing::{ACCOUNT, Region, filter, list};
use crate::vpc;

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Runs the reconciler until nothing changes, as the daemon does.
fn settle(region: &Region) {
    loop {
        let before = region.store.snapshot().revision();
        let keys: Vec<String> = region
            .store
            .snapshot()
            .scan("/")
            .filter_map(|kv| (RECONCILER.work_key)(kv.key()))
            .collect();
        for key in keys {
            let name = key.split('/').nth(1).unwrap_or_default().to_owned();
            region.run_as(&name, ACCOUNT, |call| (RECONCILER.run)(call, &key)).unwrap();
        }
        if region.store.snapshot().revision() == before {
            return;
        }
    }
}

/// An available gateway.
fn gateway(region: &Region, options: api::TransitGatewayRequestOptions) -> api::TransitGateway {
    let input = api::CreateTransitGatewayRequest { options: Some(options), ..Default::default() };
    let made = region.ok(create_transit_gateway, input).transit_gateway.unwrap();
    assert_eq!(made.state.as_deref(), Some("pending"));
    settle(region);
    shown_gateway(region, made.transit_gateway_id.as_deref().unwrap())
}

fn shown_gateway(region: &Region, id: &str) -> api::TransitGateway {
    let input = api::DescribeTransitGatewaysRequest {
        transit_gateway_ids: list(&[id]),
        ..Default::default()
    };
    region.ok(describe::describe_transit_gateways, input).transit_gateways.unwrap().remove(0)
}

fn default_subnets(region: &Region) -> (String, Vec<String>) {
    region
        .run(|call| {
            let vpc = vpc::default_vpc(call)?.id.clone();
            let prefix = key::of(call.region, key::SUBNET, call.account(), "");
            let subnets = call.scan::<Subnet>(&prefix)?;
            Ok((vpc, subnets.iter().map(|subnet| subnet.id.clone()).collect()))
        })
        .unwrap()
}

/// A request to attach the default VPC.
fn attach_request(
    region: &Region,
    gateway_id: &str,
) -> api::CreateTransitGatewayVpcAttachmentRequest {
    let (vpc_id, subnets) = default_subnets(region);
    api::CreateTransitGatewayVpcAttachmentRequest {
        transit_gateway_id: text(gateway_id),
        vpc_id: Some(vpc_id),
        subnet_ids: Some(subnets[..2].to_vec()),
        ..Default::default()
    }
}

/// The default VPC's attachment, available.
fn attach(region: &Region, gateway_id: &str) -> String {
    let made = region.ok(attachment::create, attach_request(region, gateway_id));
    let made = made.transit_gateway_vpc_attachment.unwrap();
    assert_eq!(made.state.as_deref(), Some("pending"));
    settle(region);
    made.transit_gateway_attachment_id.unwrap()
}

fn interfaces(region: &Region) -> usize {
    region
        .run(|call| {
            let prefix = key::of(call.region, key::INTERFACE, call.account(), "");
            let found = call.scan::<Interface>(&prefix)?;
            let of_gateways =
                |i: &&Arc<Interface>| matches!(i.kind, InterfaceKind::TransitGateway(_));
            Ok(found.iter().filter(of_gateways).count())
        })
        .unwrap()
}

fn search(
    region: &Region,
    table: &str,
    filters: Vec<api::Filter>,
) -> Vec<(String, String, String)> {
    let input = api::SearchTransitGatewayRoutesRequest {
        transit_gateway_route_table_id: text(table),
        filters: Some(filters),
        ..Default::default()
    };
    let found = region.ok(route::search, input).routes.unwrap();
    found
        .into_iter()
        .map(|r| (r.destination_cidr_block.unwrap(), r.type_.unwrap(), r.state.unwrap()))
        .collect()
}

fn triple(cidr: &str, kind: &str, state: &str) -> (String, String, String) {
    (cidr.to_owned(), kind.to_owned(), state.to_owned())
}

#[test]
fn a_gateway_lives_and_is_shown_for_an_hour_after_its_end() {
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let (id, options) = (made.transit_gateway_id.unwrap(), made.options.unwrap());
    assert_eq!(made.state.as_deref(), Some("available"));
    assert_eq!(options.amazon_side_asn, Some(64_512));
    assert_eq!(options.default_route_table_association.as_deref(), Some("enable"));
    let table = options.association_default_route_table_id.unwrap();
    assert_eq!(options.propagation_default_route_table_id.as_ref(), Some(&table));
    let delete_table = api::DeleteTransitGatewayRouteTableRequest {
        transit_gateway_route_table_id: text(&table),
        ..Default::default()
    };
    let refusal = region.refused(route_table::delete, delete_table);
    assert!(refusal.starts_with("IncorrectState: "), "{refusal}");
    let delete =
        || api::DeleteTransitGatewayRequest { transit_gateway_id: text(&id), ..Default::default() };
    region.ok(delete_transit_gateway, delete());
    assert_eq!(
        region.refused(delete_transit_gateway, delete()),
        format!("IncorrectState: {id} is in invalid state")
    );
    settle(&region);
    assert_eq!(shown_gateway(&region, &id).state.as_deref(), Some("deleted"));
    assert_eq!(
        region.refused(delete_transit_gateway, delete()),
        format!(
            "InvalidTransitGatewayID.NotFound: Transit Gateway {id} was deleted or does not exist."
        )
    );
    region.pass(SHOWN_MILLIS);
    settle(&region);
    let input = api::DescribeTransitGatewaysRequest {
        transit_gateway_ids: list(&[&id]),
        ..Default::default()
    };
    let refusal = region.refused(describe::describe_transit_gateways, input);
    assert!(refusal.starts_with("InvalidTransitGatewayID.NotFound: "), "{refusal}");
    let all = api::DescribeTransitGatewayRouteTablesRequest::default();
    let left = region.ok(describe::describe_route_tables, all);
    assert_eq!(left.transit_gateway_route_tables, Some(vec![]));
}

#[test]
fn a_vpc_is_attached_by_an_interface_in_each_subnet() {
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let id = made.transit_gateway_id.unwrap();
    let table = made.options.unwrap().association_default_route_table_id.unwrap();
    let attachment = attach(&region, &id);
    assert_eq!(interfaces(&region), 2);
    let propagated = triple("172.31.0.0/16", "propagated", "active");
    assert_eq!(search(&region, &table, vec![]), [propagated]);
    assert_eq!(
        region.refused(attachment::create, attach_request(&region, &id)),
        format!(
            "DuplicateTransitGatewayAttachment: {id} has non-deleted Transit Gateway Attachments \
             with same VPC ID."
        )
    );
    let delete =
        api::DeleteTransitGatewayRequest { transit_gateway_id: text(&id), ..Default::default() };
    assert_eq!(
        region.refused(delete_transit_gateway, delete),
        format!("IncorrectState: {id} has non-deleted Transit Gateway Attachments: {attachment}.")
    );
    let (_, subnets) = default_subnets(&region);
    let modify = |add: Option<Vec<String>>, remove: Option<Vec<String>>| {
        api::ModifyTransitGatewayVpcAttachmentRequest {
            transit_gateway_attachment_id: text(&attachment),
            add_subnet_ids: add,
            remove_subnet_ids: remove,
            ..Default::default()
        }
    };
    region.ok(attachment::modify, modify(list(&[&subnets[2]]), list(&[&subnets[0]])));
    assert_eq!(interfaces(&region), 2);
    let refusal =
        region.refused(attachment::modify, modify(None, list(&[&subnets[1], &subnets[2]])));
    assert!(refusal.starts_with("InvalidParameterValue: "), "{refusal}");
    let delete = || api::DeleteTransitGatewayVpcAttachmentRequest {
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    region.ok(attachment::delete, delete());
    settle(&region);
    assert_eq!(interfaces(&region), 0);
    assert_eq!(search(&region, &table, vec![]), []);
    let refusal = region.refused(attachment::delete, delete());
    assert!(refusal.starts_with("InvalidTransitGatewayAttachmentID.NotFound: "), "{refusal}");
    // The VPC may be attached anew.
    attach(&region, &id);
}

#[test]
fn an_attachment_has_the_options_that_are_built() {
    let region = Region::new();
    let gateway_id = gateway(&region, Default::default()).transit_gateway_id.unwrap();
    type Options = api::CreateTransitGatewayVpcAttachmentRequestOptions;
    type Change = api::ModifyTransitGatewayVpcAttachmentRequestOptions;
    type Set = fn(&mut Options, &mut Change, Option<String>);
    let cases: [(&str, Set); 3] = [
        ("ApplianceModeSupport=enable", |o, c, v| {
            (o.appliance_mode_support, c.appliance_mode_support) = (v.clone(), v);
        }),
        ("DnsSupport=disable", |o, c, v| (o.dns_support, c.dns_support) = (v.clone(), v)),
        ("SecurityGroupReferencingSupport=disable", |o, c, v| {
            o.security_group_referencing_support = v.clone();
            c.security_group_referencing_support = v;
        }),
    ];
    let id = attach(&region, &gateway_id);
    for (case, put) in cases {
        let value = case.split_once('=').unwrap().1;
        let (mut options, mut change) = (Options::default(), Change::default());
        put(&mut options, &mut change, text(value));
        let expected = format!("UnsupportedOperation: Options.{case} is not built in gureum yet.");
        // The VPC is attached already, to this gateway: by another one.
        let other = gateway(&region, Default::default()).transit_gateway_id.unwrap();
        let request = api::CreateTransitGatewayVpcAttachmentRequest {
            options: Some(options),
            ..attach_request(&region, &other)
        };
        assert_eq!(region.refused(attachment::create, request), expected);
        let modify = |change| api::ModifyTransitGatewayVpcAttachmentRequest {
            transit_gateway_attachment_id: text(&id),
            options: Some(change),
            ..Default::default()
        };
        assert_eq!(region.refused(attachment::modify, modify(change)), expected);
        let mut kept = Change::default();
        let default = if value == "enable" { "disable" } else { "enable" };
        put(&mut Options::default(), &mut kept, text(default));
        region.ok(attachment::modify, modify(kept));
    }
}

#[test]
fn one_subnet_a_zone() {
    let region = Region::new();
    let id = gateway(&region, Default::default()).transit_gateway_id.unwrap();
    let mut input = attach_request(&region, &id);
    let (_, subnets) = default_subnets(&region);
    input.subnet_ids = list(&[&subnets[0], &subnets[0]]);
    assert_eq!(
        region.refused(attachment::create, input.clone()),
        "DuplicateSubnetsInSameZone: Duplicate Subnets for same AZ"
    );
    input.subnet_ids = list(&["subnet-0123456789abcdef0"]);
    let refusal = region.refused(attachment::create, input);
    assert!(refusal.starts_with("InvalidSubnetID.NotFound: "), "{refusal}");
    assert_eq!(interfaces(&region), 0);
}

#[test]
fn routes_are_static_or_follow_from_propagations() {
    let region = Region::new();
    let off = || text("disable");
    let made = gateway(
        &region,
        api::TransitGatewayRequestOptions {
            default_route_table_association: off(),
            default_route_table_propagation: off(),
            ..Default::default()
        },
    );
    let id = made.transit_gateway_id.unwrap();
    assert_eq!(made.options.unwrap().association_default_route_table_id, None);
    let attachment = attach(&region, &id);
    let input = api::CreateTransitGatewayRouteTableRequest {
        transit_gateway_id: text(&id),
        ..Default::default()
    };
    let table = region.ok(route_table::create, input).transit_gateway_route_table.unwrap();
    let table = table.transit_gateway_route_table_id.unwrap();
    settle(&region);
    let route = |cidr: &str, attachment: Option<&String>, blackhole: Option<bool>| {
        api::CreateTransitGatewayRouteRequest {
            transit_gateway_route_table_id: text(&table),
            destination_cidr_block: text(cidr),
            transit_gateway_attachment_id: attachment.cloned(),
            blackhole,
            ..Default::default()
        }
    };
    region.ok(route::create, route("10.0.0.0/8", Some(&attachment), None));
    region.ok(route::create, route("10.1.0.0/16", None, Some(true)));
    region.ok(route::create, route("2001:db8::/32", None, Some(true)));
    assert_eq!(
        region.refused(route::create, route("10.0.0.0/8", None, Some(true))),
        format!(
            "RouteAlreadyExists: The route 10.0.0.0/8 already exists in Transit Gateway Route \
             Table {table}."
        )
    );
    for (bad, code) in [
        (route("10.0.0.1/8", None, Some(true)), "InvalidParameterValue"),
        (route("10.2.0.0/16", Some(&attachment), Some(true)), "InvalidParameterCombination"),
        (route("10.2.0.0/16", None, None), "MissingParameter"),
    ] {
        let refusal = region.refused(route::create, bad);
        assert!(refusal.starts_with(code), "{refusal}");
    }
    let tie = || api::EnableTransitGatewayRouteTablePropagationRequest {
        transit_gateway_route_table_id: text(&table),
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    region.ok(route_table::enable_propagation, tie());
    let refusal = region.refused(route_table::enable_propagation, tie());
    assert!(refusal.starts_with("TransitGatewayRouteTablePropagation.Duplicate: "), "{refusal}");
    let (ten, hole, vpc, six) = (
        triple("10.0.0.0/8", "static", "active"),
        triple("10.1.0.0/16", "static", "blackhole"),
        triple("172.31.0.0/16", "propagated", "active"),
        triple("2001:db8::/32", "static", "blackhole"),
    );
    assert_eq!(
        search(&region, &table, vec![]),
        [ten.clone(), hole.clone(), vpc.clone(), six.clone()]
    );
    let by = |name: &str, value: &str| search(&region, &table, vec![filter(name, &[value])]);
    assert_eq!(by("type", "propagated"), std::slice::from_ref(&vpc));
    assert_eq!(by("state", "blackhole"), [hole.clone(), six.clone()]);
    assert_eq!(by("route-search.exact-match", "10.0.0.0/8"), std::slice::from_ref(&ten));
    assert_eq!(by("route-search.longest-prefix-match", "10.1.2.3"), std::slice::from_ref(&hole));
    assert_eq!(by("route-search.subnet-of-match", "10.0.0.0/8"), [ten.clone(), hole.clone()]);
    assert_eq!(by("route-search.supernet-of-match", "10.1.2.0/24"), [ten.clone(), hole.clone()]);
    assert_eq!(by("attachment.transit-gateway-attachment-id", &attachment), [ten, vpc]);
    // A static route wins over what is propagated, and is a blackhole when its attachment goes.
    let replace = |cidr: &str| api::ReplaceTransitGatewayRouteRequest {
        transit_gateway_route_table_id: text(&table),
        destination_cidr_block: text(cidr),
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    region.ok(route::replace, replace("10.1.0.0/16"));
    let refusal = region.refused(route::replace, replace("10.9.0.0/16"));
    assert!(refusal.starts_with("InvalidRoute.NotFound: "), "{refusal}");
    region.ok(route::create, route("172.31.0.0/16", None, Some(true)));
    assert_eq!(by("type", "propagated"), []);
    let delete = || api::DeleteTransitGatewayRouteRequest {
        transit_gateway_route_table_id: text(&table),
        destination_cidr_block: text("172.31.0.0/16"),
        ..Default::default()
    };
    region.ok(route::delete, delete());
    let refusal = region.refused(route::delete, delete());
    assert!(refusal.starts_with("InvalidRoute.NotFound: "), "{refusal}");
    let gone = api::DeleteTransitGatewayVpcAttachmentRequest {
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    region.ok(attachment::delete, gone);
    settle(&region);
    assert_eq!(by("state", "active"), []);
}

#[test]
fn an_attachment_is_associated_with_one_table() {
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let id = made.transit_gateway_id.unwrap();
    let default = made.options.unwrap().association_default_route_table_id.unwrap();
    let attachment = attach(&region, &id);
    let input = api::CreateTransitGatewayRouteTableRequest {
        transit_gateway_id: text(&id),
        ..Default::default()
    };
    let made = region.ok(route_table::create, input).transit_gateway_route_table.unwrap();
    let other = made.transit_gateway_route_table_id.unwrap();
    settle(&region);
    let associate = |table: &str| api::AssociateTransitGatewayRouteTableRequest {
        transit_gateway_route_table_id: text(table),
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    let disassociate = |table: &str| api::DisassociateTransitGatewayRouteTableRequest {
        transit_gateway_route_table_id: text(table),
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    let refusal = region.refused(route_table::associate, associate(&other));
    assert!(refusal.starts_with("Resource.AlreadyAssociated: "), "{refusal}");
    let refusal = region.refused(route_table::disassociate, disassociate(&other));
    assert!(refusal.starts_with("InvalidAssociation.NotFound: "), "{refusal}");
    region.ok(route_table::disassociate, disassociate(&default));
    region.ok(route_table::associate, associate(&other));
    let input = api::GetTransitGatewayRouteTableAssociationsRequest {
        transit_gateway_route_table_id: text(&other),
        filters: Some(vec![filter("transit-gateway-attachment-id", &[&attachment])]),
        ..Default::default()
    };
    let found = region.ok(describe::get_associations, input).associations.unwrap();
    assert_eq!(found[0].state.as_deref(), Some("associated"));
    let delete = api::DeleteTransitGatewayRouteTableRequest {
        transit_gateway_route_table_id: text(&other),
        ..Default::default()
    };
    let refusal = region.refused(route_table::delete, delete);
    assert!(refusal.starts_with("IncorrectState: "), "{refusal}");
    let input = api::GetTransitGatewayAttachmentPropagationsRequest {
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    let found = region.ok(describe::get_attachment_propagations, input);
    let found = found.transit_gateway_attachment_propagations.unwrap();
    assert_eq!(found[0].transit_gateway_route_table_id.as_ref(), Some(&default));
}

#[test]
fn a_prefix_list_is_a_route_for_each_of_its_entries() {
    const LIST: &str = "pl-0123456789abcdef0";
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let table = made.options.unwrap().association_default_route_table_id.unwrap();
    let attachment = attach(&region, made.transit_gateway_id.as_deref().unwrap());
    let entry = |cidr: &str| PrefixListEntry { cidr: cidr.parse().unwrap(), description: None };
    let prefix_list = PrefixList {
        v: 1,
        id: LIST.to_owned(),
        name: "offices".to_owned(),
        ipv6: false,
        max_entries: 5,
        state: "create-complete".to_owned(),
        versions: [(1, vec![entry("10.1.0.0/16"), entry("10.2.0.0/16")])].into(),
        tags: Tags::new(),
    };
    region
        .run(|call| {
            call.put(&key::of(call.region, key::PREFIX_LIST, ACCOUNT, LIST), prefix_list);
            Ok(())
        })
        .unwrap();
    let create = || api::CreateTransitGatewayPrefixListReferenceRequest {
        transit_gateway_route_table_id: text(&table),
        prefix_list_id: text(LIST),
        blackhole: Some(true),
        ..Default::default()
    };
    region.ok(route::create_reference, create());
    let refusal = region.refused(route::create_reference, create());
    assert!(refusal.starts_with("RouteAlreadyExists: "), "{refusal}");
    let of_list = || search(&region, &table, vec![filter("prefix-list-id", &[LIST])]);
    assert_eq!(
        of_list(),
        [
            triple("10.1.0.0/16", "static", "blackhole"),
            triple("10.2.0.0/16", "static", "blackhole")
        ]
    );
    let modify = api::ModifyTransitGatewayPrefixListReferenceRequest {
        transit_gateway_route_table_id: text(&table),
        prefix_list_id: text(LIST),
        transit_gateway_attachment_id: text(&attachment),
        ..Default::default()
    };
    region.ok(route::modify_reference, modify);
    assert_eq!(of_list()[0].2, "active");
    let get = |blackhole: &str| {
        let input = api::GetTransitGatewayPrefixListReferencesRequest {
            transit_gateway_route_table_id: text(&table),
            filters: Some(vec![filter("is-blackhole", &[blackhole])]),
            ..Default::default()
        };
        let found = region.ok(route::get_references, input);
        found.transit_gateway_prefix_list_references.unwrap().len()
    };
    assert_eq!((get("true"), get("false")), (0, 1));
    let delete = || api::DeleteTransitGatewayPrefixListReferenceRequest {
        transit_gateway_route_table_id: text(&table),
        prefix_list_id: text(LIST),
        ..Default::default()
    };
    region.ok(route::delete_reference, delete());
    region.refused(route::delete_reference, delete());
    assert_eq!(of_list(), []);
}

#[test]
fn a_peering_is_accepted_at_its_other_end() {
    const OTHER: &str = "eu-west-1";
    let region = Region::new();
    let near = gateway(&region, Default::default()).transit_gateway_id.unwrap();
    let far = region
        .run_as(OTHER, ACCOUNT, |call| create_transit_gateway(call, Default::default()))
        .unwrap();
    let far = far.transit_gateway.unwrap().transit_gateway_id.unwrap();
    settle(&region);
    let create = |peer_region: &str| api::CreateTransitGatewayPeeringAttachmentRequest {
        transit_gateway_id: text(&near),
        peer_transit_gateway_id: text(&far),
        peer_account_id: text(ACCOUNT),
        peer_region: text(peer_region),
        ..Default::default()
    };
    let refusal = region.refused(peering::create, create("us-east-1"));
    assert!(refusal.starts_with("UnsupportedOperation: "), "{refusal}");
    let made = region.ok(peering::create, create(OTHER)).transit_gateway_peering_attachment;
    let made = made.unwrap();
    assert_eq!(made.state.as_deref(), Some("pendingAcceptance"));
    let id = made.transit_gateway_attachment_id.unwrap();
    let accept = || api::AcceptTransitGatewayPeeringAttachmentRequest {
        transit_gateway_attachment_id: text(&id),
        ..Default::default()
    };
    // Not by who asked.
    let refusal = region.refused(peering::accept, accept());
    assert_eq!(refusal, format!("IncorrectState: {id} is in invalid state"));
    settle(&region);
    region.run_as(OTHER, ACCOUNT, |call| peering::accept(call, accept())).unwrap();
    settle(&region);
    let show = |place: &str| {
        let found = region
            .run_as(place, ACCOUNT, |call| {
                describe::describe_peering_attachments(call, Default::default())
            })
            .unwrap();
        found.transit_gateway_peering_attachments.unwrap().remove(0)
    };
    for place in [region.name, OTHER] {
        let shown = show(place);
        assert_eq!(shown.state.as_deref(), Some("available"), "{place}");
        assert_eq!(shown.requester_tgw_info.unwrap().transit_gateway_id.as_ref(), Some(&near));
        assert_eq!(shown.accepter_tgw_info.unwrap().region.as_deref(), Some(OTHER));
    }
    let delete = api::DeleteTransitGatewayPeeringAttachmentRequest {
        transit_gateway_attachment_id: text(&id),
        ..Default::default()
    };
    region.ok(peering::delete, delete);
    settle(&region);
    assert_eq!(show(OTHER).state.as_deref(), Some("deleted"));
    // And a request may be rejected.
    let made = region.ok(peering::create, create(OTHER)).transit_gateway_peering_attachment;
    let id = made.unwrap().transit_gateway_attachment_id.unwrap();
    let reject = api::RejectTransitGatewayPeeringAttachmentRequest {
        transit_gateway_attachment_id: text(&id),
        ..Default::default()
    };
    let rejected =
        region.run_as(OTHER, ACCOUNT, |call| peering::reject(call, reject.clone())).unwrap();
    let rejected = rejected.transit_gateway_peering_attachment.unwrap();
    assert_eq!(rejected.state.as_deref(), Some("rejected"));
    // The records of both ends go one after the other.
    let gone = key::of(OTHER, key::TRANSIT_GATEWAY_ATTACHMENT, ACCOUNT, &id);
    region
        .run(|call| {
            call.delete(&gone);
            Ok(())
        })
        .unwrap();
    let refusal = region.refused(peering::reject, reject);
    assert!(refusal.starts_with("InvalidTransitGatewayAttachmentID.NotFound: "), "{refusal}");
}

#[test]
fn the_last_of_two_vpcs_that_propagate_a_block_has_it() {
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let table = made.options.unwrap().association_default_route_table_id.unwrap();
    let id = attach(&region, made.transit_gateway_id.as_deref().unwrap());
    // As if other VPCs had the same block: more attachments of the one that there is.
    let ids: Vec<String> = (0..16).map(|n| format!("tgw-attach-fffffffffffffff{n:x}")).collect();
    region
        .run(|call| {
            let known = ATTACHMENT.find::<TransitGatewayAttachment>(call, &id)?;
            for id in &ids {
                let twin = TransitGatewayAttachment { id: id.clone(), ..(*known).clone() };
                call.put(&ATTACHMENT.key(call, id), twin);
            }
            Ok(())
        })
        .unwrap();
    let by_last = filter("attachment.transit-gateway-attachment-id", &[&ids[15]]);
    assert_eq!(search(&region, &table, vec![by_last]).len(), 1);
}

#[test]
fn ipv6_passes_an_attachment_that_supports_it() {
    let region = Region::new();
    region.driver.with_network();
    let made = gateway(&region, Default::default());
    let gateway_id = made.transit_gateway_id.unwrap();
    let table = made.options.unwrap().association_default_route_table_id.unwrap();
    let id = attach(&region, &gateway_id);
    let (block, further): (Cidr, Cidr) =
        ("fd00:1::/56".parse().unwrap(), "fd00:2::/56".parse().unwrap());
    let Cidr::V6(own) = block else { unreachable!() };
    region
        .run(|call| {
            let mut vpc = Vpc::clone(&*vpc::default_vpc(call)?);
            vpc.ipv6_cidrs.push(CidrAssociation { id: "vpc-cidr-assoc-6".to_owned(), cidr: own });
            let at = key::of(call.region, key::ROUTE_TABLE, ACCOUNT, &vpc.main_route_table_id);
            let mut main = RouteTable::clone(&*call.get::<RouteTable>(&at)?.unwrap());
            for cidr in [further, "10.9.0.0/16".parse().unwrap()] {
                main.routes.push(Route {
                    destination: Destination::Cidr(cidr),
                    target: gateway_id.clone(),
                    origin: RouteOrigin::CreateRoute,
                });
            }
            call.put(&at, main);
            call.put(&key::of(call.region, key::VPC, ACCOUNT, &vpc.id), vpc);
            // Something in the VPC that is in the plan.
            let interfaces = key::of(call.region, key::INTERFACE, ACCOUNT, "");
            let known = call.scan::<Interface>(&interfaces)?.remove(0);
            let kind = InterfaceKind::VpcEndpoint("vpce-0123456789abcdef0".to_owned());
            call.put(&format!("{interfaces}{}", known.id), Interface { kind, ..(*known).clone() });
            Ok(())
        })
        .unwrap();
    let input = api::CreateTransitGatewayRouteRequest {
        transit_gateway_route_table_id: text(&table),
        destination_cidr_block: text("fd00:2::/56"),
        transit_gateway_attachment_id: text(&id),
        ..Default::default()
    };
    region.ok(route::create, input);
    let propagated = || {
        let found = search(&region, &table, vec![filter("type", &["propagated"])]);
        found.into_iter().map(|(cidr, ..)| cidr).collect::<Vec<_>>()
    };
    // Where the gateway and the VPC lead these blocks.
    let planned = || {
        region.run(|call| (crate::network_plan::RECONCILER.run)(call, "/node-network")).unwrap();
        let plan = region.driver.network().unwrap();
        let of_gateway = &plan.transit_gateways[0].route_tables[0].routes;
        let led =
            |to: Cidr| of_gateway.iter().any(|r| r.destination == to && r.attachment.is_some());
        let of_vpc = plan.vpcs[0].route_tables.iter().flat_map(|table| &table.routes);
        let to_gateway = base::network::Target::TransitGateway(gateway_id.clone());
        let sent = of_vpc.filter(|r| r.target == to_gateway).map(|r| r.destination.to_string());
        (led(block), led(further), sent.collect::<Vec<_>>())
    };
    assert_eq!(propagated(), ["172.31.0.0/16"]);
    assert_eq!(planned(), (false, false, vec!["10.9.0.0/16".to_owned()]));
    let on = api::ModifyTransitGatewayVpcAttachmentRequest {
        transit_gateway_attachment_id: text(&id),
        options: Some(api::ModifyTransitGatewayVpcAttachmentRequestOptions {
            ipv6_support: text("enable"),
            ..Default::default()
        }),
        ..Default::default()
    };
    region.ok(attachment::modify, on);
    assert_eq!(propagated(), ["172.31.0.0/16", "fd00:1::/56"]);
    let (own, other, mut sent) = planned();
    sent.sort();
    assert!(own && other);
    assert_eq!(sent, ["10.9.0.0/16", "fd00:2::/56"]);
}

#[test]
fn a_gateway_has_a_limited_number_of_static_routes() {
    const LIST: &str = "pl-0123456789abcdef0";
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let table = made.options.unwrap().association_default_route_table_id.unwrap();
    let put = |max_entries: u32, routes: u32| {
        let list = PrefixList {
            v: 1,
            id: LIST.to_owned(),
            name: "offices".to_owned(),
            ipv6: false,
            max_entries,
            state: "create-complete".to_owned(),
            versions: [(1, vec![])].into(),
            tags: Tags::new(),
        };
        region
            .run(|call| {
                call.put(&key::of(call.region, key::PREFIX_LIST, ACCOUNT, LIST), list);
                let known = ROUTE_TABLE.find::<TransitGatewayRouteTable>(call, &table)?;
                let mut full = TransitGatewayRouteTable::clone(&known);
                let block = |n: u32| base::Ipv4Cidr::containing((n << 8).into(), 24);
                full.routes = (0..routes).map(|n| (Cidr::V4(block(n)), None)).collect();
                call.put(&ROUTE_TABLE.key(call, &table), full);
                Ok(())
            })
            .unwrap();
    };
    let one_more = || api::CreateTransitGatewayRouteRequest {
        transit_gateway_route_table_id: text(&table),
        destination_cidr_block: text("172.16.0.0/12"),
        blackhole: Some(true),
        ..Default::default()
    };
    let refer = || api::CreateTransitGatewayPrefixListReferenceRequest {
        transit_gateway_route_table_id: text(&table),
        prefix_list_id: text(LIST),
        blackhole: Some(true),
        ..Default::default()
    };
    put(2, 9_999);
    let refusal = region.refused(route::create_reference, refer());
    assert!(refusal.starts_with("RouteLimitExceeded: "), "{refusal}");
    put(1, 9_999);
    region.ok(route::create_reference, refer());
    let refusal = region.refused(route::create, one_more());
    assert!(refusal.starts_with("RouteLimitExceeded: "), "{refusal}");
    put(1, 9_998);
    region.ok(route::create, one_more());
}

#[test]
fn options_change_and_what_is_not_built_is_refused() {
    let region = Region::new();
    let made = gateway(&region, Default::default());
    let id = made.transit_gateway_id.unwrap();
    let table = made.options.unwrap().association_default_route_table_id.unwrap();
    let modify = |options: api::ModifyTransitGatewayOptions| api::ModifyTransitGatewayRequest {
        transit_gateway_id: text(&id),
        description: text("changed"),
        options: Some(options),
        ..Default::default()
    };
    let off = api::ModifyTransitGatewayOptions {
        default_route_table_association: text("disable"),
        add_transit_gateway_cidr_blocks: list(&["10.99.0.0/24"]),
        ..Default::default()
    };
    let changed = region.ok(modify_transit_gateway, modify(off)).transit_gateway.unwrap();
    assert_eq!(changed.description.as_deref(), Some("changed"));
    let options = changed.options.unwrap();
    assert_eq!(options.association_default_route_table_id, None);
    assert_eq!(options.propagation_default_route_table_id.as_ref(), Some(&table));
    assert_eq!(options.transit_gateway_cidr_blocks, list(&["10.99.0.0/24"]));
    let on = |table: Option<&String>| api::ModifyTransitGatewayOptions {
        default_route_table_association: text("enable"),
        association_default_route_table_id: table.cloned(),
        ..Default::default()
    };
    let refusal = region.refused(modify_transit_gateway, modify(on(None)));
    assert!(refusal.starts_with("MissingParameter: "), "{refusal}");
    region.ok(modify_transit_gateway, modify(on(Some(&table))));
    let bad = |options: api::TransitGatewayRequestOptions| {
        let input =
            api::CreateTransitGatewayRequest { options: Some(options), ..Default::default() };
        region.refused(create_transit_gateway, input)
    };
    let refusal =
        bad(api::TransitGatewayRequestOptions { amazon_side_asn: Some(1), ..Default::default() });
    assert!(refusal.starts_with("InvalidParameterValue: "), "{refusal}");
    let refusal = bad(api::TransitGatewayRequestOptions {
        multicast_support: text("enable"),
        ..Default::default()
    });
    assert!(refusal.starts_with("UnsupportedOperation: "), "{refusal}");
    // What every gateway is like may be said, and no more.
    type Options = api::TransitGatewayRequestOptions;
    type Change = api::ModifyTransitGatewayOptions;
    type Set = fn(&mut Options, &mut Change, Option<String>);
    let cases: [(&str, Set); 4] = [
        ("AutoAcceptSharedAttachments=enable", |o, c, v| {
            (o.auto_accept_shared_attachments, c.auto_accept_shared_attachments) = (v.clone(), v);
        }),
        ("DnsSupport=disable", |o, c, v| (o.dns_support, c.dns_support) = (v.clone(), v)),
        ("SecurityGroupReferencingSupport=enable", |o, c, v| {
            o.security_group_referencing_support = v.clone();
            c.security_group_referencing_support = v;
        }),
        ("VpnEcmpSupport=disable", |o, c, v| {
            (o.vpn_ecmp_support, c.vpn_ecmp_support) = (v.clone(), v);
        }),
    ];
    let (mut as_is, mut kept) = (Options::default(), Change::default());
    for (case, put) in cases {
        let value = case.split_once('=').unwrap().1;
        let (mut options, mut change) = (Options::default(), Change::default());
        put(&mut options, &mut change, text(value));
        let expected = format!("UnsupportedOperation: Options.{case} is not built in gureum yet.");
        assert_eq!(bad(options), expected);
        assert_eq!(region.refused(modify_transit_gateway, modify(change)), expected);
        put(&mut as_is, &mut kept, text(if value == "enable" { "disable" } else { "enable" }));
    }
    region.ok(modify_transit_gateway, modify(kept));
    gateway(&region, as_is);
    for _ in 0..3 {
        gateway(&region, Default::default());
    }
    assert!(bad(Default::default()).starts_with("TransitGatewayLimitExceeded: "));
}
