//! The rules for the host's audit log, on lines that a real OpenBao 2.7.2 wrote.
//!
//! The recording has nine wrapped answers: opened by the wrapping token itself, in the body, and
//! at the cubbyhole; wrapped again twice and never opened; never opened; opened too late; revoked
//! by accessor; and two with tokens in the JWT format, opened by itself and in the body. Besides
//! these, attempts with nonsense, without a token and without a policy, answers that others
//! wrapped, and calls of the paths for delivering events.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const RECORDED: &str = include_str!("fixtures/audit-emergency.jsonl");

/// An hour after the recording.
const LATER: &str = "1795296228";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn program(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} names none: run scripts/test"))
        .into()
}

/// What a rule finds in these lines.
fn found(rule: &str, options: &[&str], lines: &str) -> Vec<Value> {
    let mut jq = Command::new(program("SMTP_TEST_JQ"));
    jq.arg("-nRc").args(options).arg("-f");
    jq.arg(root().join("scripts/monitoring/audit").join(rule));
    let mut jq = jq
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = jq.stdin.take().unwrap();
    let lines = lines.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = jq.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{rule}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for it in &found {
        assert_eq!(format!("{}.jq", it["rule"].as_str().unwrap()), rule);
        assert!(
            it["time"].is_string() && it["request_id"].is_string(),
            "{it}"
        );
    }
    found
}

/// One member of each.
fn all<'a>(found: &'a [Value], pointer: &str) -> Vec<&'a Value> {
    let null = &Value::Null;
    let members = found.iter();
    members
        .map(|it| it.pointer(pointer).unwrap_or(null))
        .collect()
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_finds_refused_openings_and_whose_token_it_was() {
    let refused = found("unwrap-refused.jq", &[], RECORDED);
    let of = [
        "smtp/acme/reset",
        "smtp/acme/reveal",
        "smtp/acme/reveal",
        "smtp/acme/reveal",
    ];
    let mut expected: Vec<Value> = of.iter().map(|it| json!(it)).collect();
    // Nonsense: nobody knows whose it was.
    expected.push(Value::Null);
    assert_eq!(
        all(&refused, "/of/path"),
        expected.iter().collect::<Vec<_>>()
    );
    let late = [
        json!(false),
        json!(false),
        json!(false),
        json!(true),
        Value::Null,
    ];
    assert_eq!(all(&refused, "/expired"), late.iter().collect::<Vec<_>>());
    // The first wrapped answers are in no log any more: still found, as unknown.
    let rest: Vec<&str> = RECORDED.lines().skip(2).collect();
    let refused = found("unwrap-refused.jq", &[], &rest.join("\n"));
    assert_eq!(refused.len(), 5);
    assert_eq!(refused[0]["of"], Value::Null);
    // Of another mount: those are known to be of others and left out.
    let other = found("unwrap-refused.jq", &["--arg", "mount", "mail/"], RECORDED);
    assert_eq!(all(&other, "/of"), [&Value::Null]);
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_finds_answers_that_nobody_opened() {
    let never = found("never-unwrapped.jq", &["--argjson", "now", LATER], RECORDED);
    let told = |it: &Value| {
        (
            it["ttl"].as_u64().unwrap(),
            it["rewrapped"] == true,
            it["revoked_by"]["by"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            it["perhaps_opened_by"].as_array().unwrap().len(),
        )
    };
    let never: Vec<_> = never.iter().map(told).collect();
    // The one opened as JWT in the body has another HMAC there. What lived at that time may have
    // been opened by it.
    let expected = [
        (900, true, "", 1),
        (1, false, "", 0),
        (1, false, "", 0),
        (900, false, "token", 1),
        (60, false, "", 1),
    ];
    let expected = expected.map(|(ttl, re, by, some)| (ttl, re, by.to_owned(), some));
    let mut sorted = never;
    sorted.sort();
    let mut wanted = expected.to_vec();
    wanted.sort();
    assert_eq!(sorted, wanted);
    // While their time is not over, nothing is said. Two had one second, an hour before.
    let at_once = ["--argjson", "now", "1795292629"];
    assert_eq!(found("never-unwrapped.jq", &at_once, RECORDED).len(), 2);
    // Without the openings, all of them.
    let closed: Vec<&str> = RECORDED
        .lines()
        .filter(|line| !line.contains("\"sys/wrapping/") && !line.contains("cubbyhole/response"))
        .collect();
    let later = ["--argjson", "now", LATER];
    let closed = found("never-unwrapped.jq", &later, &closed.join("\n"));
    assert_eq!(closed.len(), 9);
    let reset = closed.iter().filter(|it| it["path"] == "smtp/acme/reset");
    assert_eq!(reset.count(), 1);
    // The order of the lines does not matter, nor does a cut or foreign one.
    let mut lines: Vec<&str> = RECORDED.lines().rev().collect();
    lines.extend(["{\"type\":\"resp", "null", "not JSON", "{}"]);
    let shuffled = found("never-unwrapped.jq", &later, &lines.join("\n"));
    assert_eq!(shuffled.len(), expected.len());
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_finds_rewraps_denials_and_strange_callers() {
    let rewrapped = found("rewrapped.jq", &[], RECORDED);
    assert_eq!(all(&rewrapped, "/by"), [&json!("token"), &json!("token")]);
    let denied = found("denied-emergency.jq", &[], RECORDED);
    let whom = [
        json!("userpass-pat"),
        json!("userpass-acme-app"),
        Value::Null,
    ];
    assert_eq!(all(&denied, "/by"), whom.iter().collect::<Vec<_>>());
    let paths = [
        json!("smtp/acme/reset"),
        json!("smtp/globex/reveal"),
        json!("smtp/acme/reveal"),
    ];
    assert_eq!(all(&denied, "/path"), paths.iter().collect::<Vec<_>>());
    let calls = found(
        "audit-calls.jq",
        &["--arg", "role", "smtp-emitter"],
        RECORDED,
    );
    let whom = [json!("token"), json!("userpass-pat")];
    assert_eq!(all(&calls, "/by"), whom.iter().collect::<Vec<_>>());
    assert_eq!(all(&calls, "/allowed"), [&json!(true), &json!(false)]);
    let others = found("audit-calls.jq", &["--arg", "role", "another"], RECORDED);
    assert_eq!(others.len(), 3, "the emitter's own too");
    // In a namespace the host writes the path without it.
    let inside = RECORDED.replace("{\"id\":\"root\"}", "{\"id\":\"W\",\"path\":\"team1/\"}");
    let mount = [
        "--arg",
        "mount",
        "team1/smtp/",
        "--arg",
        "role",
        "smtp-emitter",
    ];
    for (rule, count) in [
        ("rewrapped.jq", 2),
        ("denied-emergency.jq", 3),
        ("audit-calls.jq", 2),
        ("unwrap-refused.jq", 5),
    ] {
        assert_eq!(found(rule, &mount, &inside).len(), count, "{rule}");
    }
}

/// rsyslogd, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "needs rsyslogd: scripts/test fetches it, sets SMTP_TEST_RSYSLOGD and runs this"]
async fn rsyslog_alerts_for_the_same_lines() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rules = fs::read_to_string(root().join("scripts/monitoring/audit/rsyslog.conf")).unwrap();
    let mut conf = format!("global(workDirectory=\"{}\")\n", dir.path().display());
    for there in [
        "/var/log/openbao/audit.log",
        "/var/log/smtp-audit-alerts.json",
    ] {
        assert!(rules.contains(there), "{there}");
    }
    let rules = rules.replace(
        "/var/log/openbao/audit.log",
        at("audit.log").to_str().unwrap(),
    );
    let alerts = at("alerts");
    conf += &rules.replace("/var/log/smtp-audit-alerts.json", alerts.to_str().unwrap());
    fs::write(at("rsyslog.conf"), conf).unwrap();
    // The last line is the sign that all were seen: it is none of the host's.
    fs::write(
        at("audit.log"),
        format!("{RECORDED}not a line of the host\n"),
    )
    .unwrap();
    let mut rsyslogd = Command::new(program("SMTP_TEST_RSYSLOGD"));
    rsyslogd
        .args(["-n", "-i"])
        .arg(at("pid"))
        .arg("-f")
        .arg(at("rsyslog.conf"));
    let mut running = Running(rsyslogd.spawn().unwrap());
    let text = loop {
        let text = fs::read_to_string(&alerts).unwrap_or_default();
        if text.ends_with('\n') && text.contains("\"not-parsed\"") {
            break text;
        }
        assert_eq!(running.0.try_wait().unwrap(), None, "rsyslogd ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let alert: Value = serde_json::from_str(line).unwrap();
        *counts
            .entry(alert["rule"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    let expected = [
        ("audit-calls", 2),
        ("denied-emergency", 3),
        ("not-parsed", 1),
        ("rewrapped", 2),
        ("unwrap-refused", 5),
    ];
    assert_eq!(
        counts,
        expected
            .map(|(rule, count)| (rule.to_owned(), count))
            .into()
    );
}
