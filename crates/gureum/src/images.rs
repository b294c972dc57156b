//! `gureum image`, and how images become AMIs: the disk of every image of the images directory is
//! taken into the blob store once, and mirrored with its manifest to a record `/node-image/<key>`,
//! from which EC2 makes an AMI and its snapshot.
//!
//! The daemon alone writes the blob store, so `gureum image` only lays files down; [`Publisher`] finds
//! them. The region serves while images are taken in, the smallest first.

use crate::Image;
use anyhow::{Context, Result, ensure};
use base::image::{Manifest, Published};
use base::volume::Content;
use block::{Blobs, Finished, Reader};
use service::dispatch::Dispatcher;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::{Op, Store, Txn};
use tokio::sync::oneshot;

const PREFIX: &str = "/node-image/";
/// How often the images directory is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// When an image that could not be taken in is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Threads that take an image in; the region goes on beside them.
const THREADS: usize = 2;

/// Runs `gureum image …`.
pub(crate) fn run(command: &Image) -> Result<()> {
    let mut progress = |line: &str| println!("{line}");
    match command {
        Image::Build { name, if_missing, data } => {
            let images = data.path().join("images");
            if *if_missing && node::image::load(&images, name).is_ok() {
                println!("{name} is built");
                return Ok(());
            }
            let manifest = node::image::build(name, &images, &mut progress)?;
            println!("built {}: {}", manifest.key, manifest.name);
        }
        Image::Import { file, name, data } => {
            let images = data.path().join("images");
            let stem = || Some(file.file_stem()?.to_string_lossy().into_owned());
            let name = name.clone().or_else(stem).context("the file has no name: give --name")?;
            let options = node::image::ImportOptions { name, ..Default::default() };
            let manifest = node::image::import(file, &images, &options)?;
            println!("imported {}: {}", manifest.key, manifest.name);
        }
        Image::List { data } => {
            for manifest in node::image::list(&data.path().join("images"))? {
                println!("{:<16} {:<48} {}", manifest.key, manifest.name, manifest.description);
            }
        }
    }
    Ok(())
}

/// Keeps the records `/node-image/` as the images directory is.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) blobs: Blobs,
    pub(crate) images: PathBuf,
    /// Publishes what a simulated region has as well.
    pub(crate) simulated: bool,
}

/// What a round found out.
struct Plan {
    /// What can be recorded at once.
    ops: Vec<Op>,
    /// What is to be taken in, the smallest first.
    missing: Vec<Manifest>,
}

impl Publisher {
    /// Publishes what needs no reading: images that were taken in before, and simulated ones. So a
    /// region that is started again has its AMIs from the first request on.
    pub(crate) async fn begin(&self) -> Result<()> {
        let plan = self.look().await?;
        self.write(plan.ops).await?;
        for manifest in plan.missing.into_iter().filter(|_| self.simulated) {
            if self.is_built_in(&manifest) {
                self.take_in(manifest).await?;
            }
        }
        Ok(())
    }

    /// Publishes from now on whatever comes, changes and goes. The receiver hears of the end of the
    /// first round.
    pub(crate) fn watch(self, dispatcher: Arc<Dispatcher>) -> oneshot::Receiver<()> {
        let (first, heard) = oneshot::channel();
        let mut first = Some(first);
        tokio::spawn(async move {
            let mut seen = None;
            let mut failed_at = None::<tokio::time::Instant>;
            loop {
                let now = self.stamps();
                let again = failed_at.is_some_and(|at| at.elapsed() >= RETRY);
                if seen.as_ref() != Some(&now) || again {
                    let done = self.round(&dispatcher).await;
                    failed_at = done.is_err().then(tokio::time::Instant::now);
                    if let Err(error) = done {
                        tracing::warn!("not every image is published: {error:#}");
                    }
                    seen = Some(now);
                    if let Some(first) = first.take() {
                        let _ = first.send(());
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        heard
    }

    /// One round. An image that cannot be taken in does not keep the others back.
    async fn round(&self, dispatcher: &Dispatcher) -> Result<()> {
        let plan = self.look().await?;
        if self.write(plan.ops).await? {
            dispatcher.refresh();
        }
        let mut failed = Ok(());
        for manifest in plan.missing {
            let key = manifest.key.clone();
            match self.take_in(manifest).await {
                Ok(()) => dispatcher.refresh(),
                Err(error) => failed = Err(error.context(format!("image {key}"))),
            }
        }
        failed
    }

    fn built_in(&self) -> Vec<Manifest> {
        if self.simulated { ec2::image::built_in() } else { Vec::new() }
    }

    fn is_built_in(&self, manifest: &Manifest) -> bool {
        self.built_in().contains(manifest)
    }

    fn wanted(&self) -> Result<BTreeMap<String, Manifest>> {
        let mut wanted = self.built_in();
        wanted.extend(node::image::list(&self.images)?);
        Ok(wanted.into_iter().map(|m| (format!("{PREFIX}{}", m.key), m)).collect())
    }

    /// [`Publisher::plan`], which waits for directories and the blob store.
    async fn look(&self) -> Result<Plan> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.plan()).await?
    }

    fn plan(&self) -> Result<Plan> {
        let mut wanted = self.wanted()?;
        let mut ops = Vec::new();
        for record in self.store.snapshot().scan(PREFIX) {
            let Some(manifest) = wanted.remove(record.key()) else {
                ops.push(Op::delete(record.key()));
                continue;
            };
            let Ok(known) = record.decode::<Published>() else {
                // It has the form of an older version.
                ops.push(Op::delete(record.key()));
                wanted.insert(record.key().to_owned(), manifest);
                continue;
            };
            let same_disk = known.manifest.disk == manifest.disk
                && known.manifest.created == manifest.created
                && known.content.size_gib == manifest.size_gib
                && self.has(&known.content);
            if !same_disk {
                // What was published stays until the new disk is taken in.
                wanted.insert(record.key().to_owned(), manifest);
            } else if known.manifest != manifest {
                let content = known.content.clone();
                ops.push(Op::put(record.key(), &Published { manifest, content })?);
            }
        }
        let mut missing: Vec<Manifest> = wanted.into_values().collect();
        missing.sort_by_key(|manifest| {
            self.disk(manifest).metadata().map_or(0, |metadata| metadata.blocks())
        });
        Ok(Plan { ops, missing })
    }

    /// Whether the content is in the blob store; one that cannot be asked has not lost it.
    fn has(&self, content: &Content) -> bool {
        !matches!(Reader::open(&self.blobs, content, None), Err(block::Error::NotFound(_)))
    }

    async fn write(&self, ops: Vec<Op>) -> Result<bool> {
        if ops.is_empty() {
            return Ok(false);
        }
        self.store.txn(Txn::write(ops)).await?;
        Ok(true)
    }

    fn disk(&self, manifest: &Manifest) -> PathBuf {
        self.images.join(&manifest.key).join(&manifest.disk)
    }

    /// Takes the disk of an image into the blob store and publishes it.
    async fn take_in(&self, manifest: Manifest) -> Result<()> {
        let (blobs, size_gib) = (self.blobs.clone(), manifest.size_gib);
        let finished = if self.is_built_in(&manifest) {
            tokio::task::spawn_blocking(move || block::upload::empty(&blobs, size_gib, None))
                .await??
        } else {
            let (disk, format) = (self.disk(&manifest), manifest.disk_format.clone());
            // What is left here by a kill is removed at the next start.
            let scratch = self.images.with_file_name("scratch");
            std::fs::create_dir_all(&scratch)?;
            let scratch = scratch.join(format!("image-{}", manifest.key));
            tokio::task::spawn_blocking(move || {
                let done = ingest(&blobs, &disk, &format, size_gib, &scratch);
                let _ = std::fs::remove_file(&scratch);
                done
            })
            .await??
        };
        let key = format!("{PREFIX}{}", manifest.key);
        let content = finished.content(None);
        self.write(vec![Op::put(&key, &Published { manifest, content })?]).await?;
        // Its blobs are held until the record names them.
        drop(finished);
        tracing::info!(image = key.trim_start_matches(PREFIX), "published");
        Ok(())
    }

    /// What changes when an image comes, changes or goes.
    fn stamps(&self) -> Vec<(PathBuf, SystemTime)> {
        let mut stamps = Vec::new();
        for entry in std::fs::read_dir(&self.images).into_iter().flatten().flatten() {
            let manifest = entry.path().join("manifest.json");
            if let Ok(modified) = manifest.metadata().and_then(|m| m.modified()) {
                stamps.push((manifest, modified));
            }
        }
        stamps.sort();
        stamps
    }
}

/// Content of a disk file; `scratch` is where a file that is not raw is unpacked to.
fn ingest(
    blobs: &Blobs,
    disk: &Path,
    format: &str,
    size_gib: u32,
    scratch: &Path,
) -> Result<Finished> {
    let raw = match format {
        "raw" => disk,
        "qcow2" => {
            unpack(disk, scratch)?;
            scratch
        }
        other => anyhow::bail!("the disk format {other} is not known"),
    };
    let go_on = |_: u64, _: u64| ControlFlow::Continue(());
    Ok(block::ingest::ingest(blobs, raw, Some(size_gib), None, THREADS, &go_on)?)
}

/// Writes a qcow2 disk, which was checked when it was imported, as a sparse raw file.
fn unpack(disk: &Path, scratch: &Path) -> Result<()> {
    let output = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw", "--"])
        .arg(std::path::absolute(disk)?)
        .arg(std::path::absolute(scratch)?)
        .stdin(Stdio::null())
        .output()
        .context("qemu-img cannot be run: apt-get install qemu-utils")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", disk.display(), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::image::Boot;
    use base::volume::BLOCK_BYTES;
    use std::fs;
    use store::redb;

    fn publisher(directory: &Path, simulated: bool) -> Publisher {
        let blobs = block::Config::Local { directory: directory.join("blobs") };
        Publisher {
            store: redb(&directory.join("region.redb")).unwrap(),
            blobs: Blobs::open(&blobs).unwrap(),
            images: directory.join("images"),
            simulated,
        }
    }

    fn lay_down(publisher: &Publisher, created: i64, byte: u8) {
        let manifest = Manifest {
            key: "mine".to_owned(),
            disk: format!("disk-{created}.raw"),
            disk_format: "raw".to_owned(),
            boot: Boot::Firmware,
            size_gib: 1,
            created: base::Timestamp(created),
            ..ec2::image::built_in().remove(0)
        };
        let directory = publisher.images.join("mine");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(&manifest.disk), vec![byte; 2 * BLOCK_BYTES]).unwrap();
        let text = serde_json::to_vec(&manifest).unwrap();
        fs::write(directory.join("manifest.json"), text).unwrap();
    }

    fn published(publisher: &Publisher) -> Vec<Published> {
        let snapshot = publisher.store.snapshot();
        snapshot.scan(PREFIX).map(|kv| (*kv.decode::<Published>().unwrap()).clone()).collect()
    }

    async fn round(publisher: &Publisher) {
        let plan = publisher.plan().unwrap();
        publisher.write(plan.ops).await.unwrap();
        for manifest in plan.missing {
            publisher.take_in(manifest).await.unwrap();
        }
    }

    #[tokio::test]
    async fn records_follow_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let publisher = publisher(directory.path(), false);
        round(&publisher).await;
        assert_eq!(published(&publisher), []);
        lay_down(&publisher, 1, 7);
        round(&publisher).await;
        let first = published(&publisher);
        assert_eq!((first.len(), first[0].content.size_gib), (1, 1));
        let reader = Reader::open(&publisher.blobs, &first[0].content, None).unwrap();
        assert_eq!(reader.block(1).unwrap().unwrap()[0], 7);
        assert!(reader.block(2).unwrap().is_none());
        let plan = publisher.plan().unwrap();
        assert!(plan.ops.is_empty() && plan.missing.is_empty(), "all is said");
        // Built anew: what was published stays until it is taken in.
        lay_down(&publisher, 2, 8);
        let plan = publisher.plan().unwrap();
        assert_eq!((plan.ops.len(), plan.missing.len()), (0, 1));
        round(&publisher).await;
        assert_ne!(published(&publisher)[0].content, first[0].content);
        fs::remove_dir_all(publisher.images.join("mine")).unwrap();
        round(&publisher).await;
        assert_eq!(published(&publisher), []);
    }

    #[tokio::test]
    async fn simulated_images_are_there_at_once_and_content_that_is_lost_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let publisher = publisher(directory.path(), true);
        // What an older daemon wrote.
        let old = Op::put("/node-image/micro", &ec2::image::built_in()[0]).unwrap();
        publisher.write(vec![old]).await.unwrap();
        publisher.begin().await.unwrap();
        assert_eq!(published(&publisher).len(), ec2::image::built_in().len());
        let emptied = tempfile::tempdir().unwrap();
        let emptied = super::tests::publisher(emptied.path(), true);
        let publisher = Publisher { blobs: emptied.blobs, ..publisher };
        let plan = publisher.plan().unwrap();
        assert_eq!(plan.missing.len(), ec2::image::built_in().len());
    }
}
