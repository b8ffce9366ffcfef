//! The broker: how a plugin gets connections back into its host.
//!
//! The host numbers them. For number *n* it listens on a fresh socket and announces the address on
//! the one broker stream; somewhere in a call of its own it mentions *n*. Either can be first, so
//! both sides meet in a table. A host with one socket for everything announces nothing: there a
//! plugin knocks (see the `knock` module).

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status, Streaming};

use super::error::causes;
use super::host_link::HostLink;
use super::host_stream::Transport;
use super::knock::{KnockError, Knocker};
use super::tls::MutualTls;
use crate::proto::plugin::ConnInfo;
use crate::proto::plugin::grpc_broker_server::GrpcBroker;
use crate::tasks::Tasks;

/// How long a dial may take, from waiting for the announcement to the end of the TLS handshake.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// The same where dials wait for each other and each may take its time to knock.
const KNOCK_DEADLINE: Duration = Duration::from_secs(30);
/// Announcements nobody dialled that are kept; the oldest goes first. A host makes one a mount.
const MAX_ANNOUNCED: usize = 256;

/// Why a connection into the host could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host did not announce the connection in time.
    #[error("the host did not announce connection {0} within 5 s")]
    NotAnnounced(u32),
    /// The host announced something else than a unix socket.
    #[error("the host announced a {0:?} connection; only \"unix\" is supported")]
    Network(String),
    /// The socket or the TLS handshake on it failed.
    #[error("could not connect to the host: {}", causes(.0))]
    Connect(tonic::transport::Error),
    /// It took too long.
    #[error("the host did not accept connection {0} within {seconds} s", seconds = .1.as_secs())]
    Timeout(u32, Duration),
    /// The host did not open the door.
    #[error(transparent)]
    Knock(KnockError),
}

/// Dials connections the host offers. Clones share what is known of them.
#[derive(Clone, Debug)]
pub struct Broker {
    tls: MutualTls,
    route: Route,
}

/// How connections into the host are made.
#[derive(Clone, Debug)]
enum Route {
    /// Each on the socket that was announced for it.
    Announced(Arc<Mutex<Table>>),
    /// Each as a stream of the session, after a knock.
    Knocked(Knocker),
}

/// Whichever side came first, by number.
#[derive(Debug, Default)]
struct Table {
    announced: BTreeMap<u32, Announced>,
    awaited: BTreeMap<u32, oneshot::Sender<Announced>>,
}

/// An announced address.
#[derive(Clone, Debug)]
struct Announced {
    network: String,
    address: String,
}

/// Why the channel could not connect; the gRPC library carries it in its own error.
type ConnectError = Box<dyn StdError + Send + Sync>;

impl Broker {
    /// Makes the broker of a host that announces a socket for each connection.
    pub(super) fn announced(tls: MutualTls) -> Self {
        let route = Route::Announced(Arc::default());
        Self { tls, route }
    }

    /// Makes the broker of a host that has one socket for everything.
    pub(super) fn knocked(tls: MutualTls, knocker: Knocker) -> Self {
        let route = Route::Knocked(knocker);
        Self { tls, route }
    }

    /// Connects to what the host offers, or is about to, as number `id`.
    ///
    /// The channel reconnects by itself as long as the host listens. TLS is inside the connector,
    /// because tonic's own cannot pin a peer; hence the `http` address.
    ///
    /// # Errors
    ///
    /// Any [`DialError`]: after 5 seconds at most, or 30 where dials wait for each other.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future forgets the dial; an announcement already taken is lost with it.
    pub async fn dial(&self, id: u32) -> Result<Channel, DialError> {
        match &self.route {
            Route::Announced(table) => {
                let deadline = Instant::now() + DIAL_DEADLINE;
                let announced = timeout_at(deadline, wait(table, id)).await;
                let Some(announced) = announced.ok().flatten() else {
                    lock(table).awaited.remove(&id);
                    return Err(DialError::NotAnnounced(id));
                };
                if announced.network != "unix" {
                    return Err(DialError::Network(announced.network));
                }
                let connect = move |tls| socket(announced.address.clone(), tls);
                self.channel(id, DIAL_DEADLINE, deadline, connect).await
            }
            Route::Knocked(knocker) => {
                let deadline = Instant::now() + KNOCK_DEADLINE;
                let knocker = knocker.clone();
                let connect = move |_| {
                    let knocker = knocker.clone();
                    async move { Ok(knocker.dial(id).await?) }
                };
                self.channel(id, KNOCK_DEADLINE, deadline, connect).await
            }
        }
    }

    /// Makes a channel of whatever `connect` makes, now and each time it is lost.
    async fn channel<C, F>(
        &self,
        id: u32,
        limit: Duration,
        deadline: Instant,
        connect: C,
    ) -> Result<Channel, DialError>
    where
        C: Fn(MutualTls) -> F + Send + 'static,
        F: Future<Output = Result<TlsStream<Transport>, ConnectError>> + Send + 'static,
    {
        let tls = self.tls.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let connected = connect(tls.clone());
            async move { connected.await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(limit);
        match timeout_at(deadline, endpoint.connect_with_connector(connector)).await {
            Ok(connected) => connected.map_err(|error| match cause::<KnockError>(&error) {
                Some(knock) => DialError::Knock(knock.clone()),
                None => DialError::Connect(error),
            }),
            Err(_) => Err(DialError::Timeout(id, limit)),
        }
    }

    /// Takes a message of the host from the broker stream.
    fn received(&self, info: ConnInfo) {
        match (&self.route, info.knock) {
            (Route::Announced(table), None) => announce(
                &mut lock(table),
                info.service_id,
                Announced {
                    network: info.network,
                    address: info.address,
                },
            ),
            (Route::Knocked(knocker), Some(knock)) => knocker.answered(info.service_id, &knock),
            (Route::Announced(_), Some(_)) | (Route::Knocked(_), None) => {
                tracing::warn!("the host mixes sockets and streams; the message is ignored");
            }
        }
    }

    /// Returns what the host is to be sent on a new broker stream. It is never told of a connection
    /// to make: no call of ours takes a number.
    fn outbound(&self) -> Pin<Box<dyn Stream<Item = ConnInfo> + Send>> {
        match &self.route {
            Route::Announced(_) => Box::pin(futures_util::stream::pending()),
            Route::Knocked(knocker) => Box::pin(ReceiverStream::new(knocker.stream_opened())),
        }
    }
}

/// Finds a cause of a certain type.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Connects to an announced socket.
async fn socket(address: String, tls: MutualTls) -> Result<TlsStream<Transport>, ConnectError> {
    let stream = UnixStream::connect(&address).await?;
    let connector = TlsConnector::from(Arc::clone(&tls.client));
    Ok(connector
        .connect(tls.server_name, Either::Left(stream))
        .await?)
}

/// Waits for an announcement.
async fn wait(table: &Mutex<Table>, id: u32) -> Option<Announced> {
    let waiting = {
        let mut table = lock(table);
        if let Some(info) = table.announced.remove(&id) {
            return Some(info);
        }
        let (sender, receiver) = oneshot::channel();
        table.awaited.insert(id, sender);
        receiver
    };
    waiting.await.ok()
}

fn announce(table: &mut Table, id: u32, info: Announced) {
    let undelivered = match table.awaited.remove(&id) {
        Some(waiting) => waiting.send(info).err(),
        None => Some(info),
    };
    if let Some(info) = undelivered {
        table.announced.insert(id, info);
        if table.announced.len() > MAX_ANNOUNCED {
            table.announced.pop_first();
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Every change is one call on a map: a panic cannot leave it half done.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The plugin's end of the broker stream.
#[derive(Debug)]
pub(super) struct BrokerService {
    pub(super) broker: Broker,
    pub(super) link: HostLink,
    pub(super) tasks: Tasks,
}

#[tonic::async_trait]
impl GrpcBroker for BrokerService {
    type StartStreamStream = Pin<Box<dyn Stream<Item = Result<ConnInfo, Status>> + Send>>;

    /// Reads announcements on a task: the host waits for the dial inside a call of its own.
    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let mut inbound = request.into_inner();
        let (broker, link) = (self.broker.clone(), self.link.clone());
        let stopping = self.tasks.cancelled();
        let until = stopping.clone();
        self.tasks.spawn(async move {
            let read = async {
                while let Ok(Some(info)) = inbound.message().await {
                    broker.received(info);
                }
            };
            tokio::select! {
                () = until.cancelled() => {}
                () = read => link.broker_ended(),
            }
        });
        let outbound = self.broker.outbound().map(Ok);
        let outbound = outbound.take_until(stopping.cancelled_owned());
        Ok(Response::new(Box::pin(outbound)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Announced {
        Announced {
            network: String::from("unix"),
            address: address.to_owned(),
        }
    }

    #[tokio::test]
    async fn either_side_may_come_first() {
        let table = Mutex::default();
        announce(&mut lock(&table), 1, at("early"));
        assert_eq!(wait(&table, 1).await.unwrap().address, "early");
        let (found, ()) = tokio::join!(wait(&table, 2), async {
            announce(&mut lock(&table), 3, at("another's"));
            announce(&mut lock(&table), 2, at("late"));
        });
        assert_eq!(found.unwrap().address, "late");
        assert_eq!(wait(&table, 3).await.unwrap().address, "another's");
        assert!(lock(&table).awaited.is_empty() && lock(&table).announced.is_empty());
    }

    #[test]
    fn announcements_nobody_dials_do_not_pile_up() {
        let mut table = Table::default();
        for id in (0..).take(2 * MAX_ANNOUNCED) {
            announce(&mut table, id, at("unwanted"));
        }
        assert_eq!(table.announced.len(), MAX_ANNOUNCED);
    }
}
