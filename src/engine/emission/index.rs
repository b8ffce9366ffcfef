//! [`Emission`]: what this process knows of undelivered events, and how delivering them goes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::host_api::HostApi;
use crate::keyed_lock::KeyedLock;

/// How long a delivery proves that the way to the devices is open.
const PROVEN: TimeDelta = TimeDelta::hours(1);
/// Between two tries: the first, which doubles, and the longest.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// How events reach the audit devices.
#[derive(Clone, Debug, Default)]
pub(super) enum Way {
    /// Storage was not asked yet.
    #[default]
    Unread,
    /// Nobody has said how.
    Unset,
    /// A collector outside fetches them.
    External,
    /// By requests to the host's own API.
    Loopback(Arc<dyn HostApi>),
}

/// Whether the mount shows the events' fields in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) enum ExemptKeys {
    /// The emitter may not read the mount's tuning, or has not yet.
    #[default]
    Unknown,
    /// All of them are exempt.
    Complete,
    /// These are not.
    Missing(Vec<&'static str>),
}

/// What waits for the audit devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Waiting {
    /// Events, as far as they are known; a log that was not read yet counts as one.
    pub(in crate::engine) events: u64,
    /// Of these, how many were refused too often to be tried again by themselves.
    pub(in crate::engine) parked: u64,
    /// Since when the oldest one waits.
    pub(in crate::engine) oldest: Option<DateTime<Utc>>,
}

/// How delivering goes.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Delivery {
    /// The last one by this process.
    pub(in crate::engine) last: Option<DateTime<Utc>>,
    /// The code of what fails, and since when.
    pub(in crate::engine) failing: Option<(&'static str, DateTime<Utc>)>,
    /// How many this process delivered.
    pub(in crate::engine) total: u64,
    /// A collector outside is to fetch the events.
    pub(in crate::engine) external: bool,
    pub(in crate::engine) exempt_keys: ExemptKeys,
}

/// The emission of one mount, in memory. Everything in it can be found again in storage.
#[derive(Debug)]
pub(in crate::engine) struct Emission {
    // A blocking mutex: held only for map operations.
    state: Mutex<State>,
    /// One per log, for its entries in the trail.
    pub(super) trail: KeyedLock,
    /// Counts acknowledgements, for those who wait for one.
    acknowledged: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct State {
    /// What the host calls the mount, as its last request said.
    pub(super) mount_point: String,
    pub(super) way: Way,
    /// What `undelivered/` holds was read.
    pub(super) read: bool,
    /// A run is under way.
    pub(super) running: bool,
    /// Logs with undelivered events, or with a pointer that is to be removed.
    pub(super) pending: HashMap<String, Pending>,
    /// In which order they have their turn.
    pub(super) queue: VecDeque<String>,
    /// Logs that are done but for their pointer, which somebody's lock kept: the next tick looks.
    left: Vec<String>,
    /// The way was written since the start: what was refused by another one is tried again.
    pub(super) tries_anew: bool,
    /// Nothing is tried before this monotonic time.
    rests_until: Duration,
    /// How often in a row the host could not be told.
    failures: u32,
    /// How often in this process it could.
    successes: u64,
    last: Option<DateTime<Utc>>,
    failing: Option<(&'static str, DateTime<Utc>)>,
    pub(super) exempt_keys: ExemptKeys,
    /// When people were told last that changes wait.
    stall_told: Option<DateTime<Utc>>,
    /// When the mount's tuning is read again, monotonic.
    pub(super) tuning_at: Duration,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("way", &self.way)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// A log with something undelivered.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Every event below this number is delivered or parked; `None` until the log was looked at.
    pub(super) next: Option<u64>,
    /// Events from this number on were stored by this process, and never tried before.
    fresh: Option<u64>,
    /// The last number known to be stored.
    pub(super) last: u64,
    /// It is in the queue.
    queued: bool,
    /// Since when the oldest undelivered event waits, as far as is known.
    since: Option<DateTime<Utc>>,
    /// Its pointer is in storage.
    pointer: bool,
    /// Events that were refused too often.
    pub(super) parked: BTreeSet<u64>,
    /// How often its next event was refused.
    pub(super) refusals: u32,
    /// Not before this monotonic time.
    pub(super) rests_until: Duration,
    /// How many deliveries this process had made when the host failed at its next event.
    failed_after: Option<u64>,
}

impl Pending {
    fn enqueue(&mut self, log: &str, queue: &mut VecDeque<String>) {
        if !std::mem::replace(&mut self.queued, true) {
            queue.push_back(log.to_owned());
        }
    }

    fn waiting(&self) -> u64 {
        let parked = self.parked.len() as u64;
        match self.next {
            Some(next) => (self.last + 1).saturating_sub(next) + parked,
            None => 1,
        }
    }

    fn is_done(&self) -> bool {
        self.parked.is_empty() && self.next.is_some_and(|next| next > self.last)
    }
}

impl Default for Emission {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            trail: KeyedLock::new(),
            acknowledged: watch::Sender::new(0),
        }
    }
}

impl Emission {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another role, another knowledge.
    pub(in crate::engine) fn forget(&self) {
        let mut state = self.state();
        *state = State {
            mount_point: std::mem::take(&mut state.mount_point),
            running: state.running,
            successes: state.successes,
            ..State::default()
        };
    }

    /// How often in a row the host could not be told.
    pub(super) fn failures(&self) -> u32 {
        self.state().failures
    }

    /// Reports whether events go this way still.
    pub(super) fn goes_by(&self, api: &Arc<dyn HostApi>) -> bool {
        let state = self.state();
        matches!(&state.way, Way::Loopback(present) if Arc::ptr_eq(present, api))
    }

    /// Somebody wrote how events reach the devices: nothing that was learnt by the old way counts.
    pub(in crate::engine) fn forget_way(&self) {
        let mut state = self.state();
        state.way = Way::Unread;
        state.tries_anew = true;
        state.rests_until = Duration::ZERO;
        state.failures = 0;
        state.failing = None;
        state.last = None;
        state.exempt_keys = ExemptKeys::Unknown;
        state.tuning_at = Duration::ZERO;
        let State { pending, queue, .. } = &mut *state;
        for (log, pending) in pending {
            pending.rests_until = Duration::ZERO;
            pending.refusals = 0;
            pending.failed_after = None;
            if let Some(first) = pending.parked.pop_first() {
                pending.next = pending.next.map(|next| next.min(first));
                pending.parked.clear();
                // What came after it may be delivered already.
                pending.fresh = None;
                pending.enqueue(log, queue);
            }
        }
    }

    /// What the host calls the mount now; it may be moved.
    pub(in crate::engine) fn note_mount_point(&self, mount_point: &str) {
        let mut state = self.state();
        if !mount_point.is_empty() && state.mount_point != mount_point {
            mount_point.clone_into(&mut state.mount_point);
        }
    }

    /// Reports whether the pointer of this log is known to be stored.
    pub(super) fn has_pointer(&self, log: &str) -> bool {
        let state = self.state();
        state
            .pending
            .get(log)
            .is_some_and(|pending| pending.pointer)
    }

    /// Events `first` to `last` of a log were stored, and its pointer before them.
    pub(super) fn note_stored(&self, log: &str, (first, last): (u64, u64), now: DateTime<Utc>) {
        let mut state = self.state();
        let read = state.read;
        let State { pending, queue, .. } = &mut *state;
        let pending = pending.entry(log.to_owned()).or_insert_with(|| Pending {
            // While storage was not listed, older ones may wait as well.
            next: read.then_some(first),
            fresh: Some(first),
            ..Pending::default()
        });
        pending.pointer = true;
        pending.last = pending.last.max(last);
        pending.since.get_or_insert(now);
        pending.enqueue(log, queue);
    }

    /// A log whose pointer was found in storage.
    pub(super) fn note_pointer(&self, log: &str) {
        let mut state = self.state();
        let State { pending, queue, .. } = &mut *state;
        let pending = pending.entry(log.to_owned()).or_default();
        pending.pointer = true;
        pending.next = None;
        pending.enqueue(log, queue);
    }

    /// A pointer may have been written for events that were not stored.
    pub(in crate::engine) fn note_doubtful_pointer(&self, log: &str) {
        if !self.has_pointer(log) {
            self.note_pointer(log);
        }
    }

    /// The pointer of this log could not be judged: the next tick looks again.
    pub(super) fn leave(&self, log: &str) {
        self.state().left.push(log.to_owned());
    }

    /// Takes up again what was left.
    pub(super) fn take_up_left(&self) {
        let mut state = self.state();
        let State {
            pending,
            queue,
            left,
            ..
        } = &mut *state;
        for log in left.drain(..) {
            if let Some(pending) = pending.get_mut(&log) {
                pending.enqueue(&log, queue);
            }
        }
    }

    /// A log was read: it is delivered up to `through` at least, and its last event is `last`.
    /// Returns from where to go on.
    pub(super) fn note_read(&self, log: &str, (through, last): (u64, u64)) -> u64 {
        let mut state = self.state();
        let pending = state.pending.entry(log.to_owned()).or_default();
        pending.last = pending.last.max(last);
        let next = pending.next.unwrap_or(0).max(through + 1);
        pending.next = Some(next);
        next
    }

    /// Like [`Emission::note_read`], with what is parked.
    pub(super) fn first_undelivered(&self, log: &str, range: (u64, u64)) -> u64 {
        let next = self.note_read(log, range);
        let state = self.state();
        let parked = state
            .pending
            .get(log)
            .and_then(|it| it.parked.first().copied());
        parked.map_or(next, |parked| parked.min(next))
    }

    /// Returns the logs with something undelivered, those that wait longest first.
    pub(super) fn logs(&self) -> Vec<String> {
        let state = self.state();
        let mut logs: Vec<_> = state
            .pending
            .iter()
            .map(|(log, it)| (it.since, log))
            .collect();
        logs.sort_unstable();
        logs.into_iter().map(|(_, log)| log.clone()).collect()
    }

    /// The event was taken by a device and its acknowledgement stored, or it needs none.
    pub(super) fn note_delivered(&self, log: &str, seq: u64, following: Option<DateTime<Utc>>) {
        let mut state = self.state();
        if let Some(pending) = state.pending.get_mut(log) {
            pending.parked.remove(&seq);
            if pending.next == Some(seq) {
                pending.next = Some(seq + 1);
                pending.refusals = 0;
                pending.failed_after = None;
                pending.since = following.or(pending.since);
            }
        }
        drop(state);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// The way to the devices is open.
    pub(super) fn note_works(&self, now: DateTime<Utc>) {
        let mut state = self.state();
        state.successes += 1;
        state.last = Some(now);
        state.failing = None;
        state.failures = 0;
        state.rests_until = Duration::ZERO;
    }

    /// The host could not be told; returns for how long nothing is tried.
    pub(super) fn note_failure(
        &self,
        code: &'static str,
        asked: Option<Duration>,
        clock: &dyn Clock,
    ) -> Duration {
        let mut state = self.state();
        let rest = rest(state.failures).max(asked.unwrap_or_default());
        state.failures = state.failures.saturating_add(1);
        state.rests_until = clock.monotonic() + rest;
        let since = state.failing.map_or(clock.now(), |(_, since)| since);
        state.failing = Some((code, since));
        rest
    }

    /// The host failed at the next event of this log. Reports whether others were taken since it
    /// did so before: then it is this event that it does not take.
    pub(super) fn failed_alone(&self, log: &str) -> bool {
        let mut state = self.state();
        let successes = state.successes;
        let Some(pending) = state.pending.get_mut(log) else {
            return false;
        };
        let before = pending.failed_after.replace(successes);
        before.is_some_and(|before| before < successes)
    }

    /// The next event of this log was refused once more; it rests, or is parked. Returns how often.
    pub(super) fn note_refusal(
        &self,
        log: &str,
        (seq, before): (u64, u32),
        most: u32,
        clock: &dyn Clock,
    ) -> u32 {
        let mut state = self.state();
        let Some(pending) = state.pending.get_mut(log) else {
            return before;
        };
        pending.refusals = pending.refusals.max(before).saturating_add(1);
        let refusals = pending.refusals;
        if refusals >= most {
            pending.parked.insert(seq);
            pending.next = Some(seq + 1);
            pending.refusals = 0;
        } else {
            pending.rests_until = clock.monotonic() + rest(refusals);
        }
        refusals
    }

    /// This event was found parked.
    pub(super) fn note_parked(&self, log: &str, seq: u64) {
        let mut state = self.state();
        if let Some(pending) = state.pending.get_mut(log) {
            pending.parked.insert(seq);
            if pending.next == Some(seq) {
                pending.next = Some(seq + 1);
            }
        }
    }

    /// Nothing of this log can be delivered for now.
    pub(super) fn postpone(&self, log: &str, rest: Duration, clock: &dyn Clock) {
        let mut state = self.state();
        let State { pending, queue, .. } = &mut *state;
        if let Some(pending) = pending.get_mut(log) {
            pending.rests_until = clock.monotonic() + rest;
            pending.enqueue(log, queue);
        }
    }

    /// This log has its turn again.
    pub(super) fn enqueue(&self, log: &str) {
        let mut state = self.state();
        let State { pending, queue, .. } = &mut *state;
        if let Some(pending) = pending.get_mut(log) {
            pending.enqueue(log, queue);
        }
    }

    /// Reports whether everything of this log is delivered and only its pointer is left.
    pub(super) fn is_done(&self, log: &str) -> bool {
        let state = self.state();
        state.pending.get(log).is_some_and(Pending::is_done)
    }

    /// Reports whether this log has something to deliver that is not parked.
    pub(super) fn has_more(&self, log: &str) -> bool {
        let state = self.state();
        let pending = state.pending.get(log);
        pending.is_some_and(|it| it.next.is_none_or(|next| next <= it.last))
    }

    /// The pointer of this log was removed.
    pub(super) fn remove(&self, log: &str) {
        self.state().pending.remove(log);
    }

    /// Returns the next log that has its turn, and takes it out of the queue.
    pub(super) fn next_log(&self, clock: &dyn Clock) -> Option<String> {
        let now = clock.monotonic();
        let mut state = self.state();
        let State { queue, pending, .. } = &mut *state;
        let ready = |log: &String| pending.get(log).is_none_or(|it| it.rests_until <= now);
        let index = queue.iter().position(ready)?;
        let log = queue.remove(index)?;
        if let Some(pending) = pending.get_mut(&log) {
            pending.queued = false;
        }
        Some(log)
    }

    /// Returns how long it is until a log has its turn; `None` if none waits for one.
    pub(super) fn shortest_rest(&self, clock: &dyn Clock) -> Option<Duration> {
        let now = clock.monotonic();
        let state = self.state();
        let rests = state.queue.iter().map(|log| {
            let pending = state.pending.get(log);
            pending.map_or(Duration::ZERO, |it| it.rests_until.saturating_sub(now))
        });
        rests.min()
    }

    /// Reports whether this process stored the event, so that nobody has tried it before.
    pub(super) fn is_fresh(&self, log: &str, seq: u64) -> bool {
        let state = self.state();
        let pending = state.pending.get(log);
        pending.is_some_and(|it| it.fresh.is_some_and(|first| seq >= first))
    }

    /// Reports whether something could be done now.
    pub(super) fn may_work(&self, clock: &dyn Clock) -> bool {
        let now = clock.monotonic();
        let state = self.state();
        if state.running || state.rests_until > now {
            return false;
        }
        if !state.read || matches!(state.way, Way::Unread) {
            return true;
        }
        let ready = |log: &String| {
            let pending = state.pending.get(log);
            pending.is_none_or(|it| it.rests_until <= now)
        };
        matches!(state.way, Way::Loopback(_)) && state.queue.iter().any(ready)
    }

    /// Reports whether a device is known to have taken an event; `None` if only storage knows.
    pub(in crate::engine) fn is_delivered(&self, log: &str, seq: u64) -> Option<bool> {
        let state = self.state();
        match state.pending.get(log) {
            Some(pending) if pending.parked.contains(&seq) => Some(false),
            Some(pending) => pending.next.map(|next| seq < next),
            None => state.read.then_some(true),
        }
    }

    /// Returns up to which number the events of a log are known to be delivered; `last` is its last.
    pub(in crate::engine) fn delivered_through(&self, log: &str, last: u64) -> Option<u64> {
        let state = self.state();
        match state.pending.get(log) {
            Some(pending) => {
                let first = pending.parked.first().copied();
                let next = pending.next?;
                Some(
                    first
                        .map_or(next, |first| first.min(next))
                        .saturating_sub(1),
                )
            }
            None => state.read.then_some(last),
        }
    }

    /// Waits until this event was acknowledged, or `patience` is over.
    pub(in crate::engine) async fn wait_for(
        &self,
        (log, seq): (&str, u64),
        patience: Duration,
    ) -> bool {
        let mut acknowledged = self.acknowledged.subscribe();
        let delivered = async {
            while self.is_delivered(log, seq) != Some(true) {
                if acknowledged.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(patience, delivered)
            .await
            .unwrap_or(false)
    }

    /// Reports whether nothing is tried now, because the host could not be told.
    pub(in crate::engine) fn is_resting(&self, clock: &dyn Clock) -> bool {
        self.state().rests_until > clock.monotonic()
    }

    /// Reports whether an event was delivered within the last hour, by the way that is set now.
    pub(in crate::engine) fn is_proven(&self, now: DateTime<Utc>) -> bool {
        let last = self.state().last;
        last.is_some_and(|last| now - last <= PROVEN && last <= now + PROVEN)
    }

    /// Reports whether people were told since then that changes wait.
    pub(super) fn is_stall_told(&self, since: DateTime<Utc>) -> bool {
        self.state().stall_told.is_some_and(|at| at >= since)
    }

    /// People were told that changes wait.
    pub(super) fn note_stall_told(&self, now: DateTime<Utc>) {
        self.state().stall_told = Some(now);
    }

    /// Returns how much waits; `None` before this process has listed it.
    pub(in crate::engine) fn waiting(&self) -> Option<Waiting> {
        let state = self.state();
        if !state.read {
            return None;
        }
        let mut sum = Waiting::default();
        for pending in state.pending.values() {
            let waiting = pending.waiting();
            sum.events += waiting;
            sum.parked += pending.parked.len() as u64;
            if waiting > 0 {
                sum.oldest = match (sum.oldest, pending.since) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        Some(sum)
    }

    /// Shows the logs that have parked events, with the oldest of them.
    pub(in crate::engine) fn parked(&self) -> Vec<(String, Option<DateTime<Utc>>)> {
        let state = self.state();
        let parked = state.pending.iter().filter(|(_, it)| !it.parked.is_empty());
        parked.map(|(log, it)| (log.clone(), it.since)).collect()
    }

    /// Returns how delivering goes.
    pub(in crate::engine) fn delivery(&self) -> Delivery {
        let state = self.state();
        Delivery {
            last: state.last,
            failing: state.failing,
            total: state.successes,
            external: matches!(state.way, Way::External),
            exempt_keys: state.exempt_keys.clone(),
        }
    }
}

/// How long to rest after this many failures in a row: 1, 2, 4, … seconds up to five minutes.
fn rest(failures: u32) -> Duration {
    (FIRST_REST * (1_u32 << failures.min(9))).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::engine::storage::fixture;

    fn read() -> Emission {
        let emission = Emission::default();
        emission.state().read = true;
        emission
    }

    #[test]
    fn rests_double_from_a_second_to_five_minutes() {
        for (failures, seconds) in [(0, 1), (1, 2), (8, 256), (9, 300), (u32::MAX, 300)] {
            assert_eq!(rest(failures), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn what_is_delivered_is_known_by_number() {
        let emission = read();
        assert_eq!(emission.is_delivered("acme", 4), Some(true));
        emission.note_stored("acme", (5, 6), fixture::now());
        assert_eq!(emission.is_delivered("acme", 4), Some(true));
        assert_eq!(emission.is_delivered("acme", 5), Some(false));
        assert_eq!(emission.delivered_through("acme", 6), Some(4));
        emission.note_delivered("acme", 5, None);
        assert_eq!(emission.delivered_through("acme", 6), Some(5));
        assert!(!emission.is_done("acme"));
        emission.note_delivered("acme", 6, None);
        assert!(emission.is_done("acme"));
    }

    /// Before storage was listed nobody knows what an earlier process left.
    #[test]
    fn nothing_is_claimed_before_storage_was_listed() {
        let emission = Emission::default();
        assert_eq!(emission.is_delivered("acme", 4), None);
        emission.note_stored("acme", (5, 5), fixture::now());
        assert_eq!(emission.is_delivered("acme", 5), None);
        assert_eq!(emission.delivered_through("acme", 5), None);
        assert_eq!(emission.waiting(), None);
    }

    #[test]
    fn a_refused_event_is_parked_and_the_next_one_has_its_turn() {
        let clock = ManualClock::starting_at(fixture::now());
        let emission = read();
        emission.note_stored("acme", (1, 2), fixture::now());
        for refusals in 1..10 {
            assert_eq!(emission.note_refusal("acme", (1, 0), 10, &clock), refusals);
            assert_eq!(emission.is_delivered("acme", 2), Some(false));
        }
        assert_eq!(emission.note_refusal("acme", (1, 0), 10, &clock), 10);
        emission.note_delivered("acme", 2, None);
        assert_eq!(emission.is_delivered("acme", 1), Some(false));
        assert_eq!(emission.delivered_through("acme", 2), Some(0));
        assert!(!emission.is_done("acme"), "parked is not delivered");
        assert_eq!(emission.waiting().unwrap().parked, 1);
        // Another way to the devices: it is tried again.
        emission.forget_way();
        assert_eq!(emission.waiting().unwrap().parked, 0);
        emission.note_delivered("acme", 1, None);
        assert_eq!(emission.is_delivered("acme", 1), Some(true));
    }

    /// A host that fails at everything says nothing of the event; one that takes others does.
    #[test]
    fn an_event_is_blamed_only_if_others_were_taken_meanwhile() {
        let emission = read();
        emission.note_stored("acme", (1, 1), fixture::now());
        assert!(!emission.failed_alone("acme"));
        assert!(!emission.failed_alone("acme"));
        emission.note_works(fixture::now());
        assert!(emission.failed_alone("acme"));
    }

    #[test]
    fn a_delivery_proves_the_way_for_an_hour() {
        let emission = read();
        let now = fixture::now();
        assert!(!emission.is_proven(now));
        emission.note_works(now);
        assert!(emission.is_proven(now + TimeDelta::minutes(60)));
        assert!(!emission.is_proven(now + TimeDelta::minutes(61)));
        emission.forget_way();
        assert!(!emission.is_proven(now), "the way is another one");
    }
}
