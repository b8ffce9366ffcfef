//! Passwords that were tried while their count could not be stored.
//!
//! How often somebody may have a password compared is counted in the tenant's record. While storage
//! takes no write each try would be the first: so those are counted here, in memory, as long as
//! they would count there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::tenant::TenantName;

/// How long a try counts.
const COUNTS: TimeDelta = TimeDelta::days(1);
/// Tries that are kept of one tenant: more than may be made.
const MOST: usize = 64;

/// The tries of each tenant that are in no record.
#[derive(Debug, Default)]
pub(super) struct UnstoredTries {
    // A blocking mutex: held only to count.
    tenants: Mutex<BTreeMap<String, Vec<DateTime<Utc>>>>,
}

impl UnstoredTries {
    /// Returns how many there were within a day.
    pub(super) fn count(&self, tenant: &TenantName, now: DateTime<Utc>) -> u32 {
        let tenants = self.lock();
        let tries = tenants.get(tenant.as_str());
        let recent = tries.into_iter().flatten().filter(|at| counts(**at, now));
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// Counts one more.
    pub(super) fn note(&self, tenant: &TenantName, now: DateTime<Utc>) {
        let mut tenants = self.lock();
        tenants.retain(|_, tries| {
            tries.retain(|at| counts(*at, now));
            !tries.is_empty()
        });
        let tries = tenants.entry(tenant.as_str().to_owned()).or_default();
        if tries.len() < MOST {
            tries.push(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<DateTime<Utc>>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counts(at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - at < COUNTS
}
