//! A whole secrets engine: keeps notes, each at its own path.

use vault_plugin_secrets_smtp::goplugin::{Error, Logging};
use vault_plugin_secrets_smtp::logical::{
    Call, Data, Field, Mount, Operation, Reply, Response, Route, RoutedBackend, Router,
    StorageEntry,
};
use vault_plugin_secrets_smtp::wire::{Plugin, serve};

const NAME: Field = Field::text("name", "What the note is called.");
const TEXT: Field = Field::text("text", "What it says.").required();

async fn write(mount: Mount, call: Call) -> Reply {
    let text = call.fields.text("text").set().unwrap_or_default();
    let entry = StorageEntry::new(key(&call), text.as_bytes().to_vec());
    mount.storage.put(entry).await?;
    Ok(None)
}

async fn read(mount: Mount, call: Call) -> Reply {
    let found = mount.storage.get(&key(&call)).await?;
    Ok(found.map(|entry| {
        let text = String::from_utf8_lossy(&entry.value);
        Response::data(Data::texts([("text", &text)]))
    }))
}

async fn delete(mount: Mount, call: Call) -> Reply {
    mount.storage.delete(&key(&call)).await?;
    Ok(None)
}

async fn list(mount: Mount) -> Reply {
    Ok(Response::keys(mount.storage.list("notes/").await?))
}

fn key(call: &Call) -> String {
    format!("notes/{}", call.capture("name"))
}

fn engine() -> RoutedBackend<()> {
    use Operation::{Delete, List, Read, Update};
    let note = Route::new("notes/{name}", "Keeps a note.")
        .with_fields(const { &[NAME, TEXT] })
        .with_endpoint(&[Update], "Write it", |_, m, c| Box::pin(write(m, c)))
        .with_endpoint(&[Read], "Read it", |_, m, c| Box::pin(read(m, c)))
        .with_endpoint(&[Delete], "Forget it", |_, m, c| Box::pin(delete(m, c)));
    let notes =
        Route::new("notes", "Lists the notes.")
            .with_endpoint(&[List], "List them", |_, m, _| Box::pin(list(m)));
    RoutedBackend::new(Router::new(vec![note, notes]).with_help("Keeps notes."), ())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let logging = Logging {
        level_variable: "NOTES_LOG_LEVEL",
        target: module_path!(),
    };
    serve(Plugin::new("0.1.0", logging, |_mount| engine())).await
}
