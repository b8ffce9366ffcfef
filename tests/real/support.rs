//! What is shared with the tests inside one process.

#[path = "../it/support/mailu.rs"]
pub(crate) mod mailu;
#[path = "../it/support/sinks.rs"]
#[expect(
    dead_code,
    reason = "the tests of each channel use more of it; there nothing is unused"
)]
pub(crate) mod sinks;
