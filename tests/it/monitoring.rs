//! The metrics against what is built on them: the alert rules, the dashboard, and the README.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::endpoints::mount_status::metrics;
use crate::support::engine::Rig;

const ALERTS: &str = include_str!("../../scripts/monitoring/alerts.yml");
const ALERTS_TEST: &str = include_str!("../../scripts/monitoring/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../scripts/monitoring/dashboard.json");
const README: &str = include_str!("../../README.md");

/// Every name of a metric in the text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("smtp_"))
        .map(str::to_owned)
        .collect()
}

/// A mount on which everything has a value.
async fn busy_mount() -> Rig {
    let rig = Rig::created().await;
    rig.write("batches", json!({ "action": "rotate", "all": true }))
        .await
        .ok();
    rig.tick().await;
    rig
}

async fn answered(rig: &Rig) -> BTreeSet<String> {
    let samples = metrics(rig).await;
    samples
        .keys()
        .map(|key| key.split('{').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn alerts_and_dashboard_ask_for_metrics_that_exist_and_for_all_of_them() {
    let answered = answered(&busy_mount().await).await;
    let mut asked = BTreeSet::new();
    for line in ALERTS.lines() {
        if let Some(expression) = line.trim_start().strip_prefix("expr:") {
            asked.extend(names(expression));
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            asked.extend(names(target["expr"].as_str().unwrap()));
        }
    }
    assert_eq!(asked, answered);
    let tested = ALERTS_TEST.lines().filter(|line| line.contains("series:"));
    let tested: BTreeSet<String> = tested.flat_map(names).collect();
    assert!(tested.is_subset(&answered), "{tested:?}");
    for alert in ALERTS.lines().filter_map(|line| line.split_once("alert: ")) {
        assert!(
            ALERTS_TEST.contains(&format!("alertname: {}", alert.1)),
            "{} has no test",
            alert.1
        );
    }
}

#[tokio::test]
async fn the_readme_lists_every_metric() {
    let (_, section) = README.split_once("\n| metric | what |\n").unwrap();
    let (table, _) = section.split_once("\n\n").unwrap();
    let first = table.lines().filter_map(|line| line.split('|').nth(1));
    let listed: BTreeSet<String> = first.flat_map(names).collect();
    assert_eq!(listed, answered(&busy_mount().await).await);
}

/// Prometheus' own tool reads them. Needs SMTP_TEST_PROMTOOL, which scripts/test sets.
#[tokio::test]
#[ignore = "needs Prometheus' promtool: scripts/test fetches it, sets SMTP_TEST_PROMTOOL and runs this"]
async fn promtool_takes_the_metrics_and_the_rules() {
    let (_, body) = busy_mount().await.read("metrics").await.ok().raw.unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.txt");
    fs::write(&file, body).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = Command::new(root.join("scripts/monitoring/check"))
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}
