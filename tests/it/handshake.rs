//! How the process starts, and who gets in.

use std::io::BufRead;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use vault_plugin_secrets_smtp::proto::grpc::health::v1::HealthCheckRequest;
use vault_plugin_secrets_smtp::proto::grpc::health::v1::health_client::HealthClient;
use vault_plugin_secrets_smtp::wire::PROTOCOL;

use crate::support::host::{BINARY, Host, Identity, PATIENCE, Process, command};
use crate::support::host_services::MapStorage;

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn by_hand_it_explains_itself_on_stderr_only() {
    for variables in [&[][..], &[(PROTOCOL.cookie.key, "wrong")]] {
        let output = run(&[], variables);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("this program is a plugin"));
        assert!(!text(&output.stderr).contains("[ERROR]"));
    }
}

#[test]
fn without_mutual_tls_it_does_not_start() {
    let cookie = (PROTOCOL.cookie.key, PROTOCOL.cookie.value);
    let output = run(&[], &[cookie, ("PLUGIN_PROTOCOL_VERSIONS", "3,4")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let line = text(&output.stderr);
    assert!(line.contains("PLUGIN_CLIENT_CERT"));
    assert!(line.starts_with("[ERROR] "), "hosts log it at its level");
}

/// The TLS library would collect entropy from the CPU's jitter first: 22 of 24 milliseconds of a
/// start, of which a host makes two for each mount. `.cargo/config.toml` leaves that out of every
/// build, and this finds it in the symbols of the build under test.
#[test]
fn a_start_collects_no_entropy_from_jitter() {
    let program = std::fs::read(BINARY).unwrap();
    let has = |symbol: &str| contains(&program, symbol.as_bytes());
    assert!(has("_RAND_bytes"), "the program has no symbols to look at");
    assert!(!has("_jent_entropy_collector_alloc"), "{BINARY}");
}

/// Reports whether `needle` is in `bytes`.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn arguments_are_answered_without_a_host() {
    let version = run(&["--version"], &[]);
    assert!(version.status.success());
    let expected = concat!(
        "vault-plugin-secrets-smtp ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    );
    assert_eq!(text(&version.stdout), expected);

    let help = run(&["--help"], &[]);
    assert!(help.status.success());
    assert!(text(&help.stdout).contains("--version"));

    assert!(run(&["--audit-keys"], &[]).status.success());

    for unknown in [&["--nonsense"][..], &["--version", "more"]] {
        let output = run(unknown, &[]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stdout), "");
        assert!(!output.stderr.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_says_where_how_and_who() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(command(&identity, dir.path()));
    let segments = process.handshake.segments.clone();
    assert_eq!(segments.len(), 6);
    assert_eq!(segments[..3], ["1", "5", "unix"]);
    assert_eq!(process.handshake.socket().parent(), Some(dir.path()));
    assert_eq!(segments[4], "grpc");
    assert!(!segments[5].is_empty() && !segments[5].contains('='));

    process.signal("TERM");
    let (status, rest, _) = process.ended().await;
    assert!(status.success());
    assert_eq!(rest, "", "stdout belongs to the line");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_its_one_version_whatever_is_listed() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let mut command = command(&identity, dir.path());
    command
        .env("PLUGIN_PROTOCOL_VERSIONS", "3,4")
        .env("PLUGIN_MULTIPLEX_GRPC", "true");
    let process = Process::start(command);
    assert_eq!(process.handshake.segments[1], "5");
    assert_eq!(process.handshake.segments.len(), 7);
    assert_eq!(process.handshake.segments[6], "true");
    process.signal("TERM");
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_obey_is_logged_once() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let mut command = command(&identity, dir.path());
    command
        .env("SMTP_LOG_LEVEL", "loud")
        .env("VAULT_PLUGIN_MLOCK_ENABLED", "true");
    let process = Process::start(command);
    process.signal("TERM");
    let (status, _, stderr) = process.ended().await;
    assert!(status.success());
    for cause in ["SMTP_LOG_LEVEL", "memory locking"] {
        let mut told = stderr.lines().filter(|line| line.contains(cause));
        assert!(told.next().unwrap().starts_with(r#"{"@level":"warn""#));
        assert!(told.next().is_none(), "{stderr}");
    }
}

async fn is_healthy(channel: tonic::transport::Channel) -> bool {
    let request = HealthCheckRequest {
        service: String::from("plugin"),
    };
    let reply = HealthClient::new(channel).check(request).await;
    reply.is_ok_and(|reply| reply.into_inner().status == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_host_that_started_it_gets_in() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(command(&identity, dir.path()));
    let stranger = process.handshake.connect(&Identity::new()).await;
    // With TLS 1.3 a client learns of the refusal only when it reads.
    if let Ok(channel) = stranger {
        assert!(!is_healthy(channel).await);
    }
    let host = Host::connect(identity, &process.handshake, dir.path()).await;
    assert!(is_healthy(host.channel.clone()).await);
    host.shut_down().await.unwrap();
    let (status, _, stderr) = process.ended().await;
    assert!(status.success());
    assert!(stderr.contains("not the host's"), "{stderr}");
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_of_cancelled_calls_does_not_cost_the_connection() {
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(command(&identity, dir.path()));
    let mut stream = process.handshake.open(&identity).await;
    // Written at once, so that the server meets each call and its end at the same time.
    let mut wave = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    wave.extend(frame(SETTINGS, 0, 0, &[]));
    for call in (1..200).step_by(2) {
        // HEADERS with END_HEADERS: POST, http, "/".
        wave.extend(frame(1, 4, call, &[0x83, 0x86, 0x84]));
        wave.extend(frame(RST_STREAM, 0, call, &8_u32.to_be_bytes()));
    }
    wave.extend(frame(PING, 0, 0, b"afterall"));
    stream.write_all(&wave).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("still connected");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], GOAWAY, "{}", String::from_utf8_lossy(&payload));
        if head[3] == PING {
            assert_eq!(payload, b"afterall");
            break;
        }
    }
    process.signal("TERM");
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_garbage_on_the_socket_hurt_nobody() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(command(&identity, dir.path()));
    let socket = process.handshake.socket();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(UnixStream::connect(socket).await.unwrap());
    }
    let mut garbage = UnixStream::connect(socket).await.unwrap();
    garbage.write_all(&[0x16; 4096]).await.unwrap();
    let mut closed = Vec::new();
    // A reset is as good as an end.
    let _ = garbage.read_to_end(&mut closed).await;

    let connected = Host::connect(identity, &process.handshake, dir.path());
    let host = tokio::time::timeout(Duration::from_secs(5), connected).await;
    let host = host.expect("the idle connections are in nobody's way");
    assert!(is_healthy(host.channel.clone()).await);
    // Too many at once cost the oldest, long before its time to speak is over.
    let mut said = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), idle[0].read_to_end(&mut said));
    let _ = closed.await.expect("the oldest is still open");
    host.shut_down().await.unwrap();
    assert!(process.ended().await.0.success());
}

/// A directory whose path makes the socket's longer than the system allows.
fn deep(dir: &Path) -> PathBuf {
    let deep = dir.join("d".repeat(80));
    std::fs::create_dir(&deep).unwrap();
    deep
}

#[test]
fn a_socket_that_cannot_be_made_is_explained_on_stderr_only() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let segments = dir.path().join("a|b");
    std::fs::create_dir(&segments).unwrap();
    for (socket_dir, said) in [
        (deep(dir.path()), "longer than the 107 bytes"),
        (segments, "without `|`"),
        (dir.path().join("missing"), "No such file or directory"),
        (file, "Not a directory"),
        (PathBuf::from("/proc"), "must be able to write to it"),
    ] {
        let output = command(&identity, &socket_dir).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(text(&output.stdout), "");
        let line = text(&output.stderr);
        assert!(line.starts_with("[ERROR] "), "{line}");
        assert!(line.contains(said), "{line}");
        assert!(line.contains("PLUGIN_UNIX_SOCKET_DIR"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    let mut unknown = command(&identity, dir.path());
    unknown.env("PLUGIN_UNIX_SOCKET_GROUP", "no such group");
    let output = unknown.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no group \"no such group\""));
    let left = std::fs::read_dir(dir.path()).unwrap();
    assert_eq!(left.count(), 3, "no socket is left behind");
}

/// The group this user may give a file to, by number and by name.
fn own_group() -> (u32, Vec<String>) {
    let own = |flags: &str| {
        let output = Command::new("id").arg(flags).output().unwrap();
        text(&output.stdout).trim().to_owned()
    };
    let number = own("-g");
    let gid = number.parse().unwrap();
    (gid, vec![number, own("-gn")])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_where_and_whose_the_host_says_until_the_end() {
    let (gid, names) = own_group();
    for multiplexing in ["", "true"] {
        for (group, signal) in names.iter().zip(["TERM", "shutdown"]) {
            let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
            let mut command = command(&identity, dir.path());
            command
                .env("PLUGIN_UNIX_SOCKET_GROUP", group)
                .env("PLUGIN_MULTIPLEX_GRPC", multiplexing);
            let process = Process::start(command);
            let socket = process.handshake.socket().to_owned();
            assert_eq!(socket.parent(), Some(dir.path()));
            let metadata = std::fs::metadata(&socket).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o660);
            assert_eq!(metadata.gid(), gid);
            if signal == "TERM" {
                process.signal(signal);
            } else {
                let host = Host::connect(identity, &process.handshake, dir.path()).await;
                host.shut_down().await.unwrap();
            }
            assert!(process.ended().await.0.success());
            assert!(!socket.exists(), "after {signal}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_reads_no_logs_is_answered_all_the_same() {
    const LINES: u64 = 2500;
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let mut process = Process::start(command(&identity, dir.path()));
    let mut host = Host::connect(identity, &process.handshake, dir.path()).await;
    let mount = host.mount("one", MapStorage::default()).await;
    // Each is a log line of about 200 bytes; the pipe takes 64 KiB and the queue 1024 lines.
    for _ in 0..LINES {
        assert!(mount.initialize().await.is_none());
    }
    assert!(is_healthy(host.channel.clone()).await);

    // Once it reads again it gets whole lines, and is told what it missed.
    let mut stderr = process.child.stderr.take().unwrap();
    let (lines, mut read) = tokio::sync::mpsc::unbounded_channel();
    let reader = std::thread::spawn(move || {
        for line in std::io::BufReader::new(&mut stderr).lines() {
            // Nobody listens to what comes after the test.
            let _ = lines.send(line.unwrap());
        }
    });
    let mut lost = 0;
    let mut seen = 0;
    while seen + lost < LINES {
        let line = tokio::time::timeout(PATIENCE, read.recv()).await;
        let line = line.expect("nothing is said of lost lines").unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).expect("a whole line");
        for key in ["@level", "@message", "@timestamp", "@module"] {
            assert!(line[key].is_string(), "{line}");
        }
        // 2006-01-02T15:04:05.000000Z
        let timestamp = line["@timestamp"].as_str().unwrap();
        assert_eq!(timestamp.len(), 27, "{timestamp}");
        assert!(timestamp.ends_with('Z') && timestamp.as_bytes()[19] == b'.');
        if line["@message"].as_str().unwrap().contains("were dropped") {
            lost += line["lines"].as_u64().unwrap();
        } else {
            seen += 1;
        }
    }
    assert!(seen >= 1024 && lost > 100, "{seen} seen, {lost} lost");
    host.shut_down().await.unwrap();
    assert!(process.child.wait().unwrap().success());
    reader.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_is_switched_by_its_variable() {
    for (level, heard) in [("error", false), ("off", false), ("warn", true), ("", true)] {
        let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
        let mut command = command(&identity, dir.path());
        command
            .env("SMTP_LOG_LEVEL", level)
            .env("VAULT_PLUGIN_MLOCK_ENABLED", "true");
        let process = Process::start(command);
        process.signal("TERM");
        let (status, _, stderr) = process.ended().await;
        assert!(status.success());
        assert_eq!(stderr.contains("memory locking"), heard, "{level}");
    }
}
