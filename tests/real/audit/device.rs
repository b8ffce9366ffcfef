//! The only audit device goes away while changes must wait for it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use vault_plugin_secrets_smtp::clock::{Clock as _, SystemClock};
use vault_plugin_secrets_smtp::tasks::Tasks;

use super::automatic::{account, import, in_an_hour};
use super::emitter::{Emitter, all_delivered};
use super::verifier::{Auditor, audit_file, events};
use crate::harness::tests;
use crate::rig::{FIRST, Rig};
use crate::server::{Device, Server, Special, early_in_a_minute, until, within_ticks};
use crate::support::mailu::standin::{Config, MailuStandin};

tests! {
    nothing_automatic_is_sent_while_the_only_device_is_away,
}

/// What listens behind a socket device, and writes every line into a file.
#[derive(Debug)]
struct Collector {
    address: String,
    folder: TempDir,
    serves: Option<DropGuard>,
}

impl Collector {
    async fn start() -> Self {
        let mut collector = Self {
            address: String::from("127.0.0.1:0"),
            folder: tempfile::tempdir().unwrap(),
            serves: None,
        };
        collector.open().await;
        collector
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// Listens, after [`Collector::close`] at the same address.
    async fn open(&mut self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        let (file, stop) = (self.file(), CancellationToken::new());
        let ends = stop.clone();
        let serve = async move {
            let tasks = Tasks::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (file, ends) = (file.clone(), ends.clone());
                tasks.spawn(async move { ends.run_until_cancelled(keep(stream, &file)).await });
            }
        };
        let ends = stop.clone();
        Tasks::new().spawn(async move { ends.run_until_cancelled(serve).await });
        self.serves = Some(stop.drop_guard());
    }

    fn close(&mut self) {
        self.serves = None;
    }
}

async fn keep(mut stream: TcpStream, file: &Path) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        file.write_all(&bytes[..count]).unwrap();
    }
}

/// How many ticks the plugin has answered.
fn ticks(server: &Server) -> usize {
    let answered = r#"handle request: transport=gRPC path="" status=finished err=<nil>"#;
    server.log().matches(answered).count()
}

/// Waits for a tick after the next check, which is with the next full minute.
async fn a_tick_found_them_due(server: &Server) {
    let clock = SystemClock::new();
    let minute = TimeDelta::minutes(1);
    let due = (clock.now() + minute).duration_trunc(minute).unwrap();
    let mut seen = usize::MAX;
    within_ticks("a tick found the changes due", async || {
        if clock.now() < due {
            seen = ticks(server);
        }
        (ticks(server) > seen).then_some(())
    })
    .await;
}

/// Requires that each tenant's events came in the order of their numbers.
fn assert_in_order(events: &[Value], tenant: &str) {
    let own = events.iter().filter(|event| event["tenant_id"] == tenant);
    let mut numbers: Vec<u64> = own.map(|event| event["seq"].as_u64().unwrap()).collect();
    // Told again is told in the same place.
    numbers.dedup();
    let wanted: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, wanted, "{tenant}");
}

/// Waits until each change is settled: Mailu has a password a moment before the record says so.
async fn are_settled(rig: &Rig) {
    for number in 0..3 {
        until("the change is settled", async || {
            let admin = rig.admin(&format!("tenant-{number}")).await;
            (admin["version"] == 2 && admin["state"] == "settled").then_some(())
        })
        .await;
    }
}

/// When the change of the tenant's password was announced.
fn announced(events: &[Value], tenant: &str) -> DateTime<Utc> {
    let started = events.iter().find(|event| {
        event["tenant_id"] == tenant && event["event"] == "smtp_credentials_rotation_started"
    });
    let told = started.expect("the begin of the change")["timestamp"].as_str();
    told.unwrap().parse().unwrap()
}

/// Three tenants of one server whose passwords are to be changed at once.
async fn overdue_tenants(rig: &Rig) -> MailuStandin {
    let mut config = Config::default();
    for number in 0..3 {
        config = config.user(&account(number), FIRST);
    }
    let mailu = MailuStandin::start(config).await.unwrap();
    for number in 0..3 {
        import(rig, &format!("tenant-{number}"), &account(number), &mailu).await;
    }
    mailu
}

async fn nothing_automatic_is_sent_while_the_only_device_is_away() {
    early_in_a_minute().await;
    let mut collector = Collector::start().await;
    let special = Special {
        audit: Some(Device::socket(&collector.address)),
        ..Special::default()
    };
    let server = Server::special(&special).await;
    let rig = Rig::mounted(Arc::clone(&server), "smtp").await;
    let auditor = Auditor::appointed(&server.api()).await;
    let emitter = Emitter::enable(server.api(), &["127.0.0.1/32"]).await;
    emitter.deliver_at(&rig, server.address(), None).await;
    all_delivered(&rig).await;
    let settings = json!({
        "audit_mode": "required", "check_schedule": "* * * * *", "spread": "0s",
        "notify_before": "0s", "paused_until": in_an_hour(),
    });
    rig.write("config", settings).await.no_content();
    let mailu = overdue_tenants(&rig).await;
    all_delivered(&rig).await;
    let unpaused = json!({"paused_until": null});
    rig.write("config", unpaused).await.no_content();
    all_delivered(&rig).await;

    collector.close();
    a_tick_found_them_due(&server).await;
    // All that a change would do first has had its time. Changes at one mail server come one after
    // the other and each waits for the device a little: after so long at least one has waited.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let changed = |number| !mailu.password_fits(&account(number), FIRST);
    assert!(!(0..3).any(changed));
    let journal = mailu.journal();
    assert!(journal.iter().all(|call| call.password_sha256.is_none()));
    assert_eq!(rig.read("status").await.status, 500);

    let opened = SystemClock::new().now();
    collector.open().await;
    within_ticks("the changes are made", async || {
        (0..3).all(changed).then_some(())
    })
    .await;
    are_settled(&rig).await;
    all_delivered(&rig).await;
    let mut first = DateTime::<Utc>::MAX_UTC;
    for number in 0..3 {
        let tenant = format!("tenant-{number}");
        let events = events(&collector.file());
        assert_in_order(&events, &tenant);
        first = first.min(announced(&events, &tenant));
    }
    assert!(first < opened, "found due while the device was away");
    auditor.proves(&[collector.file()], &["--complete"]).await;
    std::fs::copy(collector.file(), audit_file(&server)).unwrap();
    rig.assert_nothing_leaked();
}
