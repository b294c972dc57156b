//! Network interfaces: DescribeNetworkInterfaces and the two attribute operations.
//!
//! An interface is made by a launch and, unless told otherwise, dies with its instance. Its record
//! is the authority for MAC, security groups, description and source check; the instance's record
//! has the addresses beside it because every description of an instance shows them.
//!
//! Not here: CreateNetworkInterface and its like, elastic addresses, secondary addresses, IPv6.

use crate::record::{self, Instance, Interface, key};
use crate::{region, tag};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// ModifyNetworkInterfaceAttribute has a bucket of its own (EC2 API Reference, "Request
/// throttling").
const MODIFY_RATE: Rate = Rate::new(100.0, 5.0);

/// Most security groups of an interface (Amazon VPC User Guide, "Amazon VPC quotas").
pub(crate) const MAX_GROUPS: usize = 5;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DescribeNetworkInterfaces,
        describe_network_interfaces,
        Read,
        ["Filters.*", "NetworkInterfaceIds", "MaxResults", "NextToken", "IncludeManagedResources"]
    ),
    operation!(
        op::DescribeNetworkInterfaceAttribute,
        describe_network_interface_attribute,
        Read,
        ["NetworkInterfaceId", "Attribute"]
    ),
    operation!(
        op::ModifyNetworkInterfaceAttribute,
        modify_network_interface_attribute,
        Write,
        [
            "NetworkInterfaceId",
            "Description.Value",
            "Groups",
            "SourceDestCheck.Value",
            "Attachment.AttachmentId",
            "Attachment.DeleteOnTermination",
        ],
        MODIFY_RATE
    ),
];

/// The domain of private names in a region (VPC User Guide, "DHCP option sets").
pub(crate) fn private_domain(region: &str) -> String {
    if region == "us-east-1" {
        "ec2.internal".to_owned()
    } else {
        format!("{region}.compute.internal")
    }
}

/// Private DNS name of an address (EC2 User Guide, "EC2 instance hostnames and domains").
pub(crate) fn private_dns_name(region: &str, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{}", private_domain(region))
}

/// Public DNS name of an address, in a VPC with enableDnsHostnames.
pub(crate) fn public_dns_name(region: &str, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    if region == "us-east-1" {
        format!("ec2-{a}-{b}-{c}-{d}.compute-1.amazonaws.com")
    } else {
        format!("ec2-{a}-{b}-{c}-{d}.{region}.compute.amazonaws.com")
    }
}

/// Names that descriptions show beside ids, read once a request.
#[derive(Debug, Default)]
pub(crate) struct Names {
    groups: HashMap<String, Option<String>>,
    dns_hostnames: HashMap<String, bool>,
    zones: Vec<region::Zone>,
}

impl Names {
    /// Group ids with their names. A group that was deleted meanwhile is left out.
    pub(crate) fn groups(
        &mut self,
        call: &Call<'_>,
        ids: &[String],
    ) -> Result<Vec<api::GroupIdentifier>, Error> {
        let mut identifiers = Vec::with_capacity(ids.len());
        for id in ids {
            if !self.groups.contains_key(id) {
                let key = key::of(call.region, key::SECURITY_GROUP, call.account(), id);
                let found = call.peek::<record::SecurityGroup>(&key)?;
                self.groups.insert(id.clone(), found.map(|group| group.name.clone()));
            }
            if let Some(Some(name)) = self.groups.get(id) {
                identifiers.push(api::GroupIdentifier {
                    group_id: Some(id.clone()),
                    group_name: Some(name.clone()),
                });
            }
        }
        Ok(identifiers)
    }

    /// The id of a zone, such as `use1-az1`; empty for one that the region has not.
    pub(crate) fn zone_id(&mut self, region: &str, zone_name: &str) -> String {
        if self.zones.is_empty() {
            self.zones = region::zones(region);
        }
        let zone = self.zones.iter().find(|zone| zone.name == zone_name);
        zone.map(|zone| zone.id.clone()).unwrap_or_default()
    }

    /// Whether public addresses in the VPC have names.
    pub(crate) fn dns_hostnames(&mut self, call: &Call<'_>, vpc_id: &str) -> Result<bool, Error> {
        if let Some(known) = self.dns_hostnames.get(vpc_id) {
            return Ok(*known);
        }
        let key = key::of(call.region, key::VPC, call.account(), vpc_id);
        let enabled = call.peek::<record::Vpc>(&key)?.is_some_and(|vpc| vpc.dns_hostnames);
        self.dns_hostnames.insert(vpc_id.to_owned(), enabled);
        Ok(enabled)
    }
}

/// An interface with what its description and its filters need.
struct View {
    interface: Arc<Interface>,
    groups: Vec<api::GroupIdentifier>,
    account: String,
    zone_id: String,
    private_dns_name: String,
    public_dns_name: Option<String>,
}

impl View {
    fn new(call: &Call<'_>, names: &mut Names, interface: Arc<Interface>) -> Result<Self, Error> {
        let public_dns_name = match interface.public_ip {
            Some(address) if names.dns_hostnames(call, &interface.vpc_id)? => {
                Some(public_dns_name(call.region, address))
            }
            _ => None,
        };
        Ok(View {
            groups: names.groups(call, &interface.groups)?,
            account: call.account().to_owned(),
            zone_id: names.zone_id(call.region, &interface.availability_zone),
            private_dns_name: private_dns_name(call.region, interface.private_ip),
            public_dns_name,
            interface,
        })
    }

    fn status(&self) -> &'static str {
        if self.interface.attachment.is_some() { "in-use" } else { "available" }
    }

    fn association(&self) -> Option<api::NetworkInterfaceAssociation> {
        self.interface.public_ip.map(|address| api::NetworkInterfaceAssociation {
            ip_owner_id: Some("amazon".to_owned()),
            public_dns_name: Some(self.public_dns_name.clone().unwrap_or_default()),
            public_ip: Some(address.to_string()),
            ..Default::default()
        })
    }

    fn into_model(self) -> api::NetworkInterface {
        let association = self.association();
        let status = self.status();
        let interface = &*self.interface;
        api::NetworkInterface {
            association: association.clone(),
            attachment: interface.attachment.as_ref().map(|attachment| {
                api::NetworkInterfaceAttachment {
                    attach_time: Some(attachment.attached),
                    attachment_id: Some(attachment.id.clone()),
                    delete_on_termination: Some(attachment.delete_on_termination),
                    device_index: i32::try_from(attachment.device_index).ok(),
                    instance_id: Some(attachment.instance_id.clone()),
                    instance_owner_id: Some(self.account.clone()),
                    network_card_index: Some(0),
                    status: Some("attached".to_owned()),
                    ..Default::default()
                }
            }),
            availability_zone: Some(interface.availability_zone.clone()),
            availability_zone_id: Some(self.zone_id),
            description: Some(interface.description.clone()),
            groups: Some(self.groups),
            interface_type: Some("interface".to_owned()),
            ipv6_addresses: Some(Vec::new()),
            mac_address: Some(interface.mac.clone()),
            network_interface_id: Some(interface.id.clone()),
            operator: Some(api::OperatorResponse { managed: Some(false), ..Default::default() }),
            owner_id: Some(self.account),
            private_dns_name: Some(self.private_dns_name.clone()),
            private_ip_address: Some(interface.private_ip.to_string()),
            private_ip_addresses: Some(vec![api::NetworkInterfacePrivateIpAddress {
                association,
                primary: Some(true),
                private_dns_name: Some(self.private_dns_name),
                private_ip_address: Some(interface.private_ip.to_string()),
            }]),
            public_dns_name: self.public_dns_name,
            requester_managed: Some(false),
            source_dest_check: Some(interface.source_dest_check),
            status: Some(status.to_owned()),
            subnet_id: Some(interface.subnet_id.clone()),
            tag_set: Some(tag::to_model(&interface.tags).unwrap_or_default()),
            vpc_id: Some(interface.vpc_id.clone()),
            ..Default::default()
        }
    }
}

/// A filter value that may be absent.
pub(crate) fn one<'a>(value: Option<impl Into<Cow<'a, str>>>) -> Values<'a> {
    value.map(Into::into).into_iter().collect()
}

fn attachment<'a>(
    view: &'a View,
    value: impl Fn(&'a record::InterfaceAttachment) -> Cow<'a, str>,
) -> Values<'a> {
    view.interface.attachment.iter().map(value).collect()
}

fn public_ip(view: &View) -> Values<'_> {
    one(view.interface.public_ip.map(|address| address.to_string()))
}

fn address_owner(view: &View) -> Values<'_> {
    one(view.interface.public_ip.map(|_| "amazon"))
}

const FILTERS: &[Field<View>] = &[
    ("addresses.association.owner-id", address_owner),
    ("addresses.association.public-ip", public_ip),
    ("addresses.primary", |_| vec!["true".into()]),
    ("addresses.private-ip-address", |v| vec![v.interface.private_ip.to_string().into()]),
    ("association.allocation-id", |_| Vec::new()),
    ("association.association-id", |_| Vec::new()),
    ("association.ip-owner-id", address_owner),
    ("association.public-dns-name", |v| one(v.public_dns_name.as_deref())),
    ("association.public-ip", public_ip),
    ("attachment.attach-time", |v| attachment(v, |a| a.attached.iso_millis().into())),
    ("attachment.attachment-id", |v| attachment(v, |a| a.id.as_str().into())),
    ("attachment.delete-on-termination", |v| {
        attachment(v, |a| a.delete_on_termination.to_string().into())
    }),
    ("attachment.device-index", |v| attachment(v, |a| a.device_index.to_string().into())),
    ("attachment.instance-id", |v| attachment(v, |a| a.instance_id.as_str().into())),
    ("attachment.instance-owner-id", |v| attachment(v, |_| v.account.as_str().into())),
    ("attachment.status", |v| attachment(v, |_| "attached".into())),
    ("availability-zone", |v| vec![v.interface.availability_zone.as_str().into()]),
    ("availability-zone-id", |v| vec![v.zone_id.as_str().into()]),
    ("description", |v| vec![v.interface.description.as_str().into()]),
    ("group-id", |v| v.interface.groups.iter().map(|id| id.as_str().into()).collect()),
    ("group-name", |v| {
        v.groups.iter().filter_map(|g| g.group_name.as_deref()).map(Into::into).collect()
    }),
    ("interface-type", |_| vec!["interface".into()]),
    ("ipv6-addresses.ipv6-address", |_| Vec::new()),
    ("mac-address", |v| vec![v.interface.mac.as_str().into()]),
    ("network-interface-id", |v| vec![v.interface.id.as_str().into()]),
    ("operator.managed", |_| vec!["false".into()]),
    ("operator.principal", |_| Vec::new()),
    ("owner-id", |v| vec![v.account.as_str().into()]),
    ("private-dns-name", |v| vec![v.private_dns_name.as_str().into()]),
    ("private-ip-address", |v| vec![v.interface.private_ip.to_string().into()]),
    ("requester-id", |_| Vec::new()),
    ("requester-managed", |_| vec!["false".into()]),
    ("source-dest-check", |v| vec![v.interface.source_dest_check.to_string().into()]),
    ("status", |v| vec![v.status().into()]),
    ("subnet-id", |v| vec![v.interface.subnet_id.as_str().into()]),
    ("vpc-id", |v| vec![v.interface.vpc_id.as_str().into()]),
];

fn describe_network_interfaces(
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
            let at = key::of(call.region, key::INTERFACE, call.account(), &instance.interface_id);
            found.extend(call.peek::<Interface>(&at)?);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.dedup_by(|a, b| a.id == b.id);
    } else {
        found = call.scan(&key::of(call.region, key::INTERFACE, call.account(), ""))?;
    }
    let mut names = Names::default();
    let mut views = Vec::with_capacity(found.len());
    for interface in found {
        let view = View::new(call, &mut names, interface)?;
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

fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("eni", id) {
        return Ok(());
    }
    Err(Error::client(
        "InvalidNetworkInterfaceId.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"eni-...\")"),
    ))
}

fn not_found(id: &str) -> Error {
    Error::client(
        "InvalidNetworkInterfaceID.NotFound",
        format!("The networkInterface ID '{id}' does not exist"),
    )
}

fn peek(call: &Call<'_>, id: &str) -> Result<Arc<Interface>, Error> {
    check_id(id)?;
    call.peek(&key::of(call.region, key::INTERFACE, call.account(), id))?
        .ok_or_else(|| not_found(id))
}

fn describe_network_interface_attribute(
    call: &mut Call<'_>,
    input: api::DescribeNetworkInterfaceAttributeRequest,
) -> Result<api::DescribeNetworkInterfaceAttributeResult, Error> {
    let id = input.network_interface_id.unwrap_or_default();
    let view = View::new(call, &mut Names::default(), peek(call, &id)?)?;
    let description = view.interface.description.clone();
    let source_dest_check = view.interface.source_dest_check;
    let shown = view.into_model();
    let mut answer = api::DescribeNetworkInterfaceAttributeResult {
        network_interface_id: Some(id),
        ..Default::default()
    };
    match input.attribute.as_deref().unwrap_or_default() {
        "attachment" => answer.attachment = shown.attachment,
        "description" => {
            answer.description = Some(api::AttributeValue { value: Some(description) });
        }
        "groupSet" => answer.groups = shown.groups,
        "sourceDestCheck" => {
            answer.source_dest_check =
                Some(api::AttributeBooleanValue { value: Some(source_dest_check) });
        }
        other => {
            return Err(Error::unsupported(format!(
                "The attribute '{other}' of a network interface is not supported yet."
            )));
        }
    }
    Ok(answer)
}

/// Checks that every group exists in the VPC of an interface, the commit depending on it.
///
/// # Errors
/// As AWS words them; `subnet_id` only stands in the text.
pub(crate) fn check_groups(
    call: &mut Call<'_>,
    ids: &[String],
    vpc_id: &str,
    subnet_id: &str,
) -> Result<(), Error> {
    if ids.len() > MAX_GROUPS {
        return Err(Error::client(
            "SecurityGroupsPerInterfaceLimitExceeded",
            format!(
                "The maximum number of security groups per interface has been reached. \
                 Maximum: {MAX_GROUPS}"
            ),
        ));
    }
    for id in ids {
        if !base::id::is_valid("sg", id) {
            return Err(Error::client(
                "InvalidGroupId.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"sg-...\")"),
            ));
        }
        let at = key::of(call.region, key::SECURITY_GROUP, call.account(), id);
        let Some(group) = call.get::<record::SecurityGroup>(&at)? else {
            return Err(Error::client(
                "InvalidGroup.NotFound",
                format!("The security group '{id}' does not exist"),
            ));
        };
        if group.vpc_id != vpc_id {
            return Err(Error::client(
                "InvalidParameter",
                format!("Security group {id} and subnet {subnet_id} belong to different networks."),
            ));
        }
    }
    Ok(())
}

/// Stages a changed interface, and its instance as it is, so that the instance's machine learns of
/// it: reconcilers are woken by the keys that a transaction writes.
pub(crate) fn put(call: &mut Call<'_>, interface: Interface) -> Result<(), Error> {
    if let Some(attachment) = &interface.attachment {
        let at = key::of(call.region, key::INSTANCE, call.account(), &attachment.instance_id);
        if let Some(instance) = call.get::<Instance>(&at)? {
            let mut instance = Instance::clone(&instance);
            instance.source_dest_check = interface.source_dest_check;
            call.put(&at, instance);
        }
    }
    let at = key::of(call.region, key::INTERFACE, call.account(), &interface.id);
    call.put(&at, interface);
    Ok(())
}

fn modify_network_interface_attribute(
    call: &mut Call<'_>,
    input: api::ModifyNetworkInterfaceAttributeRequest,
) -> Result<wire::Empty, Error> {
    let id = input.network_interface_id.unwrap_or_default();
    check_id(&id)?;
    let at = key::of(call.region, key::INTERFACE, call.account(), &id);
    let found = call.get::<Interface>(&at)?.ok_or_else(|| not_found(&id))?;
    let mut interface = Interface::clone(&found);
    if let Some(groups) = input.groups {
        if groups.is_empty() {
            return Err(Error::missing_parameter("securityGroupIds"));
        }
        check_groups(call, &groups, &interface.vpc_id, &interface.subnet_id)?;
        interface.groups = groups;
    }
    if let Some(check) = input.source_dest_check.and_then(|check| check.value) {
        interface.source_dest_check = check;
    }
    if let Some(description) = input.description {
        interface.description = description.value.unwrap_or_default();
    }
    if let Some(changes) = input.attachment {
        let attachment = interface.attachment.as_mut();
        let named = changes.attachment_id.unwrap_or_default();
        let Some(attachment) = attachment.filter(|attachment| attachment.id == named) else {
            return Err(Error::client(
                "InvalidAttachmentID.NotFound",
                format!("The attachment ID '{named}' does not exist"),
            ));
        };
        if let Some(delete) = changes.delete_on_termination {
            attachment.delete_on_termination = delete;
        }
    }
    put(call, interface)?;
    Ok(wire::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance;
    use crate::launch::run_instances;
    use crate::testing::{ACCOUNT, Region, filter, list};

    fn ask(region: &Region, name: &str, value: &str) -> Vec<api::NetworkInterface> {
        let input = api::DescribeNetworkInterfacesRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(describe_network_interfaces, input).network_interfaces.unwrap()
    }

    #[test]
    fn names_of_addresses() {
        let address = Ipv4Addr::new(172, 31, 5, 7);
        assert_eq!(private_dns_name("us-east-1", address), "ip-172-31-5-7.ec2.internal");
        assert_eq!(
            private_dns_name("eu-west-1", address),
            "ip-172-31-5-7.eu-west-1.compute.internal"
        );
        assert_eq!(public_dns_name("us-east-1", address), "ec2-172-31-5-7.compute-1.amazonaws.com");
        assert_eq!(
            public_dns_name("eu-west-1", address),
            "ec2-172-31-5-7.eu-west-1.compute.amazonaws.com"
        );
    }

    #[test]
    fn interfaces_are_found_by_what_they_have() {
        let region = Region::new();
        let mut request = instance::tests::request(&region);
        request.max_count = Some(6);
        let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
        let id = launched.instance_id.unwrap();
        let own = &launched.network_interfaces.unwrap()[0];
        let group = own.groups.as_ref().unwrap()[0].group_id.clone().unwrap();
        let text = |value: &Option<String>| value.clone().unwrap();
        for (name, value) in [
            ("attachment.instance-id", id.clone()),
            ("network-interface-id", text(&own.network_interface_id)),
            ("mac-address", text(&own.mac_address)),
            ("private-dns-name", text(&own.private_dns_name)),
            ("addresses.private-ip-address", text(&own.private_ip_address)),
        ] {
            assert_eq!(ask(&region, name, &value).len(), 1, "{name}");
        }
        for (name, value) in [
            ("group-id", group.as_str()),
            ("group-name", "default"),
            ("status", "in-use"),
            ("attachment.status", "attached"),
            ("owner-id", ACCOUNT),
        ] {
            assert_eq!(ask(&region, name, value).len(), 6, "{name}");
        }
        let page =
            api::DescribeNetworkInterfacesRequest { max_results: Some(5), ..Default::default() };
        let answer = region.ok(describe_network_interfaces, page);
        assert_eq!(answer.network_interfaces.unwrap().len(), 5);
        assert!(answer.next_token.is_some());
        let input = api::DescribeNetworkInterfacesRequest {
            network_interface_ids: list(&["eni-12345678"]),
            ..Default::default()
        };
        assert_eq!(
            region.refused(describe_network_interfaces, input),
            "InvalidNetworkInterfaceID.NotFound: The networkInterface ID 'eni-12345678' does not \
             exist"
        );
    }

    #[test]
    fn a_changed_interface_changes_its_instance() {
        let region = Region::new();
        let request = instance::tests::request(&region);
        let launched = region.ok(run_instances, request).instances.unwrap().remove(0);
        let id = launched.network_interfaces.unwrap()[0].network_interface_id.clone();
        let modify = |change: fn(&mut api::ModifyNetworkInterfaceAttributeRequest)| {
            let mut input = api::ModifyNetworkInterfaceAttributeRequest {
                network_interface_id: id.clone(),
                ..Default::default()
            };
            change(&mut input);
            region.run(|call| modify_network_interface_attribute(call, input))
        };
        modify(|r| {
            r.source_dest_check = Some(api::AttributeBooleanValue { value: Some(false) });
        })
        .unwrap();
        assert_eq!(ask(&region, "source-dest-check", "false").len(), 1);
        let at = key::of(region.name, key::INSTANCE, ACCOUNT, &launched.instance_id.unwrap());
        let instance = region.run(|call| call.peek::<Instance>(&at)).unwrap().unwrap();
        assert!(!instance.source_dest_check);
        let refusal = modify(|r| r.groups = list(&["sg-12345678"])).unwrap_err();
        assert_eq!(refusal.code, "InvalidGroup.NotFound");
        let refusal = modify(|r| {
            r.attachment = Some(api::NetworkInterfaceAttachmentChanges {
                attachment_id: Some("eni-attach-12345678".to_owned()),
                delete_on_termination: Some(false),
                ..Default::default()
            });
        });
        assert_eq!(refusal.unwrap_err().code, "InvalidAttachmentID.NotFound");
    }
}
