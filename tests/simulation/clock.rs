//! The paused time of the simulation, with a wall clock that may be set.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use vault_plugin_secrets_smtp::clock::Clock;

#[derive(Debug)]
pub(super) struct SimulatedClock {
    begun: Instant,
    wall: Mutex<DateTime<Utc>>,
    /// The monotonic reading is this many times too slow: the sweep, which it times, comes that
    /// much more rarely.
    slower: u32,
}

impl SimulatedClock {
    pub(super) fn starting_at(now: DateTime<Utc>, slower: u32) -> Self {
        Self {
            begun: Instant::now(),
            wall: Mutex::new(now),
            slower,
        }
    }

    /// Sets the wall clock ahead or back, as an administrator does.
    pub(super) fn jump(&self, by: TimeDelta) {
        *self.wall.lock().unwrap() += by;
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> DateTime<Utc> {
        let now = *self.wall.lock().unwrap() + self.begun.elapsed();
        DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed() / self.slower
    }
}
