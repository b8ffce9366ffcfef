//! Changes of the keyring, and where its versions are in use.
//!
//! A version is removed only after a scan that nothing can slip past. Every record is read under
//! its tenant's lock; whoever has that lock later seals with the newest version, which is in memory
//! since before the scan began. Tenants that are about to be stored for the first time are not
//! listed yet: they are found by the locks they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::Error;
use super::keys::{self, Found};
use super::mount_change::keyring_state;
use super::storage::{self, KEYRING, TENANTS};
use super::tenant::TenantName;
use super::{Engine, joined};
use crate::audit::{Event, EventName, NewEvent, Outcome};
use crate::crypto::{Keyring, KeyringVersion};
use crate::logical::Mount;

/// How many tenants are listed at once.
const PAGE: usize = 200;

/// Where the versions are in use, as far as was looked.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// How many of the tenants looked at depend on each version.
    pub(super) tenants: BTreeMap<u32, u64>,
    /// How many notification channels depend on each version; looked at with the last tenants.
    pub(super) channels: BTreeMap<u32, u64>,
    /// The versions that `config/audit` depends on; looked at with the last tenants.
    pub(super) audit: BTreeSet<u32>,
    /// How many were looked at.
    pub(super) scanned: u64,
    /// Those that could not be read.
    pub(super) unreadable: Vec<String>,
    /// The last one looked at, unless it is the last there is.
    pub(super) next: Option<String>,
}

/// What a trim did.
#[derive(Debug)]
pub(super) struct Trimmed {
    pub(super) removed: Vec<u32>,
    pub(super) left: Vec<KeyringVersion>,
    /// `None` if there was nothing to remove.
    pub(super) event: Option<Event>,
}

impl Engine {
    /// Adds a version to the keyring; everything is sealed by it from then on.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(super) async fn rotate_keyring(
        &self,
        mount: &Mount,
        mut event: NewEvent,
    ) -> Result<(Arc<Keyring>, Event), Error> {
        let _guard = self.mount_lock.lock("keyring").await;
        self.require_active(mount).await?;
        let found = keys::load_to_change(&*mount.storage, &self.guard, self.clock()).await?;
        let next = found.rotated(self.clock().now())?;
        event.version = Some(next.latest().into());
        event.previous_version = Some(found.keyring.latest().into());
        self.finish_keyring_changes(mount, &found).await?;
        let begun = self.begin_keyring_change(mount, &found, &event).await?;
        let stored = keys::store_rotated(&*mount.storage, &found, &next).await;
        let next = Arc::new(next);
        let told = self
            .tell_change(mount, &next, (event, &begun), &stored)
            .await;
        stored?;
        Ok((next, told?))
    }

    /// Takes over a storage that another mount has made; `None` if it is this mount's.
    ///
    /// # Errors
    ///
    /// A 400 `confirm_mismatch` unless `confirm` is the other mount; a 409 `keyring_damaged`.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(super) async fn adopt_storage(
        &self,
        mount: &Mount,
        confirm: &str,
        event: NewEvent,
    ) -> Result<Option<Event>, Error> {
        let _guard = self.mount_lock.lock("keyring").await;
        self.require_active_anywhere(mount).await?;
        let storage = &*mount.storage;
        let before = self.guard.before_read();
        let Some(found) = keys::read(storage).await? else {
            return Ok(None);
        };
        let mine = self.guard.mount_uuid();
        let Some(other) = found.foreign_to(mine) else {
            self.guard.judge(before, None, self.clock().now())?;
            // It may have been adopted by a request that could not tell it.
            let told = self.finish_keyring_changes(mount, &found).await?;
            return Ok(told.filter(|it| it.event == EventName::StorageAdopted));
        };
        if other != confirm {
            return Err(Error::invalid(
                "confirm_mismatch",
                format!("`confirm` must name the mount that made this storage, which is {other}."),
            ));
        }
        found.require_undamaged()?;
        let next = found.adopted(mine, self.clock().now());
        let adopting = self.guard.adopting();
        let begun = self.begin_keyring_change(mount, &found, &event).await?;
        let stored = keys::store_adopted(storage, &found, &next).await;
        let next = Arc::new(next);
        let told = self
            .tell_change(mount, &next, (event, &begun), &stored)
            .await;
        drop(adopting);
        stored?;
        told.map(Some)
    }

    /// Removes every version but the newest, after a scan of all records.
    ///
    /// # Errors
    ///
    /// A 409 if an older version is in use or that cannot be told; nothing was removed then.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(super) async fn trim_keyring(
        &self,
        mount: &Mount,
        mut event: NewEvent,
    ) -> Result<Trimmed, Error> {
        self.require_active(mount).await?;
        let keyring = self.keyring_for_writing(mount).await?;
        let latest = keyring.latest();
        if keyring.versions().all(|it| it.version >= latest) {
            return Ok(Trimmed {
                removed: Vec::new(),
                left: keyring.versions().collect(),
                event: None,
            });
        }
        self.require_rewrapped(mount, latest).await?;
        self.require_unused(mount, latest).await?;

        let _guard = self.mount_lock.lock("keyring").await;
        self.require_active(mount).await?;
        let found = keys::load_to_change(&*mount.storage, &self.guard, self.clock()).await?;
        // A rotation during the scan added a version; what the scan found holds all the same.
        let next = found.trimmed(latest);
        let left: Vec<KeyringVersion> = next.versions().collect();
        let stays = |version| left.iter().any(|it| it.version == version);
        let before = found.keyring.versions().map(|it| it.version);
        let removed = before.filter(|version| !stays(*version)).collect();
        event.version = Some(latest.into());
        self.finish_keyring_changes(mount, &found).await?;
        let begun = self.begin_keyring_change(mount, &found, &event).await?;
        let stored = keys::store_trimmed(&*mount.storage, &found, &next).await;
        let told = self
            .tell_change(mount, &Arc::new(next), (event, &begun), &stored)
            .await;
        stored?;
        Ok(Trimmed {
            removed,
            left,
            event: Some(told?),
        })
    }

    /// Looks at up to `limit` tenants behind `after` for the versions they depend on.
    pub(super) async fn keyring_usage(
        &self,
        mount: &Mount,
        after: &str,
        limit: usize,
    ) -> Result<Usage, Error> {
        let names = mount.storage.list_page(TENANTS, after, limit).await?;
        let mut usage = Usage::default();
        for name in &names {
            usage.scanned += 1;
            match self.sealed_by(mount, name).await {
                Ok(versions) => {
                    for version in versions {
                        *usage.tenants.entry(version).or_default() += 1;
                    }
                }
                Err(Error::Entry { .. }) => usage.unreadable.push(name.clone()),
                Err(error) => return Err(error),
            }
        }
        if names.len() == limit {
            usage.next = names.into_iter().next_back();
            return Ok(usage);
        }
        for (key, versions) in self.sealed_channels(mount).await? {
            match versions {
                Some(versions) => {
                    for version in versions {
                        *usage.channels.entry(version).or_default() += 1;
                    }
                }
                None => usage.unreadable.push(key),
            }
        }
        match self.sealed_audit_access(mount).await? {
            Some(versions) => usage.audit = versions,
            None => usage.unreadable.push(storage::AUDIT_ACCESS.to_owned()),
        }
        Ok(usage)
    }

    /// Stores the event of a change of the keyring before it is made.
    async fn begin_keyring_change(
        &self,
        mount: &Mount,
        found: &Found,
        event: &NewEvent,
    ) -> Result<String, Error> {
        let before = (KEYRING, keyring_state(found));
        self.begin_change(mount, &found.keyring, event, before)
            .await
    }

    /// Puts the changed keyring into memory and stores the event of its end. What is done by half
    /// is completed by the next write, and told then.
    async fn tell_change(
        &self,
        mount: &Mount,
        next: &Arc<Keyring>,
        (mut event, begun): (NewEvent, &str),
        stored: &Result<(), Error>,
    ) -> Result<Event, Error> {
        if let Err(error) = stored {
            // Done by half, perhaps: the next request looks.
            self.keyring.forget();
            self.open_changes.want();
            let halfway = |found: Option<Found>| found.is_none_or(|it| it.is_halfway());
            if keys::read(&*mount.storage).await.map_or(true, halfway) {
                // How it ends is told when it has.
                return Err(error.clone());
            }
            event.outcome = Outcome::Failure;
            event.error_code = Some(error.code().to_owned());
        } else {
            joined::note_stored();
            self.replace_keyring(next);
            event.outcome = Outcome::Success;
        }
        let told = self.end_change(mount, next, &event, begun).await;
        if told.is_err() {
            self.open_changes.want();
        }
        told
    }

    /// Refuses while the rewrap is under way.
    async fn require_rewrapped(&self, mount: &Mount, latest: u32) -> Result<(), Error> {
        let progress = self.rewrap_progress(mount).await?;
        let finished = progress.is_some_and(|it| it.version == latest && it.finished_at.is_some());
        if finished {
            return Ok(());
        }
        Err(Error::conflict(
            "rewrap_unfinished",
            "the stored secrets are being encrypted with the newest key, 200 tenants a minute. \
             Nothing was removed. Read config/keyring for the progress and repeat the request \
             when `rewrap.finished_at` is set.",
        ))
    }

    /// Refuses unless every stored secret is sealed by `latest` or a newer version.
    async fn require_unused(&self, mount: &Mount, latest: u32) -> Result<(), Error> {
        // In this order: a tenant that is not listed yet and was not held has the newest keyring.
        for name in self.tenant_locks.held() {
            self.require_unused_by(mount, &name, latest).await?;
        }
        let mut after = String::new();
        loop {
            let names = mount.storage.list_page(TENANTS, &after, PAGE).await?;
            for name in &names {
                self.require_unused_by(mount, name, latest).await?;
            }
            match names.into_iter().next_back() {
                Some(last) => after = last,
                None => break,
            }
        }
        self.require_unused_by_channels(mount, latest).await?;
        self.require_unused_by_audit_access(mount, latest).await
    }

    async fn require_unused_by_audit_access(
        &self,
        mount: &Mount,
        latest: u32,
    ) -> Result<(), Error> {
        match self.sealed_audit_access(mount).await? {
            Some(versions) if versions.iter().all(|version| *version >= latest) => Ok(()),
            Some(_) => {
                self.restart_rewrap(mount, latest).await?;
                Err(Error::conflict(
                    "rewrap_unfinished",
                    "config/audit: its secret is still encrypted with an older key. Nothing was \
                     removed. Everything is looked at again: repeat the request when \
                     `rewrap.finished_at` of config/keyring is set. If it is named there as \
                     unreadable, write config/audit with its secret again.",
                ))
            }
            None => Err(Error::conflict(
                "audit_config_unreadable",
                "config/audit cannot be read. It may need any of the keys, so nothing was \
                 removed. Delete it and write it again, or restore the entry from a snapshot, and \
                 repeat the request.",
            )),
        }
    }

    async fn require_unused_by_channels(&self, mount: &Mount, latest: u32) -> Result<(), Error> {
        for (key, versions) in self.sealed_channels(mount).await? {
            match versions {
                Some(versions) if versions.iter().all(|version| *version >= latest) => {}
                Some(_) => {
                    self.restart_rewrap(mount, latest).await?;
                    return Err(Error::conflict(
                        "rewrap_unfinished",
                        format!(
                            "{key}: its secret is still encrypted with an older key. Nothing was \
                             removed. Everything is looked at again: repeat the request when \
                             `rewrap.finished_at` of config/keyring is set. If it is named there \
                             as unreadable, write the channel again or delete it."
                        ),
                    ));
                }
                None => {
                    return Err(Error::conflict(
                        "channel_unreadable",
                        format!(
                            "{key}: the channel cannot be read. It may need any of the keys, so \
                             nothing was removed. Delete the channel, or restore the entry from a \
                             snapshot, and repeat the request."
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    async fn require_unused_by(&self, mount: &Mount, name: &str, latest: u32) -> Result<(), Error> {
        let guard = self.tenant_locks.lock(name).await;
        let versions = self.sealed_by(mount, name).await;
        drop(guard);
        match versions {
            Ok(versions) if versions.iter().all(|version| *version >= latest) => Ok(()),
            Ok(_) => {
                self.restart_rewrap(mount, latest).await?;
                Err(Error::conflict(
                    "rewrap_unfinished",
                    format!(
                        "a secret of the tenant {name} is still encrypted with an older key. \
                         Nothing was removed. All tenants are looked at again: repeat the request \
                         when `rewrap.finished_at` of config/keyring is set. If it names the \
                         tenant as unreadable, its secrets have to be written anew."
                    ),
                ))
            }
            Err(Error::Entry { key, why }) => Err(Error::conflict(
                "tenant_unreadable",
                format!(
                    "{key}: {why}. It may need any of the keys, so nothing was removed. Restore \
                     the entry from a snapshot, or remove it through sys/raw, and repeat the \
                     request."
                ),
            )),
            Err(error) => Err(error),
        }
    }

    /// Returns the versions that a tenant's record depends on.
    async fn sealed_by(&self, mount: &Mount, name: &str) -> Result<BTreeSet<u32>, Error> {
        let key = storage::tenant_key(name);
        let Some(entry) = mount.storage.get(&key).await? else {
            return Ok(BTreeSet::new());
        };
        if TenantName::parse(name).is_err() {
            return Err(Error::Entry {
                key,
                why: "no tenant has such a name",
            });
        }
        storage::decode_tenant(&key, &entry.value)?;
        Ok(storage::sealed_by(&entry.value))
    }
}
