//! What an HTTP answer of Mailu means: its own words, and everything else.
//!
//! A front (a proxy, a WAF, a gateway) may commit a request and word the answer itself, with any
//! status and, gateways do, in JSON. So an answer counts as Mailu's only if status **and** whole body
//! are those that Mailu gives to this very call; anything else leaves the outcome unknown, with a
//! [`Trouble`] that says what to do about it.
//!
//! Source: the texts of Mailu 2.0.43, 2024.06.57 and the master of 2026-07-26.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::api;
use crate::provider::{AppTokenId, EmailAddress, Refusal, Trouble};

/// What was asked: Mailu's texts name it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'a> {
    /// A look at an account, or at its app tokens.
    Look(&'a EmailAddress),
    /// A change of an account.
    Change(&'a EmailAddress),
    /// The creation of an account.
    Creation(&'a EmailAddress),
    /// The deletion of an app token.
    AppTokenDeletion(&'a AppTokenId),
}

/// What an answer means, before its content is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Mailu said that the change was done.
    Done,
    /// 200 with JSON: content, to be read by the caller.
    Content,
    /// Mailu's own "no".
    Refused(Refusal),
    /// No answer of Mailu's.
    Unknown(Trouble),
}

/// An answer as far as its meaning depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    /// The HTTP status.
    pub(super) status: u16,
    /// The media type with its parameters.
    pub(super) content_type: Option<&'a str>,
    /// `Retry-After` in seconds.
    pub(super) retry_after: Option<u32>,
    /// The body; empty where it does not matter.
    pub(super) body: &'a [u8],
}

/// What is said of the authorisation, by 2024.06 and later.
const NO_HEADER: &str = "A valid Authorization header is mandatory";
const WRONG_TOKEN: &str = "Invalid API token";
/// Both, by the 2.0 line.
const TOKEN_IN_2_0: &str = "A valid Bearer token is expected which is provided as request header";
const LIMITED: &str = "Too many attempts from your IP (rate-limit)";
const SCHEMA: &str = "Input payload validation failed";

/// Largest body of a refusal that is read, in bytes; Mailu's have some hundred.
pub(super) const MAX_REFUSAL: usize = 16 * 1024;

/// Reports whether the meaning of a status depends on the body; otherwise it need not be read.
pub(super) const fn depends_on_body(status: u16) -> bool {
    status == 200 || is_refusal(status)
}

/// Reports whether Mailu refuses with this status. What its body is too large for, or was not read
/// to its end, is not Mailu's; the status counts all the same.
pub(super) const fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 404 | 409 | 429)
}

/// Decides what an answer means.
pub(super) fn classify(operation: Operation<'_>, answer: Shown<'_>) -> Meaning {
    let media = answer
        .content_type
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase())
        .unwrap_or_default();
    let json = media == "application/json";
    match answer.status {
        200 if json => success(operation, answer.body),
        status if json && is_refusal(status) => match refusal(operation, status, answer.body) {
            Some(refusal) => Meaning::Refused(refusal),
            None => Meaning::Unknown(of_status(&answer, &media)),
        },
        // Mailu without API=true shows its login page to a look, where WEBROOT_REDIRECT leads there.
        200 if media == "text/html" && matches!(operation, Operation::Look(_)) => {
            Meaning::Unknown(Trouble::NoApi)
        }
        _ => Meaning::Unknown(of_status(&answer, &media)),
    }
}

/// What somebody else's answer is about.
fn of_status(answer: &Shown<'_>, media: &str) -> Trouble {
    match answer.status {
        300..=399 => Trouble::Redirect,
        status @ (401 | 403) => Trouble::Denied { status },
        404 if media == "text/html" => Trouble::NoApi,
        429 => Trouble::Busy {
            retry_after: answer.retry_after,
        },
        503 if answer.retry_after.is_some() => Trouble::Busy {
            retry_after: answer.retry_after,
        },
        500..=599 => Trouble::ServerError,
        _ => Trouble::Unintelligible,
    }
}

/// The members of an answer that reports something. Nothing of it is kept: validation texts echo the
/// password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report<'a> {
    code: Option<u16>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    errors: Option<BTreeMap<String, IgnoredAny>>,
}

/// Reads an object, and none of the lists that would do for one.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_object = first == Some(&b'{');
    is_object
        .then(|| serde_json::from_slice(body).ok())
        .flatten()
}

/// A 200 of Mailu reports or shows something. A report that is not the one of this call is no
/// answer to it, whatever its `code` says.
fn success(operation: Operation<'_>, body: &[u8]) -> Meaning {
    /// Any object with a `code`; lists and user objects have none.
    #[derive(Deserialize)]
    struct Reporting {
        #[serde(rename = "code")]
        _code: IgnoredAny,
    }
    if object::<Reporting>(body).is_none() {
        return Meaning::Content;
    }
    match object::<Report<'_>>(body) {
        Some(Report {
            code: Some(200),
            message,
            errors: None,
        }) if is_done(operation, &message) => Meaning::Done,
        _ => Meaning::Unknown(Trouble::Unintelligible),
    }
}

fn is_done(operation: Operation<'_>, message: &str) -> bool {
    match operation {
        Operation::Look(_) => false,
        Operation::Change(account) => names_account(message, "User ", account, " has been updated"),
        Operation::Creation(account) => {
            names_account(message, "User ", account, " has been created")
        }
        Operation::AppTokenDeletion(id) => {
            message == format!("Token with id {id} has been deleted")
        }
    }
}

/// Finds Mailu's own refusal of this call.
fn refusal(operation: Operation<'_>, status: u16, body: &[u8]) -> Option<Refusal> {
    let Report {
        code,
        message,
        errors,
    } = object::<Report<'_>>(body)?;
    let message = message.as_ref();
    match (status, code, errors) {
        // From the framework, which gives no number of its own.
        (401, None, None) => [NO_HEADER, TOKEN_IN_2_0]
            .contains(&message)
            .then_some(Refusal::Token),
        (403, None, None) => [WRONG_TOKEN, TOKEN_IN_2_0]
            .contains(&message)
            .then_some(Refusal::Token),
        (429, None, None) => (message == LIMITED).then_some(Refusal::RateLimited),
        (400, None, Some(_)) => {
            (message == SCHEMA && has_body(operation)).then_some(Refusal::Invalid)
        }
        (400 | 404 | 409, Some(code), None) if code == status => {
            of_application(operation, status, message)
        }
        _ => None,
    }
}

const fn has_body(operation: Operation<'_>) -> bool {
    matches!(operation, Operation::Change(_) | Operation::Creation(_))
}

/// What the application says of this call.
fn of_application(operation: Operation<'_>, status: u16, message: &str) -> Option<Refusal> {
    let no_address = |account| {
        let prefix = "Provided email address ";
        names_account(message, prefix, account, " is not a valid email address")
    };
    match (operation, status) {
        (
            Operation::Look(account) | Operation::Change(account) | Operation::Creation(account),
            400,
        ) => no_address(account).then_some(Refusal::Invalid),
        (Operation::Look(account) | Operation::Change(account), 404) => {
            names_account(message, "User ", account, " cannot be found")
                .then_some(Refusal::NoSuchAccount)
        }
        (Operation::Creation(account), 404) => {
            names_domain(message, "Domain ", account, " does not exist")
                .then_some(Refusal::NoSuchDomain)
        }
        (Operation::Creation(account), 409) => {
            let exists = names_account(message, "User ", account, " already exists");
            let full = names_domain(message, "Too many users for domain ", account, "");
            (exists || full).then_some(Refusal::Conflict)
        }
        (Operation::AppTokenDeletion(id), 404) => {
            let text = format!("Record cannot be found for id {id} or invalid id provided");
            (message == text).then_some(Refusal::NoSuchAppToken)
        }
        _ => None,
    }
}

/// Reports whether a text is `prefix`, this account, `suffix`. Mailu folds addresses in some calls
/// and repeats them as they came in others.
fn names_account(message: &str, prefix: &str, account: &EmailAddress, suffix: &str) -> bool {
    named(message, prefix, suffix)
        .is_some_and(|named| api::is_same_address(named, account.as_str()))
}

fn names_domain(message: &str, prefix: &str, account: &EmailAddress, suffix: &str) -> bool {
    named(message, prefix, suffix).is_some_and(|named| named.eq_ignore_ascii_case(account.domain()))
}

fn named<'a>(message: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.strip_suffix(suffix)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    const JSON: &str = "application/json";
    const HTML: &str = "text/html; charset=utf-8";

    /// Each call with what Mailu says to it, every version together.
    struct Calls {
        account: EmailAddress,
        token: AppTokenId,
    }

    impl Calls {
        fn new() -> Self {
            Self {
                account: EmailAddress::parse("admin@acme.example").unwrap(),
                token: AppTokenId::parse("7").unwrap(),
            }
        }

        fn all(&self) -> [Operation<'_>; 4] {
            [
                Operation::Look(&self.account),
                Operation::Change(&self.account),
                Operation::Creation(&self.account),
                Operation::AppTokenDeletion(&self.token),
            ]
        }
    }

    fn meaning(operation: Operation<'_>, status: u16, media: &str, body: &str) -> Meaning {
        let answer = Shown {
            status,
            content_type: Some(media),
            retry_after: None,
            body: body.as_bytes(),
        };
        classify(operation, answer)
    }

    /// (call by its place, status, body, meaning)
    #[expect(clippy::too_many_lines, reason = "a table, one row per answer")]
    fn own_words() -> Vec<(usize, u16, String, Meaning)> {
        use Meaning::{Done, Refused};
        let report = |code: u16, text: &str| format!(r#"{{"code":{code},"message":"{text}"}}"#);
        let mut words = vec![
            (
                1,
                200,
                report(200, "User admin@acme.example has been updated"),
                Done,
            ),
            (
                2,
                200,
                report(200, "User admin@acme.example has been created"),
                Done,
            ),
            (
                3,
                200,
                report(200, "Token with id 7 has been deleted"),
                Done,
            ),
            (
                2,
                404,
                report(404, "Domain acme.example does not exist"),
                Refused(Refusal::NoSuchDomain),
            ),
            (
                2,
                409,
                report(409, "User Admin@Acme.Example already exists"),
                Refused(Refusal::Conflict),
            ),
            (
                2,
                409,
                report(409, "Too many users for domain acme.example"),
                Refused(Refusal::Conflict),
            ),
            (
                3,
                404,
                report(
                    404,
                    "Record cannot be found for id 7 or invalid id provided",
                ),
                Refused(Refusal::NoSuchAppToken),
            ),
        ];
        for call in 0..2 {
            let text = "User admin@acme.example cannot be found";
            let refused = Refused(Refusal::NoSuchAccount);
            words.push((call, 404, report(404, text), refused));
        }
        for call in 0..3 {
            let text = "Provided email address admin@acme.example is not a valid email address";
            words.push((call, 400, report(400, text), Refused(Refusal::Invalid)));
        }
        for call in 1..3 {
            let text = r#"{"errors":{"raw_password":"1 is not of type 'string'"},"message":"Input payload validation failed"}"#;
            words.push((call, 400, text.to_owned(), Refused(Refusal::Invalid)));
        }
        for call in 0..4 {
            for (status, text, refusal) in [
                (401, NO_HEADER, Refusal::Token),
                (401, TOKEN_IN_2_0, Refusal::Token),
                (403, WRONG_TOKEN, Refusal::Token),
                (403, TOKEN_IN_2_0, Refusal::Token),
                (429, LIMITED, Refusal::RateLimited),
            ] {
                let body = format!(r#"{{"message":"{text}"}}"#);
                words.push((call, status, body, Refused(refusal)));
            }
        }
        words
    }

    #[test]
    fn each_of_mailus_own_words_is_heard_for_its_own_call_only() {
        let calls = Calls::new();
        for (call, status, body, wanted) in own_words() {
            for (place, operation) in calls.all().into_iter().enumerate() {
                let known = own_words()
                    .iter()
                    .any(|(other, at, text, _)| (*other, *at, text) == (place, status, &body));
                let found = meaning(operation, status, JSON, &body);
                let about = format!("{operation:?} {status} {body}");
                if place == call {
                    assert_eq!(found, wanted, "{about}");
                } else if !known {
                    assert!(matches!(found, Meaning::Unknown(_)), "{about} {found:?}");
                }
            }
        }
    }

    /// Fronts repeat a status, a shape, or nearly the words.
    #[test]
    fn nearly_mailus_words_are_somebody_elses() {
        let calls = Calls::new();
        for (call, status, body, _) in own_words() {
            let operation = calls.all()[call];
            let text: Value = serde_json::from_str(&body).unwrap();
            let message = text["message"].as_str().unwrap().to_owned();
            let with = |change: &dyn Fn(&mut Map<String, Value>)| {
                let mut members = text.as_object().unwrap().clone();
                change(&mut members);
                Value::Object(members).to_string()
            };
            let said = |text: String| {
                with(&move |it| drop(it.insert("message".into(), text.clone().into())))
            };
            for other in [
                said(format!("{message}.")),
                said(format!(" {message}")),
                said(message.replace("acme", "globex").replace("id 7", "id 70") + "!"),
                said(message.to_uppercase()),
                said(String::new()),
                with(&|it| drop(it.insert("code".into(), 418.into()))),
                with(&|it| drop(it.insert("code".into(), "x".into()))),
                with(&|it| drop(it.insert("request_id".into(), "x".into()))),
                with(&|it| drop(it.remove("message"))),
                format!("[{body}]"),
                format!("{body}x"),
                String::new(),
            ] {
                let found = meaning(operation, status, JSON, &other);
                let content = found == Meaning::Content && status == 200;
                assert!(
                    matches!(found, Meaning::Unknown(_)) || content,
                    "{operation:?} {status} {other} {found:?}"
                );
            }
            for media in [HTML, "text/plain", "application/problem+json", ""] {
                let found = meaning(operation, status, media, &body);
                assert!(matches!(found, Meaning::Unknown(_)), "{media} {found:?}");
            }
            for other in [
                200, 201, 302, 400, 401, 403, 404, 405, 409, 415, 422, 429, 500, 503,
            ] {
                let found = meaning(operation, other, JSON, &body);
                let same = other == status
                    || own_words()
                        .iter()
                        .any(|(at, code, text, _)| (*at, *code, text) == (call, other, &body));
                // A schema error has no number that could tell it from content.
                let content = other == 200 && found == Meaning::Content;
                assert!(
                    same || content || matches!(found, Meaning::Unknown(_)),
                    "{other} {body} {found:?}"
                );
            }
        }
    }

    #[test]
    fn an_account_is_named_in_any_of_its_spellings() {
        let account = EmailAddress::parse("Admin@xn--bcher-kva.example").unwrap();
        for named in [
            "Admin@xn--bcher-kva.example",
            "admin@xn--bcher-kva.example",
            "admin@bücher.example",
        ] {
            let body = format!(r#"{{"code":404,"message":"User {named} cannot be found"}}"#);
            let found = meaning(Operation::Look(&account), 404, JSON, &body);
            assert_eq!(found, Meaning::Refused(Refusal::NoSuchAccount), "{named}");
        }
    }

    #[test]
    fn what_others_say_is_told_by_what_one_does_about_it() {
        let calls = Calls::new();
        let foreign = r#"{"code":400,"message":"no Route matched with those values"}"#;
        for operation in calls.all() {
            for (status, media, trouble) in [
                (301, HTML, Trouble::Redirect),
                (308, "", Trouble::Redirect),
                (401, HTML, Trouble::Denied { status: 401 }),
                (403, JSON, Trouble::Denied { status: 403 }),
                (404, HTML, Trouble::NoApi),
                (404, JSON, Trouble::Unintelligible),
                (404, "text/plain", Trouble::Unintelligible),
                (400, JSON, Trouble::Unintelligible),
                (405, JSON, Trouble::Unintelligible),
                (409, HTML, Trouble::Unintelligible),
                (415, JSON, Trouble::Unintelligible),
                (418, "", Trouble::Unintelligible),
                (201, JSON, Trouble::Unintelligible),
                (204, "", Trouble::Unintelligible),
                (429, "text/plain", Trouble::Busy { retry_after: None }),
                (500, JSON, Trouble::ServerError),
                (502, HTML, Trouble::ServerError),
                (503, HTML, Trouble::ServerError),
                (504, HTML, Trouble::ServerError),
            ] {
                let found = meaning(operation, status, media, foreign);
                assert_eq!(found, Meaning::Unknown(trouble), "{status} {media}");
            }
        }
        for operation in calls.all() {
            // Instead of a page, Mailu's API shows its data.
            let page = meaning(operation, 200, HTML, "<html>");
            let trouble = match operation {
                Operation::Look(_) => Trouble::NoApi,
                _ => Trouble::Unintelligible,
            };
            assert_eq!(page, Meaning::Unknown(trouble), "{operation:?}");
        }
        for status in [429, 503] {
            let answer = Shown {
                status,
                content_type: None,
                retry_after: Some(2),
                body: b"",
            };
            let busy = Trouble::Busy {
                retry_after: Some(2),
            };
            let found = classify(calls.all()[1], answer);
            assert_eq!(found, Meaning::Unknown(busy), "{status}");
        }
    }

    #[test]
    fn content_is_anything_that_reports_nothing() {
        let calls = Calls::new();
        for body in [
            r#"{"email":"x@y.z","password":"$b"}"#,
            "[]",
            r#"[{"id":"1"}]"#,
            r#" [200,"User admin@acme.example has been updated",null]"#,
        ] {
            let found = meaning(calls.all()[0], 200, "Application/JSON; charset=utf-8", body);
            assert_eq!(found, Meaning::Content, "{body}");
        }
        for body in [
            r#"{"code":400,"message":"Domain x is invalid"}"#,
            r#"{"code":200}"#,
        ] {
            let found = meaning(calls.all()[0], 200, JSON, body);
            assert_eq!(found, Meaning::Unknown(Trouble::Unintelligible), "{body}");
        }
    }

    #[test]
    fn statuses_without_a_body_agree_with_those_with_one() {
        let calls = Calls::new();
        for status in (100..=599).filter(|status| !depends_on_body(*status)) {
            let own = r#"{"code":200,"message":"User admin@acme.example has been updated"}"#;
            assert_eq!(
                meaning(calls.all()[1], status, "", ""),
                meaning(calls.all()[1], status, JSON, own),
                "{status}"
            );
        }
    }
}
