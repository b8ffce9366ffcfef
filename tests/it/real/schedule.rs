//! The schedule in a real server, whose ticks come once a minute: nobody asks for anything here.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::rig::{EMAIL, FIRST, Rig};
use super::server::within_ticks;
use crate::support::mailu::standin::{Config, MailuStandin};

/// A tenant with a server of its own and a password of long ago.
async fn overdue(rig: &Rig, tenant: &str) -> Arc<MailuStandin> {
    let config = Config::default().user(EMAIL, FIRST);
    let mailu = Arc::new(MailuStandin::start(config).await.unwrap());
    import(rig, tenant, &mailu).await;
    mailu
}

async fn import(rig: &Rig, tenant: &str, mailu: &MailuStandin) {
    let server = json!({
        "mailu_url": mailu.url(),
        "ca_cert": mailu.ca_pem(),
        "api_token": mailu.token(),
    });
    rig.write(&format!("{tenant}/config"), server)
        .await
        .no_content();
    let credential = json!({
        "username": EMAIL,
        "password": FIRST,
        "last_rotated": "2025-01-01T00:00:00Z",
    });
    rig.write(&format!("{tenant}/admin"), credential)
        .await
        .data();
}

async fn names_of_events(rig: &Rig, tenant: &str) -> Vec<String> {
    let events = rig.read(&format!("{tenant}/events")).await;
    let events = events.data()["events"].as_array().unwrap().clone();
    let name = |event: &Value| event["event"].as_str().unwrap().to_owned();
    events.iter().map(name).collect()
}

async fn assert_changed_once(rig: &Rig, tenant: &str, mailu: &MailuStandin) {
    let admin = rig.admin(tenant).await;
    assert_eq!(admin["version"], 2, "{tenant}");
    assert_eq!(admin["state"], "settled", "{tenant}");
    let password = admin["password"].as_str().unwrap();
    assert!(mailu.password_fits(EMAIL, password), "{tenant}");
    assert!(!mailu.password_fits(EMAIL, FIRST), "{tenant}");
    let names = names_of_events(rig, tenant).await;
    for (name, times) in [
        ("smtp_credentials_rotation_notice", 1),
        ("smtp_credentials_rotation_started", 1),
        ("smtp_credentials_rotated", 1),
    ] {
        let count = names.iter().filter(|seen| *seen == name).count();
        assert_eq!(count, times, "{tenant}: {name} in {names:?}");
    }
}

#[tokio::test]
async fn passwords_of_long_ago_are_changed_by_the_ticks_alone_and_once() {
    let rig = Rig::alone("clockwork").await;
    let settings = json!({"check_schedule": "* * * * *", "spread": "0s"});
    rig.write("config", settings).await.no_content();
    let acme = overdue(&rig, "acme").await;
    let resting = overdue(&rig, "resting").await;
    let broken = overdue(&rig, "broken").await;
    broken.set_token("another-token");
    let pause = json!({"until": "2h", "reason": "migration"});
    rig.write("resting/pause", pause).await.data();

    within_ticks("the overdue password is changed", async || {
        let admin = rig.admin("acme").await;
        (admin["version"] == 2).then_some(())
    })
    .await;
    assert_changed_once(&rig, "acme", &acme).await;

    // Whoever comes back finds nothing to do again.
    rig.server.kill_plugin().await;
    let globex = overdue(&rig, "globex").await;
    within_ticks("the next process changes what is due", async || {
        let admin = rig.admin("globex").await;
        (admin["version"] == 2).then_some(())
    })
    .await;
    rig.server.stop("KILL");
    rig.server.start_again().await;
    let initech = overdue(&rig, "initech").await;
    within_ticks("the next server changes what is due", async || {
        let admin = rig.admin("initech").await;
        (admin["version"] == 2).then_some(())
    })
    .await;
    for (tenant, mailu) in [("acme", &acme), ("globex", &globex), ("initech", &initech)] {
        assert_changed_once(&rig, tenant, mailu).await;
    }

    let names = names_of_events(&rig, "resting").await;
    assert!(resting.password_fits(EMAIL, FIRST), "{names:?}");
    assert!(
        !names
            .iter()
            .any(|name| name.contains("rotat") && !name.contains("paused"))
    );

    let status = within_ticks("the failing one is for a person", async || {
        let status = rig.read("status").await.data().clone();
        let attention = status["attention"].as_array().unwrap();
        let broken = attention.iter().any(|it| it["tenant"] == "broken");
        broken.then_some(status)
    })
    .await;
    assert_eq!(status["attention"][0]["code"], "mailu_token_refused");
    let broken_status = rig.read("broken/status").await.data().clone();
    let error = &broken_status["last_error"];
    assert!(error["attempts"].as_u64().unwrap() >= 3, "{error}");
    assert!(!error["next_attempt"].is_null(), "{error}");
    assert!(broken.password_fits(EMAIL, FIRST));
    rig.assert_nothing_leaked();
}

#[tokio::test]
async fn a_node_that_takes_over_changes_what_is_due_and_nothing_twice() {
    let cluster = Cluster::start().await;
    let roles = cluster.roles().await;
    let rig = Rig::mounted(Arc::clone(&roles.active), "clockwork").await;
    let settings = json!({"check_schedule": "* * * * *", "spread": "0s"});
    rig.write("config", settings).await.no_content();
    let acme = overdue(&rig, "acme").await;
    within_ticks("the overdue password is changed", async || {
        let admin = rig.admin("acme").await;
        (admin["version"] == 2).then_some(())
    })
    .await;
    let roles = cluster.step_down().await;
    let rig = rig.through(&roles.active);
    let globex = overdue(&rig, "globex").await;
    within_ticks("the new active node changes what is due", async || {
        let admin = rig.admin("globex").await;
        (admin["version"] == 2).then_some(())
    })
    .await;
    assert_changed_once(&rig, "acme", &acme).await;
    assert_changed_once(&rig, "globex", &globex).await;
    rig.assert_nothing_leaked();
}
