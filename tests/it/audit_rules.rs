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
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::envelopes::{kept_by, prefixed, wrapped};
use crate::support::strangers::{LEVELS, bodies, nested};

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

const RULES: [&str; 5] = [
    "audit-calls.jq",
    "denied-emergency.jq",
    "never-unwrapped.jq",
    "rewrapped.jq",
    "unwrap-refused.jq",
];

/// What every rule takes.
const OPTIONS: [&str; 6] = ["--arg", "role", "smtp-emitter", "--argjson", "now", LATER];

fn piped(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // Whoever sees at the first bytes that he cannot read it ends before the last.
    let _ended_early = writer.join().unwrap();
    output
}

fn audit_lines() -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-W", "error"])
        .arg(root().join("scripts/audit-lines"));
    command
}

/// What `audit-lines` makes of a log.
fn read(lines: &[u8]) -> Vec<u8> {
    let output = piped(audit_lines(), lines);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    output.stdout
}

/// A rule on a log that is given to it as it is.
fn judged(rule: &str, options: &[&str], lines: &[u8]) -> Output {
    let mut jq = Command::new(program("SMTP_TEST_JQ"));
    jq.arg("-nRc").args(options).arg("-f");
    jq.arg(root().join("scripts/monitoring/audit").join(rule));
    piped(jq, lines)
}

/// What a rule finds in a log that is given to it as it is.
fn found_by_itself(rule: &str, options: &[&str], lines: &[u8]) -> Vec<Value> {
    let output = judged(rule, options, lines);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{rule}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for it in found.iter().filter(|it| it["rule"] != "not-parsed") {
        assert_eq!(format!("{}.jq", it["rule"].as_str().unwrap()), rule);
        assert!(
            it["time"].is_string() && it["request_id"].is_string(),
            "{it}"
        );
    }
    found
}

/// What a rule finds in these lines.
fn found(rule: &str, options: &[&str], lines: &str) -> Vec<Value> {
    found_by_itself(rule, options, &read(lines.as_bytes()))
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
    // The order of the lines does not matter, and a cut or foreign one does not to the others.
    let mut lines: Vec<&str> = RECORDED.lines().rev().collect();
    lines.extend(["{\"type\":\"resp", "null", "not JSON", "{}"]);
    let shuffled = found("never-unwrapped.jq", &later, &lines.join("\n"));
    assert_eq!(shuffled.len(), expected.len() + 1);
    assert_eq!(
        (&shuffled[0]["rule"], &shuffled[0]["lines"]),
        (&json!("not-parsed"), &json!(3))
    );
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

/// A recorded line whose request had this body besides.
fn asked_with(line: &str, body: &[u8]) -> Vec<u8> {
    let mut line: Value = serde_json::from_str(line).unwrap();
    let data = &mut line["request"]["data"];
    if !data.is_object() {
        *data = json!({});
    }
    data["@"] = json!(0);
    put(&line, b"\"@\":0", &body[1..body.len() - 1])
}

/// A line with other bytes in the place of `mark`.
fn put(line: &Value, mark: &[u8], bytes: &[u8]) -> Vec<u8> {
    let line = line.to_string().into_bytes();
    let at = line.windows(mark.len()).position(|it| it == mark).unwrap();
    [&line[..at], bytes, &line[at + mark.len()..], b"\n"].concat()
}

/// A recorded line with what is left of the body of its request.
fn without_body(line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).unwrap();
    let mut left = json!({});
    for name in ["token", "accessor"] {
        if let Some(text) = line["request"]["data"][name].as_str() {
            left[name] = json!(text);
        }
    }
    line["request"]["data"] = left;
    line
}

/// The first recorded line that has all of this in it.
fn recorded(parts: [&str; 2]) -> &'static str {
    let mut lines = RECORDED.lines();
    lines
        .find(|line| parts.iter().all(|it| line.contains(it)))
        .unwrap()
}

const OPENED: [&str; 2] = ["\"path\":\"sys/wrapping/unwrap\"", "\"data\":{\"token\":"];
const DENIED: [&str; 2] = ["\"path\":\"smtp/acme/reset\"", "permission denied"];

#[test]
fn lines_lose_nothing_but_what_strangers_wrote_into_them() {
    // What is short and not deep is as it was.
    assert_eq!(read(RECORDED.as_bytes()), RECORDED.as_bytes());
    let mut log = Vec::new();
    let mut expected = Vec::new();
    for (what, body) in bodies() {
        for line in [recorded(OPENED), recorded(DENIED)] {
            log.extend(asked_with(line, &body));
            expected.push((what.clone(), without_body(line)));
        }
        // An answer can hold what was asked for: a wrapped one does.
        let mut line = without_body(recorded(OPENED));
        line["response"] = json!({"data": "@", "mount_type": "system"});
        log.extend(put(&line, b"\"@\"", &body));
        line["response"]["data"] = Value::Null;
        expected.push((what, line));
    }
    let cut = read(&log);
    let cut: Vec<&[u8]> = cut.trim_ascii_end().split(|it| *it == b'\n').collect();
    assert_eq!(cut.len(), expected.len());
    for (cut, (what, expected)) in cut.into_iter().zip(expected) {
        let cut: Value = serde_json::from_slice(cut).expect(&what);
        assert_eq!(cut, expected, "{what}");
    }
    // A text that only looks like a body is left as it is, and so is `data` in another place, as far
    // as a reader can follow.
    let lists = nested(9_990);
    for place in [
        "/auth/metadata",
        "/request/headers",
        "/request/data/token",
        "",
    ] {
        let mut line: Value = serde_json::from_str(recorded(OPENED)).unwrap();
        line["request"]["headers"] = json!({});
        line["auth"]["metadata"] = json!({});
        line["request"]["path"] = json!("smtp/a\",\"data\":{[[[\\/reset");
        let before = line.clone();
        let at = line.pointer_mut(place).unwrap();
        if at.is_string() {
            *at = json!({});
        }
        at["data"] = json!("@");
        let cut = read(&put(&line, b"\"@\"", lists.as_bytes()));
        let cut: Value = serde_json::from_slice(&cut).unwrap();
        let mut expected = before;
        match place {
            // The seven below the line itself.
            "" => expected["data"] = json!([[[[[[[null]]]]]]]),
            // What is no text is none of the host's tokens.
            "/request/data/token" => expected["request"]["data"] = json!({}),
            _ => expected.pointer_mut(place).unwrap()["data"] = json!([[[[[null]]]]]),
        }
        assert_eq!(cut, expected, "{place}");
    }
    // Twice the same name: every one is cut, whichever a reader takes.
    let line: Value = serde_json::from_str(recorded(DENIED)).unwrap();
    let twice = format!("\"data\":{lists},\"data\":{lists},\"remote_address\":");
    let cut = read(&put(&line, b"\"remote_address\":", twice.as_bytes()));
    let cut = String::from_utf8(cut).unwrap();
    assert_eq!(cut.matches("\"data\":null").count(), 2, "{cut}");
}

/// Reads a log with pieces of many lengths: what is cut must not depend on where one ends.
const PIECES: &str = r#"
import io, sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
sys.dont_write_bytecode = True
loader = SourceFileLoader("audit_lines", sys.argv[1])
module = sys.modules[loader.name] = module_from_spec(spec_from_loader(loader.name, loader))
loader.exec_module(module)
# No line is short enough to be passed on uncut.
module.SHORT = 0
cuts = set()
for module.PIECE in (2**20, 1000, 64, 7, 5, 3, 2, 1):
    cut = io.BytesIO()
    module.for_rules([sys.argv[2]], cut)
    cuts.add(cut.getvalue())
print(len(cuts), *(cut.count(b"\n") for cut in cuts))
"#;

#[test]
fn a_line_is_cut_alike_wherever_its_pieces_end() {
    let short = bodies().into_iter().filter(|(_, body)| body.len() < 30_000);
    let lines: Vec<u8> = short
        .flat_map(|(_, body)| {
            [OPENED, DENIED]
                .map(|part| asked_with(recorded(part), &body))
                .concat()
        })
        .collect();
    let count = lines.iter().filter(|it| **it == b'\n').count() + RECORDED.lines().count();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), [RECORDED.as_bytes(), &lines].concat()).unwrap();
    let mut python = Command::new("python3");
    python.args(["-W", "error", "-c", PIECES]);
    python
        .arg(root().join("scripts/audit-lines"))
        .arg(file.path());
    let output = python.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("1 {count}\n")
    );
}

/// A body gets too long in the piece in which something too deep begins: it is left out in the
/// middle of what is skipped.
const LEFT_OUT: &str = r#"
import io, json, sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
sys.dont_write_bytecode = True
loader = SourceFileLoader("audit_lines", sys.argv[1])
module = sys.modules[loader.name] = module_from_spec(spec_from_loader(loader.name, loader))
loader.exec_module(module)
module.LONGEST_BODY = 100
deep = "[" * 12 + "1" + "]" * 12
body = '{"a":"' + "x" * 120 + '","b":' + deep + ',"c":[' + deep + ',"' + "y" * 120 + '"]}'
whole = '{"type":"request","request":{"path":"smtp/acme/reset","data":' + body + \
    ',"remote_address":"203.0.113.9"},"time":"now"}'
left_out = 0
for length in range(1, len(whole)):
    line = module.Cut({(b"request", b"data"): None})
    for at in range(0, len(whole), length):
        line.take(whole[at : at + length].encode())
    read = json.loads(line.end())
    assert read["request"]["remote_address"] == line.address == "203.0.113.9", (length, read)
    assert read["time"] == "now", (length, read)
    left_out += read["request"]["data"] is None
print(left_out > 0)
"#;

#[test]
fn what_is_left_out_in_the_middle_of_a_skip_ends_where_it_ends() {
    let mut python = Command::new("python3");
    python.args(["-W", "error", "-c", LEFT_OUT]);
    python.arg(root().join("scripts/audit-lines"));
    let output = python.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"True\n");
}

/// Lines of which two are whole, and what is no audit line between them.
fn damaged() -> String {
    let from = |address: &str| {
        format!(
            "{{\"type\":\"request\",\"request\":{{\"path\":\"smtp/acme/reset\",\
             \"remote_address\":\"{address}\",\"data\":{{\"junk\":[["
        )
    };
    let mut lines: Vec<String> = RECORDED.lines().take(2).map(str::to_owned).collect();
    lines.splice(
        1..1,
        [
            from("203.0.113.9"),
            "[1]".to_owned(),
            from("198.51.100.7"),
            "null".to_owned(),
        ],
    );
    lines.join("\n") + "\n"
}

#[test]
fn what_nobody_can_read_is_told_once_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // The last line of the first is being written.
    fs::write(at("1"), damaged() + "{\"type\":\"requ").unwrap();
    fs::write(at("2"), RECORDED).unwrap();
    fs::write(at("3"), "\n\nno audit line\n").unwrap();
    let mut command = audit_lines();
    command.args([at("1"), at("2"), at("absent"), at("3")]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&at("absent")), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let findings = text.lines().filter(|line| line.starts_with("{\"rule\""));
    let findings: Vec<Value> = findings
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(
        text.lines().count(),
        2 + RECORDED.lines().count() + findings.len()
    );
    let expected = json!({
        "rule": "not-parsed", "log": at("1"), "lines": 4, "first_line": 2, "last_line": 5,
        "remote_addresses": ["198.51.100.7", "203.0.113.9"],
    });
    assert_eq!(findings[0], expected);
    assert_eq!(
        (&findings[1]["log"], &findings[1]["lines"]),
        (&json!(at("absent")), &json!(0))
    );
    assert!(
        findings[1]["why"]
            .as_str()
            .unwrap()
            .contains("No such file")
    );
    assert_eq!(
        (&findings[2]["log"], &findings[2]["first_line"]),
        (&json!(at("3")), &json!(3))
    );
    let why = findings[2]["why"].as_str().unwrap();
    assert!(why.contains("no audit line"), "{why}");
    assert_eq!(findings.len(), 3);
}

/// The recorded lines, each without what a cut one would not have.
fn recorded_lines() -> Vec<String> {
    let lines = RECORDED.lines();
    lines.map(|it| without_body(it).to_string()).collect()
}

/// The audit lines among what `audit-lines` wrote, and its findings.
fn lines_and_findings(output: &[u8]) -> (Vec<Value>, Vec<Value>) {
    let text = std::str::from_utf8(output).unwrap();
    let values = text.lines().map(|it| serde_json::from_str(it).unwrap());
    values.partition(|it: &Value| it["rule"].is_null())
}

#[test]
fn lines_are_taken_out_of_what_is_around_them() {
    let lines = recorded_lines();
    let mut expected: Vec<Value> = lines
        .iter()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    // What is cut has nothing left of an answer.
    let bare = |lines: &mut Vec<Value>| {
        for line in lines {
            if let Some(data) = line.pointer_mut("/response/data") {
                *data = Value::Null;
            }
        }
    };
    bare(&mut expected);
    for (who, log) in kept_by(&lines) {
        let (mut found, findings) = lines_and_findings(&read(&log));
        bare(&mut found);
        assert_eq!(findings, Vec::<Value>::new(), "{who}");
        assert_eq!(found.len(), expected.len(), "{who}");
        assert_eq!(found, expected, "{who}");
    }
    // The last part of a line did not come: that line is lost, the next is not.
    for (who, log) in
        kept_by(&lines[..1])
            .into_iter()
            .zip(kept_by(&lines))
            .map(|((who, mut first), (_, log))| {
                let end = first.iter().position(|it| *it == b'\n').unwrap();
                first.truncate(end + 1);
                (who, [first, log].concat())
            })
    {
        if !who.contains("split") && !who.contains("parts") {
            continue;
        }
        let (found, findings) = lines_and_findings(&read(&log));
        assert_eq!(found.len(), expected.len(), "{who}");
        assert_eq!(findings.len(), 1, "{who}");
        assert_eq!(findings[0]["lines"], 1, "{who}");
    }
}

#[test]
fn what_is_no_audit_log_is_never_well() {
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(RECORDED.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let unknown = RECORDED.lines().map(|it| json!({"x": it}).to_string());
    let unknown = unknown.collect::<Vec<_>>().join("\n");
    for (what, log, why) in [
        ("nothing", b"".to_vec(), "empty"),
        ("blank lines", b"\n\n".to_vec(), "empty"),
        ("half a line", b"{\"time\":\"20".to_vec(), "empty"),
        ("UTF-16", utf16, "UTF-16"),
        ("zstd", b"\x28\xb5\x2f\xfd\0\0".to_vec(), "unpack"),
        (
            "a server's log",
            b"[INFO] core: {}\n".repeat(3),
            "no audit line",
        ),
        (
            "an unknown envelope",
            (unknown + "\n").into_bytes(),
            "no audit line",
        ),
    ] {
        let output = piped(audit_lines(), &log);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(said.contains(why), "{what}: {said}");
        let (_, findings) = lines_and_findings(&output.stdout);
        let told = findings.last().unwrap()["why"].as_str().unwrap();
        assert!(told.contains(why), "{what}: {told}");
    }
    // An empty one beside one that has lines is a log that was just rotated.
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("empty"), "").unwrap();
    fs::write(at("full"), RECORDED).unwrap();
    let mut command = audit_lines();
    let output = command.args([at("empty"), at("full")]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, RECORDED.as_bytes());
}

/// Runs a program of `scripts` in a Python that has this done to it first.
fn in_python(change: &str, name: &str, arguments: &[&str]) -> Output {
    let run = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')";
    let mut python = Command::new("python3");
    python
        .args([
            "-c",
            &format!("import hashlib, json, runpy, sys\n{change}\n{run}"),
        ])
        .arg(root().join("scripts").join(name))
        .args(arguments);
    python.output().unwrap()
}

#[test]
fn a_tool_that_fails_says_neither_well_nor_broken() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let line = json!({"type": "response", "request": {"path": "smtp/events/emit/acme/1"},
        "response": {"data": {"event_id": "of-a-secret"}}});
    fs::write(log.path(), format!("{line}\n")).unwrap();
    let log = log.path().to_str().unwrap();
    for (name, arguments) in [
        ("audit-lines", vec![log]),
        ("audit-verify", vec!["--log-only", log]),
    ] {
        for (change, said) in [
            // A Python that is too old for it, and a mistake in the program.
            ("sys.version_info = (3, 9, 2, 'final', 0)", "Python 3.11"),
            (
                "json.JSONDecoder.decode = lambda *_: 1 / 0",
                "ZeroDivisionError",
            ),
        ] {
            let output = in_python(change, name, &arguments);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{name}: {told}");
            assert!(told.contains(said), "{name}: {told}");
            assert_eq!(told.lines().count(), 1, "{name}: {told}");
            assert!(!told.contains("of-a-secret"), "{name}: {told}");
            // A rule behind it does not take this for the end of the log.
            let passed_on = String::from_utf8_lossy(&output.stdout);
            let finds = name == "audit-lines" && said == "ZeroDivisionError";
            assert_eq!(passed_on.contains("\"why\""), finds, "{name}: {passed_on}");
        }
    }
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_judges_path_and_caller_whatever_the_body_is() {
    for levels in LEVELS {
        let body = format!("{{\"junk\":{}}}", nested(levels));
        let lines = RECORDED.lines().map(|it| asked_with(it, body.as_bytes()));
        let lines = lines.collect::<Vec<_>>().concat();
        for rule in RULES {
            let expected = found(rule, &OPTIONS, RECORDED);
            assert!(!expected.is_empty(), "{rule}");
            let lines = String::from_utf8(lines.clone()).unwrap();
            assert_eq!(
                found(rule, &OPTIONS, &lines),
                expected,
                "{rule}, {levels} levels"
            );
        }
    }
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_says_that_there_are_lines_which_no_rule_judged() {
    for rule in RULES {
        let quiet = found(rule, &OPTIONS, RECORDED.lines().next().unwrap());
        assert_eq!(quiet, Vec::<Value>::new(), "{rule}");
        let mut told = found(rule, &OPTIONS, &damaged());
        // One of the whole lines has what is never opened.
        told.retain(|it| it["rule"] == "not-parsed");
        let expected = json!({
            "rule": "not-parsed", "log": "stdin", "lines": 4, "first_line": 2, "last_line": 5,
            "remote_addresses": ["198.51.100.7", "203.0.113.9"],
        });
        assert_eq!(told, [expected], "{rule}");
        // Without audit-lines jq cannot say from where.
        let mut told = found_by_itself(rule, &OPTIONS, damaged().as_bytes());
        told.retain(|it| it["rule"] == "not-parsed");
        let expected = json!({
            "rule": "not-parsed", "log": "<stdin>", "lines": 4, "first_line": 2, "last_line": 5,
        });
        assert_eq!(told, [expected], "{rule}");
    }
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_judges_a_log_whatever_is_around_its_lines() {
    let lines = recorded_lines();
    let read_logs = kept_by(&lines)
        .into_iter()
        .map(|(who, log)| (who, read(&log)));
    let read_logs: Vec<_> = read_logs.collect();
    // Most of it without audit-lines.
    let alone = [prefixed(&lines), wrapped(&lines)].concat();
    for rule in RULES {
        let expected = found(rule, &OPTIONS, RECORDED);
        for (who, log) in &read_logs {
            let found = found_by_itself(rule, &OPTIONS, log);
            assert_eq!(found, expected, "{rule}: {who}");
        }
        for (who, log) in &alone {
            // Which only audit-lines knows.
            if ["journald, as bytes", "a prefix of objects"].contains(who) {
                continue;
            }
            let found = found_by_itself(rule, &OPTIONS, log);
            assert_eq!(found, expected, "{rule}: {who}");
        }
    }
}

#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_fails_when_there_was_nothing_to_judge() {
    for rule in RULES {
        for log in [
            "",
            "\n",
            "[INFO] core: {}\n",
            "{\"x\":\"{\\\"type\\\":1}\"}\n",
            "null\n[1]\n",
        ] {
            // By itself, and behind audit-lines, of which a pipe hides the exit code.
            let passed_on = piped(audit_lines(), log.as_bytes()).stdout;
            for log in [log.as_bytes(), &passed_on] {
                let output = judged(rule, &OPTIONS, log);
                let text = String::from_utf8_lossy(&output.stdout);
                assert_eq!(output.status.code(), Some(2), "{rule}: {log:?}: {text}");
                assert!(text.contains("\"not-parsed\""), "{rule}: {text}");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("could not be judged"), "{rule}: {said}");
            }
        }
    }
}

/// An answer that was wrapped as a JWT, and its opening, with the HMAC of the token in it where a
/// host writes it.
fn opened_at(place: &str) -> String {
    let wrapped = json!({
        "type": "response", "time": "2026-11-21T20:00:00Z",
        "auth": {"client_token": "hmac-sha256:c0", "display_name": "alice"},
        "request": {"id": "r-1", "path": "smtp/acme/reset", "client_token": "hmac-sha256:c0"},
        "response": {"wrap_info": {"token": "hmac-sha256:77", "accessor": "hmac-sha256:a7",
            "ttl": 900, "creation_time": "2026-11-21T20:00:00Z", "creation_path": "smtp/acme/reset"}},
    });
    let mut opening = json!({
        "type": "response", "time": "2026-11-21T20:01:00Z",
        "auth": {"client_token": "hmac-sha256:01"},
        "request": {"id": "r-2", "path": "sys/wrapping/unwrap",
            "client_token": "hmac-sha256:02", "data": {"token": "hmac-sha256:03"}},
        "response": {"data": null},
    });
    *opening.pointer_mut(place).unwrap() = json!("hmac-sha256:77");
    let mut again = opening.clone();
    again["type"] = json!("request");
    again["error"] = json!("wrapping token is not valid or does not exist");
    again["request"]["id"] = json!("r-3");
    format!("{wrapped}\n{opening}\n{again}\n")
}

/// OpenBao and Vault up to 1.16 write the HMAC of a token in a JWT under `auth`, newer ones under
/// `request`, and in the body these alone do.
#[test]
#[ignore = "needs jq: scripts/test fetches it, sets SMTP_TEST_JQ and runs this"]
fn jq_knows_an_opened_token_wherever_the_host_wrote_it() {
    for place in [
        "/auth/client_token",
        "/request/client_token",
        "/request/data/token",
    ] {
        let log = opened_at(place);
        let never = found("never-unwrapped.jq", &OPTIONS, &log);
        assert_eq!(never, Vec::<Value>::new(), "{place}");
        let refused = found("unwrap-refused.jq", &OPTIONS, &log);
        assert_eq!(all(&refused, "/of/path"), ["smtp/acme/reset"], "{place}");
        assert_eq!(all(&refused, "/token"), ["hmac-sha256:77"], "{place}");
    }
    // Opened by nobody that the log knows: found, with who may have.
    let log = opened_at("/request/id");
    let never = found("never-unwrapped.jq", &OPTIONS, &log);
    assert_eq!(never.len(), 1);
    let perhaps = never[0]["perhaps_opened_by"].as_array().unwrap();
    assert_eq!(
        perhaps.len(),
        1,
        "once, however many tokens it may be about"
    );
}

/// rsyslogd, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rules as they are shipped, with their places in `dir`.
fn rsyslog_conf(dir: &Path, alerts: &Path) -> String {
    let rules = fs::read_to_string(root().join("scripts/monitoring/audit/rsyslog.conf")).unwrap();
    let conf = format!("global(workDirectory=\"{}\")\n{rules}", dir.display());
    let places = [
        ("/var/log/openbao/audit.log", dir.join("audit.log")),
        ("/var/log/smtp-audit-alerts.json", alerts.to_owned()),
        (
            "/usr/local/bin/audit-lines",
            root().join("scripts/audit-lines"),
        ),
    ];
    places.iter().fold(conf, |conf, (there, here)| {
        assert!(conf.contains(there), "{there}");
        conf.replace(there, here.to_str().unwrap())
    })
}

/// The recorded lines six times, whatever their bodies are and whoever kept them, and foreign ones.
fn lines_for_rsyslog() -> Vec<u8> {
    let mut lines = b"not a line of the host\n".repeat(5);
    lines.extend(b"{\"@level\":\"info\",\"@message\":\"of the server itself\"}\n");
    lines.extend(RECORDED.as_bytes());
    // As a container's runtime keeps them: whole, and in parts.
    let recorded_again = recorded_lines();
    for (who, log) in kept_by(&recorded_again) {
        if who == "containerd, in parts" || who == "docker" {
            lines.extend(log);
        }
    }
    for levels in LEVELS {
        let body = format!("{{\"junk\":{}}}", nested(levels));
        for line in RECORDED.lines() {
            lines.extend(asked_with(line, body.as_bytes()));
        }
    }
    lines
}

#[tokio::test]
#[ignore = "needs rsyslogd: scripts/test fetches it, sets SMTP_TEST_RSYSLOGD and runs this"]
async fn rsyslog_alerts_for_the_same_lines() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let alerts = at("alerts");
    fs::write(at("rsyslog.conf"), rsyslog_conf(dir.path(), &alerts)).unwrap();
    // The last line is the sign that all were seen.
    let last = "smtp/the-last/reset";
    let mut lines = lines_for_rsyslog();
    let end = recorded(DENIED).replace("smtp/acme/reset", last) + "\n";
    lines.extend(end.as_bytes());
    fs::write(at("audit.log"), lines).unwrap();
    let mut rsyslogd = Command::new(program("SMTP_TEST_RSYSLOGD"));
    rsyslogd
        .args(["-n", "-i"])
        .arg(at("pid"))
        .arg("-f")
        .arg(at("rsyslog.conf"));
    let mut running = Running(rsyslogd.spawn().unwrap());
    let mut text = String::new();
    for _ in 0..3_000 {
        text = fs::read_to_string(&alerts).unwrap_or_default();
        if text.ends_with('\n') && text.contains("the-last") && text.contains("\"not-parsed\"") {
            break;
        }
        assert_eq!(running.0.try_wait().unwrap(), None, "rsyslogd ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        text.contains("the-last"),
        "no alert of the last line in a minute: {text}"
    );
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let alert: Value = serde_json::from_str(line).unwrap();
        *counts
            .entry(alert["rule"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    // Each as often as it is recorded, whatever the bodies were; foreign lines ring once.
    let expected = [
        ("audit-calls", 6 * 2),
        ("denied-emergency", 6 * 3 + 1),
        ("not-parsed", 1),
        ("rewrapped", 6 * 2),
        ("unwrap-refused", 6 * 5),
    ];
    assert_eq!(
        counts,
        expected
            .map(|(rule, count)| (rule.to_owned(), count))
            .into()
    );
}
