//! Which keys a stored entry depends on.

use std::collections::BTreeSet;

use crate::crypto::Sealed;

/// Returns the versions of the keyring that the ciphertexts of an entry were sealed by.
///
/// Looks at every string of the entry and not at the fields that this build knows: a key must
/// never go while anything depends on it. A string that somebody made to look like a ciphertext
/// counts as well, which errs on the same side.
pub(crate) fn sealed_by(entry: &[u8]) -> BTreeSet<u32> {
    // JSON writes a ciphertext without escapes, so it is what stands between two quotes.
    entry
        .split(|byte| *byte == b'"')
        .filter_map(|piece| std::str::from_utf8(piece).ok()?.parse().ok())
        .map(|sealed: Sealed| sealed.key_version())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;

    #[test]
    fn every_ciphertext_of_a_record_is_seen_wherever_it_stands() {
        assert_eq!(sealed_by(fixture::TENANT_V1), BTreeSet::from([1]));
        let text = std::str::from_utf8(fixture::TENANT_V1).unwrap();
        let places: Vec<usize> = text.match_indices("\"v1:").map(|(at, _)| at).collect();
        assert_eq!(
            places.len(),
            5,
            "token, two versions, candidate, target's token"
        );
        for place in places {
            let mut changed = fixture::TENANT_V1.to_vec();
            changed[place + 2] = b'7';
            assert_eq!(sealed_by(&changed), BTreeSet::from([1, 7]));
        }
        assert_eq!(
            sealed_by(b"{\"reason\":\"v1:soon\",\"x\":\"v1\"}"),
            BTreeSet::new()
        );
    }
}
