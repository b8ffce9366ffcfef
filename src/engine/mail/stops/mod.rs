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
//! - the token that the server accepted last may always call; it is stored, so that it is known
//!   after a restart as well. While there is one, one of the three refusals is left to it;
//! - another one is left to emergency resets;
//! - one tenant's new tokens may not use up what all new tokens have: the last call is left to the
//!   other tenants, and for half an hour longer than a refused call counts;
//! - a front's 401 or 403 (any that Mailu does not word so) stops no token, since it may be right;
//!   but Mailu may have counted it, so it takes one of the three as well. While one counts, the
//!   engine's own work risks no second, persons one more, emergencies the last;
//! - who writes a token, the same one too, ends its stop for one call, if one of the three is free
//!   (not the one that is left to emergencies), at most once in 15 minutes;
//! - a refused token is tried again as a probe, once an hour (by an emergency reset, once per
//!   15 minutes), and only if that leaves a call to a token that was not refused yet: a corrected
//!   token works at once. Beside an accepted token there is no second call to leave, and a probe
//!   every three hours is enough.
//!
//! A front that asks to call later (429, or 503 with `Retry-After`) is back-off of the engine's own
//! work, as an open breaker is, for at most ten minutes.
//!
//! A call that may be refused while one was within the hour is counted in storage before it goes
//! out and taken back when it was not refused: no crash forgets it. Only the first refusal of an
//! hour, of a token that nothing speaks against, is counted after it: counting before would cost
//! every healthy call a Put.
//!
//! Everything here is a function of the stored entry and the time it is given. What may go out is
//! decided in [`admission`].

mod admission;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Purpose;
use super::heard::Heard;
use super::unasked::Why;
use crate::crypto::{Keyring, Sensitive};
use crate::engine::error::Error;
use crate::engine::storage;

pub(super) use admission::Admission;

/// How long a refused call counts: an hour, and what a slow call takes from being counted to
/// arriving, at most.
const COUNTED: TimeDelta = TimeDelta::minutes(62);
/// Refused calls in that time.
const MOST_REFUSED: usize = 3;
/// How long a tenant is charged for a refused new token: until the others had half an hour in
/// which the call was free again. A tenant that loops is not always the first.
const CHARGED: TimeDelta = TimeDelta::minutes(62 + 30);
/// Refused calls an entry may hold: more than are ever looked at.
const MOST_KEPT: usize = 3 * MOST_REFUSED;
/// This many calls in a row without any answer trip the breaker.
const TRIPS_AT: u32 = 3;
/// Minutes the breaker stays open, the first time, the second time in a row, ...
const OPEN_MINUTES: [i64; 5] = [1, 2, 4, 8, 10];
/// Longest that a front may ask for, in seconds.
const LONGEST_BUSY: u32 = 600;
/// How often a person's word may end a stop at one server.
const PERSONS_WORD: TimeDelta = TimeDelta::minutes(15);
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
    /// Calls that were refused, or may have been: those of the last hour and a half.
    refused: Vec<RefusedCall>,
    /// The refused tokens.
    tokens: Vec<StoppedToken>,
    /// Keyed hash of the token that was accepted last, unless it was refused since.
    accepted: Option<String>,
    /// Set while the server's limiter refuses every token.
    limited: Option<Limited>,
    /// Set while the server gives no answers, or something before it asks to call later.
    breaker: Option<Breaker>,
    /// Why the server cannot be asked, and since when.
    #[serde(default)]
    unasked: Option<Unasked>,
    /// When a person's word ended a stop for the last time.
    #[serde(default)]
    spoken_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedCall {
    at: DateTime<Utc>,
    /// Keyed hash of the tenant that pays: it brought a new token, or its reset tried a refused
    /// one beside an accepted one.
    charged: Option<String>,
    /// Whether it was made by an emergency reset.
    reset: bool,
    /// The status, if it was not worded by Mailu: it says nothing of the token.
    #[serde(default)]
    foreign: Option<u16>,
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
struct Unasked {
    why: Why,
    since: DateTime<Utc>,
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
    /// For how many seconds, if the other side named them.
    #[serde(default)]
    seconds: Option<u32>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Keyed hash of server and token.
    pub(super) token: String,
    /// Keyed hash of server and tenant.
    pub(super) tenant: String,
    pub(super) purpose: Purpose,
    /// When a person wrote the token for this tenant.
    pub(super) written_at: Option<DateTime<Utc>>,
}

impl Caller {
    /// Names a caller by keyed hashes.
    pub(super) fn new(
        keyring: &Keyring,
        origin: &str,
        tenant: &str,
        token: &Sensitive<String>,
        purpose: Purpose,
        written_at: Option<DateTime<Utc>>,
    ) -> Self {
        Self {
            token: hex::encode(keyring.token_hash(origin, token)),
            tenant: hex::encode(keyring.detail_hash(format!("{origin} {tenant}").as_bytes())),
            purpose,
            written_at,
        }
    }
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
    /// The status of somebody else's refusal that still counts.
    pub(super) denied: Option<u16>,
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
            unasked: None,
            spoken_at: None,
        }
    }
}

impl Stops {
    const SCHEMA: u32 = 2;

    /// Reads the stored entry.
    pub(in crate::engine) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(key, bytes, Self::SCHEMA)?;
        let mut stops: Self = storage::decode(key, bytes)?;
        // Schema 2 added members whose absence says what schema 1 meant.
        stops.schema = Self::SCHEMA;
        if stops.tokens.len() > MOST_TOKENS || stops.refused.len() > MOST_KEPT {
            return Err(storage::damaged(key));
        }
        Ok(stops)
    }

    /// What stands for an entry that cannot be read, which may be neither obeyed nor ignored: one
    /// call was refused just now. That stops no token, and has every uncertain call counted.
    pub(super) fn careful(now: DateTime<Utc>) -> Self {
        Self {
            refused: vec![RefusedCall {
                at: now,
                charged: None,
                reset: false,
                foreign: None,
            }],
            ..Self::default()
        }
    }

    /// Reports whether nothing is known: such an entry need not be stored.
    pub(super) const fn is_empty(&self) -> bool {
        self.accepted.is_none()
            && self.refused.is_empty()
            && self.tokens.is_empty()
            && self.limited.is_none()
            && self.breaker.is_none()
            && self.unasked.is_none()
            && self.spoken_at.is_none()
    }

    /// Returns what an operator is told of.
    pub(super) fn holding(&self) -> Holding {
        Holding {
            tokens: self.tokens.len(),
            limited: self.limited.is_some(),
            breaker: self.breaker.is_some(),
            denied: self.refused.iter().rev().find_map(|call| call.foreign),
        }
    }

    /// Returns the token that was accepted last.
    #[cfg(test)]
    pub(super) fn accepted(&self) -> Option<&str> {
        self.accepted.as_deref()
    }

    fn is_accepted(&self, token: &str) -> bool {
        self.accepted.as_deref() == Some(token)
    }

    fn stopped(&self, token: &str) -> Option<&StoppedToken> {
        self.tokens.iter().find(|it| it.token == token)
    }

    /// Counts a call that goes out as soon as this is stored. Returns by what it is found again.
    pub(super) fn announce(
        &mut self,
        caller: &Caller,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        self.prune(now);
        if self.needs_a_word(caller, now) {
            self.spoken_at = Some(now);
        }
        let call = self.refused_call(caller, now);
        if let Some(limited) = &mut self.limited {
            limited.tried_at = now;
        }
        let tried = |it: &&mut StoppedToken| it.token == caller.token;
        if let Some(stopped) = self.tokens.iter_mut().find(tried) {
            stopped.tried_at = now;
        }
        if self.is_accepted(&caller.token) && self.denied_at(now).is_none() {
            return None;
        }
        self.refused.push(call);
        Some(now)
    }

    /// What a call is if it is refused.
    fn refused_call(&self, caller: &Caller, now: DateTime<Utc>) -> RefusedCall {
        let reset = caller.purpose == Purpose::Reset;
        let charged = if self.is_accepted(&caller.token) {
            false
        } else if self.stopped(&caller.token).is_some() {
            // Where another token is accepted there is no call to spare. Elsewhere the next token
            // is likely to be the corrected one.
            reset && self.accepted.is_some()
        } else {
            true
        };
        RefusedCall {
            at: now,
            charged: charged.then(|| caller.tenant.clone()),
            reset,
            foreign: None,
        }
    }

    /// Takes up what a call came to. `announced` is what [`Stops::announce`] returned for it,
    /// `silent` how many calls in a row, this one included, had no answer.
    pub(super) fn hear(
        &mut self,
        heard: Heard,
        caller: &Caller,
        announced: Option<DateTime<Utc>>,
        silent: u32,
        now: DateTime<Utc>,
    ) {
        self.prune(now);
        self.take_up(heard, caller, announced, silent, now);
        self.note_unasked(heard, silent, now);
    }

    fn take_up(
        &mut self,
        heard: Heard,
        caller: &Caller,
        announced: Option<DateTime<Utc>>,
        silent: u32,
        now: DateTime<Utc>,
    ) {
        let token = caller.token.as_str();
        match heard {
            Heard::Accepted => {
                self.take_back(announced);
                self.tokens.retain(|it| it.token != token);
                if !self.is_accepted(token) {
                    self.accepted = Some(token.to_owned());
                }
                self.limited = None;
                self.breaker = None;
            }
            Heard::Refused => {
                if announced.is_none() {
                    let call = self.refused_call(caller, now);
                    self.refused.push(call);
                }
                self.stop(token, announced.unwrap_or(now));
                // The limiter would have answered before the token was looked at.
                self.limited = None;
                self.breaker = None;
            }
            Heard::Limited => {
                // Mailu does not count what it refuses in this way.
                self.take_back(announced);
                self.limit(now);
                self.breaker = None;
            }
            Heard::Denied(status) => {
                self.take_back(announced);
                let call = RefusedCall {
                    foreign: Some(status),
                    ..self.refused_call(caller, announced.unwrap_or(now))
                };
                self.refused.push(call);
                self.bound();
                self.breaker = None;
            }
            Heard::Busy(seconds) => {
                self.take_back(announced);
                self.back_off(seconds, now);
            }
            Heard::NoApi | Heard::Other => {
                self.take_back(announced);
                self.breaker = None;
            }
            Heard::Nothing(trouble) => {
                // An answer that is no 401 or 403 was not counted. Without one it may have been refused
                // and the answer lost.
                if trouble.is_answered() || trouble.before_sending() {
                    self.take_back(announced);
                }
                if heard.is_silence() {
                    self.hear_silence(silent, now);
                }
            }
        }
    }

    fn limit(&mut self, now: DateTime<Utc>) {
        let times = self.limited.as_ref().map_or(0, |limited| limited.times);
        self.limited = Some(Limited {
            tried_at: now,
            times: times.saturating_add(1),
        });
    }

    /// Something before the server asks to call later.
    fn back_off(&mut self, seconds: Option<u32>, now: DateTime<Utc>) {
        let times = self.breaker.as_ref().map_or(0, |breaker| breaker.times);
        self.breaker = Some(Breaker {
            opened_at: now,
            times: times.saturating_add(1),
            seconds: seconds.map(|seconds| seconds.min(LONGEST_BUSY)),
        });
    }

    /// Remembers since when the server cannot be asked, and why. Silence counts when the breaker
    /// trips, and a wish to be called later the third time in a row: once is no news. Why calls are
    /// refused stays known while they are limited because of that.
    fn note_unasked(&mut self, heard: Heard, silent: u32, now: DateTime<Utc>) {
        if heard == Heard::Accepted {
            self.unasked = None;
            return;
        }
        let limited = self.limited.as_ref().map(|it| it.times);
        let breaker = self.breaker.as_ref().map(|it| it.times);
        let once = match heard {
            Heard::Limited => self.unasked.is_some() || limited.is_none_or(|it| it < TRIPS_AT),
            Heard::Busy(_) => breaker.is_none_or(|it| it < TRIPS_AT),
            heard => heard.is_silence() && silent < TRIPS_AT && self.breaker.is_none(),
        };
        let Some(why) = Why::of_heard(heard).filter(|_| !once) else {
            return;
        };
        if self.unasked.as_ref().is_none_or(|known| known.why != why) {
            self.unasked = Some(Unasked { why, since: now });
        }
    }

    /// Returns why the server could not be asked before it limited calls, and since when.
    pub(super) fn unasked(&self) -> Option<(Why, DateTime<Utc>)> {
        self.unasked.as_ref().map(|known| (known.why, known.since))
    }

    /// Returns since when the server cannot be asked for this reason.
    pub(super) fn unasked_since(&self, why: Why) -> Option<DateTime<Utc>> {
        let known = self.unasked.as_ref().filter(|known| known.why == why);
        known.map(|known| known.since)
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
            seconds: None,
        });
    }

    /// Reports whether the breaker is open.
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.breaker.as_ref().is_some_and(|it| it.is_open(now))
    }

    fn stop(&mut self, token: &str, tried_at: DateTime<Utc>) {
        if self.is_accepted(token) {
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
        let is_it = |call: &RefusedCall| Some(call.at) == announced;
        let found = self.refused.iter().rposition(is_it);
        if let Some(place) = found {
            self.refused.remove(place);
        }
    }

    fn refused_within(
        &self,
        time: TimeDelta,
        now: DateTime<Utc>,
    ) -> impl Iterator<Item = &RefusedCall> {
        let recent = move |call: &&RefusedCall| !rested(call.at, time, now);
        self.refused.iter().filter(recent)
    }

    /// Drops what has no effect any more.
    fn prune(&mut self, now: DateTime<Utc>) {
        self.refused.retain(|call| !rested(call.at, CHARGED, now));
        self.tokens
            .retain(|it| !rested(it.tried_at, REMEMBERED, now));
        self.spoken_at = self.spoken_at.filter(|at| !rested(*at, PERSONS_WORD, now));
    }

    fn bound(&mut self) {
        self.tokens.sort_by_key(|it| it.tried_at);
        let surplus = self.tokens.len().saturating_sub(MOST_TOKENS);
        self.tokens.drain(..surplus);
        self.refused.sort_by_key(|call| call.at);
        let surplus = self.refused.len().saturating_sub(MOST_KEPT);
        self.refused.drain(..surplus);
    }
}

impl Breaker {
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        let step = usize::try_from(self.times.saturating_sub(1)).unwrap_or(usize::MAX);
        let minutes = OPEN_MINUTES.get(step).or(OPEN_MINUTES.last());
        let open = match self.seconds {
            Some(seconds) => TimeDelta::seconds(i64::from(seconds)),
            None => TimeDelta::minutes(minutes.copied().unwrap_or(10)),
        };
        !rested(self.opened_at, open, now)
    }
}

/// Reports whether `wait` has passed since `at`. So it has for an instant that far in the future:
/// a clock that was put right must not hold anything back for long.
fn rested(at: DateTime<Utc>, wait: TimeDelta, now: DateTime<Utc>) -> bool {
    (now - at).abs() >= wait
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Refusal, TlsFault, Trouble};

    const HOUR: i64 = 60;

    /// One server, its time in minutes.
    #[derive(Clone, Default)]
    struct Bench {
        stops: Stops,
        silent: u32,
    }

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + minute * 60, 0).unwrap()
    }

    fn caller(token: &str, tenant: &str, purpose: Purpose) -> Caller {
        Caller {
            token: token.to_owned(),
            tenant: tenant.to_owned(),
            purpose,
            written_at: None,
        }
    }

    impl Bench {
        /// A server that accepts `good`.
        fn in_order() -> Self {
            let mut bench = Self::default();
            assert!(bench.call("good", Purpose::Request, 0, Heard::Accepted));
            bench
        }

        fn admission(&self, token: &str, purpose: Purpose, minute: i64) -> Admission {
            self.admission_of("acme", token, purpose, minute)
        }

        fn admission_of(
            &self,
            tenant: &str,
            token: &str,
            purpose: Purpose,
            minute: i64,
        ) -> Admission {
            let caller = caller(token, tenant, purpose);
            self.stops.admission(&caller, at(minute))
        }

        fn call(&mut self, token: &str, purpose: Purpose, minute: i64, heard: Heard) -> bool {
            self.call_of("acme", token, purpose, minute, heard)
        }

        /// Makes a call if it may be made; returns whether it was.
        fn call_of(
            &mut self,
            tenant: &str,
            token: &str,
            purpose: Purpose,
            minute: i64,
            heard: Heard,
        ) -> bool {
            let now = at(minute);
            let caller = caller(token, tenant, purpose);
            let announced = match self.stops.admission(&caller, now) {
                Admission::Free => None,
                Admission::Announced => self.stops.announce(&caller, now),
                Admission::Held(_) | Admission::Denied(_) | Admission::Open => return false,
            };
            self.silent = if heard.is_silence() {
                self.silent + 1
            } else {
                0
            };
            let silent = self.silent;
            self.stops.hear(heard, &caller, announced, silent, now);
            // What is stored is what it was.
            let bytes = storage::encode(&self.stops).unwrap();
            assert_eq!(Stops::decode("server/x", &bytes).unwrap(), self.stops);
            assert!(bytes.len() < 4_000, "{}", bytes.len());
            true
        }

        /// Reports whether nothing is held back.
        fn is_quiet(&self) -> bool {
            let mut stops = self.stops.clone();
            stops.accepted = None;
            stops.unasked = None;
            stops.is_empty()
        }
    }

    #[test]
    fn of_a_healthy_server_its_token_is_known_and_nothing_changes() {
        let mut bench = Bench::default();
        let known = Stops {
            accepted: Some(String::from("good")),
            ..Stops::default()
        };
        for minute in 0..3 {
            assert_eq!(
                bench.admission("good", Purpose::Automatic, minute),
                Admission::Free
            );
            assert!(bench.call("good", Purpose::Request, minute, Heard::Accepted));
            assert_eq!(bench.stops, known);
        }
        bench.call("good", Purpose::Request, 3, Heard::Other);
        bench.call(
            "good",
            Purpose::Request,
            3,
            Heard::Nothing(Trouble::Timeout),
        );
        assert_eq!(bench.stops, known);
    }

    #[test]
    fn a_refused_token_is_tried_again_once_an_hour_and_by_a_reset_after_15_minutes() {
        use Admission::{Announced, Held};
        let mut bench = Bench::default();
        assert!(bench.call("stale", Purpose::Request, 0, Heard::Refused));
        for (purpose, minute, admission) in [
            (Purpose::Request, 0, Held(Refusal::Token)),
            (Purpose::Automatic, 61, Held(Refusal::Token)),
            // Its own call has to be free again: another is left to a corrected one.
            (Purpose::Automatic, 62, Announced),
            (Purpose::Request, 62, Announced),
            (Purpose::Reset, 14, Held(Refusal::Token)),
            (Purpose::Reset, 15, Announced),
        ] {
            let found = bench.admission("stale", purpose, minute);
            assert_eq!(found, admission, "{purpose:?} {minute}");
        }
        let mut probed = bench.clone();
        assert!(probed.call("stale", Purpose::Request, 62, Heard::Refused));
        assert!(!probed.call("stale", Purpose::Request, 63, Heard::Refused));
        assert!(bench.call("stale", Purpose::Request, 62, Heard::Accepted));
        assert_eq!(
            bench.admission("stale", Purpose::Automatic, 63),
            Admission::Free
        );
    }

    #[test]
    fn a_corrected_token_works_at_once_whatever_the_stale_one_was_used_for() {
        let mut bench = Bench::default();
        for minute in 0..24 * HOUR {
            for purpose in [Purpose::Reset, Purpose::Request, Purpose::Automatic] {
                bench.call("stale", purpose, minute, Heard::Refused);
            }
            let mut corrected = bench.clone();
            assert!(
                corrected.call("right", Purpose::Request, minute, Heard::Accepted),
                "minute {minute}"
            );
            assert_eq!(
                corrected.admission("right", Purpose::Automatic, minute),
                Admission::Free
            );
        }
    }

    /// Every mixture of callers, over a day: the rule of the module's first paragraph.
    #[test]
    fn three_refused_calls_an_hour_and_never_a_fourth() {
        const PURPOSES: [Purpose; 3] = [Purpose::Automatic, Purpose::Request, Purpose::Reset];
        for (tokens, tenants, good_until, forgets) in [
            (1, 1, 0, false),
            (5, 5, 0, false),
            (5, 5, 300, false),
            (5, 5, 300, true),
            (10_000, 1, 300, false),
            (10_000, 4, 0, false),
            (10_000, 4, 300, false),
            (10_000, 10_000, 300, true),
        ] {
            let mut bench = Bench::default();
            let mut refused = Vec::new();
            for minute in 0..24 * HOUR {
                // Mailu's token changes once; until then one tenant has the right one.
                let good = if minute < good_until {
                    Heard::Accepted
                } else {
                    Heard::Refused
                };
                let accepted = bench.call("good", Purpose::Automatic, minute, good);
                assert!(accepted || minute >= good_until, "held at {minute}");
                if accepted && good == Heard::Refused {
                    refused.push(minute);
                }
                let token = format!("wrong-{}", minute % tokens);
                let turn = usize::try_from(minute).unwrap();
                let tenant = format!("tenant-{}", minute % tenants);
                let purpose = PURPOSES[turn % 3];
                if bench.call_of(&tenant, &token, purpose, minute, Heard::Refused) {
                    refused.push(minute);
                }
                if forgets {
                    // As many tokens as can be, that nobody uses any more.
                    bench.stops.stop(&format!("old-{minute}"), at(minute));
                }
            }
            for first in &refused {
                let hour = *first..first + HOUR;
                let within = refused.iter().filter(|minute| hour.contains(minute));
                assert!(within.count() <= 3, "{tokens} {refused:?}");
            }
            assert!(refused.len() >= 23, "probes go on: {refused:?}");
        }
    }

    /// A front's refusal, and then a server that answers nothing that Mailu counts: the emergency goes
    /// on being tried.
    #[test]
    fn an_answer_that_is_no_refusal_takes_no_place() {
        let mut bench = Bench::in_order();
        assert!(bench.call("good", Purpose::Automatic, 1, Heard::Denied(403)));
        for (minute, trouble) in [
            (2, Trouble::ServerError),
            (3, Trouble::Unintelligible),
            (4, Trouble::ServerError),
        ] {
            assert!(bench.call("good", Purpose::Reset, minute, Heard::Nothing(trouble)));
        }
        assert_eq!(
            bench.admission("good", Purpose::Reset, 5),
            Admission::Announced
        );
    }

    /// The look after its own refused send is not the engine's: a person with a new token comes first.
    #[test]
    fn the_engine_itself_risks_no_second_refusal() {
        for (purpose, looks) in [
            (Purpose::Automatic, false),
            (Purpose::Bulk, false),
            (Purpose::Request, true),
            (Purpose::Reset, true),
        ] {
            let mut bench = Bench::in_order();
            assert!(bench.call("good", purpose, 1, Heard::Denied(403)));
            assert_eq!(
                bench.stops.risks_a_look(purpose, at(1)),
                looks,
                "{purpose:?}"
            );
        }
    }

    /// Whoever puts every call off keeps a tenant from being asked as well: the third time it is told.
    #[test]
    fn calls_that_are_put_off_again_and_again_are_told() {
        for (heard, later) in [(Heard::Limited, 61), (Heard::Busy(Some(60)), 2)] {
            let mut bench = Bench::in_order();
            for time in 1..=3 {
                assert_eq!(bench.stops.unasked(), None, "{time}");
                assert!(bench.call("good", Purpose::Automatic, time * later, heard));
            }
            let found = bench.stops.unasked();
            assert_eq!(found, Some((Why::RateLimited, at(3 * later))), "{heard:?}");
            assert!(bench.call("good", Purpose::Automatic, 4 * later, Heard::Accepted));
            assert_eq!(bench.stops.unasked(), None);
        }
    }

    #[test]
    fn a_new_token_waits_only_for_refused_calls() {
        use Purpose::{Automatic, Request, Reset};
        let held = Admission::Held(Refusal::RateLimited);
        let mut bench = Bench::default();
        for (tenant, token) in [("acme", "a"), ("globex", "b")] {
            assert!(bench.call_of(tenant, token, Request, 0, Heard::Refused));
        }
        for purpose in [Automatic, Request] {
            assert_eq!(bench.admission_of("hooli", "right", purpose, 61), held);
        }
        assert!(bench.call_of("initech", "c", Reset, 0, Heard::Refused));
        assert_eq!(bench.admission_of("hooli", "right", Reset, 61), held);
        let later = bench.admission_of("hooli", "right", Request, 62);
        assert_eq!(later, Admission::Free);
        // What was not refused is taken back, and what may have been is not.
        let mut bench = Bench::default();
        bench.call("a", Request, 0, Heard::Refused);
        for heard in [
            Heard::Accepted,
            Heard::Limited,
            Heard::Other,
            Heard::Nothing(Trouble::Unreachable),
        ] {
            let mut bench = bench.clone();
            assert!(bench.call("b", Request, 1, heard));
            assert_eq!(bench.stops.refused.len(), 1, "{heard:?}");
        }
        bench.call("b", Request, 1, Heard::Nothing(Trouble::Timeout));
        assert_eq!(bench.stops.refused.len(), 2);
    }

    /// Somebody brings one wrong token after the other.
    #[test]
    fn one_tenants_new_tokens_leave_a_call_to_the_others_and_one_to_resets() {
        use Purpose::{Request, Reset};
        let held = Admission::Held(Refusal::RateLimited);
        for purpose in [Request, Reset] {
            for mut bench in [Bench::default(), Bench::in_order()] {
                let accepts = bench.stops.accepted.is_some();
                let mut refused = 0;
                for minute in 0..60 {
                    let token = format!("wrong-{minute}");
                    refused +=
                        usize::from(bench.call_of("evil", &token, purpose, minute, Heard::Refused));
                }
                assert_eq!(refused, if accepts { 1 } else { 2 });
                let known = bench.admission_of("acme", "good", Request, 60);
                // After a restart as well: it is stored.
                assert!(!accepts || known == Admission::Free);
                for tried in [Reset, Request] {
                    let mut bench = bench.clone();
                    let new = bench.admission_of("acme", "new", tried, 60);
                    // What is left to resets is not for requests.
                    let used = purpose == Request && tried == Request;
                    assert_eq!(new, if used { held } else { Admission::Announced });
                    if !used {
                        assert!(bench.call_of("acme", "new", tried, 60, Heard::Accepted));
                        let now = bench.admission_of("acme", "new", Request, 60);
                        assert_eq!(now, Admission::Free);
                    }
                }
            }
        }
    }

    #[test]
    fn a_tenant_that_resets_with_wrong_tokens_does_not_take_the_others_call_either() {
        let mut bench = Bench::in_order();
        let mut refused = 0;
        for minute in 0..24 * HOUR {
            for (token, purpose) in [
                ("wrong", Purpose::Reset),
                ("wrong", Purpose::Request),
                ("other", Purpose::Reset),
                ("other", Purpose::Request),
            ] {
                let made = bench.call_of("evil", token, purpose, minute, Heard::Refused);
                refused += usize::from(made);
            }
            let new = bench.admission_of("acme", "new", Purpose::Reset, minute);
            let works = matches!(new, Admission::Free | Admission::Announced);
            assert!(works, "{minute}");
        }
        assert!(refused > 8, "{refused}");
    }

    #[test]
    fn a_looping_tenant_is_not_the_first_when_a_call_is_free_again() {
        let mut bench = Bench::in_order();
        let mut made = Vec::new();
        for minute in 0..300 {
            let token = format!("wrong-{minute}");
            if bench.call_of("evil", &token, Purpose::Request, minute, Heard::Refused) {
                made.push(minute);
            }
            let other = bench.admission_of("acme", "new", Purpose::Request, minute);
            let free = made.last().is_some_and(|last| minute - last >= 62);
            assert_eq!(other == Admission::Free, free, "{minute}");
        }
        assert_eq!(made, [0, 92, 184, 276]);
    }

    #[test]
    fn a_refused_token_is_tried_beside_an_accepted_one_and_leaves_calls_to_new_ones() {
        let mut bench = Bench::in_order();
        let mut probes = Vec::new();
        for minute in 0..20 * HOUR {
            for token in ["stale", "staler"] {
                if bench.call(token, Purpose::Automatic, minute, Heard::Refused) {
                    probes.push(minute);
                }
            }
        }
        assert!(probes.len() >= 6, "{probes:?}");
        let pauses = probes.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(pauses.skip(1).all(|pause| pause >= 180), "{probes:?}");
    }

    /// The token may be right again: an emergency does not wait an hour to know.
    #[test]
    fn a_reset_tries_a_refused_token_with_the_call_that_is_its_own() {
        let mut bench = Bench::default();
        for (tenant, token) in [("acme", "stale"), ("evil", "wrong")] {
            assert!(bench.call_of(tenant, token, Purpose::Request, 0, Heard::Refused));
        }
        let held = Admission::Held(Refusal::Token);
        assert_eq!(bench.admission("stale", Purpose::Reset, 14), held);
        let mut right = bench.clone();
        assert!(right.call("stale", Purpose::Reset, 15, Heard::Accepted));
        assert!(bench.call("stale", Purpose::Reset, 15, Heard::Refused));
        assert_eq!(bench.admission("stale", Purpose::Reset, 30), held);
    }

    #[test]
    fn the_servers_limiter_holds_every_token_back_with_growing_pauses() {
        let held = Admission::Held(Refusal::RateLimited);
        let mut bench = Bench::default();
        bench.call("good", Purpose::Request, 0, Heard::Accepted);
        let mut minute = 0;
        for pause in [5, 15, 30, 60, 60] {
            assert!(bench.call("good", Purpose::Automatic, minute, Heard::Limited));
            assert!(bench.stops.refused.is_empty(), "Mailu does not count it");
            for token in ["good", "other"] {
                let early = bench.admission(token, Purpose::Request, minute + pause - 1);
                assert_eq!(early, held);
                let due = bench.admission(token, Purpose::Automatic, minute + pause);
                assert_eq!(due, Admission::Announced, "counted before it goes out");
            }
            let reset = bench.admission("good", Purpose::Reset, minute + pause.min(15));
            assert_eq!(reset, Admission::Announced);
            minute += pause;
        }
        // A try that a crash forgot the answer of was a try.
        let mut crashed = bench.clone();
        let good = caller("good", "acme", Purpose::Request);
        assert_eq!(crashed.stops.announce(&good, at(minute)), None);
        assert_eq!(
            crashed.admission("good", Purpose::Request, minute + 59),
            held
        );
        assert!(bench.call("good", Purpose::Request, minute, Heard::Accepted));
        assert!(bench.is_quiet());
    }

    #[test]
    fn the_breaker_holds_back_automatic_work_only_and_any_answer_closes_it() {
        let silence = Heard::Nothing(Trouble::Timeout);
        let mut bench = Bench::default();
        for _ in 0..2 {
            bench.call("good", Purpose::Automatic, 0, silence);
            assert!(bench.is_quiet());
        }
        let mut minute = 0;
        for open in [1, 2, 4, 8, 10, 10] {
            assert!(bench.call("good", Purpose::Automatic, minute, silence));
            let tripped = bench.stops.clone();
            assert!(bench.call("good", Purpose::Request, minute, silence));
            assert_eq!(bench.stops, tripped, "no Put for each call");
            for (purpose, admission) in [
                (Purpose::Automatic, Admission::Open),
                (Purpose::Request, Admission::Free),
                (Purpose::Reset, Admission::Free),
            ] {
                // A second before its end: in seconds, minutes are too coarse.
                let now = at(minute + open) - TimeDelta::seconds(1);
                let caller = caller("good", "acme", purpose);
                assert_eq!(bench.stops.admission(&caller, now), admission);
            }
            minute += open;
            let now = bench.admission("good", Purpose::Automatic, minute);
            assert_eq!(now, Admission::Free, "one after {open} minutes");
        }
        for heard in [
            Heard::Accepted,
            Heard::Other,
            Heard::Refused,
            Heard::Limited,
        ] {
            let mut bench = bench.clone();
            bench.call("good", Purpose::Automatic, minute, heard);
            assert_eq!(bench.stops.breaker, None, "{heard:?}");
        }
        // What a tenant's own settings or the mount's rules decide says nothing of the server.
        let mut bench = Bench::default();
        for trouble in [Trouble::Tls(TlsFault::Expired), Trouble::AddressRefused] {
            for _ in 0..5 {
                bench.call("good", Purpose::Automatic, 0, Heard::Nothing(trouble));
            }
        }
        assert!(bench.is_quiet());
    }

    #[test]
    fn a_clock_that_was_put_right_holds_nothing_back_for_long() {
        let silence = Heard::Nothing(Trouble::Timeout);
        let mut bench = Bench::default();
        let future = 10 * 365 * 24 * HOUR;
        for token in ["a", "b", "c"] {
            bench.call(token, Purpose::Request, future, Heard::Refused);
        }
        for _ in 0..3 {
            bench.call("d", Purpose::Request, future + 92, silence);
        }
        bench.stops.limited = Some(Limited {
            tried_at: at(future),
            times: u32::MAX,
        });
        assert_eq!(
            bench.admission("d", Purpose::Automatic, 0),
            Admission::Announced
        );
        assert_eq!(
            bench.admission("a", Purpose::Request, 0),
            Admission::Announced
        );
    }

    /// A front words 401 and 403 as well; Mailu may have counted them, and the token may be right.
    #[test]
    fn somebody_elses_refusals_stop_no_token_and_are_never_more_than_three_an_hour() {
        use Admission::{Announced, Denied, Free};
        let denied = Heard::Denied(403);
        let mut bench = Bench::in_order();
        assert!(bench.call("good", Purpose::Automatic, 1, denied));
        assert_eq!(bench.stops.accepted(), Some("good"));
        for (purpose, admission) in [
            (Purpose::Automatic, Denied(403)),
            (Purpose::Bulk, Denied(403)),
            (Purpose::Request, Announced),
            (Purpose::Reset, Announced),
        ] {
            assert_eq!(
                bench.admission("good", purpose, 2),
                admission,
                "{purpose:?}"
            );
        }
        // What is accepted is taken back; the hour goes on.
        assert!(bench.call("good", Purpose::Request, 2, Heard::Accepted));
        assert_eq!(bench.admission("good", Purpose::Automatic, 3), Denied(403));
        // A corrected token has a place, and an emergency has the last.
        assert_eq!(
            bench.admission_of("globex", "new", Purpose::Request, 3),
            Announced
        );
        assert!(bench.call("good", Purpose::Request, 4, denied));
        assert_eq!(bench.admission("good", Purpose::Request, 5), Denied(403));
        assert!(bench.call("good", Purpose::Reset, 5, denied));
        for purpose in [Purpose::Automatic, Purpose::Request, Purpose::Reset] {
            assert_eq!(bench.admission("good", purpose, 6), Denied(403));
        }
        assert_eq!(bench.admission("good", Purpose::Automatic, 68), Free);
        assert!(bench.call("good", Purpose::Automatic, 68, Heard::Accepted));
        assert_eq!(bench.stops.denied_at(at(68)), None);
    }

    #[test]
    fn mixed_refusals_are_never_more_than_three_an_hour() {
        const PURPOSES: [Purpose; 4] = [
            Purpose::Automatic,
            Purpose::Request,
            Purpose::Reset,
            Purpose::Bulk,
        ];
        for accepts_looks in [false, true] {
            for words in 1..5 {
                let mut bench = Bench::in_order();
                let mut refused = Vec::new();
                for minute in 1..24 * HOUR {
                    let turn = usize::try_from(minute).unwrap();
                    let heard = match minute % 5 < words {
                        true => Heard::Denied(if minute % 2 == 0 { 401 } else { 403 }),
                        false => Heard::Refused,
                    };
                    if accepts_looks {
                        bench.call("good", PURPOSES[turn % 4], minute, Heard::Accepted);
                    }
                    let token = ["good", "bad", "worse"][turn % 3];
                    let tenant = ["acme", "globex"][turn % 2];
                    let purpose = PURPOSES[(turn / 3) % 4];
                    if bench.call_of(tenant, token, purpose, minute, heard) {
                        refused.push(minute);
                    }
                }
                for first in &refused {
                    let hour = *first..first + HOUR;
                    let within = refused.iter().filter(|minute| hour.contains(minute));
                    assert!(within.count() <= 3, "{accepts_looks} {words} {refused:?}");
                }
                assert!(refused.len() >= 23, "{refused:?}");
            }
        }
    }

    #[test]
    fn a_person_who_writes_a_token_has_it_tried_once() {
        let held = Admission::Held(Refusal::Token);
        let word = |token: &str, purpose, minute| Caller {
            written_at: Some(at(minute)),
            ..caller(token, "acme", purpose)
        };
        let mut bench = Bench::default();
        assert!(bench.call("stale", Purpose::Reset, 0, Heard::Refused));
        assert_eq!(bench.admission("stale", Purpose::Request, 5), held);
        let spoken = word("stale", Purpose::Request, 5);
        // A word from before the refusal is none.
        let before = Caller {
            written_at: Some(at(0) - TimeDelta::seconds(1)),
            ..spoken.clone()
        };
        assert_eq!(bench.stops.admission(&before, at(5)), held);
        assert_eq!(bench.stops.held_until(&spoken, at(5)), None);
        assert_eq!(bench.stops.admission(&spoken, at(5)), Admission::Announced);
        let announced = bench.stops.announce(&spoken, at(5));
        // It may have been sent, whatever becomes of the process.
        assert_eq!(bench.stops.admission(&spoken, at(5)), held);
        let mut right = bench.clone();
        right
            .stops
            .hear(Heard::Accepted, &spoken, announced, 0, at(5));
        assert_eq!(right.stops.admission(&spoken, at(6)), Admission::Free);
        bench
            .stops
            .hear(Heard::Refused, &spoken, announced, 0, at(5));
        // The last place is a new token's, and nobody's by a word; the answer names the time.
        let again = word("stale", Purpose::Request, 21);
        assert_eq!(bench.stops.admission(&again, at(21)), held);
        assert_eq!(bench.stops.held_until(&again, at(21)), Some(at(67)));
        let new = bench.admission("new", Purpose::Request, 21);
        assert_eq!(new, Admission::Announced);
    }

    #[test]
    fn a_persons_word_counts_once_in_fifteen_minutes() {
        let held = Admission::Held(Refusal::RateLimited);
        let mut bench = Bench::in_order();
        for (minute, admission) in [
            (1, Admission::Announced),
            (9, held),
            (17, Admission::Announced),
        ] {
            bench.stops.limited = Some(Limited {
                tried_at: at(minute) - TimeDelta::seconds(1),
                times: 4,
            });
            let spoken = Caller {
                written_at: Some(at(minute)),
                ..caller("good", "acme", Purpose::Request)
            };
            assert_eq!(
                bench.stops.admission(&spoken, at(minute)),
                admission,
                "{minute}"
            );
            if admission == Admission::Announced {
                bench.stops.announce(&spoken, at(minute));
            }
        }
    }

    #[test]
    fn a_persons_word_ends_the_servers_limiter_and_somebody_elses_refusal_for_one_call() {
        for heard in [Heard::Limited, Heard::Denied(403)] {
            let mut bench = Bench::in_order();
            assert!(bench.call("good", Purpose::Automatic, 1, heard));
            let spoken = Caller {
                written_at: Some(at(2)),
                ..caller("good", "acme", Purpose::Request)
            };
            assert_eq!(bench.stops.admission(&spoken, at(2)), Admission::Announced);
            let announced = bench.stops.announce(&spoken, at(2));
            bench
                .stops
                .hear(Heard::Accepted, &spoken, announced, 0, at(2));
            let next = bench.admission("good", Purpose::Request, 3);
            assert!(
                matches!(next, Admission::Free | Admission::Announced),
                "{heard:?}"
            );
        }
    }

    #[test]
    fn a_front_that_asks_to_call_later_is_asked_later_by_the_engine_alone() {
        let mut bench = Bench::in_order();
        for (asks, seconds) in [(Some(2), 2), (None, 120), (Some(86_400), 600), (Some(0), 0)] {
            assert!(bench.call("good", Purpose::Request, 1, Heard::Busy(asks)));
            assert_eq!(bench.stops.holding().tokens, 0);
            let good = caller("good", "acme", Purpose::Automatic);
            let end = at(1) + TimeDelta::seconds(seconds);
            if seconds > 0 {
                let early = end - TimeDelta::milliseconds(1);
                assert_eq!(
                    bench.stops.admission(&good, early),
                    Admission::Open,
                    "{asks:?}"
                );
            }
            assert_eq!(
                bench.stops.admission(&good, end),
                Admission::Free,
                "{asks:?}"
            );
            for purpose in [Purpose::Request, Purpose::Reset] {
                assert_eq!(bench.admission("good", purpose, 1), Admission::Free);
            }
        }
        assert!(bench.call("good", Purpose::Request, 1, Heard::Accepted));
        assert!(bench.is_quiet());
    }

    #[test]
    fn what_cannot_be_read_stops_nobody_and_has_calls_counted() {
        for bytes in [
            "",
            "{}",
            r#"{"schema":0}"#,
            r#"{"schema":3,"refused":[],"tokens":[],"accepted":null,"limited":null,"breaker":null}"#,
            r#"{"schema":1,"refused":[],"tokens":[],"accepted":null,"limited":null,"breaker":null,"x":1}"#,
            r#"{"schema":1,"refused":["2026-09-21T14:13:20Z"],"tokens":[],"accepted":null,"limited":null,"breaker":null}"#,
            r#"{"schema":1,"refused":[{"at":"soon","charged":null,"reset":false}],"tokens":[],"accepted":null,"limited":null,"breaker":null}"#,
        ] {
            assert!(
                Stops::decode("server/x", bytes.as_bytes()).is_err(),
                "{bytes}"
            );
        }
        let careful = Stops::careful(at(0));
        let any = caller("any", "acme", Purpose::Automatic);
        assert_eq!(careful.admission(&any, at(0)), Admission::Announced);
        let call = careful.refused[0].clone();
        let larger_than_any = Stops {
            refused: vec![call; 10],
            ..Stops::default()
        };
        let bytes = storage::encode(&larger_than_any).unwrap();
        assert!(Stops::decode("server/x", &bytes).is_err());
    }

    #[test]
    fn the_tokens_tried_last_are_remembered_and_none_for_ever() {
        let mut bench = Bench::default();
        for minute in 0..1_000 {
            bench.stops.stop(&format!("token-{minute}"), at(minute));
        }
        assert_eq!(bench.stops.tokens.len(), 16);
        let held = Admission::Held(Refusal::Token);
        assert_eq!(bench.admission("token-984", Purpose::Request, 1_000), held);
        assert_eq!(
            bench.admission("token-983", Purpose::Request, 1_000),
            Admission::Free
        );
        let much_later = 1_000 + 31 * 24 * HOUR;
        bench.call("good", Purpose::Request, much_later, Heard::Accepted);
        assert!(bench.is_quiet());
    }
}
