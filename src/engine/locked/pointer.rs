//! The pointers that lead to a record: open work, the due day, the mail account.

use std::collections::BTreeMap;

use super::account::AccountOwner;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::storage::record::TenantRecord;
use crate::engine::{schedule, storage};
use crate::provider::EmailAddress;

/// The pointers a record needs, with their values.
pub(super) fn pointers(
    record: &TenantRecord,
    config: &MountConfig,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut wanted = BTreeMap::new();
    let tenant = record.tenant.as_str();
    let nothing = || b"{}".to_vec();
    if record.intent.is_some() || !record.open.is_empty() {
        wanted.insert(storage::open_key(tenant), nothing());
    }
    let due = record
        .live_credential()
        .and_then(|kept| schedule::due_day(kept, config));
    if let Some(day) = due {
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
