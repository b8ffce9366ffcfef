//! `ops/reindex`, `ops/sweep`: work over all tenants, begun by hand.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::engine::Engine;
use crate::engine::joined::Kept;
use crate::engine::runner::{ReindexProgress, SweepProgress};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};

const WRITES: &[Operation] = &[Operation::Create, Operation::Update];

const STARTED: Field = Field::boolean(
    "started",
    "Whether this request began it; false if it was under way.",
)
.example("true");

pub(super) const SWEEP: &[Field] = &[
    Field::instant("started_at", "When it began; null before the first.").nullable(),
    Field::instant("finished_at", "When all were looked at; null before.").nullable(),
    Field::integer("tenants", "How many tenants were looked at so far.").example("240"),
    Field::integer(
        "differed",
        "How many mail servers did not show what was proven last.",
    )
    .example("0"),
    Field::integer("repaired", "How many pointers had got lost.").example("0"),
    Field::integer(
        "unasked",
        "How many could not be asked; they are asked again.",
    )
    .example("0"),
    Field::integer(
        "unaskable",
        "How many cannot be asked until somebody mends something; `servers` in status tells what.",
    )
    .example("0"),
];

pub(super) const REINDEX: &[Field] = &[
    Field::instant("started_at", "When it began.").nullable(),
    Field::instant("finished_at", "When all were looked at; null before.").nullable(),
    Field::integer("tenants", "How many tenants were looked at so far.").example("240"),
    Field::integer("repaired", "How many pointers were put back.").example("0"),
    Field::integer(
        "removed",
        "How many pointers of mail accounts were removed.",
    )
    .example("0"),
    Field::integer(
        "unreadable",
        "How many records or pointers could not be read.",
    )
    .example("0"),
];

const REINDEX_ANSWERS: &[Field] = &[
    STARTED,
    Field::object("reindex", "How far it is.").of(REINDEX),
];

const SWEEP_ANSWERS: &[Field] = &[STARTED, Field::object("sweep", "How far it is.").of(SWEEP)];

pub(super) fn routes() -> [Route<Engine>; 2] {
    [
        Route {
            pattern: "ops/reindex",
            synopsis: "Rebuild every pointer from the records.",
            description: "Goes through all tenants, 200 a minute, and puts back the pointers that \
                          got lost; then through the pointers of mail accounts, and removes those \
                          that no record needs. No password changes. The daily sweep does the \
                          first for a seventh of the tenants by itself. status shows how far it is.

    bao write -f smtp/ops/reindex",
            fields: &[],
            endpoints: vec![Endpoint {
                operations: WRITES,
                summary: "Rebuild every pointer.",
                unknown_fields: UnknownFields::Warned,
                answers: REINDEX_ANSWERS,
                handler: |engine, mount, call| Box::pin(reindex(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "ops/sweep",
            synopsis: "Ask every tenant's Mailu now.",
            description: "Begins the daily sweep now: every Mailu is asked whether it still holds \
                          what was proven last. status shows how far it is, <tenant>/status what \
                          was found.

    bao write -f smtp/ops/sweep",
            fields: &[],
            endpoints: vec![Endpoint {
                operations: WRITES,
                summary: "Begin a sweep.",
                unknown_fields: UnknownFields::Warned,
                answers: SWEEP_ANSWERS,
                handler: |engine, mount, call| Box::pin(sweep(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
pub(super) struct SweepOutput {
    #[serde(serialize_with = "instant::serialize")]
    started_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    finished_at: Option<DateTime<Utc>>,
    tenants: u64,
    differed: u64,
    repaired: u64,
    unasked: u64,
    unaskable: u64,
}

#[derive(Serialize)]
pub(super) struct ReindexOutput {
    #[serde(serialize_with = "instant::serialize")]
    started_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    finished_at: Option<DateTime<Utc>>,
    tenants: u64,
    repaired: u64,
    removed: u64,
    unreadable: u64,
}

#[derive(Serialize)]
struct ReindexStarted {
    started: bool,
    reindex: ReindexOutput,
}

#[derive(Serialize)]
struct SweepStarted {
    started: bool,
    sweep: SweepOutput,
}

async fn reindex(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::No)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let (progress, started) = worker.reindex_now(&mount).await?;
        let output = ReindexStarted {
            started,
            reindex: progress.into(),
        };
        Ok(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn sweep(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::No)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let output = SweepStarted {
            started: worker.sweep_now(&mount).await?,
            sweep: worker.sweep_progress().into(),
        };
        Ok(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

impl From<SweepProgress> for SweepOutput {
    fn from(progress: SweepProgress) -> Self {
        Self {
            started_at: progress.started_at,
            finished_at: progress.finished_at,
            tenants: progress.tenants,
            differed: progress.differed,
            repaired: progress.repaired,
            unasked: progress.unasked,
            unaskable: progress.unaskable,
        }
    }
}

impl From<ReindexProgress> for ReindexOutput {
    fn from(progress: ReindexProgress) -> Self {
        Self {
            started_at: Some(progress.started_at),
            finished_at: progress.finished_at,
            tenants: progress.tenants,
            repaired: progress.repaired,
            removed: progress.removed,
            unreadable: progress.unreadable,
        }
    }
}
