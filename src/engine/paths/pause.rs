//! `<tenant>/pause`, `<tenant>/resume`: automatic rotation rests for a while.
//!
//! Both record `smtp_rotation_paused`: with the outcome `started` where the pause begins or
//! changes, with `success` where somebody ends it. A pause that ends by itself has no second event.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{event_of, optional_text, tenant};
use crate::audit::{Event, EventName, NewEvent, Outcome};
use crate::engine::Engine;
use crate::engine::config::LONGEST_PAUSE;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::Pause;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
    seconds,
};

const WRITES: &[Operation] = &[Operation::Create, Operation::Update];

const UNTIL: Field = Field::text(
    "until",
    "When the pause ends: an RFC 3339 instant, or a duration from now; at most 90 days ahead.",
)
.required()
.max_bytes(64)
.example("14d");

const ANSWERS: &[Field] = &[
    Field::instant(
        "until",
        "When the pause ends by itself; null if there is none.",
    )
    .example("2026-12-24T18:00:00Z")
    .nullable(),
    Field::text("event", "The name of the event; null if nothing changed.")
        .example("smtp_rotation_paused")
        .nullable(),
    super::EVENT_ID.nullable(),
    super::SEQ.nullable(),
];

pub(super) fn routes() -> [Route<Engine>; 2] {
    [
        Route {
            pattern: "{tenant}/pause",
            synopsis: "Let automatic rotation rest for a while.",
            description: "Until the given instant the schedule does not change the tenant's \
                          password, nor does the end of a reveal. Requests, resets, batches and \
                          the settling of an open change go on. Another write replaces the pause.

    bao write smtp/acme/pause until=14d reason=\"migration of the mail server\"",
            fields: &[super::TENANT, UNTIL, super::REASON],
            endpoints: vec![Endpoint {
                operations: WRITES,
                summary: "Let automatic rotation rest for a while.",
                unknown_fields: UnknownFields::Warned,
                answers: ANSWERS,
                handler: |engine, mount, call| Box::pin(pause(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "{tenant}/resume",
            synopsis: "End the pause of automatic rotation.",
            description: "The schedule goes on with the tenant. What fell due meanwhile is done \
                          at the next check.

    bao write smtp/acme/resume reason=\"the server has moved\"",
            fields: &[super::TENANT, super::REASON],
            endpoints: vec![Endpoint {
                operations: WRITES,
                summary: "End the pause of automatic rotation.",
                unknown_fields: UnknownFields::Warned,
                answers: ANSWERS,
                handler: |engine, mount, call| Box::pin(resume(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
struct Output {
    #[serde(serialize_with = "instant::serialize")]
    until: Option<DateTime<Utc>>,
    event: Option<EventName>,
    event_id: Option<String>,
    seq: Option<u64>,
}

async fn pause(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let until = until(call.fields.text("until").set().unwrap_or(""), &engine)?;
    let reason = optional_text(&call, "reason").unwrap_or_default();
    change(engine, mount, call, move |locked, event| {
        let same = |pause: &Pause| pause.until == until && pause.reason == reason;
        if locked.record.paused_at(event.timestamp).is_some_and(same) {
            return false;
        }
        locked.record.pause = Some(Pause {
            until,
            by: event.actor.clone(),
            reason,
        });
        event.outcome = Outcome::Started;
        true
    })
    .await
}

async fn resume(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    change(engine, mount, call, |locked, event| {
        let paused = locked.record.paused_at(event.timestamp).is_some();
        // What is over by itself is only tidied up, with the next change.
        locked.record.pause = None;
        paused
    })
    .await
}

/// Stores one change of the pause with its event; `apply` says whether there is one.
async fn change<F>(engine: Arc<Engine>, mount: Mount, call: Call, apply: F) -> Reply
where
    F: FnOnce(&mut LockedTenant, &mut NewEvent) -> bool + Send + 'static,
{
    let name = tenant(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let mut locked = worker.lock_tenant(&mount, &name).await?;
        locked.require_credential()?;
        let now = worker.clock().now();
        let mut event = event_of(&call, EventName::RotationPaused, now);
        event.reason = optional_text(&call, "reason");
        // The host sends a request again whose plugin died: a duration would begin anew.
        if let Some(told) = told_before(&locked, &event.request_id) {
            return output(&locked, Some(&told), now);
        }
        if !apply(&mut locked, &mut event) {
            return output(&locked, None, now);
        }
        let event = locked.record_event(event)?;
        locked.store().await?;
        output(&locked, Some(&event), now)
    };
    Ok(engine.join(&config, key, work).await?)
}

fn told_before(locked: &LockedTenant, request_id: &str) -> Option<Event> {
    let mut told = locked.record.tally.answers_to(request_id);
    told.find(|event| event.event == EventName::RotationPaused)
        .cloned()
}

fn output(
    locked: &LockedTenant,
    event: Option<&Event>,
    now: DateTime<Utc>,
) -> Result<Option<Response>, Error> {
    let output = Output {
        until: locked.record.paused_at(now).map(|pause| pause.until),
        event: event.map(|event| event.event),
        event_id: event.map(|event| event.event_id.clone()),
        seq: event.map(|event| event.seq),
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

/// Reads the end of a pause.
fn until(text: &str, engine: &Engine) -> Result<DateTime<Utc>, Error> {
    let now = engine.clock().now();
    let ahead = |text: &str| {
        let span = TimeDelta::from_std(seconds::parse(text).ok()?).ok()?;
        now.checked_add_signed(span)
    };
    let until = instant::parse(text).ok().or_else(|| ahead(text));
    until
        .filter(|until| *until > now && *until - now <= LONGEST_PAUSE)
        .ok_or_else(|| {
            Error::invalid(
                "invalid_field",
                "`until` must be an RFC 3339 instant or a duration, in the future and at most 90 \
                 days ahead, for example 2026-12-24T18:00:00Z or 14d.",
            )
        })
}
