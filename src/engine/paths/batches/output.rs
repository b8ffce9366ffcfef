//! What `batches` answers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::audit::EventName;
use crate::engine::batch::{Action, Batch, Plan, State};
use crate::engine::error::Error;
use crate::logical::{Data, Field, Response, instant};

const STATES: &[&str] = &["canary", "running", "done", "stopped", "cancelled"];

const STATE: Field = Field::text(
    "state",
    "canary or running: it is under way or waits for its turn. done: every tenant had its turn. \
     stopped: by itself. cancelled: by somebody.",
)
.one_of(STATES)
.example("running");

const TOTAL: Field = Field::integer("total", "How many tenants it is for.").example("240");

const SKIPPED: Field =
    Field::objects("skipped", "Tenants that are left alone, by why.").of(const {
        &[
            Field::text("code", "Why.").example("drift"),
            Field::integer("count", "How many.").example("3"),
        ]
    });

pub(super) const CREATE_ANSWERS: &[Field] = &[
    Field::text("id", "The identifier of the batch; not of a dry run.")
        .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
    STATE,
    TOTAL,
    Field::integer("ahead", "How many batches come first; not of a dry run.").example("0"),
    Field::text("event", "The name of the event; not of a dry run.").example("smtp_batch_started"),
    super::super::EVENT_ID,
    super::super::SEQ,
    Field::integer("changes", "Of a dry run: how many would be changed.").example("237"),
    Field::integer("servers", "Of a dry run: on how many mail servers.").example("12"),
    SKIPPED,
    Field::objects("skips", "Of a dry run: the first 100 tenants left alone.").of(const {
        &[
            Field::text("tenant", "The tenant.").example("acme"),
            Field::text("code", "Why.").example("drift"),
        ]
    }),
];

pub(super) const READ_ANSWERS: &[Field] = &[
    Field::text("id", "The identifier of the batch.").example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
    STATE,
    Field::text("action", "What is done to each tenant.").one_of(super::ACTIONS),
    TOTAL,
    Field::integer("succeeded", "How many have a new password that is live.").example("120"),
    Field::integer(
        "queued",
        "How many resets wait for their mail server; ticks go on with them.",
    )
    .example("0"),
    Field::integer("failed", "How many changes failed.").example("2"),
    SKIPPED,
    Field::integer("left", "How many have not had their turn.").example("115"),
    Field::objects("failures", "The first 50 failures.").of(const {
        &[
            Field::text("tenant", "The tenant.").example("acme"),
            Field::text("code", "The stable code.").example("mailu_unreachable"),
            Field::instant("at", "When it was taken down."),
        ]
    }),
    Field::integer("canary", "How many had to succeed first.").example("1"),
    Field::integer("max_failures", "With more failures it stops.").example("5"),
    Field::text("reason", "What was given as reason.").nullable(),
    Field::text("incident_id", "The incident.").nullable(),
    Field::text("created_by", "Who created it: an entity id, or no_entity."),
    Field::instant("created_at", "When it was created."),
    super::super::EVENT_ID,
    Field::instant("ended_at", "When it ended; null before.").nullable(),
    Field::text("ended_by", "Who ended it; system unless it was cancelled.").nullable(),
    Field::text("error_code", "Why it ended before everybody had his turn.")
        .one_of(&["canary_failed", "too_many_failures", "cancelled"])
        .nullable(),
    Field::text("end_event_id", "The identifier of the event of its end.").nullable(),
];

#[derive(Serialize)]
struct CreatedOutput<'a> {
    id: &'a str,
    state: State,
    total: u64,
    ahead: u64,
    event: EventName,
    event_id: &'a str,
    seq: u64,
}

#[derive(Serialize)]
struct PlanOutput<'a> {
    total: u64,
    changes: u64,
    servers: u64,
    skipped: Vec<Count<'a>>,
    skips: Vec<Skip<'a>>,
}

#[derive(Serialize)]
struct Count<'a> {
    code: &'a str,
    count: u64,
}

#[derive(Serialize)]
struct Skip<'a> {
    tenant: &'a str,
    code: &'a str,
}

#[derive(Serialize)]
struct FailureOutput<'a> {
    tenant: &'a str,
    code: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    at: DateTime<Utc>,
}

#[derive(Serialize)]
struct BatchOutput<'a> {
    id: &'a str,
    state: State,
    action: Action,
    total: u64,
    succeeded: u64,
    queued: u64,
    failed: u64,
    skipped: Vec<Count<'a>>,
    left: u64,
    failures: Vec<FailureOutput<'a>>,
    canary: u64,
    max_failures: u64,
    reason: Option<&'a str>,
    incident_id: Option<&'a str>,
    created_by: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    created_at: DateTime<Utc>,
    event_id: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    ended_at: Option<DateTime<Utc>>,
    ended_by: Option<&'a str>,
    error_code: Option<&'a str>,
    end_event_id: Option<&'a str>,
}

/// What a request that made a batch is answered.
pub(super) fn created(batch: &Batch, ahead: u64) -> Result<Option<Response>, Error> {
    let output = CreatedOutput {
        id: &batch.id,
        state: batch.state,
        total: batch.total,
        ahead,
        event: EventName::BatchStarted,
        event_id: &batch.event_id,
        seq: batch.seq,
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

/// What a dry run is answered.
pub(super) fn plan_answer(plan: &Plan) -> Result<Option<Response>, Error> {
    let skips = plan
        .skips
        .iter()
        .map(|(tenant, code)| Skip { tenant, code });
    let output = PlanOutput {
        total: plan.total,
        changes: plan.changes,
        servers: plan.servers,
        skipped: counts(&plan.skipped),
        skips: skips.collect(),
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

fn counts(skipped: &BTreeMap<String, u64>) -> Vec<Count<'_>> {
    skipped
        .iter()
        .map(|(code, count)| Count {
            code,
            count: *count,
        })
        .collect()
}

/// What a batch is.
pub(super) fn answer(batch: &Batch) -> Result<Option<Response>, Error> {
    let end = batch.end.as_ref();
    let failures = batch.failures.iter().map(|failure| FailureOutput {
        tenant: &failure.tenant,
        code: &failure.code,
        at: failure.at,
    });
    let output = BatchOutput {
        id: &batch.id,
        state: batch.state,
        action: batch.action,
        total: batch.total,
        succeeded: batch.succeeded,
        queued: batch.queued,
        failed: batch.failed,
        skipped: counts(&batch.skipped),
        left: if batch.state == State::Done {
            0
        } else {
            batch.left()
        },
        failures: failures.collect(),
        canary: batch.canary,
        max_failures: batch.max_failures,
        reason: batch.reason.as_deref(),
        incident_id: batch.incident_id.as_deref(),
        created_by: &batch.created_by.user_id,
        created_at: batch.created_at,
        event_id: &batch.event_id,
        ended_at: end.map(|end| end.at),
        ended_by: end.map(|end| end.by.user_id.as_str()),
        error_code: end.and_then(|end| end.code.as_deref()),
        end_event_id: end.and_then(|end| end.event_id.as_deref()),
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}
