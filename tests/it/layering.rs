//! The layers of the crate: which module may name which, and which crate may be named where.
//!
//! One crate gives no compiler check for this; the table in the manual's architecture page is what
//! this test enforces on the text of the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A top-level module and the siblings it may use.
const LAYERS: [(&str, &[&str]); 18] = [
    ("clock", &[]),
    ("tasks", &[]),
    ("keyed_lock", &[]),
    ("proto", &[]),
    ("manual", &[]),
    ("crypto", &[]),
    ("identifiers", &["crypto"]),
    ("logical", &["crypto", "clock"]),
    ("goplugin", &["proto", "tasks", "clock"]),
    (
        "wire",
        &["goplugin", "logical", "proto", "tasks", "clock", "crypto"],
    ),
    ("network", &["crypto"]),
    ("provider", &["network", "crypto", "clock"]),
    ("audit", &["logical", "crypto", "clock"]),
    ("notify", &["network", "audit", "logical", "crypto"]),
    ("host_api", &["network", "crypto", "clock"]),
    (
        "engine",
        &[
            "provider",
            "notify",
            "host_api",
            "network",
            "audit",
            "logical",
            "crypto",
            "clock",
            "tasks",
            "keyed_lock",
            "identifiers",
        ],
    ),
    ("main", &[]),
    ("console", &[]),
];

/// A crate and the only modules that may name it.
const FENCES: [(&str, &[&str]); 16] = [
    ("tonic", &["goplugin", "wire", "proto"]),
    ("prost", &["goplugin", "wire", "proto"]),
    ("reqwest", &["network", "notify", "provider", "host_api"]),
    ("lettre", &["notify"]),
    ("bcrypt", &["provider"]),
    ("x509_cert", &["network"]),
    ("webpki", &["network"]),
    ("aes_gcm", &["crypto"]),
    ("hkdf", &["crypto"]),
    ("rand", &["crypto"]),
    ("rcgen", &["goplugin"]),
    ("chrono_tz", &["engine"]),
    ("lru", &["engine"]),
    ("regex", &["engine"]),
    ("ulid", &["identifiers", "engine"]),
    ("yamux", &["goplugin"]),
];

/// Where JSON of unknown shape may be handled: the wire's two directions, the decoding of fields,
/// and the document that describes them.
const JSON_EDGE: [&str; 4] = [
    "wire/translate/",
    "logical/field.rs",
    "logical/decode.rs",
    "logical/openapi/",
];

/// Reports whether the code imports or spells out the type of any JSON value.
fn names_json_values(code: &str) -> bool {
    let after_crate = code.split("serde_json::").skip(1);
    after_crate
        .map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => rest
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or_default(),
        })
        .any(|names| names.split([',', ' ', '\n']).any(|name| name == "Value"))
}

#[test]
fn json_values_are_found_in_either_form() {
    assert!(names_json_values("use serde_json::{Map, Value, json};"));
    assert!(names_json_values("fn f(it: &serde_json::Value)"));
    assert!(!names_json_values(
        "serde_json::from_str::<Mine>(text); use serde_json::{Map};"
    ));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}

/// The top-level module a source belongs to.
fn layer(root: &Path, path: &Path) -> String {
    let first = path
        .strip_prefix(root)
        .unwrap()
        .components()
        .next()
        .unwrap();
    first
        .as_os_str()
        .to_str()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The product code of a source: no comments, nothing behind the test module's gate.
fn product_code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every name that follows `prefix` in the text.
fn names_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let whole_word = !before.is_alphanumeric() && before != '_' && before != ':';
        let rest = &code[at + prefix.len()..];
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        whole_word.then(|| &rest[..end])
    })
}

#[test]
fn every_module_uses_only_the_layers_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = BTreeSet::new();
    let mut looked_at = 0;
    for path in sources(&root) {
        let layer = layer(&root, &path);
        if layer == "lib" {
            continue;
        }
        let (_, allowed) = LAYERS
            .iter()
            .find(|(name, _)| *name == layer)
            .unwrap_or_else(|| panic!("a new top-level module `{layer}` needs a row here"));
        for used in names_after(&product_code(&path), "crate::") {
            looked_at += 1;
            if used != layer && !allowed.contains(&used) {
                broken.insert(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(
        looked_at > 100,
        "only {looked_at} uses were found: the search is broken"
    );
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn fenced_crates_stay_in_their_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = BTreeSet::new();
    for path in sources(&root) {
        let layer = layer(&root, &path);
        let code = product_code(&path);
        for (name, allowed) in FENCES {
            let named = names_after(&code, &format!("{name}::")).next().is_some();
            if named && !allowed.contains(&layer.as_str()) {
                broken.insert(format!("{} names {name}", path.display()));
            }
        }
        // JSON values of unknown shape live at the edge only.
        let place = path.strip_prefix(&root).unwrap().to_str().unwrap();
        let at_the_edge = JSON_EDGE.iter().any(|edge| place.starts_with(edge));
        if names_json_values(&code) && !at_the_edge {
            broken.insert(format!("{place} names serde_json::Value"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The lower layers stand alone: an engine needs nothing else of this crate, and is short.
#[test]
fn the_example_is_written_against_the_lower_layers_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (example, most_lines) in [("example", 62), ("probe-plugin", 60)] {
        let code = product_code(&root.join(example).join("main.rs"));
        assert!(code.lines().count() <= most_lines, "{example} grew");
        let used: BTreeSet<&str> = names_after(&code, "vault_plugin_secrets_smtp::").collect();
        let allowed = BTreeSet::from(["clock", "goplugin", "logical", "wire"]);
        assert!(used.is_superset(&BTreeSet::from(["goplugin", "wire"])));
        assert!(used.is_subset(&allowed), "{example} uses {used:?}");
    }
}

/// What could be published on its own: none of it may come to know the engine.
#[test]
fn the_lower_layers_know_nothing_of_mail() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for name in ["goplugin", "logical", "wire", "proto", "clock", "tasks"] {
        let (_, allowed) = LAYERS.iter().find(|(layer, _)| *layer == name).unwrap();
        for upper in [
            "engine", "provider", "notify", "network", "audit", "main", "console",
        ] {
            assert!(!allowed.contains(&upper), "{name} may use {upper}");
        }
    }
    for path in sources(&root) {
        if matches!(
            layer(&root, &path).as_str(),
            "goplugin" | "logical" | "wire"
        ) {
            let code = product_code(&path).to_lowercase();
            assert!(!code.contains("mailu"), "{} names Mailu", path.display());
        }
    }
}

/// The host's certificates are on P-521, which ring cannot verify; and one TLS library is enough.
#[test]
fn no_other_cryptography_came_in_by_a_dependency() {
    let mut tree = std::process::Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--offline", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let tree = String::from_utf8(tree.output().unwrap().stdout).unwrap();
    let crates: BTreeSet<&str> = tree.lines().filter_map(|it| it.split(' ').next()).collect();
    assert!(crates.contains("aws-lc-rs"), "{tree}");
    for refused in ["ring", "openssl", "openssl-sys", "native-tls"] {
        let named = crates.contains(refused);
        assert!(
            !named,
            "{refused} came in; find by whom with `cargo tree -i {refused}`"
        );
    }
}
