//! `arn:aws:kms:us-east-1:123456789012:key/1234abcd-…` and `…:alias/name`.

use std::fmt;

/// A key or an alias of a region and account. Its parts are plain names: they become paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arn<'a> {
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) name: Name<'a>,
}

/// What an ARN, or a reference without one, names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// A key's id.
    Key(&'a str),
    /// An alias with its `alias/`.
    Alias(&'a str),
}

impl<'a> Arn<'a> {
    pub(crate) fn new(region: &'a str, account: &'a str, name: Name<'a>) -> Self {
        Arn { region, account, name }
    }

    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next();
        let ("arn", given, "kms") = (next()?, next()?, next()?) else {
            return None;
        };
        let (region, account, resource) = (next()?, next()?, next()?);
        let name = match resource.strip_prefix("key/") {
            Some(id) if is_plain(id) => Name::Key(id),
            None if is_alias(resource) => Name::Alias(resource),
            _ => return None,
        };
        let plain = is_plain(region) && is_plain(account) && given == partition(region);
        plain.then_some(Arn { region, account, name })
    }
}

impl fmt::Display for Arn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arn { region, account, .. } = self;
        write!(f, "arn:{}:kms:{region}:{account}:", partition(region))?;
        match self.name {
            Name::Key(id) => write!(f, "key/{id}"),
            Name::Alias(alias) => f.write_str(alias),
        }
    }
}

/// The partition that a region belongs to (AWS General Reference, "Amazon Resource Names").
fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

/// Whether it can be a file's name and no other file's.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether it is written as an alias (KMS API, CreateAlias).
pub(crate) fn is_alias(name: &str) -> bool {
    name.strip_prefix("alias/").is_some_and(|rest| {
        (1..=250).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b":/_-".contains(&b))
    })
}
