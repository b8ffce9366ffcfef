//! How the engine is built and why, for engineers.
//!
//! The texts are part of the documentation build, so that their links into the code are checked.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("rotation.md")]
pub mod rotation {}

#[doc = include_str!("schedule.md")]
pub mod schedule {}

#[doc = include_str!("audit.md")]
pub mod audit {}

#[doc = include_str!("storage_format.md")]
pub mod storage_format {}

#[doc = include_str!("sdk.md")]
///
/// ## The example
///
/// ```text
#[doc = include_str!("../../tests/example/main.rs")]
/// ```
pub mod sdk {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("traps.md")]
pub mod traps {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("changelog.md")]
pub mod changelog {}
