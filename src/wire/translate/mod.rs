//! Messages to the vocabulary of [`crate::logical`] and back; total in both directions.
//!
//! Whatever a host sends is translated or refused with an error, and nothing that an engine answers
//! is a message the host fails on. Unknown operations are refused; unknown fields are dropped by
//! the protobuf library; what is absent or makes no sense (negative durations, instants no host
//! has) is `None`.
//!
//! Public for the fuzzers, which are a crate of their own; no part of what an engine is to use.
//!
//! Source: OpenBao `sdk/plugin/pb/translation.go`; what becomes of an answer at the client was seen
//! on OpenBao 2.7.2.

mod identity;
mod json;
mod lease;
mod request;
mod response;
mod time;

pub(super) use identity::{entity, group};
pub use request::request;
pub use response::{error, existence, reply, special_paths};
pub(super) use time::duration;

#[cfg(test)]
mod tests;
