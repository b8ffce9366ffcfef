//! The schedule in a real server, whose ticks come once a minute: nobody asks for anything here.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::harness::tests;
use super::rig::{EMAIL, FIRST, Rig, revived};
use super::server::{early_in_a_minute, within_ticks};
use crate::support::mailu::standin::{Config, MailuStandin};
use crate::support::sinks::{Begins, HookSink, MailSink};

tests! {
    passwords_of_long_ago_are_changed_by_the_ticks_alone_and_once,
    after_a_kill_what_is_due_is_changed_and_nothing_twice,
    after_a_restart_what_is_due_is_changed_and_nothing_twice,
    a_node_that_takes_over_changes_what_is_due_and_nothing_twice,
}

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

/// Who is told: a receiver of documents, a chat and a mailbox.
struct Told {
    hook: HookSink,
    chat: HookSink,
    mail: MailSink,
}

impl Told {
    /// Writes a channel of each kind.
    async fn by(rig: &Rig) -> Self {
        let told = Self {
            hook: HookSink::start().await,
            chat: HookSink::start().await,
            mail: MailSink::start(Begins::WithStartTls).await,
        };
        let hook = json!({
            "type": "webhook", "url": told.hook.url("/hook"),
            "ca_cert": told.hook.authority.pem(), "hmac_key": "key-of-the-signature-1b9f",
        });
        let chat = json!({
            "type": "slack", "url": told.chat.url("/services/T0/B0/secret-of-the-chat-77aa"),
            "ca_cert": told.chat.authority.pem(),
        });
        let mail = json!({
            "type": "email", "host": "localhost", "port": told.mail.address.port(),
            "ca_cert": told.mail.authority.pem(), "username": "vault", "password": "right",
            "from": "vault@ops.test", "to": ["oncall@ops.test"],
        });
        for (name, channel) in [("hook", hook), ("chat", chat), ("mail", mail)] {
            let path = format!("config/notify/{name}");
            rig.write(&path, channel).await.no_content();
        }
        told
    }

    /// The names of the events of a tenant that the receiver of documents was told.
    fn events(&self, tenant: &str) -> Vec<String> {
        let posted = self.hook.posted();
        let documents = posted.iter().map(|posted| {
            let document: Value = serde_json::from_slice(&posted.body).unwrap();
            document
        });
        let of_tenant = documents.filter(|document| document["tenant"] == tenant);
        of_tenant
            .map(|document| document["event"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Requires that everybody was told of a tenant's notice and change, each once.
    async fn assert_of_change(&self, tenant: &str) {
        let wanted = [
            "smtp_credentials_rotation_notice",
            "smtp_credentials_rotated",
        ];
        within_ticks("everybody was told", async || {
            let chat = self.chats(tenant).len() >= 2;
            (chat && self.mails(tenant).len() >= 2 && self.events(tenant).len() >= 2).then_some(())
        })
        .await;
        assert_eq!(self.events(tenant), wanted);
        assert_eq!(self.chats(tenant).len(), 2, "{:?}", self.chats(tenant));
        assert_eq!(self.mails(tenant).len(), 2, "{:?}", self.mails(tenant));
    }

    fn chats(&self, tenant: &str) -> Vec<String> {
        let posted = self.chat.posted();
        let texts = posted.iter().map(|posted| {
            let message: Value = serde_json::from_slice(&posted.body).unwrap();
            message["text"].as_str().unwrap().to_owned()
        });
        texts
            .filter(|text| text.contains(&format!("{tenant}: ")))
            .collect()
    }

    fn mails(&self, tenant: &str) -> Vec<String> {
        let mails = self.mail.mails();
        assert!(mails.iter().all(|mail| mail.secured));
        let subjects = mails.iter().map(|mail| mail.header("Subject"));
        subjects
            .filter(|text| text.contains(&format!("{tenant}: ")))
            .collect()
    }
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

/// The paused tenant `resting`.
async fn assert_left_alone(rig: &Rig, resting: &MailuStandin) {
    let names = names_of_events(rig, "resting").await;
    assert!(resting.password_fits(EMAIL, FIRST), "{names:?}");
    assert!(
        !names
            .iter()
            .any(|name| name.contains("rotat") && !name.contains("paused"))
    );
}

/// The tenant `broken`, whose server refuses the token: what becomes of it after more than a try or
/// two is told in simulated time.
async fn assert_tried_and_left(rig: &Rig, told: &Told, broken: &MailuStandin) {
    let error = within_ticks("the failing one was tried", async || {
        let status = rig.read("broken/status").await.data().clone();
        let error = status["last_error"].clone();
        (error["attempts"].as_u64() >= Some(1)).then_some(error)
    })
    .await;
    assert_eq!(error["code"], "mailu_token_refused", "{error}");
    assert!(!error["next_attempt"].is_null(), "{error}");
    assert!(broken.password_fits(EMAIL, FIRST));
    let first = within_ticks("its notice is told", async || {
        told.events("broken").into_iter().next()
    })
    .await;
    assert_eq!(first, "smtp_credentials_rotation_notice");
}

/// A mount whose due changes are made by the next tick, and who is told of them.
async fn clockwork(rig: &Rig) -> Told {
    let settings = json!({"check_schedule": "* * * * *", "spread": "0s"});
    rig.write("config", settings).await.no_content();
    Told::by(rig).await
}

async fn until_changed(rig: &Rig, tenant: &str, by: &str) {
    within_ticks(&format!("{by} changes what is due"), async || {
        let admin = rig.admin(tenant).await;
        (admin["version"] == 2).then_some(())
    })
    .await;
}

async fn passwords_of_long_ago_are_changed_by_the_ticks_alone_and_once() {
    early_in_a_minute().await;
    let rig = Rig::alone("clockwork").await;
    let told = clockwork(&rig).await;
    let acme = overdue(&rig, "acme").await;
    let resting = overdue(&rig, "resting").await;
    let broken = overdue(&rig, "broken").await;
    broken.set_token("another-token");
    let pause = json!({"until": "2h", "reason": "migration"});
    rig.write("resting/pause", pause).await.data();

    until_changed(&rig, "acme", "a tick").await;
    assert_changed_once(&rig, "acme", &acme).await;
    told.assert_of_change("acme").await;
    assert_left_alone(&rig, &resting).await;
    assert!(told.events("resting").is_empty());
    assert_tried_and_left(&rig, &told, &broken).await;
    rig.assert_nothing_leaked();
}

/// The next process of the plugin finds nothing to do again, and tells of what the one before it
/// did. That it tells of its own changes is in `notices`.
async fn after_a_kill_what_is_due_is_changed_and_nothing_twice() {
    early_in_a_minute().await;
    let rig = Rig::alone("clockwork").await;
    let told = clockwork(&rig).await;
    let acme = overdue(&rig, "acme").await;
    until_changed(&rig, "acme", "a tick").await;
    rig.server.kill_plugin().await;
    revived(async || rig.read("acme/admin").await).await;
    let globex = overdue(&rig, "globex").await;
    until_changed(&rig, "globex", "the next process").await;
    for (tenant, mailu) in [("acme", &acme), ("globex", &globex)] {
        assert_changed_once(&rig, tenant, mailu).await;
    }
    told.assert_of_change("acme").await;
    rig.assert_nothing_leaked();
}

/// Nor does the next server.
async fn after_a_restart_what_is_due_is_changed_and_nothing_twice() {
    early_in_a_minute().await;
    let rig = Rig::alone("clockwork").await;
    let told = clockwork(&rig).await;
    let acme = overdue(&rig, "acme").await;
    until_changed(&rig, "acme", "a tick").await;
    rig.server.stop("KILL");
    rig.server.start_again().await;
    rig.server.unseal_alone().await;
    let initech = overdue(&rig, "initech").await;
    until_changed(&rig, "initech", "the next server").await;
    for (tenant, mailu) in [("acme", &acme), ("initech", &initech)] {
        assert_changed_once(&rig, tenant, mailu).await;
    }
    told.assert_of_change("acme").await;
    rig.assert_nothing_leaked();
}

async fn a_node_that_takes_over_changes_what_is_due_and_nothing_twice() {
    early_in_a_minute().await;
    let cluster = Cluster::start().await;
    let roles = cluster.roles().await;
    let rig = Rig::mounted(Arc::clone(&roles.active), "clockwork").await;
    let settings = json!({"check_schedule": "* * * * *", "spread": "0s"});
    rig.write("config", settings).await.no_content();
    let acme = overdue(&rig, "acme").await;
    until_changed(&rig, "acme", "the active node").await;
    let roles = cluster.step_down().await;
    let rig = rig.through(&roles.active);
    let globex = overdue(&rig, "globex").await;
    until_changed(&rig, "globex", "the new active node").await;
    assert_changed_once(&rig, "acme", &acme).await;
    assert_changed_once(&rig, "globex", &globex).await;
    rig.assert_nothing_leaked();
}
