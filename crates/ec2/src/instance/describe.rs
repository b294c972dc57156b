//! DescribeInstances, and the API's shape of an instance.

use super::{metadata_options, peek_all, state, tokens};
use crate::interface::{
    Names, attachment_status, one, private_dns_name, public_dns_name, resource_dns_name,
};
use crate::kept::{Items, Made};
use crate::record::{
    AttachedVolume, AttachmentState, ElasticPart, Instance, InstanceState, Interface,
    InterfaceAttachment, Shown, key,
};
use crate::volume;
use crate::{instance_type, tag};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;
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

fn yes<'a>(_: &'a View) -> Values<'a> {
    vec!["true".into()]
}

fn no<'a>(_: &'a View) -> Values<'a> {
    vec!["false".into()]
}

/// Of a fact that no instance here has.
fn none<'a>(_: &'a View) -> Values<'a> {
    Vec::new()
}

fn default<'a>(_: &'a View) -> Values<'a> {
    vec!["default".into()]
}

fn each_volume<'a>(
    view: &'a View,
    value: impl Fn(&'a AttachedVolume) -> Cow<'a, str>,
) -> Values<'a> {
    view.instance.volumes.iter().map(value).collect()
}

fn on_interface<'a>(view: &'a View, value: impl Fn(&'a Interface) -> Cow<'a, str>) -> Values<'a> {
    view.interfaces.iter().map(|place| value(&place.interface)).collect()
}

fn on_interfaces<'a, I: Iterator<Item = String>>(
    view: &'a View,
    values: impl Fn(&'a Interface) -> I,
) -> Values<'a> {
    view.interfaces.iter().flat_map(|p| values(&p.interface).map(Into::into)).collect()
}

fn on_attachment<'a>(
    view: &'a View,
    value: impl Fn(&'a InterfaceAttachment) -> Cow<'a, str>,
) -> Values<'a> {
    let attachments = view.interfaces.iter().filter_map(|p| p.interface.attachment.as_ref());
    attachments.map(value).collect()
}

/// The public addresses of an interface, with what makes them elastic.
fn public_ips(interface: &Interface) -> impl Iterator<Item = (Ipv4Addr, Option<&ElasticPart>)> {
    let primary = interface.public_ip.map(|address| (address, interface.elastic.as_ref()));
    let secondary = interface.secondary.iter().filter_map(|own| own.elastic.as_ref());
    primary.into_iter().chain(secondary.map(|part| (part.public_ip, Some(part))))
}

fn on_public<'a>(
    view: &'a View,
    value: impl Fn(Ipv4Addr, Option<&'a ElasticPart>) -> Option<String>,
) -> Values<'a> {
    let all = view.interfaces.iter().flat_map(|place| public_ips(&place.interface));
    all.filter_map(|(address, elastic)| value(address, elastic).map(Into::into)).collect()
}

fn public_ip(view: &View) -> Values<'_> {
    one(view.instance.public_ip.map(|address| address.to_string()))
}

fn public_name(view: &View) -> Values<'_> {
    if view.public_dns_name.is_empty() {
        return Vec::new();
    }
    vec![view.public_dns_name.as_str().into()]
}

fn private_name(view: &View) -> Values<'_> {
    vec![view.private_dns_name.as_str().into()]
}

fn private_ips(view: &View) -> Values<'_> {
    on_interfaces(view, |interface| {
        let secondary = interface.secondary.iter().map(|own| own.private_ip.to_string());
        std::iter::once(interface.private_ip.to_string()).chain(secondary)
    })
}

fn ipv6(view: &View) -> Values<'_> {
    on_interfaces(view, |interface| interface.ipv6.iter().map(ToString::to_string))
}

fn group_ids(view: &View) -> Values<'_> {
    let primary = view.primary().into_iter();
    primary.flat_map(|p| p.interface.groups.iter().map(|id| id.as_str().into())).collect()
}

fn group_names(view: &View) -> Values<'_> {
    view.groups().iter().filter_map(|g| g.group_name.as_deref()).map(Into::into).collect()
}

fn interface_group_ids(view: &View) -> Values<'_> {
    on_interfaces(view, |interface| interface.groups.iter().cloned())
}

fn interface_group_names(view: &View) -> Values<'_> {
    let groups = view.interfaces.iter().flat_map(|place| &place.groups);
    groups.filter_map(|group| group.group_name.as_deref()).map(Into::into).collect()
}

fn interface_owner(view: &View) -> Values<'_> {
    on_public(view, |_, elastic| Some(view.owner(elastic).to_owned()))
}

fn interface_public_ip(view: &View) -> Values<'_> {
    on_public(view, |address, _| Some(address.to_string()))
}

fn interface_public_name(view: &View) -> Values<'_> {
    on_public(view, |address, _| Some(view.public_name(address)).filter(|name| !name.is_empty()))
}

fn allocation_id(view: &View) -> Values<'_> {
    on_public(view, |_, elastic| elastic.map(|part| part.allocation_id.clone()))
}

fn association_id(view: &View) -> Values<'_> {
    on_public(view, |_, elastic| elastic.map(|part| part.association_id.clone()))
}

fn interface_names(view: &View) -> Values<'_> {
    on_interfaces(view, |interface| {
        std::iter::once(private_dns_name(&view.region, interface.private_ip))
    })
}

fn flag<'a>(enabled: bool) -> Values<'a> {
    vec![if enabled { "enabled" } else { "disabled" }.into()]
}

/// The instance is not gone, so what names its network has a value.
fn live<'a>(view: &'a View, value: &'a str) -> Values<'a> {
    one((!view.is_gone()).then_some(value))
}

/// Every filter of DescribeInstances (EC2 API Reference).
const FILTERS: &[Field<View>] = &[
    ("affinity", none),
    ("architecture", |v| vec![v.instance.architecture.as_str().into()]),
    ("availability-zone", |v| vec![v.instance.availability_zone.as_str().into()]),
    ("availability-zone-id", |v| vec![v.zone_id.as_str().into()]),
    ("block-device-mapping.attach-time", |v| {
        each_volume(v, |volume| volume.attached.iso_millis().into())
    }),
    ("block-device-mapping.delete-on-termination", |v| {
        each_volume(v, |volume| volume.delete_on_termination.to_string().into())
    }),
    ("block-device-mapping.device-name", |v| {
        each_volume(v, |volume| volume.device_name.as_str().into())
    }),
    ("block-device-mapping.status", |v| {
        each_volume(v, |volume| volume::attachment_status(&v.instance, volume).into())
    }),
    ("block-device-mapping.volume-id", |v| {
        each_volume(v, |volume| volume.volume_id.as_str().into())
    }),
    ("boot-mode", none),
    ("capacity-reservation-id", none),
    ("capacity-reservation-specification.capacity-reservation-preference", |_| vec!["open".into()]),
    (
        "capacity-reservation-specification.capacity-reservation-target.capacity-reservation-id",
        none,
    ),
    (
        "capacity-reservation-specification.capacity-reservation-target.\
         capacity-reservation-resource-group-arn",
        none,
    ),
    ("client-token", |v| one(v.instance.client_token.as_deref())),
    ("current-instance-boot-mode", |_| vec!["legacy-bios".into()]),
    ("dns-name", public_name),
    ("ebs-optimized", |v| vec![v.instance.ebs_optimized.to_string().into()]),
    ("ena-support", yes),
    ("enclave-options.enabled", no),
    // Older spelling of instance.group-id and instance.group-name, which clients still send.
    ("group-id", group_ids),
    ("group-name", group_names),
    ("hibernation-options.configured", no),
    ("host-id", none),
    ("hypervisor", |_| vec!["xen".into()]),
    ("iam-instance-profile.arn", none),
    ("iam-instance-profile.id", none),
    ("iam-instance-profile.name", none),
    ("image-id", |v| vec![v.instance.image_id.as_str().into()]),
    ("instance-id", |v| vec![v.instance.id.as_str().into()]),
    ("instance-lifecycle", none),
    ("instance-state-code", |v| vec![v.instance.state.code().to_string().into()]),
    ("instance-state-name", |v| vec![v.instance.state.name().into()]),
    ("instance-type", |v| vec![v.instance.instance_type.as_str().into()]),
    ("instance.group-id", group_ids),
    ("instance.group-name", group_names),
    ("ip-address", public_ip),
    ("ipv6-address", ipv6),
    ("kernel-id", none),
    ("key-name", |v| one(v.instance.key_name.as_deref())),
    ("launch-index", |v| vec![v.instance.launch_index.to_string().into()]),
    ("launch-time", |v| vec![v.instance.launched.iso_millis().into()]),
    ("maintenance-options.auto-recovery", default),
    ("metadata-options.http-endpoint", |v| flag(v.instance.metadata_options.enabled)),
    ("metadata-options.http-protocol-ipv4", |v| flag(v.instance.metadata_options.enabled)),
    ("metadata-options.http-protocol-ipv6", |_| flag(false)),
    ("metadata-options.http-put-response-hop-limit", |v| {
        vec![v.instance.metadata_options.hop_limit.to_string().into()]
    }),
    ("metadata-options.http-tokens", |v| vec![tokens(&v.instance.metadata_options).into()]),
    ("metadata-options.instance-metadata-tags", |v| flag(v.instance.metadata_options.tags)),
    ("metadata-options.state", |_| vec!["applied".into()]),
    ("monitoring-state", |v| vec![monitoring(&v.instance).into()]),
    ("network-interface.addresses.association.allocation-id", allocation_id),
    ("network-interface.addresses.association.association-id", association_id),
    ("network-interface.addresses.association.carrier-ip", none),
    ("network-interface.addresses.association.customer-owned-ip", none),
    ("network-interface.addresses.association.ip-owner-id", interface_owner),
    ("network-interface.addresses.association.public-dns-name", interface_public_name),
    ("network-interface.addresses.association.public-ip", interface_public_ip),
    ("network-interface.addresses.primary", |v| {
        on_interfaces(v, |interface| {
            std::iter::once("true".to_owned())
                .chain(interface.secondary.iter().map(|_| "false".to_owned()))
        })
    }),
    ("network-interface.addresses.private-dns-name", interface_names),
    ("network-interface.addresses.private-ip-address", private_ips),
    ("network-interface.association.allocation-id", allocation_id),
    ("network-interface.association.association-id", association_id),
    ("network-interface.association.carrier-ip", none),
    ("network-interface.association.customer-owned-ip", none),
    ("network-interface.association.ip-owner-id", interface_owner),
    ("network-interface.association.public-dns-name", interface_public_name),
    ("network-interface.association.public-ip", interface_public_ip),
    ("network-interface.attachment.attach-time", |v| {
        on_attachment(v, |a| a.attached.iso_millis().into())
    }),
    ("network-interface.attachment.attachment-id", |v| on_attachment(v, |a| a.id.as_str().into())),
    ("network-interface.attachment.delete-on-termination", |v| {
        on_attachment(v, |a| a.delete_on_termination.to_string().into())
    }),
    ("network-interface.attachment.device-index", |v| {
        on_attachment(v, |a| a.device_index.to_string().into())
    }),
    ("network-interface.attachment.instance-id", |v| {
        on_attachment(v, |a| a.instance_id.as_str().into())
    }),
    ("network-interface.attachment.instance-owner-id", |v| {
        on_attachment(v, |_| v.account.as_str().into())
    }),
    ("network-interface.attachment.network-card-index", |v| on_attachment(v, |_| "0".into())),
    ("network-interface.attachment.status", |v| {
        on_attachment(v, |a| v.attachment_status(a).into())
    }),
    ("network-interface.availability-zone", |v| {
        on_interface(v, |i| i.availability_zone.as_str().into())
    }),
    ("network-interface.deny-all-igw-traffic", no),
    ("network-interface.description", |v| on_interface(v, |i| i.description.as_str().into())),
    ("network-interface.group-id", interface_group_ids),
    ("network-interface.group-name", interface_group_names),
    ("network-interface.ipv4-prefixes.ipv4-prefix", |v| {
        on_interfaces(v, |interface| interface.prefixes.iter().map(ToString::to_string))
    }),
    ("network-interface.ipv6-address", ipv6),
    ("network-interface.ipv6-addresses.ipv6-address", ipv6),
    ("network-interface.ipv6-addresses.is-primary-ipv6", |v| {
        on_interfaces(v, |interface| {
            let numbered = interface.ipv6.iter().enumerate();
            numbered.map(|(number, _)| (interface.primary_ipv6 && number == 0).to_string())
        })
    }),
    ("network-interface.ipv6-native", no),
    ("network-interface.ipv6-prefixes.ipv6-prefix", |v| {
        on_interfaces(v, |interface| interface.ipv6_prefixes.iter().map(ToString::to_string))
    }),
    ("network-interface.mac-address", |v| on_interface(v, |i| i.mac.as_str().into())),
    ("network-interface.network-interface-id", |v| on_interface(v, |i| i.id.as_str().into())),
    ("network-interface.operator.managed", no),
    ("network-interface.operator.principal", none),
    ("network-interface.outpost-arn", none),
    ("network-interface.owner-id", |v| on_interface(v, |_| v.account.as_str().into())),
    ("network-interface.private-dns-name", interface_names),
    ("network-interface.private-ip-address", private_ips),
    ("network-interface.public-dns-name", interface_public_name),
    ("network-interface.requester-id", none),
    ("network-interface.requester-managed", no),
    ("network-interface.source-dest-check", |v| {
        on_interface(v, |i| i.source_dest_check.to_string().into())
    }),
    ("network-interface.status", |v| on_interface(v, |_| "in-use".into())),
    ("network-interface.subnet-id", |v| on_interface(v, |i| i.subnet_id.as_str().into())),
    ("network-interface.tag-key", |v| on_interfaces(v, |interface| interface.tags.keys().cloned())),
    ("network-interface.tag-value", |v| {
        on_interfaces(v, |interface| interface.tags.values().cloned())
    }),
    ("network-interface.vpc-id", |v| on_interface(v, |i| i.vpc_id.as_str().into())),
    ("network-performance-options.bandwidth-weighting", default),
    ("operator.managed", no),
    ("operator.principal", none),
    ("outpost-arn", none),
    ("owner-id", |v| vec![v.account.as_str().into()]),
    ("placement-group-name", none),
    ("placement-partition-number", none),
    ("platform", none),
    ("platform-details", |_| vec!["Linux/UNIX".into()]),
    ("private-dns-name", private_name),
    ("private-dns-name-options.enable-resource-name-dns-a-record", |v| {
        vec![v.instance.name_options.resource_name_a.to_string().into()]
    }),
    ("private-dns-name-options.enable-resource-name-dns-aaaa-record", |v| {
        vec![v.instance.name_options.resource_name_aaaa.to_string().into()]
    }),
    ("private-dns-name-options.hostname-type", |v| vec![hostname_type(&v.instance).into()]),
    ("private-ip-address", |v| one((!v.is_gone()).then(|| v.instance.private_ip.to_string()))),
    ("product-code", none),
    ("product-code.type", none),
    ("ramdisk-id", none),
    ("reason", |v| vec![v.instance.transition_reason.as_str().into()]),
    ("requester-id", none),
    ("reservation-id", |v| vec![v.instance.reservation_id.as_str().into()]),
    ("root-device-name", |v| vec![v.instance.root_device_name.as_str().into()]),
    ("root-device-type", |_| vec!["ebs".into()]),
    (
        "source-dest-check",
        |v| one((!v.is_gone()).then(|| v.instance.source_dest_check.to_string())),
    ),
    ("spot-instance-request-id", none),
    ("state-reason-code", |v| one(v.instance.state_reason.as_ref().map(|r| r.code.as_str()))),
    ("state-reason-message", |v| one(v.instance.state_reason.as_ref().map(|r| r.message.as_str()))),
    ("subnet-id", |v| live(v, &v.instance.subnet_id)),
    ("tenancy", default),
    ("tpm-support", none),
    ("usage-operation", |_| vec!["RunInstances".into()]),
    ("usage-operation-update-time", |v| vec![v.instance.created.iso_millis().into()]),
    ("virtualization-type", |_| vec!["hvm".into()]),
    ("vpc-id", |v| live(v, &v.instance.vpc_id)),
];

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
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
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
