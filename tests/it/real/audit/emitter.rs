//! The engine's way to the host's own API, as an operator makes it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::real::api::Api;
use crate::real::rig::Rig;

/// The policy that is handed out, which is for a mount at `smtp`.
const POLICY: &str = include_str!("../../../../scripts/policies/emitter.hcl");
const ROLE: &str = "auth/approle/role/smtp-emitter";

/// An `AppRole` that may emit events, by batch tokens.
pub(super) struct Emitter {
    /// As an operator; what it sees is no answer of the plugin's.
    operator: Api,
    role_id: String,
}

impl Emitter {
    /// Makes the role; `cidrs` are those that it is bound to.
    pub(super) async fn enable(operator: Api, cidrs: &[&str]) -> Self {
        let method = json!({"type": "approle"});
        let written = operator.write("sys/auth/approle", method).await;
        written.no_content();
        let policy = json!({ "policy": POLICY });
        let written = operator.write("sys/policies/acl/smtp-emitter", policy);
        written.await.no_content();
        let role = json!({
            "token_type": "batch",
            "token_ttl": "10m",
            "token_policies": ["smtp-emitter"],
            "token_no_default_policy": true,
            "token_bound_cidrs": cidrs,
            "secret_id_bound_cidrs": cidrs,
        });
        operator.write(ROLE, role).await.no_content();
        let role_id = operator.read(&format!("{ROLE}/role-id")).await;
        Self {
            role_id: text(&role_id.data()["role_id"]),
            operator,
        }
    }

    /// Draws a `secret_id`, which `rig` looks for in what must not have it.
    pub(super) async fn secret_id(&self, rig: &Rig) -> String {
        let path = format!("{ROLE}/secret-id");
        let drawn = self.operator.write(&path, json!({})).await;
        let secret_id = text(&drawn.data()["secret_id"]);
        rig.api.seen().secrets.insert(secret_id.clone());
        secret_id
    }

    /// Has the engine deliver its events to `address`, with the certificate's authority.
    pub(super) async fn deliver_at(&self, rig: &Rig, address: &str, ca_cert: Option<&str>) {
        let way = json!({
            "address": address,
            "ca_cert": ca_cert,
            "role_id": self.role_id,
            "secret_id": self.secret_id(rig).await,
        });
        rig.write("config/audit", way).await.no_content();
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Waits until every stored event is in the devices.
pub(super) async fn all_delivered(rig: &Rig) -> Value {
    for _ in 0..300 {
        let status = rig.read("status").await;
        let status = &status.body["data"];
        if status["audit"] == "delivering" && status["audit_delivery"]["undelivered"] == 0 {
            return status["audit_delivery"].clone();
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let status = rig.read("status").await;
    panic!("waited in vain for the deliveries: {:#}", status.body)
}
