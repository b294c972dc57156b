//! Moves images and their tasks on: with their snapshots, the node's tasks, and the clock.
//!
//! ```text
//!  image   pending ──► available (all snapshots are completed) | failed (one is not to be had)
//!          recycled ──► no record, when its time in the bin is over
//!  import  active ──► completed (its image is made) | deleted (its snapshots are dropped)
//!  export  active ──► completed | deleted;   deleting ──► deleted
//!  an ended task ── a week ──► no record
//! ```
//!
//! [`image_step`], [`import_step`] and [`export_step`] are the plans: pure. A snapshot's record wakes
//! what stands on it: the images that it names, and the imports that it is a disk of.

use super::export::{EXPORT, exported_key};
use super::record::{ExportTask, ImportTask, TaskState};
use super::task::{IMPORT, drop_snapshots, token_claim};
use super::{blank, stage};
use crate::record::{
    Image, ImageState, MappedDisk, MappedVolume, Mapping, Snapshot, SnapshotState, StateReason, key,
};
use base::Timestamp;
use base::volume::{SnapshotState as Made, Task, Work};
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::sync::Arc;

/// The reconciler of images.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "image", for_network: false, work_key, run };

/// How long tasks that ended are described (EC2 API Reference, "DescribeImportImageTasks").
const VISIBLE_MILLIS: i64 = 7 * 24 * 3_600_000;

fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    [key::IMAGE, key::SNAPSHOT, IMPORT, EXPORT].contains(&kind).then(|| record_key.to_owned())
}

/// One run.
fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((_, kind, account, id)) = key::parts(work_key) else { return Ok(()) };
    match kind {
        key::IMAGE => run_image(call, work_key),
        key::SNAPSHOT => run_snapshot(call, account, work_key),
        IMPORT => run_import(call, work_key),
        EXPORT => run_export(call, id, work_key),
        _ => Ok(()),
    }
}

/// What stands on a snapshot that is not pending any more.
fn run_snapshot(call: &mut Call<'_>, account: &str, at: &str) -> Result<(), Error> {
    let Some(snapshot) = call.peek::<Snapshot>(at)? else { return Ok(()) };
    if snapshot.state == SnapshotState::Pending {
        return Ok(());
    }
    for id in &snapshot.images {
        let image = key::of(call.region, key::IMAGE, account, id);
        run_image(call, &image)?;
    }
    let prefix = key::of(call.region, IMPORT, account, "");
    for task in call.scan::<ImportTask>(&prefix)? {
        let has_it = task.disks.iter().any(|disk| disk.snapshot_id == snapshot.id);
        if has_it && task.state == TaskState::Active {
            run_import(call, &format!("{prefix}{}", task.id))?;
        }
    }
    Ok(())
}

/// What is known of a snapshot that something stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Not completed yet.
    Pending,
    /// It can be used.
    Completed,
    /// It cannot be had, and why.
    Lost(String),
}

fn disk(
    call: &mut Call<'_>,
    owner: &str,
    id: &str,
) -> Result<(Disk, Option<Arc<Snapshot>>), Error> {
    let found = call.get::<Snapshot>(&key::of(call.region, key::SNAPSHOT, owner, id))?;
    let disk = match &found {
        None => Disk::Lost(format!("The snapshot {id} was deleted.")),
        Some(snapshot) => match snapshot.state {
            SnapshotState::Pending => Disk::Pending,
            SnapshotState::Completed => Disk::Completed,
            SnapshotState::Error => Disk::Lost(snapshot.message.clone().unwrap_or_default()),
            SnapshotState::Recoverable | SnapshotState::Recovering => {
                Disk::Lost(format!("The snapshot {id} is in the recycle bin."))
            }
        },
    };
    Ok((disk, found))
}

/// What all of several disks are together.
fn all(disks: &[Disk]) -> Disk {
    let lost = disks.iter().find(|disk| matches!(disk, Disk::Lost(_)));
    match lost {
        Some(lost) => lost.clone(),
        None if disks.contains(&Disk::Pending) => Disk::Pending,
        None => Disk::Completed,
    }
}

/// The plan for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageStep {
    /// It can be launched.
    Available,
    /// It never can.
    Fail(String),
    /// Its time in the recycle bin is over.
    Expire,
    /// Nothing before this time.
    Wait(Timestamp),
    /// Nothing at all.
    Rest,
}

/// What to do about an image whose snapshots are `disks`.
pub(crate) fn image_step(image: &Image, disks: &[Disk], now: Timestamp) -> ImageStep {
    if let Some(stay) = &image.recycled {
        return if now >= stay.exits { ImageStep::Expire } else { ImageStep::Wait(stay.exits) };
    }
    if image.state != ImageState::Pending {
        return ImageStep::Rest;
    }
    match all(disks) {
        Disk::Pending => ImageStep::Rest,
        Disk::Completed => ImageStep::Available,
        Disk::Lost(why) => ImageStep::Fail(why),
    }
}

fn run_image(call: &mut Call<'_>, at: &str) -> Result<(), Error> {
    let Some(image) = call.get::<Image>(at)? else { return Ok(()) };
    let mut disks = Vec::new();
    if image.state == ImageState::Pending {
        for id in image.snapshots() {
            disks.push(disk(call, &image.owner_id, id)?.0);
        }
    }
    let mut next = Image::clone(&image);
    match image_step(&image, &disks, call.now) {
        ImageStep::Available => next.state = ImageState::Available,
        ImageStep::Fail(why) => {
            next.state = ImageState::Failed;
            let code = "Server.InternalError";
            next.state_reason =
                Some(StateReason { code: code.to_owned(), message: format!("{code}: {why}") });
        }
        ImageStep::Expire => {
            call.delete(at);
            return Ok(());
        }
        ImageStep::Wait(until) => {
            call.effect(Effect::Again(until));
            return Ok(());
        }
        ImageStep::Rest => return Ok(()),
    }
    call.put(at, next);
    Ok(())
}

/// The plan for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskStep {
    /// The node must do it.
    Drive,
    /// So far, percent.
    Progress(u8),
    /// It is done.
    Complete,
    /// It comes to nothing, for this reason.
    Fail(String),
    /// It was described long enough.
    Expire,
    /// Nothing before this time.
    Wait(Timestamp),
    /// Nothing at all.
    Rest,
}

fn ended(ended: Option<Timestamp>, now: Timestamp) -> TaskStep {
    match ended.map(|at| at.plus_millis(VISIBLE_MILLIS)) {
        Some(until) if now >= until => TaskStep::Expire,
        Some(until) => TaskStep::Wait(until),
        None => TaskStep::Rest,
    }
}

/// What to do about an import whose snapshots are `disks`.
pub(crate) fn import_step(task: &ImportTask, disks: &[Disk], now: Timestamp) -> TaskStep {
    if task.state != TaskState::Active {
        return ended(task.ended, now);
    }
    match all(disks) {
        Disk::Pending => TaskStep::Rest,
        Disk::Completed => TaskStep::Complete,
        Disk::Lost(why) => TaskStep::Fail(format!("ClientError: Disk validation failed [{why}]")),
    }
}

fn run_import(call: &mut Call<'_>, at: &str) -> Result<(), Error> {
    let Some(task) = call.get::<ImportTask>(at)? else { return Ok(()) };
    let mut disks = Vec::new();
    let mut snapshots = Vec::new();
    if task.state == TaskState::Active {
        for imported in &task.disks {
            let (state, snapshot) = disk(call, &task.owner_id, &imported.snapshot_id)?;
            disks.push(state);
            snapshots.extend(snapshot);
        }
    }
    let mut next = ImportTask::clone(&task);
    match import_step(&task, &disks, call.now) {
        TaskStep::Complete => {
            if let Some(image) = &mut next.image {
                let made = make_image(call, &task, &snapshots)?;
                image.image_id = Some(made.id.clone());
            }
            next.state = TaskState::Completed;
        }
        TaskStep::Fail(why) => {
            drop_snapshots(call, &task)?;
            next.state = TaskState::Deleted;
            next.message = Some(why);
        }
        TaskStep::Expire => {
            if let Some(wish) = &task.asked_with {
                let claim = token_claim(call.region, &task.owner_id, &wish.token);
                // It may be another task's by now.
                if call.get::<String>(&claim)?.is_some_and(|id| *id == task.id) {
                    call.delete(&claim);
                }
            }
            call.delete(at);
            return Ok(());
        }
        TaskStep::Wait(until) => {
            call.effect(Effect::Again(until));
            return Ok(());
        }
        TaskStep::Drive | TaskStep::Progress(_) | TaskStep::Rest => return Ok(()),
    }
    next.ended = Some(call.now);
    call.put(at, next);
    Ok(())
}

/// Stages the image that imported disks become. The firmware boots it.
fn make_image(
    call: &mut Call<'_>,
    task: &ImportTask,
    snapshots: &[Arc<Snapshot>],
) -> Result<Arc<Image>, Error> {
    let mut image = blank(call, task.id.clone());
    image.owner_id.clone_from(&task.owner_id);
    image.description = match task.description.as_str() {
        "" => "AWS-VMImport service: Linux".to_owned(),
        given => given.to_owned(),
    };
    if let Some(wanted) = &task.image {
        image.architecture.clone_from(&wanted.architecture);
        image.boot_mode.clone_from(&wanted.boot_mode);
    }
    for (number, (disk, snapshot)) in task.disks.iter().zip(snapshots).enumerate() {
        if number == 0 {
            image.root_device_name.clone_from(&disk.device_name);
            // A disk that came from a snapshot may be one that a kernel boots.
            image.key.clone_from(&snapshot.image_key);
        }
        image.mappings.push(Mapping {
            device_name: disk.device_name.clone(),
            disk: MappedDisk::Volume(MappedVolume {
                snapshot_id: Some(snapshot.id.clone()),
                size_gib: snapshot.size_gib,
                kind: "gp2".to_owned(),
                iops: None,
                throughput: None,
                encrypted: snapshot.key.is_some(),
                delete_on_termination: true,
            }),
        });
    }
    image.state = ImageState::Available;
    stage(call, image)
}

/// What to do about an export of which the node says `made`.
pub(crate) fn export_step(task: &ExportTask, made: Option<&Made>, now: Timestamp) -> TaskStep {
    match (task.state, made) {
        (TaskState::Active, None) => TaskStep::Drive,
        (TaskState::Active, Some(Made::Completed { .. })) => TaskStep::Complete,
        (TaskState::Active, Some(Made::Failed { message })) => {
            TaskStep::Fail(format!("ClientError: {message}"))
        }
        (TaskState::Active, Some(Made::Pending { done, total, .. })) => {
            let percent = (*done).min(*total) * 100 / (*total).max(1);
            let percent = u8::try_from(percent.min(99)).unwrap_or(99);
            if percent > task.progress { TaskStep::Progress(percent) } else { TaskStep::Rest }
        }
        (TaskState::Deleting, _) => TaskStep::Fail("Cancelled".to_owned()),
        (TaskState::Completed | TaskState::Deleted, _) => ended(task.ended, now),
    }
}

fn run_export(call: &mut Call<'_>, id: &str, at: &str) -> Result<(), Error> {
    let made = call.environment.driver.task_state(id);
    let Some(task) = call.get::<ExportTask>(at)? else {
        if made.is_some() {
            call.effect(Effect::ForgetTask(id.to_owned()));
        }
        return Ok(());
    };
    let mut next = ExportTask::clone(&task);
    match export_step(&task, made.as_ref(), call.now) {
        TaskStep::Drive => {
            let Some(from) = task.content.clone() else { return Ok(()) };
            let work = Work::Export {
                from,
                file: format!("{}/{}", task.bucket, exported_key(&task)),
                format: task.format.to_ascii_lowercase(),
            };
            call.effect(Effect::Task(Box::new(Task { id: task.id.clone(), work })));
            return Ok(());
        }
        TaskStep::Progress(percent) => {
            next.progress = percent;
            call.put(at, next);
            return Ok(());
        }
        TaskStep::Complete => next.state = TaskState::Completed,
        TaskStep::Fail(why) => {
            next.state = TaskState::Deleted;
            next.message = Some(why);
        }
        TaskStep::Expire => {
            call.delete(at);
            return Ok(());
        }
        TaskStep::Wait(until) => {
            call.effect(Effect::Again(until));
            return Ok(());
        }
        TaskStep::Rest => return Ok(()),
    }
    next.content = None;
    next.ended = Some(call.now);
    call.put(at, next);
    call.effect(Effect::ForgetTask(task.id.clone()));
    Ok(())
}
