//! What both sides check in a TLS handshake. There is no authority and no name: only fingerprints, and the proof that the
//! other side holds the key of the certificate it shows, which is checked whoever it is.

use crate::identity::{Expect, fingerprint_of};
use crate::model::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
