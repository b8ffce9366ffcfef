//! The product with two more routes, so that a read can be compared inside one process: `null`
//! answers what a credential's read answers and does nothing for it, `get/<tenant>` asks storage
//! once before it answers the same.
//!
//! Everything else is the engine's. Composed as `src/main.rs` does; `BENCH_WORKERS` tries another
//! number of worker threads, 0 a runtime of one thread.
#![allow(
    missing_docs,
    reason = "a program of the benchmark, used by scripts/bench only"
)]

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Builder;
use vault_plugin_secrets_smtp::clock::SystemClock;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::goplugin::Logging;
use vault_plugin_secrets_smtp::logical::{
    self, Backend, BackendInfo, Data, Mount, Operation, Reply, Request, Response, SpecialPaths,
};
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::{HashPool, connector};
use vault_plugin_secrets_smtp::wire::{Plugin, ServerInfo, serve};

/// What the routes answer: the fields of a credential's read, with values of their usual length.
const ANSWER: &str = include_str!("answer.json");

#[derive(Debug)]
struct WithNullRoute(SmtpBackend);

fn answer() -> Reply {
    let fields = serde_json::from_str(ANSWER).unwrap_or_default();
    Ok(Some(Response::data(Data::from_map(fields))))
}

#[async_trait]
impl Backend for WithNullRoute {
    fn special_paths(&self) -> SpecialPaths {
        self.0.special_paths()
    }

    async fn initialize(&self, mount: &Mount) -> Result<(), logical::Error> {
        self.0.initialize(mount).await
    }

    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply {
        match (request.operation, request.path.split_once('/')) {
            (Operation::Read, None) if request.path == "null" => answer(),
            (Operation::Read, Some(("get", tenant))) => {
                mount.storage.get(&format!("tenant/{tenant}")).await?;
                answer()
            }
            _ => self.0.handle_request(mount, request).await,
        }
    }

    async fn existence_check(
        &self,
        mount: &Mount,
        request: Request,
    ) -> Result<Option<bool>, logical::Error> {
        self.0.existence_check(mount, request).await
    }

    async fn invalidate_key(&self, key: &str) {
        self.0.invalidate_key(key).await;
    }

    async fn cleanup(&self) {
        self.0.cleanup().await;
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
        connector: connector(),
        notifier: notifier(),
        hash_pool: HashPool::new(),
        dev_loopback: true,
    };
    let factory = move |info: BackendInfo| {
        Arc::new(WithNullRoute(SmtpBackend::new(parts.clone(), info))) as Arc<dyn Backend>
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
