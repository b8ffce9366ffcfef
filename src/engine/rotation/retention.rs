//! Which versions may be forgotten.

use chrono::{DateTime, TimeDelta, Utc};

use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::{Credential, TenantRecord, Version};
use crate::engine::trusted::Trusted;

/// Versions younger than this are dropped only beyond [`YOUNG_LIMIT`].
const YOUNG: TimeDelta = TimeDelta::days(90);
const YOUNG_LIMIT: usize = 30;

/// So many values that were sent in vain, and the next change sends one of them again.
const MOST_IN_VAIN: usize = 4;

/// A doubtful value is kept at least this long.
const DOUBT: TimeDelta = TimeDelta::days(30);
/// A proof clears doubts about sends that were at least this long before it.
const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(15);

/// Makes sure that there is room for a change and what may follow it: of the record as the commit
/// will leave it. Nothing is dropped before that: an old version may be the live one.
///
/// # Errors
///
/// A 400 `record_full`.
pub(super) fn check_room(tenant: &LockedTenant) -> Result<(), Error> {
    let mut after = TenantRecord::clone(&tenant.record);
    if let Some(credential) = &mut after.credential {
        prune(credential, &tenant.config, tenant.engine.trusted());
    }
    LockedTenant::check_room_of(&after)
}

/// Drops the oldest versions beyond the mount's `max_versions`, except the current one, the young
/// and the doubtful. While nobody knows how late it is all are young.
pub(super) fn prune(credential: &mut Credential, config: &MountConfig, now: Option<Trusted>) {
    let keep = usize::try_from(config.max_versions)
        .unwrap_or(usize::MAX)
        .max(2);
    let proven_at = credential
        .current_version()
        .and_then(|version| version.verified_at);
    let current = credential.current;
    let previous = credential.previous;
    let live = live_in_drift(credential);
    while credential.versions.len() > keep {
        let total = credential.versions.len();
        let droppable = |version: &Version| {
            let young = !now.is_some_and(|now| now.is_past(version.created_at, YOUNG));
            // Consumers may still use the version before the current one.
            ![current, previous, live].contains(&Some(version.number))
                && !is_needed(version, proven_at, now)
                && (!young || total > YOUNG_LIMIT)
        };
        let oldest = credential.versions.iter().position(droppable);
        let Some(index) = oldest else { return };
        credential.versions.remove(index);
    }
}

/// Returns the value to send again instead of a new one: the youngest that was sent in vain, is not
/// compromised, was made for that (a rollback's was in use before) and is not what Mailu holds by now,
/// once there are four that were sent in vain. `None`: a new one is made.
pub(super) fn youngest_in_vain(credential: &Credential) -> Option<&Version> {
    let in_vain = || credential.versions.iter().filter(|it| it.abandoned);
    if in_vain().count() < MOST_IN_VAIN {
        return None;
    }
    in_vain()
        .rev()
        .find(|it| it.compromised.is_none() && it.source.is_none())
        .filter(|it| live_in_drift(credential) != Some(it.number))
}

/// Reports whether one more value may be given up for a new one.
pub(super) fn has_room_for_vain(credential: &Credential) -> bool {
    credential.versions.iter().filter(|it| it.abandoned).count() < MOST_IN_VAIN
}

/// Drops the oldest version that is neither current nor doubtful, whatever its age; returns
/// whether there was one. For a reset, which is never refused for the record's size.
pub(super) fn drop_oldest(credential: &mut Credential, now: Option<Trusted>) -> bool {
    let proven_at = credential
        .current_version()
        .and_then(|version| version.verified_at);
    let current = credential.current;
    let live = live_in_drift(credential);
    let droppable = |version: &Version| {
        Some(version.number) != current
            && Some(version.number) != live
            && !is_needed(version, proven_at, now)
    };
    let oldest = credential.versions.iter().position(droppable);
    oldest.is_some_and(|index| {
        credential.versions.remove(index);
        true
    })
}

/// The stored version that Mailu was found to hold instead of the current one.
fn live_in_drift(credential: &Credential) -> Option<u64> {
    credential.drift.as_ref()?.live_version
}

/// A value that was sent without a definite outcome may still become live.
fn is_needed(version: &Version, proven_at: Option<DateTime<Utc>>, now: Option<Trusted>) -> bool {
    if !version.doubtful && !version.abandoned {
        return false;
    }
    let Some(sent) = version.last_sent_at else {
        return false;
    };
    let outlived = proven_at.is_some_and(|proven| proven - sent >= SETTLED_AFTER);
    !(outlived && now.is_some_and(|now| now.is_past(sent, DOUBT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;
    use crate::engine::storage::record::Compromise;

    #[expect(clippy::unnecessary_wraps, reason = "what the functions take")]
    fn believed(now: DateTime<Utc>) -> Option<Trusted> {
        Some(Trusted::for_tests(now))
    }

    #[test]
    fn while_the_time_is_not_known_nothing_is_too_old() {
        let now = fixture::now();
        let config = MountConfig {
            max_versions: 2,
            ..MountConfig::default()
        };
        let mut credential = credential(&[400, 300, 200, 100], now);
        prune(&mut credential, &config, None);
        assert_eq!(numbers(&credential), [1, 2, 3, 4]);
        credential.versions[0].doubtful = true;
        credential.versions[0].last_sent_at = Some(now - TimeDelta::days(400));
        assert!(
            drop_oldest(&mut credential, None),
            "what is settled, for a reset"
        );
        assert_eq!(numbers(&credential), [1, 3, 4]);
    }

    fn credential(ages_in_days: &[i64], now: DateTime<Utc>) -> Credential {
        let mut credential = fixture::credential(now);
        credential.versions = ages_in_days
            .iter()
            .zip(1..)
            .map(|(days, number)| fixture::version(number, now - TimeDelta::days(*days)))
            .collect();
        let newest_first = || {
            credential
                .versions
                .iter()
                .rev()
                .map(|version| version.number)
        };
        (credential.current, credential.previous) = (newest_first().next(), newest_first().nth(1));
        credential
    }

    fn numbers(credential: &Credential) -> Vec<u64> {
        credential
            .versions
            .iter()
            .map(|version| version.number)
            .collect()
    }

    #[test]
    fn the_oldest_settled_versions_go_first() {
        let now = fixture::now();
        let config = MountConfig {
            max_versions: 2,
            ..MountConfig::default()
        };
        let mut credential = credential(&[400, 300, 200, 100], now);
        prune(&mut credential, &config, believed(now));
        assert_eq!(numbers(&credential), [3, 4]);
    }

    #[test]
    fn the_youngest_of_four_sent_in_vain_is_sent_again_unless_it_is_compromised() {
        let now = fixture::now();
        let mut credential = credential(&[5, 4, 3, 2, 1], now);
        let youngest = |of: &Credential| youngest_in_vain(of).map(|it| it.number);
        for index in 1..4 {
            credential.versions[index].abandoned = true;
        }
        assert_eq!(youngest(&credential), None, "three");
        credential.versions[4].abandoned = true;
        assert_eq!(youngest(&credential), Some(5));
        let compromised = Compromise {
            incident_id: String::from("INC-1"),
            reset_by: String::from("e-1"),
            reset_at: now,
        };
        credential.versions[4].compromised = Some(compromised);
        assert_eq!(youngest(&credential), Some(4));
        credential.versions[3].source = Some(1);
        assert_eq!(youngest(&credential), Some(3), "not a rollback's");
    }

    /// The last but one by position may be a candidate that was given up.
    #[test]
    fn the_version_before_the_current_one_stays_whatever_was_abandoned_since() {
        let now = fixture::now();
        let config = MountConfig {
            max_versions: 2,
            ..MountConfig::default()
        };
        let mut credential = credential(&[400, 300, 200, 150, 100], now);
        credential.versions[3].abandoned = true;
        credential.previous = Some(2);
        prune(&mut credential, &config, believed(now));
        assert_eq!(numbers(&credential), [2, 5]);
    }

    #[test]
    fn young_versions_stay_up_to_thirty() {
        let now = fixture::now();
        let config = MountConfig {
            max_versions: 2,
            ..MountConfig::default()
        };
        let mut many = credential(&[1; 40], now);
        prune(&mut many, &config, believed(now));
        assert_eq!(many.versions.len(), 30);
    }

    #[test]
    fn a_doubtful_version_stays_until_a_later_proof_and_thirty_days() {
        let now = fixture::now();
        let config = MountConfig {
            max_versions: 2,
            ..MountConfig::default()
        };
        let mut kept = credential(&[400, 300, 200, 100], now);
        let sent = now - TimeDelta::days(29);
        kept.versions[0].doubtful = true;
        kept.versions[0].last_sent_at = Some(sent);
        kept.versions[3].verified_at = Some(now);
        let mut later = kept.clone();
        prune(&mut kept, &config, believed(now));
        assert_eq!(numbers(&kept), [1, 3, 4]);
        prune(&mut later, &config, believed(now + TimeDelta::days(2)));
        assert_eq!(numbers(&later), [3, 4]);
    }
}
