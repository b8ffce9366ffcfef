//! `<tenant>/reveal`: a human looks at the password.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{event_of, optional_text, tenant};
use crate::audit::{Event, EventName, RotationType};
use crate::crypto::Sensitive;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::state::{self, State};
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
    let worker = Arc::clone(&engine);
    let work = async move {
        let mut locked = worker.lock_tenant(&mount, &name).await?;
        let now = worker.clock().now();
        let event = record(&mut locked, &call, reason, ttl, now).await?;
        answer(&locked, &event, ttl, now)
    };
    let data = engine.finish(&config, work).await?;
    Ok(Some(Response {
        data: Some(data),
        wrap: Some(Wrap::new(&proof, ttl)),
        ..Response::default()
    }))
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
    locked: &LockedTenant,
    event: &Event,
    ttl: Duration,
    now: DateTime<Utc>,
) -> Result<Data, Error> {
    let credential = locked.require_credential()?;
    let shown = state::reveal(&locked.record, credential).ok_or(Error::NoCredential)?;
    let candidates = shown.candidates.iter().map(|stored| {
        Ok(Candidate {
            version: stored.number,
            password: locked.open_password(stored.number, stored.sealed)?,
            compromised: stored.compromised,
        })
    });
    let output = Output {
        username: &credential.username,
        password: locked.open_password(shown.answer.number, shown.answer.sealed)?,
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
