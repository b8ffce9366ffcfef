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
    )
    .range(1, i64::MAX)
    .example("17"),
    Field::integer("limit", "At most so many events; 1 to 200.")
        .range(1, 200)
        .default("50"),
];

const EVENT: &[Field] = &[
    Field::text("event", "What happened.").example("smtp_credentials_rotated"),
    super::EVENT_ID,
    super::SEQ,
    Field::text(
        "lineage",
        "Changes when storage is found to have gone back in time.",
    )
    .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
    Field::text(
        "prev_hash",
        "The `hash` of the event before; 64 zeros for the first.",
    ),
    Field::text(
        "hash",
        "Hexadecimal SHA-256 of the event without its private fields.",
    ),
    Field::text(
        "detail_hash",
        "Hexadecimal HMAC-SHA256 of the private fields.",
    ),
    Field::text("tenant_id", "The tenant.").example("acme"),
    Field::text(
        "user_id",
        "Who asked: an entity id, no_entity for a token without one, or system.",
    )
    .example("system"),
    Field::text(
        "display_name",
        "What the server calls who asked; absent for the engine itself.",
    )
    .example("userpass-alice"),
    Field::instant("timestamp", "When it happened.").example("2026-09-01T02:14:00Z"),
    Field::text("severity", "How urgent it is.").one_of(&["info", "warning", "critical"]),
    Field::text(
        "rotation_type",
        "Why a password changed; absent if none did.",
    )
    .one_of(super::ROTATION_TYPES),
    Field::integer("version", "The version it is about, if it is about one.").example("4"),
    Field::integer("previous_version", "The version that was current before.").example("3"),
    Field::instant("previous_rotation", "When the password had changed before."),
    Field::text("reason", "What the caller gave as reason.").example("quarterly change"),
    Field::text("incident_id", "The incident of an emergency reset."),
    Field::text("outcome", "How it ended; started: a later event tells.")
        .one_of(&["started", "success", "failure"]),
    Field::text("error_code", "The stable code of a failure.").example("mailu_unreachable"),
    Field::text(
        "request_id",
        "The server's identifier of the request; absent for automatic work.",
    ),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/events",
        synopsis: "What happened to the tenant, newest first.",
        description: "Answers the tenant's events: every change, attempt and failure, numbered \
                      without gaps and chained by hash. Never a secret.

    bao read -format=json smtp/acme/events limit=20",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read what happened to the tenant.",
            answers: const {
                &[
                    Field::objects("events", "The events, newest first.").of(EVENT),
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
