//! `config/notify/<name>`: who is told of events, and how.
//!
//! The rules here keep a channel's secret away from endpoints it was not given for: a changed
//! endpoint needs the secret again.

mod output;
mod test;
mod wanted;

use std::sync::Arc;

use super::actor;
use crate::audit::EventName;
use crate::engine::channels::{self, Channel, Secrets, Target};
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::mount_change::Write;
use crate::engine::{Engine, storage};
use crate::logical::{
    Call, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use wanted::Wanted;

const NAME: Field = Field::text(
    "name",
    "Name of the channel: 1 to 64 of a-z, 0-9, `_` and `-`, a letter or digit at both ends.",
)
.pattern("^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")
.required()
.example("ops");
const TYPE: Field = Field::text("type", "What kind of channel it is; required at first.")
    .one_of(&["email", "slack", "webhook"])
    .example("email");
const HOST: Field = Field::text("host", "email: the mail server that takes the mails.")
    .max_bytes(253)
    .example("smtp.ops.example");
const PORT: Field = Field::integer("port", "email: its port; by default 465 for tls, else 587.")
    .range(1, 65_535)
    .example("587");
const TLS: Field = Field::text(
    "tls",
    "email: `starttls`, `tls` from the first byte, or `none` (development, loopback only).",
)
.one_of(&["starttls", "tls", "none"])
.default("starttls");
const TLS_SERVER_NAME: Field = Field::text(
    "tls_server_name",
    "email: the name in the certificate, if not that of the host.",
)
.max_bytes(253)
.example("smtp.ops.example");
const CA_CERT: Field = Field::text("ca_cert", "PEM certificates that replace the public roots.")
    .max_bytes(64 * 1024)
    .multiline();
const EHLO_NAME: Field = Field::text(
    "ehlo_name",
    "email: what is said in EHLO: a full host name, or an address in brackets. Empty: this host's \
     full name, or else the address it calls from.",
)
.max_bytes(253)
.example("vault.ops.example");
const USERNAME: Field = Field::text("username", "email: who logs in; empty: nobody.")
    .max_bytes(254)
    .example("vault@ops.example");
const FROM: Field = Field::text("from", "email: the sender's address.")
    .max_bytes(254)
    .example("vault@ops.example");
const TO: Field = Field::texts(
    "to",
    "email: whom everything goes to; at most 20 addresses.",
)
.max_bytes(254)
.example("oncall@ops.example");
const ALLOWED_DOMAINS: Field = Field::texts(
    "allowed_domains",
    "email: domains whose addresses among a tenant's admin_emails are told of its notices, \
     changes, failures and resets, each in a mail of its own. Empty: no tenant's address is.",
)
.max_bytes(253)
.example("acme.example");
const EVENTS: Field = Field::texts(
    "events",
    "Names of the events that are told, every outcome of them. Empty: notices, changes, critical \
     failures, emergency resets, drift, rollbacks, adoptions and the ends of batches.",
)
.max_bytes(64)
.example("smtp_credentials_rotation_notice,smtp_credentials_drift_detected");

const FIELDS: &[Field] = &[
    NAME,
    TYPE,
    EVENTS,
    HOST,
    PORT,
    TLS,
    TLS_SERVER_NAME,
    CA_CERT,
    EHLO_NAME,
    USERNAME,
    Field::secret(
        "password",
        "email: the password of `username`; never returned.",
    )
    .max_bytes(1024),
    FROM,
    TO,
    ALLOWED_DOMAINS,
    Field::secret(
        "url",
        "slack: the incoming webhook, a secret that is never returned. webhook: where documents \
         are posted; with a query (`?…`) it is such a secret, too.",
    )
    .max_bytes(2048)
    .example("https://hooks.ops.example/smtp"),
    Field::secret(
        "hmac_key",
        "webhook: the key of the signature, 16 to 1,024 printable characters; never returned.",
    )
    .max_bytes(1024),
];

pub(super) fn routes() -> [Route<Engine>; 3] {
    [list_route(), channel_route(), test::route()]
}

fn list_route() -> Route<Engine> {
    Route {
        pattern: "config/notify",
        synopsis: "The notification channels.",
        description: "Lists the names of the notification channels, sorted; there are at most 20.

    bao list smtp/config/notify",
        fields: const {
            &[Field::text("after", "Only names after this one.")
                .max_bytes(64)
                .example("chat")]
        },
        endpoints: vec![Endpoint {
            operations: &[Operation::List],
            summary: "List the notification channels.",
            unknown_fields: UnknownFields::Warned,
            answers: const { &[Field::texts("keys", "The names of the channels.").example("ops,chat")] },
            handler: |engine, mount, call| Box::pin(list(engine, mount, call)),
        }],
        existence: None,
    }
}

fn channel_route() -> Route<Engine> {
    Route {
        pattern: "config/notify/{name}",
        synopsis: "One notification channel.",
        description: "Reads, writes or removes a channel that tells people of events: mail over \
                      a relay, an incoming webhook of Slack, or a signed JSON document. A write \
                      keeps what it does not name; one that changes where the channel leads \
                      (host, port, tls, tls_server_name, ca_cert, username, url) must carry its \
                      secrets again. A URL with a query is such a secret. Every write retries \
                      what was given up. A message is delivered at least once and names its \
                      event_id.

A tenant's admin_emails are told of notices, changes, failures and resets of their tenant by every \
                      email channel whose allowed_domains has the domain of the address. Write a \
                      domain there only if its addresses may know of these events.

A webhook is verified by HMAC-SHA256 over the X-Smtp-Timestamp header, a dot and the body, in hex \
                      behind `v1=` in X-Smtp-Signature; refuse timestamps older than some minutes. \
                      A message may come again: answer 2xx to an X-Smtp-Event-Id that was seen \
                      before, and drop it.

    bao write smtp/config/notify/ops type=email host=smtp.ops.example \\
      username=vault@ops.example password=- from=vault@ops.example to=oncall@ops.example
    printf %s \"$URL\" | bao write smtp/config/notify/chat type=slack url=-
    bao write smtp/config/notify/hook type=webhook url=https://hooks.ops.example/smtp \\
      hmac_key=@key
    bao delete smtp/config/notify/chat",
        fields: FIELDS,
        endpoints: vec![
            Endpoint {
                operations: &[Operation::Read],
                summary: "Read a notification channel and how it fares.",
                unknown_fields: UnknownFields::Warned,
                answers: output::ANSWERS,
                handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Create, Operation::Update, Operation::Patch],
                summary: "Configure a notification channel.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Delete],
                summary: "Remove a notification channel.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(delete(engine, mount, call)),
            },
        ],
        existence: Some(|engine, mount, call| Box::pin(exists(engine, mount, call))),
    }
}

/// The channel of the path; the grammar is that of tenants.
fn name(call: &Call) -> Result<String, Error> {
    let name = call.capture("name");
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| edge(byte) || b"_-".contains(&byte))
        && name.bytes().next().is_some_and(edge)
        && name.bytes().next_back().is_some_and(edge);
    if fits {
        return Ok(name.to_owned());
    }
    Err(Error::invalid(
        "invalid_channel",
        "a channel's name has 1 to 64 characters of a-z, 0-9, `_` and `-`, and begins and ends \
         with a letter or digit.",
    ))
}

async fn list(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let mut names = engine.channels(&mount).await?.names();
    let after = call.fields.text("after").set().unwrap_or("");
    names.retain(|name| name.as_str() > after);
    Ok(Response::keys(names))
}

async fn exists(
    engine: Arc<Engine>,
    mount: Mount,
    call: Call,
) -> Result<Option<bool>, crate::logical::Error> {
    // An invalid name is for the handler to refuse, with its text.
    let Ok(name) = name(&call) else {
        return Ok(Some(false));
    };
    let channels = engine.channels(&mount).await?;
    Ok(Some(channels.names().contains(&name)))
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = name(&call)?;
    let channels = engine.channels(&mount).await?;
    if let Some(channel) = channels.find(&name) {
        let state = engine.channel_state(&mount, channel).await?;
        let waiting = engine.outbox.undelivered(Some(channel));
        return Ok(Some(output::response(channel, &state, waiting)?));
    }
    if channels.unreadable.contains(&name) {
        let damaged = storage::damaged(&storage::channel_key(&name));
        return Err(engine.failed_read(&mount, damaged).await.into());
    }
    Ok(None)
}

async fn write(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = name(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::UntilWritten)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        store(&worker, &mount, name, &call).await?;
        Ok(super::warn_of_expired_cas(
            None,
            &call,
            worker.clock().now(),
        ))
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn store(engine: &Engine, mount: &Mount, name: String, call: &Call) -> Result<(), Error> {
    let _guard = engine.mount_lock.lock("notify").await;
    let key = storage::channel_key(&name);
    engine.finish_changes(mount, &key).await?;
    let kept = channels::read_all(mount).await?;
    let stored = kept.find(&name);
    if stored.is_none() && kept.unreadable.contains(&name) {
        return Err(storage::damaged(&key));
    }
    if stored.is_none() && call.request.operation == Operation::Patch {
        return Err(Error::UnknownChannel);
    }
    if stored.is_none() && kept.names().len() >= channels::MOST {
        return Err(Error::invalid(
            "too_many_channels",
            "a mount has at most 20 notification channels. Delete one first.",
        ));
    }
    let config = engine.config(mount).await?;
    let policy = engine.network_policy(mount, &config).await?;
    let keyring = engine.keyring_for_writing(mount).await?;
    let Wanted {
        mut target,
        secrets,
        events,
    } = wanted::wanted(call, stored, &policy)?;
    let now = engine.clock().now();
    let id = match stored {
        Some(stored) => stored.id.clone(),
        None => engine.identifiers().hex()?,
    };
    // A secret that is not given again stays what it is: its endpoint did not change.
    if let Some(stored) = stored
        && stored.events == events
        && stored.is_same_target(&target, &secrets, &keyring)
    {
        return store_again(engine, mount, stored.clone()).await;
    }
    let keeps_own = target.needs_secret() && secrets.own.is_none();
    let keeps_url = target.secret_url().is_some() && secrets.url.is_none();
    let kept = match stored {
        Some(stored) if keeps_own || keeps_url => stored.open(&keyring)?,
        _ => Secrets::default(),
    };
    let secrets = Secrets {
        own: secrets.own.or(kept.own.filter(|_| keeps_own)),
        url: secrets.url.or(kept.url.filter(|_| keeps_url)),
    };
    target.seal(&keyring, (&name, &id), &secrets)?;
    let usable = target.with(secrets, &policy)?;
    (engine.parts.notifier)(&usable, &policy)
        .map_err(|error| Error::invalid("invalid_channel", format!("{error}.")))?;
    let mut channel = Channel::new(name, id, now, target);
    channel.events = events;
    let write = Write::Put(channel.entry()?);
    announced(engine, mount, call, write).await?;
    engine.outbox.channel_written(&channel.name);
    Ok(())
}

/// The same channel was written again: no news for anybody, but what was given up is tried again.
async fn store_again(engine: &Engine, mount: &Mount, mut channel: Channel) -> Result<(), Error> {
    channel.written_at = engine.clock().now();
    engine.put_channel(mount, &channel).await?;
    engine.outbox.channel_written(&channel.name);
    Ok(())
}

async fn delete(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = name(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::UntilWritten)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        remove(&worker, &mount, &name, &call).await?;
        Ok(None)
    };
    Ok(engine.join(&config, key, work).await?)
}

async fn remove(engine: &Engine, mount: &Mount, name: &str, call: &Call) -> Result<(), Error> {
    let _guard = engine.mount_lock.lock("notify").await;
    let key = storage::channel_key(name);
    engine.finish_changes(mount, &key).await?;
    if mount.storage.get(&key).await?.is_some() {
        announced(engine, mount, call, Write::Delete(key)).await?;
    }
    engine.outbox.channel_written(name);
    // What waits for it goes with the next tick.
    engine.forget_channel_state(mount, name).await
}

/// Makes a change with the mount's event before and after it.
async fn announced(engine: &Engine, mount: &Mount, call: &Call, write: Write) -> Result<(), Error> {
    let keyring = engine.keyring_for_writing(mount).await?;
    let caller = actor(&call.request);
    let mut event = engine.mount_event(EventName::ConfigChanged, caller, &call.request);
    event.changed = super::named(call, &format!("notify.{}", name(call)?));
    // Whatever became of the Put, the copy in memory may be wrong then.
    let change = (write, || engine.channels.forget());
    let told = engine.change_mount(mount, &keyring, event, change).await;
    told.map(drop)
}

/// The kind of a channel, as clients name it.
const fn type_of(target: &Target) -> &'static str {
    match target {
        Target::Email(_) => "email",
        Target::Slack(_) => "slack",
        Target::Webhook(_) => "webhook",
    }
}
