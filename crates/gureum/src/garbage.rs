//! When the blob store is swept: at the start, every hour, and soon after a record that holds content
//! has gone.
//!
//! What may go is block's to say ([`block::collect`]): whatever no record names and nobody is
//! writing. What records name is EC2's ([`ec2::contents`]). A pass that fails has freed nothing
//! that is named; the next one does its work.

use block::{Blobs, Direct, Roots};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::time::Instant;

/// Between passes when nothing is deleted.
const EVERY: Duration = Duration::from_secs(3_600);
/// From a deletion to its pass: others may follow it.
const AFTER: Duration = Duration::from_secs(5);
/// How many times as long as a pass took nothing is done after it: a large store is not read all day.
const REST_FACTOR: u32 = 20;
/// What every content has in a record's JSON.
const MARK: &[u8] = b"\"root\"";

/// Sweeps until the runtime ends.
pub(crate) async fn sweep(
    store: Arc<dyn Store>,
    blobs: Blobs,
    direct: Arc<Direct>,
    uploads: PathBuf,
) {
    loop {
        let watch = store.watch("/", 0);
        let begun = Instant::now();
        let pass = {
            let (store, blobs) = (Arc::clone(&store), blobs.clone());
            let (direct, uploads) = (Arc::clone(&direct), uploads.clone());
            tokio::task::spawn_blocking(move || pass(store.as_ref(), &blobs, &direct, &uploads))
        };
        match pass.await {
            Ok(Ok(report)) if report.freed > 0 => tracing::info!(
                blobs = report.freed,
                bytes = report.freed_bytes,
                "freed what nothing names any more"
            ),
            Ok(Ok(report)) => tracing::debug!(?report, "nothing to free"),
            Ok(Err(error)) => tracing::warn!(%error, "nothing was freed in the blob store"),
            Err(error) => tracing::error!(%error, "a pass over the blob store ended"),
        }
        let rest = begun.elapsed() * REST_FACTOR;
        wait(watch).await;
        tokio::time::sleep_until(begun + rest).await;
    }
}

/// Until the next pass: changes since the watch began count.
async fn wait(watch: Result<store::Watch, store::Error>) {
    let end = Instant::now() + EVERY;
    let Ok(mut watch) = watch else { return tokio::time::sleep_until(end).await };
    let deletion = async {
        while let Some(events) = watch.next().await {
            let gone = |event: &store::Event| {
                // Few events are deletions; only their records are read.
                event.value.is_none()
                    && event.previous.as_ref().is_some_and(|previous| holds(previous.value()))
            };
            if events.iter().any(gone) {
                return;
            }
        }
        // It fell behind: there was much to tell, perhaps a deletion.
    };
    let _ = tokio::time::timeout_at(end, deletion).await;
    tokio::time::sleep(AFTER).await;
}

fn holds(record: &[u8]) -> bool {
    record.windows(MARK.len()).any(|bytes| bytes == MARK)
}

fn pass(
    store: &dyn Store,
    blobs: &Blobs,
    direct: &Direct,
    uploads: &Path,
) -> block::Result<block::collect::Report> {
    forget_uploads(store, direct, uploads)?;
    block::collect::collect(blobs, || {
        let contents = ec2::contents(&store.snapshot()).map_err(io::Error::other)?;
        let mut roots = Roots::of(&contents)?;
        roots.blobs = direct.referenced()?;
        Ok(roots)
    })
}

/// Drops uploads whose snapshots are no more: a daemon that was killed right after a deletion
/// leaves one. The directory is read first, since no upload begins before its record is there.
fn forget_uploads(store: &dyn Store, direct: &Direct, uploads: &Path) -> io::Result<()> {
    use base::volume::Blocks as _;
    let names = std::fs::read_dir(uploads)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    let known: HashSet<String> =
        ec2::content::uploads(&store.snapshot()).map_err(io::Error::other)?.into_iter().collect();
    for name in names.iter().filter(|name| name.starts_with("snap-") && !known.contains(*name)) {
        direct.drop_upload(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::volume::Content;
    use store::{Op, Txn};

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_deleted_record_held_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let config = block::Config::Local { directory: directory.path().join("blobs") };
        let blobs = Blobs::open(&config).unwrap();
        let keys = Arc::new(kms::KeyStore::open(directory.path().join("kms")).unwrap());
        let uploads = directory.path().join("uploads");
        let direct = Arc::new(Direct::open(blobs.clone(), keys, &uploads).unwrap());
        let store = store::memory();
        let made = block::upload::empty(&blobs, 1, None).unwrap();
        let content: Content = made.content(None);
        let at = "/us-east-1/something/1/x-1";
        let txn = Txn::write(vec![Op::put(at, &content).unwrap()]);
        store.txn(txn).await.unwrap();
        drop(made);
        let root = block::root_of(&content).unwrap();
        let run = || pass(store.as_ref(), &blobs, &direct, &uploads).unwrap();
        assert_eq!(run().freed, 0);
        assert!(blobs.get(root).is_ok());
        store.txn(Txn::write(vec![Op::delete(at)])).await.unwrap();
        assert_eq!(run().freed, 1);
        assert!(blobs.get(root).is_err());
    }

    #[tokio::test]
    async fn a_deletion_ends_the_wait() {
        let store = store::memory();
        let content = Content { root: "a".repeat(64), size_gib: 1, key: None };
        store.txn(Txn::write(vec![Op::put("/x", &content).unwrap()])).await.unwrap();
        let watch = store.watch("/", 0);
        store.txn(Txn::write(vec![Op::delete("/x")])).await.unwrap();
        // Not the hour: the deletion and what may follow it.
        tokio::time::timeout(Duration::from_secs(60), wait(watch)).await.unwrap();
    }
}
