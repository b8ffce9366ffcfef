//! A batch as it is stored, and what the outcome of each tenant does to it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::Actor;
use crate::engine::error::Error;
use crate::engine::storage;

const SCHEMA: u32 = 1;
/// Failures that are kept with their tenants.
const MOST_FAILURES: usize = 50;

/// What is done to every tenant of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::engine) enum Action {
    /// An ordinary new password.
    Rotate,
    /// An emergency reset.
    Reset,
}

/// Whose passwords are changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::engine) enum Targets {
    /// Every tenant of the mount, in the order of their names.
    All,
    /// These, in this order.
    Named(Vec<String>),
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::engine) enum State {
    /// The first tenants are changed, one after the other.
    Canary,
    /// The rest is changed.
    Running,
    /// Every tenant had its turn.
    Done,
    /// It stopped itself.
    Stopped,
    /// Somebody stopped it.
    Cancelled,
}

/// A tenant whose change failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Failure {
    pub(in crate::engine) tenant: String,
    pub(in crate::engine) code: String,
    pub(in crate::engine) at: DateTime<Utc>,
}

/// The end of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct End {
    pub(in crate::engine) at: DateTime<Utc>,
    /// Who ended it; `system` unless somebody cancelled it.
    pub(in crate::engine) by: Actor,
    /// Why, if not because every tenant had its turn.
    pub(in crate::engine) code: Option<String>,
    /// What the canceller gave as reason.
    pub(in crate::engine) reason: Option<String>,
    /// The event that tells of it, once it is stored.
    pub(in crate::engine) event_id: Option<String>,
}

/// A batch, under `batch/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Batch {
    schema: u32,
    pub(in crate::engine) id: String,
    pub(in crate::engine) action: Action,
    pub(in crate::engine) targets: Targets,
    /// How many there were when it was created.
    pub(in crate::engine) total: u64,
    pub(in crate::engine) reason: Option<String>,
    pub(in crate::engine) incident_id: Option<String>,
    pub(in crate::engine) canary: u64,
    pub(in crate::engine) max_failures: u64,
    pub(in crate::engine) created_by: Actor,
    pub(in crate::engine) created_at: DateTime<Utc>,
    /// The host's request, so that a resent one is recognised.
    pub(in crate::engine) request_id: String,
    /// The event that tells of its beginning.
    pub(in crate::engine) event_id: String,
    pub(in crate::engine) seq: u64,
    pub(in crate::engine) state: State,
    /// The last tenant of the pages that are done; empty at the start.
    pub(in crate::engine) after: String,
    /// How many tenants those pages had.
    pub(in crate::engine) taken: u64,
    /// Those of the page under way that had their turn.
    pub(in crate::engine) had_turn: BTreeSet<String>,
    pub(in crate::engine) succeeded: u64,
    /// Resets that wait for their mail server; ticks go on with them.
    pub(in crate::engine) queued: u64,
    pub(in crate::engine) failed: u64,
    /// Tenants that were left alone, by why.
    pub(in crate::engine) skipped: BTreeMap<String, u64>,
    /// The first failures.
    pub(in crate::engine) failures: Vec<Failure>,
    pub(in crate::engine) end: Option<End>,
}

/// What became of a tenant's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The new password is live.
    Succeeded,
    /// The reset goes on by itself.
    Queued,
    /// It was left alone.
    Skipped(&'static str),
    /// It failed, with this code.
    Failed(&'static str),
}

/// What a new batch begins with.
#[derive(Clone, Debug)]
pub(super) struct NewBatch {
    pub(super) id: String,
    pub(super) action: Action,
    pub(super) targets: Targets,
    pub(super) total: u64,
    pub(super) reason: Option<String>,
    pub(super) incident_id: Option<String>,
    pub(super) canary: u64,
    pub(super) max_failures: u64,
    pub(super) created_by: Actor,
    pub(super) created_at: DateTime<Utc>,
    pub(super) request_id: String,
    pub(super) event_id: String,
    pub(super) seq: u64,
}

impl From<NewBatch> for Batch {
    fn from(new: NewBatch) -> Self {
        let state = if new.canary == 0 {
            State::Running
        } else {
            State::Canary
        };
        Self {
            schema: SCHEMA,
            id: new.id,
            action: new.action,
            targets: new.targets,
            total: new.total,
            reason: new.reason,
            incident_id: new.incident_id,
            canary: new.canary,
            max_failures: new.max_failures,
            created_by: new.created_by,
            created_at: new.created_at,
            request_id: new.request_id,
            event_id: new.event_id,
            seq: new.seq,
            state,
            after: String::new(),
            taken: 0,
            had_turn: BTreeSet::new(),
            succeeded: 0,
            queued: 0,
            failed: 0,
            skipped: BTreeMap::new(),
            failures: Vec::new(),
            end: None,
        }
    }
}

impl Batch {
    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(key, bytes, SCHEMA)?;
        let batch: Self = storage::decode(key, bytes)?;
        if storage::batch_key(&batch.id) != key {
            return Err(storage::damaged(key));
        }
        let counts = [batch.total, batch.taken, batch.succeeded, batch.queued];
        storage::check_counts(key, &counts)?;
        storage::check_counts(key, &[batch.failed, batch.seq])?;
        Ok(batch)
    }

    /// The request id of every change it makes.
    pub(super) fn change_id(&self) -> String {
        format!("batch:{}", self.id)
    }

    pub(in crate::engine) const fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Stopped | State::Cancelled)
    }

    /// How many have not had their turn; tenants that appeared since count as none.
    pub(in crate::engine) fn left(&self) -> u64 {
        let skipped: u64 = self.skipped.values().sum();
        let had = self.succeeded + self.queued + self.failed + skipped;
        self.total.saturating_sub(had)
    }

    /// Takes down what became of a tenant's turn; a second report of the same turn counts as none.
    pub(super) fn note(&mut self, tenant: &str, turn: &Turn, now: DateTime<Utc>) {
        if !self.had_turn.insert(tenant.to_owned()) {
            return;
        }
        match turn {
            Turn::Succeeded => self.succeeded += 1,
            Turn::Queued => self.queued += 1,
            Turn::Skipped(code) => *self.skipped.entry((*code).to_owned()).or_default() += 1,
            Turn::Failed(code) => {
                self.failed += 1;
                if self.failures.len() < MOST_FAILURES {
                    self.failures.push(Failure {
                        tenant: tenant.to_owned(),
                        code: (*code).to_owned(),
                        at: now,
                    });
                }
            }
        }
        self.judge(now);
    }

    /// Ends the canary, or the batch, by what was counted.
    fn judge(&mut self, now: DateTime<Utc>) {
        if self.state == State::Canary {
            // Of the first ones every single one has to succeed, and now.
            if self.failed + self.queued > 0 {
                self.stop("canary_failed", now);
            } else if self.succeeded >= self.canary {
                self.state = State::Running;
            }
        }
        if !self.is_over() && self.failed > self.max_failures {
            self.stop("too_many_failures", now);
        }
    }

    fn stop(&mut self, code: &'static str, now: DateTime<Utc>) {
        self.finish(State::Stopped, Some(code), Actor::system(), None, now);
    }

    /// Ends the batch, unless it is over already.
    pub(super) fn finish(
        &mut self,
        state: State,
        code: Option<&'static str>,
        by: Actor,
        reason: Option<String>,
        now: DateTime<Utc>,
    ) {
        if self.is_over() {
            return;
        }
        self.state = state;
        self.end = Some(End {
            at: now,
            by,
            code: code.map(str::to_owned),
            reason,
            event_id: None,
        });
    }

    /// Reports whether another batch has its turn first: an older one, but resets go before all others.
    pub(super) fn waits_for(&self, other: &Self) -> bool {
        match (self.action, other.action) {
            (Action::Rotate, Action::Reset) => true,
            (Action::Reset, Action::Rotate) => false,
            _ => other.seq < self.seq,
        }
    }

    /// Moves the place behind a page all of whose tenants had their turn.
    pub(super) fn turn_page(&mut self, page: &[String]) {
        let Some(last) = page.last() else { return };
        if page.iter().all(|name| self.had_turn.contains(name)) {
            self.after.clone_from(last);
            self.taken += page.len() as u64;
            self.had_turn.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;

    fn batch(canary: u64, max_failures: u64) -> Batch {
        Batch::from(NewBatch {
            id: String::from("01K8Z5Y4N6D3T7Q2W9R1M0XVBC"),
            action: Action::Rotate,
            targets: Targets::All,
            total: 10,
            reason: None,
            incident_id: None,
            canary,
            max_failures,
            created_by: Actor::system(),
            created_at: fixture::now(),
            request_id: String::new(),
            event_id: String::new(),
            seq: 1,
        })
    }

    #[test]
    fn every_canary_has_to_succeed() {
        let now = fixture::now();
        let mut good = batch(2, 5);
        good.note("a", &Turn::Skipped("drift"), now);
        good.note("b", &Turn::Succeeded, now);
        assert_eq!(good.state, State::Canary, "who was skipped proves nothing");
        good.note("c", &Turn::Succeeded, now);
        assert_eq!((good.state, good.left()), (State::Running, 7));
        for bad in [Turn::Failed("mailu_tls"), Turn::Queued] {
            let mut stopped = batch(2, 5);
            stopped.note("a", &Turn::Succeeded, now);
            stopped.note("b", &bad, now);
            assert_eq!(stopped.state, State::Stopped);
            let end = stopped.end.unwrap();
            assert_eq!(end.code.as_deref(), Some("canary_failed"));
        }
    }

    #[test]
    fn it_stops_above_its_failures_and_keeps_the_first_end() {
        let now = fixture::now();
        let mut stopped = batch(0, 1);
        stopped.note("a", &Turn::Failed("mailu_tls"), now);
        stopped.note("a", &Turn::Failed("mailu_tls"), now);
        assert_eq!(
            (stopped.state, stopped.failed),
            (State::Running, 1),
            "told twice"
        );
        stopped.note("b", &Turn::Failed("mailu_tls"), now);
        stopped.note("c", &Turn::Succeeded, now);
        stopped.finish(
            State::Cancelled,
            Some("cancelled"),
            Actor::system(),
            None,
            now,
        );
        assert_eq!((stopped.state, stopped.succeeded), (State::Stopped, 1));
        let end = stopped.end.unwrap();
        assert_eq!(end.code.as_deref(), Some("too_many_failures"));
    }

    #[test]
    fn a_page_is_turned_when_everybody_had_his_turn() {
        let now = fixture::now();
        let page = ["a", "b"].map(str::to_owned);
        let mut batch = batch(0, 1);
        batch.note("b", &Turn::Succeeded, now);
        batch.turn_page(&page);
        assert_eq!((batch.taken, batch.after.as_str()), (0, ""));
        batch.note("a", &Turn::Succeeded, now);
        batch.turn_page(&page);
        assert_eq!((batch.taken, batch.after.as_str()), (2, "b"));
        assert!(batch.had_turn.is_empty());
    }

    #[test]
    fn what_is_stored_reads_back_and_a_moved_or_newer_entry_is_refused() {
        let batch = batch(1, 5);
        let key = storage::batch_key(&batch.id);
        let bytes = storage::encode(&batch).unwrap();
        assert_eq!(Batch::decode(&key, &bytes).unwrap(), batch);
        assert!(Batch::decode("batch/another", &bytes).is_err());
        let newer = String::from_utf8(bytes)
            .unwrap()
            .replacen("\"schema\":1", "\"schema\":2", 1);
        assert!(Batch::decode(&key, newer.as_bytes()).is_err());
    }

    #[test]
    fn the_frozen_format_reads_and_is_written_back_byte_for_byte() {
        let frozen = fixture::BATCH_V1.trim_ascii();
        let key = storage::batch_key("01K8Z5Y4N6D3T7Q2W9R1M0XVBC");
        let read = Batch::decode(&key, frozen).unwrap();
        assert_eq!((read.action, read.state), (Action::Reset, State::Cancelled));
        assert_eq!(storage::encode(&read).unwrap(), frozen);
        // The other words of the format.
        let states = [State::Canary, State::Running, State::Done, State::Stopped];
        let words = storage::encode(&(Action::Rotate, Targets::All, states)).unwrap();
        assert_eq!(
            String::from_utf8(words).unwrap(),
            r#"["rotate","all",["canary","running","done","stopped"]]"#
        );
    }
}
