//! Where events lie: in the record of their tenant or of the mount, and in the trail.

use std::sync::Arc;

use crate::audit::{Event, EventLog};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::mount_log::{self, MountLog};
use crate::engine::storage::record::TenantRecord;
use crate::engine::storage::{self, TrailEntry};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

/// The log of a tenant or of the mount, as stored.
#[derive(Debug)]
pub(in crate::engine) enum Log {
    /// A tenant's.
    Tenant(Arc<TenantRecord>),
    /// The mount's.
    Mount(MountLog),
}

impl Log {
    /// Returns the numbered events.
    pub(in crate::engine) fn events(&self) -> &EventLog {
        match self {
            Self::Tenant(record) => &record.log,
            Self::Mount(log) => log.log(),
        }
    }

    /// Returns whose it is; `-` for the mount's.
    pub(in crate::engine) fn name(&self) -> &str {
        match self {
            Self::Tenant(record) => &record.tenant,
            Self::Mount(_) => mount_log::MOUNT,
        }
    }
}

/// A stored event and what became of it.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Found {
    pub(in crate::engine) event: Event,
    /// An audit device took it.
    pub(in crate::engine) delivered: bool,
    /// How often the host refused to take it.
    pub(in crate::engine) refusals: u32,
}

impl Found {
    /// An event that nobody has tried to deliver.
    pub(super) const fn fresh(event: Event) -> Self {
        Self {
            event,
            delivered: false,
            refusals: 0,
        }
    }
}

impl Engine {
    /// Reads a log by the name it has in keys; `None` if there is none.
    pub(in crate::engine) async fn read_log(
        &self,
        mount: &Mount,
        name: &str,
    ) -> Result<Option<Log>, Error> {
        if name == mount_log::MOUNT {
            let log = mount_log::load(mount).await?;
            return Ok(log.map(Log::Mount));
        }
        let Ok(name) = TenantName::parse(name) else {
            return Ok(None);
        };
        let record = self.read_tenant(mount, &name).await?;
        Ok(record.map(Log::Tenant))
    }

    /// Finds the event of this number; `None` if it was never given, or left the trail by its age.
    pub(in crate::engine) async fn find_event(
        &self,
        mount: &Mount,
        log: &Log,
        seq: u64,
    ) -> Result<Option<Found>, Error> {
        let kept = log.events().find(seq);
        let known = self.emission.is_delivered(log.name(), seq);
        let through = log.events().delivered_through();
        if let Some(event) = kept
            && (seq <= through || known == Some(true))
        {
            return Ok(Some(Found {
                delivered: true,
                ..Found::fresh(event.clone())
            }));
        }
        if seq == 0 || seq > log.events().seq() {
            return Ok(None);
        }
        let key = storage::trail_key(log.name(), seq);
        let Some(entry) = mount.storage.get(&key).await? else {
            return Ok(kept.cloned().map(Found::fresh));
        };
        let entry = TrailEntry::decode(&key, &entry.value)?;
        if let Some(kept) = kept.filter(|kept| **kept != entry.event) {
            // Written for a record that was never stored: what the record holds is the truth.
            return Ok(Some(Found::fresh(kept.clone())));
        }
        Ok(Some(Found {
            event: entry.event,
            delivered: entry.delivered,
            refusals: entry.refusals,
        }))
    }
}
