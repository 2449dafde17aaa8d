//! Who this device is, and whom it trusts.
//!
//! A device is the SHA-256 of its self-signed certificate (its fingerprint). The same certificate serves as server and as
//! client, so both ends of every connection know whom they talk to. Nobody vouches for anybody: a fingerprint is trusted
//! because a person typed a PIN ([`pairing`]), and is remembered in the [`trust`] store.
//!
//! The rules that every TLS configuration made here keeps:
//! - the signature of the handshake is always checked, whoever the peer is;
//! - a known peer is compared inside the handshake, before anything is sent to it;
//! - no session is ever resumed, on either side: a resumed session never asks a verifier, so an unpaired device would get
//!   back in;
//! - the cryptography provider is given, never the process's default.
//!
//! | file | what |
//! |---|---|
//! | [`certificate`] | makes, keeps and loads certificate and signing key |
//! | [`verifier`] | what both sides check in the handshake |
//! | [`rotation`] | a new certificate for the same device |
//! | [`trust`] | the remembered fingerprints with their rights |
//! | [`phones`] | LocalSend devices that may send files without a question |
//! | [`pairing`] | the PIN exchange, pure |

pub mod certificate;
pub mod pairing;
pub mod phones;
pub mod rotation;
pub mod trust;
pub mod verifier;

use crate::identity::certificate::Keys;
use crate::identity::verifier::{AnyDevice, ExpectedDevice};
use crate::model::Fingerprint;
use crate::platform;
use crate::platform::random;
use crate::signer::SigningKey;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use phones::{Phone, PhoneBook};
pub use trust::{Trust, TrustStore};
pub use verifier::WrongFingerprint;

/// The application protocol that both sides name.
const ALPN: &[u8] = b"http/1.1";

/// What went wrong with the identity, the trust store or a pairing exchange.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the identity or the trust store cannot be what this program wrote.
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What a person loses by deleting it.
        cost: &'static str,
    },
    /// A file was written by a newer version.
    #[error("`{}` has format {format}, and this version reads format 1", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The format it says it has.
        format: u32,
    },
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] platform::Error),
    /// No certificate could be made.
    #[error("no certificate could be made")]
    Generate(#[source] rcgen::Error),
    /// The cryptography library refused a configuration.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The exchange failed: a wrong PIN, or somebody in between. One text, whatever it was.
    #[error("the PIN does not match, or somebody else answered")]
    Pairing,
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { path, cost, .. } => {
                Some(format!("put `{}` back from a backup, or delete it: {cost}", path.display()))
            }
            Self::Newer { .. } => Some("use the newer version of lan-backup that wrote it".to_owned()),
            Self::Pairing => Some("look at the digits on the other screen and try again".to_owned()),
            Self::Storage(_) | Self::Generate(_) | Self::Tls(_) => None,
        }
    }
}

/// What [`Error`] is for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whom a client is willing to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this device: any other fails in the handshake, with [`WrongFingerprint`].
    Known(Fingerprint),
    /// Anybody who proves to hold the key of the certificate they show: for discovery and for pairing, never for data.
    FirstUse,
}

/// The fingerprint of a certificate: SHA-256 of its DER.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(certificate.as_ref()).into())
}

/// This device: its certificate, and the key that signs its snapshots. Cheap to clone; `Debug` shows the fingerprint only.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    keys: Keys,
    fingerprint: Fingerprint,
    former: Vec<Fingerprint>,
    server: Arc<ServerConfig>,
    instance: u32,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.inner.fingerprint.short_code())
    }
}

impl Identity {
    /// Loads the identity kept in `folder`, or makes one there. Several processes may do so at once and get the same one.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a file is there but unreadable: it is never replaced silently, because that would cost every
    /// pairing.
    pub fn load_or_generate(folder: &Path) -> Result<Self> {
        let keys = certificate::load_or_generate(folder)?;
        let fingerprint = fingerprint_of(&keys.certificate);
        let former = rotation::load(folder, fingerprint)?;
        let server = Arc::new(server_config(&keys)?);
        // Never 0, which means that nothing is said.
        let instance = random::number().max(1);
        Ok(Self { inner: Arc::new(Inner { keys, fingerprint, former, server, instance }) })
    }

    /// Drawn when the identity was loaded: tells programs that run with one identity from each other.
    pub fn instance(&self) -> u32 {
        self.inner.instance
    }

    /// Makes a new certificate for the device kept in `folder`; its signing key stays and vouches for it.
    ///
    /// # Errors
    /// A damaged identity, or a disk that fails: then the old certificate is still there.
    pub fn rotate(folder: &Path) -> Result<Self> {
        {
            let _lock = certificate::lock(folder)?;
            rotation::replace(folder)?;
        }
        Self::load_or_generate(folder)
    }

    /// The certificates that this device had before, the newest first.
    pub fn former(&self) -> &[Fingerprint] {
        &self.inner.former
    }

    /// The proof that a certificate was this device's; `None` when it was not.
    pub fn proof_of_former(&self, old: &Fingerprint) -> Option<String> {
        let was = self.inner.former.contains(old);
        was.then(|| rotation::prove(self.signing_key(), old, &self.inner.fingerprint))
    }

    /// Who this device is.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprint
    }

    /// Signs this device's snapshots.
    pub fn signing_key(&self) -> &SigningKey {
        &self.inner.keys.signing_key
    }

    /// How this device serves: asks for the client's certificate but does not insist, checks every signature, resumes nothing.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inner.server)
    }

    /// How this device calls another one: shows its own certificate, accepts what `expect` says, resumes nothing.
    pub fn client_config(&self, expect: Expect) -> Arc<ClientConfig> {
        let provider = certificate::provider();
        let verifier = Arc::new(ExpectedDevice::new(expect, &provider));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider knows both versions, as the server's configuration has shown")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.inner.keys.resolver());
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Devices have no names, and nobody on the line needs to read one.
        config.enable_sni = false;
        Arc::new(config)
    }
}

fn server_config(keys: &Keys) -> Result<ServerConfig> {
    let provider: Arc<CryptoProvider> = certificate::provider();
    let verifier = Arc::new(AnyDevice::new(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(Error::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(keys.resolver());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
