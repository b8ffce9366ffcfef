//! `config/alerts`, and what its rules make of events.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use super::mount_status::metrics;
use crate::support::engine::{Host, Rig};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, FIRST, SERVER, World, simulate};

const TENANTS: [&str; 3] = ["acme", "beta", "gamma"];

/// Three tenants with credentials, and a webhook that is told of what is told by default.
async fn world() -> (World, Host, Plan) {
    let world = World::new();
    let plan = Plan::simulated();
    let host = world.process(&plan);
    for tenant in TENANTS {
        let account = match tenant {
            "acme" => ACCOUNT.to_owned(),
            other => format!("smtp-{other}@example.test"),
        };
        world.mail.put(SERVER, &account, Mailbox::new(FIRST));
        world.configure(&host, tenant).await;
        let body = json!({ "username": account });
        host.write(&format!("{tenant}/admin"), body).await.ok();
        world.quiet(&host, tenant).await;
    }
    let hook = json!({
        "type": "webhook", "url": "https://hooks.ops.example/smtp",
        "hmac_key": "key-of-the-signature",
    });
    host.write("config/notify/hook", hook).await.ok();
    world.later(3600).await;
    (world, host, plan)
}

async fn look(host: &Host, tenant: &str) {
    let why = json!({ "reason": "on call" });
    let seen = host.write(&format!("{tenant}/reveal"), why).await.ok();
    assert_eq!(seen.get("event"), "smtp_credentials_revealed");
}

/// Looks at each tenant in turn, a minute apart.
async fn looks(world: &World, host: &Host, count: usize) {
    for tenant in TENANTS.into_iter().cycle().take(count) {
        look(host, tenant).await;
        world.later(60).await;
    }
}

/// The alerts of a tenant, oldest first; the chain is checked on the way.
async fn alerts(host: &Host, tenant: &str) -> Vec<Value> {
    let mut events = host.events(tenant).await;
    events.retain(|event| event["event"] == "smtp_suspicious_activity");
    events
}

/// The rules of all alerts of all tenants.
async fn rules(host: &Host) -> Vec<String> {
    let mut rules = Vec::new();
    for tenant in TENANTS {
        let alerts = alerts(host, tenant).await;
        let codes = alerts.iter().map(|alert| alert["error_code"].as_str());
        rules.extend(codes.map(|code| format!("{tenant} {}", code.unwrap())));
    }
    rules
}

/// What the webhook was told, after a tick.
async fn told(world: &World, host: &Host) -> Vec<String> {
    world.later(60).await;
    host.tick().await;
    world.notices.story()
}

#[test]
fn the_sixth_look_of_one_entity_within_an_hour_is_told_once() {
    simulate(async {
        let (world, host, _plan) = world().await;
        looks(&world, &host, 5).await;
        let bob = Host {
            caller: String::from("userpass-bob"),
            ..host.clone()
        };
        looks(&world, &bob, 5).await;
        assert!(rules(&host).await.is_empty(), "each has his own count");
        looks(&world, &host, 3).await;
        assert_eq!(rules(&host).await, ["acme many_reveals"]);
        let events = host.events("acme").await;
        let [.., cause, alert] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!(cause["event"], "smtp_credentials_revealed");
        for same in [
            "user_id",
            "display_name",
            "request_id",
            "reason",
            "timestamp",
        ] {
            assert_eq!(alert[same], cause[same], "{same}");
        }
        assert_eq!(alert["user_id"], "entity-of-userpass-alice");
        assert_eq!(alert["severity"], "critical");
        assert_eq!(alert["outcome"], "failure");
        let expected = ["hook smtp_suspicious_activity"];
        assert_eq!(told(&world, &host).await, expected);
        let message = &world.notices.delivered()[0];
        assert_eq!(message.error.as_ref().unwrap().code, "many_reveals");
        let samples = metrics(&host).await;
        let count =
            |rule: &str| samples[&format!("smtp_suspicious_activity_total{{rule=\"{rule}\"}}")];
        assert_eq!((count("many_reveals"), count("stale_storage")), (1.0, 0.0));
        // The next hour.
        world.later(3600).await;
        looks(&world, &host, 5).await;
        assert_eq!(rules(&host).await.len(), 1);
        look(&host, "beta").await;
        assert_eq!(
            rules(&host).await,
            ["acme many_reveals", "beta many_reveals"]
        );
    });
}

#[test]
fn a_new_process_goes_on_counting() {
    simulate(async {
        let (world, host, _plan) = world().await;
        looks(&world, &host, 5).await;
        let next = world.sound_process();
        look(&next, "gamma").await;
        assert_eq!(rules(&next).await, ["gamma many_reveals"]);
        let last = world.sound_process();
        looks(&world, &last, 3).await;
        assert_eq!(
            rules(&last).await.len(),
            1,
            "it was given by the one before"
        );
    });
}

#[test]
fn a_look_does_not_depend_on_what_the_rules_remember() {
    simulate(async {
        let (world, host, plan) = world().await;
        plan.deny(&["put watch"]);
        looks(&world, &host, 7).await;
        assert_eq!(
            rules(&host).await,
            ["gamma many_reveals"],
            "kept in the process"
        );
        assert!(world.storage.get("watch").await.unwrap().is_none());
        let plan = Plan::simulated();
        let host = world.process(&plan);
        plan.deny(&["get watch"]);
        looks(&world, &host, 7).await;
        assert_eq!(rules(&host).await.len(), 1);
        assert!(world.storage.get("watch").await.unwrap().is_none());
        // What cannot be read is begun anew.
        let damaged = StorageEntry::new("watch", b"{\"schema\":1}".to_vec());
        world.storage.put(damaged).await.unwrap();
        let host = world.sound_process();
        looks(&world, &host, 6).await;
        assert_eq!(rules(&host).await.len(), 2);
    });
}

#[test]
fn an_alert_that_was_not_stored_is_given_with_the_next_look() {
    simulate(async {
        let (world, host, plan) = world().await;
        looks(&world, &host, 5).await;
        plan.arm_named("cas tenant/gamma", 0, Kind::Refused, false);
        let why = json!({ "reason": "on call" });
        let refused = host.write("gamma/reveal", why.clone()).await;
        assert_eq!(refused.status, 500, "{refused:?}");
        assert!(rules(&host).await.is_empty());
        assert!(told(&world, &host).await.is_empty());
        look(&host, "acme").await;
        assert_eq!(rules(&host).await, ["acme many_reveals"]);
        assert_eq!(told(&world, &host).await.len(), 1);
        // Killed before it could be remembered that it was given: it comes twice, never not at all.
        world.later(3600).await;
        looks(&world, &host, 5).await;
        plan.arm_named("put watch", 1, Kind::Crash, false);
        let killed = host.write("gamma/reveal", why);
        tokio::select! {
            _ = killed => panic!("it was killed"),
            () = plan.crashed() => {}
        }
        let next = world.sound_process();
        assert_eq!(
            rules(&next).await,
            ["acme many_reveals", "gamma many_reveals"]
        );
        looks(&world, &next, 2).await;
        assert_eq!(rules(&next).await.len(), 3);
    });
}

#[test]
fn a_look_does_not_wait_for_that_of_the_same_entity_at_another_tenant() {
    simulate(async {
        let (world, host, plan) = world().await;
        looks(&world, &host, 5).await;
        plan.hold("cas tenant/acme");
        let second = async {
            plan.holds().await;
            let begun = tokio::time::Instant::now();
            look(&host, "beta").await;
            assert_eq!(tokio::time::Instant::now(), begun, "nobody waited");
            let order = json!({ "incident_id": "INC-1", "reason": "stolen" });
            host.write("gamma/reset", order).await.ok();
            // A reset takes its second look before it answers.
            let waited = tokio::time::Instant::now() - begun;
            assert_eq!(waited, std::time::Duration::from_secs(5), "for nobody else");
            plan.release();
        };
        tokio::join!(look(&host, "acme"), second);
        // At a race both are told: twice is better than never.
        assert_eq!(
            rules(&host).await,
            ["acme many_reveals", "beta many_reveals"]
        );
    });
}

#[test]
fn a_clock_that_is_set_back_accuses_nobody() {
    simulate(async {
        let (world, host, _plan) = world().await;
        looks(&world, &host, 5).await;
        world.clock.jump(chrono::TimeDelta::days(-1));
        looks(&world, &host, 5).await;
        assert!(rules(&host).await.is_empty());
        look(&host, "gamma").await;
        assert_eq!(rules(&host).await, ["gamma many_reveals"]);
    });
}

#[test]
fn a_look_outside_working_hours_is_told_once_for_each_tenant_and_hour() {
    simulate(async {
        let (world, host, _plan) = world().await;
        // It is Monday.
        let hours = json!({ "work_hours": "Mon-Fri 07:00-19:00,Sat 09:00-12:00" });
        host.write("config/alerts", hours).await.ok();
        looks(&world, &host, 3).await;
        assert!(rules(&host).await.is_empty());
        let offset = json!({ "time_zone": "Asia/Tokyo" });
        host.write("config/alerts", offset).await.ok();
        looks(&world, &host, 4).await;
        let each = TENANTS.map(|tenant| format!("{tenant} reveal_outside_hours"));
        let found = rules(&host).await;
        assert!(each.iter().all(|rule| found.contains(rule)), "{found:?}");
        let one = &alerts(&host, "beta").await[0];
        assert_eq!(one["severity"], "warning");
        // The seventh look of the hour was one too many as well: two causes.
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found.contains(&String::from("gamma many_reveals")),
            "{found:?}"
        );
        assert_eq!(told(&world, &host).await.len(), 4);
    });
}

#[test]
fn a_reset_for_an_unusual_incident_goes_on_and_is_told() {
    simulate(async {
        let (world, host, _plan) = world().await;
        let pattern = json!({ "incident_pattern": "INC-[0-9]+" });
        host.write("config/alerts", pattern).await.ok();
        let order = |incident: &str| json!({ "incident_id": incident, "reason": "stolen" });
        host.write("acme/reset", order("INC-7")).await.ok();
        assert!(rules(&host).await.is_empty());
        world.later(3600).await;
        let done = host.write("acme/reset", order("INC-7 or so")).await.ok();
        assert_eq!(done.get("state"), "done");
        assert_eq!(rules(&host).await, ["acme incident_unmatched"]);
        let alert = &alerts(&host, "acme").await[0];
        assert_eq!(alert["incident_id"], "INC-7 or so");
        assert_eq!(alert["severity"], "warning");
        assert!(alert["version"].is_null(), "it is not the end of the reset");
        let story = host.story("acme").await;
        let tail = &story[story.len() - 3..];
        let expected = [
            "emergency_reset_started",
            "smtp_suspicious_activity(incident_unmatched)",
            "emergency_reset",
        ];
        assert_eq!(tail, expected);
        assert_eq!(done.get("event"), "smtp_credentials_emergency_reset");
    });
}

#[test]
fn a_batch_of_resets_for_an_unusual_incident_is_one_cause() {
    simulate(async {
        let (world, host, _plan) = world().await;
        let pattern = json!({ "incident_pattern": "INC-[0-9]+" });
        host.write("config/alerts", pattern).await.ok();
        let batch = json!({
            "action": "reset", "all": true, "incident_id": "oops", "reason": "stolen",
        });
        host.write("batches", batch).await.ok();
        for _ in 0..10 {
            world.later(60).await;
            host.tick().await;
        }
        let mut resets = 0;
        for tenant in TENANTS {
            let story = host.story(tenant).await;
            resets += story.iter().filter(|it| *it == "emergency_reset").count();
        }
        assert_eq!(resets, 3);
        assert_eq!(rules(&host).await.len(), 1);
    });
}

#[test]
fn mailu_refusing_again_and_again_is_told_once() {
    simulate(async {
        let (world, host, _plan) = world().await;
        // A server that is down refuses nothing.
        world.mail.silence(SERVER, true);
        for _ in 0..7 {
            world.later(400).await;
            host.write("acme/rotate", json!({})).await;
            host.backend.idle().await;
        }
        world.mail.silence(SERVER, false);
        assert!(rules(&host).await.is_empty());
        world.later(86_400).await;
        world.mail.remove(SERVER, ACCOUNT);
        for attempt in 1..=8 {
            world.later(400).await;
            host.write("acme/rotate", json!({}))
                .await
                .fails(400, "mailu_no_such_account");
            assert_eq!(
                rules(&host).await.len(),
                usize::from(attempt > 5),
                "{attempt}"
            );
        }
        let alert = &alerts(&host, "acme").await[0];
        assert_eq!(alert["error_code"], "repeated_refusals");
        assert_eq!(alert["user_id"], "entity-of-userpass-alice");
        let story = told(&world, &host).await;
        let count = story.iter().filter(|it| it.contains("suspicious"));
        assert_eq!(count.count(), 1, "{story:?}");
    });
}

#[test]
fn a_storage_that_went_back_is_one_grave_alert_and_one_message() {
    simulate(async {
        let (world, host, _plan) = world().await;
        let earlier = world.storage.snapshot();
        host.write("acme/rotate", json!({})).await.ok();
        world.storage.restore(&earlier);
        let host = world.sound_process();
        host.write("acme/verify", json!({})).await.ok();
        for _ in 0..3 {
            world.later(86_400).await;
            host.tick().await;
        }
        assert_eq!(rules(&host).await, ["acme stale_storage"]);
        let alert = &alerts(&host, "acme").await[0];
        assert_eq!(alert["severity"], "critical");
        assert_eq!(alert["user_id"], "system");
        assert_eq!(world.notices.story(), ["hook drift_detected"]);
    });
}

#[test]
fn a_compromised_password_that_is_live_again_is_an_alert_unless_it_is_switched_off() {
    for (settings, expected) in [
        (json!({}), &["acme compromised_live"][..]),
        (json!({ "drift": false }), &[]),
    ] {
        simulate(async {
            let (world, host, plan) = world().await;
            let hook = json!({ "events": ["smtp_suspicious_activity"] });
            host.write("config/notify/hook", hook).await.ok();
            host.write("config/alerts", settings).await.ok();
            plan.arm((0..40).map(|at| Fault {
                at,
                kind: Kind::Late,
                after: false,
            }));
            plan.only("mail set_password");
            host.write("acme/rotate", json!({})).await;
            plan.arm([]);
            world.later(60).await;
            let order = json!({ "incident_id": "INC-1", "reason": "stolen" });
            host.write("acme/reset", order).await.ok();
            world.mail.land(0);
            host.write("acme/verify", json!({})).await.ok();
            assert_eq!(rules(&host).await, expected);
            let told = told(&world, &host).await;
            assert_eq!(
                told.len(),
                expected.len(),
                "a channel that asks for alerts: {told:?}"
            );
        });
    }
}

#[tokio::test]
async fn the_defaults_and_a_partial_change() {
    let rig = Rig::start().await;
    let defaults = json!({
        "reveals_per_hour": 5, "work_hours": [], "time_zone": "UTC",
        "incident_pattern": null, "refusals_per_hour": 5, "drift": true,
    });
    assert_eq!(rig.read("config/alerts").await.ok().data, defaults);
    let body = json!({
        "reveals_per_hour": 3, "work_hours": ["Mon-Fri 07:00-19:00", "22:00-06:00"],
        "incident_pattern": "INC-[0-9]{4,8}", "drift": false,
    });
    rig.write("config/alerts", body).await.ok();
    let body = json!({ "reveals_per_hour": null, "drift": null, "time_zone": "America/St_Johns" });
    rig.patch("config/alerts", body.clone()).await.ok();
    let expected = json!({
        "reveals_per_hour": 5, "work_hours": ["Mon-Fri 07:00-19:00", "22:00-06:00"],
        "time_zone": "America/St_Johns", "incident_pattern": "INC-[0-9]{4,8}",
        "refusals_per_hour": 5, "drift": true,
    });
    assert_eq!(rig.read("config/alerts").await.data, expected);
    let before = rig.storage.snapshot();
    rig.patch("config/alerts", body).await.ok();
    assert_eq!(rig.storage.snapshot(), before, "nothing changed");
    let log = rig.storage.get("mountlog").await.unwrap().unwrap();
    let log = String::from_utf8(log.value.clone()).unwrap();
    assert_eq!(log.matches("smtp_config_changed").count(), 4);
    let body = json!({ "work_hours": "", "incident_pattern": "", "time_zone": null });
    rig.write("config/alerts", body).await.ok();
    assert_eq!(rig.read("config/alerts").await.data, defaults);
}

#[tokio::test]
async fn what_the_rules_refuse() {
    let rig = Rig::start().await;
    rig.write("config/alerts", json!({ "reveals_per_hour": 9 }))
        .await
        .ok();
    let before = rig.storage.snapshot();
    for (name, value, code) in [
        ("reveals_per_hour", json!(61), "invalid_config"),
        ("reveals_per_hour", json!(-1), "invalid_config"),
        ("reveals_per_hour", json!("many"), "invalid_field"),
        ("refusals_per_hour", json!(8), "invalid_config"),
        ("work_hours", json!("always"), "invalid_config"),
        ("work_hours", json!(["Mon 07:00-07:00"]), "invalid_config"),
        (
            "work_hours",
            json!(vec!["07:00-08:00"; 21]),
            "invalid_config",
        ),
        ("time_zone", json!("Europe/Berln"), "invalid_config"),
        ("time_zone", json!("+01:00"), "invalid_config"),
        ("time_zone", json!(""), "invalid_config"),
        ("time_zone", json!(60), "invalid_config"),
        ("time_zone", json!("x".repeat(65)), "too_long"),
        ("incident_pattern", json!("INC-["), "invalid_config"),
        ("incident_pattern", json!("a)|(b"), "invalid_config"),
        (
            "incident_pattern",
            json!("(?:a{1000}){1000}"),
            "invalid_config",
        ),
        ("incident_pattern", json!("x".repeat(257)), "too_long"),
        ("drift", json!("perhaps"), "invalid_field"),
    ] {
        let refused = rig.write("config/alerts", json!({ name: value })).await;
        assert!(refused.text.contains(&format!("`{name}`")), "{refused:?}");
        refused.fails(400, code);
    }
    assert_eq!(rig.storage.snapshot(), before);
}

#[tokio::test]
async fn rules_that_cannot_be_read_stand_in_nobodys_way_and_are_mended_by_a_write() {
    let mut rig = Rig::created().await;
    let put = |bytes: &[u8]| {
        rig.storage
            .put(StorageEntry::new("config/alerts", bytes.to_vec()))
    };
    put(b"{\"schema\":1,\"drift\":7}").await.unwrap();
    rig.restart();
    rig.read("config/alerts")
        .await
        .fails(500, "record_unreadable");
    for _ in 0..6 {
        rig.write("acme/reveal", json!({ "reason": "x" }))
            .await
            .ok();
    }
    let story = rig.story("acme").await;
    let last = story.last().unwrap();
    assert_eq!(
        last, "smtp_suspicious_activity(many_reveals)",
        "the defaults hold"
    );
    rig.write("config/alerts", json!({ "drift": false }))
        .await
        .ok();
    assert_eq!(rig.read("config/alerts").await.get("drift"), false);
    // What a later version wrote is left to it.
    let put = |bytes: &[u8]| {
        rig.storage
            .put(StorageEntry::new("config/alerts", bytes.to_vec()))
    };
    put(b"{\"schema\":2}").await.unwrap();
    rig.restart();
    rig.write("config/alerts", json!({ "drift": false }))
        .await
        .fails(500, "record_unreadable");
}
