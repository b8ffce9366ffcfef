//! Entities and groups, from the host.

use crate::logical::{Alias, Entity, Group};
use crate::proto::logical as wire;

pub(in crate::wire) fn entity(entity: wire::Entity) -> Entity {
    Entity {
        id: entity.id,
        name: entity.name,
        aliases: entity.aliases.into_iter().map(alias).collect(),
        metadata: entity.metadata.into_iter().collect(),
        disabled: entity.disabled,
        namespace_id: entity.namespace_id,
    }
}

fn alias(alias: wire::Alias) -> Alias {
    Alias {
        id: alias.id,
        name: alias.name,
        mount_type: alias.mount_type,
        mount_accessor: alias.mount_accessor,
        metadata: alias.metadata.into_iter().collect(),
        custom_metadata: alias.custom_metadata.into_iter().collect(),
        namespace_id: alias.namespace_id,
        local: alias.local,
    }
}

pub(in crate::wire) fn group(group: wire::Group) -> Group {
    Group {
        id: group.id,
        name: group.name,
        metadata: group.metadata.into_iter().collect(),
        namespace_id: group.namespace_id,
    }
}
