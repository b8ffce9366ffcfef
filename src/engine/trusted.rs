//! [`Trusted`]: a reading of the time that decides what cannot be undone.
//!
//! A node whose clock is a year ahead must not delete a year of history. What is deleted for its age
//! is judged by this reading only, which no clock that was merely set can move: it goes on from the
//! last stored sight with the monotonic clock, and follows the wall clock while the two agree. Where
//! they do not, because the clock was set, or because the server was down for longer than an hour, the
//! wall clock is believed once it has stood for a day of ticks; until then this reading is behind it,
//! or, where the stored sight was the wrong one, ahead.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Engine;
use crate::logical::Mount;

/// So far the wall clock may be from where the monotonic one says it should be.
const TOLERANCE: TimeDelta = TimeDelta::hours(1);
/// For so long a wall clock that says something else has to stand, by the monotonic one.
const STANDS_AFTER: Duration = Duration::from_secs(24 * 3600);
/// And so many ticks have to see it: a process that slept saw nothing.
const STANDS_FOR_TICKS: u32 = 12;

/// An instant that is believed. Made only here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trusted(DateTime<Utc>);

impl Trusted {
    /// Returns the instant.
    pub(super) const fn at(self) -> DateTime<Utc> {
        self.0
    }

    /// Reports whether something is at least so old.
    pub(super) fn is_past(self, at: DateTime<Utc>, age: TimeDelta) -> bool {
        self.0 - at >= age
    }

    #[cfg(test)]
    pub(super) const fn for_tests(at: DateTime<Utc>) -> Self {
        Self(at)
    }
}

/// What one mount's engine believes of the time.
#[derive(Debug, Default)]
pub(super) struct TrustedTime {
    // A blocking mutex: held only to compute.
    state: Mutex<Option<State>>,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: DateTime<Utc>,
    monotonic: Duration,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// What is believed, at this reading of the monotonic clock.
    at: DateTime<Utc>,
    monotonic: Duration,
    /// Since when the wall clock says something else, and how many ticks saw it.
    claim: Option<(Moment, u32)>,
}

impl State {
    fn after(&self, monotonic: Duration) -> DateTime<Utc> {
        let passed = monotonic.saturating_sub(self.monotonic);
        let passed = TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX);
        self.at.checked_add_signed(passed).unwrap_or(self.at)
    }

    /// Takes a look at both clocks into account.
    fn see(&mut self, now: Moment, is_tick: bool) {
        self.at = self.after(now.monotonic);
        self.monotonic = now.monotonic;
        if (now.wall - self.at).abs() <= TOLERANCE {
            self.at = now.wall;
            self.claim = None;
        } else if is_tick {
            self.claim = match self.claim {
                Some((since, ticks)) if agree(since, now) => Some((since, ticks + 1)),
                _ => Some((now, 1)),
            };
            if let Some((since, ticks)) = self.claim
                && now.monotonic.saturating_sub(since.monotonic) >= STANDS_AFTER
                && ticks >= STANDS_FOR_TICKS
            {
                self.at = now.wall;
                self.claim = None;
            }
        }
    }
}

/// Reports whether the wall clock went on between two moments as the monotonic one did.
fn agree(before: Moment, now: Moment) -> bool {
    let ticked = now.monotonic.saturating_sub(before.monotonic);
    let ticked = TimeDelta::from_std(ticked).unwrap_or(TimeDelta::MAX);
    (now.wall - before.wall - ticked).abs() <= TOLERANCE
}

impl TrustedTime {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another node stores its sights from now on.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn see(&self, now: Moment, is_tick: bool) -> Option<Trusted> {
        let mut state = self.lock();
        let state = state.as_mut()?;
        state.see(now, is_tick);
        Some(Trusted(state.at))
    }

    /// Begins with what is stored; a mount that never stored any believes the wall clock.
    fn begin(&self, stored: Option<DateTime<Utc>>, now: Moment) {
        let mut state = self.lock();
        if state.is_none() {
            *state = Some(State {
                at: stored.unwrap_or(now.wall),
                monotonic: now.monotonic,
                claim: None,
            });
        }
    }
}

impl Engine {
    /// Returns what is believed of the time; `None` until storage told the last sight.
    pub(super) fn trusted(&self) -> Option<Trusted> {
        self.trusted_time.see(self.moment(), false)
    }

    /// Makes sure that the last stored sight is known, if storage tells.
    pub(super) async fn learn_trusted(&self, mount: &Mount) {
        if self.trusted_time.lock().is_some() {
            return;
        }
        match self.stored_sight(mount).await {
            Ok(stored) => self.trusted_time.begin(stored, self.moment()),
            Err(error) => tracing::warn!(%error, "nothing goes for its age: the time is not known"),
        }
    }

    /// Takes a tick into account; returns what is believed now.
    pub(super) fn see_tick(&self, stored: Option<DateTime<Utc>>) -> Option<Trusted> {
        let now = self.moment();
        self.trusted_time.begin(stored, now);
        self.trusted_time.see(now, true)
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: self.clock().now(),
            monotonic: self.clock().monotonic(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    fn moment(wall: DateTime<Utc>, hours: u64) -> Moment {
        Moment {
            wall,
            monotonic: Duration::from_secs(hours * 3600),
        }
    }

    /// Begins with a sight and sees hourly ticks of a wall clock that is so far off; returns what is
    /// believed after each, as hours since the sight.
    fn run(offset: i64, hours: u64) -> Vec<i64> {
        let time = TrustedTime::default();
        assert_eq!(time.see(moment(wall(offset), 0), true), None);
        time.begin(Some(wall(0)), moment(wall(offset), 0));
        let see = |hour: u64| {
            let hour_signed = i64::try_from(hour).unwrap();
            let seen = time.see(moment(wall(offset + hour_signed), hour), true);
            (seen.unwrap().at() - wall(0)).num_hours()
        };
        (0..=hours).map(see).collect()
    }

    #[test]
    fn a_clock_that_is_off_is_believed_when_it_has_stood_for_a_day_of_ticks() {
        for offset in [-10_000, -2, 2, 10_000] {
            let believed = run(offset, 25);
            assert_eq!(believed[..24], (0..24).collect::<Vec<_>>(), "{offset}");
            assert_eq!(believed[24], offset + 24, "{offset}");
            assert_eq!(believed[25], offset + 25, "{offset}");
        }
        assert_eq!(run(1, 2), [1, 2, 3], "an hour is no jump");
    }

    #[test]
    fn a_clock_that_moves_again_begins_to_stand_anew() {
        let time = TrustedTime::default();
        time.begin(Some(wall(0)), moment(wall(0), 0));
        for hour in 1..200 {
            // Another year every 23 hours.
            let years = i64::try_from(hour / 23 + 1).unwrap();
            let signed = i64::try_from(hour).unwrap();
            let seen = time.see(moment(wall(signed + years * 8_760), hour), true);
            assert_eq!(seen.unwrap().at(), wall(signed));
        }
    }

    #[test]
    fn without_ticks_only_the_monotonic_clock_counts() {
        let time = TrustedTime::default();
        time.begin(Some(wall(0)), moment(wall(0), 0));
        for hour in 1..100 {
            let signed = i64::try_from(hour).unwrap();
            let seen = time.see(moment(wall(signed + 500), hour), false);
            assert_eq!(seen.unwrap().at(), wall(signed));
        }
        // Two ticks far apart are not enough either.
        time.see(moment(wall(600), 100), true);
        let seen = time.see(moment(wall(700), 200), true);
        assert_eq!(seen.unwrap().at(), wall(200));
    }
}
