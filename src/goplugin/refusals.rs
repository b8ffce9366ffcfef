//! How the log tells of connections that were not let in.
//!
//! Whoever may open the socket may do so without end, and every line goes into the server's log. So
//! the first refusal is told at once, and those after it together, once a minute at most.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two lines.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// Counts refusals. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<Untold>>);

#[derive(Debug, Default)]
struct Untold {
    count: u64,
    last_reason: String,
    quiet_until: Option<Instant>,
}

impl Refusals {
    /// Counts one more, and tells of it if it is time to.
    pub(super) fn count(&self, reason: &str) {
        {
            let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            untold.count += 1;
            reason.clone_into(&mut untold.last_reason);
        }
        self.report();
    }

    /// Tells of those not told of yet, if there are any and it is time to.
    pub(super) fn report(&self) {
        if let Some((count, reason)) = self.due() {
            tracing::warn!(
                count,
                reason,
                "refused connections to the plugin's socket; the reason is the last one's"
            );
        }
    }

    fn due(&self) -> Option<(u64, String)> {
        let now = Instant::now();
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.count == 0 || untold.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        untold.quiet_until = Some(now + PERIOD);
        let count = std::mem::take(&mut untold.count);
        Some((count, std::mem::take(&mut untold.last_reason)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// Counts lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, _event: &tracing::Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_line_a_minute() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        let _told = tracing::subscriber::set_default(subscriber);
        let refusals = Refusals::default();
        for _ in 0..1000 {
            refusals.count("silent");
        }
        assert_eq!(lines.0.load(Ordering::Relaxed), 1, "the first, at once");
        tokio::time::advance(PERIOD).await;
        refusals.report();
        refusals.report();
        assert_eq!(lines.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_left_uncounted() {
        let refusals = Refusals::default();
        refusals.count("first");
        for reason in ["second", "third"] {
            refusals.count(reason);
        }
        assert_eq!(refusals.due(), None);
        tokio::time::advance(PERIOD).await;
        assert_eq!(refusals.due(), Some((2, String::from("third"))));
        tokio::time::advance(PERIOD).await;
        assert_eq!(refusals.due(), None, "nothing happened");
    }
}
