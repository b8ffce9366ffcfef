//! Suspicious activity: rules on a tenant's events, told as alerts.
//!
//! An alert is an event of its own, `smtp_suspicious_activity`, with the rule as `error_code`. It
//! is appended to the record in the Put that stores its cause ([`locked`](super::locked) asks the
//! rules there): numbered, chained, kept and told with it, or not at all. What must stay true:
//!
//! - Nothing is refused and nothing waits because it is suspicious.
//! - No alert about an alert.
//! - An alert is given once for each cause (see the rules for what that is), and never lost: what
//!   remembers that it was given is written after the record that has it.
//!
//! Two rules need what happened at other tenants. That is remembered in the entry `watch`, for an
//! hour. It is no truth: what is lost of it lets a count begin anew or an alert come twice.

mod hours;
mod memory;
mod rules;
mod settings;

pub(super) use memory::{Memory, Remembered};
pub(super) use rules::{
    PASSWORD_NEEDS_CAS, Rule, are_many, by_record, is_refusal_told, tells_of_drift,
    unmatched_incident,
};
pub(super) use settings::{AlertSettings, LONGEST_PATTERN, MOST_REFUSALS, MOST_REVEALS, Rules};

use std::sync::Arc;

use super::Engine;
use super::error::Error;
use super::storage::{self, ALERTS, WATCH};
use crate::logical::{Mount, StorageEntry};

impl Engine {
    /// Returns the rules as they are stored.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if they cannot be read, storage's own.
    pub(super) async fn stored_rules(&self, mount: &Mount) -> Result<Rules, Error> {
        let entry = mount.storage.get(ALERTS).await?;
        Rules::decode(entry.as_ref().map(|entry| entry.value.as_slice()))
    }

    /// Returns the rules to go by. Those that cannot be read are replaced by the defaults: they
    /// stand in no change's way.
    pub(super) async fn rules(&self, mount: &Mount) -> Result<Arc<Rules>, Error> {
        if let Some(rules) = self.alerts.fresh(&self.role, self.clock()) {
            return Ok(rules);
        }
        let before = self.alerts.before_get(self.clock());
        let rules = match self.stored_rules(mount).await {
            Err(error @ Error::Entry { .. }) => {
                tracing::warn!(%error, "the rules of alerts cannot be read: the defaults hold");
                Rules::decode(None)?
            }
            other => other?,
        };
        let rules = Arc::new(rules);
        self.alerts.fill(&rules, before);
        Ok(rules)
    }

    /// Remembers a look of an entity. Returns whether an alert is due because of how many there
    /// were.
    pub(super) async fn note_reveal(&self, mount: &Mount, who: &str, rules: &Rules) -> bool {
        let noted = self.remember(mount, |memory, now| {
            let given = memory.was_given(who, Rule::ManyReveals.code(), now);
            are_many(rules, memory.note_reveal(who, now)) && !given
        });
        noted.await.unwrap_or(false)
    }

    /// Reports whether an alert was given because of an entity within the hour.
    pub(super) async fn was_given(&self, mount: &Mount, who: &str, alert: &str) -> bool {
        let now = self.clock().now().timestamp();
        let memory = self.memory(mount).await;
        // Twice is better than never.
        memory.is_some_and(|memory| memory.was_given(who, alert, now))
    }

    /// Remembers that an alert was given; its event is stored.
    pub(super) async fn note_given(&self, mount: &Mount, who: &str, alert: &str) {
        let noted = self.remember(mount, |memory, now| memory.note_alert(who, alert, now));
        noted.await.unwrap_or_default();
    }

    /// Changes the memory and stores it; `None` if storage does not tell what it was. No lock is held
    /// while storage is waited for: a Put that hangs, or one that overtakes another, costs a count in
    /// storage at most. Nobody waits for a Put that fails, and what it was to remember is kept here.
    async fn remember<T>(
        &self,
        mount: &Mount,
        change: impl FnOnce(&mut Memory, i64) -> T + Send,
    ) -> Option<T> {
        self.memory(mount).await?;
        let now = self.clock().now().timestamp();
        let (answer, memory) = self.watch.change(|memory| change(memory, now))?;
        let stored = match storage::encode(&*memory) {
            Ok(bytes) => mount.storage.put(StorageEntry::new(WATCH, bytes)).await,
            Err(_defect) => Ok(()),
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "what the rules of alerts remember was not stored");
        }
        Some(answer)
    }

    /// Returns the memory; `None` if storage fails.
    async fn memory(&self, mount: &Mount) -> Option<Arc<Memory>> {
        if let Some(memory) = self.watch.kept() {
            return Some(memory);
        }
        let before = self.watch.epoch();
        let memory = match mount.storage.get(WATCH).await {
            Ok(Some(entry)) => Memory::decode(&entry.value).unwrap_or_else(|error| {
                tracing::warn!(%error, "the rules of alerts begin to count anew");
                Memory::default()
            }),
            Ok(None) => Memory::default(),
            Err(error) => {
                tracing::warn!(%error, "what the rules of alerts remember cannot be read");
                return None;
            }
        };
        let memory = Arc::new(memory);
        self.watch.keep(&memory, before);
        Some(memory)
    }
}
