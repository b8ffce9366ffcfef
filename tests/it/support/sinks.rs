//! A mail server that takes mails and a web server that takes documents, over real TLS: both keep
//! what they were given.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::mailu::standin::Authority;
use vault_plugin_secrets_smtp::tasks::Tasks;

/// How a mail server begins TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    WithTls,
    WithStartTls,
    /// It has no TLS.
    InClear,
}

/// One mail as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) text: String,
    /// Whether it came through TLS.
    pub(crate) secured: bool,
    /// `user:password`, if somebody logged in.
    pub(crate) login: Option<String>,
}

impl Mail {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> String {
        let head = self.text.split("\r\n\r\n").next().unwrap();
        let head = head.replace("\r\n ", " ");
        let mut lines = head.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default().to_owned()
    }
}

/// A mail server with one user, `vault:right`, who may send; addresses at `refused.test` are not
/// taken, and at `later.test` not yet.
#[derive(Debug)]
pub(crate) struct MailSink {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    kept: Arc<Kept>,
    _tasks: Stops,
}

/// What a mail server keeps and is told.
#[derive(Debug, Default)]
struct Kept {
    mails: Mutex<Vec<Mail>>,
    /// Every command.
    said: Mutex<Vec<String>>,
    /// What it answers to a command instead, by its first word; `GREETING` is its own first word.
    replies: Mutex<BTreeMap<String, String>>,
}

impl Kept {
    fn reply(&self, word: &str) -> Option<String> {
        self.replies.lock().unwrap().get(word).cloned()
    }

    async fn greet<S: AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        let greeting = self.reply("GREETING");
        let greeting = greeting.unwrap_or_else(|| String::from("220 sink"));
        stream.write_all(format!("{greeting}\r\n").as_bytes()).await
    }
}

/// Ends the tasks of a sink with it.
#[derive(Debug)]
struct Stops(Tasks);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.cancelled().cancel();
    }
}

impl MailSink {
    pub(crate) async fn start(begins: Begins) -> Self {
        let authority = Authority::new().unwrap();
        let names = vec![String::from("localhost")];
        let acceptor = authority.acceptor(names, 2100).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept: Arc<Kept> = Arc::default();
        let keeps = Arc::clone(&kept);
        let tasks = Tasks::new();
        let (spawner, stop) = (tasks.clone(), tasks.cancelled());
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, kept) = (acceptor.clone(), Arc::clone(&keeps));
                spawner.spawn(async move {
                    let _ended = mail_connection(stream, acceptor, begins, &kept).await;
                });
            }
        };
        tasks.spawn(async move { stop.run_until_cancelled(serve).await });
        Self {
            address,
            authority,
            kept,
            _tasks: Stops(tasks),
        }
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.kept.mails.lock().unwrap().clone()
    }

    /// Answers this command so from now on; without its line's end.
    pub(crate) fn replies(&self, word: &str, reply: &str) {
        let mut replies = self.kept.replies.lock().unwrap();
        replies.insert(word.to_owned(), reply.to_owned());
    }

    /// Every command that was said, in order.
    pub(crate) fn said(&self) -> Vec<String> {
        self.kept.said.lock().unwrap().clone()
    }
}

async fn mail_connection(
    mut stream: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    begins: Begins,
    kept: &Kept,
) -> io::Result<()> {
    match begins {
        Begins::WithTls => {
            let mut stream = acceptor.accept(stream).await?;
            kept.greet(&mut stream).await?;
            talk(&mut BufReader::new(stream), true, true, kept).await?;
        }
        Begins::WithStartTls => {
            kept.greet(&mut stream).await?;
            let mut plain = BufReader::new(stream);
            if talk(&mut plain, false, true, kept).await? {
                let stream = acceptor.accept(plain.into_inner()).await?;
                talk(&mut BufReader::new(stream), true, true, kept).await?;
            }
        }
        Begins::InClear => {
            kept.greet(&mut stream).await?;
            talk(&mut BufReader::new(stream), false, false, kept).await?;
        }
    }
    Ok(())
}

/// Talks until the end; returns whether TLS is to begin.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    secured: bool,
    has_tls: bool,
    kept: &Kept,
) -> io::Result<bool> {
    let mut mail = Mail {
        from: String::new(),
        to: Vec::new(),
        text: String::new(),
        secured,
        login: None,
    };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        let line = line.trim_end();
        kept.said.lock().unwrap().push(line.to_owned());
        let word = line.split([' ', ':']).next().unwrap_or_default();
        if let Some(reply) = kept.reply(word) {
            stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
            continue;
        }
        let reply = match word {
            "EHLO" if secured => "250-sink\r\n250 AUTH PLAIN",
            "EHLO" if has_tls => "250-sink\r\n250 STARTTLS",
            "EHLO" => "250-sink\r\n250 8BITMIME",
            "HELO" => "250 sink",
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await?;
                return Ok(true);
            }
            "AUTH" => {
                let given = STANDARD.decode(line.split(' ').nth(2).unwrap()).unwrap();
                let given = String::from_utf8(given).unwrap();
                let given = given.trim_start_matches('\0').replace('\0', ":");
                let right = given == "vault:right";
                mail.login = Some(given);
                if right { "235 in" } else { "535 no" }
            }
            "MAIL" => {
                mail.from = line.to_owned();
                "250 ok"
            }
            "RCPT" if line.contains("refused.test") => "550 5.1.1 <b>unknown</b> user",
            "RCPT" if line.contains("later.test") => "451 4.7.1 greylisted",
            "RCPT" => {
                mail.to.push(line.to_owned());
                "250 ok"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                mail.text = text(stream).await?;
                kept.mails.lock().unwrap().push(mail.clone());
                "250 queued"
            }
            "QUIT" => "221 bye",
            _ => "502 what?",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
}

async fn text<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    /// Method and path.
    pub(crate) line: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// A web server that answers every request as it is told.
#[derive(Debug)]
pub(crate) struct HookSink {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    posted: Arc<Mutex<Vec<Posted>>>,
    answer: Arc<Mutex<String>>,
    _tasks: Stops,
}

impl HookSink {
    pub(crate) async fn start() -> Self {
        let authority = Authority::new().unwrap();
        let names = vec![String::from("localhost")];
        let acceptor = authority.acceptor(names, 2100).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let answer = Arc::new(Mutex::new(String::from("200 OK\r\n")));
        let (kept, says) = (Arc::clone(&posted), Arc::clone(&answer));
        let tasks = Tasks::new();
        let (spawner, stop) = (tasks.clone(), tasks.cancelled());
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, kept, says) =
                    (acceptor.clone(), Arc::clone(&kept), Arc::clone(&says));
                spawner.spawn(async move {
                    let mut stream = BufReader::new(acceptor.accept(stream).await?);
                    let request = request(&mut stream).await?;
                    kept.lock().unwrap().push(request);
                    let head = says.lock().unwrap().clone();
                    let answer = format!("HTTP/1.1 {head}content-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        };
        tasks.spawn(async move { stop.run_until_cancelled(serve).await });
        Self {
            address,
            authority,
            posted,
            answer,
            _tasks: Stops(tasks),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// Answers from now on with this status line and these headers, each with its line's end.
    pub(crate) fn answers(&self, head: &str) {
        *self.answer.lock().unwrap() = head.to_owned();
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
) -> io::Result<Posted> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(Posted {
        line: line.trim_end().trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body,
    })
}
