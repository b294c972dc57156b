//! Encryption of blocks: AES-256-GCM with a nonce that is derived from the block.
//!
//! ```text
//! "GBS" 0x01 | nonce, 12 bytes | ciphertext | tag, 16 bytes
//! nonce = HMAC-SHA256(nonce key, plaintext)[..12]
//! ```
//!
//! The nonce depends on the plaintext alone, so equal blocks of one key are one blob, as they are
//! without encryption; what leaks is that they are equal. Two different blocks would have to agree
//! in 96 bits of the HMAC to share a nonce. Three keys are derived from the data key, so that
//! none serves two purposes (the data key itself opens the volume's LUKS header).

use crate::blob::{Error, Id, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base::key::DataKey;
use std::fmt;

/// What every sealed block begins with; the last byte is the version. Also the associated data.
const MAGIC: [u8; 4] = *b"GBS\x01";
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What sealing adds to a block, bytes.
pub const OVERHEAD_BYTES: usize = MAGIC.len() + NONCE_BYTES + TAG_BYTES;

/// Which data key content is sealed with, without saying anything of the key.
pub type KeyName = [u8; 16];

/// Seals and opens blocks under one data key.
pub struct Seal {
    cipher: LessSafeKey,
    nonces: hmac::Key,
    name: KeyName,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    /// Derives the keys.
    pub fn new(key: &DataKey) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &key.0);
        let derive = |purpose: &str| hmac::sign(&root, purpose.as_bytes());
        let cipher = UnboundKey::new(&AES_256_GCM, derive("gureum block cipher 1").as_ref())
            .expect("HMAC-SHA256 gives the 32 bytes of an AES-256 key");
        let mut name = KeyName::default();
        name.copy_from_slice(&derive("gureum block key name 1").as_ref()[..16]);
        Seal {
            cipher: LessSafeKey::new(cipher),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, derive("gureum block nonce 1").as_ref()),
            name,
        }
    }

    /// See [`KeyName`].
    pub fn name(&self) -> KeyName {
        self.name
    }

    /// The sealed block.
    pub fn seal(&self, block: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.nonces, block);
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&tag.as_ref()[..NONCE_BYTES]);
        let start = MAGIC.len() + NONCE_BYTES;
        let mut sealed = Vec::with_capacity(block.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(&MAGIC);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(block);
        let tag = self
            .cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(MAGIC),
                &mut sealed[start..],
            )
            .expect("a block is shorter than the 64 GiB that AES-GCM takes");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// The block that was sealed; `id` is the sealed blob's name, for errors.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is no sealed block, [`Error::WrongKey`].
    pub fn open(&self, id: Id, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
        let start = MAGIC.len() + NONCE_BYTES;
        if sealed.len() < OVERHEAD_BYTES || !sealed.starts_with(&MAGIC) {
            return Err(Error::Malformed { id, what: "block", why: "it is not sealed" });
        }
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&sealed[MAGIC.len()..start]);
        let length = self
            .cipher
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(MAGIC),
                &mut sealed[start..],
            )
            .map_err(|_| Error::WrongKey)?
            .len();
        sealed.copy_within(start..start + length, 0);
        sealed.truncate(length);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seal(byte: u8) -> Seal {
        Seal::new(&DataKey([byte; 32]))
    }

    #[test]
    fn equal_blocks_of_one_key_are_equal_when_sealed_and_of_two_keys_share_nothing() {
        let (one, other) = (seal(1), seal(2));
        assert_eq!(one.seal(b"block"), seal(1).seal(b"block"));
        assert_eq!(one.name(), seal(1).name());
        let (a, b) = (one.seal(b"block"), other.seal(b"block"));
        assert_ne!(a[4..16], b[4..16], "nonces");
        assert_ne!(a[16..], b[16..]);
        assert_ne!(one.name(), other.name());
        assert_ne!(one.seal(b"block")[4..16], one.seal(b"blocks")[4..16], "nonces");
        assert!(matches!(other.open(Id::of(&a), a.clone()), Err(Error::WrongKey)));
    }

    proptest! {
        #[test]
        fn a_sealed_block_opens_and_a_changed_one_does_not(
            block in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let seal = seal(3);
            let sealed = seal.seal(&block);
            prop_assert_eq!(sealed.len(), block.len() + OVERHEAD_BYTES);
            let id = Id::of(&sealed);
            prop_assert_eq!(&seal.open(id, sealed.clone()).unwrap(), &block);
            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1_u8 << bit;
            prop_assert!(seal.open(id, changed).is_err());
            prop_assert!(seal.open(id, sealed[..at.index(sealed.len())].to_vec()).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let id = Id::of(&bytes);
            prop_assert!(seal(4).open(id, bytes).is_err());
        }
    }
}
