//! NAT gateways as their handlers and their reconciler make them.

use super::describe::describe_nat_gateways;
use super::*;
use crate::record::{Interface, InternetGateway};
use crate::testing::{ACCOUNT, Region, filter, list};
use base::Ipv4Cidr;

const HOUR: i64 = 3_600_000;

/// A region with a VPC that has a subnet 10.0.0.0/24.
struct World {
    region: Region,
    vpc: String,
    subnet: String,
}

impl World {
    fn new(inside: &str, with_gateway: bool) -> Self {
        let region = Region::new();
        let (vpc, subnet) = region
            .run(|call| {
                let mut vpc =
                    vpc::stage(call, "10.0.0.0/16".parse().unwrap(), "default", Tags::new());
                if with_gateway {
                    let id = call.new_id("igw");
                    vpc.internet_gateway_id = Some(id.clone());
                    let at = key::of(call.region, key::INTERNET_GATEWAY, ACCOUNT, &id);
                    let vpc_id = Some(vpc.id.clone());
                    call.put(&at, InternetGateway { v: 1, id, vpc_id, tags: Tags::new() });
                    let at = key::of(call.region, key::VPC, ACCOUNT, &vpc.id);
                    call.put(&at, vpc.clone());
                }
                let inside: Ipv4Cidr = inside.parse().unwrap();
                let made = subnet::new(call, &vpc, inside, "us-east-1a", Tags::new());
                subnet::stage(call, made.clone())?;
                Ok((vpc.id, made.id))
            })
            .unwrap();
        World { region, vpc, subnet }
    }

    /// An elastic address; its allocation id.
    fn elastic(&self, last: u8) -> String {
        self.region
            .run(|call| {
                let id = call.new_id("eipalloc");
                let at = key::of(call.region, key::ELASTIC_ADDRESS, ACCOUNT, &id);
                let elastic = ElasticAddress {
                    v: 1,
                    allocation_id: id.clone(),
                    public_ip: [203, 0, 113, last].into(),
                    pool: "amazon".to_owned(),
                    association: None,
                    domain_name: None,
                    transfer: None,
                    service_managed: None,
                    tags: Tags::new(),
                };
                call.put(&at, elastic);
                Ok(id)
            })
            .unwrap()
    }

    fn is_associated(&self, allocation: &str) -> bool {
        let found = self.region.run(|call| elastic(call, allocation)).unwrap();
        found.association.is_some()
    }

    fn request(&self, allocation: Option<&str>) -> api::CreateNatGatewayRequest {
        api::CreateNatGatewayRequest {
            subnet_id: Some(self.subnet.clone()),
            allocation_id: allocation.map(str::to_owned),
            connectivity_type: allocation.is_none().then(|| "private".to_owned()),
            ..Default::default()
        }
    }

    fn made(&self, input: api::CreateNatGatewayRequest) -> String {
        let made = self.region.ok(create_nat_gateway, input).nat_gateway.unwrap();
        assert_eq!((made.state.as_deref(), &made.failure_code), (Some("pending"), &None));
        let id = made.nat_gateway_id.unwrap();
        self.reconcile(&id);
        id
    }

    fn reconcile(&self, id: &str) {
        self.region
            .run(|call| {
                let at = key_of(call, id);
                (reconciler::RECONCILER.run)(call, &at)
            })
            .unwrap();
    }

    fn shown(&self, id: &str) -> api::NatGateway {
        let input =
            api::DescribeNatGatewaysRequest { nat_gateway_ids: list(&[id]), ..Default::default() };
        self.region.ok(describe_nat_gateways, input).nat_gateways.unwrap().remove(0)
    }

    fn failure(&self, id: &str) -> String {
        let shown = self.shown(id);
        assert_eq!(shown.state.as_deref(), Some("failed"));
        format!("{}: {}", shown.failure_code.unwrap(), shown.failure_message.unwrap())
    }

    fn interfaces(&self) -> Vec<std::sync::Arc<Interface>> {
        let at = key::of(self.region.name, key::INTERFACE, ACCOUNT, "");
        self.region.run(|call| call.scan::<Interface>(&at)).unwrap()
    }

    fn claims(&self) -> usize {
        let at = key::of(self.region.name, key::PRIVATE_ADDRESS, ACCOUNT, &self.vpc);
        self.region.run(|call| Ok(call.snapshot().count(&at))).unwrap()
    }
}

fn delete(id: &str) -> api::DeleteNatGatewayRequest {
    api::DeleteNatGatewayRequest { nat_gateway_id: Some(id.to_owned()), ..Default::default() }
}

#[test]
fn a_gateway_lives_and_dies_with_its_interface() {
    let world = World::new("10.0.0.0/24", true);
    let (first, second) = (world.elastic(50), world.elastic(51));
    let id = world.made(api::CreateNatGatewayRequest {
        private_ip_address: Some("10.0.0.10".to_owned()),
        secondary_allocation_ids: list(&[&second]),
        ..world.request(Some(&first))
    });
    let shown = world.shown(&id);
    assert_eq!(shown.state.as_deref(), Some("available"));
    let addresses = shown.nat_gateway_addresses.unwrap();
    assert_eq!(addresses[0].private_ip.as_deref(), Some("10.0.0.10"));
    assert_eq!(addresses[0].public_ip.as_deref(), Some("203.0.113.50"));
    assert_eq!((addresses[0].is_primary, addresses[1].is_primary), (Some(true), Some(false)));
    assert_eq!(addresses[1].allocation_id.as_ref(), Some(&second));
    let interfaces = world.interfaces();
    let own = &interfaces[0];
    assert_eq!(addresses[0].network_interface_id.as_ref(), Some(&own.id));
    assert_eq!(own.description, format!("Interface for NAT Gateway {id}"));
    assert_eq!(own.kind, InterfaceKind::NatGateway(id.clone()));
    assert!(!own.source_dest_check && own.groups.is_empty());
    assert_eq!(own.secondary.len(), 1);
    assert_eq!(world.claims(), 2);
    assert!(world.is_associated(&first) && world.is_associated(&second));

    world.region.ok(delete_nat_gateway, delete(&id));
    assert_eq!(world.shown(&id).state.as_deref(), Some("deleting"));
    world.reconcile(&id);
    let shown = world.shown(&id);
    assert_eq!(shown.state.as_deref(), Some("deleted"));
    assert!(shown.delete_time.is_some());
    assert_eq!((world.interfaces().len(), world.claims()), (0, 0));
    assert!(!world.is_associated(&first) && !world.is_associated(&second));
    let gone = format!("NatGatewayNotFound: The Nat Gateway {id} was not found");
    assert_eq!(world.region.refused(delete_nat_gateway, delete(&id)), gone);
    world.region.pass(HOUR - 1_000);
    world.reconcile(&id);
    assert_eq!(world.shown(&id).state.as_deref(), Some("deleted"));
    world.region.pass(1_000);
    world.reconcile(&id);
    let input =
        api::DescribeNatGatewaysRequest { nat_gateway_ids: list(&[&id]), ..Default::default() };
    assert_eq!(world.region.refused(describe_nat_gateways, input), gone);
}

#[test]
fn what_cannot_be_made_fails() {
    let world = World::new("10.0.0.0/24", false);
    let allocation = world.elastic(50);
    let id = world.made(world.request(Some(&allocation)));
    assert_eq!(
        world.failure(&id),
        format!("Gateway.NotAttached: Network {} has no Internet gateway attached", world.vpc)
    );
    assert_eq!(world.interfaces().len(), 0);
    // A private one needs no internet gateway.
    let id = world.made(world.request(None));
    assert_eq!(world.shown(&id).state.as_deref(), Some("available"));
    assert_eq!(
        world.region.refused(create_nat_gateway, world.request(Some("eipalloc-00000000000000000"))),
        "InvalidAllocationID.NotFound: The allocation ID 'eipalloc-00000000000000000' does not \
         exist"
    );

    let world = World::new("10.0.0.0/28", true);
    let allocation = world.elastic(50);
    world.made(world.request(Some(&allocation)));
    let id = world.made(world.request(Some(&allocation)));
    assert_eq!(
        world.failure(&id),
        format!(
            "Resource.AlreadyAssociated: Elastic IP address {allocation} is already associated"
        )
    );
    let many = |count| api::CreateNatGatewayRequest {
        secondary_private_ip_address_count: Some(count),
        ..world.request(None)
    };
    // Eleven addresses: one, eight and two.
    world.made(many(7));
    let id = world.made(many(2));
    assert_eq!(
        world.failure(&id),
        "InsufficientFreeAddressesInSubnet: Subnet has insufficient free addresses to create this \
         NAT gateway"
    );
    assert_eq!(world.claims(), 9);
    world.made(many(1));
    world.region.pass(HOUR);
    world.reconcile(&id);
    let input = api::DescribeNatGatewaysRequest {
        filter: Some(vec![filter("state", &["failed"]), filter("vpc-id", &[&world.vpc])]),
        ..Default::default()
    };
    let failed = world.region.ok(describe_nat_gateways, input).nat_gateways.unwrap();
    assert_eq!(failed.len(), 1);
}

#[test]
fn requests_are_checked() {
    let world = World::new("10.0.0.0/24", true);
    let allocation = world.elastic(50);
    let public = || world.request(Some(&allocation));
    let private = || world.request(None);
    let some = |text: &str| Some(text.to_owned());
    for (input, code) in [
        (api::CreateNatGatewayRequest { subnet_id: None, ..public() }, "MissingParameter"),
        (api::CreateNatGatewayRequest { allocation_id: None, ..public() }, "MissingParameter"),
        (
            api::CreateNatGatewayRequest { allocation_id: some("eipalloc-1"), ..private() },
            "InvalidParameterCombination",
        ),
        (
            api::CreateNatGatewayRequest {
                secondary_private_ip_address_count: Some(1),
                ..public()
            },
            "InvalidParameterCombination",
        ),
        (
            api::CreateNatGatewayRequest {
                secondary_private_ip_addresses: list(&["10.0.0.9"]),
                ..public()
            },
            "InvalidParameterCombination",
        ),
        (
            api::CreateNatGatewayRequest {
                secondary_allocation_ids: list(&[&allocation]),
                ..public()
            },
            "InvalidParameterValue",
        ),
        (
            api::CreateNatGatewayRequest { private_ip_address: some("10.0.1.9"), ..private() },
            "InvalidParameterValue",
        ),
        (
            api::CreateNatGatewayRequest { private_ip_address: some("x"), ..private() },
            "InvalidParameterValue",
        ),
        (
            api::CreateNatGatewayRequest {
                secondary_private_ip_address_count: Some(8),
                ..private()
            },
            "InvalidParameterValue",
        ),
        (
            api::CreateNatGatewayRequest { connectivity_type: some("both"), ..private() },
            "InvalidParameterValue",
        ),
        (
            api::CreateNatGatewayRequest { availability_mode: some("regional"), ..public() },
            "UnsupportedOperation",
        ),
    ] {
        let refusal = world.region.refused(create_nat_gateway, input);
        assert!(refusal.starts_with(&format!("{code}: ")), "{refusal}");
    }
    for _ in 0..MAX_GATEWAYS {
        world.made(private());
    }
    assert_eq!(
        world.region.refused(create_nat_gateway, private()),
        "NatGatewayLimitExceeded: Performing this operation would exceed the limit of 5 NAT \
         gateways"
    );
    assert_eq!(
        world.region.refused(delete_nat_gateway, delete("x")),
        "NatGatewayMalformed: The Nat Gateway x was malformed"
    );
}

#[test]
fn addresses_come_and_go() {
    let world = World::new("10.0.0.0/24", true);
    let (first, second) = (world.elastic(50), world.elastic(51));
    let public = world.made(world.request(Some(&first)));
    let associate = || api::AssociateNatGatewayAddressRequest {
        nat_gateway_id: Some(public.clone()),
        allocation_ids: list(&[&second]),
        private_ip_addresses: list(&["10.0.0.77"]),
        ..Default::default()
    };
    let added = world.region.ok(address::associate, associate()).nat_gateway_addresses.unwrap();
    assert_eq!(added[0].private_ip.as_deref(), Some("10.0.0.77"));
    assert_eq!(
        world.region.refused(address::associate, associate()),
        format!("Resource.AlreadyAssociated: Elastic IP address {second} is already associated")
    );
    assert_eq!((world.interfaces()[0].secondary.len(), world.claims()), (1, 2));
    let disassociate = |id: &Option<String>| api::DisassociateNatGatewayAddressRequest {
        nat_gateway_id: Some(public.clone()),
        association_ids: Some(vec![id.clone().unwrap()]),
        ..Default::default()
    };
    let primary = world.shown(&public).nat_gateway_addresses.unwrap().remove(0);
    assert!(
        world
            .region
            .refused(address::disassociate, disassociate(&primary.association_id))
            .starts_with("OperationNotPermitted: ")
    );
    world.region.ok(address::disassociate, disassociate(&added[0].association_id));
    assert!(world.is_associated(&first) && !world.is_associated(&second));
    assert_eq!((world.interfaces()[0].secondary.len(), world.claims()), (0, 1));
    assert!(
        world
            .region
            .refused(address::disassociate, disassociate(&added[0].association_id))
            .starts_with("InvalidAssociationID.NotFound: ")
    );

    let assign = |id: &str, count| api::AssignPrivateNatGatewayAddressRequest {
        nat_gateway_id: Some(id.to_owned()),
        private_ip_address_count: Some(count),
        ..Default::default()
    };
    assert!(
        world.region.refused(address::assign, assign(&public, 1)).starts_with("InvalidParameter: ")
    );
    let private = world.made(world.request(None));
    let added = world.region.ok(address::assign, assign(&private, 2));
    let added = added.nat_gateway_addresses.unwrap();
    assert_eq!(world.shown(&private).nat_gateway_addresses.unwrap().len(), 3);
    let unassign = |address: &str| api::UnassignPrivateNatGatewayAddressRequest {
        nat_gateway_id: Some(private.clone()),
        private_ip_addresses: list(&[address]),
        ..Default::default()
    };
    let taken = added[0].private_ip.clone().unwrap();
    world.region.ok(address::unassign, unassign(&taken));
    assert_eq!(world.claims(), 3);
    assert!(
        world.region.refused(address::unassign, unassign(&taken)).contains("is not an address")
    );
    assert!(
        world
            .region
            .refused(address::assign, assign(&private, 7))
            .starts_with("InvalidParameterValue: ")
    );
    // Nothing is added to what is going.
    world.region.ok(delete_nat_gateway, delete(&private));
    assert!(
        world.region.refused(address::assign, assign(&private, 1)).starts_with("IncorrectState: ")
    );
}
