//! The Mailu stand-in, as the integration tests see it.

#[path = "../../standin/mod.rs"]
pub(crate) mod standin;
