//! The addresses an operator writes: the URL of a Mailu API and the address of its SMTP service.

use std::fmt;

use url::Url;

use super::host::{Host, host_name};
use super::policy::{AddressRefusal, NetworkPolicy};

/// Longest URL accepted, in bytes.
const MAX_URL: usize = 2_048;

/// The port that speaks TLS from the first byte. Source: RFC 8314, section 7.3.
const SUBMISSIONS: u16 = 465;

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// TLS; the only one outside development.
    Https,
    /// Plain text; development only.
    Http,
}

impl Scheme {
    /// Returns the scheme as a URL begins with it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// Returns the port that a URL of this scheme need not name.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// The checked URL of one Mailu server, in one canonical spelling.
///
/// The API lies at `<url>/api/v1`. A URL that already ends in `/api` or `/api/v1` means the same
/// server as one without; one that ends in another `/v1` is the API itself, for servers with their
/// own `WEB_API`.
///
/// ```
/// use vault_plugin_secrets_smtp::network::{EndpointUrl, NetworkPolicy};
///
/// let policy = NetworkPolicy::default();
/// let url = EndpointUrl::parse("https://Mail.Acme.example:443/api/v1/", &policy).unwrap();
/// assert_eq!(url.as_str(), "https://mail.acme.example");
/// assert!(EndpointUrl::parse("http://mail.acme.example", &policy).is_err());
/// assert!(EndpointUrl::parse("https://127.0.0.1", &policy).is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    text: String,
    scheme: Scheme,
    host: String,
    port: u16,
    prefix: String,
}

/// The text is no URL of a Mailu server that may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EndpointError {
    /// More than 2,048 bytes.
    #[error("a URL has at most 2048 bytes")]
    TooLong,
    /// Not an absolute URL, or with spaces, control characters, backslashes or dot segments.
    #[error("not a URL of the form https://host[:port][/path]")]
    Malformed,
    /// Not https.
    #[error("the URL must begin with https://")]
    Scheme,
    /// Credentials in the URL, which would be stored and logged as if they were none.
    #[error("the URL must not contain a user name or password")]
    UserInfo,
    /// A `?` or a `#`.
    #[error("the URL must not contain a query or a fragment")]
    Query,
    /// A `#`, where a `?` may be.
    #[error("the URL must not contain a fragment (#…), which is never sent")]
    Fragment,
    /// Neither an address nor a host name.
    #[error(
        "the URL's host is neither an address nor a host name. Write a name with other letters as \
         xn--… if it is not taken"
    )]
    Host,
    /// The address rules forbid the host whatever it resolves to.
    #[error("{0}")]
    Address(#[from] AddressRefusal),
}

impl EndpointUrl {
    /// Parses and canonicalises a URL: lower-case host, no default port, no trailing slash, no
    /// `/api/v1`.
    ///
    /// # Errors
    ///
    /// [`EndpointError`]; addresses that `policy` forbids are refused here, before any network.
    pub fn parse(text: &str, policy: &NetworkPolicy) -> Result<Self, EndpointError> {
        let url = Self::parse_stored(text)?;
        if url.scheme == Scheme::Http && !policy.allows_plain(&url.host) {
            return Err(EndpointError::Scheme);
        }
        policy.check_literal(&url.host, url.port)?;
        Ok(url)
    }

    /// Parses a URL that was accepted before, whatever the address rules say today: a record must
    /// stay readable when they change. The connector asks them again before anything is sent.
    ///
    /// # Errors
    ///
    /// [`EndpointError`], but for the address rules and the demand for https.
    pub fn parse_stored(text: &str) -> Result<Self, EndpointError> {
        let Checked {
            url,
            scheme,
            host,
            port,
        } = checked(text, Query::Refused)?;
        let prefix = prefix_of(url.path());
        let authority = authority(&host, port, scheme);
        Ok(Self {
            text: format!("{}://{authority}{prefix}", scheme.as_str()),
            scheme,
            host,
            port,
            prefix,
        })
    }

    /// Returns the canonical spelling, the same for every spelling of one endpoint.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the lower-case host name, or the address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, the scheme's own if the URL names none.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns `scheme://host:port`: what has locks and stops of its own.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }

    /// Returns `host[:port]` as the `Host` header carries it.
    pub(crate) fn authority(&self) -> String {
        authority(&self.host, self.port, self.scheme)
    }

    /// Returns the API's base URL without a trailing slash, with `name` in the place of the host.
    pub(crate) fn api_base(&self, name: Option<&str>) -> String {
        let host = name.unwrap_or(&self.host);
        let authority = authority(host, self.port, self.scheme);
        let path = if ends_in_segment(&self.prefix, "v1") {
            ""
        } else {
            "/api/v1"
        };
        format!(
            "{}://{authority}{}{path}",
            self.scheme.as_str(),
            self.prefix
        )
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A URL of the one spelling that is accepted, in its parts.
pub(crate) struct Checked {
    pub(crate) url: Url,
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Whether a URL may have a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// It may not: paths are put behind it.
    Refused,
    /// It may.
    Allowed,
}

/// Parses a URL strictly: whatever the URL standard would repair is refused.
pub(crate) fn checked(text: &str, query: Query) -> Result<Checked, EndpointError> {
    if text.len() > MAX_URL {
        return Err(EndpointError::TooLong);
    }
    // The URL standard repairs all of these; a typing error should not be repaired silently.
    let odd =
        |character: char| character.is_control() || character.is_whitespace() || character == '\\';
    let path = text.split(['?', '#']).next().unwrap_or_default();
    if text.contains(odd) || has_dot_segment(path) {
        return Err(EndpointError::Malformed);
    }
    let scheme = scheme_of(text)?;
    match query {
        Query::Refused if text.contains(['?', '#']) => return Err(EndpointError::Query),
        Query::Allowed if text.contains('#') => return Err(EndpointError::Fragment),
        Query::Refused | Query::Allowed => {}
    }
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::EmptyHost
        | url::ParseError::IdnaError
        | url::ParseError::InvalidIpv4Address
        | url::ParseError::InvalidIpv6Address
        | url::ParseError::InvalidDomainCharacter => EndpointError::Host,
        _ => EndpointError::Malformed,
    })?;
    let user = !url.username().is_empty() || url.password().is_some();
    if user || url.authority().contains('@') {
        return Err(EndpointError::UserInfo);
    }
    let written = text.split("://").nth(1).unwrap_or_default();
    let written = written.split(['/', '?', '#']).next().unwrap_or_default();
    if written.contains('%') {
        // The URL standard would decode it.
        return Err(EndpointError::Host);
    }
    let host = host_of(&url)?;
    // The dot that ends a full name would be looked for in certificates.
    if url.domain().is_some_and(|name| name != host) {
        url.set_host(Some(&host))
            .map_err(|_no_text| EndpointError::Host)?;
    }
    let port = url.port().unwrap_or(scheme.default_port());
    if port == 0 {
        return Err(EndpointError::Malformed);
    }
    Ok(Checked {
        url,
        scheme,
        host,
        port,
    })
}

fn scheme_of(text: &str) -> Result<Scheme, EndpointError> {
    let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Malformed)?;
    if rest.starts_with('/') {
        return Err(EndpointError::Malformed);
    }
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Ok(Scheme::Https),
        "http" => Ok(Scheme::Http),
        _ => Err(EndpointError::Scheme),
    }
}

fn has_dot_segment(text: &str) -> bool {
    text.split('/').any(|segment| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    })
}

fn host_of(url: &Url) -> Result<String, EndpointError> {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => Ok(ip.to_string()),
        Some(url::Host::Ipv6(ip)) => Ok(ip.to_string()),
        Some(url::Host::Domain(name)) => host_name(name).ok_or(EndpointError::Host),
        None => Err(EndpointError::Host),
    }
}

/// Cuts trailing slashes and the part of the path that every Mailu has.
fn prefix_of(path: &str) -> String {
    let mut path = path.trim_end_matches('/');
    for known in ["/api/v1", "/api"] {
        if let Some(before) = path.strip_suffix(known) {
            path = before.trim_end_matches('/');
            break;
        }
    }
    path.to_owned()
}

fn ends_in_segment(path: &str, segment: &str) -> bool {
    path.rsplit('/').next() == Some(segment)
}

/// Returns `host[:port]` as a URL and the `Host` header carry it.
pub(crate) fn authority(host: &str, port: u16, scheme: Scheme) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    if port == scheme.default_port() {
        host
    } else {
        format!("{host}:{port}")
    }
}

/// The address of an SMTP submission service.
///
/// Port 465 speaks TLS from the first byte, any other must offer STARTTLS.
///
/// ```
/// use vault_plugin_secrets_smtp::network::SmtpAddress;
///
/// assert!(SmtpAddress::parse("mail.acme.example:465").unwrap().implicit_tls());
/// assert!(!SmtpAddress::parse("[2001:db8::1]:587").unwrap().implicit_tls());
/// assert!(SmtpAddress::parse("mail.acme.example").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SmtpAddress {
    host: String,
    port: u16,
}

/// The text is no `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "not an SMTP address of the form host:port, such as mail.acme.example:465 or [2001:db8::1]:465. \
     Write a name with other letters as xn--… if it is not taken"
)]
pub struct SmtpAddressError;

impl SmtpAddress {
    /// Parses `host:port`; IPv6 addresses stand in brackets.
    ///
    /// # Errors
    ///
    /// [`SmtpAddressError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, SmtpAddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(SmtpAddressError)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().unwrap_or(0);
        if port == 0 || !digits {
            return Err(SmtpAddressError);
        }
        // Without brackets, which of the colons is the port's?
        if host.contains(':') && !host.starts_with('[') {
            return Err(SmtpAddressError);
        }
        let host = Host::parse(host).map_err(|_of_the_host| SmtpAddressError)?;
        Ok(Self {
            host: host.to_string(),
            port,
        })
    }

    /// Returns the lower-case host name, or the address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Reports whether TLS begins with the first byte; otherwise STARTTLS is required.
    #[must_use]
    pub const fn implicit_tls(&self) -> bool {
        self.port == SUBMISSIONS
    }
}

impl fmt::Display for SmtpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::rules::AddressRule;

    proptest! {
        #[test]
        fn the_canonical_spelling_is_its_own(text in "https?://[a-zA-Z0-9.:\\[\\]_-]{1,30}(/[a-z0-9%./-]{0,30})?") {
            if let Ok(url) = EndpointUrl::parse_stored(&text) {
                let again = EndpointUrl::parse_stored(url.as_str());
                prop_assert_eq!(again.as_ref(), Ok(&url));
                let base = Url::parse(&url.api_base(None)).unwrap();
                prop_assert!(base.path().ends_with("/v1"));
                let host = base.host_str().unwrap().trim_matches(['[', ']']).to_owned();
                prop_assert_eq!(host, url.host());
            }
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "(?s).{0,60}") {
            let _any = EndpointUrl::parse_stored(&text);
            let _any = SmtpAddress::parse(&text);
        }
    }

    fn parse(text: &str) -> Result<EndpointUrl, EndpointError> {
        EndpointUrl::parse(text, &NetworkPolicy::default())
    }

    #[test]
    fn spellings_of_one_server_are_one_endpoint() {
        for text in [
            "https://mail.acme.example",
            "https://mail.acme.example/",
            "HTTPS://MAIL.ACME.EXAMPLE:443",
            "https://mail.acme.example.:443/",
            "https://mail.acme.example/api",
            "https://mail.acme.example/api/v1/",
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.as_str(), "https://mail.acme.example", "{text}");
            assert_eq!(url.port(), 443);
            assert_eq!(
                url.api_base(None),
                "https://mail.acme.example/api/v1",
                "{text}"
            );
            assert_eq!(parse(url.as_str()).unwrap(), url, "stable");
        }
    }

    #[test]
    fn prefixes_ports_and_names_of_their_own_are_kept() {
        for (text, canonical, base) in [
            (
                "https://m.example:8443/mail/",
                "https://m.example:8443/mail",
                "https://m.example:8443/mail/api/v1",
            ),
            (
                "https://m.example/secret/v1",
                "https://m.example/secret/v1",
                "https://m.example/secret/v1",
            ),
            (
                "https://[2606:4700::1]:8443",
                "https://[2606:4700::1]:8443",
                "https://[2606:4700::1]:8443/api/v1",
            ),
            (
                "https://müller.example",
                "https://xn--mller-kva.example",
                "https://xn--mller-kva.example/api/v1",
            ),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.as_str(), canonical);
            assert_eq!(url.api_base(None), base);
            assert_eq!(parse(canonical).unwrap(), url);
        }
        let url = parse("https://1.1.1.1:8443").unwrap();
        assert_eq!(
            url.api_base(Some("m.example")),
            "https://m.example:8443/api/v1"
        );
        assert_eq!(url.authority(), "1.1.1.1:8443");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_kind() {
        let long = format!("https://m.example/{}", "a".repeat(2_048));
        for (text, why) in [
            (long.as_str(), EndpointError::TooLong),
            ("", EndpointError::Malformed),
            ("mail.acme.example", EndpointError::Malformed),
            ("https:mail.acme.example", EndpointError::Malformed),
            ("https:///mail.acme.example", EndpointError::Malformed),
            ("https://m.example\\@evil.example", EndpointError::Malformed),
            ("https://m.ex\tample", EndpointError::Malformed),
            (" https://m.example", EndpointError::Malformed),
            ("https://m.example/a/../b", EndpointError::Malformed),
            ("https://m.example/%2E%2e/b", EndpointError::Malformed),
            ("https://m.example:0", EndpointError::Malformed),
            ("https://m.example:99999", EndpointError::Malformed),
            ("http://m.example", EndpointError::Scheme),
            ("ftp://m.example", EndpointError::Scheme),
            ("https://user@m.example", EndpointError::UserInfo),
            ("https://:secret@m.example", EndpointError::UserInfo),
            ("https://m.example/?a=b", EndpointError::Query),
            ("https://m.example/#a", EndpointError::Query),
            ("https://m.example../", EndpointError::Host),
            ("https://m_.-.example", EndpointError::Host),
            ("https://m%C3%BCller.example", EndpointError::Host),
            ("https://m.%65xample/%65", EndpointError::Host),
            ("https://1.2.3.4.5", EndpointError::Host),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn forbidden_literals_are_refused_in_every_spelling() {
        for text in [
            "https://127.0.0.1",
            "https://127.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://0177.0.0.1",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://[::ffff:a9fe:a9fe]",
            "https://169.254.169.254",
            "https://localhost",
            "https://localhost.",
            "https://api.localhost",
            "https://0.0.0.0",
        ] {
            assert_eq!(
                parse(text),
                Err(EndpointError::Address(AddressRefusal::Never)),
                "{text}"
            );
        }
        assert_eq!(
            parse("https://10.0.0.1"),
            Err(EndpointError::Address(AddressRefusal::Private))
        );
    }

    #[test]
    fn a_stored_endpoint_is_readable_under_any_rules() {
        for text in ["http://127.0.0.1:8080", "https://10.0.0.1"] {
            let url = EndpointUrl::parse_stored(text).unwrap();
            assert_eq!(url.as_str(), text);
        }
        assert_eq!(
            EndpointUrl::parse_stored("https://u@m.example"),
            Err(EndpointError::UserInfo)
        );
    }

    #[test]
    fn plain_http_is_for_development_and_for_this_machine() {
        let policy = NetworkPolicy {
            dev_loopback: true,
            ..NetworkPolicy::default()
        };
        let url = EndpointUrl::parse("http://127.0.0.1:8080", &policy).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:8080");
        assert_eq!(url.scheme(), Scheme::Http);
        for text in [
            "http://localhost:8080",
            "http://a.localhost",
            "http://[::1]:1",
        ] {
            assert!(EndpointUrl::parse(text, &policy).is_ok(), "{text}");
        }
        let allowed = ["10.0.0.0/8", "mail.acme.example", "1.1.1.1"];
        let allowed = allowed.map(|rule| AddressRule::parse(rule).unwrap());
        for allowed in [Vec::new(), allowed.to_vec()] {
            let policy = NetworkPolicy {
                allowed,
                ..policy.clone()
            };
            for text in [
                "http://mail.acme.example",
                "http://1.1.1.1",
                "http://10.0.0.1:8080",
                "http://[64:ff9b::7f00:1]",
                "http://localhost.example",
                "http://notlocalhost",
            ] {
                let refused = EndpointUrl::parse(text, &policy);
                assert_eq!(refused, Err(EndpointError::Scheme), "{text}");
            }
        }
    }

    #[test]
    fn smtp_addresses_survive_their_text() {
        for text in ["m.example:465", "1.1.1.1:587", "[2606:4700::1]:465"] {
            let address = SmtpAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), text);
        }
        for (text, spelling) in [
            ("M.Example.:465", "m.example:465"),
            ("m\u{fc}ller.example:587", "xn--mller-kva.example:587"),
            ("[2606:4700:0::1]:465", "[2606:4700::1]:465"),
        ] {
            assert_eq!(SmtpAddress::parse(text).unwrap().to_string(), spelling);
        }
        for text in [
            "",
            "m.example",
            "m.example:",
            "m.example:0",
            "m.example:+25",
            "m.example:99999",
            "2606:4700::1:465",
            "[1.1.1.1]:465",
            "user@m.example:465",
            "m example:465",
        ] {
            assert!(SmtpAddress::parse(text).is_err(), "{text}");
        }
    }
}
