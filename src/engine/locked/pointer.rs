//! The pointers that lead to a record: open work, the due day, the mail account.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LockedTenant;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::storage::record::TenantRecord;
use crate::logical::StorageEntry;
use crate::provider::EmailAddress;

/// The pointers a record needs, with their values; derived from the record alone, so that those of
/// the stored record are known whatever the settings are now.
pub(super) fn pointers(record: &TenantRecord) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut wanted = BTreeMap::new();
    let tenant = record.tenant.as_str();
    let nothing = || b"{}".to_vec();
    if record.intent.is_some() || record.next_work(record.created_at).is_some() {
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

impl LockedTenant {
    /// Puts the pointer to open work back if the record needs one: it may have got lost.
    pub(in crate::engine) async fn restore_work_pointer(&self) -> Result<(), Error> {
        let key = storage::open_key(self.name.as_str());
        let Some(value) = self.pointers.get(&key) else {
            return Ok(());
        };
        let entry = StorageEntry::new(key, value.clone());
        Ok(self.mount.storage.put(entry).await?)
    }

    /// Removes the pointer to open work if the record, as stored, does not need it: somebody died
    /// between two Puts.
    pub(in crate::engine) async fn remove_stale_work(&self) {
        let key = storage::open_key(self.name.as_str());
        self.remove_unneeded([key].iter()).await;
    }
}
