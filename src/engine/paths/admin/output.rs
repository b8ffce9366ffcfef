//! What reads and writes of the credential answer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::audit::Event;
use crate::crypto::{Sealed, Sensitive};
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::schedule;
use crate::engine::state::{self, Reading, State};
use crate::engine::storage::record::{Credential, Proof, TenantRecord};
use crate::logical::{Data, expose, instant, seconds};

/// The answer to a read.
#[derive(Serialize)]
pub(super) struct Read<'a> {
    username: &'a str,
    #[serde(serialize_with = "expose::serialize")]
    password: Sensitive<String>,
    webmail_url: &'a str,
    admin_emails: &'a [String],
    #[serde(serialize_with = "instant::serialize")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "instant::serialize")]
    last_rotated: DateTime<Utc>,
    #[serde(serialize_with = "instant::serialize")]
    last_vault_rotation: DateTime<Utc>,
    rotation_policy: String,
    rotation_period: u64,
    #[serde(serialize_with = "instant::serialize")]
    next_rotation: Option<DateTime<Utc>>,
    #[serde(serialize_with = "seconds::serialize")]
    ttl: Duration,
    version: u64,
    state: State,
    compromised: bool,
    proof: Option<Proof>,
    #[serde(serialize_with = "instant::serialize")]
    verified_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<Candidate>>,
    /// Only in drift, and then also as null: absent and unknown are different answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    live_version: Option<Option<u64>>,
}

#[derive(Serialize)]
struct Candidate {
    version: u64,
    #[serde(serialize_with = "expose::serialize")]
    password: Sensitive<String>,
    compromised: bool,
}

impl<'a> Read<'a> {
    pub(super) fn new(
        record: &TenantRecord,
        credential: &'a Credential,
        reading: &Reading<'_>,
        config: &MountConfig,
        now: DateTime<Utc>,
        open: impl Fn(u64, &Sealed) -> Result<Sensitive<String>, Error>,
    ) -> Result<Self, Error> {
        let settled = reading.state == State::Settled;
        let candidates = if reading.candidates.is_empty() {
            None
        } else {
            let opened = reading.candidates.iter().map(|stored| {
                Ok(Candidate {
                    version: stored.number,
                    password: open(stored.number, stored.sealed)?,
                    compromised: stored.compromised,
                })
            });
            Some(opened.collect::<Result<Vec<_>, Error>>()?)
        };
        Ok(Self {
            username: &credential.username,
            password: open(reading.answer.number, reading.answer.sealed)?,
            webmail_url: credential.webmail_url.as_deref().unwrap_or_default(),
            admin_emails: &credential.admin_emails,
            created_at: credential.created_at,
            last_rotated: credential.last_rotated,
            last_vault_rotation: credential.last_rotated,
            rotation_policy: match &credential.policy_text {
                Some(written) => written.clone(),
                None => credential.rotation_policy.as_text(config),
            },
            rotation_period: credential.rotation_policy.period(config).unwrap_or(0),
            next_rotation: credential.next_rotation,
            ttl: schedule::read_again_after(record, config, settled, now),
            version: reading.answer.number,
            state: reading.state,
            compromised: reading.answer.compromised,
            proof: shown(reading.version.map(|version| version.proof)),
            verified_at: reading.version.and_then(|version| version.verified_at),
            candidates,
            live_version: credential.drift.as_ref().map(|drift| drift.live_version),
        })
    }
}

/// `none` is no kind of proof: answered as null.
fn shown(proof: Option<Proof>) -> Option<Proof> {
    proof.filter(|proof| *proof != Proof::None)
}

/// The answer to a write: the credential's metadata and the event, never a password.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) data: Data,
    pub(super) warnings: Vec<String>,
}

#[derive(Serialize)]
struct WrittenData<'a> {
    tenant: &'a str,
    version: Option<u64>,
    state: Option<State>,
    proof: Option<Proof>,
    #[serde(serialize_with = "instant::serialize")]
    next_rotation: Option<DateTime<Utc>>,
    #[serde(flatten)]
    event: Option<EventFields<'a>>,
}

/// The event fields every writing answer carries, in clear in the audit log.
#[derive(Serialize)]
struct EventFields<'a> {
    event: crate::audit::EventName,
    event_id: &'a str,
    seq: u64,
}

impl Written {
    pub(super) fn new(
        tenant: &LockedTenant,
        event: Option<&Event>,
        warnings: Vec<String>,
    ) -> Result<Self, Error> {
        let credential = tenant.record.live_credential();
        let reading = credential.and_then(|kept| state::read(&tenant.record, kept));
        let data = WrittenData {
            tenant: tenant.name.as_str(),
            version: reading.as_ref().map(|reading| reading.answer.number),
            state: reading.as_ref().map(|reading| reading.state),
            proof: shown(
                reading
                    .as_ref()
                    .and_then(|it| it.version)
                    .map(|version| version.proof),
            ),
            next_rotation: credential.and_then(|kept| kept.next_rotation),
            event: event.map(|event| EventFields {
                event: event.event,
                event_id: &event.event_id,
                seq: event.seq,
            }),
        };
        let data = Data::from_serialize(&data)?;
        Ok(Self { data, warnings })
    }
}
