//! Machine images. The images of the node are files; each of their manifests is published here as an
//! AMI in every region that is used.
//!
//! The principle: an AMI's id is a hash of region and name, so that it is the same on every
//! machine and after every rebuild, and a script may keep it. [`sync`] compares what is published
//! with the manifests and stages the difference; it may be called at any time. Making images from
//! instances, and changing their attributes, is not served yet.

pub(crate) mod record;

use crate::record::{Image, ImageState, MappedDisk, MappedVolume, Mapping, Tags, key};
use crate::{region, tag};
use aws_lc_rs::digest;
use base::Timestamp;
use base::image::{Boot, Manifest};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::DescribeImages,
    describe_images,
    Read,
    [
        "ExecutableUsers",
        "Filters.*",
        "ImageIds",
        "IncludeDeprecated",
        "IncludeDisabled",
        "MaxResults",
        "NextToken",
        "Owners",
    ]
)];

/// The account under which Amazon publishes Amazon Linux.
const AMAZON: &str = "137112412989";
/// The account under which Debian publishes its images.
const DEBIAN: &str = "136693071363";

/// The images of a region that has no files: what `gureum image build` can make, for the simulated
/// driver.
pub fn built_in() -> Vec<Manifest> {
    let manifest = |key: &str, name: &str, description: &str| Manifest {
        v: 1,
        key: key.to_owned(),
        name: name.to_owned(),
        also_named: Vec::new(),
        description: description.to_owned(),
        architecture: "x86_64".to_owned(),
        root_device_name: "/dev/xvda".to_owned(),
        size_gib: 8,
        disk: "disk.raw".to_owned(),
        disk_format: "raw".to_owned(),
        boot: Boot::Firmware,
        owner_id: Some(AMAZON.to_owned()),
        owner_alias: Some("amazon".to_owned()),
        login_user: Some("ec2-user".to_owned()),
        imds_v2: true,
        created: BUILT,
    };
    vec![
        Manifest {
            size_gib: 1,
            owner_id: None,
            owner_alias: None,
            ..manifest(
                "micro",
                "gureum-micro-x86_64",
                "BusyBox on Debian's cloud kernel (simulated)",
            )
        },
        Manifest {
            owner_id: Some(DEBIAN.to_owned()),
            owner_alias: None,
            login_user: Some("admin".to_owned()),
            ..manifest("debian-12", "debian-12-amd64-20261101-2287", "Debian 12 (simulated)")
        },
        Manifest {
            also_named: vec!["al2023-ami-2023.9.20261101.0-kernel-6.1-x86_64".to_owned()],
            imds_v2: false,
            ..manifest(
                "al2-compat",
                "amzn2-ami-hvm-2.0.20261101.0-x86_64-gp2",
                "Debian 12 in which yum, dnf and httpd map to apt-get and apache2. It is not \
                 Amazon Linux (simulated)",
            )
        },
    ]
}

/// When the built-in images were made: 2026-11-01T00:00:00Z, so that they are the same everywhere.
const BUILT: Timestamp = Timestamp(1_793_491_200_000);

/// An id that depends on the texts alone.
fn stable_id(prefix: &str, parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part.as_bytes());
        context.update(b"/");
    }
    let hash = context.finish();
    let hex: String = hash.as_ref().iter().take(9).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{}", &hex[..17])
}

/// The id of the AMI that is published under this name.
fn ami_id(region: &str, name: &str) -> String {
    stable_id("ami", &[region, name])
}

/// What the manifests are as AMIs of a region; `account_id` owns those that name no owner.
pub fn publish(manifests: &[Manifest], region: &str, account_id: &str) -> Vec<Image> {
    let names = |manifest: &'_ Manifest| {
        let names = std::iter::once(&manifest.name).chain(&manifest.also_named);
        names.cloned().collect::<Vec<_>>()
    };
    manifests
        .iter()
        .flat_map(|manifest| names(manifest).into_iter().map(move |name| (manifest, name)))
        .map(|(manifest, name)| Image {
            v: 1,
            id: ami_id(region, &name),
            key: manifest.key.clone(),
            description: manifest.description.clone(),
            architecture: manifest.architecture.clone(),
            root_device_name: manifest.root_device_name.clone(),
            mappings: vec![root_mapping(manifest, region, &name)],
            name,
            owner_id: manifest.owner_id.clone().unwrap_or_else(|| account_id.to_owned()),
            owner_alias: manifest.owner_alias.clone(),
            state: ImageState::Available,
            state_reason: None,
            public: manifest.owner_id.is_some(),
            launch_accounts: BTreeSet::new(),
            imds_v2: manifest.imds_v2,
            boot_mode: None,
            tpm_support: None,
            ena_support: true,
            sriov_net_support: Some("simple".to_owned()),
            source_instance_id: None,
            source_image_id: None,
            source_image_region: None,
            deprecation_time: None,
            protection: None,
            created: manifest.created,
            tags: Tags::new(),
        })
        .collect()
}

/// The root disk of the AMI that is published under this name. Its type is what the name promises.
fn root_mapping(manifest: &Manifest, region: &str, name: &str) -> Mapping {
    let gp2 = name.ends_with("-gp2");
    Mapping {
        device_name: manifest.root_device_name.clone(),
        disk: MappedDisk::Volume(MappedVolume {
            snapshot_id: Some(stable_id("snap", &[region, name])),
            size_gib: manifest.size_gib,
            kind: if gp2 { "gp2" } else { "gp3" }.to_owned(),
            iops: (!gp2).then_some(3000),
            throughput: (!gp2).then_some(125),
            encrypted: false,
            delete_on_termination: true,
        }),
    }
}

fn key_of(region: &str, image: &Image) -> String {
    key::of(region, key::IMAGE, &image.owner_id, &image.id)
}

/// The prefix of all images of a region, whoever owns them.
fn prefix(region: &str) -> String {
    format!("/{region}/{}/", key::IMAGE)
}

/// Makes the AMIs of the call's region those of the manifests: stages new, changed and vanished
/// ones, and nothing when all is as it should be. Tags are kept.
///
/// # Errors
/// An image record cannot be read.
pub fn sync(call: &mut Call<'_>, manifests: &[Manifest]) -> Result<(), Error> {
    let region = call.region;
    let mut wanted: BTreeMap<String, Image> =
        publish(manifests, region, &call.environment.account_id)
            .into_iter()
            .map(|image| (key_of(region, &image), image))
            .collect();
    for published in call.scan::<Image>(&prefix(region))? {
        let record_key = key_of(region, &published);
        match wanted.remove(&record_key) {
            Some(mut image) => {
                image.tags = published.tags.clone();
                if image != *published {
                    call.put(&record_key, image);
                }
            }
            // Only what was published from a manifest goes with its manifest.
            None if published.id == ami_id(region, &published.name) => call.delete(&record_key),
            None => {}
        }
    }
    for (record_key, image) in wanted {
        call.put(&record_key, image);
    }
    Ok(())
}

/// The image with this id that the account may use; the commit depends on it.
///
/// # Errors
/// `InvalidAMIID.Malformed`, `InvalidAMIID.NotFound`.
pub(crate) fn find(call: &mut Call<'_>, id: &str) -> Result<Arc<Image>, Error> {
    check_id(id)?;
    let found = call
        .snapshot()
        .scan(&prefix(call.region))
        .find(|kv| kv.key().ends_with(id))
        .map(|kv| kv.key().to_owned());
    let image = match found {
        Some(record_key) => call.get::<Image>(&record_key)?,
        None => None,
    };
    image
        .filter(|image| image.id == id && (image.public || image.owner_id == call.account()))
        .ok_or_else(|| not_found(&[id]))
}

fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("ami", id) {
        return Ok(());
    }
    Err(Error::client(
        "InvalidAMIID.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
    ))
}

fn not_found(ids: &[&str]) -> Error {
    let message = match ids {
        [id] => format!("The image id '[{id}]' does not exist"),
        many => format!("The image ids '[{}]' do not exist", many.join(", ")),
    };
    Error::client("InvalidAMIID.NotFound", message)
}

fn location(image: &Image) -> String {
    let owner = image.owner_alias.as_deref().unwrap_or(&image.owner_id);
    format!("{owner}/{}", image.name)
}

fn none(_: &Image) -> Values<'_> {
    Vec::new()
}

fn yes(_: &Image) -> Values<'_> {
    vec!["true".into()]
}

fn volumes<'a>(
    image: &'a Image,
    value: impl Fn(&'a MappedVolume) -> Option<Cow<'a, str>>,
) -> Values<'a> {
    image.mappings.iter().filter_map(|mapping| value(mapping.volume()?)).collect()
}

const FILTERS: &[Field<Image>] = &[
    ("architecture", |image| vec![image.architecture.as_str().into()]),
    ("block-device-mapping.delete-on-termination", |image| {
        volumes(image, |volume| Some(volume.delete_on_termination.to_string().into()))
    }),
    ("block-device-mapping.device-name", |image| {
        image.mappings.iter().map(|mapping| mapping.device_name.as_str().into()).collect()
    }),
    ("block-device-mapping.snapshot-id", |image| {
        volumes(image, |volume| volume.snapshot_id.as_deref().map(Into::into))
    }),
    ("block-device-mapping.volume-size", |image| {
        volumes(image, |volume| Some(volume.size_gib.to_string().into()))
    }),
    ("block-device-mapping.volume-type", |image| {
        volumes(image, |volume| Some(volume.kind.as_str().into()))
    }),
    ("block-device-mapping.encrypted", |image| {
        volumes(image, |volume| Some(volume.encrypted.to_string().into()))
    }),
    ("creation-date", |image| vec![image.created.iso_millis().into()]),
    ("description", |image| vec![image.description.as_str().into()]),
    ("ena-support", yes),
    ("free-tier-eligible", yes),
    ("hypervisor", |_| vec!["xen".into()]),
    ("image-allowed", yes),
    ("image-id", |image| vec![image.id.as_str().into()]),
    ("image-type", |_| vec!["machine".into()]),
    ("is-public", |image| vec![image.public.to_string().into()]),
    ("kernel-id", none),
    ("manifest-location", |image| vec![location(image).into()]),
    ("name", |image| vec![image.name.as_str().into()]),
    ("owner-alias", |image| region::text(&image.owner_alias)),
    ("owner-id", |image| vec![image.owner_id.as_str().into()]),
    ("platform", none),
    ("product-code", none),
    ("product-code.type", none),
    ("ramdisk-id", none),
    ("root-device-name", |image| vec![image.root_device_name.as_str().into()]),
    ("root-device-type", |_| vec!["ebs".into()]),
    ("source-image-id", none),
    ("source-image-region", none),
    ("source-instance-id", none),
    ("state", |image| vec![image.state.name().into()]),
    ("state-reason-code", none),
    ("state-reason-message", none),
    ("sriov-net-support", |_| vec!["simple".into()]),
    ("virtualization-type", |_| vec!["hvm".into()]),
];

fn describe_images(
    call: &mut Call<'_>,
    input: api::DescribeImagesRequest,
) -> Result<api::DescribeImagesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let account = call.account();
    let mut images = call.scan::<Image>(&prefix(call.region))?;
    images.retain(|image| image.public || image.owner_id == account);
    let ids = input.image_ids.unwrap_or_default();
    if !ids.is_empty() {
        for id in &ids {
            check_id(id)?;
        }
        let missing: Vec<&str> = ids
            .iter()
            .map(String::as_str)
            .filter(|id| !images.iter().any(|image| image.id == **id))
            .collect();
        if !missing.is_empty() {
            return Err(not_found(&missing));
        }
        images.retain(|image| ids.contains(&image.id));
    }
    let owners = input.owners.unwrap_or_default();
    if !owners.is_empty() {
        images.retain(|image| {
            owners.iter().any(|owner| match owner.as_str() {
                "self" => image.owner_id == account,
                name => image.owner_id == name || image.owner_alias.as_deref() == Some(name),
            })
        });
    }
    let users = input.executable_users.unwrap_or_default();
    if !users.is_empty() {
        // Launch permission is for all or for nobody: none is given to single accounts yet.
        images.retain(|image| users.iter().any(|user| user == "all" && image.public));
    }
    images.retain(|image| filters.accept(image, &image.tags));
    images.sort_by(|a, b| a.id.cmp(&b.id));
    let page =
        page(images, |image| &image.id, input.max_results, input.next_token.as_deref(), 1..=1000)?;
    Ok(api::DescribeImagesResult {
        images: Some(page.items.iter().map(|image| to_model(image)).collect()),
        next_token: page.next_token,
    })
}

fn mapping_to_model(mapping: &Mapping) -> api::BlockDeviceMapping {
    let mut shown = api::BlockDeviceMapping {
        device_name: Some(mapping.device_name.clone()),
        ..Default::default()
    };
    match &mapping.disk {
        MappedDisk::Volume(volume) => {
            shown.ebs = Some(api::EbsBlockDevice {
                delete_on_termination: Some(volume.delete_on_termination),
                encrypted: Some(volume.encrypted),
                iops: volume.iops.and_then(|iops| i32::try_from(iops).ok()),
                snapshot_id: volume.snapshot_id.clone(),
                throughput: volume.throughput.and_then(|rate| i32::try_from(rate).ok()),
                volume_size: i32::try_from(volume.size_gib).ok(),
                volume_type: Some(volume.kind.clone()),
                ..Default::default()
            });
        }
        MappedDisk::Ephemeral(name) => shown.virtual_name = Some(name.clone()),
        MappedDisk::Nothing => shown.no_device = Some(String::new()),
    }
    shown
}

fn to_model(image: &Image) -> api::Image {
    let text = |text: &str| Some(text.to_owned());
    api::Image {
        architecture: text(&image.architecture),
        block_device_mappings: Some(image.mappings.iter().map(mapping_to_model).collect()),
        creation_date: Some(image.created.iso_millis()),
        deregistration_protection: text("disabled"),
        description: text(&image.description),
        ena_support: Some(true),
        free_tier_eligible: Some(true),
        hypervisor: text("xen"),
        image_id: text(&image.id),
        image_location: Some(location(image)),
        image_owner_alias: image.owner_alias.clone(),
        image_type: text("machine"),
        imds_support: image.imds_v2.then(|| "v2.0".to_owned()),
        name: text(&image.name),
        owner_id: text(&image.owner_id),
        platform_details: text("Linux/UNIX"),
        public: Some(image.public),
        root_device_name: text(&image.root_device_name),
        root_device_type: text("ebs"),
        sriov_net_support: text("simple"),
        state: text(image.state.name()),
        tags: tag::to_model(&image.tags),
        usage_operation: text("RunInstances"),
        virtualization_type: text("hvm"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ACCOUNT, Region, filter, list};

    fn names(region: &Region, input: api::DescribeImagesRequest) -> Vec<String> {
        let images = region.ok(describe_images, input).images.unwrap();
        let mut names: Vec<String> = images.into_iter().filter_map(|image| image.name).collect();
        names.sort();
        names
    }

    fn owned_by(owners: &[&str]) -> api::DescribeImagesRequest {
        api::DescribeImagesRequest { owners: list(owners), ..Default::default() }
    }

    #[test]
    fn the_names_that_people_search_for_are_found() {
        let region = Region::new();
        for (owner, pattern) in [
            ("amazon", "amzn2-ami-hvm-*-x86_64-gp2"),
            ("137112412989", "al2023-ami-2023*-x86_64"),
            ("136693071363", "debian-12-amd64-*"),
            ("self", "gureum-micro-*"),
        ] {
            let input = api::DescribeImagesRequest {
                filters: Some(vec![
                    filter("name", &[pattern]),
                    filter("architecture", &["x86_64"]),
                    filter("state", &["available"]),
                    filter("root-device-type", &["ebs"]),
                    filter("virtualization-type", &["hvm"]),
                ]),
                ..owned_by(&[owner])
            };
            assert_eq!(names(&region, input).len(), 1, "{owner} {pattern}");
        }
        assert_eq!(names(&region, owned_by(&["self"])), ["gureum-micro-x86_64"]);
        assert_eq!(names(&region, owned_by(&["amazon"])).len(), 2);
        let public =
            api::DescribeImagesRequest { executable_users: list(&["all"]), ..Default::default() };
        assert_eq!(names(&region, public).len(), 3);
    }

    #[test]
    fn ids_depend_on_region_and_name_alone() {
        let manifests = built_in();
        let mut keys: Vec<&str> = manifests.iter().map(|manifest| manifest.key.as_str()).collect();
        keys.dedup();
        assert_eq!(keys, ["micro", "debian-12", "al2-compat"], "a node files them by key");
        let ids = |region: &str| -> Vec<String> {
            publish(&manifests, region, ACCOUNT).into_iter().map(|image| image.id).collect()
        };
        assert_eq!(ids("us-east-1"), ids("us-east-1"));
        assert!(ids("us-east-1").iter().all(|id| base::id::is_valid("ami", id)));
        let mut all = [ids("us-east-1"), ids("eu-west-1")].concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
        // A change of these ids breaks people's scripts.
        assert_eq!(ami_id("us-east-1", "gureum-micro-x86_64"), "ami-9029ff5d3bacb65ae");
    }

    #[test]
    fn one_manifest_may_have_many_names() {
        let mut manifest = built_in().remove(0);
        manifest.also_named = vec!["second".to_owned()];
        let images = publish(&[manifest], "us-east-1", ACCOUNT);
        assert_eq!(
            images.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
            ["gureum-micro-x86_64", "second"]
        );
        let snapshot = |image: &Image| image.snapshots().next().unwrap().to_owned();
        assert_ne!(snapshot(&images[0]), snapshot(&images[1]));
        assert_eq!(images[0].key, images[1].key);
    }

    #[test]
    fn publishing_follows_the_manifests_and_keeps_tags() {
        let region = Region::new();
        let mut manifests = built_in();
        region
            .run(|call| {
                sync(call, &manifests)?;
                assert!(call.is_read_only(), "nothing to do");
                Ok(())
            })
            .unwrap();
        let id = ami_id("us-east-1", &manifests[0].name);
        region
            .run(|call| {
                let mut image = Image::clone(&*find(call, &id)?);
                image.tags.insert("a".to_owned(), "b".to_owned());
                let record_key = key_of("us-east-1", &image);
                call.put(&record_key, image);
                Ok(())
            })
            .unwrap();
        manifests[0].size_gib = 3;
        manifests.truncate(1);
        region.run(|call| sync(call, &manifests)).unwrap();
        let image = region.run(|call| find(call, &id)).unwrap();
        assert_eq!((image.root().unwrap().size_gib, image.tags.len()), (3, 1));
        assert_eq!(names(&region, api::DescribeImagesRequest::default()).len(), 1);
    }

    #[test]
    fn unknown_images_are_named() {
        let region = Region::new();
        let id = "ami-00000000000000000";
        let error = region.run(|call| find(call, id)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "InvalidAMIID.NotFound: The image id '[ami-00000000000000000]' does not exist"
        );
        let input = api::DescribeImagesRequest { image_ids: list(&["x"]), ..Default::default() };
        assert_eq!(
            region.refused(describe_images, input),
            "InvalidAMIID.Malformed: Invalid id: \"x\" (expecting \"ami-...\")"
        );
    }
}
