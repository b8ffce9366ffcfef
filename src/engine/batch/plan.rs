//! What a batch would do: who is changed, who is left alone and why.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt};

use super::record::{Action, Targets};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::runner::server_of;
use crate::engine::storage;
use crate::engine::storage::record::{Credential, Intent, TenantRecord};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

/// Tenants that one request may name.
pub(in crate::engine) const MOST_NAMED: usize = 900;
/// Tenants whose names a plan lists.
const MOST_LISTED: usize = 100;
/// Names read from the folder at once.
const PAGE: usize = 1_000;
/// Records read at once.
const READS: usize = 16;

/// What a batch would do.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Plan {
    pub(in crate::engine) total: u64,
    /// How many would be changed.
    pub(in crate::engine) changes: u64,
    /// On how many mail servers.
    pub(in crate::engine) servers: u64,
    /// How many would be left alone, by why.
    pub(in crate::engine) skipped: BTreeMap<String, u64>,
    /// The first of those.
    pub(in crate::engine) skips: Vec<(String, &'static str)>,
}

/// For whom a tenant's record is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intended<'a> {
    pub(super) action: Action,
    pub(super) incident_id: Option<&'a str>,
    /// The request id of the batch's changes; empty for a plan.
    pub(super) change_id: &'a str,
}

impl Intended<'_> {
    /// Returns why the tenant is left alone, or `None` if its password is to be changed.
    pub(super) fn obstacle(
        self,
        record: Option<&TenantRecord>,
        now: DateTime<Utc>,
    ) -> Option<&'static str> {
        let Some(record) = record else {
            return Some("unknown_tenant");
        };
        let Some(credential) = &record.credential else {
            return Some("no_credential");
        };
        if credential.deleted.is_some() {
            return Some("deleted");
        }
        if record.server.is_none() {
            return Some("no_server");
        }
        let own = |intent: &Intent| intent.request_id == self.change_id;
        if record.intent.as_ref().is_some_and(own) {
            // What this batch began before a crash is what it goes on with.
            return None;
        }
        match self.action {
            Action::Rotate => rests(record, credential, now),
            Action::Reset => self.was_reset(record, credential),
        }
    }

    /// For this incident the tenant needs no second reset.
    fn was_reset(self, record: &TenantRecord, credential: &Credential) -> Option<&'static str> {
        let waits = |intent: &Intent| {
            intent.is_emergency() && intent.incident_id.as_deref() == self.incident_id
        };
        if record.intent.as_ref().is_some_and(waits) {
            return Some("already_queued");
        }
        let current = credential.current_version()?;
        let reset = current.rotation_type == Some(crate::audit::RotationType::Emergency)
            && current.incident_id.as_deref() == self.incident_id
            && current.compromised.is_none();
        let undone = record.intent.is_some() || credential.drift.is_some();
        (reset && !undone).then_some("already_reset")
    }
}

/// What an ordinary change would get in the way of: a person has to decide, or has decided.
fn rests(
    record: &TenantRecord,
    credential: &Credential,
    now: DateTime<Utc>,
) -> Option<&'static str> {
    let open = |intent: &Intent| intent.sends > 0 || intent.is_emergency();
    if record.intent.as_ref().is_some_and(open) {
        Some("unsettled")
    } else if credential.drift.is_some() {
        Some("drift")
    } else if credential.hold.is_some() {
        Some("on_hold")
    } else if record.paused_at(now).is_some() {
        Some("paused")
    } else {
        None
    }
}

impl Plan {
    fn note(&mut self, name: &str, obstacle: Option<&'static str>) {
        self.total += 1;
        let Some(code) = obstacle else {
            self.changes += 1;
            return;
        };
        *self.skipped.entry(code.to_owned()).or_default() += 1;
        if self.skips.len() < MOST_LISTED {
            self.skips.push((name.to_owned(), code));
        }
    }
}

impl Engine {
    /// Looks at the record of every target and tells what a batch would do. Asks no mail server,
    /// takes no lock and changes nothing.
    pub(in crate::engine) async fn plan_batch(
        self: &Arc<Self>,
        mount: &Mount,
        action: Action,
        incident_id: Option<&str>,
        targets: &Targets,
    ) -> Result<Plan, Error> {
        let intended = Intended {
            action,
            incident_id,
            change_id: "",
        };
        let mut plan = Plan::default();
        let mut servers = HashSet::new();
        let (mut after, mut taken) = (String::new(), 0);
        loop {
            let page = names_after(mount, targets, &after, taken, PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            taken += page.len();
            let reads = page.into_iter().map(|name| async move {
                let record = self.record_of(mount, &name).await;
                (name, record)
            });
            let mut reads = stream::iter(reads).buffered(READS);
            while let Some((name, record)) = reads.next().await {
                let now = self.clock().now();
                match record {
                    Ok(record) => {
                        let obstacle = intended.obstacle(record.as_deref(), now);
                        plan.note(&name, obstacle);
                        if obstacle.is_none() {
                            servers.insert(server_of(record.as_deref()));
                        }
                    }
                    Err(error) if is_of_one_tenant(&error) => plan.note(&name, Some(error.code())),
                    Err(error) => return Err(error),
                }
            }
        }
        plan.servers = servers.len() as u64;
        Ok(plan)
    }

    async fn record_of(
        &self,
        mount: &Mount,
        name: &str,
    ) -> Result<Option<Arc<TenantRecord>>, Error> {
        self.read_tenant(mount, &TenantName::parse(name)?).await
    }

    /// Counts the targets of a batch.
    pub(super) async fn count_targets(
        &self,
        mount: &Mount,
        targets: &Targets,
    ) -> Result<u64, Error> {
        let (mut after, mut taken) = (String::new(), 0);
        loop {
            let page = names_after(mount, targets, &after, taken, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(taken as u64);
            };
            after.clone_from(last);
            taken += page.len();
        }
    }
}

/// The next names of a batch: after the one before, or after so many.
pub(super) async fn names_after(
    mount: &Mount,
    targets: &Targets,
    after: &str,
    taken: usize,
    limit: usize,
) -> Result<Vec<String>, Error> {
    match targets {
        Targets::All => Ok(mount
            .storage
            .list_page(storage::TENANTS, after, limit)
            .await?),
        Targets::Named(names) => Ok(names.iter().skip(taken).take(limit).cloned().collect()),
    }
}

/// Tells what is wrong with one tenant from what is wrong with the node, the mount or its storage.
pub(super) const fn is_of_one_tenant(error: &Error) -> bool {
    !matches!(
        error,
        Error::Standby
            | Error::Tainted
            | Error::Keyring(_)
            | Error::Host(_)
            | Error::Storage(_)
            | Error::Random(_)
    )
}
