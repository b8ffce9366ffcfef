//! A private certificate authority and the certificates that clients must accept or refuse.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

/// An authority that nobody trusts unless told to.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    ///
    /// Fails when the system has no randomness or the name is refused.
    pub fn new() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "Mailu stand-in CA");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns a certificate for `names` and its key, both in PEM.
    ///
    /// # Errors
    ///
    /// Fails when a name cannot stand in a certificate.
    pub fn certificate(&self, names: Vec<String>) -> io::Result<(String, String)> {
        let (leaf, key) = self.leaf(names, 2100)?;
        Ok((leaf.pem(), key.serialize_pem()))
    }

    fn leaf(&self, names: Vec<String>, end: i32) -> io::Result<(Certificate, KeyPair)> {
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.not_after = date_time_ymd(end, 1, 1);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let leaf = params.signed_by(&key, &self.issuer);
        Ok((leaf.map_err(io::Error::other)?, key))
    }

    /// Returns a TLS acceptor with a certificate for `names` that ends as that year begins.
    ///
    /// # Errors
    ///
    /// Fails when a name cannot stand in a certificate.
    pub fn acceptor(&self, names: Vec<String>, end: i32) -> io::Result<TlsAcceptor> {
        let (leaf, key) = self.leaf(names, end)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
