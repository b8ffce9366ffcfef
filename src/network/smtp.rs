//! As much SMTP as it takes to prove a password and to hand in a mail: greeting, EHLO or HELO,
//! STARTTLS, AUTH, MAIL, RCPT, DATA, QUIT.
//!
//! The server is not trusted: what is read is bounded in every direction, and a
//! reply that is not of the standard's form ends the conversation. What must stay true: bytes from
//! before the TLS handshake are never taken for bytes from after it, so each side of it has a
//! [`Dialogue`] of its own, and nothing is buffered when the first one ends.
//!
//! How long it may take is the caller's to say.
//!
//! Source: RFC 5321 (replies: 4.2), RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 4616 (PLAIN).

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use zeroize::Zeroizing;

use crate::crypto::Sensitive;

/// Longest line of a reply, in bytes; the standard's own limit is 512.
const MAX_LINE: usize = 1_000;
/// Most lines of all replies together.
const MAX_LINES: usize = 100;
/// Most bytes of all replies together.
const MAX_BYTES: usize = 64 * 1024;

/// Longest command line, in bytes with its end. Source: RFC 5321, section 4.5.3.1.4.
const MAX_COMMAND: usize = 512;

/// "Syntax error, command unrecognized" and "Command not implemented": what a server says that knows
/// no EHLO. Source: RFC 5321, sections 3.2 and 4.2.2.
const UNKNOWN_COMMAND: [u16; 2] = [500, 502];

/// Why a conversation led to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Nothing can be concluded from it: it broke, or the server does not speak SMTP.
    Broken,
    /// The server said no.
    Said(SmtpReply),
}

use Failed::Broken;

impl From<io::Error> for Failed {
    fn from(_text_of_the_peer: io::Error) -> Self {
        Broken
    }
}

/// A definite no of a mail server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SmtpReply {
    /// What was answered so.
    pub stage: SmtpStage,
    /// Its code, 400 to 599: below 500 it may be another one later.
    pub code: u16,
}

/// What a mail server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmtpStage {
    /// The connection itself.
    Greeting,
    /// EHLO, or HELO after it.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Login,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA, and the text after it.
    Text,
}

impl SmtpStage {
    /// Returns what the server answered, as people know it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "the connection",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Text => "DATA",
        }
    }

    /// What a reply with another code than the wanted one says.
    pub(crate) const fn failed(self, code: u16) -> Failed {
        match code {
            400..=599 => Failed::Said(SmtpReply { stage: self, code }),
            _ => Broken,
        }
    }
}

impl SmtpReply {
    /// Reports whether the same would be answered the same. Source: RFC 5321, section 4.2.1.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        self.code >= 500
    }
}

/// How a password is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// In one message; preferred.
    Plain,
    /// In answer to two questions.
    Login,
}

/// What the server offers, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) starttls: bool,
    pub(crate) mechanism: Option<Mechanism>,
}

/// One side of a conversation, before TLS or within it.
pub(crate) struct Dialogue<S> {
    stream: BufReader<S>,
    lines_left: usize,
    bytes_left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
            lines_left: MAX_LINES,
            bytes_left: MAX_BYTES,
        }
    }

    /// Waits for the server's first word.
    pub(crate) async fn greeting(&mut self) -> Result<(), Failed> {
        self.expect(220, SmtpStage::Greeting).await
    }

    /// Says EHLO as `name` and reads what the server offers; a server that does not know EHLO is
    /// told HELO, and offers nothing.
    pub(crate) async fn hello(&mut self, name: &str) -> Result<Offer, Failed> {
        // Whoever could write this could write commands of his own.
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Broken);
        }
        self.send(format!("EHLO {name}\r\n").as_bytes()).await?;
        let mut offer = Offer::default();
        let code = self.reply(|keyword| offer.add(keyword)).await?;
        if code == 250 {
            return Ok(offer);
        }
        let failed = SmtpStage::Hello.failed(code);
        if !UNKNOWN_COMMAND.contains(&code) {
            return Err(failed);
        }
        // One that hangs up now has said no all the same.
        let plain = async {
            self.send(format!("HELO {name}\r\n").as_bytes()).await?;
            self.expect(250, SmtpStage::Hello).await
        };
        match plain.await {
            Ok(()) => Ok(Offer::default()),
            Err(Broken) => Err(failed),
            Err(said) => Err(said),
        }
    }

    /// Asks for TLS and gives the stream back for the handshake.
    ///
    /// Bytes behind the reply were sent before anybody could have: somebody on the path hopes that
    /// they are taken for the server's (CVE-2011-0411 is the same at servers).
    pub(crate) async fn start_tls(mut self) -> Result<S, Failed> {
        self.send(b"STARTTLS\r\n").await?;
        self.expect(220, SmtpStage::StartTls).await?;
        if self.stream.buffer().is_empty() {
            Ok(self.stream.into_inner())
        } else {
            Err(Broken)
        }
    }

    /// Presents the password once and returns the code of the verdict.
    pub(crate) async fn authenticate(
        &mut self,
        mechanism: Mechanism,
        user: &str,
        password: &Sensitive<String>,
    ) -> Result<u16, Failed> {
        let password = password.expose().as_bytes();
        match mechanism {
            Mechanism::Plain => {
                let short = line(b"AUTH PLAIN ", &[b"\0", user.as_bytes(), b"\0", password])?;
                if short.len() <= MAX_COMMAND {
                    self.send(&short).await?;
                } else {
                    self.send(b"AUTH PLAIN\r\n").await?;
                    self.expect(334, SmtpStage::Login).await?;
                    let long = line(b"", &[b"\0", user.as_bytes(), b"\0", password])?;
                    self.send(&long).await?;
                }
            }
            Mechanism::Login => {
                self.send(b"AUTH LOGIN\r\n").await?;
                self.expect(334, SmtpStage::Login).await?;
                self.send(&line(b"", &[user.as_bytes()])?).await?;
                self.expect(334, SmtpStage::Login).await?;
                self.send(&line(b"", &[password])?).await?;
            }
        }
        self.reply(|_text| ()).await
    }

    /// Begins a mail from `address`; returns the code of the reply.
    pub(crate) async fn mail_from(&mut self, address: &str) -> Result<u16, Failed> {
        self.name("MAIL FROM", address).await
    }

    /// Names one recipient of the mail; returns the code of the reply.
    pub(crate) async fn rcpt_to(&mut self, address: &str) -> Result<u16, Failed> {
        self.name("RCPT TO", address).await
    }

    /// Sends the mail's text; returns the code of the reply that ends it.
    pub(crate) async fn data(&mut self, message: &[u8]) -> Result<u16, Failed> {
        self.send(b"DATA\r\n").await?;
        let code = self.reply(|_text| ()).await?;
        if code != 354 {
            return Ok(code);
        }
        self.send(&stuffed(message)).await?;
        self.reply(|_text| ()).await
    }

    async fn name(&mut self, command: &str, address: &str) -> Result<u16, Failed> {
        // Whoever could write this could write commands of his own.
        let foreign = |byte: u8| !byte.is_ascii_graphic() || b"<>".contains(&byte);
        if address.bytes().any(foreign) {
            return Err(Broken);
        }
        self.send(format!("{command}:<{address}>\r\n").as_bytes())
            .await?;
        self.reply(|_text| ()).await
    }

    /// Says farewell and waits for the server's.
    pub(crate) async fn quit(&mut self) -> Result<(), Failed> {
        self.send(b"QUIT\r\n").await?;
        self.expect(221, SmtpStage::Text).await
    }

    async fn send(&mut self, line: &[u8]) -> Result<(), Failed> {
        self.stream.write_all(line).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn expect(&mut self, code: u16, stage: SmtpStage) -> Result<(), Failed> {
        let got = self.reply(|_text| ()).await?;
        (got == code).then_some(()).ok_or(stage.failed(got))
    }

    /// Reads one reply: its code, with every text but the first handed to `each`.
    async fn reply(&mut self, mut each: impl FnMut(&str)) -> Result<u16, Failed> {
        let mut first = None;
        loop {
            let line = self.line().await?;
            let (code, is_last, text) = parse(&line)?;
            match first {
                None => first = Some(code),
                Some(first) if first == code => each(text),
                Some(_) => return Err(Broken),
            }
            if is_last {
                return Ok(code);
            }
        }
    }

    /// Reads one line without its end.
    async fn line(&mut self) -> Result<String, Failed> {
        self.lines_left = self.lines_left.checked_sub(1).ok_or(Broken)?;
        let limit = MAX_LINE.min(self.bytes_left);
        let mut line = Vec::new();
        (&mut self.stream)
            .take(u64::try_from(limit).unwrap_or(0))
            .read_until(b'\n', &mut line)
            .await?;
        self.bytes_left = self.bytes_left.saturating_sub(line.len());
        let line = line.strip_suffix(b"\r\n").ok_or(Broken)?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

impl Offer {
    /// Takes one line of an EHLO reply, such as `AUTH PLAIN LOGIN`.
    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        if keyword.eq_ignore_ascii_case("STARTTLS") {
            self.starttls = true;
        } else if keyword.eq_ignore_ascii_case("AUTH") {
            for name in words {
                if name.eq_ignore_ascii_case("PLAIN") {
                    self.mechanism = Some(Mechanism::Plain);
                } else if name.eq_ignore_ascii_case("LOGIN") {
                    self.mechanism.get_or_insert(Mechanism::Login);
                }
            }
        }
    }
}

/// Splits a line of a reply into its code, whether it is the last, and its text.
fn parse(line: &str) -> Result<(u16, bool, &str), Failed> {
    let (code, rest) = line.split_at_checked(3).ok_or(Broken)?;
    let well_formed = match code.as_bytes() {
        [first, second, third] => {
            matches!(first, b'2'..=b'5') && matches!(second, b'0'..=b'5') && third.is_ascii_digit()
        }
        _ => false,
    };
    let code = code.parse().map_err(|_no_number| Broken)?;
    match (well_formed, rest.split_at_checked(1)) {
        (true, None) => Ok((code, true, "")),
        (true, Some((" ", text))) => Ok((code, true, text)),
        (true, Some(("-", text))) => Ok((code, false, text)),
        _ => Err(Broken),
    }
}

/// The text of a mail as it is sent: every line's end is CRLF, a dot at a line's begin is doubled,
/// and a dot alone ends it. Source: RFC 5321, sections 4.1.1.4 and 4.5.2.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// Writes `start`, the base64 of `parts` and a line's end into a buffer that is wiped and never
/// moved while it grew.
fn line(start: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut plain = Zeroizing::new(Vec::with_capacity(
        parts.iter().map(|part| part.len()).sum(),
    ));
    for part in parts {
        plain.extend_from_slice(part);
    }
    let encoded = base64::encoded_len(plain.len(), true).ok_or(Broken)?;
    let mut line = Zeroizing::new(vec![0; start.len() + encoded + 2]);
    let (head, rest) = line.split_at_mut(start.len());
    head.copy_from_slice(start);
    let (middle, end) = rest.split_at_mut(encoded);
    STANDARD
        .encode_slice(&*plain, middle)
        .map_err(|_too_short| Broken)?;
    end.copy_from_slice(b"\r\n");
    Ok(line)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::tasks::Tasks;

    /// A server that has said `said` and hangs up after it; gives the other end to look at.
    async fn server(said: &[u8]) -> (Dialogue<DuplexStream>, DuplexStream) {
        let (client, mut server) = duplex(256 * 1024);
        server.write_all(said).await.unwrap();
        (Dialogue::new(client), server)
    }

    /// Reads a reply that the server has sent before it hung up.
    async fn reply_to(said: &[u8]) -> Result<u16, Failed> {
        let (mut dialogue, server) = server(said).await;
        drop(server);
        dialogue.reply(|_text| ()).await
    }

    #[tokio::test]
    async fn a_reply_is_taken_in_the_standards_form_only() {
        for (said, code) in [
            ("220 mail ready\r\n", 220),
            ("250\r\n", 250),
            ("250 \r\n", 250),
            ("250-a\r\n250-b\r\n250 c\r\n", 250),
            ("535-5.7.8 no\r\n535 5.7.8 really\r\n", 535),
            ("554 \u{e4}\r\n", 554),
        ] {
            assert_eq!(reply_to(said.as_bytes()).await, Ok(code), "{said:?}");
        }
        for said in [
            "",
            "\r\n",
            "22\r\n",
            "220 ready\n",
            "220 ready",
            "+OK ready\r\n",
            "2200 ready\r\n",
            "220_ready\r\n",
            "120 wait\r\n",
            "620 x\r\n",
            "260 x\r\n",
            "22\u{e4} x\r\n",
            " 220 x\r\n",
            "+23 x\r\n",
            "250-a\r\n",
            "250-a\r\n535 b\r\n",
            "250-a\r\nb\r\n250 c\r\n",
        ] {
            assert_eq!(reply_to(said.as_bytes()).await, Err(Broken), "{said:?}");
        }
        assert_eq!(reply_to(b"250 \xff\xfe\r\n").await, Ok(250));
    }

    #[tokio::test]
    async fn a_reply_is_bounded_in_line_lines_and_bytes() {
        let long = |length: usize| format!("250 {}\r\n", "x".repeat(length - 6));
        assert_eq!(reply_to(long(MAX_LINE).as_bytes()).await, Ok(250));
        assert_eq!(reply_to(long(MAX_LINE + 1).as_bytes()).await, Err(Broken));
        let many = |lines: usize| format!("{}250 end\r\n", "250-x\r\n".repeat(lines - 1));
        assert_eq!(reply_to(many(MAX_LINES).as_bytes()).await, Ok(250));
        assert_eq!(reply_to(many(MAX_LINES + 1).as_bytes()).await, Err(Broken));
        let wide = format!("250-{}\r\n", "x".repeat(900)).repeat(80);
        let wide = format!("{wide}250 end\r\n");
        assert_eq!(reply_to(wide.as_bytes()).await, Err(Broken));
    }

    #[tokio::test]
    async fn an_endless_line_is_left_unread() {
        let (mut dialogue, mut server) = server(b"").await;
        let flood = Tasks::new().spawn(async move {
            let mut sent = 0;
            while server.write_all(&[b'2'; 4_096]).await.is_ok() {
                sent += 4_096;
            }
            sent
        });
        assert_eq!(dialogue.greeting().await, Err(Broken));
        drop(dialogue);
        // No more than what the pipe itself holds was ever taken from the server.
        assert!(flood.await.unwrap() <= 256 * 1024 + 16 * 1024);
    }

    #[tokio::test]
    async fn offers_are_read_from_any_spelling() {
        let offer = async |said: &str| {
            let (mut dialogue, _server) = server(said.as_bytes()).await;
            dialogue.hello("me.test").await.unwrap()
        };
        let plain = offer("250-x\r\n250-8BITMIME\r\n250 auth login plain\r\n").await;
        assert_eq!(plain.mechanism, Some(Mechanism::Plain));
        assert!(!plain.starttls);
        let login = offer("250-x\r\n250-StartTLS\r\n250 AUTH LOGIN CRAM-MD5\r\n").await;
        assert_eq!(login.mechanism, Some(Mechanism::Login));
        assert!(login.starttls);
        let none = offer("250-x\r\n250-XSTARTTLS\r\n250 AUTH XOAUTH2\r\n").await;
        assert_eq!(none, Offer::default());
        // The first line is the server's name, whatever it says.
        assert_eq!(offer("250 STARTTLS\r\n").await, Offer::default());
    }

    /// A no is told with its code, wherever it is said; what is no reply, and what is no answer to
    /// this, is none.
    #[tokio::test]
    async fn a_definite_no_is_no_silence() {
        for (greeting, code) in [
            ("554 5.7.1 blocked\r\n", Some(554)),
            ("421 4.3.2 too busy\r\n", Some(421)),
            ("450-later\r\n450 please\r\n", Some(450)),
            ("354 what\r\n", None),
            ("250 what\r\n", None),
            ("HTTP/1.1 400 Bad Request\r\n", None),
        ] {
            let (mut dialogue, _server) = server(greeting.as_bytes()).await;
            let failed = code.map_or(Broken, |code| SmtpStage::Greeting.failed(code));
            assert_eq!(dialogue.greeting().await, Err(failed), "{greeting}");
        }
        assert!(
            matches!(SmtpStage::Greeting.failed(554), Failed::Said(reply) if reply.is_permanent())
        );
        assert!(
            matches!(SmtpStage::Greeting.failed(421), Failed::Said(reply) if !reply.is_permanent())
        );
    }

    /// What the client sends as a greeting to a server that says `said`, and what it makes of it.
    async fn hello(said: &str) -> (Result<Offer, Failed>, String) {
        let (mut dialogue, mut peer) = server(said.as_bytes()).await;
        peer.shutdown().await.unwrap();
        let offer = dialogue.hello("me.ops.test").await;
        drop(dialogue);
        let mut sent = String::new();
        peer.read_to_string(&mut sent).await.unwrap();
        (offer, sent)
    }

    #[tokio::test]
    async fn a_server_that_knows_no_ehlo_is_told_helo() {
        let both = "EHLO me.ops.test\r\nHELO me.ops.test\r\n";
        let one = "EHLO me.ops.test\r\n";
        let no = |code| Err(SmtpStage::Hello.failed(code));
        for (said, offer, sent) in [
            ("500 what?\r\n250 old\r\n", Ok(Offer::default()), both),
            ("502 what?\r\n250 old\r\n", Ok(Offer::default()), both),
            ("502 what?\r\n550 not you\r\n", no(550), both),
            ("500 what?\r\n421 later\r\n", no(421), both),
            // It hangs up after the first no: that is what it said.
            ("500 what?\r\n", no(500), both),
            ("501 no such name\r\n250 old\r\n", no(501), one),
            ("504 a full name, please\r\n", no(504), one),
            ("550 not you\r\n", no(550), one),
            ("421 later\r\n", no(421), one),
            ("", Err(Broken), one),
        ] {
            assert_eq!(hello(said).await, (offer, sent.to_owned()), "{said:?}");
        }
    }

    #[tokio::test]
    async fn no_name_becomes_a_command() {
        let (mut dialogue, _server) = server(b"250 ok\r\n").await;
        for name in ["a b", "a\r\nQUIT", "\u{e4}.test"] {
            assert_eq!(dialogue.hello(name).await, Err(Broken));
        }
    }

    #[tokio::test]
    async fn what_comes_with_the_reply_to_starttls_ends_it() {
        let (dialogue, _server) = server(b"220 go\r\n250-x\r\n250 AUTH PLAIN\r\n").await;
        assert_eq!(dialogue.start_tls().await.unwrap_err(), Broken);
        let (dialogue, _server) = server(b"220 go\r\n").await;
        assert!(dialogue.start_tls().await.is_ok());
        let (dialogue, _server) = server(b"454 not now\r\n").await;
        let said = SmtpStage::StartTls.failed(454);
        assert_eq!(dialogue.start_tls().await.unwrap_err(), said);
    }

    /// What the client sends to a server that says `said`, and the verdict it takes.
    async fn auth(
        mechanism: Mechanism,
        password: &str,
        said: &str,
    ) -> (Result<u16, Failed>, Vec<String>) {
        let (mut dialogue, mut server) = server(said.as_bytes()).await;
        let password = Sensitive::new(password.to_owned());
        let verdict = dialogue
            .authenticate(mechanism, "a@b.test", &password)
            .await;
        drop(dialogue);
        let mut sent = String::new();
        server.read_to_string(&mut sent).await.unwrap();
        assert!(sent.ends_with("\r\n"));
        (verdict, sent.lines().map(str::to_owned).collect())
    }

    #[tokio::test]
    async fn the_password_goes_as_the_mechanism_says() {
        let (verdict, sent) = auth(Mechanism::Plain, "p", "235 in\r\n").await;
        assert_eq!(verdict, Ok(235));
        // Computed independently: printf '\0a@b.test\0p' | base64.
        assert_eq!(sent, ["AUTH PLAIN AGFAYi50ZXN0AHA="]);
        let login = "334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n535 no\r\n";
        let (verdict, sent) = auth(Mechanism::Login, "p", login).await;
        assert_eq!(verdict, Ok(535));
        assert_eq!(sent, ["AUTH LOGIN", "YUBiLnRlc3Q=", "cA=="]);
    }

    #[tokio::test]
    async fn a_long_password_waits_for_the_question() {
        let long = "p".repeat(500);
        let (verdict, sent) = auth(Mechanism::Plain, &long, "334 \r\n235 in\r\n").await;
        assert_eq!(verdict, Ok(235));
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0], "AUTH PLAIN");
        let (verdict, sent) = auth(Mechanism::Plain, &long, "504 no\r\n").await;
        assert_eq!(verdict, Err(SmtpStage::Login.failed(504)));
        assert_eq!(sent, ["AUTH PLAIN"]);
    }

    #[tokio::test]
    async fn a_server_that_does_not_ask_is_told_nothing() {
        let (verdict, sent) = auth(Mechanism::Login, "p", "535 no\r\n").await;
        let said = SmtpStage::Login.failed(535);
        assert_eq!((verdict, sent.len()), (Err(said), 1));
    }

    #[test]
    fn no_line_of_a_mail_ends_it() {
        assert_eq!(stuffed(b""), b".\r\n");
        assert_eq!(stuffed(b"a\r\n.\r\nb"), b"a\r\n..\r\nb\r\n.\r\n");
        assert_eq!(stuffed(b".a\n.\n"), b"..a\r\n..\r\n.\r\n");
    }

    #[tokio::test]
    async fn a_mail_is_named_and_sent_as_the_standard_says() {
        let (mut dialogue, mut server) =
            server(b"250 ok\r\n550 who?\r\n354 go\r\n250 queued\r\n").await;
        assert_eq!(dialogue.mail_from("a@b.test").await, Ok(250));
        assert_eq!(dialogue.rcpt_to("c@d.test").await, Ok(550));
        assert_eq!(dialogue.data(b"Subject: x\r\n\r\n.y\r\n").await, Ok(250));
        for hostile in [
            "a@b.test>\r\nRCPT TO:<x@y.test",
            "a b@c.test",
            "a@b\u{e4}.test",
        ] {
            assert_eq!(dialogue.rcpt_to(hostile).await, Err(Broken), "{hostile}");
        }
        drop(dialogue);
        let mut sent = String::new();
        server.read_to_string(&mut sent).await.unwrap();
        assert_eq!(
            sent,
            "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: x\r\n\r\n..y\r\n.\r\n"
        );
    }
}
