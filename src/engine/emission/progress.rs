//! What is known of deliveries: asked by whoever waits for one, by `status` and by alerts.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::index::{Delivery, Emission, Waiting, Way};
use crate::clock::Clock;

/// How long a delivery proves that the way to the devices is open.
const PROVEN: TimeDelta = TimeDelta::hours(1);
/// Changes that wait again within this time have waited in between.
const HELD_AGAIN: TimeDelta = TimeDelta::hours(2);

impl Emission {
    /// Reports whether a device is known to have taken an event; `None` if only storage knows.
    pub(in crate::engine) fn is_delivered(&self, log: &str, seq: u64) -> Option<bool> {
        let state = self.state();
        match state.pending.get(log) {
            Some(pending) if pending.parked.contains(&seq) => Some(false),
            Some(pending) => pending
                .next
                .filter(|next| seq < *next)
                .map(|_| true)
                .or_else(|| {
                    // What comes next was not tried; of what comes later only storage knows.
                    let fresh = pending.fresh.is_some_and(|first| seq >= first);
                    fresh.then_some(false)
                }),
            None => {
                let through = state.verified.get(log);
                through.filter(|through| seq <= **through).map(|_| true)
            }
        }
    }

    /// Returns up to which number the events of a log are known to be delivered; `last` is its last.
    pub(in crate::engine) fn delivered_through(&self, log: &str, last: u64) -> Option<u64> {
        let state = self.state();
        let through = match state.pending.get(log) {
            Some(pending) => {
                let first = pending.parked.first().copied();
                let next = pending.next?;
                let undelivered = first.map_or(next, |first| first.min(next));
                undelivered.saturating_sub(1)
            }
            None => *state.verified.get(log)?,
        };
        Some(through.min(last))
    }

    /// Returns up to which number the events of a log are known to be delivered or parked, and which
    /// are parked; `last` is its last. `None` where nothing waits, or the log was not looked at.
    pub(in crate::engine) fn tried_through(&self, log: &str, last: u64) -> Option<(u64, Vec<u64>)> {
        let state = self.state();
        let pending = state.pending.get(log)?;
        let through = pending.next?.saturating_sub(1).min(last);
        Some((through, pending.parked.iter().copied().collect()))
    }

    /// Waits until this event was acknowledged, or `patience` is over.
    pub(in crate::engine) async fn wait_for(
        &self,
        (log, seq): (&str, u64),
        patience: Duration,
        cancelled: CancellationToken,
    ) -> bool {
        let mut acknowledged = self.acknowledged.subscribe();
        let delivered = async {
            while self.is_delivered(log, seq) != Some(true) {
                if acknowledged.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::select! {
            biased;
            delivered = delivered => delivered,
            () = tokio::time::sleep(patience) => false,
            () = cancelled.cancelled() => false,
        }
    }

    /// Reports whether nothing is tried now, because the host could not be told.
    pub(in crate::engine) fn is_resting(&self, clock: &dyn Clock) -> bool {
        self.state().rests_until > clock.monotonic()
    }

    /// Reports whether an event was delivered within the last hour, by the way that is set now.
    pub(in crate::engine) fn is_proven(&self, now: DateTime<Utc>) -> bool {
        let last = self.state().last;
        last.is_some_and(|last| now - last <= PROVEN && last <= now + PROVEN)
    }

    /// Reports whether people were told since then that changes wait.
    pub(super) fn is_stall_told(&self, since: DateTime<Utc>) -> bool {
        self.state().stall_told.is_some_and(|at| at >= since)
    }

    /// People were told that changes wait.
    pub(super) fn note_stall_told(&self, now: DateTime<Utc>) {
        self.state().stall_told = Some(now);
    }

    /// Returns how much waits; `None` before this process has listed it.
    pub(in crate::engine) fn waiting(&self) -> Option<Waiting> {
        let state = self.state();
        if !state.read {
            return None;
        }
        let mut sum = Waiting::default();
        for pending in state.pending.values() {
            let waiting = pending.waiting();
            sum.events += waiting;
            sum.parked += pending.parked.len() as u64;
            if waiting > 0 {
                sum.oldest = match (sum.oldest, pending.since) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        Some(sum)
    }

    /// Shows the logs with events that are not tried by themselves, or that the engine's own
    /// storage keeps from being delivered: code, and since when if that is known.
    pub(in crate::engine) fn stuck(&self) -> Vec<(String, &'static str, Option<DateTime<Utc>>)> {
        let state = self.state();
        let stuck = state.pending.iter().filter_map(|(log, it)| {
            let (code, since) = match it.trouble {
                Some((code, since)) => (code, Some(since)),
                None if !it.parked.is_empty() => ("event_parked", it.since),
                None => return None,
            };
            Some((log.clone(), code, since))
        });
        stuck.collect()
    }

    /// Changes wait for the devices, or none does; returns since when they have. Changes that were
    /// superseded and announced again have waited all the same.
    pub(super) fn note_held(
        &self,
        oldest: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let mut state = self.state();
        let delivered = |since: DateTime<Utc>| state.last.is_some_and(|last| last > since);
        let before = state.held.filter(|(since, seen)| {
            let short = now - *seen < HELD_AGAIN && *seen - now < HELD_AGAIN;
            short && !delivered(*since)
        });
        state.held = match (before, oldest) {
            (Some((since, _)), Some(oldest)) => Some((since.min(oldest), now)),
            (None, Some(oldest)) => Some((oldest, now)),
            (before, None) => before,
        };
        oldest.and(state.held.map(|(since, _)| since))
    }

    /// Returns how delivering goes.
    pub(in crate::engine) fn delivery(&self) -> Delivery {
        let state = self.state();
        Delivery {
            last: state.last,
            failing: state.failing,
            slow: state.slow,
            tls_fault: state.tls_fault,
            total: state.successes,
            external: matches!(state.way, Way::External),
            exempt_keys: state.exempt_keys.clone(),
        }
    }
}
