//! How fast events reach the audit devices of a real server with raft storage, beside what its own
//! requests cost, and what that adds to a scheduled rotation.
//!
//! The tenants are stored by the plugin's route `seed`, past the engine: after a start of the plugin
//! their events wait in storage and nothing is in memory. Then the way is set.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{Timelike as _, Utc};
use hyper::Method;
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;

use super::load::{self, Target};
use super::raft::{Usage, number, seed};
use super::report::{self, median};
use super::server::Server;

/// For how long each plain request is asked in a round.
const PLAIN: Duration = Duration::from_millis(1_000);
/// When the tenants of a check are due, in seconds after they were stored: the time for delivering
/// what waits, and for the sweep.
const DUE_IN: u64 = 75;
/// Storage calls of a tick in which something was done.
const BUSY: u64 = 20;

pub struct Settings {
    bao: PathBuf,
    plugin: PathBuf,
    rounds: u64,
    tenants: u64,
    due: u64,
}

impl Settings {
    /// `bench audit <bao> <bench-plugin> [rounds] [tenants of a round] [due tenants]`
    pub fn parse() -> Self {
        let mut args = std::env::args().skip(2);
        let (bao, plugin) = (args.next().expect("bao"), args.next().expect("plugin"));
        let mut number = |usual| {
            args.next()
                .map_or(usual, |text| text.parse().expect("a number"))
        };
        Self {
            bao: bao.into(),
            plugin: plugin.into(),
            rounds: number(5),
            tenants: number(1_000),
            due: number(300),
        }
    }
}

pub async fn audit(settings: &Settings) {
    report::machine(&settings.bao);
    deliver(settings).await;
    if settings.due > 0 {
        println!(
            "\n| scheduled rotations: way | storage calls each | time each | CPU in the plugin each | CPU in the host each |"
        );
        println!("|---|---:|---:|---:|---:|");
        for (way, mode) in [
            ("no way set", None),
            ("delivering", Some("best_effort")),
            ("required", Some("required")),
        ] {
            rotate(settings, way, mode).await;
        }
    }
}

/// A server with a device, and a role that may emit events.
async fn start(settings: &Settings) -> (Server, Value) {
    let server = Server::start_on_raft(&settings.bao, &settings.plugin, true).await;
    let keys = json!({ "audit_non_hmac_response_keys": EXEMPT_RESPONSE_KEYS });
    server.write("sys/mounts/smtp/tune", keys).await;
    let rules = r#"path "smtp/events/emit/+/+" { capabilities = ["create", "update"] }"#;
    let policy = json!({ "policy": rules });
    server.write("sys/policies/acl/emitter", policy).await;
    let approle = json!({ "type": "approle" });
    server.write("sys/auth/approle", approle).await;
    let role = json!({
        "token_type": "batch", "token_ttl": "10m", "token_policies": ["emitter"],
        "token_no_default_policy": true,
    });
    server.write("auth/approle/role/emitter", role).await;
    let role_id = server.read("auth/approle/role/emitter/role-id").await;
    let secret_id = server
        .write("auth/approle/role/emitter/secret-id", json!({}))
        .await;
    let way = json!({
        "mode": "loopback",
        "address": format!("http://{}", server.address),
        "role_id": role_id["data"]["role_id"],
        "secret_id": secret_id["data"]["secret_id"],
    });
    (server, way)
}

async fn undelivered(server: &Server) -> Option<u64> {
    let status = server.read("smtp/status").await;
    status["data"]["audit_delivery"]["undelivered"].as_u64()
}

async fn wait_until_delivered(server: &Server) {
    while undelivered(server).await != Some(0) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One round's figures, events or requests a second.
#[derive(Default)]
struct Rounds {
    plain: Vec<Vec<f64>>,
    delivered: Vec<f64>,
    collected: Vec<f64>,
    calls: Vec<f64>,
    plugin: Vec<f64>,
    host: Vec<f64>,
}

async fn deliver(settings: &Settings) {
    let (server, way) = start(settings).await;
    // Whenever this runs, no check is near.
    let hour = (Utc::now().hour() + 12) % 24;
    let config = json!({ "check_schedule": format!("0 {hour} * * *") });
    server.write("smtp/config", config).await;
    let (mut rounds, mut from) = (Rounds::default(), 0);
    for _ in 0..settings.rounds {
        let to = from + settings.tenants;
        fill(&server, from, to).await;
        rounds.plain.push(plain(&server, from, to).await);
        rounds.by_itself(&server, &way).await;
        from = to;
        let to = from + settings.tenants;
        fill(&server, from, to).await;
        rounds.by_collector(&server).await;
        from = to;
    }
    rounds.print();
}

/// Tenants whose events wait in storage.
async fn fill(server: &Server, from: u64, to: u64) {
    seed(server, from, to, 0).await;
    server.reload().await;
}

fn targets(from: u64, to: u64) -> [Target; 4] {
    let post = |name, paths, bodies, status| Target {
        name,
        method: Method::POST,
        paths,
        bodies,
        status,
    };
    let get = |name, path: &str| Target {
        name,
        method: Method::GET,
        paths: vec![path.to_owned()],
        bodies: Vec::new(),
        status: 200,
    };
    let emit = |number| format!("smtp/events/emit/t{number:06}/1");
    let body = vec![String::from("{}")];
    let value = vec![String::from(r#"{"value":"of the benchmark"}"#)];
    [
        get("sys/health", "sys/health"),
        get("null route, audited", "smtp/null"),
        post("events/emit", (from..to).map(emit).collect(), body, 200),
        post("kv v1 write", vec![String::from("kv1/one")], value, 204),
    ]
}

/// Plain requests over one kept connection, one at a time.
async fn plain(server: &Server, from: u64, to: u64) -> Vec<f64> {
    let mut figures = Vec::new();
    for target in targets(from, to) {
        let figure = load::run(&server.address, server.token(), &target, 1, PLAIN).await;
        figures.push(figure.per_second);
    }
    figures
}

impl Rounds {
    /// The emitter delivers what waits.
    async fn by_itself(&mut self, server: &Server, way: &Value) {
        let (lines, before) = (server.lines_of_events(), Usage::now(server).await);
        let begun = Instant::now();
        server.write("smtp/config/audit", way.clone()).await;
        wait_until_delivered(server).await;
        let taken = begun.elapsed().as_secs_f64();
        let used = Usage::since(server, &before).await;
        let events = (server.lines_of_events() - lines) as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / events;
        server.delete("smtp/config/audit").await;
        println!("{events} events delivered in {taken:.1} s");
        self.delivered.push(events / taken);
        self.calls.push(used.calls as f64 / events);
        self.plugin.push(each(used.plugin_time));
        self.host.push(each(used.host_time));
    }

    /// A collector outside fetches what waits.
    async fn by_collector(&mut self, server: &Server) {
        let mode = json!({ "mode": "external" });
        server.write("smtp/config/audit", mode).await;
        let (begun, mut events) = (Instant::now(), 0);
        loop {
            let flushed = server.write("smtp/events/flush", json!({})).await;
            let data = &flushed["data"];
            if data["receipt"].is_null() {
                break;
            }
            let receipt = json!({ "receipt": data["receipt"] });
            let answer = server.write("smtp/events/ack", receipt).await;
            events += number(&answer, "acknowledged");
        }
        let taken = begun.elapsed().as_secs_f64();
        println!("{events} events collected in {taken:.1} s");
        self.collected.push(events as f64 / taken);
        server.delete("smtp/config/audit").await;
    }

    fn print(&self) {
        println!("\n| one at a time | a second | emitter / this |\n|---|---:|---:|");
        for (index, target) in targets(0, 0).iter().enumerate() {
            let per_second: Vec<f64> = self.plain.iter().map(|round| round[index]).collect();
            let ratios = per_second.iter().zip(&self.delivered);
            let ratios = ratios.map(|(plain, own)| own / plain).collect();
            println!(
                "| {} | {:.0} | {:.2} |",
                target.name,
                median(per_second),
                median(ratios)
            );
        }
        let spread = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let most = values.iter().copied().fold(f64::MIN, f64::max);
            format!("{:.0} ({least:.0} to {most:.0})", median(values.to_vec()))
        };
        println!(
            "| **events by the emitter** | {} | |",
            spread(&self.delivered)
        );
        println!(
            "| events by flush and ack | {} | |",
            spread(&self.collected)
        );
        println!(
            "\nan event by the emitter: {:.2} storage calls, CPU {:.0} µs in the plugin, {:.0} µs in the host",
            median(self.calls.clone()),
            median(self.plugin.clone()),
            median(self.host.clone())
        );
    }
}

/// A check in which all are due, given by ticks.
async fn rotate(settings: &Settings, name: &str, mode: Option<&str>) {
    let (server, way) = start(settings).await;
    let check = json!({ "check_schedule": "* * * * *", "spread": "0s", "notify_before": "0s" });
    server.write("smtp/config", check).await;
    seed(&server, 0, settings.due, DUE_IN).await;
    server.reload().await;
    // The first tick sweeps.
    server.write("smtp/ticks", json!({ "ticks": 2 })).await;
    if let Some(mode) = mode {
        server.write("smtp/config/audit", way).await;
        wait_until_delivered(&server).await;
        let mode = json!({ "audit_mode": mode });
        server.write("smtp/config", mode).await;
        wait_until_delivered(&server).await;
    }
    let begun_tick = server.write("smtp/ticks", json!({ "ticks": 1 })).await;
    assert!(number(&begun_tick, "calls") < BUSY, "due too early");
    let (mut calls, mut seconds, mut used) = (0, 0.0, None);
    let mut left = settings.due;
    while left > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before_tick = Usage::now(&server).await;
        let answer = server.write("smtp/ticks", json!({ "ticks": 1 })).await;
        if number(&answer, "calls") > BUSY {
            calls += number(&answer, "calls");
            seconds += answer["data"]["seconds"].as_f64().unwrap();
            used.get_or_insert(before_tick);
            left = waiting_for_version_2(&server, settings.due).await;
        }
    }
    let used = Usage::since(&server, &used.unwrap()).await;
    let due = settings.due as f64;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / due;
    println!(
        "| {name} | {:.2} | {:.2} ms | {:.0} µs | {:.0} µs |",
        calls as f64 / due,
        seconds * 1e3 / due,
        each(used.plugin_time),
        each(used.host_time),
    );
}

async fn waiting_for_version_2(server: &Server, due: u64) -> u64 {
    // In the order of their names, the last ones are the last to have their turn, or nearly.
    let mut left = 0;
    for number in [0, due / 2, due - 1] {
        let read = server.read(&format!("smtp/t{number:06}/admin")).await;
        left += u64::from(read["data"]["version"] != 2);
    }
    left
}
