//! A bound plugin server: everything of [`super::serve`] that has no process-wide effect.

use std::future::Future;
use std::time::Duration;

use tonic::service::Routes;
use tonic::transport::server::Server as GrpcServer;

use super::broker::{Broker, BrokerService};
use super::controller::Controller;
use super::health::Health;
use super::host_link::{Ending, HostLink};
use super::host_stream::Gate;
use super::knock::Knocker;
use super::listener::Listener;
use super::mux::Mux;
use super::stdio::Stdio;
use super::tls::MutualTls;
use super::{Error, HostEnv, Protocol, handshake};
use crate::proto::grpc::health::v1::health_server::HealthServer;
use crate::proto::plugin::grpc_broker_server::GrpcBrokerServer;
use crate::proto::plugin::grpc_controller_server::GrpcControllerServer;
use crate::proto::plugin::grpc_stdio_server::GrpcStdioServer;
use crate::tasks::Tasks;

/// How long everything under way may take once the end has come: calls, the services' cleaning up
/// and background tasks, all at the same time. A host that asked for the end kills the process
/// after two seconds; what is left of them is for the log and the exit.
const END: Duration = Duration::from_millis(1500);
/// Calls that may be cancelled before they were looked at. HTTP/2 servers end the connection above
/// a limit, by default 20, against strangers who do nothing else. The peer here is the host, each
/// of whose clients that goes away is a cancelled call; and without the connection this process
/// would end.
const MAX_CANCELLED: usize = 1 << 16;

/// A plugin that is bound to its socket but does not answer yet.
#[derive(Debug)]
pub struct Server {
    version: u32,
    says_multiplexing: bool,
    tls: MutualTls,
    link: HostLink,
    listener: Listener,
    broker: Broker,
    /// There if all connections share one socket.
    mux: Option<Mux>,
    tasks: Tasks,
}

impl Server {
    /// Makes the certificate and binds the socket.
    ///
    /// # Errors
    ///
    /// [`Error::OwnCertificate`], [`Error::Tls`], [`Error::Random`], [`Error::UnknownGroup`] or
    /// [`Error::Socket`].
    pub fn bind(protocol: &Protocol, env: &HostEnv) -> Result<Self, Error> {
        let tls = MutualTls::new(env.host_certificate.clone())?;
        let mut name = [0; 8];
        tls.random(&mut name)?;
        let listener = Listener::bind(&env.socket_dir, env.socket_group.as_deref(), name)?;
        let tasks = Tasks::new();
        let mux = env.multiplexing.is_wanted().then(|| Mux::new(&tasks));
        let broker = match mux.clone() {
            None => Broker::announced(tls.clone()),
            Some(mux) => {
                let knocker = Knocker::new(tls.clone(), mux, tasks.clone());
                Broker::knocked(tls.clone(), knocker)
            }
        };
        Ok(Self {
            version: protocol.version,
            says_multiplexing: env.multiplexing.is_asked_for(),
            link: HostLink::new(),
            broker,
            tls,
            listener,
            mux,
            tasks,
        })
    }

    /// Returns the line that tells the host where and how to connect, with its line end.
    #[must_use]
    pub fn handshake_line(&self) -> String {
        handshake::line(
            self.version,
            self.listener.path(),
            &self.tls.certificate,
            self.says_multiplexing,
        )
    }

    /// Returns the broker, which dials back into the host once [`Server::run`] answers.
    #[must_use]
    pub fn broker(&self) -> Broker {
        self.broker.clone()
    }

    /// Answers with `services` and go-plugin's own until the host ends it, is gone, or `terminate`
    /// is ready; then runs `clean_up` and waits for calls under way, both for 1.5 seconds at most.
    ///
    /// # Errors
    ///
    /// [`Error::Server`] or [`Error::Stopped`] if the gRPC server ended by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops accepting and unlinks the socket soon after; calls under way run on
    /// for as long as the runtime does.
    pub async fn run(
        self,
        services: Routes,
        terminate: impl Future<Output = ()>,
        clean_up: impl Future<Output = ()>,
    ) -> Result<Ending, Error> {
        let tasks = self.tasks;
        let stopping = tasks.cancelled();
        // A dropped future must stop the accepting task as well.
        let _stop_on_drop = stopping.clone().drop_guard();
        let link = self.link;
        let services = services
            .add_service(GrpcBrokerServer::new(BrokerService {
                broker: self.broker,
                link: link.clone(),
                tasks: tasks.clone(),
            }))
            .add_service(GrpcControllerServer::new(Controller(link.clone())))
            .add_service(GrpcStdioServer::new(Stdio {
                stopping: stopping.clone(),
            }))
            .add_service(HealthServer::new(Health {
                stopping: stopping.clone(),
            }));
        let (gate, connections) = Gate::new(&self.tls, &link);
        let mux = self.mux;
        self.listener.accept(gate, mux.clone(), &tasks);
        let serving = GrpcServer::builder()
            .http2_max_pending_accept_reset_streams(Some(MAX_CANCELLED))
            .add_routes(services)
            .serve_with_incoming_shutdown(connections, stopping.clone().cancelled_owned());
        tokio::pin!(serving);

        let ending = tokio::select! {
            ended = &mut serving => return Err(ended.map_or_else(Error::Server, |()| Error::Stopped)),
            ending = link.ended() => ending,
            () = terminate => Ending::Terminated,
        };
        stopping.cancel();
        let answered = async {
            let _ = tokio::join!(serving, clean_up);
            // Until now both needed the session.
            if let Some(mux) = mux {
                mux.close();
            }
        };
        let all = async { tokio::join!(answered, tasks.stop(END)) };
        if tokio::time::timeout(END, all).await.is_err() {
            // It is cut by the end of the process; the host waits no longer either.
            tracing::warn!("work under way did not end in time");
        }
        Ok(ending)
    }
}
