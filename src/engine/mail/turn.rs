//! One turn at a mail server: its stops are read before it, and told of every answer.
//!
//! Only the active node has turns, and a turn holds the server's lock, so this process is the only
//! writer of the entry. What it keeps in memory beside it may be lost at any time: how many calls
//! in a row had no answer, and an entry that could not be stored. It is dropped when another node
//! writes the entry, and when this node's role changes.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use lru::LruCache;

use super::heard::Heard;
use super::stops::{Admission, Caller, Stops};
use super::unasked::{UnaskedServers, Why};
use crate::clock::Clock;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::logical::{Storage, StorageEntry, StorageError};
use crate::provider::{Refusal, Trouble};

/// Servers of which something is kept in memory, those called last; each takes some 300 bytes.
const MOST_SERVERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_095);

/// What this process knows of servers beside what is stored. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Servers {
    // A blocking mutex: held for map operations only.
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug)]
struct Shelf {
    known: LruCache<String, Known>,
    /// Counts what makes an earlier Get of an entry worthless.
    epoch: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// Calls in a row without an answer.
    silent: u32,
    /// What storage did not take.
    unsaved: Option<Stops>,
}

impl Default for Servers {
    fn default() -> Self {
        Self {
            shelf: Arc::new(Mutex::new(Shelf {
                known: LruCache::new(MOST_SERVERS),
                epoch: 0,
            })),
        }
    }
}

impl Servers {
    /// Another node changed the entry with this key.
    pub(in crate::engine) fn forget(&self, key: &str) {
        let mut shelf = self.shelf();
        shelf.known.pop(key);
        shelf.epoch += 1;
    }

    /// This node's role changed.
    pub(in crate::engine) fn forget_all(&self) {
        let mut shelf = self.shelf();
        shelf.known.clear();
        shelf.epoch += 1;
    }

    fn with<T>(&self, key: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut shelf = self.shelf();
        let known = shelf
            .known
            .get_or_insert_mut(key.to_owned(), Known::default);
        change(known)
    }

    fn epoch(&self) -> u64 {
        self.shelf().epoch
    }

    fn written(&self) {
        self.shelf().epoch += 1;
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Every change is a map operation or a sum: none of them panics half-way.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the stops of one server are kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) servers: Servers,
    pub(super) key: String,
    /// Scheme, host and port, for the log.
    pub(super) server: String,
    pub(super) unasked: UnaskedServers,
    /// For whom it is asked, by name.
    pub(super) tenant: String,
}

/// The stops of one server as they were read.
#[derive(Debug)]
struct Seen {
    stops: Stops,
    /// Whether an entry exists.
    exists: bool,
    /// Whether storage holds something else than `stops`.
    differs: bool,
    epoch: u64,
}

impl Place {
    /// A call was held back: people see by whom, and since when.
    fn note_stop(&self, error: &Error, stops: &Stops) {
        let met = Why::of_stop(error).map(|why| {
            let since = stops.unasked_since(why);
            (why, since.unwrap_or_else(|| self.clock.now()))
        });
        // Calls rest because of refused ones, or of wishes to be called later.
        let rests = matches!(
            error,
            Error::Refused(Refusal::RateLimited) | Error::BreakerOpen
        );
        let known = stops.unasked().filter(|_known| rests);
        if let Some((why, since)) = known.or(met) {
            self.note_met(why, since, stops);
        }
    }

    fn note_met(&self, why: Why, since: DateTime<Utc>, stops: &Stops) {
        let refused = why == Why::UnrecognisedRefusal;
        let status = stops.holding().denied.filter(|_status| refused);
        let who = (self.server.as_str(), self.tenant.as_str());
        self.unasked.met(who, why, since, status);
    }

    fn note_heard(&self, heard: Heard, stops: &Stops) {
        match Why::of_heard(heard) {
            _ if heard == Heard::Limited => {
                if let Some((why, since)) = stops.unasked() {
                    self.note_met(why, since, stops);
                }
            }
            Some(why) => {
                // Silence is told when the breaker trips.
                if let Some(since) = stops.unasked_since(why) {
                    self.note_met(why, since, stops);
                }
                if let Heard::Nothing(Trouble::Tls(fault)) = heard {
                    self.unasked.note_tls_fault(&self.server, fault);
                }
            }
            None if heard == Heard::Accepted => self.unasked.answered(&self.server, &self.tenant),
            None => {}
        }
    }

    /// See [`Stops::held_until`].
    pub(super) async fn held_until(&self, caller: &Caller) -> Result<Option<DateTime<Utc>>, Error> {
        let seen = self.read().await?;
        Ok(seen.stops.held_until(caller, self.clock.now()))
    }

    async fn read(&self) -> Result<Seen, StorageError> {
        let epoch = self.servers.epoch();
        let unsaved = self.servers.with(&self.key, |it| it.unsaved.clone());
        if let Some(stops) = unsaved {
            return Ok(Seen {
                stops,
                exists: true,
                differs: true,
                epoch,
            });
        }
        let entry = self.storage.get(&self.key).await?;
        let exists = entry.is_some();
        let decoded = entry.map(|entry| Stops::decode(&self.key, &entry.value));
        let (stops, differs) = match decoded.transpose() {
            Ok(stops) => (stops.unwrap_or_default(), false),
            Err(error) => {
                tracing::warn!(server = %self.server, %error, "stops of a server are not readable");
                (Stops::careful(self.clock.now()), true)
            }
        };
        Ok(Seen {
            stops,
            exists,
            differs,
            epoch,
        })
    }
}

/// What of a server's stops is known before its turn comes.
#[derive(Debug)]
pub(super) struct Waiting {
    place: Place,
    caller: Caller,
    seen: Seen,
}

impl Waiting {
    /// Reads the stops; refuses at once what need not wait for the server's lock.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for a stop, [`Error::BreakerOpen`], or that storage failed.
    pub(super) async fn begin(place: Place, caller: Caller) -> Result<Self, Error> {
        let seen = place.read().await?;
        let waiting = Self {
            place,
            caller,
            seen,
        };
        match waiting.admission() {
            Ok(_announce) => Ok(waiting),
            Err(error) => {
                waiting.place.note_stop(&error, &waiting.seen.stops);
                Err(error)
            }
        }
    }

    /// Reports whether this is what that caller would read.
    pub(super) fn is_for(&self, caller: &Caller) -> bool {
        self.caller == *caller
    }

    /// To be called under the server's lock: decides, and counts a call that may be refused.
    ///
    /// # Errors
    ///
    /// As [`Waiting::begin`]. A call that could not be counted does not go out.
    pub(super) async fn admit(mut self) -> Result<Turn, Error> {
        // As long as nobody wrote meanwhile, the entry still is what it was.
        if self.seen.epoch != self.place.servers.epoch() {
            self.seen = self.place.read().await?;
        }
        let announce = self.admission()?;
        let mut turn = Turn {
            place: self.place,
            caller: self.caller,
            seen: self.seen,
            announced: None,
            closed: None,
        };
        if announce {
            let now = turn.now();
            turn.announced = turn.seen.stops.announce(&turn.caller, now);
            turn.write().await?;
        }
        Ok(turn)
    }

    /// Reports whether the call has to be counted before it goes out.
    fn admission(&self) -> Result<bool, Error> {
        let now = self.place.clock.now();
        match self.seen.stops.admission(&self.caller, now) {
            Admission::Free => Ok(false),
            Admission::Announced => Ok(true),
            Admission::Held(refusal) => Err(Error::Refused(refusal)),
            Admission::Denied(status) => Err(Error::Unreachable(Trouble::Denied { status })),
            Admission::Open => Err(Error::BreakerOpen),
        }
    }
}

/// A turn at a server, held together with its lock.
#[derive(Debug)]
pub(super) struct Turn {
    place: Place,
    caller: Caller,
    seen: Seen,
    /// A call that was counted before it went out, until its answer is known.
    announced: Option<DateTime<Utc>>,
    /// Why no further call goes out in this turn.
    closed: Option<Closed>,
}

/// Why a turn is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Mailu's own word.
    Refused(Refusal),
    /// What stands before it.
    Trouble(Trouble),
}

impl Turn {
    fn now(&self) -> DateTime<Utc> {
        self.place.clock.now()
    }

    /// Returns what a further call is answered instead of being made.
    pub(super) const fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// Takes up what a call came to, and stores what follows from it.
    pub(super) async fn hear(&mut self, heard: Heard) {
        let now = self.now();
        let before = self.seen.stops.clone();
        let announced = self.announced.take();
        let silent = self.place.servers.with(&self.place.key, |known| {
            known.silent = match heard {
                heard if heard.is_silence() => known.silent.saturating_add(1),
                Heard::Nothing(_) => known.silent,
                Heard::Busy(_) => known.silent,
                Heard::Accepted
                | Heard::Refused
                | Heard::Limited
                | Heard::Denied(_)
                | Heard::NoApi
                | Heard::Other => 0,
            };
            known.silent
        });
        let stops = &mut self.seen.stops;
        stops.hear(heard, &self.caller, announced, silent, now);
        self.place.note_heard(heard, stops);
        self.closed = match heard {
            Heard::Refused => Some(Closed::Refused(Refusal::Token)),
            Heard::Limited => Some(Closed::Refused(Refusal::RateLimited)),
            // The one call that was counted is used up, and whether it was refused is open.
            Heard::Nothing(trouble) if announced.is_some() && trouble.is_answered() => {
                Some(Closed::Trouble(trouble))
            }
            Heard::Nothing(_) if announced.is_some() => Some(Closed::Refused(Refusal::RateLimited)),
            Heard::Denied(status) if !stops.risks_a_look(self.caller.purpose, now) => {
                Some(Closed::Trouble(Trouble::Denied { status }))
            }
            Heard::Denied(_)
            | Heard::Busy(_)
            | Heard::Nothing(_)
            | Heard::Accepted
            | Heard::NoApi
            | Heard::Other => None,
        };
        // An accepted token is stored once: for a server in order that is the only Put.
        let nothing = self.seen.stops.is_empty() && !self.seen.exists;
        if !nothing && (self.seen.stops != before || self.seen.differs) {
            self.note_change(&before);
            if let Err(error) = self.write().await {
                let server = &self.place.server;
                tracing::warn!(%server, %error, "stops of a server are not stored yet");
                let unsaved = Some(self.seen.stops.clone());
                self.place
                    .servers
                    .with(&self.place.key, |known| known.unsaved = unsaved);
            }
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let Place {
            storage,
            servers,
            key,
            ..
        } = &self.place;
        let empty = self.seen.stops.is_empty();
        let written = if empty {
            storage.delete(key).await
        } else {
            let entry = StorageEntry {
                key: key.clone(),
                value: storage::encode(&self.seen.stops)?,
                seal_wrap: false,
            };
            storage.put(entry).await
        };
        servers.written();
        // After an error storage may hold either state: it is written again with the next change.
        self.seen.differs = written.is_err();
        self.seen.exists = !empty || written.is_err();
        written?;
        servers.with(key, |known| known.unsaved = None);
        Ok(())
    }

    /// Tells the operator what begins and ends here.
    fn note_change(&self, before: &Stops) {
        let after = self.seen.stops.holding();
        if before.holding() == after {
            return;
        }
        let server = &self.place.server;
        tracing::info!(
            %server,
            refused_tokens = after.tokens,
            rate_limited = after.limited,
            breaker_open = after.breaker,
            unrecognised_refusal = after.denied,
            "a server's stops changed"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;
    use crate::clock::ManualClock;
    use crate::engine::mail::Purpose;
    use crate::logical::MemoryStorage;

    struct Bench {
        storage: Arc<MemoryStorage>,
        clock: Arc<ManualClock>,
        place: Place,
    }

    impl Bench {
        fn new() -> Self {
            let storage = Arc::new(MemoryStorage::new());
            let start = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
            let clock = Arc::new(ManualClock::starting_at(start));
            let place = Place {
                storage: Arc::clone(&storage) as _,
                clock: Arc::clone(&clock) as _,
                servers: Servers::default(),
                key: storage::server_key("https://mail.acme.example:443"),
                server: String::from("https://mail.acme.example:443"),
                unasked: UnaskedServers::default(),
                tenant: String::from("acme"),
            };
            Self {
                storage,
                clock,
                place,
            }
        }

        async fn begin(&self, token: &str, purpose: Purpose) -> Result<Waiting, Error> {
            self.begin_for("acme", token, purpose).await
        }

        async fn begin_for(
            &self,
            tenant: &str,
            token: &str,
            purpose: Purpose,
        ) -> Result<Waiting, Error> {
            let caller = Caller {
                token: token.to_owned(),
                tenant: tenant.to_owned(),
                purpose,
                written_at: None,
            };
            Waiting::begin(self.place.clone(), caller).await
        }

        async fn turn(&self, token: &str) -> Result<Turn, Error> {
            self.begin(token, Purpose::Request).await?.admit().await
        }

        async fn stored(&self) -> Option<Stops> {
            let entry = self.storage.get(&self.place.key).await.unwrap()?;
            Some(Stops::decode(&self.place.key, &entry.value).unwrap())
        }

        fn minutes(&self, minutes: u64) {
            self.clock.advance(Duration::from_secs(minutes * 60));
        }
    }

    #[track_caller]
    fn held<T: std::fmt::Debug>(outcome: Result<T, Error>, refusal: Refusal) {
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, Error::Refused(found) if found == refusal),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_turn_ends_with_its_first_refusal_and_the_stop_outlives_the_process() {
        let mut bench = Bench::new();
        let mut turn = bench.turn("stale").await.unwrap();
        assert_eq!(turn.closed(), None);
        turn.hear(Heard::Refused).await;
        assert_eq!(turn.closed(), Some(Closed::Refused(Refusal::Token)));
        drop(turn);
        bench.place.servers = Servers::default();
        held(bench.turn("stale").await, Refusal::Token);
        bench.minutes(62);
        // Counted in storage before the call: whether it went out is nothing a crash can hide.
        let turn = bench.turn("stale").await.unwrap();
        assert_ne!(turn.announced, None);
        drop(turn);
        bench.place.servers = Servers::default();
        held(bench.turn("stale").await, Refusal::Token);
        let mut turn = bench.turn("right").await.unwrap();
        turn.hear(Heard::Accepted).await;
        assert_eq!(bench.stored().await.unwrap().accepted(), Some("right"));
    }

    #[tokio::test]
    async fn an_accepted_token_is_stored_once_and_known_after_a_restart() {
        let mut bench = Bench::new();
        for heard in [Heard::Other, Heard::Nothing(Trouble::Timeout)] {
            bench.turn("good").await.unwrap().hear(heard).await;
            assert_eq!(bench.stored().await, None);
        }
        let mut turn = bench.turn("good").await.unwrap();
        turn.hear(Heard::Accepted).await;
        drop(turn);
        assert_eq!(bench.stored().await.unwrap().accepted(), Some("good"));
        // No further Put could succeed; one that was tried would be kept to be written later.
        bench.storage.set_read_only(true);
        for _ in 0..3 {
            bench.place.servers = Servers::default();
            for heard in [Heard::Accepted, Heard::Other, Heard::Accepted] {
                bench.turn("good").await.unwrap().hear(heard).await;
            }
            let unsaved = |known: &mut Known| known.unsaved.is_some();
            assert!(!bench.place.servers.with(&bench.place.key, unsaved));
        }
        bench.storage.set_read_only(false);
        bench.place.servers = Servers::default();
        for number in 0..5 {
            let token = format!("wrong-{number}");
            let begun = bench.begin_for("evil", &token, Purpose::Request).await;
            if let Ok(waiting) = begun {
                waiting.admit().await.unwrap().hear(Heard::Refused).await;
            }
        }
        bench.place.servers = Servers::default();
        for purpose in [Purpose::Automatic, Purpose::Request, Purpose::Reset] {
            let waiting = bench.begin("good", purpose).await.unwrap();
            assert_eq!(waiting.admit().await.unwrap().announced, None);
        }
        // The token was changed at the server, and nobody saw the old one refused.
        let waiting = bench.begin("new", Purpose::Reset).await.unwrap();
        waiting.admit().await.unwrap().hear(Heard::Accepted).await;
        assert_eq!(bench.stored().await.unwrap().accepted(), Some("new"));
        assert!(bench.begin("new", Purpose::Automatic).await.is_ok());
    }

    #[tokio::test]
    async fn what_storage_did_not_take_holds_in_memory_and_is_written_later() {
        let bench = Bench::new();
        let mut turn = bench.turn("stale").await.unwrap();
        bench.storage.set_read_only(true);
        turn.hear(Heard::Refused).await;
        drop(turn);
        held(bench.turn("stale").await, Refusal::Token);
        // A call that cannot be counted does not go out, and does not count.
        for _ in 0..5 {
            let error = bench.turn("other").await.unwrap_err();
            assert!(matches!(error, Error::Storage(_)), "{error}");
        }
        bench.storage.set_read_only(false);
        assert_eq!(bench.stored().await, None);
        bench
            .turn("other")
            .await
            .unwrap()
            .hear(Heard::Accepted)
            .await;
        let stored = bench.stored().await.unwrap();
        assert_eq!(
            (stored.holding().tokens, stored.accepted()),
            (1, Some("other"))
        );
        held(bench.turn("stale").await, Refusal::Token);
        // Another node acts now: what it stored is what counts.
        bench.storage.delete(&bench.place.key).await.unwrap();
        bench.place.servers.forget_all();
        assert!(bench.turn("stale").await.is_ok());
    }

    #[tokio::test]
    async fn who_waits_behind_a_refusal_is_refused_as_well() {
        let bench = Bench::new();
        let first = bench.begin("stale", Purpose::Request).await.unwrap();
        let second = bench.begin("stale", Purpose::Automatic).await.unwrap();
        let other = bench.begin("other", Purpose::Request).await.unwrap();
        first.admit().await.unwrap().hear(Heard::Refused).await;
        held(second.admit().await, Refusal::Token);
        assert_ne!(other.admit().await.unwrap().announced, None);
    }

    #[tokio::test]
    async fn an_open_breaker_is_known_before_the_turn_and_after_a_restart() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            let mut turn = bench.turn("good").await.unwrap();
            turn.hear(Heard::Nothing(Trouble::Unreachable)).await;
        }
        assert!(bench.stored().await.unwrap().holding().breaker);
        bench.place.servers = Servers::default();
        let error = bench.begin("good", Purpose::Automatic).await.unwrap_err();
        assert!(matches!(error, Error::BreakerOpen), "{error}");
        let waiting = bench.begin("good", Purpose::Request).await.unwrap();
        waiting.admit().await.unwrap().hear(Heard::Accepted).await;
        assert!(!bench.stored().await.unwrap().holding().breaker);
        assert!(bench.begin("good", Purpose::Automatic).await.is_ok());
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_read_is_replaced_by_the_next_call() {
        for bytes in ["{", r#"{"schema":9,"other":true}"#] {
            let bench = Bench::new();
            let entry = StorageEntry {
                key: bench.place.key.clone(),
                value: bytes.as_bytes().to_vec(),
                seal_wrap: false,
            };
            bench.storage.put(entry).await.unwrap();
            let mut turn = bench.turn("good").await.unwrap();
            turn.hear(Heard::Accepted).await;
            assert_eq!(bench.stored().await.unwrap().holding().tokens, 0);
        }
    }
}
