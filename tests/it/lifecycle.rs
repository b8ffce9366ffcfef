//! A mounted plugin from Setup to the end of its process, and what each failure looks like.

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use vault_plugin_secrets_smtp::goplugin::Ending;
use vault_plugin_secrets_smtp::logical::READ_ONLY;
use vault_plugin_secrets_smtp::proto::logical::VersionRequest;
use vault_plugin_secrets_smtp::proto::logical::plugin_version_client::PluginVersionClient;
use vault_plugin_secrets_smtp::proto::pb;
use vault_plugin_secrets_smtp::proto::pluginutil::multiplexing::MultiplexingSupportRequest;
use vault_plugin_secrets_smtp::proto::pluginutil::multiplexing::plugin_multiplexing_client::PluginMultiplexingClient;

use crate::support::host::{
    BINARY, Handshake, Host, Identity, InProcess, Mount, PATIENCE, Process, command,
};
use crate::support::host_services::{Fault, MapStorage};
use crate::support::probe::Probe;

/// The plugin with the probe as its backend, inside the test, and a host.
struct Fixture {
    host: Host,
    plugin: InProcess,
    dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
        let factory = Arc::new(|info| Arc::new(Probe(info)) as _);
        let plugin = InProcess::start(&identity, dir.path(), factory);
        let host = Host::connect(identity, &plugin.handshake, dir.path()).await;
        Self { host, plugin, dir }
    }

    async fn mounted(storage: &MapStorage) -> (Self, Mount) {
        let mut fixture = Self::new().await;
        let mount = fixture.host.mount("one", storage.clone()).await;
        (fixture, mount)
    }
}

/// The built plugin in a process of its own, and a host.
async fn spawned(dir: &Path) -> (Process, Host) {
    let identity = Identity::new();
    let process = Process::start(command(&identity, dir));
    let host = Host::connect(identity, &process.handshake, dir).await;
    (process, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_asks_without_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (process, mut host) = spawned(dir.path()).await;
    let none = MapStorage::default();
    none.fail_with(Fault::Status(Status::unknown(
        "missing storage implementation",
    )));
    let mount = host.mount("", none.clone()).await;
    let support = PluginMultiplexingClient::new(host.channel.clone())
        .multiplexing_support(MultiplexingSupportRequest {})
        .await;
    assert!(support.unwrap().into_inner().supported);
    let version = PluginVersionClient::new(host.channel.clone())
        .version(VersionRequest {})
        .await;
    let expected = concat!("v", env!("CARGO_PKG_VERSION"));
    assert_eq!(version.unwrap().into_inner().plugin_version, expected);
    let kind = mount.client().r#type(mount.call(pb::Empty {})).await;
    assert_eq!(kind.unwrap().into_inner().r#type, 1);
    let paths = mount.client().special_paths(mount.call(pb::Empty {})).await;
    assert!(paths.unwrap().into_inner().paths.is_some());
    assert!(none.take_calls().is_empty(), "nothing needs storage here");
    host.shut_down().await.unwrap();
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_plugin_refuses_what_no_engine_may_see() {
    let dir = tempfile::tempdir().unwrap();
    let (process, mut host) = spawned(dir.path()).await;
    let mount = host.mount("one", MapStorage::transactional()).await;
    let resolve = mount.refused("resolve-path", "a", "{malformed").await;
    assert_eq!(resolve.err_type, 5);
    let unknown = mount.refused("recover", "a", "null").await;
    assert_eq!(unknown.err_type, 5);
    let malformed = mount.handle("update", "a", "{malformed").await.unwrap();
    let data: serde_json::Value = serde_json::from_str(&malformed.response.unwrap().data).unwrap();
    assert_eq!(data["data"]["code"], "invalid_json");
    host.shut_down().await.unwrap();
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_one_process_do_not_meet() {
    let mut fixture = Fixture::new().await;
    let (first, second) = (MapStorage::default(), MapStorage::default());
    let one = fixture.host.mount("one", first.clone()).await;
    let two = fixture.host.mount("two", second.clone()).await;
    assert!(one.initialize().await.is_none());
    assert!(two.initialize().await.is_none());
    one.answered("update", "kv/a", r#"{"value":"1"}"#).await;
    two.answered("update", "kv/a", r#"{"value":"2"}"#).await;
    let answer = one.answered("read", "kv/a", "null").await;
    assert_eq!(answer, serde_json::json!({"value": "1", "uuid": "one"}));
    assert_eq!(second.stored("kv/a").unwrap(), b"2");

    one.cleanup().await.unwrap();
    let answer = two.answered("read", "kv/a", "null").await;
    assert_eq!(answer["uuid"], "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_mount_is_an_error_and_its_cleanup_none() {
    let (fixture, mount) = Fixture::mounted(&MapStorage::default()).await;
    for id in ["nobody", ""] {
        let nobody = fixture.host.unmounted(id);
        let error = nobody.handle("read", "kv/a", "null").await.err().unwrap();
        assert!(error.message().contains("no backend instance found"));
        nobody.cleanup().await.unwrap();
    }
    mount.cleanup().await.unwrap();
    mount.cleanup().await.unwrap();
    let error = mount.handle("read", "kv/a", "null").await.err().unwrap();
    assert!(error.message().contains("no backend instance found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_without_a_connection_says_so() {
    let mut fixture = Fixture::new().await;
    let mount = fixture.host.unmounted("lost");
    let args = pb::SetupArgs {
        broker_id: 4711,
        ..pb::SetupArgs::default()
    };
    let reply = mount.client().setup(mount.call(args)).await.unwrap();
    let text = reply.into_inner().err;
    assert!(text.contains("4711"), "{text}");

    let args = pb::SetupArgs {
        broker_id: fixture.host.announce_nobody().await,
        ..pb::SetupArgs::default()
    };
    let reply = mount.client().setup(mount.call(args)).await.unwrap();
    let text = reply.into_inner().err;
    assert!(text.contains("No such file"), "the cause is told: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_its_request_only() {
    let (_fixture, mount) = Fixture::mounted(&MapStorage::default()).await;
    let error = mount.refused("read", "panic", "null").await;
    assert_eq!((error.err_type, error.err_code), (3, 500));
    assert!(error.err_msg.starts_with("internal:"));
    assert!(!error.err_msg.contains("hunter2"));
    mount.answered("update", "kv/a", r#"{"value":"1"}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_keep_their_form() {
    let (_fixture, mount) = Fixture::mounted(&MapStorage::default()).await;
    let nothing = mount.handle("read", "kv/none", "null").await.unwrap();
    assert!(nothing.response.is_none() && nothing.err.is_none());
    let tick = mount.handle("rollback", "", "null").await.unwrap();
    assert!(tick.err.is_none());
    let warned = mount.handle("read", "warn", "").await.unwrap();
    let warned = warned.response.unwrap();
    assert_eq!((warned.data.as_str(), warned.warnings.len()), ("null", 1));
    let wrapped = mount.handle("read", "wrap", "{}").await.unwrap();
    let ttl = wrapped.response.unwrap().wrap_info.unwrap().ttl;
    assert_eq!(ttl, 60_000_000_000);
    let state = mount.answered("read", "state", "null").await;
    assert_eq!(state["state"], "0x2020 false false 2764800");
    let status = mount.refused("read", "status/429", "null").await;
    assert_eq!((status.err_type, status.err_code), (3, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_errors_come_out_as_what_they_mean() {
    let storage = MapStorage::default();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    let value = r#"{"value":"1"}"#;

    storage.fail_with(Fault::Text(format!("wrapped: {READ_ONLY}")));
    let error = mount.refused("update", "kv/a", value).await;
    assert_eq!((error.err_type, error.err_msg.as_str()), (0, READ_ONLY));

    storage.fail_with(Fault::Text(String::from("disk full")));
    let error = mount.refused("update", "kv/a", value).await;
    assert_eq!((error.err_type, error.err_code), (3, 500));
    assert_eq!(error.err_msg, "storage_error: disk full");

    storage.fail_with(Fault::Status(Status::unavailable("gone")));
    let error = mount.refused("read", "kv/a", "null").await;
    assert_eq!(error.err_msg, "storage_error: gone");

    storage.fail_with(None);
    mount.answered("update", "kv/a", value).await;
    assert_eq!(storage.stored("kv/a").unwrap(), b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_larger_than_the_grpc_default_passes() {
    let storage = MapStorage::default();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    storage.store("kv/big", &vec![b'x'; 5 << 20]);
    let answer = mount.answered("read", "kv/big", "null").await;
    assert_eq!(answer["value"].as_str().unwrap().len(), 5 << 20);

    let long = format!(r#"{{"value":"{}"}}"#, "x".repeat(3 << 20));
    let error = mount.handle("update", "kv/a", &long).await.err().unwrap();
    assert_eq!(error.code(), tonic::Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_put_uses_a_transaction_where_there_is_one() {
    let storage = MapStorage::transactional();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    let write = r#"{"value":"1","expected":""}"#;
    mount.answered("update", "kv/a", write).await;
    let calls = storage.take_calls();
    assert_eq!(calls, ["is_transactional", "begin", "get", "put", "commit"]);

    let again = mount.refused("update", "kv/a", write).await;
    assert!(again.err_msg.contains("changed by someone else"));
    ended(&storage).await;
    let calls = storage.take_calls();
    assert_eq!(calls[..2], ["begin", "get"], "asked once only");
    assert_eq!(storage.stored("kv/a").unwrap(), b"1");
}

/// Waits until a storage call of this name was made; forgets the calls.
async fn arrived(storage: &MapStorage, call: &str) {
    let end = Instant::now() + PATIENCE;
    while !storage.take_calls().iter().any(|made| made == call) {
        assert!(Instant::now() < end, "no {call} arrived");
        tokio::task::yield_now().await;
    }
}

/// Waits until no transaction is open: its end may come after the answer.
async fn ended(storage: &MapStorage) {
    let end = Instant::now() + PATIENCE;
    while storage.open_transactions() > 0 {
        assert!(Instant::now() < end, "the transaction stays open");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_between_compare_and_commit_is_a_conflict() {
    let storage = MapStorage::transactional();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    storage.interfere("kv/a", b"theirs");
    let write = r#"{"value":"ours","expected":""}"#;
    let error = mount.refused("update", "kv/a", write).await;
    assert!(error.err_msg.contains("changed by someone else"));
    assert_eq!(storage.stored("kv/a").unwrap(), b"theirs");
    assert_eq!(storage.open_transactions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_leaves_no_transaction_open() {
    let storage = MapStorage::transactional();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    let answer = CancellationToken::new();
    storage.fail_on("put", Fault::Held(answer.clone()));
    let write = r#"{"value":"1","expected":""}"#;
    tokio::select! {
        _ = mount.handle("update", "kv/a", write) => panic!("the put is not answered yet"),
        () = arrived(&storage, "put") => {}
    }
    answer.cancel();
    ended(&storage).await;
    assert_eq!(
        storage.take_calls(),
        ["commit"],
        "no rollback races with the put"
    );
    assert_eq!(storage.stored("kv/a").unwrap(), b"1");
}

/// Lets the time pass that the plugin gives a host; the test's own connections have no deadlines.
async fn the_deadline_passes() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_put_without_an_answer_is_rolled_back_late() {
    let storage = MapStorage::transactional();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    storage.fail_on("put", Fault::Status(Status::unavailable("gone")));
    let write = r#"{"value":"1","expected":""}"#;
    let error = mount.refused("update", "kv/a", write).await;
    assert_eq!(error.err_msg, "storage_error: gone");
    // Would come after a rollback that had been sent at once.
    mount.answered("read", "kv/a", "null").await;
    let calls = storage.take_calls();
    assert_eq!(calls, ["is_transactional", "begin", "get", "put", "get"]);
    assert_eq!(storage.open_transactions(), 1);
    the_deadline_passes().await;
    ended(&storage).await;
    assert_eq!(storage.take_calls(), ["rollback"]);
}

#[tokio::test]
async fn a_transaction_that_begins_late_is_rolled_back() {
    let storage = MapStorage::transactional();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    let begun = CancellationToken::new();
    storage.fail_on("begin", Fault::Held(begun.clone()));
    let write = r#"{"value":"1","expected":""}"#;
    let late = async {
        arrived(&storage, "begin").await;
        the_deadline_passes().await;
    };
    let (error, ()) = tokio::join!(mount.refused("update", "kv/a", write), late);
    assert!(error.err_msg.contains("did not begin"), "{}", error.err_msg);
    begun.cancel();
    arrived(&storage, "rollback").await;
    ended(&storage).await;
    assert_eq!(storage.stored("kv/a"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_vault_is_served_with_single_calls() {
    let storage = MapStorage::default();
    let (_fixture, mount) = Fixture::mounted(&storage).await;
    for key in ["c", "a", "b", "f/x"] {
        let path = format!("kv/{key}");
        let write = r#"{"value":"1","expected":""}"#;
        mount.answered("update", &path, write).await;
    }
    assert!(!storage.take_calls().contains(&String::from("begin")));
    let page = r#"{"after":"a","limit":2}"#;
    for _ in 0..2 {
        let keys = mount.answered("list", "kv/", page).await;
        assert_eq!(keys, serde_json::json!({"keys": ["b", "c"]}));
    }
    assert_eq!(storage.take_calls(), ["list_page", "list", "list"]);
    mount.answered("delete", "kv/a", "null").await;
    let keys = mount.answered("list", "kv/", "null").await;
    assert_eq!(keys, serde_json::json!({"keys": ["b", "c", "f/"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_is_answered_and_does_not_wait_for_what_hangs() {
    let storage = MapStorage::default();
    let (fixture, mount) = Fixture::mounted(&storage).await;
    storage.fail_with(Fault::Silence);
    let hanging = vault_plugin_secrets_smtp::tasks::Tasks::new()
        .spawn(async move { mount.handle("read", "kv/a", "null").await.map(drop) });
    arrived(&storage, "get").await;
    fixture.host.shut_down().await.unwrap();
    let asked = Instant::now();
    assert_eq!(fixture.plugin.ended.await.unwrap(), Ending::Shutdown);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(!hanging.is_finished());
    let sockets = std::fs::read_dir(fixture.dir.path()).unwrap();
    let mut names = sockets.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| !name.starts_with("plugin-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_mounts_that_hang_share_the_time_of_the_end() {
    let mut fixture = Fixture::new().await;
    let storage = MapStorage::default();
    let mount = fixture.host.mount("stuck", storage.clone()).await;
    storage.fail_with(Fault::Silence);
    let hanging = vault_plugin_secrets_smtp::tasks::Tasks::new()
        .spawn(async move { mount.handle("read", "kv/a", "null").await.map(drop) });
    arrived(&storage, "get").await;
    fixture.host.shut_down().await.unwrap();
    let asked = Instant::now();
    assert_eq!(fixture.plugin.ended.await.unwrap(), Ending::Shutdown);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(!hanging.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_the_process_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (process, mut host) = spawned(dir.path()).await;
    host.mount("one", MapStorage::transactional()).await;
    let socket = process.handshake.socket().to_owned();
    assert!(socket.exists());
    host.shut_down().await.unwrap();
    let asked = Instant::now();
    let (status, _, _) = process.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(status.success());
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_host_takes_the_process_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (process, host) = spawned(dir.path()).await;
    let socket = process.handshake.socket().to_owned();
    host.vanish().await;
    let (status, _, stderr) = process.ended().await;
    assert!(status.success());
    assert!(stderr.contains("the server is gone"), "{stderr}");
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_parent_takes_the_process_with_it() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let plugin = command(&identity, dir.path());
    let mut parent = Command::new("sh")
        .args(["-c", "\"$0\" & wait", BINARY])
        .env_clear()
        .envs(
            plugin
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let socket = Handshake::parse(&line).socket().to_owned();
    assert!(socket.exists());
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The plugin holds the other end of the pipe for as long as it lives.
    let ended = tokio::task::spawn_blocking(move || stdout.read_line(&mut String::new()));
    let read = tokio::time::timeout(PATIENCE, ended).await;
    assert_eq!(read.expect("the plugin lives on").unwrap().unwrap(), 0);
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_are_for_the_host_do_not_end_the_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let (process, mut host) = spawned(dir.path()).await;
    // Those of a terminal and of tools that have logs reopened or a status told.
    for name in ["INT", "HUP", "USR1", "USR2"] {
        process.signal(name);
    }
    let mount = host.mount("one", MapStorage::transactional()).await;
    assert_eq!(mount.refused("resolve-path", "", "").await.err_type, 5);
    let socket = process.handshake.socket().to_owned();
    process.signal("TERM");
    assert!(process.ended().await.0.success());
    assert!(!socket.exists());
}
