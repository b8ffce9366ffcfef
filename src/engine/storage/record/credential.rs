//! The credential: its versions and what is known of them.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::{Actor, RotationType};
use crate::crypto::Sealed;

/// The admin credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The mail address; fixed.
    pub username: String,
    /// Where humans log in.
    pub webmail_url: Option<String>,
    /// Who gets notices.
    pub admin_emails: Vec<String>,
    /// When to rotate.
    pub rotation_policy: RotationPolicy,
    /// The policy as it was written: what describes the credential compares it with what is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_text: Option<String>,
    /// When the credential was created.
    pub created_at: DateTime<Utc>,
    /// When the current password became current (or, imported, was said to).
    pub last_rotated: DateTime<Utc>,
    /// When the schedule wants the next change; `None` = never (policy `manual`).
    pub next_rotation: Option<DateTime<Utc>>,
    /// What became overdue by a shorter period of the mount waits until then, so that not everybody
    /// has his turn at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paced_until: Option<DateTime<Utc>>,
    /// The day under which the schedule finds the tenant; kept, because the pointer must be found
    /// again when the settings it was computed from have changed.
    pub due_day: Option<NaiveDate>,
    /// When the notice for the coming change was sent.
    pub notice_sent_at: Option<DateTime<Utc>>,
    /// What was found when that notice was prepared; since schema 3.
    #[serde(default)]
    pub preflight: Option<Preflight>,
    /// The number of the current version; `None` until the first was proven.
    pub current: Option<u64>,
    /// Keyed hashes of the passwords that were imported or adopted, in hex, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<String>,
    /// The number of the version that was current before: its consumers may still use it.
    #[serde(default)]
    pub previous: Option<u64>,
    /// Every version kept, oldest first.
    pub versions: Vec<Version>,
    /// Mailu was found to hold something else.
    pub drift: Option<Drift>,
    /// An emergency reset asked not to hand the password out.
    pub hold: Option<Hold>,
    /// The end of a reveal after which the password is changed.
    pub rotate_at: Option<DateTime<Utc>>,
    /// The credential is softly deleted.
    pub deleted: Option<Deletion>,
    /// How far the deletion of Mailu's app tokens after a reset has come.
    pub app_tokens: Option<AppTokenWork>,
}

/// What was found before a coming change: whether it can be expected to succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preflight {
    /// When Mailu was asked.
    pub at: DateTime<Utc>,
    /// What is in the way or soon will be, gravest first; empty = nothing.
    pub findings: Vec<Finding>,
    /// The server's release line, if it told: `2.0` or `2024.06` (and later).
    pub mailu_version: Option<String>,
    /// When the server's certificate ends, if one was seen.
    pub certificate_expires_at: Option<DateTime<Utc>>,
    /// Behind [`Finding::TlsInvalid`], which fault it was: the word of a
    /// [`TlsFault`](crate::network::TlsFault).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fault: Option<String>,
}

/// One thing that a preflight found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The tenant has no server.
    NoServer,
    /// Mailu has no such account.
    AccountMissing,
    /// Mailu holds another password than the current one.
    Drift,
    /// An earlier change is still open.
    Unsettled,
    /// The certificate is not valid for the server.
    TlsInvalid,
    /// The server cannot be reached.
    Unreachable,
    /// The server refused the API token.
    TokenRefused,
    /// Calls to the server rest after refused ones.
    LimiterBusy,
    /// Which password is live cannot be told.
    LiveUnknown,
    /// The account may not log in.
    AccountDisabled,
    /// The next login on the web has to change the password.
    ChangeAtLogin,
    /// The account carries the mark of another mount or cluster.
    OtherOwner,
    /// The account's comment leaves no room for the engine's mark.
    MarkDoesNotFit,
    /// Anybody can edit the server's app tokens without logging in.
    AppTokensOpen,
    /// The certificate ends before the change or within two weeks after it.
    TlsExpiresSoon,
    /// A CA certificate that was given for the server has ended.
    CaExpired,
    /// The server is of the 2.0 line.
    MailuOld,
    /// The server does not tell its release line.
    MailuUnknown,
}

impl Finding {
    /// Returns the stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoServer => "no_server",
            Self::AccountMissing => "account_missing",
            Self::Drift => "drift",
            Self::Unsettled => "unsettled",
            Self::TlsInvalid => "tls_invalid",
            Self::Unreachable => "unreachable",
            Self::TokenRefused => "token_refused",
            Self::LimiterBusy => "limiter_busy",
            Self::LiveUnknown => "live_unknown",
            Self::AccountDisabled => "account_disabled",
            Self::ChangeAtLogin => "change_at_login",
            Self::OtherOwner => "other_owner",
            Self::MarkDoesNotFit => "mark_does_not_fit",
            Self::AppTokensOpen => "app_tokens_open",
            Self::TlsExpiresSoon => "tls_expires_soon",
            Self::CaExpired => "ca_expired",
            Self::MailuOld => "mailu_old",
            Self::MailuUnknown => "mailu_unknown",
        }
    }

    /// Reports whether the change will fail unless somebody does something.
    #[must_use]
    pub const fn prevents(self) -> bool {
        match self {
            Self::NoServer
            | Self::AccountMissing
            | Self::Drift
            | Self::OtherOwner
            | Self::Unsettled
            | Self::TlsInvalid
            | Self::Unreachable
            | Self::TokenRefused => true,
            Self::LimiterBusy
            | Self::LiveUnknown
            | Self::AccountDisabled
            | Self::ChangeAtLogin
            | Self::MarkDoesNotFit
            | Self::AppTokensOpen
            | Self::TlsExpiresSoon
            | Self::CaExpired
            | Self::MailuOld
            | Self::MailuUnknown => false,
        }
    }
}

/// When a tenant's password is changed by the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationPolicy {
    /// The mount's `rotation_period`.
    Mount,
    /// Never.
    Manual,
    /// Every so many seconds.
    Every(u64),
}

/// One password, past or present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Counts from 1, never reused.
    pub number: u64,
    /// The password, bound to tenant, version and endpoint.
    pub password: Sealed,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Who asked for it.
    pub created_by: Actor,
    /// Why; `None` for the first.
    pub rotation_type: Option<RotationType>,
    /// The incident of the emergency reset that made it.
    pub incident_id: Option<String>,
    /// The host's request that made it, so that a resent request is recognised.
    pub request_id: String,
    /// The version whose password this is again, by a rollback or because it was set again; since
    /// schema 2.
    #[serde(default)]
    pub source: Option<u64>,
    /// The attempt that sent it, as in Mailu's marker; empty if it was never sent.
    pub attempt: String,
    /// What is known of its being live.
    pub proof: Proof,
    /// When that was last checked: an acknowledgement is no check.
    pub verified_at: Option<DateTime<Utc>>,
    /// Hex SHA-256 of the hash text Mailu showed when it was last proven by hash.
    pub hash_fingerprint: Option<String>,
    /// When it was last sent; `None` if never.
    pub last_sent_at: Option<DateTime<Utc>>,
    /// One of its sends ended without a definite answer: it may still become live.
    pub doubtful: bool,
    /// SMTP AUTH was tried with it; never more than once.
    pub login_tried: bool,
    /// It was given up as a candidate.
    pub abandoned: bool,
    /// Something was sent after its proof and given up: the proof is none of now.
    #[serde(default)]
    pub shaken: bool,
    /// It must never be used again.
    pub compromised: Option<Compromise>,
}

/// How well it is known that a version is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// Nothing is known.
    None,
    /// Given by an operator and not checked yet.
    Imported,
    /// Mailu answered 200 and its hash could not be read.
    Acknowledged,
    /// SMTP AUTH accepted it, and its hash could not be read.
    Login,
    /// Mailu's stored hash fits it.
    Hash,
}

/// A version that must not be used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compromise {
    /// The incident.
    pub incident_id: String,
    /// Who reset.
    pub reset_by: String,
    /// When.
    pub reset_at: DateTime<Utc>,
}

/// Mailu holds another password than the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Why: `foreign_password`, `older_version`, `stale_storage`, `other_owner`,
    /// `account_missing`.
    pub code: String,
    /// The stored version that is live, if any.
    pub live_version: Option<u64>,
    /// When it was noticed.
    pub since: DateTime<Utc>,
    /// A compromised value was live and the current one was set again: done once only.
    pub set_again: bool,
}

/// The password is not handed out until released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The incident.
    pub incident_id: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// A soft deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: Actor,
    /// When the passwords may be removed for good.
    pub kept_until: DateTime<Utc>,
}

/// Deleting the account's app tokens after a reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppTokenWork {
    /// How many are gone.
    pub revoked: u64,
    /// How many are known to be left.
    pub left: u64,
    /// When to try the rest again.
    pub next_attempt: Option<DateTime<Utc>>,
    /// How many tries failed in a row.
    pub failures: u32,
}

impl Version {
    /// Reports whether the engine itself made it because a compromised value had become live.
    #[must_use]
    pub fn was_set_again(&self) -> bool {
        self.rotation_type == Some(RotationType::Automated) && self.source.is_some()
    }
}

impl Credential {
    /// Returns the version that a version's value was made for, if it was only set again: a write that
    /// began before a change, or a compromised password that had become live, had undone it.
    #[must_use]
    pub fn made_as<'a>(&'a self, version: &'a Version) -> &'a Version {
        let mut made = version;
        // Each leads to an older one.
        while made.rotation_type == Some(RotationType::Automated)
            && let Some(source) = made.source.and_then(|number| self.version(number))
            && source.number < made.number
        {
            made = source;
        }
        made
    }

    /// Returns the number under which the value of a version is the current one; its own, unless it
    /// was set again.
    #[must_use]
    pub fn current_number_of(&self, number: u64) -> u64 {
        let current = self.current_version();
        let same = current.filter(|current| self.made_as(current).number == number);
        same.map_or(number, |current| current.number)
    }

    /// Returns the version with this number.
    #[must_use]
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions
            .iter()
            .find(|version| version.number == number)
    }

    /// Returns the current version.
    #[must_use]
    pub fn current_version(&self) -> Option<&Version> {
        self.current.and_then(|number| self.version(number))
    }

    /// Returns the current version for changing.
    pub fn current_version_mut(&mut self) -> Option<&mut Version> {
        let number = self.current?;
        self.versions
            .iter_mut()
            .find(|version| version.number == number)
    }
}
