//! Why a plugin could not start.

use std::path::PathBuf;

/// A start-up failure, one variant per step; the process ends with its text on stderr.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The magic cookie is absent or wrong: no host started this process.
    #[error(
        "This program is a plugin. It is started by its host, and does nothing when it is run by \
         hand."
    )]
    NotStartedByHost,
    /// The host offered no certificate, so the connection would be neither secret nor authentic.
    #[error("the host does not use mutual TLS (PLUGIN_CLIENT_CERT is not set); it must")]
    NoMutualTls,
    /// `PLUGIN_CLIENT_CERT` is not a PEM certificate.
    #[error("PLUGIN_CLIENT_CERT is not a PEM certificate")]
    HostCertificate(#[source] rustls::pki_types::pem::Error),
    /// The key pair or its certificate could not be made.
    #[error("could not make a certificate")]
    OwnCertificate(#[source] rcgen::Error),
    /// The TLS library refused its settings.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    /// The operating system gave no random bytes.
    #[error("could not get random bytes")]
    Random,
    /// `PLUGIN_UNIX_SOCKET_GROUP` names no group.
    #[error("PLUGIN_UNIX_SOCKET_GROUP: there is no group {0:?}")]
    UnknownGroup(String),
    /// The socket could not be made or given its owner and mode.
    #[error("could not make the socket {path}")]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A signal handler could not be installed.
    #[error("could not install a signal handler")]
    Signal(#[source] std::io::Error),
    /// Another logger is already installed, or its thread could not be started.
    #[error("could not start logging: {0}")]
    Logging(String),
    /// The handshake line could not be written to stdout.
    #[error("could not write the handshake line")]
    Handshake(#[source] std::io::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Server(#[source] tonic::transport::Error),
    /// The gRPC server stopped although nobody asked it to: its listener is gone.
    #[error("the gRPC server stopped by itself")]
    Stopped,
}
