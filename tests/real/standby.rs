//! A standby node beside the active one: who answers what, and what a client sees of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::api::Answer;
use super::cluster::{Asked, Cluster};
use super::harness::tests;
use super::product::{Need, Product};
use super::rig::{EMAIL, Rig};
use super::server::{PLUGIN, VERSION, until};
use crate::support::mailu::standin::{Fault, Rule};

tests! {
    a_standby_s_plugin_starts_and_takes_its_ticks_without_a_complaint needs [PluginOnStandby],
    a_standby_answers_reads_itself needs [PluginOnStandby],
    a_standby_leaves_everything_else_to_the_active_node,
    a_refusal_is_the_same_through_either_node,
    a_standby_learns_of_every_change,
    a_standby_says_uncertain_while_a_change_is_open,
    a_client_may_have_a_standby_s_answer_wrapped,
}

/// The lines that the server's log has about the mount: the host's and the plugin's.
async fn log_lines(rig: &Rig) -> Vec<String> {
    let mount = rig.api.read(&format!("sys/mounts/{}", rig.mount)).await;
    let accessor = mount.data()["accessor"].as_str().unwrap();
    let log = rig.server.log();
    let lines = log.lines().filter(|line| line.contains(accessor));
    lines.map(str::to_owned).collect()
}

/// Waits for the tick that the host sends once a minute, and for the plugin's good answer.
async fn until_ticked(rig: &Rig) {
    let answered = r#"handle request: transport=gRPC path="" status=finished err=<nil>"#;
    let ticked = async {
        while !log_lines(rig)
            .await
            .iter()
            .any(|line| line.contains(answered))
        {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(70), ticked).await;
    within.expect("a tick within a minute");
}

/// The lines of the server's log about any mount of the plugin that ask for attention.
fn complaints(rig: &Rig) -> Vec<String> {
    let log = rig.server.log();
    let lines = log.lines().filter(|line| line.contains(PLUGIN));
    let bad = lines.filter(|line| line.contains("[WARN]") || line.contains("[ERROR]"));
    bad.map(str::to_owned).collect()
}

/// The host sends ticks to every node; with nothing due they are all that happens for a minute.
async fn a_standby_s_plugin_starts_and_takes_its_ticks_without_a_complaint() {
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("quiet", Some(VERSION)).await;
    let [one, two] = cluster.nodes();
    assert_ne!(one.plugin(), two.plugin(), "each node runs its own");
    active.create("acme").await;
    let before = active.admin("acme").await;
    let changes = || {
        let journal = active.mailu.journal();
        journal.iter().filter(|call| call.method != "GET").count()
    };
    let changed = changes();

    let initialised = "initialize: transport=gRPC status=finished err=<nil>";
    let started = log_lines(&standby).await;
    assert!(started.iter().any(|line| line.contains(initialised)));

    tokio::join!(until_ticked(&active), until_ticked(&standby));
    assert_eq!(
        changes(),
        changed,
        "a tick's sweep looks and changes nothing"
    );
    assert_eq!(active.admin("acme").await, before);
    assert_eq!(complaints(&active), Vec::<String>::new());
    assert_eq!(complaints(&standby), Vec::<String>::new());
    standby.assert_nothing_leaked();
}

/// Passwords that Mailu was sent and took.
fn password_writes(rig: &Rig) -> usize {
    let journal = rig.mailu.journal();
    let writes = journal.iter().filter(|call| call.password_sha256.is_some());
    writes.inspect(|call| assert!(call.applied)).count()
}

/// Waits until the standby has heard of all that made the tenant.
async fn until_known(standby: &Rig) {
    until("the standby has the tenant", async || {
        let answer = standby.read("acme/admin").await;
        (answer.body["data"]["state"] == "settled").then_some(())
    })
    .await;
}

async fn a_standby_answers_reads_itself() {
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("reads", Some(VERSION)).await;
    active.create("acme").await;
    until_known(&standby).await;
    let calls = active.mailu.journal().len();
    let asked = [
        (Asked::Read, "acme/admin"),
        (Asked::Read, "acme/config"),
        (Asked::Read, "acme/versions/1"),
        (Asked::Read, "config"),
        (Asked::List, "acme/versions"),
        (Asked::List, "tenants"),
        (Asked::List, ""),
    ];
    for (asked, path) in asked {
        let answer = match asked {
            Asked::List => standby.list(path).await,
            _ => standby.read(path).await,
        };
        answer.data();
        let path = standby.path(path);
        assert!(standby.server.answered(asked, &path) > 0, "{path}");
        assert_eq!(standby.server.forwarded(asked, &path), 0, "{path}");
        assert_eq!(active.server.answered(asked, &path), 0, "{path}");
    }
    let admin = standby.admin("acme").await;
    assert_eq!(admin["state"], "settled");
    active
        .assert_live(admin["password"].as_str().unwrap())
        .await;
    assert_eq!(active.mailu.journal().len(), calls, "reads ask nobody");
    standby.assert_nothing_leaked();
}

async fn a_standby_leaves_everything_else_to_the_active_node() {
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("writes", Some(VERSION)).await;
    let write = async |path: &str, body: Value, count: usize| {
        let answer = standby.write(path, body).await;
        assert!(
            matches!(answer.status, 200 | 204),
            "{path}: {}",
            answer.body
        );
        assert_left_to_the_active_node(&active, &standby, Asked::Write, path, count);
        answer
    };
    write("acme/config", standby.server_config(), 1).await;
    let created = write("acme/admin", json!({"username": EMAIL}), 1).await;
    assert_eq!(created.data()["proof"], "hash");
    assert_eq!(password_writes(&active), 1);
    let rotated = write("acme/rotate", json!({"reason": "a test"}), 1).await;
    assert_eq!(rotated.data()["version"], 2);
    assert_eq!(password_writes(&active), 2, "once, on one node");
    let verified = write("acme/verify", json!({}), 1).await;
    assert_eq!(verified.data()["live_version"], 2);

    let path = standby.path("acme/admin");
    let patched = standby.api.patch(&path, json!({"rotation_policy": "90d"}));
    patched.await.data();
    assert_left_to_the_active_node(&active, &standby, Asked::Write, "acme/admin", 2);
    standby.delete("acme/admin").await.no_content();
    assert_left_to_the_active_node(&active, &standby, Asked::Write, "acme/admin", 3);
    write("acme/undelete", json!({}), 1).await;

    // What may lag behind is asked where it is true.
    let status = standby.read("acme/status").await;
    assert_eq!(status.data()["state"], "settled");
    assert_left_to_the_active_node(&active, &standby, Asked::Read, "acme/status", 1);
    let events = standby.read("acme/events").await;
    assert_eq!(events.data(), active.read("acme/events").await.data());
    assert_eq!(
        standby
            .server
            .forwarded(Asked::Read, &standby.path("acme/events")),
        left(1)
    );
    let events = events.data()["events"].as_array().unwrap();
    let count = |name: &str| events.iter().filter(|it| it["event"] == name).count();
    assert_eq!(count("smtp_credentials_stored"), 1, "{events:#?}");
    assert_eq!(count("smtp_credentials_rotated"), 1, "{events:#?}");

    let destroy = json!({"reason": "left", "confirm": "acme"});
    write("acme/destroy", destroy, 1).await;
    assert_eq!(password_writes(&active), 2);
    standby.assert_nothing_leaked();
    active.assert_nothing_leaked();
}

/// Requires that the standby answered none of the `count` requests, and the active node each. Where
/// the standby runs the plugin, it has them in its own audit file as left to the other one.
fn assert_left_to_the_active_node(
    active: &Rig,
    standby: &Rig,
    asked: Asked,
    path: &str,
    count: usize,
) {
    let path = standby.path(path);
    let counted = [
        standby.server.answered(asked, &path),
        standby.server.forwarded(asked, &path),
        active.server.answered(asked, &path),
    ];
    assert_eq!(counted, [0, left(count), count], "{path}");
}

/// How many of `count` requests a standby's own plugin left to the active node: each, if there is
/// one.
fn left(count: usize) -> usize {
    if Product::tested().can(Need::PluginOnStandby) {
        count
    } else {
        0
    }
}

/// What a client makes of a refusal.
fn refusal(answer: &Answer) -> (u16, &str, &Value) {
    (answer.status, answer.error(), &answer.body["data"])
}

async fn a_refusal_is_the_same_through_either_node() {
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("forwarded-errors", Some(VERSION)).await;
    active.create("acme").await;
    until_known(&standby).await;
    for (path, body, status, code) in [
        ("acme/admin", json!({"cas": 7}), 409, "cas_mismatch"),
        ("acme/admin", json!({"cas": "seven"}), 400, "invalid_field"),
        (
            "acme/admin",
            json!({"username": "b@example.test"}),
            400,
            "username_fixed",
        ),
        (
            "acme/config",
            json!({"mailu_url": "https://other.example"}),
            400,
            "token_required",
        ),
        (
            "acme/destroy",
            json!({"reason": "left", "confirm": "acne"}),
            400,
            "confirm_mismatch",
        ),
        ("config", json!({"wait": 26}), 400, "invalid_config"),
        ("nobody/rotate", json!({}), 404, "unknown_tenant"),
        ("other/admin", json!({"username": EMAIL}), 400, "no_server"),
        ("Acme/rotate", json!({}), 400, "invalid_tenant"),
        ("acme/nonsense", json!({}), 404, "unsupported_path"),
    ] {
        let through = standby.write(path, body.clone()).await;
        assert_eq!((through.status, through.code()), (status, code), "{path}");
        let direct = active.write(path, body).await;
        assert_eq!(refusal(&through), refusal(&direct), "{path}");
    }
    let through = standby.delete("acme/config").await;
    let direct = active.delete("acme/config").await;
    assert_eq!(refusal(&through), refusal(&direct));
    assert_eq!(through.code(), "credential_exists");
    reads_are_refused_alike(&active, &standby).await;

    standby.mailu.set_admin_down(true);
    let through = standby.rotate("acme").await;
    assert_eq!((through.status, through.code()), (503, "mailu_unreachable"));
    standby.mailu.set_admin_down(false);
    let warned = standby.write("config", json!({"wiat": "9s"})).await;
    assert!(warned.warnings().contains("wiat"), "{}", warned.body);
    standby.assert_nothing_leaked();
}

async fn reads_are_refused_alike(active: &Rig, standby: &Rig) {
    for (path, status) in [
        ("nobody/status", 404),
        ("nobody/events", 404),
        ("nobody/admin", 404),
        ("acme/rotate", 405),
    ] {
        let through = standby.read(path).await;
        assert_eq!(through.status, status, "{path}: {}", through.body);
        assert_eq!(
            refusal(&through),
            refusal(&active.read(path).await),
            "{path}"
        );
    }
}

/// Six changes of the password and of the settings, each after the ones before were read: what
/// the standby keeps in memory it may trust for ten seconds, but the active node's notice comes
/// sooner. Six times ten seconds would be too long.
async fn a_standby_learns_of_every_change() {
    /// Ten seconds of pauses.
    const PATIENCE: usize = 400;
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("fresh", Some(VERSION)).await;
    active.create("acme").await;
    let mut pauses = 0;
    let mut wait_for = async |version: u64, ttl: u64| {
        loop {
            let answer = standby.read("acme/admin").await;
            let admin = &answer.body["data"];
            if admin["version"] == version && admin["state"] == "settled" && admin["ttl"] == ttl {
                return admin["password"].as_str().unwrap().to_owned();
            }
            pauses += 1;
            assert!(pauses < PATIENCE, "the standby still says {}", answer.body);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let mut known = wait_for(1, 300).await;
    for version in 2..=7 {
        let through = if version % 2 == 0 { &standby } else { &active };
        assert_eq!(through.rotate("acme").await.data()["version"], version);
        let settings = json!({"refresh_interval": 60 * version});
        through.write("config", settings).await.no_content();
        let fresh = wait_for(version, 60 * version).await;
        active.assert_live(&fresh).await;
        active.assert_dead(&known).await;
        known = fresh;
    }
    assert_eq!(password_writes(&active), 7);
    let written = active.write("zeta/config", active.server_config());
    written.await.no_content();
    until("the standby lists the new tenant", async || {
        let list = standby.list("tenants").await;
        (list.data()["keys"] == json!(["acme", "zeta"])).then_some(())
    })
    .await;
    standby.assert_nothing_leaked();
}

async fn a_standby_says_uncertain_while_a_change_is_open() {
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("open", Some(VERSION)).await;
    active.create("acme").await;
    let first = active.password("acme").await;
    active
        .mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let (rotated, candidate) = tokio::join!(standby.rotate("acme"), async {
        active.until_held().await;
        let admin = until("the standby knows of the open change", async || {
            let answer = standby.read("acme/admin").await;
            let admin = answer.body["data"].clone();
            (admin["state"] == "uncertain").then_some(admin)
        })
        .await;
        assert_eq!(admin["password"], *first);
        assert_eq!(admin["ttl"], 15);
        active.mailu.release().await;
        admin["candidates"][0]["password"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(rotated.data()["version"], 2);
    until("the standby says settled again", async || {
        let admin = standby.admin("acme").await;
        (admin["state"] == "settled" && admin["password"] == *candidate).then_some(())
    })
    .await;
    active.assert_live(&candidate).await;
    assert_eq!(password_writes(&active), 2);
}

async fn a_client_may_have_a_standby_s_answer_wrapped() {
    let cluster = Cluster::shared().await;
    let (active, standby) = cluster.rigs("wrapped", Some(VERSION)).await;
    active.create("acme").await;
    until_known(&standby).await;
    let path = standby.path("acme/admin");
    let request = standby.api.request("GET", &path);
    let wrapped = standby
        .api
        .send(request.header("X-Vault-Wrap-TTL", "60"))
        .await;
    assert_eq!(wrapped.status, 200, "{}", wrapped.body);
    assert_eq!(wrapped.body["data"], Value::Null);
    let token = wrapped.body["wrap_info"]["token"].as_str().unwrap();
    let holder = standby.api.with_token(token);
    let unwrapped = holder.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(unwrapped.data()["password"], active.password("acme").await);
    let again = holder.write("sys/wrapping/unwrap", json!({})).await;
    assert!(again.status >= 400, "once only: {}", again.body);
    standby.assert_nothing_leaked();
}
