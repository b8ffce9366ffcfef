//! What a write of `config/audit` asks for, checked before anything is touched.

use std::fmt;

use crate::crypto::Sensitive;
use crate::engine::audit_access::{AuditAccess, Endpoint, LoginAs};
use crate::engine::error::Error;
use crate::host_api::Address;
use crate::logical::{Call, Patch};
use crate::network::{parse_ca, parse_server_name};

const AUTH_PATH: &str = "auth/approle";

/// What a write asks for, checked; the secret is not sealed yet.
pub(super) enum Wanted {
    /// Nothing is called.
    External,
    /// The host's own API is called.
    Loopback {
        endpoint: Endpoint,
        /// The secret, if the request carries it; else the stored one may be used.
        secret: Option<Sensitive<String>>,
    },
}

/// Applies the request to what is stored and checks every field.
pub(super) fn wanted(call: &Call, stored: Option<&AuditAccess>) -> Result<Wanted, Error> {
    let mode = match (call.fields.text("mode"), stored) {
        (Patch::Set(mode), _) => mode.trim(),
        (Patch::Absent, Some(stored)) => stored.mode().as_str(),
        (Patch::Absent, None) | (Patch::Null, _) => "loopback",
    };
    match mode {
        "loopback" => {}
        "external" => return external(call),
        _ => return Err(invalid("mode", &"must be loopback or external")),
    }
    let kept = stored.and_then(|stored| stored.loopback());
    let kept = kept.map(|loopback| &loopback.endpoint);
    let (login, secret) = login(call, kept.map(|kept| &kept.login))?;
    let endpoint = Endpoint {
        address: address(call, kept)?,
        ca_cert: ca_cert(call, kept)?,
        tls_server_name: tls_server_name(call, kept)?,
        login,
    };
    check_secret(&endpoint, secret.as_ref())?;
    let name = endpoint.login.secret_name();
    let removed = call.fields.secret(name).is_null();
    if secret.is_none() && (removed || kept != Some(&endpoint)) {
        return Err(Error::invalid(
            "secret_required",
            format!(
                "a new or changed address, certificate or role needs `{name}` in the same \
                 request: a stored secret is never sent where it was not given for."
            ),
        ));
    }
    Ok(Wanted::Loopback { endpoint, secret })
}

/// Nothing else can be meant by a collector outside.
fn external(call: &Call) -> Result<Wanted, Error> {
    let texts = [
        "address",
        "ca_cert",
        "tls_server_name",
        "auth_path",
        "role_id",
    ];
    let text = texts
        .into_iter()
        .find(|name| text(call, name, None).is_some());
    let secrets = ["secret_id", "token"].into_iter();
    let secret = || secrets.clone().find(|name| secret(call, name).is_some());
    match text.or_else(secret) {
        None => Ok(Wanted::External),
        Some(name) => Err(invalid(
            name,
            &"goes with mode=loopback only: in mode=external the engine calls nobody. Write \
              mode=loopback, or leave the field out",
        )),
    }
}

/// Takes what the request names and the rest from what is stored; empty is nothing.
fn text(call: &Call, name: &str, kept: Option<&String>) -> Option<String> {
    match call.fields.text(name) {
        Patch::Absent => kept.cloned(),
        Patch::Null => None,
        Patch::Set(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
    }
}

fn secret(call: &Call, name: &str) -> Option<Sensitive<String>> {
    let given = call.fields.secret(name).set();
    given.filter(|secret| !secret.expose().is_empty())
}

fn address(call: &Call, kept: Option<&Endpoint>) -> Result<String, Error> {
    let given = text(call, "address", kept.map(|it| &it.address));
    let given = given
        .ok_or_else(|| missing("`address` is required, for example https://127.0.0.1:8200."))?;
    let address = Address::parse(&given).map_err(|error| invalid("address", &error))?;
    Ok(address.as_str().to_owned())
}

fn ca_cert(call: &Call, kept: Option<&Endpoint>) -> Result<Option<String>, Error> {
    let pem = text(call, "ca_cert", kept.and_then(|it| it.ca_cert.as_ref()));
    if let Some(pem) = &pem {
        parse_ca(pem).map_err(|error| invalid("ca_cert", &error))?;
    }
    Ok(pem)
}

fn tls_server_name(call: &Call, kept: Option<&Endpoint>) -> Result<Option<String>, Error> {
    let kept = kept.and_then(|it| it.tls_server_name.as_ref());
    let name = text(call, "tls_server_name", kept);
    let name = name.map(|name| parse_server_name(&name));
    name.transpose()
        .map_err(|error| invalid("tls_server_name", &error))
}

/// Decides for one of the two logins.
fn login(
    call: &Call,
    kept: Option<&LoginAs>,
) -> Result<(LoginAs, Option<Sensitive<String>>), Error> {
    let (secret_id, token) = (secret(call, "secret_id"), secret(call, "token"));
    let names_role =
        text(call, "role_id", None).is_some() || text(call, "auth_path", None).is_some();
    let kept_role = match kept {
        Some(LoginAs::AppRole { auth_path, role_id }) => Some((auth_path, role_id)),
        Some(LoginAs::Token) | None => None,
    };
    let keeps_token = kept == Some(&LoginAs::Token) && !call.fields.secret("token").is_null();
    match token {
        Some(_) if secret_id.is_some() || names_role => {
            return Err(invalid(
                "token",
                &"takes the place of auth_path, role_id and secret_id. Give one login only",
            ));
        }
        Some(token) => return Ok((LoginAs::Token, Some(token))),
        None if keeps_token && secret_id.is_none() && !names_role => {
            return Ok((LoginAs::Token, None));
        }
        None => {}
    }
    let role_id = text(call, "role_id", kept_role.map(|(_, role_id)| role_id));
    let role_id = role_id.ok_or_else(|| {
        missing(
            "a login is required: `role_id` with `secret_id` of an AppRole, or a periodic `token`.",
        )
    })?;
    if !role_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "role_id",
            &"must be printable ASCII without spaces",
        ));
    }
    let auth_path = text(call, "auth_path", kept_role.map(|(auth_path, _)| auth_path));
    let auth_path = auth_path.unwrap_or_else(|| AUTH_PATH.to_owned());
    let auth_path = checked_auth_path(&auth_path)?;
    Ok((LoginAs::AppRole { auth_path, role_id }, secret_id))
}

/// A path below `/v1/`, of which the last `auth` begins the mount's own.
fn checked_auth_path(text: &str) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let path = text.strip_suffix('/').unwrap_or(text);
    let mut segments = path.split('/');
    let plain = |segment: &str| !segment.is_empty() && segment.bytes().all(plain);
    let below_auth = path.starts_with("auth/") || path.contains("/auth/");
    if segments.all(plain) && below_auth {
        Ok(path.to_owned())
    } else {
        Err(invalid(
            "auth_path",
            &"must be the path of an auth method, such as auth/approle or team1/auth/approle",
        ))
    }
}

/// What can stand in a header and in a body without being changed on the way.
fn check_secret(endpoint: &Endpoint, secret: Option<&Sensitive<String>>) -> Result<(), Error> {
    let printable =
        |secret: &Sensitive<String>| secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if secret.is_none_or(printable) {
        return Ok(());
    }
    Err(invalid(
        endpoint.login.secret_name(),
        &"must be printable ASCII without spaces and without a line's end",
    ))
}

fn invalid(field: &str, why: &dyn fmt::Display) -> Error {
    Error::invalid("invalid_audit_config", format!("`{field}`: {why}."))
}

fn missing(what: &str) -> Error {
    Error::invalid("invalid_audit_config", what)
}
