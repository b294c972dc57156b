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

pub(crate) mod describe;
mod publish;
pub(crate) mod record;

pub use publish::{built_in, sync};
#[cfg(test)]
pub(crate) use publish::{for_tests, id_for_tests};

use crate::record::{Image, ImageState, key};
use service::{Call, Error};
use std::sync::Arc;

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
    let record_key = match call.snapshot().get(&own) {
        Some(_) => Some(own),
        None => call
            .snapshot()
            .scan(&prefix(region))
            .find(|kv| kv.key().rsplit('/').next() == Some(id))
            .map(|kv| kv.key().to_owned()),
    };
    let image = match record_key {
        Some(record_key) => call.get::<Image>(&record_key)?,
        None => None,
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
