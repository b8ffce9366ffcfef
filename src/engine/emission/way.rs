//! The way to the host's own API that the settings name, and what it tells of the mount.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Current;
use super::index::{ExemptKeys, Way};
use crate::audit::EXEMPT_RESPONSE_KEYS;
use crate::engine::Engine;
use crate::engine::audit_access::AuditAccessMode;
use crate::engine::error::Error;
use crate::host_api::{HostApi, OpenError};
use crate::logical::Mount;

/// How often the mount's tuning is read.
const TUNING: Duration = Duration::from_secs(3600);

impl Engine {
    /// Returns the way to the host's own API, if events are to go that way.
    pub(super) async fn way(
        &self,
        mount: &Mount,
        current: &CancellationToken,
    ) -> Result<Option<Arc<dyn HostApi>>, Error> {
        if matches!(self.emission.state().way, Way::Unread) {
            let way = self.open_way(mount).await?;
            let mut state = self.emission.state();
            if current.is_cancelled() {
                // It was written meanwhile.
                return Ok(None);
            }
            state.way = way;
        }
        match &self.emission.state().way {
            Way::Loopback(api) => Ok(Some(Arc::clone(api))),
            Way::Unread | Way::Unset | Way::External => Ok(None),
        }
    }

    /// Makes the way that the settings name.
    async fn open_way(&self, mount: &Mount) -> Result<Way, Error> {
        let access = self.audit_access(mount).await?;
        let Some(access) = access.as_ref() else {
            return Ok(Way::Unset);
        };
        if access.mode() == AuditAccessMode::External {
            return Ok(Way::External);
        }
        let keyring = self.keyring(mount).await?;
        let api = (self.parts.host_api)(&access.open(&keyring)?, &self.parts.clock);
        api.map(Way::Loopback).map_err(|error| match error {
            // It was in reach when it was written: the environment changed, or the storage moved.
            OpenError::OutOfReach { .. } => {
                Error::invalid("audit_out_of_reach", format!("{error}."))
            }
            OpenError::Ca(_) | OpenError::ServerName(_) | OpenError::Client => {
                Error::Defect("a stored way to the audit devices does not open")
            }
        })
    }

    /// Looks now and then whether the mount shows the events' fields in clear.
    pub(super) async fn read_tuning(&self, way: &Current<'_>) {
        let now = self.clock().monotonic();
        let mount_point = {
            let mut state = self.emission.state();
            if state.tuning_at > now || state.mount_point.is_empty() {
                return;
            }
            state.tuning_at = now + TUNING;
            state.mount_point.clone()
        };
        let keys = tokio::select! {
            biased;
            keys = way.api.exempt_keys(&mount_point) => keys,
            () = self.interrupted(way.current) => return,
        };
        let found = match keys {
            Ok(Some(exempt)) => {
                let missing: Vec<&'static str> = EXEMPT_RESPONSE_KEYS
                    .into_iter()
                    .filter(|key| !exempt.iter().any(|one| one == key))
                    .collect();
                if missing.is_empty() {
                    ExemptKeys::Complete
                } else {
                    ExemptKeys::Missing(missing)
                }
            }
            Ok(None) => ExemptKeys::Unknown,
            Err(error) => {
                // Delivering meets the same, and says so.
                tracing::debug!(code = error.code(), "the mount's tuning was not read");
                self.emission.state().tuning_at = Duration::ZERO;
                return;
            }
        };
        self.emission.state().exempt_keys = found;
    }
}
