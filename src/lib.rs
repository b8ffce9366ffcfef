//! A secrets engine for HashiCorp Vault and OpenBao that owns the SMTP admin credential of every
//! tenant's Mailu server.
//!
//! The library is public for the crate's own tests only; the product is the plugin binary.
//!
//! Layers, each using only those below it:
//!
//! ```text
//! main
//!  ├─ wire ──── goplugin, logical, proto     the gRPC services Vault calls
//!  └─ engine ── provider, notify, host_api, audit, logical     the SMTP secrets engine
//!               network, crypto, clock, tasks, keyed_lock
//! ```

pub mod audit;
pub mod clock;
pub mod crypto;
pub mod engine;
pub mod goplugin;
pub mod host_api;
pub mod identifiers;
pub mod keyed_lock;
pub mod logical;
pub mod manual;
pub mod network;
pub mod notify;
pub mod proto;
pub mod provider;
pub mod tasks;
pub mod wire;
