//! `config/audit`: how events reach the host's audit devices.
//!
//! The rules here keep the login's secret away from servers it was not given for: a changed address
//! or role needs the secret again.

mod wanted;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::actor;
use crate::audit::EventName;
use crate::engine::Engine;
use crate::engine::audit_access::{self, AuditAccess, AuditAccessMode, LoginAs, Loopback, Way};
use crate::engine::config::AuditMode;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::mount_change::Write;
use crate::engine::storage::AUDIT_ACCESS;
use crate::host_api::HostApiConfig;
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields, instant,
};
use wanted::Wanted;

const MODE: Field = Field::text(
    "mode",
    "`loopback`: the engine calls the server's own API; `external`: a collector calls \
     events/flush and events/ack.",
)
.one_of(&["loopback", "external"])
.default("loopback");
const ADDRESS: Field = Field::text(
    "address",
    "Where this server listens, the same on every node: https://host:port, http:// to a loopback \
     address, or unix:///absolute/path.",
)
.max_bytes(2048)
.example("https://127.0.0.1:8200");
const CA_CERT: Field = Field::text("ca_cert", "PEM certificates that replace the public roots.")
    .max_bytes(64 * 1024)
    .multiline();
const TLS_SERVER_NAME: Field = Field::text(
    "tls_server_name",
    "The name in the certificate, if not that of the address.",
)
.max_bytes(253)
.example("vault.example");
const AUTH_PATH: Field = Field::text(
    "auth_path",
    "Where the AppRole method is mounted, with its namespace.",
)
.max_bytes(512)
.default("auth/approle");
const ROLE_ID: Field = Field::text("role_id", "The role that may emit events and nothing else.")
    .max_bytes(512)
    .example("59d6d1ca-47bb-4e7e-a40b-8be3bc5a0ba8");

const FIELDS: &[Field] = &[
    MODE,
    ADDRESS,
    CA_CERT,
    TLS_SERVER_NAME,
    AUTH_PATH,
    ROLE_ID,
    Field::secret("secret_id", "The secret of the role; never returned.").max_bytes(1024),
    Field::secret(
        "token",
        "A periodic token, instead of role_id and secret_id; never returned.",
    )
    .max_bytes(1024),
];

const ANSWERS: &[Field] = &[
    MODE,
    ADDRESS.nullable(),
    CA_CERT.nullable(),
    TLS_SERVER_NAME.nullable(),
    AUTH_PATH.nullable(),
    ROLE_ID.nullable(),
    Field::boolean("secret_id_set", "Whether a secret_id is stored.").example("true"),
    Field::boolean("token_set", "Whether a token is stored.").example("false"),
    Field::instant("written_at", "When this was written last.").example("2026-09-01T02:14:00Z"),
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "config/audit",
        synopsis: "How events reach the audit devices.",
        description:
            "Reads, writes or removes how the engine calls the server's own API, by which \
                      every event is put into the audit devices. A write keeps what it does not \
                      name and null restores a default; one that changes address, ca_cert, \
                      tls_server_name, auth_path or role_id must carry the secret again. Every \
                      write is itself an event, which proves that the way works; see status.

The role needs update on <mount>/events/emit/+/+ and nothing else, best with batch tokens \
                      of some minutes, without the default policy, bound to 127.0.0.1/32. Over a \
                      unix socket the server knows no address: neither the role nor the token may \
                      be bound to one then.

    bao write smtp/config/audit address=https://127.0.0.1:8200 ca_cert=@ca.pem \\
      role_id=\"$ROLE_ID\" secret_id=-
    bao write smtp/config/audit address=unix:///run/openbao/api.sock token=-
    bao write smtp/config/audit mode=external
    bao write -f smtp/config/audit",
        fields: FIELDS,
        endpoints: vec![
            Endpoint {
                operations: &[Operation::Read],
                summary: "Read how events reach the audit devices.",
                unknown_fields: UnknownFields::Warned,
                answers: ANSWERS,
                handler: |engine, mount, _call| Box::pin(read(engine, mount)),
            },
            Endpoint {
                operations: &[Operation::Create, Operation::Update, Operation::Patch],
                summary: "Configure how events reach the audit devices.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Delete],
                summary: "Remove how events reach the audit devices.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(delete(engine, mount, call)),
            },
        ],
        existence: None,
    }
}

#[derive(Serialize)]
struct Output<'a> {
    mode: &'static str,
    address: Option<&'a str>,
    ca_cert: Option<&'a str>,
    tls_server_name: Option<&'a str>,
    auth_path: Option<&'a str>,
    role_id: Option<&'a str>,
    secret_id_set: bool,
    token_set: bool,
    #[serde(serialize_with = "instant::serialize")]
    written_at: DateTime<Utc>,
}

async fn read(engine: Arc<Engine>, mount: Mount) -> Reply {
    let access = engine.audit_access(&mount).await?;
    let Some(access) = access.as_ref() else {
        return Ok(None);
    };
    let endpoint = access.loopback().map(|loopback| &loopback.endpoint);
    let login = endpoint.map(|it| &it.login);
    let role = match login {
        Some(LoginAs::AppRole { auth_path, role_id }) => Some((auth_path, role_id)),
        Some(LoginAs::Token) | None => None,
    };
    let output = Output {
        mode: access.mode().as_str(),
        address: endpoint.map(|it| it.address.as_str()),
        ca_cert: endpoint.and_then(|it| it.ca_cert.as_deref()),
        tls_server_name: endpoint.and_then(|it| it.tls_server_name.as_deref()),
        auth_path: role.map(|(auth_path, _)| auth_path.as_str()),
        role_id: role.map(|(_, role_id)| role_id.as_str()),
        secret_id_set: role.is_some(),
        token_set: login == Some(&LoginAs::Token),
        written_at: access.written_at,
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

async fn write(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::UntilWritten)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        store(&worker, &mount, &call).await?;
        let now = worker.clock().now();
        Ok(super::warn_of_expired_cas(None, &call, now))
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn store(engine: &Engine, mount: &Mount, call: &Call) -> Result<(), Error> {
    let _guard = engine.mount_lock.lock("audit").await;
    finish_changes(engine, mount).await?;
    let stored = audit_access::read(mount).await?;
    let wanted = wanted::wanted(call, stored.as_ref())?;
    if let Wanted::Loopback {
        endpoint,
        secret: Some(secret),
    } = &wanted
    {
        // Before a first keyring is made for it.
        require_usable(engine, &endpoint.with(secret.clone())?)?;
    }
    let keyring = engine.keyring_for_writing(mount).await?;
    let id = engine.identifiers().hex()?;
    let way = match wanted {
        Wanted::External => Way::External,
        Wanted::Loopback { endpoint, secret } => {
            // A secret that is not given again stays what it is: its endpoint did not change.
            let kept = match (&secret, &stored) {
                (None, Some(stored)) => stored.open_secret(&keyring)?,
                _ => None,
            };
            let missing = Error::Defect("a login without its secret");
            let secret = secret.or(kept).ok_or(missing)?;
            let secret = audit_access::seal(&keyring, &id, &endpoint, &secret)?;
            Way::Loopback(Loopback { endpoint, secret })
        }
    };
    let access = AuditAccess::new(id, engine.clock().now(), way);
    if access.mode() == AuditAccessMode::Loopback {
        // Also what was stored before: the environment may have changed since.
        require_usable(engine, &access.open(&keyring)?)?;
    }
    let write = Write::Put(access.entry()?);
    announced(engine, mount, call, write).await
}

/// Refuses what cannot be used now and not with the first event. Nobody is called.
fn require_usable(engine: &Engine, config: &HostApiConfig) -> Result<(), Error> {
    let opened = (engine.parts.host_api)(config, &engine.parts.clock);
    opened
        .map(drop)
        .map_err(|error| Error::invalid("invalid_audit_config", format!("{error}.")))
}

async fn delete(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::UntilWritten)?;
    let worker = Arc::clone(&engine);
    let work = async move { remove(&worker, &mount, &call).await.map(|()| None) };
    Ok(engine.join(&config, key, work).await?)
}

async fn remove(engine: &Engine, mount: &Mount, call: &Call) -> Result<(), Error> {
    // The settings' lock, too: nobody may begin to require what goes.
    let _settings = engine.mount_lock.lock("config").await;
    let _guard = engine.mount_lock.lock("audit").await;
    finish_changes(engine, mount).await?;
    engine.config.forget();
    if engine.config(mount).await?.audit_mode == AuditMode::Required {
        return Err(Error::conflict(
            "audit_required",
            "automatic changes wait for the audit devices, which are reached by this. Nothing was \
             removed. Write config audit_mode=best_effort first, or write config/audit anew.",
        ));
    }
    if mount.storage.get(AUDIT_ACCESS).await?.is_none() {
        return Ok(());
    }
    let write = Write::Delete(AUDIT_ACCESS.to_owned());
    announced(engine, mount, call, write).await
}

/// Tells the end of a change that was begun before. It may be the probe, too.
async fn finish_changes(engine: &Engine, mount: &Mount) -> Result<(), Error> {
    if engine.finish_changes(mount, AUDIT_ACCESS).await?.is_some() {
        engine.audit_access_written(mount);
    }
    Ok(())
}

/// Makes a change with the mount's event before and after it. That event is the probe: it has to
/// reach the devices by what was written.
async fn announced(engine: &Engine, mount: &Mount, call: &Call, write: Write) -> Result<(), Error> {
    let keyring = engine.keyring_for_writing(mount).await?;
    let caller = actor(&call.request);
    let mut event = engine.mount_event(EventName::ConfigChanged, caller, &call.request);
    event.changed = super::named(call, "audit");
    // Whatever became of the Put, the copy in memory may be wrong then.
    let change = (write, || engine.audit_access.forget());
    let told = engine.change_mount(mount, &keyring, event, change).await;
    engine.audit_access_written(mount);
    told.map(drop)
}
