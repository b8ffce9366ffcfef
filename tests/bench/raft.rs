//! What many tenants cost a real server with raft storage while nothing is to be done, and after a
//! start.
//!
//! One server, whose mount grows from each number of tenants to the next. The tenants are stored by
//! the plugin's route `seed`, which says what is real about them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{Timelike as _, Utc};
use serde_json::{Value, json};

use super::report::{self, median};
use super::server::{Server, processor_time};

/// Tenants stored by one request: the host ends one after 90 seconds.
const PART: u64 = 500;
/// Ticks given by one request.
const TICKS: u64 = 500;
/// Starts of the plugin, of which the median counts.
const STARTS: usize = 5;

pub struct Settings {
    bao: PathBuf,
    plugin: PathBuf,
    /// For how long the host's own ticks are watched, in seconds; 0: not at all.
    watch: u64,
    sizes: Vec<u64>,
}

impl Settings {
    /// `bench raft <bao> <bench-plugin> [tenants]...`
    pub fn parse() -> Self {
        let mut args = std::env::args().skip(2);
        let (bao, plugin) = (args.next().expect("bao"), args.next().expect("plugin"));
        let mut sizes: Vec<u64> = args.map(|text| text.parse().expect("a number")).collect();
        if sizes.is_empty() {
            sizes = vec![1_000, 10_000, 100_000];
        }
        sizes.sort_unstable();
        let watch = std::env::var("BENCH_WATCH").ok();
        Self {
            bao: bao.into(),
            plugin: plugin.into(),
            watch: watch.map_or(180, |text| text.parse().expect("seconds")),
            sizes,
        }
    }
}

/// Measures one number of tenants after the other and prints each as soon as it is known.
pub async fn raft(settings: &Settings) {
    report::machine(&settings.bao);
    let server = Server::start_on_raft(&settings.bao, &settings.plugin, false).await;
    // Whenever this runs, no check is near.
    let hour = (Utc::now().hour() + 12) % 24;
    let config = json!({ "check_schedule": format!("0 {hour} * * *") });
    server.write("smtp/config", config).await;
    let (data_before, log_before) = server.raft_bytes();
    let (mut from, mut bytes) = (0, 0);
    for size in settings.sizes.iter().copied() {
        let begun = Instant::now();
        bytes += seed(&server, from, size, 0).await;
        from = size;
        println!(
            "\n{size} tenants; the last of them stored in {:.0} s\n",
            begun.elapsed().as_secs_f64()
        );
        println!("| what | figure |\n|---|---:|");
        let (data, log) = server.raft_bytes();
        let each = |bytes: u64| bytes as f64 / size as f64;
        row("bytes of keys and values per tenant", 0, each(bytes));
        row(
            "growth of vault.db per tenant, bytes",
            0,
            each(data - data_before),
        );
        row(
            "growth of the raft log per tenant, bytes",
            0,
            each(log.saturating_sub(log_before)),
        );
        starts(&server, size).await;
        sweep(&server).await;
        quiet_ticks(&server).await;
        if settings.watch > 0 {
            watch(&server, settings.watch).await;
        }
        let (memory, most) = server.memory();
        row("plugin's resident memory, MiB", 1, memory);
        row("at most, MiB", 1, most);
    }
}

fn row(what: &str, digits: usize, figure: f64) {
    println!("| {what} | {figure:.digits$} |");
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Stores the tenants, due in so many seconds (0: not within two days), and
/// returns how many bytes of keys and values that were.
pub async fn seed(server: &Server, from: u64, to: u64, due: u64) -> u64 {
    let mut bytes = 0;
    for from in (from..to).step_by(PART as usize) {
        let part = json!({ "from": from, "to": to.min(from + PART), "due": due });
        let answer = server.write("smtp/seed", part).await;
        bytes += number(&answer, "bytes");
    }
    bytes
}

pub fn number(answer: &Value, name: &str) -> u64 {
    answer["data"][name].as_u64().unwrap()
}

/// From the request to start the plugin anew to the first answer about a tenant.
async fn starts(server: &Server, tenants: u64) {
    let (mut reloads, mut answers, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for start in 0..STARTS as u64 {
        let begun = Instant::now();
        server.reload().await;
        reloads.push(micros(begun.elapsed()) / 1e3);
        let begun = Instant::now();
        let tenant = (start + 1) * tenants / (STARTS as u64 + 1);
        let read = server.read(&format!("smtp/t{tenant:06}/admin")).await;
        answers.push(micros(begun.elapsed()) / 1e3);
        assert_eq!(read["data"]["state"], "settled", "{read}");
        calls.push(number(&server.read("smtp/count").await, "calls") as f64);
    }
    row("restart of the plugin, ms", 1, median(reloads));
    row("then until the first answer, ms", 1, median(answers));
    row("storage calls from start to first answer", 0, median(calls));
}

/// What was used since the last look: storage calls, ticks, processor time of plugin and host.
pub struct Usage {
    plugin: u32,
    pub calls: u64,
    ticks: u64,
    pub plugin_time: Duration,
    pub host_time: Duration,
}

impl Usage {
    pub async fn now(server: &Server) -> Self {
        let count = server.read("smtp/count").await;
        let plugin = server.plugin();
        Self {
            plugin,
            calls: number(&count, "calls"),
            ticks: number(&count, "ticks"),
            plugin_time: processor_time(plugin),
            host_time: processor_time(server.host()),
        }
    }

    pub async fn since(server: &Server, before: &Self) -> Self {
        let now = Self::now(server).await;
        assert_eq!(now.plugin, before.plugin, "the plugin was started anew");
        Self {
            plugin: now.plugin,
            calls: now.calls - before.calls,
            ticks: now.ticks - before.ticks,
            plugin_time: now.plugin_time - before.plugin_time,
            host_time: now.host_time - before.host_time,
        }
    }
}

/// The sweep that begins with the first tick, and then daily.
async fn sweep(server: &Server) {
    let (before, begun) = (Usage::now(server).await, Instant::now());
    server.write("smtp/ops/sweep", json!({})).await;
    while server.read("smtp/idle").await["data"]["idle"] != true {}
    let (taken, used) = (begun.elapsed(), Usage::since(server, &before).await);
    let sweep = server.read("smtp/status").await["data"]["sweep"].clone();
    let tenants = sweep["tenants"].as_u64().unwrap() as f64;
    for what in ["differed", "repaired", "unasked"] {
        assert_eq!(sweep[what], 0, "{what}: {sweep}");
    }
    row("daily sweep: tenants asked", 0, tenants);
    row(
        "its storage calls per tenant",
        2,
        used.calls as f64 / tenants,
    );
    row("its time, s", 1, taken.as_secs_f64());
    row(
        "its CPU in the plugin, s",
        2,
        used.plugin_time.as_secs_f64(),
    );
    row("its CPU in the host, s", 2, used.host_time.as_secs_f64());
}

/// Ticks one after the other, with nothing due.
async fn quiet_ticks(server: &Server) {
    // The first ones after a start learn what the schedule remembers.
    server.write("smtp/ticks", json!({ "ticks": 5 })).await;
    let before = Usage::now(server).await;
    let answer = server.write("smtp/ticks", json!({ "ticks": TICKS })).await;
    let used = Usage::since(server, &before).await;
    let calls = number(&answer, "calls") as f64 / TICKS as f64;
    let seconds = answer["data"]["seconds"].as_f64().unwrap();
    let each = |time: Duration| micros(time) / TICKS as f64;
    row("storage calls of a quiet tick", 2, calls);
    row("its time, µs", 0, seconds * 1e6 / TICKS as f64);
    row("its CPU in the plugin, µs", 0, each(used.plugin_time));
    row("its CPU in the host, µs", 0, each(used.host_time));
}

/// The host's own ticks while nobody asks for anything. Its processor time is all of the host's.
async fn watch(server: &Server, seconds: u64) {
    let before = Usage::now(server).await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = Usage::since(server, &before).await;
    let each = |time: Duration| time.as_secs_f64() * 1e3 * 60.0 / seconds as f64;
    println!(
        "| ticks of the host in {seconds} s without requests | {} |",
        used.ticks
    );
    println!("| storage calls in that time | {} |", used.calls);
    row("CPU of the plugin, ms a minute", 0, each(used.plugin_time));
    row(
        "CPU of the host, all it does, ms a minute",
        0,
        each(used.host_time),
    );
}
