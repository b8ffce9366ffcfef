//! A mount of the real plugin in a real server, beside the Mailu stand-in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::{Answer, Api};
use super::product::Product;
use super::server::{Server, VERSION, until};
use crate::support::mailu::standin::{Config, LoginAnswer, MailuStandin};

pub(super) const EMAIL: &str = "smtp-admin@example.test";
/// What the account has before the engine takes it over; long enough to be found by accident never.
pub(super) const FIRST: &str = "first-password-of-the-account-0b7e";
const TOKEN: &str = "api-token-of-the-server-51c9aa";

/// Sends a request after the plugin was killed, again and again while the host talks to the dead
/// process: for some tens of milliseconds it does not know, and such a request reaches nobody. Of a
/// write Vault does not say so: it asks the plugin first whether the path exists, and keeps the text
/// of that failure to itself.
pub(super) async fn revived(mut request: impl AsyncFnMut() -> Answer) -> Answer {
    until("the host sees that the plugin died", async || {
        let answer = request().await;
        let kept = Product::tested() == Product::Vault && answer.error() == "internal error";
        let reached = !kept && !answer.error().contains("rpc error: code = Unavailable");
        reached.then_some(answer)
    })
    .await
}

/// One mount with one Mailu.
pub(super) struct Rig {
    pub(super) server: Arc<Server>,
    pub(super) mailu: Arc<MailuStandin>,
    pub(super) api: Api,
    pub(super) mount: String,
}

impl Rig {
    /// A mount in the shared server.
    pub(super) async fn shared(mount: &str) -> Self {
        Self::mounted(Server::shared().await, mount).await
    }

    /// A mount in a server of its own, for tests that break things.
    pub(super) async fn alone(mount: &str) -> Self {
        Self::mounted(Server::start().await, mount).await
    }

    /// A new mount in `server`.
    pub(super) async fn mounted(server: Arc<Server>, mount: &str) -> Self {
        server.mount(mount, Some(VERSION)).await;
        Self::at(server, mount).await
    }

    /// Takes a mount over that is there and new.
    pub(super) async fn at(server: Arc<Server>, mount: &str) -> Self {
        let config = Config {
            token: TOKEN.to_owned(),
            ..Config::default().user(EMAIL, FIRST)
        };
        let mailu = MailuStandin::start(config).await.unwrap();
        let rig = Self {
            api: server.api(),
            mailu: Arc::new(mailu),
            mount: mount.to_owned(),
            server,
        };
        // Rotations in tests follow each other closely.
        let settings = json!({"min_rotation_interval": "0s"});
        rig.write("config", settings).await.no_content();
        rig
    }

    /// The same mount through another node of the cluster; what is seen is remembered together.
    pub(super) fn through(&self, node: &Arc<Server>) -> Self {
        Self {
            server: Arc::clone(node),
            mailu: Arc::clone(&self.mailu),
            api: self.api.at(node.address()),
            mount: self.mount.clone(),
        }
    }

    /// Waits until Mailu holds a request back.
    pub(super) async fn until_held(&self) {
        let held = timeout(Duration::from_secs(120), self.mailu.wait_held(1)).await;
        held.expect("Mailu holds a request within half a minute");
    }

    pub(super) fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.mount)
    }

    pub(super) async fn read(&self, path: &str) -> Answer {
        self.api.read(&self.path(path)).await
    }

    pub(super) async fn write(&self, path: &str, body: Value) -> Answer {
        self.api.write(&self.path(path), body).await
    }

    pub(super) async fn list(&self, path: &str) -> Answer {
        self.api.list(&self.path(path)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.api.delete(&self.path(path)).await
    }

    /// The body of a `<tenant>/config` that leads to the stand-in.
    pub(super) fn server_config(&self) -> Value {
        json!({
            "mailu_url": self.mailu.url(),
            "ca_cert": self.mailu.ca_pem(),
            "api_token": self.mailu.token(),
            "smtp_address": format!("localhost:{}", self.mailu.submission_port()),
            "verify_smtp": true,
        })
    }

    /// Configures `tenant` and has its first password generated.
    pub(super) async fn create(&self, tenant: &str) -> Answer {
        let path = format!("{tenant}/config");
        self.write(&path, self.server_config()).await.no_content();
        let answer = self
            .write(&format!("{tenant}/admin"), json!({"username": EMAIL}))
            .await;
        answer.data();
        answer
    }

    /// What `<tenant>/admin` answers.
    pub(super) async fn admin(&self, tenant: &str) -> Value {
        self.read(&format!("{tenant}/admin")).await.data().clone()
    }

    pub(super) async fn password(&self, tenant: &str) -> String {
        self.admin(tenant).await["password"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(super) async fn rotate(&self, tenant: &str) -> Answer {
        let reason = json!({"reason": "a test"});
        self.write(&format!("{tenant}/rotate"), reason).await
    }

    /// Requires that Mailu knows `password` and lets a mail client in with it.
    pub(super) async fn assert_live(&self, password: &str) {
        assert!(self.mailu.password_fits(EMAIL, password));
        assert_eq!(self.mailu.login(EMAIL, password).await, LoginAnswer::Good);
    }

    /// Whether a mail client gets in.
    pub(super) async fn logs_in(&self, password: &str) -> bool {
        self.mailu.login(EMAIL, password).await == LoginAnswer::Good
    }

    pub(super) async fn assert_dead(&self, password: &str) {
        assert!(!self.mailu.password_fits(EMAIL, password));
        let answer = self.mailu.login(EMAIL, password).await;
        assert_eq!(answer, LoginAnswer::Refused);
    }

    /// Where the host keeps the mount's storage, below `sys/raw`.
    pub(super) async fn raw_root(&self) -> String {
        // Its answers are no answers of the plugin's.
        let api = self.server.api();
        let mount = api.read(&format!("sys/mounts/{}", self.mount)).await;
        let uuid = mount.data()["uuid"].as_str().unwrap().to_owned();
        format!("sys/raw/logical/{uuid}/")
    }

    /// Every entry of the mount, past the plugin: base64 by where it is kept.
    pub(super) async fn raw_entries(&self) -> BTreeMap<String, Value> {
        let api = self.server.api();
        let (mut folders, mut entries) = (vec![self.raw_root().await], BTreeMap::new());
        while let Some(folder) = folders.pop() {
            let listed = api.list(&folder).await;
            for key in listed.data()["keys"].as_array().unwrap() {
                let key = format!("{folder}{}", key.as_str().unwrap());
                if key.ends_with('/') {
                    folders.push(key);
                } else {
                    let entry = api.read(&format!("{key}?encoding=base64")).await;
                    entries.insert(key, entry.data()["value"].clone());
                }
            }
        }
        entries
    }

    /// Requires that nothing secret of this test is in the server's log, in the audit file or in
    /// any answer beside the fields made for it.
    pub(super) fn assert_nothing_leaked(&self) {
        let seen = self.api.seen();
        let mut places = vec![
            ("the server's log", self.server.log()),
            ("the audit file", self.server.audit()),
        ];
        places.extend(seen.texts.iter().map(|text| ("an answer", text.clone())));
        let known = [TOKEN.to_owned(), FIRST.to_owned()];
        for secret in seen.secrets.iter().chain(&known) {
            assert!(secret.len() >= 16, "too short to search for");
            for form in [secret.clone(), STANDARD.encode(secret)] {
                for (place, text) in &places {
                    let line = text.lines().find(|line| line.contains(&form));
                    assert!(line.is_none(), "a secret is in {place}: {line:?}");
                }
            }
        }
    }
}
