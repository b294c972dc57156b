//! Where the region's blobs are: below the data directory, or where `gureum serve --blob-store FILE`
//! says.
//!
//! ```text
//!  no option ──► as before (blobs/ below the data directory at first)
//!  FILE ──┬─ the same place ──► perhaps other credentials: kept
//!         └─ another place ───► has it every blob that a record names? ── yes ──► kept
//!                                                                    └─── no ───► refused
//! ```
//!
//! What was chosen is kept in the data directory, so that later starts, the storage process and
//! `gureum fsck` need no option. What it does not do: move blobs from one place to another.

use anyhow::{Context as _, Result, bail, ensure};
use base::key::Keys;
use block::{Blobs, Config, Direct, Roots};
use node::volume::check::{self, Entry};
use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn file(data: &Path) -> PathBuf {
    data.join("blob-store.json")
}

/// The store of a region that was served before, or the one that it begins with.
///
/// # Errors
/// What was kept cannot be read.
pub(crate) fn config(data: &Path) -> Result<Config> {
    Ok(kept(data)?.unwrap_or_else(|| Config::Local { directory: data.join("blobs") }))
}

fn kept(data: &Path) -> Result<Option<Config>> {
    let path = file(data);
    if path.try_exists()? { read(&path).map(Some) } else { Ok(None) }
}

fn read(path: &Path) -> Result<Config> {
    let about = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(about)?;
    let config: Config = serde_json::from_str(&text).with_context(about)?;
    if let Config::Local { directory } = &config {
        ensure!(directory.is_absolute(), "{}: the directory must be absolute", about());
    }
    let mode = std::fs::metadata(path)?.permissions().mode();
    if matches!(config, Config::S3(_)) && mode & 0o077 != 0 {
        tracing::warn!(
            "{} holds a secret and others may read it (mode {:o}): chmod 600 it",
            about(),
            mode & 0o777
        );
    }
    Ok(config)
}

fn keep(data: &Path, config: &Config) -> Result<()> {
    let temporary = data.join("blob-store.json.new");
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
        out.write_all(&serde_json::to_vec_pretty(config)?)?;
        out.sync_all()?;
        std::fs::rename(&temporary, file(data))?;
        std::fs::File::open(data)?.sync_all()
    };
    write().with_context(|| file(data).display().to_string())
}

/// Whether both mean the same blobs, perhaps with other credentials.
fn is_same_place(one: &Config, other: &Config) -> bool {
    match (one, other) {
        (Config::Local { directory: one }, Config::Local { directory: other }) => one == other,
        (Config::S3(one), Config::S3(other)) => {
            (&one.endpoint, &one.bucket, &one.prefix)
                == (&other.endpoint, &other.bucket, &other.prefix)
        }
        _ => false,
    }
}

/// Opens the region's store to write, after `wanted` if that is given, and keeps the choice.
///
/// # Errors
/// The store cannot be opened (one that was used before may be away); it lacks what records name.
pub(crate) fn open(
    data: &Path,
    wanted: Option<&Path>,
    records: &store::Snapshot,
    keys: &Arc<dyn Keys>,
) -> Result<(Config, Blobs)> {
    const CANNOT: &str = "the blob store cannot be opened";
    let (known, current) = (kept(data)?, config(data)?);
    let wanted = wanted.map(read).transpose()?.unwrap_or_else(|| current.clone());
    if wanted == current {
        if known.is_some() {
            check_mounted(&wanted)?;
        }
        let blobs = Blobs::open_again(&wanted).context(CANNOT)?;
        return Ok((wanted, blobs));
    }
    let blobs = Blobs::open(&wanted).context(CANNOT)?;
    if !is_same_place(&current, &wanted) {
        let direct = Direct::open(blobs.clone(), Arc::clone(keys), &data.join("uploads"))?;
        let roots = named(data, records, &direct)?;
        check_all_there(&blobs, &roots)?;
    }
    if known.as_ref() != Some(&wanted) {
        keep(data, &wanted)?;
    }
    Ok((wanted, blobs))
}

/// A directory that was chosen is not made anew: it would hide that its disk is not there.
fn check_mounted(config: &Config) -> Result<()> {
    if let Config::Local { directory } = config
        && !directory.join("tmp").is_dir()
    {
        bail!("{} holds no blob store any more: is its disk mounted?", directory.display());
    }
    Ok(())
}

/// What the region needs of its store.
fn named(data: &Path, records: &store::Snapshot, direct: &Direct) -> Result<Roots> {
    let mut contents = ec2::contents(records)?;
    for entry in check::entries(data)?.into_iter().flatten() {
        if let Entry::Volume(volume) = entry {
            contents.extend(volume.contents);
        }
    }
    let mut roots = Roots::of(&contents)?;
    roots.blobs = direct.referenced()?;
    Ok(roots)
}

fn check_all_there(blobs: &Blobs, roots: &Roots) -> Result<()> {
    if *roots == Roots::default() {
        return Ok(());
    }
    let progress = |_, _| ControlFlow::Continue(());
    let report = block::check::check(blobs, roots, false, 1, &progress)?;
    if let [first, ..] = report.problems.as_slice() {
        bail!(
            "the region's snapshots are not in this blob store ({} problems, the first: {first}); \
             copy its blobs there first, or serve it as before",
            report.problems.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::volume::BLOCK_BYTES;
    use block::Upload;
    use store::{Op, Store, Txn};

    struct Region {
        directory: tempfile::TempDir,
        store: Arc<dyn Store>,
        keys: Arc<dyn Keys>,
    }

    impl Region {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let keys = Arc::new(kms::KeyStore::open(directory.path().join("kms")).unwrap());
            Region { directory, store: store::memory(), keys }
        }

        fn data(&self) -> &Path {
            self.directory.path()
        }

        fn open(&self, wanted: Option<&Path>) -> Result<(Config, Blobs)> {
            open(self.data(), wanted, &self.store.snapshot(), &self.keys)
        }

        /// A file that says that the blobs are in the directory `name`.
        fn file(&self, name: &str) -> PathBuf {
            let path = self.data().join(format!("{name}.json"));
            let config = Config::Local { directory: self.data().join(name) };
            std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
            path
        }
    }

    #[tokio::test]
    async fn the_choice_is_kept_and_content_is_not_left_behind() {
        let region = Region::new();
        let (config, _) = region.open(None).unwrap();
        assert_eq!(config, Config::Local { directory: region.data().join("blobs") });
        assert!(!file(region.data()).exists(), "what is not chosen is not kept");
        // Nothing is named yet.
        let (config, blobs) = region.open(Some(&region.file("one"))).unwrap();
        assert_eq!(config, Config::Local { directory: region.data().join("one") });
        assert_eq!(super::config(region.data()).unwrap(), config);
        assert_eq!(region.open(None).unwrap().0, config, "without the option too");
        let upload = Upload::begin(&blobs, None, 1, None).unwrap();
        upload.put(0, &[1; BLOCK_BYTES]).unwrap();
        let finished = upload.finish().unwrap();
        let put = Op::put("/snapshot", &finished.content(None)).unwrap();
        region.store.txn(Txn::write(vec![put])).await.unwrap();
        let error = region.open(Some(&region.file("two"))).unwrap_err();
        assert!(error.to_string().contains("are not in this blob store"), "{error:#}");
        assert_eq!(super::config(region.data()).unwrap(), config, "nothing has changed");
        // Somebody copied the blobs.
        std::fs::remove_dir_all(region.data().join("two")).unwrap();
        std::fs::rename(region.data().join("one"), region.data().join("two")).unwrap();
        let (config, _) = region.open(Some(&region.file("two"))).unwrap();
        assert_eq!(super::config(region.data()).unwrap(), config);
        let mode = std::fs::metadata(file(region.data())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Its disk is not mounted at the next start.
        std::fs::remove_dir_all(region.data().join("two")).unwrap();
        let error = region.open(None).unwrap_err();
        assert!(error.to_string().contains("is its disk mounted?"), "{error:#}");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let region = Region::new();
        let path = region.data().join("wrong.json");
        let s3 = r#""endpoint":"http://127.0.0.1:1","bucket":"b","region":"r","access_key_id":"a""#;
        for (text, why) in [
            ("{".to_owned(), "EOF"),
            (r#"{"local":{"directory":"blobs"}}"#.to_owned(), "absolute"),
            (format!(r#"{{"s3":{{{s3}}}}}"#), "secret_access_key"),
            (format!(r#"{{"s3":{{{s3},"secret_access_key":"s","prefx":"p"}}}}"#), "prefx"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = region.open(Some(&path)).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{text}: {error:#}");
        }
        assert!(region.open(Some(&region.data().join("none.json"))).is_err());
    }

    #[test]
    fn other_credentials_are_the_same_place() {
        let config = |bucket: &str, secret: &str| {
            Config::S3(block::S3Config {
                endpoint: "http://127.0.0.1:1".to_owned(),
                bucket: bucket.to_owned(),
                region: "us-east-1".to_owned(),
                access_key_id: "a".to_owned(),
                secret_access_key: secret.to_owned(),
                prefix: String::new(),
            })
        };
        assert!(is_same_place(&config("one", "a"), &config("one", "b")));
        assert!(!is_same_place(&config("one", "a"), &config("two", "a")));
        let local = Config::Local { directory: "/blobs".into() };
        assert!(!is_same_place(&local, &config("one", "a")));
    }
}
