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
        None => ("tests/it", module),
    };
    let path = root.join(folder).join(module.replace("::", "/"));
    vec![
        path.with_extension("rs"),
        path.join("mod.rs"),
        path.join("tests.rs"),
    ]
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
                let Some((before, _)) = text.split_once(&format!("fn {function}(")) else {
                    return false;
                };
                // The attribute stands on one of the lines right above.
                before.lines().rev().take(4).any(|line| {
                    let line = line.trim();
                    line.starts_with("#[test") || line.starts_with("#[tokio::test")
                })
            });
            assert!(found, "no test is called {name}");
        }
    }
}
