//! [`HashPool`]: keeps hash checks off the request threads, a bounded number at a time.
//!
//! The rounds of a hash are chosen by the server that shows it. What must stay true: one server's
//! accounts cannot keep the places from the others. Places are given to servers in turn, and of the
//! checks that take more than a second (above 13 rounds) one runs at a time, whoever asks, as long
//! as there is more than one place.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::hash::{HashCheck, NoVerdict, StoredHash};
use crate::crypto::Sensitive;

/// A check of more rounds (log2) is a slow one.
const MOST_QUICK_ROUNDS: u32 = 13;

/// A bounded pool for hash checks: at most half of the cores compute at a time.
///
/// Cheap to clone; clones share the bound.
#[derive(Clone)]
pub struct HashPool {
    queue: Arc<Mutex<Queue>>,
    most: usize,
    checks: Arc<AtomicU64>,
    inline: bool,
}

/// How a pool is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPoolUse {
    /// Checks that may run at a time.
    pub places: usize,
    /// Checks that run now.
    pub busy: usize,
    /// Checks that were begun so far.
    pub checks: u64,
}

/// Who computes and who waits.
#[derive(Debug)]
struct Queue {
    free: usize,
    /// A slow check runs.
    slow: bool,
    /// By server; the first is the next one in turn.
    waiting: VecDeque<(String, VecDeque<Waiting>)>,
}

#[derive(Debug)]
struct Waiting {
    slow: bool,
    turn: oneshot::Sender<Place>,
}

/// A place in the pool, given on to the next when dropped.
#[derive(Debug)]
struct Place {
    queue: Arc<Mutex<Queue>>,
    slow: bool,
}

impl Queue {
    /// Takes out the first waiting check that may run now, and puts its server behind the others.
    fn next(&mut self) -> Option<Waiting> {
        if self.free == 0 {
            return None;
        }
        let may_run = |first: Option<&Waiting>| first.is_some_and(|it| !(it.slow && self.slow));
        let server = self
            .waiting
            .iter()
            .position(|(_, checks)| may_run(checks.front()))?;
        let (name, mut checks) = self.waiting.remove(server)?;
        let next = checks.pop_front();
        if !checks.is_empty() {
            self.waiting.push_back((name, checks));
        }
        next
    }
}

/// Gives the free places to those whose turn it is.
fn give(queue: &Arc<Mutex<Queue>>) {
    loop {
        let mut state = locked(queue);
        let Some(next) = state.next() else {
            return;
        };
        state.free -= 1;
        state.slow |= next.slow;
        drop(state);
        let place = Place {
            queue: Arc::clone(queue),
            slow: next.slow,
        };
        // Whoever left meanwhile hands it back, by dropping it.
        let _left = next.turn.send(place);
    }
}

fn locked(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = locked(&self.queue);
        state.free += 1;
        if self.slow {
            state.slow = false;
        }
        drop(state);
        give(&self.queue);
    }
}

impl HashPool {
    /// Creates a pool of half the cores, at least one.
    #[must_use]
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_places(cores / 2)
    }

    /// Creates a pool in which at most `places` checks (at least one) run at a time.
    #[must_use]
    pub fn with_places(places: usize) -> Self {
        let most = places.max(1);
        Self {
            queue: Arc::new(Mutex::new(Queue {
                free: most,
                slow: false,
                waiting: VecDeque::new(),
            })),
            most,
            checks: Arc::default(),
            inline: false,
        }
    }

    /// Creates a pool of one place that computes on the calling task, without a thread: for
    /// simulations, which are to do the same twice. Blocks everything else meanwhile.
    #[must_use]
    pub fn inline() -> Self {
        Self {
            inline: true,
            ..Self::with_places(1)
        }
    }

    /// Tells how the pool is used now.
    #[must_use]
    pub fn usage(&self) -> HashPoolUse {
        HashPoolUse {
            places: self.most,
            busy: self.most.saturating_sub(locked(&self.queue).free),
            checks: self.checks.load(Ordering::Relaxed),
        }
    }

    /// Like [`HashPool::check_of`] for a hash of no server in particular.
    pub async fn check(&self, hash: &StoredHash, password: &Sensitive<String>) -> HashCheck {
        self.check_of("", hash, password).await
    }

    /// Checks `password` against `hash`, which `server` showed, on a blocking thread
    /// ([`HashPool::inline`]: on this one), waiting for the server's turn.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue. A computation that has begun runs to
    /// its end, keeps its place until then, and its result is dropped.
    pub async fn check_of(
        &self,
        server: &str,
        hash: &StoredHash,
        password: &Sensitive<String>,
    ) -> HashCheck {
        let Some(place) = self.place(server, hash.rounds()).await else {
            // A refusal to run proves nothing either way.
            return HashCheck::CannotTell(NoVerdict::NotRun);
        };
        self.checks.fetch_add(1, Ordering::Relaxed);
        if self.inline {
            return hash.check(password);
        }
        let hash = hash.clone();
        let password = password.clone();
        tokio::task::spawn_blocking(move || {
            let verdict = hash.check(&password);
            drop(place);
            verdict
        })
        .await
        .unwrap_or(HashCheck::CannotTell(NoVerdict::NotRun))
    }

    async fn place(&self, server: &str, rounds: Option<u32>) -> Option<Place> {
        let slow = rounds.is_some_and(|rounds| rounds > MOST_QUICK_ROUNDS);
        let given = self.queue_up(server, slow);
        give(&self.queue);
        given.await.ok()
    }

    fn queue_up(&self, server: &str, slow: bool) -> oneshot::Receiver<Place> {
        let (turn, given) = oneshot::channel();
        let check = Waiting { slow, turn };
        let mut state = locked(&self.queue);
        let own = state.waiting.iter_mut().find(|(name, _)| name == server);
        match own {
            Some((_, checks)) => checks.push_back(check),
            None => state
                .waiting
                .push_back((server.to_owned(), VecDeque::from([check]))),
        }
        given
    }
}

impl fmt::Debug for HashPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashPool")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Default for HashPool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    const QUICK: &str =
        "$bcrypt-sha256$v=2,t=2b,r=4$N3W/u8y9qu4RnHJc6iumuO$Z9nAfNfPTEOtmOCDdXgaQz1hm9TfF0G";

    fn hash(rounds: u32) -> StoredHash {
        StoredHash::new(QUICK.replace("r=4", &format!("r={rounds}")))
    }

    #[tokio::test]
    async fn the_pool_answers_all_with_a_single_place() {
        let pool = HashPool::with_places(0);
        let good = Sensitive::new("hunter2".to_owned());
        let bad = Sensitive::new("other".to_owned());
        let hash = hash(4);
        let (one, two, three) = tokio::join!(
            pool.check_of("a", &hash, &good),
            pool.check_of("b", &hash, &bad),
            pool.check(&hash, &good)
        );
        assert_eq!(
            (one, two, three),
            (HashCheck::Fits, HashCheck::DoesNotFit, HashCheck::Fits)
        );
        assert_eq!(pool.usage().busy, 0);
    }

    /// Asks for places in this order while all are taken; returns who got one, in order.
    async fn order(places: usize, asked: &[(&'static str, u32)]) -> Vec<&'static str> {
        let pool = HashPool::with_places(places);
        let mut held = Vec::new();
        for _ in 0..places {
            held.push(pool.place("first", Some(4)).await);
        }
        let got = Mutex::new(Vec::new());
        let all = join_all(asked.iter().map(async |(server, rounds)| {
            let place = pool.place(server, Some(*rounds)).await;
            got.lock().unwrap().push(*server);
            // Others may have come meanwhile.
            tokio::task::yield_now().await;
            drop(place);
        }));
        tokio::join!(all, async { drop(held) });
        got.into_inner().unwrap()
    }

    #[tokio::test]
    async fn servers_are_served_in_turn() {
        let mut asked = vec![("many", 4); 11];
        asked.extend([("one", 4), ("other", 4), ("one", 4)]);
        let got = order(1, &asked).await;
        assert_eq!(got[..6], ["many", "one", "other", "many", "one", "many"]);
        assert_eq!(got.len(), 14);
    }

    #[tokio::test]
    async fn slow_checks_run_one_at_a_time() {
        let pool = HashPool::with_places(3);
        let slow = pool.place("a", Some(14)).await;
        assert!(slow.is_some());
        let mut second = Box::pin(pool.place("b", Some(16)));
        let mut own_quick = Box::pin(pool.place("a", Some(13)));
        assert!(futures_util::poll!(&mut second).is_pending());
        // What is quick passes by.
        let quick = futures_util::poll!(&mut own_quick);
        assert!(quick.is_ready());
        assert_eq!(pool.usage().busy, 2);
        drop(slow);
        assert!(futures_util::poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn who_leaves_the_queue_keeps_nobody_waiting() {
        let pool = HashPool::with_places(1);
        let held = pool.place("a", Some(16)).await;
        let mut gone = Box::pin(pool.place("b", Some(16)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut next = Box::pin(pool.place("c", Some(4)));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(gone);
        drop(held);
        assert!(futures_util::poll!(&mut next).is_ready());
        drop(next);
        assert_eq!(pool.usage().busy, 0);
    }
}
