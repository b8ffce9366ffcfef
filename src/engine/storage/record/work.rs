//! A change of the password under way, and what the next ticks have to do.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Proof, Server, Version};
use crate::audit::{Actor, RotationType};
use crate::crypto::{PasswordEncoding, Sealed};
use crate::provider::StoredHash;

/// Looks at Mailu that may wait at once.
const MOST_CONFIRMATIONS: usize = 8;

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
    /// Others who asked for the same, each of whom has an event; the first 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined_by: Vec<Actor>,
    /// What they gave as reason.
    pub reason: Option<String>,
    /// The incident of an emergency reset.
    pub incident_id: Option<String>,
    /// The host's request.
    pub request_id: String,
    /// The version whose password the candidate has again; since schema 2.
    #[serde(default)]
    pub source: Option<u64>,
    /// The version that was sent in vain and whose value is sent again: it stays a version until the
    /// candidate is sent, so that a change that is given up before loses nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
    /// The account may have to be created first.
    pub create_account: bool,
    /// The mount's `password_encoding` when the candidate was made by it; `None` if a policy, a
    /// person or an earlier change made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<PasswordEncoding>,
    /// A move to another server: where the candidate is to be sent instead of the record's server.
    pub target: Option<Server>,
    /// Up to schema 3 a hold waited here; it is the credential's from the beginning on now.
    #[serde(default, skip_serializing)]
    pub(crate) hold: bool,
    /// An emergency reset asked to leave the account's app tokens alone.
    pub keep_app_tokens: bool,
    /// The number of its "started" event: an automatic change may have to wait until that event is
    /// in an audit device.
    pub started_seq: u64,
    /// When it was announced.
    pub announced_at: DateTime<Utc>,
    /// How often the candidate was sent; 0 = announced only.
    pub sends: u32,
    /// When first.
    pub first_sent_at: Option<DateTime<Utc>>,
    /// When last.
    pub last_sent_at: Option<DateTime<Utc>>,
    /// What the account was seen with before the last send; `None` if it was missing or showed no
    /// hash.
    #[serde(default)]
    pub before: Option<SeenHash>,
    /// How many sends were answered with a refusal, each stored. No proof that they had no effect: a
    /// front words answers of its own, or repeats a request whose first copy still hangs.
    pub refusals: u32,
    /// How many sends Mailu acknowledged.
    pub acknowledgements: u32,
}

/// A hash that an account was seen with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenHash {
    /// Hex SHA-256 of its text.
    pub fingerprint: String,
    /// Its rounds; `None` for another scheme.
    pub rounds: Option<u32>,
}

impl From<&StoredHash> for SeenHash {
    fn from(hash: &StoredHash) -> Self {
        Self {
            fingerprint: hash.fingerprint(),
            rounds: hash.rounds(),
        }
    }
}

impl Intent {
    /// Reports whether this is an emergency reset: it regards no older password, is not given up,
    /// and its password is shown by nothing but its own answer and a reveal.
    #[must_use]
    pub fn is_emergency(&self) -> bool {
        self.rotation_type == Some(RotationType::Emergency)
    }

    /// Reports whether this is a change that nobody asked for and that was not sent yet: it is
    /// stored so only while it waits for the audit devices.
    #[must_use]
    pub fn may_be_held(&self) -> bool {
        let automatic = matches!(
            self.rotation_type,
            Some(RotationType::Automated | RotationType::Reveal)
        );
        automatic && self.sends == 0
    }

    /// Reports whether a send was not acknowledged (or its answer was not stored): the candidate may
    /// become live at any time. A refusal is no acknowledgement of the contrary.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        self.sends > self.acknowledgements
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
            incident_id: self.incident_id,
            request_id: self.request_id,
            source: self.source,
            attempt: self.attempt,
            proof: Proof::None,
            verified_at: None,
            hash_fingerprint: None,
            last_sent_at: self.last_sent_at,
            doubtful,
            login_tried: false,
            abandoned: false,
            shaken: false,
            compromised: None,
        }
    }
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
    /// The look that a change waits for before reads call it settled.
    #[serde(default)]
    pub confirm_first: Option<FirstLook>,
    /// Which versions were found not to fit the account's hash.
    #[serde(default)]
    pub compared: Option<Compared>,
    /// Try an automatic rotation again, not before.
    pub retry_at: Option<DateTime<Utc>>,
    /// How many automatic rotations failed in a row.
    pub retry_failures: u32,
}

/// A look soon after a change that something may have undone since it was proven: Mailu hashes a
/// password again at a login that finds an outdated hash, and writes the whole column, so a login
/// with the old password that began before the change brings it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstLook {
    /// When to look, not before.
    pub at: DateTime<Utc>,
    /// The version that was current before the change.
    pub before: Option<u64>,
    /// How often the change was made again because of such a look.
    pub times: u32,
}

/// Versions whose passwords do not fit one hash: computing that again would tell nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Hex SHA-256 of the hash's text.
    pub fingerprint: String,
    /// Their numbers, an open candidate's included.
    pub versions: Vec<u64>,
}

impl Compared {
    /// Begins with what is known of this hash.
    pub fn with(hash: &StoredHash, known: Option<&Self>) -> Self {
        let fingerprint = hash.fingerprint();
        let versions = known
            .filter(|known| known.fingerprint == fingerprint)
            .map(|known| known.versions.clone());
        Self {
            fingerprint,
            versions: versions.unwrap_or_default(),
        }
    }
}

/// How far ahead anything is ever planned here: what lies further was planned by a clock that was
/// ahead, and is due.
const FURTHEST: TimeDelta = TimeDelta::hours(1);

impl OpenWork {
    /// Returns when something planned for `at` is due, as seen from `now`.
    pub(super) fn due(at: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
        if at - now > FURTHEST { now } else { at }
    }

    /// Drops the looks that are due: they were taken.
    pub fn drop_due_looks(&mut self, now: DateTime<Utc>) {
        self.confirm_at.retain(|at| Self::due(*at, now) > now);
    }

    /// Returns when the looks that wait are due, as seen from `now`.
    pub(super) fn looks(&self, now: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        let first = self.confirm_first.iter().map(|look| look.at);
        let all = first.chain(self.confirm_at.iter().copied());
        all.map(move |at| Self::due(at, now))
    }

    /// Ends the wait for the first look, if that is due.
    pub fn end_first_look(&mut self, now: DateTime<Utc>) {
        let waits = |look: &FirstLook| Self::due(look.at, now) > now;
        self.confirm_first = self.confirm_first.take().filter(waits);
    }

    /// Looks at Mailu then, beside the looks that wait.
    pub fn look_at(&mut self, at: DateTime<Utc>) {
        self.confirm_at.push(at);
        self.confirm_at.sort_unstable();
        self.confirm_at.dedup();
    }

    /// Looks again in 2 and in 15 minutes: a hung server may apply an older send by then.
    pub fn confirm_later(&mut self, now: DateTime<Utc>) {
        self.drop_due_looks(now);
        self.confirm_at
            .extend([2, 15].map(|minutes| now + TimeDelta::minutes(minutes)));
        self.confirm_at.sort_unstable();
        // Rotations in quick succession must not grow the record; the last look is what counts.
        let excess = self.confirm_at.len().saturating_sub(MOST_CONFIRMATIONS);
        self.confirm_at.drain(..excess);
    }
}
