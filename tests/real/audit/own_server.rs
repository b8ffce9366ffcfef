//! Whoever may write `config/audit` can point it at a server of their own. That one knows every
//! event and answers whatever it likes; only what went through the host's devices counts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::emitter::{Emitter, all_delivered, text};
use super::refused::until_failing;
use crate::api::Api;
use crate::harness::tests;
use crate::rig::Rig;
use crate::server::until;
use vault_plugin_secrets_smtp::tasks::Tasks;

tests! {
    a_server_of_ones_own_acknowledges_nothing,
}

/// What such a server answers as receipt.
#[derive(Clone, Debug)]
enum Receipt {
    /// None at all.
    Nothing,
    /// Always the same text.
    Text(String),
    /// What it was answered when it called `events/emit` itself, for the event of this path.
    Of(String),
}

/// A server that takes any login and answers each event as it is stored.
struct OwnServer {
    address: String,
    receipt: Arc<Mutex<Receipt>>,
    /// The path of every call.
    seen: Arc<Mutex<Vec<String>>>,
}

impl OwnServer {
    /// `api` may read the events and call `events/emit` of the mount `mount`.
    async fn start(api: Api, mount: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            receipt: Arc::new(Mutex::new(Receipt::Nothing)),
            seen: Arc::default(),
        };
        let (receipt, seen) = (Arc::clone(&server.receipt), Arc::clone(&server.seen));
        let mount = mount.to_owned();
        let tasks = Tasks::new();
        let spawner = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answerer = Answerer {
                    api: api.clone(),
                    mount: mount.clone(),
                    receipt: Arc::clone(&receipt),
                    seen: Arc::clone(&seen),
                };
                spawner.spawn(answerer.converse(stream));
            }
        });
        server
    }

    fn say(&self, receipt: Receipt) {
        *self.receipt.lock().unwrap() = receipt;
    }

    /// How often it was told of an event.
    fn emitted(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|path| path.contains("events/emit"))
            .count()
    }
}

struct Answerer {
    api: Api,
    mount: String,
    receipt: Arc<Mutex<Receipt>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Answerer {
    async fn converse(self, mut stream: TcpStream) {
        while let Some(path) = request(&mut stream).await {
            let body = self.answer(&path).await.to_string();
            self.seen.lock().unwrap().push(path);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, path: &str) -> Value {
        let Some((_, event)) = path.split_once("/events/emit/") else {
            // The login, and whatever else it is asked.
            let auth = json!({ "client_token": "hvs.own", "lease_duration": 3600 });
            return json!({ "auth": auth, "data": { "config": {} } });
        };
        let (tenant, seq) = event.split_once('/').unwrap();
        let events = format!("{}/events?tenant={tenant}&limit=200", self.mount);
        let stored = self.api.read(&events).await;
        let events = stored.data()["events"].as_array().unwrap();
        let seq: u64 = seq.parse().unwrap();
        let event = events.iter().find(|event| event["seq"] == seq);
        let mut data = event.expect("a stored event").clone();
        let receipt = self.receipt.lock().unwrap().clone();
        match receipt {
            Receipt::Nothing => {}
            Receipt::Text(text) => data["receipt"] = json!(text),
            Receipt::Of(other) => {
                let path = format!("{}/events/emit/{other}", self.mount);
                let answer = self.api.write(&path, json!({})).await;
                data["receipt"] = answer.data()["receipt"].clone();
            }
        }
        json!({ "data": data })
    }
}

/// Reads one request; returns its path.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let head = read.windows(4).position(|it| it == b"\r\n\r\n");
        if let Some(end) = head {
            let text = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let length = text.lines().find_map(|line| {
                let value = line.strip_prefix("content-length: ")?;
                value.trim().parse::<usize>().ok()
            });
            if read.len() >= end + 4 + length.unwrap_or(0) {
                return Some(text.split(' ').nth(1)?.to_owned());
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => read.extend_from_slice(&chunk[..count]),
        }
    }
}

async fn a_server_of_ones_own_acknowledges_nothing() {
    let rig = Rig::alone("smtp").await;
    let operator = rig.server.api();
    let emitter = Emitter::enable(rig.server.api(), &["127.0.0.1/32"]).await;
    let real = rig.server.address().to_owned();
    emitter.deliver_at(&rig, &real, None).await;
    let yearly = json!({ "check_schedule": "0 0 1 1 *" });
    rig.write("config", yearly).await.no_content();
    rig.create("acme").await;
    all_delivered(&rig).await;
    // What is neither loopback nor named by the plugin's environment is not even stored.
    let elsewhere =
        json!({ "address": "https://10.0.0.5:8200", "secret_id": "of-nobody-here-0000" });
    let refused = rig.write("config/audit", elsewhere).await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "invalid_audit_config")
    );
    assert!(
        refused.error().contains("SMTP_AUDIT_ADDRESSES"),
        "{}",
        refused.error()
    );

    let own = OwnServer::start(operator.clone(), &rig.mount).await;
    let way = json!({ "address": own.address, "secret_id": "secret-of-ones-own-server-7d1" });
    rig.write("config/audit", way).await.no_content();
    rig.rotate("acme").await.data();
    until_failing(&rig, "audit_wrong_answer").await;
    let old = rig.write("events/emit/acme/1", json!({})).await;
    let old = text(&old.data()["receipt"]);
    for receipt in [
        Receipt::Text("0".repeat(32)),
        Receipt::Text(old),
        Receipt::Of("acme/1".to_owned()),
        Receipt::Of("-/1".to_owned()),
    ] {
        let before = own.emitted();
        own.say(receipt.clone());
        // A write of the way has it tried at once, whatever the emitter rests for.
        rig.write("config/audit", json!({})).await.no_content();
        until("it was asked again", async || {
            (own.emitted() > before).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let status = rig.read("status").await;
        let delivery = &status.data()["audit_delivery"];
        assert_eq!(
            delivery["error_code"], "audit_wrong_answer",
            "{receipt:?}: {delivery}"
        );
        assert!(
            delivery["undelivered"].as_u64() >= Some(2),
            "{receipt:?}: {delivery}"
        );
    }
    refuses_what_proves_nothing(&rig).await;
    emitter.deliver_at(&rig, &real, None).await;
    all_delivered(&rig).await;
    rig.assert_nothing_leaked();
}

/// No change waits for a proof that nobody gave, and a wrapped answer proves nothing.
async fn refuses_what_proves_nothing(rig: &Rig) {
    let required = json!({ "audit_mode": "required" });
    let refused = rig.write("config", required).await;
    assert_eq!((refused.status, refused.code()), (400, "audit_unproven"));
    let wrapped = rig.api.request("POST", &rig.path("events/emit/acme/1"));
    let wrapped = wrapped.header("X-Vault-Wrap-TTL", "5m").json(&json!({}));
    let wrapped = rig.api.send(wrapped).await;
    assert_eq!((wrapped.status, wrapped.code()), (400, "wrapped_emit"));
}
