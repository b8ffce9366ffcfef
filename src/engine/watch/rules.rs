//! The rules, and what each makes of an event.

use chrono::{DateTime, Utc};

use super::settings::Rules;
use crate::audit::{Actor, Event, EventName, NewEvent, Outcome, Severity};
use crate::crypto;
use crate::engine::hint;
use crate::engine::rotation::STALE_STORAGE;
use crate::engine::storage::record::{MOST_TRIES, TenantRecord};

/// The code of a password that was given without `cas` and is not the imported one.
pub(crate) const PASSWORD_NEEDS_CAS: &str = "password_needs_cas";

/// Why an event is suspicious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// One entity looked at more passwords within an hour than is in order.
    ManyReveals,
    /// A look at a time when none is expected.
    RevealOutsideHours,
    /// An emergency reset for an incident whose number is none.
    IncidentUnmatched,
    /// Mailu refused one tenant's changes again and again.
    RepeatedRefusals,
    /// Somebody tries passwords to learn whether they are stored.
    PasswordTries,
    /// Somebody else writes the account, or storage went back in time.
    StaleStorage,
    /// A password that an emergency had replaced is live again.
    CompromisedLive,
}

impl Rule {
    /// Every rule.
    pub(crate) const ALL: [Self; 7] = [
        Self::ManyReveals,
        Self::RevealOutsideHours,
        Self::IncidentUnmatched,
        Self::RepeatedRefusals,
        Self::PasswordTries,
        Self::StaleStorage,
        Self::CompromisedLive,
    ];

    /// Returns the alert's `error_code`.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::ManyReveals => "many_reveals",
            Self::RevealOutsideHours => "reveal_outside_hours",
            Self::IncidentUnmatched => "incident_unmatched",
            Self::RepeatedRefusals => "repeated_refusals",
            Self::PasswordTries => "password_tries",
            Self::StaleStorage => STALE_STORAGE,
            Self::CompromisedLive => "compromised_live",
        }
    }

    const fn severity(self) -> Severity {
        match self {
            Self::ManyReveals | Self::StaleStorage | Self::CompromisedLive => Severity::Critical,
            Self::RevealOutsideHours
            | Self::IncidentUnmatched
            | Self::RepeatedRefusals
            | Self::PasswordTries => Severity::Warning,
        }
    }

    /// Prepares the alert because of an event. It has no facts of its own: who, why and for which
    /// incident are the event's, so that the suspect is its `user_id`.
    pub(crate) fn alert(self, cause: &Event) -> NewEvent {
        let actor = Actor {
            user_id: cause.user_id.clone(),
            display_name: cause.display_name.clone(),
            token: String::new(),
        };
        let mut alert = NewEvent::new(EventName::SuspiciousActivity, actor, cause.timestamp);
        alert.severity = self.severity();
        alert.outcome = Outcome::Failure;
        alert.error_code = Some(self.code().to_owned());
        alert.request_id.clone_from(&cause.request_id);
        alert.reason.clone_from(&cause.reason);
        alert.incident_id.clone_from(&cause.incident_id);
        // An alert about a change under way must not read as the end of it.
        if cause.outcome != Outcome::Started {
            alert.version = cause.version;
            alert.previous_version = cause.previous_version;
        }
        alert
    }
}

/// What the rules make of an event for which only the tenant's own record is needed. What they have
/// to remember of it, they keep there: the event itself may be gone from the record soon.
pub(crate) fn by_record(rules: &Rules, record: &mut TenantRecord, event: &Event) -> Vec<Rule> {
    let found = match event.event {
        EventName::SuspiciousActivity => None,
        EventName::Revealed => is_outside_hours(rules, record, event),
        EventName::DriftDetected if rules.settings.drift => grave_drift(record, event),
        _ if event.error_code.as_deref() == Some(PASSWORD_NEEDS_CAS) => are_tries(record, event),
        _ => are_repeated_refusals(rules, record, event),
    };
    found.into_iter().collect()
}

/// The last one of a day that is compared with anything.
fn are_tries(record: &TenantRecord, event: &Event) -> Option<Rule> {
    let tries = record.tally.tries(event.timestamp);
    (tries == MOST_TRIES).then_some(Rule::PasswordTries)
}

/// Reports whether an event is the alert about a drift that has an event of its own.
pub(crate) fn tells_of_drift(event: &Event) -> bool {
    let code = event.error_code.as_deref();
    let mut grave = [Rule::StaleStorage, Rule::CompromisedLive].into_iter();
    event.event == EventName::SuspiciousActivity && grave.any(|rule| code == Some(rule.code()))
}

/// Reports whether looks of one entity are too many.
pub(crate) fn are_many(rules: &Rules, reveals: usize) -> bool {
    let most = rules.settings.reveals_per_hour;
    most > 0 && u64::try_from(reveals).unwrap_or(u64::MAX) > most
}

/// Returns what to remember an alert about a reset by, if its incident's number is none. All
/// tenants of a batch have the same: that is one cause.
pub(crate) fn unmatched_incident(rules: &Rules, event: &Event) -> Option<String> {
    let pattern = rules.incident.as_ref()?;
    let incident = event.incident_id.as_deref().unwrap_or_default();
    if event.event != EventName::EmergencyResetStarted || pattern.is_match(incident) {
        return None;
    }
    let mut hash = crypto::sha256_hex(incident.as_bytes());
    hash.truncate(32);
    Some(format!("{} {hash}", Rule::IncidentUnmatched.code()))
}

fn is_outside_hours(rules: &Rules, record: &mut TenantRecord, event: &Event) -> Option<Rule> {
    let outside = rules.hours.is_outside(event.timestamp);
    let rule = outside.then_some(Rule::RevealOutsideHours)?;
    give(record, rule, &event.user_id, event.timestamp)
}

fn grave_drift(record: &TenantRecord, event: &Event) -> Option<Rule> {
    if event.error_code.as_deref() == Some(STALE_STORAGE) {
        return Some(Rule::StaleStorage);
    }
    let credential = record.credential.as_ref()?;
    let live = event.version.and_then(|live| credential.version(live))?;
    live.compromised.is_some().then_some(Rule::CompromisedLive)
}

fn are_repeated_refusals(rules: &Rules, record: &mut TenantRecord, event: &Event) -> Option<Rule> {
    let code = event.error_code.as_deref().unwrap_or_default();
    if !hint::is_refusal(code) {
        return None;
    }
    record.tally.note_refusal(event.timestamp);
    let many = are_many_refusals(rules, record, event.timestamp, 0);
    let rule = many.then_some(Rule::RepeatedRefusals)?;
    give(record, rule, "", event.timestamp)
}

/// Reports whether a failure that has no event yet is the refusal that is told as suspicious.
pub(crate) fn is_refusal_told(
    rules: &Rules,
    record: &TenantRecord,
    code: &str,
    now: DateTime<Utc>,
) -> bool {
    let given = record
        .tally
        .was_given(Rule::RepeatedRefusals.code(), "", now);
    hint::is_refusal(code) && are_many_refusals(rules, record, now, 1) && !given
}

fn are_many_refusals(
    rules: &Rules,
    record: &TenantRecord,
    now: DateTime<Utc>,
    more: usize,
) -> bool {
    let most = rules.settings.refusals_per_hour;
    let refusals = record.tally.refusals_before(now) + more;
    most > 0 && u64::try_from(refusals).unwrap_or(u64::MAX) > most
}

/// Gives an alert unless it was given within the hour.
fn give(record: &mut TenantRecord, rule: Rule, who: &str, now: DateTime<Utc>) -> Option<Rule> {
    if record.tally.was_given(rule.code(), who, now) {
        return None;
    }
    record.tally.note_alert(rule.code(), who, now);
    Some(rule)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::crypto::Keyring;
    use crate::engine::storage::fixture;
    use crate::engine::storage::record::Compromise;
    use crate::engine::watch::AlertSettings;

    struct Rig {
        record: TenantRecord,
        keyring: Keyring,
        now: DateTime<Utc>,
    }

    impl Rig {
        fn new() -> Self {
            let now = fixture::now();
            let mut record = TenantRecord::new("acme", String::from("i"), String::from("L"), now);
            record.credential = Some(fixture::credential(now));
            Self {
                record,
                keyring: Keyring::generate(now).unwrap(),
                now,
            }
        }

        /// Appends an event after some seconds, and the alerts it causes; returns their codes.
        fn append(
            &mut self,
            rules: &Rules,
            after: i64,
            prepare: impl FnOnce(&mut NewEvent),
        ) -> Vec<&'static str> {
            self.now += TimeDelta::seconds(after);
            let actor = Actor::caller("e-1", "alice");
            let mut event = NewEvent::new(EventName::RotationFailed, actor, self.now);
            prepare(&mut event);
            let log = &mut self.record.log;
            let event = log.append("acme", named(), &self.keyring, event);
            let found = by_record(rules, &mut self.record, &event);
            for rule in &found {
                let log = &mut self.record.log;
                let alert = rule.alert(&event);
                let alert = log.append("acme", named(), &self.keyring, alert);
                assert_eq!(
                    by_record(rules, &mut self.record, &alert),
                    [],
                    "no alert about alerts"
                );
            }
            found.into_iter().map(Rule::code).collect()
        }
    }

    fn named() -> (&'static str, String) {
        ("L", String::from("01K5P1Q2R3S4T5V6W7X8Y9Z0AB"))
    }

    fn rules(change: impl FnOnce(&mut AlertSettings)) -> Rules {
        let mut settings = AlertSettings::default();
        change(&mut settings);
        Rules::new(settings).unwrap()
    }

    #[test]
    fn the_refusal_after_the_last_that_is_in_order_is_told_once_an_hour() {
        let rules = rules(|it| it.refusals_per_hour = 2);
        let mut rig = Rig::new();
        let code = |code: &'static str| {
            move |event: &mut NewEvent| event.error_code = Some(code.to_owned())
        };
        let refused = || code("mailu_token_refused");
        assert!(rig.append(&rules, 0, refused()).is_empty());
        assert!(rig.append(&rules, 1, refused()).is_empty());
        assert!(rig.append(&rules, 1, code("mailu_unreachable")).is_empty());
        // The first is an hour old by now.
        assert!(rig.append(&rules, 3_598, code("mailu_conflict")).is_empty());
        assert_eq!(rig.append(&rules, 0, refused()), ["repeated_refusals"]);
        assert!(rig.append(&rules, 3_598, refused()).is_empty());
        assert!(rig.append(&rules, 1, refused()).is_empty());
        assert_eq!(rig.append(&rules, 1, refused()), ["repeated_refusals"]);
        // By a clock that was set back none of them is of the hour before.
        assert!(rig.append(&rules, -86_400, refused()).is_empty());
        let off = self::rules(|it| it.refusals_per_hour = 0);
        for _ in 0..5 {
            assert!(rig.append(&off, 86_400, refused()).is_empty());
        }
    }

    #[test]
    fn a_look_outside_the_hours_is_told_once_for_each_entity_and_hour() {
        // The fixture's Monday, 14:13.
        let rules = rules(|it| it.work_hours = vec![String::from("Mon 07:00-14:00")]);
        let mut rig = Rig::new();
        let look = |user: &'static str| {
            move |event: &mut NewEvent| {
                event.event = EventName::Revealed;
                event.actor = Actor::caller(user, "");
            }
        };
        assert_eq!(rig.append(&rules, 0, look("e-1")), ["reveal_outside_hours"]);
        assert!(rig.append(&rules, 60, look("e-1")).is_empty());
        assert_eq!(rig.append(&rules, 0, look("e-2")), ["reveal_outside_hours"]);
        assert_eq!(
            rig.append(&rules, 3_540, look("e-1")),
            ["reveal_outside_hours"]
        );
        let always = self::rules(|_| {});
        assert!(rig.append(&always, 7_200, look("e-1")).is_empty());
    }

    #[test]
    fn only_grave_drift_is_suspicious() {
        let rules = rules(|_| {});
        let mut rig = Rig::new();
        let credential = rig.record.credential.as_mut().unwrap();
        let mut compromised = fixture::version(1, rig.now);
        compromised.compromised = Some(Compromise {
            incident_id: String::from("INC-1"),
            reset_by: String::from("e-1"),
            reset_at: rig.now,
        });
        credential.versions = vec![compromised, fixture::version(2, rig.now)];
        let drift = |code: &'static str, live| {
            move |event: &mut NewEvent| {
                event.event = EventName::DriftDetected;
                event.error_code = Some(code.to_owned());
                event.version = live;
            }
        };
        let older = || drift("older_version", Some(1));
        assert_eq!(rig.append(&rules, 1, older()), ["compromised_live"]);
        let alert = rig.record.log.events().last().unwrap();
        assert_eq!(
            (alert.severity, alert.version),
            (Severity::Critical, Some(1))
        );
        assert_eq!(
            rig.append(&rules, 1, drift("stale_storage", Some(1))),
            ["stale_storage"]
        );
        assert!(
            rig.append(&rules, 1, drift("older_version", Some(2)))
                .is_empty()
        );
        assert!(
            rig.append(&rules, 1, drift("foreign_password", None))
                .is_empty()
        );
        let off = self::rules(|it| it.drift = false);
        assert!(rig.append(&off, 1, older()).is_empty());
    }

    #[test]
    fn a_reset_is_judged_by_the_whole_number_of_its_incident() {
        let mut rig = Rig::new();
        let none = rules(|_| {});
        let strict = rules(|it| it.incident_pattern = Some(String::from("INC-[0-9]+")));
        let mut judged = |incident: &'static str| {
            rig.append(&none, 1, |event| {
                event.event = EventName::EmergencyResetStarted;
                event.outcome = Outcome::Started;
                event.version = Some(2);
                event.incident_id = Some(incident.to_owned());
            });
            let event = rig.record.log.events().last().unwrap();
            let alert = Rule::IncidentUnmatched.alert(event);
            assert_eq!(alert.incident_id.as_deref(), Some(incident));
            assert_eq!(alert.version, None, "it is not the end of the reset");
            assert_eq!(unmatched_incident(&none, event), None);
            unmatched_incident(&strict, event)
        };
        assert_eq!(judged("INC-7"), None);
        let one = judged("just because").unwrap();
        assert_ne!(judged("INC-7 and more").unwrap(), one);
        assert_eq!(judged("just because").unwrap(), one);
    }

    #[test]
    fn more_than_what_is_in_order_are_many() {
        let rules = rules(|_| {});
        assert!(!are_many(&rules, 5));
        assert!(are_many(&rules, 6));
        assert!(!are_many(&self::rules(|it| it.reveals_per_hour = 0), 64));
    }
}
