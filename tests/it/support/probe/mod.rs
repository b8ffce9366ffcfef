//! A backend that does what its path says: for tests of the transport, without any engine.
//!
//! Here is what a plain [`Backend`] does; what comes with routes is in [`routes`].

pub(crate) mod routes;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use vault_plugin_secrets_smtp::logical::{
    Backend, BackendInfo, Data, Error, Mount, Operation, Reply, Request, Response, SpecialPaths,
    StorageEntry, Wrap,
};

/// One mount of the probe.
#[derive(Debug)]
pub(crate) struct Probe(pub(crate) BackendInfo);

impl Probe {
    async fn kv(&self, mount: &Mount, key: &str, request: &Request) -> Reply {
        let key = format!("kv/{key}");
        let value = request.data.text("value").unwrap_or_default().as_bytes();
        match request.operation {
            Operation::Read => Ok(mount.storage.get(&key).await?.map(|entry| {
                let value = String::from_utf8_lossy(&entry.value).into_owned();
                Response::data(Data::texts([("value", &value), ("uuid", &self.0.uuid)]))
            })),
            Operation::Create | Operation::Update => match request.data.text("expected") {
                Some(expected) => {
                    let expected = Some(expected.as_bytes()).filter(|text| !text.is_empty());
                    let entry = StorageEntry::new(key, value.to_vec());
                    mount.storage.compare_and_put(entry, expected).await?;
                    Ok(None)
                }
                None => {
                    let entry = StorageEntry::new(key, value.to_vec());
                    mount.storage.put(entry).await?;
                    Ok(None)
                }
            },
            Operation::Delete => {
                mount.storage.delete(&key).await?;
                Ok(None)
            }
            Operation::List => {
                let after = request.data.text("after").unwrap_or_default();
                let keys = match request.data.as_map().get("limit") {
                    Some(limit) => {
                        let limit = limit.as_u64().unwrap() as usize;
                        mount.storage.list_page(&key, after, limit).await?
                    }
                    None => mount.storage.list(&key).await?,
                };
                Ok(Response::keys(keys))
            }
            _ => Err(Error::UnsupportedOperation),
        }
    }
}

#[async_trait]
impl Backend for Probe {
    fn special_paths(&self) -> SpecialPaths {
        SpecialPaths {
            seal_wrap_storage: vec![String::from("keyring")],
            unauthenticated: vec![String::from("raw/*")],
            ..SpecialPaths::default()
        }
    }

    async fn initialize(&self, mount: &Mount) -> Result<(), Error> {
        let state = mount.system.replication_state().await;
        tracing::info!(target: "vault_plugin_secrets_smtp::probe", ?state, "initialized");
        Ok(())
    }

    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply {
        if request.operation == Operation::Rollback {
            return Ok(None);
        }
        let path = request.path.clone();
        match path.split_once('/').unwrap_or((&path, "")) {
            ("kv", key) => self.kv(mount, key, &request).await,
            ("panic", _) => panic!("hunter2"),
            ("hang", _) => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(None)
            }
            ("user", _) => Err(Error::user("bad_name", "Choose another.")),
            ("status", code) => Err(Error::status(code.parse().unwrap(), "busy", "Wait.")),
            ("readonly", _) => Err(Error::ReadOnly),
            ("failing", _) => Err(Error::Storage(format!(
                "wrapped: {}",
                vault_plugin_secrets_smtp::logical::READ_ONLY
            ))),
            ("userro", _) => Err(Error::user(
                "standby",
                vault_plugin_secrets_smtp::logical::READ_ONLY,
            )),
            ("warn", _) => Ok(Some(Response::default().warn("careful"))),
            ("wrap", _) => {
                let wrap = Wrap::new(&mount.active_node().await?, Duration::from_secs(60));
                let answer = Response::data(Data::texts([("inner", "value")]));
                Ok(Some(answer.wrapped(wrap)))
            }
            ("internal", _) => Err(Error::internal("a defect")),
            ("refused-by-storage", _) => Err(Error::Storage(String::from("disk full"))),
            ("unsupported", _) => Err(Error::UnsupportedOperation),
            ("state", _) => {
                let state = mount.system.replication_state().await.unwrap().0;
                let tainted = mount.system.tainted().await.unwrap();
                let local = mount.system.local_mount().await.unwrap();
                let ttl = mount.system.default_lease_ttl().await.unwrap();
                let text = format!("{state:#x} {tainted} {local} {}", ttl.as_secs());
                Ok(Some(Response::data(Data::texts([("state", &text)]))))
            }
            _ => routes::router().handle(&Arc::new(()), mount, request).await,
        }
    }

    async fn existence_check(
        &self,
        mount: &Mount,
        request: Request,
    ) -> Result<Option<bool>, Error> {
        match request.path.strip_prefix("kv/") {
            Some(_) => Ok(Some(mount.storage.get(&request.path).await?.is_some())),
            None => routes::router().exists(&Arc::new(()), mount, request).await,
        }
    }

    async fn cleanup(&self) {
        if self.0.uuid == "stuck" {
            std::future::pending().await
        }
    }
}
