//! Other writers of an account, told by the mark they leave in Mailu.
//!
//! Each send counts the record's generation up and leaves it in Mailu together with lineage and
//! attempt. Two marks say that somebody else acts on the account:
//!
//! - a generation above the record's **under a lineage of its own**: storage went back in time (a
//!   restore), or a copy of it acts;
//! - any other mark that the record cannot have left and nobody accepted: another mount or cluster.
//!
//! The marks of the record's own attempts, ended ones too, and of its lineages up to its own
//! generation are none of these, however late they come to Mailu. Mailu has no compare-and-set: a
//! stranger is noticed, not prevented.

use crate::audit::{Actor, EventName, NewEvent, Outcome, Severity};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::{Drift, TenantRecord};
use crate::provider::{Account, Marker, marker};

/// The drift code of a record whose storage went back in time, or that a copy of it acts beside.
pub(in crate::engine) const STALE_STORAGE: &str = "stale_storage";

/// The drift code of a record whose account another mount or cluster acts on.
pub(in crate::engine) const OTHER_OWNER: &str = "other_owner";

/// How long an attempt's name is, in characters.
const ATTEMPT: usize = 32;

/// What an account's mark says of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Stranger {
    /// This record in a later state.
    Later(Marker),
    /// Another mount or cluster.
    Other(Marker),
}

impl Stranger {
    /// Returns the code of the drift that this is.
    pub(in crate::engine) const fn code(&self) -> &'static str {
        match self {
            Self::Later(_) => STALE_STORAGE,
            Self::Other(_) => OTHER_OWNER,
        }
    }

    const fn mark(&self) -> &Marker {
        match self {
            Self::Later(mark) | Self::Other(mark) => mark,
        }
    }
}

/// Returns what the account's mark says of somebody else than this record.
pub(in crate::engine) fn stranger_of(
    record: &TenantRecord,
    seen: Option<&Account>,
) -> Option<Stranger> {
    let found = marker::find(&seen?.comment)?;
    if record.is_own_lineage(&found.lineage) {
        return (found.generation > record.generation).then_some(Stranger::Later(found));
    }
    let accepted = record.accepted_mark.as_deref() == Some(found.to_string().as_str());
    (!accepted && !knows_attempt(record, &found.attempt)).then_some(Stranger::Other(found))
}

fn knows_attempt(record: &TenantRecord, attempt: &str) -> bool {
    let versions = record.credential.iter().flat_map(|kept| &kept.versions);
    let kept = versions.map(|version| &version.attempt);
    let open = record.intent.iter().map(|intent| &intent.attempt);
    let mut own = record.attempts.iter().chain(kept).chain(open);
    own.any(|own| own == attempt)
}

/// Reports whether the engine's mark fits behind the comment that an account has. Without one the
/// next change is made all the same; nobody can tell then who made it.
pub(in crate::engine) fn mark_fits(record: &TenantRecord, seen: &Account) -> bool {
    let mark = Marker {
        lineage: record.lineage.clone(),
        generation: record.generation.saturating_add(1),
        // As long as that of every attempt.
        attempt: "0".repeat(ATTEMPT),
    };
    marker::append(&seen.comment, &mark).is_some()
}

/// A person has looked at the account and decided: its mark is nobody's alarm any more.
pub(in crate::engine) fn accept(record: &mut TenantRecord, seen: Option<&Account>) {
    if let Some(stranger) = stranger_of(record, seen) {
        let mark = stranger.mark();
        record.generation = record.generation.max(mark.generation);
        record.accepted_mark = Some(mark.to_string());
    }
}

/// Begins above whatever mark the account carries: a credential's first look at it.
pub(in crate::engine) fn take_over(record: &mut TenantRecord, seen: Option<&Account>) {
    let found = seen.and_then(|account| marker::find(&account.comment));
    if let Some(found) = found.filter(|found| found.generation >= record.generation) {
        record.generation = found.generation.saturating_add(1);
    }
}

/// Notes a stranger, in memory, once: drift, and no automatic change until a person looks. A record
/// that went back in time goes on under a lineage of its own. `live` is the stored version that
/// Mailu was found to hold.
pub(super) fn note(
    tenant: &mut LockedTenant,
    stranger: &Stranger,
    live: Option<u64>,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let code = stranger.code();
    if let Stranger::Later(mark) = stranger {
        let lineage = tenant.engine.identifiers().hex()?;
        tenant.record.generation = mark.generation.saturating_add(1);
        tenant.record.begin_lineage(lineage);
    }
    let record = &mut tenant.record;
    record.open.settle_at = None;
    let Some(credential) = record.credential.as_mut() else {
        return Ok(());
    };
    if let Some(drift) = credential.drift.as_mut()
        && drift.code == code
        && matches!(stranger, Stranger::Other(_))
    {
        drift.live_version = live.or(drift.live_version);
        return Ok(());
    }
    credential.drift = Some(Drift {
        code: code.to_owned(),
        live_version: live,
        since: now,
        set_again: false,
    });
    let current = credential.current;
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = Severity::Critical;
    event.outcome = Outcome::Failure;
    event.version = live;
    event.previous_version = current;
    event.error_code = Some(code.to_owned());
    tenant.record_event(event).map(|_event| ())
}

/// Reports whether a code is that of a stranger.
pub(super) fn is_strangers(code: &str) -> bool {
    code == STALE_STORAGE || code == OTHER_OWNER
}

/// Reports whether a stranger was noted and no person has looked since.
pub(super) fn is_noted(record: &TenantRecord) -> bool {
    let drift = record.credential.as_ref().and_then(|it| it.drift.as_ref());
    drift.is_some_and(|drift| is_strangers(&drift.code))
}

/// What the engine's own work ends with behind a stranger that was noted.
pub(super) fn error(record: &TenantRecord) -> Error {
    let drift = record.credential.as_ref().and_then(|it| it.drift.as_ref());
    if drift.is_some_and(|drift| drift.code == OTHER_OWNER) {
        return Error::conflict(
            OTHER_OWNER,
            "the account carries the mark of another mount or cluster. Nothing is changed \
             automatically. Find out who else owns the account; then accept the mark with \
             <tenant>/verify, adopt the live password, or write <tenant>/rotate.",
        );
    }
    Error::conflict(
        STALE_STORAGE,
        "somebody else has set the password since this record was written: storage was restored \
         from a backup, or a copy of it acts on the account. Nothing is changed automatically. \
         Look with <tenant>/verify, then adopt the live password or write <tenant>/rotate.",
    )
}

/// The answer to a creation or import of an account that somebody else marked.
pub(in crate::engine) fn owned_by_other() -> Error {
    Error::invalid(
        OTHER_OWNER,
        "the account carries the mark of another mount or cluster in its Mailu comment, which would \
         go on changing its password. Nothing was stored. Remove the credential there first, or \
         repeat with take_over=true if that owner is gone.",
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
            change_at_login: false,
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

    fn code(record: &TenantRecord, comment: &str) -> Option<&'static str> {
        stranger_of(record, Some(&seen(comment))).map(|it| it.code())
    }

    #[test]
    fn a_mark_that_this_record_cannot_have_left_is_a_strangers() {
        let mut record = record();
        record.lineages.push(String::from("E"));
        record.note_attempt("ended");
        for (comment, stranger) in [
            ("", None),
            ("[smtp L 5 mine]", None),
            ("[smtp L 4 other]", None),
            // Its candidate was dropped, or forgotten: it is this record's all the same.
            ("[smtp L 5 other]", None),
            ("[smtp E 3 other]", None),
            ("[smtp other 9 mine]", None),
            ("[smtp other 9 ended]", None),
            ("[smtp L 6 mine]", Some(STALE_STORAGE)),
            ("[smtp L 6 other]", Some(STALE_STORAGE)),
            ("[smtp E 6 other]", Some(STALE_STORAGE)),
            ("[smtp other 4 other]", Some(OTHER_OWNER)),
            ("[smtp other 5 other]", Some(OTHER_OWNER)),
            ("[smtp other 9 other]", Some(OTHER_OWNER)),
        ] {
            assert_eq!(code(&record, comment), stranger, "{comment}");
        }
    }

    #[test]
    fn what_a_person_accepted_is_nobodys_alarm_and_another_mark_is() {
        let mut record = record();
        let theirs = seen("ask Ada [smtp other 9 other]");
        accept(&mut record, Some(&theirs));
        assert_eq!(record.generation, 9);
        assert_eq!(stranger_of(&record, Some(&theirs)), None);
        assert_eq!(code(&record, "[smtp other 10 other]"), Some(OTHER_OWNER));
        accept(&mut record, Some(&seen("")));
        assert_eq!(stranger_of(&record, Some(&theirs)), None, "for good");
    }

    #[test]
    fn only_the_last_attempts_and_lineages_are_remembered() {
        let mut record = record();
        for number in 0..40 {
            record.note_attempt(&format!("a{number}"));
            record.begin_lineage(format!("l{number}"));
        }
        assert_eq!((record.attempts.len(), record.lineages.len()), (32, 4));
        assert_eq!(code(&record, "[smtp x 1 a8]"), None);
        assert_eq!(code(&record, "[smtp x 1 a7]"), Some(OTHER_OWNER));
        assert_eq!(code(&record, "[smtp l35 1 x]"), None);
        assert_eq!(code(&record, "[smtp l34 1 x]"), Some(OTHER_OWNER));
    }

    #[test]
    fn a_first_look_begins_above_the_mark() {
        let mut record = record();
        record.generation = 0;
        assert_eq!(code(&record, "[smtp L 1 other]"), Some(STALE_STORAGE));
        take_over(&mut record, Some(&seen("[smtp other 9 other]")));
        assert_eq!(record.generation, 10);
    }
}
