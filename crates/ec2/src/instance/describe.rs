//! DescribeInstances, and the API's shape of an instance.

mod filter;

use super::{metadata_options, peek_all, state};
use crate::interface::{
    Names, attachment_status, private_dns_name, public_dns_name, resource_dns_name,
};
use crate::kept::{Items, Made};
use crate::record::{
    AttachedVolume, AttachmentState, ElasticPart, Instance, InstanceState, Interface,
    InterfaceAttachment, Shown, key,
};
use crate::volume;
use crate::{instance_type, tag};
use model::ec2::{self as api, op};
use service::filter::Filters;
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use wire::shape::Slot;
use wire::{Encoder, Member, Shape};

/// An instance with what its description and its filters need.
pub(crate) struct View {
    pub(crate) instance: Arc<Instance>,
    /// Its interfaces, the primary one first; a terminated instance has none.
    interfaces: Vec<Place>,
    region: String,
    account: String,
    zone_id: String,
    private_dns_name: String,
    public_dns_name: String,
    /// Public addresses in its VPC have names.
    has_names: bool,
}

/// One of its interfaces.
struct Place {
    interface: Arc<Interface>,
    groups: Vec<api::GroupIdentifier>,
}

impl View {
    /// The view of an instance, with its interfaces if the caller has just staged them.
    pub(crate) fn new(
        call: &Call<'_>,
        names: &mut Names,
        instance: Arc<Instance>,
        interfaces: Option<Vec<Arc<Interface>>>,
    ) -> Result<Self, Error> {
        let gone = instance.state == InstanceState::Terminated;
        let interfaces = match interfaces {
            Some(given) => given,
            None if gone => Vec::new(),
            None => {
                let more = instance.more_interfaces.iter().map(|place| &place.interface_id);
                let mut found = Vec::with_capacity(1 + instance.more_interfaces.len());
                for id in std::iter::once(&instance.interface_id).chain(more) {
                    let at = key::of(call.region, key::INTERFACE, call.account(), id);
                    found.extend(call.peek::<Interface>(&at)?);
                }
                found
            }
        };
        let mut places = Vec::with_capacity(interfaces.len());
        for interface in interfaces {
            let groups = names.groups(call, &interface.groups)?;
            places.push(Place { interface, groups });
        }
        let has_public = |place: &Place| {
            place.interface.public_ip.is_some() || !place.interface.secondary.is_empty()
        };
        let asks = instance.public_ip.is_some() || places.iter().any(has_public);
        let has_names = asks && names.dns_hostnames(call, &instance.vpc_id)?;
        let public_dns_name = match instance.public_ip {
            Some(address) if has_names => public_dns_name(call.region, address),
            _ => String::new(),
        };
        let private_dns_name = if gone { String::new() } else { host_name(call.region, &instance) };
        Ok(View {
            zone_id: names.zone_id(call.region, &instance.availability_zone),
            region: call.region.to_owned(),
            account: call.account().to_owned(),
            interfaces: places,
            private_dns_name,
            public_dns_name,
            has_names,
            instance,
        })
    }

    /// Shows the instance, which is encoded only if it was not, or not as it is now.
    fn show(&self, item: &'static Member, out: &mut dyn Encoder) {
        let is_same = |shown: &Shown| {
            shown.interfaces.len() == self.interfaces.len()
                && shown
                    .interfaces
                    .iter()
                    .zip(&self.interfaces)
                    .all(|(one, other)| Arc::ptr_eq(one, &other.interface))
                && shown.groups.iter().zip(&self.interfaces).all(|(one, o)| *one == o.groups)
                && shown.public_dns_name == self.public_dns_name
        };
        let made_of = || Shown {
            interfaces: self.interfaces.iter().map(|p| Arc::clone(&p.interface)).collect(),
            groups: self.interfaces.iter().map(|place| place.groups.clone()).collect(),
            public_dns_name: self.public_dns_name.clone(),
        };
        self.instance.kept.show(item, out, is_same, made_of, |show| show(&to_model(self)));
    }

    fn is_gone(&self) -> bool {
        self.instance.state == InstanceState::Terminated
    }

    fn primary(&self) -> Option<&Place> {
        self.interfaces.first().filter(|p| p.interface.id == self.instance.interface_id)
    }

    fn groups(&self) -> &[api::GroupIdentifier] {
        self.primary().map(|place| place.groups.as_slice()).unwrap_or_default()
    }

    fn public_name(&self, address: Ipv4Addr) -> String {
        if self.has_names { public_dns_name(&self.region, address) } else { String::new() }
    }

    fn association(
        &self,
        public_ip: Option<Ipv4Addr>,
        elastic: Option<&ElasticPart>,
    ) -> Option<api::InstanceNetworkInterfaceAssociation> {
        public_ip.map(|address| api::InstanceNetworkInterfaceAssociation {
            ip_owner_id: Some(self.owner(elastic).to_owned()),
            public_dns_name: Some(self.public_name(address)),
            public_ip: Some(address.to_string()),
            ..Default::default()
        })
    }

    fn owner(&self, elastic: Option<&ElasticPart>) -> &str {
        if elastic.is_some() { &self.account } else { "amazon" }
    }

    /// State of an interface's attachment: a launch's is as far as its instance.
    fn attachment_status(&self, attachment: &InterfaceAttachment) -> &'static str {
        match (self.instance.state, attachment.state) {
            (InstanceState::Pending, AttachmentState::Attached) => "attaching",
            (InstanceState::ShuttingDown, _) => "detaching",
            (_, state) => attachment_status(state),
        }
    }

    fn interface_model(&self, place: &Place) -> api::InstanceNetworkInterface {
        let Place { interface, groups } = place;
        let name = |address| Some(private_dns_name(&self.region, address));
        let association = self.association(interface.public_ip, interface.elastic.as_ref());
        let private_ip = interface.private_ip.to_string();
        let primary = api::InstancePrivateIpAddress {
            association: association.clone(),
            primary: Some(true),
            private_dns_name: name(interface.private_ip),
            private_ip_address: Some(private_ip.clone()),
        };
        let secondary = interface.secondary.iter().map(|own| {
            let elastic = own.elastic.as_ref();
            api::InstancePrivateIpAddress {
                association: self.association(elastic.map(|part| part.public_ip), elastic),
                primary: Some(false),
                private_dns_name: name(own.private_ip),
                private_ip_address: Some(own.private_ip.to_string()),
            }
        });
        let ipv6 =
            interface.ipv6.iter().enumerate().map(|(number, address)| api::InstanceIpv6Address {
                ipv6_address: Some(address.to_string()),
                is_primary_ipv6: Some(interface.primary_ipv6 && number == 0),
            });
        let prefixes = interface.prefixes.iter();
        let prefixes =
            prefixes.map(|p| api::InstanceIpv4Prefix { ipv4_prefix: Some(p.to_string()) });
        let ipv6_prefixes = interface.ipv6_prefixes.iter();
        let ipv6_prefixes =
            ipv6_prefixes.map(|p| api::InstanceIpv6Prefix { ipv6_prefix: Some(p.to_string()) });
        api::InstanceNetworkInterface {
            association,
            attachment: interface.attachment.as_ref().map(|attachment| {
                api::InstanceNetworkInterfaceAttachment {
                    attach_time: Some(attachment.attached),
                    attachment_id: Some(attachment.id.clone()),
                    delete_on_termination: Some(attachment.delete_on_termination),
                    device_index: i32::try_from(attachment.device_index).ok(),
                    network_card_index: Some(0),
                    status: Some(self.attachment_status(attachment).to_owned()),
                    ..Default::default()
                }
            }),
            description: Some(interface.description.clone()),
            groups: Some(groups.clone()),
            interface_type: Some("interface".to_owned()),
            ipv4_prefixes: (!interface.prefixes.is_empty()).then(|| prefixes.collect()),
            ipv6_addresses: Some(ipv6.collect()),
            ipv6_prefixes: (!interface.ipv6_prefixes.is_empty()).then(|| ipv6_prefixes.collect()),
            mac_address: Some(interface.mac.clone()),
            network_interface_id: Some(interface.id.clone()),
            operator: not_managed(),
            owner_id: Some(self.account.clone()),
            private_dns_name: name(interface.private_ip),
            private_ip_address: Some(private_ip),
            private_ip_addresses: Some(std::iter::once(primary).chain(secondary).collect()),
            source_dest_check: Some(interface.source_dest_check),
            status: Some("in-use".to_owned()),
            subnet_id: Some(interface.subnet_id.clone()),
            vpc_id: Some(interface.vpc_id.clone()),
            ..Default::default()
        }
    }
}

/// The host name that DHCP gives (EC2 User Guide, "EC2 instance hostnames and domains").
fn host_name(region: &str, instance: &Instance) -> String {
    if instance.name_options.resource_name {
        resource_dns_name(region, &instance.id)
    } else {
        private_dns_name(region, instance.private_ip)
    }
}

fn not_managed() -> Option<api::OperatorResponse> {
    Some(api::OperatorResponse { managed: Some(false), ..Default::default() })
}

/// A mapping of an attached volume.
pub(super) fn block_device(
    instance: &Instance,
    volume: &AttachedVolume,
) -> api::InstanceBlockDeviceMapping {
    api::InstanceBlockDeviceMapping {
        device_name: Some(volume.device_name.clone()),
        ebs: Some(api::EbsInstanceBlockDevice {
            attach_time: Some(volume.attached),
            delete_on_termination: Some(volume.delete_on_termination),
            status: Some(volume::attachment_status(instance, volume).to_owned()),
            volume_id: Some(volume.volume_id.clone()),
            ..Default::default()
        }),
    }
}

/// The API's shape of an instance. What AWS drops from a terminated one is dropped.
pub(crate) fn to_model(view: &View) -> api::Instance {
    let instance = &*view.instance;
    let live = |text: &str| (!view.is_gone()).then(|| text.to_owned());
    let facts = instance_type::find(&instance.instance_type);
    let interfaces = view.interfaces.iter().map(|place| view.interface_model(place));
    let names = &instance.name_options;
    let ipv6 = view.primary().and_then(|place| place.interface.ipv6.first());
    api::Instance {
        ami_launch_index: i32::try_from(instance.launch_index).ok(),
        architecture: Some(instance.architecture.clone()),
        block_device_mappings: Some(
            instance.volumes.iter().map(|volume| block_device(instance, volume)).collect(),
        ),
        capacity_reservation_specification: Some(api::CapacityReservationSpecificationResponse {
            capacity_reservation_preference: Some("open".to_owned()),
            ..Default::default()
        }),
        client_token: Some(instance.client_token.clone().unwrap_or_default()),
        cpu_options: facts.map(|facts| api::CpuOptions {
            core_count: i32::try_from(facts.cores).ok(),
            threads_per_core: i32::try_from(facts.threads_per_core).ok(),
            ..Default::default()
        }),
        current_instance_boot_mode: Some("legacy-bios".to_owned()),
        ebs_optimized: Some(instance.ebs_optimized),
        ena_support: Some(true),
        enclave_options: Some(api::EnclaveOptions { enabled: Some(false) }),
        hibernation_options: Some(api::HibernationOptions { configured: Some(false) }),
        hypervisor: Some("xen".to_owned()),
        image_id: Some(instance.image_id.clone()),
        instance_id: Some(instance.id.clone()),
        instance_type: Some(instance.instance_type.clone()),
        ipv6_address: ipv6.map(ToString::to_string),
        key_name: instance.key_name.clone(),
        launch_time: Some(instance.launched),
        maintenance_options: Some(api::InstanceMaintenanceOptions {
            auto_recovery: Some("default".to_owned()),
            reboot_migration: Some("default".to_owned()),
        }),
        metadata_options: Some(metadata_options(&instance.metadata_options)),
        monitoring: Some(api::Monitoring { state: Some(monitoring(instance).to_owned()) }),
        network_interfaces: Some(interfaces.collect()),
        network_performance_options: Some(api::InstanceNetworkPerformanceOptions {
            bandwidth_weighting: Some("default".to_owned()),
        }),
        operator: not_managed(),
        placement: Some(api::Placement {
            availability_zone: Some(instance.availability_zone.clone()),
            availability_zone_id: Some(view.zone_id.clone()),
            group_name: Some(String::new()),
            tenancy: Some("default".to_owned()),
            ..Default::default()
        }),
        platform_details: Some("Linux/UNIX".to_owned()),
        private_dns_name: Some(view.private_dns_name.clone()),
        private_dns_name_options: (!view.is_gone()).then(|| api::PrivateDnsNameOptionsResponse {
            enable_resource_name_dns_aaaa_record: Some(names.resource_name_aaaa),
            enable_resource_name_dns_a_record: Some(names.resource_name_a),
            hostname_type: Some(hostname_type(instance).to_owned()),
        }),
        private_ip_address: (!view.is_gone()).then(|| instance.private_ip.to_string()),
        product_codes: Some(Vec::new()),
        public_dns_name: Some(view.public_dns_name.clone()),
        public_ip_address: instance.public_ip.map(|address| address.to_string()),
        root_device_name: Some(instance.root_device_name.clone()),
        root_device_type: Some("ebs".to_owned()),
        security_groups: Some(view.groups().to_vec()),
        source_dest_check: (!view.is_gone()).then_some(instance.source_dest_check),
        state: Some(state(instance.state)),
        state_reason: instance.state_reason.as_ref().map(|reason| api::StateReason {
            code: Some(reason.code.clone()),
            message: Some(reason.message.clone()),
        }),
        state_transition_reason: Some(instance.transition_reason.clone()),
        subnet_id: live(&instance.subnet_id),
        tags: tag::to_model(&instance.tags),
        usage_operation: Some("RunInstances".to_owned()),
        usage_operation_update_time: Some(instance.created),
        virtualization_type: Some("hvm".to_owned()),
        vpc_id: live(&instance.vpc_id),
        ..Default::default()
    }
}

/// PrivateDnsNameOptions' HostnameType.
fn hostname_type(instance: &Instance) -> &'static str {
    if instance.name_options.resource_name { "resource-name" } else { "ip-name" }
}

/// State of detailed monitoring.
pub(super) fn monitoring(instance: &Instance) -> &'static str {
    if instance.monitoring { "enabled" } else { "disabled" }
}

/// [`describe_instances`], whose answer is shown without being made.
pub(super) const OPERATION: Operation = Operation {
    run: |call, input| {
        let input = input
            .downcast_ref::<api::DescribeInstancesRequest>()
            .ok_or_else(|| Error::internal("an operation got another operation's input"))?;
        Ok(Box::new(shape(call.account(), find(call, input.clone())?)))
    },
    ..operation!(
        op::DescribeInstances,
        describe_instances,
        Read,
        ["Filters.*", "InstanceIds", "MaxResults", "NextToken", "IncludeManagedResources"]
    )
};

/// What [`OPERATION`] shows, as the model has it.
pub(super) fn describe_instances(
    call: &mut Call<'_>,
    input: api::DescribeInstancesRequest,
) -> Result<api::DescribeInstancesResult, Error> {
    let found = find(call, input)?;
    let reservation = |group: &Group| {
        let instances = group.views.iter().map(to_model).collect();
        reservation(call.account(), &group.reservation_id, instances)
    };
    Ok(api::DescribeInstancesResult {
        reservations: Some(found.groups.iter().map(reservation).collect()),
        next_token: found.next_token,
    })
}

/// Instances of one reservation.
struct Group {
    reservation_id: String,
    views: Vec<View>,
}

struct Found {
    groups: Vec<Group>,
    next_token: Option<String>,
}

/// The answer that shows these instances.
fn shape(account: &str, found: Found) -> impl Shape + use<> {
    let account = Some(account.to_owned());
    Made {
        schema: api::DescribeInstancesResult::default().schema(),
        show: move |member: &'static Member, out: &mut dyn Encoder| match member.name {
            "NextToken" => found.next_token.put(member, out),
            "Reservations" => {
                let show = |group: &Group, item: &'static Member, out: &mut dyn Encoder| {
                    out.structure(item, &group_shape(&account, group));
                };
                out.list(member, &Items { items: &found.groups, show });
            }
            _ => {}
        },
    }
}

fn group_shape(account: &Option<String>, group: &Group) -> impl Shape {
    // All but the instances, which come one by one.
    let empty = reservation(account.as_deref().unwrap_or_default(), &group.reservation_id, vec![]);
    Made {
        schema: empty.schema(),
        show: move |member: &'static Member, out: &mut dyn Encoder| match member.name {
            "Instances" => out.list(member, &Items { items: &group.views, show: View::show }),
            name => {
                let members = empty.schema().members();
                if let Some(index) = members.iter().position(|member| member.name == name) {
                    empty.slot(index).put(member, out);
                }
            }
        },
    }
}

fn find(call: &mut Call<'_>, input: api::DescribeInstancesRequest) -> Result<Found, Error> {
    let filters = Filters::new(crate::filters(input.filters), filter::FILTERS)?;
    let ids = input.instance_ids.unwrap_or_default();
    if !ids.is_empty() && input.max_results.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ));
    }
    let mut found = if !ids.is_empty() {
        peek_all(call, &ids)?
    } else if let Some(ids) = filters.exact("instance-id") {
        let mut found = Vec::new();
        for id in ids {
            found.extend(call.peek::<Instance>(&super::key_of(call, id))?);
        }
        found
    } else {
        call.scan(&super::key_of(call, ""))?
    };
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    let mut names = Names::default();
    let mut views = Vec::with_capacity(found.len());
    for instance in found {
        let view = View::new(call, &mut names, instance, None)?;
        if filters.accept(&view, &view.instance.tags) {
            views.push(view);
        }
    }
    let page = page(
        views,
        |view| view.instance.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(Found { groups: groups(page.items), next_token: page.next_token })
}

/// Instances by reservation, in order of their first appearance, launch index within.
fn groups(views: Vec<View>) -> Vec<Group> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(views.len());
    let mut groups: Vec<Group> = Vec::with_capacity(views.len());
    for view in views {
        let reservation_id = view.instance.reservation_id.clone();
        match places.get(&reservation_id) {
            Some(place) => groups[*place].views.push(view),
            None => {
                places.insert(reservation_id.clone(), groups.len());
                groups.push(Group { reservation_id, views: vec![view] });
            }
        }
    }
    for group in &mut groups {
        group.views.sort_by_key(|view| view.instance.launch_index);
    }
    groups
}

/// A reservation as the API shows it.
pub(crate) fn reservation(
    account: &str,
    id: &str,
    instances: Vec<api::Instance>,
) -> api::Reservation {
    api::Reservation {
        groups: Some(Vec::new()),
        instances: Some(instances),
        owner_id: Some(account.to_owned()),
        requester_id: None,
        reservation_id: Some(id.to_owned()),
    }
}
