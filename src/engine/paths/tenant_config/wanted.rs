//! What a write of the server asks for, checked before anything is touched.

use std::time::Duration;

use crate::crypto::Sensitive;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::Server;
use crate::logical::{Call, Patch};
use crate::provider::{
    EndpointUrl, NetworkPolicy, SmtpAddress, check_token, parse_ca, parse_server_name,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a write asks for, checked; the token is not sealed yet.
pub(super) struct Wanted {
    pub(super) server: Server,
    pub(super) token: Option<Sensitive<String>>,
    pub(super) endpoint_changed: bool,
}

/// Applies the request to the stored server and checks every field.
pub(super) fn wanted(
    locked: &LockedTenant,
    call: &Call,
    policy: &NetworkPolicy,
) -> Result<Wanted, Error> {
    let stored = locked.record.server.as_ref();
    let token = call
        .fields
        .secret("api_token")
        .set()
        .filter(|token| !token.expose().is_empty());
    if let Some(token) = &token {
        check_token(token)
            .map_err(|error| Error::invalid("invalid_field", format!("`api_token`: {error}.")))?;
    }
    let endpoint = EndpointFields::parse(call, stored, policy)?;
    let endpoint_changed = stored.is_none_or(|stored| endpoint.differs_from(stored));
    if endpoint_changed && token.is_none() {
        return Err(token_required());
    }
    let mut timeout = stored.map_or(DEFAULT_TIMEOUT.as_secs(), |kept| {
        kept.request_timeout_seconds
    });
    call.fields
        .duration("request_timeout")
        .map(|span| span.as_secs())
        .apply(&mut timeout, DEFAULT_TIMEOUT.as_secs());
    if !(1..=60).contains(&timeout) {
        return Err(Error::invalid(
            "invalid_field",
            "`request_timeout` must be from 1s to 60s.",
        ));
    }
    let mut verify_smtp = stored.is_some_and(|server| server.verify_smtp);
    call.fields
        .boolean("verify_smtp")
        .apply(&mut verify_smtp, false);
    // Stands in until the endpoint is in the record: only then can the token be bound to it.
    let api_token = match stored {
        Some(server) => server.api_token.clone(),
        None => locked.seal_token(token.as_ref().ok_or_else(token_required)?)?,
    };
    Ok(Wanted {
        server: Server {
            mailu_url: endpoint.mailu_url,
            ca_cert: endpoint.ca_cert,
            tls_server_name: endpoint.tls_server_name,
            smtp_address: endpoint.smtp_address,
            api_token,
            request_timeout_seconds: timeout,
            verify_smtp,
            written_at: stored.map_or(locked.record.created_at, |server| server.written_at),
            token_written_at: stored.and_then(|server| server.token_written_at),
        },
        token,
        endpoint_changed,
    })
}

/// The fields that say where secrets may be sent.
struct EndpointFields {
    mailu_url: String,
    ca_cert: Option<String>,
    tls_server_name: Option<String>,
    smtp_address: Option<String>,
}

impl EndpointFields {
    /// Takes what the request names and the rest from the stored server; checks all of it.
    fn parse(call: &Call, stored: Option<&Server>, policy: &NetworkPolicy) -> Result<Self, Error> {
        let text = |name: &str, stored: Option<&String>| match call.fields.text(name) {
            Patch::Absent => stored.cloned(),
            Patch::Null => None,
            Patch::Set(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        };
        let invalid = |field: &str, why: &dyn std::fmt::Display| {
            Error::invalid("invalid_server", format!("`{field}`: {why}."))
        };
        let url = text("mailu_url", stored.map(|server| &server.mailu_url)).ok_or_else(|| {
            Error::invalid(
                "missing_field",
                "`mailu_url` is required, for example https://mail.acme.example.",
            )
        })?;
        let url = EndpointUrl::parse(&url, policy).map_err(|error| invalid("mailu_url", &error))?;
        let ca_cert = text("ca_cert", stored.and_then(|server| server.ca_cert.as_ref()));
        if let Some(pem) = &ca_cert {
            parse_ca(pem).map_err(|error| invalid("ca_cert", &error))?;
        }
        let server_name = text(
            "tls_server_name",
            stored.and_then(|server| server.tls_server_name.as_ref()),
        );
        let server_name = server_name.map(|name| parse_server_name(&name));
        let server_name = server_name
            .transpose()
            .map_err(|error| invalid("tls_server_name", &error))?;
        let smtp = text(
            "smtp_address",
            stored.and_then(|server| server.smtp_address.as_ref()),
        );
        let smtp = smtp.map(|address| SmtpAddress::parse(&address));
        let smtp = smtp
            .transpose()
            .map_err(|error| invalid("smtp_address", &error))?;
        if let Some(address) = &smtp {
            policy
                .check_literal(address.host(), address.port())
                .map_err(|error| invalid("smtp_address", &error))?;
        }
        Ok(Self {
            mailu_url: url.as_str().to_owned(),
            ca_cert,
            tls_server_name: server_name,
            smtp_address: smtp.map(|address| address.to_string()),
        })
    }

    fn differs_from(&self, stored: &Server) -> bool {
        self.mailu_url != stored.mailu_url
            || self.ca_cert != stored.ca_cert
            || self.tls_server_name != stored.tls_server_name
            || self.smtp_address != stored.smtp_address
    }
}

pub(super) fn token_required() -> Error {
    Error::invalid(
        "token_required",
        "a new or changed endpoint (mailu_url, ca_cert, tls_server_name, smtp_address) needs \
         `api_token` in the same request: a stored token is never sent to an endpoint it was not \
         given for.",
    )
}
