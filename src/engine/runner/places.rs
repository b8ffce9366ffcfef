//! [`Places`]: how many changes may be under way at once, and who goes first.
//!
//! What must stay true:
//!
//! - all changes together take at most `max_parallel` places;
//! - settling takes at most half of them: a crowd of hanging servers keeps no rotation from going
//!   on. Within its half it goes first: a crowd of rotations keeps no doubt open;
//! - notices change nothing and have a quarter beside them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A kind of work that takes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Class {
    /// Settling open changes and looking again at settled ones.
    Settling,
    /// Changes by the schedule or of a batch.
    Rotation,
    /// Preflights and notices of changes to come.
    Notice,
}

/// The places of one mount.
#[derive(Debug, Default)]
pub(in crate::engine) struct Places {
    // A blocking mutex: held only to count.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `max_parallel`, as last told.
    most: usize,
    settling: usize,
    rotating: usize,
    noticing: usize,
    waiting: Waiting,
}

/// Who waits, each class in the order of arrival. The receiver's end is told when its place was
/// counted for it.
#[derive(Debug, Default)]
struct Waiting {
    settling: VecDeque<oneshot::Sender<Place>>,
    rotating: VecDeque<oneshot::Sender<Place>>,
    noticing: VecDeque<oneshot::Sender<Place>>,
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
pub(in crate::engine) struct Place {
    places: Arc<Places>,
    class: Class,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        let taken = state.taken(self.class);
        *taken = taken.saturating_sub(1);
        drop(state);
        self.places.hand_out();
    }
}

impl State {
    fn taken(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Settling => &mut self.settling,
            Class::Rotation => &mut self.rotating,
            Class::Notice => &mut self.noticing,
        }
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<oneshot::Sender<Place>> {
        match class {
            Class::Settling => &mut self.waiting.settling,
            Class::Rotation => &mut self.waiting.rotating,
            Class::Notice => &mut self.waiting.noticing,
        }
    }

    /// Reports whether one more of this class fits. One always does where there is none: a setting
    /// of 1 must stop nothing.
    fn has_room(&self, class: Class) -> bool {
        let half = (self.most / 2).max(1);
        let quarter = (self.most / 4).max(1);
        match class {
            Class::Settling => {
                let full = self.settling + self.rotating >= self.most.max(1);
                self.settling < half && !full
            }
            Class::Rotation => self.settling + self.rotating < self.most.max(1),
            Class::Notice => self.noticing < quarter,
        }
    }

    /// Counts a place for the next in turn, if there is one and room for it.
    fn next(&mut self) -> Option<(Class, oneshot::Sender<Place>)> {
        for class in [Class::Settling, Class::Rotation, Class::Notice] {
            // Who stopped waiting is not in anybody's way.
            let queue = self.queue(class);
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
            if self.has_room(class)
                && let Some(waiter) = self.queue(class).pop_front()
            {
                *self.taken(class) += 1;
                return Some((class, waiter));
            }
        }
        None
    }
}

impl Places {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. `most` is `max_parallel` as it is set now; more room than before is
    /// handed out at once, less when places become free.
    ///
    /// # Cancel safety
    ///
    /// Safe: a place that nobody waits for any more is free again.
    pub(in crate::engine) async fn take(self: &Arc<Self>, class: Class, most: u64) -> Place {
        let (waiter, place) = oneshot::channel();
        {
            let mut state = self.state();
            state.most = usize::try_from(most).unwrap_or(usize::MAX);
            state.queue(class).push_back(waiter);
        }
        self.hand_out();
        match place.await {
            Ok(place) => place,
            // Never: the queue lives as long as `self` and drops no waiter unanswered.
            Err(_dropped) => {
                *self.state().taken(class) += 1;
                Place {
                    places: Arc::clone(self),
                    class,
                }
            }
        }
    }

    /// Gives free places to those who wait.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let Some((class, waiter)) = self.state().next() else {
                return;
            };
            let place = Place {
                places: Arc::clone(self),
                class,
            };
            // Nobody waits any more: dropping the place hands it to the next one.
            drop(waiter.send(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn takes_at_once(places: &Arc<Places>, class: Class, most: u64) -> Option<Place> {
        tokio::time::timeout(Duration::ZERO, places.take(class, most))
            .await
            .ok()
    }

    #[tokio::test(start_paused = true)]
    async fn settling_takes_half_and_rotations_take_what_is_left() {
        let places = Arc::new(Places::default());
        let mut taken = Vec::new();
        for _ in 0..2 {
            taken.push(takes_at_once(&places, Class::Settling, 4).await.unwrap());
        }
        assert!(takes_at_once(&places, Class::Settling, 4).await.is_none());
        for _ in 0..2 {
            taken.push(takes_at_once(&places, Class::Rotation, 4).await.unwrap());
        }
        assert!(takes_at_once(&places, Class::Rotation, 4).await.is_none());
        let _notice = takes_at_once(&places, Class::Notice, 4).await.unwrap();
        assert!(takes_at_once(&places, Class::Notice, 4).await.is_none());
        taken.clear();
        for _ in 0..4 {
            taken.push(takes_at_once(&places, Class::Rotation, 4).await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_place_goes_to_settling_first() {
        let places = Arc::new(Places::default());
        let first = places.take(Class::Rotation, 2).await;
        let second = places.take(Class::Rotation, 2).await;
        let mut rotation = Box::pin(places.take(Class::Rotation, 2));
        let mut settling = Box::pin(places.take(Class::Settling, 2));
        assert!(futures_util::poll!(&mut rotation).is_pending());
        assert!(futures_util::poll!(&mut settling).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut rotation).is_pending());
        let settled = settling.await;
        drop(second);
        let _rotation = rotation.await;
        drop(settled);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_loses_no_place_for_the_others() {
        let places = Arc::new(Places::default());
        let only = places.take(Class::Rotation, 1).await;
        let mut gone = Box::pin(places.take(Class::Rotation, 1));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        drop(only);
        assert!(takes_at_once(&places, Class::Rotation, 1).await.is_some());
    }
}
