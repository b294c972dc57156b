//! Work on content that belongs to no volume: copies under another key, completed EBS direct uploads,
//! imports and exports of disk image files.
//!
//! ```text
//!  apply ──► waiting for its turn ──► running ──► Completed ──► forget
//!                   ▲                    │   └──► Failed
//!                   └── what can pass ◄──┘   (a full disk: tried again, later and later)
//! ```
//!
//! A daemon that starts again is told of the task again and begins it anew.
//!
//! Image files are not trusted. The format is told by the first bytes; what refers to another file
//! (a backing file, external data, extents) is refused before QEMU sees it, and QEMU is told the
//! driver and that there is no backing file, because such an image would make this machine's files
//! readable in a volume.

use super::image_file::{Format, check_format};
use super::keeper::short;
use super::locked;
use base::key::{DataKey, Keys, WrappedKey};
use base::volume::{Content, SnapshotState, Task, Work};
use block::nbd;
use block::{Blobs, Direct, Finished, Pinned};
use serde_json::json;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Tasks that run at a time.
const AT_A_TIME: usize = 2;

/// Threads of one task; most of the time they wait for a disk.
const THREADS: usize = 8;

/// The largest disk, bytes (EBS).
const LARGEST: u64 = 64 << 40;

/// Runs tasks. Clones are the same.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("buckets", &self.0.buckets).finish_non_exhaustive()
    }
}

struct Inner {
    blobs: Blobs,
    keys: Arc<dyn Keys>,
    direct: Arc<Direct>,
    /// What `Work::Import` and `Work::Export` name lies here.
    buckets: PathBuf,
    /// For files that are being made.
    scratch: PathBuf,
    runtime: runtime::Handle,
    announce: Box<dyn Fn(&str) + Send + Sync>,
    entries: Mutex<HashMap<String, Entry>>,
    turns: Semaphore,
}

struct Entry {
    state: SnapshotState,
    stop: Arc<AtomicBool>,
    abort: AbortHandle,
    /// Kept until the result is recorded.
    _pinned: Option<Pinned>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.abort.abort();
    }
}

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The reason can pass.
    Passing(String),
    /// It cannot.
    Final(String),
}

impl From<block::Error> for Problem {
    fn from(error: block::Error) -> Self {
        let text = error.to_string();
        match error {
            block::Error::Full | block::Error::Remote(_) | block::Error::Stopped => {
                Problem::Passing(text)
            }
            block::Error::Io(error) => error.into(),
            _ => Problem::Final(text),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => {
                Problem::Final(error.to_string())
            }
            _ => Problem::Passing(error.to_string()),
        }
    }
}

/// Tells how far one task is, and whether it is still wanted.
#[derive(Clone)]
struct Reporter {
    inner: Arc<Inner>,
    id: String,
    stop: Arc<AtomicBool>,
}

impl Reporter {
    fn tell(&self, done: u64, total: u64) -> ControlFlow<()> {
        let told = {
            let mut entries = locked(&self.inner.entries);
            let entry = entries.get_mut(&self.id);
            let entry = entry.filter(|entry| Arc::ptr_eq(&entry.stop, &self.stop));
            let Some(entry) = entry else { return ControlFlow::Break(()) };
            let percent = |done: u64, total: u64| (done * 100).checked_div(total).unwrap_or(0);
            let before = match entry.state {
                SnapshotState::Pending { done, total, .. } => percent(done, total),
                _ => 0,
            };
            entry.state = SnapshotState::Pending { cut: true, done, total };
            percent(done, total) != before
        };
        if told {
            (self.inner.announce)(&self.id);
        }
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Tasks {
    /// A runner whose files lie in `data_dir`: `buckets/` is what imports and exports name,
    /// `scratch/` is emptied. `announce` is called with a task's id when its state changed.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn new(
        data_dir: &Path,
        blobs: Blobs,
        keys: Arc<dyn Keys>,
        direct: Arc<Direct>,
        runtime: runtime::Handle,
        announce: Box<dyn Fn(&str) + Send + Sync>,
    ) -> io::Result<Self> {
        let (buckets, scratch) = (data_dir.join("buckets"), data_dir.join("scratch"));
        // A qemu-img that a daemon before did not live to end.
        crate::qemu::process::kill_unrecorded(&scratch, "convert");
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        use std::os::unix::fs::DirBuilderExt;
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(&scratch)?;
        private.create(&buckets)?;
        Ok(Tasks(Arc::new(Inner {
            blobs,
            keys,
            direct,
            buckets,
            scratch,
            runtime,
            announce,
            entries: Mutex::default(),
            turns: Semaphore::new(AT_A_TIME),
        })))
    }

    /// As [`base::volume::Driver::apply_task`].
    pub fn apply(&self, task: Task) {
        let mut entries = locked(&self.0.entries);
        if entries.contains_key(&task.id) {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let id = task.id.clone();
        let reporter =
            Reporter { inner: Arc::clone(&self.0), id: id.clone(), stop: Arc::clone(&stop) };
        let running = self.0.runtime.spawn(run(task, reporter));
        let state = SnapshotState::Pending { cut: true, done: 0, total: 0 };
        entries.insert(id, Entry { state, stop, abort: running.abort_handle(), _pinned: None });
    }

    /// As [`base::volume::Driver::task_state`].
    pub fn state(&self, id: &str) -> Option<SnapshotState> {
        locked(&self.0.entries).get(id).map(|entry| entry.state.clone())
    }

    /// As [`base::volume::Driver::forget_task`].
    pub fn forget(&self, id: &str) {
        locked(&self.0.entries).remove(id);
    }

    /// Ends all tasks.
    pub fn stop(&self) {
        locked(&self.0.entries).clear();
    }
}

async fn run(task: Task, reporter: Reporter) {
    let mut delay = Duration::from_secs(2);
    let (state, pinned) = loop {
        let done = {
            // Never closed.
            let _turn = reporter.inner.turns.acquire().await;
            perform(&task, &reporter).await
        };
        match done {
            Ok((content, finished)) => {
                let completed = SnapshotState::Completed {
                    content,
                    new_bytes: finished.new_bytes,
                    full_bytes: finished.full_bytes,
                };
                break (completed, Some(finished.pinned));
            }
            Err(Problem::Final(message)) => {
                tracing::error!(id = task.id, message, "a task failed");
                break (SnapshotState::Failed { message }, None);
            }
            Err(Problem::Passing(message)) => {
                tracing::warn!(id = task.id, message, ?delay, "a task is tried again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(60));
            }
        }
    };
    {
        let mut entries = locked(&reporter.inner.entries);
        let entry = entries.get_mut(&task.id);
        let Some(entry) = entry.filter(|e| Arc::ptr_eq(&e.stop, &reporter.stop)) else { return };
        entry.state = state;
        entry._pinned = pinned;
    }
    (reporter.inner.announce)(&task.id);
}

async fn perform(task: &Task, reporter: &Reporter) -> Result<(Content, Finished), Problem> {
    let inner = &reporter.inner;
    match &task.work {
        Work::Copy { from, key } => {
            let (from_key, to_key) =
                (inner.unwrap(from.key.as_ref()).await?, inner.unwrap(key.as_ref()).await?);
            let (blobs, from, reporter) = (inner.blobs.clone(), from.clone(), reporter.clone());
            let finished = blocking(move || {
                let (from_key, to_key) = (from_key.as_ref(), to_key.as_ref());
                let progress = |done, total| reporter.tell(done, total);
                block::upload::copy(&blobs, &from, from_key, to_key, THREADS, &progress)
            })
            .await?;
            Ok((finished.content(key.clone()), finished))
        }
        Work::Complete { parent, size_gib, key } => {
            let (direct, id, size_gib) = (Arc::clone(&inner.direct), task.id.clone(), *size_gib);
            let (parent, wrapped) = (parent.clone(), key.clone());
            let finished =
                blocking(move || direct.complete(&id, parent.as_ref(), size_gib, wrapped.as_ref()))
                    .await?;
            Ok((finished.content(key.clone()), finished))
        }
        Work::Import { file, format, key } => {
            let finished = import(task, file, format.as_deref(), key.as_ref(), reporter).await?;
            Ok((finished.content(key.clone()), finished))
        }
        Work::Export { from, file, format } => {
            let finished = export(task, from, file, format, reporter).await?;
            Ok((from.clone(), finished))
        }
    }
}

impl Inner {
    async fn unwrap(&self, key: Option<&WrappedKey>) -> Result<Option<DataKey>, Problem> {
        let Some(key) = key.cloned() else { return Ok(None) };
        let keys = Arc::clone(&self.keys);
        let unwrapped = tokio::task::spawn_blocking(move || keys.unwrap(&key)).await;
        let unwrapped = unwrapped.map_err(|error| Problem::Passing(error.to_string()))?;
        unwrapped.map(Some).map_err(|error| match error {
            base::key::Error::Storage(_) => Problem::Passing(error.to_string()),
            _ => Problem::Final(error.to_string()),
        })
    }

    /// The path of `<bucket>/<key>`, which stays below the bucket directory.
    fn bucket_path(&self, file: &str) -> Result<PathBuf, Problem> {
        let relative = Path::new(file);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || relative.components().count() < 2 || file.contains('\0') {
            return Err(Problem::Final(format!("{file:?} names no object of a bucket")));
        }
        let path = self.buckets.join(relative);
        // No link leads out of it either.
        let parent = path.parent().map(Path::canonicalize).transpose();
        let buckets = self.buckets.canonicalize()?;
        match parent {
            Ok(Some(parent)) if parent.starts_with(&buckets) => Ok(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Err(Problem::Final(format!(
                "the bucket of {file} does not exist: make the directory {}",
                path.parent().unwrap_or(&self.buckets).display()
            ))),
        }
    }

    /// Makes the directories between a bucket and an object: in S3 they are a part of its name.
    /// The bucket itself must be there.
    fn make_folders(&self, file: &str) -> Result<(), Problem> {
        let mut parts: Vec<&str> = file.split('/').collect();
        parts.pop();
        let mut here = self.buckets.clone();
        for (depth, part) in parts.iter().enumerate() {
            here.push(part);
            // Step by step, never through a link.
            match fs::symlink_metadata(&here) {
                Ok(found) if found.is_dir() && !matches!(*part, "" | "." | "..") => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => {
                    fs::create_dir(&here)?;
                }
                // What is wrong is said by [`Inner::bucket_path`].
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Reads a disk image file.
async fn import(
    task: &Task,
    file: &str,
    format: Option<&str>,
    key: Option<&WrappedKey>,
    reporter: &Reporter,
) -> Result<Finished, Problem> {
    let inner = &reporter.inner;
    let path = inner.bucket_path(file)?;
    if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(Problem::Final(format!("{file} is a link")));
    }
    let found = check_format(&path, file)?;
    if let Some(told) = format
        && !told.eq_ignore_ascii_case(found.name())
    {
        return Err(Problem::Final(format!("{file} is not {told} but {}", found.name())));
    }
    let data_key = inner.unwrap(key).await?;
    let node = format!("json:{}", found.node(&path)?);
    check_size(file, &node).await?;
    // What is raw is read where it lies; its bytes count as the first half all the same.
    let (image, scratch) = match found {
        Format::Raw => (path, None),
        _ => {
            let scratch = Scratch(inner.scratch.join(format!("{}.raw", task.id)));
            let arguments = ["-O", "raw", "--", &node].map(OsString::from);
            let half = |percent| reporter.tell(percent / 2, 100);
            convert(&inner.scratch, &arguments, &scratch.0, half).await?;
            (scratch.0.clone(), Some(scratch))
        }
    };
    let (blobs, reporter) = (inner.blobs.clone(), reporter.clone());
    let half = scratch.is_some();
    let finished = blocking(move || {
        let progress = |done: u64, total: u64| match half {
            true => reporter.tell(total + done, total * 2),
            false => reporter.tell(done, total),
        };
        block::ingest::ingest(&blobs, &image, None, data_key.as_ref(), THREADS, &progress)
    })
    .await?;
    drop(scratch);
    Ok(finished)
}

/// Writes a disk image file.
async fn export(
    task: &Task,
    from: &Content,
    file: &str,
    format: &str,
    reporter: &Reporter,
) -> Result<Finished, Problem> {
    let inner = &reporter.inner;
    let (driver, options) = match format.to_ascii_lowercase().as_str() {
        "raw" => ("raw", None),
        "qcow2" => ("qcow2", None),
        "vmdk" => ("vmdk", Some("subformat=streamOptimized")),
        // Otherwise the size is rounded to what old firmware could address.
        "vhd" => ("vpc", Some("subformat=dynamic,force_size=on")),
        other => return Err(Problem::Final(format!("{other} cannot be written"))),
    };
    inner.make_folders(file)?;
    let target = inner.bucket_path(file)?;
    let data_key = inner.unwrap(from.key.as_ref()).await?;
    let (blobs, content, key) = (inner.blobs.clone(), from.clone(), data_key.clone());
    // The same content: nothing is read but its root.
    let finished = blocking(move || {
        let nothing = |_, _| ControlFlow::Continue(());
        block::upload::copy(&blobs, &content, key.as_ref(), key.as_ref(), 1, &nothing)
    })
    .await?;
    let name = format!("{}.sock", task.id);
    let _socket = Scratch(inner.scratch.join(&name));
    let source = nbd::storage::Source::new(
        block::Reader::open(&inner.blobs, from, data_key.as_ref())?,
        u64::from(from.size_gib) << 30,
    )?;
    // By a short way, since a socket's path may have 107 bytes only.
    let here = File::open(&inner.scratch)?;
    let listener = tokio::net::UnixListener::bind(short(&here, &name))?;
    let serving = tokio::spawn(nbd::server::serve(listener, Arc::new(source)));
    let _serving = AbortOnDrop(serving.abort_handle());
    let output = Scratch(part_of(&target, &task.id)?);
    let node = json!({
        "driver": "raw",
        "file": {
            "driver": "nbd",
            "server": { "type": "unix", "path": name },
        },
    });
    let mut arguments: Vec<OsString> = vec!["-O".into(), driver.into()];
    if let Some(options) = options {
        arguments.extend(["-o".into(), options.into()]);
    }
    arguments.extend(["--".into(), format!("json:{node}").into()]);
    convert(&inner.scratch, &arguments, &output.0, |percent| reporter.tell(percent, 100)).await?;
    let part = output.0.clone();
    let published = tokio::task::spawn_blocking(move || {
        File::open(&part)?.sync_all()?;
        fs::rename(&part, &target)?;
        match target.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    });
    published.await.map_err(|error| Problem::Passing(error.to_string()))??;
    Ok(finished)
}

/// Where a file is written until it is whole. What the same task left there is removed; whoever
/// still writes to it, started by a daemon that was killed, writes to nothing.
fn part_of(target: &Path, task: &str) -> io::Result<PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mark = format!("{name}.{task}.");
    for entry in fs::read_dir(target.parent().unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        if found.starts_with(&mark) && found.ends_with(".part") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(target.with_file_name(format!("{mark}{}.part", std::process::id())))
}

/// A file that is removed again.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may have been renamed, or never made.
        let _ = fs::remove_file(&self.0);
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `qemu-img convert` in a directory; `progress` hears percents.
async fn convert(
    directory: &Path,
    arguments: &[OsString],
    output: &Path,
    progress: impl Fn(u64) -> ControlFlow<()>,
) -> Result<(), Problem> {
    let mut child = Command::new("qemu-img")
        .args(["convert", "-p"])
        .args(arguments)
        .arg(std::path::absolute(output)?)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Problem::Passing("qemu-img is missing: install qemu-utils".to_owned())
            }
            _ => error.into(),
        })?;
    let (told, said) = (child.stdout.take(), child.stderr.take());
    let listening = async {
        let Some(told) = told else { return };
        let mut told = BufReader::new(told);
        let mut line = String::new();
        // "    (12.50/100%)", then a carriage return.
        while let Ok(byte) = told.read_u8().await {
            if byte == b'\r' || line.len() > 64 {
                let percent = line.split(['(', '.']).nth(1).and_then(|text| text.parse().ok());
                if let Some(percent) = percent
                    && progress(percent).is_break()
                {
                    return;
                }
                line.clear();
            } else {
                line.push(char::from(byte));
            }
        }
    };
    let mut words = String::new();
    let complaining = async {
        if let Some(said) = said {
            // What cannot be read is only missing in a message.
            let _ = said.take(4096).read_to_string(&mut words).await;
        }
    };
    tokio::join!(listening, complaining);
    if child.wait().await?.success() {
        return Ok(());
    }
    let words = words.trim().replace('\n', "; ");
    match words.contains("No space left") {
        true => Err(Problem::Passing("the disk is full".to_owned())),
        false => Err(Problem::Final(words)),
    }
}

async fn check_size(file: &str, node: &str) -> Result<(), Problem> {
    let asked = Command::new("qemu-img")
        .args(["info", "--output=json", "--force-share", "--", node])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = asked.await?;
    let refuse = |why: &str| Err(Problem::Final(format!("{file} is not a disk image: {why}")));
    if !output.status.success() {
        return refuse(String::from_utf8_lossy(&output.stderr).trim());
    }
    let info: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Problem::Final(format!("qemu-img describes {file} oddly: {error}")))?;
    if info["encrypted"] == true {
        return refuse("it is encrypted");
    }
    if !info["format-specific"]["data"]["data-file"].is_null() {
        return refuse("its data is in another file");
    }
    match info["virtual-size"].as_u64() {
        Some(size) if (1..=LARGEST).contains(&size) => Ok(()),
        _ => refuse("its size is not between 1 byte and 64 TiB"),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, block::Error> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Problem::Passing(error.to_string()))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PlainKeys;

    impl Keys for PlainKeys {
        fn resolve(&self, _: &str, _: &str, _: Option<&str>) -> Result<String, base::key::Error> {
            Ok(String::new())
        }

        fn generate(&self, _: &str) -> Result<WrappedKey, base::key::Error> {
            Ok(wrapped(1))
        }

        fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, base::key::Error> {
            let byte = wrapped.ciphertext.parse();
            byte.map(|byte| DataKey([byte; 32]))
                .map_err(|_| base::key::Error::NotOurs(String::new()))
        }

        fn rewrap(&self, wrapped: &WrappedKey, _: &str) -> Result<WrappedKey, base::key::Error> {
            Ok(wrapped.clone())
        }
    }

    fn wrapped(byte: u8) -> WrappedKey {
        WrappedKey { key_arn: "arn".to_owned(), ciphertext: byte.to_string() }
    }

    async fn ended(tasks: &Tasks, id: &str, work: Work) -> SnapshotState {
        tasks.apply(Task { id: id.to_owned(), work });
        let began = std::time::Instant::now();
        loop {
            match tasks.state(id).expect("it is known") {
                SnapshotState::Pending { .. } => {
                    assert!(began.elapsed() < Duration::from_secs(60), "{id}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                ended => return ended,
            }
        }
    }

    async fn content(tasks: &Tasks, id: &str, work: Work) -> Content {
        match ended(tasks, id, work).await {
            SnapshotState::Completed { content, .. } => content,
            other => panic!("{id}: {other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_exported_is_imported_again() {
        if std::process::Command::new("qemu-img").arg("--version").output().is_err() {
            eprintln!("skipped: needs qemu-img");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        let blobs = Blobs::open(&block::Config::Local { directory: here.join("blobs") }).unwrap();
        let keys: Arc<dyn Keys> = Arc::new(PlainKeys);
        let direct = Direct::open(blobs.clone(), Arc::clone(&keys), &here.join("uploads"));
        let (direct, runtime) = (Arc::new(direct.unwrap()), runtime::Handle::current());
        let tasks =
            Tasks::new(here, blobs.clone(), keys, direct, runtime, Box::new(|_| {})).unwrap();
        let upload = block::Upload::begin(&blobs, None, 1, None).unwrap();
        for index in [0, 7, 2047] {
            upload.put(index, &[index as u8 | 1; base::volume::BLOCK_BYTES]).unwrap();
        }
        let finished = upload.finish().unwrap();
        let from = finished.content(None);
        let copy = Work::Copy { from: from.clone(), key: Some(wrapped(3)) };
        let secret = content(&tasks, "snap-copy", copy).await;
        assert!(secret.root != from.root && secret.key == Some(wrapped(3)));
        fs::create_dir(here.join("buckets/b")).unwrap();
        for format in ["raw", "qcow2", "vmdk", "vhd"] {
            let file = format!("b/disk.{format}");
            let export =
                Work::Export { from: secret.clone(), file: file.clone(), format: format.into() };
            assert_eq!(content(&tasks, &format!("export-{format}"), export).await, secret);
            let import =
                |key| Work::Import { file: file.clone(), format: Some(format.into()), key };
            let plain = content(&tasks, &format!("snap-{format}"), import(None)).await;
            assert_eq!(plain.root, from.root, "{format}");
            let again =
                content(&tasks, &format!("snap-{format}-3"), import(Some(wrapped(3)))).await;
            assert_eq!(again.root, secret.root, "{format}");
        }
        let part = fs::read_dir(here.join("buckets/b")).unwrap().count();
        assert_eq!((part, fs::read_dir(here.join("scratch")).unwrap().count()), (4, 0));
        fs::write(here.join("outside"), "x").unwrap();
        for (file, format) in [
            ("b/../../outside", None),
            ("/etc/passwd", None),
            ("b", None),
            ("none/x", None),
            ("b/none", None),
            ("b/disk.vmdk", Some("raw")),
        ] {
            let import =
                Work::Import { file: file.into(), format: format.map(str::to_owned), key: None };
            let state = ended(&tasks, &format!("bad-{file}"), import).await;
            assert!(matches!(state, SnapshotState::Failed { .. }), "{file}: {state:?}");
        }
        tasks.forget("snap-copy");
        assert_eq!(tasks.state("snap-copy"), None);
        drop(finished);
    }
}
