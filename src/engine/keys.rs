//! The mount's keyring in storage: created once, copied twice, never guessed.
//!
//! Two entries hold the same bytes. A keyring is created only after both are definitely absent
//! *and* no tenant exists, under the mount's lock, and is used only after it was read back: a new
//! keyring over old tenants would make every stored password unreadable for ever.

use super::error::Error;
use super::storage::{KEYRING, KEYRING_COPY, TENANTS};
use crate::clock::Clock;
use crate::crypto::{Keyring, KeyringError, Sensitive};
use crate::logical::{Storage, StorageEntry};

/// A keyring as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) keyring: Keyring,
    /// The copy that was absent, as a crash during the creation leaves it.
    missing: Option<&'static str>,
}

/// Loads the keyring; `None` if the mount never had one.
pub(crate) async fn load(storage: &dyn Storage) -> Result<Option<Found>, Error> {
    let whole = |keyring, missing| Ok(Some(Found { keyring, missing }));
    let first = read_copy(storage, KEYRING).await?;
    let second = read_copy(storage, KEYRING_COPY).await?;
    match (first, second) {
        (Copy::Good(keyring), Copy::Absent) => whole(keyring, Some(KEYRING_COPY)),
        (Copy::Absent, Copy::Good(keyring)) => whole(keyring, Some(KEYRING)),
        (Copy::Good(keyring), Copy::Damaged) | (Copy::Damaged, Copy::Good(keyring)) => {
            whole(keyring, None)
        }
        (Copy::Good(first), Copy::Good(second)) => {
            // The copy is written second: it may lack the newest version, never have more.
            if first.extends(&second) {
                whole(first, None)
            } else {
                Err(Error::Keyring(
                    "the keyring and its copy contradict each other",
                ))
            }
        }
        (Copy::Absent, Copy::Absent) => {
            if storage.list_page(TENANTS, "", 1).await?.is_empty() {
                Ok(None)
            } else {
                Err(Error::Keyring(
                    "the keyring is missing although tenants are stored",
                ))
            }
        }
        (Copy::Damaged, Copy::Absent | Copy::Damaged) | (Copy::Absent, Copy::Damaged) => {
            Err(Error::Keyring("the keyring is damaged"))
        }
    }
}

/// Writes the copy that is missing, if one is. A damaged one is left to be looked at. The caller
/// holds the mount's lock and is on the active node.
pub(crate) async fn complete(storage: &dyn Storage, found: Found) -> Keyring {
    if let Some(missing) = found.missing {
        let bytes = found.keyring.to_bytes();
        // The keyring itself is whole: the next write tries again.
        if let Err(error) = write_and_read_back(storage, missing, &bytes).await {
            tracing::warn!(key = missing, %error, "a missing copy of the keyring was not written");
        }
    }
    found.keyring
}

/// Creates the first keyring. The caller holds the mount's lock, is on the active node, and
/// [`load`] just said `None`.
pub(crate) async fn create(storage: &dyn Storage, clock: &dyn Clock) -> Result<Keyring, Error> {
    let keyring = Keyring::generate(clock.now())?;
    let bytes = keyring.to_bytes();
    write_and_read_back(storage, KEYRING, &bytes).await?;
    write_and_read_back(storage, KEYRING_COPY, &bytes).await?;
    Ok(keyring)
}

enum Copy {
    Absent,
    Damaged,
    Good(Keyring),
}

async fn read_copy(storage: &dyn Storage, key: &str) -> Result<Copy, Error> {
    let Some(entry) = storage.get(key).await? else {
        return Ok(Copy::Absent);
    };
    match Keyring::from_bytes(&entry.value) {
        Ok(keyring) => Ok(Copy::Good(keyring)),
        // Whatever the other copy says: this release must not work with half of what there is.
        Err(KeyringError::Newer(_)) => Err(Error::Keyring(
            "the keyring was written by a newer version of this plugin",
        )),
        Err(KeyringError::Foreign | KeyringError::Damaged) => Ok(Copy::Damaged),
    }
}

async fn write_and_read_back(
    storage: &dyn Storage,
    key: &'static str,
    bytes: &Sensitive<Vec<u8>>,
) -> Result<(), Error> {
    let entry = StorageEntry {
        key: key.to_owned(),
        value: bytes.expose().clone(),
        seal_wrap: true,
    };
    // An error here may hide a write that took effect: what is read back decides.
    // Only where nothing is: a write of an earlier attempt that lands late must not replace it.
    let written = storage.compare_and_put(entry, None).await;
    let stored = storage.get(key).await?;
    if stored.is_some_and(|entry| &entry.value == bytes.expose()) {
        return Ok(());
    }
    written?;
    Err(Error::Keyring(
        "the new keyring did not read back as it was written",
    ))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::clock::ManualClock;
    use crate::logical::MemoryStorage;

    #[tokio::test]
    async fn a_keyring_of_a_newer_release_is_not_taken_for_damage() {
        let storage = MemoryStorage::new();
        let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH);
        let keyring = create(&storage, &clock).await.unwrap();
        let mut newer = keyring.to_bytes().expose().clone();
        // The last byte of the schema, behind eight of magic.
        newer[11] += 1;
        let entry = StorageEntry {
            key: KEYRING.to_owned(),
            value: newer,
            seal_wrap: true,
        };
        storage.put(entry).await.unwrap();
        let error = load(&storage).await.unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}
