//! The client against sockets that answer as a server does, misbehave, or are not who they should
//! be.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::DateTime;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::{Address, Error, HostApi, HostApiConfig, Login, OpenError, Reach, Taken, opener};
use crate::clock::{Clock, ManualClock};
use crate::crypto::Sensitive;
use crate::network::{CaError, Fault, TlsFault};
use crate::tasks::Tasks;

const SECRET_ID: &str = "secret-id-of-this-role";
const PERIODIC: &str = "s.periodic-token";
const EVENT: &str =
    r#"{"request_id":"x","data":{"event_id":"01E","hash":"abc","seq":7,"receipt":"r1"}}"#;

/// A server that gives the requests these answers, in order, and the last one for ever.
#[derive(Clone)]
struct Server {
    port: u16,
    answers: Arc<Mutex<VecDeque<String>>>,
    seen: Arc<Mutex<Vec<String>>>,
    heard: Arc<Notify>,
}

/// An answer of the given status.
fn answer(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An answer to a login or a renewal.
fn token(token: &str, seconds: u64) -> String {
    answer(
        200,
        &format!(
            r#"{{"data":null,"auth":{{"client_token":"{token}","lease_duration":{seconds},"renewable":false}}}}"#
        ),
    )
}

impl Server {
    fn new(answers: &[String]) -> Self {
        Self {
            port: 0,
            answers: Arc::new(Mutex::new(answers.iter().cloned().collect())),
            seen: Arc::default(),
            heard: Arc::default(),
        }
    }

    async fn plain(answers: &[String]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut server = Self::new(answers);
        server.port = listener.local_addr().unwrap().port();
        let serving = server.clone();
        Tasks::new().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.converse(stream).await;
            }
        });
        server
    }

    async fn tls(acceptor: TlsAcceptor, answers: &[String]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut server = Self::new(answers);
        server.port = listener.local_addr().unwrap().port();
        let serving = server.clone();
        Tasks::new().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serving.converse(stream).await;
                }
            }
        });
        server
    }

    fn unix(path: &std::path::Path, answers: &[String]) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let server = Self::new(answers);
        let serving = server.clone();
        Tasks::new().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.converse(stream).await;
            }
        });
        server
    }

    /// Answers the requests of one connection; an empty answer is none for ever.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = request(&mut stream).await {
            self.seen.lock().unwrap().push(request);
            self.heard.notify_one();
            let answer = {
                let mut answers = self.answers.lock().unwrap();
                let first = answers.pop_front().unwrap();
                if answers.is_empty() {
                    answers.push_back(first.clone());
                }
                first
            };
            if answer.is_empty() {
                let _gone = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
            // The client may rightly be gone already.
            let _gone = stream.write_all(answer.as_bytes()).await;
            let _gone = stream.flush().await;
        }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The first line of every request, without the protocol.
    fn calls(&self) -> Vec<String> {
        let seen = self.seen();
        let first = seen.iter().filter_map(|request| request.lines().next());
        first
            .map(|line| line.trim_end_matches(" HTTP/1.1").to_owned())
            .collect()
    }

    /// The token of every request, `-` without one.
    fn tokens(&self) -> Vec<String> {
        let of = |request: &String| {
            let line = request.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                (name == "x-vault-token").then(|| value.to_owned())
            });
            line.unwrap_or_else(|| "-".to_owned())
        };
        self.seen().iter().map(of).collect()
    }
}

/// Reads one request; `None` if the client is gone.
async fn request<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        match stream.read_line(&mut request).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
    let length = request.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        if name == "content-length" {
            value.parse().ok()
        } else {
            None
        }
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    request.push_str(&String::from_utf8(body).unwrap());
    Some(request)
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::starting_at(
        DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
    ))
}

fn app_role(address: &str) -> HostApiConfig {
    HostApiConfig {
        address: Address::parse(address).unwrap(),
        ca_cert: None,
        tls_server_name: None,
        login: Login::AppRole {
            mount_path: "team1/auth/approle".to_owned(),
            role_id: "role".to_owned(),
            secret_id: Sensitive::new(SECRET_ID.to_owned()),
        },
    }
}

fn periodic(address: &str) -> HostApiConfig {
    HostApiConfig {
        login: Login::Token(Sensitive::new(PERIODIC.to_owned())),
        ..app_role(address)
    }
}

fn open(config: &HostApiConfig, clock: &Arc<ManualClock>) -> Arc<dyn HostApi> {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let reach = Reach::from_env(|name| match name {
        // Whatever directory a test's socket is in.
        "SMTP_AUDIT_SOCKETS" => Some(std::env::temp_dir().display().to_string()),
        "SMTP_AUDIT_ADDRESSES" => Some(String::from("vault.example:8200")),
        _ => None,
    });
    opener(reach)(config, &clock).unwrap()
}

fn taken() -> Result<Taken, Error> {
    Ok(Taken {
        event_id: "01E".to_owned(),
        hash: "abc".to_owned(),
        receipt: "r1".to_owned(),
    })
}

/// Emits one event at a server that answers a login and then this.
async fn emit_at(reply: String) -> Result<Taken, Error> {
    let server = Server::plain(&[token("b.1", 600), reply]).await;
    let config = app_role(&format!("http://127.0.0.1:{}", server.port));
    open(&config, &clock()).emit("smtp/", "acme", 7).await
}

#[tokio::test]
async fn an_event_is_one_login_and_one_call_with_the_secrets_in_their_places_only() {
    let server = Server::plain(&[token("b.1", 600), answer(200, EVENT)]).await;
    let config = app_role(&format!("http://127.0.0.1:{}", server.port));
    let api = open(&config, &clock());
    assert_eq!(api.emit("team1/smtp/", "acme", 7).await, taken());
    let seen = server.seen();
    assert_eq!(
        server.calls(),
        [
            "POST /v1/team1/auth/approle/login",
            "POST /v1/team1/smtp/events/emit/acme/7"
        ]
    );
    assert_eq!(server.tokens(), ["-", "b.1"]);
    assert!(seen[0].ends_with(&format!(
        r#"{{"role_id":"role","secret_id":"{SECRET_ID}"}}"#
    )));
    assert!(seen[1].ends_with("\r\n\r\n{}"));
    assert!(!seen[1].contains(SECRET_ID));
    for request in &seen {
        assert!(
            request.contains("\r\nx-vault-request: true\r\n"),
            "{request}"
        );
        assert!(!request.contains("x-vault-namespace"), "{request}");
    }
    let shown = format!("{api:?} {config:?}");
    assert!(
        !shown.contains(SECRET_ID) && !shown.contains("b.1"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_token_is_used_for_two_thirds_of_its_life() {
    let server = Server::plain(&[
        token("b.1", 600),
        answer(200, EVENT),
        answer(200, EVENT),
        token("b.2", 600),
        answer(200, EVENT),
    ])
    .await;
    let clock = clock();
    let api = open(
        &app_role(&format!("http://127.0.0.1:{}", server.port)),
        &clock,
    );
    assert_eq!(api.emit("smtp/", "acme", 1).await, taken());
    clock.advance(Duration::from_secs(399));
    assert_eq!(api.emit("smtp/", "-", 2).await, taken());
    clock.advance(Duration::from_secs(1));
    assert_eq!(api.emit("smtp/", "acme", 3).await, taken());
    assert_eq!(server.tokens(), ["-", "b.1", "b.1", "-", "b.2"]);
    // The time of day may jump; the age of a token does not.
    clock.jump_to(DateTime::from_timestamp(1_990_000_000, 0).unwrap());
    assert_eq!(api.emit("smtp/", "acme", 4).await, taken());
    assert_eq!(server.tokens().last().unwrap(), "b.2");
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let denied = answer(403, r#"{"errors":["permission denied"]}"#);
    let server = Server::plain(&[
        token("b.1", 600),
        answer(200, EVENT),
        denied.clone(),
        token("b.2", 600),
        answer(200, EVENT),
        denied.clone(),
        token("b.3", 600),
        denied,
    ])
    .await;
    let api = open(
        &app_role(&format!("http://127.0.0.1:{}", server.port)),
        &clock(),
    );
    assert_eq!(api.emit("smtp/", "acme", 1).await, taken());
    assert_eq!(api.emit("smtp/", "acme", 2).await, taken());
    assert_eq!(api.emit("smtp/", "acme", 3).await, Err(Error::Denied));
    assert_eq!(
        server.tokens(),
        ["-", "b.1", "b.1", "-", "b.2", "b.2", "-", "b.3"]
    );
}

#[tokio::test]
async fn a_new_token_that_may_not_is_not_replaced() {
    let server = Server::plain(&[token("b.1", 600), answer(403, "{}")]).await;
    let api = open(
        &app_role(&format!("http://127.0.0.1:{}", server.port)),
        &clock(),
    );
    assert_eq!(api.emit("smtp/", "acme", 1).await, Err(Error::Denied));
    assert_eq!(server.tokens(), ["-", "b.1"]);
}

#[tokio::test]
async fn a_refused_login_is_told_apart_from_a_server_that_fails() {
    for (reply, error) in [
        (
            answer(400, r#"{"errors":["invalid secret id"]}"#),
            Error::LoginRefused,
        ),
        (answer(403, "{}"), Error::LoginRefused),
        (answer(404, "{}"), Error::LoginRefused),
        (answer(503, "{}"), Error::Failing),
        (answer(429, "{}"), Error::Limited { retry_after: None }),
        (answer(200, r#"{"data":{}}"#), Error::Unintelligible),
        (token("", 600), Error::Unintelligible),
    ] {
        let server = Server::plain(&[reply]).await;
        let api = open(
            &app_role(&format!("http://127.0.0.1:{}", server.port)),
            &clock(),
        );
        assert_eq!(api.emit("smtp/", "acme", 1).await, Err(error));
        assert_eq!(server.calls(), ["POST /v1/team1/auth/approle/login"]);
    }
}

#[tokio::test]
async fn an_answer_is_taken_by_its_status_and_its_shape() {
    let rest = |seconds: &str| {
        format!("HTTP/1.1 429 X\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n")
    };
    let limited = |seconds| Error::Limited {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    for (reply, error) in [
        (rest("30"), limited(30)),
        (rest("999999999"), limited(3600)),
        (rest("soon"), Error::Limited { retry_after: None }),
        (answer(400, "{}"), Error::Refused),
        (answer(404, "{}"), Error::Refused),
        (answer(405, "{}"), Error::Refused),
        (answer(403, "{}"), Error::Denied),
        (answer(412, "{}"), Error::Failing),
        (answer(472, "{}"), Error::Failing),
        (answer(473, "{}"), Error::Failing),
        (answer(500, "{}"), Error::Failing),
        (answer(503, "{}"), Error::Failing),
        (answer(200, "<html>"), Error::Unintelligible),
        (
            answer(200, r#"{"data":{"event_id":"x"}}"#),
            Error::Unintelligible,
        ),
        (answer(200, r#"{"data":null}"#), Error::Unintelligible),
        (answer(204, ""), Error::Unintelligible),
    ] {
        assert_eq!(emit_at(reply.clone()).await, Err(error), "{reply}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::plain(&[answer(200, EVENT)]).await;
    for status in [301, 307, 308] {
        let reply = format!(
            "HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:{}/\r\nContent-Length: 0\r\n\r\n",
            target.port
        );
        assert_eq!(emit_at(reply).await, Err(Error::Unintelligible));
    }
    assert!(target.seen().is_empty());
}

#[tokio::test]
async fn an_answer_may_be_larger_than_usual() {
    let room = " ".repeat(100 * 1024);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let chunks = format!("{}{}{}", chunk(&room), chunk(&room), chunk(EVENT));
    for reply in [
        answer(200, &format!("{room}{EVENT}")),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"),
    ] {
        assert_eq!(emit_at(reply).await, taken());
    }
}

/// A server ends a kept connection whenever it likes. Nothing was sent on it then.
#[tokio::test]
async fn a_kept_connection_is_used_again_and_its_end_is_no_failure() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ended, connections) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (telling, counting) = (Arc::clone(&ended), Arc::clone(&connections));
    Tasks::new().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            counting.lock().unwrap().push(0);
            for _ in 0..2 {
                let Some(request) = request(&mut stream).await else {
                    break;
                };
                *counting.lock().unwrap().last_mut().unwrap() += 1;
                let reply = if request.contains("renew-self") {
                    token("same", 3600)
                } else {
                    answer(200, EVENT)
                };
                stream.write_all(reply.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            let _gone = stream.shutdown().await;
            // The client has noticed it when it ends its own side.
            let _gone = stream.read_to_end(&mut Vec::new()).await;
            telling.notify_one();
        }
    });
    let api = open(&periodic(&format!("http://127.0.0.1:{port}")), &clock());
    for _ in 0..3 {
        assert_eq!(api.emit("smtp/", "acme", 1).await, taken());
        if connections.lock().unwrap().last() == Some(&2) {
            ended.notified().await;
        }
    }
    // The renewal and three calls, two on each connection.
    assert_eq!(*connections.lock().unwrap(), [2, 2]);
}

#[tokio::test]
async fn a_huge_answer_is_cut() {
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 262145\r\n\r\n".to_owned(),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            chunk.repeat(5)
        ),
    ] {
        assert_eq!(emit_at(reply).await, Err(Error::Unintelligible));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_ends_after_forty_five_seconds() {
    for reply in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"data\":",
    ] {
        let server = Server::plain(&[token("b.1", 600), reply.to_owned()]).await;
        let api = open(
            &app_role(&format!("http://127.0.0.1:{}", server.port)),
            &clock(),
        );
        let ended = AtomicBool::new(false);
        let hang = async {
            // The login first, then the call; from then on time passes only here.
            server.heard.notified().await;
            while server.seen().len() < 2 {
                server.heard.notified().await;
            }
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(40)).await;
            // A hanging device beside a good one costs a server 20 seconds.
            assert!(!ended.load(Ordering::SeqCst), "it waits longer");
            tokio::time::advance(Duration::from_secs(5)).await;
        };
        let emit = async {
            let answer = api.emit("smtp/", "acme", 1).await;
            ended.store(true, Ordering::SeqCst);
            answer
        };
        let (answer, ()) = tokio::join!(emit, hang);
        tokio::time::resume();
        assert_eq!(answer, Err(Error::Unreachable(Fault::Timeout)));
    }
}

#[tokio::test]
async fn nothing_is_sent_where_no_connection_stands() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let config = app_role(&format!("http://127.0.0.1:{port}"));
    let ended = open(&config, &clock()).emit("smtp/", "acme", 1).await;
    assert_eq!(ended, Err(Error::Unreachable(Fault::Unreachable)));
}

#[tokio::test]
async fn a_periodic_token_is_renewed_after_each_third_of_its_life() {
    let server = Server::plain(&[
        token(PERIODIC, 900),
        answer(200, EVENT),
        answer(200, EVENT),
        token(PERIODIC, 900),
        answer(200, EVENT),
    ])
    .await;
    let clock = clock();
    let api = open(
        &periodic(&format!("http://127.0.0.1:{}", server.port)),
        &clock,
    );
    assert_eq!(api.emit("smtp/", "acme", 1).await, taken());
    clock.advance(Duration::from_secs(299));
    assert_eq!(api.emit("smtp/", "acme", 2).await, taken());
    clock.advance(Duration::from_secs(1));
    assert_eq!(api.emit("smtp/", "acme", 3).await, taken());
    let renewal = "POST /v1/auth/token/renew-self".to_owned();
    let calls = server.calls();
    assert_eq!(calls.len(), 5);
    assert_eq!((&calls[0], &calls[3]), (&renewal, &renewal));
    assert!(server.tokens().iter().all(|token| token == PERIODIC));
}

#[tokio::test]
async fn a_token_that_is_not_renewed_is_used_all_the_same() {
    for refusal in [
        answer(403, "{}"),
        answer(400, r#"{"errors":["lease is not renewable"]}"#),
    ] {
        let server = Server::plain(&[
            refusal.clone(),
            answer(200, EVENT),
            answer(200, EVENT),
            refusal,
            answer(403, "{}"),
        ])
        .await;
        let clock = clock();
        let api = open(
            &periodic(&format!("http://127.0.0.1:{}", server.port)),
            &clock,
        );
        assert_eq!(api.emit("smtp/", "acme", 1).await, taken());
        clock.advance(Duration::from_secs(599));
        assert_eq!(api.emit("smtp/", "acme", 2).await, taken());
        // A policy may have been mended meanwhile, so it is asked again, later.
        clock.advance(Duration::from_secs(1));
        assert_eq!(api.emit("smtp/", "acme", 3).await, Err(Error::Denied));
        assert_eq!(server.seen().len(), 5);
    }
}

#[tokio::test]
async fn a_server_that_fails_to_renew_is_asked_again_by_the_next_call() {
    let server = Server::plain(&[answer(503, "{}"), token(PERIODIC, 0), answer(200, EVENT)]).await;
    let clock = clock();
    let api = open(
        &periodic(&format!("http://127.0.0.1:{}", server.port)),
        &clock,
    );
    assert_eq!(api.emit("smtp/", "acme", 1).await, Err(Error::Failing));
    assert_eq!(api.emit("smtp/", "acme", 1).await, taken());
    // Without an end there is nothing to renew.
    clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(api.emit("smtp/", "acme", 2).await, taken());
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn the_exempt_keys_are_asked_for_where_the_emitters_policy_is_enough() {
    let info = r#"{"data":{"path":"smtp/","config":{"audit_non_hmac_response_keys":["event"]}}}"#;
    let bare = r#"{"data":{"path":"smtp/","config":{"default_lease_ttl":0}}}"#;
    for (reply, keys) in [
        (answer(200, info), Ok(Some(vec!["event".to_owned()]))),
        (answer(200, bare), Ok(Some(Vec::new()))),
        (answer(403, "{}"), Ok(None)),
        (answer(404, "{}"), Ok(None)),
        (answer(200, r#"{"data":{}}"#), Err(Error::Unintelligible)),
        (answer(500, "{}"), Err(Error::Failing)),
    ] {
        let server = Server::plain(&[token("b.1", 600), reply]).await;
        let api = open(
            &app_role(&format!("http://127.0.0.1:{}", server.port)),
            &clock(),
        );
        assert_eq!(api.exempt_keys("team1/smtp/").await, keys);
        assert_eq!(
            server.calls()[1],
            "GET /v1/sys/internal/ui/mounts/team1/smtp"
        );
    }
}

#[tokio::test]
async fn no_name_leaves_its_place_in_the_path() {
    let server = Server::plain(&[token("b.1", 600), answer(200, EVENT)]).await;
    let api = open(
        &app_role(&format!("http://127.0.0.1:{}", server.port)),
        &clock(),
    );
    for (mount_point, tenant) in [
        ("../sys/", "acme"),
        ("a/../b/", "acme"),
        ("a/./b/", "acme"),
        ("a//b/", "acme"),
        ("", "acme"),
        ("/", "acme"),
        ("smtp/", ""),
        ("smtp/", ".."),
        ("smtp/", "a/b"),
        ("smtp/", "Acme"),
        ("smtp/", "a%2fb"),
    ] {
        let ended = api.emit(mount_point, tenant, 1).await;
        assert_eq!(ended, Err(Error::Refused), "{mount_point} {tenant}");
    }
    let asked = server.seen().len();
    assert!(server.calls().iter().all(|call| call.ends_with("/login")));
    assert_eq!(api.emit("a b/ä?#%2e%2e/", "acme", 1).await, taken());
    assert_eq!(
        server.calls()[asked],
        "POST /v1/a%20b/%C3%A4%3F%23%252e%252e/events/emit/acme/1"
    );
}

#[tokio::test]
async fn a_token_that_cannot_stand_in_a_header_is_not_sent() {
    let server = Server::plain(&[token("b.1\\r\\nX: y", 600), answer(200, EVENT)]).await;
    let api = open(
        &app_role(&format!("http://127.0.0.1:{}", server.port)),
        &clock(),
    );
    assert_eq!(api.emit("smtp/", "acme", 1).await, Err(Error::Denied));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let server = Server::unix(&path, &[token("b.1", 600), answer(200, EVENT)]);
    let mut config = app_role(&format!("unix://{}", path.display()));
    config.tls_server_name = Some("vault.example".to_owned());
    let api = open(&config, &clock());
    assert_eq!(api.emit("smtp/", "acme", 7).await, taken());
    assert_eq!(server.tokens(), ["-", "b.1"]);
    let shown = format!("{api:?}");
    assert!(!shown.contains("b.1"), "{shown}");

    let gone = app_role(&format!("unix://{}", folder.path().join("none").display()));
    let ended = open(&gone, &clock()).emit("smtp/", "acme", 7).await;
    assert_eq!(ended, Err(Error::Unreachable(Fault::Unreachable)));
}

/// A private CA.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn only_the_right_certificate_is_accepted() {
    let authority = Authority::new();
    let other = Authority::new();
    let tls = |why| Err(Error::Unreachable(Fault::Tls(why)));
    for (certificate, host, ca, name, ended) in [
        ("localhost", "localhost", Some(&authority), None, taken()),
        ("127.0.0.1", "127.0.0.1", Some(&authority), None, taken()),
        (
            "vault.example",
            "127.0.0.1",
            Some(&authority),
            Some("vault.example"),
            taken(),
        ),
        (
            "vault.example",
            "localhost",
            Some(&authority),
            Some("vault.example"),
            taken(),
        ),
        (
            "vault.example",
            "127.0.0.1",
            Some(&authority),
            None,
            tls(TlsFault::OtherName),
        ),
        (
            "127.0.0.1",
            "127.0.0.1",
            Some(&authority),
            Some("vault.example"),
            tls(TlsFault::OtherName),
        ),
        (
            "127.0.0.1",
            "127.0.0.1",
            Some(&other),
            None,
            tls(TlsFault::Signature),
        ),
        (
            "127.0.0.1",
            "127.0.0.1",
            None,
            None,
            tls(TlsFault::UnknownIssuer),
        ),
    ] {
        let acceptor = authority.server(certificate);
        let server = Server::tls(acceptor, &[token("b.1", 600), answer(200, EVENT)]).await;
        let mut config = app_role(&format!("https://{host}:{}", server.port));
        config.ca_cert = ca.map(|authority| authority.pem.clone());
        config.tls_server_name = name.map(str::to_owned);
        let found = open(&config, &clock()).emit("smtp/", "acme", 1).await;
        assert_eq!(found, ended, "{certificate} {host} {name:?}");
        let sent = if ended.is_ok() { 2 } else { 0 };
        assert_eq!(server.seen().len(), sent, "nothing before the certificate");
    }
}

#[test]
fn what_cannot_be_used_makes_no_client() {
    let clock: Arc<dyn Clock> = clock();
    let mut config = app_role("https://vault.example:8200");
    config.ca_cert = Some("no certificate".to_owned());
    let reach = Reach::from_env(|_name| Some(String::from("vault.example:8200")));
    let opener = opener(reach);
    let opened = opener(&config, &clock).err();
    assert_eq!(opened, Some(OpenError::Ca(CaError::Malformed)));
    config.ca_cert = None;
    config.tls_server_name = Some("10.0.0.1".to_owned());
    let opened = opener(&config, &clock).err();
    assert!(matches!(opened, Some(OpenError::ServerName(_))));
    // What nobody named is not even looked at. The entry is no directory of sockets.
    for address in [
        "https://vault.example",
        "https://10.0.0.5:8200",
        "unix:///run/a",
    ] {
        let opened = opener(&app_role(address), &clock).err();
        assert_eq!(
            opened,
            Some(OpenError::OutOfReach { unusable: 1 }),
            "{address}"
        );
    }
}
