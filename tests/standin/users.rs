//! The user object and the calls on it.

use serde_json::{Map, Value, json};

use super::config::{HashShown, Release};
use super::reply::Reply;
use super::schema::{Kind, Schema};
use super::tables::{Tables, domain_of, is_email};

const MEMBERS: &[(&str, Kind)] = &[
    ("email", Kind::Text),
    ("raw_password", Kind::Text),
    ("comment", Kind::Text),
    ("quota_bytes", Kind::Integer),
    ("global_admin", Kind::Boolean),
    ("enabled", Kind::Boolean),
    ("change_pw_next_login", Kind::Boolean),
    ("enable_imap", Kind::Boolean),
    ("enable_pop", Kind::Boolean),
    ("allow_spoofing", Kind::Boolean),
    ("forward_enabled", Kind::Boolean),
    ("forward_destination", Kind::TextList),
    ("forward_keep", Kind::Boolean),
    ("reply_enabled", Kind::Boolean),
    ("reply_subject", Kind::Text),
    ("reply_body", Kind::Text),
    ("reply_startdate", Kind::Text),
    ("reply_enddate", Kind::Text),
    ("displayed_name", Kind::Text),
    ("spam_enabled", Kind::Boolean),
    ("spam_mark_as_read", Kind::Boolean),
    ("spam_threshold", Kind::Integer),
];

pub const CREATE: Schema = Schema {
    required: &["email", "raw_password"],
    members: MEMBERS,
};
pub const UPDATE: Schema = Schema {
    required: &[],
    // All but `email`, which an update does not know and therefore ignores.
    members: match MEMBERS.split_first() {
        Some((_, rest)) => rest,
        None => &[],
    },
};

/// Not bcrypt-sha256, so no client can check a password against it.
const OTHER_SCHEME: &str = "$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$\
                            1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk";

/// An account.
#[derive(Clone, Debug)]
pub struct User {
    /// In lower case.
    pub email: String,
    /// The stored password hash.
    pub hash: String,
    /// Every other member of the user object, by Mailu's names.
    pub fields: Map<String, Value>,
}

impl User {
    /// An account with Mailu's defaults.
    pub fn new(email: String, hash: String) -> Self {
        let defaults = json!({
            "comment": "",
            "quota_bytes": 1_000_000_000,
            "quota_bytes_used": 0,
            "global_admin": false,
            "enabled": true,
            "change_pw_next_login": false,
            "enable_imap": true,
            "enable_pop": true,
            "allow_spoofing": false,
            "forward_enabled": false,
            "forward_destination": [],
            "forward_keep": true,
            "reply_enabled": false,
            "reply_subject": null,
            "reply_body": null,
            "reply_startdate": "1900-01-01",
            "reply_enddate": "2999-12-31",
            "displayed_name": "",
            "spam_enabled": true,
            "spam_mark_as_read": true,
            "spam_threshold": 80,
        });
        let fields = defaults.as_object().cloned().unwrap_or_default();
        Self {
            email,
            hash,
            fields,
        }
    }

    pub fn enabled(&self) -> bool {
        self.fields.get("enabled") == Some(&Value::Bool(true))
    }

    pub fn comment(&self) -> String {
        self.fields
            .get("comment")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    /// The user object of the single call, nulls included.
    fn json(&self, view: View) -> Map<String, Value> {
        let mut object = self.fields.clone();
        object.insert("email".to_owned(), json!(self.email));
        match view.hash_shown {
            HashShown::Real => object.insert("password".to_owned(), json!(self.hash)),
            HashShown::OtherScheme => object.insert("password".to_owned(), json!(OTHER_SCHEME)),
            HashShown::Hidden => None,
        };
        if view.release == Release::V2_0 {
            object.remove("quota_bytes_used");
            object.remove("change_pw_next_login");
        }
        object
    }

    /// Takes over the known members of a body; `change_pw_next_login` moves only when named.
    fn take(&mut self, body: &Map<String, Value>, hash: Option<String>, release: Release) {
        if let Some(hash) = hash {
            self.hash = hash;
        }
        for (name, _) in UPDATE.members {
            let unknown = *name == "raw_password"
                || (*name == "change_pw_next_login" && release == Release::V2_0);
            if let (false, Some(value)) = (unknown, body.get(*name)) {
                self.fields.insert((*name).to_owned(), value.clone());
            }
        }
    }
}

/// How user objects are shown just now.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub hash_shown: HashShown,
    pub release: Release,
}

/// `GET /user` and `GET /domain/<d>/users`: nulls left out, `X-Fields` obeyed.
pub fn list<'a>(users: impl Iterator<Item = &'a User>, view: View, only: Option<&str>) -> Reply {
    let only: Option<Vec<&str>> = only.map(|names| names.split(',').map(str::trim).collect());
    let shown = |user: &User| {
        let mut object = user.json(view);
        object.retain(|name, value| {
            !value.is_null()
                && only
                    .as_ref()
                    .is_none_or(|only| only.contains(&name.as_str()))
        });
        Value::Object(object)
    };
    Reply::json(200, &users.map(shown).collect())
}

pub fn show(tables: &Tables, email: &str, view: View) -> Reply {
    if !is_email(email) {
        return not_an_address(email);
    }
    match tables.user(email) {
        Some(user) => Reply::json(200, &Value::Object(user.json(view))),
        None => cannot_be_found(email),
    }
}

/// `POST /user`, its password already hashed.
pub fn create(
    tables: &mut Tables,
    body: &Map<String, Value>,
    hash: Option<String>,
    release: Release,
) -> Reply {
    let email = body
        .get("email")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_lowercase();
    if !is_email(&email) {
        return not_an_address(&email);
    }
    let domain = domain_of(&email).to_owned();
    let Some(limit) = tables.domains.get(&domain).map(|domain| domain.max_users) else {
        return Reply::business(404, &format!("Domain {domain} does not exist"));
    };
    if tables.users.contains_key(&email) {
        return match release {
            Release::V2_0 => Reply::internal_error(),
            Release::V2024_06 => Reply::business(409, &format!("User {email} already exists")),
        };
    }
    let count = i64::try_from(tables.users_of(&domain).count()).unwrap_or(i64::MAX);
    if release != Release::V2_0 && limit != -1 && count >= limit {
        return Reply::business(409, &format!("Too many users for domain {domain}"));
    }
    let Some(hash) = hash else {
        return Reply::internal_error();
    };
    let mut user = User::new(email.clone(), String::new());
    user.take(body, Some(hash), release);
    tables.users.insert(email.clone(), user);
    Reply::done(&format!("User {email} has been created"))
}

/// `PATCH /user/<email>`, its password, if any, already hashed.
pub fn update(
    tables: &mut Tables,
    email: &str,
    body: &Map<String, Value>,
    hash: Option<String>,
    release: Release,
) -> Reply {
    if !is_email(email) {
        return match release {
            Release::V2_0 => Reply::internal_error(),
            Release::V2024_06 => not_an_address(email),
        };
    }
    match tables.user_mut(email) {
        Some(user) => {
            user.take(body, hash, release);
            Reply::done(&format!("User {email} has been updated"))
        }
        None => cannot_be_found(email),
    }
}

pub fn delete(tables: &mut Tables, email: &str) -> Reply {
    if !is_email(email) {
        not_an_address(email)
    } else if tables.remove_user(email) {
        Reply::done(&format!("User {email} has been deleted"))
    } else {
        cannot_be_found(email)
    }
}

pub fn not_an_address(email: &str) -> Reply {
    Reply::business(
        400,
        &format!("Provided email address {email} is not a valid email address"),
    )
}

pub fn cannot_be_found(email: &str) -> Reply {
    Reply::business(404, &format!("User {email} cannot be found"))
}
