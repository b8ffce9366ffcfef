//! `<tenant>/versions`: what is kept of past and present passwords, never the passwords.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::tenant;
use crate::audit::RotationType;
use crate::engine::Engine;
use crate::engine::storage::record::{Credential, Intent, Proof, TenantRecord, Version};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};

const ANSWERS: &[Field] = &[
    Field::integer("version", "The version.").example("3"),
    Field::instant("created_at", "When it was made.").example("2026-09-01T02:14:00Z"),
    Field::text(
        "created_by",
        "Who asked for it: an entity id, no_entity, or system.",
    )
    .example("system"),
    Field::text(
        "rotation_type",
        "Why it was made; null for the first or an imported one.",
    )
    .one_of(super::ROTATION_TYPES)
    .example("manual")
    .nullable(),
    Field::text(
        "position",
        "What it is now; candidate: of a change that is still open.",
    )
    .one_of(&["current", "previous", "candidate", "abandoned"])
    .example("current"),
    Field::boolean("compromised", "Whether it must never be used again."),
    Field::text(
        "incident_id",
        "The incident that compromised it; empty without one.",
    ),
    Field::text("reset_by", "Who reset it; empty if nobody did."),
    Field::instant("reset_at", "When it was reset.").nullable(),
    Field::text(
        "proof",
        "How well it is known to have been live; null if it is not.",
    )
    .one_of(super::PROOFS)
    .example("hash")
    .nullable(),
];

pub(super) fn routes() -> [Route<Engine>; 2] {
    [
        Route {
            pattern: "{tenant}/versions",
            synopsis: "The versions kept of a tenant's password.",
            description: "Lists the numbers of the kept versions, an open candidate included.

    bao list smtp/acme/versions",
            fields: &[super::TENANT],
            endpoints: vec![Endpoint {
                operations: &[Operation::List],
                summary: "List the kept versions.",
                unknown_fields: UnknownFields::Warned,
                answers: const { &[Field::texts("keys", "The version numbers.").example("1,2,3")] },
                handler: |engine, mount, call| Box::pin(list(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "{tenant}/versions/{version}",
            synopsis: "What is known of one version; never its password.",
            description:
                "Answers when, by whom and why a version was made, what became of it, and \
                          whether it is compromised. The password itself is never answered here.

    bao read smtp/acme/versions/1",
            fields: const {
                &[
                    super::TENANT,
                    Field::integer("version", "Number of the version.")
                        .range(1, i64::MAX)
                        .required()
                        .example("1"),
                ]
            },
            endpoints: vec![Endpoint {
                operations: &[Operation::Read],
                summary: "Read what is known of one version.",
                unknown_fields: UnknownFields::Warned,
                answers: ANSWERS,
                handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
struct Output<'a> {
    version: u64,
    #[serde(serialize_with = "instant::serialize")]
    created_at: DateTime<Utc>,
    created_by: &'a str,
    rotation_type: Option<RotationType>,
    position: &'static str,
    compromised: bool,
    incident_id: &'a str,
    reset_by: &'a str,
    #[serde(serialize_with = "instant::serialize")]
    reset_at: Option<DateTime<Utc>>,
    proof: Option<Proof>,
}

async fn list(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let Some(record) = engine.read_tenant(&mount, &name).await? else {
        return Ok(None);
    };
    let Some(credential) = record.live_credential() else {
        return Ok(None);
    };
    let kept = credential.versions.iter().map(|version| version.number);
    let keys = kept.chain(record.intent.iter().map(|intent| intent.version));
    Ok(Response::keys(
        keys.map(|number| number.to_string()).collect(),
    ))
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let number: u64 = call.capture("version").parse().map_err(|_not_a_number| {
        crate::logical::Error::user("invalid_field", "`version` must be a number from 1.")
    })?;
    let Some(record) = engine.read_tenant(&mount, &name).await? else {
        return Ok(None);
    };
    let Some(credential) = record.live_credential() else {
        return Ok(None);
    };
    let output = match credential.version(number) {
        Some(version) => of_version(credential, version),
        None => match candidate(&record, number) {
            Some(intent) => of_candidate(intent),
            None => return Ok(None),
        },
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

fn candidate(record: &TenantRecord, number: u64) -> Option<&Intent> {
    record
        .intent
        .as_ref()
        .filter(|intent| intent.version == number)
}

fn of_version<'a>(credential: &Credential, version: &'a Version) -> Output<'a> {
    let compromise = version.compromised.as_ref();
    Output {
        version: version.number,
        created_at: version.created_at,
        created_by: &version.created_by.user_id,
        rotation_type: version.rotation_type,
        position: if Some(version.number) == credential.current {
            "current"
        } else if version.abandoned {
            "abandoned"
        } else {
            "previous"
        },
        compromised: compromise.is_some(),
        incident_id: compromise.map_or("", |kept| kept.incident_id.as_str()),
        reset_by: compromise.map_or("", |kept| kept.reset_by.as_str()),
        reset_at: compromise.map(|kept| kept.reset_at),
        proof: Some(version.proof).filter(|proof| *proof != Proof::None),
    }
}

fn of_candidate(intent: &Intent) -> Output<'_> {
    Output {
        version: intent.version,
        created_at: intent.announced_at,
        created_by: &intent.actor.user_id,
        rotation_type: intent.rotation_type,
        position: "candidate",
        compromised: false,
        incident_id: "",
        reset_by: "",
        reset_at: None,
        proof: None,
    }
}
