//! ExportImage and its tasks: a disk of an image becomes a file in a bucket.

use super::attribute::check_description;
use super::record::{ExportTask, TaskState};
use super::task::{check_object, not_active, tags, task_key};
use super::{own, unavailable};
use crate::record::ImageState;
use crate::{snapshot, tag};
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};

/// [`ExportTask`] records.
pub(super) const EXPORT: &str = "export-task";

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::ExportImage,
        export_image,
        Write,
        [
            "ClientToken",
            "Description",
            "DiskImageFormat",
            "ImageId",
            "RoleName",
            "S3ExportLocation.*",
            "TagSpecifications.*",
            "TagSpecifications.Tags.*",
        ]
    ),
    operation!(
        op::DescribeExportImageTasks,
        describe_export_image_tasks,
        Read,
        ["ExportImageTaskIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(op::CancelExportTask, cancel_export_task, Write, ["ExportTaskId"]),
];

pub(super) fn export_image(
    call: &mut Call<'_>,
    input: api::ExportImageRequest,
) -> Result<api::ExportImageResult, Error> {
    let tags = tags(call, input.tag_specifications.as_deref(), "export-image-task")?;
    let description = input.description.unwrap_or_default();
    check_description(&description)?;
    let image = own(call, &input.image_id.unwrap_or_default())?;
    if image.state != ImageState::Available {
        return Err(unavailable(&image.id));
    }
    let not_exportable = |why: &str| {
        Error::client(
            "NotExportable",
            format!("The image '{}' cannot be exported: {why}", image.id),
        )
    };
    let volumes: Vec<_> = image.mappings.iter().filter_map(|m| m.volume()).collect();
    let [volume] = volumes.as_slice() else {
        return Err(not_exportable("it has more than one volume."));
    };
    // VM Import/Export User Guide, "Considerations for image export".
    if volume.encrypted {
        return Err(not_exportable("its snapshot is encrypted."));
    }
    let snapshot_id = volume.snapshot_id.clone().unwrap_or_default();
    let (_, snapshot) = snapshot::own(call, &snapshot_id)?;
    snapshot::usable(&snapshot)?;
    let location = input.s3_export_location.unwrap_or_default();
    let task = ExportTask {
        v: 1,
        id: call.new_id("export-ami"),
        image_id: image.id.clone(),
        description,
        format: input.disk_image_format.unwrap_or_default(),
        bucket: location.s3_bucket.unwrap_or_default(),
        prefix: location.s3_prefix.unwrap_or_default(),
        role: input.role_name,
        content: snapshot.content.clone(),
        state: TaskState::Active,
        progress: 0,
        message: None,
        ended: None,
        tags,
    };
    check_object(&task.bucket, &exported_key(&task))?;
    let at = task_key(call, EXPORT, &task.id);
    let task = call.put(&at, task);
    let shown = export_task(&task);
    Ok(api::ExportImageResult {
        description: shown.description,
        disk_image_format: Some(task.format.clone()),
        export_image_task_id: shown.export_image_task_id,
        image_id: shown.image_id,
        progress: shown.progress,
        role_name: task.role.clone(),
        s3_export_location: shown.s3_export_location,
        status: shown.status,
        status_message: shown.status_message,
        tags: shown.tags,
    })
}

/// The key of the object that an export writes: `exports/export-ami-….vmdk`.
pub(super) fn exported_key(task: &ExportTask) -> String {
    format!("{}{}.{}", task.prefix, task.id, task.format.to_ascii_lowercase())
}

fn export_task(task: &ExportTask) -> api::ExportImageTask {
    let active = task.state == TaskState::Active;
    api::ExportImageTask {
        description: Some(task.description.clone()),
        export_image_task_id: Some(task.id.clone()),
        image_id: Some(task.image_id.clone()),
        progress: active.then(|| task.progress.to_string()),
        s3_export_location: Some(api::ExportTaskS3Location {
            s3_bucket: Some(task.bucket.clone()),
            s3_prefix: Some(task.prefix.clone()),
        }),
        status: Some(task.state.name().to_owned()),
        status_message: task.message.clone().or_else(|| active.then(|| "converting".to_owned())),
        tags: tag::to_model(&task.tags),
    }
}

const EXPORT_FILTERS: &[Field<ExportTask>] =
    &[("task-state", |task| vec![task.state.name().into()])];

fn unknown_export(id: &str) -> Error {
    Error::client(
        "InvalidExportTaskID.NotFound",
        format!("The export task ID '{id}' cannot be found"),
    )
}

pub(super) fn describe_export_image_tasks(
    call: &mut Call<'_>,
    input: api::DescribeExportImageTasksRequest,
) -> Result<api::DescribeExportImageTasksResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), EXPORT_FILTERS)?;
    let prefix = task_key(call, EXPORT, "");
    let mut tasks = call.scan::<ExportTask>(&prefix)?;
    let ids = input.export_image_task_ids.unwrap_or_default();
    if let Some(id) = ids.iter().find(|id| !tasks.iter().any(|task| task.id == **id)) {
        return Err(unknown_export(id));
    }
    tasks.retain(|task| {
        (ids.is_empty() || ids.contains(&task.id)) && filters.accept(task, &task.tags)
    });
    let token = input.next_token.as_deref();
    let page = page(tasks, |task| task.id.as_str(), input.max_results, token, 1..=500)?;
    Ok(api::DescribeExportImageTasksResult {
        export_image_tasks: Some(page.items.iter().map(|task| export_task(task)).collect()),
        next_token: page.next_token,
    })
}

pub(super) fn cancel_export_task(
    call: &mut Call<'_>,
    input: api::CancelExportTaskRequest,
) -> Result<wire::Empty, Error> {
    let id = input.export_task_id.unwrap_or_default();
    if !id.starts_with("export-") {
        return Err(Error::client(
            "InvalidExportTaskID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"export-...\")"),
        ));
    }
    let at = task_key(call, EXPORT, &id);
    let known = call.get::<ExportTask>(&at)?.ok_or_else(|| unknown_export(&id))?;
    if known.state != TaskState::Active {
        return Err(not_active(&id, known.state));
    }
    let mut task = ExportTask::clone(&known);
    task.state = TaskState::Deleting;
    call.put(&at, task);
    Ok(wire::Empty)
}
