//! `<tenant>/config`: the tenant's Mailu server.
//!
//! The rules here keep the API token and every password away from endpoints they were not given
//! for: a changed endpoint needs the token again, and once a credential exists it must prove to be
//! the same server by answering a hash that the stored password fits.

mod change;
mod wanted;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{actor, event_of, tenant};
use crate::crypto::Sensitive;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{Purpose, ServerPlace};
use crate::engine::rotation::Change;
use crate::engine::storage::record::Server;
use crate::engine::tenant::TenantName;
use crate::engine::{Engine, mail, rotation};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use crate::provider::{EndpointUrl, HashCheck};
use wanted::{token_required, wanted};

const MAILU_URL: Field = Field::text("mailu_url", "The Mailu server's https URL.")
    .max_bytes(2048)
    .example("https://mail.acme.example");
const CA_CERT: Field = Field::text("ca_cert", "PEM certificates that replace the public roots.")
    .max_bytes(64 * 1024)
    .multiline();
const TLS_SERVER_NAME: Field = Field::text(
    "tls_server_name",
    "The name in the certificate, if not that of the URL.",
)
.max_bytes(253)
.example("mail.acme.example");
const SMTP_ADDRESS: Field = Field::text(
    "smtp_address",
    "host:port for SMTP AUTH; implicit TLS on port 465, else STARTTLS. The host of mailu_url, or one \
     that shows a certificate for it.",
)
.max_bytes(300)
.example("mail.acme.example:465");
const REQUEST_TIMEOUT: Field = Field::duration(
    "request_timeout",
    "How long one call to Mailu may take; 1s to 60s.",
)
.default("10s");
const VERIFY_SMTP: Field = Field::boolean(
    "verify_smtp",
    "Whether a new password is also tried by SMTP AUTH, once.",
)
.default("false");

const FIELDS: &[Field] = &[
    super::TENANT,
    MAILU_URL,
    CA_CERT,
    TLS_SERVER_NAME,
    SMTP_ADDRESS,
    Field::secret(
        "api_token",
        "Mailu's API token; never returned. Needed again whenever the endpoint changes.",
    )
    .max_bytes(1024),
    REQUEST_TIMEOUT,
    VERIFY_SMTP,
];

const ANSWERS: &[Field] = &[
    MAILU_URL,
    CA_CERT,
    TLS_SERVER_NAME,
    SMTP_ADDRESS,
    REQUEST_TIMEOUT,
    VERIFY_SMTP,
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/config",
        synopsis: "The tenant's Mailu server.",
        description: "Reads, writes or removes the Mailu server of a tenant. https only; \
                      redirects are never followed; loopback and link-local addresses are always \
                      refused, private ones unless the mount's allowed_hosts lists them. A write \
                      that changes mailu_url, ca_cert, tls_server_name or smtp_address must carry \
                      api_token. Whoever chooses the endpoint reads the next password: each change \
                      of it is a critical event with the old and the new host. Once a credential exists, such a change is accepted only if the \
                      new endpoint turns out to be the same server.

    printf %s \"$API_TOKEN\" | bao write smtp/acme/config \\
      mailu_url=https://mail.acme.example api_token=-",
        fields: FIELDS,
        endpoints: vec![
            Endpoint {
                operations: &[Operation::Read],
                summary: "Read the tenant's Mailu server.",
                unknown_fields: UnknownFields::Warned,
                answers: ANSWERS,
                handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Create, Operation::Update, Operation::Patch],
                summary: "Configure the tenant's Mailu server.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Delete],
                summary: "Remove the tenant's Mailu server.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(delete(engine, mount, call)),
            },
        ],
        existence: Some(|engine, mount, call| Box::pin(exists(engine, mount, call))),
    }
}

#[derive(Serialize)]
struct Output<'a> {
    mailu_url: &'a str,
    ca_cert: &'a str,
    tls_server_name: &'a str,
    smtp_address: &'a str,
    request_timeout: u64,
    verify_smtp: bool,
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let record = engine.read_tenant(&mount, &name).await?;
    let Some(server) = record.as_ref().and_then(|record| record.server.as_ref()) else {
        return Ok(None);
    };
    let output = Output {
        mailu_url: &server.mailu_url,
        ca_cert: server.ca_cert.as_deref().unwrap_or_default(),
        tls_server_name: server.tls_server_name.as_deref().unwrap_or_default(),
        smtp_address: server.smtp_address.as_deref().unwrap_or_default(),
        request_timeout: server.request_timeout_seconds,
        verify_smtp: server.verify_smtp,
    };
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

async fn exists(
    engine: Arc<Engine>,
    mount: Mount,
    call: Call,
) -> Result<Option<bool>, crate::logical::Error> {
    // An invalid name is for the handler to refuse, with its text.
    let Ok(name) = tenant(&call) else {
        return Ok(Some(false));
    };
    let record = engine.read_tenant(&mount, &name).await?;
    Ok(Some(record.is_some_and(|record| record.server.is_some())))
}

async fn write(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let mut place = None;
        let tried_at = loop {
            match store(&worker, &mount, &name, &call, place).await {
                // The place at the server that is to be asked comes before the tenant's lock.
                Err(Error::GaveWay) => place = server_of(&worker, &mount, &name, &call).await?,
                stored => break stored?,
            }
        };
        let answer = tried_at.map(|at| {
            Response::default().warn(format!(
                "The token is stored. It is tried at {} at the earliest: the server refused calls \
                 within the last hour, and the same token is tried again at once only once in 15 \
                 minutes.",
                crate::logical::instant::format(&at)
            ))
        });
        let now = worker.clock().now();
        Ok(super::warn_of_expired_cas(answer, &call, now))
    };
    Ok(engine.join(&config, key, work).await?)
}

/// Waits for the place at the server that a write names, or that is stored.
async fn server_of(
    engine: &Arc<Engine>,
    mount: &Mount,
    name: &TenantName,
    call: &Call,
) -> Result<Option<Arc<ServerPlace>>, Error> {
    let config = engine.config(mount).await?;
    let policy = engine.network_policy(mount, &config).await?;
    let named = call.fields.text("mailu_url").set();
    let named = named.and_then(|url| EndpointUrl::parse(url.trim(), &policy).ok());
    if let Some(url) = named {
        let place = engine.take_server(&url.origin(), Purpose::Request).await;
        return Ok(Some(place));
    }
    let Some(record) = engine.read_tenant(mount, name).await? else {
        return Ok(None);
    };
    let place = engine.take_server_of(&record, Purpose::Request).await?;
    Ok(Some(place))
}

/// Returns until when the token is not tried, if a stop holds it back.
async fn store(
    engine: &Arc<Engine>,
    mount: &Mount,
    name: &TenantName,
    call: &Call,
    place: Option<Arc<ServerPlace>>,
) -> Result<Option<DateTime<Utc>>, Error> {
    let mut locked = engine.lock_tenant(mount, name).await?;
    locked.place = place;
    if call.request.operation == Operation::Patch && locked.record.server.is_none() {
        return Err(Error::UnknownTenant);
    }
    let policy = engine.network_policy(mount, &locked.config).await?;
    let mut wanted = wanted(&locked, call, &policy)?;
    let old_token = match &locked.record.server {
        Some(server) => match locked.open_token(&server.api_token) {
            Ok(token) => Some(token),
            // One that does not open any more is replaced by the one that is given.
            Err(Error::Unopenable(_)) if wanted.token.is_some() => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    let token_changed = wanted.token.is_some() && wanted.token != old_token;
    // A person's word: what stops this token ends for one call, if one may be risked.
    let spoken = wanted.token.is_some();
    let token = wanted
        .token
        .take()
        .or(old_token)
        .ok_or_else(token_required)?;
    if !token_changed && locked.record.server.as_ref() == Some(&wanted.server) {
        if spoken && locked.held_until().await?.is_some() {
            return speak(locked).await;
        }
        return Ok(None);
    }
    if wanted.endpoint_changed && locked.record.credential.is_some() {
        let fingerprint = match require_same_server(&locked, &wanted.server, token.clone()).await {
            Ok(fingerprint) => fingerprint,
            Err(error) => return Err(refused(locked, call, error).await),
        };
        if locked.record.intent.is_none() {
            // The comparison has proven the current password as well.
            rotation::note_live(&mut locked, Some(fingerprint));
        }
    }
    // The clock only moves what really changed.
    let now = engine.clock().now();
    wanted.server.written_at = now;
    if spoken {
        wanted.server.token_written_at = Some(now);
    }
    let events = change::events(&locked.record, Some(&wanted.server), token_changed);
    locked.replace_server(wanted.server)?;
    let sealed = locked.seal_token(&token)?;
    if let Some(server) = &mut locked.record.server {
        server.api_token = sealed;
    }
    // What waited for the server to be mended is tried with the next tick.
    locked.record.go_on_at(now);
    let mut locked = claimed(locked, call).await?;
    locked.check_room()?;
    for event in events {
        locked.record_event(event.of(call, now))?;
    }
    locked.store().await?;
    locked.held_until().await
}

/// Claims the account at the new server.
async fn claimed(mut locked: LockedTenant, call: &Call) -> Result<LockedTenant, Error> {
    match locked.claim_account().await {
        Ok(()) => Ok(locked),
        Err(error) => Err(refused(locked, call, error).await),
    }
}

/// Records that somebody tried to move where passwords are sent, and that nothing was changed.
async fn refused(mut locked: LockedTenant, call: &Call, error: Error) -> Error {
    if !matches!(error, Error::Conflict { .. } | Error::Refused(_)) {
        // Nobody refused it: it could not be tried.
        return error;
    }
    let change = Change {
        rotation_type: None,
        actor: actor(&call.request),
        reason: None,
        incident_id: None,
        source: None,
        again: None,
        take_over: false,
        request_id: call.request.id.as_str().to_owned(),
    };
    let recorded = match locked.forget_changes() {
        Ok(()) => rotation::record_refusal(&mut locked, &change, error.code(), false).await,
        Err(error) => Err(error),
    };
    if let Err(unrecorded) = recorded {
        // Nothing was changed either way; the caller gets the first error.
        tracing::warn!(tenant = %locked.name, error = %unrecorded, "a refusal was not recorded");
    }
    error
}

/// The same token was written again while it is stopped: nothing changes but that it is tried.
async fn speak(mut locked: LockedTenant) -> Result<Option<DateTime<Utc>>, Error> {
    let now = locked.engine.clock().now();
    if let Some(server) = &mut locked.record.server {
        server.token_written_at = Some(now);
    }
    locked.record.go_on_at(now);
    locked.store().await?;
    locked.held_until().await
}

/// The new endpoint must answer a hash that the stored current password fits, or the one that an
/// open change has sent: the change could never be settled otherwise. Returns the hash's
/// fingerprint.
async fn require_same_server(
    locked: &LockedTenant,
    server: &Server,
    token: Sensitive<String>,
) -> Result<String, Error> {
    let use_rehome = || {
        Error::conflict(
            "use_rehome",
            "the tenant has a credential, and this endpoint did not prove to be the server that \
             holds its password: the account is missing there, or the stored password is not its. \
             Nothing was changed. Check the endpoint, and the stored password with \
             <tenant>/verify. A credential that was imported with a wrong password must be \
             destroyed and created again; a move to another server is not \
             in this version.",
        )
    };
    let credential = locked.record.credential.as_ref().ok_or_else(use_rehome)?;
    let current = credential.current_version();
    let mut known = Vec::new();
    for (number, sealed) in current
        .map(|version| (version.number, &version.password))
        .into_iter()
        .chain(
            locked
                .record
                .sent_intent()
                .map(|intent| (intent.version, &intent.candidate)),
        )
    {
        known.push(locked.open_password(number, sealed)?);
    }
    let address = mail::address(&credential.username)?;
    let mail = locked
        .engine
        .connect(
            locked.name.as_str(),
            &locked.mount,
            &locked.config,
            server,
            token,
            (Purpose::Request, locked.place.clone()),
        )
        .await?;
    let account = mail.account(&address).await?;
    let hash = account
        .and_then(|account| account.hash)
        .ok_or_else(use_rehome)?;
    for password in &known {
        let pool = &locked.engine.parts.hash_pool;
        match pool.check_of(&server.mailu_url, &hash, password).await {
            HashCheck::Fits => return Ok(hash.fingerprint()),
            HashCheck::DoesNotFit => {}
            HashCheck::CannotTell(_) => break,
        }
    }
    Err(use_rehome())
}

async fn delete(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        remove(&worker, &mount, &name, &call).await?;
        Ok(None)
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn remove(
    engine: &Arc<Engine>,
    mount: &Mount,
    name: &TenantName,
    call: &Call,
) -> Result<(), Error> {
    let mut locked = engine.lock_tenant(mount, name).await?;
    if locked.record.server.is_none() {
        return Ok(());
    }
    if locked.record.credential.is_some() {
        return Err(Error::conflict(
            "credential_exists",
            "the tenant still has a credential, which could not be changed any more without its \
             server. Delete and destroy the credential first.",
        ));
    }
    take_away(&mut locked, call)?;
    locked.store().await
}

/// Takes the server out of a record, with the facts that this is.
///
/// # Errors
///
/// That the record has no room for them.
pub(super) fn take_away(locked: &mut LockedTenant, call: &Call) -> Result<(), Error> {
    let now = locked.engine.clock().now();
    for event in change::events(&locked.record, None, false) {
        locked.record_event(event.of(call, now))?;
    }
    locked.record.server = None;
    Ok(())
}
