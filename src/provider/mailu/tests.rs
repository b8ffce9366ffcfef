//! The client against sockets that answer, misbehave or are not who they should be.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::MailuClient;
use super::login::SmtpLogin;
use crate::crypto::Sensitive;
use crate::network::tls::client_config;
use crate::provider::{
    AddressRefusal, AppTokenId, ConnectError, EmailAddress, EndpointUrl, Fault, Login, LoginFault,
    MailProvider, MailuConfig, NetworkPolicy, ReadError, Refusal, Sent, ServerVersion, SmtpAddress,
    SmtpReply, SmtpStage, TlsFault, Trouble,
};
use crate::tasks::Tasks;

const PASSWORD: &str = "pass\"word-ä";
const TOKEN: &str = "token-of-this-server";
const DONE: &str = r#"{"code":200,"message":"User admin+x@acme.example has been updated"}"#;

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

    fn server(&self, name: &str, expired: bool) -> TlsAcceptor {
        let year = if expired { 2020 } else { 4096 };
        self.server_until(name, year)
    }

    /// A certificate that ends as that year begins.
    fn server_until(&self, name: &str, year: i32) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
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

/// What a server does with a request.
#[derive(Clone)]
enum Reply {
    /// Writes this and closes.
    Write(String),
    /// Writes this and then nothing, until the client goes.
    Hold(String),
}

fn answer(status: &str, media: &str, body: &str) -> Reply {
    Reply::Write(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn json(status: &str, body: &str) -> Reply {
    answer(status, "application/json", body)
}

/// A server that gives every request the same reply and keeps what it received.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>, reply: Reply) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        Tasks::new().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            converse(stream, &reply, &kept).await;
                        }
                    }
                    None => converse(stream, &reply, &kept).await,
                }
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    reply: &Reply,
    seen: &Mutex<Vec<String>>,
) {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        match stream.read_line(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let length: usize = request
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    request.push_str(&String::from_utf8(body).unwrap());
    seen.lock().unwrap().push(request);
    let (Reply::Write(text) | Reply::Hold(text)) = reply;
    // The client may rightly be gone already.
    let _gone = stream.write_all(text.as_bytes()).await;
    let _gone = stream.flush().await;
    if matches!(reply, Reply::Hold(_)) {
        let _gone = stream.read_to_end(&mut Vec::new()).await;
    }
    let _gone = stream.shutdown().await;
}

fn policy() -> NetworkPolicy {
    NetworkPolicy {
        dev_loopback: true,
        ..NetworkPolicy::default()
    }
}

fn config(url: &str) -> MailuConfig {
    MailuConfig {
        url: EndpointUrl::parse(url, &policy()).unwrap(),
        ca_cert: None,
        tls_server_name: None,
        smtp_address: None,
        api_token: Sensitive::new(TOKEN.to_owned()),
        request_timeout: Duration::from_secs(20),
    }
}

fn client(config: &MailuConfig) -> MailuClient {
    MailuClient::new(config, &policy()).unwrap()
}

fn address() -> EmailAddress {
    EmailAddress::parse("admin+x@acme.example").unwrap()
}

async fn change(client: &MailuClient) -> Sent {
    let password = Sensitive::new(PASSWORD.to_owned());
    client
        .set_password(&address(), &password, Some("note"))
        .await
}

/// Changes a password at a plain server with this reply.
async fn change_at(reply: Reply) -> Sent {
    let server = Server::start(None, reply).await;
    change(&client(&config(&format!(
        "http://127.0.0.1:{}",
        server.port
    ))))
    .await
}

#[tokio::test]
async fn a_change_is_one_request_with_the_secrets_in_their_places_only() {
    let authority = Authority::new();
    let server = Server::start(
        Some(authority.server("localhost", false)),
        json("200 OK", DONE),
    )
    .await;
    let mut config = config(&format!("https://localhost:{}", server.port));
    config.ca_cert = Some(authority.pem);
    let client = client(&config);
    assert_eq!(change(&client).await, Sent::Acknowledged);
    let seen = server.seen();
    let [request] = seen.as_slice() else {
        panic!("one request, not {}", seen.len());
    };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("PATCH /api/v1/user/admin+x@acme.example HTTP/1.1\r\n"),
        "{head}"
    );
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains(&format!("\r\nauthorization: bearer {TOKEN}\r\n"))
            || head.ends_with(&format!("\r\nauthorization: bearer {TOKEN}"))
    );
    assert!(head.contains("\r\ncontent-type: application/json"));
    assert!(head.contains(&format!("\r\nhost: localhost:{}", server.port)));
    assert!(!head.contains("cookie") && !head.contains("referer"));
    assert_eq!(
        body,
        "{\"raw_password\":\"pass\\\"word-ä\",\"comment\":\"note\"}"
    );
    let shown = format!("{client:?} {config:?}");
    assert!(!shown.contains(TOKEN), "{shown}");
}

/// What a name may have and a path may not is written so that the server finds the same name.
#[tokio::test]
async fn a_name_with_characters_of_a_url_stays_one_segment_of_the_path() {
    for (name, segment) in [
        ("o'brien", "o%27brien"),
        ("a%b", "a%25b"),
        ("a%2Fb", "a%252Fb"),
        ("r&d", "r%26d"),
        ("a#b?c=d", "a%23b%3Fc%3Dd"),
        ("J.D_e-f+g~", "J.D_e-f+g~"),
    ] {
        let server = Server::start(None, json("200 OK", DONE)).await;
        let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
        let account = EmailAddress::parse(&format!("{name}@acme.example")).unwrap();
        let password = Sensitive::new("p".to_owned());
        client.set_password(&account, &password, None).await;
        let head = format!("PATCH /api/v1/user/{segment}@acme.example HTTP/1.1\r\n");
        assert!(server.seen()[0].starts_with(&head), "{}", server.seen()[0]);
    }
}

#[tokio::test]
async fn a_creation_makes_an_enabled_administrator() {
    let server = Server::start(
        None,
        json(
            "404 NOT FOUND",
            r#"{"code":404,"message":"Domain acme.example does not exist"}"#,
        ),
    )
    .await;
    let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
    let password = Sensitive::new("p".to_owned());
    assert_eq!(
        client.create_account(&address(), &password, None).await,
        Sent::Refused(Refusal::NoSuchDomain)
    );
    let seen = server.seen();
    assert!(seen[0].starts_with("POST /api/v1/user HTTP/1.1\r\n"));
    assert!(seen[0].ends_with(
        r#"{"email":"admin+x@acme.example","raw_password":"p","global_admin":true,"enabled":true}"#
    ));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::start(None, json("200 OK", DONE)).await;
    for status in [
        "301 Moved Permanently",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let reply = Reply::Write(format!(
            "HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:{}/\r\nContent-Length: 0\r\n\r\n",
            target.port
        ));
        assert_eq!(change_at(reply).await, Sent::Unknown(Trouble::Redirect));
    }
    assert!(target.seen().is_empty());
}

#[tokio::test]
async fn answers_are_taken_by_mailus_words_not_by_status() {
    for (reply, outcome) in [
        (
            answer("502 Bad Gateway", "text/html", "<html>"),
            Sent::Unknown(Trouble::ServerError),
        ),
        (
            json("200 OK", r#"{"code":400,"message":"Invalid"}"#),
            Sent::Unknown(Trouble::Unintelligible),
        ),
        (
            json("400 BAD REQUEST", r#"{"code":400,"message":"Invalid"}"#),
            Sent::Unknown(Trouble::Unintelligible),
        ),
        (
            json(
                "404 NOT FOUND",
                r#"{"code":404,"message":"User admin+x@acme.example cannot be found"}"#,
            ),
            Sent::Refused(Refusal::NoSuchAccount),
        ),
        (json("200 OK", "[]"), Sent::Unknown(Trouble::Unintelligible)),
        (
            answer("200 OK", "text/html", "<html>login</html>"),
            Sent::Unknown(Trouble::Unintelligible),
        ),
        (
            answer("404 Not Found", "text/html", "<html>"),
            Sent::Unknown(Trouble::NoApi),
        ),
        (
            answer("403 Forbidden", "text/html", "<html>"),
            Sent::Unknown(Trouble::Denied { status: 403 }),
        ),
        (
            // What costs a try counts, whatever its body is like.
            Reply::Write("HTTP/1.1 401 No\r\nContent-Length: 999999999\r\n\r\n".to_owned()),
            Sent::Unknown(Trouble::Denied { status: 401 }),
        ),
        (
            json("403 Forbidden", r#"{"message":"Invalid API token"}"#),
            Sent::Refused(Refusal::Token),
        ),
        (
            json(
                "429 TOO MANY REQUESTS",
                r#"{"message":"Too many attempts from your IP (rate-limit)"}"#,
            ),
            Sent::Refused(Refusal::RateLimited),
        ),
        (
            Reply::Write(
                "HTTP/1.1 429 Too Many\r\nRetry-After: 2\r\nContent-Length: 99999999\r\n\r\n"
                    .to_owned(),
            ),
            Sent::Unknown(Trouble::Busy {
                retry_after: Some(2),
            }),
        ),
    ] {
        assert_eq!(change_at(reply).await, outcome);
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let announced =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 262145\r\n\r\n";
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let unannounced = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(5)
    );
    for text in [announced.to_owned(), unannounced] {
        assert_eq!(
            change_at(Reply::Hold(text)).await,
            Sent::Unknown(Trouble::TooLarge)
        );
    }
}

#[tokio::test]
async fn a_broken_answer_leaves_the_outcome_unknown() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{\"code\":200",
    ] {
        assert_eq!(
            change_at(Reply::Write(text.to_owned())).await,
            Sent::Unknown(Trouble::Broken)
        );
    }
}

#[tokio::test]
async fn the_time_covers_the_body_too() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{\"code\":200",
    ] {
        let server = Server::start(None, Reply::Hold(text.to_owned())).await;
        let mut config = config(&format!("http://127.0.0.1:{}", server.port));
        config.request_timeout = Duration::from_secs(1);
        let outcome = change(&client(&config)).await;
        assert_eq!(outcome, Sent::Unknown(Trouble::Timeout));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_sent_where_no_connection_stands() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let outcome = change(&client(&config(&format!("http://127.0.0.1:{port}")))).await;
    assert_eq!(outcome, Sent::Unknown(Trouble::Unreachable));

    // Accepts, by its backlog, and never speaks TLS.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let mut config = config(&format!("https://127.0.0.1:{port}"));
    config.request_timeout = Duration::from_secs(1);
    let outcome = change(&client(&config)).await;
    assert_eq!(outcome, Sent::Unknown(Trouble::Unreachable));
}

#[tokio::test]
async fn only_the_right_certificate_is_accepted() {
    let authority = Authority::new();
    let other = Authority::new();
    let tls = |why| Sent::Unknown(Trouble::Tls(why));
    let (acknowledged, other_name) = (&Sent::Acknowledged, &tls(TlsFault::OtherName));
    let (unknown, expired) = (&tls(TlsFault::UnknownIssuer), &tls(TlsFault::Expired));
    let namesake = &tls(TlsFault::Signature);
    let own = Some(&authority.pem);
    let acme = Some("mail.acme.example");
    for (name, expired, ca, server_name, outcome) in [
        ("localhost", false, own, None, acknowledged),
        ("localhost", false, None, None, unknown),
        ("localhost", false, Some(&other.pem), None, namesake),
        ("localhost", true, own, None, expired),
        ("mail.acme.example", false, own, None, other_name),
        ("mail.acme.example", false, own, acme, acknowledged),
        ("localhost", false, own, acme, other_name),
    ] {
        let acceptor = authority.server(name, expired);
        let server = Server::start(Some(acceptor), json("200 OK", DONE)).await;
        let mut config = config(&format!("https://localhost:{}", server.port));
        config.ca_cert = ca.cloned();
        config.tls_server_name = server_name.map(str::to_owned);
        let case = format!("{name} {expired} {server_name:?}");
        assert_eq!(&change(&client(&config)).await, outcome, "{case}");
        let seen = server.seen();
        if *outcome != Sent::Acknowledged {
            assert!(seen.is_empty(), "{case}");
        } else {
            // The server is asked for by its own name, whatever its certificate says.
            let host = format!("\r\nhost: localhost:{}\r\n", server.port);
            assert!(seen[0].to_ascii_lowercase().contains(&host), "{case}");
        }
    }
}

#[tokio::test]
async fn the_end_of_the_certificate_is_known_after_an_answer() {
    let authority = Authority::new();
    for status in ["200 OK", "401 Unauthorized"] {
        let acceptor = authority.server_until("localhost", 2048);
        let server = Server::start(Some(acceptor), json(status, DONE)).await;
        let mut config = config(&format!("https://localhost:{}", server.port));
        config.ca_cert = Some(authority.pem.clone());
        let client = client(&config);
        assert_eq!(client.certificate_expires_at(), None, "nothing was asked");
        change(&client).await;
        let end = client.certificate_expires_at().unwrap();
        assert_eq!(end.to_rfc3339(), "2048-01-01T00:00:00+00:00", "{status}");
    }
    let plain = Server::start(None, json("200 OK", DONE)).await;
    let client = client(&config(&format!("http://localhost:{}", plain.port)));
    assert_eq!(change(&client).await, Sent::Acknowledged);
    assert_eq!(client.certificate_expires_at(), None, "there is none");
}

#[tokio::test]
async fn an_address_is_verified_and_can_carry_a_name() {
    let authority = Authority::new();
    for (name, server_name) in [("127.0.0.1", None), ("m.example", Some("m.example"))] {
        let acceptor = authority.server(name, false);
        let server = Server::start(Some(acceptor), json("200 OK", DONE)).await;
        let mut config = config(&format!("https://127.0.0.1:{}", server.port));
        config.ca_cert = Some(authority.pem.clone());
        config.tls_server_name = server_name.map(str::to_owned);
        assert_eq!(change(&client(&config)).await, Sent::Acknowledged, "{name}");
    }
}

#[test]
fn a_forbidden_configuration_makes_no_client() {
    let strict = NetworkPolicy::default();
    let refused = |config: &MailuConfig| MailuClient::new(config, &strict).unwrap_err();
    assert_eq!(
        refused(&config("https://127.0.0.1")),
        ConnectError::Address(AddressRefusal::Never)
    );
    assert_eq!(
        refused(&config("https://localhost")),
        ConnectError::Address(AddressRefusal::Never)
    );
    assert_eq!(
        refused(&config("http://127.0.0.1")),
        ConnectError::PlainHttp
    );
    let mut smtp = config("https://mail.acme.example");
    smtp.smtp_address = Some(SmtpAddress::parse("10.0.0.1:465").unwrap());
    assert_eq!(
        refused(&smtp),
        ConnectError::Address(AddressRefusal::Private)
    );
    let mut named = config("https://mail.acme.example");
    named.tls_server_name = Some("127.0.0.1".to_owned());
    assert!(matches!(refused(&named), ConnectError::ServerName(_)));
}

#[tokio::test]
async fn reads_tell_absence_from_trouble() {
    let html = || answer("404 NOT FOUND", "text/html; charset=utf-8", "<html>");
    let gone = || {
        json(
            "404 NOT FOUND",
            r#"{"code":404,"message":"User admin+x@acme.example cannot be found"}"#,
        )
    };
    let at = async |reply| {
        let server = Server::start(None, reply).await;
        let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
        (client, server)
    };
    let (client, _server) = at(gone()).await;
    assert!(matches!(client.account(&address()).await, Ok(None)));
    assert_eq!(
        client.app_tokens(&address()).await,
        Err(ReadError::Refused(Refusal::NoSuchAccount))
    );
    let (client, _server) = at(json("200 OK", r#"{"code":404,"message":"x"}"#)).await;
    assert_eq!(
        client.account(&address()).await.unwrap_err(),
        ReadError::Trouble(Trouble::Unintelligible)
    );
    let (client, _server) = at(html()).await;
    assert_eq!(
        client.account(&address()).await.unwrap_err(),
        ReadError::Trouble(Trouble::NoApi)
    );
    // Any front may answer this: nothing says that the server has no tokens.
    assert_eq!(
        client.app_tokens(&address()).await,
        Err(ReadError::Trouble(Trouble::Unintelligible))
    );
    assert_eq!(client.server_version().await, ServerVersion::Unknown);
    let (client, server) = at(json(
        "200 OK",
        r#"{"email":"ADMIN+x@acme.example","password":"$h"}"#,
    ))
    .await;
    let account = client.account(&address()).await.unwrap().unwrap();
    assert!(account.hash.is_some());
    assert_eq!(
        client.app_tokens(&address()).await,
        Err(ReadError::Trouble(Trouble::Unintelligible))
    );
    assert!(server.seen()[1].starts_with("GET /api/v1/tokenuser/admin+x@acme.example?_="));
    let (client, server) = at(json("200 OK", r#"{"paths":{"/token":{}}}"#)).await;
    assert_eq!(client.server_version().await, ServerVersion::Mailu2024);
    let asked = server.seen()[0].to_ascii_lowercase();
    assert!(asked.starts_with("get /api/v1/swagger.json?_="));
    assert!(!asked.contains("authorization"), "{asked}");
}

/// What a cache kept of the line before an upgrade says of app tokens that there are none.
#[tokio::test]
async fn a_release_line_is_not_believed_from_a_cache() {
    let shown = r#"{"paths":{"/user/{email}":{}}}"#;
    for (age, found) in [("0", ServerVersion::Mailu20), ("9", ServerVersion::Unknown)] {
        let reply = Reply::Write(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAge: {age}\r\n\
             Content-Length: {}\r\n\r\n{shown}",
            shown.len()
        ));
        let server = Server::start(None, reply).await;
        let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
        assert_eq!(client.server_version().await, found, "{age}");
    }
}

#[tokio::test]
async fn a_look_is_never_believed_from_a_cache() {
    let shown = r#"{"email":"admin+x@acme.example","password":"$h"}"#;
    for (age, is_cached) in [
        ("0", false),
        ("1", true),
        ("99999999999", true),
        ("x", true),
        ("0, 7", true),
    ] {
        let reply = Reply::Write(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAge: {age}\r\n\
             Content-Length: {}\r\n\r\n{shown}",
            shown.len()
        ));
        let server = Server::start(None, reply).await;
        let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
        for _ in 0..2 {
            let seen = client.account(&address()).await;
            match seen {
                Err(ReadError::Trouble(Trouble::Cached)) => assert!(is_cached, "{age}"),
                seen => assert!(seen.is_ok_and(|it| it.is_some()) && !is_cached, "{age}"),
            }
        }
        // A cache that ignores what it is asked has no answer to a question never asked before.
        let asked = server.seen();
        assert_ne!(asked[0].lines().next(), asked[1].lines().next());
        assert!(
            asked[0]
                .to_ascii_lowercase()
                .contains("\r\ncache-control: no-cache\r\n")
        );
    }
}

#[tokio::test]
async fn an_app_token_is_deleted_once_and_gone_is_an_outcome() {
    let token = AppTokenId::parse("17").unwrap();
    for (reply, sent) in [
        (
            json(
                "200 OK",
                r#"{"code":200,"message":"Token with id 17 has been deleted"}"#,
            ),
            Sent::Acknowledged,
        ),
        (json("200 OK", DONE), Sent::Unknown(Trouble::Unintelligible)),
        (
            json(
                "404 NOT FOUND",
                r#"{"code":404,"message":"Record cannot be found for id 17 or invalid id provided"}"#,
            ),
            Sent::Refused(Refusal::NoSuchAppToken),
        ),
        (
            json("403 FORBIDDEN", r#"{"message":"Invalid API token"}"#),
            Sent::Refused(Refusal::Token),
        ),
        (json("200 OK", "[]"), Sent::Unknown(Trouble::Unintelligible)),
    ] {
        let server = Server::start(None, reply).await;
        let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
        assert_eq!(client.delete_app_token(&token).await, sent);
        let seen = server.seen();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].starts_with("DELETE /api/v1/token/17 "), "{seen:?}");
    }
}

#[tokio::test]
async fn whether_anybody_edits_app_tokens_is_told_by_mailus_own_words_only() {
    let gone = r#"{"code":404,"message":"Record cannot be found for id 0 or invalid id provided"}"#;
    let header = r#"{"message":"A valid Authorization header is mandatory"}"#;
    for (reply, open) in [
        (json("404 NOT FOUND", gone), Some(true)),
        (json("401 UNAUTHORIZED", header), Some(false)),
        // A release without tokens, and what fronts say.
        (answer("404 NOT FOUND", "text/html", "<html>"), None),
        (answer("401 UNAUTHORIZED", "text/html", "<html>"), None),
        (json("401 UNAUTHORIZED", r#"{"message":"x"}"#), None),
        (
            json("403 FORBIDDEN", r#"{"message":"Invalid API token"}"#),
            None,
        ),
        (json("404 NOT FOUND", r#"{"code":404,"message":"x"}"#), None),
        (json("200 OK", "[]"), None),
        (answer("502 BAD GATEWAY", "text/html", ""), None),
    ] {
        let server = Server::start(None, reply).await;
        let client = client(&config(&format!("http://127.0.0.1:{}", server.port)));
        assert_eq!(client.app_tokens_are_open().await, open);
        let seen = server.seen();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].starts_with("PATCH /api/v1/token/0 "), "{seen:?}");
        assert!(
            !seen[0].to_lowercase().contains("authorization"),
            "{seen:?}"
        );
        assert!(seen[0].ends_with("\r\n\r\n{}"), "{seen:?}");
    }
}

/// A submission service with STARTTLS, or without, that gives every AUTH the same reply.
async fn submission(
    acceptor: Option<TlsAcceptor>,
    verdict: &'static str,
) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    Tasks::new().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that breaks off ends the conversation, not the service.
            let _ended = submit(stream, acceptor.as_ref(), verdict, &kept).await;
        }
    });
    (port, seen)
}

async fn submit(
    mut stream: TcpStream,
    acceptor: Option<&TlsAcceptor>,
    verdict: &str,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    stream.write_all(b"220 mail.acme.example\r\n").await?;
    let Some(acceptor) = acceptor else {
        return commands(stream, "250-x\r\n250 AUTH PLAIN\r\n", verdict, seen).await;
    };
    let mut plain = BufReader::new(stream);
    let mut line = String::new();
    plain.read_line(&mut line).await?;
    plain.write_all(b"250-x\r\n250 STARTTLS\r\n").await?;
    line.clear();
    plain.read_line(&mut line).await?;
    plain.write_all(b"220 go\r\n").await?;
    let secure = acceptor.accept(plain.into_inner()).await?;
    commands(secure, "250-x\r\n250 AUTH PLAIN LOGIN\r\n", verdict, seen).await
}

async fn commands<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    features: &str,
    verdict: &str,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply = match line.split_whitespace().next() {
            Some("EHLO") => features,
            Some("AUTH") => verdict,
            _ => "221 bye\r\n",
        };
        seen.lock().unwrap().push(line);
        stream.write_all(reply.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// A definite no to something that is not the password.
fn no(stage: SmtpStage, code: u16) -> Login {
    Login::Failed(LoginFault::Said(SmtpReply { stage, code }))
}

#[tokio::test]
async fn a_login_counts_only_what_it_can_tell() {
    let authority = Authority::new();
    let broken = Login::Failed(LoginFault::Unreachable(Fault::Broken));
    for (verdict, outcome) in [
        ("235 2.7.0 Logged in.\r\n", Login::Accepted),
        ("535 5.7.8 Authentication failed.\r\n", Login::Refused),
        (
            "454 4.7.0 Temporary failure.\r\n",
            no(SmtpStage::Login, 454),
        ),
        ("500 5.5.2 Line too long\r\n", no(SmtpStage::Login, 500)),
        ("250 whatever\r\n", broken),
    ] {
        let acceptor = authority.server("mail.acme.example", false);
        let (port, seen) = submission(Some(acceptor), verdict).await;
        let mut config = config("https://mail.acme.example");
        config.ca_cert = Some(authority.pem.clone());
        config.tls_server_name = Some("mail.acme.example".to_owned());
        config.smtp_address = Some(SmtpAddress::parse(&format!("127.0.0.1:{port}")).unwrap());
        let password = Sensitive::new("p".to_owned());
        let login = client(&config).login(&address(), &password).await;
        assert_eq!(login, outcome, "{verdict}");
        let tries = seen
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with("AUTH PLAIN "))
            .count();
        assert_eq!(tries, 1);
    }
}

#[tokio::test]
async fn a_password_is_not_offered_without_verified_tls() {
    let authority = Authority::new();
    let wrong = authority.server("other.example", false);
    let tls = Fault::Tls(TlsFault::OtherName);
    for (acceptor, why) in [
        (None, LoginFault::NotOffered),
        (Some(wrong), LoginFault::Unreachable(tls)),
    ] {
        let (port, seen) = submission(acceptor, "235 in\r\n").await;
        let mut config = config("https://mail.acme.example");
        config.ca_cert = Some(authority.pem.clone());
        config.smtp_address = Some(SmtpAddress::parse(&format!("127.0.0.1:{port}")).unwrap());
        let password = Sensitive::new("p".to_owned());
        let login = client(&config).login(&address(), &password).await;
        assert_eq!(login, Login::Failed(why));
        let seen = seen.lock().unwrap();
        assert!(
            !seen.iter().any(|line| line.starts_with("AUTH")),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_login_obeys_the_address_rules() {
    let mut config = config("https://mail.acme.example");
    let password = Sensitive::new("p".to_owned());
    assert_eq!(
        client(&config).login(&address(), &password).await,
        Login::CannotTell
    );
    let (port, seen) = submission(None, "235 in\r\n").await;
    config.smtp_address = Some(SmtpAddress::parse(&format!("localhost:{port}")).unwrap());
    let mut strict = policy();
    strict.refused = vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
    ];
    let client = MailuClient::new(&config, &strict).unwrap();
    let refused = LoginFault::Unreachable(Fault::AddressRefused);
    assert_eq!(
        client.login(&address(), &password).await,
        Login::Failed(refused)
    );
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_sent_ahead_of_the_handshake_is_not_believed() {
    let authority = Authority::new();
    let acceptor = authority.server("mail.acme.example", false);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Tasks::new().spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 x\r\n").await.unwrap();
        let mut plain = BufReader::new(stream);
        let mut line = String::new();
        plain.read_line(&mut line).await.unwrap();
        let offer = b"250-x\r\n250 STARTTLS\r\n";
        plain.write_all(offer).await.unwrap();
        plain.read_line(&mut line).await.unwrap();
        let forged = b"220 go\r\n250-x\r\n250 AUTH PLAIN\r\n235 forged\r\n";
        plain.write_all(forged).await.unwrap();
        let secure = acceptor.accept(plain.into_inner()).await.unwrap();
        let unused = Mutex::default();
        let _ended = commands(secure, "250 AUTH PLAIN\r\n", "535 no\r\n", &unused).await;
    });
    let mut config = config("https://mail.acme.example");
    config.ca_cert = Some(authority.pem);
    config.tls_server_name = Some("mail.acme.example".to_owned());
    config.smtp_address = Some(SmtpAddress::parse(&format!("127.0.0.1:{port}")).unwrap());
    let password = Sensitive::new("p".to_owned());
    let login = client(&config).login(&address(), &password).await;
    let broken = LoginFault::Unreachable(Fault::Broken);
    assert_eq!(login, Login::Failed(broken));
}

#[tokio::test]
async fn a_login_can_speak_tls_from_the_first_byte() {
    let authority = Authority::new();
    let acceptor = authority.server("mail.acme.example", false);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Tasks::new().spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut secure = acceptor.accept(stream).await.unwrap();
        secure.write_all(b"220 x\r\n").await.unwrap();
        let unused = Mutex::default();
        let _ended = commands(
            secure,
            "250-x\r\n250 AUTH LOGIN PLAIN\r\n",
            "235 in\r\n",
            &unused,
        )
        .await;
    });
    let mut config = config("https://mail.acme.example");
    config.ca_cert = Some(authority.pem);
    config.tls_server_name = Some("mail.acme.example".to_owned());
    config.smtp_address = Some(SmtpAddress::parse(&format!("127.0.0.1:{port}")).unwrap());
    let mut login = SmtpLogin::new(&config, &policy()).unwrap().unwrap();
    // Port 465 itself is not ours to take.
    login.implicit_tls = true;
    let password = Sensitive::new("p".to_owned());
    assert_eq!(login.attempt(&address(), &password).await, Login::Accepted);
}

#[tokio::test]
async fn a_hostile_service_costs_neither_memory_nor_time() {
    let endless = "2".repeat(1_000_000);
    for said in ["", "220 x", "220-x\r\n", endless.as_str()] {
        let (port, server) = hold(said.to_owned()).await;
        let mut config = config("https://mail.acme.example");
        config.smtp_address = Some(SmtpAddress::parse(&format!("127.0.0.1:{port}")).unwrap());
        config.request_timeout = Duration::from_millis(300);
        let password = Sensitive::new("p".to_owned());
        let login = client(&config).login(&address(), &password).await;
        let Login::Failed(LoginFault::Unreachable(why)) = login else {
            panic!("{login:?}");
        };
        assert!(matches!(why, Fault::Timeout | Fault::Broken), "{why:?}");
        assert_eq!(server.await.unwrap(), "", "the client said something");
    }
}

/// What the service says at once is told as what it is.
#[tokio::test]
async fn a_service_that_says_no_before_the_login_is_told_with_its_word() {
    for (said, stage, code) in [
        ("554 5.7.1 not from there\r\n", SmtpStage::Greeting, 554),
        ("421 4.3.2 too busy\r\n", SmtpStage::Greeting, 421),
        ("220 x\r\n550 5.7.1 who are you?\r\n", SmtpStage::Hello, 550),
        ("220 x\r\n501 what name?\r\n", SmtpStage::Hello, 501),
        ("220 x\r\n500 what?\r\n550 no\r\n", SmtpStage::Hello, 550),
        (
            "220 x\r\n250-x\r\n250 STARTTLS\r\n454 no TLS now\r\n",
            SmtpStage::StartTls,
            454,
        ),
    ] {
        let (port, server) = hold(said.to_owned()).await;
        let mut config = config("https://mail.acme.example");
        config.smtp_address = Some(SmtpAddress::parse(&format!("127.0.0.1:{port}")).unwrap());
        let password = Sensitive::new("p".to_owned());
        let login = client(&config).login(&address(), &password).await;
        assert_eq!(login, no(stage, code), "{said}");
        assert!(!server.await.unwrap().contains("AUTH"), "{said}");
    }
}

/// A service that says this and then listens until the client goes; returns what it heard.
async fn hold(said: String) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Tasks::new().spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let _gone = stream.write_all(said.as_bytes()).await;
        let _gone = stream.read_to_end(&mut heard).await;
        String::from_utf8(heard).unwrap()
    });
    (port, server)
}

#[tokio::test]
async fn no_connection_leans_on_an_earlier_one() {
    let authority = Authority::new();
    let acceptor = authority.server("mail.acme.example", false);
    let config = client_config(Some(&authority.pem)).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("mail.acme.example").unwrap();
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        // The tickets come with the first bytes.
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        let kind = client.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}
