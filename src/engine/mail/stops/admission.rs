//! Whether a call may go out: who has which of the calls that may be refused.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    CHARGED, COUNTED, Caller, Limited, MOST_REFUSED, PERSONS_WORD, Purpose, StoppedToken, Stops,
    rested,
};
use crate::provider::Refusal;

/// How long a refused token rests.
const PROBE: TimeDelta = TimeDelta::hours(1);
/// How long no refused token was tried before one is, while the server accepts another one.
const PROBE_BESIDE: TimeDelta = TimeDelta::hours(3);
/// How long an emergency reset waits instead, for a refused token and for the limiter.
const RESET_PROBE: TimeDelta = TimeDelta::minutes(15);
/// Minutes without a call after the first, second, ... 429 in a row.
const LIMITED_MINUTES: [i64; 4] = [5, 15, 30, 60];

/// Whether a call may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::mail) enum Admission {
    /// As if nothing were stored.
    Free,
    /// Only after [`Stops::announce`] was stored.
    Announced,
    /// Not now: what the server would answer, or answered.
    Held(Refusal),
    /// Not now: something before the server refused with this status, and no further call is risked.
    Denied(u16),
    /// The breaker is open.
    Open,
}

impl Stops {
    /// Decides on a call.
    pub(in crate::engine::mail) fn admission(
        &self,
        caller: &Caller,
        now: DateTime<Utc>,
    ) -> Admission {
        let decided = self.without_a_word(caller, now);
        match decided {
            Admission::Held(_) | Admission::Denied(_) if self.has_word(caller, now) => {
                Admission::Announced
            }
            decided => decided,
        }
    }

    /// When a call that is held back would be made, at a minute's resolution; `None` if it is not
    /// held back.
    pub(in crate::engine::mail) fn held_until(
        &self,
        caller: &Caller,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        const LONGEST_MINUTES: i64 = 95;
        let held = |at| {
            matches!(
                self.admission(caller, at),
                Admission::Held(_) | Admission::Denied(_)
            )
        };
        let ends = || (1..LONGEST_MINUTES).map(|minutes| now + TimeDelta::minutes(minutes));
        held(now).then(|| {
            let end = ends().find(|at| !held(*at));
            end.unwrap_or(now + TimeDelta::minutes(LONGEST_MINUTES))
        })
    }

    fn without_a_word(&self, caller: &Caller, now: DateTime<Utc>) -> Admission {
        let purpose = caller.purpose;
        if purpose.is_unattended() && self.is_open(now) {
            return Admission::Open;
        }
        let probing = match &self.limited {
            Some(limited) if !limited.may_try(purpose, now) => {
                return Admission::Held(Refusal::RateLimited);
            }
            limited => limited.is_some(),
        };
        let refused = self.refused_within(COUNTED, now).count();
        if self.is_accepted(&caller.token) {
            return match self.denied_at(now) {
                // Whoever words these, Mailu may have counted them.
                Some((_, status)) if refused >= self.most_of_accepted(purpose, now) => {
                    Admission::Denied(status)
                }
                Some(_) => Admission::Announced,
                None if probing => Admission::Announced,
                None => Admission::Free,
            };
        }
        if let Some(stopped) = self.stopped(&caller.token) {
            if self.may_probe(stopped, caller, refused, now) {
                Admission::Announced
            } else {
                Admission::Held(Refusal::Token)
            }
        } else if refused >= self.most_refused(purpose, now) || self.used_up(&caller.tenant, now) {
            Admission::Held(Refusal::RateLimited)
        } else if refused == 0 && !probing {
            Admission::Free
        } else {
            Admission::Announced
        }
    }

    /// Reports whether a call goes out by a person's word alone.
    pub(super) fn needs_a_word(&self, caller: &Caller, now: DateTime<Utc>) -> bool {
        matches!(
            self.without_a_word(caller, now),
            Admission::Held(_) | Admission::Denied(_)
        )
    }

    /// Reports whether a person wrote the token after what stops it, and may have it tried.
    fn has_word(&self, caller: &Caller, now: DateTime<Utc>) -> bool {
        let stopped = self.stopped(&caller.token).map(|stopped| stopped.tried_at);
        let denied = self.denied_at(now).map(|(at, _)| at);
        let limited = self.limited.as_ref().map(|limited| limited.tried_at);
        let stop = stopped.max(denied).max(limited);
        let after = |at: DateTime<Utc>| stop.is_some_and(|stop| at > stop) && at <= now;
        let rests = |at: DateTime<Utc>| rested(at, PERSONS_WORD, now);
        // What is left to emergencies and to tokens that were not refused yet is not for this.
        let purpose = match caller.purpose {
            Purpose::Request if stopped.is_some() => Purpose::Automatic,
            purpose => purpose,
        };
        caller.written_at.is_some_and(after)
            && self.spoken_at.is_none_or(rests)
            && self.refused_within(COUNTED, now).count() < self.most_of_accepted(purpose, now)
    }

    /// The last refusal that somebody else worded and that counts, with its status.
    pub(super) fn denied_at(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, u16)> {
        let counted = self.refused_within(COUNTED, now);
        counted
            .filter_map(|call| call.foreign.map(|status| (call.at, status)))
            .last()
    }

    /// Refusals within the hour below which a token that Mailu did not refuse is tried: one is left
    /// to emergencies until one had it, and another to whoever asks by hand.
    fn most_of_accepted(&self, purpose: Purpose, now: DateTime<Utc>) -> usize {
        let of_resets = usize::from(!self.reset_had_its_call(now));
        match purpose {
            Purpose::Reset => MOST_REFUSED,
            Purpose::Request => MOST_REFUSED - of_resets,
            Purpose::Automatic | Purpose::Bulk => MOST_REFUSED - of_resets - 1,
        }
    }

    /// Reports whether, after somebody else's refusal, the same turn may ask once more: what was
    /// refused may have been done, and a look would end the doubt. The engine's own work leaves that
    /// place to persons and new tokens: its change stays open, and a later look settles it.
    pub(in crate::engine::mail) fn risks_a_look(
        &self,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> bool {
        self.refused_within(COUNTED, now).count() < self.most_of_accepted(purpose, now)
    }

    /// Refusals that all tokens together may have but the accepted one: what that may need is
    /// nobody else's.
    fn most_of_others(&self, now: DateTime<Utc>) -> usize {
        // What the accepted one has had of somebody else's refusals is counted like any other's.
        let has_had = self.denied_at(now).is_some();
        MOST_REFUSED - usize::from(self.accepted.is_some() && !has_had)
    }

    /// Those of them that calls with this purpose may use: one is left to resets until a reset
    /// had it.
    fn most_refused(&self, purpose: Purpose, now: DateTime<Utc>) -> usize {
        let left = purpose != Purpose::Reset && !self.reset_had_its_call(now);
        self.most_of_others(now) - usize::from(left)
    }

    fn reset_had_its_call(&self, now: DateTime<Utc>) -> bool {
        self.refused_within(COUNTED, now).any(|call| call.reset)
    }

    /// Reports whether a refused token may be tried again.
    fn may_probe(
        &self,
        stopped: &StoppedToken,
        caller: &Caller,
        refused: usize,
        now: DateTime<Utc>,
    ) -> bool {
        let purpose = caller.purpose;
        let most = self.most_refused(purpose, now);
        if !rested(stopped.tried_at, probe_interval(purpose), now) {
            return false;
        }
        // One call stays for a token that was not refused yet: where resets have one of their own,
        // that is the one of the others.
        if purpose == Purpose::Reset && !self.reset_had_its_call(now) {
            return refused < most && !self.used_up(&caller.tenant, now);
        }
        let none_tried = |within| {
            self.tokens
                .iter()
                .all(|it| rested(it.tried_at, within, now))
        };
        let beside = self.accepted.is_some() && refused == 0 && none_tried(PROBE_BESIDE);
        refused + 1 < most || beside
    }

    /// Reports whether this tenant's tokens had what new ones may have.
    fn used_up(&self, tenant: &str, now: DateTime<Utc>) -> bool {
        let charged = self.refused_within(CHARGED, now);
        let of_this = charged.filter(|call| call.charged.as_deref() == Some(tenant));
        of_this.count() + 1 >= self.most_of_others(now)
    }
}

impl Limited {
    fn may_try(&self, purpose: Purpose, now: DateTime<Utc>) -> bool {
        let step = usize::try_from(self.times.saturating_sub(1)).unwrap_or(usize::MAX);
        let minutes = LIMITED_MINUTES.get(step).or(LIMITED_MINUTES.last());
        let wait = TimeDelta::minutes(minutes.copied().unwrap_or(60));
        let wait = match purpose {
            Purpose::Reset => wait.min(RESET_PROBE),
            Purpose::Automatic | Purpose::Bulk | Purpose::Request => wait,
        };
        rested(self.tried_at, wait, now)
    }
}

const fn probe_interval(purpose: Purpose) -> TimeDelta {
    match purpose {
        Purpose::Reset => RESET_PROBE,
        Purpose::Automatic | Purpose::Bulk | Purpose::Request => PROBE,
    }
}
