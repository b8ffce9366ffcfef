//! The product with more routes. Two of them are there so that a read can be compared inside one
//! process: `null` answers what a credential's read answers and does nothing for it, `get/<tenant>`
//! asks storage once before it answers the same. The others are for `scripts/bench raft` and `audit`: `seed`
//! stores many tenants at once (see `seed.rs`), `ticks` gives ticks as the host does and waits for
//! their work, `idle` waits until no work is under way, `count` says how many ticks and storage
//! calls there were since the start.
//!
//! Everything else is the engine's. Composed as `src/main.rs` does; `BENCH_WORKERS` tries another
//! number of worker threads, 0 a runtime of one thread.
#![allow(
    missing_docs,
    reason = "a program of the benchmark, used by scripts/bench only"
)]

mod seed;

#[path = "../standin/hash.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "the stand-in's, which uses all of it"
)]
mod hash;
#[path = "inside/host.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "shared with bench-inside, which uses all of it"
)]
mod host;
#[path = "inside/mail.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "shared with bench-inside, which uses all of it"
)]
mod mail;
#[path = "inside/storage.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::disallowed_methods,
    reason = "shared with bench-inside, which uses all of it"
)]
mod storage;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use storage::{Count, Counted};
use tokio::runtime::Builder;
use vault_plugin_secrets_smtp::clock::SystemClock;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::goplugin::Logging;
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::identifiers::RandomIdentifiers;
use vault_plugin_secrets_smtp::logical::{
    self, Backend, BackendInfo, Data, Mount, Operation, Reply, Request, Response, SpecialPaths,
};
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::{HashPool, connector};
use vault_plugin_secrets_smtp::wire::{Plugin, ServerInfo, serve};

/// What the routes answer: the fields of a credential's read, with values of their usual length.
const ANSWER: &str = include_str!("answer.json");

/// The host ends a request after 90 seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct WithRoutes {
    engine: SmtpBackend,
    count: Arc<Count>,
    /// Ticks that the host gave.
    ticks: AtomicU64,
}

fn answer() -> Reply {
    let fields = serde_json::from_str(ANSWER).unwrap_or_default();
    Ok(Some(Response::data(Data::from_map(fields))))
}

fn fields(fields: &Value) -> Reply {
    let fields = fields.as_object().cloned().unwrap_or_default();
    Ok(Some(Response::data(Data::from_map(fields))))
}

/// A number of a request's body; 0 if it is not there.
fn number(request: &Request, name: &str) -> u64 {
    let value = request.data.as_map().get(name);
    value.and_then(Value::as_u64).unwrap_or_default()
}

impl WithRoutes {
    /// The mount with a storage that counts.
    fn counted(&self, mount: &Mount) -> Mount {
        Mount {
            storage: Arc::new(Counted {
                inner: Arc::clone(&mount.storage),
                count: Arc::clone(&self.count),
            }),
            system: Arc::clone(&mount.system),
        }
    }

    /// Gives ticks, one after the other. Each asks the host and its storage what a tick of the host
    /// asks; only the host's own call of the plugin is not in it.
    #[allow(clippy::disallowed_methods, reason = "it measures")]
    async fn give_ticks(&self, mount: &Mount, ticks: u64) -> Reply {
        let mount = self.counted(mount);
        let (calls, begun) = (self.count.calls(), Instant::now());
        for _ in 0..ticks {
            let tick = Request::new(Operation::Rollback, "", Data::default());
            self.engine.handle_request(&mount, tick).await?;
            self.engine.idle().await;
        }
        fields(&json!({
            "calls": self.count.calls() - calls,
            "seconds": begun.elapsed().as_secs_f64(),
        }))
    }
}

#[async_trait]
impl Backend for WithRoutes {
    fn special_paths(&self) -> SpecialPaths {
        self.engine.special_paths()
    }

    async fn initialize(&self, mount: &Mount) -> Result<(), logical::Error> {
        self.engine.initialize(&self.counted(mount)).await
    }

    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply {
        let write = matches!(request.operation, Operation::Create | Operation::Update);
        match (request.operation, request.path.as_str()) {
            (Operation::Read, "null") => return answer(),
            (Operation::Read, "idle") => {
                let idle = tokio::time::timeout(LONGEST_WAIT, self.engine.idle()).await;
                return fields(&json!({ "idle": idle.is_ok() }));
            }
            (Operation::Read, "count") => {
                return fields(&json!({
                    "calls": self.count.calls(),
                    "ticks": self.ticks.load(Ordering::Relaxed),
                }));
            }
            (_, "ticks") if write => {
                return self.give_ticks(mount, number(&request, "ticks")).await;
            }
            (_, "seed") if write => {
                let tenants = number(&request, "from")..number(&request, "to");
                let bytes = seed::seed(mount, tenants, number(&request, "due")).await?;
                return fields(&json!({ "bytes": bytes }));
            }
            (Operation::Read, path) => {
                if let Some(("get", tenant)) = path.split_once('/') {
                    mount.storage.get(&format!("tenant/{tenant}")).await?;
                    return answer();
                }
            }
            (Operation::Rollback, _) => {
                self.ticks.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let mount = self.counted(mount);
        self.engine.handle_request(&mount, request).await
    }

    async fn existence_check(
        &self,
        mount: &Mount,
        request: Request,
    ) -> Result<Option<bool>, logical::Error> {
        self.engine
            .existence_check(&self.counted(mount), request)
            .await
    }

    async fn invalidate_key(&self, key: &str) {
        self.engine.invalidate_key(key).await;
    }

    async fn cleanup(&self) {
        self.engine.cleanup().await;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let workers = std::env::var("BENCH_WORKERS").ok();
    let runtime = match workers.and_then(|text| text.parse().ok()).unwrap_or(1) {
        0 => Builder::new_current_thread().enable_all().build()?,
        workers => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()?,
    };
    let clock = Arc::new(SystemClock::new());
    let parts = Parts {
        clock: Arc::clone(&clock) as _,
        identifiers: Arc::new(RandomIdentifiers),
        connector: seed::connector(connector()),
        notifier: notifier(),
        host_api: host_api::opener(Reach::default()),
        hash_pool: HashPool::new(),
        dev_loopback: true,
    };
    let factory = move |info: BackendInfo| {
        Arc::new(WithRoutes {
            engine: SmtpBackend::new(parts.clone(), info),
            count: Arc::new(Count::default()),
            ticks: AtomicU64::new(0),
        }) as Arc<dyn Backend>
    };
    Ok(runtime.block_on(serve(Plugin {
        version: env!("CARGO_PKG_VERSION"),
        logging: Logging {
            level_variable: "SMTP_LOG_LEVEL",
            target: "vault_plugin_secrets_smtp",
        },
        clock,
        server: ServerInfo::parse(|name| std::env::var(name).ok()),
        factory: Arc::new(factory),
    }))?)
}
