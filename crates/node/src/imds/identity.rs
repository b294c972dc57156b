//! Signatures of instance identity documents.
//!
//! The region has an RSA key and a self-signed certificate. `signature` is the base64 of a PKCS #1
//! v1.5 SHA-256 signature of the document; `rsa2048` and `pkcs7` are PKCS #7 signed data (RFC 2315)
//! that hold the document itself. A user verifies them with the certificate that the region's owner
//! gives out, so the messages carry none. The few DER structures are written here by hand.
//!
//! AWS signs `pkcs7` with a DSA key of 1024 bits; ours holds the same signature as `rsa2048`, for
//! no current library makes the other.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file failed.
    #[error("{path} cannot be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key file is damaged.
    #[error("{0} is no RSA key: remove it, and a new one is made")]
    Key(PathBuf),
    /// The library failed.
    #[error("making a signature failed")]
    Crypto,
}

/// The region's key and certificate.
pub struct Signer {
    key: KeyPair,
    /// DER.
    certificate: Vec<u8>,
    serial: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the key in `directory`, or makes one there that only we can read.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("key.der");
        let failed = |source| Error::Io { path: path.clone(), source };
        let stored = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Crypto)?;
                let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| Error::Crypto)?;
                fs::create_dir_all(directory).map_err(failed)?;
                fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
                    .map_err(failed)?;
                crate::secret::write(&path, der.as_ref()).map_err(failed)?;
                der.as_ref().to_vec()
            }
            stored => stored.map_err(failed)?,
        };
        let key = KeyPair::from_pkcs8(&stored).map_err(|_| Error::Key(path.clone()))?;
        // The certificate is a function of the key, so that nothing else need be kept: PKCS #1
        // signatures are deterministic, and the serial is taken from the key's hash.
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key().as_ref());
        // Positive and without a leading zero, as DER wants its integers.
        let mut serial = digest.as_ref()[..8].to_vec();
        serial[0] = serial[0] & 0x3f | 0x40;
        let mut signer = Signer { key, certificate: Vec::new(), serial };
        signer.certificate = signer.make_certificate()?;
        Ok(signer)
    }

    /// The certificate, PEM, for whoever verifies.
    pub fn certificate_pem(&self) -> String {
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines(&self.certificate)
        )
    }

    /// The `signature` of a document.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn signature(&self, document: &str) -> Result<String, Error> {
        Ok(lines(&self.sign(document.as_bytes())?))
    }

    /// The `rsa2048` and `pkcs7` of a document.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn pkcs7(&self, document: &str) -> Result<String, Error> {
        let digest_algorithm = algorithm(SHA256);
        let signer_info = sequence(&[
            integer(&[1]),
            sequence(&[name(), integer(&self.serial)]),
            digest_algorithm.clone(),
            algorithm(RSA_ENCRYPTION),
            tlv(0x04, &self.sign(document.as_bytes())?),
        ]);
        let content =
            sequence(&[tlv(0x06, PKCS7_DATA), tlv(0xa0, &tlv(0x04, document.as_bytes()))]);
        let signed_data = sequence(&[
            integer(&[1]),
            tlv(0x31, &digest_algorithm),
            content,
            tlv(0x31, &signer_info),
        ]);
        let message = sequence(&[tlv(0x06, PKCS7_SIGNED_DATA), tlv(0xa0, &signed_data)]);
        Ok(lines(&message))
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature)
            .map_err(|_| Error::Crypto)?;
        Ok(signature)
    }

    /// A certificate of X.509 version 1, issued to itself, that never expires (RFC 5280).
    fn make_certificate(&self) -> Result<Vec<u8>, Error> {
        let public: PublicKeyX509Der<'_> =
            self.key.public_key().as_der().map_err(|_| Error::Crypto)?;
        let validity = sequence(&[tlv(0x17, b"200101000000Z"), tlv(0x18, b"99991231235959Z")]);
        let body = sequence(&[
            integer(&self.serial),
            algorithm(SHA256_WITH_RSA),
            name(),
            validity,
            name(),
            public.as_ref().to_vec(),
        ]);
        let signature = self.sign(&body)?;
        let mut bits = vec![0];
        bits.extend(signature);
        Ok(sequence(&[body, algorithm(SHA256_WITH_RSA), tlv(0x03, &bits)]))
    }
}

/// Object identifiers, encoded.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const SHA256_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const PKCS7_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const PKCS7_SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// One DER element.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.extend(u8::try_from(length));
    } else {
        let bytes = length.to_be_bytes();
        let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        out.extend(u8::try_from(0x80 | bytes.len()));
        out.extend(bytes);
    }
    out.extend(content);
    out
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// A positive number, whose first byte is below 0x80.
fn integer(bytes: &[u8]) -> Vec<u8> {
    tlv(0x02, bytes)
}

fn algorithm(identifier: &[u8]) -> Vec<u8> {
    sequence(&[tlv(0x06, identifier), tlv(0x05, &[])])
}

/// O=gureum, CN=instance identity.
fn name() -> Vec<u8> {
    let part = |kind: &[u8], text: &str| {
        tlv(0x31, &sequence(&[tlv(0x06, kind), tlv(0x0c, text.as_bytes())]))
    };
    sequence(&[part(ORGANIZATION, "gureum"), part(COMMON_NAME, "instance identity")])
}

/// Base64 in lines of 64 characters.
fn lines(bytes: &[u8]) -> String {
    let text = BASE64.encode(bytes);
    let mut out = String::with_capacity(text.len() + text.len() / 64);
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            out.push('\n');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const DOCUMENT: &str = "{\n  \"instanceId\" : \"i-0123456789abcdef0\"\n}";

    /// Runs openssl in `directory`; its output, or none if it failed.
    fn openssl(directory: &Path, arguments: &[&str]) -> Option<String> {
        let output = Command::new("openssl").args(arguments).current_dir(directory).output();
        let output = output.expect("openssl is installed");
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn openssl_verifies_what_is_signed() {
        let data = tempfile::tempdir().unwrap();
        let here = data.path();
        let signer = Signer::open(&here.join("identity")).unwrap();
        let again = Signer::open(&here.join("identity")).unwrap();
        assert_eq!(signer.certificate_pem(), again.certificate_pem());
        let mode = fs::metadata(here.join("identity/key.der")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(here.join("certificate.pem"), signer.certificate_pem()).unwrap();
        fs::write(here.join("document"), DOCUMENT).unwrap();
        let signature = signer.signature(DOCUMENT).unwrap();
        fs::write(here.join("signature.txt"), format!("{signature}\n")).unwrap();
        let message = signer.pkcs7(DOCUMENT).unwrap();
        fs::write(
            here.join("pkcs7"),
            format!("-----BEGIN PKCS7-----\n{message}\n-----END PKCS7-----\n"),
        )
        .unwrap();

        let subject = openssl(here, &["x509", "-in", "certificate.pem", "-noout", "-subject"]);
        assert!(subject.unwrap().contains("gureum"));
        let verified = ["verify", "-CAfile", "certificate.pem", "certificate.pem"];
        assert!(openssl(here, &verified).is_some(), "it is signed by itself");
        openssl(here, &["x509", "-in", "certificate.pem", "-pubkey", "-noout", "-out", "public"])
            .unwrap();
        openssl(here, &["base64", "-d", "-in", "signature.txt", "-out", "signature"]).unwrap();
        let verify =
            ["dgst", "-sha256", "-verify", "public", "-signature", "signature", "document"];
        assert!(openssl(here, &verify).is_some());
        for tool in ["smime", "cms"] {
            let verify = [
                tool,
                "-verify",
                "-in",
                "pkcs7",
                "-inform",
                "PEM",
                "-certfile",
                "certificate.pem",
                "-noverify",
            ];
            assert_eq!(openssl(here, &verify).as_deref(), Some(DOCUMENT), "{tool}");
            let trusting = [tool, "-verify", "-in", "pkcs7", "-inform", "PEM", "-noverify"];
            assert!(openssl(here, &trusting).is_none(), "the message must not vouch for itself");
        }
        fs::write(here.join("document"), DOCUMENT.replace("i-0", "i-1")).unwrap();
        assert!(openssl(here, &verify).is_none(), "another document");
    }

    #[test]
    fn a_damaged_key_is_named() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("key.der"), b"no key").unwrap();
        let error = Signer::open(data.path()).unwrap_err();
        assert!(error.to_string().contains("key.der"), "{error}");
    }
}
