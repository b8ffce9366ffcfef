//! The engine, its storage and its mail servers in simulated time: everything that a crash leaves
//! behind can be kept and taken up again, thousands of times.
//!
//! The clock is tokio's own paused time, so that the engine's rests, the servers' silence and the
//! records' instants are one time. Nothing waits: time moves on by itself when everything rests.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::devices::Devices;
use super::engine::{Host, pointers, record};
use super::faults::Plan;
use super::mailbox::{MailServers, Mailbox, State};
use super::notices::Notices;
use vault_plugin_secrets_smtp::clock::Clock;
use vault_plugin_secrets_smtp::crypto::{Binding, Keyring, Sealed};
use vault_plugin_secrets_smtp::engine::Parts;
use vault_plugin_secrets_smtp::engine::storage::record::TenantRecord;
use vault_plugin_secrets_smtp::logical::{
    MemoryStorage, ReplicationState, Snapshot, StaticSystemView, Storage as _,
};
use vault_plugin_secrets_smtp::provider::HashPool;

/// The mail server of every tenant that is not given another.
pub(crate) const SERVER: &str = "https://mail.example.test";
pub(crate) const ACCOUNT: &str = "smtp-admin@example.test";
/// The password the account starts with.
pub(crate) const FIRST: &str = "first-password-of-the-account";

/// Runs `test` on a runtime of its own, whose end takes every task with it.
pub(crate) fn simulate<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test)
}

/// The test's paused time, with a wall clock that may be set.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    begun: tokio::time::Instant,
    wall: Mutex<DateTime<Utc>>,
}

impl SimulatedClock {
    fn starting_at(now: DateTime<Utc>) -> Self {
        Self {
            begun: tokio::time::Instant::now(),
            wall: Mutex::new(now),
        }
    }

    /// Sets the wall clock ahead or back, as an administrator does.
    pub(crate) fn jump(&self, by: TimeDelta) {
        *self.wall.lock().unwrap() += by;
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> DateTime<Utc> {
        let now = *self.wall.lock().unwrap() + self.begun.elapsed();
        DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// What a crash leaves behind.
#[derive(Clone)]
pub(crate) struct Left {
    pub(crate) storage: Snapshot,
    pub(crate) mail: State,
    now: DateTime<Utc>,
}

/// Storage, mail servers and the time.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) storage: Arc<MemoryStorage>,
    pub(crate) mail: MailServers,
    pub(crate) notices: Notices,
    pub(crate) devices: Devices,
    pub(crate) clock: Arc<SimulatedClock>,
}

impl World {
    /// One account on one server; the mount is empty.
    pub(crate) fn new() -> Self {
        let mail = MailServers::default();
        mail.put(SERVER, ACCOUNT, Mailbox::new(FIRST));
        let start = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        Self {
            storage: Arc::new(MemoryStorage::new()),
            mail,
            notices: Notices::default(),
            devices: Devices::default(),
            clock: Arc::new(SimulatedClock::starting_at(start)),
        }
    }

    pub(crate) fn from(left: &Left) -> Self {
        let storage = MemoryStorage::new();
        storage.restore(&left.storage);
        Self {
            storage: Arc::new(storage),
            mail: MailServers::with(&left.mail),
            notices: Notices::default(),
            devices: Devices::default(),
            clock: Arc::new(SimulatedClock::starting_at(left.now)),
        }
    }

    pub(crate) fn left(&self) -> Left {
        Left {
            storage: self.storage.snapshot(),
            mail: self.mail.state(),
            now: self.clock.now(),
        }
    }

    /// A process of the plugin that `plan` may kill.
    pub(crate) fn process(&self, plan: &Plan) -> Host {
        let parts = Parts {
            clock: Arc::clone(&self.clock) as _,
            connector: self.mail.connector(plan),
            notifier: self.notices.notifier(plan),
            host_api: self.devices.opener(plan),
            hash_pool: HashPool::with_places(2),
            dev_loopback: false,
        };
        let host = Host::new(parts, plan.over(&self.storage), StaticSystemView::default());
        self.devices.serve(&host);
        host
    }

    /// A process that nothing happens to.
    pub(crate) fn sound_process(&self) -> Host {
        self.process(&Plan::simulated())
    }

    /// A process on a node that may not write.
    pub(crate) fn standby(&self) -> Host {
        let mut host = self.sound_process();
        host.mount.system = Arc::new(StaticSystemView {
            replication_state: ReplicationState(0x6000),
            ..StaticSystemView::default()
        });
        host
    }

    pub(crate) async fn later(&self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    pub(crate) async fn record(&self, tenant: &str) -> Option<TenantRecord> {
        record(&self.storage, tenant).await
    }

    /// What logs in at the account of the tenants here.
    pub(crate) fn live(&self) -> Option<String> {
        self.mail.live(SERVER, ACCOUNT)
    }

    /// Every password that is stored for a tenant, by version, the candidate of an open change
    /// included: opened here by the documented format, not by the engine's own code.
    pub(crate) async fn stored(&self, tenant: &str) -> BTreeMap<u64, String> {
        let Some(record) = self.record(tenant).await else {
            return BTreeMap::new();
        };
        let Some(credential) = &record.credential else {
            return BTreeMap::new();
        };
        let mut keyring = self.storage.get("keyring").await.unwrap();
        if keyring.is_none() {
            keyring = self.storage.get("keyring-copy").await.unwrap();
        }
        let keyring = Keyring::from_bytes(&keyring.unwrap().value).unwrap();
        let versions = credential.versions.iter();
        let mut sealed: Vec<_> = versions.map(|it| (it.number, &it.password)).collect();
        sealed.extend(record.intent.iter().map(|it| (it.version, &it.candidate)));
        let open = |(number, sealed)| (number, open(&keyring, &record, number, sealed));
        sealed.into_iter().map(open).collect()
    }

    /// Asserts that every pointer the tenant's record needs is there, and (if `exact`) no other.
    pub(crate) async fn check_pointers(&self, tenant: &str, exact: bool, what: &str) {
        let (needed, found) = pointers(&self.storage, tenant).await;
        assert!(needed.is_subset(&found), "{what}: {needed:?} in {found:?}");
        assert!(
            !exact || needed == found,
            "{what}: {found:?} but {needed:?}"
        );
    }

    /// Ticks once a minute until nothing is open any more, or a person has to decide; after the
    /// confirmations less often, as on a busy host.
    pub(crate) async fn quiet(&self, host: &Host, tenant: &str) {
        const MOST_TICKS: usize = 40;
        let pointer = format!("open/{tenant}");
        for tick in 0..MOST_TICKS {
            self.later(if tick < 18 { 60 } else { 300 }).await;
            host.tick().await;
            if self.storage.get(&pointer).await.unwrap().is_none() {
                return;
            }
            let now = self.clock.now();
            let stopped = |record: TenantRecord| record.next_work(now).is_none();
            if tick % 8 == 0 && self.record(tenant).await.is_some_and(stopped) {
                return;
            }
        }
        panic!(
            "there is still work for {tenant}: {:?}",
            self.record(tenant).await
        );
    }

    pub(crate) async fn configure(&self, host: &Host, tenant: &str) {
        host.write(&format!("{tenant}/config"), server()).await.ok();
    }
}

/// The body that gives a tenant its server.
pub(crate) fn server() -> Value {
    json!({ "mailu_url": SERVER, "api_token": "token-of-the-mail-server" })
}

fn open(keyring: &Keyring, record: &TenantRecord, number: u64, sealed: &Sealed) -> String {
    let server = record.server.as_ref();
    let smtp = server.and_then(|it| it.smtp_address.as_deref());
    let url = server.map_or("none", |it| it.mailu_url.as_str());
    let endpoint = format!("{url}|||{}", smtp.unwrap_or_default());
    let binding = Binding {
        tenant: &record.tenant,
        incarnation: &record.incarnation,
        field: "password",
        id: &number.to_string(),
        endpoint: &endpoint,
    };
    keyring.open(&binding, sealed).unwrap().expose().clone()
}

/// Asserts that every change that was announced has its end.
pub(crate) fn every_start_has_its_end(events: &[Value], what: &str) {
    for (index, event) in events.iter().enumerate() {
        if event["outcome"] != "started" {
            continue;
        }
        let ends = |later: &Value| {
            later["outcome"] != "started" && later["version"] == event["version"]
                || later["event"] == "smtp_credentials_destroyed"
        };
        assert!(
            events[index..].iter().any(ends),
            "{what}: no end of {event:#}"
        );
    }
}
