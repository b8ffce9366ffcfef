//! Automatic changes, a drift and a failure of which nobody asked anything: all in the audit file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use vault_plugin_secrets_smtp::clock::{Clock as _, SystemClock};

use super::emitter::{Emitter, all_delivered};
use super::verifier::{Auditor, audit_file, emitted, events};
use crate::harness::tests;
use crate::rig::{EMAIL, FIRST, Rig};
use crate::server::{Server, Special, THREE_TICKS, early_in_a_minute};
use crate::support::mailu::standin::{Config, MailuStandin};

tests! {
    what_nobody_asked_for_is_in_the_audit_file,
}

const TENANTS: usize = 20;
const SERVERS: usize = 4;
const FOREIGN: &str = "set-by-somebody-else-4be1c2";

pub(super) fn account(number: usize) -> String {
    format!("smtp-{number}@example.test")
}

/// Tenants whose passwords are of long ago, at a few mail servers.
async fn overdue(rig: &Rig) -> Vec<MailuStandin> {
    let mut servers = Vec::new();
    for server in 0..SERVERS {
        let mut config = Config::default();
        for number in (server..TENANTS).step_by(SERVERS) {
            config = config.user(&account(number), FIRST);
        }
        let mailu = MailuStandin::start(config).await.unwrap();
        for number in (server..TENANTS).step_by(SERVERS) {
            import(rig, &format!("tenant-{number}"), &account(number), &mailu).await;
        }
        servers.push(mailu);
    }
    servers
}

pub(super) async fn import(rig: &Rig, tenant: &str, username: &str, mailu: &MailuStandin) {
    let server = json!({
        "mailu_url": mailu.url(),
        "ca_cert": mailu.ca_pem(),
        "api_token": mailu.token(),
    });
    let path = format!("{tenant}/config");
    rig.write(&path, server).await.no_content();
    let credential = json!({
        "username": username,
        "password": FIRST,
        "last_rotated": "2025-01-01T00:00:00Z",
    });
    let path = format!("{tenant}/admin");
    rig.write(&path, credential).await.data();
}

pub(super) fn in_an_hour() -> String {
    let then = SystemClock::new().now() + chrono::TimeDelta::hours(1);
    then.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn count(events: &[Value], name: &str) -> usize {
    let tenants = events.iter().filter(|event| event["event"] == name);
    let tenants = tenants.map(|event| event["tenant_id"].as_str().unwrap());
    tenants.collect::<BTreeSet<_>>().len()
}

/// Waits until the ticks have done all of it and the file has it.
async fn until_all_is_in(rig: &Rig, log: &Path) {
    const WANTED: [(&str, usize); 4] = [
        ("smtp_credentials_rotated", TENANTS),
        // The failing one has its notice as well.
        ("smtp_credentials_rotation_notice", TENANTS + 1),
        ("smtp_credentials_drift_detected", 1),
        ("smtp_credentials_rotation_failed", 1),
    ];
    let mut counted = WANTED;
    let all_of_it = async {
        while {
            let events = events(log);
            counted = WANTED.map(|(name, _)| (name, count(&events, name)));
            counted != WANTED
        } {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    if timeout(THREE_TICKS, all_of_it).await.is_err() {
        let status = rig.read("status").await.body;
        panic!("waited in vain for {WANTED:?}, the file has {counted:?}: {status:#}");
    }
}

/// Requires that the host was asked for nothing since then but by the engine itself.
fn assert_nobody_asked(server: &Server, since: usize) {
    for record in &server.audit_records()[since..] {
        let path = record["request"]["path"].as_str().unwrap();
        let own = path.starts_with("smtp/events/emit/")
            || path.starts_with("sys/internal/ui/mounts/")
            || path == "auth/approle/login";
        assert!(own, "{record:#}");
    }
}

/// Requires that what people look for is in clear, and what is private is not.
fn assert_in_clear(log: &Path) {
    for (line, record) in emitted(log) {
        let event = &record["response"]["data"];
        for key in [
            "event",
            "event_id",
            "tenant_id",
            "timestamp",
            "outcome",
            "hash",
        ] {
            let text = event[key].as_str().unwrap();
            assert!(!text.starts_with("hmac-"), "line {line}: {event:#}");
        }
        assert!(event["seq"].as_u64() >= Some(1), "line {line}: {event:#}");
        for key in ["reason", "display_name", "username"] {
            let text = event[key].as_str().unwrap_or("hmac-");
            assert!(text.starts_with("hmac-"), "line {line}: {event:#}");
        }
    }
}

/// Flips one byte of an event in copies of the log: the program names file and line.
async fn assert_tampering_shows(auditor: &Auditor, log: &Path) {
    let text = fs::read(log).unwrap();
    let (number, record) = emitted(log).swap_remove(TENANTS);
    let event = &record["response"]["data"];
    let line_start: usize = text
        .split_inclusive(|byte| *byte == b'\n')
        .take(number - 1)
        .map(<[u8]>::len)
        .sum();
    let line = text[line_start..].split(|byte| *byte == b'\n');
    let line = String::from_utf8(line.into_iter().next().unwrap().to_vec()).unwrap();
    // Behind the request, which the line repeats.
    let response = line.find("\"response\":").unwrap();
    for key in [
        "event_id",
        "timestamp",
        "hash",
        "prev_hash",
        "tenant_id",
        "event",
    ] {
        let wanted = format!("\"{key}\":\"{}\"", event[key].as_str().unwrap());
        let at = response + line[response..].find(&wanted).unwrap();
        let mut copy = text.clone();
        copy[line_start + at + wanted.len() - 2] ^= 1;
        let file = log.with_file_name("copy.log");
        fs::write(&file, copy).unwrap();
        let verdict = auditor.verify(std::slice::from_ref(&file), &[]).await;
        assert_eq!(verdict.code, 1, "{key}: {}", verdict.text);
        let named = format!("{}:{number}: ", file.display());
        assert!(verdict.text.contains(&named), "{key}: {}", verdict.text);
    }
}

async fn what_nobody_asked_for_is_in_the_audit_file() {
    early_in_a_minute().await;
    let (special, address, ca) = Special::with_tls(&["127.0.0.1"]);
    let server = Server::special(&special).await;
    let rig = Rig::mounted(server, "smtp").await;
    let auditor = Auditor::appointed(&rig.server.api()).await;
    let emitter = Emitter::enable(rig.server.api(), &["127.0.0.1/32"]).await;
    emitter.deliver_at(&rig, &address, Some(&ca)).await;

    // Nothing begins before all of it is there.
    let settings = json!({
        "check_schedule": "* * * * *", "spread": "0s", "paused_until": in_an_hour(),
    });
    rig.write("config", settings).await.no_content();
    let servers = overdue(&rig).await;
    let failing = Config::default().user(EMAIL, FIRST);
    let failing = MailuStandin::start(failing).await.unwrap();
    import(&rig, "broken", EMAIL, &failing).await;
    failing.set_token("another-token");
    rig.create("drifting").await;
    rig.mailu.set_password_directly(EMAIL, FOREIGN);
    let delivery = all_delivered(&rig).await;
    assert_eq!(delivery["exempt_keys"], "complete", "{delivery}");
    rig.write("config", json!({"paused_until": null}))
        .await
        .no_content();
    // A new process looks at every mail server with its first tick.
    rig.server.kill_plugin().await;

    let log = audit_file(&rig.server);
    let since = rig.server.audit_records().len();
    until_all_is_in(&rig, &log).await;
    assert_nobody_asked(&rig.server, since);

    for number in 0..TENANTS {
        let password = rig.password(&format!("tenant-{number}")).await;
        let mailu = &servers[number % SERVERS];
        assert!(mailu.password_fits(&account(number), &password));
    }
    let rotated = events(&log).into_iter();
    let rotated = rotated.filter(|event| event["event"] == "smtp_credentials_rotated");
    for event in rotated {
        assert_eq!(event["rotation_type"], "automated", "{event:#}");
        assert_eq!(event["user_id"], "system", "{event:#}");
    }
    all_delivered(&rig).await;
    auditor
        .proves(std::slice::from_ref(&log), &["--complete"])
        .await;
    assert_in_clear(&log);
    assert_tampering_shows(&auditor, &log).await;
    rig.api.seen().secrets.insert(FOREIGN.to_owned());
    rig.assert_nothing_leaked();
    assert_no_token(&rig.server);
}

/// The engine's own tokens are known to nobody else; this is how the server's tokens begin.
fn assert_no_token(server: &Server) {
    for (place, text) in [("audit file", server.audit()), ("log", server.log())] {
        for begin in ["b.AAAA", "\"s.", "hvb.", "hvs."] {
            let line = text.lines().find(|line| line.contains(begin));
            assert!(line.is_none(), "a token is in the {place}: {line:?}");
        }
    }
}
