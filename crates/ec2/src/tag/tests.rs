use super::{create_tags, delete_tags, describe_tags, from_specifications};
use crate::record::{Subnet, key};
use crate::testing::{ACCOUNT, Region, filter, list};
use model::ec2 as api;
use service::Error;

fn tag(key: &str, value: &str) -> api::Tag {
    api::Tag { key: Some(key.to_owned()), value: Some(value.to_owned()) }
}

fn subnets(region: &Region) -> Vec<String> {
    let prefix = key::of(region.name, key::SUBNET, ACCOUNT, "");
    region
        .run(|call| call.scan::<Subnet>(&prefix))
        .unwrap()
        .iter()
        .map(|subnet| subnet.id.clone())
        .collect()
}

fn create(ids: &[&str], tags: &[api::Tag]) -> api::CreateTagsRequest {
    api::CreateTagsRequest { resources: list(ids), tags: Some(tags.to_vec()), ..Default::default() }
}

fn delete(ids: &[&str], tags: Option<Vec<api::Tag>>) -> api::DeleteTagsRequest {
    api::DeleteTagsRequest { resources: list(ids), tags, ..Default::default() }
}

/// `id key=value` of every tag that the filters let through.
fn rows(region: &Region, filters: Vec<api::Filter>) -> Vec<String> {
    let input = api::DescribeTagsRequest { filters: Some(filters), ..Default::default() };
    let text = |text: Option<String>| text.unwrap();
    region
        .ok(describe_tags, input)
        .tags
        .unwrap()
        .into_iter()
        .map(|tag| format!("{} {}={}", text(tag.resource_type), text(tag.key), text(tag.value)))
        .collect()
}

#[test]
fn every_kind_of_resource_is_tagged_by_its_id() {
    let region = Region::new();
    let subnet = subnets(&region).remove(0);
    let vpc = region
        .run(|call| {
            crate::vpc::default_vpc(call).map(|vpc| (vpc.id.clone(), vpc.default_group_id.clone()))
        })
        .unwrap();
    let rule = region
        .run(|call| {
            crate::security_group::find(call, &vpc.1).map(|group| group.rules[0].id.clone())
        })
        .unwrap();
    let image = region
        .run(|call| {
            let images = call.scan::<crate::record::Image>("/us-east-1/image/")?;
            Ok(images[0].id.clone())
        })
        .unwrap();
    let pair = region
        .run(|call| {
            let record = crate::record::KeyPair {
                v: 1,
                id: call.new_id("key"),
                name: "mine".to_owned(),
                kind: "rsa".to_owned(),
                fingerprint: String::new(),
                public_key: String::new(),
                created: call.now,
                tags: crate::record::Tags::new(),
            };
            let id = record.id.clone();
            call.put(&key::of("us-east-1", key::KEY_PAIR, ACCOUNT, "mine"), record);
            Ok(id)
        })
        .unwrap();
    let ids = [&subnet, &vpc.0, &vpc.1, &rule, &image, &pair];
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    region.ok(create_tags, create(&ids, &[tag("Name", "web"), tag("Empty", "")]));
    let types = ["image", "key-pair", "security-group", "security-group-rule", "subnet", "vpc"];
    let mut found = rows(&region, vec![filter("tag:Name", &["w*"])]);
    found.sort();
    assert_eq!(found, types.map(|kind| format!("{kind} Name=web")));
    for (id, kind) in [(&rule, "security-group-rule"), (&pair, "key-pair"), (&image, "image")] {
        let filters = vec![filter("resource-id", &[id]), filter("key", &["Empty"])];
        assert_eq!(rows(&region, filters), [format!("{kind} Empty=")]);
        assert_eq!(rows(&region, vec![filter("resource-type", &[kind])]).len(), 2);
    }
    region.ok(delete_tags, delete(&ids, None));
    assert_eq!(rows(&region, vec![]), [""; 0]);
}

#[test]
fn tags_are_deleted_by_key_or_by_key_and_value() {
    let region = Region::new();
    let id = &subnets(&region)[0];
    let tags = [tag("a", "1"), tag("b", ""), tag("c", "3")];
    region.ok(create_tags, create(&[id], &tags));
    let other = Some(vec![tag("a", "other"), tag("b", ""), tag("absent", "")]);
    region.ok(delete_tags, delete(&[id], other));
    assert_eq!(rows(&region, vec![]), ["subnet a=1", "subnet c=3"]);
    let any = api::Tag { key: Some("a".to_owned()), value: None };
    region.ok(delete_tags, delete(&[id], Some(vec![any])));
    assert_eq!(rows(&region, vec![]), ["subnet c=3"]);
    region.ok(create_tags, create(&[id], &[tag("c", "4")]));
    assert_eq!(rows(&region, vec![filter("value", &["4"])]), ["subnet c=4"]);
}

#[test]
fn one_unknown_resource_and_nothing_is_tagged() {
    let region = Region::new();
    let id = &subnets(&region)[0];
    for (bad, error) in [
        (
            "i-00000000000000000",
            "InvalidInstanceID.NotFound: The instance ID 'i-00000000000000000' does not exist",
        ),
        (
            "vol-00000000000000000",
            "InvalidVolume.NotFound: The volume 'vol-00000000000000000' does not exist.",
        ),
        (
            "sg-00000000000000000",
            "InvalidGroup.NotFound: The security group 'sg-00000000000000000' does not exist",
        ),
        ("i-xyz", "InvalidID: The ID 'i-xyz' is not valid"),
        ("bananas", "InvalidID: The ID 'bananas' is not valid"),
    ] {
        assert_eq!(region.refused(create_tags, create(&[id, bad], &[tag("a", "1")])), error);
    }
    assert_eq!(rows(&region, vec![]), [""; 0]);
}

#[test]
fn limits() {
    let region = Region::new();
    let id = subnets(&region).remove(0);
    let many: Vec<api::Tag> = (0..50).map(|n| tag(&format!("k{n}"), "v")).collect();
    region.ok(create_tags, create(&[&id], &many));
    // A key that is there already is no further tag.
    region.ok(create_tags, create(&[&id], &[tag("k7", "new")]));
    for (bad, error) in [
        (
            tag("k50", "v"),
            "TagLimitExceeded: The maximum number of Tags for a resource has been reached.",
        ),
        (
            tag("aws:x", "v"),
            "InvalidParameterValue: Value ( aws:x ) for parameter key is invalid. Tag keys \
             starting with 'aws:' are reserved for internal use",
        ),
        (
            tag(&"x".repeat(129), "v"),
            "InvalidParameterValue: Tag key exceeds the maximum length of 128 characters",
        ),
        (
            tag("x", &"\u{e9}".repeat(257)),
            "InvalidParameterValue: Tag value exceeds the maximum length of 256 characters",
        ),
        (tag("", "v"), "InvalidParameterValue: Tag key cannot be empty or null"),
    ] {
        assert_eq!(region.refused(create_tags, create(&[&id], &[bad])), error);
    }
}

#[test]
fn tags_come_in_pages() {
    let region = Region::new();
    let ids = subnets(&region);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    region.ok(create_tags, create(&ids, &[tag("a", "1"), tag("b", "2")]));
    let mut seen = 0;
    let mut next_token = None;
    loop {
        let input =
            api::DescribeTagsRequest { max_results: Some(5), next_token, ..Default::default() };
        let answer = region.ok(describe_tags, input);
        seen += answer.tags.unwrap().len();
        next_token = answer.next_token;
        if next_token.is_none() {
            break;
        }
    }
    assert_eq!(seen, 12);
}

#[test]
fn specifications_are_for_what_an_operation_makes() {
    let specification = |kind: &str, tags: Vec<api::Tag>| api::TagSpecification {
        resource_type: Some(kind.to_owned()),
        tags: Some(tags),
    };
    let both = [
        specification("instance", vec![tag("Name", "web")]),
        specification("volume", vec![tag("Name", "root")]),
    ];
    let allowed = ["instance", "volume", "network-interface"];
    let of = |kind: &str| from_specifications(Some(&both), kind, &allowed).unwrap();
    assert_eq!(of("instance").get("Name").map(String::as_str), Some("web"));
    assert_eq!(of("volume").get("Name").map(String::as_str), Some("root"));
    assert!(of("network-interface").is_empty());
    let error = |result: Result<_, Error>| result.map(|_: crate::record::Tags| ()).unwrap_err();
    assert_eq!(
        error(from_specifications(Some(&both), "instance", &["instance"])).message,
        "'volume' is not a valid taggable resource type for this operation."
    );
    let twice = [specification("instance", vec![tag("a", "1"), tag("a", "2")])];
    assert_eq!(
        error(from_specifications(Some(&twice), "instance", &allowed)).message,
        "Duplicate tag key 'a' specified."
    );
    let empty = [specification("instance", vec![])];
    assert_eq!(
        error(from_specifications(Some(&empty), "instance", &allowed)).message,
        "Tag specification must have at least one tag"
    );
}
