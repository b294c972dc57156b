//! Import of disk files: ImportSnapshot, ImportImage and their tasks.
//!
//! An import makes pending snapshots, each of which is a task of the node; when all are completed an
//! image is made of them ([`super::reconciler`]). Until S3 is served, a bucket is the directory
//! `<data>/buckets/<bucket>/` of the node. Keys are checked here for what would lead out of it;
//! symbolic links are the node's to refuse. There are no IAM roles yet: a role's name is taken as
//! given.
//!
//! Not here: importing from HTTPS URLs, OVA archives, running instances; storing AMIs in S3.

use super::attribute::check_description;
use super::record::{AskedWith, ImportTask, ImportedDisk, ImportedImage, TaskState};
use super::register;
use crate::record::snapshot::Origin;
use crate::record::{Snapshot, SnapshotState, Tags, key};
use crate::snapshot::{self, Copy};
use crate::{encryption, tag};
use aws_lc_rs::digest;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// [`ImportTask`] records.
pub(super) const IMPORT: &str = "import-task";

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::ImportSnapshot,
        import_snapshot,
        Write,
        [
            "ClientToken",
            "Description",
            "DiskContainer.Description",
            "DiskContainer.Format",
            "DiskContainer.Url",
            "DiskContainer.UserBucket.*",
            "Encrypted",
            "KmsKeyId",
            "RoleName",
            "TagSpecifications.*",
            "TagSpecifications.Tags.*",
        ]
    ),
    operation!(
        op::ImportImage,
        import_image,
        Write,
        [
            "Architecture",
            "BootMode",
            "ClientToken",
            "Description",
            "DiskContainers.Description",
            "DiskContainers.DeviceName",
            "DiskContainers.Format",
            "DiskContainers.SnapshotId",
            "DiskContainers.Url",
            "DiskContainers.UserBucket.*",
            "Encrypted",
            "Hypervisor",
            "KmsKeyId",
            "LicenseType",
            "Platform",
            "RoleName",
            "TagSpecifications.*",
            "TagSpecifications.Tags.*",
        ]
    ),
    operation!(
        op::DescribeImportSnapshotTasks,
        describe_import_snapshot_tasks,
        Read,
        ["Filters.*", "ImportTaskIds", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribeImportImageTasks,
        describe_import_image_tasks,
        Read,
        ["Filters.*", "ImportTaskIds", "MaxResults", "NextToken"]
    ),
    operation!(op::CancelImportTask, cancel_import_task, Write, ["CancelReason", "ImportTaskId"]),
];

/// Formats that are read. AWS has no QCOW2.
const FORMATS: [&str; 5] = ["RAW", "VHD", "VHDX", "VMDK", "QCOW2"];

pub(super) fn task_key(call: &Call<'_>, kind: &str, id: &str) -> String {
    key::of(call.region, kind, call.account(), id)
}

/// Whether the bucket and the key name a file below the node's directory of buckets.
///
/// # Errors
/// `InvalidParameterValue`.
pub(super) fn check_object(bucket: &str, object: &str) -> Result<(), Error> {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    // S3 User Guide, "Bucket naming rules".
    let bucket_is_good = (3..=63).contains(&bucket.len())
        && bucket
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
        && alphanumeric(bucket.bytes().next())
        && alphanumeric(bucket.bytes().last())
        && !bucket.contains("..");
    if !bucket_is_good {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({bucket}) for parameter S3Bucket is invalid. It is no bucket's name."
        )));
    }
    let object_is_good = (1..=1_024).contains(&object.len())
        && object.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
        && !object.contains(|c: char| c.is_control() || c == '\\');
    if !object_is_good {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({object}) for parameter S3Key is invalid. It must be the path of a file in its \
             bucket."
        )));
    }
    Ok(())
}

/// Bucket and key of a disk container.
fn object(url: Option<&str>, bucket: Option<api::UserBucket>) -> Result<(String, String), Error> {
    let (bucket, object) = match (url, bucket) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid_parameter_combination(
                "Only one of Url and UserBucket can be specified.",
            ));
        }
        (Some(url), None) => match url.strip_prefix("s3://").and_then(|url| url.split_once('/')) {
            Some((bucket, object)) => (bucket.to_owned(), object.to_owned()),
            None => {
                return Err(Error::unsupported(
                    "Url of another form than s3://bucket/key is not built in gureum yet.",
                ));
            }
        },
        (None, Some(bucket)) => {
            (bucket.s3_bucket.unwrap_or_default(), bucket.s3_key.unwrap_or_default())
        }
        (None, None) => return Err(Error::missing_parameter("UserBucket")),
    };
    check_object(&bucket, &object)?;
    Ok((bucket, object))
}

fn check_format(format: Option<String>) -> Result<Option<String>, Error> {
    let Some(format) = format.filter(|format| !format.is_empty()) else { return Ok(None) };
    let upper = format.to_ascii_uppercase();
    if upper == "OVA" {
        return Err(Error::unsupported("The disk format OVA is not built in gureum yet."));
    }
    if FORMATS.contains(&upper.as_str()) {
        return Ok(Some(upper));
    }
    Err(Error::invalid_parameter_value(format!(
        "Value ({format}) for parameter Format is invalid. Expected RAW, VHD, VHDX or VMDK."
    )))
}

/// What an import was asked for, if it has a client token. URLs are said apart: as a part of the
/// input they are secret.
fn asked<T: std::fmt::Debug>(
    input: &T,
    urls: &[Option<&String>],
    token: Option<&String>,
) -> Option<AskedWith> {
    let token = token.filter(|token| !token.is_empty())?.clone();
    let hash = digest::digest(&digest::SHA256, format!("{input:?}{urls:?}").as_bytes());
    let asked = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(AskedWith { token, asked })
}

/// Claims a client token: → task id. The model does not call these tokens idempotency tokens, so
/// the dispatcher does nothing about them.
pub(super) fn token_claim(region: &str, account: &str, token: &str) -> String {
    key::of(region, "import-token", account, token)
}

/// The task that an earlier request with the same token began.
///
/// # Errors
/// `IdempotentParameterMismatch`.
fn begun(call: &mut Call<'_>, wish: Option<&AskedWith>) -> Result<Option<View>, Error> {
    let Some(wish) = wish else { return Ok(None) };
    let claim = token_claim(call.region, call.account(), &wish.token);
    let Some(id) = call.get::<String>(&claim)? else { return Ok(None) };
    let at = task_key(call, IMPORT, &id);
    let Some(task) = call.get::<ImportTask>(&at)? else { return Ok(None) };
    if task.asked_with.as_ref() != Some(wish) {
        return Err(Error::client(
            "IdempotentParameterMismatch",
            "The client token that you provided matches an existing request, but the parameters \
             differ.",
        ));
    }
    View::new(call, task).map(Some)
}

/// Stages a new task.
fn begin(call: &mut Call<'_>, task: ImportTask) -> Result<View, Error> {
    if let Some(wish) = &task.asked_with {
        let claim = token_claim(call.region, call.account(), &wish.token);
        call.put(&claim, task.id.clone());
    }
    let at = task_key(call, IMPORT, &task.id);
    let task = call.put(&at, task);
    View::new(call, task)
}

/// What an import does to each of its disks.
struct Wish {
    encrypted: Option<bool>,
    kms_key_id: Option<String>,
    about: String,
}

/// Stages the snapshot that a file becomes.
fn import_file(
    call: &mut Call<'_>,
    (bucket, object): &(String, String),
    format: Option<&String>,
    wish: &Wish,
) -> Result<Arc<Snapshot>, Error> {
    let key = encryption::snapshot_key(call, wish.encrypted, wish.kms_key_id.as_deref(), None)?;
    let origin = Origin::Import {
        file: format!("{bucket}/{object}"),
        format: format.map(|format| format.to_ascii_lowercase()),
    };
    let mut snapshot = snapshot::pending(call, origin, 0);
    snapshot.key = key;
    snapshot.description.clone_from(&wish.about);
    let at = key::of(call.region, key::SNAPSHOT, call.account(), &snapshot.id);
    Ok(call.put(&at, snapshot))
}

pub(super) fn import_snapshot(
    call: &mut Call<'_>,
    input: api::ImportSnapshotRequest,
) -> Result<api::ImportSnapshotResult, Error> {
    let url = input.disk_container.as_ref().and_then(|disk| disk.url.as_ref());
    let asked_with = asked(&input, &[url], input.client_token.as_ref());
    if let Some(known) = begun(call, asked_with.as_ref())? {
        return Ok(import_snapshot_result(&known));
    }
    let tags = tags(call, input.tag_specifications.as_deref(), "import-snapshot-task")?;
    let description = input.description.unwrap_or_default();
    check_description(&description)?;
    let disk = input.disk_container.ok_or_else(|| Error::missing_parameter("DiskContainer"))?;
    let format = check_format(disk.format)?;
    let object = object(disk.url.as_deref(), disk.user_bucket)?;
    let about = disk.description.clone().unwrap_or_else(|| description.clone());
    let wish = Wish { encrypted: input.encrypted, kms_key_id: input.kms_key_id, about };
    let snapshot = import_file(call, &object, format.as_ref(), &wish)?;
    let task = ImportTask {
        v: 1,
        id: call.new_id("import-snap"),
        owner_id: call.account().to_owned(),
        description,
        disks: vec![ImportedDisk {
            snapshot_id: snapshot.id.clone(),
            device_name: String::new(),
            description: disk.description,
            format,
            object: Some(object),
            url: disk.url,
            key_arn: snapshot.key.as_ref().map(|key| key.key_arn.clone()),
        }],
        image: None,
        state: TaskState::Active,
        message: None,
        ended: None,
        asked_with,
        tags,
    };
    let task = begin(call, task)?;
    Ok(import_snapshot_result(&task))
}

fn import_snapshot_result(task: &View) -> api::ImportSnapshotResult {
    let shown = snapshot_task(task);
    api::ImportSnapshotResult {
        description: shown.description,
        import_task_id: shown.import_task_id,
        snapshot_task_detail: shown.snapshot_task_detail,
        tags: shown.tags,
    }
}

pub(super) fn tags(
    call: &Call<'_>,
    specifications: Option<&[api::TagSpecification]>,
    kind: &str,
) -> Result<Tags, Error> {
    tag::for_caller(call, specifications, kind, &[kind])
}

pub(super) fn import_image(
    call: &mut Call<'_>,
    input: api::ImportImageRequest,
) -> Result<api::ImportImageResult, Error> {
    let urls: Vec<_> =
        input.disk_containers.iter().flatten().map(|disk| disk.url.as_ref()).collect();
    let asked_with = asked(&input, &urls, input.client_token.as_ref());
    if let Some(known) = begun(call, asked_with.as_ref())? {
        return Ok(import_image_result(&known));
    }
    let tags = tags(call, input.tag_specifications.as_deref(), "import-image-task")?;
    let description = input.description.unwrap_or_default();
    check_description(&description)?;
    let one_of = |name: &str, value: &Option<String>, allowed: &[&str]| match value.as_deref() {
        None => Ok(()),
        Some(value) if allowed.contains(&value) => Ok(()),
        Some(value) => Err(Error::invalid_parameter_value(format!(
            "Value ({value}) for parameter {name} is invalid. Expected {}.",
            allowed.join(" or ")
        ))),
    };
    one_of("Architecture", &input.architecture, &["i386", "x86_64", "arm64"])?;
    one_of("Hypervisor", &input.hypervisor, &["xen"])?;
    one_of("LicenseType", &input.license_type, &["AWS", "BYOL"])?;
    one_of("Platform", &input.platform, &["Linux", "Windows"])?;
    if input.platform.as_deref() == Some("Windows") {
        return Err(Error::unsupported("Platform Windows is not built in gureum."));
    }
    if input.boot_mode.as_deref() == Some("uefi-preferred") {
        return Err(Error::invalid_parameter_value(
            "The uefi-preferred boot mode isn't supported for importing images.",
        ));
    }
    register::check_boot_mode(input.boot_mode.as_deref())?;
    let containers = input.disk_containers.unwrap_or_default();
    if containers.is_empty() {
        return Err(Error::missing_parameter("DiskContainers"));
    }
    let id = call.new_id("import-ami");
    let wish = Wish {
        encrypted: input.encrypted,
        kms_key_id: input.kms_key_id,
        about: format!("Created by AWS-VMImport service for {id}"),
    };
    let mut disks: Vec<ImportedDisk> = Vec::new();
    for container in containers {
        let device_name = device_name(container.device_name.as_deref(), &disks)?;
        disks.push(import_disk(call, container, device_name, &wish)?);
    }
    let task = ImportTask {
        v: 1,
        id,
        owner_id: call.account().to_owned(),
        description,
        disks,
        image: Some(ImportedImage {
            image_id: None,
            architecture: input.architecture.unwrap_or_else(|| "x86_64".to_owned()),
            boot_mode: input.boot_mode,
            license_type: input.license_type.or_else(|| Some("BYOL".to_owned())),
        }),
        state: TaskState::Active,
        message: None,
        ended: None,
        asked_with,
        tags,
    };
    let task = begin(call, task)?;
    Ok(import_image_result(&task))
}

fn import_image_result(task: &View) -> api::ImportImageResult {
    let shown = image_task(task);
    api::ImportImageResult {
        architecture: shown.architecture,
        description: shown.description,
        encrypted: shown.encrypted,
        hypervisor: shown.hypervisor,
        image_id: shown.image_id,
        import_task_id: shown.import_task_id,
        kms_key_id: shown.kms_key_id,
        license_type: shown.license_type,
        platform: shown.platform,
        progress: shown.progress,
        snapshot_details: shown.snapshot_details,
        status: shown.status,
        status_message: shown.status_message,
        tags: shown.tags,
        ..Default::default()
    }
}

/// Where an imported disk is: as the request says, or `/dev/sda1`, then `/dev/sdf` and on.
fn device_name(wish: Option<&str>, others: &[ImportedDisk]) -> Result<String, Error> {
    let free = |name: &str| others.iter().all(|disk| disk.device_name != name);
    if let Some(name) = wish.filter(|name| !name.is_empty()) {
        super::mapping::check_device_name(name)?;
        return match free(name) {
            true => Ok(name.to_owned()),
            false => Err(super::mapping::invalid(format!(
                "The device '{name}' is used in more than one disk container"
            ))),
        };
    }
    if others.is_empty() {
        return Ok("/dev/sda1".to_owned());
    }
    ('f'..='z')
        .map(|letter| format!("/dev/sd{letter}"))
        .find(|name| free(name))
        .ok_or_else(|| super::mapping::invalid("There are too many disk containers"))
}

fn import_disk(
    call: &mut Call<'_>,
    container: api::ImageDiskContainer,
    device_name: String,
    wish: &Wish,
) -> Result<ImportedDisk, Error> {
    let format = check_format(container.format)?;
    let (snapshot, object) = match container.snapshot_id.filter(|id| !id.is_empty()) {
        Some(id) => {
            if container.url.is_some() || container.user_bucket.is_some() {
                return Err(Error::invalid_parameter_combination(
                    "Only one of SnapshotId, Url and UserBucket can be specified.",
                ));
            }
            let (_, source) = snapshot::own(call, &id)?;
            let copy = Copy {
                encrypted: wish.encrypted,
                kms_key_id: wish.kms_key_id.clone(),
                description: wish.about.clone(),
                tags: Tags::new(),
                minutes: None,
            };
            let region = call.region;
            (snapshot::copy(call, region, &source, copy)?, None)
        }
        None => {
            let object = object(container.url.as_deref(), container.user_bucket)?;
            (import_file(call, &object, format.as_ref(), wish)?, Some(object))
        }
    };
    Ok(ImportedDisk {
        snapshot_id: snapshot.id.clone(),
        device_name,
        description: container.description,
        format,
        object,
        url: container.url,
        key_arn: snapshot.key.as_ref().map(|key| key.key_arn.clone()),
    })
}

/// A task with what its snapshots say of it.
struct View {
    task: Arc<ImportTask>,
    snapshots: BTreeMap<String, Arc<Snapshot>>,
}

const IMPORT_FILTERS: &[Field<View>] =
    &[("task-state", |view| vec![view.task.state.name().into()])];

impl View {
    fn new(call: &mut Call<'_>, task: Arc<ImportTask>) -> Result<Self, Error> {
        let mut snapshots = BTreeMap::new();
        for disk in &task.disks {
            let at = key::of(call.region, key::SNAPSHOT, &task.owner_id, &disk.snapshot_id);
            if let Some(snapshot) = call.get::<Snapshot>(&at)? {
                snapshots.insert(disk.snapshot_id.clone(), snapshot);
            }
        }
        Ok(View { task, snapshots })
    }

    fn is_active(&self) -> bool {
        self.task.state == TaskState::Active
    }

    /// Percent of all disks; none when it has ended.
    fn progress(&self) -> Option<String> {
        let done: u32 = self.snapshots.values().map(|s| u32::from(s.progress)).sum();
        let disks = u32::try_from(self.task.disks.len().max(1)).unwrap_or(u32::MAX);
        self.is_active().then(|| (done / disks).min(99).to_string())
    }

    fn status_message(&self) -> Option<String> {
        if !self.is_active() {
            return self.task.message.clone();
        }
        let begun = self.snapshots.values().any(|snapshot| snapshot.progress > 0);
        Some(if begun { "converting" } else { "pending" }.to_owned())
    }
}

fn bucket_details(disk: &ImportedDisk) -> Option<api::UserBucketDetails> {
    disk.object.as_ref().filter(|_| disk.url.is_none()).map(|(bucket, object)| {
        api::UserBucketDetails { s3_bucket: Some(bucket.clone()), s3_key: Some(object.clone()) }
    })
}

fn disk_size(view: &View, disk: &ImportedDisk) -> Option<f64> {
    let snapshot = view.snapshots.get(&disk.snapshot_id)?;
    (snapshot.size_gib > 0).then(|| f64::from(snapshot.size_gib))
}

fn snapshot_task(view: &View) -> api::ImportSnapshotTask {
    let task = &view.task;
    let detail = task.disks.first().map(|disk| api::SnapshotTaskDetail {
        description: disk.description.clone().or_else(|| Some(task.description.clone())),
        disk_image_size: disk_size(view, disk),
        encrypted: Some(disk.key_arn.is_some()),
        format: disk.format.clone(),
        kms_key_id: disk.key_arn.clone(),
        progress: view.progress(),
        snapshot_id: (task.state == TaskState::Completed).then(|| disk.snapshot_id.clone()),
        status: Some(task.state.name().to_owned()),
        status_message: view.status_message(),
        url: disk.url.clone(),
        user_bucket: bucket_details(disk),
    });
    api::ImportSnapshotTask {
        description: Some(task.description.clone()),
        import_task_id: Some(task.id.clone()),
        snapshot_task_detail: detail,
        tags: tag::to_model(&task.tags),
    }
}

fn image_task(view: &View) -> api::ImportImageTask {
    let task = &view.task;
    let image = task.image.as_ref();
    let details = task.disks.iter().map(|disk| {
        let snapshot = view.snapshots.get(&disk.snapshot_id);
        let status = match snapshot.map(|snapshot| snapshot.state) {
            Some(SnapshotState::Pending) => "active",
            Some(SnapshotState::Completed) => "completed",
            _ => "deleted",
        };
        api::SnapshotDetail {
            description: disk.description.clone(),
            device_name: Some(disk.device_name.clone()),
            disk_image_size: disk_size(view, disk),
            format: disk.format.clone(),
            progress: snapshot
                .filter(|snapshot| snapshot.state == SnapshotState::Pending)
                .map(|snapshot| snapshot.progress.to_string()),
            snapshot_id: (task.state == TaskState::Completed).then(|| disk.snapshot_id.clone()),
            status: Some(status.to_owned()),
            status_message: snapshot.and_then(|snapshot| snapshot.message.clone()),
            url: disk.url.clone(),
            user_bucket: bucket_details(disk),
        }
    });
    let key_arn = task.disks.iter().find_map(|disk| disk.key_arn.clone());
    api::ImportImageTask {
        architecture: image.map(|image| image.architecture.clone()),
        boot_mode: image.and_then(|image| image.boot_mode.clone()),
        description: Some(task.description.clone()),
        encrypted: Some(key_arn.is_some()),
        hypervisor: Some("xen".to_owned()),
        image_id: image.and_then(|image| image.image_id.clone()),
        import_task_id: Some(task.id.clone()),
        kms_key_id: key_arn,
        license_type: image.and_then(|image| image.license_type.clone()),
        platform: Some("Linux".to_owned()),
        progress: view.progress(),
        snapshot_details: Some(details.collect()),
        status: Some(task.state.name().to_owned()),
        status_message: view.status_message(),
        tags: tag::to_model(&task.tags),
        ..Default::default()
    }
}

fn unknown_import(id: &str) -> Error {
    Error::client("InvalidConversionTaskId", format!("The import task ID '{id}' does not exist"))
}

/// The import tasks of one kind that a request describes, in order of their ids.
fn imports(
    call: &mut Call<'_>,
    of_images: bool,
    ids: Option<Vec<String>>,
    filters: Option<Vec<api::Filter>>,
) -> Result<Vec<View>, Error> {
    let filters = Filters::new(crate::filters(filters), IMPORT_FILTERS)?;
    let prefix = task_key(call, IMPORT, "");
    let mut tasks = call.scan::<ImportTask>(&prefix)?;
    tasks.retain(|task| task.image.is_some() == of_images);
    let ids = ids.unwrap_or_default();
    if let Some(id) = ids.iter().find(|id| !tasks.iter().any(|task| task.id == **id)) {
        return Err(unknown_import(id));
    }
    let mut views = Vec::new();
    for task in tasks.into_iter().filter(|task| ids.is_empty() || ids.contains(&task.id)) {
        let view = View::new(call, task)?;
        if filters.accept(&view, &view.task.tags) {
            views.push(view);
        }
    }
    Ok(views)
}

pub(super) fn describe_import_snapshot_tasks(
    call: &mut Call<'_>,
    input: api::DescribeImportSnapshotTasksRequest,
) -> Result<api::DescribeImportSnapshotTasksResult, Error> {
    let views = imports(call, false, input.import_task_ids, input.filters)?;
    let token = input.next_token.as_deref();
    let page = page(views, |view| view.task.id.as_str(), input.max_results, token, 1..=1000)?;
    Ok(api::DescribeImportSnapshotTasksResult {
        import_snapshot_tasks: Some(page.items.iter().map(snapshot_task).collect()),
        next_token: page.next_token,
    })
}

pub(super) fn describe_import_image_tasks(
    call: &mut Call<'_>,
    input: api::DescribeImportImageTasksRequest,
) -> Result<api::DescribeImportImageTasksResult, Error> {
    let views = imports(call, true, input.import_task_ids, input.filters)?;
    let token = input.next_token.as_deref();
    let page = page(views, |view| view.task.id.as_str(), input.max_results, token, 1..=1000)?;
    Ok(api::DescribeImportImageTasksResult {
        import_image_tasks: Some(page.items.iter().map(image_task).collect()),
        next_token: page.next_token,
    })
}

pub(super) fn cancel_import_task(
    call: &mut Call<'_>,
    input: api::CancelImportTaskRequest,
) -> Result<api::CancelImportTaskResult, Error> {
    let id = input.import_task_id.unwrap_or_default();
    if id.is_empty() {
        return Err(Error::missing_parameter("importTaskId"));
    }
    let at = task_key(call, IMPORT, &id);
    let known = call.get::<ImportTask>(&at)?.ok_or_else(|| unknown_import(&id))?;
    if known.state != TaskState::Active {
        return Err(not_active(&id, known.state));
    }
    drop_snapshots(call, &known)?;
    let mut task = ImportTask::clone(&known);
    task.state = TaskState::Deleted;
    task.message = Some(match input.cancel_reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("Cancelled: {reason}"),
        None => "Cancelled".to_owned(),
    });
    task.ended = Some(call.now);
    call.put(&at, task);
    Ok(api::CancelImportTaskResult {
        import_task_id: Some(id),
        previous_state: Some(known.state.name().to_owned()),
        state: Some(TaskState::Deleting.name().to_owned()),
    })
}

pub(super) fn not_active(id: &str, state: TaskState) -> Error {
    Error::client(
        "IncorrectState",
        format!("The task '{id}' cannot be cancelled: it is '{}'.", state.name()),
    )
}

/// Stages the end of the snapshots of an import that comes to nothing.
pub(super) fn drop_snapshots(call: &mut Call<'_>, task: &ImportTask) -> Result<(), Error> {
    for disk in &task.disks {
        let at = key::of(call.region, key::SNAPSHOT, &task.owner_id, &disk.snapshot_id);
        if let Some(snapshot) = call.get::<Snapshot>(&at)?.filter(|s| s.images.is_empty()) {
            snapshot::remove(call, &snapshot)?;
        }
    }
    Ok(())
}
