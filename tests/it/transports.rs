//! What must hold whether each connection has a socket of its own or all share one.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vault_plugin_secrets_smtp::goplugin::Ending;
use vault_plugin_secrets_smtp::proto::pb;
use vault_plugin_secrets_smtp::tasks::Tasks;

use crate::support::host::{
    BINARY, Handshake, Host, Identity, InProcess, Mount, PATIENCE, Process, command,
    multiplexing_command,
};
use crate::support::host_mux::Manner;
use crate::support::host_services::{Fault, MapStorage};
use crate::support::probe::Probe;

/// How a host's connections run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Sockets,
    OneSocket,
}

/// Declares each test once for either transport.
macro_rules! over_both {
    ($($test:ident),+ $(,)?) => {
        mod sockets {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::Over::Sockets).await;
            })+
        }
        mod one_socket {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::Over::OneSocket).await;
            })+
        }
    };
}

over_both!(
    mounts_keep_to_their_storage_in_parallel,
    a_lost_connection_is_made_again,
    a_large_entry_passes,
    a_setup_for_an_unknown_connection_says_so,
    a_shutdown_does_not_wait_for_what_hangs,
    a_host_that_stopped_reading_cannot_hold_the_end_up,
    a_vanished_host_ends_the_process,
    a_killed_parent_ends_the_process,
    an_interrupt_is_not_for_the_plugin,
);

/// The plugin with the probe as its backend, inside the test, and a host.
async fn in_process(over: Over) -> (Host, InProcess, tempfile::TempDir) {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let factory = Arc::new(|info| Arc::new(Probe(info)) as _);
    let one = over == Over::OneSocket;
    let plugin = InProcess::start_for(&identity, dir.path(), factory, one);
    let host = Host::connect(identity, &plugin.handshake, dir.path()).await;
    assert_eq!(host.mux.is_some(), one);
    (host, plugin, dir)
}

fn built(over: Over, identity: &Identity, dir: &std::path::Path) -> Command {
    match over {
        Over::Sockets => command(identity, dir),
        Over::OneSocket => multiplexing_command(identity, dir),
    }
}

/// The built plugin in a process of its own, and a host.
async fn spawned(over: Over) -> (Process, Host, tempfile::TempDir) {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(built(over, &identity, dir.path()));
    let host = Host::connect(identity, &process.handshake, dir.path()).await;
    (process, host, dir)
}

async fn until(what: &str, mut met: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met().await {
        assert!(Instant::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

async fn mounts_keep_to_their_storage_in_parallel(over: Over) {
    let (mut host, plugin, _dir) = in_process(over).await;
    let mut mounts = Vec::new();
    for uuid in ["one", "two", "three"] {
        let storage = MapStorage::transactional();
        mounts.push((uuid, host.mount(uuid, storage.clone()).await, storage));
    }
    let tasks = Tasks::new();
    let mut requests = Vec::new();
    for (uuid, mount, _) in &mounts {
        assert!(mount.initialize().await.is_none());
        for key in 0..20 {
            let (uuid, mount) = (*uuid, mount.clone());
            requests.push(tasks.spawn(async move {
                let path = format!("kv/{key}");
                let value = format!("{uuid}-{key}").repeat(3000);
                let write = serde_json::json!({ "value": value }).to_string();
                mount.answered("update", &path, &write).await;
                let read = mount.answered("read", &path, "null").await;
                assert_eq!(read, serde_json::json!({"value": value, "uuid": uuid}));
            }));
        }
    }
    for request in requests {
        request.await.unwrap();
    }
    for (uuid, _, storage) in &mounts {
        let stored = storage.stored("kv/7").unwrap();
        assert!(stored.starts_with(format!("{uuid}-7").as_bytes()));
    }
    mounts[0].1.cleanup().await.unwrap();
    let after = mounts[1].1.answered("read", "kv/7", "null").await;
    assert_eq!(after["uuid"], "two");
    host.shut_down().await.unwrap();
    assert_eq!(plugin.ended.await.unwrap(), Ending::Shutdown);
}

async fn a_lost_connection_is_made_again(over: Over) {
    let (mut host, _plugin, _dir) = in_process(over).await;
    let (first, second) = (MapStorage::default(), MapStorage::default());
    let one = host.mount("one", first.clone()).await;
    let two = host.mount("two", second.clone()).await;
    one.answered("update", "kv/a", r#"{"value":"1"}"#).await;
    two.answered("update", "kv/a", r#"{"value":"2"}"#).await;
    for _ in 0..3 {
        host.interrupt();
        for (mount, value) in [(&one, "1"), (&two, "2")] {
            // A request may meet the connection's end; the next one makes a new connection.
            until("no new connection", async || {
                let reply = mount.handle("read", "kv/a", "null").await.unwrap();
                reply.err.is_none_or(|error| {
                    assert!(error.err_msg.starts_with("storage_error"));
                    false
                })
            })
            .await;
            let read = mount.answered("read", "kv/a", "null").await;
            assert_eq!(read["value"], value);
        }
    }
    if let Some(mux) = host.mux {
        let knocks = mux.knocks();
        assert!(
            knocks.starts_with(&[1, 2]) && knocks.len() > 2,
            "{knocks:?}"
        );
    }
}

async fn a_large_entry_passes(over: Over) {
    let (mut host, _plugin, _dir) = in_process(over).await;
    let storage = MapStorage::default();
    let mount = host.mount("one", storage.clone()).await;
    storage.store("kv/big", &vec![b'x'; 12 << 20]);
    let answer = mount.answered("read", "kv/big", "null").await;
    assert_eq!(answer["value"].as_str().unwrap().len(), 12 << 20);
}

async fn set_up(mount: &Mount, broker_id: u32) -> String {
    let args = pb::SetupArgs {
        broker_id,
        ..pb::SetupArgs::default()
    };
    let reply = mount.client().setup(mount.call(args)).await.unwrap();
    reply.into_inner().err
}

async fn a_setup_for_an_unknown_connection_says_so(over: Over) {
    let (host, _plugin, _dir) = in_process(over).await;
    let text = set_up(&host.unmounted("lost"), 4711).await;
    assert!(text.contains("4711"), "{text}");
    if over == Over::OneSocket {
        assert!(text.contains("did not answer"), "{text}");
        assert!(text.contains("reload the plugin"), "{text}");
    }
}

async fn a_shutdown_does_not_wait_for_what_hangs(over: Over) {
    let (process, mut host, _dir) = spawned(over).await;
    let storage = MapStorage::default();
    let mount = host.mount("one", storage.clone()).await;
    storage.fail_with(Fault::Silence);
    let hanging =
        Tasks::new().spawn(async move { mount.handle("read", "config", "null").await.map(drop) });
    until("no call arrived", async || !storage.take_calls().is_empty()).await;
    let socket = process.handshake.socket().to_owned();
    let asked = Instant::now();
    host.shut_down().await.unwrap();
    let (status, rest, _) = process.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(status.success());
    assert_eq!(rest, "");
    assert!(!socket.exists());
    assert!(hanging.await.unwrap().is_err());
}

async fn a_host_that_stopped_reading_cannot_hold_the_end_up(over: Over) {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(built(over, &identity, dir.path()));
    let (handshake, path) = (process.handshake.clone(), dir.path().to_owned());
    // The host lives on a runtime that nobody drives any more: connected, but silent.
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let host = runtime.block_on(async {
            let mut host = Host::connect(identity, &handshake, &path).await;
            host.mount("one", MapStorage::default()).await;
            host
        });
        (runtime, host)
    });
    let stopped = stopped.join().unwrap();
    let socket = process.handshake.socket().to_owned();
    let asked = Instant::now();
    process.signal("TERM");
    let (status, ..) = process.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(status.success());
    assert!(!socket.exists());
    stopped.0.shutdown_background();
}

async fn a_vanished_host_ends_the_process(over: Over) {
    let (process, mut host, _dir) = spawned(over).await;
    host.mount("one", MapStorage::default()).await;
    let socket = process.handshake.socket().to_owned();
    host.vanish().await;
    let (status, _, stderr) = process.ended().await;
    assert!(status.success());
    assert!(stderr.contains("the server is gone"), "{stderr}");
    assert!(!socket.exists());
}

async fn a_killed_parent_ends_the_process(over: Over) {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let plugin = built(over, &identity, dir.path());
    let variables = plugin
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let mut parent = Command::new("sh")
        .args(["-c", "\"$0\" & wait", BINARY])
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let handshake = Handshake::parse(&line);
    // Connections alone do not keep an orphan alive.
    let _host = Host::connect(identity, &handshake, dir.path()).await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The plugin holds the other end of the pipe for as long as it lives.
    let ended = tokio::task::spawn_blocking(move || stdout.read_line(&mut String::new()));
    let read = tokio::time::timeout(PATIENCE, ended).await;
    assert_eq!(read.expect("the plugin lives on").unwrap().unwrap(), 0);
    assert!(!handshake.socket().exists());
}

async fn an_interrupt_is_not_for_the_plugin(over: Over) {
    let (process, mut host, _dir) = spawned(over).await;
    process.signal("INT");
    let mount = host.mount("one", MapStorage::transactional()).await;
    assert_eq!(mount.refused("resolve-path", "", "").await.err_type, 5);
    process.signal("TERM");
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_knock_says_what_the_host_said() {
    let (mut host, _plugin, _dir) = in_process(Over::OneSocket).await;
    let mux = host.mux.clone().unwrap();
    mux.set_manner(Manner::Refuse);
    let text = set_up(&host.unmounted("lost"), 7).await;
    assert!(text.contains("the door is locked"), "{text}");
    assert!(mux.knocks().len() > 1, "a host may need a moment");
    mux.set_manner(Manner::Prompt);
    host.mount("one", MapStorage::default()).await;
}

/// A door that opens late must not catch another mount's connection: the two storages would be
/// taken for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_knock_answered_late_misleads_nobody() {
    let (mut host, _plugin, _dir) = in_process(Over::OneSocket).await;
    let mux = host.mux.clone().unwrap();
    let (first, second) = (MapStorage::default(), MapStorage::default());
    let late = host.serve(first.clone()).await;
    mux.set_manner(Manner::Late);
    let lost = host.unmounted("lost");
    let text = set_up(&lost, late).await;
    assert!(text.contains("did not answer"), "{text}");
    let again = Instant::now();
    assert!(set_up(&lost, late).await.contains("did not answer"));
    assert!(again.elapsed() < Duration::from_secs(1), "not asked again");

    // Both doors open at the same time.
    mux.set_manner(Manner::Prompt);
    host.answer_late().await;
    let mount = host.mount("two", second.clone()).await;
    mount.answered("update", "kv/a", r#"{"value":"2"}"#).await;
    assert_eq!(second.stored("kv/a").unwrap(), b"2");
    assert!(first.take_calls().is_empty());

    // It has been answered: it may be knocked on.
    assert_eq!(set_up(&lost, late).await, "");
    mount.answered("update", "kv/b", r#"{"value":"3"}"#).await;
    assert_eq!(second.stored("kv/b").unwrap(), b"3");
}

/// The same, but the late answer comes when everything seems settled: right before that to the knock
/// that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_knock_answered_while_another_counts_misleads_nobody() {
    let (mut host, _plugin, _dir) = in_process(Over::OneSocket).await;
    let mux = host.mux.clone().unwrap();
    let (first, second) = (MapStorage::default(), MapStorage::default());
    let late = host.serve(first.clone()).await;
    mux.set_manner(Manner::Late);
    let lost = host.unmounted("lost");
    assert!(set_up(&lost, late).await.contains("did not answer"));

    // The first knock on the other door is for nothing, the second is the one that counts.
    mux.set_manner(Manner::LateBefore(3));
    let mount = host.mount("two", second.clone()).await;
    mount.answered("update", "kv/a", r#"{"value":"2"}"#).await;
    assert_eq!(second.stored("kv/a").unwrap(), b"2");
    assert!(first.take_calls().is_empty());
    let knocks = mux.knocks();
    assert_eq!(knocks[..3], [late, late + 1, late + 1], "{knocks:?}");
    assert!(knocks.len() > 3, "another dial was made: {knocks:?}");

    assert_eq!(set_up(&lost, late).await, "");
    mount.answered("update", "kv/b", r#"{"value":"3"}"#).await;
    assert_eq!(second.stored("kv/b").unwrap(), b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_is_gone_costs_the_others_one_wait() {
    let (mut host, _plugin, _dir) = in_process(Over::OneSocket).await;
    let mux = host.mux.clone().unwrap();
    mux.set_manner(Manner::Late);
    let text = set_up(&host.unmounted("lost"), 99).await;
    assert!(text.contains("did not answer"), "{text}");
    mux.set_manner(Manner::Prompt);
    for uuid in ["one", "two"] {
        let storage = MapStorage::default();
        let mount = host.mount(uuid, storage.clone()).await;
        mount.answered("update", "kv/a", r#"{"value":"1"}"#).await;
        assert_eq!(storage.stored("kv/a").unwrap(), b"1");
    }
    assert_eq!(mux.knocks(), [99, 1, 1, 2], "one dial was made for nothing");
}
