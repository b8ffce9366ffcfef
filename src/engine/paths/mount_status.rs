//! `status`: how the whole mount is doing.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::ops::{REINDEX, ReindexOutput, SWEEP, SweepOutput};
use crate::engine::Engine;
use crate::engine::batch::State;
use crate::engine::census::{Audit, AuditWord, Census};
use crate::engine::emission::ExemptKeys;
use crate::engine::hint;
use crate::engine::mail::UnaskedServer;
use crate::engine::runner::RewrapProgress;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};

/// What is running; a server may name another version after a failed upgrade.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const ANSWERS: &[Field] = &[
    Field::text(
        "version",
        "The plugin's version that answers, whatever version the server says is running.",
    )
    .example("0.1.0"),
    Field::instant(
        "started_at",
        "When this process of the plugin began to serve the mount.",
    ),
    Field::integer(
        "tenants",
        "How many tenants are stored, destroyed ones included.",
    )
    .example("240"),
    Field::integer("due", "Of how many a notice or a change is due.").example("3"),
    Field::integer(
        "overdue",
        "Of how many a change has been due for more than two hours.",
    )
    .example("0"),
    Field::integer(
        "open",
        "For how many there is something to do before the next check, or to be seen.",
    )
    .example("4"),
    Field::integer("uncertain", "Of how many the outcome of a change is open.").example("0"),
    Field::integer("drift", "Of how many Mailu holds another password.").example("0"),
    Field::integer(
        "failing",
        "Of how many the schedule's last three tries failed.",
    )
    .example("0"),
    Field::integer("paused", "For how many automatic rotation rests.").example("1"),
    Field::instant("paused_until", "Until when it rests for the whole mount.").nullable(),
    Field::instant("next_check", "When due changes are made next.").nullable(),
    Field::instant(
        "last_tick",
        "When this node took the server's last tick; null before.",
    )
    .nullable(),
    Field::integer(
        "tick_age",
        "Seconds since then; above 180 nothing runs by itself.",
    )
    .example("12")
    .nullable(),
    Field::objects(
        "plan",
        "Notices and changes of the next seven days, today first.",
    )
    .of(const {
        &[
            Field::text("day", "The day, UTC.").example("2026-09-21"),
            Field::integer("tenants", "How many tenants; 20,000 stands for more.").example("5"),
        ]
    }),
    Field::text(
        "audit",
        "Whether events are known to reach the audit devices. unproven: this process has delivered \
         none by the way that config/audit names.",
    )
    .one_of(&["unproven", "delivering", "failing"]),
    Field::object("audit_delivery", "How that goes.").of(const {
        &[
            Field::text("error_code", "What fails; null if nothing does.")
                .example("audit_unreachable")
                .nullable(),
            Field::text("hint", "What to do about it; null if nothing fails.").nullable(),
            Field::instant("failing_since", "Since when.").nullable(),
            Field::instant(
                "last_delivered",
                "When this process last delivered an event.",
            )
            .nullable(),
            Field::integer(
                "undelivered",
                "Events that no device is known to have; null before the first tick. Tenants \
                 that were not looked at since the start count as one event each.",
            )
            .example("0")
            .nullable(),
            Field::instant("oldest", "Since when the oldest of them waits, if known.").nullable(),
            Field::integer(
                "parked",
                "Of them, those that the server refused ten times.",
            )
            .example("0"),
            Field::integer(
                "held_back",
                "Automatic changes that wait for the devices, with audit_mode=required.",
            )
            .example("0"),
            Field::text(
                "exempt_keys",
                "Whether the mount shows the events' fields in clear; unknown: the emitter may \
                 not read the mount's tuning.",
            )
            .one_of(&["complete", "missing", "unknown"]),
            Field::texts("missing_keys", "Those that the mount does not show."),
        ]
    }),
    Field::object(
        "notifications",
        "What waits in the outbox; null before the first tick.",
    )
    .of(const {
        &[
            Field::integer("pending", "Deliveries that are still tried.").example("0"),
            Field::integer("dead", "Deliveries that were given up.").example("0"),
            Field::integer(
                "dropped",
                "Events that a channel was not told of because too much waited for it, or had been \
                 given up, since the start; one for each channel.",
            )
            .example("0"),
            Field::instant("oldest", "Since when the oldest one waits.").nullable(),
        ]
    })
    .nullable(),
    Field::object("batch", "The batch under way.")
        .of(const {
            &[
                Field::text("id", "Its identifier.").example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
                Field::text("state", "canary or running.").example("running"),
                Field::integer("total", "How many tenants it is for.").example("240"),
                Field::integer("succeeded", "How many have a new password.").example("120"),
                Field::integer("failed", "How many failed.").example("0"),
                Field::integer("left", "How many have not had their turn.").example("120"),
            ]
        })
        .nullable(),
    Field::object("sweep", "The last sweep of this process.").of(SWEEP),
    Field::objects(
        "servers",
        "The first 100 mail servers that cannot be asked, those with most tenants first.",
    )
    .of(const {
        &[
            Field::text("server", "Scheme, host and port.")
                .example("https://mail.acme.example:443"),
            Field::text("code", "Why not.").one_of(&[
                "token_refused",
                "unrecognised_refusal",
                "no_api",
                "tls_invalid",
                "rate_limited",
                "unreachable",
            ]),
            Field::instant("since", "Since when."),
            Field::integer("tenants", "How many tenants met it so.").example("3"),
            Field::integer("status", "The HTTP status of an unrecognised_refusal.").nullable(),
            Field::text("hint", "What to do."),
        ]
    }),
    Field::integer("servers_total", "How many there are.").example("0"),
    Field::object("reindex", "The last reindex.")
        .of(REINDEX)
        .nullable(),
    Field::object("rewrap", "The last rewrap after a rotation of the keyring.")
        .of(const {
            &[
                Field::integer("version", "The key that everything is encrypted with.")
                    .example("2"),
                Field::integer("tenants", "How many tenants were looked at.").example("240"),
                Field::integer("unreadable", "How many could not be encrypted anew.").example("0"),
                Field::instant("finished_at", "When all were looked at; null before.").nullable(),
            ]
        })
        .nullable(),
    Field::objects(
        "attention",
        "The first 100 tenants that need a person, gravest first.",
    )
    .of(const {
        &[
            Field::text("tenant", "The tenant; `-` for the mount itself.").example("acme"),
            Field::text("channel", "The notification channel, if it is about one.")
                .example("ops")
                .nullable(),
            Field::text("code", "What is wrong.").example("foreign_password"),
            Field::instant("since", "Since when."),
            Field::text("hint", "What to do."),
        ]
    }),
    Field::integer("attention_total", "How many there are.").example("0"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "status",
        synopsis: "How the whole mount is doing.",
        description: "Answers counts as of the last tick, what is planned, what is under way, and \
                      which tenants need a person. It costs about the same whatever the number of \
                      tenants.

    bao read -format=json smtp/status",
        fields: &[],
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read how the mount is doing.",
            unknown_fields: UnknownFields::Warned,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output<'a> {
    version: &'static str,
    #[serde(serialize_with = "instant::serialize")]
    started_at: DateTime<Utc>,
    tenants: u64,
    due: u64,
    overdue: u64,
    open: u64,
    uncertain: u64,
    drift: u64,
    failing: u64,
    paused: u64,
    #[serde(serialize_with = "instant::serialize")]
    paused_until: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    next_check: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    last_tick: Option<DateTime<Utc>>,
    tick_age: Option<u64>,
    plan: Vec<DayOutput>,
    audit: &'static str,
    audit_delivery: AuditOutput,
    notifications: Option<NotificationsOutput>,
    batch: Option<BatchOutput<'a>>,
    sweep: SweepOutput,
    servers: Vec<ServerOutput<'a>>,
    servers_total: u64,
    reindex: Option<ReindexOutput>,
    rewrap: Option<RewrapOutput>,
    attention: Vec<AttentionOutput<'a>>,
    attention_total: u64,
}

#[derive(Serialize)]
struct AuditOutput {
    error_code: Option<&'static str>,
    hint: Option<String>,
    #[serde(serialize_with = "instant::serialize")]
    failing_since: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    last_delivered: Option<DateTime<Utc>>,
    undelivered: Option<u64>,
    #[serde(serialize_with = "instant::serialize")]
    oldest: Option<DateTime<Utc>>,
    parked: u64,
    held_back: u64,
    exempt_keys: &'static str,
    missing_keys: Vec<&'static str>,
}

#[derive(Serialize)]
struct DayOutput {
    day: NaiveDate,
    tenants: u64,
}

#[derive(Serialize)]
struct NotificationsOutput {
    pending: u64,
    dead: u64,
    dropped: u64,
    #[serde(serialize_with = "instant::serialize")]
    oldest: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct BatchOutput<'a> {
    id: &'a str,
    state: State,
    total: u64,
    succeeded: u64,
    failed: u64,
    left: u64,
}

#[derive(Serialize)]
struct RewrapOutput {
    version: u32,
    tenants: u64,
    unreadable: usize,
    #[serde(serialize_with = "instant::serialize")]
    finished_at: Option<DateTime<Utc>>,
}

/// Servers that are listed.
const MOST_SERVERS: usize = 100;

/// A mail server that cannot be asked.
#[derive(Serialize)]
struct ServerOutput<'a> {
    server: &'a str,
    code: &'static str,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
    tenants: u64,
    status: Option<u16>,
    hint: String,
}

impl<'a> From<&'a UnaskedServer> for ServerOutput<'a> {
    fn from(met: &'a UnaskedServer) -> Self {
        Self {
            server: &met.server,
            code: met.why.code(),
            since: met.since,
            tenants: met.tenants,
            status: met.status,
            hint: met.hint(),
        }
    }
}

#[derive(Serialize)]
struct AttentionOutput<'a> {
    tenant: &'a str,
    channel: Option<&'a str>,
    code: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
    hint: &'static str,
}

async fn read(engine: Arc<Engine>, mount: Mount, _call: Call) -> Reply {
    // Only the active node's ticks see anything.
    engine.require_active_node(&mount).await?;
    let census = engine.census(&mount).await?;
    let plan = engine.plan_by_day(&mount).await?;
    let reindex = engine.reindex_progress(&mount).await?;
    let rewrap = engine.rewrap_progress(&mount).await?;
    let output = Output {
        plan: plan
            .into_iter()
            .map(|(day, tenants)| DayOutput { day, tenants })
            .collect(),
        reindex: reindex.map(ReindexOutput::from),
        rewrap: rewrap.map(RewrapOutput::from),
        ..output(&census)
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

fn output(census: &Census) -> Output<'_> {
    let counts = census.counts;
    let word = census.audit.word(census.now);
    let attention = census.attention.iter().map(|it| AttentionOutput {
        tenant: &it.tenant,
        channel: it.channel.as_deref(),
        code: &it.code,
        since: it.since,
        hint: hint::explain(&it.code).1,
    });
    Output {
        version: VERSION,
        started_at: census.started_at,
        tenants: census.tenants,
        due: counts.due,
        overdue: counts.overdue,
        open: counts.open,
        uncertain: counts.uncertain,
        drift: counts.drift,
        failing: counts.failing,
        paused: counts.paused,
        paused_until: census.paused_until,
        next_check: census.next_check,
        last_tick: census.last_tick.map(|(at, _)| at),
        tick_age: census.last_tick.map(|(_, age)| age.as_secs()),
        plan: Vec::new(),
        audit: match word {
            AuditWord::Unproven => "unproven",
            AuditWord::Delivering => "delivering",
            AuditWord::Failing(..) => "failing",
        },
        audit_delivery: audit_output(&census.audit, word),
        notifications: census.notifications.map(|waiting| NotificationsOutput {
            pending: waiting.pending,
            dead: waiting.dead,
            dropped: waiting.dropped,
            oldest: waiting.oldest,
        }),
        batch: census.batch.as_ref().map(|batch| BatchOutput {
            id: &batch.id,
            state: batch.state,
            total: batch.total,
            succeeded: batch.succeeded,
            failed: batch.failed,
            left: batch.left(),
        }),
        sweep: census.sweep.clone().into(),
        servers: census
            .servers
            .iter()
            .take(MOST_SERVERS)
            .map(ServerOutput::from)
            .collect(),
        servers_total: u64::try_from(census.servers.len()).unwrap_or(u64::MAX),
        reindex: None,
        rewrap: None,
        attention: attention.collect(),
        attention_total: census.attention_total,
    }
}

fn audit_output(audit: &Audit, word: AuditWord) -> AuditOutput {
    let failing = match word {
        AuditWord::Failing(code, since) => Some((code, since)),
        AuditWord::Unproven | AuditWord::Delivering => None,
    };
    let (exempt_keys, missing_keys) = match &audit.delivery.exempt_keys {
        ExemptKeys::Unknown => ("unknown", Vec::new()),
        ExemptKeys::Complete => ("complete", Vec::new()),
        ExemptKeys::Missing(keys) => ("missing", keys.clone()),
    };
    AuditOutput {
        error_code: failing.map(|(code, _)| code),
        hint: failing.map(|(code, _)| match audit.delivery.tls_fault {
            Some(fault) => fault.told(),
            None => hint::explain(code).1.to_owned(),
        }),
        failing_since: failing.map(|(_, since)| since),
        last_delivered: audit.delivery.last,
        undelivered: audit.waiting.map(|waiting| waiting.events),
        oldest: audit.waiting.and_then(|waiting| waiting.oldest),
        parked: audit.waiting.map_or(0, |waiting| waiting.parked),
        held_back: audit.held_back,
        exempt_keys,
        missing_keys,
    }
}

impl From<RewrapProgress> for RewrapOutput {
    fn from(progress: RewrapProgress) -> Self {
        Self {
            version: progress.version,
            tenants: progress.tenants,
            unreadable: progress.unreadable.len(),
            finished_at: progress.finished_at,
        }
    }
}
