//! The calls below `/api/v1`: which path is which, what it takes, what it does.

use serde_json::{Map, Value};

use super::config::Release;
use super::reply::Reply;
use super::schema::{Kind, Schema};
use super::tables::{Domain, Tables, is_domain};
use super::tokens;
use super::users::{self, View};

const DOMAIN: Schema = Schema {
    required: &["name"],
    members: &[
        ("name", Kind::Text),
        ("comment", Kind::Text),
        ("max_users", Kind::Integer),
        ("max_aliases", Kind::Integer),
        ("max_quota_bytes", Kind::Integer),
    ],
};

/// A known path, its captures decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Swagger,
    Users,
    User(String),
    Domains,
    Domain(String),
    DomainUsers(String),
    Tokens,
    Token(String),
    UserTokens(String),
}

impl Route {
    /// Finds the route of a path below `/api/v1`. Paths are exact: a trailing slash is unknown.
    pub fn find(path: &str, release: Release) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.split('/').map(decode);
        let first = segments.next()?;
        let rest: Vec<String> = segments.collect();
        if rest.iter().any(String::is_empty) {
            return None;
        }
        let route = match (first.as_str(), rest.as_slice()) {
            ("swagger.json", []) => Self::Swagger,
            ("user", []) => Self::Users,
            ("user", [email]) => Self::User(email.clone()),
            ("domain", []) => Self::Domains,
            ("domain", [name]) => Self::Domain(name.to_lowercase()),
            ("domain", [name, users]) if users == "users" => Self::DomainUsers(name.to_lowercase()),
            ("token", []) => Self::Tokens,
            ("token", [id]) => Self::Token(id.clone()),
            ("tokenuser", [email]) => Self::UserTokens(email.clone()),
            _ => return None,
        };
        let is_new = matches!(route, Self::Tokens | Self::Token(_) | Self::UserTokens(_));
        (!is_new || release != Release::V2_0).then_some(route)
    }

    pub fn allows(&self, method: &str) -> bool {
        let methods: &[&str] = match self {
            Self::Swagger | Self::Domain(_) | Self::DomainUsers(_) => &["GET"],
            Self::Users | Self::Domains | Self::Tokens | Self::UserTokens(_) => &["GET", "POST"],
            Self::User(_) | Self::Token(_) => &["GET", "PATCH", "DELETE"],
        };
        methods.contains(&method)
    }

    /// Returns what the body must look like, for the calls that take one.
    pub fn schema(&self, method: &str) -> Option<Schema> {
        match (self, method) {
            (Self::Users, "POST") => Some(users::CREATE),
            (Self::User(_), "PATCH") => Some(users::UPDATE),
            (Self::Domains, "POST") => Some(DOMAIN),
            (Self::Tokens, "POST") => Some(tokens::CREATE),
            (Self::UserTokens(_), "POST") | (Self::Token(_), "PATCH") => Some(tokens::UPDATE),
            _ => None,
        }
    }

    /// Reports whether a `raw_password` in the body is hashed by this call.
    pub fn takes_password(&self) -> bool {
        matches!(self, Self::Users | Self::User(_))
    }
}

/// A request that passed the gate.
#[derive(Clone, Debug)]
pub struct Call {
    pub route: Route,
    pub method: String,
    /// The `X-Fields` header.
    pub only: Option<String>,
    /// The JSON body; empty for calls without one.
    pub body: Map<String, Value>,
    /// The hash of the body's `raw_password`.
    pub hash: Option<String>,
    pub view: View,
    pub date: String,
}

/// Carries out a call on the tables.
pub fn perform(tables: &mut Tables, call: Call) -> Reply {
    let Call {
        route,
        method,
        only,
        body,
        hash,
        view,
        date,
    } = call;
    match (route, method.as_str()) {
        (Route::Users, "GET") => users::list(tables.users.values(), view, only.as_deref()),
        (Route::Users, "POST") => users::create(tables, &body, hash, view.release),
        (Route::User(email), "GET") => users::show(tables, &email, view),
        (Route::User(email), "PATCH") => users::update(tables, &email, &body, hash, view.release),
        (Route::User(email), "DELETE") => users::delete(tables, &email),
        (Route::Domains, "GET") => {
            let domains = tables.domains.iter();
            Reply::json(
                200,
                &domains.map(|(name, domain)| domain.json(name)).collect(),
            )
        }
        (Route::Domains, "POST") => create_domain(tables, &body),
        (Route::Domain(name), "GET") => match known_domain(tables, &name, view.release) {
            Ok(domain) => Reply::json(200, &domain.json(&name)),
            Err(reply) => reply,
        },
        (Route::DomainUsers(name), "GET") => match known_domain(tables, &name, view.release) {
            Ok(_) => users::list(tables.users_of(&name), view, only.as_deref()),
            Err(reply) => reply,
        },
        (Route::Tokens, "GET") => tokens::list(tables, None),
        (Route::Tokens, "POST") => tokens::create(tables, &body, None, &date),
        (Route::UserTokens(email), "GET") => tokens::list(tables, Some(&email)),
        (Route::UserTokens(email), "POST") => tokens::create(tables, &body, Some(&email), &date),
        (Route::Token(id), "GET") => tokens::show(tables, &id),
        (Route::Token(id), "PATCH") => tokens::update(tables, &id, &body, &date),
        (Route::Token(id), "DELETE") => tokens::delete(tables, &id),
        _ => Reply::not_found_page(),
    }
}

fn known_domain<'a>(tables: &'a Tables, name: &str, release: Release) -> Result<&'a Domain, Reply> {
    if !is_domain(name) {
        let mut reply = Reply::business(400, &format!("Domain {name} is not a valid domain"));
        if release != Release::V2_0 {
            // Mailu forgets the status here: HTTP says 200, only the body's `code` says 400.
            reply.status = 200;
        }
        return Err(reply);
    }
    tables
        .domains
        .get(name)
        .ok_or_else(|| Reply::business(404, &format!("Domain {name} does not exist")))
}

fn create_domain(tables: &mut Tables, body: &Map<String, Value>) -> Reply {
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str, default| body.get(key).and_then(Value::as_i64).unwrap_or(default);
    let name = text("name").to_lowercase();
    if !is_domain(&name) {
        return Reply::business(400, &format!("Domain {name} is not a valid domain"));
    }
    if tables.domains.contains_key(&name) {
        return Reply::business(409, &format!("Duplicate domain name {name}"));
    }
    let domain = Domain {
        comment: text("comment").to_owned(),
        max_users: number("max_users", -1),
        max_aliases: number("max_aliases", -1),
        max_quota_bytes: number("max_quota_bytes", 0),
    };
    tables.domains.insert(name.clone(), domain);
    Reply::done(&format!("Domain {name} has been created"))
}

/// Decodes `%41`; everything else, `+` included, stands for itself.
fn decode(segment: &str) -> String {
    let mut bytes = segment.as_bytes().iter();
    let mut decoded = Vec::new();
    while let Some(&byte) = bytes.next() {
        let next = bytes.as_slice().get(..2).filter(|_| byte == b'%');
        match next.and_then(|pair| hex::decode(pair).ok()) {
            Some(pair) => {
                decoded.extend(pair);
                bytes.nth(1);
            }
            None => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
