//! What a stranger can have a host write into its audit log: the bodies of requests, as text.

/// How deep a body is: one more than jq 1.6 reads, the most that Vault 2.x takes, and nearly what
/// OpenBao and Vault 1.15 do.
pub(crate) const LEVELS: [usize; 3] = [257, 300, 9_990];

/// Lists in lists.
pub(crate) fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Bodies that no tool shall stumble over, by what is odd about them. Each is cut.
pub(crate) fn bodies() -> Vec<(String, Vec<u8>)> {
    let mut bodies: Vec<(String, Vec<u8>)> = Vec::new();
    for levels in LEVELS {
        let lists = nested(levels);
        bodies.push((format!("{levels} lists"), junk(&lists)));
        let objects = format!(
            "{}0{}",
            "{\"data\":".repeat(levels - 1),
            "}".repeat(levels - 1)
        );
        bodies.push((format!("{levels} objects"), junk(&objects)));
    }
    let deep = nested(300);
    let odd = [
        // Brackets that are none, and quotes and backslashes that end nothing.
        (
            "brackets in a text",
            format!(r#"[{deep},"]]]}}}}}}\\\"[[[{{{{","\\",""]"#),
        ),
        (
            "a body in a text",
            format!(r#"["\"data\":[[[[","{{\"request\":{{\"path\":\"sys/health\"",{deep}]"#),
        ),
        (
            "the end of the line in a text",
            format!(r#"["}}}}\n{{\"type\"",{deep}]"#),
        ),
        (
            "halves of characters",
            format!(r#"["\ud800","\udfff\ud83d",{deep}]"#),
        ),
        // Python takes no whole number of more than 4,300 digits.
        ("digits", format!("[{}]", "7".repeat(20_000))),
        ("many", format!("[{}0]", "[],".repeat(100_000))),
        // Longer than what is read at once; an escape at each place where that could end.
        ("long", format!("\"{}\"", r#"\\\"\u005b"#.repeat(80_000))),
        ("long and even", format!("\"{}\"", r#"\""#.repeat(300_000))),
        (
            "one name twice",
            format!(r#"1,"data":{{"data":{deep}}},"junk":{deep}"#),
        ),
    ];
    bodies.extend(odd.map(|(what, value)| (what.to_owned(), junk(&value))));
    let mut bytes = junk(&format!("[\"@\",{deep}]"));
    let at = bytes.iter().position(|it| *it == b'@').unwrap();
    bytes.splice(at..=at, *b"\xff\xc3\xed\xa0\x80");
    bodies.push(("no UTF-8".to_owned(), bytes));
    let name = format!("{{{:?}:{deep}}}", "]}\\\"[{".repeat(20_000));
    bodies.push(("a long name".to_owned(), name.into_bytes()));
    bodies
}

/// A body with this value in it, beside texts that somebody gave.
fn junk(value: &str) -> Vec<u8> {
    format!(r#"{{"incident_id":"hmac-sha256:4b97","junk":{value},"reason":"hmac-sha256:0a28"}}"#)
        .into_bytes()
}
