//! [`Emission`]: what this process knows of undelivered events, and how delivering them goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::open_receipts::OpenReceipts;
use crate::audit::EventLog;
use crate::clock::Clock;
use crate::host_api::HostApi;
use crate::keyed_lock::KeyedLock;
use crate::network::TlsFault;

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
    /// Since when the host takes long for each event.
    pub(in crate::engine) slow: Option<DateTime<Utc>>,
    /// Which fault it is, if TLS fails.
    pub(in crate::engine) tls_fault: Option<TlsFault>,
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
    /// For reading what `undelivered/` holds.
    pub(super) listing: tokio::sync::Mutex<()>,
    /// Counts acknowledgements, for those who wait for one.
    pub(super) acknowledged: watch::Sender<u64>,
    /// Something was stored while the emitter sleeps.
    pub(super) stored: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// What the host calls the mount, as its last request said.
    pub(super) mount_point: String,
    pub(super) way: Way,
    /// What `undelivered/` holds was read.
    pub(super) read: bool,
    /// Cancelled when another way was written or the role changed: a run by the old one ends.
    pub(super) current: CancellationToken,
    /// Cancelled when the role changed.
    pub(super) role: CancellationToken,
    /// A run is under way.
    pub(super) running: bool,
    /// Up to which number this process knows a log to be delivered, of those with nothing left.
    pub(super) verified: HashMap<String, u64>,
    /// Since when changes have waited for the devices, and when that was seen last.
    pub(super) held: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Old events of days before this one were looked at already.
    pub(super) expired_before: Option<NaiveDate>,
    /// Logs with undelivered events, or with a pointer that is to be removed.
    pub(super) pending: BTreeMap<String, Pending>,
    /// In which order they have their turn.
    pub(super) queue: VecDeque<String>,
    /// Logs that are done but for their pointer, which somebody's lock kept: the next tick looks.
    left: Vec<String>,
    /// The way was written since the start: what was refused by another one is tried again.
    pub(super) tries_anew: bool,
    /// Nothing is tried before this monotonic time.
    pub(super) rests_until: Duration,
    /// How often in a row the host could not be told.
    pub(super) failures: u32,
    /// How often in this process it could.
    pub(super) successes: u64,
    pub(super) last: Option<DateTime<Utc>>,
    pub(super) failing: Option<(&'static str, DateTime<Utc>)>,
    /// Since when the host takes long for each event, whether it took them or not.
    pub(super) slow: Option<DateTime<Utc>>,
    /// Which fault it is, if TLS fails.
    pub(super) tls_fault: Option<TlsFault>,
    pub(super) exempt_keys: ExemptKeys,
    /// When people were told last that changes wait.
    pub(super) stall_told: Option<DateTime<Utc>>,
    /// When the mount's tuning is read again, monotonic.
    pub(super) tuning_at: Duration,
    /// What answers of `events/emit` carried and nobody has brought back yet.
    pub(super) receipts: OpenReceipts,
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
    pub(super) fresh: Option<u64>,
    /// The last number known to be stored.
    pub(super) last: u64,
    /// It is in the queue.
    queued: bool,
    /// Since when the oldest undelivered event waits, as far as is known.
    pub(super) since: Option<DateTime<Utc>>,
    /// Its pointer is in storage.
    pointer: bool,
    /// Events that were refused too often.
    pub(super) parked: BTreeSet<u64>,
    /// How often its next event was refused.
    pub(super) refusals: u32,
    /// Not before this monotonic time.
    pub(super) rests_until: Duration,
    /// Why nothing of it can be delivered, if that is the engine's own trouble, and since when.
    pub(super) trouble: Option<(&'static str, DateTime<Utc>)>,
    /// How many deliveries this process had made when the host failed at its next event.
    failed_after: Option<u64>,
}

impl Pending {
    fn enqueue(&mut self, log: &str, queue: &mut VecDeque<String>) {
        if !std::mem::replace(&mut self.queued, true) {
            queue.push_back(log.to_owned());
        }
    }

    pub(super) fn waiting(&self) -> u64 {
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
            listing: tokio::sync::Mutex::default(),
            acknowledged: watch::Sender::new(0),
            stored: Notify::new(),
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
        state.current.cancel();
        state.role.cancel();
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

    /// Somebody wrote how events reach the devices: nothing that was learnt by the old way counts.
    pub(in crate::engine) fn forget_way(&self) {
        let mut state = self.state();
        state.current.cancel();
        state.current = CancellationToken::new();
        state.way = Way::Unread;
        state.tries_anew = true;
        state.rests_until = Duration::ZERO;
        state.failures = 0;
        state.failing = None;
        state.slow = None;
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
        let State {
            pending,
            queue,
            verified,
            ..
        } = &mut *state;
        let pending = pending.entry(log.to_owned()).or_insert_with(|| Pending {
            // Unless this process knows better, older ones may wait as well.
            next: verified.get(log).map(|through| through + 1),
            fresh: Some(first),
            ..Pending::default()
        });
        pending.pointer = true;
        pending.last = pending.last.max(last);
        pending.since.get_or_insert(now);
        pending.enqueue(log, queue);
        drop(state);
        self.stored.notify_one();
    }

    /// A log whose pointer was found in storage. It may be removed at any moment by who knows that
    /// nothing is left, so the next event writes it again.
    pub(super) fn note_pointer(&self, log: &str) {
        let mut state = self.state();
        let State { pending, queue, .. } = &mut *state;
        let pending = pending.entry(log.to_owned()).or_default();
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

    /// The oldest undelivered event of a log is of this time.
    pub(super) fn note_oldest(&self, log: &str, at: DateTime<Utc>) {
        let mut state = self.state();
        if let Some(pending) = state.pending.get_mut(log) {
            pending.since = Some(pending.since.map_or(at, |since| since.min(at)));
        }
    }

    /// Nothing of this log can be delivered, for a reason of the engine's own storage.
    pub(super) fn note_trouble(&self, log: &str, code: &'static str, now: DateTime<Utc>) {
        let mut state = self.state();
        if let Some(pending) = state.pending.get_mut(log) {
            let since = pending.trouble.map_or(now, |(_, since)| since);
            pending.trouble = Some((code, since));
        }
    }

    /// A stored log was read. Returns the numbers to look at: those that its record says are parked,
    /// if this process did not know, and everything behind what was delivered or parked.
    pub(super) fn note_log(&self, log: &str, events: &EventLog) -> Vec<u64> {
        let last = events.seq();
        let mut state = self.state();
        let anew = state.tries_anew;
        let pending = state.pending.entry(log.to_owned()).or_default();
        let mut found = Vec::new();
        if pending.next.is_none() && !anew {
            found.extend(events.parked());
            pending.parked.extend(events.parked());
            pending.next = Some(events.tried_through() + 1);
        }
        drop(state);
        let next = self.note_read(log, (events.delivered_through(), last));
        found.extend(next..=last);
        found
    }

    /// Like [`Emission::note_log`], with everything that is parked.
    pub(super) fn undelivered(&self, log: &str, events: &EventLog) -> BTreeSet<u64> {
        let mut found: BTreeSet<u64> = self.note_log(log, events).into_iter().collect();
        let state = self.state();
        let parked = state.pending.get(log).map(|it| &it.parked);
        found.extend(parked.into_iter().flatten());
        found
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
            pending.trouble = None;
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

    /// A collector acknowledged an event. That proves a way only if `is_the_way`: if the settings
    /// name the collector.
    pub(super) fn note_collected(&self, is_the_way: bool, now: DateTime<Utc>) {
        if is_the_way {
            self.note_works(now);
        } else {
            self.state().successes += 1;
        }
    }

    /// The engine has no way of its own to the devices: then none fails.
    pub(super) fn note_no_way(&self) {
        let mut state = self.state();
        state.failing = None;
        state.slow = None;
        state.failures = 0;
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

    /// The host has answered, or not: one that takes long does so because of a device that hangs.
    pub(super) fn note_pace(&self, slow: bool, now: DateTime<Utc>) {
        let mut state = self.state();
        state.slow = slow.then(|| state.slow.unwrap_or(now));
    }

    /// The host could not be told; returns for how long nothing is tried.
    pub(super) fn note_failure(
        &self,
        (code, tls_fault): (&'static str, Option<TlsFault>),
        asked: Option<Duration>,
        clock: &dyn Clock,
    ) -> Duration {
        let mut state = self.state();
        let rest = rest(state.failures).max(asked.unwrap_or_default());
        state.failures = state.failures.saturating_add(1);
        state.rests_until = clock.monotonic() + rest;
        let since = state.failing.map_or(clock.now(), |(_, since)| since);
        state.failing = Some((code, since));
        state.tls_fault = tls_fault;
        rest
    }

    /// The host failed at the next event of this log. Reports whether others were taken since it
    /// did so before: then it is this event that it does not take, now and from then on.
    pub(super) fn failed_alone(&self, log: &str) -> bool {
        let mut state = self.state();
        let successes = state.successes;
        let Some(pending) = state.pending.get_mut(log) else {
            return false;
        };
        let before = pending.failed_after.replace(successes);
        pending.refusals > 0 || before.is_some_and(|before| before < successes)
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

    /// Reports whether this log has something to deliver, and no turn of its own for that.
    pub(super) fn is_left_out(&self, log: &str) -> bool {
        let state = self.state();
        let pending = state.pending.get(log).filter(|it| !it.queued);
        pending.is_some_and(|it| it.next.is_none_or(|next| next <= it.last))
    }

    /// Returns how long the log that is ready first still rests; `None` if none has a turn.
    pub(super) fn next_rest(&self, clock: &dyn Clock) -> Option<Duration> {
        let now = clock.monotonic();
        let state = self.state();
        let rests = state.queue.iter().filter_map(|log| state.pending.get(log));
        let first = rests.map(|pending| pending.rests_until).min()?;
        Some(first.saturating_sub(now))
    }

    /// The pointer of this log was removed.
    pub(super) fn remove(&self, log: &str) {
        let mut state = self.state();
        let removed = state.pending.remove(log);
        if let Some(next) = removed.and_then(|pending| pending.next) {
            state
                .verified
                .insert(log.to_owned(), next.saturating_sub(1));
        }
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

    /// Reports whether this process stored the event, so that nobody has tried it before.
    pub(super) fn is_fresh(&self, log: &str, seq: u64) -> bool {
        let state = self.state();
        let pending = state.pending.get(log);
        pending.is_some_and(|it| it.fresh.is_some_and(|first| seq >= first))
    }

    /// Begins a run if something can be done now and none is under way; returns the signal by which
    /// it is to end.
    pub(super) fn begin(&self, clock: &dyn Clock) -> Option<CancellationToken> {
        let now = clock.monotonic();
        let mut state = self.state();
        if state.running || state.rests_until > now {
            return None;
        }
        let unknown = !state.read || matches!(state.way, Way::Unread);
        let ready = |log: &String| {
            let pending = state.pending.get(log);
            pending.is_none_or(|it| it.rests_until <= now)
        };
        let loopback = matches!(state.way, Way::Loopback(_));
        let has_work = unknown || (loopback && state.queue.iter().any(ready));
        if !has_work {
            return None;
        }
        state.running = true;
        Some(state.current.clone())
    }
}

/// How long to rest after this many failures in a row: 1, 2, 4, … seconds up to five minutes.
fn rest(failures: u32) -> Duration {
    (FIRST_REST * (1_u32 << failures.min(9))).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::clock::ManualClock;
    use crate::engine::storage::fixture;

    /// A process that has delivered four events of `acme`, and knows of nothing else.
    fn read() -> Emission {
        let emission = Emission::default();
        emission.state().read = true;
        emission.state().verified.insert(String::from("acme"), 4);
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

    /// Nobody knows what an earlier process left, or left without a pointer.
    #[test]
    fn nothing_is_claimed_that_this_process_did_not_see() {
        for emission in [Emission::default(), read()] {
            assert_eq!(emission.is_delivered("beta", 4), None);
            emission.note_stored("beta", (5, 5), fixture::now());
            assert_eq!(emission.is_delivered("beta", 4), None);
            assert_eq!(emission.is_delivered("beta", 5), Some(false));
            assert_eq!(emission.delivered_through("beta", 5), None);
        }
        assert_eq!(Emission::default().waiting(), None);
    }

    /// Superseding what waits does not begin the day anew; a delivery does.
    #[test]
    fn changes_that_wait_again_have_waited_all_the_time() {
        let emission = read();
        let start = fixture::now();
        let at = |hours: i64| start + TimeDelta::hours(hours);
        assert_eq!(emission.note_held(Some(at(0)), at(1)), Some(at(0)));
        assert_eq!(emission.note_held(None, at(2)), None);
        assert_eq!(emission.note_held(Some(at(2)), at(2)), Some(at(0)));
        emission.note_works(at(3));
        assert_eq!(emission.note_held(Some(at(3)), at(3)), Some(at(3)));
        assert_eq!(emission.note_held(Some(at(9)), at(9)), Some(at(9)));
    }

    #[test]
    fn a_refused_event_is_parked_and_the_next_one_has_its_turn() {
        let clock = ManualClock::starting_at(fixture::now());
        let emission = read();
        emission.note_stored("acme", (5, 6), fixture::now());
        for refusals in 1..10 {
            assert_eq!(emission.note_refusal("acme", (5, 0), 10, &clock), refusals);
            assert_eq!(emission.is_delivered("acme", 6), Some(false));
        }
        assert_eq!(emission.note_refusal("acme", (5, 0), 10, &clock), 10);
        emission.note_delivered("acme", 6, None);
        assert_eq!(emission.is_delivered("acme", 5), Some(false));
        assert_eq!(emission.delivered_through("acme", 6), Some(4));
        assert!(!emission.is_done("acme"), "parked is not delivered");
        assert_eq!(emission.waiting().unwrap().parked, 1);
        // Another way to the devices: it is tried again.
        emission.forget_way();
        assert_eq!(emission.waiting().unwrap().parked, 0);
        emission.note_delivered("acme", 5, None);
        assert_eq!(emission.is_delivered("acme", 5), Some(true));
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
