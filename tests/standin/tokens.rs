//! App tokens: further mail secrets of a user, chosen by the server and shown once.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::reply::Reply;
use super::schema::{Kind, Schema};
use super::tables::{Tables, is_email};
use super::users::{cannot_be_found, not_an_address};

const MEMBERS: &[(&str, Kind)] = &[
    ("email", Kind::Text),
    ("comment", Kind::Text),
    ("AuthorizedIP", Kind::TextList),
];

pub const CREATE: Schema = Schema {
    required: &["email"],
    members: MEMBERS,
};
pub const UPDATE: Schema = Schema {
    required: &[],
    members: MEMBERS,
};

/// One token.
#[derive(Clone, Debug)]
pub struct AppToken {
    pub email: String,
    /// 32 lower-case hex digits.
    pub secret: String,
    pub comment: String,
    pub networks: Vec<String>,
    pub created: String,
    pub edited: Option<String>,
}

impl AppToken {
    /// Reports whether this token opens `email`'s mailbox from `peer`.
    pub fn fits(&self, email: &str, secret: &str, peer: IpAddr) -> bool {
        self.email == email
            && self.secret == secret
            && (self.networks.is_empty()
                || self
                    .networks
                    .iter()
                    .filter_map(|n| network(n))
                    .any(|n| n.contains(&peer)))
    }

    /// The metadata; `id` is a number except in lists.
    fn json(&self, id: &Value) -> Value {
        let mut object = json!({
            "id": id,
            "email": self.email,
            "comment": self.comment,
            "AuthorizedIP": self.networks,
            "Created": self.created,
        });
        if let (Some(object), Some(edited)) = (object.as_object_mut(), &self.edited) {
            object.insert("Last edit".to_owned(), json!(edited));
        }
        object
    }
}

/// `GET /token` and `GET /tokenuser/<email>`.
pub fn list(tables: &Tables, email: Option<&str>) -> Reply {
    let email = email.map(str::to_lowercase);
    if let Some(email) = &email {
        if !is_email(email) {
            return not_an_address(email);
        }
        if tables.user(email).is_none() {
            return cannot_be_found(email);
        }
    }
    let wanted = |token: &AppToken| email.as_ref().is_none_or(|email| token.email == *email);
    let tokens = tables.tokens.iter().filter(|(_, token)| wanted(token));
    Reply::json(
        200,
        &tokens
            .map(|(id, token)| token.json(&json!(id.to_string())))
            .collect(),
    )
}

pub fn show(tables: &Tables, id: &str) -> Reply {
    match find(tables, id) {
        Some((id, token)) => Reply::json(200, &token.json(&json!(id))),
        None => unknown(id),
    }
}

/// `POST /token` and, with the address from the path, `POST /tokenuser/<email>`.
pub fn create(
    tables: &mut Tables,
    body: &Map<String, Value>,
    path_email: Option<&str>,
    date: &str,
) -> Reply {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let email = path_email.unwrap_or_else(|| text("email")).to_lowercase();
    if !is_email(&email) {
        return not_an_address(&email);
    }
    if tables.user(&email).is_none() {
        return cannot_be_found(&email);
    }
    // The two calls differ in Mailu: only the per-user one insists on clean network addresses.
    let networks = match networks(body, path_email.is_some()) {
        Ok(networks) => networks.unwrap_or_default(),
        Err(reply) => return reply,
    };
    let token = AppToken {
        email,
        secret: hex::encode(rand::random::<[u8; 16]>()),
        comment: text("comment").to_owned(),
        networks,
        created: date.to_owned(),
        edited: None,
    };
    tables.last_token += 1;
    let mut answer = token.json(&json!(tables.last_token));
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("token".to_owned(), json!(token.secret));
    }
    tables.tokens.insert(tables.last_token, token);
    Reply::json(200, &answer)
}

pub fn update(tables: &mut Tables, id: &str, body: &Map<String, Value>, date: &str) -> Reply {
    let networks = match networks(body, false) {
        Ok(networks) => networks,
        Err(reply) => return reply,
    };
    let token = id
        .parse()
        .ok()
        .and_then(|id: u64| tables.tokens.get_mut(&id));
    let Some(token) = token else {
        return unknown(id);
    };
    if let Some(comment) = body.get("comment").and_then(Value::as_str) {
        comment.clone_into(&mut token.comment);
    }
    if let Some(networks) = networks {
        token.networks = networks;
    }
    token.edited = Some(date.to_owned());
    Reply::done(&format!("Token with id {id} has been updated"))
}

pub fn delete(tables: &mut Tables, id: &str) -> Reply {
    match find(tables, id).map(|(id, _)| id) {
        Some(key) => {
            tables.tokens.remove(&key);
            Reply::done(&format!("Token with id {id} has been deleted"))
        }
        None => unknown(id),
    }
}

fn find<'a>(tables: &'a Tables, id: &str) -> Option<(u64, &'a AppToken)> {
    let id = id.parse().ok()?;
    tables.tokens.get(&id).map(|token| (id, token))
}

fn unknown(id: &str) -> Reply {
    Reply::business(
        404,
        &format!("Record cannot be found for id {id} or invalid id provided"),
    )
}

fn networks(body: &Map<String, Value>, strict: bool) -> Result<Option<Vec<String>>, Reply> {
    let Some(listed) = body.get("AuthorizedIP").and_then(Value::as_array) else {
        return Ok(None);
    };
    let mut texts = Vec::new();
    for text in listed.iter().filter_map(Value::as_str) {
        match network(text) {
            Some(net) if !strict || net == net.trunc() => texts.push(text.to_owned()),
            _ => {
                return Err(Reply::business(
                    400,
                    &format!("Provided AuthorizedIP {text} in {text} is invalid"),
                ));
            }
        }
    }
    Ok(Some(texts))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
