//! Tests of publishing and describing; those of what requests make and change are beside.

mod changing;
mod making;
mod tasks;

use super::describe::describe_images;
use super::publish::{ami_id, publish};
use super::*;
use crate::record::Snapshot;
use crate::testing::{ACCOUNT, Region, filter, list};
use model::ec2 as api;

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
    let published = for_tests();
    let mut keys: Vec<&str> = published.iter().map(|image| image.manifest.key.as_str()).collect();
    keys.dedup();
    assert_eq!(keys, ["micro", "debian-12", "al2-compat"], "a node files them by key");
    let ids = |region: &str| -> Vec<String> {
        publish(&published, region, ACCOUNT).into_iter().map(|pair| pair.image.id).collect()
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
    let mut published = for_tests().remove(0);
    published.manifest.also_named = vec!["second".to_owned()];
    let pairs = publish(&[published], "us-east-1", ACCOUNT);
    let images: Vec<&Image> = pairs.iter().map(|pair| &pair.image).collect();
    assert_eq!(
        images.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        ["gureum-micro-x86_64", "second"]
    );
    let snapshot = |image: &Image| image.snapshots().next().unwrap().to_owned();
    assert_ne!(snapshot(images[0]), snapshot(images[1]));
    assert_eq!(images[0].key, images[1].key);
}

/// The snapshot under the root of an image.
fn root_snapshot(region: &Region, image: &Image) -> Option<Snapshot> {
    let id = image.root()?.snapshot_id.clone()?;
    let at = key::of(region.name, key::SNAPSHOT, &image.owner_id, &id);
    region.run(|call| call.peek::<Snapshot>(&at)).unwrap().map(|found| Snapshot::clone(&found))
}

#[test]
fn publishing_follows_the_node_and_keeps_what_callers_changed() {
    let region = Region::new();
    let mut published = for_tests();
    region
        .run(|call| {
            sync(call, &published)?;
            assert!(call.is_read_only(), "nothing to do");
            Ok(())
        })
        .unwrap();
    let id = ami_id("us-east-1", &published[0].manifest.name);
    let debian = ami_id("us-east-1", &published[1].manifest.name);
    let debian = region.run(|call| find(call, &debian)).unwrap();
    assert!(root_snapshot(&region, &debian).unwrap().permissions.all, "public as its image");
    region
        .run(|call| {
            let mut image = Image::clone(&*find(call, &id)?);
            image.tags.insert("a".to_owned(), "b".to_owned());
            image.description = "mine".to_owned();
            let record_key = key_of("us-east-1", &image);
            call.put(&record_key, image);
            Ok(())
        })
        .unwrap();
    region
        .run(|call| {
            sync(call, &published)?;
            assert!(call.is_read_only(), "what callers changed is not undone");
            Ok(())
        })
        .unwrap();
    published[0].manifest.size_gib = 3;
    published[0].manifest.created = base::Timestamp(1);
    published[0].content.root = "1".repeat(64);
    published.truncate(1);
    region.run(|call| sync(call, &published)).unwrap();
    let image = region.run(|call| find(call, &id)).unwrap();
    assert_eq!((image.root().unwrap().size_gib, image.tags.len()), (3, 1));
    assert_eq!(image.description, published[0].manifest.description, "a new build says anew");
    let snapshot = root_snapshot(&region, &image).unwrap();
    assert_eq!(snapshot.content.as_ref(), Some(&published[0].content));
    assert_eq!(snapshot.images.iter().collect::<Vec<_>>(), [&id]);
    assert_eq!(names(&region, api::DescribeImagesRequest::default()).len(), 1);
    assert_eq!(root_snapshot(&region, &debian), None, "it went with its image");
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
