//! Key pairs: made here or imported.
//!
//! The private half exists only in the answer that made it; the record keeps the public half, which
//! an instance gets through its metadata. Records are filed by name, so that a name is unique
//! without a claim; an id is looked for among them.

mod der;
mod generate;
mod public;

use crate::record::{KeyPair, Tags, key};
use crate::tag;
use generate::Generated;
use model::ec2::{self as api, op};
use public::PublicKey;
use service::filter::{Field, Filters};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateKeyPair,
        create_key_pair,
        Write,
        ["KeyName", "KeyType", "KeyFormat", "TagSpecifications.*"]
    ),
    operation!(
        op::ImportKeyPair,
        import_key_pair,
        Write,
        ["KeyName", "PublicKeyMaterial", "TagSpecifications.*"]
    ),
    operation!(
        op::DescribeKeyPairs,
        describe_key_pairs,
        Read,
        ["KeyNames", "KeyPairIds", "IncludePublicKey", "Filters.*"]
    ),
    operation!(op::DeleteKeyPair, delete_key_pair, Write, ["KeyName", "KeyPairId"]),
];

fn key_of(call: &Call<'_>, name: &str) -> String {
    key::of(call.region, key::KEY_PAIR, call.account(), name)
}

/// A name that is free, with its record's key.
fn free_name(call: &mut Call<'_>, name: Option<String>) -> Result<(String, String), Error> {
    let name = name.unwrap_or_default();
    if name.trim().is_empty() {
        return Err(Error::client(
            "MissingParameter",
            "The request must contain the parameter KeyName",
        ));
    }
    if name.len() > 255 || !name.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({name}) for parameter KeyName is invalid. Names are up to 255 ASCII characters."
        )));
    }
    if name.trim() != name {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({name}) for parameter KeyName is invalid. Names cannot include leading or \
             trailing spaces."
        )));
    }
    let record_key = key_of(call, &name);
    if call.exists(&record_key) {
        return Err(Error::client("InvalidKeyPair.Duplicate", "The keypair already exists"));
    }
    Ok((name, record_key))
}

fn tags(specifications: Option<&[api::TagSpecification]>) -> Result<Tags, Error> {
    tag::from_specifications(specifications, "key-pair", &["key-pair"])
}

fn put(
    call: &mut Call<'_>,
    record_key: &str,
    name: &str,
    public: &PublicKey,
    fingerprint: String,
    tags: Tags,
) -> Arc<KeyPair> {
    let record = KeyPair {
        v: 1,
        id: call.new_id("key"),
        name: name.to_owned(),
        kind: public.kind().to_owned(),
        fingerprint,
        public_key: public.line(name),
        created: call.now,
        tags,
    };
    call.put(record_key, record)
}

fn create_key_pair(
    call: &mut Call<'_>,
    input: api::CreateKeyPairRequest,
) -> Result<api::KeyPair, Error> {
    let tags = tags(input.tag_specifications.as_deref())?;
    let (name, record_key) = free_name(call, input.key_name)?;
    let generated: Generated = match input.key_type.as_deref().unwrap_or("rsa") {
        "rsa" => generate::rsa_2048(),
        "ed25519" => generate::ed25519(),
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter KeyType is invalid. Valid types are rsa and ed25519."
            )));
        }
    }
    .map_err(Error::internal)?;
    let material = match input.key_format.as_deref().unwrap_or("pem") {
        "pem" => generated.pem(&name),
        "ppk" => generated.ppk(&name).map_err(Error::internal)?,
        other => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter KeyFormat is invalid. Valid formats are pem and ppk."
            )));
        }
    };
    let pair = put(call, &record_key, &name, &generated.public, generated.fingerprint, tags);
    Ok(api::KeyPair {
        key_fingerprint: Some(pair.fingerprint.clone()),
        key_material: Some(material),
        key_name: Some(name),
        key_pair_id: Some(pair.id.clone()),
        tags: tag::to_model(&pair.tags),
    })
}

fn import_key_pair(
    call: &mut Call<'_>,
    input: api::ImportKeyPairRequest,
) -> Result<api::ImportKeyPairResult, Error> {
    let tags = tags(input.tag_specifications.as_deref())?;
    let (name, record_key) = free_name(call, input.key_name)?;
    let material = input.public_key_material.unwrap_or_default();
    let public = PublicKey::parse(&material).ok_or_else(|| {
        Error::client("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
    })?;
    let pair = put(call, &record_key, &name, &public, public.fingerprint(), tags);
    Ok(api::ImportKeyPairResult {
        key_fingerprint: Some(pair.fingerprint.clone()),
        key_name: Some(name),
        key_pair_id: Some(pair.id.clone()),
        tags: tag::to_model(&pair.tags),
    })
}

const FILTERS: &[Field<KeyPair>] = &[
    ("fingerprint", |pair| vec![pair.fingerprint.as_str().into()]),
    ("key-name", |pair| vec![pair.name.as_str().into()]),
    ("key-pair-id", |pair| vec![pair.id.as_str().into()]),
];

fn describe_key_pairs(
    call: &mut Call<'_>,
    input: api::DescribeKeyPairsRequest,
) -> Result<api::DescribeKeyPairsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let names = input.key_names.unwrap_or_default();
    let ids = input.key_pair_ids.unwrap_or_default();
    let mut pairs: Vec<Arc<KeyPair>> = Vec::new();
    for name in &names {
        let pair = call.peek::<KeyPair>(&key_of(call, name))?;
        pairs.push(pair.ok_or_else(|| not_found("key pair", name))?);
    }
    if names.is_empty() || !ids.is_empty() {
        let all = call.scan::<KeyPair>(&key_of(call, ""))?;
        if let Some(id) = ids.iter().find(|id| !all.iter().any(|pair| pair.id == **id)) {
            return Err(not_found("key pair ID", id));
        }
        pairs.extend(all.into_iter().filter(|pair| ids.is_empty() || ids.contains(&pair.id)));
    }
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    pairs.dedup_by(|a, b| a.name == b.name);
    let with_key = input.include_public_key == Some(true);
    let shown = pairs
        .iter()
        .filter(|pair| filters.accept(pair, &pair.tags))
        .map(|pair| api::KeyPairInfo {
            create_time: Some(pair.created),
            key_fingerprint: Some(pair.fingerprint.clone()),
            key_name: Some(pair.name.clone()),
            key_pair_id: Some(pair.id.clone()),
            key_type: Some(pair.kind.clone()),
            public_key: with_key.then(|| pair.public_key.clone()),
            tags: tag::to_model(&pair.tags),
        })
        .collect();
    Ok(api::DescribeKeyPairsResult { key_pairs: Some(shown) })
}

fn not_found(noun: &str, name: &str) -> Error {
    Error::client("InvalidKeyPair.NotFound", format!("The {noun} '{name}' does not exist"))
}

/// Deleting a key pair that does not exist succeeds, as in AWS.
fn delete_key_pair(
    call: &mut Call<'_>,
    input: api::DeleteKeyPairRequest,
) -> Result<api::DeleteKeyPairResult, Error> {
    let name = match (input.key_name, input.key_pair_id) {
        (Some(name), None) => Some(name),
        (None, Some(id)) => {
            let all = call.scan::<KeyPair>(&key_of(call, ""))?;
            all.iter().find(|pair| pair.id == id).map(|pair| pair.name.clone())
        }
        (Some(_), Some(_)) => {
            return Err(Error::invalid_parameter_combination(
                "The parameter KeyName cannot be used with the parameter KeyPairId",
            ));
        }
        (None, None) => {
            return Err(Error::client(
                "MissingParameter",
                "The request must contain the parameter KeyName or KeyPairId",
            ));
        }
    };
    let mut id = None;
    if let Some(name) = name {
        let record_key = key_of(call, &name);
        if let Some(pair) = call.get::<KeyPair>(&record_key)? {
            id = Some(pair.id.clone());
            call.delete(&record_key);
        }
    }
    Ok(api::DeleteKeyPairResult { key_pair_id: id, return_: Some(true) })
}

#[cfg(test)]
mod tests;
