//! What becomes of a host's audit lines on their way: prefixes, the envelopes of collectors, parts.

use serde_json::{Value, json};

/// How long the parts are into which a line is cut here: every line has several.
const PART: usize = 400;

/// Who kept a log, and its bytes.
type Kept = (&'static str, Vec<u8>);

/// The lines of a log as each of these would have kept them.
pub(crate) fn kept_by(lines: &[String]) -> Vec<Kept> {
    [prefixed(lines), wrapped(lines), split(lines)].concat()
}

/// What is put before the object, or is there because of how files are written.
pub(crate) fn prefixed(lines: &[String]) -> Vec<Kept> {
    let each = |kept: &dyn Fn(&str) -> String| each(lines, kept);
    vec![
        ("the prefix option", each(&|it| format!("bao-1: {it}"))),
        (
            "a prefix with braces",
            each(&|it| format!("{{bao-1}} {{}} {it}")),
        ),
        (
            "a prefix of objects",
            each(&|it| format!("{{\"pod\":{{\"name\":\"bao\"}}}} {{\"type\":\"audit\"}}{it}")),
        ),
        (
            "a prefix like an object",
            each(&|it| format!("{{\"pod: {it}")),
        ),
        (
            "syslog",
            each(&|it| format!("<13>1 2026-11-21T20:06:58.04Z bao-1 bao 77 - - {it}")),
        ),
        (
            "containerd",
            each(&|it| format!("2026-11-21T20:06:58.045530171Z stdout F {it}")),
        ),
        ("a BOM", text(&[format!("\u{feff}{}", lines.join("\n"))])),
        ("Windows", each(&|it| format!("{it}\r"))),
        (
            "a file truncated under its writer",
            [vec![0; 5_000], text(lines)].concat(),
        ),
    ]
}

/// One line in the object of a collector.
pub(crate) fn wrapped(lines: &[String]) -> Vec<Kept> {
    let docker = |it: &str| json!({"log": format!("{it}\n"), "stream": "stdout", "time": "t"});
    let each = |kept: &dyn Fn(&str) -> Value| each(lines, &|it| kept(it).to_string());
    vec![
        ("docker", each(&docker)),
        (
            "journald",
            each(&|it| json!({"MESSAGE": it, "_PID": "77", "PRIORITY": "6"})),
        ),
        (
            "journald, as bytes",
            each(&|it| json!({"MESSAGE": it.as_bytes(), "_PID": "77"})),
        ),
        (
            "a collector that parsed it",
            each(&|it| {
                let line: Value = serde_json::from_str(it).unwrap();
                json!({"@timestamp": "t", "host": {"name": "bao-1"}, "message": line})
            }),
        ),
        (
            "one collector after another",
            each(&|it| json!({"message": docker(it).to_string(), "agent": {"type": "x"}})),
        ),
        (
            "a search engine",
            each(&|it| json!({"_index": "audit", "_source": {"message": it}})),
        ),
    ]
}

/// Several lines for one.
pub(crate) fn split(lines: &[String]) -> Vec<Kept> {
    let parts = |kept: &dyn Fn(&str, bool) -> String| {
        let mut all = Vec::new();
        for line in lines {
            let parts = parts(line);
            let last = parts.len() - 1;
            let parts = parts.iter().enumerate();
            all.extend(parts.map(|(at, part)| kept(part, at < last)));
        }
        text(&all)
    };
    let end = |more: bool| if more { "" } else { "\n" };
    vec![
        (
            "docker, in parts",
            parts(&|it, more| {
                json!({"log": format!("{it}{}", end(more)), "stream": "stdout"}).to_string()
            }),
        ),
        (
            "containerd, in parts",
            parts(&|it, more| {
                let tag = if more { 'P' } else { 'F' };
                format!("2026-11-21T20:06:58.04Z stdout {tag} {it}")
            }),
        ),
        (
            "journald, in parts",
            parts(&|it, more| {
                let mut part = json!({"MESSAGE": it, "_PID": "77"});
                if more {
                    part["_LINE_BREAK"] = json!("line-max");
                }
                part.to_string()
            }),
        ),
        ("something that splits", parts(&|it, _| it.to_owned())),
        (
            "a syslog that splits",
            parts(&|it, more| format!("Nov 21 20:0{}:58 bao-1 bao[77]: {it}", u8::from(more))),
        ),
    ]
}

fn each(lines: &[String], kept: &dyn Fn(&str) -> String) -> Vec<u8> {
    text(&lines.iter().map(|it| kept(it)).collect::<Vec<_>>())
}

fn text(lines: &[String]) -> Vec<u8> {
    let mut text = lines.join("\n");
    text.push('\n');
    text.into_bytes()
}

/// A line in parts, none of which ends in the middle of a character.
fn parts(line: &str) -> Vec<String> {
    let characters: Vec<char> = line.chars().collect();
    let parts = characters.chunks(PART);
    parts.map(|it| it.iter().collect()).collect()
}
