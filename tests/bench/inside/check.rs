//! A check in which 600 tenants are due, beside what no engine can beat and beside an engine that
//! changes one password after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::logical::{MemoryStorage, Operation, Storage as _, StorageEntry};
use vault_plugin_secrets_smtp::provider::{
    EmailAddress, HashCheck, HashPool, MailProvider as _, Sent, StoredHash,
};

use super::host::{FIRST, Host, server, tenant};
use super::mail::{Client, Mail};
use super::standin::hash_password;

pub const DUE: usize = 600;
pub const PARALLEL: usize = 16;
/// The serial engine is measured with fewer; the rest is multiplication.
const SERIAL: usize = 40;
/// bcrypt rounds of what accounts begin with.
const FIRST_ROUNDS: u32 = 4;

pub fn at(hour: u32, minute: u32, second: u32) -> DateTime<Utc> {
    let day = NaiveDate::from_ymd_opt(2026, 9, 21).unwrap();
    day.and_hms_opt(hour, minute, second).unwrap().and_utc()
}

/// Passwords with their hashes, made before anything is measured.
pub struct Made {
    rounds: u32,
    pub passwords: Vec<String>,
    pub hashes: Vec<(String, String)>,
}

impl Made {
    pub fn new(rounds: u32) -> Self {
        let passwords: Vec<String> = (0..DUE)
            .map(|number| format!("password-of-the-check-{rounds}-{number:05}"))
            .collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = DUE.div_ceil(workers);
        let hash = |password: &String| (password.clone(), hash_password(password, rounds));
        let mut hashes: Vec<(String, String)> = std::thread::scope(|scope| {
            let threads: Vec<_> = passwords
                .chunks(share)
                .map(|share| scope.spawn(move || share.iter().map(hash).collect::<Vec<_>>()))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap();
            threads.into_iter().flat_map(join).collect()
        });
        hashes.push((FIRST.to_owned(), hash_password(FIRST, FIRST_ROUNDS)));
        Self {
            rounds,
            passwords,
            hashes,
        }
    }

    /// What one check of such a hash costs on this machine.
    async fn cost(&self, pool: &HashPool) -> Duration {
        let checks = if self.rounds > 8 { 8 } else { 200 };
        let begun = Instant::now();
        for (password, hash) in self.hashes.iter().take(checks) {
            let hash = StoredHash::new(hash.clone());
            let password = Sensitive::new(password.clone());
            assert_eq!(pool.check(&hash, &password).await, HashCheck::Fits);
        }
        begun.elapsed() / u32::try_from(checks).unwrap()
    }
}

/// What one run of a check came to.
struct Run {
    /// From the tick to the last password set and committed.
    taken: Duration,
    calls_each: f64,
    storage: Duration,
    storage_calls_each: f64,
}

/// A check by the engine. With `hanging`, one server of the 600 answers nothing; the time is that
/// of the others.
async fn by_engine(made: &Made, pool: &HashPool, latency: Duration, hanging: bool) -> Run {
    let mail = Mail::default();
    mail.learn(made.hashes.iter().cloned());
    let storage = Arc::new(MemoryStorage::new());
    let host = Host::start(&storage, &mail, pool, at(1, 0, 0), &made.passwords);
    let config = json!({
        "spread": "0s", "notify_before": "0s", "password_policy": "made-before",
        "max_parallel": PARALLEL,
    });
    host.ask(Operation::Update, "config", config).await;
    let last_rotated = at(2, 0, 0) - TimeDelta::days(180);
    stream::iter(0..DUE)
        .for_each_concurrent(PARALLEL, |index| host.import(&mail, index, last_rotated))
        .await;
    // The sweep that a first tick begins is over before anything is measured.
    host.tick().await;
    host.idle().await;
    host.clock.set(at(1, 50, 0));
    host.tick().await;
    host.idle().await;
    mail.set_latency(latency);
    let expected = if hanging {
        // In the middle of the names, so that others wait behind it.
        mail.hang(&server(DUE / 2));
        DUE - 1
    } else {
        DUE
    };
    let (calls, storage_calls, storage_time) =
        (mail.calls(), host.count.calls(), host.count.time());
    host.clock.set(at(2, 0, 1));
    let begun = Instant::now();
    host.tick().await;
    let mut committed = 0;
    while committed < expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if mail.last_set().0 < expected {
            continue;
        }
        committed = count_committed(&host).await;
    }
    let taken = begun.elapsed();
    let each = |count: u64| count as f64 / DUE as f64;
    Run {
        taken,
        calls_each: each(mail.calls() - calls),
        storage: host.count.time() - storage_time,
        storage_calls_each: each(host.count.calls() - storage_calls),
    }
}

/// How many tenants have their second version; asked of storage, past the engine.
pub async fn count_committed(host: &Host) -> usize {
    let mut committed = 0;
    for index in 0..DUE {
        let key = format!("tenant/{}", tenant(index));
        let entry = host.storage.get(&key).await.unwrap().unwrap();
        let text = std::str::from_utf8(&entry.value).unwrap();
        committed += usize::from(text.contains("\"current\":2,"));
    }
    committed
}

/// The same by one queue: each password is set and proven before the next one's turn. Returns what
/// all of the tenants would take.
async fn one_by_one(made: &Made, pool: &HashPool, latency: Duration, calls_each: f64) -> Duration {
    let mail = Mail::default();
    mail.learn(made.hashes.iter().cloned());
    mail.set_latency(latency);
    let storage = MemoryStorage::new();
    let record = vec![0_u8; 4096];
    let begun = Instant::now();
    for index in 0..SERIAL {
        mail.put(&server(index), FIRST);
        let client = Client {
            mail: mail.clone(),
            server: server(index),
        };
        let address = EmailAddress::parse("admin@acme.example.test").unwrap();
        let password = Sensitive::new(made.passwords[index].clone());
        // As many questions as the engine asks, beside the change itself.
        let looks = (calls_each.round() as usize).saturating_sub(1).max(1);
        for _ in 1..looks {
            client.account(&address).await.unwrap();
        }
        let key = format!("tenant/{}", tenant(index));
        let entry = StorageEntry::new(key.as_str(), record.clone());
        storage.put(entry).await.unwrap();
        let sent = client.set_password(&address, &password, None).await;
        assert_eq!(sent, Sent::Acknowledged);
        let account = client.account(&address).await.unwrap().unwrap();
        let verdict = pool.check(&account.hash.unwrap(), &password).await;
        assert_eq!(verdict, HashCheck::Fits);
        let entry = StorageEntry::new(key.as_str(), record.clone());
        storage.put(entry).await.unwrap();
    }
    begun.elapsed() * u32::try_from(DUE).unwrap() / u32::try_from(SERIAL).unwrap()
}

/// Measures every variant with hashes of these rounds and prints a table.
pub async fn check(rounds: &[u32]) {
    let pool = HashPool::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores / 2).max(1);
    println!(
        "{DUE} due at once, max_parallel {PARALLEL}, {workers} hash worker(s). \"One hangs\": one of"
    );
    println!("the servers answers nothing for 10 s; the time of the other 599.\n");
    println!(
        "| servers answer in | rounds | Mailu calls | storage calls | one hash | bound | engine | ratio | one hangs | ratio | one by one | times as long |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for rounds in rounds {
        let made = Made::new(*rounds);
        let cost = made.cost(&pool).await;
        for latency in [50, 450].map(Duration::from_millis) {
            let run = by_engine(&made, &pool, latency, false).await;
            let hanging = by_engine(&made, &pool, latency, true).await;
            let serial = one_by_one(&made, &pool, latency, run.calls_each).await;
            let calls = latency.mul_f64(run.calls_each * DUE as f64 / PARALLEL as f64);
            let hashes = cost * u32::try_from(DUE / workers).unwrap();
            let storage = run.storage / u32::try_from(PARALLEL).unwrap();
            let bound = calls.max(hashes).max(storage).as_secs_f64();
            let taken = run.taken.as_secs_f64();
            println!(
                "| {} ms | {rounds} | {:.2} | {:.2} | {:.1} ms | {bound:.2} s | {taken:.2} s | {:.3} | {:.2} s | {:.3} | {:.0} s | {:.1} |",
                latency.as_millis(),
                run.calls_each,
                run.storage_calls_each,
                cost.as_secs_f64() * 1e3,
                taken / bound,
                hanging.taken.as_secs_f64(),
                hanging.taken.as_secs_f64() / taken,
                serial.as_secs_f64(),
                serial.as_secs_f64() / taken,
            );
        }
    }
}
