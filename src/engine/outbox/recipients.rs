//! Whom one delivery goes to: a mail to several addresses is a mail to each, so that whoever could
//! not have it gets it later, and nobody gets it twice.

use super::entry::{Delivery, Entry};
use super::facts;
use super::worker::{AtWork, Failure};
use crate::engine::channels::Target;
use crate::notify::{self, Scope};

impl AtWork {
    /// Delivers the message of an entry to everyone who has not got it yet.
    pub(super) async fn deliver(
        &self,
        usable: &dyn notify::Channel,
        entry: &Entry,
        to: Option<&str>,
    ) -> Result<(), Failure> {
        let now = self.engine.clock().now();
        let name = self.channel.name.as_str();
        let addresses = match &self.channel.target {
            Target::Email(target) if to.is_none() && target.to.len() > 1 => target.to.as_slice(),
            _ => {
                let message = facts::message(entry, name, to, now);
                return usable.deliver(&message).await.map_err(Failure::from);
            }
        };
        let (outbox, event_id) = (&self.engine.outbox, entry.event.event_id.as_str());
        let own = |it: &&Delivery| it.is_for(&self.channel, to);
        let kept = entry.deliveries.iter().find(own);
        if kept.is_some_and(|it| it.dead_since.is_some()) {
            // It is told again because somebody wrote the channel: everyone is asked anew.
            outbox.forget_refused(event_id, name);
        }
        let (served, refused) = outbox.settled(event_id, name);
        let mut failed = None;
        for address in addresses.iter().filter(|it| !served.contains(it)) {
            // What was refused for good is not asked for again with every other address.
            if refused.contains(address) {
                failed = failed.or(Some(Failure::REFUSED));
                continue;
            }
            let message = facts::message(entry, name, Some(address), now);
            match usable.deliver(&message).await.map_err(Failure::from) {
                Ok(()) => outbox.note_served(event_id, name, address),
                Err(failure) if failure.scope == Scope::Channel => return Err(failure),
                Err(failure) => {
                    if failure.for_good {
                        outbox.note_refused(event_id, name, address);
                    }
                    // What may still be taken is not given up because of an address that is wrong.
                    failed = failed.filter(|it: &Failure| !it.refused).or(Some(failure));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
