//! What several tests need.

pub mod host;
pub mod host_services;
pub mod probe;
