//! What the host's tick sets in motion.
//!
//! The host calls once a minute, on standbys too. The handler only asks for role and taint and
//! starts the run, which does everything else on a tracked task: ticks do no network work, and a
//! process that died is revived by the next one.

mod rewrap;

use std::sync::Arc;

use super::Engine;
use crate::logical::Mount;
pub(super) use rewrap::{Rewrap, RewrapProgress};

impl Engine {
    /// Takes the host's tick. Returns within two questions to the host; never fails.
    pub(super) async fn tick(self: &Arc<Self>, mount: &Mount) {
        self.note_role(mount).await;
        let (engine, mount) = (Arc::clone(self), mount.clone());
        self.tasks
            .spawn(async move { engine.rewrap_slice(&mount).await });
    }
}
