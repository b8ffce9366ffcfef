//! What the probe does by routes: leases, bodies that are no JSON, headers, look-ups, notes.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use vault_plugin_secrets_smtp::logical::{
    Call, Data, Error, Field, Lease, Mount, Operation, RawResponse, Reply, Response, Route, Router,
    StorageEntry, Wrap,
};

const NAME: Field = Field::text("name", "What it is called.");
const TEXT: Field = Field::text("text", "What it says.").required();
const COLOUR: Field = Field::text("colour", "How it looks.");
const STATUS: Field = Field::integer("status", "The HTTP status.");

/// Every route of the probe.
pub(crate) fn router() -> Router<()> {
    use Operation::{Create, Delete, Header, List, Patch, Read, Renew, Revoke, Scan, Update};
    let mut kept = Route::new("notes/{name}", "Keeps a note.")
        .with_fields(const { &[NAME, TEXT, COLOUR] })
        .with_endpoint(
            &[Create, Update, Patch, Read, Delete],
            "Keep a note",
            |_, m, c| Box::pin(note(m, c)),
        );
    kept.existence = Some(|_, m, c| Box::pin(exists(m, c)));
    Router::new(vec![
        kept,
        Route::new("notes", "Lists the notes.")
            .with_endpoint(&[List], "List", |_, m, _| Box::pin(notes(m))),
        Route::new("tree", "Lists what the key-value paths keep.").with_endpoint(
            &[List, Scan],
            "List",
            |_, m, c| Box::pin(tree(m, c)),
        ),
        Route::new("lease/{name}", "Leases an account.")
            .with_fields(const { &[NAME] })
            .with_endpoint(&[Read], "Lease", |_, m, c| Box::pin(issue(m, c)))
            .with_endpoint(&[Renew], "Renew", |_, m, c| Box::pin(renew(m, c)))
            .with_endpoint(&[Revoke], "Revoke", |_, m, c| Box::pin(revoke(m, c))),
        Route::new("accounts/{name}", "Says what became of a leased account.")
            .with_fields(const { &[NAME] })
            .with_endpoint(&[Read], "Show", |_, m, c| Box::pin(account(m, c))),
        Route::new("wrapped/{name}", "Forces response wrapping.")
            .with_fields(const { &[NAME] })
            .with_endpoint(&[Read], "Wrap", |_, m, c| Box::pin(wrapped(m, c))),
        Route::new("raw/{name}", "Answers what is no JSON.")
            .with_fields(const { &[NAME, STATUS] })
            .with_endpoint(&[Read, Update, Header], "Show", |_, _, c| {
                Box::pin(async move { raw(&c) })
            }),
        Route::new("whoami", "Says what is known of the caller.").with_endpoint(
            &[Read],
            "Show",
            |_, m, c| Box::pin(whoami(m, c)),
        ),
        Route::new("host", "Says what is known of the host.").with_endpoint(
            &[Read],
            "Show",
            |_, m, _| Box::pin(host(m)),
        ),
    ])
    .with_help("Does what its paths say.")
}

fn key(folder: &str, call: &Call) -> String {
    format!("{folder}/{}", call.capture("name"))
}

/// Leases an account; storage says what became of it.
async fn issue(mount: Mount, call: Call) -> Reply {
    let node = mount.active_node().await?;
    let key = key("accounts", &call);
    mount
        .storage
        .put(StorageEntry::new(&key, b"live".to_vec()))
        .await?;
    let lease = Lease::new(&node)
        .ttl(Duration::from_secs(600))
        .max_ttl(Duration::from_secs(1800))
        .renewable()
        .internal(Data::texts([("account", &key)]));
    let data = Data::texts([("account", call.capture("name"))]);
    Ok(Some(Response::leased(data, lease)))
}

async fn renew(mount: Mount, call: Call) -> Reply {
    let held = call.lease()?;
    let asked = held.increment.unwrap_or_default().as_secs();
    let account = held.internal.text("account").unwrap_or_default();
    let stored = format!("renewed {asked}");
    let entry = StorageEntry::new(account, stored.into_bytes());
    mount.storage.put(entry).await?;
    let lease = held.renewed().ttl(Duration::from_secs(900));
    Ok(Some(Response::leased(call.request.data.clone(), lease)))
}

/// Ends the lease, unless storage says not to.
async fn revoke(mount: Mount, call: Call) -> Reply {
    if mount.storage.get("notes/keep-leases").await?.is_some() {
        return Err(Error::status(503, "busy", "Leases are kept for now."));
    }
    let held = call.lease()?;
    let account = held.internal.text("account").unwrap_or_default();
    let named = match &held.id {
        Some(id) => id.contains("/lease/"),
        None => false,
    };
    let answered = call.request.data.text("account").unwrap_or_default();
    let text = format!("revoked {answered} {named} {}", held.issue_time.is_some());
    let entry = StorageEntry::new(account, text.into_bytes());
    mount.storage.put(entry).await?;
    Ok(None)
}

async fn wrapped(mount: Mount, call: Call) -> Reply {
    let node = mount.active_node().await?;
    let answer = Response::data(Data::texts([("name", call.capture("name"))]));
    let wrap = Wrap::new(&node, Duration::from_secs(120));
    Ok(Some(answer.wrapped(wrap).warn("unwrap once")))
}

/// A page, of the status the caller names.
fn raw(call: &Call) -> Reply {
    let status = call.fields.integer("status").set().unwrap_or(200);
    let page = RawResponse {
        cache_control: Some(String::from("max-age=60")),
        pragma: Some(String::from("probe")),
        www_authenticate: (status == 401).then(|| String::from("Basic realm=\"probe\"")),
        ..RawResponse::new(
            u16::try_from(status).unwrap_or_default(),
            "text/html; charset=utf-8",
            format!(
                "<p>{} {}</p>",
                call.capture("name"),
                call.request.unauthenticated
            ),
        )
    };
    let answer = Response::raw(page)
        .header("Location", "/elsewhere")
        .header("X-Probe", "one")
        .header("X-Probe", "two");
    Ok(Some(answer))
}

/// What is known of the caller.
async fn whoami(mount: Mount, call: Call) -> Reply {
    let request = &call.request;
    let entity = mount.system.entity(&request.entity_id).await?;
    let groups = mount.system.groups_of_entity(&request.entity_id).await?;
    let groups: Vec<String> = groups.into_iter().map(|group| group.name).collect();
    let from = request.connection.clone().unwrap_or_default();
    let data = Data::from_serialize(&json!({
        "display_name": request.display_name,
        "entity": entity.as_ref().map(|entity| &entity.name),
        "metadata": entity.as_ref().map(|entity| &entity.metadata),
        "aliases": entity.iter().flat_map(|entity| &entity.aliases)
            .map(|alias| format!("{} {}", alias.mount_type, alias.name)).collect::<Vec<_>>(),
        "groups": groups,
        "remote_addr": from.remote_addr,
        "has_port": from.remote_port.is_some(),
        "has_token": !request.client_token.expose().is_empty(),
        "has_accessor": !request.client_token_accessor.expose().is_empty(),
        "reason": request.header("x-reason"),
        "mount_point": request.mount_point,
        "mount_type": request.mount_type,
    }))?;
    Ok(Some(Response::data(data).header("X-Probe", "json")))
}

/// What is known of the host.
async fn host(mount: Mount) -> Reply {
    let system = &mount.system;
    let data = Data::from_serialize(&json!({
        "version": system.server_version().await?.version,
        "cluster": system.cluster().await?.id,
        "caching_disabled": system.caching_disabled().await?,
        "mlock": system.mlock_enabled().await?,
        "default_ttl": system.default_lease_ttl().await?.as_secs(),
        "max_ttl": system.max_lease_ttl().await?.as_secs(),
        "unknown_entity": system.entity("nobody").await?.is_some(),
        "unknown_groups": system.groups_of_entity("nobody").await?.len(),
    }))?;
    Ok(Some(Response::data(data)))
}

async fn exists(mount: Mount, call: Call) -> Result<Option<bool>, Error> {
    let found = mount.storage.get(&key("notes", &call)).await?;
    Ok(Some(found.is_some()))
}

async fn notes(mount: Mount) -> Reply {
    Ok(Response::keys(mount.storage.list("notes/").await?))
}

/// Keeps a note; a patch changes what it names.
async fn note(mount: Mount, call: Call) -> Reply {
    let key = key("notes", &call);
    let operation = call.request.operation;
    let stored = mount.storage.get(&key).await?;
    let mut note: serde_json::Map<_, _> = stored
        .as_ref()
        .and_then(|entry| serde_json::from_slice(&entry.value).ok())
        .unwrap_or_default();
    match operation {
        Operation::Read => {
            return Ok(stored.map(|_| Response::data(Data::from_map(note))));
        }
        Operation::Delete => {
            mount.storage.delete(&key).await?;
            return Ok(None);
        }
        Operation::Patch if stored.is_none() => return Ok(None),
        Operation::Patch => {}
        _ => note.clear(),
    }
    for name in ["text", "colour"] {
        let said = call.fields.text(name);
        if said.is_null() {
            note.remove(name);
        }
        if let Some(text) = said.set() {
            note.insert(String::from(name), json!(text));
        }
    }
    note.insert(String::from("by"), json!(operation.as_str()));
    let value = serde_json::to_vec(&note).unwrap();
    mount.storage.put(StorageEntry::new(key, value)).await?;
    Ok(None)
}

/// What became of a leased account.
async fn account(mount: Mount, call: Call) -> Reply {
    let entry = mount.storage.get(&key("accounts", &call)).await?;
    Ok(entry.map(|entry| {
        let state = String::from_utf8_lossy(&entry.value);
        Response::data(Data::texts([("state", &state)]))
    }))
}

/// What the probe's key-value paths keep: one level for a list, everything for a scan.
async fn tree(mount: Mount, call: Call) -> Reply {
    let keys = match call.request.operation {
        Operation::Scan => below(mount, "").await?,
        _ => mount.storage.list("kv/").await?,
    };
    Ok(Response::keys(keys))
}

/// Lists every key below a folder.
fn below(mount: Mount, folder: &str) -> BoxFuture<'static, Result<Vec<String>, Error>> {
    let folder = folder.to_owned();
    Box::pin(async move {
        let mut found = Vec::new();
        for name in mount.storage.list(&format!("kv/{folder}")).await? {
            let path = format!("{folder}{name}");
            if name.ends_with('/') {
                found.extend(below(mount.clone(), &path).await?);
            } else {
                found.push(path);
            }
        }
        Ok(found)
    })
}
