//! Mail over a relay or submission server: one mail per message, in plain text.
//!
//! lettre writes the mail (headers, encoding); the dialogue is this crate's own, because lettre's
//! keeps what it read before the TLS handshake: a reply forged there would be taken for one from
//! within (CVE-2021-38371 is the same in another client). What must stay true: password, sender,
//! recipients and text go through verified TLS only, to an address that was checked.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use lettre::message::{Mailbox, Message as Mail};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::registry::{ConnectError, EmailConfig, MailTls};
use super::{Channel, Error, Message, Recipient, text};
use crate::audit::Severity;
use crate::crypto::sha256_hex;
use crate::network::connect::connect;
use crate::network::hello_name::hello_name;
use crate::network::smtp::{Dialogue, Failed, SmtpStage};
use crate::network::tls::{client_config, parse_server_name};
use crate::network::{Fault, NetworkPolicy, ServerNameError, TlsFault};

/// For the whole conversation with a server that may be far away and slow to scan a mail.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For the connection and its TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the farewell after the verdict may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A mail server and what is sent over it.
pub(super) struct Email {
    config: EmailConfig,
    from: Mailbox,
    to: Vec<Mailbox>,
    tls: TlsConnector,
    /// The name the certificate must carry.
    name: ServerName<'static>,
    policy: NetworkPolicy,
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Email")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Email {
    /// Prepares the way; does no network work.
    pub(super) fn new(config: &EmailConfig, policy: &NetworkPolicy) -> Result<Self, ConnectError> {
        policy.check_literal(&config.host, config.port)?;
        if config.tls == MailTls::None && !policy.allows_plain(&config.host) {
            return Err(ConnectError::PlainText);
        }
        let name = match &config.tls_server_name {
            Some(name) => parse_server_name(name)?,
            None => config.host.clone(),
        };
        let to = config.to.iter().map(|address| mailbox(address));
        Ok(Self {
            from: mailbox(&config.from)?,
            to: to.collect::<Result<_, _>>()?,
            tls: TlsConnector::from(Arc::new(client_config(config.ca_cert.as_deref())?)),
            name: ServerName::try_from(name).map_err(|_no_text| ServerNameError)?,
            policy: policy.clone(),
            config: config.clone(),
        })
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        let (host, port) = (self.config.host.as_str(), self.config.port);
        let addresses = self.policy.resolve(host, port).await;
        let addresses = addresses.map_err(Error::Unreachable)?;
        let stream = connect(&addresses, CONNECT).await;
        stream.map_err(Error::Unreachable)
    }

    async fn secure(&self, stream: TcpStream) -> Result<Dialogue<TlsStream<TcpStream>>, Error> {
        let handshake = self.tls.connect(self.name.clone(), stream);
        match tokio::time::timeout(CONNECT, handshake).await {
            Ok(Ok(stream)) => Ok(Dialogue::new(stream)),
            Ok(Err(error)) => Err(Error::Unreachable(match TlsFault::of(&error) {
                Some(fault) => Fault::Tls(fault),
                None => Fault::Unreachable,
            })),
            Err(_elapsed) => Err(Error::Unreachable(Fault::Unreachable)),
        }
    }

    async fn converse(&self, to: &[Mailbox], mail: &[u8]) -> Result<(), Error> {
        let stream = self.connect().await?;
        let local = stream.local_addr();
        let local = local.map_err(|_no_text| Error::Unreachable(Fault::Broken))?;
        let name = hello_name(self.config.ehlo_name.as_deref(), local.ip());
        match self.config.tls {
            MailTls::Implicit => {
                let mut dialogue = self.secure(stream).await?;
                dialogue.greeting().await?;
                self.hand_in(dialogue, &name, to, mail).await
            }
            MailTls::StartTls => {
                let mut plain = Dialogue::new(stream);
                plain.greeting().await?;
                if !plain.hello(&name).await?.starttls {
                    return Err(Error::NotOffered);
                }
                let stream = plain.start_tls().await?;
                self.hand_in(self.secure(stream).await?, &name, to, mail)
                    .await
            }
            MailTls::None => {
                let mut dialogue = Dialogue::new(stream);
                dialogue.greeting().await?;
                self.hand_in(dialogue, &name, to, mail).await
            }
        }
    }

    /// Logs in, hands the mail in and takes leave.
    async fn hand_in<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        mut dialogue: Dialogue<S>,
        name: &str,
        to: &[Mailbox],
        mail: &[u8],
    ) -> Result<(), Error> {
        let offer = dialogue.hello(name).await?;
        if let Some(login) = &self.config.login {
            let mechanism = offer.mechanism.ok_or(Error::NotOffered)?;
            let said = dialogue
                .authenticate(mechanism, &login.username, &login.password)
                .await?;
            accepted(SmtpStage::Login, said)?;
        }
        let said = dialogue.mail_from(self.config.from.as_str()).await?;
        accepted(SmtpStage::Sender, said)?;
        // Who can have the mail gets it; a wrong address must not keep it from the others.
        let (mut taken, mut refused) = (0, None);
        for recipient in to {
            let said = dialogue.rcpt_to(recipient.email.as_ref()).await?;
            match accepted(SmtpStage::Recipient, said) {
                Ok(()) => taken += 1,
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match refused {
            Some(error) if taken == 0 => return Err(error),
            Some(_) => tracing::warn!(taken, "the mail server refused some of the recipients"),
            None => {}
        }
        let said = dialogue.data(mail).await?;
        // The verdict stands, however the connection ends.
        let _farewell = tokio::time::timeout(FAREWELL, dialogue.quit()).await;
        accepted(SmtpStage::Text, said)
    }
}

#[async_trait]
impl Channel for Email {
    async fn deliver(&self, message: &Message) -> Result<(), Error> {
        let own;
        let to = match &message.recipient {
            Recipient::Channel => self.to.as_slice(),
            Recipient::Address(address) => {
                own = [mailbox(address).map_err(|_not_one| Error::Rejected)?];
                own.as_slice()
            }
        };
        let mail = write(message, &self.from, to).map_err(|_no_text| Error::Rejected)?;
        match tokio::time::timeout(TIMEOUT, self.converse(to, &mail)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Error::Unreachable(Fault::Timeout)),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Broken => Self::Unreachable(Fault::Broken),
            Failed::Said(reply) => Self::Smtp(reply),
        }
    }
}

/// What a reply means at this stage.
fn accepted(stage: SmtpStage, code: u16) -> Result<(), Error> {
    match (code, stage.failed(code)) {
        (200..=299, _) => Ok(()),
        (_, Failed::Said(reply)) => Err(Error::Smtp(reply)),
        (_, Failed::Broken) => Err(Error::Failing),
    }
}

fn mailbox(address: &str) -> Result<Mailbox, ConnectError> {
    let email = address
        .parse()
        .map_err(|_no_text| ConnectError::MailAddress)?;
    Ok(Mailbox::new(None, email))
}

/// Writes the mail: subject and headers from closed vocabularies, free text in the body alone.
fn write(
    message: &Message,
    from: &Mailbox,
    to: &[Mailbox],
) -> Result<Vec<u8>, lettre::error::Error> {
    let text = text::render(message);
    let urgent = if message.severity == Severity::Critical {
        "CRITICAL: "
    } else {
        ""
    };
    let mut builder = Mail::builder()
        .from(from.clone())
        .date(SystemTime::from(message.sent_at))
        .message_id(Some(message_id(message, from)))
        .subject(format!("[smtp] {urgent}{}", text.summary))
        // Without it the two headers about the content mean nothing, and strict servers refuse
        // the mail. Source: RFC 2045, section 4.
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN);
    for recipient in to {
        builder = builder.to(recipient.clone());
    }
    let mut mail = builder.body(body(&text))?;
    // Nobody's holiday shall answer. Source: RFC 3834, section 5.
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    let value = HeaderValue::new(name, String::from("auto-generated"));
    mail.headers_mut().insert_raw(value);
    Ok(mail.formatted())
}

/// The same whenever the same is told to the same again: a mailbox can drop the second one.
fn message_id(message: &Message, from: &Mailbox) -> String {
    let whom = match &message.recipient {
        Recipient::Channel => String::new(),
        Recipient::Address(address) => {
            let digest = sha256_hex(address.to_ascii_lowercase().as_bytes());
            format!(".{}", digest.get(..16).unwrap_or_default())
        }
    };
    let (event, channel) = (
        text::plain(&message.event_id),
        text::plain(&message.channel),
    );
    format!("<{event}.{channel}{whom}@{}>", from.email.domain())
}

fn body(text: &text::Text) -> String {
    let mut lines = vec![format!("{}.", text.summary)];
    if !text.advice.is_empty() {
        lines.extend([String::new(), text.advice.to_owned()]);
    }
    if !text.notes.is_empty() {
        lines.push(String::new());
        lines.extend(text.notes.iter().map(|note| format!("- {note}")));
    }
    lines.push(String::new());
    lines.extend(pairs(&text.facts));
    if !text.written.is_empty() {
        lines.extend([
            String::new(),
            String::from("Written by people, as it was given:"),
        ]);
        lines.extend(pairs(&text.written));
    }
    lines.push(String::new());
    lines.join("\r\n")
}

fn pairs<'a>(pairs: &'a [(&'static str, String)]) -> impl Iterator<Item = String> + 'a {
    pairs
        .iter()
        .map(|(label, value)| format!("{label}: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::text::example;

    fn mail(message: &Message) -> String {
        let (from, to) = (
            mailbox("vault@ops.test").unwrap(),
            mailbox("a@ops.test").unwrap(),
        );
        String::from_utf8(write(message, &from, &[to]).unwrap()).unwrap()
    }

    /// Each of these stands in every mail, once, and nothing else does.
    const REQUIRED: [&str; 9] = [
        "Auto-Submitted",
        "Content-Transfer-Encoding",
        "Content-Type",
        "Date",
        "From",
        "MIME-Version",
        "Message-ID",
        "Subject",
        "To",
    ];

    /// The names of a mail's headers, sorted.
    fn headers(head: &str) -> Vec<&str> {
        let lines = head.lines().filter(|line| !line.starts_with(' '));
        let mut names: Vec<_> = lines.map(|line| line.split(':').next().unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// What strict servers ask for, whatever the mail says and whomever it goes to.
    #[test]
    fn every_mail_has_the_headers_it_must_have_and_lines_of_allowed_length() {
        let mut long = example();
        long.reason = Some("\u{e4}\u{1f511}".repeat(400));
        long.changed = vec![String::from("allowed_hosts"); 40];
        let mut to_one = example();
        to_one.recipient = Recipient::Address(String::from("admin@acme.example"));
        let mut test = example();
        test.event = None;
        for message in [example(), long, to_one, test] {
            let mail = mail(&message);
            let (head, body) = mail.split_once("\r\n\r\n").unwrap();
            assert_eq!(headers(head), REQUIRED, "{head}");
            assert!(head.contains("\r\nMIME-Version: 1.0\r\n"), "{head}");
            // Source: RFC 5322, section 2.1.1.
            assert!(mail.split("\r\n").all(|line| line.len() <= 998));
            assert!(!body.replace("\r\n", "").contains(['\r', '\n']));
        }
    }

    #[test]
    fn hostile_words_reach_neither_a_header_nor_a_second_line() {
        let hostile = "x\r\nBcc: victim@evil.example\r\n\r\n<a href=https://evil.example>\r\n.\r\n";
        let mut message = example();
        message.reason = Some(hostile.to_owned());
        message.incident_id = Some(hostile.to_owned());
        message.display_name = hostile.to_owned();
        let mail = mail(&message);
        let (head, body) = mail.split_once("\r\n\r\n").unwrap();
        assert_eq!(headers(head), REQUIRED);
        assert!(!head.contains("evil") && !head.contains("Bcc"));
        assert!(!body.contains("\r\nBcc") && !body.contains("\r\n.\r\n"));
        assert!(!body.contains("://evil") && !body.contains("victim@"));
        assert!(head.contains("Subject: [smtp] CRITICAL: acme: the automatic change"));
        assert!(head.contains("charset=utf-8"));
    }

    #[test]
    fn the_identifier_is_that_of_event_channel_and_recipient() {
        let mut message = example();
        let own = "Message-ID: <01K8Z5Y4N6D3T7Q2W9R1M0XVBC.ops@ops.test>";
        assert!(mail(&message).contains(own));
        message.sent_at += chrono::TimeDelta::hours(1);
        assert!(mail(&message).contains(own));
        let address = |address: &str| Recipient::Address(address.to_owned());
        message.recipient = address("Admin@acme.example");
        let one = mail(&message);
        assert!(!one.contains(own) && !one.contains("acme.example"));
        message.recipient = address("admin@acme.example");
        let id = |mail: &str| {
            mail.lines()
                .find(|it| it.starts_with("Message-ID"))
                .unwrap()
                .to_owned()
        };
        assert_eq!(id(&one), id(&mail(&message)));
    }

    #[test]
    fn without_tls_only_loopback_and_only_in_development() {
        let mut config = EmailConfig {
            host: String::from("127.0.0.1"),
            port: 25,
            tls: MailTls::None,
            tls_server_name: None,
            ca_cert: None,
            login: None,
            ehlo_name: None,
            from: String::from("a@b.test"),
            to: vec![String::from("c@d.test")],
        };
        let mut policy = NetworkPolicy::default();
        assert!(Email::new(&config, &policy).is_err());
        policy.dev_loopback = true;
        assert!(Email::new(&config, &policy).is_ok());
        config.host = String::from("mail.test");
        assert_eq!(
            Email::new(&config, &policy).unwrap_err(),
            ConnectError::PlainText
        );
        config.tls = MailTls::StartTls;
        assert!(Email::new(&config, &policy).is_ok());
        config.from = String::from("a@b.test>\r\nRCPT TO:<x@y.test");
        assert_eq!(
            Email::new(&config, &policy).unwrap_err(),
            ConnectError::MailAddress
        );
    }
}
