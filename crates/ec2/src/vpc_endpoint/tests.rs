use super::create::create_vpc_endpoint;
use super::describe::describe_vpc_endpoints;
use super::modify::modify_vpc_endpoint;
use super::service::describe_vpc_endpoint_services;
use super::*;
use crate::record::{Interface, Subnet, Vpc};
use crate::testing::{ACCOUNT, Region, filter, list};
use crate::vpc;

const S3: &str = "com.amazonaws.us-east-1.s3";
const EC2: &str = "com.amazonaws.us-east-1.ec2";

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn settle(region: &Region) {
    loop {
        let snapshot = region.store.snapshot();
        let before = snapshot.revision();
        let keys: Vec<String> =
            snapshot.scan("/").filter_map(|kv| (RECONCILER.work_key)(kv.key())).collect();
        for key in keys {
            region.run(|call| (RECONCILER.run)(call, &key)).unwrap();
        }
        if region.store.snapshot().revision() == before {
            return;
        }
    }
}

fn the_vpc(region: &Region) -> Vpc {
    region.run(|call| Ok(Vpc::clone(&*vpc::default_vpc(call)?))).unwrap()
}

fn subnets(region: &Region) -> Vec<String> {
    region
        .run(|call| {
            let prefix = key::of(call.region, key::SUBNET, call.account(), "");
            Ok(call.scan::<Subnet>(&prefix)?.iter().map(|subnet| subnet.id.clone()).collect())
        })
        .unwrap()
}

fn table(region: &Region) -> RouteTable {
    let at = key::of(region.name, key::ROUTE_TABLE, ACCOUNT, &the_vpc(region).main_route_table_id);
    region.run(|call| Ok(RouteTable::clone(&*call.peek(&at)?.unwrap()))).unwrap()
}

fn interface(region: &Region, id: &str) -> Option<Arc<Interface>> {
    let at = key::of(region.name, key::INTERFACE, ACCOUNT, id);
    region.run(|call| call.peek::<Interface>(&at)).unwrap()
}

fn gateway(region: &Region) -> api::CreateVpcEndpointRequest {
    let vpc = the_vpc(region);
    api::CreateVpcEndpointRequest {
        vpc_id: Some(vpc.id),
        service_name: text(S3),
        route_table_ids: Some(vec![vpc.main_route_table_id]),
        ..Default::default()
    }
}

fn by_interface(region: &Region) -> api::CreateVpcEndpointRequest {
    api::CreateVpcEndpointRequest {
        vpc_id: Some(the_vpc(region).id),
        service_name: text(EC2),
        vpc_endpoint_type: text("Interface"),
        subnet_ids: Some(subnets(region)[..2].to_vec()),
        ..Default::default()
    }
}

fn make(region: &Region, input: api::CreateVpcEndpointRequest) -> api::VpcEndpoint {
    region.ok(create_vpc_endpoint, input).vpc_endpoint.unwrap()
}

fn show(region: &Region, filters: Vec<api::Filter>) -> Vec<api::VpcEndpoint> {
    let input = api::DescribeVpcEndpointsRequest { filters: Some(filters), ..Default::default() };
    region.ok(describe_vpc_endpoints, input).vpc_endpoints.unwrap()
}

fn delete(region: &Region, id: &str) -> Vec<api::UnsuccessfulItem> {
    let input =
        api::DeleteVpcEndpointsRequest { vpc_endpoint_ids: list(&[id]), ..Default::default() };
    region.ok(delete_vpc_endpoints, input).unsuccessful.unwrap()
}

#[test]
fn a_gateway_endpoint_is_a_route_in_each_of_its_tables() {
    let region = Region::new();
    let made = make(&region, gateway(&region));
    let id = made.vpc_endpoint_id.unwrap();
    assert_eq!(made.state.as_deref(), Some("available"));
    assert!(made.policy_document.unwrap().contains("\"Effect\":\"Allow\""));
    let routes = |region: &Region| table(region).routes.iter().filter(|r| r.target == id).count();
    assert_eq!(routes(&region), 1);
    let list_id = prefix_list::id_of_service(S3);
    let table_id = the_vpc(&region).main_route_table_id;
    assert_eq!(
        region.refused(create_vpc_endpoint, gateway(&region)),
        format!(
            "RouteAlreadyExists: route table {table_id} already has a route with \
             destination-prefix-list-id {list_id}"
        )
    );
    let modify =
        |add: Option<Vec<String>>, remove: Option<Vec<String>>| api::ModifyVpcEndpointRequest {
            vpc_endpoint_id: text(&id),
            add_route_table_ids: add,
            remove_route_table_ids: remove,
            ..Default::default()
        };
    region.ok(modify_vpc_endpoint, modify(None, list(&[&table_id])));
    assert_eq!(routes(&region), 0);
    let refusal = region.refused(modify_vpc_endpoint, modify(None, list(&[&table_id])));
    assert!(refusal.starts_with("InvalidParameter: "), "{refusal}");
    region.ok(modify_vpc_endpoint, modify(list(&[&table_id]), None));
    let nowhere = modify(list(&["rtb-0123456789abcdef0"]), None);
    assert_eq!(
        region.refused(modify_vpc_endpoint, nowhere),
        "InvalidRouteTableId.NotFound: The routeTable ID 'rtb-0123456789abcdef0' does not exist"
    );
    settle(&region);
    assert_eq!(delete(&region, &id), []);
    assert_eq!(routes(&region), 0);
    settle(&region);
    assert_eq!(show(&region, vec![]), []);
    let failed = delete(&region, &id).remove(0);
    assert_eq!(
        failed.error.unwrap().message,
        Some(format!("The Vpc Endpoint Id '{id}' does not exist"))
    );
}

#[test]
fn an_interface_endpoint_is_an_interface_in_each_of_its_subnets() {
    let region = Region::new();
    let made = make(&region, by_interface(&region));
    let id = made.vpc_endpoint_id.unwrap();
    assert_eq!(made.state.as_deref(), Some("pending"));
    settle(&region);
    let shown = show(&region, vec![filter("vpc-endpoint-type", &["Interface"])]).remove(0);
    assert_eq!(shown.state.as_deref(), Some("available"));
    let ids = shown.network_interface_ids.unwrap();
    assert_eq!(ids.len(), 2);
    let default_group = the_vpc(&region).default_group_id;
    assert_eq!(interface(&region, &ids[0]).unwrap().groups, std::slice::from_ref(&default_group));
    let names: Vec<String> =
        shown.dns_entries.unwrap().into_iter().map(|entry| entry.dns_name.unwrap()).collect();
    assert_eq!(names.len(), 4, "one for all, one a zone, and the service's own: {names:?}");
    assert!(names[0].starts_with(&id) && names[0].ends_with(".ec2.us-east-1.vpce.amazonaws.com"));
    assert_eq!(names[3], "ec2.us-east-1.amazonaws.com");
    assert_eq!(
        region.refused(create_vpc_endpoint, by_interface(&region)),
        format!(
            "InvalidParameter: private-dns-enabled cannot be set because there is already a \
             conflicting DNS domain for ec2.us-east-1.amazonaws.com in the VPC {}",
            the_vpc(&region).id
        )
    );
    let all = subnets(&region);
    let change = api::ModifyVpcEndpointRequest {
        vpc_endpoint_id: text(&id),
        add_subnet_ids: list(&[&all[2]]),
        remove_subnet_ids: list(&[&all[0]]),
        private_dns_enabled: Some(false),
        policy_document: text(FULL),
        ..Default::default()
    };
    let narrow = api::ModifyVpcEndpointRequest {
        policy_document: text(r#"{"Statement":[]}"#),
        ..change.clone()
    };
    let refusal = region.refused(modify_vpc_endpoint, narrow);
    assert!(refusal.starts_with("UnsupportedOperation: A PolicyDocument "), "{refusal}");
    region.ok(modify_vpc_endpoint, change);
    assert!(interface(&region, &ids[0]).is_none());
    let shown = show(&region, vec![]).remove(0);
    assert_eq!(shown.subnet_ids, list(&[&all[1], &all[2]]));
    assert_eq!(shown.private_dns_enabled, Some(false));
    assert_eq!(shown.policy_document.as_deref(), Some(FULL));
    let groups = api::ModifyVpcEndpointRequest {
        vpc_endpoint_id: text(&id),
        remove_security_group_ids: list(&[&default_group]),
        ..Default::default()
    };
    let refusal = region.refused(modify_vpc_endpoint, groups);
    assert!(refusal.starts_with("InvalidParameter: "), "{refusal}");
    let left = shown.network_interface_ids.unwrap();
    assert_eq!(delete(&region, &id), []);
    settle(&region);
    assert!(left.iter().all(|id| interface(&region, id).is_none()));
    assert_eq!(show(&region, vec![]).remove(0).state.as_deref(), Some("deleted"));
    region.pass(crate::transit_gateway::reconciler::SHOWN_MILLIS);
    settle(&region);
    assert_eq!(show(&region, vec![]), []);
}

/// Full access in other words than the default policy's.
const FULL: &str = r#"{"Statement":{"Sid":"all","Effect":"Allow","Principal":{"AWS":"*"},"Action":["*"],"Resource":"*"}}"#;

#[test]
fn a_policy_that_takes_something_away_is_refused() {
    let full = r#"{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}"#;
    let of = |statement: &str| check_policy(&format!("{{\"Statement\":[{statement}]}}"));
    check_policy(FULL).unwrap();
    check_policy(create::FULL_ACCESS).unwrap();
    of(full).unwrap();
    for narrow in [
        full.replace("Allow", "Deny"),
        full.replace(r#""Principal":"*""#, r#""Principal":{"AWS":"210987654321"}"#),
        full.replace(r#""Action":"*""#, r#""Action":"s3:*""#),
        full.replace("Action", "NotAction"),
        full.replace(r#""Resource":"*""#, r#""Resource":"arn:aws:s3:::x""#),
        full.replace('}', r#","Condition":{"StringEquals":{"aws:a":"b"}}}"#),
        format!("{full},{full}"),
        String::new(),
        "1".to_owned(),
    ] {
        let refusal = of(&narrow).unwrap_err();
        assert!(refusal.to_string().contains("PolicyDocument"), "{narrow}: {refusal}");
    }
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let region = Region::new();
    let all = subnets(&region);
    type Change = fn(&mut api::CreateVpcEndpointRequest, &[String]);
    let cases: [(bool, Change, &str); 10] = [
        (true, |r, _| r.service_name = text("com.x"), "InvalidServiceName: The Vpc Endpoint Serv"),
        (true, |r, _| r.service_name = text(EC2), "InvalidParameter: Endpoint type (Gateway) doe"),
        (true, |r, s| r.subnet_ids = Some(s.to_vec()), "InvalidParameter: Subnet IDs are only su"),
        (true, |r, _| r.policy_document = text("{"), "InvalidPolicyDocument: "),
        (true, |r, _| r.policy_document = text("{\"Statement\":[]}"), "UnsupportedOperation: "),
        (true, |r, _| r.vpc_id = text("vpc-0123456789abcdef0"), "InvalidVpcID.NotFound: "),
        (false, |r, _| r.route_table_ids = list(&["rtb-1"]), "InvalidParameter: Route table IDs"),
        (
            false,
            |r, s| r.subnet_ids = list(&[&s[0], &s[0], &s[1]]),
            "", // Twice the same is once.
        ),
        (false, |r, _| r.ip_address_type = text("dualstack"), "UnsupportedOperation: "),
        (
            false,
            |r, _| r.security_group_ids = list(&["sg-0123456789abcdef0"]),
            "InvalidGroup.NotFound: ",
        ),
    ];
    for (is_gateway, change, error) in cases {
        let mut input = if is_gateway { gateway(&region) } else { by_interface(&region) };
        change(&mut input, &all);
        if error.is_empty() {
            let made = make(&region, input);
            delete(&region, &made.vpc_endpoint_id.unwrap());
            settle(&region);
            continue;
        }
        let refusal = region.refused(create_vpc_endpoint, input);
        assert!(refusal.starts_with(error), "{refusal}");
    }
    assert!(table(&region).routes.iter().all(|route| !route.target.starts_with("vpce-")));
    let mut off = the_vpc(&region);
    off.dns_hostnames = false;
    let at = key::of(region.name, key::VPC, ACCOUNT, &off.id);
    region
        .run(|call| {
            call.put(&at, off);
            Ok(())
        })
        .unwrap();
    let refusal = region.refused(create_vpc_endpoint, by_interface(&region));
    assert!(
        refusal.starts_with("InvalidParameter: Enabling private DNS requires both"),
        "{refusal}"
    );
}

#[test]
fn services_are_described() {
    let region = Region::new();
    let ask = |filters| {
        let input = api::DescribeVpcEndpointServicesRequest {
            filters: Some(filters),
            ..Default::default()
        };
        region.ok(describe_vpc_endpoint_services, input).service_names.unwrap()
    };
    assert_eq!(
        ask(vec![filter("service-type", &["Gateway"])]),
        ["com.amazonaws.us-east-1.dynamodb", S3]
    );
    assert!(ask(vec![filter("owner", &["amazon"])]).contains(&EC2.to_owned()));
    let input = api::DescribeVpcEndpointServicesRequest {
        service_names: list(&["com.amazonaws.us-east-1.nothing"]),
        ..Default::default()
    };
    assert_eq!(
        region.refused(describe_vpc_endpoint_services, input),
        "InvalidServiceName: The Vpc Endpoint Service 'com.amazonaws.us-east-1.nothing' does not \
         exist"
    );
}

#[test]
fn the_resolver_knows_the_names_of_an_endpoint() {
    let region = Region::new();
    region.driver.with_network();
    let made = make(&region, by_interface(&region));
    settle(&region);
    region.run(|call| (crate::network_plan::RECONCILER.run)(call, "/node-network")).unwrap();
    let plan = region.driver.network().expect("a plan");
    let known = &plan.vpcs[0].dns.records;
    let addresses: Vec<_> = made
        .network_interface_ids
        .unwrap()
        .iter()
        .map(|id| std::net::IpAddr::V4(interface(&region, id).unwrap().private_ip))
        .collect();
    let names: Vec<String> =
        made.dns_entries.unwrap().into_iter().map(|entry| entry.dns_name.unwrap()).collect();
    // For all, for each zone, and the service's own.
    assert_eq!(known[&names[0]], addresses);
    assert_eq!(known[&names[1]], addresses[..1]);
    assert_eq!(known[&names[2]], addresses[1..]);
    assert_eq!(known[&names[3]], addresses);
}
