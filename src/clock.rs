//! Time as an argument: the only module that asks the operating system what time it is.
//!
//! Everything that needs the time is handed a [`Clock`], so that a test can move it. Two readings
//! exist because they answer different questions: [`Clock::now`] is wall time for schedules and
//! records and may jump; [`Clock::monotonic`] never goes back and bounds durations (a send follows
//! its own stored announcement by at most five seconds).

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A source of wall time and of monotonic time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the current instant in UTC, cut to milliseconds (what records keep).
    fn now(&self) -> DateTime<Utc>;

    /// Returns the time since an arbitrary fixed start; never decreases.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// Starts the monotonic reading at zero.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> DateTime<Utc> {
        cut_to_millis(Utc::now())
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told to; for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(DateTime<Utc>, Duration)>,
}

impl ManualClock {
    /// Starts at `now`, with the monotonic reading at zero.
    #[must_use]
    pub fn starting_at(now: DateTime<Utc>) -> Self {
        Self {
            state: Mutex::new((cut_to_millis(now), Duration::ZERO)),
        }
    }

    /// Moves both readings forward by `step`.
    pub fn advance(&self, step: Duration) {
        let mut state = self.lock();
        state.0 += TimeDelta::from_std(step).unwrap_or(TimeDelta::MAX);
        state.1 += step;
    }

    /// Sets the wall time alone, as a clock jump does; the monotonic reading stays.
    pub fn jump_to(&self, now: DateTime<Utc>) {
        self.lock().0 = cut_to_millis(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (DateTime<Utc>, Duration)> {
        // A panic between lock and unlock cannot leave the pair half-written.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}

fn cut_to_millis(instant: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(instant.timestamp_millis()).unwrap_or(instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_moves_wall_time_only() {
        let start = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        let clock = ManualClock::starting_at(start);
        assert_eq!(clock.now().timestamp_subsec_nanos(), 123_000_000);
        clock.advance(Duration::from_secs(5));
        clock.jump_to(start);
        assert_eq!(clock.now().timestamp(), start.timestamp());
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }
}
