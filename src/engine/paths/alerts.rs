//! `config/alerts`: what is suspicious.

use std::sync::Arc;

use crate::audit::EventName;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::mount_change::Write;
use crate::engine::watch::{AlertSettings, LONGEST_PATTERN, MOST_REFUSALS, MOST_REVEALS, Rules};
use crate::engine::zone::{DEFAULT_ZONE, LONGEST_ZONE};
use crate::engine::{Engine, storage};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, StorageEntry,
    UnknownFields,
};

const FIELDS: &[Field] = &[
    Field::integer(
        "reveals_per_hour",
        "How often one entity may look at passwords within an hour, over all tenants, before it \
         is told; 1 to 60, 0: any.",
    )
    .range(0, MOST_REVEALS as i64)
    .default("5"),
    Field::texts(
        "work_hours",
        "When looks at passwords are in order: days and hours; empty: always. A look at another \
         time is told.",
    )
    .max_bytes(64)
    .example("Mon-Fri 07:00-19:00"),
    Field::text(
        "time_zone",
        "The IANA time zone of work_hours; it follows daylight saving.",
    )
    .max_bytes(LONGEST_ZONE)
    .example("Europe/Berlin")
    .default(DEFAULT_ZONE),
    Field::text(
        "incident_pattern",
        "A regular expression for the whole incident_id of a reset; another one is told, the \
         reset goes on.",
    )
    .max_bytes(LONGEST_PATTERN)
    .example("INC-[0-9]{4,8}")
    .nullable(),
    Field::integer(
        "refusals_per_hour",
        "How often Mailu may refuse one tenant's changes within an hour before it is told; 1 to \
         7, 0: any.",
    )
    .range(0, MOST_REFUSALS as i64)
    .default("5"),
    Field::boolean(
        "drift",
        "Whether grave drift is suspicious: another writer of an account, or a compromised \
         password that is live.",
    )
    .default("true"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "config/alerts",
        synopsis: "What is suspicious and told as an alert.",
        description: "Reads or changes the rules on events. What a rule finds is recorded as an \
                      event smtp_suspicious_activity with the rule as error_code, and told \
                      through the notification channels. Nothing is ever refused by a rule. A \
                      write changes what it names and keeps the rest; null restores a default, \
                      and a delete all of them.

    bao write smtp/config/alerts work_hours=\"Mon-Fri 07:00-19:00\" time_zone=Europe/Berlin
    bao write smtp/config/alerts incident_pattern='INC-[0-9]{4,8}' reveals_per_hour=3",
        fields: FIELDS,
        endpoints: vec![
            Endpoint {
                operations: &[Operation::Read],
                summary: "Read what is suspicious.",
                unknown_fields: UnknownFields::Warned,
                answers: FIELDS,
                handler: |engine, mount, _call| Box::pin(read(engine, mount)),
            },
            Endpoint {
                operations: &[Operation::Create, Operation::Update, Operation::Patch],
                summary: "Change what is suspicious.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Delete],
                summary: "Restore the defaults of what is suspicious.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
        ],
        existence: None,
    }
}

async fn read(engine: Arc<Engine>, mount: Mount) -> Reply {
    let rules = match engine.stored_rules(&mount).await {
        Ok(rules) => rules,
        Err(error) => return Err(engine.failed_read(&mount, error).await.into()),
    };
    Ok(Some(Response::data(
        Data::from_serialize(&rules.settings)?.without("schema"),
    )))
}

async fn write(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::UntilWritten)?;
    let worker = Arc::clone(&engine);
    let work = async move { store(&worker, &mount, &call).await.map(|()| None) };
    Ok(engine.join(&config, key, work).await?)
}

async fn store(engine: &Engine, mount: &Mount, call: &Call) -> Result<(), Error> {
    let _guard = engine.mount_lock.lock("alerts").await;
    engine.finish_changes(mount, storage::ALERTS).await?;
    let before = match engine.stored_rules(mount).await {
        Ok(rules) => Some(rules.settings),
        // Nothing can be kept of it: whoever writes mends it.
        Err(error) if storage::is_damaged(&error) => None,
        Err(error) => return Err(error),
    };
    let mut settings = before.clone().unwrap_or_default();
    if call.request.operation == Operation::Delete {
        settings = AlertSettings::default();
    } else {
        apply(call, &mut settings);
    }
    let rules = Rules::new(settings)?;
    if before.as_ref() == Some(&rules.settings) {
        return Ok(());
    }
    let keyring = engine.keyring_for_writing(mount).await?;
    let actor = super::actor(&call.request);
    let mut event = engine.mount_event(EventName::ConfigChanged, actor, &call.request);
    let old = Data::from_serialize(&before.unwrap_or_default())?;
    let changed = Data::from_serialize(&rules.settings)?.differing(&old);
    event.changed = changed
        .iter()
        .map(|name| format!("alerts.{name}"))
        .collect();
    let stored = StorageEntry::new(storage::ALERTS, storage::encode(&rules.settings)?);
    // Whatever became of the Put, the copy in memory may be wrong then.
    let change = (Write::Put(stored), || engine.alerts.forget());
    let told = engine.change_mount(mount, &keyring, event, change).await;
    told.map(drop)
}

/// Puts what the request names into `settings`; they are checked afterwards.
fn apply(call: &Call, settings: &mut AlertSettings) {
    let default = AlertSettings::default();
    let fields = &call.fields;
    // A negative count is out of every range: the largest lets the check say so.
    let count = |name: &str| {
        fields
            .integer(name)
            .map(|count| u64::try_from(count).unwrap_or(u64::MAX))
    };
    count("reveals_per_hour").apply(&mut settings.reveals_per_hour, default.reveals_per_hour);
    count("refusals_per_hour").apply(&mut settings.refusals_per_hour, default.refusals_per_hour);
    fields
        .texts("work_hours")
        .apply(&mut settings.work_hours, default.work_hours);
    fields
        .text("time_zone")
        .map(str::to_owned)
        .apply(&mut settings.time_zone, default.time_zone);
    fields
        .text("incident_pattern")
        .map(|pattern| Some(pattern.to_owned()).filter(|pattern| !pattern.is_empty()))
        .apply(&mut settings.incident_pattern, None);
    fields
        .boolean("drift")
        .apply(&mut settings.drift, default.drift);
}
