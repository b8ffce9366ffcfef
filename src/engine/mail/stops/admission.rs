//! Whether a call may go out: who has which of the calls that may be refused.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    CHARGED, COUNTED, Caller, Limited, MOST_REFUSED, Purpose, StoppedToken, Stops, rested,
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
        if self.is_accepted(&caller.token) {
            return if probing {
                Admission::Announced
            } else {
                Admission::Free
            };
        }
        let refused = self.refused_within(COUNTED, now).count();
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

    /// Refusals that all tokens together may have but the accepted one: what that may need is
    /// nobody else's.
    fn most_of_others(&self) -> usize {
        MOST_REFUSED - usize::from(self.accepted.is_some())
    }

    /// Those of them that calls with this purpose may use: one is left to resets until a reset
    /// had it.
    fn most_refused(&self, purpose: Purpose, now: DateTime<Utc>) -> usize {
        let left = purpose != Purpose::Reset && !self.reset_had_its_call(now);
        self.most_of_others() - usize::from(left)
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
        of_this.count() + 1 >= self.most_of_others()
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
