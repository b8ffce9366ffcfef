//! What the host's tick sets in motion.
//!
//! The host calls once a minute, on standbys too. The handler only asks for role and taint and
//! starts the run, which does everything else on a tracked task: ticks do no network work, and a
//! process that died is revived by the next one.

use std::sync::Arc;

use super::Engine;
use crate::logical::Mount;

impl Engine {
    /// Takes the host's tick. Returns within two questions to the host; never fails.
    pub(super) async fn tick(self: &Arc<Self>, mount: &Mount) {
        self.note_role(mount).await;
    }
}
