//! `events/flush` and `events/ack`: for a collector outside, where the engine shall have no
//! credential of its own for the host.

use std::sync::Arc;

use serde::Serialize;

use super::EVENT;
use crate::audit::Event;
use crate::engine::emission::{MOST_RECEIPT_BYTES, Receipt};
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::{Engine, joined};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};

const WRITES: &[Operation] = &[Operation::Create, Operation::Update];

const LEFT: Field = Field::integer("left", "How many more wait, as far as is known.").example("0");

pub(super) fn routes() -> [Route<Engine>; 2] {
    [
        Route {
            pattern: "events/flush",
            synopsis: "Answer what no audit device has taken yet.",
            description: "Answers up to 100 undelivered events, the oldest first, so that the \
                          server writes them to its audit devices, and a receipt for events/ack. \
                          Until that is called the same events are answered again.

    bao write -f -format=json smtp/events/flush",
            fields: &[],
            endpoints: vec![Endpoint {
                operations: WRITES,
                summary: "Answer undelivered events.",
                unknown_fields: UnknownFields::Warned,
                answers: const {
                    &[
                        Field::objects("events", "The events.").of(EVENT),
                        Field::text("receipt", "For events/ack; absent if there are no events.")
                            .example("eyJldmVudHMi...."),
                        LEFT,
                    ]
                },
                handler: |engine, mount, call| Box::pin(flush(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "events/ack",
            synopsis: "Acknowledge what events/flush answered.",
            description: "Notes that an audit device took the events of a flush: whoever has its \
                          receipt has got its answer, and the server answers nobody before a \
                          device took it. Repeating it changes nothing.

    bao write smtp/events/ack receipt=...",
            fields: const {
                &[Field::text("receipt", "What events/flush answered.")
                    .required()
                    .max_bytes(MOST_RECEIPT_BYTES)
                    .example("eyJldmVudHMi....")]
            },
            endpoints: vec![Endpoint {
                operations: WRITES,
                summary: "Acknowledge a flush.",
                unknown_fields: UnknownFields::Warned,
                answers: const {
                    &[
                        Field::integer("acknowledged", "How many events were noted.").example("12"),
                        LEFT,
                    ]
                },
                handler: |engine, mount, call| Box::pin(acknowledge(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
struct Flushed {
    events: Vec<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
    left: u64,
}

async fn flush(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    if call.request.wrap_ttl.is_some() {
        // The line of a wrapped answer has no data: no device would have the events.
        return Err(Error::invalid(
            "wrapped_flush",
            "the answer of events/flush must not be wrapped, because then no audit device gets the \
             events. Repeat it without a wrap TTL, and without min_wrapping_ttl in the policy.",
        )
        .into());
    }
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::No)?.question();
    let worker = Arc::clone(&engine);
    let work = async move {
        let events = worker.undelivered_events(&mount).await?;
        let receipt = if events.is_empty() {
            None
        } else {
            let keyring = worker.keyring(&mount).await?;
            Some(Receipt::of(events.iter()).sign(&keyring)?)
        };
        let waiting = worker.emission.waiting().unwrap_or_default();
        let output = Flushed {
            left: waiting.events.saturating_sub(events.len() as u64),
            events,
            receipt,
        };
        Ok(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

#[derive(Serialize)]
struct Acknowledged {
    acknowledged: u64,
    left: u64,
}

async fn acknowledge(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let text = call.fields.text("receipt").set().unwrap_or_default();
    let keyring = engine.keyring(&mount).await?;
    let receipt = Receipt::verify(text, &keyring)?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let output = Acknowledged {
            acknowledged: store(&worker, &mount, &receipt).await?,
            left: worker.emission.waiting().unwrap_or_default().events,
        };
        Ok(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

/// Stores the acknowledgement of every event that is still undelivered.
async fn store(engine: &Arc<Engine>, mount: &Mount, receipt: &Receipt) -> Result<u64, Error> {
    let mut acknowledged = 0;
    for (log, seq) in receipt.events() {
        acknowledged += u64::from(engine.take_receipt(mount, receipt, (log, seq)).await?);
    }
    joined::note_stored();
    Ok(acknowledged)
}
