//! The pointers that lead to a record: open work, the due day, the mail account.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::storage::record::{Credential, TenantRecord};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;
use crate::provider::EmailAddress;

/// The pointers a record needs, with their values; derived from the record alone, so that those of
/// the stored record are known whatever the settings are now.
pub(super) fn pointers(record: &TenantRecord) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut wanted = BTreeMap::new();
    let tenant = record.tenant.as_str();
    let nothing = || b"{}".to_vec();
    if record.is_open() {
        wanted.insert(storage::open_key(tenant), nothing());
    }
    if let Some(day) = record.live_credential().and_then(|kept| kept.due_day) {
        wanted.insert(storage::due_key(day, tenant), nothing());
    }
    if let Some((key, value)) = account_pointer(record)? {
        wanted.insert(key, value);
    }
    Ok(wanted)
}

/// Reports whether a credential's due day lies before the first one that is looked at.
pub(super) fn is_missed(credential: Option<&Credential>, oldest: NaiveDate) -> bool {
    let day = credential.and_then(|kept| kept.due_day);
    let unplanned = credential.is_some_and(|kept| kept.next_rotation.is_some() && day.is_none());
    unplanned || day.is_some_and(|day| day < oldest)
}

impl Engine {
    /// Reports whether a pointer that a record needs is not there. Asks storage for each of them,
    /// three at most, and takes no lock.
    pub(in crate::engine) async fn lacks_pointers(
        &self,
        mount: &Mount,
        record: &TenantRecord,
        oldest: NaiveDate,
    ) -> Result<bool, Error> {
        if is_missed(record.live_credential(), oldest) {
            return Ok(true);
        }
        for (key, value) in pointers(record)? {
            let found = mount.storage.get(&key).await?;
            if found.is_none_or(|entry| entry.value != value) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the tenant whom the pointer of a mail account names but whose record does not need
    /// it; `None` if it is as it should be.
    pub(in crate::engine) async fn stale_owner(
        &self,
        mount: &Mount,
        key: &str,
    ) -> Result<Option<TenantName>, Error> {
        let Some(entry) = mount.storage.get(key).await? else {
            return Ok(None);
        };
        let owner: AccountOwner = storage::decode(key, &entry.value)?;
        let name = TenantName::parse(&owner.tenant)?;
        let record = self.load_tenant(mount, &name).await?;
        let needed = match record.as_deref() {
            Some(record) => account_pointer(record)?.is_some_and(|(needed, _)| needed == key),
            None => false,
        };
        Ok((!needed).then_some(name))
    }
}

/// The pointer from the record's mail account back to the tenant.
pub(super) fn account_pointer(record: &TenantRecord) -> Result<Option<(String, Vec<u8>)>, Error> {
    let (Some(server), Some(credential)) = (&record.server, &record.credential) else {
        return Ok(None);
    };
    let folded = EmailAddress::parse(&credential.username)
        .map_or_else(|_| credential.username.clone(), |address| address.folded());
    let key = storage::account_key(&server.mailu_url, &folded);
    let owner = AccountOwner {
        tenant: record.tenant.clone(),
    };
    Ok(Some((key, storage::encode(&owner)?)))
}

/// Who owns a mail account.
#[derive(Serialize, Deserialize)]
pub(super) struct AccountOwner {
    pub(super) tenant: String,
}
