//! What the network of the node must be: compiled from the records, and kept so.
//!
//! [`compile`] is the plan: pure, a function of the records of every region. A VPC is in it as long
//! as an interface in it belongs to a machine, a NAT gateway or an endpoint. Machines that are stopped keep theirs, so that they
//! find their place again without a new plan; one that is shutting down keeps it until it is gone,
//! so that its last words are heard; a terminated instance has none.
//!
//! What a record names and what is not there is left out here, so that the plan is complete: a route
//! to it becomes a blackhole, a rule with it nothing.
//!
//! The reconciler has one key for the whole node, since a plan replaces the one before it: plans of
//! two runs can never overtake each other.
//!
//! Not here: how a plan becomes kernel state, which is the `net` crate's business.

mod flow;
mod route;
mod rule;

use crate::interface::{private_dns_name, private_domain};
use crate::record::{
    DhcpOptions, EgressOnlyInternetGateway, FlowLog, Instance, InstanceState, Interface,
    InterfaceKind, NatGateway, NetworkAcl, PrefixList, Progress, RouteTable, SecurityGroup, Subnet,
    TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable, Vpc, VpcEndpoint,
    VpcPeering, key,
};
use crate::{region, vpc_endpoint};
use base::network::{self, Address, Holder, NameServer, Plan};
use service::call::Record;
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The reconciler of the node's network.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "network", for_network: true, work_key, run };

/// The one work key.
const NODE: &str = "/node-network";

/// The kinds of record that a plan is made of, beside peering connections.
const KINDS: &[&str] = &[
    key::VPC,
    key::SUBNET,
    key::SECURITY_GROUP,
    key::INTERFACE,
    key::INSTANCE,
    key::DHCP_OPTIONS,
    key::ROUTE_TABLE,
    key::NETWORK_ACL,
    key::EGRESS_ONLY_INTERNET_GATEWAY,
    key::NAT_GATEWAY,
    key::PREFIX_LIST,
    key::VPC_ENDPOINT,
    key::TRANSIT_GATEWAY,
    key::TRANSIT_GATEWAY_ATTACHMENT,
    key::TRANSIT_GATEWAY_ROUTE_TABLE,
    key::FLOW_LOG,
];

fn work_key(record_key: &str) -> Option<String> {
    let mut parts = record_key.strip_prefix('/')?.split('/');
    let (region, kind) = (parts.next()?, parts.next()?);
    let matters = region == key::VPC_PEERING || KINDS.contains(&kind) && region::is_name(region);
    matters.then(|| NODE.to_owned())
}

fn run(call: &mut Call<'_>, _: &str) -> Result<(), Error> {
    if !call.environment.driver.has_network() {
        return Ok(());
    }
    let (_, plan) = drawn(call)?;
    call.effect(Effect::Network(Box::new(plan)));
    Ok(())
}

/// The records of every region, and the plan that they make.
///
/// # Errors
/// A record cannot be read.
pub(crate) fn drawn(call: &Call<'_>) -> Result<(Vec<Records>, Plan), Error> {
    let regions =
        names(call).iter().map(|name| Records::read(call, name)).collect::<Result<Vec<_>, _>>()?;
    let peerings = call.scan::<VpcPeering>(&key::vpc_peering(""))?;
    // The first address of the pool is the host's, where the services are.
    let service = call.environment.public_pool.nth(1);
    let plan = compile(&regions, &peerings, service);
    Ok((regions, plan))
}

/// The regions that have records, found by leaping from one to the next.
fn names(call: &Call<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut from = "/".to_owned();
    loop {
        let next = call.snapshot().scan_from("/", &from).next();
        let Some(top) = next.and_then(|kv| kv.key().split('/').nth(1).map(str::to_owned)) else {
            return names;
        };
        // '0' is the character after '/': the first key behind all of this region's.
        from = format!("/{top}0");
        if region::is_name(&top) {
            names.push(top);
        }
    }
}

/// What a plan is made of, of one region.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) region: String,
    pub(crate) vpcs: Vec<Arc<Vpc>>,
    pub(crate) subnets: Vec<Arc<Subnet>>,
    pub(crate) groups: Vec<Arc<SecurityGroup>>,
    pub(crate) interfaces: Vec<Arc<Interface>>,
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) dhcp_options: Vec<Arc<DhcpOptions>>,
    pub(crate) route_tables: Vec<Arc<RouteTable>>,
    pub(crate) network_acls: Vec<Arc<NetworkAcl>>,
    pub(crate) egress_only: Vec<Arc<EgressOnlyInternetGateway>>,
    pub(crate) nat_gateways: Vec<Arc<NatGateway>>,
    pub(crate) prefix_lists: Vec<Arc<PrefixList>>,
    pub(crate) endpoints: Vec<Arc<VpcEndpoint>>,
    pub(crate) transit_gateways: Vec<Arc<TransitGateway>>,
    pub(crate) attachments: Vec<Arc<TransitGatewayAttachment>>,
    pub(crate) transit_route_tables: Vec<Arc<TransitGatewayRouteTable>>,
    pub(crate) flow_logs: Vec<(String, Arc<FlowLog>)>,
}

impl Records {
    fn read(call: &Call<'_>, region: &str) -> Result<Self, Error> {
        fn all<T: Record>(call: &Call<'_>, region: &str, kind: &str) -> Result<Vec<Arc<T>>, Error> {
            call.scan(&format!("/{region}/{kind}/"))
        }
        let logs = format!("/{region}/{}/", key::FLOW_LOG);
        let accounts = call.snapshot().scan(&logs).map(|kv| {
            key::parts(kv.key()).map(|(_, _, account, _)| account.to_owned()).unwrap_or_default()
        });
        let flow_logs = accounts.zip(call.scan::<FlowLog>(&logs)?).collect();
        let mut prefix_lists = all(call, region, key::PREFIX_LIST)?;
        let service = call.environment.public_pool.nth(1);
        prefix_lists.extend(crate::prefix_list::of_aws(region, service).map(Arc::new));
        Ok(Records {
            region: region.to_owned(),
            vpcs: all(call, region, key::VPC)?,
            subnets: all(call, region, key::SUBNET)?,
            groups: all(call, region, key::SECURITY_GROUP)?,
            interfaces: all(call, region, key::INTERFACE)?,
            instances: all(call, region, key::INSTANCE)?,
            dhcp_options: all(call, region, key::DHCP_OPTIONS)?,
            route_tables: all(call, region, key::ROUTE_TABLE)?,
            network_acls: all(call, region, key::NETWORK_ACL)?,
            egress_only: all(call, region, key::EGRESS_ONLY_INTERNET_GATEWAY)?,
            nat_gateways: all(call, region, key::NAT_GATEWAY)?,
            prefix_lists,
            endpoints: all(call, region, key::VPC_ENDPOINT)?,
            transit_gateways: all(call, region, key::TRANSIT_GATEWAY)?,
            attachments: all(call, region, key::TRANSIT_GATEWAY_ATTACHMENT)?,
            transit_route_tables: all(call, region, key::TRANSIT_GATEWAY_ROUTE_TABLE)?,
            flow_logs,
        })
    }
}

/// Interfaces of a region that are in the plan, by VPC.
type Present<'a> = BTreeMap<&'a str, Vec<network::Interface>>;

/// The network that the records want; `service` is the address of the cloud's own services.
pub(crate) fn compile(
    regions: &[Records],
    peerings: &[Arc<VpcPeering>],
    service: Option<Ipv4Addr>,
) -> Plan {
    let mut present: Vec<Present<'_>> = regions.iter().map(interfaces).collect();
    let vpcs: HashSet<&str> = present.iter().flat_map(|of| of.keys().copied()).collect();
    let peerings = route::peerings(peerings, &vpcs);
    let members = rule::peer_members(regions, &present, &peerings);
    let transit_gateways = route::transit_gateways(regions, &vpcs);
    let mut plan = Plan { peerings, transit_gateways, ..Plan::default() };
    for (records, present) in regions.iter().zip(&mut present) {
        plan.flow_logs.extend(flow::logs(records, present));
        let draw = Draw { records, service, plan: &plan, members: &members };
        let drawn: Vec<network::Vpc> = records
            .vpcs
            .iter()
            .filter_map(|vpc| Some(draw.vpc(vpc, present.remove(vpc.id.as_str())?)))
            .collect();
        plan.vpcs.extend(drawn);
    }
    plan
}

fn interfaces(records: &Records) -> Present<'_> {
    let instances: HashMap<&str, &Instance> =
        records.instances.iter().map(|i| (i.id.as_str(), i.as_ref())).collect();
    let mut present: Present<'_> = BTreeMap::new();
    for interface in &records.interfaces {
        let instance = interface.attachment.as_ref().and_then(|attachment| {
            instances
                .get(attachment.instance_id.as_str())
                .filter(|instance| instance.state != InstanceState::Terminated)
        });
        let holder = match (&interface.kind, instance) {
            (_, Some(instance)) => Holder::Machine(instance.id.clone()),
            (InterfaceKind::NatGateway(id), _) => Holder::NatGateway(id.clone()),
            (InterfaceKind::VpcEndpoint(id), _) => Holder::Endpoint(id.clone()),
            (InterfaceKind::Interface | InterfaceKind::TransitGateway(_), None) => continue,
        };
        let of_vpc = present.entry(interface.vpc_id.as_str()).or_default();
        of_vpc.push(to_plan(&records.region, interface, holder, instance.copied()));
    }
    present
}

fn to_plan(
    region: &str,
    interface: &Interface,
    holder: Holder,
    instance: Option<&Instance>,
) -> network::Interface {
    let named = instance.filter(|instance| {
        instance.name_options.resource_name && instance.interface_id == interface.id
    });
    network::Interface {
        id: interface.id.clone(),
        holder,
        subnet_id: interface.subnet_id.clone(),
        mac: interface.mac.clone(),
        private_ip: interface.private_ip,
        public_ip: interface.public_ip,
        secondary: interface
            .secondary
            .iter()
            .map(|address| Address {
                private_ip: address.private_ip,
                public_ip: address.elastic.as_ref().map(|elastic| elastic.public_ip),
            })
            .collect(),
        prefixes: interface.prefixes.clone(),
        ipv6: interface.ipv6.clone(),
        ipv6_prefixes: interface.ipv6_prefixes.clone(),
        hostname: match named {
            Some(instance) => resource_name(region, &instance.id),
            None => private_dns_name(region, interface.private_ip),
        },
        groups: interface.groups.clone(),
        source_dest_check: interface.source_dest_check,
        node: None,
    }
}

/// `i-….ec2.internal` (EC2 User Guide, "EC2 instance hostnames and domains").
fn resource_name(region: &str, instance_id: &str) -> String {
    format!("{instance_id}.{}", private_domain(region))
}

/// Draws the VPCs of one region.
struct Draw<'a> {
    records: &'a Records,
    service: Option<Ipv4Addr>,
    /// What lies between the VPCs.
    plan: &'a Plan,
    members: &'a rule::PeerMembers,
}

impl Draw<'_> {
    fn vpc(&self, vpc: &Vpc, interfaces: Vec<network::Interface>) -> network::Vpc {
        let records = self.records;
        let rules = rule::Compiled::new(records, vpc, &interfaces, self.members);
        let subnets = records.subnets.iter().filter(|subnet| subnet.vpc_id == vpc.id);
        let endpoints = || {
            records.endpoints.iter().filter(|endpoint| {
                endpoint.vpc_id == vpc.id && endpoint.state == Progress::Available
            })
        };
        network::Vpc {
            id: vpc.id.clone(),
            region: records.region.clone(),
            cidrs: vpc.cidrs().collect(),
            ipv6_cidrs: vpc.ipv6_cidrs.iter().map(|block| block.cidr).collect(),
            vni: 0,
            internet_gateway: vpc.internet_gateway_id.is_some(),
            dns: self.dns(vpc, &interfaces, endpoints()),
            dhcp: self.dhcp(vpc),
            subnets: subnets
                .map(|subnet| network::Subnet {
                    id: subnet.id.clone(),
                    cidr: subnet.cidr,
                    ipv6_cidr: subnet.ipv6_cidr.as_ref().map(|block| block.cidr),
                    route_table: subnet
                        .route_table_id
                        .clone()
                        .unwrap_or_else(|| vpc.main_route_table_id.clone()),
                    network_acl: subnet.network_acl_id.clone(),
                })
                .collect(),
            route_tables: route::tables(records, vpc, &interfaces, self.plan),
            network_acls: rule::network_acls(records, vpc),
            groups: rules.groups,
            peer_groups: rules.peer_groups,
            prefix_lists: rules.prefix_lists,
            gateway_endpoints: endpoints()
                .filter(|endpoint| endpoint.gateway)
                .map(|endpoint| network::GatewayEndpoint {
                    id: endpoint.id.clone(),
                    addresses: self.service.into_iter().collect(),
                })
                .collect(),
            interfaces,
        }
    }

    fn dns<'r>(
        &self,
        vpc: &Vpc,
        interfaces: &[network::Interface],
        endpoints: impl Iterator<Item = &'r Arc<VpcEndpoint>>,
    ) -> network::Dns {
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let by_id: HashMap<&str, &network::Interface> =
            interfaces.iter().map(|interface| (interface.id.as_str(), interface)).collect();
        for instance in &self.records.instances {
            let options = &instance.name_options;
            let Some(primary) = by_id.get(instance.interface_id.as_str()) else { continue };
            let mut addresses = Vec::new();
            if options.resource_name_a {
                addresses.push(IpAddr::V4(primary.private_ip));
            }
            if options.resource_name_aaaa {
                addresses.extend(primary.ipv6.first().copied().map(IpAddr::V6));
            }
            if !addresses.is_empty() {
                names.insert(resource_name(&self.records.region, &instance.id), addresses);
            }
        }
        for endpoint in endpoints {
            let Some(name) = service_name(&endpoint.service_name) else { continue };
            if endpoint.gateway {
                let addresses = self.service.into_iter().map(IpAddr::V4);
                names.entry(name).or_default().extend(addresses);
                continue;
            }
            let own = endpoint.interface_ids.iter().filter_map(|id| by_id.get(id.as_str()));
            let own: Vec<(String, IpAddr)> = own
                .map(|interface| (self.zone(interface), IpAddr::V4(interface.private_ip)))
                .collect();
            let all = || own.iter().map(|(_, address)| *address);
            if endpoint.private_dns {
                names.entry(name).or_default().extend(all());
            }
            let zones: Vec<String> = own.iter().map(|(zone, _)| zone.clone()).collect();
            for (name, zone) in vpc_endpoint::own_names(&self.records.region, endpoint, &zones) {
                let of_zone = own.iter().filter(|(of, _)| zone.as_ref().is_none_or(|z| z == of));
                names.insert(name, of_zone.map(|(_, address)| *address).collect());
            }
        }
        network::Dns { support: vpc.dns_support, hostnames: vpc.dns_hostnames, records: names }
    }

    /// The zone of an interface.
    fn zone(&self, interface: &network::Interface) -> String {
        let subnet = self.records.subnets.iter().find(|subnet| subnet.id == interface.subnet_id);
        subnet.map(|subnet| subnet.availability_zone.clone()).unwrap_or_default()
    }

    fn dhcp(&self, vpc: &Vpc) -> network::Dhcp {
        let given = self.records.dhcp_options.iter().find(|o| o.id == vpc.dhcp_options_id);
        let values = |name: &str| {
            let values = given.and_then(|options| options.options.get(name));
            values.map(Vec::as_slice).unwrap_or_default()
        };
        let addresses =
            |name: &str| values(name).iter().filter_map(|text| text.parse::<IpAddr>().ok());
        network::Dhcp {
            domain_name: values("domain-name").first().cloned(),
            domain_name_servers: values("domain-name-servers")
                .iter()
                .filter_map(|text| match text.as_str() {
                    "AmazonProvidedDNS" => Some(NameServer::Amazon),
                    address => address.parse().ok().map(NameServer::Address),
                })
                .collect(),
            ntp_servers: addresses("ntp-servers").collect(),
            netbios_name_servers: addresses("netbios-name-servers")
                .filter_map(|address| match address {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                })
                .collect(),
            netbios_node_type: values("netbios-node-type").first().and_then(|t| t.parse().ok()),
            ipv6_preferred_lease_time: values("ipv6-address-preferred-lease-time")
                .first()
                .and_then(|text| text.parse().ok()),
        }
    }
}

/// The public name of a service: `ec2.us-east-1.amazonaws.com` for
/// `com.amazonaws.us-east-1.ec2`.
fn service_name(name: &str) -> Option<String> {
    let mut words: Vec<&str> = name.split('.').collect();
    words.reverse();
    let domain = words.len().checked_sub(2)?;
    let rest = words.split_off(domain);
    // Reversed: service, region | amazonaws, com.
    Some(words.into_iter().chain(rest).collect::<Vec<_>>().join("."))
}

/// Ids that something names.
type Named = BTreeSet<String>;

#[cfg(test)]
mod tests;
