//! The filters of DescribeInstances.

use super::{View, hostname_type, monitoring};
use crate::instance::tokens;
use crate::interface::{one, private_dns_name};
use crate::record::{AttachedVolume, ElasticPart, Interface, InterfaceAttachment};
use crate::volume;
use service::filter::{Field, Values};
use std::borrow::Cow;
use std::net::Ipv4Addr;

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
pub(super) const FILTERS: &[Field<View>] = &[
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
