//! One value in memory: the keyring, the settings.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ACTIVE_SINGLE, Role, STANDBY, is_fresh};
use crate::clock::Clock;

/// One value, believed for ten seconds on a standby and for a minute on the active node.
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
        let bound = if role.is_active() {
            ACTIVE_SINGLE
        } else {
            STANDBY
        };
        let slot = self.slot();
        let (value, filled) = slot.value.as_ref()?;
        is_fresh(*filled, clock.monotonic(), Some(bound)).then(|| Arc::clone(value))
    }

    /// Returns the count to hand to [`Single::fill`]; taken before storage is asked.
    pub(crate) fn epoch(&self) -> u64 {
        self.slot().epoch
    }

    /// Keeps `value`, unless something was invalidated since `epoch` was taken.
    pub(crate) fn fill(&self, value: &Arc<T>, epoch: u64, clock: &dyn Clock) {
        let mut slot = self.slot();
        if slot.epoch == epoch {
            slot.value = Some((Arc::clone(value), clock.monotonic()));
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
        kept.fill(&Arc::new(1), kept.epoch(), &clock);
        clock.advance(Duration::from_secs(9));
        assert_eq!(kept.fresh(&role, &clock).as_deref(), Some(&1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(kept.fresh(&role, &clock), None);
        role.note(true);
        assert_eq!(kept.fresh(&role, &clock).as_deref(), Some(&1));
        clock.advance(Duration::from_secs(50));
        assert_eq!(kept.fresh(&role, &clock), None);
    }

    #[test]
    fn a_fill_older_than_an_invalidation_is_thrown_away() {
        let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH);
        let (role, kept) = (Role::default(), Single::default());
        let epoch = kept.epoch();
        kept.forget();
        kept.fill(&Arc::new(1), epoch, &clock);
        assert_eq!(kept.fresh(&role, &clock), None);
    }
}
