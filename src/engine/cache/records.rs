//! Tenants' records in memory, passwords still sealed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use super::{Before, Role};
use crate::clock::Clock;
use crate::engine::storage::record::TenantRecord;

/// What all records kept may take together. Each counts as long as it is stored, which for most of
/// it is what it takes in memory, and [`OVERHEAD`]. The frozen example of the first format, with
/// every field filled, is stored in 4.7 KiB.
const MAX_BYTES: usize = 2 << 20;
/// What the smallest record takes besides: its fixed fields, its key, its place in the table.
const OVERHEAD: usize = size_of::<TenantRecord>() + 256;

/// The records read or written last. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    // A blocking mutex: held for map operations only.
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug)]
struct Shelf {
    records: LruCache<String, Entry>,
    /// What `records` take.
    bytes: usize,
    /// Tenants whose record is being written, under its lock: until that is over, storage may
    /// change under a Get.
    writing: BTreeSet<String>,
    /// Counts invalidations of any record: a fill that began before one is thrown away.
    epoch: u64,
}

#[derive(Debug)]
struct Entry {
    record: Arc<TenantRecord>,
    bytes: usize,
    /// When storage was asked, or had taken it.
    asked: Duration,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self {
            shelf: Arc::new(Mutex::new(Shelf {
                records: LruCache::unbounded(),
                bytes: 0,
                writing: BTreeSet::new(),
                epoch: 0,
            })),
        }
    }

    /// Returns the record if it is there and may be believed.
    pub(crate) fn fresh(
        &self,
        tenant: &str,
        role: &Role,
        clock: &dyn Clock,
    ) -> Option<Arc<TenantRecord>> {
        let mut shelf = self.shelf();
        let entry = shelf.records.get(tenant)?;
        role.believes(entry.asked, clock.monotonic())
            .then(|| Arc::clone(&entry.record))
    }

    /// To be called before storage is asked for what [`Records::fill`] then keeps.
    pub(crate) fn before_get(&self, clock: &dyn Clock) -> Before {
        Before {
            epoch: self.shelf().epoch,
            at: clock.monotonic(),
        }
    }

    /// Keeps what a Get found, `bytes` long as stored, unless a record was changed meanwhile or
    /// this one is being written.
    pub(crate) fn fill(&self, record: &Arc<TenantRecord>, bytes: usize, before: Before) {
        let mut shelf = self.shelf();
        if shelf.epoch == before.epoch && !shelf.writing.contains(&record.tenant) {
            shelf.keep(record, bytes, before.at);
        }
    }

    /// Another node changed the record.
    pub(crate) fn forget(&self, tenant: &str) {
        self.shelf().forget(tenant);
    }

    /// This node's role changed: what it may believe is another question now.
    pub(crate) fn forget_all(&self) {
        let mut shelf = self.shelf();
        shelf.epoch += 1;
        shelf.records.clear();
        shelf.bytes = 0;
    }

    /// To be called before the Put of a record: drops it, and keeps it out until the returned
    /// guard says what storage holds, or is dropped because nobody knows.
    pub(crate) fn write(&self, tenant: &str) -> Writing {
        let mut shelf = self.shelf();
        shelf.forget(tenant);
        shelf.writing.insert(tenant.to_owned());
        Writing {
            records: self.clone(),
            tenant: tenant.to_owned(),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Every change is a few map operations and a sum: none of them panics half-way.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn keep(&mut self, record: &Arc<TenantRecord>, bytes: usize, asked: Duration) {
        let bytes = bytes + OVERHEAD;
        let entry = Entry {
            record: Arc::clone(record),
            bytes,
            asked,
        };
        self.bytes += bytes;
        if let Some(replaced) = self.records.put(record.tenant.clone(), entry) {
            self.bytes -= replaced.bytes;
        }
        while self.bytes > MAX_BYTES
            && let Some((_, oldest)) = self.records.pop_lru()
        {
            self.bytes -= oldest.bytes;
        }
    }

    fn forget(&mut self, tenant: &str) {
        self.epoch += 1;
        if let Some(dropped) = self.records.pop(tenant) {
            self.bytes -= dropped.bytes;
        }
    }
}

/// A Put of one record under way.
#[derive(Debug)]
pub(crate) struct Writing {
    records: Records,
    tenant: String,
}

impl Writing {
    /// The Put took effect: storage holds `record`, `bytes` long. The caller still has the
    /// tenant's lock, so nobody can have changed it since.
    pub(crate) fn stored(self, record: &Arc<TenantRecord>, bytes: usize, clock: &dyn Clock) {
        self.records.shelf().keep(record, bytes, clock.monotonic());
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut shelf = self.records.shelf();
        // A Get that began during the Put may have seen either state.
        shelf.epoch += 1;
        shelf.writing.remove(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::clock::ManualClock;

    struct Bench {
        clock: ManualClock,
        role: Role,
        records: Records,
    }

    impl Bench {
        fn on_the_active_node() -> Self {
            let role = Role::default();
            role.note(true);
            Self {
                clock: ManualClock::starting_at(DateTime::UNIX_EPOCH),
                role,
                records: Records::new(),
            }
        }

        /// The revision that a read of `acme` would answer from memory.
        fn kept(&self) -> Option<u64> {
            let record = self.records.fresh("acme", &self.role, &self.clock)?;
            Some(record.revision)
        }

        fn fill(&self, revision: u64, before: Before) {
            let record = record("acme", revision);
            self.records.fill(&record, 100, before);
        }

        fn before_get(&self) -> Before {
            self.records.before_get(&self.clock)
        }
    }

    fn record(tenant: &str, revision: u64) -> Arc<TenantRecord> {
        let (one, other) = (String::from("1"), String::from("2"));
        let mut record = TenantRecord::new(tenant, one, other, DateTime::UNIX_EPOCH);
        record.revision = revision;
        Arc::new(record)
    }

    #[test]
    fn the_active_node_keeps_a_record_for_a_minute_and_a_standby_for_ten_seconds() {
        let bench = Bench::on_the_active_node();
        let before = bench.before_get();
        bench.clock.advance(Duration::from_millis(9_000));
        bench.fill(1, before);
        bench.clock.advance(Duration::from_millis(50_999));
        assert_eq!(bench.kept(), Some(1));
        bench.clock.advance(Duration::from_millis(1));
        assert_eq!(
            bench.kept(),
            None,
            "as old as the question, not as the answer"
        );
        bench.role.note(false);
        bench.fill(2, bench.before_get());
        bench.clock.advance(Duration::from_millis(9_999));
        assert_eq!(bench.kept(), Some(2));
        bench.clock.advance(Duration::from_millis(1));
        assert_eq!(bench.kept(), None);
    }

    #[test]
    fn with_the_role_everything_goes() {
        let bench = Bench::on_the_active_node();
        bench.fill(1, bench.before_get());
        let before = bench.before_get();
        bench.records.forget_all();
        assert_eq!(bench.kept(), None);
        bench.fill(1, before);
        assert_eq!(bench.kept(), None);
        assert_eq!(bench.records.shelf().bytes, 0);
    }

    #[test]
    fn a_get_that_overlaps_a_write_never_fills() {
        let bench = Bench::on_the_active_node();
        let before_all = bench.before_get();
        let writing = bench.records.write("acme");
        let during = bench.before_get();
        bench.fill(1, before_all);
        bench.fill(1, during);
        assert_eq!(bench.kept(), None, "the Put is not over");
        writing.stored(&record("acme", 2), 100, &bench.clock);
        for before in [before_all, during] {
            bench.fill(1, before);
            assert_eq!(bench.kept(), Some(2));
        }
        bench.fill(3, bench.before_get());
        assert_eq!(bench.kept(), Some(3));
    }

    #[test]
    fn a_write_of_unknown_outcome_leaves_nothing() {
        let bench = Bench::on_the_active_node();
        bench.fill(1, bench.before_get());
        let writing = bench.records.write("acme");
        let during = bench.before_get();
        assert_eq!(bench.kept(), None);
        drop(writing);
        bench.fill(1, during);
        assert_eq!(bench.kept(), None);
        bench.fill(2, bench.before_get());
        assert_eq!(bench.kept(), Some(2));
    }

    #[test]
    fn a_notice_of_another_node_drops_the_record_and_the_fill_under_way() {
        let bench = Bench::on_the_active_node();
        bench.fill(1, bench.before_get());
        let before = bench.before_get();
        bench.records.forget("acme");
        assert_eq!(bench.kept(), None);
        bench.fill(1, before);
        assert_eq!(bench.kept(), None);
    }

    #[test]
    fn memory_is_bounded_and_what_was_read_last_stays() {
        let bench = Bench::on_the_active_node();
        let fill = |tenant, bytes: usize| {
            let before = bench.before_get();
            let bytes = bytes - OVERHEAD;
            bench.records.fill(&record(tenant, 1), bytes, before);
        };
        let kept = |tenant| bench.records.fresh(tenant, &bench.role, &bench.clock);
        let quarter = MAX_BYTES / 4;
        for tenant in ["a", "b", "c", "d"] {
            fill(tenant, quarter);
        }
        assert!(kept("a").is_some());
        fill("e", quarter);
        assert!(kept("b").is_none() && kept("a").is_some() && kept("e").is_some());
        // The same record again, smaller: the sum follows.
        fill("e", OVERHEAD);
        fill("f", quarter - OVERHEAD);
        assert!(kept("c").is_some());
        assert_eq!(bench.records.shelf().bytes, MAX_BYTES);
    }
}
