//! [`WorkKey`]: what two requests must have in common to share work.

use crate::logical::Request;

/// How many requests may wait for one tenant, or have left work behind that goes on: all of it runs
/// before what comes later.
const PLACES: usize = 8;

/// The places of emergencies, for each tenant.
const EMERGENCY_PLACES: usize = 8;

/// The places of work that is about no tenant.
const MOUNT_PLACES: usize = 64;

/// What two requests must have in common to share work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct WorkKey {
    /// Empty if it is about the mount: no tenant has an empty name.
    pub(super) tenant: String,
    pub(super) path: String,
    /// Of the operation, the caller and every field; keyed.
    pub(super) digest: [u8; 32],
    pub(super) kept: Kept,
    /// The incident of an emergency.
    pub(super) emergency: Option<String>,
    /// Until it has stored what is asked for, nothing is promised.
    pub(super) promises: bool,
}

/// Whether an outcome that no request took waits for a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Kept {
    /// For a while: repeating the work would change something again. What belongs to a tenant is
    /// forgotten when something else happens to it.
    ForRepeats,
    /// The same until anybody else writes the path: what is there then is another thing.
    UntilWritten,
    /// Not at all: the outcome is a statement about now.
    No,
}

impl WorkKey {
    /// Makes it an emergency for this incident, with the places of its own.
    pub(in crate::engine) fn for_emergency(mut self, incident: &str) -> Self {
        self.emergency = Some(incident.to_owned());
        self
    }

    /// Makes it a question, of which nothing is stored: whoever stops waiting may join it again.
    pub(in crate::engine) const fn question(mut self) -> Self {
        self.promises = false;
        self
    }

    /// The same key for work on something that may have become another thing meanwhile.
    pub(in crate::engine) fn on(mut self, what: &str) -> Self {
        self.path.push('\0');
        self.path.push_str(what);
        self
    }

    pub(super) const fn places(&self) -> usize {
        match (&self.emergency, self.tenant.is_empty()) {
            (Some(_), _) => EMERGENCY_PLACES,
            (None, true) => MOUNT_PLACES,
            (None, false) => PLACES,
        }
    }

    /// Reports whether both take the same kind of place.
    pub(super) fn shares_places(&self, other: &Self) -> bool {
        self.tenant == other.tenant && self.emergency.is_some() == other.emergency.is_some()
    }
}

/// What a caller's token is told apart by. A caller of whom nothing is known is nobody but this
/// request's.
pub(in crate::engine) fn token_of(request: &Request) -> [&str; 3] {
    let accessor = request.client_token_accessor.expose().as_str();
    let token = request.client_token.expose().as_str();
    let unknown = accessor.is_empty() && token.is_empty() && request.entity_id.is_empty();
    let id = if unknown { request.id.as_str() } else { "" };
    [accessor, token, id]
}
