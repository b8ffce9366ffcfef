//! `<tenant>/rotate`: change the password now.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{actor, optional_text, tenant};
use crate::audit::{EventName, RotationType};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::mail::Purpose;
use crate::engine::rotation::{self, Change, Changed};
use crate::engine::state::State;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};

const FIELDS: &[Field] = &[super::TENANT, super::REASON];

pub(super) const ANSWERS: &[Field] = &[
    super::TENANT,
    Field::integer("version", "The new version.").example("4"),
    Field::integer("previous_version", "The version that was current before.")
        .example("3")
        .nullable(),
    Field::instant("last_rotated", "When the new password became current.")
        .example("2026-09-01T02:14:00Z"),
    super::NEXT_ROTATION,
    Field::text("event", "The name of the event.").example("smtp_credentials_rotated"),
    super::EVENT_ID,
    super::SEQ,
    super::STATE_AFTER,
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/rotate",
        synopsis: "Change the tenant's password now.",
        description: "Generates a password, stores it, sets it in Mailu, proves it and makes it \
                      the current version, in this order. The old password stops working at once. \
                      If an earlier change is still open, that one is settled and answered \
                      instead. The answer never holds a password: read <tenant>/admin.

    bao write smtp/acme/rotate reason=\"quarterly change\"",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Change the tenant's password now.",
            unknown_fields: UnknownFields::Refused,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(rotate(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output {
    tenant: String,
    version: u64,
    previous_version: Option<u64>,
    #[serde(serialize_with = "instant::serialize")]
    last_rotated: DateTime<Utc>,
    #[serde(serialize_with = "instant::serialize")]
    next_rotation: Option<DateTime<Utc>>,
    event: Option<EventName>,
    event_id: Option<String>,
    seq: Option<u64>,
    state: State,
}

async fn rotate(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let change = Change {
        rotation_type: Some(RotationType::Manual),
        actor: actor(&call.request),
        reason: optional_text(&call, "reason"),
        incident_id: None,
        source: None,
        again: None,
        take_over: false,
        request_id: call.request.id.as_str().to_owned(),
    };
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let until = engine.waits_until(&config);
    let work = async move {
        let rotate = |locked| rotation::rotate(locked, change.clone());
        let changed = worker
            .at_server(&mount, &name, Purpose::Request, rotate)
            .await?;
        let made = changed.version;
        let looked = rotation::await_first_look(&worker, &mount, &name, made, until).await?;
        let (state, version) = looked;
        answer(Changed { version, ..changed }, state)
    };
    Ok(engine.join(&config, key, work).await?)
}

pub(super) fn answer(changed: Changed, state: State) -> Result<Option<Response>, Error> {
    let output = Output {
        tenant: changed.tenant,
        version: changed.version,
        previous_version: changed.previous_version,
        last_rotated: changed.last_rotated,
        next_rotation: changed.next_rotation,
        event: changed.event.as_ref().map(|event| event.event),
        event_id: changed.event.as_ref().map(|event| event.event_id.clone()),
        seq: changed.event.as_ref().map(|event| event.seq),
        state,
    };
    let data = Data::from_serialize(&output)?;
    Ok(Some(Response {
        data: Some(data),
        warnings: changed.warnings,
        ..Response::default()
    }))
}
