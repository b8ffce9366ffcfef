//! `events/emit/<tenant>/<seq>`: answers a stored event, so that the audit devices record it.

use std::sync::Arc;

use serde::Serialize;

use super::EVENT;
use crate::audit::Event;
use crate::engine::Engine;
use crate::logical::{
    Call, Data, Endpoint, Error, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};

const FIELDS: &[Field] = &[
    Field::text(
        "tenant",
        "Name of the tenant; `-` for the mount's own events.",
    )
    .max_bytes(64)
    .required()
    .example("acme"),
    super::super::SEQ.required(),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "events/emit/{tenant}/{seq}",
        synopsis: "Answer a stored event, so that the audit devices record it.",
        description: "Answers the event of this number as it is stored: the server writes it to \
                      its audit devices. What the request carries is ignored, nothing is changed \
                      and nothing counts as delivered by it. The engine's own emitter calls this; \
                      its token needs nothing else. The `receipt` is how the emitter tells an \
                      answer that came through the server from one that did not; a wrapped answer \
                      is refused.

    bao write -f smtp/events/emit/acme/7",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Create, Operation::Update],
            summary: "Answer a stored event.",
            unknown_fields: UnknownFields::Warned,
            answers: EVENT,
            handler: |engine, mount, call| Box::pin(emit(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output {
    #[serde(flatten)]
    event: Event,
    /// A device is known to have taken it before.
    replayed: bool,
    /// Who brings it back has this very answer.
    receipt: String,
}

async fn emit(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    if call.request.wrap_ttl.is_some() {
        // The line of a wrapped answer has no data: a receipt from it would prove nothing.
        return Err(Error::user(
            "wrapped_emit",
            "the answer of events/emit must not be wrapped, because then no audit device gets the \
             event. Repeat it without a wrap TTL, and without min_wrapping_ttl in the policy.",
        ));
    }
    let unknown = || {
        Error::status(
            404,
            "unknown_event",
            "no event of this number is stored for this tenant.",
        )
    };
    let text = call.capture("seq");
    // One spelling only: what reads the log knows the event by its path, too.
    let seq = text.parse::<u64>().ok();
    let seq = seq.filter(|seq| seq.to_string() == text);
    let seq = seq.ok_or_else(|| Error::user("invalid_field", "`seq` must be a number."))?;
    // A standby's device is not where its line belongs, and its storage may lag.
    engine.require_active_node(&mount).await?;
    let log = engine.read_log(&mount, call.capture("tenant")).await?;
    let log = log.ok_or_else(unknown)?;
    let found = engine.find_event(&mount, &log, seq).await?;
    let found = found.ok_or_else(unknown)?;
    let receipt = engine.give_receipt(&found.event)?;
    let output = Output {
        event: found.event,
        replayed: found.delivered,
        receipt,
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}
