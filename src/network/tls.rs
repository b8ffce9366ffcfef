//! TLS towards everything that is called: which certificates are believed, and for which name.
//!
//! The crypto provider is named explicitly; no process-wide default is read or installed. A given
//! CA replaces the public roots: who runs a private CA does not want a public one to vouch for
//! the same name.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Utc};
use rustls::client::Resumption;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, DnsName};
use rustls::{ClientConfig, RootCertStore};
use url::Host;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// Largest CA bundle accepted, in bytes.
const MAX_CA: usize = 64 * 1024;

/// Why a PEM text is no CA bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CaError {
    /// More than 64 KiB.
    #[error("the CA certificate has more than 64 KiB")]
    TooLarge,
    /// No certificate in it.
    #[error("the CA certificate holds no PEM certificate")]
    Empty,
    /// Not PEM, or not a certificate in it.
    #[error("the CA certificate is not valid PEM")]
    Malformed,
    /// A private key, which must not be stored as if it were public.
    #[error("the CA certificate holds a private key; give the certificates only")]
    PrivateKey,
}

/// The text is no name that a certificate can be checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the TLS server name must be a host name")]
pub struct ServerNameError;

/// The public roots, shared by all clients.
static PUBLIC_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    Arc::new(RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    })
});

/// Parses a bundle of CA certificates in PEM form, up to 64 KiB.
///
/// # Errors
///
/// [`CaError`] for an empty, broken or too large bundle, and for one with a private key in it.
pub fn parse_ca(pem: &str) -> Result<Arc<RootCertStore>, CaError> {
    if pem.len() > MAX_CA {
        return Err(CaError::TooLarge);
    }
    // Said first: the parser skips what it does not know, and a broken key is still a key.
    if pem.contains("PRIVATE KEY") {
        return Err(CaError::PrivateKey);
    }
    let mut roots = RootCertStore::empty();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        match section {
            Ok((SectionKind::Certificate, der)) => roots
                .add(CertificateDer::from(der))
                .map_err(|_no_text| CaError::Malformed)?,
            Ok(_) | Err(_) => return Err(CaError::Malformed),
        }
    }
    match (roots.is_empty(), pem.trim().is_empty()) {
        (false, _) => Ok(Arc::new(roots)),
        (true, true) => Err(CaError::Empty),
        (true, false) => Err(CaError::Malformed),
    }
}

/// Checks a `tls_server_name` and returns its lower-case form. An address is refused: it would be
/// connected to instead of being verified.
///
/// # Errors
///
/// [`ServerNameError`] for anything but a host name.
pub fn parse_server_name(text: &str) -> Result<String, ServerNameError> {
    let name = DnsName::try_from(text).map_err(|_no_text| ServerNameError)?;
    let last = text.rsplit('.').next().unwrap_or_default();
    if text.ends_with('.') || last.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(ServerNameError);
    }
    // The name takes the host's place in the URL, whose grammar is narrower: a broken `xn--` label,
    // for one, would make every call fail.
    match Host::parse(name.as_ref()) {
        Ok(Host::Domain(host)) if host.eq_ignore_ascii_case(name.as_ref()) => Ok(host),
        Ok(_) | Err(_) => Err(ServerNameError),
    }
}

/// Builds the TLS side of a client: TLS 1.2 and 1.3, the given roots or the public ones.
///
/// Without resumption: every connection shows its certificate anew, and no ticket links two.
pub(crate) fn client_config(ca_cert: Option<&str>) -> Result<ClientConfig, CaError> {
    let roots = match ca_cert {
        Some(pem) => parse_ca(pem)?,
        None => Arc::clone(&PUBLIC_ROOTS),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // Cannot happen: the provider has suites for both versions.
        .map_err(|_no_text| CaError::Malformed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Returns the `notAfter` of a certificate in DER form; `None` if it is not to be read, which TLS
/// may have accepted all the same.
pub(crate) fn certificate_end(der: &[u8]) -> Option<DateTime<Utc>> {
    let certificate = Certificate::from_der(der).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    let seconds = i64::try_from(end.to_unix_duration().as_secs()).ok()?;
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()])
            .unwrap()
            .cert
            .pem()
    }

    #[test]
    fn a_bundle_holds_certificates_and_nothing_else() {
        let bundle = format!("# roots\n{}{}", certificate(), certificate());
        assert_eq!(parse_ca(&bundle).unwrap().len(), 2);
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let unfinished = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        for (pem, why) in [
            (String::new(), CaError::Empty),
            (" \n".to_owned(), CaError::Empty),
            ("garbage".to_owned(), CaError::Malformed),
            (broken.to_owned(), CaError::Malformed),
            (unfinished.to_owned(), CaError::Malformed),
            (format!("{}{broken}", certificate()), CaError::Malformed),
            (format!("{}{key}", certificate()), CaError::PrivateKey),
            ("a".repeat(MAX_CA + 1), CaError::TooLarge),
        ] {
            assert_eq!(parse_ca(&pem).unwrap_err(), why);
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_of_its_forms() {
        // UTCTime up to 2049, GeneralizedTime from 2050. Source: RFC 5280, section 4.1.2.5.
        for (year, text) in [(2049, "2049-12-31"), (2050, "2050-12-31")] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 12, 31);
            let certificate = params.self_signed(&key).unwrap();
            let end = certificate_end(certificate.der()).unwrap();
            assert_eq!(end.date_naive().to_string(), text);
            let cut = certificate.der().split_last().unwrap().1;
            assert_eq!(certificate_end(cut), None);
        }
        assert_eq!(certificate_end(b""), None);
    }

    #[test]
    fn a_server_name_is_a_host_name() {
        assert_eq!(
            parse_server_name("Mail.Acme.Example"),
            Ok("mail.acme.example".to_owned())
        );
        for text in [
            "",
            "10.0.0.1",
            "::1",
            "a b",
            "mail.example:443",
            "mail.example.",
            // A certificate could carry these; a URL cannot.
            "xn--a.example",
            "xn--.example",
        ] {
            assert_eq!(parse_server_name(text), Err(ServerNameError), "{text}");
        }
    }
}
