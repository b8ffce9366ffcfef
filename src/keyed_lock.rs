//! One asynchronous mutex per key, freed when nobody holds or waits for it.
//!
//! Different keys never wait for each other. A guard may be moved into a background task: the
//! tenant's lock must outlive the request that took it (design: "a request may stop waiting, the
//! lock does not").

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Slots = HashMap<String, Arc<Slot>>;

/// One key: whoever is not urgent waits at the gate, so that at most one of them is in the queue
/// that the urgent are in.
#[derive(Debug, Default)]
struct Slot {
    gate: tokio::sync::Mutex<()>,
    key: Arc<tokio::sync::Mutex<()>>,
    urgent: AtomicUsize,
}

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
    slot: Arc<Slot>,
    guard: Option<OwnedMutexGuard<()>>,
}

/// Counts one who waits urgently, until dropped.
struct Urgent<'a>(&'a Slot);

impl<'a> Urgent<'a> {
    fn waits_at(slot: &'a Slot) -> Self {
        slot.urgent.fetch_add(1, Ordering::SeqCst);
        Self(slot)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::SeqCst);
    }
}

impl KeyedLock {
    /// Creates an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for exclusive use of `key`; waiters are served in order of arrival, after the urgent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn lock(&self, key: &str) -> KeyGuard {
        let mut holder = self.holder(key);
        let slot = Arc::clone(&holder.slot);
        let _gate = slot.gate.lock().await;
        loop {
            let guard = Arc::clone(&slot.key).lock_owned().await;
            if slot.urgent.load(Ordering::SeqCst) == 0 {
                holder.guard = Some(guard);
                return holder;
            }
            // The queue is in order of arrival: the urgent one is before the next try.
            drop(guard);
        }
    }

    /// Like [`KeyedLock::lock`], before all who are not urgent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue.
    pub async fn lock_urgently(&self, key: &str) -> KeyGuard {
        let mut holder = self.holder(key);
        let slot = Arc::clone(&holder.slot);
        let _waits = Urgent::waits_at(&slot);
        holder.guard = Some(Arc::clone(&slot.key).lock_owned().await);
        holder
    }

    /// Made before the wait, so that a cancelled wait also frees an unused slot.
    fn holder(&self, key: &str) -> KeyGuard {
        KeyGuard {
            key: key.to_owned(),
            slots: Arc::clone(&self.slots),
            slot: Arc::clone(locked(&self.slots).entry(key.to_owned()).or_default()),
            guard: None,
        }
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
        let slot = Arc::new(Slot::default());
        let guard = Arc::clone(&slot.key).try_lock_owned().ok()?;
        slots.insert(key.to_owned(), Arc::clone(&slot));
        Some(KeyGuard {
            key: key.to_owned(),
            slots: Arc::clone(&self.slots),
            slot,
            guard: Some(guard),
        })
    }

    /// Returns how many keys are held or waited for.
    #[must_use]
    pub fn in_use(&self) -> usize {
        locked(&self.slots).len()
    }
}

impl KeyGuard {
    /// Reports whether somebody waits urgently for what this holds.
    #[must_use]
    pub fn is_wanted_urgently(&self) -> bool {
        self.slot.urgent.load(Ordering::SeqCst) > 0
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut slots = locked(&self.slots);
        self.guard.take();
        // The map's reference and this one are the only ones left if nobody waits.
        if slots
            .get(&self.key)
            .is_some_and(|slot| Arc::strong_count(slot) == 2)
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
    async fn who_is_urgent_comes_first_and_who_holds_it_can_know() {
        let locks = KeyedLock::new();
        let held = locks.lock("a").await;
        assert!(!held.is_wanted_urgently());
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(locks.lock("a"))).collect();
        for waiter in &mut waiting {
            assert!(futures_util::poll!(waiter).is_pending());
        }
        let urgent = locks.lock_urgently("a");
        tokio::pin!(urgent);
        assert!(futures_util::poll!(&mut urgent).is_pending());
        assert!(held.is_wanted_urgently());
        drop(held);
        // The one that was ahead in the queue lets it pass.
        assert!(futures_util::poll!(&mut waiting[0]).is_pending());
        let first = urgent.await;
        assert!(!first.is_wanted_urgently());
        for waiter in &mut waiting {
            assert!(futures_util::poll!(waiter).is_pending());
        }
        drop(first);
        for waiter in waiting {
            drop(waiter.await);
        }
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
            let urgent = locks.lock_urgently("a");
            tokio::pin!(urgent);
            assert!(futures_util::poll!(&mut urgent).is_pending());
        }
        assert!(!held.is_wanted_urgently());
        drop(held);
        assert_eq!(locks.in_use(), 0);
    }
}
