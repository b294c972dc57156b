//! The process that serves a volume's source over NBD while it has not filled: `gureum storage`.
//!
//! It outlives the daemon like QEMU does, is adopted, and is started again when it dies; QEMU's
//! client connects again and guests only wait. It verifies and decrypts every block.

use super::directory::Directory;
use super::keeper::short;
use crate::qemu::process::{Launch, Process};
use base::key::DataKey;
use base::volume::Content;
use block::nbd::StorageOptions;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// What the program is told to be.
pub(crate) const MARK: &str = "storage";

/// How long it may take to listen.
const READY: Duration = Duration::from_secs(20);

/// The name of its socket and its log.
const NAME: &str = "source";

/// Its socket, relative to the volume's directory.
pub(crate) const SOCKET: &str = "source.sock";

/// What is served.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    pub(crate) blobs: &'a block::Config,
    pub(crate) content: &'a Content,
    pub(crate) key: Option<DataKey>,
    /// Who may connect.
    pub(crate) user: u32,
    /// Size of the export.
    pub(crate) bytes: u64,
}

/// Starts it and waits until it listens.
///
/// # Errors
/// Text for people.
pub(crate) async fn start(
    program: &Path,
    data_dir: &Path,
    directory: &Directory,
    served: Served<'_>,
) -> Result<Process, String> {
    let explain = |error: io::Error| format!("{}: {error}", program.display());
    let mut blobs = served.blobs.clone();
    if let block::Config::Local { directory } = &mut blobs {
        // Its working directory is not ours.
        *directory = std::path::absolute(&directory).map_err(explain)?;
    }
    let options = StorageOptions {
        blobs,
        content: served.content.clone(),
        data_key: served.key.as_ref().map(StorageOptions::encode_key),
        socket: Path::new(&super::directory::relative(directory.id())).join(SOCKET),
        owner: served.user,
        size: served.bytes,
    };
    let mut line = serde_json::to_string(&options).map_err(|error| error.to_string())?;
    line.push('\n');
    let launch = Launch {
        program,
        arguments: vec![MARK.into()],
        directory: &File::open(data_dir).map_err(explain)?,
        user: None,
        group: None,
        inherit: Vec::new(),
        input: Some(in_memory(&line).map_err(explain)?),
        output: directory.log(NAME).map_err(explain)?,
    };
    let mut process = Process::spawn(launch).map_err(explain)?;
    let listening = async {
        while connect(directory).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ready = tokio::select! {
        how = process.ended() => Err(format!("{how}: {}", directory.last_words(NAME))),
        ready = tokio::time::timeout(READY, listening) => {
            ready.map_err(|_| "the storage process does not listen".to_owned())
        }
    };
    if ready.is_err() {
        process.kill();
    }
    ready.map(|()| process)
}

/// A connection to the process of a volume.
async fn connect(directory: &Directory) -> io::Result<UnixStream> {
    let here = File::open(directory.path())?;
    UnixStream::connect(short(&here, SOCKET)).await
}

/// A file that is nowhere but in memory: what is in it is secret.
fn in_memory(text: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
