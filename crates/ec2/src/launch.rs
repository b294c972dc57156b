//! RunInstances: checks everything, then stages instances, interfaces, volumes and the claims of
//! their addresses as one transaction. The answer says `pending`; the rest is the reconciler's.
//!
//! Addresses are claimed by random probing: a claim is a key, so two launches that meet at one
//! address conflict at commit and one of them probes again. A full subnet or pool is found by
//! walking it once from a random place.
//!
//! Not here: spot, launch templates, instance profiles, IPv6, several interfaces.

use crate::instance::{self, MetadataWish, View, change_metadata_options};
use crate::instance_type::{self, Facts};
use crate::interface::{self, Names};
use crate::record::{
    AttachedVolume, Image, Instance, InstanceState, Interface, InterfaceAttachment, KeyPair,
    MetadataOptions, SecurityGroup, Subnet, Tags, Volume, Vpc, key,
};
use crate::volume::{self, Wish};
use crate::{image, region, subnet, tag};
use base::Ipv4Cidr;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use model::ec2::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What a launch without InstanceType gets in EC2.
const DEFAULT_TYPE: &str = "m1.small";
/// Most instances of one request: its transaction has to stay small enough to commit quickly.
const MAX_COUNT: i32 = 4_096;
/// Longest user data, before base64 (EC2 User Guide, "Instance user data").
const MAX_USER_DATA: usize = 16_384;
/// Most volumes of an instance (EC2 User Guide, "Instance volume limits", less the interface).
const MAX_VOLUMES: usize = 27;
/// Random probes before a range of addresses is walked.
const PROBES: usize = 32;
/// Most addresses that are walked when probing found none.
const WALK: u64 = 1 << 16;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::RunInstances,
    run_instances,
    Write,
    [
        "BlockDeviceMappings.DeviceName",
        "BlockDeviceMappings.NoDevice",
        "BlockDeviceMappings.Ebs.DeleteOnTermination",
        "BlockDeviceMappings.Ebs.Encrypted",
        "BlockDeviceMappings.Ebs.Iops",
        "BlockDeviceMappings.Ebs.SnapshotId",
        "BlockDeviceMappings.Ebs.Throughput",
        "BlockDeviceMappings.Ebs.VolumeSize",
        "BlockDeviceMappings.Ebs.VolumeType",
        "CapacityReservationSpecification.CapacityReservationPreference",
        "CpuOptions.CoreCount",
        "CpuOptions.ThreadsPerCore",
        "CreditSpecification.CpuCredits",
        "DisableApiStop",
        "DisableApiTermination",
        "EbsOptimized",
        "EnablePrimaryIpv6",
        "EnclaveOptions.Enabled",
        "HibernationOptions.Configured",
        "ImageId",
        "InstanceInitiatedShutdownBehavior",
        "InstanceType",
        "Ipv6AddressCount",
        "KeyName",
        "MaintenanceOptions.AutoRecovery",
        "MaxCount",
        "MetadataOptions.*",
        "MinCount",
        "Monitoring.Enabled",
        "NetworkInterfaces.AssociatePublicIpAddress",
        "NetworkInterfaces.DeleteOnTermination",
        "NetworkInterfaces.Description",
        "NetworkInterfaces.DeviceIndex",
        "NetworkInterfaces.Groups",
        "NetworkInterfaces.InterfaceType",
        "NetworkInterfaces.Ipv6AddressCount",
        "NetworkInterfaces.NetworkCardIndex",
        "NetworkInterfaces.PrivateIpAddress",
        "NetworkInterfaces.SubnetId",
        "NetworkPerformanceOptions.BandwidthWeighting",
        "Placement.AvailabilityZone",
        "Placement.AvailabilityZoneId",
        "Placement.GroupName",
        "Placement.Tenancy",
        "PrivateDnsNameOptions.*",
        "PrivateIpAddress",
        "SecurityGroupIds",
        "SecurityGroups",
        "SubnetId",
        "TagSpecifications.*",
        "UserData",
    ],
    Rate::new(5.0, 2.0)
)];

/// What every instance of a launch has in common.
struct Plan {
    reservation_id: String,
    image: Arc<Image>,
    facts: &'static Facts,
    key_pair: Option<Arc<KeyPair>>,
    subnet: Arc<Subnet>,
    network: Network,
    user_data: Option<Vec<u8>>,
    devices: Vec<Device>,
    metadata_options: MetadataOptions,
    cpu_credits: Option<String>,
    terminate_on_shutdown: bool,
    disable_api_termination: bool,
    disable_api_stop: bool,
    ebs_optimized: bool,
    monitoring: bool,
    client_token: Option<String>,
    instance_tags: Tags,
    volume_tags: Tags,
    interface_tags: Tags,
}

/// The primary interface of a launch.
struct Network {
    groups: Vec<String>,
    private_ip: Option<Ipv4Addr>,
    public: bool,
    description: String,
    delete_on_termination: bool,
}

/// A volume of a launch.
struct Device {
    name: String,
    shape: volume::Shape,
    snapshot_id: Option<String>,
    source: Option<String>,
    delete_on_termination: bool,
}

fn run_instances(
    call: &mut Call<'_>,
    mut input: api::RunInstancesRequest,
) -> Result<api::Reservation, Error> {
    let (least, most) = counts(&input)?;
    refuse_what_is_not_here(&input)?;
    let image_id = input
        .image_id
        .take()
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Error::missing_parameter("ImageId"))?;
    let image = image::find(call, &image_id)?;
    let type_name = input.instance_type.as_deref().unwrap_or(DEFAULT_TYPE);
    let facts =
        instance_type::find(type_name).ok_or_else(|| instance_type::does_not_exist(type_name))?;
    check_architecture(facts, &image.architecture)?;
    check_type_options(&input, facts)?;
    let key_pair = match input.key_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(find_key_pair(call, name)?),
        None => None,
    };
    let instance_tags = tags(&input, "instance")?;
    let (subnet, network) = network(call, &mut input)?;
    if network.private_ip.is_some() && most > 1 {
        return Err(Error::invalid_parameter_combination(
            "A private IP address cannot be specified when launching more than one instance",
        ));
    }
    let plan = Plan {
        reservation_id: call.new_id("r"),
        key_pair,
        subnet,
        network,
        user_data: match input.user_data.as_deref() {
            Some(text) => decode_user_data(text)?,
            None => None,
        },
        devices: devices(&image, input.block_device_mappings.take().unwrap_or_default())?,
        metadata_options: metadata_options(&input, &image, &instance_tags)?,
        cpu_credits: wanted_credits(&input, facts)?,
        terminate_on_shutdown: terminates_on_shutdown(
            input.instance_initiated_shutdown_behavior.as_deref(),
        )?,
        disable_api_termination: input.disable_api_termination.unwrap_or(false),
        disable_api_stop: input.disable_api_stop.unwrap_or(false),
        ebs_optimized: input.ebs_optimized.unwrap_or(false),
        monitoring: input.monitoring.as_ref().and_then(|m| m.enabled).unwrap_or(false),
        volume_tags: tags(&input, "volume")?,
        interface_tags: tags(&input, "network-interface")?,
        client_token: input.client_token.take(),
        instance_tags,
        image,
        facts,
    };
    let mut names = Names::default();
    let mut instances = Vec::new();
    for index in 0..most {
        match launch(call, &plan, index) {
            Ok((instance, interface)) => {
                let view = View::new(call, &mut names, instance, Some(interface))?;
                instances.push(instance::to_model(&view));
            }
            // As many as there are addresses for, if that is enough for the caller.
            Err(error) if index < least || error.status >= 500 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(instance::reservation(call.account(), &plan.reservation_id, instances))
}

/// Stages one instance and all that belongs to it. Fails before it stages anything.
fn launch(
    call: &mut Call<'_>,
    plan: &Plan,
    index: u32,
) -> Result<(Arc<Instance>, Arc<Interface>), Error> {
    let subnet = &plan.subnet;
    let private_ip = match plan.network.private_ip {
        Some(address) => {
            if call.exists(&private_claim(call, &subnet.vpc_id, address)) {
                return Err(Error::client(
                    "InvalidIPAddress.InUse",
                    format!("Address {address} is in use."),
                ));
            }
            address
        }
        None => free_private_address(call, subnet)?,
    };
    let public_ip = match plan.network.public {
        true => Some(free_public_address(call)?),
        false => None,
    };
    let id = call.new_id("i");
    let interface_id = call.new_id("eni");
    call.put(&private_claim(call, &subnet.vpc_id, private_ip), interface_id.clone());
    if let Some(address) = public_ip {
        call.put(&key::public_address(address), interface_id.clone());
    }
    let interface = Interface {
        v: 1,
        id: interface_id.clone(),
        subnet_id: subnet.id.clone(),
        vpc_id: subnet.vpc_id.clone(),
        availability_zone: subnet.availability_zone.clone(),
        description: plan.network.description.clone(),
        mac: new_mac(&mut call.rng),
        private_ip,
        public_ip,
        groups: plan.network.groups.clone(),
        source_dest_check: true,
        attachment: Some(InterfaceAttachment {
            id: call.new_id("eni-attach"),
            instance_id: id.clone(),
            device_index: 0,
            delete_on_termination: plan.network.delete_on_termination,
            attached: call.now,
        }),
        tags: plan.interface_tags.clone(),
    };
    let at = key::of(call.region, key::INTERFACE, call.account(), &interface_id);
    let interface = call.put(&at, interface);
    let volumes = plan.devices.iter().map(|device| stage_volume(call, plan, device, &id)).collect();
    let record = Instance {
        v: 1,
        id: id.clone(),
        reservation_id: plan.reservation_id.clone(),
        launch_index: index,
        image_id: plan.image.id.clone(),
        image_key: plan.image.key.clone(),
        architecture: plan.image.architecture.clone(),
        instance_type: plan.facts.name.to_owned(),
        key_name: plan.key_pair.as_ref().map(|pair| pair.name.clone()),
        public_key: plan.key_pair.as_ref().map(|pair| pair.public_key.clone()),
        availability_zone: subnet.availability_zone.clone(),
        subnet_id: subnet.id.clone(),
        vpc_id: subnet.vpc_id.clone(),
        private_ip,
        wants_public_ip: plan.network.public,
        public_ip,
        interface_id,
        volumes,
        root_device_name: plan.image.root_device_name.clone(),
        user_data: plan.user_data.clone(),
        state: InstanceState::Pending,
        start: 1,
        reboots: 0,
        force_stop: false,
        launched: call.now,
        created: call.now,
        state_changed: call.now,
        state_reason: instance::pending(),
        transition_reason: String::new(),
        reachable: None,
        terminate_on_shutdown: plan.terminate_on_shutdown,
        disable_api_termination: plan.disable_api_termination,
        disable_api_stop: plan.disable_api_stop,
        ebs_optimized: plan.ebs_optimized,
        monitoring: plan.monitoring,
        source_dest_check: true,
        metadata_options: plan.metadata_options.clone(),
        client_token: plan.client_token.clone(),
        cpu_credits: plan.cpu_credits.clone(),
        tags: plan.instance_tags.clone(),
    };
    let at = instance::key_of(call, &id);
    Ok((call.put(&at, record), interface))
}

fn stage_volume(
    call: &mut Call<'_>,
    plan: &Plan,
    device: &Device,
    instance_id: &str,
) -> AttachedVolume {
    let id = call.new_id("vol");
    let record = Volume {
        v: 1,
        id: id.clone(),
        size_gib: device.shape.size_gib,
        kind: device.shape.kind.clone(),
        iops: device.shape.iops,
        throughput: device.shape.throughput,
        snapshot_id: device.snapshot_id.clone(),
        availability_zone: plan.subnet.availability_zone.clone(),
        created: call.now,
        instance_id: Some(instance_id.to_owned()),
        tags: plan.volume_tags.clone(),
    };
    let at = key::of(call.region, key::VOLUME, call.account(), &id);
    call.put(&at, record);
    AttachedVolume {
        volume_id: id,
        device_name: device.name.clone(),
        delete_on_termination: device.delete_on_termination,
        size_gib: device.shape.size_gib,
        source: device.source.clone(),
        attached: call.now,
    }
}

fn counts(input: &api::RunInstancesRequest) -> Result<(u32, u32), Error> {
    let least = input.min_count.ok_or_else(|| Error::missing_parameter("MinCount"))?;
    let most = input.max_count.ok_or_else(|| Error::missing_parameter("MaxCount"))?;
    for (name, count) in [("minCount", least), ("maxCount", most)] {
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({count}) for parameter {name} is invalid. Expecting a value between 1 and \
                 {MAX_COUNT}."
            )));
        }
    }
    if least > most {
        return Err(Error::invalid_parameter_combination(format!(
            "Invalid value '{most}' for maxCount. Must be at least minCount ('{least}')."
        )));
    }
    Ok((least.unsigned_abs(), most.unsigned_abs()))
}

/// Refuses values of which this region does only AWS's default.
fn refuse_what_is_not_here(input: &api::RunInstancesRequest) -> Result<(), Error> {
    let mut refused: Option<String> = None;
    let mut only = |name: &str, value: Option<&str>, done: &[&str]| {
        if let Some(value) = value
            && !done.contains(&value)
        {
            refused = Some(format!("{name}={value} is not built in gureum yet."));
        }
    };
    let text = |value: Option<bool>| value.map(|value| if value { "true" } else { "false" });
    let reservation = input.capacity_reservation_specification.as_ref();
    only(
        "CapacityReservationSpecification.CapacityReservationPreference",
        reservation.and_then(|r| r.capacity_reservation_preference.as_deref()),
        &["open", "none"],
    );
    let placement = input.placement.as_ref();
    only("Placement.Tenancy", placement.and_then(|p| p.tenancy.as_deref()), &["default"]);
    only("Placement.GroupName", placement.and_then(|p| p.group_name.as_deref()), &[""]);
    only("EnablePrimaryIpv6", text(input.enable_primary_ipv6), &["false"]);
    only(
        "EnclaveOptions.Enabled",
        text(input.enclave_options.as_ref().and_then(|o| o.enabled)),
        &["false"],
    );
    only(
        "HibernationOptions.Configured",
        text(input.hibernation_options.as_ref().and_then(|o| o.configured)),
        &["false"],
    );
    only(
        "MaintenanceOptions.AutoRecovery",
        input.maintenance_options.as_ref().and_then(|o| o.auto_recovery.as_deref()),
        &["default"],
    );
    only(
        "NetworkPerformanceOptions.BandwidthWeighting",
        input.network_performance_options.as_ref().and_then(|o| o.bandwidth_weighting.as_deref()),
        &["default"],
    );
    let names = input.private_dns_name_options.as_ref();
    only(
        "PrivateDnsNameOptions.HostnameType",
        names.and_then(|o| o.hostname_type.as_deref()),
        &["ip-name"],
    );
    only(
        "PrivateDnsNameOptions.EnableResourceNameDnsARecord",
        text(names.and_then(|o| o.enable_resource_name_dns_a_record)),
        &["false"],
    );
    only(
        "PrivateDnsNameOptions.EnableResourceNameDnsAAAARecord",
        text(names.and_then(|o| o.enable_resource_name_dns_aaaa_record)),
        &["false"],
    );
    let count = |count: Option<i32>| count.map(|count| if count == 0 { "0" } else { "1 or more" });
    only("Ipv6AddressCount", count(input.ipv6_address_count), &["0"]);
    for given in input.network_interfaces.iter().flatten() {
        let kind = given.interface_type.as_deref();
        only("NetworkInterface.InterfaceType", kind, &["interface"]);
        only("NetworkInterface.NetworkCardIndex", count(given.network_card_index), &["0"]);
        only("NetworkInterface.Ipv6AddressCount", count(given.ipv6_address_count), &["0"]);
    }
    for mapping in input.block_device_mappings.iter().flatten() {
        let encrypted = mapping.ebs.as_ref().and_then(|ebs| ebs.encrypted);
        only("BlockDeviceMapping.Ebs.Encrypted", text(encrypted), &["false"]);
    }
    refused.map_or(Ok(()), |message| Err(Error::unsupported(message)))
}

/// Refuses a machine type whose processors cannot run the image.
pub(crate) fn check_architecture(facts: &Facts, architecture: &str) -> Result<(), Error> {
    if facts.architectures.contains(&architecture) {
        return Ok(());
    }
    let of_type = facts.architectures.join(",");
    Err(Error::invalid_parameter_value(format!(
        "The architecture '{of_type}' of the specified instance type does not match the \
         architecture '{architecture}' of the specified AMI. Specify an instance type and an AMI \
         that have matching architectures, and try again. You can use 'describe-instance-types' \
         or 'describe-images' to discover the architecture of the instance type or AMI."
    )))
}

/// EbsOptimized on a type that cannot do it.
pub(crate) fn not_ebs_optimized() -> Error {
    Error::client(
        "Unsupported",
        "EBS-optimized instances are not supported for your requested configuration. Please check \
         the documentation for supported configurations.",
    )
}

fn check_type_options(input: &api::RunInstancesRequest, facts: &Facts) -> Result<(), Error> {
    if input.ebs_optimized == Some(true) && facts.ebs_optimized == "unsupported" {
        return Err(not_ebs_optimized());
    }
    if facts.bare_metal {
        return Err(Error::client(
            "Unsupported",
            format!(
                "The instance type '{}' is a whole machine, which this region cannot give away.",
                facts.name
            ),
        ));
    }
    let Some(cpu) = &input.cpu_options else { return Ok(()) };
    let (cores, threads) = (facts.cores, facts.threads_per_core);
    let is =
        |wish: Option<i32>, has: u32| wish.is_none_or(|wish| i64::from(wish) == i64::from(has));
    if is(cpu.core_count, cores) && is(cpu.threads_per_core, threads) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "CpuOptions other than the default of {} ({cores} cores with {threads} threads) are not \
         built in gureum yet.",
        facts.name
    )))
}

fn find_key_pair(call: &mut Call<'_>, name: &str) -> Result<Arc<KeyPair>, Error> {
    let at = key::of(call.region, key::KEY_PAIR, call.account(), name);
    call.get::<KeyPair>(&at)?.ok_or_else(|| {
        Error::client("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist"))
    })
}

fn tags(input: &api::RunInstancesRequest, resource: &str) -> Result<Tags, Error> {
    const MADE: &[&str] = &["instance", "volume", "network-interface"];
    tag::from_specifications(input.tag_specifications.as_deref(), resource, MADE)
}

/// Subnet and primary interface: from NetworkInterfaces, or from the members of the request.
fn network(
    call: &mut Call<'_>,
    input: &mut api::RunInstancesRequest,
) -> Result<(Arc<Subnet>, Network), Error> {
    let mut given = api::InstanceNetworkInterfaceSpecification::default();
    let mut names = Vec::new();
    match input.network_interfaces.take().filter(|list| !list.is_empty()) {
        Some(mut list) => {
            let not_both = |what: &str| {
                Error::invalid_parameter_combination(format!(
                    "Network interfaces and an instance-level {what} may not be specified on the \
                     same request"
                ))
            };
            if input.subnet_id.is_some() {
                return Err(not_both("subnet ID"));
            }
            let groups = [&input.security_group_ids, &input.security_groups];
            if groups.iter().any(|ids| ids.as_ref().is_some_and(|ids| !ids.is_empty())) {
                return Err(not_both("security groups"));
            }
            if input.private_ip_address.is_some() {
                return Err(not_both("private address"));
            }
            if list.len() > 1 {
                return Err(Error::unsupported(
                    "More than one network interface is not built in gureum yet.",
                ));
            }
            given = list.remove(0);
            match given.device_index {
                Some(0) => {}
                None => {
                    return Err(Error::missing_parameter("NetworkInterface.DeviceIndex"));
                }
                Some(_) => {
                    return Err(Error::invalid_parameter_combination(
                        "The network interface with device index 0 must be specified",
                    ));
                }
            }
        }
        None => {
            given.subnet_id = input.subnet_id.take();
            given.groups = input.security_group_ids.take();
            given.private_ip_address = input.private_ip_address.take();
            names = input.security_groups.take().unwrap_or_default();
        }
    }
    let subnet = choose_subnet(call, given.subnet_id.as_deref(), input.placement.as_ref())?;
    let mut groups = given.groups.unwrap_or_default();
    groups.dedup();
    if !names.is_empty() {
        if given.subnet_id.is_some() {
            return Err(Error::invalid_parameter_combination(
                "The parameter groupName cannot be used with the parameter subnet",
            ));
        }
        for name in &names {
            groups.push(group_by_name(call, &subnet.vpc_id, name)?);
        }
    }
    if groups.is_empty() {
        let at = key::of(call.region, key::VPC, call.account(), &subnet.vpc_id);
        let vpc = call
            .peek::<Vpc>(&at)?
            .ok_or_else(|| Error::internal(format!("{} has no VPC", subnet.id)))?;
        groups.push(vpc.default_group_id.clone());
    }
    interface::check_groups(call, &groups, &subnet.vpc_id, &subnet.id)?;
    let private_ip = match given.private_ip_address.as_deref() {
        Some(text) => Some(check_private_address(text, &subnet.cidr)?),
        None => None,
    };
    let network = Network {
        groups,
        private_ip,
        public: given.associate_public_ip_address.unwrap_or(subnet.map_public_ip_on_launch),
        description: given.description.unwrap_or_default(),
        delete_on_termination: given.delete_on_termination.unwrap_or(true),
    };
    Ok((subnet, network))
}

fn choose_subnet(
    call: &mut Call<'_>,
    subnet_id: Option<&str>,
    placement: Option<&api::Placement>,
) -> Result<Arc<Subnet>, Error> {
    let mut zone = placement.and_then(|p| p.availability_zone.clone()).filter(|z| !z.is_empty());
    if let Some(id) = placement.and_then(|p| p.availability_zone_id.as_deref()) {
        let named = region::zones(call.region).into_iter().find(|zone| zone.id == id);
        let named = named.ok_or_else(|| {
            Error::invalid_parameter_value(format!("Invalid availability zone-id: [{id}]"))
        })?;
        if zone.as_ref().is_some_and(|zone| *zone != named.name) {
            return Err(Error::invalid_parameter_combination(format!(
                "The availability zone '{}' does not have the ID '{id}'",
                zone.unwrap_or_default()
            )));
        }
        zone = Some(named.name);
    }
    let Some(id) = subnet_id.filter(|id| !id.is_empty()) else {
        return subnet::default_subnet(call, zone.as_deref());
    };
    if !base::id::is_valid("subnet", id) {
        return Err(Error::client(
            "InvalidSubnetID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"subnet-...\")"),
        ));
    }
    let subnet = subnet::find_subnet(call, id)?;
    match zone {
        Some(zone) if zone != subnet.availability_zone => Err(Error::invalid_parameter_value(
            format!("The specified subnet '{id}' is not in the availability zone '{zone}'."),
        )),
        _ => Ok(subnet),
    }
}

fn group_by_name(call: &mut Call<'_>, vpc_id: &str, name: &str) -> Result<String, Error> {
    let claim =
        key::of(call.region, key::SECURITY_GROUP_NAME, call.account(), &format!("{vpc_id}/{name}"));
    if let Some(id) = call.get::<String>(&claim)? {
        return Ok(String::clone(&id));
    }
    // Clients may give an id here too.
    let at = key::of(call.region, key::SECURITY_GROUP, call.account(), name);
    if call.peek::<SecurityGroup>(&at)?.is_some() {
        return Ok(name.to_owned());
    }
    Err(Error::client(
        "InvalidGroup.NotFound",
        format!("The security group '{name}' does not exist in VPC '{vpc_id}'"),
    ))
}

fn check_private_address(text: &str, range: &Ipv4Cidr) -> Result<Ipv4Addr, Error> {
    let address: Ipv4Addr = text.parse().map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter privateIpAddress is invalid. Invalid IPv4 address."
        ))
    })?;
    if !range.contains(address) {
        return Err(Error::invalid_parameter_value(format!(
            "Address {address} does not fall within the subnet's address range"
        )));
    }
    let index = u32::from(address) - u32::from(range.network());
    if index < 4 || address == range.last() {
        return Err(Error::invalid_parameter_value(format!(
            "Address {address} is in subnet's reserved address range"
        )));
    }
    Ok(address)
}

fn private_claim(call: &Call<'_>, vpc_id: &str, address: Ipv4Addr) -> String {
    key::private_address(call.region, call.account(), vpc_id, address)
}

/// A free address of a subnet. The first four and the last are AWS's (VPC User Guide, "Subnet
/// sizing").
fn free_private_address(call: &mut Call<'_>, subnet: &Subnet) -> Result<Ipv4Addr, Error> {
    let (region, account) = (call.region, call.account());
    let claim = |address| key::private_address(region, account, &subnet.vpc_id, address);
    free_address(call, &subnet.cidr, 4, claim).ok_or_else(|| {
        Error::client(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "The specified subnet does not have enough free addresses to satisfy the request. \
                 ({})",
                subnet.id
            ),
        )
    })
}

/// A free public address of the region's pool. Its network, first and broadcast address are left
/// to the host.
pub(crate) fn free_public_address(call: &mut Call<'_>) -> Result<Ipv4Addr, Error> {
    let pool = call.environment.public_pool;
    free_address(call, &pool, 2, key::public_address).ok_or_else(|| {
        Error::client(
            "InsufficientAddressCapacity",
            format!(
                "Not enough public addresses: all of the region's pool {pool} are in use. \
                 Terminate instances, launch without a public address, or start the region with a \
                 larger pool."
            ),
        )
        .with_status(500)
    })
}

/// An address of `range` that nobody has claimed; its first `reserved` and its last are never
/// given.
fn free_address(
    call: &mut Call<'_>,
    range: &Ipv4Cidr,
    reserved: u64,
    claim: impl Fn(Ipv4Addr) -> String,
) -> Option<Ipv4Addr> {
    let size = range.size().checked_sub(reserved + 1).filter(|size| *size > 0)?;
    for _ in 0..PROBES {
        let address = range.nth(reserved + call.rng.u64(..size))?;
        let key = claim(address);
        // Looked up without a dependency first: a taken address is no reason for a conflict.
        if call.snapshot().get(&key).is_none() && !call.exists(&key) {
            return Some(address);
        }
    }
    let start = call.rng.u64(..size);
    (0..size.min(WALK)).filter_map(|step| range.nth(reserved + (start + step) % size)).find(
        |address| {
            let key = claim(*address);
            call.snapshot().get(&key).is_none() && !call.exists(&key)
        },
    )
}

/// A locally administered unicast address, `0a:…` as EC2's are.
fn new_mac(rng: &mut fastrand::Rng) -> String {
    let tail = rng.u64(..1 << 40).to_be_bytes();
    format!("0a:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", tail[3], tail[4], tail[5], tail[6], tail[7])
}

/// Decodes user data, which travels as base64.
pub(crate) fn decode_user_data(text: &str) -> Result<Option<Vec<u8>>, Error> {
    // Clients send what `base64` printed: with line ends, and perhaps without padding.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = LENIENT
        .decode(&compact)
        .map_err(|_| Error::invalid_parameter_value("Invalid BASE64 encoding of user data."))?;
    check_user_data(Some(bytes))
}

/// Checks the length of user data; empty data is none.
pub(crate) fn check_user_data(bytes: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    if bytes.len() > MAX_USER_DATA {
        return Err(Error::invalid_parameter_value(format!(
            "User data is limited to {MAX_USER_DATA} bytes"
        )));
    }
    Ok(Some(bytes))
}

/// InstanceInitiatedShutdownBehavior: whether a guest that shuts down is terminated.
pub(crate) fn terminates_on_shutdown(behavior: Option<&str>) -> Result<bool, Error> {
    match behavior {
        None | Some("stop") => Ok(false),
        Some("terminate") => Ok(true),
        Some(other) => Err(Error::invalid_parameter_value(format!(
            "Value ({other}) for parameter instanceInitiatedShutdownBehavior is invalid. Expected \
             stop or terminate."
        ))),
    }
}

fn metadata_options(
    input: &api::RunInstancesRequest,
    image: &Image,
    tags: &Tags,
) -> Result<MetadataOptions, Error> {
    // EC2 User Guide, "Instance metadata options": an AMI with ImdsSupport v2.0 sets both.
    let mut options = MetadataOptions {
        tokens_required: image.imds_v2,
        hop_limit: if image.imds_v2 { 2 } else { 1 },
        enabled: true,
        tags: false,
    };
    if let Some(given) = &input.metadata_options {
        let wish = MetadataWish {
            endpoint: given.http_endpoint.as_deref(),
            ipv6: given.http_protocol_ipv6.as_deref(),
            hop_limit: given.http_put_response_hop_limit,
            tokens: given.http_tokens.as_deref(),
            tags: given.instance_metadata_tags.as_deref(),
        };
        change_metadata_options(&mut options, &wish, tags)?;
    }
    Ok(options)
}

/// CPU credits of an instance of a type that asked for `wish`, which was checked.
pub(crate) fn cpu_credits(facts: &Facts, wish: Option<String>) -> Option<String> {
    let default = if facts.name.starts_with("t2.") { "standard" } else { "unlimited" };
    facts.burstable.then(|| wish.unwrap_or_else(|| default.to_owned()))
}

/// Checks a credit option.
pub(crate) fn check_cpu_credits(wish: Option<&str>) -> Result<&str, Error> {
    match wish {
        Some(credits @ ("standard" | "unlimited")) => Ok(credits),
        other => Err(Error::invalid_parameter_value(format!(
            "Value ({}) for parameter cpuCredits is invalid. Expected standard or unlimited.",
            other.unwrap_or_default()
        ))),
    }
}

fn wanted_credits(
    input: &api::RunInstancesRequest,
    facts: &Facts,
) -> Result<Option<String>, Error> {
    let Some(given) = &input.credit_specification else { return Ok(cpu_credits(facts, None)) };
    let credits = check_cpu_credits(given.cpu_credits.as_deref())?;
    if !facts.burstable {
        return Err(Error::invalid_parameter_combination(format!(
            "The parameter creditSpecification cannot be used with the instance type {}: only \
             burstable performance instances have CPU credits.",
            facts.name
        )));
    }
    Ok(cpu_credits(facts, Some(credits.to_owned())))
}

/// The volumes of a launch: the image's root with what the request says of it, then the request's
/// own.
fn devices(image: &Image, mappings: Vec<api::BlockDeviceMapping>) -> Result<Vec<Device>, Error> {
    let invalid = |message: String| Error::client("InvalidBlockDeviceMapping", message);
    let mut root = None;
    let mut devices: Vec<Device> = Vec::new();
    for mapping in mappings {
        let name = mapping.device_name.unwrap_or_default();
        check_device_name(&name)?;
        if mapping.no_device.is_some() {
            if name == image.root_device_name {
                return Err(invalid(format!("The root device '{name}' cannot be suppressed.")));
            }
            continue;
        }
        let is_root = name == image.root_device_name;
        if is_root && root.is_some() || devices.iter().any(|device| device.name == name) {
            return Err(invalid(format!(
                "The device '{name}' is used in more than one block-device mapping"
            )));
        }
        let ebs = mapping.ebs.unwrap_or_default();
        let snapshot_id = ebs.snapshot_id.filter(|id| !id.is_empty());
        if let Some(id) = snapshot_id.as_ref().filter(|id| **id != image.snapshot_id) {
            return Err(Error::client(
                "InvalidSnapshot.NotFound",
                format!("The snapshot '{id}' does not exist."),
            ));
        }
        let snapshot_id = if is_root { Some(image.snapshot_id.clone()) } else { snapshot_id };
        let wish = Wish {
            size: ebs.volume_size,
            kind: ebs.volume_type,
            iops: ebs.iops,
            throughput: ebs.throughput,
        };
        if is_root && matches!(wish.kind.as_deref(), Some("st1" | "sc1")) {
            return Err(Error::invalid_parameter_value(format!(
                "The volume type '{}' cannot be a boot volume.",
                wish.kind.unwrap_or_default()
            )));
        }
        // A volume type that is not named is the image's for its root, else gp2 (EC2 API
        // Reference, "EbsBlockDevice").
        let default_kind = if is_root { image::volume_type(image) } else { "gp2" };
        let source = snapshot_id.as_deref().map(|id| (id, image.size_gib));
        let device = Device {
            shape: volume::shape(&wish, source, default_kind)?,
            source: snapshot_id.as_ref().map(|_| image.key.clone()),
            snapshot_id,
            delete_on_termination: ebs.delete_on_termination.unwrap_or(is_root),
            name,
        };
        if is_root { root = Some(device) } else { devices.push(device) }
    }
    let root = match root {
        Some(root) => root,
        None => Device {
            name: image.root_device_name.clone(),
            shape: volume::shape(
                &Wish::default(),
                Some((&image.snapshot_id, image.size_gib)),
                image::volume_type(image),
            )?,
            snapshot_id: Some(image.snapshot_id.clone()),
            source: Some(image.key.clone()),
            delete_on_termination: true,
        },
    };
    devices.insert(0, root);
    if devices.len() > MAX_VOLUMES {
        return Err(Error::client(
            "AttachmentLimitExceeded",
            format!("An instance can have at most {MAX_VOLUMES} volumes."),
        ));
    }
    Ok(devices)
}

/// Device names become links in the guest: `/dev/sdf`, `/dev/xvdba`, `sdf`.
fn check_device_name(name: &str) -> Result<(), Error> {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let plain = short.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if plain
        && (short.starts_with("sd") || short.starts_with("xvd"))
        && (3..=8).contains(&short.len())
    {
        return Ok(());
    }
    Err(Error::client("InvalidBlockDeviceMapping", format!("Invalid device name {name}")))
}
