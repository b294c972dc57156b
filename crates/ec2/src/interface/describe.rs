//! DescribeNetworkInterfaces, and the API's shape of an interface.

use super::{Names, one, peek, private_dns_name, public_dns_name};
use crate::record::{self, AttachmentState, ElasticPart, Instance, Interface, InterfaceKind, key};
use crate::tag;
use base::Timestamp;
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How long an attachment that ended shows as `detached` to who asks for it by its id, in the
/// region's milliseconds. Clients wait for that word.
const DETACHED_MILLIS: i64 = 15_000;

/// Who owns what services attach (EC2 API Reference, "NetworkInterfaceAttachment").
const SERVICE: &str = "amazon-aws";

/// An interface with what its description and its filters need.
struct View {
    interface: Arc<Interface>,
    groups: Vec<api::GroupIdentifier>,
    region: String,
    account: String,
    zone_id: String,
    private_dns_name: String,
    /// Public addresses have names.
    has_names: bool,
    /// Where it is attached, or, for who asks for that attachment by its id, was a moment ago.
    place: Option<Place>,
}

/// An attachment and how far it is.
struct Place {
    attachment: record::InterfaceAttachment,
    status: &'static str,
}

/// One private address with what it is translated to.
struct Address<'a> {
    private_ip: Ipv4Addr,
    primary: bool,
    public_ip: Option<Ipv4Addr>,
    elastic: Option<&'a ElasticPart>,
}

/// The interface as the API shows it.
///
/// # Errors
/// Internal: a record cannot be read.
pub(super) fn show(
    call: &Call<'_>,
    interface: Arc<Interface>,
) -> Result<api::NetworkInterface, Error> {
    Ok(View::new(call, &mut Names::default(), interface)?.into_model())
}

/// InterfaceType, and the id of the service's resource.
fn kind(interface: &Interface) -> (&'static str, Option<&str>) {
    match &interface.kind {
        InterfaceKind::Interface => ("interface", None),
        InterfaceKind::NatGateway(id) => ("nat_gateway", Some(id)),
        InterfaceKind::VpcEndpoint(id) => ("vpc_endpoint", Some(id)),
        InterfaceKind::TransitGateway(id) => ("transit_gateway", Some(id)),
    }
}

/// How far an attachment is.
pub(crate) fn attachment_status(state: AttachmentState) -> &'static str {
    match state {
        AttachmentState::Attaching => "attaching",
        AttachmentState::Attached => "attached",
        AttachmentState::Detaching => "detaching",
    }
}

impl View {
    fn new(call: &Call<'_>, names: &mut Names, interface: Arc<Interface>) -> Result<Self, Error> {
        Ok(View {
            groups: names.groups(call, &interface.groups)?,
            region: call.region.to_owned(),
            account: call.account().to_owned(),
            zone_id: names.zone_id(call.region, &interface.availability_zone),
            private_dns_name: private_dns_name(call.region, interface.private_ip),
            has_names: names.dns_hostnames(call, &interface.vpc_id)?,
            place: interface.attachment.as_ref().map(|attachment| Place {
                attachment: attachment.clone(),
                status: attachment_status(attachment.state),
            }),
            interface,
        })
    }

    /// Shows the attachment that ended lately, if it is one of `ids`.
    fn with_detached(mut self, ids: &[String], now: Timestamp) -> Self {
        if let (None, Some((attachment, at))) = (&self.place, &self.interface.detached)
            && ids.contains(&attachment.id)
            && now < at.plus_millis(DETACHED_MILLIS)
        {
            self.place = Some(Place { attachment: attachment.clone(), status: "detached" });
        }
        self
    }

    fn is_managed(&self) -> bool {
        self.interface.kind != InterfaceKind::Interface
    }

    fn status(&self) -> &'static str {
        match &self.interface.attachment {
            None if self.is_managed() => "in-use",
            None => "available",
            Some(attachment) => match attachment.state {
                AttachmentState::Attaching => "attaching",
                AttachmentState::Attached => "in-use",
                AttachmentState::Detaching => "detaching",
            },
        }
    }

    fn addresses(&self) -> impl Iterator<Item = Address<'_>> {
        let interface = &*self.interface;
        let primary = Address {
            private_ip: interface.private_ip,
            primary: true,
            public_ip: interface.public_ip,
            elastic: interface.elastic.as_ref(),
        };
        let secondary = interface.secondary.iter().map(|address| Address {
            private_ip: address.private_ip,
            primary: false,
            public_ip: address.elastic.as_ref().map(|part| part.public_ip),
            elastic: address.elastic.as_ref(),
        });
        std::iter::once(primary).chain(secondary)
    }

    /// The addresses that have a public one.
    fn public(&self) -> impl Iterator<Item = (Ipv4Addr, Address<'_>)> {
        self.addresses().filter_map(|address| Some((address.public_ip?, address)))
    }

    fn public_name(&self, address: Ipv4Addr) -> String {
        if self.has_names { public_dns_name(&self.region, address) } else { String::new() }
    }

    fn owner<'a>(&'a self, address: &Address<'a>) -> &'a str {
        if address.elastic.is_some() { &self.account } else { "amazon" }
    }

    fn association(&self, of: &Address<'_>) -> Option<api::NetworkInterfaceAssociation> {
        let address = of.public_ip?;
        Some(api::NetworkInterfaceAssociation {
            allocation_id: of.elastic.map(|part| part.allocation_id.clone()),
            association_id: of.elastic.map(|part| part.association_id.clone()),
            ip_owner_id: Some(self.owner(of).to_owned()),
            public_dns_name: Some(self.public_name(address)),
            public_ip: Some(address.to_string()),
            ..Default::default()
        })
    }

    fn attachment(&self) -> Option<api::NetworkInterfaceAttachment> {
        let Some(Place { attachment, status }) = &self.place else {
            // What a service holds is attached to something that is not ours.
            return self.is_managed().then(|| api::NetworkInterfaceAttachment {
                attachment_id: Some(service_attachment(&self.interface.id)),
                delete_on_termination: Some(false),
                device_index: Some(1),
                instance_owner_id: Some(SERVICE.to_owned()),
                network_card_index: Some(0),
                status: Some("attached".to_owned()),
                ..Default::default()
            });
        };
        Some(api::NetworkInterfaceAttachment {
            attach_time: Some(attachment.attached),
            attachment_id: Some(attachment.id.clone()),
            delete_on_termination: Some(attachment.delete_on_termination),
            device_index: i32::try_from(attachment.device_index).ok(),
            instance_id: Some(attachment.instance_id.clone()),
            instance_owner_id: Some(self.account.clone()),
            network_card_index: Some(0),
            status: Some((*status).to_owned()),
            ..Default::default()
        })
    }

    fn into_model(self) -> api::NetworkInterface {
        let interface = &*self.interface;
        let prefixes = interface
            .prefixes
            .iter()
            .map(|prefix| api::Ipv4PrefixSpecification { ipv4_prefix: Some(prefix.to_string()) });
        let ipv6_prefixes = interface
            .ipv6_prefixes
            .iter()
            .map(|prefix| api::Ipv6PrefixSpecification { ipv6_prefix: Some(prefix.to_string()) });
        let ipv6 = interface.ipv6.iter().enumerate().map(|(place, address)| {
            api::NetworkInterfaceIpv6Address {
                ipv6_address: Some(address.to_string()),
                is_primary_ipv6: Some(interface.primary_ipv6 && place == 0),
                ..Default::default()
            }
        });
        let addresses = self.addresses().map(|address| api::NetworkInterfacePrivateIpAddress {
            association: self.association(&address),
            primary: Some(address.primary),
            private_dns_name: Some(private_dns_name(&self.region, address.private_ip)),
            private_ip_address: Some(address.private_ip.to_string()),
        });
        let public_dns_name = interface.public_ip.map(|address| self.public_name(address));
        let managed = self.is_managed();
        api::NetworkInterface {
            association: self.addresses().next().and_then(|primary| self.association(&primary)),
            attachment: self.attachment(),
            availability_zone: Some(interface.availability_zone.clone()),
            availability_zone_id: Some(self.zone_id.clone()),
            description: Some(interface.description.clone()),
            groups: Some(self.groups.clone()),
            interface_type: Some(kind(interface).0.to_owned()),
            ipv4_prefixes: (!interface.prefixes.is_empty()).then(|| prefixes.collect()),
            ipv6_address: interface.ipv6.first().map(ToString::to_string),
            ipv6_addresses: Some(ipv6.collect()),
            ipv6_prefixes: (!interface.ipv6_prefixes.is_empty()).then(|| ipv6_prefixes.collect()),
            mac_address: Some(interface.mac.clone()),
            network_interface_id: Some(interface.id.clone()),
            operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
            owner_id: Some(self.account.clone()),
            private_dns_name: Some(self.private_dns_name.clone()),
            private_ip_address: Some(interface.private_ip.to_string()),
            private_ip_addresses: Some(addresses.collect()),
            public_dns_name: public_dns_name.filter(|name| !name.is_empty()),
            requester_id: managed.then(|| SERVICE.to_owned()),
            requester_managed: Some(managed),
            source_dest_check: Some(interface.source_dest_check),
            status: Some(self.status().to_owned()),
            subnet_id: Some(interface.subnet_id.clone()),
            tag_set: Some(tag::to_model(&interface.tags).unwrap_or_default()),
            vpc_id: Some(interface.vpc_id.clone()),
            ..Default::default()
        }
    }
}

/// The id under which a service's interface is attached, which follows from its own.
fn service_attachment(interface_id: &str) -> String {
    format!("ela-attach-{}", interface_id.trim_start_matches("eni-"))
}

fn attachment<'a>(
    view: &'a View,
    value: impl Fn(&'a record::InterfaceAttachment) -> Cow<'a, str>,
) -> Values<'a> {
    view.place.iter().map(|place| value(&place.attachment)).collect()
}

/// Of the primary address.
fn primary<'a>(view: &'a View, value: impl Fn(&'a ElasticPart) -> &'a str) -> Values<'a> {
    view.interface.elastic.iter().map(|part| value(part).into()).collect()
}

fn public_ip(view: &View) -> Values<'_> {
    one(view.interface.public_ip.map(|address| address.to_string()))
}

fn public_name(view: &View) -> Values<'_> {
    let name = view.interface.public_ip.map(|address| view.public_name(address));
    one(name.filter(|name| !name.is_empty()))
}

fn private_ips(view: &View) -> Values<'_> {
    view.addresses().map(|address| address.private_ip.to_string().into()).collect()
}

const FILTERS: &[Field<View>] = &[
    ("addresses.association.owner-id", |v| {
        v.public().map(|(_, address)| v.owner(&address).to_owned().into()).collect()
    }),
    ("addresses.association.public-ip", |v| {
        v.public().map(|(public, _)| public.to_string().into()).collect()
    }),
    ("addresses.primary", |v| {
        v.addresses().map(|address| address.primary.to_string().into()).collect()
    }),
    ("addresses.private-ip-address", private_ips),
    ("association.allocation-id", |v| primary(v, |part| &part.allocation_id)),
    ("association.association-id", |v| primary(v, |part| &part.association_id)),
    ("association.ip-owner-id", |v| {
        let owner = v.addresses().next().filter(|primary| primary.public_ip.is_some());
        one(owner.map(|primary| v.owner(&primary).to_owned()))
    }),
    ("association.public-dns-name", public_name),
    ("association.public-ip", public_ip),
    ("attachment.attach-time", |v| attachment(v, |a| a.attached.iso_millis().into())),
    ("attachment.attachment-id", |v| attachment(v, |a| a.id.as_str().into())),
    ("attachment.delete-on-termination", |v| {
        attachment(v, |a| a.delete_on_termination.to_string().into())
    }),
    ("attachment.device-index", |v| attachment(v, |a| a.device_index.to_string().into())),
    ("attachment.instance-id", |v| attachment(v, |a| a.instance_id.as_str().into())),
    ("attachment.instance-owner-id", |v| attachment(v, |_| v.account.as_str().into())),
    ("attachment.status", |v| one(v.place.as_ref().map(|place| place.status))),
    ("availability-zone", |v| vec![v.interface.availability_zone.as_str().into()]),
    ("availability-zone-id", |v| vec![v.zone_id.as_str().into()]),
    ("description", |v| vec![v.interface.description.as_str().into()]),
    ("group-id", |v| v.interface.groups.iter().map(|id| id.as_str().into()).collect()),
    ("group-name", |v| {
        v.groups.iter().filter_map(|g| g.group_name.as_deref()).map(Into::into).collect()
    }),
    ("interface-type", |v| vec![kind(&v.interface).0.into()]),
    ("ipv6-addresses.ipv6-address", |v| {
        v.interface.ipv6.iter().map(|address| address.to_string().into()).collect()
    }),
    ("mac-address", |v| vec![v.interface.mac.as_str().into()]),
    ("network-interface-id", |v| vec![v.interface.id.as_str().into()]),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", |_| Vec::new()),
    ("owner-id", |v| vec![v.account.as_str().into()]),
    ("private-dns-name", |v| vec![v.private_dns_name.as_str().into()]),
    ("private-ip-address", private_ips),
    ("requester-id", |v| one(v.is_managed().then_some(SERVICE))),
    ("requester-managed", |v| vec![v.is_managed().to_string().into()]),
    ("source-dest-check", |v| vec![v.interface.source_dest_check.to_string().into()]),
    ("status", |v| vec![v.status().into()]),
    ("subnet-id", |v| vec![v.interface.subnet_id.as_str().into()]),
    ("vpc-id", |v| vec![v.interface.vpc_id.as_str().into()]),
];

pub(super) fn describe_network_interfaces(
    call: &mut Call<'_>,
    input: api::DescribeNetworkInterfacesRequest,
) -> Result<api::DescribeNetworkInterfacesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.network_interface_ids.unwrap_or_default();
    if !ids.is_empty() && input.max_results.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter networkInterfaceIdSet cannot be used with the parameter maxResults",
        ));
    }
    let mut found: Vec<Arc<Interface>> = Vec::new();
    if !ids.is_empty() {
        for id in &ids {
            found.push(peek(call, id)?);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.dedup_by(|a, b| a.id == b.id);
    } else if let Some(instances) = filters.exact("attachment.instance-id") {
        // What clients ask after a launch; not worth a scan.
        for id in instances {
            let at = key::of(call.region, key::INSTANCE, call.account(), id);
            let Some(instance) = call.peek::<Instance>(&at)? else { continue };
            let more = instance.more_interfaces.iter().map(|place| &place.interface_id);
            for id in std::iter::once(&instance.interface_id).chain(more) {
                let at = key::of(call.region, key::INTERFACE, call.account(), id);
                found.extend(call.peek::<Interface>(&at)?);
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.dedup_by(|a, b| a.id == b.id);
    } else {
        found = call.scan(&key::of(call.region, key::INTERFACE, call.account(), ""))?;
    }
    let mut names = Names::default();
    let mut views = Vec::with_capacity(found.len());
    for interface in found {
        let mut view = View::new(call, &mut names, interface)?;
        if let Some(ids) = filters.exact("attachment.attachment-id") {
            view = view.with_detached(ids, call.now);
        }
        if filters.accept(&view, &view.interface.tags) {
            views.push(view);
        }
    }
    let page = page(
        views,
        |view| view.interface.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::DescribeNetworkInterfacesResult {
        network_interfaces: Some(page.items.into_iter().map(View::into_model).collect()),
        next_token: page.next_token,
    })
}
