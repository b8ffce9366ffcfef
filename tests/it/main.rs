//! The one integration binary; see the submodules.

#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::needless_pass_by_value,
    reason = "a test that meets the unexpected shall stop there and then, and has no API"
)]

mod audit_rules;
mod audit_verify;
mod batches;
mod channels;
mod emission;
mod endpoints;
mod foreign_storage;
mod formats;
mod handshake;
mod held_back;
mod hostile_neighbours;
mod hostile_peers;
mod keyring_faults;
mod layering;
mod lifecycle;
mod limiter;
mod manual;
mod monitoring;
mod mount_changes;
mod never_lost;
mod notices;
#[path = "../simulation/mod.rs"]
mod plot_of_400_days;
mod preflight;
mod readme;
mod refused_writes;
mod rotation_faults;
mod sdk;
mod simulation;
mod standin;
mod support;
mod transports;
