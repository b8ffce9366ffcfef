//! Leases: what the host keeps the time of, renews and revokes.
//!
//! A host registers leases on the active node only; on a standby it answers 500 and has the
//! standby's plugin revoke at once what was just made (seen on OpenBao 2.7.2). So does a response
//! that forces wrapping. Neither is found out before the handler has done its work, hence
//! [`ActiveNode`]: the proof that this node is the active one, without which neither can be made.
//!
//! Renewal and revocation come as requests of their own, [`super::Operation::Renew`] and
//! [`super::Operation::Revoke`], to the path that issued the lease. They carry the data that was
//! answered then, and no caller.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Data;

/// Proof that this node may issue leases and force wrapping; made by
/// [`super::Mount::active_node`] only.
///
/// To be asked for before anything else is done: the error it fails with makes the host send the
/// whole request to the active node. A node that steps down restarts its plugins, so the proof
/// holds as long as the process works on the request.
#[derive(Debug)]
pub struct ActiveNode(pub(super) ());

/// A lease to be issued with an answer, or its renewal.
///
/// The host keeps `internal` and the answered data encrypted until the lease ends, and hands both
/// back. It caps both times by those of the mount and says so in a warning.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// How long the lease is to last; `None` = the mount's default.
    pub ttl: Option<Duration>,
    /// How long it may last with all its renewals; `None` = the mount's longest.
    pub max_ttl: Option<Duration>,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// What renewal and revocation need to know, never shown to a client.
    pub internal: Data,
    /// Absent in a new lease: `wire` stamps it.
    issue_time: Option<DateTime<Utc>>,
}

impl Lease {
    /// Builds a lease of the mount's default times that cannot be renewed.
    #[must_use]
    pub fn new(_proof: &ActiveNode) -> Self {
        Self {
            ttl: None,
            max_ttl: None,
            renewable: false,
            internal: Data::default(),
            issue_time: None,
        }
    }

    /// Sets how long it lasts.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets how long it lasts with all its renewals.
    #[must_use]
    pub const fn max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = Some(max_ttl);
        self
    }

    /// Lets it be renewed; the route then needs an endpoint for [`super::Operation::Renew`].
    #[must_use]
    pub const fn renewable(mut self) -> Self {
        self.renewable = true;
        self
    }

    /// Sets what renewal and revocation need to know.
    #[must_use]
    pub fn internal(mut self, internal: Data) -> Self {
        self.internal = internal;
        self
    }

    /// Returns when the lease was issued; `None` for a new one.
    #[must_use]
    pub const fn issue_time(&self) -> Option<DateTime<Utc>> {
        self.issue_time
    }
}

/// A lease the host hands back for renewal or revocation.
///
/// Made of what a host sends and of nothing else: a lease that is renewed needs no proof.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(test, derive(Default))]
#[non_exhaustive]
pub struct HeldLease {
    /// The host's name for it. `None` where it gives none: OpenBao 2.7.2 was seen to name a lease
    /// only once it had been renewed.
    pub id: Option<String>,
    /// How long it lasts, as the host granted it.
    pub ttl: Option<Duration>,
    /// How long it may last with all its renewals.
    pub max_ttl: Option<Duration>,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// For how long the client wants it renewed. The host caps its own answer by it.
    pub increment: Option<Duration>,
    /// When it was issued.
    pub issue_time: Option<DateTime<Utc>>,
    /// What was given to the host for this moment.
    pub internal: Data,
}

impl HeldLease {
    /// Renews on the same terms; `ttl` and the rest may be changed before it is answered.
    ///
    /// Needs no proof of an active node: a host asks no other.
    #[must_use]
    pub fn renewed(&self) -> Lease {
        Lease {
            ttl: self.ttl,
            max_ttl: self.max_ttl,
            renewable: self.renewable,
            internal: self.internal.clone(),
            issue_time: self.issue_time,
        }
    }
}

/// Response wrapping forced by the plugin: the client gets a single-use token only.
///
/// The host does not cap the time by the mount's; if the client asked as well, the shorter time
/// wins. Errors and answers without data are not wrapped; warnings are, with the rest. Source: seen on OpenBao 2.7.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrap(Duration);

impl Wrap {
    /// Wraps for `ttl`; zero is no wrapping.
    #[must_use]
    pub const fn new(_proof: &ActiveNode, ttl: Duration) -> Self {
        Self(ttl)
    }

    /// Returns how long the token lives.
    #[must_use]
    pub const fn ttl(self) -> Duration {
        self.0
    }
}
