//! `<tenant>/events`: what happened to the tenant, newest first.

use std::sync::Arc;

use serde::Serialize;

use super::tenant;
use crate::audit::Event;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::storage::{self, record::TenantRecord};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, Storage,
};

const DEFAULT_LIMIT: i64 = 50;
const MOST: i64 = 200;

const FIELDS: &[Field] = &[
    super::TENANT,
    Field::integer(
        "after",
        "Only events before this number: the last one of the page before.",
    ),
    Field::integer("limit", "At most so many events; 1 to 200.").default("50"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/events",
        synopsis: "What happened to the tenant, newest first.",
        description: "Answers the tenant's events: every change, attempt and failure, numbered \
                      without gaps and chained by hash. Never a secret.",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read what happened to the tenant.",
            answers: const {
                &[
                    Field::objects("events", "The events, newest first."),
                    Field::integer(
                        "next",
                        "Pass as `after` for the next page; null at the end.",
                    )
                    .nullable(),
                ]
            },
            handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output {
    events: Vec<Event>,
    next: Option<u64>,
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let limit = call.fields.integer("limit").set().unwrap_or(DEFAULT_LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(crate::logical::Error::user(
            "invalid_field",
            "`limit` must be from 1 to 200.",
        ));
    }
    let before = call
        .fields
        .integer("after")
        .set()
        .map_or(u64::MAX, |after| u64::try_from(after).unwrap_or(0));
    engine.require_active_node(&mount).await?;
    let Some(record) = engine.read_tenant(&mount, &name).await? else {
        return Ok(None);
    };
    let limit = usize::try_from(limit).unwrap_or(0);
    let events = newest_first(&*mount.storage, &record, before, limit).await?;
    let next = events.last().map(|event| event.seq).filter(|seq| *seq > 1);
    let output = Output { events, next };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

/// Numbers have no gaps: what the record does not hold any more lies in the trail under its
/// number.
async fn newest_first(
    host: &dyn Storage,
    record: &TenantRecord,
    before: u64,
    limit: usize,
) -> Result<Vec<Event>, Error> {
    let kept = record.log.events();
    let in_record = kept
        .iter()
        .rev()
        .filter(|event| event.seq < before)
        .take(limit);
    let mut events: Vec<Event> = in_record.cloned().collect();
    let oldest_kept = kept.first().map_or(record.log.seq() + 1, |event| event.seq);
    let mut seq = events
        .last()
        .map_or(before.min(oldest_kept), |event| event.seq);
    while events.len() < limit && seq > 1 {
        seq -= 1;
        let key = storage::trail_key(&record.tenant, seq);
        let Some(entry) = host.get(&key).await? else {
            break;
        };
        events.push(storage::TrailEntry::decode(&key, &entry.value)?.event);
    }
    Ok(events)
}
