//! `gureum fsck`: is everything on disk that the records name, and nothing else?
//!
//! ```text
//!  records ──► contents ──► blobs       damaged: missing, or not what their name says
//!     │                                 leaked: blobs that nothing names
//!     ├──────► volumes ──► directories  lost: made, and not there; leaked: no record names it
//!     │                       └► layers damaged: missing, or qemu-img finds faults (--deep)
//!     └──────► uploads                  leaked: of no snapshot
//!              scratch files            leaked: of no import or export
//! ```
//!
//! Works on a region that no daemon serves, so that nothing changes meanwhile; the store's lock
//! keeps a daemon from starting. It reads only, unless it is to repair; then it removes what is
//! leaked, and nothing that any record names.

use crate::Fsck;
use anyhow::{Context as _, Result, bail};
use base::key::Keys;
use base::volume::{Blocks as _, Content};
use block::{Blobs, Direct, Roots, root_of};
use ec2::content::{self, Named};
use node::volume::check::{self, Entry, Verdict, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who reads so many bytes wants to be told how far it is.
const WORTH_TELLING: u64 = 4 << 30;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Data are not there, or not as they were.
    Damaged,
    /// Nothing needs it.
    Leaked,
    /// Worth knowing.
    Note,
}

/// What can be done about a leak.
#[derive(Debug)]
enum Remedy {
    Nothing,
    Remove(PathBuf),
    DropUpload(String),
    Collect,
}

#[derive(Debug)]
struct Finding {
    kind: Kind,
    text: String,
    remedy: Remedy,
}

/// What is looked at, and what was found.
struct Check<'a> {
    options: &'a Fsck,
    data: PathBuf,
    records: store::Snapshot,
    keys: Arc<dyn Keys>,
    findings: Vec<Finding>,
    /// Lines of the table.
    summary: Vec<(&'static str, String)>,
}

/// Runs `gureum fsck`.
pub(crate) fn run(options: &Fsck) -> Result<()> {
    let data = options.data.path();
    // Opening would make one.
    if !data.join("region.redb").is_dir() {
        bail!("there is no region in {}", data.display());
    }
    // As the kernel names what processes have open.
    let data = data.canonicalize()?;
    let path = data.join("region.redb");
    let store = store::redb(&path).map_err(|error| match error {
        store::Error::Locked { .. } => anyhow::anyhow!(
            "a daemon serves the region in {}: stop it first (its machines may go on)",
            data.display()
        ),
        error => error.into(),
    })?;
    let keys = Arc::new(kms::KeyStore::open(data.join("kms"))?);
    let mut check = Check {
        options,
        records: store.snapshot(),
        keys,
        data,
        findings: Vec::new(),
        summary: Vec::new(),
    };
    let on_disk = check.volumes()?;
    check.scratch()?;
    let direct = check.uploads()?;
    let roots = check.contents(&on_disk, direct.as_ref())?;
    check.findings.sort_by_key(|finding| finding.kind);
    check.print();
    if options.repair {
        check.repair(direct.as_ref(), roots)?;
    }
    // Held until here: it keeps a daemon from starting.
    drop(store);
    check.verdict()
}

impl Check<'_> {
    fn found(&mut self, kind: Kind, text: impl Into<String>, remedy: Remedy) {
        self.findings.push(Finding { kind, text: text.into(), remedy });
    }

    /// Compares the directories of volumes with their records.
    fn volumes(&mut self) -> Result<Vec<Volume>> {
        let recorded: BTreeMap<String, bool> = content::volumes(&self.records)?
            .into_iter()
            .map(|disk| (disk.id, disk.must_be))
            .collect();
        let Some(entries) = check::entries(&self.data).context("volumes cannot be listed")? else {
            let text = format!("{} recorded, none on this disk (simulated)", recorded.len());
            self.summary.push(("volumes", text));
            return Ok(Vec::new());
        };
        let mut on_disk = Vec::new();
        for entry in entries {
            match entry {
                Entry::Volume(volume) if recorded.contains_key(&volume.id) => on_disk.push(volume),
                Entry::Volume(Volume { path, .. }) => {
                    let text = format!("volume {}: no record names it", path.display());
                    self.found(Kind::Leaked, text, Remedy::Remove(path));
                }
                Entry::Leftover(path) => {
                    let text = format!("{}: half made or half removed", path.display());
                    self.found(Kind::Leaked, text, Remedy::Remove(path));
                }
            }
        }
        let there: BTreeSet<&str> = on_disk.iter().map(|volume| volume.id.as_str()).collect();
        let lost = recorded.iter().filter(|(id, made)| **made && !there.contains(id.as_str()));
        for (id, _) in lost {
            let text = format!("volume {id}: it was made and has no directory");
            let remedy = Remedy::Nothing;
            self.findings.push(Finding { kind: Kind::Damaged, text, remedy });
        }
        for volume in &on_disk {
            self.volume(volume);
        }
        let layers: usize = on_disk.iter().map(|volume| volume.layers.len()).sum();
        let text =
            format!("{} recorded, {} on disk, {layers} layers", recorded.len(), on_disk.len());
        self.summary.push(("volumes", text));
        Ok(on_disk)
    }

    fn volume(&mut self, volume: &Volume) {
        let id = &volume.id;
        for problem in &volume.problems {
            self.found(Kind::Damaged, format!("volume {id}: {problem}"), Remedy::Nothing);
        }
        for stray in &volume.stray {
            let text = format!("layer {}: its volume does not name it", stray.display());
            self.found(Kind::Leaked, text, Remedy::Remove(stray.clone()));
        }
        if !self.options.deep {
            return;
        }
        let key = volume.key.as_ref().map(|key| self.keys.unwrap(key)).transpose();
        let checked = match key {
            Ok(key) => volume
                .check_layers(key.as_ref(), self.options.repair)
                .map_err(|error| format!("qemu-img cannot be run: {error}")),
            Err(error) => Err(error.to_string()),
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(why) => {
                return self.found(Kind::Damaged, format!("volume {id}: {why}"), Remedy::Nothing);
            }
        };
        for (layer, verdict) in checked {
            let layer = layer.display();
            let (kind, text) = match verdict {
                Verdict::Whole => continue,
                Verdict::InUse => (Kind::Note, format!("layer {layer}: in use, not checked")),
                // They hold nothing and are used again when the layer is merged.
                Verdict::Lost(clusters) => {
                    (Kind::Note, format!("layer {layer}: {clusters} clusters are lost"))
                }
                Verdict::Damaged(why) => (Kind::Damaged, format!("layer {layer}: {why}")),
            };
            self.found(kind, text, Remedy::Nothing);
        }
    }

    /// Files of imports and exports that were being made; the next start of the daemon removes them.
    fn scratch(&mut self) -> Result<()> {
        let entries = match std::fs::read_dir(self.data.join("scratch")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let text = format!("{}: of an import or export that ended", path.display());
            self.found(Kind::Leaked, text, Remedy::Remove(path));
        }
        Ok(())
    }

    /// Compares unfinished uploads with the snapshots that they are of.
    fn uploads(&mut self) -> Result<Option<Direct>> {
        let directory = self.data.join("uploads");
        if !directory.is_dir() {
            return Ok(None);
        }
        let recorded: BTreeSet<String> = content::uploads(&self.records)?.into_iter().collect();
        let mut count = 0;
        for entry in std::fs::read_dir(&directory)? {
            let id = entry?.file_name().to_string_lossy().into_owned();
            if id.starts_with('.') {
                continue;
            }
            count += 1;
            if !recorded.contains(&id) {
                let text = format!("upload {id}: its snapshot is no more");
                self.found(Kind::Leaked, text, Remedy::DropUpload(id));
            }
        }
        self.summary.push(("uploads", format!("{count} unfinished")));
        let blobs = self.blobs(false)?;
        Ok(Some(Direct::open(blobs, Arc::clone(&self.keys), &directory)?))
    }

    fn blobs(&self, to_write: bool) -> Result<Blobs> {
        let config = crate::blob_store::config(&self.data)?;
        let blobs = if to_write { Blobs::open(&config) } else { Blobs::open_read_only(&config) };
        blobs.context("the blob store cannot be opened")
    }

    fn never_had_blobs(&self) -> Result<bool> {
        Ok(match crate::blob_store::config(&self.data)? {
            block::Config::Local { directory } => !directory.exists(),
            block::Config::S3(_) => false,
        })
    }

    /// Looks for everything that content needs, and for what nothing needs.
    fn contents(&mut self, on_disk: &[Volume], direct: Option<&Direct>) -> Result<Roots> {
        let mut named = content::named(&self.records)?;
        for volume in on_disk {
            let record = volume.path.display().to_string();
            let of = |content: &Content| Named { record: record.clone(), content: content.clone() };
            named.extend(volume.contents.iter().map(of));
        }
        let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Named { record, content } in named {
            owners.entry(root_of(&content)?.to_string()).or_default().insert(record);
        }
        let records: BTreeSet<&String> = owners.values().flatten().collect();
        let roots = Roots {
            contents: owners.keys().map(|root| root.parse()).collect::<Result<_, _>>()?,
            blobs: direct.map(Direct::referenced).transpose()?.unwrap_or_default(),
        };
        let text = format!("{}, named by {} records", owners.len(), records.len());
        self.summary.push(("contents", text));
        let blobs = match self.blobs(false) {
            Ok(blobs) => blobs,
            // A region whose store of blobs was never made.
            Err(_) if owners.is_empty() && self.never_had_blobs()? => return Ok(roots),
            Err(error) => return Err(error),
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let told = AtomicU64::new(0);
        let progress = |done: u64, total: u64| {
            let tenths = done * 10 / total.max(1);
            if total > WORTH_TELLING && told.fetch_max(tenths, Ordering::Relaxed) < tenths {
                eprintln!("{} % of {} read", tenths * 10, size(total));
            }
            ControlFlow::Continue(())
        };
        let report = block::check::check(&blobs, &roots, self.options.deep, threads, &progress)?;
        let text = format!(
            "{} ({}), {} blocks needed{}",
            report.stored,
            size(report.stored_bytes),
            report.blocks,
            if self.options.deep { ", all read" } else { "" }
        );
        self.summary.push(("blobs", text));
        for problem in &report.problems {
            let content = problem.content.map(|id| id.to_string());
            let owners = content.and_then(|id| owners.get(&id));
            let by: Vec<&str> = owners.into_iter().flatten().map(String::as_str).collect();
            let text = match by.as_slice() {
                [] => problem.to_string(),
                by => format!("{problem} of {}", by.join(", ")),
            };
            self.found(Kind::Damaged, text, Remedy::Nothing);
        }
        if !report.unreferenced.is_empty() {
            let (count, bytes) = (report.unreferenced.len(), size(report.unreferenced_bytes));
            let text = format!("blobs: {count} ({bytes}) that nothing names");
            self.found(Kind::Leaked, text, Remedy::Collect);
        }
        Ok(roots)
    }

    fn print(&self) {
        for (name, text) in &self.summary {
            println!("{name:<9} {text}");
        }
        for Finding { kind, text, .. } in &self.findings {
            let kind = match kind {
                Kind::Damaged => "damaged",
                Kind::Leaked => "leaked",
                Kind::Note => "note",
            };
            println!("{kind:<9} {text}");
        }
    }

    /// Removes what is leaked. What cannot be removed stays a finding.
    fn repair(&mut self, direct: Option<&Direct>, mut roots: Roots) -> Result<()> {
        let uploads = self.findings.iter().any(|f| matches!(f.remedy, Remedy::DropUpload(_)));
        let findings = std::mem::take(&mut self.findings);
        let (collect, others): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|finding| matches!(finding.remedy, Remedy::Collect));
        for finding in others {
            let done = match &finding.remedy {
                Remedy::Nothing | Remedy::Collect => {
                    self.findings.push(finding);
                    continue;
                }
                Remedy::Remove(path) => remove(path),
                Remedy::DropUpload(id) => direct
                    .context("there are no uploads")
                    .and_then(|direct| Ok(direct.drop_upload(id)?)),
            };
            match done {
                Ok(()) => println!("removed   {}", finding.text),
                Err(error) => {
                    println!("kept      {}: {error:#}", finding.text);
                    self.findings.push(finding);
                }
            }
        }
        // What dropped uploads had put is leaked only now.
        if uploads {
            roots.blobs = direct.map(Direct::referenced).transpose()?.unwrap_or_default();
        }
        if !collect.is_empty() || uploads {
            match block::collect::collect(&self.blobs(true)?, || Ok(roots)) {
                Ok(report) => {
                    println!("removed   blobs: {} ({})", report.freed, size(report.freed_bytes));
                }
                Err(error) => {
                    println!("kept      blobs: {error}");
                    self.findings.extend(collect);
                }
            }
        }
        Ok(())
    }

    fn verdict(&self) -> Result<()> {
        let count = |kind| self.findings.iter().filter(|finding| finding.kind == kind).count();
        let (damaged, leaked) = (count(Kind::Damaged), count(Kind::Leaked));
        if damaged + leaked > 0 {
            let hint = if leaked > 0 { "; --repair removes what is leaked" } else { "" };
            bail!("{damaged} damaged, {leaked} leaked{hint}");
        }
        println!("whole");
        Ok(())
    }
}

/// Removes a file or directory that no process has open.
fn remove(path: &Path) -> Result<()> {
    if let [first, ..] = *check::users_of(path) {
        bail!("process {first} has it open");
    }
    if path.is_dir() {
        std::fs::remove_dir_all(path)?
    } else {
        std::fs::remove_file(path)?
    }
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataDirectory;
    use base::key::WrappedKey;
    use base::volume::BLOCK_BYTES;
    use block::{Config, Id, Upload};
    use serde_json::json;
    use store::{Op, Txn};

    /// A region that no daemon serves.
    struct Region(tempfile::TempDir);

    impl Region {
        fn new() -> Self {
            let region = Region(tempfile::tempdir().unwrap());
            region.record("/node-image/none", &json!({ "v": 1 }));
            region
        }

        fn data(&self) -> &Path {
            self.0.path()
        }

        fn record(&self, key: &str, value: &serde_json::Value) {
            let store = store::redb(&self.data().join("region.redb")).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let txn = Txn::write(vec![Op::put(key, value).unwrap()]);
            runtime.block_on(store.txn(txn)).unwrap();
        }

        fn blobs(&self) -> Blobs {
            Blobs::open(&Config::Local { directory: self.data().join("blobs") }).unwrap()
        }

        /// Content with one block full of each of these bytes, that no record names.
        fn content(&self, bytes: &[u8]) -> Content {
            let upload = Upload::begin(&self.blobs(), None, 1, None).unwrap();
            for (index, byte) in bytes.iter().enumerate() {
                upload.put(index as u64, &vec![*byte; BLOCK_BYTES]).unwrap();
            }
            upload.finish().unwrap().content(None)
        }

        /// The file of the block full of a byte.
        fn block(&self, byte: u8) -> PathBuf {
            let name = Id::of(&vec![byte; BLOCK_BYTES]).to_string();
            let fan = self.data().join("blobs").join(&name[..2]);
            let mut files = std::fs::read_dir(fan).unwrap().map(|entry| entry.unwrap().path());
            let of_block =
                |path: &PathBuf| name.ends_with(path.file_name().unwrap().to_str().unwrap());
            files.find(of_block).unwrap()
        }

        fn check(&self, deep: bool, repair: bool) -> Result<(), String> {
            let data = DataDirectory { data_dir: Some(self.data().to_owned()) };
            run(&Fsck { data, deep, repair }).map_err(|error| format!("{error:#}"))
        }
    }

    fn found(damaged: u32, leaked: u32) -> Result<(), String> {
        let hint = if leaked > 0 { "; --repair removes what is leaked" } else { "" };
        Err(format!("{damaged} damaged, {leaked} leaked{hint}"))
    }

    #[test]
    fn what_is_named_stays_and_what_is_leaked_goes() {
        let region = Region::new();
        assert_eq!(region.check(true, false), Ok(()), "an empty region");
        let kept = region.content(&[1, 2]);
        region.record("/us-east-1/snapshot/123456789012/snap-1", &json!({ "v": 1, "of": kept }));
        assert_eq!(region.check(true, false), Ok(()));
        region.content(&[2, 3]);
        let leaks = found(0, 1);
        assert_eq!(region.check(false, false), leaks);
        assert!(region.block(3).exists());
        assert_eq!(region.check(false, true), Ok(()));
        assert!(region.block(1).exists() && region.block(2).exists());
        assert_eq!(region.check(true, false), Ok(()));
    }

    #[test]
    fn damage_is_found_and_never_repaired_away() {
        let region = Region::new();
        let content = region.content(&[1, 2]);
        region.record("/us-east-1/snapshot/123456789012/snap-1", &json!({ "v": 1, "of": content }));
        let path = region.block(2);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[77] ^= 4;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(region.check(false, false), Ok(()), "it is there, and as long as it was");
        let damage = found(1, 0);
        assert_eq!(region.check(true, false), damage);
        assert_eq!(region.check(true, true), damage);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(region.check(false, false), damage);
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(region.check(true, false), Ok(()));
        // A root that is gone: nothing may be taken for garbage.
        region.content(&[9]);
        let gone = json!({ "v": 1, "of": { "root": "ab".repeat(32), "size_gib": 1 } });
        region.record("/us-east-1/snapshot/123456789012/snap-2", &gone);
        let both = found(1, 1);
        assert_eq!(region.check(false, false), both);
        assert_eq!(region.check(false, true), both);
        assert!(region.block(9).exists());
    }

    #[test]
    fn volumes_and_uploads_are_compared_with_their_records() {
        let region = Region::new();
        let volumes = region.data().join("volumes");
        std::fs::create_dir(&volumes).unwrap();
        assert_eq!(region.check(false, false), Ok(()));
        let volume = json!({
            "v": 1, "id": "vol-0123456789abcdef0", "size_gib": 8, "kind": "gp3", "iops": null,
            "throughput": null, "snapshot_id": null, "availability_zone": "us-east-1a",
            "created": 0, "tags": {},
        });
        region.record("/us-east-1/volume/123456789012/vol-0123456789abcdef0", &volume);
        let lost = found(1, 0);
        assert_eq!(region.check(false, true), lost);
        let own = volumes.join("vol-0123456789abcdef0");
        std::fs::create_dir(&own).unwrap();
        assert_eq!(region.check(false, true), lost, "it has no record.json");
        assert!(own.exists());

        std::fs::create_dir(volumes.join("vol-0123456789abcdef1")).unwrap();
        std::fs::create_dir(volumes.join("vol-0123456789abcdef2.new")).unwrap();
        let keys: Arc<dyn Keys> = Arc::new(kms::KeyStore::open(region.data().join("kms")).unwrap());
        let uploads = region.data().join("uploads");
        let direct = Direct::open(region.blobs(), keys, &uploads).unwrap();
        direct
            .put("snap-0123456789abcdef0", None::<&WrappedKey>, 0, &vec![5; BLOCK_BYTES])
            .unwrap();
        drop(direct);
        let scratch = region.data().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        std::fs::write(scratch.join("import-1.raw"), "half").unwrap();
        assert_eq!(region.check(false, false), found(1, 4));
        assert!(region.block(5).exists());
        assert_eq!(region.check(false, true), lost);
        let left: Vec<_> = std::fs::read_dir(&volumes).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 0);
        assert_eq!(region.blobs().store().usage().unwrap().blobs, 0);
    }

    #[test]
    fn a_region_that_is_served_is_left_alone() {
        let region = Region::new();
        let _store = store::redb(&region.data().join("region.redb")).unwrap();
        let error = region.check(false, true).unwrap_err();
        assert!(error.contains("stop it first"), "{error}");
        let nothing = tempfile::tempdir().unwrap();
        let data = DataDirectory { data_dir: Some(nothing.path().to_owned()) };
        assert!(run(&Fsck { data, deep: false, repair: false }).is_err());
        assert_eq!(std::fs::read_dir(nothing.path()).unwrap().count(), 0, "it makes nothing");
    }
}
