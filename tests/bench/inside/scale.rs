//! What a quiet tick and a start cost with 1,000, 10,000 and 100,000 tenants, in memory: while no way
//! to the audit devices is set and every event waits, and when all of them are delivered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use vault_plugin_secrets_smtp::logical::{MemoryStorage, Operation};
use vault_plugin_secrets_smtp::provider::HashPool;

use super::host::{FIRST, Host, tenant};
use super::loopback::Loopback;
use super::mail::Mail;
use super::standin::hash_password;

const TICKS: u32 = 2_000;
/// Well between two checks.
const NOON: i64 = 1_790_000_000 / 86_400 * 86_400 + 12 * 3600;

fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(NOON, 0).unwrap()
}

/// Imports tenants whose next changes are spread evenly over half a year.
pub async fn fill(host: &Host, mail: &Mail, tenants: usize) {
    mail.learn([(FIRST.to_owned(), hash_password(FIRST, 4))]);
    let period = TimeDelta::days(179).num_seconds();
    stream::iter(0..tenants)
        .for_each_concurrent(16, |index| {
            let share = i64::try_from(index).unwrap() * period / i64::try_from(tenants).unwrap();
            host.import(mail, index, noon() - TimeDelta::seconds(share))
        })
        .await;
}

/// The processor time of this process so far.
pub fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Measures these numbers of tenants and prints a table.
pub async fn scale(sizes: &[u32]) {
    println!(
        "| tenants | events that wait | storage calls of a quiet tick | its time | its CPU | calls from start to first answer | its time | bytes per tenant |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for tenants in sizes.iter().map(|size| *size as usize) {
        let (storage, mail, pool) = (
            Arc::new(MemoryStorage::new()),
            Mail::default(),
            HashPool::new(),
        );
        let (loopback, opening) = (Loopback::default(), (noon(), [].as_slice()));
        let host = Host::start_with(&storage, &mail, &pool, opening, loopback.opener());
        loopback.serve(&host);
        fill(&host, &mail, tenants).await;
        row(&host, &mail, tenants).await;
        host.deliver().await;
        row(&host, &mail, tenants).await;
    }
}

async fn row(host: &Host, mail: &Mail, tenants: usize) {
    // The first ticks sweep, and give the notices that are due.
    for _ in 0..2 {
        host.tick().await;
        host.idle().await;
    }
    let waiting = host.undelivered().await.unwrap();
    let (calls, cpu, begun) = (host.count.calls(), processor_time(), Instant::now());
    for _ in 0..TICKS {
        host.tick().await;
        host.idle().await;
    }
    let taken = begun.elapsed() / TICKS;
    let cpu = (processor_time() - cpu) / TICKS;
    let calls = (host.count.calls() - calls) as f64 / f64::from(TICKS);
    let begun = Instant::now();
    let other = Host::start(&host.storage, mail, &HashPool::new(), noon(), &[]);
    let path = format!("{}/admin", tenant(tenants / 2));
    let read = other.ask(Operation::Read, &path, json!({})).await;
    let start = begun.elapsed();
    assert_eq!(read["password"], FIRST);
    let snapshot = host.storage.snapshot();
    let bytes = snapshot.entries().map(|it| it.key.len() + it.value.len());
    println!(
        "| {tenants} | {waiting} | {calls:.2} | {:.0} µs | {:.0} µs | {} | {:.0} µs | {} |",
        taken.as_secs_f64() * 1e6,
        cpu.as_secs_f64() * 1e6,
        other.count.calls(),
        start.as_secs_f64() * 1e6,
        bytes.sum::<usize>() / tenants,
    );
}
