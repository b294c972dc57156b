//! Tokens of blocks and of pages: what they stand for, until when, and a mark that only this region
//! can make.
//!
//! ```text
//! token = base64( 1 | index: u64 | expires: i64 | HMAC-SHA-256(secret, kind | subject | index | expires) )
//! ```
//!
//! The subject is what the token is bound to and does not carry: the snapshot and its content. So a
//! token of another snapshot, another block or another region is none.

use aws_lc_rs::{hmac, rand};
use base::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use service::{Call, Error};

/// How long a block's token holds (EBS User Guide, "EBS direct APIs": seven days).
pub(super) const BLOCK_MILLIS: i64 = 7 * 24 * 3_600_000;
/// How long a page's token holds (60 minutes).
pub(super) const PAGE_MILLIS: i64 = 3_600_000;

const VERSION: u8 = 1;
const HEAD: usize = 17;

fn secret_key(region: &str) -> String {
    format!("/{region}/ebs-direct-secret")
}

/// Makes the region's secret.
pub(super) fn set_up(call: &mut Call<'_>) -> Result<(), Error> {
    let at = secret_key(call.region);
    if !call.exists(&at) {
        let mut secret = [0_u8; 32];
        rand::fill(&mut secret).map_err(|_| Error::internal("the system gives no random bytes"))?;
        call.put(&at, STANDARD.encode(secret));
    }
    Ok(())
}

fn secret(call: &Call<'_>) -> Result<hmac::Key, Error> {
    let found = call.peek::<String>(&secret_key(call.region))?;
    let text = found.ok_or_else(|| Error::internal("the region has no secret for tokens"))?;
    let bytes = STANDARD.decode(text.as_bytes()).map_err(Error::internal)?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// Makes and reads the tokens of one kind and subject.
pub(super) struct Tokens {
    key: hmac::Key,
    bound: Vec<u8>,
    now: Timestamp,
}

impl Tokens {
    /// `kind` tells blocks from pages; the parts of `subject` are what the tokens are bound to.
    pub(super) fn new(call: &Call<'_>, kind: &str, subject: &[&str]) -> Result<Self, Error> {
        let mut bound = kind.as_bytes().to_vec();
        for part in subject {
            // No part contains a zero byte.
            bound.push(0);
            bound.extend_from_slice(part.as_bytes());
        }
        bound.push(0);
        Ok(Tokens { key: secret(call)?, bound, now: call.now })
    }

    fn mark(&self, head: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.bound);
        context.update(head);
        context.sign()
    }

    /// The token of an index.
    pub(super) fn make(&self, index: u64, expires: Timestamp) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&index.to_be_bytes());
        bytes.extend_from_slice(&expires.0.to_be_bytes());
        let mark = self.mark(&bytes);
        bytes.extend_from_slice(mark.as_ref());
        STANDARD.encode(bytes)
    }

    /// The index that a token stands for; `None` if it is not one, or its time is over.
    pub(super) fn read(&self, token: &str) -> Option<u64> {
        let bytes = STANDARD.decode(token).ok()?;
        let (head, mark) = bytes.split_at_checked(HEAD)?;
        let mut signed = self.bound.clone();
        signed.extend_from_slice(head);
        hmac::verify(&self.key, &signed, mark).ok()?;
        let (version, rest) = head.split_first()?;
        let index = u64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
        let expires = i64::from_be_bytes(rest.get(8..)?.try_into().ok()?);
        (*version == VERSION && self.now.0 < expires).then_some(index)
    }
}
