//! The broker: how a plugin gets connections back into its host.
//!
//! The host numbers them. For number *n* it listens on a fresh socket and announces the address on
//! the one broker stream; somewhere in a call of its own it mentions *n*. Either can be first, so
//! both sides meet in a table.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status, Streaming};

use super::error::causes;
use super::host_link::HostLink;
use super::tls::MutualTls;
use crate::proto::plugin::ConnInfo;
use crate::proto::plugin::grpc_broker_server::GrpcBroker;
use crate::tasks::Tasks;

/// How long a dial may take, from waiting for the announcement to the end of the TLS handshake.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
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
    #[error("the host did not accept connection {0} within 5 s")]
    Timeout(u32),
}

/// Dials connections the host announces. Clones share one table.
#[derive(Clone, Debug)]
pub struct Broker {
    tls: MutualTls,
    table: Arc<Mutex<Table>>,
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

impl Broker {
    pub(super) fn new(tls: MutualTls) -> Self {
        Self {
            tls,
            table: Arc::default(),
        }
    }

    /// Connects to what the host announced, or is about to, as number `id`.
    ///
    /// The channel reconnects by itself as long as the host listens. TLS is inside the connector,
    /// because tonic's own cannot pin a peer; hence the `http` address.
    ///
    /// # Errors
    ///
    /// Any [`DialError`], after 5 seconds at most.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future forgets the dial; an announcement already taken is lost with it.
    pub async fn dial(&self, id: u32) -> Result<Channel, DialError> {
        let deadline = Instant::now() + DIAL_DEADLINE;
        let announced = timeout_at(deadline, self.announced(id)).await;
        let Some(announced) = announced.ok().flatten() else {
            self.table().awaited.remove(&id);
            return Err(DialError::NotAnnounced(id));
        };
        timeout_at(deadline, self.connect(announced))
            .await
            .map_err(|_elapsed| DialError::Timeout(id))?
    }

    async fn connect(&self, announced: Announced) -> Result<Channel, DialError> {
        if announced.network != "unix" {
            return Err(DialError::Network(announced.network));
        }
        let tls = TlsConnector::from(Arc::clone(&self.tls.client));
        let name = self.tls.server_name.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, name, address) = (tls.clone(), name.clone(), announced.address.clone());
            async move {
                let stream = UnixStream::connect(&address).await?;
                let stream = tls.connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://localhost")
            .connect_timeout(DIAL_DEADLINE)
            .connect_with_connector(connector)
            .await
            .map_err(DialError::Connect)
    }

    async fn announced(&self, id: u32) -> Option<Announced> {
        let waiting = {
            let mut table = self.table();
            if let Some(info) = table.announced.remove(&id) {
                return Some(info);
            }
            let (sender, receiver) = oneshot::channel();
            table.awaited.insert(id, sender);
            receiver
        };
        waiting.await.ok()
    }

    fn announce(&self, id: u32, info: Announced) {
        let mut table = self.table();
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

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is one call on a map: a panic cannot leave it half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
                    broker.announce(
                        info.service_id,
                        Announced {
                            network: info.network,
                            address: info.address,
                        },
                    );
                }
            };
            tokio::select! {
                () = until.cancelled() => {}
                () = read => link.broker_ended(),
            }
        });
        // Nothing is ever announced to the host: no call of ours takes a number.
        let silent = futures_util::stream::pending().take_until(stopping.cancelled_owned());
        Ok(Response::new(Box::pin(silent)))
    }
}
