//! One value in memory: the keyring, the settings.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Before, Role};
use crate::clock::Clock;

/// One value, believed as long as [`Role`] says.
#[derive(Debug)]
pub(crate) struct Single<T> {
    // A blocking mutex: held only to copy an `Arc`.
    slot: Mutex<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<(Arc<T>, Duration)>,
    /// Counts invalidations: a fill that began before one is thrown away.
    epoch: u64,
}

impl<T> Default for Single<T> {
    fn default() -> Self {
        Self {
            slot: Mutex::new(Slot {
                value: None,
                epoch: 0,
            }),
        }
    }
}

impl<T> Single<T> {
    /// Returns the value if it may be believed.
    pub(crate) fn fresh(&self, role: &Role, clock: &dyn Clock) -> Option<Arc<T>> {
        let slot = self.slot();
        let (value, asked) = slot.value.as_ref()?;
        role.believes(*asked, clock.monotonic())
            .then(|| Arc::clone(value))
    }

    /// To be called before storage is asked for what [`Single::fill`] then keeps.
    pub(crate) fn before_get(&self, clock: &dyn Clock) -> Before {
        Before {
            epoch: self.slot().epoch,
            at: clock.monotonic(),
        }
    }

    /// Keeps what storage answered, unless something was invalidated meanwhile.
    pub(crate) fn fill(&self, value: &Arc<T>, before: Before) {
        let mut slot = self.slot();
        if slot.epoch == before.epoch {
            slot.value = Some((Arc::clone(value), before.at));
        }
    }

    /// Drops the value and every fill under way.
    pub(crate) fn forget(&self) {
        let mut slot = self.slot();
        slot.value = None;
        slot.epoch += 1;
    }

    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_value_is_believed_longer_where_nobody_else_writes() {
        let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH);
        let (role, kept) = (Role::default(), Single::default());
        let before = kept.before_get(&clock);
        // Storage took its time: what it answered is as old as the question.
        clock.advance(Duration::from_secs(9));
        kept.fill(&Arc::new(1), before);
        assert_eq!(kept.fresh(&role, &clock).as_deref(), Some(&1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(kept.fresh(&role, &clock), None);
        assert!(role.note(true) && !role.note(true));
        assert_eq!(kept.fresh(&role, &clock).as_deref(), Some(&1));
        role.note_caching_disabled(true);
        assert_eq!(kept.fresh(&role, &clock), None);
        role.note_caching_disabled(false);
        clock.advance(Duration::from_secs(50));
        assert_eq!(kept.fresh(&role, &clock), None);
    }

    #[test]
    fn a_fill_older_than_an_invalidation_is_thrown_away() {
        let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH);
        let (role, kept) = (Role::default(), Single::default());
        let before = kept.before_get(&clock);
        kept.forget();
        kept.fill(&Arc::new(1), before);
        assert_eq!(kept.fresh(&role, &clock), None);
    }
}
