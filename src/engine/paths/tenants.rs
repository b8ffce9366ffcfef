//! The lists of tenants.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::state::{self, State};
use crate::engine::storage;
use crate::engine::tenant::TenantName;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};

const MOST_DETAILED: i64 = 100;

const FIELDS: &[Field] = &[
    Field::text("after", "Only names after this one.")
        .max_bytes(64)
        .example("acme"),
    Field::integer(
        "limit",
        "At most so many names; all if absent (100 with detailed).",
    )
    .range(1, i64::MAX)
    .example("100"),
    Field::boolean("detailed", "Also answer each tenant's state as key_info.").default("false"),
];

const ANSWERS: &[Field] = &[
    Field::texts("keys", "The tenants' names, sorted.").example("acme,globex"),
    Field::object(
        "key_info",
        "With detailed=true: by tenant an object of state, deleted, next_rotation and error.",
    ),
];

pub(super) fn routes() -> [Route<Engine>; 2] {
    let list = || Endpoint {
        operations: &[Operation::List],
        summary: "List the tenants.",
        unknown_fields: UnknownFields::Warned,
        answers: ANSWERS,
        handler: |engine: Arc<Engine>, mount: Mount, call: Call| {
            Box::pin(list(engine, mount, call))
        },
    };
    [
        Route {
            pattern: "",
            synopsis: "The tenants of this mount.",
            description: "Lists the tenants' names, sorted; `after` and `limit` page through them.

    bao list smtp/",
            fields: FIELDS,
            endpoints: vec![list()],
            existence: None,
        },
        Route {
            pattern: "tenants",
            synopsis: "The tenants of this mount.",
            description:
                "Lists the tenants' names, sorted; `after` and `limit` page through them. \
                          With detailed=true each name comes with state, next_rotation and error \
                          code.

    bao list smtp/tenants
    curl -H \"X-Vault-Token: $TOKEN\" \"$BAO_ADDR/v1/smtp/tenants?list=true&detailed=true\"",
            fields: FIELDS,
            endpoints: vec![list()],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
struct Detailed {
    keys: Vec<String>,
    key_info: BTreeMap<String, Info>,
}

#[derive(Default, Serialize)]
struct Info {
    state: Option<State>,
    deleted: bool,
    #[serde(serialize_with = "instant::serialize")]
    next_rotation: Option<DateTime<Utc>>,
    error: Option<String>,
}

async fn list(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let fields = &call.fields;
    let after = fields.text("after").set().unwrap_or("");
    let limit = fields.integer("limit").set();
    let detailed = fields.boolean("detailed").set().unwrap_or(false);
    if limit.is_some_and(|limit| limit < 1) {
        return Err(crate::logical::Error::user(
            "invalid_field",
            "`limit` must be at least 1.",
        ));
    }
    if detailed && limit.is_some_and(|limit| limit > MOST_DETAILED) {
        return Err(crate::logical::Error::user(
            "invalid_field",
            "`limit` is at most 100 with detailed=true.",
        ));
    }
    let limit = if detailed {
        Some(limit.unwrap_or(MOST_DETAILED))
    } else {
        limit
    };
    let keys = match limit.map(usize::try_from) {
        None if after.is_empty() => mount.storage.list(storage::TENANTS).await,
        None | Some(Err(_)) => {
            mount
                .storage
                .list_page(storage::TENANTS, after, usize::MAX)
                .await
        }
        Some(Ok(limit)) => {
            mount
                .storage
                .list_page(storage::TENANTS, after, limit)
                .await
        }
    };
    let keys = keys.map_err(crate::logical::Error::from)?;
    if !detailed || keys.is_empty() {
        return Ok(Response::keys(keys));
    }
    let mut key_info = BTreeMap::new();
    for key in &keys {
        key_info.insert(key.clone(), info(&engine, &mount, key).await?);
    }
    Ok(Some(Response::data(Data::from_serialize(&Detailed {
        keys,
        key_info,
    })?)))
}

async fn info(engine: &Engine, mount: &Mount, key: &str) -> Result<Info, Error> {
    // One unreadable record must not hide the others.
    let record = match TenantName::parse(key) {
        Ok(name) => engine.read_tenant(mount, &name).await,
        Err(error) => Err(error),
    };
    let record = match record {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(Info::default()),
        // The active node may be able to read it.
        Err(Error::Standby) => return Err(Error::Standby),
        Err(error) => {
            return Ok(Info {
                error: Some(error.code().to_owned()),
                ..Info::default()
            });
        }
    };
    let credential = record.live_credential();
    Ok(Info {
        state: credential
            .and_then(|kept| state::read(&record, kept))
            .map(|it| it.state),
        deleted: record.credential.is_some() && credential.is_none(),
        next_rotation: credential.and_then(|kept| kept.next_rotation),
        error: record.last_error.as_ref().map(|failed| failed.code.clone()),
    })
}
