//! One mail account belongs to one tenant.

use super::LockedTenant;
use super::pointer::{AccountOwner, account_pointer};
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::tenant::TenantName;

impl LockedTenant {
    /// Claims the credential's mail account on the record's server for this tenant.
    ///
    /// # Errors
    ///
    /// A 409 `account_taken` if another tenant's record has it.
    pub(in crate::engine) async fn claim_account(&mut self) -> Result<(), Error> {
        let Some((key, _)) = account_pointer(&self.record)? else {
            return Ok(());
        };
        let guard = self.engine.account_locks.lock(&key).await;
        let owner = self.mount.storage.get(&key).await?;
        if let Some(entry) = owner {
            let owner: AccountOwner = storage::decode(&key, &entry.value)?;
            if owner.tenant != self.name.as_str() && self.owner_confirms(&owner, &key).await? {
                return Err(Error::conflict(
                    "account_taken",
                    "another tenant of this mount already owns this account on this Mailu \
                     server. Two tenants would rotate against each other; use that tenant.",
                ));
            }
        }
        self.accounts.push(guard);
        Ok(())
    }

    /// Removes the pointer of an account this tenant no longer has, unless another tenant has
    /// claimed the account meanwhile.
    pub(super) async fn release_account(&self, key: &str) -> Result<(), Error> {
        let _guard = self.engine.account_locks.lock(key).await;
        let Some(entry) = self.mount.storage.get(key).await? else {
            return Ok(());
        };
        let owner: AccountOwner = storage::decode(key, &entry.value)?;
        if owner.tenant == self.name.as_str() {
            self.mount.storage.delete(key).await?;
        }
        Ok(())
    }

    /// The pointer is only a hint: the owner is believed if its record says so.
    async fn owner_confirms(&self, owner: &AccountOwner, key: &str) -> Result<bool, Error> {
        let Ok(name) = TenantName::parse(&owner.tenant) else {
            return Ok(false);
        };
        let record = self.engine.load_tenant(&self.mount, &name).await?;
        let Some(record) = record else {
            return Ok(false);
        };
        Ok(account_pointer(&record)?.is_some_and(|(owned, _)| owned == key))
    }
}
