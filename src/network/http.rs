//! The HTTP client of everything that calls out: no proxy, no redirects, no repeats, no reuse of
//! connections, and only checked addresses.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, redirect, retry};
use rustls::ClientConfig;

use super::policy::resolve;
use super::{Fault, NetworkPolicy, Scheme, TlsFault};

/// Most of a call's time that may go into connecting. A call that ends there was never sent, which
/// is worth more than a late connection.
const MAX_CONNECT: Duration = Duration::from_secs(5);

/// The peer of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    /// How it is spoken to.
    pub(crate) scheme: Scheme,
    /// The host that is resolved, whatever host the URLs of the calls carry.
    pub(crate) host: &'a str,
    /// The port.
    pub(crate) port: u16,
}

/// Builds the client for one peer. A literal address in a URL never reaches the resolver: who calls
/// has asked [`NetworkPolicy::check_literal`] before.
///
/// # Errors
///
/// The HTTP library's, with which nobody can do anything.
pub(crate) fn client(
    peer: Peer<'_>,
    tls: ClientConfig,
    policy: &NetworkPolicy,
    timeout: Duration,
) -> Result<Client, reqwest::Error> {
    let policy = policy.clone();
    let plain = peer.scheme == Scheme::Http;
    let allows = move |host: &str, address: SocketAddr| {
        // Whatever a name of this machine resolves to: nothing leaves it in the clear.
        let is_here = address.ip().to_canonical().is_loopback();
        policy.check(host, address).is_ok() && (is_here || !plain)
    };
    builder(peer, tls, allows, timeout).build()
}

/// Prepares a client for one peer, whose name may resolve to any address that `allows`; literal
/// addresses are the caller's to check.
pub(crate) fn builder(
    peer: Peer<'_>,
    mut tls: ClientConfig,
    allows: impl Fn(&str, SocketAddr) -> bool + Send + Sync + 'static,
    timeout: Duration,
) -> ClientBuilder {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let resolver = CheckedResolver {
        host: peer.host.into(),
        port: peer.port,
        allows: Arc::new(allows),
    };
    Client::builder()
        .tls_backend_preconfigured(tls)
        .tls_info(true)
        .dns_resolver(resolver)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .http1_only()
        .https_only(peer.scheme == Scheme::Https)
        .pool_max_idle_per_host(0)
        .timeout(timeout)
        .connect_timeout((timeout / 2).min(MAX_CONNECT))
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
}

/// Decides about one address of a host.
type Allows = dyn Fn(&str, SocketAddr) -> bool + Send + Sync;

/// Resolves every name to the checked addresses of the configured host: the URL may carry the
/// certificate's name.
struct CheckedResolver {
    host: Arc<str>,
    port: u16,
    allows: Arc<Allows>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, _name: Name) -> Resolving {
        let (host, port) = (Arc::clone(&self.host), self.port);
        let allows = Arc::clone(&self.allows);
        Box::pin(async move {
            match resolve(&host, port, |address| allows(&host, address)).await {
                Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                Err(fault) => Err(Unconnectable(fault).into()),
            }
        })
    }
}

/// Carries the resolver's verdict through the HTTP client's error chain.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unconnectable(Fault);

/// Finds out by types, never by text, how far a failed request got.
pub(crate) fn fault(error: &reqwest::Error) -> Fault {
    let connecting = error.is_connect();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Unconnectable(fault)) = current.downcast_ref() {
            return *fault;
        }
        // An I/O error hides the error it wraps from `source`.
        let wrapped = current
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let tls = current
            .downcast_ref::<rustls::Error>()
            .or_else(|| wrapped?.downcast_ref());
        if let (true, Some(error)) = (connecting, tls) {
            return Fault::Tls(TlsFault::from(error));
        }
        cause = match wrapped {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    if connecting {
        Fault::Unreachable
    } else if error.is_timeout() {
        Fault::Timeout
    } else {
        Fault::Broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tls::client_config;

    #[tokio::test]
    async fn a_name_with_forbidden_addresses_only_is_not_connected_to() {
        let peer = Peer {
            scheme: Scheme::Http,
            host: "localhost",
            port: 80,
        };
        let tls = client_config(None).unwrap();
        let policy = NetworkPolicy::default();
        let client = client(peer, tls, &policy, Duration::from_secs(5)).unwrap();
        let error = client
            .get("http://mail.acme.example/")
            .send()
            .await
            .unwrap_err();
        assert_eq!(fault(&error), Fault::AddressRefused);
    }
}
