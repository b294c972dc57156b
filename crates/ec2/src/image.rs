//! Machine images: AMIs that stand on snapshots.
//!
//! The principle: an AMI is a list of disks by reference. Its bytes are the snapshots' and its
//! kernel, if it boots one, is the node's; so making, copying and deregistering one moves records
//! only. A snapshot's record names the AMIs that stand on it, which keeps it from being deleted.
//!
//! ```text
//!  CreateImage, CopyImage, ImportImage            DisableImage
//!       │                                        ┌────────────► disabled
//!       ▼      all snapshots are completed       │                 │
//!    pending ───────────────────────────► available ◄─────────────┘ EnableImage
//!       │                                    ▲    │
//!       │ one of them failed    RegisterImage┘    │ DeregisterImage: no record, or the
//!       ▼                                         ▼ recycle bin when a rule keeps it there
//!    failed ───────────────────────────────────► (gone)
//! ```
//!
//! [`publish`] makes AMIs of what `gureum image` put on the node. Not here: storing AMIs in S3,
//! fast launch, allowed-AMI settings, usage reports.

mod ancestry;
mod attribute;
mod copy;
mod create;
mod describe;
mod export;
mod mapping;
mod publish;
pub(crate) mod reconciler;
pub(crate) mod record;
mod register;
mod state;
mod task;

pub use publish::{built_in, sync};
#[cfg(test)]
pub(crate) use publish::{for_tests, id_for_tests};

use crate::instance;
use crate::record::{Image, ImageState, Snapshot, Tags, key};
use service::{Call, Error, Operation};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The tables of operations.
pub(crate) const OPERATIONS: &[&[Operation]] = &[
    ancestry::OPERATIONS,
    attribute::OPERATIONS,
    copy::OPERATIONS,
    create::OPERATIONS,
    describe::OPERATIONS,
    export::OPERATIONS,
    register::OPERATIONS,
    state::OPERATIONS,
    task::OPERATIONS,
];

fn key_of(region: &str, image: &Image) -> String {
    key::of(region, key::IMAGE, &image.owner_id, &image.id)
}

/// The prefix of all images of a region, whoever owns them.
fn prefix(region: &str) -> String {
    format!("/{region}/{}/", key::IMAGE)
}

/// Claims a name among the images of an account.
fn name_claim(region: &str, account: &str, name: &str) -> String {
    key::of(region, key::IMAGE_NAME, account, name)
}

/// Stages the claim of an image's name unless somebody has it.
fn claim_name(call: &mut Call<'_>, image: &Image) {
    let claim = name_claim(call.region, &image.owner_id, &image.name);
    if !call.exists(&claim) {
        call.put(&claim, image.id.clone());
    }
}

/// Whether a name may be an image's (EC2 API Reference, "CreateImage").
///
/// # Errors
/// `InvalidAMIName.Malformed`.
fn check_name(name: Option<String>) -> Result<String, Error> {
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return Err(Error::missing_parameter("name"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    if (3..=128).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(name);
    }
    Err(Error::client(
        "InvalidAMIName.Malformed",
        "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, \
         '(', ')', '.', '-', '/' and '_'",
    ))
}

/// Refuses a name that another image of the account has.
///
/// # Errors
/// `InvalidAMIName.Duplicate`.
fn check_name_is_free(call: &mut Call<'_>, name: &str) -> Result<(), Error> {
    let claim = name_claim(call.region, call.account(), name);
    match call.get::<String>(&claim)? {
        None => Ok(()),
        Some(id) => Err(Error::client(
            "InvalidAMIName.Duplicate",
            format!("AMI name {name} is already in use by AMI {id}"),
        )),
    }
}

/// Stages a new image of the caller: its record, its name, and its claim on each of its snapshots.
fn stage(call: &mut Call<'_>, image: Image) -> Result<Arc<Image>, Error> {
    for id in image.snapshots() {
        let at = key::of(call.region, key::SNAPSHOT, &image.owner_id, id);
        let Some(snapshot) = call.get::<Snapshot>(&at)? else { continue };
        let mut snapshot = Snapshot::clone(&snapshot);
        snapshot.images.insert(image.id.clone());
        call.put(&at, snapshot);
    }
    claim_name(call, &image);
    let at = key_of(call.region, &image);
    Ok(call.put(&at, image))
}

/// An image as a request makes it, with nothing in it.
fn blank(call: &mut Call<'_>, name: String) -> Image {
    Image {
        v: 1,
        id: call.new_id("ami"),
        key: String::new(),
        name,
        description: String::new(),
        architecture: "x86_64".to_owned(),
        root_device_name: String::new(),
        mappings: Vec::new(),
        owner_id: call.account().to_owned(),
        owner_alias: None,
        state: ImageState::Pending,
        state_reason: None,
        public: false,
        launch_accounts: BTreeSet::new(),
        imds_v2: false,
        boot_mode: None,
        tpm_support: None,
        ena_support: true,
        sriov_net_support: Some("simple".to_owned()),
        source_instance_id: None,
        source_image_id: None,
        source_image_region: None,
        deprecation_time: None,
        protection: None,
        // Dates of images have no fractions.
        created: instance::whole_second(call.now),
        recycled: None,
        tags: Tags::new(),
    }
}

/// The image with this id whoever may see it, for what is told of it only.
fn peek_any(call: &Call<'_>, region: &str, id: &str) -> Result<Option<Arc<Image>>, Error> {
    let found = call
        .snapshot()
        .scan(&prefix(region))
        .find(|kv| kv.key().rsplit('/').next() == Some(id))
        .map(|kv| kv.key().to_owned());
    found.map_or(Ok(None), |record_key| call.peek::<Image>(&record_key))
}

/// The image that an account launches; the commit depends on it.
///
/// # Errors
/// `InvalidAMIID.Malformed`, `InvalidAMIID.NotFound`, `InvalidAMIID.Unavailable`.
pub(crate) fn find(call: &mut Call<'_>, id: &str) -> Result<Arc<Image>, Error> {
    let image = visible(call, id)?;
    match image.state {
        ImageState::Available => Ok(image),
        ImageState::Pending | ImageState::Failed | ImageState::Disabled => Err(unavailable(id)),
    }
}

/// The image with this id, in any state, if the account may see it; the commit depends on it.
fn visible(call: &mut Call<'_>, id: &str) -> Result<Arc<Image>, Error> {
    let region = call.region;
    visible_in(call, region, id)
}

/// As [`visible`], in another region.
fn visible_in(call: &mut Call<'_>, region: &str, id: &str) -> Result<Arc<Image>, Error> {
    check_id(id)?;
    let account = call.account();
    let own = key::of(region, key::IMAGE, account, id);
    let image = match call.get::<Image>(&own)? {
        Some(image) => Some(image),
        None => {
            let other = call
                .snapshot()
                .scan(&prefix(region))
                .find(|kv| kv.key().rsplit('/').next() == Some(id))
                .map(|kv| kv.key().to_owned());
            other.map_or(Ok(None), |record_key| call.get::<Image>(&record_key))?
        }
    };
    image.filter(|image| image.is_usable_by(account)).ok_or_else(|| not_found(&[id]))
}

/// The account's own image with this id, in any state; the commit depends on it.
///
/// # Errors
/// `AuthFailure` for another's, and as [`find`].
fn own(call: &mut Call<'_>, id: &str) -> Result<Arc<Image>, Error> {
    let image = visible(call, id)?;
    if image.owner_id == call.account() {
        return Ok(image);
    }
    Err(Error::client("AuthFailure", format!("Not authorized for image:{id}")).with_status(403))
}

fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("ami", id) {
        return Ok(());
    }
    Err(Error::client(
        "InvalidAMIID.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
    ))
}

fn not_found(ids: &[&str]) -> Error {
    let message = match ids {
        [id] => format!("The image id '[{id}]' does not exist"),
        many => format!("The image ids '[{}]' do not exist", many.join(", ")),
    };
    Error::client("InvalidAMIID.NotFound", message)
}

fn unavailable(id: &str) -> Error {
    Error::client("InvalidAMIID.Unavailable", format!("The image ID '{id}' is not available"))
}

#[cfg(test)]
mod tests;
