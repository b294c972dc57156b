//! RunInstances: checks everything, then stages instances, interfaces, volumes and the claims of
//! their addresses as one transaction. The answer says `pending`; the rest is the reconciler's.
//!
//! Addresses are claimed by random probing: a claim is a key, so two launches that meet at one
//! address conflict at commit and one of them probes again. A full subnet or pool is found by
//! walking it once from a random place.
//!
//! Not here: spot, launch templates, instance profiles.

mod check;
mod device;
pub(crate) mod network;

pub(crate) use check::{
    check_architecture, check_cpu_credits, check_user_data, cpu_credits, decode_user_data,
    not_ebs_optimized, terminates_on_shutdown,
};
pub(crate) use device::{is_device_name, most_volumes, not_bootable, too_many_volumes};
pub(crate) use network::{
    check_private_address, free_address, free_private_address_but, free_public_address, new_mac,
};

use crate::instance::{self, View};
use crate::instance_type::{self, Facts};
use crate::interface::{self, Chosen, Names, Pool};
use crate::record::{
    AttachedInterface, AttachedVolume, AttachmentState, Image, Instance, InstanceState, Interface,
    InterfaceAttachment, InterfaceKind, Kept, KeyPair, MetadataOptions, NameOptions,
    SecondaryAddress, Subnet, Tags, Volume, VolumeState, key,
};
use crate::volume::source::{self, New};
use crate::{image, tag};
use base::key::WrappedKey;
use check::{check_type_options, metadata_options, refuse_what_is_not_here, wanted_credits};
use device::{Device, Devices, devices};
use model::ec2::{self as api, op};
use network::{Network, Place, Source, private_claim};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What a launch without InstanceType gets in EC2.
const DEFAULT_TYPE: &str = "m1.small";
/// Most instances of one request, as many as its resource bucket holds (EC2 API Reference,
/// "Request throttling").
const MAX_COUNT: i32 = 1_000;
/// What the records of one instance take in a transaction at most, in bytes, beside its user data
/// and its volumes, with its part of the answer that is kept for a client token.
const INSTANCE_BYTES: usize = 10_240;
/// And each of its volumes.
const VOLUME_BYTES: usize = 2_048;
/// Room in a transaction for the claim of one more address, and its share of an interface.
const CLAIM_BYTES: usize = 512;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::RunInstances,
    run_instances,
    Write,
    [
        "BlockDeviceMappings.DeviceName",
        "BlockDeviceMappings.NoDevice",
        "BlockDeviceMappings.VirtualName",
        "BlockDeviceMappings.Ebs.DeleteOnTermination",
        "BlockDeviceMappings.Ebs.Encrypted",
        "BlockDeviceMappings.Ebs.Iops",
        "BlockDeviceMappings.Ebs.KmsKeyId",
        "BlockDeviceMappings.Ebs.SnapshotId",
        "BlockDeviceMappings.Ebs.Throughput",
        "BlockDeviceMappings.Ebs.VolumeInitializationRate",
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
        "Ipv6Addresses.Ipv6Address",
        "Ipv6Addresses.IsPrimaryIpv6",
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
        "NetworkInterfaces.Ipv4PrefixCount",
        "NetworkInterfaces.Ipv4Prefixes.Ipv4Prefix",
        "NetworkInterfaces.Ipv6AddressCount",
        "NetworkInterfaces.Ipv6Addresses.Ipv6Address",
        "NetworkInterfaces.Ipv6Addresses.IsPrimaryIpv6",
        "NetworkInterfaces.Ipv6PrefixCount",
        "NetworkInterfaces.Ipv6Prefixes.Ipv6Prefix",
        "NetworkInterfaces.NetworkCardIndex",
        "NetworkInterfaces.NetworkInterfaceId",
        "NetworkInterfaces.PrimaryIpv6",
        "NetworkInterfaces.PrivateIpAddress",
        "NetworkInterfaces.PrivateIpAddresses.Primary",
        "NetworkInterfaces.PrivateIpAddresses.PrivateIpAddress",
        "NetworkInterfaces.SecondaryPrivateIpAddressCount",
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
    name_options: NameOptions,
    user_data: Option<Vec<u8>>,
    devices: Devices,
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

pub(crate) fn run_instances(
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
    let (subnet, network) = network::network(call, &mut input, facts)?;
    if network.names_addresses() && most > 1 {
        return Err(Error::invalid_parameter_combination(
            "A private IP address or a network interface cannot be specified when launching more \
             than one instance",
        ));
    }
    let name_options = name_options(&input, &subnet);
    let plan = Plan {
        reservation_id: call.new_id("r"),
        key_pair,
        subnet,
        network,
        name_options,
        user_data: match input.user_data.as_deref() {
            Some(text) => decode_user_data(text)?,
            None => None,
        },
        devices: devices(
            call,
            &image,
            facts,
            input.block_device_mappings.take().unwrap_or_default(),
        )?,
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
    let most = most.min(fitting(&plan));
    if most < least {
        return Err(Error::client(
            "InstanceLimitExceeded",
            format!(
                "You have requested more instances ({least}) than one request with this user data \
                 and these volumes can launch ({most}). Send several requests."
            ),
        ));
    }
    let mut names = Names::default();
    let mut instances = Vec::new();
    for index in 0..most {
        match launch(call, &plan, index) {
            Ok((instance, interfaces)) => {
                let view = View::new(call, &mut names, instance, Some(interfaces))?;
                instances.push(instance::to_model(&view));
            }
            // As many as there are addresses for, if that is enough for the caller.
            Err(error) if index >= least && error.code.starts_with("Insufficient") => break,
            Err(error) => return Err(error),
        }
    }
    Ok(instance::reservation(call.account(), &plan.reservation_id, instances))
}

/// How many instances of a plan one transaction can hold.
fn fitting(plan: &Plan) -> u32 {
    let tags = |tags: &Tags| tags.iter().map(|(k, v)| 2 * (k.len() + v.len()) + 6).sum::<usize>();
    let volumes = plan.devices.volumes.len();
    let further = plan.network.further_keys();
    let ops = 4 + volumes + further;
    let user_data = plan.user_data.as_ref().map_or(0, Vec::len).div_ceil(3) * 4;
    let bytes = INSTANCE_BYTES
        + user_data
        + volumes * (VOLUME_BYTES + tags(&plan.volume_tags))
        + further * CLAIM_BYTES
        + tags(&plan.instance_tags)
        + tags(&plan.interface_tags);
    // Some room for what is compared but not written.
    let by_ops = (store::MAX_OPS - 256) / ops;
    let by_bytes = store::MAX_TXN_BYTES / bytes;
    u32::try_from(by_ops.min(by_bytes)).unwrap_or(u32::MAX)
}

/// An interface of one instance whose addresses were chosen.
struct Ready<'p> {
    place: &'p network::Place,
    private_ip: Ipv4Addr,
    further: interface::Addresses,
}

/// Chooses the addresses of an instance's interfaces; stages nothing.
fn choose<'p>(call: &mut Call<'_>, plan: &'p Plan) -> Result<Vec<Ready<'p>>, Error> {
    let account = call.account();
    let mut chosen = Chosen::default();
    let mut ready = Vec::with_capacity(plan.network.places.len());
    // An automatic choice leaves to the others what they name.
    let mut places: Vec<&Place> = plan.network.places.iter().collect();
    places.sort_by_key(|place| match &place.source {
        Source::New(fresh) => {
            fresh.wanted.private_ip.is_none() && fresh.wanted.secondary.is_empty()
        }
        Source::Existing(_) => false,
    });
    for place in places {
        let (private_ip, further) = match &place.source {
            Source::Existing(interface) => (interface.private_ip, interface::Addresses::default()),
            Source::New(fresh) => {
                // Addresses of two VPCs have nothing to do with each other, but to leave one out
                // costs nothing.
                let pool = Pool { account, subnet: &fresh.subnet };
                let private_ip = pool.primary(call, &mut chosen, &fresh.wanted)?;
                (private_ip, pool.further(call, &mut chosen, &fresh.wanted)?)
            }
        };
        ready.push(Ready { place, private_ip, further });
    }
    ready.sort_by_key(|ready| ready.place.device_index);
    Ok(ready)
}

/// Stages an interface of an instance.
fn stage_interface(
    call: &mut Call<'_>,
    plan: &Plan,
    ready: Ready<'_>,
    public_ip: Option<Ipv4Addr>,
    instance_id: &str,
) -> Arc<Interface> {
    let Ready { place, private_ip, further } = ready;
    let attachment = Some(InterfaceAttachment {
        id: call.new_id("eni-attach"),
        instance_id: instance_id.to_owned(),
        device_index: place.device_index,
        delete_on_termination: place.delete_on_termination,
        attached: instance::whole_second(call.now),
        state: AttachmentState::Attached,
        forced: false,
    });
    let interface = match &place.source {
        Source::Existing(found) => Interface { attachment, ..Interface::clone(found) },
        Source::New(fresh) => {
            let subnet = &fresh.subnet;
            let interface = Interface {
                v: 1,
                id: call.new_id("eni"),
                subnet_id: subnet.id.clone(),
                vpc_id: subnet.vpc_id.clone(),
                availability_zone: subnet.availability_zone.clone(),
                description: fresh.description.clone(),
                mac: new_mac(&mut call.rng),
                private_ip,
                public_ip,
                elastic: None,
                secondary: further
                    .secondary
                    .iter()
                    .map(|address| SecondaryAddress { private_ip: *address, elastic: None })
                    .collect(),
                prefixes: further.prefixes.clone(),
                ipv6: further.ipv6.clone(),
                ipv6_prefixes: further.ipv6_prefixes.clone(),
                primary_ipv6: fresh.wanted.primary_ipv6,
                kind: InterfaceKind::Interface,
                groups: fresh.groups.clone(),
                source_dest_check: true,
                attachment,
                detached: None,
                tags: plan.interface_tags.clone(),
            };
            let claim = private_claim(call, &subnet.vpc_id, private_ip);
            call.put(&claim, interface.id.clone());
            let account = call.account();
            interface::claim(call, account, &interface, &further);
            interface
        }
    };
    let at = key::of(call.region, key::INTERFACE, call.account(), &interface.id);
    call.put(&at, interface)
}

/// Stages one instance and all that belongs to it. Fails before it stages anything.
fn launch(
    call: &mut Call<'_>,
    plan: &Plan,
    index: u32,
) -> Result<(Arc<Instance>, Vec<Arc<Interface>>), Error> {
    let subnet = &plan.subnet;
    let ready = choose(call, plan)?;
    let public_ip = match plan.network.public {
        true => Some(free_public_address(call)?),
        false => None,
    };
    let keys: Vec<Option<WrappedKey>> =
        plan.devices.volumes.iter().map(|device| device.key(call)).collect::<Result<_, Error>>()?;
    let now = instance::whole_second(call.now);
    let id = call.new_id("i");
    let mut interfaces = Vec::with_capacity(ready.len());
    for (place, ready) in ready.into_iter().enumerate() {
        let public_ip = public_ip.filter(|_| place == 0);
        interfaces.push(stage_interface(call, plan, ready, public_ip, &id));
    }
    let primary = Arc::clone(&interfaces[0]);
    if let Some(address) = public_ip {
        call.put(&key::public_address(address), primary.id.clone());
    }
    let more = interfaces.iter().zip(&plan.network.places).skip(1);
    let more = more.map(|(interface, place)| AttachedInterface {
        interface_id: interface.id.clone(),
        device_index: place.device_index,
    });
    let more_interfaces = more.collect();
    let volumes = plan.devices.volumes.iter().zip(keys);
    let volumes = volumes.map(|(device, key)| stage_volume(call, plan, device, key, &id)).collect();
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
        private_ip: primary.private_ip,
        wants_public_ip: plan.network.public,
        public_ip: primary.public_ip,
        interface_id: primary.id.clone(),
        more_interfaces,
        name_options: plan.name_options.clone(),
        volumes,
        ephemeral: plan.devices.ephemeral.clone(),
        root_device_name: plan.image.root_device_name.clone(),
        user_data: plan.user_data.clone(),
        state: InstanceState::Pending,
        start: 1,
        reboots: 0,
        force_stop: false,
        launched: now,
        created: now,
        state_changed: call.now,
        state_reason: instance::pending(),
        transition_reason: String::new(),
        reachable: None,
        terminate_on_shutdown: plan.terminate_on_shutdown,
        disable_api_termination: plan.disable_api_termination,
        disable_api_stop: plan.disable_api_stop,
        ebs_optimized: plan.ebs_optimized,
        monitoring: plan.monitoring,
        source_dest_check: primary.source_dest_check,
        metadata_options: plan.metadata_options.clone(),
        client_token: plan.client_token.clone(),
        cpu_credits: plan.cpu_credits.clone(),
        tags: plan.instance_tags.clone(),
        kept: Kept::default(),
    };
    let at = instance::key_of(call, &id);
    Ok((call.put(&at, record), interfaces))
}

fn stage_volume(
    call: &mut Call<'_>,
    plan: &Plan,
    device: &Device,
    volume_key: Option<WrappedKey>,
    instance_id: &str,
) -> AttachedVolume {
    let created = instance::whole_second(call.now);
    let id = call.new_id("vol");
    let record = source::new(New {
        id: id.clone(),
        shape: &device.shape,
        snapshot: device.snapshot.as_deref(),
        key: volume_key,
        initialization_rate: device.initialization_rate,
        zone: &plan.subnet.availability_zone,
        created,
    });
    // Attached from the start: the launch fails if the volume cannot be made.
    let record = Volume {
        attachments: vec![instance_id.to_owned()],
        state: VolumeState::Available,
        tags: plan.volume_tags.clone(),
        ..record
    };
    let at = key::of(call.region, key::VOLUME, call.account(), &id);
    call.put(&at, record);
    AttachedVolume {
        volume_id: id,
        device_name: device.name.clone(),
        delete_on_termination: device.delete_on_termination,
        attached: created,
        state: AttachmentState::Attached,
        forced: false,
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

/// PrivateDnsNameOptions, by the subnet where the request does not say.
fn name_options(input: &api::RunInstancesRequest, subnet: &Subnet) -> NameOptions {
    let mut options = subnet.name_options.clone();
    let Some(given) = &input.private_dns_name_options else { return options };
    if let Some(kind) = &given.hostname_type {
        options.resource_name = kind == "resource-name";
    }
    if let Some(on) = given.enable_resource_name_dns_a_record {
        options.resource_name_a = on;
    }
    if let Some(on) = given.enable_resource_name_dns_aaaa_record {
        options.resource_name_aaaa = on;
    }
    options
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
