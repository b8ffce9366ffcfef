//! `scripts/audit-verify` over the files of real audit devices, and those files' own lines.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::api::Api;
use crate::server::Server;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/audit-verify");
/// What an auditor needs, for a mount at `smtp`.
const POLICY: &str = include_str!("../../../scripts/policies/auditor.hcl");

/// What the program said.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) code: i32,
    pub(super) text: String,
}

/// Who may read the events and nothing else.
#[derive(Debug)]
pub(super) struct Auditor {
    address: String,
    token: String,
}

impl Auditor {
    pub(super) async fn appointed(operator: &Api) -> Self {
        Self::of(operator, &["smtp"]).await
    }

    /// One for these mounts.
    pub(super) async fn of(operator: &Api, mounts: &[&str]) -> Self {
        let policies = mounts
            .iter()
            .map(|mount| POLICY.replace("smtp/", &format!("{mount}/")));
        let policy = serde_json::json!({ "policy": policies.collect::<String>() });
        let written = operator.write("sys/policies/acl/auditor", policy).await;
        written.no_content();
        let wanted = serde_json::json!({"policies": ["auditor"], "no_default_policy": true});
        let made = operator.write("auth/token/create", wanted).await;
        Self {
            address: operator.address().to_owned(),
            token: made.body["auth"]["client_token"]
                .as_str()
                .unwrap()
                .to_owned(),
        }
    }

    /// Judges `logs` by the stored trail; `more` are further arguments.
    pub(super) async fn verify(&self, logs: &[PathBuf], more: &[&str]) -> Verdict {
        let mut command = Command::new("python3");
        command
            .arg(PROGRAM)
            .args(["--all", "--address", &self.address])
            .args(more)
            .args(logs)
            .env("BAO_TOKEN", &self.token);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        Verdict {
            code: output.status.code().unwrap(),
            text: String::from_utf8(output.stdout).unwrap()
                + &String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Requires that the logs prove every event.
    pub(super) async fn proves(&self, logs: &[PathBuf], more: &[&str]) {
        let verdict = self.verify(logs, more).await;
        assert_eq!(verdict.code, 0, "{}", verdict.text);
    }
}

/// The audit file of a server.
pub(super) fn audit_file(server: &Server) -> PathBuf {
    server.file("audit.log")
}

/// The answered events of a log, with the number of their line, in its order.
pub(super) fn emitted(log: &Path) -> Vec<(usize, Value)> {
    let text = std::fs::read_to_string(log).unwrap();
    let records = text.lines().zip(1..).filter_map(|(line, number)| {
        let record: Value = serde_json::from_str(line).ok()?;
        Some((number, record))
    });
    let emitted = records.filter(|(_, record)| {
        let path = record["request"]["path"].as_str().unwrap_or_default();
        let told = record["type"] == "response" && record["error"].is_null();
        told && path.contains("/events/emit/")
    });
    emitted.collect()
}

/// The fields of the events that a log has in clear.
pub(super) fn events(log: &Path) -> Vec<Value> {
    let emitted = emitted(log).into_iter();
    emitted
        .map(|(_, record)| record["response"]["data"].clone())
        .collect()
}
