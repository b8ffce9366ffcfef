//! `path-help` and the OpenAPI document, as the host passes them on.

use std::collections::BTreeSet;

use super::harness::tests;
use super::rig::Rig;

tests! {
    path_help_explains_the_mount_and_each_path,
    the_host_s_openapi_document_has_every_path,
}

/// Every path of the engine, as OpenAPI writes it.
const PATHS: [&str; 39] = [
    "",
    "batches",
    "batches/{id}",
    "batches/{id}/cancel",
    "config",
    "config/alerts",
    "config/audit",
    "config/keyring",
    "config/keyring/rotate",
    "config/keyring/trim",
    "config/notify",
    "config/notify/{name}",
    "config/notify/{name}/test",
    "events",
    "events/ack",
    "events/emit/{tenant}/{seq}",
    "events/flush",
    "metrics",
    "ops/adopt-storage",
    "ops/reindex",
    "ops/sweep",
    "status",
    "tenants",
    "{tenant}/admin",
    "{tenant}/config",
    "{tenant}/destroy",
    "{tenant}/events",
    "{tenant}/pause",
    "{tenant}/release",
    "{tenant}/reset",
    "{tenant}/resume",
    "{tenant}/reveal",
    "{tenant}/rollback",
    "{tenant}/rotate",
    "{tenant}/status",
    "{tenant}/undelete",
    "{tenant}/verify",
    "{tenant}/versions",
    "{tenant}/versions/{version}",
];

/// Paths without a single parameter.
const TAKE_NOTHING: [&str; 5] = [
    "events/flush",
    "metrics",
    "ops/reindex",
    "ops/sweep",
    "status",
];

async fn path_help_explains_the_mount_and_each_path() {
    let rig = Rig::shared("help").await;
    let text = |answer: super::api::Answer| {
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["help"].as_str().unwrap().to_owned()
    };
    let root = text(rig.read("?help=1").await);
    assert!(root.contains("Start with <tenant>/config"), "{root}");
    for path in PATHS.into_iter().filter(|path| !path.is_empty()) {
        assert!(root.contains(path), "{path} is not in:\n{root}");
        let concrete = path.replace("{tenant}", "acme").replace("{version}", "1");
        let concrete = concrete
            .replace("{name}", "ops")
            .replace("{id}", "01K8Z5Y4N6D3T7Q2W9R1M0XVBC");
        let help = text(rig.read(&format!("{concrete}?help=1")).await);
        for part in ["## OPERATIONS", "## DESCRIPTION", " bao "] {
            assert!(help.contains(part), "{path}:\n{help}");
        }
        let takes_something = !TAKE_NOTHING.contains(&path);
        assert_eq!(
            help.contains("## PARAMETERS"),
            takes_something,
            "{path}:\n{help}"
        );
    }
    let rotate = text(rig.read("acme/rotate?help=1").await);
    assert!(rotate.contains("    reason (string)\n"), "{rotate}");
}

async fn the_host_s_openapi_document_has_every_path() {
    let rig = Rig::shared("openapi").await;
    let answer = rig.api.read("sys/internal/specs/openapi").await;
    assert_eq!(answer.status, 200);
    let paths = answer.body["paths"].as_object().expect("a document");
    let own: BTreeSet<&str> = paths
        .keys()
        .filter_map(|path| path.strip_prefix("/openapi/"))
        .collect();
    let own: BTreeSet<&str> = own.iter().map(|path| path.trim_end_matches('/')).collect();
    assert_eq!(own, BTreeSet::from(PATHS));
    for (path, item) in paths
        .iter()
        .filter(|(path, _)| path.starts_with("/openapi/"))
    {
        let methods = ["get", "post", "patch", "delete"];
        let has_method = methods.iter().any(|method| item.get(method).is_some());
        assert!(has_method, "{path}: {item}");
    }
    let rotate = &paths["/openapi/{tenant}/rotate"]["post"];
    assert!(rotate["responses"]["200"].is_object(), "{rotate}");
}
