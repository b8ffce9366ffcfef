//! `<tenant>/events`: what happened to the tenant, newest first.

use std::sync::Arc;

use serde::Serialize;

use super::{EVENT, Filter, LIMIT, Listed, NAME, SINCE, page_of};
use crate::engine::Engine;
use crate::engine::emission::Log;
use crate::engine::paths::{self, TENANT};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};

const FIELDS: &[Field] = &[
    TENANT,
    Field::integer(
        "after",
        "Only events before this number: `next` of the page before.",
    )
    .range(1, i64::MAX)
    .example("17"),
    LIMIT,
    NAME,
    SINCE,
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/events",
        synopsis: "What happened to the tenant, newest first.",
        description: "Answers the tenant's events: every change, attempt and failure, numbered \
                      without gaps and chained by hash. Never a secret. A filter may leave a page \
                      short: `next` tells whether there is more.

    bao read -format=json smtp/acme/events limit=20
    bao read -format=json smtp/acme/events event=smtp_credentials_revealed",
        fields: FIELDS,
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read what happened to the tenant.",
            unknown_fields: UnknownFields::Warned,
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
    events: Vec<Listed>,
    next: Option<u64>,
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = paths::tenant(&call)?;
    let filter = Filter::of(&call)?;
    let after = call.fields.integer("after").set();
    let before = after.map_or(u64::MAX, |after| u64::try_from(after).unwrap_or(0));
    engine.require_active_node(&mount).await?;
    let Some(record) = engine.read_tenant(&mount, &name).await? else {
        return Ok(None);
    };
    let log = Log::Tenant(record);
    let (events, next) = page_of(&engine, &mount, &log, before, filter).await?;
    let output = Output { events, next };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}
