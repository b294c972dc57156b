//! Bringing a frozen chain of layers into the blob store.
//!
//! ```text
//!  layers ─► qemu-storage-daemon ─► NBD: which blocks do the newest layers touch? (allocation depth)
//!                                        read those through the whole chain
//!                                          └─► block::Upload: hash, encrypt, store what is new
//! ```
//!
//! A daemon that starts again begins an upload anew; blocks that are stored are found again by their
//! hashes. What it does not do: it decides neither what to upload nor whether to try again.

use super::directory::Directory;
use super::host::Chain;
use super::keeper::{EXPORT, Keeper, Purpose, export_socket, share_frozen, short};
use base::key::DataKey;
use base::volume::{BLOCK_BYTES, Content};
use block::nbd::Client;
use block::nbd::protocol::{ALLOCATION_DEPTH, BASE_ALLOCATION, STATE_ZERO};
use block::{Blobs, Finished, Upload};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

/// Blocks in memory at a time.
const IN_FLIGHT: usize = 8;

/// How much is asked for at once when looking for blocks.
const STEP: u64 = 1 << 30;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is to be uploaded.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Frozen layers, and the source below them if they need one.
    pub(crate) chain: Chain,
    /// Who may open them.
    pub(crate) user: u32,
    /// What is in the blob store already.
    pub(crate) parent: Option<Content>,
    /// How many of the upper layers are not in the parent.
    pub(crate) newer: usize,
    /// Size of the highest layer.
    pub(crate) size_gib: u32,
    pub(crate) key: Option<DataKey>,
}

/// How far it is, bytes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
}

impl Progress {
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// Why there is no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The reason can pass: a full disk, a server that is away.
    Passing(String),
    /// The volume's data cannot be read, which seldom passes.
    Unreadable(String),
    /// The parent is damaged or not there.
    Parent(String),
    /// It never can be done.
    Final(String),
}

impl From<block::Error> for Problem {
    fn from(error: block::Error) -> Self {
        match error {
            block::Error::WrongKey | block::Error::Invalid(_) => Problem::Final(error.to_string()),
            block::Error::NotFound(_)
            | block::Error::Damaged(_)
            | block::Error::Malformed { .. } => Problem::Parent(error.to_string()),
            _ => Problem::Passing(error.to_string()),
        }
    }
}

/// Uploads. Dropped, it ends and leaves blobs that nothing names.
///
/// # Errors
/// See [`Problem`].
pub(crate) async fn upload(
    data_dir: &Path,
    directory: &Directory,
    blobs: &Blobs,
    plan: Plan,
    progress: &Progress,
) -> Result<Finished, Problem> {
    let (store, parent, key) = (blobs.clone(), plan.parent.clone(), plan.key.clone());
    let size_gib = plan.size_gib;
    let begin = move || Upload::begin(&store, parent.as_ref(), size_gib, key.as_ref());
    let upload = Arc::new(blocking(begin).await?);
    if plan.parent.is_none() || plan.newer > 0 {
        let mut keeper = Keeper::start(data_dir, directory, Purpose::Reader, plan.user)
            .await
            .map_err(Problem::Passing)?;
        let host = keeper.host.clone();
        let work = async {
            share_frozen(&host, &plan.chain).await.map_err(Problem::Unreadable)?;
            let client = connect(directory, Purpose::Reader).await?;
            let blocks = find(&client, &plan).await?;
            progress.total.store(blocks.len() as u64 * BLOCK, Ordering::Relaxed);
            read(&client, &upload, blocks, progress).await?;
            client.close().await;
            Ok(())
        };
        let done = tokio::select! {
            done = work => done,
            how = keeper.ended() => {
                let words = directory.last_words(Purpose::Reader.name());
                Err(Problem::Passing(format!("{how}: {words}")))
            }
        };
        keeper.quit().await;
        done?;
    }
    let upload = Arc::into_inner(upload)
        .ok_or_else(|| Problem::Passing("a block is still being stored".to_owned()))?;
    blocking(move || upload.finish()).await
}

/// Connects to the export of a storage daemon.
pub(crate) async fn connect(directory: &Directory, purpose: Purpose) -> Result<Client, Problem> {
    let passing = |error: std::io::Error| Problem::Passing(error.to_string());
    let here = File::open(directory.path()).map_err(passing)?;
    let socket = short(&here, &export_socket(purpose));
    let contexts = [ALLOCATION_DEPTH, BASE_ALLOCATION];
    Client::connect(&socket, EXPORT, &contexts)
        .await
        .map_err(|error| Problem::Passing(error.to_string()))
}

/// The blocks that have to be read.
async fn find(client: &Client, plan: &Plan) -> Result<BTreeSet<u64>, Problem> {
    let newer = u32::try_from(plan.newer).unwrap_or(u32::MAX);
    let incremental = plan.parent.is_some();
    let context = if incremental { ALLOCATION_DEPTH } else { BASE_ALLOCATION };
    let mut blocks = BTreeSet::new();
    let mut offset = 0;
    while offset < client.size() {
        let length = STEP.min(client.size() - offset);
        let pieces = client.status(context, offset, length).await.map_err(unreadable)?;
        for piece in pieces.iter().filter(|piece| piece.length > 0) {
            let counts = match incremental {
                true => (1..=newer).contains(&piece.flags),
                false => piece.flags & STATE_ZERO == 0,
            };
            if counts {
                blocks.extend(piece.offset / BLOCK..=(piece.offset + piece.length - 1) / BLOCK);
            }
        }
        offset += length;
    }
    Ok(blocks)
}

async fn read(
    client: &Client,
    upload: &Arc<Upload>,
    blocks: BTreeSet<u64>,
    progress: &Progress,
) -> Result<(), Problem> {
    let mut storing: JoinSet<Result<(), block::Error>> = JoinSet::new();
    let settle = |joined: Result<Result<(), block::Error>, tokio::task::JoinError>| {
        joined.map_err(|error| Problem::Passing(error.to_string()))??;
        progress.done.fetch_add(BLOCK, Ordering::Relaxed);
        Ok::<(), Problem>(())
    };
    for index in blocks {
        if storing.len() >= IN_FLIGHT
            && let Some(joined) = storing.join_next().await
        {
            settle(joined)?;
        }
        let data = client.read(index * BLOCK, BLOCK_BYTES as u32).await.map_err(unreadable)?;
        let upload = Arc::clone(upload);
        storing.spawn_blocking(move || upload.put(index, &data));
    }
    while let Some(joined) = storing.join_next().await {
        settle(joined)?;
    }
    Ok(())
}

fn unreadable(error: block::nbd::Error) -> Problem {
    Problem::Unreadable(error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, block::Error> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Problem::Passing(error.to_string()))??)
}
