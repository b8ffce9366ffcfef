//! The engine's way to the host's own API, as an operator makes it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::Api;
use crate::rig::Rig;

/// The policy that is handed out, which is for a mount at `smtp`.
const POLICY: &str = include_str!("../../../scripts/policies/emitter.hcl");
/// A server's unix listener at `api.sock`, the same on every node and each node's own: its plugins
/// run in its folder. The whole path may be too long for a socket.
pub(super) const SOCKET: &str = "unix:///proc/self/cwd/api.sock";
const ROLE: &str = "auth/approle/role/smtp-emitter";

/// An `AppRole` that may emit events, by batch tokens.
pub(super) struct Emitter {
    /// As an operator; what it sees is no answer of the plugin's.
    operator: Api,
    /// The namespace of the role, with its slash; empty for the root.
    namespace: &'static str,
    role_id: String,
}

impl Emitter {
    /// Makes the role; `cidrs` are those that it is bound to.
    pub(super) async fn enable(operator: Api, cidrs: &[&str]) -> Self {
        Self::made(operator, "", cidrs).await
    }

    /// Makes the role in a namespace, beside the mount.
    pub(super) async fn within(operator: Api, namespace: &'static str) -> Self {
        Self::made(operator, namespace, &[]).await
    }

    async fn made(operator: Api, namespace: &'static str, cidrs: &[&str]) -> Self {
        let method = json!({"type": "approle"});
        let path = format!("{namespace}sys/auth/approle");
        operator.write(&path, method).await.no_content();
        let policy = json!({ "policy": POLICY });
        let path = format!("{namespace}sys/policies/acl/smtp-emitter");
        operator.write(&path, policy).await.no_content();
        let role = json!({
            "token_type": "batch",
            "token_ttl": "10m",
            "token_policies": ["smtp-emitter"],
            "token_no_default_policy": true,
            "token_bound_cidrs": cidrs,
            "secret_id_bound_cidrs": cidrs,
        });
        let path = format!("{namespace}{ROLE}");
        operator.write(&path, role).await.no_content();
        let role_id = operator.read(&format!("{path}/role-id")).await;
        Self {
            role_id: text(&role_id.data()["role_id"]),
            operator,
            namespace,
        }
    }

    /// The same as an operator at the node of `rig`.
    pub(super) fn through(&self, rig: &Rig) -> Self {
        Self {
            operator: self.operator.at(rig.server.address()),
            namespace: self.namespace,
            role_id: self.role_id.clone(),
        }
    }

    /// Draws a `secret_id`, which `rig` looks for in what must not have it.
    pub(super) async fn secret_id(&self, rig: &Rig) -> String {
        let path = format!("{}{ROLE}/secret-id", self.namespace);
        let drawn = self.operator.write(&path, json!({})).await;
        let secret_id = text(&drawn.data()["secret_id"]);
        rig.api.seen().secrets.insert(secret_id.clone());
        secret_id
    }

    /// Makes a `secret_id` worthless.
    pub(super) async fn destroy(&self, secret_id: &str) {
        let path = format!("{ROLE}/secret-id/destroy");
        let destroyed = self
            .operator
            .write(&path, json!({ "secret_id": secret_id }));
        destroyed.await.no_content();
    }

    /// Logs in as the engine does.
    pub(super) async fn log_in(&self, rig: &Rig) -> Api {
        let credentials = json!({
            "role_id": self.role_id, "secret_id": self.secret_id(rig).await,
        });
        let answer = self.operator.write("auth/approle/login", credentials).await;
        rig.api
            .with_token(&text(&answer.body["auth"]["client_token"]))
    }

    /// Has the engine deliver its events to `address`, with the certificate's authority.
    /// Returns the `secret_id`.
    pub(super) async fn deliver_at(
        &self,
        rig: &Rig,
        address: &str,
        ca_cert: Option<&str>,
    ) -> String {
        let secret_id = self.secret_id(rig).await;
        let way = json!({
            "mode": "loopback",
            "address": address,
            "ca_cert": ca_cert,
            "auth_path": format!("{}auth/approle", self.namespace),
            "role_id": self.role_id,
            "secret_id": secret_id,
        });
        rig.write("config/audit", way).await.no_content();
        secret_id
    }
}

/// Lets the role emit the events of these mounts.
pub(super) async fn allow(operator: &Api, mounts: &[&str]) {
    let policies = mounts
        .iter()
        .map(|mount| POLICY.replace("smtp/", &format!("{mount}/")));
    let policy = json!({ "policy": policies.collect::<String>() });
    let path = "sys/policies/acl/smtp-emitter";
    operator.write(path, policy).await.no_content();
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Waits until every stored event is in the devices.
pub(super) async fn all_delivered(rig: &Rig) -> Value {
    let mut last = Value::Null;
    let delivered = async {
        loop {
            last = rig.read("status").await.body;
            let status = &last["data"];
            if status["audit"] == "delivering" && status["audit_delivery"]["undelivered"] == 0 {
                return status["audit_delivery"].clone();
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let waited = timeout(Duration::from_secs(90), delivered).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for the deliveries: {last:#}"))
}
