//! All connections over one socket: yamux sessions, for hosts that start plugins in containers.
//!
//! Such a host connects to the socket once, ever, and speaks yamux on it, in the clear. Each stream
//! it opens is an ordinary connection to the gRPC server, with mutual TLS of its own; each stream
//! opened from here leads to a door the host was told of before (see the `knock` module).
//!
//! go-plugin takes whoever connects first for the host, and never accepts again. Here a session is
//! nobody's until its first stream has passed mutual TLS: until then it has 10 seconds and one
//! stream, and no more than 16 of its kind are open. So one who connects before the host does not
//! become the host, though many who are faster than it can keep it out: the `listener` module says
//! when. From the proof on that session is the only one: raw connections that come later are closed
//! unheard, because the host has no use for a second, and accepting resumes only when it has ended.
//! (A real host does not come again then. One that did would find the door open for the two seconds
//! before this process takes it for lost.)
//!
//! A stream's window stays at yamux's 256 KiB: growing it serves long distances, and a socket has
//! none. The host's keep-alive pings, one in 30 seconds, are answered by the session's task.
//!
//! Source: go-plugin `internal/grpcmux`, `client.go` (`getGRPCMuxer`); yamux `spec.md`,
//! `session.go`.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::io::BufStream;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::host_stream::{Gate, HostStream, PROOF_DEADLINE, Transport};
use crate::tasks::Tasks;

/// Sessions that may be proving whose they are at the same time. Each may make this process hold a
/// frame of 1 MiB.
pub(super) const MAX_UNPROVEN: usize = 16;
/// Streams of both sides in one session. A host opens one; one more is opened to it for each mount.
const MAX_STREAMS: usize = 8192;
/// Streams the host may have open or be opening at the same time: more than it ever needs.
const MAX_INBOUND: usize = 16;
/// A stream's window in bytes, as yamux's specification has it.
const WINDOW: usize = 256 << 10;

/// A yamux connection. Buffered, because a frame's head and its body are written apart.
type Connection = yamux::Connection<Compat<BufStream<UnixStream>>>;
/// A wish for a stream to the host, and where it is to be put.
type Order = oneshot::Sender<yamux::Stream>;

/// The one session with the host, when there is one. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Mux {
    orders: Arc<Mutex<Option<mpsc::Sender<Order>>>>,
    tasks: Tasks,
    over: CancellationToken,
}

impl Mux {
    pub(super) fn new(tasks: &Tasks) -> Self {
        Self {
            orders: Arc::default(),
            tasks: tasks.clone(),
            over: CancellationToken::new(),
        }
    }

    /// Reports whether the host has its session, so that nobody else needs to be heard.
    pub(super) fn is_taken(&self) -> bool {
        self.orders().is_some()
    }

    /// Closes the session once what was written to it is sent. To be called when every call and the
    /// cleaning up have ended: both need it.
    pub(super) fn close(&self) {
        self.over.cancel();
    }

    /// Opens a stream to the host, or returns `None` if there is no session. The host learns of it
    /// with the first bytes.
    pub(super) async fn open(&self) -> Option<Transport> {
        let orders = self.orders().clone()?;
        let (order, opened) = oneshot::channel();
        orders.send(order).await.ok()?;
        Some(Either::Right(opened.await.ok()?.compat()))
    }

    /// Finds out whether a raw connection is the host's. If it is, it is served by a task of its
    /// own from then on.
    pub(super) async fn admit(&self, raw: UnixStream, gate: &Gate) {
        let mut connection = Connection::new(
            BufStream::new(raw).compat(),
            settings(),
            yamux::Mode::Server,
        );
        let proof = prove(&mut connection, gate);
        let Ok(proven) = tokio::time::timeout(PROOF_DEADLINE, proof).await else {
            gate.refused("the session did not prove to be the host's in time");
            return;
        };
        let Some(first) = proven else { return };
        // Not a moment before: who failed must not be taken for the host.
        let Some((orders, claim)) = self.claim() else {
            return;
        };
        let session = Session {
            connection,
            orders,
            gate: gate.clone(),
            tasks: self.tasks.clone(),
            admissions: VecDeque::new(),
            over: self.over.clone(),
            _claim: claim,
        };
        self.tasks.spawn(session.run());
        gate.pass(first).await;
    }

    /// Makes the caller's session the only one, unless there is one.
    fn claim(&self) -> Option<(mpsc::Receiver<Order>, Claim)> {
        let mut current = self.orders();
        if current.is_some() {
            return None;
        }
        let (sender, orders) = mpsc::channel(1);
        *current = Some(sender);
        Some((orders, Claim(self.clone())))
    }

    fn orders(&self) -> MutexGuard<'_, Option<mpsc::Sender<Order>>> {
        // Only ever replaced as a whole.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be the only session, given back on drop.
struct Claim(Mux);

impl Drop for Claim {
    fn drop(&mut self) {
        *self.0.orders() = None;
    }
}

fn settings() -> yamux::Config {
    let mut settings = yamux::Config::default();
    // In this order: each is checked against the other. Together they leave no window to grow.
    settings.set_max_connection_receive_window(Some(MAX_STREAMS * WINDOW));
    settings.set_max_num_streams(MAX_STREAMS);
    settings
}

/// Waits until the session's first stream has passed mutual TLS. A host opens one and waits; whoever
/// opens a second before that is not one.
async fn prove(connection: &mut Connection, gate: &Gate) -> Option<HostStream> {
    let first = next_inbound(connection).await?;
    tokio::select! {
        proven = gate.prove(Either::Right(first.compat())) => proven,
        _second_or_end = next_inbound(connection) => {
            gate.refused("the session did not behave like the host's");
            None
        }
    }
}

/// Keeps the session going until its peer opens a stream; `None` at its end, whatever the cause.
///
/// Cancel safe: the state is the connection's.
async fn next_inbound(connection: &mut Connection) -> Option<yamux::Stream> {
    poll_fn(|cx| connection.poll_next_inbound(cx)).await?.ok()
}

/// The host's session.
struct Session {
    connection: Connection,
    orders: mpsc::Receiver<Order>,
    gate: Gate,
    tasks: Tasks,
    admissions: VecDeque<JoinHandle<()>>,
    over: CancellationToken,
    _claim: Claim,
}

impl Session {
    async fn run(mut self) {
        loop {
            tokio::select! {
                inbound = next_inbound(&mut self.connection) => match inbound {
                    Some(stream) => self.admit(stream),
                    None => return,
                },
                Some(order) = self.orders.recv() => self.open(order).await,
                () = self.over.cancelled() => break,
            }
        }
        for admission in &self.admissions {
            admission.abort();
        }
        // What fails here is the host's end of it.
        let _ = poll_fn(|cx| self.connection.poll_close(cx)).await;
    }

    /// Each admission is a task of its own, so that a slow one keeps nobody waiting.
    fn admit(&mut self, stream: yamux::Stream) {
        self.admissions.retain(|admission| !admission.is_finished());
        if self.admissions.len() + self.gate.open_connections() >= MAX_INBOUND {
            tracing::warn!("refused a stream because the host has too many open");
            return;
        }
        let gate = self.gate.clone();
        self.admissions.push_back(self.tasks.spawn(async move {
            gate.admit(Either::Right(stream.compat())).await;
        }));
    }

    /// Fills an order. One that cannot be filled at once is dropped, which its maker sees: waiting
    /// would keep the whole session waiting.
    async fn open(&mut self, order: Order) {
        let opened = poll_fn(|cx| Poll::Ready(self.connection.poll_new_outbound(cx))).await;
        if let Poll::Ready(Ok(stream)) = opened {
            // Nobody waits any longer if this fails.
            let _ = order.send(stream);
        }
    }
}
