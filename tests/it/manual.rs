//! The manual against the code.

use std::fs;
use std::path::{Path, PathBuf};

const TRAPS: &str = include_str!("../../src/manual/traps.md");

/// The third cell of every row, what stands in back ticks there.
fn named_tests() -> Vec<Vec<&'static str>> {
    let rows = TRAPS.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| trap |"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "{row}");
        cells[2].split('`').skip(1).step_by(2).collect()
    })
    .collect()
}

/// Where a test of this name may be, unit tests included.
fn places(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let module = name.rsplit_once("::").unwrap().0;
    let (folder, module) = match module.strip_suffix("::tests") {
        Some(module) => ("src", module),
        None if is_in_a_server(name) => ("tests", module),
        None => ("tests/it", module),
    };
    let path = root.join(folder).join(module.replace("::", "/"));
    vec![
        path.with_extension("rs"),
        path.join("mod.rs"),
        path.join("tests.rs"),
    ]
}

/// Reports whether it is one of the tests inside a real server, which are a program of their own.
fn is_in_a_server(name: &str) -> bool {
    name.starts_with("real::")
}

/// Reports whether `function` is a test by the attribute on one of the lines right above it.
fn has_attribute(text: &str, function: &str) -> bool {
    let Some((before, _)) = text.split_once(&format!("fn {function}(")) else {
        return false;
    };
    before.lines().rev().take(4).any(|line| {
        let line = line.trim();
        line.starts_with("#[test") || line.starts_with("#[tokio::test")
    })
}

/// Reports whether `function` is a test by the list of its file; what is in there exists.
fn is_listed(text: &str, function: &str) -> bool {
    let (_, list) = text.split_once("\ntests! {\n").unwrap_or_default();
    let (list, _) = list.split_once("\n}").unwrap_or_default();
    let mut words = list.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.any(|word| word == function)
}

#[test]
fn every_trap_names_tests_that_exist() {
    let rows = named_tests();
    // 23 of the protocol, 18 of the server around it.
    assert_eq!(rows.len(), 23 + 18);
    for tests in rows {
        assert!(!tests.is_empty());
        for name in tests {
            let function = name.rsplit("::").next().unwrap();
            let found = places(name).iter().any(|path| {
                let text = fs::read_to_string(path).unwrap_or_default();
                if is_in_a_server(name) {
                    return is_listed(&text, function);
                }
                has_attribute(&text, function)
            });
            assert!(found, "no test is called {name}");
        }
    }
}
