//! The key files of a device: `identity.pem` (certificate and P-256 key) and `signing.key` (the Ed25519 secret, hex).
//!
//! Both are readable by their owner only from the moment they exist, and written durably. `signing.key` is written first:
//! a crash in between leaves a signing key without a certificate, which the next start completes. The opposite, a
//! certificate without its signing key, means that somebody lost a file, and is refused: a new signing key would be a
//! stranger to every repository this device owns.

use crate::identity::{Error, Result};
use crate::model::digest::{from_hex, to_hex};
use crate::platform::durable::{self, Access};
use crate::platform::lock::Lock;
use crate::platform::{fs, random};
use crate::signer::SigningKey;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Certificate and TLS key.
pub const IDENTITY_FILE: &str = "identity.pem";
/// The key that signs snapshots.
pub const SIGNING_FILE: &str = "signing.key";
const LOCK_FILE: &str = "identity.lock";

/// Years in which a certificate holds. LocalSend apps check them; a device must not stop being itself on some day.
const VALID_YEARS: (i32, i32) = (2000, 4096);
/// Says nothing about the owner: the alias is told elsewhere, and only to those who ask.
const COMMON_NAME: &str = "lan-backup";

const COST_OF_CERTIFICATE: &str = "this device then becomes a new one and must be paired again with every other device";
const COST_OF_SIGNING_KEY: &str =
    "delete identity.pem with it; this device then becomes a new one and must be paired again with every other device";

/// Both keys, loaded.
pub(crate) struct Keys {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) signing_key: SigningKey,
    resolver: Arc<SingleCertAndKey>,
}

impl Keys {
    /// Shows the certificate and signs with its key, as server and as client.
    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::clone(&self.resolver)
    }
}

/// The one cryptography provider of the program.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Loads both keys from `folder`, making what is not there yet.
pub(crate) fn load_or_generate(folder: &Path) -> Result<Keys> {
    let identity = folder.join(IDENTITY_FILE);
    let signing = folder.join(SIGNING_FILE);
    if fs::metadata_if_there(&identity)?.is_none() {
        fs::create_private_dir_all(folder)?;
        let _lock = lock(folder)?;
        // Another process may have been faster; what it made holds.
        if fs::metadata_if_there(&identity)?.is_none() {
            if fs::metadata_if_there(&signing)?.is_none() {
                let secret = Zeroizing::new(random::bytes::<32>());
                let text = Zeroizing::new(to_hex(secret.as_slice()));
                durable::save(&signing, Access::Private, text.as_bytes())?;
            }
            durable::save(&identity, Access::Private, generate()?.as_bytes())?;
        }
    }
    load(folder)
}

/// Loads both keys from `folder`, where they are.
pub(crate) fn load(folder: &Path) -> Result<Keys> {
    let signing_key = load_signing_key(&folder.join(SIGNING_FILE))?;
    let (certificate, resolver) = load_certificate(&folder.join(IDENTITY_FILE))?;
    Ok(Keys { certificate, signing_key, resolver })
}

/// Held while the key files are made or replaced.
pub(crate) fn lock(folder: &Path) -> Result<Lock> {
    Ok(Lock::exclusive(&folder.join(LOCK_FILE))?)
}

/// A new certificate with its key, as `identity.pem` holds them.
pub(crate) fn generate() -> Result<Zeroizing<String>> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Generate)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    parameters.not_before = rcgen::date_time_ymd(VALID_YEARS.0, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(VALID_YEARS.1, 1, 1);
    let certificate = parameters.self_signed(&key).map_err(Error::Generate)?;
    let secret = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{}", certificate.pem(), secret.as_str())))
}

fn load_signing_key(path: &Path) -> Result<SigningKey> {
    let damaged = |problem: &str| damaged(path, problem, COST_OF_SIGNING_KEY);
    let text = fs::read_if_there(path)?.map(Zeroizing::new).ok_or_else(|| damaged("it is missing"))?;
    let text = std::str::from_utf8(&text).map_err(|_| damaged("it is not 64 hex digits"))?;
    let secret = from_hex::<32>(text.trim()).map(Zeroizing::new);
    Ok(SigningKey::from_bytes(&*secret.ok_or_else(|| damaged("it is not 64 hex digits"))?))
}

fn load_certificate(path: &Path) -> Result<(CertificateDer<'static>, Arc<SingleCertAndKey>)> {
    let damaged = |problem: &str| damaged(path, problem, COST_OF_CERTIFICATE);
    let text = Zeroizing::new(fs::read(path)?);
    let certificate = CertificateDer::from_pem_slice(&text).map_err(|_| damaged("it holds no certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| damaged("it holds no private key"))?;
    let certified = CertifiedKey::from_der(vec![certificate.clone()], key, &provider());
    let certified = certified.map_err(|_| damaged("certificate and key cannot be read or do not belong together"))?;
    Ok((certificate, Arc::new(SingleCertAndKey::from(certified))))
}

fn damaged(path: &Path, problem: &str, cost: &'static str) -> Error {
    Error::Damaged { path: path.to_owned(), problem: problem.to_owned(), cost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fingerprint_of;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_made_once_and_loaded_ever_after() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("new/home");
        let first = load_or_generate(&home).unwrap();
        let second = load_or_generate(&home).unwrap();
        assert_eq!(first.certificate, second.certificate);
        assert_eq!(first.signing_key.public(), second.signing_key.public());
        for name in [IDENTITY_FILE, SIGNING_FILE] {
            assert_eq!(fs::metadata(&home.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn processes_that_start_together_get_the_same_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| load_or_generate(path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for keys in &all {
            assert_eq!(fingerprint_of(&keys.certificate), fingerprint_of(&all[0].certificate));
            assert_eq!(keys.signing_key.public(), all[0].signing_key.public());
        }
    }

    #[test]
    fn a_crash_between_the_two_files_is_completed_with_the_same_signing_key() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_generate(folder.path()).unwrap();
        fs::remove_file(&folder.path().join(IDENTITY_FILE)).unwrap();
        let second = load_or_generate(folder.path()).unwrap();
        assert_eq!(first.signing_key.public(), second.signing_key.public());
        assert_ne!(first.certificate, second.certificate);
    }

    #[test]
    fn damaged_and_missing_files_are_refused_and_never_replaced() {
        for (name, content) in
            [(IDENTITY_FILE, &b"not PEM"[..]), (SIGNING_FILE, b"12"), (SIGNING_FILE, b"\xff"), (IDENTITY_FILE, b"")]
        {
            let folder = tempfile::tempdir().unwrap();
            load_or_generate(folder.path()).unwrap();
            let path = folder.path().join(name);
            durable::save(&path, Access::Private, content).unwrap();
            let error = load_or_generate(folder.path()).err().unwrap();
            assert!(matches!(&error, Error::Damaged { path: named, .. } if *named == path), "{error}");
            assert!(error.hint().unwrap().contains("paired again"));
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        let folder = tempfile::tempdir().unwrap();
        load_or_generate(folder.path()).unwrap();
        fs::remove_file(&folder.path().join(SIGNING_FILE)).unwrap();
        assert!(matches!(load_or_generate(folder.path()), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_certificate_with_the_key_of_another_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let read = |folder: &tempfile::TempDir| {
            load_or_generate(folder.path()).unwrap();
            fs::read_to_string(&folder.path().join(IDENTITY_FILE)).unwrap()
        };
        let (a, b) = (read(&one), read(&other));
        let cut = "-----BEGIN PRIVATE KEY-----";
        let mixed = format!("{}{cut}{}", a.split(cut).next().unwrap(), b.split(cut).nth(1).unwrap());
        durable::save(&one.path().join(IDENTITY_FILE), Access::Private, mixed.as_bytes()).unwrap();
        assert!(matches!(load_or_generate(one.path()), Err(Error::Damaged { .. })));
    }

    #[test]
    fn the_certificate_holds_now_and_for_ever_and_is_its_own_issuer() {
        let folder = tempfile::tempdir().unwrap();
        let keys = load_or_generate(folder.path()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&keys.certificate).unwrap();
        assert!(certificate.validity().is_valid());
        assert!(certificate.validity().not_after.timestamp() > 60_000_000_000);
        assert_eq!(certificate.subject(), certificate.issuer());
        assert!(certificate.subject().to_string().contains(COMMON_NAME));
        certificate.verify_signature(None).unwrap();
    }
}
