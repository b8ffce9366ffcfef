//! `status` and `metrics` of the mount.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, SecondsFormat, Utc};
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::logical::{
    ReplicationState, StaticSystemView, Storage as _, StorageEntry,
};

use crate::batches::{Fleet, account, server};
use crate::support::engine::{Host, Rig};
use crate::support::mailbox::Mailbox;
use crate::support::world::simulate;

/// Every sample of the metrics by its name with labels, after checking the format.
pub(crate) async fn metrics(host: &Host) -> BTreeMap<String, f64> {
    let (kind, body) = host.read("metrics").await.ok().raw.unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(body.ends_with('\n'));
    let mut samples = BTreeMap::new();
    let (mut helped, mut typed) = (String::new(), String::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && !typed.contains(name), "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped);
            assert!(matches!(kind, "gauge" | "counter"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            typed = name.to_owned();
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next(), Some(typed.as_str()), "{line}");
            let before = samples.insert(name.to_owned(), value.parse().unwrap());
            assert_eq!(before, None, "{name} twice");
        }
    }
    samples
}

/// Two in drift, one paused, a batch that is over; the last tick is seven seconds ago.
async fn fleet_in_trouble() -> Fleet {
    let fleet = Fleet::of(12, 3).await;
    let host = fleet.host.clone();
    for index in [0, 3] {
        let name = super::super::batches::tenant(index);
        let foreign = Mailbox::new("foreign");
        fleet
            .world
            .mail
            .edit(&server(0), &account(&name), |it| *it = foreign);
        host.write(&format!("{name}/verify"), json!({})).await;
        fleet.world.later(60).await;
    }
    host.write("t0001/pause", json!({ "until": "30d" }))
        .await
        .ok();
    // A change whose answer is lost.
    fleet.world.mail.silence(&server(2), true);
    fleet
        .create(json!({ "action": "rotate", "tenants": "t0004,t0007" }))
        .await;
    host.tick().await;
    fleet.world.later(60).await;
    host.tick().await;
    fleet.world.later(7).await;
    fleet
}

#[test]
fn the_metrics_are_those_of_the_tenants() {
    simulate(async {
        let fleet = fleet_in_trouble().await;
        let host = &fleet.host;
        let samples = metrics(host).await;
        for (name, count) in [
            ("smtp_tenants", 12.0),
            ("smtp_tenants_drift", 2.0),
            ("smtp_tenants_paused", 1.0),
            ("smtp_last_tick_age_seconds", 7.0),
            ("smtp_tenants_attention", 2.0),
            (
                "smtp_rotations_total{type=\"bulk\",outcome=\"success\"}",
                2.0,
            ),
            (
                "smtp_rotations_total{type=\"manual\",outcome=\"success\"}",
                0.0,
            ),
            ("smtp_batches_ended_total{state=\"done\"}", 1.0),
            ("smtp_drifts_total", 2.0),
            ("smtp_batch_running", 0.0),
        ] {
            assert_eq!(samples.get(name), Some(&count), "{name}");
        }
    });
}

/// After a failed upgrade a server may name another version than the one that answers.
#[test]
fn what_runs_is_said_by_itself() {
    simulate(async {
        let fleet = Fleet::of(1, 1).await;
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let first = fleet.host.read("status").await.ok();
        assert_eq!(first.get("version"), env!("CARGO_PKG_VERSION"));
        fleet.world.later(60).await;
        let again = fleet.host.read("status").await.ok();
        assert_eq!(again.get("started_at"), first.get("started_at"));
        let next = fleet.world.sound_process();
        let status = next.read("status").await.ok();
        assert_eq!(status.text_of("started_at"), text(fleet.world.clock.now()));
        assert_ne!(status.get("started_at"), first.get("started_at"));
    });
}

#[test]
fn the_counts_are_those_of_the_tenants() {
    simulate(async {
        let fleet = fleet_in_trouble().await;
        let host = &fleet.host;
        let status = host.read("status").await.ok();
        for (name, count) in [
            ("tenants", 12),
            // Two of them were changed within the last minutes, and are looked at again.
            ("open", 5),
            ("drift", 2),
            ("paused", 1),
            ("uncertain", 0),
            ("due", 0),
            ("overdue", 0),
            ("failing", 0),
            ("attention_total", 2),
            ("tick_age", 7),
        ] {
            assert_eq!(status.get(name), count, "{name}: {:?}", status.data);
        }
        assert_eq!(status.get("audit"), "unproven");
        assert!(status.get("batch").is_null(), "it is done");
        let attention = status.get("attention").as_array().unwrap();
        let listed: Vec<(&Value, &Value)> = attention
            .iter()
            .map(|it| (&it["tenant"], &it["code"]))
            .collect();
        let code = json!("foreign_password");
        assert_eq!(
            listed,
            [(&json!("t0000"), &code), (&json!("t0003"), &code)],
            "oldest first"
        );
        assert!(attention[0]["hint"].as_str().unwrap().contains("cas"));
        assert_eq!(status.get("plan").as_array().unwrap().len(), 7);
        // What became well again is counted no more.
        host.write("t0000/rotate", json!({})).await.ok();
        for _ in 0..20 {
            fleet.world.later(60).await;
            host.tick().await;
        }
        let status = host.read("status").await.ok();
        assert_eq!(
            (status.get("drift"), status.get("attention_total")),
            (&json!(1), &json!(1))
        );
        assert_eq!(
            fleet
                .host
                .write("new/config", crate::support::world::server())
                .await
                .status,
            204
        );
        assert_eq!(
            host.read("status").await.get("tenants"),
            13,
            "counted as it comes"
        );
    });
}

/// A sweep that hangs: it is said to be under way, and the end of the one before it stays.
#[test]
fn a_sweep_that_hangs_is_seen() {
    simulate(async {
        let mut fleet = Fleet::of(3, 1).await;
        let name = "smtp_sweep_finished_timestamp_seconds";
        let before = metrics(&fleet.host).await[name];
        fleet.world.later(24 * 3600).await;
        fleet.plan.hold("list tenant/");
        let look = async {
            fleet.plan.holds().await;
            let samples = metrics(&fleet.host).await;
            assert_eq!(samples["smtp_sweep_running"], 1.0);
            assert_eq!(samples[name], before);
            fleet.plan.release();
        };
        tokio::join!(fleet.host.tick(), look);
        let samples = metrics(&fleet.host).await;
        assert_eq!(samples["smtp_sweep_running"], 0.0);
        assert!(samples[name] > before);
        // The first one of a process.
        fleet.restart();
        fleet.plan.hold("list tenant/");
        let look = async {
            fleet.plan.holds().await;
            let samples = metrics(&fleet.host).await;
            assert_eq!(samples["smtp_sweep_running"], 1.0);
            assert_eq!(samples.get(name), None);
            fleet.plan.release();
        };
        tokio::join!(fleet.host.tick(), look);
    });
}

/// Records that cannot be read are shown for as long as a pointer leads to them.
#[test]
fn a_record_that_cannot_be_read_needs_a_person() {
    simulate(async {
        let mut fleet = Fleet::of(3, 1).await;
        fleet
            .host
            .write("t0000/pause", json!({ "until": "80d" }))
            .await
            .ok();
        let t0001 = fleet.world.record("t0001").await.unwrap();
        let day = t0001.credential.unwrap().due_day.unwrap();
        for name in ["t0000", "t0001"] {
            let damaged = StorageEntry::new(format!("tenant/{name}"), b"{}".to_vec());
            fleet.world.storage.put(damaged).await.unwrap();
        }
        fleet.restart();
        fleet.host.tick().await;
        let unreadable = async |fleet: &Fleet| -> Vec<(String, String)> {
            let status = fleet.host.read("status").await.ok();
            let listed = status.get("attention").as_array().unwrap();
            let listed = listed.iter().filter(|it| it["code"] == "record_unreadable");
            let text = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
            listed
                .map(|it| {
                    assert!(text(it, "hint").contains("backup"), "{it}");
                    (text(it, "tenant"), text(it, "since"))
                })
                .collect()
        };
        let first = unreadable(&fleet).await;
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(first[0].0, "t0000", "its pointer is in open/");
        fleet.world.later(60).await;
        fleet.host.tick().await;
        assert_eq!(unreadable(&fleet).await, first, "since the first look");
        // After each gap between ticks the schedule waits for a check: not every day is looked at.
        let mut later = first.clone();
        while later.len() < 2 && fleet.world.clock.now().date_naive() < day + Days::new(5) {
            fleet.world.later(24 * 3600).await;
            fleet.host.tick().await;
            later = unreadable(&fleet).await;
        }
        assert_eq!(later.len(), 2, "{later:?}");
        assert_eq!(later[0].0, "t0000");
        assert_eq!(later[1].0, "t0001", "its pointer is one of a day");
    });
}

/// What one answer costs does not grow with the tenants.
#[test]
fn many_tenants_cost_no_more_than_few() {
    let cost = |tenants| {
        simulate(async move {
            let fleet = Fleet::of(tenants, 5).await;
            fleet.host.tick().await;
            // The first one counts the tenants, page by page.
            fleet.host.read("status").await.ok();
            metrics(&fleet.host).await;
            fleet.plan.arm([]);
            fleet.host.read("status").await.ok();
            let status = fleet.plan.calls().len();
            fleet.plan.arm([]);
            metrics(&fleet.host).await;
            (status, fleet.plan.calls().len())
        })
    };
    let (few, many) = (cost(5), cost(400));
    assert_eq!(few, many);
    assert!(many.0 <= 12 && many.1 <= 2, "{many:?}");
}

#[test]
fn a_hundred_are_listed_and_all_are_counted() {
    simulate(async {
        let fleet = Fleet::of(130, 1).await;
        for index in 0..130 {
            let name = super::super::batches::tenant(index);
            fleet.world.mail.remove(&server(0), &account(&name));
            fleet.host.write(&format!("{name}/verify"), json!({})).await;
        }
        fleet.host.tick().await;
        let status = fleet.host.read("status").await.ok();
        assert_eq!(status.get("attention").as_array().unwrap().len(), 100);
        assert_eq!(status.get("attention_total"), 130);
    });
}

#[tokio::test]
async fn a_standby_forwards_and_a_process_before_its_first_tick_says_so() {
    let rig = Rig::created().await;
    let standby = rig.process(StaticSystemView {
        replication_state: ReplicationState(0x6000),
        ..StaticSystemView::default()
    });
    for path in ["status", "metrics"] {
        standby.read(path).await.fails(0, "read_only");
    }
    let fresh = rig.process(StaticSystemView::default());
    let status = fresh.read("status").await.ok();
    assert!(status.get("last_tick").is_null() && status.get("tick_age").is_null());
    let samples = metrics(&fresh).await;
    assert!(!samples.contains_key("smtp_last_tick_age_seconds"));
    assert_eq!(samples["smtp_tenants"], 1.0);
}

/// No number may tell whose it is.
#[tokio::test]
async fn the_metrics_name_nobody() {
    let rig = Rig::created().await;
    rig.tick().await;
    let (_, body) = rig.read("metrics").await.ok().raw.unwrap();
    for word in ["acme", "example.test", "https", "127.0.0.1", "localhost"] {
        assert!(!body.contains(word), "{word}: {body}");
    }
}
