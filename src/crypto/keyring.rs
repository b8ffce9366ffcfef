//! The keyring: the master keys every sealed secret depends on.
//!
//! Losing it loses every password, so its stored form notices damage, and changes give a new
//! keyring to be stored and read back before the old one is let go. Storing it is not its task.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};

use subtle::ConstantTimeEq as _;

use super::Sensitive;
use super::digest::{canonical, derive, hmac_sha256, sha256};
use super::envelope::{self, Binding, OpenError, SealError, Sealed};
use super::maker::Maker;
use super::random::{RandomError, secret_bytes};

/// First bytes of a stored keyring.
const MAGIC: &[u8; 8] = b"smtpkeys";
/// The stored form of a keyring without a maker, and of one with it.
const WITHOUT_MAKER: u32 = 1;
const WITH_MAKER: u32 = 2;
const KEY_BYTES: usize = 32;
const ENTRY_BYTES: usize = 4 + 8 + KEY_BYTES;
/// Magic, schema, audit key, count; then entries; then the checksum.
const HEAD_BYTES: usize = 8 + 4 + KEY_BYTES + 4;
const CHECKSUM_BYTES: usize = 32;

/// Label of the key that makes audit hashes.
const DETAIL_LABEL: &str = "vault-plugin-secrets-smtp/v1/detail-hash";

/// Label of the key that signs receipts.
const RECEIPT_LABEL: &str = "vault-plugin-secrets-smtp/v1/receipt";

/// Label of the keys that make hashes of API tokens.
const TOKEN_LABEL: &str = "vault-plugin-secrets-smtp/v1/token-hash";

/// Separates the keys of imported passwords from every other use of the audit key.
const PASSWORD_LABEL: &str = "vault-plugin-secrets-smtp/v1/password-hash";

/// Separates the key of callers' tokens from every other use of the audit key.
const CALLER_LABEL: &str = "vault-plugin-secrets-smtp/v1/caller-hash";

/// Numbered master keys, newest last. At least one. `Debug` shows numbers and dates only.
///
/// Version numbers are never used twice: the newest one cannot be removed.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    /// Never rotated or trimmed: hashes in old audit lines must stay checkable.
    audit_key: Sensitive<[u8; KEY_BYTES]>,
    versions: BTreeMap<u32, MasterKey>,
    /// The mount it was made for; `None` if the host did not say. No part of the keys.
    maker: Option<Maker>,
    /// The version that seals. Not stored: it follows from what both stored copies have.
    sealing: u32,
}

#[derive(Clone, PartialEq, Eq)]
struct MasterKey {
    created_at: DateTime<Utc>,
    key: Sensitive<[u8; KEY_BYTES]>,
}

/// What may be shown of a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyringVersion {
    /// From 1 upwards.
    pub version: u32,
    /// When it was made, to the millisecond.
    pub created_at: DateTime<Utc>,
}

/// Why bytes are not a keyring.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyringError {
    /// Not written by this software, or cut off at the front.
    #[error("the keyring's bytes are not a keyring")]
    Foreign,
    /// Written by a newer release, which may keep things this one would drop.
    #[error("the keyring has the stored form {0}, newer than this release knows")]
    Newer(u32),
    /// Cut off or changed.
    #[error("the keyring's bytes are damaged")]
    Damaged,
}

impl Keyring {
    /// Makes a keyring with version 1.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if the operating system gives no randomness.
    pub fn generate(now: DateTime<Utc>) -> Result<Self, RandomError> {
        Ok(Self {
            audit_key: secret_bytes([0; KEY_BYTES])?,
            versions: BTreeMap::from([(1, MasterKey::generate(now)?)]),
            maker: None,
            sealing: 1,
        })
    }

    /// Returns this keyring with one version more. The caller stores and reads back the result
    /// before sealing anything with it.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if the operating system gives no randomness.
    pub fn rotate(&self, now: DateTime<Utc>) -> Result<Self, RandomError> {
        let mut next = self.clone();
        // 2^32 rotations are out of reach; saturating would replace a key, so it must not wrap.
        let version = self.newest().saturating_add(1);
        next.versions
            .entry(version)
            .or_insert(MasterKey::generate(now)?);
        next.sealing = version;
        Ok(next)
    }

    /// Returns this keyring without the versions `in_use` denies; the newest one always stays.
    #[must_use]
    pub fn trim(&self, in_use: impl Fn(u32) -> bool) -> Self {
        let newest = self.newest();
        let mut next = self.clone();
        next.versions
            .retain(|version, _| *version == newest || in_use(*version));
        next.sealing = newest;
        next
    }

    /// Returns this keyring sealing with `version` or, if it lacks that, with the next older one;
    /// what newer versions sealed it still opens.
    #[must_use]
    pub fn sealing_with_at_most(mut self, version: u32) -> Self {
        let older = self.versions.range(..=version).next_back();
        if let Some((version, _)) = older {
            self.sealing = *version;
        }
        self
    }

    /// Returns this keyring as one that was made for this mount, or with `None` as it is.
    #[must_use]
    pub fn made_for(mut self, maker: Option<Maker>) -> Self {
        self.maker = maker.or(self.maker);
        self
    }

    /// Returns the mount that it was made for, if the host said which.
    #[must_use]
    pub const fn maker(&self) -> Option<&Maker> {
        self.maker.as_ref()
    }

    /// Reports whether this keyring has every version of `older`, with the same keys: `older` is
    /// then an earlier state of it.
    #[must_use]
    pub fn extends(&self, older: &Self) -> bool {
        self.audit_key == older.audit_key
            && older
                .versions
                .iter()
                .all(|(version, key)| self.versions.get(version) == Some(key))
    }

    /// Returns the version that seals: the newest one, unless
    /// [`Keyring::sealing_with_at_most`] chose.
    #[must_use]
    pub const fn latest(&self) -> u32 {
        self.sealing
    }

    fn newest(&self) -> u32 {
        self.versions.last_key_value().map_or(0, |(v, _)| *v)
    }

    /// Returns what may be shown of each version, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = KeyringVersion> {
        self.versions.iter().map(|(version, key)| KeyringVersion {
            version: *version,
            created_at: key.created_at,
        })
    }

    /// Seals a secret with the version [`Keyring::latest`].
    ///
    /// # Errors
    ///
    /// [`SealError`]; nothing was sealed.
    pub fn seal(
        &self,
        binding: &Binding<'_>,
        secret: &Sensitive<String>,
    ) -> Result<Sealed, SealError> {
        let version = self.sealing;
        let master = self.versions.get(&version).ok_or(SealError::NoKey)?;
        envelope::seal(&master.key, version, binding, secret)
    }

    /// Opens a secret sealed for an equal binding, by any version of the keyring.
    ///
    /// # Errors
    ///
    /// [`OpenError`] by what the caller may conclude.
    pub fn open(
        &self,
        binding: &Binding<'_>,
        sealed: &Sealed,
    ) -> Result<Sensitive<String>, OpenError> {
        let version = sealed.key_version();
        let master = self
            .versions
            .get(&version)
            .ok_or(OpenError::UnknownKey(version))?;
        envelope::open(&master.key, binding, sealed)
    }

    /// Hashes an event's private details for the audit log: HMAC-SHA256 under a key of its own.
    ///
    /// Keyed, because details such as a reason are short enough to be guessed from a plain hash.
    #[must_use]
    pub fn detail_hash(&self, details: &[u8]) -> [u8; 32] {
        let key = derive(&self.audit_key, &canonical(&[DETAIL_LABEL]));
        hmac_sha256(key.expose(), details)
    }

    /// Signs a list of events that was handed out: HMAC-SHA256 under a key of its own, the same for
    /// the keyring's whole life.
    #[must_use]
    pub fn receipt_mac(&self, list: &[u8]) -> [u8; 32] {
        let key = derive(&self.audit_key, &canonical(&[RECEIPT_LABEL]));
        hmac_sha256(key.expose(), list)
    }

    /// Reports, in constant time, whether [`Keyring::receipt_mac`] made this for `list`.
    #[must_use]
    pub fn is_receipt_mac(&self, list: &[u8], mac: &[u8]) -> bool {
        self.receipt_mac(list).as_slice().ct_eq(mac).into()
    }

    /// Hashes a mail server's API token, so that it can be recognised without being kept:
    /// HMAC-SHA256 under a key of its own. It says nothing about the token elsewhere: the server
    /// is part of what is hashed.
    #[must_use]
    pub fn token_hash(&self, server: &str, token: &Sensitive<String>) -> [u8; 32] {
        let key = derive(&self.audit_key, &canonical(&[TOKEN_LABEL, server]));
        hmac_sha256(key.expose(), token.expose().as_bytes())
    }

    /// Hashes a password that was imported, so that the same one is recognised when it is given again:
    /// HMAC-SHA256 under a key of its own. It says nothing about the password elsewhere: the life of
    /// the tenant is part of what is hashed.
    #[must_use]
    pub fn password_hash(&self, incarnation: &str, password: &Sensitive<String>) -> [u8; 32] {
        let key = derive(&self.audit_key, &canonical(&[PASSWORD_LABEL, incarnation]));
        hmac_sha256(key.expose(), password.expose().as_bytes())
    }

    /// Hashes what a caller's token is told apart by, so that it can be recognised without being
    /// kept: HMAC-SHA256 under a key of its own, the same for the keyring's whole life.
    #[must_use]
    pub fn caller_hash(&self, token: &[&str]) -> [u8; 32] {
        let key = derive(&self.audit_key, &canonical(&[CALLER_LABEL]));
        let token = Sensitive::new(canonical(token));
        hmac_sha256(key.expose(), token.expose())
    }

    /// Returns the stored form: magic, schema, audit key, count, entries (version, milliseconds
    /// since 1970, key), the maker if there is one, SHA-256 of all before; numbers big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Sensitive<Vec<u8>> {
        let maker = self.maker.as_ref().map(Maker::to_bytes);
        let (schema, maker) = match maker {
            Some(maker) => (WITH_MAKER, maker),
            None => (WITHOUT_MAKER, Vec::new()),
        };
        let entries = self.versions.len() * ENTRY_BYTES;
        let size = HEAD_BYTES + entries + maker.len() + CHECKSUM_BYTES;
        // Of the final size from the start: growing would leave copies of keys behind.
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&schema.to_be_bytes());
        bytes.extend_from_slice(self.audit_key.expose());
        let count = u32::try_from(self.versions.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_be_bytes());
        for (version, master) in &self.versions {
            bytes.extend_from_slice(&version.to_be_bytes());
            bytes.extend_from_slice(&master.created_at.timestamp_millis().to_be_bytes());
            bytes.extend_from_slice(master.key.expose());
        }
        bytes.extend_from_slice(&maker);
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum);
        Sensitive::new(bytes)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// [`KeyringError`]: the bytes must not be overwritten, they may be all there is.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyringError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(KeyringError::Foreign)?;
        let (schema, rest) = take(rest)?;
        let schema = u32::from_be_bytes(schema);
        if schema > WITH_MAKER {
            return Err(KeyringError::Newer(schema));
        }
        let (content, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(KeyringError::Damaged)?;
        if schema < WITHOUT_MAKER || sha256(content) != *checksum {
            return Err(KeyringError::Damaged);
        }
        let (audit_key, rest) = take_key(rest)?;
        let (count, mut rest) = take(rest)?;
        let mut versions = BTreeMap::new();
        let mut newest = 0;
        for _ in 0..u32::from_be_bytes(count) {
            let (version, after) = take(rest)?;
            let (master, after) = MasterKey::take(after)?;
            let version = u32::from_be_bytes(version);
            // From 1 upwards and in order, as they are written: nothing is dropped in silence.
            if version <= newest {
                return Err(KeyringError::Damaged);
            }
            versions.insert(version, master);
            newest = version;
            rest = after;
        }
        let mut maker = None;
        if schema == WITH_MAKER {
            let (taken, after) = Maker::take(rest).ok_or(KeyringError::Damaged)?;
            maker = Some(taken);
            rest = after;
        }
        if versions.is_empty() || rest.len() != CHECKSUM_BYTES {
            return Err(KeyringError::Damaged);
        }
        Ok(Self {
            audit_key,
            versions,
            maker,
            sealing: newest,
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.versions()).finish()
    }
}

impl MasterKey {
    fn generate(now: DateTime<Utc>) -> Result<Self, RandomError> {
        // To the millisecond, which is what is stored: a keyring equals its stored self.
        let created_at = DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now);
        Ok(Self {
            created_at,
            key: secret_bytes([0; KEY_BYTES])?,
        })
    }

    fn take(bytes: &[u8]) -> Result<(Self, &[u8]), KeyringError> {
        let (created_at, rest) = take(bytes)?;
        let created_at = DateTime::from_timestamp_millis(i64::from_be_bytes(created_at))
            .ok_or(KeyringError::Damaged)?;
        let (key, rest) = take_key(rest)?;
        Ok((Self { created_at, key }, rest))
    }
}

/// Takes a key straight into custody: an array on the way would be a copy that nobody wipes.
fn take_key(bytes: &[u8]) -> Result<(Sensitive<[u8; KEY_BYTES]>, &[u8]), KeyringError> {
    let (head, rest) = bytes
        .split_first_chunk::<KEY_BYTES>()
        .ok_or(KeyringError::Damaged)?;
    let mut key = Sensitive::new([0; KEY_BYTES]);
    key.expose_mut().copy_from_slice(head);
    Ok((key, rest))
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), KeyringError> {
    bytes
        .split_first_chunk()
        .map(|(head, rest)| (*head, rest))
        .ok_or(KeyringError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Binding<'static> = Binding {
        tenant: "acme",
        incarnation: "5e1f",
        field: "password",
        id: "3",
        endpoint: "https://mail.acme.test:443",
    };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_243_620, 123_456_789).unwrap()
    }

    fn secret() -> Sensitive<String> {
        Sensitive::new(String::from("correct horse"))
    }

    #[test]
    fn a_rotated_keyring_seals_with_the_new_key_and_opens_the_old() {
        let first = Keyring::generate(now()).unwrap();
        let sealed = first.seal(&HERE, &secret()).unwrap();
        let second = first.rotate(now()).unwrap();
        assert_eq!((first.latest(), second.latest()), (1, 2));
        assert_eq!(second.open(&HERE, &sealed), Ok(secret()));
        let newer = second.seal(&HERE, &secret()).unwrap();
        assert_eq!(newer.key_version(), 2);
        assert_eq!(first.open(&HERE, &newer), Err(OpenError::UnknownKey(2)));
    }

    #[test]
    fn trimming_keeps_what_is_in_use_and_the_newest() {
        let keyring = Keyring::generate(now()).unwrap();
        let keyring = keyring.rotate(now()).unwrap().rotate(now()).unwrap();
        let left = |in_use: fn(u32) -> bool| {
            let trimmed = keyring.trim(in_use);
            trimmed.versions().map(|v| v.version).collect::<Vec<_>>()
        };
        assert_eq!(left(|version| version == 2), [2, 3]);
        assert_eq!(left(|_| false), [3]);
        let next = keyring.trim(|_| false).rotate(now()).unwrap();
        assert_eq!(next.latest(), 4);
    }

    #[test]
    fn an_older_version_can_be_told_to_seal() {
        let first = Keyring::generate(now()).unwrap();
        let third = first.rotate(now()).unwrap().rotate(now()).unwrap();
        let older = third.clone().sealing_with_at_most(2);
        assert_eq!((older.latest(), third.latest()), (2, 3));
        let sealed = older.seal(&HERE, &secret()).unwrap();
        assert_eq!(sealed.key_version(), 2);
        // It opens whatever the whole keyring opens, and is stored as that.
        let newest = third.seal(&HERE, &secret()).unwrap();
        assert_eq!(older.open(&HERE, &newest), Ok(secret()));
        assert_eq!(older.to_bytes(), third.to_bytes());
        assert_eq!(older.rotate(now()).unwrap().latest(), 4);
        let gap = third.trim(|version| version == 1).sealing_with_at_most(2);
        assert_eq!(gap.latest(), 1);
        assert_eq!(first.sealing_with_at_most(0).latest(), 1);
    }

    #[test]
    fn the_stored_form_gives_the_same_keyring() {
        let keyring = Keyring::generate(now()).unwrap().rotate(now()).unwrap();
        let bytes = keyring.to_bytes();
        let back = Keyring::from_bytes(bytes.expose()).unwrap();
        assert!(back == keyring);
        let dates: Vec<_> = back.versions().map(|v| v.created_at).collect();
        let to_the_millisecond = DateTime::from_timestamp(1_795_243_620, 123_000_000).unwrap();
        assert_eq!(dates, [to_the_millisecond; 2]);
        assert_eq!(back.detail_hash(b"x"), keyring.detail_hash(b"x"));
        assert_eq!(bytes.expose().capacity(), bytes.expose().len());
    }

    #[test]
    fn the_maker_is_stored_beside_the_keys_and_stays_through_changes() {
        let plain = Keyring::generate(now()).unwrap();
        assert_eq!(plain.maker(), None);
        let maker = Maker::new("mount-a").unwrap();
        let made = plain.clone().made_for(Some(maker.clone()));
        let changed = made.rotate(now()).unwrap().trim(|_| false);
        for keyring in [&made, &changed] {
            let bytes = keyring.to_bytes();
            let back = Keyring::from_bytes(bytes.expose()).unwrap();
            assert!(back == *keyring);
            assert_eq!(back.maker(), Some(&maker));
            assert_eq!(bytes.expose().capacity(), bytes.expose().len());
        }
        assert_eq!(made.clone().made_for(None).maker(), Some(&maker));
        assert!(
            made.extends(&plain) && plain.extends(&made),
            "the same keys"
        );
        let adopted = Maker::new("mount-b").unwrap().adopting_at(now());
        let adopted = made.made_for(Some(adopted));
        let back = Keyring::from_bytes(adopted.to_bytes().expose()).unwrap();
        assert_eq!(back.maker(), adopted.maker());
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let stored = Keyring::generate(now()).unwrap().rotate(now()).unwrap();
        for maker in [None, Maker::new("mount-a")] {
            is_guarded(&stored.clone().made_for(maker));
        }
    }

    fn is_guarded(stored: &Keyring) {
        let stored = stored.to_bytes();
        for length in 0..stored.expose().len() {
            assert!(Keyring::from_bytes(&stored.expose()[..length]).is_err());
        }
        for index in 0..stored.expose().len() {
            let mut changed = stored.expose().clone();
            changed[index] ^= 0x80;
            assert!(Keyring::from_bytes(&changed).is_err(), "byte {index}");
        }
        let mut longer = stored.expose().clone();
        longer.push(0);
        assert_eq!(
            Keyring::from_bytes(&longer).unwrap_err(),
            KeyringError::Damaged
        );
    }

    #[test]
    fn a_count_that_disagrees_with_the_entries_is_noticed() {
        let stored = Keyring::generate(now()).unwrap().rotate(now()).unwrap();
        let stored = stored.to_bytes();
        for count in [0, 1, 3] {
            let mut content = stored.expose().clone();
            content.truncate(content.len() - CHECKSUM_BYTES);
            content[HEAD_BYTES - 1] = count;
            let checksum = sha256(&content);
            content.extend_from_slice(&checksum);
            let read = Keyring::from_bytes(&content);
            assert_eq!(read.unwrap_err(), KeyringError::Damaged, "{count}");
        }
    }

    #[test]
    fn one_keyring_has_one_stored_form() {
        let stored = Keyring::generate(now()).unwrap().rotate(now()).unwrap();
        let stored = stored.to_bytes();
        // The last bytes of the two version numbers.
        let places = [HEAD_BYTES + 3, HEAD_BYTES + ENTRY_BYTES + 3];
        for versions in [[0, 1], [1, 1], [2, 1]] {
            let mut content = stored.expose().clone();
            content.truncate(content.len() - CHECKSUM_BYTES);
            for (place, version) in places.into_iter().zip(versions) {
                content[place] = version;
            }
            let checksum = sha256(&content);
            content.extend_from_slice(&checksum);
            let read = Keyring::from_bytes(&content);
            assert_eq!(read.unwrap_err(), KeyringError::Damaged, "{versions:?}");
        }
    }

    #[test]
    fn a_newer_form_is_told_from_damage() {
        let stored = Keyring::generate(now()).unwrap().to_bytes();
        let mut newer = stored.expose().clone();
        newer[11] = 3;
        assert_eq!(
            Keyring::from_bytes(&newer).unwrap_err(),
            KeyringError::Newer(3)
        );
        assert_eq!(
            Keyring::from_bytes(b"{}").unwrap_err(),
            KeyringError::Foreign
        );
    }

    #[test]
    fn the_detail_hash_outlives_rotation_and_trimming_and_depends_on_the_keyring() {
        let keyring = Keyring::generate(now()).unwrap();
        let later = keyring.rotate(now()).unwrap().trim(|_| false);
        assert_eq!(keyring.detail_hash(b"why"), later.detail_hash(b"why"));
        let other = Keyring::generate(now()).unwrap();
        assert_ne!(keyring.detail_hash(b"why"), other.detail_hash(b"why"));
    }

    #[test]
    fn debug_shows_no_key() {
        let keyring = Keyring::generate(now()).unwrap();
        let shown = format!("{keyring:?}");
        assert!(shown.contains("version: 1"));
        assert!(!shown.contains("key"), "{shown}");
    }
}
