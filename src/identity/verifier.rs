//! What both sides check in a TLS handshake. There is no authority and no name: only fingerprints, and the proof that the
//! other side holds the key of the certificate it shows, which is checked whoever it is.

use crate::identity::{Expect, fingerprint_of};
use crate::model::Fingerprint;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, OtherError};
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

/// Another device answered than the one that was expected. Ends the handshake before anything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another device answered: its fingerprint is {found} instead of {expected}")]
pub struct WrongFingerprint {
    /// Whom we wanted.
    pub expected: Fingerprint,
    /// Who answered.
    pub found: Fingerprint,
}

impl WrongFingerprint {
    /// Finds it in a chain of errors, however deep the HTTP libraries wrapped it.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            if let Some(rustls::Error::Other(OtherError(inner))) = error.downcast_ref::<rustls::Error>() {
                return Self::find(inner.as_ref());
            }
            // `io::Error::source` skips the error that it wraps.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match wrapped {
                Some(wrapped) => Some(wrapped),
                None => error.source(),
            };
        }
        None
    }
}

/// The part of a verifier that checks the handshake's signature, whoever the other side is: the same in every verifier, by its
/// `algorithms`. Two traits ask for it, so it is text and not a type.
macro_rules! signatures_are_checked {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}
#[cfg(test)]
pub(crate) use signatures_are_checked;

/// The client's check: the expected device, or anybody where [`Expect::FirstUse`] says so.
#[derive(Debug)]
pub(crate) struct ExpectedDevice {
    expect: Expect,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ExpectedDevice {
    pub(crate) fn new(expect: Expect, provider: &CryptoProvider) -> Self {
        Self { expect, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for ExpectedDevice {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = fingerprint_of(end_entity);
        match self.expect {
            Expect::Known(expected) if expected != found => {
                Err(OtherError(Arc::new(WrongFingerprint { expected, found })).into())
            }
            Expect::Known(_) | Expect::FirstUse => Ok(ServerCertVerified::assertion()),
        }
    }

    signatures_are_checked!();
}

/// The server's check: asks for a certificate and lets anybody in who holds its key, or who has none. What a caller may do
/// is decided for each request by its fingerprint.
#[derive(Debug)]
pub(crate) struct AnyDevice {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyDevice {
    pub(crate) fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for AnyDevice {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures_are_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::identity::certificate::{IDENTITY_FILE, provider};
    use crate::platform::fs;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

    fn device() -> (tempfile::TempDir, Identity) {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_generate(folder.path()).unwrap();
        (folder, identity)
    }

    /// Carries bytes to and fro until both are done; the first error is the client's or the server's.
    fn handshake(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), (&'static str, rustls::Error)> {
        let name = ServerName::try_from("device.lan-backup.invalid").unwrap();
        let mut client = ClientConnection::new(client, name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().map_err(|error| ("server", error))?;
            }
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().map_err(|error| ("client", error))?;
            }
        }
        Ok((client, server))
    }

    fn only(
        version: &'static SupportedProtocolVersion,
        expect: Expect,
        resolver: Arc<SingleCertAndKey>,
    ) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
        let verifier = Arc::new(ExpectedDevice::new(expect, &provider()));
        Arc::new(config.dangerous().with_custom_certificate_verifier(verifier).with_client_cert_resolver(resolver))
    }

    /// The certificate of one device with the key of another: what an impostor can show.
    fn stolen(certificate: &Identity, key_folder: &tempfile::TempDir) -> Arc<SingleCertAndKey> {
        let pem = fs::read(&key_folder.path().join(IDENTITY_FILE)).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem).unwrap();
        let key = provider().key_provider.load_private_key(key).unwrap();
        let chain = vec![certificate.inner.keys.certificate.clone()];
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
    }

    #[test]
    fn both_sides_learn_who_the_other_is_and_nothing_can_be_resumed() {
        let ((_a, laptop), (_b, nas)) = (device(), device());
        for version in VERSIONS {
            let config = only(version, Expect::Known(nas.fingerprint()), laptop.inner.keys.resolver());
            for _ in 0..2 {
                let (client, server) = handshake(Arc::clone(&config), nas.server_config()).unwrap();
                assert_eq!(fingerprint_of(&client.peer_certificates().unwrap()[0]), nas.fingerprint());
                assert_eq!(fingerprint_of(&server.peer_certificates().unwrap()[0]), laptop.fingerprint());
                // This client would resume if the server let it.
                assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full), "{version:?}");
                assert_eq!(client.tls13_tickets_received(), 0);
            }
        }
    }

    #[test]
    fn our_client_resumes_nothing_even_with_a_server_that_would() {
        let ((_a, laptop), (_b, nas)) = (device(), device());
        for version in VERSIONS {
            let eager = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
            let eager = eager.with_no_client_auth().with_cert_resolver(nas.inner.keys.resolver());
            let eager = Arc::new(eager);
            let ours = laptop.client_config(Expect::Known(nas.fingerprint()));
            // The control: a client with the library's defaults is resumed.
            let usual = only(version, Expect::FirstUse, laptop.inner.keys.resolver());
            let kind = |config: &Arc<ClientConfig>| {
                let (client, _) = handshake(Arc::clone(config), Arc::clone(&eager)).unwrap();
                client.handshake_kind().unwrap()
            };
            assert_eq!((kind(&usual), kind(&usual)), (rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed));
            assert_eq!((kind(&ours), kind(&ours)), (rustls::HandshakeKind::Full, rustls::HandshakeKind::Full));
        }
    }

    #[test]
    fn another_device_is_refused_by_name_in_the_handshake() {
        let ((_a, laptop), (_b, nas), (_c, other)) = (device(), device(), device());
        for version in VERSIONS {
            let config = only(version, Expect::Known(nas.fingerprint()), laptop.inner.keys.resolver());
            let (side, error) = handshake(config, other.server_config()).unwrap_err();
            assert_eq!(side, "client");
            let wrong = WrongFingerprint { expected: nas.fingerprint(), found: other.fingerprint() };
            assert_eq!(WrongFingerprint::find(&error), Some(wrong));
            assert_eq!(WrongFingerprint::find(&io::Error::other(error)), Some(wrong));
        }
        assert_eq!(WrongFingerprint::find(&io::Error::other("else")), None);
    }

    #[test]
    fn whoever_shows_a_certificate_without_holding_its_key_is_refused_on_both_sides() {
        let ((_a, laptop), (_b, nas), (thief_folder, _thief)) = (device(), device(), device());
        for version in VERSIONS {
            for expect in [Expect::Known(nas.fingerprint()), Expect::FirstUse] {
                let (side, _) =
                    handshake(only(version, expect, stolen(&laptop, &thief_folder)), nas.server_config()).unwrap_err();
                assert_eq!(side, "server", "a thief came in with the laptop's certificate");
                let impostor =
                    ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
                let impostor = impostor.with_no_client_auth().with_cert_resolver(stolen(&nas, &thief_folder));
                let config = only(version, expect, laptop.inner.keys.resolver());
                let (side, _) = handshake(config, Arc::new(impostor)).unwrap_err();
                assert_eq!(side, "client", "a thief was taken for the nas");
            }
        }
    }

    #[test]
    fn a_caller_without_a_certificate_is_let_in_as_nobody() {
        let (_folder, nas) = device();
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS).unwrap();
        let verifier = Arc::new(ExpectedDevice::new(Expect::FirstUse, &provider()));
        let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        let (_, server) = handshake(Arc::new(config), nas.server_config()).unwrap();
        assert!(server.peer_certificates().is_none());
    }
}
