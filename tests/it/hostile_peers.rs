//! Whoever else may open the plugin's socket: none of them gets in, and none is in the host's way.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use vault_plugin_secrets_smtp::proto::grpc::health::v1::HealthCheckRequest;
use vault_plugin_secrets_smtp::proto::grpc::health::v1::health_client::HealthClient;
use vault_plugin_secrets_smtp::tasks::Tasks;

use crate::support::host::{
    Handshake, Host, Identity, PATIENCE, Process, command, multiplexing_command,
};
use crate::support::host_mux::HostMux;
use crate::support::host_services::MapStorage;

/// The head of a yamux frame: version, type, flags, stream, length.
fn yamux_frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let (flags, stream) = (flags.to_be_bytes(), stream.to_be_bytes());
    [&[0, kind], &flags[..], &stream[..], &length.to_be_bytes()].concat()
}

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u16 = 1;

/// Waits until the plugin closes a connection on which `said` was written.
async fn closed_after(socket: &Path, said: &[u8]) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // It may be closed already: a reset is as good as an end.
    let _ = stream.write_all(said).await;
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    let _ = closed.expect("the connection is still open");
}

/// Answers whether the host's own calls get through, and those into its storage, again and again.
async fn is_served(host: &Host, storage: &MapStorage) -> bool {
    let mount = host.unmounted("multiplex-one");
    for _ in 0..5 {
        let request = HealthCheckRequest {
            service: String::from("plugin"),
        };
        let health = HealthClient::new(host.channel.clone()).check(request).await;
        let read = mount.handle("list", "tenants/", "null").await;
        if health.is_err() || read.is_err() || storage.take_calls().is_empty() {
            return false;
        }
    }
    true
}

/// A handshake as a stranger makes it; whether a byte of the server's answer can be read. With TLS
/// 1.3 a client learns of the refusal only when it reads.
async fn gets_in(
    handshake: &Handshake,
    tls: TlsConnector,
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
) -> bool {
    assert!(!handshake.certificate().is_empty());
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(mut stream) = tls.connect(name, stream).await else {
        return false;
    };
    stream.read_u8().await.is_ok()
}

/// Those who know the protocol but not the host's key.
fn strangers(host: &Identity, handshake: &Handshake) -> Vec<(&'static str, TlsConnector)> {
    let plugin = handshake.certificate();
    vec![
        ("another certificate", Identity::new().connector(&plugin)),
        ("no certificate", Identity::anonymous(&plugin)),
        ("a copy without the key", host.forged().connector(&plugin)),
    ]
}

/// The first bytes of a TLS handshake: a record of 512 bytes is announced, 100 come.
fn half_a_handshake() -> Vec<u8> {
    let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    bytes.resize(100, 7);
    bytes
}

/// Opens connections, says `bytes` on each and keeps them open.
async fn keep_open(socket: &Path, count: usize, bytes: &[u8]) -> Vec<UnixStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let _ = stream.write_all(bytes).await;
        open.push(stream);
    }
    open
}

async fn ends_well(host: Host, process: Process) -> String {
    host.shut_down().await.unwrap();
    let (status, stdout, stderr) = process.ended().await;
    assert!(status.success());
    assert_eq!(stdout, "");
    for line in stderr.lines() {
        assert!(line.starts_with(r#"{"@level":""#), "{line}");
    }
    stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn on_its_own_sockets_the_host_is_served_whoever_else_connects() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(command(&identity, dir.path()));
    let handshake = process.handshake.clone();
    let socket = handshake.socket();
    let strangers = strangers(&identity, &handshake);
    let mut host = Host::connect(identity, &handshake, dir.path()).await;
    let storage = MapStorage::transactional();
    host.mount("one", storage.clone()).await;

    for (who, tls) in strangers {
        let stream = UnixStream::connect(socket).await.unwrap();
        assert!(!gets_in(&handshake, tls, stream).await, "{who}");
        assert!(is_served(&host, &storage).await, "{who}");
    }
    closed_after(socket, &[0; 4096]).await;
    closed_after(socket, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let silent = keep_open(socket, 100, b"").await;
    let stopped = keep_open(socket, 100, &half_a_handshake()).await;
    assert!(is_served(&host, &storage).await);
    drop((silent, stopped));
    let stderr = ends_well(host, process).await;
    assert!(stderr.contains("it is not the host's"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_socket_is_the_hosts_once_it_has_proved_itself() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(multiplexing_command(&identity, dir.path()));
    let handshake = process.handshake.clone();
    let socket = handshake.socket();
    let mut host = Host::connect(identity, &handshake, dir.path()).await;
    let storage = MapStorage::transactional();
    host.mount("one", storage.clone()).await;

    closed_after(socket, b"").await;
    closed_after(socket, &[0xff; 4096]).await;
    closed_after(socket, &half_a_handshake()).await;
    let silent = keep_open(socket, 100, b"").await;
    assert!(is_served(&host, &storage).await);
    drop(silent);
    let stderr = ends_well(host, process).await;
    assert!(stderr.contains("next to the host's only one"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_before_the_host_cannot_take_its_one_socket() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(multiplexing_command(&identity, dir.path()));
    let handshake = process.handshake.clone();
    let socket = handshake.socket();

    let tasks = Tasks::new();
    for (who, tls) in strangers(&identity, &handshake) {
        let session = HostMux::connect(socket, &tasks).await;
        let stream = session.dial().await.unwrap();
        assert!(!gets_in(&handshake, tls, stream).await, "{who}");
    }
    // Not yamux; a stream that begins with a window beyond all bounds; two streams at once.
    closed_after(socket, &[0xff; 4096]).await;
    let beyond = yamux_frame(WINDOW_UPDATE, SYN, 1, u32::MAX);
    let mut two = yamux_frame(WINDOW_UPDATE, SYN, 1, 0);
    two.extend(yamux_frame(WINDOW_UPDATE, SYN, 3, 0));
    closed_after(socket, &two).await;
    let half = half_a_handshake();
    let mut stopped = yamux_frame(DATA, SYN, 1, u32::try_from(half.len()).unwrap());
    stopped.extend(half);
    let mut open = keep_open(socket, 10, &beyond).await;
    open.extend(keep_open(socket, 40, &stopped).await);
    open.extend(keep_open(socket, 60, b"").await);

    let connected = Host::connect(identity, &handshake, dir.path());
    let host = tokio::time::timeout(Duration::from_secs(8), connected).await;
    let mut host = host.expect("the others are in the host's way");
    let storage = MapStorage::transactional();
    host.mount("one", storage.clone()).await;
    assert!(is_served(&host, &storage).await);
    drop(open);
    assert!(is_served(&host, &storage).await);
    host.shut_down().await.unwrap();
    assert!(process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_too_many_streams_loses_those_only() {
    let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
    let process = Process::start(multiplexing_command(&identity, dir.path()));
    let mut host = Host::connect(identity, &process.handshake, dir.path()).await;
    let storage = MapStorage::transactional();
    host.mount("one", storage.clone()).await;
    let mux = host.mux.clone().unwrap();
    let mut refused = 0;
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut stream = mux.dial().await.unwrap();
        stream.write_all(&half_a_handshake()).await.unwrap();
        open.push(stream);
    }
    for stream in &mut open {
        let closed = tokio::time::timeout(Duration::from_millis(200), stream.read_u8());
        refused += usize::from(closed.await.is_ok());
    }
    assert!(refused >= 24, "{refused} were refused");
    assert!(is_served(&host, &storage).await);
    drop(open);
    ends_well(host, process).await;
}
