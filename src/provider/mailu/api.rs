//! The bodies of Mailu's API that the engine sends and reads.
//!
//! Mailu ignores unknown members and answers 200, so a misspelt name would be a silent no-op: the
//! names are pinned by tests.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use url::Host;
use zeroize::Zeroizing;

use crate::provider::{
    Account, AppTokenId, EmailAddress, MAX_APP_TOKENS, ServerVersion, StoredHash,
};

/// The body of `PATCH /user/<email>`.
#[derive(Serialize)]
pub(super) struct Change<'a> {
    /// The new password.
    pub(super) raw_password: &'a str,
    /// The new comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<&'a str>,
    /// `false` where the server has the field: a change leaves it as it is, and while it is set the
    /// next login on the web leads to nothing but a page that changes the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change_pw_next_login: Option<bool>,
}

/// The body of `POST /user`.
#[derive(Serialize)]
pub(super) struct Creation<'a> {
    /// The address.
    pub(super) email: &'a str,
    /// The first password.
    pub(super) raw_password: &'a str,
    /// Makes the account an administrator of the server.
    pub(super) global_admin: bool,
    /// Lets the account log in.
    pub(super) enabled: bool,
    /// The comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<&'a str>,
}

/// Encodes a body into a buffer that is wiped and was never moved while it grew.
///
/// `secrets` is the length of the texts in it, in bytes.
pub(super) fn encode<T: Serialize>(body: &T, secrets: usize) -> Option<Zeroizing<Vec<u8>>> {
    // JSON writes a byte as at most six; the member names fit into the rest.
    let room = secrets.checked_mul(6)?.checked_add(256)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *buffer, body).ok()?;
    Some(buffer)
}

/// The members of a user object that are read. Old versions lack some; nulls occur.
#[derive(Deserialize)]
struct User {
    email: String,
    password: Option<String>,
    enabled: Option<bool>,
    comment: Option<String>,
    forward_enabled: Option<bool>,
    reply_enabled: Option<bool>,
    global_admin: Option<bool>,
    change_pw_next_login: Option<bool>,
}

/// An account, and what of it only concerns this server's release.
pub(super) struct Shown {
    pub(super) account: Account,
    /// The release knows `change_pw_next_login`: 2024.06 and later.
    pub(super) has_change_at_login: bool,
}

/// Reads the answer to `GET /user/<email>`; `None` if it is not about the account asked for.
pub(super) fn account(body: &[u8], asked: &EmailAddress) -> Option<Shown> {
    let user: User = serde_json::from_slice(body).ok()?;
    if !is_same_address(&user.email, asked.as_str()) {
        return None;
    }
    let account = Account {
        hash: user
            .password
            .filter(|text| !text.is_empty())
            .map(StoredHash::new),
        // Mailu's own defaults stand for what it does not say.
        enabled: user.enabled.unwrap_or(true),
        comment: user.comment.unwrap_or_default(),
        forwarding: user.forward_enabled.unwrap_or(false),
        auto_reply: user.reply_enabled.unwrap_or(false),
        administrator: user.global_admin,
        change_at_login: user.change_pw_next_login.unwrap_or(false),
    };
    Some(Shown {
        account,
        has_change_at_login: user.change_pw_next_login.is_some(),
    })
}

/// Writes an address as one segment of a path: some characters that a name may have mean something
/// there, and Mailu decodes them.
pub(super) fn in_path(account: &EmailAddress) -> String {
    let mut segment = String::with_capacity(account.as_str().len());
    for character in account.as_str().chars() {
        if character.is_ascii_alphanumeric() || "-._~@+".contains(character) {
            segment.push(character);
        } else {
            // A String takes everything; an address is ASCII.
            let _infallible = write!(segment, "%{:02X}", u32::from(character));
        }
    }
    segment
}

/// Reports whether two spellings name one account.
pub(super) fn is_same_address(one: &str, other: &str) -> bool {
    canonical(one).is_some_and(|one| Some(one) == canonical(other))
}

/// Brings an address to the form in which two spellings of one account are equal: Mailu ignores
/// case and answers with Unicode domains.
fn canonical(address: &str) -> Option<String> {
    let (name, domain) = address.rsplit_once('@')?;
    let domain = Host::parse(domain).ok()?;
    Some(format!("{}@{domain}", name.to_lowercase()))
}

/// Reads the answer to `GET /tokenuser/<email>`: the first [`MAX_APP_TOKENS`] of a list; `None` if
/// any member of it is not a token.
pub(super) fn app_tokens(body: &[u8]) -> Option<Vec<AppTokenId>> {
    /// Mailu writes the number as a text in lists and as a number elsewhere.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Number(u64),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Token {
        id: Id,
    }
    let tokens: Vec<Token> = serde_json::from_slice(body).ok()?;
    let ids = tokens.into_iter().map(|token| match token.id {
        Id::Number(number) => AppTokenId::parse(&number.to_string()),
        Id::Text(text) => AppTokenId::parse(&text),
    });
    let ids: Option<Vec<AppTokenId>> = ids.collect();
    ids.map(|mut ids| {
        ids.truncate(MAX_APP_TOKENS);
        ids
    })
}

/// Reads the API's own description. Its version number is always 1.0; its paths tell.
pub(super) fn version(body: &[u8]) -> ServerVersion {
    #[derive(Deserialize)]
    struct Description {
        paths: HashMap<String, IgnoredAny>,
    }
    let Ok(Description { paths }) = serde_json::from_slice(body) else {
        return ServerVersion::Unknown;
    };
    if paths.contains_key("/token") {
        ServerVersion::Mailu2024
    } else if paths.contains_key("/user/{email}") {
        ServerVersion::Mailu20
    } else {
        ServerVersion::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> EmailAddress {
        EmailAddress::parse("Admin@acme.example").unwrap()
    }

    #[test]
    fn bodies_have_exactly_the_members_mailu_knows() {
        let change = Change {
            raw_password: "p\"ä",
            comment: None,
            change_pw_next_login: None,
        };
        assert_eq!(
            encode(&change, 4).unwrap().as_slice(),
            "{\"raw_password\":\"p\\\"ä\"}".as_bytes()
        );
        let change = Change {
            raw_password: "p",
            comment: Some("c"),
            change_pw_next_login: Some(false),
        };
        assert_eq!(
            encode(&change, 2).unwrap().as_slice(),
            br#"{"raw_password":"p","comment":"c","change_pw_next_login":false}"#
        );
        let creation = Creation {
            email: "a@b.c",
            raw_password: "p",
            global_admin: true,
            enabled: true,
            comment: None,
        };
        assert_eq!(
            encode(&creation, 6).unwrap().as_slice(),
            br#"{"email":"a@b.c","raw_password":"p","global_admin":true,"enabled":true}"#
        );
    }

    #[test]
    fn the_buffer_of_a_password_never_moves() {
        let worst = "\u{1}".repeat(4_096);
        let change = Change {
            raw_password: &worst,
            comment: None,
            change_pw_next_login: None,
        };
        let room = Zeroizing::new(Vec::<u8>::with_capacity(4_096 * 6 + 256)).capacity();
        let buffer = encode(&change, worst.len()).unwrap();
        assert_eq!(buffer.capacity(), room);
    }

    #[test]
    fn a_user_object_is_read_with_nulls_and_without_new_members() {
        let body = br#"{"email":"admin@ACME.example","password":"$x","comment":null,
            "enabled":false,"forward_enabled":true,"reply_enabled":null,"other":[1]}"#;
        let shown = account(body, &address()).unwrap();
        assert!(!shown.has_change_at_login);
        let account = shown.account;
        assert!(account.hash.is_some());
        assert!(!account.enabled && account.forwarding && !account.auto_reply);
        assert_eq!(account.comment, "");
        assert_eq!(account.administrator, None);
    }

    #[test]
    fn a_missing_or_empty_hash_is_no_hash() {
        for body in [
            r#"{"email":"admin@acme.example"}"#,
            r#"{"email":"admin@acme.example","password":null}"#,
            r#"{"email":"admin@acme.example","password":""}"#,
        ] {
            let account = account(body.as_bytes(), &address()).unwrap().account;
            assert!(account.hash.is_none() && account.enabled);
        }
    }

    #[test]
    fn another_account_or_shape_is_not_an_answer() {
        for body in [
            r#"{"email":"other@acme.example"}"#,
            r#"{"email":"admin@acme.example.evil.example"}"#,
            r#"{"email":null}"#,
            r#"{"message":"hello"}"#,
            r#"{"email":"admin@acme.example","password":7}"#,
            r#"{"email":"admin@acme.example","enabled":"yes"}"#,
            r#"[{"email":"admin@acme.example"}]"#,
            "",
        ] {
            assert!(account(body.as_bytes(), &address()).is_none(), "{body}");
        }
    }

    #[test]
    fn an_international_domain_is_one_account_in_both_spellings() {
        let asked = EmailAddress::parse("a@xn--mller-kva.example").unwrap();
        let body = "{\"email\":\"a@müller.example\"}";
        assert!(account(body.as_bytes(), &asked).is_some());
    }

    #[test]
    fn app_tokens_are_read_with_either_spelling_of_their_number() {
        let read = |body: &str| {
            let ids = app_tokens(body.as_bytes())?;
            Some(ids.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let ids = |ids: &[&str]| Some(ids.iter().map(ToString::to_string).collect());
        assert_eq!(read("[]"), ids(&[]));
        assert_eq!(
            read(r#"[{"id":"1","comment":"x","AuthorizedIP":[]},{"id":18446744073709551615}]"#),
            ids(&["1", "18446744073709551615"])
        );
        for body in [
            r#"{"message":"x"}"#,
            "[1]",
            "[{}]",
            r#"[{"id":"1"},{"id":"../user"}]"#,
            r#"[{"id":""}]"#,
            r#"[{"id":"123456789012345678901"}]"#,
            r#"[{"id":-1}]"#,
            r#"[{"id":1.5}]"#,
            r#"[{"id":null}]"#,
            "",
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        let many = vec![r#"{"id":"7"}"#; MAX_APP_TOKENS + 1].join(",");
        let read = app_tokens(format!("[{many}]").as_bytes()).unwrap();
        assert_eq!(read.len(), MAX_APP_TOKENS);
    }

    #[test]
    fn releases_are_told_apart_by_their_paths() {
        assert_eq!(
            version(br#"{"paths":{"/token":{},"/user/{email}":{}}}"#),
            ServerVersion::Mailu2024
        );
        assert_eq!(
            version(br#"{"paths":{"/user/{email}":{}}}"#),
            ServerVersion::Mailu20
        );
        assert_eq!(version(br#"{"paths":{}}"#), ServerVersion::Unknown);
        assert_eq!(version(b"<html>"), ServerVersion::Unknown);
    }
}
