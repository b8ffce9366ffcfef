//! Joins an engine written against [`crate::logical`] to a Vault or OpenBao server.
//!
//! Knows the servers' gRPC services (`proto/`), several mounts in one process, and how errors and
//! answers must look to come out right at the client. Knows no engine: it is handed a factory.
//!
//! What must stay true:
//!
//! - No state but the table of mounts; a process serves any number of them.
//! - Setup, Type, SpecialPaths and Version work without storage: registration asks for them with
//!   none behind the broker.
//! - `resolve-path` is refused before its data is looked at: it arrives before authentication.
//! - A panic costs the request it happened in and nothing else.
//!
//! Memory is not locked against swapping, even where the server asks for it
//! ([`ServerInfo::asks_for_mlock`]): that is said in the log, once.
//!
//! Source: OpenBao `sdk/plugin/` (`grpc_backend_server.go`, `grpc_storage.go`, `grpc_system.go`)
//! and `sdk/plugin/pb/translation.go`; behaviour confirmed with OpenBao 2.7.2.

mod env;
mod instances;
mod service;
mod storage;
mod system_view;
#[doc(hidden)] // for the fuzzers only; see there
pub mod translate;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;

use crate::clock::{Clock, SystemClock};
use crate::goplugin::{self, Broker, Cookie, Ending, Logging, Protocol};
use crate::logical::{Backend, BackendInfo};
use crate::proto::logical::plugin_version_server::PluginVersionServer;
use crate::proto::pb::backend_server::BackendServer;
use crate::proto::pluginutil::multiplexing::plugin_multiplexing_server::PluginMultiplexingServer;
use crate::tasks::Tasks;

use instances::Instances;
use service::{BackendService, MultiplexingService, VersionService};

pub use env::{Flavour, ServerInfo};

/// What Vault and OpenBao ask of every plugin. The cookie is the same for both, and so is the only
/// protocol version worth speaking: the older ones cannot do mutual TLS by themselves.
///
/// Source: OpenBao `sdk/plugin/serve.go`.
pub const PROTOCOL: Protocol = Protocol {
    cookie: Cookie {
        key: "VAULT_BACKEND_PLUGIN",
        value: "6669da05-b1c8-4f49-97d9-c8e5bed98e20",
    },
    version: 5,
};

/// Largest request accepted, in bytes. `resolve-path` makes it reachable without a token.
const MAX_REQUEST: usize = 2 << 20;
/// How long storage calls under way may take after the mounts were cleaned up. With the second that
/// a mount has for that, it is the time [`goplugin::Server::run`] gives to the end.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

/// Makes the backend of one mount; called at Setup, before storage may be used.
pub type BackendFactory = Arc<dyn Fn(BackendInfo) -> Arc<dyn Backend> + Send + Sync>;

/// A plugin, ready to be served.
#[derive(Clone)]
pub struct Plugin {
    /// Semantic version without leading `v`; the host compares it with the registered one.
    pub version: &'static str,
    /// What is logged.
    pub logging: Logging,
    /// Stamps the log and new leases.
    pub clock: Arc<dyn Clock>,
    /// What the environment tells of the server.
    pub server: ServerInfo,
    /// Makes the mounts' backends.
    pub factory: BackendFactory,
}

impl Plugin {
    /// A plugin on the system's clock that asks the environment which server started it.
    pub fn new<B: Backend + 'static>(
        version: &'static str,
        logging: Logging,
        backend: impl Fn(BackendInfo) -> B + Send + Sync + 'static,
    ) -> Self {
        Self {
            version,
            logging,
            clock: Arc::new(SystemClock::new()),
            server: ServerInfo::parse(|name| std::env::var(name).ok()),
            factory: Arc::new(move |info| Arc::new(backend(info))),
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("version", &self.version)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// The gRPC services of a plugin and what outlives single calls. Clones are the same.
#[derive(Clone, Debug)]
pub struct Services {
    instances: Instances,
    tasks: Tasks,
}

impl Services {
    /// Starts with no mounts.
    #[must_use]
    pub fn new() -> Self {
        Self {
            instances: Instances::default(),
            tasks: Tasks::new(),
        }
    }

    /// Builds the services; `broker` leads back to the host.
    #[must_use]
    pub fn routes(&self, plugin: &Plugin, broker: Broker) -> Routes {
        let backend = BackendService {
            instances: self.instances.clone(),
            factory: Arc::clone(&plugin.factory),
            broker,
            tasks: self.tasks.clone(),
            clock: Arc::clone(&plugin.clock),
        };
        Routes::new(BackendServer::new(backend).max_decoding_message_size(MAX_REQUEST))
            .add_service(PluginVersionServer::new(VersionService(plugin.version)))
            .add_service(PluginMultiplexingServer::new(MultiplexingService))
    }

    /// Cleans up the mounts the host did not: it died, or SIGTERM came first. Takes as long as the
    /// slowest mount, which is a second where [`Backend::cleanup`] is kept, and half a second more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the rest as they are.
    pub async fn clean_up(&self) {
        self.instances.clean_up_all().await;
        self.tasks.stop(LEFT_BEHIND).await;
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves `plugin` to the server that started this process, until the end.
///
/// # Errors
///
/// Any [`goplugin::Error`]: the plugin could not start.
///
/// # Cancel safety
///
/// As [`goplugin::serve`].
pub async fn serve(plugin: Plugin) -> Result<(), goplugin::Error> {
    let services = Services::new();
    let clock = Arc::clone(&plugin.clock);
    let routes = |broker| {
        tracing::debug!(version = plugin.version, server = ?plugin.server, "the plugin starts");
        if plugin.server.asks_for_mlock {
            tracing::warn!("the server asks for memory locking, which this plugin does not do");
        }
        services.routes(&plugin, broker)
    };
    let clean_up = services.clean_up();
    let (ending, log) =
        goplugin::serve(&PROTOCOL, &plugin.logging, clock, routes, clean_up).await?;
    match ending {
        Ending::Shutdown | Ending::Terminated => tracing::debug!(?ending, "the plugin ends"),
        Ending::HostLost => tracing::warn!("the server is gone; the plugin ends"),
    }
    drop(log);
    Ok(())
}
