//! Attributes of an instance, one at a time: DescribeInstanceAttribute, ModifyInstanceAttribute,
//! ResetInstanceAttribute, ModifyInstanceMetadataOptions, and the credit specifications.

use super::describe::block_device;
use super::{get_one, key_of, metadata_options, peek_all, peek_one, put};
use crate::interface::{self, Names};
use crate::record::{Instance, InstanceState, Interface, MetadataOptions, Tags, key};
use crate::{instance_type, launch};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::ec2 as api;
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error};

fn text(value: impl Into<String>) -> Option<api::AttributeValue> {
    Some(api::AttributeValue { value: Some(value.into()) })
}

fn boolean(value: bool) -> Option<api::AttributeBooleanValue> {
    Some(api::AttributeBooleanValue { value: Some(value) })
}

/// An attribute that has no value.
fn nothing() -> Option<api::AttributeValue> {
    Some(api::AttributeValue::default())
}

pub(super) fn describe_instance_attribute(
    call: &mut Call<'_>,
    input: api::DescribeInstanceAttributeRequest,
) -> Result<api::InstanceAttribute, Error> {
    let instance = peek_one(call, input.instance_id)?;
    let mut shown =
        api::InstanceAttribute { instance_id: Some(instance.id.clone()), ..Default::default() };
    match input.attribute.as_deref().unwrap_or_default() {
        "instanceType" => shown.instance_type = text(&instance.instance_type),
        "kernel" => shown.kernel_id = nothing(),
        "ramdisk" => shown.ramdisk_id = nothing(),
        "userData" => {
            shown.user_data = match &instance.user_data {
                Some(bytes) => text(STANDARD.encode(bytes)),
                None => nothing(),
            }
        }
        "disableApiTermination" => {
            shown.disable_api_termination = boolean(instance.disable_api_termination);
        }
        "disableApiStop" => shown.disable_api_stop = boolean(instance.disable_api_stop),
        "instanceInitiatedShutdownBehavior" => {
            shown.instance_initiated_shutdown_behavior =
                text(if instance.terminate_on_shutdown { "terminate" } else { "stop" });
        }
        "rootDeviceName" => shown.root_device_name = text(&instance.root_device_name),
        "blockDeviceMapping" => {
            shown.block_device_mappings = Some(
                instance.volumes.iter().map(|volume| block_device(&instance, volume)).collect(),
            );
        }
        "productCodes" => shown.product_codes = Some(Vec::new()),
        "sourceDestCheck" => shown.source_dest_check = boolean(instance.source_dest_check),
        "groupSet" => {
            let at = key::of(call.region, key::INTERFACE, call.account(), &instance.interface_id);
            let interface = call.peek::<Interface>(&at)?;
            let ids = interface.map(|interface| interface.groups.clone()).unwrap_or_default();
            shown.groups = Some(Names::default().groups(call, &ids)?);
        }
        "ebsOptimized" => shown.ebs_optimized = boolean(instance.ebs_optimized),
        "sriovNetSupport" => shown.sriov_net_support = nothing(),
        "enaSupport" => shown.ena_support = boolean(true),
        "enclaveOptions" => {
            shown.enclave_options = Some(api::EnclaveOptions { enabled: Some(false) });
        }
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter attribute is invalid. Unknown attribute."
            )));
        }
    }
    Ok(shown)
}

/// A change of one attribute.
enum Change {
    InstanceType(String),
    UserData(Option<Vec<u8>>),
    ShutdownBehavior(String),
    DisableApiTermination(bool),
    DisableApiStop(bool),
    EbsOptimized(bool),
    EnaSupport(bool),
    SourceDestCheck(bool),
    Groups(Vec<String>),
    DeleteOnTermination(Vec<(String, Option<String>, bool)>),
}

/// The one change that a request asks for.
fn requested(input: api::ModifyInstanceAttributeRequest) -> Result<Change, Error> {
    let mut changes = Vec::new();
    let mut take = |change: Option<Change>| changes.extend(change);
    let value = |member: Option<api::AttributeValue>| member.and_then(|member| member.value);
    let switch = |member: Option<api::AttributeBooleanValue>| member.and_then(|m| m.value);
    take(value(input.instance_type).map(Change::InstanceType));
    take(input.user_data.map(|data| Change::UserData(data.value)));
    take(value(input.instance_initiated_shutdown_behavior).map(Change::ShutdownBehavior));
    take(switch(input.disable_api_termination).map(Change::DisableApiTermination));
    take(switch(input.disable_api_stop).map(Change::DisableApiStop));
    take(switch(input.ebs_optimized).map(Change::EbsOptimized));
    take(switch(input.ena_support).map(Change::EnaSupport));
    take(switch(input.source_dest_check).map(Change::SourceDestCheck));
    take(input.groups.filter(|groups| !groups.is_empty()).map(Change::Groups));
    take(input.block_device_mappings.filter(|list| !list.is_empty()).map(|list| {
        Change::DeleteOnTermination(
            list.into_iter()
                .filter_map(|mapping| {
                    let ebs = mapping.ebs?;
                    Some((
                        mapping.device_name.unwrap_or_default(),
                        ebs.volume_id,
                        ebs.delete_on_termination?,
                    ))
                })
                .collect(),
        )
    }));
    if let Some(attribute) = &input.attribute
        && let Some(value) = input.value
    {
        take(Some(by_name(attribute, value)?));
    }
    let mut changes = changes.into_iter();
    match (changes.next(), changes.next()) {
        (Some(change), None) => Ok(change),
        (None, _) => Err(Error::invalid_parameter_combination("No attributes specified.")),
        (Some(_), Some(_)) => Err(Error::invalid_parameter_combination(
            "Fields for multiple attribute types specified: only one attribute can be modified \
             at a time.",
        )),
    }
}

/// The older form of a change: Attribute and Value.
fn by_name(attribute: &str, value: String) -> Result<Change, Error> {
    let switch = || match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::invalid_parameter_value(format!(
            "Value ({value}) for parameter value is invalid. Expected true or false."
        ))),
    };
    Ok(match attribute {
        "disableApiTermination" => Change::DisableApiTermination(switch()?),
        "disableApiStop" => Change::DisableApiStop(switch()?),
        "ebsOptimized" => Change::EbsOptimized(switch()?),
        "enaSupport" => Change::EnaSupport(switch()?),
        "sourceDestCheck" => Change::SourceDestCheck(switch()?),
        "instanceType" => Change::InstanceType(value),
        "instanceInitiatedShutdownBehavior" => Change::ShutdownBehavior(value),
        "userData" => Change::UserData(launch::decode_user_data(&value)?),
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter attribute is invalid. The attribute cannot be \
                 modified."
            )));
        }
    })
}

fn require_stopped(instance: &Instance) -> Result<(), Error> {
    if instance.state == InstanceState::Stopped {
        return Ok(());
    }
    Err(Error::client(
        "IncorrectInstanceState",
        format!("The instance '{}' is not in the 'stopped' state.", instance.id),
    ))
}

/// Refuses to change what is gone.
fn require_alive(instance: &Instance) -> Result<(), Error> {
    if instance.state != InstanceState::Terminated {
        return Ok(());
    }
    Err(Error::client(
        "IncorrectInstanceState",
        format!("The instance '{}' is terminated and cannot be modified.", instance.id),
    ))
}

pub(super) fn modify_instance_attribute(
    call: &mut Call<'_>,
    mut input: api::ModifyInstanceAttributeRequest,
) -> Result<wire::Empty, Error> {
    let found = get_one(call, input.instance_id.take())?;
    let change = requested(input)?;
    require_alive(&found)?;
    let mut instance = Instance::clone(&found);
    match change {
        Change::InstanceType(name) => {
            require_stopped(&instance)?;
            let facts =
                instance_type::find(&name).ok_or_else(|| instance_type::does_not_exist(&name))?;
            launch::check_architecture(facts, &instance.architecture)?;
            interface::check_count(facts, 1 + instance.more_interfaces.len())?;
            if instance.ebs_optimized && facts.ebs_optimized == "unsupported" {
                return Err(launch::not_ebs_optimized());
            }
            instance.cpu_credits = launch::cpu_credits(facts, instance.cpu_credits.take());
            instance.instance_type = name;
        }
        Change::UserData(bytes) => {
            require_stopped(&instance)?;
            instance.user_data = launch::check_user_data(bytes)?;
        }
        Change::ShutdownBehavior(behavior) => {
            instance.terminate_on_shutdown = launch::terminates_on_shutdown(Some(&behavior))?;
        }
        Change::DisableApiTermination(disable) => instance.disable_api_termination = disable,
        Change::DisableApiStop(disable) => instance.disable_api_stop = disable,
        Change::EbsOptimized(optimized) => {
            require_stopped(&instance)?;
            let facts = instance_type::find(&instance.instance_type);
            if optimized && facts.is_none_or(|facts| facts.ebs_optimized == "unsupported") {
                return Err(launch::not_ebs_optimized());
            }
            instance.ebs_optimized = optimized;
        }
        Change::EnaSupport(true) => require_stopped(&instance)?,
        Change::EnaSupport(false) => {
            return Err(Error::unsupported("Enhanced networking cannot be switched off here."));
        }
        Change::SourceDestCheck(check) => {
            one_interface(&instance)?;
            return change_interface(call, &instance, |interface| {
                interface.source_dest_check = check;
            });
        }
        Change::Groups(groups) => {
            one_interface(&instance)?;
            interface::check_groups(call, &groups, &instance.vpc_id, &instance.subnet_id)?;
            return change_interface(call, &instance, |interface| interface.groups = groups);
        }
        Change::DeleteOnTermination(list) => {
            for (device, volume_id, delete) in list {
                let volume = instance.volumes.iter_mut().find(|volume| {
                    volume.device_name == device
                        || (device.is_empty() && Some(&volume.volume_id) == volume_id.as_ref())
                });
                let Some(volume) = volume else {
                    return Err(Error::client(
                        "InvalidInstanceAttributeValue",
                        format!("No device is currently mapped at {device}"),
                    ));
                };
                volume.delete_on_termination = delete;
            }
        }
    }
    if instance != *found {
        put(call, instance);
    }
    Ok(wire::Empty)
}

/// What belongs to an interface can be named by its instance while that has only one.
fn one_interface(instance: &Instance) -> Result<(), Error> {
    if instance.more_interfaces.is_empty() {
        return Ok(());
    }
    Err(Error::client(
        "InvalidInstanceID",
        format!(
            "There are multiple interfaces attached to instance '{}'. Please specify an interface \
             ID for the operation instead.",
            instance.id
        ),
    ))
}

/// Changes the primary interface of an instance.
fn change_interface(
    call: &mut Call<'_>,
    instance: &Instance,
    change: impl FnOnce(&mut Interface),
) -> Result<wire::Empty, Error> {
    let at = key::of(call.region, key::INTERFACE, call.account(), &instance.interface_id);
    let found = call
        .get::<Interface>(&at)?
        .ok_or_else(|| Error::internal(format!("{} has no interface", instance.id)))?;
    let mut interface = Interface::clone(&found);
    change(&mut interface);
    let account = call.account();
    interface::put(call, account, interface)?;
    Ok(wire::Empty)
}

pub(super) fn reset_instance_attribute(
    call: &mut Call<'_>,
    input: api::ResetInstanceAttributeRequest,
) -> Result<wire::Empty, Error> {
    let instance = get_one(call, input.instance_id)?;
    require_alive(&instance)?;
    match input.attribute.as_deref().unwrap_or_default() {
        "sourceDestCheck" => {
            one_interface(&instance)?;
            change_interface(call, &instance, |interface| interface.source_dest_check = true)
        }
        // Instances here have neither, which is the default.
        "kernel" | "ramdisk" => require_stopped(&instance).map(|()| wire::Empty),
        other => Err(Error::invalid_parameter_value(format!(
            "Value ({other}) for parameter attribute is invalid. Only kernel, ramdisk and \
             sourceDestCheck can be reset."
        ))),
    }
}

pub(super) fn modify_private_dns_name_options(
    call: &mut Call<'_>,
    input: api::ModifyPrivateDnsNameOptionsRequest,
) -> Result<api::ModifyPrivateDnsNameOptionsResult, Error> {
    let found = get_one(call, input.instance_id)?;
    require_alive(&found)?;
    let mut instance = Instance::clone(&found);
    let options = &mut instance.name_options;
    if let Some(kind) = input.private_dns_hostname_type {
        options.resource_name = kind == "resource-name";
        // "You must stop the instance to change its hostname type" (EC2 User Guide).
        if options.resource_name != found.name_options.resource_name {
            require_stopped(&found)?;
        }
    }
    if let Some(on) = input.enable_resource_name_dns_a_record {
        options.resource_name_a = on;
    }
    if let Some(on) = input.enable_resource_name_dns_aaaa_record {
        options.resource_name_aaaa = on;
    }
    if instance != *found {
        put(call, instance);
    }
    Ok(api::ModifyPrivateDnsNameOptionsResult { return_: Some(true) })
}

/// IMDS options that a request asks for; `None` leaves one as it is.
#[derive(Debug, Default)]
pub(crate) struct MetadataWish<'a> {
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) ipv6: Option<&'a str>,
    pub(crate) hop_limit: Option<i32>,
    pub(crate) tokens: Option<&'a str>,
    pub(crate) tags: Option<&'a str>,
}

/// Applies a wish to the options of an instance with these tags.
pub(crate) fn change_metadata_options(
    options: &mut MetadataOptions,
    wish: &MetadataWish<'_>,
    tags: &Tags,
) -> Result<(), Error> {
    if wish.ipv6 == Some("enabled") {
        return Err(Error::unsupported("HttpProtocolIpv6=enabled is not built in gureum yet."));
    }
    if let Some(endpoint) = wish.endpoint {
        options.enabled = endpoint == "enabled";
    }
    if let Some(tokens) = wish.tokens {
        options.tokens_required = tokens == "required";
    }
    if let Some(limit) = wish.hop_limit {
        options.hop_limit =
            u8::try_from(limit).ok().filter(|limit| (1..=64).contains(limit)).ok_or_else(|| {
                Error::invalid_parameter_value(format!(
                    "Value ({limit}) for parameter HttpPutResponseHopLimit is invalid. Expecting \
                     a value between 1 and 64."
                ))
            })?;
    }
    if let Some(shown) = wish.tags {
        options.tags = shown == "enabled";
    }
    if options.tags {
        for name in tags.keys() {
            check_metadata_tag(name)?;
        }
    }
    Ok(())
}

/// Whether IMDS can show a tag: its key is part of a path (EC2 User Guide, "Tag your Amazon EC2
/// resources").
pub(crate) fn is_metadata_tag(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_+=,.@:".contains(c);
    name.chars().all(plain) && ![".", "..", "_index"].contains(&name)
}

fn check_metadata_tag(name: &str) -> Result<(), Error> {
    if is_metadata_tag(name) {
        return Ok(());
    }
    Err(Error::invalid_parameter_value(format!(
        "'{name}' is not a valid tag key. Tag keys must match pattern \
         ([0-9a-zA-Z\\-_+=,.@:]{{1,255}}), and must not be a reserved name ('.', '..', '_index')"
    )))
}

pub(super) fn modify_instance_metadata_options(
    call: &mut Call<'_>,
    input: api::ModifyInstanceMetadataOptionsRequest,
) -> Result<api::ModifyInstanceMetadataOptionsResult, Error> {
    let found = get_one(call, input.instance_id)?;
    require_alive(&found)?;
    let mut instance = Instance::clone(&found);
    let wish = MetadataWish {
        endpoint: input.http_endpoint.as_deref(),
        ipv6: input.http_protocol_ipv6.as_deref(),
        hop_limit: input.http_put_response_hop_limit,
        tokens: input.http_tokens.as_deref(),
        tags: input.instance_metadata_tags.as_deref(),
    };
    change_metadata_options(&mut instance.metadata_options, &wish, &instance.tags)?;
    let shown = api::InstanceMetadataOptionsResponse {
        state: Some("pending".to_owned()),
        ..metadata_options(&instance.metadata_options)
    };
    let answer = api::ModifyInstanceMetadataOptionsResult {
        instance_id: Some(instance.id.clone()),
        instance_metadata_options: Some(shown),
    };
    if instance != *found {
        put(call, instance);
    }
    Ok(answer)
}

const CREDIT_FILTERS: &[Field<Instance>] =
    &[("instance-id", |instance| vec![instance.id.as_str().into()])];

pub(super) fn describe_instance_credit_specifications(
    call: &mut Call<'_>,
    input: api::DescribeInstanceCreditSpecificationsRequest,
) -> Result<api::DescribeInstanceCreditSpecificationsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), CREDIT_FILTERS)?;
    let ids = input.instance_ids.unwrap_or_default();
    if !ids.is_empty() && input.max_results.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ));
    }
    let mut found = if ids.is_empty() {
        // Without ids, those that are unlimited (EC2 API Reference).
        let mut all = call.scan::<Instance>(&key_of(call, ""))?;
        all.retain(|instance| instance.cpu_credits.as_deref() == Some("unlimited"));
        all
    } else {
        peek_all(call, &ids)?
    };
    if let Some(other) = found.iter().find(|instance| instance.cpu_credits.is_none()) {
        return Err(not_burstable(&other.id));
    }
    found.retain(|instance| filters.accept(instance, &instance.tags));
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let page = page(
        found,
        |instance| instance.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|instance| api::InstanceCreditSpecification {
        cpu_credits: instance.cpu_credits.clone(),
        instance_id: Some(instance.id.clone()),
    });
    Ok(api::DescribeInstanceCreditSpecificationsResult {
        instance_credit_specifications: Some(shown.collect()),
        next_token: page.next_token,
    })
}

fn not_burstable(id: &str) -> Error {
    Error::unsupported(format!(
        "The instance '{id}' is not a burstable performance instance and has no CPU credits."
    ))
}

pub(super) fn modify_instance_credit_specification(
    call: &mut Call<'_>,
    input: api::ModifyInstanceCreditSpecificationRequest,
) -> Result<api::ModifyInstanceCreditSpecificationResult, Error> {
    let mut done = Vec::new();
    for wish in input.instance_credit_specifications.unwrap_or_default() {
        let found = get_one(call, wish.instance_id)?;
        if found.cpu_credits.is_none() {
            return Err(not_burstable(&found.id));
        }
        let credits = launch::check_cpu_credits(wish.cpu_credits.as_deref())?;
        let mut instance = Instance::clone(&found);
        instance.cpu_credits = Some(credits.to_owned());
        done.push(api::SuccessfulInstanceCreditSpecificationItem {
            instance_id: Some(instance.id.clone()),
        });
        put(call, instance);
    }
    Ok(api::ModifyInstanceCreditSpecificationResult {
        successful_instance_credit_specifications: Some(done),
        unsuccessful_instance_credit_specifications: Some(Vec::new()),
    })
}
