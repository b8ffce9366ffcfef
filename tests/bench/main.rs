//! The benchmark: the plugin in a real server beside the server's own engines, in one run.
//!
//! Targets take turns, round after round, so that a machine that slows down slows all of them;
//! what is quoted are ratios round by round. `bench raft` and `bench audit` measure something else: see
//! `raft.rs` and `audit.rs`.
//! See `scripts/bench`, which builds and calls this.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a program that measures: it stops at the unexpected, prints, and asks the clock"
)]

mod audit;
mod load;
mod raft;
mod report;
mod server;

#[path = "../standin/mod.rs"]
mod standin;

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use load::Target;
use report::Table;
use serde_json::{Value, json};
use server::{Server, TOKEN};

/// Tenants in the mount; reads go round them.
const TENANTS: usize = 100;
const ANSWER: &str = include_str!("answer.json");

struct Settings {
    bao: PathBuf,
    plugin: PathBuf,
    product: PathBuf,
    rounds: usize,
    time: Duration,
}

impl Settings {
    /// `bench <bao> <bench-plugin> <product> [rounds] [milliseconds each]`
    fn parse() -> Self {
        let mut args = std::env::args().skip(1);
        let mut next = |what: &str| args.next().unwrap_or_else(|| panic!("missing: {what}"));
        let (bao, plugin, product) = (next("bao"), next("plugin"), next("product"));
        let number = |text: Option<String>, default| {
            text.map_or(default, |text| text.parse().expect("a number"))
        };
        Self {
            bao: bao.into(),
            plugin: plugin.into(),
            product: product.into(),
            rounds: number(args.next(), 5) as usize,
            time: Duration::from_millis(number(args.next(), 2_000)),
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if std::env::args().nth(1).as_deref() == Some("raft") {
        return runtime.block_on(raft::raft(&raft::Settings::parse()));
    }
    if std::env::args().nth(1).as_deref() == Some("audit") {
        return runtime.block_on(audit::audit(&audit::Settings::parse()));
    }
    let settings = Settings::parse();
    // The stand-in hashes: on threads of its own, so that it never shares the load's.
    let mailu_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mailu = mailu_runtime.block_on(mailu());
    runtime.block_on(bench(&settings, &mailu));
}

fn account(number: usize) -> String {
    format!("smtp-admin-{number:03}@example.test")
}

async fn mailu() -> standin::MailuStandin {
    let config = (0..TENANTS).fold(standin::Config::default(), |config, number| {
        config.user(&account(number), "the-password-before-all-of-this")
    });
    standin::MailuStandin::start(config).await.unwrap()
}

async fn bench(settings: &Settings, mailu: &standin::MailuStandin) {
    let server = Server::start(&settings.bao, &settings.plugin).await;
    fill(&server, mailu).await;
    report::machine(&settings.bao);
    for connections in [1, 16] {
        let mut reads = Table::new(&format!("Reads, {connections} at a time"));
        measure(settings, &server, &reads_of(), connections, &mut reads).await;
        reads.print(&["null route", "kv v1", "kv v2", "one storage Get"]);
    }
    for connections in [1, 16] {
        let mut writes = Table::new(&format!("Writes, {connections} at a time"));
        measure(settings, &server, &writes_of(), connections, &mut writes).await;
        writes.print(&["kv v1", "kv v2"]);
    }
    let (now, most) = server.memory();
    println!("\nplugin's resident memory after this load: {now:.1} MiB, at most {most:.1} MiB");
    let size = std::fs::metadata(&settings.product).unwrap().len();
    println!("release binary: {:.1} MB", size as f64 / 1e6);
    let handshake = server::handshake(&settings.product, 21);
    println!("exec to handshake line, median of 21: {handshake:.1} ms");
}

async fn fill(server: &Server, mailu: &standin::MailuStandin) {
    let config = json!({
        "mailu_url": mailu.url(),
        "ca_cert": mailu.ca_pem(),
        "api_token": mailu.token(),
    });
    for number in 0..TENANTS {
        let path = format!("smtp/tenant-{number:03}/config");
        server.write(&path, config.clone()).await;
        let body = json!({
            "username": account(number),
            "admin_emails": ["ops@example.test"],
            "webmail_url": "https://mail.example.test/webmail",
        });
        let path = format!("smtp/tenant-{number:03}/admin");
        server.write(&path, body).await;
        let read = server.read(&path).await;
        assert_eq!(read["data"]["state"], "settled");
        let data: Value = serde_json::from_str(ANSWER).unwrap();
        let path = format!("kv1/tenant-{number:03}");
        server.write(&path, data.clone()).await;
        let path = format!("kv2/data/tenant-{number:03}");
        server.write(&path, json!({ "data": data })).await;
    }
}

fn target(name: &'static str, paths: Vec<String>) -> Target {
    Target {
        name,
        method: Method::GET,
        paths,
        bodies: Vec::new(),
        status: 200,
    }
}

fn each(before: &str, after: &str) -> Vec<String> {
    (0..TENANTS)
        .map(|number| format!("{before}tenant-{number:03}{after}"))
        .collect()
}

fn reads_of() -> Vec<Target> {
    vec![
        target("sys/health", vec![String::from("sys/health")]),
        target("kv v1", each("kv1/", "")),
        target("kv v2", each("kv2/data/", "")),
        target("null route", vec![String::from("smtp/null")]),
        target("one storage Get", each("smtp/get/", "")),
        target("admin", each("smtp/", "/admin")),
    ]
}

fn writes_of() -> Vec<Target> {
    let write = |name, paths, bodies: [Value; 2], status| Target {
        method: Method::POST,
        bodies: bodies.map(|body| body.to_string()).to_vec(),
        status,
        ..target(name, paths)
    };
    let data = |url: &str| {
        let mut data: Value = serde_json::from_str(ANSWER).unwrap();
        data["webmail_url"] = json!(url);
        data
    };
    let urls = ["https://a.example.test/", "https://b.example.test/"];
    vec![
        write("kv v1", each("kv1/", ""), urls.map(data), 204),
        write(
            "kv v2",
            each("kv2/data/", ""),
            urls.map(|url| json!({ "data": data(url) })),
            200,
        ),
        write(
            "admin",
            each("smtp/", "/admin"),
            urls.map(|url| json!({ "webmail_url": url })),
            200,
        ),
    ]
}

async fn measure(
    settings: &Settings,
    server: &Server,
    targets: &[Target],
    connections: usize,
    table: &mut Table,
) {
    for _ in 0..settings.rounds {
        for target in targets {
            let figures =
                load::run(&server.address, TOKEN, target, connections, settings.time).await;
            table.add(target.name, figures);
        }
    }
}
