//! The operations a host may ask for.

/// What the host wants done with a path. Closed: an unknown string is not an operation.
///
/// Source: OpenBao `sdk/logical/request.go`; `resolve-path` and `scan` were seen on OpenBao 2.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// POST or PUT where the existence check said "absent".
    Create,
    /// GET.
    Read,
    /// POST or PUT otherwise.
    Update,
    /// PATCH with a JSON merge patch.
    Patch,
    /// DELETE.
    Delete,
    /// LIST, or GET with `list=true`.
    List,
    /// SCAN, or GET with `scan=true`: a list of everything below. OpenBao only.
    Scan,
    /// GET with `help=1`.
    Help,
    /// HEAD; answered by a [`super::RawResponse`], whose body is not sent.
    Header,
    /// The host renews a lease, on the path that issued it.
    Renew,
    /// The host revokes a lease, on the path that issued it. Failing, it is tried again with
    /// growing pauses, six times; then the lease is kept as irrevocable.
    Revoke,
    /// The periodic tick, every 60 seconds.
    Rollback,
    /// OpenBao 2.7: asked before every request, before authentication, with the body included.
    ResolvePath,
    /// Auth engines only.
    ResolveRole,
    /// Auth engines only.
    AliasLookahead,
}

impl Operation {
    /// Every operation with its name on the wire.
    const NAMES: [(Self, &'static str); 15] = [
        (Self::Create, "create"),
        (Self::Read, "read"),
        (Self::Update, "update"),
        (Self::Patch, "patch"),
        (Self::Delete, "delete"),
        (Self::List, "list"),
        (Self::Scan, "scan"),
        (Self::Help, "help"),
        (Self::Header, "header"),
        (Self::Renew, "renew"),
        (Self::Revoke, "revoke"),
        (Self::Rollback, "rollback"),
        (Self::ResolvePath, "resolve-path"),
        (Self::ResolveRole, "resolve-role"),
        (Self::AliasLookahead, "alias-lookahead"),
    ];

    /// Parses the wire name; matches exactly.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(operation, _)| *operation)
    }

    /// Returns the wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == self)
            .map_or("unknown", |(_, name)| name)
    }
}
