//! `gureum storage`: the process that serves the content of a snapshot to one volume that fills
//! from it. The daemon starts it and does not wait for it; like QEMU it outlives the daemon.
//!
//! It ends when it is told to, or when nobody needs it any more: its socket is gone or is another
//! process's, and no client is connected.
//!
//! It holds a data key, so that it can neither be traced nor leave a core behind, and the key comes
//! on its standard input, never on its command line.

use anyhow::{Context as _, Result};
use block::nbd::{StorageOptions, server, storage::Source};
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Most reads of blobs at once: with an object store most of their time is waiting.
const READERS: usize = 32;

/// How often it looks whether anybody needs it.
const NEEDED: Duration = Duration::from_secs(2);

/// Serves what one line of standard input says until SIGTERM. Says `ready` once it listens.
pub(crate) fn run() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("the process cannot be closed to others")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("standard input cannot be read")?;
    // serde_json's words may quote what it could not read, and that is a key.
    let options: StorageOptions = serde_json::from_str(&line).map_err(|error| {
        anyhow::anyhow!("standard input is not what it should be (column {})", error.column())
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(READERS)
        .enable_all()
        .build()?;
    runtime.block_on(serve(&options))?;
    // Reads that hang must not keep it.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(options: &StorageOptions) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Caught so that it does nothing: the terminal that the daemon was started from may go.
    let _hangup = signal(SignalKind::hangup())?;
    let root = &options.content.root;
    let source = options.source().with_context(|| format!("content {root} cannot be opened"))?;
    let listener = options
        .listen()
        .with_context(|| format!("cannot listen on {}", options.socket.display()))?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready").and_then(|()| stdout.flush()).context("nobody waits for it")?;
    let source = Arc::new(source);
    tokio::select! {
        () = server::serve(listener, Arc::clone(&source) as Arc<dyn server::Export>) => {}
        () = unneeded(&options.socket, &source) => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Waits until nobody can connect any more and nobody is connected.
async fn unneeded(socket: &Path, source: &Arc<Source>) {
    let identity =
        || std::fs::symlink_metadata(socket).map(|found| (found.dev(), found.ino())).ok();
    let own = identity();
    loop {
        tokio::time::sleep(NEEDED).await;
        // The server has it once, we have it, and every connection has it.
        if identity() != own && Arc::strong_count(source) <= 2 {
            return;
        }
    }
}
