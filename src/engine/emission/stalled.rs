//! Changes that have waited for the audit devices for a day: people are told, once.

use chrono::{DateTime, TimeDelta, Utc};

use crate::audit::{Actor, EventName, NewEvent, Outcome, Severity};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::mount_log;
use crate::engine::storage::record::HELD_BACK;
use crate::logical::Mount;

/// How long a change may wait before people are told.
const PATIENCE: TimeDelta = TimeDelta::hours(24);

impl Engine {
    /// Returns how many changes wait for the audit devices, and since when the first one does.
    pub(in crate::engine) fn held_back(&self) -> (u64, Option<DateTime<Utc>>) {
        let (mut held, mut oldest) = (0, None);
        self.runner.look(|_, known| {
            if let Some((code, since)) = &known.attention
                && code == HELD_BACK
            {
                held += 1;
                oldest = Some(oldest.map_or(*since, |oldest: DateTime<Utc>| oldest.min(*since)));
            }
        });
        (held, oldest)
    }

    /// Records that changes have waited for a day, once for each time that the devices fail. The
    /// event waits for the devices like all others; the notification channels do not.
    ///
    /// # Errors
    ///
    /// That it could not be stored; the next tick tries again.
    pub(in crate::engine) async fn tell_of_stall(&self, mount: &Mount) -> Result<(), Error> {
        let (_, Some(oldest)) = self.held_back() else {
            return Ok(());
        };
        let now = self.clock().now();
        if now - oldest < PATIENCE || self.emission.is_stall_told(oldest) {
            return Ok(());
        }
        // An earlier process may have told.
        let log = mount_log::load(mount).await?;
        let told = |log: &mount_log::MountLog| {
            let mut events = log.events().iter().rev();
            let told = events.find(|event| event.event == EventName::AuditStalled);
            told.is_some_and(|event| event.timestamp >= oldest)
        };
        if !log.as_ref().is_some_and(told) {
            let mut event = NewEvent::new(EventName::AuditStalled, Actor::system(), now);
            event.severity = Severity::Critical;
            event.outcome = Outcome::Failure;
            let failing = self.emission.delivery().failing;
            event.error_code = Some(failing.map_or(HELD_BACK, |(code, _)| code).to_owned());
            let keyring = self.keyring_for_writing(mount).await?;
            self.announce_mount_event(mount, &keyring, &event).await?;
        }
        self.emission.note_stall_told(now);
        Ok(())
    }
}
