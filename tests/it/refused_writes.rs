//! A host that answers reads and refuses every write: seen with Vault, where the mount had been set
//! up while the plugin could not be started.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{
    MemoryStorage, StaticSystemView, Storage, StorageEntry, StorageError,
};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{Host, Rig, parts};

const TEXT: &str = "cannot write to storage during setup";

/// The storage of the rig, every write of which is refused while it is told to.
#[derive(Debug)]
struct Refusing {
    storage: Arc<MemoryStorage>,
    refuses: AtomicBool,
}

impl Refusing {
    fn answer(&self) -> Result<(), StorageError> {
        if self.refuses.load(Ordering::SeqCst) {
            Err(StorageError::Refused(TEXT.to_owned()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Storage for Refusing {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        self.storage.get(key).await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        self.answer()?;
        self.storage.put(entry).await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        self.answer()?;
        self.storage.compare_and_put(entry, expected).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.answer()?;
        self.storage.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.storage.list(prefix).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.storage.list_page(prefix, after, limit).await
    }
}

/// `acme` has a credential, and a new process meets a storage that can be told to refuse.
async fn rig() -> (Rig, Arc<Refusing>, Host) {
    let rig = Rig::created().await;
    let storage = Arc::new(Refusing {
        storage: Arc::clone(&rig.storage),
        refuses: AtomicBool::new(false),
    });
    let parts = parts(&rig.clock, connector());
    let system = StaticSystemView::default();
    let host = Host::new(parts, Arc::clone(&storage) as _, system);
    (rig, storage, host)
}

/// The gravest thing that `status` shows, and the gauge.
async fn told(host: &Host) -> (Value, bool) {
    let status = host.read("status").await.ok();
    let first = status.get("attention")[0].clone();
    let metrics = host.read("metrics").await.ok();
    let (_, text) = metrics.raw.unwrap();
    let gauge = text
        .lines()
        .find_map(|line| line.strip_prefix("smtp_storage_refuses_writes "));
    (first, gauge.unwrap() == "1")
}

#[tokio::test]
async fn a_host_that_takes_no_write_is_told_by_requests_until_one_is_stored() {
    let (rig, storage, host) = rig().await;
    let password = host.read("acme/admin").await.ok();
    assert_eq!(told(&host).await, (Value::Null, false));
    storage.refuses.store(true, Ordering::SeqCst);
    let reset = json!({ "incident_id": "INC-1", "reason": "stolen" });
    for (path, body) in [
        ("acme/rotate", json!({ "reason": "x" })),
        ("acme/reset", reset),
        ("config", json!({ "spread": "2h" })),
    ] {
        let answer = host.write(path, body).await.fails(500, "storage_error");
        assert!(answer.text.contains(TEXT), "{}", answer.text);
        for remedy in ["seal and unseal", "restart", "another node", "sys/leader"] {
            assert!(answer.text.contains(remedy), "{path}: {}", answer.text);
        }
        let (first, gauge) = told(&host).await;
        assert_eq!(first["code"], "storage_refuses_writes", "{path}: {first}");
        assert_eq!(first["tenant"], "-");
        assert!(first["hint"].as_str().unwrap().contains("seal and unseal"));
        assert!(gauge, "{path}");
    }
    let read = host.read("acme/admin").await.ok();
    assert_eq!(read.get("password"), password.get("password"));
    rig.settled().await;
    storage.refuses.store(false, Ordering::SeqCst);
    assert!(told(&host).await.1, "nothing was stored meanwhile");
    host.write("acme/rotate", json!({ "reason": "x" }))
        .await
        .ok();
    assert_eq!(told(&host).await, (Value::Null, false));
}

#[tokio::test]
async fn a_tick_that_can_store_nothing_is_told_without_any_request() {
    let (rig, storage, host) = rig().await;
    // A change is due.
    rig.later(400 * 86_400);
    storage.refuses.store(true, Ordering::SeqCst);
    let before = rig.storage.snapshot();
    host.tick().await;
    assert_eq!(rig.storage.snapshot(), before);
    let (first, gauge) = told(&host).await;
    assert_eq!(first["code"], "storage_refuses_writes");
    assert!(gauge);
    let since = first["since"].clone();
    rig.later(600);
    host.tick().await;
    assert_eq!(told(&host).await.0["since"], since, "since the first one");
    storage.refuses.store(false, Ordering::SeqCst);
    rig.later(60);
    host.tick().await;
    assert_eq!(told(&host).await, (Value::Null, false));
}

/// What else needs a person comes after it.
#[tokio::test]
async fn it_is_the_gravest_of_all() {
    let (rig, storage, host) = rig().await;
    rig.mailu
        .set_password_directly(crate::support::engine::EMAIL, "foreign");
    host.write("acme/verify", json!({})).await.ok();
    host.tick().await;
    let status = host.read("status").await.ok();
    assert_eq!(status.get("attention")[0]["code"], "foreign_password");
    storage.refuses.store(true, Ordering::SeqCst);
    let refused = host.write("config", json!({ "spread": "2h" })).await;
    refused.fails(500, "storage_error");
    let status = host.read("status").await.ok();
    let codes = status.get("attention").as_array().unwrap().iter();
    let codes: Vec<&str> = codes.map(|it| it["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["storage_refuses_writes", "foreign_password"]);
    assert_eq!(status.get("attention_total"), 2);
}

/// The count of tries cannot be stored: nobody learns more by that, nor gets more of them.
#[tokio::test]
async fn a_password_that_is_tried_while_nothing_is_stored_is_counted_all_the_same() {
    let (rig, storage, host) = rig().await;
    let current = rig.password().await;
    storage.refuses.store(true, Ordering::SeqCst);
    let given = |password: &str| {
        let body = json!({ "username": crate::support::engine::EMAIL, "password": password });
        let host = host.clone();
        async move { host.write("acme/admin", body).await }
    };
    for password in [current.as_str(), "a", "b", "c", "d"] {
        given(password).await.fails(400, "password_needs_cas");
    }
    for password in ["e", current.as_str()] {
        given(password).await.fails(409, "too_many_tries");
    }
    storage.refuses.store(false, Ordering::SeqCst);
    given("f").await.fails(409, "too_many_tries");
    rig.later(24 * 3600);
    given("f").await.fails(400, "password_needs_cas");
}
