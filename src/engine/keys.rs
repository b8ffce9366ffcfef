//! The keyring in storage: created once, kept twice, never guessed.
//!
//! Two entries hold the same bytes. A keyring is created only after both are definitely absent
//! *and* no tenant exists, under the mount's lock, and is used only after it was read back: a new
//! keyring over old tenants would make every stored password unreadable for ever.
//!
//! Every change replaces one entry, reads it back, and then does the other, so that each crash
//! leaves a state that [`load`] understands:
//!
//! - a rotation writes `keyring` first: it may have a version that `keyring-copy` lacks. Such a
//!   version opens and does not seal, so nothing depends on it before both have it;
//! - a trim writes `keyring-copy` first: it may lack old versions, of which a scan has shown that
//!   nothing was sealed by them. [`load`] takes these states either way round, because a write
//!   that was given up may still land.
//!
//! Whoever writes next makes both entries what the larger one is.
//!
//! Beside the keys stands which mount they were made for, and every reading is judged by it: see
//! [`Guard`]. A keyring that was stored by a mount whose host did not say gets it by the next write.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::Error;
use super::guard::Guard;
use super::storage::{KEYRING, KEYRING_COPY, TENANTS};
use crate::clock::Clock;
use crate::crypto::{Keyring, KeyringError, Maker, RandomError, Sensitive};
use crate::logical::{Storage, StorageEntry, StorageError};

/// How long to wait before asking a storage whose connection broke what it holds: a write may
/// still be on its way.
const AFTER_BROKEN_CONNECTION: Duration = Duration::from_secs(10);

/// A keyring as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Opens whatever was sealed; seals with a version that no whole copy lacks.
    pub(crate) keyring: Keyring,
    /// The larger of the two copies, sealing with its newest version.
    whole: Keyring,
    first: Copy,
    second: Copy,
}

/// What an entry holds.
#[derive(Debug)]
enum Copy {
    Absent,
    Damaged,
    Good(Keyring),
}

impl Found {
    /// One whole copy serves alone.
    fn one(keyring: Keyring, first: Copy, second: Copy) -> Self {
        Self {
            whole: keyring.clone(),
            keyring,
            first,
            second,
        }
    }

    /// Two equal copies, of which a change will say which mount they are for.
    fn both_for(keyring: Keyring, guard: &Guard) -> Self {
        let mut found = Self::both(keyring);
        found.make_for(guard);
        found
    }

    /// Two equal copies.
    fn both(keyring: Keyring) -> Self {
        let (first, second) = (keyring.clone(), keyring.clone());
        Self::one(keyring, Copy::Good(first), Copy::Good(second))
    }

    /// Two whole copies: equal, or as an interrupted change leaves them.
    fn two(first: Keyring, second: Keyring) -> Result<Self, Error> {
        let (larger, smaller) = if first.extends(&second) {
            (&first, &second)
        } else if second.extends(&first) && second.latest() == first.latest() {
            (&second, &first)
        } else {
            return Err(Error::Keyring(
                "the keyring and its copy contradict each other",
            ));
        };
        // An interrupted change may have left only one of them with its maker.
        let maker = first.maker().or(second.maker()).cloned();
        let larger = larger.clone().made_for(maker);
        Ok(Self {
            keyring: larger.clone().sealing_with_at_most(smaller.latest()),
            whole: larger,
            first: Copy::Good(first),
            second: Copy::Good(second),
        })
    }

    /// Returns the keyring after a rotation: with one version more, or with the one that an
    /// interrupted rotation left, which nothing was sealed by.
    pub(crate) fn rotated(&self, now: DateTime<Utc>) -> Result<Keyring, RandomError> {
        if self.whole.latest() > self.keyring.latest() {
            return Ok(self.whole.clone());
        }
        self.whole.rotate(now)
    }

    /// Returns the keyring after a trim: without the versions below `oldest`.
    pub(crate) fn trimmed(&self, oldest: u32) -> Keyring {
        self.whole.trim(|version| version >= oldest)
    }

    /// Returns the other mount that one of the copies was made for.
    pub(crate) fn foreign_to(&self, mount_uuid: &str) -> Option<&str> {
        if mount_uuid.is_empty() {
            return None;
        }
        let mut copies = [&self.first, &self.second].into_iter();
        copies.find_map(|copy| match copy {
            Copy::Good(keyring) => {
                let uuid = keyring.maker()?.uuid();
                (uuid != mount_uuid).then_some(uuid)
            }
            Copy::Absent | Copy::Damaged => None,
        })
    }

    /// Reports whether a change was made in one copy only: the next write completes it, or takes it
    /// back.
    pub(crate) fn is_halfway(&self) -> bool {
        match (&self.first, &self.second) {
            (Copy::Good(first), Copy::Good(second)) => first.to_bytes() != second.to_bytes(),
            (Copy::Absent | Copy::Damaged, _) | (_, Copy::Absent | Copy::Damaged) => false,
        }
    }

    /// Says, for the next write, which mount the keyring is for, if nothing does yet.
    fn make_for(&mut self, guard: &Guard) {
        if self.whole.maker().is_none() {
            let maker = Maker::new(guard.mount_uuid());
            self.whole = self.whole.clone().made_for(maker);
        }
    }

    /// Returns the keyring as one that this mount takes over.
    pub(crate) fn adopted(&self, mount_uuid: &str, now: DateTime<Utc>) -> Keyring {
        let maker = Maker::new(mount_uuid).map(|maker| maker.adopting_at(now));
        self.whole.clone().made_for(maker)
    }

    /// Returns the entry that is not there.
    const fn missing(&self) -> Option<&'static str> {
        match (&self.first, &self.second) {
            (Copy::Absent, _) => Some(KEYRING),
            (_, Copy::Absent) => Some(KEYRING_COPY),
            (Copy::Damaged | Copy::Good(_), Copy::Damaged | Copy::Good(_)) => None,
        }
    }

    /// Refuses to build on a keyring of which only one copy is whole.
    pub(crate) fn require_undamaged(&self) -> Result<(), Error> {
        let key = match (&self.first, &self.second) {
            (Copy::Damaged, _) => KEYRING,
            (_, Copy::Damaged) => KEYRING_COPY,
            (Copy::Absent | Copy::Good(_), Copy::Absent | Copy::Good(_)) => return Ok(()),
        };
        Err(Error::conflict(
            "keyring_damaged",
            format!(
                "the stored entry {key} is damaged; the other copy of the keyring serves alone. \
                 Nothing was changed. Restore the mount's storage from a snapshot, or remove the \
                 damaged entry through sys/raw: the next write makes it anew."
            ),
        ))
    }
}

/// Loads the keyring; `None` if the mount never had one.
///
/// # Errors
///
/// A 400 `foreign_storage` if it was made for another mount; [`Error::Keyring`] if it is missing
/// although tenants are stored, or cannot be read.
pub(crate) async fn load(
    storage: &dyn Storage,
    guard: &Guard,
    clock: &dyn Clock,
) -> Result<Option<Found>, Error> {
    let before = guard.before_read();
    let found = read(storage).await?;
    let foreign = found
        .as_ref()
        .and_then(|it| it.foreign_to(guard.mount_uuid()));
    guard.judge(before, foreign, clock.now())?;
    Ok(found)
}

/// Reads the keyring, whoever made it; for who is about to adopt it.
pub(crate) async fn read(storage: &dyn Storage) -> Result<Option<Found>, Error> {
    // Against the order in which a rotation writes them: one that happens in between shows as
    // unfinished, and not as a copy that has more than the first.
    let second = read_copy(storage, KEYRING_COPY).await?;
    let first = read_copy(storage, KEYRING).await?;
    match (first, second) {
        (Copy::Good(first), Copy::Good(second)) => Found::two(first, second).map(Some),
        (Copy::Good(keyring), other) => {
            let first = Copy::Good(keyring.clone());
            Ok(Some(Found::one(keyring, first, other)))
        }
        (other, Copy::Good(keyring)) => {
            let second = Copy::Good(keyring.clone());
            Ok(Some(Found::one(keyring, other, second)))
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

/// Writes what an interrupted change left out, and returns the keyring to work with. A damaged
/// copy is left to be looked at. The caller holds the mount's lock and is on the active node.
pub(crate) async fn complete(storage: &dyn Storage, mut found: Found, guard: &Guard) -> Keyring {
    found.make_for(guard);
    for (key, holds) in [(KEYRING, &found.first), (KEYRING_COPY, &found.second)] {
        if matches!(holds, Copy::Damaged) {
            continue;
        }
        // What was found is enough to work with: the next write tries again.
        if let Err(error) = write(storage, key, holds, &found.whole).await {
            tracing::warn!(key, %error, "a copy of the keyring was not completed");
            return found.keyring;
        }
    }
    found.whole
}

/// Creates the first keyring. The caller holds the mount's lock, is on the active node, and
/// [`load`] just said `None`.
pub(crate) async fn create(
    storage: &dyn Storage,
    guard: &Guard,
    clock: &dyn Clock,
) -> Result<Keyring, Error> {
    let maker = Maker::new(guard.mount_uuid());
    let keyring = Keyring::generate(clock.now())?.made_for(maker);
    for key in [KEYRING, KEYRING_COPY] {
        write(storage, key, &Copy::Absent, &keyring).await?;
    }
    Ok(keyring)
}

/// Loads the keyring to change it, creating the first one, with both copies in place. The caller
/// holds the mount's lock and is on the active node.
///
/// # Errors
///
/// A 409 `keyring_damaged` if one copy is damaged, else as [`load`].
pub(crate) async fn load_to_change(
    storage: &dyn Storage,
    guard: &Guard,
    clock: &dyn Clock,
) -> Result<Found, Error> {
    let Some(mut found) = load(storage, guard, clock).await? else {
        return Ok(Found::both(create(storage, guard, clock).await?));
    };
    found.require_undamaged()?;
    match found.missing() {
        None => {
            found.make_for(guard);
            Ok(found)
        }
        Some(key) => {
            write(storage, key, &Copy::Absent, &found.whole).await?;
            Ok(Found::both_for(found.whole, guard))
        }
    }
}

/// Stores a [`Found::adopted`] keyring. As long as only one copy has it, the storage still counts
/// as the other mount's. The caller holds the mount's lock and is on the active node.
///
/// # Errors
///
/// As for [`store_rotated`].
pub(crate) async fn store_adopted(
    storage: &dyn Storage,
    found: &Found,
    next: &Keyring,
) -> Result<(), Error> {
    write(storage, KEYRING, &found.first, next).await?;
    write(storage, KEYRING_COPY, &found.second, next).await
}

/// Stores a [`Found::rotated`] keyring; it may seal when this returned. The caller holds the
/// mount's lock and is on the active node.
///
/// # Errors
///
/// On an error the change may be done by half: what [`load`] finds next is to be used.
pub(crate) async fn store_rotated(
    storage: &dyn Storage,
    found: &Found,
    next: &Keyring,
) -> Result<(), Error> {
    write(storage, KEYRING, &found.first, next).await?;
    write(storage, KEYRING_COPY, &found.second, next).await?;
    require_stored(storage, KEYRING, next).await
}

/// Stores a [`Found::trimmed`] keyring. The caller holds the mount's lock, is on the active node
/// and has seen that nothing was sealed by what is removed.
///
/// # Errors
///
/// As for [`store_rotated`].
pub(crate) async fn store_trimmed(
    storage: &dyn Storage,
    found: &Found,
    next: &Keyring,
) -> Result<(), Error> {
    write(storage, KEYRING_COPY, &found.second, next).await?;
    write(storage, KEYRING, &found.first, next).await?;
    require_stored(storage, KEYRING_COPY, next).await
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

/// Replaces what `key` holds by `next` and reads it back; nothing is written if it holds that.
async fn write(
    storage: &dyn Storage,
    key: &'static str,
    holds: &Copy,
    next: &Keyring,
) -> Result<(), Error> {
    let bytes = next.to_bytes();
    // One keyring has one stored form, so these are the bytes that are there.
    let before = match holds {
        Copy::Absent => None,
        Copy::Good(keyring) => Some(keyring.to_bytes()),
        Copy::Damaged => return Err(Error::Defect("a damaged copy was about to be replaced")),
    };
    if before.as_ref() == Some(&bytes) {
        return Ok(());
    }
    let entry = StorageEntry {
        key: key.to_owned(),
        value: bytes.expose().clone(),
        seal_wrap: true,
    };
    // Only over what was there: a write of an earlier attempt that lands late must not replace it.
    let before = before.as_ref().map(|bytes| bytes.expose().as_slice());
    let written = storage.compare_and_put(entry, before).await;
    if matches!(written, Err(StorageError::Unknown(_))) {
        tokio::time::sleep(AFTER_BROKEN_CONNECTION).await;
    }
    // An error may hide a write that took effect: what is read back decides.
    match require_stored(storage, key, next).await {
        Ok(()) => Ok(()),
        Err(not_there) => Err(written.err().map_or(not_there, Error::from)),
    }
}

/// Reads back.
async fn require_stored(
    storage: &dyn Storage,
    key: &'static str,
    wanted: &Keyring,
) -> Result<(), Error> {
    let bytes: Sensitive<Vec<u8>> = wanted.to_bytes();
    let stored = storage.get(key).await?;
    if stored.is_some_and(|entry| &entry.value == bytes.expose()) {
        return Ok(());
    }
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
        let guard = Guard::new(String::new());
        let keyring = create(&storage, &guard, &clock).await.unwrap();
        let mut newer = keyring.to_bytes().expose().clone();
        // The last byte of the schema, behind eight of magic.
        newer[11] = u8::MAX;
        let entry = StorageEntry {
            key: KEYRING.to_owned(),
            value: newer,
            seal_wrap: true,
        };
        storage.put(entry).await.unwrap();
        let error = load(&storage, &guard, &clock).await.unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}
