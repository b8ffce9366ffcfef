//! Whether something that began before a change may still undo it.
//!
//! Mailu hashes a password again at a login that finds an outdated hash (other rounds, another
//! scheme), and writes the whole column: a login with the old password that began before the change
//! was committed brings it back, with a mark and an acknowledgement that stay. Seen in 2.0.43, 2024.06.57
//! and master; 0.7 s at 13 rounds, some 8 s at 17. A proof right after the send is older than that
//! write, so where it can happen reads are in doubt until a second look.

use chrono::{DateTime, TimeDelta, Utc};

use crate::engine::storage::record::{Credential, FirstLook, Intent, SeenHash};
use crate::provider::StoredHash;

/// When to look again, where the hashes have up to 13 rounds; each further round doubles it.
const FIRST_LOOK: TimeDelta = TimeDelta::seconds(5);
/// Rounds that the pause is made for.
const USUAL_ROUNDS: u32 = 13;
/// Rounds beyond which nothing is checked: the pause grows no further.
const MOST_ROUNDS: u32 = 18;

/// What the look after the send has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// The hash that proved the candidate.
    pub(super) proof: Option<&'a StoredHash>,
    /// Nobody was reached: nothing was seen since the acknowledgement.
    pub(super) failed: bool,
}

/// Returns the look that a change needs before reads call it settled. `credential` is as it was
/// before the commit, `earlier` a look that waits already: the change may have been made again for
/// it, and what it was to find out is open in any case.
pub(super) fn first_look(
    intent: &Intent,
    credential: &Credential,
    seen: Seen<'_>,
    earlier: Option<FirstLook>,
    now: DateTime<Utc>,
) -> Option<FirstLook> {
    let proof = seen.proof.map(SeenHash::from);
    let may_be_undone =
        intent.is_emergency() || may_be_undone(intent, credential, proof.as_ref(), seen.failed);
    if !may_be_undone {
        return earlier;
    }
    let earlier =
        earlier.filter(|_| intent.source.is_some() && intent.source == credential.current);
    let before = match &earlier {
        // The value is the same: what may come back is what was current before both.
        Some(earlier) => earlier.before,
        None => credential.current,
    };
    Some(FirstLook {
        at: now + pause(intent, proof.as_ref()),
        before,
        times: earlier.map_or(0, |earlier| earlier.times.saturating_add(1)),
    })
}

fn may_be_undone(
    intent: &Intent,
    credential: &Credential,
    proof: Option<&SeenHash>,
    failed: bool,
) -> bool {
    // Where no hash is shown a second look would tell no more than the first.
    let Some(before) = &intent.before else {
        return false;
    };
    // It was acknowledged, and nobody has seen it since: where a hash can be read at all, the look is
    // the proof. Of another scheme nothing can be compared, which a look has shown, or will.
    let Some(proof) = proof else {
        return failed || before.rounds.is_some();
    };
    let known = credential.current_version();
    let known = known.and_then(|version| version.hash_fingerprint.as_ref());
    // A login in between has hashed the password again already, and others may be about to.
    let was_written = known.is_some_and(|known| *known != before.fingerprint);
    before.rounds != proof.rounds || was_written
}

fn pause(intent: &Intent, proof: Option<&SeenHash>) -> TimeDelta {
    let seen = intent.before.iter().chain(proof);
    let rounds = seen.filter_map(|hash| hash.rounds).max();
    let above = rounds
        .unwrap_or_default()
        .min(MOST_ROUNDS)
        .saturating_sub(USUAL_ROUNDS);
    FIRST_LOOK * (1 << above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::{decode_tenant, fixture};

    /// What the look after an acknowledgement has shown decides, and one that failed has shown nothing.
    #[test]
    fn a_change_that_nobody_saw_is_looked_at_and_a_look_that_waits_is_kept() {
        let record = decode_tenant("tenant/acme", fixture::TENANT_V4).unwrap();
        let (mut intent, credential) = (record.intent.unwrap(), record.credential.unwrap());
        intent.rotation_type = Some(crate::audit::RotationType::Manual);
        intent.before = Some(SeenHash {
            fingerprint: String::from("of another scheme"),
            rounds: None,
        });
        let waiting = FirstLook {
            at: fixture::now(),
            before: Some(1),
            times: 0,
        };
        let look = |failed, earlier| {
            let seen = Seen {
                proof: None,
                failed,
            };
            first_look(&intent, &credential, seen, earlier, fixture::now())
        };
        assert_eq!(look(false, None), None, "nothing can be compared");
        assert!(look(true, None).is_some());
        assert_eq!(look(false, Some(waiting.clone())), Some(waiting));
    }
}
