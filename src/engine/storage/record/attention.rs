//! What a person has to look at, and whether ticks have to know of a tenant at all.

use chrono::{DateTime, Utc};

use super::{Credential, TenantRecord};

/// After so many failures in a row a person has to look.
pub const ATTENTION_AFTER: u32 = 3;

/// The code of a change that waits for the audit devices.
pub const HELD_BACK: &str = "audit_held_back";

/// The code of a credential whose current password was marked by a reset that is not done.
pub(super) const COMPROMISED_LIVE: &str = "compromised_live";

/// Something that does not pass by itself, or has not for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention<'a> {
    /// The stable code.
    pub code: &'a str,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl TenantRecord {
    /// Returns the gravest thing that a person has to look at, if any.
    #[must_use]
    pub fn attention(&self) -> Option<Attention<'_>> {
        let credential = self.live_credential();
        if let Some(since) = credential.and_then(compromised_since) {
            return Some(Attention {
                code: COMPROMISED_LIVE,
                since,
            });
        }
        if let Some(drift) = credential.and_then(|kept| kept.drift.as_ref()) {
            return Some(Attention {
                code: &drift.code,
                since: drift.since,
            });
        }
        let failed = self.last_error.as_ref();
        if let Some(intent) = &self.intent {
            if intent.may_be_held() {
                return Some(Attention {
                    code: HELD_BACK,
                    since: intent.announced_at,
                });
            }
            let stopped = intent.sends > 0 && self.open.settle_at.is_none();
            if stopped || self.open.settle_failures >= ATTENTION_AFTER {
                return Some(Attention {
                    code: failed.map_or("unsettled", |failed| &failed.code),
                    since: intent.announced_at,
                });
            }
            return None;
        }
        let credential = credential?;
        if self.open.retry_failures >= ATTENTION_AFTER
            && let Some(failed) = failed
        {
            return Some(Attention {
                code: &failed.code,
                since: failed.since,
            });
        }
        let tokens = credential.app_tokens.as_ref()?;
        (tokens.failures >= ATTENTION_AFTER).then_some(Attention {
            code: "app_tokens_left",
            since: credential.last_rotated,
        })
    }

    /// Reports whether ticks and `status` have to find this record without reading every record:
    /// there is something to do before the next check, or to be seen.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.intent.is_some()
            || self.next_work(self.created_at).is_some()
            || self.attention().is_some()
            || self.pause.is_some()
    }
}

/// Returns when the password that logs in, as far as is known, was marked by an emergency reset.
fn compromised_since(credential: &Credential) -> Option<DateTime<Utc>> {
    let live = match &credential.drift {
        Some(drift) => credential.version(drift.live_version?)?,
        None => credential.current_version()?,
    };
    live.compromised.as_ref().map(|marked| marked.reset_at)
}

#[cfg(test)]
mod tests {
    use super::super::{Compromise, Drift, LastError};
    use super::*;
    use crate::engine::storage::{decode_tenant, fixture};

    fn record() -> TenantRecord {
        let mut record = decode_tenant("tenant/acme", fixture::TENANT_V3).unwrap();
        record.intent = None;
        record.pause = None;
        record.open = super::super::OpenWork::default();
        record.last_error = None;
        let credential = record.credential.as_mut().unwrap();
        credential.deleted = None;
        credential.drift = None;
        credential.rotate_at = None;
        credential.app_tokens = None;
        record
    }

    #[test]
    fn a_failure_is_for_a_person_when_it_does_not_pass() {
        let mut record = record();
        assert_eq!(record.attention(), None);
        assert!(!record.is_open());
        record.last_error = Some(LastError {
            code: String::from("mailu_tls"),
            since: fixture::now(),
            attempts: 2,
            tls_fault: None,
        });
        record.open.retry_failures = ATTENTION_AFTER - 1;
        assert_eq!(record.attention(), None);
        record.open.retry_failures = ATTENTION_AFTER;
        let attention = record.attention().unwrap();
        assert_eq!(
            (attention.code, attention.since),
            ("mailu_tls", fixture::now())
        );
        assert!(record.is_open());
    }

    #[test]
    fn a_compromised_password_that_logs_in_comes_first() {
        let mut record = record();
        let reset_at = fixture::now();
        let credential = record.credential.as_mut().unwrap();
        let current = credential.current.unwrap();
        let marked = Compromise {
            incident_id: String::from("INC-1"),
            reset_by: String::from("somebody"),
            reset_at,
        };
        let version = credential.versions.iter_mut();
        version
            .filter(|version| version.number == current)
            .for_each(|version| version.compromised = Some(marked.clone()));
        // A reset that waits.
        record.intent = decode_tenant("tenant/acme", fixture::TENANT_V3)
            .unwrap()
            .intent;
        assert!(record.intent.is_some());
        let attention = record.attention().unwrap();
        assert_eq!(
            (attention.code, attention.since),
            (COMPROMISED_LIVE, reset_at)
        );
        // It has become live again.
        let credential = record.credential.as_mut().unwrap();
        let drift = |live_version| Drift {
            code: String::from("older_version"),
            live_version,
            since: fixture::now(),
            set_again: false,
        };
        credential.drift = Some(drift(Some(current)));
        assert_eq!(record.attention().unwrap().code, COMPROMISED_LIVE);
        record.credential.as_mut().unwrap().drift = Some(drift(None));
        assert_eq!(record.attention().unwrap().code, "older_version");
    }

    #[test]
    fn drift_is_always_for_a_person() {
        let mut record = record();
        record.credential.as_mut().unwrap().drift = Some(Drift {
            code: String::from("foreign_password"),
            live_version: None,
            since: fixture::now(),
            set_again: false,
        });
        assert_eq!(record.attention().unwrap().code, "foreign_password");
    }
}
