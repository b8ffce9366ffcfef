//! Identifiers as an argument, as [`crate::clock`] is for time.
//!
//! Whatever names an event, an attempt, a lineage or a batch is drawn from an [`Identifiers`], so that
//! a simulation that runs twice does the same twice, call by call. Only names are: keys, nonces and
//! passwords come from the operating system and from nowhere else ([`crate::crypto`]).

use std::fmt;

use chrono::{DateTime, Utc};
use ulid::Ulid;

use crate::crypto::{self, RandomError};

/// A source of identifiers.
pub trait Identifiers: fmt::Debug + Send + Sync {
    /// Draws 128 bits that nobody else draws.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if there is no randomness; nothing was drawn.
    fn draw(&self) -> Result<u128, RandomError>;
}

impl dyn Identifiers + '_ {
    /// Makes an identifier of 32 lower-case hex digits.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if there is no randomness.
    pub fn hex(&self) -> Result<String, RandomError> {
        Ok(format!("{:032x}", self.draw()?))
    }

    /// Makes a ULID, which sorts by `at`: 26 characters, the first ten of which are the
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if there is no randomness.
    pub fn ulid(&self, at: DateTime<Utc>) -> Result<String, RandomError> {
        let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
        Ok(Ulid::from_parts(millis, self.draw()?).to_string())
    }
}

/// Identifiers from the operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIdentifiers;

impl Identifiers for RandomIdentifiers {
    fn draw(&self) -> Result<u128, RandomError> {
        crypto::random_u128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_their_form_and_differ() {
        let random: &dyn Identifiers = &RandomIdentifiers;
        let (one, other) = (random.hex().unwrap(), random.hex().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        let at = DateTime::from_timestamp_millis(1_790_000_000_123).unwrap();
        let ulid = Ulid::from_string(&random.ulid(at).unwrap()).unwrap();
        assert_eq!(ulid.timestamp_ms(), 1_790_000_000_123);
    }
}
