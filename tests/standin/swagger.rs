//! `/api/v1/swagger.json`, the one call that needs no token: enough of it to detect a release.

use serde_json::{Map, Value, json};

use super::config::Release;
use super::reply::Reply;

const OLD: &[&str] = &[
    "/alias",
    "/alias/destination/{domain}",
    "/alias/{alias}",
    "/alternative",
    "/alternative/{alt}",
    "/domain",
    "/domain/{domain}",
    "/domain/{domain}/dkim",
    "/domain/{domain}/manager",
    "/domain/{domain}/manager/{email}",
    "/domain/{domain}/users",
    "/relay",
    "/relay/{name}",
    "/user",
    "/user/{email}",
];
const NEW: &[&str] = &["/token", "/token/{token_id}", "/tokenuser/{email}"];

/// Describes the API. `info.version` says "1.0" in every release.
pub fn document(release: Release) -> Reply {
    let new = if release == Release::V2_0 { &[] } else { NEW };
    let paths: Map<String, Value> = OLD
        .iter()
        .chain(new)
        .map(|path| ((*path).to_owned(), json!({})))
        .collect();
    let mut update = json!({
        "raw_password": { "type": "string" },
        "comment": { "type": "string" },
        "enabled": { "type": "boolean" },
        "global_admin": { "type": "boolean" },
    });
    if let (Some(update), Release::V2024_06) = (update.as_object_mut(), release) {
        update.insert(
            "change_pw_next_login".to_owned(),
            json!({ "type": "boolean" }),
        );
    }
    Reply::json(
        200,
        &json!({
            "swagger": "2.0",
            "basePath": "/api/v1",
            "info": { "title": "Mailu API", "version": "1.0" },
            "paths": paths,
            "definitions": { "UserUpdate": { "properties": update, "type": "object" } },
        }),
    )
}
