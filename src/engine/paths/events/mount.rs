//! `events`: what happened to all tenants and to the mount itself, newest first.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use ulid::Ulid;

use super::{EVENT, Filter, LIMIT, Listed, MOST_LOOKED_AT, NAME, SINCE, page_of};
use crate::engine::Engine;
use crate::engine::emission::list_days;
use crate::engine::error::Error;
use crate::engine::storage::{self, JournalEntry};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};

/// Names of one day that are read; of a day with more only the newest so many are listed.
const MOST_OF_A_DAY: usize = 1_000_000;

const FIELDS: &[Field] = &[
    Field::text("after", "Where to go on: `next` of the page before.")
        .max_bytes(64)
        .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
    LIMIT,
    NAME,
    SINCE,
    Field::text(
        "tenant",
        "Only events of this tenant; `-`: the mount's own.",
    )
    .max_bytes(64)
    .example("acme"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "events",
        synopsis: "What happened to all tenants and to the mount, newest first.",
        description: "Answers the events of all tenants and of the mount itself, newest first. \
                      Never a secret. A filter may leave a page short or empty: `next` tells \
                      whether there is more.

    bao read -format=json smtp/events limit=20
    bao read -format=json smtp/events event=smtp_credentials_revealed since=2026-09-01T00:00:00Z
    bao read -format=json smtp/events tenant=-",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read what happened.",
            unknown_fields: UnknownFields::Warned,
            answers: const {
                &[
                    Field::objects("events", "The events, newest first.").of(EVENT),
                    Field::text(
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
    events: Vec<Listed>,
    next: Option<String>,
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let filter = Filter::of(&call)?;
    let text = |name: &str| call.fields.text(name).set().filter(|text| !text.is_empty());
    let (after, tenant) = (text("after"), text("tenant"));
    engine.require_active_node(&mount).await?;
    let output = match tenant {
        Some(tenant) => of_log(&engine, &mount, tenant, (after, filter)).await?,
        None => of_all(&engine, &mount, (after, filter)).await?,
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

fn invalid_after() -> Error {
    Error::invalid(
        "invalid_field",
        "`after` must be what a page before answered as `next`, with the same `tenant`.",
    )
}

async fn of_log(
    engine: &Engine,
    mount: &Mount,
    tenant: &str,
    (after, filter): (Option<&str>, Filter),
) -> Result<Output, Error> {
    let before = match after {
        Some(after) => after.parse().map_err(|_no_number| invalid_after())?,
        None => u64::MAX,
    };
    let (events, next) = match engine.read_log(mount, tenant).await? {
        Some(log) => page_of(engine, mount, &log, before, filter).await?,
        None => (Vec::new(), None),
    };
    Ok(Output {
        events,
        next: next.map(|seq| seq.to_string()),
    })
}

/// When an event's identifier was made, as a day.
fn day_of(event_id: Ulid) -> Option<NaiveDate> {
    let millis = i64::try_from(event_id.timestamp_ms()).ok()?;
    DateTime::<Utc>::from_timestamp_millis(millis).map(|at| at.date_naive())
}

/// A page of what the index by time leads to.
async fn of_all(
    engine: &Engine,
    mount: &Mount,
    (after, filter): (Option<&str>, Filter),
) -> Result<Output, Error> {
    let after = match after {
        Some(after) => Some(Ulid::from_string(after).map_err(|_no_id| invalid_after())?),
        None => None,
    };
    let last_day = after.map_or(Some(NaiveDate::MAX), day_of);
    let last_day = last_day.ok_or_else(invalid_after)?;
    let first_day = filter.since.map(|since| since.date_naive());
    let mut days = list_days(mount).await?;
    days.retain(|day| *day <= last_day && first_day.is_none_or(|first| *day >= first));
    let after = after.map(|id| id.to_string());
    let (mut events, mut looked_at) = (Vec::new(), 0);
    for day in days.into_iter().rev() {
        let names = day_names(mount, day).await?;
        let older = |id: &&String| after.as_ref().is_none_or(|after| *id < after);
        for event_id in names.iter().rev().filter(older) {
            if let Some(found) = event_at(engine, mount, day, event_id).await?
                && filter.takes(&found.event)
            {
                events.push(found);
            }
            looked_at += 1;
            if events.len() == filter.limit || looked_at == MOST_LOOKED_AT {
                let next = Some(event_id.clone());
                return Ok(Output { events, next });
            }
        }
    }
    Ok(Output { events, next: None })
}

async fn day_names(mount: &Mount, day: NaiveDate) -> Result<Vec<String>, Error> {
    let folder = storage::journal_folder(day);
    let mut names = mount.storage.list_page(&folder, "", MOST_OF_A_DAY).await?;
    names.sort_unstable();
    Ok(names)
}

/// Returns the event that an entry of the index leads to; `None` if its record was never stored.
async fn event_at(
    engine: &Engine,
    mount: &Mount,
    day: NaiveDate,
    event_id: &str,
) -> Result<Option<Listed>, Error> {
    let key = storage::journal_key(day, event_id);
    let Some(found) = mount.storage.get(&key).await? else {
        return Ok(None);
    };
    let entry = JournalEntry::decode(&key, &found.value)?;
    let log = match engine.read_log(mount, &entry.tenant).await {
        Ok(Some(log)) => log,
        // One record that cannot be read does not hide all others.
        Ok(None) | Err(Error::Entry { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = engine.find_event(mount, &log, entry.seq).await?;
    let same = found.filter(|found| found.event.event_id == event_id);
    Ok(same.map(Listed::from))
}
