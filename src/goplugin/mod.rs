//! HashiCorp's go-plugin protocol, plugin side: how a host starts a process and talks gRPC to it.
//!
//! Knows nothing of Vault: the cookie, the protocol version and the services are the caller's.
//! Speaks gRPC over mutual TLS on a unix socket and nothing else: no net/rpc, no TCP, no plaintext.
//! Connections have a socket each or, for a host that starts plugins in containers, share one as
//! yamux streams; above the transport nobody can tell.
//!
//! What must stay true:
//!
//! - stdout carries the handshake line and nothing else, ever; stderr carries hclog JSON.
//! - Only the host that started this process gets through TLS: its certificate is pinned.
//! - The process never outlives its host, and is gone within two seconds of being told to go.
//!
//! [`serve`] is for a process of its own. [`Server`] is the same without process-wide effects
//! (signals, stdout, the global logger), for tests and for embedding.
//!
//! Source: go-plugin `server.go`, `client.go`, `grpc_broker.go`, `mtls.go`, `internal/cmdrunner`;
//! behaviour confirmed with OpenBao 2.7.2.

mod broker;
mod controller;
mod env;
mod error;
mod handshake;
mod hclog;
mod health;
mod host_link;
mod host_stream;
mod knock;
mod listener;
mod mux;
mod refusals;
mod server;
mod stdio;
mod tls;

use std::future::Future;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tonic::service::Routes;

use crate::clock::Clock;

pub use broker::{Broker, DialError};
pub use env::{HostEnv, Multiplexing};
pub use error::Error;
pub use handshake::{Cookie, Protocol};
pub use hclog::{LogGuard, Logging};
pub use host_link::Ending;
pub use knock::KnockError;
pub use server::Server;

/// What the fuzzers call besides the public interface; no interface itself.
#[doc(hidden)]
pub mod fuzzing {
    use std::path::Path;

    use rustls::pki_types::CertificateDer;

    /// Formats the handshake line as [`super::Server::handshake_line`] does, without a socket.
    #[must_use]
    pub fn handshake_line(
        version: u32,
        socket: &Path,
        certificate: &CertificateDer<'_>,
        asks_for_multiplexing: bool,
    ) -> String {
        super::handshake::line(version, socket, certificate, asks_for_multiplexing)
    }
}

/// Signals that do not end the plugin: its host gets them too, as a terminal's group or by a tool
/// that has logs reopened or a status told, and decides for both. Their default is to end a process.
const IGNORED: [fn() -> SignalKind; 4] = [
    SignalKind::interrupt,
    SignalKind::hangup,
    SignalKind::user_defined1,
    SignalKind::user_defined2,
];

/// Serves a plugin until its host is done with it; takes over the process's signals, standard
/// output and global logger.
///
/// In this order, because each step relies on those before it:
///
/// 1. The magic cookie is compared, so that a curious person gets a text and not a socket.
/// 2. The variables of the host are parsed.
/// 3. SIGINT is ignored from here on: Ctrl-C in a terminal reaches the whole process group, and it
///    is the host's to answer. SIGTERM ends the process as a shutdown does.
/// 4. Logs go to stderr as hclog JSON; a panic is logged by its place only.
/// 5. A key pair is made, the host's certificate pinned and the socket bound ([`Server::bind`]).
/// 6. The handshake line is written. The host connects as soon as it has read it; the kernel
///    queues the connection until step 7.
/// 7. `services` is called with the broker, and its services answer next to go-plugin's own.
/// 8. The end comes: Shutdown, SIGTERM, or the host is gone. Calls under way and `clean_up` get 1.5
///    seconds together, the socket is unlinked, and the reason is returned. What is left of the
///    log is the returned guard's to flush.
///
/// # Errors
///
/// Any [`Error`]: the plugin could not start. Nothing that happens after step 7 is an error.
///
/// # Cancel safety
///
/// As [`Server::run`].
pub async fn serve<F>(
    protocol: &Protocol,
    logging: &Logging,
    clock: Arc<dyn Clock>,
    services: F,
    clean_up: impl Future<Output = ()>,
) -> Result<(Ending, LogGuard), Error>
where
    F: FnOnce(Broker) -> Routes,
{
    let lookup = |name: &str| std::env::var(name).ok();
    protocol.cookie.check(lookup)?;
    let env = HostEnv::parse(lookup)?;
    for kind in IGNORED {
        // Once it is handled it ends nothing any more, also when nobody listens.
        let _ignored = signal(kind()).map_err(Error::Signal)?;
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let log = hclog::install(logging, lookup, clock)?;
    let server = Server::bind(protocol, &env)?;
    handshake::announce(&server.handshake_line(), &mut std::io::stdout().lock())?;
    let services = services(server.broker());
    let terminate = async move {
        terminate.recv().await;
    };
    let ending = server.run(services, terminate, clean_up).await?;
    Ok((ending, log))
}
