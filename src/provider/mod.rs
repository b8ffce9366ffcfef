//! Mail servers, as the engine sees them: set a password, look at an account, prove a password.
//!
//! Knows nothing of tenants, records or Vault. The one implementation is `mailu`; another mail
//! server would be a folder beside it and a variant in `ProviderConfig`.
//!
//! Nothing a mail server says is passed on as text: outcomes are closed enums, because error texts
//! reach the host's audit log in clear and Mailu's validation errors echo the password.

mod error;
mod hash;
mod hash_pool;
mod mailu;
pub mod marker;
mod registry;

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::crypto::Sensitive;
use crate::network::host::host_name;

pub use crate::network::{
    AddressRefusal, AddressRule, AddressRuleError, CaError, EndpointError, EndpointUrl, Fault,
    NetworkPolicy, Scheme, ServerNameError, SmtpAddress, SmtpAddressError, SmtpReply, SmtpStage,
    TlsFault, parse_ca, parse_server_name,
};
pub use error::{Refusal, Trouble};
pub use hash::{HashCheck, NoVerdict, StoredHash};
pub use hash_pool::{HashPool, HashPoolUse};
pub use registry::{ConnectError, Connector, MailuConfig, ProviderConfig, check_token, connector};

/// What became of a call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The server said that it did it (HTTP 200 with body `code` 200).
    Acknowledged,
    /// The server definitely did not do it: a status and body shape known to be permanent.
    Refused(Refusal),
    /// It may or may not have happened, now or later.
    Unknown(Trouble),
}

/// Why a read did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The server definitely answered "no".
    #[error("{0}")]
    Refused(Refusal),
    /// No usable answer.
    #[error("{0}")]
    Trouble(Trouble),
}

/// What the server keeps of one mail account.
#[derive(Clone, Debug)]
pub struct Account {
    /// The stored password hash; `None` if the server does not tell it.
    pub hash: Option<StoredHash>,
    /// Whether the account may log in.
    pub enabled: bool,
    /// The free text an administrator sees; carries the engine's marker.
    pub comment: String,
    /// Whether mail is forwarded elsewhere.
    pub forwarding: bool,
    /// Whether an automatic reply is on.
    pub auto_reply: bool,
    /// Whether the next login on the web has to change the password.
    pub change_at_login: bool,
    /// Whether the account administers the whole server; `None` if the server does not tell.
    pub administrator: Option<bool>,
}

/// What can be learnt about the server software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerVersion {
    /// The 2.0 line: no app tokens.
    Mailu20,
    /// 2024.06 or later.
    Mailu2024,
    /// The server did not tell.
    Unknown,
}

/// Outcome of one SMTP AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// 235.
    Accepted,
    /// 535: wrong, disabled, tokens required or rate limited; they look the same.
    Refused,
    /// There was nobody to ask, or no way to ask it with this password.
    CannotTell,
    /// The server was asked and gave no verdict on the password.
    Failed(LoginFault),
}

/// Why a mail server gave no verdict on a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFault {
    /// The server could not be spoken to.
    Unreachable(Fault),
    /// It does not offer STARTTLS, or no way to log in that is known here.
    NotOffered,
    /// It said no to something that is not the password, or for now.
    Said(SmtpReply),
}

impl From<Fault> for LoginFault {
    fn from(fault: Fault) -> Self {
        Self::Unreachable(fault)
    }
}

/// The engine's mark in an account's comment: who set the password last.
///
/// Written as `[smtp <lineage> <generation> <attempt>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The record's lineage.
    pub lineage: String,
    /// Grows with every send.
    pub generation: u64,
    /// The attempt that sent it.
    pub attempt: String,
}

/// One mail server, reached with one endpoint and one token.
///
/// # Cancel safety
///
/// Dropping the future of a changing call leaves its effect unknown: Mailu applies a change whose
/// client is gone.
#[async_trait]
pub trait MailProvider: fmt::Debug + Send + Sync {
    /// Sets the password of an existing account and, if `comment` is given, its comment, in one
    /// change.
    async fn set_password(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent;

    /// Creates the account as an administrator with this password; a missing domain is refused.
    async fn create_account(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent;

    /// Reads an account. `Ok(None)` is a definite "no such account".
    async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, ReadError>;

    /// Lists the account's app tokens, at most [`MAX_APP_TOKENS`] of them; `Ok(None)` if the server
    /// has none of that kind.
    async fn app_tokens(
        &self,
        account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, ReadError>;

    /// Deletes an app token. [`Refusal::NoSuchAppToken`] says that there is none of that id (any
    /// more).
    async fn delete_app_token(&self, token: &AppTokenId) -> Sent;

    /// Detects the server's release line.
    async fn server_version(&self) -> ServerVersion;

    /// Finds out whether the server lets anybody edit app tokens, without logging in
    /// (CVE-2026-49217); `None` if it did not tell. Changes nothing, and no limiter counts it.
    async fn app_tokens_are_open(&self) -> Option<bool>;

    /// Returns when the certificate ends that the server showed to the last call of this client that
    /// got an answer; `None` before one, and over plain http.
    fn certificate_expires_at(&self) -> Option<DateTime<Utc>>;

    /// Logs in by SMTP AUTH; [`Login::CannotTell`] if no SMTP address is configured.
    async fn login(&self, account: &EmailAddress, password: &Sensitive<String>) -> Login;
}

/// Most app tokens that [`MailProvider::app_tokens`] lists. Mailu sets no limit of its own: who
/// wants none left lists again after deleting these.
pub const MAX_APP_TOKENS: usize = 1_000;

/// The server's number of an app token: 1 to 20 decimal digits, so that it may stand in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppTokenId {
    digits: String,
}

impl AppTokenId {
    /// Parses a number as the server writes it; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        const MOST_DIGITS: usize = 20;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        (digits && (1..=MOST_DIGITS).contains(&text.len())).then(|| Self {
            digits: text.to_owned(),
        })
    }

    /// Returns the digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.digits
    }
}

impl fmt::Display for AppTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digits)
    }
}

/// A mail address, checked and with its case-insensitive form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmailAddress {
    text: String,
}

/// The text is not an address this engine accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a mail address of the form name@domain, at most 254 characters, without blanks, quotes, \
     slashes and, before the @, letters other than a to z. Write a domain with other letters as \
     xn--… if it is not taken"
)]
pub struct InvalidAddress;

/// What Mailu takes before the `@` besides letters and digits, but for the slash: an address stands
/// in the path of a call, and no server finds one there.
const IN_NAMES: &[u8] = b".!#$%&'*+-=?^_`{|}~";

impl EmailAddress {
    /// Parses `name@domain`: printable ASCII without spaces, double quotes or slashes, a domain with
    /// a dot, at most 254 bytes. A domain with other letters gets its `xn--` form and loses the dot
    /// that ends it.
    ///
    /// ```
    /// use vault_plugin_secrets_smtp::provider::EmailAddress;
    ///
    /// assert!(EmailAddress::parse("admin@acme.example").is_ok());
    /// assert!(EmailAddress::parse("o'brien@acme.example").is_ok());
    /// let other = EmailAddress::parse("a@m\u{fc}ller.example").unwrap();
    /// assert_eq!(other.as_str(), "a@xn--mller-kva.example");
    /// assert!(EmailAddress::parse("admin@localhost").is_err());
    /// assert!(EmailAddress::parse("a/../b@acme.example").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (name, given) = text.split_once('@').ok_or(InvalidAddress)?;
        let name_ok = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || IN_NAMES.contains(&byte));
        let domain = host_name(given).ok_or(InvalidAddress)?;
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let domain_ok = domain.contains('.') && domain.split('.').all(label_ok);
        let text = if given.eq_ignore_ascii_case(&domain) {
            text.to_owned()
        } else {
            format!("{name}@{domain}")
        };
        if text.len() <= 254 && name_ok && domain_ok {
            Ok(Self { text })
        } else {
            Err(InvalidAddress)
        }
    }

    /// Returns the address as it was given, its domain in ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the form under which Mailu regards two addresses as one account.
    #[must_use]
    pub fn folded(&self) -> String {
        self.text.to_ascii_lowercase()
    }

    /// Returns the part after the `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.text.split_once('@').map_or("", |(_, domain)| domain)
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
