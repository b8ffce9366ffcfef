//! [`Maker`]: which mount a keyring was made for.

use chrono::{DateTime, Utc};

/// Longest name of a mount that is stored, in bytes; hosts use a UUID of 36 or 45.
const MAX_UUID: usize = 255;
/// What stands for "never" where an instant is stored.
const NEVER: i64 = i64::MIN;

/// The mount that a storage belongs to: the one that made it, or the one that adopted it since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker {
    uuid: String,
    adopted_at: Option<DateTime<Utc>>,
}

impl Maker {
    /// Names the mount; `None` for what cannot be stored: nothing, more than 255 bytes, or anything
    /// but visible ASCII characters.
    #[must_use]
    pub fn new(uuid: &str) -> Option<Self> {
        let plain = uuid.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = (1..=MAX_UUID).contains(&uuid.len());
        (plain && fits).then(|| Self {
            uuid: uuid.to_owned(),
            adopted_at: None,
        })
    }

    /// Says that this mount took the storage over from another one at `now`; kept to the
    /// millisecond.
    #[must_use]
    pub fn adopting_at(mut self, now: DateTime<Utc>) -> Self {
        let millis = now.timestamp_millis();
        self.adopted_at = DateTime::from_timestamp_millis(millis);
        self
    }

    /// Returns what the host calls the mount.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Returns when the storage was taken over; `None` if this mount made it.
    #[must_use]
    pub const fn adopted_at(&self) -> Option<DateTime<Utc>> {
        self.adopted_at
    }

    /// Returns the stored form: milliseconds since 1970, length, name; numbers big-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let adopted = self.adopted_at.map_or(NEVER, |at| at.timestamp_millis());
        let length = u16::try_from(self.uuid.len()).unwrap_or(u16::MAX);
        let mut bytes = adopted.to_be_bytes().to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(self.uuid.as_bytes());
        bytes
    }

    /// Takes the stored form from the front of `bytes`; `None` for anything that
    /// [`Maker::to_bytes`] does not write.
    pub(super) fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (adopted, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (uuid, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let mut maker = Self::new(std::str::from_utf8(uuid).ok()?)?;
        match i64::from_be_bytes(*adopted) {
            NEVER => {}
            millis => maker.adopted_at = Some(DateTime::from_timestamp_millis(millis)?),
        }
        Some((maker, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_gives_the_same_maker() {
        let now = DateTime::from_timestamp(1_795_243_620, 123_456_789).unwrap();
        let made = Maker::new("6f3b1c52-0000-4000-8000-1b9d6bcd").unwrap();
        for maker in [made.clone(), made.adopting_at(now)] {
            let mut bytes = maker.to_bytes();
            for length in 0..bytes.len() {
                assert!(Maker::take(&bytes[..length]).is_none(), "{length}");
            }
            bytes.push(7);
            let (read, rest) = Maker::take(&bytes).unwrap();
            assert_eq!((read, rest), (maker, [7].as_slice()));
        }
    }

    #[test]
    fn what_could_deceive_a_reader_is_no_name() {
        let long = "a".repeat(256);
        for uuid in ["", " ", "a b", "a\n", "ä", "a\u{202e}", &long] {
            assert_eq!(Maker::new(uuid), None, "{uuid:?}");
        }
        assert!(Maker::new(&"a".repeat(255)).is_some());
    }
}
