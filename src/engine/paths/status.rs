//! `<tenant>/status`: how the tenant is doing.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::tenant;
use crate::engine::Engine;
use crate::engine::finding;
use crate::engine::hint;
use crate::engine::mail;
use crate::engine::state::{self, State};
use crate::engine::storage::record::{Failures, Finding, Preflight, TenantRecord};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};
use crate::network::TlsFault;

const ANSWERS: &[Field] = &[
    Field::text(
        "state",
        "settled, uncertain or drift; null without a credential.",
    )
    .one_of(super::STATES)
    .example("settled")
    .nullable(),
    Field::boolean("deleted", "Whether the credential was deleted softly."),
    super::NEXT_ROTATION,
    Field::instant(
        "paused_until",
        "Until when automatic rotation rests; null if it does not.",
    )
    .nullable(),
    Field::text("pause_reason", "Why it rests.").nullable(),
    Field::instant("notice_sent_at", "When the notice of that change was sent.").nullable(),
    Field::object(
        "preflight",
        "What was found when that notice was prepared: whether the change can be expected to \
         succeed.",
    )
    .of(const {
        &[
            Field::instant("at", "When Mailu was asked."),
            Field::objects(
                "findings",
                "What was in the way or soon would be, gravest first; empty if nothing was.",
            )
            .of(const {
                &[
                    Field::text("code", "Its stable code.").example("tls_expires_soon"),
                    Field::text("message", "What is wrong."),
                    Field::text("hint", "What to do."),
                ]
            }),
            Field::text("mailu_version", "The server's release line, if it told.")
                .example("2024.06")
                .nullable(),
            Field::instant(
                "certificate_expires_at",
                "When the server's certificate ends, if one was seen.",
            )
            .nullable(),
        ]
    })
    .nullable(),
    Field::object(
        "drift",
        "What Mailu was found to hold, if not the current password.",
    )
    .of(const {
        &[
            Field::text("code", "What was found.").example("foreign_password"),
            Field::integer("live_version", "The stored version that is live, or null.").nullable(),
            Field::instant("since", "When it was found."),
        ]
    })
    .nullable(),
    Field::object("open_work", "The open change of the password.")
        .of(const {
            &[
                Field::integer("version", "The version the new password gets.").example("4"),
                Field::integer("sends", "How often it was sent to Mailu.").example("1"),
                Field::instant("since", "When it was announced."),
            ]
        })
        .nullable(),
    Field::object("hold", "The emergency reset that holds the password back.")
        .of(const {
            &[
                Field::text("incident_id", "The incident.").example("INC-2026-0042"),
                Field::instant("since", "Since when."),
            ]
        })
        .nullable(),
    Field::object(
        "app_tokens",
        "How far the deletion of the account's app tokens after a reset has come.",
    )
    .of(const {
        &[
            Field::integer("revoked", "How many were deleted.").example("2"),
            Field::integer("left", "How many are known to be left.").example("0"),
            Field::instant("next_attempt", "When the rest is tried again.").nullable(),
        ]
    })
    .nullable(),
    Field::object(
        "server_unasked",
        "Why the tenant's mail server cannot be asked, if it was met so; active node only.",
    )
    .of(const {
        &[
            Field::text("code", "Why not.").example("token_refused"),
            Field::instant("since", "Since when."),
            Field::integer("status", "The HTTP status of an unrecognised_refusal.").nullable(),
            Field::text("hint", "What to do."),
        ]
    })
    .nullable(),
    Field::instant("last_attempt", "When a change was last tried.").nullable(),
    Field::object("last_error", "The last failure and what to do about it.")
        .of(const {
            &[
                Field::text("code", "Its stable code.").example("mailu_unreachable"),
                Field::text("message", "What is wrong."),
                Field::instant("since", "When it first failed so."),
                Field::integer("attempts", "How often it was tried since.").example("2"),
                Field::instant("next_attempt", "When the engine tries again by itself.").nullable(),
                Field::text("hint", "What to do."),
            ]
        })
        .nullable(),
    Field::objects(
        "failures",
        "Refused requests, counted by code and caller and never begun anew by a success; the 1st, \
         10th, 100th, ... of a kind have an event.",
    )
    .of(const {
        &[
            Field::text("code", "The stable code.").example("mailu_unreachable"),
            Field::text("user_id", "The caller's entity.").example("8e5b4c7e"),
            Field::integer("count", "How often.").example("12"),
            Field::instant("first_at", "When first."),
            Field::instant("last_at", "When last."),
        ]
    }),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/status",
        synopsis: "How the tenant is doing.",
        description: "Answers the state of the credential, the next change, work that is still \
                      open, and the last failure with what to do about it.

    bao read -format=json smtp/acme/status",
        fields: &[super::TENANT],
        endpoints: vec![Endpoint {
            operations: &[Operation::Read],
            summary: "Read how the tenant is doing.",
            unknown_fields: UnknownFields::Warned,
            answers: ANSWERS,
            handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
        }],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output<'a> {
    state: Option<State>,
    deleted: bool,
    #[serde(serialize_with = "instant::serialize")]
    next_rotation: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    paused_until: Option<DateTime<Utc>>,
    pause_reason: Option<&'a str>,
    #[serde(serialize_with = "instant::serialize")]
    notice_sent_at: Option<DateTime<Utc>>,
    preflight: Option<PreflightOutput<'a>>,
    drift: Option<DriftOutput<'a>>,
    open_work: Option<OpenWorkOutput>,
    hold: Option<HoldOutput<'a>>,
    app_tokens: Option<AppTokensOutput>,
    server_unasked: Option<ServerOutput>,
    #[serde(serialize_with = "instant::serialize")]
    last_attempt: Option<DateTime<Utc>>,
    last_error: Option<LastErrorOutput<'a>>,
    failures: Vec<FailuresOutput<'a>>,
}

#[derive(Serialize)]
struct ServerOutput {
    code: &'static str,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
    status: Option<u16>,
    hint: String,
}

#[derive(Serialize)]
struct FailuresOutput<'a> {
    code: &'a str,
    user_id: &'a str,
    count: u64,
    #[serde(serialize_with = "instant::serialize")]
    first_at: DateTime<Utc>,
    #[serde(serialize_with = "instant::serialize")]
    last_at: DateTime<Utc>,
}

impl<'a> From<&'a Failures> for FailuresOutput<'a> {
    fn from(kind: &'a Failures) -> Self {
        Self {
            code: &kind.code,
            user_id: &kind.user_id,
            count: kind.count,
            first_at: kind.first_at,
            last_at: kind.last_at,
        }
    }
}

#[derive(Serialize)]
struct PreflightOutput<'a> {
    #[serde(serialize_with = "instant::serialize")]
    at: DateTime<Utc>,
    findings: Vec<FindingOutput>,
    mailu_version: Option<&'a str>,
    #[serde(serialize_with = "instant::serialize")]
    certificate_expires_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct FindingOutput {
    code: &'static str,
    message: &'static str,
    hint: String,
}

#[derive(Serialize)]
struct DriftOutput<'a> {
    code: &'a str,
    live_version: Option<u64>,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
}

#[derive(Serialize)]
struct OpenWorkOutput {
    version: u64,
    sends: u32,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
}

#[derive(Serialize)]
struct HoldOutput<'a> {
    incident_id: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
}

#[derive(Serialize)]
struct AppTokensOutput {
    revoked: u64,
    left: u64,
    #[serde(serialize_with = "instant::serialize")]
    next_attempt: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct LastErrorOutput<'a> {
    code: &'a str,
    message: String,
    #[serde(serialize_with = "instant::serialize")]
    since: DateTime<Utc>,
    attempts: u32,
    #[serde(serialize_with = "instant::serialize")]
    next_attempt: Option<DateTime<Utc>>,
    hint: String,
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    // A standby may lag, and this is where somebody looks who is in doubt.
    engine.require_active_node(&mount).await?;
    let Some(record) = engine.read_tenant(&mount, &name).await? else {
        return Ok(None);
    };
    let mut record = TenantRecord::clone(&record);
    engine.failures.add_to(&name, &mut record);
    let origin = mail::origin_of(&record);
    let met = origin.and_then(|origin| engine.unasked.of_tenant(&origin, name.as_str()));
    let output = Output {
        server_unasked: met.map(|met| ServerOutput {
            code: met.why.code(),
            since: met.since,
            status: met.status,
            hint: met.hint(),
        }),
        ..output(&record, engine.clock().now())
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

fn hold(record: &TenantRecord) -> Option<HoldOutput<'_>> {
    let held = record.live_credential()?.hold.as_ref();
    held.map(|hold| HoldOutput {
        incident_id: &hold.incident_id,
        since: hold.since,
    })
}

fn preflight(found: &Preflight) -> PreflightOutput<'_> {
    let findings = found.findings.iter().map(|finding| {
        let told = finding::explain(*finding);
        let fault = found
            .tls_fault
            .as_deref()
            .filter(|_| *finding == Finding::TlsInvalid);
        FindingOutput {
            code: finding.code(),
            message: told.message,
            hint: fault
                .and_then(TlsFault::from_word)
                .map_or_else(|| told.hint.to_owned(), TlsFault::told),
        }
    });
    PreflightOutput {
        at: found.at,
        findings: findings.collect(),
        mailu_version: found.mailu_version.as_deref(),
        certificate_expires_at: found.certificate_expires_at,
    }
}

fn output(record: &TenantRecord, now: DateTime<Utc>) -> Output<'_> {
    let pause = record.paused_at(now);
    let credential = record.live_credential();
    let reading = credential.and_then(|kept| state::read(record, kept));
    let drift = credential.and_then(|kept| kept.drift.as_ref());
    Output {
        state: reading.map(|reading| reading.state),
        deleted: record.credential.is_some() && credential.is_none(),
        next_rotation: credential.and_then(|kept| kept.next_rotation),
        paused_until: pause.map(|pause| pause.until),
        pause_reason: pause.map(|pause| pause.reason.as_str()),
        notice_sent_at: credential.and_then(|kept| kept.notice_sent_at),
        preflight: credential
            .and_then(|kept| kept.preflight.as_ref())
            .map(preflight),
        drift: drift.map(|drift| DriftOutput {
            code: &drift.code,
            live_version: drift.live_version,
            since: drift.since,
        }),
        open_work: record.intent.as_ref().map(|intent| OpenWorkOutput {
            version: intent.version,
            sends: intent.sends,
            since: intent.announced_at,
        }),
        hold: hold(record),
        app_tokens: credential
            .and_then(|kept| kept.app_tokens.as_ref())
            .map(|work| AppTokensOutput {
                revoked: work.revoked,
                left: work.left,
                next_attempt: work.next_attempt,
            }),
        server_unasked: None,
        last_attempt: record.last_attempt,
        failures: record
            .tally
            .failures
            .iter()
            .map(FailuresOutput::from)
            .collect(),
        last_error: record.last_error.as_ref().map(|failed| {
            let (message, hint) = hint::explain(&failed.code);
            let fault = failed.tls_fault.as_deref().and_then(TlsFault::from_word);
            let hint = fault.map_or_else(|| hint.to_owned(), TlsFault::told);
            LastErrorOutput {
                code: &failed.code,
                message,
                since: failed.since,
                attempts: failed.attempts,
                next_attempt: record.open.settle_at.or(record.open.retry_at),
                hint,
            }
        }),
    }
}
