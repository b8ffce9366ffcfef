//! [`TlsFault`]: why a TLS handshake did not end well, by what one does about it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Why a TLS handshake did not end well: the TLS library's own verdict, as a closed list. Never with
/// a text or a name of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TlsFault {
    /// The certificate, or one of its chain, has ended.
    #[error("the server's certificate, or one of its chain, has expired")]
    Expired,
    /// The certificate, or one of its chain, has not begun.
    #[error("the server's certificate, or one of its chain, is not valid yet")]
    NotYetValid,
    /// It is another host's.
    #[error("the server's certificate is for another name")]
    OtherName,
    /// It has no subject alternative name.
    #[error(
        "the server's certificate has no subject alternative name, and a common name does not \
         count"
    )]
    NoName,
    /// No trusted CA has issued it, as far as the server's chain shows.
    #[error(
        "the issuer of the server's certificate is not known, or the chain that the server sends \
         is incomplete"
    )]
    UnknownIssuer,
    /// It is the certificate of a CA.
    #[error("the server shows the certificate of a CA as its own")]
    CaAsServer,
    /// It is for another use than a server's.
    #[error("the server's certificate is not issued for servers (extended key usage)")]
    Purpose,
    /// It is signed in a way that is not accepted.
    #[error("the server's certificate is signed with an algorithm or a key that is not accepted")]
    Algorithm,
    /// It is not signed by the trusted CA of its issuer's name.
    #[error(
        "the issuer of the server's certificate is not known: the trusted CA of that name has not \
         signed it"
    )]
    Signature,
    /// It cannot be read.
    #[error("the server's certificate cannot be read")]
    Damaged,
    /// It is of X.509 version 1 or 2.
    #[error("the server's certificate is of an old format (X.509 version 1)")]
    Version,
    /// It has a critical extension that is not known.
    #[error("the server's certificate has a critical extension that is not known")]
    Extension,
    /// A CA of its chain may not issue it.
    #[error(
        "a CA in the chain may not issue the server's certificate (name constraint, path length, \
         or no CA at all)"
    )]
    Constraint,
    /// It was revoked.
    #[error("the server's certificate was revoked")]
    Revoked,
    /// No version or cipher in common.
    #[error("the server offers no TLS 1.2 or 1.3, or no cipher suite that is accepted")]
    Protocol,
    /// The port speaks something else.
    #[error("the server does not speak TLS at this port")]
    NotTls,
    /// It wants to know who calls.
    #[error("the server wants a client certificate, which is not supported")]
    ClientCertificate,
    /// It ended the handshake.
    #[error("the server ended the TLS handshake with an alert")]
    Alert,
    /// Anything else.
    #[error("the TLS handshake failed")]
    Other,
}

impl TlsFault {
    /// Every fault, in the order of the reference.
    pub const ALL: [Self; 19] = [
        Self::Expired,
        Self::NotYetValid,
        Self::OtherName,
        Self::NoName,
        Self::UnknownIssuer,
        Self::CaAsServer,
        Self::Purpose,
        Self::Algorithm,
        Self::Signature,
        Self::Damaged,
        Self::Version,
        Self::Extension,
        Self::Constraint,
        Self::Revoked,
        Self::Protocol,
        Self::NotTls,
        Self::ClientCertificate,
        Self::Alert,
        Self::Other,
    ];

    /// Returns the word under which the fault is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::OtherName => "other_name",
            Self::NoName => "no_name",
            Self::UnknownIssuer => "unknown_issuer",
            Self::CaAsServer => "ca_as_server",
            Self::Purpose => "purpose",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Damaged => "damaged",
            Self::Version => "version",
            Self::Extension => "extension",
            Self::Constraint => "constraint",
            Self::Revoked => "revoked",
            Self::Protocol => "protocol",
            Self::NotTls => "not_tls",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "alert",
            Self::Other => "other",
        }
    }

    /// Finds the fault of a word; `None` for a word of another release.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == word)
    }

    /// Finds the TLS library's verdict in an error of the stream, by its type and never by its text;
    /// `None` if it is about something else.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let wrapped = error.get_ref()?.downcast_ref::<Error>();
        wrapped.map(Self::from)
    }

    /// Returns what to do about it, one clause without a full stop.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Expired => "Renew it there, the intermediate certificates too",
            Self::NotYetValid => "Check the clocks of both servers, or wait until it begins",
            Self::OtherName => {
                "Connect by a name that stands in the certificate, or set tls_server_name to one \
                 that does"
            }
            Self::NoName => "Issue it anew with a subjectAltName",
            Self::UnknownIssuer => {
                "Set ca_cert to the CA that issued it, or let the server send its intermediate \
                 certificates too"
            }
            Self::CaAsServer => {
                "Issue a server certificate (CA:FALSE); if it is a self-signed one that is meant \
                 so, set ca_cert to exactly this certificate"
            }
            Self::Purpose => "Issue it anew with the extended key usage serverAuth",
            Self::Algorithm => {
                "Issue it and its chain anew, signed with SHA-256 or better and a key of RSA 2048, \
                 P-256 or better"
            }
            Self::Signature => {
                "Set ca_cert to the CA that issued it: the given one has the same name and another \
                 key"
            }
            Self::Damaged | Self::Version | Self::Extension => "Issue it anew as X.509 version 3",
            Self::Constraint => "Let a CA issue it that may do so for this name",
            Self::Revoked => "Issue it anew",
            Self::Protocol => "Switch on TLS 1.2 or 1.3 there",
            Self::NotTls => {
                "Check the port and how TLS begins there (mail: 465 with TLS, 587 with STARTTLS)"
            }
            Self::ClientCertificate => "Let this server in without one",
            Self::Alert => "See its log: it may not know the name that is asked for",
            Self::Other => "See the server's log",
        }
    }

    /// Returns what was met and what to do about it, as a sentence and a clause.
    #[must_use]
    pub fn told(self) -> String {
        format!("{self}. {}", self.remedy())
    }
}

impl From<&Error> for TlsFault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::PeerIncompatible(_) => Self::Protocol,
            Error::InvalidMessage(_) => Self::NotTls,
            Error::NoCertificatesPresented => Self::Damaged,
            Error::AlertReceived(alert) => of_alert(*alert),
            // The library may get further ones.
            _ => Self::Other,
        }
    }
}

const fn of_alert(alert: AlertDescription) -> TlsFault {
    match alert {
        AlertDescription::CertificateRequired => TlsFault::ClientCertificate,
        AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity
        | AlertDescription::HandshakeFailure => TlsFault::Protocol,
        _ => TlsFault::Alert,
    }
}

#[expect(
    deprecated,
    reason = "the library may still give those that it has replaced"
)]
fn of_certificate(error: &CertificateError) -> TlsFault {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFault::NotYetValid
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            TlsFault::NoName
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFault::OtherName
        }
        CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsFault::Purpose
        }
        CertificateError::UnsupportedSignatureAlgorithm
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            TlsFault::Algorithm
        }
        CertificateError::BadSignature => TlsFault::Signature,
        CertificateError::BadEncoding => TlsFault::Damaged,
        CertificateError::UnhandledCriticalExtension => TlsFault::Extension,
        CertificateError::Revoked => TlsFault::Revoked,
        CertificateError::Other(inner) => match inner.0.downcast_ref() {
            Some(error) => of_path(error),
            None => TlsFault::Other,
        },
        // The library may get further ones.
        _ => TlsFault::Other,
    }
}

/// What the TLS library passes on from the one that builds the chain.
const fn of_path(error: &webpki::Error) -> TlsFault {
    match error {
        webpki::Error::CaUsedAsEndEntity => TlsFault::CaAsServer,
        webpki::Error::UnsupportedCertVersion => TlsFault::Version,
        webpki::Error::EndEntityUsedAsCa
        | webpki::Error::PathLenConstraintViolated
        | webpki::Error::NameConstraintViolation
        | webpki::Error::MalformedNameConstraint
        | webpki::Error::InvalidNetworkMaskConstraint
        | webpki::Error::UnsupportedNameType
        | webpki::Error::MaximumPathDepthExceeded => TlsFault::Constraint,
        webpki::Error::SignatureAlgorithmMismatch => TlsFault::Signature,
        webpki::Error::EmptyEkuExtension => TlsFault::Purpose,
        webpki::Error::UnsupportedCriticalExtension => TlsFault::Extension,
        webpki::Error::ExtensionValueInvalid
        | webpki::Error::InvalidSerialNumber
        | webpki::Error::MalformedDnsIdentifier
        | webpki::Error::MalformedExtensions => TlsFault::Damaged,
        // The library may get further ones.
        _ => TlsFault::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
        IsCa, Issuer, KeyPair, date_time_ymd,
    };
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{PeerIncompatible, ServerConfig};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::network::tls::client_config;

    const NAME: &str = "mail.acme.example";

    struct Ca {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    /// A CA, or what says so.
    fn authority(name: &str, is_ca: IsCa) -> Ca {
        let (params, key) = (named(name, &[], is_ca), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Ca {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn ca() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    fn named(subject: &str, hosts: &[&str], is_ca: IsCa) -> CertificateParams {
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.is_ca = is_ca;
        params.not_after = date_time_ymd(2900, 1, 1);
        params
    }

    fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = named("leaf", &[NAME], IsCa::NoCa);
        change(&mut params);
        params
    }

    struct Shown {
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
    }

    fn issued(params: &CertificateParams, by: &Ca) -> Shown {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &by.issuer).unwrap();
        Shown {
            chain: vec![certificate.der().clone()],
            key,
        }
    }

    /// A handshake with a server that shows this, by a client that was given this CA.
    async fn shake(shown: Shown, ca: &str) -> Result<(), TlsFault> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(shown.key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(shown.chain, key)
            .unwrap();
        let connector = TlsConnector::from(Arc::new(client_config(Some(ca)).unwrap()));
        let (ours, theirs) = duplex(64 * 1024);
        let client = connector.connect(ServerName::try_from(NAME).unwrap(), ours);
        let server = TlsAcceptor::from(Arc::new(config)).accept(theirs);
        let (ended, _server) = tokio::join!(client, server);
        match ended {
            Ok(_stream) => Ok(()),
            Err(error) => Err(TlsFault::of(&error).expect("the library's verdict")),
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_certificate_is_told_apart() {
        let trusted = authority("trusted", ca());
        let other = authority("other", ca());
        let namesake = authority("trusted", ca());
        let clients = ExtendedKeyUsagePurpose::ClientAuth;
        for (params, by, outcome) in [
            (leaf(|_| ()), &trusted, Ok(())),
            (
                leaf(|it| it.not_after = date_time_ymd(2020, 1, 1)),
                &trusted,
                Err(TlsFault::Expired),
            ),
            (
                leaf(|it| it.not_before = date_time_ymd(2800, 1, 1)),
                &trusted,
                Err(TlsFault::NotYetValid),
            ),
            (
                named("leaf", &["mail.beta.example"], IsCa::NoCa),
                &trusted,
                Err(TlsFault::OtherName),
            ),
            (
                named(NAME, &[], IsCa::NoCa),
                &trusted,
                Err(TlsFault::NoName),
            ),
            (leaf(|_| ()), &other, Err(TlsFault::UnknownIssuer)),
            (leaf(|_| ()), &namesake, Err(TlsFault::Signature)),
            (
                leaf(|it| it.is_ca = ca()),
                &trusted,
                Err(TlsFault::CaAsServer),
            ),
            (
                leaf(|it| it.extended_key_usages = vec![clients]),
                &trusted,
                Err(TlsFault::Purpose),
            ),
        ] {
            let told = shake(issued(&params, by), &trusted.pem).await;
            assert_eq!(told, outcome);
        }
        // Whoever is no CA, and yet has issued something.
        let middle = issued(&named("middle", &[], IsCa::NoCa), &trusted);
        let issuer = Issuer::new(named("middle", &[], IsCa::NoCa), middle.key);
        let by_middle = Ca {
            pem: String::new(),
            issuer,
        };
        let mut shown = issued(&leaf(|_| ()), &by_middle);
        shown.chain.extend(middle.chain.clone());
        let told = shake(shown, &trusted.pem).await;
        assert_eq!(told, Err(TlsFault::Constraint));
    }

    #[tokio::test]
    async fn a_chain_that_is_not_sent_whole_is_an_issuer_that_is_not_known() {
        let trusted = authority("trusted", ca());
        let middle = issued(&named("middle", &[], ca()), &trusted);
        let by_middle = Ca {
            pem: String::new(),
            issuer: Issuer::new(named("middle", &[], ca()), middle.key),
        };
        let shown = issued(&leaf(|_| ()), &by_middle);
        let told = shake(shown, &trusted.pem).await;
        assert_eq!(told, Err(TlsFault::UnknownIssuer));
        let mut shown = issued(&leaf(|_| ()), &by_middle);
        shown.chain.extend(middle.chain);
        assert_eq!(shake(shown, &trusted.pem).await, Ok(()));
    }

    /// What `openssl req -x509` makes: a CA with the host's names, given as its own `ca_cert`.
    #[tokio::test]
    async fn a_certificate_that_was_itself_given_is_believed_for_its_names_and_its_time() {
        let mut ended = named("own", &[NAME], ca());
        ended.not_after = date_time_ymd(2020, 1, 1);
        let mut early = named("own", &[NAME], ca());
        early.not_before = date_time_ymd(2800, 1, 1);
        for (params, outcome) in [
            (named("own", &[NAME], ca()), Ok(())),
            (named("own", &[NAME], IsCa::ExplicitNoCa), Ok(())),
            (named("own", &[NAME], IsCa::NoCa), Ok(())),
            (ended, Err(TlsFault::Expired)),
            (early, Err(TlsFault::NotYetValid)),
            (
                named("own", &["mail.beta.example"], ca()),
                Err(TlsFault::OtherName),
            ),
            (named(NAME, &[], ca()), Err(TlsFault::NoName)),
        ] {
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let shown = |key| Shown {
                chain: vec![certificate.der().clone()],
                key,
            };
            let own = shake(shown(key), &certificate.pem()).await;
            assert_eq!(own, outcome, "{params:?}");
        }
        // Another one of the same name and key is not the one that was given.
        let key = KeyPair::generate().unwrap();
        let given = named("own", &[NAME], ca()).self_signed(&key).unwrap();
        let another = named("own", &[NAME], ca()).self_signed(&key).unwrap();
        let shown = Shown {
            chain: vec![another.der().clone()],
            key,
        };
        let told = shake(shown, &given.pem()).await;
        assert_eq!(told, Err(TlsFault::CaAsServer));
    }

    #[tokio::test]
    async fn a_port_that_speaks_something_else_is_told_so() {
        let connector = TlsConnector::from(Arc::new(client_config(None).unwrap()));
        let (ours, mut theirs) = duplex(64 * 1024);
        theirs
            .write_all(b"220 mail.acme.example\r\n")
            .await
            .unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let error = connector.connect(name, ours).await.err().unwrap();
        assert_eq!(TlsFault::of(&error), Some(TlsFault::NotTls));
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        let silence = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(TlsFault::of(&silence), None);
    }

    #[test]
    fn every_fault_has_a_word_and_a_text_of_its_own() {
        let mut told = std::collections::BTreeSet::new();
        for fault in TlsFault::ALL {
            assert_eq!(TlsFault::from_word(fault.as_str()), Some(fault));
            assert!(told.insert(fault.told()), "{fault}");
        }
        assert_eq!(TlsFault::from_word("unheard_of"), None);
    }

    #[test]
    fn what_no_handshake_here_can_show_has_its_verdict_too() {
        let path = |error| {
            let other = rustls::OtherError(Arc::new(error));
            Error::InvalidCertificate(CertificateError::Other(other))
        };
        let algorithm = CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: Vec::new(),
            supported_algorithms: Vec::new(),
        };
        for (error, fault) in [
            (Error::InvalidCertificate(algorithm), TlsFault::Algorithm),
            (
                Error::InvalidCertificate(CertificateError::Revoked),
                TlsFault::Revoked,
            ),
            (
                Error::InvalidCertificate(CertificateError::BadEncoding),
                TlsFault::Damaged,
            ),
            (
                path(webpki::Error::UnsupportedCertVersion),
                TlsFault::Version,
            ),
            (
                path(webpki::Error::UnsupportedCriticalExtension),
                TlsFault::Extension,
            ),
            (
                path(webpki::Error::NameConstraintViolation),
                TlsFault::Constraint,
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled),
                TlsFault::Protocol,
            ),
            (
                Error::AlertReceived(AlertDescription::ProtocolVersion),
                TlsFault::Protocol,
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                TlsFault::ClientCertificate,
            ),
            (
                Error::AlertReceived(AlertDescription::UnrecognisedName),
                TlsFault::Alert,
            ),
            (Error::DecryptError, TlsFault::Other),
        ] {
            assert_eq!(TlsFault::from(&error), fault, "{error:?}");
        }
    }
}
