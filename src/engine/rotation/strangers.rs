//! Other writers of an account, told by the mark they leave in Mailu.
//!
//! Each send counts the record's generation up and leaves it in Mailu together with the attempt's
//! name. A mark that this record cannot have left means that storage went back in time (a restore)
//! or that another cluster acts on the account. Mailu has no compare-and-set: a stranger is
//! noticed, not prevented.

use crate::audit::{Actor, EventName, NewEvent, Outcome, Severity};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::{Drift, TenantRecord};
use crate::provider::{Account, Marker, marker};

/// The drift code of a record that a stranger was noticed behind.
pub(in crate::engine) const STALE_STORAGE: &str = "stale_storage";

/// Returns the account's mark if this record cannot have left it.
pub(in crate::engine) fn mark_of_stranger(
    record: &TenantRecord,
    seen: Option<&Account>,
) -> Option<Marker> {
    let found = marker::find(&seen?.comment)?;
    // Anybody in Mailu may edit the text: at the end of the range it says nothing any more.
    if record.generation == u64::MAX || found.generation < record.generation {
        return None;
    }
    // Nothing was ever sent from here: what an earlier life of the account left is no news.
    let untouched = record.generation == 0 && found.lineage != record.lineage;
    let ours = found.generation == record.generation && knows_attempt(record, &found.attempt);
    (!untouched && !ours).then_some(found)
}

fn knows_attempt(record: &TenantRecord, attempt: &str) -> bool {
    let versions = record.credential.iter().flat_map(|kept| &kept.versions);
    let mut sent = versions.map(|version| version.attempt.as_str());
    let open = record.intent.as_ref();
    open.is_some_and(|intent| intent.attempt == attempt) || sent.any(|known| known == attempt)
}

/// Begins above whatever mark the account carries: a credential's first look at it.
pub(in crate::engine) fn take_over(record: &mut TenantRecord, seen: Option<&Account>) {
    let found = seen.and_then(|account| marker::find(&account.comment));
    if let Some(found) = found.filter(|found| found.generation >= record.generation) {
        record.generation = found.generation.saturating_add(1);
    }
}

/// Notes a stranger, in memory: drift, a lineage of its own for what comes, and no automatic
/// change until a person looks. `live` is the stored version that Mailu was found to hold.
pub(super) fn note(
    tenant: &mut LockedTenant,
    mark: &Marker,
    live: Option<u64>,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let lineage = tenant.engine.identifiers().hex()?;
    let record = &mut tenant.record;
    record.generation = mark.generation.saturating_add(1);
    record.lineage = lineage;
    record.open.settle_at = None;
    let credential = record.credential.as_mut();
    let current = credential.as_ref().and_then(|kept| kept.current);
    if let Some(credential) = credential {
        credential.drift = Some(Drift {
            code: STALE_STORAGE.to_owned(),
            live_version: live,
            since: now,
            set_again: false,
        });
    }
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = Severity::Critical;
    event.outcome = Outcome::Failure;
    event.version = live;
    event.previous_version = current;
    event.error_code = Some(STALE_STORAGE.to_owned());
    tenant.record_event(event).map(|_event| ())
}

/// Reports whether a stranger was noted and no person has looked since.
pub(super) fn is_noted(record: &TenantRecord) -> bool {
    let drift = record.credential.as_ref().and_then(|it| it.drift.as_ref());
    drift.is_some_and(|drift| drift.code == STALE_STORAGE)
}

/// What the engine's own work ends with.
pub(super) fn error() -> Error {
    Error::conflict(
        STALE_STORAGE,
        "somebody else has set the password since this record was written: storage was restored \
         from a backup, or another cluster acts on the account. Nothing is changed automatically. \
         Look with <tenant>/verify, then adopt the live password or write <tenant>/rotate.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;

    fn seen(comment: &str) -> Account {
        Account {
            hash: None,
            enabled: true,
            comment: comment.to_owned(),
            forwarding: false,
            auto_reply: false,
            administrator: None,
        }
    }

    /// A record that has sent version 1 as attempt `mine`, generation 5.
    fn record() -> TenantRecord {
        let now = fixture::now();
        let mut record = TenantRecord::new("acme", String::from("i"), String::from("L"), now);
        let mut credential = fixture::credential(now);
        let mut version = fixture::version(1, now);
        version.attempt = String::from("mine");
        credential.versions.push(version);
        record.credential = Some(credential);
        record.generation = 5;
        record
    }

    #[test]
    fn a_mark_that_this_record_cannot_have_left_is_a_strangers() {
        let record = record();
        for (comment, stranger) in [
            ("", false),
            ("[smtp L 5 mine]", false),
            ("[smtp L 4 other]", false),
            ("[smtp other 4 other]", false),
            ("[smtp L 5 other]", true),
            ("[smtp other 5 other]", true),
            ("[smtp L 6 mine]", true),
            ("[smtp L 6 other]", true),
        ] {
            let found = mark_of_stranger(&record, Some(&seen(comment)));
            assert_eq!(found.is_some(), stranger, "{comment}");
        }
    }

    #[test]
    fn what_an_earlier_life_left_is_no_news_to_a_record_that_never_sent() {
        let mut record = record();
        record.generation = 0;
        let stranger = |comment| mark_of_stranger(&record, Some(&seen(comment))).is_some();
        assert!(!stranger("[smtp other 9 other]"));
        assert!(
            stranger("[smtp L 1 other]"),
            "this record, in a later state"
        );
        take_over(&mut record, Some(&seen("[smtp other 9 other]")));
        assert_eq!(record.generation, 10);
        assert!(mark_of_stranger(&record, Some(&seen("[smtp other 9 other]"))).is_none());
    }

    #[test]
    fn a_mark_at_the_end_of_the_range_is_noticed_once() {
        let mut record = record();
        let last = format!("[smtp other {} other]", u64::MAX);
        assert!(mark_of_stranger(&record, Some(&seen(&last))).is_some());
        record.generation = u64::MAX;
        assert!(mark_of_stranger(&record, Some(&seen(&last))).is_none());
    }
}
