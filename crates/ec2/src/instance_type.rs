//! Instance types: what AWS says of each, embedded in the binary.
//!
//! The build script makes two things of data/instance-types.json.gz: the descriptions as one text,
//! which costs memory only where it is read, and an index sorted by name with the facts that a
//! launch needs. So [`find`] is a binary search in a constant, and a description is parsed when it
//! is asked for. Every region offers every type in every zone: what a machine can really run is the
//! driver's business.

mod json;

use crate::kept::{Items, Kept, Made};
use crate::record::Tags;
use crate::region;
use model::ec2::{self as api, op};
use serde_json::Value;
use service::filter::{Field, Filters, Values};
use service::page::{Page, page};
use service::{Call, Error, Operation, operation};
use std::sync::LazyLock;
use wire::shape::Slot;
use wire::{Encoder, Member, Shape};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        // The answer of the handler, shown without being made.
        run: |_, input| {
            let input = input
                .downcast_ref::<api::DescribeInstanceTypesRequest>()
                .ok_or_else(|| Error::internal("an operation got another operation's input"))?;
            Ok(Box::new(shape(find_page(input.clone())?)?))
        },
        ..operation!(
            op::DescribeInstanceTypes,
            describe_instance_types,
            Read,
            ["InstanceTypes", "Filters.*", "MaxResults", "NextToken", "IncludeUnsupportedInRegion"]
        )
    },
    operation!(
        op::DescribeInstanceTypeOfferings,
        describe_instance_type_offerings,
        Read,
        ["LocationType", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// What a launch asks of an instance type.
#[derive(Debug)]
pub(crate) struct Facts {
    /// `t3.micro`.
    pub(crate) name: &'static str,
    /// DefaultVCpus.
    pub(crate) vcpus: u32,
    /// DefaultCores.
    pub(crate) cores: u32,
    /// DefaultThreadsPerCore.
    pub(crate) threads_per_core: u32,
    /// Memory, MiB.
    pub(crate) memory_mib: u64,
    /// A T type with CPU credits.
    pub(crate) burstable: bool,
    /// A whole machine.
    pub(crate) bare_metal: bool,
    /// `x86_64`, `arm64`, `i386`, …
    pub(crate) architectures: &'static [&'static str],
    /// `default`, `supported` or `unsupported`.
    pub(crate) ebs_optimized: &'static str,
    /// Of the Nitro System, as whole machines are.
    pub(crate) nitro: bool,
    /// MaximumEbsAttachments.
    pub(crate) max_volumes: u32,
    /// Disks of the instance store. No type has disks of two sizes.
    pub(crate) local_disks: u32,
    /// Size of each, GB.
    pub(crate) local_disk_gb: u32,
    /// They are there without a block device mapping, which has no effect on them.
    pub(crate) local_nvme: bool,
    /// MaximumNetworkInterfaces of the first network card, which is the only one here.
    pub(crate) max_interfaces: u32,
    /// Ipv4AddressesPerInterface.
    ipv4_addresses: u32,
    /// Ipv6AddressesPerInterface.
    ipv6_addresses: u32,
}

impl Facts {
    /// Most IPv4 addresses and prefixes of an interface.
    pub(crate) fn ipv4_per_interface(&self) -> usize {
        self.ipv4_addresses as usize
    }

    /// Most IPv6 addresses and prefixes of an interface.
    pub(crate) fn ipv6_per_interface(&self) -> usize {
        self.ipv6_addresses as usize
    }
}

/// Where a type's description stands in [`DESCRIPTIONS`].
struct Entry {
    at: u32,
    length: u32,
    facts: Facts,
}

include!(concat!(env!("OUT_DIR"), "/instance_types.rs"));

static DESCRIPTIONS: &str = include_str!(concat!(env!("OUT_DIR"), "/instance_types.json"));

fn entry(name: &str) -> Option<&'static Entry> {
    INDEX.binary_search_by(|entry| entry.facts.name.cmp(name)).ok().map(|index| &INDEX[index])
}

/// The facts of an instance type; `None` when there is no such type.
pub(crate) fn find(name: &str) -> Option<&'static Facts> {
    entry(name).map(|entry| &entry.facts)
}

impl Entry {
    fn description(&self) -> Result<Value, Error> {
        let (at, length) = (self.at as usize, self.length as usize);
        serde_json::from_str(&DESCRIPTIONS[at..at + length]).map_err(Error::internal)
    }
}

fn to_model(description: &Value) -> Result<api::InstanceTypeInfo, Error> {
    let mut info = api::InstanceTypeInfo::default();
    json::fill(&mut info, description).map_err(Error::internal)?;
    info.supported_in_region = Some(true);
    Ok(info)
}

/// The texts at a path of member names; lists on the way contribute each of their items.
fn at<'a>(value: &'a Value, path: &[&str]) -> Values<'a> {
    let mut here = vec![value];
    for name in path {
        here = here
            .into_iter()
            .filter_map(|value| value.get(name))
            .flat_map(|value| match value {
                Value::Array(items) => items.iter().collect(),
                other => vec![other],
            })
            .collect();
    }
    here.into_iter()
        .map(|leaf| match leaf {
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        })
        .collect()
}

macro_rules! fields {
    ($($name:literal: $($member:literal).+;)*) => {
        &[$(($name, |value| at(value, &[$($member),+]))),*]
    };
}

#[rustfmt::skip]
const FILTERS: &[Field<Value>] = fields! {
    "auto-recovery-supported": "AutoRecoverySupported";
    "bare-metal": "BareMetal";
    "burstable-performance-supported": "BurstablePerformanceSupported";
    "current-generation": "CurrentGeneration";
    "dedicated-hosts-supported": "DedicatedHostsSupported";
    "ebs-info.attachment-limit-type": "EbsInfo"."AttachmentLimitType";
    "ebs-info.maximum-ebs-attachments": "EbsInfo"."MaximumEbsAttachments";
    "ebs-info.ebs-optimized-info.baseline-bandwidth-in-mbps": "EbsInfo"."EbsOptimizedInfo"."BaselineBandwidthInMbps";
    "ebs-info.ebs-optimized-info.baseline-iops": "EbsInfo"."EbsOptimizedInfo"."BaselineIops";
    "ebs-info.ebs-optimized-info.baseline-throughput-in-mbps": "EbsInfo"."EbsOptimizedInfo"."BaselineThroughputInMBps";
    "ebs-info.ebs-optimized-info.maximum-bandwidth-in-mbps": "EbsInfo"."EbsOptimizedInfo"."MaximumBandwidthInMbps";
    "ebs-info.ebs-optimized-info.maximum-iops": "EbsInfo"."EbsOptimizedInfo"."MaximumIops";
    "ebs-info.ebs-optimized-info.maximum-throughput-in-mbps": "EbsInfo"."EbsOptimizedInfo"."MaximumThroughputInMBps";
    "ebs-info.ebs-optimized-support": "EbsInfo"."EbsOptimizedSupport";
    "ebs-info.encryption-support": "EbsInfo"."EncryptionSupport";
    "ebs-info.nvme-support": "EbsInfo"."NvmeSupport";
    "free-tier-eligible": "FreeTierEligible";
    "hibernation-supported": "HibernationSupported";
    "hypervisor": "Hypervisor";
    "instance-storage-info.disk.count": "InstanceStorageInfo"."Disks"."Count";
    "instance-storage-info.disk.size-in-gb": "InstanceStorageInfo"."Disks"."SizeInGB";
    "instance-storage-info.disk.type": "InstanceStorageInfo"."Disks"."Type";
    "instance-storage-info.encryption-support": "InstanceStorageInfo"."EncryptionSupport";
    "instance-storage-info.nvme-support": "InstanceStorageInfo"."NvmeSupport";
    "instance-storage-info.total-size-in-gb": "InstanceStorageInfo"."TotalSizeInGB";
    "instance-storage-supported": "InstanceStorageSupported";
    "instance-type": "InstanceType";
    "memory-info.size-in-mib": "MemoryInfo"."SizeInMiB";
    "network-info.bandwidth-weightings": "NetworkInfo"."BandwidthWeightings";
    "network-info.efa-info.maximum-efa-interfaces": "NetworkInfo"."EfaInfo"."MaximumEfaInterfaces";
    "network-info.efa-supported": "NetworkInfo"."EfaSupported";
    "network-info.ena-support": "NetworkInfo"."EnaSupport";
    "network-info.flexible-ena-queues-support": "NetworkInfo"."FlexibleEnaQueuesSupport";
    "network-info.encryption-in-transit-supported": "NetworkInfo"."EncryptionInTransitSupported";
    "network-info.ipv4-addresses-per-interface": "NetworkInfo"."Ipv4AddressesPerInterface";
    "network-info.ipv6-addresses-per-interface": "NetworkInfo"."Ipv6AddressesPerInterface";
    "network-info.ipv6-supported": "NetworkInfo"."Ipv6Supported";
    "network-info.maximum-network-cards": "NetworkInfo"."MaximumNetworkCards";
    "network-info.maximum-network-interfaces": "NetworkInfo"."MaximumNetworkInterfaces";
    "network-info.network-performance": "NetworkInfo"."NetworkPerformance";
    "nitro-enclaves-support": "NitroEnclavesSupport";
    "nitro-tpm-support": "NitroTpmSupport";
    "nitro-tpm-info.supported-versions": "NitroTpmInfo"."SupportedVersions";
    "processor-info.supported-architecture": "ProcessorInfo"."SupportedArchitectures";
    "processor-info.sustained-clock-speed-in-ghz": "ProcessorInfo"."SustainedClockSpeedInGhz";
    "processor-info.supported-features": "ProcessorInfo"."SupportedFeatures";
    "reboot-migration-support": "RebootMigrationSupport";
    "supported-boot-mode": "SupportedBootModes";
    "supported-root-device-type": "SupportedRootDeviceTypes";
    "supported-usage-class": "SupportedUsageClasses";
    "supported-virtualization-type": "SupportedVirtualizationTypes";
    "vcpu-info.default-cores": "VCpuInfo"."DefaultCores";
    "vcpu-info.default-threads-per-core": "VCpuInfo"."DefaultThreadsPerCore";
    "vcpu-info.default-vcpus": "VCpuInfo"."DefaultVCpus";
    "vcpu-info.valid-cores": "VCpuInfo"."ValidCores";
    "vcpu-info.valid-threads-per-core": "VCpuInfo"."ValidThreadsPerCore";
};

/// Types of one page: as many as AWS gives when the request does not say.
const PAGE: i32 = 100;

fn describe_instance_types(
    _: &mut Call<'_>,
    input: api::DescribeInstanceTypesRequest,
) -> Result<api::DescribeInstanceTypesResult, Error> {
    let page = find_page(input)?;
    let types = page
        .items
        .into_iter()
        .map(|entry| to_model(&entry.description()?))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(api::DescribeInstanceTypesResult {
        instance_types: Some(types),
        next_token: page.next_token,
    })
}

/// Descriptions as last encoded, in the order of [`INDEX`]: they never change.
static KEPT: LazyLock<Vec<Kept<()>>> =
    LazyLock::new(|| INDEX.iter().map(|_| Kept::default()).collect());

/// A type to show: its kept description, and its model if there is none.
type Shown = (&'static Kept<()>, api::InstanceTypeInfo);

/// The answer that shows these types.
fn shape(page: Page<&'static Entry>) -> Result<impl Shape + use<>, Error> {
    let to_show = |entry: &'static Entry| -> Result<Shown, Error> {
        let place = INDEX.binary_search_by(|other| other.facts.name.cmp(entry.facts.name));
        let kept = &KEPT[place.map_err(|_| Error::internal("a type that is not in the index"))?];
        let info = match kept.is_kept() {
            true => api::InstanceTypeInfo::default(),
            false => to_model(&entry.description()?)?,
        };
        Ok((kept, info))
    };
    let types: Vec<Shown> = page.items.into_iter().map(to_show).collect::<Result<_, _>>()?;
    let next_token = page.next_token;
    Ok(Made {
        schema: api::DescribeInstanceTypesResult::default().schema(),
        show: move |member: &'static Member, out: &mut dyn Encoder| match member.name {
            "NextToken" => next_token.put(member, out),
            "InstanceTypes" => {
                let show = |(kept, info): &Shown, item: &'static Member, out: &mut dyn Encoder| {
                    kept.show(item, out, |()| true, || (), |show| show(info));
                };
                out.list(member, &Items { items: &types, show });
            }
            _ => {}
        },
    })
}

/// The types that a request asks for.
fn find_page(input: api::DescribeInstanceTypesRequest) -> Result<Page<&'static Entry>, Error> {
    let unfiltered = input.filters.as_ref().is_none_or(Vec::is_empty);
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let named = input.instance_types.unwrap_or_default();
    let mut entries: Vec<&'static Entry> = if named.is_empty() {
        match filters.exact("instance-type") {
            Some(names) => names.iter().filter_map(|name| entry(name)).collect(),
            None => INDEX.iter().collect(),
        }
    } else {
        let unknown: Vec<&str> =
            named.iter().map(String::as_str).filter(|name| entry(name).is_none()).collect();
        if !unknown.is_empty() {
            return Err(does_not_exist(&unknown.join(", ")));
        }
        named.iter().filter_map(|name| entry(name)).collect()
    };
    entries.sort_by_key(|entry| entry.at);
    entries.dedup_by_key(|entry| entry.at);
    let mut found = Vec::new();
    if unfiltered {
        found = entries;
    } else {
        for entry in entries {
            if filters.accept(&entry.description()?, &Tags::new()) {
                found.push(entry);
            }
        }
    }
    let limit = input.max_results.unwrap_or(PAGE);
    page(found, |e| e.facts.name, Some(limit), input.next_token.as_deref(), 5..=PAGE)
}

/// The error for types that there are not, their names joined by commas.
pub(crate) fn does_not_exist(names: &str) -> Error {
    Error::client(
        "InvalidInstanceType",
        format!("The following supplied instance types do not exist: [{names}]"),
    )
}

/// A type in a place. Pages are in the order of `place`.
struct Offering {
    instance_type: &'static str,
    location: String,
    place: String,
}

const OFFERING_FILTERS: &[Field<Offering>] = &[
    ("instance-type", |offering| vec![offering.instance_type.into()]),
    ("location", |offering| vec![offering.location.as_str().into()]),
];

fn describe_instance_type_offerings(
    call: &mut Call<'_>,
    input: api::DescribeInstanceTypeOfferingsRequest,
) -> Result<api::DescribeInstanceTypeOfferingsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), OFFERING_FILTERS)?;
    let location_type = input.location_type.as_deref().unwrap_or("region");
    let locations: Vec<String> = match location_type {
        "region" => vec![call.region.to_owned()],
        "availability-zone" => region::zones(call.region).into_iter().map(|z| z.name).collect(),
        "availability-zone-id" => region::zones(call.region).into_iter().map(|z| z.id).collect(),
        // No outposts here: nothing is offered on any.
        "outpost" => Vec::new(),
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "The locationType '{other}' is invalid"
            )));
        }
    };
    let names: Vec<&'static str> = match filters.exact("instance-type") {
        Some(names) => names.iter().filter_map(|name| find(name)).map(|f| f.name).collect(),
        None => INDEX.iter().map(|entry| entry.facts.name).collect(),
    };
    let mut offerings: Vec<Offering> = names
        .iter()
        .flat_map(|name| {
            locations.iter().map(move |location| Offering {
                instance_type: name,
                location: location.clone(),
                place: format!("{name} {location}"),
            })
        })
        .filter(|offering| filters.accept(offering, &Tags::new()))
        .collect();
    offerings.sort_by(|a, b| a.place.cmp(&b.place));
    offerings.dedup_by(|a, b| a.place == b.place);
    let limit = input.max_results.unwrap_or(1000);
    let page = page(offerings, |o| &o.place, Some(limit), input.next_token.as_deref(), 5..=1000)?;
    let offerings = page
        .items
        .into_iter()
        .map(|offering| api::InstanceTypeOffering {
            instance_type: Some(offering.instance_type.to_owned()),
            location: Some(offering.location),
            location_type: Some(location_type.to_owned()),
        })
        .collect();
    Ok(api::DescribeInstanceTypeOfferingsResult {
        instance_type_offerings: Some(offerings),
        next_token: page.next_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_by_name() {
        let facts = find("t3.micro").unwrap();
        assert_eq!((facts.vcpus, facts.memory_mib, facts.burstable), (2, 1024, true));
        assert_eq!((facts.cores, facts.threads_per_core), (1, 2));
        assert_eq!(facts.architectures, ["x86_64"]);
        assert!(find("t3.gigantic").is_none());
    }

    #[test]
    fn types_are_described_in_pages_by_name_and_by_filter() {
        use crate::testing::{Region, filter, list};
        let region = Region::new();
        let input = api::DescribeInstanceTypesRequest {
            instance_types: list(&["t3.micro", "c5.large"]),
            ..Default::default()
        };
        let types = region.ok(describe_instance_types, input).instance_types.unwrap();
        let names: Vec<_> = types.iter().filter_map(|t| t.instance_type.as_deref()).collect();
        assert_eq!(names, ["c5.large", "t3.micro"]);
        assert_eq!(types[1].hypervisor.as_deref(), Some("nitro"));
        let unknown = api::DescribeInstanceTypesRequest {
            instance_types: list(&["t3.micro", "t9.huge"]),
            ..Default::default()
        };
        assert_eq!(
            region.refused(describe_instance_types, unknown),
            "InvalidInstanceType: The following supplied instance types do not exist: [t9.huge]"
        );
        let free = api::DescribeInstanceTypesRequest {
            filters: Some(vec![
                filter("instance-type", &["t3.*"]),
                filter("memory-info.size-in-mib", &["1024", "2048"]),
                filter("vcpu-info.default-vcpus", &["2"]),
            ]),
            ..Default::default()
        };
        assert_eq!(region.ok(describe_instance_types, free).instance_types.unwrap().len(), 2);
        let (mut seen, mut next_token) = (0, None);
        loop {
            let input = api::DescribeInstanceTypesRequest { next_token, ..Default::default() };
            let answer = region.ok(describe_instance_types, input);
            seen += answer.instance_types.unwrap().len();
            next_token = answer.next_token;
            if next_token.is_none() {
                break;
            }
        }
        assert_eq!(seen, INDEX.len());
    }

    #[test]
    fn every_zone_offers_every_type() {
        use crate::testing::{Region, filter};
        let region = Region::new();
        let offerings = |location_type: &str, filters: Vec<api::Filter>| {
            let input = api::DescribeInstanceTypeOfferingsRequest {
                location_type: Some(location_type.to_owned()),
                filters: Some(filters),
                ..Default::default()
            };
            let answer = region.ok(describe_instance_type_offerings, input);
            answer.instance_type_offerings.unwrap()
        };
        let micro = || filter("instance-type", &["t3.micro"]);
        assert_eq!(offerings("availability-zone", vec![micro()]).len(), 6);
        let one = offerings("availability-zone-id", vec![micro(), filter("location", &["*-az2"])]);
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].location.as_deref(), Some("use1-az2"));
        assert_eq!(offerings("region", vec![micro()])[0].location.as_deref(), Some("us-east-1"));
    }

    #[test]
    fn every_description_becomes_a_shape_without_loss() {
        for entry in INDEX {
            let description = entry.description().unwrap();
            let info = to_model(&description).unwrap();
            assert_eq!(info.instance_type.as_deref(), Some(entry.facts.name));
            assert_eq!(
                info.memory_info.and_then(|memory| memory.size_in_mi_b),
                i64::try_from(entry.facts.memory_mib).ok()
            );
        }
        // A path that is spelt wrong would find nothing in any type.
        for (name, values) in FILTERS {
            let found = INDEX.iter().any(|entry| {
                let description = entry.description().unwrap();
                !values(&description).is_empty()
            });
            assert!(found, "{name}");
        }
    }
}
