//! A connection between this process and its host, and the proof that it is one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::compat::Compat;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::host_link::{ConnectionGuard, HostLink};
use super::refusals::Refusals;
use super::tls::MutualTls;

/// How long a connection may take to prove who it is.
pub(super) const PROOF_DEADLINE: Duration = Duration::from_secs(10);

/// What TLS runs on: a socket of its own, or a stream of the one socket all share.
pub(super) type Transport = Either<UnixStream, Compat<yamux::Stream>>;

/// Lets the host's connections through to the gRPC server. Clones share one way in.
#[derive(Clone)]
pub(super) struct Gate {
    acceptor: TlsAcceptor,
    link: HostLink,
    ready: mpsc::Sender<io::Result<HostStream>>,
    refusals: Refusals,
}

impl Gate {
    /// Makes a gate, and the stream of those it lets through.
    pub(super) fn new(
        tls: &MutualTls,
        link: &HostLink,
    ) -> (Self, ReceiverStream<io::Result<HostStream>>) {
        let (ready, connections) = mpsc::channel(1);
        let gate = Self {
            acceptor: TlsAcceptor::from(Arc::clone(&tls.server)),
            link: link.clone(),
            ready,
            refusals: Refusals::default(),
        };
        (gate, ReceiverStream::new(connections))
    }

    /// Waits for the proof, for 10 seconds at most, and lets the connection through.
    pub(super) async fn admit(&self, transport: Transport) {
        if let Some(stream) = self.prove(transport).await {
            self.pass(stream).await;
        }
    }

    /// Waits for the proof that this is the host, for 10 seconds at most.
    pub(super) async fn prove(&self, transport: Transport) -> Option<HostStream> {
        match tokio::time::timeout(PROOF_DEADLINE, self.acceptor.accept(transport)).await {
            Ok(Ok(tls)) => Some(HostStream {
                tls: Box::new(tls),
                _open: self.link.connection_opened(),
            }),
            Ok(Err(error)) => {
                self.refused(&format!("it is not the host's: {error}"));
                None
            }
            Err(_) => {
                self.refused("it did not speak in time");
                None
            }
        }
    }

    /// Hands a proven connection to the server.
    pub(super) async fn pass(&self, stream: HostStream) {
        // Fails only if the server has ended already.
        let _ = self.ready.send(Ok(stream)).await;
    }

    /// Counts a connection that was not let in.
    pub(super) fn refused(&self, reason: &str) {
        self.refusals.count(reason);
    }

    /// Tells of connections that were not let in and have not been told of. To be called often.
    pub(super) fn report_refusals(&self) {
        self.refusals.report();
    }

    /// Returns how many proven connections are open.
    pub(super) fn open_connections(&self) -> usize {
        self.link.open_connections()
    }
}

/// A connection that proved to be the host's.
#[derive(Debug)]
pub(super) struct HostStream {
    tls: Box<TlsStream<Transport>>,
    _open: ConnectionGuard,
}

impl Connected for HostStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for HostStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
