//! What several tests share.

pub(crate) mod devices;
pub(crate) mod engine;
pub(crate) mod envelopes;
pub(crate) mod faults;
pub(crate) mod host;
pub(crate) mod host_mux;
pub(crate) mod host_services;
pub(crate) mod mailbox;
pub(crate) mod mailu;
pub(crate) mod notices;
pub(crate) mod probe;
pub(crate) mod sinks;
pub(crate) mod strangers;
pub(crate) mod world;
