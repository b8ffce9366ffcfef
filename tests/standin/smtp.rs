//! SMTP as far as AUTH: implicit TLS and STARTTLS, PLAIN and LOGIN.
//!
//! It takes no mail. A password offered before TLS is refused and shows in the journal.
//! Sources: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 4616 (PLAIN); reply texts as
//! observed on Mailu 2024.06 (Dovecot submission).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::BufStream;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::config::Release;
use super::hash::sha256_hex;
use super::journal::SmtpLogin;
use super::login::{LoginAnswer, login};
use super::shared::Shared;

/// A PLAIN line with a password of 500 characters fits, one of 1000 does not, as observed.
const LINE_LIMIT: u64 = 1024;

/// Accepts connections until the stand-in stops. With `implicit`, TLS comes before the greeting.
pub async fn listen(
    shared: Arc<Shared>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    implicit: bool,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let Ok((mut stream, peer)) = accepted else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (peer, acceptor, stop) = (peer.ip(), acceptor.clone(), shared.stop.clone());
        let tasks = shared.tasks.clone();
        let shared = Arc::clone(&shared);
        let session = async move {
            if !implicit {
                stream.write_all(b"220 mail ESMTP ready\r\n").await?;
                let plain = Session::new(Arc::clone(&shared), stream, peer, false);
                let Some(upgraded) = plain.run().await? else {
                    return Ok(());
                };
                stream = upgraded;
            }
            let mut stream = acceptor.accept(stream).await?;
            if implicit {
                stream.write_all(b"220 mail ESMTP ready\r\n").await?;
            }
            Session::new(shared, stream, peer, true).run().await?;
            io::Result::Ok(())
        };
        tasks.spawn(async move { stop.run_until_cancelled(session).await });
    }
}

/// One side of a STARTTLS: the dialogue before it, or after.
struct Session<S> {
    shared: Arc<Shared>,
    stream: BufStream<S>,
    peer: IpAddr,
    tls: bool,
    is_authenticated: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(shared: Arc<Shared>, stream: S, peer: IpAddr, tls: bool) -> Self {
        Self {
            shared,
            stream: BufStream::new(stream),
            peer,
            tls,
            is_authenticated: false,
        }
    }

    /// Talks until QUIT or the end. Returns the stream when TLS is to begin.
    async fn run(mut self) -> io::Result<Option<S>> {
        while let Some(line) = self.line().await? {
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.hello().await?,
                "HELO" => self.say("250 mail").await?,
                "NOOP" => self.say("250 2.0.0 OK").await?,
                "RSET" => self.say("250 2.0.0 OK").await?,
                "QUIT" => {
                    self.say("221 2.0.0 Bye").await?;
                    return Ok(None);
                }
                "STARTTLS" if !self.tls => {
                    self.say("220 2.0.0 Begin TLS negotiation now.").await?;
                    // Whatever came along in the clear is dropped: it may be an attacker's.
                    return Ok(Some(self.stream.into_inner()));
                }
                "AUTH" => self.auth(rest).await?,
                "MAIL" | "RCPT" | "DATA" => self.say("554 5.7.1 No mail is taken here.").await?,
                _ => self.say("502 5.5.1 Unknown command").await?,
            }
        }
        Ok(None)
    }

    async fn hello(&mut self) -> io::Result<()> {
        self.say("250-mail").await?;
        self.say("250-8BITMIME").await?;
        if self.tls {
            self.say("250-AUTH PLAIN LOGIN").await?;
        } else {
            self.say("250-STARTTLS").await?;
        }
        self.say("250 ENHANCEDSTATUSCODES").await
    }

    async fn auth(&mut self, arguments: &str) -> io::Result<()> {
        let (mechanism, initial) = match arguments.split_once(' ') {
            Some((mechanism, initial)) => (mechanism, Some(initial.trim().to_owned())),
            None => (arguments, None),
        };
        if self.is_authenticated {
            return self.say("503 5.5.0 Already authenticated").await;
        }
        let credentials = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => self.plain(initial).await?.map(|pair| ("PLAIN", pair)),
            "LOGIN" => self.login(initial).await?.map(|pair| ("LOGIN", pair)),
            _ => {
                return self
                    .say("504 5.5.4 Unsupported authentication mechanism.")
                    .await;
            }
        };
        match credentials {
            Some((mechanism, (email, password))) => self.check(mechanism, &email, &password).await,
            None => {
                self.say("501 5.5.2 Invalid or cancelled authentication.")
                    .await
            }
        }
    }

    /// Reads `authzid NUL authcid NUL password`. `None` stands for nonsense or a cancellation.
    async fn plain(&mut self, initial: Option<String>) -> io::Result<Option<(String, String)>> {
        let Some(text) = self.response(initial, "").await? else {
            return Ok(None);
        };
        let mut parts = text.splitn(3, '\0');
        let (Some(acting), Some(email), Some(password)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let may_act = acting.is_empty() || acting == email;
        Ok(may_act.then(|| (email.to_owned(), password.to_owned())))
    }

    async fn login(&mut self, initial: Option<String>) -> io::Result<Option<(String, String)>> {
        let Some(email) = self.response(initial, "Username:").await? else {
            return Ok(None);
        };
        let Some(password) = self.response(None, "Password:").await? else {
            return Ok(None);
        };
        Ok(Some((email, password)))
    }

    /// Decodes an initial response, or asks for one with `prompt`.
    async fn response(
        &mut self,
        initial: Option<String>,
        prompt: &str,
    ) -> io::Result<Option<String>> {
        let encoded = match initial.as_deref() {
            Some("=") => return Ok(Some(String::new())),
            Some(text) => text.to_owned(),
            None => {
                self.say(&format!("334 {}", STANDARD.encode(prompt)))
                    .await?;
                self.line().await?.unwrap_or_else(|| "*".to_owned())
            }
        };
        let decoded = STANDARD.decode(encoded.trim()).ok();
        Ok(decoded.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    async fn check(
        &mut self,
        mechanism: &'static str,
        email: &str,
        password: &str,
    ) -> io::Result<()> {
        let settings = self.shared.settings();
        let reply = if self.tls {
            let answer = login(&self.shared, self.peer, email, password).await;
            if answer != LoginAnswer::Good {
                tokio::time::sleep(settings.login_delay).await;
            }
            self.is_authenticated = answer == LoginAnswer::Good;
            reply(answer, settings.release)
        } else {
            "530 5.7.0 Must issue a STARTTLS command first"
        };
        self.shared.journal.login(SmtpLogin {
            email: email.to_owned(),
            password_sha256: sha256_hex(password),
            mechanism,
            tls: self.tls,
            code: reply
                .get(..3)
                .and_then(|code| code.parse().ok())
                .unwrap_or_default(),
        });
        self.say(reply).await
    }

    /// Reads a line without its end; too long ones are answered and skipped.
    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            let mut bytes = Vec::new();
            let length = (&mut self.stream)
                .take(LINE_LIMIT)
                .read_until(b'\n', &mut bytes)
                .await?;
            if length == 0 {
                return Ok(None);
            }
            if bytes.ends_with(b"\n") {
                let text = String::from_utf8_lossy(&bytes);
                return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
            }
            while !bytes.ends_with(b"\n") {
                bytes.clear();
                let rest = &mut (&mut self.stream).take(LINE_LIMIT);
                if rest.read_until(b'\n', &mut bytes).await? == 0 {
                    return Ok(None);
                }
            }
            self.say("500 5.5.2 Line too long").await?;
        }
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream
            .write_all(format!("{text}\r\n").as_bytes())
            .await?;
        self.stream.flush().await
    }
}

/// Only 2.0 (nginx as mail proxy) tells a limit from a wrong password.
fn reply(answer: LoginAnswer, release: Release) -> &'static str {
    match (answer, release) {
        (LoginAnswer::Good, _) => "235 2.7.0 Logged in.",
        (LoginAnswer::Limited, Release::V2_0) => "451 4.3.2 Temporary authentication failure",
        (LoginAnswer::Refused | LoginAnswer::Limited, _) => "535 5.7.8 Authentication failed.",
        (LoginAnswer::Down, _) => "454 4.7.0 Temporary authentication failure.",
    }
}
