//! SMTP AUTH and the limits it shares with the API.

use std::time::Duration;

use lettre::transport::smtp::authentication::Mechanism;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::provider::{
    EmailAddress, EndpointUrl, Fault, Login, LoginFault, MailuConfig, NetworkPolicy,
    ProviderConfig, SmtpAddress, SmtpReply, SmtpStage, TlsFault, connector,
};

use super::rig::{EMAIL, Rig, USER};
use crate::support::mailu::standin::{LoginAnswer, LoginService, sha256_hex};

#[tokio::test]
async fn smtp_takes_the_password_on_both_ports_and_says_what_dovecot_says() {
    let rig = Rig::start().await;
    for implicit in [true, false] {
        for mechanism in [Mechanism::Plain, Mechanism::Login] {
            let answer = rig.smtp(implicit, mechanism, "first").await;
            assert_eq!(answer, "235 2.7.0 Logged in.", "{implicit} {mechanism}");
        }
    }
    let refused = rig.smtp(true, Mechanism::Plain, "wrong").await;
    assert!(
        refused.contains("(535): 5.7.8 Authentication failed."),
        "{refused}"
    );
    rig.mailu.set_login_service(LoginService::Down);
    let down = rig.smtp(false, Mechanism::Login, "first").await;
    assert!(down.contains("(454): 4.7.0"), "{down}");
    rig.mailu.set_login_service(LoginService::Up);
    rig.mailu.disable(EMAIL);
    assert!(
        rig.smtp(true, Mechanism::Plain, "first")
            .await
            .contains("535")
    );
    let logins = rig.mailu.smtp_journal();
    assert_eq!(logins.iter().filter(|login| login.code == 235).count(), 4);
    assert!(logins.iter().all(|login| login.tls && login.email == EMAIL));
}

#[tokio::test]
async fn fifty_failures_lock_a_user_and_only_time_or_a_hex_password_help() {
    let rig = Rig::start().await;
    rig.mailu.set_limits(1000, 50);
    for _ in 0..50 {
        assert_eq!(rig.mailu.login(EMAIL, "wrong").await, LoginAnswer::Refused);
    }
    assert!(rig.mailu.is_locked(EMAIL));
    rig.patch(json!({ "raw_password": "reset" })).await;
    assert_eq!(rig.mailu.login(EMAIL, "reset").await, LoginAnswer::Limited);
    assert!(
        rig.smtp(true, Mechanism::Plain, "reset")
            .await
            .contains("535")
    );
    let hex = "0123456789abcdef0123456789abcdef";
    rig.patch(json!({ "raw_password": hex })).await;
    assert_eq!(rig.mailu.login(EMAIL, hex).await, LoginAnswer::Good);
    // That success exempts its address, and no other.
    rig.patch(json!({ "raw_password": "third" })).await;
    assert_eq!(rig.mailu.login(EMAIL, "third").await, LoginAnswer::Good);
    assert!(
        rig.smtp(true, Mechanism::Plain, "third")
            .await
            .contains("535")
    );
    rig.mailu.advance(Duration::from_secs(24 * 3600));
    assert!(
        rig.smtp(true, Mechanism::Plain, "third")
            .await
            .starts_with("235")
    );
}

#[tokio::test]
async fn a_password_sent_in_the_clear_is_refused_and_recorded() {
    let rig = Rig::start().await;
    let address = ("127.0.0.1", rig.mailu.submission_port());
    let mut stream = TcpStream::connect(address).await.unwrap();
    // base64 of NUL, "a", NUL, "b"; then a line that no server takes.
    let long = "x".repeat(3000);
    let dialogue = format!("EHLO c\r\nAUTH PLAIN AGEAYg==\r\n{long}\r\nNOOP\r\nQUIT\r\n");
    stream.write_all(dialogue.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let codes: Vec<&str> = answers.lines().map(|line| &line[..4]).collect();
    assert_eq!(
        codes,
        [
            "220 ", "250-", "250-", "250-", "250 ", "530 ", "500 ", "250 ", "221 "
        ][..]
    );
    assert!(!answers.contains("AUTH PLAIN LOGIN"));
    let logins = rig.mailu.smtp_journal();
    assert_eq!(
        (logins.len(), logins[0].tls, logins[0].code),
        (1, false, 530)
    );
    assert_eq!(logins[0].password_sha256, sha256_hex("b"));
}

#[tokio::test]
async fn the_api_and_the_mail_side_share_one_limiter() {
    let rig = Rig::start().await;
    let neighbour = "127.0.0.77".parse().unwrap();
    // An existing user's failures charge the network once an hour, unknown users every time.
    for _ in 0..10 {
        rig.mailu.login_from(neighbour, EMAIL, "wrong").await;
    }
    assert_eq!(rig.get(USER).await.0, 200);
    for _ in 0..4 {
        rig.mailu
            .login_from(neighbour, "nobody@example.test", "wrong")
            .await;
    }
    assert_eq!(rig.get(USER).await.0, 429);
    rig.mailu.forgive();
    assert_eq!(rig.get(USER).await.0, 200);
}

#[tokio::test]
async fn a_password_goes_only_to_who_shows_a_certificate_for_the_host_of_the_api() {
    let rig = Rig::start().await;
    let policy = NetworkPolicy {
        dev_loopback: true,
        ..NetworkPolicy::default()
    };
    let port = rig.mailu.submission_port();
    let account = EmailAddress::parse(EMAIL).unwrap();
    let password = Sensitive::new(String::from("first"));
    for (url, host, outcome, logins) in [
        // An address of one's own choice with a good certificate of its own.
        (
            "https://mail.acme.test",
            "localhost",
            Login::Failed(LoginFault::Unreachable(Fault::Tls(TlsFault::OtherName))),
            0,
        ),
        // Another address of the server itself.
        (rig.mailu.url().as_str(), "127.0.0.1", Login::Accepted, 1),
    ] {
        let config = ProviderConfig::Mailu(MailuConfig {
            url: EndpointUrl::parse(url, &policy).unwrap(),
            ca_cert: Some(rig.mailu.ca_pem().to_owned()),
            tls_server_name: None,
            smtp_address: Some(SmtpAddress::parse(&format!("{host}:{port}")).unwrap()),
            api_token: Sensitive::new(rig.mailu.token().to_owned()),
            request_timeout: Duration::from_secs(10),
        });
        let provider = connector()(&config, &policy).unwrap();
        assert_eq!(provider.login(&account, &password).await, outcome, "{url}");
        assert_eq!(rig.mailu.smtp_journal().len(), logins, "{url}");
    }
}

#[tokio::test]
async fn the_products_own_client_logs_in_as_the_library_does() {
    let rig = Rig::start().await;
    let policy = NetworkPolicy {
        dev_loopback: true,
        ..NetworkPolicy::default()
    };
    let address = format!("127.0.0.1:{}", rig.mailu.submission_port());
    let config = ProviderConfig::Mailu(MailuConfig {
        url: EndpointUrl::parse(&rig.mailu.url(), &policy).unwrap(),
        ca_cert: Some(rig.mailu.ca_pem().to_owned()),
        tls_server_name: Some(String::from("localhost")),
        smtp_address: Some(SmtpAddress::parse(&address).unwrap()),
        api_token: Sensitive::new(rig.mailu.token().to_owned()),
        request_timeout: Duration::from_secs(10),
    });
    let provider = connector()(&config, &policy).unwrap();
    let account = EmailAddress::parse(EMAIL).unwrap();
    // The last one is longer than a command line may be.
    let long = "p".repeat(450);
    for (password, outcome) in [
        ("first", Login::Accepted),
        ("wrong", Login::Refused),
        (long.as_str(), Login::Refused),
    ] {
        let password = Sensitive::new(password.to_owned());
        assert_eq!(provider.login(&account, &password).await, outcome);
    }
    rig.mailu.set_login_service(LoginService::Down);
    let password = Sensitive::new(String::from("first"));
    let down = provider.login(&account, &password).await;
    let said = SmtpReply {
        stage: SmtpStage::Login,
        code: 454,
    };
    assert_eq!(down, Login::Failed(LoginFault::Said(said)));
    let codes: Vec<u16> = rig.mailu.smtp_journal().iter().map(|it| it.code).collect();
    assert_eq!(codes, [235, 535, 535, 454]);
}
