//! Whether something that began before a change may still undo it.
//!
//! Mailu hashes a password again at a login that finds an outdated hash (other rounds, another
//! scheme), and writes the whole column: a login with the old password that began before the change
//! was committed brings it back, with a mark and an acknowledgement that stay. Seen in 2.0.43, 2024.06.57
//! and master; 0.7 s at 13 rounds, some 8 s at 17. A proof right after the send is older than that
//! write, so where it can happen reads are in doubt until a second look.

use chrono::{DateTime, TimeDelta, Utc};

use crate::engine::storage::record::{Credential, FirstLook, Intent};
use crate::provider::StoredHash;

/// When to look again, where the hashes have up to 13 rounds; each further round doubles it.
const FIRST_LOOK: TimeDelta = TimeDelta::seconds(5);
/// Rounds that the pause is made for.
const USUAL_ROUNDS: u32 = 13;
/// Rounds beyond which nothing is checked: the pause grows no further.
const MOST_ROUNDS: u32 = 18;

/// What an account was seen with before the last send of a change.
#[derive(Clone, Debug)]
pub(super) enum Before {
    /// This hash.
    Hash(StoredHash),
    /// No account, or none that shows a hash: nothing that could be compared.
    Nothing,
    /// Another process looked.
    Unknown,
}

/// What was seen around the last send.
pub(super) struct Seen<'a> {
    pub(super) before: &'a Before,
    /// The hash that proved the candidate; `None` if it could not be compared.
    pub(super) after: Option<&'a StoredHash>,
}

/// Returns the look that a change needs before reads call it settled. `credential` is as it was
/// before the commit, `earlier` the look that the change was made again for.
pub(super) fn first_look(
    intent: &Intent,
    credential: &Credential,
    seen: Seen<'_>,
    earlier: Option<FirstLook>,
    now: DateTime<Utc>,
) -> Option<FirstLook> {
    if !intent.is_emergency() && !may_be_undone(credential, &seen) {
        return None;
    }
    let earlier =
        earlier.filter(|_| intent.source.is_some() && intent.source == credential.current);
    let before = match &earlier {
        // The value is the same: what may come back is what was current before both.
        Some(earlier) => earlier.before,
        None => credential.current,
    };
    Some(FirstLook {
        at: now + pause(&seen),
        before,
        times: earlier.map_or(0, |earlier| earlier.times.saturating_add(1)),
    })
}

fn may_be_undone(credential: &Credential, seen: &Seen<'_>) -> bool {
    let (before, after) = match (seen.before, seen.after) {
        (Before::Hash(before), Some(after)) => (before, after),
        // The send was another process'; what it saw is not known.
        (Before::Unknown, Some(_)) => return true,
        // A second look would tell no more than the first.
        (_, None) | (Before::Nothing, _) => return false,
    };
    let proven = credential.current_version();
    let proven = proven.and_then(|version| version.hash_fingerprint.as_deref());
    // A login in between has hashed the password again already, and others may be about to.
    let was_written = proven.is_some_and(|proven| proven != before.fingerprint());
    before.rounds() != after.rounds() || was_written
}

fn pause(seen: &Seen<'_>) -> TimeDelta {
    let before = match seen.before {
        Before::Hash(hash) => hash.rounds(),
        Before::Nothing | Before::Unknown => None,
    };
    let rounds = before.max(seen.after.and_then(StoredHash::rounds));
    let above = rounds
        .unwrap_or_default()
        .min(MOST_ROUNDS)
        .saturating_sub(USUAL_ROUNDS);
    FIRST_LOOK * (1 << above)
}
