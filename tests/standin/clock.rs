//! The stand-in's time: real, plus what a test adds to it.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;

use super::shared::lock;

/// Counts from the start; [`Clock::advance`] makes windows and locks expire without waiting.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    added: Mutex<Duration>,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            added: Mutex::new(Duration::ZERO),
        }
    }

    /// Returns the time since the start, added time included.
    pub fn now(&self) -> Duration {
        self.start.elapsed() + *lock(&self.added)
    }

    pub fn advance(&self, step: Duration) {
        *lock(&self.added) += step;
    }

    /// Returns today's date as Mailu writes it, `2026-11-21`.
    #[expect(
        clippy::disallowed_methods,
        reason = "test equipment with its own adjustable clock"
    )]
    pub fn date(&self) -> String {
        let added = TimeDelta::from_std(*lock(&self.added)).unwrap_or_default();
        (Utc::now() + added).format("%Y-%m-%d").to_string()
    }
}
