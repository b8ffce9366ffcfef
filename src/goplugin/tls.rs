//! Mutual TLS between a host and the one process it started (go-plugin's "AutoMTLS").
//!
//! Each side makes a one-off certificate and hands it to the other out of band: the host through
//! `PLUGIN_CLIENT_CERT`, the plugin in the handshake line. Trust is therefore a comparison of
//! bytes, not a path: the host presents a self-signed P-521 *authority* certificate as its own
//! leaf, which path validation rightly refuses. The handshake signature is still checked, or
//! anybody could present a copy of the certificate. Verifying P-521 needs aws-lc-rs; ring cannot.
//!
//! Source: go-plugin `mtls.go`; variants tried against OpenBao 2.7.2.

use std::sync::Arc;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};

use super::Error;

/// The name in both certificates; hosts check it.
const SERVER_NAME: &str = "localhost";
/// gRPC hosts refuse a connection that did not negotiate HTTP/2 by name.
const ALPN: &[u8] = b"h2";

/// TLS settings for both directions, made for one host and one process.
#[derive(Clone, Debug)]
pub(super) struct MutualTls {
    /// For the host's connections to us.
    pub(super) server: Arc<ServerConfig>,
    /// For our connections to the host.
    pub(super) client: Arc<ClientConfig>,
    /// Our certificate, for the handshake line.
    pub(super) certificate: CertificateDer<'static>,
    /// The name to ask a host's certificate for.
    pub(super) server_name: ServerName<'static>,
    provider: Arc<CryptoProvider>,
}

impl MutualTls {
    /// Makes a key pair and a certificate, and pins the host's.
    pub(super) fn new(host: CertificateDer<'static>) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server_name = ServerName::try_from(SERVER_NAME)
            .map_err(|invalid| Error::Tls(rustls::Error::General(invalid.to_string())))?;
        let (certificate, key) = own_certificate()?;
        let pinned = Arc::new(PinnedPeer {
            certificate: host,
            provider: Arc::clone(&provider),
        });
        let chain = vec![certificate.clone()];

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_client_cert_verifier(Arc::clone(&pinned) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(Error::Tls)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the verifier; and nobody resumes a one-off connection.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_client_auth_cert(chain, key)
            .map_err(Error::Tls)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();

        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            certificate,
            server_name,
            provider,
        })
    }

    /// Fills `bytes` from the TLS library's random generator.
    pub(super) fn random(&self, bytes: &mut [u8]) -> Result<(), Error> {
        self.provider
            .secure_random
            .fill(bytes)
            .map_err(|_failed| Error::Random)
    }
}

/// Makes a P-256 certificate. It names both uses, because this process is the TLS *client* on
/// brokered connections.
fn own_certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
    let make = || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new([String::from(SERVER_NAME)])?;
        params
            .distinguished_name
            .push(DnType::CommonName, SERVER_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.self_signed(&key)?;
        Ok((certificate, key))
    };
    let (certificate, key) = make().map_err(Error::OwnCertificate)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key)))
}

/// Accepts exactly one certificate, in either direction.
#[derive(Debug)]
struct PinnedPeer {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl PinnedPeer {
    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        // Not a secret: a plain comparison will do.
        if presented.as_ref() == self.certificate.as_ref() {
            Ok(())
        } else {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn signature12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn signature13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for PinnedPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: the host has one certificate and sends it unasked.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for PinnedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutual_tls() -> MutualTls {
        let (host, _) = own_certificate().unwrap();
        MutualTls::new(host).unwrap()
    }

    #[test]
    fn both_directions_speak_http2_and_resume_nothing() {
        let tls = mutual_tls();
        assert_eq!(tls.server.alpn_protocols, [b"h2"]);
        assert_eq!(tls.client.alpn_protocols, [b"h2"]);
        assert_eq!(tls.server.send_tls13_tickets, 0);
        assert!(!tls.server.session_storage.can_cache());
    }

    #[test]
    fn the_certificate_is_for_a_server_and_a_client() {
        // The object identifiers of RFC 5280 section 4.2.1.12, in DER.
        let usage = |last| [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, last];
        let certificate = mutual_tls().certificate;
        for last in [1, 2] {
            let mut windows = certificate.windows(10);
            assert!(windows.any(|bytes| bytes == usage(last)), "usage {last}");
        }
    }
}
