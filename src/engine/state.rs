//! What a record says about its password: settled, uncertain or drift. Never a guess.

use serde::Serialize;

use super::storage::record::{Credential, Intent, Proof, TenantRecord, Version};
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

const fn is_proven(version: &Version) -> bool {
    !matches!(version.proof, Proof::None | Proof::Imported)
}

/// Reports whether something was sent after the version was proven and then superseded: its proof
/// is none of now.
const fn is_shaken(version: &Version) -> bool {
    version.shaken
}

/// What reads say of a record; one without a credential is in no doubt about one.
pub(super) fn of(record: &TenantRecord) -> State {
    let credential = record.live_credential();
    let reading = credential.and_then(|credential| read(record, credential));
    reading.map_or(State::Settled, |reading| reading.state)
}

/// A compromised password is never the one to use, however live it is.
const fn is_settled(version: &Version) -> bool {
    is_proven(version) && !is_shaken(version) && version.compromised.is_none()
}

/// Derives the state of a credential, as its consumers see it: the password of an open emergency
/// reset is not for them. `None` if no password is stored at all.
pub(super) fn read<'a>(
    record: &'a TenantRecord,
    credential: &'a Credential,
) -> Option<Reading<'a>> {
    let shown = |intent: &&Intent| !intent.is_emergency();
    derive(record, credential, record.sent_intent().filter(shown))
}

/// Like [`read`], for a human who may see everything, an open emergency reset included.
pub(super) fn reveal<'a>(
    record: &'a TenantRecord,
    credential: &'a Credential,
) -> Option<Reading<'a>> {
    let shown = |intent: &&Intent| intent.sends > 0 || intent.is_emergency();
    derive(record, credential, record.intent.as_ref().filter(shown))
}

/// `shown` is the open change whose candidate is answered as well.
fn derive<'a>(
    record: &'a TenantRecord,
    credential: &'a Credential,
    shown: Option<&'a Intent>,
) -> Option<Reading<'a>> {
    // An emergency is in force from its announcement on.
    let intent = record.intent.as_ref();
    let intent = intent.filter(|it| it.sends > 0 || it.is_emergency());
    let sent = shown.map(|intent| Stored {
        number: intent.version,
        sealed: &intent.candidate,
        compromised: false,
    });
    let current = credential.current_version();
    let drift = credential.drift.as_ref();
    // A send after the drift was noticed may have ended it.
    let sent_since = intent.is_some_and(|intent| {
        let at = intent.last_sent_at.unwrap_or(intent.announced_at);
        drift.is_none_or(|drift| at > drift.since)
    });
    let state = if sent_since {
        State::Uncertain
    } else if drift.is_some() {
        State::Drift
    } else if record.open.confirm_first.is_some() {
        // What was proven may have been undone since.
        State::Uncertain
    } else if current.is_some_and(is_settled) {
        State::Settled
    } else {
        State::Uncertain
    };
    let version = drifted_to(credential)
        .or_else(|| last_proven(credential))
        .or(current);
    let newest = || sent.or_else(|| credential.versions.last().map(Stored::of));
    let answer = version.map(Stored::of).or_else(newest)?;
    let in_doubt = state == State::Uncertain || sent.is_some();
    let candidates = if in_doubt {
        let before = record.open.confirm_first.as_ref().and_then(|it| it.before);
        candidates(credential, sent, before, answer)
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

/// The stored version that Mailu was found to hold instead of the current one, if it may be used.
fn drifted_to(credential: &Credential) -> Option<&Version> {
    let live = credential.version(credential.drift.as_ref()?.live_version?)?;
    live.compromised.is_none().then_some(live)
}

/// The current version if it was proven, else the newest that was: an adopted password that could
/// not be checked must not hide one that is known to have been live.
fn last_proven(credential: &Credential) -> Option<&Version> {
    let current = credential
        .current_version()
        .filter(|version| is_proven(version));
    let usable = |version: &&Version| is_proven(version) && version.compromised.is_none();
    current.or_else(|| credential.versions.iter().rev().find(usable))
}

/// Every value that may be live while that is in doubt, newest first.
fn candidates<'a>(
    credential: &'a Credential,
    sent: Option<Stored<'a>>,
    before: Option<u64>,
    answer: Stored<'a>,
) -> Vec<Stored<'a>> {
    let current = credential.current_version();
    let shaken = current.filter(|version| is_shaken(version));
    let superseded = shaken.into_iter().flat_map(|current| {
        let newer = |version: &&Version| version.abandoned && version.number > current.number;
        credential.versions.iter().rev().filter(newer)
    });
    // Found live before something was sent over it; it may be a compromised one.
    let drifted = credential.drift.as_ref().and_then(|it| it.live_version);
    let drifted = drifted.and_then(|number| credential.version(number));
    let mut candidates: Vec<Stored<'a>> = Vec::new();
    let before = before.and_then(|number| credential.version(number));
    let kept = superseded.chain(current).chain(before).chain(drifted);
    let kept = kept.map(Stored::of);
    for stored in sent.into_iter().chain(kept).chain([answer]) {
        if candidates
            .iter()
            .all(|listed| listed.number != stored.number)
        {
            candidates.push(stored);
        }
    }
    candidates.sort_by_key(|stored| std::cmp::Reverse(stored.number));
    candidates
}
