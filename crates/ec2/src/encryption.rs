//! Which key a new volume or snapshot is encrypted with, and what an account chose about it.
//!
//! The principle: nothing that was encrypted is ever made into something that is not. A volume has
//! the data key of its snapshot unless another master key is asked for, so that it shares its
//! blocks; a copy has a data key of the destination's master key (EBS User Guide, "How Amazon EBS
//! encryption works", "Encryption outcomes for snapshot copies").

use crate::record::snapshot::BlockPublicAccess;
use crate::record::{EbsSettings, key};
use base::key::{Error as KeyError, WrappedKey};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::EnableEbsEncryptionByDefault, enable_ebs_encryption_by_default, Write, []),
    operation!(op::DisableEbsEncryptionByDefault, disable_ebs_encryption_by_default, Write, []),
    operation!(op::GetEbsEncryptionByDefault, get_ebs_encryption_by_default, Read, []),
    operation!(op::GetEbsDefaultKmsKeyId, get_ebs_default_kms_key_id, Read, []),
    operation!(op::ModifyEbsDefaultKmsKeyId, modify_ebs_default_kms_key_id, Write, ["KmsKeyId"]),
    operation!(op::ResetEbsDefaultKmsKeyId, reset_ebs_default_kms_key_id, Write, []),
];

/// The key that EBS has by itself.
const OWN_KEY: &str = "alias/aws/ebs";

/// The key of the record of an account's choices.
fn settings_key(region: &str, account: &str) -> String {
    key::of(region, key::EBS_SETTINGS, account, "settings")
}

const NOTHING_CHOSEN: EbsSettings = EbsSettings {
    v: 1,
    encrypt: false,
    key_arn: None,
    block_public_access: BlockPublicAccess::Unblocked,
};

/// What the account has chosen; the commit depends on it.
pub(crate) fn settings(call: &mut Call<'_>) -> Result<EbsSettings, Error> {
    let at = settings_key(call.region, call.account());
    Ok(call.get::<EbsSettings>(&at)?.map_or(NOTHING_CHOSEN, |found| (*found).clone()))
}

/// What an account has chosen, for describing.
pub(crate) fn peek_settings(call: &Call<'_>, account: &str) -> Result<EbsSettings, Error> {
    let found = call.peek::<EbsSettings>(&settings_key(call.region, account))?;
    Ok(found.map_or(NOTHING_CHOSEN, |found| (*found).clone()))
}

/// Stages the account's choices.
pub(crate) fn choose(call: &mut Call<'_>, settings: EbsSettings) {
    let at = settings_key(call.region, call.account());
    call.put(&at, settings);
}

/// The key of a new volume: `None` when it is not encrypted. `source` is the key of the snapshot
/// that it is made from.
///
/// # Errors
/// `InvalidParameterDependency`, `InvalidKMSKey.NotFound`, `InvalidKMSKey.InvalidState`.
pub(crate) fn volume_key(
    call: &mut Call<'_>,
    encrypted: Option<bool>,
    kms_key_id: Option<&str>,
    source: Option<&WrappedKey>,
) -> Result<Option<WrappedKey>, Error> {
    choose_key(call, encrypted, kms_key_id, source, true)
}

/// The key of a new snapshot that is no volume's: a copy of one with the key `source`, an import or
/// one that is written directly.
///
/// # Errors
/// As for [`volume_key`].
pub(crate) fn snapshot_key(
    call: &mut Call<'_>,
    encrypted: Option<bool>,
    kms_key_id: Option<&str>,
    source: Option<&WrappedKey>,
) -> Result<Option<WrappedKey>, Error> {
    choose_key(call, encrypted, kms_key_id, source, false)
}

fn choose_key(
    call: &mut Call<'_>,
    encrypted: Option<bool>,
    kms_key_id: Option<&str>,
    source: Option<&WrappedKey>,
    inherits: bool,
) -> Result<Option<WrappedKey>, Error> {
    // Not a reason for a launch to conflict with the choice.
    let settings = peek_settings(call, call.account())?;
    let kms_key_id = kms_key_id.filter(|id| !id.is_empty());
    let is_encrypted = encrypted == Some(true) || settings.encrypt || source.is_some();
    if !is_encrypted {
        return match kms_key_id {
            None => Ok(None),
            Some(_) => Err(Error::client(
                "InvalidParameterDependency",
                "The parameter [KmsKeyId] requires the parameter Encrypted to be set.",
            )),
        };
    }
    if let (None, true, Some(source)) = (kms_key_id, inherits, source) {
        return Ok(Some(source.clone()));
    }
    let arn = resolve(call, kms_key_id.or(settings.key_arn.as_deref()))?;
    if let Some(source) = source.filter(|source| source.key_arn == arn) {
        return Ok(Some(source.clone()));
    }
    call.environment.keys.generate(&arn).map(Some).map_err(refusal)
}

/// The ARN of the key that a request names, or of EBS's own.
pub(crate) fn resolve(call: &Call<'_>, reference: Option<&str>) -> Result<String, Error> {
    let reference = reference.filter(|name| *name != OWN_KEY);
    call.environment.keys.resolve(call.region, call.account(), reference).map_err(refusal)
}

fn refusal(error: KeyError) -> Error {
    match error {
        KeyError::NotFound(_) => {
            Error::client("InvalidKMSKey.NotFound", "The KMS key provided does not exist")
        }
        KeyError::Disabled(_) => Error::client(
            "InvalidKMSKey.InvalidState",
            "The KMS key provided is in an incorrect state",
        ),
        other => Error::internal(other),
    }
}

fn enable_ebs_encryption_by_default(
    call: &mut Call<'_>,
    _: api::EnableEbsEncryptionByDefaultRequest,
) -> Result<api::EnableEbsEncryptionByDefaultResult, Error> {
    let settings = settings(call)?;
    choose(call, EbsSettings { encrypt: true, ..settings });
    Ok(api::EnableEbsEncryptionByDefaultResult { ebs_encryption_by_default: Some(true) })
}

fn disable_ebs_encryption_by_default(
    call: &mut Call<'_>,
    _: api::DisableEbsEncryptionByDefaultRequest,
) -> Result<api::DisableEbsEncryptionByDefaultResult, Error> {
    let settings = settings(call)?;
    choose(call, EbsSettings { encrypt: false, ..settings });
    Ok(api::DisableEbsEncryptionByDefaultResult { ebs_encryption_by_default: Some(false) })
}

fn get_ebs_encryption_by_default(
    call: &mut Call<'_>,
    _: api::GetEbsEncryptionByDefaultRequest,
) -> Result<api::GetEbsEncryptionByDefaultResult, Error> {
    let settings = peek_settings(call, call.account())?;
    Ok(api::GetEbsEncryptionByDefaultResult {
        ebs_encryption_by_default: Some(settings.encrypt),
        sse_type: Some(if settings.encrypt { "sse-kms" } else { "none" }.to_owned()),
    })
}

fn get_ebs_default_kms_key_id(
    call: &mut Call<'_>,
    _: api::GetEbsDefaultKmsKeyIdRequest,
) -> Result<api::GetEbsDefaultKmsKeyIdResult, Error> {
    let chosen = peek_settings(call, call.account())?.key_arn;
    Ok(api::GetEbsDefaultKmsKeyIdResult {
        kms_key_id: Some(chosen.unwrap_or_else(|| OWN_KEY.to_owned())),
    })
}

fn modify_ebs_default_kms_key_id(
    call: &mut Call<'_>,
    input: api::ModifyEbsDefaultKmsKeyIdRequest,
) -> Result<api::ModifyEbsDefaultKmsKeyIdResult, Error> {
    let arn = resolve(call, input.kms_key_id.as_deref())?;
    let settings = settings(call)?;
    choose(call, EbsSettings { key_arn: Some(arn.clone()), ..settings });
    Ok(api::ModifyEbsDefaultKmsKeyIdResult { kms_key_id: Some(arn) })
}

fn reset_ebs_default_kms_key_id(
    call: &mut Call<'_>,
    _: api::ResetEbsDefaultKmsKeyIdRequest,
) -> Result<api::ResetEbsDefaultKmsKeyIdResult, Error> {
    let settings = settings(call)?;
    choose(call, EbsSettings { key_arn: None, ..settings });
    Ok(api::ResetEbsDefaultKmsKeyIdResult { kms_key_id: Some(OWN_KEY.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    const MINE: &str = "arn:aws:kms:us-east-1:123456789012:key/mine";

    #[test]
    fn the_default_is_chosen_and_shown() {
        let region = Region::new();
        let ask = |region: &Region| {
            region.ok(get_ebs_encryption_by_default, Default::default()).ebs_encryption_by_default
        };
        assert_eq!(ask(&region), Some(false));
        region.ok(enable_ebs_encryption_by_default, Default::default());
        assert_eq!(ask(&region), Some(true));
        let modify = |id: &str| api::ModifyEbsDefaultKmsKeyIdRequest {
            kms_key_id: Some(id.to_owned()),
            ..Default::default()
        };
        region.ok(modify_ebs_default_kms_key_id, modify(MINE));
        let shown = |region: &Region| {
            region.ok(get_ebs_default_kms_key_id, Default::default()).kms_key_id.unwrap()
        };
        assert_eq!(shown(&region), MINE);
        assert_eq!(
            region.refused(modify_ebs_default_kms_key_id, modify("alias/none")),
            "InvalidKMSKey.NotFound: The KMS key provided does not exist"
        );
        region.ok(reset_ebs_default_kms_key_id, Default::default());
        assert_eq!(shown(&region), "alias/aws/ebs");
        region.ok(disable_ebs_encryption_by_default, Default::default());
        assert_eq!(ask(&region), Some(false));
    }

    #[test]
    fn what_was_encrypted_stays_so() {
        let region = Region::new();
        let own = WrappedKey { key_arn: MINE.to_owned(), ciphertext: "own".to_owned() };
        let volume = |encrypted, kms: Option<&str>, source: Option<&WrappedKey>| {
            region.run(|call| volume_key(call, encrypted, kms, source))
        };
        let copy = |encrypted, kms: Option<&str>, source: Option<&WrappedKey>| {
            region.run(|call| snapshot_key(call, encrypted, kms, source))
        };
        assert_eq!(volume(None, None, None).unwrap(), None);
        assert_eq!(volume(Some(false), None, Some(&own)).unwrap(), Some(own.clone()));
        // Another master key is another data key.
        let other = volume(None, Some("arn:aws:kms:us-east-1:123456789012:key/other"), Some(&own));
        assert_ne!(other.unwrap().unwrap(), own);
        assert_eq!(copy(None, Some(MINE), Some(&own)).unwrap(), Some(own.clone()));
        // A copy goes to the account's default key.
        assert!(copy(None, None, Some(&own)).unwrap().unwrap().key_arn.contains("00000000-0000"));
        assert_eq!(volume(None, Some(MINE), None).unwrap_err().code, "InvalidParameterDependency");
        region.ok(enable_ebs_encryption_by_default, Default::default());
        assert!(volume(None, None, None).unwrap().is_some());
        assert_eq!(volume(None, Some(MINE), None).unwrap().unwrap().key_arn, MINE);
    }
}
