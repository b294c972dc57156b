use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Barrier;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";

fn store() -> (tempfile::TempDir, KeyStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = KeyStore::open(directory.path().join("kms")).unwrap();
    (directory, store)
}

fn key_files(directory: &Path) -> Vec<PathBuf> {
    let place = directory.join("kms").join(REGION).join(ACCOUNT);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_data_key_is_the_same_after_a_restart_and_under_another_master_key() {
    let (directory, store) = store();
    let master = store.resolve(REGION, ACCOUNT, None).unwrap();
    let wrapped = store.generate(&master).unwrap();
    assert_eq!(wrapped.key_arn, master);
    let data = store.unwrap(&wrapped).unwrap();
    assert_ne!(data.0, [0; KEY_BYTES]);

    let again = KeyStore::open(directory.path().join("kms")).unwrap();
    assert_eq!(again.unwrap(&wrapped), Ok(data.clone()));
    let other = again.create(REGION, ACCOUNT, Some("alias/mine")).unwrap();
    let rewrapped = again.rewrap(&wrapped, &other).unwrap();
    assert_eq!(rewrapped.key_arn, other);
    assert_eq!(again.unwrap(&rewrapped), Ok(data.clone()));
    assert_ne!(store.unwrap(&store.generate(&master).unwrap()), Ok(data), "keys are random");
}

#[test]
fn a_key_is_named_in_four_ways() {
    let (_directory, store) = store();
    let key = store.create(REGION, ACCOUNT, Some("alias/mine")).unwrap();
    let id = key.rsplit('/').next().unwrap();
    assert_eq!(key, format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}"));
    let alias = format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/mine");
    for reference in [id, "alias/mine", &alias, &key] {
        assert_eq!(store.resolve(REGION, ACCOUNT, Some(reference)), Ok(key.clone()), "{reference}");
    }
    for (region, account) in [("eu-west-1", ACCOUNT), (REGION, "210987654321")] {
        for reference in [id, "alias/mine", &alias, &key] {
            let resolved = store.resolve(region, account, Some(reference));
            assert!(matches!(resolved, Err(KeyError::NotFound(_))), "{reference}: {resolved:?}");
        }
    }
    for reference in ["", "alias/", "alias/other", "../x", "arn:aws:kms", "arn:aws:s3:::x", "A B"] {
        let resolved = store.resolve(REGION, ACCOUNT, Some(reference));
        assert!(matches!(resolved, Err(KeyError::NotFound(_))), "{reference}: {resolved:?}");
    }
    let chinese = store.resolve("cn-north-1", ACCOUNT, None).unwrap();
    assert!(chinese.starts_with("arn:aws-cn:kms:cn-north-1:"), "{chinese}");
    assert_eq!(store.resolve("cn-north-1", ACCOUNT, Some(&chinese)), Ok(chinese));
}

#[test]
fn names_do_not_lead_out_of_the_directory() {
    let (directory, store) = store();
    for (region, account) in [("..", ACCOUNT), (REGION, "../.."), ("a/b", ACCOUNT), ("", "")] {
        let resolved = store.resolve(region, account, None);
        assert!(matches!(resolved, Err(KeyError::NotFound(_))), "{region} {account}: {resolved:?}");
    }
    let arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/../../../secret");
    assert_eq!(store.generate(&arn), Err(KeyError::NotFound(arn)));
    let made: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(made.len(), 1, "{made:?}");
}

#[test]
fn the_default_key_is_made_once_by_whoever_comes_first() {
    let (directory, _) = store();
    let barrier = Barrier::new(8);
    let arns: BTreeSet<String> = std::thread::scope(|scope| {
        let (barrier, directory) = (&barrier, directory.path());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    // A store of its own, as another process has.
                    let store = KeyStore::open(directory.join("kms")).unwrap();
                    barrier.wait();
                    store.resolve(REGION, ACCOUNT, None).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(arns.len(), 1, "{arns:?}");
    assert_eq!(key_files(directory.path()).len(), 1);
}

#[test]
fn a_disabled_key_cannot_be_used_until_it_is_enabled() {
    let (_directory, store) = store();
    let key = store.create(REGION, ACCOUNT, Some("alias/mine")).unwrap();
    let wrapped = store.generate(&key).unwrap();
    store.disable(&format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/mine")).unwrap();
    let disabled = KeyError::Disabled(key.clone());
    assert_eq!(store.resolve(REGION, ACCOUNT, Some("alias/mine")), Err(disabled.clone()));
    assert_eq!(store.generate(&key), Err(disabled.clone()));
    assert_eq!(store.unwrap(&wrapped), Err(disabled.clone()));
    let other = store.resolve(REGION, ACCOUNT, None).unwrap();
    let others = store.generate(&other).unwrap();
    assert_eq!(store.rewrap(&others, &key), Err(disabled.clone()));
    assert_eq!(store.rewrap(&wrapped, &other), Err(disabled));
    store.enable(&key).unwrap();
    assert!(store.unwrap(&wrapped).is_ok());
}

#[test]
fn aliases_are_unique_and_the_reserved_ones_are_refused() {
    let (_directory, store) = store();
    store.create(REGION, ACCOUNT, Some("alias/mine")).unwrap();
    let again = store.create(REGION, ACCOUNT, Some("alias/mine"));
    assert_eq!(again, Err(Error::AliasExists("alias/mine".into())));
    store.create("eu-west-1", ACCOUNT, Some("alias/mine")).unwrap();
    for alias in ["alias/aws/ebs", "mine", "alias/", "alias/a b"] {
        let made = store.create(REGION, ACCOUNT, Some(alias));
        assert_eq!(made, Err(Error::InvalidAlias(alias.into())));
    }
}

#[test]
fn a_wrapped_key_opens_only_as_it_was_sealed() {
    let (_directory, store) = store();
    let (a, b) = (
        store.create(REGION, ACCOUNT, None).unwrap(),
        store.create(REGION, ACCOUNT, None).unwrap(),
    );
    let wrapped = store.generate(&a).unwrap();
    let passed_off = WrappedKey { key_arn: b.clone(), ..wrapped.clone() };
    assert_eq!(store.unwrap(&passed_off), Err(KeyError::NotOurs(b)));
    let bytes = BASE64_STANDARD.decode(&wrapped.ciphertext).unwrap();
    for position in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x10;
        let damaged = WrappedKey { ciphertext: BASE64_STANDARD.encode(flipped), ..wrapped.clone() };
        assert_eq!(store.unwrap(&damaged), Err(KeyError::NotOurs(a.clone())), "byte {position}");
        let cut = BASE64_STANDARD.encode(&bytes[..position]);
        let short = WrappedKey { ciphertext: cut, ..wrapped.clone() };
        assert_eq!(store.unwrap(&short), Err(KeyError::NotOurs(a.clone())), "{position} bytes");
    }
}

#[test]
fn files_are_for_their_owner_and_a_crash_leaves_no_key() {
    let (directory, store) = store();
    let root = directory.path().join("kms");
    let key = store.resolve(REGION, ACCOUNT, None).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let files = key_files(directory.path());
    for directory in [&root, &root.join(REGION), &root.join(REGION).join(ACCOUNT)] {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
    assert_eq!(files.iter().map(|file| mode(file)).collect::<Vec<_>>(), [0o600]);

    // Half a key that was being written, then a damaged one.
    std::fs::write(files[0].with_file_name("half.new"), "{\"v\":1,").unwrap();
    assert_eq!(store.resolve(REGION, ACCOUNT, None), Ok(key.clone()));
    let whole = std::fs::read_to_string(&files[0]).unwrap();
    let material = whole.split("\"material\":\"").nth(1).unwrap().split('"').next().unwrap();
    let damaged = whole.replace("\"enabled\":true", &format!("\"enabled\":\"{material}\""));
    assert_ne!(damaged, whole);
    std::fs::write(&files[0], damaged).unwrap();
    let Err(KeyError::Storage(message)) = store.generate(&key) else {
        panic!("a damaged key was used");
    };
    assert!(!message.contains(material), "{message}");
    // The damaged key may be the one with the alias: no second one is made.
    assert!(matches!(store.resolve(REGION, ACCOUNT, None), Err(KeyError::Storage(_))));
}

#[test]
fn material_is_not_shown() {
    let (directory, store) = store();
    let key = store.resolve(REGION, ACCOUNT, None).unwrap();
    let kept = file::read(&key_files(directory.path())[0]).unwrap();
    for shown in [format!("{kept:?}"), format!("{store:?}")] {
        assert!(!shown.contains(&kept.material), "{shown}");
    }
    let data = store.unwrap(&store.generate(&key).unwrap()).unwrap();
    assert_eq!(format!("{data:?}"), "DataKey(..)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_reference_panics_or_makes_a_file(reference in "(arn:aws:kms:|alias/)?[ -~]{0,40}") {
        let (directory, store) = store();
        prop_assume!(!reference.ends_with("alias/aws/ebs"));
        let resolved = store.resolve(REGION, ACCOUNT, Some(&reference));
        prop_assert!(matches!(resolved, Err(KeyError::NotFound(_))), "{resolved:?}");
        prop_assert!(!directory.path().join("kms").join(REGION).exists());
    }

    #[test]
    fn an_arn_is_read_as_it_was_written(
        region in "[a-z]{2}-[a-z]{4,9}-[1-9]", account in "[0-9]{12}", id in "[0-9a-f-]{1,36}",
        alias in "alias/[a-zA-Z0-9:/_-]{1,20}",
    ) {
        for name in [Name::Key(&id), Name::Alias(&alias)] {
            let arn = Arn::new(&region, &account, name);
            let text = arn.to_string();
            prop_assert_eq!(Arn::parse(&text), Some(arn));
        }
    }
}
