//! The example plugins inside a real server: what the lower layers offer, as clients see it.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::api::{Answer, Api};
use super::cluster::{Cluster, Roles};
use super::harness::tests;
use super::product::{Need, Product};
use super::server::{Server, until};

tests! {
    the_example_is_a_whole_engine,
    a_lease_lives_and_ends_as_the_host_says,
    a_standby_leaves_leases_and_forced_wraps_to_the_active_node,
    a_revocation_that_fails_says_why_and_can_be_repeated,
    a_body_that_is_no_json_passes_untouched,
    a_forced_wrap_shows_a_token_that_works_once,
    the_caller_is_known_with_its_entity_groups_and_headers,
    the_host_tells_of_itself,
    create_and_update_are_told_apart_by_the_policy,
    a_patch_changes_what_it_names,
    a_list_is_one_level_and_a_scan_is_all_of_them needs [Scan],
    each_kind_of_error_has_its_status,
    a_panic_costs_its_own_request_only,
}

const PROBE: &str = "probe-plugin";
const NOTES: &str = "notes-plugin";

/// An example of this package, beside the test's own binary.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let program = profile.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing. Run ./scripts/test, or `cargo build --examples` first.",
        program.display()
    );
    program
}

/// The server of these tests, with both examples in its catalog.
async fn server() -> Arc<Server> {
    static SERVER: OnceCell<Arc<Server>> = OnceCell::const_new();
    let started = SERVER.get_or_init(|| async {
        let server = Server::start().await;
        for name in [PROBE, NOTES] {
            server.register_program(name, &example(name), None).await;
        }
        server
    });
    Arc::clone(started.await)
}

/// A mount of one of the examples.
struct Mounted {
    server: Arc<Server>,
    api: Api,
    mount: &'static str,
}

impl Mounted {
    async fn new(program: &str, mount: &'static str) -> Self {
        let server = server().await;
        let api = server.api();
        let body = json!({ "type": program });
        api.write(&format!("sys/mounts/{mount}"), body)
            .await
            .no_content();
        Self { server, api, mount }
    }

    fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.mount)
    }

    async fn read(&self, path: &str) -> Answer {
        self.api.read(&self.path(path)).await
    }

    async fn write(&self, path: &str, body: Value) -> Answer {
        self.api.write(&self.path(path), body).await
    }

    async fn tune(&self, body: Value) {
        let path = format!("sys/mounts/{}/tune", self.mount);
        self.api.write(&path, body).await.no_content();
    }

    /// Asks without a token and returns all of HTTP.
    async fn bare(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let nobody = self.api.with_token("");
        let request = nobody.request(method, &self.path(path));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// What storage says of a leased account.
    async fn account(&self, name: &str) -> String {
        let answer = self.read(&format!("accounts/{name}")).await;
        answer.data()["state"].as_str().unwrap().to_owned()
    }
}

/// The values of a header, in order.
fn header(response: &Response, name: &str) -> Vec<String> {
    let values = response.headers().get_all(name).iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

async fn the_example_is_a_whole_engine() {
    let notes = Mounted::new(NOTES, "notes").await;
    let text = json!({"text": "buy milk", "colour": "red"});
    let written = notes.write("notes/shopping", text).await;
    written.no_content();
    assert!(written.warnings().contains("colour"), "{}", written.body);
    assert_eq!(
        notes.read("notes/shopping").await.data()["text"],
        "buy milk"
    );
    let keys = notes.api.list(&notes.path("notes")).await;
    assert_eq!(keys.data()["keys"], json!(["shopping"]));
    let missing = notes.write("notes/shopping", json!({})).await;
    assert_eq!((missing.status, missing.code()), (400, "missing_field"));
    let help = notes.read("notes/shopping?help=1").await;
    assert!(help.body.to_string().contains("Keeps a note."));
    notes
        .api
        .delete(&notes.path("notes/shopping"))
        .await
        .no_content();
    assert_eq!(notes.read("notes/shopping").await.status, 404);
}

async fn a_lease_lives_and_ends_as_the_host_says() {
    let probe = Mounted::new(PROBE, "leases").await;
    let issued = probe.read("lease/acme").await;
    assert_eq!(issued.data()["account"], "acme");
    assert_eq!(issued.body["lease_duration"], 600);
    assert_eq!(issued.body["renewable"], true);
    assert_eq!(probe.account("acme").await, "live");
    let lease = issued.body["lease_id"].as_str().unwrap().to_owned();
    assert!(lease.starts_with("leases/lease/acme/"), "{lease}");

    let renewal = json!({"lease_id": lease, "increment": 30});
    let renewed = probe.api.write("sys/leases/renew", renewal).await;
    assert_eq!(renewed.status, 200, "{}", renewed.body);
    assert_eq!(renewed.body["lease_id"], json!(lease));
    assert_eq!(renewed.body["lease_duration"], 30);
    assert_eq!(probe.account("acme").await, "renewed 30");

    let revocation = json!({"lease_id": lease, "sync": true});
    let revoked = probe
        .api
        .write("sys/leases/revoke", revocation.clone())
        .await;
    revoked.no_content();
    // The data of the answer came back, with the host's name for the lease and its issue time.
    assert_eq!(probe.account("acme").await, "revoked acme true true");
    let gone = probe.api.write("sys/leases/lookup", revocation).await;
    assert_eq!(gone.status, 400, "{}", gone.body);
}

/// A standby cannot make either: without the proof the host would answer 500, and have the lease
/// revoked that nobody got.
async fn a_standby_leaves_leases_and_forced_wraps_to_the_active_node() {
    let cluster = Cluster::start().await;
    let program = example(PROBE);
    for node in cluster.nodes() {
        node.place(PROBE, &program);
    }
    let Roles { active, standby } = cluster.roles().await;
    active.register_program(PROBE, &program, None).await;
    let api = active.api();
    let mount = json!({ "type": PROBE });
    api.write("sys/mounts/pair", mount).await.no_content();
    let note = json!({"text": "here"});
    api.write("pair/notes/one", note).await.no_content();
    let there = standby.api();
    until("the standby has the mount", async || {
        (there.read("pair/notes/one").await.status == 200).then_some(())
    })
    .await;

    let issued = there.read("pair/lease/acme").await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    assert_eq!(issued.body["lease_duration"], 600);
    let account = api.read("pair/accounts/acme").await;
    assert_eq!(account.data()["state"], "live", "not revoked at once");
    let lease = json!({"lease_id": issued.body["lease_id"], "sync": true});
    there.write("sys/leases/revoke", lease).await.no_content();
    let account = api.read("pair/accounts/acme").await;
    assert_eq!(account.data()["state"], "revoked acme false true");

    let wrapped = there.read("pair/wrapped/acme").await;
    assert_eq!(wrapped.status, 200, "{}", wrapped.body);
    let token = wrapped.body["wrap_info"]["token"].as_str().unwrap();
    let unwrapped = there.with_token(token);
    let unwrapped = unwrapped.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(unwrapped.status, 200, "{}", unwrapped.body);
}

async fn a_revocation_that_fails_says_why_and_can_be_repeated() {
    let probe = Mounted::new(PROBE, "stubborn").await;
    let issued = probe.read("lease/acme").await;
    let lease = issued.body["lease_id"].as_str().unwrap().to_owned();
    probe
        .write("notes/keep-leases", json!({"text": "yes"}))
        .await
        .no_content();
    let revocation = json!({"lease_id": lease, "sync": true});
    let failed = probe
        .api
        .write("sys/leases/revoke", revocation.clone())
        .await;
    assert!(failed.status >= 400, "{}", failed.body);
    assert!(
        failed.body.to_string().contains("Leases are kept for now."),
        "{}",
        failed.body
    );
    assert_eq!(probe.account("acme").await, "live");
    probe
        .api
        .delete(&probe.path("notes/keep-leases"))
        .await
        .no_content();
    probe
        .api
        .write("sys/leases/revoke", revocation)
        .await
        .no_content();
    // The host does not name a lease that was never renewed.
    assert_eq!(probe.account("acme").await, "revoked acme false true");
    let issued = probe.read("lease/other").await;
    let revocation = json!({"lease_id": issued.body["lease_id"], "sync": true});
    probe
        .api
        .write("sys/leases/revoke", revocation)
        .await
        .no_content();
    assert_eq!(probe.account("other").await, "revoked other false true");
}

async fn a_body_that_is_no_json_passes_untouched() {
    let probe = Mounted::new(PROBE, "raw").await;
    let page = probe.bare("GET", "raw/page", None).await;
    assert_eq!(page.status().as_u16(), 200);
    assert_eq!(header(&page, "content-type"), ["text/html; charset=utf-8"]);
    assert_eq!(header(&page, "cache-control"), ["max-age=60"]);
    assert_eq!(header(&page, "pragma"), ["probe"]);
    // Until the mount is tuned.
    assert!(header(&page, "x-probe").is_empty());
    assert_eq!(page.text().await.unwrap(), "<p>page true</p>");

    let head = probe.bare("HEAD", "raw/page", None).await;
    assert_eq!(head.status().as_u16(), 200);
    assert_eq!(header(&head, "content-type"), ["text/html; charset=utf-8"]);

    probe
        .tune(json!({"allowed_response_headers": ["X-Probe", "Location"]}))
        .await;
    for (status, seen) in [
        (202, 202),
        (401, 401),
        (404, 404),
        (418, 418),
        (503, 503),
        // Would stop the host.
        (7, 500),
        (1000, 500),
    ] {
        let posted = probe
            .bare("POST", "raw/form", Some(json!({"status": status})))
            .await;
        assert_eq!(posted.status().as_u16(), seen);
        let challenge = header(&posted, "www-authenticate");
        assert_eq!(challenge.is_empty(), status != 401, "{challenge:?}");
        assert_eq!(header(&posted, "x-probe"), ["one", "two"]);
        assert_eq!(header(&posted, "location"), ["/elsewhere"]);
        assert_eq!(posted.text().await.unwrap(), "<p>form true</p>");
    }
}

async fn a_forced_wrap_shows_a_token_that_works_once() {
    let probe = Mounted::new(PROBE, "wraps").await;
    let wrapped = probe.read("wrapped/acme").await;
    assert_eq!(wrapped.status, 200, "{}", wrapped.body);
    assert!(wrapped.body["data"].is_null(), "{}", wrapped.body);
    assert_eq!(wrapped.body["wrap_info"]["ttl"], 120);
    let token = wrapped.body["wrap_info"]["token"].as_str().unwrap();
    let unwrapper = probe.api.with_token(token);
    let unwrapped = unwrapper.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(unwrapped.data()["name"], "acme");
    // A warning is wrapped with the rest.
    assert!(wrapped.body["warnings"].is_null(), "{}", wrapped.body);
    assert!(
        unwrapped.warnings().contains("unwrap once"),
        "{}",
        unwrapped.body
    );
    let again = unwrapper.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(again.status, 400, "{}", again.body);
}

async fn the_caller_is_known_with_its_entity_groups_and_headers() {
    let probe = Mounted::new(PROBE, "callers").await;
    let api = &probe.api;
    let text = |answer: &Answer, place: &str| {
        let found = answer.body.pointer(place).and_then(Value::as_str);
        found
            .unwrap_or_else(|| panic!("{place}: {}", answer.body))
            .to_owned()
    };
    api.write("sys/auth/userpass", json!({"type": "userpass"}))
        .await
        .no_content();
    let mounts = api.read("sys/auth").await;
    let accessor = text(&mounts, "/data/userpass~1/accessor");
    let policy = r#"path "callers/*" { capabilities = ["read"] }"#;
    api.write("sys/policies/acl/callers", json!({ "policy": policy }))
        .await
        .no_content();
    let user = json!({"password": "a-password-of-alice", "token_policies": ["callers"]});
    api.write("auth/userpass/users/alice", user)
        .await
        .no_content();
    let entity = json!({"name": "alice-of-mail", "metadata": {"team": "mail"}});
    let entity = text(&api.write("identity/entity", entity).await, "/data/id");
    let alias = json!({"name": "alice", "canonical_id": entity, "mount_accessor": accessor});
    api.write("identity/entity-alias", alias).await.data();
    let group = json!({"name": "operators", "member_entity_ids": [entity]});
    api.write("identity/group", group).await.data();
    let password = json!({"password": "a-password-of-alice"});
    let login = api.write("auth/userpass/login/alice", password).await;
    let alice = api.with_token(&text(&login, "/auth/client_token"));
    probe
        .tune(json!({
            "passthrough_request_headers": ["X-Reason"],
            "allowed_response_headers": ["X-Probe"],
        }))
        .await;

    let request = alice.request("GET", "callers/whoami");
    let response = request.header("X-Reason", "audit").send().await.unwrap();
    assert_eq!(header(&response, "x-probe"), ["json"]);
    let body: Value = response.json().await.unwrap();
    let known = &body["data"];
    assert_eq!(
        known,
        &json!({
            "display_name": "userpass-alice",
            "entity": "alice-of-mail",
            "metadata": {"team": "mail"},
            "aliases": ["userpass alice"],
            "groups": ["operators"],
            "remote_addr": "127.0.0.1",
            "has_port": Product::tested().can(Need::ClientPort),
            "has_token": true,
            "has_accessor": true,
            "reason": "audit",
            "mount_point": "callers/",
            "mount_type": PROBE,
        })
    );
    // Root has no entity.
    let root = probe.read("whoami").await;
    assert!(root.data()["entity"].is_null());
    assert_eq!(root.data()["groups"], json!([]));
}

async fn the_host_tells_of_itself() {
    let probe = Mounted::new(PROBE, "hosts").await;
    probe
        .tune(json!({"default_lease_ttl": "1h", "max_lease_ttl": "2h"}))
        .await;
    let answer = probe.read("host").await;
    let told = answer.data();
    let health = probe.api.read("sys/health").await.body;
    let version = health["version"].as_str().unwrap();
    let version = match Product::tested() {
        Product::OpenBao => version,
        // Vault tells its plugins of no pre-release.
        Product::Vault => version.split('-').next().unwrap(),
    };
    assert_eq!(told["version"], version);
    assert_eq!(told["cluster"], health["cluster_id"]);
    assert_eq!(told["caching_disabled"], false);
    assert_eq!(
        (&told["default_ttl"], &told["max_ttl"]),
        (&json!(3600), &json!(7200))
    );
    assert_eq!(told["unknown_entity"], false);
    assert_eq!(told["unknown_groups"], 0);
}

async fn create_and_update_are_told_apart_by_the_policy() {
    let probe = Mounted::new(PROBE, "capabilities").await;
    let path = "capabilities/notes/one";
    let creator = probe
        .api
        .with_policy("creator", &[("capabilities/notes/*", &["create"])])
        .await;
    let updater = probe
        .api
        .with_policy("updater", &[("capabilities/notes/*", &["update"])])
        .await;
    let text = json!({"text": "1"});
    assert_eq!(updater.write(path, text.clone()).await.status, 403);
    creator.write(path, text.clone()).await.no_content();
    assert_eq!(probe.read("notes/one").await.data()["by"], "create");
    assert_eq!(creator.write(path, text.clone()).await.status, 403);
    updater.write(path, text).await.no_content();
    assert_eq!(probe.read("notes/one").await.data()["by"], "update");
}

async fn a_patch_changes_what_it_names() {
    let probe = Mounted::new(PROBE, "patches").await;
    let note = json!({"text": "1", "colour": "red"});
    probe.write("notes/one", note).await.no_content();
    let path = probe.path("notes/one");
    let green = json!({"colour": "green"});
    probe.api.patch(&path, green).await.no_content();
    let patched = probe.read("notes/one").await;
    assert_eq!(
        patched.data(),
        &json!({"text": "1", "colour": "green", "by": "patch"})
    );
    let none = json!({"colour": null});
    probe.api.patch(&path, none).await.no_content();
    let patched = probe.read("notes/one").await;
    assert_eq!(patched.data(), &json!({"text": "1", "by": "patch"}));
}

async fn a_list_is_one_level_and_a_scan_is_all_of_them() {
    let probe = Mounted::new(PROBE, "scans").await;
    for key in ["a", "f/b", "f/g/c"] {
        let path = format!("kv/{key}");
        probe.write(&path, json!({"value": "1"})).await.no_content();
    }
    let list = probe.api.list("scans/tree").await;
    assert_eq!(list.data()["keys"], json!(["a", "f/"]));
    let all = json!(["a", "f/b", "f/g/c"]);
    let scan = probe.api.request("SCAN", "scans/tree");
    assert_eq!(probe.api.send(scan).await.data()["keys"], all);
    let scan = probe.read("tree?scan=true").await;
    assert_eq!(scan.data()["keys"], all);
    assert!(scan.body["warnings"].is_null(), "{}", scan.body);
}

async fn each_kind_of_error_has_its_status() {
    let probe = Mounted::new(PROBE, "kinds").await;
    for code in [
        400, 401, 403, 404, 405, 409, 412, 418, 429, 500, 501, 502, 503, 504,
    ] {
        let answer = probe.read(&format!("status/{code}")).await;
        assert_eq!((answer.status, answer.error()), (code, "busy: Wait."));
    }
    // A status that is none.
    assert_eq!(probe.read("status/200").await.status, 500);
    for (path, status, error) in [
        ("user", 400, "bad_name: Choose another."),
        ("internal", 500, "internal: a defect"),
        ("refused-by-storage", 500, "storage_error: disk full"),
        (
            "no/such/path",
            404,
            "unsupported_path: this mount has no such path. The mount's own path-help lists them.",
        ),
    ] {
        let answer = probe.read(path).await;
        assert_eq!((answer.status, answer.error()), (status, error), "{path}");
    }
    let user = probe.read("user").await;
    assert_eq!(user.body["data"]["code"], "bad_name");
    // In the host's own words.
    assert_eq!(probe.read("unsupported").await.status, 405);
    let no_such_operation = probe.write("whoami", json!({})).await;
    assert_eq!(
        (no_such_operation.status, no_such_operation.code()),
        (405, "unsupported_operation")
    );
    let warned = probe.read("warn").await;
    assert_eq!(warned.status, 200);
    assert_eq!(warned.body["warnings"], json!(["careful"]));
    assert_eq!(probe.read("kv/nothing").await.status, 404);
}

async fn a_panic_costs_its_own_request_only() {
    let probe = Mounted::new(PROBE, "panics").await;
    probe.read("whoami").await.data();
    let processes = probe.server.plugins();
    let panicked = probe.read("panic").await;
    assert_eq!((panicked.status, panicked.code()), (500, "internal"));
    assert!(!panicked.body.to_string().contains("hunter2"));
    probe.read("whoami").await.data();
    let alive = probe.server.plugins();
    assert!(processes.iter().all(|pid| alive.contains(pid)));
    let log = probe.server.log();
    assert!(log.contains("a task panicked"), "the place is logged");
    assert!(!log.contains("hunter2"));
}
