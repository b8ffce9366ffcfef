//! `ops/adopt-storage`: the end of `foreign_storage`.

use std::sync::Arc;

use serde::Serialize;

use super::actor;
use crate::audit::{Event, EventName, Severity};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};

const FIELDS: &[Field] = &[
    Field::text(
        "confirm",
        "The mount that made the storage, as the error names it.",
    )
    .required()
    .max_bytes(255)
    .example("6f3b1c52-74a1-4c9e-8d0f-0b7c2a9e51d3"),
    super::REASON,
];

const ANSWERS: &[Field] = &[
    Field::boolean(
        "adopted",
        "Whether this request did it; false if the storage is this mount's already.",
    )
    .example("true"),
    Field::text(
        "event",
        "The name of the event; null if nothing was changed.",
    )
    .example("smtp_storage_adopted")
    .nullable(),
    super::EVENT_ID.nullable(),
    super::SEQ.nullable(),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "ops/adopt-storage",
        synopsis: "Take over a storage that another mount has made.",
        description: "A storage carries the identifier of the mount that made it. Under another \
                      mount everything that writes or opens a secret answers foreign_storage, and \
                      ticks do nothing: two mounts on one account would each set its password \
                      behind the other's back. This says that the other mount is gone. Afterwards \
                      every tenant is verified before its next change; one whose password was \
                      changed meanwhile is in drift and waits for a person.

    bao write smtp/ops/adopt-storage confirm=6f3b1c52-74a1-4c9e-8d0f-0b7c2a9e51d3 reason=\"moved\"",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Take over another mount's storage.",
            unknown_fields: UnknownFields::Refused,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(adopt(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output {
    adopted: bool,
    event: Option<EventName>,
    event_id: Option<String>,
    seq: Option<u64>,
}

async fn adopt(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active_anywhere(&mount).await?;
    let config = engine.config(&mount).await?;
    let confirm = call.fields.text("confirm").set().unwrap_or_default().trim();
    let confirm = confirm.to_owned();
    let caller = actor(&call.request);
    let mut event = engine.mount_event(EventName::StorageAdopted, caller, &call.request);
    event.severity = Severity::Critical;
    event.reason = super::optional_text(&call, "reason");
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let told: Option<Event> = worker.adopt_storage(&mount, &confirm, event).await?;
        let output = Output {
            adopted: told.is_some(),
            event: told.as_ref().map(|event| event.event),
            event_id: told.as_ref().map(|event| event.event_id.clone()),
            seq: told.as_ref().map(|event| event.seq),
        };
        Ok::<_, Error>(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}
