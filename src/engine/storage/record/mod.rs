//! The tenant's record: one storage entry that is the whole truth about one tenant.
//!
//! Vault has no transactions, so what must change together lies here together: server, versions,
//! intent, schedule, latest events. An older format is upgraded when it is read and written back
//! in this one with the next change; a newer one is refused.
//!
//! | schema | new in it |
//! |---|---|
//! | 1 | the first format |
//! | 2 | `source` of a version and of an intent: whose password it has again |
//! | 3 | `preflight` of a credential: what was found when the notice was prepared |
//! | 4 | own attempts and lineages, an accepted mark; the first look after a change, compared versions, what was seen before a send; `shaken` versions; when the token was written; a hold is the credential's alone |

mod attention;
mod credential;
mod tally;
mod work;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::{Actor, EventLog, RotationType};
use crate::crypto::Sealed;

pub use attention::{ATTENTION_AFTER, Attention, HELD_BACK};
pub use credential::{
    AppTokenWork, Compromise, Credential, Deletion, Drift, Finding, Hold, Preflight, Proof,
    RotationPolicy, Version,
};
pub use tally::{Alert, Failures, MOST_KINDS, MOST_TRIES, Tally, Tries};
pub use work::{Compared, FirstLook, Intent, OpenWork, SeenHash};

/// The version of the stored format this build writes.
pub const SCHEMA: u32 = 4;

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
    /// Those that this record had before, the latest last: their marks are its own.
    #[serde(default)]
    pub lineages: Vec<String>,
    /// The attempts of this record, ended ones too, the latest last: their marks are its own.
    #[serde(default)]
    pub attempts: Vec<String>,
    /// The mark of somebody else that a person has accepted, as it stands in Mailu.
    #[serde(default)]
    pub accepted_mark: Option<String>,
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
    /// What is remembered of events, apart from the latest ones.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub tally: Tally,
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
    /// When a person wrote the token last, the same one too: a word that ends a stop for one call.
    #[serde(default)]
    pub token_written_at: Option<DateTime<Utc>>,
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
    /// Of a failed TLS handshake, which fault it was: the word of a
    /// [`TlsFault`](crate::network::TlsFault).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fault: Option<String>,
}

/// Earlier lineages kept.
const MOST_LINEAGES: usize = 4;
/// Attempts kept.
const MOST_ATTEMPTS: usize = 32;

impl TenantRecord {
    /// Remembers a new attempt by its name in Mailu's marks.
    pub fn note_attempt(&mut self, attempt: &str) {
        self.attempts.push(attempt.to_owned());
        let surplus = self.attempts.len().saturating_sub(MOST_ATTEMPTS);
        self.attempts.drain(..surplus);
    }

    /// Goes on under another lineage; the earlier one stays known.
    pub fn begin_lineage(&mut self, lineage: String) {
        let earlier = std::mem::replace(&mut self.lineage, lineage);
        self.lineages.push(earlier);
        let surplus = self.lineages.len().saturating_sub(MOST_LINEAGES);
        self.lineages.drain(..surplus);
    }

    /// Reports whether marks of this lineage are this record's.
    #[must_use]
    pub fn is_own_lineage(&self, lineage: &str) -> bool {
        self.lineage == lineage || self.lineages.iter().any(|own| own == lineage)
    }

    /// Makes the empty record of a tenant that is not stored yet.
    #[must_use]
    pub fn new(tenant: &str, incarnation: String, lineage: String, now: DateTime<Utc>) -> Self {
        Self {
            schema: SCHEMA,
            tenant: tenant.to_owned(),
            incarnation,
            lineage,
            lineages: Vec::new(),
            attempts: Vec::new(),
            accepted_mark: None,
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
            tally: Tally::default(),
            log: EventLog::default(),
        }
    }

    /// Reports whether a version or the intent has a type of which nothing is known. History may
    /// have one; what is decided by it may not.
    pub(in crate::engine) fn has_unknown_types(&self) -> bool {
        let versions = self.credential.iter().flat_map(|kept| &kept.versions);
        let types = versions.map(|version| version.rotation_type);
        let intent = self.intent.as_ref().and_then(|intent| intent.rotation_type);
        types
            .chain([intent])
            .any(|it| matches!(it, Some(RotationType::Other(_))))
    }

    /// Returns the credential unless there is none or it is softly deleted.
    #[must_use]
    pub fn live_credential(&self) -> Option<&Credential> {
        self.credential
            .as_ref()
            .filter(|credential| credential.deleted.is_none())
    }

    /// Returns the pause that holds automatic rotation back at `now`; one that is over is none.
    #[must_use]
    pub fn paused_at(&self, now: DateTime<Utc>) -> Option<&Pause> {
        self.pause.as_ref().filter(|pause| pause.until > now)
    }

    /// Returns the intent if its candidate was ever sent.
    #[must_use]
    pub fn sent_intent(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|intent| intent.sends > 0)
    }

    /// Returns the earliest instant at which a tick has something to do, as seen from `now`; `None`
    /// if nothing waits for one.
    #[must_use]
    pub fn next_work(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let settling = match &self.intent {
            Some(intent) => self.settles_at(intent, now),
            // A look settles nothing while a change is open, and settling looks anyway.
            None => self.live_credential().and_then(|_| self.next_look(now)),
        };
        let tokens = self
            .live_credential()
            .and_then(|kept| kept.app_tokens.as_ref()?.next_attempt)
            .map(|at| OpenWork::due(at, now));
        settling.into_iter().chain(tokens).min()
    }

    /// Returns when the open change is to be settled; `None` if it waits for a person.
    #[must_use]
    pub fn settles_at(&self, intent: &Intent, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if intent.sends == 0 && !intent.is_emergency() {
            // Announced and never sent: what is left of it can go at once.
            return Some(now);
        }
        self.open.settle_at.map(|at| OpenWork::due(at, now))
    }

    /// Lets what failed at its last try be tried again at once.
    pub fn go_on_at(&mut self, now: DateTime<Utc>) {
        let open = &mut self.open;
        for at in open.settle_at.iter_mut().chain(&mut open.retry_at) {
            *at = now;
        }
        let credential = self.credential.as_mut();
        let tokens = credential.and_then(|kept| kept.app_tokens.as_mut());
        if let Some(at) = tokens.and_then(|work| work.next_attempt.as_mut()) {
            *at = now;
        }
    }

    /// Returns when Mailu is to be looked at again, or the password to be changed by itself.
    fn next_look(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.open.looks(now).chain(self.rotate_at(now)).min()
    }

    /// Reports whether a look at Mailu is due.
    #[must_use]
    pub fn looks_now(&self, now: DateTime<Utc>) -> bool {
        self.open.looks(now).any(|at| at <= now)
    }

    /// Returns when the password is to be changed because somebody saw it.
    #[must_use]
    pub fn rotate_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let at = self.live_credential()?.rotate_at?;
        // A look lasts a day at most.
        let at = if at - now > TimeDelta::days(1) {
            now
        } else {
            at
        };
        let retry = self.open.retry_at.map(|retry| OpenWork::due(retry, now));
        Some(retry.map_or(at, |retry| retry.max(at)))
    }
}
