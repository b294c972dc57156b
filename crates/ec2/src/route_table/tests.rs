//! Route tables as their handlers make them.

use super::describe::describe_route_tables;
use super::route::{create_route, delete_route, replace_route};
use super::*;
use crate::internet_gateway;
use crate::record::{EgressOnlyInternetGateway, Interface, NatGateway, PrefixList, Progress, Tags};
use crate::testing::{ACCOUNT, Region, filter, list};
use base::{Ipv4Cidr, Timestamp};
use std::collections::BTreeMap;

const NOBODY: &str = "00000000000000000";

/// A region with a VPC 10.0.0.0/16 that has a subnet 10.0.0.0/24, and with an interface in it.
struct World {
    region: Region,
    vpc: String,
    subnet: String,
    main: String,
}

impl World {
    fn new() -> Self {
        let region = Region::new();
        let (vpc, subnet) = region.run(|call| network(call, "10.0.0.0/16", "10.0.0.0/24")).unwrap();
        World { region, vpc: vpc.id, subnet: subnet.id, main: vpc.main_route_table_id }
    }

    fn put<T: service::call::Record>(&self, kind: &str, id: &str, record: T) {
        self.region
            .run(|call| {
                let at = key::of(call.region, kind, ACCOUNT, id);
                call.put(&at, record);
                Ok(())
            })
            .unwrap();
    }

    fn table(&self) -> String {
        let input =
            api::CreateRouteTableRequest { vpc_id: Some(self.vpc.clone()), ..Default::default() };
        let made = self.region.ok(create_route_table, input).route_table.unwrap();
        made.route_table_id.unwrap()
    }

    fn describe(&self, id: &str) -> api::RouteTable {
        let input =
            api::DescribeRouteTablesRequest { route_table_ids: list(&[id]), ..Default::default() };
        self.region.ok(describe_route_tables, input).route_tables.unwrap().remove(0)
    }

    /// `destination target origin state` of each route.
    fn routes(&self, id: &str) -> Vec<String> {
        let text = |member: &Option<String>| member.clone().unwrap_or_default();
        let routes = self.describe(id).routes.unwrap();
        routes
            .iter()
            .map(|route| {
                let to = text(&route.destination_cidr_block)
                    + &text(&route.destination_ipv6_cidr_block)
                    + &text(&route.destination_prefix_list_id);
                let target = text(&route.gateway_id)
                    + &text(&route.nat_gateway_id)
                    + &text(&route.network_interface_id)
                    + &text(&route.egress_only_internet_gateway_id);
                format!("{to} {target} {} {}", text(&route.origin), text(&route.state))
            })
            .collect()
    }

    fn gateway(&self, attach: bool) -> String {
        self.region
            .run(|call| {
                let id = call.new_id("igw");
                let vpc_id = attach.then(|| self.vpc.clone());
                let record = crate::record::InternetGateway {
                    v: 1,
                    id: id.clone(),
                    vpc_id,
                    tags: Tags::new(),
                };
                let at = internet_gateway::ID.key(call, &id);
                call.put(&at, record);
                if attach {
                    let mut vpc = Vpc::clone(&*vpc::find_vpc(call, &self.vpc)?);
                    vpc.internet_gateway_id = Some(id.clone());
                    let at = key::of(call.region, key::VPC, ACCOUNT, &vpc.id);
                    call.put(&at, vpc);
                }
                Ok(id)
            })
            .unwrap()
    }

    fn interface(&self, id: &str, vpc_id: &str) {
        let record: Interface = serde_json::from_value(serde_json::json!({
            "v": 1, "id": id, "subnet_id": self.subnet, "vpc_id": vpc_id,
            "availability_zone": "us-east-1a", "description": "", "mac": "0a:00:00:00:00:01",
            "private_ip": "10.0.0.9", "public_ip": null, "groups": [], "source_dest_check": false,
            "attachment": null, "tags": {}
        }))
        .unwrap();
        self.put(key::INTERFACE, id, record);
    }
}

/// A VPC with one subnet.
fn network(call: &mut Call<'_>, block: &str, inside: &str) -> Result<(Vpc, Subnet), Error> {
    let vpc = vpc::stage(call, block.parse().unwrap(), "default", Tags::new());
    let inside: Ipv4Cidr = inside.parse().unwrap();
    let made = subnet::new(call, &vpc, inside, "us-east-1a", Tags::new());
    subnet::stage(call, made.clone())?;
    Ok((vpc, made))
}

fn route(table: &str, to: &str) -> api::CreateRouteRequest {
    let is_ipv6 = to.contains(':');
    let to = Some(to.to_owned());
    api::CreateRouteRequest {
        route_table_id: Some(table.to_owned()),
        destination_cidr_block: to.clone().filter(|_| !is_ipv6),
        destination_ipv6_cidr_block: to.filter(|_| is_ipv6),
        ..Default::default()
    }
}

fn to_gateway(table: &str, to: &str, gateway: &str) -> api::CreateRouteRequest {
    api::CreateRouteRequest { gateway_id: Some(gateway.to_owned()), ..route(table, to) }
}

fn replacement(input: api::CreateRouteRequest) -> api::ReplaceRouteRequest {
    api::ReplaceRouteRequest {
        route_table_id: input.route_table_id,
        destination_cidr_block: input.destination_cidr_block,
        destination_ipv6_cidr_block: input.destination_ipv6_cidr_block,
        gateway_id: input.gateway_id,
        nat_gateway_id: input.nat_gateway_id,
        network_interface_id: input.network_interface_id,
        ..Default::default()
    }
}

fn deletion(table: &str, to: &str) -> api::DeleteRouteRequest {
    let route = route(table, to);
    api::DeleteRouteRequest {
        route_table_id: route.route_table_id,
        destination_cidr_block: route.destination_cidr_block,
        destination_ipv6_cidr_block: route.destination_ipv6_cidr_block,
        ..Default::default()
    }
}

#[test]
fn a_route_is_active_as_long_as_its_target_is_there() {
    let world = World::new();
    let table = world.table();
    let gateway = world.gateway(true);
    world.region.ok(create_route, to_gateway(&table, "0.0.0.0/0", &gateway));
    assert_eq!(
        world.routes(&table),
        [
            "10.0.0.0/16 local CreateRouteTable active".to_owned(),
            format!("0.0.0.0/0 {gateway} CreateRoute active")
        ]
    );
    let detach = api::DetachInternetGatewayRequest {
        internet_gateway_id: Some(gateway.clone()),
        vpc_id: Some(world.vpc.clone()),
        ..Default::default()
    };
    world.region.ok(internet_gateway::detach_internet_gateway, detach);
    assert_eq!(world.routes(&table)[1], format!("0.0.0.0/0 {gateway} CreateRoute blackhole"));
    world.region.ok(delete_route, deletion(&table, "0.0.0.0/0"));
    assert_eq!(world.routes(&table).len(), 1);
}

#[test]
fn targets_are_checked() {
    let world = World::new();
    let table = world.table();
    let loose = world.gateway(false);
    let gateway = world.gateway(true);
    world.interface("eni-00000000000000001", "vpc-other");
    let eigw = EgressOnlyInternetGateway {
        v: 1,
        id: "eigw-00000000000000001".to_owned(),
        vpc_id: world.vpc.clone(),
        tags: Tags::new(),
    };
    world.put(key::EGRESS_ONLY_INTERNET_GATEWAY, &eigw.id.clone(), eigw.clone());
    let nat = NatGateway {
        v: 1,
        id: "nat-00000000000000001".to_owned(),
        vpc_id: world.vpc.clone(),
        subnet_id: world.subnet.clone(),
        public: true,
        state: Progress::Deleted,
        interface_id: String::new(),
        addresses: Vec::new(),
        created: Timestamp(0),
        deleted: Some(Timestamp(0)),
        failure: None,
        tags: Tags::new(),
    };
    world.put(key::NAT_GATEWAY, &nat.id.clone(), nat.clone());
    let to = "0.0.0.0/0";
    let list_id = crate::prefix_list::id_of_service("com.amazonaws.us-east-1.s3");
    let base = || route(&table, to);
    let some = |text: &str| Some(text.to_owned());
    let exactly = "The request must contain exactly one of gatewayId, natGatewayId, \
                   networkInterfaceId, vpcPeeringConnectionId, instanceId, \
                   egressOnlyInternetGatewayId, transitGatewayId, vpcEndpointId";
    let cases = [
        (base(), format!("MissingParameter: {exactly}")),
        (
            api::CreateRouteRequest {
                nat_gateway_id: some(&nat.id),
                ..to_gateway(&table, to, &gateway)
            },
            format!("InvalidParameterCombination: {exactly}"),
        ),
        (
            to_gateway(&table, to, &loose),
            format!(
                "InvalidParameterValue: route table {table} and network gateway {loose} belong to \
                 different networks"
            ),
        ),
        (
            to_gateway(&table, to, &format!("igw-{NOBODY}")),
            format!(
                "InvalidInternetGatewayID.NotFound: The internetGateway ID 'igw-{NOBODY}' does not \
                 exist"
            ),
        ),
        (
            to_gateway(&table, to, "eni-00000000000000001"),
            "InvalidGatewayID.NotFound: The gateway ID 'eni-00000000000000001' does not exist"
                .to_owned(),
        ),
        (
            to_gateway(&table, to, "vgw-00000000000000001"),
            "InvalidVpnGatewayID.NotFound: The vpnGateway ID 'vgw-00000000000000001' does not exist"
                .to_owned(),
        ),
        (
            api::CreateRouteRequest { nat_gateway_id: some(&nat.id), ..base() },
            format!(
                "InvalidNatGatewayID.NotFound: The natGateway ID '{}' does not exist",
                nat.id
            ),
        ),
        (
            api::CreateRouteRequest {
                network_interface_id: some("eni-00000000000000001"),
                ..base()
            },
            format!(
                "InvalidParameterValue: route table {table} and interface eni-00000000000000001 \
                 belong to different networks"
            ),
        ),
        (
            api::CreateRouteRequest { instance_id: some(&format!("i-{NOBODY}")), ..base() },
            format!("InvalidInstanceID.NotFound: The instance ID 'i-{NOBODY}' does not exist"),
        ),
        (
            api::CreateRouteRequest {
                egress_only_internet_gateway_id: some(&eigw.id),
                ..base()
            },
            "InvalidParameterValue: The destination 0.0.0.0/0 cannot be routed to an egress-only \
             internet gateway: it carries IPv6 only."
                .to_owned(),
        ),
        (
            api::CreateRouteRequest {
                transit_gateway_id: some(&format!("tgw-{NOBODY}")),
                ..base()
            },
            format!(
                "InvalidTransitGatewayID.NotFound: The transitGateway ID 'tgw-{NOBODY}' does not \
                 exist."
            ),
        ),
        (
            api::CreateRouteRequest { vpc_endpoint_id: some(&format!("vpce-{NOBODY}")), ..base() },
            format!(
                "InvalidVpcEndpointId.NotFound: The Vpc Endpoint Id 'vpce-{NOBODY}' does not exist"
            ),
        ),
        (
            api::CreateRouteRequest {
                vpc_peering_connection_id: some(&format!("pcx-{NOBODY}")),
                ..base()
            },
            format!(
                "InvalidVpcPeeringConnectionID.NotFound: The vpcPeeringConnection ID \
                 'pcx-{NOBODY}' does not exist"
            ),
        ),
        (
            to_gateway(&table, "10.0.0.0/16", &gateway),
            "RouteAlreadyExists: The route identified by 10.0.0.0/16 already exists.".to_owned(),
        ),
        (
            to_gateway(&table, "10.0.0.0/24", &gateway),
            "InvalidParameterValue: The destination CIDR block 10.0.0.0/24 is equal to or more \
             specific than one of this VPC's CIDR blocks. This route can target only an interface \
             or an instance."
                .to_owned(),
        ),
        (
            to_gateway(&table, "10.0.7.0/24", "local"),
            "InvalidParameterValue: Route destination doesn't match any subnet CIDR blocks: \
             10.0.7.0/24"
                .to_owned(),
        ),
        (
            to_gateway(&table, "x/0", &gateway),
            "InvalidParameterValue: Value (x/0) for parameter destinationCidrBlock is invalid. \
             This is not a valid CIDR block."
                .to_owned(),
        ),
        (
            to_gateway(&format!("rtb-{NOBODY}"), to, &gateway),
            format!(
                "InvalidRouteTableID.NotFound: The routeTable ID 'rtb-{NOBODY}' does not exist"
            ),
        ),
        (
            to_gateway(&table, "169.254.169.254/32", &gateway),
            "InvalidParameterValue: The destination CIDR block 169.254.169.254/32 is reserved for \
             AWS services and cannot be routed."
                .to_owned(),
        ),
        (
            api::CreateRouteRequest {
                egress_only_internet_gateway_id: some(&eigw.id),
                ..route(&table, "fd00:ec2::254/128")
            },
            "InvalidParameterValue: The destination CIDR block fd00:ec2::254/128 is reserved for \
             AWS services and cannot be routed."
                .to_owned(),
        ),
        (
            api::CreateRouteRequest {
                destination_cidr_block: None,
                destination_prefix_list_id: some(&list_id),
                ..to_gateway(&table, to, "local")
            },
            format!(
                "InvalidParameterValue: The destination {list_id} is a prefix list, so it cannot \
                 have the target local."
            ),
        ),
        (
            to_gateway("x", to, &gateway),
            "InvalidRouteTableId.Malformed: Invalid id: \"x\" (expecting \"rtb-...\")".to_owned(),
        ),
    ];
    for (input, error) in cases {
        assert_eq!(world.region.refused(create_route, input), error);
    }
    let input = api::CreateRouteRequest {
        egress_only_internet_gateway_id: some(&eigw.id),
        ..route(&table, "::/0")
    };
    world.region.ok(create_route, input);
    assert_eq!(world.routes(&table)[1], format!("::/0 {} CreateRoute active", eigw.id));
}

#[test]
fn a_route_is_made_once_and_replaced() {
    let world = World::new();
    let table = world.table();
    let gateway = world.gateway(true);
    world.interface("eni-00000000000000002", &world.vpc);
    let to_interface = |to: &str| api::CreateRouteRequest {
        network_interface_id: Some("eni-00000000000000002".to_owned()),
        ..route(&table, to)
    };
    assert_eq!(
        world.region.refused(replace_route, replacement(to_interface("0.0.0.0/0"))),
        "InvalidParameterValue: There is no route defined for '0.0.0.0/0' in the route table. Use \
         CreateRoute instead."
    );
    // Host bits are cleared.
    world.region.ok(create_route, to_gateway(&table, "192.0.2.77/24", &gateway));
    assert_eq!(
        world.region.refused(create_route, to_interface("192.0.2.0/24")),
        "RouteAlreadyExists: The route identified by 192.0.2.0/24 already exists."
    );
    world.region.ok(replace_route, replacement(to_interface("192.0.2.0/24")));
    // It is attached to nothing.
    assert_eq!(world.routes(&table)[1], "192.0.2.0/24 eni-00000000000000002 CreateRoute blackhole");
    assert_eq!(
        world.region.refused(delete_route, deletion(&table, "0.0.0.0/0")),
        format!(
            "InvalidRoute.NotFound: no route with destination-cidr-block 0.0.0.0/0 in route table \
             {table}"
        )
    );
    // The local route leads elsewhere and back, and cannot be deleted.
    world.region.ok(replace_route, replacement(to_interface("10.0.0.0/16")));
    assert!(
        world
            .routes(&table)
            .contains(&"10.0.0.0/16 eni-00000000000000002 CreateRouteTable blackhole".to_owned())
    );
    let back = api::ReplaceRouteRequest {
        local_target: Some(true),
        ..replacement(route(&table, "10.0.0.0/16"))
    };
    world.region.ok(replace_route, back);
    assert_eq!(world.routes(&table)[0], "10.0.0.0/16 local CreateRouteTable active");
    assert_eq!(
        world.region.refused(delete_route, deletion(&table, "10.0.0.0/16")),
        format!(
            "InvalidParameterValue: cannot remove local route 10.0.0.0/16 in route table {table}"
        )
    );
    // Inside the VPC a route is to a whole subnet.
    world.region.ok(create_route, to_interface("10.0.0.0/24"));
    assert_eq!(world.routes(&table).len(), 3);
}

#[test]
fn a_table_has_so_many_routes() {
    let world = World::new();
    let table = world.table();
    let gateway = world.gateway(true);
    for third in 0..49 {
        let to = format!("192.168.{third}.0/24");
        world.region.ok(create_route, to_gateway(&table, &to, &gateway));
    }
    let list = |max_entries| PrefixList {
        v: 1,
        id: "pl-00000000000000001".to_owned(),
        name: "two".to_owned(),
        ipv6: false,
        max_entries,
        state: "create-complete".to_owned(),
        versions: BTreeMap::from([(1, Vec::new())]),
        tags: Tags::new(),
    };
    let to_list = || api::CreateRouteRequest {
        destination_cidr_block: None,
        destination_prefix_list_id: Some("pl-00000000000000001".to_owned()),
        ..to_gateway(&table, "", &gateway)
    };
    assert_eq!(
        world.region.refused(create_route, to_list()),
        "InvalidPrefixListID.NotFound: The prefix list ID 'pl-00000000000000001' does not exist"
    );
    let full = "RouteLimitExceeded: The maximum number of routes has been reached.";
    world.put(key::PREFIX_LIST, "pl-00000000000000001", list(2));
    assert_eq!(world.region.refused(create_route, to_list()), full);
    world.put(key::PREFIX_LIST, "pl-00000000000000001", list(1));
    world.region.ok(create_route, to_list());
    let more = to_gateway(&table, "0.0.0.0/0", &gateway);
    assert_eq!(world.region.refused(create_route, more), full);
    // IPv6 counts by itself.
    world.region.ok(create_route, to_gateway(&table, "::/0", &gateway));
}

fn association(table: &str, subnet: &str) -> api::AssociateRouteTableRequest {
    api::AssociateRouteTableRequest {
        route_table_id: Some(table.to_owned()),
        subnet_id: Some(subnet.to_owned()),
        ..Default::default()
    }
}

fn table_of(world: &World) -> Option<String> {
    let found = world.region.run(|call| subnet::find_subnet(call, &world.subnet)).unwrap();
    found.route_table_id.clone()
}

#[test]
fn a_subnet_uses_one_table() {
    let world = World::new();
    let (one, two) = (world.table(), world.table());
    let made = world.region.ok(associate_route_table, association(&one, &world.subnet));
    let id = made.association_id.unwrap();
    let again = world.region.ok(associate_route_table, association(&one, &world.subnet));
    assert_eq!(again.association_id.as_ref(), Some(&id));
    assert_eq!(table_of(&world).as_ref(), Some(&one));
    let refusal = world.region.refused(associate_route_table, association(&two, &world.subnet));
    assert!(refusal.starts_with("Resource.AlreadyAssociated: "), "{refusal}");
    let other = world.region.run(|call| network(call, "10.9.0.0/16", "10.9.0.0/24")).unwrap().1;
    assert_eq!(
        world.region.refused(associate_route_table, association(&one, &other.id)),
        format!(
            "InvalidParameterValue: route table {one} and subnet {} belong to different networks",
            other.id
        )
    );
    let delete = |id: &str| api::DeleteRouteTableRequest {
        route_table_id: Some(id.to_owned()),
        ..Default::default()
    };
    let has = |id: &str| {
        format!(
            "DependencyViolation: The routeTable '{id}' has dependencies and cannot be deleted."
        )
    };
    assert_eq!(world.region.refused(delete_route_table, delete(&one)), has(&one));
    assert_eq!(world.region.refused(delete_route_table, delete(&world.main)), has(&world.main));
    let replace = |association: &str, table: &str| api::ReplaceRouteTableAssociationRequest {
        association_id: Some(association.to_owned()),
        route_table_id: Some(table.to_owned()),
        ..Default::default()
    };
    let new = world.region.ok(replace_route_table_association, replace(&id, &two));
    let new = new.new_association_id.unwrap();
    assert_eq!(table_of(&world).as_ref(), Some(&two));
    world.region.ok(delete_route_table, delete(&one));
    let missing =
        format!("InvalidAssociationID.NotFound: The association ID '{id}' does not exist");
    let disassociate = |id: &str| api::DisassociateRouteTableRequest {
        association_id: Some(id.to_owned()),
        ..Default::default()
    };
    assert_eq!(world.region.refused(disassociate_route_table, disassociate(&id)), missing);
    world.region.ok(disassociate_route_table, disassociate(&new));
    assert_eq!(table_of(&world), None);

    // The main table is replaced, never taken away.
    let main = world.describe(&world.main).associations.unwrap().remove(0);
    assert_eq!((main.main, main.subnet_id), (Some(true), None));
    let main = main.route_table_association_id.unwrap();
    assert_eq!(
        world.region.refused(disassociate_route_table, disassociate(&main)),
        format!(
            "InvalidParameterValue: cannot disassociate the main route table association {main}"
        )
    );
    world.region.ok(replace_route_table_association, replace(&main, &two));
    let vpc = world.region.run(|call| vpc::find_vpc(call, &world.vpc)).unwrap();
    assert_eq!(vpc.main_route_table_id, two);
    world.region.ok(delete_route_table, delete(&world.main));
}

#[test]
fn tables_are_found_by_what_they_have() {
    let world = World::new();
    let table = world.table();
    world.region.ok(associate_route_table, association(&table, &world.subnet));
    let ask = |name: &str, value: &str| {
        let input = api::DescribeRouteTablesRequest {
            filters: Some(vec![filter(name, &[value]), filter("vpc-id", &[&world.vpc])]),
            ..Default::default()
        };
        let found = world.region.ok(describe_route_tables, input).route_tables.unwrap();
        found.into_iter().map(|table| table.route_table_id.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ask("association.main", "true"), [world.main.as_str()]);
    assert_eq!(ask("association.subnet-id", &world.subnet), [table.as_str()]);
    assert_eq!(ask("association.route-table-id", &table), [table.as_str()]);
    assert_eq!(ask("route.gateway-id", "local").len(), 2);
    assert_eq!(ask("route.state", "blackhole").len(), 0);
    assert_eq!(ask("route.origin", "CreateRouteTable").len(), 2);
    assert_eq!(ask("owner-id", ACCOUNT).len(), 2);
    let input = api::EnableVgwRoutePropagationRequest {
        route_table_id: Some(table),
        gateway_id: Some(format!("vgw-{NOBODY}")),
        ..Default::default()
    };
    assert_eq!(
        world.region.refused(enable_propagation, input),
        format!("InvalidVpnGatewayID.NotFound: The vpnGateway ID 'vgw-{NOBODY}' does not exist")
    );
}

#[test]
fn an_endpoint_forgets_a_deleted_table() {
    let world = World::new();
    let table = world.table();
    let endpoint: VpcEndpoint = serde_json::from_value(serde_json::json!({
        "v": 1, "id": "vpce-00000000000000001", "vpc_id": world.vpc,
        "service_name": "com.amazonaws.us-east-1.s3", "gateway": true, "state": "available",
        "policy": "", "route_table_ids": [table, world.main], "subnet_ids": [], "group_ids": [],
        "interface_ids": [], "private_dns": false, "created": 0, "deleted": null, "tags": {}
    }))
    .unwrap();
    world.put(key::VPC_ENDPOINT, "vpce-00000000000000001", endpoint);
    let delete =
        api::DeleteRouteTableRequest { route_table_id: Some(table.clone()), ..Default::default() };
    world.region.ok(delete_route_table, delete);
    let at = key::of(world.region.name, key::VPC_ENDPOINT, ACCOUNT, "vpce-00000000000000001");
    let left = world.region.run(|call| call.peek::<VpcEndpoint>(&at)).unwrap().unwrap();
    assert_eq!(left.route_table_ids, [world.main.as_str()]);
    // A route to it is its own: nobody else makes or removes it.
    let input = api::CreateRouteRequest {
        vpc_endpoint_id: Some("vpce-00000000000000001".to_owned()),
        ..route(&world.main, "192.0.2.0/24")
    };
    assert_eq!(
        world.region.refused(create_route, input),
        "RouteNotSupported: Route table contains unsupported route target: \
         vpce-00000000000000001. VPC Endpoints of this type cannot be used as route targets."
    );
}

#[test]
fn a_vpc_has_so_many_tables() {
    let world = World::new();
    for _ in 1..MAX_TABLES {
        world.table();
    }
    let more =
        || api::CreateRouteTableRequest { vpc_id: Some(world.vpc.clone()), ..Default::default() };
    assert_eq!(
        world.region.refused(create_route_table, more()),
        "RouteTableLimitExceeded: The maximum number of route tables has been reached."
    );
    // Pages have a hundred at most.
    let page = |token| api::DescribeRouteTablesRequest {
        max_results: Some(100),
        next_token: token,
        ..Default::default()
    };
    let first = world.region.ok(describe_route_tables, page(None));
    assert_eq!(first.route_tables.unwrap().len(), 100);
    let second = world.region.ok(describe_route_tables, page(first.next_token));
    assert_eq!(second.route_tables.unwrap().len(), 100);
    let third = world.region.ok(describe_route_tables, page(second.next_token));
    // With the main table of the default VPC.
    assert_eq!((third.route_tables.unwrap().len(), third.next_token), (1, None));
}

#[test]
fn a_route_to_an_instance_needs_its_only_interface() {
    let region = Region::new();
    let request = crate::instance::tests::request(&region);
    let launched = region.ok(crate::launch::run_instances, request).instances.unwrap().remove(0);
    let id = launched.instance_id.unwrap();
    let interface = launched.network_interfaces.unwrap()[0].network_interface_id.clone().unwrap();
    let vpc = region.run(|call| vpc::default_vpc(call)).unwrap();
    let input = || api::CreateRouteRequest {
        instance_id: Some(id.clone()),
        ..route(&vpc.main_route_table_id, "192.0.2.0/24")
    };
    region.ok(create_route, input());
    let ask = api::DescribeRouteTablesRequest {
        filters: Some(vec![filter("route.instance-id", &[&id])]),
        ..Default::default()
    };
    let found = region.ok(describe_route_tables, ask).route_tables.unwrap().remove(0);
    let made = found.routes.unwrap().pop().unwrap();
    assert_eq!(made.network_interface_id, Some(interface));
    assert_eq!(made.instance_owner_id.as_deref(), Some(ACCOUNT));
    assert_eq!(made.state.as_deref(), Some("active"));
    region.ok(delete_route, deletion(&vpc.main_route_table_id, "192.0.2.0/24"));
    region
        .run(|call| {
            let at = key::of(call.region, key::INSTANCE, ACCOUNT, &id);
            let found = call.get::<crate::record::Instance>(&at)?.unwrap();
            let mut instance = crate::record::Instance::clone(&found);
            instance.more_interfaces.push(crate::record::AttachedInterface {
                interface_id: "eni-00000000000000009".to_owned(),
                device_index: 1,
            });
            call.put(&at, instance);
            Ok(())
        })
        .unwrap();
    assert_eq!(
        region.refused(create_route, input()),
        format!(
            "InvalidInstanceID: There are multiple interfaces attached to instance '{id}'. Please \
             specify an interface ID for the operation instead."
        )
    );
    region
        .run(|call| {
            let at = key::of(call.region, key::INSTANCE, ACCOUNT, &id);
            let found = call.get::<crate::record::Instance>(&at)?.unwrap();
            let mut instance = crate::record::Instance::clone(&found);
            instance.more_interfaces.clear();
            instance.state = crate::record::InstanceState::Terminated;
            call.put(&at, instance);
            Ok(())
        })
        .unwrap();
    assert_eq!(
        region.refused(create_route, input()),
        format!("InvalidInstanceID: There are no interfaces attached to instance '{id}'.")
    );
}
