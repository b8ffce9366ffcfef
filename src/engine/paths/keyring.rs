//! `config/keyring`: the keys that every stored secret depends on.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{actor, optional_text};
use crate::audit::{Event, EventName, NewEvent};
use crate::crypto::{Keyring, KeyringVersion};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::runner::RewrapProgress;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};

const MOST: i64 = 10_000;
const DEFAULT_LIMIT: i64 = 1_000;

const VERSION: Field = Field::integer("version", "The number of the key, from 1.").example("2");
const CREATED_AT: Field =
    Field::instant("created_at", "When the key was made.").example("2026-09-01T02:14:00Z");
const EVENT: Field = Field::text("event", "The name of the event.").example("smtp_keyring_rotated");

const READ_FIELDS: &[Field] = &[
    Field::text("after", "Look only at tenants after this name.")
        .max_bytes(64)
        .example("acme"),
    Field::integer("limit", "Look at so many tenants at most; 1 to 10,000.")
        .range(1, MOST)
        .default("1000"),
];

const READ_ANSWERS: &[Field] = &[
    Field::integer("latest", "The version that encrypts.").example("2"),
    Field::objects("versions", "Every key, oldest first.").of(const {
        &[
            VERSION,
            CREATED_AT,
            Field::integer(
                "tenants",
                "How many of the tenants looked at have a secret that needs this key.",
            )
            .example("12"),
            Field::integer(
                "channels",
                "How many notification channels need this key; counted with the last tenants.",
            )
            .example("1"),
            Field::boolean(
                "audit",
                "Whether the login of config/audit needs this key; told with the last tenants.",
            )
            .example("true"),
        ]
    }),
    Field::integer("scanned", "How many tenants were looked at.").example("12"),
    Field::texts("unreadable", "Those of them whose records cannot be read."),
    Field::text(
        "next",
        "Pass as `after` to look at more; null if no tenant is left.",
    )
    .nullable(),
    Field::object(
        "rewrap",
        "How far encrypting all secrets with the newest key has come; null before the first \
         rotation.",
    )
    .of(const {
        &[
            Field::integer(
                "version",
                "The key that everything is to be encrypted with.",
            )
            .example("2"),
            Field::integer("tenants", "How many tenants were looked at so far.").example("200"),
            Field::text("after", "The last one of them.").example("acme"),
            Field::texts(
                "unreadable",
                "Those that could not be encrypted anew; at most 100 names.",
            ),
            Field::instant("started_at", "When it began; null before.").nullable(),
            Field::instant("finished_at", "When all were looked at; null before.").nullable(),
        ]
    })
    .nullable(),
];

const ROTATE_ANSWERS: &[Field] = &[
    VERSION,
    Field::integer("previous_version", "The version that encrypted before.").example("1"),
    CREATED_AT,
    EVENT,
    super::EVENT_ID,
    super::SEQ,
];

const TRIM_ANSWERS: &[Field] = &[
    Field::objects("removed", "The keys that were removed.").of(&[VERSION]),
    Field::objects("versions", "The keys that are left.").of(const { &[VERSION, CREATED_AT] }),
    Field::text(
        "event",
        "The name of the event; null if nothing was removed.",
    )
    .example("smtp_keyring_trimmed")
    .nullable(),
    super::EVENT_ID.nullable(),
    super::SEQ.nullable(),
];

pub(super) fn routes() -> [Route<Engine>; 3] {
    let writes: &[Operation] = &[Operation::Create, Operation::Update];
    [
        Route {
            pattern: "config/keyring",
            synopsis: "The keys that encrypt what is stored.",
            description: "Answers the versions of the keyring, which tenants' secrets depend on \
                          them, and how far the rewrap after a rotation has come. Never a key. \
                          Counting reads the tenants' records: `after` and `limit` page through \
                          them.

    bao read -format=json smtp/config/keyring",
            fields: READ_FIELDS,
            endpoints: vec![Endpoint {
                operations: &[Operation::Read],
                summary: "Read the keyring's versions and their use.",
                unknown_fields: UnknownFields::Warned,
                answers: READ_ANSWERS,
                handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "config/keyring/rotate",
            synopsis: "Make a new key.",
            description: "Adds a key to the keyring, stores it twice and reads it back. \
                          Everything is encrypted with it from then on; what is stored already \
                          is encrypted anew in the background, 200 tenants a minute. No password \
                          changes.

    bao write smtp/config/keyring/rotate reason=\"yearly change\"",
            fields: &[super::REASON],
            endpoints: vec![Endpoint {
                operations: writes,
                summary: "Add a key to the keyring.",
                unknown_fields: UnknownFields::Refused,
                answers: ROTATE_ANSWERS,
                handler: |engine, mount, call| Box::pin(rotate(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "config/keyring/trim",
            synopsis: "Remove the keys that nothing needs any more.",
            description: "Reads every tenant's record under its lock and removes all keys but \
                          the newest. Refused while the rewrap is under way, and if any record \
                          needs an older key or cannot be read. A snapshot from before the rewrap \
                          carries its own keys and stays readable.

    bao write -f smtp/config/keyring/trim",
            fields: &[super::REASON],
            endpoints: vec![Endpoint {
                operations: writes,
                summary: "Remove the unused keys.",
                unknown_fields: UnknownFields::Refused,
                answers: TRIM_ANSWERS,
                handler: |engine, mount, call| Box::pin(trim(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[derive(Serialize)]
struct Read {
    latest: u32,
    versions: Vec<VersionOutput>,
    scanned: u64,
    unreadable: Vec<String>,
    next: Option<String>,
    rewrap: Option<RewrapOutput>,
}

#[derive(Serialize)]
struct VersionOutput {
    version: u32,
    #[serde(serialize_with = "instant::serialize")]
    created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<bool>,
}

#[derive(Serialize)]
struct RewrapOutput {
    version: u32,
    tenants: u64,
    after: String,
    unreadable: Vec<String>,
    #[serde(serialize_with = "instant::serialize")]
    started_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "instant::serialize")]
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct RotateOutput {
    version: u32,
    previous_version: Option<u64>,
    #[serde(serialize_with = "instant::serialize")]
    created_at: Option<DateTime<Utc>>,
    event: EventName,
    event_id: String,
    seq: u64,
}

#[derive(Serialize)]
struct TrimOutput {
    removed: Vec<RemovedOutput>,
    versions: Vec<VersionOutput>,
    event: Option<EventName>,
    event_id: Option<String>,
    seq: Option<u64>,
}

#[derive(Serialize)]
struct RemovedOutput {
    version: u32,
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let after = call.fields.text("after").set().unwrap_or("");
    let limit = call.fields.integer("limit").set().unwrap_or(DEFAULT_LIMIT);
    let limit = usize::try_from(limit)
        .ok()
        .filter(|_| (1..=MOST).contains(&limit))
        .ok_or_else(|| {
            crate::logical::Error::user("invalid_field", "`limit` must be 1 to 10,000.")
        })?;
    // Only the active node knows what it is about to write.
    engine.require_active_node(&mount).await?;
    // The use first: a key that is in use is then among those that are shown.
    let usage = engine.keyring_usage(&mount, after, limit).await?;
    let rewrap = engine.rewrap_progress(&mount).await?;
    let keyring = engine.keyring(&mount).await?;
    let versions = keyring.versions().map(|it| VersionOutput {
        tenants: Some(usage.tenants.get(&it.version).copied().unwrap_or(0)),
        channels: Some(usage.channels.get(&it.version).copied().unwrap_or(0)),
        audit: Some(usage.audit.contains(&it.version)),
        ..VersionOutput::from(it)
    });
    let output = Read {
        latest: keyring.latest(),
        versions: versions.collect(),
        scanned: usage.scanned,
        unreadable: usage.unreadable,
        next: usage.next,
        rewrap: rewrap_output(rewrap, &keyring),
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

/// What a read says of the rewrap to the newest key; the end of an earlier one says nothing of it.
fn rewrap_output(progress: Option<RewrapProgress>, keyring: &Keyring) -> Option<RewrapOutput> {
    let latest = keyring.latest();
    if let Some(progress) = progress.filter(|progress| progress.version == latest) {
        return Some(RewrapOutput::from(progress));
    }
    (keyring.versions().count() > 1).then(|| RewrapOutput {
        version: latest,
        tenants: 0,
        after: String::new(),
        unreadable: Vec::new(),
        started_at: None,
        finished_at: None,
    })
}

async fn rotate(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let event = event_of(&engine, &call, EventName::KeyringRotated);
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let (keyring, event) = worker.rotate_keyring(&mount, event).await?;
        let version = keyring.latest();
        let newest = keyring.versions().find(|it| it.version == version);
        let output = RotateOutput {
            version,
            previous_version: event.previous_version,
            created_at: newest.map(|it| it.created_at),
            event: event.event,
            event_id: event.event_id,
            seq: event.seq,
        };
        Ok(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn trim(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let event = event_of(&engine, &call, EventName::KeyringTrimmed);
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let trimmed = worker.trim_keyring(&mount, event).await?;
        let event: Option<&Event> = trimmed.event.as_ref();
        let output = TrimOutput {
            removed: (trimmed.removed.iter())
                .map(|version| RemovedOutput { version: *version })
                .collect(),
            versions: trimmed.left.into_iter().map(VersionOutput::from).collect(),
            event: event.map(|event| event.event),
            event_id: event.map(|event| event.event_id.clone()),
            seq: event.map(|event| event.seq),
        };
        Ok::<_, Error>(Some(Response::data(Data::from_serialize(&output)?)))
    };
    Ok(engine.join(&config, key, work).await?)
}

fn event_of(engine: &Engine, call: &Call, name: EventName) -> NewEvent {
    let mut event = engine.mount_event(name, actor(&call.request), &call.request);
    event.reason = optional_text(call, "reason");
    event
}

impl From<KeyringVersion> for VersionOutput {
    fn from(version: KeyringVersion) -> Self {
        Self {
            version: version.version,
            created_at: version.created_at,
            tenants: None,
            channels: None,
            audit: None,
        }
    }
}

impl From<RewrapProgress> for RewrapOutput {
    fn from(progress: RewrapProgress) -> Self {
        Self {
            version: progress.version,
            tenants: progress.tenants,
            after: progress.after,
            unreadable: progress.unreadable,
            started_at: Some(progress.started_at),
            finished_at: progress.finished_at,
        }
    }
}
