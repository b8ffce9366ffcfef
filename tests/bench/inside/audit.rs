//! What the way to the audit devices adds to a scheduled rotation, in memory: storage calls by
//! folder, processor time, and the time of a check with 600 due tenants.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use vault_plugin_secrets_smtp::logical::{MemoryStorage, Operation};
use vault_plugin_secrets_smtp::provider::HashPool;

use super::check::{DUE, Made, PARALLEL, at, count_committed};
use super::host::Host;
use super::loopback::Loopback;
use super::mail::Mail;
use super::scale::processor_time;
use super::storage::Kinds;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Unset,
    BestEffort,
    Required,
}

impl Way {
    const ALL: [Self; 3] = [Self::Unset, Self::BestEffort, Self::Required];

    const fn name(self) -> &'static str {
        match self {
            Self::Unset => "no way set",
            Self::BestEffort => "delivering",
            Self::Required => "required",
        }
    }
}

/// What one run of a check came to.
struct Run {
    /// From the tick to the last password committed.
    committed: Duration,
    /// From the tick until nothing was left to do or to deliver.
    delivered: Duration,
    cpu: Duration,
    kinds: Kinds,
}

impl Run {
    fn calls(&self, does: &str) -> f64 {
        let calls = self.kinds.iter().filter(|((one, _), _)| *one == does);
        calls.map(|(_, count)| *count).sum::<u64>() as f64 / DUE as f64
    }

    fn all_calls(&self) -> f64 {
        self.kinds.values().sum::<u64>() as f64 / DUE as f64
    }
}

async fn run(made: &Made, pool: &HashPool, latency: Duration, way: Way) -> Run {
    let mail = Mail::default();
    mail.learn(made.hashes.iter().cloned());
    let (storage, loopback) = (Arc::new(MemoryStorage::new()), Loopback::default());
    let start = (at(1, 0, 0), made.passwords.as_slice());
    let host = Host::start_with(&storage, &mail, pool, start, loopback.opener());
    loopback.serve(&host);
    let config = json!({
        "spread": "0s", "notify_before": "0s", "password_policy": "made-before",
        "max_parallel": PARALLEL,
    });
    host.ask(Operation::Update, "config", config).await;
    let last_rotated = at(2, 0, 0) - TimeDelta::days(180);
    stream::iter(0..DUE)
        .for_each_concurrent(PARALLEL, |index| host.import(&mail, index, last_rotated))
        .await;
    host.tick().await;
    host.idle().await;
    if way != Way::Unset {
        host.deliver().await;
    }
    if way == Way::Required {
        let required = json!({ "audit_mode": "required" });
        host.ask(Operation::Update, "config", required).await;
        host.idle().await;
    }
    host.clock.set(at(1, 50, 0));
    host.tick().await;
    host.idle().await;
    mail.set_latency(latency);
    let (kinds, cpu) = (host.count.kinds(), processor_time());
    host.clock.set(at(2, 0, 1));
    let begun = Instant::now();
    host.tick().await;
    while mail.last_set().0 < DUE || count_committed(&host).await < DUE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let committed = begun.elapsed();
    host.idle().await;
    let (delivered, cpu) = (begun.elapsed(), processor_time() - cpu);
    let mut used = host.count.kinds();
    for (kind, before) in kinds {
        used.entry(kind).and_modify(|count| *count -= before);
    }
    used.retain(|_, count| *count > 0);
    if way != Way::Unset {
        assert_eq!(host.undelivered().await, Some(0));
    }
    Run {
        committed,
        delivered,
        cpu,
        kinds: used,
    }
}

/// Measures every way with mail servers that answer in so many milliseconds, and prints tables.
pub async fn audit(latencies: &[u32]) {
    let (pool, made) = (HashPool::new(), Made::new(4));
    println!(
        "{DUE} due at once, max_parallel {PARALLEL}; everything for each rotation. Two events"
    );
    println!("each, \"started\" and \"rotated\".\n");
    println!(
        "| servers answer in | way | storage calls | Gets | Puts | Deletes | ratio | time until committed | ratio | until delivered | CPU | ratio |"
    );
    println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut last = Vec::new();
    for latency in latencies {
        last.clear();
        for way in Way::ALL {
            let time = Duration::from_millis(u64::from(*latency));
            last.push(run(&made, &pool, time, way).await);
            print_row(*latency, way, &last);
        }
    }
    by_folder(&last);
}

fn print_row(latency: u32, way: Way, runs: &[Run]) {
    let (Some(base), Some(run)) = (runs.first(), runs.last()) else {
        return;
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / DUE as f64;
    println!(
        "| {latency} ms | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} µs | {:.2} | {:.0} µs | {:.0} µs | {:.2} |",
        way.name(),
        run.all_calls(),
        run.calls("Get"),
        run.calls("Put"),
        run.calls("Delete"),
        run.all_calls() / base.all_calls(),
        micros(run.committed),
        micros(run.committed) / micros(base.committed),
        micros(run.delivered),
        micros(run.cpu),
        micros(run.cpu) / micros(base.cpu),
    );
}

/// Storage calls by what they do and where, for each rotation.
fn by_folder(runs: &[Run]) {
    let names = Way::ALL.map(Way::name).join(" | ");
    println!("\n| storage calls of a rotation | {names} |\n|---|---:|---:|---:|");
    let kinds: BTreeSet<_> = runs.iter().flat_map(|run| run.kinds.keys()).collect();
    for kind in kinds {
        let each = runs.iter().map(|run| {
            let count = run.kinds.get(kind).copied().unwrap_or_default();
            format!("{:.2}", count as f64 / DUE as f64)
        });
        let each = each.collect::<Vec<_>>().join(" | ");
        println!("| {} `{}` | {each} |", kind.0, kind.1);
    }
}
