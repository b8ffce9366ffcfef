//! `batches`: many tenants' passwords changed by one request.

mod output;

use std::collections::HashSet;
use std::sync::Arc;

use super::{actor, optional_text};
use crate::audit::EventName;
use crate::engine::Engine;
use crate::engine::batch::{Action, Created, MOST_NAMED, Order, Targets};
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::storage;
use crate::engine::tenant::TenantName;
use crate::logical::{
    Call, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use output::{CREATE_ANSWERS, READ_ANSWERS, answer, created, plan_answer};

const WRITES: &[Operation] = &[Operation::Create, Operation::Update];
const ACTIONS: &[&str] = &["rotate", "reset"];
const DEFAULT_CANARY: i64 = 1;
const MOST_CANARIES: i64 = 900;
const DEFAULT_FAILURES: i64 = 5;
const MOST_FAILURES: i64 = 1_000_000;

const FIELDS: &[Field] = &[
    Field::texts(
        "tenants",
        "The tenants, at most 900, in the order of their turns.",
    )
    .max_bytes(64)
    .example("acme,globex"),
    Field::boolean(
        "all",
        "Every tenant of the mount instead, in the order of their names.",
    )
    .default("false"),
    Field::text(
        "action",
        "rotate: an ordinary new password. reset: the emergency, which regards no old password; \
         the new ones are shown by <tenant>/reveal.",
    )
    .required()
    .one_of(ACTIONS)
    .example("rotate"),
    super::REASON,
    Field::text("incident_id", "The incident; required for reset.")
        .max_bytes(128)
        .example("INC-2026-0042"),
    Field::integer(
        "canary",
        "So many are changed first, one by one; unless each succeeds the batch stops.",
    )
    .range(0, MOST_CANARIES)
    .default("1"),
    Field::integer(
        "max_failures",
        "With more failures than this the batch stops itself.",
    )
    .range(0, MOST_FAILURES)
    .default("5"),
    Field::boolean(
        "dry_run",
        "Only tell what the batch would do; no mail server is asked and nothing is changed.",
    )
    .default("false"),
];

const ID: Field = Field::text("id", "The identifier of the batch, a ULID.")
    .pattern("^[0-9A-HJKMNP-TV-Z]{26}$")
    .required()
    .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC");

pub(super) fn routes() -> [Route<Engine>; 3] {
    [
        Route {
            pattern: "batches",
            synopsis: "Change the passwords of many tenants.",
            description: "Creates a batch; ticks do the work, one change per mail server at a \
                          time and max_parallel at once, one batch after the other. The first \
                          ones (`canary`) must all succeed before the rest begins. Tenants of \
                          which a person has to decide are left alone: drift, an open change, a \
                          hold, a pause. min_rotation_interval does not apply. A restart goes on \
                          where it was; no tenant is changed twice. Batches are kept for 90 days \
                          after their end, at most 100.

    bao write smtp/batches action=rotate all=true dry_run=true
    bao write smtp/batches action=rotate tenants=acme,globex reason=\"new CA\"
    bao list smtp/batches",
            fields: FIELDS,
            endpoints: vec![
                Endpoint {
                    operations: WRITES,
                    summary: "Create a batch, or tell what it would do.",
                    unknown_fields: UnknownFields::Refused,
                    answers: CREATE_ANSWERS,
                    handler: |engine, mount, call| Box::pin(create(engine, mount, call)),
                },
                Endpoint {
                    operations: &[Operation::List],
                    summary: "List the batches, oldest first.",
                    unknown_fields: UnknownFields::Warned,
                    answers: const {
                        &[Field::texts("keys", "Their identifiers.")
                            .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC")]
                    },
                    handler: |_engine, mount, _call| Box::pin(list(mount)),
                },
            ],
            existence: None,
        },
        Route {
            pattern: "batches/{id}",
            synopsis: "How far a batch is.",
            description: "Answers the batch and its progress by outcome. Progress is stored after \
                          25 tenants or 5 seconds.

    bao read -format=json smtp/batches/01K8Z5Y4N6D3T7Q2W9R1M0XVBC",
            fields: &[ID],
            endpoints: vec![Endpoint {
                operations: &[Operation::Read],
                summary: "Read how far a batch is.",
                unknown_fields: UnknownFields::Warned,
                answers: READ_ANSWERS,
                handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
            }],
            existence: None,
        },
        cancel_route(),
    ]
}

fn cancel_route() -> Route<Engine> {
    Route {
        pattern: "batches/{id}/cancel",
        synopsis: "Stop a batch before its next tenant.",
        description: "Changes under way are finished; nobody else gets a turn. What was \
                          changed stays changed. A batch that is over is answered as it is.

    bao write smtp/batches/01K8Z5Y4N6D3T7Q2W9R1M0XVBC/cancel reason=\"wrong list\"",
        fields: &[ID, super::REASON],
        endpoints: vec![Endpoint {
            operations: WRITES,
            summary: "Stop a batch.",
            unknown_fields: UnknownFields::Refused,
            answers: READ_ANSWERS,
            handler: |engine, mount, call| Box::pin(cancel(engine, mount, call)),
        }],
        existence: None,
    }
}

async fn create(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let order = order(&engine, &call)?;
    let dry_run = call.fields.boolean("dry_run").set().unwrap_or(false);
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        if dry_run {
            let incident = order.event.incident_id.as_deref();
            let plan = worker
                .plan_batch(&mount, order.action, incident, &order.targets)
                .await?;
            return plan_answer(&plan);
        }
        let Created { batch, ahead } = worker.create_batch(&mount, order).await?;
        created(&batch, ahead)
    };
    Ok(engine.join(&config, key, work).await?)
}

/// Reads what is asked for.
fn order(engine: &Engine, call: &Call) -> Result<Order, Error> {
    let action = match call.fields.text("action").set() {
        Some("rotate") => Action::Rotate,
        Some("reset") => Action::Reset,
        _ => return Err(invalid("`action` must be rotate or reset.")),
    };
    let mut event =
        engine.mount_event(EventName::BatchStarted, actor(&call.request), &call.request);
    event.reason = optional_text(call, "reason");
    event.incident_id = optional_text(call, "incident_id");
    if action == Action::Reset && event.incident_id.is_none() {
        return Err(Error::invalid(
            "missing_field",
            "`incident_id` is required for action=reset and must not be empty.",
        ));
    }
    let number = |name: &str, default: i64, most: i64| {
        let number = call.fields.integer(name).set().unwrap_or(default);
        u64::try_from(number)
            .ok()
            .filter(|_| number <= most)
            .ok_or_else(|| invalid(format!("`{name}` must be from 0 to {most}.")))
    };
    Ok(Order {
        action,
        targets: targets(call)?,
        canary: number("canary", DEFAULT_CANARY, MOST_CANARIES)?,
        max_failures: number("max_failures", DEFAULT_FAILURES, MOST_FAILURES)?,
        event,
    })
}

/// Reads whose passwords are to be changed.
fn targets(call: &Call) -> Result<Targets, Error> {
    let all = call.fields.boolean("all").set().unwrap_or(false);
    let mut named = call.fields.texts("tenants").set().unwrap_or_default();
    if all != named.is_empty() {
        return Err(invalid("name the `tenants`, or say `all=true`; not both."));
    }
    if all {
        return Ok(Targets::All);
    }
    if named.len() > MOST_NAMED {
        return Err(invalid(
            "`tenants` takes at most 900 names. Make several batches, or say `all=true`.",
        ));
    }
    for name in &named {
        TenantName::parse(name)?;
    }
    let mut seen = HashSet::new();
    named.retain(|name| seen.insert(name.clone()));
    Ok(Targets::Named(named))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("invalid_field", message)
}

async fn list(mount: Mount) -> Reply {
    let keys = mount.storage.list(storage::BATCHES).await;
    Ok(Response::keys(keys.map_err(crate::logical::Error::from)?))
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let id = id(&call)?;
    // Only the active node knows how far it is.
    engine.require_active_node(&mount).await?;
    match engine.load_batch(&mount, &id).await? {
        Some(batch) => Ok(answer(&batch)?),
        None => Ok(None),
    }
}

async fn cancel(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let id = id(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let mut event = engine.mount_event(EventName::BatchEnded, actor(&call.request), &call.request);
    event.reason = optional_text(&call, "reason");
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let batch = worker.cancel_batch(&mount, &id, event).await?;
        batch.as_ref().map_or_else(|| Err(unknown()), answer)
    };
    Ok(engine.join(&config, key, work).await?)
}

fn unknown() -> Error {
    Error::Answer(crate::logical::Error::status(
        404,
        "unknown_batch",
        "there is no such batch (any more). List batches.",
    ))
}

/// The identifier of the path: it becomes part of a storage key.
fn id(call: &Call) -> Result<String, Error> {
    let id = call.capture("id");
    let known = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    if id.len() == 26 && id.bytes().all(known) {
        return Ok(id.to_owned());
    }
    Err(invalid(
        "`id` must be the identifier of a batch: list batches.",
    ))
}
