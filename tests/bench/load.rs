//! Load over HTTP: a number of connections, each with one request at a time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What is asked, again and again.
#[derive(Clone)]
pub struct Target {
    pub name: &'static str,
    pub method: Method,
    /// Below `/v1/`; each connection goes round them, beginning at another one.
    pub paths: Vec<String>,
    /// Sent in turn; empty for reads.
    pub bodies: Vec<String>,
    /// The only status that counts as an answer.
    pub status: u16,
}

/// What one run of a target gave.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    /// Latencies in microseconds.
    pub p50: f64,
    pub p99: f64,
}

/// Asks for `time` over `connections` connections, after a warm-up of a tenth of it.
pub async fn run(
    address: &str,
    token: &str,
    target: &Target,
    connections: usize,
    time: Duration,
) -> Figures {
    let workers = (0..connections).map(|number| worker(address, token, target, number, time));
    let mut latencies: Vec<Duration> = futures_util::future::join_all(workers)
        .await
        .into_iter()
        .flatten()
        .collect();
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies[place.min(latencies.len() - 1)].as_secs_f64() * 1e6
    };
    Figures {
        per_second: latencies.len() as f64 / time.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// How many targets lie between two workers when they begin.
const APART: usize = 7;

async fn worker(
    address: &str,
    token: &str,
    target: &Target,
    number: usize,
    time: Duration,
) -> Vec<Duration> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let warm = Instant::now() + time / 10;
    // Apart from each other: behind a slow answer more than eight of them would stand at one tenant,
    // which takes no more at a time.
    let mut round = number * APART;
    while Instant::now() < warm {
        ask(&mut sender, address, token, target, round).await;
        round += 1;
    }
    let (begin, mut latencies) = (Instant::now(), Vec::new());
    let mut before = begin;
    while before.duration_since(begin) < time {
        ask(&mut sender, address, token, target, round).await;
        round += 1;
        let now = Instant::now();
        latencies.push(now - before);
        before = now;
    }
    drop(sender);
    driver.await.unwrap().unwrap();
    latencies
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    address: &str,
    token: &str,
    target: &Target,
    round: usize,
) {
    let path = &target.paths[round % target.paths.len()];
    let body = match target.bodies.len() {
        0 => String::new(),
        bodies => target.bodies[(round / target.paths.len()) % bodies].clone(),
    };
    let request = Request::builder()
        .method(target.method.clone())
        .uri(format!("/v1/{path}"))
        .header("host", address)
        .header("x-vault-token", token)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(status, target.status, "{path}: {body:?}");
}
