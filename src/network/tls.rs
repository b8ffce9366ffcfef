//! TLS towards everything that is called: which certificates are believed, and for which name.
//!
//! The crypto provider is named explicitly; no process-wide default is read or installed. A given
//! CA replaces the public roots: who runs a private CA does not want a public one to vouch for
//! the same name.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Utc};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::host::host_name;

/// Largest CA bundle accepted, in bytes.
const MAX_CA: usize = 64 * 1024;

/// What a PEM block begins with.
const BEGIN: &str = "-----BEGIN ";

/// Why a PEM text is no CA bundle. Blocks are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CaError {
    /// More than 64 KiB.
    #[error("the CA certificate has more than 64 KiB")]
    TooLarge,
    /// Nothing in it.
    #[error("the CA certificate holds no PEM certificate")]
    Empty,
    /// No PEM block in it.
    #[error("the CA certificate is not valid PEM: it has no block that begins with -----BEGIN")]
    Malformed,
    /// A block that is no readable certificate.
    #[error("block {block} of the CA certificate is damaged or no certificate")]
    Damaged {
        /// Which one.
        block: usize,
    },
    /// A private key, which must not be stored as if it were public.
    #[error(
        "block {block} of the CA certificate is a private key; give the certificates only, and \
         make a new key if this one is in use"
    )]
    PrivateKey {
        /// Which one.
        block: usize,
    },
}

/// A given CA certificate that is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredCa {
    /// Which block of the bundle, from 1.
    pub block: usize,
    /// When it ended.
    pub ended: DateTime<Utc>,
}

/// The text is no name that a certificate can be checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "the TLS server name must be a host name, such as mail.acme.example, and no address. Write a \
     name with other letters as xn--… if it is not taken"
)]
pub struct ServerNameError;

/// The public roots, shared by all clients.
static PUBLIC_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    Arc::new(RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    })
});

/// Parses a bundle of CA certificates in PEM form, up to 64 KiB. What stands between the blocks is
/// a comment, whatever it says.
///
/// # Errors
///
/// [`CaError`] for an empty, broken or too large bundle, and for one with a private key in it.
pub fn parse_ca(pem: &str) -> Result<Arc<RootCertStore>, CaError> {
    certificates(pem).map(|(roots, _)| Arc::new(roots))
}

/// Returns which certificates of a bundle have ended by `now`. `rustls` takes a CA for what it
/// was given as, without looking at its time; other clients of the same server do look.
#[must_use]
pub fn expired_cas(pem: &str, now: DateTime<Utc>) -> Vec<ExpiredCa> {
    let Ok((_, certificates)) = certificates(pem) else {
        return Vec::new();
    };
    let ends = certificates.iter().map(|der| certificate_end(der));
    let numbered = (1..).zip(ends);
    numbered
        .filter_map(|(block, end)| {
            let ended = end.filter(|end| *end < now)?;
            Some(ExpiredCa { block, ended })
        })
        .collect()
}

/// Reads every block of a bundle.
fn certificates(pem: &str) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), CaError> {
    if pem.len() > MAX_CA {
        return Err(CaError::TooLarge);
    }
    let blocks = || (1..).zip(pem.split(BEGIN).skip(1));
    // Said first: a broken key, or one behind a broken block, is still a key.
    let is_key = |text: &str| {
        let label = text.split("-----").next().unwrap_or_default();
        label.contains("PRIVATE KEY")
    };
    if let Some((block, _)) = blocks().find(|(_, text)| is_key(text)) {
        return Err(CaError::PrivateKey { block });
    }
    let mut roots = RootCertStore::empty();
    let mut kept = Vec::new();
    for (block, text) in blocks() {
        let damaged = CaError::Damaged { block };
        let der = certificate(text).ok_or(damaged)?;
        roots.add(der.clone()).map_err(|_no_text| damaged)?;
        kept.push(der);
    }
    match (kept.is_empty(), pem.trim().is_empty()) {
        (false, _) => Ok((roots, kept)),
        (true, true) => Err(CaError::Empty),
        (true, false) => Err(CaError::Malformed),
    }
}

/// Reads the one certificate that a block holds, whose text begins behind [`BEGIN`].
fn certificate(text: &str) -> Option<CertificateDer<'static>> {
    // Indented as a file of settings has it, a block is still one.
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let block = format!("{BEGIN}{}\n", lines.join("\n"));
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(block.as_bytes());
    match (sections.next(), sections.next()) {
        (Some(Ok((SectionKind::Certificate, der))), None) => Some(CertificateDer::from(der)),
        _ => None,
    }
}

/// Checks a `tls_server_name` and returns its one spelling. An address is refused: it would be
/// connected to instead of being verified.
///
/// # Errors
///
/// [`ServerNameError`] for anything but a host name.
pub fn parse_server_name(text: &str) -> Result<String, ServerNameError> {
    host_name(text).ok_or(ServerNameError)
}

/// Builds the TLS side of a client: TLS 1.2 and 1.3, the given roots or the public ones.
///
/// Without resumption: every connection shows its certificate anew, and no ticket links two.
pub(crate) fn client_config(ca_cert: Option<&str>) -> Result<ClientConfig, CaError> {
    let (roots, given) = match ca_cert {
        Some(pem) => certificates(pem).map(|(roots, given)| (Arc::new(roots), given))?,
        None => (Arc::clone(&PUBLIC_ROOTS), Vec::new()),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Neither can happen: there are roots, and the provider has suites for both versions.
    let verifier = Verifier::new(roots, given, &provider).ok_or(CaError::Empty)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_no_text| CaError::Malformed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The verifier of `rustls`, and one exception from it: a certificate that was itself given, byte
/// for byte, is believed for its names and its time. `openssl req -x509` makes CAs, which the
/// verifier never takes for a server's certificate, and they are what small servers show.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(
        roots: Arc<RootCertStore>,
        given: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Option<Self> {
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        let webpki = webpki.build().ok()?;
        Some(Self { webpki, given })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Not a secret: a plain comparison will do.
        let mut given = self.given.iter();
        if !given.any(|given| given.as_ref() == end_entity.as_ref()) {
            return self.webpki.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        }
        check_time(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks that `now` lies in the time of a certificate.
fn check_time(der: &[u8], now: UnixTime) -> Result<(), CertificateError> {
    let certificate =
        Certificate::from_der(der).map_err(|_no_text| CertificateError::BadEncoding)?;
    let validity = certificate.tbs_certificate().validity();
    let now = now.as_secs();
    if now > validity.not_after.to_unix_duration().as_secs() {
        Err(CertificateError::Expired)
    } else if now < validity.not_before.to_unix_duration().as_secs() {
        Err(CertificateError::NotValidYet)
    } else {
        Ok(())
    }
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
        let good = certificate();
        let cut = good.replacen("-----END CERTIFICATE-----", "", 1);
        let public = good.replace("CERTIFICATE", "PUBLIC KEY");
        let damaged = |block| CaError::Damaged { block };
        for (pem, why) in [
            (String::new(), CaError::Empty),
            (" \n".to_owned(), CaError::Empty),
            ("garbage".to_owned(), CaError::Malformed),
            (broken.to_owned(), damaged(1)),
            (unfinished.to_owned(), damaged(1)),
            (format!("{good}{broken}"), damaged(2)),
            (format!("{good}{good}{broken}{good}"), damaged(3)),
            // Which block has no end is told, not the one behind it.
            (format!("{good}{cut}{good}"), damaged(2)),
            (format!("{good}{public}"), damaged(2)),
            (format!("{good}{key}"), CaError::PrivateKey { block: 2 }),
            (
                format!("{broken}{good}{key}"),
                CaError::PrivateKey { block: 3 },
            ),
            (
                String::from("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA"),
                CaError::PrivateKey { block: 1 },
            ),
            ("a".repeat(MAX_CA + 1), CaError::TooLarge),
        ] {
            assert_eq!(parse_ca(&pem).unwrap_err(), why);
        }
    }

    #[test]
    fn what_stands_between_the_blocks_is_a_comment_and_an_indented_block_is_one() {
        let good = certificate();
        let commented = format!(
            "PRIVATE KEY of this CA: in the safe, see BEGIN of page 2\n{good}\nend of it\n{good}"
        );
        assert_eq!(parse_ca(&commented).unwrap().len(), 2);
        let indented = good.replace('\n', "\r\n      ");
        assert_eq!(parse_ca(&format!("   {indented}")).unwrap().len(), 1);
    }

    #[test]
    fn a_ca_that_has_ended_is_found_by_its_number() {
        let until = |year| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 12, 31);
            params.self_signed(&key).unwrap().pem()
        };
        let bundle = format!("{}{}{}", until(2040), until(2020), until(2025));
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let ended = expired_cas(&bundle, now.into());
        let ended: Vec<_> = ended
            .iter()
            .map(|it| (it.block, it.ended.date_naive().to_string()))
            .collect();
        let dates = ["2020-12-31", "2025-12-31"].map(str::to_owned);
        assert_eq!(ended, [2, 3].into_iter().zip(dates).collect::<Vec<_>>());
        assert!(expired_cas(&until(2040), now.into()).is_empty());
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
        for (text, name) in [
            ("Mail.Acme.Example", "mail.acme.example"),
            ("mail.acme.example.", "mail.acme.example"),
            ("m\u{fc}ller.example", "xn--mller-kva.example"),
        ] {
            assert_eq!(parse_server_name(text).as_deref(), Ok(name));
        }
        for text in [
            "",
            "10.0.0.1",
            "::1",
            "[::1]",
            "a b",
            "mail.example:443",
            "mail.example..",
            // A certificate could carry these; a URL cannot.
            "xn--a.example",
            "xn--.example",
        ] {
            assert_eq!(parse_server_name(text), Err(ServerNameError), "{text}");
        }
    }
}
