//! HTTP listeners: https as Mailu's edge offers it, and plain http that only redirects.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, Response, header};
use futures_util::{StreamExt as _, stream};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::control;
use super::exchange::{Answer, Arrival, exchange};
use super::reply::Reply;
use super::shared::Shared;

/// nginx takes more, but no call of this API has a reason to.
const BODY_LIMIT: usize = 1 << 20;
const CHUNK: usize = 1 << 16;

/// What a listener does with its requests.
#[derive(Clone)]
pub enum Service {
    /// The API behind TLS, under the name the journal uses.
    Api(TlsAcceptor, &'static str),
    /// 301 to the https listener's port, for everything.
    Redirect(u16),
    /// The control API, in plain text.
    Control,
}

/// Accepts connections until the stand-in stops.
pub async fn listen(shared: Arc<Shared>, listener: TcpListener, service: Service) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let Ok((stream, peer)) = accepted else {
            continue;
        };
        let (shared, service) = (Arc::clone(&shared), service.clone());
        let stop = shared.stop.clone();
        let connection = connection(Arc::clone(&shared), stream, peer, service);
        shared
            .tasks
            .spawn(async move { stop.run_until_cancelled(connection).await });
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, service: Service) {
    // A small answer must not wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    match &service {
        Service::Api(acceptor, _) => {
            // A client that refuses the certificate ends here.
            if let Ok(stream) = acceptor.clone().accept(stream).await {
                serve(shared, stream, peer, service).await;
            }
        }
        Service::Redirect(_) | Service::Control => serve(shared, stream, peer, service).await,
    }
}

async fn serve<S>(shared: Arc<Shared>, stream: S, peer: SocketAddr, service: Service)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handler = service_fn(|request| respond(Arc::clone(&shared), peer, &service, request));
    // How a connection ends is the client's affair, or an ordered fault.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

/// Answers one request. An error makes hyper close the connection without a word.
async fn respond(
    shared: Arc<Shared>,
    peer: SocketAddr,
    service: &Service,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), BODY_LIMIT)
        .await
        .map_err(io::Error::other)?
        .to_vec();
    let (listener, redirect) = match service {
        Service::Api(_, listener) => (*listener, None),
        Service::Redirect(port) => ("http", Some(*port)),
        Service::Control => return send(&control::answer(&shared, &parts, &body).await),
    };
    let arrival = Arrival {
        peer: peer.ip(),
        listener,
        parts,
        body,
    };
    if let Some(port) = redirect {
        return send(&super::exchange::redirect(&shared, &arrival, port));
    }
    // A task of its own: the work goes on when the client hangs up and this future is dropped.
    let tasks = shared.tasks.clone();
    match tasks
        .spawn(exchange(shared, arrival))
        .await
        .map_err(io::Error::other)?
    {
        Answer::Send(reply) => send(&reply),
        Answer::Slowly(reply, pause) => slowly(reply, pause),
        Answer::Huge(bytes) => huge(bytes),
        Answer::Cut => Err(io::Error::other("cut by order")),
    }
}

fn send(reply: &Reply) -> io::Result<Response<Body>> {
    let body = Body::from(reply.body.clone());
    head(reply).body(body).map_err(io::Error::other)
}

fn head(reply: &Reply) -> axum::http::response::Builder {
    let mut head = Response::builder()
        .status(reply.status)
        .header(header::SERVER, "nginx");
    if reply.status != 204 {
        head = head.header(header::CONTENT_TYPE, reply.content_type);
    }
    if let Some(location) = &reply.location {
        head = head.header(header::LOCATION, location);
    }
    for (name, value) in &reply.headers {
        head = head.header(name, value);
    }
    head
}

fn slowly(reply: Reply, pause: Duration) -> io::Result<Response<Body>> {
    let head = head(&reply);
    let bytes = stream::iter(reply.body).then(move |byte| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Infallible>(Bytes::from(vec![byte]))
    });
    head.body(Body::from_stream(bytes))
        .map_err(io::Error::other)
}

fn huge(bytes: u64) -> io::Result<Response<Body>> {
    let start = Bytes::from_static(b"{\"code\":200,\"message\":\"");
    let filler = Bytes::from(vec![b'a'; CHUNK]);
    let chunks = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(CHUNK);
    let body = stream::iter([start])
        .chain(stream::iter(std::iter::repeat_n(filler, chunks)))
        .chain(stream::iter([Bytes::from_static(b"\"}")]))
        .map(Ok::<_, Infallible>);
    let reply = Reply::done("");
    head(&reply)
        .body(Body::from_stream(body))
        .map_err(io::Error::other)
}
