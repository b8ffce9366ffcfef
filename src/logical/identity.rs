//! Who a caller is, as the host's identity store tells it.

use std::collections::BTreeMap;

/// A person or machine, whatever it logged in with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entity {
    /// The id that requests carry.
    pub id: String,
    /// Its name in the identity store.
    pub name: String,
    /// Its accounts at auth mounts.
    pub aliases: Vec<Alias>,
    /// What operators noted about it.
    pub metadata: BTreeMap<String, String>,
    /// Whether its tokens are refused.
    pub disabled: bool,
    /// The namespace it is in.
    pub namespace_id: String,
}

/// An account of an entity at one auth mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alias {
    /// The alias's own id.
    pub id: String,
    /// The account's name there.
    pub name: String,
    /// The type of the auth mount, for example `userpass`.
    pub mount_type: String,
    /// The auth mount.
    pub mount_accessor: String,
    /// What the auth mount tells about the account.
    pub metadata: BTreeMap<String, String>,
    /// What operators noted about the account.
    pub custom_metadata: BTreeMap<String, String>,
    /// The namespace it is in.
    pub namespace_id: String,
    /// Whether the auth mount is local to the cluster.
    pub local: bool,
}

/// A group of entities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The group's id.
    pub id: String,
    /// Its name in the identity store.
    pub name: String,
    /// What operators noted about it.
    pub metadata: BTreeMap<String, String>,
    /// The namespace it is in.
    pub namespace_id: String,
}
