//! Imports and exports, and the plans of the reconciler.

use super::making::{bare, end, image, made, registration, snapshot, text};
use crate::image::export::*;
use crate::image::reconciler::{
    Disk, ImageStep, RECONCILER, TaskStep, export_step, image_step, import_step,
};
use crate::image::record::{ExportTask, ImportTask, TaskState};
use crate::image::register::register_image;
use crate::image::task::*;
use crate::image::{blank, find};
use crate::record::snapshot::Recycled;
use crate::record::{ImageState, SnapshotState, Tags, key};
use crate::snapshot::tests::content;
use crate::testing::{ACCOUNT, Region, filter};
use base::Timestamp;
use base::volume::{SnapshotState as Made, Work};
use model::ec2 as api;

const WEEK: i64 = 7 * 24 * 3_600_000;

fn bucket(bucket: &str, object: &str) -> Option<api::UserBucket> {
    Some(api::UserBucket { s3_bucket: text(bucket), s3_key: text(object) })
}

fn one_disk(object: &str) -> api::ImportSnapshotRequest {
    api::ImportSnapshotRequest {
        description: text("a disk"),
        disk_container: Some(api::SnapshotDiskContainer {
            format: text("vmdk"),
            user_bucket: bucket("disks", object),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn snapshot_detail(region: &Region, id: &str) -> api::SnapshotTaskDetail {
    let input = api::DescribeImportSnapshotTasksRequest {
        import_task_ids: Some(vec![id.to_owned()]),
        ..Default::default()
    };
    let tasks = region.ok(describe_import_snapshot_tasks, input).import_snapshot_tasks.unwrap();
    tasks.into_iter().next().unwrap().snapshot_task_detail.unwrap()
}

fn import_record(region: &Region, id: &str) -> Option<ImportTask> {
    let at = key::of("us-east-1", IMPORT, ACCOUNT, id);
    let found = region.run(|call| call.peek::<ImportTask>(&at)).unwrap();
    found.map(|task| ImportTask::clone(&task))
}

#[test]
fn a_disk_becomes_a_snapshot() {
    let region = Region::new();
    let answer = region.ok(import_snapshot, one_disk("vms/web.vmdk"));
    let id = answer.import_task_id.unwrap();
    assert!(id.starts_with("import-snap-"), "{id}");
    let detail = answer.snapshot_task_detail.unwrap();
    assert_eq!(detail.status.as_deref(), Some("active"));
    assert_eq!((detail.progress.as_deref(), detail.format.as_deref()), (Some("0"), Some("VMDK")));
    let made = import_record(&region, &id).unwrap().disks[0].snapshot_id.clone();
    let origin = snapshot(&region, &made).unwrap().origin;
    let expected = crate::record::snapshot::Origin::Import {
        file: "disks/vms/web.vmdk".to_owned(),
        format: text("vmdk"),
    };
    assert_eq!(origin, expected);
    end(&region, &made, SnapshotState::Completed);
    let detail = snapshot_detail(&region, &id);
    assert_eq!(detail.status.as_deref(), Some("completed"));
    assert_eq!((detail.progress, detail.snapshot_id), (None, Some(made.clone())));
    // What is completed is not cancelled.
    let cancel = api::CancelImportTaskRequest { import_task_id: text(&id), ..Default::default() };
    assert!(region.refused(cancel_import_task, cancel).starts_with("IncorrectState"));
    region.pass(WEEK);
    let at = key::of("us-east-1", IMPORT, ACCOUNT, &id);
    region.run(|call| (RECONCILER.run)(call, &at)).unwrap();
    assert_eq!(import_record(&region, &id), None);
    assert!(snapshot(&region, &made).is_some());
}

#[test]
fn an_import_may_be_encrypted_and_may_fail() {
    let region = Region::new();
    let request = api::ImportSnapshotRequest { encrypted: Some(true), ..one_disk("web.vmdk") };
    let answer = region.ok(import_snapshot, request);
    let id = answer.import_task_id.unwrap();
    assert!(answer.snapshot_task_detail.unwrap().kms_key_id.unwrap().contains(":key/"));
    let made = import_record(&region, &id).unwrap().disks[0].snapshot_id.clone();
    assert!(snapshot(&region, &made).unwrap().key.is_some());
    end(&region, &made, SnapshotState::Error);
    let detail = snapshot_detail(&region, &id);
    assert_eq!(detail.status.as_deref(), Some("deleted"));
    assert_eq!(
        detail.status_message.as_deref(),
        Some("ClientError: Disk validation failed [The disk is full.]")
    );
    assert_eq!(snapshot(&region, &made), None, "nothing is left of it");
}

#[test]
fn a_token_begins_one_import() {
    let region = Region::new();
    let with_token = |object: &str| api::ImportSnapshotRequest {
        client_token: text("once"),
        ..one_disk(object)
    };
    let first = region.ok(import_snapshot, with_token("a.vmdk")).import_task_id.unwrap();
    let again = region.ok(import_snapshot, with_token("a.vmdk")).import_task_id.unwrap();
    assert_eq!(first, again);
    assert!(
        region
            .refused(import_snapshot, with_token("b.vmdk"))
            .starts_with("IdempotentParameterMismatch")
    );
    let by_url = |url: &str| {
        let mut request = with_token("x");
        request.client_token = text("by url");
        let disk = request.disk_container.as_mut().unwrap();
        (disk.user_bucket, disk.url) = (None, text(url));
        request
    };
    region.ok(import_snapshot, by_url("s3://disks/a.vmdk"));
    assert!(
        region
            .refused(import_snapshot, by_url("s3://disks/b.vmdk"))
            .starts_with("IdempotentParameterMismatch")
    );
    let made = import_record(&region, &first).unwrap().disks[0].snapshot_id.clone();
    end(&region, &made, SnapshotState::Completed);
    region.pass(WEEK);
    let at = key::of("us-east-1", IMPORT, ACCOUNT, &first);
    region.run(|call| (RECONCILER.run)(call, &at)).unwrap();
    let later = region.ok(import_snapshot, with_token("b.vmdk")).import_task_id.unwrap();
    assert_ne!(later, first, "the token is forgotten with its task");
}

#[test]
fn keys_do_not_lead_out_of_their_bucket() {
    let region = Region::new();
    for (bucket_name, object) in [
        ("disks", "../web.vmdk"),
        ("disks", "a/../../web.vmdk"),
        ("disks", "/etc/shadow"),
        ("disks", "a//b"),
        ("disks", "a/./b"),
        ("disks", ""),
        ("disks", "a\\b"),
        ("disks", "a\nb"),
        ("..", "a"),
        ("a/b", "c"),
        ("Disks", "a"),
        ("-disks", "a"),
        ("", "a"),
    ] {
        let mut request = one_disk(object);
        let disk = request.disk_container.as_mut().unwrap();
        disk.user_bucket = bucket(bucket_name, object);
        let refusal = region.refused(import_snapshot, request);
        assert!(refusal.starts_with("InvalidParameterValue"), "{bucket_name} {object}: {refusal}");
    }
    let mut request = one_disk("x");
    let disk = request.disk_container.as_mut().unwrap();
    disk.user_bucket = None;
    assert!(region.refused(import_snapshot, request.clone()).starts_with("MissingParameter"));
    let disk = request.disk_container.as_mut().unwrap();
    disk.url = text("https://example.org/x");
    assert!(region.refused(import_snapshot, request.clone()).starts_with("UnsupportedOperation"));
    let disk = request.disk_container.as_mut().unwrap();
    disk.url = text("s3://disks/../x");
    assert!(region.refused(import_snapshot, request.clone()).starts_with("InvalidParameterValue"));
    let disk = request.disk_container.as_mut().unwrap();
    disk.url = text("s3://disks/x.raw");
    disk.format = text("floppy");
    assert!(region.refused(import_snapshot, request.clone()).starts_with("InvalidParameterValue"));
    let disk = request.disk_container.as_mut().unwrap();
    disk.format = None;
    region.ok(import_snapshot, request);
}

fn disks(containers: Vec<api::ImageDiskContainer>) -> api::ImportImageRequest {
    api::ImportImageRequest { disk_containers: Some(containers), ..Default::default() }
}

fn container(object: &str) -> api::ImageDiskContainer {
    api::ImageDiskContainer {
        format: text("RAW"),
        user_bucket: bucket("disks", object),
        ..Default::default()
    }
}

#[test]
fn disks_become_an_image_that_the_firmware_boots() {
    let region = Region::new();
    let request = disks(vec![container("root.raw"), container("data.raw")]);
    let answer = region.ok(import_image, request);
    let id = answer.import_task_id.unwrap();
    assert_eq!(answer.status.as_deref(), Some("active"));
    let snapshots: Vec<String> = import_record(&region, &id)
        .unwrap()
        .disks
        .iter()
        .map(|disk| disk.snapshot_id.clone())
        .collect();
    end(&region, &snapshots[0], SnapshotState::Completed);
    assert_eq!(import_record(&region, &id).unwrap().state, TaskState::Active);
    end(&region, &snapshots[1], SnapshotState::Completed);
    let input = api::DescribeImportImageTasksRequest {
        filters: Some(vec![filter("task-state", &["completed"])]),
        ..Default::default()
    };
    let task = region.ok(describe_import_image_tasks, input).import_image_tasks.unwrap().remove(0);
    let ami = task.image_id.unwrap();
    let made = region.run(|call| find(call, &ami)).unwrap();
    assert_eq!((made.name.as_str(), made.key.as_str()), (id.as_str(), ""));
    let devices: Vec<_> = made.mappings.iter().map(|mapping| &*mapping.device_name).collect();
    assert_eq!(devices, ["/dev/sda1", "/dev/sdf"]);
    assert!(snapshot(&region, &snapshots[0]).unwrap().images.contains(&ami));
}

#[test]
fn a_snapshot_is_imported_as_an_image_of_its_own() {
    let region = Region::new();
    let root = bare(&region, "micro");
    let of_snapshot = api::ImageDiskContainer { snapshot_id: text(&root), ..Default::default() };
    let id = region.ok(import_image, disks(vec![of_snapshot])).import_task_id.unwrap();
    let copied = import_record(&region, &id).unwrap().disks[0].snapshot_id.clone();
    assert_ne!(copied, root);
    end(&region, &copied, SnapshotState::Completed);
    let ami = import_record(&region, &id).unwrap().image.unwrap().image_id.unwrap();
    let made = region.run(|call| find(call, &ami)).unwrap();
    assert_eq!(made.key, "micro", "it boots as its snapshot does");
    assert!(snapshot(&region, &root).unwrap().images.is_empty());
}

#[test]
fn an_import_that_is_cancelled_leaves_nothing() {
    let region = Region::new();
    let answer = region.ok(import_image, disks(vec![container("root.raw")]));
    let id = answer.import_task_id.unwrap();
    let made = import_record(&region, &id).unwrap().disks[0].snapshot_id.clone();
    let cancel =
        |id: &str| api::CancelImportTaskRequest { import_task_id: text(id), ..Default::default() };
    let answer = region.ok(cancel_import_task, cancel(&id));
    assert_eq!(answer.previous_state.as_deref(), Some("active"));
    assert_eq!(snapshot(&region, &made), None);
    assert_eq!(import_record(&region, &id).unwrap().state, TaskState::Deleted);
    assert!(region.refused(cancel_import_task, cancel(&id)).starts_with("IncorrectState"));
    assert!(
        region
            .refused(cancel_import_task, cancel("import-ami-1"))
            .starts_with("InvalidConversionTaskId")
    );
}

#[test]
fn imports_that_cannot_be_are_refused() {
    let region = Region::new();
    let refused = |with: &dyn Fn(&mut api::ImportImageRequest), start: &str| {
        let mut request = disks(vec![container("root.raw")]);
        with(&mut request);
        let refusal = region.refused(import_image, request);
        assert!(refusal.starts_with(start), "{refusal}");
    };
    refused(&|r| r.disk_containers = None, "MissingParameter");
    refused(&|r| r.architecture = text("sparc"), "InvalidParameterValue");
    refused(&|r| r.hypervisor = text("kvm"), "InvalidParameterValue");
    refused(&|r| r.license_type = text("GPL"), "InvalidParameterValue");
    refused(&|r| r.platform = text("Windows"), "UnsupportedOperation");
    refused(&|r| r.boot_mode = text("uefi"), "UnsupportedOperation");
    refused(&|r| r.boot_mode = text("uefi-preferred"), "InvalidParameterValue");
    refused(
        &|r| r.disk_containers.as_mut().unwrap()[0].format = text("OVA"),
        "UnsupportedOperation",
    );
    refused(
        &|r| r.disk_containers.as_mut().unwrap()[0].snapshot_id = text("snap-0123456789abcdef0"),
        "InvalidParameterCombination",
    );
    refused(
        &|r| {
            let disks = r.disk_containers.as_mut().unwrap();
            disks[0].device_name = text("/dev/sda1");
            disks.push(disks[0].clone());
        },
        "InvalidBlockDeviceMapping",
    );
}

fn export(image: &str) -> api::ExportImageRequest {
    api::ExportImageRequest {
        image_id: text(image),
        disk_image_format: text("VMDK"),
        s3_export_location: Some(api::ExportTaskS3LocationRequest {
            s3_bucket: text("exports"),
            s3_prefix: text("vms/"),
        }),
        ..Default::default()
    }
}

#[test]
fn an_image_is_exported_to_a_file() {
    let region = Region::new();
    let root = bare(&region, "");
    let ami = region.ok(register_image, registration(&root)).image_id.unwrap();
    let answer = region.ok(export_image, export(&ami));
    let id = answer.export_image_task_id.unwrap();
    let at = key::of("us-east-1", EXPORT, ACCOUNT, &id);
    let run = || region.run(|call| (RECONCILER.run)(call, &at)).unwrap();
    run();
    let task = region.driver.task(&id).unwrap();
    let Work::Export { file, format, from } = task.work else { panic!("not an export") };
    assert_eq!((file, format.as_str()), (format!("exports/vms/{id}.vmdk"), "vmdk"));
    assert_eq!(Some(from), snapshot(&region, &root).unwrap().content);
    let shown = || {
        let input = api::DescribeExportImageTasksRequest {
            export_image_task_ids: Some(vec![id.clone()]),
            ..Default::default()
        };
        region.ok(describe_export_image_tasks, input).export_image_tasks.unwrap().remove(0)
    };
    region.driver.set_task(&id, Made::Pending { cut: true, done: 30, total: 60 });
    run();
    assert_eq!(
        (shown().status.as_deref(), shown().progress.as_deref()),
        (Some("active"), Some("50"))
    );
    let done = Made::Completed { content: content('a'), new_bytes: 0, full_bytes: 0 };
    region.driver.set_task(&id, done);
    run();
    assert_eq!((shown().status.as_deref(), shown().progress), (Some("completed"), None));
    let cancel = api::CancelExportTaskRequest { export_task_id: text(&id) };
    assert!(region.refused(cancel_export_task, cancel).starts_with("IncorrectState"));
}

#[test]
fn exports_that_cannot_be_are_refused_and_others_can_be_cancelled() {
    let region = Region::new();
    let two_disks = made(&region, "two disks");
    assert!(region.refused(export_image, export(&two_disks)).starts_with("NotExportable"));
    let root = bare(&region, "");
    let ami = region.ok(register_image, registration(&root)).image_id.unwrap();
    let mut request = export(&ami);
    request.s3_export_location.as_mut().unwrap().s3_prefix = text("../");
    assert!(region.refused(export_image, request).starts_with("InvalidParameterValue"));
    let id = region.ok(export_image, export(&ami)).export_image_task_id.unwrap();
    let cancel = |id: &str| api::CancelExportTaskRequest { export_task_id: text(id) };
    region.ok(cancel_export_task, cancel(&id));
    let at = key::of("us-east-1", EXPORT, ACCOUNT, &id);
    region.run(|call| (RECONCILER.run)(call, &at)).unwrap();
    let task = region.run(|call| call.peek::<ExportTask>(&at)).unwrap().unwrap();
    assert_eq!((task.state, &task.content), (TaskState::Deleted, &None));
    assert!(
        region
            .refused(cancel_export_task, cancel("export-ami-1"))
            .starts_with("InvalidExportTaskID.NotFound")
    );
    assert!(
        region
            .refused(cancel_export_task, cancel("x"))
            .starts_with("InvalidExportTaskID.Malformed")
    );
    assert_eq!(image(&region, &ami).state, ImageState::Available);
}

#[test]
fn the_plan_of_an_image() {
    let region = Region::new();
    let mut image = region.run(|call| Ok(blank(call, "plan".to_owned()))).unwrap();
    let now = Timestamp(1_000);
    let lost = || Disk::Lost("gone".to_owned());
    for (disks, step) in [
        (vec![], ImageStep::Available),
        (vec![Disk::Completed, Disk::Pending], ImageStep::Rest),
        (vec![Disk::Completed, Disk::Completed], ImageStep::Available),
        (vec![Disk::Pending, lost(), Disk::Completed], ImageStep::Fail("gone".to_owned())),
    ] {
        assert_eq!(image_step(&image, &disks, now), step);
    }
    image.state = ImageState::Available;
    assert_eq!(image_step(&image, &[lost()], now), ImageStep::Rest, "its content is its own");
    let exits = Timestamp(2_000);
    image.recycled = Some(Recycled { entered: now, exits, rule_id: String::new() });
    assert_eq!(image_step(&image, &[], now), ImageStep::Wait(exits));
    assert_eq!(image_step(&image, &[], exits), ImageStep::Expire);
}

#[test]
fn the_plans_of_tasks() {
    let now = Timestamp(1_000);
    let mut import = ImportTask {
        v: 1,
        id: "import-ami-1".to_owned(),
        owner_id: ACCOUNT.to_owned(),
        description: String::new(),
        disks: Vec::new(),
        image: None,
        state: TaskState::Active,
        message: None,
        ended: None,
        asked_with: None,
        tags: Tags::new(),
    };
    assert_eq!(import_step(&import, &[Disk::Pending], now), TaskStep::Rest);
    assert_eq!(import_step(&import, &[Disk::Completed], now), TaskStep::Complete);
    assert!(matches!(
        import_step(&import, &[Disk::Lost("x".to_owned())], now),
        TaskStep::Fail(why) if why == "ClientError: Disk validation failed [x]"
    ));
    import.state = TaskState::Deleted;
    import.ended = Some(now);
    assert_eq!(import_step(&import, &[], now), TaskStep::Wait(now.plus_millis(WEEK)));
    assert_eq!(import_step(&import, &[], now.plus_millis(WEEK)), TaskStep::Expire);
    let mut export = ExportTask {
        v: 1,
        id: "export-ami-1".to_owned(),
        image_id: "ami-1".to_owned(),
        description: String::new(),
        format: "RAW".to_owned(),
        bucket: "exports".to_owned(),
        prefix: String::new(),
        role: None,
        content: Some(content('a')),
        state: TaskState::Active,
        progress: 50,
        message: None,
        ended: None,
        tags: Tags::new(),
    };
    let far = |done: u64| Made::Pending { cut: true, done, total: 100 };
    assert_eq!(export_step(&export, None, now), TaskStep::Drive);
    assert_eq!(export_step(&export, Some(&far(50)), now), TaskStep::Rest);
    assert_eq!(export_step(&export, Some(&far(51)), now), TaskStep::Progress(51));
    assert_eq!(export_step(&export, Some(&far(100)), now), TaskStep::Progress(99));
    let failed = Made::Failed { message: "no room".to_owned() };
    assert_eq!(
        export_step(&export, Some(&failed), now),
        TaskStep::Fail("ClientError: no room".to_owned())
    );
    export.state = TaskState::Deleting;
    assert!(matches!(export_step(&export, Some(&far(1)), now), TaskStep::Fail(_)));
}
