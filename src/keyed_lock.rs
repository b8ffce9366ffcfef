//! One asynchronous mutex per key, freed when nobody holds or waits for it.
//!
//! Different keys never wait for each other. A guard may be moved into a background task: the
//! tenant's lock must outlive the request that took it (design: "a request may stop waiting, the
//! lock does not").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Slots = HashMap<String, Arc<tokio::sync::Mutex<()>>>;

/// A set of mutexes addressed by name.
#[derive(Clone, Debug, Default)]
pub struct KeyedLock {
    // A blocking mutex: held only for a map operation, never across an await.
    slots: Arc<Mutex<Slots>>,
}

/// Exclusive use of one key until dropped.
#[derive(Debug)]
pub struct KeyGuard {
    key: String,
    slots: Arc<Mutex<Slots>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl KeyedLock {
    /// Creates an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for exclusive use of `key`; waiters are served in order of arrival.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn lock(&self, key: &str) -> KeyGuard {
        let slot = Arc::clone(locked(&self.slots).entry(key.to_owned()).or_default());
        // Built before the wait, so that a cancelled wait also frees an unused slot.
        let mut holder = KeyGuard {
            key: key.to_owned(),
            slots: Arc::clone(&self.slots),
            guard: None,
        };
        holder.guard = Some(slot.lock_owned().await);
        holder
    }

    /// Returns the keys that are held or waited for, in no order.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        locked(&self.slots).keys().cloned().collect()
    }

    /// Takes `key` if nobody holds it or waits for it.
    #[must_use]
    pub fn try_lock(&self, key: &str) -> Option<KeyGuard> {
        let mut slots = locked(&self.slots);
        if slots.contains_key(key) {
            return None;
        }
        let slot = Arc::new(tokio::sync::Mutex::new(()));
        let guard = Arc::clone(&slot).try_lock_owned().ok()?;
        slots.insert(key.to_owned(), slot);
        Some(KeyGuard {
            key: key.to_owned(),
            slots: Arc::clone(&self.slots),
            guard: Some(guard),
        })
    }

    /// Returns how many keys are held or waited for.
    #[must_use]
    pub fn in_use(&self) -> usize {
        locked(&self.slots).len()
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut slots = locked(&self.slots);
        // Release first: the map's reference must then be the only one left if nobody waits.
        self.guard.take();
        if slots
            .get(&self.key)
            .is_some_and(|slot| Arc::strong_count(slot) == 1)
        {
            slots.remove(&self.key);
        }
    }
}

fn locked(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    // Every critical section is a single map operation: a poisoned map is still whole.
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn same_key_waits_other_key_does_not_and_slots_are_freed() {
        let locks = KeyedLock::new();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        let waiting = locks.lock("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        let second = waiting.await;
        assert_eq!(locks.in_use(), 2);
        let mut held = locks.held();
        held.sort();
        assert_eq!(held, ["a", "b"]);
        drop(second);
        assert_eq!(locks.in_use(), 1);
    }

    #[tokio::test]
    async fn a_key_is_tried_without_waiting() {
        let locks = KeyedLock::new();
        let held = locks.try_lock("a").unwrap();
        assert!(locks.try_lock("a").is_none());
        let waiting = locks.lock("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(locks.try_lock("a").is_none(), "somebody waits for it");
        drop(waiting.await);
        assert!(locks.try_lock("a").is_some());
        assert_eq!(locks.in_use(), 0);
    }

    #[tokio::test]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let locks = KeyedLock::new();
        let held = locks.lock("a").await;
        {
            let waiting = locks.lock("a");
            tokio::pin!(waiting);
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        drop(held);
        assert_eq!(locks.in_use(), 0);
    }
}
