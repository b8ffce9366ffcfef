//! `<tenant>/rollback`: an earlier password becomes current again.

use std::sync::Arc;

use super::rotate;
use super::{actor, optional_text, tenant};
use crate::audit::RotationType;
use crate::engine::Engine;
use crate::engine::joined::Kept;
use crate::engine::mail::Purpose;
use crate::engine::rotation::{self, Change, Changed};
use crate::logical::{Call, Endpoint, Field, Mount, Operation, Reply, Route, UnknownFields};

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/rollback",
        synopsis: "Make an earlier password current again.",
        description: "Sets the password of a kept version in Mailu again, as a new version, and \
                      proves it. If a change is open, it is settled first. A compromised version \
                      is never used again. The answer never holds a password: read <tenant>/admin.

    bao write smtp/acme/rollback version=3 reason=\"a consumer cannot be updated yet\"",
        fields: const {
            &[
                super::TENANT,
                Field::integer("version", "The version to go back to.")
                    .range(1, i64::MAX)
                    .required()
                    .example("3"),
                Field::text("reason", "Why this is done; kept in the event.")
                    .required()
                    .max_bytes(512)
                    .example("a consumer cannot be updated yet"),
            ]
        },
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Make an earlier password current again.",
            unknown_fields: UnknownFields::Refused,
            answers: rotate::ANSWERS,
            handler: |engine, mount, call| Box::pin(rollback(engine, mount, call)),
        }],
        existence: None,
    }
}

async fn rollback(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let missing = |text: &str| crate::logical::Error::user("missing_field", text);
    let number = call.fields.integer("version").set();
    let number = number
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| missing("`version` is required, a number from 1."))?;
    let reason = optional_text(&call, "reason")
        .ok_or_else(|| missing("`reason` is required and must not be empty."))?;
    let change = Change {
        rotation_type: Some(RotationType::Rollback),
        actor: actor(&call.request),
        reason: Some(reason),
        incident_id: None,
        source: Some(number),
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
        let roll_back = |locked| rotation::roll_back(locked, change.clone(), number);
        let changed = worker
            .at_server(&mount, &name, Purpose::Request, roll_back)
            .await?;
        let made = changed.version;
        let looked = rotation::await_first_look(&worker, &mount, &name, made, until).await?;
        let (state, version) = looked;
        rotate::answer(Changed { version, ..changed }, state)
    };
    Ok(engine.join(&config, key, work).await?)
}
