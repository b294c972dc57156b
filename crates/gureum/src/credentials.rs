//! The root access key: made at the first start, kept in the store, and beside it in a file that
//! only the owner can read, for `gureum env`.

use crate::Env;
use anyhow::{Context, Result, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use iam::access_key::AccessKey;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

fn file(data: &Path) -> PathBuf {
    data.join("credentials")
}

/// A new access key id and secret, from the system's randomness.
pub(crate) fn generate() -> Result<(String, String)> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bytes = [0u8; 46];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
    let id: String =
        bytes[..16].iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect();
    Ok((format!("AKIA{id}"), STANDARD.encode(&bytes[16..])))
}

/// Writes the key where `gureum env` finds it, readable by the owner alone.
pub(crate) fn write(data: &Path, key: &AccessKey) -> Result<()> {
    let path = file(data);
    let temporary = data.join("credentials.new");
    let _ = std::fs::remove_file(&temporary);
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| temporary.display().to_string())?;
    write!(
        out,
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        key.id, key.secret
    )?;
    out.sync_all()?;
    std::fs::rename(&temporary, &path).with_context(|| path.display().to_string())
}

/// `gureum env`.
pub(crate) fn print_environment(options: &Env) -> Result<()> {
    let path = file(&options.data.path());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{} is not there: start the region once (gureum serve)", path.display())
        }
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
            .map(str::trim)
            .with_context(|| format!("{} has no {name}", path.display()))
    };
    println!("export AWS_ENDPOINT_URL=http://{}", options.listen);
    println!("export AWS_ACCESS_KEY_ID={}", value("aws_access_key_id")?);
    println!("export AWS_SECRET_ACCESS_KEY={}", value("aws_secret_access_key")?);
    println!("export AWS_DEFAULT_REGION={}", options.region);
    Ok(())
}
