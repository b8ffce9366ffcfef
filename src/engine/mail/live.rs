//! Which stored password is live: the hash checks, within what one server may cost.

use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::{Compared, Credential, Version};
use crate::provider::{Account, HashCheck, StoredHash};

/// Most hashes computed under one lock in the first look.
const MOST_CHECKS: usize = 11;

/// Most checks of this hash in one look: some six seconds of one of the few places in the pool, in
/// which the proofs of all servers wait for each other. From 15 rounds on those are the candidate
/// and the current version.
fn most_checks(hash: &StoredHash) -> usize {
    match hash.rounds() {
        None | Some(..=13) => MOST_CHECKS,
        Some(14) => 8,
        Some(15..) => 2,
    }
}

/// Which stored password an account's hash fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Live {
    /// The open intent's candidate.
    Candidate,
    /// The version with this number.
    Version(u64),
    /// None of them.
    None,
    /// It cannot be told: no hash, another scheme, or no answer.
    CannotTell,
    /// Not all of them were compared yet, and those that were do not fit. Decides nothing: the next
    /// look, within a minute, goes on.
    NotYet,
}

impl Live {
    /// Returns the number of the version that is live.
    pub(in crate::engine) const fn version(&self) -> Option<u64> {
        match self {
            Self::Version(number) => Some(*number),
            Self::Candidate | Self::None | Self::CannotTell | Self::NotYet => None,
        }
    }
}

impl LockedTenant {
    /// Finds which stored password the account's hash fits: the candidate, the current version,
    /// the doubtful ones, then the others from the newest. Under one lock at most 11 hashes are
    /// computed, and two for each further look: how much one costs is the server's choice. Of
    /// costly ones a look computes fewer: see [`most_checks`]. What was found not to fit this very
    /// hash is kept in the record, in memory, and not computed again.
    pub(in crate::engine) async fn find_live(&mut self, account: &Account) -> Result<Live, Error> {
        const ALWAYS: usize = 2;
        let Some(hash) = &account.hash else {
            return Ok(Live::CannotTell);
        };
        if let Some(credential) = &self.record.credential
            && let Some(number) = known_by_fingerprint(credential, hash)
        {
            return Ok(Live::Version(number));
        }
        let mut order = Vec::new();
        if let Some(intent) = &self.record.intent {
            order.push((Live::Candidate, intent.version, &intent.candidate));
        }
        if let Some(credential) = &self.record.credential {
            order.extend(by_likelihood(credential).map(|version| {
                (
                    Live::Version(version.number),
                    version.number,
                    &version.password,
                )
            }));
        }
        let mut compared = Compared::with(hash, self.record.open.compared.as_ref());
        order.retain(|(_, number, _)| !compared.versions.contains(number));
        let most = MOST_CHECKS
            .saturating_sub(self.hash_checks)
            .max(ALWAYS)
            .min(most_checks(hash));
        let all = order.len() <= most;
        let mut found = if all { Live::None } else { Live::NotYet };
        for (live, number, sealed) in order.into_iter().take(most) {
            if self.gives_way() {
                return Err(Error::GaveWay);
            }
            let password = self.open_password(number, sealed)?;
            self.hash_checks += 1;
            let pool = &self.engine.parts.hash_pool;
            match pool.check_of(self.server_name(), hash, &password).await {
                HashCheck::Fits => {
                    found = live;
                    break;
                }
                HashCheck::DoesNotFit => compared.versions.push(number),
                HashCheck::CannotTell(_) => return Ok(Live::CannotTell),
            }
        }
        self.record.open.compared = Some(compared);
        Ok(found)
    }
}

/// The version whose last proof was by exactly this hash text: no computation needed.
fn known_by_fingerprint(credential: &Credential, hash: &StoredHash) -> Option<u64> {
    let fingerprint = hash.fingerprint();
    let fits = |known: &Option<String>| known.as_deref() == Some(fingerprint.as_str());
    by_likelihood(credential)
        .find(|version| fits(&version.hash_fingerprint))
        .map(|version| version.number)
}

/// The versions, the likeliest to be live first: the current one (an adopted password may be that
/// of an earlier version as well), those whose sends are doubtful, the others from the newest.
fn by_likelihood(credential: &Credential) -> impl Iterator<Item = &Version> {
    let is_current = |version: &&Version| Some(version.number) == credential.current;
    let is_doubtful = |version: &&Version| version.doubtful || version.abandoned;
    let newest_first = || credential.versions.iter().rev();
    let others = move || newest_first().filter(move |version| !is_current(version));
    credential
        .current_version()
        .into_iter()
        .chain(others().filter(is_doubtful))
        .chain(others().filter(move |version| !is_doubtful(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_costlier_a_hash_the_fewer_checks_a_look_may_have() {
        for (rounds, most) in [
            (4, 11),
            (13, 11),
            (14, 8),
            (15, 2),
            (16, 2),
            (17, 11),
            (31, 11),
        ] {
            let text = format!(
                "$bcrypt-sha256$v=2,t=2b,r={rounds}$abcdefghijklmnopqrstuu${}",
                "a".repeat(31)
            );
            // From 17 on nothing is computed at all.
            assert_eq!(most_checks(&StoredHash::new(text)), most, "{rounds}");
        }
        assert_eq!(most_checks(&StoredHash::new(String::from("$6$"))), 11);
    }
}
