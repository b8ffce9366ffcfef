//! What a write of a channel asks for, checked before anything is touched.

use crate::audit::EventName;
use crate::crypto::Sensitive;
use crate::engine::channels::{
    self, Channel, EmailTarget, Secrets, Secured, SlackTarget, Target, WebhookTarget,
};
use crate::engine::error::Error;
use crate::logical::{Call, Patch};
use crate::network::{NetworkPolicy, parse_ca, parse_hello_name, parse_host, parse_server_name};
use crate::provider::EmailAddress;

/// Most addresses, and most domains, of a channel.
const MOST: usize = 20;
/// The fields that say where a channel of each kind leads, and which others it has.
const EMAIL: &[&str] = &[
    "host",
    "port",
    "tls",
    "tls_server_name",
    "ca_cert",
    "ehlo_name",
    "username",
    "password",
    "from",
    "to",
    "allowed_domains",
];
const SLACK: &[&str] = &["url", "ca_cert"];
const WEBHOOK: &[&str] = &["url", "hmac_key", "ca_cert"];

/// What a write asks for, checked; the target's secrets are not sealed yet.
pub(super) struct Wanted {
    /// A sealed URL in it is the stored one, which stays.
    pub(super) target: Target,
    /// The secrets that the request carries.
    pub(super) secrets: Secrets,
    pub(super) events: Vec<EventName>,
}

/// Applies the request to the stored channel and checks every field.
pub(super) fn wanted(
    call: &Call,
    stored: Option<&Channel>,
    policy: &NetworkPolicy,
) -> Result<Wanted, Error> {
    let kind = match (call.fields.text("type").set(), stored) {
        (Some(kind @ ("email" | "slack" | "webhook")), _) => kind,
        (Some(_), _) => {
            return Err(Error::invalid(
                "invalid_field",
                "`type` must be email, slack or webhook.",
            ));
        }
        (None, Some(stored)) => super::type_of(&stored.target),
        (None, None) => {
            return Err(Error::invalid(
                "missing_field",
                "`type` is required: email, slack or webhook.",
            ));
        }
    };
    // Nothing of a channel of another kind is kept.
    let kept = stored.filter(|stored| super::type_of(&stored.target) == kind);
    let kept = kept.map(|kept| &kept.target);
    let (fields, secret) = match kind {
        "email" => (EMAIL, "password"),
        "slack" => (SLACK, "url"),
        _ => (WEBHOOK, "hmac_key"),
    };
    check_fields(call, kind, fields)?;
    let given = call.fields.secret(secret);
    let removed = given.is_null();
    let given = given.set().filter(|secret| !secret.expose().is_empty());
    let mut url = None;
    let target = match kind {
        "email" => email(call, kept, policy)?,
        "slack" => slack(call, kept, given.as_ref(), policy)?,
        _ => {
            let (target, given) = webhook(call, kept, policy)?;
            url = given;
            target
        }
    };
    check_secret(secret, given.as_ref())?;
    if given.is_some() && !target.needs_secret() {
        return Err(missing("username", "vault@ops.example"));
    }
    let moved = kept.is_none_or(|kept| kept.endpoint() != target.endpoint());
    if moved && url.is_none() && target.secret_url().is_some() {
        return Err(secret_required("url"));
    }
    // Whether a secret URL is still the same is not looked up.
    let changed = moved || url.is_some();
    if target.needs_secret() && given.is_none() && (changed || removed) {
        return Err(secret_required(secret));
    }
    Ok(Wanted {
        target,
        secrets: Secrets { own: given, url },
        events: events(call, stored)?,
    })
}

fn secret_required(secret: &str) -> Error {
    Error::invalid(
        "secret_required",
        format!(
            "a new or changed endpoint needs `{secret}` in the same request: a stored secret is \
             never sent to an endpoint it was not given for."
        ),
    )
}

fn check_fields(call: &Call, kind: &str, fields: &[&str]) -> Result<(), Error> {
    let every = EMAIL.iter().chain(WEBHOOK);
    for field in every.filter(|field| !fields.contains(field)) {
        let given = match *field {
            "port" => !call.fields.integer(field).is_absent(),
            "to" | "allowed_domains" => !call.fields.texts(field).is_absent(),
            "password" | "url" | "hmac_key" => !call.fields.secret(field).is_absent(),
            _ => !call.fields.text(field).is_absent(),
        };
        if given {
            return Err(Error::invalid(
                "invalid_field",
                format!("a channel of type {kind} has no `{field}`. Leave it out."),
            ));
        }
    }
    Ok(())
}

/// What can be sent to a mail server or into a signature without being changed on the way.
fn check_secret(field: &str, secret: Option<&Sensitive<String>>) -> Result<(), Error> {
    let Some(secret) = secret else { return Ok(()) };
    let secret = secret.expose();
    if secret.chars().any(char::is_control) {
        return Err(Error::invalid(
            "invalid_field",
            format!("`{field}` must have no control characters, such as a line's end."),
        ));
    }
    let printable = secret.bytes().all(|byte| byte.is_ascii_graphic());
    if field == "hmac_key" && !(secret.len() >= 16 && printable) {
        return Err(Error::invalid(
            "invalid_field",
            "`hmac_key` must have at least 16 printable ASCII characters without spaces, for \
             example 64 hex digits.",
        ));
    }
    Ok(())
}

/// Takes what the request names and the rest from what is stored; empty is nothing.
fn text(call: &Call, name: &str, kept: Option<&String>) -> Option<String> {
    match call.fields.text(name) {
        Patch::Absent => kept.cloned(),
        Patch::Null => None,
        Patch::Set(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
    }
}

fn invalid(field: &str, why: &dyn std::fmt::Display) -> Error {
    Error::invalid("invalid_channel", format!("`{field}`: {why}."))
}

fn missing(field: &str, example: &str) -> Error {
    Error::invalid(
        "missing_field",
        format!("`{field}` is required, for example {example}."),
    )
}

fn ca_cert(call: &Call, kept: Option<&String>) -> Result<Option<String>, Error> {
    let pem = text(call, "ca_cert", kept);
    if let Some(pem) = &pem {
        parse_ca(pem).map_err(|error| invalid("ca_cert", &error))?;
    }
    Ok(pem)
}

fn email(call: &Call, kept: Option<&Target>, policy: &NetworkPolicy) -> Result<Target, Error> {
    let kept = match kept {
        Some(Target::Email(kept)) => Some(kept),
        _ => None,
    };
    let host = text(call, "host", kept.map(|it| &it.host))
        .ok_or_else(|| missing("host", "smtp.ops.example"))?;
    let mut tls = kept.map_or(Secured::Starttls, |it| it.tls);
    call.fields
        .text("tls")
        .try_map(tls_of)?
        .apply(&mut tls, Secured::Starttls);
    let usual = if tls == Secured::Tls { 465 } else { 587 };
    let port = match call.fields.integer("port") {
        Patch::Set(port) => u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| invalid("port", &"must be from 1 to 65535"))?,
        Patch::Absent => kept.map_or(usual, |it| it.port),
        Patch::Null => usual,
    };
    if port == 0 {
        return Err(invalid("port", &"must be from 1 to 65535"));
    }
    let host = parse_host(&host).map_err(|error| invalid("host", &error))?;
    policy
        .check_literal(&host, port)
        .map_err(|error| invalid("host", &error))?;
    let server_name = text(
        call,
        "tls_server_name",
        kept.and_then(|it| it.tls_server_name.as_ref()),
    );
    let server_name = server_name.map(|name| parse_server_name(&name));
    let server_name = server_name
        .transpose()
        .map_err(|error| invalid("tls_server_name", &error))?;
    let from = text(call, "from", kept.map(|it| &it.from))
        .ok_or_else(|| missing("from", "vault@ops.example"))?;
    let from = EmailAddress::parse(&from).map_err(|error| invalid("from", &error))?;
    let mut to = kept.map_or_else(Vec::new, |it| it.to.clone());
    call.fields.texts("to").apply(&mut to, Vec::new());
    let mut domains = kept.map_or_else(Vec::new, |it| it.allowed_domains.clone());
    call.fields
        .texts("allowed_domains")
        .apply(&mut domains, Vec::new());
    Ok(Target::Email(EmailTarget {
        host,
        port,
        tls,
        tls_server_name: server_name,
        ca_cert: ca_cert(call, kept.and_then(|it| it.ca_cert.as_ref()))?,
        ehlo_name: ehlo_name(call, kept)?,
        username: text(call, "username", kept.and_then(|it| it.username.as_ref())),
        password: None,
        from: from.as_str().to_owned(),
        to: checked_addresses(&to)?,
        allowed_domains: checked_domains(&domains)?,
    }))
}

fn ehlo_name(call: &Call, kept: Option<&EmailTarget>) -> Result<Option<String>, Error> {
    let name = text(call, "ehlo_name", kept.and_then(|it| it.ehlo_name.as_ref()));
    let name = name.map(|name| parse_hello_name(&name));
    name.transpose()
        .map_err(|error| invalid("ehlo_name", &error))
}

fn tls_of(text: &str) -> Result<Secured, Error> {
    [Secured::Starttls, Secured::Tls, Secured::None]
        .into_iter()
        .find(|known| known.as_str() == text)
        .ok_or_else(|| invalid("tls", &"must be starttls, tls or none"))
}

fn checked_addresses(to: &[String]) -> Result<Vec<String>, Error> {
    if to.is_empty() {
        return Err(missing("to", "oncall@ops.example"));
    }
    if to.len() > MOST {
        return Err(invalid("to", &"at most 20 addresses"));
    }
    let checked = to.iter().map(|address| {
        EmailAddress::parse(address)
            .map(|address| address.as_str().to_owned())
            .map_err(|error| invalid("to", &error))
    });
    checked.collect()
}

fn checked_domains(domains: &[String]) -> Result<Vec<String>, Error> {
    if domains.len() > MOST {
        return Err(invalid("allowed_domains", &"at most 20 domains"));
    }
    let checked = domains.iter().map(|domain| {
        EmailAddress::parse(&format!("a@{domain}"))
            .map(|address| address.domain().to_ascii_lowercase())
            .map_err(|_of_an_address| {
                invalid(
                    "allowed_domains",
                    &"must be mail domains, such as acme.example, without @ and *",
                )
            })
    });
    checked.collect()
}

fn slack(
    call: &Call,
    kept: Option<&Target>,
    given: Option<&Sensitive<String>>,
    policy: &NetworkPolicy,
) -> Result<Target, Error> {
    let kept = match kept {
        Some(Target::Slack(kept)) => Some(kept),
        _ => None,
    };
    let origin = match (given, kept) {
        (Some(url), _) => channels::web_url("url", url.expose(), policy)?.origin(),
        (None, Some(kept)) => kept.origin.clone(),
        (None, None) => return Err(missing("url", "https://hooks.slack.com/services/…")),
    };
    Ok(Target::Slack(SlackTarget {
        origin,
        url: None,
        ca_cert: ca_cert(call, kept.and_then(|it| it.ca_cert.as_ref()))?,
    }))
}

/// Returns the target, and the URL if it is given and a secret.
fn webhook(
    call: &Call,
    kept: Option<&Target>,
    policy: &NetworkPolicy,
) -> Result<(Target, Option<Sensitive<String>>), Error> {
    let kept = match kept {
        Some(Target::Webhook(kept)) => Some(kept),
        _ => None,
    };
    let given = call.fields.secret("url").set();
    let given = given.map(|url| Sensitive::new(url.expose().trim().to_owned()));
    let given = given.filter(|url| !url.expose().is_empty());
    let ca_cert = ca_cert(call, kept.and_then(|it| it.ca_cert.as_ref()))?;
    let (url, secret_url, given) = match (given, kept) {
        (Some(given), _) => {
            let url = channels::web_url("url", given.expose(), policy)?;
            if url.is_secret() {
                (url.origin(), None, Some(url.expose().clone()))
            } else {
                (url.expose().expose().clone(), None, None)
            }
        }
        (None, Some(kept)) => {
            channels::web_url("url", &kept.url, policy)?;
            (kept.url.clone(), kept.secret_url.clone(), None)
        }
        (None, None) => return Err(missing("url", "https://hooks.ops.example/smtp")),
    };
    let target = Target::Webhook(WebhookTarget {
        url,
        secret_url,
        hmac_key: None,
        ca_cert,
    });
    Ok((target, given))
}

fn events(call: &Call, stored: Option<&Channel>) -> Result<Vec<EventName>, Error> {
    let names = match call.fields.texts("events") {
        Patch::Absent => return Ok(stored.map_or_else(Vec::new, |it| it.events.clone())),
        Patch::Null => Vec::new(),
        Patch::Set(names) => names,
    };
    let mut events = Vec::new();
    for name in names {
        let event = EventName::parse(name.trim()).ok_or_else(|| {
            invalid(
                "events",
                &"an unknown name; they are written as in <tenant>/events, for example \
                  smtp_credentials_rotation_notice",
            )
        })?;
        if !events.contains(&event) {
            events.push(event);
        }
    }
    Ok(events)
}
