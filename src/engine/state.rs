//! What a record says about its password: settled, uncertain or drift. Never a guess.

use serde::Serialize;

use super::storage::record::{Credential, Proof, TenantRecord, Version};
use crate::crypto::Sealed;

/// The state that reads answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The answered version was proven live and nothing was sent since.
    Settled,
    /// Something was sent whose outcome is open, or nothing was proven yet.
    Uncertain,
    /// Mailu was found to hold another password.
    Drift,
}

/// A stored password by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) number: u64,
    pub(super) sealed: &'a Sealed,
    pub(super) compromised: bool,
}

impl<'a> Stored<'a> {
    const fn of(version: &'a Version) -> Self {
        Self {
            number: version.number,
            sealed: &version.password,
            compromised: version.compromised.is_some(),
        }
    }
}

/// What a read of the credential answers.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) state: State,
    /// The password to use: the last proven one, or the newest if none ever was; in drift the
    /// live one, if it is known and not compromised.
    pub(super) answer: Stored<'a>,
    pub(super) version: Option<&'a Version>,
    /// In doubt: every value that may be live, newest first.
    pub(super) candidates: Vec<Stored<'a>>,
}

/// Every value that may be live while that is in doubt, newest first.
fn candidates<'a>(
    credential: &'a Credential,
    sent: Option<Stored<'a>>,
    current: Option<&'a Version>,
    answer: Stored<'a>,
) -> Vec<Stored<'a>> {
    let mut candidates: Vec<Stored<'a>> = sent.into_iter().collect();
    candidates.extend(current.map(Stored::of));
    if !current.is_some_and(is_proven) {
        // Nobody checked the current one: what was live before it may still be.
        let earlier = credential.versions.iter().rev();
        let mut proven = earlier
            .filter(|version| Some(version.number) != credential.current && is_proven(version));
        candidates.extend(proven.next().map(Stored::of));
    }
    if candidates.is_empty() {
        candidates.push(answer);
    }
    candidates
}

const fn is_proven(version: &Version) -> bool {
    !matches!(version.proof, Proof::None | Proof::Imported)
}

/// Derives the state of a credential; `None` if no password is stored at all.
pub(super) fn read<'a>(
    record: &'a TenantRecord,
    credential: &'a Credential,
) -> Option<Reading<'a>> {
    let sent = record.sent_intent().map(|intent| Stored {
        number: intent.version,
        sealed: &intent.candidate,
        compromised: false,
    });
    let current = credential.current_version();
    let newest = sent.or_else(|| credential.versions.last().map(Stored::of));
    let mut answer = current.map(Stored::of).or(newest)?;
    let mut version = current;
    let unproven = !current.is_some_and(is_proven);
    let state = if let Some(drift) = &credential.drift {
        let live = drift
            .live_version
            .and_then(|number| credential.version(number));
        if let Some(live) = live.filter(|live| live.compromised.is_none()) {
            answer = Stored::of(live);
            version = Some(live);
        }
        State::Drift
    } else if sent.is_some() || unproven {
        State::Uncertain
    } else {
        State::Settled
    };
    let candidates = if state == State::Uncertain {
        candidates(credential, sent, current, answer)
    } else {
        Vec::new()
    };
    Some(Reading {
        state,
        answer,
        version,
        candidates,
    })
}
