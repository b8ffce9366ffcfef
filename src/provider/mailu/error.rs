//! What an HTTP answer of Mailu means: the status table.
//!
//! A refusal ends a change and is told to people, so only a status **and** body shape that Mailu is
//! known to give for "not done" counts as one; everything else is unknown. What a sent password came
//! to is never concluded from it: a front words answers as well.
//!
//! Source: Mailu 2.0.43, 2024.06.57 and the master of 2026-07-26, each seen answering.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};

use crate::provider::{Refusal, Trouble};

/// What was asked, as far as the meaning of an answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Something about an account that must exist.
    OnAccount,
    /// The deletion of an app token, which may be gone.
    OnAppToken,
    /// The creation of an account, whose domain must exist.
    Creation,
}

/// What an answer means, before its content is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// 200 with body `code` 200: a change was done.
    Done,
    /// 200 with anything else: content, to be read by the caller.
    Content,
    /// Definitely not done.
    Refused(Refusal),
    /// No definite answer.
    Unknown(Trouble),
}

/// The members that Mailu's three JSON shapes have in common. Texts are checked to be texts and
/// not kept: validation messages echo the password.
#[derive(serde::Deserialize)]
struct Envelope {
    code: Option<u16>,
    message: Option<Text>,
}

struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;
        impl Visitor<'_> for AnyText {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E>(self, _text: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(AnyText)
    }
}

/// Reports whether the meaning of a status depends on the body; otherwise it need not be read.
pub(super) const fn depends_on_body(status: u16) -> bool {
    matches!(status, 200 | 400 | 404 | 405 | 409 | 415)
}

/// Decides what an answer means.
pub(super) fn classify(
    operation: Operation,
    status: u16,
    content_type: Option<&str>,
    body: &[u8],
) -> Meaning {
    let media = content_type
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase())
        .unwrap_or_default();
    let envelope = if media == "application/json" {
        serde_json::from_slice::<Envelope>(body).ok()
    } else {
        None
    };
    match status {
        200 => match envelope.and_then(|envelope| envelope.code) {
            Some(200) => Meaning::Done,
            // Seen for one call only, which is not made here: a look at an invalid domain. From
            // any other it may as well be a proxy's or a later Mailu's, and says nothing.
            Some(_) => Meaning::Unknown(Trouble::Unintelligible),
            None if media == "application/json" => Meaning::Content,
            None => Meaning::Unknown(Trouble::Unintelligible),
        },
        404 if media == "text/html" => Meaning::Refused(Refusal::NoApi),
        400 | 404 | 405 | 409 | 415 => match envelope {
            Some(Envelope {
                code,
                message: Some(Text),
            }) => refusal(operation, status, code),
            _ => Meaning::Unknown(Trouble::Unintelligible),
        },
        other => by_status(other),
    }
}

/// Decides by a status that needs no body.
fn by_status(status: u16) -> Meaning {
    match status {
        300..=399 => Meaning::Refused(Refusal::Redirect),
        401 | 403 => Meaning::Refused(Refusal::Token),
        429 => Meaning::Refused(Refusal::RateLimited),
        500..=599 => Meaning::Unknown(Trouble::ServerError),
        _ => Meaning::Unknown(Trouble::Unintelligible),
    }
}

/// Decides by a status with Mailu's JSON shape. 404 and 409 come from the application and carry
/// their own number; 400, 405 and 415 may come from the framework, which gives none.
fn refusal(operation: Operation, status: u16, code: Option<u16>) -> Meaning {
    if code.is_some_and(|code| code != status) {
        return Meaning::Unknown(Trouble::Unintelligible);
    }
    match (status, operation) {
        (404, _) | (409, _) if code.is_none() => Meaning::Unknown(Trouble::Unintelligible),
        (404, Operation::OnAccount) => Meaning::Refused(Refusal::NoSuchAccount),
        (404, Operation::OnAppToken) => Meaning::Refused(Refusal::NoSuchAppToken),
        (404, Operation::Creation) => Meaning::Refused(Refusal::NoSuchDomain),
        (409, _) => Meaning::Refused(Refusal::Conflict),
        (400 | 405 | 415, _) => Meaning::Refused(Refusal::Invalid),
        _ => Meaning::Unknown(Trouble::Unintelligible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json");
    const HTML: Option<&str> = Some("text/html; charset=utf-8");

    fn on_account(status: u16, media: Option<&str>, body: &str) -> Meaning {
        classify(Operation::OnAccount, status, media, body.as_bytes())
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table, one row per answer")]
    fn every_answer_mailu_was_seen_giving_has_its_meaning() {
        use Meaning::{Content, Done, Refused, Unknown};
        let html = "<html><body>502 Bad Gateway</body></html>";
        for (status, media, body, meaning) in [
            (
                200,
                JSON,
                r#"{"code":200,"message":"User x@y.z has been updated"}"#,
                Done,
            ),
            (
                200,
                Some("Application/JSON; charset=utf-8"),
                r#"{"code":200}"#,
                Done,
            ),
            (200, JSON, r#"{"email":"x@y.z","password":"$b"}"#, Content),
            (200, JSON, "[]", Content),
            (
                404,
                JSON,
                r#"{"code":404,"message":"User x@y.z cannot be found"}"#,
                Refused(Refusal::NoSuchAccount),
            ),
            (
                409,
                JSON,
                r#"{"code":409,"message":"User x@y.z already exists"}"#,
                Refused(Refusal::Conflict),
            ),
            (
                400,
                JSON,
                r#"{"errors":{"raw_password":"1 is not of type 'string'"},"message":"Input"}"#,
                Refused(Refusal::Invalid),
            ),
            (
                400,
                JSON,
                r#"{"message":"The browser (or proxy) sent a request"}"#,
                Refused(Refusal::Invalid),
            ),
            (
                400,
                JSON,
                r#"{"code":400,"message":"not an address"}"#,
                Refused(Refusal::Invalid),
            ),
            (
                415,
                JSON,
                r#"{"message":"media"}"#,
                Refused(Refusal::Invalid),
            ),
            (
                405,
                JSON,
                r#"{"message":"method"}"#,
                Refused(Refusal::Invalid),
            ),
            (404, HTML, html, Refused(Refusal::NoApi)),
            (
                401,
                JSON,
                r#"{"message":"A valid"}"#,
                Refused(Refusal::Token),
            ),
            (
                403,
                JSON,
                r#"{"message":"Invalid"}"#,
                Refused(Refusal::Token),
            ),
            (
                429,
                JSON,
                r#"{"message":"Too"}"#,
                Refused(Refusal::RateLimited),
            ),
            (301, HTML, html, Refused(Refusal::Redirect)),
            (308, None, "", Refused(Refusal::Redirect)),
            (
                500,
                JSON,
                r#"{"message":"Internal Server Error"}"#,
                Unknown(Trouble::ServerError),
            ),
            (500, HTML, html, Unknown(Trouble::ServerError)),
            (502, HTML, html, Unknown(Trouble::ServerError)),
            (503, None, "", Unknown(Trouble::ServerError)),
            (504, HTML, html, Unknown(Trouble::ServerError)),
        ] {
            assert_eq!(on_account(status, media, body), meaning, "{status} {body}");
        }
    }

    #[test]
    fn what_mailu_does_not_say_is_never_a_refusal() {
        let text = Some("text/plain");
        for (status, media, body) in [
            (200, HTML, "<html>"),
            (200, None, r#"{"code":200}"#),
            (200, text, r#"{"code":200}"#),
            (200, JSON, r#"{"code":302}"#),
            (200, JSON, r#"{"code":400,"message":"Invalid domain"}"#),
            (200, JSON, r#"{"code":403,"message":"x"}"#),
            (200, JSON, r#"{"code":404,"message":"gone"}"#),
            (200, JSON, r#"{"code":409,"message":"x"}"#),
            (200, JSON, r#"{"code":429,"message":"x"}"#),
            (200, JSON, r#"{"code":500,"message":"x"}"#),
            (200, JSON, r#"{"code":299}"#),
            (201, JSON, r#"{"code":200}"#),
            (204, None, ""),
            (400, HTML, "<html>"),
            (400, JSON, "[]"),
            (400, JSON, r#"{"code":409,"message":"x"}"#),
            (400, JSON, r#"{"error":"x"}"#),
            (400, JSON, r#"{"message":7}"#),
            (404, JSON, r#"{"message":"no Route matched"}"#),
            (404, text, "not found"),
            (404, None, ""),
            (409, JSON, r#"{"message":"x"}"#),
            (409, HTML, "<html>"),
            (408, JSON, r#"{"code":408,"message":"x"}"#),
            (413, HTML, "<html>"),
            (418, None, ""),
        ] {
            assert_eq!(
                on_account(status, media, body),
                Meaning::Unknown(Trouble::Unintelligible),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_404_is_about_what_was_asked_for() {
        let body = br#"{"code":404,"message":"Record cannot be found for id 7"}"#;
        for (operation, refusal) in [
            (Operation::OnAccount, Refusal::NoSuchAccount),
            (Operation::OnAppToken, Refusal::NoSuchAppToken),
            (Operation::Creation, Refusal::NoSuchDomain),
        ] {
            let meaning = classify(operation, 404, JSON, body);
            assert_eq!(meaning, Meaning::Refused(refusal));
        }
    }

    #[test]
    fn statuses_without_a_body_agree_with_those_with_one() {
        for status in (100..=599).filter(|status| !depends_on_body(*status)) {
            assert_eq!(
                on_account(status, None, ""),
                on_account(status, JSON, r#"{"code":200,"message":"x"}"#),
                "{status}"
            );
        }
    }
}
