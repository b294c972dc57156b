//! Who may make volumes of a snapshot: its createVolumePermission, and the account's block on
//! sharing with everybody.

use super::own;
use crate::encryption;
use crate::record::snapshot::BlockPublicAccess;
use crate::record::{EbsSettings, Snapshot};
use model::ec2::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};

/// EC2 API Reference, "Request throttling".
const RATE: Rate = Rate::new(100.0, 5.0);

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::DescribeSnapshotAttribute,
        describe_snapshot_attribute,
        Read,
        ["Attribute", "SnapshotId"]
    ),
    operation!(
        op::ModifySnapshotAttribute,
        modify_snapshot_attribute,
        Write,
        [
            "Attribute",
            "CreateVolumePermission.Add.*",
            "CreateVolumePermission.Remove.*",
            "GroupNames",
            "OperationType",
            "SnapshotId",
            "UserIds",
        ],
        RATE
    ),
    operation!(
        op::ResetSnapshotAttribute,
        reset_snapshot_attribute,
        Write,
        ["Attribute", "SnapshotId"]
    ),
    operation!(
        op::GetSnapshotBlockPublicAccessState,
        get_snapshot_block_public_access_state,
        Read,
        []
    ),
    operation!(
        op::EnableSnapshotBlockPublicAccess,
        enable_snapshot_block_public_access,
        Write,
        ["State"]
    ),
    operation!(
        op::DisableSnapshotBlockPublicAccess,
        disable_snapshot_block_public_access,
        Write,
        []
    ),
];

/// Whether everybody may make volumes of a snapshot: its owner may have blocked that.
pub(super) fn is_public(call: &Call<'_>, snapshot: &Snapshot) -> Result<bool, Error> {
    if !snapshot.permissions.all || snapshot.recycled.is_some() {
        return Ok(false);
    }
    let settings = encryption::peek_settings(call, &snapshot.owner_id)?;
    Ok(settings.block_public_access != BlockPublicAccess::BlockAllSharing)
}

/// Whether an account may make volumes of a snapshot.
pub(super) fn may_use(call: &Call<'_>, snapshot: &Snapshot, account: &str) -> Result<bool, Error> {
    if snapshot.recycled.is_some() {
        return Ok(false);
    }
    Ok(snapshot.owner_id == account
        || snapshot.permissions.accounts.contains(account)
        || is_public(call, snapshot)?)
}

const PERMISSION: &str = "createVolumePermission";

pub(super) fn describe_snapshot_attribute(
    call: &mut Call<'_>,
    input: api::DescribeSnapshotAttributeRequest,
) -> Result<api::DescribeSnapshotAttributeResult, Error> {
    let (_, snapshot) = own(call, &input.snapshot_id.unwrap_or_default())?;
    let mut result = api::DescribeSnapshotAttributeResult {
        snapshot_id: Some(snapshot.id.clone()),
        ..Default::default()
    };
    if input.attribute.as_deref() == Some(PERMISSION) {
        let all = snapshot.permissions.all.then(|| api::CreateVolumePermission {
            group: Some("all".to_owned()),
            ..Default::default()
        });
        let accounts = snapshot.permissions.accounts.iter().map(|id| api::CreateVolumePermission {
            user_id: Some(id.clone()),
            ..Default::default()
        });
        result.create_volume_permissions = Some(all.into_iter().chain(accounts).collect());
    } else {
        // There is no marketplace here.
        result.product_codes = Some(Vec::new());
    }
    Ok(result)
}

/// One permission that is given or taken.
enum Grantee {
    Everybody,
    Account(String),
}

fn grantees(items: Option<Vec<api::CreateVolumePermission>>) -> Result<Vec<Grantee>, Error> {
    let mut grantees = Vec::new();
    for item in items.unwrap_or_default() {
        if item.group.is_some() {
            grantees.push(Grantee::Everybody);
        }
        if let Some(id) = item.user_id {
            grantees.push(account(id)?);
        }
    }
    Ok(grantees)
}

fn account(id: String) -> Result<Grantee, Error> {
    if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Grantee::Account(id));
    }
    Err(Error::client("InvalidUserID.Malformed", format!("Invalid user id: \"{id}\"")))
}

/// What a request adds and what it removes, said in either of the two ways.
fn changes(
    input: &mut api::ModifySnapshotAttributeRequest,
) -> Result<(Vec<Grantee>, Vec<Grantee>), Error> {
    let (mut add, mut remove) = match input.create_volume_permission.take() {
        Some(changes) => (grantees(changes.add)?, grantees(changes.remove)?),
        None => (Vec::new(), Vec::new()),
    };
    let mut flat = Vec::new();
    for name in input.group_names.take().unwrap_or_default() {
        if name != "all" {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({name}) for parameter groupName is invalid. Expected: 'all'."
            )));
        }
        flat.push(Grantee::Everybody);
    }
    for id in input.user_ids.take().unwrap_or_default() {
        flat.push(account(id)?);
    }
    if !flat.is_empty() {
        match input.operation_type.as_deref() {
            Some("add") => add.extend(flat),
            Some(_) => remove.extend(flat),
            None => return Err(Error::missing_parameter("operationType")),
        }
    }
    if add.is_empty() && remove.is_empty() {
        return Err(Error::client("InvalidParameterCombination", "No attributes specified."));
    }
    Ok((add, remove))
}

pub(super) fn modify_snapshot_attribute(
    call: &mut Call<'_>,
    mut input: api::ModifySnapshotAttributeRequest,
) -> Result<wire::Empty, Error> {
    if input.attribute.as_deref().is_some_and(|name| name != PERMISSION) {
        return Err(Error::invalid_parameter_value(
            "Only the attribute createVolumePermission can be modified.",
        ));
    }
    let (at, snapshot) = own(call, input.snapshot_id.as_deref().unwrap_or_default())?;
    let (add, remove) = changes(&mut input)?;
    if let Some(key) = snapshot.key.as_ref().filter(|_| !add.is_empty()) {
        if key.key_arn == encryption::resolve(call, None)? {
            return Err(Error::client(
                "OperationNotPermitted",
                "Encrypted snapshots with EBS default key cannot be shared",
            ));
        }
        if add.iter().any(|grantee| matches!(grantee, Grantee::Everybody)) {
            return Err(Error::client(
                "OperationNotPermitted",
                "Encrypted snapshots cannot be shared publicly",
            ));
        }
    }
    if add.iter().any(|grantee| matches!(grantee, Grantee::Everybody))
        && encryption::settings(call)?.block_public_access != BlockPublicAccess::Unblocked
    {
        return Err(Error::client(
            "OperationNotPermitted",
            "Public sharing of snapshots is blocked by the account's block public access for \
             snapshots setting in this Region.",
        ));
    }
    let mut snapshot = Snapshot::clone(&snapshot);
    let permissions = &mut snapshot.permissions;
    for grantee in add {
        match grantee {
            Grantee::Everybody => permissions.all = true,
            Grantee::Account(id) => {
                permissions.accounts.insert(id);
            }
        }
    }
    for grantee in remove {
        match grantee {
            Grantee::Everybody => permissions.all = false,
            Grantee::Account(id) => {
                permissions.accounts.remove(&id);
            }
        }
    }
    call.put(&at, snapshot);
    Ok(wire::Empty)
}

pub(super) fn reset_snapshot_attribute(
    call: &mut Call<'_>,
    input: api::ResetSnapshotAttributeRequest,
) -> Result<wire::Empty, Error> {
    if input.attribute.as_deref() != Some(PERMISSION) {
        return Err(Error::invalid_parameter_value(
            "Only the attribute createVolumePermission can be reset.",
        ));
    }
    let (at, snapshot) = own(call, &input.snapshot_id.unwrap_or_default())?;
    let mut snapshot = Snapshot::clone(&snapshot);
    snapshot.permissions = Default::default();
    call.put(&at, snapshot);
    Ok(wire::Empty)
}

pub(super) fn get_snapshot_block_public_access_state(
    call: &mut Call<'_>,
    _: api::GetSnapshotBlockPublicAccessStateRequest,
) -> Result<api::GetSnapshotBlockPublicAccessStateResult, Error> {
    let settings = encryption::peek_settings(call, call.account())?;
    Ok(api::GetSnapshotBlockPublicAccessStateResult {
        state: Some(settings.block_public_access.name().to_owned()),
        managed_by: Some("account".to_owned()),
    })
}

fn block(call: &mut Call<'_>, state: BlockPublicAccess) -> Result<Option<String>, Error> {
    let settings = encryption::settings(call)?;
    encryption::choose(call, EbsSettings { block_public_access: state, ..settings });
    Ok(Some(state.name().to_owned()))
}

pub(super) fn enable_snapshot_block_public_access(
    call: &mut Call<'_>,
    input: api::EnableSnapshotBlockPublicAccessRequest,
) -> Result<api::EnableSnapshotBlockPublicAccessResult, Error> {
    let state = match input.state.as_deref() {
        Some("block-all-sharing") => BlockPublicAccess::BlockAllSharing,
        Some("block-new-sharing") => BlockPublicAccess::BlockNewSharing,
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({}) for parameter state is invalid. Expected: 'block-all-sharing' or \
                 'block-new-sharing'.",
                other.unwrap_or_default()
            )));
        }
    };
    let state = block(call, state)?;
    Ok(api::EnableSnapshotBlockPublicAccessResult { state })
}

pub(super) fn disable_snapshot_block_public_access(
    call: &mut Call<'_>,
    _: api::DisableSnapshotBlockPublicAccessRequest,
) -> Result<api::DisableSnapshotBlockPublicAccessResult, Error> {
    let state = block(call, BlockPublicAccess::Unblocked)?;
    Ok(api::DisableSnapshotBlockPublicAccessResult { state })
}
