//! `config`: the mount's settings.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::EventName;
use crate::crypto::PasswordEncoding;
use crate::engine::config::{AuditMode, MountConfig};
use crate::engine::emission::ExemptKeys;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::mount_change::Write;
use crate::engine::zone::{DEFAULT_ZONE, LONGEST_ZONE};
use crate::engine::{Engine, rotation, storage};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Patch, Reply, Response, Route, StorageEntry,
    UnknownFields,
};

const FIELDS: &[Field] = &[
    Field::duration(
        "rotation_period",
        "How long a password lives; 1 minute to 10 years.",
    )
    .default("180d"),
    Field::text(
        "check_schedule",
        "When due passwords are changed: five cron fields, by the clocks of time_zone.",
    )
    .default("0 2 * * *"),
    Field::text(
        "time_zone",
        "The IANA time zone of check_schedule; it follows daylight saving.",
    )
    .max_bytes(LONGEST_ZONE)
    .example("Europe/Berlin")
    .default(DEFAULT_ZONE),
    Field::duration(
        "spread",
        "Over how long a check spreads its changes; at most 1 day.",
    )
    .default("1h"),
    Field::duration(
        "notify_before",
        "How long before a change its notice is sent; at most 90 days.",
    )
    .default("7d"),
    Field::integer("max_parallel", "Changes under way at once; 1 to 256.")
        .range(1, 256)
        .default("16"),
    Field::duration(
        "min_rotation_interval",
        "The shortest time between two changes on request; at most 30 days.",
    )
    .default("5m"),
    Field::duration(
        "refresh_interval",
        "The longest ttl a read answers; 30s to 1h.",
    )
    .default("5m"),
    Field::duration("wait", "How long a request waits for Mailu; 2s to 25s.").default("8s"),
    Field::integer("password_bytes", "Random bytes of a password; 16 to 64.")
        .range(16, 64)
        .default("32"),
    Field::integer(
        "emergency_password_bytes",
        "Random bytes after an emergency; 16 to 64.",
    )
    .range(16, 64)
    .default("48"),
    Field::text(
        "password_encoding",
        "How random bytes are written; mailu_hex: 32 hexadecimal digits, which Mailu's login \
         limiter lets pass.",
    )
    .one_of(&["base64", "base64url", "mailu_hex"])
    .default("base64"),
    Field::text(
        "password_policy",
        "A password policy of the host that generates instead.",
    )
    .max_bytes(128)
    .example("smtp")
    .nullable(),
    Field::integer("max_versions", "Versions kept per tenant; 2 to 100.")
        .range(2, 100)
        .default("10"),
    Field::duration(
        "reveal_ttl",
        "Wrapping TTL of a revealed password; 1m to 1d.",
    )
    .default("15m"),
    Field::boolean(
        "rotate_after_reveal",
        "Whether a revealed password is changed afterwards.",
    )
    .default("false"),
    Field::duration(
        "deleted_retention",
        "How long a deleted credential is kept; 1 day to 10 years.",
    )
    .default("30d"),
    Field::duration(
        "trail_retention",
        "How long delivered events are kept; 30 days to 10 years. Others are kept for ever.",
    )
    .default("400d"),
    Field::texts(
        "allowed_hosts",
        "Host patterns and CIDRs the engine may connect to; empty: public addresses.",
    )
    .max_bytes(256)
    .example("*.mail.example"),
    Field::boolean(
        "mailu_marker",
        "Whether the engine leaves its mark in the account's comment.",
    )
    .default("true"),
    Field::text(
        "audit_mode",
        "Whether an automatic change waits for the audit devices.",
    )
    .one_of(&["best_effort", "required"])
    .default("best_effort"),
    Field::instant(
        "paused_until",
        "Until when all automatic work rests; at most 90 days ahead.",
    )
    .example("2026-12-24T18:00:00Z")
    .nullable(),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "config",
        synopsis: "The mount's settings.",
        description: "Reads or changes the settings of the mount. A write changes what it names \
                      and keeps the rest; null restores a default, and a delete all of them.

    bao write smtp/config rotation_period=90d allowed_hosts=10.0.0.0/8
    echo '{\"rotation_period\":null}' | bao patch smtp/config -",
        fields: FIELDS,
        endpoints: vec![
            Endpoint {
                operations: &[Operation::Read],
                summary: "Read the mount's settings.",
                unknown_fields: UnknownFields::Warned,
                answers: FIELDS,
                handler: |engine, mount, _call| Box::pin(read(engine, mount)),
            },
            Endpoint {
                operations: &[Operation::Create, Operation::Update, Operation::Patch],
                summary: "Change the mount's settings.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Delete],
                summary: "Restore the defaults of the mount's settings.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
        ],
        existence: None,
    }
}

async fn read(engine: Arc<Engine>, mount: Mount) -> Reply {
    let config = engine.config(&mount).await?;
    Ok(Some(Response::data(
        Data::from_serialize(&*config)?.without("schema"),
    )))
}

async fn write(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::UntilWritten)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let warnings = Box::pin(apply_and_warn(&worker, &mount, &call)).await?;
        Ok((!warnings.is_empty()).then(|| Response {
            warnings,
            ..Response::default()
        }))
    };
    Ok(engine.join(&config, key, work).await?)
}

/// Stores what a request names; returns what the caller should know of it.
async fn apply_and_warn(engine: &Engine, mount: &Mount, call: &Call) -> Result<Vec<String>, Error> {
    let Some((before, after)) = store(engine, mount, call).await? else {
        return Ok(Vec::new());
    };
    let mut warnings = after.remarks(&before, engine.parts.dev_loopback, engine.clock().now());
    if before.allowed_hosts != after.allowed_hosts {
        warnings.extend(engine.left_out(mount, &before, &after).await);
    }
    Ok(warnings)
}

/// Stores what a request names; returns the settings before and after, if they differ.
async fn store(
    engine: &Engine,
    mount: &Mount,
    call: &Call,
) -> Result<Option<(Arc<MountConfig>, MountConfig)>, Error> {
    let policy = call.fields.text("password_policy").set();
    if let Some(policy) = policy.filter(|policy| !policy.is_empty()) {
        rotation::try_policy(&*mount.system, policy).await?;
    }
    let _guard = engine.mount_lock.lock("config").await;
    engine.finish_changes(mount, storage::CONFIG).await?;
    engine.config.forget();
    let before = engine.config(mount).await?;
    let mut config = MountConfig::clone(&before);
    if call.request.operation == Operation::Delete {
        config = MountConfig::default();
    } else {
        apply(call, &mut config)?;
    }
    config.check()?;
    if config == *before {
        return Ok(None);
    }
    if config.paused_until != before.paused_until {
        config.check_pause(engine.clock().now())?;
    }
    let requires = config.audit_mode == AuditMode::Required;
    if requires && before.audit_mode != AuditMode::Required {
        require_proof(engine, mount).await?;
    }
    let keyring = engine.keyring_for_writing(mount).await?;
    let actor = super::actor(&call.request);
    let mut entry = engine.mount_event(EventName::ConfigChanged, actor, &call.request);
    entry.changed = Data::from_serialize(&config)?.differing(&Data::from_serialize(&*before)?);
    let stored = StorageEntry::new(storage::CONFIG, storage::encode(&config)?);
    // Whatever became of the Put, the copy in memory may be wrong then.
    let change = (Write::Put(stored), || engine.config.forget());
    let told = engine.change_mount(mount, &keyring, entry, change).await;
    told.map(|_event| Some((before, config)))
}

/// Refuses to make changes wait for devices that nothing is known to reach.
async fn require_proof(engine: &Engine, mount: &Mount) -> Result<(), Error> {
    if engine.audit_access(mount).await?.is_none() {
        return Err(Error::invalid(
            "audit_unproven",
            "nothing says how events reach an audit device: every automatic change would wait for \
             ever. Write config/audit first, which sends a probe, and read `audit` in status.",
        ));
    }
    if let ExemptKeys::Missing(keys) = engine.emission.delivery().exempt_keys {
        return Err(Error::invalid(
            "audit_unproven",
            format!(
                "the audit devices get the events as hashes: audit_non_hmac_response_keys of the \
                 mount lacks {}. Tune the mount with what the plugin's --audit-keys prints, then \
                 write config/audit.",
                keys.join(", ")
            ),
        ));
    }
    if engine.emission.is_proven(engine.clock().now()) {
        return Ok(());
    }
    Err(Error::invalid(
        "audit_unproven",
        "`audit_mode=required` is accepted only within an hour after an event was delivered to an \
         audit device. Write config/audit, which sends a probe, and read `audit` in status.",
    ))
}

/// Puts what the request names into `config`; ranges are checked afterwards.
fn apply(call: &Call, config: &mut MountConfig) -> Result<(), Error> {
    let default = MountConfig::default();
    let fields = &call.fields;
    let seconds = |name: &str| fields.duration(name).map(|span: Duration| span.as_secs());
    seconds("rotation_period").apply(&mut config.rotation_period, default.rotation_period);
    seconds("spread").apply(&mut config.spread, default.spread);
    seconds("notify_before").apply(&mut config.notify_before, default.notify_before);
    seconds("min_rotation_interval").apply(
        &mut config.min_rotation_interval,
        default.min_rotation_interval,
    );
    seconds("refresh_interval").apply(&mut config.refresh_interval, default.refresh_interval);
    seconds("wait").apply(&mut config.wait, default.wait);
    seconds("reveal_ttl").apply(&mut config.reveal_ttl, default.reveal_ttl);
    seconds("deleted_retention").apply(&mut config.deleted_retention, default.deleted_retention);
    seconds("trail_retention").apply(&mut config.trail_retention, default.trail_retention);
    // A negative count is out of every range: 0 lets the check say so.
    let count = |name: &str| {
        fields
            .integer(name)
            .map(|count| u64::try_from(count).unwrap_or(0))
    };
    count("max_parallel").apply(&mut config.max_parallel, default.max_parallel);
    count("password_bytes").apply(&mut config.password_bytes, default.password_bytes);
    count("emergency_password_bytes").apply(
        &mut config.emergency_password_bytes,
        default.emergency_password_bytes,
    );
    count("max_versions").apply(&mut config.max_versions, default.max_versions);
    fields
        .boolean("rotate_after_reveal")
        .apply(&mut config.rotate_after_reveal, default.rotate_after_reveal);
    fields
        .boolean("mailu_marker")
        .apply(&mut config.mailu_marker, default.mailu_marker);
    fields
        .text("check_schedule")
        .map(str::to_owned)
        .apply(&mut config.check_schedule, default.check_schedule);
    fields
        .text("time_zone")
        .map(str::to_owned)
        .apply(&mut config.time_zone, default.time_zone);
    fields
        .text("password_policy")
        .map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()))
        .apply(&mut config.password_policy, None);
    fields
        .texts("allowed_hosts")
        .apply(&mut config.allowed_hosts, default.allowed_hosts);
    fields
        .instant("paused_until")
        .map(Some)
        .apply(&mut config.paused_until, None);
    fields
        .text("password_encoding")
        .try_map(encoding)?
        .apply(&mut config.password_encoding, default.password_encoding);
    let audit_mode: Patch<AuditMode> = fields.text("audit_mode").try_map(audit_mode)?;
    audit_mode.apply(&mut config.audit_mode, default.audit_mode);
    Ok(())
}

fn encoding(text: &str) -> Result<PasswordEncoding, Error> {
    [
        PasswordEncoding::Base64,
        PasswordEncoding::Base64Url,
        PasswordEncoding::MailuHex,
    ]
    .into_iter()
    .find(|known| known.as_str() == text)
    .ok_or_else(|| {
        Error::invalid(
            "invalid_config",
            "`password_encoding` must be base64, base64url or mailu_hex.",
        )
    })
}

fn audit_mode(text: &str) -> Result<AuditMode, Error> {
    match text {
        "best_effort" => Ok(AuditMode::BestEffort),
        "required" => Ok(AuditMode::Required),
        _ => Err(Error::invalid(
            "invalid_config",
            "`audit_mode` must be best_effort or required.",
        )),
    }
}
