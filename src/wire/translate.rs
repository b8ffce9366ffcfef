//! Messages to the vocabulary of [`crate::logical`] and back; total in both directions.
//!
//! The only place where request and response JSON is parsed and written.
//!
//! Source: OpenBao `sdk/plugin/pb/translation.go`; what becomes of an answer at the client was seen
//! on OpenBao 2.7.2.

use std::time::Duration;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::logical::{
    Data, Error, Operation, READ_ONLY, Reply, Request, RequestId, Response, SpecialPaths,
};
use crate::proto::pb;

/// What an absent body looks like, in both directions. An empty text would fail in the host.
const NULL: &str = "null";

/// The kinds of error a host tells apart, as far as they are sent. From `UnsupportedOperation` on
/// it drops the text, so only what no client should read goes that way.
#[derive(Clone, Copy, Debug)]
enum ErrorType {
    Unknown = 0,
    Coded = 3,
    UnsupportedOperation = 5,
}

/// Reads a request.
///
/// The operation is looked at first and data last: `resolve-path` arrives before authentication
/// with whatever body somebody sent, so that body is not even parsed.
///
/// # Errors
///
/// [`Error::UnsupportedOperation`] for `resolve-path` and for operations this build does not know;
/// [`Error::User`] `invalid_json` for data that is not a JSON object.
pub(super) fn request(mut request: pb::Request) -> Result<Request, Error> {
    // Wiped in the end, parsed or not: it may hold a password.
    let text = Zeroizing::new(std::mem::take(&mut request.data));
    let operation = match Operation::parse(&request.operation) {
        None | Some(Operation::ResolvePath) => return Err(Error::UnsupportedOperation),
        Some(operation) => operation,
    };
    let headers = request.headers.into_iter();
    Ok(Request {
        id: RequestId::new(request.id),
        operation,
        path: request.path,
        data: data(&text)?,
        mount_point: request.mount_point,
        display_name: request.display_name,
        entity_id: request.entity_id,
        wrap_ttl: request.wrap_info.and_then(|wrap| duration(wrap.ttl)),
        remote_addr: request
            .connection
            .map(|connection| connection.remote_addr)
            .filter(|address| !address.is_empty()),
        headers: headers
            .map(|(name, values)| (name, values.header))
            .collect(),
    })
}

fn data(text: &str) -> Result<Data, Error> {
    if text.is_empty() || text == NULL {
        return Ok(Data::default());
    }
    // The parser's own message may quote the input.
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(fields) => Ok(Data::from_map(fields)),
        Err(_quoting) => Err(Error::user(
            "invalid_json",
            "The request data is not a JSON object. Send an object of named fields.",
        )),
    }
}

/// Reads nanoseconds; zero and less mean "none".
fn duration(nanoseconds: i64) -> Option<Duration> {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => None,
        Ok(nanoseconds) => Some(Duration::from_nanos(nanoseconds)),
    }
}

/// Writes nanoseconds; anything above 292 years becomes 292 years.
fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Writes the answer to a request. Neither response nor error is 404 on reads, 204 on writes.
pub(super) fn reply(reply: Reply) -> pb::HandleRequestReply {
    match reply {
        Ok(answer) => pb::HandleRequestReply {
            response: answer.map(response),
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

fn response(response: Response) -> pb::Response {
    let data = response.data.map_or_else(
        || NULL.to_owned(),
        |data| serde_json::to_string(data.as_map()).unwrap_or_else(|_never| NULL.to_owned()),
    );
    pb::Response {
        data,
        warnings: response.warnings,
        wrap_info: response.wrap_ttl.map(|ttl| pb::ResponseWrapInfo {
            ttl: nanoseconds(ttl),
            ..pb::ResponseWrapInfo::default()
        }),
        ..pb::Response::default()
    }
}

/// Writes an error.
///
/// [`Error::ReadOnly`] keeps its exact text and has no HTTP status: the host recognises the text
/// and forwards the request to the active node.
pub(super) fn error(error: &Error) -> pb::ProtoError {
    let (kind, status, text) = match error {
        Error::User { .. } => (ErrorType::Coded, 400, error.to_string()),
        Error::Status { status, .. } => (ErrorType::Coded, i64::from(*status), error.to_string()),
        Error::UnsupportedOperation => (ErrorType::UnsupportedOperation, 0, error.to_string()),
        Error::UnsupportedPath => (ErrorType::Coded, 404, error.to_string()),
        Error::ReadOnly => (ErrorType::Unknown, 0, READ_ONLY.to_owned()),
        Error::Storage(_) | Error::Internal(_) => (ErrorType::Coded, 500, error.to_string()),
    };
    pb::ProtoError {
        err_type: kind as u32,
        err_msg: text,
        err_code: status,
    }
}

/// Writes the answer to an existence check.
pub(super) fn existence(found: Result<Option<bool>, Error>) -> pb::HandleExistenceCheckReply {
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
pub(super) fn special_paths(paths: SpecialPaths) -> pb::Paths {
    pb::Paths {
        root: paths.root,
        unauthenticated: paths.unauthenticated,
        local_storage: paths.local_storage,
        seal_wrap_storage: paths.seal_wrap_storage,
        ..pb::Paths::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn incoming(operation: &str, data: &str) -> pb::Request {
        pb::Request {
            operation: operation.to_owned(),
            path: String::from("a/b"),
            data: data.to_owned(),
            ..pb::Request::default()
        }
    }

    #[test]
    fn resolve_path_is_refused_before_its_data_is_parsed() {
        let refused = request(incoming("resolve-path", "{not json")).unwrap_err();
        assert_eq!(refused, Error::UnsupportedOperation);
        assert_eq!(error(&refused).err_type, 5);
    }

    #[test]
    fn an_operation_is_matched_exactly() {
        for unknown in ["", "Read", "recover", "read "] {
            let refused = request(incoming(unknown, NULL)).unwrap_err();
            assert_eq!(refused, Error::UnsupportedOperation, "{unknown:?}");
        }
    }

    #[test]
    fn absent_data_is_no_data() {
        for absent in ["", "null", "{}"] {
            let request = request(incoming("read", absent)).unwrap();
            assert_eq!(request.data, Data::default(), "{absent:?}");
        }
    }

    #[test]
    fn data_that_is_no_object_is_refused_without_quoting_it() {
        for bad in ["{", "[1]", "\"hunter2\"", "hunter2", "{\"a\":hunter2}"] {
            let refused = request(incoming("update", bad)).unwrap_err();
            assert!(!refused.to_string().contains("hunter2"));
            let reply = reply(Err(refused));
            let data: Value = serde_json::from_str(&reply.response.unwrap().data).unwrap();
            assert_eq!(data["data"]["code"], "invalid_json");
            assert!(data["error"].as_str().unwrap().starts_with("invalid_json:"));
            assert_eq!(data.as_object().unwrap().len(), 2);
        }
    }

    #[test]
    fn what_the_host_knows_of_the_caller_arrives() {
        let translated = request(pb::Request {
            id: String::from("id-1"),
            mount_point: String::from("smtp/"),
            display_name: String::from("userpass-alice"),
            entity_id: String::from("entity-1"),
            wrap_info: Some(pb::RequestWrapInfo {
                ttl: 60_000_000_000,
                ..pb::RequestWrapInfo::default()
            }),
            connection: Some(pb::Connection {
                remote_addr: String::from("192.0.2.1"),
                ..pb::Connection::default()
            }),
            ..incoming("read", NULL)
        })
        .unwrap();
        assert_eq!(translated.id.as_str(), "id-1");
        assert_eq!(translated.mount_point, "smtp/");
        assert_eq!(translated.display_name, "userpass-alice");
        assert_eq!(translated.entity_id, "entity-1");
        assert_eq!(translated.wrap_ttl, Some(Duration::from_secs(60)));
        assert_eq!(translated.remote_addr.as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn nothing_is_neither_response_nor_error() {
        let reply = reply(Ok(None));
        assert!(reply.response.is_none() && reply.err.is_none());
    }

    #[test]
    fn an_answer_without_data_says_null() {
        let reply = reply(Ok(Some(Response {
            warnings: vec![String::from("careful")],
            wrap_ttl: Some(Duration::from_secs(900)),
            ..Response::default()
        })));
        let response = reply.response.unwrap();
        assert_eq!(response.data, "null");
        assert_eq!(response.warnings, ["careful"]);
        assert_eq!(response.wrap_info.unwrap().ttl, 900_000_000_000);
    }

    #[test]
    fn each_error_is_of_the_kind_the_host_knows() {
        let table = [
            (Error::status(409, "busy", "Wait."), 3, 409, "busy: Wait."),
            (Error::UnsupportedOperation, 5, 0, "unsupported operation"),
            (Error::ReadOnly, 0, 0, READ_ONLY),
            (Error::internal("bug"), 3, 500, "internal: bug"),
            (Error::user("bad", "No."), 3, 400, "bad: No."),
        ];
        for (given, kind, code, text) in table {
            let error = error(&given);
            assert_eq!((error.err_type, error.err_code), (kind, code), "{given}");
            assert_eq!(error.err_msg, text);
        }
    }

    #[test]
    fn an_unchecked_existence_is_not_an_absent_one() {
        assert!(!existence(Ok(None)).check_found);
        let absent = existence(Ok(Some(false)));
        assert!(absent.check_found && !absent.exists);
        let failed = existence(Err(Error::ReadOnly));
        assert!(!failed.check_found && failed.err.is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_translated_or_refused(operation in ".{0,12}", text in ".{0,64}") {
            let _ = request(incoming(&operation, &text));
            let _ = request(incoming("update", &text));
        }

        #[test]
        fn durations_survive(nanos in 1..i64::MAX) {
            prop_assert_eq!(nanoseconds(duration(nanos).unwrap()), nanos);
        }
    }
}
