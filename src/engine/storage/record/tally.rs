//! What has to be remembered of events, apart from the events: a record shows the latest sixteen of
//! them, and a client that fails in a loop must push nothing out of what rules and answers go by.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::Event;

/// How many kinds of failures are counted: by code and caller. Further ones are one kind together.
pub const MOST_KINDS: usize = 16;
/// After so long without a failure a kind begins anew.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::days(30);
/// More refusals than this need not be told apart.
const MOST_REFUSALS: usize = 8;
/// How many alerts are remembered; the oldest go first, and may be given once more.
const MOST_ALERTS: usize = 32;
/// How many answers are remembered: a host sends a request again within seconds.
const MOST_ANSWERS: usize = 4;
/// So many passwords may be given within a day that are not the imported one.
pub const MOST_TRIES: u32 = 5;
/// The code and caller of all kinds beyond [`MOST_KINDS`].
const OTHERS: &str = "other";

/// What is remembered of a tenant's events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Failures of requests, by code and caller.
    pub failures: Vec<Failures>,
    /// When Mailu refused within the last hour, oldest first.
    pub refusals: Vec<DateTime<Utc>>,
    /// The alerts of the last hour, oldest first.
    pub alerts: Vec<Alert>,
    /// Passwords that were given without `cas` and are not the imported one.
    #[serde(default)]
    pub tries: Option<Tries>,
    /// The events that requests were answered with last, oldest first.
    pub answers: Vec<Event>,
}

/// How often requests of one caller failed with one code. Never begun anew by a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failures {
    /// The stable code.
    pub code: String,
    /// See [`crate::audit::Actor::user_id`].
    pub user_id: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub first_at: DateTime<Utc>,
    /// When last.
    pub last_at: DateTime<Utc>,
}

/// How many of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tries {
    /// The first of the day.
    pub since: DateTime<Utc>,
    /// How many since.
    pub count: u32,
}

/// An alert that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// The rule's code.
    pub rule: String,
    /// Because of whom; empty where that makes no difference.
    pub who: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl Tally {
    /// Reports whether there is nothing to remember.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.failures.is_empty()
            && self.refusals.is_empty()
            && self.alerts.is_empty()
            && self.tries.is_none()
            && self.answers.is_empty()
    }

    /// Counts a failure; returns the how manieth of its kind it is.
    pub fn count(&mut self, code: &str, user_id: &str, now: DateTime<Utc>) -> u64 {
        self.failures
            .retain(|kind| now - kind.last_at < FORGOTTEN_AFTER);
        let is = |kind: &Failures, code: &str, who: &str| kind.code == code && kind.user_id == who;
        let known = self.failures.iter().any(|kind| is(kind, code, user_id));
        let (code, user_id) = if known || self.failures.len() + 1 < MOST_KINDS {
            (code, user_id)
        } else {
            (OTHERS, OTHERS)
        };
        if let Some(kind) = self
            .failures
            .iter_mut()
            .find(|kind| is(kind, code, user_id))
        {
            kind.count = kind.count.saturating_add(1);
            kind.last_at = kind.last_at.max(now);
            return kind.count;
        }
        self.failures.push(Failures {
            code: code.to_owned(),
            user_id: user_id.to_owned(),
            count: 1,
            first_at: now,
            last_at: now,
        });
        1
    }

    /// Returns how many passwords were tried within a day. By a clock that was set back they are of
    /// today: nobody gets more of them so.
    #[must_use]
    pub fn tries(&self, now: DateTime<Utc>) -> u32 {
        let today = self.tries.filter(|it| now - it.since < TimeDelta::days(1));
        today.map_or(0, |it| it.count)
    }

    /// Counts a password that was tried.
    pub fn note_try(&mut self, now: DateTime<Utc>) {
        let count = self.tries(now);
        let since = match self.tries {
            Some(earlier) if count > 0 => earlier.since.min(now),
            _ => now,
        };
        self.tries = Some(Tries {
            since,
            count: count.saturating_add(1),
        });
    }

    /// Remembers a refusal by Mailu.
    pub fn note_refusal(&mut self, at: DateTime<Utc>) {
        self.refusals.retain(|earlier| is_recent(*earlier, at));
        self.refusals.push(at);
        let excess = self.refusals.len().saturating_sub(MOST_REFUSALS);
        self.refusals.drain(..excess);
    }

    /// Returns how many refusals of the hour before an instant are remembered.
    #[must_use]
    pub fn refusals_before(&self, now: DateTime<Utc>) -> usize {
        let recent = self.refusals.iter().filter(|at| is_recent(**at, now));
        recent.count()
    }

    /// Reports whether an alert was given within the hour before an instant.
    #[must_use]
    pub fn was_given(&self, rule: &str, who: &str, now: DateTime<Utc>) -> bool {
        self.alerts
            .iter()
            .any(|alert| alert.rule == rule && alert.who == who && is_recent(alert.at, now))
    }

    /// Remembers that an alert is given.
    pub fn note_alert(&mut self, rule: &str, who: &str, at: DateTime<Utc>) {
        self.alerts.retain(|alert| is_recent(alert.at, at));
        self.alerts.push(Alert {
            rule: rule.to_owned(),
            who: who.to_owned(),
            at,
        });
        let excess = self.alerts.len().saturating_sub(MOST_ALERTS);
        self.alerts.drain(..excess);
    }

    /// Remembers the event that a request is answered with.
    pub fn note_answer(&mut self, event: &Event) {
        if event.request_id.is_empty() {
            return;
        }
        self.answers.push(event.clone());
        let excess = self.answers.len().saturating_sub(MOST_ANSWERS);
        self.answers.drain(..excess);
    }

    /// Returns the events that a request was answered with, newest first.
    pub fn answers_to(&self, request_id: &str) -> impl Iterator<Item = &Event> {
        let own = move |event: &&Event| !request_id.is_empty() && event.request_id == request_id;
        self.answers.iter().rev().filter(own)
    }
}

/// Reports whether something is of the hour before an instant. By a clock that was ahead it may
/// seem to come from the future: then it says nothing.
fn is_recent(at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (TimeDelta::zero()..TimeDelta::hours(1)).contains(&(now - at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn failures_are_counted_by_code_and_caller_and_beyond_sixteen_together() {
        let mut tally = Tally::default();
        assert_eq!(tally.count("a", "e-1", at(0)), 1);
        assert_eq!(tally.count("a", "e-1", at(1)), 2);
        assert_eq!(tally.count("b", "e-1", at(1)), 1);
        assert_eq!(tally.count("a", "e-2", at(1)), 1);
        let beyond: Vec<u64> = (0..100)
            .map(|number| tally.count("a", &format!("looping-{number}"), at(2)))
            .collect();
        assert_eq!(tally.failures.len(), MOST_KINDS);
        assert_eq!(beyond.iter().filter(|count| **count == 1).count(), 13);
        assert_eq!(beyond.last(), Some(&88));
        // Who has a place keeps it.
        assert_eq!(tally.count("a", "e-1", at(3)), 3);
        // A month of quiet is forgotten; a clock that was set back forgets nothing.
        assert_eq!(tally.count("a", "e-1", at(-86_400)), 4);
        assert_eq!(tally.count("a", "e-1", at(31 * 86_400)), 1);
        assert_eq!(tally.failures.len(), 1);
    }

    #[test]
    fn what_is_remembered_for_rules_and_answers_is_bounded() {
        let mut tally = Tally::default();
        for second in 0..1_000 {
            tally.note_refusal(at(second));
            tally.note_alert("rule", &second.to_string(), at(second));
        }
        assert_eq!(tally.refusals_before(at(1_000)), MOST_REFUSALS);
        assert_eq!(tally.alerts.len(), MOST_ALERTS);
        assert!(tally.was_given("rule", "999", at(1_000)));
        assert!(!tally.was_given("rule", "999", at(5_000)));
        assert!(!tally.was_given("rule", "999", at(0)), "from the future");
        assert_eq!(tally.refusals_before(at(5_000)), 0);
    }
}
