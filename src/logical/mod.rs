//! Vault's vocabulary in plain Rust: what a secrets engine is written against.
//!
//! Knows no gRPC, no protobuf and no sockets; `wire` joins it to a host. Together with
//! `goplugin` and `wire` it could be lifted into a crate of its own: nothing here knows SMTP.
//!
//! An engine implements [`Backend`], usually by a [`Router`] over a table of [`Route`]s, from
//! which help texts and the OpenAPI document are derived. One that is nothing but routes is a
//! [`RoutedBackend`] and implements no trait at all.

mod backend;
mod decode;
mod error;
pub mod expose;
mod field;
mod fields;
mod help;
mod identity;
pub mod instant;
mod lease;
mod memory;
mod openapi;
mod operation;
mod path;
mod raw;
mod request;
mod response;
mod routed;
mod router;
pub mod seconds;
mod storage;
mod strict;
mod system_view;

pub use backend::{Backend, BackendInfo, Mount, SpecialPaths};
pub use error::{Error, READ_ONLY};
pub use field::{Data, Field, FieldType};
pub use fields::{Fields, Patch};
pub use identity::{Alias, Entity, Group};
pub use lease::{ActiveNode, HeldLease, Lease, Wrap};
pub use memory::{MemoryStorage, Snapshot};
pub use operation::Operation;
pub use path::{Call, Endpoint, Existence, Handler, Pattern, Route, UnknownFields};
pub use raw::RawResponse;
pub use request::{Connection, Request, RequestId};
pub use response::{Reply, Response, Special};
pub use routed::RoutedBackend;
pub use router::{RouteError, Router};
pub use storage::{Storage, StorageEntry, StorageError};
pub(crate) use strict::distance_of_names;
pub use system_view::{
    Cluster, ReplicationState, ServerVersion, StaticSystemView, SystemView, SystemViewError,
};
