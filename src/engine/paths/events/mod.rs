//! Events as clients see them: lists of them, and the way by which they reach the audit devices.

mod collect;
mod emit;
mod mount;
mod tenant;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::audit::{Event, EventName};
use crate::engine::Engine;
use crate::engine::emission::{Found, Log};
use crate::engine::error::Error;
use crate::logical::{Call, Field, Mount, Route};

const DEFAULT_LIMIT: i64 = 50;
const MOST: i64 = 200;
/// Events looked at for one page: where a filter leaves few, the next page goes on.
const MOST_LOOKED_AT: usize = 2_000;
/// How far clocks that were moved may have put events into a wrong order.
const DISORDER: TimeDelta = TimeDelta::days(1);

const LIMIT: Field = Field::integer("limit", "At most so many events; 1 to 200.")
    .range(1, 200)
    .default("50");

const NAME: Field = Field::text("event", "Only events of this name.")
    .max_bytes(64)
    .example("smtp_credentials_rotated");

const SINCE: Field =
    Field::instant("since", "Only events from this instant on.").example("2026-09-01T00:00:00Z");

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
    Field::texts("changed", "The names of the settings that changed.").example("rotation_period"),
    Field::text(
        "old_host",
        "Where passwords were sent until now; of a changed endpoint.",
    )
    .example("mail.old.example"),
    Field::text(
        "new_host",
        "Where they are sent from now on; absent if nowhere.",
    )
    .example("mail.acme.example"),
    Field::text("outcome", "How it ended; started: a later event tells.")
        .one_of(&["started", "success", "failure"]),
    Field::text("error_code", "The stable code of a failure.").example("mailu_unreachable"),
    Field::text(
        "request_id",
        "The server's identifier of the request; absent for automatic work.",
    ),
    Field::boolean(
        "delivered",
        "In lists: whether an audit device is known to have taken it.",
    ),
    Field::boolean(
        "replayed",
        "By events/emit: whether a device was known to have taken it before.",
    ),
    Field::text(
        "receipt",
        "By events/emit: random, new in every answer, good for a minute and for the emitter only.",
    )
    .example("5f0c9b6e3a7d41f2b8e6a1c4d9072f35"),
];

/// Every route of events.
pub(super) fn routes() -> Vec<Route<Engine>> {
    let mut routes = vec![mount::route(), emit::route(), tenant::route()];
    routes.extend(collect::routes());
    routes
}

/// An event in a list.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    event: Event,
    delivered: bool,
}

impl From<Found> for Listed {
    fn from(found: Found) -> Self {
        Self {
            event: found.event,
            delivered: found.delivered,
        }
    }
}

/// What a list leaves out.
#[derive(Clone, Copy, Debug)]
struct Filter {
    name: Option<EventName>,
    since: Option<DateTime<Utc>>,
    limit: usize,
}

impl Filter {
    fn of(call: &Call) -> Result<Self, Error> {
        let limit = call.fields.integer("limit").set().unwrap_or(DEFAULT_LIMIT);
        if !(1..=MOST).contains(&limit) {
            return Err(Error::invalid(
                "invalid_field",
                "`limit` must be from 1 to 200.",
            ));
        }
        let name = match call.fields.text("event").set() {
            None | Some("") => None,
            Some(name) => Some(EventName::parse(name).ok_or_else(|| {
                Error::invalid(
                    "invalid_field",
                    "`event` is no name of an event. They are listed in the README.",
                )
            })?),
        };
        Ok(Self {
            name,
            since: call.fields.instant("since").set(),
            limit: usize::try_from(limit).unwrap_or(0),
        })
    }

    fn takes(&self, event: &Event) -> bool {
        self.name.is_none_or(|name| name == event.event)
            && self.since.is_none_or(|since| event.timestamp >= since)
    }

    /// Reports whether nothing older than this event can be wanted.
    fn ends_at(&self, event: &Event) -> bool {
        self.since
            .is_some_and(|since| since - event.timestamp > DISORDER)
    }
}

/// A part of a log, newest first, and the number to go on before; `None` at its end.
async fn page_of(
    engine: &Engine,
    mount: &Mount,
    log: &Log,
    before: u64,
    filter: Filter,
) -> Result<(Vec<Listed>, Option<u64>), Error> {
    let mut events = Vec::new();
    let mut seq = before.min(log.events().seq().saturating_add(1));
    for _ in 0..MOST_LOOKED_AT {
        if seq <= 1 {
            return Ok((events, None));
        }
        if events.len() == filter.limit {
            return Ok((events, Some(seq)));
        }
        let Some(found) = engine.find_event(mount, log, seq - 1).await? else {
            // What is older has left the trail.
            return Ok((events, None));
        };
        seq -= 1;
        if filter.ends_at(&found.event) {
            return Ok((events, None));
        }
        if filter.takes(&found.event) {
            events.push(found.into());
        }
    }
    Ok((events, Some(seq)))
}
