//! What clients see: one file per endpoint, one line per route.

mod admin;
mod adoption;
mod alerts;
mod audit_config;
mod batches;
mod config;
mod deletion;
mod events;
mod keyring;
mod metrics;
mod mount_status;
mod notify;
mod ops;
mod pause;
mod reset;
mod reveal;
mod rollback;
mod rotate;
mod status;
mod tenant_config;
mod tenants;
mod verify;
mod versions;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Engine;
use super::error::Error;
use super::tenant::TenantName;
use crate::audit::{Actor, EventName, NewEvent};
use crate::logical::{Call, Field, Request, Response, Router};
use crate::network::expired_cas;

const HELP: &str = "\
The smtp secrets engine owns the SMTP admin credential of every tenant's Mailu server: it stores \
it encrypted, hands it out, changes it at Mailu without ever losing it, and records everything it \
does as events.

Start with <tenant>/config (the Mailu server), then <tenant>/admin (the credential); read \
<tenant>/admin for the password and write <tenant>/rotate to change it.

Examples, for a mount at smtp/ and a tenant acme:

    bao write smtp/acme/config mailu_url=https://mail.acme.example api_token=-
    bao write smtp/acme/admin username=admin@acme.example
    bao read smtp/acme/admin
    bao write smtp/acme/rotate reason=\"quarterly change\"";

/// Every path of the engine. The README's table is checked against it.
pub(super) fn router() -> Router<Engine> {
    let mut routes = vec![config::route(), audit_config::route(), alerts::route()];
    routes.extend(keyring::routes());
    routes.extend(notify::routes());
    routes.extend(tenants::routes());
    routes.extend(batches::routes());
    routes.extend(ops::routes());
    routes.push(adoption::route());
    routes.extend([mount_status::route(), metrics::route()]);
    routes.extend([
        tenant_config::route(),
        admin::route(),
        rotate::route(),
        rollback::route(),
        reveal::route(),
        verify::route(),
        status::route(),
    ]);
    routes.extend(events::routes());
    routes.extend(versions::routes());
    routes.extend(reset::routes());
    routes.extend(deletion::routes());
    routes.extend(pause::routes());
    Router::new(routes)
        .with_help(HELP)
        .with_name("smtp")
        .with_version(env!("CARGO_PKG_VERSION"))
}

/// The tenant of the path.
const TENANT: Field = Field::text(
    "tenant",
    "Name of the tenant: 1 to 64 of a-z, 0-9, `_` and `-`, a letter or digit at both ends.",
)
.pattern("^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")
.required()
.example("acme");

/// Why somebody does something.
const REASON: Field = Field::text("reason", "Why this is done; kept in the event.")
    .max_bytes(512)
    .example("quarterly change");

/// Every state of a credential.
const STATES: &[&str] = &["settled", "uncertain", "drift"];

/// How well a password is known to have been live.
const PROOFS: &[&str] = &["hash", "login", "acknowledged", "imported"];

/// Why a password changed.
const ROTATION_TYPES: &[&str] = &[
    "automated",
    "manual",
    "emergency",
    "bulk",
    "rollback",
    "reveal",
    "rehome",
];

/// An event's number.
const SEQ: Field = Field::integer("seq", "The number of the event within the tenant.")
    .range(1, i64::MAX)
    .example("7");

/// An event's identifier.
const EVENT_ID: Field = Field::text("event_id", "The identifier of the event, a ULID.")
    .example("01K8Z5Y4N6D3T7Q2W9R1M0XVBC");

/// When the schedule acts.
const NEXT_ROTATION: Field = Field::instant(
    "next_rotation",
    "When the schedule changes the password next.",
)
.example("2027-02-28T02:14:00Z")
.nullable();

const STATE_AFTER: Field = Field::text(
    "state",
    "What reads say now: settled; uncertain while a login under way may still undo it; or drift.",
)
.one_of(STATES)
.example("settled");

/// A value that may be live.
const CANDIDATE: &[Field] = &[
    Field::integer("version", "Its version.").example("4"),
    Field::secret("password", "A password that may be live."),
    Field::boolean("compromised", "Whether it must not be used again.").example("false"),
];

/// Parses the path's tenant.
fn tenant(call: &Call) -> Result<TenantName, Error> {
    TenantName::parse(call.capture("tenant"))
}

/// Names the caller.
fn actor(request: &Request) -> Actor {
    Actor::caller(&request.entity_id, &request.display_name)
}

/// Begins the event of what a request did.
fn event_of(call: &Call, event: EventName, now: DateTime<Utc>) -> NewEvent {
    let mut event = NewEvent::new(event, actor(&call.request), now);
    event.request_id = call.request.id.as_str().to_owned();
    event
}

/// Returns what a write of settings names, below the name of the whole; that alone if it is removed.
/// A secret is told apart from what it was by nobody: whatever was written counts as changed.
fn named(call: &Call, whole: &str) -> Vec<String> {
    let fields = call.fields.names().map(|field| format!("{whole}.{field}"));
    let named: Vec<String> = fields.collect();
    if named.is_empty() {
        vec![whole.to_owned()]
    } else {
        named
    }
}

/// Adds a warning for each CA certificate in the request that has ended.
fn warn_of_expired_cas(
    answer: Option<Response>,
    call: &Call,
    now: DateTime<Utc>,
) -> Option<Response> {
    let pem = call.fields.text("ca_cert").set().unwrap_or_default();
    let warnings = expired_cas(pem, now).into_iter().map(|expired| {
        format!(
            "Certificate {} of ca_cert has expired on {}: what it has issued is still accepted \
             here, and hardly anywhere else. Renew it.",
            expired.block,
            expired.ended.format("%Y-%m-%d")
        )
    });
    warnings.fold(answer, |answer, warning| {
        Some(answer.unwrap_or_default().warn(warning))
    })
}

/// Returns when something that begins now and lasts `ttl` ends.
fn end_of(ttl: Duration, now: DateTime<Utc>) -> DateTime<Utc> {
    let ttl = TimeDelta::from_std(ttl).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(ttl)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Returns an optional text; empty and null count as not given.
fn optional_text(call: &Call, name: &str) -> Option<String> {
    call.fields
        .text(name)
        .set()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logical::UnknownFields;

    #[test]
    fn the_table_of_routes_has_no_defect() {
        router().check().unwrap();
    }

    /// What cannot be undone, and how it is asked for. A new route belongs here if writing the same
    /// path again does not bring back what was.
    const REFUSING: &[(&str, &str)] = &[
        ("batches", "create update"),
        ("batches/{id}/cancel", "create update"),
        ("config/keyring/rotate", "create update"),
        ("config/keyring/trim", "create update"),
        ("ops/adopt-storage", "create update"),
        ("{tenant}/admin", "create"),
        ("{tenant}/admin", "delete"),
        ("{tenant}/admin", "update patch with password last_rotated"),
        ("{tenant}/destroy", "create update"),
        ("{tenant}/release", "create update"),
        ("{tenant}/reset", "create update"),
        ("{tenant}/reveal", "create update"),
        ("{tenant}/rollback", "create update"),
        ("{tenant}/rotate", "create update"),
    ];

    #[test]
    fn acts_that_cannot_be_undone_and_nothing_else_refuse_what_they_do_not_know() {
        let router = router();
        let mut refusing: Vec<(&str, String)> = Vec::new();
        for route in router.routes() {
            for endpoint in &route.endpoints {
                let names: Vec<&str> = endpoint.operations.iter().map(|it| it.as_str()).collect();
                match endpoint.unknown_fields {
                    UnknownFields::Refused => refusing.push((route.pattern, names.join(" "))),
                    UnknownFields::RefusedWith(with) => {
                        let names = format!("{} with {}", names.join(" "), with.join(" "));
                        refusing.push((route.pattern, names));
                    }
                    UnknownFields::Warned => {}
                }
            }
        }
        refusing.sort();
        let wanted: Vec<(&str, String)> = REFUSING
            .iter()
            .map(|(pattern, names)| (*pattern, String::from(*names)))
            .collect();
        assert_eq!(refusing, wanted);
    }
}
