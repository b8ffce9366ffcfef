//! What a collector outside is answered, and what its receipt does.

use std::sync::Arc;

use super::Receipt;
use crate::audit::Event;
use crate::engine::Engine;
use crate::engine::audit_access::{AuditAccess, AuditAccessMode};
use crate::engine::error::Error;
use crate::logical::Mount;

/// Events of one flush.
const MOST: usize = 100;
/// Logs that one flush looks at: a request does not go through all of them.
const MOST_LOGS: usize = 500;

impl Engine {
    /// Returns undelivered events, logs in the order in which they came, each by number.
    pub(in crate::engine) async fn undelivered_events(
        self: &Arc<Self>,
        mount: &Mount,
    ) -> Result<Vec<Event>, Error> {
        self.read_undelivered(mount).await?;
        let mut events = Vec::new();
        for name in self.emission.logs().into_iter().take(MOST_LOGS) {
            match self.undelivered_of(mount, &name, &mut events).await {
                Ok(()) => {}
                Err(error @ Error::Entry { .. }) => {
                    tracing::warn!(log = name, %error, "its events wait");
                }
                Err(error) => return Err(error),
            }
            if events.len() == MOST {
                break;
            }
        }
        Ok(events)
    }

    async fn undelivered_of(
        self: &Arc<Self>,
        mount: &Mount,
        name: &str,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let Some(log) = self.read_log(mount, name).await? else {
            self.emission.note_read(name, (0, 0));
            return Ok(());
        };
        let before = events.len();
        for seq in self.emission.undelivered(name, log.events()) {
            match self.find_event(mount, &log, seq).await? {
                Some(found) if !found.delivered => {
                    self.emission.note_oldest(name, found.event.timestamp);
                    events.push(found.event);
                    if events.len() == MOST {
                        break;
                    }
                }
                Some(_) | None => self.emission.note_delivered(name, seq, None),
            }
        }
        if events.len() == before {
            self.finish_log(mount, name).await;
        }
        Ok(())
    }

    /// Acknowledges one event of a receipt; reports whether it was undelivered until now.
    pub(in crate::engine) async fn take_receipt(
        self: &Arc<Self>,
        mount: &Mount,
        receipt: &Receipt,
        (name, seq): (&str, u64),
    ) -> Result<bool, Error> {
        let Some(log) = self.read_log(mount, name).await? else {
            return Ok(false);
        };
        let Some(found) = self.find_event(mount, &log, seq).await? else {
            return Ok(false);
        };
        if found.delivered || !receipt.names(&found.event) {
            return Ok(false);
        }
        self.acknowledge(mount, &found.event).await?;
        let access = self.audit_access(mount).await;
        // What cannot be read names nobody.
        let mode = access
            .ok()
            .and_then(|it| it.as_ref().as_ref().map(AuditAccess::mode));
        let is_the_way = mode == Some(AuditAccessMode::External);
        self.emission.note_collected(is_the_way, self.clock().now());
        self.emission.note_delivered(name, seq, None);
        self.finish_log(mount, name).await;
        Ok(true)
    }
}
