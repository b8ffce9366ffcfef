//! The engine, its storage and its mail servers in simulated time: everything that a crash leaves
//! behind can be kept and taken up again, thousands of times.
//!
//! The clock is tokio's own paused time, so that the engine's rests, the servers' silence and the
//! records' instants are one time. Nothing waits: time moves on by itself when everything rests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::devices::Devices;
use super::engine::{Host, pointers, record};
use super::faults::Plan;
use super::mailbox::{MailServers, Mailbox, State};
use super::notices::Notices;
use vault_plugin_secrets_smtp::clock::Clock;
use vault_plugin_secrets_smtp::crypto::{Binding, Keyring, RandomError, Sealed, sha256_hex};
use vault_plugin_secrets_smtp::engine::Parts;
use vault_plugin_secrets_smtp::engine::storage::record::TenantRecord;
use vault_plugin_secrets_smtp::identifiers::Identifiers;
use vault_plugin_secrets_smtp::logical::{
    MemoryStorage, ReplicationState, Snapshot, StaticSystemView, Storage as _,
};
use vault_plugin_secrets_smtp::provider::HashPool;

/// The mail server of every tenant that is not given another.
pub(crate) const SERVER: &str = "https://mail.example.test";
pub(crate) const ACCOUNT: &str = "smtp-admin@example.test";
/// The password the account starts with.
pub(crate) const FIRST: &str = "first-password-of-the-account";

thread_local! {
    /// The clocks of the worlds that [`simulate`] runs on this thread: each engine holds its
    /// world's, so that whoever is left can be found.
    static CLOCKS: RefCell<Vec<Weak<SimulatedClock>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `test` on a runtime of its own, whose end takes every task with it, and asserts that no
/// engine outlives it: thousands of worlds are made, and none may stay in memory.
pub(crate) fn simulate<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(test);
    drop(runtime);
    let clocks = CLOCKS.take();
    let left = clocks.iter().map(Weak::strong_count).sum::<usize>();
    assert_eq!(left, 0, "worlds and engines outlive their simulation");
    outcome
}

/// Identifiers that look drawn by chance and are the same in every run.
#[derive(Debug, Default)]
struct SeededIdentifiers {
    drawn: AtomicU64,
}

impl Identifiers for SeededIdentifiers {
    fn draw(&self) -> Result<u128, RandomError> {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let digest = sha256_hex(format!("identifier {number}").as_bytes());
        Ok(u128::from_str_radix(&digest[..32], 16).unwrap())
    }
}

/// The test's paused time, with a wall clock that may be set.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    begun: tokio::time::Instant,
    wall: Mutex<DateTime<Utc>>,
}

impl SimulatedClock {
    fn starting_at(now: DateTime<Utc>) -> Arc<Self> {
        let clock = Arc::new(Self {
            begun: tokio::time::Instant::now(),
            wall: Mutex::new(now),
        });
        CLOCKS.with_borrow_mut(|clocks| clocks.push(Arc::downgrade(&clock)));
        clock
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
    /// How many identifiers were drawn: none is given twice.
    drawn: u64,
}

/// The host's ticks, in seconds.
const MINUTE: u64 = 60;

/// Which of the host's ticks are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticks {
    /// All of them: those in between are to do nothing.
    EachMinute,
    /// The first at which the tenant's record says that something is to be done.
    ToTheNextWork,
}

/// Storage, mail servers and the time.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) storage: Arc<MemoryStorage>,
    pub(crate) mail: MailServers,
    pub(crate) notices: Notices,
    pub(crate) devices: Devices,
    pub(crate) clock: Arc<SimulatedClock>,
    /// Where hashes are computed: inline, unless threads are what a test is about.
    pub(crate) hash_pool: HashPool,
    identifiers: Arc<SeededIdentifiers>,
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
            clock: SimulatedClock::starting_at(start),
            hash_pool: HashPool::inline(),
            identifiers: Arc::default(),
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
            clock: SimulatedClock::starting_at(left.now),
            hash_pool: HashPool::inline(),
            identifiers: Arc::new(SeededIdentifiers {
                drawn: AtomicU64::new(left.drawn),
            }),
        }
    }

    pub(crate) fn left(&self) -> Left {
        Left {
            storage: self.storage.snapshot(),
            mail: self.mail.state(),
            now: self.clock.now(),
            drawn: self.identifiers.drawn.load(Ordering::Relaxed),
        }
    }

    /// A process of the plugin that `plan` may kill.
    pub(crate) fn process(&self, plan: &Plan) -> Host {
        let parts = Parts {
            clock: Arc::clone(&self.clock) as _,
            identifiers: Arc::clone(&self.identifiers) as _,
            connector: self.mail.connector(plan),
            notifier: self.notices.notifier(plan),
            host_api: self.devices.opener(plan),
            hash_pool: self.hash_pool.clone(),
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

    /// Ticks until nothing is open any more, or a person has to decide.
    pub(crate) async fn quiet(&self, host: &Host, tenant: &str) {
        self.quiet_by(Ticks::ToTheNextWork, host, tenant).await;
    }

    /// Like [`World::quiet`], with ticks as they come.
    pub(crate) async fn quiet_by(&self, ticks: Ticks, host: &Host, tenant: &str) {
        const MOST_TICKS: usize = 40;
        let pointer = format!("open/{tenant}");
        let mut next = MINUTE;
        for tick in 0..MOST_TICKS {
            self.later(next).await;
            host.tick().await;
            if self.storage.get(&pointer).await.unwrap().is_none() {
                return;
            }
            let now = self.clock.now();
            let record = self.record(tenant).await;
            let work = record.and_then(|record| record.next_work(now));
            next = match (ticks, work) {
                // A pointer whose record wants nothing is the next tick's to remove.
                (_, None) if tick > 0 => return,
                (Ticks::ToTheNextWork, Some(at)) => {
                    let minutes = (at - now)
                        .num_seconds()
                        .max(1)
                        .unsigned_abs()
                        .div_ceil(MINUTE);
                    minutes * MINUTE
                }
                // After the confirmations less often, as on a busy host.
                (Ticks::EachMinute, _) if tick >= 17 => 5 * MINUTE,
                (Ticks::EachMinute, _) | (_, None) => MINUTE,
            };
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
