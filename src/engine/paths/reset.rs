//! `<tenant>/reset`: the emergency; `<tenant>/release`: the end of its hold.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{actor, event_of, optional_text, tenant};
use crate::audit::{EventName, RotationType, Severity};
use crate::crypto::Sensitive;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::{Begun, Ended, Kept, Outcome, Render, Rendered, Waiters, token_of};
use crate::engine::rotation::{self, Change, Done, Queued, Reset, ResetOutcome};
use crate::engine::state::{self, State};
use crate::engine::storage::record::{AppTokenWork, TenantRecord};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, Wrap,
    expose, instant,
};

const FIELDS: &[Field] = &[
    super::TENANT,
    Field::text("incident_id", "The incident this is done for.")
        .required()
        .max_bytes(128)
        .example("INC-2026-0042"),
    Field::text("reason", "Why this is done; kept in the event.")
        .required()
        .max_bytes(512)
        .example("laptop stolen"),
    Field::boolean(
        "keep_app_tokens",
        "Whether the account's Mailu app tokens are left alone; they log in beside the password.",
    )
    .default("false"),
    Field::boolean(
        "hold",
        "Whether <tenant>/admin answers 403 on_hold until <tenant>/release.",
    )
    .default("false"),
];

const ANSWERS: &[Field] = &[
    Field::text(
        "state",
        "done: the new password is live. uncertain: so it was, and whether a login under way has \
         undone it is looked at by a tick. drift: something else is live since; read <tenant>/admin. queued: Mailu cannot be asked, ticks go on with it; \
         <tenant>/reveal shows the password.",
    )
    .one_of(&["done", "uncertain", "drift", "queued"])
    .example("done"),
    Field::text("username", "Mail address of the account; only when done.")
        .example("admin@acme.example"),
    Field::secret(
        "password",
        "The new password; only when done, and then wrapped.",
    ),
    Field::text("webmail_url", "Where humans log in; only when done.")
        .example("https://mail.acme.example/webmail"),
    Field::integer("version", "The version of the new password.").example("4"),
    Field::instant(
        "expires_at",
        "When the wrapping token ends; only when done.",
    )
    .example("2026-09-01T02:29:00Z"),
    Field::integer("tokens_revoked", "App tokens deleted; only when done.").example("2"),
    Field::integer("tokens_left", "App tokens not deleted yet; only when done.").example("0"),
    Field::boolean(
        "repeated",
        "Whether the same version was made for an earlier request; only when done.",
    ),
    Field::instant("next_attempt", "When a tick tries again; only when queued.").nullable(),
    Field::text("event", "The name of the event.").example("smtp_credentials_emergency_reset"),
    super::EVENT_ID,
    super::SEQ,
];

pub(super) fn routes() -> [Route<Engine>; 2] {
    [
        Route {
            pattern: "{tenant}/reset",
            synopsis: "Emergency: replace the password now, whatever else is open.",
            description: "Sets a new, longer password without regard to the old one or to an open \
                          change, marks every earlier version as compromised and deletes the \
                          account's Mailu app tokens. The answer is always wrapped for the mount's \
                          reveal_ttl: unwrap its token once to see the password. If Mailu cannot \
                          be asked, the answer is not wrapped and says queued; the next ticks \
                          finish it, and <tenant>/reveal shows the password. Repeating the same \
                          incident_id joins a reset that is not finished; within 15 minutes the \
                          same caller gets the same version again.

    bao write smtp/acme/reset incident_id=INC-2026-0042 reason=\"laptop stolen\"
    bao unwrap <wrapping_token>",
            fields: FIELDS,
            endpoints: vec![Endpoint {
                operations: &[Operation::Create, Operation::Update],
                summary: "Replace the password in an emergency.",
                unknown_fields: UnknownFields::Refused,
                answers: ANSWERS,
                handler: |engine, mount, call| Box::pin(reset(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "{tenant}/release",
            synopsis: "Let <tenant>/admin hand the password out again after a reset with hold.",
            description: "Ends the hold that an emergency reset asked for.

    bao write smtp/acme/release reason=\"incident closed\"",
            fields: &[super::TENANT, super::REASON],
            endpoints: vec![Endpoint {
                operations: &[Operation::Create, Operation::Update],
                summary: "End the hold of an emergency reset.",
                unknown_fields: UnknownFields::Refused,
                answers: &[],
                handler: |engine, mount, call| Box::pin(release(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
struct DoneOutput<'a> {
    state: &'static str,
    username: &'a str,
    #[serde(serialize_with = "expose::serialize")]
    password: Sensitive<String>,
    webmail_url: &'a str,
    version: u64,
    #[serde(serialize_with = "instant::serialize")]
    expires_at: DateTime<Utc>,
    tokens_revoked: u64,
    tokens_left: u64,
    repeated: bool,
    event: Option<EventName>,
    event_id: Option<&'a str>,
    seq: Option<u64>,
}

#[derive(Serialize)]
struct QueuedOutput<'a> {
    state: &'static str,
    version: u64,
    #[serde(serialize_with = "instant::serialize")]
    next_attempt: Option<DateTime<Utc>>,
    event: Option<EventName>,
    event_id: Option<&'a str>,
    seq: Option<u64>,
}

async fn reset(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let (Some(incident_id), Some(reason)) = (
        optional_text(&call, "incident_id"),
        optional_text(&call, "reason"),
    ) else {
        return Err(crate::logical::Error::user(
            "missing_field",
            "`incident_id` and `reason` are required and must not be empty.",
        ));
    };
    let flag = |name: &str| call.fields.boolean(name).set().unwrap_or(false);
    let order = Reset {
        change: Change {
            rotation_type: Some(RotationType::Emergency),
            actor: actor(&call.request),
            reason: Some(reason),
            incident_id: Some(incident_id.clone()),
            source: None,
            again: None,
            take_over: false,
            request_id: call.request.id.as_str().to_owned(),
        },
        hold: flag("hold"),
        keep_app_tokens: flag("keep_app_tokens"),
        shown: true,
        arrived: engine.clock().now(),
    };
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let key = key.for_emergency(&incident_id);
    let ttl = Duration::from_secs(config.reveal_ttl);
    let wrap = Wrap::new(&mount.active_node().await?, ttl);
    let mut begin = |waiters: Waiters| -> Begun {
        let (engine, mount, name) = (Arc::clone(&engine), mount.clone(), name.clone());
        let (request, mut order) = (call.request.clone(), order.clone());
        let until = engine.waits_until(&config);
        Box::pin(async move {
            let locked = engine.lock_tenant_urgently(&mount, &name).await?;
            order.change.actor.token = hex::encode(locked.keyring.caller_hash(&token_of(&request)));
            // A version that was made before is handed out to who is there, and recorded then.
            order.shown = waiters.is_any_left();
            let shown = order.shown;
            match rotation::reset(locked, order).await? {
                ResetOutcome::Done(mut done) => {
                    let made = done.version;
                    let looked = rotation::await_first_look(&engine, &mount, &name, made, until);
                    (_, done.version) = looked.await?;
                    let now = engine.clock().now();
                    Ok(Ended::ForOne(render(*done, shown, wrap, now)))
                }
                ResetOutcome::Queued(queued) => {
                    waiting(&queued).map(|answer| Ended::ForAll(Box::new(answer)))
                }
            }
        })
    };
    let joined = engine.join_for_one(&mount, &config, (key, &name), &mut begin);
    Ok(joined.await?)
}

/// Prepares the answer for the first who takes it, as long as the version is current.
fn render(done: Done, shown: bool, wrap: Wrap, now: DateTime<Utc>) -> Render {
    Box::new(move |record| {
        let credential = record.and_then(TenantRecord::live_credential);
        let current = credential.and_then(|credential| credential.current);
        // The event of a reset that this caller began names the caller. Anything else that was
        // handed out to nobody was recorded for nobody.
        if current != Some(done.version) || (done.repeated && !shown) {
            return Ok(Rendered::Stale);
        }
        let state = record.map_or(State::Uncertain, state::of);
        wrapped(done, state, wrap, now).map(|answer| Rendered::Shown(Box::new(answer)))
    })
}

fn wrapped(done: Done, state: State, wrap: Wrap, now: DateTime<Utc>) -> Result<Response, Error> {
    let tokens = done.tokens.as_ref();
    let event = done.event.as_ref();
    let output = DoneOutput {
        state: match state {
            State::Settled => "done",
            State::Uncertain => "uncertain",
            State::Drift => "drift",
        },
        username: &done.username,
        password: done.password,
        webmail_url: done.webmail_url.as_deref().unwrap_or_default(),
        version: done.version,
        expires_at: super::end_of(wrap.ttl(), now),
        tokens_revoked: tokens.map_or(0, |work: &AppTokenWork| work.revoked),
        tokens_left: tokens.map_or(0, |work| work.left),
        repeated: done.repeated,
        event: event.map(|event| event.event),
        event_id: event.map(|event| event.event_id.as_str()),
        seq: event.map(|event| event.seq),
    };
    Ok(Response {
        data: Some(Data::from_serialize(&output)?),
        warnings: done.warnings,
        wrap: Some(wrap),
        ..Response::default()
    })
}

fn waiting(queued: &Queued) -> Outcome {
    let event = queued.event.as_ref();
    let output = QueuedOutput {
        state: "queued",
        version: queued.version,
        next_attempt: queued.next_attempt,
        event: event.map(|event| event.event),
        event_id: event.map(|event| event.event_id.as_str()),
        seq: event.map(|event| event.seq),
    };
    let state = if queued.sent {
        "whether the password is changed is not known yet"
    } else {
        "the password is not changed yet"
    };
    let (what, hint) = crate::engine::hint::explain(queued.cause.code());
    Ok(Some(Response {
        data: Some(Data::from_serialize(&output)?),
        warnings: vec![format!(
            "{state}: {what}. The engine goes on by itself. What you can do: {hint}. Write \
             <tenant>/reveal for the password when <tenant>/status says that it is settled."
        )],
        ..Response::default()
    }))
}

async fn release(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let reason = optional_text(&call, "reason");
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let mut locked = worker.lock_tenant(&mount, &name).await?;
        if rotation::release(&mut locked)? {
            let now = worker.clock().now();
            let mut event = event_of(&call, EventName::HoldReleased, now);
            event.severity = Severity::Warning;
            event.reason = reason;
            locked.record_event(event)?;
            locked.store().await?;
        }
        Ok(None)
    };
    Ok(engine.join(&config, key, work).await?)
}
