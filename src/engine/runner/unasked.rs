//! Whom a sweep could not ask: their servers are tried again within minutes and hours, and not only
//! by the next day's sweep.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::server_of;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::tenant::TenantName;
use crate::logical::Mount;
use crate::provider::Refusal;

/// Names that are kept: some 700 KB at most. The rest is asked by the next day's sweep.
const MOST: usize = 10_000;
/// The gap before the first round; each one is twice as long, up to the longest.
const FIRST_GAP: Duration = Duration::from_secs(5 * 60);
const LONGEST_GAP: Duration = Duration::from_secs(2 * 3600);

/// Tenants whose mail servers could not be asked.
#[derive(Debug, Default)]
pub(super) struct Unasked {
    names: BTreeSet<TenantName>,
    /// Those for whom there was no room.
    more: u64,
    /// Rounds so far.
    rounds: u32,
    /// When the next one begins, monotonic; `None` while the sweep itself is under way.
    next: Option<Duration>,
}

impl Unasked {
    pub(super) fn add(&mut self, name: TenantName) {
        if self.names.len() < MOST {
            self.names.insert(name);
        } else if !self.names.contains(&name) {
            self.more += 1;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.names.len() as u64 + self.more
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        !self.names.is_empty() && self.next.is_some_and(|next| now >= next)
    }

    /// Plans the next round.
    pub(super) fn end_round(&mut self, now: Duration) {
        let gap = FIRST_GAP.saturating_mul(1 << self.rounds.min(8));
        self.next = Some(now + gap.min(LONGEST_GAP));
        self.rounds = self.rounds.saturating_add(1);
    }
}

/// Tells a server that cannot be asked now from one that answered, or never will without a person.
pub(super) const fn is_worth_asking_again(error: &Error) -> bool {
    match error {
        Error::BreakerOpen
        | Error::GaveWay
        | Error::InProgress
        | Error::Refused(Refusal::RateLimited) => true,
        Error::Unreachable(trouble) => !trouble.is_permanent(),
        _ => false,
    }
}

impl Engine {
    /// Asks those again whom nobody could ask. A server that still does not answer is asked once.
    pub(super) async fn ask_again(self: &Arc<Self>, mount: &Mount, parallel: usize) {
        let names: Vec<TenantName> = {
            let state = self.runner.state();
            state.sweeps.unasked.names.iter().cloned().collect()
        };
        let silent: Mutex<HashSet<String>> = Mutex::default();
        let silent = || silent.lock().unwrap_or_else(PoisonError::into_inner);
        stream::iter(names)
            .for_each_concurrent(parallel, |name| async move {
                if self.tasks.is_stopping() {
                    return;
                }
                let record = self.read_tenant(mount, &name).await;
                let server = server_of(record.ok().flatten().as_deref());
                if silent().contains(&server) {
                    return;
                }
                match self.ask(mount, &name).await {
                    Err(error) if is_worth_asking_again(&error) => {
                        silent().insert(server);
                    }
                    outcome => {
                        let mut state = self.runner.state();
                        let sweeps = &mut state.sweeps;
                        sweeps.unasked.names.remove(&name);
                        if matches!(outcome, Ok(true)) {
                            sweeps.note_difference();
                        }
                    }
                }
            })
            .await;
        let now = self.clock().monotonic();
        self.runner.state().sweeps.unasked.end_round(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gaps_grow_and_the_memory_does_not() {
        let mut unasked = Unasked::default();
        for index in 0..=MOST {
            unasked.add(TenantName::parse(&format!("t{index}")).unwrap());
        }
        assert_eq!((unasked.names.len(), unasked.count()), (MOST, 10_001));
        let mut now = Duration::ZERO;
        assert!(!unasked.is_due(now), "the sweep is under way");
        let mut gaps = Vec::new();
        for _ in 0..7 {
            unasked.end_round(now);
            let begun = now;
            while !unasked.is_due(now) {
                now += Duration::from_secs(60);
            }
            gaps.push((now - begun).as_secs() / 60);
        }
        assert_eq!(gaps, [5, 10, 20, 40, 80, 120, 120]);
    }
}
