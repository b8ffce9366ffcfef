//! `<tenant>/reveal`: a human looks at the password.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{event_of, optional_text, tenant};
use crate::audit::{Event, EventName, RotationType};
use crate::crypto::{Keyring, Sensitive};
use crate::engine::error::Error;
use crate::engine::joined::{Begun, Ended, Kept, Rendered, Waiters};
use crate::engine::locked::LockedTenant;
use crate::engine::state::{self, State};
use crate::engine::storage::record::TenantRecord;
use crate::engine::tenant::TenantName;
use crate::engine::{Engine, locked};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, Wrap,
    expose, instant,
};

const ANSWERS: &[Field] = &[
    Field::text("username", "Mail address of the account.").example("admin@acme.example"),
    Field::secret("password", "The password to use."),
    Field::text("webmail_url", "Where humans log in.").example("https://mail.acme.example/webmail"),
    Field::integer("version", "The version answered.").example("3"),
    Field::text("state", "settled, uncertain or drift; see <tenant>/admin.")
        .one_of(super::STATES)
        .example("settled"),
    Field::objects(
        "candidates",
        "In doubt: every value that may be live, newest first, that of an open emergency reset \
         included.",
    )
    .of(super::CANDIDATE),
    Field::instant("expires_at", "When the wrapping token ends.").example("2026-09-01T02:29:00Z"),
    Field::instant(
        "rotates_at",
        "When the password is changed because it was seen; null if it is not.",
    )
    .nullable(),
    Field::text("event", "The name of the event.").example("smtp_credentials_revealed"),
    super::EVENT_ID,
    super::SEQ,
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/reveal",
        synopsis: "Show the password to a human, once and wrapped.",
        description: "Answers the password in a wrapping token that lives for the mount's \
                      reveal_ttl and can be unwrapped once; who looked and why is recorded. Also \
                      shows a credential on hold and the password of an emergency reset that is \
                      still open. With rotate_after_reveal in the mount's config the password is \
                      changed when the time is over. Programs read <tenant>/admin instead.

    bao write smtp/acme/reveal reason=\"on-call look\"
    bao unwrap <wrapping_token>",
        fields: const {
            &[
                super::TENANT,
                Field::text("reason", "Why somebody looks; kept in the event.")
                    .required()
                    .max_bytes(512)
                    .example("on-call look"),
            ]
        },
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Show the password to a human.",
            unknown_fields: UnknownFields::Refused,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(reveal(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output<'a> {
    username: &'a str,
    #[serde(serialize_with = "expose::serialize")]
    password: Sensitive<String>,
    webmail_url: &'a str,
    version: u64,
    state: State,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<Candidate>,
    #[serde(serialize_with = "instant::serialize")]
    expires_at: DateTime<Utc>,
    #[serde(serialize_with = "instant::serialize")]
    rotates_at: Option<DateTime<Utc>>,
    event: EventName,
    event_id: &'a str,
    seq: u64,
}

#[derive(Serialize)]
struct Candidate {
    version: u64,
    #[serde(serialize_with = "expose::serialize")]
    password: Sensitive<String>,
    compromised: bool,
}

async fn reveal(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let Some(reason) = optional_text(&call, "reason") else {
        return Err(crate::logical::Error::user(
            "missing_field",
            "`reason` is required and must not be empty.",
        ));
    };
    engine.require_active(&mount).await?;
    let proof = mount.active_node().await?;
    let config = engine.config(&mount).await?;
    let ttl = Duration::from_secs(config.reveal_ttl);
    let wrap = Wrap::new(&proof, ttl);
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let mut begin = |waiters: Waiters| -> Begun {
        let look = Look {
            engine: Arc::clone(&engine),
            mount: mount.clone(),
            call: call.clone(),
            reason: reason.clone(),
            ttl,
        };
        Box::pin(look.take(name.clone(), waiters, wrap))
    };
    let joined = engine.join_for_one(&mount, &config, (key, &name), &mut begin);
    Ok(joined.await?)
}

/// What one look needs, whoever of those who asked for it is there to see.
struct Look {
    engine: Arc<Engine>,
    mount: Mount,
    call: Call,
    reason: String,
    ttl: Duration,
}

impl Look {
    /// Records the look for somebody who is there to see, once it is this request's turn.
    async fn take(self, name: TenantName, waiters: Waiters, wrap: Wrap) -> Result<Ended, Error> {
        let mut locked = self.engine.lock_tenant(&self.mount, &name).await?;
        if !waiters.is_any_left() {
            // A password that nobody is shown was not looked at.
            return Ok(Ended::Nobody);
        }
        let now = self.engine.clock().now();
        let event = record(&mut locked, &self.call, self.reason, self.ttl, now).await?;
        let (recorded, keyring) = (Sight::of(&locked.record), Arc::clone(&locked.keyring));
        let ttl = self.ttl;
        Ok(Ended::ForOne(Box::new(move |record| {
            // What was recorded is what is shown.
            let Some(record) = record.filter(|record| Sight::of(record) == recorded) else {
                return Ok(Rendered::Stale);
            };
            Ok(Rendered::Shown(Box::new(Response {
                data: Some(answer(record, &keyring, &event, (ttl, now))?),
                wrap: Some(wrap),
                ..Response::default()
            })))
        })))
    }
}

/// Which passwords a look shows.
#[derive(Debug, PartialEq, Eq)]
struct Sight {
    incarnation: String,
    state: Option<State>,
    answer: Option<u64>,
    candidates: Vec<(u64, bool)>,
}

impl Sight {
    fn of(record: &TenantRecord) -> Self {
        let credential = record.live_credential();
        let shown = credential.and_then(|credential| state::reveal(record, credential));
        let candidates = shown.iter().flat_map(|shown| &shown.candidates);
        Self {
            incarnation: record.incarnation.clone(),
            candidates: candidates.map(|it| (it.number, it.compromised)).collect(),
            state: shown.as_ref().map(|shown| shown.state),
            answer: shown.as_ref().map(|shown| shown.answer.number),
        }
    }
}

/// Records the look before anything is shown, and the change of the password that follows it.
async fn record(
    locked: &mut LockedTenant,
    call: &Call,
    reason: String,
    ttl: Duration,
    now: DateTime<Utc>,
) -> Result<Event, Error> {
    let credential = locked.require_credential()?;
    let shown = state::reveal(&locked.record, credential).ok_or(Error::NoCredential)?;
    let mut event = event_of(call, EventName::Revealed, now);
    event.rotation_type = locked
        .config
        .rotate_after_reveal
        .then_some(RotationType::Reveal);
    event.version = Some(shown.answer.number);
    event.reason = Some(reason);
    if locked.config.rotate_after_reveal {
        let end = super::end_of(ttl, now);
        if let Some(credential) = locked.record.credential.as_mut() {
            // Seen once more before the change of an earlier look: that one is soon enough.
            let earlier = credential.rotate_at.map_or(end, |at| at.min(end));
            credential.rotate_at = Some(earlier);
        }
    }
    let event = locked.record_event(event)?;
    locked.store().await?;
    Ok(event)
}

fn answer(
    record: &TenantRecord,
    keyring: &Keyring,
    event: &Event,
    (ttl, now): (Duration, DateTime<Utc>),
) -> Result<Data, Error> {
    let credential = record.live_credential().ok_or(Error::NoCredential)?;
    let shown = state::reveal(record, credential).ok_or(Error::NoCredential)?;
    let open = |number, sealed| locked::open_password(keyring, record, number, sealed);
    let candidates = shown.candidates.iter().map(|stored| {
        Ok(Candidate {
            version: stored.number,
            password: open(stored.number, stored.sealed)?,
            compromised: stored.compromised,
        })
    });
    let output = Output {
        username: &credential.username,
        password: open(shown.answer.number, shown.answer.sealed)?,
        webmail_url: credential.webmail_url.as_deref().unwrap_or_default(),
        version: shown.answer.number,
        state: shown.state,
        candidates: candidates.collect::<Result<_, Error>>()?,
        expires_at: super::end_of(ttl, now),
        rotates_at: credential.rotate_at,
        event: event.event,
        event_id: &event.event_id,
        seq: event.seq,
    };
    Ok(Data::from_serialize(&output)?)
}
