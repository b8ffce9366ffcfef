//! The rules by which a mail server is left alone: refused tokens, its limiter, its breaker.
//!
//! Mailu locks its API for a whole network, the right token included, after five wrong ones in an
//! hour. So this mount allows itself three refused calls per server in any hour, whatever its
//! tenants write and however often the process starts again. The limiter counts for the server and
//! not for a token, and so does this: one entry for each server (scheme, host, port) keeps its
//! refused tokens together. An entry for each pair of server and token could not hold back a
//! tenant that writes a new wrong token every minute.
//!
//! The three calls are shared so that nobody waits for the wrong tokens of others:
//!
//! - the token that the server accepted last may always call; while there is one, other tokens
//!   together may be refused twice, which leaves the third refusal to it;
//! - a refused token is tried again as a probe, once an hour (by an emergency reset, once per
//!   15 minutes), and only if that leaves a call to a token that was not refused yet: a corrected
//!   token works at once.
//!
//! A call that may be refused while one was within the hour is counted in storage before it goes
//! out and taken back when it was not refused: no crash forgets it. Only the first refusal of an
//! hour, of a token that nothing speaks against, is counted after it: counting before would cost
//! every healthy call a Put.
//!
//! Everything here is a function of the stored entry and the time it is given.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Purpose;
use super::heard::Heard;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::provider::Refusal;

/// How long a refused call counts: an hour, and what a slow call takes from being counted to
/// arriving, at most.
const COUNTED: TimeDelta = TimeDelta::minutes(62);
/// Refused calls in that time.
const MOST_REFUSED: usize = 3;
/// How long a refused token rests.
const PROBE: TimeDelta = TimeDelta::hours(1);
/// How long an emergency reset waits instead, for a refused token and for the limiter.
const RESET_PROBE: TimeDelta = TimeDelta::minutes(15);
/// Minutes without a call after the first, second, ... 429 in a row.
const LIMITED_MINUTES: [i64; 4] = [5, 15, 30, 60];
/// This many calls in a row without any answer trip the breaker.
const TRIPS_AT: u32 = 3;
/// Minutes the breaker stays open, the first time, the second time in a row, ...
const OPEN_MINUTES: [i64; 5] = [1, 2, 4, 8, 10];
/// Refused tokens remembered; the one that was tried longest ago is forgotten first. A forgotten
/// one counts as new: it is still among the refused calls of its hour.
const MOST_TOKENS: usize = 16;
/// A refused token that nobody tried for so long is not remembered any more.
const REMEMBERED: TimeDelta = TimeDelta::days(30);

/// What is stored of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Stops {
    schema: u32,
    /// When calls were refused, or may have been: those of the last hour.
    refused: Vec<DateTime<Utc>>,
    /// The refused tokens.
    tokens: Vec<StoppedToken>,
    /// Keyed hash of the token that was accepted last, as far as that matters here.
    accepted: Option<String>,
    /// Set while the server's limiter refuses every token.
    limited: Option<Limited>,
    /// Set while the server gives no answers.
    breaker: Option<Breaker>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoppedToken {
    /// Keyed hash of server and token.
    token: String,
    tried_at: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limited {
    tried_at: DateTime<Utc>,
    /// Answers of this kind in a row.
    times: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Breaker {
    opened_at: DateTime<Utc>,
    /// How often it tripped without an answer in between.
    times: u32,
}

/// What is held back, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    /// Refused tokens.
    pub(super) tokens: usize,
    /// Whether the server's limiter refuses every token.
    pub(super) limited: bool,
    /// Whether the breaker tripped.
    pub(super) breaker: bool,
}

/// Whether a call may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As if nothing were stored.
    Free,
    /// Only after [`Stops::announce`] was stored.
    Announced,
    /// Not now: what the server would answer, or answered.
    Held(Refusal),
    /// The breaker is open.
    Open,
}

impl Default for Stops {
    fn default() -> Self {
        Self {
            schema: Self::SCHEMA,
            refused: Vec::new(),
            tokens: Vec::new(),
            accepted: None,
            limited: None,
            breaker: None,
        }
    }
}

impl Stops {
    const SCHEMA: u32 = 1;

    /// Reads the stored entry.
    pub(in crate::engine) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(key, bytes, Self::SCHEMA)?;
        let mut stops: Self = storage::decode(key, bytes)?;
        stops.bound();
        Ok(stops)
    }

    /// What stands for an entry that cannot be read, which may be neither obeyed nor ignored: one
    /// call was refused just now. That stops no token, and has every uncertain call counted.
    pub(super) fn careful(now: DateTime<Utc>) -> Self {
        Self {
            refused: vec![now],
            ..Self::default()
        }
    }

    /// Reports whether nothing is held back: such an entry need not be stored.
    pub(super) const fn is_quiet(&self) -> bool {
        self.refused.is_empty()
            && self.tokens.is_empty()
            && self.limited.is_none()
            && self.breaker.is_none()
    }

    /// Returns what an operator is told of.
    pub(super) const fn holding(&self) -> Holding {
        Holding {
            tokens: self.tokens.len(),
            limited: self.limited.is_some(),
            breaker: self.breaker.is_some(),
        }
    }

    /// Takes up what this process remembers better than the entry.
    pub(super) fn remember_accepted(&mut self, token: Option<String>) {
        if token.is_some() {
            self.accepted = token;
        }
    }

    /// Returns the token that was accepted last.
    pub(super) fn accepted(&self) -> Option<&str> {
        self.accepted.as_deref()
    }

    /// Decides on a call with `token`, which is its keyed hash.
    pub(super) fn admission(&self, token: &str, purpose: Purpose, now: DateTime<Utc>) -> Admission {
        if purpose == Purpose::Automatic && self.is_open(now) {
            return Admission::Open;
        }
        let probing = match &self.limited {
            Some(limited) if !limited.may_try(purpose, now) => {
                return Admission::Held(Refusal::RateLimited);
            }
            limited => limited.is_some(),
        };
        let refused = self.refused_within_the_hour(now);
        let good = self.accepted.as_deref();
        // What the accepted token may need is nobody else's.
        let most = MOST_REFUSED - usize::from(good.is_some());
        if good == Some(token) {
            if probing {
                Admission::Announced
            } else {
                Admission::Free
            }
        } else if let Some(stopped) = self.tokens.iter().find(|it| it.token == token) {
            // One call stays for a token that was not refused yet.
            if rested(stopped.tried_at, probe_interval(purpose), now) && refused + 1 < most {
                Admission::Announced
            } else {
                Admission::Held(Refusal::Token)
            }
        } else if refused >= most {
            Admission::Held(Refusal::RateLimited)
        } else if refused == 0 && !probing {
            Admission::Free
        } else {
            Admission::Announced
        }
    }

    /// Counts a call that goes out as soon as this is stored. Returns by what it is found again.
    pub(super) fn announce(&mut self, token: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.prune(now);
        if let Some(limited) = &mut self.limited {
            limited.tried_at = now;
        }
        if let Some(stopped) = self.tokens.iter_mut().find(|it| it.token == token) {
            stopped.tried_at = now;
        }
        if self.accepted.as_deref() == Some(token) {
            return None;
        }
        self.refused.push(now);
        Some(now)
    }

    /// Takes up what a call came to. `announced` is what [`Stops::announce`] returned for it,
    /// `silent` how many calls in a row, this one included, had no answer.
    pub(super) fn hear(
        &mut self,
        heard: Heard,
        token: &str,
        announced: Option<DateTime<Utc>>,
        silent: u32,
        now: DateTime<Utc>,
    ) {
        self.prune(now);
        match heard {
            Heard::Accepted => {
                self.take_back(announced);
                self.tokens.retain(|it| it.token != token);
                self.accepted = Some(token.to_owned());
                self.limited = None;
                self.breaker = None;
            }
            Heard::Refused => {
                if announced.is_none() {
                    self.refused.push(now);
                }
                self.stop(token, announced.unwrap_or(now));
                // The limiter would have answered before the token was looked at.
                self.limited = None;
                self.breaker = None;
            }
            Heard::Limited => {
                // Mailu does not count what it refuses in this way.
                self.take_back(announced);
                let times = self.limited.as_ref().map_or(0, |limited| limited.times);
                self.limited = Some(Limited {
                    tried_at: now,
                    times: times.saturating_add(1),
                });
                self.breaker = None;
            }
            Heard::Other => {
                self.take_back(announced);
                self.breaker = None;
            }
            Heard::Nothing(trouble) => {
                // Anything else may have been refused with the answer lost.
                if trouble.before_sending() {
                    self.take_back(announced);
                }
                if heard.is_silence() {
                    self.hear_silence(silent, now);
                }
            }
        }
    }

    fn hear_silence(&mut self, silent: u32, now: DateTime<Utc>) {
        let times = match &self.breaker {
            // A request that tried all the same.
            Some(breaker) if breaker.is_open(now) => return,
            Some(breaker) => breaker.times.saturating_add(1),
            None if silent >= TRIPS_AT => 1,
            None => return,
        };
        self.breaker = Some(Breaker {
            opened_at: now,
            times,
        });
    }

    /// Reports whether the breaker is open.
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.breaker.as_ref().is_some_and(|it| it.is_open(now))
    }

    fn stop(&mut self, token: &str, tried_at: DateTime<Utc>) {
        if self.accepted.as_deref() == Some(token) {
            self.accepted = None;
        }
        self.tokens.retain(|it| it.token != token);
        self.tokens.push(StoppedToken {
            token: token.to_owned(),
            tried_at,
        });
        self.bound();
    }

    fn take_back(&mut self, announced: Option<DateTime<Utc>>) {
        let found = self.refused.iter().position(|at| Some(*at) == announced);
        if let Some(place) = found {
            self.refused.remove(place);
        }
    }

    fn refused_within_the_hour(&self, now: DateTime<Utc>) -> usize {
        let recent = |at: &&DateTime<Utc>| !rested(**at, COUNTED, now);
        self.refused.iter().filter(recent).count()
    }

    /// Drops what has no effect any more.
    fn prune(&mut self, now: DateTime<Utc>) {
        self.refused.retain(|at| !rested(*at, COUNTED, now));
        self.tokens
            .retain(|it| !rested(it.tried_at, REMEMBERED, now));
    }

    fn bound(&mut self) {
        self.tokens.sort_by_key(|it| it.tried_at);
        let surplus = self.tokens.len().saturating_sub(MOST_TOKENS);
        self.tokens.drain(..surplus);
        // More than the most are never counted; whatever an entry holds, the newest decide.
        self.refused.sort();
        let surplus = self.refused.len().saturating_sub(2 * MOST_REFUSED);
        self.refused.drain(..surplus);
    }
}

impl Limited {
    fn may_try(&self, purpose: Purpose, now: DateTime<Utc>) -> bool {
        let step = usize::try_from(self.times.saturating_sub(1)).unwrap_or(usize::MAX);
        let minutes = LIMITED_MINUTES.get(step).or(LIMITED_MINUTES.last());
        let wait = TimeDelta::minutes(minutes.copied().unwrap_or(60));
        let wait = match purpose {
            Purpose::Reset => wait.min(RESET_PROBE),
            Purpose::Automatic | Purpose::Request => wait,
        };
        rested(self.tried_at, wait, now)
    }
}

impl Breaker {
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        let step = usize::try_from(self.times.saturating_sub(1)).unwrap_or(usize::MAX);
        let minutes = OPEN_MINUTES.get(step).or(OPEN_MINUTES.last());
        let open = TimeDelta::minutes(minutes.copied().unwrap_or(10));
        !rested(self.opened_at, open, now)
    }
}

/// Reports whether `wait` has passed since `at`. So it has for an instant that far in the future:
/// a clock that was put right must not hold anything back for long.
fn rested(at: DateTime<Utc>, wait: TimeDelta, now: DateTime<Utc>) -> bool {
    (now - at).abs() >= wait
}

const fn probe_interval(purpose: Purpose) -> TimeDelta {
    match purpose {
        Purpose::Reset => RESET_PROBE,
        Purpose::Automatic | Purpose::Request => PROBE,
    }
}
