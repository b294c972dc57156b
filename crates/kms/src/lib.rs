//! Master keys and the data keys that they wrap.
//!
//! A master key is a file, `<directory>/<region>/<account>/<uuid>.json`, readable by its owner
//! alone. The files are the only state: nothing is cached, so that several processes agree, and a
//! key that is disabled is disabled at once. A file is replaced by rename after fsync and is whole
//! after any crash. What changes a key or makes one holds the lock of the directory.
//!
//! A data key is wrapped with AES-256-GCM under the master key's material; the master key's ARN is
//! authenticated with it, so that a wrapped key cannot be passed off as another key's.
//!
//! ```text
//!  wrapped key = base64( format 1 | nonce, 12 bytes | encrypted data key, 32 bytes | tag, 16 bytes )
//! ```
//!
//! Not here: KMS's own API, key policies, rotation, deletion, multi-Region keys. Whoever may read
//! the directory may read everything; the operator keeps it apart from the volumes it protects.

#![forbid(unsafe_code)]

mod arn;
mod file;

use crate::arn::{Arn, Name};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base::Timestamp;
use base::key::{DataKey, Error as KeyError, Keys, WrappedKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use file::MasterKey;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize as _, Zeroizing};

/// The alias of the key that EBS uses when a request names none.
const EBS_ALIAS: &str = "alias/aws/ebs";
/// Bytes of a data key and of a master key's material.
const KEY_BYTES: usize = 32;
/// The first byte of a wrapped key.
const FORMAT: u8 = 1;

/// Why a master key cannot be made or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An alias names one key of a region and account.
    #[error("the alias {0} already names a key")]
    AliasExists(String),
    /// `alias/` and 1 to 250 of `a-zA-Z0-9:/_-`; `alias/aws/` is reserved (KMS API, CreateAlias).
    #[error("{0} cannot be an alias")]
    InvalidAlias(String),
    /// As for every use of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The master keys below one directory. See the crate's documentation.
#[derive(Debug)]
pub struct KeyStore {
    directory: PathBuf,
}

impl KeyStore {
    /// The keys below `directory`, which is made when it is missing and closed to others.
    ///
    /// # Errors
    /// [`KeyError::Storage`].
    pub fn open(directory: PathBuf) -> Result<Self, KeyError> {
        let opened =
            file::make_directory(&directory).and_then(|()| file::close_to_others(&directory));
        opened.map_err(|error| storage(&directory, &error))?;
        Ok(KeyStore { directory })
    }

    /// Makes a master key and answers its ARN.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create(
        &self,
        region: &str,
        account: &str,
        alias: Option<&str>,
    ) -> Result<String, Error> {
        if let Some(alias) = alias
            && (!arn::is_alias(alias) || alias.starts_with("alias/aws/"))
        {
            return Err(Error::InvalidAlias(alias.to_owned()));
        }
        let _lock = self.lock()?;
        if let Some(alias) = alias
            && self.find_alias(region, account, alias)?.is_some()
        {
            return Err(Error::AliasExists(alias.to_owned()));
        }
        Ok(self.make(region, account, alias)?)
    }

    /// Lets a key be used again.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn enable(&self, key_arn: &str) -> Result<(), KeyError> {
        self.set_enabled(key_arn, true)
    }

    /// Keeps a key from being used; what it wrapped cannot be unwrapped until it is enabled again.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn disable(&self, key_arn: &str) -> Result<(), KeyError> {
        self.set_enabled(key_arn, false)
    }

    fn set_enabled(&self, key_arn: &str, enabled: bool) -> Result<(), KeyError> {
        let _lock = self.lock()?;
        let (path, mut key) = self.load(key_arn)?;
        if key.enabled != enabled {
            key.enabled = enabled;
            file::write(&path, &key).map_err(|error| storage(&path, &error))?;
        }
        Ok(())
    }

    /// Holds off everybody who makes or changes keys, in this process and in others, until it is
    /// dropped.
    fn lock(&self) -> Result<File, KeyError> {
        let path = self.directory.join("lock");
        let lock = || -> io::Result<File> {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|error| storage(&path, &error))
    }

    /// Where the keys of a region and account are. The two are names from requests: one that is no
    /// plain name has no keys.
    fn place(&self, region: &str, account: &str) -> Option<PathBuf> {
        (arn::is_plain(region) && arn::is_plain(account))
            .then(|| self.directory.join(region).join(account))
    }

    /// Makes a key. The caller holds the lock.
    fn make(&self, region: &str, account: &str, alias: Option<&str>) -> Result<String, KeyError> {
        let Some(place) = self.place(region, account) else {
            return Err(KeyError::NotFound(format!("{region}, {account}")));
        };
        file::make_directory(&place).map_err(|error| storage(&place, &error))?;
        let id = base::id::request_id(&mut fastrand::Rng::new());
        let path = place.join(format!("{id}.json"));
        if path.exists() {
            return Err(KeyError::Storage(format!("{} is there already", path.display())));
        }
        let mut material = Zeroizing::new([0; KEY_BYTES]);
        random(material.as_mut_slice())?;
        let key = MasterKey {
            v: 1,
            arn: Arn::new(region, account, Name::Key(&id)).to_string(),
            id,
            aliases: alias.map(str::to_owned).into_iter().collect(),
            enabled: true,
            created: Timestamp::wall(),
            material: BASE64_STANDARD.encode(material.as_slice()),
        };
        file::write(&path, &key).map_err(|error| storage(&path, &error))?;
        Ok(key.arn.clone())
    }

    fn find_alias(
        &self,
        region: &str,
        account: &str,
        alias: &str,
    ) -> Result<Option<MasterKey>, KeyError> {
        let Some(place) = self.place(region, account) else {
            return Ok(None);
        };
        let keys = file::read_all(&place).map_err(|error| storage(&place, &error))?;
        Ok(keys.into_iter().find(|key| key.aliases.iter().any(|known| known == alias)))
    }

    /// The key of an alias, made if it is the one that AWS makes.
    fn alias(&self, region: &str, account: &str, alias: &str) -> Result<MasterKey, KeyError> {
        if let Some(key) = self.find_alias(region, account, alias)? {
            return Ok(key);
        }
        if alias == EBS_ALIAS {
            let _lock = self.lock()?;
            // Somebody may have made it since.
            if self.find_alias(region, account, alias)?.is_none() {
                self.make(region, account, Some(alias))?;
            }
        }
        self.find_alias(region, account, alias)?.ok_or_else(|| {
            KeyError::NotFound(Arn::new(region, account, Name::Alias(alias)).to_string())
        })
    }

    /// The key that an ARN names, by id or by alias, whether enabled or not.
    fn load(&self, key_arn: &str) -> Result<(PathBuf, MasterKey), KeyError> {
        let not_found = || KeyError::NotFound(key_arn.to_owned());
        let named = Arn::parse(key_arn).ok_or_else(not_found)?;
        let place = self.place(named.region, named.account).ok_or_else(not_found)?;
        let id = match named.name {
            Name::Key(id) => id.to_owned(),
            Name::Alias(alias) => {
                let key = self.find_alias(named.region, named.account, alias)?;
                key.ok_or_else(not_found)?.id.clone()
            }
        };
        let path = place.join(format!("{id}.json"));
        match file::read(&path) {
            Ok(key) => Ok((path, key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found()),
            Err(error) => Err(storage(&path, &error)),
        }
    }

    /// The key that an ARN names if it may be used.
    fn usable(&self, key_arn: &str) -> Result<MasterKey, KeyError> {
        let (_, key) = self.load(key_arn)?;
        if key.enabled { Ok(key) } else { Err(KeyError::Disabled(key.arn.clone())) }
    }
}

impl Keys for KeyStore {
    fn resolve(
        &self,
        region: &str,
        account: &str,
        reference: Option<&str>,
    ) -> Result<String, KeyError> {
        let reference = reference.unwrap_or(EBS_ALIAS);
        let not_found = || KeyError::NotFound(reference.to_owned());
        let name = if reference.starts_with("arn:") {
            let named = Arn::parse(reference).ok_or_else(not_found)?;
            if (named.region, named.account) != (region, account) {
                return Err(not_found());
            }
            named.name
        } else if arn::is_alias(reference) {
            Name::Alias(reference)
        } else if arn::is_plain(reference) {
            Name::Key(reference)
        } else {
            return Err(not_found());
        };
        let key = match name {
            Name::Alias(alias) => self.alias(region, account, alias)?,
            Name::Key(_) => self.load(&Arn::new(region, account, name).to_string())?.1,
        };
        if key.enabled { Ok(key.arn.clone()) } else { Err(KeyError::Disabled(key.arn.clone())) }
    }

    fn generate(&self, key_arn: &str) -> Result<WrappedKey, KeyError> {
        let master = self.usable(key_arn)?;
        let mut data = Zeroizing::new([0; KEY_BYTES]);
        random(data.as_mut_slice())?;
        seal(&master, &data)
    }

    fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
        open(&self.usable(&wrapped.key_arn)?, &wrapped.ciphertext)
    }

    fn rewrap(&self, wrapped: &WrappedKey, key_arn: &str) -> Result<WrappedKey, KeyError> {
        let data = Zeroizing::new(self.unwrap(wrapped)?.0);
        seal(&self.usable(key_arn)?, &data)
    }
}

fn seal(master: &MasterKey, data: &[u8; KEY_BYTES]) -> Result<WrappedKey, KeyError> {
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    let mut wrapped = vec![FORMAT];
    wrapped.extend_from_slice(&nonce);
    let mut buffer = Zeroizing::new(data.to_vec());
    let tag = cipher(master)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(master.arn.as_bytes()),
            &mut buffer,
        )
        .map_err(|_| KeyError::Storage("a data key cannot be encrypted".into()))?;
    wrapped.extend_from_slice(&buffer);
    wrapped.extend_from_slice(tag.as_ref());
    Ok(WrappedKey { key_arn: master.arn.clone(), ciphertext: BASE64_STANDARD.encode(wrapped) })
}

fn open(master: &MasterKey, ciphertext: &str) -> Result<DataKey, KeyError> {
    let not_ours = || KeyError::NotOurs(master.arn.clone());
    let wrapped = BASE64_STANDARD.decode(ciphertext).map_err(|_| not_ours())?;
    let Some((&FORMAT, rest)) = wrapped.split_first() else {
        return Err(not_ours());
    };
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(not_ours)?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let data = cipher(master)?
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(master.arn.as_bytes()),
            &mut buffer,
        )
        .map_err(|_| not_ours())?;
    <[u8; KEY_BYTES]>::try_from(&*data).map(DataKey).map_err(|_| not_ours())
}

fn cipher(master: &MasterKey) -> Result<LessSafeKey, KeyError> {
    let damaged = || KeyError::Storage(format!("the key {} is damaged", master.arn));
    let mut material = BASE64_STANDARD.decode(&master.material).map_err(|_| damaged())?;
    let key = UnboundKey::new(&AES_256_GCM, &material).map_err(|_| damaged());
    material.zeroize();
    Ok(LessSafeKey::new(key?))
}

fn random(bytes: &mut [u8]) -> Result<(), KeyError> {
    aws_lc_rs::rand::fill(bytes)
        .map_err(|_| KeyError::Storage("the system gives no random numbers".into()))
}

fn storage(path: &Path, error: &io::Error) -> KeyError {
    KeyError::Storage(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
