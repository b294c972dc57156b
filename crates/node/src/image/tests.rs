use super::*;

fn manifest(key: &str) -> Manifest {
    Manifest {
        v: 1,
        key: key.into(),
        name: format!("{key}-x86_64"),
        also_named: Vec::new(),
        description: "a test".into(),
        architecture: "x86_64".into(),
        root_device_name: "/dev/xvda".into(),
        size_gib: 1,
        disk: "disk.raw".into(),
        disk_format: "raw".into(),
        boot: Boot::Firmware,
        owner_id: None,
        owner_alias: None,
        login_user: None,
        imds_v2: true,
        created: Timestamp(0),
    }
}

fn publish(images: &Path, key: &str) -> Result<Manifest, Error> {
    let build = Build::start(images, key)?;
    fs::write(build.path("disk.raw"), b"disk").unwrap();
    build.publish(manifest(key))
}

#[test]
fn published_images_are_listed_and_broken_ones_are_skipped() {
    let images = tempfile::tempdir().unwrap();
    let images = images.path();
    assert!(list(&images.join("none")).unwrap().is_empty());
    publish(images, "second").unwrap();
    publish(images, "first").unwrap();
    fs::create_dir_all(images.join("empty")).unwrap();
    fs::create_dir_all(images.join("broken")).unwrap();
    fs::write(images.join("broken/manifest.json"), b"{").unwrap();
    let keys: Vec<String> = list(images).unwrap().into_iter().map(|image| image.key).collect();
    assert_eq!(keys, ["first", "second"]);
    assert_eq!(load(images, "first").unwrap(), manifest("first"));
}

#[test]
fn a_manifest_must_be_whole() {
    let images = tempfile::tempdir().unwrap();
    let images = images.path();
    assert!(matches!(load(images, "none"), Err(Error::NotFound { .. })));
    assert!(matches!(load(images, "../etc"), Err(Error::BadKey(_))));
    publish(images, "good").unwrap();
    fs::rename(images.join("good"), images.join("moved")).unwrap();
    assert!(matches!(load(images, "moved"), Err(Error::BrokenManifest { .. })));
    publish(images, "good").unwrap();
    fs::remove_file(images.join("good/disk.raw")).unwrap();
    let error = load(images, "good").unwrap_err();
    assert!(error.to_string().contains("disk.raw"), "{error}");
}

#[test]
fn a_build_that_fails_leaves_nothing_and_a_crashed_one_is_cleaned() {
    let images = tempfile::tempdir().unwrap();
    let images = images.path();
    fs::create_dir_all(images.join(".building-key/left")).unwrap();
    let build = Build::start(images, "key").unwrap();
    assert!(!build.path("left").exists());
    drop(build);
    assert_eq!(fs::read_dir(images).unwrap().count(), 0);
}

#[test]
fn building_again_keeps_the_disk_that_machines_may_use() {
    let data = tempfile::tempdir().unwrap();
    let images = &data.path().join("images");
    for name in ["none.raw", "one.raw", "two.raw"] {
        let build = Build::start(images, "key").unwrap();
        fs::write(build.path(name), name).unwrap();
        build.publish(Manifest { disk: name.into(), ..manifest("key") }).unwrap();
    }
    assert_eq!(load(images, "key").unwrap().disk, "two.raw");
    assert_eq!(fs::read(images.join("key/one.raw")).unwrap(), b"one.raw");
    assert!(!images.join("key/none.raw").exists(), "older than the build before");
}

#[test]
fn keys_are_file_names() {
    for key in ["micro", "debian-12", "my_image.1"] {
        assert!(check_key(key).is_ok(), "{key}");
    }
    for key in ["", "ab", ".cache", "-rf", "a/b", "a b", &"a".repeat(101)] {
        assert!(check_key(key).is_err(), "{key}");
    }
}

#[test]
fn an_unknown_recipe_names_those_that_exist() {
    let error = build("windows", Path::new("/nonexistent"), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("micro, debian-12, al2-compat"), "{error}");
}
