//! The header of a LUKS container with a new master key.
//!
//! Made here rather than by qemu-img, which takes two to four seconds of processor time for it, since
//! it measures each time how fast it derives keys (`qcrypto_pbkdf2_count_iters`, QEMU 10.0.2). The
//! passphrase is a random key of 256 bits, so stretching it gains nothing and the iterations are as
//! few as LUKS allows.
//!
//! Format: LUKS1 On-Disk Format Specification 1.2.3, laid out as QEMU does.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::{digest, pbkdf2, rand};
use std::fmt::Write as _;
use std::io;
use std::num::NonZeroU32;

/// LUKS's minimum.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// Bytes of a sector, and of a cipher block.
const SECTOR: usize = 512;
const BLOCK: usize = 16;

/// Bytes of a master key: two of AES-256, for data and tweak.
const KEY: usize = 64;

/// Parts that the master key is split into.
const STRIPES: usize = 4000;

/// Bytes of the container before its data: the header and room for eight keys.
pub(crate) const BYTES: usize = 4040 * SECTOR;

/// Where the material of the first key lies, and how far apart those of two are, in sectors.
const FIRST_KEY: usize = 8;
const NEXT_KEY: usize = 504;

fn failed<E>(_: E) -> io::Error {
    io::Error::other("the cryptographic library failed")
}

/// The first [`BYTES`] of a container whose new master key `passphrase` opens.
///
/// # Errors
/// The system gives no randomness.
pub(crate) fn container(passphrase: &str) -> io::Result<Vec<u8>> {
    let mut master = [0; KEY];
    rand::fill(&mut master).map_err(failed)?;
    let mut salts = [0; 64];
    rand::fill(&mut salts).map_err(failed)?;
    let (master_salt, slot_salt) = salts.split_at(32);
    let sha256 = pbkdf2::PBKDF2_HMAC_SHA256;
    let mut check = [0; 20];
    pbkdf2::derive(sha256, ITERATIONS, master_salt, &master, &mut check);
    let mut key = [0; KEY];
    pbkdf2::derive(sha256, ITERATIONS, slot_salt, passphrase.as_bytes(), &mut key);
    let mut material = split(&master)?;
    encrypt(&key, &mut material)?;

    let mut bytes = vec![0; BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let word = |value: usize| u32::try_from(value).unwrap_or(0).to_be_bytes();
    put(0, b"LUKS\xba\xbe\0\x01");
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, b"sha256");
    put(104, &word(BYTES / SECTOR));
    put(108, &word(KEY));
    put(112, &check);
    put(132, master_salt);
    put(164, &ITERATIONS.get().to_be_bytes());
    // It only tells disks apart.
    put(168, &uuid(slot_salt));
    for slot in 0..8 {
        let at = 208 + slot * 48;
        let is_used = slot == 0;
        put(at, &if is_used { ACTIVE } else { UNUSED }.to_be_bytes());
        put(at + 40, &word(FIRST_KEY + slot * NEXT_KEY));
        put(at + 44, &word(STRIPES));
        if is_used {
            put(at + 4, &ITERATIONS.get().to_be_bytes());
            put(at + 8, slot_salt);
        }
    }
    put(FIRST_KEY * SECTOR, &material);
    Ok(bytes)
}

/// Marks of key slots.
const ACTIVE: u32 = 0x00ac_71f3;
const UNUSED: u32 = 0x0000_dead;

/// A UUID, version 4, of 16 random bytes.
fn uuid(random: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    let hash = digest::digest(&digest::SHA256, random);
    for (index, byte) in hash.as_ref().iter().take(16).enumerate() {
        let byte = match index {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into_bytes()
}

/// The anti-forensic splitter: the master key in [`STRIPES`] parts, all of which are needed.
fn split(master: &[u8; KEY]) -> io::Result<Vec<u8>> {
    let mut material = vec![0; KEY * STRIPES];
    let (random, last) = material.split_at_mut(KEY * (STRIPES - 1));
    rand::fill(random).map_err(failed)?;
    let mut state = [0; KEY];
    for stripe in random.chunks_exact(KEY) {
        state.iter_mut().zip(stripe).for_each(|(state, byte)| *state ^= byte);
        state = diffuse(&state);
    }
    last.copy_from_slice(&state);
    last.iter_mut().zip(master).for_each(|(byte, key)| *byte ^= key);
    Ok(material)
}

/// Each digest's worth of `state` hashed with its number before it.
fn diffuse(state: &[u8; KEY]) -> [u8; KEY] {
    let mut out = [0; KEY];
    for (number, (from, to)) in (0_u32..).zip(state.chunks(32).zip(out.chunks_mut(32))) {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&number.to_be_bytes());
        hash.update(from);
        to.copy_from_slice(&hash.finish().as_ref()[..to.len()]);
    }
    out
}

/// AES-256-XTS of whole sectors, numbered from 0 (IEEE 1619; plain64).
fn encrypt(key: &[u8; KEY], data: &mut [u8]) -> io::Result<()> {
    let (data_key, tweak_key) = key.split_at(KEY / 2);
    let cipher = |key: &[u8]| {
        UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ecb).map_err(failed)
    };
    let sectors = data.len() / SECTOR;
    let mut first = vec![0; sectors * BLOCK];
    for (number, tweak) in (0_u64..).zip(first.chunks_exact_mut(BLOCK)) {
        tweak[..8].copy_from_slice(&number.to_le_bytes());
    }
    cipher(tweak_key)?.encrypt(&mut first).map_err(failed)?;
    let mut tweaks = Vec::with_capacity(data.len());
    for tweak in first.chunks_exact(BLOCK) {
        let mut tweak = u128::from_le_bytes(tweak.try_into().map_err(failed)?);
        for _ in 0..SECTOR / BLOCK {
            tweaks.extend(tweak.to_le_bytes());
            // Times x in GF(2^128).
            tweak = (tweak << 1) ^ (if tweak >> 127 == 1 { 0x87 } else { 0 });
        }
    }
    let whiten = |data: &mut [u8]| data.iter_mut().zip(&tweaks).for_each(|(d, t)| *d ^= t);
    whiten(data);
    cipher(data_key)?.encrypt(data).map_err(failed)?;
    whiten(data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IEEE 1619-2007, vector 10, whose only sector has the number 255; so the first of 256 sectors
    /// that are not it are left out.
    #[test]
    fn xts_is_as_the_standard_says() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
                .collect()
        };
        let key = hex("2718281828459045235360287471352662497757247093699959574966967627\
             3141592653589793238462643383279502884197169399375105820974944592");
        let mut data = vec![0; 256 * SECTOR];
        for (index, byte) in data[255 * SECTOR..].iter_mut().enumerate() {
            *byte = index as u8;
        }
        encrypt(key.as_slice().try_into().unwrap(), &mut data).unwrap();
        let first = hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
        assert_eq!(data[255 * SECTOR..][..32], first[..]);
    }

    #[test]
    fn a_split_key_is_merged_again() {
        let master = [7; KEY];
        let material = split(&master).unwrap();
        let (random, last) = material.split_at(KEY * (STRIPES - 1));
        let mut state = [0; KEY];
        for stripe in random.chunks_exact(KEY) {
            state.iter_mut().zip(stripe).for_each(|(state, byte)| *state ^= byte);
            state = diffuse(&state);
        }
        let merged: Vec<u8> = state.iter().zip(last).map(|(a, b)| a ^ b).collect();
        assert_eq!(merged, master);
    }
}
