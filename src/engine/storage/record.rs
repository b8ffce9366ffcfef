//! The tenant's record: one storage entry that is the whole truth about one tenant.
//!
//! Vault has no transactions, so what must change together lies here together: server, versions,
//! intent, schedule, latest events. This is schema 1, the first stored format. Fields that later
//! steps of the engine fill are part of it from the first day, so that no upgrade is needed to
//! read what an older build wrote.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::{Actor, EventLog, RotationType};
use crate::crypto::Sealed;

/// The version of the stored format this build writes.
pub const SCHEMA: u32 = 1;

/// All the mount keeps of one tenant, under `tenant/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRecord {
    /// The stored format: [`SCHEMA`].
    pub schema: u32,
    /// The tenant's name again: an entry moved to another key is refused.
    pub tenant: String,
    /// Random, new for each life of the tenant; part of every ciphertext's binding.
    pub incarnation: String,
    /// Random; names this chain of events and markers, new when storage went back in time.
    pub lineage: String,
    /// Grows by one with every stored change.
    pub revision: u64,
    /// Grows by one with every send to Mailu; written into Mailu's marker.
    pub generation: u64,
    /// The highest version number ever given; survives re-creation.
    pub last_version: u64,
    /// When the record was made.
    pub created_at: DateTime<Utc>,
    /// The Mailu server, once configured.
    pub server: Option<Server>,
    /// The credential, once created.
    pub credential: Option<Credential>,
    /// A change of the password that is announced or under way.
    pub intent: Option<Intent>,
    /// When automatic work is paused.
    pub pause: Option<Pause>,
    /// What the next ticks have to do before the next check.
    pub open: OpenWork,
    /// The last failure, until the next success.
    pub last_error: Option<LastError>,
    /// When somebody or something last tried to change the password.
    pub last_attempt: Option<DateTime<Utc>>,
    /// The latest events and the state of their chain.
    pub log: EventLog,
}

/// A Mailu server and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The canonical URL, without trailing slash.
    pub mailu_url: String,
    /// PEM certificates that replace the public roots.
    pub ca_cert: Option<String>,
    /// The name the certificate must carry instead of the URL's host.
    pub tls_server_name: Option<String>,
    /// `host:port` for SMTP AUTH.
    pub smtp_address: Option<String>,
    /// The server-wide API token, bound to this endpoint.
    pub api_token: Sealed,
    /// Seconds for one call.
    pub request_timeout_seconds: u64,
    /// Whether a new password is also tried by SMTP AUTH.
    pub verify_smtp: bool,
    /// When this server was written.
    pub written_at: DateTime<Utc>,
}

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
    /// When the credential was created.
    pub created_at: DateTime<Utc>,
    /// When the current password became current (or, imported, was said to).
    pub last_rotated: DateTime<Utc>,
    /// When the schedule wants the next change; `None` = never (policy `manual`).
    pub next_rotation: Option<DateTime<Utc>>,
    /// When the notice for the coming change was sent.
    pub notice_sent_at: Option<DateTime<Utc>>,
    /// The number of the current version; `None` until the first was proven.
    pub current: Option<u64>,
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
    /// The host's request that made it, so that a resent request is recognised.
    pub request_id: String,
    /// The attempt that sent it, as in Mailu's marker; empty if it was never sent.
    pub attempt: String,
    /// What is known of its being live.
    pub proof: Proof,
    /// When that was last established.
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
    /// SMTP AUTH accepted it.
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

/// A change of the password between announcement and commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Random; names the attempt in Mailu's marker.
    pub attempt: String,
    /// The number the candidate will have.
    pub version: u64,
    /// The new password, bound to the attempt's version and the endpoint.
    pub candidate: Sealed,
    /// Why; `None` for the first password of a credential.
    pub rotation_type: Option<RotationType>,
    /// Who asked.
    pub actor: Actor,
    /// What they gave as reason.
    pub reason: Option<String>,
    /// The incident of an emergency reset.
    pub incident_id: Option<String>,
    /// The host's request.
    pub request_id: String,
    /// The account may have to be created first.
    pub create_account: bool,
    /// When it was announced.
    pub announced_at: DateTime<Utc>,
    /// How often the candidate was sent; 0 = announced only.
    pub sends: u32,
    /// When first.
    pub first_sent_at: Option<DateTime<Utc>>,
    /// When last.
    pub last_sent_at: Option<DateTime<Utc>>,
    /// How many sends were definitely refused, each refusal stored.
    pub refusals: u32,
    /// How many sends Mailu acknowledged.
    pub acknowledgements: u32,
}

impl Intent {
    /// Reports whether a send ended without a definite answer (or its answer was not stored):
    /// the candidate may become live at any time.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        self.sends > self.refusals.saturating_add(self.acknowledgements)
    }

    /// Makes the candidate a version of which nothing is known yet.
    #[must_use]
    pub fn into_version(self) -> Version {
        let doubtful = self.is_doubtful();
        Version {
            number: self.version,
            password: self.candidate,
            created_at: self.announced_at,
            created_by: self.actor,
            rotation_type: self.rotation_type,
            request_id: self.request_id,
            attempt: self.attempt,
            proof: Proof::None,
            verified_at: None,
            hash_fingerprint: None,
            last_sent_at: self.last_sent_at,
            doubtful,
            login_tried: false,
            abandoned: false,
            compromised: None,
        }
    }
}

/// Mailu holds another password than the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Why: `foreign_password`, `older_version`, `stale_storage`, `account_missing`.
    pub code: String,
    /// The stored version that is live, if any.
    pub live_version: Option<u64>,
    /// When it was noticed.
    pub since: DateTime<Utc>,
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
}

/// A pause of automatic rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// When it ends by itself.
    pub until: DateTime<Utc>,
    /// Who paused.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

/// What is to be done before the next daily check; each with its own earliest time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenWork {
    /// Try to settle the intent again, not before.
    pub settle_at: Option<DateTime<Utc>>,
    /// How many tries of that failed in a row.
    pub settle_failures: u32,
    /// Look at Mailu again, not before: late writes show up here. Earliest first.
    pub confirm_at: Vec<DateTime<Utc>>,
    /// Try an automatic rotation again, not before.
    pub retry_at: Option<DateTime<Utc>>,
    /// How many automatic rotations failed in a row.
    pub retry_failures: u32,
}

impl OpenWork {
    /// Reports whether a tick has anything to do here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settle_at.is_none() && self.confirm_at.is_empty() && self.retry_at.is_none()
    }
}

/// The last failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastError {
    /// The stable code.
    pub code: String,
    /// Since when it fails.
    pub since: DateTime<Utc>,
    /// How often in a row.
    pub attempts: u32,
}

impl TenantRecord {
    /// Makes the empty record of a tenant that is not stored yet.
    #[must_use]
    pub fn new(tenant: &str, incarnation: String, lineage: String, now: DateTime<Utc>) -> Self {
        Self {
            schema: SCHEMA,
            tenant: tenant.to_owned(),
            incarnation,
            lineage,
            revision: 0,
            generation: 0,
            last_version: 0,
            created_at: now,
            server: None,
            credential: None,
            intent: None,
            pause: None,
            open: OpenWork::default(),
            last_error: None,
            last_attempt: None,
            log: EventLog::default(),
        }
    }

    /// Returns the credential unless there is none or it is softly deleted.
    #[must_use]
    pub fn live_credential(&self) -> Option<&Credential> {
        self.credential
            .as_ref()
            .filter(|credential| credential.deleted.is_none())
    }

    /// Returns the intent if its candidate was ever sent.
    #[must_use]
    pub fn sent_intent(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|intent| intent.sends > 0)
    }
}

impl Credential {
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
