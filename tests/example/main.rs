//! A whole secrets engine: keeps notes, each at its own path.

use std::sync::Arc;

use vault_plugin_secrets_smtp::goplugin::{Error, Logging};
use vault_plugin_secrets_smtp::logical::{
    Call, Data, Endpoint, Field, Mount, Operation, Reply, Response, Route, RoutedBackend, Router,
    StorageEntry,
};
use vault_plugin_secrets_smtp::wire::{Plugin, serve};

struct Notes;

async fn note(_notes: Arc<Notes>, mount: Mount, call: Call) -> Reply {
    let key = format!("notes/{}", call.capture("name"));
    match (call.request.operation, call.fields.text("text").set()) {
        (Operation::Delete, _) => mount.storage.delete(&key).await?,
        (Operation::Update, Some(text)) => {
            let entry = StorageEntry::new(key, text.as_bytes().to_vec());
            mount.storage.put(entry).await?;
        }
        _ => {
            return Ok(mount.storage.get(&key).await?.map(|entry| {
                let text = String::from_utf8_lossy(&entry.value);
                Response::data(Data::texts([("text", &text)]))
            }));
        }
    }
    Ok(None)
}

async fn list(_notes: Arc<Notes>, mount: Mount, _call: Call) -> Reply {
    Ok(Response::keys(mount.storage.list("notes/").await?))
}

fn routes() -> Vec<Route<Notes>> {
    const NAME: Field = Field::text("name", "What the note is called.");
    const TEXT: Field = Field::text("text", "What it says.").required();
    vec![
        Route {
            pattern: "notes/{name}",
            synopsis: "Keeps a note.",
            description: "Stores, shows or forgets the note of this name.",
            fields: const { &[NAME, TEXT] },
            endpoints: vec![Endpoint {
                operations: &[Operation::Update, Operation::Read, Operation::Delete],
                summary: "Keep a note",
                answers: &[],
                handler: |notes, mount, call| Box::pin(note(notes, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "notes",
            synopsis: "Lists the notes.",
            description: "Names every note.",
            fields: &[],
            endpoints: vec![Endpoint {
                operations: &[Operation::List],
                summary: "List the notes",
                answers: &[],
                handler: |notes, mount, call| Box::pin(list(notes, mount, call)),
            }],
            existence: None,
        },
    ]
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let logging = Logging {
        level_variable: "NOTES_LOG_LEVEL",
        target: module_path!(),
    };
    let router = || Router::new(routes()).with_help("Keeps notes.");
    serve(Plugin::new("0.1.0", logging, move |_info| {
        RoutedBackend::new(router(), Notes)
    }))
    .await
}
