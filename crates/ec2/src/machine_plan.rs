//! What the node must know to run an instance, and what IMDS says to it: a pure function of
//! records. No IO, no clock, no randomness.
//!
//! IMDS leaves are those of the EC2 User Guide, "Instance metadata categories", that apply to the
//! instance: what does not apply is left out and answers 404. The node adds the directories and the
//! signatures beside the identity document.

use crate::instance::is_metadata_tag;
use crate::instance_type::{self, Facts};
use crate::interface::{private_dns_name, public_dns_name, resource_dns_name};
use crate::record::{
    AttachedVolume, AttachmentState, Instance, InstanceState, Interface, InterfaceAttachment,
    Subnet, Vpc,
};
use crate::region;
use base::machine::{self, LocalDisk, Metadata, Spec, Wanted};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The records and facts that an instance's machine depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) instance: &'a Instance,
    /// Its interfaces by device index, the primary one first; none only while an instance ends.
    pub(crate) places: &'a [Place],
}

/// An interface of an instance with what it stands in.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) interface: Arc<Interface>,
    pub(crate) subnet: Option<Arc<Subnet>>,
    pub(crate) vpc: Option<Arc<Vpc>>,
    /// Names of the interface's security groups, in its order.
    pub(crate) group_names: Vec<String>,
}

impl Place {
    fn attachment(&self) -> Option<&InterfaceAttachment> {
        self.interface.attachment.as_ref()
    }

    /// Whether the machine is to have it.
    fn is_wanted(&self) -> bool {
        self.attachment().is_none_or(|place| place.state != AttachmentState::Detaching)
    }

    /// Whether it is taken from the machine.
    fn is_forced_off(&self) -> bool {
        self.attachment().is_some_and(|place| place.forced) && !self.is_wanted()
    }

    fn has_names(&self) -> bool {
        self.vpc.as_ref().is_some_and(|vpc| vpc.dns_hostnames)
    }
}

/// The power state that belongs to an instance's state. `None` for a terminated one, of which the
/// node wants to know nothing any more.
pub(crate) fn wanted(instance: &Instance) -> Option<Wanted> {
    match instance.state {
        InstanceState::Pending | InstanceState::Running => {
            Some(Wanted::Running { start: instance.start, reboots: instance.reboots })
        }
        InstanceState::Stopping | InstanceState::Stopped => {
            Some(Wanted::Stopped { force: instance.force_stop })
        }
        InstanceState::ShuttingDown => Some(Wanted::Terminated),
        InstanceState::Terminated => None,
    }
}

/// The machine of an instance.
pub(crate) fn spec(sources: &Sources<'_>, wanted: Wanted) -> Spec {
    let instance = sources.instance;
    let facts = instance_type::find(&instance.instance_type);
    Spec {
        id: instance.id.clone(),
        region: sources.region.to_owned(),
        wanted,
        image: instance.image_key.clone(),
        vcpus: facts.map_or(1, |facts| facts.vcpus),
        memory_mib: facts.map_or(512, |facts| facts.memory_mib),
        volumes: volumes(instance)
            .map(|volume| machine::Volume {
                id: volume.volume_id.clone(),
                device_name: volume.device_name.clone(),
            })
            .collect(),
        forced_off: forced_off(instance).cloned().collect(),
        local_disks: local_disks(instance, facts),
        interfaces: wanted_places(sources)
            .map(|place| machine::Interface {
                id: place.interface.id.clone(),
                mac: place.interface.mac.clone(),
                vpc_id: place.interface.vpc_id.clone(),
                private_ip: place.interface.private_ip,
            })
            .collect(),
        forced_off_interfaces: sources
            .places
            .iter()
            .filter(|place| place.is_forced_off())
            .map(|place| place.interface.id.clone())
            .collect(),
        metadata: metadata(sources),
    }
}

/// The interfaces that the machine is to have.
fn wanted_places<'a>(sources: &Sources<'a>) -> impl Iterator<Item = &'a Place> + use<'a> {
    sources.places.iter().filter(|place| place.is_wanted())
}

/// The primary interface.
fn primary<'a>(sources: &Sources<'a>) -> Option<&'a Place> {
    sources.places.first().filter(|p| p.interface.id == sources.instance.interface_id)
}

/// The volumes that the machine is to have.
fn volumes(instance: &Instance) -> impl Iterator<Item = &AttachedVolume> {
    instance.volumes.iter().filter(|volume| volume.state != AttachmentState::Detaching)
}

/// Those that are taken from it.
fn forced_off(instance: &Instance) -> impl Iterator<Item = &String> {
    let forced =
        |volume: &&AttachedVolume| volume.forced && volume.state == AttachmentState::Detaching;
    instance.volumes.iter().filter(forced).map(|volume| &volume.volume_id)
}

/// The instance store: what the launch mapped, or all of it where it has NVMe.
fn local_disks(instance: &Instance, facts: Option<&'static Facts>) -> Vec<LocalDisk> {
    let Some(facts) = facts else { return Vec::new() };
    let disk = |name: String, device_name: String| LocalDisk {
        name,
        device_name,
        size_gb: facts.local_disk_gb,
    };
    if facts.local_nvme {
        // The root is nvme0n1.
        let device = |number: u32| format!("/dev/nvme{}n1", number + 1);
        return (0..facts.local_disks)
            .map(|number| disk(format!("ephemeral{number}"), device(number)))
            .collect();
    }
    instance
        .ephemeral
        .iter()
        .filter(|_| facts.local_disks > 0)
        .map(|mapped| disk(mapped.name.clone(), mapped.device_name.clone()))
        .collect()
}

/// A number that is another one, as far as 64 bits go, when [`spec`] would be another one: what is
/// hashed is all that a spec is made of. Good for the life of a process.
pub(crate) fn fingerprint(sources: &Sources<'_>, wanted: Wanted) -> u64 {
    let Sources { region, account, instance, places } = *sources;
    // No `..`: a new field must be judged.
    let Instance {
        v: _,
        id,
        reservation_id,
        launch_index,
        image_id,
        image_key,
        architecture,
        instance_type,
        key_name: _,
        public_key,
        availability_zone,
        subnet_id: _,
        vpc_id: _,
        private_ip,
        wants_public_ip: _,
        public_ip,
        interface_id: _,
        // Their records say more.
        more_interfaces: _,
        name_options,
        volumes: _,
        ephemeral,
        root_device_name,
        user_data,
        // These are what is wanted.
        state: _,
        start: _,
        reboots: _,
        force_stop: _,
        launched,
        created: _,
        state_changed: _,
        state_reason: _,
        transition_reason: _,
        reachable: _,
        terminate_on_shutdown: _,
        disable_api_termination: _,
        disable_api_stop: _,
        ebs_optimized: _,
        monitoring,
        source_dest_check: _,
        metadata_options,
        client_token: _,
        cpu_credits: _,
        tags,
        kept: _,
    } = instance;
    let mut hash = DefaultHasher::new();
    match wanted {
        Wanted::Running { start, reboots } => (0_u8, start, reboots).hash(&mut hash),
        Wanted::Stopped { force } => (1_u8, force).hash(&mut hash),
        Wanted::Terminated => 2_u8.hash(&mut hash),
    }
    (region, account, id, reservation_id, launch_index, image_id, image_key).hash(&mut hash);
    (architecture, instance_type, public_key, availability_zone).hash(&mut hash);
    (private_ip, public_ip, ephemeral, root_device_name, user_data).hash(&mut hash);
    for volume in volumes(instance) {
        let AttachedVolume {
            volume_id,
            device_name,
            delete_on_termination: _,
            attached: _,
            // Who is there and who is not is what counts.
            state: _,
            forced: _,
        } = volume;
        (volume_id, device_name).hash(&mut hash);
    }
    for volume_id in forced_off(instance) {
        volume_id.hash(&mut hash);
    }
    name_options.hash(&mut hash);
    (launched.0, monitoring, metadata_options, tags).hash(&mut hash);
    for place in places {
        place_fingerprint(place, &mut hash);
    }
    hash.finish()
}

fn place_fingerprint(place: &Place, hash: &mut DefaultHasher) {
    // No `..`: a new field must be judged.
    let Interface {
        v: _,
        id,
        subnet_id,
        vpc_id,
        availability_zone: _,
        description: _,
        mac,
        private_ip,
        public_ip,
        elastic: _,
        secondary,
        prefixes,
        ipv6,
        ipv6_prefixes,
        primary_ipv6: _,
        kind: _,
        groups,
        source_dest_check: _,
        attachment,
        detached: _,
        tags: _,
    } = &*place.interface;
    if !place.is_wanted() {
        (id, place.is_forced_off()).hash(hash);
        return;
    }
    (id, subnet_id, vpc_id, mac, private_ip, public_ip, secondary).hash(hash);
    (prefixes, ipv6, ipv6_prefixes, groups, &place.group_names).hash(hash);
    // How far the attachment is makes no other machine.
    attachment.as_ref().map(|attachment| attachment.device_index).hash(hash);
    if let Some(subnet) = &place.subnet {
        (subnet.cidr, subnet.ipv6_cidr.as_ref().map(|block| block.cidr)).hash(hash);
    }
    if let Some(vpc) = &place.vpc {
        vpc.dns_hostnames.hash(hash);
        vpc.cidrs().for_each(|cidr| cidr.hash(hash));
        vpc.ipv6_cidrs.iter().for_each(|block| block.cidr.hash(hash));
    }
}

/// The wish that a machine without a record be gone.
pub(crate) fn orphan(id: &str, region: &str) -> Spec {
    Spec {
        id: id.to_owned(),
        region: region.to_owned(),
        wanted: Wanted::Terminated,
        image: String::new(),
        vcpus: 1,
        memory_mib: 0,
        volumes: Vec::new(),
        forced_off: Vec::new(),
        local_disks: Vec::new(),
        interfaces: Vec::new(),
        forced_off_interfaces: Vec::new(),
        metadata: Metadata::default(),
    }
}

fn metadata(sources: &Sources<'_>) -> Metadata {
    let instance = sources.instance;
    let options = &instance.metadata_options;
    Metadata {
        leaves: leaves(sources),
        user_data: instance.user_data.clone(),
        enabled: options.enabled,
        tokens_required: options.tokens_required,
        hop_limit: options.hop_limit,
    }
}

fn leaves(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let Sources { region, instance, .. } = *sources;
    let hostname = host_name(sources);
    let primary = primary(sources);
    let mut leaves = BTreeMap::new();
    let mut put = |path: &str, value: &str| {
        leaves.insert(["meta-data/", path].concat(), value.to_owned());
    };
    put("ami-id", &instance.image_id);
    put("ami-launch-index", &instance.launch_index.to_string());
    put("ami-manifest-path", "(unknown)");
    put("block-device-mapping/ami", &instance.root_device_name);
    put("block-device-mapping/root", &instance.root_device_name);
    let short = |device: &str| device.strip_prefix("/dev/").unwrap_or(device).to_owned();
    let others = volumes(instance).filter(|v| v.device_name != instance.root_device_name);
    for (number, volume) in others.enumerate() {
        put(&format!("block-device-mapping/ebs{}", number + 1), &short(&volume.device_name));
    }
    // Not AWS's: built images link a disk, whose serial is the volume's id, to the name that was
    // asked for.
    for volume in volumes(instance) {
        put(&format!("gureum/volumes/{}", volume.volume_id.replace('-', "")), &volume.device_name);
    }
    for disk in &instance.ephemeral {
        put(&format!("block-device-mapping/{}", disk.name), &short(&disk.device_name));
    }
    put("events/maintenance/history", "[]");
    put("events/maintenance/scheduled", "[]");
    put("hostname", &hostname);
    put("instance-action", "none");
    put("instance-id", &instance.id);
    put("instance-life-cycle", "on-demand");
    put("instance-type", &instance.instance_type);
    put("local-hostname", &hostname);
    put("local-ipv4", &instance.private_ip.to_string());
    put("placement/availability-zone", &instance.availability_zone);
    if let Some(id) = region::zone_id(region, &instance.availability_zone) {
        put("placement/availability-zone-id", &id);
    }
    put("placement/region", region);
    put("profile", "default-hvm");
    if let Some(key) = &instance.public_key {
        // IMDS lists the directory as `0=NAME`, taking the name from the key's comment.
        put("public-keys/0/openssh-key", key);
    }
    put("reservation-id", &instance.reservation_id);
    put("services/domain", region::domain(region));
    put("services/partition", region::partition(region));
    put("system", "nitro");
    if let Some(address) = instance.public_ip {
        put("public-ipv4", &address.to_string());
        if primary.is_some_and(Place::has_names) {
            put("public-hostname", &public_dns_name(region, address));
        }
    }
    if let Some(address) = primary.and_then(|place| place.interface.ipv6.first()) {
        put("ipv6", &address.to_string());
    }
    if instance.metadata_options.tags {
        for (name, value) in instance.tags.iter().filter(|(name, _)| is_metadata_tag(name)) {
            put(&format!("tags/instance/{name}"), value);
        }
    }
    if let Some(place) = primary {
        put("mac", &place.interface.mac);
        put("security-groups", &place.group_names.join("\n"));
    }
    for place in wanted_places(sources) {
        interface_leaves(sources, place, &mut put);
    }
    let monitoring = if instance.monitoring { "enabled" } else { "disabled" };
    leaves.insert("dynamic/fws/instance-monitoring".to_owned(), monitoring.to_owned());
    leaves.insert("dynamic/instance-identity/document".to_owned(), identity_document(sources));
    leaves
}

/// The host name that DHCP gives.
fn host_name(sources: &Sources<'_>) -> String {
    let instance = sources.instance;
    if instance.name_options.resource_name {
        resource_dns_name(sources.region, &instance.id)
    } else {
        private_dns_name(sources.region, instance.private_ip)
    }
}

/// One value a line.
fn lines<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join("\n")
}

fn interface_leaves(sources: &Sources<'_>, place: &Place, put: &mut impl FnMut(&str, &str)) {
    let region = sources.region;
    let interface = &*place.interface;
    let index = interface.attachment.as_ref().map_or(0, |attachment| attachment.device_index);
    let is_primary = interface.id == sources.instance.interface_id;
    let mut put = |leaf: &str, value: &str| {
        if !value.is_empty() {
            put(&["network/interfaces/macs/", &interface.mac, "/", leaf].concat(), value);
        }
    };
    let name = match is_primary {
        true => host_name(sources),
        false => private_dns_name(region, interface.private_ip),
    };
    put("device-number", &index.to_string());
    put("interface-id", &interface.id);
    put("local-hostname", &name);
    let secondary = interface.secondary.iter().map(|own| own.private_ip);
    put("local-ipv4s", &lines(std::iter::once(interface.private_ip).chain(secondary)));
    put("mac", &interface.mac);
    put("network-card-index", "0");
    put("owner-id", sources.account);
    put("security-group-ids", &interface.groups.join("\n"));
    put("security-groups", &place.group_names.join("\n"));
    put("subnet-id", &interface.subnet_id);
    put("vpc-id", &interface.vpc_id);
    put("ipv4-prefix", &lines(interface.prefixes.iter()));
    put("ipv6s", &lines(interface.ipv6.iter()));
    put("ipv6-prefix", &lines(interface.ipv6_prefixes.iter()));
    let primary = interface.public_ip.map(|public| (public, interface.private_ip));
    let further = interface.secondary.iter();
    let further = further.filter_map(|own| Some((own.elastic.as_ref()?.public_ip, own.private_ip)));
    let public: Vec<_> = primary.into_iter().chain(further).collect();
    for (public, private) in &public {
        put(&format!("ipv4-associations/{public}"), &private.to_string());
    }
    put("public-ipv4s", &lines(public.iter().map(|(public, _)| public)));
    if let (Some((address, _)), true) = (primary, place.has_names()) {
        put("public-hostname", &public_dns_name(region, address));
    }
    if let Some(subnet) = &place.subnet {
        put("subnet-ipv4-cidr-block", &subnet.cidr.to_string());
        put("subnet-ipv6-cidr-blocks", &lines(subnet.ipv6_cidr.iter().map(|block| block.cidr)));
    }
    if let Some(vpc) = &place.vpc {
        put("vpc-ipv4-cidr-block", &vpc.cidr.to_string());
        put("vpc-ipv4-cidr-blocks", &lines(vpc.cidrs()));
        put("vpc-ipv6-cidr-blocks", &lines(vpc.ipv6_cidrs.iter().map(|block| block.cidr)));
    }
}

/// The instance identity document, laid out as AWS lays it out: its signatures cover the bytes
/// (EC2 User Guide, "Instance identity documents").
fn identity_document(sources: &Sources<'_>) -> String {
    let instance = sources.instance;
    // Every value comes from this region's own records and has no character to escape.
    format!(
        r#"{{
  "accountId" : "{account}",
  "architecture" : "{architecture}",
  "availabilityZone" : "{zone}",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : null,
  "imageId" : "{image}",
  "instanceId" : "{id}",
  "instanceType" : "{instance_type}",
  "kernelId" : null,
  "pendingTime" : "{pending}",
  "privateIp" : "{private_ip}",
  "ramdiskId" : null,
  "region" : "{region}",
  "version" : "2017-09-30"
}}"#,
        account = sources.account,
        architecture = instance.architecture,
        zone = instance.availability_zone,
        image = instance.image_id,
        id = instance.id,
        instance_type = instance.instance_type,
        pending = instance.launched.iso_seconds(),
        private_ip = instance.private_ip,
        region = sources.region,
    )
}

#[cfg(test)]
mod tests;
