//! The engine as a mounted backend: start, requests, ticks, end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::storage::record::Preflight;
use super::tenant::TenantName;
use super::{Engine, Parts, assemble, rotation, storage};
use crate::logical::{
    Backend, BackendInfo, Error, Mount, Operation, Reply, Request, Router, SpecialPaths,
};

/// How long Cleanup waits for work under way; what is not done by then stays an open intent. The
/// end of the process waits half a second longer than this.
const GRACE: Duration = Duration::from_secs(1);

/// The engine behind one mount.
pub struct SmtpBackend {
    info: BackendInfo,
    engine: Arc<Engine>,
    router: Router<Engine>,
}

impl fmt::Debug for SmtpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpBackend")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl SmtpBackend {
    /// Builds the backend of one mount. Touches neither storage nor network.
    #[must_use]
    pub fn new(parts: Parts, info: BackendInfo) -> Self {
        let (engine, router) = assemble(parts, info.uuid.clone());
        Self {
            info,
            engine,
            router,
        }
    }

    /// Waits until no background work is under way; for tests, which tick and then look.
    #[doc(hidden)]
    pub async fn idle(&self) {
        self.engine.tasks.idle().await;
    }

    /// Looks at what the tenant's next change will need; `None` if the record cannot be had. For
    /// tests of every finding, whatever the schedule says.
    #[doc(hidden)]
    pub async fn preflight(&self, mount: &Mount, tenant: &str) -> Option<Preflight> {
        let name = TenantName::parse(tenant).ok()?;
        let mount = &self.guarded(mount);
        let mut tenant = self.engine.lock_tenant(mount, &name).await.ok()?;
        Some(rotation::preflight(&mut tenant).await)
    }

    /// Returns the mount with every write passing the guard.
    fn guarded(&self, mount: &Mount) -> Mount {
        self.engine.guard.over(mount, &self.engine.parts.clock)
    }

    /// Lists the pattern and synopsis of every path, for documentation checks.
    #[must_use]
    pub fn paths(&self) -> Vec<(&'static str, &'static str)> {
        self.router
            .routes()
            .map(|route| (route.pattern, route.synopsis))
            .collect()
    }
}

#[async_trait]
impl Backend for SmtpBackend {
    fn special_paths(&self) -> SpecialPaths {
        SpecialPaths {
            seal_wrap_storage: storage::SEAL_WRAPPED.map(str::to_owned).to_vec(),
            ..SpecialPaths::default()
        }
    }

    async fn initialize(&self, mount: &Mount) -> Result<(), Error> {
        // All state is in storage and is read when it is needed. No network here, and no error may
        // leave the mount without its backend: a role that nobody could tell is asked again.
        self.engine.note_role(&self.guarded(mount)).await;
        tracing::info!("mount initialised");
        Ok(())
    }

    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply {
        self.engine.emission.note_mount_point(&request.mount_point);
        let mount = &self.guarded(mount);
        match request.operation {
            Operation::Rollback => {
                self.engine.tick(mount).await;
                Ok(None)
            }
            Operation::Renew | Operation::Revoke => Err(Error::UnsupportedOperation),
            Operation::Create
            | Operation::Read
            | Operation::Update
            | Operation::Patch
            | Operation::Delete
            | Operation::List
            | Operation::Scan
            | Operation::Help
            | Operation::Header
            | Operation::ResolvePath
            | Operation::ResolveRole
            | Operation::AliasLookahead => self.router.handle(&self.engine, mount, request).await,
        }
    }

    async fn existence_check(
        &self,
        mount: &Mount,
        request: Request,
    ) -> Result<Option<bool>, Error> {
        let mount = &self.guarded(mount);
        self.router.exists(&self.engine, mount, request).await
    }

    async fn invalidate_key(&self, key: &str) {
        match key {
            storage::CONFIG => self.engine.config.forget(),
            storage::AUDIT_ACCESS => self.engine.audit_access.forget(),
            storage::ALERTS => self.engine.alerts.forget(),
            storage::WATCH => self.engine.watch.forget(),
            storage::KEYRING | storage::KEYRING_COPY => self.engine.keyring.forget(),
            _ => {
                if let Some(tenant) = key.strip_prefix(storage::TENANTS) {
                    self.engine.records.forget(tenant);
                    if let Ok(name) = TenantName::parse(tenant) {
                        self.engine.runner.forget_tenant(&name);
                    }
                } else if key.starts_with(storage::CHANNELS) {
                    self.engine.channels.forget();
                } else if key.starts_with(storage::SERVERS) {
                    self.engine.servers.forget(key);
                }
            }
        }
    }

    async fn cleanup(&self) {
        if !self.engine.tasks.stop(GRACE).await {
            tracing::warn!("work under way is left to the next process");
        }
    }
}
