//! Why a plugin could not start.
//!
//! The texts name their cause themselves: each is shown once, as one line, and nobody walks a chain.

use std::error::Error as StdError;
use std::path::PathBuf;

/// A start-up failure, one variant per step; the process ends with its text on stderr.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The magic cookie is absent or wrong: no host started this process.
    #[error(
        "this program is a plugin. Its host starts it; run by hand it does nothing. Try --help."
    )]
    NotStartedByHost,
    /// The host offered no certificate, so the connection would be neither secret nor authentic.
    #[error("the host does not use mutual TLS (PLUGIN_CLIENT_CERT is not set); it must")]
    NoMutualTls,
    /// `PLUGIN_CLIENT_CERT` is not a PEM certificate.
    #[error("PLUGIN_CLIENT_CERT is not a PEM certificate: {0}")]
    HostCertificate(rustls::pki_types::pem::Error),
    /// The key pair or its certificate could not be made.
    #[error("could not make a certificate: {0}")]
    OwnCertificate(rcgen::Error),
    /// The TLS library refused its settings.
    #[error("could not set up TLS: {0}")]
    Tls(rustls::Error),
    /// The operating system gave no random bytes.
    #[error("could not get random bytes")]
    Random,
    /// The socket's directory has a character that ends the handshake line or its fourth part, so
    /// the host would look for the socket elsewhere.
    #[error(
        "the socket cannot be in {0:?}: set PLUGIN_UNIX_SOCKET_DIR to a directory without `|` and \
         control characters in its name"
    )]
    SocketDir(PathBuf),
    /// `PLUGIN_UNIX_SOCKET_GROUP` names no group.
    #[error("PLUGIN_UNIX_SOCKET_GROUP: there is no group {0:?}")]
    UnknownGroup(String),
    /// The path the socket would have is longer than the system takes.
    #[error(
        "the socket's path is longer than the 107 bytes it may have: {0:?}. Its directory is \
         PLUGIN_UNIX_SOCKET_DIR or, without that, TMPDIR"
    )]
    SocketPath(PathBuf),
    /// The socket could not be made or given its owner and mode.
    #[error(
        "could not make the socket {path}: {source}. Its directory is PLUGIN_UNIX_SOCKET_DIR or, without that, TMPDIR; this user must be able to write to it"
    )]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A signal handler could not be installed.
    #[error("could not install a signal handler: {0}")]
    Signal(std::io::Error),
    /// Another logger is already installed, or its thread could not be started.
    #[error("could not start logging: {0}")]
    Logging(String),
    /// The handshake line could not be written to stdout.
    #[error("could not write the handshake line: {0}")]
    Handshake(std::io::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {}", causes(.0))]
    Server(tonic::transport::Error),
    /// The gRPC server stopped although nobody asked it to: its listener is gone.
    #[error("the gRPC server stopped by itself")]
    Stopped,
}

/// Writes an error with all its causes. The gRPC library's own text is only "transport error".
pub(super) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
