//! Answers and errors, to the host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{json, lease, time};
use crate::logical::{Error, READ_ONLY, RawResponse, Reply, Response, Special, SpecialPaths};
use crate::proto::pb;

/// The kinds of error a host tells apart, as far as they are sent. From `UnsupportedOperation` on
/// it drops the text, so only what no client should read goes that way.
#[derive(Clone, Copy, Debug)]
enum ErrorType {
    Unknown = 0,
    Coded = 3,
    UnsupportedOperation = 5,
}

/// Writes the answer to a request. Neither response nor error is 404 on reads, 204 on writes.
/// `now` is the issue time of a new lease.
pub fn reply(reply: Reply, now: DateTime<Utc>) -> pb::HandleRequestReply {
    match reply {
        Ok(answer) => pb::HandleRequestReply {
            response: answer.map(|answer| response(answer, now)),
            err: None,
        },
        // The only form whose text and code reach the client of a 400 unadorned.
        Err(error @ Error::User { code, .. }) => pb::HandleRequestReply {
            response: Some(pb::Response {
                data: json!({"error": error.to_string(), "data": {"code": code}}).to_string(),
                ..pb::Response::default()
            }),
            err: None,
        },
        Err(other) => pb::HandleRequestReply {
            response: None,
            err: Some(error(&other)),
        },
    }
}

fn response(response: Response, now: DateTime<Utc>) -> pb::Response {
    let Response {
        data,
        warnings,
        wrap,
        headers,
        special,
    } = response;
    let (secret, data) = match special {
        Some(Special::Raw(answer)) => (None, raw(&answer)),
        other => {
            let text = data.map_or_else(|| json::NULL.to_owned(), |data| json::written(&data));
            let lease = match &other {
                Some(Special::Lease(lease)) => Some(lease::secret(lease, now)),
                Some(Special::Raw(_)) | None => None,
            };
            (lease, text)
        }
    };
    pb::Response {
        secret,
        data,
        warnings,
        wrap_info: wrap.map(|wrap| pb::ResponseWrapInfo {
            ttl: time::nanoseconds(Some(wrap.ttl())),
            // The host sets its own. OpenBao 2.7.2 takes an absent one; by their sources, older
            // servers fail on it.
            creation_time: Some(time::timestamp(None, now)),
            ..pb::ResponseWrapInfo::default()
        }),
        headers: headers
            .into_iter()
            .map(|(name, header)| (name, pb::Header { header }))
            .collect(),
        ..pb::Response::default()
    }
}

/// Writes a body that is not JSON, in the fields by which the host knows one.
///
/// The body is base64 even if it is text: the host decodes whatever happens to decode.
///
/// Source: OpenBao `sdk/logical/response.go`; seen on 2.7.2.
fn raw(answer: &RawResponse) -> String {
    let mut fields = Map::from_iter([
        (
            String::from("http_status_code"),
            Value::from(status(answer.status, 200)),
        ),
        (
            String::from("http_content_type"),
            Value::from(answer.content_type.as_str()),
        ),
        (
            String::from("http_raw_body"),
            Value::from(STANDARD.encode(&answer.body)),
        ),
    ]);
    for (name, value) in [
        ("http_raw_cache_control", &answer.cache_control),
        ("http_raw_pragma", &answer.pragma),
        ("http_www_authenticate", &answer.www_authenticate),
    ] {
        if let Some(value) = value {
            fields.insert(name.to_owned(), Value::from(value.as_str()));
        }
    }
    Value::Object(fields).to_string()
}

/// Keeps an HTTP status that ends a request and is at least `lowest`; 500 otherwise. The host's
/// HTTP library panics on some numbers.
fn status(status: u16, lowest: u16) -> u16 {
    if (lowest..=599).contains(&status) {
        status
    } else {
        500
    }
}

/// Writes an error.
///
/// [`Error::ReadOnly`] keeps its exact text and has no HTTP status: the host recognises the text
/// and forwards the request to the active node.
pub fn error(error: &Error) -> pb::ProtoError {
    let (kind, code, text) = match error {
        Error::User { .. } => (ErrorType::Coded, 400, error.to_string()),
        Error::Status { status: code, .. } => {
            let code = i64::from(status(*code, 400));
            (ErrorType::Coded, code, error.to_string())
        }
        Error::UnsupportedOperation => (ErrorType::UnsupportedOperation, 0, error.to_string()),
        Error::UnsupportedPath => (ErrorType::Coded, 404, error.to_string()),
        Error::ReadOnly => (ErrorType::Unknown, 0, READ_ONLY.to_owned()),
        Error::Storage(_) | Error::Internal(_) => (ErrorType::Coded, 500, error.to_string()),
    };
    pb::ProtoError {
        err_type: kind as u32,
        err_msg: text,
        err_code: code,
    }
}

/// Writes the answer to an existence check.
pub fn existence(found: Result<Option<bool>, Error>) -> pb::HandleExistenceCheckReply {
    match found {
        Ok(found) => pb::HandleExistenceCheckReply {
            check_found: found.is_some(),
            exists: found.unwrap_or_default(),
            err: None,
        },
        Err(failed) => pb::HandleExistenceCheckReply {
            err: Some(error(&failed)),
            ..pb::HandleExistenceCheckReply::default()
        },
    }
}

/// Writes the special paths.
pub fn special_paths(paths: SpecialPaths) -> pb::Paths {
    pb::Paths {
        root: paths.root,
        unauthenticated: paths.unauthenticated,
        local_storage: paths.local_storage,
        seal_wrap_storage: paths.seal_wrap_storage,
        ..pb::Paths::default()
    }
}
