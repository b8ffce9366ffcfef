//! `<tenant>/admin`: the credential itself.

mod create;
mod input;
mod output;
mod update;

use std::sync::Arc;

use super::{actor, tenant};
use crate::crypto::Sealed;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::rotation::Change;
use crate::engine::tenant::TenantName;
use crate::engine::{Engine, locked, state};
use crate::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, UnknownFields,
};
use input::Input;
use output::{Read, Written};

const USERNAME: Field = Field::text(
    "username",
    "Mail address of the admin account; fixed once created.",
)
.max_bytes(254)
.example("admin@acme.example");
const WEBMAIL_URL: Field = Field::text("webmail_url", "Where humans log in.")
    .max_bytes(2048)
    .example("https://mail.acme.example/webmail")
    .resettable();
const ROTATION_POLICY: Field = Field::text(
    "rotation_policy",
    "When to change the password: a duration such as 180_days, or manual. Default: the mount's \
     rotation_period.",
)
.max_bytes(64)
.example("180_days")
.resettable();
const VERSION: Field = Field::integer("version", "The version answered.").example("3");
const STATE: Field = Field::text(
    "state",
    "settled: the password was proven live and nothing was sent since. uncertain: something was \
     sent whose outcome is open; use `candidates` as well. drift: Mailu holds another password.",
)
.one_of(super::STATES)
.example("settled");
const PROOF: Field = Field::text(
    "proof",
    "How well it is known: Mailu's hash fits, a login worked, Mailu said yes, or not checked yet.",
)
.one_of(super::PROOFS)
.example("hash")
.nullable();

const FIELDS: &[Field] = &[
    super::TENANT,
    USERNAME,
    WEBMAIL_URL,
    ROTATION_POLICY,
    Field::texts("admin_emails", "Who is told about changes; at most 10.")
        .max_bytes(254)
        .example("ops@acme.example")
        .resettable(),
    Field::secret(
        "password",
        "Imports an existing password instead of generating one; checked against Mailu.",
    )
    .max_bytes(500),
    Field::instant(
        "last_rotated",
        "When an imported password was last changed.",
    )
    .example("2026-09-01T00:00:00Z"),
    Field::integer(
        "cas",
        "0: only create. n: only if the current version is n.",
    )
    .range(0, i64::MAX)
    .example("3"),
    Field::boolean(
        "take_over",
        "Create or import although the account carries another mount's or cluster's mark.",
    )
    .default("false"),
];

const READ_ANSWERS: &[Field] = &[
    USERNAME,
    Field::secret("password", "The password to use."),
    WEBMAIL_URL,
    Field::texts("admin_emails", "Who is told about changes.").example("ops@acme.example"),
    Field::instant("created_at", "When the credential was created.")
        .example("2026-03-05T09:30:00Z"),
    Field::instant("last_rotated", "When the password last changed.")
        .example("2026-09-01T02:14:00Z"),
    Field::instant("last_vault_rotation", "The same instant as last_rotated."),
    ROTATION_POLICY,
    Field::duration("rotation_period", "The policy in seconds; 0 for manual.").example("180d"),
    super::NEXT_ROTATION,
    Field::duration("ttl", "In how many seconds to read again; never 0.").example("5m"),
    VERSION,
    STATE,
    Field::boolean(
        "compromised",
        "Whether an emergency reset has marked the answered password: it is to be used no longer than \
         it takes.",
    ),
    PROOF,
    Field::instant("verified_at", "When that was last checked.").nullable(),
    Field::objects(
        "candidates",
        "In doubt: every value that may be live, newest first.",
    )
    .of(super::CANDIDATE),
    Field::integer(
        "live_version",
        "In drift: the stored version that is live, or null.",
    )
    .nullable(),
];

const WRITE_ANSWERS: &[Field] = &[
    super::TENANT,
    VERSION.nullable(),
    STATE.nullable(),
    PROOF,
    super::NEXT_ROTATION,
    Field::text("event", "The name of the event; absent if nothing changed.")
        .example("smtp_credentials_stored"),
    super::EVENT_ID,
    super::SEQ,
];

pub(super) fn route() -> Route<Engine> {
    Route {
        pattern: "{tenant}/admin",
        synopsis: "The tenant's SMTP admin credential.",
        description: "Creates, reads, updates or deletes the credential. Without `password` one \
                      is generated and set in Mailu (which needs <tenant>/config); with it, an \
                      existing one is imported after a check against Mailu. An account that \
                      carries the mark of another mount or cluster is refused unless \
                      take_over=true. A write keeps what it does not name; null restores the \
                      default of webmail_url, rotation_policy and admin_emails and is refused \
                      elsewhere. Delete is soft: the passwords are \
                      kept for the mount's deleted_retention.

    bao write smtp/acme/admin username=admin@acme.example rotation_policy=180_days
    bao read -field=password smtp/acme/admin",
        fields: FIELDS,
        endpoints: vec![
            Endpoint {
                operations: &[Operation::Read],
                summary: "Read the credential with its password.",
                unknown_fields: UnknownFields::Warned,
                answers: READ_ANSWERS,
                handler: |engine, mount, call| Box::pin(read(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Create],
                summary: "Create the credential.",
                unknown_fields: UnknownFields::Refused,
                answers: WRITE_ANSWERS,
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Update, Operation::Patch],
                summary: "Create or update the credential.",
                // With a password it is adopted, which sets aside what was current.
                unknown_fields: UnknownFields::RefusedWith(&["password", "last_rotated"]),
                answers: WRITE_ANSWERS,
                handler: |engine, mount, call| Box::pin(write(engine, mount, call)),
            },
            Endpoint {
                operations: &[Operation::Delete],
                summary: "Delete the credential softly.",
                unknown_fields: UnknownFields::Refused,
                answers: &[],
                handler: |engine, mount, call| {
                    Box::pin(super::deletion::delete(engine, mount, call))
                },
            },
        ],
        existence: Some(|engine, mount, call| Box::pin(exists(engine, mount, call))),
    }
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
    Ok(Some(
        record.is_some_and(|record| record.live_credential().is_some()),
    ))
}

async fn read(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    match answer(&engine, &mount, &name).await {
        Ok(answered) => Ok(answered),
        Err(error) => Err(engine.failed_read(&mount, error).await.into()),
    }
}

async fn answer(
    engine: &Engine,
    mount: &Mount,
    name: &TenantName,
) -> Result<Option<Response>, Error> {
    let Some(record) = engine.read_tenant(mount, name).await? else {
        return Ok(None);
    };
    let Some(credential) = record.live_credential() else {
        return Ok(None);
    };
    if credential.hold.is_some() {
        return Err(Error::OnHold);
    }
    let Some(reading) = state::read(&record, credential) else {
        return Ok(None);
    };
    let config = engine.config(mount).await?;
    let keyring = engine.keyring(mount).await?;
    let open =
        |number: u64, sealed: &Sealed| locked::open_password(&keyring, &record, number, sealed);
    let now = engine.clock().now();
    let output = Read::new(&record, credential, &reading, &config, now, open)?;
    Ok(Some(Response::data(Data::from_serialize(&output)?)))
}

async fn has_credential(engine: &Engine, mount: &Mount, name: &TenantName) -> Result<bool, Error> {
    let record = engine.read_tenant(mount, name).await?;
    Ok(record.is_some_and(|record| record.credential.is_some()))
}

async fn apply(
    locked: LockedTenant,
    operation: Operation,
    input: Input,
    change: Change,
) -> Result<Written, Error> {
    let credential = locked.record.credential.as_ref();
    if credential.is_some_and(|kept| kept.deleted.is_some()) {
        return Err(Error::Deleted);
    }
    if credential.is_some() {
        Box::pin(update::update(locked, input, change)).await
    } else if operation == Operation::Patch {
        Err(Error::UnknownTenant)
    } else {
        Box::pin(create::create(locked, input, change)).await
    }
}

async fn write(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    let input = Input::parse(&call, engine.clock().now())?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let actor = actor(&call.request);
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let operation = call.request.operation;
    let change = Change {
        rotation_type: None,
        actor,
        reason: None,
        incident_id: None,
        source: None,
        again: None,
        take_over: input.take_over,
        request_id: call.request.id.as_str().to_owned(),
    };
    let work = async move {
        let apply = |locked| apply(locked, operation, input.clone(), change.clone());
        // Settings of a credential wait for no server, nor does an import that is repeated.
        let asks_nobody = input.password.is_none() || input.cas.is_none();
        let alone = if asks_nobody && has_credential(&worker, &mount, &name).await? {
            apply(worker.lock_tenant(&mount, &name).await?).await
        } else {
            Err(Error::GaveWay)
        };
        let written = match alone {
            // There is a change to settle first.
            Err(Error::GaveWay) => {
                let purpose = Purpose::Request;
                worker.at_server(&mount, &name, purpose, apply).await
            }
            done => done,
        };
        let Written { data, warnings } = written?;
        Ok(Some(Response {
            data: Some(data),
            warnings,
            ..Response::default()
        }))
    };
    Ok(engine.join(&config, key, work).await?)
}
